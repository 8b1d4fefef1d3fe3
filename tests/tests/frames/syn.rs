//! SYNs through the loaded XDP program: who is answered, and that the answer is right to the last octet.

use std::net::{IpAddr, SocketAddr};

use etherparse::{TcpHeader, TcpOptionElement as E};
use net_common::{
    abi::{Listener, Settings},
    verdict::Reason,
};
use net_tests::{
    frames::{CLIENT_MAC, ENVELOPES, Envelope, SERVER_MAC, flags, read},
    prog_run::{
        Lab, PORT, Ran, connect_from, in_namespace, linux_syn, never_send, send, syn, sysctl,
        within_one_epoch,
    },
};

/// What a client may ask for.
#[derive(Clone, Copy, Debug)]
struct Wish {
    mss: Option<u16>,
    scale: Option<u8>,
    sack: bool,
    timestamps: bool,
    ecn: bool,
}

const TSVAL: u32 = 0xdead_0001;

impl Wish {
    fn all() -> impl Iterator<Item = Self> {
        let sizes = [
            None,
            Some(0),
            Some(536),
            Some(1220),
            Some(1459),
            Some(1460),
            Some(9000),
            Some(u16::MAX),
        ];
        let scales = [None, Some(0), Some(7), Some(14), Some(15), Some(255)];
        sizes.into_iter().flat_map(move |mss| {
            scales.into_iter().flat_map(move |scale| {
                (0..8).map(move |bits| Self {
                    mss,
                    scale,
                    sack: bits & 1 != 0,
                    timestamps: bits & 2 != 0,
                    ecn: bits & 4 != 0,
                })
            })
        })
    }

    fn syn(self, port: u16) -> TcpHeader {
        let mut options = Vec::new();
        options.extend(self.mss.map(E::MaximumSegmentSize));
        options.extend(self.sack.then_some(E::SelectiveAcknowledgementPermitted));
        options.extend(self.timestamps.then_some(E::Timestamp(TSVAL, 0)));
        if let Some(scale) = self.scale {
            options.extend([E::Noop, E::WindowScale(scale)]);
        }
        let mut tcp = syn(port, 0xffff_ffff, &options);
        flags(&mut tcp, if self.ecn { "EC" } else { "" });
        tcp
    }

    /// The options of the answer: what survives a cookie (R-SYN-12), in the order Linux sends them.
    fn answered(self, listener: &Listener) -> Vec<E> {
        let mut options = vec![E::MaximumSegmentSize(listener.mss)];
        if self.timestamps {
            if self.sack {
                options.push(E::SelectiveAcknowledgementPermitted);
            } else {
                options.extend([E::Noop, E::Noop]);
            }
            // The value itself is the cookie's.
            options.push(E::Timestamp(0, TSVAL));
            if self.scale.is_some() {
                options.extend([E::Noop, E::WindowScale(listener.wscale)]);
            } else {
                options.extend(vec![E::Noop; 4]);
            }
        }
        options
    }
}

/// The answer without the numbers that are the cookie's.
fn options(tcp: &TcpHeader) -> Vec<E> {
    let without_cookie = |o| match o {
        E::Timestamp(_, echo) => E::Timestamp(0, echo),
        other => other,
    };
    tcp.options_iterator()
        .map(|o| without_cookie(o.expect("well-formed options")))
        .collect()
}

/// Asserts everything about an answer but its cookie.
#[track_caller]
fn check_answer(
    lab: &Lab,
    envelope: &Envelope,
    syn: &TcpHeader,
    ran: &Ran,
    wanted: &[E],
    ecn: bool,
) {
    let listener = lab.listener(envelope);
    let what = format!("{} to {syn:?}", envelope.name);
    let reply = read(&ran.frame);
    assert_eq!(reply.ethernet.source, SERVER_MAC, "{what}");
    assert_eq!(reply.ethernet.destination, CLIENT_MAC, "{what}");
    assert_eq!(reply.tags, envelope.tags, "{what}");
    assert_eq!(
        (reply.src, reply.dst),
        (envelope.dst, envelope.src),
        "{what}"
    );
    assert_eq!(reply.hop_limit, listener.hop_limit, "{what}");
    assert_eq!(
        reply.traffic_class, 0,
        "a SYN-ACK is not ECN-capable transport (RFC 3168 6.1.1)"
    );
    assert_eq!(
        (reply.extra, reply.trailer, reply.data.len()),
        (0, 0, 0),
        "{what}: the header and no more"
    );
    let tcp = &reply.tcp;
    assert_eq!(
        (tcp.source_port, tcp.destination_port),
        (syn.destination_port, syn.source_port),
        "{what}"
    );
    assert_eq!(
        tcp.acknowledgment_number,
        syn.sequence_number.wrapping_add(1),
        "{what}: the SYN and no data"
    );
    assert_eq!(tcp.window_size, listener.window, "{what}");
    assert_eq!(tcp.urgent_pointer, 0, "{what}");
    let set = (
        tcp.syn,
        tcp.ack,
        tcp.ece,
        tcp.cwr,
        tcp.fin || tcp.rst || tcp.psh || tcp.urg || tcp.ns,
    );
    assert_eq!(set, (true, true, ecn, false, false), "{what}");
    assert_eq!(options(tcp), wanted, "{what}");
}

