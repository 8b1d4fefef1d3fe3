//! The policy: the agent writes it in two generations and turns from one to the other with one word. A packet reads the
//! word once and meets the old policy or the new, whole.

use net_common::abi::{CLASSES, ClassLimits, GuardSettings, NeighborSettings, STALE_NS, Settings};

use crate::maps::{
    CHOSEN, CLASS_LIMITS, GENERATION, GUARD_SETTINGS, HEARTBEAT, NEIGHBOR_SETTINGS, SETTINGS,
};

/// Chooses the generation for this run of a program; every program begins with it. A packet's programs are not
/// interrupted by one another on a CPU; who interrupts a tracepoint leaves it a choice at least as new.
#[inline(always)]
pub fn choose() {
    if let (Some(&generation), Some(chosen)) = (GENERATION.get(0), CHOSEN.get_ptr_mut(0)) {
        // SAFETY: this CPU's own live map value.
        unsafe { *chosen = generation & 1 };
    }
}

#[inline(always)]
fn chosen() -> u32 {
    // SAFETY: this CPU's own live map value.
    CHOSEN.get_ptr(0).map_or(0, |chosen| unsafe { *chosen })
}

/// The settings.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(chosen())
}

/// Those of the guards of IP, ICMP, UDP and TCP.
#[inline(always)]
pub fn guards() -> Option<&'static GuardSettings> {
    GUARD_SETTINGS.get(chosen())
}

/// Those of the guards of ARP and neighbour discovery.
#[inline(always)]
pub fn neighbors() -> Option<&'static NeighborSettings> {
    NEIGHBOR_SETTINGS.get(chosen())
}

/// The limits of a class.
#[inline(always)]
pub fn limits(class: u32) -> Option<&'static ClassLimits> {
    CLASS_LIMITS.get(chosen() * CLASSES + class)
}

/// When the agent was seen alive last, in nanoseconds of the coarse monotonic clock; 0 for never.
#[inline(always)]
pub fn heartbeat() -> u64 {
    HEARTBEAT.get(0).copied().unwrap_or(0)
}

/// Whether the agent was alive at that heartbeat's sight, lately.
#[inline(always)]
pub fn is_alive(heartbeat: u64, now: u64) -> bool {
    heartbeat != 0 && now < heartbeat.saturating_add(STALE_NS)
}

/// Whether the settings let everything pass and only count: in observe mode, and when a change that nobody confirmed has
/// had its time.
#[inline(always)]
pub fn observes(settings: &Settings) -> bool {
    settings.flags & Settings::OBSERVE != 0
        || settings.tentative_until_ns != 0 && crate::limit::now() >= settings.tentative_until_ns
}
