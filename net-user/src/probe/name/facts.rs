//! The details of a look-up, for the report and for people.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{
    answer::{QueryFacts, RecordFacts, told},
    config::{ResolverFacts, ServersFrom},
};
use crate::probe::{Lines, trace::TraceFacts};

/// The details of a look-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NameFacts {
    /// The addresses, in the order in which they are tried: IPv6 first.
    pub addresses: Vec<IpAddr>,
    /// The host as it is asked for: punycode for names beyond ASCII (RFC 5891).
    pub host: String,
    /// The same in its own script, where that differs.
    pub unicode: Option<String>,
    /// Who knew the addresses; null when nobody did.
    pub source: Option<Source>,
    /// The name that had the addresses: with a search domain, when one was needed.
    pub looked_up: Option<String>,
    /// The aliases on the way (CNAME), with their TTLs.
    pub aliases: Vec<RecordFacts>,
    /// How names are looked up here; null when that was not needed.
    pub resolver: Option<ResolverFacts>,
    /// Each question that the user waits for, in its order.
    pub queries: Vec<QueryFacts>,
    /// Whether the answer came from the name server's cache; null when it was not asked for.
    pub cache: Option<CacheFacts>,
    /// Whether the answer is signed and valid; null when it was not looked at.
    pub dnssec: Option<DnssecFacts>,
    /// The HTTPS records, as a browser asks for them (RFC 9460); null when they were not asked for.
    pub https: Option<HttpsFacts>,
    /// What the name servers say that were not needed.
    pub spare_servers: Vec<QueryFacts>,
    /// The walk from the roots; null when it was not asked for.
    pub trace: Option<TraceFacts>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// Who knew the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The URL has an address.
    Literal,
    /// `--resolve`.
    Given,
    /// The hosts file.
    Hosts,
    /// `localhost` is this machine, without a look-up (RFC 6761, section 6.3).
    Localhost,
    /// A name server.
    Dns,
}

/// Where the name server had its answer from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFacts {
    /// What is known.
    pub state: CacheState,
    /// By what it is known.
    pub how: String,
    /// How long it had been in the cache, in seconds, where that is known.
    pub age_s: Option<u32>,
}

/// Where an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheState {
    /// In the name server's cache before the question.
    Cached,
    /// The name server fetched it for this question.
    Fetched,
    /// The name server owns the zone.
    Authoritative,
    /// It cannot be told.
    Unknown,
}

/// What signatures say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnssecFacts {
    /// What is known.
    pub status: DnssecStatus,
    /// By what it is known.
    pub how: String,
}

/// As RFC 4035, section 4.3, has it; `unknown` is its "indeterminate".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they are the RFC's words")]
pub enum DnssecStatus {
    Secure,
    Insecure,
    Bogus,
    Unknown,
}

/// HTTPS records and the question for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HttpsFacts {
    /// How the question went.
    pub query: QueryFacts,
    /// The records, by priority.
    pub services: Vec<ServiceFacts>,
}

/// One HTTPS record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// 0: an alias for `target`; else the lowest is tried first.
    pub priority: u16,
    /// Who serves; `.`: the name itself.
    pub target: String,
    /// How long it may be kept, in seconds.
    pub ttl_s: u32,
    /// Protocols on offer (`h2`, `h3`, …).
    pub alpn: Vec<String>,
    /// The port, where it is another.
    pub port: Option<u16>,
    /// Addresses to begin with.
    pub hints: Vec<IpAddr>,
    /// A key for Encrypted Client Hello is there.
    pub ech: bool,
}

impl NameFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        let mut line = |label: &str, text: String| {
            if !text.is_empty() {
                lines.push((label.to_owned(), text));
            }
        };
        line("name", self.name());
        line("addresses", joined(&self.addresses));
        if let Some(source) = self.source {
            line("known by", source.told().into());
        }
        if let Some(name) = &self.looked_up
            && *name != self.host.trim_end_matches('.')
        {
            line("looked up as", name.clone());
        }
        if let Some(resolver) = &self.resolver {
            line("resolver", resolver.told());
        }
        for alias in &self.aliases {
            let text = format!("{} → {} (TTL {} s)", alias.name, alias.data, alias.ttl_s);
            line("alias", text);
        }
        for query in &self.queries {
            line("asked", query.told());
        }
        for query in &self.spare_servers {
            line("spare server", query.told());
        }
        if let Some(https) = &self.https {
            line("HTTPS record", https.told());
        }
        if let Some(cache) = &self.cache {
            line("cache", cache.told());
        }
        if let Some(dnssec) = &self.dnssec {
            line(
                "DNSSEC",
                format!("{}: {}", dnssec.status.word(), dnssec.how),
            );
        }
        for note in &self.notes {
            line("note", note.clone());
        }
        lines.extend(self.trace.iter().flat_map(TraceFacts::lines));
        lines
    }

    fn name(&self) -> String {
        match &self.unicode {
            Some(unicode) => format!("{} ({})", unicode.escape_debug(), self.host),
            None => self.host.clone(),
        }
    }
}

