//! The packet parser: Ethernet, VLAN tags, IPv4 with options, IPv6 with its extension chain, to the
//! transport header. One source for the kernel and the host; only [`Frame`] differs.

use crate::{
    abi::AddrWords,
    units::{EtherType, IpProto, Version},
    verdict::Reason,
};

/// VLAN tags that are looked behind (802.1Q, 802.1ad).
pub const MAX_VLAN_TAGS: usize = 2;
/// IPv6 extension headers that are looked behind.
pub const MAX_EXTENSIONS: usize = 6;

/// Octets of a frame that were shown to be there.
pub trait Header: Copy {
    /// The octet at `O`.
    fn octet<const O: usize>(self) -> u8;
    /// The two octets at `O`, in host byte order.
    fn be16<const O: usize>(self) -> u16;
    /// The four octets at `O` as they stand in memory (network byte order).
    fn word<const O: usize>(self) -> u32;
}

/// A frame from its Ethernet header on.
pub trait Frame {
    /// A view of `N` octets at an offset.
    type Header<const N: usize>: Header;
    /// The `N` octets at `offset`, or None when the (linear part of the) frame ends before them.
    fn header<const N: usize>(&self, offset: usize) -> Option<Self::Header<N>>;
    /// Whether the whole frame, beyond its linear part too, has `len` octets.
    fn holds(&self, len: usize) -> bool;
    /// Octets of the whole frame, beyond its linear part too.
    fn total_len(&self) -> usize;
    /// `value` itself. In the kernel it is read back from memory, so that the verifier has one state
    /// for all the ways that led to it.
    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        value
    }
}

/// Where the headers of a packet stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP version.
    pub version: Version,
    /// Transport protocol.
    pub protocol: IpProto,
    /// The DSCP and ECN octet.
    pub traffic_class: u8,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Octets from the transport header to the end by the IP length, never by the frame's, which may
    /// be padded (R-GEN-4).
    pub l4_len: usize,
    /// First fragment of several: the transport header is there, the rest is not.
    pub first_fragment: bool,
    /// Where a later fragment's data belong, in units of eight octets; 0 for any other packet. `l4` is where they stand
    /// then, without a transport header.
    pub fragment_offset: u16,
    /// An IPv6 fragment header was passed, be it an atomic fragment's (RFC 6946).
    pub fragment_header: bool,
}

/// What a frame carries behind its Ethernet header and tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its type.
    pub ether_type: EtherType,
    /// Offset of its first octet.
    pub l3: usize,
    /// VLAN id of the innermost tag that has one; 0 without tags, and with priority tags alone.
    pub vlan: u16,
}

/// Finds the transport header. Err is the reason to pass a packet that has none we could judge.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F) -> Result<Packet, Reason> {
    let packet = network(frame, payload(frame)?)?;
    if packet.fragment_offset != 0 {
        return Err(Reason::Fragment);
    }
    Ok(packet)
}

/// Looks behind the VLAN tags. Three tags belong to an interface on top of VLANs on top of VLANs, unless one of them
/// is a priority tag: those Linux peels off in any number (6.12 `vlan_do_receive`, `__netif_receive_skb_core`).
#[inline(always)]
pub fn payload<F: Frame>(frame: &F) -> Result<Payload, Reason> {
    let ethernet = frame.header::<14>(0).ok_or(Reason::UnknownEtherType)?;
    let mut ether_type = EtherType(ethernet.be16::<12>());
    let mut l3 = 14;
    let mut vlan = 0;
    let mut priority = false;
    for _ in 0..MAX_VLAN_TAGS {
        if !ether_type.is_vlan() {
            break;
        }
        let tag = frame.header::<4>(l3).ok_or(Reason::ParserLimit)?;
        ether_type = EtherType(tag.be16::<2>());
        let id = tag.be16::<0>() & 0x0fff;
        if id != 0 {
            vlan = id;
        }
        priority |= id == 0;
        l3 += 4;
    }
    if ether_type.is_vlan() {
        let tag = frame.header::<4>(l3).ok_or(Reason::ParserLimit)?;
        return Err(if priority || tag.be16::<0>() & 0x0fff == 0 {
            Reason::StackedPriorityTags
        } else {
            Reason::ParserLimit
        });
    }
    Ok(Payload {
        ether_type,
        l3,
        vlan,
    })
}

