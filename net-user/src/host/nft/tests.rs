//! Rulesets that must be found, and ones that must not.

use super::*;

/// A chain `input`, policy `accept` or `drop`, with a chain `other` beside it; rules as nft 1.0.6 of
/// Debian 12 prints their expressions, numbered from 1 in each chain.
fn ruleset(policy: &str, input: &[&str], other: &[&str]) -> Ruleset {
    let place = r#""family": "inet", "table": "filter""#;
    let rules = |chain: &'static str, rules: &[&str]| {
        let rule = |(i, expr): (usize, &&str)| {
            format!(
                r#", {{"rule": {{{place}, "chain": "{chain}", "handle": {}, "expr": [{expr}]}}}}"#,
                i + 1
            )
        };
        rules.iter().enumerate().map(rule).collect::<String>()
    };
    let json = format!(
        r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6", "json_schema_version": 1}}}},
        {{"table": {{"family": "inet", "name": "filter", "handle": 1}}}},
        {{"chain": {{{place}, "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "{policy}"}}}},
        {{"chain": {{{place}, "name": "other", "handle": 2}}}},
        {{"set": {{"family": "inet", "name": "ports", "table": "filter", "type": "inet_service", "handle": 3, "elem": [8080, {{"elem": {{"val": 8081, "timeout": 5}}}}]}}}}{}{}]}}"#,
        rules("input", input),
        rules("other", other),
    );
    Ruleset::parse(&json).expect("a listing")
}

fn scope() -> Scope {
    Scope {
        interfaces: vec!["eth0".into()],
        addresses: vec![
            "192.0.2.1".parse().expect("an address"),
            "2001:db8::1".parse().expect("an address"),
        ],
        ports: BTreeSet::from([22, 80, 443, 8081]),
        any_port: true,
    }
}

/// "chain handle effect ports", `*` for any port.
fn found(policy: &str, input: &[&str], other: &[&str]) -> Vec<String> {
    let tell = |obstacle: Obstacle| {
        let mut ports: Vec<_> = obstacle.ports.iter().map(u16::to_string).collect();
        ports.extend(obstacle.any_port.then(|| "*".to_owned()));
        format!(
            "{} {} {:?} {}",
            obstacle.rule.chain,
            obstacle.rule.handle,
            obstacle.effect,
            ports.join(",")
        )
    };
    ruleset(policy, input, other)
        .obstacles(&scope())
        .into_iter()
        .map(tell)
        .collect()
}

const ESTABLISHED: &str = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}, {"accept": null}"#;
const NEW: &str = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}"#;
const INVALID: &str =
    r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}"#;
const STATE_VMAP: &str = r#"{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": null}], ["established", {"accept": null}], ["related", {"accept": null}]]}}}"#;
const SYN_ONLY: &str = r#"{"match": {"op": "==", "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}, "right": "syn"}}"#;
const NOT_SYN: &str = r#"{"match": {"op": "!=", "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn", "rst", "ack"]]}, "right": "syn"}}"#;
const COUNTER: &str = r#"{"counter": {"packets": 0, "bytes": 0}}"#;
const DROP: &str = r#"{"drop": null}"#;
const ACCEPT: &str = r#"{"accept": null}"#;
const JUMP: &str = r#"{"jump": {"target": "other"}}"#;
const XT_CONNTRACK: &str = r#"{"xt": {"type": "match", "name": "conntrack"}}"#;

fn tcp(field: &str, op: &str, right: &str) -> String {
    format!(
        r#"{{"match": {{"op": "{op}", "left": {{"payload": {{"protocol": "tcp", "field": "{field}"}}}}, "right": {right}}}}}"#
    )
}

fn rule(parts: &[&str]) -> String {
    parts.join(", ")
}

