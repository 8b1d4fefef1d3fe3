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
/// From one walk to the next while a flood runs, at least and at most.
const HURRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

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

/// How a walk fared at one place, in words that go on from the probe's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It got an answer.
    Answers(String),
    /// It got none, or one that is of no use: `fails at tcp: …`.
    Fails(String),
}

/// What a probe has found at a listener of its own host. Such a walk goes over `lo`, past netmoat: that it gets through says
/// nothing of users elsewhere; that it fails says that they cannot fare better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The probe's name.
    pub name: String,
    /// What it found.
    pub heard: Heard,
    /// When that walk began, seconds since 1970.
    pub began_s: u64,
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

    /// Takes the probes of a config. Those of a name and URL that were there before keep what was found. Gives a sentence for
    /// each that failed and is gone; `wall` is the time since 1970.
    pub fn follow(
        &mut self,
        policies: &[ProbePolicy],
        now: Instant,
        wall: Duration,
    ) -> Vec<String> {
        let mut before = std::mem::take(&mut self.canaries);
        for policy in policies {
            let is_same =
                |known: &Canary| known.policy.name == policy.name && known.policy.url == policy.url;
            let soon = now + self.part(SOON.min(policy.interval));
            let canary = match before.iter().position(is_same) {
                Some(place) => {
                    let mut canary = before.swap_remove(place);
                    if !canary.takes(policy.clone(), soon) {
                        // What is under way is a walk of the old kind, and is not to be counted.
                        self.ids += 1;
                        canary.id = self.ids;
                    }
                    canary
                }
                None => {
                    self.ids += 1;
                    Canary::new(self.ids, policy.clone(), soon)
                }
            };
            self.canaries.push(canary);
        }
        let gone = before.iter();
        gone.filter_map(|canary| canary.farewell(wall.as_secs()))
            .collect()
    }

    /// Brings forward the walk of the probes that go to an address which `wanted` names: a flood has begun there. No probe
    /// walks more often for that than once in a tenth of its interval, which counts as five seconds at least and a minute at
    /// most.
    pub fn hurry(&mut self, wanted: impl Fn(SocketAddr) -> bool, now: Instant) {
        for canary in &mut self.canaries {
            if canary.witnesses().any(|(address, _)| wanted(address)) {
                let pause = (canary.policy.interval / JITTER).clamp(HURRY.0, HURRY.1);
                let earliest = canary.begun.map_or(now, |begun| begun + pause);
                canary.next = canary.next.min(earliest.max(now));
            }
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
            canary.begun = Some(now);
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

    /// Where each probe goes, as far as its walks have shown, and what the last one found there.
    pub fn witnesses(&self) -> impl Iterator<Item = (SocketAddr, Option<Witness>)> {
        self.canaries.iter().flat_map(Canary::witnesses)
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
