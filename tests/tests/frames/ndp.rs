//! The guard of neighbour discovery (R-ND-1 to R-ND-8) through the loaded programs.

use std::net::Ipv6Addr;

use etherparse::IpNumber;
use net_common::{
    abi::{Asked, Binding, NeighborEvent, NeighborSettings},
    guard::{ndp::MAX_OPTIONS, neighbor::EventKind},
    units::Mac,
    verdict::Reason,
};
use net_tests::{
    frames::{
        CLIENT_MAC, ENVELOPES, Envelope, Extension, SERVER_MAC, SERVER_V6,
        neighbor::{
            ALL_NODES, Discovery as Nd, GATEWAY_MAC, GATEWAY_V6, SOLICITED_NODE, Tags, VIRTUAL_MAC,
            option,
        },
    },
    prog_run::{
        Lab, coarse_ns, in_namespace,
        neighbors::{Guard, key, only},
    },
};

/// Link-local addresses of a stranger and of another router.
const STRANGER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
const BETTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xbe);
const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;
/// Tags, and the VLAN that a binding behind them is keyed by.
const TAGS: &[(&str, Tags, u16)] = &[
    ("untagged", &[], 0),
    ("802.1Q", &[(Q, 5)], 5),
    ("802.1ad", &[(AD, 4094)], 4094),
    ("QinQ", &[(AD, 4094), (Q, 5)], 5),
    ("priority tag", &[(Q, 0)], 0),
];

fn tagged(tags: Tags) -> Envelope {
    Envelope {
        tags,
        ..Envelope::V6
    }
}

/// A lab with both guards in force.
fn enforcing(test: impl FnOnce(&mut Lab) + Send) {
    in_namespace(|lab| {
        lab.neighbors.enforce();
        test(lab);
    });
}

#[track_caller]
fn dropped(lab: &mut Lab, what: &str, frame: &[u8], reason: Reason) {
    lab.expect_dropped(Guard::Ndp, what, frame, reason);
}

/// The kinds, flags and link-layer addresses of what was told.
fn told(lab: &mut Lab) -> Vec<(EventKind, u32, [u8; 6])> {
    let plain = |event: NeighborEvent| {
        let kind = EventKind::from_number(event.kind).expect("a kind");
        (kind, event.flags, Mac(event.mac).octets())
    };
    lab.neighbors.events().into_iter().map(plain).collect()
}

