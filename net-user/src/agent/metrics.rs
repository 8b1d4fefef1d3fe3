//! How full the maps are, for `status` and for metrics; and the place of metrics, when another process has it.

use std::{future::pending, time::Duration};

use tokio::task::{JoinHandle, spawn_blocking};

use super::Agent;
use crate::{
    config::metrics::Listen,
    control::protocol::{MapFill, SourcesAtAGlance},
    metrics::Bound,
};

/// How often a place that another process has is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Takes the place of metrics once it is free.
pub(super) fn wait_for(listen: Listen) -> JoinHandle<Bound> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RETRY).await;
            let listen = listen.clone();
            // Looking who has a socket may block.
            if let Ok(Ok(bound)) = spawn_blocking(move || Bound::bind(&listen)).await {
                return bound;
            }
        }
    })
}

/// Waits for it, for ever if nothing is waited for.
pub(super) async fn bound(waiting: &mut Option<JoinHandle<Bound>>) -> Bound {
    if let Some(task) = waiting {
        let bound = task.await;
        *waiting = None;
        if let Ok(bound) = bound {
            return bound;
        }
    }
    pending().await
}

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
