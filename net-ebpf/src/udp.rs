//! The guard of UDP (R-UDP-1 to R-UDP-3).

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use net_common::{
    abi::{AddressRole, Class, GuardSettings},
    guard::udp,
    parse::{self, Frame, Header, Packet},
    sources::Tier,
    units::Version,
    verdict::Reason,
};

use crate::{
    address::{is_link_local, is_own, roles},
    packet::{View, unpack},
    policy,
    socket::{self, Tuple, Udp},
    sources::{self, As},
    verdict::{HANDED_ON, Word, refused, ruled, word},
};

/// The guard of UDP.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn udp_guard(ctx: *mut xdp_md, place: u32, l4: u32, l4_len: u32) -> Word {
    let ctx = XdpContext::new(ctx);
    judge(&ctx, &unpack(place, l4, l4_len, 0)).unwrap_or(HANDED_ON)
}

#[inline(always)]
fn judge(ctx: &XdpContext, packet: &Packet) -> Option<Word> {
    let settings = policy::guards()?;
    if settings.flags & GuardSettings::UDP == 0 {
        return None;
    }
    let rule = |reason| Some(ruled(settings, GuardSettings::UDP_ENFORCE, reason));
    let frame = View(ctx);
    let (src, dst) = parse::addresses(&frame, packet)?;
    let version = packet.version;
    if !is_own(version, &dst) {
        return None;
    }
    if packet.l4_len < 8 {
        return rule(Reason::UdpMalformed);
    }
    let header = frame.header::<8>(packet.l4)?;
    if let Some(reason) = udp::sanity(packet, header.be16::<4>().into()) {
        return rule(reason);
    }
    let pass = Some(word(Reason::UdpPass));
    let hop_limit = match version {
        Version::V4 => frame.header::<20>(packet.l3)?.octet::<8>(),
        Version::V6 => frame.header::<40>(packet.l3)?.octet::<7>(),
    };
    let port = header.be16::<0>();
    if !udp::amplifies(port, hop_limit) {
        return pass;
    }
    let tuple = Tuple {
        version,
        src,
        dst,
        ports: header.word::<0>(),
    };
    // Whether a socket here is all that the packet can be for.
    let ours = settings.flags & GuardSettings::STRAYS != 0 && !is_link_local(version, &dst);
    let named = is_named(port) && roles(version, &src) & AddressRole::SERVER != 0;
    let asked = || sources::tier(version, &src) == Tier::Asked;
    let who = match socket::look_up_udp(ctx.ctx.cast(), &tuple) {
        Udp::Connected => return pass,
        Udp::Nothing if ours => return rule(Reason::Reflection),
        _ if named => return pass,
        // Of a forwarder's questions there may be many, and its answers come from few.
        _ if asked() => As::TotalOf(Tier::Asked),
        _ => As::Itself,
    };
    match sources::admit(Class::Reflection, version, &src, who) {
        0 => pass,
        share => Some(refused(
            settings,
            GuardSettings::UDP_ENFORCE,
            Reason::ReflectionLimit,
            share,
        )),
    }
}

/// Whether a port is a resolver's or a time server's.
#[inline(always)]
fn is_named(port: u16) -> bool {
    port == 53 || port == 123
}
