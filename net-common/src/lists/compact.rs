//! IPv4 entries without an expiry, in 6 MB for a million: about one cold cache line a packet.
//!
//! Entries up to /24 are bits of a table of all /24s. Longer ones are a set of 33-bit numbers, one for each prefix (its
//! bits, a one, zeros), spread by a seeded bijection: the upper 18 bits choose a bucket of eight, the lower 15 stand in it
//! and leave nothing to mistake. Entries beyond eight are displaced into a [`super::general`] table, which is asked when
//! a bucket is full. A small filter by /19 in front keeps sources far from any entry of a small list out of the rest.

use super::{Prefix, Words, WordsMut};

/// Flag in [`crate::abi::ListTable::compact`]: there are entries up to /24.
pub const SHORT: u64 = 1;

const FILTER_BITS: u32 = 19;
const SHORT_AT: u32 = 1 << FILTER_BITS >> 6;
const TAGS_AT: u32 = SHORT_AT + (1 << 24 >> 6);
const BUCKET_BITS: u32 = 18;
const TAG_BITS: u32 = 33 - BUCKET_BITS;
/// Words of the whole.
pub const WORDS: u32 = TAGS_AT + 2 * (1 << BUCKET_BITS);

/// Lowest bit of each of a word's four places.
const LOW: u64 = 0x0001_0001_0001_0001;
/// Highest bit of each place: the place is taken. Without it, but not zero: a gone entry of a bucket that was full.
const TAKEN: u64 = 0x8000_8000_8000_8000;
const GONE: u64 = 1;

/// What the table knows of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Listed.
    Yes,
    /// Not listed here.
    No,
    /// Not listed here, but entries were displaced from a bucket that could have it.
    Displaced,
}

/// Looks an address up. `lengths` is [`crate::abi::ListTable::compact`].
#[inline(always)]
pub fn find<W: Words>(words: &W, lengths: u64, seed: u64, addr: u32) -> Found {
    let mut found = Found::No;
    if !bit(words, 0, addr >> (32 - FILTER_BITS)) {
        return found;
    }
    if lengths & SHORT != 0 && bit(words, SHORT_AT, addr >> 8) {
        return Found::Yes;
    }
    // By control flow and not by data, so that the processor need not wait for one to begin with the next.
    for len in [32, 31, 30, 29, 28, 27, 26, 25] {
        if lengths & 1 << len == 0 {
            continue;
        }
        let (at, tag) = place(addr & u32::MAX << (32 - len), len as u8, seed);
        let (Some(a), Some(b)) = (words.word(at), words.word(at + 1)) else {
            return found;
        };
        let wanted = tag * LOW;
        if has_zero(a ^ wanted) | has_zero(b ^ wanted) != 0 {
            return Found::Yes;
        }
        if has_zero(a) | has_zero(b) == 0 {
            found = Found::Displaced;
        }
    }
    found
}

#[inline(always)]
fn bit<W: Words>(words: &W, from: u32, number: u32) -> bool {
    words
        .word(from + (number >> 6))
        .is_some_and(|word| word >> (number & 63) & 1 != 0)
}

/// Not zero if one of the four places is.
#[inline(always)]
fn has_zero(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & TAKEN
}

/// Index of the first word of an entry's bucket, and what stands in one of its places.
#[inline(always)]
fn place(addr: u32, len: u8, seed: u64) -> (u32, u64) {
    const MASK: u64 = (1 << 33) - 1;
    // Each step can be undone: an odd factor, and a shift of the upper half onto the lower. So no two entries meet.
    let n = u64::from(addr) << 1 | 1 << ((32 - u32::from(len)) & 63);
    let n = n.wrapping_mul(seed | 1) & MASK;
    let n = (n ^ n >> 17).wrapping_mul(0xc2b2_ae3d_27d4_eb4f) & MASK;
    let n = n ^ n >> 17;
    let tag = n & ((1 << TAG_BITS) - 1);
    (TAGS_AT + 2 * (n >> TAG_BITS) as u32, tag | 1 << TAG_BITS)
}

/// Notes that something is listed near an entry.
pub fn open<W: WordsMut>(words: &mut W, prefix: Prefix) {
    set_range(words, 0, FILTER_BITS, prefix);
}

/// Lists an entry of up to /24.
pub fn add_short<W: WordsMut>(words: &mut W, prefix: Prefix) {
    set_range(words, SHORT_AT, 24, prefix);
}

/// Sets the bits of a table of all prefixes of `bits` bits which meet `prefix`.
fn set_range<W: WordsMut>(words: &mut W, from: u32, bits: u32, prefix: Prefix) {
    let (first, count) = range(bits, prefix);
    each_word(first, count, |at, mask| {
        let at = from + at;
        let word = words.word(at).unwrap_or_default();
        if word & mask != mask {
            words.store(at, word | mask);
        }
    });
}

/// The first of the prefixes of `bits` bits that meet `prefix`, and how many they are.
fn range(bits: u32, prefix: Prefix) -> (u32, u32) {
    let first = prefix.low as u32 >> (32 - bits);
    (first, 1 << bits.saturating_sub(prefix.len.into()))
}

/// Calls with the index of each word that holds some of `count` bits from `first` on, and which they are.
fn each_word(first: u32, count: u32, mut call: impl FnMut(u32, u64)) {
    let (mut at, end) = (first, first + count);
    while at < end {
        let bits = (64 - at % 64).min(end - at);
        call(at / 64, u64::MAX >> (64 - bits) << (at % 64));
        at += bits;
    }
}

/// Takes an entry of up to /24 out. `still` tells for each of its /24s whether another entry lists it.
pub fn remove_short<W: WordsMut>(
    words: &mut W,
    prefix: Prefix,
    mut still: impl FnMut(u32) -> bool,
) {
    let (first, count) = range(24, prefix);
    each_word(first, count, |at, mask| {
        let old = words.word(SHORT_AT + at).unwrap_or_default();
        let kept = (0..64)
            .filter(|bit| mask >> bit & 1 != 0 && still(at * 64 + bit))
            .fold(0, |kept, bit| kept | 1 << bit);
        // In one store: what another entry lists is never open.
        words.store(SHORT_AT + at, old & !mask | kept);
    });
}

/// Lists an entry longer than /24; false if its bucket has no room, and it must go elsewhere.
#[must_use]
pub fn add<W: WordsMut>(words: &mut W, seed: u64, prefix: Prefix) -> bool {
    let (at, tag) = place(prefix.low as u32, prefix.len, seed);
    replace(words, at, |place| place & TAKEN & 0xffff == 0, tag)
}

/// Takes an entry longer than /24 out; false if it is not here.
pub fn remove<W: WordsMut>(words: &mut W, seed: u64, prefix: Prefix) -> bool {
    let (at, tag) = place(prefix.low as u32, prefix.len, seed);
    let full = [at, at + 1]
        .iter()
        .all(|&at| has_zero(words.word(at).unwrap_or_default()) == 0);
    replace(words, at, |place| place == tag, if full { GONE } else { 0 })
}

/// Writes the first place of a bucket that is wanted.
fn replace<W: WordsMut>(words: &mut W, at: u32, wanted: impl Fn(u64) -> bool, by: u64) -> bool {
    for at in [at, at + 1] {
        let word = words.word(at).unwrap_or_default();
        for shift in [0, 16, 32, 48] {
            if wanted(word >> shift & 0xffff) {
                words.store(at, word & !(0xffff << shift) | by << shift);
                return true;
            }
        }
    }
    false
}
