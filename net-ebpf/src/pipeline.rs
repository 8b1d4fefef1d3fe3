//! The order of the stages, on one screen.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use net_common::{
    guard::{
        ip::is_fragment,
        tcp::{self, Kind, Segment},
    },
    parse::{self, Frame, Header, Packet},
    units::{EtherType, IpProto, Version, tcp_flags::RST},
    verdict::Reason,
};

use crate::{
    connections, icmp, ip, lists, neighbor,
    packet::{View, pack, unpack},
    stray, syn_cookie, udp,
    verdict::{self, HANDED_ON, Word, word},
};

/// A TCP segment with everything that the stages behind the parser look at.
pub struct Tcp {
    pub packet: Packet,
    pub segment: Segment,
    /// First word of the header: both ports as they stand in the packet.
    pub ports: u32,
    /// Sequence and acknowledgment numbers, host byte order.
    pub seq: u32,
    pub ack: u32,
    pub src: net_common::abi::AddrWords,
    pub dst: net_common::abi::AddrWords,
}

#[inline(always)]
pub fn run(ctx: &XdpContext) -> xdp_action::Type {
    verdict::obey(ctx, judge(ctx))
}

#[inline(always)]
fn judge(ctx: &XdpContext) -> Word {
    let frame = View(ctx);
    let payload = match parse::payload(&frame) {
        Ok(payload) => payload,
        Err(reason) => return word(neighbor::hidden(reason)),
    };
    let vlan = payload.vlan.into();
    if payload.ether_type == EtherType::ARP {
        return claims(ctx, neighbor::arp_guard(ctx.ctx, payload.l3 as u32, vlan));
    }
    let packet = match parse::network(&frame, payload) {
        Ok(packet) => packet,
        Err(reason) => {
            if lists::in_use() {
                let listed = lists::guard_unparsed(ctx, payload);
                if listed != HANDED_ON {
                    return listed;
                }
            }
            return match reason {
                Reason::FragmentChain => ip::cut_short(reason),
                Reason::ParserLimit if payload.ether_type == EtherType::IPV6 => {
                    ip::deep_guard(ctx.ctx, payload.l3 as u32)
                }
                _ => word(neighbor::hidden(reason)),
            };
        }
    };
    let (place, l4, l4_len) = pack(&packet);
    let is_tcp = packet.protocol == IpProto::TCP;
    let mut allowed = false;
    if lists::in_use() {
        let listed = lists::guard(ctx, place, l4);
        allowed = verdict::is(listed, Reason::Allowed);
        // A SYN of an allowed source may still be answered with a cookie, which refuses nobody.
        if listed != HANDED_ON && !(allowed && is_tcp) {
            return listed;
        }
    }
    let word = guards(ctx, &packet, place, l4, l4_len, vlan);
    if allowed && verdict::drops(word) {
        return verdict::word(Reason::Allowed);
    }
    word
}

/// The guards of a packet, in their order: the first that has something to say decides, but one that only observes does
/// not keep the others from it. Of fragments the others see too little.
#[inline(always)]
fn guards(ctx: &XdpContext, packet: &Packet, place: u32, l4: u32, l4_len: u32, vlan: u32) -> Word {
    let mut observed = HANDED_ON;
    if ip::concerns(packet) {
        observed = ip::ip_guard(ctx.ctx, place, l4, l4_len);
        let goes_on = verdict::is_observed(observed) && !is_fragment(packet);
        if observed != HANDED_ON && !goes_on {
            return observed;
        }
    }
    let judged = transport(ctx, packet, place, l4, l4_len, vlan);
    behind(ctx, observed, judged)
}

/// What becomes of a packet by the guards behind one that handed it on, or only observed it.
#[inline(always)]
fn behind(ctx: &XdpContext, observed: Word, judged: Word) -> Word {
    if observed == HANDED_ON {
        return judged;
    }
    if verdict::decides(judged) {
        verdict::observe(ctx, observed);
        return judged;
    }
    observed
}

