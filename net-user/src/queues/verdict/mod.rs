//! What the figures mean: a rule for each kind of verdict, and what keeps verdicts from flickering.

use crate::{
    control::queues::{Confidence, Fix, ListenerQueues, Verdict, VerdictKind},
    queues::{facts::Facts, words},
};

mod accept;
pub(super) use accept::longer;
mod floods;
pub(super) mod host;
mod leaks;
mod witnesses;

pub(super) use witnesses::FLOODS;

/// A verdict begins when its condition has held in this many judgements in a row, which come once a second.
const ENTER_AFTER: u32 = 3;
/// It ends when its condition has not held for this long, seconds.
const LEAVE_AFTER_S: u64 = 10;

/// What a rule found.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub kind: VerdictKind,
    pub sentence: String,
    pub evidence: Vec<String>,
    pub confidence: Confidence,
    pub fixes: Vec<Fix>,
}

/// Applies every rule to a listener. `held` tells which verdicts hold: some explain what would look like another.
pub(super) fn of_listener(facts: &Facts, held: &Held) -> Vec<Finding> {
    let rules: [fn(&Facts) -> Option<Finding>; 7] = [
        accept::full,
        accept::slow,
        accept::backlog_too_small,
        floods::syn,
        floods::connections,
        leaks::syn_acks,
        leaks::close_wait,
    ];
    let mut found: Vec<Finding> = rules.iter().filter_map(|rule| rule(facts)).collect();
    for (cause, effects) in [
        (
            VerdictKind::AcceptFull,
            // A full accept queue parks clients that answered among the half-open (R-Q-7).
            &[
                VerdictKind::SlowApp,
                VerdictKind::BacklogTooSmall,
                VerdictKind::SynFlood,
                VerdictKind::SynAckLoss,
            ][..],
        ),
        (
            VerdictKind::SlowApp,
            &[VerdictKind::BacklogTooSmall, VerdictKind::SynAckLoss],
        ),
        (
            // SYNs of a flood that find no room count among the drops too.
            VerdictKind::SynFlood,
            &[VerdictKind::SynAckLoss, VerdictKind::BacklogTooSmall],
        ),
    ] {
        if held.has(cause) || found.iter().any(|finding| finding.kind == cause) {
            found.retain(|finding| !effects.contains(&finding.kind));
        }
    }
    for finding in &mut found {
        let since = held.since(finding.kind);
        witnesses::hear(facts.witnesses, since, finding);
    }
    found
}

/// One that holds, or begins to.
#[derive(Clone, Debug)]
struct Entry {
    verdict: Verdict,
    /// Judgements in a row in which the condition held, until it holds.
    met: u32,
    last_met: u64,
    holds: bool,
}

/// The verdicts of a listener, or of the host, over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    entries: Vec<Entry>,
    /// Since when nothing is wrong, seconds since 1970; `None` before the first judgement.
    healthy_since: Option<u64>,
}

impl Held {
    /// Whether a verdict of this kind holds.
    pub fn has(&self, kind: VerdictKind) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.holds && entry.verdict.kind == kind)
    }

    /// Since when a condition of this kind has been met, seconds since 1970.
    fn since(&self, kind: VerdictKind) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.verdict.kind == kind);
        entry.map(|entry| entry.verdict.since)
    }

    /// The gravest that holds.
    pub fn gravest(&self) -> Option<&Verdict> {
        let holding = self.entries.iter().filter(|entry| entry.holds);
        holding
            .map(|entry| &entry.verdict)
            .max_by_key(|verdict| verdict.kind)
    }

    /// Those that hold, the gravest first.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let holding = self.entries.iter().filter(|entry| entry.holds);
        let mut all: Vec<_> = holding.map(|entry| entry.verdict.clone()).collect();
        all.sort_by_key(|verdict| std::cmp::Reverse(verdict.kind));
        all
    }

    /// Whether it was judged at least once.
    pub fn is_judged(&self) -> bool {
        self.healthy_since.is_some() || !self.entries.is_empty()
    }

    /// Since when nothing is wrong; 0 before the first judgement.
    pub fn healthy_since(&self) -> u64 {
        self.healthy_since.unwrap_or_default()
    }

    /// Takes the findings of a judgement at `wall`, seconds since 1970. Gives the gravest kind before and since when it held,
    /// when the gravest kind is another one now.
    pub fn judge(
        &mut self,
        findings: Vec<Finding>,
        wall: u64,
        once: bool,
    ) -> Option<(VerdictKind, u64)> {
        let before = self
            .gravest()
            .map(|verdict| (verdict.kind, verdict.since))
            .unwrap_or((VerdictKind::Healthy, self.healthy_since.unwrap_or(wall)));
        let met = |kind| findings.iter().any(|finding| finding.kind == kind);
        self.entries.retain(|entry| {
            met(entry.verdict.kind)
                || entry.holds && wall.saturating_sub(entry.last_met) < LEAVE_AFTER_S
        });
        for finding in findings {
            let place = self
                .entries
                .iter()
                .position(|e| e.verdict.kind == finding.kind);
            let since = place.map_or(wall, |place| self.entries[place].verdict.since);
            let met = place.map_or(0, |place| self.entries[place].met) + 1;
            let entry = Entry {
                met,
                last_met: wall,
                holds: once
                    || met >= ENTER_AFTER
                    || place.is_some_and(|place| self.entries[place].holds),
                verdict: Verdict {
                    kind: finding.kind,
                    since,
                    sentence: finding.sentence,
                    evidence: finding.evidence,
                    confidence: match once {
                        true => finding.confidence.min(Confidence::Medium),
                        false => finding.confidence,
                    },
                    fixes: finding.fixes,
                },
            };
            match place {
                Some(place) => self.entries[place] = entry,
                None => self.entries.push(entry),
            }
        }
        let now = self
            .gravest()
            .map_or(VerdictKind::Healthy, |verdict| verdict.kind);
        match now {
            VerdictKind::Healthy if self.healthy_since.is_none() => self.healthy_since = Some(wall),
            VerdictKind::Healthy => {}
            _ => self.healthy_since = None,
        }
        (before.0 != now).then_some(before)
    }
}

