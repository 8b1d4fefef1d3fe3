//! ACKs through the loaded XDP program: which prove a cookie, which go to the kernel, which are dropped.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use etherparse::{TcpHeader, TcpOptionElement as E};
use net_common::{
    abi::{CookieKeys, Settings},
    cookie::{self, Flow, Terms},
    units::{Version, addr_words},
    verdict::Reason,
};
use net_tests::{
    frames::{ENVELOPES, Envelope, flags, read, segment},
    prog_run::{
        KEYS, Lab, PORT, Raw, ack, connect_from, in_namespace, linux_syn, syn, sysctl, timestamps,
        within_one_epoch,
    },
    wait,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends a SYN that must be answered, and returns the client's ACK.
#[track_caller]
fn handshake(lab: &mut Lab, envelope: &Envelope, syn: &TcpHeader) -> TcpHeader {
    let ran = lab.expect(envelope.name, &envelope.tcp(syn, &[]), Reason::CookieSent);
    ack(syn, &read(&ran.frame).tcp)
}

/// The ACK to a cookie that was made here, with the keys and for the epoch given.
fn forged(
    envelope: &Envelope,
    syn: &TcpHeader,
    key: &[u64; 2],
    epoch: u32,
    terms: Terms,
) -> TcpHeader {
    let ports = u32::from(syn.source_port) << 16 | u32::from(syn.destination_port);
    let flow = Flow {
        version: if envelope.is_v6() {
            Version::V6
        } else {
            Version::V4
        },
        src: addr_words(envelope.src),
        dst: addr_words(envelope.dst),
        ports: ports.to_be(),
        isn: syn.sequence_number,
    };
    let cookie = cookie::make(key, &flow, epoch, terms);
    let mut synack = segment(PORT, syn.source_port, cookie.isn, "SA");
    if terms.timestamps {
        synack
            .set_options(&[E::Timestamp(cookie.tsval, 0)])
            .unwrap();
    }
    ack(syn, &synack)
}

/// What [`linux_syn`] settles with the laboratory's listener.
fn linux_terms(envelope: &Envelope) -> Terms {
    let mss_index = if envelope.is_v6() { 2 } else { 3 };
    Terms {
        mss_index,
        timestamps: true,
        snd_wscale: 7,
        rcv_wscale: 9,
        sack: true,
        ecn: false,
    }
}

#[test]
fn an_honest_ack_is_proven_in_every_envelope_c_27() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let ack = handshake(lab, envelope, &linux_syn(40_000, 0xffff_ffff));
            let proven = lab.stats(envelope).cookies_proven;
            lab.expect(
                envelope.name,
                &envelope.tcp(&ack, &[]),
                Reason::CookieProven,
            );
            // The ACK may be lost, and the first data comes in its place.
            for letters in ["", "P", "F", "PF", "U"] {
                let mut later = ack.clone();
                flags(&mut later, letters);
                lab.expect(
                    letters,
                    &envelope.tcp(&later, &[1; 100]),
                    Reason::CookieProven,
                );
            }
            assert_eq!(lab.stats(envelope).cookies_proven, proven + 6);
            // Whatever stood around the SYN, the ACK may stand alone.
            let bare = if envelope.is_v6() {
                Envelope::V6
            } else {
                Envelope::V4
            };
            lab.expect("bare", &bare.tcp(&ack, &[]), Reason::CookieProven);
        }
    });
}

#[test]
fn cookies_of_every_combination_of_options_are_proven_c_13() {
    in_namespace(|lab| {
        let sizes = [
            None,
            Some(100),
            Some(536),
            Some(1300),
            Some(1440),
            Some(1460),
            Some(8940),
        ];
        for envelope in Envelope::PLAIN {
            for mss in sizes {
                for scale in [None, Some(0), Some(7), Some(14), Some(15)] {
                    for bits in 0..8 {
                        let mut options = Vec::new();
                        options.extend(mss.map(E::MaximumSegmentSize));
                        options.extend(
                            (bits & 1 != 0).then_some(E::SelectiveAcknowledgementPermitted),
                        );
                        options.extend((bits & 2 != 0).then_some(E::Timestamp(7, 0)));
                        options.extend(scale.map(E::WindowScale));
                        let mut syn = syn(40_000, 0x8000_0000 + bits, &options);
                        flags(&mut syn, if bits & 4 != 0 { "EC" } else { "" });
                        let ack = handshake(lab, &envelope, &syn);
                        let what = format!("{} {options:?}", envelope.name);
                        lab.expect(&what, &envelope.tcp(&ack, &[]), Reason::CookieProven);
                        let mut false_ack = ack.clone();
                        false_ack.acknowledgment_number ^= 1 << 29;
                        lab.expect(&what, &envelope.tcp(&false_ack, &[]), Reason::CookieFalse);
                    }
                }
            }
        }
    });
}

