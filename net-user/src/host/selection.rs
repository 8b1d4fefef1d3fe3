//! Which of the host's interfaces the config means, and which of these the programs can be attached to.

use std::collections::{BTreeSet, HashMap};

use super::links::Link;
use crate::{
    config::Pattern,
    listeners::{LOOPBACK, above},
};

/// An interface that the config means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its index.
    pub ifindex: u32,
    /// Its name now.
    pub name: String,
    /// The first pattern that means it.
    pub pattern: Pattern,
    /// Why nothing can be attached to it, and the remedy. Only of one that is meant by its name.
    pub fault: Option<(String, String)>,
}

/// What the patterns mean at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// To be attached to, in the order of the patterns.
    pub chosen: Vec<Chosen>,
    /// Interfaces that a glob or the default routes mean and that nothing is attached to: name and reason.
    pub left_out: Vec<(String, String)>,
    /// Patterns that mean no interface that is there.
    pub unmatched: Vec<Pattern>,
}

/// Finds what `patterns` mean among `links`; `default` are the interfaces of the default routes.
pub fn select(patterns: &[Pattern], links: &[Link], default: &BTreeSet<u32>) -> Selection {
    let mut selection = Selection::default();
    let by_index: HashMap<u32, Link> = links.iter().map(|l| (l.index, l.clone())).collect();
    let default = carriers(default, links);
    let mut meant: Vec<(&Pattern, &Link)> = Vec::new();
    for pattern in patterns {
        let is_meant = |link: &&Link| {
            if pattern.is_default_route() {
                default.contains(&link.index)
            } else {
                pattern.matches(&link.name)
            }
        };
        let mut any = false;
        for link in links.iter().filter(is_meant) {
            any = true;
            if !meant.iter().any(|(_, known)| known.index == link.index) {
                meant.push((pattern, link));
            }
        }
        if !any {
            selection.unmatched.push(pattern.clone());
        }
    }
    // Frames of what stands on another one that is meant are judged there already.
    let stands_on = |link: &Link| {
        let mut below = meant.iter().map(|(_, other)| *other);
        below.find(|other| {
            fault(other, links).is_none() && above(other.index, &by_index).contains(&link.index)
        })
    };
    for &(pattern, link) in &meant {
        let fault = fault(link, links);
        if pattern.name().is_none() {
            let below = || {
                let lower = stands_on(link)?;
                Some(format!(
                    "it stands on {}, where its frames are judged",
                    lower.name
                ))
            };
            if let Some(why) = fault.map(|(why, _)| why).or_else(below) {
                selection.left_out.push((link.name.clone(), why));
                continue;
            }
            selection.chosen.push(Chosen {
                ifindex: link.index,
                name: link.name.clone(),
                pattern: pattern.clone(),
                fault: None,
            });
        } else {
            selection.chosen.push(Chosen {
                ifindex: link.index,
                name: link.name.clone(),
                pattern: pattern.clone(),
                fault,
            });
        }
    }
    selection
}

/// Why the programs cannot work on an interface, whatever its driver, and the remedy.
pub fn fault(link: &Link, links: &[Link]) -> Option<(String, String)> {
    let name = &link.name;
    if link.index == LOOPBACK {
        return Some((
            format!(
                "{name} carries this host's own traffic, where 127.0.0.1 is an honest source (R-TCP-3)"
            ),
            "name the interfaces that face the network".to_owned(),
        ));
    }
    if link.mac.is_none() {
        return Some((
            format!("{name} is no Ethernet interface, and netmoat reads Ethernet frames"),
            "name the Ethernet interface below it".to_owned(),
        ));
    }
    if link.kind.as_deref() == Some("bond") {
        // The program of a bond runs in its ports' drivers, under the ports' indices.
        let ports = links
            .iter()
            .filter(|port| port.controller == Some(link.index));
        let ports: Vec<_> = ports.map(|port| port.name.as_str()).collect();
        return Some((
            format!("{name} is a bond; XDP runs on its ports (R-GEN-6)"),
            format!("name the ports instead: {}", ports.join(", ")),
        ));
    }
    None
}

