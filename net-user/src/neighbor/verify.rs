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

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use net_common::{abi::NeighborKey, units::Mac};

use self::candidates::Candidates;

/// Rounds at one time.
pub const ROUNDS: usize = 64;
/// Rounds of one binding that may start at once; after that one each [`ROUND_EVERY`].
pub const BURST: u32 = 4;
/// See [`BURST`].
pub const ROUND_EVERY: Duration = Duration::from_secs(1);
/// How long a claim that was found false is not looked at again: at first, and at most.
const HOLD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How long a hold that is over is remembered, so that the next one is longer.
const HOLD_MEMORY: Duration = Duration::from_secs(60);
/// Holds of one binding.
const HOLDS: usize = 16;
/// When a contested binding is asked about again: at first, and at most.
const CONTEST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// When learning is tried again after silence: at first, and at most.
const LEARN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// When a round is repeated in which nothing could be sent.
const UNSENT: Duration = Duration::from_secs(1);
/// Time after each ask of a round; the last is that for late answers. The third goes to everybody too, the fourth to
/// everybody if need be.
const VERIFY_GAPS: &[Duration] = &[
    Duration::from_millis(250),
    Duration::from_millis(350),
    Duration::from_millis(300),
    Duration::from_millis(300),
];
/// Of these each goes to everybody.
const LEARN_GAPS: &[Duration] = &[Duration::from_millis(500); 3];

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

#[derive(Debug, Default)]
struct Watch {
    round: Option<Round>,
    queued: bool,
    /// Claims since the last round.
    pending: Candidates,
    holds: Vec<Hold>,
    /// When to ask without a claim.
    retry: Option<Duration>,
    /// How long to wait before the retry after next.
    wait: Duration,
    /// Who answered when it was contested last.
    contest: Option<Vec<Mac>>,
    /// Theoretical arrival time of the next round (GCRA).
    paid: Duration,
    /// Number of its last round among all.
    turn: u64,
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    mac: Mac,
    until: Duration,
    length: Duration,
}

#[derive(Debug)]
struct Round {
    learning: bool,
    candidates: Candidates,
    /// Asks made.
    asks: usize,
    /// When the next ask is due, or the end.
    next: Duration,
    /// The last ask could not be sent.
    failed: bool,
    /// Asks that were sent.
    sent: usize,
    /// How often everybody was asked.
    polls: u8,
    /// Events were lost: an answer may be among them.
    lost: bool,
}

impl Watch {
    /// Whether there is a reason for a round.
    fn is_due(&self, now: Duration) -> bool {
        let held = |mac| self.holds.iter().any(|h| h.mac == mac && now < h.until);
        self.round.is_none()
            && !self.queued
            && (self.retry.is_some_and(|at| at <= now)
                || self.pending.0.iter().any(|c| !held(c.mac)))
            && self.paid <= now + ROUND_EVERY * (BURST - 1)
    }

    fn is_idle(&self, now: Duration) -> bool {
        self.round.is_none()
            && !self.queued
            && self.pending.0.is_empty()
            && self.holds.is_empty()
            && self.retry.is_none()
            && self.contest.is_none()
            && self.paid <= now
    }

    fn hold(&mut self, mac: Mac, now: Duration) {
        let before = self.holds.iter().position(|h| h.mac == mac);
        let length = match before.map(|i| self.holds.swap_remove(i)) {
            Some(hold) => (hold.length * 2).min(HOLD.1),
            None => HOLD.0,
        };
        if self.holds.len() == HOLDS {
            let first = (0..HOLDS).min_by_key(|&i| self.holds[i].until);
            first.map(|i| self.holds.swap_remove(i));
        }
        let until = now + length;
        self.holds.push(Hold { mac, until, length });
    }

    /// Asks again later, and the longer the oftener.
    fn back_off(&mut self, (first, most): (Duration, Duration), now: Duration) {
        let wait = self.wait.clamp(first, most);
        self.retry = Some(now + wait);
        self.wait = wait * 2;
    }

    /// The contest is over, if there was one.
    fn settle(&mut self, key: NeighborKey, holder: Mac, out: &mut Vec<Output>) {
        self.retry = None;
        self.wait = Duration::ZERO;
        if self.contest.take().is_some() {
            decide(key, Decision::ContestOver { holder }, out);
        }
    }

    fn contest(
        &mut self,
        key: NeighborKey,
        mut macs: Vec<Mac>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        macs.sort_unstable();
        if self.contest.is_none() {
            self.wait = Duration::ZERO;
        }
        self.back_off(CONTEST, now);
        // That nobody answers any longer is no news.
        let news = self
            .contest
            .as_ref()
            .is_none_or(|before| !macs.is_empty() && *before != macs);
        if news {
            self.contest = Some(macs.clone());
            decide(key, Decision::Contested { macs }, out);
        }
    }
}

