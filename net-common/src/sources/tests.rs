use std::collections::{HashMap, HashSet};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::spread::tests::spreads;

/// The table as the data path keeps it: who finds none that it may take has no place.
struct Table(Vec<[u64; SOURCE_WAYS]>);

impl Table {
    fn new() -> Self {
        Self(vec![[0; SOURCE_WAYS]; SOURCE_SETS as usize])
    }

    fn place(&mut self, key: Key) -> Option<&mut u64> {
        let set = &mut self.0[key.set as usize];
        set.iter_mut().find(|place| is_of(**place, key.print))
    }

    /// What is known of a source, and that it was seen.
    fn see(&mut self, key: Key, now_s: u32) -> Tier {
        let Some(place) = self.place(key) else {
            return Tier::Unseen;
        };
        *place = renewed(*place, now_s).unwrap_or(*place);
        tier(*place, now_s)
    }

    /// Whether a source that reached a tier has a place now.
    fn reach(&mut self, key: Key, reached: Tier, now_s: u32) -> bool {
        if let Some(place) = self.place(key) {
            *place = raised(*place, key.print, reached, now_s).unwrap_or(*place);
            return true;
        }
        let set = &mut self.0[key.set as usize];
        let worst = set.iter_mut().min_by_key(|place| hold(**place, now_s));
        let worst = worst.expect("a set has places");
        if !takes(reached, hold(*worst, now_s)) {
            return false;
        }
        *worst = place(key.print, reached, now_s);
        true
    }
}

const SEED: u64 = 0x0123_4567_89ab_cdef;

fn v4(n: u32) -> Key {
    key(Version::V4, &[n.to_be(), 0, 0, 0], SEED)
}

/// Pseudorandom numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
}

#[test]
fn tiers_are_ordered_and_have_their_numbers_lives_and_totals() {
    use Tier::{Asked, Proven, Steady, Unseen};
    for (number, tier, life_s, total) in [
        (0, Unseen, 0, 0),
        (1, Steady, 120, 1),
        (2, Asked, 30, 2),
        (3, Proven, 3600, 2),
    ] {
        assert_eq!(Tier::from_number(number), tier);
        assert_eq!(tier as u32, number);
        assert_eq!((tier.life_s(), tier.total()), (life_s, total), "{tier:?}");
    }
    assert_eq!(Tier::from_number(u32::MAX), Proven);
    assert!(Unseen < Steady && Steady < Asked && Asked < Proven);
}

#[test]
fn a_place_tells_its_source_its_tier_and_its_time() {
    for tier_in in [Tier::Steady, Tier::Asked, Tier::Proven] {
        for now_s in [1, 5000, u32::MAX / 2] {
            for print in [1, 0x2aaa_aaab, (1 << 30) - 1] {
                let place = place(print, tier_in, now_s);
                assert!(is_of(place, print) && !is_of(place, print ^ 2));
                let life = tier_in.life_s();
                assert_eq!(tier(place, now_s), tier_in);
                assert_eq!(tier(place, now_s - 1), tier_in, "another CPU's clock");
                assert_eq!(tier(place, now_s + life), tier_in);
                assert_eq!(tier(place, now_s + life + 1), Tier::Unseen);
            }
        }
    }
    assert_eq!(tier(0, 1), Tier::Unseen, "a free place");
    assert!(!is_of(0, v4(7).print), "a free place is nobody's");
}

#[test]
fn a_place_is_renewed_by_being_seen_but_for_those_that_were_asked() {
    let now_s = 10_000;
    for (tier, age, renews) in [
        (Tier::Steady, RENEW_S - 1, false),
        (Tier::Steady, RENEW_S, true),
        (Tier::Steady, 120, true),
        (Tier::Steady, 121, false),
        (Tier::Proven, RENEW_S - 1, false),
        (Tier::Proven, RENEW_S, true),
        (Tier::Proven, 3600, true),
        (Tier::Proven, 3601, false),
        // It is asked for again, or forgotten: its answers do not prolong it.
        (Tier::Asked, RENEW_S, false),
        (Tier::Asked, 30, false),
    ] {
        let old = place(77, tier, now_s - age);
        let new = renews.then(|| place(77, tier, now_s));
        assert_eq!(renewed(old, now_s), new, "{tier:?} after {age} s");
    }
    assert_eq!(renewed(0, now_s), None);
}

