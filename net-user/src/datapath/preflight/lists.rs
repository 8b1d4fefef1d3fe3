//! Whether the config's lists would lock someone out who must reach this host.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Network, Preflight, Purpose, Severity};
use crate::{
    config::Config,
    guards::resolvers,
    host::{links::Links, ssh},
    lists::{
        CONFIG, List,
        entries::{Entries, Record},
        expiry,
        guard::{self, Change, Gone, Victim},
        now_ns,
    },
};

/// Entries of the config stand under the only name there is.
const ORIGIN: u32 = 0;
const GATEWAY: &str = "the default gateway";
const OWN: &str = "an address of this host";

/// `peer` is where the operator's shell came from: it counts too, behind a jump host for instance.
///
/// A start is not kept from what an operator may have allowed by `--force` or `confirm` while the agent ran: under a
/// service manager it would be tried for ever, with no moat meanwhile. Who is connected by SSH and who serves names is only
/// warned of then; a gateway or an own address is an error always, as the host is cut off without it.
pub(super) async fn check(
    report: &mut Preflight,
    config: &Config,
    network: &Network,
    peer: Option<IpAddr>,
    purpose: Purpose,
) {
    let lists = &config.lists;
    if lists.is_empty() {
        return;
    }
    let mut addresses = BTreeSet::new();
    let mut victims = Vec::new();
    let mut add = |address: IpAddr, what| {
        if !address.is_loopback() && addresses.insert(address) {
            victims.push(Victim { address, what });
        }
    };
    let gateways = async { Links::open()?.default_gateways().await };
    match gateways.await {
        Ok(gateways) => gateways
            .iter()
            .for_each(|(_, address)| add(*address, GATEWAY)),
        Err(error) => report.warning(
            format!("the default gateways cannot be read, and are not kept from being blocked: {error:#}"),
            "see that no entry of `block` in [lists] covers them",
        ),
    }
    network.addresses.iter().for_each(|own| add(own.ip, OWN));
    if let Some(peer) = peer {
        add(
            peer.to_canonical(),
            "from where this command was started by SSH",
        );
    }
    match ssh::peers() {
        Ok(peers) => peers
            .iter()
            .for_each(|peer| add(*peer, "from where someone is connected by SSH")),
        Err(error) => report.warning(
            format!(
                "connections by SSH cannot be read, and are not kept from being blocked: {error:#}"
            ),
            "see that no entry of `block` in [lists] covers your address",
        ),
    }
    let mut servers = config.guards.udp.servers.clone();
    if config.guards.udp.resolv_conf {
        // That it cannot be read is told elsewhere.
        servers.extend(resolvers::read().unwrap_or_default());
    }
    servers
        .iter()
        .for_each(|server| add(*server, "a name or time server of this host"));
    match refusal(config, &victims) {
        None => report.ok(format!(
            "the config's lists allow {} and block {} entries, and lock out nobody who must reach this host",
            lists.allow.len(),
            lists.block.len()
        )),
        Some(why) => {
            let severity = if purpose == Purpose::Start && refusal(config, &cut_off(&victims)).is_none() {
                Severity::Warning
            } else {
                Severity::Error
            };
            report.add(
                severity,
                format!("[lists] in the config: {why}"),
                Some(
                    "take the entry out of `block` or its file, or name who must get through in `allow`",
                ),
            );
        }
    }
}

/// Those without whom the host is cut off.
fn cut_off(victims: &[Victim]) -> Vec<Victim> {
    let is_one = |victim: &&Victim| [GATEWAY, OWN].contains(&victim.what);
    victims.iter().filter(is_one).cloned().collect()
}

fn refusal(config: &Config, victims: &[Victim]) -> Option<String> {
    let now = now_ns().ok()?;
    let mut allow = Entries::default();
    for entry in &config.lists.allow {
        let record = Record {
            expiry: expiry(entry.ttl, now),
            ..Record::default()
        };
        allow.insert(entry.prefix, ORIGIN, record);
    }
    let change = Change {
        list: List::Block,
        name: CONFIG,
        wanted: &config.lists.block,
        gone: Gone::All,
    };
    guard::refusal(&[allow, Entries::default()], None, &change, victims, now)
        .map(|refusal| refusal.what)
}
