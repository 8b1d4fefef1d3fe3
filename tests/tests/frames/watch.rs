//! Connections that are watched, through the loaded XDP program: whose segments the agent is told of, how often, and for
//! how long.

use std::net::IpAddr;

use net_common::{
    abi::{DropEvent, Settings, WatchKey, Watched},
    units::addr_words,
    verdict::Reason,
};
use net_tests::{
    frames::{CLIENT_V4, CLIENT_V6, Envelope, segment},
    prog_run::{HOUR, Lab, PORT, coarse_ns, in_namespace, linux_syn},
};

fn client(envelope: &Envelope) -> IpAddr {
    if envelope.is_v6() {
        CLIENT_V6.into()
    } else {
        CLIENT_V4.into()
    }
}

fn key(address: IpAddr, port: u16) -> WatchKey {
    WatchKey {
        addr: addr_words(address),
        port,
        family: if address.is_ipv4() { 4 } else { 6 },
    }
}

/// Watches for an hour, with these budgets for segments that pass and for others.
fn watch(lab: &mut Lab, key: WatchKey, passes_left: u32, verdicts_left: u32) {
    let until_ns = coarse_ns() + HOUR;
    let watched = Watched {
        until_ns,
        passes_left,
        verdicts_left,
        ..Watched::default()
    };
    lab.watches.set(&key, &watched).unwrap();
    lab.watches.set_until(until_ns).unwrap();
}

fn told(lab: &mut Lab) -> Vec<DropEvent> {
    std::iter::from_fn(|| lab.watches.take_event()).collect()
}

fn reasons(lab: &mut Lab) -> Vec<u32> {
    told(lab).iter().map(|event| event.reason).collect()
}

#[test]
fn every_verdict_on_a_watched_end_is_told_whatever_it_is() {
    in_namespace(|lab| {
        lab.enforce_guards();
        for plain in Envelope::PLAIN {
            let syn = plain.tcp(&linux_syn(9, 3), &[]);
            let null = plain.tcp(&segment(9, PORT, 3, ""), &[]);
            lab.expect("in peace", &syn, Reason::CookieSent);
            lab.expect("in peace", &null, Reason::TcpFlags);
            assert_eq!(told(lab), []);

            let key = key(client(&plain), PORT);
            watch(lab, key, 8, 8);
            let sent = lab.expect("answered", &syn, Reason::CookieSent);
            lab.expect("dropped", &null, Reason::TcpFlags);
            lab.set_flag(Settings::OBSERVE, true);
            assert!(lab.run(&null).observed);
            lab.set_flag(Settings::OBSERVE, false);
            let events = told(lab);
            let seen: Vec<_> = events.iter().map(|e| (e.reason, e.observed)).collect();
            let flags = Reason::TcpFlags as u32;
            assert_eq!(
                seen,
                [(Reason::CookieSent as u32, 0), (flags, 0), (flags, 1)]
            );
            // The answer as it leaves, the others as they came.
            assert_eq!(events[0].frame[..sent.frame.len()], sent.frame);
            assert_eq!(events[1].frame[..null.len()], null);
            let now = coarse_ns();
            for event in &events {
                assert!((now - 5_000_000_000..=now + 1_000_000_000).contains(&event.time_ns));
                assert_eq!((event.ifindex, event.len > 0), (1, true));
            }
            let seen = lab.watches.get(&key).unwrap().unwrap();
            assert_eq!((seen.segments, seen.verdicts_left, seen.lost), (3, 5, 0));

            // Drops that no event tells of, as their reason has had its share.
            assert_eq!(lab.guards.events(), []);
            lab.watches.remove(&key).unwrap();
        }
    });
}

#[test]
fn an_end_is_known_by_its_address_and_either_port_and_nobody_else_is_told_of() {
    in_namespace(|lab| {
        for plain in Envelope::PLAIN {
            let stranger: IpAddr = if plain.is_v6() {
                "2001:db8::77".parse().unwrap()
            } else {
                [192, 0, 2, 77].into()
            };
            let to = |port| plain.tcp(&segment(5000, port, 3, "A"), &[]);
            let from = |port| plain.tcp(&segment(port, 5000, 3, "SA"), &[]);
            watch(lab, key(client(&plain), 443), 100, 100);
            for (what, frame, expected) in [
                ("a client of ours", to(443), true),
                ("a server that we connected to", from(443), true),
                ("another port of it", to(444), false),
                ("another server there", from(444), false),
                (
                    "another address",
                    plain.from(stranger).tcp(&segment(5000, 443, 3, "A"), &[]),
                    false,
                ),
                ("another protocol", plain.udp(5000, 443, &[]), false),
            ] {
                lab.run(&frame);
                assert_eq!(told(lab).len(), usize::from(expected), "{what}");
            }
            lab.watches.remove(&key(client(&plain), 443)).unwrap();
        }
    });
}

