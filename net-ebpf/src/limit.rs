//! GCRA on shared memory: one compare-and-swap an event that conforms, a read for one that does not.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use net_common::gcra;

/// Turns before a contended cell counts as exhausted: then others are taking its events anyway.
const TURNS: usize = 4;

/// The kernel's coarse monotonic clock, nanoseconds; steps of one tick (1 to 10 ms), which every
/// tolerance must exceed. Costs a tenth of the fine clock. Linux 5.11.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments, no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Takes one event from the cell, if it conforms. `cell` points to a map's value.
#[inline(always)]
pub fn take(cell: *mut u64, now: u64, interval: u64, tolerance: u64) -> bool {
    gcra_take(cell, now, interval, tolerance) != 0
}

/// A function of its own with global linkage: the verifier checks its turns once, and its result is one state.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn gcra_take(cell: *mut u64, now: u64, interval: u64, tolerance: u64) -> u32 {
    if cell.is_null() {
        return 0;
    }
    for _ in 0..TURNS {
        // SAFETY: callers pass a live map value; the volatile read keeps each turn's own.
        let tat = unsafe { cell.read_volatile() };
        let Some(next) = gcra::conform(tat, now, interval, tolerance) else {
            return 0;
        };
        if compare_and_swap(cell, tat, next) == tat {
            return 1;
        }
    }
    0
}

/// Stores `new` if `old` is there; returns what was. `core::sync::atomic` has no compare-and-swap on this target; the instruction set has (v3).
#[inline(always)]
pub fn compare_and_swap(cell: *mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: callers pass a live, eight-octet aligned map value.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({p} + 0, r0, {n})",
            inout("r0") old => found, p = in(reg) cell, n = in(reg) new, options(nostack)
        );
    }
    found
}

/// Sets bits in a shared word.
#[inline(always)]
pub fn set_bits(word: *mut u64, bits: u64) {
    // SAFETY: callers pass a live map value.
    if unsafe { word.read_volatile() } & bits == bits {
        return;
    }
    // SAFETY: as above; the instruction is atomic.
    unsafe {
        core::arch::asm!("lock *(u64 *)({p} + 0) |= {b}", p = in(reg) word, b = in(reg) bits, options(nostack));
    }
}

/// [`set_bits`] of a word of 32 bits.
#[inline(always)]
pub fn set_bits_32(word: *mut u32, bits: u32) {
    // SAFETY: callers pass a live map value.
    if unsafe { word.read_volatile() } & bits == bits {
        return;
    }
    // SAFETY: as above; the instruction is atomic.
    unsafe {
        core::arch::asm!("lock *(u32 *)({p} + 0) |= {b}", p = in(reg) word, b = in(wreg) bits, options(nostack));
    }
}