#[test]
fn a_tier_is_never_lowered_while_it_lives() {
    use Tier::{Asked, Proven, Steady};
    let now_s = 10_000;
    for (had, age, reached, changes) in [
        (Steady, 0, Asked, true),
        (Steady, 0, Proven, true),
        (Asked, 0, Steady, false),
        (Proven, 3600, Asked, false),
        (Proven, 3600, Steady, false),
        (Proven, 3601, Steady, true),
        (Asked, 31, Steady, true),
        (Asked, RENEW_S - 1, Asked, false),
        (Asked, RENEW_S, Asked, true),
        (Proven, RENEW_S, Proven, true),
    ] {
        let old = place(77, had, now_s - age);
        let new = changes.then(|| place(77, reached, now_s));
        assert_eq!(
            raised(old, 77, reached, now_s),
            new,
            "{had:?} after {age} s, {reached:?}"
        );
    }
}

#[test]
fn a_newcomer_is_steady_when_it_passes_again_after_a_second_and_within_a_minute() {
    let print = v4(7).print;
    let noted = |now_s: u32| Newcomer::Noted(u64::from(print) << 32 | u64::from(now_s));
    assert_eq!(newcomer(0, print, 100), noted(100));
    let Newcomer::Noted(cell) = noted(100) else {
        unreachable!()
    };
    assert_eq!(newcomer(cell, print, 100), Newcomer::Early);
    assert_eq!(
        newcomer(cell, print, 99),
        Newcomer::Early,
        "another CPU's clock"
    );
    assert_eq!(newcomer(cell, print, 101), Newcomer::Steady);
    assert_eq!(newcomer(cell, print, 160), Newcomer::Steady);
    assert_eq!(newcomer(cell, print, 161), noted(161), "it begins again");
    let other = u64::from(print ^ 2) << 32 | 100;
    assert_eq!(
        newcomer(other, print, 101),
        noted(101),
        "whoever is overwritten begins again"
    );
}

#[test]
fn seconds_begin_at_one_and_never_go_back() {
    assert_eq!(seconds(0), 1);
    assert_eq!(seconds((1 << 30) - 1), 1);
    assert_eq!(seconds(1 << 30), 2);
    // A century of uptime.
    assert!(seconds(100 * 365 * 86_400 * 1_000_000_000) < u32::MAX - 3600);
}

#[test]
fn hosts_of_one_ipv6_64_are_one_source_and_other_addresses_are_others() {
    let of = |text: &str| {
        let addr: core::net::IpAddr = text.parse().unwrap();
        let version = if addr.is_ipv4() {
            Version::V4
        } else {
            Version::V6
        };
        key(version, &crate::units::addr_words(addr), SEED)
    };
    assert_eq!(
        of("2001:db8:1:2::1"),
        of("2001:db8:1:2:ffff:ffff:ffff:ffff")
    );
    assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    // The same bits.
    assert_ne!(of("32.1.13.184"), of("2001:db8::"));
    let words = [0x0102_0304, 0, 0, 0];
    assert_ne!(key(Version::V4, &words, 1), key(Version::V4, &words, 2));
}

#[test]
fn sources_spread_evenly_over_the_sets_and_the_newcomers() {
    spreads(SOURCE_SETS, |n| v4(n).set);
    spreads(SOURCE_SETS, |n| v4(n << 8).set);
    spreads(NEWCOMER_CELLS, |n| v4(n).newcomer_cell());
    let v6 = |n: u32| key(Version::V6, &[0x2001, n, 0, 0], SEED);
    spreads(SOURCE_SETS, |n| v6(n).set);
    spreads(NEWCOMER_CELLS, |n| v6(n).newcomer_cell());
    spreads(NEWCOMER_CELLS, |n| v6(n.to_be()).newcomer_cell());
}

