//! Where the figures come from: why a source is missing, how old its figures are, what the last look cost.

use std::time::{Duration, Instant};

use crate::control::queues::Source;

/// What each kind of look tells.
const LOOKS: [(&str, &str); 7] = [
    ("sock_diag", "listeners and their accept queues"),
    ("walk", "half-open and complete connections by state"),
    ("counters", "the kernel's counters and settings"),
    (
        "tracepoint",
        "completed and ended connections, handshake times",
    ),
    ("xdp", "SYNs, cookies and their sources"),
    ("processes", "which process holds which socket"),
    ("driver", "what interfaces and CPUs lost"),
];

/// All sources, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<(Source, Option<Instant>)>);

impl Sources {
    /// Takes the state of a source, in place of the one of that name.
    pub fn set(&mut self, source: Source, at: Option<Instant>) {
        match self
            .0
            .iter_mut()
            .find(|(known, _)| known.name == source.name)
        {
            Some(known) => *known = (source, at),
            None => self.0.push((source, at)),
        }
    }

    /// A look at one of [`LOOKS`] ended at `at`.
    pub fn looked(&mut self, name: &str, at: Instant, cost: Duration, missing: Option<String>) {
        let tells = LOOKS.iter().find(|(look, _)| *look == name);
        let source = Source {
            name: name.to_owned(),
            tells: tells.map_or(String::new(), |(_, tells)| (*tells).to_owned()),
            missing,
            age_ms: None,
            cost_us: u64::try_from(cost.as_micros()).unwrap_or(u64::MAX),
        };
        self.set(source, Some(at));
    }

    /// As they are at `now`.
    pub fn report(&self, now: Instant) -> Vec<Source> {
        let aged = |(source, at): &(Source, Option<Instant>)| {
            let age = at.map(|at| now.saturating_duration_since(at).as_millis());
            Source {
                age_ms: age.and_then(|ms| u64::try_from(ms).ok()),
                ..source.clone()
            }
        };
        self.0.iter().map(aged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_age_until_the_next_look_of_that_name() {
        let (mut sources, start) = (Sources::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let cost = Duration::from_millis(3);
        sources.looked("walk", at(1), cost, Some("its bound".to_owned()));
        sources.looked("processes", at(2), cost, None);
        let ages = |sources: &Sources, now| -> Vec<_> {
            let told = sources.report(now);
            told.into_iter()
                .map(|s| (s.name, s.age_ms, s.missing))
                .collect()
        };
        let named = |name: &str, age, why: Option<&str>| {
            (name.to_owned(), Some(age), why.map(ToOwned::to_owned))
        };
        assert_eq!(
            ages(&sources, at(4)),
            [
                named("walk", 3000, Some("its bound")),
                named("processes", 2000, None)
            ]
        );
        sources.looked("walk", at(6), cost, None);
        assert_eq!(ages(&sources, at(6))[0], named("walk", 0, None));
        assert_eq!(sources.report(at(6))[0].cost_us, 3000);
        assert!(
            LOOKS
                .iter()
                .all(|(name, tells)| !name.is_empty() && !tells.is_empty())
        );
    }
}
