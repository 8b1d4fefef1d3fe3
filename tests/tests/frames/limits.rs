//! Modes, budgets and limits of the SYN cookie engine, through the loaded XDP program.

use std::{net::IpAddr, time::Duration};

use net_common::{
    abi::{Listener, Settings},
    verdict::Reason,
};
use net_tests::{
    frames::{ENVELOPES, Envelope, read, segment},
    prog_run::{HOUR, Lab, PORT, ack, in_namespace, linux_syn},
    wait,
};

/// Source `n`, of a prefix of its own for every `prefix`.
fn source(envelope: &Envelope, prefix: u8, host: u8) -> IpAddr {
    if envelope.is_v6() {
        [0x2001, 0xdb8, 0x77, prefix.into(), 1, 2, 3, host.into()].into()
    } else {
        [198, 51, prefix, host].into()
    }
}

fn auto(lab: &mut Lab, interval_ns: u64, burst: u64) {
    lab.set_listeners(|l| {
        l.flags &= !Listener::ALWAYS;
        l.interval_ns = interval_ns;
        l.tolerance_ns = interval_ns * burst;
    });
}

#[test]
fn in_mode_auto_exactly_the_budget_passes_and_cookies_start_with_the_next_packet() {
    for burst in [0, 1, 25] {
        for envelope in Envelope::PLAIN {
            in_namespace(|lab| {
                auto(lab, HOUR, burst);
                let wrapped: Vec<_> = ENVELOPES
                    .iter()
                    .filter(|e| e.is_v6() == envelope.is_v6())
                    .collect();
                for n in 0..=burst {
                    let envelope = wrapped[n as usize % wrapped.len()];
                    let ran = lab.expect(
                        "inside",
                        &envelope.tcp(&linux_syn(1000 + n as u16, 5), &[]),
                        Reason::SynInBudget,
                    );
                    assert_eq!(ran.notes, [], "no look-up inside the budget");
                }
                for envelope in wrapped {
                    lab.expect(
                        "beyond",
                        &envelope.tcp(&linux_syn(2000, 5), &[]),
                        Reason::CookieSent,
                    );
                }
                assert_eq!(lab.stats(&envelope).syns_passed, burst + 1);
            });
        }
    }
}

#[test]
fn cookies_stop_when_the_flood_does() {
    in_namespace(|lab| {
        auto(lab, 50_000_000, 3);
        let frame = Envelope::V4.tcp(&linux_syn(1000, 5), &[]);
        for _ in 0..2 {
            wait::until("an exhausted budget", Duration::from_secs(5), || {
                lab.run(&frame).reason == Reason::CookieSent
            })
            .unwrap();
            wait::until("a refilled budget", Duration::from_secs(5), || {
                lab.run(&frame).reason == Reason::SynInBudget
            })
            .unwrap();
        }
    });
}

#[test]
fn cookies_that_are_beyond_the_budget_do_not_use_it_up() {
    in_namespace(|lab| {
        // A flood of a thousand SYNs between two events of the budget.
        auto(lab, 500_000_000, 0);
        let frame = Envelope::V4.tcp(&linux_syn(1000, 5), &[]);
        lab.expect("first", &frame, Reason::SynInBudget);
        let mut cookies = 0;
        wait::until(
            "the next event of the budget",
            Duration::from_secs(5),
            || {
                loop {
                    match lab.run(&frame).reason {
                        Reason::CookieSent => cookies += 1,
                        Reason::SynInBudget => return true,
                        other => panic!("{other:?}"),
                    }
                }
            },
        )
        .unwrap();
        assert!(cookies > 50, "{cookies} cookies in half a second");
    });
}

#[test]
fn mode_always_never_passes_a_syn_and_ends_when_the_mode_does() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let frame = envelope.tcp(&linux_syn(1000, 5), &[]);
            lab.set_listeners(|l| {
                (l.flags, l.tolerance_ns) = (l.flags & !Listener::ALWAYS, 1000 * HOUR);
            });
            lab.expect("auto", &frame, Reason::SynInBudget);
            lab.set_listeners(|l| l.flags |= Listener::ALWAYS);
            lab.expect("always", &frame, Reason::CookieSent);
            lab.set_listeners(|l| l.flags &= !Listener::ALWAYS);
            lab.expect("auto again", &frame, Reason::SynInBudget);
        }
    });
}

