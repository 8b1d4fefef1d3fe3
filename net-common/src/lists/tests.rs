use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::units::addr_words;

struct Memory(Vec<u64>);

impl Words for Memory {
    fn word(&self, index: u32) -> Option<u64> {
        self.0.get(index as usize).copied()
    }
}

impl WordsMut for Memory {
    fn store(&mut self, index: u32, word: u64) {
        self.0[index as usize] = word;
    }
}

fn prefix(text: &str) -> Prefix {
    let (address, len) = text.split_once('/').unwrap();
    let address: IpAddr = address.parse().unwrap();
    let version = if address.is_ipv4() {
        Version::V4
    } else {
        Version::V6
    };
    Prefix::address(version, &addr_words(address)).first(len.parse().unwrap())
}

#[test]
fn prefixes_are_cut_off_behind_their_length() {
    for (whole, len, cut) in [
        ("255.255.255.255/32", 32, "255.255.255.255/32"),
        ("255.255.255.255/32", 31, "255.255.255.254/31"),
        ("255.255.255.255/32", 9, "255.128.0.0/9"),
        ("255.255.255.255/32", 0, "0.0.0.0/0"),
        (
            "ffff:ffff:ffff:ffff:ffff::1/128",
            128,
            "ffff:ffff:ffff:ffff:ffff::1/128",
        ),
        (
            "ffff:ffff:ffff:ffff:ffff::1/128",
            127,
            "ffff:ffff:ffff:ffff:ffff::/127",
        ),
        (
            "ffff:ffff:ffff:ffff:ffff::1/128",
            65,
            "ffff:ffff:ffff:ffff:8000::/65",
        ),
        (
            "ffff:ffff:ffff:ffff:ffff::1/128",
            64,
            "ffff:ffff:ffff:ffff::/64",
        ),
        (
            "ffff:ffff:ffff:ffff:ffff::1/128",
            63,
            "ffff:ffff:ffff:fffe::/63",
        ),
        ("ffff:ffff:ffff:ffff:ffff::1/128", 0, "::/0"),
    ] {
        assert_eq!(prefix(whole).first(len), prefix(cut), "{whole} to {len}");
        assert!(prefix(cut).covers(prefix(whole)));
        assert_eq!(prefix(whole).covers(prefix(cut)), whole == cut);
    }
    assert!(!prefix("0.0.0.0/0").covers(prefix("::/128")));
}

/// The lengths of some entries as a table has them.
fn lengths<const N: usize>(of: impl Iterator<Item = u8>) -> [u8; N] {
    let mut all: Vec<u8> = of.collect();
    all.sort_unstable();
    all.dedup();
    let mut lengths = [NO_LENGTH; N];
    for (to, len) in lengths.iter_mut().zip(all.into_iter().rev()) {
        *to = len;
    }
    lengths
}

/// Addresses in few places, so that entries meet one another and their neighbours.
fn near() -> impl Strategy<Value = u32> {
    let near = [
        0,
        0x0a00_0000,
        0x0a00_00ff,
        0x0a00_0100,
        0x0a00_1000,
        0x7fff_ffff,
        0xffff_ffff,
    ];
    (
        proptest::sample::select(near.to_vec()),
        any::<u32>(),
        0u32..=32,
    )
        .prop_map(|(near, other, bits)| near ^ other.checked_shr(bits).unwrap_or_default())
}

