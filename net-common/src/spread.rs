//! Seeded hashes that spread addresses over cells: the SYN-ACK limit's prefixes and the filter of
//! sources that may hold a socket. Not cryptographic: what matters is that an outsider who does not
//! know the seed cannot aim at a cell.

use crate::{
    abi::{
        ASKED_CELLS, AddrWords, CANDIDATE_CELLS, INTERFACE_CELLS, LIMIT_CELLS, NEIGHBOR_CELLS,
        NeighborKey, OWN_WORDS, SEEN_CELLS, SOCKET_FILTER_BLOCKS, SYN_ACK_CELLS,
    },
    units::{Mac, Version},
};

/// Murmur3's 64-bit finalizer: every input bit reaches every output bit.
#[inline(always)]
pub(crate) fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[inline(always)]
fn pair(a: u32, b: u32) -> u64 {
    u64::from(a) | u64::from(b) << 32
}

/// Cell of the SYN-ACK limit for an address: its /24 or /64 prefix, below [`SYN_ACK_CELLS`].
#[inline(always)]
pub fn syn_ack_cell(version: Version, addr: &AddrWords, seed: u64) -> u32 {
    let prefix = match version {
        Version::V4 => u64::from(addr[0] & u32::from_be(0xffff_ff00)),
        // The seed's turn keeps a /64 from meeting the /24 of the same bits.
        Version::V6 => pair(addr[0], addr[1]) ^ seed.rotate_left(32),
    };
    mix(prefix ^ seed) as u32 & (SYN_ACK_CELLS - 1)
}

/// Where a source stands in the filter: its block, below [`SOCKET_FILTER_BLOCKS`], and the three bits
/// in that block's word. One cache line a probe; a false positive costs one socket look-up.
#[inline(always)]
pub fn filter_place(version: Version, addr: &AddrWords, seed: u64) -> (u32, u64) {
    let h = match version {
        Version::V4 => mix(u64::from(addr[0]) ^ seed),
        Version::V6 => addr_hash(addr, seed),
    };
    let bits = 1 << (h & 63) | 1 << (h >> 6 & 63) | 1 << (h >> 12 & 63);
    ((h >> 32) as u32 & (SOCKET_FILTER_BLOCKS - 1), bits)
}

/// Hash of a source, for [`crate::sketch::place`].
#[inline(always)]
pub fn source_hash(addr: &AddrWords, seed: u64) -> u64 {
    addr_hash(addr, seed)
}

#[inline(always)]
fn addr_hash(addr: &AddrWords, seed: u64) -> u64 {
    mix(mix(pair(addr[0], addr[1]) ^ seed) ^ pair(addr[2], addr[3]))
}

/// What is limited per source link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacClass {
    /// ARP.
    Arp,
    /// ARP announcements, beside.
    Announcement,
    /// Neighbour discovery.
    Ndp,
    /// Answers for a protected neighbour from outside its set.
    Candidate,
    /// ARP and neighbour discovery that is not for this host.
    Others,
}

/// Cell of the limit for a source link-layer address on an interface, below [`NEIGHBOR_CELLS`].
#[inline(always)]
pub fn mac_cell(class: MacClass, mac: Mac, ifindex: u32, seed: u64) -> u32 {
    let interface = u64::from(ifindex) << 3 | class as u64;
    mix(mix(mac.0 ^ seed) ^ interface) as u32 & (NEIGHBOR_CELLS - 1)
}

/// Cell of when an address was asked for, below [`ASKED_CELLS`]. Without the interface: the answer may come by
/// another port of a bond.
#[inline(always)]
pub fn asked_cell(addr: &AddrWords, seed: u64) -> u32 {
    addr_hash(addr, seed) as u32 & (ASKED_CELLS - 1)
}

/// Where a neighbour stands among those seen before: its cell, below [`SEEN_CELLS`], and what stands in it when
/// this very pair of address and link-layer address was seen there last. Never 0.
#[inline(always)]
pub fn seen_place(key: &NeighborKey, mac: Mac, seed: u64) -> (u32, u64) {
    let place = pair(
        key.ifindex,
        u32::from(key.vlan) << 16 | u32::from(key.family),
    );
    let h = mix(addr_hash(&key.addr, seed) ^ place);
    ((h >> 32) as u32 & (SEEN_CELLS - 1), mix(h ^ mac.0) | 1)
}

