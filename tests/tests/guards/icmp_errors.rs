//! Forged ICMP errors (R-ICMP-1 to R-ICMP-3, C-44): for no socket limited, of an impossible MTU dropped, while a true one
//! passes beside ten thousand forged ones a second.

use std::{io::Write as _, net::IpAddr};

use etherparse::IpNumber;
use net_common::verdict::Reason;
use net_tests::{
    guards::{Route, Wire, beside, between, icmp, ping, quote, stranger, too_big, tool},
    scene::{PATIENCE, Scene, assert_sound, await_count, say},
    topology::Host,
    wait,
};
use tempfile::NamedTempFile;

/// What forged errors get together.
const FEW: &str = "[icmp]\n\
    path_mtu = { pool = \"20/s\" }\n\
    unreachable = { pool = \"20/s\" }\n\
    time_exceeded = { pool = \"20/s\" }";

/// The `n`-th forged "packet too big" of a family: from a stranger, for an echo reply that the server never sent.
fn forged(server: &Host, family: u8, mtu: u32, n: u32) -> Vec<u8> {
    let (own, far) = (server.ip(family), stranger(family, n));
    let protocol = if family == 4 {
        IpNumber::ICMP
    } else {
        IpNumber::IPV6_ICMP
    };
    let mut quoted = quote(own, far, protocol, (0, 0));
    // Linux takes the path MTU of an answer to an echo request, for which there is no socket either, and for IPv6 of
    // anything.
    let at = quoted.len() - 8;
    quoted[at] = if family == 4 { 0 } else { 129 };
    too_big(&between(far, own), mtu, &quoted)
}

/// Of how many destinations a host believes that their path MTU is less.
fn believed(host: &Host, family: u8) -> usize {
    let mut questions = NamedTempFile::new().unwrap();
    for n in 0..MANY {
        writeln!(questions, "route get {}", stranger(family, n)).unwrap();
    }
    let questions = questions.path().to_str().unwrap();
    tool(host, &["ip", "-oneline", "-batch", questions])
        .lines()
        .filter(|line| line.contains("mtu "))
        .count()
}

/// Forged errors, each for another destination.
const MANY: u32 = 500;

#[test]
fn c_44_forged_packet_too_big_for_no_socket_is_limited_r_icmp_3() {
    let scene = Scene::new();
    let wire = Wire::new(&scene.attacker, &scene.server);
    for family in [4, 6] {
        let flood = || (0..MANY).for_each(|n| wire.send(&forged(&scene.server, family, 1300, n)));
        flood();
        let what = format!("IPv{family} to be fooled without netmoat");
        wait::until(&what, PATIENCE, || believed(&scene.server, family) >= 400).unwrap();
        let flag = format!("-{family}");
        tool(&scene.server, &["ip", &flag, "route", "flush", "cache"]);
        assert_eq!(believed(&scene.server, family), 0);

        let agent = scene.protect(FEW);
        let start = std::time::Instant::now();
        flood();
        await_count(&agent, Reason::PathMtuLimit, u64::from(MANY) / 2);
        let fooled = believed(&scene.server, family);
        // The burst is a second's worth.
        let most = 21 + 20 * (start.elapsed().as_secs() as usize + 1);
        assert!(fooled <= most, "IPv{family}: {fooled}, at most {most}");
        let unmatched = agent.packets(Reason::IcmpUnmatched).unwrap();
        assert!(unmatched >= u64::from(MANY) * 9 / 10, "{unmatched}");
        assert_sound(&agent);
    }
}

#[test]
fn c_44_a_path_mtu_below_1280_is_dropped_r_icmp_2() {
    let scene = Scene::new();
    let route = Route::new(&scene);
    let agent = scene.protect("");
    let (mut here, mut there) = route.connect(&scene.server, 6);
    say(&mut here, &mut there, b"hello");
    let wire = Wire::new(&scene.attacker, &scene.server);
    let (own, far) = (here.local_addr().unwrap(), here.peer_addr().unwrap());
    let quoted = quote(own.ip(), far.ip(), IpNumber::TCP, (own.port(), far.port()));
    for mtu in [0, 68, 1000, 1279] {
        wire.send(&too_big(&between(stranger(6, 1), own.ip()), mtu, &quoted));
    }
    await_count(&agent, Reason::PathMtuTooSmall, 4);
    assert_eq!(route.path_mtu(&scene.server, 6), None);
    // As attackers send it.
    let (from, to) = (stranger(6, 2).to_string(), own.ip().to_string());
    let words = [
        "timeout", "10", "icmp6", "-i", "eth0", "-s", &from, "-d", &to, "-E", "-m", "600",
    ];
    let printed = tool(&scene.attacker, &words);
    assert!(!printed.contains("rror"), "{printed}");
    await_count(&agent, Reason::PathMtuTooSmall, 5);
    say(&mut here, &mut there, &[1; 1 << 15]);
    assert_sound(&agent);
}

