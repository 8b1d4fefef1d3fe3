//! Frames as they stand on the wire, built by etherparse: one TCP segment in every envelope that the
//! data path must see through.

pub mod datagram;
pub mod neighbor;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, Ethernet2Header, IpAuthHeader, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, LinkExtSlice, LinkSlice, NetSlice,
    SingleVlanHeader, SlicedPacket, TcpHeader, TransportSlice, VlanId,
};

/// MAC address of the client.
pub const CLIENT_MAC: [u8; 6] = [0x02, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5];
/// MAC address of the protected host.
pub const SERVER_MAC: [u8; 6] = [0x06, 0x51, 0x52, 0x53, 0x54, 0x55];
/// Addresses of the protected host.
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// As [`SERVER_V4`].
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Addresses of the client.
pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// As [`CLIENT_V4`].
pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);

/// IPv6 extension headers.
#[derive(Clone, Copy, Debug)]
pub enum Extension {
    /// Hop-by-hop options of this many octets, 8·n.
    HopByHop(usize),
    /// Destination options of this many octets, 8·n.
    DestOptions(usize),
    /// A routing header of 8·n octets and the segments left.
    Routing(usize, u8),
    /// Authentication header with this many octets of integrity check value, 4·n.
    Auth(usize),
    /// Offset in units of eight octets, and whether more follow.
    Fragment(u16, bool),
}

impl Extension {
    fn number(self) -> IpNumber {
        match self {
            Self::HopByHop(_) => IpNumber::IPV6_HEADER_HOP_BY_HOP,
            Self::DestOptions(_) => IpNumber::IPV6_DESTINATION_OPTIONS,
            Self::Routing(..) => IpNumber::IPV6_ROUTE_HEADER,
            Self::Auth(_) => IpNumber::AUTHENTICATION_HEADER,
            Self::Fragment(..) => IpNumber::IPV6_FRAGMENTATION_HEADER,
        }
    }

    fn octets(self, next: IpNumber) -> Vec<u8> {
        // PadN over the whole of it, or the routing header's type and segments left.
        let raw = |len: usize, front: [u8; 2]| {
            let mut body = vec![0; len - 2];
            body[..2].copy_from_slice(&front);
            Ipv6RawExtHeader::new_raw(next, &body)
                .expect("8·n octets")
                .to_bytes()
                .to_vec()
        };
        match self {
            Self::HopByHop(len) | Self::DestOptions(len) => raw(len, [1, (len - 4) as u8]),
            // Type 4, segment routing; what it says besides the segments left is no matter here.
            Self::Routing(len, segments_left) => raw(len, [4, segments_left]),
            Self::Auth(icv) => {
                let header = IpAuthHeader::new(next, 7, 1, &vec![0xaa; icv]);
                header.expect("4·n octets").to_bytes().to_vec()
            }
            Self::Fragment(offset, more) => {
                let offset = IpFragOffset::try_new(offset).expect("13 bits");
                Ipv6FragmentHeader::new(next, offset, more, 0x1234_5678)
                    .to_bytes()
                    .to_vec()
            }
        }
    }
}

/// What stands around a TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// For the test's messages.
    pub name: &'static str,
    /// The sender.
    pub src: IpAddr,
    /// The receiver.
    pub dst: IpAddr,
    /// Link-layer address of the protected host.
    pub server_mac: [u8; 6],
    /// VLAN tags from the outside in: their EtherType and VLAN id.
    pub tags: &'static [(u16, u16)],
    /// IPv4 options, 4·n octets.
    pub ip_options: &'static [u8],
    /// IPv6 extension headers.
    pub extensions: &'static [Extension],
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Offset in units of eight octets and more-fragments of an IPv4 fragment.
    pub fragment: (u16, bool),
    /// Octets of zeros behind the packet.
    pub padding: usize,
}

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;

