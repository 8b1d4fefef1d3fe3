//! What gets lost.

use super::*;

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