/// The module's head: a place is told by 29 bits, whatever set it is in.
#[test]
fn fingerprints_collide_as_often_as_29_bits_do() {
    let n = 1 << 19;
    let prints: HashSet<u32> = (0..n).map(|n| v4(n).print).collect();
    assert!(
        prints
            .iter()
            .all(|print| print & 1 == 1 && print >> 30 == 0)
    );
    // n² / 2 / 2^29 = 256; the deviation is 16.
    let collisions = n as usize - prints.len();
    assert!((200..320).contains(&collisions), "{collisions}");
    let keys: HashSet<(u32, u32)> = (0..n).map(|n| (v4(n).set, v4(n).print)).collect();
    assert!(
        n as usize - keys.len() < 4,
        "set and fingerprint are independent"
    );
}

/// The module's head: how many of so many known sources find their set full.
#[test]
fn of_n_known_sources_as_many_find_no_place_as_the_module_says() {
    for (n, one_in, rounds) in [(16_384, 6_800, 12), (32_768, 120, 2), (65_536, 7, 1)] {
        let mut random = Random(n);
        let mut refused = 0;
        for _ in 0..rounds {
            let mut table = Table::new();
            for _ in 0..n {
                let known = v4(random.next() as u32);
                refused += u64::from(!table.reach(known, Tier::Proven, 100));
            }
        }
        let expected = n * rounds / one_in;
        let within = expected * 2 / 3..expected * 3 / 2;
        assert!(
            within.contains(&refused),
            "{refused} of {n} × {rounds}, not {expected}"
        );
    }
}

/// The module's head: no flood takes the place of a source that sends now and then, not even one whose every packet
/// passes the pool, twice.
#[test]
fn a_million_random_sources_leave_ten_thousand_known_ones_in_place() {
    let mut random = Random(42);
    let mut table = Table::new();
    let mut known = Vec::new();
    for n in 0..10_000 {
        let tier = if n % 2 == 0 {
            Tier::Proven
        } else {
            Tier::Steady
        };
        let source = v4(n);
        // One in a few tens of thousands finds no place.
        if table.reach(source, tier, 1000) {
            known.push((source, tier));
        }
    }
    assert!(known.len() > 9_995, "{}", known.len());
    let mut admitted = 0;
    for n in 0..1_000_000 {
        // Two minutes of flood; the known ones send every half a minute.
        let now_s = 1000 + n / 8_000;
        if n % 240_000 == 0 {
            for (source, tier) in &known {
                assert_eq!(table.see(*source, now_s), *tier);
            }
        }
        let source = v4(random.next() as u32 | 1 << 31);
        admitted += u64::from(table.reach(source, Tier::Steady, now_s));
    }
    for (source, tier) in &known {
        assert_eq!(table.see(*source, 1125), *tier);
    }
    assert!(admitted > 50_000, "the table was full: {admitted}");
    // Those who prove themselves displace what the flood left, and still nobody who was known before.
    for n in 0..10_000 {
        assert!(table.reach(v4(1 << 24 | n), Tier::Proven, 1126) || n > 0);
    }
    let proven = known.iter().filter(|(_, tier)| *tier == Tier::Proven);
    for (source, _) in proven {
        assert_eq!(table.see(*source, 1126), Tier::Proven);
    }
}

#[test]
fn only_proof_displaces_and_not_whom_was_seen_lately() {
    use Tier::{Asked, Proven, Steady};
    // What a place is held by, how long ago that was seen, and who takes it.
    let table = [
        (None, 0, [true, true, true]),
        (Some(Steady), 120, [false, false, true]),
        (Some(Steady), 121, [true, true, true]),
        (Some(Asked), 30, [false, false, true]),
        (Some(Asked), 31, [true, true, true]),
        (Some(Proven), 120, [false, false, false]),
        (Some(Proven), 121, [false, false, true]),
        (Some(Proven), 3600, [false, false, true]),
        (Some(Proven), 3601, [true, true, true]),
    ];
    for (held, age_s, want) in table {
        let at = held.map_or(0, |tier| place(7, tier, 5000 - age_s));
        let got = [Steady, Asked, Proven].map(|reached| takes(reached, hold(at, 5000)));
        assert_eq!(got, want, "{held:?}, {age_s} s");
    }
}

