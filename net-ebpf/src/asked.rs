//! What this host asks others for, seen at TC egress: whoever was asked is known when the answer comes, also where the
//! asker is behind this host and its socket not here.

use aya_ebpf::programs::TcContext;
use net_common::{
    abi::GuardSettings,
    guard::udp,
    parse::{self, Frame, Header},
    sources::Tier,
    units::{EtherType, IpProto, Version},
};

use crate::{address::is_own, limit, packet::View, policy, sources};

/// The lowest port that Linux gives a socket which asks for none (`ip_local_port_range`). What leaves from a lower one may
/// be a service's answer, sent to whatever port a forged question came from.
const EPHEMERAL: u16 = 32_768;
/// Time servers ask one another, and ntpd asks them, from their own port.
const NTP: u16 = 123;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Notes whom a packet that leaves asks.
#[inline(always)]
pub fn on_egress(ctx: &TcContext) {
    let _: Option<()> = note(ctx);
}

#[inline(always)]
fn note(ctx: &TcContext) -> Option<()> {
    let settings = policy::guards()?;
    if settings.flags & (GuardSettings::UDP | GuardSettings::ICMP) == 0 {
        return None;
    }
    let frame = View(ctx);
    let payload = parse::payload(&frame).ok()?;
    let l3 = payload.l3;
    let (version, protocol, l4) = match payload.ether_type {
        EtherType::IPV4 => {
            let ip = frame.header::<20>(l3)?;
            let protocol = IpProto(ip.octet::<9>());
            let later = ip.be16::<6>() & 0x1fff != 0;
            if later {
                return None;
            }
            (
                Version::V4,
                protocol,
                l3 + (ip.octet::<0>() & 15) as usize * 4,
            )
        }
        EtherType::IPV6 => {
            let ip = frame.header::<40>(l3)?;
            (Version::V6, IpProto(ip.octet::<6>()), l3 + 40)
        }
        _ => return None,
    };
    let asks = match protocol {
        IpProto::UDP => {
            let ports = frame.header::<4>(l4)?;
            let (from, to) = (ports.be16::<0>(), ports.be16::<2>());
            (from >= EPHEMERAL || from == NTP && to == NTP) && udp::amplifies(to, 0)
        }
        IpProto::ICMP => frame.header::<4>(l4)?.octet::<0>() == ECHO_REQUEST,
        IpProto::ICMPV6 => frame.header::<4>(l4)?.octet::<0>() == ECHO_REQUEST_V6,
        _ => false,
    };
    if !asks {
        return None;
    }
    let (src, dst) = parse::addresses_at(&frame, version, l3)?;
    if is_own(version, &src) {
        sources::reach(version, &dst, Tier::Asked, limit::now());
    }
    Some(())
}
