//! Real attack tools and floods against a real listener behind the real agent, with an honest client
//! beside them. Each attack is bounded in count, and goes to addresses inside the test's namespaces.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    flood::{Flood, Sources},
    lab::{Generator, Pace},
    netns::Namespace,
    server::{Server, visit},
    topology::{Host, Lan},
    wait,
};

const PORT: u16 = 8080;
/// C-1: an honest client waits no longer than this, even if a busy link loses its first SYN.
const HONEST: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(5);
const ALWAYS: &str = "[syn]\nmode = \"always\"";

struct Scene {
    _server: Server,
    server: Host,
    client: Host,
    attacker: Host,
    _lan: Lan,
}

impl Scene {
    fn new() -> Self {
        let lan = Lan::new().unwrap();
        let [server, client, attacker] =
            ["server", "client", "attacker"].map(|role| lan.host(role).unwrap());
        server.route_sources_via(&attacker).unwrap();
        let wildcard: SocketAddr = (std::net::Ipv6Addr::UNSPECIFIED, PORT).into();
        let listening = Server::start(&server.ns, wildcard).unwrap();
        Self {
            _server: listening,
            server,
            client,
            attacker,
            _lan: lan,
        }
    }

    fn agent(&self, config: &str) -> Agent {
        let agent = Agent::start(&self.server, config).unwrap();
        agent.await_listener(PORT, true).unwrap();
        agent
    }

    fn visit(&self, family: u8) {
        visit(&self.client.ns, self.server.at(family, PORT), HONEST).unwrap();
    }
}

/// Slow enough that no ring overflows on a busy machine, and lost frames are few; tests count what arrived.
const PACE: Pace = Pace::PerSecond(2_000);

