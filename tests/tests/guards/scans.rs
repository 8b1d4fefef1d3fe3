//! Scans, source routes, and segments without a socket (R-TCP-2, R-TCP-8 to R-TCP-11; C-15, C-18, C-19, C-21, C-26).

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use etherparse::IpNumber;
use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    flood::Flood,
    frames::{Envelope, segment},
    guards::{Wire, between, counted, default_route, forward_nothing, stranger, tool, udp},
    lab::{Generator, Pace},
    neighbors::report::observed,
    scene::{PATIENCE, PORT, Scene, assert_sound, await_count, talk},
    server::{Server, visit},
    topology::Host,
    wait,
};

/// Where nobody listens.
const CLOSED: u16 = 9;

fn nmap(from: &Host, to: &Host, words: &[&str]) -> String {
    let (port, to) = (format!("{PORT},{CLOSED}"), to.v4.to_string());
    let words = [&["nmap", "-n", "-Pn", "-p", &port], words, &[&to]].concat();
    tool(from, &words)
}

#[track_caller]
fn assert_states(report: &str, open: &str, closed: &str) {
    let expected = [(PORT, open), (CLOSED, closed)];
    for (port, state) in expected {
        let line = report
            .lines()
            .find(|line| line.starts_with(&format!("{port}/tcp")));
        let found = line.and_then(|line| line.split_whitespace().nth(1));
        assert_eq!(found, Some(state), "port {port}\n{report}");
    }
}

#[test]
fn c_15_c_21_scans_that_hide_learn_nothing_and_open_ones_the_truth() {
    let scene = Scene::new();
    let server = Server::start(&scene.server.ns, scene.server.at(4, PORT)).unwrap();
    let scan = |words: &[&str]| nmap(&scene.attacker, &scene.server, words);
    let once = ["--max-retries", "1"];
    let open = ["-sS", "-sT"];
    // First a scan in fragments of eight octets, which a port filter that reads first fragments alone does not see.
    let fragments = [&once[..], &["-sS", "-f"]].concat();
    assert_states(&scan(&fragments), "open", "closed");

    let agent = scene.protect("");
    for kind in open {
        assert_states(&scan(&[kind]), "open", "closed");
    }
    for kind in ["-sN", "-sF", "-sX"] {
        let report = scan(&[&once[..], &[kind]].concat());
        assert_states(&report, "open|filtered", "open|filtered");
    }
    assert!(agent.packets(Reason::TcpFlags).unwrap() >= 6);
    assert_states(&scan(&fragments), "filtered", "filtered");
    assert!(agent.packets(Reason::FragmentTiny).unwrap() >= 2);
    for kind in open {
        assert_states(&scan(&[kind]), "open", "closed");
    }
    visit(&scene.client.ns, server.address(), PATIENCE).unwrap();
    assert_sound(&agent);
}

#[test]
fn c_18_an_ack_without_a_socket_is_reset_in_peace_r_tcp_8() {
    let scene = Scene::new();
    forward_nothing(&scene.server);
    let agent = scene.protect("");
    for family in [4, 6] {
        let peer = scene.raw(family);
        for port in 40_000..40_020 {
            peer.send(&segment(port, PORT, 1, "A"), &[]).unwrap();
            peer.receive("an RST", port, |s| s.tcp.rst).unwrap();
        }
    }
    assert_eq!(agent.status().unwrap().guards.strays_left_alone, None);
    assert!(!agent.status().unwrap().guards.stray_attack);
    assert_sound(&agent);
}

/// Waits for a flood that has begun to be seen as one.
fn await_attack(agent: &Agent) {
    wait::until("an attack to be seen", PATIENCE, || {
        agent.status().unwrap().guards.stray_attack
    })
    .unwrap();
}

