//! One generation of a list in the kernel's memory. What is written here packets meet at once, if the generation is the
//! one that is read.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::AsFd as _,
    sync::atomic::Ordering,
};

use aya::maps::{MapData, MapError};
use net_common::{
    abi::{ListTable, MAX_LIST_ENTRIES},
    lists::{
        Expiry, NO_LENGTH, Prefix, WordsMut, compact,
        general::{self, MAX_PIECES, PIECE_ENTRIES, Place},
    },
    units::Version,
};

use super::memory::Words;

/// Why the kernel's memory did not take something.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// No room for one more entry in as many pieces; more may do.
    #[error("the tables are full")]
    Full,
    /// More entries than a list may have.
    #[error("all lists of a kind hold {MAX_LIST_ENTRIES} entries together at most")]
    TooMany,
    /// The kernel refuses a map.
    #[error("the kernel refuses memory for a list: {0}")]
    Map(#[from] MapError),
    /// The kernel refuses to share a map's memory.
    #[error("a list's memory cannot be mapped: {0}")]
    Memory(#[from] io::Error),
}

/// A map and its memory.
pub(super) struct Piece {
    pub(super) map: MapData,
    words: Words,
}

impl Piece {
    fn new(name: &str, words: u32) -> Result<Self, TableError> {
        const MMAPABLE: u32 = 1 << 10;
        let array = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
        let map = MapData::create(
            aya_obj::Map::new_from_params(array, 4, 8, words, MMAPABLE),
            name,
            None,
        )?;
        let words = Words::map(map.fd().as_fd(), words as usize)?;
        Ok(Self { map, words })
    }
}

impl net_common::lists::Words for Piece {
    fn word(&self, index: u32) -> Option<u64> {
        Some(self.words.get(index as usize)?.load(Ordering::Relaxed))
    }
}

impl WordsMut for Piece {
    fn store(&mut self, index: u32, word: u64) {
        if let Some(place) = self.words.get(index as usize) {
            place.store(word, Ordering::Release);
        }
    }
}

/// How many entries have each length.
#[derive(Default)]
struct Counts(HashMap<u8, u32>);

impl Counts {
    fn add(&mut self, len: u8) {
        *self.0.entry(len).or_default() += 1;
    }

    fn remove(&mut self, len: u8) {
        if let Some(count) = self.0.get_mut(&len) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&len);
            }
        }
    }

    /// Longest first, as a [`ListTable`] has them.
    fn lengths<const N: usize>(&self) -> [u8; N] {
        let mut sorted: Vec<u8> = self.0.keys().copied().collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let mut lengths = [NO_LENGTH; N];
        for (to, len) in lengths.iter_mut().zip(sorted) {
            *to = len;
        }
        lengths
    }
}

/// A generation of a list.
pub struct Tables {
    seed: u64,
    /// Whether there may be a compact table: the data path looks into one for the blocklist alone.
    compacts: bool,
    pub(super) compact: Option<Piece>,
    pub(super) pieces: Vec<Piece>,
    short: u32,
    long: Counts,
    v4: Counts,
    v4_displaced: Counts,
    v6: Counts,
    /// Entries for the compact table that it had no room for.
    displaced: HashSet<Prefix>,
}

