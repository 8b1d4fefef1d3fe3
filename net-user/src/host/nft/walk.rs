//! What becomes of a cookie connection's first packet in a chain.

use super::{Effect, Rule, RuleName, Ruleset, Scope};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// NFT_JUMP_STACK_SIZE: the kernel accepts no deeper nesting of chains.
const MAX_DEPTH: usize = 16;

/// Whether a packet matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    No,
    Maybe,
    Yes,
}

/// How the three packets match: the ACK picked up as NEW, an ordinary SYN, the ACK found INVALID.
#[derive(Clone, Copy)]
pub(super) struct Fit {
    ack: Match,
    syn: Match,
    invalid: Match,
}

impl Fit {
    pub(super) const ALL: Self = Self {
        ack: Match::Yes,
        syn: Match::Yes,
        invalid: Match::Yes,
    };
    const UNKNOWN: Self = Self {
        ack: Match::Maybe,
        syn: Match::Maybe,
        invalid: Match::Maybe,
    };

    fn each(mut decide: impl FnMut(&str, u8) -> bool) -> Self {
        let mut fit = |state, flags| {
            if decide(state, flags) {
                Match::Yes
            } else {
                Match::No
            }
        };
        Self {
            ack: fit("new", ACK),
            syn: fit("new", SYN),
            invalid: fit("invalid", ACK),
        }
    }

    fn both(of_all: bool) -> Self {
        Self::each(|_, _| of_all)
    }

    fn and(self, other: Self) -> Self {
        Self {
            ack: self.ack.min(other.ack),
            syn: self.syn.min(other.syn),
            invalid: self.invalid.min(other.invalid),
        }
    }

    fn is_none(self) -> bool {
        self.ack.max(self.syn).max(self.invalid) == Match::No
    }
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"];

pub(super) struct Walk<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) scope: &'a Scope,
    pub(super) port: Option<u16>,
    /// The rule that accepted the SYN and not the ACK.
    pub(super) syn_only: Option<RuleName>,
    pub(super) found: &'a mut BTreeMap<(RuleName, Effect), BTreeSet<Option<u16>>>,
}

