//! What bears on the guards of neighbours.

use super::{Network, Preflight};
use crate::config::{Config, GuardMode, Mode, NeighborConfig};
use crate::host::links::Links;
use crate::host::neighbor_sysctl;
use crate::host::neighbors::KernelNeighbor;
use crate::neighbor::ports::Port;
use anyhow::Result;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What the kernel's settings leave to the guards. The weak ones are mostly its defaults, which a host may need:
/// notes, unless someone has turned a weakness on (R-ARP-11).
pub(super) fn settings(report: &mut Preflight, config: &Config, network: &Network) {
    let guards = [config.neighbors.arp, config.neighbors.ndp];
    if guards == [GuardMode::Off; 2] {
        return;
    }
    let mut told = BTreeSet::new();
    for link in network.attached() {
        let settings = match neighbor_sysctl::settings(&link.name) {
            Ok(settings) => settings,
            Err(error) => {
                report.warning(
                    format!("settings of {} are unknown: {error:#}", link.name),
                    "mount /proc",
                );
                continue;
            }
        };
        // A setting of `all` is the same on every interface.
        for setting in settings.into_iter().filter(|s| s.weak) {
            if !told.insert(setting.name.clone()) {
                continue;
            }
            let what = format!("{} is {}: {}", setting.name, setting.value, setting.meaning);
            if setting.name.ends_with(".arp_accept") {
                report.warning(what, &format!("`sysctl -w {}=0`", setting.name));
            } else {
                report.ok(format!("note: {what}"));
            }
        }
    }
}

/// What the kernel knows of neighbours, and the next hops of its default routes (interface and address).
struct Known {
    neighbors: Vec<KernelNeighbor>,
    gateways: Vec<(u32, IpAddr)>,
}

impl Known {
    async fn read() -> Result<Self> {
        let links = Links::open()?;
        Ok(Self {
            neighbors: links.neighbors().await?,
            gateways: links.default_gateways().await?,
        })
    }
}

/// The neighbours and routers that the config names, against what the host says of them. A slip there cuts the
/// host off from them as soon as the guards enforce.
pub(super) async fn named(report: &mut Preflight, config: &Config, network: &Network) {
    let policy = &config.neighbors;
    if policy.bindings.is_empty() && !policy.ra_guard() {
        return;
    }
    let known = match Known::read().await {
        Ok(known) => known,
        Err(error) => {
            return report.warning(
                format!("the neighbours in the config were not checked: {error:#}"),
                "compare them with `ip neigh`",
            );
        }
    };
    let wanted = network.attached();
    let wanted: Vec<_> = wanted.map(|link| (link.name.clone(), link.index)).collect();
    let ports = Port::all(&wanted, &network.links, &network.addresses);
    for binding in &policy.bindings {
        bound(report, config, binding, &ports, network, &known);
    }
    if policy.ra_guard() && policy.ndp != GuardMode::Off {
        routers(report, config, &ports, network, &known.gateways);
    }
}

fn bound(
    report: &mut Preflight,
    config: &Config,
    binding: &NeighborConfig,
    ports: &[Port],
    network: &Network,
    known: &Known,
) {
    let ip = binding.address;
    let mode = if ip.is_ipv4() {
        config.neighbors.arp
    } else {
        config.neighbors.ndp
    };
    if mode == GuardMode::Off {
        let table = if ip.is_ipv4() { "arp" } else { "ndp" };
        return report.ok(format!(
            "note: nothing is held to [[neighbor]] {ip} while `mode` of [{table}] is \"off\""
        ));
    }
    let macs: Vec<_> = binding.macs.iter().map(ToString::to_string).collect();
    let (macs, mut told) = (macs.join(", "), BTreeSet::new());
    for port in ports.iter().filter(|port| applies(binding, port)) {
        let mut own = port.own.iter();
        if own.any(|own| own.ip == ip && own.vlan == binding.vlan) {
            report.warning(
                format!(
                    "[[neighbor]] {ip} is an address of this host on {}, and guarded as such: what it says has no \
                     effect there",
                    port.name
                ),
                &format!("take [[neighbor]] {ip} out of {}", source(config)),
            );
            continue;
        }
        for carrier in port.carriers(binding.vlan) {
            // The ports of a bond have it in common.
            if !told.insert(carrier) {
                continue;
            }
            let entry = known
                .neighbors
                .iter()
                .find(|entry| entry.ifindex == carrier && entry.ip == ip && entry.usable);
            let Some((entry, mac)) = entry.and_then(|entry| Some((entry, entry.mac?))) else {
                continue;
            };
            if binding.macs.contains(&mac) {
                continue;
            }
            let gateway = if known.gateways.contains(&(carrier, ip)) {
                ", the next hop of a default route,"
            } else {
                ""
            };
            let enforces = mode == GuardMode::Enforce && config.mode == Mode::Enforce;
            report.danger(
                enforces,
                format!(
                    "{ip} on {}{gateway} is at {mac} as the kernel knows it ({}), and at {macs} as [[neighbor]] says: \
                     if that is a slip, this host loses it as soon as the guard enforces",
                    name(network, carrier),
                    entry.state
                ),
                &format!(
                    "check `macs` of [[neighbor]] {ip} in {}; if they are right, the kernel's entry is not, and \
                     `netmoat neighbor audit --repair` mends it",
                    source(config)
                ),
            );
        }
    }
}

