//! The table of known sources, and the shares of all: what `net_common::sources` describes, on shared memory.

use net_common::{
    abi::{AddrWords, Class, ClassState, Limit, SOURCE_WAYS},
    gcra,
    sources::{self, Newcomer, Tier},
    spread::{Span, limit_cell},
    units::Version,
    verdict::Reason,
};

use crate::{
    address::{halves, kind, version, whole},
    limit::{self, compare_and_swap},
    maps::{CLASS_LIMITS, CLASS_STATE, LIMIT_CELLS, NEWCOMERS, SETTINGS, SOURCE_STATE, SOURCES},
    packet::{below, forget_in},
    verdict::count,
};

/// Half of `LIMIT_CELLS` that is the known sources'.
const KNOWN_HALF: u32 = net_common::abi::LIMIT_CELLS;
/// Where the functions with global linkage have the tier, or the class, in their first argument.
const NUMBER_SHIFT: u32 = 8;

/// What is known of a source. That it was seen is noted.
#[inline(always)]
pub fn tier(version: Version, addr: &AddrWords) -> Tier {
    Tier::from_number(source_tier(kind(version), halves(addr).0))
}

/// Notes that a source reached a tier, at a time of the monotonic clock (tracepoints have no coarse one). Returns the index of its state, if there was a place for it.
#[inline(always)]
pub fn reach(version: Version, addr: &AddrWords, tier: Tier, now: u64) -> Option<u32> {
    source_reach(
        kind(version) | (tier as u32) << NUMBER_SHIFT,
        halves(addr).0,
        now,
    )
    .checked_sub(1)
}

/// The index of a source's state, if it has a place.
#[inline(always)]
pub fn state(version: Version, addr: &AddrWords) -> Option<u32> {
    source_state(kind(version), halves(addr).0).checked_sub(1)
}

/// Takes a packet of a class from its shares: whether it was within them. Its tier is `known`, or what its source is
/// known for, whichever is more.
#[inline(always)]
pub fn admit(class: Class, version: Version, addr: &AddrWords, known: Tier) -> bool {
    let (high, low) = halves(addr);
    let known = (known as u32) << (2 * NUMBER_SHIFT);
    source_limit(
        kind(version) | (class as u32) << NUMBER_SHIFT | known,
        high,
        low,
    ) != 0
}

/// A source's place: first word of its set, and its fingerprint. The upper half of an address is enough.
#[inline(always)]
fn find(kind: u32, high: u64) -> Option<(*mut u64, sources::Key)> {
    let seed = SETTINGS.get(0)?.hash_seed;
    let key = sources::key(version(kind), &whole(high, 0), seed);
    Some((SOURCES.get_ptr_mut(key.set)?.cast(), key))
}

