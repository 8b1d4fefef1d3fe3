//! The ARP guard (R-ARP-1 to R-ARP-9) through the loaded programs.

use std::net::Ipv4Addr;

use net_common::{
    abi::{ASKED_NS, Asked, Binding, NeighborEvent, NeighborSettings},
    guard::neighbor::EventKind,
    units::Mac,
    verdict::Reason,
};
use net_tests::{
    frames::{
        CLIENT_MAC, CLIENT_V4, SERVER_MAC, SERVER_V4,
        neighbor::{Arp, BROADCAST, GATEWAY_MAC, GATEWAY_V4, Tags, VIRTUAL_MAC},
    },
    prog_run::{
        Lab, coarse_ns, in_namespace,
        neighbors::{Guard, key, only},
    },
};

const Q: u16 = 0x8100;
const AD: u16 = 0x88a8;

/// Tags, and the VLAN that a binding behind them is keyed by.
const TAGS: &[(&str, Tags, u16)] = &[
    ("untagged", &[], 0),
    ("802.1Q", &[(Q, 5)], 5),
    ("802.1ad", &[(AD, 4094)], 4094),
    ("QinQ", &[(AD, 4094), (Q, 5)], 5),
    ("priority tag", &[(Q, 0)], 0),
    ("priority tag in a service tag", &[(AD, 7), (Q, 0)], 7),
    ("VLAN in a priority tag", &[(Q, 0), (Q, 5)], 5),
];

/// Someone asks for an address that is not ours.
const ELSEWHERE: Arp = Arp {
    target: Ipv4Addr::new(192, 0, 2, 33),
    ..Arp::REQUEST
};
/// Someone wants our address.
const PROBE_FOR_US: Arp = Arp {
    target: SERVER_V4,
    ..Arp::PROBE
};

/// The gateway's frames.
fn gateway(arp: Arp) -> Arp {
    arp.of(GATEWAY_V4, GATEWAY_MAC)
}

/// Someone else's, that claim the gateway's address.
fn spoofed(arp: Arp) -> Arp {
    arp.of(GATEWAY_V4, CLIENT_MAC)
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
    lab.expect_dropped(Guard::Arp, what, frame, reason);
}

/// The kinds, flags and link-layer addresses of what was told.
fn told(lab: &mut Lab) -> Vec<(EventKind, u32, [u8; 6])> {
    let plain = |event: NeighborEvent| {
        let kind = EventKind::from_number(event.kind).expect("a kind");
        (kind, event.flags, Mac(event.mac).octets())
    };
    lab.neighbors.events().into_iter().map(plain).collect()
}

const HONEST: &[(&str, Arp)] = &[
    ("request", Arp::REQUEST),
    (
        "unicast request",
        Arp {
            destination: SERVER_MAC,
            ..Arp::REQUEST
        },
    ),
    ("reply", Arp::REPLY),
    (
        "broadcast reply",
        Arp {
            destination: BROADCAST,
            ..Arp::REPLY
        },
    ),
    ("probe (R-ARP-4)", Arp::PROBE),
    ("announcement (R-ARP-7)", Arp::ANNOUNCEMENT),
    (
        "announcement in reply form (R-ARP-7)",
        Arp {
            reply: true,
            target_mac: CLIENT_MAC,
            ..Arp::ANNOUNCEMENT
        },
    ),
    (
        "VRRP's reply (R-ARP-3)",
        Arp {
            sender_mac: VIRTUAL_MAC,
            ..Arp::REPLY
        },
    ),
    (
        "request without padding",
        Arp {
            padding: 0,
            ..Arp::REQUEST
        },
    ),
    (
        "request with much padding",
        Arp {
            padding: 1400,
            ..Arp::REQUEST
        },
    ),
];

#[test]
fn honest_arp_passes_whatever_the_tags_and_the_mode_r_arp_1_c_27_c_28() {
    enforcing(|lab| {
        for (name, tags, _) in TAGS {
            for (what, arp) in HONEST {
                let what = format!("{what}, {name}");
                let ran = lab.expect(&what, &arp.tagged(tags).frame(), Reason::ArpPass);
                // R-ARP-3: told apart, and nothing else.
                let odd = arp.source != arp.sender_mac;
                assert_eq!(ran.notes.contains(&Reason::ArpSourceMac), odd, "{what}");
            }
        }
        let mut other_hardware = Arp::REQUEST.frame();
        other_hardware[15] = 6;
        lab.expect("hardware type 6", &other_hardware, Reason::ArpPass);
        lab.neighbors.set_flag(NeighborSettings::ARP_ENFORCE, false);
        for (what, arp) in HONEST {
            lab.expect(what, &arp.frame(), Reason::ArpPass);
        }
        lab.neighbors.set_flag(NeighborSettings::ARP, false);
        for (what, arp) in HONEST {
            assert_eq!(
                lab.expect(what, &arp.frame(), Reason::NoRule).notes,
                [],
                "off"
            );
        }
    });
}

#[test]
fn three_tags_are_beyond_the_parser_r_gen_2() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        let tags: Tags = &[(Q, 5), (Q, 6), (Q, 7)];
        let frame = spoofed(Arp::REQUEST).tagged(tags).frame();
        lab.expect("three tags", &frame, Reason::ParserLimit);
    });
}

