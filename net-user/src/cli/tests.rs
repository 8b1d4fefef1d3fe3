use clap::CommandFactory as _;
use net_common::verdict::{COUNTERS, Reason};

use super::*;
use crate::config::GuardMode;
use crate::config::guards::ReversePath;
use crate::control::drops::DropTotals;
use crate::control::protocol::{
    AuditEntry, AuditVerdict, BindingHistory, BindingOrigin, BindingState, Counters, DropRate,
    DropsAtAGlance, Event, EventLevel, Events, GuardsAtAGlance, Health, InterfaceStatus,
    KernelSetting, NeighborAudit, NeighborBinding, Neighbors, NeighborsAtAGlance, NeighborsChanged,
    SourcesAtAGlance, Status, VERSION,
};
use crate::privileges::Privileges;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_shows_examples_in_its_help() {
    fn walk(command: &mut clap::Command) {
        if command.has_subcommands() {
            command
                .get_subcommands_mut()
                .filter(|sub| sub.get_name() != "help")
                .for_each(walk);
        } else {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:\n  netmoat "), "{help}");
        }
    }
    let mut command = Cli::command();
    command.build();
    walk(&mut command);
}

/// Clap would wrap them again, at another width than we did.
#[test]
fn examples_fit_a_terminal() {
    fn walk(command: &clap::Command) {
        let after = command.get_after_help().map(ToString::to_string);
        for line in after.unwrap_or_default().lines() {
            assert!(line.chars().count() < 80, "{}: {line}", command.get_name());
        }
        command.get_subcommands().for_each(walk);
    }
    let command = Cli::command();
    for sub in command.get_subcommands() {
        if !["block", "allow"].contains(&sub.get_name()) {
            walk(sub);
        }
    }
}

#[test]
fn usage_errors_exit_with_2() {
    for args in [
        &["netmoat", "frobnicate"][..],
        &["netmoat", "mode"],
        &["netmoat", "mode", "enforced"],
        &["netmoat", "run", "--xdp-mode", "skb"],
        &["netmoat", "-o", "xml", "status"],
        &["netmoat", "key"],
        &["netmoat", "neighbor"],
        &["netmoat", "neighbor", "pin"],
        &["netmoat", "neighbor", "pin", "gateway"],
        &["netmoat", "neighbor", "pin", "192.0.2.1", "02:00"],
        &["netmoat", "neighbor", "pin", "192.0.2.1", "--vlan", "4095"],
        &["netmoat", "neighbor", "unpin"],
        &["netmoat", "block"],
        &["netmoat", "block", "add"],
        &["netmoat", "block", "add", "192.0.2.1/24"],
        &["netmoat", "block", "add", "192.0.2.1", "--for", "soon"],
        &["netmoat", "block", "add", "192.0.2.1", "--for", "0s"],
        &["netmoat", "block", "add", "192.0.2.1", "--reason", "a # b"],
        &["netmoat", "block", "add", "192.0.2.1", "--list", "../x"],
        &["netmoat", "allow", "del"],
        &["netmoat", "allow", "list", "192.0.2.1", "--names"],
        &["netmoat", "block", "import"],
        &["netmoat", "events", "--after", "-1"],
        &["netmoat", "events", "--alerts", "--drops"],
        &["netmoat", "events", "--alerts", "--reason", "tcp_flags"],
        &["netmoat", "explain", "tcp_flags", "--frame", "00"],
        &["netmoat", "explain", "--interface", "eth0"],
        &["netmoat", "explain", "--frame", "00", "--packet", "0"],
        &["netmoat", "capture"],
        &["netmoat", "capture", "-w", "-", "--count", "0"],
        &["netmoat", "capture", "-w", "-", "--for", "10"],
        &["netmoat"],
    ] {
        let error = Cli::try_parse_from(args).expect_err(&args.join(" "));
        assert_eq!(error.exit_code(), Code::Usage as i32, "{args:?}");
    }
}

#[test]
fn global_options_may_follow_the_verb() {
    let cli =
        Cli::try_parse_from(["netmoat", "status", "-o", "json", "--socket", "/tmp/s"]).unwrap();
    assert_eq!(cli.global.output, Format::Json);
    assert_eq!(cli.global.client().socket(), std::path::Path::new("/tmp/s"));
}

