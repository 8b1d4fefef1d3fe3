//! Limits per source that survive spoofing: who is known, and which shares a packet must find.
//!
//! A packet's source proves nothing, so no limit may remember whatever address it reads. Sources are of four tiers:
//!
//! - *Unseen*: nothing is known. Their shares are cells that addresses are hashed to, without keys, and one pool for all
//!   of them together.
//! - *Steady*: passed the pool in two different seconds, a minute apart at most. Whoever floods from random addresses does not send
//!   from the same one again; whoever cycles through a few does, which is why this tier has a total of its own.
//! - *Asked*: this host sent it a question lately (an echo request; UDP to a port whose answers are limited).
//! - *Proven*: completed a TCP handshake with this host. A place gives a share of one's own and no more, so one proof
//!   whitelists nobody (R-SYN-13).
//!
//! Known sources have places in a table of [`SOURCE_SETS`] sets of [`SOURCE_WAYS`], 65,536 in all, in 512 KiB whatever
//! comes. IPv4 sources have one each, IPv6 sources one for a /64, which is what a single host can prove all of.
//!
//! # Error bounds
//! - An address, prefix or site never exceeds its limit by more than its burst: cells only ever are shared, which passes
//!   less. A source that becomes known, or is forgotten, begins a new share, so it may have two bursts.
//! - A place is told by 29 bits: of sources that have none, one in 2^29 / 8 = 67 million is taken for a known one, and
//!   shares with it.
//! - n known sources are Poisson distributed over the sets. Of 16,384 one in 6,800 finds its set full, of 32,768 one in
//!   120, of 65,536 one in 7. Who finds no place goes on as unseen, and is counted.
//! - A source displaces others when those were not seen for their tier's life ([`Tier::life_s`]); one that proves itself
//!   also displaces those of lower tiers, and proven ones that were not seen for two minutes. So no flood, from however many
//!   addresses, takes the place of a source that sends now and then, and who owns many addresses keeps the table for two
//!   minutes at most.
//! - Newcomers are remembered at 200/s, whatever comes ([`NEWCOMERS`]), and steady places end after two minutes: spoofed
//!   sources hold 12,000 at most.
//! - Each class has 16,384 cells for each of the three totals. A source has two of them (three with IPv6), and so has
//!   each other one: with n others sending, one of its cells is shared with probability 4 n / 16,384 (9 n). Under a flood
//!   from random addresses the cells of the unseen are all shared, and what is left for a newcomer is its part of the pool,
//!   pool rate / flood rate; the known do not notice.

use crate::{
    abi::{AddrWords, Limit, NEWCOMER_CELLS, SOURCE_SETS, SOURCE_WAYS},
    spread::mix,
    units::Version,
};

/// What is known of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Tier {
    /// Nothing.
    Unseen,
    /// It has been seen for a while.
    Steady,
    /// It was asked for something.
    Asked,
    /// It has proved itself.
    Proven,
}

impl Tier {
    /// The tier of a number; the highest for one that is none.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Unseen,
            1 => Self::Steady,
            2 => Self::Asked,
            _ => Self::Proven,
        }
    }

    /// How long a source keeps its place without being seen (without being asked, for [`Tier::Asked`]), seconds.
    #[inline(always)]
    pub const fn life_s(self) -> u32 {
        match self {
            Self::Unseen => 0,
            Self::Steady => 120,
            Self::Asked => 30,
            Self::Proven => 3600,
        }
    }

    /// Which of the totals of [`crate::abi::ClassState`] it draws from: pool, steady, proven.
    #[inline(always)]
    pub const fn total(self) -> usize {
        match self {
            Self::Unseen => 0,
            Self::Steady => 1,
            Self::Asked | Self::Proven => 2,
        }
    }
}

/// A proven source that was not seen for so long may lose its place to another one that has just proved itself, seconds.
const IDLE_S: u32 = 120;

/// How well a place is held: 0 for a free one, or one that is over.
#[inline(always)]
pub const fn hold(place: u64, now_s: u32) -> u32 {
    match tier(place, now_s) {
        Tier::Unseen => 0,
        Tier::Steady => 1,
        Tier::Asked => 2,
        Tier::Proven if age_s(place, now_s) > IDLE_S => 3,
        Tier::Proven => 4,
    }
}

/// Whether a source that has reached a tier takes a place that is held so well from another one. Whom this host asks
/// may be of somebody else's choice, so it takes free places alone.
#[inline(always)]
pub const fn takes(reached: Tier, hold: u32) -> bool {
    match reached {
        Tier::Proven => hold <= 3,
        _ => hold == 0,
    }
}

/// How many newcomers of all classes are remembered: two of these make a source steady.
pub const NEWCOMERS: Limit = Limit {
    // 200/s, a burst of 200.
    interval_ns: 5_000_000,
    tolerance_ns: 1_000_000_000,
};