/// The way of a source in its set, and what stands there.
#[inline(always)]
fn way_of(set: *mut u64, print: u32) -> Option<(u32, u64)> {
    for way in 0..SOURCE_WAYS {
        // SAFETY: a set has so many places.
        let place = unsafe { set.wrapping_add(way).read_volatile() };
        if sources::is_of(place, print) {
            return Some((way as u32, place));
        }
    }
    None
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_tier(kind: u32, high: u64) -> u32 {
    let Some((set, key)) = find(kind, high) else {
        return 0;
    };
    let Some((way, place)) = way_of(set, key.print) else {
        return 0;
    };
    let now_s = sources::seconds(limit::now());
    if let Some(renewed) = sources::renewed(place, now_s) {
        compare_and_swap(at(set, way), place, renewed);
    }
    sources::tier(place, now_s) as u32
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_state(kind: u32, high: u64) -> u32 {
    let Some((set, key)) = find(kind, high) else {
        return 0;
    };
    way_of(set, key.print).map_or(0, |(way, _)| sources::state_index(key.set, way) + 1)
}

/// The place of a way; the mask is for the verifier.
#[inline(always)]
fn at(set: *mut u64, way: u32) -> *mut u64 {
    set.wrapping_add(below::<{ SOURCE_WAYS as i32 - 1 }>(forget_in(way)))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_reach(kind: u32, high: u64, now: u64) -> u32 {
    let Some((set, key)) = find(kind, high) else {
        return 0;
    };
    let reached = Tier::from_number(kind >> NUMBER_SHIFT & 3);
    let now_s = sources::seconds(now);
    if let Some((way, place)) = way_of(set, key.print) {
        if let Some(raised) = sources::raised(place, key.print, reached, now_s) {
            compare_and_swap(at(set, way), place, raised);
        }
        return sources::state_index(key.set, way) + 1;
    }
    // The way of the lowest tier, as tier × 8 + way.
    let mut lowest = u32::MAX;
    for way in 0..SOURCE_WAYS {
        // SAFETY: a set has so many places.
        let place = unsafe { set.wrapping_add(way).read_volatile() };
        let score = (sources::tier(place, now_s) as u32) << 3 | way as u32;
        lowest = forget_in(if score < lowest { score } else { lowest });
    }
    if lowest >> 3 >= reached as u32 {
        count(Reason::SourceTableFull);
        return 0;
    }
    let way = lowest & 7;
    let place = at(set, way);
    // SAFETY: a live map value.
    let old = unsafe { place.read_volatile() };
    let new = sources::place(key.print, reached, now_s);
    if compare_and_swap(place, old, new) != old {
        // Somebody else has just got it; the next packet tries again.
        return 0;
    }
    let index = sources::state_index(key.set, way);
    if let Some(state) = SOURCE_STATE.get_ptr_mut(index) {
        let words: *mut u64 = state.cast();
        // SAFETY: a live map value. Its words one by one, or the compiler would call memset.
        unsafe { words.write_volatile(0) };
        // SAFETY: as above; it has two.
        unsafe { words.wrapping_add(1).write_volatile(0) };
    }
    count(Reason::SourceAdmitted);
    if lowest >> 3 != 0 {
        count(Reason::SourceReplaced);
    }
    index + 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_limit(kind: u32, high: u64, low: u64) -> u32 {
    // Something of our own is missing: passes.
    judge(kind, high, low).unwrap_or(true).into()
}

#[inline(always)]
fn judge(kind: u32, high: u64, low: u64) -> Option<bool> {
    let class = kind >> NUMBER_SHIFT & 0xff;
    let limits = CLASS_LIMITS.get(class)?;
    let state = CLASS_STATE.get_ptr_mut(class)?;
    let seed = SETTINGS.get(0)?.hash_seed;
    let now = limit::now();
    let mut tier = kind >> (2 * NUMBER_SHIFT) & 3;
    if tier == 0 {
        tier = forget_in(source_tier(kind, high)) & 3;
    }
    let tier = Tier::from_number(tier);
    let total = total(state, tier);
    let pool = &limits.pool;
    if tier == Tier::Unseen && pool.interval_ns != 0 {
        // SAFETY: a live map value.
        let tat = unsafe { total.read_volatile() };
        // What the pool has no room for writes nothing.
        if gcra::conform(tat, now, pool.interval_ns, pool.tolerance_ns).is_none() {
            count(Reason::LimitPool);
            return Some(false);
        }
    }
    let half = if tier == Tier::Unseen { 0 } else { KNOWN_HALF };
    let take_cell = |span, limit: &Limit| -> bool {
        let cell = half + limit_cell(class, span, version(kind), &whole(high, low), seed);
        LIMIT_CELLS
            .get_ptr_mut(cell)
            .is_none_or(|cell| take(cell, now, limit))
    };
    if !take_cell(Span::Host, &limits.host) {
        count(Reason::LimitHost);
        return Some(false);
    }
    if !take_cell(Span::Prefix, &limits.prefix)
        || version(kind) == Version::V6 && !take_cell(Span::Site, &limits.site)
    {
        count(Reason::LimitPrefix);
        return Some(false);
    }
    let (all, refused) = match tier {
        Tier::Unseen => (pool, Reason::LimitPool),
        Tier::Steady => (&limits.steady, Reason::LimitGlobal),
        Tier::Asked | Tier::Proven => (&limits.proven, Reason::LimitGlobal),
    };
    if !take(total, now, all) {
        count(refused);
        return Some(false);
    }
    if tier == Tier::Unseen {
        source_newcomer(kind, high);
    }
    Some(true)
}

/// Which of the totals a tier draws from.
#[inline(always)]
fn total(state: *mut ClassState, tier: Tier) -> *mut u64 {
    let at = below::<3>(forget_in(tier.total() as u32));
    // Four words: three totals and a reserved one.
    state.cast::<u64>().wrapping_add(at)
}

#[inline(always)]
fn take(cell: *mut u64, now: u64, limit: &Limit) -> bool {
    limit.interval_ns == 0 || limit::take(cell, now, limit.interval_ns, limit.tolerance_ns)
}

/// A source that passed the pool: remembered, or found steady.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_newcomer(kind: u32, high: u64) -> i32 {
    let Some((_, key)) = find(kind, high) else {
        return 0;
    };
    let Some(cell) = NEWCOMERS.get_ptr_mut(key.newcomer_cell()) else {
        return 0;
    };
    let now = limit::now();
    let now_s = sources::seconds(now);
    // SAFETY: a live map value; a race forgets one of two newcomers.
    match sources::newcomer(unsafe { cell.read_volatile() }, key.print, now_s) {
        Newcomer::Early => {}
        // SAFETY: as above.
        Newcomer::Noted(value) => unsafe { cell.write_volatile(value) },
        Newcomer::Steady => {
            source_reach(
                kind & 0xff | (Tier::Steady as u32) << NUMBER_SHIFT,
                high,
                now,
            );
        }
    }
    0
}
