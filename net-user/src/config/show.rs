//! A config as a file that says it whole, defaults included, and what two configs differ in.

use std::collections::{BTreeMap, HashSet};

use net_common::lists::Prefix;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::guards::{Share, Shares};
use super::{
    ArpValidate, Config, GuardPolicy, HumanDuration, ListPolicy, ListenerPolicy, NeighborConfig,
    NeighborPolicy, ProbePolicy, RateLimit, SynPolicy,
};
use crate::lists::text::{Entry, line, show};

/// One key that two configs differ in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Where the file has it, as in `syn.budget` or `listener[443].mode`.
    pub key: String,
    /// Its value before; null if it had none.
    pub before: Value,
    /// Its value now; null if it has none.
    pub after: Value,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |value: &Value| match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.escape_debug().to_string(),
            other => other.to_string(),
        };
        write!(
            f,
            "{}: {} → {}",
            self.key,
            word(&self.before),
            word(&self.after)
        )
    }
}

/// The keys and values of the file that says this config whole.
pub fn tree(config: &Config) -> Value {
    // Named one by one: a key that is new must find its place here.
    let Config {
        interfaces,
        instance,
        on_exit,
        mode,
        xdp_mode,
        socket,
        syn,
        neighbors,
        guards,
        lists,
        events,
        metrics,
        probes,
        state_dir,
        source: _,
        drop_ins: _,
        origin: _,
    } = config;
    let mut tree = Map::new();
    let mut set = |key: &str, value: Value| drop(tree.insert(key.to_owned(), value));
    set("interfaces", json!(interfaces));
    set("instance", json!(instance));
    set("on_exit", json!(on_exit));
    set("mode", json!(mode));
    set("xdp_mode", json!(xdp_mode));
    set("socket", json!(socket));
    set("state_dir", json!(state_dir));
    set("syn", syn_table(syn));
    let listeners = syn.overrides.iter();
    set(
        "listener",
        listeners
            .map(|(port, policy)| listener(*port, policy))
            .collect(),
    );
    set(
        "arp",
        json!({ "mode": neighbors.arp, "validate": validate(neighbors.validate) }),
    );
    set(
        "ndp",
        json!({ "mode": neighbors.ndp, "routers": neighbors.routers }),
    );
    set("neighbors", neighbors_table(neighbors));
    set(
        "neighbor",
        neighbors.bindings.iter().map(neighbor).collect(),
    );
    guard_tables(guards, &mut set);
    set("lists", lists_table(lists));
    set(
        "events",
        json!({ "rate": events.limit.rate, "burst": events.limit.burst }),
    );
    let listen = metrics.listen.as_ref();
    set(
        "metrics",
        listen.map_or(json!({}), |listen| json!({ "listen": listen })),
    );
    set("probe", probes.iter().map(ProbePolicy::table).collect());
    Value::Object(tree)
}

fn syn_table(syn: &SynPolicy) -> Value {
    json!({
        "mode": syn.default.mode, "budget": syn.default.budget, "burst": syn.default.burst,
        "syn_ack_limit": syn.syn_ack_limit, "syn_ack_burst": syn.syn_ack_burst,
        // It was read from such a text, or is the default.
        "key_rotation": HumanDuration::new(syn.key_rotation).map(|d| d.to_string()),
    })
}

/// Excluded ports stand here too, as `off`.
fn listener(port: u16, policy: &ListenerPolicy) -> Value {
    json!({ "port": port, "mode": policy.mode, "budget": policy.budget, "burst": policy.burst })
}

fn validate(checks: ArpValidate) -> Vec<&'static str> {
    let words = [
        (checks.src_mac, "src-mac"),
        (checks.dst_mac, "dst-mac"),
        (checks.ip, "ip"),
    ];
    words
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, word)| *word)
        .collect()
}

fn neighbors_table(policy: &NeighborPolicy) -> Value {
    let mut table = Map::new();
    let gateway = if policy.learn_gateways { "auto" } else { "off" };
    table.insert("gateway".to_owned(), json!(gateway));
    for (rate, burst, limit) in [
        ("limit", "burst", policy.limit),
        ("announce_limit", "announce_burst", policy.announce_limit),
        ("known_limit", "known_burst", policy.known_limit),
        ("unknown_limit", "unknown_burst", policy.unknown_limit),
        ("router_limit", "router_burst", policy.router_limit),
        ("share", "share_burst", policy.share),
    ] {
        table.insert(rate.to_owned(), json!(limit.rate));
        table.insert(burst.to_owned(), json!(limit.burst));
    }
    Value::Object(table)
}

