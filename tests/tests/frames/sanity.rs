//! TCP sanity (R-TCP-1 to R-TCP-5) through the loaded XDP program, in every envelope.

use std::net::IpAddr;

use etherparse::IpNumber;
use net_common::{abi::Settings, verdict::Reason};
use net_tests::{
    frames::{ENVELOPES, Envelope, segment},
    prog_run::{Lab, PORT, in_namespace, linux_syn, syn},
};

/// A frame that is dropped for `reason`; in observe mode it passes and is counted; afterwards it is
/// dropped again.
#[track_caller]
fn dropped(lab: &mut Lab, what: &str, frame: &[u8], reason: Reason) {
    lab.expect(what, frame, reason);
    lab.set_flag(Settings::OBSERVE, true);
    let ran = lab.run(frame);
    assert_eq!(
        (ran.reason, ran.observed),
        (reason, true),
        "{what}, observed"
    );
    lab.set_flag(Settings::OBSERVE, false);
    lab.expect(what, frame, reason);
}

#[test]
fn data_offsets_outside_the_segment_are_dropped_r_tcp_1_c_17() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let doff = envelope.l4() + 12;
            for letters in ["S", "A", "SA", "R"] {
                let good = envelope.tcp(&segment(9, PORT + 1, 3, letters), &[0; 8]);
                for offset in 0..=15u8 {
                    let mut frame = good.clone();
                    frame[doff] = offset << 4;
                    let what = format!("{} {letters} with data offset {offset}", envelope.name);
                    // The segment has 28 octets.
                    if (5..=7).contains(&offset) {
                        let ran = lab.run(&frame);
                        assert!(
                            matches!(ran.reason, Reason::SynUnprotected | Reason::TcpPass),
                            "{what}"
                        );
                    } else {
                        dropped(lab, &what, &frame, Reason::TcpHeader);
                    }
                }
            }
        }
    });
}

#[test]
fn a_header_in_the_padding_is_no_header_r_gen_4_c_28() {
    in_namespace(|lab| {
        // 19 octets of TCP by the IP length, and 27 more in the frame that would complete it.
        for envelope in [Envelope::V4, Envelope::V6] {
            let mut frame = Envelope {
                padding: 26,
                ..envelope
            }
            .tcp(&segment(9, PORT, 3, "S"), &[]);
            lab.expect("whole", &frame, Reason::CookieSent);
            let at = envelope.l3() + if envelope.is_v6() { 5 } else { 3 };
            frame[at] -= 1;
            dropped(lab, envelope.name, &frame, Reason::TcpHeader);
        }
    });
}

#[test]
fn a_segment_that_ends_in_its_header_is_dropped_r_tcp_1() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let whole = segment(9, PORT + 1, 3, "S").to_bytes();
            // An IPv6 payload of no octets at all is a jumbogram's sign, not a segment.
            for len in 1..20 {
                let frame = envelope.wrap(IpNumber::TCP, &whole[..len]);
                let what = format!("{len} octets of TCP, {}", envelope.name);
                dropped(lab, &what, &frame, Reason::TcpHeader);
            }
        }
    });
}

#[test]
fn flags_of_no_honest_segment_are_dropped_r_tcp_2_c_15() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            for (what, letters) in [
                ("NULL scan", ""),
                ("XMAS scan", "FPU"),
                ("FIN scan", "F"),
                ("SYN and FIN", "SF"),
                ("SYN, FIN and ACK", "SFA"),
                ("SYN and RST", "SR"),
                ("everything", "SAFRPUEC"),
                ("PSH alone", "P"),
                ("URG alone", "U"),
                ("ECE and CWR alone", "EC"),
                ("FIN and RST", "FR"),
            ] {
                let frame = envelope.tcp(&segment(9, PORT, 3, letters), &[]);
                dropped(
                    lab,
                    &format!("{what}, {}", envelope.name),
                    &frame,
                    Reason::TcpFlags,
                );
            }
        }
    });
}

