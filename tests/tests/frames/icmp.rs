//! ICMP and ICMPv6 (R-ICMP-1 to R-ICMP-7), through the loaded XDP program.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use etherparse::IpNumber;
use net_common::{
    abi::{AddressRole, Class, GuardSettings},
    sources::Tier,
    verdict::Reason,
};
use net_tests::{
    frames::{ENVELOPES, Envelope, Extension, SERVER_V4, SERVER_V6, datagram::stranger, segment},
    prog_run::{Lab, PORT, connect_from, guards::Guard, in_namespace, neighbors::only},
};

/// A drop of the ICMP guard.
#[track_caller]
fn dropped(lab: &mut Lab, what: &str, frame: &[u8], reason: Reason) {
    lab.expect_guarded(Guard::Icmp, what, frame, reason, Reason::NoRule);
}

/// Types, codes and second words.
type Kinds = &'static [(u8, u8, u32)];

/// What belongs to each class, of IPv4 and of IPv6.
const CLASSES: &[(Class, Reason, Kinds, Kinds)] = &[
    (
        Class::EchoRequest,
        Reason::EchoRequestLimit,
        &[(8, 0, 1)],
        &[(128, 0, 1)],
    ),
    (
        Class::EchoReply,
        Reason::EchoReplyLimit,
        &[(0, 0, 1)],
        &[(129, 0, 1)],
    ),
    (
        Class::PathMtu,
        Reason::PathMtuLimit,
        &[(3, 4, 1400), (3, 4, 0)],
        &[(2, 0, 1280), (2, 0, 1500)],
    ),
    (
        Class::TimeExceeded,
        Reason::TimeExceededLimit,
        &[(11, 0, 0), (11, 1, 0)],
        &[(3, 0, 0), (3, 1, 0)],
    ),
    (
        Class::Unreachable,
        Reason::UnreachableLimit,
        &[(3, 0, 0), (3, 1, 0), (3, 3, 0), (3, 13, 0), (12, 0, 0)],
        &[(1, 0, 0), (1, 4, 0), (4, 0, 6), (4, 1, 6)],
    ),
    (
        Class::Redirect,
        Reason::RedirectLimit,
        &[(5, 0, 0), (5, 1, 0)],
        &[],
    ),
    (
        Class::Informational,
        Reason::InformationalLimit,
        &[(13, 0, 0), (14, 0, 0), (42, 0, 0), (43, 0, 0)],
        &[(139, 0, 0), (140, 0, 0), (160, 0, 0), (161, 0, 0)],
    ),
    (
        Class::Other,
        Reason::IcmpOtherLimit,
        &[
            (1, 0, 0),
            (9, 0, 0),
            (10, 0, 0),
            (40, 0, 0),
            (253, 0, 0),
            (255, 0, 0),
        ],
        &[
            (0, 0, 0),
            (100, 0, 0),
            (127, 0, 0),
            (150, 0, 0),
            (200, 0, 0),
            (255, 0, 0),
        ],
    ),
];

#[test]
fn every_class_passes_within_its_share_and_not_beyond_r_icmp_1_r_icmp_7() {
    in_namespace(|lab| {
        lab.enforce_guards();
        lab.guards.set_flag(GuardSettings::REDIRECTS, true);
        for plain in Envelope::PLAIN {
            let quoted = plain.back().quote(IpNumber::TCP, 9, 9);
            for (class, refused, v4, v6) in CLASSES {
                let kinds = if plain.is_v6() { v6 } else { v4 };
                let wrapped = ENVELOPES.iter().filter(|e| e.is_v6() == plain.is_v6());
                let frames: Vec<_> = kinds
                    .iter()
                    .map(|(kind, code, word)| plain.icmp(*kind, *code, *word, &quoted))
                    .collect();
                for frame in &frames {
                    lab.expect("no limit", frame, Reason::IcmpPass);
                }
                let Some((kind, code, word)) = kinds.first() else {
                    continue;
                };
                let burst = kinds.len() as u64;
                lab.guards.limit(*class, |l| l.host = only(burst));
                for frame in &frames {
                    lab.expect("its share", frame, Reason::IcmpPass);
                }
                for frame in &frames {
                    let ran = lab.expect("beyond", frame, *refused);
                    assert!(ran.notes.contains(&Reason::LimitHost), "{class:?}");
                }
                dropped(lab, &format!("{class:?}"), &frames[0], *refused);
                for envelope in wrapped {
                    let frame = envelope.icmp(*kind, *code, *word, &quoted);
                    lab.expect(envelope.name, &frame, *refused);
                }
                let other = plain.from(stranger(plain.src, 1, 1));
                let frame = other.icmp(*kind, *code, *word, &quoted);
                lab.expect("another host", &frame, Reason::IcmpPass);
                // R-GEN-1: forwarded, bridged.
                let elsewhere = plain.to(stranger(plain.src, 9, 9));
                let frame = elsewhere.icmp(*kind, *code, *word, &quoted);
                lab.expect("for another host", &frame, Reason::NoRule);
                lab.guards.unlimit(*class);
                lab.expect("lifted", &frames[0], Reason::IcmpPass);
            }
        }
    });
}

