//! Reflected answers and asked-for ones (R-UDP-1 to R-UDP-4, C-46), and fragments (R-TCP-10, C-21 to C-25).

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
};

use etherparse::IpNumber;
use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    frames::{Envelope, Extension},
    guards::{
        Wire, beside, between, counted, datagram, icmp_message, icmp_number, ping, stranger, tool,
        udp,
    },
    link,
    neighbors::report::observed,
    netns::Namespace,
    process::Process,
    scene::{PATIENCE, PORT, Scene, assert_sound, await_count},
    topology::Host,
    wait,
};

/// Whoever was not asked gets one answer through.
const NOBODY_UNASKED: &str = "[udp]\nresolv_conf = false\nreflection = { pool = \"1/h burst 1\" }";

/// A resolver on a host that has the same answer to every question.
fn resolver(host: &Host) -> Process {
    let words = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--address=/#/192.0.2.7",
        "--address=/#/2001:db8::7",
    ];
    let process = Process::start(&host.ns, Command::new("dnsmasq").args(words)).unwrap();
    let to = SocketAddr::new("127.0.0.1".parse().unwrap(), 53);
    let socket = host.ns.run(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.set_nonblocking(true).unwrap();
    wait::until("the resolver to answer itself", PATIENCE, || {
        let _ = socket.send_to(&question(1), to);
        socket.recv_from(&mut [0; 512]).is_ok()
    })
    .unwrap_or_else(|error| panic!("{error}: {}", process.printed()));
    process
}

/// A question for the address of www.example (RFC 1035 section 4.1).
fn question(id: u16) -> Vec<u8> {
    let mut question = id.to_be_bytes().to_vec();
    question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    question.extend(b"\x03www\x07example\x00\x00\x01\x00\x01");
    question
}

/// Asks so many questions, each after the answer to the one before.
fn ask(socket: &UdpSocket, to: SocketAddr, questions: u16) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for id in 0..questions {
        let mut answer = [0; 512];
        socket.send_to(&question(id), to).unwrap();
        let (len, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((from, &answer[..2]), (to, &id.to_be_bytes()[..]));
        assert!(len > question(id).len(), "no answer in it");
    }
}

/// `dig` from a host.
fn dig(host: &Host, at: IpAddr) {
    let at = format!("@{at}");
    let printed = tool(
        host,
        &["dig", "+short", "+tries=1", "+time=10", &at, "www.example"],
    );
    assert!(printed.contains("192.0.2.7"), "{printed}");
}

/// Answers that nobody asked for, from the `n`-th stranger.
fn reflected(server: &Host, family: u8, n: u32, to: u16) -> Vec<u8> {
    let envelope = between(stranger(family, n), server.ip(family));
    udp(&envelope, 53, to, &[0; 400])
}

#[test]
fn c_46_answers_of_resolvers_asked_pass_beside_a_reflected_flood_r_udp_3() {
    let scene = Scene::new();
    let _resolver = resolver(&scene.client);
    let wire = Wire::new(&scene.attacker, &scene.server);
    let agent = scene.protect(NOBODY_UNASKED);
    for family in [4, 6] {
        let own = scene.server.at(family, 0);
        let socket = scene.server.ns.run(|| UdpSocket::bind(own).unwrap());
        let open = socket.local_addr().unwrap().port();
        let before = agent.packets(Reason::ReflectionLimit).unwrap();
        let flood = |n| wire.send(&reflected(&scene.server, family, n, open));
        beside(2000, flood, || {
            await_count(&agent, Reason::ReflectionLimit, before + 500);
            // Each with a socket that is connected, then all with one that is not.
            dig(&scene.server, scene.client.ip(family));
            let unconnected = scene.server.ns.run(|| UdpSocket::bind(own).unwrap());
            ask(&unconnected, scene.client.at(family, 53), 500);
        });
        drop(socket);
    }
    assert_sound(&agent);
}

