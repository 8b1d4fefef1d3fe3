//! Neighbour discovery (RFC 4861, RFC 4862): rules R-ND-1 to R-ND-4, and what a message claims.
//!
//! Honest traffic that looks like an attack, and passes: every other ICMPv6 message (MLD has hop limit 1,
//! errors and echo any, RFC 4890 section 4.4.1), solicitations without a link-layer option (unicast probes),
//! options that we do not know (nonce, RFC 7527; SEND, RFC 3971), extension headers in front.

use crate::{
    abi::AddrWords,
    guard::neighbor::{Claim, Form},
    parse::{self, Frame, Header, Packet},
    units::{IpProto, Mac, Version},
    verdict::Reason,
};

/// Octets of a message that are looked at; a power of two, more than fit Ethernet's 1500.
pub const SPACE: usize = 2048;
/// Options that are walked; honest messages have a few, a router advertisement perhaps ten.
pub const MAX_OPTIONS: usize = 32;

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 133
    RouterSolicitation,
    /// 134
    RouterAdvertisement,
    /// 135
    NeighborSolicitation,
    /// 136
    NeighborAdvertisement,
    /// 137
    Redirect,
}

impl Kind {
    /// From the ICMPv6 type; None for one that is no concern of these rules (R-ND-8).
    #[inline(always)]
    pub fn from_type(icmp_type: u8) -> Option<Self> {
        Some(match icmp_type {
            133 => Self::RouterSolicitation,
            134 => Self::RouterAdvertisement,
            135 => Self::NeighborSolicitation,
            136 => Self::NeighborAdvertisement,
            137 => Self::Redirect,
            _ => return None,
        })
    }

    /// Octets before the options; the least that a message has (RFC 4861 sections 4.1 to 4.5).
    #[inline(always)]
    pub fn body_len(self) -> usize {
        match self {
            Self::RouterSolicitation => 8,
            Self::RouterAdvertisement => 16,
            Self::NeighborSolicitation | Self::NeighborAdvertisement => 24,
            Self::Redirect => 40,
        }
    }

    /// Its body names a target.
    #[inline(always)]
    pub fn has_target(self) -> bool {
        matches!(
            self,
            Self::NeighborSolicitation | Self::NeighborAdvertisement | Self::Redirect
        )
    }

    /// From a router.
    #[inline(always)]
    pub fn from_router(self) -> bool {
        matches!(self, Self::RouterAdvertisement | Self::Redirect)
    }
}

/// What the options of a message say; in memory, for the verifier's sake.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// First source link-layer address option (type 1); 0 without one.
    pub source: u64,
    /// The flags below. Between the two addresses: side by side they would be cleared by a call of memset.
    pub flags: u32,
    /// Unused.
    pub reserved: u32,
    /// First target link-layer address option (type 2); 0 without one.
    pub target: u64,
}

impl Options {
    /// An option of length 0, or one that goes beyond the message: Linux discards the message
    /// (6.12 `ndisc_parse_options`).
    pub const MALFORMED: u32 = 1;
    /// There are more than could be read, or a link-layer address that is none of Ethernet's or zero.
    pub const UNREAD: u32 = 1 << 1;
}

/// Reads the options of the message in `space`, from `at` to `len`. Linux takes the first of a type, and so do we.
#[inline(always)]
pub fn parse_options(space: &[u8; SPACE], at: usize, len: usize, out: &mut Options) {
    out.source = 0;
    out.target = 0;
    out.flags = if len > SPACE { Options::UNREAD } else { 0 };
    let mut at = at;
    for _ in 0..MAX_OPTIONS {
        if at >= len || at >= SPACE {
            return;
        }
        // One state for the verifier, whatever the lengths so far.
        at = bound(at);
        let kind = octet(space, at);
        let octets = octet(space, at + 1) as usize * 8;
        if octets == 0 || at + octets > len {
            out.flags |= Options::MALFORMED;
            return;
        }
        if kind == 1 || kind == 2 {
            let first = if kind == 1 {
                &mut out.source
            } else {
                &mut out.target
            };
            if octets != 8 {
                out.flags |= Options::UNREAD;
            } else if *first == 0 {
                *first = link_layer_address(space, at + 2);
                // Linux would take it: it is not the absence of an option.
                if *first == 0 {
                    out.flags |= Options::UNREAD;
                }
            }
        }
        at += octets;
    }
    if at < len {
        out.flags |= Options::UNREAD;
    }
}

#[inline(always)]
fn link_layer_address(space: &[u8; SPACE], at: usize) -> u64 {
    let mut mac = 0;
    let mut i = 0;
    while i < 6 {
        mac |= u64::from(octet(space, at + i)) << (8 * i);
        i += 1;
    }
    mac
}