fn run(namespace: &Namespace, program: &str, args: &[&str]) -> String {
    let output = namespace
        .run(|| Command::new(program).args(args).output())
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn settled(agent: &Agent, reason: Reason, at_least: u64) -> u64 {
    wait::until_some(
        &format!("{at_least} packets of {}", reason.name()),
        SOON,
        || Some(agent.packets(reason).unwrap()).filter(|&n| n >= at_least),
    )
    .unwrap()
}

#[test]
fn c_1_hping3_syn_flood_from_random_sources_leaves_the_client_unharmed() {
    let scene = Scene::new();
    let agent = scene.agent("[syn]\nbudget = \"1/m\"\nburst = 1");
    scene.visit(4);
    let target = scene.server.v4.to_string();
    let flood = [
        "--syn",
        "--rand-source",
        "--interval",
        "u50",
        "--count",
        "5000",
        "--quiet",
    ];
    let port = PORT.to_string();
    std::thread::scope(|threads| {
        let flooding = threads.spawn(|| {
            run(
                &scene.attacker.ns,
                "hping3",
                &[&flood[..], &["--destport", &port, &target]].concat(),
            )
        });
        let mut visits = 0;
        while !flooding.is_finished() {
            scene.visit(if visits % 2 == 0 { 4 } else { 6 });
            visits += 1;
        }
        assert!(visits > 0);
    });
    // Of the random sources some are multicast, loopback or our own: those are dropped by R-TCP-3.
    settled(&agent, Reason::CookieSent, 4000);
    assert!(agent.packets(Reason::TcpSource).unwrap() > 0);
}

#[test]
fn c_1_cookies_start_with_the_packet_beyond_the_budget_and_stop_when_the_flood_does() {
    let scene = Scene::new();
    // Three plain handshakes at once, one more each minute.
    let agent = scene.agent("[syn]\nbudget = \"1/m\"\nburst = 2");
    let generator = Generator::new(&scene.attacker).unwrap();
    generator.aim(&Flood::syn(&scene.server, 4, PORT)).unwrap();
    generator.run(PACE, 1000, SOON).unwrap();
    let cookies = settled(&agent, Reason::CookieSent, 900);
    // Burst 2 conforms three times from rest (GCRA); the minute's may come while the test runs.
    let passed = agent.packets(Reason::SynInBudget).unwrap();
    assert!((3..=4).contains(&passed), "{passed} SYNs passed");
    assert!(agent.listener(PORT).unwrap().unwrap().cookies_sent >= cookies);
    drop(agent);

    // A budget that refills quickly is back as soon as the flood is over.
    let agent = scene.agent("[syn]\nbudget = \"1k/s\"\nburst = 10");
    generator.run(Pace::FlatOut, 20_000, SOON).unwrap();
    settled(&agent, Reason::CookieSent, 1000);
    wait::until("a plain handshake", SOON, || {
        let before = agent.packets(Reason::CookieSent).unwrap();
        scene.visit(4);
        agent.packets(Reason::CookieSent).unwrap() == before
    })
    .unwrap();
}

#[test]
fn c_2_of_a_flood_from_one_source_only_that_source_is_limited() {
    let scene = Scene::new();
    let agent = scene.agent(&format!(
        "{ALWAYS}\nsyn_ack_limit = \"100/s\"\nsyn_ack_burst = 50"
    ));
    let generator = Generator::new(&scene.attacker).unwrap();
    let one: IpAddr = "10.1.2.3".parse().unwrap();
    generator
        .aim(&Flood::syn(&scene.server, 4, PORT).from(Sources::One(one)))
        .unwrap();
    let flooding = generator.start(Pace::PerSecond(5_000), Duration::from_secs(2));
    settled(&agent, Reason::SynAckLimit, 1000);
    scene.visit(4);
    scene.visit(6);
    flooding.stop().unwrap();
    assert_eq!(agent.listener(PORT).unwrap().unwrap().handshakes, 2);
}

#[test]
fn c_3_hosts_rotating_in_one_64_share_one_limit() {
    let scene = Scene::new();
    let agent = scene.agent(&format!(
        "{ALWAYS}\nsyn_ack_limit = \"1/m\"\nsyn_ack_burst = 50"
    ));
    let generator = Generator::new(&scene.attacker).unwrap();
    let network = Sources::Prefix("2001:db8:7:7::".parse().unwrap(), 64);
    generator
        .aim(&Flood::syn(&scene.server, 6, PORT).from(network))
        .unwrap();
    generator.run(PACE, 1000, SOON).unwrap();
    settled(&agent, Reason::SynAckLimit, 850);
    // Burst 50 conforms 51 times from rest; the minute's may come while the test runs.
    let cookies = agent.packets(Reason::CookieSent).unwrap();
    assert!(
        (51..=52).contains(&cookies),
        "{cookies} SYN-ACKs for one /64"
    );
    scene.visit(6);
}

#[test]
fn c_19_a_reflection_victim_gets_its_prefix_share_of_syn_acks_and_no_more() {
    let scene = Scene::new();
    let generator = Generator::new(&scene.attacker).unwrap();
    let victim = Sources::Prefix("10.20.30.0".parse().unwrap(), 24);
    generator
        .aim(&Flood::syn(&scene.server, 4, PORT).from(victim))
        .unwrap();
    let agent = scene.agent(&format!(
        "{ALWAYS}\nsyn_ack_limit = \"1/m\"\nsyn_ack_burst = 99"
    ));
    let before = generator.sink().unwrap().syn_acks;
    generator.run(PACE, 1000, SOON).unwrap();
    settled(&agent, Reason::SynAckLimit, 800);
    let sent = generator.sink().unwrap().syn_acks - before;
    assert!(
        (100..=101).contains(&sent),
        "{sent} SYN-ACKs for one victim"
    );
}

#[test]
fn c_15_nmap_null_fin_and_xmas_scans_learn_nothing_and_c_18_an_ack_scan_is_reset() {
    let scene = Scene::new();
    let target = scene.server.v4.to_string();
    // Port 9 is closed: without netmoat the kernel's RST says so.
    let scan = |kind: &str| {
        run(
            &scene.client.ns,
            "nmap",
            &[kind, "-n", "-Pn", "--max-retries", "0", "-p", "9", &target],
        )
    };
    for kind in ["-sN", "-sF", "-sX"] {
        assert!(
            scan(kind).contains("9/tcp closed"),
            "{kind} without netmoat"
        );
    }
    let agent = scene.agent("");
    for kind in ["-sN", "-sF", "-sX"] {
        let before = agent.packets(Reason::TcpFlags).unwrap();
        let report = scan(kind);
        assert!(report.contains("9/tcp open|filtered"), "{kind}: {report}");
        settled(&agent, Reason::TcpFlags, before + 1);
    }
    // An idle ACK to no socket is honest (a peer that missed our restart): it gets its RST.
    assert!(scan("-sA").contains("9/tcp unfiltered"));
    drop(agent);
    assert!(scan("-sN").contains("9/tcp closed"), "lifted again");
}

#[test]
fn c_16_land_and_port_zero_are_dropped() {
    let scene = Scene::new();
    let agent = scene.agent("");
    let target = scene.server.v4.to_string();
    let port = PORT.to_string();
    let hping = |args: &[&str]| {
        run(
            &scene.attacker.ns,
            "hping3",
            &[&["--count", "5", "--interval", "u1000"], args, &[&target]].concat(),
        )
    };
    hping(&["--syn", "--destport", &port, "--spoof", &target]);
    settled(&agent, Reason::TcpSource, 5);
    hping(&["--syn", "--destport", "0"]);
    settled(&agent, Reason::TcpPortZero, 5);
    scene.visit(4);
}

#[test]
fn an_ack_flood_is_dropped_while_cookies_are_out_and_the_client_is_unharmed() {
    let scene = Scene::new();
    let agent = scene.agent(ALWAYS);
    scene.visit(4);
    let generator = Generator::new(&scene.attacker).unwrap();
    for family in [4, 6] {
        generator
            .aim(&Flood::false_ack(&scene.server, family, PORT))
            .unwrap();
        let before = agent.packets(Reason::CookieFalse).unwrap();
        let flooding = generator.start(Pace::PerSecond(20_000), Duration::from_secs(2));
        settled(&agent, Reason::CookieFalse, before + 2000);
        scene.visit(family);
        flooding.stop().unwrap();
    }
    let sink = generator.sink().unwrap();
    assert_eq!(sink.rsts, 0, "none of them reached the kernel");
}

#[test]
fn forwarded_traffic_is_left_alone_in_the_middle_of_a_flood() {
    // R-GEN-1: the server is a router here; the client's listener behind it is not ours to answer for.
    let scene = Scene::new();
    let agent = scene.agent(ALWAYS);
    scene.server.ns.sysctl("net.ipv4.ip_forward", "1").unwrap();
    let far: IpAddr = "192.0.2.9".parse().unwrap();
    scene
        .client
        .ns
        .ip(&format!("addr add {far}/32 dev lo"))
        .unwrap();
    scene
        .server
        .ns
        .ip(&format!(
            "route add {far}/32 via {} dev eth0",
            scene.client.v4
        ))
        .unwrap();
    scene
        .attacker
        .ns
        .ip(&format!(
            "route add {far}/32 via {} dev eth0",
            scene.server.v4
        ))
        .unwrap();
    let _far_server = Server::start(&scene.client.ns, (far, PORT).into()).unwrap();
    let before = agent.packets(Reason::CookieSent).unwrap();
    visit(&scene.attacker.ns, (far, PORT).into(), HONEST).unwrap();
    assert_eq!(agent.packets(Reason::CookieSent).unwrap(), before);
    assert!(agent.packets(Reason::SynUnprotected).unwrap() > 0);
}
