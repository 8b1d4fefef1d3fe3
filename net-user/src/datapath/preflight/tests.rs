//! Hosts that are refused, and one that is not.

use super::*;
use crate::config::{Config, Overrides};
use crate::host::links::XdpProgram;
use crate::host::testing::{block_on, in_netns, run};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

fn config(text: &str) -> Config {
    Config::parse(Path::new("test.toml"), text, &Overrides::default()).expect("a config")
}

fn preflight(text: &str) -> Preflight {
    block_on(check(&config(text)))
}

fn rules(text: &str) {
    let mut nft = std::process::Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft");
    nft.stdin
        .take()
        .expect("a pipe")
        .write_all(text.as_bytes())
        .expect("write");
    assert!(nft.wait().expect("nft").success(), "{text}");
}

fn veth_pair() {
    run("ip", "link add lab0 type veth peer name lab1");
    run("ip", "link set lab0 up");
    run("ip", "addr add 192.0.2.1/24 dev lab0");
}

fn found<'a>(report: &'a Preflight, text: &str) -> &'a Finding {
    report
        .findings
        .iter()
        .find(|finding| finding.what.contains(text))
        .unwrap_or_else(|| panic!("{text}: {report}"))
}

#[test]
fn a_fit_host_passes_every_check() {
    in_netns(|| {
        veth_pair();
        let report = preflight("interfaces = ['lab0']");
        assert!(
            report
                .findings
                .iter()
                .all(|finding| finding.severity == Severity::Ok),
            "{report}"
        );
        found(&report, "bpf_sk_assign_tcp_reqsk is there");
        found(&report, "lab0: up, MTU 1500");
    });
}

#[test]
fn weak_neighbour_settings_are_notes_where_they_are_defaults() {
    in_netns(|| {
        veth_pair();
        run("sysctl", "-qw net.ipv4.conf.lab0.accept_redirects=1");
        run("sysctl", "-qw net.ipv4.conf.all.arp_accept=1");
        let report = preflight("interfaces = ['lab0', 'lab1']");
        let redirects = found(&report, "net.ipv4.conf.lab0.accept_redirects is 1");
        assert_eq!(
            (redirects.severity, &redirects.remedy),
            (Severity::Ok, &None)
        );
        let accept = found(&report, "net.ipv4.conf.all.arp_accept is 1");
        assert_eq!(accept.severity, Severity::Warning);
        assert_eq!(
            accept.remedy.as_deref(),
            Some("`sysctl -w net.ipv4.conf.all.arp_accept=0`")
        );
        let count = |report: &Preflight| {
            let all = report.findings.iter();
            all.filter(|f| f.what.contains(".arp_accept")).count()
        };
        assert_eq!(count(&report), 1, "told once: {report}");
        let off = "interfaces = ['lab0']\narp.mode = 'off'\nndp.mode = 'off'";
        assert_eq!(count(&preflight(off)), 0);
    });
}

#[test]
fn every_unfit_setting_is_found_at_once() {
    in_netns(|| {
        veth_pair();
        run("sysctl", "-qw net.ipv4.tcp_syncookies=0");
        run("sysctl", "-qw net.netfilter.nf_conntrack_tcp_loose=0");
        let report = preflight("interfaces = ['lab0', 'lab1', 'lab9']");
        assert_eq!(report.errors().count(), 3, "{report}");
        assert_eq!(found(&report, "lab1 is down").severity, Severity::Warning);
        assert!(
            found(&report, "lab9: no such interface")
                .what
                .contains("lo, lab1, lab0"),
            "{report}"
        );
        for (what, remedy) in [
            (
                "tcp_syncookies is 0",
                "`sysctl -w net.ipv4.tcp_syncookies=1`",
            ),
            (
                "nf_conntrack_tcp_loose is 0",
                "`sysctl -w net.netfilter.nf_conntrack_tcp_loose=1`",
            ),
        ] {
            let finding = found(&report, what);
            assert_eq!(finding.remedy.as_deref(), Some(remedy));
            assert!(finding.severity == Severity::Error && !finding.permission);
        }
    });
}

#[test]
fn rules_in_the_way_are_found_on_protected_ports_and_lifted_again() {
    let input = |rules: &str| {
        format!(
            "table inet filter {{\nchain input {{\ntype filter hook input priority filter\n{rules}\n}}\n}}\n"
        )
    };
    let nat = |rules: &str| {
        format!(
            "table ip nat {{\nchain pre {{\ntype nat hook prerouting priority dstnat\n{rules}\n}}\n}}\n"
        )
    };
    let new_not_syn = "tcp flags & (fin|syn|rst|ack) != syn ct state new drop";
    let table = [
        (
            input(new_not_syn),
            "do not begin with a SYN",
            Some(Severity::Error),
        ),
        (
            input(&format!("tcp dport 8080 accept\n{new_not_syn}")),
            "do not begin with a SYN",
            Some(Severity::Error),
        ),
        (
            input(&format!("iifname lo {new_not_syn}")),
            "do not begin with a SYN",
            None,
        ),
        (
            input(&format!("tcp dport 25 {new_not_syn}")),
            "do not begin with a SYN",
            None,
        ),
        (
            input("ct state vmap { established : accept, related : accept, invalid : drop }"),
            "INVALID",
            None,
        ),
        (
            input(
                "policy drop\nct state established accept\ntcp dport 8080 tcp flags & (syn|ack) == syn accept",
            ),
            "by their SYN only",
            Some(Severity::Error),
        ),
        (
            nat("tcp dport 8080 redirect to :80"),
            "on port 8080 sends connections elsewhere",
            Some(Severity::Error),
        ),
        (
            nat("tcp dport 8081 redirect to :80"),
            "sends connections elsewhere",
            None,
        ),
        (
            nat("ip daddr 198.51.100.7 tcp dport 8080 dnat to 10.0.0.1"),
            "sends connections elsewhere",
            None,
        ),
        (
            input(
                "tcp dport 8080 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm",
            ),
            "synproxy",
            Some(Severity::Warning),
        ),
    ];
    let config = "interfaces = ['lab0']\n[[listener]]\nport = 8081\nmode = 'off'\n";
    in_netns(|| {
        veth_pair();
        let _listeners =
            [8080, 8081].map(|port| TcpListener::bind(("0.0.0.0", port)).expect("bind"));
        for (ruleset, what, severity) in table {
            rules(&ruleset);
            let report = preflight(config);
            let finding = report
                .findings
                .iter()
                .find(|finding| finding.what.contains(what));
            assert_eq!(
                finding.map(|finding| finding.severity),
                severity,
                "{ruleset}{report}"
            );
            rules("flush ruleset");
            assert_eq!(preflight(config).errors().count(), 0, "{ruleset}");
        }
    });
}

#[test]
fn a_foreign_xdp_program_is_named() {
    let link = Link {
        index: 7,
        name: "lab0".into(),
        mtu: 1500,
        up: true,
        carrier: true,
        mac: Some([2, 0, 0, 0, 0, 7]),
        kind: None,
        lower: None,
        vlan_id: None,
        controller: None,
        xdp: Some(XdpProgram {
            id: u32::MAX,
            mode: XdpMode::Native,
        }),
    };
    let mut report = Preflight::default();
    interfaces(&mut report, &config("interfaces = ['lab0']"), &[link]);
    assert_eq!(report.findings.len(), 1);
    assert!(
        report.findings[0]
            .what
            .contains("another XDP program: id 4294967295"),
        "{report}"
    );
}
