//! Queue health: from looks at the host to what is going on at every listener.
//!
//! [`looks`] has what is looked at, [`Health`] keeps what is needed of it and says what it means. No system calls here, and
//! no clock: whoever looks says when. The agent looks all the time, `netmoat queues --once` for a moment.

pub mod looks;
mod selector;
pub mod tune;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

pub use selector::Selector;
pub use tune::propose;

use crate::{
    control::queues::{Queues, Source, Verdict, VerdictKind},
    listeners::Identity,
    queues::looks::{
        BudgetsLook, DataPathLook, HostLook, ListenerLook, LossLook, OwnersLook, SourcesLook, Walk,
    },
};

/// Least time between two walks of the kernel's connection table (R-Q-6).
pub const WALK_EVERY: Duration = Duration::from_secs(5);

/// A listener's address as people read it, such as `[::]:443`.
pub fn name_of(identity: &Identity) -> String {
    std::net::SocketAddr::new(identity.address, identity.port).to_string()
}

/// A change of what is going on at a listener, or at the host.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Which listener; `None` for the host.
    pub listener: Option<Identity>,
    /// Its name, such as `[::]:443`; `host` for the host.
    pub name: String,
    /// The gravest verdict before.
    pub from: VerdictKind,
    /// The gravest verdict now.
    pub to: Verdict,
    /// The change in one sentence, for the journal.
    pub text: String,
}

/// Everything that is known of the queues.
#[derive(Debug)]
pub struct Health {
    since: Instant,
}

impl Health {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self { since: now }
    }

    /// For one short look: a verdict holds at once, and is at most of medium confidence where a trend would be needed.
    pub fn once(now: Instant) -> Self {
        Self { since: now }
    }

    /// Takes the listeners as sock_diag tells them: every 50 ms. One that is missing is forgotten.
    pub fn listeners(&mut self, now: Instant, looks: Vec<ListenerLook>) {
        _ = (now, looks);
    }

    /// Takes what the data path counted: every second.
    pub fn data_path(&mut self, now: Instant, looks: HashMap<Identity, DataPathLook>) {
        _ = (now, looks);
    }

    /// Takes the kernel's counters and settings: every second.
    pub fn host(&mut self, now: Instant, look: HostLook) {
        _ = (now, look);
    }

    /// Takes a walk of the kernel's connection table.
    pub fn walk(&mut self, walk: Walk) {
        _ = walk;
    }

    /// Takes who holds which sockets.
    pub fn owners(&mut self, look: OwnersLook) {
        _ = look;
    }

    /// Takes what was lost below.
    pub fn loss(&mut self, look: LossLook) {
        _ = look;
    }

    /// Takes the sources of SYNs.
    pub fn sources(&mut self, look: SourcesLook) {
        _ = look;
    }

    /// Takes the budgets in force.
    pub fn budgets(&mut self, look: BudgetsLook) {
        _ = look;
    }

    /// Takes the state of a source of figures, in place of the one of that name.
    pub fn source(&mut self, source: Source) {
        _ = source;
    }

    /// Judges, after the looks of a second; `wall` is seconds since 1970. Gives what changed.
    pub fn judge(&mut self, now: Instant, wall: u64) -> Vec<Turn> {
        _ = (now, wall);
        Vec::new()
    }

    /// Inodes whose owners a report or a verdict needs.
    pub fn wanted_owners(&self) -> HashSet<u32> {
        HashSet::new()
    }

    /// What there is to say.
    pub fn report(&self, now: Instant) -> Queues {
        _ = (now, self.since);
        Queues::default()
    }
}
