//! The agent's part of the guards of IP, ICMP, UDP and TCP: what it finds out about the host and follows while it runs,
//! and what it refuses.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use net_common::{abi::MAX_ADDRESSES, verdict::Reason};
use net_tests::{
    agent::Agent,
    scene::{PATIENCE, PORT, Scene, assert_sound, await_count, dial},
    topology::Host,
    wait,
};

/// An address beside the hosts' own.
fn other(family: u8) -> IpAddr {
    let address = if family == 4 {
        "198.18.0.77"
    } else {
        "2001:2::77"
    };
    address.parse().unwrap()
}

/// Adds (or with `del` removes) [`other`] on a host's loopback device.
fn readdress(host: &Host, verb: &str, family: u8) {
    let (len, nodad) = if family == 4 {
        (32, "")
    } else {
        (128, " nodad")
    };
    let nodad = if verb == "add" { nodad } else { "" };
    let line = format!("addr {verb} {}/{len} dev lo{nodad}", other(family));
    host.ns.ip(&line).unwrap();
}

/// Datagrams from [`other`] on the client to the server.
struct Datagrams {
    from: UdpSocket,
    to: UdpSocket,
    server: SocketAddr,
}

impl Datagrams {
    fn new(scene: &Scene, family: u8) -> Self {
        // A request in the name of an address that is the server's gets no answer.
        scene.client.pin_neighbour(&scene.server).unwrap();
        let server = scene.server.at(family, PORT);
        let bind = |host: &Host, address| host.ns.run(|| UdpSocket::bind(address).unwrap());
        let to = bind(&scene.server, server);
        to.set_nonblocking(true).unwrap();
        Self {
            from: bind(&scene.client, SocketAddr::new(other(family), 0)),
            to,
            server,
        }
    }

    fn send(&self) {
        self.from.send_to(b"hello", self.server).unwrap();
    }

    /// Sends until one arrives.
    fn await_arrival(&self) {
        while self.heard() {}
        wait::until("a datagram to arrive", PATIENCE, || {
            self.send();
            self.heard()
        })
        .unwrap();
    }

