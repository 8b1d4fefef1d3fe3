//! The SYN-ACK that answers a SYN with a cookie, as words in network byte order, checksums included.
//! One segment a SYN, header only (R-SYN-11), with the options in the order Linux sends them.

use crate::{
    abi::AddrWords,
    cookie::{Cookie, Terms},
    tcp_options::NO_WSCALE,
    units::{
        IpProto, Version,
        tcp_flags::{ACK, ECE, SYN},
    },
};

/// Words of a TCP header with the MSS option alone.
pub const PLAIN_WORDS: usize = 6;
/// Words of a TCP header with MSS, SACK-permitted or padding, timestamps, window scale or padding.
pub const TIMESTAMPS_WORDS: usize = 10;

/// What a SYN-ACK is made of besides its cookie.
#[derive(Clone, Copy, Debug)]
pub struct SynAck {
    /// IP version.
    pub version: Version,
    /// Own address.
    pub src: AddrWords,
    /// Client's address.
    pub dst: AddrWords,
    /// Ports word of the SYN as it stood in the packet.
    pub syn_ports: u32,
    /// Client's initial sequence number, host byte order.
    pub client_isn: u32,
    /// Client's timestamp value, host byte order.
    pub client_tsval: u32,
    /// MSS to advertise, octets.
    pub mss: u16,
    /// Window to advertise, octets.
    pub window: u16,
    /// The cookie.
    pub cookie: Cookie,
    /// What was agreed.
    pub terms: Terms,
}

impl SynAck {
    /// TCP header for [`Terms::timestamps`] unset.
    #[inline(always)]
    pub fn plain(&self) -> [u32; PLAIN_WORDS] {
        let [a, b, c, d] = self.front(PLAIN_WORDS);
        self.sealed([a, b, c, d, 0, self.mss_option()])
    }

    /// TCP header for [`Terms::timestamps`] set.
    #[inline(always)]
    pub fn with_timestamps(&self) -> [u32; TIMESTAMPS_WORDS] {
        let [a, b, c, d] = self.front(TIMESTAMPS_WORDS);
        let sack: u32 = if self.terms.sack {
            0x0402_080a
        } else {
            0x0101_080a
        };
        let wscale = if self.terms.snd_wscale == NO_WSCALE {
            0x0101_0101
        } else {
            0x0103_0300 | u32::from(self.terms.rcv_wscale)
        };
        self.sealed([
            a,
            b,
            c,
            d,
            0,
            self.mss_option(),
            sack.to_be(),
            self.cookie.tsval.to_be(),
            self.client_tsval.to_be(),
            wscale.to_be(),
        ])
    }

    #[inline(always)]
    fn front(&self, words: usize) -> [u32; 4] {
        let flags = SYN | ACK | if self.terms.ecn { ECE } else { 0 };
        let third = (words as u32) << 28 | u32::from(flags) << 16 | u32::from(self.window);
        [
            // The halves change places: their ports are the other way round.
            self.syn_ports.rotate_left(16),
            self.cookie.isn.to_be(),
            self.client_isn.wrapping_add(1).to_be(),
            third.to_be(),
        ]
    }

    #[inline(always)]
    fn mss_option(&self) -> u32 {
        (0x0204_0000 | u32::from(self.mss)).to_be()
    }

    /// Puts the checksum over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) and
    /// `words` in place.
    #[inline(always)]
    fn sealed<const N: usize>(&self, mut words: [u32; N]) -> [u32; N] {
        let mut sum = u64::from((u32::from(IpProto::TCP.0) + N as u32 * 4).to_be());
        let addresses = match self.version {
            Version::V4 => 1,
            Version::V6 => 4,
        };
        for i in 0..4 {
            if i < addresses {
                sum += u64::from(self.src[i]) + u64::from(self.dst[i]);
            }
        }
        for word in words {
            sum += u64::from(word);
        }
        // Octets 16 and 17 of the header: the first half of word 4, whatever the byte order.
        words[4] = u32::from_be(u32::from(u16::from_be(fold(sum))) << 16);
        words
    }

    /// IPv4 header for a TCP header of `tcp_words`: no options, DF, identification 0 (atomic, RFC 6864
    /// section 4.1), as Linux sends SYN-ACKs.
    #[inline(always)]
    pub fn ipv4(&self, tcp_words: usize, ttl: u8) -> [u32; 5] {
        let mut words = [
            (0x4500_0000 | (20 + tcp_words as u32 * 4)).to_be(),
            0x0000_4000_u32.to_be(),
            (u32::from(ttl) << 24 | u32::from(IpProto::TCP.0) << 16).to_be(),
            self.src[0],
            self.dst[0],
        ];
        let mut sum = 0;
        for word in words {
            sum += u64::from(word);
        }
        words[2] |= u32::from(u16::from_be(fold(sum))).to_be();
        words
    }

