//! What a flood is made of: its frame, and which bits of it are random.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement as Opt};

use crate::topology::Host;

#[path = "../../net-ebpf/src/lab_abi.rs"]
#[expect(dead_code, reason = "the programs' half of it")]
pub(crate) mod abi;

/// Sources of IPv4 floods when nothing else is said, and their prefix length: 65,536 networks of /24.
pub const SOURCES_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 0, 0), 8);
/// Sources of IPv6 floods (RFC 3849).
pub const SOURCES_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32);

/// Octets of the Ethernet header.
const ETHERNET: usize = 14;

/// The segments of a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A SYN as Linux sends it: MSS, SACK-permitted, timestamps, window scale; random ISN.
    Syn,
    /// A pure ACK with timestamps, its numbers random: no cookie bears it out, or one in 2^29 or more.
    FalseAck,
    /// A pure ACK with timestamps and these numbers.
    Ack {
        /// Sequence number.
        seq: u32,
        /// Acknowledgment number.
        ack: u32,
    },
}

/// Where a flood comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Random addresses of [`SOURCES_V4`] or [`SOURCES_V6`].
    Anywhere,
    /// Random addresses of a prefix.
    Prefix(IpAddr, u8),
    /// One address.
    One(IpAddr),
}

/// A flood to a port of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flood {
    /// The segments.
    pub kind: Kind,
    /// The target's hardware address.
    pub mac: [u8; 6],
    /// Where they go.
    pub target: SocketAddr,
    /// Where they seem to come from.
    pub sources: Sources,
    /// Their source port; None for a random one of 32768 and above.
    pub source_port: Option<u16>,
}

impl Flood {
    /// SYNs from anywhere, over IP version 4 or 6.
    pub fn syn(to: &Host, family: u8, port: u16) -> Self {
        Self {
            kind: Kind::Syn,
            mac: to.link.mac,
            target: to.at(family, port),
            sources: Sources::Anywhere,
            source_port: None,
        }
    }

    /// ACKs from anywhere that belong to nothing.
    pub fn false_ack(to: &Host, family: u8, port: u16) -> Self {
        Self {
            kind: Kind::FalseAck,
            ..Self::syn(to, family, port)
        }
    }

    /// The same ACK of a connection again and again.
    pub fn ack(from: SocketAddr, to: &Host, port: u16, seq: u32, ack: u32) -> Self {
        let family = if from.is_ipv4() { 4 } else { 6 };
        Self {
            kind: Kind::Ack { seq, ack },
            sources: Sources::One(from.ip()),
            source_port: Some(from.port()),
            ..Self::syn(to, family, port)
        }
    }

    /// The same flood from elsewhere.
    #[must_use]
    pub fn from(self, sources: Sources) -> Self {
        Self { sources, ..self }
    }

    /// What the generator needs to know, for a flood from the hardware address `from`.
    pub(crate) fn compile(&self, from: [u8; 6], seed: u64) -> Result<abi::Flood> {
        let (base, bits) = match (self.sources, self.target) {
            (Sources::Anywhere, SocketAddr::V4(_)) => (SOURCES_V4.0.into(), SOURCES_V4.1),
            (Sources::Anywhere, SocketAddr::V6(_)) => (SOURCES_V6.0.into(), SOURCES_V6.1),
            (Sources::Prefix(base, bits), _) => (base, bits),
            (Sources::One(source @ IpAddr::V4(_)), _) => (source, 32),
            (Sources::One(source @ IpAddr::V6(_)), _) => (source, 128),
        };
        let frame = self.frame(from, base)?;
        let (ip_len, source_at) = if base.is_ipv4() { (20, 26) } else { (40, 22) };
        let l4 = ETHERNET + ip_len;
        let (source, source_random) = prefix(base, bits)?;
        let (number, ack_number) = match self.kind {
            Kind::Syn => (u32::MAX, 0),
            Kind::FalseAck => (u32::MAX, u32::MAX),
            Kind::Ack { .. } => (0, 0),
        };
        // Fifteen bits: the sixteenth is set.
        let port = if self.source_port.is_none() {
            u32::from(0x7fff_u16.to_be())
        } else {
            0
        };
        // Protocol and length of the pseudo header (RFC 9293 section 3.1).
        let pseudo = u16::try_from(6 + frame.len() - l4)?.to_be();
        Ok(abi::Flood {
            frame: std::array::from_fn(|i| long(&frame, i * 8)),
            tail: long(&frame, frame.len() - 8),
            seed,
            source,
            source_random,
            varied: abi::VARIED.map(|at| word(&frame, l4 + at)),
            varied_random: [port, number, ack_number, number],
            ip_sum: sum(&frame[ETHERNET..l4]),
            l4_sum: sum(&frame[source_at..]) + u32::from(pseudo),
            len: u32::try_from(frame.len())?,
            reserved: 0,
        })
    }