    fn heard(&self) -> bool {
        match self.to.recv_from(&mut [0; 16]) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends until the guard drops one.
fn await_drop(agent: &Agent, datagrams: &Datagrams) {
    let before = agent.packets(Reason::SourceOwn).unwrap();
    wait::until("a datagram to be dropped", PATIENCE, || {
        datagrams.send();
        agent.packets(Reason::SourceOwn).unwrap() > before
    })
    .unwrap();
}

/// R-TCP-3, R-GEN-1: an address is ours from when it is added until it is removed.
#[test]
fn an_own_address_as_a_source_from_outside_is_dropped_while_it_is_ours() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let own = agent.status().unwrap().guards.own_addresses;
    for family in [4, 6] {
        readdress(&scene.client, "add", family);
        let datagrams = Datagrams::new(&scene, family);
        let before = agent.packets(Reason::SourceOwn).unwrap();
        datagrams.await_arrival();
        assert_eq!(agent.packets(Reason::SourceOwn).unwrap(), before);

        readdress(&scene.server, "add", family);
        await_drop(&agent, &datagrams);
        assert_eq!(agent.status().unwrap().guards.own_addresses, own + 1);

        readdress(&scene.server, "del", family);
        datagrams.await_arrival();
        assert_eq!(agent.status().unwrap().guards.own_addresses, own);
        let dropped = agent.packets(Reason::SourceOwn).unwrap();
        datagrams.await_arrival();
        assert_eq!(agent.packets(Reason::SourceOwn).unwrap(), dropped);
        readdress(&scene.client, "del", family);
    }
    assert_sound(&agent);
}

#[test]
fn an_own_source_passes_where_the_kernel_takes_it() {
    let scene = Scene::new();
    let agent = scene.protect("");
    readdress(&scene.client, "add", 4);
    readdress(&scene.server, "add", 4);
    let datagrams = Datagrams::new(&scene, 4);
    await_drop(&agent, &datagrams);
    let accept_local = |value| {
        let name = "net.ipv4.conf.eth0.accept_local";
        scene.server.ns.sysctl(name, value).unwrap();
    };
    accept_local("1");
    datagrams.await_arrival();
    accept_local("0");
    await_drop(&agent, &datagrams);
    assert_sound(&agent);
}

#[test]
fn in_observe_mode_an_own_source_passes_and_is_counted() {
    let scene = Scene::new();
    let agent = scene.protect("[ip]\nmode = \"observe\"");
    readdress(&scene.client, "add", 6);
    readdress(&scene.server, "add", 6);
    let datagrams = Datagrams::new(&scene, 6);
    let observed = || {
        let counters = agent.counters().unwrap().observed;
        let found = counters.iter().find(|c| c.code == Reason::SourceOwn as u32);
        found.map_or(0, |counter| counter.packets)
    };
    wait::until("a datagram to be counted", PATIENCE, || {
        datagrams.send();
        observed() > 0
    })
    .unwrap();
    assert_eq!(agent.packets(Reason::SourceOwn).unwrap(), 0);
}

#[test]
fn the_reverse_path_is_refused_where_the_interface_does_not_forward() {
    let scene = Scene::new();
    let server = &scene.server.ns;
    for family in ["ipv4", "ipv6"] {
        let name = format!("net.{family}.conf.eth0.forwarding");
        server.sysctl(&name, "0").unwrap();
    }
    let config = "[ip]\nreverse_path = \"loose\"";
    let agent = Agent::launch(server, &["eth0"], config).unwrap();
    let (code, log) = agent.refusal().unwrap();
    assert_eq!(code, 1, "{log}");
    for words in [
        "net.ipv4.conf.eth0.forwarding is 0",
        "net.ipv4.conf.eth0.rp_filter=1",
        "net.ipv6.conf.eth0.forwarding is 0",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[test]
fn segments_without_a_socket_are_left_alone_while_the_host_forwards_or_translates_r_tcp_8() {
    let scene = Scene::new();
    let server = &scene.server.ns;
    let forwarding = |value| {
        let name = "net.ipv4.conf.eth0.forwarding";
        server.sysctl(name, value).unwrap();
    };
    forwarding("0");
    let agent = scene.protect("");
    let left_alone = || agent.status().unwrap().guards.strays_left_alone;
    assert_eq!(left_alone(), None);
    forwarding("1");
    wait::until("forwarding to be noticed", PATIENCE, || {
        left_alone().is_some_and(|why| why.contains("forwards"))
    })
    .unwrap();
    forwarding("0");
    wait::until("its end to be noticed", PATIENCE, || left_alone().is_none()).unwrap();
    assert_sound(&agent);
    drop(agent);

    let rules = "table ip t {\nchain c {\ntype nat hook prerouting priority 0;\n\
                 tcp dport 81 redirect to :80\n}\n}\n";
    server.nft(rules).unwrap();
    let agent = scene.protect("");
    let why = agent.status().unwrap().guards.strays_left_alone.unwrap();
    assert!(why.contains("table ip t of nftables translates"), "{why}");
    assert_sound(&agent);
}

#[test]
fn status_tells_modes_servers_and_known_sources() {
    let scene = Scene::new();
    let listener = scene.listen(4);
    let config = "[icmp]\nmode = \"observe\"\n[udp]\nmode = \"off\"\nresolv_conf = false\n\
                  servers = [\"192.0.2.53\", \"2001:db8::53\"]";
    let agent = scene.protect(config);
    let before = agent.status().unwrap().guards;
    assert_eq!((before.servers, before.sources.proven), (2, 0));
    let connection = scene.connect(&listener, 4);
    wait::until("the client to be known", PATIENCE, || {
        agent.status().unwrap().guards.sources.proven == 1
    })
    .unwrap();
    let text = agent.netmoat(&["status"]).unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("IP enforcing, ICMP observing, UDP off, TCP enforcing"),
        "{text}"
    );
    assert!(text.contains("1 proven"), "{text}");
    drop(connection);
    assert_sound(&agent);
}

/// More addresses than the map holds: the rest goes without these guards, and the operator is told.
#[test]
fn more_own_addresses_than_there_is_room_for_are_told_of_until_there_is() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let lines = |verb: &str| -> String {
        let addresses = (0..=MAX_ADDRESSES).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n));
        addresses
            .map(|address| format!("addr {verb} {address}/32 dev lo\n"))
            .collect()
    };
    let told = || {
        let problems = agent.status().unwrap().problems;
        problems
            .iter()
            .any(|problem| problem.contains("ADDRESSES: "))
    };
    scene.server.ns.ip(&lines("add")).unwrap();
    wait::until("the want of room to be told", PATIENCE, told).unwrap();
    scene.server.ns.ip(&lines("del")).unwrap();
    wait::until("order to be restored", PATIENCE, || !told()).unwrap();
    assert_sound(&agent);
}

