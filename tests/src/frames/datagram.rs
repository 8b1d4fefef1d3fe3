//! Frames of UDP, ICMP and fragments, and packets that ICMP errors quote.

use std::net::IpAddr;

use etherparse::{IpNumber, TcpHeader, UdpHeader};

use super::{Envelope, Extension};

impl Envelope {
    /// The envelope of an answer to what came in this one.
    pub fn back(self) -> Self {
        self.from(self.dst).to(self.src)
    }

    /// The same as a fragment: an IPv4 packet's own words, or one more IPv6 extension header.
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        if self.is_v6() {
            self.with(Extension::Fragment(offset, more))
        } else {
            Self {
                fragment: (offset, more),
                ..self
            }
        }
    }

    /// The same with one more IPv6 extension header.
    pub fn with(self, extension: Extension) -> Self {
        let mut extensions = self.extensions.to_vec();
        extensions.push(extension);
        Self {
            extensions: extensions.leak(),
            ..self
        }
    }

    /// The same with these IPv4 options, padded to four octets.
    pub fn with_options(self, options: &[u8]) -> Self {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        Self {
            ip_options: options.leak(),
            ..self
        }
    }

    /// The frame of a UDP datagram.
    pub fn udp(&self, from: u16, to: u16, data: &[u8]) -> Vec<u8> {
        let header = UdpHeader {
            source_port: from,
            destination_port: to,
            length: 8 + data.len() as u16,
            checksum: 0,
        };
        self.wrap(IpNumber::UDP, &[&header.to_bytes(), data].concat())
    }

    /// Octets from the IP header to the transport header, whatever that is.
    pub fn ip_header_len(&self) -> usize {
        self.l4() - self.l3()
    }

    /// The protocol number of ICMP in this version.
    pub fn icmp_number(&self) -> IpNumber {
        if self.is_v6() {
            IpNumber::IPV6_ICMP
        } else {
            IpNumber::ICMP
        }
    }

    /// The frame of an ICMP message: its type and code, its second word, and what follows.
    pub fn icmp(&self, kind: u8, code: u8, word: u32, rest: &[u8]) -> Vec<u8> {
        let header = [&[kind, code, 0, 0][..], &word.to_be_bytes()].concat();
        self.wrap(self.icmp_number(), &[&header, rest].concat())
    }

    /// The frame with another TTL or hop limit.
    pub fn with_hop_limit(&self, mut frame: Vec<u8>, hop_limit: u8) -> Vec<u8> {
        frame[self.l3() + if self.is_v6() { 7 } else { 8 }] = hop_limit;
        frame
    }

    /// An IP packet of this envelope with no more than eight octets of its transport header, as a router quotes it
    /// (RFC 792).
    pub fn quote(&self, protocol: IpNumber, from: u16, to: u16) -> Vec<u8> {
        let tcp = TcpHeader::new(from, to, 7, 9).to_bytes();
        self.wrap(protocol, &tcp[..8])[self.l3()..].to_vec()
    }
}

/// A host of another network, of the family of an address.
pub fn stranger(like: IpAddr, net: u8, host: u8) -> IpAddr {
    match like {
        IpAddr::V4(_) => [198, 51, net, host].into(),
        IpAddr::V6(_) => [0x2001, 0xdb8, 0x77, net.into(), 0, 0, 0, host.into()].into(),
    }
}
