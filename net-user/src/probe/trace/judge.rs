//! What is wrong with the servers of a zone.

use std::{net::IpAddr, time::Duration};

use hickory_resolver::proto::rr::Name;

use super::{
    cuts::{Meaning, Server, WAIT},
    facts::{Leads, ServerStatus, TraceServer, TraceStep, milliseconds, some},
};
use crate::probe::{
    Finding, Outcome,
    name::{
        answer::shown,
        query::{Asked, Silence, micros},
    },
};

/// What one server said at one address.
pub(super) struct Heard {
    pub server: Server,
    /// The answer and its meaning; none without a route to it.
    pub told: Option<(Asked, Meaning)>,
    /// Aliases and addresses that it gave.
    pub found: (Vec<Name>, Vec<IpAddr>),
    /// The version of the zone that it has.
    pub serial: Option<u32>,
    /// The zone that its answer is from, where that is known.
    pub apex: Option<Name>,
}

/// What a server says that leads to nothing.
const NO_NAME: &str = "no such name";
const NO_ADDRESS: &str = "no address";

impl Heard {
    pub fn status(&self) -> ServerStatus {
        match &self.told {
            None => ServerStatus::NoRoute,
            Some((asked, Meaning::Silent(_))) if asked.truncated => ServerStatus::TcpFiltered,
            Some((_, Meaning::Silent(_))) => ServerStatus::Dead,
            Some((_, Meaning::Lame(_))) => ServerStatus::Lame,
            Some((_, Meaning::Failure)) => ServerStatus::Failure,
            Some((_, Meaning::Odd(_))) => ServerStatus::Odd,
            Some(_) => ServerStatus::Good,
        }
    }

    /// Where it leads, if it is good.
    pub fn leads(&self) -> Option<Leads> {
        let (_, meaning) = self.told.as_ref()?;
        match meaning {
            Meaning::Referral(zone) => Some(Leads::Referral(shown(zone))),
            // It may have an address of the other family.
            Meaning::NoData if self.found.1.is_empty() => Some(Leads::NoAddress),
            Meaning::NoData => Some(Leads::Addresses),
            Meaning::NoName => Some(Leads::NoName),
            Meaning::Answer => Some(match (&self.found, self.found.0.last()) {
                ((_, addresses), Some(to)) if addresses.is_empty() => Leads::Alias(shown(to)),
                ((_, addresses), None) if addresses.is_empty() => Leads::NoAddress,
                _ => Leads::Addresses,
            }),
            _ => None,
        }
    }

    fn said(&self) -> String {
        let Some((asked, meaning)) = &self.told else {
            return "no route from here, not asked".into();
        };
        match meaning {
            Meaning::Answer | Meaning::Referral(_) | Meaning::NoData | Meaning::NoName => {
                match self.leads() {
                    Some(Leads::Referral(zone)) => format!("see {zone}"),
                    Some(Leads::Alias(to)) => format!("an alias of {to}"),
                    Some(Leads::Addresses) => list(&self.found.1),
                    Some(Leads::NoName) => NO_NAME.into(),
                    _ => NO_ADDRESS.into(),
                }
            }
            Meaning::Lame(how) => how.clone(),
            Meaning::Failure => "answers SERVFAIL".into(),
            Meaning::Odd(code) => format!("answers {code}"),
            Meaning::Silent(silence) if asked.truncated => format!("{} over TCP", silence.told()),
            Meaning::Silent(Silence::Timeout) => format!(
                "does not answer ({} questions, {} each)",
                asked.tries.len(),
                milliseconds(micros(WAIT))
            ),
            Meaning::Silent(silence) => silence.told(),
        }
    }