fn neighbor(named: &NeighborConfig) -> Value {
    let macs: Vec<_> = named.macs.iter().map(ToString::to_string).collect();
    let mut table = json!({
        "address": named.address, "macs": macs, "vlan": named.vlan, "router": named.router,
    });
    if let (Some(interface), Some(table)) = (&named.interface, table.as_object_mut()) {
        table.insert("interface".to_owned(), json!(interface));
    }
    table
}

fn guard_tables(guards: &GuardPolicy, set: &mut impl FnMut(&str, Value)) {
    let GuardPolicy { ip, icmp, udp, tcp } = guards;
    set(
        "ip",
        json!({ "mode": ip.mode, "reverse_path": ip.reverse_path, "fragments": shares(&ip.fragments) }),
    );
    set(
        "icmp",
        json!({
            "mode": icmp.mode,
            "echo_request": shares(&icmp.echo_request), "echo_reply": shares(&icmp.echo_reply),
            "path_mtu": shares(&icmp.path_mtu), "time_exceeded": shares(&icmp.time_exceeded),
            "unreachable": shares(&icmp.unreachable), "redirect": shares(&icmp.redirect),
            "informational": shares(&icmp.informational), "other": shares(&icmp.other),
        }),
    );
    set(
        "udp",
        json!({
            "mode": udp.mode, "reflection": shares(&udp.reflection), "servers": udp.servers,
            "resolv_conf": udp.resolv_conf,
        }),
    );
    set(
        "tcp",
        json!({
            "mode": tcp.mode, "stray": shares(&tcp.stray), "stray_syn_ack": shares(&tcp.stray_syn_ack),
            "new_connections": share(tcp.new_connections), "open_connections": tcp.open_connections,
        }),
    );
}

fn share(limit: Option<RateLimit>) -> String {
    Share(limit).to_string()
}

fn shares(shares: &Shares) -> Value {
    json!({
        "host": share(shares.host), "prefix": share(shares.prefix), "site": share(shares.site),
        "pool": share(shares.pool), "steady": share(shares.steady), "proven": share(shares.proven),
    })
}

fn lists_table(lists: &ListPolicy) -> Value {
    let [allow, block] = lists.written;
    let text = |entry: &Entry| {
        line(entry.prefix, None, &entry.reason)
            .trim_end()
            .to_owned()
    };
    let written =
        |entries: &[Entry], count| entries.iter().take(count).map(text).collect::<Vec<_>>();
    let (allow_files, block_files) = lists
        .files
        .split_at(lists.allow_files.min(lists.files.len()));
    json!({
        "allow": written(&lists.allow, allow), "block": written(&lists.block, block),
        "allow_files": allow_files, "block_files": block_files,
    })
}

/// A config as TOML, which reads as the same config.
///
/// # Errors
/// A path that is no text.
pub fn toml(config: &Config) -> Result<String, toml::ser::Error> {
    toml::to_string(&tree(config))
}

/// What two configs differ in, in the order of the keys. Of lists only how many entries.
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let (old, new) = (flat(before), flat(after));
    let keys = old
        .keys()
        .chain(new.keys().filter(|key| !old.contains_key(*key)));
    let mut changes: Vec<_> = keys
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| Change {
            key: key.clone(),
            before: old.get(key).cloned().unwrap_or_default(),
            after: new.get(key).cloned().unwrap_or_default(),
        })
        .collect();
    let (old, new) = (&before.lists, &after.lists);
    changes.extend(entries("lists.allow", &old.allow, &new.allow));
    changes.extend(entries("lists.block", &old.block, &new.block));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

/// What two lists of entries differ in, those of files among them.
fn entries(key: &str, old: &[Entry], new: &[Entry]) -> Option<Change> {
    const SHOWN: usize = 3;
    type Listed<'a> = (Prefix, Option<std::time::Duration>, &'a str);
    fn all(entries: &[Entry]) -> HashSet<Listed<'_>> {
        let entries = entries.iter();
        entries
            .map(|e| (e.prefix, e.ttl, e.reason.as_str()))
            .collect()
    }
    let (before, after) = (all(old), all(new));
    if before == after {
        return None;
    }
    let named = |entries: Vec<&Listed<'_>>, sign: char| {
        let mut shown: Vec<_> = entries
            .iter()
            .map(|e| format!("{sign}{}", show(e.0)))
            .collect();
        shown.sort();
        let more = shown.len().saturating_sub(SHOWN);
        shown.truncate(SHOWN);
        if more > 0 {
            shown.push(format!("{sign}{more} more"));
        }
        shown
    };
    let mut differences = named(after.difference(&before).collect(), '+');
    differences.extend(named(before.difference(&after).collect(), '-'));
    Some(Change {
        key: key.to_owned(),
        before: format!("{} entries", before.len()).into(),
        after: format!("{} entries: {}", after.len(), differences.join(", ")).into(),
    })
}

