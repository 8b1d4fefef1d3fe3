//! What an address is to this network namespace.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use net_common::{
    abi::{AddressKey, AddressRole, OWN_WORDS},
    spread::own_place,
    units::{addr_words, words_addr},
};

use crate::host::links::{Address, Link};

/// An address as the data path looks for it.
pub fn key(address: IpAddr) -> AddressKey {
    AddressKey {
        addr: addr_words(address),
        family: if address.is_ipv4() { 4 } else { 6 },
    }
}

/// The address of a key.
pub fn ip(key: &AddressKey) -> IpAddr {
    words_addr(key.family as u16, &key.addr)
}

/// The unicast addresses that packets to this namespace bear: those of every interface, also of `lo` (anycast, LVS).
/// Those of a VRF are left out, as its listeners are: sockets are not found there, and the same address may be another
/// host's beyond it.
pub fn own(addresses: &[Address], links: &[Link]) -> BTreeSet<IpAddr> {
    let own = addresses
        .iter()
        .filter(|address| !in_vrf(address.ifindex, links));
    own.map(|address| address.ip).collect()
}

fn in_vrf(ifindex: u32, links: &[Link]) -> bool {
    let find = |index| links.iter().find(|link| link.index == index);
    // A chain of controllers is no longer than there are links.
    let chain = std::iter::successors(find(ifindex), |link| link.controller.and_then(find));
    chain
        .take(links.len())
        .any(|link| link.kind.as_deref() == Some("vrf"))
}

/// The broadcast addresses of our networks, as `fib_add_ifaddr` (`net/ipv4/fib_frontend.c`) has them: the highest
/// address of a network that has one, and whatever was assigned. The lowest is a host's since Linux 5.14.
pub fn broadcast(addresses: &[Address]) -> impl Iterator<Item = Ipv4Addr> {
    addresses.iter().flat_map(|address| {
        let highest = match address.ip {
            IpAddr::V4(ip) if address.prefix_len < 31 => Some(Ipv4Addr::from_bits(
                ip.to_bits() | u32::MAX >> address.prefix_len,
            )),
            _ => None,
        };
        highest.into_iter().chain(address.broadcast)
    })
}

/// Every address that is something to us, with all that it is. An own address is never taken for a broadcast one, of
/// whatever other network it is the highest.
pub fn roles(
    own: &BTreeSet<IpAddr>,
    broadcast: impl IntoIterator<Item = Ipv4Addr>,
    servers: impl IntoIterator<Item = IpAddr>,
) -> HashMap<AddressKey, AddressRole> {
    let broadcast = broadcast.into_iter().map(IpAddr::V4);
    let broadcast = broadcast.filter(|address| !own.contains(address));
    let all = own
        .iter()
        .map(|address| (*address, AddressRole::OWN))
        .chain(broadcast.map(|address| (address, AddressRole::BROADCAST)))
        .chain(
            servers
                .into_iter()
                .map(|server| (server, AddressRole::SERVER)),
        );
    let mut roles = HashMap::<_, AddressRole>::new();
    for (address, flag) in all {
        roles.entry(key(address)).or_default().flags |= flag;
    }
    roles
}