#[test]
fn what_no_honest_host_sends_is_dropped_and_the_link_lives_on_r_icmp_2_r_icmp_5_c_44_c_45() {
    in_namespace(|lab| {
        lab.enforce_guards();
        let (v4, v6) = (Envelope::V4, Envelope::V6);
        let quoted = v4.back().quote(IpNumber::TCP, 9, 9);
        for kind in [4, 6].into_iter().chain(15..=18).chain(30..=39) {
            let what = format!("deprecated type {kind}");
            dropped(
                lab,
                &what,
                &v4.icmp(kind, 0, 0, &quoted),
                Reason::IcmpDeprecated,
            );
            lab.expect(&what, &v6.icmp(kind, 0, 0, &quoted), Reason::IcmpPass);
        }
        let elsewhere = v4.to(stranger(v4.src, 9, 9)).icmp(4, 0, 0, &quoted);
        lab.expect("for another host", &elsewhere, Reason::NoRule);

        for code in 0..4 {
            let redirect = v4.icmp(5, code, 0xc000_0209, &quoted);
            dropped(lab, "a redirect", &redirect, Reason::IcmpRedirect);
            lab.guards.set_flag(GuardSettings::REDIRECTS, true);
            lab.expect("redirects are followed", &redirect, Reason::IcmpPass);
            lab.guards.set_flag(GuardSettings::REDIRECTS, false);
            lab.expect("and are not", &redirect, Reason::IcmpRedirect);
        }

        let quoted = v6.back().quote(IpNumber::TCP, 9, 9);
        for mtu in [0, 68, 1279] {
            let frame = v6.icmp(2, 0, mtu, &quoted);
            dropped(lab, "a small MTU", &frame, Reason::PathMtuTooSmall);
        }
        for mtu in [1280, 1500, u32::MAX] {
            lab.expect("an MTU", &v6.icmp(2, 0, mtu, &quoted), Reason::IcmpPass);
        }
        for mtu in [0, 68, 576, 1500] {
            lab.expect("RFC 1191", &v4.icmp(3, 4, mtu, &quoted), Reason::IcmpPass);
        }

        for envelope in [v4, v6] {
            for len in 1..8 {
                let frame = envelope.wrap(envelope.icmp_number(), &[8; 8][..len]);
                dropped(lab, "cut short", &frame, Reason::IcmpMalformed);
            }
            // R-GEN-4: what follows the packet is not of it.
            let mut padded = envelope.wrap(envelope.icmp_number(), &[8; 7]);
            padded.resize(padded.len() + 40, 0);
            dropped(lab, "cut short, padded", &padded, Reason::IcmpMalformed);
            // Pieces of a large echo (cilium #16036).
            let echo = if envelope.is_v6() { 128 } else { 8 };
            let first = envelope.fragment(0, true).icmp(echo, 0, 1, &[7; 1440]);
            lab.expect("the first piece", &first, Reason::IcmpPass);
            let last = envelope
                .fragment(181, false)
                .wrap(envelope.icmp_number(), &[4; 100]);
            lab.expect("the last piece", &last, Reason::Fragment);
        }
        // RFC 4890 section 4.4.1: whatever the destination.
        let group = "ff02::1".parse::<IpAddr>().unwrap();
        for kind in (130..=137)
            .chain(141..=143)
            .chain([148, 149, 151, 152, 153])
        {
            for to in [SERVER_V6.into(), group] {
                let frame = v6.to(to).icmp(kind, 0, 0, &[0; 20]);
                lab.expect("neighbours, listeners", &frame, Reason::NoRule);
            }
        }
    });
}

