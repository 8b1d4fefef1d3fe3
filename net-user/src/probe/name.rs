//! Name: the addresses of a URL's host, as a browser on this machine finds them. The hosts file and the name servers are
//! asked as the C library does it (getaddrinfo(3)); HTTPS records, DNSSEC, the cache and spare servers are looked at
//! beside that, when no user would wait any more.

pub mod answer;
mod cache;
pub mod config;
mod dnssec;
mod extra;
mod facts;
mod judge;
pub mod lookup;
pub mod query;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::Instant as Deadline;
use url::{Host, Url};

use self::{
    answer::{QueryFacts, shown},
    config::Config,
    facts::place,
    lookup::{Looked, kinds},
    query::Asked,
};
use super::{Facts, Finding, Layer, Outcome, Stage, Walk, trace};

pub use self::facts::{
    CacheFacts, CacheState, DnssecFacts, DnssecStatus, HttpsFacts, NameFacts, ServiceFacts, Source,
};

/// A look-up under way.
struct Resolution<'a> {
    walk: &'a Walk<'a>,
    url: &'a Url,
    port: u16,
    facts: NameFacts,
    findings: Vec<Finding>,
    /// How long the user waited.
    took: Duration,
}

/// Finds the addresses of a URL's host; none when that failed.
pub async fn resolve(walk: &Walk<'_>, url: &Url, port: u16) -> (Stage, Vec<IpAddr>) {
    let start = walk.now_us();
    let mut resolution = Resolution {
        walk,
        url,
        port,
        facts: NameFacts {
            host: url.host_str().unwrap_or_default().to_owned(),
            ..NameFacts::default()
        },
        findings: Vec::new(),
        took: Duration::ZERO,
    };
    resolution.host().await;
    resolution.trace().await;
    let Resolution {
        facts,
        findings,
        took,
        ..
    } = resolution;
    let addresses = facts.addresses.clone();
    let stage = Stage::new(
        Layer::Name,
        (start, query::micros(took)),
        summary(&facts),
        findings,
        Facts::Name(Box::new(facts)),
    );
    (stage, addresses)
}

