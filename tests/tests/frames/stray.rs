//! TCP segments that belong to no socket (R-TCP-6 to R-TCP-9), through the loaded XDP program.

use std::{
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
};

use net_common::{
    abi::{Class, GuardSettings, Limit, STRAY_NS, STRAY_SAMPLE},
    verdict::Reason,
};
use net_tests::{
    frames::{Envelope, datagram::stranger, segment},
    prog_run::{
        HOUR, Lab, PORT, Raw, coarse_ns, connect_from, guards::Guard, in_namespace,
        neighbors::only, never_send, sysctl,
    },
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
        sockopt,
    },
    unistd::Pid,
};

/// A drop of the TCP guard.
#[track_caller]
fn dropped(lab: &mut Lab, what: &str, frame: &[u8], reason: Reason) {
    lab.expect_guarded(Guard::Tcp, what, frame, reason, Reason::TcpPass);
}

/// Keeps the calling thread on one CPU, whose segments are counted apart.
fn stay() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}

/// Closes a connection with RST, which leaves no TIME_WAIT behind.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
}

fn attack(lab: &mut Lab) {
    lab.guards.set_attacked_until(coarse_ns() + HOUR);
}

fn peace(lab: &mut Lab) {
    lab.guards.set_attacked_until(0);
}

#[test]
fn an_attack_is_noticed_by_one_segment_in_64_and_ends_when_it_is_over_r_tcp_8() {
    in_namespace(|lab| {
        stay();
        lab.enforce_guards();
        lab.guards.set(|s| s.strays = only(3));
        let plain = Envelope::V4;
        let stray = plain.tcp(&segment(9, PORT + 1, 3, "A"), &[]);
        let rst = plain.tcp(&segment(9, PORT + 1, 3, "R"), &[]);

        // What has a socket is no sign of anything.
        let (client, server) = (
            SocketAddr::new(plain.src, 40_000),
            SocketAddr::new(plain.dst, PORT),
        );
        let stream = connect_from(client, server);
        let honest = plain.tcp(&segment(40_000, PORT, 3, "A"), &[]);
        for _ in 0..STRAY_SAMPLE * 5 {
            lab.expect("a connection", &honest, Reason::TcpPass);
        }
        // Nor is what is for others, or while nobody can tell whose it is.
        let elsewhere = plain
            .to(stranger(plain.src, 9, 9))
            .tcp(&segment(9, 9, 3, "A"), &[]);
        for _ in 0..STRAY_SAMPLE * 5 {
            lab.expect("for another host", &elsewhere, Reason::TcpPass);
        }
        lab.guards.set_flag(GuardSettings::STRAYS, false);
        for _ in 0..STRAY_SAMPLE * 5 {
            lab.expect("a router's", &stray, Reason::TcpPass);
        }
        lab.guards.set_flag(GuardSettings::STRAYS, true);
        assert_eq!(lab.guards.attacked_until(), 0);

        let mut segments = 0;
        while lab.guards.attacked_until() == 0 {
            lab.expect("in peace", &stray, Reason::TcpPass);
            segments += 1;
            assert!(segments <= STRAY_SAMPLE * 4, "an attack goes unnoticed");
        }
        // Three samples are within the rate, the fourth is beyond it.
        assert_eq!(segments, STRAY_SAMPLE * 4);
        let until = lab.guards.attacked_until();
        let now = coarse_ns();
        assert!((now + STRAY_NS - 1_000_000_000..=now + STRAY_NS).contains(&until));
        dropped(lab, "noticed", &rst, Reason::StrayRst);
        lab.expect("a connection", &honest, Reason::TcpPass);

        // It goes on while there are signs of it.
        lab.guards.set(|s| {
            s.strays = Limit {
                interval_ns: HOUR,
                tolerance_ns: 0,
            }
        });
        for _ in 0..STRAY_SAMPLE * 3 {
            lab.expect("attacked", &rst, Reason::StrayRst);
        }
        assert!(lab.guards.attacked_until() > until || coarse_ns() == now);

        lab.guards.set_attacked_until(coarse_ns() - 1);
        lab.guards.set(|s| s.strays = only(3));
        lab.expect("over", &rst, Reason::TcpPass);
        assert_eq!(lab.guards.attacked_until(), 0, "peace again");
        lab.expect("peace", &rst, Reason::TcpPass);
        // Without a rate nothing is an attack.
        lab.guards.set(|s| s.strays = Limit::default());
        for _ in 0..STRAY_SAMPLE * 5 {
            lab.expect("no rate", &rst, Reason::TcpPass);
        }
        assert_eq!(lab.guards.attacked_until(), 0);
        drop(stream);
    });
}

