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
    address::{is_own, roles},
    maps::GUARD_SETTINGS,
    packet::{View, unpack},
    socket::{self, Tuple, Udp},
    sources,
    verdict::{HANDED_ON, Word, ruled, word},
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
    let settings = GUARD_SETTINGS.get(0)?;
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
    if !udp::amplifies(header.be16::<0>(), hop_limit)
        || roles(version, &src) & AddressRole::SERVER != 0
    {
        return pass;
    }
    let known = match sources::tier(version, &src) {
        // Asked by a socket of ours, or by somebody behind us.
        tier @ (Tier::Asked | Tier::Proven) => tier,
        _ => {
            let tuple = Tuple {
                version,
                src,
                dst,
                ports: header.word::<0>(),
            };
            match socket::look_up_udp(ctx.ctx.cast(), &tuple) {
                Udp::Nothing => return rule(Reason::Reflection),
                Udp::Open => Tier::Unseen,
                Udp::Connected => Tier::Proven,
            }
        }
    };
    if sources::admit(Class::Reflection, version, &src, known) {
        pass
    } else {
        rule(Reason::ReflectionLimit)
    }
}
