//! What must hold of the host before anything is attached. Every check reads, nothing is changed, and
//! none stops the others.

mod guards;
mod lists;
mod neighbors;

use super::pin::{Pins, holder_of};
use super::{budget, load::XDP_PROGRAM};
use crate::config::XdpMode as ConfiguredMode;
use crate::config::{Config, GuardMode, Mode, Pattern, SynMode};
use crate::host::links::{self, Address, Link, Links, XdpMode};
use crate::host::nft::{Effect, Obstacle, Ruleset, Scope};
use crate::host::selection::{Chosen, Selection, select};
use crate::host::sock_diag::Diag;
use crate::host::ssh;
use crate::host::sysctl::TcpSettings;
use anyhow::{Context as _, Result, bail};
use aya::Btf;
use aya_obj::btf::BtfKind;
use procfs::process::Process;
use procfs::sys::kernel::Version;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;
use tokio::process::Command;

/// First release with `bpf_sk_assign_tcp_reqsk`.
const OLDEST_KERNEL: Version = Version {
    major: 6,
    minor: 9,
    patch: 0,
};
const KFUNC: &str = "bpf_sk_assign_tcp_reqsk";
/// Largest MTU that native XDP takes in most drivers without multi-buffer support, with pages of 4,096 octets: a page
/// less 256 octets of headroom, 320 of `skb_shared_info` and the Ethernet header with two tags (`veth_xdp_set`,
/// `ixgbe_xdp_setup` and their like).
pub(crate) const NATIVE_MTU: u32 = 3_498;
/// A ruleset with large sets takes nft seconds to print.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bits of `CapEff` (`linux/capability.h`).
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_NET_ADMIN: u64 = 1 << 12;
const CAP_NET_RAW: u64 = 1 << 13;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The agent works, with a loss that the finding names.
    Warning,
    /// The agent refuses to start.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What was found, and its consequence.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// A lack of privilege or of kernel support: exit code 4 instead of 1.
    pub permission: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  remedy: {remedy}"),
            None => Ok(()),
        }
    }
}

/// Every finding, in the order of the checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// The findings.
    pub findings: Vec<Finding>,
    /// Of these, what would cut this host off from a gateway or a neighbour at once.
    #[serde(skip)]
    dangers: Vec<String>,
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl Preflight {
    /// The findings for which the agent refuses to start.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
    }

    fn ok(&mut self, what: impl Into<String>) {
        self.add(Severity::Ok, what, None);
    }

    pub(super) fn warning(&mut self, what: impl Into<String>, remedy: &str) {
        self.add(Severity::Warning, what, Some(remedy));
    }

    /// A warning; where the guard enforces, a danger too.
    fn danger(&mut self, enforces: bool, what: String, remedy: &str) {
        if enforces {
            self.dangers.push(what.clone());
        }
        self.warning(what, remedy);
    }

    fn error(&mut self, what: impl Into<String>, remedy: &str) {
        self.add(Severity::Error, what, Some(remedy));
    }

    fn unsupported(&mut self, what: impl Into<String>, remedy: &str) {
        let (what, remedy) = (what.into(), Some(remedy.to_owned()));
        self.findings.push(Finding {
            severity: Severity::Error,
            what,
            remedy,
            permission: true,
        });
    }

    pub(super) fn add(
        &mut self,
        severity: Severity,
        what: impl Into<String>,
        remedy: Option<&str>,
    ) {
        let remedy = remedy.map(str::to_owned);
        self.findings.push(Finding {
            severity,
            what: what.into(),
            remedy,
            permission: false,
        });
    }
}

/// What is to be done when the host is fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Start the agent at once: another that runs is in the way.
    Start,
    /// Put a config in place, for the next start: the agent that runs now is stopped before that.
    Plan,
}

