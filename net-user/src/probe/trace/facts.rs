//! What a walk from the roots saw, for the report and for people.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::probe::{Lines, name::DnssecStatus};

/// How many servers of a zone are shown to people one by one, unless something is wrong with them.
const SHOWN: usize = 4;

/// How many things are named in a sentence.
const SOME: usize = 8;

/// A walk from the roots to a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceFacts {
    /// How long it took, in microseconds; no user waits for it.
    pub duration_us: u64,
    /// How it ended.
    pub end: TraceEnd,
    /// The addresses at its end, sorted.
    pub addresses: Vec<IpAddr>,
    /// The aliases on the way (CNAME), in its order.
    pub aliases: Vec<String>,
    /// Zone by zone; an alias begins again at the nearest zone that is known.
    pub steps: Vec<TraceStep>,
    /// The chain of signatures; null when it was not followed.
    pub dnssec: Option<TraceDnssec>,
}

/// How a walk from the roots ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceEnd {
    /// With addresses.
    Found,
    /// The name is there but has no address.
    NoAddress,
    /// There is no such name.
    NoName,
    /// The aliases go in a circle, or are too many.
    AliasLoop,
    /// No server of a zone was of help.
    Nowhere,
    /// It took too long.
    TimeOver,
    /// It took too many questions to find the addresses of servers.
    QuestionsOver,
    /// It could not begin: a file could not be used.
    NotBegun,
}

/// One zone: all of its servers were asked the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceStep {
    /// The zone; `.` is the root.
    pub zone: String,
    /// The name that was asked for.
    pub name: String,
    /// What most of its servers say.
    pub leads: Option<Leads>,
    /// Each server at each of its addresses.
    pub servers: Vec<TraceServer>,
    /// The zone that the answer is from, where its servers serve that one below, too, and so need not refer to it.
    pub answered_for: Option<String>,
    /// Servers of the zone for which no address was found.
    pub without_address: Vec<String>,
}

/// Where a zone's servers lead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leads {
    /// To the servers of another zone.
    Referral(String),
    /// To another name.
    Alias(String),
    /// To addresses.
    Addresses,
    /// To nothing: no address there.
    NoAddress,
    /// To nothing: no such name.
    NoName,
}

/// One server at one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceServer {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// How long its answer took, tries and TCP included, in microseconds; null when it was not asked.
    pub duration_us: Option<u64>,
    /// What came of it.
    pub status: ServerStatus,
    /// The same in words.
    pub said: String,
    /// Its answer did not fit a datagram (TC), so TCP was tried.
    pub truncated: bool,
    /// The version of the zone that it has (SOA), where it was asked for it.
    pub serial: Option<u32>,
    /// The addresses that it gave, sorted.
    pub addresses: Vec<IpAddr>,
}

/// What came of asking a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerStatus {
    /// It did what it is there for.
    Good,
    /// It does not serve the zone.
    Lame,
    /// SERVFAIL.
    Failure,
    /// Another response code.
    Odd,
    /// No answer.
    Dead,
    /// An answer over UDP that was cut, none over TCP.
    TcpFiltered,
    /// There is no route to it from here; it was not asked.
    NoRoute,
}

/// The chain of signatures (DNSSEC).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceDnssec {
    /// Of the end of the walk.
    pub status: DnssecStatus,
    /// Why it is not secure.
    pub why: Option<String>,
    /// Each zone on the way.
    pub zones: Vec<ZoneKeys>,
}

/// The keys of a zone, and whether they are the right ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZoneKeys {
    /// The zone.
    pub zone: String,
    /// Tags of the keys that its parent vouches for (DS).
    pub vouched: Vec<u16>,
    /// Tags of the keys that it has (DNSKEY).
    pub keys: Vec<u16>,
    /// What the chain down to these keys is worth.
    pub status: DnssecStatus,
    /// Why it is bogus.
    pub why: Option<String>,
}