#[test]
fn a_source_that_passed_is_looked_up_from_then_on_r_syn_8() {
    in_namespace(|lab| {
        for half in [0, 1] {
            lab.set_settings(|s| s.filter_half = half);
            for envelope in Envelope::PLAIN {
                let known = source(&envelope, 1, half as u8);
                let unknown = source(&envelope, 1, 100 + half as u8);
                let syn = |src: IpAddr| envelope.from(src).tcp(&linux_syn(1000, 5), &[]);
                assert_eq!(
                    lab.expect("before", &syn(known), Reason::CookieSent).notes,
                    []
                );
                lab.set_listeners(|l| {
                    (l.flags, l.tolerance_ns) = (l.flags & !Listener::ALWAYS, 1000 * HOUR);
                });
                lab.expect("inside the budget", &syn(known), Reason::SynInBudget);
                lab.set_listeners(|l| l.flags |= Listener::ALWAYS);
                // Both halves: the agent may flip them at any time.
                for half in [0, 1, 0] {
                    lab.set_settings(|s| s.filter_half = half);
                    let ran = lab.expect("after", &syn(known), Reason::CookieSent);
                    assert_eq!(ran.notes, [Reason::SocketLookup]);
                    assert_eq!(
                        lab.expect("another", &syn(unknown), Reason::CookieSent)
                            .notes,
                        []
                    );
                }
                lab.set_flag(Settings::FILTER_COMPLETE, false);
                let ran = lab.expect("filter incomplete", &syn(unknown), Reason::CookieSent);
                assert_eq!(ran.notes, [Reason::SocketLookup]);
                lab.set_flag(Settings::FILTER_COMPLETE, true);
            }
        }
    });
}

#[test]
fn the_filter_is_read_in_the_half_that_the_agent_names_r_syn_8() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let (known, stranger) = (source(&envelope, 1, 1), source(&envelope, 1, 2));
            for half in [0, 1] {
                lab.clear_filter(0);
                lab.clear_filter(1);
                lab.add_to_filter(half, known);
                for (src, read, look_ups) in [
                    (known, half, &[Reason::SocketLookup][..]),
                    (known, half ^ 1, &[]),
                    (stranger, half, &[]),
                ] {
                    lab.set_settings(|s| s.filter_half = read);
                    let frame = envelope.from(src).tcp(&linux_syn(1000, 5), &[]);
                    let ran = lab.expect("SYN", &frame, Reason::CookieSent);
                    assert_eq!(
                        ran.notes, look_ups,
                        "{src} in half {half}, half {read} is read"
                    );
                }
            }
        }
    });
}

#[test]
fn nothing_is_answered_while_the_accept_queue_is_full_r_syn_14_c_14() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let frame = envelope.tcp(&linux_syn(1000, 5), &[]);
            let sent = lab.stats(envelope).cookies_sent;
            lab.expect("before", &frame, Reason::CookieSent);
            lab.set_listeners(|l| l.flags |= Listener::ACCEPT_FULL);
            let before = lab.stats(envelope).accept_full;
            lab.expect("full", &frame, Reason::AcceptFull);
            lab.set_flag(Settings::OBSERVE, true);
            let ran = lab.run(&frame);
            assert_eq!((ran.reason, ran.observed), (Reason::AcceptFull, true));
            lab.set_flag(Settings::OBSERVE, false);
            assert_eq!(
                lab.stats(envelope).accept_full,
                before + 1,
                "what passed was answered"
            );
            // What a full queue does to the budget's SYNs is the kernel's to decide.
            lab.set_listeners(|l| {
                (l.flags, l.tolerance_ns) = (l.flags & !Listener::ALWAYS, 1000 * HOUR);
            });
            lab.expect("inside the budget", &frame, Reason::SynInBudget);
            lab.set_listeners(|l| l.flags = (l.flags | Listener::ALWAYS) & !Listener::ACCEPT_FULL);
            lab.expect("after", &frame, Reason::CookieSent);
            assert_eq!(lab.stats(envelope).cookies_sent, sent + 2);
        }
    });
}