/// Checks the host against `config`, in the calling thread's network namespace.
pub async fn check(config: &Config, purpose: Purpose) -> Preflight {
    let mut report = Preflight::default();
    privileges(&mut report, config);
    kernel(&mut report);
    budget::check(&mut report, &config.instance);
    let network = match network(config).await {
        Ok(network) => network,
        Err(error) => {
            report.error(format!("{error:#}"), "check the privileges of this process");
            return report;
        }
    };
    interfaces(&mut report, config, &network, purpose);
    let settings = sysctls(&mut report);
    neighbors::settings(&mut report, config, &network);
    neighbors::named(&mut report, config, &network).await;
    lists::check(&mut report, config, &network, ssh::own_peer(), purpose).await;
    neighbors::state_dir(&mut report, &config.state_dir);
    guards::guards(&mut report, config, &network).await;
    netfilter(&mut report, config, &network, settings.as_ref()).await;
    if purpose == Purpose::Plan {
        pins(&mut report, config);
    }
    report
}

/// Checks what the policy of a config meets on this host, for an agent that runs already.
pub async fn policy(config: &Config) -> Preflight {
    let mut report = Preflight::default();
    match network(config).await {
        Ok(network) => guards::guards(&mut report, config, &network).await,
        Err(error) => report.error(format!("{error:#}"), "check the privileges of this process"),
    }
    report
}

/// What a config would do to those who must reach this host, in plain words; `peer` is connected by SSH, whatever the
/// sockets tell.
pub async fn dangers(config: &Config, peer: Option<IpAddr>) -> Vec<String> {
    let mut report = Preflight::default();
    let network = match network(config).await {
        Ok(network) => network,
        Err(error) => return vec![format!("it is not known who must get through: {error:#}")],
    };
    lists::check(&mut report, config, &network, peer, Purpose::Plan).await;
    // Of lists an error, of neighbours a warning: an agent that is only started has nothing to lose yet.
    let lists = std::mem::take(&mut report.findings).into_iter();
    let mut dangers: Vec<_> = lists
        .filter(|finding| finding.severity == Severity::Error && config.mode == Mode::Enforce)
        .map(|finding| finding.what)
        .collect();
    neighbors::named(&mut report, config, &network).await;
    dangers.append(&mut report.dangers);
    dangers
}

/// What a start would take over, and what not.
fn pins(report: &mut Preflight, config: &Config) {
    let plan = match Pins::look(&config.instance) {
        Ok(plan) => plan,
        Err(error) => {
            return report.error(
                format!("what an agent before left cannot be taken over: {error:#}"),
                "or take all of it off with `netmoat detach`",
            );
        }
    };
    let Some(plan) = plan else { return };
    report.ok(format!(
        "note: a start takes over {} of the maps that the instance {} has in the kernel",
        plan.adopted.len(),
        config.instance
    ));
    for loss in plan.losses() {
        report.warning(
            loss,
            "nothing, if that may be; otherwise go on with the build that made it",
        );
    }
}

fn privileges(report: &mut Preflight, config: &Config) {
    match Process::myself().and_then(|process| process.status()) {
        Ok(status) => {
            capabilities(report, config, status.capeff);
            names_of_processes(report, status.capeff);
        }
        Err(error) => report.warning(
            format!("the capabilities of this process cannot be read: {error}"),
            "mount /proc",
        ),
    }
    match crate::privileges::offered() {
        Ok(what) => report.ok(what),
        Err((what, remedy)) => report.warning(what, remedy),
    }
}

fn capabilities(report: &mut Preflight, config: &Config, effective: u64) {
    // CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON (`bpf_token_capable`, `perfmon_capable`).
    let mut wanted = vec![
        ("CAP_BPF", CAP_BPF | CAP_SYS_ADMIN),
        ("CAP_NET_ADMIN", CAP_NET_ADMIN),
        ("CAP_PERFMON", CAP_PERFMON | CAP_SYS_ADMIN),
    ];
    // Neighbours are asked by whole frames.
    if [config.neighbors.arp, config.neighbors.ndp] != [GuardMode::Off; 2] {
        wanted.push(("CAP_NET_RAW", CAP_NET_RAW));
    }
    let missing = wanted.iter().filter(|(_, any)| effective & any == 0);
    let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
    let all: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
    if missing.is_empty() {
        report.ok(format!("capabilities: {} are effective", all.join(", ")));
    } else {
        report.unsupported(
            format!("capabilities missing to load and attach programs and to ask neighbours: {}", missing.join(", ")),
            &format!(
                "run netmoat with sudo, or as a systemd service with `AmbientCapabilities={}`, or grant them to the \
                 binary with `setcap {}+ep $(command -v netmoat)`; CAP_NET_RAW is not needed with both guards of \
                 neighbours off",
                all.join(" "),
                all.join(",").to_lowercase()
            ),
        );
    }
}

