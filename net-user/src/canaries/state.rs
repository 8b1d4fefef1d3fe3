//! One probe: its walks, and the state that they amount to.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Heard, Witness};
use crate::{
    config::{HumanDuration, ProbePolicy},
    control::probes::{LastWalk, ProbeStatus, RECENT},
    probe::{Facts, Fetch, Finding, Layer, Outcome, Report, Stage},
};

/// A sentence's characters at most: what a server sends has a part in it.
const MAX_WORDS: usize = 300;

/// How a walk ended.
#[derive(Debug)]
pub enum Walked {
    /// As it should, whatever it found.
    Report(Box<Report>),
    /// It took too long as a whole, and was ended; with what it was doing.
    Ended {
        /// How long it had.
        patience: Duration,
        /// Its last words, if it had any.
        doing: String,
    },
    /// It broke off, by a fault of ours.
    Lost(String),
}

/// Another state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The probe.
    pub name: String,
    /// How it was; `None` at the beginning.
    pub from: Option<Outcome>,
    /// How it is.
    pub to: Outcome,
    /// In one sentence.
    pub text: String,
}

/// Where a walk went, or was to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub address: SocketAddr,
    /// How the last walk fared there, and when it began; none where it did not come so far.
    said: Option<(Heard, u64)>,
}

/// One `[[probe]]`.
#[derive(Debug)]
pub(super) struct Canary {
    pub id: u64,
    pub policy: ProbePolicy,
    /// When the next walk is due.
    pub next: Instant,
    /// When the last walk began.
    pub begun: Option<Instant>,
    state: Option<(Outcome, u64)>,
    /// The walk before the last: its outcome, and when that was known, seconds since 1970.
    before: Option<(Outcome, u64)>,
    last: Option<LastWalk>,
    targets: Vec<Target>,
    /// Of the last walks, which did not fail.
    recent: VecDeque<bool>,
    walks: u64,
    failures: u64,
    in_a_row: u32,
}

impl Canary {
    pub(super) fn new(id: u64, policy: ProbePolicy, next: Instant) -> Self {
        Self {
            id,
            policy,
            next,
            begun: None,
            state: None,
            before: None,
            last: None,
            targets: Vec::new(),
            recent: VecDeque::new(),
            walks: 0,
            failures: 0,
            in_a_row: 0,
        }
    }

    pub(super) fn state(&self) -> Option<Outcome> {
        self.state.map(|(state, _)| state)
    }

    /// Takes how a walk ended at `wall`, since 1970.
    pub(super) fn ended(&mut self, walked: Walked, wall: Duration) -> Option<Change> {
        let last = last_walk(walked, wall);
        let targets = last.report.iter().flat_map(targets).collect::<Vec<_>>();
        if targets.is_empty() {
            // A name that is not found any more says nothing of those to whom it led.
            self.forget_what_was_said();
        } else {
            self.targets = targets;
        }
        let outcome = last.outcome;
        let failed = outcome == Outcome::Failed;
        self.walks += 1;
        self.failures += u64::from(failed);
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(!failed);
        self.last = Some(last);
        let now = (outcome, wall.as_secs());
        let before = self.before.replace(now);
        let (to, since) = next_state(self.state(), before, now)?;
        let from = self.state.replace((to, since));
        // At the start all is taken to be well.
        let was = from.map_or(Outcome::Ok, |(state, _)| state);
        (was != to).then(|| self.change(from, to, wall.as_secs()))
    }

    fn change(&self, from: Option<(Outcome, u64)>, to: Outcome, wall: u64) -> Change {
        let name = &self.policy.name;
        let lasted = from.map_or(0, |(_, since)| wall.saturating_sub(since));
        let text = match (from.map(|(state, _)| state), to) {
            (Some(was), Outcome::Ok) => format!(
                "{name} is well again, after {} {}: {}",
                span(lasted),
                word_of_time(was),
                self.words()
            ),
            (Some(Outcome::Failed), _) => format!(
                "{name} gets through again, after {} of failing, but {}",
                span(lasted),
                self.words()
            ),
            _ => format!("{name} {}", self.words()),
        };
        Change {
            name: name.clone(),
            from: from.map(|(state, _)| state),
            to,
            text,
        }
    }

    /// How the last walk ended, to go on from the name.
    fn words(&self) -> String {
        let Some(last) = &self.last else {
            return "has not walked yet".to_owned();
        };
        let told = told(last.layer, last.code.as_deref(), &last.verdict);
        match last.outcome {
            Outcome::Ok => format!("its page came in {}", millis(last.waited_us)),
            Outcome::Slow => format!("is slow{told}"),
            Outcome::Wrong => format!("is wrong{told}"),
            Outcome::Failed => format!("fails{told}"),
        }
    }

