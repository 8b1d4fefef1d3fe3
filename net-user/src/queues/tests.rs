//! Each verdict, and beside it what looks like it and is none.

use VerdictKind::{
    AcceptFull, BacklogTooSmall, CloseWaitLeak, ConnectionFlood, Healthy, PortExhaustion, SlowApp,
    SynAckLoss, SynFlood, TimeWaitPressure,
};

use super::{
    testing::{Sim, socket},
    *,
};
use crate::control::queues::Destination;

fn has(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

#[test]
fn r_q_1_an_application_that_does_not_accept_is_named_with_how_many_wait_and_how_long() {
    let mut sim = Sim::new();
    sim.complete(129);
    sim.sockets[0].accept_queue = 129;
    sim.seconds(12, |sim| sim.overflow(3));
    let verdict = sim.verdict(AcceptFull);
    assert_eq!(sim.kinds(), [AcceptFull]);
    has(
        &verdict.sentence,
        "nginx (pid 12) does not accept: 129 connections wait, the longest for 11 s",
    );
    assert_eq!(verdict.confidence, Confidence::High);
    assert!(
        verdict
            .fixes
            .iter()
            .any(|fix| fix.command.as_deref().unwrap_or("").contains("/proc/12/"))
    );
    assert_eq!(sim.turns.len(), 1);
    assert_eq!(
        (sim.turns[0].from, sim.turns[0].to.kind),
        (Healthy, AcceptFull)
    );
    // It accepts again, and after ten seconds all is well.
    sim.sockets[0].accept_queue = 0;
    sim.seconds(9, |_| {});
    assert_eq!(sim.kinds(), [AcceptFull]);
    sim.seconds(3, |_| {});
    assert_eq!(sim.kinds(), [Healthy]);
    assert_eq!(sim.turns.len(), 2);
    has(&sim.turns[1].text, "0.0.0.0:80: accept_full is over after ");
}

#[test]
fn r_q_1_a_queue_at_its_limit_is_not_full_and_one_that_was_full_for_a_second_is_not_stuck() {
    let mut sim = Sim::new();
    sim.complete(128);
    sim.sockets[0].accept_queue = 128;
    sim.seconds(8, |_| {});
    assert!(!sim.kinds().contains(&AcceptFull), "{:?}", sim.kinds());
    let mut sim = Sim::new();
    sim.sockets[0].accept_queue = 129;
    sim.seconds(1, |sim| sim.complete(129));
    sim.sockets[0].accept_queue = 0;
    sim.seconds(8, |_| {});
    assert_eq!(sim.kinds(), [Healthy]);
}

#[test]
fn of_a_reuseport_group_the_member_that_does_not_accept_is_named() {
    let mut sim = Sim::new();
    sim.sockets = vec![socket(1, 128), socket(2, 128)];
    sim.sockets[1].accept_queue = 129;
    sim.seconds(6, |sim| sim.complete(100));
    let verdict = sim.verdict(AcceptFull);
    has(&verdict.sentence, "nginx (pid 13) does not accept");
    has(&verdict.sentence, "1 other socket of the same port works");
}

#[test]
fn r_q_7_a_slow_application_accepts_and_waits_are_long() {
    let mut sim = Sim::new();
    sim.seconds(1, |_| {});
    // Ten a second leave, more come, and the queue is always full.
    sim.sockets[0].accept_queue = 129;
    sim.seconds(1, |sim| sim.complete(139));
    sim.seconds(9, |sim| {
        sim.complete(10);
        sim.overflow(20);
    });
    assert_eq!(sim.kinds(), [SlowApp]);
    let verdict = sim.verdict(SlowApp);
    has(
        &verdict.sentence,
        "nginx (pid 12) accepts 10 connections a second and more come: each waits ",
    );
    assert_eq!(verdict.confidence, Confidence::High);
    // Near miss: as many, which are accepted at once.
    let mut sim = Sim::new();
    sim.seconds(10, |sim| sim.complete(2000));
    assert_eq!(sim.kinds(), [Healthy]);
}

#[test]
fn a_queue_that_is_half_full_for_a_short_time_is_not_slow() {
    let mut sim = Sim::new();
    for _ in 0..10 {
        sim.complete(1000);
        sim.second(|sim, look| sim.sockets[0].accept_queue = if look % 4 == 0 { 70 } else { 0 });
    }
    assert_eq!(sim.kinds(), [Healthy]);
}

#[test]
fn a_backlog_of_four_is_too_small_for_bursts_though_the_application_keeps_up() {
    let mut sim = Sim::new();
    sim.sockets = vec![socket(1, 4)];
    for _ in 0..5 {
        sim.complete(50);
        sim.second(|sim, look| {
            sim.sockets[0].accept_queue = if look == 3 { 5 } else { 0 };
            if look == 3 {
                sim.overflow(10);
            }
        });
    }
    assert_eq!(sim.kinds(), [BacklogTooSmall]);
    let verdict = sim.verdict(BacklogTooSmall);
    has(&verdict.sentence, "A backlog of 4 is too short");
    assert_eq!(verdict.confidence, Confidence::High);
    assert_eq!(verdict.fixes.len(), 1);
    assert_eq!(
        verdict.fixes[0].command.as_deref(),
        Some("listen 80 backlog=4096;")
    );
    // Near miss: the bursts fit.
    let mut sim = Sim::new();
    for _ in 0..5 {
        sim.complete(50);
        sim.second(|sim, look| sim.sockets[0].accept_queue = if look == 3 { 15 } else { 0 });
    }
    assert_eq!(sim.kinds(), [Healthy]);
}

#[test]
fn r_q_7_clients_parked_by_overflows_of_a_short_queue_are_no_flood() {
    let mut sim = Sim::new();
    sim.sockets = vec![socket(1, 4)];
    sim.states().syn_recv = 5;
    sim.walk.by_retransmits = [1, 2, 2, 0, 0, 0, 0, 0];
    sim.seconds(12, |sim| {
        sim.stats().syns += 90;
        sim.complete(20);
        sim.overflow(10);
    });
    assert_eq!(sim.kinds(), [BacklogTooSmall]);
}

#[test]
fn without_the_tracepoint_a_queue_that_may_move_between_looks_is_not_certainly_stuck() {
    for (elsewhere, expected) in [(0, Confidence::Medium), (5, Confidence::Low)] {
        let mut sim = Sim::new();
        sim.flows = None;
        sim.sockets[0].accept_queue = 129;
        sim.seconds(8, |sim| sim.count("TcpPassiveOpens", elsewhere));
        assert_eq!(sim.verdict(AcceptFull).confidence, expected);
    }
}

#[test]
fn a_backlog_that_equals_somaxconn_is_fixed_there_first() {
    let mut sim = Sim::new();
    sim.host.settings.somaxconn = 128;
    sim.seconds(5, |sim| {
        sim.complete(50);
        sim.overflow(10);
    });
    let fixes = sim.verdict(BacklogTooSmall).fixes;
    let commands: Vec<_> = fixes
        .iter()
        .filter_map(|fix| fix.command.as_deref())
        .collect();
    assert_eq!(
        commands,
        [
            "sysctl -w net.core.somaxconn=4096",
            "listen 80 backlog=4096;"
        ]
    );
}

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
    has(&verdict.sentence, "SYN flood: 5,010/s SYNs from about ");
    has(
        &verdict.sentence,
        "most likely forged; netmoat answers with cookies; 10/s honest connections are completed",
    );
    assert_eq!(verdict.confidence, Confidence::High);
    has(&verdict.fixes[0].what, "Nothing else is needed");
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
        "400/s connections are completed, where 2",
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

#[test]
fn syn_acks_that_had_to_be_sent_again_are_lost_and_a_few_are_usual() {
    for (late, expected) in [(5, SynAckLoss), (1, Healthy)] {
        let mut sim = Sim::new();
        sim.seconds(6, |sim| {
            sim.complete(20);
            sim.flows().late += late;
        });
        assert_eq!(sim.kinds(), [expected], "{late}");
    }
    has(
        &{
            let mut sim = Sim::new();
            sim.seconds(6, |sim| {
                sim.complete(20);
                sim.flows().late += 10;
            });
            sim.verdict(SynAckLoss).sentence
        },
        "50 % of the clients needed more than one SYN-ACK",
    );
}

#[test]
fn honest_clients_of_whom_nobody_gets_through_may_mean_loss_and_a_flood_does_not() {
    let piled = |sim: &mut Sim| {
        sim.states().syn_recv = 12;
        sim.walk.by_retransmits = [2, 3, 4, 3, 0, 0, 0, 0];
        sim.sources = Some((12, false));
    };
    let mut sim = Sim::new();
    piled(&mut sim);
    sim.seconds(16, |sim| sim.stats().syns += 3);
    assert_eq!(sim.kinds(), [SynAckLoss]);
    assert_eq!(sim.verdict(SynAckLoss).confidence, Confidence::Low);
    // Somebody gets through; or it is a flood.
    let mut sim = Sim::new();
    piled(&mut sim);
    sim.seconds(16, |sim| {
        sim.stats().syns += 3;
        sim.complete(1);
    });
    assert_eq!(sim.kinds(), [Healthy]);
    let mut sim = Sim::new();
    piled(&mut sim);
    sim.seconds(16, |sim| {
        sim.stats().syns += 300;
        sim.stats().cookies_sent += 280;
    });
    assert_eq!(sim.kinds(), [SynFlood]);
}

#[test]
fn a_close_wait_leak_grows_from_walk_to_walk_and_names_the_process() {
    let mut sim = Sim::new();
    sim.walk.close_wait_inodes = vec![900];
    sim.seconds(40, |sim| sim.states().close_wait_old += 1);
    assert_eq!(sim.kinds(), [CloseWaitLeak]);
    has(
        &sim.verdict(CloseWaitLeak).sentence,
        "nginx (pid 14) forgets to close: 40 connections that the peers have closed, more and more",
    );
    assert!(
        sim.health
            .wanted_owners()
            .is_superset(&HashSet::from([1, 900]))
    );
    // Near misses: many that do not grow; a sawtooth.
    let mut sim = Sim::new();
    sim.states().close_wait_old = 50;
    sim.seconds(40, |_| {});
    assert_eq!(sim.kinds(), [Healthy]);
    let mut sim = Sim::new();
    let mut second = 0;
    sim.seconds(60, |sim| {
        second += 1;
        sim.states().close_wait_old = 20 + 10 * (second / 5 % 3);
    });
    assert_eq!(sim.kinds(), [Healthy]);
}

fn host_kinds(sim: &Sim) -> Vec<VerdictKind> {
    let verdicts = sim.health.report(sim.now).host.verdicts;
    verdicts.iter().map(|verdict| verdict.kind).collect()
}

#[test]
fn local_ports_run_out_for_a_destination_and_not_for_many() {
    let to = |port, ports_used| Destination {
        address: "192.0.2.5".into(),
        port,
        ports_used,
        time_wait: ports_used - 10,
    };
    let mut sim = Sim::new();
    sim.host.settings.local_port_range = (40_000, 40_099);
    sim.destinations = vec![to(5432, 60), to(6379, 60)];
    sim.seconds(8, |_| {});
    assert!(host_kinds(&sim).is_empty());
    sim.destinations = vec![to(5432, 95)];
    sim.seconds(9, |_| {});
    assert_eq!(host_kinds(&sim), [PortExhaustion]);
    let verdict = &sim.health.report(sim.now).host.verdicts[0];
    has(
        &verdict.sentence,
        "95 of 100 are in use towards 192.0.2.5:5432",
    );
    let commands: Vec<_> = verdict
        .fixes
        .iter()
        .filter_map(|fix| fix.command.as_deref())
        .collect();
    assert_eq!(
        commands,
        [
            "sysctl -w net.ipv4.tcp_tw_reuse=1",
            "sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\""
        ]
    );
    assert!(
        sim.turns
            .iter()
            .any(|turn| turn.listener.is_none() && turn.to.kind == PortExhaustion)
    );
}

#[test]
fn r_q_8_time_wait_is_under_pressure_at_its_limit_and_healthy_below_it() {
    let mut sim = Sim::new();
    sim.host.time_wait = 50_000;
    sim.seconds(12, |sim| sim.count("TcpExtTW", 800));
    assert!(host_kinds(&sim).is_empty());
    let host = sim.health.report(sim.now).host;
    assert_eq!(
        (host.time_wait, host.time_wait_expected),
        (50_000, Some(48_000))
    );
    sim.host.settings.max_tw_buckets = 50_000;
    sim.seconds(3, |sim| sim.count("TcpExtTCPTimeWaitOverflow", 7));
    assert_eq!(host_kinds(&sim), [TimeWaitPressure]);
    let verdict = &sim.health.report(sim.now).host.verdicts[0];
    has(&verdict.sentence, "at its limit of 50,000: 21 connections");
    assert_eq!(
        verdict.fixes[0].command.as_deref(),
        Some("sysctl -w net.ipv4.tcp_max_tw_buckets=100000")
    );
}

#[test]
fn one_short_look_without_an_agent_tells_what_holds_at_that_moment() {
    let now = Instant::now();
    let mut sim = Sim::of(Health::once(now), now);
    (sim.stats, sim.flows, sim.protected) = (None, None, false);
    sim.sockets[0].accept_queue = 129;
    (0..60).for_each(|_| sim.look());
    sim.walk();
    sim.health.judge(sim.now, sim.wall);
    assert_eq!(sim.kinds(), [AcceptFull]);
    assert_eq!(sim.verdict(AcceptFull).confidence, Confidence::Medium);
    // A second look at a quiet host.
    let mut sim = Sim::of(Health::once(now), now);
    (sim.stats, sim.flows, sim.protected) = (None, None, false);
    (0..20).for_each(|_| sim.look());
    sim.walk();
    sim.health.judge(sim.now, sim.wall);
    assert_eq!(sim.kinds(), [Healthy]);
}

#[test]
fn a_report_has_the_figures_of_its_sources_and_null_where_one_is_missing() {
    let mut sim = Sim::new();
    sim.seconds(12, |sim| {
        sim.complete(30);
        sim.flows().closed += 25;
        sim.flows().reset += 5;
        sim.flows().handshake[9] += 30;
        sim.stats().syns += 33;
        sim.stats().syns_passed += 33;
        sim.states().established = 7;
    });
    let told = sim.report();
    assert_eq!(
        (
            told.rates.connections,
            told.rates.accepted,
            told.rates.resets
        ),
        (30, 30, 5)
    );
    assert_eq!(
        (told.funnel.proven, told.funnel.accepted, told.funnel.closed),
        (Some(360), Some(360), Some(300))
    );
    assert_eq!((told.funnel.syns, told.funnel.open), (Some(396), Some(7)));
    assert_eq!(told.handshake.unwrap().p50_us, Some(1024));
    assert_eq!(told.syn_ack_schedule_ms, [1000, 3000, 7000, 15_000, 31_000]);
    assert_eq!(told.half_open_life_ms, 63_000);
    (sim.stats, sim.flows) = (None, None);
    sim.seconds(1, |_| {});
    let told = sim.report();
    assert_eq!(
        (told.funnel.syns, told.funnel.proven, told.handshake),
        (None, None, None)
    );
}

#[test]
fn a_listener_that_is_gone_is_forgotten_and_a_source_replaces_the_one_of_its_name() {
    let mut sim = Sim::new();
    sim.seconds(2, |_| {});
    sim.health.listeners(sim.now, Vec::new());
    for cost_us in [1, 2] {
        sim.health.source(Source {
            name: "walk".into(),
            cost_us,
            ..Source::default()
        });
    }
    let told = sim.health.report(sim.now);
    assert!(told.listeners.is_empty());
    assert_eq!((told.sources.len(), told.sources[0].cost_us), (1, 2));
}