/// Whether `queues` and `top` can name the processes of others (`proc_fd_permission`, `ptrace_may_access`); all else works
/// without.
fn names_of_processes(report: &mut Preflight, effective: u64) {
    let wanted = [
        ("CAP_DAC_READ_SEARCH", CAP_DAC_READ_SEARCH),
        ("CAP_SYS_PTRACE", CAP_SYS_PTRACE),
    ];
    let missing = wanted.iter().filter(|(_, bit)| effective & bit == 0);
    let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        report.warning(
            format!(
                "without {} `netmoat queues` and `top` cannot name the processes of others",
                missing.join(", ")
            ),
            "in a systemd unit add them to `CapabilityBoundingSet=`, or go without the names",
        );
    }
}

fn kernel(report: &mut Preflight) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match release.parse::<Version>() {
        Ok(version) if version < OLDEST_KERNEL => report.unsupported(
            format!("Linux {release} is too old: {KFUNC} came with 6.9"),
            "boot a kernel of 6.9 or newer (Debian 12: linux-image-amd64 from bookworm-backports)",
        ),
        Ok(_) => report.ok(format!("kernel: Linux {release}")),
        Err(error) => report.warning(
            format!("the kernel release {release:?} cannot be read: {error}"),
            "make sure that it is 6.9 or newer",
        ),
    }
    let btf = match Btf::from_sys_fs() {
        Ok(btf) => btf,
        Err(error) => {
            return report.unsupported(
                format!("the kernel's types in /sys/kernel/btf/vmlinux cannot be read: {error}"),
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, and mount /sys",
            );
        }
    };
    match btf.id_by_type_name_kind(KFUNC, BtfKind::Func) {
        Ok(_) => report.ok(format!("kernel function {KFUNC} is there")),
        Err(_) => report.unsupported(
            format!(
                "the kernel has no function {KFUNC}, which makes a connection of a proven cookie"
            ),
            "boot a kernel of 6.9 or newer built with CONFIG_SYN_COOKIES=y",
        ),
    }
}

struct Network {
    links: Vec<Link>,
    addresses: Vec<Address>,
    /// What the config means among the links.
    selection: Selection,
}

impl Network {
    /// The interfaces that are to be attached to.
    fn attached(&self) -> impl Iterator<Item = &Link> {
        let chosen = &self.selection.chosen;
        let is_chosen = |link: &&Link| chosen.iter().any(|c| c.ifindex == link.index);
        self.links.iter().filter(is_chosen)
    }

    /// As [`arriving_by`], on any of them.
    fn arriving_by(&self) -> Vec<String> {
        arriving_by(self.attached().map(|link| link.index), &self.links)
    }
}

async fn network(config: &Config) -> Result<Network> {
    let handle = Links::open()?;
    let links = handle.links().await?;
    // A full routing table is a million routes: only when it is asked for.
    let default = if config.interfaces.iter().any(Pattern::is_default_route) {
        handle.default_routes().await?.interfaces
    } else {
        BTreeSet::new()
    };
    let selection = select(&config.interfaces, &links, &default);
    Ok(Network {
        addresses: handle.addresses().await?,
        links,
        selection,
    })
}

fn interfaces(report: &mut Preflight, config: &Config, network: &Network, purpose: Purpose) {
    for pattern in &network.selection.unmatched {
        unmatched(report, pattern, &network.links);
    }
    for (name, why) in &network.selection.left_out {
        report.ok(format!("note: {name} is left out: {why}"));
    }
    for chosen in &network.selection.chosen {
        if let Some(link) = network.links.iter().find(|l| l.index == chosen.ifindex) {
            interface(report, config, chosen, link, &network.links, purpose);
        }
    }
}

