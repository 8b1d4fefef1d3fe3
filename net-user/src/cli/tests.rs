use clap::CommandFactory as _;
use net_common::verdict::{COUNTERS, Reason};

use super::*;
use crate::config::SynMode;
use crate::control::protocol::{
    Counters, Health, InterfaceStatus, ListenerQueues, Queues, Status, VERSION,
};

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

#[test]
fn usage_errors_exit_with_2() {
    for args in [
        &["netmoat", "frobnicate"][..],
        &["netmoat", "mode"],
        &["netmoat", "mode", "enforced"],
        &["netmoat", "run", "--xdp-mode", "skb"],
        &["netmoat", "-o", "xml", "status"],
        &["netmoat", "key"],
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
    assert_eq!(config.interfaces, ["eth0", "eth1"]);
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
            mtu: 1500,
        }],
        listeners_protected: 1,
        listeners_left_to_kernel: 2,
        cookies_active: true,
        keys_age_s: 60,
    }
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
         Cookie key       in use for 1m\n\
         Agent            netmoat 0.1.0, pid 7, up 1h1m1s\n\
         \n\
         INTERFACE  INDEX  XDP     XDP PROGRAM  TC PROGRAM   MTU\n\
         eth0           2  native           31          32  1500\n"
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
fn queues_say_in_words_how_each_listener_is() {
    let listener = ListenerQueues {
        address: "0.0.0.0".to_owned(),
        port: 443,
        family: 4,
        mode: SynMode::Auto,
        protected: true,
        why_not: None,
        cookies_now: false,
        syn_queue: 1,
        syn_queue_limit: 511,
        accept_queue: 2,
        accept_queue_limit: 511,
        accept_full: false,
        syns_passed: 3,
        cookies_sent: 0,
        cookies_proven: 0,
        cookies_failed: 0,
        handshakes: 0,
        handshakes_refused: 0,
        accept_full_drops: 0,
        syn_ack_limited: 0,
    };
    let full = ListenerQueues {
        address: "::".to_owned(),
        family: 6,
        port: 80,
        accept_full: true,
        cookies_now: true,
        accept_queue: 512,
        cookies_sent: 900,
        accept_full_drops: 4,
        syn_ack_limited: 1,
        ..listener.clone()
    };
    let left = ListenerQueues {
        port: 22,
        mode: SynMode::Off,
        protected: false,
        why_not: Some("the config says off".to_owned()),
        ..listener.clone()
    };
    let text = queues::human(&Queues {
        version: VERSION,
        listeners: vec![listener, full, left],
    });
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some(
            "3 listeners; SYN cookies for 1; accept queue full at 1: the application does not keep up."
        )
    );
    let columns = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let lines: Vec<_> = lines.skip(2).map(columns).collect();
    assert_eq!(
        lines,
        [
            "0.0.0.0:443 auto 1/511 2/511 3 0 0 0 0 0 ready",
            "[::]:80 auto 1/511 512/511 3 900 0 0 0 5 accept queue full, SYN cookies",
            "0.0.0.0:22 off 1/511 2/511 3 0 0 0 0 0 left to the kernel: the config says off",
        ]
    );
    assert!(
        queues::human(&Queues {
            version: VERSION,
            listeners: vec![]
        })
        .starts_with("No TCP listener")
    );
}
