//! What is to be said of the ways.

use std::net::IpAddr;

use super::{
    facts::{RouteFacts, Way, WayKind},
    finding,
};
use crate::probe::{Finding, Outcome};

/// How the connection went, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It was not tried yet.
    NotYet,
    /// No address answered.
    Nobody,
    /// This one did.
    At(IpAddr),
}

/// All findings.
pub(super) fn findings(facts: &RouteFacts, met: Met) -> Vec<Finding> {
    let leads = facts.ways.iter().any(|way| way.kind.leads());
    let mut findings = Vec::new();
    for way in &facts.ways {
        findings.extend(no_route(way, leads));
        findings.extend(no_link(way, met));
        findings.extend(neighbor(way, met));
        findings.extend(narrow(way));
    }
    findings
}

/// `leads`: another address has a way.
fn no_route(way: &Way, leads: bool) -> Option<Finding> {
    let address = way.address;
    // A host without IPv6 has no route to half of all addresses, and nobody waits for that; a route that was set to drop or
    // forbid takes an address from those who would use it.
    let (absent, cut) = match leads {
        true => (Outcome::Ok, Outcome::Wrong),
        false => (Outcome::Failed, Outcome::Failed),
    };
    match way.kind {
        WayKind::Missing => Some(finding(
            "route_missing",
            absent,
            format!("no route to {address}"),
            "see `ip route` and `ip -6 route`: a default route, or one for that prefix, is missing",
        )),
        WayKind::Unreachable => Some(finding(
            "route_unreachable",
            absent,
            format!("a route of this host calls {address} unreachable"),
            "find it with `ip route show table all type unreachable`, and remove it if it is not meant",
        )),
        WayKind::Blackhole => Some(finding(
            "route_blackhole",
            cut,
            format!("a blackhole route of this host drops all that goes to {address}"),
            "find it with `ip route show table all type blackhole`: a ban tool or a routing daemon may have set it",
        )),
        WayKind::Prohibited => Some(finding(
            "route_prohibited",
            cut,
            format!("a route of this host prohibits {address}"),
            "find it with `ip route show table all type prohibit`",
        )),
        WayKind::Local | WayKind::OnLink | WayKind::Routed => None,
    }
}

fn no_link(way: &Way, met: Met) -> Option<Finding> {
    (way.kind.leads() && !way.link_works).then(|| {
        finding(
            "link_down",
            without(way, met),
            format!(
                "{}, by which {} is reached, has no carrier or is down",
                way.on(),
                way.address
            ),
            "see `ip link`: the cable, the switch port, the other end of the veth",
        )
    })
}

/// How bad it is that nothing gets through by `way`.
fn without(way: &Way, met: Met) -> Outcome {
    match met {
        Met::Nobody => Outcome::Failed,
        // Of several ways this one may be the one that was not taken.
        Met::At(address) if address == way.address => Outcome::Ok,
        Met::NotYet | Met::At(_) => Outcome::Wrong,
    }
}

