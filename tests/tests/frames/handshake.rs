//! The TC program: a proven ACK becomes a connection of the listener, with everything that was agreed.
//!
//! `bpf_sk_assign_tcp_reqsk` demands a packet that really is at TC ingress, which one of a test run is
//! not (Linux 6.12 `skb_at_tc_ingress`): there the program gets as far as the kernel's refusal. So the
//! ACKs of whole handshakes travel over the namespace's loopback device.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    time::Duration,
};

use etherparse::{TcpHeader, TcpOptionElement as E};
use net_common::verdict::Reason;
use net_tests::{
    frames::{ENVELOPES, Envelope, Extension, flags, read, segment},
    prog_run::{
        Lab, PORT, Raw, ack, epoch, in_namespace, linux_syn, never_send, send, syn, sysctl,
        tcp_info, timestamps,
    },
    wait,
};

/// Sends a SYN through XDP and returns the client's ACK to the answer.
fn handshake(lab: &mut Lab, envelope: &Envelope, syn: &TcpHeader) -> TcpHeader {
    let ran = lab.expect(envelope.name, &envelope.tcp(syn, &[]), Reason::CookieSent);
    ack(syn, &read(&ran.frame).tcp)
}

#[test]
fn a_proven_ack_is_taken_to_the_kernel_in_every_envelope() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let ack = handshake(lab, envelope, &linux_syn(40_000, 5));
            let refused = lab.stats(envelope).handshakes_refused;
            assert_eq!(
                lab.run_tc(&envelope.tcp(&ack, &[])),
                [Reason::HandshakeRefused],
                "{}",
                envelope.name
            );
            assert_eq!(
                lab.run_tc(&envelope.tcp(&ack, &[1; 9])),
                [Reason::HandshakeRefused],
                "{}",
                envelope.name
            );
            assert_eq!(lab.stats(envelope).handshakes_refused, refused + 2);
            assert_eq!(lab.stats(envelope).handshakes, 0);
        }
    });
}

#[test]
fn tc_takes_nothing_else_to_the_kernel() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let syn = linux_syn(40_000, 5);
            let good = handshake(lab, envelope, &syn);
            let mut table = vec![("SYN", syn), ("no cookie", segment(40_000, PORT, 6, "A"))];
            for (what, change) in [
                (
                    "another acknowledgment",
                    (|t| t.acknowledgment_number ^= 1) as fn(&mut TcpHeader),
                ),
                ("another sequence", |t| t.sequence_number ^= 1),
                ("another client port", |t| t.source_port += 1),
                ("another server port", |t| t.destination_port += 1),
                ("RST", |t| flags(t, "R")),
                ("SYN-ACK", |t| flags(t, "S")),
                ("no timestamps", |t| t.set_options(&[]).unwrap()),
            ] {
                let mut tcp = good.clone();
                change(&mut tcp);
                table.push((what, tcp));
            }
            for (what, tcp) in &table {
                assert_eq!(
                    lab.run_tc(&envelope.tcp(tcp, &[])),
                    [],
                    "{what}, {}",
                    envelope.name
                );
            }
            let mut other_mac = envelope.tcp(&good, &[]);
            other_mac[5] ^= 1;
            assert_eq!(lab.run_tc(&other_mac), []);
            let elsewhere: IpAddr = if envelope.is_v6() {
                "2001:db8::2".parse().unwrap()
            } else {
                [192, 0, 2, 2].into()
            };
            assert_eq!(lab.run_tc(&envelope.to(elsewhere).tcp(&good, &[])), []);
            assert_eq!(
                lab.run_tc(&envelope.tcp(&good, &[])),
                [Reason::HandshakeRefused]
            );
        }
    });
}

#[test]
fn a_fragment_makes_no_handshake() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let ack = handshake(lab, &envelope, &linux_syn(40_000, 5));
            let fragment = Envelope {
                fragment: (0, true),
                extensions: &[Extension::Fragment(0, true)],
                ..envelope
            };
            assert_eq!(lab.run_tc(&fragment.tcp(&ack, &[])), []);
            assert_eq!(
                lab.run_tc(&envelope.tcp(&ack, &[])),
                [Reason::HandshakeRefused]
            );
        }
    });
}

