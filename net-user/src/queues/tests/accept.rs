//! The accept queue.

use super::*;

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

/// Whoever may open sockets may open as many, and the looks are on the agent's one task.
#[test]
fn a_reuseport_group_of_twenty_thousand_costs_no_more_than_its_length() {
    let mut sim = Sim::new();
    sim.sockets = (1..=20_000).map(|cookie| socket(cookie, 128)).collect();
    sim.look();
    let began = std::time::Instant::now();
    sim.look();
    // Each compared to each takes more than a second.
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_verdict_ends_with_its_listener() {
    let mut sim = Sim::new();
    sim.complete(129);
    sim.sockets[0].accept_queue = 129;
    sim.seconds(12, |sim| sim.overflow(3));
    sim.health.listeners(sim.now, Vec::new());
    let turns = sim.health.judge(sim.now, sim.wall);
    assert_eq!(turns.len(), 1);
    assert_eq!((turns[0].from, turns[0].to.kind), (AcceptFull, Healthy));
    has(
        &turns[0].text,
        "accept_full is over: nothing listens there any more",
    );
    assert!(sim.health.judge(sim.now, sim.wall).is_empty(), "told once");
}