#[test]
fn the_answer_is_right_in_every_envelope_c_27_c_28() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let tcp = linux_syn(40_000, 0xffff_ffff);
            let ran = lab.expect(envelope.name, &envelope.tcp(&tcp, &[]), Reason::CookieSent);
            assert_eq!(
                ran.notes,
                [],
                "no socket look-up for a source that the filter rules out"
            );
            let listener = lab.listener(envelope);
            let wanted = [
                E::MaximumSegmentSize(listener.mss),
                E::SelectiveAcknowledgementPermitted,
                E::Timestamp(0, 0x0102_0304),
                E::Noop,
                E::WindowScale(listener.wscale),
            ];
            check_answer(lab, envelope, &tcp, &ran, &wanted, false);
        }
        for envelope in Envelope::PLAIN {
            assert_eq!(lab.stats(&envelope).cookies_sent, {
                ENVELOPES
                    .iter()
                    .filter(|e| e.is_v6() == envelope.is_v6())
                    .count() as u64
            });
        }
    });
}

#[test]
fn every_combination_of_options_gets_what_survives_a_cookie_c_13() {
    in_namespace(|lab| {
        for envelope in [
            ENVELOPES[0],
            ENVELOPES[6],
            Envelope::V6,
            *ENVELOPES.last().unwrap(),
        ] {
            for wish in Wish::all() {
                let tcp = wish.syn(40_000);
                let ran = lab.expect(envelope.name, &envelope.tcp(&tcp, &[]), Reason::CookieSent);
                let wanted = wish.answered(&lab.listener(&envelope));
                check_answer(
                    lab,
                    &envelope,
                    &tcp,
                    &ran,
                    &wanted,
                    wish.ecn && wish.timestamps,
                );
            }
        }
    });
}

#[test]
fn what_the_host_forbids_is_not_agreed_to() {
    in_namespace(|lab| {
        let wish = Wish {
            mss: Some(1460),
            scale: Some(7),
            sack: true,
            timestamps: true,
            ecn: true,
        };
        for (flag, granted) in [
            (
                Listener::TIMESTAMPS,
                Wish {
                    timestamps: false,
                    ..wish
                },
            ),
            (
                Listener::SACK,
                Wish {
                    sack: false,
                    ..wish
                },
            ),
            (
                Listener::WINDOW_SCALING,
                Wish {
                    scale: None,
                    ..wish
                },
            ),
            (Listener::ECN, Wish { ecn: false, ..wish }),
        ] {
            for (on, granted) in [(true, wish), (false, granted), (true, wish)] {
                lab.set_listeners(|l| {
                    if on {
                        l.flags |= flag;
                    } else {
                        l.flags &= !flag;
                    }
                });
                for envelope in Envelope::PLAIN {
                    let tcp = wish.syn(40_000);
                    let ran = lab.expect("SYN", &envelope.tcp(&tcp, &[]), Reason::CookieSent);
                    let wanted = granted.answered(&lab.listener(&envelope));
                    check_answer(
                        lab,
                        &envelope,
                        &tcp,
                        &ran,
                        &wanted,
                        granted.ecn && granted.timestamps,
                    );
                }
            }
        }
    });
}