#[test]
fn nothing_hides_behind_stacked_priority_tags() {
    // Linux peels priority tags off in any number: an ARP spoof behind three of them would be believed.
    const STACKS: [Tags; 4] = [
        &[(Q, 0), (Q, 0), (Q, 0)],
        &[(Q, 0), (Q, 0), (Q, 0), (Q, 0), (Q, 0)],
        &[(Q, 0), (Q, 5), (Q, 6)],
        &[(AD, 5), (Q, 6), (Q, 0)],
    ];
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        for tags in STACKS {
            let frame = spoofed(Arp::REQUEST).tagged(tags).frame();
            let (what, reason) = (format!("{tags:?}"), Reason::StackedPriorityTags);
            lab.expect(&what, &frame, reason);
            for guard in [Guard::Arp, Guard::Ndp] {
                lab.neighbors.set_flag(guard.enforces(), false);
            }
            lab.expect_observed(&what, &frame, reason);
            for guard in [Guard::Arp, Guard::Ndp] {
                lab.neighbors.set_flag(guard.on(), false);
            }
            lab.expect(&what, &frame, Reason::ParserLimit);
            for guard in [Guard::Arp, Guard::Ndp] {
                lab.neighbors.set_flag(guard.on() | guard.enforces(), true);
            }
        }
        // One priority tag is what switches send, and two are read.
        const READ: [Tags; 2] = [&[(Q, 0)], &[(Q, 0), (Q, 0)]];
        for tags in READ {
            let frame = spoofed(Arp::REQUEST).tagged(tags).frame();
            lab.expect("within the parser", &frame, Reason::NeighborMismatch);
        }
    });
}

#[test]
fn malformed_arp_is_dropped_r_arp_1_c_32() {
    enforcing(|lab| {
        let table: &[(&str, usize, &[u8])] = &[
            ("hardware type 0", 0, &[0, 0]),
            ("hardware type 7", 0, &[0, 7]),
            ("protocol IPv6", 2, &[0x86, 0xdd]),
            ("a link-layer address of 8", 4, &[8]),
            ("no link-layer address", 4, &[0]),
            ("an address of 16", 5, &[16]),
            ("operation 0", 6, &[0, 0]),
            ("RARP", 6, &[0, 3]),
            ("operation 257", 6, &[1, 1]),
        ];
        for (name, tags, _) in [TAGS[0], TAGS[3]] {
            for (what, at, octets) in table {
                let mut frame = Arp::REQUEST.tagged(tags).frame();
                let at = 14 + 4 * tags.len() + at;
                frame[at..at + octets.len()].copy_from_slice(octets);
                dropped(
                    lab,
                    &format!("{what}, {name}"),
                    &frame,
                    Reason::ArpMalformed,
                );
            }
        }
        assert_eq!(told(lab), [], "nothing is told of what says nothing");
    });
}

#[test]
fn arp_cut_anywhere_is_dropped_r_arp_1() {
    enforcing(|lab| {
        for (name, tags, _) in [TAGS[0], TAGS[1], TAGS[3]] {
            let frame = Arp {
                padding: 0,
                ..Arp::REPLY.tagged(tags)
            }
            .frame();
            let l3 = 14 + 4 * tags.len();
            for len in 14..frame.len() {
                let want = if len < l3 {
                    Reason::ParserLimit
                } else {
                    Reason::ArpMalformed
                };
                lab.expect(&format!("{len}, {name}"), &frame[..len], want);
            }
            dropped(lab, name, &frame[..l3 + 27], Reason::ArpMalformed);
            lab.expect(name, &frame, Reason::ArpPass);
        }
    });
}

#[test]
fn impossible_senders_are_dropped_r_arp_2() {
    enforcing(|lab| {
        for sender in [[224, 0, 0, 1], [239, 9, 9, 9], [255; 4], [127, 0, 0, 1]] {
            for arp in [Arp::REQUEST, Arp::REPLY, Arp::ANNOUNCEMENT] {
                let frame = arp.of(sender.into(), CLIENT_MAC).frame();
                dropped(lab, &format!("{sender:?}"), &frame, Reason::ArpSender);
            }
        }
        for sender in [
            [126, 255, 255, 255],
            [128, 0, 0, 1],
            [223, 0, 0, 1],
            [240, 0, 0, 1],
        ] {
            let frame = Arp::REQUEST.of(sender.into(), CLIENT_MAC).frame();
            lab.expect(&format!("{sender:?}"), &frame, Reason::ArpPass);
        }
    });
}

#[test]
fn a_group_as_sender_is_dropped_unless_a_binding_names_it_r_arp_2() {
    let group = [0x03, 0xbf, 192, 0, 2, 254];
    enforcing(|lab| {
        let frames = [Arp::REQUEST, Arp::REPLY, Arp::ANNOUNCEMENT].map(|arp| {
            Arp {
                sender_mac: group,
                ..gateway(arp)
            }
            .frame()
        });
        for frame in &frames {
            dropped(lab, "no binding", frame, Reason::ArpSender);
        }
        lab.neighbors
            .protect(GATEWAY_V4, &[GATEWAY_MAC, VIRTUAL_MAC]);
        for frame in &frames {
            dropped(lab, "another's binding", frame, Reason::ArpSender);
        }
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC, group]);
        lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
        for frame in &frames {
            let ran = lab.expect("named", frame, Reason::NeighborValid);
            assert_eq!(ran.notes, [Reason::ArpSourceMac]);
        }
        lab.neighbors.unbind(key(GATEWAY_V4, 0));
        dropped(lab, "unbound", &frames[0], Reason::ArpSender);
    });
}

