//! What tests of the guards of IP, ICMP, UDP and TCP need besides a [`Scene`]: a route of several hops, frames made by
//! hand, tools that attack and tools that are attacked, and what the kernel says it received. Whatever fails panics.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use etherparse::{IpNumber, UdpHeader};
use nix::sys::socket::{MsgFlags, recv, send};

use crate::{
    frames::Envelope,
    link,
    netns::Namespace,
    rawtcp::packet_socket,
    scene::{PATIENCE, Scene, accept, patient},
    topology::Host,
};

/// Octets of the Ethernet header.
const ETHERNET: usize = 14;

/// Frames to a host from another on its network, as they are; and the frames that come to the sender.
pub struct Wire {
    socket: OwnedFd,
    macs: [u8; 12],
}

impl Wire {
    /// A wire from a host's interface to another's.
    pub fn new(from: &Host, to: &Host) -> Self {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&to.link.mac);
        macs[6..].copy_from_slice(&from.link.mac);
        let socket = from.ns.run(|| packet_socket(from.link.ifindex)).unwrap();
        Self { socket, macs }
    }

    /// Sends a frame; its hardware addresses are set.
    pub fn send(&self, frame: &[u8]) {
        let mut frame = frame.to_vec();
        frame[..12].copy_from_slice(&self.macs);
        let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The frames that have come since the last look, sent ones among them. Where netmoat is, those that it let pass.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        let mut frame = vec![0; 1 << 16];
        let mut seen = Vec::new();
        while let Ok(len) = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            seen.push(frame[..len].to_vec());
        }
        seen
    }
}

/// Does `attack` again and again, at a rate, while `honest` runs; what that returns, and how often the attack came.
pub fn beside<T>(
    rate: u32,
    mut attack: impl FnMut(u32) + Send,
    honest: impl FnOnce() -> T,
) -> (T, u32) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacking = scope.spawn(|| {
            let start = Instant::now();
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u32;
                // What a busy machine made late does not come all at once.
                let next = due.min(sent + 64);
                (sent..next).for_each(&mut attack);
                sent = sent.max(next);
                thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        // Also when `honest` panics.
        let _end = SetWhenDropped(&over);
        let done = honest();
        over.store(true, Ordering::Relaxed);
        (done, attacking.join().unwrap())
    })
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One packet of a family between two addresses.
pub fn between(from: IpAddr, to: IpAddr) -> Envelope {
    let plain = if to.is_ipv4() {
        Envelope::V4
    } else {
        Envelope::V6
    };
    plain.from(from).to(to)
}

/// A frame with an ICMP or ICMPv6 message.
pub fn icmp(envelope: &Envelope, kind: u8, code: u8, word: u32, data: &[u8]) -> Vec<u8> {
    envelope.wrap(
        icmp_number(envelope),
        &icmp_message(envelope, kind, code, word, data),
    )
}

/// A frame with an echo request.
pub fn echo_request(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    icmp(&between(from, to), kind, 0, 1, &[0; 8])
}

/// The protocol of [`icmp_message`].
pub fn icmp_number(envelope: &Envelope) -> IpNumber {
    if envelope.is_v6() {
        IpNumber::IPV6_ICMP
    } else {
        IpNumber::ICMP
    }
}

/// An ICMP or ICMPv6 message, its checksum right.
pub fn icmp_message(envelope: &Envelope, kind: u8, code: u8, word: u32, data: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(word.to_be_bytes());
    message.extend(data);
    let mut covered = message.clone();
    if let (IpAddr::V6(src), IpAddr::V6(dst)) = (envelope.src, envelope.dst) {
        covered.extend(src.octets());
        covered.extend(dst.octets());
        covered.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        covered.extend([0, 0, 0, IpNumber::IPV6_ICMP.0]);
    }
    let sum = checksum(&covered);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let (halves, rest) = octets.as_chunks::<2>();
    assert!(rest.is_empty());
    let mut sum: u32 = halves
        .iter()
        .map(|half| u32::from(u16::from_be_bytes(*half)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A frame with a UDP datagram.
pub fn udp(envelope: &Envelope, from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    envelope.wrap(IpNumber::UDP, &datagram(envelope, from, to, data))
}

/// A UDP datagram, its checksum right.
pub fn datagram(envelope: &Envelope, from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut header = UdpHeader {
        source_port: from,
        destination_port: to,
        length: u16::try_from(8 + data.len()).unwrap(),
        checksum: 0,
    };
    let sum = match (envelope.src, envelope.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), data)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            header.calc_checksum_ipv6_raw(src.octets(), dst.octets(), data)
        }
        _ => panic!("two families"),
    };
    header.checksum = sum.unwrap();
    let mut datagram = header.to_bytes().to_vec();
    datagram.extend(data);
    datagram
}