/// A pattern that means no interface which is there.
fn unmatched(report: &mut Preflight, pattern: &Pattern, links: &[Link]) {
    let known: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    let known = known.join(", ");
    if let Some(name) = pattern.name() {
        report.error(
            format!("{name}: no such interface; there are {known}"),
            "name one of these with -i or in `interfaces` of the config",
        );
    } else if pattern.is_default_route() {
        report.warning(
            "there is no default route, so default-route means no interface now",
            "it is attached to as soon as there is one; or name the interface",
        );
    } else {
        report.warning(
            format!("{pattern} matches no interface now; there are {known}"),
            "what matches it is attached to as soon as it is there",
        );
    }
}

fn interface(
    report: &mut Preflight,
    config: &Config,
    chosen: &Chosen,
    link: &Link,
    links: &[Link],
    purpose: Purpose,
) {
    let name = &link.name;
    jumbo(report, config, link);
    let before = report.findings.len();
    if let Some((what, remedy)) = &chosen.fault {
        report.error(what, remedy);
    }
    if !link.up {
        report.warning(
            format!("{name} is down"),
            &format!("`ip link set {name} up`"),
        );
    }
    xdp(report, config, link, purpose);
    vlan(report, link, links);
    if report.findings.len() == before {
        let by = match chosen.pattern.name() {
            Some(_) => String::new(),
            None => format!(" (by {})", chosen.pattern),
        };
        report.ok(format!("{name}{by}: up, MTU {}, no XDP program", link.mtu));
    }
}

/// A driver without multi-buffer XDP wants a packet in one page, of which it needs some for itself.
fn jumbo(report: &mut Preflight, config: &Config, link: &Link) {
    let (name, mtu) = (&link.name, link.mtu);
    if mtu <= NATIVE_MTU || config.xdp_mode == ConfiguredMode::Generic {
        return;
    }
    let then = match config.xdp_mode {
        ConfiguredMode::Native => "netmoat does not start then",
        _ => "the programs run in generic mode then, several times slower",
    };
    report.ok(format!(
        "note: {name} has an MTU of {mtu}, and a driver without multi-buffer XDP has native XDP only up to about \
         {NATIVE_MTU}: {then}"
    ));
}

fn xdp(report: &mut Preflight, config: &Config, link: &Link, purpose: Purpose) {
    let Some(program) = link.xdp else { return };
    let (name, id) = (&link.name, program.id);
    let keyword = match program.mode {
        XdpMode::Native => "xdpdrv",
        XdpMode::Generic => "xdpgeneric",
        XdpMode::Offload => "xdpoffload",
        XdpMode::Multiple => "xdp",
    };
    let held = holder_of(id);
    if purpose == Purpose::Start
        && let Some((instance, false)) = &held
        && *instance != config.instance
    {
        return report.error(
            format!("{name} has the programs of the instance {instance}, whose agent does not run (XDP program {id})"),
            &format!("start that one with `--instance {instance}`, or take its programs off with `netmoat --instance {instance} detach`"),
        );
    }
    // Its name the kernel tells CAP_SYS_ADMIN alone, which the systemd unit does not give; whose pin it has is netmoat's.
    let loaded = aya::programs::loaded_programs()
        .flatten()
        .find(|info| info.id() == id);
    let program = match held {
        Some(_) => Some(XDP_PROGRAM),
        None => loaded.as_ref().and_then(|info| info.name_as_str()),
    };
    foreign_xdp(report, name, id, keyword, program, purpose);
}

