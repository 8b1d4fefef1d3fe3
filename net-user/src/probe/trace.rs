//! The walk through a name from the roots on, as resolvers go it; but where they ask one server of a zone, all are asked.

mod chain;
mod cuts;
mod facts;
mod judge;
mod roots;

use std::{collections::HashMap, sync::Arc};

use futures::future::join_all;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::{Instant, timeout_at};

use self::{
    cuts::{Cut, Cuts, Meaning, QUESTIONS, Server, WAIT, apex, follow, has_route},
    facts::some,
    judge::Heard,
};
use super::{
    Family, Finding, Outcome, Walk,
    name::{
        DnssecStatus,
        answer::shown,
        query::{Asked, Patience, Question, ask},
    },
};

pub use self::facts::{
    Leads, ServerStatus, TraceDnssec, TraceEnd, TraceFacts, TraceServer, TraceStep, ZoneKeys,
};

/// Where name servers listen.
const PORT: u16 = 53;
/// How many aliases are followed, as unbound does.
const ALIASES: usize = 11;
/// How many zones are visited, aliases' included.
const STEPS: usize = 40;
/// No root answers.
const UNREACHABLE: &str = "dns_roots_unreachable";
/// Public DNS has no address.
const ABSENT: [&str; 2] = ["dns_nxdomain", "dns_no_address"];
/// How long the walk may take, in times of a stage's time-out.
const STAGES: u32 = 3;

/// Walks. `found`: whether the host's own resolver has an address, so that users get there whatever is found here.
pub async fn beside(walk: &Walk<'_>, name: &Name, found: bool) -> (TraceFacts, Vec<Finding>) {
    let (facts, mut findings) = self::walk(walk, name).await;
    for finding in &mut findings {
        match finding.outcome {
            // Names of home networks, companies and containers are none of the public's.
            Outcome::Failed if found && ABSENT.contains(&finding.code.as_str()) => {
                finding.outcome = Outcome::Ok;
                finding.what.push_str(
                    "; the host's own resolver has an address: a local name or split horizon",
                );
                finding.next = None;
            }
            // Says nothing about the name.
            Outcome::Wrong if found && finding.code == UNREACHABLE => finding.outcome = Outcome::Ok,
            Outcome::Failed if found => finding.outcome = Outcome::Wrong,
            _ => {}
        }
    }
    (facts, findings)
}

/// Walks from the roots to the addresses of a name.
pub async fn walk(walk: &Walk<'_>, name: &Name) -> (TraceFacts, Vec<Finding>) {
    let start = walk.now_us();
    let mut facts = TraceFacts {
        duration_us: 0,
        end: TraceEnd::NotBegun,
        addresses: Vec::new(),
        aliases: Vec::new(),
        steps: Vec::new(),
        dnssec: None,
    };
    let trace = walk.plan.trace.clone().unwrap_or_default();
    let files = roots::hints(trace.root_hints.as_deref())
        .and_then(|hints| Ok((hints, roots::anchors(trace.trust_anchor.as_deref())?)));
    let (hints, anchors) = match files {
        Ok(files) => files,
        Err(error) => {
            let what = format!("the walk from the roots cannot begin: {error:#}");
            let next = "give --root-hints a file like named.root, --trust-anchor one of DNSKEY or DS records";
            let finding = Finding::new("dns_trace_files", Outcome::Wrong, what).next(next);
            return (facts, vec![finding]);
        }
    };
    let mut name = name.to_lowercase();
    name.set_fqdn(true);
    let mut descent = Descent {
        walk,
        cuts: Arc::new(Cuts::new(hints, walk.plan.family, PORT)),
        facts,
        findings: Vec::new(),
        names: vec![name],
        zones: Vec::new(),
    };
    let deadline = Instant::now() + walk.plan.timeout * STAGES;
    let end = timeout_at(deadline, descent.go()).await;
    descent.facts.end = end.unwrap_or(TraceEnd::TimeOver);
    descent.conclude();
    descent.signatures(&anchors).await;
    facts = descent.facts;
    facts.duration_us = walk.since(start).1;
    (facts, descent.findings)
}

/// A walk under way.
struct Descent<'a> {
    walk: &'a Walk<'a>,
    cuts: Arc<Cuts>,
    facts: TraceFacts,
    findings: Vec<Finding>,
    /// The name and its aliases so far; the last is looked for.
    names: Vec<Name>,
    /// The zones so far, each once.
    zones: Vec<Name>,
}