#[test]
fn any_flipped_bit_of_the_numbers_makes_the_ack_false() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let good = handshake(lab, &envelope, &linux_syn(40_000, 5));
            let (tsval, tsecr) = timestamps(&good).unwrap();
            for bit in 0..32 {
                let mut ack = good.clone();
                ack.acknowledgment_number ^= 1 << bit;
                lab.expect(
                    "acknowledgment",
                    &envelope.tcp(&ack, &[]),
                    Reason::CookieFalse,
                );
                let mut ack = good.clone();
                ack.sequence_number ^= 1 << bit;
                lab.expect("sequence", &envelope.tcp(&ack, &[]), Reason::CookieFalse);
                let mut ack = good.clone();
                ack.set_options(&[E::Noop, E::Noop, E::Timestamp(tsval, tsecr ^ 1 << bit)])
                    .unwrap();
                lab.expect("TSecr", &envelope.tcp(&ack, &[]), Reason::CookieFalse);
            }
            for bit in 0..32 {
                // The client's own clock goes on.
                let mut ack = good.clone();
                ack.set_options(&[E::Noop, E::Noop, E::Timestamp(tsval ^ 1 << bit, tsecr)])
                    .unwrap();
                lab.expect("TSval", &envelope.tcp(&ack, &[]), Reason::CookieProven);
            }
            assert_eq!(lab.stats(&envelope).cookies_failed, 96);
        }
    });
}

/// A batch comes by XDP as a whole before the socket of its first segment exists.
#[test]
fn what_stands_behind_a_proven_ack_in_its_batch_passes() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let good = handshake(lab, &envelope, &linux_syn(40_000, 5));
            let ahead = |octets: u32| {
                let mut tcp = good.clone();
                tcp.sequence_number = tcp.sequence_number.wrapping_add(octets);
                tcp
            };
            let [next, far, old] = [1400, 1 << 20, u32::MAX].map(ahead);
            let mut other = next.clone();
            other.acknowledgment_number ^= 1 << 10;
            let mut elsewhere = next.clone();
            elsewhere.source_port += 1;
            let data = |tcp| envelope.tcp(tcp, &[1; 9]);
            lab.expect("before", &data(&next), Reason::CookieFalse);
            // A batch is over soon, and received by one CPU: a busy machine may part the two.
            wait::until("data behind its ACK to pass", PATIENCE, || {
                lab.expect("the ACK", &envelope.tcp(&good, &[]), Reason::CookieProven);
                lab.run(&data(&next)).reason == Reason::AckOnSocket
            })
            .unwrap();
            for (what, tcp) in [
                ("far ahead", &far),
                ("old", &old),
                ("of another cookie", &other),
                ("from another port", &elsewhere),
            ] {
                lab.expect(what, &data(tcp), Reason::CookieFalse);
            }
            wait::until("the batch to be over", PATIENCE, || {
                lab.run(&data(&next)).reason == Reason::CookieFalse
            })
            .unwrap();
        }
    });
}

#[test]
fn a_cookie_lives_for_its_own_epoch_and_the_next_c_4() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let syn = linux_syn(40_000, 5);
            let terms = linux_terms(envelope);
            for (age, reason) in [
                (0, Reason::CookieProven),
                (1, Reason::CookieProven),
                (2, Reason::CookieFalse),
                (3, Reason::CookieFalse),
                (4, Reason::CookieFalse),
                (u32::MAX, Reason::CookieFalse),
            ] {
                let (ran, _) = within_one_epoch(|epoch| {
                    lab.set_last_epoch(Some(epoch));
                    let ack = forged(envelope, &syn, &KEYS[0], epoch.wrapping_sub(age), terms);
                    (lab.run(&envelope.tcp(&ack, &[])).reason, ())
                });
                assert_eq!(ran, reason, "{} epochs old, {}", age as i32, envelope.name);
            }
        }
    });
}

