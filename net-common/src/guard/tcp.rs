//! TCP sanity (R-TCP-1 to R-TCP-5): what can be no honest segment.
//!
//! Honest traffic that looks like it, and passes: SYN with data (TCP Fast Open, RFC 9293 section
//! 3.10.7.2), ECE, CWR and the reserved bits on a SYN (ECN, AccECN), RST without ACK, FIN+PSH+ACK,
//! a frame padded behind the segment, the absence of DF.

use crate::{
    abi::AddrWords,
    units::{
        Version,
        tcp_flags::{ACK, FIN, RST, SYN},
    },
    verdict::Reason,
};

/// What the rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Data offset, octets.
    pub header_len: usize,
    /// Octets of the segment by the IP length; of the first fragment when it is fragmented.
    pub len: usize,
    /// Octet 13 of the header.
    pub flags: u8,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// What a sane segment is to the cookie engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks for a connection.
    Syn,
    /// May complete a handshake: ACK set, SYN and RST clear (Linux 6.12 `cookie_tcp_check`; data and
    /// FIN may ride on it).
    Ack,
    /// RST, SYN-ACK.
    Other,
}

impl Segment {
    /// Kind of a segment that passed [`sanity`].
    #[inline(always)]
    pub fn kind(&self) -> Kind {
        match self.flags & (SYN | ACK | RST) {
            SYN => Kind::Syn,
            ACK => Kind::Ack,
            _ => Kind::Other,
        }
    }
}

/// The rules that need the segment alone. Some(reason) to drop it.
#[inline(always)]
pub fn sanity(segment: &Segment) -> Option<Reason> {
    if segment.header_len < 20 || segment.header_len > segment.len {
        return Some(Reason::TcpHeader);
    }
    let flags = segment.flags & (FIN | SYN | RST | ACK);
    // FIN without ACK covers XMAS (FIN+PSH+URG); none of the four set covers NULL. PSH or URG alone is
    // as far from any state (RFC 9293 section 3.10.7: every segment but the first SYN and RST has ACK).
    if flags == 0
        || flags & (SYN | FIN) == SYN | FIN
        || flags & (SYN | RST) == SYN | RST
        || flags & (FIN | ACK) == FIN
    {
        return Some(Reason::TcpFlags);
    }
    if segment.src_port == 0 || segment.dst_port == 0 {
        return Some(Reason::TcpPortZero);
    }
    None
}

