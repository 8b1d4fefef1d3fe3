//! Rules of floods: of SYNs that nobody means to complete, and of complete connections.

use std::time::Duration;

use super::Finding;
use crate::{
    config::SynMode,
    control::queues::{Confidence, Fix, VerdictKind},
    queues::{
        facts::Facts,
        funnel::open,
        history::per_second,
        settings::life,
        words::{about, advice, command, many, number, per_cent, rate, sysctl, time},
    },
};

/// Cookies a second from which on they may mean a flood.
const COOKIES: f64 = 20.0;
/// SYNs a second from which on they may mean one when few are completed.
const SYNS: f64 = 50.0;
/// Up to this many sources are few, and can be blocked.
const FEW_SOURCES: u64 = 64;
/// So is one that sends this much of them, per thousand.
const TOP_SOURCE: u32 = 200;

/// Up to this many peers may be proxies, which hold connections for many.
const PROXIES: u32 = 8;

/// What speaks for a flood of SYNs.
struct Signs {
    evidence: Vec<String>,
    confidence: Confidence,
}

fn signs(facts: &Facts) -> Option<Signs> {
    // R-Q-7: a full accept queue and TCP_DEFER_ACCEPT park clients that have answered. So do overflows, when a short queue is
    // empty again at the next look.
    let acked = facts.queues.syn_queue_acked;
    let parked = facts.accept_queue_full()
        || u64::from(acked) * 2 > u64::from(facts.queues.syn_queue)
        || facts.overflows() > 0;
    let mut signs = Vec::new();
    let mut confidence = Confidence::Low;
    let unanswered = facts.unanswered();
    let limit = facts.syn_limit();
    let near = |per_cent: u64| {
        u64::from(unanswered) * 100 >= u64::from(limit) * per_cent && unanswered >= 4
    };
    // At the first walk who has answered is not known yet; but who has is not sent a SYN-ACK again.
    let told = facts.lately.walk.as_ref().is_some_and(|walk| {
        walk.walks >= 2 && !facts.once || u64::from(walk.resent) * 4 >= u64::from(unanswered)
    });
    let queue_short =
        u64::from(facts.queues.accept_queue) * 2 < u64::from(facts.queues.accept_queue_limit) + 1;
    if near(80) && told && queue_short && !parked {
        signs.push(format!(
            "{} half-open and unanswered of a limit of {}, {} waiting for accept()",
            number(unanswered.into()),
            number(limit.into()),
            number(facts.queues.accept_queue.into())
        ));
        confidence = Confidence::Medium;
    }
    if let Some(data) = facts.lately.data {
        // Nobody is parked who was sent a cookie: this holds whatever else waits, or a few idle clients hid any flood.
        let sent = per_second(data.sent, data.span);
        if sent >= COOKIES && data.proven * 2 < data.sent {
            signs.push(format!(
                "netmoat sends {}, and {} % of them are proven",
                rate(sent, "cookie"),
                per_cent(data.proven, data.sent)
            ));
            confidence = Confidence::High;
        }
        let syns = per_second(data.syns, data.span);
        let completed = facts
            .lately
            .flows
            .map(|flows| flows.established)
            .filter(|_| !parked);
        if let Some(completed) =
            completed.filter(|completed| syns >= SYNS && completed * 4 < data.syns)
        {
            signs.push(format!(
                "{}, of which {} % became connections",
                rate(syns, "SYN"),
                per_cent(completed, data.syns)
            ));
            confidence = confidence.max(Confidence::Medium);
        }
    }
    let kernel = facts.host.cookies_sent + facts.host.queue_full_drops;
    let unproven = facts.host.cookies_proven * 2 < kernel;
    if kernel > 0 && unproven && near(80) && told && !parked {
        signs.push(format!(
            "the kernel, its SYN queue full, sent {} cookies in the last 10 s, of which {} were proven, and dropped {} SYNs",
            number(facts.host.cookies_sent),
            number(facts.host.cookies_proven),
            number(facts.host.queue_full_drops)
        ));
        confidence = Confidence::High;
    }
    (!signs.is_empty()).then_some(Signs {
        evidence: signs,
        confidence,
    })
}