/// One of each, of a stranger.
fn each() -> [(&'static str, Nd); 6] {
    [
        (
            "router solicitation",
            Nd::router_solicitation(STRANGER).with_source(CLIENT_MAC),
        ),
        (
            "router advertisement",
            Nd::router_advertisement(STRANGER).with_source(CLIENT_MAC),
        ),
        (
            "solicitation",
            Nd::solicitation(STRANGER).with_source(CLIENT_MAC),
        ),
        (
            "solicited advertisement",
            Nd::advertisement(STRANGER, true).with_target(CLIENT_MAC),
        ),
        (
            "advertisement",
            Nd::advertisement(STRANGER, false).with_target(CLIENT_MAC),
        ),
        (
            "redirect",
            Nd::redirect(STRANGER, BETTER).with_target(GATEWAY_MAC),
        ),
    ]
}

/// Every way to claim an address to be at a link-layer address, and what the event's flags are for it.
fn carriers(addr: Ipv6Addr, mac: [u8; 6]) -> Vec<(&'static str, Nd, u32)> {
    use NeighborEvent as E;
    let all = [
        ("solicitation", Nd::solicitation(addr).with_source(mac), 0),
        (
            "router solicitation",
            Nd::router_solicitation(addr).with_source(mac),
            0,
        ),
        (
            "solicited advertisement",
            Nd::advertisement(addr, true).with_target(mac),
            E::REPLY,
        ),
        (
            "advertisement",
            Nd::advertisement(addr, false).with_target(mac),
            E::ANNOUNCEMENT,
        ),
        (
            "advertisement by its frame's source",
            Nd::advertisement(addr, true),
            E::REPLY,
        ),
        (
            "router advertisement",
            Nd::router_advertisement(addr).with_source(mac),
            E::ANNOUNCEMENT,
        ),
        (
            "router advertisement by its frame's source",
            Nd::router_advertisement(addr),
            E::ANNOUNCEMENT,
        ),
        (
            "redirect's source",
            Nd::redirect(addr, BETTER).with_target(CLIENT_MAC),
            E::ANNOUNCEMENT,
        ),
        (
            "redirect's target",
            Nd::redirect(STRANGER, addr).with_target(mac),
            E::ANNOUNCEMENT,
        ),
    ];
    all.map(|(what, nd, flags)| (what, nd.from(mac), flags))
        .into()
}

#[test]
fn honest_discovery_passes_whatever_is_around_it_r_nd_1_r_nd_8_c_27() {
    enforcing(|lab| {
        let nonce = option(14, 1);
        let mut honest = each().to_vec();
        honest.extend([
            ("detection of duplicates", Nd::solicitation(ANY)),
            (
                "the same with a nonce (RFC 7527)",
                Nd::solicitation(ANY).with(&nonce),
            ),
            (
                "probe of a stale neighbour",
                Nd::solicitation_for(STRANGER, SERVER_V6, SERVER_V6),
            ),
            (
                "SEND",
                Nd::solicitation(STRANGER)
                    .with_source(CLIENT_MAC)
                    .with(&option(11, 24))
                    .with(&option(12, 19)),
            ),
            (
                "answer without an option",
                Nd::advertisement(STRANGER, true),
            ),
            (
                "router solicitation without address",
                Nd::router_solicitation(ANY),
            ),
            (
                "router advertisement without an option",
                Nd::router_advertisement(STRANGER),
            ),
            (
                "its usual options",
                Nd::router_advertisement(STRANGER)
                    .with_source(CLIENT_MAC)
                    .with(&option(5, 1))
                    .with(&option(3, 4))
                    .with(&option(25, 3)),
            ),
        ]);
        let fragmented = |envelope: &Envelope| {
            envelope
                .extensions
                .iter()
                .any(|e| matches!(e, Extension::Fragment(..)))
        };
        let envelopes: Vec<_> = ENVELOPES
            .iter()
            .filter(|e| e.is_v6() && !fragmented(e))
            .collect();
        assert!(envelopes.len() > 6);
        for envelope in envelopes {
            for (what, nd) in &honest {
                let what = format!("{what}, {}", envelope.name);
                let ran = lab.expect(&what, &nd.clone().wrapped(envelope).frame(), Reason::NdPass);
                assert_eq!(ran.notes, [], "{what}");
                lab.neighbors.events();
            }
        }
        lab.neighbors.set_flag(NeighborSettings::NDP, false);
        for (what, nd) in &honest {
            lab.expect(what, &nd.frame(), Reason::NoRule);
        }
        assert_eq!(told(lab), [], "off");
    });
}

#[test]
fn other_icmpv6_is_no_concern_of_the_guard_r_nd_8_c_41() {
    enforcing(|lab| {
        lab.neighbors.set_flag(NeighborSettings::RA_GUARD, true);
        lab.neighbors
            .set(|s| (s.mac, s.unknown) = (only(1), only(1)));
        for kind in [
            1, 2, 3, 4, 128, 129, 130, 131, 132, 138, 141, 143, 148, 151, 200,
        ] {
            for hop_limit in [1, 64, 255] {
                let mut nd = Nd::solicitation(STRANGER);
                (nd.body[0], nd.body[1], nd.hop_limit) = (kind, 3, hop_limit);
                lab.expect(&format!("type {kind}"), &nd.frame(), Reason::NoRule);
            }
        }
    });
}

#[test]
fn a_hop_limit_below_255_is_dropped_r_nd_1_c_41() {
    enforcing(|lab| {
        for (what, nd) in each() {
            for hop_limit in [0, 1, 254] {
                let nd = Nd {
                    hop_limit,
                    ..nd.clone()
                };
                dropped(lab, what, &nd.frame(), Reason::NdHopLimit);
            }
        }
        assert_eq!(told(lab), []);
    });
}

#[test]
fn impossible_codes_and_lengths_are_dropped_r_nd_1() {
    enforcing(|lab| {
        for (what, mut nd) in each() {
            nd.body[1] = 1;
            dropped(lab, what, &nd.frame(), Reason::NdMalformed);
            nd.body[1] = 0;
            nd.options.clear();
            let body = nd.body.clone();
            for len in 8..body.len() {
                // The message ends; padding, if any, completes nothing (R-GEN-4).
                nd.body.truncate(len);
                let what = format!("{what} of {len} octets");
                lab.expect(&what, &nd.frame(), Reason::NdMalformed);
                let padded = Envelope {
                    padding: 60,
                    ..Envelope::V6
                };
                lab.expect(
                    &what,
                    &nd.clone().wrapped(&padded).frame(),
                    Reason::NdMalformed,
                );
                if len == body.len() - 1 {
                    dropped(lab, &what, &nd.frame(), Reason::NdMalformed);
                }
                nd.body = body.clone();
            }
            // ICMPv6 of less than its header is nothing that the kernel reads.
            for len in 1..8 {
                nd.body.truncate(len);
                lab.expect(
                    &format!("{what} of {len} octets"),
                    &nd.frame(),
                    Reason::NoRule,
                );
                nd.body = body.clone();
            }
        }
    });
}

#[test]
fn a_frame_cut_anywhere_passes_or_is_dropped_and_is_no_bug_of_ours() {
    enforcing(|lab| {
        for envelope in [Envelope::V6, tagged(&[(AD, 5), (Q, 6)])] {
            let frame = Nd::solicitation(STRANGER)
                .with_source(CLIENT_MAC)
                .wrapped(&envelope)
                .frame();
            let l3 = envelope.l3();
            for len in 14..frame.len() {
                let want = if len < l3 {
                    Reason::ParserLimit
                } else {
                    Reason::IpMalformed
                };
                lab.expect(&format!("{len}"), &frame[..len], want);
            }
            lab.expect("whole", &frame, Reason::NdPass);
        }
    });
}

#[test]
fn options_must_add_up_r_nd_1() {
    enforcing(|lab| {
        for (what, nd) in each() {
            let bare = Nd {
                options: vec![],
                ..nd
            };
            for before in [0, 1, 7, MAX_OPTIONS - 1] {
                let front = option(14, 1).repeat(before);
                let zero = bare
                    .clone()
                    .with(&front)
                    .with(&option(14, 1)[..0])
                    .with(&[14, 0, 1, 2, 3, 4, 5, 6]);
                lab.expect(
                    &format!("{what}, length 0 behind {before}"),
                    &zero.frame(),
                    Reason::NdMalformed,
                );
                for cut in [1, 2, 7, 9, 15] {
                    let cut_off = bare.clone().with(&front).with(&option(14, 2)[..cut]);
                    lab.expect(
                        &format!("{what}, {cut} octets behind {before}"),
                        &cut_off.frame(),
                        Reason::NdMalformed,
                    );
                }
            }
            let padded = Envelope {
                padding: 60,
                ..Envelope::V6
            };
            let short = bare.clone().with(&option(3, 4)[..31]).wrapped(&padded);
            dropped(lab, what, &short.frame(), Reason::NdMalformed);
        }
    });
}

#[test]
fn discovery_behind_a_fragment_header_is_dropped_r_nd_2_c_25() {
    let fragments: &[(&str, &[Extension])] = &[
        ("atomic", &[Extension::Fragment(0, false)]),
        ("first of several", &[Extension::Fragment(0, true)]),
        (
            "between others",
            &[
                Extension::HopByHop(8),
                Extension::Fragment(0, false),
                Extension::DestOptions(8),
            ],
        ),
    ];
    enforcing(|lab| {
        for (what, nd) in each() {
            for (name, extensions) in fragments {
                let envelope = Envelope {
                    extensions,
                    ..Envelope::V6
                };
                let frame = nd.clone().wrapped(&envelope).frame();
                dropped(lab, &format!("{what}, {name}"), &frame, Reason::NdFragment);
            }
            // A later fragment says nothing of what it belongs to; its first one never arrives.
            let envelope = Envelope {
                extensions: &[Extension::Fragment(185, false)],
                ..Envelope::V6
            };
            lab.expect(what, &nd.wrapped(&envelope).frame(), Reason::Fragment);
        }
    });
}

#[test]
fn routers_speak_from_link_local_addresses_r_nd_3() {
    enforcing(|lab| {
        for src in ["2001:db8::9", "::", "fec0::1", "fe7f::1", "ff02::1", "::1"] {
            let src: Ipv6Addr = src.parse().unwrap();
            let advertisement = Nd::router_advertisement(src).with_source(CLIENT_MAC);
            dropped(
                lab,
                &src.to_string(),
                &advertisement.frame(),
                Reason::NdRouterSource,
            );
            let redirect = Nd::redirect(src, BETTER);
            dropped(
                lab,
                &src.to_string(),
                &redirect.frame(),
                Reason::NdRouterSource,
            );
        }
        for src in ["fe80::9", "febf::1"] {
            let src: Ipv6Addr = src.parse().unwrap();
            lab.expect(
                "router",
                &Nd::router_advertisement(src).frame(),
                Reason::NdPass,
            );
        }
    });
}

#[test]
fn what_duplicate_detection_forbids_is_dropped_r_nd_4() {
    let group: Ipv6Addr = "ff02::5".parse().unwrap();
    enforcing(|lab| {
        let table: &[(&str, Nd)] = &[
            (
                "to all nodes",
                Nd::solicitation_for(ANY, ALL_NODES, SERVER_V6),
            ),
            (
                "to the target",
                Nd::solicitation_for(ANY, SERVER_V6, SERVER_V6),
            ),
            (
                "with a source's address",
                Nd::solicitation(ANY).with_source(CLIENT_MAC),
            ),
            (
                "with one behind a nonce",
                Nd::solicitation(ANY)
                    .with(&option(14, 1))
                    .with_source(CLIENT_MAC),
            ),
            (
                "for a group",
                Nd::solicitation_for(STRANGER, SOLICITED_NODE, group),
            ),
            ("advertisement of a group", Nd::advertisement(group, false)),
            ("solicited advertisement to all", {
                let mut nd = Nd::advertisement(STRANGER, true);
                nd.envelope = nd.envelope.to(ALL_NODES);
                nd
            }),
        ];
        for (what, nd) in table {
            dropped(lab, what, &nd.frame(), Reason::NdImpossible);
        }
        assert_eq!(told(lab), []);
    });
}

#[test]
fn a_claim_to_our_own_address_is_noted_and_told_and_passes_r_nd_5_c_39() {
    enforcing(|lab| {
        for (what, nd) in [
            (
                "answer to our detection of duplicates",
                Nd::advertisement(SERVER_V6, false).with_target(CLIENT_MAC),
            ),
            (
                "solicited",
                Nd::advertisement(SERVER_V6, true).with_target(CLIENT_MAC),
            ),
            (
                "solicitation",
                Nd::solicitation(SERVER_V6).with_source(CLIENT_MAC),
            ),
        ] {
            let ran = lab.expect(what, &nd.frame(), Reason::NdPass);
            assert_eq!(ran.notes, [Reason::OwnAddressClaimed], "{what}");
            let events = told(lab);
            assert_eq!(events.len(), 1, "{what}: {events:?}");
            assert_eq!(
                (events[0].0, events[0].2),
                (EventKind::OwnClaim, CLIENT_MAC)
            );
        }
        let looped = Nd::advertisement(SERVER_V6, false).with_target(SERVER_MAC);
        assert_eq!(
            lab.expect("looped", &looped.frame(), Reason::NdPass).notes,
            []
        );
        // Another's detection of duplicates for our address claims nothing: the kernel must defend it.
        assert_eq!(
            lab.expect("detection", &Nd::solicitation(ANY).frame(), Reason::NdPass)
                .notes,
            []
        );
        assert_eq!(told(lab), []);
    });
}

#[test]
fn a_protected_address_is_held_to_its_binding_by_every_carrier_r_nd_6_c_38() {
    enforcing(|lab| {
        for (what, nd, _) in carriers(GATEWAY_V6, CLIENT_MAC) {
            lab.expect(what, &nd.frame(), Reason::NdPass);
        }
        lab.neighbors.events();
        for (what, nd, flags) in carriers(GATEWAY_V6, CLIENT_MAC) {
            let frame = nd.frame();
            // Anew, with the whole of its burst of events.
            lab.neighbors
                .protect(GATEWAY_V6, &[GATEWAY_MAC, VIRTUAL_MAC]);
            lab.expect(what, &frame, Reason::NeighborMismatch);
            let [event] = lab.neighbors.events()[..] else {
                panic!("{what}: one event");
            };
            assert_eq!(event.kind, EventKind::Claim as u32, "{what}");
            assert_eq!(event.flags, flags | NeighborEvent::DROPPED, "{what}");
            assert_eq!(event.key, key(GATEWAY_V6, 0), "{what}");
            // An answer without its option does not say who is to take over.
            let told = if what == "advertisement by its frame's source" {
                Mac::NONE
            } else {
                Mac::new(CLIENT_MAC)
            };
            assert_eq!(Mac(event.mac), told, "{what}");
            assert_eq!(Mac(event.source).octets(), CLIENT_MAC, "{what}");
            assert_eq!(
                event.frame[..event.len as usize],
                frame[..frame.len().min(128)],
                "{what}"
            );
            dropped(lab, what, &frame, Reason::NeighborMismatch);
            lab.neighbors.events();
        }
        for mac in [GATEWAY_MAC, VIRTUAL_MAC] {
            for (what, nd, _) in carriers(GATEWAY_V6, mac) {
                let want = if what == "redirect's target" {
                    // Its sender is a stranger.
                    Reason::NdPass
                } else {
                    Reason::NeighborValid
                };
                lab.expect(what, &nd.frame(), want);
            }
        }
        // What names no link-layer address claims nothing.
        let probe = Nd::solicitation_for(GATEWAY_V6, SERVER_V6, SERVER_V6);
        lab.expect("solicitation", &probe.frame(), Reason::NdPass);
        lab.expect(
            "redirect",
            &Nd::redirect(STRANGER, GATEWAY_V6).frame(),
            Reason::NdPass,
        );
        lab.neighbors.unbind(key(GATEWAY_V6, 0));
        for (what, nd, _) in carriers(GATEWAY_V6, CLIENT_MAC) {
            lab.expect(what, &nd.frame(), Reason::NdPass);
        }
    });
}

#[test]
fn a_redirects_sender_is_held_to_its_binding_whatever_its_target_r_nd_6() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        // A binding that is still learned, one of ours, one that agrees, none.
        lab.neighbors.bind(key(BETTER, 0), &[], 0);
        let own = Nd::redirect(GATEWAY_V6, SERVER_V6).with_target(CLIENT_MAC);
        let learned = Nd::redirect(GATEWAY_V6, BETTER).with_target(CLIENT_MAC);
        let none = Nd::redirect(GATEWAY_V6, STRANGER).with_target(CLIENT_MAC);
        for (what, nd) in [("own", &own), ("learned", &learned), ("none", &none)] {
            dropped(lab, what, &nd.frame(), Reason::NeighborMismatch);
            let event = lab.neighbors.events().pop().expect("an event");
            assert_eq!(event.key, key(GATEWAY_V6, 0), "{what}");
            let honest = nd.clone().from(GATEWAY_MAC);
            lab.expect(what, &honest.frame(), Reason::NeighborValid);
            lab.neighbors.events();
        }
        lab.neighbors.protect(BETTER, &[GATEWAY_MAC]);
        let event_of = |lab: &mut Lab, nd: &Nd| {
            lab.expect("redirect", &nd.frame(), Reason::NeighborMismatch);
            lab.neighbors.events().pop().expect("an event").key
        };
        assert_eq!(event_of(lab, &learned), key(BETTER, 0), "both are false");
        let agrees = Nd::redirect(GATEWAY_V6, BETTER).with_target(GATEWAY_MAC);
        assert_eq!(
            event_of(lab, &agrees),
            key(GATEWAY_V6, 0),
            "the sender is false"
        );
        assert_eq!(
            event_of(lab, &learned.from(GATEWAY_MAC)),
            key(BETTER, 0),
            "the target is false"
        );
        lab.expect(
            "neither",
            &agrees.from(GATEWAY_MAC).frame(),
            Reason::NeighborValid,
        );
    });
}

