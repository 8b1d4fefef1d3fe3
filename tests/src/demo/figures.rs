//! From attempts and readings to figures: seconds, acts, criteria.

use std::{collections::BTreeMap, time::Duration};

use net_user::control::queues::VerdictKind;
use serde::Serialize;

use super::{
    acts::{self, Act},
    client::{Attempt, Outcome},
    watch::{Fate, Queues, Rates},
};

/// The kernel alone must not survive the flood: at most this share of attempts succeeds.
const SUCCESS_WITHOUT: f64 = 0.2;
/// Connecting behind netmoat may take so many times what it takes without a flood, at the 99th percentile.
const P99_RATIO: f64 = 3.0;
/// The flood is what it is said to be: at least this share of its rate is sent.
const RATE_SHARE: f64 = 0.9;

/// Version of the JSON; fields are only ever added.
pub const VERSION: u32 = 1;

/// The whole demo.
#[derive(Debug, Serialize)]
pub struct Results {
    /// [`VERSION`].
    pub version: u32,
    /// When and where.
    pub machine: super::machine::Machine,
    /// SYNs/s that the attacker was told to send.
    pub rate: u32,
    /// Seconds of an act.
    pub seconds: u32,
    /// Attempts a second that the client makes at most.
    pub client_rate: f64,
    /// In their order.
    pub acts: Vec<Played>,
    /// The act of the ping flood, without netmoat and with it.
    pub echo: [super::echo::Half; 2],
    /// The act of the lying neighbour, without netmoat and with it.
    pub spoof: [super::spoof::Half; 2],
    /// What must hold.
    pub criteria: Vec<Criterion>,
}

/// An act and what was measured.
#[derive(Debug, Serialize)]
pub struct Played {
    /// Which.
    pub act: Act,
    /// As a whole.
    pub total: Total,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// What became of packets.
    pub fates: Vec<Fate>,
    /// What netmoat said of the listener while the act played, where it ran.
    pub said: Option<Said>,
}

/// A verdict of netmoat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// Its stable name.
    pub verdict: String,
    /// In words.
    pub sentence: String,
}

/// What the client saw of some attempts. Times are of all attempts; one that did not connect counts as slower
/// than all others, so that a percentile is `None` where the connection at that rank failed.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// How many.
    pub attempts: u32,
    /// Share of them that got the page, 0 to 1; `None` without attempts.
    pub success: Option<f64>,
    /// Half connected faster.
    pub connect_p50_ms: Option<f64>,
    /// 99 of 100 connected faster.
    pub connect_p99_ms: Option<f64>,
    /// 99 of 100 had the page sooner, counted from the first SYN.
    pub page_p99_ms: Option<f64>,
}

/// A second of an act.
#[derive(Clone, Debug, Serialize)]
pub struct Second {
    /// Attempts that began in it.
    #[serde(flatten)]
    pub client: Seen,
    /// Handshakes completed in it.
    pub handshakes: u32,
    /// What the kernel did.
    #[serde(flatten)]
    pub rates: Rates,
    /// At its end.
    pub queues: Queues,
}

/// An act as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct Total {
    /// All attempts that began in it.
    #[serde(flatten)]
    pub client: Seen,
    /// Handshakes completed, a second.
    pub handshakes_per_s: f64,
    /// The slowest handshake that was completed.
    pub connect_max_ms: Option<f64>,
    /// How attempts ended.
    pub outcomes: BTreeMap<Outcome, u32>,
    /// What the kernel did.
    #[serde(flatten)]
    pub rates: Rates,
    /// The longest queues seen.
    pub longest: Queues,
}

/// Something that must hold.
#[derive(Clone, Debug, Serialize)]
pub struct Criterion {
    /// In words.
    pub what: String,
    /// What was found.
    pub found: String,
    /// Whether it holds.
    pub passed: bool,
}

impl Seen {
    /// Looks at attempts.
    pub fn of<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> Self {
        let (mut connects, mut pages) = (Vec::new(), Vec::new());
        for attempt in attempts {
            connects.push(attempt.connect);
            let page = attempt.outcome == Outcome::Page;
            pages.push(page.then(|| attempt.ended - attempt.begun));
        }
        let (all, got) = (pages.len(), pages.iter().flatten().count());
        Self {
            attempts: u32::try_from(all).unwrap_or(u32::MAX),
            success: (all > 0).then(|| got as f64 / all as f64),
            connect_p50_ms: percentile(&mut connects, 50),
            connect_p99_ms: percentile(&mut connects, 99),
            page_p99_ms: percentile(&mut pages, 99),
        }
    }
}

