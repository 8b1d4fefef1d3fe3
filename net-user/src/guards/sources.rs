//! What stands in the table of known sources: see [`net_common::sources`].

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use net_common::{
    abi::{SOURCE_SETS, SOURCE_WAYS, SourceSet},
    sources::{self, Key, Tier},
    units::{Version, addr_words},
};

/// Places of the table.
pub const PLACES: u32 = SOURCE_SETS * SOURCE_WAYS as u32;

/// How many sources of each tier have a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Seen for a while.
    pub steady: u32,
    /// Asked for something by this host.
    pub asked: u32,
    /// Completed a handshake.
    pub proven: u32,
}

impl Fill {
    /// Counts the sources of a set whose time is not over.
    pub fn add(&mut self, set: &SourceSet, now_s: u32) {
        for place in set.places {
            match sources::tier(place, now_s) {
                Tier::Unseen => {}
                Tier::Steady => self.steady += 1,
                Tier::Asked => self.asked += 1,
                Tier::Proven => self.proven += 1,
            }
        }
    }
}

/// The open connections of each source, as the table tells sources apart: IPv6 by its /64.
#[derive(Debug, Default)]
pub struct Open(HashMap<(u32, u32), u32>);

impl Open {
    /// Counts the connections to own addresses, of remote and local addresses.
    pub fn count(
        connections: impl IntoIterator<Item = (IpAddr, IpAddr)>,
        own: &BTreeSet<IpAddr>,
        seed: u64,
    ) -> Self {
        let mut open = Self::default();
        for (remote, local) in connections {
            if own.contains(&local) {
                let Key { set, print } = key(remote, seed);
                *open.0.entry((set, print)).or_default() += 1;
            }
        }
        open
    }

    /// The way of each place in a set that has a source, with that source's connections.
    pub fn of_set(&self, index: u32, set: &SourceSet) -> impl Iterator<Item = (u32, u32)> {
        let ways = (0..).zip(set.places).filter(|(_, place)| *place != 0);
        ways.map(move |(way, place)| (way, self.of_place(index, place)))
    }

    fn of_place(&self, set: u32, place: u64) -> u32 {
        // The upper 30 bits are the fingerprint (`sources::place`).
        let print = (place >> 34) as u32;
        self.0.get(&(set, print)).copied().unwrap_or(0)
    }
}

fn key(address: IpAddr, seed: u64) -> Key {
    let version = if address.is_ipv4() {
        Version::V4
    } else {
        Version::V6
    };
    sources::key(version, &addr_words(address), seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn sources_are_counted_by_tier_until_their_time_is_over() {
        let mut fill = Fill::default();
        let mut set = SourceSet::default();
        fill.add(&set, 7);
        assert_eq!(fill, Fill::default());
        set.places[1] = sources::place(3, Tier::Steady, 1000);
        set.places[2] = sources::place(5, Tier::Proven, 1000);
        set.places[3] = sources::place(7, Tier::Proven, 1000);
        set.places[7] = sources::place(9, Tier::Asked, 1000);
        for (now_s, steady, asked, proven) in [
            (1000, 1, 1, 2),
            (1000 + Tier::Asked.life_s() + 1, 1, 0, 2),
            (1000 + Tier::Steady.life_s() + 1, 0, 0, 2),
            (1000 + Tier::Proven.life_s() + 1, 0, 0, 0),
        ] {
            let mut fill = Fill::default();
            fill.add(&set, now_s);
            let expected = Fill {
                steady,
                asked,
                proven,
            };
            assert_eq!(fill, expected, "{now_s}");
        }
    }

    #[test]
    fn open_connections_are_found_by_place_and_those_without_are_none() {
        let own = BTreeSet::from([ip("192.0.2.1"), ip("2001:db8::1")]);
        let connections = [
            ("198.51.100.1", "192.0.2.1"),
            ("198.51.100.1", "192.0.2.1"),
            // Another namespace's, or a VRF's.
            ("198.51.100.1", "10.0.0.1"),
            ("2001:db8:7::1", "2001:db8::1"),
            ("2001:db8:7::2", "2001:db8::1"),
        ];
        let seed = 99;
        let connections = connections.map(|(remote, local)| (ip(remote), ip(local)));
        let open = Open::count(connections, &own, seed);
        for (address, expected) in [
            ("198.51.100.1", 2),
            ("2001:db8:7::3", 2),
            ("198.51.100.2", 0),
        ] {
            let Key { set, print } = key(ip(address), seed);
            let mut places = SourceSet::default();
            places.places[5] = sources::place(print, Tier::Proven, 1);
            let told: Vec<_> = open.of_set(set, &places).collect();
            assert_eq!(told, [(5, expected)], "{address}");
            let elsewhere: Vec<_> = open.of_set(set ^ 1, &places).collect();
            assert_eq!(elsewhere, [(5, 0)], "{address}: by another set");
        }
    }
}