#[test]
fn a_full_accept_queue_does_not_make_pending_cookies_false() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let syn = linux_syn(1000, 5);
            let reply = lab
                .expect("SYN", &envelope.tcp(&syn, &[]), Reason::CookieSent)
                .frame;
            lab.set_listeners(|l| l.flags |= Listener::ACCEPT_FULL);
            let ack = ack(&syn, &read(&reply).tcp);
            lab.expect("ACK", &envelope.tcp(&ack, &[]), Reason::CookieProven);
            lab.set_listeners(|l| l.flags &= !Listener::ACCEPT_FULL);
        }
    });
}

#[test]
fn syn_acks_to_one_prefix_are_limited_and_to_others_are_not_r_syn_11_c_2_c_3_c_19() {
    in_namespace(|lab| {
        let burst = 9;
        lab.set_settings(|s| {
            (s.syn_ack_interval_ns, s.syn_ack_tolerance_ns) = (HOUR, HOUR * burst);
        });
        for envelope in Envelope::PLAIN {
            let syn = |prefix, host| {
                envelope
                    .from(source(&envelope, prefix, host))
                    .tcp(&linux_syn(1000, 5), &[])
            };
            for host in 0..=burst as u8 {
                lab.expect("the prefix's share", &syn(1, host), Reason::CookieSent);
            }
            let limited = lab.stats(&envelope).syn_ack_limited;
            for host in [0, 77, 255] {
                lab.expect("beyond it", &syn(1, host), Reason::SynAckLimit);
            }
            assert_eq!(lab.stats(&envelope).syn_ack_limited, limited + 3);
            lab.expect("another prefix", &syn(2, 0), Reason::CookieSent);
            for wrapped in ENVELOPES.iter().filter(|e| e.is_v6() == envelope.is_v6()) {
                let frame = wrapped
                    .from(source(&envelope, 1, 3))
                    .tcp(&linux_syn(1000, 5), &[]);
                lab.expect(wrapped.name, &frame, Reason::SynAckLimit);
                lab.set_flag(Settings::OBSERVE, true);
                let ran = lab.run(&frame);
                assert_eq!((ran.reason, ran.observed), (Reason::SynAckLimit, true));
                lab.set_flag(Settings::OBSERVE, false);
            }
        }
        lab.set_settings(|s| (s.syn_ack_interval_ns, s.syn_ack_tolerance_ns) = (1, 1 << 62));
        for envelope in Envelope::PLAIN {
            let frame = envelope
                .from(source(&envelope, 1, 3))
                .tcp(&linux_syn(1000, 5), &[]);
            lab.expect("lifted", &frame, Reason::CookieSent);
        }
    });
}

#[test]
fn signed_syns_have_no_share_of_their_own_r_syn_9() {
    in_namespace(|lab| {
        lab.set_settings(|s| (s.syn_ack_interval_ns, s.syn_ack_tolerance_ns) = (HOUR, HOUR));
        for envelope in Envelope::PLAIN {
            let frame = |prefix, signed: bool| {
                let mut tcp = linux_syn(1000, 5);
                if signed {
                    tcp.set_options_raw(&[29, 4, 1, 1]).unwrap();
                }
                envelope.from(source(&envelope, prefix, 1)).tcp(&tcp, &[])
            };
            lab.expect("first", &frame(1, false), Reason::CookieSent);
            lab.expect("second", &frame(1, true), Reason::SynSigned);
            lab.expect("third", &frame(1, true), Reason::SynAckLimit);
            lab.expect("fourth", &frame(1, false), Reason::SynAckLimit);
            lab.expect("another prefix", &frame(2, true), Reason::SynSigned);
        }
    });
}

#[test]
fn the_prefix_that_is_limited_is_a_24_and_a_64() {
    for (within, beyond) in [
        (["198.51.100.0", "198.51.100.255"], "198.51.101.0"),
        (
            ["2001:db8:1:2::", "2001:db8:1:2:ffff:ffff:ffff:ffff"],
            "2001:db8:1:3::",
        ),
    ] {
        in_namespace(|lab| {
            lab.set_settings(|s| (s.syn_ack_interval_ns, s.syn_ack_tolerance_ns) = (HOUR, 0));
            let mut expect = |src: &str, reason| {
                let src: IpAddr = src.parse().unwrap();
                let envelope = if src.is_ipv6() {
                    Envelope::V6
                } else {
                    Envelope::V4
                };
                lab.expect(
                    "SYN",
                    &envelope.from(src).tcp(&linux_syn(1000, 5), &[]),
                    reason,
                );
            };
            expect(within[0], Reason::CookieSent);
            expect(within[1], Reason::SynAckLimit);
            expect(beyond, Reason::CookieSent);
        });
    }
}