    /// What `status` says while it fails.
    pub(super) fn problem(&self) -> Option<String> {
        let (Outcome::Failed, since) = self.state? else {
            return None;
        };
        let last = self.last.as_ref()?;
        let at = last.started_ms / 1000;
        let next = last
            .next
            .as_ref()
            .map_or(String::new(), |next| format!("; {}", clean(next)));
        let words = match last.outcome {
            Outcome::Failed => self.words(),
            _ => "fails; its last walk got through".to_owned(),
        };
        let name = &self.policy.name;
        Some(format!(
            "probe {name} {words}{next} (for {}; `netmoat probe list`)",
            span(at.saturating_sub(since))
        ))
    }

    /// Where its last walk went, and what it found at each place.
    pub(super) fn witnesses(&self) -> impl Iterator<Item = (SocketAddr, Option<Witness>)> {
        self.targets.iter().map(|target| {
            let witness = target.said.clone().map(|(heard, began_s)| Witness {
                name: self.policy.name.clone(),
                heard,
                began_s,
            });
            (target.address, witness)
        })
    }

    fn forget_what_was_said(&mut self) {
        for target in &mut self.targets {
            target.said = None;
        }
    }

    /// Takes what a config has now for a probe of the same name and URL. What was found stands: no reload makes well what
    /// fails. Whether a walk under way is still of its kind.
    pub(super) fn takes(&mut self, policy: ProbePolicy, soon: Instant) -> bool {
        let same = policy.walks_as(&self.policy);
        if policy.interval != self.policy.interval {
            self.next = self.next.min(soon + policy.interval);
        }
        if !same {
            self.next = self.next.min(soon);
            self.forget_what_was_said();
        }
        self.policy = policy;
        same
    }

    /// What is to be told when it is no longer in the config: that it failed to the end.
    pub(super) fn farewell(&self, wall: u64) -> Option<String> {
        let (Outcome::Failed, since) = self.state? else {
            return None;
        };
        let (name, lasted) = (&self.policy.name, span(wall.saturating_sub(since)));
        Some(format!(
            "{name} is no longer in the config; it had failed for {lasted}: it {}",
            self.words()
        ))
    }

    pub(super) fn status(&self, walking: bool) -> ProbeStatus {
        let good = self.recent.iter().filter(|good| **good).count() * 1000;
        ProbeStatus {
            name: self.policy.name.clone(),
            url: self.policy.url.clone(),
            interval_ms: self.policy.interval.as_millis() as u64,
            state: self.state(),
            since: self.state.map(|(_, since)| since),
            walking,
            walks: self.walks,
            failures: self.failures,
            failures_in_a_row: self.in_a_row,
            success_per_mille: good
                .checked_div(self.recent.len())
                .map(|share| share as u32),
            last: self.last.clone(),
        }
    }
}

/// The state after two walks, and since when it holds: one that is worse, or better, than it begins when two in a row are,
/// and is then as bad as the better, or as good as the worse of the two. The first walk that is well needs no second.
fn next_state(
    state: Option<Outcome>,
    before: Option<(Outcome, u64)>,
    now: (Outcome, u64),
) -> Option<(Outcome, u64)> {
    let Some(before) = before else {
        return (now.0 == Outcome::Ok).then_some(now);
    };
    let (better, worse) = (before.0.min(now.0), before.0.max(now.0));
    match state {
        None if better == before.0 => Some(before),
        None => Some(now),
        Some(state) if better > state => Some((better, before.1)),
        Some(state) if worse < state => Some((worse, before.1)),
        Some(_) => None,
    }
}

fn last_walk(walked: Walked, wall: Duration) -> LastWalk {
    let broken = |duration: Duration, code: &str, verdict: String, next: &str| LastWalk {
        started_ms: wall.saturating_sub(duration).as_millis() as u64,
        duration_us: duration.as_micros() as u64,
        waited_us: duration.as_micros() as u64,
        outcome: Outcome::Failed,
        layer: None,
        code: Some(code.to_owned()),
        verdict,
        next: Some(next.to_owned()),
        report: None,
    };
    match walked {
        Walked::Report(report) => LastWalk {
            started_ms: report.started_ms,
            duration_us: report.duration_us,
            waited_us: report.waited_us,
            outcome: report.outcome,
            layer: report.layer,
            code: report.code.clone(),
            verdict: report.verdict.clone(),
            next: report.next.clone(),
            report: Some(*report),
        },
        Walked::Ended { patience, doing } => {
            let doing = match doing.as_str() {
                "" => String::new(),
                doing => format!(" (at last: {doing})"),
            };
            broken(
                patience,
                "walk_timeout",
                format!("the walk had not come to its end after {patience:?}{doing}"),
                "walk it by hand: `netmoat probe URL`; if it takes so long in peace, raise its `timeout`",
            )
        }
        Walked::Lost(why) => broken(
            Duration::ZERO,
            "walk_lost",
            format!("the walk broke off: {why}"),
            "this is a fault of netmoat: please report it with the agent's log",
        ),
    }
}