fn neighbor(way: &Way, met: Met) -> Option<Finding> {
    let neighbor = way.neighbor.as_ref()?;
    let (hop, on) = (neighbor.address, way.on());
    let who = match way.kind {
        WayKind::Routed => format!("the next hop {hop}"),
        _ => format!("{hop}"),
    };
    let passed = met == Met::At(way.address);
    let failed_or = |otherwise| match met {
        Met::Nobody => Outcome::Failed,
        Met::NotYet | Met::At(_) => otherwise,
    };
    if let Some(mac) = neighbor.poisoned() {
        let is = match neighbor.mac.as_deref() == Some(mac) {
            true => "is",
            false => "was",
        };
        let (macs, origin) = neighbor
            .binding
            .as_ref()
            .map(|binding| (binding.macs.join(" or "), binding.origin.as_str()))?;
        return Some(finding(
            "neighbor_poisoned",
            failed_or(Outcome::Wrong),
            format!(
                "{who} {is} at {mac} for this host's kernel, but at {macs} by its binding ({origin}): what goes there on {on} {is} sent to somebody else"
            ),
            "`netmoat neighbor audit` shows the entry and `netmoat neighbor repair` mends it; who has that hardware address is in the switch's table",
        ));
    }
    let unresolved = met != Met::NotYet && !passed;
    match neighbor.state.as_str() {
        "FAILED" if unresolved => Some(finding(
            "neighbor_unreachable",
            failed_or(Outcome::Wrong),
            format!(
                "{who} does not answer on {on}: nobody there says that the address is his ({})",
                protocol(hop)
            ),
            "is that host up, on this link and in this VLAN, and is the address right?",
        )),
        "INCOMPLETE" if unresolved => Some(finding(
            "neighbor_unreachable",
            failed_or(Outcome::Slow),
            format!("{who} has not answered yet on {on} ({})", protocol(hop)),
            "is that host up, on this link and in this VLAN, and is the address right?",
        )),
        _ if neighbor.mac.is_some() && neighbor.mac_before.is_some() => Some(finding(
            "neighbor_moved",
            if met == Met::Nobody {
                Outcome::Wrong
            } else {
                Outcome::Ok
            },
            format!(
                "{who} was at {} on {on} when the connection was begun, and is at {} now",
                neighbor.mac_before.as_deref().unwrap_or_default(),
                neighbor.mac.as_deref().unwrap_or_default()
            ),
            "a router that stands in for another moves once; if it moves to and fro, two hosts claim the address: `netmoat neighbor pin` names the right one",
        )),
        _ if neighbor.permanent => Some(finding(
            "neighbor_by_hand",
            Outcome::Ok,
            format!(
                "the hardware address of {who} on {on} was set by hand ({}): no answer of the host itself can correct it",
                neighbor.mac.as_deref().unwrap_or("none")
            ),
            "if nothing comes back from there, compare it with the host's own: `ip neigh` here, `ip link` there",
        )),
        _ if neighbor.binding.is_none() && !neighbor.sharing.is_empty() => {
            let others: Vec<_> = neighbor.sharing.iter().map(ToString::to_string).collect();
            Some(finding(
                "neighbor_mac_shared",
                Outcome::Ok,
                format!(
                    "{who} is at the same hardware address as {} on {on}",
                    others.join(", ")
                ),
                "one host may have several addresses; if these are different hosts, one stands in for the other: `netmoat neighbor pin` names the right one",
            ))
        }
        _ => None,
    }
}

const fn protocol(hop: IpAddr) -> &'static str {
    match hop {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    }
}

