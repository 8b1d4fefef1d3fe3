use proptest::prelude::*;

use super::*;
use crate::units::IpProto;

fn datagram(version: Version, l4_len: usize, first_fragment: bool) -> Packet {
    Packet {
        version,
        protocol: IpProto::UDP,
        traffic_class: 0,
        l3: 14,
        l4: 14 + version.header_len(),
        l4_len,
        first_fragment,
        fragment_offset: 0,
        fragment_header: false,
    }
}

#[test]
fn lengths_are_judged_as_r_udp_1_says() {
    use Version::{V4, V6};
    let (good, bad) = (None, Some(Reason::UdpMalformed));
    // Version, octets by the IP length, by the UDP header, first fragment.
    for (what, version, l4_len, len, first, want) in [
        ("a header alone", V4, 8, 8, false, good),
        ("a header alone, IPv6", V6, 8, 8, false, good),
        ("data", V4, 100, 100, false, good),
        (
            "data behind the datagram (RFC 768)",
            V4,
            100,
            60,
            false,
            good,
        ),
        ("length 7", V4, 100, 7, false, bad),
        ("length 0 of IPv4", V4, 100, 0, false, bad),
        (
            "length 0 of IPv6: a jumbogram (RFC 2675)",
            V6,
            100,
            0,
            false,
            good,
        ),
        ("length 1 of IPv6", V6, 100, 1, false, bad),
        ("one beyond the packet", V4, 100, 101, false, bad),
        ("one beyond the packet, IPv6", V6, 100, 101, false, bad),
        ("the largest", V4, 100, 65_535, false, bad),
        (
            "a first fragment, with the length of the whole",
            V4,
            1480,
            4008,
            true,
            good,
        ),
        ("the same of IPv6", V6, 1448, 4008, true, good),
        ("a first fragment of length 7", V4, 1480, 7, true, bad),
        ("cut in its header", V4, 7, 7, false, bad),
        ("cut in its header, of any length", V6, 4, 100, true, bad),
    ] {
        assert_eq!(
            sanity(&datagram(version, l4_len, first), len),
            want,
            "{what}"
        );
    }
}

#[test]
fn every_port_amplifies_or_does_not_as_r_udp_2_says() {
    // CISA TA14-017A, and 3702.
    const LIST: [u16; 12] = [17, 19, 53, 111, 123, 137, 161, 389, 520, 1900, 3702, 11211];
    for port in 0..=u16::MAX {
        for hop_limit in [0, 1, 64, 254, 255] {
            // RFC 6762 section 11: multicast DNS of this link has hop limit 255.
            let off_link = port == 5353 && hop_limit != 255;
            let want = LIST.contains(&port) || off_link;
            assert_eq!(amplifies(port, hop_limit), want, "{port} at {hop_limit}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    /// A datagram is sane when its octets can be cut out of the packet, header first.
    #[test]
    fn a_length_is_sane_when_the_datagram_can_be_cut_out(
        v6: bool, l4_len in prop_oneof![0usize..20, 0usize..2000], len in prop_oneof![0u16..20, 0u16..2000, any::<u16>()],
    ) {
        let version = if v6 { Version::V6 } else { Version::V4 };
        let octets = vec![0u8; l4_len];
        let cut = match usize::from(len) {
            0 if v6 => octets.get(..),
            len => octets.get(..len),
        };
        let sane = cut.is_some_and(|datagram| datagram.len() >= 8);
        prop_assert_eq!(sanity(&datagram(version, l4_len, false), len.into()).is_none(), sane);
    }
}
