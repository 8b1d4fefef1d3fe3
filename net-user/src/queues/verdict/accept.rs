//! Rules of the accept queue: the application does not accept, accepts too slowly, or asked for too short a queue.

use std::time::Duration;

use super::Finding;
use crate::{
    control::queues::{Confidence, Fix, VerdictKind},
    queues::{
        facts::{Facts, Stuck},
        words::{advice, backlog, many, number, owner, rate, sysctl, time},
    },
};

/// From when on a mean wait for `accept()` says that the application is slow.
const SLOW_US: u64 = 200_000;
/// Limits up to this are what programs ask for out of habit; a burst of clients is longer.
const SMALL_LIMIT: u32 = 128;
/// Least looks that make "most looks".
const LOOKS: u32 = 5;

/// R-Q-1, R-Q-7: the queue is full, and nothing is taken from it.
pub(super) fn full(facts: &Facts) -> Option<Finding> {
    let stuck = facts.lately.stuck.as_ref()?;
    let Stuck {
        process,
        waiting,
        limit,
        full,
        oldest,
        others,
    } = stuck;
    let who = owner(process.as_ref());
    let mut sentence = format!(
        "{who} does not accept: {} wait, the longest for {}",
        many((*waiting).into(), "connection"),
        time(*oldest)
    );
    let mut evidence = vec![format!(
        "its accept queue holds {waiting} (the limit is {limit}, and the kernel takes one more), and was full at every look for {}",
        time(*full)
    )];
    if *others > 0 {
        sentence += &format!(
            "; {} of the same port {}",
            many(*others as u64, "other socket"),
            if *others == 1 { "works" } else { "work" }
        );
    }
    // Uncounted, a queue that is filled up again between two looks seems not to move.
    let somewhere = !facts.lately.counted && facts.host.passive_opens > 0;
    evidence.push(match (facts.lately.counted, somewhere) {
        (true, _) => "nothing, or next to nothing, was accepted in that time".to_owned(),
        (false, false) => "its length did not fall at any look".to_owned(),
        (false, true) => format!(
            "its length did not fall at any look; but {} to listeners of this host, which this one may have accepted \
             between two looks: without the tracepoint that is not seen",
            match facts.host.passive_opens {
                1 => "1 connection came".to_owned(),
                n => format!("{} connections came", number(n)),
            }
        ),
    });
    dropped(facts, &mut evidence);
    if facts.queues.syn_queue_acked > 0 || facts.queues.syn_queue > 0 {
        evidence.push(format!(
            "{} among the half-open: clients that have answered are parked there while the queue is full, \
             so this is no SYN flood",
            number(facts.queues.syn_queue.into())
        ));
    }
    Some(Finding {
        kind: VerdictKind::AcceptFull,
        sentence,
        evidence,
        confidence: match (facts.lately.counted && *others == 0, somewhere) {
            (true, _) => Confidence::High,
            (false, false) => Confidence::Medium,
            (false, true) => Confidence::Low,
        },
        fixes: vec![
            look_into(process.as_ref().map(|process| process.pid), &who),
            advice(
                "A longer queue does not help while nothing is accepted; restarting the application empties it",
            ),
        ],
    })
}

/// R-Q-7: it accepts, and slower than connections come.
pub(super) fn slow(facts: &Facts) -> Option<Finding> {
    let sums = &facts.lately.accept;
    let overflows = facts.overflows();
    let mean = sums.mean_us();
    // A queue of one or two is "half full" at every look that finds anybody.
    let mostly = sums.looks >= LOOKS && facts.half_full() >= 50;
    let falls_behind = (overflows > 0 || sums.full * 5 >= sums.looks)
        && (sums.arrivals + overflows) * 20 > sums.departures * 21;
    let waits = mean.is_some_and(|mean| mean >= SLOW_US);
    if sums.departures == 0 || !mostly || !(falls_behind || waits) {
        return None;
    }
    let who = owner(facts.owner());
    let mut evidence = vec![format!(
        "the accept queue was half full or more in {} % of the looks of the last {} and full in {} %",
        facts.half_full(),
        time(sums.span),
        u64::from(sums.full) * 100 / u64::from(sums.looks)
    )];
    let came = sums.came() + overflows as f64 / sums.span.as_secs_f64().max(1.0);
    evidence.push(format!(
        "{}{} come, {}{} are accepted",
        at_least(facts),
        rate(came, "connection"),
        at_least(facts),
        rate(sums.accepted(), "connection")
    ));
    dropped(facts, &mut evidence);
    let waited = mean.map_or_else(
        || "for a time that cannot be told".to_owned(),
        |us| format!("{} on average", time(Duration::from_micros(us))),
    );
    evidence.push(format!(
        "few half-open ({} of {}): it is the application, and no flood of SYNs",
        facts.unanswered(),
        facts.queues.syn_queue_limit
    ));
    Some(Finding {
        kind: VerdictKind::SlowApp,
        sentence: format!(
            "{who} accepts {} and more come: each waits {waited} for accept(){}",
            rate(sums.accepted(), "connection"),
            match overflows {
                0 => String::new(),
                n => format!(", and {} found no room", number(n)),
            }
        ),
        evidence,
        confidence: match (facts.lately.counted, overflows > 0 || waits) {
            (true, true) => Confidence::High,
            _ => Confidence::Medium,
        },
        fixes: vec![
            look_into(facts.owner().map(|owner| owner.pid), &who),
            advice(
                "More workers, or an accept loop that does nothing but accept; a longer queue only makes clients wait \
                 longer",
            ),
        ],
    })
}