#[test]
fn under_attack_what_has_no_socket_is_limited_and_what_has_one_passes_r_tcp_6_r_tcp_8() {
    in_namespace(|lab| {
        lab.enforce_guards();
        for plain in Envelope::PLAIN {
            let (client, server) = (
                SocketAddr::new(plain.src, 40_000),
                SocketAddr::new(plain.dst, PORT),
            );
            let stream = connect_from(client, server);
            let frame = |from, to, letters| plain.tcp(&segment(from, to, 3, letters), &[]);
            lab.guards.limit(Class::Stray, |l| l.host = only(2));

            peace(lab);
            for letters in ["A", "PA", "FA", "R", "RA"] {
                for to in [PORT, PORT + 1] {
                    lab.expect("peace", &frame(9, to, letters), Reason::TcpPass);
                }
            }
            attack(lab);
            for letters in ["R", "RA"] {
                for to in [PORT, PORT + 1] {
                    dropped(lab, letters, &frame(9, to, letters), Reason::StrayRst);
                }
            }
            lab.expect("its share", &frame(9, PORT + 1, "A"), Reason::TcpPass);
            lab.expect("its share", &frame(9, PORT + 1, "FA"), Reason::TcpPass);
            for letters in ["A", "PA", "FA"] {
                for to in [PORT, PORT + 1] {
                    dropped(lab, letters, &frame(9, to, letters), Reason::StrayLimit);
                    let tagged = Envelope {
                        tags: &[(0x88a8, 5)],
                        ..plain
                    };
                    let tagged = tagged.tcp(&segment(9, to, 3, letters), &[]);
                    lab.expect("tagged", &tagged, Reason::StrayLimit);
                }
            }
            let other = plain
                .from(stranger(plain.src, 1, 1))
                .tcp(&segment(9, 9, 3, "A"), &[]);
            lab.expect("another source", &other, Reason::TcpPass);
            for letters in ["A", "PA", "FA", "R", "RA", "SA"] {
                lab.expect(
                    "a connection",
                    &frame(40_000, PORT, letters),
                    Reason::TcpPass,
                );
                let elsewhere = plain.to(stranger(plain.src, 9, 9));
                let elsewhere = elsewhere.tcp(&segment(9, 9, 3, letters), &[]);
                lab.expect("for another host", &elsewhere, Reason::TcpPass);
            }
            lab.guards.set_flag(GuardSettings::STRAYS, false);
            lab.expect("not known whose", &frame(9, PORT + 1, "R"), Reason::TcpPass);
            lab.guards.set_flag(GuardSettings::STRAYS, true);
            // A SYN is no stray, whatever happens.
            lab.expect("a SYN", &frame(9, PORT + 1, "S"), Reason::SynUnprotected);
            reset(stream);
            drop(lab.sockets.as_ref().unwrap()[usize::from(plain.is_v6())].accept());
            dropped(lab, "closed", &frame(40_000, PORT, "R"), Reason::StrayRst);
            lab.guards.unlimit(Class::Stray);
        }
    });
}

#[test]
fn under_attack_the_ack_of_a_cookie_of_the_kernels_own_passes() {
    in_namespace(|lab| {
        sysctl("net.ipv4.tcp_syncookies", "2");
        lab.enforce_guards();
        attack(lab);
        for plain in Envelope::PLAIN {
            lab.guards.limit(Class::Stray, |l| l.host = only(1));
            let client = SocketAddr::new(plain.src, 40_000);
            let raw = Raw::open(plain.dst);
            let stream = connect_from(client, SocketAddr::new(plain.dst, PORT));
            let ack = raw.wait(|t, _| t.source_port == client.port() && t.ack && !t.syn);
            reset(stream);
            drop(lab.sockets.as_ref().unwrap()[usize::from(plain.is_v6())].accept());
            let mut other = ack.clone();
            other.acknowledgment_number ^= 1 << 30;
            lab.expect("its share", &plain.tcp(&other, &[]), Reason::TcpPass);
            dropped(
                lab,
                "no cookie",
                &plain.tcp(&other, &[]),
                Reason::StrayLimit,
            );
            for _ in 0..3 {
                lab.expect("a cookie", &plain.tcp(&ack, &[]), Reason::TcpPass);
            }
            lab.guards.unlimit(Class::Stray);
        }
    });
}

#[test]
fn syn_acks_that_nobody_asked_for_are_limited_at_all_times_r_tcp_9_c_19() {
    in_namespace(|lab| {
        never_send("tcp dport 7");
        lab.enforce_guards();
        for plain in Envelope::PLAIN {
            let family = if plain.is_v6() {
                AddressFamily::Inet6
            } else {
                AddressFamily::Inet
            };
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let asking = socket(family, SockType::Stream, flags, None).unwrap();
            let local = SockaddrStorage::from(SocketAddr::new(plain.dst, 41_000));
            bind(asking.as_raw_fd(), &local).unwrap();
            let peer = SockaddrStorage::from(SocketAddr::new(plain.src, 7));
            assert_eq!(connect(asking.as_raw_fd(), &peer), Err(Errno::EINPROGRESS));
            let synack = |from, to| plain.tcp(&segment(from, to, 3, "SA"), &[]);

            for attacked in [false, true] {
                lab.rest(Class::StraySynAck, plain.src);
                lab.guards.limit(Class::StraySynAck, |l| l.host = only(2));
                if attacked {
                    attack(lab);
                } else {
                    peace(lab);
                }
                lab.expect("its share", &synack(443, 9), Reason::TcpPass);
                // A listener asked for nothing either.
                lab.expect("its share", &synack(443, PORT), Reason::TcpPass);
                for to in [9, PORT, 41_000] {
                    dropped(
                        lab,
                        "reflection",
                        &synack(443, to),
                        Reason::StraySynAckLimit,
                    );
                }
                for _ in 0..3 {
                    lab.expect("asked for", &synack(7, 41_000), Reason::TcpPass);
                }
                let other = plain.from(stranger(plain.src, 1, 1));
                lab.rest(Class::StraySynAck, other.src);
                let other = other.tcp(&segment(443, 9, 3, "SA"), &[]);
                lab.expect("another source", &other, Reason::TcpPass);
                let elsewhere = plain.to(stranger(plain.src, 9, 9));
                let elsewhere = elsewhere.tcp(&segment(443, 9, 3, "SA"), &[]);
                lab.expect("for another host", &elsewhere, Reason::TcpPass);
            }
        }
    });
}