    /// The frame with all random bits and checksums 0.
    fn frame(&self, from: [u8; 6], source: IpAddr) -> Result<Vec<u8>> {
        let mut tcp = TcpHeader::new(
            self.source_port.unwrap_or(0x8000),
            self.target.port(),
            0,
            64_240,
        );
        let options: &[Opt] = match self.kind {
            Kind::Syn => {
                tcp.syn = true;
                &[
                    Opt::MaximumSegmentSize(if source.is_ipv4() { 1460 } else { 1440 }),
                    Opt::SelectiveAcknowledgementPermitted,
                    Opt::Timestamp(0, 0),
                    Opt::Noop,
                    Opt::WindowScale(7),
                ]
            }
            Kind::FalseAck => {
                tcp.ack = true;
                &[Opt::Noop, Opt::Noop, Opt::Timestamp(0, 0)]
            }
            Kind::Ack { seq, ack } => {
                tcp.ack = true;
                tcp.sequence_number = seq;
                tcp.acknowledgment_number = ack;
                &[Opt::Noop, Opt::Noop, Opt::Timestamp(0, 0)]
            }
        };
        tcp.set_options(options)
            .context("the options of a flood are too long")?;
        let ethernet = PacketBuilder::ethernet2(from, self.mac);
        let (ip, checksum_at) = match (source, self.target.ip()) {
            (IpAddr::V4(source), IpAddr::V4(target)) => (
                ethernet.ipv4(source.octets(), target.octets(), 64),
                ETHERNET + 20 + 16,
            ),
            (IpAddr::V6(source), IpAddr::V6(target)) => (
                ethernet.ipv6(source.octets(), target.octets(), 64),
                ETHERNET + 40 + 16,
            ),
            (source, target) => bail!("{source} cannot send to {target}"),
        };
        let mut frame = Vec::new();
        ip.tcp_header(tcp).write(&mut frame, &[])?;
        frame[checksum_at..checksum_at + 2].fill(0);
        if source.is_ipv4() {
            frame[ETHERNET + 10..ETHERNET + 12].fill(0);
        }
        Ok(frame)
    }
}

/// The words of a prefix and the bits that are free in it, as they lie in a packet.
fn prefix(base: IpAddr, bits: u8) -> Result<([u32; 4], [u32; 4])> {
    let (address, width) = match base {
        IpAddr::V4(base) => (u128::from(base.to_bits()) << 96, 32),
        IpAddr::V6(base) => (base.to_bits(), 128),
    };
    ensure!(bits <= width, "an address of {width} bits has no /{bits}");
    let free = u128::MAX.checked_shr(bits.into()).unwrap_or(0) & u128::MAX << (128 - width);
    let words = |bits: u128| -> [u32; 4] {
        let octets = bits.to_be_bytes();
        std::array::from_fn(|i| word(&octets, i * 4))
    };
    Ok((words(address & !free), words(free)))
}

/// Four octets as they lie in memory.
fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(std::array::from_fn(|i| octets[at + i]))
}

/// Eight octets as they lie in memory; zeros behind the end.
fn long(octets: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|i| {
        octets.get(at + i).copied().unwrap_or(0)
    }))
}

/// Sum of the halves as they lie in memory; all our frames have an even length. At most 48 halves.
pub(crate) fn sum(octets: &[u8]) -> u32 {
    octets
        .chunks_exact(2)
        .map(|half| u32::from(u16::from_ne_bytes([half[0], half[1]])))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_free_the_bits_behind_them() {
        for (base, bits, source, free) in [
            ("10.1.2.3", 8, "10.0.0.0", "0.255.255.255"),
            ("192.0.2.7", 32, "192.0.2.7", "0.0.0.0"),
            ("0.0.0.0", 0, "0.0.0.0", "255.255.255.255"),
            ("2001:db8::1", 64, "2001:db8::", "::ffff:ffff:ffff:ffff"),
            ("2001:db8::1", 128, "2001:db8::1", "::"),
        ] {
            let words = |text: &str| net_common::units::addr_words(text.parse().unwrap());
            let found = prefix(base.parse().unwrap(), bits).unwrap();
            assert_eq!(found, (words(source), words(free)), "{base}/{bits}");
        }
    }
}