impl Descent<'_> {
    /// The kinds of address that are wanted; the first leads the way.
    fn kinds(&self) -> &'static [RecordType] {
        match self.walk.plan.family {
            Some(Family::V4) => &[RecordType::A],
            Some(Family::V6) => &[RecordType::AAAA],
            None => &[RecordType::A, RecordType::AAAA],
        }
    }

    async fn go(&mut self) -> TraceEnd {
        let mut without = Vec::new();
        let mut from = None;
        for _ in 0..STEPS {
            let Some(name) = self.names.last().cloned() else {
                break;
            };
            let Some(cut) = from.take().or_else(|| self.cuts.nearest(&name, false)) else {
                break;
            };
            let heard = self.step(&cut, &name, std::mem::take(&mut without)).await;
            let Some(leader) = leader(&heard) else {
                return TraceEnd::Nowhere;
            };
            let Some((asked, meaning)) = &leader.told else {
                return TraceEnd::Nowhere;
            };
            match meaning {
                Meaning::NoName => return TraceEnd::NoName,
                Meaning::NoData if leader.found.1.is_empty() => return TraceEnd::NoAddress,
                Meaning::Referral(child) => {
                    let Ok(message) = &asked.answer else {
                        return TraceEnd::Nowhere;
                    };
                    let (next, missing) = self.cuts.refer(&cut.zone, child, message, 0).await;
                    if self.cuts.is_spent() && next.servers.is_empty() {
                        return TraceEnd::QuestionsOver;
                    }
                    // Whom there was no question left for, nobody knows to be missing.
                    without = match self.cuts.is_spent() {
                        true => Vec::new(),
                        false => missing,
                    };
                    from = Some(next);
                }
                _ => {
                    let (aliases, addresses) = &leader.found;
                    for alias in aliases {
                        let again = self.names.contains(alias);
                        self.facts.aliases.push(shown(alias));
                        self.names.push(alias.to_lowercase());
                        if again || self.names.len() > ALIASES {
                            return TraceEnd::AliasLoop;
                        }
                    }
                    if !addresses.is_empty() {
                        self.facts.addresses.clone_from(addresses);
                        return TraceEnd::Found;
                    }
                    if aliases.is_empty() {
                        return TraceEnd::NoAddress;
                    }
                }
            }
        }
        TraceEnd::TimeOver
    }

    /// Asks all servers of a zone at once.
    async fn step(&mut self, cut: &Cut, name: &Name, without: Vec<Name>) -> Vec<Heard> {
        (self.walk.progress)(&format!("asking the servers of {}", shown(&cut.zone)));
        let again = self.zones.contains(&cut.zone);
        if !again {
            self.zones.push(cut.zone.clone());
        }
        let servers = cut.servers.iter().cloned();
        let heard =
            join_all(servers.map(|server| hear(server, &cut.zone, name, self.kinds()))).await;
        let below = leader(&heard)
            .and_then(|leader| leader.apex.clone())
            .filter(|apex| *apex != cut.zone);
        if let Some(below) = &below
            && !self.zones.contains(below)
        {
            self.zones.push(below.clone());
        }
        let mut step = TraceStep {
            zone: shown(&cut.zone),
            name: shown(name),
            leads: leader(&heard).and_then(Heard::leads),
            answered_for: below.as_ref().map(shown),
            servers: heard.iter().map(Heard::facts).collect(),
            without_address: without.iter().map(shown).collect(),
        };
        step.servers
            .sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
        let unreachable = cut.zone.is_root()
            && step
                .servers
                .iter()
                .all(|s| matches!(s.status, ServerStatus::Dead | ServerStatus::NoRoute));
        if unreachable && !step.servers.is_empty() {
            let what = format!(
                "none of {} addresses of root servers answers from here",
                step.servers.len()
            );
            let next = "this network may let only its own resolver ask; run the trace where port 53 is open, or give --root-hints";
            self.findings
                .push(Finding::new(UNREACHABLE, Outcome::Wrong, what).next(next));
        } else {
            let found = judge::findings(&step, self.walk.plan.slow.name).into_iter();
            // Of servers that are asked again for an alias, all but the last straw has been said.
            self.findings
                .extend(found.filter(|f| !again || f.outcome == Outcome::Failed));
        }
        self.facts.steps.push(step);
        // Those that answer soonest are asked first from now on.
        let mut good: Vec<_> = heard.iter().filter(|h| h.leads().is_some()).collect();
        good.sort_by_key(|h| h.told.as_ref().map(|(asked, _)| asked.took));
        if !good.is_empty() {
            self.cuts.learn(Cut {
                zone: cut.zone.clone(),
                servers: good.into_iter().map(|h| h.server.clone()).collect(),
            });
        }
        heard
    }

    /// What the end means for users.
    fn conclude(&mut self) {
        let last = self.names.last().map(shown).unwrap_or_default();
        let zone = self
            .facts
            .steps
            .last()
            .map(|s| s.answered_for.as_ref().unwrap_or(&s.zone).clone())
            .unwrap_or_default();
        let by = match self.facts.aliases.is_empty() {
            true => String::new(),
            false => format!(
                ", to which the aliases {} lead",
                some(&self.facts.aliases, ", ")
            ),
        };
        let (code, what, next) = match self.facts.end {
            TraceEnd::NoName => (
                "dns_nxdomain",
                format!("the servers of {zone} say that there is no {last} (NXDOMAIN){by}"),
                "look for a slip in the name; add it to the zone if it should be there",
            ),
            TraceEnd::NoAddress => (
                "dns_no_address",
                format!("the servers of {zone} know {last}, but no address of it{by}"),
                "add A and AAAA records to the name",
            ),
            TraceEnd::AliasLoop => (
                "dns_alias_loop",
                format!(
                    "the aliases of {} do not end: {}",
                    self.names.first().map(shown).unwrap_or_default(),
                    some(&self.facts.aliases, ", ")
                ),
                "point the last CNAME record to a name that has addresses",
            ),
            TraceEnd::TimeOver => (
                "dns_trace_time",
                format!("the walk from the roots had not ended at {zone} when its time was over"),
                "give it more time (--timeout)",
            ),
            TraceEnd::QuestionsOver => (
                "dns_trace_questions",
                format!(
                    "after {QUESTIONS} questions the servers below {zone} still had no address: their names lead to ever more zones"
                ),
                "give these servers glue, or names in a zone whose servers have it",
            ),
            // Their own findings say it.
            TraceEnd::Found | TraceEnd::Nowhere | TraceEnd::NotBegun => return,
        };
        self.findings
            .push(Finding::new(code, Outcome::Failed, what).next(next));
    }

    async fn signatures(&mut self, anchors: &roots::Anchors) {
        if matches!(
            self.facts.end,
            TraceEnd::Nowhere | TraceEnd::TimeOver | TraceEnd::QuestionsOver | TraceEnd::AliasLoop
        ) {
            return;
        }
        (self.walk.progress)("following the signatures");
        let kind = self.kinds().first().copied().unwrap_or(RecordType::A);
        let dnssec = chain::follow(&self.cuts, anchors, &self.zones, &self.names, kind).await;
        if dnssec.status == DnssecStatus::Bogus {
            let what = format!(
                "the signatures do not hold, users of resolvers that validate get nothing: {}",
                dnssec.why.as_deref().unwrap_or("see the trace")
            );
            let next = "sign the zone anew, or see that the DS record at the parent (at the registrar) is of the zone's key";
            self.findings
                .push(Finding::new("dns_bogus", Outcome::Failed, what).next(next));
        }
        self.facts.dnssec = Some(dnssec);
    }
}