#[test]
fn c_46_a_resolver_that_is_configured_is_not_limited_r_udp_3() {
    let scene = Scene::new();
    let _resolver = resolver(&scene.client);
    // Not even who was asked gets more than one answer through.
    let config = |servers: &str| {
        format!(
            "[udp]\nresolv_conf = false\nservers = [{servers}]\n\
             reflection = {{ host = \"1/h burst 1\", pool = \"1/h burst 1\", proven = \"1/h burst 1\" }}"
        )
    };
    let to = scene.client.at(4, 53);
    let socket = || {
        scene
            .server
            .ns
            .run(|| UdpSocket::bind(scene.server.at(4, 0)).unwrap())
    };
    let agent = scene.protect(&config(""));
    let stranger = socket();
    stranger.set_nonblocking(true).unwrap();
    wait::until("an answer to be refused", PATIENCE, || {
        stranger.send_to(&question(1), to).unwrap();
        agent.packets(Reason::ReflectionLimit).unwrap() > 0
    })
    .unwrap();
    drop(agent);

    let agent = scene.protect(&config(&format!("\"{}\"", scene.client.v4)));
    ask(&socket(), to, 500);
    dig(&scene.server, scene.client.ip(4));
    assert_eq!(agent.packets(Reason::ReflectionLimit).unwrap(), 0);
    assert_sound(&agent);
}

#[test]
fn c_46_reflected_answers_to_a_closed_port_drop_in_silence_r_udp_2() {
    let scene = Scene::new();
    let wire = Wire::new(&scene.attacker, &scene.server);
    for family in [4, 6] {
        let unreachables = if family == 4 {
            "IcmpOutDestUnreachs"
        } else {
            "Icmp6OutDestUnreachs"
        };
        let flood =
            || (0..200).for_each(|n| wire.send(&reflected(&scene.server, family, n, 40_000)));
        flood();
        wait::until("a port unreachable without netmoat", PATIENCE, || {
            counted(&scene.server, unreachables) > 0
        })
        .unwrap();
        let agent = scene.protect("[udp]\nresolv_conf = false");
        let before = counted(&scene.server, unreachables);
        flood();
        await_count(&agent, Reason::Reflection, 190);
        assert_eq!(counted(&scene.server, unreachables), before);
        // What does not come from such a port is answered as ever.
        let envelope = between(stranger(family, 60_000), scene.server.ip(family));
        wire.send(&udp(&envelope, 5000, 40_000, b"hello"));
        wait::until("a port unreachable", PATIENCE, || {
            counted(&scene.server, unreachables) > before
        })
        .unwrap();
        assert_sound(&agent);
    }
}

/// The host translates for one behind it: no socket of its own gets the answers.
#[test]
fn c_46_answers_to_a_client_behind_the_host_pass_r_gen_1() {
    let scene = Scene::new();
    let _resolver = resolver(&scene.client);
    let inside = Namespace::new("inside").unwrap();
    let (_, eth0) = link::veth((&scene.server.ns, "in"), (&inside, "eth0"), (201, 202)).unwrap();
    scene
        .server
        .ns
        .ip("addr add 192.168.7.1/24 dev in")
        .unwrap();
    scene.server.ns.sysctl("net.ipv4.ip_forward", "1").unwrap();
    scene
        .server
        .ns
        .nft(
            "table ip nat {\nchain post {\ntype nat hook postrouting priority 100;\n\
             oifname eth0 masquerade\n}\n}\n",
        )
        .unwrap();
    let inside = Host {
        ns: inside,
        link: eth0,
        v4: "192.168.7.2".parse().unwrap(),
        v6: "2001:2:7::2".parse().unwrap(),
    };
    inside
        .ns
        .ip("addr add 192.168.7.2/24 dev eth0\nroute add default via 192.168.7.1")
        .unwrap();
    let agent = scene.protect(NOBODY_UNASKED);
    dig(&inside, scene.client.ip(4));
    let socket = inside.ns.run(|| UdpSocket::bind("192.168.7.2:0").unwrap());
    ask(&socket, scene.client.at(4, 53), 300);
    for reason in [Reason::Reflection, Reason::ReflectionLimit] {
        assert_eq!(agent.packets(reason).unwrap(), 0, "{}", reason.name());
    }
    assert_sound(&agent);
}

#[test]
fn time_servers_that_are_asked_answer_beside_a_reflected_flood_r_udp_3() {
    let scene = Scene::new();
    let wire = Wire::new(&scene.attacker, &scene.server);
    let agent = scene.protect(NOBODY_UNASKED);
    for family in [4, 6] {
        let ntp = scene
            .client
            .ns
            .run(|| UdpSocket::bind(scene.client.at(family, 123)).unwrap());
        // As ntpd asks: from its own port, which others find open.
        let own = scene.server.at(family, 123);
        let daemon = scene.server.ns.run(|| UdpSocket::bind(own).unwrap());
        for socket in [&ntp, &daemon] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let before = agent.packets(Reason::ReflectionLimit).unwrap();
        let flood = |n| {
            let envelope = between(stranger(family, n), scene.server.ip(family));
            wire.send(&udp(&envelope, 123, 123, &[0; 440]));
        };
        beside(2000, flood, || {
            await_count(&agent, Reason::ReflectionLimit, before + 500);
            for _ in 0..50 {
                daemon
                    .send_to(&[0x23; 48], ntp.local_addr().unwrap())
                    .unwrap();
                let (_, from) = ntp.recv_from(&mut [0; 64]).unwrap();
                ntp.send_to(&[0x24; 48], from).unwrap();
                let mut answer = [0; 512];
                // One of the flood may have passed.
                while daemon.recv_from(&mut answer).unwrap().0 != 48 {}
                assert_eq!(answer[0], 0x24);
            }
        });
    }
    assert_sound(&agent);
}

