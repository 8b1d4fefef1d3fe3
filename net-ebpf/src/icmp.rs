//! The guard of ICMP and ICMPv6 (R-ICMP-1 to R-ICMP-7).

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use net_common::{
    abi::{AddressRole, Class, GuardSettings},
    guard::icmp::{self, Kind},
    parse::{self, Packet},
    sources::Tier,
    units::{IpProto, Version},
    verdict::Reason,
};

use crate::{
    address::{is_own, kind, roles, version},
    maps::GUARD_SETTINGS,
    packet::{View, forget_in, offset, unpack},
    socket::{self, Tuple, Udp},
    sources,
    verdict::{HANDED_ON, Word, count, ruled, word},
};

/// The guard of ICMP, for a packet of either version.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn icmp_guard(ctx: *mut xdp_md, place: u32, l4: u32, l4_len: u32) -> Word {
    let ctx = XdpContext::new(ctx);
    judge(&ctx, &unpack(place, l4, l4_len, 0)).unwrap_or(HANDED_ON)
}

#[inline(always)]
fn judge(ctx: &XdpContext, packet: &Packet) -> Option<Word> {
    let settings = GUARD_SETTINGS.get(0)?;
    if settings.flags & GuardSettings::ICMP == 0 {
        return None;
    }
    let rule = |reason| Some(ruled(settings, GuardSettings::ICMP_ENFORCE, reason));
    let frame = View(ctx);
    let (src, dst) = parse::addresses(&frame, packet)?;
    let version = packet.version;
    let own = is_own(version, &dst);
    let all = !own && is_all(version, dst[0], roles(version, &dst));
    // Forwarded, bridged (R-GEN-1).
    if !own && !all {
        return None;
    }
    let Some(message) = icmp::read(&frame, packet.l4, packet.l4_len) else {
        return rule(Reason::IcmpMalformed);
    };
    if all && version == Version::V4 && message.is_request() {
        return rule(Reason::IcmpBroadcast);
    }
    let (class, quotes) = match message.judge(version) {
        Kind::Never(reason) => return rule(reason),
        Kind::Other => return None,
        Kind::Error(Class::Redirect) if settings.flags & GuardSettings::REDIRECTS == 0 => {
            return rule(Reason::IcmpRedirect);
        }
        Kind::Error(class) => (class as u32, 1),
        Kind::Query(class) => (class as u32, 0),
    };
    let (class, quotes) = (forget_in(class), forget_in(quotes));
    let class = *Class::ALL.get(class as usize)?;
    let known = if quotes != 0 {
        let (l4, l4_len) = (packet.l4 as u32, packet.l4_len as u32);
        match Tier::from_number(icmp_quoted(ctx.ctx, kind(version), l4, l4_len)) {
            Tier::Unseen => {
                count(Reason::IcmpUnmatched);
                Tier::Unseen
            }
            tier => tier,
        }
    } else {
        Tier::Unseen
    };
    if sources::admit(class, version, &src, known) {
        Some(word(Reason::IcmpPass))
    } else {
        rule(icmp::refusal(class))
    }
}

/// Whether a destination that is not our own is all of a network's, ours among them.
#[inline(always)]
fn is_all(version: Version, first: u32, roles: u32) -> bool {
    let first = u32::from_be(first);
    match version {
        Version::V4 => {
            roles & AddressRole::BROADCAST != 0 || first == u32::MAX || first >> 28 == 0xe
        }
        Version::V6 => first >> 24 == 0xff,
    }
}

/// What is known of who the packet was for that an error quotes, if it left this host: a connection of ours, and with it
/// the error, has proved itself, whatever router sent it (R-ICMP-3).
#[inline(always)]
fn quoted_of(ctx: &XdpContext, version: Version, l4: usize, l4_len: usize) -> Option<Tier> {
    let quoted = icmp::quoted(&View(ctx), version, l4, l4_len)?;
    if !is_own(version, &quoted.src) {
        return None;
    }
    let tuple = |ports: u32| Tuple {
        version,
        src: quoted.dst,
        dst: quoted.src,
        // As in a packet that comes: the other one's port first.
        ports: ports.rotate_left(16),
    };
    match quoted.ports {
        Some(ports) if quoted.protocol == IpProto::TCP => {
            socket::has_connection(ctx.ctx.cast(), &tuple(ports)).then_some(Tier::Proven)
        }
        Some(ports) if socket::look_up_udp(ctx.ctx.cast(), &tuple(ports)) == Udp::Connected => {
            Some(Tier::Proven)
        }
        // Of a TCP segment without its ports nothing can be shown.
        None if quoted.protocol == IpProto::TCP => None,
        _ => Some(sources::tier(version, &quoted.dst)),
    }
}

/// [`quoted_of`] with global linkage.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_quoted(ctx: *mut xdp_md, kind: u32, l4: u32, l4_len: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    quoted_of(&ctx, version(kind), offset(l4), l4_len as usize).map_or(0, |tier| tier as u32)
}