#[test]
fn tc_does_nothing_while_no_cookie_is_outstanding() {
    in_namespace(|lab| {
        let envelope = Envelope::V4;
        let ack = handshake(lab, &envelope, &linux_syn(40_000, 5));
        let frame = envelope.tcp(&ack, &[]);
        let refused = &[Reason::HandshakeRefused][..];
        for (outstanding, want) in [(true, refused), (false, &[]), (true, refused)] {
            lab.set_last_epoch(outstanding.then(epoch));
            assert_eq!(lab.run_tc(&frame), want);
        }
    });
}

#[test]
fn tc_knows_only_fit_listeners_that_are_open() {
    in_namespace(|lab| {
        for envelope in Envelope::PLAIN {
            let ack = handshake(lab, &envelope, &linux_syn(40_000, 5));
            let frame = envelope.tcp(&ack, &[]);
            assert_eq!(lab.run_tc(&frame), [Reason::HandshakeRefused], "before");
            lab.forget_listeners();
            assert_eq!(lab.run_tc(&frame), [], "not known");
            lab.set_listeners(|_| {});
            lab.close();
            assert_eq!(lab.run_tc(&frame), [], "closed");
            lab.open();
            assert_eq!(lab.run_tc(&frame), [Reason::HandshakeRefused], "after");
        }
    });
}

/// The loopback device's link-layer address is zero. The client's host knows nothing of the client, so
/// it is kept from resetting its connections.
fn on_loopback(lab: &mut Lab) -> [Envelope; 2] {
    lab.set_listeners(|l| (l.mac_front, l.mac_back) = (0, 0));
    lab.attach_tc();
    never_send("tcp flags & rst == rst");
    Envelope::PLAIN.map(|envelope| Envelope {
        server_mac: [0; 6],
        ..envelope
    })
}

/// Completes a handshake whose SYN the kernel has never seen; returns the accepted connection and the
/// ACK that made it.
fn complete(
    lab: &mut Lab,
    envelope: &Envelope,
    syn: &TcpHeader,
    data: &[u8],
) -> (TcpStream, TcpHeader) {
    let ack = handshake(lab, envelope, syn);
    let made = lab.stats(envelope).handshakes;
    send(envelope, &ack, data);
    let listener = &lab.sockets.as_ref().unwrap()[usize::from(envelope.is_v6())];
    listener.set_nonblocking(true).unwrap();
    let accepted = wait::until_some("a connection to accept", Duration::from_secs(5), || {
        listener.accept().ok()
    });
    let (stream, peer) = accepted.unwrap();
    // A connection that the kernel has half made must fail the test, not hang it.
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    assert_eq!((peer.ip(), peer.port()), (envelope.src, syn.source_port));
    assert_eq!(lab.stats(envelope).handshakes, made + 1);
    // A repetition of the ACK, or the first data after it, is the connection's.
    assert_eq!(lab.run_tc(&envelope.tcp(&ack, &[])), []);
    lab.expect("repeated", &envelope.tcp(&ack, &[]), Reason::AckOnSocket);
    (stream, ack)
}

#[test]
fn a_proven_ack_becomes_a_connection_and_its_data_is_delivered() {
    in_namespace(|lab| {
        for envelope in on_loopback(lab) {
            for (port, data) in [(40_000, &b""[..]), (40_001, b"GET /")] {
                let (stream, _) = complete(lab, &envelope, &linux_syn(port, 5), data);
                let mut read = vec![0; data.len()];
                (&stream).read_exact(&mut read).unwrap();
                assert_eq!(read, data);
            }
        }
        assert_eq!(lab.count(Reason::HandshakeMade), 4);
        assert_eq!(lab.count(Reason::HandshakeRefused), 0);
    });
}