#[test]
fn an_address_that_cannot_be_read_agrees_with_no_binding_r_nd_6() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        let good = [&[2, 1][..], &GATEWAY_MAC].concat();
        let bad = [&[2, 1][..], &CLIENT_MAC].concat();
        let zero = [2, 1, 0, 0, 0, 0, 0, 0];
        let wide = |units| {
            let mut octets = option(2, units);
            octets[2..8].copy_from_slice(&GATEWAY_MAC);
            octets
        };
        let nonces = |n| option(14, 1).repeat(n);
        let cases: Vec<(String, Vec<Vec<u8>>, Reason)> = [
            ("good", vec![good.clone()], Reason::NeighborValid),
            (
                "good, then bad",
                vec![good.clone(), bad.clone()],
                Reason::NeighborValid,
            ),
            (
                "bad, then good",
                vec![bad.clone(), good.clone()],
                Reason::NeighborMismatch,
            ),
            ("of 16 octets", vec![wide(2)], Reason::NeighborMismatch),
            (
                "of 512 octets, then good",
                vec![wide(64), good.clone()],
                Reason::NeighborMismatch,
            ),
            // Linux 6.18 takes the zero for its neighbour's address.
            (
                "zero in the holder's frame",
                vec![zero.to_vec()],
                Reason::NeighborMismatch,
            ),
            (
                "zero, then good",
                vec![zero.to_vec(), good.clone()],
                Reason::NeighborMismatch,
            ),
            (
                "good behind as many as are read",
                vec![nonces(MAX_OPTIONS), good.clone()],
                Reason::NeighborMismatch,
            ),
            (
                "bad behind as many as are read",
                vec![nonces(MAX_OPTIONS), bad.clone()],
                Reason::NeighborMismatch,
            ),
            (
                "bad behind 100",
                vec![nonces(100), bad.clone()],
                Reason::NeighborMismatch,
            ),
            (
                "bad behind 2040 octets",
                vec![option(14, 255), bad.clone()],
                Reason::NeighborMismatch,
            ),
            (
                "as many as are read",
                vec![nonces(MAX_OPTIONS)],
                Reason::NeighborValid,
            ),
        ]
        .map(|(what, options, want)| (what.to_owned(), options, want))
        .into_iter()
        .chain((0..MAX_OPTIONS).flat_map(|n| {
            [
                (good.clone(), Reason::NeighborValid),
                (bad.clone(), Reason::NeighborMismatch),
            ]
            .map(|(last, want)| (format!("{want:?} behind {n}"), vec![nonces(n), last], want))
        }))
        .collect();
        for (what, options, want) in &cases {
            let nd = Nd::advertisement(GATEWAY_V6, true).from(GATEWAY_MAC);
            lab.expect(what, &nd.with(&options.concat()).frame(), *want);
        }
        let nd = Nd::advertisement(GATEWAY_V6, true)
            .from(GATEWAY_MAC)
            .with(&zero);
        dropped(lab, "zero", &nd.frame(), Reason::NeighborMismatch);
        // It is told of without an address, and the frame says the rest.
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        lab.neighbors.events();
        lab.run(&nd.frame());
        let claim = NeighborEvent::REPLY | NeighborEvent::DROPPED;
        assert_eq!(told(lab), [(EventKind::Claim, claim, [0; 6])]);
        // A solicitation with such an option is a claim too, for Linux may read what we cannot.
        let ns = Nd::solicitation(GATEWAY_V6).from(GATEWAY_MAC);
        for bad in [[&[1, 1][..], &[0; 6]].concat(), {
            let mut o = wide(2);
            o[0] = 1;
            o
        }] {
            dropped(
                lab,
                "solicitation",
                &ns.clone().with(&bad).frame(),
                Reason::NeighborMismatch,
            );
        }
    });
}