#[test]
fn each_chosen_check_drops_its_fault_r_arp_2_r_arp_3() {
    use NeighborSettings as S;
    enforcing(|lab| {
        let reply = Arp::REPLY;
        let table: &[(&str, u32, Arp)] = &[
            (
                "source",
                S::ARP_SRC_MAC,
                Arp {
                    sender_mac: VIRTUAL_MAC,
                    ..reply
                },
            ),
            (
                "source of a request",
                S::ARP_SRC_MAC,
                Arp::REQUEST.from(GATEWAY_MAC),
            ),
            (
                "destination",
                S::ARP_DST_MAC,
                Arp {
                    destination: BROADCAST,
                    ..reply
                },
            ),
            (
                "to nobody",
                S::ARP_IP,
                Arp {
                    target: Ipv4Addr::UNSPECIFIED,
                    ..reply
                },
            ),
            (
                "from nobody",
                S::ARP_IP,
                Arp {
                    sender: Ipv4Addr::UNSPECIFIED,
                    ..reply
                },
            ),
            (
                "to all",
                S::ARP_IP,
                Arp {
                    target: Ipv4Addr::BROADCAST,
                    ..reply
                },
            ),
            (
                "to a group",
                S::ARP_IP,
                Arp {
                    target: [224, 0, 0, 1].into(),
                    ..reply
                },
            ),
        ];
        let checks = [S::ARP_SRC_MAC, S::ARP_DST_MAC, S::ARP_IP];
        for (what, fault, arp) in table {
            lab.expect(what, &arp.frame(), Reason::ArpPass);
            for check in checks {
                lab.neighbors.set_flag(check, true);
                if check == *fault {
                    dropped(lab, what, &arp.frame(), Reason::ArpValidate);
                } else {
                    lab.expect(what, &arp.frame(), Reason::ArpPass);
                }
                for honest in [Arp::REQUEST, reply, Arp::PROBE, Arp::ANNOUNCEMENT] {
                    lab.expect("honest (R-ARP-4)", &honest.frame(), Reason::ArpPass);
                }
                lab.neighbors.set_flag(check, false);
            }
            lab.expect(what, &arp.frame(), Reason::ArpPass);
        }
    });
}

#[test]
fn a_protected_address_is_held_to_its_binding_by_every_carrier_r_arp_6_c_29_c_30() {
    enforcing(|lab| {
        let reply_form = Arp {
            reply: true,
            target_mac: CLIENT_MAC,
            ..Arp::ANNOUNCEMENT
        };
        let carriers = [
            ("request", Arp::REQUEST, 0),
            ("reply", Arp::REPLY, NeighborEvent::REPLY),
            (
                "announcement",
                Arp::ANNOUNCEMENT,
                NeighborEvent::ANNOUNCEMENT,
            ),
            (
                "announcement in reply form",
                reply_form,
                NeighborEvent::ANNOUNCEMENT,
            ),
        ];
        for (what, arp, _) in carriers {
            lab.expect(what, &spoofed(arp).frame(), Reason::ArpPass);
        }
        lab.neighbors.events();
        lab.neighbors
            .protect(GATEWAY_V4, &[GATEWAY_MAC, VIRTUAL_MAC]);
        for (what, arp, flags) in carriers {
            let claims = [
                ("of a stranger", spoofed(arp)),
                (
                    "in the gateway's frame",
                    Arp {
                        sender_mac: CLIENT_MAC,
                        ..gateway(arp)
                    },
                ),
            ];
            for (whose, arp) in claims {
                let what = format!("{what} {whose}");
                let frame = arp.frame();
                lab.expect(&what, &frame, Reason::NeighborMismatch);
                let [event] = lab.neighbors.events()[..] else {
                    panic!("{what}: one event");
                };
                assert_eq!(event.kind, EventKind::Claim as u32, "{what}");
                assert_eq!(event.flags, flags | NeighborEvent::DROPPED, "{what}");
                assert_eq!(event.reason, Reason::NeighborMismatch as u32, "{what}");
                assert_eq!(event.key, key(GATEWAY_V4, 0), "{what}");
                assert_eq!(Mac(event.mac).octets(), CLIENT_MAC, "{what}");
                assert_eq!(Mac(event.source).octets(), arp.source, "{what}");
                assert_eq!(event.frame[..event.len as usize], frame, "{what}");
                dropped(lab, &what, &frame, Reason::NeighborMismatch);
                lab.neighbors.events();
            }
        }
        let none = Arp {
            sender_mac: [0; 6],
            ..gateway(Arp::ANNOUNCEMENT)
        };
        dropped(
            lab,
            "no address at all",
            &none.frame(),
            Reason::NeighborMismatch,
        );
        // The holder, by each of its addresses, and others' addresses are none the worse.
        lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
        for (what, arp, _) in carriers {
            lab.expect(what, &gateway(arp).frame(), Reason::NeighborValid);
            let virtual_one = Arp {
                sender_mac: VIRTUAL_MAC,
                ..gateway(arp)
            };
            let ran = lab.expect(what, &virtual_one.frame(), Reason::NeighborValid);
            assert_eq!(ran.notes, [Reason::ArpSourceMac], "{what} (R-ARP-3)");
            lab.expect(what, &arp.frame(), Reason::ArpPass);
            // R-ARP-10: many addresses at one link-layer address are nothing odd.
            let proxied = arp.of([192, 0, 2, 77].into(), GATEWAY_MAC);
            lab.expect(what, &proxied.frame(), Reason::ArpPass);
        }
        lab.expect(
            "probe for it",
            &Arp {
                target: GATEWAY_V4,
                ..Arp::PROBE
            }
            .frame(),
            Reason::ArpPass,
        );
        lab.neighbors.unbind(key(GATEWAY_V4, 0));
        for (what, arp, _) in carriers {
            lab.expect(what, &spoofed(arp).frame(), Reason::ArpPass);
        }
    });
}

