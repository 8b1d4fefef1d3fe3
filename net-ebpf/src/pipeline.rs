//! The order of the stages, on one screen.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use net_common::{
    guard::tcp::{self, Kind, Segment},
    parse::{self, Frame, Header, Packet},
    units::{EtherType, IpProto, Version},
    verdict::{Reason, Verdict},
};

use crate::{
    lists, neighbor,
    packet::{View, pack, unpack},
    syn_cookie, verdict,
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
    let frame = View(ctx);
    let reason = match parse::payload(&frame) {
        Ok(payload) if payload.ether_type == EtherType::ARP => {
            let (l3, vlan) = (payload.l3 as u32, payload.vlan.into());
            return claims(ctx, neighbor::arp_guard(ctx.ctx, l3, vlan));
        }
        Ok(payload) => match parse::network(&frame, payload) {
            Ok(packet) => {
                let (place, l4, l4_len) = pack(&packet);
                if lists::in_use() {
                    let listed = lists::guard(ctx, place, l4);
                    if listed != lists::UNLISTED {
                        return listed;
                    }
                }
                if packet.protocol == IpProto::TCP {
                    return tcp_guard(ctx.ctx, place, l4, l4_len, packet.traffic_class.into());
                }
                if packet.version == Version::V6 {
                    let vlan = payload.vlan.into();
                    let guarded = neighbor::ndp_guard(ctx.ctx, place, l4, l4_len, vlan);
                    return claims(ctx, guarded);
                }
                Reason::NoRule
            }
            Err(reason) => {
                if lists::in_use() {
                    let listed = lists::guard_unparsed(ctx, payload);
                    if listed != lists::UNLISTED {
                        return listed;
                    }
                }
                reason
            }
        },
        Err(reason) => reason,
    };
    verdict::obey(neighbor::hidden(reason))
}

/// The stage behind the guards of ARP and NDP.
#[inline(always)]
fn claims(ctx: &XdpContext, guarded: u32) -> xdp_action::Type {
    if guarded == neighbor::HANDED_ON {
        neighbor::claim_guard(ctx.ctx)
    } else {
        guarded
    }
}

/// The guard of TCP. With global linkage, so that the verifier checks it once and not for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tcp_guard(ctx: *mut xdp_md, place: u32, l4: u32, l4_len: u32, class: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    verdict::obey(judge_tcp(&ctx, unpack(place, l4, l4_len, class)))
}

#[inline(always)]
fn judge_tcp(ctx: &XdpContext, packet: Packet) -> Verdict {
    let frame = View(ctx);
    let tcp = match segment(&frame, packet) {
        Ok(tcp) => tcp,
        Err(reason) => return reason.into(),
    };
    if let Some(reason) = tcp::sanity(&tcp.segment) {
        return reason.into();
    }
    if tcp::source_impossible(packet.version, &tcp.src, &tcp.dst) {
        return Reason::TcpSource.into();
    }
    if packet.first_fragment {
        return Reason::Fragment.into();
    }
    match tcp.segment.kind() {
        Kind::Syn => syn_cookie::on_syn(ctx, &tcp),
        Kind::Ack => syn_cookie::on_ack(ctx, &tcp).into(),
        Kind::Other => Reason::TcpPass.into(),
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
