//! Attached interfaces as neighbours see them: what stands on each, and which of our addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use net_common::{
    abi::{BINDING_MACS, NeighborKey},
    units::{Mac, addr_words, words_addr},
};

use crate::host::links::{Address, Link};
use crate::listeners::LOOPBACK;

/// The key of an address on an attached interface.
pub fn key(ip: IpAddr, ifindex: u32, vlan: u16) -> NeighborKey {
    NeighborKey {
        addr: addr_words(ip),
        ifindex,
        vlan,
        family: if ip.is_ipv4() { 4 } else { 6 },
    }
}

/// The address of a key.
pub fn address(key: &NeighborKey) -> IpAddr {
    words_addr(key.family, &key.addr)
}

/// An attached interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    pub mac: Mac,
    /// Up, with a carrier.
    pub up: bool,
    /// The interface to ask through: itself, or the bond that it is a port of. A bond's idle port would send its
    /// answers, and the switch's traffic for us, to where the bond discards them.
    pub via: u32,
    /// The interfaces that get its frames, itself too, by index.
    pub above: BTreeMap<u32, Tags>,
    /// Our addresses there.
    pub own: Vec<Own>,
}

/// The VLAN tags of an interface's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// VLAN id of the inner one; 0 without any.
    pub vlan: u16,
    /// How many there are.
    pub count: u8,
}

/// An address of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix, bits.
    pub prefix_len: u8,
    /// VLAN id of its frames, 0 for untagged.
    pub vlan: u16,
    /// Link-layer address of the interface that carries it.
    pub mac: Mac,
    /// Where it may be seen: there, at the attached interface, at another of this namespace (Linux answers for an
    /// address on all of them). At most [`BINDING_MACS`].
    pub macs: Vec<Mac>,
}