/// The filter of own addresses: who is not in it is none.
pub fn filter(own: &BTreeSet<IpAddr>, seed: u64) -> [u64; OWN_WORDS] {
    let mut words = [0; OWN_WORDS];
    for address in own {
        let (word, bits) = own_place(&addr_words(*address), seed);
        if let Some(word) = words.get_mut(word) {
            *word |= bits;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn address(ifindex: u32, text: &str, prefix_len: u8) -> Address {
        Address {
            ifindex,
            ip: ip(text),
            prefix_len,
            broadcast: None,
        }
    }

    fn link(index: u32, kind: Option<&str>, controller: Option<u32>) -> Link {
        Link {
            index,
            name: format!("lab{index}"),
            mtu: 1500,
            up: true,
            carrier: true,
            mac: None,
            kind: kind.map(str::to_owned),
            lower: None,
            vlan_id: None,
            controller,
            xdp: None,
            rx_packets: 0,
        }
    }

    #[test]
    fn a_key_reads_back_as_its_address() {
        for text in ["192.0.2.1", "2001:db8:1:2:3:4:5:6", "::ffff:192.0.2.1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(super::ip(&key(address)), address);
        }
    }

    #[test]
    fn own_are_the_addresses_of_every_interface_but_those_of_a_vrf_r_gen_1() {
        let links = [
            link(1, None, None),
            link(2, None, None),
            link(3, None, Some(9)),
            link(9, Some("vrf"), None),
            link(4, None, Some(8)),
            link(8, Some("bridge"), Some(9)),
            link(5, None, Some(7)),
            link(7, Some("bridge"), None),
        ];
        let addresses = [
            address(1, "203.0.113.1", 32),
            address(2, "192.0.2.1", 24),
            address(2, "2001:db8::1", 64),
            address(3, "192.0.2.3", 24),
            address(4, "192.0.2.4", 24),
            address(9, "192.0.2.9", 24),
            address(7, "192.0.2.7", 24),
            address(5, "192.0.2.7", 24),
        ];
        let told: Vec<_> = own(&addresses, &links)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            ["192.0.2.1", "192.0.2.7", "203.0.113.1", "2001:db8::1"]
        );
    }

    #[test]
    fn links_that_control_each_other_end_the_search() {
        let links = [link(1, None, Some(2)), link(2, None, Some(1))];
        assert_eq!(own(&[address(1, "192.0.2.1", 24)], &links).len(), 1);
    }

    #[test]
    fn broadcast_addresses_are_the_highest_and_the_assigned() {
        for (text, len, assigned, expected) in [
            ("192.0.2.1", 24, None, &["192.0.2.255"][..]),
            ("192.0.2.1", 30, None, &["192.0.2.3"]),
            ("192.0.2.1", 31, None, &[]),
            ("192.0.2.1", 32, None, &[]),
            ("10.0.0.1", 0, None, &["255.255.255.255"]),
            (
                "192.0.2.1",
                24,
                Some("192.0.2.255"),
                &["192.0.2.255", "192.0.2.255"],
            ),
            ("192.0.2.1", 32, Some("192.0.2.127"), &["192.0.2.127"]),
            ("2001:db8::1", 64, None, &[]),
        ] {
            let mut address = address(2, text, len);
            address.broadcast = assigned.map(|text: &str| text.parse().unwrap());
            let told: Vec<_> = broadcast(&[address]).map(|ip| ip.to_string()).collect();
            assert_eq!(told, expected, "{text}/{len}");
        }
    }

    #[test]
    fn an_address_has_several_roles_but_an_own_one_is_no_broadcast_address() {
        let own = BTreeSet::from([ip("192.0.2.1"), ip("198.51.100.255")]);
        let broadcast = ["192.0.2.255", "198.51.100.255"].map(|a| a.parse().unwrap());
        let servers = [ip("192.0.2.1"), ip("2001:db8::53")];
        let roles = roles(&own, broadcast, servers);
        let of = |text| roles.get(&key(ip(text))).map(|role| role.flags);
        assert_eq!(roles.len(), 4);
        assert_eq!(
            of("192.0.2.1"),
            Some(AddressRole::OWN | AddressRole::SERVER)
        );
        assert_eq!(of("198.51.100.255"), Some(AddressRole::OWN));
        assert_eq!(of("192.0.2.255"), Some(AddressRole::BROADCAST));
        assert_eq!(of("2001:db8::53"), Some(AddressRole::SERVER));
    }

    #[test]
    fn the_filter_holds_every_own_address() {
        let seed = 7;
        let within = |words: &[u64; OWN_WORDS], text: &str| {
            let (word, bits) = own_place(&addr_words(ip(text)), seed);
            words[word] & bits == bits
        };
        let own = ["192.0.2.1", "2001:db8::1", "fe80::1"];
        let words = filter(&own.map(ip).into(), seed);
        assert!(own.iter().all(|own| within(&words, own)));
        let others = (0..=255).filter(|n| within(&words, &format!("198.51.100.{n}")));
        assert!(others.count() < 8);
        assert_eq!(filter(&BTreeSet::new(), seed), [0; OWN_WORDS]);
    }
}