/// Where an answer for a protected neighbour from outside its set stands among those: its cell, below
/// [`CANDIDATE_CELLS`], and its fingerprint.
#[inline(always)]
pub fn candidate_place(key: &NeighborKey, mac: Mac, seed: u64) -> (u32, u32) {
    let h = mix(addr_hash(&key.addr, seed) ^ mix(mac.0 ^ u64::from(key.ifindex) << 48));
    ((h >> 32) as u32 & (CANDIDATE_CELLS - 1), h as u32)
}

/// How much of an address shares a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// All of it.
    Host,
    /// Its /24 or /64.
    Prefix,
    /// Its /48, of IPv6.
    Site,
}

/// Cell of a class's limit for a source, below [`LIMIT_CELLS`].
#[inline(always)]
pub fn limit_cell(class: u32, span: Span, version: Version, addr: &AddrWords, seed: u64) -> u32 {
    let salt = mix(
        seed ^ (u64::from(class) << 4 | (span as u64) << 1 | u64::from(version == Version::V6))
    );
    let h = match (version, span) {
        (Version::V4, Span::Host) => u64::from(addr[0]),
        (Version::V4, _) => u64::from(addr[0] & u32::from_be(0xffff_ff00)),
        (Version::V6, Span::Host) => mix(pair(addr[0], addr[1]) ^ seed) ^ pair(addr[2], addr[3]),
        (Version::V6, Span::Prefix) => pair(addr[0], addr[1]),
        (Version::V6, Span::Site) => pair(addr[0], addr[1] & u32::from_be(0xffff_0000)),
    };
    mix(h ^ salt) as u32 & (LIMIT_CELLS - 1)
}

/// Where an own address stands in [`crate::abi::GuardSettings::own`]: its word, and two bits of that. With 20 own
/// addresses one source in 130 is looked up for nothing.
#[inline(always)]
pub fn own_place(addr: &AddrWords, seed: u64) -> (usize, u64) {
    let h = addr_hash(addr, seed);
    let bits = 1 << (h & 63) | 1 << (h >> 6 & 63);
    ((h >> 32) as usize & (OWN_WORDS - 1), bits)
}