#[test]
fn requests_to_all_are_dropped_of_ipv4_and_limited_of_ipv6_r_icmp_4_c_43() {
    in_namespace(|lab| {
        lab.enforce_guards();
        let v4 = Envelope::V4;
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let echo = v4.to(ip("192.0.2.255")).icmp(8, 0, 1, &[]);
        lab.expect("not known for one", &echo, Reason::NoRule);
        lab.set_role(ip("192.0.2.255"), AddressRole::BROADCAST);
        for to in ["192.0.2.255", "255.255.255.255", "224.0.0.1", "239.1.2.3"] {
            for kind in [8, 13, 42] {
                let what = format!("type {kind} to {to}");
                dropped(
                    lab,
                    &what,
                    &v4.to(ip(to)).icmp(kind, 0, 1, &[]),
                    Reason::IcmpBroadcast,
                );
            }
            lab.expect(to, &v4.to(ip(to)).icmp(0, 0, 1, &[]), Reason::IcmpPass);
            lab.expect(to, &v4.to(ip(to)).udp(9, 9, &[]), Reason::NoRule);
        }
        lab.expect("to us", &v4.icmp(8, 0, 1, &[]), Reason::IcmpPass);
        let router = v4.to(ip("224.0.0.1")).icmp(9, 0, 0, &[0; 8]);
        lab.expect("router discovery (RFC 1256)", &router, Reason::IcmpPass);

        lab.guards.limit(Class::EchoRequest, |l| l.host = only(2));
        let echo = Envelope::V6.to(ip("ff02::1")).icmp(128, 0, 1, &[]);
        lab.expect("the first", &echo, Reason::IcmpPass);
        lab.expect("the second", &echo, Reason::IcmpPass);
        dropped(lab, "the third", &echo, Reason::EchoRequestLimit);
    });
}

/// Takes the pool of a class, so that only the known pass.
fn exhaust(lab: &mut Lab, class: Class) {
    lab.guards.unlimit(class);
    lab.guards.limit(class, |l| l.pool = only(1));
    let frame = Envelope::V4
        .from(stranger(SERVER_V4.into(), 200, 1))
        .icmp(11, 0, 0, &[]);
    lab.expect("the pool", &frame, Reason::IcmpPass);
}