/// Layer, sentence and code of what decided, to go on from `fails`.
fn told(layer: Option<Layer>, code: Option<&str>, verdict: &str) -> String {
    let at = layer.map_or(String::new(), |layer| format!(" at {}", layer.word()));
    let code = code.map_or(String::new(), |code| format!(" ({code})"));
    format!("{at}: {}{code}", clean(verdict))
}

/// Where a walk connected to, or was to: each redirect may lead elsewhere, and each place has its own say.
fn targets(report: &Report) -> Vec<Target> {
    let mut all = Vec::new();
    for fetch in &report.fetches {
        let said = heard(fetch).map(|heard| (heard, report.started_ms / 1000));
        let facts = |layer: Layer| Some(&stage(fetch, layer)?.facts);
        let connected = match facts(Layer::Tcp) {
            Some(Facts::Tcp(facts)) => facts.remote,
            _ => None,
        };
        match (
            connected,
            facts(Layer::Name),
            fetch.url.port_or_known_default(),
        ) {
            (Some(address), ..) => all.push(Target { address, said }),
            (None, Some(Facts::Name(facts)), Some(port)) => {
                let addresses = facts.addresses.iter();
                all.extend(addresses.map(|address| Target {
                    address: SocketAddr::new(*address, port),
                    said: said.clone(),
                }));
            }
            _ => {}
        }
    }
    all
}

fn stage(fetch: &Fetch, layer: Layer) -> Option<&Stage> {
    fetch.stages.iter().find(|stage| stage.layer == layer)
}

/// How one fetch fared where it went; none when it did not come to connecting.
fn heard(fetch: &Fetch) -> Option<Heard> {
    stage(fetch, Layer::Tcp)?;
    let failed = |stage: &&Stage| stage.outcome == Outcome::Failed;
    // Where a redirect leads is no fault of the listener that answered with it.
    let own = |finding: &&Finding| {
        finding.outcome == Outcome::Failed && !finding.code.starts_with("http_redirect_")
    };
    let fault = fetch.stages.iter().filter(failed).find_map(|stage| {
        let finding = stage.findings.iter().find(own)?;
        Some(told(Some(stage.layer), Some(&finding.code), &finding.what))
    });
    let waited_us = fetch.stages.iter().map(Stage::waited_us).sum();
    Some(match fault {
        Some(fault) => Heard::Fails(format!("fails{fault}")),
        None => Heard::Answers(format!("its answer came in {}", millis(waited_us))),
    })
}

/// Of one line, and not endless.
fn clean(text: &str) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(MAX_WORDS).collect()
}

fn millis(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us / 100 % 10)
}

fn span(seconds: u64) -> String {
    HumanDuration::new(Duration::from_secs(seconds))
        .map_or_else(|| format!("{seconds}s"), |span| span.to_string())
}

const fn word_of_time(was: Outcome) -> &'static str {
    match was {
        Outcome::Ok => "of peace",
        Outcome::Slow => "of being slow",
        Outcome::Wrong => "of being wrong",
        Outcome::Failed => "of failing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_ends_with_the_second_walk_in_a_row_that_is_another() {
        use Outcome::{Failed as F, Ok as O, Slow as S, Wrong as W};
        let told = |walks: &[Outcome]| {
            let (mut state, mut before, mut told) = (None, None, Vec::new());
            for (at, &outcome) in walks.iter().enumerate() {
                let now = (outcome, at as u64);
                if let Some((to, since)) = next_state(state, before, now)
                    && state != Some(to)
                {
                    told.push((at, to, since));
                    state = Some(to);
                }
                before = Some(now);
            }
            told
        };
        assert_eq!(told(&[O, O, F, O, F, O]), [(0, O, 0)], "one is chance");
        assert_eq!(told(&[O, F, F, F]), [(0, O, 0), (2, F, 1)]);
        assert_eq!(told(&[F, F]), [(1, F, 0)], "nor is the first for sure");
        assert_eq!(told(&[F, O, O]), [(1, O, 1)]);
        assert_eq!(
            told(&[O, F, F, O, F, O, O]),
            [(0, O, 0), (2, F, 1), (6, O, 5)]
        );
        assert_eq!(told(&[O, S, F, F]), [(0, O, 0), (2, S, 1), (3, F, 2)]);
        assert_eq!(told(&[O, F, F, W, O]), [(0, O, 0), (2, F, 1), (4, W, 3)]);
        assert_eq!(told(&[S, S, O, S, O, S]), [(1, S, 0)]);
    }

    #[test]
    fn what_a_server_sent_stays_in_its_line_and_is_cut() {
        let text = format!("a\nb\x1b[31m{}", "x".repeat(1000));
        let clean = clean(&text);
        assert!(clean.starts_with("a b [31mxxx"), "{clean}");
        assert_eq!(clean.chars().count(), MAX_WORDS);
    }
}