const V4: Envelope = Envelope {
    name: "IPv4",
    src: IpAddr::V4(CLIENT_V4),
    dst: IpAddr::V4(SERVER_V4),
    server_mac: SERVER_MAC,
    tags: &[],
    ip_options: &[],
    extensions: &[],
    traffic_class: 0,
    fragment: (0, false),
    padding: 0,
};
const V6: Envelope = Envelope {
    name: "IPv6",
    src: IpAddr::V6(CLIENT_V6),
    dst: IpAddr::V6(SERVER_V6),
    ..V4
};

/// Router alert and padding to 8 octets; the longest options there are.
const SHORT_OPTIONS: &[u8] = &[0x94, 4, 0, 0, 1, 1, 1, 0];
const LONG_OPTIONS: &[u8] = &[1; 40];

/// Two tags: judged, but never answered, since TC sees the inner tag as the protocol.
pub const DOUBLE_TAGGED: &[Envelope] = &[
    Envelope {
        name: "IPv4 in 802.1ad and 802.1Q",
        tags: &[(AD, 4094), (Q, 1)],
        ..V4
    },
    Envelope {
        name: "IPv6 in two 802.1Q",
        tags: &[(Q, 0), (Q, 7)],
        ..V6
    },
];

/// Every way in which a TCP segment may be wrapped and still be ours to judge (C-25, C-27, C-28).
pub const ENVELOPES: &[Envelope] = &[
    V4,
    Envelope {
        name: "IPv4 in 802.1Q",
        tags: &[(Q, 5)],
        ..V4
    },
    Envelope {
        name: "IPv4 in 802.1ad",
        tags: &[(AD, 5)],
        ..V4
    },
    Envelope {
        name: "IPv4 in 802.1ad, the highest VLAN",
        tags: &[(AD, 4094)],
        ..V4
    },
    Envelope {
        name: "IPv4 in a priority tag",
        tags: &[(Q, 0)],
        ..V4
    },
    Envelope {
        name: "IPv4 with options",
        ip_options: SHORT_OPTIONS,
        ..V4
    },
    Envelope {
        name: "IPv4 with 40 octets of options in 802.1Q",
        tags: &[(Q, 3)],
        ip_options: LONG_OPTIONS,
        ..V4
    },
    Envelope {
        name: "IPv4 with padding",
        padding: 6,
        ..V4
    },
    Envelope {
        name: "IPv4 with padding in 802.1Q",
        tags: &[(Q, 3)],
        padding: 46,
        ..V4
    },
    V6,
    Envelope {
        name: "IPv6 in 802.1Q",
        tags: &[(Q, 5)],
        ..V6
    },
    Envelope {
        name: "IPv6 in 802.1ad and 802.1Q",
        tags: &[(Q, 1)],
        ..V6
    },
    Envelope {
        name: "IPv6 with padding",
        padding: 6,
        ..V6
    },
    Envelope {
        name: "IPv6 with hop-by-hop options",
        extensions: &[Extension::HopByHop(8)],
        ..V6
    },
    Envelope {
        name: "IPv6 with destination options",
        extensions: &[Extension::DestOptions(24)],
        ..V6
    },
    Envelope {
        name: "IPv6 with a routing header used up",
        extensions: &[Extension::Routing(24, 0)],
        ..V6
    },
    Envelope {
        name: "IPv6 as an atomic fragment",
        extensions: &[Extension::Fragment(0, false)],
        ..V6
    },
    Envelope {
        name: "IPv6 with the whole chain of RFC 8200 section 4.1 in 802.1Q",
        tags: &[(Q, 3)],
        extensions: &[
            Extension::HopByHop(16),
            Extension::DestOptions(8),
            Extension::Routing(24, 0),
            Extension::Fragment(0, false),
            Extension::DestOptions(8),
        ],
        ..V6
    },
    Envelope {
        name: "IPv6 with as many extension headers as are looked behind",
        extensions: &[Extension::DestOptions(8); net_common::parse::MAX_EXTENSIONS],
        ..V6
    },
];

impl Envelope {
    /// Plain IPv4.
    pub const V4: Self = V4;
    /// Plain IPv6.
    pub const V6: Self = V6;
    /// One envelope a family, for tests whose matter is not the parser.
    pub const PLAIN: [Self; 2] = [V4, V6];

