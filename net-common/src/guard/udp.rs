//! UDP (R-UDP-1 to R-UDP-3): lengths, and answers of services that amplify.
//!
//! Honest traffic that looks like it, and passes: source port 0 and checksum 0 of IPv4 (RFC 768); a first fragment, whose
//! length is that of the whole; IPv6 jumbograms of length 0 (RFC 2675); answers to questions of ours; multicast DNS on
//! the link.

use crate::{parse::Packet, units::Version, verdict::Reason};

/// Multicast DNS.
const MDNS: u16 = 5353;
/// Hop limit of everything in multicast DNS (RFC 6762 section 11): such a packet crossed no router.
const ON_LINK: u8 = 255;

/// The length in a UDP header against the packet's (R-UDP-1).
#[inline(always)]
pub fn sanity(packet: &Packet, len: usize) -> Option<Reason> {
    if packet.l4_len < 8 {
        return Some(Reason::UdpMalformed);
    }
    let jumbo = len == 0 && packet.version == Version::V6;
    let short = len < 8 && !jumbo;
    let long = len > packet.l4_len && !packet.first_fragment;
    (short || long).then_some(Reason::UdpMalformed)
}

/// Whether a port is of a service whose answers are larger than what asks for them (R-UDP-2; CISA TA14-017A, and
/// WS-Discovery): chargen, quote of the day, DNS, portmapper, NTP, NetBIOS, SNMP, CLDAP, RIP, SSDP, WS-Discovery,
/// memcached; and multicast DNS from beyond the link.
#[inline(always)]
pub fn amplifies(port: u16, hop_limit: u8) -> bool {
    match port {
        17 | 19 | 53 | 111 | 123 | 137 | 161 | 389 | 520 | 1900 | 3702 | 11211 => true,
        MDNS => hop_limit != ON_LINK,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
