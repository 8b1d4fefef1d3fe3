//! Entries of any kind, in pieces of a quarter of a megabyte: a hash table of buckets of five, each piece with a Bloom
//! filter of its own. A bucket that was ever full says so, and its entries go on in the next one.

use super::{EXPIRY_SHIFT, Expiry, Prefix, Words, WordsMut};

const BUCKETS: u32 = 2_048;
const BUCKET_WORDS: u32 = 16;
const FILTER_AT: u32 = BUCKETS * BUCKET_WORDS;
const FILTER_WORDS: u32 = 2_048;
/// Words of a piece.
pub const WORDS: u32 = FILTER_AT + FILTER_WORDS;
/// Most pieces of a list; a power of two.
pub const MAX_PIECES: u32 = 256;
/// Entries for which a piece is meant: half of its places, so that of 256 such pieces all take them but once in some
/// hundred times (the tail of a Poisson distribution in [`TURNS`] buckets in a row).
pub const PIECE_ENTRIES: u32 = BUCKETS * PLACES / 2;

/// Entries of a bucket, each three words behind the bucket's first.
const PLACES: u32 = 5;
/// Buckets in which an entry may stand.
const TURNS: u32 = 16;
/// First word of a bucket: entries went on in the next one.
const GOES_ON: u64 = 1;

/// Where an entry stands: its piece, and its hash for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which piece.
    pub piece: u32,
    hash: u64,
}

impl Place {
    /// The place of a prefix in a table of `pieces` pieces, a power of two.
    #[inline(always)]
    pub fn of(prefix: Prefix, seed: u64, pieces: u32) -> Self {
        let hash = prefix.hash(seed);
        Self {
            piece: (hash >> 48) as u32 & pieces.wrapping_sub(1) & (MAX_PIECES - 1),
            hash,
        }
    }

    #[inline(always)]
    fn filter(self) -> (u32, u64) {
        let h = self.hash;
        let bits = 1 << (h & 63) | 1 << (h >> 6 & 63) | 1 << (h >> 12 & 63);
        (FILTER_AT + ((h >> 18) as u32 & (FILTER_WORDS - 1)), bits)
    }

    #[inline(always)]
    fn bucket(hash: u64, turn: u32) -> u32 {
        (((hash >> 32) as u32).wrapping_add(turn) & (BUCKETS - 1)) * BUCKET_WORDS
    }
}

/// Whether a piece may hold what stands at a place.
#[inline(always)]
pub fn may_hold<W: Words>(piece: &W, place: Place) -> bool {
    let (at, bits) = place.filter();
    piece.word(at).is_some_and(|word| word & bits == bits)
}

/// The last word of a prefix's entry.
#[inline(always)]
pub fn find<W: Words>(piece: &W, place: Place, prefix: Prefix) -> Option<u64> {
    for turn in 0..TURNS {
        let at = Place::bucket(place.hash, turn);
        for place in 0..PLACES {
            let at = at + 1 + 3 * place;
            let last = piece.word(at + 2)?;
            if last & 0xffff == prefix.kind()
                && piece.word(at + 1)? == prefix.low
                && piece.word(at)? == prefix.high
            {
                return Some(last);
            }
        }
        if piece.word(at)? & GOES_ON == 0 {
            return None;
        }
    }
    None
}

/// Whether an entry with this last word is over at `now`, nanoseconds.
#[inline(always)]
pub fn is_over(last: u64, now: u64) -> bool {
    let expiry = last >> 16;
    expiry != 0 && expiry <= now >> EXPIRY_SHIFT
}

/// Whether an entry with this last word ends at all.
#[inline(always)]
pub fn ends(last: u64) -> bool {
    last >> 16 != 0
}

/// Lists a prefix in its piece, or changes its expiry; false if there is no room for it.
#[must_use]
pub fn add<W: WordsMut>(piece: &mut W, place: Place, prefix: Prefix, expiry: Expiry) -> bool {
    let last = prefix.kind() | expiry.unwrap_or_default() << 16;
    let Some(at) = index(piece, place, prefix).or_else(|| free(piece, place)) else {
        return false;
    };
    piece.store(at, prefix.high);
    piece.store(at + 1, prefix.low);
    piece.store(at + 2, last);
    let (at, bits) = place.filter();
    let word = piece.word(at).unwrap_or_default();
    piece.store(at, word | bits);
    true
}

/// Takes a prefix out of its piece; false if it is not in it. The filter keeps its bits until the list is built anew.
pub fn remove<W: WordsMut>(piece: &mut W, place: Place, prefix: Prefix) -> bool {
    let Some(at) = index(piece, place, prefix) else {
        return false;
    };
    piece.store(at + 2, 0);
    true
}

/// Index of a prefix's first word.
fn index<W: Words>(piece: &W, place: Place, prefix: Prefix) -> Option<u32> {
    for turn in 0..TURNS {
        let bucket = Place::bucket(place.hash, turn);
        let found = places(bucket).find(|&at| {
            let word = |n| piece.word(at + n);
            word(0) == Some(prefix.high)
                && word(1) == Some(prefix.low)
                && word(2).is_some_and(|last| last & 0xffff == prefix.kind())
        });
        if found.is_some() || piece.word(bucket)? & GOES_ON == 0 {
            return found;
        }
    }
    None
}

/// Index of the first free place; every full bucket before it is told to go on.
fn free<W: WordsMut>(piece: &mut W, place: Place) -> Option<u32> {
    let buckets = || (0..TURNS).map(|turn| Place::bucket(place.hash, turn));
    let is_free = |piece: &W, at: u32| piece.word(at + 2) == Some(0);
    let (full, found) = buckets().enumerate().find_map(|(full, bucket)| {
        let found = places(bucket).find(|&at| is_free(piece, at))?;
        Some((full, found))
    })?;
    for bucket in buckets().take(full) {
        let word = piece.word(bucket)?;
        piece.store(bucket, word | GOES_ON);
    }
    Some(found)
}

/// Indices of a bucket's places.
fn places(bucket: u32) -> impl Iterator<Item = u32> {
    (0..PLACES).map(move |n| bucket + 1 + 3 * n)
}