    /// Whether it is IPv6.
    pub fn is_v6(&self) -> bool {
        self.dst.is_ipv6()
    }

    /// Octets in front of the IP header.
    pub fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    /// Octets in front of the TCP header.
    pub fn l4(&self) -> usize {
        self.l3()
            + if self.is_v6() {
                40 + self.chain(IpNumber::TCP).len()
            } else {
                20 + self.ip_options.len()
            }
    }

    /// The same, from another source.
    pub fn from(self, src: impl Into<IpAddr>) -> Self {
        Self {
            src: src.into(),
            ..self
        }
    }

    /// The same, to another destination.
    pub fn to(self, dst: impl Into<IpAddr>) -> Self {
        Self {
            dst: dst.into(),
            ..self
        }
    }

    fn chain(&self, last: IpNumber) -> Vec<u8> {
        let next = self
            .extensions
            .iter()
            .skip(1)
            .map(|e| e.number())
            .chain([last]);
        self.extensions
            .iter()
            .zip(next)
            .flat_map(|(e, next)| e.octets(next))
            .collect()
    }

    /// The frame of a TCP segment, its checksum put right.
    pub fn tcp(&self, tcp: &TcpHeader, data: &[u8]) -> Vec<u8> {
        let mut tcp = tcp.clone();
        tcp.checksum = match (self.src, self.dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                tcp.calc_checksum_ipv4_raw(s.octets(), d.octets(), data)
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                tcp.calc_checksum_ipv6_raw(s.octets(), d.octets(), data)
            }
            _ => panic!("{}: mixed address families", self.name),
        }
        .expect("a segment's length");
        let mut payload = tcp.to_bytes().to_vec();
        payload.extend(data);
        self.wrap(IpNumber::TCP, &payload)
    }

    /// The frame of any transport payload.
    pub fn wrap(&self, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        let ip_type = if self.is_v6() {
            EtherType::IPV6
        } else {
            EtherType::IPV4
        };
        let types: Vec<_> = self
            .tags
            .iter()
            .map(|t| EtherType(t.0))
            .chain([ip_type])
            .collect();
        let ethernet = Ethernet2Header {
            source: CLIENT_MAC,
            destination: self.server_mac,
            ether_type: types[0],
        };
        let mut frame = ethernet.to_bytes().to_vec();
        for (tag, next) in self.tags.iter().zip(&types[1..]) {
            let vlan = SingleVlanHeader {
                vlan_id: VlanId::try_new(tag.1).expect("12 bits"),
                ether_type: *next,
                ..Default::default()
            };
            frame.extend(vlan.to_bytes());
        }
        match (self.src, self.dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let mut ip = Ipv4Header {
                    dscp: (self.traffic_class >> 2).try_into().expect("6 bits"),
                    ecn: (self.traffic_class & 3).try_into().expect("2 bits"),
                    fragment_offset: IpFragOffset::try_new(self.fragment.0).expect("13 bits"),
                    more_fragments: self.fragment.1,
                    time_to_live: 57,
                    protocol,
                    source: s.octets(),
                    destination: d.octets(),
                    options: Ipv4Options::try_from(self.ip_options).expect("4·n octets"),
                    ..Default::default()
                };
                ip.set_payload_len(payload.len())
                    .expect("a packet's length");
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend(ip.to_bytes());
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let chain = self.chain(protocol);
                let ip = Ipv6Header {
                    traffic_class: self.traffic_class,
                    payload_length: (chain.len() + payload.len())
                        .try_into()
                        .expect("a packet's length"),
                    next_header: self.extensions.first().map_or(protocol, |e| e.number()),
                    hop_limit: 57,
                    source: s.octets(),
                    destination: d.octets(),
                    ..Default::default()
                };
                frame.extend(ip.to_bytes());
                frame.extend(chain);
            }
            _ => panic!("{}: mixed address families", self.name),
        }
        frame.extend(payload);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

