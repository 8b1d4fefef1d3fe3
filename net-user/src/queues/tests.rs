//! Each verdict, and beside it what looks like it and is none.

use VerdictKind::{
    AcceptFull, BacklogTooSmall, CloseWaitLeak, ConnectionFlood, Healthy, PortExhaustion, SlowApp,
    SynAckLoss, SynFlood, TimeWaitPressure,
};

use super::{
    testing::{Sim, socket},
    *,
};
use crate::control::queues::Destination;

fn has(text: &str, part: &str) {
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

mod accept;
mod floods;
mod host;
mod leaks;
