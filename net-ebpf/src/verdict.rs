//! Obeying a verdict: count it, tell the agent of some that are dropped, and let them pass instead in observe mode.

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    helpers::generated::bpf_xdp_load_bytes,
    programs::XdpContext,
};
use net_common::{
    abi::{DROP_FRAME, DropEvent, GuardSettings, Trial},
    verdict::{Reason, Verdict},
};

use crate::{
    limit,
    maps::{COUNTERS, DROP_EVENTS, EVENT_LIMITS},
    packet::{Context, forget_in, up_to},
    policy, watch,
};

/// A verdict as a stage with global linkage returns it, or [`HANDED_ON`].
pub type Word = u32;

/// What a stage returns instead of a verdict: the next one is to judge the packet. Stages are called one after the other
/// and not one by the other, since their stacks add up.
pub const HANDED_ON: Word = u32::MAX;

const REASON: u32 = 0xff;
const OBSERVED: u32 = 1 << 16;
const MARK: u32 = 1 << 17;
const SHARE_SHIFT: u32 = 24;

const _: () = assert!(Reason::COUNT <= REASON && size_of::<Trial>() == 16);

/// Counts one packet under `reason`.
#[inline(always)]
pub fn count(reason: Reason) {
    add(reason as u32);
}

#[inline(always)]
fn add(entry: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(entry) {
        // SAFETY: this CPU's own counter; a nested increment can at worst be lost.
        unsafe { *counter += 1 };
    }
}

/// The word of a verdict.
#[inline(always)]
pub fn word(verdict: impl Into<Verdict>) -> Word {
    let verdict: Verdict = verdict.into();
    let observed = if verdict.observed { OBSERVED } else { 0 };
    verdict.reason as u32 | observed
}

/// The verdict of a rule of a guard that drops: only observed unless its flag to enforce is set.
#[inline(always)]
pub fn ruled(settings: &GuardSettings, enforce: u32, reason: Reason) -> Word {
    word(Verdict {
        reason,
        observed: settings.flags & enforce == 0,
    })
}

/// [`ruled`], of a packet that a share refused ([`net_common::sources::Share`]).
#[inline(always)]
pub fn refused(settings: &GuardSettings, enforce: u32, reason: Reason, share: u32) -> Word {
    ruled(settings, enforce, reason) | share << SHARE_SHIFT
}

/// Whether a word is of a verdict that its guard only observes.
#[inline(always)]
pub fn is_observed(word: Word) -> bool {
    word & OBSERVED != 0 && drops(word)
}

/// Whether a word is of a verdict that does something to the packet: drops it, or answers.
#[inline(always)]
pub fn decides(word: Word) -> bool {
    word & OBSERVED == 0 && (drops(word) || is(word, Reason::CookieSent))
}

/// The word with a mark: the segment is a SYN-ACK.
#[inline(always)]
pub fn marked(word: Word) -> Word {
    word | MARK
}

/// Whether a word is [`marked`].
#[inline(always)]
pub fn is_marked(word: Word) -> bool {
    word & MARK != 0
}

/// Whether a word is of a verdict that drops.
#[inline(always)]
pub fn drops(word: Word) -> bool {
    Reason::drops(word & REASON)
}

/// Whether a word is of this reason.
#[inline(always)]
pub fn is(word: Word, reason: Reason) -> bool {
    word & REASON == reason as u32
}

/// Counts the verdict and turns it into XDP's return code.
#[inline(always)]
pub fn obey(ctx: &XdpContext, word: Word) -> xdp_action::Type {
    let word = forget_in(word);
    let reason = word & REASON;
    let drops = Reason::drops(reason);
    // A reply was written already, or its maker found observe mode itself; a drop has touched nothing.
    let observed = word & OBSERVED != 0 || drops && observing();
    if !is_trial(ctx, word, observed) {
        record(ctx, word, observed);
        if watch::is_active() {
            watch::tell(ctx.ctx, reason, observed.into(), word >> SHARE_SHIFT);
        }
    }
    if observed {
        xdp_action::XDP_PASS
    } else if drops {
        xdp_action::XDP_DROP
    } else if reason == Reason::CookieSent as u32 {
        xdp_action::XDP_TX
    } else {
        xdp_action::XDP_PASS
    }
}

