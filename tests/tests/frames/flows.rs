//! SYNs to listeners through the loaded XDP program: each is counted, and its source noted, whatever becomes of it.

use std::net::IpAddr;

use net_common::{
    abi::{Listener, SYN_LOG, Settings, SynLogEntry},
    sketch,
    units::addr_words,
    verdict::Reason,
};
use net_tests::{
    frames::{Envelope, segment},
    prog_run::{Lab, PORT, SLOTS, in_namespace, linux_syn},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

/// The envelope from another host of the same prefix.
fn from_host(envelope: Envelope, number: u32) -> Envelope {
    let [.., a, b] = number.to_be_bytes();
    if envelope.is_v6() {
        let low = number as u16;
        envelope.from([0x2001, 0xdb8, 0, 0, 0, 0, 7, low])
    } else {
        envelope.from([198, 51, a, b])
    }
}

fn entry(source: IpAddr, slot: u32) -> SynLogEntry {
    SynLogEntry {
        addr: addr_words(source),
        slot,
        version: if source.is_ipv4() { 4 } else { 6 },
    }
}

/// SYNs in the log, and what it has of them, in the order of the log.
fn logged(lab: &Lab) -> (u64, Vec<SynLogEntry>) {
    let logs = lab.syn_log();
    let written = |e: &SynLogEntry| e.version != 0;
    let entries = logs.iter().flat_map(|log| log.entries);
    (
        logs.iter().map(|log| log.count).sum(),
        entries.filter(written).collect(),
    )
}

#[test]
fn every_syn_to_a_listener_is_counted_and_its_source_noted_whatever_becomes_of_it() {
    in_namespace(|lab| {
        type Set = fn(&mut Lab);
        let table: &[(&str, Set, Reason, bool)] = &[
            ("answered", |_| {}, Reason::CookieSent, false),
            (
                "observed",
                |lab| lab.set_flag(Settings::OBSERVE, true),
                Reason::CookieSent,
                true,
            ),
            (
                "accept queue full, observed",
                |lab| lab.set_listeners(|l| l.flags |= Listener::ACCEPT_FULL),
                Reason::AcceptFull,
                true,
            ),
            (
                "accept queue full",
                |lab| lab.set_flag(Settings::OBSERVE, false),
                Reason::AcceptFull,
                false,
            ),
            (
                "draining",
                |lab| lab.set_flag(Settings::DRAIN, true),
                Reason::SynInBudget,
                false,
            ),
        ];
        let mut expected = Vec::new();
        for (turn, (what, set, reason, observed)) in (1u32..).zip(table) {
            set(lab);
            for (envelope, slot) in Envelope::PLAIN.into_iter().zip(SLOTS) {
                for number in 0..5 {
                    let sender = from_host(envelope, turn * 256 + number);
                    let frame = sender.tcp(&linux_syn(40_000, 5), &[]);
                    for _ in 0..2 {
                        let ran = lab.run(&frame);
                        assert_eq!((ran.reason, ran.observed), (*reason, *observed), "{what}");
                        expected.push(entry(sender.src, slot));
                    }
                }
                assert_eq!(lab.syns(slot), u64::from(turn) * 10, "{what}");
                let sources = lab.take_sketch(slot);
                assert_eq!(sketch::estimate(&sources), 5, "{what}: distinct sources");
                let sources = lab.take_sketch(slot);
                assert_eq!(sketch::estimate(&sources), 0, "{what}: it was taken");
            }
        }
        let (count, mut found) = logged(lab);
        assert_eq!(count, 100);
        let order = |e: &SynLogEntry| (e.slot, e.addr);
        found.sort_unstable_by_key(order);
        expected.sort_unstable_by_key(order);
        assert_eq!(found, expected);
    });
}

#[test]
fn what_is_no_syn_to_a_protected_listener_is_not_counted() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let mut elsewhere = linux_syn(40_000, 5);
            elsewhere.destination_port = PORT + 1;
            lab.run(&envelope.tcp(&elsewhere, &[]));
            let forwarded = Envelope {
                server_mac: [6, 6, 6, 6, 6, 6],
                ..envelope
            };
            lab.run(&forwarded.tcp(&linux_syn(40_000, 5), &[]));
            for letters in ["A", "FA", "R", "SA", "SF"] {
                lab.run(&envelope.tcp(&segment(40_000, PORT, 5, letters), &[]));
            }
        }
        lab.forget_listeners();
        for envelope in Envelope::PLAIN {
            lab.run(&envelope.tcp(&linux_syn(40_000, 5), &[]));
        }
        assert_eq!(SLOTS.map(|slot| lab.syns(slot)), [0, 0]);
        assert_eq!(
            SLOTS.map(|slot| sketch::estimate(&lab.take_sketch(slot))),
            [0, 0]
        );
        assert_eq!(logged(lab), (0, Vec::new()));
    });
}

#[test]
fn the_log_keeps_the_last_sources_of_many_and_a_slot_that_is_cleared_begins_anew() {
    in_namespace(|lab| {
        let mut cpus = CpuSet::new();
        cpus.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        let (envelope, slot) = (Envelope::V4, SLOTS[0]);
        let sources = SYN_LOG as u32 + 6;
        for number in 0..sources {
            lab.run(&from_host(envelope, number).tcp(&linux_syn(40_000, 5), &[]));
        }
        let log = lab.syn_log()[0];
        assert_eq!(log.count, u64::from(sources));
        for (place, number) in [
            (0, SYN_LOG),
            (5, SYN_LOG + 5),
            (6, 6),
            (SYN_LOG - 1, SYN_LOG - 1),
        ] {
            let source = from_host(envelope, number as u32).src;
            assert_eq!(log.entries[place], entry(source, slot), "place {place}");
        }
        // Four standard errors (`net_common::sketch`).
        let estimate = sketch::estimate(&lab.take_sketch(slot));
        assert!((800..1260).contains(&estimate), "{estimate} of {sources}");

        lab.run(&envelope.tcp(&linux_syn(40_000, 5), &[]));
        assert_eq!(lab.syns(slot), u64::from(sources) + 1);
        lab.clear_slot(slot);
        assert_eq!(lab.syns(slot), 0);
        assert_eq!(sketch::estimate(&lab.take_sketch(slot)), 0);
    });
}