#[test]
fn ecn_is_agreed_to_only_for_a_setup_syn_that_is_not_ect() {
    in_namespace(|lab| {
        for (what, letters, traffic_class, want) in [
            ("ECE and CWR", "EC", 0, true),
            ("with a DSCP", "EC", 46 << 2, true),
            ("ECE alone", "E", 0, false),
            ("CWR alone", "C", 0, false),
            ("marked ECT(0)", "EC", 2, false),
            ("marked CE", "EC", 3, false),
        ] {
            for envelope in Envelope::PLAIN {
                let mut tcp = linux_syn(40_000, 5);
                flags(&mut tcp, letters);
                let envelope = Envelope {
                    traffic_class,
                    ..envelope
                };
                let ran = lab.expect(what, &envelope.tcp(&tcp, &[]), Reason::CookieSent);
                assert_eq!(read(&ran.frame).tcp.ece, want, "{what}");
            }
        }
    });
}

#[test]
fn the_frame_grows_and_shrinks_to_its_answer() {
    in_namespace(|lab| {
        // Octets of the SYN-ACK: 24 without timestamps, 40 with them.
        let table: &[(&str, &[E], usize, usize)] = &[
            ("a bare SYN grows", &[], 0, 24),
            ("timestamps alone: grows", &[E::Timestamp(TSVAL, 0)], 0, 40),
            (
                "SACK and scale go with their room",
                &[
                    E::SelectiveAcknowledgementPermitted,
                    E::Noop,
                    E::WindowScale(2),
                ],
                0,
                24,
            ),
            ("data goes", &[], 1000, 24),
            (
                "data goes, with timestamps",
                &[E::Timestamp(TSVAL, 0)],
                1000,
                40,
            ),
            ("one octet of data", &[E::MaximumSegmentSize(9)], 1, 24),
        ];
        for envelope in ENVELOPES {
            for (what, options, data, len) in table {
                let tcp = syn(40_000, 77, options);
                let frame = envelope.tcp(&tcp, &vec![0xee; *data]);
                let ran = lab.expect(what, &frame, Reason::CookieSent);
                let ip = if envelope.is_v6() { 40 } else { 20 };
                assert_eq!(
                    ran.frame.len(),
                    envelope.l3() + ip + len,
                    "{what}, {}",
                    envelope.name
                );
                assert_eq!(
                    read(&ran.frame).tcp.acknowledgment_number,
                    78,
                    "{what}: data is not acknowledged"
                );
            }
        }
    });
}

#[test]
fn options_that_make_no_sense_are_read_as_the_kernel_reads_them_c_17() {
    in_namespace(|lab| {
        let only_mss = |l: &Listener| vec![E::MaximumSegmentSize(l.mss)];
        let with_timestamps = |l: &Listener| {
            let mut options = vec![E::MaximumSegmentSize(l.mss), E::Noop, E::Noop];
            options.push(E::Timestamp(0, 0x0101_0101));
            options.extend(vec![E::Noop; 4]);
            options
        };
        type Wanted<'a> = &'a dyn Fn(&Listener) -> Vec<E>;
        let table: &[(&str, Vec<u8>, Wanted)] = &[
            ("length 0", vec![8, 0, 1, 1], &only_mss),
            ("length 1", vec![8, 1, 1, 1], &only_mss),
            ("length beyond the header", vec![1, 1, 8, 10], &only_mss),
            ("a kind and no length", vec![1, 1, 1, 8], &only_mss),
            (
                "timestamps of a wrong length",
                [&[8, 9][..], &[1; 7], &[1; 3]].concat(),
                &only_mss,
            ),
            (
                "timestamps behind the end of the list",
                [&[0, 0, 8, 10][..], &[1; 8]].concat(),
                &only_mss,
            ),
            (
                "timestamps behind 24 paddings: Linux reads on, we do not",
                [&[1; 24][..], &[8, 10], &[1; 8], &[1; 6]].concat(),
                &only_mss,
            ),
            (
                "timestamps behind 23 paddings",
                [&[1; 23][..], &[8, 10], &[1; 8], &[1; 7]].concat(),
                &with_timestamps,
            ),
            (
                "timestamps behind an unknown option",
                [&[200, 6, 0, 0, 0, 0][..], &[8, 10], &[1; 8]].concat(),
                &with_timestamps,
            ),
            ("forty octets of nothing", vec![0; 40], &only_mss),
            (
                "forty octets of a kind unknown",
                [&[253, 40][..], &[9; 38]].concat(),
                &only_mss,
            ),
            ("forty octets of 255", vec![255; 40], &only_mss),
        ];
        for envelope in Envelope::PLAIN {
            for (what, octets, wanted) in table {
                let mut tcp = syn(40_000, 5, &[]);
                tcp.set_options_raw(octets).unwrap();
                let ran = lab.expect(what, &envelope.tcp(&tcp, &[]), Reason::CookieSent);
                let wanted = wanted(&lab.listener(&envelope));
                assert_eq!(options(&read(&ran.frame).tcp), wanted, "{what}");
            }
        }
    });
}

