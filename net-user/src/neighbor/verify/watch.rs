//! The verification of one binding: its round, and what is remembered between rounds.

use std::time::Duration;

use net_common::{abi::NeighborKey, units::Mac};

use super::{BURST, Decision, Known, Output, ROUND_EVERY, candidates::Candidates};

/// How long a claim that was found false is not looked at again: at first, and at most.
const HOLD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How long a hold that is over is remembered, so that the next one is longer.
const HOLD_MEMORY: Duration = Duration::from_secs(60);
/// Holds of one binding.
pub(super) const HOLDS: usize = 16;
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

/// One binding's.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub(super) round: Option<Round>,
    pub(super) queued: bool,
    /// Claims since the last round.
    pub(super) pending: Candidates,
    pub(super) holds: Vec<Hold>,
    /// When to ask without a claim.
    pub(super) retry: Option<Duration>,
    /// How long to wait before the retry after next.
    pub(super) wait: Duration,
    /// Who answered when it was contested last.
    pub(super) contest: Option<Vec<Mac>>,
    /// Theoretical arrival time of the next round (GCRA).
    pub(super) paid: Duration,
    /// Number of its last round among all.
    pub(super) turn: u64,
}

/// A claim that was found false.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) mac: Mac,
    pub(super) until: Duration,
    pub(super) length: Duration,
}

/// A round.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) learning: bool,
    pub(super) candidates: Candidates,
    /// Asks made.
    pub(super) asks: usize,
    /// When the next ask is due, or the end.
    pub(super) next: Duration,
    /// The last ask could not be sent.
    pub(super) failed: bool,
    /// Asks that were sent.
    pub(super) sent: usize,
    /// How often everybody was asked.
    pub(super) polls: u8,
    /// Events were lost: an answer may be among them.
    pub(super) lost: bool,
}

impl Watch {
    /// Whether there is a reason for a round.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        let held = |mac| self.holds.iter().any(|h| h.mac == mac && now < h.until);
        self.round.is_none()
            && !self.queued
            && (self.retry.is_some_and(|at| at <= now)
                || self.pending.0.iter().any(|c| !held(c.mac)))
            && self.paid <= now + ROUND_EVERY * (BURST - 1)
    }

    pub(super) fn is_idle(&self, now: Duration) -> bool {
        self.round.is_none()
            && !self.queued
            && self.pending.0.is_empty()
            && self.holds.is_empty()
            && self.retry.is_none()
            && self.contest.is_none()
            && self.paid <= now
    }

    pub(super) fn hold(&mut self, mac: Mac, now: Duration) {
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
    pub(super) fn settle(&mut self, key: NeighborKey, holder: Mac, out: &mut Vec<Output>) {
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

    /// Forgets holds that are long over.
    pub(super) fn forget_holds(&mut self, now: Duration) {
        self.holds.retain(|h| now < h.until + HOLD_MEMORY);
    }

    /// Begins a round; it is the `turn`th of all.
    pub(super) fn begin(&mut self, turn: u64, known: Known<'_>, now: Duration) {
        self.turn = turn;
        self.paid = self.paid.max(now) + ROUND_EVERY;
        self.retry = None;
        self.round = Some(Round {
            learning: known.macs.is_empty(),
            candidates: std::mem::take(&mut self.pending).unanswered(),
            asks: 0,
            next: now,
            failed: false,
            sent: 0,
            polls: 0,
            lost: false,
        });
    }

    /// Makes the next ask of a round when it is due, and ends the round after the last; true when it ended. The times
    /// count from when the ask before was made: an agent that was stopped for a while has not waited for an answer.
    pub(super) fn advance(
        &mut self,
        key: NeighborKey,
        known: Known<'_>,
        now: Duration,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(round) = self.round.as_mut().filter(|round| round.next <= now) else {
            return false;
        };
        let gaps = if round.learning {
            LEARN_GAPS
        } else {
            VERIFY_GAPS
        };
        round.sent += usize::from(round.asks > 0 && !round.failed);
        let Some(gap) = gaps.get(round.asks) else {
            if let Some(round) = self.round.take() {
                self.conclude(key, round, known, now, out);
            }
            return true;
        };
        let to_all = match round.asks {
            _ if round.learning => true,
            0 | 1 => false,
            2 => true,
            _ => round.candidates.possible(None).0.len() != 1,
        };
        let to_holder = known.macs.iter().filter(|_| round.asks < 3);
        out.extend(to_holder.map(|&mac| Output::Ask { key, to: Some(mac) }));
        if to_all {
            out.push(Output::Ask { key, to: None });
            round.polls += 1;
        }
        round.next = now + *gap;
        // What is not asked is not answered either.
        round.failed = !(to_all || round.asks < 3);
        round.asks += 1;
        false
    }

    /// Nobody of the binding has answered.
    fn conclude(
        &mut self,
        key: NeighborKey,
        round: Round,
        known: Known<'_>,
        now: Duration,
        out: &mut Vec<Output>,
    ) {
        if round.lost || round.sent == 0 || !known.up {
            self.pending = round.candidates.unanswered();
            self.retry = Some(if round.lost { now } else { now + UNSENT });
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
                self.settle(key, mac, out);
            }
            Some(to) if !known.fixed => {
                decide(key, Decision::Moved { to }, out);
                self.settle(key, to, out);
            }
            None if round.learning && answered.is_empty() && self.contest.is_none() => {
                self.back_off(LEARN, now);
            }
            _ => {
                let macs = if answered.is_empty() {
                    claimed
                } else {
                    answered
                };
                self.contest(key, macs, now, out);
            }
        }
    }
}

/// Adds a decision.
pub(super) fn decide(key: NeighborKey, decision: Decision, out: &mut Vec<Output>) {
    out.push(Output::Decided { key, decision });
}
