//! The order of the stages, on one screen.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use net_common::{
    guard::tcp::{self, Kind, Segment},
    parse::{self, Frame, Header, Packet},
    units::IpProto,
    verdict::{Reason, Verdict},
};

use crate::{
    packet::{View, forget_path},
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
    verdict::obey(judge(ctx))
}

#[inline(always)]
fn judge(ctx: &XdpContext) -> Verdict {
    let frame = View(ctx);
    let packet = match parse::parse(&frame) {
        Ok(packet) => packet,
        Err(reason) => return reason.into(),
    };
    if packet.protocol != IpProto::TCP {
        return Reason::NoRule.into();
    }
    let Some(packet) = forget_path::<XdpContext>(packet) else {
        return Reason::Internal.into();
    };
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