#[test]
fn cookies_differ_by_client_and_repeat_for_a_repeated_syn() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let mut isn = |port: u16, seq: u32| {
                let ran = lab.expect(
                    "SYN",
                    &envelope.tcp(&linux_syn(port, seq), &[]),
                    Reason::CookieSent,
                );
                read(&ran.frame).tcp.sequence_number.wrapping_sub(seq)
            };
            within_one_epoch(|_| {
                let first = isn(40_000, 5);
                assert_eq!(isn(40_000, 5), first);
                assert_ne!(isn(40_001, 5), first);
                assert_ne!(isn(40_000, 6), first);
            });
        }
    });
}

#[test]
fn only_a_listener_of_ours_is_answered_for_r_gen_1_r_syn_8() {
    in_namespace(|lab| {
        type Change = fn(Envelope) -> Envelope;
        let table: &[(&str, Change, u16)] = &[
            ("another port", |e| e, PORT + 1),
            ("the port with its octets swapped", |e| e, PORT.swap_bytes()),
            (
                "a forwarded packet",
                |e| {
                    if e.is_v6() {
                        e.to([0x2001, 0xdb8, 0, 0, 0, 0, 0, 2])
                    } else {
                        e.to([192, 0, 2, 2])
                    }
                },
                PORT,
            ),
            (
                "another prefix",
                |e| {
                    if e.is_v6() {
                        e.to([0x2001, 0xdb9, 0, 0, 0, 0, 0, 1])
                    } else {
                        e.to([192, 0, 3, 1])
                    }
                },
                PORT,
            ),
        ];
        for envelope in ENVELOPES {
            for (what, change, port) in table {
                let mut tcp = linux_syn(40_000, 5);
                tcp.destination_port = *port;
                let frame = change(*envelope).tcp(&tcp, &[]);
                lab.expect(
                    &format!("{what}, {}", envelope.name),
                    &frame,
                    Reason::SynUnprotected,
                );
            }
        }
    });
}

#[test]
fn a_frame_for_another_link_layer_address_is_not_for_us() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let mut frame = envelope.tcp(&linux_syn(40_000, 5), &[]);
            for (what, mac) in [
                ("broadcast", [0xff; 6]),
                ("multicast", [1, 0, 0x5e, 0, 0, 1]),
                ("another host", CLIENT_MAC),
                ("VRRP", [0, 0, 0x5e, 0, 1, 7]),
                (
                    "the last octet differs",
                    [0x06, 0x51, 0x52, 0x53, 0x54, 0x54],
                ),
                (
                    "the fourth octet differs",
                    [0x06, 0x51, 0x52, 0x43, 0x54, 0x55],
                ),
            ] {
                frame[..6].copy_from_slice(&mac);
                lab.expect(what, &frame, Reason::SynUnprotected);
            }
            frame[..6].copy_from_slice(&SERVER_MAC);
            lab.expect("ours", &frame, Reason::CookieSent);
        }
    });
}

#[test]
fn a_listener_is_answered_for_while_it_is_known_and_no_longer() {
    in_namespace(|lab| {
        let frames = ENVELOPES
            .iter()
            .map(|e| (e.name, e.tcp(&linux_syn(40_000, 5), &[])));
        let frames: Vec<_> = frames.collect();
        for (known, want) in [
            (false, Reason::SynUnprotected),
            (true, Reason::CookieSent),
            (false, Reason::SynUnprotected),
        ] {
            if known {
                lab.set_listeners(|_| {});
            } else {
                lab.forget_listeners();
            }
            for (name, frame) in &frames {
                lab.expect(name, frame, want);
            }
        }
    });
}

