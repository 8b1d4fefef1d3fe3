use core::net::IpAddr;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::units::addr_words;

const ROUTER_ALERT: &[u8] = &[0x94, 4, 0, 0];

/// The options in the space that the kernel reads them into, with other octets behind them.
fn space(options: &[u8], stale: u8) -> [u8; OPTIONS_SPACE] {
    let mut space = [stale; OPTIONS_SPACE];
    space[..options.len()].copy_from_slice(options);
    space
}

fn routed(options: &[u8]) -> bool {
    has_source_route(&space(options, 0), options.len(), |at| at)
}

#[test]
fn source_routes_are_found_and_honest_options_are_none_r_tcp_11_c_26() {
    let nops = |n| vec![NOP; n];
    let lsrr: &[u8] = &[LSRR, 7, 4, 192, 0, 2, 7];
    let ssrr: &[u8] = &[SSRR, 7, 4, 192, 0, 2, 7];
    let timestamp: &[u8] = &[68, 8, 5, 0, 0, 0, 0, 0];
    let record_route: &[u8] = &[7, 7, 4, 0, 0, 0, 0];
    for at in 0..=33 {
        for route in [lsrr, ssrr] {
            let options = [&nops(at), route].concat();
            assert!(routed(&options), "a route at {at}: {options:?}");
            // The length of what is dropped is no matter, nor whether it is all there.
            assert!(routed(&options[..at + 1]), "a route's type alone at {at}");
        }
    }
    for (what, options, want) in [
        ("nothing", vec![], false),
        ("40 of padding", nops(40), false),
        ("router alert (IGMP, RSVP)", ROUTER_ALERT.to_vec(), false),
        ("a timestamp", timestamp.to_vec(), false),
        ("a recorded route", record_route.to_vec(), false),
        (
            "a route behind a router alert",
            [ROUTER_ALERT, lsrr].concat(),
            true,
        ),
        (
            "a route behind three others",
            [ROUTER_ALERT, timestamp, record_route, ssrr].concat(),
            true,
        ),
        (
            "a route behind the end of the list",
            [&[END], lsrr].concat(),
            false,
        ),
        (
            "its number in another option's data",
            vec![68, 8, LSRR, SSRR, LSRR, SSRR, LSRR, SSRR],
            false,
        ),
        (
            "behind a length of 0, which the kernel discards",
            vec![68, 0, LSRR, 7],
            false,
        ),
        ("behind a length of 1", vec![68, 1, LSRR, 7], false),
        (
            "behind a length beyond the header",
            vec![68, 255, LSRR, 7],
            false,
        ),
        ("an option without its length", vec![68], false),
    ] {
        assert_eq!(routed(&options), want, "{what}");
    }
}

#[test]
fn what_was_in_the_space_before_is_no_option() {
    for len in 0..=MAX_OPTIONS {
        for stale in [LSRR, SSRR, 68, 2, 0xff] {
            let options = vec![NOP; len];
            let found = has_source_route(&space(&options, stale), len, |at| at);
            assert!(!found, "{stale} behind {len} octets");
        }
    }
}

/// The walk by the book.
fn naive_route(options: &[u8]) -> bool {
    match options {
        [] | [END, ..] => false,
        [LSRR | SSRR, ..] => true,
        [NOP, rest @ ..] => naive_route(rest),
        [_, len, ..] if *len >= 2 => {
            naive_route(options.get(usize::from(*len)..).unwrap_or_default())
        }
        _ => false,
    }
}

fn packet(version: Version, header: usize, protocol: IpProto) -> Packet {
    Packet {
        version,
        protocol,
        traffic_class: 0,
        l3: 14,
        l4: 14 + header,
        l4_len: 100,
        first_fragment: false,
        fragment_offset: 0,
        fragment_header: false,
    }
}

/// A fragment of IPv4 with a header of 20 octets, or of IPv6.
fn piece(version: Version, protocol: IpProto, offset: u16, more: bool, len: usize) -> Packet {
    Packet {
        l4_len: len,
        first_fragment: offset == 0 && more,
        fragment_offset: offset,
        fragment_header: version == Version::V6,
        ..packet(version, version.header_len(), protocol)
    }
}

