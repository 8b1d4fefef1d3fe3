//! IP sanity (R-TCP-3, R-TCP-10, R-TCP-11): headers, fragments and sources that no honest packet has.
//!
//! Honest traffic that looks like it, and passes: options such as router alert (IGMP, RSVP) and timestamps; fragments of
//! large datagrams (DNSSEC, IKE, NFS) without ports; atomic fragments (RFC 6946); packets without DF; DHCP and IGMP from
//! 0.0.0.0, multicast listener reports from `::`.

use crate::{
    abi::AddrWords,
    guard::tcp,
    parse::Packet,
    units::{IpProto, Version},
    verdict::Reason,
};

/// Octets that the longest IPv4 options have, and room for a look behind them.
pub const OPTIONS_SPACE: usize = 64;
const MAX_OPTIONS: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const LSRR: u8 = 131;
const SSRR: u8 = 137;

/// Whether IPv4 options (the first `len` octets) have a source route (RFC 791 section 3.1, RFC 7126 section 4.3).
/// `forget` returns what it is given; in the kernel, without the ways that led there.
#[inline(always)]
pub fn has_source_route(
    options: &[u8; OPTIONS_SPACE],
    len: usize,
    forget: impl Fn(usize) -> usize,
) -> bool {
    const MASK: usize = OPTIONS_SPACE - 1;
    let mut at = 0;
    for _ in 0..MAX_OPTIONS {
        at = forget(at);
        if at >= len || at >= MAX_OPTIONS {
            return false;
        }
        match options[at & MASK] {
            END => return false,
            NOP => at += 1,
            LSRR | SSRR => return true,
            _ => {
                let length = options[(at + 1) & MASK] as usize;
                // The kernel discards such a packet (6.12 `__ip_options_compile`).
                if length < 2 {
                    return false;
                }
                at += length;
            }
        }
    }
    false
}

/// Whether a packet is part of a larger one. An atomic fragment is not.
#[inline(always)]
pub fn is_fragment(packet: &Packet) -> bool {
    packet.first_fragment || packet.fragment_offset != 0
}

/// The rules of fragments that need no state (R-TCP-10).
#[inline(always)]
pub fn fragment(packet: &Packet) -> Option<Reason> {
    let header = match packet.version {
        Version::V4 => packet.l4 - packet.l3,
        Version::V6 => 0,
    };
    // The length of what is put together counts the header of IPv4 (6.12 `ip_frag_reasm`, `ip6_frag_queue`).
    if header + usize::from(packet.fragment_offset) * 8 + packet.l4_len > 65_535 {
        return Some(Reason::FragmentOverlong);
    }
    // RFC 3128: the flags of a TCP header stand at offset 13.
    if packet.fragment_offset == 1 && packet.protocol == IpProto::TCP {
        return Some(Reason::FragmentTiny);
    }
    if packet.first_fragment {
        let needed = match packet.protocol {
            IpProto::TCP => 20,
            IpProto::UDP | IpProto::ICMP | IpProto::ICMPV6 => 8,
            _ => 0,
        };
        if packet.l4_len < needed {
            return match packet.version {
                Version::V4 if packet.protocol == IpProto::TCP => Some(Reason::FragmentTiny),
                Version::V4 => None,
                Version::V6 => Some(Reason::FragmentChain),
            };
        }
    }
    None
}

/// Whether a source is one that no packet from a link bears (R-TCP-3; 6.12 `ip_route_input_slow`, `ip6_rcv_core`), TCP
/// aside, which has a rule of its own: what DHCP and listener reports send from the unspecified address passes.
#[inline(always)]
pub fn source_martian(version: Version, src: &AddrWords, dst: &AddrWords) -> bool {
    if src[0] | src[1] | src[2] | src[3] == 0 {
        return false;
    }
    tcp::source_impossible(version, src, dst)
}

#[cfg(test)]
mod tests;