#[test]
fn a_binding_is_keyed_by_vlan_r_nd_6_c_27() {
    enforcing(|lab| {
        for (name, _, vlan) in TAGS {
            let binding = key(GATEWAY_V6, *vlan);
            lab.neighbors
                .bind(binding, &[GATEWAY_MAC], Binding::PROTECTED);
            for (other, others, other_vlan) in TAGS {
                let what = format!("binding {name}, frame {other}");
                let nd = Nd::advertisement(GATEWAY_V6, true).wrapped(&tagged(others));
                let spoof = nd.clone().with_target(CLIENT_MAC).frame();
                let honest = nd.with_target(GATEWAY_MAC).frame();
                if vlan == other_vlan {
                    lab.expect(&what, &spoof, Reason::NeighborMismatch);
                    let event = lab.neighbors.events().pop().expect("an event");
                    assert_eq!(event.key, binding, "{what}");
                    lab.expect(&what, &honest, Reason::NeighborValid);
                } else {
                    lab.expect(&what, &spoof, Reason::NdPass);
                    lab.expect(&what, &honest, Reason::NdPass);
                }
            }
            lab.neighbors.unbind(binding);
        }
    });
}

#[test]
fn a_spoof_is_found_behind_whatever_the_parser_looks_behind_r_nd_6() {
    enforcing(|lab| {
        for vlan in [0, 1, 3, 5] {
            let binding = key(GATEWAY_V6, vlan);
            lab.neighbors
                .bind(binding, &[GATEWAY_MAC], Binding::PROTECTED);
        }
        for envelope in ENVELOPES.iter().filter(|e| e.is_v6()) {
            let nd = Nd::advertisement(GATEWAY_V6, true).with_target(CLIENT_MAC);
            let fragment = envelope
                .extensions
                .iter()
                .any(|e| matches!(e, Extension::Fragment(..)));
            let want = if fragment {
                Reason::NdFragment
            } else {
                Reason::NeighborMismatch
            };
            lab.expect(envelope.name, &nd.wrapped(envelope).frame(), want);
        }
        // Beyond the parser's limit nothing of this very link may hide (RFC 8504 section 5.3); what came over routers
        // passes and is counted (R-GEN-2).
        let long = Envelope {
            extensions: &[Extension::DestOptions(8); 7],
            ..Envelope::V6
        };
        let nd = Nd::advertisement(GATEWAY_V6, true).with_target(CLIENT_MAC);
        let mut frame = nd.wrapped(&long).frame();
        lab.expect("a longer chain", &frame, Reason::NdHidden);
        lab.neighbors.set_flag(Guard::Ndp.enforces(), false);
        lab.expect_observed("a longer chain", &frame, Reason::NdHidden);
        lab.neighbors.set_flag(Guard::Ndp.on(), false);
        lab.expect("guard off", &frame, Reason::ParserLimit);
        lab.neighbors
            .set_flag(Guard::Ndp.on() | Guard::Ndp.enforces(), true);
        frame[14 + 7] = 64;
        lab.expect("it came over routers", &frame, Reason::ParserLimit);
    });
}

