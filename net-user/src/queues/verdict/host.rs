//! Rules of the host: local ports, and TIME_WAIT.

use std::collections::HashSet;

use super::Finding;
use crate::{
    control::queues::{Confidence, Destination, HostQueues, VerdictKind},
    queues::{
        facts::HostLately,
        looks::QueueSettings,
        words::{advice, many, number, per_cent, sysctl},
    },
};

/// From this share of the local ports on, per cent.
const PORTS: u64 = 90;
/// From this share of the limit on, per cent.
const TIME_WAIT: u64 = 90;

/// Applies the rules of the host.
pub(in crate::queues) fn judge(
    host: &HostQueues,
    lately: &HostLately,
    settings: &QueueSettings,
    listening: &HashSet<u16>,
) -> Vec<Finding> {
    [
        port_exhaustion(host, settings, listening),
        time_wait(host, lately, settings),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Few local ports are left for a destination: a port can serve many destinations, but each only once.
fn port_exhaustion(
    host: &HostQueues,
    settings: &QueueSettings,
    listening: &HashSet<u16>,
) -> Option<Finding> {
    let ports = host.ephemeral_ports;
    let scarce =
        |d: &&Destination| ports > 0 && per_cent(d.ports_used.into(), ports.into()) >= PORTS;
    let all: Vec<_> = host.destinations.iter().filter(scarce).collect();
    let worst = *all.first()?;
    let name = |d: &Destination| match d.address.contains(':') {
        true => format!("[{}]:{}", d.address, d.port),
        false => format!("{}:{}", d.address, d.port),
    };
    let (first, last) = settings.local_port_range;
    let mut fixes = Vec::new();
    let mostly_time_wait = worst.time_wait.saturating_mul(2) >= worst.ports_used;
    if mostly_time_wait && settings.tw_reuse != 1 {
        fixes.push(sysctl(
            "Most of them are in TIME_WAIT: let new connections take those over after a second (RFC 6191; needs TCP \
             timestamps at both ends)",
            "net.ipv4.tcp_tw_reuse",
            1,
        ));
    }
    if let Some((from, to)) = crate::queues::tune::wider(settings, listening) {
        fixes.push(sysctl(
            "Widen the range of local ports",
            "net.ipv4.ip_local_port_range",
            format!("\"{from} {to}\""),
        ));
    }
    fixes.push(advice(
        "Keep connections open and use them again (keep-alive, a pool), or connect from, or to, further addresses: each \
         pair of addresses has its own ports",
    ));
    Some(Finding {
        kind: VerdictKind::PortExhaustion,
        sentence: format!(
            "Local ports run out: {} of {} are in use towards {}{}",
            number(worst.ports_used.into()),
            number(ports.into()),
            name(worst),
            match worst.ports_used >= ports {
                true => ", so no further connection to it can be opened",
                false => "",
            }
        ),
        evidence: all
            .iter()
            .map(|d| {
                format!(
                    "{}: {} ports, {} of them in TIME_WAIT; the range is {first} to {last}, {} reserved",
                    name(d),
                    number(d.ports_used.into()),
                    number(d.time_wait.into()),
                    settings.reserved_ports
                )
            })
            .collect(),
        confidence: match worst.ports_used >= ports {
            true => Confidence::High,
            false => Confidence::Medium,
        },
        fixes,
    })
}

/// R-Q-8: at its limit TIME_WAIT is skipped. Many below it are how closed connections end.
fn time_wait(host: &HostQueues, lately: &HostLately, settings: &QueueSettings) -> Option<Finding> {
    let limit = settings.max_tw_buckets;
    let near = limit > 0 && per_cent(host.time_wait.into(), limit.into()) >= TIME_WAIT;
    let skipped = lately.time_wait_overflows;
    if !near && skipped == 0 {
        return None;
    }
    let mut evidence = vec![format!(
        "{} in TIME_WAIT; net.ipv4.tcp_max_tw_buckets is {}",
        number(host.time_wait.into()),
        number(limit.into())
    )];
    if skipped > 0 {
        evidence.push(format!(
            "TcpExtTCPTimeWaitOverflow rose by {} in the last 10 s",
            number(skipped)
        ));
    }
    if let Some(expected) = host.time_wait_expected {
        evidence.push(format!(
            "at the present rate of closing, {} are to be expected (rate x 60 s)",
            number(expected)
        ));
    }
    let mut fixes = vec![sysctl(
        "Allow more of them; each takes about 250 bytes",
        "net.ipv4.tcp_max_tw_buckets",
        limit.saturating_mul(2).max(1),
    )];
    fixes.push(advice(
        "Let the peers close first, or keep connections open for more than one request: TIME_WAIT stands where close() \
         came first",
    ));
    Some(Finding {
        kind: VerdictKind::TimeWaitPressure,
        sentence: match skipped {
            0 => format!(
                "TIME_WAIT is near its limit: {} of {}; beyond it the kernel skips TIME_WAIT",
                number(host.time_wait.into()),
                number(limit.into())
            ),
            n => format!(
                "TIME_WAIT is at its limit of {}: {} in the last 10 s were closed without it, so that late segments may \
                 meet a new connection or draw a reset",
                number(limit.into()),
                many(n, "connection")
            ),
        },
        evidence,
        confidence: if skipped > 0 {
            Confidence::High
        } else {
            Confidence::Medium
        },
        fixes,
    })
}