/// Cell of what an interface has in common, below [`INTERFACE_CELLS`].
#[inline(always)]
pub fn interface_cell(ifindex: u32) -> u32 {
    ifindex & (INTERFACE_CELLS - 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::units::addr_words;

    fn v4(n: u32) -> AddrWords {
        addr_words(core::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn hosts_of_one_prefix_share_a_cell_and_prefixes_spread_evenly() {
        let seed = 0x1234_5678_9abc_def0;
        assert_eq!(
            syn_ack_cell(Version::V4, &v4(0x0a00_0001), seed),
            syn_ack_cell(Version::V4, &v4(0x0a00_00fe), seed)
        );
        let mut cells = vec![0u32; SYN_ACK_CELLS as usize];
        for prefix in 0..SYN_ACK_CELLS * 16 {
            cells[syn_ack_cell(Version::V4, &v4(prefix << 8), seed) as usize] += 1;
        }
        // Poisson with mean 16: 60 is over ten standard deviations away.
        assert!(
            cells.iter().all(|&n| n < 60),
            "fullest cell: {:?}",
            cells.iter().max()
        );
    }

    #[test]
    fn hosts_of_one_ipv6_64_share_a_cell() {
        let a = addr_words("2001:db8:1:2::1".parse().unwrap());
        let b = addr_words("2001:db8:1:2:ffff::9".parse().unwrap());
        assert_eq!(
            syn_ack_cell(Version::V6, &a, 7),
            syn_ack_cell(Version::V6, &b, 7)
        );
    }

    #[test]
    fn filter_of_20000_sources_has_few_false_positives() {
        let seed = 99;
        let mut filter = vec![0u64; SOCKET_FILTER_BLOCKS as usize];
        for n in 0..20_000 {
            let (block, bits) = filter_place(Version::V4, &v4(0xc000_0000 + n), seed);
            filter[block as usize] |= bits;
        }
        let hit = |n: u32| {
            let (block, bits) = filter_place(Version::V4, &v4(n), seed);
            filter[block as usize] & bits == bits
        };
        assert!(
            (0..20_000).all(|n| hit(0xc000_0000 + n)),
            "a member is always found"
        );
        let false_positives = (0..100_000).filter(|&n| hit(0x0b00_0000 + n)).count();
        assert!(false_positives < 1_500, "{false_positives} of 100000");
    }

    fn mac(n: u64) -> Mac {
        Mac::new([
            2,
            0,
            (n >> 24) as u8,
            (n >> 16) as u8,
            (n >> 8) as u8,
            n as u8,
        ])
    }

    fn key(n: u32) -> NeighborKey {
        NeighborKey {
            addr: v4(n),
            ifindex: 2,
            vlan: 0,
            family: 4,
        }
    }

    /// Poisson with mean 16: 60 is over ten standard deviations away.
    pub(crate) fn spreads(cells: u32, cell: impl Fn(u32) -> u32) {
        let mut count = vec![0u32; cells as usize];
        for n in 0..cells * 16 {
            count[cell(n) as usize] += 1;
        }
        let fullest = count.iter().max();
        assert!(count.iter().all(|&n| n < 60), "fullest cell: {fullest:?}");
    }

    #[test]
    fn link_layer_addresses_spread_evenly_r_arp_9() {
        for class in [MacClass::Arp, MacClass::Announcement, MacClass::Ndp] {
            spreads(NEIGHBOR_CELLS, |n| mac_cell(class, mac(n.into()), 2, 7));
        }
        // One address on many interfaces, and by many seeds.
        spreads(NEIGHBOR_CELLS, |n| mac_cell(MacClass::Arp, mac(1), n, 7));
        spreads(NEIGHBOR_CELLS, |n| {
            mac_cell(MacClass::Arp, mac(1), 2, n.into())
        });
    }

    #[test]
    fn arp_announcements_and_ndp_of_one_address_have_cells_of_their_own_r_arp_9_r_nd_7() {
        let mut shared = 0;
        for n in 0..10_000 {
            let cell = |class| mac_cell(class, mac(n), 2, 7);
            let (a, b, c) = (
                cell(MacClass::Arp),
                cell(MacClass::Announcement),
                cell(MacClass::Ndp),
            );
            shared += u32::from(a == b) + u32::from(b == c) + u32::from(a == c);
        }
        // 30,000 pairs at one in 16,384.
        assert!(shared < 20, "{shared}");
    }

    #[test]
    fn addresses_asked_for_spread_evenly_r_arp_8() {
        spreads(ASKED_CELLS, |n| asked_cell(&v4(0x0a00_0000 + n), 7));
        spreads(ASKED_CELLS, |n| asked_cell(&[1, 2, 3, n], 7));
        spreads(ASKED_CELLS, |n| asked_cell(&[n, 2, 3, 4], 7));
    }

    #[test]
    fn a_neighbour_is_known_again_by_all_of_it_and_by_nothing_less() {
        let (place, print) = seen_place(&key(1), mac(1), 7);
        assert_eq!(seen_place(&key(1), mac(1), 7), (place, print));
        // Another link-layer address takes the same cell, so that an address that alternates is told of.
        let (other_place, other) = seen_place(&key(1), mac(2), 7);
        assert_eq!(place, other_place);
        assert_ne!(print, other);
        let changed = [
            NeighborKey {
                ifindex: 3,
                ..key(1)
            },
            NeighborKey { vlan: 1, ..key(1) },
            NeighborKey {
                family: 6,
                ..key(1)
            },
            key(2),
        ];
        for key in changed {
            assert_ne!(seen_place(&key, mac(1), 7).1, print, "{key:?}");
        }
        assert_ne!(seen_place(&key(1), mac(1), 8).1, print, "another seed");
    }

    #[test]
    fn neighbours_spread_evenly_and_no_fingerprint_is_that_of_an_empty_cell() {
        spreads(SEEN_CELLS, |n| {
            let (place, print) = seen_place(&key(n), mac(n.into()), 7);
            assert_ne!(print, 0);
            place
        });
        let vlans = |n: u32| NeighborKey {
            vlan: (n & 0xfff) as u16,
            ifindex: n >> 12,
            ..key(1)
        };
        spreads(SEEN_CELLS, |n| seen_place(&vlans(n), mac(1), 7).0);
    }

    #[test]
    fn interfaces_have_cells_of_their_own_while_there_are_enough() {
        for ifindex in 0..INTERFACE_CELLS {
            assert_eq!(interface_cell(ifindex), ifindex);
            assert_eq!(interface_cell(ifindex + INTERFACE_CELLS), ifindex);
        }
        assert!(interface_cell(u32::MAX) < INTERFACE_CELLS);
    }

    #[test]
    fn limits_of_every_class_spread_evenly_r_icmp_7() {
        let v6 = |n: u32| [0x2001, 0, 0, n];
        for class in [0, 11] {
            spreads(LIMIT_CELLS, |n| {
                limit_cell(class, Span::Host, Version::V4, &v4(n), 7)
            });
            spreads(LIMIT_CELLS, |n| {
                limit_cell(class, Span::Prefix, Version::V4, &v4(n << 8), 7)
            });
            spreads(LIMIT_CELLS, |n| {
                limit_cell(class, Span::Host, Version::V6, &v6(n), 7)
            });
            for span in [Span::Prefix, Span::Site] {
                let site = |n: u32| [n.to_be(), (n << 16).to_be(), 0, 0];
                spreads(LIMIT_CELLS, |n| {
                    limit_cell(class, span, Version::V6, &site(n), 7)
                });
            }
        }
    }

    #[test]
    fn what_shares_a_limit_is_a_host_a_24_or_64_and_a_48() {
        let cell = |span, text: &str| {
            let addr: core::net::IpAddr = text.parse().unwrap();
            let version = if addr.is_ipv4() {
                Version::V4
            } else {
                Version::V6
            };
            limit_cell(3, span, version, &addr_words(addr), 7)
        };
        for (span, a, b, share) in [
            (Span::Host, "192.0.2.1", "192.0.2.2", false),
            (Span::Prefix, "192.0.2.1", "192.0.2.255", true),
            (Span::Prefix, "192.0.2.1", "192.0.3.1", false),
            (Span::Host, "2001:db8::1", "2001:db8::2", false),
            (Span::Prefix, "2001:db8::1", "2001:db8::ffff:0:0:1", true),
            (Span::Prefix, "2001:db8::1", "2001:db8:0:1::1", false),
            (Span::Site, "2001:db8::1", "2001:db8:0:ffff::1", true),
            (Span::Site, "2001:db8::1", "2001:db8:1::1", false),
        ] {
            assert_eq!(cell(span, a) == cell(span, b), share, "{span:?} {a} {b}");
        }
        let mut cells: Vec<_> = (0..12)
            .map(|class| limit_cell(class, Span::Host, Version::V4, &v4(7), 7))
            .collect();
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), 12, "a class has limits of its own");
    }

    #[test]
    fn the_filter_of_own_addresses_knows_them_all_and_few_others() {
        let (mut words, mut all) = (0, 0);
        for seed in 0..64 {
            let mut filter = [0u64; OWN_WORDS];
            for n in 0..20 {
                let (word, bits) = own_place(&v4(0xc000_0200 + n), seed);
                filter[word] |= bits;
            }
            let hit = |n: u32| {
                let (word, bits) = own_place(&v4(n), seed);
                filter[word] & bits == bits
            };
            assert!((0..20).all(|n| hit(0xc000_0200 + n)), "an own one is found");
            words += (0..10_000).filter(|&n| hit(0x0b00_0000 + n)).count();
            all += 10_000;
        }
        let one_in = all / words;
        assert!((110..160).contains(&one_in), "one in {one_in}");
    }
}