impl Walk<'_> {
    /// Walks a chain with what reaches it. True once the fate of the ACK is settled.
    pub(super) fn chain(
        &mut self,
        chain: &str,
        family: &str,
        table: &str,
        reached: Fit,
        depth: usize,
    ) -> bool {
        let key = (family.to_owned(), table.to_owned(), chain.to_owned());
        let ruleset = self.ruleset;
        for rule in ruleset.rules.get(&key).into_iter().flatten() {
            let mut fit = reached;
            for expression in &rule.expr {
                let Some((kind, body)) = expression
                    .as_object()
                    .and_then(|object| object.iter().next())
                else {
                    continue;
                };
                let settled = match kind.as_str() {
                    "match" => {
                        fit = fit.and(self.condition(
                            rule,
                            &body["left"],
                            &body["op"],
                            &body["right"],
                        ));
                        false
                    }
                    "vmap" => {
                        let pairs = body["data"]["set"].as_array().into_iter().flatten();
                        pairs.filter_map(Value::as_array).any(|pair| {
                            let [key, verdict] = pair.as_slice() else {
                                return false;
                            };
                            let fit =
                                fit.and(self.condition(rule, &body["key"], &"==".into(), key));
                            let verdict =
                                verdict.as_object().and_then(|object| object.iter().next());
                            verdict.is_some_and(|(kind, body)| {
                                self.verdict(rule, kind, body, fit, depth)
                            })
                        })
                    }
                    "xt" if body["type"] == "target" => {
                        let target = body["name"].as_str().unwrap_or_default().to_lowercase();
                        self.verdict(rule, &target, body, fit, depth)
                    }
                    "counter" | "log" | "mangle" | "notrack" | "set" => false,
                    "return" if fit.ack == Match::Yes => return false,
                    _ => {
                        let settled = self.verdict(rule, kind, body, fit, depth);
                        if !is_verdict(kind) {
                            fit = fit.and(Fit::UNKNOWN);
                        }
                        settled
                    }
                };
                if settled {
                    return true;
                }
                if fit.is_none() {
                    break;
                }
            }
        }
        false
    }

    fn verdict(&mut self, rule: &Rule, kind: &str, body: &Value, fit: Fit, depth: usize) -> bool {
        if fit.is_none() {
            return false;
        }
        match kind {
            "drop" | "reject" => {
                if fit.ack > Match::No && fit.syn == Match::No {
                    self.found(rule, Effect::DropsNewWithoutSyn);
                } else if fit.ack == Match::Yes {
                    self.all_else_is_dropped();
                }
                if fit.invalid > Match::No && fit.ack == Match::No {
                    self.found(rule, Effect::DropsInvalid);
                }
                fit.ack == Match::Yes
            }
            "accept" => {
                if fit.syn > Match::No && fit.ack == Match::No {
                    self.syn_only.get_or_insert_with(|| name(rule));
                }
                fit.ack == Match::Yes
            }
            "dnat" | "redirect" | "tproxy" => {
                if fit.ack > Match::No {
                    self.found(rule, Effect::Translates);
                }
                fit.ack == Match::Yes
            }
            "synproxy" => {
                self.found(rule, Effect::Synproxy);
                false
            }
            // A goto is taken for a jump: that finds too much rather than too little.
            "jump" | "goto" if depth < MAX_DEPTH => {
                let target = body["target"].as_str().unwrap_or_default();
                self.chain(target, &rule.family, &rule.table, fit, depth + 1)
                    && fit.ack == Match::Yes
            }
            _ => false,
        }
    }

    pub(super) fn all_else_is_dropped(&mut self) {
        if let Some(rule) = self.syn_only.take() {
            self.found
                .entry((rule, Effect::AcceptsSynOnly))
                .or_default()
                .insert(self.port);
        }
    }

    fn found(&mut self, rule: &Rule, effect: Effect) {
        self.found
            .entry((name(rule), effect))
            .or_default()
            .insert(self.port);
    }

    /// How the packets meet one condition.
    fn condition(&self, rule: &Rule, left: &Value, op: &Value, right: &Value) -> Fit {
        let op = op.as_str().unwrap_or_default();
        let values = self.values(rule, right);
        let negated = op == "!=";
        if !matches!(op, "==" | "!=" | "in" | "!") {
            return Fit::UNKNOWN;
        }
        if left["ct"]["key"] == "state" {
            return Fit::each(|state, _| {
                values.iter().any(|value| value.as_str() == Some(state)) != negated
            });
        }
        let (field, mask) = match left["&"].as_array().map(Vec::as_slice) {
            Some([field, mask]) => (field, tcp_flags(mask)),
            _ => (left, u8::MAX),
        };
        let protocol = field["payload"]["protocol"].as_str().unwrap_or_default();
        match (
            protocol,
            field["payload"]["field"].as_str().unwrap_or_default(),
        ) {
            ("tcp", "flags") => Fit::each(|_, flags| {
                let equal = |value| flags & mask == tcp_flags(value);
                match op {
                    "in" if right.get("set").is_none() => flags & mask & tcp_flags(right) != 0,
                    "!" => flags & mask & tcp_flags(right) == 0,
                    _ if right.get("set").is_some() => {
                        values.iter().any(|value| equal(value)) != negated
                    }
                    _ => equal(right) != negated,
                }
            }),
            ("tcp" | "th", "dport") => Fit::both(match self.port {
                Some(port) => values.iter().any(|value| covers(value, port)) != negated,
                None => negated,
            }),
            ("ip" | "ip6", "daddr") => {
                let own = self
                    .scope
                    .addresses
                    .iter()
                    .filter(|own| own.is_ipv4() == (protocol == "ip"));
                some_of(
                    own.map(|own| values.iter().any(|value| is_address(value, *own)) != negated),
                )
            }
            ("ip", "protocol") | ("ip6", "nexthdr") => is_tcp(&values, negated),
            (
                "udp" | "udplite" | "sctp" | "dccp" | "icmp" | "icmpv6" | "igmp" | "esp" | "ah",
                _,
            ) => Fit::both(false),
            _ => match field["meta"]["key"].as_str() {
                Some("l4proto") => is_tcp(&values, negated),
                Some("iifname" | "iif") => some_of(self.scope.interfaces.iter().map(|interface| {
                    values.iter().any(|value| is_interface(value, interface)) != negated
                })),
                _ => Fit::UNKNOWN,
            },
        }
    }

    /// The alternatives that the right side of a condition lists.
    fn values<'v>(&'v self, rule: &Rule, right: &'v Value) -> Vec<&'v Value> {
        let listed = [&right["set"], &right["|"], right];
        if let Some(list) = listed.into_iter().find_map(Value::as_array) {
            return list
                .iter()
                .flat_map(|value| self.values(rule, value))
                .collect();
        }
        let set = right
            .as_str()
            .and_then(|name| name.strip_prefix('@'))
            .map(str::to_owned);
        match set.and_then(|set| {
            self.ruleset
                .sets
                .get(&(rule.family.clone(), rule.table.clone(), set))
        }) {
            // Elements with a timeout or a counter stand as {"elem": {"val": …}}.
            Some(elements) => elements
                .iter()
                .map(|e| e["elem"].get("val").unwrap_or(e))
                .collect(),
            None => vec![right],
        }
    }
}

