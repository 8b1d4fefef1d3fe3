//! ICMP and ICMPv6 (R-ICMP-1 to R-ICMP-7): which class a message is of, and which packet of ours an error quotes.
//!
//! Honest traffic that looks like an attack, and passes: errors from routers never heard of, which path MTU discovery and
//! traceroute live by; errors that quote eight octets of the transport header and no more; fragments of a large echo;
//! bursts of time exceeded, one for each hop; MTU 0 from routers older than RFC 1191. Neighbour discovery and listener
//! reports have their own guard.

use crate::{
    abi::{AddrWords, Class},
    parse::{Frame, Header},
    units::{IpProto, Version},
    verdict::Reason,
};

/// Octets of every ICMP header.
pub const HEADER: usize = 8;
/// Least MTU of IPv6 (RFC 8200 section 5).
const IPV6_MIN_MTU: u32 = 1280;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// Its second word: the MTU of a path MTU message (IPv4 in the lower half).
    pub word: u32,
}

/// What becomes of a message by what it is alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To be dropped.
    Never(Reason),
    /// Another guard's: neighbour discovery, multicast listeners.
    Other,
    /// Limited with its class; a request of one to all is never answered.
    Query(Class),
    /// Limited with its class, and quotes a packet.
    Error(Class),
}

/// Reads a message's header at `l4`.
#[inline(always)]
pub fn read<F: Frame>(frame: &F, l4: usize, l4_len: usize) -> Option<Message> {
    if l4_len < HEADER {
        return None;
    }
    let header = frame.header::<HEADER>(l4)?;
    Some(Message {
        kind: header.octet::<0>(),
        code: header.octet::<1>(),
        word: u32::from_be(header.word::<4>()),
    })
}

impl Message {
    /// Judges a message. Types by the IANA registries; deprecated ones by RFC 6633 and RFC 6918.
    #[inline(always)]
    pub fn judge(&self, version: Version) -> Kind {
        match version {
            Version::V4 => self.judge_v4(),
            Version::V6 => self.judge_v6(),
        }
    }

    #[inline(always)]
    fn judge_v4(&self) -> Kind {
        match self.kind {
            0 => Kind::Query(Class::EchoReply),
            3 if self.code == 4 => Kind::Error(Class::PathMtu),
            // 12 is parameter problem: as an error as hard as unreachable (R-ICMP-1).
            3 | 12 => Kind::Error(Class::Unreachable),
            4 | 6 | 15..=18 | 30..=39 => Kind::Never(Reason::IcmpDeprecated),
            5 => Kind::Error(Class::Redirect),
            8 => Kind::Query(Class::EchoRequest),
            11 => Kind::Error(Class::TimeExceeded),
            // Timestamp, extended echo (RFC 8335).
            13 | 14 | 42 | 43 => Kind::Query(Class::Informational),
            _ => Kind::Query(Class::Other),
        }
    }

    #[inline(always)]
    fn judge_v6(&self) -> Kind {
        match self.kind {
            1 | 4 => Kind::Error(Class::Unreachable),
            2 if self.word < IPV6_MIN_MTU => Kind::Never(Reason::PathMtuTooSmall),
            2 => Kind::Error(Class::PathMtu),
            3 => Kind::Error(Class::TimeExceeded),
            128 => Kind::Query(Class::EchoRequest),
            129 => Kind::Query(Class::EchoReply),
            // Listener discovery, neighbour discovery, MLDv2, and their like on the link (RFC 4890 section 4.4.1).
            130..=137 | 141..=143 | 148 | 149 | 151..=153 => Kind::Other,
            // Node information, extended echo.
            139 | 140 | 160 | 161 => Kind::Query(Class::Informational),
            _ => Kind::Query(Class::Other),
        }
    }

    /// Whether it asks all of IPv4's hosts at once for an answer (R-ICMP-4).
    #[inline(always)]
    pub fn is_request(&self) -> bool {
        matches!(self.kind, 8 | 13 | 42)
    }
}

/// Why a message of a class is beyond its share.
#[inline(always)]
pub const fn refusal(class: Class) -> Reason {
    match class {
        Class::EchoRequest => Reason::EchoRequestLimit,
        Class::EchoReply => Reason::EchoReplyLimit,
        Class::PathMtu => Reason::PathMtuLimit,
        Class::TimeExceeded => Reason::TimeExceededLimit,
        Class::Unreachable => Reason::UnreachableLimit,
        Class::Redirect => Reason::RedirectLimit,
        Class::Informational => Reason::InformationalLimit,
        _ => Reason::IcmpOtherLimit,
    }
}

/// The packet that an error quotes: it left this host, if the error is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Its source: an address of ours.
    pub src: AddrWords,
    /// Its destination.
    pub dst: AddrWords,
    /// Its protocol.
    pub protocol: IpProto,
    /// Both ports as they stand in the packet, source first; None when they are not there or it is a later fragment.
    pub ports: Option<u32>,
}

/// Reads what an error at `l4` quotes. Of the transport header only the first eight octets need be there (RFC 792), of
/// which four are read; IPv6 extension headers are not looked behind, but for one fragment header.
#[inline(always)]
pub fn quoted<F: Frame>(frame: &F, version: Version, l4: usize, l4_len: usize) -> Option<Quoted> {
    let inner = l4 + HEADER;
    let (mut protocol, at, whole, src, dst) = match version {
        Version::V4 => {
            let ip = frame.header::<20>(inner)?;
            let len = (ip.octet::<0>() & 15) as usize * 4;
            if ip.octet::<0>() >> 4 != 4 || len < 20 {
                return None;
            }
            (
                IpProto(ip.octet::<9>()),
                len,
                ip.be16::<6>() & 0x1fff == 0,
                [ip.word::<12>(), 0, 0, 0],
                [ip.word::<16>(), 0, 0, 0],
            )
        }
        Version::V6 => {
            let ip = frame.header::<40>(inner)?;
            if ip.octet::<0>() >> 4 != 6 {
                return None;
            }
            let src = [
                ip.word::<8>(),
                ip.word::<12>(),
                ip.word::<16>(),
                ip.word::<20>(),
            ];
            let dst = [
                ip.word::<24>(),
                ip.word::<28>(),
                ip.word::<32>(),
                ip.word::<36>(),
            ];
            (IpProto(ip.octet::<6>()), 40, true, src, dst)
        }
    };
    let mut at = frame.forget(at);
    let mut whole = whole;
    if version == Version::V6 && protocol == IpProto::FRAGMENT {
        match frame.header::<8>(inner + at) {
            Some(fragment) => {
                protocol = IpProto(fragment.octet::<0>());
                whole = fragment.be16::<2>() & 0xfff8 == 0;
                at += 8;
            }
            None => whole = false,
        }
    }
    let has_ports = protocol == IpProto::TCP || protocol == IpProto::UDP;
    let ports = if has_ports && whole && HEADER + at + 8 <= l4_len {
        frame.header::<4>(inner + at).map(|ports| ports.word::<0>())
    } else {
        None
    };
    Some(Quoted {
        src,
        dst,
        protocol,
        ports,
    })
}

#[cfg(test)]
mod tests;
