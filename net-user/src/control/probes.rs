//! What travels over the control socket about the agent's own probes (`[[probe]]`).

use serde::{Deserialize, Serialize};
use url::Url;

use crate::probe::{Layer, Outcome, Report};

/// Answer to `GET /v1/probes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Probes {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// In the order of the config.
    pub probes: Vec<ProbeStatus>,
}

/// One probe, and how its walks ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// Its name.
    pub name: String,
    /// Where it goes.
    pub url: Url,
    /// From one walk to the next, milliseconds.
    pub interval_ms: u64,
    /// How it is: another state begins with the second walk in a row that is better, or worse, than this one. Null before
    /// that is known.
    pub state: Option<Outcome>,
    /// Since when, seconds since 1970; null with it.
    pub since: Option<u64>,
    /// Whether a walk is under way.
    pub walking: bool,
    /// Walks that ended, since the agent has this probe.
    pub walks: u64,
    /// Of these, those that failed.
    pub failures: u64,
    /// Those that failed in a row until now.
    pub failures_in_a_row: u32,
    /// Of the last [`RECENT`] walks, how many did not fail, per thousand; null before the first.
    pub success_per_mille: Option<u32>,
    /// The last walk; null before the first.
    pub last: Option<LastWalk>,
}

/// Walks that the share of success is of, at most.
pub const RECENT: usize = 100;

/// How one walk ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastWalk {
    /// When it began, milliseconds since 1970.
    pub started_ms: u64,
    /// How long it took, microseconds, with what no user waits for.
    pub duration_us: u64,
    /// What a user waits for the page, microseconds.
    pub waited_us: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The layer that decided it; null when all is well, or none can be named.
    pub layer: Option<Layer>,
    /// The code of the finding that decided it, `walk_timeout` for a walk that was ended and `walk_lost` for one that broke
    /// off; null when all is well.
    pub code: Option<String>,
    /// One sentence.
    pub verdict: String,
    /// What to look at next, if anything.
    pub next: Option<String>,
    /// All of it; null for a walk that was ended or broke off.
    pub report: Option<Report>,
}

/// What `status` says of probes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbesAtAGlance {
    /// Configured.
    pub all: u32,
    /// Of these, in a state of `ok`.
    pub ok: u32,
    /// Of `slow`.
    pub slow: u32,
    /// Of `wrong`.
    pub wrong: u32,
    /// Of `failed`.
    pub failed: u32,
}
