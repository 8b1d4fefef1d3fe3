//! Netfilter rules that break a connection whose SYN netfilter has never seen (R-SYN-15).
//!
//! XDP answers the SYN, so the first packet of a cookie connection that netfilter sees is the client's
//! ACK. With `nf_conntrack_tcp_loose=1` connection tracking picks it up as NEW (`tcp_new`,
//! `net/netfilter/nf_conntrack_proto_tcp.c`); with 0 it is INVALID. Each chain hooked to prerouting or
//! input is walked with both such ACKs and, for comparison, with an ordinary SYN. What cannot be
//! decided here (sets of sources, rate limits, matches of iptables) may match and may not.

mod walk;

use self::walk::{Fit, Walk};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

/// What a rule does to a cookie connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Drops what is NEW and no SYN ("NEW must be SYN").
    DropsNewWithoutSyn,
    /// Accepts NEW connections only by their SYN, before everything else is dropped.
    AcceptsSynOnly,
    /// Drops what is INVALID: harmless with `nf_conntrack_tcp_loose=1`.
    DropsInvalid,
    /// Sends the connection to another address, port or socket (dnat, redirect, tproxy).
    Translates,
    /// Answers SYNs itself.
    Synproxy,
}

/// A rule, named as `nft` wants it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RuleName {
    /// "ip", "ip6" or "inet".
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Handle.
    pub handle: u64,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} handle {}",
            self.family, self.table, self.chain, self.handle
        )
    }
}

/// A rule in the way, and for which ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Obstacle {
    /// The rule.
    pub rule: RuleName,
    /// What it does.
    pub effect: Effect,
    /// The ports asked for that it concerns.
    pub ports: BTreeSet<u16>,
    /// Whether it also concerns ports that were not asked for by number.
    pub any_port: bool,
}

/// What the packets have in common with the host.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Names of the interfaces that they may arrive by.
    pub interfaces: Vec<String>,
    /// Own addresses that they may be for.
    pub addresses: Vec<IpAddr>,
    /// Listening ports to look at.
    pub ports: BTreeSet<u16>,
    /// Whether to look for rules that concern every port, too.
    pub any_port: bool,
}

/// A ruleset as `nft -j list ruleset` prints it (libnftables-json(5)).
#[derive(Debug)]
pub struct Ruleset {
    chains: Vec<Chain>,
    rules: HashMap<ChainKey, Vec<Rule>>,
    sets: HashMap<(String, String, String), Vec<Value>>,
}

type ChainKey = (String, String, String);

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

/// Objects of other kinds (tables, counters, flowtables…) have none of these keys.
#[derive(Deserialize)]
struct Entry {
    chain: Option<Chain>,
    rule: Option<Rule>,
    set: Option<Set>,
}

#[derive(Debug, Deserialize)]
struct Chain {
    family: String,
    table: String,
    name: String,
    hook: Option<String>,
    policy: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    family: String,
    table: String,
    chain: String,
    handle: u64,
    expr: Vec<Value>,
}

#[derive(Deserialize)]
struct Set {
    family: String,
    table: String,
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

impl Ruleset {
    /// Reads the output of `nft -j list ruleset`.
    pub fn parse(json: &str) -> serde_json::Result<Self> {
        let listing: Listing = serde_json::from_str(json)?;
        let mut ruleset = Self {
            chains: Vec::new(),
            rules: HashMap::new(),
            sets: HashMap::new(),
        };
        for entry in listing.nftables {
            if let Some(chain) = entry.chain {
                ruleset.chains.push(chain);
            }
            if let Some(rule) = entry.rule {
                let key = (rule.family.clone(), rule.table.clone(), rule.chain.clone());
                ruleset.rules.entry(key).or_default().push(rule);
            }
            if let Some(set) = entry.set {
                ruleset
                    .sets
                    .insert((set.family, set.table, set.name), set.elem);
            }
        }
        Ok(ruleset)
    }

    /// The rules in the way of cookie connections within `scope`.
    pub fn obstacles(&self, scope: &Scope) -> Vec<Obstacle> {
        let mut found = BTreeMap::new();
        let ports = scope
            .ports
            .iter()
            .map(|port| Some(*port))
            .chain(scope.any_port.then_some(None));
        for port in ports {
            for chain in &self.chains {
                let hooked = matches!(chain.hook.as_deref(), Some("prerouting" | "input"));
                if hooked && matches!(chain.family.as_str(), "ip" | "ip6" | "inet") {
                    let mut walk = Walk {
                        ruleset: self,
                        scope,
                        port,
                        syn_only: None,
                        found: &mut found,
                    };
                    let ended = walk.chain(&chain.name, &chain.family, &chain.table, Fit::ALL, 0);
                    if !ended && chain.policy.as_deref() == Some("drop") {
                        walk.all_else_is_dropped();
                    }
                }
            }
        }
        let obstacle =
            |((rule, effect), ports): ((RuleName, Effect), BTreeSet<Option<u16>>)| Obstacle {
                rule,
                effect,
                any_port: ports.contains(&None),
                ports: ports.into_iter().flatten().collect(),
            };
        found.into_iter().map(obstacle).collect()
    }
}

#[cfg(test)]
mod tests;