#[test]
fn run_takes_several_interfaces_and_hands_its_overrides_on() {
    let cli = Cli::try_parse_from([
        "netmoat",
        "run",
        "-i",
        "eth0",
        "-i",
        "eth1",
        "--mode",
        "observe",
        "--xdp-mode",
        "generic",
        "--socket",
        "/tmp/s",
    ])
    .unwrap();
    let Command::Run { config } = cli.command else {
        panic!("not run")
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("netmoat.toml");
    std::fs::write(&file, "interfaces = [\"eth9\"]\n[syn]\nburst = 9\n").unwrap();
    let config = ConfigArgs {
        config: Some(file),
        ..config
    }
    .load(&cli.global)
    .unwrap();
    assert_eq!(
        crate::config::interface::list(&config.interfaces),
        "eth0, eth1"
    );
    assert_eq!(
        (config.mode, config.xdp_mode),
        (Mode::Observe, XdpMode::Generic)
    );
    assert_eq!(config.socket, std::path::Path::new("/tmp/s"));
    assert_eq!(config.syn.default.burst, 9);
}

#[test]
fn a_wrong_config_exits_with_1() {
    let cli = Cli::try_parse_from(["netmoat", "check", "-c", "/nonexistent.toml"]).unwrap();
    let failure = cli.execute().unwrap_err();
    assert_eq!(failure.code, Code::Error);
    assert!(
        failure.to_string().contains("/nonexistent.toml"),
        "{failure}"
    );
}

fn status() -> Status {
    Status {
        version: VERSION,
        netmoat_version: "0.1.0".to_owned(),
        pid: 7,
        uptime_s: 3661,
        mode: Mode::Enforce,
        health: Health::Ok,
        problems: vec![],
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            ifindex: 2,
            xdp_mode: XdpMode::Native,
            xdp_program_id: 31,
            tc_program_id: 32,
            tc_egress_program_id: 33,
            mtu: 1500,
            up: true,
            carrier: true,
            rx_packets: 0,
            pattern: "eth0".to_owned(),
            problem: None,
        }],
        listeners_protected: 1,
        listeners_left_to_kernel: 2,
        cookies_active: true,
        keys_age_s: 60,
        neighbors: NeighborsAtAGlance::default(),
        guards: GuardsAtAGlance::default(),
        lists: crate::control::lists::ListsAtAGlance::default(),
        drops: DropsAtAGlance::default(),
        privileges: Privileges::default(),
        interfaces_missing: vec![],
        notes: vec![],
        drift: crate::control::protocol::DriftAtAGlance::default(),
        data_path_alive: true,
        maps: vec![],
        pending: None,
        probes: crate::control::probes::ProbesAtAGlance::default(),
    }
}

#[test]
fn status_tells_what_the_agent_may_still_do() {
    let mut status = status();
    status.privileges = Privileges {
        capabilities: vec!["CAP_NET_ADMIN".to_owned(), "CAP_BPF".to_owned()],
        no_new_privs: true,
        seccomp: true,
        landlock_abi: None,
        shortcomings: vec!["files are not confined by Landlock: this kernel has none".to_owned()],
    };
    let text = status::human(&status);
    assert!(
        text.contains(
            "\nPrivileges       CAP_NET_ADMIN, CAP_BPF; system calls filtered\n\
             \u{20}                but files are not confined by Landlock: this kernel has none\n\n"
        ),
        "{text}"
    );
}

#[test]
fn the_first_line_of_status_says_how_it_is() {
    let first = |status: &Status| {
        anstream::adapter::strip_str(status::human(status).lines().next().unwrap()).to_string()
    };
    let mut status = status();
    assert_eq!(first(&status), "Healthy: 1 listener protected.");
    status.mode = Mode::Observe;
    assert_eq!(
        first(&status),
        "Healthy, in observe mode: 1 listener watched, nothing is dropped or answered."
    );
    status.health = Health::Degraded;
    status.problems = vec!["eth1 is gone; attach another".to_owned()];
    assert_eq!(first(&status), "Degraded, in observe mode: 1 problem.");
    assert!(status::human(&status).contains("\n  - eth1 is gone; attach another\n"));
}