#[test]
fn acks_are_checked_only_while_cookies_are_outstanding() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let frame = envelope.tcp(&segment(40_000, PORT, 9, "A"), &[]);
            for (age, reason) in [
                (None, Reason::TcpPass),
                (Some(0), Reason::CookieFalse),
                (Some(1), Reason::CookieFalse),
                (Some(2), Reason::TcpPass),
                (Some(3), Reason::TcpPass),
                (Some(1000), Reason::TcpPass),
            ] {
                let ran = within_one_epoch(|epoch| {
                    lab.set_last_epoch(age.map(|age: u32| epoch.wrapping_sub(age)));
                    lab.run(&frame).reason
                });
                assert_eq!(
                    ran, reason,
                    "the last cookie {age:?} epochs ago, {}",
                    envelope.name
                );
            }
        }
    });
}

#[test]
fn the_first_cookie_makes_the_port_watched_and_no_other_port() {
    in_namespace(|lab| {
        let envelope = Envelope::V4;
        let false_ack = envelope.tcp(&segment(40_000, PORT, 9, "A"), &[]);
        let other = envelope.tcp(&segment(40_000, PORT + 1, 9, "A"), &[]);
        lab.expect("before", &false_ack, Reason::TcpPass);
        handshake(lab, &envelope, &linux_syn(40_001, 5));
        lab.expect("after", &false_ack, Reason::CookieFalse);
        lab.expect("another port", &other, Reason::TcpPass);
    });
}

#[test]
fn a_cookie_of_another_tuple_is_false_c_5() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let ack = handshake(lab, envelope, &linux_syn(40_000, 5));
            let (near, far): (IpAddr, IpAddr) = if envelope.is_v6() {
                (
                    "2001:db8::8".parse().unwrap(),
                    "a001:db8::9".parse().unwrap(),
                )
            } else {
                ([192, 0, 2, 8].into(), [64, 0, 2, 9].into())
            };
            for src in [near, far] {
                lab.expect(
                    "another address",
                    &envelope.from(src).tcp(&ack, &[]),
                    Reason::CookieFalse,
                );
            }
            let mut other = ack.clone();
            other.source_port += 1;
            lab.expect(
                "another port",
                &envelope.tcp(&other, &[]),
                Reason::CookieFalse,
            );
            // The other family with the same ports and numbers.
            let family = if envelope.is_v6() {
                Envelope::V4
            } else {
                Envelope::V6
            };
            lab.expect(
                "another family",
                &family.tcp(&ack, &[]),
                Reason::CookieFalse,
            );
            lab.expect("its own", &envelope.tcp(&ack, &[]), Reason::CookieProven);
        }
    });
}

#[test]
fn keys_may_be_rotated_in_the_middle_of_a_handshake_c_6() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            lab.set_keys(&CookieKeys {
                keys: [KEYS[0], [0; 2]],
                current: 0,
                valid: 1,
                since_ns: 0,
            });
            let old = handshake(lab, envelope, &linux_syn(40_000, 5));
            // The idle slot first, then the flip.
            lab.set_keys(&CookieKeys {
                keys: KEYS,
                current: 0,
                valid: 2,
                since_ns: 0,
            });
            lab.expect(
                "idle slot written",
                &envelope.tcp(&old, &[]),
                Reason::CookieProven,
            );
            lab.set_keys(&CookieKeys {
                keys: KEYS,
                current: 1,
                valid: 2,
                since_ns: 0,
            });
            lab.expect("flipped", &envelope.tcp(&old, &[]), Reason::CookieProven);
            let new = handshake(lab, envelope, &linux_syn(40_000, 5));
            assert_ne!(
                new.acknowledgment_number, old.acknowledgment_number,
                "made with the new key"
            );
            lab.expect("new", &envelope.tcp(&new, &[]), Reason::CookieProven);
            // The next rotation overwrites the first key.
            lab.set_keys(&CookieKeys {
                keys: [[1, 2], KEYS[1]],
                current: 0,
                valid: 2,
                since_ns: 0,
            });
            lab.expect(
                "two rotations ago",
                &envelope.tcp(&old, &[]),
                Reason::CookieFalse,
            );
            lab.expect(
                "one rotation ago",
                &envelope.tcp(&new, &[]),
                Reason::CookieProven,
            );
        }
    });
}

#[test]
fn an_empty_key_slot_opens_nothing() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let syn = linux_syn(40_000, 5);
            for (valid, reason) in [
                (1, Reason::CookieFalse),
                (2, Reason::CookieProven),
                (1, Reason::CookieFalse),
            ] {
                lab.set_keys(&CookieKeys {
                    keys: [KEYS[0], [0; 2]],
                    current: 0,
                    valid,
                    since_ns: 0,
                });
                let ran = within_one_epoch(|epoch| {
                    lab.set_last_epoch(Some(epoch));
                    let ack = forged(&envelope, &syn, &[0; 2], epoch, linux_terms(&envelope));
                    lab.run(&envelope.tcp(&ack, &[])).reason
                });
                assert_eq!(ran, reason, "{valid} keys valid");
            }
        }
    });
}

