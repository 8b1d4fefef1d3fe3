//! The XDP side of SYN cookies: SYNs answered in place, ACKs checked before an skb exists.

use aya_ebpf::{helpers::bpf_tcp_check_syncookie, programs::XdpContext};
use net_common::{
    abi::{Listener, ListenerKey, ListenerStats, PortState, Settings},
    cookie::{self, Claim, Flow, Terms},
    parse::{Frame, Header},
    sources::seconds,
    spread::syn_ack_cell,
    synack::{PLAIN_WORDS, SynAck, TIMESTAMPS_WORDS},
    tcp_options::Options,
    units::{
        Version,
        tcp_flags::{CWR, ECE},
    },
    verdict::{Action, Reason, Verdict},
};

use crate::{
    limit,
    maps::{ACTIVITY, COOKIE_KEYS, LISTENER_STATS, LISTENERS, PORTS, SYN_ACK_LIMIT},
    options,
    packet::{Context, Octets, View, forget},
    pipeline::Tcp,
    policy, recent,
    socket::{self, Found},
    syns,
    trace::trace,
    verdict::count,
};

/// Offset of the IP header behind Ethernet and one VLAN tag.
const MAX_ANSWERED_L3: usize = 18;

/// The fit listener that a segment is addressed to, at the link layer too.
#[inline(always)]
pub fn listener<C: Context>(ctx: &C, tcp: &Tcp) -> Option<&'static Listener> {
    // Of two VLAN tags the kernel takes off one before TC, which then sees no IP packet, and
    // `bpf_sk_assign_tcp_reqsk` takes none: what could not be completed must not be answered.
    if tcp.packet.l3 > MAX_ANSWERED_L3 {
        return None;
    }
    let key = ListenerKey {
        addr: tcp.dst,
        ifindex: ctx.ifindex(),
        port: tcp.segment.dst_port,
        family: tcp.packet.version.number(),
    };
    // SAFETY: values are plain integers; a concurrent update by the agent can at worst mix two valid
    // settings of one listener for one packet.
    let listener = unsafe { LISTENERS.get(key) }?;
    let ethernet = View(ctx).header::<14>(0)?;
    if ethernet.word::<0>() == listener.mac_front && ethernet.half::<4>() == listener.mac_back {
        Some(listener)
    } else {
        None
    }
}

/// Changes the statistics of the listener in `slot`.
#[inline(always)]
pub fn stat(slot: u32, change: impl FnOnce(&mut ListenerStats)) {
    if let Some(stats) = LISTENER_STATS.get_ptr_mut(slot) {
        // SAFETY: this CPU's own value.
        change(unsafe { &mut *stats });
    }
}

/// Whether cookies sent in the epoch that `last` stands for ([`PortState::last_epoch`]) may still
/// be answered at `epoch`.
#[inline(always)]
pub fn outstanding(last: u32, epoch: u32) -> bool {
    last != 0 && epoch.wrapping_add(1).wrapping_sub(last) <= 1
}

/// Whether a port's listeners changed at a time ([`PortState::changed_s`]) that the agent may not have lived to see. It
/// needs up to 100 ms to know, so that the second before that of its last sign counts, too.
#[inline(always)]
fn changed_since(changed: u32, heartbeat: u64) -> bool {
    changed != 0 && changed.saturating_add(1) >= seconds(heartbeat)
}

