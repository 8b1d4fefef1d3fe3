//! Drops that the agent is told of, and trials, through the loaded XDP program.

use net_common::{
    abi::{DROP_FRAME, Limit, Settings, Trial},
    verdict::Reason,
};
use net_tests::{
    frames::{Envelope, segment},
    prog_run::{PORT, coarse_ns, guards::Guard, in_namespace, linux_syn, neighbors::only},
};

/// A datagram from a source of no link, dropped, with this many octets in all.
fn martian(envelope: &Envelope, len: usize) -> Vec<u8> {
    let from = envelope.from(envelope.dst);
    let headers = from.udp(9, 9, &[]).len();
    from.udp(9, 9, &vec![7; len - headers])
}

#[test]
fn the_agent_is_told_of_some_drops_of_each_reason_and_how_they_looked() {
    in_namespace(|lab| {
        lab.enforce_guards();
        let frame = martian(&Envelope::V4, 60);
        lab.expect("no rate", &frame, Reason::SourceMartian);
        assert_eq!(lab.guards.events(), []);

        lab.guards.set(|s| s.events = only(3));
        let mut told = 0;
        for n in 0..6 {
            let ran = lab.expect("dropped", &frame, Reason::SourceMartian);
            let wanted: &[Reason] = if n < 3 { &[Reason::DropEventSent] } else { &[] };
            assert_eq!(ran.notes, wanted, "drop {n}");
            told += ran.notes.len();
        }
        let events = lab.guards.events();
        assert_eq!((events.len(), told), (3, 3));
        let now = coarse_ns();
        for event in events {
            assert!((now - 5_000_000_000..=now).contains(&event.time_ns));
            assert_eq!(event.reason, Reason::SourceMartian as u32);
            assert_eq!((event.ifindex, event.observed), (1, 0));
            assert_eq!((event.len, event.captured), (60, 60));
            assert_eq!(event.frame[..60], frame);
        }

        // Another reason has a share of its own, whichever guard gives it.
        let nothing = Envelope::V6.tcp(&segment(9, PORT, 3, ""), &[]);
        let ran = lab.expect("another reason", &nothing, Reason::TcpFlags);
        assert_eq!(ran.notes, [Reason::DropEventSent]);
        let [event] = lab.guards.events()[..] else {
            panic!("one event");
        };
        assert_eq!(event.reason, Reason::TcpFlags as u32);
        assert_eq!(event.frame[..nothing.len()], nothing);

        // What passes is no event.
        for (frame, reason) in [
            (Envelope::V4.udp(9, 9, &[]), Reason::UdpPass),
            (Envelope::V4.tcp(&linux_syn(9, 3), &[]), Reason::CookieSent),
        ] {
            assert_eq!(lab.expect("no drop", &frame, reason).notes, []);
        }
        assert_eq!(lab.guards.events(), []);

        // What would have been dropped is one.
        for all in [false, true] {
            lab.guards.rest_events(Reason::SourceMartian);
            lab.set_flag(Settings::OBSERVE, all);
            lab.guards.set_flag(Guard::Ip.enforces(), all);
            lab.expect_observed("observed", &frame, Reason::SourceMartian);
            let [event] = lab.guards.events()[..] else {
                panic!("one event");
            };
            assert_eq!(
                (event.reason, event.observed),
                (Reason::SourceMartian as u32, 1)
            );
        }
        lab.set_flag(Settings::OBSERVE, false);

        // As much of a frame as an event has room for, also where it is not linear.
        for plain in Envelope::PLAIN {
            for len in [70, 255, 256, 257, 1500, 3000] {
                let frame = martian(&plain, len);
                for linear in [len, 80.min(len)] {
                    lab.guards.rest_events(Reason::SourceMartian);
                    let ran = lab.run_split(&frame, linear);
                    assert_eq!(ran.reason, Reason::SourceMartian);
                    let [event] = lab.guards.events()[..] else {
                        panic!("one event");
                    };
                    let captured = len.min(DROP_FRAME);
                    assert_eq!(
                        (event.len as usize, event.captured as usize),
                        (len, captured)
                    );
                    assert_eq!(
                        event.frame[..captured],
                        frame[..captured],
                        "{len}, {linear} linear"
                    );
                }
            }
        }
    });
}