/// R-Q-7: SYNs without a client.
pub(super) fn syn(facts: &Facts) -> Option<Finding> {
    let Signs {
        mut evidence,
        confidence,
    } = signs(facts)?;
    let queues = facts.queues;
    let data = facts.lately.data.unwrap_or_default();
    let how_many = match per_second(data.syns, data.span) {
        0.0 => format!(
            "{} half-open connections",
            number(facts.unanswered().into())
        ),
        syns => rate(syns, "SYN"),
    };
    let top = queues.top_sources.first();
    let few = queues.distinct_sources.is_some_and(|n| n <= FEW_SOURCES)
        || top.is_some_and(|top| top.per_mille >= TOP_SOURCE);
    let mut fixes = Vec::new();
    let from = match queues.distinct_sources {
        _ if few => {
            let named: Vec<_> = queues
                .top_sources
                .iter()
                .filter(|source| source.per_mille >= 100)
                .take(3)
                .collect();
            fixes.extend(named.iter().map(|source| {
                command(
                    format!(
                        "Block {}, which sends {} % of them, unless it is one you know: a SYN's source may be forged",
                        source.address,
                        source.per_mille / 10
                    ),
                    format!("netmoat block add {}", source.address),
                )
            }));
            let names: Vec<_> = named
                .iter()
                .map(|s| format!("{} ({} %)", s.address, s.per_mille / 10))
                .collect();
            let count = queues
                .distinct_sources
                .map_or("few sources".to_owned(), |n| many(n, "source"));
            match &named[..] {
                [] => format!(" from {count}"),
                [alone] if queues.distinct_sources == Some(1) => {
                    format!(" from {} alone", alone.address)
                }
                _ => format!(" from {count}, most from {}", names.join(", ")),
            }
        }
        Some(n) => format!(" from about {} sources, most likely forged", about(n)),
        None => String::new(),
    };
    let honest = facts.lately.flows.map_or_else(String::new, |flows| {
        format!(
            "; {} are completed",
            rate(
                per_second(flows.established, flows.span),
                "honest connection"
            )
        )
    });
    let answered = data.sent > 0;
    let state = if answered {
        format!("; netmoat answers with cookies{honest}")
    } else if queues.protected {
        format!("; netmoat has sent no cookie{honest}")
    } else {
        format!("; netmoat does not answer for it{honest}")
    };
    if let Some(oldest) = queues.syn_queue_oldest_ms {
        evidence.push(format!(
            "the oldest half-open connection is {} old; each lives up to {} here",
            time(Duration::from_millis(oldest)),
            time(life(facts.settings.synack_retries))
        ));
    }
    fixes.extend(defence(facts, answered));
    Some(Finding {
        kind: VerdictKind::SynFlood,
        sentence: format!("SYN flood: {how_many}{from}{state}"),
        evidence,
        confidence,
        fixes,
    })
}

/// What to do against it, beyond blocking.
fn defence(facts: &Facts, answered: bool) -> Vec<Fix> {
    let queues = facts.queues;
    if answered {
        return vec![advice(
            "Nothing needs to be changed: cookies keep no state, so the flood holds no place in the queues",
        )];
    }
    let mut fixes = Vec::new();
    match (&queues.why_not, queues.protected) {
        (_, true) => fixes.push(command(
            "netmoat would answer with cookies, and sends none: let it, if it only observes, or lower the budget of this \
             port ([[listener]] budget)",
            "netmoat mode enforce",
        )),
        (Some(why), false) if queues.mode != SynMode::Off => {
            fixes.push(advice(format!("netmoat sends no cookies for it: {why}")));
        }
        (Some(_), false) => fixes.push(command(
            format!("Let netmoat answer for port {} (netmoat.toml, then restart the agent)", queues.port),
            format!("[[listener]]\nport = {}\nmode = \"auto\"", queues.port),
        )),
        (None, false) => fixes.push(command(
            "Run the agent: it answers with cookies at XDP",
            "netmoat run",
        )),
    }
    let settings = facts.settings;
    if settings.syncookies == 0 {
        fixes.push(sysctl(
            "The kernel may not send cookies: allow it when its SYN queue is full",
            "net.ipv4.tcp_syncookies",
            1,
        ));
    }
    if settings.synack_retries > 2 {
        fixes.push(sysctl(
            format!(
                "Shorten the life of half-open connections from {} to {}",
                time(life(settings.synack_retries)),
                time(life(2))
            ),
            "net.ipv4.tcp_synack_retries",
            2,
        ));
    }
    fixes
}

