//! Verification: who has an address, found out by asking (R-ARP-6, R-ND-6).
//!
//! A claim that contradicts a binding starts a round: the recorded holder is asked three times, by unicast, and
//! at the last time everybody; when not exactly one host answers that, everybody once more. The holder answers:
//! the claim is false. It is silent: the address has moved to who answered instead, if need be each time. What is
//! still to be learned starts with a round that asks everybody.
//!
//! Bounds against floods: one round a binding at a time, [`BURST`] rounds at once and one a second after that,
//! eight link-layer addresses a round, [`ROUNDS`] rounds at once, the others in turn. A claim found
//! false is not looked at again for a while, but another address's is: who floods claims pays for rounds that
//! would also find a new holder.
//!
//! Nothing here reads a clock or sends anything. Events that happened are to be told before the time that has
//! passed, or silence is seen where there was none.

mod candidates;
mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use net_common::{abi::NeighborKey, units::Mac};

pub use self::candidates::Answers;
use self::watch::{Watch, decide};

/// Rounds at one time.
pub const ROUNDS: usize = 64;
/// Rounds of one binding that may start at once; after that one each [`ROUND_EVERY`].
pub const BURST: u32 = 4;
/// See [`BURST`].
pub const ROUND_EVERY: Duration = Duration::from_secs(1);
/// What is known of a binding.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its link-layer addresses; none while it is learned.
    pub macs: &'a [Mac],
    /// Those that it had before.
    pub past: &'a [Mac],
    /// Named by the operator: it does not move.
    pub fixed: bool,
    /// Its interface works. While it does not, silence proves nothing.
    pub up: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask for the address: the host at `to`, or everybody. What cannot be sent is told to
    /// [`Verifier::ask_failed`] at once.
    Ask {
        /// The address.
        key: NeighborKey,
        /// Whom.
        to: Option<Mac>,
    },
    /// A round ended. To be applied before the verifier is told anything else of the binding.
    Decided {
        /// The address.
        key: NeighborKey,
        /// How.
        decision: Decision,
    },
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The recorded holder answered: the claim is false.
    Spoof {
        /// Who claimed; [`Mac::NONE`] when it could not be read.
        claimed: Mac,
        /// Who answered.
        holder: Mac,
    },
    /// The recorded holder was silent: the address is elsewhere now.
    Moved {
        /// Where.
        to: Mac,
    },
    /// The recorded holder was silent, and it is not clear, or not allowed, that another takes over. Told when it
    /// begins, and when others answer than before.
    Contested {
        /// Who answered, or else who claimed.
        macs: Vec<Mac>,
    },
    /// A contested binding is clear again: it is with `holder`.
    ContestOver {
        /// Who has it.
        holder: Mac,
    },
    /// Exactly one host answered for an address that was to be learned.
    Learned {
        /// Which.
        mac: Mac,
    },
}

/// Where the verification of a binding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is under way.
    Calm,
    /// Somebody is being asked.
    Asking,
    /// It is unclear who has it.
    Contested,
}

/// Verification of all bindings.
#[derive(Debug, Default)]
pub struct Verifier {
    /// Only bindings with something to remember.
    watches: BTreeMap<NeighborKey, Watch>,
    /// Those that wait for one of the [`ROUNDS`].
    queue: VecDeque<NeighborKey>,
    running: usize,
    /// Rounds begun so far.
    begun: u64,
}

impl Verifier {
    /// Somebody claims to be at `mac`, against the binding.
    pub fn claim(
        &mut self,
        key: NeighborKey,
        known: Known<'_>,
        mac: Mac,
        answers: Answers,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        // The binding may have changed since the kernel judged the claim.
        if known.macs.contains(&mac) {
            return;
        }
        let watch = self.watches.entry(key).or_default();
        match &mut watch.round {
            Some(round) => round.candidates.note(mac, answers, round.polls, known.past),
            None => {
                watch.pending.note(mac, answers, 0, known.past);
                self.start(key, known, now, out);
            }
        }
    }

    /// A request of ours was answered: by the recorded holder or, for a binding that is learned, by anyone.
    pub fn answer(
        &mut self,
        key: NeighborKey,
        known: Known<'_>,
        mac: Mac,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if known.macs.is_empty() {
            return self.claim(key, known, mac, Answers::Us, now, out);
        }
        if !known.macs.contains(&mac) {
            return;
        }
        let Some(watch) = self.watches.get_mut(&key) else {
            return;
        };
        match watch.round.take() {
            Some(round) => {
                self.running -= 1;
                for candidate in &round.candidates.0 {
                    let claimed = candidate.mac;
                    watch.hold(claimed, now);
                    decide(
                        key,
                        Decision::Spoof {
                            claimed,
                            holder: mac,
                        },
                        out,
                    );
                }
                watch.settle(key, mac, out);
            }
            None if watch.contest.is_some() => {
                // It is back. A round tells whether the others are gone.
                watch.retry = Some(now);
                self.start(key, known, now, out);
            }
            None => {}
        }
    }

