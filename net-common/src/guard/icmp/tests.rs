use core::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{parse::Octets, units::addr_words};

fn message(kind: u8, code: u8, word: u32) -> Message {
    Message { kind, code, word }
}

/// Every type of IPv4, by the rule that it comes under.
fn rule_v4(kind: u8, code: u8) -> Kind {
    match (kind, code) {
        (8, _) => Kind::Query(Class::EchoRequest),
        (0, _) => Kind::Query(Class::EchoReply),
        // R-ICMP-1: never dropped for what they are.
        (3, 4) => Kind::Error(Class::PathMtu),
        (3 | 12, _) => Kind::Error(Class::Unreachable),
        (11, _) => Kind::Error(Class::TimeExceeded),
        // R-ICMP-5.
        (5, _) => Kind::Error(Class::Redirect),
        (4 | 6 | 15 | 16 | 17 | 18, _) => Kind::Never(Reason::IcmpDeprecated),
        (30..=39, _) => Kind::Never(Reason::IcmpDeprecated),
        (13 | 14, _) => Kind::Query(Class::Informational),
        // RFC 8335.
        (42 | 43, _) => Kind::Query(Class::Informational),
        _ => Kind::Query(Class::Other),
    }
}

/// Every type of IPv6, with an MTU that may be.
fn rule_v6(kind: u8) -> Kind {
    match kind {
        1 | 4 => Kind::Error(Class::Unreachable),
        2 => Kind::Error(Class::PathMtu),
        3 => Kind::Error(Class::TimeExceeded),
        128 => Kind::Query(Class::EchoRequest),
        129 => Kind::Query(Class::EchoReply),
        // RFC 4890 section 4.4.1: what the link itself lives by.
        130 | 131 | 132 | 143 => Kind::Other,
        133 | 134 | 135 | 136 | 137 | 141 | 142 => Kind::Other,
        148 | 149 | 151 | 152 | 153 => Kind::Other,
        139 | 140 | 160 | 161 => Kind::Query(Class::Informational),
        _ => Kind::Query(Class::Other),
    }
}

#[test]
fn every_type_and_code_has_its_class_r_icmp_1_r_icmp_5() {
    for kind in 0..=255 {
        for code in 0..=255 {
            let v4 = message(kind, code, 0).judge(Version::V4);
            assert_eq!(v4, rule_v4(kind, code), "type {kind} code {code}");
            let v6 = message(kind, code, 1280).judge(Version::V6);
            assert_eq!(v6, rule_v6(kind), "IPv6 type {kind} code {code}");
        }
    }
}

#[test]
fn path_mtus_are_judged_as_r_icmp_2_says_c_44() {
    for mtu in [0, 1, 68, 1279] {
        let small = Kind::Never(Reason::PathMtuTooSmall);
        assert_eq!(message(2, 0, mtu).judge(Version::V6), small, "{mtu}");
    }
    for mtu in [1280, 1281, 1500, 65_535, u32::MAX] {
        let good = Kind::Error(Class::PathMtu);
        assert_eq!(message(2, 0, mtu).judge(Version::V6), good, "{mtu}");
    }
    // RFC 1191 section 5: routers older than it send 0; what is too small the kernel's min_pmtu bounds.
    for mtu in [0, 1, 68, 1279, 1500] {
        let good = Kind::Error(Class::PathMtu);
        assert_eq!(message(3, 4, mtu).judge(Version::V4), good, "{mtu}");
    }
}

#[test]
fn every_class_of_icmp_is_refused_for_a_reason_of_its_own() {
    let mut reasons = Class::ALL[..8]
        .iter()
        .map(|c| refusal(*c))
        .collect::<Vec<_>>();
    assert!(reasons.iter().all(|r| Reason::drops(*r as u32)));
    reasons.dedup();
    assert_eq!(reasons.len(), 8);
    assert_eq!(refusal(Class::EchoRequest), Reason::EchoRequestLimit);
    assert_eq!(refusal(Class::Other), Reason::IcmpOtherLimit);
}

#[test]
fn a_header_is_read_when_the_packet_has_it_r_gen_4() {
    let octets = [3, 4, 0, 0, 0, 0, 5, 0xdc, 9, 9];
    let frame = Octets(&octets);
    assert_eq!(read(&frame, 0, 10), Some(message(3, 4, 1500)));
    assert_eq!(read(&frame, 0, 8), Some(message(3, 4, 1500)));
    assert_eq!(read(&frame, 0, 7), None, "padding is no message");
    assert_eq!(read(&frame, 4, 8), None, "beyond the frame");
}

#[test]
fn requests_are_those_that_all_hosts_would_answer_r_icmp_4_c_43() {
    let requests = (0..=255).filter(|kind| message(*kind, 0, 0).is_request());
    assert_eq!(requests.collect::<Vec<_>>(), [8, 13, 42]);
}