#[test]
fn nothing_hides_behind_a_payload_length_of_zero() {
    // Linux takes the whole frame when hop-by-hop options come first (6.12 ip6_rcv_core).
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        let padded = Envelope {
            extensions: &[Extension::HopByHop(8)],
            ..Envelope::V6
        };
        let nd = Nd::advertisement(GATEWAY_V6, true).with_target(CLIENT_MAC);
        let mut frame = nd.wrapped(&padded).frame();
        lab.expect("its length told", &frame, Reason::NeighborMismatch);
        frame[14 + 4..14 + 6].fill(0);
        lab.expect("length 0", &frame, Reason::NeighborMismatch);
    });
}

#[test]
fn what_takes_routes_away_must_come_from_the_router_itself_r_nd_3_r_nd_6() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        // The option says what is true; the prefix, the lifetime or the missing router flag is the lie.
        let ra = Nd::router_advertisement(GATEWAY_V6).with_source(GATEWAY_MAC);
        let mut host = Nd::advertisement(GATEWAY_V6, false).with_target(GATEWAY_MAC);
        host.body[4] &= !0x80;
        for (what, nd) in [("router advertisement", ra), ("no router any more", host)] {
            let honest = nd.clone().from(GATEWAY_MAC).frame();
            lab.expect(what, &honest, Reason::NeighborValid);
            let forged = nd.from(CLIENT_MAC).frame();
            lab.expect(what, &forged, Reason::NeighborMismatch);
        }
        // What only tells where it is may come by another address, as VRRP sends it (R-ARP-3).
        let mut router = Nd::advertisement(GATEWAY_V6, false).with_target(GATEWAY_MAC);
        router.body[4] |= 0x80;
        let frame = router.from(CLIENT_MAC).frame();
        lab.expect("still a router", &frame, Reason::NeighborValid);
    });
}

#[test]
fn nothing_hides_beyond_the_linear_part_of_a_jumbo_frame() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        let long = Envelope {
            extensions: &[Extension::DestOptions(2048); 2],
            ..Envelope::V6
        };
        let spoof = Nd::advertisement(GATEWAY_V6, true).with_target(CLIENT_MAC);
        let mut frame = spoof.wrapped(&long).frame();
        let l4 = long.l4();
        // The extension header, then the message, lies where the program cannot look.
        for linear in [14 + 40 + 8, l4 - 8, l4, l4 + 7] {
            let ran = lab.run_split(&frame, linear);
            assert_eq!(
                (ran.reason, ran.observed),
                (Reason::NdHidden, false),
                "{linear}"
            );
        }
        frame[14 + 7] = 64;
        let ran = lab.run_split(&frame, 14 + 40 + 8);
        assert_eq!(ran.reason, Reason::ParserLimit, "it came over routers");
    });
}