/// A SYN that passed the sanity rules.
#[inline(always)]
pub fn on_syn(ctx: &XdpContext, tcp: &Tcp) -> Verdict {
    let Some(listener) = listener(ctx, tcp) else {
        return Reason::SynUnprotected.into();
    };
    syns::count(tcp, listener.slot);
    let (Some(settings), Some(port)) = (
        policy::settings(),
        PORTS.get_ptr_mut(tcp.segment.dst_port.into()),
    ) else {
        return Reason::Internal.into();
    };
    let version = tcp.packet.version;
    let now = limit::now();
    let heartbeat = policy::heartbeat();
    let tended = policy::is_alive(heartbeat, now);
    // SAFETY: `port` is a live map value.
    let changed = unsafe { &raw const (*port).changed_s };
    // SAFETY: as above; the tracepoint may write it at any time.
    let changed = unsafe { changed.read_volatile() };
    if !tended && changed_since(changed, heartbeat) {
        socket::remember(version, &tcp.src, settings);
        return Reason::SynUntended.into();
    }
    // SAFETY: `port` is a live map value.
    let tat = unsafe { &raw mut (*port).tat_ns };
    let budget = listener.flags & Listener::ALWAYS == 0
        && limit::take(tat, now, listener.interval_ns, listener.tolerance_ns);
    if budget || settings.flags & Settings::DRAIN != 0 {
        socket::remember(version, &tcp.src, settings);
        stat(listener.slot, |s| s.syns_passed += 1);
        return Reason::SynInBudget.into();
    }
    let Some(options) = options::read(ctx, tcp) else {
        return Reason::ParserLimit.into();
    };
    if socket::may_hold(version, &tcp.src, settings) {
        count(Reason::SocketLookup);
        match socket::look_up(ctx.ctx.cast(), tcp) {
            Found::Listener(sk) => socket::release(sk),
            Found::Connection => return Reason::SynOnSocket.into(),
            Found::Nothing => return Reason::SynUnprotected.into(),
        }
    }
    let observe = policy::observes(settings);
    if observe {
        // Whatever is decided below, the SYN passes and the kernel makes a request socket of it.
        socket::remember(version, &tcp.src, settings);
    }
    // Without the agent nobody would notice that the queue has room again.
    if listener.flags & Listener::ACCEPT_FULL != 0 && tended {
        if !observe {
            stat(listener.slot, |s| s.accept_full += 1);
        }
        return Reason::AcceptFull.into();
    }
    let Some(cell) = SYN_ACK_LIMIT.get_ptr_mut(syn_ack_cell(version, &tcp.src, settings.hash_seed))
    else {
        return Reason::Internal.into();
    };
    if !limit::take(
        cell,
        now,
        settings.syn_ack_interval_ns,
        settings.syn_ack_tolerance_ns,
    ) {
        if !observe {
            stat(listener.slot, |s| s.syn_ack_limited += 1);
        }
        return Reason::SynAckLimit.into();
    }
    // The kernel alone can sign an answer. Behind the limit, so that the option is no way around it.
    if options.flags & Options::SIGNED != 0 {
        socket::remember(version, &tcp.src, settings);
        return Reason::SynSigned.into();
    }
    if observe {
        return Verdict {
            reason: Reason::CookieSent,
            observed: true,
        };
    }
    let reason = answer(ctx, tcp, listener, port, &options, now);
    if reason.action() == Action::Pass {
        socket::remember(version, &tcp.src, settings);
    }
    reason.into()
}

/// Rewrites the SYN into the SYN-ACK.
#[inline(always)]
fn answer(
    ctx: &XdpContext,
    tcp: &Tcp,
    listener: &Listener,
    port: *mut PortState,
    options: &Options,
    now: u64,
) -> Reason {
    let Some(keys) = COOKIE_KEYS.get(0) else {
        return Reason::Internal;
    };
    let version = tcp.packet.version;
    let epoch = cookie::epoch(now);
    // RFC 3168 section 6.1.1: ECN is asked for by ECE and CWR; Linux 6.12 (tcp_ecn_create_request) takes
    // it only from a SYN that is not itself ECN-capable transport.
    let ecn = tcp.segment.flags & (ECE | CWR) == ECE | CWR && tcp.packet.traffic_class & 3 == 0;
    let terms = Terms::agree(version, options, listener.flags, listener.wscale, ecn);
    let terms = Terms::from_word(forget::<XdpContext>(terms.word()));
    let flow = Flow {
        version,
        src: tcp.src,
        dst: tcp.dst,
        ports: tcp.ports,
        isn: tcp.seq,
    };
    let key = if keys.current == 0 {
        &keys.keys[0]
    } else {
        &keys.keys[1]
    };
    let synack = SynAck {
        version,
        src: tcp.dst,
        dst: tcp.src,
        syn_ports: tcp.ports,
        client_isn: tcp.seq,
        client_tsval: options.tsval,
        mss: listener.mss,
        window: listener.window,
        cookie: cookie::make(key, &flow, epoch, terms),
        terms,
    };
    let words = if terms.timestamps {
        TIMESTAMPS_WORDS
    } else {
        PLAIN_WORDS
    };
    // What stood between the headers (IP options, extension headers) and behind them goes.
    let len = tcp.packet.l3 + version.header_len() + words * 4;
    if resize(ctx, tcp, len).is_none() || write(ctx, tcp.packet.l3, listener, &synack).is_none() {
        return Reason::ReplyImpossible;
    }
    // Before the answer leaves: its ACK must find the port watched.
    mark(port, epoch.wrapping_add(1));
    stat(listener.slot, |s| s.cookies_sent += 1);
    Reason::CookieSent
}