/// IPv4 with `options` octets of options, and what follows.
fn v4(options: usize, fragment: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45 + (options / 4) as u8, 0];
    ip.extend(((20 + options + rest.len()) as u16).to_be_bytes());
    ip.extend([0, 7]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7]);
    ip.extend(vec![1; options]);
    ip.extend(rest);
    ip
}

/// IPv6 with this next header, and what follows.
fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend((rest.len() as u16).to_be_bytes());
    ip.extend([next, 64]);
    for last in [1, 7] {
        ip.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    ip.extend(rest);
    ip
}

/// An error in a frame of its own, that quotes this.
fn error(quote: &[u8]) -> Vec<u8> {
    [&[0xee; 34][..], &[3, 1, 0, 0, 0, 0, 0, 0], quote].concat()
}

fn quotes(version: Version, quote: &[u8]) -> Option<Quoted> {
    quoted(&Octets(&error(quote)), version, 34, HEADER + quote.len())
}

/// 443 to 50000, and four octets more: what RFC 792 promises.
const EIGHT: [u8; 8] = [1, 0xbb, 0xc3, 0x50, 1, 2, 3, 4];

fn ports() -> Option<u32> {
    Some(u32::from_ne_bytes([1, 0xbb, 0xc3, 0x50]))
}

#[test]
fn eight_octets_of_the_transport_header_are_enough_r_icmp_3_katran_159() {
    let fragment = |next: u8, offset: u16| {
        let [a, b] = (offset << 3 | 1).to_be_bytes();
        [&[next, 0, a, b, 0, 0, 0, 9], &EIGHT[..]].concat()
    };
    use Version::{V4, V6};
    let table = [
        ("TCP", V4, v4(0, 0x4000, 6, &EIGHT), 6, ports()),
        ("UDP", V4, v4(0, 0, 17, &EIGHT), 17, ports()),
        ("TCP with options", V4, v4(12, 0, 6, &EIGHT), 6, ports()),
        ("TCP with all options", V4, v4(40, 0, 6, &EIGHT), 6, ports()),
        (
            "more of it",
            V4,
            v4(0, 0, 6, &[&EIGHT[..], &[7; 500]].concat()),
            6,
            ports(),
        ),
        (
            "a first fragment",
            V4,
            v4(0, 0x2000, 17, &EIGHT),
            17,
            ports(),
        ),
        ("a later fragment", V4, v4(0, 185, 17, &EIGHT), 17, None),
        ("seven octets", V4, v4(0, 0, 6, &EIGHT[..7]), 6, None),
        ("an echo", V4, v4(0, 0, 1, &EIGHT), 1, None),
        ("TCP", V6, v6(6, &EIGHT), 6, ports()),
        ("UDP", V6, v6(17, &EIGHT), 17, ports()),
        ("seven octets", V6, v6(17, &EIGHT[..7]), 17, None),
        ("a fragment header", V6, v6(44, &fragment(6, 0)), 6, ports()),
        ("UDP behind one", V6, v6(44, &fragment(17, 0)), 17, ports()),
        ("a later fragment", V6, v6(44, &fragment(17, 181)), 17, None),
        (
            "a fragment header alone",
            V6,
            v6(44, &fragment(17, 0)[..8]),
            17,
            None,
        ),
        (
            "half a fragment header",
            V6,
            v6(44, &fragment(17, 0)[..7]),
            44,
            None,
        ),
        (
            "options, which are not looked behind",
            V6,
            v6(60, &EIGHT),
            60,
            None,
        ),
    ];
    for (what, version, quote, protocol, ports) in &table {
        let (src, dst): (IpAddr, IpAddr) = match version {
            V4 => ([192, 0, 2, 1].into(), [198, 51, 100, 7].into()),
            V6 => (
                "2001:db8::1".parse().unwrap(),
                "2001:db8::7".parse().unwrap(),
            ),
        };
        let want = Quoted {
            src: addr_words(src),
            dst: addr_words(dst),
            protocol: IpProto(*protocol),
            ports: *ports,
        };
        assert_eq!(quotes(*version, quote), Some(want), "{what}, {version:?}");
        // Padding behind the packet gives no ports (R-GEN-4).
        let mut padded = error(quote);
        padded.resize(padded.len() + 60, 0xff);
        let len = HEADER + quote.len();
        let got = quoted(&Octets(&padded), *version, 34, len);
        if *protocol != 44 {
            assert_eq!(got.map(|q| q.ports), Some(*ports), "{what} with padding");
        }
    }
}

#[test]
fn what_is_no_ip_header_quotes_nothing() {
    for (what, version, quote) in [
        ("nothing", Version::V4, vec![]),
        ("19 octets", Version::V4, v4(0, 0, 6, &[])[..19].to_vec()),
        ("IPv6 in ICMP", Version::V4, v6(6, &EIGHT)),
        ("IPv4 in ICMPv6", Version::V6, v4(40, 0, 6, &EIGHT)),
        ("39 octets", Version::V6, v6(6, &[])[..39].to_vec()),
        ("a header of 16 octets", Version::V4, {
            let mut quote = v4(0, 0, 6, &EIGHT);
            quote[0] = 0x44;
            quote
        }),
    ] {
        assert_eq!(quotes(version, &quote), None, "{what}");
    }
}

