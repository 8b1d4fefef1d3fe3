//! Block and allow lists, with frames through the loaded program.

use std::{net::IpAddr, time::Duration};

use etherparse::IpNumber;
use net_common::{abi::Settings, verdict::Reason};
use net_tests::{
    frames::{CLIENT_V4, CLIENT_V6, ENVELOPES, Envelope, SERVER_MAC, neighbor::Discovery, segment},
    prog_run::{self, Lab, PORT},
};
use net_user::lists::{
    Changed, List,
    entries::Entries,
    now_ns,
    text::{self, Entry, parse_prefix, show, whole},
};

const SECOND_NS: u64 = 1_000_000_000;

fn entries(text: &str) -> Vec<Entry> {
    text::parse(&text.replace(',', "\n")).expect("entries")
}

fn add(lab: &mut Lab, list: List, text: &str) -> Changed {
    let now = now_ns().expect("a clock");
    lab.lists
        .add(list, "test", &entries(text), now)
        .expect("room")
}

fn remove(lab: &mut Lab, list: List, text: &str) -> Changed {
    let gone: Vec<_> = entries(text).iter().map(|e| e.prefix).collect();
    lab.lists.remove(list, "test", &gone).expect("room")
}

/// A datagram from an address.
fn datagram(src: &str) -> Vec<u8> {
    let src: IpAddr = src.parse().expect("an address");
    let envelope = if src.is_ipv4() {
        Envelope::V4
    } else {
        Envelope::V6
    };
    envelope
        .from(src)
        .wrap(IpNumber::UDP, &[0x30, 0x39, 0, 9, 0, 8, 0, 0])
}

#[track_caller]
fn expect(lab: &mut Lab, src: &str, reason: Reason) {
    lab.expect(src, &datagram(src), reason);
}

#[test]
fn a_source_is_dropped_while_it_is_listed_and_neither_before_nor_after() {
    prog_run::in_namespace(|lab| {
        for (entry, inside, outside) in [
            ("203.0.113.7", "203.0.113.7", "203.0.113.6"),
            ("203.0.113.8/31", "203.0.113.9", "203.0.113.10"),
            ("203.0.113.128/25", "203.0.113.255", "203.0.113.127"),
            ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
            ("203.0.112.0/23", "203.0.112.255", "203.0.114.0"),
            ("200.0.0.0/6", "203.255.255.255", "204.0.0.0"),
            ("128.0.0.0/1", "203.0.113.1", "127.255.255.255"),
            ("2001:db8:5::1", "2001:db8:5::1", "2001:db8:5::2"),
            ("2001:db8:5::/64", "2001:db8:5::ffff:1", "2001:db8:5:1::1"),
            ("2001:db8:5::/48", "2001:db8:5:ffff::1", "2001:db8:6::"),
            ("2000::/3", "2001:db8:5::1", "4001::1"),
        ] {
            for ttl in ["", " 1h"] {
                let entry = &format!("{entry}{ttl}");
                expect(lab, inside, Reason::NoRule);
                assert_eq!(add(lab, List::Block, entry).added, 1, "{entry}");
                assert_eq!(add(lab, List::Block, entry).added, 0, "{entry}: idempotent");
                expect(lab, inside, Reason::Blocked);
                expect(lab, outside, Reason::NoRule);
                assert_eq!(remove(lab, List::Block, entry).removed, 1, "{entry}");
                assert_eq!(remove(lab, List::Block, entry).removed, 0, "{entry}");
                expect(lab, inside, Reason::NoRule);
            }
        }
        add(lab, List::Block, "0.0.0.0/0");
        expect(lab, "8.8.8.8", Reason::Blocked);
        expect(lab, "2001:db8::8", Reason::NoRule);
        remove(lab, List::Block, "0.0.0.0/0");
        add(lab, List::Block, "::/0");
        expect(lab, "8.8.8.8", Reason::NoRule);
        expect(lab, "2001:db8::8", Reason::Blocked);
    });
}

