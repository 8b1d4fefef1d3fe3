//! `netmoat explain --frame`: frames on trial by the program that is attached.

use std::net::{Ipv6Addr, TcpListener};

use etherparse::{Icmpv4Type, PacketBuilder, PacketBuilderStep, TcpHeader};
use net_common::verdict::Reason;
use net_tests::{agent::Agent, frames::flags, topology::Pair};
use net_user::control::{drops::hex, protocol::Counters};

const PORT: u16 = 8080;

/// A segment from the client to the server.
fn segment(pair: &Pair, to: u16, letters: &str) -> Vec<u8> {
    let mut tcp = TcpHeader::new(4000, to, 1, 1000);
    flags(&mut tcp, letters);
    let mut frame = Vec::new();
    ip(pair).tcp_header(tcp).write(&mut frame, &[]).unwrap();
    frame
}

fn ip(pair: &Pair) -> PacketBuilderStep<etherparse::IpHeaders> {
    let (client, server) = (&pair.attacker, &pair.server);
    PacketBuilder::ethernet2(client.link.mac, server.link.mac).ipv4(
        client.v4.octets(),
        server.v4.octets(),
        64,
    )
}

fn explain(agent: &Agent, frame: &[u8]) -> serde_json::Value {
    let output = agent
        .netmoat(&["-o", "json", "explain", "--frame", &hex(frame)])
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    json["frames"][0].clone()
}

fn counted(agent: &Agent) -> Counters {
    agent.counters().unwrap()
}

/// Frames that the network itself sends meanwhile (MLD, neighbour discovery) may pass.
fn without_passes(counters: Counters) -> Vec<(String, u64)> {
    [counters.enforced, counters.observed]
        .into_iter()
        .flatten()
        .filter(|c| c.action == "drop" || c.action == "reply" || c.name.starts_with("syn"))
        .map(|c| (c.name, c.packets))
        .collect()
}

#[test]
fn frames_meet_the_attached_program_and_are_counted_nowhere() {
    let pair = Pair::new().unwrap();
    let _listener = pair
        .server
        .ns
        .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))
        .unwrap();
    let agent = Agent::start(&pair.server, "[syn]\nmode = \"always\"").unwrap();
    agent.await_listener(PORT, true).unwrap();
    let before = without_passes(counted(&agent));

    let mut short = segment(&pair, 80, "S");
    short[14 + 20 + 12] = 4 << 4;
    let mut malformed_arp = vec![0xff; 6];
    malformed_arp.extend(pair.attacker.link.mac);
    malformed_arp.extend([8, 6, 0, 1, 8, 0, 6, 9, 0, 1]);
    malformed_arp.resize(60, 0);
    let udp = |from: u16| {
        let mut frame = Vec::new();
        ip(&pair)
            .udp(from, 4321)
            .write(&mut frame, &[0; 40])
            .unwrap();
        frame
    };
    let mut quench = Vec::new();
    let source_quench = Icmpv4Type::Unknown {
        type_u8: 4,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    ip(&pair)
        .icmpv4(source_quench)
        .write(&mut quench, &[0; 28])
        .unwrap();
    let mut martian = udp(5000);
    martian[26..30].copy_from_slice(&[127, 0, 0, 1]);
    // Offset 1, where the flags of a TCP header would be overwritten (RFC 3128).
    let mut tiny = segment(&pair, 80, "S");
    tiny[20..22].copy_from_slice(&[0, 1]);
    for (what, frame, reason, verdict, observed) in [
        (
            "no flags",
            segment(&pair, 80, ""),
            Reason::TcpFlags,
            "drop",
            false,
        ),
        (
            "SYN and FIN",
            segment(&pair, 80, "SF"),
            Reason::TcpFlags,
            "drop",
            false,
        ),
        (
            "port 0",
            segment(&pair, 0, "S"),
            Reason::TcpPortZero,
            "drop",
            false,
        ),
        ("a short header", short, Reason::TcpHeader, "drop", false),
        (
            "no listener",
            segment(&pair, 80, "S"),
            Reason::SynUnprotected,
            "pass",
            false,
        ),
        (
            "a listener",
            segment(&pair, PORT, "S"),
            Reason::CookieSent,
            "reply",
            false,
        ),
        (
            "source quench",
            quench,
            Reason::IcmpDeprecated,
            "drop",
            false,
        ),
        (
            "a reflected answer",
            udp(1900),
            Reason::Reflection,
            "drop",
            false,
        ),
        ("a datagram", udp(5000), Reason::UdpPass, "pass", false),
        (
            "a source that is loopback",
            martian,
            Reason::SourceMartian,
            "drop",
            false,
        ),
        (
            "a fragment at offset 1",
            tiny,
            Reason::FragmentTiny,
            "drop",
            false,
        ),
        // The guard of ARP observes unless it is told otherwise.
        (
            "malformed ARP",
            malformed_arp,
            Reason::ArpMalformed,
            "pass",
            true,
        ),
    ] {
        let told = explain(&agent, &frame);
        assert_eq!(told["reason"], reason.name(), "{what}: {told}");
        assert_eq!(told["code"], reason as u32, "{what}");
        assert_eq!(told["verdict"], verdict, "{what}");
        assert_eq!(told["observed"], observed, "{what}");
        assert_eq!(told["interface"], "eth0", "{what}");
        assert_eq!(told["mode"], "enforce", "{what}");
    }
    assert_eq!(
        without_passes(counted(&agent)),
        before,
        "a trial is counted nowhere"
    );
    let told = agent.netmoat(&["-o", "json", "events", "--drops"]).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["events"], serde_json::json!([]), "and is no event");

    assert!(
        agent
            .netmoat(&["mode", "observe"])
            .unwrap()
            .status
            .success()
    );
    let told = explain(&agent, &segment(&pair, 80, ""));
    assert_eq!(told["reason"], "tcp_flags");
    assert_eq!(
        (&told["verdict"], &told["observed"]),
        (&"pass".into(), &true.into())
    );
    assert_eq!(told["mode"], "observe");
}

#[test]
fn frames_of_every_size_can_be_tried_or_are_refused_in_words() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("frame");
    for len in [14, 15, 60, 1514, 3000] {
        let mut frame = vec![2; len];
        frame[12..14].copy_from_slice(&[0x12, 0x34]);
        std::fs::write(&path, hex(&frame)).unwrap();
        let output = agent
            .netmoat(&["-o", "json", "explain", "--frame", path.to_str().unwrap()])
            .unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{len}: {output:?}"));
        assert_eq!(json["frames"][0]["reason"], "unknown_ethertype", "{len}");
    }
    let output = agent
        .netmoat(&["explain", "--frame", &hex(&[2; 60]), "--interface", "eth7"])
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("netmoat is not attached to eth7; it is to eth0"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}