    /// First two words of the IPv6 header; the addresses follow.
    #[inline(always)]
    pub fn ipv6(&self, tcp_words: usize, hop_limit: u8) -> [u32; 2] {
        [
            0x6000_0000_u32.to_be(),
            ((tcp_words as u32 * 4) << 16 | u32::from(IpProto::TCP.0) << 8 | u32::from(hop_limit))
                .to_be(),
        ]
    }
}

/// Internet checksum (RFC 1071) of a sum of 32-bit words in network order, as it is stored in memory.
/// No overflow: under 2^16 words of 32 bits were added.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::addr_words;
    use etherparse::{IpHeaders, TcpOptionElement as E};
    use proptest::prelude::*;

    fn octets(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    proptest! {
        /// etherparse, which shares no line with us, must read the headers and find their checksums
        /// right.
        #[test]
        fn headers_are_read_by_an_independent_parser(
            v6: bool, src: [u8; 16], dst: [u8; 16], sport: u16, dport: u16, isn: u32, tsval: u32,
            mss: u16, window: u16, cookie: (u32, u32), ts: bool, sack: bool, ecn: bool,
            ws in 0u8..=15, rcv in 0u8..=14, ttl: u8,
        ) {
            let addr = |o: [u8; 16]| if v6 { addr_words(core::net::Ipv6Addr::from(o).into()) }
                else { addr_words(core::net::Ipv4Addr::from([o[0], o[1], o[2], o[3]]).into()) };
            let terms = Terms {
                mss_index: 0, timestamps: ts, snd_wscale: ws, rcv_wscale: rcv, sack: ts && sack, ecn: ts && ecn,
            };
            let answer = SynAck {
                version: if v6 { Version::V6 } else { Version::V4 },
                src: addr(dst), dst: addr(src),
                syn_ports: (u32::from(sport) << 16 | u32::from(dport)).to_be(),
                client_isn: isn, client_tsval: tsval, mss, window,
                cookie: Cookie { isn: cookie.0, tsval: cookie.1 }, terms,
            };
            let tcp = if ts { octets(&answer.with_timestamps()) } else { octets(&answer.plain()) };
            let mut packet = if v6 {
                let mut p = octets(&answer.ipv6(tcp.len() / 4, ttl));
                p.extend(octets(&answer.src));
                p.extend(octets(&answer.dst));
                p
            } else {
                octets(&answer.ipv4(tcp.len() / 4, ttl))
            };
            packet.extend(&tcp);
            let (ip, payload) = IpHeaders::from_slice(&packet).unwrap();
            let (header, rest) = etherparse::TcpHeader::from_slice(payload.payload).unwrap();
            prop_assert!(rest.is_empty());
            let sum = match &ip {
                IpHeaders::Ipv4(h, _) => {
                    prop_assert_eq!(h.header_checksum, h.calc_header_checksum());
                    prop_assert_eq!((h.time_to_live, h.dont_fragment), (ttl, true));
                    header.calc_checksum_ipv4(h, &[]).unwrap()
                }
                IpHeaders::Ipv6(h, _) => {
                    prop_assert_eq!(h.hop_limit, ttl);
                    header.calc_checksum_ipv6(h, &[]).unwrap()
                }
            };
            prop_assert_eq!(header.checksum, sum);
            prop_assert_eq!((header.source_port, header.destination_port), (dport, sport));
            prop_assert_eq!((header.sequence_number, header.acknowledgment_number), (cookie.0, isn.wrapping_add(1)));
            prop_assert_eq!((header.syn, header.ack, header.ece, header.cwr), (true, true, ts && ecn, false));
            prop_assert_eq!(header.window_size, window);
            let mut want = vec![E::MaximumSegmentSize(mss)];
            if ts {
                if sack { want.push(E::SelectiveAcknowledgementPermitted); } else { want.extend([E::Noop, E::Noop]); }
                want.push(E::Timestamp(cookie.1, tsval));
                if ws == NO_WSCALE { want.extend([E::Noop, E::Noop, E::Noop, E::Noop]); }
                else { want.extend([E::Noop, E::WindowScale(rcv)]); }
            }
            let got: Vec<_> = header.options_iterator().map(Result::unwrap).collect();
            prop_assert_eq!(got, want);
        }
    }
}