#[inline(always)]
fn octet(space: &[u8; SPACE], index: usize) -> u8 {
    // SAFETY: `bound` returns less than SPACE. An index would bring the panic path in, which the verifier refuses.
    *unsafe { space.get_unchecked(bound(index)) }
}

/// `index` forced below [`SPACE`] in a way that the compiler cannot drop, see `tcp_options.rs`.
#[inline(always)]
fn bound(index: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index;
        // SAFETY: one AND on a register.
        unsafe { core::arch::asm!("{0} &= 2047", inout(reg) index, options(pure, nomem, nostack)) };
        index
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        index & (SPACE - 1)
    }
}

/// A neighbour discovery message with all that the rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: Kind,
    /// ICMPv6 code.
    pub code: u8,
    /// Octets by the IP length.
    pub len: usize,
    /// Hop limit.
    pub hop_limit: u8,
    /// Whether a fragment header stands in front of it, of an atomic fragment too.
    pub fragment_header: bool,
    /// First octet of the flags of a neighbour advertisement (R, S, O in the high bits).
    pub flags: u8,
    /// IPv6 source.
    pub src: AddrWords,
    /// IPv6 destination.
    pub dst: AddrWords,
    /// Target of a solicitation, an advertisement or a redirect; zero for the others.
    pub target: AddrWords,
    /// Ethernet source.
    pub source: Mac,
}

/// Reads the fixed part of the message in an IPv6 packet. Err is the reason to pass, or to drop, one that has none:
/// with `ra_guard` on also a packet in which a router advertisement may hide.
#[inline(always)]
pub fn read<F: Frame>(frame: &F, packet: &Packet, ra_guard: bool) -> Result<Message, Reason> {
    // First: the compiler would leave out a check that follows from those below, and the verifier wants it.
    let ethernet = frame.header::<14>(0).ok_or(Reason::ParserLimit)?;
    let source = super::arp::mac(ethernet.word::<6>(), ethernet.be16::<10>());
    let ip = frame.header::<40>(packet.l3).ok_or(Reason::ParserLimit)?;
    let hop_limit = ip.octet::<7>();
    let (src, dst) = parse::addresses(frame, packet).ok_or(Reason::ParserLimit)?;
    if packet.protocol != IpProto::ICMPV6 {
        let hides = ra_guard && hides_from_ra_guard(packet.protocol, hop_limit, &src);
        return Err(if hides {
            Reason::RaGuardHeader
        } else {
            Reason::NoRule
        });
    }
    let Some(icmp) = frame.header::<8>(packet.l4) else {
        // Shorter than its header, or beyond what can be looked into here and not in the kernel.
        let hides = hop_limit == 255 && packet.l4_len >= 8;
        return Err(if hides {
            Reason::NdHidden
        } else {
            Reason::NoRule
        });
    };
    let kind = Kind::from_type(icmp.octet::<0>()).ok_or(Reason::NoRule)?;
    let target = if kind.has_target() {
        let body = frame.header::<24>(packet.l4).ok_or(Reason::NdMalformed)?;
        [
            body.word::<8>(),
            body.word::<12>(),
            body.word::<16>(),
            body.word::<20>(),
        ]
    } else {
        [0; 4]
    };
    Ok(Message {
        kind,
        code: icmp.octet::<1>(),
        len: packet.l4_len,
        hop_limit,
        fragment_header: packet.fragment_header,
        flags: icmp.octet::<4>(),
        src,
        dst,
        target,
        source,
    })
}

/// The router flag of a neighbour advertisement.
const ROUTER: u8 = 0x80;
/// The solicited flag of a neighbour advertisement.
const SOLICITED: u8 = 0x40;

impl Message {
    /// The rules that need the fixed part alone. Some(reason) to drop it.
    #[inline(always)]
    pub fn sanity(&self) -> Option<Reason> {
        if self.fragment_header {
            return Some(Reason::NdFragment);
        }
        if self.hop_limit != 255 {
            return Some(Reason::NdHopLimit);
        }
        if self.code != 0 || self.len < self.kind.body_len() {
            return Some(Reason::NdMalformed);
        }
        if self.kind.from_router() && !is_link_local(&self.src) {
            return Some(Reason::NdRouterSource);
        }
        let targets_group = is_multicast(&self.target);
        let impossible = match self.kind {
            // Linux 6.12 ndisc_recv_ns; RFC 4861 section 7.1.1, RFC 4862 section 5.4.3.
            Kind::NeighborSolicitation => {
                targets_group || self.is_dad() && !is_solicited_node(&self.dst)
            }
            // ndisc_recv_na; RFC 4861 section 7.1.2.
            Kind::NeighborAdvertisement => {
                targets_group || is_multicast(&self.dst) && self.flags & SOLICITED != 0
            }
            _ => false,
        };
        impossible.then_some(Reason::NdImpossible)
    }