#[test]
fn a_binding_is_keyed_by_vlan_and_interface_r_arp_6_c_27() {
    enforcing(|lab| {
        for (name, _, vlan) in TAGS {
            lab.neighbors
                .bind(key(GATEWAY_V4, *vlan), &[GATEWAY_MAC], Binding::PROTECTED);
            for (other, others, other_vlan) in TAGS {
                let frame = spoofed(Arp::REQUEST).tagged(others).frame();
                let what = format!("binding {name}, frame {other}");
                if vlan == other_vlan {
                    dropped(lab, &what, &frame, Reason::NeighborMismatch);
                    let event = lab.neighbors.events().pop().expect("an event");
                    assert_eq!(event.key, key(GATEWAY_V4, *vlan), "{what}");
                } else {
                    lab.expect(&what, &frame, Reason::ArpPass);
                }
                let frame = gateway(Arp::REQUEST).tagged(others).frame();
                let honest = if vlan == other_vlan {
                    Reason::NeighborValid
                } else {
                    Reason::ArpPass
                };
                lab.expect(&what, &frame, honest);
            }
            lab.neighbors.unbind(key(GATEWAY_V4, *vlan));
        }
        let mut elsewhere = key(GATEWAY_V4, 0);
        elsewhere.ifindex = 2;
        lab.neighbors
            .bind(elsewhere, &[GATEWAY_MAC], Binding::PROTECTED);
        lab.expect(
            "another interface's",
            &spoofed(Arp::REQUEST).frame(),
            Reason::ArpPass,
        );
    });
}

#[test]
fn a_learned_binding_needs_a_live_agent_and_a_pinned_one_does_not() {
    enforcing(|lab| {
        let spoof = spoofed(Arp::ANNOUNCEMENT).frame();
        let reply = gateway(Arp::REPLY).frame();
        for flags in [Binding::PROTECTED, Binding::PROTECTED | Binding::ROUTER] {
            lab.neighbors
                .bind(key(GATEWAY_V4, 0), &[GATEWAY_MAC], flags);
            lab.expect("learned, alive", &spoof, Reason::NeighborMismatch);
            lab.expect("learned, alive", &reply, Reason::ArpUnsolicited);
            lab.neighbors.stale();
            lab.expect_observed("learned, stale", &spoof, Reason::NeighborMismatch);
            lab.expect_observed("learned, stale", &reply, Reason::ArpUnsolicited);
            lab.neighbors.beat(0);
            lab.expect_observed("learned, never alive", &spoof, Reason::NeighborMismatch);
            // Sanity needs nobody.
            let mut malformed = spoof.clone();
            malformed[15] = 9;
            lab.expect("stale", &malformed, Reason::ArpMalformed);
            lab.neighbors.beat(coarse_ns());
            lab.expect("learned, back", &spoof, Reason::NeighborMismatch);
        }
        lab.neighbors.events();
        let pinned = Binding::PROTECTED | Binding::PINNED;
        lab.neighbors
            .bind(key(GATEWAY_V4, 0), &[GATEWAY_MAC], pinned);
        lab.neighbors.stale();
        lab.expect("pinned, stale", &spoof, Reason::NeighborMismatch);
        lab.expect("pinned, stale", &reply, Reason::ArpUnsolicited);
        dropped(lab, "pinned, stale", &spoof, Reason::NeighborMismatch);
    });
}

#[test]
fn a_claim_to_our_own_address_is_noted_and_told_and_passes_r_arp_5() {
    enforcing(|lab| {
        lab.neighbors
            .bind(key(SERVER_V4, 0), &[SERVER_MAC, VIRTUAL_MAC], Binding::OWN);
        for arp in [Arp::REQUEST, Arp::REPLY, Arp::ANNOUNCEMENT] {
            let frame = arp.of(SERVER_V4, CLIENT_MAC).frame();
            let ran = lab.expect("foreign", &frame, Reason::ArpPass);
            assert_eq!(ran.notes, [Reason::OwnAddressClaimed]);
            let events = told(lab);
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!(
                (events[0].0, events[0].2),
                (EventKind::OwnClaim, CLIENT_MAC)
            );
            for mac in [SERVER_MAC, VIRTUAL_MAC] {
                let ran = lab.expect("looped", &arp.of(SERVER_V4, mac).frame(), Reason::ArpPass);
                assert_eq!(ran.notes, []);
                assert_eq!(told(lab), []);
            }
        }
        // Pinned or not, our own address is never defended by dropping (userspace defends it, RFC 5227).
        let all = Binding::OWN | Binding::PROTECTED | Binding::PINNED;
        lab.neighbors.bind(key(SERVER_V4, 0), &[SERVER_MAC], all);
        let frame = Arp::REPLY.of(SERVER_V4, CLIENT_MAC).frame();
        lab.expect("foreign, pinned", &frame, Reason::ArpPass);
        // The flood of them is told five times a second.
        for _ in 0..50 {
            lab.run(&frame);
        }
        let count = told(lab).len();
        assert!((1..=20).contains(&count), "{count}");
    });
}

