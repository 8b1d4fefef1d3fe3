//! Connections of sources that have proved themselves: a limit of new ones, counted when the handshake is complete and
//! enforced at the SYN, and one of those that are open. A forged SYN counts for nobody.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_ktime_get_ns, programs::XdpContext};
use net_common::{
    abi::{AddrWords, GuardSettings, SourceState},
    parse::{self, Frame, Header, Packet},
    sources::Tier,
    units::{
        Version,
        tcp_flags::{ACK, RST, SYN},
    },
    verdict::Reason,
};

use crate::{
    address::is_own,
    ip::comes_from_us,
    limit,
    maps::SOURCE_STATE,
    packet::{View, unpack},
    policy, sources,
    verdict::{HANDED_ON, Word, ruled},
};

/// What became of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The peer opened it.
    Accepted,
    /// This host opened it.
    Connected,
    /// It is over.
    Ended,
}

/// Notes that a connection of this namespace was established, or ended.
#[inline(always)]
pub fn changed(version: Version, peer: &AddrWords, own: &AddrWords, change: Change) {
    let Some(settings) = policy::guards() else {
        return;
    };
    if !is_own(version, own) {
        return;
    }
    if change == Change::Ended {
        if settings.open_connections != 0
            && let Some(open) = sources::state(version, peer).and_then(open)
            // SAFETY: a live map value.
            && unsafe { open.read_volatile() } != 0
        {
            add(open, -1);
        }
        return;
    }
    // SAFETY: no arguments, no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(state) = sources::reach(version, peer, Tier::Proven, now) else {
        return;
    };
    let rate = &settings.connections;
    if change == Change::Accepted
        && rate.interval_ns != 0
        && let Some(state) = SOURCE_STATE.get_ptr_mut(state)
    {
        // SAFETY: a live map value.
        let tat = unsafe { &raw mut (*state).tat_ns };
        // One beyond the limit is open already; the next SYN finds the limit reached.
        limit::take(tat, now, rate.interval_ns, rate.tolerance_ns);
    }
    if settings.open_connections != 0
        && let Some(open) = open(state)
    {
        add(open, 1);
    }
}

#[inline(always)]
fn open(state: u32) -> Option<*mut u32> {
    let state: *mut SourceState = SOURCE_STATE.get_ptr_mut(state)?;
    // SAFETY: a live map value.
    Some(unsafe { &raw mut (*state).open })
}

#[inline(always)]
fn add(count: *mut u32, change: i32) {
    // SAFETY: callers pass a live map value; the instruction is atomic.
    unsafe {
        core::arch::asm!("lock *(u32 *)({p} + 0) += {c}", p = in(reg) count, c = in(reg) i64::from(change), options(nostack));
    }
}

/// Whether a packet is a SYN.
#[inline(always)]
pub fn is_syn(ctx: &XdpContext, packet: &Packet) -> bool {
    View(ctx)
        .header::<20>(packet.l4)
        .is_some_and(|tcp| tcp.octet::<13>() & (SYN | ACK | RST) == SYN)
}

/// The guard of SYNs: whether one came from outside at all, and whether its source may open another connection.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn syn_guard(ctx: *mut xdp_md, place: u32) -> Word {
    let ctx = XdpContext::new(ctx);
    on_syn(&ctx, &unpack(place, 0, 0, 0)).unwrap_or(HANDED_ON)
}

#[inline(always)]
fn on_syn(ctx: &XdpContext, packet: &Packet) -> Option<Word> {
    let settings = policy::guards()?;
    let (src, dst) = parse::addresses(&View(ctx), packet)?;
    let version = packet.version;
    // One of a packet to itself is for the rules of TCP (R-TCP-3).
    let itself = src[0] == dst[0] && src[1] == dst[1] && src[2] == dst[2] && src[3] == dst[3];
    if settings.flags & GuardSettings::IP != 0
        && !itself
        && comes_from_us(settings, version, &src, &dst)
    {
        let enforce = GuardSettings::IP_ENFORCE;
        return Some(ruled(settings, enforce, Reason::SourceOwn));
    }
    if settings.flags & GuardSettings::TCP == 0 {
        return None;
    }
    let reason = refusal(settings, version, &src)?;
    let enforce = GuardSettings::TCP_ENFORCE;
    is_own(version, &dst).then(|| ruled(settings, enforce, reason))
}

/// Why a source may not open another connection now, if it may not.
#[inline(always)]
fn refusal(settings: &GuardSettings, version: Version, src: &AddrWords) -> Option<Reason> {
    let rate = &settings.connections;
    if rate.interval_ns == 0 && settings.open_connections == 0 {
        return None;
    }
    let state = SOURCE_STATE.get_ptr_mut(sources::state(version, src)?)?;
    // SAFETY: a live map value; what other CPUs write meanwhile is one word each.
    let SourceState {
        tat_ns: tat, open, ..
    } = unsafe { *state };
    if rate.interval_ns != 0 {
        // The clock that the state was written by: the coarse one is up to a tick behind, and a burst would be one
        // connection short until it has caught up.
        // SAFETY: no arguments, no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if tat > now.saturating_add(rate.tolerance_ns) {
            return Some(Reason::NewConnectionLimit);
        }
    }
    if settings.open_connections != 0 && open as i32 >= settings.open_connections as i32 {
        return Some(Reason::OpenConnectionLimit);
    }
    None
}
