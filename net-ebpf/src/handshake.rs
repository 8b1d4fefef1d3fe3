//! The TC side of SYN cookies: an ACK that proves a cookie becomes a request socket of the listener,
//! with everything that was agreed. TC drops nothing: what it does not prove is the kernel's.

use aya_ebpf::{helpers::bpf_skc_to_tcp_sock, programs::TcContext};
use net_common::{
    cookie::{self, Claim, Terms},
    guard::tcp::{self, Kind},
    kfunc::TcpReqAttrs,
    parse,
    tcp_options::{NO_WSCALE, Options},
    units::IpProto,
    verdict::Reason,
};

use crate::{
    kfunc, limit,
    maps::{ACTIVITY, PORTS},
    packet::{View, forget_path},
    pipeline, recent,
    socket::{self, Found},
    syn_cookie::{listener, outstanding, prove, stat},
    verdict::count,
};

#[inline(always)]
pub fn run(ctx: &TcContext) {
    // In peace this is all.
    let Some(&last) = ACTIVITY.get(0) else {
        return;
    };
    if last == 0 {
        return;
    }
    let epoch = cookie::epoch(limit::now());
    if outstanding(last, epoch) {
        let _: Option<()> = complete(ctx, epoch);
    }
}

#[inline(always)]
fn complete(ctx: &TcContext, epoch: u32) -> Option<()> {
    let frame = View(ctx);
    let packet = parse::parse(&frame).ok()?;
    if packet.protocol != IpProto::TCP || packet.first_fragment {
        return None;
    }
    let tcp = pipeline::segment(&frame, forget_path::<TcContext>(packet)?).ok()?;
    if tcp.segment.kind() != Kind::Ack || tcp::sanity(&tcp.segment).is_some() {
        return None;
    }
    if !outstanding(PORTS.get(tcp.segment.dst_port.into())?.last_epoch, epoch) {
        return None;
    }
    let listener = listener(ctx, &tcp)?;
    let (claim, options, terms) = prove(ctx, &tcp, listener, epoch)?;
    // The first data segment and every repetition prove the cookie too. Their socket exists by then, unless they
    // were received in one go with the ACK.
    if recent::made(&tcp) {
        return None;
    }
    let Found::Listener(sk) = socket::look_up(ctx.skb.skb.cast(), &tcp) else {
        return None;
    };
    // SAFETY: `sk` is a referenced listener.
    let listening = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
    let mut refused = true;
    if !listening.is_null() {
        let attrs = attrs(&claim, &options, terms);
        // SAFETY: the context is the program's own, the socket what the helper made of a listener.
        refused = unsafe { kfunc::sk_assign_tcp_reqsk(ctx.skb.skb, listening.cast(), &attrs) } != 0;
    }
    socket::release(sk);
    if refused {
        count(Reason::HandshakeRefused);
        stat(listener.slot, |s| s.handshakes_refused += 1);
    } else {
        recent::note_made(&tcp);
        count(Reason::HandshakeMade);
        stat(listener.slot, |s| s.handshakes += 1);
    }
    Some(())
}

#[inline(always)]
fn attrs(claim: &Claim, options: &Options, terms: Terms) -> TcpReqAttrs {
    let wscale_ok = terms.snd_wscale != NO_WSCALE;
    TcpReqAttrs {
        rcv_tsval: options.tsval,
        rcv_tsecr: options.tsecr,
        mss: terms.mss(claim.flow.version),
        rcv_wscale: terms.rcv_wscale,
        snd_wscale: if wscale_ok { terms.snd_wscale } else { 0 },
        ecn_ok: terms.ecn.into(),
        wscale_ok: wscale_ok.into(),
        sack_ok: terms.sack.into(),
        tstamp_ok: terms.timestamps.into(),
        usec_ts_ok_and_reserved: 0,
    }
}