impl TraceFacts {
    /// For people: a tree, zone by zone.
    pub fn lines(&self) -> Lines {
        let mut tree = vec![format!(
            "from the roots, {}: {}",
            milliseconds(self.duration_us),
            self.ended()
        )];
        for step in &self.steps {
            tree.push(format!("  {}", step.told()));
            let keys = self.dnssec.as_ref().and_then(|dnssec| {
                let of_it = |zone: &&ZoneKeys| zone.zone == step.zone;
                dnssec.zones.iter().find(of_it)
            });
            if let Some(keys) = keys {
                tree.push(format!("    {}", keys.told()));
            }
            let wrong = |s: &&TraceServer| s.status != ServerStatus::Good || s.truncated;
            let all = step.servers.len() <= SHOWN;
            let shown = step.servers.iter().filter(|server| all || wrong(server));
            tree.extend(shown.map(|server| format!("    {}", server.told())));
            let without = step.without_address.iter();
            tree.extend(without.map(|name| format!("    {name}: no address found")));
        }
        if let Some(dnssec) = &self.dnssec {
            let why = dnssec
                .why
                .as_ref()
                .map_or(String::new(), |w| format!(": {w}"));
            tree.push(format!("  signatures: {}{why}", dnssec.status.word()));
        }
        vec![("trace".into(), tree.join("\n"))]
    }

    fn ended(&self) -> String {
        match self.end {
            TraceEnd::Found => {
                let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
                addresses.join(", ")
            }
            TraceEnd::NoAddress => "the name has no address".into(),
            TraceEnd::NoName => "there is no such name".into(),
            TraceEnd::AliasLoop => "the aliases do not end".into(),
            TraceEnd::Nowhere => "no server leads on".into(),
            TraceEnd::TimeOver => "the time was over".into(),
            TraceEnd::QuestionsOver => "too many questions would have been needed".into(),
            TraceEnd::NotBegun => "not begun".into(),
        }
    }
}

impl TraceStep {
    /// `test: 4 of 4 servers answer, 0.4–1.2 ms: see shop.test`.
    fn told(&self) -> String {
        let good: Vec<_> = self
            .servers
            .iter()
            .filter(|server| server.status == ServerStatus::Good)
            .filter_map(|server| server.duration_us)
            .collect();
        let mut text = format!(
            "{}: {} of {} servers answer",
            self.zone,
            good.len(),
            self.servers.len()
        );
        if let (Some(first), Some(last)) = (good.iter().min(), good.iter().max()) {
            text += &format!(
                ", {}–{}",
                first.div_ceil(100) as f64 / 10.0,
                milliseconds(*last)
            );
        }
        if let Some(zone) = &self.answered_for {
            text += &format!(", for {zone} itself");
        }
        match &self.leads {
            Some(Leads::Referral(zone)) => text += &format!(": see {zone}"),
            Some(Leads::Alias(name)) => text += &format!(": {} is {name}", self.name),
            Some(Leads::Addresses) => text += &format!(": {} has addresses", self.name),
            Some(Leads::NoAddress) => text += &format!(": {} has no address", self.name),
            Some(Leads::NoName) => text += &format!(": no {}", self.name),
            None => {}
        }
        text
    }
}

impl TraceServer {
    fn told(&self) -> String {
        let took = self
            .duration_us
            .map_or(String::new(), |t| format!(", {}", milliseconds(t)));
        let tcp = match (self.truncated, self.status) {
            (true, ServerStatus::Good) => ", over TCP since it fits no datagram",
            _ => "",
        };
        let serial = self
            .serial
            .map_or(String::new(), |s| format!(", version {s}"));
        format!(
            "{} {}: {}{took}{tcp}{serial}",
            self.name, self.address, self.said
        )
    }
}

impl ZoneKeys {
    fn told(&self) -> String {
        let list = |tags: &[u16]| {
            let tags: Vec<_> = tags.iter().map(ToString::to_string).collect();
            tags.join(", ")
        };
        let status = self.status.word();
        match (self.keys.is_empty(), self.vouched.is_empty()) {
            (true, true) => format!("not signed: {status}"),
            (true, false) => format!(
                "no keys, though the parent vouches for {}: {status}",
                list(&self.vouched)
            ),
            // The root has no parent.
            (false, true) => format!("keys {}: {status}", list(&self.keys)),
            (false, false) => format!(
                "keys {}, of which the parent vouches for {}: {status}",
                list(&self.keys),
                list(&self.vouched)
            ),
        }
    }
}

/// The first of them, and how many more there are: there are as many as a zone likes.
pub(super) fn some(all: &[String], between: &str) -> String {
    let first = all.get(..SOME).unwrap_or(all).join(between);
    match all.len().saturating_sub(SOME) {
        0 => first,
        more => format!("{first}{between}and {more} more"),
    }
}

/// With one digit after the point.
pub(super) fn milliseconds(microseconds: u64) -> String {
    format!("{} ms", microseconds.div_ceil(100) as f64 / 10.0)
}
