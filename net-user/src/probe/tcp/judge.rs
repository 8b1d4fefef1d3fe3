//! What is to be said of the attempts.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::{
    attempt::{Attempt, End},
    look_back,
};
use crate::{
    host::sock_diag::ListenSocket,
    probe::{Finding, Outcome},
};

/// A SYN without an answer is sent again after a second (RFC 6298 section 2).
const SYNS: &str = "a lost SYN is sent again after a second: packets are lost on the way there or back, or the server drops SYNs under load (`netmoat queues` there)";

/// All findings. `full`: the listener on this very host whose accept queue is full, if that is where it went; `slow`: beyond
/// which a connect is.
pub(super) fn findings(
    attempts: &[Attempt],
    full: Option<&ListenSocket>,
    slow: Duration,
) -> Vec<Finding> {
    let connected = attempts.iter().find(|a| a.end == End::Connected);
    let mut findings: Vec<_> = attempts
        .iter()
        .filter_map(|attempt| failed(attempt, full, connected))
        .collect();
    if let Some(connected) = connected {
        findings.extend(late(connected, slow));
    }
    // The same for each of many addresses is not worth a line each; all attempts are in the facts.
    findings.truncate(8);
    findings
}

/// Whether a source is of a scope that leads not so far: from a unique local or link-local address nobody gets to a global one
/// (RFC 6724 section 5, rule 2 and the labels of section 2.1).
pub(super) fn is_beyond_scope(remote: SocketAddr, source: Option<IpAddr>) -> bool {
    let (IpAddr::V6(to), Some(IpAddr::V6(from))) = (remote.ip(), source) else {
        return false;
    };
    let is_local = |ip: Ipv6Addr| ip.is_unique_local() || ip.is_unicast_link_local();
    is_local(from) && !is_local(to)
}

/// Why an attempt came to nothing.
fn failed(
    attempt: &Attempt,
    full: Option<&ListenSocket>,
    connected: Option<&Attempt>,
) -> Option<Finding> {
    let (remote, took) = (attempt.remote, seconds(attempt.duration_us));
    let syns = match attempt.syns {
        1 => "one SYN".to_owned(),
        n => format!("{n} SYNs"),
    };
    // Somebody who got through by another address gets the page. An address that this host has no route to costs no time.
    let worse = match connected {
        None => Outcome::Failed,
        // A service of this host on one of both loopback addresses; or what no getaddrinfo would try first.
        Some(_) if remote.ip().is_loopback() || is_beyond_scope(remote, attempt.source) => {
            Outcome::Ok
        }
        Some(_) => Outcome::Wrong,
    };
    let (code, outcome, what, next) = match attempt.end {
        End::Connected | End::Later | End::GivenUp => return None,
        End::NoAnswer => {
            if let Some(full) = full.filter(|_| connected.is_none()) {
                return Some(look_back::accept_queue_full(
                    &remote.to_string(),
                    full.port,
                    (full.accept_queue, full.accept_limit),
                ));
            }
            (
                "tcp_filtered",
                worse,
                format!("{remote} does not answer: {syns} in {took}, nothing came back"),
                "a firewall that drops, a wrong port forwarding, a way back that is cut, or a host that is down; `tcpdump` at the server shows whether the SYN arrives",
            )
        }
        End::Refused => (
            "tcp_refused",
            worse,
            format!("{remote} refuses the connection: a RST came back in {took}"),
            "nothing listens on that port there (`ss -ltn`), or only on another address",
        ),
        End::Unreachable => (
            "tcp_unreachable",
            worse,
            match &attempt.icmp {
                Some(icmp) if icmp.from_ourselves => format!(
                    "{remote} cannot be reached: this host gave up after {took} ({})",
                    icmp.what
                ),
                Some(icmp) => format!(
                    "{remote} cannot be reached: {} says \"{}\"",
                    who(icmp.from),
                    icmp.what
                ),
                None => format!(
                    "{remote} cannot be reached: {}",
                    error(attempt, "host unreachable")
                ),
            },
            "the routes of the router that said so; if it was this host, its next hop (see the route stage)",
        ),
        End::Prohibited => (
            "tcp_prohibited",
            worse,
            match &attempt.icmp {
                Some(icmp) => format!(
                    "a firewall rejects the connection to {remote}: {} says \"{}\"",
                    if icmp.from_ourselves {
                        "this host itself".to_owned()
                    } else {
                        who(icmp.from)
                    },
                    icmp.what
                ),
                None => format!(
                    "this host forbids the connection to {remote}: {}",
                    error(attempt, "not permitted")
                ),
            },
            "the rules of the host that said so: `nft list ruleset`; for this one also its routes and what confines the process",
        ),
        End::NoRoute => (
            "tcp_no_route",
            // A host without IPv6 is no news.
            if connected.is_some() {
                Outcome::Ok
            } else {
                Outcome::Failed
            },
            format!(
                "no SYN can be sent to {remote}: {}",
                error(attempt, "no route")
            ),
            "the route stage says what is missing",
        ),
        End::NoLocalPort => (
            "tcp_local_ports",
            worse,
            format!(
                "this host has no local port left for {remote}: {}",
                error(attempt, "address not available")
            ),
            "`ss -tan state time-wait | wc -l`, net.ipv4.ip_local_port_range; connections that are reused take none",
        ),
        End::Failed => (
            "tcp_failed",
            worse,
            format!(
                "the connection to {remote} failed on this host: {}",
                error(attempt, "unknown")
            ),
            "the message is the kernel's",
        ),
    };
    Some(Finding::new(code, outcome, what).next(next))
}