#[test]
fn modes_observe_and_off_let_reflected_answers_pass_and_count_them_or_not() {
    let scene = Scene::new();
    let wire = Wire::new(&scene.attacker, &scene.server);
    let flood = || {
        let before = counted(&scene.server, "UdpNoPorts");
        (0..100).for_each(|n| wire.send(&reflected(&scene.server, 4, n, 40_000)));
        let passed = || counted(&scene.server, "UdpNoPorts") - before;
        wait::until("datagrams to arrive", PATIENCE, || passed() >= 95).unwrap();
    };
    let agent = scene.protect("[udp]\nmode = \"observe\"\nresolv_conf = false");
    flood();
    assert!(observed(&agent, Reason::Reflection) >= 95);
    assert_eq!(agent.packets(Reason::Reflection).unwrap(), 0);
    drop(agent);
    let agent = scene.protect("[udp]\nmode = \"off\"");
    flood();
    assert_eq!(observed(&agent, Reason::Reflection), 0);
    assert_eq!(agent.packets(Reason::UdpPass).unwrap(), 0);
    assert_sound(&agent);
}

/// A datagram of 4,000 octets, which travels in fragments.
fn large(from: &Host, to: &Host, family: u8) {
    let receiver = to.ns.run(|| UdpSocket::bind(to.at(family, 0)).unwrap());
    receiver.set_nonblocking(true).unwrap();
    let sender = from.ns.run(|| UdpSocket::bind(from.at(family, 0)).unwrap());
    let data: Vec<u8> = (0..4000_u16).map(|n| n as u8).collect();
    let mut heard = vec![0; 5000];
    // A bridge that is busy may lose one.
    let len = wait::until_some("a datagram in fragments", PATIENCE, || {
        sender
            .send_to(&data, receiver.local_addr().unwrap())
            .unwrap();
        receiver.recv(&mut heard).ok()
    })
    .unwrap();
    assert_eq!(heard[..len], data);
}

fn large_passes(scene: &Scene) {
    for family in [4, 6] {
        large(&scene.client, &scene.server, family);
        large(&scene.server, &scene.client, family);
        let to = scene.server.ip(family).to_string();
        let pings = ping(&scene.client, &["-c", "5", "-i", "0.1", "-s", "4000", &to]);
        assert_eq!(pings.sent, pings.received);
    }
}

#[test]
fn c_24_large_datagrams_and_pings_pass_in_fragments_r_tcp_10() {
    let scene = Scene::new();
    let agent = scene.protect("");
    large_passes(&scene);
    assert!(agent.packets(Reason::Fragment).unwrap() > 0);
    assert_eq!(agent.packets(Reason::FragmentLimit).unwrap(), 0);
    assert_sound(&agent);
}