impl Tables {
    /// Empty ones, with room in the general pieces for so many entries.
    ///
    /// # Errors
    /// Too many, or no memory.
    pub fn new(seed: u64, compacts: bool, general: usize) -> Result<Self, TableError> {
        let pieces = match general {
            0 => 0,
            n => n.div_ceil(PIECE_ENTRIES as usize).next_power_of_two(),
        };
        if pieces > MAX_PIECES as usize {
            return Err(TableError::TooMany);
        }
        let pieces = (0..pieces)
            .map(|_| Piece::new("LIST_PIECE", general::WORDS))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            seed,
            compacts,
            compact: None,
            pieces,
            short: 0,
            long: Counts::default(),
            v4: Counts::default(),
            v4_displaced: Counts::default(),
            v6: Counts::default(),
            displaced: HashSet::new(),
        })
    }

    /// What the data path has to know of them.
    pub fn header(&self) -> ListTable {
        let short = if self.short > 0 { compact::SHORT } else { 0 };
        ListTable {
            seed: self.seed,
            compact: self.long.0.keys().fold(short, |mask, len| mask | 1 << len),
            pieces: self.pieces.len() as u32,
            v4: self.v4.lengths(),
            v4_displaced: self.v4_displaced.lengths(),
            v6: self.v6.lengths(),
        }
    }

    /// Whether an entry goes to the compact table.
    pub fn is_compact(&self, prefix: Prefix, expiry: Expiry) -> bool {
        self.compacts && prefix.version == Version::V4 && expiry.is_none()
    }

    /// Whether nothing was ever built.
    pub fn is_unused(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Entries that the general pieces are meant for.
    pub fn capacity(&self) -> usize {
        self.pieces.len() * PIECE_ENTRIES as usize
    }

    /// Octets of the kernel's memory.
    pub fn memory(&self) -> usize {
        let compact = self.compact.as_ref().map_or(0, |_| compact::WORDS as usize);
        (compact + self.pieces.len() * general::WORDS as usize) * size_of::<u64>()
    }

    /// Lists an entry, or gives one another expiry; `old` is what it had. `still` is as in [`Self::remove`].
    ///
    /// # Errors
    /// No room, or no memory; what was listed still is.
    pub fn set(
        &mut self,
        prefix: Prefix,
        old: Option<Expiry>,
        expiry: Expiry,
        still: impl FnMut(u32) -> bool,
    ) -> Result<(), TableError> {
        let Some(old) = old else {
            return self.insert(prefix, expiry);
        };
        if old == expiry {
            return Ok(());
        }
        let (from, to) = (
            self.is_compact(prefix, old),
            self.is_compact(prefix, expiry),
        );
        if from == to {
            return self.write(prefix, expiry);
        }
        // First in the new place, so that every packet finds it in one of them. A displaced entry and one with an
        // expiry share theirs.
        let was_displaced = self.displaced.contains(&prefix);
        self.insert(prefix, expiry)?;
        if from && was_displaced {
            self.forget_displaced(prefix);
        } else if from {
            self.take_compact(prefix, still);
        } else {
            if !self.displaced.contains(&prefix) {
                self.take_general(prefix);
            }
            self.v4.remove(prefix.len);
        }
        Ok(())
    }

    fn insert(&mut self, prefix: Prefix, expiry: Expiry) -> Result<(), TableError> {
        if !self.is_compact(prefix, expiry) {
            self.write(prefix, expiry)?;
            match prefix.version {
                Version::V4 => self.v4.add(prefix.len),
                Version::V6 => self.v6.add(prefix.len),
            }
            return Ok(());
        }
        let memory = match &mut self.compact {
            Some(memory) => memory,
            none => none.insert(Piece::new("LIST_COMPACT", compact::WORDS)?),
        };
        compact::open(memory, prefix);
        if prefix.len <= 24 {
            compact::add_short(memory, prefix);
            self.short += 1;
        } else if compact::add(memory, self.seed, prefix) {
            self.long.add(prefix.len);
        } else {
            self.write(prefix, None)?;
            self.displaced.insert(prefix);
            // The bucket is looked into for this length too, to find that it is full.
            self.long.add(prefix.len);
            self.v4_displaced.add(prefix.len);
        }
        Ok(())
    }

    fn write(&mut self, prefix: Prefix, expiry: Expiry) -> Result<(), TableError> {
        let place = Place::of(prefix, self.seed, self.pieces.len() as u32);
        let piece = self
            .pieces
            .get_mut(place.piece as usize)
            .ok_or(TableError::Full)?;
        if general::add(piece, place, prefix, expiry) {
            Ok(())
        } else {
            Err(TableError::Full)
        }
    }

    /// Takes an entry out. `still` tells of a /24 whether another entry without an expiry covers it.
    pub fn remove(&mut self, prefix: Prefix, expiry: Expiry, still: impl FnMut(u32) -> bool) {
        if !self.is_compact(prefix, expiry) {
            self.take_general(prefix);
            match prefix.version {
                Version::V4 => self.v4.remove(prefix.len),
                Version::V6 => self.v6.remove(prefix.len),
            }
        } else if self.displaced.contains(&prefix) {
            self.take_general(prefix);
            self.forget_displaced(prefix);
        } else {
            self.take_compact(prefix, still);
        }
    }

    fn forget_displaced(&mut self, prefix: Prefix) {
        self.displaced.remove(&prefix);
        self.v4_displaced.remove(prefix.len);
        self.long.remove(prefix.len);
    }

    fn take_general(&mut self, prefix: Prefix) {
        let place = Place::of(prefix, self.seed, self.pieces.len() as u32);
        if let Some(piece) = self.pieces.get_mut(place.piece as usize) {
            general::remove(piece, place, prefix);
        }
    }

    fn take_compact(&mut self, prefix: Prefix, still: impl FnMut(u32) -> bool) {
        let Some(memory) = &mut self.compact else {
            return;
        };
        if prefix.len <= 24 {
            compact::remove_short(memory, prefix, still);
            self.short -= 1;
        } else {
            compact::remove(memory, self.seed, prefix);
            self.long.remove(prefix.len);
        }
    }
}
