//! Renewal of the filter of sources that may hold a socket (R-SYN-8). The data path and the tracepoint
//! add to both halves and never remove. At the start, and when the half that is read is too full to be
//! of use, the other is built from what sock_diag knows and takes its place.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::{datapath::maps::Maps, host::sock_diag::Diag};

/// Share of bits set above which a renewal pays: three bits a probe then give 2 % false positives.
pub const FULL: f64 = 0.27;
/// Dumps that a renewal makes before it gives up until next time.
const PASSES: u32 = 8;
/// Time between a SYN's passing and its socket, by a wide margin (both are in one softirq).
const SETTLE: Duration = Duration::from_millis(20);

/// A half being built.
///
/// A write of ours may lose a bit that the data path set at the same moment (see
/// [`Maps::add_to_filter`]). The socket of that bit exists soon after, so the next dump shows it. A pass
/// that had nothing to write has lost nothing, and with it the half is complete.
#[derive(Debug)]
pub struct Renewal {
    /// The half, 0 or 1.
    pub half: u32,
    passes: u32,
    dump: JoinHandle<Result<Vec<IpAddr>>>,
}

/// How far a renewal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another dump is under way.
    Going,
    /// The half holds every peer of every socket.
    Complete,
    /// Too many connections came in between; the half is of no use.
    GivenUp,
}

impl Renewal {
    /// Empties `half`, which must not be the one that is read, and asks for the first dump.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn start(maps: &mut Maps, half: u32) -> Result<Self> {
        maps.clear_filter_half(half)?;
        Ok(Self {
            half,
            passes: 0,
            dump: dump(),
        })
    }

    /// Waits for the dump that is under way. Cancel safe.
    ///
    /// # Errors
    /// sock_diag fails.
    pub async fn dumped(&mut self) -> Result<Vec<IpAddr>> {
        (&mut self.dump).await?
    }

    /// Adds what a dump showed.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn add(&mut self, maps: &mut Maps, peers: &[IpAddr], seed: u64) -> Result<Progress> {
        let mut written = false;
        for &addr in peers {
            written |= maps.add_to_filter(self.half, addr, seed)?;
        }
        self.passes += 1;
        Ok(if !written {
            Progress::Complete
        } else if self.passes == PASSES {
            Progress::GivenUp
        } else {
            self.dump = dump();
            Progress::Going
        })
    }
}

fn dump() -> JoinHandle<Result<Vec<IpAddr>>> {
    tokio::spawn(async {
        tokio::time::sleep(SETTLE).await;
        let peers = tokio::task::spawn_blocking(|| Diag::open()?.peers()).await??;
        Ok(peers.into_iter().map(|(addr, _)| addr).collect())
    })
}
