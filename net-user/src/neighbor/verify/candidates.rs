//! Who may have an address instead of its recorded holder.

use net_common::units::Mac;

/// Link-layer addresses that one round considers.
pub const CANDIDATES: usize = 8;

/// Whom a claim answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Nobody: it was not asked for.
    Nobody,
    /// A request of this host.
    Us,
    /// As before, and the same link-layer address answered one shortly before too, of which we may not have been told.
    UsAgain,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) mac: Mac,
    /// What it sent answered a request of this host's, the kernel's maybe, and did not only claim.
    solicited: bool,
    /// After which of the asks to everybody it answered, a bit each.
    polls: u8,
}

/// Those of one round.
#[derive(Debug, Default)]
pub(super) struct Candidates(pub(super) Vec<Candidate>);

impl Candidates {
    /// `poll` is the number of the last ask to everybody, 0 when there was none. Whoever answers displaces whoever
    /// only claims, and a former holder displaces others.
    pub(super) fn note(&mut self, mac: Mac, answers: Answers, poll: u8, past: &[Mac]) {
        let new = Candidate {
            mac,
            solicited: answers != Answers::Nobody,
            polls: match (answers, poll) {
                (Answers::Nobody, _) | (_, 0) => 0,
                (Answers::Us, poll) => 1 << (poll - 1),
                (Answers::UsAgain, poll) => (1 << poll) - 1,
            },
        };
        if let Some(known) = self.0.iter_mut().find(|c| c.mac == mac) {
            known.solicited |= new.solicited;
            known.polls |= new.polls;
            return;
        }
        if self.0.len() < CANDIDATES {
            self.0.push(new);
            return;
        }
        let weight = |c: &Candidate| {
            (
                c.solicited && past.contains(&c.mac),
                c.polls.count_ones(),
                c.solicited,
            )
        };
        if let Some(least) = self.0.iter_mut().min_by_key(|c| weight(c))
            && weight(least) < weight(&new)
        {
            *least = new;
        }
    }

    /// As claims of a round to come: who answered before is asked again.
    pub(super) fn unanswered(mut self) -> Self {
        self.0.iter_mut().for_each(|c| c.polls = 0);
        self
    }

    /// Those that could have the address: who answered, and who only claimed. With `polls`, the number of asks to
    /// everybody, who answered each goes before who answered some. A group cannot have it, nor what could not be read.
    pub(super) fn possible(&self, polls: Option<u8>) -> (Vec<Mac>, Vec<Mac>) {
        let of = |wanted: &dyn Fn(u8) -> bool| -> Vec<Mac> {
            let possible = self
                .0
                .iter()
                .filter(|c| c.mac != Mac::NONE && !c.mac.is_group());
            possible
                .filter(|c| wanted(c.polls))
                .map(|c| c.mac)
                .collect()
        };
        let claimed = of(&|answered| answered == 0);
        let steady = match polls {
            Some(polls @ 1..) => of(&|answered| answered.count_ones() >= u32::from(polls)),
            _ => Vec::new(),
        };
        if steady.is_empty() {
            (of(&|answered| answered != 0), claimed)
        } else {
            (steady, claimed)
        }
    }
}
