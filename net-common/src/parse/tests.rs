use etherparse::{
    EtherType as E, IpNumber, Ipv6Header, LaxNetSlice, LaxSlicedPacket, NetSlice, PacketBuilder,
    SlicedPacket, TransportSlice, VlanId,
};
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;

const SRC: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DST: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// Octets of TCP in the frames below: a header and three of data.
const SEGMENT: usize = 23;

fn read(frame: &[u8]) -> Result<Packet, Reason> {
    parse(&Octets(frame))
}

/// Ethernet and tags in front of an IP packet.
fn framed(tags: &[u16], ip: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0x6f, 0xff]);
    }
    let ip_type = if ip[0] >> 4 == 6 { E::IPV6 } else { E::IPV4 };
    frame.extend(ip_type.0.to_be_bytes());
    frame.extend(ip);
    frame
}

fn tcp() -> Vec<u8> {
    let mut octets = etherparse::TcpHeader::new(1, 2, 3, 4).to_bytes().to_vec();
    octets.extend([7; SEGMENT - 20]);
    octets
}

/// An IPv4 packet with `options` octets of options and a fragment word.
fn v4(options: usize, fragment: u16) -> Vec<u8> {
    let mut ip = vec![0x45 + (options / 4) as u8, 0xb9];
    ip.extend(((20 + options + SEGMENT) as u16).to_be_bytes());
    ip.extend([0, 1]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    ip.extend(vec![1; options]);
    ip.extend(tcp());
    ip
}

/// An IPv6 packet with a chain of headers, the first octet of each put right.
fn v6(chain: &[Extension]) -> Vec<u8> {
    let next = |i: usize| chain.get(i).map_or(6, |header| header.0);
    let len: usize = chain.iter().map(|header| header.1.len()).sum();
    let header = Ipv6Header {
        traffic_class: 0xb9,
        flow_label: 0xf_ffff_u32.try_into().unwrap(),
        payload_length: (len + SEGMENT) as u16,
        next_header: IpNumber(next(0)),
        hop_limit: 64,
        source: SRC,
        destination: DST,
    };
    let mut ip = header.to_bytes().to_vec();
    for (i, (_, octets)) in chain.iter().enumerate() {
        ip.push(next(i + 1));
        ip.extend(&octets[1..]);
    }
    ip.extend(tcp());
    ip
}

/// An extension header: its number and its octets.
type Extension = (u8, Vec<u8>);

/// Hop-by-hop options (0), a routing header (43) with no segments left, destination options (60) or a
/// mobility header (135) of 8·(n+1) octets.
fn extension(number: u8, n: u8) -> Extension {
    let mut octets = vec![0; 8 * (usize::from(n) + 1)];
    octets[1] = n;
    (number, octets)
}

/// AH with an integrity check value of 4·n octets.
fn ah(n: u8) -> Extension {
    let mut octets = vec![0xaa; 12 + 4 * usize::from(n)];
    octets[1] = n + 1;
    (51, octets)
}

fn fragment(offset: u16, more: bool) -> Extension {
    let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
    // The reserved octet is no length.
    (44, vec![0, 255, a, b, 0, 0, 0, 9])
}

/// The packet that must be found, its transport header `headers` octets behind the IP header's start.
fn found(version: Version, l3: usize, headers: usize) -> Packet {
    Packet {
        version,
        protocol: IpProto::TCP,
        traffic_class: 0xb9,
        l3,
        l4: l3 + headers,
        l4_len: SEGMENT,
        first_fragment: false,
        fragment_offset: 0,
        fragment_header: false,
    }
}

const TAGS: &[(&str, &[u16], usize)] = &[
    ("untagged", &[], 14),
    ("802.1Q", &[0x8100], 18),
    ("802.1ad", &[0x88a8], 18),
    ("802.1ad and 802.1Q", &[0x88a8, 0x8100], 22),
    ("two 802.1Q", &[0x8100, 0x8100], 22),
];

#[test]
fn the_transport_header_is_found_behind_tags_options_and_extensions() {
    let whole = [
        extension(0, 0),
        extension(60, 2),
        extension(43, 2),
        fragment(0, false),
        ah(3),
        extension(60, 0),
    ];
    let most = vec![extension(60, 0); MAX_EXTENSIONS];
    for (tags_name, tags, l3) in TAGS {
        for options in (0..=40).step_by(4) {
            let want = found(Version::V4, *l3, 20 + options);
            assert_eq!(
                read(&framed(tags, &v4(options, 0))),
                Ok(want),
                "{tags_name}, {options} of options"
            );
        }
        let table: &[(&str, &[Extension])] = &[
            ("no extension", &[]),
            ("hop-by-hop options", &[extension(0, 0)]),
            ("hop-by-hop options of 2048 octets", &[extension(0, 255)]),
            ("routing header", &[extension(43, 4)]),
            ("destination options", &[extension(60, 1)]),
            ("mobility header", &[extension(135, 1)]),
            ("AH without a value", &[ah(0)]),
            ("AH with a value of 12 octets", &[ah(3)]),
            ("AH with a value of 16 octets", &[ah(4)]),
            ("atomic fragment (C-25)", &[fragment(0, false)]),
            ("the whole chain", &whole),
            ("as many as are looked behind", &most),
        ];
        for (what, chain) in table {
            let len: usize = chain.iter().map(|header| header.1.len()).sum();
            let want = Packet {
                // R-ND-2 needs to know.
                fragment_header: chain.iter().any(|(header, _)| *header == 44),
                ..found(Version::V6, *l3, 40 + len)
            };
            assert_eq!(
                read(&framed(tags, &v6(chain))),
                Ok(want),
                "{tags_name}, {what}"
            );
        }
    }
}

#[test]
fn what_is_no_packet_of_ours_passes_with_its_reason() {
    let beyond = vec![extension(60, 0); MAX_EXTENSIONS + 1];
    let at = |mut ip: Vec<u8>, at: usize, octet: u8| {
        ip[at] = octet;
        ip
    };
    let mut left = extension(43, 2);
    left.1[3] = 1;
    let table: &[(&str, Vec<u8>, Reason)] = &[
        (
            "IPv4 of version 5",
            at(v4(0, 0), 0, 0x55),
            Reason::IpMalformed,
        ),
        ("ihl 4", at(v4(0, 0), 0, 0x44), Reason::IpMalformed),
        ("ihl 0", at(v4(0, 0), 0, 0x40), Reason::IpMalformed),
        (
            "ihl beyond the total length",
            at(v4(0, 0), 0, 0x4f),
            Reason::IpMalformed,
        ),
        (
            "total length beyond the frame",
            at(v4(0, 0), 3, 44),
            Reason::IpMalformed,
        ),
        (
            "total length below the header",
            at(v4(0, 0), 3, 19),
            Reason::IpMalformed,
        ),
        (
            "total length 0, as segmentation offload leaves it",
            at(v4(0, 0), 3, 0),
            Reason::IpMalformed,
        ),
        ("middle fragment", v4(0, 0x2000 | 185), Reason::Fragment),
        ("last fragment", v4(0, 185), Reason::Fragment),
        ("fragment at offset 1", v4(0, 1), Reason::Fragment),
        (
            "fragment at the highest offset",
            v4(0, 0x1fff),
            Reason::Fragment,
        ),
        (
            "IPv6 payload beyond the frame",
            at(v6(&[]), 5, 24),
            Reason::IpMalformed,
        ),
        (
            "payload ends in an extension",
            at(v6(&[extension(0, 1)]), 5, 15),
            Reason::IpMalformed,
        ),
        (
            "payload ends in an extension's first octets",
            at(v6(&[extension(0, 0)]), 5, 7),
            Reason::IpMalformed,
        ),
        (
            "payload ends in a fragment header",
            at(v6(&[fragment(0, true)]), 5, 7),
            Reason::FragmentChain,
        ),
        (
            "payload ends in AH",
            at(v6(&[ah(3)]), 5, 23),
            Reason::IpMalformed,
        ),
        (
            "payload 0 without hop-by-hop options",
            at(v6(&[extension(60, 0)]), 5, 0),
            Reason::IpMalformed,
        ),
        (
            "extension beyond the payload",
            v6(&[(60, vec![0, 200, 0, 0, 0, 0, 0, 0])]),
            Reason::IpMalformed,
        ),
        (
            "middle fragment",
            v6(&[fragment(185, true)]),
            Reason::Fragment,
        ),
        (
            "last fragment",
            v6(&[fragment(185, false)]),
            Reason::Fragment,
        ),
        (
            "fragment at offset 1",
            v6(&[extension(0, 0), fragment(1, false)]),
            Reason::Fragment,
        ),
        ("longest chain and one", v6(&beyond), Reason::ParserLimit),
        (
            "segments left: not at its destination yet",
            v6(&[left]),
            Reason::NoRule,
        ),
    ];
    for (what, ip, reason) in table {
        for (tags_name, tags, _) in TAGS {
            let mut frame = framed(tags, ip);
            assert_eq!(read(&frame), Err(*reason), "{what}, {tags_name}");
            // Padding completes nothing (C-28), but what is beyond the frame without it.
            if !what.ends_with("beyond the frame") && !what.ends_with("beyond the payload") {
                frame.extend([0; 60]);
                assert_eq!(read(&frame), Err(*reason), "{what}, {tags_name}, padded");
            }
        }
    }
}

#[test]
fn ethertypes_are_told_apart() {
    let table: &[(&str, &[u16], u16, Reason)] = &[
        ("ARP", &[], 0x0806, Reason::NoRule),
        ("tagged ARP", &[0x8100], 0x0806, Reason::NoRule),
        ("LLDP", &[], 0x88cc, Reason::UnknownEtherType),
        ("an 802.3 length", &[], 46, Reason::UnknownEtherType),
        (
            "PPPoE in a tag",
            &[0x8100],
            0x8864,
            Reason::UnknownEtherType,
        ),
        ("old QinQ", &[], 0x9100, Reason::UnknownEtherType),
        ("three tags", &[0x88a8, 0x8100], 0x8100, Reason::ParserLimit),
        (
            "three service tags",
            &[0x88a8, 0x88a8],
            0x88a8,
            Reason::ParserLimit,
        ),
    ];
    for (what, tags, last, reason) in table {
        let mut frame = framed(tags, &v4(0, 0));
        let at = 12 + 4 * tags.len();
        frame[at..at + 2].copy_from_slice(&last.to_be_bytes());
        assert_eq!(read(&frame), Err(*reason), "{what}");
    }
}

#[test]
fn what_linux_would_look_into_and_we_cannot_has_a_reason_of_its_own() {
    let tagged = |ids: &[u16]| {
        let mut frame = vec![2; 12];
        for id in ids {
            frame.extend([0x81, 0x00]);
            // A priority does not matter.
            frame.extend((0x6000 | id).to_be_bytes());
        }
        frame.extend([0x08, 0x06]);
        frame.extend([0; 28]);
        frame
    };
    for (ids, reason) in [
        (&[0, 0][..], Reason::NoRule),
        (&[5, 6, 7], Reason::ParserLimit),
        (&[0, 0, 0], Reason::StackedPriorityTags),
        (&[0, 6, 7], Reason::StackedPriorityTags),
        (&[5, 0, 7], Reason::StackedPriorityTags),
        (&[5, 6, 0], Reason::StackedPriorityTags),
    ] {
        assert_eq!(read(&tagged(ids)), Err(reason), "VLAN ids {ids:?}");
    }
    let mut chain = v6(&vec![extension(60, 0); MAX_EXTENSIONS + 1]);
    for (hop_limit, reason) in [
        (255, Reason::NdHidden),
        (254, Reason::ParserLimit),
        (1, Reason::ParserLimit),
    ] {
        chain[7] = hop_limit;
        assert_eq!(
            read(&framed(&[], &chain)),
            Err(reason),
            "hop limit {hop_limit}"
        );
    }
    let mut jumbogram = v6(&[extension(0, 0)]);
    jumbogram[4..6].fill(0);
    let packet = read(&framed(&[], &jumbogram)).expect("Linux takes the whole frame");
    assert_eq!((packet.protocol, packet.l4_len), (IpProto::TCP, SEGMENT));
}

#[test]
fn first_fragments_have_their_header_and_no_flag_but_more_makes_one() {
    for (what, ip, first) in [
        ("IPv4, more", v4(0, 0x2000), true),
        ("IPv4, DF", v4(0, 0x4000), false),
        ("IPv4, the reserved bit", v4(0, 0x8000), false),
        ("IPv6, more", v6(&[fragment(0, true)]), true),
        (
            "IPv6, more, options behind",
            v6(&[fragment(0, true), extension(60, 0)]),
            true,
        ),
        ("IPv6, atomic", v6(&[fragment(0, false)]), false),
    ] {
        assert_eq!(
            read(&framed(&[], &ip)).map(|p| p.first_fragment),
            Ok(first),
            "{what}"
        );
    }
    // The reserved bits of the fragment header (RFC 8200 section 4.5) are ignored.
    let mut reserved = fragment(0, false);
    reserved.1[3] |= 6;
    assert_eq!(
        read(&framed(&[], &v6(&[reserved]))).map(|p| p.first_fragment),
        Ok(false)
    );
}

#[test]
fn the_segment_ends_where_the_ip_length_says_r_gen_4_c_28() {
    for ip in [v4(0, 0), v4(12, 0), v6(&[]), v6(&[ah(1)])] {
        for padding in [0, 1, 17, 1000] {
            let mut frame = framed(&[], &ip);
            frame.resize(frame.len() + padding, 0xff);
            assert_eq!(read(&frame).map(|p| p.l4_len), Ok(SEGMENT));
        }
    }
}

#[test]
fn other_protocols_are_named_and_hide_what_is_behind_them() {
    for protocol in [1, 4, 17, 41, 47, 50, 58, 59, 132, 139, 255] {
        let mut ip = v4(0, 0);
        ip[9] = protocol;
        assert_eq!(
            read(&framed(&[], &ip)).map(|p| p.protocol),
            Ok(IpProto(protocol))
        );
        let mut ip = v6(&[]);
        ip[6] = protocol;
        assert_eq!(
            read(&framed(&[], &ip)).map(|p| p.protocol),
            Ok(IpProto(protocol))
        );
    }
    // IPv4 has no extension headers: their numbers are protocols there.
    for protocol in [0, 43, 44, 51, 60] {
        let mut ip = v4(0, 0);
        ip[9] = protocol;
        assert_eq!(
            read(&framed(&[], &ip)).map(|p| (p.protocol, p.l4)),
            Ok((IpProto(protocol), 34))
        );
    }
}

#[test]
fn a_frame_cut_anywhere_gives_a_reason_and_no_panic() {
    let chain = [
        extension(0, 0),
        extension(43, 1),
        ah(2),
        fragment(0, false),
        extension(60, 0),
    ];
    for ip in [v4(0, 0), v4(40, 0), v6(&[]), v6(&chain)] {
        for (_, tags, l3) in TAGS {
            let frame = framed(tags, &ip);
            for len in 0..frame.len() {
                let want = match len {
                    0..14 => Reason::UnknownEtherType,
                    n if n < *l3 => Reason::ParserLimit,
                    _ => Reason::IpMalformed,
                };
                assert_eq!(read(&frame[..len]), Err(want), "{len} of {}", frame.len());
            }
            assert!(read(&frame).is_ok());
        }
    }
}

#[test]
fn addresses_are_the_words_of_the_packet() {
    let words = crate::units::addr_words;
    let frame = framed(&[0x8100], &v4(8, 0));
    let packet = read(&frame).unwrap();
    let want = (words([192, 0, 2, 1].into()), words([192, 0, 2, 2].into()));
    assert_eq!(addresses(&Octets(&frame), &packet), Some(want));
    let frame = framed(&[0x88a8, 0x8100], &v6(&[extension(0, 0)]));
    let packet = read(&frame).unwrap();
    assert_eq!(
        addresses(&Octets(&frame), &packet),
        Some((words(SRC.into()), words(DST.into())))
    );
}

prop_compose! {
    fn chains()(kinds in vec((0usize..6, 0u8..5), 0..9)) -> Vec<Extension> {
        kinds.into_iter().enumerate().map(|(i, (kind, n))| match kind {
            // Hop-by-hop options stand first or nowhere (RFC 8200 section 4.1); etherparse insists.
            0 if i == 0 => extension(0, n),
            0 => extension(60, n),
            1 => extension(43, n),
            2 => extension(60, n),
            3 => ah(n),
            4 => fragment(0, false),
            _ => fragment(n.into(), true),
        }).collect()
    }
}

prop_compose! {
    fn frames()(
        is_v6: bool,
        tags in vec(prop::sample::select(vec![0x8100u16, 0x88a8]), 0..4),
        options in 0usize..=10,
        fragment in prop_oneof![4 => Just(0u16), 1 => any::<u16>()],
        chain in chains(),
        padding in prop_oneof![Just(0usize), 1usize..50],
    ) -> Vec<u8> {
        let ip = if is_v6 { v6(&chain) } else { v4(options * 4, fragment) };
        let mut frame = framed(&tags, &ip);
        frame.resize(frame.len() + padding, 0xee);
        frame
    }
}

/// Whatever is found lies in the frame, in order.
fn holds_together(frame: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(p) = read(frame) {
        prop_assert!(p.l3 + p.version.header_len() <= p.l4);
        prop_assert!(p.l4 + p.l4_len <= frame.len());
        prop_assert!(addresses(&Octets(frame), &p).is_some());
    }
    Ok(())
}

/// etherparse, which shares no line with us, on the same frame. It knows no bound of tags or headers
/// that is ours, and says nothing of the segments left; where it stops for such a reason we say so too.
fn agrees_with_etherparse(frame: &[u8]) -> Result<(), TestCaseError> {
    let ours = read(frame);
    let theirs = SlicedPacket::from_ethernet(frame);
    let Ok(p) = ours else {
        return Ok(());
    };
    if p.version == Version::V4 && p.protocol == IpProto::AH {
        // It looks behind AH in IPv4 too.
        return Ok(());
    }
    let lax = LaxSlicedPacket::from_ethernet(frame).expect("an Ethernet header");
    let (number, payload, fragmented) = match &theirs {
        Ok(sliced) => match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => (
                ip.payload().ip_number,
                ip.payload().payload,
                ip.payload().fragmented,
            ),
            Some(NetSlice::Ipv6(ip)) => (
                ip.payload().ip_number,
                ip.payload().payload,
                ip.payload().fragmented,
            ),
            other => {
                return Err(TestCaseError::fail(format!(
                    "{p:?} where etherparse has {other:?}"
                )));
            }
        },
        // A transport header that it refuses is not the parser's matter; the IP layer below it is.
        Err(_) => match &lax.net {
            Some(LaxNetSlice::Ipv4(ip)) => (
                ip.payload().ip_number,
                ip.payload().payload,
                ip.payload().fragmented,
            ),
            Some(LaxNetSlice::Ipv6(ip)) => (
                ip.payload().ip_number,
                ip.payload().payload,
                ip.payload().fragmented,
            ),
            other => {
                return Err(TestCaseError::fail(format!(
                    "{p:?} where etherparse has {other:?}"
                )));
            }
        },
    };
    prop_assert_eq!(IpProto(number.0), p.protocol);
    prop_assert_eq!(payload.len(), p.l4_len);
    prop_assert_eq!(payload.as_ptr(), frame[p.l4..].as_ptr());
    prop_assert_eq!(fragmented, p.first_fragment);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn random_octets_never_panic(frame in vec(any::<u8>(), 0..300)) {
        holds_together(&frame)?;
    }

    #[test]
    fn mutated_frames_never_panic(
        mut frame in frames(), changes in vec((any::<Index>(), any::<u8>()), 0..6), cut: Index, whole: bool,
    ) {
        for (at, octet) in changes {
            let at = at.index(frame.len());
            frame[at] = octet;
        }
        if !whole {
            frame.truncate(cut.index(frame.len()));
        }
        holds_together(&frame)?;
    }

    /// Both ways: what we find etherparse finds, at the same place; what it finds at a transport
    /// header we do not call malformed.
    #[test]
    fn well_formed_frames_are_read_as_etherparse_reads_them(frame in frames()) {
        agrees_with_etherparse(&frame)?;
        let theirs = SlicedPacket::from_ethernet(&frame);
        if let Ok(SlicedPacket { transport: Some(TransportSlice::Tcp(_)), .. }) = theirs {
            prop_assert!(!matches!(read(&frame), Err(Reason::IpMalformed | Reason::UnknownEtherType)));
        }
    }

    #[test]
    fn frames_built_by_etherparse_are_understood(
        is_v6: bool, tags in 0usize..3, data in vec(any::<u8>(), 0..100), ttl: u8, padding in 0usize..30,
    ) {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let id = |n: u16| VlanId::try_new(n).unwrap();
        macro_rules! build {
            ($builder:expr) => {{
                let builder = $builder;
                let tcp = if is_v6 { builder.ipv6(SRC, DST, ttl).tcp(1, 2, 3, 4) }
                    else { builder.ipv4([192, 0, 2, 1], [192, 0, 2, 2], ttl).tcp(1, 2, 3, 4) };
                let mut out = Vec::new();
                tcp.write(&mut out, &data).unwrap();
                out
            }};
        }
        let mut frame = match tags {
            0 => build!(builder),
            1 => build!(builder.single_vlan(id(5))),
            _ => build!(builder.double_vlan(id(5), id(6))),
        };
        frame.resize(frame.len() + padding, 0);
        let p = read(&frame).unwrap();
        prop_assert_eq!((p.l3, p.l4_len, p.protocol), (14 + 4 * tags, 20 + data.len(), IpProto::TCP));
        prop_assert_eq!(p.l4 - p.l3, if is_v6 { 40 } else { 20 });
    }
}