#[test]
fn a_reply_passes_only_when_this_host_asked_for_that_address_r_arp_8() {
    enforcing(|lab| {
        let other = Ipv4Addr::new(192, 0, 2, 253);
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        lab.neighbors.protect(other, &[GATEWAY_MAC]);
        let reply = gateway(Arp::REPLY).frame();
        let others = Arp::REPLY.of(other, GATEWAY_MAC).frame();
        dropped(lab, "unsolicited", &reply, Reason::ArpUnsolicited);
        assert_eq!(
            told(lab),
            [],
            "what is dropped as unsolicited claims nothing false"
        );
        lab.expect("unprotected", &Arp::REPLY.frame(), Reason::ArpPass);
        // What is no request for it opens nothing.
        for arp in [
            Arp::REQUEST.of(GATEWAY_V4, SERVER_MAC),
            Arp {
                reply: true,
                ..Arp::asks_for(GATEWAY_V4)
            },
            Arp::ANNOUNCEMENT.of(GATEWAY_V4, SERVER_MAC),
            Arp::asks_for(CLIENT_V4),
        ] {
            lab.run_egress(&arp.frame());
            lab.expect("still", &reply, Reason::ArpUnsolicited);
        }
        assert_eq!(lab.asked(GATEWAY_V4).asked_ns, 0);
        lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
        let asked = lab.asked(GATEWAY_V4);
        assert!(asked.asked_ns != 0 && asked.probed_ns == 0, "{asked:?}");
        lab.neighbors.events();
        lab.expect("solicited", &reply, Reason::NeighborValid);
        let flags = NeighborEvent::REPLY | NeighborEvent::SOLICITED;
        assert_eq!(told(lab), [(EventKind::Answer, flags, GATEWAY_MAC)]);
        dropped(lab, "for another address", &others, Reason::ArpUnsolicited);
        lab.expect("and again", &reply, Reason::NeighborValid);
        // Requests and announcements from the set need no asking: a failover (C-34).
        for arp in [Arp::REQUEST, Arp::ANNOUNCEMENT] {
            lab.expect(
                "unasked",
                &arp.of(other, GATEWAY_MAC).frame(),
                Reason::NeighborValid,
            );
        }
        // 3 s later it is over.
        let now = coarse_ns();
        for (ago, want) in [
            (ASKED_NS - 1_000_000_000, Reason::NeighborValid),
            (ASKED_NS, Reason::ArpUnsolicited),
        ] {
            let asked_ns = now - ago;
            lab.set_asked(
                GATEWAY_V4,
                Asked {
                    asked_ns,
                    probed_ns: 0,
                },
            );
            lab.expect("later", &reply, want);
        }
        // A false answer to what was asked is a claim like others, and told as a candidate.
        lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
        lab.neighbors.events();
        lab.expect(
            "false answer",
            &spoofed(Arp::REPLY).frame(),
            Reason::NeighborMismatch,
        );
        let flags = flags | NeighborEvent::DROPPED;
        assert_eq!(told(lab), [(EventKind::Claim, flags, CLIENT_MAC)]);
    });
}

#[test]
fn requests_are_noted_whatever_the_tags_and_probes_as_such_r_arp_4_r_arp_8() {
    enforcing(|lab| {
        for (n, (name, tags, _)) in TAGS.iter().enumerate() {
            let target = Ipv4Addr::new(192, 0, 2, 100 + n as u8);
            lab.run_egress(&Arp::asks_for(target).tagged(tags).frame());
            let asked = lab.asked(target);
            assert!(
                asked.asked_ns != 0 && asked.probed_ns == 0,
                "{name}: {asked:?}"
            );
            let probed = Ipv4Addr::new(192, 0, 2, 200 + n as u8);
            let probe = Arp {
                target: probed,
                ..Arp::PROBE.from(SERVER_MAC)
            };
            lab.run_egress(&probe.tagged(tags).frame());
            let asked = lab.asked(probed);
            assert!(
                asked.asked_ns == asked.probed_ns && asked.asked_ns != 0,
                "{name}: {asked:?}"
            );
        }
        // Off: nothing is noted, for nothing is judged.
        lab.neighbors.set(|s| s.flags = 0);
        let target = Ipv4Addr::new(192, 0, 2, 99);
        lab.run_egress(&Arp::asks_for(target).frame());
        assert_eq!(lab.asked(target), Asked::default());
    });
}

#[test]
fn whoever_has_the_address_that_we_probe_is_told_of_r_arp_4() {
    enforcing(|lab| {
        let wanted = Ipv4Addr::new(192, 0, 2, 50);
        let answer = Arp {
            target: Ipv4Addr::UNSPECIFIED,
            ..Arp::REPLY.of(wanted, CLIENT_MAC)
        };
        lab.expect("unasked", &answer.frame(), Reason::ArpPass);
        let station = (EventKind::Station, NeighborEvent::REPLY, CLIENT_MAC);
        assert_eq!(told(lab), [station]);
        lab.run_egress(
            &Arp {
                target: wanted,
                ..Arp::PROBE.from(SERVER_MAC)
            }
            .frame(),
        );
        for arp in [answer, Arp::ANNOUNCEMENT.of(wanted, CLIENT_MAC)] {
            lab.expect("in use", &arp.frame(), Reason::ArpPass);
            let events = told(lab);
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!(
                (events[0].0, events[0].2),
                (EventKind::ProbeAnswered, CLIENT_MAC)
            );
        }
        // Another's probe for it claims nothing.
        lab.expect(
            "another's probe",
            &Arp {
                target: wanted,
                ..Arp::PROBE
            }
            .frame(),
            Reason::ArpPass,
        );
        assert_eq!(told(lab), []);
    });
}

#[test]
fn announcements_have_a_limit_of_their_own_r_arp_7() {
    enforcing(|lab| {
        lab.neighbors.set(|s| s.announce = only(3));
        let reply_form = Arp {
            reply: true,
            target_mac: CLIENT_MAC,
            ..Arp::ANNOUNCEMENT
        };
        for arp in [Arp::ANNOUNCEMENT, reply_form, Arp::ANNOUNCEMENT] {
            lab.expect("inside", &arp.frame(), Reason::ArpPass);
        }
        for arp in [Arp::ANNOUNCEMENT, reply_form] {
            dropped(lab, "beyond", &arp.frame(), Reason::ArpAnnounceLimit);
        }
        // Another address at the same source shares; another source does not; nor does what is no announcement.
        let shares = Arp::ANNOUNCEMENT.of([192, 0, 2, 8].into(), CLIENT_MAC);
        dropped(
            lab,
            "another address",
            &shares.frame(),
            Reason::ArpAnnounceLimit,
        );
        lab.expect(
            "another source",
            &gateway(Arp::ANNOUNCEMENT).frame(),
            Reason::ArpPass,
        );
        for arp in [Arp::REQUEST, Arp::REPLY, Arp::PROBE] {
            lab.expect("no announcement", &arp.frame(), Reason::ArpPass);
        }
        // A protected neighbour's failover draws on its own share.
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        for _ in 0..10 {
            lab.expect(
                "protected",
                &gateway(Arp::ANNOUNCEMENT).frame(),
                Reason::NeighborValid,
            );
        }
    });
}