/// Whether a source address is one that no TCP segment from a link bears (R-TCP-3): the destination's
/// own, unspecified, multicast, the limited broadcast, loopback, IPv4-mapped.
///
/// Linux refuses an IPv4-mapped source where it answers a SYN (6.12 `tcp_v6_conn_request`), which an
/// answer at XDP never reaches: `::ffff:127.0.0.1` would become a connection that the application takes
/// for one from its own host.
#[inline(always)]
pub fn source_impossible(version: Version, src: &AddrWords, dst: &AddrWords) -> bool {
    match version {
        Version::V4 => {
            let s = u32::from_be(src[0]);
            src[0] == dst[0] || s >> 28 == 0xe || s == u32::MAX || s >> 24 == 127 || s == 0
        }
        Version::V6 => {
            let [first, _, third, last] = src.map(u32::from_be);
            (src[0] == dst[0] && src[1] == dst[1] && src[2] == dst[2] && src[3] == dst[3])
                || first >> 24 == 0xff
                || src[0] | src[1] == 0 && (third == 0xffff || third == 0 && last <= 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{
        addr_words,
        tcp_flags::{CWR, ECE, PSH, URG},
    };
    use proptest::prelude::*;

    const GOOD: Segment = Segment {
        header_len: 20,
        len: 20,
        flags: ACK,
        src_port: 1,
        dst_port: 2,
    };

    #[test]
    fn flags_are_judged_as_r_tcp_2_says() {
        let table: &[(&str, u8, Option<Reason>)] = &[
            ("SYN", SYN, None),
            ("SYN with ECN", SYN | ECE | CWR, None),
            ("SYN ACK", SYN | ACK, None),
            ("ACK", ACK, None),
            ("FIN ACK", FIN | ACK, None),
            ("FIN PSH ACK", FIN | PSH | ACK, None),
            ("RST", RST, None),
            ("RST ACK", RST | ACK, None),
            ("FIN RST ACK, odd but with ACK", FIN | RST | ACK, None),
            ("NULL scan", 0, Some(Reason::TcpFlags)),
            ("XMAS scan", FIN | PSH | URG, Some(Reason::TcpFlags)),
            ("FIN scan", FIN, Some(Reason::TcpFlags)),
            ("SYN FIN", SYN | FIN, Some(Reason::TcpFlags)),
            ("SYN FIN ACK", SYN | FIN | ACK, Some(Reason::TcpFlags)),
            ("SYN RST", SYN | RST, Some(Reason::TcpFlags)),
            ("PSH alone", PSH, Some(Reason::TcpFlags)),
        ];
        for (what, flags, want) in table {
            assert_eq!(
                sanity(&Segment {
                    flags: *flags,
                    ..GOOD
                }),
                *want,
                "{what}"
            );
        }
    }

    #[test]
    fn data_offset_must_lie_in_the_segment_r_tcp_1() {
        for (header_len, len, ok) in [
            (16, 40, false),
            (20, 20, true),
            (60, 60, true),
            (60, 59, false),
            (0, 0, false),
        ] {
            let s = Segment {
                header_len,
                len,
                ..GOOD
            };
            assert_eq!(sanity(&s).is_none(), ok, "{header_len} of {len}");
        }
    }

    #[test]
    fn port_zero_is_dropped_r_tcp_4() {
        assert_eq!(
            sanity(&Segment {
                src_port: 0,
                ..GOOD
            }),
            Some(Reason::TcpPortZero)
        );
        assert_eq!(
            sanity(&Segment {
                dst_port: 0,
                ..GOOD
            }),
            Some(Reason::TcpPortZero)
        );
    }

    #[test]
    fn a_syn_with_data_passes_r_tcp_5() {
        assert_eq!(
            sanity(&Segment {
                flags: SYN,
                len: 1000,
                ..GOOD
            }),
            None
        );
    }

    #[test]
    fn sources_are_judged_as_r_tcp_3_says() {
        let table = [
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.2", "10.0.0.2", true),
            ("224.0.0.1", "10.0.0.2", true),
            ("239.255.255.255", "10.0.0.2", true),
            ("255.255.255.255", "10.0.0.2", true),
            ("127.0.0.1", "10.0.0.2", true),
            ("223.255.255.255", "10.0.0.2", false),
            ("240.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::2", false),
            ("2001:db8::2", "2001:db8::2", true),
            ("::1", "2001:db8::2", true),
            ("::2", "2001:db8::2", false),
            ("ff02::1", "2001:db8::2", true),
            ("fe80::1", "2001:db8::2", false),
            ("0.0.0.0", "10.0.0.2", true),
            ("0.0.0.1", "10.0.0.2", false),
            ("::", "2001:db8::2", true),
            ("::ffff:127.0.0.1", "2001:db8::2", true),
            ("::ffff:10.0.0.1", "2001:db8::2", true),
            ("::fffe:10.0.0.1", "2001:db8::2", false),
            ("0:0:1:0:0:ffff:10.0.0.1", "2001:db8::2", false),
            ("64:ff9b::10.0.0.1", "2001:db8::2", false),
        ];
        for (src, dst, want) in table {
            let src: core::net::IpAddr = src.parse().unwrap();
            let version = if src.is_ipv4() {
                Version::V4
            } else {
                Version::V6
            };
            let got =
                source_impossible(version, &addr_words(src), &addr_words(dst.parse().unwrap()));
            assert_eq!(got, want, "{src} to {dst}");
        }
    }

    proptest! {
        #[test]
        fn every_segment_of_an_open_connection_passes(flags: u8, len in 20usize..65535, a in 1u16.., b in 1u16..) {
            let flags = (flags | ACK) & !(SYN | RST);
            let s = Segment { header_len: 20, len, flags, src_port: a, dst_port: b };
            prop_assert_eq!(sanity(&s), None);
            prop_assert_eq!(s.kind(), Kind::Ack);
        }
    }
}
