use std::net::IpAddr;

use super::*;
use crate::config::Rate;

fn socket(address: &str, port: u16) -> ListenSocket {
    let address: IpAddr = address.parse().unwrap();
    ListenSocket {
        family: if address.is_ipv4() { 4 } else { 6 },
        address,
        port,
        ifindex: 0,
        inode: 1,
        uid: 0,
        cookie: 1,
        v6only: false,
        accept_queue: 0,
        accept_limit: 511,
        rcvbuf: 131_072,
        drops: 0,
        mptcp: false,
        md5: false,
    }
}

fn link(index: u32, kind: Option<&str>, lower: Option<u32>, mtu: u32) -> Link {
    Link {
        index,
        name: format!("if{index}"),
        mtu,
        up: true,
        carrier: true,
        mac: Some([2, 0, 0, 0, 0, index as u8]),
        kind: kind.map(str::to_owned),
        lower,
        vlan_id: None,
        controller: None,
        xdp: None,
        rx_packets: 0,
    }
}

/// eth0 (2, attached) with 10.0.0.1 and 2001:db8::1, its VLAN (3) with 10.0.3.1, an address on lo (1).
fn facts() -> Facts {
    let address = |ifindex, ip: &str| Address {
        ifindex,
        ip: ip.parse().unwrap(),
        prefix_len: 24,
        broadcast: None,
    };
    Facts {
        interfaces: vec![Interface {
            ifindex: 2,
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, 2]),
            ipv6: Some((1400, 63)),
        }],
        links: [
            link(1, None, None, 65536),
            link(2, None, None, 1500),
            link(3, Some("vlan"), Some(2), 1496),
        ]
        .into_iter()
        .map(|l| (l.index, l))
        .collect(),
        addresses: vec![
            address(2, "10.0.0.1"),
            address(2, "2001:db8::1"),
            address(3, "10.0.3.1"),
            address(1, "192.0.2.7"),
        ],
        settings: TcpSettings {
            syncookies: 1,
            timestamps: 1,
            sack: true,
            window_scaling: true,
            ecn: 2,
            rmem: [4096, 131_072, 6_291_456],
            rmem_max: Some(212_992),
            signed_windows: false,
            somaxconn: 4096,
            max_syn_backlog: 512,
            ttl: 64,
            conntrack_loose: Some(true),
        },
    }
}

fn policy(mode: SynMode) -> SynPolicy {
    SynPolicy {
        default: ListenerPolicy {
            mode,
            budget: Rate::per_second(100).unwrap(),
            burst: 128,
        },
        overrides: Default::default(),
        syn_ack_limit: Rate::per_second(1000).unwrap(),
        syn_ack_burst: 256,
        key_rotation: std::time::Duration::from_secs(3600),
    }
}

fn compiled(sockets: Vec<ListenSocket>, facts: &Facts) -> Compiled {
    compile(
        sockets,
        facts,
        &policy(SynMode::Auto),
        &mut Slots::default(),
        &Levels::default(),
    )
}

fn at<'a>(c: &'a Compiled, ip: &str, port: u16) -> Option<&'a Listener> {
    let ip: IpAddr = ip.parse().unwrap();
    let family = if ip.is_ipv4() { 4 } else { 6 };
    c.entries.get(&ListenerKey {
        addr: addr_words(ip),
        ifindex: 2,
        port,
        family,
    })
}

#[test]
fn a_dual_stack_wildcard_is_expanded_over_every_own_address() {
    let c = compiled(vec![socket("::", 80)], &facts());
    for ip in ["10.0.0.1", "2001:db8::1", "10.0.3.1"] {
        assert!(at(&c, ip, 80).is_some(), "{ip}");
    }
    assert_eq!(c.entries.len(), 3);
    assert!(at(&c, "10.0.0.2", 80).is_none(), "R-GEN-1: not ours");
    let v6only = ListenSocket {
        v6only: true,
        ..socket("::", 80)
    };
    assert_eq!(compiled(vec![v6only], &facts()).entries.len(), 1);
    assert_eq!(
        compiled(vec![socket("0.0.0.0", 80)], &facts())
            .entries
            .len(),
        2
    );
}

#[test]
fn what_is_advertised_fits_the_link_and_the_family() {
    let c = compiled(vec![socket("::", 80)], &facts());
    assert_eq!(at(&c, "10.0.0.1", 80).unwrap().mss, 1460);
    assert_eq!(at(&c, "10.0.3.1", 80).unwrap().mss, 1456, "the VLAN's MTU");
    let v6 = at(&c, "2001:db8::1", 80).unwrap();
    assert_eq!(
        (v6.mss, v6.hop_limit),
        (1340, 63),
        "a router advertised an MTU of 1400"
    );
    let mac = |ip| at(&c, ip, 80).map(|l| (l.mac_front, l.mac_back)).unwrap();
    assert_eq!(mac("10.0.0.1"), Listener::split_mac([2, 0, 0, 0, 0, 2]));
    assert_eq!(mac("10.0.3.1"), Listener::split_mac([2, 0, 0, 0, 0, 3]));
}

