//! The maps by which the data path tells of single connections; see `net_common::abi::Watched`.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, RingBuf},
};
use net_common::abi::{DropEvent, WatchKey, Watched};

use super::take;
use crate::drops::read_event;

/// These maps.
pub struct WatchMaps {
    until: Array<MapData, u64>,
    watched: HashMap<MapData, WatchKey, Watched>,
    events: RingBuf<MapData>,
}

impl WatchMaps {
    /// Takes them out of the object.
    ///
    /// # Errors
    /// They were taken before.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            until: take(ebpf, "WATCHING")?,
            watched: take(ebpf, "WATCHED")?,
            events: take(ebpf, "WATCH_EVENTS")?,
        })
    }

    /// What was seen of a key so far; none where nobody is watched by it.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn get(&self, key: &WatchKey) -> Result<Option<Watched>> {
        match self.watched.get(key, 0) {
            Ok(watched) => Ok(Some(watched)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error).context("WATCHED cannot be read"),
        }
    }

    /// Has segments of a key told of.
    ///
    /// # Errors
    /// The map is full.
    pub fn set(&mut self, key: &WatchKey, watched: &Watched) -> Result<()> {
        self.watched
            .insert(key, watched, 0)
            .context("WATCHED takes no more")
    }

    /// No longer.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&mut self, key: &WatchKey) -> Result<()> {
        match self.watched.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).context("an entry of WATCHED cannot be removed"),
        }
    }

    /// Until when anybody is watched, nanoseconds of the coarse monotonic clock; 0 for nobody.
    ///
    /// # Errors
    /// The kernel refuses, which it never should for an array.
    pub fn set_until(&mut self, until_ns: u64) -> Result<()> {
        self.until
            .set(0, until_ns, 0)
            .context("WATCHING cannot be written")
    }

    /// The next segment that was told of.
    pub fn take_event(&mut self) -> Option<DropEvent> {
        loop {
            // Of another length there is none.
            if let Some(event) = read_event(&self.events.next()?) {
                return Some(event);
            }
        }
    }
}
