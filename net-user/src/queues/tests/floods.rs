//! Floods.

use super::*;

#[test]
fn r_q_7_a_syn_flood_from_many_sources_is_told_by_cookies_that_nobody_proves() {
    let mut sim = Sim::new();
    sim.sources = Some((5000, true));
    sim.seconds(11, |sim| {
        sim.stats().syns += 5010;
        sim.stats().cookies_sent += 4900;
        sim.stats().cookies_proven += 5;
        sim.complete(10);
    });
    assert_eq!(sim.kinds(), [SynFlood]);
    let verdict = sim.verdict(SynFlood);
    has(
        &verdict.sentence,
        "SYN flood: 5,010 SYNs a second from about ",
    );
    has(
        &verdict.sentence,
        "most likely forged; netmoat answers with cookies; 10 honest connections a second are completed",
    );
    assert_eq!(verdict.confidence, Confidence::High);
    has(&verdict.fixes[0].what, "Nothing needs to be changed");
    let distinct = sim.report().distinct_sources.unwrap();
    assert!((40_000..=60_000).contains(&distinct), "{distinct}");
}

#[test]
fn a_syn_flood_from_few_sources_names_them_and_proposes_to_block_them() {
    let mut sim = Sim::new();
    sim.sources = Some((3, false));
    sim.top("192.0.2.9", 700);
    sim.seconds(5, |sim| {
        sim.stats().syns += 500;
        sim.stats().cookies_sent += 400;
    });
    let verdict = sim.verdict(SynFlood);
    has(
        &verdict.sentence,
        "from 3 sources, most from 192.0.2.9 (70 %)",
    );
    assert_eq!(
        verdict.fixes[0].command.as_deref(),
        Some("netmoat block add 192.0.2.9")
    );
    // Nobody has proved it: who floods chooses whom to name.
    has(&verdict.fixes[0].what, "may be forged");
}

#[test]
fn cookies_that_are_proven_are_a_burst_of_honest_clients_and_no_flood() {
    let mut sim = Sim::new();
    sim.sources = Some((300, true));
    sim.seconds(8, |sim| {
        sim.stats().syns += 400;
        sim.stats().cookies_sent += 300;
        sim.stats().cookies_proven += 290;
        sim.complete(390);
    });
    assert_eq!(sim.kinds(), [Healthy]);
}

/// A queue of half-open connections, without netmoat; gives the verdicts after eleven seconds.
fn half_open(change: impl Fn(&mut Sim)) -> (Sim, Vec<VerdictKind>) {
    let mut sim = Sim::new();
    sim.stats = None;
    sim.protected = false;
    sim.states().syn_recv = 120;
    sim.walk.by_retransmits = [40, 40, 40, 0, 0, 0, 0, 0];
    sim.walk.oldest = Some(Duration::from_secs(6));
    change(&mut sim);
    sim.seconds(14, |_| {});
    let kinds = sim.kinds();
    (sim, kinds)
}

#[test]
fn r_q_7_half_open_near_the_limit_with_an_empty_accept_queue_is_a_flood() {
    let (sim, kinds) = half_open(|_| {});
    assert_eq!(kinds, [SynFlood]);
    let verdict = sim.verdict(SynFlood);
    has(&verdict.sentence, "120 half-open connections");
    let commands: Vec<_> = verdict
        .fixes
        .iter()
        .filter_map(|fix| fix.command.as_deref())
        .collect();
    assert_eq!(
        commands,
        ["netmoat run", "sysctl -w net.ipv4.tcp_synack_retries=2"]
    );
    // The kernel's own cookies, which nobody proves, make it certain.
    let mut sim = sim;
    sim.seconds(3, |sim| sim.count("TcpExtSyncookiesSent", 500));
    assert_eq!(sim.verdict(SynFlood).confidence, Confidence::High);
}

#[test]
fn r_q_7_tcp_defer_accept_a_full_accept_queue_and_few_half_open_are_no_floods() {
    let deferred = |sim: &mut Sim| {
        sim.walk.acked = 115;
        sim.walk.by_retransmits = [120, 0, 0, 0, 0, 0, 0, 0];
    };
    let (sim, kinds) = half_open(deferred);
    assert_eq!(kinds, [Healthy]);
    has(&sim.report().verdicts[0].sentence, "TCP_DEFER_ACCEPT");
    let (_, kinds) = half_open(|sim| {
        sim.sockets[0].accept_queue = 129;
        sim.complete(129);
    });
    assert_eq!(kinds, [AcceptFull]);
    let (mut sim, _) = half_open(|sim| sim.states().syn_recv = 90);
    assert!(!sim.kinds().contains(&SynFlood));
    sim.seconds(12, |sim| sim.complete(50));
    assert_eq!(sim.kinds(), [Healthy]);
}