    /// The rules that need the options. Some(reason) to drop it.
    #[inline(always)]
    pub fn option_sanity(&self, options: &Options) -> Option<Reason> {
        if options.flags & Options::MALFORMED != 0 {
            return Some(Reason::NdMalformed);
        }
        if self.is_dad() && options.source != 0 {
            return Some(Reason::NdImpossible);
        }
        None
    }

    /// Duplicate address detection: a solicitation from the unspecified address (RFC 4862 section 5.4.2).
    #[inline(always)]
    pub fn is_dad(&self) -> bool {
        matches!(self.kind, Kind::NeighborSolicitation) && is_unspecified(&self.src)
    }

    /// What it claims of its sender or target. A solicitation without a link-layer option claims nothing: Linux
    /// learns nothing from it. What routers send, and an advertisement, is taken for a claim of the Ethernet
    /// source then, as they change the neighbour or the routes even so.
    ///
    /// Where a message changes more than the neighbour, its Ethernet source must agree as well, whatever its options
    /// say: a router advertisement, and the advertisement of a link-local neighbour that it is no router, for which
    /// Linux gives up the routes by it (6.12 `rt6_clean_tohost`). Virtual routers send these from the virtual address
    /// (RFC 5798 section 8.2.2).
    #[inline(always)]
    pub fn claim(&self, options: &Options) -> Option<Claim> {
        let unread = options.flags & Options::UNREAD != 0;
        let (addr, option, form, needs_option) = match self.kind {
            Kind::RouterSolicitation | Kind::NeighborSolicitation => {
                (self.src, options.source, Form::Request, true)
            }
            Kind::RouterAdvertisement => (self.src, options.source, Form::Announcement, false),
            Kind::NeighborAdvertisement => {
                let form = if self.flags & SOLICITED != 0 {
                    Form::Reply
                } else {
                    Form::Announcement
                };
                (self.target, options.target, form, false)
            }
            Kind::Redirect => (self.src, 0, Form::Announcement, false),
        };
        if is_unspecified(&addr) || needs_option && option == 0 && !unread {
            return None;
        }
        let mac = if unread {
            Mac::NONE
        } else if option != 0 {
            Mac(option)
        } else {
            self.source
        };
        let changes_routes = match self.kind {
            Kind::RouterAdvertisement => true,
            Kind::NeighborAdvertisement => self.flags & ROUTER == 0 && is_link_local(&addr),
            _ => false,
        };
        Some(Claim {
            version: Version::V6,
            addr,
            mac,
            sender: if changes_routes {
                self.source
            } else {
                Mac::NONE
            },
            explicit: option != 0 || unread,
            form,
        })
    }

    /// What a redirect claims of the better first hop, beside [`Self::claim`] of its sender (RFC 4861 section
    /// 8.3).
    #[inline(always)]
    pub fn redirect_claim(&self, options: &Options) -> Option<Claim> {
        let unread = options.flags & Options::UNREAD != 0;
        if !matches!(self.kind, Kind::Redirect) || options.target == 0 && !unread {
            return None;
        }
        Some(Claim {
            version: Version::V6,
            addr: self.target,
            mac: if unread {
                Mac::NONE
            } else {
                Mac(options.target)
            },
            sender: Mac::NONE,
            explicit: true,
            form: Form::Announcement,
        })
    }
}

/// Whether a link-local packet's upper-layer protocol is none that IANA has assigned: a router advertisement
/// may hide behind what only looks like a header (RFC 7113 section 3, rule 5). ESP passes, and so does what lies
/// beyond the parser's limits.
#[inline(always)]
pub fn hides_from_ra_guard(protocol: IpProto, hop_limit: u8, src: &AddrWords) -> bool {
    protocol.0 > LAST_ASSIGNED && hop_limit == 255 && is_link_local(src)
}

/// The highest assigned number (IANA, November 2026: Homa). Those for experiments, 253 and 254, are none.
const LAST_ASSIGNED: u8 = 146;

#[inline(always)]
fn is_unspecified(a: &AddrWords) -> bool {
    a[0] | a[1] | a[2] | a[3] == 0
}

#[inline(always)]
fn is_multicast(a: &AddrWords) -> bool {
    u32::from_be(a[0]) >> 24 == 0xff
}

/// fe80::/10
#[inline(always)]
pub fn is_link_local(a: &AddrWords) -> bool {
    u32::from_be(a[0]) >> 22 == 0x3fa
}

/// ff02::1:ff00:0/104 (RFC 4291 section 2.7.1)
#[inline(always)]
fn is_solicited_node(a: &AddrWords) -> bool {
    u32::from_be(a[0]) == 0xff02_0000
        && a[1] == 0
        && u32::from_be(a[2]) == 1
        && u32::from_be(a[3]) >> 24 == 0xff
}

#[cfg(test)]
mod tests;