#[test]
fn fragments_are_judged_as_r_tcp_10_says_c_21_c_22() {
    use Reason::{FragmentChain as Chain, FragmentOverlong as Overlong, FragmentTiny as Tiny};
    use Version::{V4, V6};
    const GRE: IpProto = IpProto(47);
    // Version, protocol, offset, more, octets.
    let table: &[(&str, Packet, Option<Reason>)] = &[
        (
            "a whole TCP header",
            piece(V4, IpProto::TCP, 0, true, 24),
            None,
        ),
        (
            "TCP of 20 octets",
            piece(V4, IpProto::TCP, 0, true, 20),
            None,
        ),
        (
            "TCP of 16 octets",
            piece(V4, IpProto::TCP, 0, true, 16),
            Some(Tiny),
        ),
        (
            "TCP of 8 octets (RFC 1858 section 3)",
            piece(V4, IpProto::TCP, 0, true, 8),
            Some(Tiny),
        ),
        (
            "TCP flags overwritten (RFC 3128)",
            piece(V4, IpProto::TCP, 1, false, 32),
            Some(Tiny),
        ),
        (
            "the same, more to come",
            piece(V4, IpProto::TCP, 1, true, 32),
            Some(Tiny),
        ),
        (
            "the same of IPv6",
            piece(V6, IpProto::TCP, 1, true, 32),
            Some(Tiny),
        ),
        (
            "TCP behind its header",
            piece(V4, IpProto::TCP, 2, true, 32),
            None,
        ),
        (
            "UDP at offset 1",
            piece(V4, IpProto::UDP, 1, false, 32),
            None,
        ),
        ("UDP of 8 octets", piece(V4, IpProto::UDP, 0, true, 8), None),
        (
            "a large datagram's first",
            piece(V4, IpProto::UDP, 0, true, 1480),
            None,
        ),
        ("its last", piece(V4, IpProto::UDP, 185, false, 1000), None),
        (
            "a large echo's first (cilium #16036)",
            piece(V4, IpProto::ICMP, 0, true, 8),
            None,
        ),
        (
            "an unknown protocol's, of 8 octets",
            piece(V4, GRE, 0, true, 8),
            None,
        ),
        (
            "IPv6 TCP without all of its header (RFC 7112 section 5)",
            piece(V6, IpProto::TCP, 0, true, 16),
            Some(Chain),
        ),
        (
            "IPv6 UDP without a header",
            piece(V6, IpProto::UDP, 0, true, 0),
            Some(Chain),
        ),
        (
            "IPv6 ICMP without a header",
            piece(V6, IpProto::ICMPV6, 0, true, 0),
            Some(Chain),
        ),
        (
            "IPv6 TCP with its header",
            piece(V6, IpProto::TCP, 0, true, 24),
            None,
        ),
        (
            "IPv6 UDP with its header",
            piece(V6, IpProto::UDP, 0, true, 8),
            None,
        ),
        (
            "IPv6, an unknown protocol's",
            piece(V6, GRE, 0, true, 0),
            None,
        ),
        (
            "the last octet there is",
            piece(V4, IpProto::UDP, 8189, false, 65_535 - 20 - 8189 * 8),
            None,
        ),
        (
            "one too many",
            piece(V4, IpProto::UDP, 8189, false, 65_536 - 20 - 8189 * 8),
            Some(Overlong),
        ),
        (
            "the ping of death",
            piece(V4, IpProto::ICMP, 8189, false, 1480),
            Some(Overlong),
        ),
        (
            "IPv6, the last octet",
            piece(V6, IpProto::UDP, 8191, false, 7),
            None,
        ),
        (
            "IPv6, one too many",
            piece(V6, IpProto::UDP, 8191, false, 8),
            Some(Overlong),
        ),
        (
            "an atomic fragment of a short TCP segment (RFC 6946), which is no fragment",
            piece(V6, IpProto::TCP, 0, false, 8),
            None,
        ),
    ];
    for (what, packet, want) in table {
        assert_eq!(fragment(packet), *want, "{what}");
        let atomic = what.contains("atomic");
        assert_eq!(is_fragment(packet), !atomic, "{what}");
    }
}

/// Where an octet of a fragment's data belongs in the datagram without its header.
fn octets(packet: &Packet) -> impl Iterator<Item = usize> {
    let start = usize::from(packet.fragment_offset) * 8;
    start..start + packet.l4_len
}