/// Which share refused a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Share {
    /// None: nothing was refused by a share.
    None,
    /// What one address may send.
    Host,
    /// What one /24, /64 or /48 may send.
    Prefix,
    /// What all sources not seen before may send together.
    Pool,
    /// What all sources that are as known may send together.
    Total,
}

impl Share {
    /// The share of a number; none for one that is none.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Host,
            2 => Self::Prefix,
            3 => Self::Pool,
            4 => Self::Total,
            _ => Self::None,
        }
    }
}

/// A place is written again for having been seen when it is so old, seconds: rarely enough that CPUs do not fight for it.
pub const RENEW_S: u32 = 8;
/// Least and most time between two packets that make a newcomer steady, whole seconds of [`seconds`]: next to each other
/// they may be any time apart.
const STEADY_AFTER_S: (u32, u32) = (1, 60);

/// Where a source stands in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its set, below [`SOURCE_SETS`].
    pub set: u32,
    /// What tells it from others there: 30 bits, the lowest of them set.
    pub print: u32,
}

/// The key of a source.
#[inline(always)]
pub fn key(version: Version, addr: &AddrWords, seed: u64) -> Key {
    let h = match version {
        Version::V4 => mix(u64::from(addr[0]) ^ seed),
        // The seed's turn keeps a /64 from meeting the address of the same bits.
        Version::V6 => mix((u64::from(addr[0]) | u64::from(addr[1]) << 32) ^ seed.rotate_left(32)),
    };
    Key {
        set: h as u32 & (SOURCE_SETS - 1),
        print: (h >> 34) as u32 | 1,
    }
}

impl Key {
    /// The source's cell among the newcomers, below [`NEWCOMER_CELLS`].
    #[inline(always)]
    pub const fn newcomer_cell(self) -> u32 {
        (self.set | self.print >> 1 << 13) & (NEWCOMER_CELLS - 1)
    }
}

/// Index of the state of a place.
#[inline(always)]
pub const fn state_index(set: u32, way: u32) -> u32 {
    set * SOURCE_WAYS as u32 + way
}

/// What stands in a place: fingerprint, tier, and when the source was seen last.
#[inline(always)]
pub const fn place(print: u32, tier: Tier, now_s: u32) -> u64 {
    (print as u64) << 34 | (tier as u64) << 32 | now_s as u64
}

/// Whether a place is this source's, be it over or not.
#[inline(always)]
pub const fn is_of(place: u64, print: u32) -> bool {
    place >> 34 == print as u64
}

/// The tier of a place; unseen when its time is over, or when it is free.
#[inline(always)]
pub const fn tier(place: u64, now_s: u32) -> Tier {
    let tier = Tier::from_number((place >> 32) as u32 & 3);
    // Another CPU's clock may be a tick ahead.
    if age_s(place, now_s) > tier.life_s() {
        Tier::Unseen
    } else {
        tier
    }
}

#[inline(always)]
const fn age_s(place: u64, now_s: u32) -> u32 {
    now_s.saturating_sub(place as u32)
}

/// What the place of a source that was just seen becomes, if it is to be written at all.
#[inline(always)]
pub fn renewed(place: u64, now_s: u32) -> Option<u64> {
    let tier = tier(place, now_s);
    let renews = matches!(tier, Tier::Steady | Tier::Proven);
    if renews && age_s(place, now_s) >= RENEW_S {
        Some(place & !u64::from(u32::MAX) | u64::from(now_s))
    } else {
        None
    }
}

/// What the place of a source becomes that has reached a tier: never a lower one than it has.
#[inline(always)]
pub fn raised(old: u64, print: u32, reached: Tier, now_s: u32) -> Option<u64> {
    let had = tier(old, now_s);
    if had > reached {
        return None;
    }
    if had == reached && age_s(old, now_s) < RENEW_S {
        return None;
    }
    Some(place(print, reached, now_s))
}

/// What is known of a newcomer, by its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newcomer {
    /// Seen too short a time ago: nothing changes.
    Early,
    /// To be remembered: what is to stand in the cell.
    Noted(u64),
    /// Seen for a while: it is steady.
    Steady,
}

/// Judges a source that passed the pool, by what stands in its cell.
#[inline(always)]
pub fn newcomer(cell: u64, print: u32, now_s: u32) -> Newcomer {
    let age = now_s.saturating_sub(cell as u32);
    let (least, most) = STEADY_AFTER_S;
    if cell >> 32 != u64::from(print) || age > most {
        Newcomer::Noted(u64::from(print) << 32 | u64::from(now_s))
    } else if age < least {
        Newcomer::Early
    } else {
        Newcomer::Steady
    }
}

/// Seconds of a clock in nanoseconds, from 1 on.
#[inline(always)]
pub const fn seconds(now_ns: u64) -> u32 {
    // 2^30 ns: near enough to a second, and no division.
    (now_ns >> 30) as u32 + 1
}

#[cfg(test)]
mod tests;