/// More connections than ever, from sources that are real.
pub(super) fn connections(facts: &Facts) -> Option<Finding> {
    let queues = facts.queues;
    let mut evidence = Vec::new();
    let mut fixes = Vec::new();
    let mut sentence = None;
    let mut confidence = Confidence::Medium;
    let completed = facts
        .lately
        .flows
        .map_or(0.0, |flows| per_second(flows.established, flows.span));
    let opened = queues.states.as_ref().map_or(0, open);
    let walk = facts.lately.walk.as_ref();
    // This host itself is no flooder: a proxy beside its application.
    let busiest = walk
        .and_then(|walk| walk.busiest)
        .filter(|(peer, _)| !peer.to_canonical().is_loopback());
    // Those that the application forgot to close are its own leak.
    let forgotten = queues.states.map_or(0, |states| states.close_wait);
    let is_leak = u64::from(forgotten) * 2 >= u64::from(opened);
    if let Some((peer, held)) = busiest
        .filter(|(_, held)| opened >= 200 && !is_leak && u64::from(*held) * 2 >= u64::from(opened))
    {
        sentence = Some(format!(
            "{peer} alone holds {} of {} open connections",
            number(held.into()),
            number(opened.into())
        ));
        evidence.push(format!(
            "{peer} has {held} open: its handshakes are complete, so the address is real"
        ));
        fixes.push(block(&peer.to_string()));
        // A listener that hardly anybody else uses is one behind a proxy or a load balancer, most likely.
        confidence = match walk.is_some_and(|walk| walk.peers > PROXIES) {
            true => Confidence::High,
            false => {
                evidence.push(format!(
                    "it has no more than {PROXIES} peers: behind a proxy or a load balancer that is how it should be"
                ));
                Confidence::Low
            }
        };
    }
    // The share of a source is of SYNs: it is one of connections when most SYNs are completed.
    let most_completed = facts
        .lately
        .data
        .zip(facts.lately.flows)
        .is_some_and(|(data, flows)| flows.established * 2 >= data.syns);
    let top = queues
        .top_sources
        .first()
        .filter(|top| top.per_mille >= 500);
    if let Some(top) = top.filter(|_| completed >= 100.0 && most_completed) {
        let text = format!(
            "{} opens {} % of {}",
            top.address,
            top.per_mille / 10,
            rate(completed, "connection")
        );
        evidence.push(format!(
            "{text}; most handshakes are complete, so the address is real"
        ));
        sentence.get_or_insert(text);
        if fixes.is_empty() {
            fixes.push(block(&top.address));
        }
        confidence = Confidence::High;
    }
    if let Some(usual) = facts
        .lately
        .usual
        .filter(|usual| completed >= 50.0 && completed >= usual * 5.0)
    {
        evidence.push(format!(
            "{} are completed; {} are usual here",
            rate(completed, "connection"),
            rate(usual, "connection")
        ));
        sentence.get_or_insert(format!(
            "{} are completed, where {} are usual",
            rate(completed, "connection"),
            rate(usual, "connection")
        ));
        // A service that was idle may simply have been found.
        if usual < 1.0 && fixes.is_empty() {
            confidence = Confidence::Low;
        }
    }
    let sentence = sentence?;
    fixes.push(command(
        "Limit what one source may open (netmoat.toml, then restart the agent); a large NAT is one source, so set it above what \
         the largest opens",
        "[tcp]\nnew_connections = \"50/s burst 200\"\nopen_connections = 200",
    ));
    if let Some(walk) = &facts.lately.walk {
        evidence.push(format!(
            "{} open from {}",
            many(opened.into(), "connection"),
            many(walk.peers.into(), "peer")
        ));
    }
    Some(Finding {
        kind: VerdictKind::ConnectionFlood,
        sentence: format!("Connection flood: {sentence}"),
        evidence,
        confidence,
        fixes,
    })
}

fn block(address: &str) -> Fix {
    command(
        format!("Block {address}, unless it is a proxy or a NAT of your own"),
        format!("netmoat block add {address}"),
    )
}