impl Resolution<'_> {
    async fn host(&mut self) {
        let start = Instant::now();
        match self.url.host() {
            Some(Host::Ipv4(address)) => self.known(Source::Literal, vec![address.into()]),
            Some(Host::Ipv6(address)) => self.known(Source::Literal, vec![address.into()]),
            Some(Host::Domain(host)) => self.domain(host, start).await,
            None => {}
        }
        if self.took.is_zero() {
            self.took = start.elapsed();
        }
    }

    /// From the roots, if that is wanted. What it finds goes first: it is nearer to the cause.
    async fn trace(&mut self) {
        let domain = matches!(self.url.host(), Some(Host::Domain(_)));
        if self.walk.plan.trace.is_none() || !domain {
            return;
        }
        let name = self.facts.looked_up.as_ref().unwrap_or(&self.facts.host);
        let Ok(name) = Name::from_ascii(name) else {
            return;
        };
        let found = !self.facts.addresses.is_empty();
        let (facts, findings) = trace::beside(self.walk, &name, found).await;
        self.findings.splice(0..0, findings);
        self.facts.trace = Some(facts);
    }

    async fn domain(&mut self, host: &str, start: Instant) {
        let given = self.walk.plan.resolve.iter();
        let mut given = given.filter(|(name, port, _)| name == host && *port == self.port);
        if let Some((_, _, addresses)) = given.next() {
            return self.known(Source::Given, addresses.clone());
        }
        // Also what registries would not take, as `_dmarc` and `a--b`: DNS itself takes any label (RFC 2181, section 11).
        let name = match Name::from_ascii(host) {
            Ok(name) => name,
            Err(error) => {
                let what = format!("{} cannot be a name: {error}", answer::short(host));
                let finding = Finding::new("name_invalid", Outcome::Failed, what);
                self.findings.push(finding.next(
                    "a label has 1 to 63 octets, a name at most 253 (RFC 1035, section 2.3.4)",
                ));
                return;
            }
        };
        let unicode = name.to_utf8();
        self.facts.unicode = (unicode != name.to_ascii()).then_some(unicode);
        let config = Config::read(&self.walk.plan.names);
        self.facts.resolver = Some(config.facts.clone());
        self.findings.extend(config.findings.iter().cloned());
        for source in sources(&config.facts.order, &name, &mut self.facts.notes) {
            match source {
                Source::Hosts if self.hosts(&name) => return,
                Source::Dns if name.is_localhost() => {
                    let local = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
                    return self.known(Source::Localhost, local);
                }
                Source::Dns => return self.dns(&config, &name, start).await,
                _ => {}
            }
        }
        let what = format!(
            "{} is not in {}, and nsswitch.conf allows no DNS ({})",
            shown(&name),
            self.walk.plan.names.hosts.display(),
            config.facts.order.join(" ")
        );
        let finding = Finding::new("name_config", Outcome::Failed, what);
        self.findings
            .push(finding.next("add `dns` to the line `hosts:` of nsswitch.conf"));
    }

    /// Looks into the hosts file. Whether that settles it.
    fn hosts(&mut self, name: &Name) -> bool {
        let path = &self.walk.plan.names.hosts;
        match config::hosts(path, name) {
            Ok(found) => {
                let family = self.walk.plan.family;
                // The C library goes on to DNS when the file has the other family only.
                let any = found.iter().any(|a| family.is_none_or(|f| f.has(a)));
                if any {
                    self.known(Source::Hosts, found);
                }
                any
            }
            Err(error) => {
                let note = format!("{} was not read: {error}", path.display());
                self.facts.notes.push(note);
                false
            }
        }
    }

    /// Takes addresses that need no name server.
    fn known(&mut self, source: Source, addresses: Vec<IpAddr>) {
        self.facts.source = Some(source);
        let family = self.walk.plan.family;
        let fit = |a: &IpAddr| family.is_none_or(|f| f.has(a));
        self.facts.addresses = addresses.iter().copied().filter(fit).collect();
        if self.facts.addresses.is_empty() {
            let what = format!(
                "{} has only addresses of the other family: {}",
                self.facts.host,
                facts::joined(&addresses)
            );
            let finding = Finding::new("name_no_address", Outcome::Failed, what);
            self.findings
                .push(finding.next("run it without --ipv4 or --ipv6"));
        }
    }

    async fn dns(&mut self, config: &Config, name: &Name, start: Instant) {
        let plan = self.walk.plan;
        (self.walk.progress)(&format!("looking up {}", shown(name)));
        let kinds = kinds(plan.family, config.facts.has("no-aaaa"));
        let deadline = Deadline::now() + plan.timeout;
        let look_up = async {
            let looked = lookup::look_up(config, name, &kinds, deadline).await;
            self.took = start.elapsed();
            looked
        };
        let first = lookup::candidates(name, &config.search, config.facts.ndots)
            .into_iter()
            .next();
        let snoop = async {
            match (
                plan.checks,
                &first,
                config.facts.servers.first(),
                kinds.last(),
            ) {
                (true, Some(first), Some(server), Some(kind)) => {
                    Some(cache::snoop(*server, first, *kind).await)
                }
                _ => None,
            }
        };
        // Put first, so that it is not answered with what the real question brought into the cache.
        let (snooped, looked) = tokio::join!(biased; snoop, look_up);
        self.facts.queries = looked.asked.iter().map(QueryFacts::from).collect();
        if looked.addresses.is_empty() {
            return self.failed(config, &looked).await;
        }
        self.facts.source = Some(Source::Dns);
        self.facts.addresses.clone_from(&looked.addresses);
        self.facts.looked_up = Some(shown(&looked.name));
        let slow = plan.slow.name;
        self.findings
            .extend(judge::on_the_way(&looked, self.took, slow));
        let Some(found) = looked.found() else { return };
        if let Ok(message) = &found.answer {
            let aliases = message.answers.iter();
            let aliases = aliases.filter(|r| r.record_type() == RecordType::CNAME);
            self.facts.aliases = aliases.take(16).map(Into::into).collect();
        }
        if plan.checks {
            self.beside(config, &looked, found, snooped.as_ref()).await;
        }
    }

    async fn failed(&mut self, config: &Config, looked: &Looked) {
        let mut finding = judge::failure(looked, config, self.walk.plan.family);
        if finding.code == "name_servfail" {
            // One of both kinds may have no records in any case.
            let failed = |a: &&Asked| judge::Trouble::of(a) == Some(judge::Trouble::Failure);
            for failed in looked.last_of(&looked.name).filter(failed) {
                if let Some((facts, bogus)) = dnssec::after_failure(failed).await {
                    self.facts.dnssec = Some(facts);
                    finding = bogus;
                    break;
                }
            }
        }
        if looked.cut {
            let note = "the time was over before each name server was asked as often as resolv.conf says (--timeout)";
            self.facts.notes.push(note.into());
        }
        self.findings.insert(0, finding);
    }

    /// What no user waits for.
    async fn beside(
        &mut self,
        config: &Config,
        looked: &Looked,
        found: &Asked,
        snooped: Option<&Asked>,
    ) {
        let plan = self.walk.plan;
        (self.walk.progress)("looking at HTTPS records, signatures and spare name servers");
        let anchor = plan.trace.as_ref().and_then(|t| t.trust_anchor.as_deref());
        let cache = async {
            match snooped {
                Some(snooped) => Some(cache::state(found, snooped).await),
                None => None,
            }
        };
        let (spare, (https, unanswered), cache, (dnssec, bogus)) = tokio::join!(
            extra::spare(&config.facts.servers, looked, found.question.kind),
            extra::https(found.server, &looked.name, self.url, self.port),
            cache,
            dnssec::status(found, anchor),
        );
        self.findings.extend(bogus);
        self.findings.extend(judge::spare(&spare, looked));
        self.findings.extend(unanswered);
        self.facts.spare_servers = spare.iter().map(QueryFacts::from).collect();
        self.facts.https = Some(https);
        self.facts.cache = cache;
        self.facts.dnssec = Some(dnssec);
    }
}

