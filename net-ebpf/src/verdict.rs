//! Obeying a verdict: count it, and let it pass instead in observe mode.

use aya_ebpf::bindings::xdp_action;
use net_common::{
    abi::Settings,
    verdict::{Action, Reason, Verdict},
};

use crate::maps::{COUNTERS, SETTINGS};

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

/// Counts the verdict and turns it into XDP's return code.
#[inline(always)]
pub fn obey(verdict: Verdict) -> xdp_action::Type {
    let reason = verdict.reason;
    let action = reason.action();
    // A reply was written already, or its maker found observe mode itself; a drop has touched nothing.
    if verdict.observed || action == Action::Drop && observing() {
        add(Reason::COUNT + reason as u32);
        return xdp_action::XDP_PASS;
    }
    count(reason);
    match action {
        Action::Drop => xdp_action::XDP_DROP,
        Action::Reply => xdp_action::XDP_TX,
        Action::Pass | Action::Note => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn observing() -> bool {
    // Without settings nothing is enforced: fails open.
    SETTINGS
        .get(0)
        .is_none_or(|s| s.flags & Settings::OBSERVE != 0)
}
