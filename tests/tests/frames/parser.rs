//! What the loaded XDP program makes of frames before any TCP rule is asked.

use std::cell::RefCell;

use etherparse::{EtherType, IpNumber};
use net_common::{
    guard::tcp::{Kind, sanity, source_impossible},
    parse::{self, Octets},
    units::IpProto,
    verdict::Reason,
};
use net_tests::{
    frames::{ENVELOPES, Envelope, Extension, SERVER_MAC, segment},
    prog_run::{Lab, PORT, in_namespace, linux_syn},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

const Q: (u16, u16) = (0x8100, 9);
const AD: (u16, u16) = (0x88a8, 8);

#[test]
fn a_segment_is_found_in_every_envelope_c_25_c_27_c_28() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            // RST and SYN-ACK concern no rule: the verdict shows that the flags were found.
            for letters in ["R", "RA", "SA"] {
                let frame = envelope.tcp(&segment(1, 2, 3, letters), &[]);
                lab.expect(envelope.name, &frame, Reason::TcpPass);
            }
            let null = envelope.tcp(&segment(1, 2, 3, ""), &[]);
            lab.expect(envelope.name, &null, Reason::TcpFlags);
            // The destination and its port: one SYN is answered, the other is not.
            lab.expect(
                envelope.name,
                &envelope.tcp(&linux_syn(4000, 5), &[]),
                Reason::CookieSent,
            );
            let mut other = linux_syn(4000, 5);
            other.destination_port = PORT + 1;
            lab.expect(
                envelope.name,
                &envelope.tcp(&other, &[]),
                Reason::SynUnprotected,
            );
        }
    });
}

#[test]
fn what_is_not_tcp_concerns_no_rule() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            for (what, protocol) in [
                ("UDP", IpNumber::UDP),
                ("ICMP", IpNumber::ICMP),
                ("ICMPv6", IpNumber::IPV6_ICMP),
                ("ESP", IpNumber::ENCAPSULATING_SECURITY_PAYLOAD),
                ("GRE", IpNumber::GRE),
                ("no next header", IpNumber::IPV6_NO_NEXT_HEADER),
            ] {
                let frame = envelope.wrap(protocol, &[0; 32]);
                lab.expect(
                    &format!("{what} in {}", envelope.name),
                    &frame,
                    Reason::NoRule,
                );
            }
        }
        let mut arp = Envelope::V4.wrap(IpNumber::UDP, &[0; 18]);
        arp[12..14].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
        lab.expect("ARP", &arp, Reason::NoRule);
    });
}

#[test]
fn unknown_ethertypes_and_too_many_tags_pass_r_gen_2() {
    in_namespace(|lab| {
        let inner = Envelope::V4.tcp(&segment(1, PORT, 3, ""), &[]);
        for ether_type in [0x88cc_u16, 0x8863, 0x88e5, 0x05dc, 0x9100, 0] {
            for tags in [&[][..], &[Q], &[AD, Q]] {
                let envelope = Envelope {
                    tags,
                    ..Envelope::V4
                };
                let mut frame = envelope.tcp(&segment(1, PORT, 3, ""), &[]);
                let at = envelope.l3() - 2;
                frame[at..at + 2].copy_from_slice(&ether_type.to_be_bytes());
                lab.expect(
                    &format!("{ether_type:#x} in {tags:?}"),
                    &frame,
                    Reason::UnknownEtherType,
                );
            }
        }
        for tags in [&[Q, Q, Q][..], &[AD, AD, Q], &[AD, Q, Q, Q]] {
            for envelope in Envelope::PLAIN {
                let frame = Envelope { tags, ..envelope }.tcp(&segment(1, PORT, 3, ""), &[]);
                lab.expect(&format!("{tags:?}"), &frame, Reason::ParserLimit);
            }
        }
        // The same segment without the envelope is one that a rule concerns.
        lab.expect("bare", &inner, Reason::TcpFlags);
    });
}

#[test]
fn extension_chains_beyond_the_bound_pass_r_gen_2() {
    const MANY: &[Extension] = &[Extension::DestOptions(8); parse::MAX_EXTENSIONS + 1];
    in_namespace(|lab| {
        let null = segment(1, PORT, 3, "");
        let bound = Envelope {
            extensions: &MANY[1..],
            ..Envelope::V6
        };
        lab.expect(
            "as many as are looked behind",
            &bound.tcp(&null, &[]),
            Reason::TcpFlags,
        );
        let beyond = Envelope {
            extensions: MANY,
            ..Envelope::V6
        };
        lab.expect("one more", &beyond.tcp(&null, &[]), Reason::ParserLimit);
    });
}