/// Every value by its key, without the entries of lists.
fn flat(config: &Config) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    let mut tree = tree(config);
    if let Some(lists) = tree.get_mut("lists").and_then(Value::as_object_mut) {
        lists.remove("allow");
        lists.remove("block");
    }
    flatten("", tree, &mut flat);
    flat
}

fn flatten(prefix: &str, value: Value, flat: &mut BTreeMap<String, Value>) {
    let join = |key: &str| match prefix {
        "" => key.to_owned(),
        prefix => format!("{prefix}.{key}"),
    };
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                flatten(&join(&key), value, flat);
            }
        }
        Value::Array(tables) if tables.first().is_some_and(Value::is_object) => {
            for table in tables {
                flatten(&format!("{prefix}[{}]", identity(&table)), table, flat);
            }
        }
        // A repeated table that is not there at all has no key.
        Value::Array(none)
            if none.is_empty() && matches!(prefix, "listener" | "neighbor" | "probe") => {}
        value => drop(flat.insert(prefix.to_owned(), value)),
    }
}

/// What tells a `[[listener]]`, `[[neighbor]]` or `[[probe]]` from others.
fn identity(table: &Value) -> String {
    if let Some(port) = table.get("port") {
        return port.to_string();
    }
    let text = |key| table.get(key).and_then(Value::as_str);
    if let Some(name) = text("name") {
        return name.to_owned();
    }
    let mut identity = text("address").unwrap_or_default().to_owned();
    if let Some(interface) = text("interface") {
        identity += &format!(" on {interface}");
    }
    match table.get("vlan").and_then(Value::as_u64) {
        None | Some(0) => identity,
        Some(vlan) => identity + &format!(" vlan {vlan}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Overrides;
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse("netmoat.toml".as_ref(), text, &Overrides::default()).unwrap()
    }

    const STRANGE: &str = "interfaces = [\"eth0\", \"eth1\"]\nmode = \"observe\"\nxdp_mode = \"generic\"\n\
         [syn]\nexclude_ports = [7]\nkey_rotation = \"4m30s\"\n[[listener]]\nport = 443\nbudget = \"1/m\"\n\
         [arp]\nmode = \"enforce\"\nvalidate = [\"ip\"]\n[ndp]\nrouters = [\"fe80::1\"]\n\
         [neighbors]\ngateway = \"off\"\nshare = \"9/h\"\n\
         [[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\"]\ninterface = \"eth1\"\nvlan = 7\n\
         [ip]\nfragments = \"off\"\n[icmp]\nmode = \"off\"\nother = { host = \"5/s burst 9\" }\n\
         [udp]\nservers = [\"192.0.2.53\"]\nresolv_conf = false\n[tcp]\nnew_connections = \"2/m\"\n\
         [lists]\nblock = [\"203.0.113.0/24 - 1h of trouble\", \"2001:db8::/32\"]\nallow = [\"192.0.2.9 the office\"]\n\
         [events]\nrate = \"3/s\"\n";

    #[test]
    fn what_is_shown_reads_as_the_same_config() {
        for text in ["interfaces = [\"eth0\"]", STRANGE] {
            let config = parse(text);
            let shown = toml(&config).unwrap();
            assert_eq!(parse(&shown), config, "{shown}");
            assert_eq!(changes(&parse(&shown), &config), []);
        }
    }

    #[test]
    fn changes_are_told_by_the_files_own_keys() {
        let before = parse("interfaces = [\"eth0\"]\n[lists]\nblock = [\"192.0.2.1\"]");
        let after = parse(
            "interfaces = [\"eth0\"]\nmode = \"observe\"\n[syn]\nbudget = \"7/s\"\n[[listener]]\nport = 22\n\
             [icmp]\nother = { host = \"off\" }\n[lists]\nblock = [\"192.0.2.2\", \"192.0.2.3\"]",
        );
        let shown: Vec<_> = changes(&before, &after)
            .iter()
            .map(ToString::to_string)
            .collect();
        let expected = [
            "icmp.other.host: 100/s burst 200 → off",
            "listener[22].budget: none → 7/s",
            "listener[22].burst: none → 128",
            "listener[22].mode: none → auto",
            "listener[22].port: none → 22",
            "lists.block: 1 entries → 2 entries: +192.0.2.2, +192.0.2.3, -192.0.2.1",
            "mode: enforce → observe",
            "syn.budget: 100/s → 7/s",
        ];
        assert_eq!(shown, expected);
        assert_eq!(changes(&after, &after), []);
    }
}