/// The XDP program that an interface has already.
fn foreign_xdp(
    report: &mut Preflight,
    name: &str,
    id: u32,
    keyword: &str,
    program: Option<&str>,
    purpose: Purpose,
) {
    match program {
        Some(XDP_PROGRAM) if purpose == Purpose::Plan => report.ok(format!(
            "note: netmoat runs on {name} now (XDP program {id}); it takes a config when it is started anew"
        )),
        Some(XDP_PROGRAM) if let Some((instance, false)) = holder_of(id) => report.ok(format!(
            "note: {name} has the program of an agent before (XDP program {id}, instance {instance}); this one takes its place"
        )),
        Some(XDP_PROGRAM) => report.error(
            format!(
                "{name}: a netmoat agent is already running on it (XDP program {id}, {XDP_PROGRAM})"
            ),
            "ask it with `netmoat status`, or stop it first (`systemctl stop netmoat`)",
        ),
        program => report.error(
            format!(
                "{name} has another XDP program: id {id}, {}",
                program.unwrap_or("of unknown name")
            ),
            &format!(
                "stop its owner (`bpftool prog show id {id}` names it), or take it off with \
                 `ip link set {name} {keyword} off` unless it is held by a bpf_link"
            ),
        ),
    }
}

/// A tag that the device has taken out is not in the frame that XDP sends back (R-SYN-15).
fn vlan(report: &mut Preflight, link: &Link, links: &[Link]) {
    let name = &link.name;
    let Some(vlan) = links.iter().find(|other| other.is_vlan_of(link)) else {
        return;
    };
    match links::strips_vlan_tags(name) {
        Ok(false) => {}
        Ok(true) => report.error(
            format!("{name} strips VLAN tags in hardware and carries {}: answers would lose their tag", vlan.name),
            &format!("`ethtool -K {name} rxvlan off`"),
        ),
        Err(error) => report.warning(
            format!("whether {name} strips VLAN tags is unknown ({error:#}); answers on {} may lose theirs", vlan.name),
            &format!("`ethtool -K {name} rxvlan off`"),
        ),
    }
}

fn sysctls(report: &mut Preflight) -> Option<TcpSettings> {
    let settings = match TcpSettings::read() {
        Ok(settings) => settings,
        Err(error) => {
            report.error(format!("{error:#}"), "mount /proc");
            return None;
        }
    };
    if settings.syncookies == 0 {
        report.error(
            "net.ipv4.tcp_syncookies is 0: the kernel takes no cookie, not even a proven one",
            "`sysctl -w net.ipv4.tcp_syncookies=1`",
        );
    } else {
        report.ok(format!(
            "net.ipv4.tcp_syncookies is {}",
            settings.syncookies
        ));
    }
    if settings.conntrack_loose == Some(false) {
        report.error(
            "net.netfilter.nf_conntrack_tcp_loose is 0: connection tracking never sees the SYN of a \
             cookie connection and would call it INVALID",
            "`sysctl -w net.netfilter.nf_conntrack_tcp_loose=1`",
        );
    }
    Some(settings)
}

async fn netfilter(
    report: &mut Preflight,
    config: &Config,
    network: &Network,
    settings: Option<&TcpSettings>,
) {
    let legacy = legacy_tables();
    if !legacy.is_empty() {
        report.warning(
            format!("rules of legacy iptables (tables: {}) cannot be read by nft and were not checked", legacy.join(", ")),
            "make sure that none drops NEW without SYN or redirects a protected port, or move them to \
             iptables-nft",
        );
    }
    let ruleset = match ruleset().await {
        Ok(ruleset) => ruleset,
        Err(error) => {
            return report.warning(
                format!("the netfilter rules were not checked: {error:#}"),
                "make sure that none drops NEW without SYN or redirects a protected port",
            );
        }
    };
    let protected = |port: &u16| config.syn.for_port(*port).mode != SynMode::Off;
    let listeners = Diag::open()
        .and_then(|mut diag| diag.listeners())
        .unwrap_or_default();
    let scope = Scope {
        interfaces: network.arriving_by(),
        addresses: network.addresses.iter().map(|address| address.ip).collect(),
        ports: listeners
            .iter()
            .map(|listener| listener.port)
            .chain(config.syn.overrides.keys().copied())
            .filter(protected)
            .collect(),
        any_port: config.syn.default.mode != SynMode::Off,
    };
    let obstacles = ruleset.obstacles(&scope);
    let loose = settings.is_none_or(|settings| settings.conntrack_loose != Some(false));
    let before = report.findings.len();
    for obstacle in &obstacles {
        netfilter_obstacle(report, obstacle, loose);
    }
    if report.findings.len() == before {
        report.ok("netfilter: no rule in the way of cookie connections");
    }
}