#[test]
fn what_passes_and_what_is_decided_have_budgets_of_their_own() {
    in_namespace(|lab| {
        lab.enforce_guards();
        let plain = Envelope::V4;
        let key = key(CLIENT_V4.into(), PORT);
        let ack = plain.tcp(&segment(9, PORT, 3, "A"), &[]);
        let null = plain.tcp(&segment(9, PORT, 3, ""), &[]);
        watch(lab, key, 3, 2);
        for _ in 0..5 {
            lab.run(&ack);
            lab.expect("dropped", &null, Reason::TcpFlags);
        }
        let (pass, drop) = (Reason::TcpPass as u32, Reason::TcpFlags as u32);
        assert_eq!(reasons(lab), [pass, drop, pass, drop, pass]);
        let seen = lab.watches.get(&key).unwrap().unwrap();
        // What a spent budget is for is not even counted.
        assert_eq!(
            (seen.segments, seen.passes_left, seen.verdicts_left),
            (5, 0, 0)
        );
    });
}

#[test]
fn a_full_ring_is_counted() {
    in_namespace(|lab| {
        let frame = Envelope::V4.tcp(&segment(9, PORT, 3, ""), &[]);
        let key = key(CLIENT_V4.into(), PORT);
        watch(lab, key, 0, u32::MAX);
        let mut runs = 0_u64;
        let lost = loop {
            lab.run(&frame);
            runs += 1;
            let seen = lab.watches.get(&key).unwrap().unwrap();
            assert_eq!(seen.segments, runs);
            if seen.lost > 0 {
                break seen.lost;
            }
            assert!(runs < 4096, "the ring buffer is never full");
        };
        assert_eq!((told(lab).len() as u64, lost), (runs - 1, 1));
    });
}

/// Also when the agent is gone, who wrote the times.
#[test]
fn a_watch_ends_by_the_kernels_clock() {
    in_namespace(|lab| {
        let frame = Envelope::V4.tcp(&segment(9, PORT, 3, ""), &[]);
        let (first, second) = (key(CLIENT_V4.into(), PORT), key(CLIENT_V4.into(), 9));
        watch(lab, first, 8, 8);
        // One is over, and another goes on.
        let over = Watched {
            until_ns: coarse_ns(),
            verdicts_left: 8,
            ..Watched::default()
        };
        lab.watches.set(&first, &over).unwrap();
        lab.run(&frame);
        assert_eq!(told(lab), []);
        lab.watches.remove(&first).unwrap();
        watch(lab, second, 8, 8);
        lab.run(&frame);
        assert_eq!(told(lab).len(), 1);

        // All are over, whatever an entry says, until the agent says otherwise.
        lab.watches.set_until(coarse_ns()).unwrap();
        for _ in 0..2 {
            lab.run(&frame);
            assert_eq!(told(lab), []);
        }
        lab.watches.set_until(coarse_ns() + HOUR).unwrap();
        lab.run(&frame);
        assert_eq!(told(lab).len(), 1);
    });
}

/// The agent's own trials are nobody's segments.
#[test]
fn a_trial_is_not_told_of() {
    const SECRET: u64 = 0x5ec2_e700_1234_5678;
    in_namespace(|lab| {
        lab.guards.set(|s| s.trial = SECRET);
        watch(lab, key(CLIENT_V4.into(), PORT), 8, 8);
        let frame = Envelope::V4.tcp(&segment(9, PORT, 3, ""), &[]);
        let trial = net_common::abi::Trial {
            secret: SECRET,
            outcome: 0,
        };
        let (_, after) = lab.run_trial(&frame, trial);
        assert_eq!(after.outcome, Reason::TcpFlags as u64);
        assert_eq!(told(lab), []);
        lab.run(&frame);
        assert_eq!(told(lab).len(), 1);
    });
}

/// A figure to look at, too: what an ACK costs while nobody is watched, while somebody else is, and while its sender is.
#[test]
fn a_watch_costs_others_less_than_a_microsecond_a_packet() {
    const RUNS: u32 = 1_000_000;
    in_namespace(|lab| {
        let ack = Envelope::V4.tcp(&segment(9, 9, 3, "A"), &[]);
        let best = |lab: &mut Lab| (0..5).map(|_| lab.cost(&ack, RUNS)).min().unwrap();
        let nobody = best(lab);
        watch(lab, key([192, 0, 2, 77].into(), PORT), 8, 8);
        let another = best(lab);
        watch(lab, key(CLIENT_V4.into(), 9), 8, 8);
        let itself = best(lab);
        println!("nobody watched {nobody:?}, another {another:?}, the sender {itself:?}");
        assert!(another < nobody + std::time::Duration::from_micros(1));
    });
}
