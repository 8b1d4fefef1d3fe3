//! Name: hosts file, resolver configuration, look-up.

pub mod answer;
pub mod query;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{Facts, Finding, Layer, Lines, Outcome, Stage, Walk};

/// The details of a look-up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NameFacts {
    /// The addresses, in the order in which they are tried.
    pub addresses: Vec<IpAddr>,
}

impl NameFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        vec![("addresses".into(), addresses.join(", "))]
    }
}

/// Finds the addresses of a URL's host; none when that failed.
pub async fn resolve(walk: &Walk<'_>, url: &Url, port: u16) -> (Stage, Vec<IpAddr>) {
    let start = walk.now_us();
    let mut findings = Vec::new();
    let mut facts = NameFacts::default();
    match url.host() {
        Some(Host::Ipv4(address)) => facts.addresses.push(address.into()),
        Some(Host::Ipv6(address)) => facts.addresses.push(address.into()),
        Some(Host::Domain(name)) => {
            let given = walk
                .plan
                .resolve
                .iter()
                .find(|(host, p, _)| host == name && *p == port);
            match given {
                Some((_, _, given)) => facts.addresses.clone_from(given),
                None => match tokio::net::lookup_host((name, port)).await {
                    Ok(found) => facts.addresses = found.map(|a| a.ip()).collect(),
                    Err(error) => findings.push(Finding::new(
                        "name_failed",
                        Outcome::Failed,
                        format!("{name} was not found: {error}"),
                    )),
                },
            }
        }
        None => {}
    }
    let addresses = facts.addresses.clone();
    let summary = format!("{} addresses", addresses.len());
    let stage = Stage::new(
        Layer::Name,
        walk.since(start),
        summary,
        findings,
        Facts::Name(facts),
    );
    (stage, addresses)
}