/// Browsers that connect in advance, or whoever wants a flood to pass for that, hold a few connections that have answered.
#[test]
fn r_q_7_clients_that_wait_for_data_do_not_hide_cookies_that_nobody_proves() {
    let mut sim = Sim::new();
    sim.sources = Some((5000, true));
    sim.states().syn_recv = 20;
    sim.walk.acked = 20;
    sim.walk.by_retransmits = [20, 0, 0, 0, 0, 0, 0, 0];
    sim.seconds(14, |sim| {
        sim.stats().syns += 5010;
        sim.stats().cookies_sent += 4900;
        sim.complete(10);
    });
    assert_eq!(sim.kinds(), [SynFlood]);
    // Nor does a queue that is full now and then: what it refuses are no cookies.
    let mut sim = Sim::new();
    sim.sockets = vec![socket(1, 4)];
    sim.seconds(14, |sim| {
        sim.stats().syns += 5010;
        sim.stats().cookies_sent += 4900;
        sim.complete(50);
        for look in 0..20 {
            sim.sockets[0].accept_queue = if look % 4 == 0 { 5 } else { 0 };
            sim.look();
        }
    });
    assert!(sim.kinds().contains(&SynFlood), "{:?}", sim.kinds());
}

#[test]
fn at_the_first_walk_clients_that_may_have_answered_are_not_called_a_flood() {
    let mut sim = Sim::new();
    sim.states().syn_recv = 120;
    sim.walk.by_retransmits = [120, 0, 0, 0, 0, 0, 0, 0];
    sim.seconds(9, |_| {});
    assert_eq!(sim.kinds(), [Healthy]);
    // Now the walker has met them again.
    sim.walk.acked = 120;
    sim.seconds(6, |_| {});
    assert_eq!(sim.kinds(), [Healthy]);
}

#[test]
fn a_listener_that_is_switched_off_is_told_how_to_be_protected() {
    let (sim, _) = half_open(|sim| {
        sim.mode = crate::config::SynMode::Off;
        sim.why_not = Some("off by configuration".into());
    });
    let fixes = sim.verdict(SynFlood).fixes;
    has(fixes[0].command.as_deref().unwrap(), "mode = \"auto\"");
}

#[test]
fn a_connection_flood_is_more_than_the_listener_ever_had() {
    let mut sim = Sim::new();
    sim.seconds(70, |sim| sim.complete(20));
    sim.seconds(12, |sim| sim.complete(400));
    assert_eq!(sim.kinds(), [ConnectionFlood]);
    has(
        &sim.verdict(ConnectionFlood).sentence,
        "400 connections a second are completed, where 2",
    );
    has(
        &sim.verdict(ConnectionFlood).fixes[0]
            .command
            .clone()
            .unwrap(),
        "[tcp]",
    );
    // Near misses: always busy; three times as busy.
    for (usual, now) in [(400, 400), (100, 300)] {
        let mut sim = Sim::new();
        sim.seconds(70, |sim| sim.complete(usual));
        sim.seconds(12, |sim| sim.complete(now));
        assert_eq!(sim.kinds(), [Healthy]);
    }
}

#[test]
fn one_peer_with_most_open_connections_is_a_connection_flood_and_an_office_behind_nat_is_none() {
    for (held, expected) in [(600, ConnectionFlood), (300, Healthy)] {
        let mut sim = Sim::new();
        sim.states().established = 1000;
        sim.walk.busiest_peer = Some(("192.0.2.7".parse().unwrap(), held));
        sim.walk.peers = 40;
        sim.seconds(9, |_| {});
        assert_eq!(sim.kinds(), [expected], "{held}");
        if expected == ConnectionFlood {
            let verdict = sim.verdict(ConnectionFlood);
            has(
                &verdict.sentence,
                "192.0.2.7 alone holds 600 of 1,000 open connections",
            );
            assert_eq!(
                verdict.fixes[0].command.as_deref(),
                Some("netmoat block add 192.0.2.7")
            );
        }
    }
}

#[test]
fn a_proxy_that_holds_the_connections_of_its_application_is_no_certain_flood_and_one_on_this_host_none()
 {
    for (peer, peers, expected, confidence) in [
        ("192.0.2.7", 2, ConnectionFlood, Confidence::Low),
        ("192.0.2.7", 9, ConnectionFlood, Confidence::High),
        ("127.0.0.1", 2, Healthy, Confidence::High),
        ("::ffff:127.0.0.1", 2, Healthy, Confidence::High),
        ("::1", 2, Healthy, Confidence::High),
    ] {
        let mut sim = Sim::new();
        sim.states().established = 600;
        sim.walk.busiest_peer = Some((peer.parse().unwrap(), 500));
        sim.walk.peers = peers;
        sim.seconds(9, |_| {});
        let verdict = sim.verdict(expected);
        assert_eq!(verdict.confidence, confidence, "{peer}");
    }
}

#[test]
fn connections_that_the_application_forgot_to_close_are_no_flood() {
    for (forgotten, expected) in [(0, ConnectionFlood), (400, Healthy)] {
        let mut sim = Sim::new();
        sim.states().established = 600 - forgotten;
        sim.states().close_wait = forgotten;
        sim.walk.busiest_peer = Some(("192.0.2.7".parse().unwrap(), 600));
        sim.walk.peers = 1;
        sim.seconds(9, |_| {});
        assert_eq!(sim.kinds(), [expected], "{forgotten}");
    }
}

#[test]
fn one_source_of_most_new_connections_is_a_flood_and_one_of_a_third_is_none() {
    for (share, expected) in [(800, ConnectionFlood), (300, Healthy)] {
        let mut sim = Sim::new();
        sim.top("192.0.2.7", share);
        sim.seconds(6, |sim| {
            sim.stats().syns += 200;
            sim.complete(200);
        });
        assert_eq!(sim.kinds(), [expected], "{share}");
    }
}