#[test]
fn a_segment_on_its_way_to_another_address_is_not_judged_r_gen_1() {
    in_namespace(|lab| {
        let left = Envelope {
            extensions: &[Extension::HopByHop(8), Extension::Routing(24, 1)],
            ..Envelope::V6
        };
        let used = Envelope {
            extensions: &[Extension::HopByHop(8), Extension::Routing(24, 0)],
            ..Envelope::V6
        };
        for (tcp, reason) in [
            (segment(1, PORT, 3, ""), Reason::TcpFlags),
            (linux_syn(4000, 5), Reason::CookieSent),
        ] {
            lab.expect("segments left", &left.tcp(&tcp, &[]), Reason::NoRule);
            lab.expect("at its destination", &used.tcp(&tcp, &[]), reason);
        }
    });
}

#[test]
fn a_segment_behind_ah_is_found_by_its_length_in_fours() {
    const ICV: [&[Extension]; 4] = [
        &[Extension::Auth(0)],
        &[Extension::Auth(12)],
        &[Extension::Auth(16)],
        &[Extension::Auth(32)],
    ];
    in_namespace(|lab| {
        for extensions in ICV {
            let envelope = Envelope {
                extensions,
                ..Envelope::V6
            };
            lab.expect(
                "NULL",
                &envelope.tcp(&segment(1, PORT, 3, ""), &[]),
                Reason::TcpFlags,
            );
            lab.expect(
                "RST",
                &envelope.tcp(&segment(1, PORT, 3, "R"), &[]),
                Reason::TcpPass,
            );
        }
    });
}

#[test]
fn headers_that_contradict_themselves_pass_to_the_kernel() {
    in_namespace(|lab| {
        for tags in [&[][..], &[Q], &[AD, Q]] {
            let v4 = Envelope {
                tags,
                ..Envelope::V4
            };
            let v6 = Envelope {
                tags,
                ..Envelope::V6
            };
            let hop = Envelope {
                extensions: &[Extension::HopByHop(8)],
                ..v6
            };
            let ah = Envelope {
                extensions: &[Extension::Auth(12)],
                ..v6
            };
            let l3 = v4.l3();
            let table: [(&str, Envelope, usize, u8); 11] = [
                ("IPv4 with version 6", v4, l3, 0x65),
                ("IPv4 with ihl 4", v4, l3, 0x44),
                ("IPv4 with ihl 0", v4, l3, 0x40),
                ("IPv4 with ihl beyond the total length", v4, l3, 0x4f),
                ("IPv4 total length beyond the frame", v4, l3 + 3, 41),
                ("IPv4 total length below the header", v4, l3 + 3, 19),
                ("IPv6 with version 4", v6, l3, 0x40),
                ("IPv6 payload beyond the frame", v6, l3 + 5, 21),
                (
                    "IPv6 payload that ends in an extension header",
                    hop,
                    l3 + 5,
                    7,
                ),
                ("extension header beyond the payload", hop, l3 + 41, 4),
                ("AH beyond the payload", ah, l3 + 41, 10),
            ];
            for (what, envelope, at, octet) in table {
                let mut frame = envelope.tcp(&segment(1, PORT, 3, ""), &[]);
                lab.expect(what, &frame, Reason::TcpFlags);
                frame[at] = octet;
                lab.expect(&format!("{what} in {tags:?}"), &frame, Reason::IpMalformed);
            }
        }
    });
}

#[test]
fn fragments_are_recognised_and_later_ones_have_no_ports() {
    in_namespace(|lab| {
        for tags in [&[][..], &[AD, Q]] {
            for (what, offset, more) in [
                ("first", 0, true),
                ("middle", 8, true),
                ("last", 8191, false),
                ("offset 1", 1, false),
            ] {
                let v4 = Envelope {
                    tags,
                    fragment: (offset, more),
                    ..Envelope::V4
                };
                let extensions: &[Extension] = match (offset, more) {
                    (0, _) => &[Extension::HopByHop(8), Extension::Fragment(0, true)],
                    (8, _) => &[Extension::HopByHop(8), Extension::Fragment(8, true)],
                    (1, _) => &[Extension::HopByHop(8), Extension::Fragment(1, false)],
                    _ => &[Extension::HopByHop(8), Extension::Fragment(8191, false)],
                };
                let v6 = Envelope {
                    tags,
                    extensions,
                    ..Envelope::V6
                };
                for envelope in [v4, v6] {
                    let what = format!("{what} {}", envelope.name);
                    let syn = envelope.tcp(&linux_syn(4000, 5), &[]);
                    let whole_header = if offset == 0 {
                        Reason::SynFragment
                    } else {
                        Reason::Fragment
                    };
                    lab.expect(&what, &syn, whole_header);
                    // The first fragment's header is judged, a later one's octets are data.
                    let null = envelope.tcp(&segment(1, 2, 3, ""), &[]);
                    let reason = if offset == 0 {
                        Reason::TcpFlags
                    } else {
                        Reason::Fragment
                    };
                    lab.expect(&what, &null, reason);
                }
            }
        }
    });
}