fn netfilter_obstacle(report: &mut Preflight, obstacle: &Obstacle, loose: bool) {
    let Obstacle {
        rule,
        effect,
        ports,
        any_port,
    } = obstacle;
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    let ports = match (any_port, ports.is_empty()) {
        (true, _) => "every port".to_owned(),
        (false, _) => format!("port {}", ports.join(", ")),
    };
    let exempt = format!(
        "`nft delete rule {rule}`, or leave these ports to the kernel with `mode = \"off\"` in the config"
    );
    let (severity, what, remedy) = match effect {
        Effect::DropsNewWithoutSyn => (
            Severity::Error,
            "drops new connections that do not begin with a SYN; netfilter never sees the SYN of a cookie connection",
            exempt,
        ),
        Effect::AcceptsSynOnly => (
            Severity::Error,
            "accepts new connections by their SYN only; netfilter never sees the SYN of a cookie connection",
            format!("let it accept `ct state new` without `tcp flags syn`, or {exempt}"),
        ),
        Effect::DropsInvalid if loose => return,
        Effect::DropsInvalid => (
            Severity::Error,
            "drops INVALID, which every cookie connection is while nf_conntrack_tcp_loose is 0",
            "`sysctl -w net.netfilter.nf_conntrack_tcp_loose=1`".to_owned(),
        ),
        Effect::Translates => (
            Severity::Error,
            "sends connections elsewhere, so that a cookie would be given for the wrong socket",
            exempt,
        ),
        Effect::Synproxy => (
            Severity::Warning,
            "is a synproxy: SYNs that netmoat leaves to the kernel meet it, cookie connections do not",
            exempt,
        ),
    };
    report.add(
        severity,
        format!("netfilter rule `{rule}` on {ports} {what}"),
        Some(&remedy),
    );
}

/// The names that a packet may arrive by: the attached interfaces, and the bridges, bonds, VLANs and
/// macvlans on top of them.
fn arriving_by(attached: impl Iterator<Item = u32>, links: &[Link]) -> Vec<String> {
    let mut indexes: BTreeSet<u32> = attached.collect();
    loop {
        let known = indexes.len();
        for link in links {
            let stacked = matches!(link.kind.as_deref(), Some("vlan" | "macvlan" | "ipvlan"));
            if stacked && link.lower.is_some_and(|lower| indexes.contains(&lower)) {
                indexes.insert(link.index);
            }
            if indexes.contains(&link.index) {
                indexes.extend(link.controller);
            }
        }
        if indexes.len() == known {
            break;
        }
    }
    links
        .iter()
        .filter(|link| indexes.contains(&link.index))
        .map(|link| link.name.clone())
        .collect()
}

async fn ruleset() -> Result<Ruleset> {
    let nft = Command::new("nft")
        .args(["-j", "list", "ruleset"])
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(NFT_TIMEOUT, nft).await {
        Err(_) => bail!("nft did not print them within {} s", NFT_TIMEOUT.as_secs()),
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => bail!("nft is not installed"),
        Ok(output) => output.context("nft cannot be run")?,
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!(
            "nft: {}",
            message.lines().next().unwrap_or("failed").escape_debug()
        );
    }
    Ruleset::parse(&String::from_utf8_lossy(&output.stdout))
        .context("the output of nft is not understood")
}

/// Tables of iptables-legacy and ip6tables-legacy (`net/netfilter/x_tables.c`).
fn legacy_tables() -> Vec<String> {
    let names = [("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")];
    let mut tables = Vec::new();
    for (family, name) in names {
        let text =
            std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        tables.extend(text.lines().map(|table| format!("{family} {table}")));
    }
    tables
}

#[cfg(test)]
mod tests;
