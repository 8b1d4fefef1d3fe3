//! Of how many dropped packets the agent is told: table `[events]`.

use net_common::abi::Limit;
use serde::Serialize;

use super::RateLimit;
use super::units::Rate;
use crate::listeners::tolerance_ns;

/// The highest rate that may be written, a second and reason: there are some fifty reasons, and an event costs the agent
/// about a microsecond.
pub(super) const MAX_PER_SECOND: u64 = 1000;
/// The highest burst.
pub(super) const MAX_BURST: u32 = 1000;

/// Sampled drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EventsPolicy {
    /// Dropped packets that are told of, for each reason.
    #[serde(flatten)]
    pub limit: RateLimit,
}

impl Default for EventsPolicy {
    fn default() -> Self {
        Self {
            limit: RateLimit {
                rate: Rate::per_second(10).unwrap(),
                burst: 20,
            },
        }
    }
}

impl EventsPolicy {
    /// As the data path has it ([`net_common::abi::GuardSettings::events`]).
    pub fn gcra(&self) -> Limit {
        let interval_ns = self.limit.rate.interval_ns();
        Limit {
            interval_ns,
            tolerance_ns: tolerance_ns(interval_ns, self.limit.burst),
        }
    }
}
