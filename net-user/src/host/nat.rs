//! Whether this network namespace translates addresses or ports: then a packet for an own address may be a connection's
//! that has no socket here.

use std::{fs, io::ErrorKind, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

/// Without the elements of sets nft prints in milliseconds what it prints at all.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    chain: Option<Chain>,
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Chain {
    family: String,
    table: String,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Rule {
    family: String,
    table: String,
    expr: Value,
}

/// What translates, in plain words, in the calling thread's network namespace; none if nothing does.
///
/// # Errors
/// The rules cannot be read or understood.
pub async fn translates() -> Result<Option<String>> {
    let root = "/proc/thread-self/net";
    let read = |name| fs::read_to_string(format!("{root}/{name}")).unwrap_or_default();
    for name in ["ip_tables_names", "ip6_tables_names"] {
        if read(name).lines().any(|table| table == "nat") {
            return Ok(Some("legacy iptables has a table nat".to_owned()));
        }
    }
    // Three lines are its head (`ip_vs_info_seq_show`).
    if read("ip_vs").lines().count() > 3 {
        return Ok(Some("this host is an IPVS director".to_owned()));
    }
    let nft = Command::new("nft")
        .args(["-j", "-t", "list", "ruleset"])
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(NFT_TIMEOUT, nft).await {
        Err(_) => bail!(
            "nft did not print its rules within {} s",
            NFT_TIMEOUT.as_secs()
        ),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => return without_nft(),
        Ok(output) => output.context("nft cannot be run")?,
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!(
            "nft: {}",
            message.lines().next().unwrap_or("failed").escape_debug()
        );
    }
    translating_rule(&String::from_utf8_lossy(&output.stdout))
}

/// What is known without the tool that prints rules: iptables and others write them too.
fn without_nft() -> Result<Option<String>> {
    let symbols = fs::read_to_string("/proc/kallsyms").context("/proc/kallsyms cannot be read")?;
    if can_translate(&symbols) {
        bail!(
            "nft, which tells whether netfilter translates, is not installed (Debian: apt install nftables)"
        );
    }
    Ok(None)
}

/// Whether the kernel has, or has loaded, what every translation goes through.
fn can_translate(symbols: &str) -> bool {
    symbols.lines().any(|line| {
        let name = line.split_whitespace().nth(2).unwrap_or_default();
        matches!(
            name,
            "nf_nat_setup_info" | "nf_tproxy_get_sock_v4" | "nf_tproxy_get_sock_v6"
        )
    })
}

/// The first rule of a table that translates: of a table with a chain of type nat, or with tproxy. Which packets it
/// concerns is not asked.
fn translating_rule(json: &str) -> Result<Option<String>> {
    let listing: Listing =
        serde_json::from_str(json).context("the output of nft is not understood")?;
    let entries = &listing.nftables;
    let of_nat = |rule: &Rule| {
        let mut chains = entries.iter().filter_map(|entry| entry.chain.as_ref());
        chains.any(|chain| {
            chain.kind.as_deref() == Some("nat")
                && (&chain.family, &chain.table) == (&rule.family, &rule.table)
        })
    };
    // nft's own statement, or iptables' target.
    let tproxy = |rule: &Rule| {
        rule.expr
            .to_string()
            .to_ascii_lowercase()
            .contains("\"tproxy\"")
    };
    let mut rules = entries.iter().filter_map(|entry| entry.rule.as_ref());
    let rule = rules.find(|rule| of_nat(rule) || tproxy(rule));
    Ok(rule.map(|rule| {
        format!(
            "table {} {} of nftables translates",
            rule.family.escape_debug(),
            rule.table.escape_debug()
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_nft_the_kernels_symbols_tell_whether_anything_can_translate() {
        let nat = "0000000000000000 t nf_nat_setup_infos\n0000000000000000 T nf_nat_setup_info\t[nf_nat]\n";
        assert!(can_translate(nat));
        assert!(!can_translate(
            "0000000000000000 t nf_nat_setup_infos\n0 T nf_hook_slow\n"
        ));
        assert!(!can_translate(""));
    }
    use serde_json::json;

    #[test]
    fn tables_that_translate_are_found_by_their_rules() {
        let chain = |table: &str, kind: Option<&str>| json!({ "chain": { "family": "ip", "table": table, "name": "c", "type": kind } });
        let rule = |table: &str, expr: Value| json!({ "rule": { "family": "ip", "table": table, "expr": expr } });
        let counter = || json!([{ "counter": null }]);
        let tproxy = || json!([{ "tproxy": { "port": 50080 } }]);
        let target = || json!([{ "xt": { "type": "target", "name": "TPROXY" } }]);
        for (what, listing, expected) in [
            ("nothing", vec![json!({ "metainfo": {} })], None),
            (
                "a filter",
                vec![chain("t", Some("filter")), rule("t", counter())],
                None,
            ),
            (
                "a chain of type nat without any rule",
                vec![chain("t", Some("nat")), chain("t", None)],
                None,
            ),
            (
                "a rule of another table",
                vec![chain("t", Some("nat")), rule("u", counter())],
                None,
            ),
            (
                "a rule",
                vec![chain("t", Some("nat")), rule("t", counter())],
                Some("table ip t"),
            ),
            (
                "tproxy",
                vec![chain("t", Some("filter")), rule("t", tproxy())],
                Some("table ip t"),
            ),
            ("iptables' TPROXY", vec![rule("t", target())], Some("ip t")),
        ] {
            let json = json!({ "nftables": listing }).to_string();
            let found = translating_rule(&json).unwrap();
            assert_eq!(found.is_some(), expected.is_some(), "{what}: {found:?}");
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found.contains(expected), "{what}: {found}");
            }
        }
        assert!(translating_rule("{").is_err());
    }
}