#[test]
fn events_that_find_no_room_are_counted_c_50() {
    in_namespace(|lab| {
        lab.enforce_guards();
        lab.guards.set(|s| {
            s.events = Limit {
                interval_ns: 1,
                tolerance_ns: 1 << 60,
            };
        });
        let frame = martian(&Envelope::V4, 60);
        let mut sent = 0;
        loop {
            let ran = lab.expect("dropped", &frame, Reason::SourceMartian);
            match ran.notes[..] {
                [Reason::DropEventSent] => sent += 1,
                [Reason::DropEventLost] => break,
                ref other => panic!("{other:?}"),
            }
            assert!(sent < 4096, "the ring buffer is never full");
        }
        assert_eq!(lab.guards.events().len(), sent);
        let ran = lab.expect("room again", &frame, Reason::SourceMartian);
        assert_eq!(ran.notes, [Reason::DropEventSent]);
        assert_eq!(lab.guards.events().len(), 1);
    });
}

#[test]
fn a_trial_learns_its_fate_and_is_counted_nowhere() {
    const SECRET: u64 = 0x5ec2_e700_1234_5678;
    const PASS: u32 = 2;
    const DROP: u32 = 1;
    in_namespace(|lab| {
        lab.enforce_guards();
        lab.guards.set(|s| {
            s.trial = SECRET;
            s.events = only(1000);
        });
        for plain in Envelope::PLAIN {
            let trial = Trial {
                secret: SECRET,
                outcome: 0xdead_beef,
            };
            let martian = martian(&plain, 90);
            let cases = [
                (martian.clone(), Reason::SourceMartian),
                (plain.tcp(&segment(9, PORT, 3, "SF"), &[]), Reason::TcpFlags),
                (plain.udp(53, 5000, &[]), Reason::Reflection),
                (plain.udp(9, 9, &[]), Reason::UdpPass),
                (plain.tcp(&segment(9, PORT, 3, "A"), &[]), Reason::TcpPass),
                (
                    plain.wrap(etherparse::IpNumber::GRE, &[0; 8]),
                    Reason::NoRule,
                ),
            ];
            for (frame, reason) in cases {
                let drops = Reason::drops(reason as u32);
                let before = lab.counters();
                let (code, after) = lab.run_trial(&frame, trial);
                assert_eq!(code, if drops { DROP } else { PASS }, "{reason:?}");
                assert_eq!(
                    (after.secret, after.outcome),
                    (SECRET, reason as u64),
                    "{reason:?}"
                );

                lab.set_flag(Settings::OBSERVE, true);
                let (code, after) = lab.run_trial(&frame, trial);
                let observed = if drops { Trial::OBSERVED } else { 0 };
                assert_eq!(
                    (code, after.outcome),
                    (PASS, reason as u64 | observed),
                    "{reason:?}"
                );
                lab.set_flag(Settings::OBSERVE, false);
                assert_eq!(lab.counters(), before, "{reason:?}");
            }
            assert_eq!(lab.guards.events(), []);

            // Whoever does not know the secret is a packet like any other.
            for secret in [0, SECRET ^ 1, SECRET.swap_bytes()] {
                let stranger = Trial { secret, outcome: 7 };
                let before = lab.count(Reason::SourceMartian);
                let (code, after) = lab.run_trial(&martian, stranger);
                assert_eq!((code, after), (DROP, stranger));
                assert_eq!(lab.count(Reason::SourceMartian), before + 1);
            }
            // Without a secret there are no trials.
            lab.guards.set(|s| s.trial = 0);
            let nobody = Trial {
                secret: 0,
                outcome: 7,
            };
            let before = lab.count(Reason::SourceMartian);
            assert_eq!(lab.run_trial(&martian, nobody), (DROP, nobody));
            assert_eq!(lab.count(Reason::SourceMartian), before + 1);
            lab.guards.set(|s| s.trial = SECRET);
            lab.guards.events();
        }
    });
}