/// Finds the transport header behind the tags, or a later fragment's data.
#[inline(always)]
pub fn network<F: Frame>(frame: &F, payload: Payload) -> Result<Packet, Reason> {
    match payload.ether_type {
        EtherType::IPV4 => ipv4(frame, payload.l3),
        EtherType::IPV6 => ipv6(frame, payload.l3),
        EtherType::ARP => Err(Reason::NoRule),
        _ => Err(Reason::UnknownEtherType),
    }
}

#[inline(always)]
fn ipv4<F: Frame>(frame: &F, l3: usize) -> Result<Packet, Reason> {
    let ip = frame.header::<20>(l3).ok_or(Reason::IpMalformed)?;
    let first = ip.octet::<0>();
    let header_len = (first & 15) as usize * 4;
    let total_len = ip.be16::<2>() as usize;
    if first >> 4 != 4 || header_len < 20 || total_len < header_len || !frame.holds(l3 + total_len)
    {
        return Err(Reason::IpMalformed);
    }
    let fragment = ip.be16::<6>();
    Ok(Packet {
        version: Version::V4,
        protocol: IpProto(ip.octet::<9>()),
        traffic_class: ip.octet::<1>(),
        l3,
        l4: l3 + header_len,
        l4_len: total_len - header_len,
        first_fragment: fragment & 0x3fff == 0x2000,
        fragment_offset: fragment & 0x1fff,
        fragment_header: false,
    })
}

#[inline(always)]
fn ipv6<F: Frame>(frame: &F, l3: usize) -> Result<Packet, Reason> {
    let ip = frame.header::<40>(l3).ok_or(Reason::IpMalformed)?;
    let first = IpProto(ip.octet::<6>());
    let mut payload_len = ip.be16::<4>() as usize;
    // A jumbogram (RFC 2675). Linux looks for its length in the options, but takes what the frame has when there is
    // none (6.12 ip6_rcv_core).
    if payload_len == 0 && first == IpProto::HOP_BY_HOP {
        payload_len = frame.total_len().saturating_sub(l3 + 40);
    }
    if ip.octet::<0>() >> 4 != 6 || payload_len == 0 || !frame.holds(l3 + 40 + payload_len) {
        return Err(Reason::IpMalformed);
    }
    let traffic_class = ip.octet::<0>() << 4 | ip.octet::<1>() >> 4;
    let mut protocol = first;
    let mut skipped = 0;
    // Bit 0: more fragments; bit 1: a fragment header was there.
    let mut fragment = 0;
    for _ in 0..=MAX_EXTENSIONS {
        skipped = frame.forget(skipped);
        let l4 = l3 + 40 + skipped;
        // RFC 8200 section 4: lengths in units of eight octets, not counting the first; a fragment
        // header has eight, AH counts fours less two (RFC 4302 section 2.2).
        let unit = match protocol {
            IpProto::HOP_BY_HOP | IpProto::ROUTING | IpProto::DEST_OPTIONS | IpProto::MOBILITY => 8,
            IpProto::FRAGMENT => 0,
            IpProto::AH => 4,
            _ => {
                return Ok(Packet {
                    version: Version::V6,
                    protocol,
                    traffic_class,
                    l3,
                    l4,
                    l4_len: payload_len - skipped,
                    first_fragment: fragment & 1 != 0,
                    fragment_offset: 0,
                    fragment_header: fragment != 0,
                });
            }
        };
        let Some(extension) = frame.header::<8>(l4) else {
            // Beyond the linear part of the frame, where the kernel looks and we do not.
            return Err(if frame.holds(l4 + 8) {
                beyond(ip.octet::<7>())
            } else {
                cut_short(fragment)
            });
        };
        let len = if unit == 4 {
            (extension.octet::<1>() as usize + 2) * 4
        } else {
            8 + extension.octet::<1>() as usize * unit
        };
        if protocol == IpProto::FRAGMENT {
            // An atomic fragment (offset 0, no more) is a whole packet (RFC 6946).
            let offset = extension.be16::<2>();
            if offset & 0xfff8 != 0 {
                let skipped = skipped + 8;
                if skipped > payload_len {
                    return Err(Reason::IpMalformed);
                }
                return Ok(Packet {
                    version: Version::V6,
                    protocol: IpProto(extension.octet::<0>()),
                    traffic_class,
                    l3,
                    l4: l3 + 40 + skipped,
                    l4_len: payload_len - skipped,
                    first_fragment: false,
                    fragment_offset: offset >> 3,
                    fragment_header: true,
                });
            }
            fragment |= offset & 1 | 2;
        }
        // Segments left: the destination address is a stop on the way, and the segment not for us.
        if protocol == IpProto::ROUTING && extension.octet::<3>() != 0 {
            return Err(Reason::NoRule);
        }
        protocol = IpProto(extension.octet::<0>());
        skipped += len;
        if skipped > payload_len {
            return Err(cut_short(fragment));
        }
    }
    Err(beyond(ip.octet::<7>()))
}

