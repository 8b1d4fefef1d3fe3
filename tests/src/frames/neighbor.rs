//! ARP and neighbour discovery as they stand on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, EtherType, Ethernet2Header, Icmpv6Type, IpNumber,
    SingleVlanHeader, VlanId,
    icmpv6::{
        NeighborAdvertisementHeader, NeighborAdvertisementPayload, NeighborSolicitationPayload,
        RedirectPayload, RouterAdvertisementHeader, RouterAdvertisementPayload,
    },
};

use super::{CLIENT_MAC, CLIENT_V4, Envelope, SERVER_MAC, SERVER_V4, SERVER_V6};

/// A neighbour to protect, its addresses, and one in its place.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x6a, 0x6a, 0x6a, 0x6a, 0x01];
/// The virtual router address that the same neighbour answers with (RFC 5798 section 7.3).
pub const VIRTUAL_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 0x33];
/// As [`GATEWAY_MAC`].
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// As [`GATEWAY_MAC`].
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe);
/// All octets one.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// The group of all nodes.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The solicited-node group of [`SERVER_V6`].
pub const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);

/// Tags to put in front, from the outside in: their EtherType and VLAN id.
pub type Tags = &'static [(u16, u16)];

/// An ARP packet in its frame.
#[derive(Clone, Copy, Debug)]
pub struct Arp {
    /// Ethernet destination.
    pub destination: [u8; 6],
    /// Ethernet source.
    pub source: [u8; 6],
    /// VLAN tags.
    pub tags: Tags,
    /// A reply, or else a request.
    pub reply: bool,
    /// Sender's link-layer address.
    pub sender_mac: [u8; 6],
    /// Sender.
    pub sender: Ipv4Addr,
    /// Target's link-layer address.
    pub target_mac: [u8; 6],
    /// Target.
    pub target: Ipv4Addr,
    /// Octets of zeros behind the packet.
    pub padding: usize,
}

impl Arp {
    /// The client asks for the protected host.
    pub const REQUEST: Self = Self {
        destination: BROADCAST,
        source: CLIENT_MAC,
        tags: &[],
        reply: false,
        sender_mac: CLIENT_MAC,
        sender: CLIENT_V4,
        target_mac: [0; 6],
        target: SERVER_V4,
        padding: 18,
    };
    /// The client answers the protected host.
    pub const REPLY: Self = Self {
        destination: SERVER_MAC,
        reply: true,
        target_mac: SERVER_MAC,
        ..Self::REQUEST
    };
    /// The client wants an address for itself.
    pub const PROBE: Self = Self {
        sender: Ipv4Addr::UNSPECIFIED,
        target: CLIENT_V4,
        ..Self::REQUEST
    };
    /// The client tells that it has its address.
    pub const ANNOUNCEMENT: Self = Self {
        target: CLIENT_V4,
        ..Self::REQUEST
    };

    /// The same of another sender; an announcement stays one.
    pub fn of(self, sender: Ipv4Addr, mac: [u8; 6]) -> Self {
        let announces = self.sender == self.target;
        Self {
            source: mac,
            sender_mac: mac,
            sender,
            target: if announces { sender } else { self.target },
            ..self
        }
    }

    /// The same from another Ethernet source.
    pub fn from(self, source: [u8; 6]) -> Self {
        Self { source, ..self }
    }

    /// The same behind tags.
    pub fn tagged(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// The protected host asks for an address.
    pub fn asks_for(target: Ipv4Addr) -> Self {
        Self {
            target,
            ..Self::REQUEST.of(SERVER_V4, SERVER_MAC)
        }
    }

    /// Its octets.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = link(self.destination, self.source, self.tags, EtherType::ARP);
        let packet = ArpEthIpv4Packet {
            operation: if self.reply {
                ArpOperation::REPLY
            } else {
                ArpOperation::REQUEST
            },
            sender_mac: self.sender_mac,
            sender_ipv4: self.sender.octets(),
            target_mac: self.target_mac,
            target_ipv4: self.target.octets(),
        };
        frame.extend(packet.to_bytes());
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

fn link(destination: [u8; 6], source: [u8; 6], tags: Tags, last: EtherType) -> Vec<u8> {
    let types: Vec<_> = tags.iter().map(|t| EtherType(t.0)).chain([last]).collect();
    let ethernet = Ethernet2Header {
        source,
        destination,
        ether_type: types[0],
    };
    let mut frame = ethernet.to_bytes().to_vec();
    for (tag, next) in tags.iter().zip(&types[1..]) {
        let vlan = SingleVlanHeader {
            vlan_id: VlanId::try_new(tag.1).expect("12 bits"),
            ether_type: *next,
            ..Default::default()
        };
        frame.extend(vlan.to_bytes());
    }
    frame
}

/// A message of neighbour discovery in its frame.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// What stands around it.
    pub envelope: Envelope,
    /// Ethernet source.
    pub source: [u8; 6],
    /// Hop limit.
    pub hop_limit: u8,
    /// The message from its type on, without options; its checksum is put right.
    pub body: Vec<u8>,
    /// Options.
    pub options: Vec<u8>,
}

impl Discovery {
    fn new(src: Ipv6Addr, dst: Ipv6Addr, kind: Icmpv6Type, rest: &[u8]) -> Self {
        let header = kind.to_header(src.octets(), dst.octets(), rest);
        let header = header.expect("a message's length").to_bytes();
        Self {
            envelope: Envelope::V6.from(src).to(dst),
            source: CLIENT_MAC,
            hop_limit: 255,
            body: [&header, rest].concat(),
            options: vec![],
        }
    }