impl Source {
    const fn told(self) -> &'static str {
        match self {
            Self::Literal => "the URL itself",
            Self::Given => "--resolve",
            Self::Hosts => "the hosts file",
            Self::Localhost => "its meaning: this machine",
            Self::Dns => "DNS",
        }
    }
}

impl ResolverFacts {
    fn told(&self) -> String {
        let servers = joined(&self.servers.iter().map(place).collect::<Vec<_>>());
        let from = match self.servers_from {
            ServersFrom::Given => " (--dns)",
            ServersFrom::ResolvConf => "",
            ServersFrom::Default => " (resolv.conf names none)",
        };
        let mut told = format!(
            "{servers}{from}, {} s each, {} rounds",
            self.timeout_ms / 1000,
            self.attempts
        );
        if !self.search.is_empty() {
            let search = self.search.join(" ");
            told.push_str(&format!(", search {search} (ndots {})", self.ndots));
        }
        if !self.options.is_empty() {
            told.push_str(&format!(", options {}", self.options.join(" ")));
        }
        told
    }
}

impl QueryFacts {
    /// `A www.example.org at 192.0.2.53: NOERROR in 1.2 ms: 192.0.2.7 (TTL 60 s)`.
    pub fn told(&self) -> String {
        let mut told = format!(
            "{} {} at {}: {} in {}",
            self.kind,
            self.name,
            place(&self.server),
            self.end(),
            self.how()
        );
        let of_kind = self.answers.iter().filter(|r| r.kind == self.kind);
        let records: Vec<_> = of_kind
            .map(|record| format!("{} (TTL {} s)", record.data, record.ttl_s))
            .collect();
        if !records.is_empty() {
            told.push_str(&format!(": {}", records.join(", ")));
        }
        told
    }
}

impl CacheFacts {
    fn told(&self) -> String {
        let state = match (self.state, self.age_s) {
            (CacheState::Cached, Some(age)) => format!("cached {age} s ago"),
            (CacheState::Cached, None) => "cached".into(),
            (CacheState::Fetched, _) => "fetched for this question".into(),
            (CacheState::Authoritative, _) => "none: the server owns the zone".into(),
            (CacheState::Unknown, _) => "unknown".into(),
        };
        format!("{state}: {}", self.how)
    }
}

impl DnssecStatus {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Secure => "secure",
            Self::Insecure => "insecure",
            Self::Bogus => "bogus",
            Self::Unknown => "unknown",
        }
    }
}

impl HttpsFacts {
    fn told(&self) -> String {
        if self.services.is_empty() {
            let end = match &self.query.code {
                Some(code) if code == "NOERROR" => "none".into(),
                _ => self.query.end(),
            };
            return format!("{end} ({})", self.query.how());
        }
        let each = self.services.iter().map(|service| {
            let mut told = match (service.priority, service.target.as_str()) {
                (0, target) => format!("alias of {target}"),
                (priority, target) => format!("{priority} {target}"),
            };
            if !service.alpn.is_empty() {
                told.push_str(&format!(", ALPN {}", service.alpn.join(" ")));
            }
            if let Some(port) = service.port {
                told.push_str(&format!(", port {port}"));
            }
            if !service.hints.is_empty() {
                told.push_str(&format!(", hints {}", joined(&service.hints)));
            }
            if service.ech {
                told.push_str(", with a key for ECH");
            }
            told
        });
        each.collect::<Vec<_>>().join("; ")
    }
}

/// A server: without its port, if that is the usual one.
pub fn place(server: &SocketAddr) -> String {
    match server.port() {
        53 => server.ip().to_string(),
        _ => server.to_string(),
    }
}

/// With commas.
pub fn joined(each: &[impl ToString]) -> String {
    let each: Vec<_> = each.iter().map(ToString::to_string).collect();
    each.join(", ")
}

/// Extended errors of a query, to follow a sentence; empty without any.
pub fn added(query: &QueryFacts) -> String {
    match told(&query.extended) {
        text if text.is_empty() => text,
        text => format!(" (it says: {text})"),
    }
}