#[test]
fn frames_are_limited_per_source_r_arp_9_c_31() {
    enforcing(|lab| {
        lab.neighbors.set(|s| s.mac = only(5));
        for n in 0..5 {
            // The Ethernet source counts, not what the packet says.
            let arp = Arp::REQUEST.of([192, 0, 2, 60 + n].into(), [2, 0, 0, 0, 1, n]);
            lab.expect("inside", &arp.from(CLIENT_MAC).frame(), Reason::ArpPass);
        }
        for arp in [Arp::REQUEST, Arp::REPLY, PROBE_FOR_US] {
            dropped(lab, "beyond", &arp.frame(), Reason::ArpLimit);
        }
        for arp in [ELSEWHERE, Arp::PROBE, Arp::ANNOUNCEMENT] {
            lab.expect("not for us", &arp.frame(), Reason::ArpPass);
        }
        lab.expect(
            "another source",
            &gateway(Arp::REQUEST).frame(),
            Reason::ArpPass,
        );
        let forged = Arp::REQUEST.from(GATEWAY_MAC).frame();
        lab.expect("under another's source", &forged, Reason::ArpPass);
    });
}

#[test]
fn strangers_share_a_limit_that_leaves_known_neighbours_and_answers_alone_r_arp_9_c_31() {
    enforcing(|lab| {
        let known = Arp::REQUEST.of([192, 0, 2, 7].into(), [2, 0, 0, 0, 0, 7]);
        lab.expect("told of first", &known.frame(), Reason::ArpPass);
        lab.neighbors.set(|s| s.unknown = only(10));
        let mut passed = 0;
        for n in 0..60 {
            let arp = Arp::REQUEST.of([10, 0, 0, n].into(), [2, 0, 0, 1, 0, n]);
            let ran = lab.run(&arp.frame());
            passed += u32::from(ran.reason == Reason::ArpPass);
        }
        assert_eq!(passed, 10);
        let stranger = Arp::REQUEST.of([10, 0, 0, 99].into(), [2, 0, 0, 1, 0, 99]);
        lab.expect("stranger", &stranger.frame(), Reason::ArpLimit);
        lab.expect(
            "probe",
            &PROBE_FOR_US.from([2, 0, 0, 1, 0, 98]).frame(),
            Reason::ArpLimit,
        );
        for _ in 0..20 {
            lab.expect("known", &known.frame(), Reason::ArpPass);
        }
        let elsewhere = known.of([192, 0, 2, 7].into(), [2, 0, 0, 0, 0, 8]);
        lab.expect(
            "known address, new source",
            &elsewhere.frame(),
            Reason::ArpLimit,
        );
        // An answer to what we asked, though its sender was never seen.
        let sender = Ipv4Addr::new(10, 0, 0, 120);
        let answer = Arp::REPLY.of(sender, [2, 0, 0, 1, 0, 120]).frame();
        lab.expect("nobody asked", &answer, Reason::ArpLimit);
        lab.run_egress(&Arp::asks_for(sender).frame());
        lab.expect("asked", &answer, Reason::ArpPass);
        // In observe mode it passes, and so is known from then on.
        lab.neighbors.set_flag(NeighborSettings::ARP_ENFORCE, false);
        lab.expect_observed("observed", &stranger.frame(), Reason::ArpLimit);
        lab.neighbors.set_flag(NeighborSettings::ARP_ENFORCE, true);
        lab.expect("known", &stranger.frame(), Reason::ArpPass);
    });
}

#[test]
fn what_is_not_for_us_has_a_limit_that_takes_nothing_from_what_is_r_arp_9() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        let asks = gateway(ELSEWHERE).frame();
        let strangers = ELSEWHERE.frame();
        lab.neighbors
            .set(|s| (s.known, s.mac, s.unknown, s.share) = (only(9), only(2), only(2), only(2)));
        // A router that is scanned through asks for all of its network; announcements and probes are like that.
        for _ in 0..8 {
            lab.expect("gateway", &asks, Reason::NeighborValid);
            lab.expect("stranger", &strangers, Reason::ArpPass);
        }
        lab.expect("announcement", &Arp::ANNOUNCEMENT.frame(), Reason::ArpPass);
        for arp in [ELSEWHERE, Arp::ANNOUNCEMENT, Arp::PROBE] {
            dropped(lab, "beyond", &arp.frame(), Reason::ArpLimit);
        }
        // A protected neighbour has what is left to its own source.
        lab.expect("gateway, beyond", &asks, Reason::NeighborValid);
        for _ in 0..2 {
            lab.expect(
                "gateway, for us",
                &gateway(Arp::REQUEST).frame(),
                Reason::NeighborValid,
            );
            lab.expect("stranger, for us", &Arp::REPLY.frame(), Reason::ArpPass);
        }
        for _ in 0..2 {
            lab.expect(
                "gateway, from the common shares",
                &gateway(Arp::REQUEST).frame(),
                Reason::NeighborValid,
            );
        }
        dropped(
            lab,
            "gateway, for us",
            &gateway(Arp::REQUEST).frame(),
            Reason::ArpLimit,
        );
        dropped(
            lab,
            "stranger, for us",
            &Arp::REPLY.frame(),
            Reason::ArpLimit,
        );
    });
}

