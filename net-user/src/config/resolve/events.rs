//! Table `[events]`.

use super::Reader;
use crate::config::events::{EventsPolicy, MAX_BURST, MAX_PER_SECOND};
use crate::config::raw::{RawEvents, Spanned};
use crate::config::{Rate, RateLimit};

impl Reader<'_> {
    pub(super) fn events(&mut self, raw: &RawEvents) -> EventsPolicy {
        let default = EventsPolicy::default().limit;
        let limit = RateLimit {
            rate: self.unit(raw.rate.as_ref()).unwrap_or(default.rate),
            burst: self
                .burst_up_to(MAX_BURST, raw.burst.as_ref())
                .unwrap_or(default.burst),
        };
        let most = Rate::per_second(MAX_PER_SECOND).map_or(0, Rate::interval_ns);
        if limit.rate.interval_ns() < most {
            self.problem(
                raw.rate.as_ref().map(Spanned::span),
                "so many events would keep the agent busy under an attack".to_owned(),
                format!(
                    "write at most \"{MAX_PER_SECOND}/s\", which is for each reason; the counters tell of every packet"
                ),
            );
        }
        EventsPolicy { limit }
    }
}