#[test]
fn the_exact_address_decides_over_the_wildcard() {
    let mptcp = ListenSocket {
        mptcp: true,
        ..socket("10.0.0.1", 80)
    };
    let c = compiled(vec![socket("0.0.0.0", 80), mptcp], &facts());
    assert!(
        at(&c, "10.0.0.1", 80).is_none(),
        "R-SYN-7: the MPTCP listener has this address"
    );
    assert!(at(&c, "10.0.3.1", 80).is_some());
}

#[test]
fn an_address_of_lo_is_left_to_the_kernels_routes() {
    // An LVS real server answers past the director that the SYN came from.
    let c = compiled(vec![socket("192.0.2.7", 80)], &facts());
    assert!(c.entries.is_empty());
    assert!(!c.listeners[0].protected);
    assert!(c.listeners[0].why_not.is_some(), "and status says so");
}

#[test]
fn a_link_local_address_is_ours_on_its_own_link_alone() {
    let mut facts = facts();
    let mut add = |ifindex, ip: &str| {
        facts.addresses.push(Address {
            ifindex,
            ip: ip.parse().unwrap(),
            prefix_len: 64,
            broadcast: None,
        });
    };
    add(2, "fe80::2");
    add(3, "fe80::3");
    add(4, "fe80::4");
    let c = compiled(vec![socket("::", 80)], &facts);
    assert!(at(&c, "fe80::2", 80).is_some());
    assert!(
        at(&c, "fe80::3", 80).is_some(),
        "the VLAN's frames come by eth0"
    );
    assert!(at(&c, "fe80::4", 80).is_none());
}

#[test]
fn a_listener_bound_to_another_device_keeps_its_port_from_cookies() {
    let bound = ListenSocket {
        ifindex: 3,
        ..socket("::", 80)
    };
    let c = compiled(vec![socket("::", 80), bound, socket("::", 81)], &facts());
    assert!(
        at(&c, "10.0.0.1", 80).is_none(),
        "its connections would look like false ACKs"
    );
    assert!(at(&c, "10.0.0.1", 81).is_some());
    let on_eth0 = ListenSocket {
        ifindex: 2,
        ..socket("::", 80)
    };
    assert!(at(&compiled(vec![on_eth0], &facts()), "10.0.0.1", 80).is_some());
}

#[test]
fn links_stacked_twice_are_seen_and_a_vrf_is_left_alone() {
    let mut facts = facts();
    let bridge = Link {
        mac: Some([2, 0, 0, 0, 0, 9]),
        ..link(9, Some("bridge"), None, 1450)
    };
    facts.links.get_mut(&3).unwrap().controller = Some(9);
    facts.links.insert(9, bridge);
    facts.addresses = vec![Address {
        ifindex: 9,
        ip: "10.0.9.1".parse().unwrap(),
        prefix_len: 24,
        broadcast: None,
    }];
    let c = compiled(vec![socket("::", 80)], &facts);
    let entry = at(&c, "10.0.9.1", 80).unwrap();
    assert_eq!(
        (entry.mac_front, entry.mac_back),
        Listener::split_mac([2, 0, 0, 0, 0, 9])
    );
    assert_eq!(entry.mss, 1410, "a bridge over a VLAN over eth0");
    facts.links.get_mut(&9).unwrap().kind = Some("vrf".into());
    assert!(compiled(vec![socket("::", 80)], &facts).entries.is_empty());
}

#[test]
fn one_unfit_member_keeps_a_reuseport_group_from_cookies() {
    let md5 = ListenSocket {
        md5: true,
        ..socket("0.0.0.0", 179)
    };
    let c = compiled(vec![socket("0.0.0.0", 179), md5], &facts());
    assert!(c.entries.is_empty(), "R-SYN-9");
}

#[test]
fn every_unfit_listener_has_a_reason_in_words() {
    let table = [
        (
            ListenSocket {
                mptcp: true,
                ..socket("::", 80)
            },
            "MPTCP",
        ),
        (
            ListenSocket {
                md5: true,
                ..socket("::", 80)
            },
            "MD5",
        ),
        (socket("127.0.0.1", 80), "loopback"),
        (
            ListenSocket {
                ifindex: 9,
                ..socket("::", 80)
            },
            "interface",
        ),
    ];
    for (socket, word) in table {
        let c = compiled(vec![socket], &facts());
        assert!(c.entries.is_empty());
        assert!(
            c.listeners[0].why_not.as_deref().unwrap().contains(word),
            "{word}"
        );
        assert!(!c.listeners[0].protected);
    }
    let off = compile(
        vec![socket("::", 80)],
        &facts(),
        &policy(SynMode::Off),
        &mut Slots::default(),
        &Levels::default(),
    );
    assert!(off.entries.is_empty());
    let mut no_cookies = facts();
    no_cookies.settings.syncookies = 0;
    let c = compiled(vec![socket("::", 80)], &no_cookies);
    assert!(c.entries.is_empty());
    assert!(
        c.listeners[0]
            .why_not
            .as_deref()
            .unwrap()
            .contains("tcp_syncookies")
    );
}

