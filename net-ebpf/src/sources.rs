//! The table of known sources, and the shares of all: what `net_common::sources` describes, on shared memory.

use net_common::{
    abi::{AddrWords, CLASSES, Class, ClassState, LIMIT_CELLS, Limit, NEWCOMER_CELLS, SOURCE_WAYS},
    gcra,
    sources::{self, Newcomer, Share, Tier},
    spread::{Span, limit_cell},
    units::Version,
    verdict::Reason,
};

use crate::{
    address::{halves, kind, version, whole},
    limit::{self, compare_and_swap},
    maps::{CLASS_STATE, LIMIT_CELLS as LIMITS, NEWCOMERS, SOURCE_STATE, SOURCES},
    packet::{below, forget_in},
    policy,
    verdict::count,
};

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

/// Whose shares a packet takes.
#[derive(Clone, Copy)]
pub enum As {
    /// Its source's, as known as that is.
    Itself,
    /// Its source's, of which nothing is known here.
    Stranger,
    /// Those of a source of this tier.
    Known(Tier),
    /// The total of this tier alone.
    TotalOf(Tier),
}

/// Takes a packet of a class from the shares of an address. The [`Share`] that refused it, none when it was within all.
#[inline(always)]
pub fn admit(class: Class, version: Version, addr: &AddrWords, who: As) -> u32 {
    let (high, low) = halves(addr);
    let who = match who {
        As::Itself => LOOK_UP,
        As::Stranger => 0,
        As::Known(tier) => tier as u32,
        As::TotalOf(tier) => tier as u32 | TOTAL_ONLY,
    };
    let kind = kind(version) | (class as u32) << NUMBER_SHIFT | who << (2 * NUMBER_SHIFT);
    source_limit(kind, high, low)
}

/// Beside a tier: it is to be looked up.
const LOOK_UP: u32 = 1 << 2;
/// Beside a tier: only its total is asked.
const TOTAL_ONLY: u32 = 1 << 3;

/// A source's place: first word of its set, and its fingerprint. The upper half of an address is enough.
#[inline(always)]
fn find(kind: u32, high: u64) -> Option<(*mut u64, sources::Key)> {
    let seed = policy::settings()?.hash_seed;
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

/// Turns before a set that others write to counts as full.
const TURNS: usize = 2;

/// Takes the place in a set that is held worst, if the tier is worth it: its way, and whether it was somebody's.
#[inline(always)]
fn take_place(set: *mut u64, key: sources::Key, reached: Tier, now_s: u32) -> Option<(u32, bool)> {
    // As hold × 8 + way.
    let mut worst = u32::MAX;
    for way in 0..SOURCE_WAYS {
        // SAFETY: a set has so many places.
        let place = unsafe { set.wrapping_add(way).read_volatile() };
        let score = sources::hold(place, now_s) << 3 | way as u32;
        worst = forget_in(if score < worst { score } else { worst });
    }
    let (hold, way) = (worst >> 3, worst & 7);
    if !sources::takes(reached, hold) {
        return None;
    }
    let place = at(set, way);
    // SAFETY: a live map value.
    let old = unsafe { place.read_volatile() };
    let new = sources::place(key.print, reached, now_s);
    (compare_and_swap(place, old, new) == old).then_some((way, hold != 0))
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
    let Some((way, displaced)) = (0..TURNS).find_map(|_| take_place(set, key, reached, now_s))
    else {
        count(Reason::SourceTableFull);
        return 0;
    };
    let index = sources::state_index(key.set, way);
    if let Some(state) = SOURCE_STATE.get_ptr_mut(index) {
        let words: *mut u64 = state.cast();
        // SAFETY: a live map value. Its words one by one, or the compiler would call memset.
        unsafe { words.write_volatile(0) };
        // SAFETY: as above; it has two.
        unsafe { words.wrapping_add(1).write_volatile(0) };
    }
    count(Reason::SourceAdmitted);
    if displaced {
        count(Reason::SourceReplaced);
    }
    index + 1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_limit(kind: u32, high: u64, low: u64) -> u32 {
    // Something of our own is missing: passes.
    let refused = judge(kind, high, low).unwrap_or(Share::None);
    match refused {
        Share::None => {}
        Share::Host => count(Reason::LimitHost),
        Share::Prefix => count(Reason::LimitPrefix),
        Share::Pool => count(Reason::LimitPool),
        Share::Total => count(Reason::LimitGlobal),
    }
    refused as u32
}

#[inline(always)]
fn judge(kind: u32, high: u64, low: u64) -> Option<Share> {
    let class = kind >> NUMBER_SHIFT & 0xff;
    let limits = policy::limits(class)?;
    let state = CLASS_STATE.get_ptr_mut(class)?;
    let seed = policy::settings()?.hash_seed;
    let now = limit::now();
    let who = kind >> (2 * NUMBER_SHIFT);
    let mut tier = who & 3;
    if who & LOOK_UP != 0 {
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
            return Some(Share::Pool);
        }
    }
    if who & TOTAL_ONLY == 0 {
        let region = (tier.total() as u32 * CLASSES + class) * LIMIT_CELLS;
        let take_cell = |span, limit: &Limit| -> bool {
            let cell = region + limit_cell(class, span, version(kind), &whole(high, low), seed);
            LIMITS
                .get_ptr_mut(cell)
                .is_none_or(|cell| take(cell, now, limit))
        };
        if !take_cell(Span::Host, &limits.host) {
            return Some(Share::Host);
        }
        if !take_cell(Span::Prefix, &limits.prefix)
            || version(kind) == Version::V6 && !take_cell(Span::Site, &limits.site)
        {
            return Some(Share::Prefix);
        }
    }
    let (all, share) = match tier {
        Tier::Unseen => (pool, Share::Pool),
        Tier::Steady => (&limits.steady, Share::Total),
        Tier::Asked | Tier::Proven => (&limits.proven, Share::Total),
    };
    if !take(total, now, all) {
        return Some(share);
    }
    // What is counted as of a stranger tells nothing of its source.
    if tier == Tier::Unseen && who & LOOK_UP != 0 {
        source_newcomer(kind, high);
    }
    Some(Share::None)
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
    let Some(all) = NEWCOMERS.get_ptr_mut(NEWCOMER_CELLS) else {
        return 0;
    };
    let now = limit::now();
    if !take(all, now, &sources::NEWCOMERS) {
        return 0;
    }
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
