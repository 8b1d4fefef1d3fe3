//! Table `[metrics]`.

use super::Reader;
use crate::config::{
    metrics::{Listen, MetricsPolicy},
    raw::RawMetrics,
};

impl Reader<'_> {
    /// `socket` is the control socket's path, which is taken.
    pub(super) fn metrics(&mut self, raw: &RawMetrics, socket: &std::path::Path) -> MetricsPolicy {
        let Some(raw) = &raw.listen else {
            return MetricsPolicy::default();
        };
        let listen = match raw.get_ref().0.parse() {
            Ok(listen) => listen,
            Err(error) => {
                let crate::config::metrics::ListenError { what, remedy } = error;
                self.problem(Some(raw.span()), what, remedy);
                return MetricsPolicy::default();
            }
        };
        if matches!(&listen, Listen::Unix(path) if path == socket) {
            self.problem(
                Some(raw.span()),
                format!("{} is the control socket", socket.display()),
                "name another path for metrics, as \"unix:/run/netmoat/metrics.sock\"".to_owned(),
            );
        }
        MetricsPolicy {
            listen: Some(listen),
        }
    }
}
