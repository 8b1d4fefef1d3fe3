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
    block_on(check(&config(text), Purpose::Start))
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
fn patterns_that_match_nothing_now_are_warnings_and_what_they_leave_out_is_noted() {
    in_netns(|| {
        veth_pair();
        let report = preflight("interfaces = ['lab0', 'ens*', 'default-route', 'l*']");
        assert_eq!(report.errors().count(), 0, "{report}");
        for warning in ["ens* matches no interface now", "there is no default route"] {
            assert_eq!(found(&report, warning).severity, Severity::Warning);
        }
        assert_eq!(
            found(&report, "note: lo is left out").severity,
            Severity::Ok
        );
        found(&report, "lab1 is down");
        run("ip", "link set lab1 up");
        run("ip", "route add default via 192.0.2.9 dev lab0");
        let report = preflight("interfaces = ['default-route', 'lab*']");
        found(&report, "lab0 (by default-route): up");
        found(&report, "lab1 (by lab*): up");
        run("ip", "link set lab0 mtu 9000");
        for (mode, words) in [("auto", "generic mode"), ("native", "does not start")] {
            let report = preflight(&format!("interfaces = ['lab0']\nxdp_mode = '{mode}'"));
            let finding = found(&report, "has an MTU of 9000");
            assert!(finding.what.contains(words), "{report}");
            assert_eq!(finding.severity, Severity::Ok);
        }
        let report = preflight("interfaces = ['lab0']\nxdp_mode = 'generic'");
        assert!(
            report
                .findings
                .iter()
                .all(|f| !f.what.contains("has an MTU"))
        );
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
        rx_packets: 0,
    };
    let mut report = Preflight::default();
    let config = config("interfaces = ['lab0']");
    let links = vec![link];
    let network = Network {
        selection: select(&config.interfaces, &links, &BTreeSet::new()),
        links,
        addresses: Vec::new(),
    };
    interfaces(&mut report, &config, &network, Purpose::Plan);
    assert_eq!(report.findings.len(), 1);
    assert!(
        report.findings[0]
            .what
            .contains("another XDP program: id 4294967295"),
        "{report}"
    );
}

#[test]
fn netmoats_own_program_is_an_error_at_the_start_and_a_note_before() {
    for (purpose, severity, words) in [
        (Purpose::Start, Severity::Error, "already running on it"),
        (
            Purpose::Plan,
            Severity::Ok,
            "note: netmoat runs on lab0 now",
        ),
    ] {
        let mut report = Preflight::default();
        foreign_xdp(&mut report, "lab0", 7, "xdpdrv", Some(XDP_PROGRAM), purpose);
        assert_eq!(found(&report, words).severity, severity);
        // Somebody else's stays in the way of the next start too.
        foreign_xdp(&mut report, "lab0", 8, "xdpdrv", Some("other"), purpose);
        assert_eq!(
            found(&report, "another XDP program").severity,
            Severity::Error
        );
    }
}

/// A neighbour in the config that is elsewhere as the kernel knows it would be lost to the host.
#[test]
fn neighbours_in_the_config_are_compared_with_the_kernels() {
    in_netns(|| {
        veth_pair();
        run("ip", "link set lab1 up");
        let entry = "lladdr 02:00:00:00:00:05 dev lab0 nud";
        run("ip", &format!("neigh add 192.0.2.9 {entry} reachable"));
        run("ip", "neigh add 192.0.2.8 dev lab0 nud failed");
        run("ip", "route add default via 192.0.2.9 dev lab0");
        let with = |neighbor: &str| {
            preflight(&format!(
                "interfaces = ['lab0']\n[[neighbor]]\n{neighbor}\nmacs = ['02:00:00:00:00:06']"
            ))
        };
        let report = with("address = '192.0.2.9'");
        let finding = found(&report, "192.0.2.9 on lab0");
        assert_eq!(finding.severity, Severity::Warning, "{report}");
        for words in [
            "next hop of a default route",
            "is at 02:00:00:00:00:05",
            "(REACHABLE)",
            "at 02:00:00:00:00:06 as [[neighbor]]",
        ] {
            assert!(finding.what.contains(words), "{report}");
        }
        let remedy = finding.remedy.as_deref().expect("a remedy");
        assert!(
            remedy.contains("`macs` of [[neighbor]] 192.0.2.9 in test.toml"),
            "{report}"
        );
        let report = with("address = '192.0.2.1'");
        let finding = found(&report, "192.0.2.1 is an address of this host on lab0");
        assert_eq!(finding.severity, Severity::Warning, "{report}");
        for neighbor in [
            // No usable entry, none at all, another VLAN.
            "address = '192.0.2.8'",
            "address = '192.0.2.7'",
            "address = '192.0.2.9'\nvlan = 7",
        ] {
            let report = with(neighbor);
            let fit = |finding: &Finding| finding.severity == Severity::Ok;
            assert!(report.findings.iter().all(fit), "{neighbor}: {report}");
        }
        let off = "interfaces = ['lab0']\narp.mode = 'off'\n[[neighbor]]\naddress = '192.0.2.9'\n\
                   macs = ['02:00:00:00:00:06']";
        let report = preflight(off);
        let note = found(&report, "nothing is held to [[neighbor]] 192.0.2.9");
        assert_eq!(note.severity, Severity::Ok, "{report}");
    });
}

#[test]
fn a_gateway_that_the_ra_guard_would_refuse_is_named() {
    in_netns(|| {
        veth_pair();
        run("ip", "link set lab1 up");
        run("ip", "-6 route add default via fe80::5 dev lab0");
        let report = preflight("interfaces = ['lab0']\nndp.routers = ['fe80::1']");
        let finding = found(&report, "fe80::5 on lab0");
        assert_eq!(finding.severity, Severity::Warning, "{report}");
        let remedy = finding.remedy.as_deref().expect("a remedy");
        assert!(
            remedy.starts_with("add \"fe80::5\" to `routers`"),
            "{report}"
        );
        for fit in [
            "",
            "ndp.routers = ['fe80::1', 'fe80::5']",
            "ndp.routers = ['fe80::1']\nndp.mode = 'off'",
            "[[neighbor]]\naddress = 'fe80::5'\nmacs = ['02:00:00:00:00:05']\nrouter = true",
        ] {
            let report = preflight(&format!("interfaces = ['lab0']\n{fit}"));
            let named = |finding: &Finding| finding.what.contains("fe80::5 on");
            assert!(!report.findings.iter().any(named), "{fit}: {report}");
        }
    });
}

#[test]
fn asking_neighbours_wants_a_capability_of_its_own() {
    let without = CAP_BPF | CAP_NET_ADMIN | CAP_PERFMON;
    let off = "\narp.mode = 'off'\nndp.mode = 'off'";
    for (guards, effective, missing) in [
        ("", without, Some("CAP_NET_RAW")),
        ("\narp.mode = 'off'", without, Some("CAP_NET_RAW")),
        (off, without, None),
        (off, CAP_NET_ADMIN, Some("CAP_BPF, CAP_PERFMON")),
        ("", without | CAP_NET_RAW, None),
        ("", CAP_SYS_ADMIN | CAP_NET_ADMIN | CAP_NET_RAW, None),
    ] {
        let config = config(&format!("interfaces = ['lab0']{guards}"));
        let mut report = Preflight::default();
        capabilities(&mut report, &config, effective);
        let [finding] = &report.findings[..] else {
            panic!("{report}")
        };
        assert_eq!(finding.permission, missing.is_some(), "{report}");
        if let Some(missing) = missing {
            assert!(finding.what.ends_with(missing), "{report}");
            let remedy = finding.remedy.as_deref().expect("a remedy");
            assert_eq!(remedy.contains("cap_net_raw"), guards != off, "{report}");
        }
    }
}

#[test]
fn that_processes_of_others_will_have_no_name_is_a_warning() {
    for (effective, missing) in [
        (
            CAP_BPF,
            Some("without CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE "),
        ),
        (CAP_DAC_READ_SEARCH, Some("without CAP_SYS_PTRACE ")),
        (CAP_DAC_READ_SEARCH | CAP_SYS_PTRACE, None),
    ] {
        let mut report = Preflight::default();
        names_of_processes(&mut report, effective);
        let told = report.findings.first();
        assert_eq!(told.is_some(), missing.is_some(), "{report}");
        if let (Some(finding), Some(missing)) = (told, missing) {
            assert_eq!(finding.severity, Severity::Warning);
            assert!(finding.what.starts_with(missing), "{report}");
        }
    }
}

#[test]
fn the_state_directory_is_looked_at_and_not_made() {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let directory = tempfile::tempdir().expect("a directory");
    let inside = directory.path().join("netmoat");
    let look = |path: &Path| {
        let mut report = Preflight::default();
        neighbors::state_dir(&mut report, path);
        assert_eq!(report.findings.len(), 1, "{report}");
        report.findings.remove(0)
    };
    assert_eq!(look(&inside).severity, Severity::Ok);
    assert!(!inside.exists());
    let finding = look(&inside.join("deeper"));
    assert!(finding.what.contains("cannot be made"), "{finding}");
    assert_eq!(finding.severity, Severity::Warning);
    std::fs::create_dir(&inside).expect("a directory");
    for (mode, owner, words) in [
        (0o700, 0, None),
        (0o755, 0, None),
        (0o720, 0, Some("others may write")),
        (0o702, 0, Some("others may write")),
        (0o700, 65534, Some("belongs to uid 65534")),
    ] {
        std::fs::set_permissions(&inside, Permissions::from_mode(mode)).expect("chmod");
        chown(&inside, Some(owner), None).expect("chown: run as root");
        let finding = look(&inside);
        match words {
            None => assert_eq!(finding.severity, Severity::Ok, "{finding}"),
            Some(words) => assert!(finding.what.contains(words), "{finding}"),
        }
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("a file");
    assert!(look(&file).what.contains("is no directory"));
}

fn set(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).expect(name);
}

/// The kernel's look-up answers nothing where it does not forward.
#[test]
fn the_reverse_path_is_refused_where_the_kernel_cannot_tell_it() {
    in_netns(|| {
        veth_pair();
        let text = "interfaces = ['lab0']\n[ip]\nreverse_path = 'loose'";
        for (ipv4, ipv6, errors) in [("0", "0", 2), ("1", "0", 1), ("0", "1", 1), ("1", "1", 0)] {
            set("ipv4/conf/lab0/forwarding", ipv4);
            set("ipv6/conf/lab0/forwarding", ipv6);
            let report = preflight(text);
            let refused = report.errors().filter(|f| f.what.contains("reverse_path"));
            assert_eq!(refused.count(), errors, "{ipv4} {ipv6}: {report}");
        }
        set("ipv4/conf/lab0/forwarding", "0");
        set("ipv6/conf/lab0/forwarding", "0");
        let report = preflight(text);
        let finding = found(&report, "net.ipv4.conf.lab0.forwarding is 0");
        let remedy = finding.remedy.as_deref().expect("a remedy");
        assert!(
            remedy.contains("net.ipv4.conf.lab0.rp_filter=1"),
            "{remedy}"
        );
        found(&report, "net.ipv6.conf.lab0.forwarding is 0");
        for unaffected in [
            "interfaces = ['lab0']",
            "interfaces = ['lab0']\n[ip]\nmode = 'off'\nreverse_path = 'loose'",
        ] {
            let report = preflight(unaffected);
            assert_eq!(report.errors().count(), 0, "{report}");
        }
        set("ipv6/conf/lab0/disable_ipv6", "1");
        assert_eq!(preflight(text).errors().count(), 1, "no IPv6, no error");
    });
}

#[test]
fn a_strict_reverse_path_is_refused_below_another_interface() {
    in_netns(|| {
        veth_pair();
        set("ipv4/conf/lab0/forwarding", "1");
        set("ipv6/conf/lab0/forwarding", "1");
        let errors = |mode: &str| {
            let text = format!("interfaces = ['lab0']\n[ip]\nreverse_path = '{mode}'");
            preflight(&text).errors().count()
        };
        assert_eq!((errors("strict"), errors("loose")), (0, 0));
        run("ip", "link add lab2 type bridge");
        run("ip", "link set lab0 master lab2");
        assert_eq!((errors("strict"), errors("loose")), (1, 0));
    });
}

#[test]
fn what_the_host_leaves_to_the_guards_is_noted() {
    in_netns(|| {
        veth_pair();
        set("ipv4/conf/lab0/forwarding", "0");
        let text = "interfaces = ['lab0']\n[udp]\nservers = ['192.0.2.1', '192.0.2.53']";
        let report = preflight(text);
        found(
            &report,
            "192.0.2.1 in `servers` of [udp] is an address of this host",
        );
        assert!(!report.to_string().contains("192.0.2.53 in"), "{report}");
        assert!(!report.to_string().contains("left alone"), "{report}");
        set("ipv4/conf/lab0/accept_local", "1");
        found(&preflight(text), "accept_local is on for lab0");
        rules(
            "table ip t { chain c { type nat hook prerouting priority 0; tcp dport 81 redirect to :80\n}\n}\n",
        );
        found(&preflight(text), "table ip t of nftables translates");
        set("ipv4/conf/lab0/forwarding", "1");
        found(&preflight(text), "this host forwards");
    });
}

#[test]
fn a_start_is_kept_from_cutting_the_host_off_and_warned_of_the_rest() {
    in_netns(|| {
        veth_pair();
        for (blocked, at_start) in [
            ("198.51.100.53", Severity::Warning),
            ("192.0.2.1", Severity::Error),
            ("0.0.0.0/0", Severity::Error),
        ] {
            let text = format!(
                "interfaces = ['lab0']\n[udp]\nservers = ['198.51.100.53']\n[lists]\nblock = ['{blocked}']"
            );
            for (purpose, severity) in
                [(Purpose::Start, at_start), (Purpose::Plan, Severity::Error)]
            {
                let report = block_on(check(&config(&text), purpose));
                let finding = found(&report, "[lists] in the config");
                assert_eq!(
                    finding.severity, severity,
                    "{blocked}, {purpose:?}: {finding}"
                );
            }
        }
    });
}
