//! The laboratory itself: what the other tests stand on.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    flood::{Flood, Sources},
    lab::{Generator, Pace, Pass},
    netns::Namespace,
    topology::{Lan, Pair},
    wait,
};

const PORT: u16 = 8080;

#[test]
fn a_namespace_is_gone_when_dropped() {
    let namespace = Namespace::new("gone").unwrap();
    let path = namespace.path();
    assert!(path.exists());
    drop(namespace);
    assert!(!path.exists());
}

#[test]
fn a_namespace_is_gone_after_a_panic_inside() {
    let namespace = Namespace::new("panic").unwrap();
    let path = namespace.path();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        namespace.run(|| panic!("on purpose"));
    }));
    assert!(outcome.is_err());
    assert!(!path.exists());
}

#[test]
fn sysctls_are_those_of_the_namespace() {
    let [one, other] = ["one", "other"].map(|role| Namespace::new(role).unwrap());
    one.sysctl("net.ipv4.tcp_syncookies", "0").unwrap();
    assert_eq!(one.read_sysctl("net.ipv4.tcp_syncookies").unwrap(), "0");
    assert_eq!(other.read_sysctl("net.ipv4.tcp_syncookies").unwrap(), "1");
    assert!(one.sysctl("net.ipv4.no_such_thing", "0").is_err());
}

#[test]
fn processes_inside_see_the_hosts_sys() {
    let namespace = Namespace::new("sys").unwrap();
    namespace
        .succeed(std::process::Command::new("test").args(["-e", "/sys/fs/bpf"]))
        .unwrap();
    assert!(Path::new("/sys/fs/bpf").exists());
}

#[test]
fn hosts_of_a_lan_talk_over_both_families() {
    let lan = Lan::new().unwrap();
    let [server, client] = ["server", "client"].map(|role| lan.host(role).unwrap());
    for family in [4, 6] {
        let listener = server
            .ns
            .run(|| TcpListener::bind(server.at(family, PORT)))
            .unwrap();
        let mut out = client
            .ns
            .run(|| TcpStream::connect(server.at(family, PORT)))
            .unwrap();
        out.write_all(b"moat").unwrap();
        drop(out);
        let (mut connection, peer) = listener.accept().unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), peer.ip()), ("moat", client.ip(family)));
    }
}

/// The kernel answers only frames whose lengths and checksums are right: with a listener that has room, each
/// SYN gets its SYN-ACK.
#[test]
fn every_syn_of_a_flood_is_one_that_the_kernel_answers() {
    let lan = Lan::new().unwrap();
    let [server, attacker] = ["server", "attacker"].map(|role| lan.host(role).unwrap());
    server.route_sources_via(&attacker).unwrap();
    server.ns.sysctl("net.ipv4.tcp_syncookies", "2").unwrap();
    let _listeners = [4, 6].map(|f| {
        server
            .ns
            .run(|| TcpListener::bind(server.at(f, PORT)))
            .unwrap()
    });
    let generator = Generator::new(&attacker).unwrap();
    for (family, sources) in [
        (4, Sources::Anywhere),
        (6, Sources::Anywhere),
        (4, Sources::Prefix("10.9.8.0".parse().unwrap(), 24)),
        (6, Sources::Prefix("2001:db8:1:2::".parse().unwrap(), 64)),
        (4, Sources::One("10.1.2.3".parse().unwrap())),
    ] {
        let before = generator.sink().unwrap();
        generator
            .aim(&Flood::syn(&server, family, PORT).from(sources))
            .unwrap();
        // One source makes the same connection again at times; three ports are never the same.
        let sent = generator
            .run(Pace::PerSecond(4_000), 1000, Duration::from_secs(5))
            .unwrap();
        assert_eq!(sent.packets, 1000);
        // A busy machine may lose some in a link's ring.
        wait::until(
            &format!("SYN-ACKs to {sources:?}"),
            Duration::from_secs(5),
            || generator.sink().unwrap().syn_acks >= before.syn_acks + 950,
        )
        .unwrap();
    }
}

#[test]
fn every_false_ack_of_a_flood_is_reset_by_the_kernel() {
    let pair = Pair::new().unwrap();
    let mut pass = Pass::load().unwrap();
    pass.attach(&pair.server.ns, &pair.server.link).unwrap();
    let generator = Generator::new(&pair.attacker).unwrap();
    for family in [4, 6] {
        let before = generator.sink().unwrap();
        generator
            .aim(&Flood::false_ack(&pair.server, family, PORT))
            .unwrap();
        generator
            .run(Pace::PerSecond(4_000), 200, Duration::from_secs(5))
            .unwrap();
        wait::until("RSTs", Duration::from_secs(5), || {
            generator.sink().unwrap().rsts >= before.rsts + 190
        })
        .unwrap();
    }
}

#[test]
fn a_paced_flood_keeps_its_pace() {
    let pair = Pair::new().unwrap();
    let mut pass = Pass::load().unwrap();
    pass.attach(&pair.server.ns, &pair.server.link).unwrap();
    let generator = Generator::new(&pair.attacker).unwrap();
    generator.aim(&Flood::syn(&pair.server, 4, PORT)).unwrap();
    let flooding = generator.start(Pace::PerSecond(10_000), Duration::from_secs(1));
    wait::until("the flood to get going", Duration::from_secs(5), || {
        generator.generated().unwrap() >= 1000
    })
    .unwrap();
    let sent = flooding.stop().unwrap();
    // Never faster; how much slower depends on the machine.
    let limit = 10_000.0 * sent.elapsed.as_secs_f64() + 64.0;
    assert!(sent.packets as f64 <= limit, "{sent:?}");
}

#[test]
fn an_agent_answers_and_its_data_path_sends_cookies() {
    let lan = Lan::new().unwrap();
    let [server, client, attacker] = ["server", "client", "attacker"].map(|r| lan.host(r).unwrap());
    let agent = Agent::start(&server, "[syn]\nmode = \"always\"").unwrap();
    let listener = server
        .ns
        .run(|| TcpListener::bind(server.at(4, PORT)))
        .unwrap();
    agent.await_listener(PORT, true).unwrap();
    let generator = Generator::new(&attacker).unwrap();
    generator.aim(&Flood::syn(&server, 4, PORT)).unwrap();
    let flooding = generator.start(Pace::PerSecond(20_000), Duration::from_secs(20));
    wait::until("cookies", Duration::from_secs(5), || {
        generator.sink().unwrap().syn_acks >= 1000
    })
    .unwrap();
    let out = client
        .ns
        .run(|| TcpStream::connect(server.at(4, PORT)))
        .unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, out.local_addr().unwrap());
    flooding.stop().unwrap();
    assert!(agent.packets(Reason::CookieSent).unwrap() >= 1000);
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 1);
}

#[test]
fn an_agent_that_refuses_says_why() {
    let namespace = Namespace::new("refusal").unwrap();
    let (code, log) = Agent::launch(&namespace, &["none0"], "")
        .unwrap()
        .refusal()
        .unwrap();
    assert_ne!(code, 0);
    assert!(log.contains("none0"), "{log}");
}
