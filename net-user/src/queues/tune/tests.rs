use super::*;
use crate::control::queues::{Confidence, HostQueues, ListenerSocket, Owner, Verdict};
use crate::queues::words::command;

fn verdict(kind: VerdictKind, fixes: Vec<Fix>) -> Verdict {
    Verdict {
        kind,
        since: 0,
        sentence: String::new(),
        evidence: Vec::new(),
        confidence: Confidence::High,
        fixes,
    }
}

fn queues(kind: VerdictKind, backlog: u32) -> Queues {
    let fixes = vec![advice("look into it")];
    Queues {
        listeners: vec![ListenerQueues {
            address: "::".into(),
            port: 80,
            accept_queue_limit: backlog,
            sockets: vec![ListenerSocket {
                accept_queue_limit: backlog,
                process: Some(Owner {
                    pid: 1,
                    name: "nginx".into(),
                    unit: None,
                }),
                ..ListenerSocket::default()
            }],
            verdicts: vec![verdict(kind, fixes.clone())],
            ..ListenerQueues::default()
        }],
        host: HostQueues {
            verdicts: vec![verdict(kind, fixes)],
            ..HostQueues::default()
        },
        ..Queues::default()
    }
}

fn changes(kind: VerdictKind, backlog: u32, change: impl Fn(&mut QueueSettings)) -> Vec<String> {
    let mut settings = crate::queues::testing::settings();
    change(&mut settings);
    let (changes, advice) = propose(&queues(kind, backlog), &settings, None);
    assert!(!changes.is_empty() || !advice.is_empty());
    assert!(
        changes
            .iter()
            .all(|change| change.from != change.to && !change.why.is_empty())
    );
    let told = changes
        .iter()
        .map(|c| format!("{}: {} -> {}", c.name, c.from, c.to));
    told.collect()
}

#[test]
fn each_verdict_has_its_proposals_and_never_what_is_in_force() {
    use VerdictKind::*;
    assert_eq!(
        changes(SynFlood, 128, |_| {}),
        ["net.ipv4.tcp_synack_retries: 5 -> 2"],
        "tcp_max_syn_backlog does nothing while tcp_syncookies is on"
    );
    assert_eq!(
        changes(SynFlood, 128, |s| {
            s.synack_retries = 1;
            s.syncookies = 0;
        }),
        [
            "net.ipv4.tcp_max_syn_backlog: 4096 -> 8192",
            "net.ipv4.tcp_syncookies: 0 -> 1"
        ]
    );
    assert_eq!(
        changes(SynFlood, 128, |s| {
            s.synack_retries = 1;
            s.max_syn_backlog = 8192;
            s.syncookies = 0;
        }),
        ["net.ipv4.tcp_syncookies: 0 -> 1"]
    );
    assert_eq!(changes(BacklogTooSmall, 128, |_| {}), [""; 0]);
    assert_eq!(
        changes(BacklogTooSmall, 128, |s| s.somaxconn = 128),
        ["net.core.somaxconn: 128 -> 4096"]
    );
    assert_eq!(
        changes(BacklogTooSmall, 4096, |_| {}),
        ["net.core.somaxconn: 4096 -> 8192"]
    );
    assert_eq!(
        changes(TimeWaitPressure, 128, |_| {}),
        ["net.ipv4.tcp_max_tw_buckets: 65536 -> 131072"]
    );
    assert_eq!(
        changes(PortExhaustion, 128, |_| {}),
        [
            "net.ipv4.ip_local_port_range: 32768 60999 -> 10240 65535",
            "net.ipv4.tcp_tw_reuse: 2 -> 1"
        ]
    );
    // A longer queue does not help an application that is stuck.
    for kind in [
        AcceptFull,
        SlowApp,
        CloseWaitLeak,
        SynAckLoss,
        ConnectionFlood,
        Healthy,
    ] {
        assert_eq!(
            changes(kind, 128, |s| s.somaxconn = 128),
            [""; 0],
            "{kind:?}"
        );
    }
}

#[test]
fn nothing_is_proposed_for_a_healthy_host_and_that_is_said() {
    let settings = crate::queues::testing::settings();
    let healthy = queues(VerdictKind::Healthy, 128);
    let (changes, fixes) = propose(&healthy, &settings, None);
    assert!(changes.is_empty());
    assert_eq!(fixes.len(), 1);
    assert!(
        fixes[0].what.contains("Nothing is wrong"),
        "{}",
        fixes[0].what
    );
    let (_, fixes) = propose(&healthy, &settings, Some(&Selector::Port(81)));
    assert!(fixes[0].what.contains("No listener"), "{}", fixes[0].what);
}

#[test]
fn a_flood_that_cookies_answer_needs_no_setting() {
    let settings = crate::queues::testing::settings();
    let mut flood = queues(VerdictKind::SynFlood, 128);
    flood.listeners[0].rates.cookies = 5000;
    let (changes, fixes) = propose(&flood, &settings, None);
    assert!(changes.is_empty(), "{changes:?}");
    assert!(fixes[0].what.starts_with("No further setting"), "{fixes:?}");
    let block = command("Block it", "netmoat block add 192.0.2.7");
    flood.listeners[0].verdicts[0].fixes.push(block);
    let (_, fixes) = propose(&flood, &settings, None);
    assert_eq!(fixes[0].what, "[::]:80: Block it");
}

#[test]
fn only_the_listener_that_is_named_is_tuned() {
    let settings = crate::queues::testing::settings();
    let flood = queues(VerdictKind::SynFlood, 128);
    let (named, _) = propose(&flood, &settings, Some(&Selector::Port(80)));
    assert!(
        named[0].why.contains("syn_flood at [::]:80"),
        "{}",
        named[0].why
    );
    let (other, _) = propose(&flood, &settings, Some(&Selector::Port(81)));
    assert!(other.is_empty());
    let (host, _) = propose(
        &queues(VerdictKind::PortExhaustion, 1),
        &settings,
        Some(&Selector::Port(80)),
    );
    assert!(host.is_empty());
}

#[test]
fn a_wider_range_of_ports_keeps_clear_of_listeners() {
    let settings = crate::queues::testing::settings();
    let wide = |ports: &[u16]| wider(&settings, &ports.iter().copied().collect());
    assert_eq!(wide(&[80, 443]), Some((10_240, 65_535)));
    assert_eq!(wide(&[27_017, 61_000]), Some((27_018, 60_999)));
    assert_eq!(wide(&[32_767, 61_000]), None);
    assert_eq!(wide(&[40_000]), Some((10_240, 65_535)));
}
