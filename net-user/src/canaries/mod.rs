//! The agent's own probes: which walk is due, and how each has ended. No system calls here, and no clock: whoever asks says
//! when it is.

mod state;

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use state::{Change, Walked};

use state::Canary;

use crate::{
    config::ProbePolicy,
    control::{
        probes::{ProbeStatus, ProbesAtAGlance},
        protocol::VERSION,
    },
    probe::{Outcome, Plan},
};

/// Most walks at one time.
pub const AT_ONCE: usize = 4;
/// The first walk of a probe begins within this time.
const SOON: Duration = Duration::from_secs(3);
/// A walk is put off or brought forward by up to this part of its interval: probes of many hosts do not come at once.
const JITTER: u32 = 10;

/// A number out of all, each as likely: of the kernel's, but for tests.
pub type Chance = fn() -> u32;

/// What is to be walked now.
#[derive(Debug)]
pub struct Due {
    /// Which probe, for [`Canaries::ended`].
    pub id: u64,
    /// The walk.
    pub plan: Plan,
    /// How long it may take as a whole.
    pub patience: Duration,
}

/// Whether honest users get through to a listener, as a probe has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The probe's name.
    pub name: String,
    /// Whether its last walk came to its page.
    pub passes: bool,
    /// How that ended, in words that go on from the name: `fails at tcp: …`.
    pub words: String,
}

/// All probes of a config.
#[derive(Debug)]
pub struct Canaries {
    canaries: Vec<Canary>,
    /// Walks under way, also those of probes that are gone since.
    walking: HashSet<u64>,
    ids: u64,
    chance: Chance,
}

impl Canaries {
    /// None yet.
    pub fn new(chance: Chance) -> Self {
        Self {
            canaries: Vec::new(),
            walking: HashSet::new(),
            ids: 0,
            chance,
        }
    }

    /// Takes the probes of a config. Those that are as before keep what was found.
    pub fn follow(&mut self, policies: &[ProbePolicy], now: Instant) {
        let mut before = std::mem::take(&mut self.canaries);
        for policy in policies {
            let known = before.iter().position(|canary| canary.policy == *policy);
            let canary = match known {
                Some(place) => before.swap_remove(place),
                None => {
                    self.ids += 1;
                    let first = self.part(SOON.min(policy.interval));
                    Canary::new(self.ids, policy.clone(), now + first)
                }
            };
            self.canaries.push(canary);
        }
    }

    /// The walks that are to begin now, those first that have waited longest. No probe walks twice at one time.
    pub fn due(&mut self, now: Instant) -> Vec<Due> {
        let room = AT_ONCE.saturating_sub(self.walking.len());
        let waiting =
            |canary: &&mut Canary| canary.next <= now && !self.walking.contains(&canary.id);
        let mut ready: Vec<_> = self.canaries.iter_mut().filter(waiting).collect();
        ready.sort_by_key(|canary| canary.next);
        ready.truncate(room);
        let mut due = Vec::new();
        for canary in ready {
            let interval = canary.policy.interval;
            let late = interval / JITTER * 2;
            // From nine tenths to eleven tenths of the interval.
            canary.next = now + interval - interval / JITTER + part(late, (self.chance)());
            due.push(Due {
                id: canary.id,
                plan: canary.policy.plan(),
                patience: canary.policy.patience(),
            });
        }
        self.walking.extend(due.iter().map(|due| due.id));
        due
    }

    /// Takes how a walk ended; `wall` is the time since 1970. Gives the change of state, if it is one.
    pub fn ended(&mut self, id: u64, walked: Walked, wall: Duration) -> Option<Change> {
        self.walking.remove(&id);
        let canary = self.canaries.iter_mut().find(|canary| canary.id == id)?;
        canary.ended(walked, wall)
    }

    /// All there is to say.
    pub fn report(&self) -> crate::control::probes::Probes {
        let probes = self.canaries.iter();
        crate::control::probes::Probes {
            version: VERSION,
            probes: probes.map(|canary| self.status(canary)).collect(),
        }
    }

    fn status(&self, canary: &Canary) -> ProbeStatus {
        canary.status(self.walking.contains(&canary.id))
    }

    /// How many are in which state.
    pub fn glance(&self) -> ProbesAtAGlance {
        let mut glance = ProbesAtAGlance {
            all: self.canaries.len() as u32,
            ..ProbesAtAGlance::default()
        };
        for canary in &self.canaries {
            match canary.state() {
                None => {}
                Some(Outcome::Ok) => glance.ok += 1,
                Some(Outcome::Slow) => glance.slow += 1,
                Some(Outcome::Wrong) => glance.wrong += 1,
                Some(Outcome::Failed) => glance.failed += 1,
            }
        }
        glance
    }

    /// Those that fail, a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.canaries.iter().filter_map(Canary::problem)
    }

    /// Where each probe goes, as far as its walks have shown, and what it found.
    pub fn witnesses(&self) -> impl Iterator<Item = (&[SocketAddr], Witness)> {
        self.canaries.iter().filter_map(Canary::witness)
    }

    fn part(&self, whole: Duration) -> Duration {
        part(whole, (self.chance)())
    }
}

/// `chance` out of all numbers, as a part of a time.
fn part(whole: Duration, chance: u32) -> Duration {
    whole.mul_f64(f64::from(chance) / (f64::from(u32::MAX) + 1.0))
}

#[cfg(test)]
mod tests;
