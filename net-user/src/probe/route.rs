//! Route and neighbour: which interface, source and next hop; who that is on the link.

mod bindings;
mod facts;
mod judge;

use std::net::IpAddr;

use tokio::time::timeout;

pub use self::facts::{Binding, Neighbor, RouteFacts, Way, WayKind};
use self::judge::Met;
use super::{Facts, Finding, Layer, Outcome, Stage, Walk};
use crate::{
    control::client::Client,
    host::{
        links::{Link, Links},
        routes::{self, NoRoute},
    },
};

/// How many addresses are looked at. A hostile name server may give hundreds.
const MOST: usize = super::tcp::MOST_ADDRESSES;

/// Looks at the way to each address. With `agent`, next hops are held to its bindings.
pub async fn look(walk: &Walk<'_>, agent: Option<&Client>, addresses: &[IpAddr]) -> Stage {
    (walk.progress)("looking at the route");
    let start = walk.now_us();
    let looked = timeout(walk.plan.timeout, ways(addresses)).await;
    let times = walk.since(start);
    let mut facts = RouteFacts::default();
    match looked {
        Ok(Ok((ways, links))) => {
            facts.ways = ways;
            bind(walk, &mut facts, &links, agent).await;
        }
        Ok(Err(error)) => facts.note = Some(format!("{error:#}")),
        Err(_) => facts.note = Some("rtnetlink does not answer".to_owned()),
    }
    let findings = judge::findings(&facts, Met::NotYet);
    let summary = facts.summary();
    Stage::new(Layer::Route, times, summary, findings, Facts::Route(facts))
}

/// Looks at the next hops once more when the connection was tried: only then the kernel has asked for them. `connected`: the
/// address that answered, if one did.
pub async fn look_again(walk: &Walk<'_>, stage: &mut Stage, connected: Option<IpAddr>) {
    let Facts::Route(facts) = &mut stage.facts else {
        return;
    };
    // What cannot be seen now was seen before: the first look stands.
    let again = timeout(walk.plan.timeout, neighbors(&mut facts.ways)).await;
    if let Ok(Err(error)) = again {
        facts.note = Some(format!("{error:#}"));
    }
    let met = connected.map_or(Met::Nobody, Met::At);
    let findings = judge::findings(facts, met);
    stage.judge(findings);
}

/// The way to each address, and the interfaces.
async fn ways(addresses: &[IpAddr]) -> anyhow::Result<(Vec<Way>, Vec<Link>)> {
    let rtnetlink = Links::open()?;
    let links = rtnetlink.links().await?;
    let mut ways = Vec::new();
    for address in addresses.iter().take(MOST) {
        let mut way = match rtnetlink.route_to(*address).await? {
            Ok(route) => way(*address, &route, &links),
            Err(none) => Way::none(*address, none),
        };
        look_at_neighbor(&rtnetlink, &mut way).await?;
        ways.push(way);
    }
    Ok((ways, links))
}

fn way(address: IpAddr, route: &routes::Route, links: &[Link]) -> Way {
    let link = links.iter().find(|link| link.index == route.ifindex);
    let kind = match (route.local, route.gateway) {
        (true, _) => WayKind::Local,
        (false, Some(_)) => WayKind::Routed,
        (false, None) => WayKind::OnLink,
    };
    Way {
        kind,
        ifindex: route.ifindex,
        interface: link.map(|link| link.name.clone()),
        interface_kind: link.and_then(|link| link.kind.clone()),
        link_works: link.is_none_or(|link| link.up && link.carrier),
        interface_mtu: link.map(|link| link.mtu),
        source: route.source,
        next_hop: route.gateway,
        prefix_len: route.prefix_len,
        table: Some(route.table),
        metric: Some(route.metric).filter(|metric| *metric != 0),
        path_mtu: route.mtu,
        path_mtu_learned: route.mtu_is_learned,
        ..Way::to(address)
    }
}

/// Reads the neighbour tables again.
async fn neighbors(ways: &mut [Way]) -> anyhow::Result<()> {
    let rtnetlink = Links::open()?;
    for way in ways {
        look_at_neighbor(&rtnetlink, way).await?;
        // The path MTU may have been learned meanwhile.
        if let Ok(Ok(route)) = rtnetlink.route_to(way.address).await {
            way.path_mtu = route.mtu.or(way.path_mtu);
            way.path_mtu_learned |= route.mtu_is_learned;
        }
    }
    Ok(())
}

async fn look_at_neighbor(rtnetlink: &Links, way: &mut Way) -> anyhow::Result<()> {
    let hop = match way.kind {
        WayKind::OnLink => way.address,
        WayKind::Routed => way.next_hop.unwrap_or(way.address),
        _ => return Ok(()),
    };
    let Some(entry) = rtnetlink.neighbor(way.ifindex, hop).await? else {
        return Ok(());
    };
    let mut sharing = Vec::new();
    if let Some(mac) = entry.mac.filter(|_| entry.usable) {
        // Only of its own family: a router's link-local address is at the same place as its IPv4 one.
        let of_mac = |other: &crate::host::neighbors::KernelNeighbor| {
            other.ifindex == entry.ifindex
                && other.ip != entry.ip
                && other.ip.is_ipv4() == entry.ip.is_ipv4()
                && other.usable
                && other.mac == Some(mac)
                && !link_local(other.ip)
        };
        let all = rtnetlink.neighbors().await?;
        sharing.extend(all.iter().filter(|o| of_mac(o)).map(|o| o.ip).take(SHARING));
    }
    let mac = entry.mac.map(|mac| mac.to_string());
    let (mut binding, mut mac_before) = (None, None);
    if let Some(before) = way.neighbor.take() {
        binding = before.binding;
        mac_before = before.mac.filter(|_| before.usable);
    }
    way.neighbor = Some(Neighbor {
        address: hop,
        state: entry.state.name().to_owned(),
        mac_before: mac_before.filter(|before| Some(before) != mac.as_ref()),
        mac,
        usable: entry.usable,
        permanent: entry.permanent,
        sharing,
        binding,
    });
    Ok(())
}

/// How many other addresses at the next hop's hardware address are named.
const SHARING: usize = 4;

fn link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Joins the agent's bindings, if it guards this very namespace.
async fn bind(walk: &Walk<'_>, facts: &mut RouteFacts, links: &[Link], agent: Option<&Client>) {
    facts.bindings = match agent {
        None => "no agent".to_owned(),
        Some(agent) => match timeout(walk.plan.timeout, bindings::of(agent, links)).await {
            Ok(Ok(known)) => {
                for way in &mut facts.ways {
                    known.join(way, links);
                }
                known.what()
            }
            Ok(Err(why)) => why,
            Err(_) => "the agent does not answer".to_owned(),
        },
    };
}

impl Way {
    /// A way of which nothing is known yet.
    fn to(address: IpAddr) -> Self {
        Self {
            address,
            ..Self::default()
        }
    }

    fn none(address: IpAddr, why: NoRoute) -> Self {
        let kind = match why {
            NoRoute::Missing => WayKind::Missing,
            NoRoute::Unreachable => WayKind::Unreachable,
            NoRoute::Blackhole => WayKind::Blackhole,
            NoRoute::Prohibited => WayKind::Prohibited,
        };
        Self {
            kind,
            ..Self::to(address)
        }
    }
}

/// A finding about a part of the way that does not decide: others are there.
fn finding(code: &str, outcome: Outcome, what: String, next: &str) -> Finding {
    Finding::new(code, outcome, what).next(next)
}