    /// Router solicitation.
    pub fn router_solicitation(src: Ipv6Addr) -> Self {
        Self::new(src, ALL_NODES, Icmpv6Type::RouterSolicitation, &[])
    }

    /// Router advertisement, to all.
    pub fn router_advertisement(src: Ipv6Addr) -> Self {
        let header = RouterAdvertisementHeader {
            cur_hop_limit: 64,
            managed_address_config: false,
            other_config: false,
            router_lifetime: 1800,
        };
        let rest = RouterAdvertisementPayload {
            reachable_time: 0,
            retrans_timer: 0,
        };
        let kind = Icmpv6Type::RouterAdvertisement(header);
        Self::new(src, ALL_NODES, kind, &rest.to_bytes())
    }

    /// Solicitation for the protected host, at its solicited-node group.
    pub fn solicitation(src: Ipv6Addr) -> Self {
        Self::solicitation_for(src, SOLICITED_NODE, SERVER_V6)
    }

    /// Solicitation for any target.
    pub fn solicitation_for(src: Ipv6Addr, dst: Ipv6Addr, target: Ipv6Addr) -> Self {
        let rest = NeighborSolicitationPayload {
            target_address: target,
        };
        Self::new(src, dst, Icmpv6Type::NeighborSolicitation, &rest.to_bytes())
    }

    /// Advertisement of a neighbour: to the protected host when it was solicited, else to all. The gateway's is a
    /// router's.
    pub fn advertisement(target: Ipv6Addr, solicited: bool) -> Self {
        let header = NeighborAdvertisementHeader {
            router: target == GATEWAY_V6,
            solicited,
            r#override: true,
        };
        let rest = NeighborAdvertisementPayload {
            target_address: target,
        };
        let dst = if solicited { SERVER_V6 } else { ALL_NODES };
        let kind = Icmpv6Type::NeighborAdvertisement(header);
        Self::new(target, dst, kind, &rest.to_bytes())
    }

    /// Redirect to a better router.
    pub fn redirect(src: Ipv6Addr, target: Ipv6Addr) -> Self {
        let rest = RedirectPayload {
            target_address: target,
            destination_address: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5),
        };
        Self::new(src, SERVER_V6, Icmpv6Type::Redirect, &rest.to_bytes())
    }

    /// The same with one more option.
    pub fn with(mut self, option: &[u8]) -> Self {
        self.options.extend(option);
        self
    }

    /// The same with the source's link-layer address.
    pub fn with_source(self, mac: [u8; 6]) -> Self {
        self.with(&[&[1, 1][..], &mac].concat())
    }

    /// The same with the target's link-layer address.
    pub fn with_target(self, mac: [u8; 6]) -> Self {
        self.with(&[&[2, 1][..], &mac].concat())
    }

    /// The same from another Ethernet source.
    pub fn from(self, source: [u8; 6]) -> Self {
        Self { source, ..self }
    }

    /// The same in another envelope, between the same addresses.
    pub fn wrapped(mut self, envelope: &Envelope) -> Self {
        self.envelope = envelope.from(self.envelope.src).to(self.envelope.dst);
        self
    }

    /// Its octets.
    pub fn frame(&self) -> Vec<u8> {
        let mut message = [&self.body[..], &self.options].concat();
        self.put_checksum(&mut message);
        let mut frame = self.envelope.wrap(IpNumber::IPV6_ICMP, &message);
        frame[6..12].copy_from_slice(&self.source);
        frame[self.envelope.l3() + 7] = self.hop_limit;
        frame
    }

    /// RFC 4443 section 2.3; nothing for a message that is cut short in its header.
    fn put_checksum(&self, message: &mut [u8]) {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (self.envelope.src, self.envelope.dst) else {
            panic!("not IPv6");
        };
        if message.len() < 8 {
            return;
        }
        message[2..4].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new()
            .add_16bytes(src.octets())
            .add_16bytes(dst.octets())
            .add_4bytes((message.len() as u32).to_be_bytes())
            .add_4bytes([0, 0, 0, IpNumber::IPV6_ICMP.0])
            .add_slice(message)
            .ones_complement();
        message[2..4].copy_from_slice(&sum.to_ne_bytes());
    }
}

/// An option of `units` times eight octets that nobody knows.
pub fn option(kind: u8, units: u8) -> Vec<u8> {
    let mut octets = vec![0x55; usize::from(units) * 8];
    if let [first, second, ..] = octets.as_mut_slice() {
        (*first, *second) = (kind, units);
    }
    octets
}