fn v4(addr: u32) -> Prefix {
    Prefix::address(Version::V4, &[addr.to_be(), 0, 0, 0])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Adding and taking out in any order: the compact table lists what a set of prefixes would.
    #[test]
    fn the_compact_table_agrees_with_a_naive_model(
        changes in proptest::collection::vec((any::<bool>(), near(), 14u8..=32), 1..60),
        addresses in proptest::collection::vec(near(), 1..60),
        seed in any::<u64>(),
    ) {
        let mut memory = Memory(vec![0; compact::WORDS as usize]);
        let mut model: Vec<Prefix> = Vec::new();
        for (add, addr, len) in changes {
            let prefix = v4(addr).first(len);
            let known = model.contains(&prefix);
            if add {
                compact::open(&mut memory, prefix);
                if len <= 24 {
                    compact::add_short(&mut memory, prefix);
                } else if !known {
                    prop_assert!(compact::add(&mut memory, seed, prefix));
                }
                if !known { model.push(prefix); }
            } else {
                model.retain(|p| *p != prefix);
                if len <= 24 {
                    compact::remove_short(&mut memory, prefix, |p24| {
                        model.iter().any(|m| m.covers(v4(p24 << 8).first(24)))
                    });
                } else {
                    prop_assert_eq!(compact::remove(&mut memory, seed, prefix), known);
                }
            }
        }
        let mask = model.iter().fold(0, |mask, p| mask | if p.len <= 24 { compact::SHORT } else { 1 << p.len });
        let own: Vec<u32> = model.iter().map(|p| p.low as u32).collect();
        for addr in addresses.into_iter().chain(own) {
            let found = compact::find(&memory, mask, seed, addr);
            let listed = model.iter().any(|p| p.covers(v4(addr)));
            prop_assert_eq!(found, if listed { compact::Found::Yes } else { compact::Found::No });
        }
    }

    /// Both families, entries that end: the general tables list what a map of prefixes would.
    #[test]
    fn the_general_table_agrees_with_a_naive_model(
        changes in proptest::collection::vec((0u8..3, near(), 0u8..=128, any::<bool>(), 0u64..4), 1..80),
        addresses in proptest::collection::vec((near(), any::<bool>()), 1..40),
        seed in any::<u64>(),
        now in 0u64..4,
    ) {
        let whole = |addr: u32, ipv6| if ipv6 {
            Prefix::address(Version::V6, &[0x2001_0db8u32.to_be(), addr.to_be(), 0, addr.to_be()])
        } else {
            v4(addr)
        };
        let mut pieces: Vec<Memory> = (0..2).map(|_| Memory(vec![0; general::WORDS as usize])).collect();
        let mut model = BTreeMap::new();
        for (change, addr, len, ipv6, expiry) in changes {
            let prefix = whole(addr, ipv6).first(if ipv6 { len } else { len % 33 });
            let place = general::Place::of(prefix, seed, 2);
            let piece = &mut pieces[place.piece as usize];
            if change > 0 {
                let expiry = (expiry > 0).then_some(expiry);
                prop_assert!(general::add(piece, place, prefix, expiry));
                model.insert(prefix, expiry);
            } else {
                let known = model.remove(&prefix).is_some();
                prop_assert_eq!(general::remove(piece, place, prefix), known);
            }
        }
        let of = |version| model.keys().filter(move |p| p.version == version).map(|p| p.len);
        let table = ListTable {
            seed,
            pieces: 2,
            v4: lengths(of(Version::V4)),
            v6: lengths(of(Version::V6)),
            ..ListTable::default()
        };
        for (addr, ipv6) in addresses {
            let address = whole(addr, ipv6);
            let found = find_general(&table, address.version, false, |len| {
                let prefix = address.first(len);
                let place = general::Place::of(prefix, seed, 2);
                has(&pieces[place.piece as usize], place, prefix, || now << EXPIRY_SHIFT)
            });
            let listed = model.iter().any(|(p, expiry)| p.covers(address) && expiry.is_none_or(|e| e > now));
            prop_assert_eq!(found, listed);
        }
    }
}

#[test]
fn a_full_bucket_says_so_for_as_long_as_it_may_have_displaced_entries() {
    let (seed, mut memory) = (7, Memory(vec![0; compact::WORDS as usize]));
    // Far more than there is room for: some buckets fill up.
    let mut displaced = Vec::new();
    let entries = 0..2_600_000u32;
    let address = |n: u32| v4(n.wrapping_mul(0x9e37_79b1));
    for n in entries.clone() {
        if !compact::add(&mut memory, seed, address(n)) {
            displaced.push(n);
        }
    }
    compact::open(&mut memory, prefix("0.0.0.0/0"));
    assert!(displaced.len() > 10_000, "{}", displaced.len());
    let find = |memory: &Memory, n| compact::find(memory, 1 << 32, seed, address(n).low as u32);
    for &n in &displaced[..1000] {
        assert_eq!(find(&memory, n), compact::Found::Displaced);
    }
    // Whatever is taken out meanwhile, those displaced are still looked for elsewhere.
    for n in entries.step_by(3) {
        compact::remove(&mut memory, seed, address(n));
    }
    for &n in &displaced[..1000] {
        assert_eq!(find(&memory, n), compact::Found::Displaced);
    }
}

#[test]
fn a_piece_takes_what_it_is_meant_for_and_says_when_it_is_full() {
    for seed in 0..100 {
        let mut piece = Memory(vec![0; general::WORDS as usize]);
        let place = |n| general::Place::of(v4(n), seed, 1);
        let mut add = |n| general::add(&mut piece, place(n), v4(n), None);
        assert!((0..general::PIECE_ENTRIES).all(&mut add), "seed {seed}");
        assert!(!(0..20_000).all(add));
        for n in 0..general::PIECE_ENTRIES {
            assert!(general::find(&piece, place(n), v4(n)).is_some());
        }
    }
}