#[test]
fn new_must_be_syn_is_found_in_every_way_of_writing_it() {
    let states = [
        NEW,
        r#"{"match": {"op": "==", "left": {"ct": {"key": "state"}}, "right": {"set": ["new", "untracked"]}}}"#,
        r#"{"match": {"op": "!=", "left": {"ct": {"key": "state"}}, "right": {"|": ["established", "related"]}}}"#,
        // iptables-nft: `-m state --state NEW`, which nft does not tell.
        XT_CONNTRACK,
    ];
    for state in states {
        for flags in [
            NOT_SYN,
            &tcp("flags", "!=", r#""syn""#),
            &tcp("flags", "!", r#""syn""#),
        ] {
            for verdict in [DROP, r#"{"reject": {"type": "tcp reset"}}"#] {
                let rule = rule(&[flags, state, COUNTER, verdict]);
                let expected = ["input 2 DropsNewWithoutSyn 22,80,443,8081,*"];
                assert_eq!(
                    found("accept", &[ESTABLISHED, &rule], &[]),
                    expected,
                    "{rule}"
                );
            }
        }
    }
}

#[test]
fn obstacles_are_found_for_the_ports_interfaces_and_addresses_concerned() {
    let new_not_syn = rule(&[NEW, NOT_SYN, DROP]);
    let new_not_syn_443 = rule(&[&tcp("dport", "==", "443"), &new_not_syn]);
    let invalid = rule(&[INVALID, COUNTER, DROP]);
    let accept_80 = rule(&[
        &tcp("dport", "==", r#"{"set": [22, {"range": [80, 90]}]}"#),
        NEW,
        ACCEPT,
    ]);
    let syn_80 = rule(&[&tcp("dport", "==", "80"), SYN_ONLY, NEW, ACCEPT]);
    let lo = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}"#;
    let eth = r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": {"set": ["wan0", "eth*"]}}}"#;
    let udp = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 80}}, {"redirect": {"port": 5353}}"#;
    let redirect = r#"{"redirect": {"port": 9000}}"#;
    let foreign = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"prefix": {"addr": "10.96.0.0", "len": 12}}}}"#;
    let own = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": {"prefix": {"addr": "192.0.2.0", "len": 24}}}}"#;
    let source = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@blocked"}}"#;
    let fib = r#"{"match": {"op": "==", "left": {"fib": {"result": "type", "flags": "daddr"}}, "right": "local"}}"#;
    /// Description, policy, rules of `input`, rules of `other`, what is found.
    type Case<'a> = (
        &'a str,
        &'a str,
        &'a [&'a str],
        &'a [&'a str],
        &'a [&'a str],
    );
    let table: &[Case<'_>] = &[
        ("no rules", "accept", &[], &[], &[]),
        (
            "a plain firewall",
            "drop",
            &[ESTABLISHED, &accept_80],
            &[],
            &[],
        ),
        (
            "one port only",
            "accept",
            &[&new_not_syn_443],
            &[],
            &["input 1 DropsNewWithoutSyn 443"],
        ),
        (
            "accepted before",
            "accept",
            &[&accept_80, &new_not_syn],
            &[],
            &["input 2 DropsNewWithoutSyn 443,8081,*"],
        ),
        (
            "by a jump for one port",
            "accept",
            &[&rule(&[&tcp("dport", "==", "80"), JUMP])],
            &[&new_not_syn],
            &["other 1 DropsNewWithoutSyn 80"],
        ),
        (
            "a chain that nothing reaches",
            "accept",
            &[],
            &[&new_not_syn, &invalid],
            &[],
        ),
        (
            "another interface",
            "accept",
            &[&rule(&[lo, &new_not_syn])],
            &[],
            &[],
        ),
        (
            "our interface",
            "accept",
            &[&rule(&[eth, &new_not_syn_443])],
            &[],
            &["input 1 DropsNewWithoutSyn 443"],
        ),
        (
            "invalid",
            "accept",
            &[&invalid],
            &[],
            &["input 1 DropsInvalid 22,80,443,8081,*"],
        ),
        (
            "invalid by verdict map",
            "drop",
            &[STATE_VMAP, &accept_80],
            &[],
            &["input 1 DropsInvalid 22,80,443,8081,*"],
        ),
        (
            "bogus flags",
            "accept",
            &[&rule(&[&tcp("flags", "==", "0"), DROP])],
            &[],
            &[],
        ),
        (
            "SYN only, then the policy",
            "drop",
            &[ESTABLISHED, &syn_80],
            &[],
            &["input 2 AcceptsSynOnly 80"],
        ),
        (
            "SYN only, then a last rule",
            "accept",
            &[ESTABLISHED, &syn_80, r#"{"reject": null}"#],
            &[],
            &["input 2 AcceptsSynOnly 80"],
        ),
        (
            "SYN only, then nothing",
            "accept",
            &[ESTABLISHED, &syn_80],
            &[],
            &[],
        ),
        (
            "SYN only for some sources",
            "drop",
            &[&rule(&[source, &syn_80])],
            &[],
            &["input 1 AcceptsSynOnly 80"],
        ),
        (
            "closed to everything",
            "accept",
            &[&rule(&[&tcp("dport", "==", "22"), DROP]), &new_not_syn],
            &[],
            &["input 2 DropsNewWithoutSyn 80,443,8081,*"],
        ),
        ("a blocklist", "accept", &[&rule(&[source, DROP])], &[], &[]),
        (
            "redirect",
            "accept",
            &[&rule(&[&tcp("dport", "==", "80"), redirect])],
            &[],
            &["input 1 Translates 80"],
        ),
        (
            "redirect of a set",
            "accept",
            &[&rule(&[&tcp("dport", "==", r#""@ports""#), redirect])],
            &[],
            &["input 1 Translates 8081"],
        ),
        ("redirect of UDP", "accept", &[udp], &[], &[]),
        (
            "dnat of a foreign address",
            "accept",
            &[&rule(&[foreign, r#"{"dnat": {"addr": "10.0.0.9"}}"#])],
            &[],
            &[],
        ),
        (
            "dnat of our address",
            "accept",
            &[&rule(&[own, r#"{"dnat": {"addr": "10.0.0.9"}}"#])],
            &[],
            &["input 1 Translates 22,80,443,8081,*"],
        ),
        (
            "tproxy",
            "accept",
            &[&rule(&[
                &tcp("dport", "==", "443"),
                r#"{"tproxy": {"port": 9000}}"#,
            ])],
            &[],
            &["input 1 Translates 443"],
        ),
        (
            "Docker by iptables-nft",
            "accept",
            &[&rule(&[fib, COUNTER, JUMP])],
            &[&rule(&[
                &tcp("dport", "==", "8081"),
                r#"{"xt": {"type": "target", "name": "DNAT"}}"#,
            ])],
            &["other 1 Translates 8081"],
        ),
        (
            "synproxy",
            "accept",
            &[&rule(&[
                &tcp("dport", "==", "80"),
                r#"{"synproxy": {"mss": 1460, "wscale": 7, "flags": ["timestamp", "sack-perm"]}}"#,
            ])],
            &[],
            &["input 1 Synproxy 80"],
        ),
    ];
    for (description, policy, input, other, expected) in table {
        assert_eq!(found(policy, input, other), *expected, "{description}");
    }
}

#[test]
fn what_is_no_listing_is_refused() {
    assert!(Ruleset::parse("").is_err());
    assert!(Ruleset::parse("{}").is_err());
    assert!(Ruleset::parse(r#"{"nftables": []}"#).is_ok());
}