#[test]
fn honest_flags_pass_and_so_do_reserved_bits_r_tcp_2() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            for letters in [
                "A", "PA", "FA", "FPA", "UA", "AE", "AC", "R", "RA", "SA", "SAE",
            ] {
                let mut frame = envelope.tcp(&segment(9, PORT, 3, letters), &[1]);
                lab.expect(letters, &frame, Reason::TcpPass);
                // The three reserved bits and AE.
                frame[envelope.l4() + 12] |= 0x0f;
                lab.expect(letters, &frame, Reason::TcpPass);
            }
            for letters in ["S", "SEC", "SE", "SC", "SP", "SU"] {
                let mut frame = envelope.tcp(&segment(9, PORT + 1, 3, letters), &[]);
                lab.expect(letters, &frame, Reason::SynUnprotected);
                frame[envelope.l4() + 12] |= 0x0f;
                lab.expect(letters, &frame, Reason::SynUnprotected);
            }
        }
    });
}

#[test]
fn impossible_sources_are_dropped_r_tcp_3_c_16() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let sources: &[(&str, bool)] = if envelope.is_v6() {
                &[
                    ("2001:db8::1", true),
                    ("ff02::1", true),
                    ("ff0e::1234", true),
                    ("::1", true),
                    ("2001:db8::2", false),
                    ("::2", false),
                    ("::", true),
                    ("::ffff:127.0.0.1", true),
                    ("::ffff:192.0.2.9", true),
                    ("fe80::1", false),
                ]
            } else {
                &[
                    ("192.0.2.1", true),
                    ("224.0.0.1", true),
                    ("239.1.2.3", true),
                    ("255.255.255.255", true),
                    ("0.0.0.0", true),
                    ("127.0.0.1", true),
                    ("127.255.255.254", true),
                    ("192.0.2.2", false),
                    ("126.255.255.255", false),
                    ("128.0.0.1", false),
                    ("223.255.255.255", false),
                    ("240.0.0.1", false),
                ]
            };
            for (src, impossible) in sources {
                let from = envelope.from(src.parse::<IpAddr>().unwrap());
                for letters in ["S", "A", "SA", "R"] {
                    let frame = from.tcp(&segment(9, PORT + 1, 3, letters), &[]);
                    let what = format!("{letters} from {src}, {}", envelope.name);
                    if *impossible {
                        dropped(lab, &what, &frame, Reason::TcpSource);
                    } else {
                        let ran = lab.run(&frame);
                        assert!(
                            matches!(ran.reason, Reason::SynUnprotected | Reason::TcpPass),
                            "{what}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn port_zero_is_dropped_r_tcp_4_c_16() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            for letters in ["S", "A", "SA", "R"] {
                for (from, to) in [(0, PORT), (9, 0), (0, 0)] {
                    let frame = envelope.tcp(&segment(from, to, 3, letters), &[]);
                    let what = format!("{letters} from {from} to {to}, {}", envelope.name);
                    dropped(lab, &what, &frame, Reason::TcpPortZero);
                }
            }
        }
    });
}

#[test]
fn a_syn_with_data_is_no_malformed_segment_r_tcp_5() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let mut tcp = linux_syn(9, 3);
            tcp.destination_port = PORT + 1;
            lab.expect(
                envelope.name,
                &envelope.tcp(&tcp, &[1; 500]),
                Reason::SynUnprotected,
            );
        }
    });
}

#[test]
fn sanity_comes_before_every_other_rule_and_needs_no_listener() {
    in_namespace(|lab| {
        let frame = Envelope::V4.tcp(&syn(0, 5, &[]), &[]);
        lab.expect("with a listener", &frame, Reason::TcpPortZero);
        lab.forget_listeners();
        lab.expect("without one", &frame, Reason::TcpPortZero);
        // C-17: nothing that is dropped is counted as a bug of ours.
        assert_eq!(lab.count(Reason::Internal), 0);
    });
}