fn who(from: Option<std::net::IpAddr>) -> String {
    from.map_or_else(|| "somebody".to_owned(), |from| from.to_string())
}

fn error(attempt: &Attempt, otherwise: &str) -> String {
    let said = attempt.error.as_deref().unwrap_or(otherwise);
    said.escape_debug().to_string()
}

/// A connection that took long.
fn late(connected: &Attempt, slow: Duration) -> Option<Finding> {
    let (remote, took) = (connected.remote, seconds(connected.duration_us));
    if connected.syns > 1 {
        let what = format!(
            "{remote} answered the {} SYN only, after {took}",
            ordinal(connected.syns)
        );
        return Some(Finding::new("tcp_syn_retransmitted", Outcome::Slow, what).next(SYNS));
    }
    (Duration::from_micros(connected.duration_us) > slow).then(|| {
        let what = format!(
            "{remote} took {took} to answer the SYN, more than {}",
            seconds(u64::try_from(slow.as_micros()).unwrap_or(u64::MAX))
        );
        Finding::new("tcp_slow", Outcome::Slow, what)
            .next("the round trip is long, or the server or a link on the way is loaded: `mtr` shows where")
    })
}

/// In figures that one can take in.
pub(super) fn seconds(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

fn ordinal(n: u32) -> String {
    match n {
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        n => format!("{n}th"),
    }
}

/// What an attempt came to, for people.
pub(super) fn line(attempt: &Attempt) -> (String, String) {
    let took = seconds(attempt.duration_us);
    let syns = match attempt.syns {
        0 | 1 => String::new(),
        n => format!(", {n} SYNs"),
    };
    let text = match attempt.end {
        End::Connected => format!("connected in {took}{syns}"),
        End::Later => format!("connected in {took}{syns}, too late: another had won"),
        End::GivenUp => format!("no answer yet after {took}{syns}: another had won"),
        End::NoAnswer => format!("no answer in {took}{syns}"),
        End::Refused => format!("refused (RST) after {took}"),
        End::Unreachable | End::Prohibited | End::NoRoute | End::NoLocalPort | End::Failed => {
            match &attempt.icmp {
                Some(icmp) => {
                    format!("{} says \"{}\" after {took}", who(icmp.from), icmp.what)
                }
                None => format!("{} after {took}", error(attempt, "failed")),
            }
        }
    };
    (format!("to {}", attempt.remote), text)
}

/// Whether the listener that a SYN to this address would find has no room. `listeners` of the host that has the address.
pub(super) fn full_listener(
    listeners: &[ListenSocket],
    remote: SocketAddr,
) -> Option<&ListenSocket> {
    let takers = || listeners.iter().filter(|l| l.takes(remote));
    // One bound to the very address comes before those for all.
    let bound = takers().any(|l| !l.address.is_unspecified());
    // All sockets of a reuseport group: those that the hash sends elsewhere have room.
    takers()
        .filter(|l| l.address.is_unspecified() != bound)
        .find(|l| l.accept_queue_is_full())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(remote: &str, end: End, syns: u32, ms: u64) -> Attempt {
        Attempt {
            remote: remote.parse().expect("an address"),
            source: None,
            start_us: 0,
            duration_us: ms * 1000,
            end,
            syns,
            error: None,
            icmp: None,
        }
    }

    #[test]
    fn an_address_that_only_a_wider_source_reaches_is_no_fault_of_the_server() {
        let beyond = |remote: &str, source: &str| {
            is_beyond_scope(remote.parse().expect("an address"), source.parse().ok())
        };
        assert!(beyond("[2001:db8::1]:80", "fd00::2"));
        assert!(beyond("[2001:db8::1]:80", "fe80::2"));
        assert!(!beyond("[2001:db8::1]:80", "2001:db8::2"));
        assert!(!beyond("[fd00::1]:80", "fd00::2"));
        assert!(!beyond("192.0.2.1:80", "10.0.0.1"));
        let mut wide = attempt("[2001:db8::1]:80", End::NoAnswer, 2, 2000);
        wide.source = "fd00::2".parse().ok();
        let answered = attempt("192.0.2.1:80", End::Connected, 1, 1);
        assert_eq!(
            told(&[wide, answered.clone()]),
            [("tcp_filtered".to_owned(), Outcome::Ok)]
        );
        let own = attempt("[::1]:80", End::Refused, 1, 0);
        assert_eq!(
            told(&[own, answered]),
            [("tcp_refused".to_owned(), Outcome::Ok)]
        );
    }

    fn told(attempts: &[Attempt]) -> Vec<(String, Outcome)> {
        findings(attempts, None, Duration::from_millis(500))
            .into_iter()
            .map(|finding| (finding.code, finding.outcome))
            .collect()
    }

    fn one(code: &str, outcome: Outcome) -> Vec<(String, Outcome)> {
        vec![(code.to_owned(), outcome)]
    }

    #[test]
    fn each_end_has_its_code_and_the_failure_of_one_of_two_is_wrong() {
        let good = attempt("192.0.2.1:80", End::Connected, 1, 3);
        for (end, code, beside) in [
            (End::NoAnswer, "tcp_filtered", Outcome::Wrong),
            (End::Refused, "tcp_refused", Outcome::Wrong),
            (End::Unreachable, "tcp_unreachable", Outcome::Wrong),
            (End::Prohibited, "tcp_prohibited", Outcome::Wrong),
            (End::NoRoute, "tcp_no_route", Outcome::Ok),
            (End::NoLocalPort, "tcp_local_ports", Outcome::Wrong),
            (End::Failed, "tcp_failed", Outcome::Wrong),
        ] {
            let bad = attempt("[2001:db8::1]:80", end, 2, 1000);
            assert_eq!(told(std::slice::from_ref(&bad)), one(code, Outcome::Failed));
            assert_eq!(told(&[bad, good.clone()]), one(code, beside));
        }
        assert_eq!(told(&[good]), []);
    }

    #[test]
    fn the_listener_that_takes_an_address_is_the_one_that_may_be_full() {
        let bound = |address: &str, waiting| ListenSocket {
            address: address.parse().expect("an address"),
            family: if address.contains(':') { 6 } else { 4 },
            port: 80,
            accept_queue: waiting,
            ..crate::queues::testing::socket(1, 4)
        };
        for (listeners, remote, expected) in [
            (vec![bound("0.0.0.0", 5)], "192.0.2.1:80", true),
            (vec![bound("0.0.0.0", 4)], "192.0.2.1:80", false),
            (vec![bound("0.0.0.0", 5)], "192.0.2.1:81", false),
            (vec![bound("0.0.0.0", 5)], "[2001:db8::1]:80", false),
            (vec![bound("::ffff:192.0.2.1", 5)], "192.0.2.1:80", true),
            (vec![bound("192.0.2.1", 5)], "[::ffff:192.0.2.1]:80", true),
            (
                vec![bound("0.0.0.0", 5), bound("192.0.2.1", 0)],
                "192.0.2.1:80",
                false,
            ),
            (vec![bound("::", 0), bound("::", 5)], "192.0.2.1:80", true),
        ] {
            let full = full_listener(&listeners, remote.parse().expect("an address"));
            assert_eq!(full.is_some(), expected, "{remote}: {listeners:?}");
        }
    }

    #[test]
    fn a_second_syn_and_a_long_wait_are_slow() {
        let again = attempt("192.0.2.1:80", End::Connected, 2, 1040);
        assert_eq!(told(&[again]), one("tcp_syn_retransmitted", Outcome::Slow));
        let long = attempt("192.0.2.1:80", End::Connected, 1, 600);
        assert_eq!(told(&[long]), one("tcp_slow", Outcome::Slow));
    }

    #[test]
    fn who_only_lost_the_race_is_not_blamed() {
        let good = attempt("192.0.2.1:80", End::Connected, 1, 3);
        for end in [End::Later, End::GivenUp] {
            let other = attempt("[2001:db8::1]:80", end, 1, 260);
            assert_eq!(told(&[other, good.clone()]), []);
        }
    }
}