#[test]
fn allow_wins_over_block_whatever_the_lengths() {
    prog_run::in_namespace(|lab| {
        for (allow, block, src) in [
            ("203.0.0.0/8", "203.0.113.7", "203.0.113.7"),
            ("203.0.113.7", "203.0.0.0/8", "203.0.113.7"),
            ("203.0.113.7 1h", "0.0.0.0/0", "203.0.113.7"),
            ("::/0", "2001:db8:5::1", "2001:db8:5::1"),
        ] {
            add(lab, List::Block, block);
            expect(lab, src, Reason::Blocked);
            add(lab, List::Allow, allow);
            expect(lab, src, Reason::Allowed);
            remove(lab, List::Allow, allow);
            expect(lab, src, Reason::Blocked);
            remove(lab, List::Block, block);
            expect(lab, src, Reason::NoRule);
        }
        // No rule drops what is allowed; a cookie, which refuses nobody, still answers its SYN.
        let syn = Envelope::V4.tcp(&prog_run::linux_syn(4000, 5), &[]);
        let null = Envelope::V4.tcp(&net_tests::frames::segment(1, 2, 3, ""), &[]);
        lab.expect("a stranger", &syn, Reason::CookieSent);
        lab.expect("a stranger", &null, Reason::TcpFlags);
        add(lab, List::Allow, &CLIENT_V4.to_string());
        lab.expect("an allowed source", &syn, Reason::CookieSent);
        lab.expect("an allowed source", &null, Reason::Allowed);
    });
}

#[test]
fn entries_end_by_the_kernels_clock_with_no_agent_to_take_them_out() {
    prog_run::in_namespace(|lab| {
        for (list, listed) in [
            (List::Block, Reason::Blocked),
            (List::Allow, Reason::Allowed),
        ] {
            for (entry, src) in [
                ("203.0.113.7", "203.0.113.7"),
                ("203.0.112.0/22", "203.0.113.7"),
                ("2001:db8:5::/64", "2001:db8:5::1"),
            ] {
                let now = now_ns().expect("a clock");
                let [second, hour] = ["1s", "1h"].map(|ttl| entries(&format!("{entry} {ttl}")));
                // As it will be a second and 17 ms after it was listed.
                let then = now - SECOND_NS - (1 << 24);
                let over = lab.lists.add(list, "test", &second, then);
                assert_eq!(over.expect("room").added, 1);
                expect(lab, src, Reason::NoRule);
                lab.lists.add(list, "test", &hour, now).expect("room");
                expect(lab, src, listed);
                assert_eq!(lab.lists.sweep(now).expect("memory"), 0);
                assert_eq!(lab.lists.sweep(now + 7_200 * SECOND_NS).expect("memory"), 1);
                expect(lab, src, Reason::NoRule);
            }
        }
    });
}

#[test]
fn a_shorter_entry_stands_in_when_the_longer_is_over_or_gone() {
    prog_run::in_namespace(|lab| {
        let now = now_ns().expect("a clock");
        let over = entries("203.0.113.7 1s short-lived");
        add(lab, List::Block, "203.0.112.0/22 lasting");
        lab.lists
            .add(List::Block, "test", &over, now - 2 * SECOND_NS)
            .expect("room");
        expect(lab, "203.0.113.7", Reason::Blocked);
        let found = |lab: &Lab| {
            let found = lab
                .lists
                .find(List::Block, whole([203, 0, 113, 7].into()), now);
            found.into_iter().map(|l| l.reason).collect::<Vec<_>>()
        };
        assert_eq!(found(lab), ["lasting"]);
        add(lab, List::Block, "203.0.113.7 1h short-lived");
        assert_eq!(
            found(lab),
            ["short-lived", "lasting"],
            "the longest prefix first"
        );
        // From temporary to lasting and back: listed all the time.
        for entry in [
            "203.0.113.7",
            "203.0.113.7 1h",
            "203.0.113.7",
            "203.0.113.7 2h",
        ] {
            add(lab, List::Block, entry);
            remove(lab, List::Block, "203.0.112.0/22");
            expect(lab, "203.0.113.7", Reason::Blocked);
            expect(lab, "203.0.113.8", Reason::NoRule);
            add(lab, List::Block, "203.0.112.0/22 lasting");
        }
        remove(lab, List::Block, "203.0.113.7");
        expect(lab, "203.0.113.7", Reason::Blocked);
        remove(lab, List::Block, "203.0.112.0/22");
        expect(lab, "203.0.113.7", Reason::NoRule);
    });
}

#[test]
fn every_way_a_packet_can_be_wrapped_leads_to_its_source() {
    prog_run::in_namespace(|lab| {
        add(lab, List::Block, &format!("{CLIENT_V4}\n{CLIENT_V6}"));
        for envelope in ENVELOPES {
            let ack = envelope.tcp(&segment(4000, PORT, 6, "A"), &[]);
            lab.expect(envelope.name, &ack, Reason::Blocked);
            lab.set_flag(Settings::OBSERVE, true);
            let ran = lab.run(&ack);
            assert_eq!((ran.reason, ran.observed), (Reason::Blocked, true));
            lab.set_flag(Settings::OBSERVE, false);
        }
        // A later fragment has no ports, but a source.
        let mut fragment = datagram(&CLIENT_V4.to_string());
        fragment[20] = 1;
        lab.expect("later fragment", &fragment, Reason::Blocked);
        let mut malformed = datagram(&CLIENT_V4.to_string());
        malformed[14] = 0x4f;
        lab.expect("header beyond the packet", &malformed, Reason::Blocked);
        lab.expect("no header", &malformed[..30], Reason::IpMalformed);
    });
}

