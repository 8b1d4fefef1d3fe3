//! The guard of ICMP and ICMPv6 (R-ICMP-1 to R-ICMP-7).

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use net_common::{
    abi::{AddrWords, AddressRole, Class, GuardSettings},
    guard::icmp::{self, Kind},
    parse::{self, Packet},
    sources::Tier,
    units::{IpProto, Version},
    verdict::Reason,
};

use crate::{
    address::{is_own, kind, roles, version},
    packet::{View, forget_in, offset, scratch, unpack},
    policy,
    socket::{self, Tuple, Udp},
    sources::{self, As},
    verdict::{HANDED_ON, Word, count, refused, ruled, word},
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
    let settings = policy::guards()?;
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
    let mut who = As::Itself;
    let mut addr = src;
    if quotes != 0 {
        let (l4, l4_len) = (packet.l4 as u32, packet.l4_len as u32);
        match Tier::from_number(icmp_quoted(ctx.ctx, kind(version), l4, l4_len)) {
            Tier::Unseen => {
                count(Reason::IcmpUnmatched);
                who = As::Stranger;
            }
            tier => {
                who = As::Known(tier);
                // SAFETY: a live map value, this CPU's and this hook's own; just written.
                addr = unsafe { quoted_at()?.read_volatile() };
            }
        }
    }
    let share = sources::admit(class, version, &addr, who);
    if share == 0 {
        return Some(word(Reason::IcmpPass));
    }
    let reason = icmp::refusal(class);
    Some(refused(
        settings,
        GuardSettings::ICMP_ENFORCE,
        reason,
        share,
    ))
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

/// How well an error is borne out: by whom the quoted packet was for, if it left this host. That address is left in the
/// scratch space, and the error takes its shares: a router that quotes our connections has seen them, whatever it is
/// called, and a forger spends the share of one peer at most. Any other error is a stranger's, whatever its source is
/// known for (R-ICMP-3).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn icmp_quoted(ctx: *mut xdp_md, kind: u32, l4: u32, l4_len: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    quoted(&ctx, version(kind), offset(l4), l4_len as usize).map_or(0, |tier| tier as u32)
}

/// Where the address is left.
#[inline(always)]
fn quoted_at() -> Option<*mut AddrWords> {
    let scratch = scratch::<XdpContext>()?;
    // SAFETY: a live map value.
    Some(unsafe { &raw mut (*scratch).quoted })
}

#[inline(always)]
fn quoted(ctx: &XdpContext, version: Version, l4: usize, l4_len: usize) -> Option<Tier> {
    let quoted = icmp::quoted(&View(ctx), version, l4, l4_len)?;
    if !is_own(version, &quoted.src) {
        return None;
    }
    // SAFETY: a live map value, this CPU's and this hook's own.
    unsafe { quoted_at()?.write_volatile(quoted.dst) };
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
        Some(ports) => match socket::look_up_udp(ctx.ctx.cast(), &tuple(ports)) {
            Udp::Connected => Some(Tier::Proven),
            // No proof, but not of whoever floods at random either.
            Udp::Open => Some(Tier::Steady),
            Udp::Nothing => Some(sources::tier(version, &quoted.dst)),
        },
        // Of a TCP segment without its ports nothing can be shown.
        None if quoted.protocol == IpProto::TCP => None,
        None => Some(sources::tier(version, &quoted.dst)),
    }
}