#[test]
fn the_kernel_has_every_option_that_the_cookie_carried_c_13() {
    // Bits of tcpi_options (include/uapi/linux/tcp.h).
    const TIMESTAMPS: u8 = 1;
    const SACK: u8 = 2;
    const SCALE: u8 = 4;
    const ECN: u8 = 8;
    in_namespace(|lab| {
        let mut port = 40_000;
        for envelope in on_loopback(lab) {
            let sizes: &[(Option<u16>, u32)] = if envelope.is_v6() {
                &[
                    (None, 1220),
                    (Some(1400), 1220),
                    (Some(1439), 1420),
                    (Some(1460), 1440),
                    (Some(9000), 8940),
                ]
            } else {
                &[
                    (None, 536),
                    (Some(1000), 536),
                    (Some(1439), 1300),
                    (Some(1459), 1440),
                    (Some(9000), 1460),
                ]
            };
            for (mss, kept) in sizes {
                for scale in [None, Some(0), Some(7), Some(14)] {
                    for bits in 0..8 {
                        let timestamps = bits & 2 != 0;
                        let mut options = Vec::new();
                        options.extend(mss.map(E::MaximumSegmentSize));
                        options.extend(
                            (bits & 1 != 0).then_some(E::SelectiveAcknowledgementPermitted),
                        );
                        options.extend(timestamps.then_some(E::Timestamp(7, 0)));
                        options.extend(scale.map(E::WindowScale));
                        port += 1;
                        let mut syn = syn(port, 0xffff_ff00, &options);
                        flags(&mut syn, if bits & 4 != 0 { "EC" } else { "" });
                        let (stream, _) = complete(lab, &envelope, &syn, &[]);

                        let info = tcp_info(&stream);
                        let what = format!("{} {options:?}, ECN {}", envelope.name, bits & 4 != 0);
                        let mut wanted = 0;
                        if timestamps {
                            wanted |= TIMESTAMPS;
                            wanted |= if bits & 1 != 0 { SACK } else { 0 };
                            wanted |= if scale.is_some() { SCALE } else { 0 };
                            wanted |= if bits & 4 != 0 { ECN } else { 0 };
                        }
                        let known = TIMESTAMPS | SACK | SCALE | ECN;
                        assert_eq!(info.tcpi_options & known, wanted, "{what}");
                        let stamp = if timestamps { 12 } else { 0 };
                        assert_eq!(info.tcpi_snd_mss, kept - stamp, "{what}");
                        let scaled = timestamps && scale.is_some();
                        let shifts = (info.tcpi_snd_rcv_wscale & 15, info.tcpi_snd_rcv_wscale >> 4);
                        let wanted = if scaled {
                            (scale.unwrap(), lab.listener(&envelope).wscale)
                        } else {
                            (0, 0)
                        };
                        assert_eq!(shifts, wanted, "{what}: the client's window scale and ours");
                    }
                }
            }
        }
        assert_eq!(lab.count(Reason::HandshakeRefused), 0);
    });
}

#[test]
fn a_refusal_of_the_kernels_is_counted_and_the_next_ack_may_succeed() {
    in_namespace(|lab| {
        let mut port = 40_000;
        for envelope in on_loopback(lab) {
            for (sysctl_name, off) in [("net.ipv4.tcp_sack", "0"), ("net.ipv4.tcp_timestamps", "0")]
            {
                port += 1;
                let tcp = linux_syn(port, 5);
                let ack = handshake(lab, &envelope, &tcp);
                let before = lab.stats(&envelope);
                sysctl(sysctl_name, off);
                send(&envelope, &ack, &[]);
                let after = lab.stats(&envelope);
                assert_eq!(
                    after.handshakes_refused,
                    before.handshakes_refused + 1,
                    "{sysctl_name}"
                );
                assert_eq!(after.handshakes, before.handshakes);
                sysctl(sysctl_name, "1");
                complete(lab, &envelope, &tcp, &[]);
            }
        }
        assert_eq!(lab.count(Reason::HandshakeRefused), 4);
    });
}

#[test]
fn the_connections_clock_goes_on_from_the_cookies_r_syn_12() {
    in_namespace(|lab| {
        for envelope in on_loopback(lab) {
            let syn = linux_syn(40_000, 5);
            let client = Raw::open(envelope.src);
            let (mut stream, ack) = complete(lab, &envelope, &syn, &[]);
            let (client_clock, cookie) = timestamps(&ack).unwrap();
            stream.write_all(b"hello").unwrap();
            let reply = client.wait(|tcp, data| tcp.source_port == PORT && data == b"hello");
            assert_eq!(
                reply.sequence_number, ack.acknowledgment_number,
                "{}",
                envelope.name
            );
            let (clock, echo) = timestamps(&reply).unwrap();
            assert_eq!(echo, client_clock);
            // Milliseconds since the cookie was made (RFC 7323 section 5.4).
            let passed = clock.wrapping_sub(cookie);
            assert!(
                passed < 60_000,
                "{passed} ms after the cookie: PAWS would drop it"
            );
        }
    });
}