#[test]
fn a_flood_of_acks_is_an_attack_and_open_connections_go_on_r_tcp_8() {
    let scene = Scene::new();
    forward_nothing(&scene.server);
    let listener = scene.listen(4);
    let generator = Generator::new(&scene.attacker).unwrap();
    let paced = Pace::PerSecond(10_000);
    for family in [4, 6] {
        generator
            .aim(&Flood::false_ack(&scene.server, family, CLOSED))
            .unwrap();
        let before = generator.sink().unwrap().rsts;
        generator.run(paced, 2000, PATIENCE).unwrap();
        let resets = || generator.sink().unwrap().rsts - before;
        wait::until("RSTs", PATIENCE, || resets() >= 1500).unwrap();

        let agent = scene.protect("");
        let (mut here, mut there) = scene.connect(&listener, 4);
        let before = generator.sink().unwrap().rsts;
        let flood = generator.start(paced, Duration::from_secs(60));
        await_attack(&agent);
        await_count(&agent, Reason::StrayLimit, 5000);
        talk(&mut here, &mut there);
        let (mut new, mut taken) = scene.connect(&listener, 4);
        talk(&mut new, &mut taken);
        await_count(&agent, Reason::StrayLimit, 10_000);
        talk(&mut here, &mut there);
        let sent = flood.stop().unwrap();
        let resets = generator.sink().unwrap().rsts - before;
        // Those before it was noticed, and the pool's share.
        assert!(resets < sent.packets / 3, "{resets} RSTs for {sent:?}");
        assert_sound(&agent);
    }
}

#[test]
fn a_flood_of_rsts_is_dropped_and_open_connections_end_with_theirs_r_tcp_8() {
    let scene = Scene::new();
    forward_nothing(&scene.server);
    let listener = scene.listen(4);
    let agent = scene.protect("");
    let (mut here, mut there) = scene.connect(&listener, 4);
    let to = scene.server.v4.to_string();
    let words = [
        "hping3",
        "--rst",
        "--rand-source",
        "--interval",
        "u50",
        "--count",
        "20000",
        "--quiet",
        "--destport",
        "9",
        &to,
    ];
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| tool(&scene.attacker, &words));
        await_count(&agent, Reason::StrayRst, 500);
        talk(&mut here, &mut there);
        flood.join().unwrap();
    });
    assert!(agent.status().unwrap().guards.stray_attack);
    // The RST of a connection is its own: it ends, while the attack still counts.
    nix::sys::socket::setsockopt(
        &here,
        nix::sys::socket::sockopt::Linger,
        &nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )
    .unwrap();
    drop(here);
    let error = std::io::Read::read(&mut there, &mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_sound(&agent);
}

#[test]
fn c_19_reflected_syn_acks_are_limited_and_outgoing_connections_work_r_tcp_9() {
    let scene = Scene::new();
    forward_nothing(&scene.server);
    default_route(&scene.server, &scene.attacker);
    let outside = Server::start(&scene.client.ns, scene.client.at(4, PORT)).unwrap();
    let to = scene.server.v4.to_string();
    let flood = |count: &str| {
        let words = [
            "hping3",
            "--syn",
            "--ack",
            "--rand-source",
            "--interval",
            "u100",
            "--count",
            count,
            "--quiet",
            "--destport",
            "40000",
            &to,
        ];
        tool(&scene.attacker, &words)
    };
    let before = counted(&scene.server, "TcpOutRsts");
    flood("2000");
    let resets = counted(&scene.server, "TcpOutRsts") - before;
    assert!(resets >= 1000, "{resets} RSTs without netmoat");

    let agent = scene.protect("");
    let before = counted(&scene.server, "TcpOutRsts");
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood("10000"));
        await_count(&agent, Reason::StraySynAckLimit, 300);
        let mut visits = 0;
        while !flood.is_finished() {
            visit(&scene.server.ns, outside.address(), PATIENCE).unwrap();
            visits += 1;
        }
        assert!(visits > 0);
    });
    let resets = counted(&scene.server, "TcpOutRsts") - before;
    let most = 201 + 200 * (start.elapsed().as_secs() + 1);
    assert!(resets <= most, "{resets} RSTs, at most {most}");
    assert_sound(&agent);
}