#[test]
fn status_shows_every_interface() {
    let text = anstream::adapter::strip_str(&status::human(&status())).to_string();
    assert_eq!(
        text,
        "Healthy: 1 listener protected.\n\
         \n\
         SYN cookies      being sent\n\
         Listeners        1 protected, 2 left to the kernel (`netmoat queues` says why)\n\
         Neighbours       0 protected, ARP guard observing, NDP guard observing, RA guard off\n\
         Guards           IP observing, ICMP observing, UDP observing, TCP observing\n\
         Known sources    0 proven, 0 asked, 0 steady; the table is 0 % full\n\
         Lists            0 allowed, 0 blocked\n\
         Cookie key       in use for 1m\n\
         Agent            netmoat 0.1.0, pid 7, up 1h1m1s\n\
         \n\
         INTERFACE  INDEX  STATE  XDP     XDP PROGRAM  TC PROGRAM   MTU\n\
         eth0           2  up     native           31          32  1500\n"
    );
}

#[test]
fn status_tells_of_contests_and_of_the_last_alert() {
    let mut status = status();
    status.neighbors = NeighborsAtAGlance {
        protected: 3,
        contested: 1,
        alerts: 2,
        last_alert: Some("02:00:00:00:00:66 claims 192.0.2.1".to_owned()),
        ..NeighborsAtAGlance::default()
    };
    let text = anstream::adapter::strip_str(&status::human(&status)).to_string();
    assert!(
        text.contains(
            "Neighbours       3 protected, ARP guard observing, NDP guard observing, RA guard off, 1 contested\n                 \
             2 alerts in the last 10m (`netmoat events`), the last: 02:00:00:00:00:66 claims 192.0.2.1\n"
        ),
        "{text}"
    );
}

#[test]
fn status_names_a_contested_gateway_first() {
    let mut status = status();
    status.neighbors.contested_gateways = vec!["192.0.2.1 on eth0".to_owned()];
    assert!(
        plain(status::human(&status)).starts_with(
            "Healthy: 1 listener protected. Contested: default gateway 192.0.2.1 on eth0 (`netmoat events` says by \
             whom).\n"
        )
    );
}

#[test]
fn counters_of_zero_are_hidden_unless_asked_for() {
    let mut cells = vec![0; COUNTERS as usize];
    cells[Reason::TcpPass as usize] = 1000;
    cells[Reason::CookieFalse as usize] = 3;
    cells[Reason::COUNT as usize + Reason::AcceptFull as usize] = 2;
    let report = Counters::from_cells(&cells);
    assert_eq!(
        counters::human(&report, false),
        "3 packets dropped, 0 answered; 2 more packets would have been in enforce mode.\n\
         \n\
         CODE  REASON        ACTION  PACKETS  OBSERVED\n\
         \u{20}  5  tcp_pass      pass       1000         0\n\
         \u{20} 19  cookie_false  drop          3         0\n\
         \u{20} 20  accept_full   drop          0         2\n"
    );
    assert_eq!(
        counters::human(&report, true).lines().count(),
        3 + Reason::ALL.len()
    );
    let none = Counters::from_cells(&vec![0; COUNTERS as usize]);
    assert_eq!(
        counters::human(&none, false),
        "0 packets dropped, 0 answered.\n"
    );
}

#[test]
fn a_wrong_mac_is_told_with_the_remedy() {
    let args = ["netmoat", "neighbor", "pin", "192.0.2.1", "0200.0000.0001"];
    let error = Cli::try_parse_from(args).unwrap_err().to_string();
    assert!(
        error.contains("`0200.0000.0001` is no link-layer address; write six octets"),
        "{error}"
    );
}