/// Whoever sends from random addresses does not send from the same one again.
#[test]
fn spoofed_sources_that_pass_the_pool_hardly_ever_become_steady() {
    let mut random = Random(7);
    let mut cells = vec![0u64; NEWCOMER_CELLS as usize];
    let mut steady = 0;
    for n in 0..1_000_000u32 {
        let source = v4(random.next() as u32);
        let cell = &mut cells[source.newcomer_cell() as usize];
        // The pool of an ICMP class: 1,000/s.
        match newcomer(*cell, source.print, 1 + n / 1000) {
            Newcomer::Noted(value) => *cell = value,
            Newcomer::Early => {}
            Newcomer::Steady => steady += 1,
        }
    }
    // 16,384 cells hold 16 s of them; one in 2^32 addresses comes again.
    assert!(steady < 8, "{steady}");
}

/// What the table would be with memory for all: when every source reached each tier, or was seen in it, last.
type Model = HashMap<u32, [Option<u32>; 4]>;

fn known(model: &Model, source: Key, now_s: u32) -> Tier {
    let reached = model.get(&source.print).copied().unwrap_or_default();
    let lives = |tier: &Tier| {
        let seen_s = reached[*tier as usize];
        seen_s.is_some_and(|seen_s| now_s - seen_s <= tier.life_s())
    };
    let tiers = [Tier::Proven, Tier::Asked, Tier::Steady];
    tiers.into_iter().find(lives).unwrap_or(Tier::Unseen)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    /// Against an exact model: nobody is taken for more than it is; who is displaced makes way for a higher tier; who
    /// has a place and sends keeps it.
    #[test]
    fn a_live_source_makes_way_for_who_may_take_its_place_only(
        steps in vec((0u32..24, 0u32..4, prop_oneof![6 => 0u32..20, 1 => 0u32..4000]), 1..200),
    ) {
        let mut table = Table::new();
        let mut model = Model::new();
        let mut now_s = 1;
        for (who, step, pause_s) in steps {
            now_s += pause_s;
            // All of one set, which has eight places.
            let source = Key { set: 5, print: who << 1 | 1 };
            let before = table.0[5];
            if step == 0 {
                let seen = table.see(source, now_s);
                prop_assert!(seen <= known(&model, source, now_s));
                if matches!(seen, Tier::Steady | Tier::Proven) {
                    model.entry(source.print).or_default()[seen as usize] = Some(now_s);
                }
                continue;
            }
            let reached = Tier::from_number(step);
            let placed = table.reach(source, reached, now_s);
            model.entry(source.print).or_default()[step as usize] = Some(now_s);
            for (way, old) in before.iter().enumerate() {
                let new = table.0[5][way];
                if old >> 34 != new >> 34 {
                    prop_assert!(takes(reached, hold(*old, now_s)), "displaced by what may not");
                    prop_assert!(is_of(new, source.print));
                }
            }
            if placed {
                let place = table.place(source).copied();
                prop_assert!(place.is_some_and(|place| tier(place, now_s) >= reached));
            } else {
                let held = before.iter().all(|place| !takes(reached, hold(*place, now_s)));
                prop_assert!(held, "refused though there was room");
            }
            let of_it = table.0[5].iter().filter(|place| is_of(**place, source.print));
            prop_assert!(of_it.count() <= 1, "one place a source");
        }
    }

    #[test]
    fn any_word_in_a_place_or_a_cell_is_judged(word: u64, print in 0u32..1 << 30, now_s: u32, number: u32) {
        let reached = Tier::from_number(number);
        let _ = (tier(word, now_s), renewed(word, now_s), newcomer(word, print | 1, now_s));
        if let Some(new) = raised(word, print | 1, reached, now_s) {
            prop_assert!(is_of(new, print | 1));
            prop_assert_eq!(tier(new, now_s), reached);
        }
        if let Some(new) = renewed(word, now_s) {
            prop_assert_eq!(new >> 32, word >> 32, "only the time changes");
        }
    }
}