#[test]
fn observe_mode_answers_nothing_and_counts_what_it_would_have_sent() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let frame = envelope.tcp(&linux_syn(1000, 5), &[]);
            lab.expect("before", &frame, Reason::CookieSent);
            let sent = lab.stats(envelope).cookies_sent;
            lab.set_flag(Settings::OBSERVE, true);
            let ran = lab.run(&frame);
            assert_eq!((ran.reason, ran.observed), (Reason::CookieSent, true));
            assert_eq!(lab.stats(envelope).cookies_sent, sent);
            // What would pass anyway is no observation.
            for (tcp, reason) in [
                (segment(9, PORT + 1, 3, "S"), Reason::SynUnprotected),
                (segment(9, PORT + 1, 3, "A"), Reason::TcpPass),
            ] {
                let ran = lab.run(&envelope.tcp(&tcp, &[]));
                assert_eq!((ran.reason, ran.observed), (reason, false));
            }
            lab.set_flag(Settings::OBSERVE, false);
            lab.expect("after", &frame, Reason::CookieSent);
        }
    });
}

#[test]
fn observe_mode_leaves_no_port_watched() {
    in_namespace(|lab| {
        lab.set_flag(Settings::OBSERVE, true);
        lab.run(&Envelope::V4.tcp(&linux_syn(1000, 5), &[]));
        let frame = Envelope::V4.tcp(&segment(9, PORT, 3, "A"), &[]);
        let ran = lab.run(&frame);
        assert_eq!(
            (ran.reason, ran.observed),
            (Reason::TcpPass, false),
            "no cookie was sent"
        );
    });
}

#[test]
fn draining_sends_no_new_cookie_and_honours_pending_ones() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let syn = linux_syn(1000, 5);
            let frame = envelope.tcp(&syn, &[]);
            let ran = lab.expect("before", &frame, Reason::CookieSent);
            let ack = ack(&syn, &read(&ran.frame).tcp);
            lab.set_flag(Settings::DRAIN, true);
            lab.expect("SYN", &frame, Reason::SynInBudget);
            lab.expect("ACK", &envelope.tcp(&ack, &[]), Reason::CookieProven);
            let false_ack = envelope.tcp(&segment(1000, PORT, 3, "A"), &[]);
            lab.expect("false ACK", &false_ack, Reason::CookieFalse);
            lab.set_flag(Settings::DRAIN, false);
            lab.expect("after", &frame, Reason::CookieSent);
        }
    });
}

#[test]
fn a_source_whose_syn_passed_for_observation_is_looked_up_when_enforcement_begins() {
    in_namespace(|lab| {
        lab.set_settings(|s| (s.syn_ack_interval_ns, s.syn_ack_tolerance_ns) = (HOUR, 1000 * HOUR));
        for envelope in Envelope::PLAIN {
            for (prefix, full) in [(1, false), (2, true)] {
                let frame = envelope
                    .from(source(&envelope, prefix, 1))
                    .tcp(&linux_syn(1000, 5), &[]);
                lab.set_listeners(|l| {
                    if full {
                        l.flags |= Listener::ACCEPT_FULL;
                    } else {
                        l.flags &= !Listener::ACCEPT_FULL;
                    }
                });
                lab.set_flag(Settings::OBSERVE, true);
                assert!(lab.run(&frame).observed);
                lab.set_flag(Settings::OBSERVE, false);
                lab.set_listeners(|l| l.flags &= !Listener::ACCEPT_FULL);
                // The kernel has a request socket now, which a repeated SYN must meet.
                let ran = lab.expect("enforced", &frame, Reason::CookieSent);
                assert_eq!(
                    ran.notes,
                    [Reason::SocketLookup],
                    "accept queue full: {full}"
                );
            }
        }
    });
}
