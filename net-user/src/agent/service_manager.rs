//! What the agent tells the service manager while it runs.

use super::Agent;
use crate::service::{self, Watchdog};

impl Agent {
    /// A sign of life while the data path is alive as far as a new start could help; the state in a line when it is another.
    pub(super) fn tell_service_manager(&mut self, watchdog: &mut Watchdog) {
        watchdog.tell(self.is_worth_keeping());
        let problems = self.problems.values().cloned();
        let mut problems: Vec<_> = problems.chain(self.walks.known().problems()).collect();
        problems.sort_unstable();
        let line = match problems.as_slice() {
            [] => self.summary(),
            some => format!("degraded: {}", some.join("; ")),
        };
        if line != self.told {
            service::status(&line);
            self.told = line;
        }
    }
}