#[test]
fn an_ack_that_loses_or_invents_timestamps_is_false_c_7() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let mut lost = handshake(lab, envelope, &linux_syn(40_000, 5));
            lost.set_options(&[]).unwrap();
            lab.expect("lost", &envelope.tcp(&lost, &[]), Reason::CookieFalse);
            let mut invented = handshake(
                lab,
                envelope,
                &syn(40_000, 5, &[E::MaximumSegmentSize(1460)]),
            );
            lab.expect(
                "without",
                &envelope.tcp(&invented, &[]),
                Reason::CookieProven,
            );
            invented
                .set_options(&[E::Noop, E::Noop, E::Timestamp(1, 2)])
                .unwrap();
            lab.expect(
                "invented",
                &envelope.tcp(&invented, &[]),
                Reason::CookieFalse,
            );
        }
    });
}

#[test]
fn timestamps_are_found_wherever_they_stand_among_the_options() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let good = handshake(lab, &envelope, &linux_syn(40_000, 5));
            let (val, ecr) = timestamps(&good).unwrap();
            let stamp = [&[8, 10][..], &val.to_be_bytes(), &ecr.to_be_bytes()].concat();
            for (what, before, after, reason) in [
                ("first", vec![], vec![0, 0], Reason::CookieProven),
                (
                    "behind SACK blocks",
                    [&[1, 1, 5, 18][..], &[7; 16]].concat(),
                    vec![1, 1],
                    Reason::CookieProven,
                ),
                (
                    "behind an unknown option",
                    vec![253, 5, 1, 2, 3, 1],
                    vec![],
                    Reason::CookieProven,
                ),
                (
                    "behind the end of the list",
                    vec![1, 0],
                    vec![],
                    Reason::CookieFalse,
                ),
                (
                    "behind a broken option",
                    vec![253, 1],
                    vec![],
                    Reason::CookieFalse,
                ),
            ] {
                let mut ack = good.clone();
                ack.set_options_raw(&[&before[..], &stamp, &after].concat())
                    .unwrap();
                lab.expect(what, &envelope.tcp(&ack, &[]), reason);
            }
        }
    });
}

#[test]
fn a_listener_whose_scale_has_changed_since_refuses_instead_of_corrupting_the_window() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let ack = handshake(lab, &envelope, &linux_syn(40_000, 5));
            for (wscale, reason) in [
                (9, Reason::CookieProven),
                (8, Reason::CookieFalse),
                (9, Reason::CookieProven),
            ] {
                lab.set_listeners(|l| l.wscale = wscale);
                lab.expect("ACK", &envelope.tcp(&ack, &[]), reason);
            }
        }
    });
}

#[test]
fn false_acks_pass_in_observe_mode_and_are_counted() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let mut ack = handshake(lab, envelope, &linux_syn(40_000, 5));
            ack.acknowledgment_number += 1;
            let frame = envelope.tcp(&ack, &[]);
            for observe in [false, true, false] {
                lab.set_flag(Settings::OBSERVE, observe);
                let ran = lab.run(&frame);
                assert_eq!((ran.reason, ran.observed), (Reason::CookieFalse, observe));
            }
        }
    });
}

#[test]
fn an_ack_whose_options_lie_beyond_the_linear_part_is_not_called_false_r_gen_2() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let ack = handshake(lab, envelope, &linux_syn(40_000, 5));
            let frame = envelope.tcp(&ack, &[1; 100]);
            let end = envelope.l4() + ack.header_len();
            for linear in [end - 12, end - 1] {
                let ran = lab.run_split(&frame, linear);
                assert_eq!(ran.reason, Reason::ParserLimit, "{}", envelope.name);
            }
            let ran = lab.run_split(&frame, end);
            assert_eq!(ran.reason, Reason::CookieProven, "{}", envelope.name);
        }
    });
}

