//! Block and allow lists: prefixes of both families, found in the kernel and on the host by the same code.
//!
//! What a hit costs is memory: a packet from one of a million listed sources meets a cold cache (docs/lists.md has the
//! measurements). So IPv4 entries of the block list without an expiry are kept as compactly as they can be and still be
//! exact ([`compact`]); all others, which are fewer or need more room, in hash tables per length in use behind a filter
//! ([`general`]). None of them evicts anything.
//!
//! To the data path a list is a set: whether a live entry covers the source. Which entry that is, the longest, the
//! agent knows, whom the data path tells the source ([`crate::abi::HitLog`]); so neither ids nor counters of a million
//! entries are touched by a flood.

pub mod compact;
pub mod general;

use crate::{
    abi::{AddrWords, ListTable},
    spread::mix,
    units::Version,
};

/// Words of memory that hold a list: a map's values in the kernel, the same mapped in the agent, a `Vec` in tests.
pub trait Words {
    /// The word at an index; None beyond the end.
    fn word(&self, index: u32) -> Option<u64>;
}

/// Words that can be written. There is one writer; readers see each word before or after.
pub trait WordsMut: Words {
    /// Stores a word, behind all that were stored before.
    fn store(&mut self, index: u32, word: u64);
}

/// An address, or the first `len` bits of one with zeros behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// IP version.
    pub version: Version,
    /// The upper half of an IPv6 address; 0 for IPv4.
    pub high: u64,
    /// The lower half of an IPv6 address, or an IPv4 address.
    pub low: u64,
    /// Bits that count: at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// A whole address.
    #[inline(always)]
    pub fn address(version: Version, addr: &AddrWords) -> Self {
        let [a, b, c, d] = addr.map(u32::from_be);
        match version {
            Version::V4 => Self {
                version,
                high: 0,
                low: a.into(),
                len: 32,
            },
            Version::V6 => Self {
                version,
                high: u64::from(a) << 32 | u64::from(b),
                low: u64::from(c) << 32 | u64::from(d),
                len: 128,
            },
        }
    }

    /// Its first `len` bits.
    #[inline(always)]
    pub fn first(self, len: u8) -> Self {
        let (high, low) = match self.version {
            Version::V4 => (0, self.low & ones(len) >> 32),
            Version::V6 if len <= 64 => (self.high & ones(len), 0),
            Version::V6 => (self.high, self.low & ones(len - 64)),
        };
        Self {
            high,
            low,
            len,
            ..self
        }
    }

    /// Whether it holds `other`, an address or a longer prefix.
    pub fn covers(self, other: Self) -> bool {
        self.version == other.version && self.len <= other.len && other.first(self.len) == self
    }

    /// Version and length, never 0: the low half of an entry's last word.
    #[inline(always)]
    fn kind(self) -> u64 {
        1 + u64::from(self.len) + 256 * u64::from(self.version.number())
    }

    #[inline(always)]
    fn hash(self, seed: u64) -> u64 {
        mix(mix(self.high ^ seed) ^ self.low ^ self.kind() << 48)
    }
}

/// A word whose first `len` bits are set; `len` is at most 64.
#[inline(always)]
fn ones(len: u8) -> u64 {
    if len == 0 {
        0
    } else {
        u64::MAX << ((64 - u32::from(len)) & 63)
    }
}

/// When an entry ends: a time of the kernel's coarse monotonic clock in units of 2^20 ns (about a millisecond), which
/// 48 bits hold for longer than any host runs. None for never.
pub type Expiry = Option<u64>;

/// The unit of [`Expiry`]: as many bits of a time in nanoseconds are dropped.
pub const EXPIRY_SHIFT: u32 = 20;

/// End of the lengths in a [`ListTable`].
pub const NO_LENGTH: u8 = u8::MAX;

/// Whether the general pieces of a list cover an address: calls with each length that entries of its family have, the
/// longest first, until one has it.
#[inline(always)]
pub fn find_general(
    table: &ListTable,
    version: Version,
    displaced: bool,
    has: impl Fn(u8) -> bool,
) -> bool {
    if version == Version::V6 {
        return some_length(&table.v6, 128, has);
    }
    some_length(&table.v4, 32, &has) || displaced && some_length(&table.v4_displaced, 32, &has)
}

/// Whether an address's prefix of a length is a live entry of a piece.
#[inline(always)]
pub fn has<W: Words>(
    piece: &W,
    place: general::Place,
    prefix: Prefix,
    now: impl Fn() -> u64,
) -> bool {
    general::may_hold(piece, place)
        && general::find(piece, place, prefix)
            .is_some_and(|last| !general::ends(last) || !general::is_over(last, now()))
}

/// Whether one of the lengths, up to the end mark, is wanted.
#[inline(always)]
fn some_length<const N: usize>(
    lengths: &[u8; N],
    longest: u8,
    wanted: impl Fn(u8) -> bool,
) -> bool {
    for &len in lengths {
        // Nothing above is ever there; the verifier does not know.
        if len > longest {
            return false;
        }
        if wanted(len) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