#[test]
fn signed_syns_are_the_kernels_r_syn_9_c_12() {
    in_namespace(|lab| {
        let mut md5 = vec![19, 18];
        md5.extend([0xab; 16]);
        md5.extend([1, 1]);
        let mut ao = vec![29, 16, 1, 2];
        ao.extend([0xcd; 12]);
        // As Linux orders them, and at the end of a full header.
        let linux = [
            &[2, 4, 5, 0xb4][..],
            &[1, 1],
            &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0],
            &[29, 16, 1, 2],
            &[0; 12],
        ]
        .concat();
        let late = [
            &[2, 4, 5, 0xb4, 1, 3, 3, 7][..],
            &[1; 14],
            &[19, 18],
            &[0xab; 16],
        ]
        .concat();
        for envelope in ENVELOPES {
            for (what, options) in [
                ("MD5", &md5),
                ("AO", &ao),
                ("AO, as Linux sends it", &linux),
                ("MD5, late", &late),
            ] {
                let mut tcp = syn(40_000, 5, &[]);
                tcp.set_options_raw(options).unwrap();
                let frame = envelope.tcp(&tcp, &[]);
                lab.expect(
                    &format!("{what}, {}", envelope.name),
                    &frame,
                    Reason::SynSigned,
                );
            }
        }
        // The kernel has made a request socket for it: from now on its source is looked up.
        for envelope in Envelope::PLAIN {
            let ran = lab.expect(
                "unsigned",
                &envelope.tcp(&linux_syn(40_000, 5), &[]),
                Reason::CookieSent,
            );
            assert_eq!(ran.notes, [Reason::SocketLookup]);
        }
    });
}

#[test]
fn a_syn_whose_tuple_a_socket_holds_is_the_kernels_r_syn_8_c_9() {
    in_namespace(|lab| {
        for complete in [false, true] {
            lab.set_flag(Settings::FILTER_COMPLETE, complete);
            for envelope in Envelope::PLAIN {
                let client = SocketAddr::new(envelope.src, 40_000 + u16::from(complete));
                let frame = envelope.tcp(&linux_syn(client.port(), 5), &[]);
                let other = envelope.tcp(&linux_syn(50_000, 5), &[]);
                let ran = lab.expect("before", &frame, Reason::CookieSent);
                assert_eq!(
                    ran.notes.is_empty(),
                    complete && !known(lab, &envelope),
                    "looked up or ruled out"
                );

                // The tracepoint is not attached here; the data path learns of the source from its SYN.
                pass_one(lab, &envelope);
                let stream = connect_from(client, SocketAddr::new(envelope.dst, PORT));
                let accepted = lab.sockets.as_ref().unwrap()[usize::from(envelope.is_v6())]
                    .accept()
                    .unwrap();
                let ran = lab.expect("established", &frame, Reason::SynOnSocket);
                assert_eq!(ran.notes, [Reason::SocketLookup]);
                lab.expect(
                    "another tuple of the same client",
                    &other,
                    Reason::CookieSent,
                );

                // The server closes first and keeps the tuple in TIME_WAIT.
                drop(accepted);
                wait_for_end(&stream);
                drop(stream);
                lab.expect("TIME_WAIT", &frame, Reason::SynOnSocket);
                for wrapped in ENVELOPES.iter().filter(|e| e.is_v6() == envelope.is_v6()) {
                    let frame = wrapped.tcp(&linux_syn(client.port(), 5), &[]);
                    lab.expect(wrapped.name, &frame, Reason::SynOnSocket);
                }
            }
        }
    });
}

/// Whether an earlier turn has made the source known to the filter.
fn known(lab: &Lab, envelope: &Envelope) -> bool {
    lab.stats(envelope).syns_passed > 0
}

/// Has one SYN of the envelope's source pass, as the first of a connection inside the budget does.
fn pass_one(lab: &mut Lab, envelope: &Envelope) {
    lab.set_flag(Settings::DRAIN, true);
    lab.expect(
        "draining",
        &envelope.tcp(&linux_syn(1, 5), &[]),
        Reason::SynInBudget,
    );
    lab.set_flag(Settings::DRAIN, false);
}

fn wait_for_end(mut stream: &std::net::TcpStream) {
    use std::io::Read as _;
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the server has closed");
}

#[test]
fn a_repeated_syn_of_a_request_socket_is_the_kernels_c_8() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let tcp = linux_syn(40_000, 5);
            lab.set_flag(Settings::FILTER_COMPLETE, false);
            lab.expect("before", &envelope.tcp(&tcp, &[]), Reason::CookieSent);
            // The client's host never sees the SYN-ACK, so it does not reset the request socket.
            never_send("tcp flags & (syn|ack) == syn|ack");
            send(&envelope, &tcp, &[]);
            lab.expect(
                "request socket",
                &envelope.tcp(&tcp, &[]),
                Reason::SynOnSocket,
            );
        }
    });
}