#[test]
fn modes_observe_and_off_let_a_scan_and_a_flood_pass_and_count_them_or_not() {
    let scene = Scene::new();
    forward_nothing(&scene.server);
    let generator = Generator::new(&scene.attacker).unwrap();
    generator
        .aim(&Flood::false_ack(&scene.server, 4, CLOSED))
        .unwrap();
    let flood = || {
        let before = generator.sink().unwrap().rsts;
        let sent = generator
            .run(Pace::PerSecond(10_000), 10_000, PATIENCE)
            .unwrap();
        let resets = || generator.sink().unwrap().rsts - before;
        let most = sent.packets * 9 / 10;
        wait::until("an RST for each", PATIENCE, || resets() >= most).unwrap();
    };
    let agent = scene.protect("[tcp]\nmode = \"observe\"");
    flood();
    assert!(observed(&agent, Reason::StrayLimit) > 1000);
    assert_eq!(agent.packets(Reason::StrayLimit).unwrap(), 0);
    drop(agent);
    let agent = scene.protect("[tcp]\nmode = \"off\"");
    flood();
    assert_eq!(observed(&agent, Reason::StrayLimit), 0);
    assert!(!agent.status().unwrap().guards.stray_attack);
    assert_sound(&agent);
}

#[test]
fn c_26_source_routes_are_dropped_and_router_alert_passes_r_tcp_11() {
    let scene = Scene::new();
    let wire = Wire::new(&scene.attacker, &scene.server);
    let witness = Wire::new(&scene.server, &scene.attacker);
    let to = scene.server.v4.to_string();
    let probe = |kind: &str| {
        let options = format!("{kind} 198.18.0.77");
        let words = [
            "nping",
            "--icmp",
            "-c",
            "3",
            "--delay",
            "10ms",
            "--ip-options",
            &options,
            &to,
        ];
        tool(&scene.attacker, &words)
    };
    // The kernel reads the option before anything else.
    let arrived = || {
        let routed = |frame: &Vec<u8>| {
            frame.len() > 34
                && frame[..6] == scene.server.link.mac
                && frame[12..14] == [8, 0]
                && frame[14] > 0x45
        };
        witness.seen().iter().filter(|frame| routed(frame)).count()
    };
    probe("L");
    wait::until("a source route to arrive", PATIENCE, || arrived() > 0).unwrap();

    let agent = scene.protect("");
    arrived();
    for (kind, expected) in [("L", 3), ("S", 6)] {
        probe(kind);
        await_count(&agent, Reason::SourceRoute, expected);
    }
    let hping = [
        "hping3",
        "--icmp",
        "--lsrr",
        "198.18.0.77",
        "-c",
        "1",
        "-q",
        &to,
    ];
    let printed = tool(&scene.attacker, &hping);
    assert!(printed.contains("1 packets transmitted"), "{printed}");
    assert_eq!(arrived(), 0);

    // IGMP and whatever else bears a router alert passes.
    const ALERT: &[u8] = &[0x94, 4, 0, 0];
    let group = Ipv4Addr::new(224, 0, 0, 1);
    let query = Envelope {
        ip_options: ALERT,
        ..between(stranger(4, 1), group.into())
    };
    let alerted = |frames: &[Vec<u8>]| {
        let ours =
            |frame: &&Vec<u8>| frame.len() >= 38 && frame[23] == 2 && frame[34..38] == *ALERT;
        frames.iter().any(|frame| ours(&frame))
    };
    wait::until("an IGMP query", PATIENCE, || {
        wire.send(&query.wrap(IpNumber::IGMP, &[0x11, 100, 0xee, 0x9b, 0, 0, 0, 0]));
        alerted(&witness.seen())
    })
    .unwrap();
    let own = scene.server.at(4, 0);
    let socket = scene.server.ns.run(|| UdpSocket::bind(own).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let envelope = Envelope {
        ip_options: ALERT,
        ..between(stranger(4, 1), scene.server.ip(4))
    };
    wire.send(&udp(
        &envelope,
        5000,
        socket.local_addr().unwrap().port(),
        b"alert",
    ));
    assert_eq!(socket.recv(&mut [0; 16]).unwrap(), 5);
    assert_sound(&agent);
}
