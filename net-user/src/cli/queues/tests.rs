use super::fixtures::{left, queues, stuck, verdict, web};
use super::*;
use crate::control::protocol::VERSION;
use crate::control::queues::{ListenerQueues, VerdictKind};

fn of(listeners: Vec<ListenerQueues>) -> Queues {
    Queues {
        version: VERSION,
        listeners,
        ..Queues::default()
    }
}

/// Without colours, and with one space between words.
fn lines(text: &str) -> Vec<String> {
    let text = anstream::adapter::strip_str(text).to_string();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).collect()
}

#[test]
fn the_list_says_what_is_wrong_with_the_gravest_first() {
    assert_eq!(
        lines(&human(&queues(), false, None)),
        [
            "3 listeners; accept_full at 1; SYN cookies for 1.",
            "",
            "LISTENER PROCESS SYN QUEUE ACCEPT QUEUE CONN/S RESET/S HANDSHAKE WAIT COOKIES DROPS VERDICT",
            "[::]:80 - 0/511 512/511 - - - - 12k/0/0 - accept_full +1",
            "0.0.0.0:443 nginx 1/511 2/1022 31 2 512us/2ms 850us 900/850/3 7 healthy",
            "192.0.2.1:22 - 0/128 0/128 - - - - - - -",
            "",
            "SYN cookies at present: [::]:80",
            "",
            "left to the kernel: 192.0.2.1:22: the config says off",
            "",
            "Missing: resets that peers sent (resets): the kernel has no tcp_receive_reset",
            "",
            "[::]:80: accept_full since 2000-02-29T00:00:00Z, high confidence",
            "The application does not accept: 512 connections wait, and more are turned away.",
            "- 512 of 511 for 40 s",
            "Fix: look at what the process waits for",
            "gdb -p 811",
            "",
            "[::]:80: close_wait_leak since 2000-02-29T00:00:00Z, high confidence",
            "It closes nothing.",
        ]
    );
}

#[test]
fn the_first_sentence_tells_health_from_silence() {
    let sentence = |queues: &Queues| lines(&human(queues, false, None)).swap_remove(0);
    assert_eq!(sentence(&of(vec![web()])), "1 listener; all is healthy.");
    // An agent that gives no verdicts.
    assert_eq!(
        sentence(&of(vec![left()])),
        "1 listener; queues are in order."
    );
    assert_eq!(
        sentence(&of(vec![])),
        "No TCP listener in this network namespace."
    );
    let mut host = of(vec![web()]);
    host.host.verdicts = vec![verdict(VerdictKind::PortExhaustion, "No port is left.")];
    let text = lines(&human(&host, false, None));
    assert_eq!(text[0], "1 listener; port_exhaustion on this host.");
    assert!(text.contains(
        &"This host: port_exhaustion since 2000-02-29T00:00:00Z, high confidence".to_owned()
    ));
}

#[test]
fn a_narrow_terminal_loses_columns_and_is_told_which() {
    let all = of(vec![web(), left()]);
    let wide = human(&all, false, Some(120));
    assert!(!wide.contains("Too narrow"), "{wide}");
    for (width, lost) in [
        (100, "COOKIES"),
        (80, "COOKIES, HANDSHAKE, RESET/S"),
        (
            10,
            "COOKIES, HANDSHAKE, RESET/S, WAIT, DROPS, PROCESS, CONN/S",
        ),
    ] {
        let text = human(&all, false, Some(width));
        let narrow = format!("Too narrow for {lost};");
        assert!(text.contains(&narrow), "{width}: {text}");
        let table = text.lines().skip(2).take(3);
        let widest = table.map(|line| line.trim_end().chars().count()).max();
        assert!(width < 80 || widest.unwrap() <= width, "{text}");
        assert!(text.contains("VERDICT"));
    }
}

#[test]
fn a_listener_in_detail_shows_all_that_is_known() {
    let text = human(&of(vec![web()]), true, None);
    let lines = lines(&text);
    for line in [
        "0.0.0.0:443 (nginx): healthy. All is well.",
        "IPv4, mode auto, SYN cookies when needed",
        "2 sockets in a reuseport group:",
        "11 711 nginx nginx.service 1/511 4",
        "SYN queue 1/511, the oldest waits 1.2s",
        "Accept queue 2/1022, the first waits 3ms at least, mean wait 850us",
        "From the first SYN to the end, in 1m30s",
        "SYNs seen 1000 100 % ########################################",
        "left to the kernel 100 10 % ####",
        "not answered 0 0 %",
        "reset or timed out 8 1 % #",
        "Cookies 900 sent, 850 proven, 3 false",
        "Budget 100 plain handshakes a second, configured 100; 1 half-open when it was set",
        "SYN-ACKs again 6, 2 connections late, - resets from peers",
        "Sources of SYNs about 37 different in ten seconds",
        "12.5 % 192.0.2.7",
        "FIN_WAIT_1 3 2 send their FIN again",
        "CLOSE_WAIT 7 5 not closed by the application for over 10 s",
        "TIME_WAIT 41",
        "Handshake, SYN-ACK to ACK: 90 measured, p50 under 512us, p90 under 1ms, p99 under 2ms",
        "under 512us 60 ########################################",
        "under 2ms 30 ####################",
        "Wait for accept(): none measured yet",
        "Half-open: an unanswered SYN-ACK is sent again after 1s, 3s, 7s; given up after 63s",
        "net.core.somaxconn = 4096",
        "above the backlog of 511: no effect",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line} in\n{text}");
    }
}