/// The sources of nsswitch.conf that the probe has, in their order. The others are noted.
fn sources(order: &[String], name: &Name, notes: &mut Vec<String>) -> Vec<Source> {
    let local = name.iter().next_back() == Some(b"local");
    let mut sources = Vec::new();
    let mut others = Vec::new();
    for word in order {
        match word.as_str() {
            "files" => sources.push(Source::Hosts),
            // nss-resolve hands the question to systemd-resolved, which resolv.conf names, too (127.0.0.53).
            "dns" | "resolve" if sources.contains(&Source::Dns) => {}
            "dns" | "resolve" => sources.push(Source::Dns),
            // These pass over all but .local themselves (nss-mdns).
            "mdns_minimal" | "mdns4_minimal" | "mdns6_minimal" if !local => {}
            // Names of this machine and of containers; a reaction in brackets.
            "myhostname" | "mymachines" => {}
            word if word.starts_with('[') || word.ends_with(']') => {}
            word => others.push(word.to_owned()),
        }
    }
    if !others.is_empty() {
        let others = others.join(", ");
        notes.push(format!(
            "nsswitch.conf names {others}, too, which the probe does not ask; programs on this host do"
        ));
    }
    sources
}

fn summary(facts: &NameFacts) -> String {
    let addresses = facts::joined(&facts.addresses);
    match (facts.source, facts.queries.last()) {
        (Some(_), _) if facts.addresses.is_empty() => format!("{}: no address", facts.host),
        (Some(Source::Literal), _) => format!("{addresses}, no look-up"),
        (Some(Source::Given), _) => format!("{addresses}, given"),
        (Some(Source::Hosts), _) => format!("{addresses} from the hosts file"),
        (Some(Source::Localhost), _) => format!("{addresses}, this machine"),
        (Some(Source::Dns), Some(last)) => format!("{addresses} from {}", place(&last.server)),
        _ => format!("{}: no address", facts.host),
    }
}

#[cfg(test)]
mod tests;