/// Connections from before the start count, and those that ended do not.
#[test]
fn open_connections_of_a_source_are_limited_those_from_before_too() {
    let scene = Scene::new();
    let listener = scene.listen(4);
    let mut connections: Vec<_> = (0..3).map(|_| scene.connect(&listener, 4)).collect();
    let agent = scene.protect("[tcp]\nopen_connections = 4");
    // The source gets its place by a handshake that was seen.
    connections.push(scene.connect(&listener, 4));
    let to = scene.server.at(4, PORT);
    let attempt = |host: &Host| {
        let dial = || TcpStream::connect_timeout(&to, Duration::from_millis(200));
        host.ns.run(dial)
    };
    let mut more = Vec::new();
    wait::until("the limit to be reached", PATIENCE, || {
        more.extend(attempt(&scene.client));
        agent.packets(Reason::OpenConnectionLimit).unwrap() > 0
    })
    .unwrap();
    // Another source is not concerned.
    let neighbour = dial(&scene.attacker, to);

    drop(more);
    drop(connections);
    // What the listener still has to be taken from ends as well.
    listener.set_nonblocking(true).unwrap();
    wait::until("a connection after the others ended", PATIENCE, || {
        while let Ok(connection) = listener.accept() {
            drop(connection);
        }
        attempt(&scene.client).is_ok()
    })
    .unwrap();
    drop(neighbour);
    assert_sound(&agent);
}

#[test]
fn a_link_local_address_may_be_ours_on_one_link_and_a_neighbours_on_another() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let own = || agent.status().unwrap().guards.own_addresses;
    let before = own();
    scene
        .server
        .ns
        .ip("addr add fe80::77/64 dev lo nodad\naddr add fe80::1/64 dev eth0 nodad")
        .unwrap();
    scene
        .client
        .ns
        .ip("addr add fe80::77/64 dev eth0 nodad")
        .unwrap();
    let bound = |host: &Host, address: &str| {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        host.ns.run(|| {
            let scope = 2;
            UdpSocket::bind(std::net::SocketAddrV6::new(address, PORT, 0, scope))
        })
    };
    let to = bound(&scene.server, "fe80::1").unwrap();
    to.set_nonblocking(true).unwrap();
    let from = bound(&scene.client, "fe80::77").unwrap();
    let target = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), PORT, 0, 2);
    wait::until("both addresses to be known", PATIENCE, || {
        own() == before + 2
    })
    .unwrap();
    wait::until("a datagram", PATIENCE, || {
        let _ = from.send_to(b"x", target);
        to.recv_from(&mut [0; 4]).is_ok()
    })
    .unwrap();
    assert_eq!(agent.packets(Reason::SourceOwn).unwrap(), 0);
}

/// R-UDP-3: the answers of a configured server are not limited; those of others are.
#[test]
fn answers_of_named_servers_are_not_limited() {
    let scene = Scene::new();
    let server = scene.client.v4;
    let config = format!(
        "[udp]\nresolv_conf = false\nservers = [\"{server}\"]\n\
         reflection = {{ host = \"1/h burst 1\", pool = \"1/h burst 1\" }}"
    );
    let agent = scene.protect(&config);
    let to = scene.server.at(4, PORT);
    let socket = scene.server.ns.run(|| UdpSocket::bind(to).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let send = |host: &Host, count: u32| {
        let from = SocketAddr::new(host.v4.into(), 53);
        let socket = host.ns.run(|| UdpSocket::bind(from).unwrap());
        for _ in 0..count {
            socket.send_to(b"answer", to).unwrap();
        }
    };
    send(&scene.client, 50);
    for _ in 0..50 {
        socket.recv_from(&mut [0; 16]).unwrap();
    }
    assert_eq!(agent.packets(Reason::ReflectionLimit).unwrap(), 0);
    send(&scene.attacker, 50);
    await_count(&agent, Reason::ReflectionLimit, 40);
    assert_sound(&agent);
}