fn name(rule: &Rule) -> RuleName {
    let Rule {
        family,
        table,
        chain,
        handle,
        ..
    } = rule;
    RuleName {
        family: family.clone(),
        table: table.clone(),
        chain: chain.clone(),
        handle: *handle,
    }
}

fn is_verdict(kind: &str) -> bool {
    matches!(
        kind,
        "jump" | "goto" | "synproxy" | "accept" | "drop" | "reject" | "return" | "continue"
    )
}

fn some_of(mut matches: impl Iterator<Item = bool>) -> Fit {
    let Some(first) = matches.next() else {
        return Fit::UNKNOWN;
    };
    if matches.any(|other| other != first) {
        Fit::UNKNOWN
    } else {
        Fit::both(first)
    }
}

fn is_tcp(values: &[&Value], negated: bool) -> Fit {
    Fit::both(
        values
            .iter()
            .any(|value| *value == "tcp" || *value == &Value::from(6))
            != negated,
    )
}

fn is_interface(value: &Value, interface: &str) -> bool {
    value
        .as_str()
        .is_some_and(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => interface.starts_with(prefix),
            None => interface == pattern,
        })
}

fn covers(value: &Value, port: u16) -> bool {
    match value["range"].as_array().map(Vec::as_slice) {
        Some([low, high]) => (low.as_u64()..=high.as_u64()).contains(&Some(u64::from(port))),
        // `nft` prints numbers; a service name would be unknown, hence "may match".
        _ => value.as_u64().is_none_or(|value| value == u64::from(port)),
    }
}

fn is_address(value: &Value, own: IpAddr) -> bool {
    let parse = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
    if let Some([low, high]) = value["range"].as_array().map(Vec::as_slice) {
        return parse(low)
            .zip(parse(high))
            .is_some_and(|(low, high)| (low..=high).contains(&own));
    }
    if let Some(prefix) = value.get("prefix") {
        let length = prefix["len"].as_u64().unwrap_or(0) as u32;
        return parse(&prefix["addr"]).is_some_and(|network| match (network, own) {
            (IpAddr::V4(network), IpAddr::V4(own)) => {
                (network.to_bits() ^ own.to_bits())
                    .checked_shr(32_u32.saturating_sub(length))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(network), IpAddr::V6(own)) => {
                (network.to_bits() ^ own.to_bits())
                    .checked_shr(128_u32.saturating_sub(length))
                    .unwrap_or(0)
                    == 0
            }
            _ => false,
        });
    }
    parse(value) == Some(own)
}

/// The flags that a value names: a number, a name, or several names.
fn tcp_flags(value: &Value) -> u8 {
    if let Some(list) = value.as_array().or_else(|| value["|"].as_array()) {
        return list.iter().fold(0, |flags, value| flags | tcp_flags(value));
    }
    match value.as_str() {
        Some(name) => FLAGS
            .iter()
            .position(|flag| *flag == name)
            .map_or(0, |bit| 1 << bit),
        None => value.as_u64().unwrap_or(0) as u8,
    }
}