/// What an error quotes of a packet: its IP header and eight octets, which begin with these ports.
pub fn quote(from: IpAddr, to: IpAddr, protocol: IpNumber, ports: (u16, u16)) -> Vec<u8> {
    let mut eight = [0; 8];
    eight[..2].copy_from_slice(&ports.0.to_be_bytes());
    eight[2..4].copy_from_slice(&ports.1.to_be_bytes());
    between(from, to).wrap(protocol, &eight)[ETHERNET..].to_vec()
}

/// "Packet too big" to the source of what it quotes.
pub fn too_big(envelope: &Envelope, mtu: u32, quoted: &[u8]) -> Vec<u8> {
    if envelope.is_v6() {
        icmp(envelope, 2, 0, mtu, quoted)
    } else {
        icmp(envelope, 3, 4, mtu, quoted)
    }
}

/// The `n`-th address of [`crate::flood::SOURCES_V4`] or its like of IPv6: one a /24 or /64.
pub fn stranger(family: u8, n: u32) -> IpAddr {
    if family == 4 {
        Ipv4Addr::from_bits(0x0a00_0001 | (n & 0xffff) << 8).into()
    } else {
        let [a, b] = [(n >> 16) as u16, n as u16];
        Ipv6Addr::new(0x2001, 0xdb8, a, b, 0, 0, 0, 1).into()
    }
}

/// How many echo requests were sent, and how many answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// Requests.
    pub sent: u32,
    /// Answers.
    pub received: u32,
}

/// Runs `ping` to its end.
pub fn ping(host: &Host, words: &[&str]) -> Pings {
    let printed = tool(host, &[&["ping", "-n", "-q"], words].concat());
    let number = |what: &str| -> u32 {
        let before = printed
            .split(what)
            .next()
            .filter(|s| s.len() < printed.len());
        let number = before.and_then(|text| text.rsplit([' ', '\n']).find(|word| !word.is_empty()));
        number
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("no number of{what}: {printed}"))
    };
    Pings {
        sent: number(" packets transmitted"),
        received: number(" received"),
    }
}

/// Runs a program to its end, whatever it thinks of it; what it printed.
pub fn tool(host: &Host, words: &[&str]) -> String {
    let output = host
        .ns
        .run(|| Command::new(words[0]).args(&words[1..]).output())
        .unwrap_or_else(|error| panic!("{}: {error}", words[0]));
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A counter of the host's kernel, such as `IcmpInEchos` or `Icmp6InEchos`, with the names that nstat has.
pub fn counted(host: &Host, name: &str) -> u64 {
    let read = |file: &str| {
        let path = format!("/proc/thread-self/net/{file}");
        host.ns.run(|| fs::read_to_string(path)).unwrap()
    };
    let v6 = read("snmp6");
    let of_v6 = v6.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next().unwrap().parse().unwrap())
    });
    if let Some(count) = of_v6 {
        return count;
    }
    for file in ["snmp", "netstat"] {
        let text = read(file);
        let lines: Vec<_> = text.lines().collect();
        for pair in lines.chunks_exact(2) {
            let (names, values) = (pair[0].split_once(": "), pair[1].split_once(": "));
            let (Some((group, names)), Some((_, values))) = (names, values) else {
                continue;
            };
            let at = names.split(' ').position(|n| format!("{group}{n}") == name);
            if let Some(at) = at {
                return values.split(' ').nth(at).unwrap().parse().unwrap();
            }
        }
    }
    panic!("the kernel does not count {name}")
}

/// Makes a host one that forwards nothing: segments without a socket are its own.
pub fn forward_nothing(host: &Host) {
    forward(&host.ns, "0");
}

fn forward(namespace: &Namespace, value: &str) {
    namespace.sysctl("net.ipv4.ip_forward", value).unwrap();
    namespace
        .sysctl("net.ipv6.conf.all.forwarding", value)
        .unwrap();
}