#[test]
fn neighbour_discovery_is_its_own_guards_business() {
    prog_run::in_namespace(|lab| {
        let advertisement = Discovery::advertisement(CLIENT_V6, true)
            .with_target(SERVER_MAC)
            .frame();
        let reason = lab.run(&advertisement).reason;
        for list in [List::Block, List::Allow] {
            add(lab, list, "::/0");
            lab.expect("advertisement", &advertisement, reason);
            remove(lab, list, "::/0");
        }
    });
}

#[test]
fn a_named_list_is_replaced_as_a_whole_and_others_stay() {
    prog_run::in_namespace(|lab| {
        let now = now_ns().expect("a clock");
        add(lab, List::Block, "203.0.113.1, 203.0.113.2");
        let feed =
            entries("203.0.113.2, 203.0.113.3 scanner, 2001:db8:5::/64, 203.0.113.3 scanner");
        let changed = lab.lists.replace(List::Block, "feed", &feed, now);
        let changed = changed.expect("room");
        assert_eq!((changed.added, changed.updated, changed.removed), (3, 0, 0));
        for src in ["203.0.113.1", "203.0.113.2", "203.0.113.3", "2001:db8:5::1"] {
            expect(lab, src, Reason::Blocked);
        }
        let feed = entries("203.0.113.3 spammer, 203.0.113.4");
        let changed = lab.lists.replace(List::Block, "feed", &feed, now);
        let changed = changed.expect("room");
        assert_eq!((changed.added, changed.updated, changed.removed), (1, 1, 2));
        for (src, reason) in [
            ("203.0.113.1", Reason::Blocked),
            ("203.0.113.2", Reason::Blocked),
            ("203.0.113.3", Reason::Blocked),
            ("203.0.113.4", Reason::Blocked),
            ("2001:db8:5::1", Reason::NoRule),
        ] {
            expect(lab, src, reason);
        }
        lab.lists
            .replace(List::Block, "feed", &[], now)
            .expect("room");
        expect(lab, "203.0.113.2", Reason::Blocked);
        expect(lab, "203.0.113.3", Reason::NoRule);
        lab.lists
            .replace(List::Block, "test", &[], now)
            .expect("room");
        expect(lab, "203.0.113.2", Reason::NoRule);
        assert_eq!(lab.lists.iter(List::Block, now).count(), 0);
    });
}

#[test]
fn hits_are_counted_for_the_longest_entry_exactly_while_the_log_holds_them() {
    prog_run::in_namespace(|lab| {
        let now = now_ns().expect("a clock");
        add(
            lab,
            List::Block,
            "203.0.113.0/24, 203.0.113.7, 2001:db8:5::/64 1h",
        );
        add(lab, List::Allow, "198.51.100.0/24");
        for (src, times) in [
            ("203.0.113.7", 3),
            ("203.0.113.8", 5),
            ("2001:db8:5::9", 2),
            ("198.51.100.1", 4),
        ] {
            for _ in 0..times {
                lab.run(&datagram(src));
            }
        }
        lab.lists.count_hits(now).expect("the logs");
        let hits = |lab: &Lab, list| {
            let all = lab.lists.iter(list, now);
            all.map(|l| (show(l.prefix), l.hits)).collect::<Vec<_>>()
        };
        let expected = [
            ("203.0.113.0/24".to_owned(), 5),
            ("203.0.113.7".to_owned(), 3),
            ("2001:db8:5::/64".to_owned(), 2),
        ];
        assert_eq!(hits(lab, List::Block), expected);
        assert_eq!(hits(lab, List::Allow), [("198.51.100.0/24".to_owned(), 4)]);
        lab.lists.count_hits(now).expect("the logs");
        assert_eq!(hits(lab, List::Block), expected, "nothing is counted twice");
        for _ in 0..5_000 {
            lab.run(&datagram("203.0.113.7"));
        }
        lab.lists.count_hits(now).expect("the logs");
        assert_eq!(
            hits(lab, List::Block)[1].1,
            5_003,
            "a flood's sample stands for all"
        );
    });
}

