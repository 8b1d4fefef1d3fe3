//! The host, one short look, and reports.

use super::*;

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