fn applies(binding: &NeighborConfig, port: &Port) -> bool {
    let interface = binding.interface.as_ref();
    interface.is_none_or(|name| *name == port.name)
}

/// Every IPv6 default gateway must be on the list of the RA guard.
fn routers(
    report: &mut Preflight,
    config: &Config,
    ports: &[Port],
    network: &Network,
    gateways: &[(u32, IpAddr)],
) {
    let policy = &config.neighbors;
    for &(ifindex, gateway) in gateways {
        // Advertisements come from link-local addresses; another gateway was named by the operator.
        let IpAddr::V6(ip) = gateway else { continue };
        if !ip.is_unicast_link_local() || policy.routers.contains(&ip) {
            continue;
        }
        let mut at = ports
            .iter()
            .filter_map(|port| Some((port, port.above.get(&ifindex)?.vlan)))
            .peekable();
        let listed = |(port, vlan): (&Port, u16)| {
            let named = |b: &NeighborConfig| {
                b.router && b.address == gateway && b.vlan == vlan && applies(b, port)
            };
            policy.bindings.iter().any(named)
        };
        if at.peek().is_some() && !at.all(listed) {
            let enforces = policy.ndp == GuardMode::Enforce && config.mode == Mode::Enforce;
            report.danger(
                enforces,
                format!(
                    "{ip} on {}, the next hop of an IPv6 default route, is not among the routers that may advertise \
                     themselves: this host loses that route, unless it is static, as soon as the guard enforces",
                    name(network, ifindex)
                ),
                &format!("add \"{ip}\" to `routers` of [ndp] in {}", source(config)),
            );
        }
    }
}

fn name(network: &Network, ifindex: u32) -> &str {
    let link = network.links.iter().find(|link| link.index == ifindex);
    link.map_or("an unknown interface", |link| &link.name)
}

fn source(config: &Config) -> String {
    let source = config.source.as_ref();
    source.map_or("the config".to_owned(), |path| path.display().to_string())
}

/// Looks at the directory of what outlives the agent, which makes it when it starts.
pub(super) fn state_dir(report: &mut Preflight, directory: &Path) {
    let shown = directory.display();
    match state_dir_fault(directory) {
        Ok(found) => report.ok(format!("state directory: {shown}{found}")),
        Err((what, remedy)) => report.warning(
            format!("{what}: bindings that are learned and pinned do not outlive the agent"),
            &format!("{remedy}, or name another `state_dir` in the config"),
        ),
    }
}

fn state_dir_fault(directory: &Path) -> Result<&'static str, (String, String)> {
    use nix::unistd::{AccessFlags, access, geteuid};

    let shown = directory.display();
    let writable = |path: &Path| access(path, AccessFlags::W_OK | AccessFlags::X_OK);
    let metadata = match std::fs::metadata(directory) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = directory.parent().unwrap_or(directory);
            let remedy = format!("`mkdir -p -m 0700 {shown}`");
            return match std::fs::metadata(parent) {
                Ok(found) if found.is_dir() && writable(parent).is_ok() => {
                    Ok(", made at the start")
                }
                Ok(_) => Err((format!("state directory {shown} cannot be made"), remedy)),
                Err(error) => Err((
                    format!(
                        "state directory {shown} cannot be made: {}: {error}",
                        parent.display()
                    ),
                    remedy,
                )),
            };
        }
        Err(error) => {
            return Err((
                format!("state directory {shown} cannot be used: {error}"),
                format!("make it with `mkdir -p -m 0700 {shown}`"),
            ));
        }
    };
    let (uid, own) = (metadata.uid(), geteuid().as_raw());
    if !metadata.is_dir() {
        return Err((
            format!("state directory {shown} is no directory"),
            "move it away".to_owned(),
        ));
    }
    // Whoever can write there says who the gateway is.
    if uid != own && uid != 0 {
        return Err((
            format!("state directory {shown} belongs to uid {uid}, who could write bindings there"),
            format!("`chown {own} {shown}`"),
        ));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err((
            format!(
                "others may write to state directory {shown} (mode {:04o})",
                metadata.mode() & 0o7777
            ),
            format!("`chmod go-w {shown}`"),
        ));
    }
    if let Err(error) = writable(directory) {
        return Err((
            format!("state directory {shown} cannot be written to: {error}"),
            format!("`chown {own} {shown}`"),
        ));
    }
    Ok("")
}