/// Marks the port and the host as having cookies outstanding; a store only when an epoch begins.
#[inline(always)]
fn mark(port: *mut PortState, epoch: u32) {
    // SAFETY: `port` is a live map value.
    let last = unsafe { &raw mut (*port).last_epoch };
    // SAFETY: as above; a race stores the same value twice.
    if unsafe { last.read_volatile() } != epoch {
        // SAFETY: as above.
        unsafe { last.write_volatile(epoch) };
        if let Some(activity) = ACTIVITY.get_ptr_mut(0) {
            // SAFETY: a live map value.
            unsafe { activity.write_volatile(epoch) };
        }
    }
}

/// Makes the frame `len` octets long, all of them in its linear part, or leaves it as it is.
#[inline(always)]
fn resize(ctx: &XdpContext, tcp: &Tcp, len: usize) -> Option<()> {
    let (start, end) = ctx.bounds();
    let linear = end - start;
    // The common SYN has its answer's length already; what is more of it would lie beyond the linear part.
    if linear == len && tcp.packet.l4 + tcp.packet.l4_len == len {
        return Some(());
    }
    let total = ctx.total_len();
    // Such a frame would grow where the answer is not written.
    if linear < len && linear != total {
        return None;
    }
    let delta = len as i32 - total as i32;
    // SAFETY: the context is the program's own; packet pointers are derived anew afterwards.
    let failed = unsafe { aya_ebpf::helpers::bpf_xdp_adjust_tail(ctx.ctx, delta) };
    if failed == 0 { Some(()) } else { None }
}

#[inline(always)]
fn write(ctx: &XdpContext, l3: usize, listener: &Listener, synack: &SynAck) -> Option<()> {
    let frame = View(ctx);
    let ethernet = frame.header::<14>(0)?;
    let (dst_0, dst_4) = (ethernet.word::<0>(), ethernet.half::<4>());
    let (src_0, src_2) = (ethernet.half::<6>(), ethernet.word::<8>());
    let words = if synack.terms.timestamps {
        TIMESTAMPS_WORDS
    } else {
        PLAIN_WORDS
    };
    let l4 = l3 + synack.version.header_len();
    match synack.version {
        Version::V4 => {
            let at = frame.header::<20>(l3)?;
            let [a, b, c, d, e] = synack.ipv4(words, listener.hop_limit);
            at.put_word::<0>(a);
            at.put_word::<4>(b);
            at.put_word::<8>(c);
            at.put_word::<12>(d);
            at.put_word::<16>(e);
        }
        Version::V6 => {
            let at = frame.header::<40>(l3)?;
            let [a, b] = synack.ipv6(words, listener.hop_limit);
            at.put_word::<0>(a);
            at.put_word::<4>(b);
            let (s, d) = (&synack.src, &synack.dst);
            at.put_word::<8>(s[0]);
            at.put_word::<12>(s[1]);
            at.put_word::<16>(s[2]);
            at.put_word::<20>(s[3]);
            at.put_word::<24>(d[0]);
            at.put_word::<28>(d[1]);
            at.put_word::<32>(d[2]);
            at.put_word::<36>(d[3]);
        }
    }
    if synack.terms.timestamps {
        let at = frame.header::<40>(l4)?;
        let words = synack.with_timestamps();
        put_front(at, &words);
        at.put_word::<24>(words[6]);
        at.put_word::<28>(words[7]);
        at.put_word::<32>(words[8]);
        at.put_word::<36>(words[9]);
    } else {
        put_front(frame.header::<24>(l4)?, &synack.plain());
    }
    ethernet.put_half::<0>(src_0);
    ethernet.put_word::<2>(src_2);
    ethernet.put_word::<6>(dst_0);
    ethernet.put_half::<10>(dst_4);
    Some(())
}