#[test]
fn a_listener_that_is_gone_is_not_answered_for_when_it_is_looked_up_r_syn_8() {
    in_namespace(|lab| {
        lab.set_flag(Settings::FILTER_COMPLETE, false);
        let frames = Envelope::PLAIN.map(|e| e.tcp(&linux_syn(40_000, 5), &[]));
        for frame in &frames {
            let ran = lab.expect("open", frame, Reason::CookieSent);
            assert_eq!(ran.notes, [Reason::SocketLookup]);
        }
        lab.close();
        for frame in &frames {
            let ran = lab.expect("closed", frame, Reason::SynUnprotected);
            assert_eq!(ran.notes, [Reason::SocketLookup]);
        }
        lab.open();
        for frame in &frames {
            lab.expect("open again", frame, Reason::CookieSent);
        }
    });
}

#[test]
fn an_answer_that_cannot_be_written_leaves_the_syn_to_the_kernel() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            // A padding beyond the linear part: the frame would grow there, not where the answer stands.
            let tcp = syn(40_000, 5, &[E::Timestamp(TSVAL, 0)]);
            let packet = envelope.tcp(&tcp, &[]);
            let padded = Envelope {
                padding: 4,
                ..envelope
            }
            .tcp(&tcp, &[]);
            assert_eq!(lab.run(&packet).reason, Reason::CookieSent);
            assert_eq!(lab.run(&padded).reason, Reason::CookieSent);
            let ran = lab.run_split(&padded, packet.len());
            assert_eq!(ran.reason, Reason::ReplyImpossible, "{}", envelope.name);
            assert_eq!(
                lab.stats(&envelope).cookies_sent,
                2,
                "counted only when sent"
            );
            let ran = lab.expect("again", &packet, Reason::CookieSent);
            assert_eq!(
                ran.notes,
                [Reason::SocketLookup],
                "the kernel may have a request socket now"
            );
        }
    });
}

#[test]
fn a_syn_whose_data_lies_beyond_the_linear_part_is_answered_without_it() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let tcp = linux_syn(40_000, 5);
            let headers = envelope.tcp(&tcp, &[]).len() - envelope.padding;
            let frame = envelope.tcp(&tcp, &[0xee; 700]);
            for linear in [headers, headers + 1, headers + 300] {
                let ran = lab.run_split(&frame, linear);
                assert_eq!(ran.reason, Reason::CookieSent, "{}", envelope.name);
                let reply = read(&ran.frame);
                assert_eq!(
                    reply.trailer, 0,
                    "{} with {linear} octets linear",
                    envelope.name
                );
            }
        }
    });
}

#[test]
fn headers_beyond_the_linear_part_are_left_to_the_kernel_r_gen_2() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let frame = envelope.tcp(&linux_syn(40_000, 5), &[0xee; 700]);
            for linear in 14..envelope.l4() + 40 {
                let ran = lab.run_split(&frame, linear);
                assert!(
                    matches!(
                        ran.reason,
                        Reason::ParserLimit | Reason::IpMalformed | Reason::UnknownEtherType
                    ),
                    "{} with {linear} octets linear: {:?}",
                    envelope.name,
                    ran.reason
                );
            }
        }
    });
}

#[test]
fn kernel_cookies_switched_off_change_nothing_here() {
    in_namespace(|lab| {
        for mode in ["0", "1", "2"] {
            sysctl("net.ipv4.tcp_syncookies", mode);
            for envelope in Envelope::PLAIN {
                lab.expect(
                    mode,
                    &envelope.tcp(&linux_syn(40_000, 5), &[]),
                    Reason::CookieSent,
                );
            }
        }
    });
}

#[test]
fn the_answer_goes_to_whoever_asked() {
    in_namespace(|lab| {
        for (envelope, src) in [
            (Envelope::V4, "203.0.113.77"),
            (Envelope::V6, "2001:db8:ffff::4d"),
        ] {
            let src: IpAddr = src.parse().unwrap();
            let mut frame = envelope.from(src).tcp(&linux_syn(65_535, 0), &[]);
            frame[6..12].copy_from_slice(&[0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7]);
            let reply = read(&lab.expect("SYN", &frame, Reason::CookieSent).frame);
            assert_eq!(reply.dst, src);
            assert_eq!(
                reply.ethernet.destination,
                [0xa2, 0xb3, 0xc4, 0xd5, 0xe6, 0xf7]
            );
            assert_eq!(
                (reply.tcp.destination_port, reply.tcp.acknowledgment_number),
                (65_535, 1)
            );
        }
    });
}