/// The reason for a header that is not all there: of a first fragment, the rest would come in the next.
#[inline(always)]
fn cut_short(fragment: u16) -> Reason {
    if fragment & 1 != 0 {
        Reason::FragmentChain
    } else {
        Reason::IpMalformed
    }
}

/// The reason for headers that are not looked into: of this very link, neighbour discovery may hide there.
#[inline(always)]
fn beyond(hop_limit: u8) -> Reason {
    if hop_limit == 255 {
        Reason::NdHidden
    } else {
        Reason::ParserLimit
    }
}

/// Source and destination address of a parsed packet, in packet words.
#[inline(always)]
pub fn addresses<F: Frame>(frame: &F, packet: &Packet) -> Option<(AddrWords, AddrWords)> {
    addresses_at(frame, packet.version, packet.l3)
}

/// Source and destination address of the IP header at `l3`, in packet words.
#[inline(always)]
pub fn addresses_at<F: Frame>(
    frame: &F,
    version: Version,
    l3: usize,
) -> Option<(AddrWords, AddrWords)> {
    Some(match version {
        Version::V4 => {
            let ip = frame.header::<20>(l3)?;
            ([ip.word::<12>(), 0, 0, 0], [ip.word::<16>(), 0, 0, 0])
        }
        Version::V6 => {
            let ip = frame.header::<40>(l3)?;
            (
                [
                    ip.word::<8>(),
                    ip.word::<12>(),
                    ip.word::<16>(),
                    ip.word::<20>(),
                ],
                [
                    ip.word::<24>(),
                    ip.word::<28>(),
                    ip.word::<32>(),
                    ip.word::<36>(),
                ],
            )
        }
    })
}

/// A frame in ordinary memory, for tests, tools and the agent.
#[derive(Clone, Copy, Debug)]
pub struct Octets<'a>(pub &'a [u8]);

impl Header for Octets<'_> {
    fn octet<const O: usize>(self) -> u8 {
        self.0[O]
    }

    fn be16<const O: usize>(self) -> u16 {
        u16::from_be_bytes([self.0[O], self.0[O + 1]])
    }

    fn word<const O: usize>(self) -> u32 {
        u32::from_ne_bytes([self.0[O], self.0[O + 1], self.0[O + 2], self.0[O + 3]])
    }
}

impl<'a> Frame for Octets<'a> {
    type Header<const N: usize> = Octets<'a>;

    fn header<const N: usize>(&self, offset: usize) -> Option<Octets<'a>> {
        Some(Octets(self.0.get(offset..offset.checked_add(N)?)?))
    }

    fn holds(&self, len: usize) -> bool {
        len <= self.0.len()
    }

    fn total_len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests;
