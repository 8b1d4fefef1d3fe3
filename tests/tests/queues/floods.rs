//! Floods of SYNs and of connections, and honest crowds that look like them.

use std::time::Duration;

use net_tests::{
    agent::Agent,
    flood::{Flood, Sources},
    lab::{Flooding, Generator, Pace},
    queues::{
        OFF,
        app::Application,
        traffic::{Plan, Traffic, addresses},
        truth,
        watch::{Watch, words},
    },
    scene::{ALWAYS, PORT, Scene},
};
use net_user::control::queues::VerdictKind;

/// Longer than any test.
const FLOOD: Duration = Duration::from_secs(60);
/// SYNs a second: enough for a flood, and the machine is left to others.
const RATE: u32 = 2000;

fn flood(
    scene: &Scene,
    generator: &Generator,
    family: u8,
    sources: Sources,
    rate: u32,
) -> Flooding {
    generator
        .aim(&Flood::syn(&scene.server, family, PORT).from(sources))
        .unwrap();
    generator.start(Pace::PerSecond(rate), FLOOD)
}

fn prefix(base: &str, bits: u8) -> Sources {
    Sources::Prefix(base.parse().unwrap(), bits)
}

/// Many sources, then few: both at a listener that answers with cookies and at one that the kernel answers for.
#[test]
fn a_flood_of_syns_is_told_with_the_number_of_its_sources() {
    // 1024 addresses, each of which comes twice a second.
    for (family, many, bits) in [(4, "10.7.0.0", 22), (6, "2001:db8::", 118)] {
        let scene = Scene::new();
        let _app = Application::start(&scene.server.ns, "app", scene.server.at(family, PORT), "");
        let agent = scene.protect(ALWAYS);
        agent.await_listener(PORT, true).unwrap();
        let watch = Watch::new(&agent);
        let generator = Generator::new(&scene.attacker).unwrap();
        let flooding = flood(&scene, &generator, family, prefix(many, bits), RATE);
        let (_, verdict) = watch.verdict(PORT, VerdictKind::SynFlood);
        let told = watch.until("the number of sources", PORT, |l| {
            l.distinct_sources
                .is_some_and(|n| (850..=1200).contains(&n))
        });
        assert!(
            told.top_sources.iter().all(|s| s.per_mille < 100),
            "{:?}",
            told.top_sources
        );
        assert!(told.rates.syns > u64::from(RATE) / 2, "{:?}", told.rates);
        assert!(words(&verdict).contains("source"), "{}", words(&verdict));
        flooding.stop().unwrap();
        assert!(generator.sink().unwrap().syn_acks > 0);
        watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::SynFlood]);
    }
}

#[test]
fn the_few_sources_of_a_flood_are_named() {
    let scene = Scene::new();
    let _app = Application::start(&scene.server.ns, "app", scene.server.at(4, PORT), "");
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let watch = Watch::new(&agent);
    let generator = Generator::new(&scene.attacker).unwrap();
    let flooding = flood(&scene, &generator, 4, prefix("10.9.8.4", 30), RATE);
    watch.verdict(PORT, VerdictKind::SynFlood);
    let four = ["10.9.8.4", "10.9.8.5", "10.9.8.6", "10.9.8.7"];
    let told = watch.until("four sources", PORT, |l| {
        l.distinct_sources.is_some_and(|n| (3..=5).contains(&n)) && l.top_sources.len() == 4
    });
    for source in four {
        let found = told.top_sources.iter().find(|s| s.address == source);
        let share = found
            .unwrap_or_else(|| panic!("{:?}", told.top_sources))
            .per_mille;
        assert!((150..350).contains(&share), "{:?}", told.top_sources);
    }
    let (_, verdict) = watch.verdict(PORT, VerdictKind::SynFlood);
    let said = words(&verdict);
    assert!(four.iter().any(|source| said.contains(source)), "{said}");
    flooding.stop().unwrap();
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::SynFlood]);
}

/// R-Q-4: with cookies of the kernel's and without.
#[test]
fn a_flood_at_a_listener_that_is_left_to_the_kernel_is_told_by_its_half_open_connections() {
    const BACKLOG: u32 = 64;
    for (family, cookies, counted) in [
        (4, "1", "TcpExtTCPReqQFullDoCookies"),
        (6, "0", "TcpExtTCPReqQFullDrop"),
    ] {
        let scene = Scene::new();
        let at = scene.server.at(family, PORT);
        let _app = Application::start(&scene.server.ns, "app", at, "--backlog 64");
        let agent = scene.protect(OFF);
        agent.await_listener(PORT, false).unwrap();
        // Without them it does not start.
        scene
            .server
            .ns
            .sysctl("net.ipv4.tcp_syncookies", cookies)
            .unwrap();
        let watch = Watch::new(&agent);
        let before = truth::nstat(&scene.server);
        let generator = Generator::new(&scene.attacker).unwrap();
        let flooding = flood(&scene, &generator, family, Sources::Anywhere, 300);
        let (listener, _) = watch.verdict(PORT, VerdictKind::SynFlood);
        assert_eq!(
            (listener.distinct_sources, listener.funnel.syns),
            (None, None)
        );
        let listener = watch.until("a full SYN queue", PORT, |l| l.syn_queue > BACKLOG * 8 / 10);
        assert_eq!(listener.syn_queue_limit, BACKLOG);
        assert!((BACKLOG * 8 / 10..=BACKLOG + 1).contains(&truth::half_open(&scene.server, PORT)));
        let moved = truth::moved(&before, &truth::nstat(&scene.server));
        assert!(moved.get(counted).is_some_and(|n| *n > 0), "{moved:#?}");
        assert_eq!(moved.contains_key("TcpExtSyncookiesSent"), cookies == "1");
        flooding.stop().unwrap();
        watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::SynFlood]);
    }
}

