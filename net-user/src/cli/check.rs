//! `netmoat check`

use serde::Serialize;

use super::output::{Output, Tone, plural, size, table, tone};
use super::{Code, Failure};
use crate::config::guards::{ReversePath, Shares};
use crate::config::{Config, GuardMode, GuardPolicy, HumanDuration, NeighborPolicy, RateLimit};
use crate::control::protocol::VERSION;
use crate::datapath::budget::Budget;
use crate::datapath::preflight::{self, Finding, Preflight, Purpose, Severity};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat check                  the config in /etc/netmoat and this host
  netmoat check -i eth0          what `netmoat run -i eth0` would meet
  netmoat check -c new.toml      before a new config is put in place

Exit code 1 when something stands in the way, 4 when a privilege or a kernel
feature is missing. That netmoat runs on an interface already is no error
here, as it is for `netmoat run`.";

#[derive(Serialize)]
struct CheckJson<'a> {
    version: u32,
    ready: bool,
    config: &'a Config,
    findings: Vec<FindingJson<'a>>,
    /// Of the kernel's memory; null when it cannot be told, which a finding says.
    budget: Option<&'a Budget>,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    severity: &'static str,
    what: &'a str,
    remedy: Option<&'a str>,
    permission: bool,
}

pub(super) fn check(config: &Config, out: &Output) -> Result<Code, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(preflight::check(config, Purpose::Plan));
    let code = exit_code(&report);
    let budget = Budget::read().ok();
    let json = CheckJson {
        version: VERSION,
        ready: code == Code::Ok,
        config,
        findings: report.findings.iter().map(finding_json).collect(),
        budget: budget.as_ref(),
    };
    out.print(&json, |_| human(config, &report, budget.as_ref()))?;
    Ok(code)
}

fn errors(report: &Preflight) -> impl Iterator<Item = &Finding> {
    report
        .findings
        .iter()
        .filter(|finding| matches!(finding.severity, Severity::Error))
}

fn exit_code(report: &Preflight) -> Code {
    if errors(report).any(|finding| finding.permission) {
        Code::Permission
    } else if errors(report).next().is_some() {
        Code::Error
    } else {
        Code::Ok
    }
}

fn finding_json(finding: &Finding) -> FindingJson<'_> {
    FindingJson {
        severity: word(finding),
        what: &finding.what,
        remedy: finding.remedy.as_deref(),
        permission: finding.permission,
    }
}

fn word(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Ok => "ok",
    }
}

fn human(config: &Config, report: &Preflight, budget: Option<&Budget>) -> String {
    let count = errors(report).count() as u64;
    let warnings = report
        .findings
        .iter()
        .filter(|f| matches!(f.severity, Severity::Warning))
        .count() as u64;
    let mut text = match (count, warnings) {
        (0, 0) => tone("netmoat can run here with this config.", Tone::Good),
        (0, n) => tone(
            &format!(
                "netmoat can run here with this config; {}.",
                plural(n, "warning")
            ),
            Tone::Good,
        ),
        (n, _) => tone(
            &format!("netmoat cannot run here: {}.", plural(n, "error")),
            Tone::Bad,
        ),
    };
    text += "\n\n";
    for finding in &report.findings {
        let tone_of = match finding.severity {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Plain,
            Severity::Ok => Tone::Good,
        };
        text += &format!(
            "{} {}\n",
            tone(&format!("{:<8}", word(finding)), tone_of),
            finding.what
        );
        if let Some(remedy) = &finding.remedy {
            text += &format!("{:<8} = help: {remedy}\n", "");
        }
    }
    if let Some(budget) = budget {
        text += &format!("\n{}", memory(budget));
    }
    text + "\n" + &summary(config)
}

/// How many maps are shown to people; JSON has all.
const LARGEST: usize = 5;

/// What the maps take of the kernel's memory.
fn memory(budget: &Budget) -> String {
    let row = |name: &str, octets, when_full: &str| {
        vec![name.to_owned(), size(octets), when_full.to_owned()]
    };
    let largest = budget.largest(LARGEST);
    let others = budget.maps.len() - largest.len();
    let shown: u64 = largest.iter().map(|map| map.octets).sum();
    let mut rows: Vec<_> = largest
        .iter()
        .map(|map| row(&map.name, map.octets, map.when_full))
        .collect();
    rows.push(row(
        &format!("{others} others"),
        budget.octets - shown,
        "`netmoat check -o json` has them all",
    ));
    rows.push(row(
        "all maps",
        budget.octets,
        "taken when the agent starts",
    ));
    rows.push(row(
        "lists",
        budget.lists_at_most,
        "at most, beside the maps: taken as lists grow",
    ));
    table(&["MAP", "KERNEL MEMORY", "WHEN FULL"], &[1], rows)
}

