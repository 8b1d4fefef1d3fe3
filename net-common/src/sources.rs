//! Limits per source that survive spoofing: who is known, and which shares a packet must find.
//!
//! A packet's source proves nothing, so no limit may remember whatever address it reads. Sources are of three tiers:
//!
//! - *Unseen*: all that nothing is known of. Their shares are cells that addresses are hashed to, without keys, and one
//!   pool for all of them together.
//! - *Steady*: passed the pool twice, one second to a minute apart. Whoever floods from random addresses does not send
//!   from the same one again; whoever cycles through a few does, which is why this tier has a total of its own.
//! - *Proven*: completed a TCP handshake with this host, or was asked by it (R-SYN-13 asks for no whitelist by one ACK:
//!   a place gives a share of one's own, and no more).
//!
//! Known sources (the last two) have places in a table of 8,192 sets of 8, 65,536 in all, 512 KiB whatever comes.
//!
//! # Error bounds
//! - No limit is ever exceeded for an address, prefix or site by more than its burst: cells only ever are shared, which
//!   passes less. A source that becomes known begins a new share, so it may have two bursts once.
//! - A place is told by 24 bits: of random sources that no place is of, one in 2^24 / 8 = 2 million is taken for a known
//!   one, and shares with it.
//! - n known sources are in sets of n / 8,192 on average, Poisson distributed: of 16,384 one in 8,000 finds no place,
//!   of 32,768 one in 60, of 65,536 one in 7. Who finds none goes on as unseen.
//! - Proven sources displace steady ones, never the other way about; nobody displaces a source of the same tier or a
//!   higher one that was seen within its time ([`STEADY_S`], [`PROVEN_S`]). So a flood, from however many addresses,
//!   takes no place from who sends now and then, and to fill the table with steady places takes
//!   the pool's rate: at 1,000/s, a minute, for as long as it lasts. Proven ones take theirs then.
//! - Cells of the unseen are 65,536: with n other prefixes sending at a time a cell is shared with probability
//!   n / 65,536; under a flood from random addresses they are all shared, and what is left for a newcomer is its part
//!   of the pool: pool rate / flood rate. Two packets through the pool, and it is steady.

/// What is known of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Tier {
    /// Nothing.
    Unseen,
    /// It has been seen for a while.
    Steady,
    /// It has proved itself.
    Proven,
}

/// How long a steady source keeps its place without sending, seconds.
pub const STEADY_S: u32 = 120;
/// How long a proven source keeps its place without sending, seconds.
pub const PROVEN_S: u32 = 3600;
