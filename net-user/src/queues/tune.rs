//! What would help, as settings of the kernel and as advice.

use super::{Selector, looks::QueueSettings};
use crate::control::queues::{Change, Fix, Queues};

/// What to change for the verdicts of a report: settings of the kernel, and what only the operator can change. Only for
/// the listeners that `only` names, when it does; nothing of the host then.
pub fn propose(
    queues: &Queues,
    settings: &QueueSettings,
    only: Option<&Selector>,
) -> (Vec<Change>, Vec<Fix>) {
    _ = (queues, settings, only);
    (Vec::new(), Vec::new())
}