fn decide(key: NeighborKey, decision: Decision, out: &mut Vec<Output>) {
    out.push(Output::Decided { key, decision });
}

impl Verifier {
    /// Somebody claims to be at `mac`, against the binding. `answered` is whether this answers a request of ours.
    pub fn claim(
        &mut self,
        key: NeighborKey,
        known: Known<'_>,
        mac: Mac,
        answered: bool,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        // The binding may have changed since the kernel judged the claim.
        if known.macs.contains(&mac) {
            return;
        }
        let watch = self.watches.entry(key).or_default();
        match &mut watch.round {
            Some(round) => round
                .candidates
                .note(mac, answered, round.polls, known.past),
            None => {
                watch.pending.note(mac, answered, 0, known.past);
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
            return self.claim(key, known, mac, true, now, out);
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
            if advance(key, watch, known, now, out) {
                self.running -= 1;
            }
            watch.holds.retain(|h| now < h.until + HOLD_MEMORY);
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
        let learning = known.macs.is_empty();
        let pending = std::mem::take(&mut watch.pending);
        watch.turn = self.begun;
        watch.paid = watch.paid.max(now) + ROUND_EVERY;
        watch.retry = None;
        watch.round = Some(Round {
            learning,
            candidates: pending.unanswered(),
            asks: 0,
            next: now,
            failed: false,
            sent: 0,
            polls: 0,
            lost: false,
        });
        advance(key, watch, known, now, out);
    }
}

/// Makes the next ask of a round when it is due, and ends the round after the last; true when it ended. The times
/// count from when the ask before was made: an agent that was stopped for a while has not waited for an answer.
fn advance(
    key: NeighborKey,
    watch: &mut Watch,
    known: Known<'_>,
    now: Duration,
    out: &mut Vec<Output>,
) -> bool {
    let Some(round) = watch.round.as_mut().filter(|round| round.next <= now) else {
        return false;
    };
    let gaps = if round.learning {
        LEARN_GAPS
    } else {
        VERIFY_GAPS
    };
    round.sent += usize::from(round.asks > 0 && !round.failed);
    let Some(gap) = gaps.get(round.asks) else {
        if let Some(round) = watch.round.take() {
            conclude(key, watch, round, known, now, out);
        }
        return true;
    };
    let to_all = match round.asks {
        _ if round.learning => true,
        0 | 1 => false,
        2 => true,
        _ => round.candidates.possible(None).0.len() != 1,
    };
    if round.asks < 3 {
        out.extend(
            known
                .macs
                .iter()
                .map(|&mac| Output::Ask { key, to: Some(mac) }),
        );
    }
    if to_all {
        out.push(Output::Ask { key, to: None });
        round.polls += 1;
    }
    round.next = now + *gap;
    round.asks += 1;
    round.failed = false;
    false
}

/// Nobody of the binding has answered.
fn conclude(
    key: NeighborKey,
    watch: &mut Watch,
    round: Round,
    known: Known<'_>,
    now: Duration,
    out: &mut Vec<Output>,
) {
    if round.lost || round.sent == 0 || !known.up {
        watch.pending = round.candidates.unanswered();
        watch.retry = Some(if round.lost { now } else { now + UNSENT });
        return;
    }
    let (answered, claimed) = round
        .candidates
        .possible((!round.learning).then_some(round.polls));
    let former: Vec<Mac> = answered
        .iter()
        .copied()
        .filter(|m| known.past.contains(m))
        .collect();
    let heir = match (answered.as_slice(), former.as_slice(), claimed.as_slice()) {
        (&[only], ..) | (_, &[only], _) => Some(only),
        // Being learned, what nobody asked for proves nothing.
        (&[], _, &[only]) if !round.learning => Some(only),
        _ => None,
    };
    match heir {
        Some(mac) if round.learning => {
            decide(key, Decision::Learned { mac }, out);
            watch.settle(key, mac, out);
        }
        Some(to) if !known.fixed => {
            decide(key, Decision::Moved { to }, out);
            watch.settle(key, to, out);
        }
        None if round.learning && answered.is_empty() && watch.contest.is_none() => {
            watch.back_off(LEARN, now);
        }
        _ => {
            let macs = if answered.is_empty() {
                claimed
            } else {
                answered
            };
            watch.contest(key, macs, now, out);
        }
    }
}

#[cfg(test)]
mod tests;