fn narrow(way: &Way) -> Option<Finding> {
    let (path, own) = way.path_mtu.zip(way.interface_mtu)?;
    (way.path_mtu_learned && path < own).then(|| {
        Finding::new(
            "path_mtu",
            Outcome::Ok,
            format!(
                "the path to {} takes {path} octets a packet, less than the {own} of {}",
                way.address,
                way.on()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::route::facts::{Binding, Neighbor};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn way(address: &str, kind: WayKind) -> Way {
        Way {
            kind,
            ifindex: 2,
            interface: Some("eth0".into()),
            ..Way::to(ip(address))
        }
    }

    fn told(ways: &[Way], met: Met) -> Vec<(String, Outcome)> {
        let facts = RouteFacts {
            ways: ways.to_vec(),
            ..RouteFacts::default()
        };
        findings(&facts, met)
            .into_iter()
            .map(|finding| (finding.code, finding.outcome))
            .collect()
    }

    fn one(code: &str, outcome: Outcome) -> Vec<(String, Outcome)> {
        vec![(code.to_owned(), outcome)]
    }

    fn with_neighbor(state: &str, mac: Option<&str>, bound: Option<&str>) -> Way {
        Way {
            neighbor: Some(Neighbor {
                address: ip("192.0.2.1"),
                state: state.into(),
                mac: mac.map(Into::into),
                mac_before: None,
                usable: mac.is_some(),
                permanent: false,
                sharing: Vec::new(),
                binding: bound.map(|mac| Binding {
                    macs: vec![mac.into()],
                    origin: "pinned".into(),
                }),
            }),
            ..way("192.0.2.1", WayKind::OnLink)
        }
    }

    #[test]
    fn a_missing_route_fails_only_when_no_other_address_has_one() {
        let missing = way("2001:db8::1", WayKind::Missing);
        assert_eq!(
            told(std::slice::from_ref(&missing), Met::NotYet),
            one("route_missing", Outcome::Failed)
        );
        let both = [missing, way("192.0.2.1", WayKind::OnLink)];
        assert_eq!(told(&both, Met::NotYet), one("route_missing", Outcome::Ok));
        let cut = [
            way("2001:db8::1", WayKind::Blackhole),
            way("192.0.2.1", WayKind::OnLink),
        ];
        assert_eq!(
            told(&cut, Met::NotYet),
            one("route_blackhole", Outcome::Wrong)
        );
    }

    #[test]
    fn a_next_hop_that_does_not_answer_fails_the_way() {
        let dead = with_neighbor("FAILED", None, None);
        assert_eq!(
            told(std::slice::from_ref(&dead), Met::NotYet),
            [],
            "it may be an old entry"
        );
        assert_eq!(
            told(std::slice::from_ref(&dead), Met::Nobody),
            one("neighbor_unreachable", Outcome::Failed)
        );
        let other = Met::At(ip("2001:db8::1"));
        assert_eq!(
            told(&[dead], other),
            one("neighbor_unreachable", Outcome::Wrong)
        );
    }

    #[test]
    fn a_next_hop_elsewhere_than_its_binding_is_poisoned() {
        let (good, bad) = ("02:00:00:00:00:01", "02:00:00:00:00:66");
        let passed = Met::At(ip("192.0.2.1"));
        let poisoned = with_neighbor("REACHABLE", Some(bad), Some(good));
        assert_eq!(
            told(std::slice::from_ref(&poisoned), passed),
            one("neighbor_poisoned", Outcome::Wrong)
        );
        assert_eq!(
            told(&[poisoned], Met::Nobody),
            one("neighbor_poisoned", Outcome::Failed)
        );
        let sound = with_neighbor("REACHABLE", Some(good), Some(good));
        assert_eq!(told(&[sound], passed), []);
        let unbound = with_neighbor("REACHABLE", Some(bad), None);
        assert_eq!(told(&[unbound], passed), []);
    }

    #[test]
    fn a_next_hop_that_moved_meanwhile_is_held_to_its_binding_at_both_places() {
        let (good, bad) = ("02:00:00:00:00:01", "02:00:00:00:00:66");
        let passed = Met::At(ip("192.0.2.1"));
        let moved = |before: &str, bound| {
            let mut way = with_neighbor("REACHABLE", Some(good), bound);
            way.neighbor.as_mut().unwrap().mac_before = Some(before.to_owned());
            [way]
        };
        let again = moved(bad, Some(good));
        assert_eq!(
            told(&again, passed),
            one("neighbor_poisoned", Outcome::Wrong)
        );
        let neighbor = again[0].neighbor.as_ref().unwrap();
        assert_eq!(neighbor.poisoned(), Some(bad));
        assert_eq!(
            told(&moved(bad, None), passed),
            one("neighbor_moved", Outcome::Ok),
            "a standby router may have taken over"
        );
        assert_eq!(
            told(&moved(bad, None), Met::Nobody),
            one("neighbor_moved", Outcome::Wrong)
        );
        // A pair of routers, both of which its binding names.
        let mut pair = moved(bad, Some(good));
        let neighbor = pair[0].neighbor.as_mut().unwrap();
        let binding = neighbor.binding.as_mut().unwrap();
        binding.macs.push(bad.to_owned());
        assert_eq!(told(&pair, passed), one("neighbor_moved", Outcome::Ok));
    }

    #[test]
    fn a_link_without_carrier_and_a_narrow_path_are_told() {
        let mut down = way("192.0.2.1", WayKind::Routed);
        down.link_works = false;
        assert_eq!(
            told(&[down], Met::Nobody),
            one("link_down", Outcome::Failed)
        );
        let mut narrow = way("192.0.2.1", WayKind::Routed);
        (narrow.path_mtu, narrow.interface_mtu) = (Some(1280), Some(1500));
        assert_eq!(
            told(std::slice::from_ref(&narrow), Met::NotYet),
            [],
            "set by the operator"
        );
        narrow.path_mtu_learned = true;
        assert_eq!(told(&[narrow], Met::NotYet), one("path_mtu", Outcome::Ok));
    }
}