#[test]
fn errors_that_quote_a_packet_of_ours_pass_whoever_sends_them_r_icmp_3_katran_159() {
    const TCP: IpNumber = IpNumber::TCP;
    const UDP: IpNumber = IpNumber::UDP;
    in_namespace(|lab| {
        lab.enforce_guards();
        for plain in Envelope::PLAIN {
            let (client, server) = (
                SocketAddr::new(plain.src, 40_000),
                SocketAddr::new(plain.dst, PORT),
            );
            let stream = connect_from(client, server);
            let open = UdpSocket::bind((plain.dst, 5000)).unwrap();
            let connected = UdpSocket::bind((plain.dst, 5001)).unwrap();
            connected.connect((plain.src, 6001)).unwrap();
            exhaust(lab, Class::TimeExceeded);

            let back = plain.back();
            let router = plain.from(stranger(plain.src, 7, 1));
            let time = if plain.is_v6() { 3 } else { 11 };
            let error = |quote: &[u8]| router.icmp(time, 0, 0, quote);
            let mut cases = vec![
                ("a connection", back.quote(TCP, PORT, 40_000), true),
                ("another's port", back.quote(TCP, PORT, 40_001), false),
                (
                    "another port of ours",
                    back.quote(TCP, PORT + 1, 40_000),
                    false,
                ),
                ("what came to us", plain.quote(TCP, 40_000, PORT), false),
                (
                    "another source",
                    back.from(stranger(plain.src, 3, 3))
                        .quote(TCP, PORT, 40_000),
                    false,
                ),
                (
                    "another destination",
                    back.to(stranger(plain.src, 3, 3)).quote(TCP, PORT, 40_000),
                    false,
                ),
                (
                    "UDP of the same ports",
                    back.quote(UDP, PORT, 40_000),
                    false,
                ),
                ("a connected UDP socket", back.quote(UDP, 5001, 6001), true),
                (
                    "not the one it is connected to",
                    back.quote(UDP, 5001, 6002),
                    false,
                ),
                ("an open UDP socket", back.quote(UDP, 5000, 53), true),
                ("no UDP socket", back.quote(UDP, 5002, 53), false),
                ("an echo", back.quote(back.icmp_number(), 0x0800, 0), false),
                ("nothing", vec![], false),
                (
                    "half a header",
                    back.quote(TCP, PORT, 40_000)[..12].to_vec(),
                    false,
                ),
                (
                    "seven octets",
                    {
                        let quote = back.quote(TCP, PORT, 40_000);
                        quote[..quote.len() - 1].to_vec()
                    },
                    false,
                ),
                (
                    "the whole packet",
                    back.tcp(&segment(PORT, 40_000, 3, "A"), &[7; 500])[14..].to_vec(),
                    true,
                ),
                (
                    "its first fragment",
                    back.fragment(0, true).quote(TCP, PORT, 40_000),
                    true,
                ),
                (
                    "a later fragment",
                    back.fragment(8, true).quote(TCP, PORT, 40_000),
                    false,
                ),
            ];
            if plain.is_v6() {
                cases.push((
                    "an atomic fragment",
                    back.fragment(0, false).quote(TCP, PORT, 40_000),
                    true,
                ));
                let options = back.with(Extension::DestOptions(8));
                cases.push((
                    "options, not looked behind",
                    options.quote(TCP, PORT, 40_000),
                    false,
                ));
            } else {
                let options = back.with_options(&[1; 40]);
                cases.push(("options", options.quote(TCP, PORT, 40_000), true));
            }
            for (what, quote, matches) in &cases {
                let what = format!("{what}, {}", plain.name);
                let frame = error(quote);
                if *matches {
                    let ran = lab.expect(&what, &frame, Reason::IcmpPass);
                    assert_eq!(ran.notes, [], "{what}");
                } else {
                    let mut notes = lab.expect(&what, &frame, Reason::TimeExceededLimit).notes;
                    notes.sort_unstable();
                    assert_eq!(notes, [Reason::IcmpUnmatched, Reason::LimitPool], "{what}");
                }
            }
            dropped(
                lab,
                "unmatched",
                &error(&cases[1].1),
                Reason::TimeExceededLimit,
            );
            // Tagged alike.
            let tagged = Envelope {
                tags: &[(0x8100, 7)],
                ..router
            };
            lab.expect(
                "tagged",
                &tagged.icmp(time, 0, 0, &cases[0].1),
                Reason::IcmpPass,
            );
            // Without a socket of this host it counts what is known of whom the packet was for: ping, traceroute.
            let asked = stranger(plain.src, 5, 5);
            let quotes = [back.icmp_number(), UDP].map(|p| back.to(asked).quote(p, 33_434, 33_435));
            for quote in &quotes {
                lab.expect("nobody was asked", &error(quote), Reason::TimeExceededLimit);
            }
            lab.set_tier(asked, Tier::Asked, 0);
            for quote in &quotes {
                lab.expect("it was asked", &error(quote), Reason::IcmpPass);
            }
            let tcp = back.to(asked).quote(TCP, 33_434, 33_435);
            lab.expect(
                "TCP has a socket or has not",
                &error(&tcp),
                Reason::TimeExceededLimit,
            );
            // The proven have a total of their own.
            lab.guards
                .limit(Class::TimeExceeded, |l| l.proven = only(1));
            lab.guards.rest_totals(Class::TimeExceeded);
            lab.expect("the first", &error(&cases[0].1), Reason::IcmpPass);
            let ran = lab.expect("the second", &error(&cases[0].1), Reason::TimeExceededLimit);
            assert_eq!(ran.notes, [Reason::LimitGlobal]);
            drop((stream, open));
        }
        lab.expect("PTB", &Envelope::V4.icmp(3, 4, 1400, &[]), Reason::IcmpPass);
    });
}