/// Numbers of a random sequence, the same in each run.
fn random(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn what_the_program_drops_is_what_a_naive_model_of_the_lists_would() {
    prog_run::in_namespace(|lab| {
        let (mut state, now) = (7, now_ns().expect("a clock"));
        let mut address = move |ipv6: bool| -> IpAddr {
            let (a, b) = (random(&mut state), random(&mut state));
            if ipv6 {
                let low = (a & 3) << (b & 63);
                std::net::Ipv6Addr::from_bits(
                    0x2001_0db8u128 << 96 | u128::from(low) << (b >> 6 & 60),
                )
                .into()
            } else {
                std::net::Ipv4Addr::from_bits(0xcb00_7100 ^ ((a & 3) << (b & 23)) as u32).into()
            }
        };
        let mut state = 11;
        for round in 0..30 {
            let mut models = [Entries::default(), Entries::default()];
            for (list, count) in [(List::Allow, 3), (List::Block, 40)] {
                let mut listed = Vec::new();
                for _ in 0..count {
                    let ipv6 = random(&mut state) & 1 == 0;
                    let whole = whole(address(ipv6));
                    let least = if ipv6 { 40 } else { 12 };
                    let len = least + random(&mut state) as u8 % (whole.len - least + 1);
                    let ttl = (random(&mut state) & 1 == 0).then_some(Duration::from_secs(60));
                    listed.push(Entry {
                        prefix: whole.first(len),
                        ttl,
                        reason: String::new(),
                        line: 0,
                    });
                }
                // Half by half: in place, and as a whole.
                let (some, rest) = listed.split_at(count / 2);
                lab.lists.replace(list, "test", some, now).expect("room");
                lab.lists.add(list, "test", rest, now).expect("room");
                // The same and others under another name, over by now unless the first is not.
                let over = listed.iter().step_by(3).map(|entry| Entry {
                    prefix: entry.prefix.first(entry.prefix.len - round % 2),
                    ttl: Some(Duration::from_secs(1)),
                    reason: String::new(),
                    line: 0,
                });
                let (over, then) = (over.collect::<Vec<_>>(), now - 2 * SECOND_NS);
                lab.lists.replace(list, "over", &[], then).expect("room");
                lab.lists.add(list, "over", &over, then).expect("room");
                if round % 3 == 0 {
                    lab.lists.sweep(now).expect("memory");
                }
                let gone: Vec<_> = listed.iter().step_by(5).map(|e| e.prefix).collect();
                lab.lists.remove(list, "test", &gone).expect("room");
                let model = &mut models[list.number() as usize];
                for entry in lab.lists.iter(list, now) {
                    assert!(!gone.contains(&entry.prefix));
                    model.insert(entry.prefix, 0, Default::default());
                }
            }
            for _ in 0..100 {
                let src = address(random(&mut state) & 1 == 0);
                let covered = |list: List| {
                    let mut all = models[list.number() as usize].iter();
                    all.any(|(prefix, ..)| prefix.covers(whole(src)))
                };
                let reason = if covered(List::Allow) {
                    Reason::Allowed
                } else if covered(List::Block) {
                    Reason::Blocked
                } else {
                    Reason::NoRule
                };
                lab.expect(
                    &format!("round {round}: {src}"),
                    &datagram(&src.to_string()),
                    reason,
                );
            }
        }
        assert!(parse_prefix("203.0.113.0/24").is_ok());
    });
}

#[test]
fn lists_grow_beyond_what_their_tables_were_built_for() {
    prog_run::in_namespace(|lab| {
        let now = now_ns().expect("a clock");
        let entry = |n: u32| Entry {
            prefix: whole(
                std::net::Ipv6Addr::from_bits(0x2001_0db8u128 << 96 | u128::from(n)).into(),
            ),
            ttl: None,
            reason: String::new(),
            line: 0,
        };
        let before = lab.lists.kernel_memory();
        for some in 0..30 {
            let entries: Vec<_> = (some * 1_000..(some + 1) * 1_000).map(entry).collect();
            let changed = lab
                .lists
                .add(List::Block, "test", &entries, now)
                .expect("room");
            assert_eq!(changed.added, 1_000);
        }
        assert!(lab.lists.kernel_memory() > before);
        for n in (0..30_000).step_by(997) {
            expect(lab, &show(entry(n).prefix), Reason::Blocked);
        }
        expect(lab, "2001:db8::7530", Reason::NoRule);
    });
}