#[test]
fn a_message_in_fragments_of_the_frame_is_read_as_well() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        for before in [0, 1, 20] {
            let nd = Nd::advertisement(GATEWAY_V6, true).with(&option(14, 1).repeat(before));
            let spoof = nd.clone().with_target(CLIENT_MAC).frame();
            let honest = nd.clone().with_target(GATEWAY_MAC).frame();
            // The linear part ends behind the fixed part of the message, or in its options.
            for linear in 14 + 40 + 24..honest.len() {
                let ran = lab.run_split(&honest, linear);
                assert_eq!(
                    (ran.reason, ran.observed),
                    (Reason::NeighborValid, false),
                    "{linear}"
                );
                let ran = lab.run_split(&spoof, linear);
                assert_eq!(
                    (ran.reason, ran.observed),
                    (Reason::NeighborMismatch, false),
                    "{linear}"
                );
            }
        }
        // A long one: an event's frame and the options reach over several fragments.
        let nd = Nd::router_advertisement(GATEWAY_V6)
            .with(&option(14, 1).repeat(MAX_OPTIONS - 2))
            .with(&option(24, 100))
            .with_source(CLIENT_MAC);
        let frame = nd.frame();
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        lab.neighbors.events();
        let ran = lab.run_split(&frame, 100);
        assert_eq!(ran.reason, Reason::NeighborMismatch);
        let [event] = lab.neighbors.events()[..] else {
            panic!("one event");
        };
        assert_eq!(event.frame[..], frame[..128]);
    });
}

#[test]
fn a_learned_binding_needs_a_live_agent_and_a_pinned_one_does_not() {
    enforcing(|lab| {
        let spoof = Nd::advertisement(GATEWAY_V6, false)
            .with_target(CLIENT_MAC)
            .frame();
        let learned = Binding::PROTECTED | Binding::ROUTER;
        lab.neighbors
            .bind(key(GATEWAY_V6, 0), &[GATEWAY_MAC], learned);
        lab.expect("alive", &spoof, Reason::NeighborMismatch);
        for beat in [0, 1] {
            lab.neighbors.beat(beat);
            lab.expect_observed("stale", &spoof, Reason::NeighborMismatch);
        }
        lab.neighbors.stale();
        lab.expect_observed("stale", &spoof, Reason::NeighborMismatch);
        let hop = Nd {
            hop_limit: 64,
            ..Nd::advertisement(GATEWAY_V6, true)
        };
        lab.expect("sanity", &hop.frame(), Reason::NdHopLimit);
        lab.neighbors.bind(
            key(GATEWAY_V6, 0),
            &[GATEWAY_MAC],
            learned | Binding::PINNED,
        );
        lab.expect("pinned", &spoof, Reason::NeighborMismatch);
        lab.neighbors.beat(coarse_ns());
        lab.expect("back", &spoof, Reason::NeighborMismatch);
    });
}

#[test]
fn only_listed_routers_advertise_while_the_ra_guard_is_on_r_nd_3_c_37() {
    enforcing(|lab| {
        let rogue = Nd::router_advertisement(STRANGER)
            .with_source(CLIENT_MAC)
            .frame();
        let router = Nd::router_advertisement(GATEWAY_V6)
            .from(GATEWAY_MAC)
            .with_source(GATEWAY_MAC)
            .frame();
        for frame in [&rogue, &router] {
            lab.expect("off", frame, Reason::NdPass);
        }
        lab.neighbors.set_flag(NeighborSettings::RA_GUARD, true);
        lab.neighbors.events();
        lab.expect("unknown", &rogue, Reason::RaGuard);
        let flags = NeighborEvent::ANNOUNCEMENT | NeighborEvent::DROPPED;
        assert_eq!(told(lab), [(EventKind::RogueRouter, flags, CLIENT_MAC)]);
        dropped(lab, "unknown", &rogue, Reason::RaGuard);
        dropped(lab, "not listed yet", &router, Reason::RaGuard);
        // Protected is not listed.
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        dropped(lab, "protected", &router, Reason::RaGuard);
        // Listed, though its link-layer address is still to be learned.
        lab.neighbors.bind(key(GATEWAY_V6, 0), &[], Binding::ROUTER);
        lab.expect("listed", &router, Reason::NdPass);
        let both = Binding::ROUTER | Binding::PROTECTED;
        lab.neighbors.bind(key(GATEWAY_V6, 0), &[GATEWAY_MAC], both);
        lab.expect("listed, protected", &router, Reason::NeighborValid);
        lab.neighbors.events();
        let spoof = Nd::router_advertisement(GATEWAY_V6)
            .with_source(CLIENT_MAC)
            .frame();
        lab.expect("spoofed", &spoof, Reason::NeighborMismatch);
        assert_eq!(told(lab), [(EventKind::Claim, flags, CLIENT_MAC)]);
        // The list is of interfaces and VLANs too.
        let tagged = Nd::router_advertisement(GATEWAY_V6)
            .wrapped(&tagged(&[(Q, 5)]))
            .frame();
        dropped(lab, "another VLAN", &tagged, Reason::RaGuard);
        // A guard that needs no agent, and concerns nothing else.
        lab.neighbors.stale();
        lab.expect("stale", &rogue, Reason::RaGuard);
        for (what, nd) in each()
            .into_iter()
            .filter(|(what, _)| *what != "router advertisement")
        {
            lab.expect(what, &nd.frame(), Reason::NdPass);
        }
        lab.neighbors.refill_events();
        lab.neighbors.events();
        for _ in 0..100 {
            lab.run(&rogue);
        }
        let count = told(lab).len();
        assert!((10..=20).contains(&count), "{count} events of a hundred");
    });
}

#[test]
fn nothing_hides_from_the_ra_guard_behind_what_is_no_protocol_r_nd_3() {
    enforcing(|lab| {
        let hiding = |number: u8, hop_limit: u8, src: Ipv6Addr| {
            let mut frame = Envelope::V6.from(src).wrap(IpNumber(number), &[0; 24]);
            frame[14 + 7] = hop_limit;
            frame
        };
        for number in [147, 200, 253, 254, 255] {
            lab.expect("off", &hiding(number, 255, STRANGER), Reason::NoRule);
        }
        lab.neighbors.set_flag(NeighborSettings::RA_GUARD, true);
        for number in [147, 200, 253, 254, 255] {
            let frame = hiding(number, 255, STRANGER);
            dropped(
                lab,
                &format!("protocol {number}"),
                &frame,
                Reason::RaGuardHeader,
            );
            lab.expect(
                "may have crossed a router",
                &hiding(number, 254, STRANGER),
                Reason::NoRule,
            );
            lab.expect(
                "not link-local",
                &hiding(number, 255, SERVER_V6),
                Reason::NoRule,
            );
        }
        for number in [17, 50, 59, 89, 103, 112, 132, 139, 140, 146] {
            let what = format!("protocol {number}, ESP above all");
            lab.expect(&what, &hiding(number, 255, STRANGER), Reason::NoRule);
        }
        let envelope = Envelope {
            extensions: &[Extension::DestOptions(8)],
            ..Envelope::V6
        };
        let mut frame = envelope.from(STRANGER).wrap(IpNumber(253), &[0; 24]);
        frame[14 + 7] = 255;
        dropped(lab, "behind a header", &frame, Reason::RaGuardHeader);
    });
}