#[test]
fn c_25_an_atomic_fragment_passes_r_tcp_10() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let wire = Wire::new(&scene.attacker, &scene.server);
    let socket = scene
        .server
        .ns
        .run(|| UdpSocket::bind(scene.server.at(6, PORT)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let envelope = Envelope {
        extensions: &[Extension::Fragment(0, false)],
        ..between(stranger(6, 1), scene.server.ip(6))
    };
    wire.send(&udp(&envelope, 5000, PORT, b"atomic"));
    let mut heard = [0; 16];
    let len = socket.recv(&mut heard).unwrap();
    assert_eq!(&heard[..len], b"atomic");
    // The same of a foreign tool, an echo request that is answered.
    let before = counted(&scene.server, "Icmp6OutEchoReplies");
    let to = scene.server.v6.to_string();
    let words = [
        "timeout", "10", "frag6", "-i", "eth0", "-d", &to, "-O", "atomic",
    ];
    let printed = tool(&scene.attacker, &words);
    wait::until("an answer to frag6", PATIENCE, || {
        counted(&scene.server, "Icmp6OutEchoReplies") > before
    })
    .unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert_sound(&agent);
}

/// A packet of 65,535 octets and more, in fragments of 1,400.
fn ping_of_death(wire: &Wire, envelope: &Envelope) {
    let message = icmp_message(
        envelope,
        if envelope.is_v6() { 128 } else { 8 },
        0,
        1,
        &[0; 1392],
    );
    // The last begins within 65,535 octets, where a fragment can, and ends beyond.
    for n in 0..47 {
        let data: Vec<u8> = if n == 0 {
            message.clone()
        } else {
            vec![0; 1400]
        };
        let offset = n * 175;
        wire.send(&fragment(
            envelope,
            icmp_number(envelope),
            offset,
            n < 46,
            &data,
        ));
    }
}

/// One fragment; `offset` in units of eight octets.
fn fragment(
    envelope: &Envelope,
    protocol: IpNumber,
    offset: u16,
    more: bool,
    data: &[u8],
) -> Vec<u8> {
    if !envelope.is_v6() {
        let envelope = Envelope {
            fragment: (offset, more),
            ..*envelope
        };
        return envelope.wrap(protocol, data);
    }
    let extensions = [Extension::Fragment(offset, more)];
    // Envelopes are made for tables of tests.
    let envelope = Envelope {
        extensions: Box::leak(Box::new(extensions)),
        ..*envelope
    };
    envelope.wrap(protocol, data)
}

#[test]
fn c_22_a_ping_of_death_is_dropped_r_tcp_10() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let wire = Wire::new(&scene.attacker, &scene.server);
    for (family, expected) in [(4, 1), (6, 2)] {
        ping_of_death(
            &wire,
            &between(stranger(family, 1), scene.server.ip(family)),
        );
        await_count(&agent, Reason::FragmentOverlong, expected);
    }
    large_passes(&scene);
    assert_sound(&agent);
}

#[test]
fn c_23_overlapping_fragments_leave_the_host_alive_r_tcp_10() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let wire = Wire::new(&scene.attacker, &scene.server);
    for family in [4, 6] {
        let envelope = between(stranger(family, 1), scene.server.ip(family));
        let whole = datagram(&envelope, 5000, PORT, &[0; 200]);
        for (offset, more, len) in [
            (0, true, 104),
            (3, false, 24),
            (1, true, 200),
            (0, true, 16),
        ] {
            wire.send(&fragment(
                &envelope,
                IpNumber::UDP,
                offset,
                more,
                &whole[..len],
            ));
        }
    }
    let to = scene.server.v6.to_string();
    // It waits a second between its tests, of which there are 33.
    tool(
        &scene.attacker,
        &[
            "timeout",
            "30",
            "atk6-fragmentation6",
            "-fp",
            "-n",
            "3",
            "eth0",
            &to,
        ],
    );
    large_passes(&scene);
    assert_sound(&agent);
}

#[test]
fn of_a_flood_of_fragments_the_prefix_gets_its_share_and_anothers_datagrams_pass_r_udp_4() {
    let scene = Scene::new();
    let wire = Wire::new(&scene.attacker, &scene.server);
    let config = "[ip]\nfragments = { host = \"off\", prefix = \"50/s\", site = \"off\" }";
    for family in [4, 6] {
        // Hosts of one /24 or /64.
        let flood = |n: u32| {
            let source: IpAddr = if family == 4 {
                format!("10.9.8.{}", n % 256).parse().unwrap()
            } else {
                format!("2001:db8:9:8::{n:x}").parse().unwrap()
            };
            let envelope = between(source, scene.server.ip(family));
            wire.send(&fragment(&envelope, IpNumber::UDP, 100, true, &[0; 64]));
        };
        let requested = if family == 4 {
            "IpReasmReqds"
        } else {
            "Ip6ReasmReqds"
        };
        let before = counted(&scene.server, requested);
        (0..500).for_each(flood);
        wait::until("a flood without netmoat", PATIENCE, || {
            counted(&scene.server, requested) >= before + 450
        })
        .unwrap();

        let agent = scene.protect(config);
        beside(2000, flood, || {
            await_count(&agent, Reason::FragmentLimit, 500);
            large(&scene.client, &scene.server, family);
        });
        check_prefix(&agent);
    }
}

fn check_prefix(agent: &Agent) {
    assert!(agent.packets(Reason::LimitPrefix).unwrap() > 0);
    assert_sound(agent);
}