    /// Finds out who has an address that has no link-layer address yet.
    pub fn learn(
        &mut self,
        key: NeighborKey,
        known: Known<'_>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        self.watches.entry(key).or_default().retry = Some(now);
        self.start(key, known, now, out);
    }

    /// Forgets all of a binding that is gone or that was given other link-layer addresses.
    pub fn forget(&mut self, key: &NeighborKey) {
        if let Some(watch) = self.watches.remove(key) {
            self.running -= usize::from(watch.round.is_some());
            if watch.queued {
                self.queue.retain(|queued| queued != key);
            }
        }
    }

    /// The last ask of a binding could not be sent.
    pub fn ask_failed(&mut self, key: &NeighborKey) {
        if let Some(round) = self.watches.get_mut(key).and_then(|w| w.round.as_mut()) {
            round.failed = true;
        }
    }

    /// Whether anybody is being asked.
    pub const fn is_asking(&self) -> bool {
        self.running > 0
    }

    /// The kernel could not tell of some events.
    pub fn events_lost(&mut self) {
        for round in self.watches.values_mut().filter_map(|w| w.round.as_mut()) {
            round.lost = true;
        }
    }

    /// An interface has stopped working: what was asked there proves nothing.
    pub fn link_lost(&mut self, ifindex: u32) {
        for (_, watch) in self
            .watches
            .iter_mut()
            .filter(|(key, _)| key.ifindex == ifindex)
        {
            if let Some(round) = watch.round.take() {
                self.running -= 1;
                watch.pending = round.candidates.unanswered();
                if round.learning || watch.contest.is_some() {
                    watch.retry = Some(Duration::ZERO);
                }
            }
        }
    }

    /// Where the verification of a binding stands.
    pub fn standing(&self, key: &NeighborKey) -> Standing {
        match self.watches.get(key) {
            Some(watch) if watch.contest.is_some() => Standing::Contested,
            Some(watch) if watch.round.is_some() => Standing::Asking,
            _ => Standing::Calm,
        }
    }

    /// Time has passed. `known` gives None for a binding that is gone.
    pub fn tick<'a>(
        &mut self,
        known: impl Fn(&NeighborKey) -> Option<Known<'a>>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        let (mut gone, mut due) = (Vec::new(), Vec::new());
        for (&key, watch) in &mut self.watches {
            let Some(known) = known(&key) else {
                gone.push(key);
                continue;
            };
            if watch.advance(key, known, now, out) {
                self.running -= 1;
            }
            watch.forget_holds(now);
            if known.up && watch.is_due(now) {
                watch.queued = true;
                due.push((watch.turn, key));
            }
        }
        for key in gone {
            self.forget(&key);
        }
        // Of those that became due together, who had a round longest ago is first.
        due.sort_unstable();
        self.queue.extend(due.into_iter().map(|(_, key)| key));
        while self.running < ROUNDS
            && let Some(key) = self.queue.pop_front()
        {
            if let Some(known) = known(&key) {
                self.begin(key, known, now, out);
            }
        }
        self.watches.retain(|_, watch| !watch.is_idle(now));
    }

    /// Starts a round at once, if it is due and there is room; else the tick finds it.
    fn start(&mut self, key: NeighborKey, known: Known<'_>, now: Duration, out: &mut Vec<Output>) {
        if let Some(watch) = self.watches.get(&key)
            && known.up
            && watch.is_due(now)
            && self.queue.is_empty()
            && self.running < ROUNDS
        {
            self.begin(key, known, now, out);
        }
    }

    /// Begins a round, unless its interface has stopped working meanwhile.
    fn begin(&mut self, key: NeighborKey, known: Known<'_>, now: Duration, out: &mut Vec<Output>) {
        let Some(watch) = self.watches.get_mut(&key) else {
            return;
        };
        watch.queued = false;
        if !known.up {
            return;
        }
        self.running += 1;
        self.begun += 1;
        watch.begin(self.begun, known, now);
        watch.advance(key, known, now, out);
    }
}

#[cfg(test)]
mod tests;