/// One server's answers. What leads down is asked of all; what the end needs (the other family, the version), of those
/// at the end.
async fn hear(server: Server, zone: &Name, name: &Name, kinds: &[RecordType]) -> Heard {
    let mut heard = Heard {
        server,
        told: None,
        found: Default::default(),
        serial: None,
        apex: None,
    };
    if !has_route(heard.server.address) {
        return heard;
    }
    let at = (heard.server.address, PORT).into();
    let patience = Patience {
        tries: 2,
        ..Patience::once(WAIT)
    };
    let put = async |name: &Name, kind| -> Asked {
        ask(at, &Question::iterative(name.clone(), kind), patience).await
    };
    let first = kinds.first().copied().unwrap_or(RecordType::A);
    let asked = put(name, first).await;
    let meaning = Meaning::of(zone, name, &asked);
    if let (Meaning::Answer | Meaning::NoData, Ok(message)) = (&meaning, &asked.answer) {
        heard.found = follow(zone, name, message);
        let others = join_all(kinds.iter().skip(1).map(|kind| put(name, *kind)));
        // Asked for the name, its SOA record tells also which zone the answer is from.
        let (others, version) = tokio::join!(others, put(name, RecordType::SOA));
        for other in others.iter().filter_map(|other| other.answer.as_ref().ok()) {
            heard.found.1.extend(follow(zone, name, other).1);
        }
        heard.found.1.sort_unstable();
        heard.found.1.dedup();
        let of = |asked: &Asked| apex(zone, name, asked.answer.as_ref().ok()?);
        let version = match of(&version) {
            Some(version) => Some(version),
            // Of an alias there is no SOA record to be told.
            None => of(&put(zone, RecordType::SOA).await),
        };
        (heard.apex, heard.serial) = version.unzip();
    } else if let (Meaning::NoName, Ok(message)) = (&meaning, &asked.answer) {
        heard.apex = apex(zone, name, message).map(|(zone, _)| zone);
    }
    heard.told = Some((asked, meaning));
    heard
}

/// A server that says what most good ones say.
fn leader(heard: &[Heard]) -> Option<&Heard> {
    let mut votes: HashMap<Leads, usize> = HashMap::new();
    for leads in heard.iter().filter_map(Heard::leads) {
        *votes.entry(leads).or_default() += 1;
    }
    let most = votes.values().max().copied()?;
    let chosen = |h: &&Heard| {
        h.leads()
            .is_some_and(|leads| votes.get(&leads) == Some(&most))
    };
    // Of as many on both sides, those who know a way.
    let on = |h: &&Heard| !matches!(h.leads(), Some(Leads::NoName | Leads::NoAddress));
    let mut all = heard.iter().filter(chosen);
    let first = all.clone().next();
    all.find(on).or(first)
}
