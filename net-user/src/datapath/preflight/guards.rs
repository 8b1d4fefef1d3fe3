//! What bears on the guards of IP, ICMP, UDP and TCP.

use super::{Network, Preflight, arriving_by};
use crate::config::guards::{GuardPolicy, ReversePath, key_of};
use crate::config::{Config, GuardMode};
use crate::guards::resolvers;
use crate::host::guard_sysctl::{Ipv4Settings, forwards_ipv6};
use crate::host::nat;
use anyhow::Result;
use net_common::abi::Class;

pub(super) async fn guards(report: &mut Preflight, config: &Config, network: &Network) {
    let policy = &config.guards;
    shares(report, policy);
    if policy.ip.mode != GuardMode::Off {
        if policy.ip.reverse_path != ReversePath::Off {
            reverse_path(report, config, network);
        }
        own_sources(report, network);
    }
    if policy.udp.mode != GuardMode::Off {
        servers(report, config, network);
    }
    if policy.tcp.mode != GuardMode::Off {
        strays(report, network).await;
    }
}

/// Of shares that are part of one another, the narrower one must be the smaller one to have a meaning.
fn shares(report: &mut Preflight, policy: &GuardPolicy) {
    for class in Class::ALL {
        let (table, key) = key_of(class);
        let mode = match table {
            "ip" => policy.ip.mode,
            "icmp" => policy.icmp.mode,
            "udp" => policy.udp.mode,
            _ => policy.tcp.mode,
        };
        if mode == GuardMode::Off {
            continue;
        }
        for ((wide, wide_rate), (narrow, narrow_rate)) in policy.shares(class).upside_down() {
            report.warning(
                format!(
                    "`{key}` of [{table}]: the share `{wide}` of {wide_rate} is below `{narrow}` of {narrow_rate}, which \
                     can never be used up"
                ),
                &format!(
                    "write a `{wide}` of at least {narrow_rate}, or a `{narrow}` of at most {wide_rate}; a share that \
                     is left out keeps its default"
                ),
            );
        }
    }
}

/// `bpf_fib_lookup` answers BPF_FIB_LKUP_RET_FWD_DISABLED where an interface does not forward, and names the interface
/// of the route, which is the VLAN's, bridge's or bond's where one stands on the attached one (`net/core/filter.c`).
fn reverse_path(report: &mut Preflight, config: &Config, network: &Network) {
    for link in network.attached() {
        let name = &link.name;
        match (Ipv4Settings::read(name), forwards_ipv6(name)) {
            (Err(error), _) | (_, Err(error)) => {
                report.warning(
                    format!("whether `reverse_path` can work on {name} is unknown: {error:#}"),
                    "mount /proc",
                );
            }
            (Ok(ipv4), Ok(ipv6)) => {
                let key = name.replace('.', "/");
                if !ipv4.forwarding {
                    report.error(
                        format!(
                            "`reverse_path` of [ip] has no effect on {name}: the kernel tells XDP the way back to an \
                             IPv4 source only where it forwards, and net.ipv4.conf.{key}.forwarding is 0"
                        ),
                        &format!(
                            "set `reverse_path = \"off\"` and let the kernel check (`sysctl -w \
                             net.ipv4.conf.{key}.rp_filter=1`, 2 for loose); or, on a router, \
                             `sysctl -w net.ipv4.conf.{key}.forwarding=1`"
                        ),
                    );
                }
                if ipv6 == Some(false) {
                    report.error(
                        format!(
                            "`reverse_path` of [ip] has no effect on {name}: the kernel tells XDP the way back to an \
                             IPv6 source only where it forwards, and net.ipv6.conf.{key}.forwarding is 0"
                        ),
                        &format!(
                            "set `reverse_path = \"off\"` and let nftables check (`fib saddr . iif oif missing drop` \
                             in a prerouting chain); or, on a router, `sysctl -w net.ipv6.conf.{key}.forwarding=1`, \
                             which ends the use of router advertisements unless accept_ra is 2"
                        ),
                    );
                }
            }
        }
        let mut above = arriving_by(std::iter::once(link.index), &network.links);
        above.retain(|other| other != name);
        if config.guards.ip.reverse_path == ReversePath::Strict && !above.is_empty() {
            report.error(
                format!(
                    "`reverse_path = \"strict\"` would drop honest packets on {name}: routes lead by {}, which stand \
                     on it",
                    above.join(", ")
                ),
                "set it to \"loose\" or \"off\"",
            );
        }
    }
}

fn own_sources(report: &mut Preflight, network: &Network) {
    let carriers = network.arriving_by();
    let taking: Vec<_> = carriers
        .iter()
        .filter(|name| Ipv4Settings::read(name).is_ok_and(|settings| settings.accept_local))
        .map(String::as_str)
        .collect();
    if !taking.is_empty() {
        report.ok(format!(
            "note: accept_local is on for {}: packets from outside with own addresses as their source pass",
            taking.join(", ")
        ));
    }
}

fn servers(report: &mut Preflight, config: &Config, network: &Network) {
    let policy = &config.guards.udp;
    for server in &policy.servers {
        if network.addresses.iter().any(|own| own.ip == *server) {
            report.warning(
                format!(
                    "{server} in `servers` of [udp] is an address of this host: no answer from there comes over a link"
                ),
                "name the servers that this host asks",
            );
        }
    }
    if !policy.resolv_conf {
        return;
    }
    match resolvers::read() {
        Ok(servers) if servers.is_empty() => {}
        Ok(servers) => {
            let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
            report.ok(format!(
                "name servers whose answers are not limited: {}",
                servers.join(", ")
            ));
        }
        Err(error) => report.warning(format!("{error:#}"), "or set `resolv_conf = false`"),
    }
}

/// Segments without a socket are a connection's of somebody behind this host where it translates.
async fn strays(report: &mut Preflight, network: &Network) {
    let forwarding = forwards(&network.arriving_by());
    let translating = nat::translates().await;
    match (forwarding, translating) {
        (Ok(false), Ok(None)) => {}
        (Ok(true), _) => report.ok(
            "note: this host forwards, so TCP segments without a socket may be for others: they are left alone (R-TCP-8)",
        ),
        (_, Ok(Some(what))) => report.ok(format!(
            "note: {what}, so TCP segments without a socket may be for others: they are left alone (R-TCP-8)"
        )),
        (Err(error), _) | (_, Err(error)) => report.warning(
            format!("whether this host forwards or translates is unknown, so TCP segments without a socket are left alone: {error:#}"),
            "run as root, with /proc mounted",
        ),
    }
}

fn forwards(interfaces: &[String]) -> Result<bool> {
    for name in interfaces {
        if Ipv4Settings::read(name)?.forwarding || forwards_ipv6(name)? == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}