/// The six words that every SYN-ACK has.
#[inline(always)]
fn put_front<const N: usize, const W: usize>(at: Octets<N>, words: &[u32; W]) {
    at.put_word::<0>(words[0]);
    at.put_word::<4>(words[1]);
    at.put_word::<8>(words[2]);
    at.put_word::<12>(words[3]);
    at.put_word::<16>(words[4]);
    at.put_word::<20>(words[5]);
}

/// What an ACK claims, and the terms if one of our cookies bears it out.
#[inline(always)]
pub fn prove<C: Context>(
    ctx: &C,
    tcp: &Tcp,
    listener: &Listener,
    epoch: u32,
) -> Option<(Claim, Options, Terms)> {
    let keys = COOKIE_KEYS.get(0)?;
    let options = options::read(ctx, tcp)?;
    let claim = Claim {
        flow: Flow {
            version: tcp.packet.version,
            src: tcp.src,
            dst: tcp.dst,
            ports: tcp.ports,
            isn: tcp.seq.wrapping_sub(1),
        },
        isn: tcp.ack.wrapping_sub(1),
        tsecr: if options.flags & Options::TIMESTAMPS != 0 {
            Some(options.tsecr)
        } else {
            None
        },
        rcv_wscale: listener.wscale,
    };
    let terms = cookie::check(keys, &claim, epoch)?;
    Some((claim, options, terms))
}

/// An ACK, data or FIN. In peace this is one look-up.
#[inline(always)]
pub fn on_ack(ctx: &XdpContext, tcp: &Tcp) -> Reason {
    let Some(port) = PORTS.get(tcp.segment.dst_port.into()) else {
        return Reason::Internal;
    };
    if port.last_epoch == 0 {
        return Reason::TcpPass;
    }
    let epoch = cookie::epoch(limit::now());
    if !outstanding(port.last_epoch, epoch) {
        return Reason::TcpPass;
    }
    let Some(listener) = listener(ctx, tcp) else {
        return Reason::TcpPass;
    };
    // Options beyond the linear part cannot be read, so the ACK cannot be called false (R-GEN-2).
    let (start, end) = ctx.bounds();
    if end - start < tcp.packet.l4 + tcp.segment.header_len {
        return Reason::ParserLimit;
    }
    let sk = match socket::look_up(ctx.ctx.cast(), tcp) {
        Found::Listener(sk) => sk,
        Found::Connection => return Reason::AckOnSocket,
        Found::Nothing => return Reason::TcpPass,
    };
    let reason = if prove(ctx, tcp, listener, epoch).is_some() {
        stat(listener.slot, |s| s.cookies_proven += 1);
        recent::note_proven(tcp);
        Reason::CookieProven
    } else if recent::follows(tcp) {
        Reason::AckOnSocket
    } else if kernel_cookie(ctx, tcp, sk.cast()) {
        recent::note_proven(tcp);
        Reason::KernelCookie
    } else {
        stat(listener.slot, |s| s.cookies_failed += 1);
        trace!(ctx, "false ACK to port {}", tcp.segment.dst_port);
        Reason::CookieFalse
    };
    socket::release(sk);
    reason
}

/// Whether the kernel would take the ACK for a cookie of its own: it sent some lately and this is one
/// (`bpf_tcp_check_syncookie`, Linux 6.12 net/core/filter.c).
#[inline(always)]
pub fn kernel_cookie(ctx: &XdpContext, tcp: &Tcp, sk: *mut core::ffi::c_void) -> bool {
    let frame = View(ctx);
    let Some(header) = frame.header::<20>(tcp.packet.l4) else {
        return true;
    };
    let (ip, len) = match tcp.packet.version {
        Version::V4 => (frame.header::<20>(tcp.packet.l3).map(Octets::pointer), 20),
        Version::V6 => (frame.header::<40>(tcp.packet.l3).map(Octets::pointer), 40),
    };
    let Some(ip) = ip else {
        return true;
    };
    // SAFETY: `sk` is a referenced listener, both headers were bounded above.
    unsafe { bpf_tcp_check_syncookie(sk, ip.cast(), len, header.pointer().cast(), 20) == 0 }
}