#[test]
fn a_full_accept_queue_is_marked_and_a_group_only_when_all_are_full() {
    let full = ListenSocket {
        accept_queue: 512,
        ..socket("::", 80)
    };
    let flags = |sockets| {
        at(&compiled(sockets, &facts()), "10.0.0.1", 80)
            .unwrap()
            .flags
    };
    assert_ne!(flags(vec![full.clone()]) & Listener::ACCEPT_FULL, 0);
    assert_eq!(flags(vec![socket("::", 80)]) & Listener::ACCEPT_FULL, 0);
    assert_eq!(
        flags(vec![full.clone(), socket("::", 80)]) & Listener::ACCEPT_FULL,
        0
    );
}

#[test]
fn a_burst_never_fills_more_than_half_the_syn_queue() {
    let small = ListenSocket {
        accept_limit: 64,
        ..socket("::", 80)
    };
    let tolerance = |s| {
        at(&compiled(vec![s], &facts()), "10.0.0.1", 80)
            .unwrap()
            .tolerance_ns
    };
    assert_eq!(tolerance(small), 32 * 10_000_000);
    assert_eq!(tolerance(socket("::", 80)), 128 * 10_000_000);
}

#[test]
fn a_slot_stays_with_its_listener_and_is_handed_on_when_it_is_gone() {
    let (facts, policy) = (facts(), policy(SynMode::Auto));
    let mut slots = Slots::default();
    let slot = |c: &Compiled, port| {
        c.listeners
            .iter()
            .find(|l| l.socket.port == port)
            .and_then(|l| l.slot)
    };
    let first = compile(
        vec![socket("::", 80), socket("::", 81)],
        &facts,
        &policy,
        &mut slots,
        &Levels::default(),
    );
    assert_eq!(first.fresh_slots.len(), 2);
    let second = compile(
        vec![socket("::", 81)],
        &facts,
        &policy,
        &mut slots,
        &Levels::default(),
    );
    assert_eq!(slot(&second, 81), slot(&first, 81));
    assert!(second.fresh_slots.is_empty());
    let third = compile(
        vec![socket("::", 81), socket("::", 82)],
        &facts,
        &policy,
        &mut slots,
        &Levels::default(),
    );
    assert_eq!(slot(&third, 82), slot(&first, 80), "the free slot");
    assert_eq!(
        third.fresh_slots.len(),
        1,
        "whose statistics must be cleared"
    );
}

#[test]
fn listeners_that_are_unfit_keep_no_slot_from_one_that_is_fit() {
    let most = u16::try_from(MAX_LISTENERS).unwrap();
    let mut sockets: Vec<_> = (0..most).map(|n| socket("127.0.0.1", 10_000 + n)).collect();
    let facts = facts();
    let mut slots = Slots::default();
    let mut again = |sockets: &[ListenSocket]| {
        let policy = policy(SynMode::Auto);
        compile(
            sockets.to_vec(),
            &facts,
            &policy,
            &mut slots,
            &Levels::new(),
        )
    };
    let before = again(&sockets);
    assert!(before.listeners.iter().all(|l| l.slot.is_some()));
    // The last of all, whose turn comes when every slot is taken.
    sockets.push(socket("10.0.0.1", 443));
    let after = again(&sockets);
    let last = after.listeners.last().unwrap();
    assert!(last.protected, "{:?}", last.why_not);
    let taken: HashSet<_> = after.listeners.iter().filter_map(|l| l.slot).collect();
    assert_eq!(
        taken.len(),
        usize::from(most),
        "each slot is somebody's alone"
    );
    assert_eq!(after.fresh_slots, [last.slot.unwrap()]);
    let without = after.listeners.iter().filter(|l| l.slot.is_none()).count();
    assert_eq!(without, 1);
    // And it stays so.
    let still = again(&sockets);
    assert!(still.fresh_slots.is_empty() && still.listeners.last().unwrap().protected);
}

#[test]
fn an_agent_that_follows_another_gives_its_listeners_the_same_slots() {
    let key = |address: &str, port, family| FlowKey {
        addr: addr_words(address.parse().unwrap()),
        port,
        family,
    };
    let found = HashMap::from([
        (key("192.0.2.1", 80, 4), 2),
        (key("::", 443, 6), 0),
        (key("::", 25, 6), MAX_LISTENERS),
        (key("::", 53, 7), 1),
    ]);
    let mut slots = Slots::adopt(&found);
    let mut fresh = Vec::new();
    let sockets = [
        socket("192.0.2.1", 80),
        socket("::", 443),
        socket("::", 25),
        socket("::", 53),
    ];
    let given = sockets.map(|s| slots.assign(identity(&s), &mut fresh));
    assert_eq!(given, [2, 0, 1, 3].map(Some));
    assert_eq!(fresh, [1, 3], "these counters are somebody else's");
}