#[test]
fn answers_are_told_and_need_no_asking_to_pass_r_nd_6() {
    enforcing(|lab| {
        use NeighborEvent as E;
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        let answer = Nd::advertisement(GATEWAY_V6, true)
            .from(GATEWAY_MAC)
            .with_target(GATEWAY_MAC)
            .frame();
        let failover = Nd::advertisement(GATEWAY_V6, false)
            .from(GATEWAY_MAC)
            .with_target(GATEWAY_MAC)
            .frame();
        lab.expect("unasked", &answer, Reason::NeighborValid);
        assert_eq!(told(lab), [(EventKind::Station, E::REPLY, GATEWAY_MAC)]);
        lab.expect("unasked", &failover, Reason::NeighborValid);
        // What asks for nothing is not noted.
        let ours = SERVER_V6;
        for nd in [
            Nd::advertisement(ours, true),
            Nd::router_solicitation(ours),
            Nd::solicitation_for(ours, GATEWAY_V6, STRANGER),
        ] {
            lab.run_egress(&nd.frame());
        }
        assert_eq!(lab.asked(GATEWAY_V6), Asked::default());
        for (name, tags, _) in TAGS {
            lab.set_asked(GATEWAY_V6, Asked::default());
            let asks = Nd::solicitation_for(ours, GATEWAY_V6, GATEWAY_V6).with_source(SERVER_MAC);
            lab.run_egress(&asks.wrapped(&tagged(tags)).frame());
            let asked = lab.asked(GATEWAY_V6);
            assert!(
                asked.asked_ns != 0 && asked.probed_ns == 0,
                "{name}: {asked:?}"
            );
        }
        lab.neighbors.events();
        lab.expect("asked", &answer, Reason::NeighborValid);
        assert_eq!(
            told(lab),
            [(EventKind::Answer, E::REPLY | E::SOLICITED, GATEWAY_MAC)]
        );
        lab.expect("failover", &failover, Reason::NeighborValid);
        assert_eq!(told(lab), []);
        let false_one = Nd::advertisement(GATEWAY_V6, true)
            .with_target(CLIENT_MAC)
            .frame();
        lab.expect("false answer", &false_one, Reason::NeighborMismatch);
        let flags = E::REPLY | E::SOLICITED | E::DROPPED;
        assert_eq!(told(lab), [(EventKind::Claim, flags, CLIENT_MAC)]);
    });
}

#[test]
fn whoever_has_the_address_that_we_probe_is_told_of_r_nd_5_c_39() {
    enforcing(|lab| {
        let wanted: Ipv6Addr = "2001:db8::50".parse().unwrap();
        let denial = Nd::advertisement(wanted, false)
            .with_target(CLIENT_MAC)
            .frame();
        lab.expect("unasked", &denial, Reason::NdPass);
        assert_eq!(
            told(lab),
            [(EventKind::Station, NeighborEvent::ANNOUNCEMENT, CLIENT_MAC)]
        );
        let group: Ipv6Addr = "ff02::1:ff00:50".parse().unwrap();
        lab.run_egress(
            &Nd::solicitation_for(ANY, group, wanted)
                .from(SERVER_MAC)
                .frame(),
        );
        let asked = lab.asked(wanted);
        assert!(
            asked.asked_ns != 0 && asked.asked_ns == asked.probed_ns,
            "{asked:?}"
        );
        lab.expect("denied", &denial, Reason::NdPass);
        assert_eq!(
            told(lab),
            [(
                EventKind::ProbeAnswered,
                NeighborEvent::ANNOUNCEMENT,
                CLIENT_MAC
            )]
        );
        // A flood of denials is bounded.
        for n in 0..200 {
            let mac = [2, 0, 0, 0, 7, n];
            lab.run(
                &Nd::advertisement(wanted, false)
                    .with_target(mac)
                    .from(mac)
                    .frame(),
            );
        }
        let count = told(lab).len();
        assert!((45..150).contains(&count), "{count}");
    });
}

#[test]
fn solicitations_are_limited_per_source_r_nd_7_c_40() {
    enforcing(|lab| {
        lab.neighbors.set(|s| s.mac = only(4));
        for n in 0..4 {
            let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, n);
            let nd = Nd::solicitation(src).with_source([2, 0, 0, 0, 1, n as u8]);
            lab.expect("inside", &nd.frame(), Reason::NdPass);
        }
        for (what, nd) in each() {
            if what == "router solicitation" {
                lab.expect("not for us", &nd.frame(), Reason::NdPass);
            } else {
                dropped(lab, what, &nd.frame(), Reason::NdLimit);
            }
        }
        dropped(
            lab,
            "without a claim",
            &Nd::solicitation(ANY).frame(),
            Reason::NdLimit,
        );
        lab.expect(
            "another source",
            &Nd::solicitation(ANY).from(GATEWAY_MAC).frame(),
            Reason::NdPass,
        );
    });
}