/// A frame read by an independent parser.
#[derive(Debug)]
pub struct Read {
    /// Ethernet.
    pub ethernet: Ethernet2Header,
    /// VLAN tags from the outside in, as [`Envelope::tags`].
    pub tags: Vec<(u16, u16)>,
    /// Addresses.
    pub src: IpAddr,
    /// Addresses.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Octets of IPv4 options or IPv6 extension headers.
    pub extra: usize,
    /// The segment.
    pub tcp: TcpHeader,
    /// Its data.
    pub data: Vec<u8>,
    /// Octets behind the packet.
    pub trailer: usize,
}

/// Reads a frame that must be whole and right, checksums included.
pub fn read(frame: &[u8]) -> Read {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let Some(LinkSlice::Ethernet2(link)) = &sliced.link else {
        panic!("no Ethernet header")
    };
    let ethernet = link.to_header();
    let mut ether_type = ethernet.ether_type;
    let mut tags = Vec::new();
    for extension in &sliced.link_exts {
        let LinkExtSlice::Vlan(vlan) = extension else {
            panic!("not a VLAN tag")
        };
        tags.push((ether_type.0, vlan.vlan_identifier().value()));
        ether_type = vlan.ether_type();
    }
    let Some(TransportSlice::Tcp(slice)) = &sliced.transport else {
        panic!("no TCP header")
    };
    let tcp = slice.to_header();
    let data = slice.payload().to_vec();
    let l3 = 14 + 4 * tags.len();
    let (src, dst, hop_limit, traffic_class, extra, len, sum): (IpAddr, IpAddr, _, _, _, _, _) =
        match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                let h = ip.header().to_header();
                assert_eq!(
                    h.header_checksum,
                    h.calc_header_checksum(),
                    "IPv4 header checksum"
                );
                assert!(
                    h.dont_fragment && h.identification == 0 && !h.more_fragments,
                    "an atomic datagram"
                );
                let sum = tcp.calc_checksum_ipv4(&h, &data);
                let tos = h.dscp.value() << 2 | h.ecn.value();
                let len = usize::from(h.total_len);
                (
                    h.source.into(),
                    h.destination.into(),
                    h.time_to_live,
                    tos,
                    h.options.len(),
                    len,
                    sum,
                )
            }
            Some(NetSlice::Ipv6(ip)) => {
                let h = ip.header().to_header();
                let sum = tcp.calc_checksum_ipv6(&h, &data);
                let len = usize::from(h.payload_length);
                let extra = len - tcp.header_len() - data.len();
                (
                    h.source.into(),
                    h.destination.into(),
                    h.hop_limit,
                    h.traffic_class,
                    extra,
                    40 + len,
                    sum,
                )
            }
            _ => panic!("no IP header"),
        };
    assert_eq!(
        tcp.checksum,
        sum.expect("a segment's length"),
        "TCP checksum"
    );
    let trailer = frame.len() - l3 - len;
    Read {
        ethernet,
        tags,
        src,
        dst,
        hop_limit,
        traffic_class,
        extra,
        tcp,
        data,
        trailer,
    }
}

/// Flags by the letters of tcpdump: S, A, F, R, P, U, E, C.
pub fn flags(tcp: &mut TcpHeader, letters: &str) {
    for letter in letters.chars() {
        let flag = match letter {
            'S' => &mut tcp.syn,
            'A' => &mut tcp.ack,
            'F' => &mut tcp.fin,
            'R' => &mut tcp.rst,
            'P' => &mut tcp.psh,
            'U' => &mut tcp.urg,
            'E' => &mut tcp.ece,
            'C' => &mut tcp.cwr,
            other => panic!("no TCP flag {other}"),
        };
        *flag = true;
    }
}

/// A header with flags and nothing else of note.
pub fn segment(src_port: u16, dst_port: u16, seq: u32, letters: &str) -> TcpHeader {
    let mut tcp = TcpHeader::new(src_port, dst_port, seq, 64_240);
    flags(&mut tcp, letters);
    tcp
}