/// What is found behind the tags, a later fragment's data too.
fn find(frame: &[u8]) -> Result<Packet, Reason> {
    let frame = Octets(frame);
    network(&frame, payload(&frame)?)
}

#[test]
fn a_later_fragments_data_are_found_and_where_they_belong_r_udp_4() {
    for (tags_name, tags, l3) in TAGS {
        for offset in [1, 2, 185, 8191] {
            for more in [false, true] {
                let flags = if more { 0x2000 } else { 0 };
                let want = Packet {
                    fragment_offset: offset,
                    ..found(Version::V4, *l3, 28)
                };
                let ip = v4(8, flags | offset);
                assert_eq!(
                    find(&framed(tags, &ip)),
                    Ok(want),
                    "{tags_name} at {offset}"
                );

                let want = Packet {
                    fragment_offset: offset,
                    fragment_header: true,
                    ..found(Version::V6, *l3, 56)
                };
                let ip = v6(&[extension(0, 0), fragment(offset, more)]);
                assert_eq!(
                    find(&framed(tags, &ip)),
                    Ok(want),
                    "{tags_name}, IPv6 at {offset}"
                );
            }
        }
    }
    // What stands behind the fragment header of a later fragment is data, whatever it looks like.
    let ip = v6(&[fragment(7, true), extension(60, 0)]);
    let packet = find(&framed(&[], &ip)).unwrap();
    assert_eq!((packet.protocol, packet.l4), (IpProto(60), 14 + 48));
    // A whole packet and a first fragment belong at 0.
    for ip in [
        v4(0, 0),
        v4(0, 0x2000),
        v4(0, 0x4000),
        v6(&[fragment(0, true)]),
        v6(&[]),
    ] {
        assert_eq!(find(&framed(&[], &ip)).map(|p| p.fragment_offset), Ok(0));
    }
    // A header cut off of a later fragment, where the payload ends.
    let mut short = framed(&[], &v6(&[fragment(7, true)]));
    short[14 + 5] = 7;
    assert_eq!(find(&short), Err(Reason::IpMalformed));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4000) })]

    #[test]
    fn fragments_are_told_as_etherparse_tells_them(is_v6: bool, offset in prop_oneof![Just(0u16), 1u16..=8191], more: bool) {
        let ip = if is_v6 {
            v6(&[fragment(offset, more)])
        } else {
            v4(0, offset | if more { 0x2000 } else { 0 })
        };
        let ours = find(&framed(&[], &ip)).unwrap();
        let theirs = LaxSlicedPacket::from_ip(&ip).unwrap();
        let (theirs_offset, theirs_more) = match &theirs.net {
            Some(LaxNetSlice::Ipv4(ip)) => (ip.header().fragments_offset().value(), ip.header().more_fragments()),
            Some(LaxNetSlice::Ipv6(ip)) => {
                let mut found = (0, false);
                for extension in ip.extensions().clone() {
                    if let etherparse::Ipv6ExtensionSlice::Fragment(f) = extension {
                        found = (f.fragment_offset().value(), f.more_fragments());
                    }
                }
                found
            }
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(ours.fragment_offset, theirs_offset);
        prop_assert_eq!(ours.first_fragment, theirs_offset == 0 && theirs_more);
    }

    #[test]
    fn whatever_is_found_of_a_fragment_lies_in_the_frame(mut frame in frames(), at: Index, octet: u8, cut: Index) {
        let len = frame.len();
        frame[at.index(len)] = octet;
        frame.truncate(cut.index(len + 1));
        if let Ok(p) = find(&frame) {
            prop_assert!(p.l3 + p.version.header_len() <= p.l4);
            prop_assert!(p.l4 + p.l4_len <= frame.len());
            prop_assert!(!p.first_fragment || p.fragment_offset == 0);
            prop_assert_eq!(read(&frame).is_ok(), p.fragment_offset == 0);
        }
    }
}