/// A reader that takes slices and no short cuts.
fn naive(version: Version, quote: &[u8]) -> Option<Quoted> {
    let word = |octets: &[u8]| u32::from_ne_bytes(octets.try_into().unwrap());
    let (mut protocol, mut whole, addrs, mut rest) = match version {
        Version::V4 => {
            let ip = quote.get(..20)?;
            let len = usize::from(ip[0] & 15) * 4;
            if ip[0] >> 4 != 4 || len < 20 {
                return None;
            }
            let whole = ip[6] & 0x1f == 0 && ip[7] == 0;
            let addrs = [&ip[12..16], &ip[16..20]].map(|a| [word(a), 0, 0, 0]);
            (ip[9], whole, addrs, quote.get(len..).unwrap_or_default())
        }
        Version::V6 => {
            let ip = quote.get(..40)?;
            if ip[0] >> 4 != 6 {
                return None;
            }
            let addr = |a: &[u8]| [0, 4, 8, 12].map(|at| word(&a[at..at + 4]));
            (
                ip[6],
                true,
                [addr(&ip[8..24]), addr(&ip[24..40])],
                &quote[40..],
            )
        }
    };
    if version == Version::V6 && protocol == 44 {
        match rest.split_at_checked(8) {
            Some((header, behind)) => {
                protocol = header[0];
                whole = header[2] == 0 && header[3] & 0xf8 == 0;
                rest = behind;
            }
            None => whole = false,
        }
    }
    let ports = (whole && matches!(protocol, 6 | 17) && rest.len() >= 8).then(|| word(&rest[..4]));
    let [src, dst] = addrs;
    Some(Quoted {
        src,
        dst,
        protocol: IpProto(protocol),
        ports,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn a_quoted_packet_is_read_as_by_a_naive_reader(
        v6: bool, first in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()],
        next in prop::sample::select(vec![6u8, 17, 44, 58, 1, 50]),
        offset in prop_oneof![Just(0u16), any::<u16>()],
        mut quote in vec(any::<u8>(), 0..140),
    ) {
        let version = if v6 { Version::V6 } else { Version::V4 };
        let mut put = |at: usize, octet| if let Some(place) = quote.get_mut(at) { *place = octet };
        put(0, first);
        let [high, low] = offset.to_be_bytes();
        if v6 {
            put(6, next);
            put(42, high);
            put(43, low);
        } else {
            put(9, next);
            put(6, high);
            put(7, low);
        }
        prop_assert_eq!(quotes(version, &quote), naive(version, &quote));
    }

    #[test]
    fn a_quoted_packet_is_read_as_etherparse_does(
        is_v6: bool, options in 0usize..=10, udp: bool, header in vec(any::<u8>(), 20..60), cut in 8usize..60,
    ) {
        let protocol = if udp { 17 } else { 6 };
        let mut header = header;
        // A length that holds, so that etherparse reads it too.
        let len = header.len() as u16;
        if udp {
            header[4..6].copy_from_slice(&len.to_be_bytes());
        } else {
            header[12] = 0x50;
        }
        let whole = if is_v6 { v6(protocol, &header) } else { v4(options * 4, 0, protocol, &header) };
        let theirs = LaxSlicedPacket::from_ip(&whole).expect("a packet");
        let (src, dst): (IpAddr, IpAddr) = match &theirs.net {
            Some(LaxNetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            Some(LaxNetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
            other => panic!("{other:?}"),
        };
        let (from, to) = match &theirs.transport {
            Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
            Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
            other => panic!("{other:?}"),
        };
        let ports = [from.to_be_bytes(), to.to_be_bytes()].concat();
        let ip_len = whole.len() - header.len();
        let quote = &whole[..(ip_len + cut).min(whole.len())];
        let version = if is_v6 { Version::V6 } else { Version::V4 };
        let want = Quoted {
            src: addr_words(src),
            dst: addr_words(dst),
            protocol: IpProto(protocol),
            ports: Some(u32::from_ne_bytes(ports.try_into().unwrap())),
        };
        prop_assert_eq!(quotes(version, quote), Some(want));
    }

    #[test]
    fn no_octets_make_it_panic(frame in vec(any::<u8>(), 0..200), l4 in 0usize..250, l4_len in 0usize..300) {
        let frame = Octets(&frame);
        for version in [Version::V4, Version::V6] {
            if let Some(message) = read(&frame, l4, l4_len) {
                let _ = message.judge(version);
            }
            let _ = quoted(&frame, version, l4, l4_len);
        }
    }
}