#[test]
fn a_crowd_of_honest_clients_that_prove_their_cookies_is_no_flood() {
    const SECONDS: u64 = 12;
    let scene = Scene::new();
    let to = scene.server.at(6, PORT);
    let _app = Application::start(&scene.server.ns, "app", to, "");
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let watch = Watch::new(&agent);
    let clients = Traffic::start(
        &scene.client,
        Plan {
            from: addresses(&scene.client, 6, 50),
            ..Plan::steady(&[to], 45)
        },
    );
    watch.on(Duration::from_secs(SECONDS));
    let made = clients.stop();
    assert!(made > 20 * SECONDS);
    let listener = watch.until("all connections", PORT, |l| l.cookies_proven == made);
    assert_eq!(listener.cookies_sent, made);
    assert!(listener.rates.cookies > 20, "{:?}", listener.rates);
    watch.assert_healthy(PORT);
}

fn budget(agent: &Agent) -> (u64, u64) {
    let listener = agent.listener(PORT).unwrap().unwrap();
    let budget = listener.budget.unwrap();
    (budget.milli_per_second, budget.configured_milli_per_second)
}

#[test]
fn the_budget_of_plain_handshakes_shrinks_while_the_queue_fills_and_returns() {
    let scene = Scene::new();
    // What nobody completes is gone after three seconds.
    scene
        .server
        .ns
        .sysctl("net.ipv4.tcp_synack_retries", "1")
        .unwrap();
    let at = scene.server.at(4, PORT);
    let _app = Application::start(&scene.server.ns, "app", at, "--backlog 128");
    let agent = scene.protect("[syn]\nbudget = \"100/s\"");
    agent.await_listener(PORT, true).unwrap();
    let watch = Watch::new(&agent);
    watch.until("a budget", PORT, |l| l.budget.is_some());
    assert_eq!(budget(&agent), (100_000, 100_000));
    let generator = Generator::new(&scene.attacker).unwrap();
    let flooding = flood(&scene, &generator, 4, Sources::Anywhere, RATE);
    let shrunk = watch.until("a smaller budget", PORT, |l| {
        l.budget
            .is_some_and(|b| b.milli_per_second < b.configured_milli_per_second)
    });
    assert!(
        shrunk.budget.unwrap().estimated_syn_queue > 0,
        "{:?}",
        shrunk.budget
    );
    assert!(truth::half_open(&scene.server, PORT) > 0);
    flooding.stop().unwrap();
    watch.until("the configured budget", PORT, |l| {
        l.budget
            .is_some_and(|b| b.milli_per_second == b.configured_milli_per_second)
    });
    assert_eq!(truth::half_open(&scene.server, PORT), 0);
}

#[test]
fn connections_of_one_source_are_a_flood_and_as_many_of_fifty_are_not() {
    const RATE: u32 = 150;
    let scene = Scene::new();
    let to = scene.server.at(4, PORT);
    let _app = Application::start(&scene.server.ns, "app", to, "--backlog 1024");
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let watch = Watch::new(&agent);
    let crowd = Plan {
        from: addresses(&scene.client, 4, 50),
        ..Plan::steady(&[to], RATE)
    };
    let clients = Traffic::start(&scene.client, crowd.clone());
    watch.on(Duration::from_secs(12));
    assert!(clients.stop() > 1000);
    watch.assert_healthy(PORT);

    let one = scene.client.ip(4);
    let clients = Traffic::start(
        &scene.client,
        Plan {
            from: vec![one],
            ..crowd
        },
    );
    let (_, verdict) = watch.verdict(PORT, VerdictKind::ConnectionFlood);
    let said = words(&verdict);
    assert!(said.contains(&one.to_string()), "{said}");
    clients.stop();
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::ConnectionFlood]);
}

#[test]
fn open_connections_of_one_peer_are_a_flood_and_as_many_of_fifty_are_not() {
    const OPEN: u64 = 250;
    let scene = Scene::new();
    let to = scene.server.at(6, PORT);
    let _app = Application::start(&scene.server.ns, "app", to, "--backlog 1024");
    let agent = scene.protect(OFF);
    agent.await_listener(PORT, false).unwrap();
    let watch = Watch::new(&agent);
    let mut plan = Plan {
        from: addresses(&scene.client, 6, 50),
        stay: FLOOD,
        ..Plan::steady(&[to], 45)
    };
    let fill = |plan: &Plan| {
        let clients = Traffic::start(&scene.client, plan.clone());
        watch.until("connections in number", PORT, |l| {
            l.states.is_some_and(|s| u64::from(s.established) > OPEN)
        });
        clients
    };
    let clients = fill(&plan);
    assert!(u64::from(truth::in_state(&scene.server, PORT, "ESTAB")) > OPEN);
    watch.on(Duration::from_secs(4));
    watch.assert_healthy(PORT);
    drop(clients);
    plan.from = vec![scene.client.ip(6)];
    let clients = fill(&plan);
    let (_, verdict) = watch.verdict(PORT, VerdictKind::ConnectionFlood);
    let said = words(&verdict);
    assert!(said.contains(&scene.client.ip(6).to_string()), "{said}");
    drop(clients);
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::ConnectionFlood]);
}