    pub fn facts(&self) -> TraceServer {
        let asked = self.told.as_ref().map(|(asked, _)| asked);
        TraceServer {
            name: shown(&self.server.name),
            address: self.server.address,
            duration_us: asked.map(|asked| micros(asked.took)),
            status: self.status(),
            said: self.said(),
            truncated: asked.is_some_and(|asked| asked.truncated),
            serial: self.serial,
            addresses: self.found.1.clone(),
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    some(&all, ", ")
}

/// A kind of trouble: its code, what a server with it does, and what is done about it.
const TROUBLES: [(ServerStatus, &str, &str, &str); 5] = [
    (
        ServerStatus::Lame,
        "dns_lame",
        "serve the zone",
        "add the zone to that server, or take the server out of the NS records of the zone and of its parent (at the registrar)",
    ),
    (
        ServerStatus::Dead,
        "dns_dead_server",
        "answer",
        "see whether the server runs and whether a filter drops port 53 on the way, or take it out of the NS records",
    ),
    (
        ServerStatus::Failure,
        "dns_servfail",
        "get the zone to work (SERVFAIL)",
        "read that server's log: a zone file that does not load, or a secondary that has not reached its primary for too long",
    ),
    (
        ServerStatus::Odd,
        "dns_odd_answer",
        "answer as they should",
        "read that server's log; it may be no name server for the public at all",
    ),
    (
        ServerStatus::TcpFiltered,
        "dns_tcp_filtered",
        "answer over TCP what fits no datagram",
        "let TCP port 53 through to that server (RFC 7766), or make the answer smaller",
    ),
];

/// The findings on the servers of one zone.
pub(super) fn findings(step: &TraceStep, slow: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of = |status: ServerStatus| step.servers.iter().filter(move |s| s.status == status);
    let asked = step.servers.len() - of(ServerStatus::NoRoute).count();
    let none = of(ServerStatus::Good).next().is_none();
    let outcome = if none {
        Outcome::Failed
    } else {
        Outcome::Wrong
    };
    for (status, code, should, next) in TROUBLES {
        let bad: Vec<_> = of(status).collect();
        if bad.is_empty() {
            continue;
        }
        let what = format!(
            "{} of {asked} server addresses of {} do not {should}: {}",
            bad.len(),
            step.zone,
            by_name(&bad)
        );
        findings.push(Finding::new(code, outcome, what).next(next));
    }
    if asked == 0 && !step.servers.is_empty() {
        let what = format!(
            "no server of {} can be reached from here: there is no route",
            step.zone
        );
        findings.push(Finding::new("dns_unreachable", Outcome::Failed, what));
    }
    if !step.without_address.is_empty() {
        let outcome = if step.servers.is_empty() {
            Outcome::Failed
        } else {
            Outcome::Wrong
        };
        let what = format!(
            "for {} of the servers of {} no address is to be found: {}",
            step.without_address.len(),
            step.zone,
            some(&step.without_address, ", ")
        );
        let next = "add the addresses as glue at the parent (at the registrar), or name servers that have addresses";
        findings.push(Finding::new("dns_missing_glue", outcome, what).next(next));
    }
    let limit = micros(slow);
    let late = |s: &&TraceServer| s.duration_us.is_some_and(|took| took > limit);
    let late: Vec<_> = of(ServerStatus::Good).filter(late).collect();
    if !late.is_empty() {
        let times = late.iter().filter_map(|s| s.duration_us);
        let what = format!(
            "{} of {asked} server addresses of {} are slow, the slowest with {}: {}",
            late.len(),
            step.zone,
            milliseconds(times.max().unwrap_or_default()),
            some(&late.iter().map(named).collect::<Vec<_>>(), ", ")
        );
        let next = "look at that server's load and at the way to it; resolvers turn to the others when they have noticed";
        findings.push(Finding::new("dns_slow", Outcome::Slow, what).next(next));
    }
    let cut: Vec<_> = of(ServerStatus::Good).filter(|s| s.truncated).collect();
    if !cut.is_empty() {
        let what = format!(
            "the answer of {} of {asked} server addresses of {} fits no datagram and came over TCP",
            cut.len(),
            step.zone
        );
        let next = "a look-up costs two more round trips; fewer or shorter records avoid it";
        findings.push(Finding::new("dns_truncated", Outcome::Ok, what).next(next));
    }
    findings.extend(differences(step));
    findings
}

/// Good servers that do not agree.
fn differences(step: &TraceStep) -> Option<Finding> {
    let good = || {
        step.servers
            .iter()
            .filter(|s| s.status == ServerStatus::Good)
    };
    let first = good().next()?;
    // What is said has the addresses in it, or where it leads.
    let same_text = good().all(|s| s.addresses == first.addresses && s.said == first.said);
    let same_serial = good().all(|s| s.serial == first.serial);
    let each = || {
        let each = good().map(|s| match s.serial {
            Some(serial) => format!("{} {} (version {serial}): {}", s.name, s.address, s.said),
            None => format!("{} {}: {}", s.name, s.address, s.said),
        });
        some(&each.collect::<Vec<_>>(), "; ")
    };
    let zone = step.answered_for.as_ref().unwrap_or(&step.zone);
    // Addresses, an alias or a referral by one server, nothing by another: it depends on luck whether users get there.
    let is_nothing = |s: &TraceServer| [NO_NAME, NO_ADDRESS].contains(&s.said.as_str());
    let by_luck = good().any(is_nothing) && !good().all(is_nothing);
    match (same_text, same_serial) {
        (true, true) => None,
        (true, false) => Some(Finding::new(
            "dns_serials_differ",
            Outcome::Ok,
            format!("the servers of {zone} have different versions of it, with the same answer: {}", each()),
        ).next("if it stays so: zone transfers to the secondaries fail")),
        (false, _) if by_luck => Some(Finding::new(
            "dns_differs",
            Outcome::Wrong,
            format!("the servers of {zone} do not agree on whether there is an address: {}", each()),
        ).next("see that all have the same version of the zone: a zone transfer that fails, a server that was forgotten")),
        // Large networks have another version and other addresses on each server, and that is as they want it.
        (false, _) => Some(Finding::new(
            "dns_answers_vary",
            Outcome::Ok,
            format!("the servers of {zone} give different answers, as for load balancing: {}", each()),
        )),
    }
}

/// `ns1.example (192.0.2.1, 2001:db8::1): answers REFUSED`, servers with the same trouble together.
fn by_name(servers: &[&TraceServer]) -> String {
    let mut groups: Vec<(&str, &str, Vec<IpAddr>)> = Vec::new();
    for server in servers {
        let at = groups
            .iter_mut()
            .find(|(name, said, _)| *name == server.name && *said == server.said);
        match at {
            Some((_, _, addresses)) => addresses.push(server.address),
            None => groups.push((&server.name, &server.said, vec![server.address])),
        }
    }
    let told = groups
        .iter()
        .map(|(name, said, addresses)| format!("{name} ({}) {said}", list(addresses)));
    some(&told.collect::<Vec<_>>(), "; ")
}

fn named(server: &&TraceServer) -> String {
    format!("{} {}", server.name, server.address)
}

#[cfg(test)]
mod tests;
