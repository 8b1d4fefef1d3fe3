//! How full the maps are, for `status` and for metrics.

use super::Agent;
use crate::control::protocol::{MapFill, SourcesAtAGlance};

impl Agent {
    /// Of every map that can be full; lists have figures of their own.
    pub(super) fn map_fill(&self, sources: &SourcesAtAGlance) -> Vec<MapFill> {
        let mut fill = self.maps.fill();
        fill.push(MapFill {
            name: "SOURCES".to_owned(),
            used: (sources.steady + sources.asked + sources.proven).into(),
            capacity: sources.places.into(),
        });
        fill
    }
}