/// What to say of a listener where nothing is wrong.
pub(super) fn healthy(queues: &ListenerQueues, since: u64) -> Verdict {
    let mut evidence = vec![format!(
        "{} of {} wait for accept(); {} half-open of {}",
        words::number(queues.accept_queue.into()),
        words::number(queues.accept_queue_limit.into()),
        words::number(queues.syn_queue.into()),
        words::number(queues.syn_queue_limit.into()),
    )];
    let mut sentence = match queues.rates.connections {
        0 if queues.funnel.proven.is_none() => {
            "Nothing is wrong with its queues; how many connect is not counted".to_owned()
        }
        0 => "Nothing is wrong; hardly anybody connects at present".to_owned(),
        rate => format!(
            "Nothing is wrong: {} a second come, and are accepted",
            words::many(rate, "connection")
        ),
    };
    if queues.syn_queue_acked > 0 {
        sentence = format!(
            "Nothing is wrong: {} of the {} half-open connections have answered and wait to be handed over \
             (TCP_DEFER_ACCEPT waits for data); that is no flood",
            words::number(queues.syn_queue_acked.into()),
            words::number(queues.syn_queue.into()),
        );
    }
    if queues.accept_full {
        sentence =
            "The accept queue is full at this moment, and has not been for long enough to say why"
                .to_owned();
    }
    if let Some(states) = queues.states.filter(|states| states.time_wait > 0) {
        evidence.push(format!(
            "{} in TIME_WAIT, which is how closed connections end",
            words::number(states.time_wait.into())
        ));
    }
    Verdict {
        kind: VerdictKind::Healthy,
        since,
        sentence,
        evidence,
        confidence: match queues.sockets.is_empty() {
            true => Confidence::Low,
            false => Confidence::High,
        },
        fixes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(kind: VerdictKind) -> Finding {
        Finding {
            kind,
            sentence: String::new(),
            evidence: Vec::new(),
            confidence: Confidence::High,
            fixes: Vec::new(),
        }
    }

    #[test]
    fn a_verdict_begins_after_three_judgements_and_ends_after_ten_seconds_without_it() {
        let mut held = Held::default();
        let found = || vec![finding(VerdictKind::SlowApp)];
        let mut turns = Vec::new();
        for wall in 100..140 {
            let now = match wall {
                // Twice is not enough, nor is a gap.
                102 | 103 | 105 | 106 => found(),
                108..=112 => found(),
                // A gap while it holds does not end it.
                117 => found(),
                _ => Vec::new(),
            };
            if let Some((from, since)) = held.judge(now, wall, false) {
                turns.push((wall, from, since, held.gravest().map(|v| (v.kind, v.since))));
            }
        }
        assert_eq!(
            turns,
            [
                (
                    110,
                    VerdictKind::Healthy,
                    100,
                    Some((VerdictKind::SlowApp, 108))
                ),
                (127, VerdictKind::SlowApp, 108, None),
            ]
        );
        assert_eq!(held.healthy_since(), 127);
    }

    #[test]
    fn one_short_look_holds_at_once_and_is_not_certain() {
        let mut held = Held::default();
        assert!(
            held.judge(vec![finding(VerdictKind::AcceptFull)], 5, true)
                .is_some()
        );
        assert_eq!(held.verdicts()[0].confidence, Confidence::Medium);
    }

    #[test]
    fn the_gravest_stands_first_and_a_lesser_one_is_no_turn() {
        let mut held = Held::default();
        let mut turns = 0;
        for wall in 0..9 {
            let mut found = vec![finding(VerdictKind::SynFlood)];
            if wall >= 4 {
                found.insert(0, finding(VerdictKind::CloseWaitLeak));
            }
            turns += u32::from(held.judge(found, wall, false).is_some());
        }
        let kinds: Vec<_> = held.verdicts().iter().map(|v| v.kind).collect();
        assert_eq!(kinds, [VerdictKind::SynFlood, VerdictKind::CloseWaitLeak]);
        assert_eq!(turns, 1);
    }
}