/// The guards behind that of IP.
#[inline(always)]
fn transport(
    ctx: &XdpContext,
    packet: &Packet,
    place: u32,
    l4: u32,
    l4_len: u32,
    vlan: u32,
) -> Word {
    if packet.protocol == IpProto::TCP {
        let mut observed = HANDED_ON;
        if connections::is_syn(ctx, packet) {
            observed = connections::syn_guard(ctx.ctx, place);
            if observed != HANDED_ON && !verdict::is_observed(observed) {
                return observed;
            }
        }
        let mut judged = tcp_guard(ctx.ctx, place, l4, l4_len, packet.traffic_class.into());
        if verdict::is(judged, Reason::TcpPass) && stray::concerns(verdict::is_marked(judged)) {
            judged = stray::stray_guard(ctx.ctx, place, l4, l4_len);
        }
        return behind(ctx, observed, judged);
    }
    if packet.version == Version::V6 {
        let judged = claims(ctx, neighbor::ndp_guard(ctx.ctx, place, l4, l4_len, vlan));
        if !verdict::is(judged, Reason::NoRule) {
            return judged;
        }
    }
    let judged = match packet.protocol {
        IpProto::ICMP | IpProto::ICMPV6 => icmp::icmp_guard(ctx.ctx, place, l4, l4_len),
        IpProto::UDP => udp::udp_guard(ctx.ctx, place, l4, l4_len),
        _ => HANDED_ON,
    };
    if judged == HANDED_ON {
        return word(Reason::NoRule);
    }
    judged
}

/// The stage behind the guards of ARP and NDP.
#[inline(always)]
fn claims(ctx: &XdpContext, guarded: Word) -> Word {
    if guarded == HANDED_ON {
        neighbor::claim_guard(ctx.ctx)
    } else {
        guarded
    }
}

/// The guard of TCP. With global linkage, so that the verifier checks it once and not for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcp_guard(ctx: *mut xdp_md, place: u32, l4: u32, l4_len: u32, class: u32) -> Word {
    let ctx = XdpContext::new(ctx);
    judge_tcp(&ctx, unpack(place, l4, l4_len, class))
}

#[inline(always)]
fn judge_tcp(ctx: &XdpContext, packet: Packet) -> Word {
    let frame = View(ctx);
    let tcp = match segment(&frame, packet) {
        Ok(tcp) => tcp,
        Err(reason) => return word(reason),
    };
    if let Some(reason) = tcp::sanity(&tcp.segment) {
        return word(match reason {
            Reason::TcpHeader if packet.first_fragment => Reason::FragmentTiny,
            reason => reason,
        });
    }
    if tcp::source_impossible(packet.version, &tcp.src, &tcp.dst) {
        return word(Reason::TcpSource);
    }
    if packet.first_fragment {
        return word(match tcp.segment.kind() {
            Kind::Syn => Reason::SynFragment,
            _ => Reason::Fragment,
        });
    }
    match tcp.segment.kind() {
        Kind::Syn => word(syn_cookie::on_syn(ctx, &tcp)),
        Kind::Ack => word(syn_cookie::on_ack(ctx, &tcp)),
        Kind::Other if tcp.segment.flags & RST != 0 => word(Reason::TcpPass),
        Kind::Other => verdict::marked(word(Reason::TcpPass)),
    }
}

/// Reads the TCP header, for XDP and TC alike.
#[inline(always)]
pub fn segment<F: Frame>(frame: &F, packet: Packet) -> Result<Tcp, Reason> {
    if packet.l4_len < 20 {
        return Err(Reason::TcpHeader);
    }
    let header = frame.header::<20>(packet.l4).ok_or(Reason::ParserLimit)?;
    let (src, dst) = parse::addresses(frame, &packet).ok_or(Reason::ParserLimit)?;
    let ports = header.word::<0>();
    Ok(Tcp {
        packet,
        segment: Segment {
            header_len: (header.octet::<12>() >> 4) as usize * 4,
            len: packet.l4_len,
            flags: header.octet::<13>(),
            src_port: (u32::from_be(ports) >> 16) as u16,
            dst_port: u32::from_be(ports) as u16,
        },
        ports,
        seq: u32::from_be(header.word::<4>()),
        ack: u32::from_be(header.word::<8>()),
        src,
        dst,
    })
}