impl Own {
    /// Whether `ip` is in its prefix.
    pub fn reaches(&self, ip: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u32| {
            let host_bits = width.saturating_sub(self.prefix_len.into());
            (a ^ b).checked_shr(host_bits).unwrap_or(0) == 0
        };
        match (self.ip, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl Port {
    /// The ports of the interfaces in `wanted` (name and index). One that is gone is down and carries nothing.
    pub fn all(wanted: &[(String, u32)], links: &[Link], addresses: &[Address]) -> Vec<Self> {
        wanted
            .iter()
            .map(|(name, ifindex)| {
                let link = links.iter().find(|l| l.index == *ifindex);
                link.map_or_else(
                    || Self {
                        ifindex: *ifindex,
                        name: name.clone(),
                        mac: Mac::NONE,
                        up: false,
                        via: *ifindex,
                        above: BTreeMap::new(),
                        own: Vec::new(),
                    },
                    |link| Self::new(name.clone(), link, links, addresses),
                )
            })
            .collect()
    }

    fn new(name: String, link: &Link, links: &[Link], addresses: &[Address]) -> Self {
        let find = |index| links.iter().find(move |l: &&Link| l.index == index);
        let above = above(link.index, links);
        let controller = link.controller.and_then(find);
        let bond = controller.filter(|c| c.kind.as_deref() == Some("bond"));
        let mac = mac_of(link);
        let own = addresses.iter().filter_map(|address| {
            let tags = above.get(&address.ifindex)?;
            let carrier = mac_of(find(address.ifindex)?);
            Some(Own {
                ip: address.ip,
                prefix_len: address.prefix_len,
                vlan: tags.vlan,
                mac: carrier,
                macs: own_macs([carrier, mac], links),
            })
        });
        let mut own: Vec<_> = own.collect();
        // Those of the interface itself first, then by number: what we ask as does not change by itself.
        own.sort_by_key(|o| (o.mac != mac, o.ip));
        Self {
            ifindex: link.index,
            name,
            mac,
            up: link.up && link.carrier,
            via: bond.map_or(link.index, |bond| bond.index),
            above,
            own,
        }
    }

    /// The interfaces whose entries in the kernel's neighbour table are for this port's frames with a tag.
    pub fn carriers(&self, vlan: u16) -> impl Iterator<Item = u32> + '_ {
        let carries = move |(index, tags): (&u32, &Tags)| (tags.vlan == vlan).then_some(*index);
        self.above.iter().filter_map(carries)
    }

    /// How many tags frames of a VLAN have here.
    pub fn tags(&self, vlan: u16) -> u8 {
        let counts = self
            .above
            .values()
            .filter(|t| t.vlan == vlan)
            .map(|t| t.count);
        counts.max().unwrap_or((vlan != 0).into())
    }

    /// Whether an address is on the prefix of one of ours.
    pub fn reaches(&self, ip: IpAddr, vlan: u16) -> bool {
        self.own
            .iter()
            .any(|own| own.vlan == vlan && own.reaches(ip))
    }
}

fn mac_of(link: &Link) -> Mac {
    link.mac.map_or(Mac::NONE, Mac::new)
}

fn own_macs(first: [Mac; 2], links: &[Link]) -> Vec<Mac> {
    let others = links.iter().filter(|l| l.index != LOOPBACK).map(mac_of);
    let mut macs = Vec::new();
    for mac in first.into_iter().chain(others) {
        if mac != Mac::NONE && !macs.contains(&mac) && macs.len() < BINDING_MACS {
            macs.push(mac);
        }
    }
    macs
}

/// The interface and all that stand on it: VLANs and macvlans, the bridge, bond or VRF that it is a port of, and
/// what stands on those.
fn above(ifindex: u32, links: &[Link]) -> BTreeMap<u32, Tags> {
    let mut found = BTreeMap::from([(ifindex, Tags::default())]);
    loop {
        let before = found.len();
        for link in links {
            let kind = link.kind.as_deref();
            if let Some(&below) = link.lower.and_then(|lower| found.get(&lower)) {
                let tags = match (kind, link.vlan_id) {
                    (Some("vlan"), Some(vlan)) => Tags {
                        vlan,
                        count: below.count + 1,
                    },
                    (Some("macvlan"), _) => below,
                    _ => continue,
                };
                found.entry(link.index).or_insert(tags);
            }
            if let (Some(&tags), Some(controller)) = (found.get(&link.index), link.controller) {
                found.entry(controller).or_insert(tags);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    use crate::host::testing::link;

    pub(in crate::neighbor) fn own(ifindex: u32, ip: &str, prefix_len: u8) -> Address {
        Address {
            ifindex,
            ip: ip.parse().unwrap(),
            prefix_len,
            broadcast: None,
        }
    }

    fn stacked(index: u32, name: &str, kind: &str, lower: u32, vlan_id: Option<u16>) -> Link {
        Link {
            kind: Some(kind.to_owned()),
            lower: Some(lower),
            vlan_id,
            ..link(index, name)
        }
    }

    #[test]
    fn keys_and_addresses_convert_both_ways() {
        for ip in ["192.0.2.1", "2001:db8::1:2:3", "fe80::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(address(&key(ip, 3, 9)), ip);
        }
    }

    #[test]
    fn a_prefix_reaches_its_addresses_alone() {
        for (own, len, target, reached) in [
            ("192.0.2.1", 24, "192.0.2.255", true),
            ("192.0.2.1", 24, "192.0.3.1", false),
            ("192.0.2.1", 32, "192.0.2.1", true),
            ("192.0.2.1", 32, "192.0.2.0", false),
            ("192.0.2.1", 0, "203.0.113.1", true),
            ("2001:db8::1", 64, "2001:db8::ffff:1", true),
            ("2001:db8::1", 64, "2001:db8:0:1::1", false),
            ("2001:db8::1", 0, "fe80::1", true),
            ("2001:db8::1", 0, "192.0.2.1", false),
        ] {
            let own = Own {
                ip: own.parse().unwrap(),
                prefix_len: len,
                vlan: 0,
                mac: Mac::NONE,
                macs: Vec::new(),
            };
            assert_eq!(
                own.reaches(target.parse().unwrap()),
                reached,
                "{own:?} {target}"
            );
        }
    }

    #[test]
    fn what_stands_on_an_interface_brings_its_addresses_tags_and_link_layer_addresses() {
        let mut port = link(2, "eth0");
        port.controller = Some(7);
        let mut bond = link(7, "bond0");
        bond.kind = Some("bond".to_owned());
        let links = [
            link(1, "lo"),
            port,
            link(3, "eth1"),
            stacked(4, "bond0.100", "vlan", 7, Some(100)),
            stacked(5, "inner", "vlan", 4, Some(5)),
            stacked(6, "mac0", "macvlan", 4, None),
            // The peer of a veth is nothing that stands on it.
            stacked(8, "veth0", "veth", 2, None),
            bond,
        ];
        let addresses = [
            own(1, "203.0.113.1", 32),
            own(3, "198.51.100.1", 24),
            own(4, "192.0.2.1", 24),
            own(6, "192.0.2.2", 24),
            own(7, "10.0.0.1", 8),
        ];
        let ports = Port::all(
            &[("eth0".into(), 2), ("gone".into(), 9)],
            &links,
            &addresses,
        );
        let eth0 = &ports[0];
        assert_eq!((eth0.via, eth0.up, ports[1].up), (7, true, false));
        let tags: Vec<_> = eth0
            .above
            .iter()
            .map(|(i, t)| (*i, t.vlan, t.count))
            .collect();
        assert_eq!(
            tags,
            [(2, 0, 0), (4, 100, 1), (5, 5, 2), (6, 100, 1), (7, 0, 0)]
        );
        let told: Vec<_> = eth0
            .own
            .iter()
            .map(|o| (o.ip.to_string(), o.vlan, o.mac.octets()[5]))
            .collect();
        assert_eq!(
            told,
            [
                ("10.0.0.1".into(), 0, 7),
                ("192.0.2.1".into(), 100, 4),
                ("192.0.2.2".into(), 100, 6)
            ]
        );
        let ends: Vec<_> = eth0.own[2].macs.iter().map(|m| m.octets()[5]).collect();
        assert_eq!(
            ends,
            [6, 2, 3, 4, 5, 8, 7],
            "its own, the port's, then the others'"
        );
        assert_eq!(eth0.carriers(100).collect::<Vec<_>>(), [4, 6]);
        assert_eq!((eth0.tags(5), eth0.tags(0), eth0.tags(77)), (2, 0, 1));
        assert!(eth0.reaches("192.0.2.77".parse().unwrap(), 100));
        assert!(!eth0.reaches("192.0.2.77".parse().unwrap(), 0));
    }
}