/// Sends what a host has for unknown addresses to another, without asking where that is.
pub fn default_route(host: &Host, via: &Host) {
    host.pin_neighbour(via).unwrap();
    host.ns
        .ip(&format!(
            "route add default via {} dev eth0\nroute add ::/0 via {} dev eth0 metric 100",
            via.v4, via.v6
        ))
        .unwrap();
}

/// Routers between the scene's server and a host far away: server, near, middle, far.
pub struct Route {
    /// The router on the scene's network.
    pub near: Host,
    middle: Namespace,
    /// The last.
    pub far: Host,
}

impl Route {
    /// Makes it; the server, the client and the far host reach one another by it.
    pub fn new(scene: &Scene) -> Self {
        let near = scene.host("near");
        let middle = Namespace::new("middle").unwrap();
        let far = Namespace::new("far").unwrap();
        link::veth((&near.ns, "out"), (&middle, "in"), (201, 202)).unwrap();
        let (_, eth0) = link::veth((&middle, "out"), (&far, "eth0"), (203, 204)).unwrap();
        for router in [&near.ns, &middle] {
            forward(router, "1");
            // A router's own limits would make holes in traceroute.
            for name in ["ipv4.icmp_ratelimit", "ipv6.icmp.ratelimit"] {
                router.sysctl(&format!("net.{name}"), "0").unwrap();
            }
        }
        near.ns
            .ip("addr add 198.18.1.1/24 dev out\naddr add 2001:2:0:1::1/64 dev out nodad\n\
                 route add 198.18.2.0/24 via 198.18.1.2\nroute add 2001:2:0:2::/64 via 2001:2:0:1::2")
            .unwrap();
        middle
            .ip(
                "addr add 198.18.1.2/24 dev in\naddr add 2001:2:0:1::2/64 dev in nodad\n\
                 addr add 198.18.2.1/24 dev out\naddr add 2001:2:0:2::1/64 dev out nodad\n\
                 route add default via 198.18.1.1\nroute add ::/0 via 2001:2:0:1::1",
            )
            .unwrap();
        let (v4, v6) = (
            Ipv4Addr::new(198, 18, 2, 2),
            Ipv6Addr::new(0x2001, 2, 0, 2, 0, 0, 0, 2),
        );
        far.ip(&format!(
            "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
             route add default via 198.18.2.1\nroute add ::/0 via 2001:2:0:2::1"
        ))
        .unwrap();
        for host in [&scene.server, &scene.client] {
            host.ns
                .ip(&format!(
                    "route add 198.18.0.0/16 via {}\nroute add 2001:2::/32 via {}",
                    near.v4, near.v6
                ))
                .unwrap();
        }
        let far = Host {
            ns: far,
            link: eth0,
            v4,
            v6,
        };
        Self { near, middle, far }
    }

    /// The addresses on the way from the server to the far host.
    pub fn hops(&self, family: u8) -> [String; 3] {
        let middle = if family == 4 {
            "198.18.1.2"
        } else {
            "2001:2:0:1::2"
        };
        [
            self.near.ip(family).to_string(),
            middle.to_owned(),
            self.far.ip(family).to_string(),
        ]
    }

    /// Makes the last link narrower, in the direction of the far host.
    pub fn narrow(&self, mtu: u32) {
        self.middle.ip(&format!("link set out mtu {mtu}")).unwrap();
    }

    /// A connection from the server to the far host: both ends, the server's first.
    pub fn connect(&self, server: &Host, family: u8) -> (TcpStream, TcpStream) {
        let listener = self
            .far
            .ns
            .run(|| TcpListener::bind(self.far.at(family, 0)))
            .unwrap();
        let to = listener.local_addr().unwrap();
        let out = server
            .ns
            .run(|| TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap();
        (patient(out), accept(&listener))
    }

    /// The path MTU that the server believes in, if it is not its interface's.
    pub fn path_mtu(&self, server: &Host, family: u8) -> Option<u32> {
        path_mtu(server, self.far.ip(family))
    }
}

/// The path MTU to an address that a host has learned.
pub fn path_mtu(host: &Host, to: IpAddr) -> Option<u32> {
    let route = tool(host, &["ip", "-oneline", "route", "get", &to.to_string()]);
    let (_, mtu) = route.split_once("mtu ")?;
    mtu.split_whitespace().next()?.parse().ok()
}