/// Bursts do not fit, and the application keeps up.
pub(super) fn backlog_too_small(facts: &Facts) -> Option<Finding> {
    let sums = &facts.lately.accept;
    let overflows = facts.overflows();
    let short = sums.looks >= LOOKS && facts.half_full() < 50;
    let quick = sums.mean_us().is_none_or(|mean| mean < SLOW_US);
    // A stuck application takes none; one that keeps up has taken nearly all that came in.
    let keeps_up = sums.departures > 0 && sums.departures * 10 >= sums.arrivals * 9;
    if overflows == 0 || !short || !quick || !keeps_up {
        return None;
    }
    // Of several sockets, the shortest.
    let limits = facts
        .queues
        .sockets
        .iter()
        .map(|socket| socket.accept_queue_limit);
    let limit = limits.min().unwrap_or(facts.queues.accept_queue_limit);
    let who = owner(facts.owner());
    let to = longer(limit);
    let somaxconn = facts.settings.somaxconn;
    let mut fixes = Vec::new();
    if somaxconn < to {
        let why = match limit >= somaxconn {
            true => format!(
                "The backlog equals net.core.somaxconn ({somaxconn}), which limits it: raise that first"
            ),
            false => format!(
                "net.core.somaxconn ({somaxconn}) bounds what listen() may ask for: raise it as well"
            ),
        };
        fixes.push(sysctl(
            why + "; it holds for what calls listen() afterwards, so restart the application",
            "net.core.somaxconn",
            to,
        ));
    }
    let ask: Fix = backlog(facts.owner(), facts.queues.port, to);
    match limit >= somaxconn {
        true => fixes.push(ask),
        false => fixes.insert(0, ask),
    }
    let mut evidence = vec![format!(
        "the queue was less than half full in {} % of the looks of the last {}: on average {who} keeps up",
        100 - facts.half_full(),
        time(sums.span)
    )];
    dropped(facts, &mut evidence);
    if let Some(mean) = sums.mean_us() {
        evidence.push(format!(
            "mean wait for accept() {} (Little's law)",
            time(Duration::from_micros(mean))
        ));
    }
    Some(Finding {
        kind: VerdictKind::BacklogTooSmall,
        sentence: format!(
            "A backlog of {limit} is too short for the bursts that come: {} found no room in the last {}, though {who} \
             keeps up",
            number(overflows),
            time(sums.span)
        ),
        evidence,
        confidence: match limit <= SMALL_LIMIT {
            true => Confidence::High,
            false => Confidence::Medium,
        },
        fixes,
    })
}

/// A backlog to propose: 4096, what kernels since 5.4 have as somaxconn, or twice as long where it is that already.
pub(in crate::queues) fn longer(limit: u32) -> u32 {
    let twice = limit.saturating_add(1).checked_next_power_of_two();
    // Beyond a million nothing is gained, and the kernel takes no more than 2^31 - 1.
    twice.unwrap_or(MOST).clamp(4096, MOST).max(limit)
}

/// The longest queue that is proposed.
const MOST: u32 = 1 << 20;

fn at_least(facts: &Facts) -> &'static str {
    if facts.lately.counted {
        ""
    } else {
        "at least "
    }
}

fn dropped(facts: &Facts, evidence: &mut Vec<String>) {
    if facts.lately.drops > 0 {
        evidence.push(format!(
            "{} dropped at its sockets in the last 10 s (sk_drops); the host's TcpExtListenOverflows rose by {}",
            many(facts.lately.drops, "segment"),
            number(facts.host.overflows)
        ));
    }
    let unanswered = facts.lately.data.map_or(0, |data| data.accept_full);
    if unanswered > 0 {
        evidence.push(format!(
            "netmoat left {} unanswered in the last 10 s, as there was no room in the accept queue",
            many(unanswered, "SYN")
        ));
    }
}

fn look_into(pid: Option<u32>, who: &str) -> Fix {
    let what = format!(
        "Find out what keeps {who} from accept(): a blocked thread, a lock, a slow backend, no free worker or \
                        file descriptor"
    );
    Fix {
        what,
        command: pid.map(|pid| {
            format!("cat /proc/{pid}/wchan /proc/{pid}/limits; ls /proc/{pid}/fd | wc -l")
        }),
    }
}