#[test]
fn a_protected_neighbours_share_survives_when_all_else_is_used_up_r_nd_7_c_40() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        let known = Nd::solicitation(STRANGER).with_source(CLIENT_MAC);
        lab.expect("told of first", &known.frame(), Reason::NdPass);
        lab.neighbors
            .set(|s| (s.known, s.unknown, s.share) = (only(6), only(3), only(9)));
        let stranger = |n: u8| {
            let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 2, n.into());
            Nd::solicitation(src)
                .from([2, 0, 0, 0, 2, n])
                .with_source([2, 0, 0, 0, 2, n])
        };
        for n in 0..30 {
            let want = if n < 3 {
                Reason::NdPass
            } else {
                Reason::NdLimit
            };
            lab.expect("stranger", &stranger(n).frame(), want);
        }
        for n in 0..10 {
            let want = if n < 6 {
                Reason::NdPass
            } else {
                Reason::NdLimit
            };
            lab.expect("known", &known.frame(), want);
        }
        // Its own source is flooded in its name, and that of its address too.
        lab.neighbors.set(|s| s.mac = only(1));
        for _ in 0..3 {
            lab.run(&Nd::solicitation(ANY).from(GATEWAY_MAC).frame());
            lab.run(&Nd::solicitation(GATEWAY_V6).with_source(CLIENT_MAC).frame());
        }
        for _ in 0..3 {
            for nd in [
                Nd::solicitation(GATEWAY_V6).with_source(GATEWAY_MAC),
                Nd::advertisement(GATEWAY_V6, true).with_target(GATEWAY_MAC),
                Nd::router_advertisement(GATEWAY_V6).with_source(GATEWAY_MAC),
            ] {
                lab.expect(
                    "gateway",
                    &nd.from(GATEWAY_MAC).frame(),
                    Reason::NeighborValid,
                );
            }
        }
        let beyond = Nd::solicitation(GATEWAY_V6)
            .with_source(GATEWAY_MAC)
            .from(GATEWAY_MAC);
        dropped(lab, "beyond", &beyond.frame(), Reason::NdLimit);
    });
}

#[test]
fn what_is_not_for_us_has_a_limit_that_takes_nothing_from_what_is_r_nd_7() {
    enforcing(|lab| {
        lab.neighbors
            .set(|s| (s.mac, s.known, s.unknown) = (only(2), only(5), only(2)));
        let elsewhere =
            Nd::solicitation_for(STRANGER, SOLICITED_NODE, BETTER).with_source(CLIENT_MAC);
        for _ in 0..5 {
            lab.expect("not for us", &elsewhere.frame(), Reason::NdPass);
        }
        dropped(lab, "beyond", &elsewhere.frame(), Reason::NdLimit);
        let ours = Nd::solicitation(ANY).frame();
        for _ in 0..2 {
            lab.expect("for us", &ours, Reason::NdPass);
        }
        dropped(lab, "for us, beyond", &ours, Reason::NdLimit);
    });
}

#[test]
fn a_flood_of_router_advertisements_is_limited_and_the_router_is_not_c_36() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        lab.neighbors.set(|s| s.router = only(5));
        let from = |n: u8| {
            let src = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 3, n.into());
            Nd::router_advertisement(src)
                .from([2, 0, 0, 0, 3, n])
                .frame()
        };
        for n in 0..30 {
            let want = if n < 5 {
                Reason::NdPass
            } else {
                Reason::RaLimit
            };
            lab.expect("flood", &from(n), want);
        }
        dropped(lab, "flood", &from(99), Reason::RaLimit);
        lab.expect(
            "no advertisement of a router",
            &Nd::solicitation(ANY).frame(),
            Reason::NdPass,
        );
        for _ in 0..5 {
            let router = Nd::router_advertisement(GATEWAY_V6)
                .from(GATEWAY_MAC)
                .frame();
            lab.expect("router", &router, Reason::NeighborValid);
        }
    });
}

#[test]
fn a_new_pair_is_told_of_once_and_again_when_it_alternates() {
    enforcing(|lab| {
        use NeighborEvent as E;
        for (nd, flags) in [
            (Nd::solicitation(STRANGER).with_source(CLIENT_MAC), 0),
            (Nd::router_solicitation(STRANGER).with_source(CLIENT_MAC), 0),
            (
                Nd::advertisement(STRANGER, true).with_target(CLIENT_MAC),
                E::REPLY,
            ),
            (
                Nd::advertisement(STRANGER, false).with_target(CLIENT_MAC),
                E::ANNOUNCEMENT,
            ),
            (Nd::router_advertisement(STRANGER), E::ANNOUNCEMENT),
        ] {
            for _ in 0..3 {
                lab.expect("new", &nd.frame(), Reason::NdPass);
            }
            let [event] = lab.neighbors.events()[..] else {
                panic!("one event");
            };
            assert_eq!(
                (event.kind, event.flags),
                (EventKind::Station as u32, flags)
            );
            assert_eq!(event.key, key(STRANGER, 0));
            assert_eq!(event.reason, Reason::NdPass as u32);
            lab.neighbors.forget_seen();
        }
        for mac in [CLIENT_MAC, GATEWAY_MAC, CLIENT_MAC] {
            lab.run(&Nd::advertisement(STRANGER, true).with_target(mac).frame());
            assert_eq!(told(lab), [(EventKind::Station, E::REPLY, mac)]);
        }
        // What claims nothing is nobody.
        for nd in [
            Nd::solicitation(ANY),
            Nd::solicitation(BETTER),
            Nd::router_solicitation(ANY),
        ] {
            lab.expect("no claim", &nd.frame(), Reason::NdPass);
        }
        assert_eq!(told(lab), []);
    });
}

#[test]
fn arp_and_neighbour_discovery_have_modes_of_their_own() {
    use net_tests::frames::neighbor::{Arp, GATEWAY_V4};
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        lab.neighbors.protect(GATEWAY_V6, &[GATEWAY_MAC]);
        let arp = Arp::REQUEST.of(GATEWAY_V4, CLIENT_MAC).frame();
        let nd = Nd::solicitation(GATEWAY_V6).with_source(CLIENT_MAC).frame();
        let why = Reason::NeighborMismatch;
        use NeighborSettings as S;
        lab.neighbors.set_flag(S::ARP_ENFORCE, false);
        lab.expect_observed("ARP", &arp, why);
        lab.expect("NDP", &nd, why);
        lab.neighbors
            .set(|s| s.flags = S::ARP | S::ARP_ENFORCE | S::NDP);
        lab.expect("ARP", &arp, why);
        lab.expect_observed("NDP", &nd, why);
        lab.neighbors.set(|s| s.flags = S::NDP | S::NDP_ENFORCE);
        lab.expect("ARP", &arp, Reason::NoRule);
        lab.expect("NDP", &nd, why);
    });
}