#[test]
fn sources_are_judged_as_r_tcp_3_says_and_what_asks_for_an_address_passes() {
    for (src, dst, want) in [
        ("192.0.2.9", "192.0.2.1", false),
        ("240.0.0.1", "192.0.2.1", false),
        ("223.255.255.255", "192.0.2.1", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("224.0.0.1", "192.0.2.1", true),
        ("239.255.255.255", "192.0.2.1", true),
        ("255.255.255.255", "192.0.2.1", true),
        ("127.0.0.1", "192.0.2.1", true),
        ("127.255.255.255", "192.0.2.1", true),
        // DHCP (RFC 2131 section 4.1), IGMPv3 (RFC 3376 section 4.2.13).
        ("0.0.0.0", "255.255.255.255", false),
        ("0.0.0.0", "224.0.0.22", false),
        ("0.0.0.0", "0.0.0.0", false),
        ("2001:db8::9", "2001:db8::1", false),
        ("fe80::9", "2001:db8::1", false),
        ("2001:db8::1", "2001:db8::1", true),
        ("ff02::1", "2001:db8::1", true),
        ("::1", "2001:db8::1", true),
        ("::ffff:192.0.2.9", "2001:db8::1", true),
        // Listener reports (RFC 3810 section 5.2.13), duplicate address detection.
        ("::", "ff02::16", false),
        ("::", "ff02::1:ff00:1", false),
        // RFC 6052.
        ("64:ff9b::192.0.2.9", "2001:db8::1", false),
    ] {
        let src: IpAddr = src.parse().unwrap();
        let version = if src.is_ipv4() {
            Version::V4
        } else {
            Version::V6
        };
        let got = source_martian(version, &addr_words(src), &addr_words(dst.parse().unwrap()));
        assert_eq!(got, want, "{src} to {dst}");
    }
}

prop_compose! {
    fn fragments()(
        v6: bool,
        words in 5usize..=15,
        protocol in prop::sample::select(vec![1u8, 6, 17, 47, 58]),
        offset in prop_oneof![Just(0u16), Just(1), 0u16..=8191, 8100u16..=8191],
        more: bool,
        // A fragment without data is judged by where they would stand.
        len in prop_oneof![1usize..40, 1usize..=65_535],
    ) -> (Packet, usize) {
        let version = if v6 { Version::V6 } else { Version::V4 };
        let header = if v6 { 48 } else { words * 4 };
        let len = if v6 { len } else { len.min(65_535 - header) };
        let packet = Packet {
            l4_len: len,
            first_fragment: offset == 0 && more,
            fragment_offset: offset,
            ..packet(version, header, IpProto(protocol))
        };
        (packet, if v6 { 0 } else { header })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn source_routes_are_found_as_by_a_naive_walk(
        options in vec(prop_oneof![
            4 => prop::sample::select(vec![END, NOP, LSRR, SSRR, 68, 7, 0x94]),
            4 => 0u8..12,
            1 => any::<u8>(),
        ], 0..=MAX_OPTIONS),
        stale: u8,
    ) {
        let found = has_source_route(&space(&options, stale), options.len(), |at| at);
        prop_assert_eq!(found, naive_route(&options));
    }

    #[test]
    fn fragments_are_judged_octet_by_octet((packet, header) in fragments()) {
        let tcp = packet.protocol == IpProto::TCP;
        let beyond = octets(&packet).any(|at| header + at >= 65_535);
        // What no whole header came before, and changes the octets of one: the flags are at 13.
        let overwrites = tcp && packet.fragment_offset != 0
            && usize::from(packet.fragment_offset) * 8 <= 13;
        let least = match packet.protocol.0 {
            6 => 20,
            1 | 17 | 58 => 8,
            _ => 0,
        };
        let lacks = packet.first_fragment && octets(&packet).filter(|at| *at < least).count() < least;
        let tiny = overwrites || lacks && tcp && packet.version == Version::V4;
        let chain = lacks && packet.version == Version::V6;
        let allowed = [
            (beyond, Reason::FragmentOverlong),
            (tiny, Reason::FragmentTiny),
            (chain, Reason::FragmentChain),
        ];
        let got = fragment(&packet);
        match got {
            Some(reason) => prop_assert!(allowed.contains(&(true, reason)), "{reason:?}"),
            None => prop_assert!(!beyond && !tiny && !chain),
        }
    }

    #[test]
    fn no_source_and_no_fields_make_it_panic(
        src: [u32; 4], dst: [u32; 4], v6: bool, l4_len in 0usize..200_000, offset: u16, first: bool, protocol: u8,
    ) {
        let version = if v6 { Version::V6 } else { Version::V4 };
        let _ = source_martian(version, &src, &dst);
        let any = Packet {
            l4_len,
            first_fragment: first,
            fragment_offset: offset,
            ..packet(version, 60, IpProto(protocol))
        };
        let _ = fragment(&any);
        prop_assert_eq!(is_fragment(&any), first || offset != 0);
    }
}