/// The config as it is understood, defaults included.
fn summary(config: &Config) -> String {
    let source = config
        .source
        .as_ref()
        .map_or("none, defaults".to_owned(), |path| {
            path.display().to_string()
        });
    let metrics = config.metrics.listen.as_ref();
    let metrics = metrics.map_or("not served".to_owned(), ToString::to_string);
    let syn = &config.syn;
    let key_rotation = HumanDuration::new(syn.key_rotation)
        .map_or_else(|| format!("{:?}", syn.key_rotation), |d| d.to_string());
    let mut rows = vec![
        ("config file".to_owned(), source),
        (
            "interfaces".to_owned(),
            crate::config::interface::list(&config.interfaces),
        ),
        (
            "mode".to_owned(),
            format!("{:?}", config.mode).to_lowercase(),
        ),
        (
            "XDP mode".to_owned(),
            format!("{:?}", config.xdp_mode).to_lowercase(),
        ),
        (
            "control socket".to_owned(),
            config.socket.display().to_string(),
        ),
        ("metrics".to_owned(), metrics),
        (
            "SYN-ACKs per prefix".to_owned(),
            format!("{}, burst {}", syn.syn_ack_limit, syn.syn_ack_burst),
        ),
        ("key rotation".to_owned(), key_rotation),
        (
            "state directory".to_owned(),
            config.state_dir.display().to_string(),
        ),
    ];
    let lists = &config.lists;
    rows.push((
        "lists".to_owned(),
        format!(
            "{} allowed, {} blocked",
            lists.allow.len(),
            lists.block.len()
        ),
    ));
    rows.extend(neighbors(&config.neighbors).map(|(name, value)| (name.to_owned(), value)));
    rows.extend(guards(&config.guards));
    let policies = std::iter::once(("every other port".to_owned(), &syn.default));
    let overrides = syn
        .overrides
        .iter()
        .map(|(port, policy)| (format!("port {port}"), policy));
    rows.extend(overrides.chain(policies).map(|(name, policy)| {
        let mode = format!("{:?}", policy.mode).to_lowercase();
        let budget = match policy.mode {
            crate::config::SynMode::Auto => {
                format!(", budget {}, burst {}", policy.budget, policy.burst)
            }
            _ => String::new(),
        };
        (name, format!("SYN cookies {mode}{budget}"))
    }));
    table(
        &["SETTING", "VALUE"],
        &[],
        rows.into_iter().map(|(name, value)| vec![name, value]),
    )
}

fn neighbors(policy: &NeighborPolicy) -> impl Iterator<Item = (&'static str, String)> {
    let mode = |mode: GuardMode| format!("{mode:?}").to_lowercase();
    let named = policy.bindings.iter().filter(|binding| binding.router);
    let mut routers: Vec<_> = policy.routers.iter().map(ToString::to_string).collect();
    routers.extend(named.map(|binding| binding.address.to_string()));
    let ra_guard = if policy.ra_guard() {
        format!("only {} may advertise", routers.join(", "))
    } else {
        "off".to_owned()
    };
    let gateways = if policy.learn_gateways {
        "learned and protected"
    } else {
        "not learned"
    };
    [
        ("ARP guard", mode(policy.arp)),
        ("NDP guard", mode(policy.ndp)),
        ("RA guard", ra_guard),
        ("gateways", gateways.to_owned()),
        ("neighbours named", policy.bindings.len().to_string()),
    ]
    .into_iter()
}

fn guards(policy: &GuardPolicy) -> Vec<(String, String)> {
    let mode = |mode: GuardMode| format!("{mode:?}").to_lowercase();
    let reverse_path = match policy.ip.reverse_path {
        ReversePath::Off => "off",
        ReversePath::Loose => "there must be a route to the source",
        ReversePath::Strict => "the route to the source must lead back",
    };
    let (icmp, tcp) = (&policy.icmp, &policy.tcp);
    let mut servers: Vec<_> = policy.udp.servers.iter().map(ToString::to_string).collect();
    if policy.udp.resolv_conf {
        servers.push("those of /etc/resolv.conf".to_owned());
    }
    if servers.is_empty() {
        servers.push("none".to_owned());
    }
    let open = match tcp.open_connections {
        0 => "off".to_owned(),
        open => open.to_string(),
    };
    let ip = [
        ("reverse path", reverse_path.to_owned()),
        ("fragments", shares(&policy.ip.fragments)),
    ];
    let icmp_rows = [
        ("echo requests", shares(&icmp.echo_request)),
        ("echo replies", shares(&icmp.echo_reply)),
        ("path MTU", shares(&icmp.path_mtu)),
        ("time exceeded", shares(&icmp.time_exceeded)),
        ("unreachable", shares(&icmp.unreachable)),
        ("redirects", shares(&icmp.redirect)),
        ("informational ICMP", shares(&icmp.informational)),
        ("other ICMP", shares(&icmp.other)),
    ];
    let udp = [
        ("reflection", shares(&policy.udp.reflection)),
        ("servers not limited", servers.join(", ")),
    ];
    let tcp_rows = [
        ("stray segments", shares(&tcp.stray)),
        ("stray SYN-ACKs", shares(&tcp.stray_syn_ack)),
        ("new connections per source", share(tcp.new_connections)),
        ("open connections per source", open),
    ];
    let mut rows = Vec::new();
    for (name, guard, of_guard) in [
        ("IP guard", policy.ip.mode, &ip[..]),
        ("ICMP guard", icmp.mode, &icmp_rows),
        ("UDP guard", policy.udp.mode, &udp),
        ("TCP guard", tcp.mode, &tcp_rows),
    ] {
        rows.push((name.to_owned(), mode(guard)));
        // What a guard that is off would do only misleads.
        if guard != GuardMode::Off {
            let of_guard = of_guard.iter();
            rows.extend(of_guard.map(|(name, value)| ((*name).to_owned(), value.clone())));
        }
    }
    rows
}

fn shares(shares: &Shares) -> String {
    let parts = [
        ("host", shares.host),
        ("prefix", shares.prefix),
        ("site", shares.site),
        ("pool", shares.pool),
        ("steady", shares.steady),
        ("proven", shares.proven),
    ];
    let limited = parts
        .into_iter()
        .filter_map(|(name, limit)| Some(format!("{name} {}", limit?.rate)));
    let limited: Vec<_> = limited.collect();
    if limited.is_empty() {
        return "not limited".to_owned();
    }
    limited.join(", ")
}

fn share(limit: Option<RateLimit>) -> String {
    limit.map_or("off".to_owned(), |limit| {
        format!("{}, burst {}", limit.rate, limit.burst)
    })
}