#[test]
fn a_protected_neighbours_share_survives_when_all_else_is_used_up_r_arp_9_c_31() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        lab.neighbors.set(|s| {
            (s.mac, s.announce, s.known, s.unknown) = (only(4), only(2), only(3), only(2));
            s.share = only(8);
        });
        // Under the gateway's own Ethernet source, so that its cell of the limit per source is empty too.
        for n in 0..20 {
            let arp = [Arp::REQUEST, Arp::ANNOUNCEMENT][usize::from(n) % 2];
            lab.run(&arp.of([10, 0, 0, n].into(), GATEWAY_MAC).frame());
            lab.run(&arp.of([10, 0, 1, n].into(), [2, 0, 0, 1, 0, n]).frame());
        }
        for _ in 0..5 {
            lab.run(&Arp::REQUEST.of([10, 0, 0, 0].into(), GATEWAY_MAC).frame());
        }
        let stranger = Arp::REQUEST.frame();
        lab.expect("stranger", &stranger, Reason::ArpLimit);
        // Nor can one who claims its address, or answers in its name unasked, take from its share.
        for _ in 0..50 {
            lab.expect(
                "claim",
                &spoofed(Arp::REQUEST).frame(),
                Reason::NeighborMismatch,
            );
            lab.expect(
                "unasked",
                &gateway(Arp::REPLY).frame(),
                Reason::ArpUnsolicited,
            );
        }
        lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
        for _ in 0..4 {
            for arp in [Arp::REPLY, Arp::REQUEST, Arp::ANNOUNCEMENT] {
                lab.expect("gateway", &gateway(arp).frame(), Reason::NeighborValid);
            }
        }
        // It is a share, and has an end; but not the answer that we wait for.
        dropped(
            lab,
            "beyond",
            &gateway(Arp::REQUEST).frame(),
            Reason::ArpLimit,
        );
        lab.expect(
            "answer",
            &gateway(Arp::REPLY).frame(),
            Reason::NeighborValid,
        );
    });
}

#[test]
fn a_new_pair_is_told_of_once_and_again_when_it_alternates() {
    enforcing(|lab| {
        let station = |flags, mac| (EventKind::Station, flags, mac);
        for (arp, flags) in [
            (Arp::REQUEST, 0),
            (Arp::REPLY, NeighborEvent::REPLY),
            (Arp::ANNOUNCEMENT, NeighborEvent::ANNOUNCEMENT),
        ] {
            let frame = arp.frame();
            for _ in 0..3 {
                lab.expect("new", &frame, Reason::ArpPass);
            }
            let [event] = lab.neighbors.events()[..] else {
                panic!("one event");
            };
            assert_eq!(event.kind, EventKind::Station as u32);
            assert_eq!(event.flags, flags);
            assert_eq!(event.reason, Reason::ArpPass as u32);
            assert_eq!(event.key, key(CLIENT_V4, 0));
            assert_eq!(event.frame[..event.len as usize], frame);
            assert!(event.time_ns <= coarse_ns() && event.time_ns != 0);
            lab.neighbors.forget_seen();
        }
        // Flip-flop, and the same address on another VLAN.
        for _ in 0..2 {
            for mac in [CLIENT_MAC, GATEWAY_MAC] {
                lab.run(&Arp::REQUEST.of(CLIENT_V4, mac).frame());
                assert_eq!(told(lab), [station(0, mac)]);
            }
        }
        lab.run(&Arp::REQUEST.tagged(&[(Q, 5)]).frame());
        let [event] = lab.neighbors.events()[..] else {
            panic!("one event");
        };
        assert_eq!(event.key, key(CLIENT_V4, 5));
        // No pair: a probe, and no link-layer address.
        lab.run(&Arp::PROBE.frame());
        lab.run(&Arp::REQUEST.of([10, 9, 9, 9].into(), [0; 6]).frame());
        assert_eq!(told(lab), []);
        // What is dropped for its limit is not told of, and so stays unknown.
        lab.neighbors.set(|s| s.unknown = only(1));
        lab.run(&Arp::REQUEST.of([10, 9, 9, 1].into(), CLIENT_MAC).frame());
        lab.neighbors.events();
        lab.run(&Arp::REQUEST.of([10, 9, 9, 2].into(), CLIENT_MAC).frame());
        assert_eq!(told(lab), []);
    });
}

#[test]
fn a_frame_longer_than_an_event_is_cut_off_in_it() {
    enforcing(|lab| {
        for padding in [85, 86, 87, 500] {
            lab.neighbors.forget_seen();
            let frame = Arp {
                padding,
                ..Arp::REQUEST
            }
            .frame();
            lab.run(&frame);
            let [event] = lab.neighbors.events()[..] else {
                panic!("one event");
            };
            let len = frame.len().min(128);
            assert_eq!(event.len as usize, len);
            assert_eq!(event.frame[..len], frame[..len]);
        }
    });
}