/// Where the frames of these interfaces arrive: of a VLAN the interface below it, of a bond its ports.
fn carriers(default: &BTreeSet<u32>, links: &[Link]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open: Vec<u32> = default.iter().copied().collect();
    let mut seen = BTreeSet::new();
    while let Some(index) = open.pop() {
        let Some(link) = links.iter().find(|link| link.index == index) else {
            continue;
        };
        if !seen.insert(index) {
            continue;
        }
        let below: Vec<u32> = match link.kind.as_deref() {
            Some("vlan") => link.lower.into_iter().collect(),
            Some("bond") => {
                let ports = links.iter().filter(|port| port.controller == Some(index));
                ports.map(|port| port.index).collect()
            }
            _ => Vec::new(),
        };
        if below.is_empty() {
            found.insert(index);
        }
        open.extend(below);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            carrier: true,
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            kind: kind.map(str::to_owned),
            lower: None,
            vlan_id: None,
            controller: None,
            xdp: None,
            rx_packets: 0,
        }
    }

    fn host() -> Vec<Link> {
        let mut vlan = link(5, "bond0.7", Some("vlan"));
        vlan.lower = Some(4);
        let mut ports = [link(2, "eth0", None), link(3, "eth1", None)];
        for port in &mut ports {
            port.controller = Some(4);
        }
        let mut tunnel = link(7, "wg0", Some("wireguard"));
        tunnel.mac = None;
        let [eth0, eth1] = ports;
        vec![
            link(LOOPBACK, "lo", None),
            eth0,
            eth1,
            link(4, "bond0", Some("bond")),
            vlan,
            link(6, "ens6", None),
            tunnel,
        ]
    }

    fn chosen(patterns: &[&str], default: &[u32]) -> (Vec<String>, Vec<String>, Vec<String>) {
        let patterns: Vec<Pattern> = patterns.iter().map(|p| p.parse().unwrap()).collect();
        let selection = select(&patterns, &host(), &default.iter().copied().collect());
        (
            selection.chosen.into_iter().map(|c| c.name).collect(),
            selection
                .left_out
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
            selection
                .unmatched
                .iter()
                .map(ToString::to_string)
                .collect(),
        )
    }

    fn words(of: &[&str]) -> Vec<String> {
        of.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_glob_leaves_out_what_the_programs_cannot_work_on() {
        assert_eq!(
            chosen(&["*"], &[]),
            (
                words(&["eth0", "eth1", "ens6"]),
                words(&["lo", "bond0", "bond0.7", "wg0"]),
                words(&[])
            )
        );
        assert_eq!(
            chosen(&["ens*", "eth*", "veth*"], &[]),
            (
                words(&["ens6", "eth0", "eth1"]),
                words(&[]),
                words(&["veth*"])
            )
        );
    }

    #[test]
    fn the_default_routes_lead_to_the_interfaces_where_their_frames_arrive() {
        assert_eq!(chosen(&["default-route"], &[6]).0, words(&["ens6"]));
        // A VLAN on a bond of two ports.
        assert_eq!(chosen(&["default-route"], &[5]).0, words(&["eth0", "eth1"]));
        let (none, left_out, unmatched) = chosen(&["default-route"], &[7]);
        assert_eq!(
            (none, left_out, unmatched),
            (words(&[]), words(&["wg0"]), words(&[]))
        );
        assert_eq!(chosen(&["default-route"], &[]).2, words(&["default-route"]));
    }

    #[test]
    fn what_is_named_is_chosen_with_its_fault_and_nothing_is_chosen_twice() {
        let patterns = ["bond0", "eth0", "eth*"].map(|p| p.parse().unwrap());
        let selection = select(&patterns, &host(), &BTreeSet::new());
        let told: Vec<_> = selection
            .chosen
            .iter()
            .map(|c| (c.name.as_str(), c.fault.is_some(), c.pattern.to_string()))
            .collect();
        assert_eq!(
            told,
            [
                ("bond0", true, "bond0".to_owned()),
                ("eth0", false, "eth0".to_owned()),
                ("eth1", false, "eth*".to_owned())
            ]
        );
        let (_, remedy) = selection.chosen[0].fault.as_ref().unwrap();
        assert!(remedy.contains("eth0, eth1"), "{remedy}");
    }

    #[test]
    fn a_vlan_that_is_named_is_attached_to_even_if_what_is_below_it_is_too() {
        let (chosen, left_out, _) = chosen(&["bond0.7", "eth0"], &[]);
        assert_eq!(
            (chosen, left_out),
            (words(&["bond0.7", "eth0"]), words(&[]))
        );
    }
}