/// Counts the verdict of a guard that only observes, beside the packet's own.
#[inline(always)]
pub fn observe(ctx: &XdpContext, word: Word) {
    if trial(ctx).is_none() {
        record(ctx, word, true);
    }
}

#[inline(always)]
fn record(ctx: &XdpContext, word: Word, observed: bool) {
    let reason = word & REASON;
    add(if observed {
        Reason::COUNT + reason
    } else {
        reason
    });
    if Reason::drops(reason) {
        tell_drop(ctx.ctx, reason, observed.into(), word >> SHARE_SHIFT);
    }
}

#[inline(always)]
fn observing() -> bool {
    // Without settings nothing is enforced: fails open.
    policy::settings().is_none_or(policy::observes)
}

/// The trial that a frame is, if it is the agent's own, who asks what becomes of it; see [`Trial`].
#[inline(always)]
pub fn trial(ctx: &XdpContext) -> Option<*mut u64> {
    let (meta, end) = (ctx.metadata(), ctx.metadata_end());
    if meta + size_of::<Trial>() > end {
        return None;
    }
    let settings = policy::guards()?;
    let trial = meta as *mut u64;
    // SAFETY: it was shown to lie before the packet.
    let secret = unsafe { trial.read_volatile() };
    (settings.trial != 0 && secret == settings.trial).then_some(trial)
}

/// Answers a trial. False for any other frame.
#[inline(always)]
fn is_trial(ctx: &XdpContext, word: Word, observed: bool) -> bool {
    let Some(trial) = trial(ctx) else {
        return false;
    };
    let share = u64::from(word >> SHARE_SHIFT) << Trial::SHARE_SHIFT;
    let observed = if observed { Trial::OBSERVED } else { 0 };
    let outcome = u64::from(word & REASON) | share | observed;
    // SAFETY: a trial has two words.
    unsafe { trial.wrapping_add(1).write_volatile(outcome) };
    true
}

/// Writes a field of a reserved event.
macro_rules! put {
    ($event:expr, $field:ident: $ty:ty = $value:expr) => {
        let at: *mut $ty = $event
            .wrapping_byte_add(core::mem::offset_of!(DropEvent, $field))
            .cast();
        // SAFETY: the event is reserved, of its type's size and alignment, and nobody else's until submitted.
        unsafe { at.write($value) };
    };
}

/// Tells the agent of a packet that is dropped, or would be, if its reason has not had its share.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_drop(ctx: *mut xdp_md, reason: u32, observed: u32, share: u32) -> i32 {
    let (Some(settings), Some(cell)) = (policy::guards(), EVENT_LIMITS.get_ptr_mut(reason)) else {
        return 0;
    };
    let rate = &settings.events;
    if rate.interval_ns == 0 {
        return 0;
    }
    let now = limit::now();
    if !limit::take(cell, now, rate.interval_ns, rate.tolerance_ns) {
        return 0;
    }
    let Some(mut entry) = DROP_EVENTS.reserve::<DropEvent>(0) else {
        count(Reason::DropEventLost);
        return 0;
    };
    fill(entry.as_mut_ptr(), ctx, now, (reason, observed, share));
    entry.submit(0);
    count(Reason::DropEventSent);
    0
}

/// Fills a reserved event with a packet and its verdict: reason, whether it was only observed, share.
#[inline(always)]
pub fn fill(event: *mut DropEvent, ctx: *mut xdp_md, time_ns: u64, verdict: (u32, u32, u32)) {
    let (reason, observed, share) = verdict;
    let context = XdpContext::new(ctx);
    let total = context.total_len();
    put!(event, time_ns: u64 = time_ns);
    put!(event, reason: u32 = reason);
    put!(event, ifindex: u32 = context.ifindex());
    put!(event, len: u32 = total as u32);
    put!(event, captured: u16 = 0);
    put!(event, observed: u8 = observed as u8);
    put!(event, share: u8 = share as u8);
    let frame: *mut u8 = event
        .wrapping_byte_add(core::mem::offset_of!(DropEvent, frame))
        .cast();
    let len = up_to::<{ DROP_FRAME as u32 }>(total);
    // SAFETY: `frame` has DROP_FRAME octets, and `len` is no more.
    if len > 0 && unsafe { bpf_xdp_load_bytes(ctx, 0, frame.cast(), len) } == 0 {
        put!(event, captured: u16 = len as u16);
    }
}
