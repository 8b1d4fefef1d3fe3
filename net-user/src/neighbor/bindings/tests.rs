use proptest::prelude::*;

use super::*;
use crate::{
    config::{ArpValidate, NeighborConfig, Rate},
    host::testing::link,
    neighbor::ports::tests::own,
};

const A: Mac = Mac::new([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac::new([2, 0, 0, 0, 0, 0xb]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// eth0 (2) with 192.0.2.7 and a VLAN (4) with 198.51.100.7, eth1 (3) without addresses.
fn ports() -> Vec<Port> {
    let mut vlan = link(4, "eth0.100");
    vlan.kind = Some("vlan".to_owned());
    (vlan.lower, vlan.vlan_id) = (Some(2), Some(100));
    let links = [link(2, "eth0"), link(3, "eth1"), vlan];
    let addresses = [own(2, "192.0.2.7", 24), own(4, "198.51.100.7", 24)];
    Port::all(
        &[("eth0".into(), 2), ("eth1".into(), 3)],
        &links,
        &addresses,
    )
}

fn named(address: &str, interface: Option<&str>, router: bool) -> NeighborConfig {
    NeighborConfig {
        address: ip(address),
        macs: vec![A],
        interface: interface.map(str::to_owned),
        vlan: 0,
        router,
    }
}

fn saved(address: &str, interface: &str, origin: BindingOrigin) -> Saved {
    Saved {
        address: ip(address),
        interface: interface.to_owned(),
        vlan: 0,
        macs: vec![B],
        past: vec![A],
        origin,
        router: false,
        history: vec![BindingHistory {
            at: 1,
            what: "before".into(),
        }],
        spoofs: 4,
    }
}

#[test]
fn config_wins_over_pinned_and_pinned_over_learned() {
    use BindingOrigin::{Config, Learned, Pinned};
    let policy = NeighborPolicy {
        bindings: vec![
            named("192.0.2.1", None, false),
            named("192.0.2.2", Some("eth1"), false),
        ],
        ..NeighborPolicy::default()
    };
    let saved = vec![
        saved("192.0.2.1", "eth0", Pinned),
        saved("192.0.2.2", "eth0", Learned),
        saved("192.0.2.3", "eth0", Pinned),
        saved("192.0.2.4", "gone0", Learned),
    ];
    let mut bindings = Bindings::new(&policy, saved.clone(), &ports(), Now::at(0));
    let told: Vec<_> = bindings
        .iter()
        .map(|(k, e)| (ports::address(k), k.ifindex, e.origin, e.macs[0]))
        .collect();
    let mut expected = [
        (ip("192.0.2.1"), 2, Config, A),
        (ip("192.0.2.1"), 3, Config, A),
        (ip("192.0.2.2"), 2, Learned, B),
        (ip("192.0.2.2"), 3, Config, A),
        (ip("192.0.2.3"), 2, Pinned, B),
    ];
    expected.sort_by_key(|(ip, ifindex, ..)| ports::key(*ip, *ifindex, 0));
    assert_eq!(told, expected);
    let config = bindings.get(&ports::key(ip("192.0.2.1"), 2, 0)).unwrap();
    assert_eq!(
        (config.past.as_slice(), config.history.len()),
        (&[B][..], 2),
        "its past is kept"
    );

    // A route to what is pinned changes nothing.
    let wanted = BTreeSet::from([ports::key(ip("192.0.2.3"), 2, 0)]);
    assert_eq!(bindings.route(&wanted, Now::at(1)), Routed::default());

    let mut again = bindings.saved(&ports());
    again.sort_by_key(|s| s.address);
    assert_eq!(
        again[1..],
        saved[1..],
        "what the config says is not saved but for its past, what is elsewhere is"
    );
    assert_eq!(
        (again[0].origin, again[0].spoofs, again[0].history.len()),
        (Config, 4, 2)
    );

    // The next agent knows that past; of what the config names no more, none.
    let next = Bindings::new(&policy, again.clone(), &ports(), Now::at(0));
    let config = next.get(&ports::key(ip("192.0.2.1"), 2, 0)).unwrap();
    assert_eq!(
        (config.origin, config.spoofs, config.history.len()),
        (Config, 4, 2)
    );
    assert_eq!(config.past, [B]);
    let mut same = next.saved(&ports());
    same.sort_by_key(|s| s.address);
    assert_eq!(same, again);
    let next = Bindings::new(&NeighborPolicy::default(), again, &ports(), Now::at(0));
    assert!(next.get(&ports::key(ip("192.0.2.1"), 2, 0)).is_none());
}

#[test]
fn what_is_read_late_gives_way_to_what_was_pinned_meanwhile() {
    use BindingOrigin::{Learned, Pinned};
    let policy = NeighborPolicy::default();
    for (there, late, wins) in [
        (Some((Learned, vec![A])), Pinned, B),
        (Some((Learned, vec![A])), Learned, A),
        (Some((Learned, vec![])), Learned, B),
        (Some((Pinned, vec![A])), Pinned, A),
        (None, Pinned, B),
    ] {
        let mut bindings = Bindings::new(&policy, Vec::new(), &ports(), Now::at(0));
        let key = ports::key(ip("192.0.2.1"), 2, 0);
        if let Some((origin, macs)) = there.clone() {
            bindings.insert(key, Entry::new(macs, origin, false));
        }
        let late = saved("192.0.2.1", "eth0", late);
        bindings.restore(late, &policy, &ports(), Now::at(1));
        assert_eq!(bindings.get(&key).unwrap().macs, [wins], "{there:?}");
    }
}

#[test]
fn what_is_elsewhere_is_kept_for_a_while_and_pins_until_they_are_taken_back() {
    use BindingOrigin::{Learned, Pinned};
    let kept = vec![
        saved("192.0.2.1", "gone0", Learned),
        saved("192.0.2.2", "gone0", Pinned),
        saved("192.0.2.2", "gone1", Pinned),
    ];
    let policy = NeighborPolicy::default();
    let mut bindings = Bindings::new(&policy, kept.clone(), &ports(), Now::at(100));
    let none = BTreeSet::new();
    assert!(!bindings.route(&none, Now::at(699)).forgotten);
    assert_eq!(bindings.saved(&ports()), kept);
    assert!(bindings.route(&none, Now::at(700)).forgotten);
    assert!(!bindings.route(&none, Now::at(701)).forgotten);
    assert_eq!(bindings.saved(&ports()), kept[1..]);
    assert_eq!(bindings.unpin_elsewhere(ip("192.0.2.2"), 5, None), []);
    let gone = bindings.unpin_elsewhere(ip("192.0.2.2"), 0, Some("gone0"));
    assert_eq!(gone, kept[1..2]);
    assert_eq!(bindings.saved(&ports()), kept[2..]);
    assert_eq!(
        bindings.unpin_elsewhere(ip("192.0.2.2"), 0, None),
        kept[2..]
    );
}

#[test]
fn a_false_claim_is_a_line_of_history_per_claimant() {
    let mut entry = Entry::new(vec![A], BindingOrigin::Config, false);
    entry.note("first".into(), Now::at(0));
    for claim in 0..100 {
        assert_eq!(entry.spoofed("B", Now::at(claim)), claim == 0);
    }
    for claim in 0..100 {
        entry.spoofed(&format!("X{claim}"), Now::at(100));
    }
    let lines =
        |entry: &Entry| -> Vec<_> { entry.history.iter().map(|h| h.what.clone()).collect() };
    assert_eq!(entry.spoofs, 200);
    assert_eq!(lines(&entry).len(), 1 + FALSE);
    assert_eq!(lines(&entry)[..2], ["first", "falsely claimed by B"]);
    assert!(entry.spoofed("later", Now::at(3600)));
    assert!(!entry.spoofed("more", Now::at(3600)));
    assert_eq!(lines(&entry)[..2], ["first", "falsely claimed by X0"]);
    assert_eq!(lines(&entry).len(), 1 + FALSE);
}

#[test]
fn learned_bindings_follow_the_routes_with_patience() {
    let mut bindings = Bindings::new(&NeighborPolicy::default(), Vec::new(), &ports(), Now::at(0));
    let gateway = ports::key(ip("192.0.2.1"), 2, 0);
    let wanted = BTreeSet::from([gateway]);
    assert_eq!(bindings.route(&wanted, Now::at(0)).new, [gateway]);
    assert_eq!(bindings.route(&wanted, Now::at(1)), Routed::default());
    let none = BTreeSet::new();
    assert_eq!(bindings.route(&none, Now::at(2)), Routed::default());
    assert_eq!(bindings.route(&none, Now::at(500)), Routed::default());
    assert_eq!(
        bindings.route(&wanted, Now::at(501)),
        Routed::default(),
        "it is back"
    );
    assert_eq!(bindings.route(&none, Now::at(502)).gone, []);
    assert_eq!(bindings.route(&none, Now::at(1101)).gone, []);
    assert_eq!(bindings.route(&none, Now::at(1102)).gone, [gateway]);
    assert_eq!(bindings.iter().count(), 0);
    // Who advertises routers without end fills nothing.
    let many = (0..1000)
        .map(|n| ports::key(std::net::Ipv4Addr::from_bits(n).into(), 2, 0))
        .collect();
    let routed = bindings.route(&many, Now::at(2000));
    assert_eq!(
        (routed.new.len(), routed.left_out),
        (LEARNED, 1000 - LEARNED)
    );
}

#[test]
fn what_is_compiled_says_whose_word_it_is() {
    let policy = NeighborPolicy {
        bindings: vec![
            named("192.0.2.1", Some("eth0"), false),
            named("fe80::1", Some("eth0"), true),
            named("192.0.2.7", Some("eth0"), false),
        ],
        routers: vec!["fe80::1".parse().unwrap(), "fe80::2".parse().unwrap()],
        ..NeighborPolicy::default()
    };
    let learned = saved("192.0.2.2", "eth0", BindingOrigin::Learned);
    let mut bindings = Bindings::new(&policy, vec![learned], &ports(), Now::at(0));
    bindings.route(
        &BTreeSet::from([ports::key(ip("fe80::2"), 3, 0)]),
        Now::at(0),
    );
    let compiled = bindings.compile(&ports(), &policy.routers);
    const P: u32 = Binding::PROTECTED;
    let (eth0, eth1, vlan) = (
        Mac::new([2, 0, 0, 0, 0, 2]),
        Mac::new([2, 0, 0, 0, 0, 3]),
        Mac::new([2, 0, 0, 0, 0, 4]),
    );
    for (address, ifindex, tag, flags, macs) in [
        ("192.0.2.1", 2, 0, P | Binding::PINNED, &[A][..]),
        ("192.0.2.2", 2, 0, P, &[B]),
        ("fe80::1", 2, 0, P | Binding::PINNED | Binding::ROUTER, &[A]),
        ("fe80::1", 2, 100, Binding::ROUTER, &[]),
        ("fe80::1", 3, 0, Binding::ROUTER, &[]),
        ("fe80::2", 2, 0, Binding::ROUTER, &[]),
        // Being learned, and a listed router.
        ("fe80::2", 3, 0, Binding::ROUTER, &[]),
        // Whatever the config says of it, it is ours.
        ("192.0.2.7", 2, 0, Binding::OWN, &[eth0, eth1, vlan]),
        ("198.51.100.7", 2, 100, Binding::OWN, &[vlan, eth0, eth1]),
    ] {
        let value = compiled
            .get(&ports::key(ip(address), ifindex, tag))
            .unwrap_or_else(|| panic!("{address}"));
        let mut expected = [0; BINDING_MACS];
        for (place, mac) in expected.iter_mut().zip(macs) {
            *place = mac.0;
        }
        assert_eq!(
            (value.flags, value.macs),
            (flags, expected),
            "{address} on {ifindex}"
        );
    }
    assert_eq!(
        compiled.get(&ports::key(ip("192.0.2.7"), 3, 0)),
        None,
        "it is not on eth1"
    );
    assert_eq!(compiled.len(), 2 + 2 * 3 + 2, "{compiled:?}");
}

#[test]
fn the_settings_are_those_of_the_policy() {
    let policy = NeighborPolicy {
        arp: GuardMode::Enforce,
        ndp: GuardMode::Off,
        validate: ArpValidate {
            src_mac: true,
            dst_mac: false,
            ip: true,
        },
        limit: RateLimit {
            rate: Rate::per_second(100).unwrap(),
            burst: 200,
        },
        ..NeighborPolicy::default()
    };
    let value = settings(&policy);
    type S = NeighborSettings;
    assert_eq!(
        value.flags,
        S::ARP | S::ARP_ENFORCE | S::ARP_SRC_MAC | S::ARP_IP
    );
    assert_eq!(
        (value.mac.interval_ns, value.mac.tolerance_ns),
        (10_000_000, 2_000_000_000)
    );
    let guarded = NeighborPolicy {
        routers: vec!["fe80::1".parse().unwrap()],
        ..NeighborPolicy::default()
    };
    assert_eq!(settings(&guarded).flags, S::ARP | S::NDP | S::RA_GUARD);
}

proptest! {
    /// History and past are bounded, and no link-layer address is in both sets.
    #[test]
    fn an_entry_is_bounded(moves in prop::collection::vec(prop::collection::vec(0..30_u64, 1..8), 0..100)) {
        let mut entry = Entry::new(Vec::new(), BindingOrigin::Learned, false);
        for macs in moves {
            let mut macs: Vec<_> = macs.into_iter().map(|n| Mac(2 | n << 8)).collect();
            macs.sort_unstable();
            macs.dedup();
            entry.set(macs.clone());
            entry.note("moved".into(), Now::at(0));
            prop_assert_eq!(&entry.macs, &macs);
            prop_assert!(entry.past.len() <= PAST && entry.history.len() <= HISTORY);
            prop_assert!(entry.past.iter().all(|mac| !macs.contains(mac)));
        }
    }
}