/// A percentile in milliseconds; `None` if it is that of a failure, slower than all others.
fn percentile(times: &mut [Option<Duration>], percent: usize) -> Option<f64> {
    times.sort_unstable_by_key(|time| time.unwrap_or(Duration::MAX));
    times
        .get(rank(times.len(), percent)?)
        .copied()
        .flatten()
        .map(millis)
}

/// The index that a percentile has among `count` sorted values, by the nearest-rank method.
fn rank(count: usize, percent: usize) -> Option<usize> {
    (count * percent).div_ceil(100).checked_sub(1)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Played {
    /// Puts together what was measured in an act of `length`; a row of rates and queues for each second.
    pub fn new(
        act: Act,
        attempts: &[Attempt],
        (rates, rows): (Rates, &[(Rates, Queues)]),
        fates: Vec<Fate>,
        length: Duration,
    ) -> Self {
        let seconds = rows.iter().enumerate().map(|(i, &(rates, queues))| {
            let in_it = |time: Duration| time.as_secs() == i as u64;
            let connected = |a: &&Attempt| a.connect.is_some_and(|time| in_it(a.begun + time));
            Second {
                client: Seen::of(attempts.iter().filter(|a| in_it(a.begun))),
                handshakes: attempts.iter().filter(connected).count() as u32,
                rates,
                queues,
            }
        });
        let connects = attempts.iter().filter_map(|attempt| attempt.connect);
        let mut outcomes = BTreeMap::new();
        for attempt in attempts {
            *outcomes.entry(attempt.outcome).or_default() += 1;
        }
        let longest = rows
            .iter()
            .fold(Queues::default(), |longest, (_, queues)| Queues {
                syn: longest.syn.max(queues.syn),
                accept: longest.accept.max(queues.accept),
                limit: queues.limit,
            });
        Self {
            act,
            total: Total {
                client: Seen::of(attempts.iter()),
                handshakes_per_s: connects.clone().count() as f64 / length.as_secs_f64(),
                connect_max_ms: connects.max().map(millis),
                outcomes,
                rates,
                longest,
            },
            seconds: seconds.collect(),
            fates,
            said: None,
        }
    }
}

/// The act of that kind, if it was played.
pub fn find(acts: &[Played], which: Act) -> Option<&Total> {
    acts.iter()
        .find(|played| played.act == which)
        .map(|played| &played.total)
}

/// Judges the acts.
pub fn judge(acts: &[Played], rate: u32) -> Vec<Criterion> {
    let total = |which| find(acts, which);
    let success = |which| total(which).and_then(|total| total.client.success);
    let p99 = |which| total(which).and_then(|total| total.client.connect_p99_ms);
    let mut criteria = Vec::new();
    for act in [acts::KERNEL, acts::NETMOAT] {
        let sent = total(act).map_or(0.0, |total| total.rates.syns_per_s);
        criteria.push(Criterion {
            what: format!(
                "{}: the flood is what it is said to be, at least {:.0} % of {rate} SYN/s",
                act.title,
                RATE_SHARE * 100.0
            ),
            found: format!("{sent:.0} SYN/s"),
            passed: sent >= RATE_SHARE * f64::from(rate),
        });
    }
    let without = success(acts::KERNEL);
    criteria.push(Criterion {
        what: format!(
            "{}: the flood is one that it does not survive, success below {:.0} %",
            acts::KERNEL.title,
            SUCCESS_WITHOUT * 100.0
        ),
        found: percent(without),
        passed: without.is_some_and(|share| share < SUCCESS_WITHOUT),
    });
    let with = success(acts::NETMOAT);
    criteria.push(Criterion {
        what: "netmoat: every attempt of the client succeeds".to_owned(),
        found: percent(with),
        // One failure among all is less than 1.
        passed: with == Some(1.0),
    });
    let ratio = p99(acts::NETMOAT)
        .zip(p99(acts::IDLE))
        .map(|(flood, idle)| flood / idle);
    criteria.push(Criterion {
        what: format!("netmoat: p99 of connecting within {P99_RATIO} times that without a flood"),
        found: ratio.map_or("none".to_owned(), |ratio| format!("{ratio:.2} times")),
        passed: ratio.is_some_and(|ratio| ratio <= P99_RATIO),
    });
    let said = acts
        .iter()
        .find(|played| played.act == acts::NETMOAT)
        .and_then(|played| played.said.as_ref());
    criteria.push(Criterion {
        what: "netmoat: calls the flood what it is".to_owned(),
        found: said.map_or("nothing", |said| &said.verdict).to_owned(),
        passed: said.is_some_and(|said| said.verdict == VerdictKind::SynFlood.name()),
    });
    criteria
}

/// A share for people; 100 % only if it is all.
pub fn percent(share: Option<f64>) -> String {
    match share {
        None => "-".to_owned(),
        Some(share) if share > 0.999 && share < 1.0 => "99.9 %".to_owned(),
        Some(share) if share == 1.0 || share == 0.0 => format!("{:.0} %", share * 100.0),
        Some(share) => format!("{:.1} %", share * 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(begun_ms: u64, connect_us: Option<u64>) -> Attempt {
        let (begun, connect) = (
            Duration::from_millis(begun_ms),
            connect_us.map(Duration::from_micros),
        );
        Attempt {
            begun,
            ended: begun + connect.unwrap_or(super::super::client::TIMEOUT),
            connect,
            outcome: if connect.is_some() {
                Outcome::Page
            } else {
                Outcome::ConnectTimeout
            },
        }
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        for (count, percent, expected) in [
            (0, 99, None),
            (1, 50, Some(0)),
            (2, 50, Some(0)),
            (3, 50, Some(1)),
            (100, 99, Some(98)),
            (101, 99, Some(99)),
            (1280, 99, Some(1267)),
        ] {
            assert_eq!(rank(count, percent), expected, "{percent} % of {count}");
        }
    }

    #[test]
    fn attempts_that_did_not_connect_are_slower_than_all_others() {
        let seen = Seen::of(
            [
                attempt(0, Some(900)),
                attempt(1, None),
                attempt(2, Some(100)),
            ]
            .iter(),
        );
        assert_eq!(
            (seen.attempts, seen.connect_p50_ms, seen.connect_p99_ms),
            (3, Some(0.9), None)
        );
        let success = seen.success.unwrap();
        assert!(0.66 < success && success < 0.67);
        let nothing = Seen::of([].iter());
        assert_eq!((nothing.attempts, nothing.success), (0, None));
    }

    fn played(act: Act, success: bool, connect_us: u64, syns_per_s: f64) -> Played {
        let rates = Rates {
            syns_per_s,
            syn_acks_per_s: 0.0,
            cpu: 0.0,
            softirq: 0.0,
        };
        let attempts = [attempt(0, success.then_some(connect_us))];
        let rows = [(rates, Queues::default())];
        Played::new(
            act,
            &attempts,
            (rates, &rows),
            Vec::new(),
            Duration::from_secs(1),
        )
    }

    #[test]
    fn each_criterion_fails_alone() {
        let judged = |kernel_survives, netmoat_holds, netmoat_us, sent, said: VerdictKind| {
            let mut acts = [
                played(acts::IDLE, true, 100, 0.0),
                played(acts::KERNEL, kernel_survives, 100, 1000.0),
                played(acts::NETMOAT, netmoat_holds, netmoat_us, sent),
            ];
            acts[2].said = Some(Said {
                verdict: said.name().to_owned(),
                sentence: String::new(),
            });
            judge(&acts, 1000)
                .iter()
                .map(|criterion| criterion.passed)
                .collect::<Vec<_>>()
        };
        let verdicts = |kernel_survives, netmoat_holds, netmoat_us, sent| {
            let said = VerdictKind::SynFlood;
            judged(kernel_survives, netmoat_holds, netmoat_us, sent, said)
        };
        assert_eq!(verdicts(false, true, 300, 1000.0), [true; 6]);
        assert_eq!(
            judged(false, true, 300, 1000.0, VerdictKind::Healthy),
            [true, true, true, true, true, false]
        );
        assert_eq!(
            verdicts(true, true, 300, 1000.0),
            [true, true, false, true, true, true]
        );
        assert_eq!(
            verdicts(false, false, 300, 1000.0),
            [true, true, true, false, false, true]
        );
        assert_eq!(
            verdicts(false, true, 301, 1000.0),
            [true, true, true, true, false, true]
        );
        assert_eq!(
            verdicts(false, true, 300, 899.0),
            [true, false, true, true, true, true]
        );
        assert_eq!(
            judge(&[], 1000)
                .iter()
                .filter(|criterion| criterion.passed)
                .count(),
            0
        );
    }

    #[test]
    fn all_is_only_said_of_all() {
        for (share, expected) in [
            (None, "-"),
            (Some(0.0), "0 %"),
            (Some(1.0), "100 %"),
            (Some(0.9996), "99.9 %"),
            (Some(0.0213), "2.1 %"),
        ] {
            assert_eq!(percent(share), expected);
        }
    }
}
