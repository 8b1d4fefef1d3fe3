//! A million forged sources (R-ICMP-7): who was there before is unharmed, and the agent is idle.

use std::{fs, net::IpAddr, time::Duration};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    guards::{counted, default_route, echo_request, ping},
    lab::{Pace, SourceGenerator, Sources},
    scene::{PORT, Scene, assert_sound, await_count},
    server::{Server, visit},
    wait,
};

/// Forged sources, each of which sends once.
const SOURCES: u32 = 1_000_000;
/// So many a second leave a small machine time for others, and what is late never fills a veth's 256 places, in which
/// honest packets would be lost.
const PACE: Pace = Pace::PerSecond(40_000);
/// As long as a million may take where the machine is not idle.
const LONG: Duration = Duration::from_secs(60);

/// Seconds of CPU that the agent has used, and the octets that it holds.
fn usage(agent: &Agent) -> (f64, u64) {
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", agent.pid())).unwrap();
    let stat = read("stat");
    // Behind the name, which may hold anything: utime and stime are fields 14 and 15.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    let status = read("status");
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    // USER_HZ is 100 on every architecture of Linux that matters here.
    (ticks / 100.0, resident * 1024)
}

fn requests(scene: &Scene, family: u8) -> Sources {
    let ipv6 = family == 6;
    let any: IpAddr = if ipv6 {
        "::".parse().unwrap()
    } else {
        "0.0.0.0".parse().unwrap()
    };
    let mut request = echo_request(any, scene.server.ip(family));
    request[..6].copy_from_slice(&scene.server.link.mac);
    request[6..12].copy_from_slice(&scene.attacker.link.mac);
    let mut frame = [0; 96];
    frame[..request.len()].copy_from_slice(&request);
    Sources {
        frame,
        ipv6,
        first: 0,
        count: SOURCES,
        checksum: true,
    }
}

fn a_million_sources(family: u8) {
    let scene = Scene::new();
    default_route(&scene.server, &scene.attacker);
    let server = Server::start(&scene.server.ns, scene.server.at(family, PORT)).unwrap();
    let mut generator = SourceGenerator::new(&scene.attacker, 0).unwrap();
    let requests = requests(&scene, family);
    let echos = if family == 4 {
        "IcmpInEchos"
    } else {
        "Icmp6InEchos"
    };
    let before = counted(&scene.server, echos);
    generator
        .send(&requests, Pace::PerSecond(20_000), 10_000, LONG)
        .unwrap();
    wait::until("a flood without netmoat", LONG, || {
        counted(&scene.server, echos) >= before + 9000
    })
    .unwrap();

    let agent = scene.protect("[icmp]\necho_request = { pool = \"100/s\" }");
    agent.await_listener(PORT, true).unwrap();
    let target = scene.server.ip(family).to_string();
    let honest = |count: &str| ping(&scene.client, &["-c", count, "-i", "0.1", &target]);
    // The client becomes known by its pings, the other host by its connection.
    let neighbour = scene.host("neighbour");
    visit(&neighbour.ns, server.address(), Duration::from_secs(5)).unwrap();
    let pings = honest("25");
    assert_eq!(pings.sent, pings.received);
    let known = agent.status().unwrap().guards.sources;
    // In IPv6 both are of one /64, and have one place.
    let places = if family == 4 { 2 } else { 1 };
    assert!(known.proven >= 1, "{known:?}");
    assert!(known.steady + known.proven >= places, "{known:?}");

    let before = counted(&scene.server, echos);
    let (cpu, memory) = usage(&agent);
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            generator
                .send(&requests, PACE, SOURCES.into(), LONG)
                .unwrap()
        });
        await_count(&agent, Reason::EchoRequestLimit, 10_000);
        let (mut sent, mut received) = (0, 0);
        while !flood.is_finished() {
            let pings = honest("20");
            sent += pings.sent;
            received += pings.received;
            visit(&neighbour.ns, server.address(), Duration::from_secs(5)).unwrap();
        }
        // One in a hundred, or a single one.
        assert!(
            (sent - received) * 100 <= sent.max(100),
            "{received} of {sent} answered"
        );
        flood.join().unwrap()
    });
    assert_eq!(sent.packets, u64::from(SOURCES));
    let (cpu_after, memory_after) = usage(&agent);
    let seconds = sent.elapsed.as_secs_f64();
    let share = (cpu_after - cpu) / seconds;
    assert!(
        share < 0.1,
        "{:.1} % of a core in {seconds:.1} s",
        share * 100.0
    );
    let grown = memory_after.saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} octets more");

    let dropped = agent.packets(Reason::EchoRequestLimit).unwrap();
    assert!(dropped >= u64::from(SOURCES) * 9 / 10, "{dropped} dropped");
    let reached = counted(&scene.server, echos) - before;
    assert!(
        reached <= 200 * (seconds as u64 + 2),
        "{reached} reached the kernel"
    );
    // None of the forged ones has a place: each came once.
    let sources = agent.status().unwrap().guards.sources;
    assert!(sources.steady <= known.steady + 5, "{sources:?}");
    assert_eq!(
        (sources.proven, sources.replaced, sources.refused),
        (known.proven, 0, 0)
    );
    assert!(sources.places >= 1 << 16);
    let text = agent.netmoat(&["status"]).unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("the table is 0 % full"), "{text}");
    assert_sound(&agent);
}

#[test]
fn c_42_a_million_ipv4_sources_leave_known_hosts_unharmed_and_the_agent_idle_r_icmp_7() {
    a_million_sources(4);
}

#[test]
fn c_42_a_million_ipv6_sources_leave_known_hosts_unharmed_and_the_agent_idle_r_icmp_7() {
    a_million_sources(6);
}