#[test]
fn the_rate_of_events_is_bounded_and_a_new_holder_is_heard_in_a_flood_of_claims() {
    enforcing(|lab| {
        lab.neighbors.protect(GATEWAY_V4, &[GATEWAY_MAC]);
        // A kind's burst, and what its rate refills while the test runs.
        let bounded = |what: &str, told: usize, burst: usize, start: u64, rate: u64| {
            let refill = (coarse_ns() - start) * rate / 1_000_000_000 + 1;
            assert!(
                (burst..=burst + refill as usize).contains(&told),
                "{what}: {told}"
            );
        };
        let start = coarse_ns();
        for _ in 0..200 {
            lab.run(&spoofed(Arp::REQUEST).frame());
        }
        bounded("claims", told(lab).len(), 40, start, 20);
        // Those that answer what we asked have a share beside, and so has the holder.
        lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
        let (start, steady) = (coarse_ns(), [2, 5, 0, 0, 0, 5]);
        let answer = |mac| Arp::REPLY.of(GATEWAY_V4, mac).frame();
        lab.run(&answer(steady));
        for n in 0..200u8 {
            lab.run(&answer([2, 6, 0, 0, 0, n]));
            lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
            lab.run(&gateway(Arp::REPLY).frame());
        }
        let events = told(lab);
        let of = |kind| events.iter().filter(|event| event.0 == kind).count();
        bounded("candidates", of(EventKind::Claim), 40, start, 20);
        bounded("answers", of(EventKind::Answer), 20, start, 10);
        // One that answers again, as the agent asks again, has a share that strangers cannot use up.
        while coarse_ns() - start < 600_000_000 {
            std::thread::yield_now();
        }
        for n in 0..200u8 {
            lab.run(&answer([2, 7, 0, 0, 0, n]));
        }
        lab.run(&answer(steady));
        let heard = |event: &(EventKind, u32, [u8; 6])| {
            event.2 == steady && event.1 & NeighborEvent::STEADY != 0
        };
        let events = told(lab);
        assert!(events.iter().any(heard), "{events:?}");
        assert_eq!(
            events
                .iter()
                .filter(|e| e.1 & NeighborEvent::STEADY != 0)
                .count(),
            1
        );
        // But one alone cannot use that up either.
        let start = coarse_ns();
        for _ in 0..200 {
            lab.run(&spoofed(Arp::REPLY).frame());
        }
        let count = told(lab).len() as u64;
        let refill = (coarse_ns() - start) * 4 / 1_000_000_000 + 1;
        assert!(count <= 4 + refill, "answers of one: {count}");
        // Claims to many protected addresses at once.
        lab.neighbors.refill_events();
        let start = coarse_ns();
        for n in 0..30 {
            let addr = Ipv4Addr::new(192, 0, 2, 100 + n);
            lab.neighbors.protect(addr, &[GATEWAY_MAC]);
            for _ in 0..40 {
                lab.run(&Arp::REQUEST.of(addr, CLIENT_MAC).frame());
            }
        }
        let count = told(lab).len();
        if count < 1200 {
            bounded("all claims", count, 1000, start, 1000);
        }
        // New stations.
        let start = coarse_ns();
        for n in 0..600u16 {
            let [a, b] = n.to_be_bytes();
            lab.run(
                &Arp::REQUEST
                    .of([10, 7, a, b].into(), [2, 7, 0, 0, a, b])
                    .frame(),
            );
        }
        bounded("stations", told(lab).len(), 200, start, 100);
    });
}

#[test]
fn what_the_agent_cannot_be_told_is_counted() {
    enforcing(|lab| {
        // 256 KiB of events of 200 octets; the agent reads none.
        let frame = Arp::REQUEST.frame();
        let mut sent = 0;
        let ran = loop {
            if sent % 100 == 0 {
                lab.neighbors.refill_events();
            }
            let [a, b] = u16::to_be_bytes(sent);
            let ran = lab.run(&Arp::REQUEST.of([10, 8, a, b].into(), CLIENT_MAC).frame());
            if !ran.notes.is_empty() {
                break ran;
            }
            sent += 1;
            assert!(sent < 2000, "the ring never fills");
        };
        assert_eq!(
            (ran.reason, &ran.notes[..]),
            (Reason::ArpPass, &[Reason::NeighborEventLost][..])
        );
        assert!(sent > 1000, "{sent}");
        assert_eq!(lab.neighbors.events().len(), usize::from(sent));
        // What was not told is told when there is room.
        lab.run(&frame);
        assert_eq!(told(lab).len(), 1);
    });
}

#[test]
fn a_binding_that_is_learned_tells_every_answer_and_drops_none() {
    enforcing(|lab| {
        lab.neighbors.bind(key(GATEWAY_V4, 0), &[], 0);
        lab.expect("unasked", &gateway(Arp::REPLY).frame(), Reason::ArpPass);
        lab.neighbors.events();
        lab.run_egress(&Arp::asks_for(GATEWAY_V4).frame());
        let flags = NeighborEvent::REPLY | NeighborEvent::SOLICITED;
        for mac in [GATEWAY_MAC, CLIENT_MAC, GATEWAY_MAC] {
            lab.expect(
                "answer",
                &Arp::REPLY.of(GATEWAY_V4, mac).frame(),
                Reason::ArpPass,
            );
            assert_eq!(told(lab), [(EventKind::Answer, flags, mac)]);
        }
    });
}

#[test]
fn one_address_may_answer_for_a_whole_network_r_arp_9_r_arp_10() {
    enforcing(|lab| {
        // Proxy ARP: far more answers than one source may send unasked.
        lab.neighbors.set(|s| s.mac = only(2));
        for n in 1..=50 {
            let addr = Ipv4Addr::new(10, 1, 1, n);
            lab.run_egress(&Arp::asks_for(addr).frame());
            let answer = Arp::REPLY.of(addr, CLIENT_MAC).frame();
            lab.expect("an answer", &answer, Reason::ArpPass);
        }
        for (n, reason) in [Reason::ArpPass, Reason::ArpPass, Reason::ArpLimit]
            .into_iter()
            .enumerate()
        {
            let unasked = Arp::REPLY.of(Ipv4Addr::new(10, 1, 2, n as u8), CLIENT_MAC);
            lab.expect("not asked for", &unasked.frame(), reason);
        }
    });
}