#[test]
fn c_44_a_true_path_mtu_is_taken_beside_ten_thousand_forged_ones_a_second_r_icmp_1() {
    let scene = Scene::new();
    let route = Route::new(&scene);
    let agent = scene.protect(FEW);
    let wire = Wire::new(&scene.attacker, &scene.server);
    for family in [4, 6] {
        let (mut here, mut there) = route.connect(&scene.server, family);
        say(&mut here, &mut there, &[1; 1 << 15]);
        assert_eq!(route.path_mtu(&scene.server, family), None);
        let before = agent.packets(Reason::PathMtuLimit).unwrap();
        let forge = |n| wire.send(&forged(&scene.server, family, 1290, n));
        let ((), sent) = beside(10_000, forge, || {
            await_count(&agent, Reason::PathMtuLimit, before + 2000);
            route.narrow(1400);
            say(&mut here, &mut there, &[2; 1 << 15]);
            await_count(&agent, Reason::PathMtuLimit, before + 4000);
        });
        assert_eq!(route.path_mtu(&scene.server, family), Some(1400));
        assert!(sent >= 4000);
        route.narrow(1500);
    }
    assert_sound(&agent);
}

#[test]
fn forged_unreachables_and_time_exceeded_are_limited_and_pings_go_on_r_icmp_3() {
    let scene = Scene::new();
    let agent = scene.protect(FEW);
    let wire = Wire::new(&scene.attacker, &scene.server);
    for family in [4, 6] {
        let own: IpAddr = scene.server.ip(family);
        let types = if family == 4 { [3, 11] } else { [1, 3] };
        let flood = |n: u32| {
            let far = stranger(family, n);
            let quoted = quote(own, far, IpNumber::TCP, (40_000, 443));
            let kind = types[n as usize % 2];
            wire.send(&icmp(&between(far, own), kind, 0, 0, &quoted));
        };
        let [unreachable, exceeded] = [Reason::UnreachableLimit, Reason::TimeExceededLimit]
            .map(|reason| (reason, agent.packets(reason).unwrap()));
        let (pings, _) = beside(4000, flood, || {
            for (reason, before) in [unreachable, exceeded] {
                await_count(&agent, reason, before + 300);
            }
            let to = scene.client.ip(family).to_string();
            ping(&scene.server, &["-c", "10", "-i", "0.05", &to])
        });
        assert_eq!(pings.sent, pings.received);
    }
    assert_sound(&agent);
}

/// Who sends an error proves nothing, but a socket of ours does: an error for it draws from a share that no flood touches.
#[test]
fn an_unreachable_for_an_open_connection_passes_beside_a_flood_of_forged_ones() {
    let scene = Scene::new();
    let route = Route::new(&scene);
    let agent = scene.protect(FEW);
    let wire = Wire::new(&scene.attacker, &scene.server);
    let server = &scene.server;
    let flood = |n| {
        let (own, far) = (server.ip(4), stranger(4, n));
        let quoted = quote(own, far, IpNumber::UDP, (40_000, 53));
        wire.send(&icmp(&between(far, own), 3, 3, 0, &quoted));
    };
    let socket = server.ns.run(|| {
        let socket = std::net::UdpSocket::bind(server.at(4, 0)).unwrap();
        // Nobody listens there.
        socket.connect(route.far.at(4, 9)).unwrap();
        socket
    });
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    beside(4000, flood, || {
        await_count(&agent, Reason::UnreachableLimit, 500);
        for _ in 0..5 {
            // A refusal is told once, by whichever call comes next.
            let _ = socket.send(b"hello");
            let error = socket.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
    });
    assert_sound(&agent);
}