#[test]
fn a_frame_cut_anywhere_is_neither_answered_nor_dropped() {
    in_namespace(|lab| {
        for envelope in ENVELOPES {
            let whole = Envelope {
                padding: 0,
                ..*envelope
            }
            .tcp(&linux_syn(4000, 5), &[1, 2, 3]);
            // 14 octets are the least that a test run takes.
            for len in 14..whole.len() {
                let ran = lab.run(&whole[..len]);
                let tagged = len < envelope.l3();
                let want = if tagged {
                    Reason::ParserLimit
                } else {
                    Reason::IpMalformed
                };
                assert_eq!(ran.reason, want, "{} cut at {len}", envelope.name);
            }
            lab.expect(envelope.name, &whole, Reason::CookieSent);
        }
    });
}

/// The verdict as far as the shared code gives it when it runs here. None: it takes maps or sockets.
fn on_the_host(frame: &[u8]) -> Option<Reason> {
    let frame = Octets(frame);
    let packet = match parse::parse(&frame) {
        Ok(packet) => packet,
        Err(reason) => return Some(reason),
    };
    if packet.protocol != IpProto::TCP {
        return Some(Reason::NoRule);
    }
    if packet.l4_len < 20 {
        return Some(Reason::TcpHeader);
    }
    let tcp = &frame.0[packet.l4..];
    let segment = net_common::guard::tcp::Segment {
        header_len: usize::from(tcp[12] >> 4) * 4,
        len: packet.l4_len,
        flags: tcp[13],
        src_port: u16::from_be_bytes([tcp[0], tcp[1]]),
        dst_port: u16::from_be_bytes([tcp[2], tcp[3]]),
    };
    let (src, dst) = parse::addresses(&frame, &packet)?;
    let insane = match sanity(&segment) {
        Some(Reason::TcpHeader) if packet.first_fragment => Some(Reason::FragmentTiny),
        reason => reason,
    };
    let fragment = match segment.kind() {
        Kind::Syn => Reason::SynFragment,
        _ => Reason::Fragment,
    };
    insane
        .or(source_impossible(packet.version, &src, &dst).then_some(Reason::TcpSource))
        .or(packet.first_fragment.then_some(fragment))
}

fn agree(lab: &mut Lab, frame: &[u8]) -> Result<(), TestCaseError> {
    let reason = lab.run(frame).reason;
    match on_the_host(frame) {
        Some(want) => prop_assert_eq!(reason, want, "{:02x?}", frame),
        None => prop_assert!(
            matches!(
                reason,
                Reason::TcpPass
                    | Reason::SynUnprotected
                    | Reason::SynSigned
                    | Reason::CookieSent
                    | Reason::CookieFalse
            ),
            "{:?} for {:02x?}",
            reason,
            frame
        ),
    }
    Ok(())
}

#[test]
fn the_kernel_judges_mutated_frames_as_the_host_does() {
    in_namespace(|lab| {
        let lab = RefCell::new(lab);
        let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
        let strategy = (
            0..ENVELOPES.len(),
            flips,
            any::<prop::sample::Index>(),
            any::<bool>(),
        );
        let mut runner = TestRunner::new(Config {
            cases: 4_000,
            failure_persistence: None,
            ..Config::default()
        });
        let result = runner.run(&strategy, |(which, flips, cut, whole)| {
            let mut frame = ENVELOPES[which].tcp(&linux_syn(4000, 5), &[7; 9]);
            for (at, octet) in flips {
                // The link-layer addresses say nothing; everything behind them is fair game.
                let at = 12 + at.index(frame.len() - 12);
                frame[at] = octet;
            }
            if !whole {
                frame.truncate(14 + cut.index(frame.len() - 14));
            }
            agree(&mut lab.borrow_mut(), &frame)
        });
        result.unwrap_or_else(|e| panic!("{e}"));
    });
}

#[test]
fn the_kernel_judges_random_octets_as_the_host_does() {
    in_namespace(|lab| {
        let lab = RefCell::new(lab);
        let types =
            prop::sample::select(vec![[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [8, 6]]);
        let strategy = (types, prop::collection::vec(any::<u8>(), 0..200));
        let mut runner = TestRunner::new(Config {
            cases: 2_000,
            failure_persistence: None,
            ..Config::default()
        });
        let result = runner.run(&strategy, |(ether_type, rest)| {
            let frame = [&SERVER_MAC[..], &[2; 6], &ether_type, &rest].concat();
            agree(&mut lab.borrow_mut(), &frame)
        });
        result.unwrap_or_else(|e| panic!("{e}"));
    });
}