/// Without an agent: nothing was sent.
#[test]
fn a_pin_that_no_config_would_take_is_refused_before_it_is_sent() {
    for (args, words) in [
        (&["224.0.0.1", "02:00:00:00:00:01"][..], "multicast"),
        (
            &["192.0.2.1", "02:00:00:00:00:01", "--router"],
            "cannot be a router's",
        ),
        (
            &["192.0.2.1", "02:00:00:00:00:01", "02:00:00:00:00:01"],
            "named twice",
        ),
    ] {
        let mut line = vec!["netmoat", "--socket", "/nonexistent", "neighbor", "pin"];
        line.extend(args);
        let failure = Cli::try_parse_from(&line).unwrap().execute().unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.to_string().contains(words), "{failure}");
    }
}

fn binding() -> NeighborBinding {
    NeighborBinding {
        address: "192.0.2.1".to_owned(),
        interface: "eth0".to_owned(),
        vlan: 0,
        macs: vec!["02:00:00:00:00:01".to_owned()],
        origin: BindingOrigin::Learned,
        state: BindingState::Protected,
        router: false,
        answered_s: Some(61),
        spoofs: 3,
        history: vec![BindingHistory {
            at: 951_782_400,
            what: "learned".to_owned(),
        }],
    }
}

fn plain(text: String) -> String {
    // Tables pad their last column.
    let text = anstream::adapter::strip_str(&text).to_string();
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

#[test]
fn neighbours_are_listed_with_what_is_known_of_them() {
    let router = NeighborBinding {
        address: "fe80::1".to_owned(),
        vlan: 100,
        macs: vec![],
        origin: BindingOrigin::Config,
        state: BindingState::Learning,
        router: true,
        answered_s: None,
        spoofs: 0,
        history: vec![],
        ..binding()
    };
    let neighbors = Neighbors {
        version: VERSION,
        arp: crate::config::GuardMode::Enforce,
        ndp: crate::config::GuardMode::Off,
        ra_guard: true,
        bindings: vec![binding(), router],
    };
    let listed = "1 neighbour protected, 1 being learned; ARP guard enforcing, NDP guard off, RA guard on.\n\
         \n\
         ADDRESS    INTERFACE      MACS               ORIGIN   STATE      ROUTER  LAST ANSWER  SPOOFS\n\
         192.0.2.1  eth0           02:00:00:00:00:01  learned  protected  -       1m1s ago          3\n\
         fe80::1    eth0 VLAN 100  -                  config   learning   yes     -                 0\n";
    assert_eq!(plain(neighbor::list(&neighbors, false)), listed);
    assert_eq!(
        plain(neighbor::list(&neighbors, true)),
        format!(
            "{listed}\n192.0.2.1 on eth0\n  2000-02-29T00:00:00Z  learned\n\
             \nfe80::1 on eth0 VLAN 100\n  nothing happened to it yet\n"
        )
    );
    let idle = |state| NeighborBinding { state, ..binding() };
    let idle = Neighbors {
        bindings: vec![idle(BindingState::Unguarded), idle(BindingState::Own)],
        ..neighbors.clone()
    };
    let text = plain(neighbor::list(&idle, false));
    assert!(
        text.starts_with("0 neighbours protected, 1 unguarded; ARP"),
        "{text}"
    );
    assert!(
        text.contains(" unguarded ") && text.contains(" own "),
        "{text}"
    );
    let none = Neighbors {
        bindings: vec![],
        ra_guard: false,
        ..neighbors
    };
    assert_eq!(
        neighbor::list(&none, true),
        "0 neighbours protected; ARP guard enforcing, NDP guard off, RA guard off.\n"
    );
}

#[test]
fn pins_are_told_in_words() {
    let mut changed = NeighborsChanged {
        version: VERSION,
        bindings: vec![binding()],
        warnings: vec![],
    };
    assert_eq!(
        neighbor::pinned(&changed),
        "192.0.2.1 on eth0 is held to 02:00:00:00:00:01 from now on.\n"
    );
    assert_eq!(
        neighbor::unpinned(&changed),
        "192.0.2.1 on eth0 is not pinned any more; it was held to 02:00:00:00:00:01.\n"
    );
    changed.warnings = vec!["until now it was elsewhere".to_owned()];
    changed.bindings[0].state = BindingState::Unguarded;
    assert_eq!(
        plain(neighbor::pinned(&changed)),
        "192.0.2.1 on eth0 is pinned to 02:00:00:00:00:01, and nothing is held to that while its guard is off; set \
         `mode` in [arp] or [ndp] of the config.\n\
         warning: until now it was elsewhere\n"
    );
    changed.warnings.clear();
    changed.bindings.clear();
    assert_eq!(neighbor::pinned(&changed), "Nothing to change.\n");
}

#[test]
fn the_audit_says_first_whether_anything_is_wrong() {
    let entry = |verdict, repaired| AuditEntry {
        address: "192.0.2.1".to_owned(),
        interface: "eth0".to_owned(),
        mac: Some("02:00:00:00:00:66".to_owned()),
        state: Some("REACHABLE".to_owned()),
        bound: vec!["02:00:00:00:00:01".to_owned()],
        contested: false,
        verdict,
        repaired,
    };
    let setting = |weak| KernelSetting {
        name: "net.ipv4.conf.eth0.arp_accept".to_owned(),
        value: 1,
        meaning: "unsolicited ARP is believed".to_owned(),
        weak,
    };
    let audit = |entries, repair| {
        let audit = NeighborAudit {
            version: VERSION,
            entries,
            settings: vec![setting(true), setting(false)],
        };
        plain(neighbor::audited(&audit, repair))
    };
    let text = audit(vec![entry(AuditVerdict::Poisoned, false)], false);
    assert_eq!(
        text,
        "1 entry of the kernel's neighbour table contradicts its binding.\n\
         `netmoat neighbor audit --repair` mends what is poisoned.\n\
         \n\
         ADDRESS    INTERFACE  KERNEL             STATE      BOUND TO           VERDICT\n\
         192.0.2.1  eth0       02:00:00:00:00:66  REACHABLE  02:00:00:00:00:01  poisoned\n\
         \n\
         Kernel settings to think over:\n  \
         net.ipv4.conf.eth0.arp_accept = 1: unsolicited ARP is believed\n"
    );
    let text = audit(vec![entry(AuditVerdict::Poisoned, true)], true);
    assert!(text.starts_with("Repaired 1: nothing in the kernel's neighbour table contradicts"));
    let text = audit(
        vec![
            entry(AuditVerdict::Poisoned, true),
            entry(AuditVerdict::Permanent, false),
        ],
        true,
    );
    assert!(
        text.starts_with(
            "1 entry of the kernel's neighbour table contradicts its binding.\n1 repaired.\n1 of them set for good"
        ),
        "{text}"
    );
    let text = audit(vec![entry(AuditVerdict::Good, false)], false);
    assert!(text.starts_with("The kernel's neighbour table agrees with every binding.\n"));
    // Nothing to agree with.
    let nothing = "Nothing in the kernel's neighbour table contradicts the bindings.\n";
    assert!(audit(vec![], false).starts_with(nothing));
    let contested = AuditEntry {
        contested: true,
        ..entry(AuditVerdict::Absent, false)
    };
    let text = audit(vec![entry(AuditVerdict::Good, false), contested], false);
    assert!(
        text.starts_with(&format!(
            "{nothing}Contested, so that the binding itself may be wrong: 192.0.2.1 (`netmoat events`"
        )),
        "{text}"
    );
    assert!(text.contains("no entry, contested\n"), "{text}");
}

#[test]
fn events_are_lines_that_begin_with_number_and_time() {
    let event = Event {
        sequence: 7,
        at_ms: 951_782_400_999,
        level: EventLevel::Alert,
        kind: "spoof".to_owned(),
        interface: "eth0".to_owned(),
        vlan: 0,
        address: "192.0.2.1".to_owned(),
        macs: vec!["02:00:00:00:00:66".to_owned()],
        text: "a false claim".to_owned(),
        drop: None,
    };
    let columns = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = "7 2000-02-29T00:00:00Z alert spoof eth0 192.0.2.1 02:00:00:00:00:66 a false claim";
    let follow = plain(events::follow_line(&event, false));
    assert_eq!(columns(&follow), line);
    assert!(follow.starts_with("7       2000-02-29T00:00:00Z  alert  spoof            eth0 "));
    let mut told = Events {
        version: VERSION,
        agent: 1,
        last: 7,
        forgotten: 4,
        drops: DropTotals::default(),
        events: vec![event],
    };
    let text = plain(events::human(&told, ""));
    assert!(
        text.starts_with("1 event, 1 alert.\n4 events before these can no longer be told"),
        "{text}"
    );
    assert_eq!(columns(text.lines().last().unwrap()), line);
    told.events.clear();
    assert_eq!(events::human(&told, ""), "No events.\n");
    told.drops = DropTotals {
        packets: 1_000_000,
        told: 40,
        lost: 2,
        not_sampled: 999_958,
    };
    assert_eq!(
        events::human(&told, &events::told_of(&told.drops)),
        "No events.\n1000000 dropped packets since the programs were loaded, observed ones too: 40 told of, 999958 left \
         out by the rate, 2 lost, as the agent did not keep up.\n"
    );
}

#[test]
fn status_tells_of_guards_and_known_sources() {
    let text = |status: &Status| anstream::adapter::strip_str(&status::human(status)).to_string();
    let mut status = status();
    status.guards = GuardsAtAGlance {
        ip: GuardMode::Enforce,
        icmp: GuardMode::Observe,
        udp: GuardMode::Off,
        tcp: GuardMode::Enforce,
        sources: SourcesAtAGlance {
            places: 65_536,
            steady: 16_000,
            asked: 384,
            proven: 0,
            ..SourcesAtAGlance::default()
        },
        ..GuardsAtAGlance::default()
    };
    let quiet = text(&status);
    for line in [
        "Guards           IP enforcing, ICMP observing, UDP off, TCP enforcing\n",
        "Known sources    0 proven, 384 asked, 16000 steady; the table is 25 % full\n",
    ] {
        assert!(quiet.contains(line), "{quiet}");
    }
    assert!(!quiet.contains("attack"), "{quiet}");
    status.guards.stray_attack = true;
    status.guards.strays_left_alone = Some("this host forwards".to_owned());
    status.guards.reverse_path = ReversePath::Loose;
    status.guards.sources.replaced = 7;
    status.guards.sources.refused = 1;
    let loud = text(&status);
    for words in [
        "TCP enforcing, reverse path loose\n",
        "this host forwards: TCP segments without a socket are left alone",
        "Healthy: 1 listener protected; an attack of TCP segments without a socket is going on.\n",
        "25 % full, 7 displaced, and 1 newcomer found no place\n",
    ] {
        assert!(loud.contains(words), "{loud}");
    }
}

#[test]
fn status_tells_of_drops_in_its_first_sentence() {
    let first = |status: &Status| {
        let text = anstream::adapter::strip_str(&status::human(status)).to_string();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let rate = |per_second, mostly: &str| DropRate {
        packets: 1_000_000,
        per_second,
        mostly: Some(mostly.to_owned()),
    };
    let mut status = status();
    status.drops.enforced = rate(12_345, "echo_request_limit");
    assert_eq!(
        first(&status),
        "Healthy: 1 listener protected; dropping 12345 packets/s, mostly echo_request_limit."
    );
    status.drops.observed = rate(1, "reflection");
    assert_eq!(
        first(&status),
        "Healthy: 1 listener protected; dropping 12345 packets/s, mostly echo_request_limit; would drop 1 packet/s, \
         mostly reflection."
    );
    status.problems = vec!["eth0 is gone".to_owned()];
    status.health = Health::Degraded;
    status.drops.enforced = DropRate::default();
    assert_eq!(
        first(&status),
        "Degraded: 1 problem; would drop 1 packet/s, mostly reflection."
    );
}

#[test]
fn a_rule_is_explained_by_its_reasons() {
    let out = Output::new(Format::Human);
    for rule in ["R-ICMP-4", "r-icmp-4", "R-TCP-2"] {
        assert!(explain::explain(&out, Some(rule)).is_ok(), "{rule}");
    }
    let error = explain::explain(&out, Some("R-ICMP-99")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no reason is of a rule `R-ICMP-99`"),
        "{error}"
    );
}
