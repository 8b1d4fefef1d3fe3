//! What travels over the control socket about watched connections; see [`super::protocol`].
//!
//! A probe asks the agent to look out for TCP segments of its own connection, connects, and asks what was seen.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::config::Mode;

/// Addresses that one watch may name.
pub const MAX_ADDRESSES: usize = 8;
/// Watches at one time.
pub const MAX_WATCHES: usize = 8;
/// Of these so many for one user who is not root, who cannot keep others from theirs.
pub const WATCHES_OF_ONE: usize = 4;
/// How long a watch lasts unless it is asked for before, seconds.
pub const WATCH_S: u64 = 30;
/// How long what it saw is kept then, seconds; of the last [`MAX_WATCHES`].
pub const KEPT_S: u64 = 120;
/// Of so many segments that pass as part of a connection each address is told at most.
pub const PASSES: u32 = 16;
/// Of so many others: SYNs, cookies, drops.
pub const VERDICTS: u32 = 32;

/// Body of `POST /v1/watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchAsk {
    /// The other ends, as this host sees them: of a server that it connects to, or of a client; at most [`MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
    /// The server's port.
    pub port: u16,
}

/// Answer to `POST /v1/watch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchBegun {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Ask for `/v1/watch/ID`.
    pub id: u64,
    /// How long it lasts, seconds.
    pub lasts_s: u64,
    /// The host's own addresses, those of `lo` too.
    pub own: Vec<IpAddr>,
    /// The inode of the agent's network namespace; null where /proc does not tell.
    pub namespace: Option<u64>,
}

/// Answer to `GET /v1/watch/ID`, which ends the watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchSeen {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Where the agent looks.
    pub interfaces: Vec<String>,
    /// Segments of the watched ends that were to be told of: those in `seen`, and those for which there was no room.
    pub segments: u64,
    /// Whether [`PASSES`] of an address were told of, and further ones may have come.
    #[serde(default)]
    pub passes_spent: bool,
    /// Whether [`VERDICTS`] were, likewise.
    #[serde(default)]
    pub verdicts_spent: bool,
    /// To be told of, but the ring buffer was full.
    pub lost: u64,
    /// What became of each, in order; the first [`PASSES`] that passed and [`VERDICTS`] others of each address.
    pub seen: Vec<SeenSegment>,
}

/// One segment, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenSegment {
    /// When, microseconds after the watch began.
    pub after_us: u64,
    /// Where it came in.
    pub interface: String,
    /// Its source. Of an answer of netmoat's own (`cookie_sent`) this host's end.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its flags, as `SYN,ACK`.
    pub flags: String,
    /// The reason's number; `netmoat explain` knows it.
    pub code: u32,
    /// The reason's name.
    pub reason: String,
    /// `pass`, `drop` or `reply`.
    pub action: String,
    /// Whether observe mode let it pass.
    pub observed: bool,
    /// Octets of the whole frame.
    pub length: u32,
}

impl SeenSegment {
    /// Whether it was dropped in earnest.
    pub fn dropped(&self) -> bool {
        self.action == "drop" && !self.observed
    }

    /// Whether netmoat answered it with a cookie.
    pub fn answered(&self) -> bool {
        self.action == "reply" && !self.observed
    }

    /// Whether it is of a connection, in either direction.
    pub fn is_of(&self, one: SocketAddr, other: SocketAddr) -> bool {
        (self.from, self.to) == (one, other) || (self.from, self.to) == (other, one)
    }
}