#[test]
fn an_ack_of_an_open_connection_is_the_sockets() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let client = SocketAddr::new(envelope.src, 40_000);
            let frame = envelope.tcp(&segment(client.port(), PORT, 9, "A"), &[]);
            lab.expect("in peace", &frame, Reason::TcpPass);
            handshake(lab, &envelope, &linux_syn(40_001, 5));
            lab.expect("no connection", &frame, Reason::CookieFalse);
            let stream = connect_from(client, SocketAddr::new(envelope.dst, PORT));
            for wrapped in ENVELOPES.iter().filter(|e| e.is_v6() == envelope.is_v6()) {
                for letters in ["A", "PA", "FA"] {
                    let frame = wrapped.tcp(&segment(client.port(), PORT, 9, letters), &[1]);
                    lab.expect(wrapped.name, &frame, Reason::AckOnSocket);
                }
                // RST and SYN-ACK are no cookie's concern.
                for letters in ["R", "RA", "SA"] {
                    let frame = wrapped.tcp(&segment(client.port(), PORT, 9, letters), &[]);
                    lab.expect(wrapped.name, &frame, Reason::TcpPass);
                }
            }
            drop(stream);
            lab.set_last_epoch(None);
        }
    });
}

#[test]
fn an_ack_to_what_listens_no_more_is_the_kernels_to_reset_c_18() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let ack = handshake(lab, envelope, &linux_syn(40_000, 5));
            let false_ack = segment(40_000, PORT, 9, "A");
            lab.close();
            for ack in [&ack, &false_ack] {
                lab.expect("no socket", &envelope.tcp(ack, &[]), Reason::TcpPass);
            }
            lab.open();
            lab.expect("open again", &envelope.tcp(&ack, &[]), Reason::CookieProven);
            lab.forget_listeners();
            lab.expect(
                "unprotected",
                &envelope.tcp(&false_ack, &[]),
                Reason::TcpPass,
            );
            lab.set_listeners(|_| {});
            lab.expect(
                "protected again",
                &envelope.tcp(&false_ack, &[]),
                Reason::CookieFalse,
            );
        }
    });
}

#[test]
fn an_ack_to_another_address_is_not_judged_r_gen_1() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            handshake(lab, envelope, &linux_syn(40_000, 5));
            let ack = segment(40_000, PORT, 9, "A");
            let elsewhere: IpAddr = if envelope.is_v6() {
                "2001:db8::2".parse().unwrap()
            } else {
                [192, 0, 2, 2].into()
            };
            lab.expect(
                "forwarded",
                &envelope.to(elsewhere).tcp(&ack, &[]),
                Reason::TcpPass,
            );
            let mut frame = envelope.tcp(&ack, &[]);
            lab.expect("ours", &frame, Reason::CookieFalse);
            frame[5] ^= 1;
            lab.expect("another link-layer address", &frame, Reason::TcpPass);
        }
    });
}

#[test]
fn a_cookie_of_the_kernels_own_goes_to_the_kernel() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            sysctl("net.ipv4.tcp_syncookies", "2");
            let client = SocketAddr::new(envelope.src, 40_000);
            // Sees the segments that arrive at the server, the ACK to its cookie among them.
            let server = Raw::open(envelope.dst);
            let stream = connect_from(client, SocketAddr::new(envelope.dst, PORT));
            let ack = server.wait(|t, _| t.source_port == client.port() && t.ack && !t.syn);
            // The data path must check ACKs at all.
            handshake(lab, &envelope, &linux_syn(40_001, 5));
            lab.expect("connected", &envelope.tcp(&ack, &[]), Reason::AckOnSocket);
            reset(stream);
            let accepted = lab.sockets.as_ref().unwrap()[usize::from(envelope.is_v6())].accept();
            drop(accepted);
            for wrapped in ENVELOPES.iter().filter(|e| e.is_v6() == envelope.is_v6()) {
                lab.expect(wrapped.name, &wrapped.tcp(&ack, &[]), Reason::KernelCookie);
                let mut other = ack.clone();
                other.acknowledgment_number ^= 1 << 30;
                lab.expect(wrapped.name, &wrapped.tcp(&other, &[]), Reason::CookieFalse);
            }
            // Ours is still ours.
            let own = handshake(lab, &envelope, &linux_syn(40_002, 5));
            lab.expect("own", &envelope.tcp(&own, &[]), Reason::CookieProven);
            sysctl("net.ipv4.tcp_syncookies", "0");
            lab.expect(
                "switched off",
                &envelope.tcp(&ack, &[]),
                Reason::CookieFalse,
            );
        }
    });
}

/// Closes a connection with RST, which leaves no TIME_WAIT behind.
fn reset(stream: std::net::TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger).expect("SO_LINGER");
}