#[test]
fn what_is_missing_in_detail_is_a_dash_and_why_it_is_left_alone_is_told() {
    let lines_of = |listener| lines(&human(&of(vec![listener]), true, None));
    let left = lines_of(left());
    for line in [
        "192.0.2.1:22: -",
        "IPv4, mode off, left to the kernel: the config says off",
        "SYNs seen -",
        "TCP states: not walked yet",
        "Wait for accept(): -",
    ] {
        assert!(left.iter().any(|l| l == line), "{line} in {left:#?}");
    }
    let stuck = lines_of(stuck());
    for line in [
        "[::]:80: accept_full",
        "IPv6 and IPv4, mode always, SYN cookies at present",
        "Verdict: close_wait_leak since 2000-02-29T00:00:00Z, high confidence",
        "Accept queue 512/511, accept queue full: the application does not keep up",
        "Handshakes 0 connections by cookie, 0 SYNs left to the kernel, 4 SYNs not answered: accept queue full, \
         1 SYNs not answered: their prefix had its share",
    ] {
        assert!(stuck.iter().any(|l| l == line), "{line} in {stuck:#?}");
    }
}

#[test]
fn only_the_listeners_asked_for_stay_and_an_unknown_one_is_told_those_there_are() {
    let chosen = |text: &str| {
        let queues = choose(queues(), Some(&selector(text).unwrap()))?;
        let ports = queues.listeners.iter().map(|l| l.port);
        Ok::<_, Failure>(ports.collect::<Vec<_>>())
    };
    for (text, ports) in [
        ("443", [443]),
        (":80", [80]),
        ("[::]:80", [80]),
        ("192.0.2.1", [22]),
        ("nginx", [443]),
    ] {
        assert_eq!(chosen(text).unwrap(), ports, "{text}");
    }
    let failure = chosen("8080").unwrap_err();
    assert_eq!(failure.code, Code::Error);
    assert_eq!(
        failure.to_string(),
        "no such TCP listener in this network namespace; there are 192.0.2.1:22, 0.0.0.0:443 (nginx), [::]:80"
    );
    assert_eq!(selector("[::1:80").unwrap_err().code, Code::Usage);
}

#[test]
fn many_listeners_do_not_make_long_lines_and_a_reason_is_told_once() {
    let many = (1..=100).map(|port| ListenerQueues { port, ..left() });
    let mut all = of(many.collect());
    let missing = |name: &str, why: &str| crate::control::queues::Source {
        name: name.to_owned(),
        tells: format!("what {name} tells"),
        missing: Some(why.to_owned()),
        ..Default::default()
    };
    all.sources = vec![
        missing("xdp", "no agent"),
        missing("driver", "no counters"),
        missing("tracepoint", "no agent"),
    ];
    let text = lines(&human(&all, false, None));
    for line in [
        "left to the kernel: all: the config says off",
        "Missing: what xdp tells (xdp); what tracepoint tells (tracepoint): no agent",
        "Missing: what driver tells (driver): no counters",
    ] {
        assert!(text.iter().any(|l| l == line), "{line} in {text:#?}");
    }
    all.listeners.push(web());
    let text = lines(&human(&all, false, None));
    let line = text.iter().find(|l| l.starts_with("left to")).unwrap();
    assert!(
        line.ends_with("192.0.2.1:8 and 92 more: the config says off"),
        "{line}"
    );
    let failure = choose(all, Some(&selector("no-such-name").unwrap())).unwrap_err();
    assert!(failure.to_string().ends_with(" and 93 more"), "{failure}");
}

#[test]
fn a_full_queue_without_a_verdict_is_told_in_the_first_sentence() {
    let mut full = web();
    full.accept_full = true;
    let text = lines(&human(&of(vec![full]), false, None)).swap_remove(0);
    assert_eq!(text, "1 listener; accept queue full at 1 at this moment.");
}

#[test]
fn a_fix_that_is_a_piece_of_a_config_keeps_its_lines() {
    let mut listener = web();
    let mut told = verdict(VerdictKind::ConnectionFlood, "Too many");
    told.fixes = vec![crate::control::queues::Fix {
        what: "limit\nthem".to_owned(),
        command: Some("[tcp]\nopen_connections\u{1b} = 200".to_owned()),
    }];
    listener.verdicts = vec![told];
    let clean = words::printable(&of(vec![listener])).unwrap();
    let text = lines(&human(&clean, false, None));
    let at = text.iter().position(|l| l == "Fix: limit them").unwrap();
    assert_eq!(text[at + 1..at + 3], ["[tcp]", "open_connections = 200"]);
}
