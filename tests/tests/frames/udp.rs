//! UDP (R-UDP-1 to R-UDP-3), through the loaded XDP program.

use std::net::UdpSocket;

use net_common::{
    abi::{AddressRole, Class, GuardSettings},
    sources::Tier,
    verdict::Reason,
};
use net_tests::{
    frames::{ENVELOPES, Envelope, Extension, datagram::stranger},
    prog_run::{Lab, guards::Guard, in_namespace, neighbors::only},
};

/// Services whose answers are larger than what asks for them; 5353 from beyond the link.
const AMPLIFIERS: [u16; 13] = [
    17, 19, 53, 111, 123, 137, 161, 389, 520, 1900, 3702, 5353, 11211,
];

/// A drop of the UDP guard.
#[track_caller]
fn dropped(lab: &mut Lab, what: &str, frame: &[u8], reason: Reason) {
    lab.expect_guarded(Guard::Udp, what, frame, reason, Reason::NoRule);
}

#[test]
fn lengths_that_cannot_be_are_dropped_and_odd_but_honest_datagrams_pass_r_udp_1() {
    in_namespace(|lab| {
        lab.enforce_guards();
        for envelope in ENVELOPES {
            let at = envelope.l3() + envelope.ip_header_len() + 4;
            let good = envelope.udp(9, 9, &[7; 20]);
            let length = |len: u16| {
                let mut frame = good.clone();
                frame[at..at + 2].copy_from_slice(&len.to_be_bytes());
                frame
            };
            for len in [1, 7, 29, 1000, 65_535] {
                let what = format!("length {len}, {}", envelope.name);
                dropped(lab, &what, &length(len), Reason::UdpMalformed);
            }
            for len in [8, 20, 28] {
                lab.expect(envelope.name, &length(len), Reason::UdpPass);
            }
            // RFC 2675: of IPv6 the length may be 0.
            if envelope.is_v6() {
                lab.expect("a jumbogram's length", &length(0), Reason::UdpPass);
            } else {
                dropped(lab, "length 0", &length(0), Reason::UdpMalformed);
            }
            // RFC 768: whoever wants no answer has port 0.
            lab.expect("port 0", &envelope.udp(0, 9, &[1]), Reason::UdpPass);
        }
        for plain in Envelope::PLAIN {
            for len in 1..8 {
                let frame = plain.wrap(etherparse::IpNumber::UDP, &[0; 8][..len]);
                dropped(lab, "cut short", &frame, Reason::UdpMalformed);
            }
            let mut elsewhere = plain.to(stranger(plain.src, 9, 9)).udp(9, 9, &[]);
            let at = elsewhere.len() - 3;
            elsewhere[at] = 7;
            lab.expect("for another host", &elsewhere, Reason::NoRule);
        }
    });
}

#[test]
fn answers_of_amplifiers_need_a_socket_or_a_question_r_udp_2_r_udp_3_c_46() {
    in_namespace(|lab| {
        lab.enforce_guards();
        let limits = |lab: &mut Lab| {
            lab.guards.unlimit(Class::Reflection);
            lab.guards.limit(Class::Reflection, |l| l.host = only(2));
        };
        for plain in Envelope::PLAIN {
            for (n, port) in AMPLIFIERS.into_iter().enumerate() {
                let from = plain.from(stranger(plain.src, 50 + n as u8, 1));
                limits(lab);
                let answer = from.udp(port, 5000, &[7; 100]);
                let what = format!("port {port}, {}", plain.name);
                dropped(lab, &what, &answer, Reason::Reflection);
                let tagged = Envelope {
                    tags: &[(0x8100, 3)],
                    ..from
                };
                lab.expect(&what, &tagged.udp(port, 5000, &[]), Reason::Reflection);
                let socket = UdpSocket::bind((plain.dst, 5000)).unwrap();
                lab.expect(&what, &answer, Reason::UdpPass);
                lab.expect(&what, &answer, Reason::UdpPass);
                dropped(lab, &what, &answer, Reason::ReflectionLimit);
                lab.guards.unlimit(Class::Reflection);
                lab.expect(&what, &answer, Reason::UdpPass);
                drop(socket);
                lab.expect("closed", &answer, Reason::Reflection);
                let elsewhere = from.to(stranger(plain.src, 9, 9));
                lab.expect(
                    "for another host",
                    &elsewhere.udp(port, 5000, &[]),
                    Reason::NoRule,
                );
            }
            for port in [0, 1, 18, 52, 54, 443, 500, 4500, 5352, 5354, 65_535] {
                lab.expect(
                    "another service",
                    &plain.udp(port, 5000, &[]),
                    Reason::UdpPass,
                );
            }
            // RFC 6762 section 11: of this very link.
            let local = plain.with_hop_limit(plain.udp(5353, 5353, &[]), 255);
            lab.expect("multicast DNS", &local, Reason::UdpPass);
            let routed = plain.with_hop_limit(plain.udp(5353, 5353, &[]), 254);
            dropped(lab, "from beyond the link", &routed, Reason::Reflection);
        }
    });
}

#[test]
fn resolvers_and_whoever_was_asked_may_answer_r_udp_3() {
    in_namespace(|lab| {
        lab.enforce_guards();
        lab.guards.limit(Class::Reflection, |l| l.pool = only(1));
        for plain in Envelope::PLAIN {
            lab.guards.rest_totals(Class::Reflection);
            let open = UdpSocket::bind((plain.dst, 5000)).unwrap();
            let connected = UdpSocket::bind((plain.dst, 5001)).unwrap();
            connected.connect((plain.src, 53)).unwrap();
            let of = |host, port, to| {
                plain
                    .from(stranger(plain.src, 1, host))
                    .udp(port, to, &[7; 50])
            };

            lab.expect("the pool", &of(1, 53, 5000), Reason::UdpPass);
            let ran = lab.expect("beyond", &of(2, 53, 5000), Reason::ReflectionLimit);
            assert_eq!(ran.notes, [Reason::LimitPool]);
            lab.expect(
                "its socket is connected",
                &plain.udp(53, 5001, &[]),
                Reason::UdpPass,
            );
            lab.expect("to another", &of(2, 53, 5001), Reason::Reflection);

            lab.set_role(stranger(plain.src, 1, 3), AddressRole::SERVER);
            for port in [53, 123, 5000] {
                lab.expect("a resolver", &of(3, port, 5000), Reason::UdpPass);
            }
            lab.expect("where nobody waits", &of(3, 53, 5009), Reason::Reflection);
            lab.expect("of no server", &of(3, 11211, 5000), Reason::ReflectionLimit);
            lab.set_tier(stranger(plain.src, 1, 4), Tier::Asked, 0);
            lab.expect("who was asked", &of(4, 53, 5000), Reason::UdpPass);
            lab.expect("where nobody waits", &of(4, 53, 5009), Reason::Reflection);

            // This host translates: whoever waits may be behind it.
            lab.guards.set(|s| s.flags &= !GuardSettings::STRAYS);
            for port in [53, 123, 5000] {
                lab.expect("to somebody behind us", &of(3, port, 5009), Reason::UdpPass);
            }
            // An interface's own packets are those of an own address.
            let back = plain.back();
            let asked = |host: u8| stranger(plain.src, 10 + host, 1);
            let answers = |host, port| plain.from(asked(host)).udp(port, 5009, &[]);
            let question = |host, port| back.to(asked(host)).udp(45_009, port, &[7]);
            for (host, what, frame, asks) in [
                (1, "DNS", question(1, 53), true),
                (2, "NTP", question(2, 123), true),
                (3, "multicast DNS to one", question(3, 5353), true),
                (4, "HTTP/3", question(4, 443), false),
                (
                    11,
                    "NTP of a daemon",
                    back.to(asked(11)).udp(123, 123, &[7]),
                    true,
                ),
                (
                    12,
                    "what may be a service's answer",
                    back.to(asked(12)).udp(5000, 53, &[7]),
                    false,
                ),
                (5, "for others", question(5, 53), false),
                (
                    6,
                    "echo request",
                    back.to(asked(6))
                        .icmp(if plain.is_v6() { 128 } else { 8 }, 0, 1, &[]),
                    true,
                ),
                (
                    7,
                    "echo reply",
                    back.to(asked(7))
                        .icmp(if plain.is_v6() { 129 } else { 0 }, 0, 1, &[]),
                    false,
                ),
                (
                    8,
                    "tagged",
                    Envelope {
                        tags: &[(0x8100, 3)],
                        ..back
                    }
                    .to(asked(8))
                    .udp(45_009, 53, &[]),
                    true,
                ),
                (
                    9,
                    "a later fragment",
                    back.to(asked(9)).fragment(7, false).udp(45_009, 53, &[]),
                    false,
                ),
                (
                    10,
                    "behind options",
                    if plain.is_v6() {
                        back.to(asked(10)).udp(45_009, 53, &[])
                    } else {
                        back.to(asked(10))
                            .with_options(&[0x94, 4, 0, 0])
                            .udp(45_009, 53, &[])
                    },
                    true,
                ),
            ] {
                let mut frame = frame;
                if what == "for others" {
                    let others = plain.to(asked(5)).from(stranger(plain.src, 9, 9));
                    frame = others.udp(45_009, 53, &[7]);
                }
                lab.expect(what, &answers(host, 53), Reason::ReflectionLimit);
                let notes = lab.ask(&frame);
                if asks {
                    assert_eq!(notes, [Reason::SourceAdmitted], "{what}");
                    assert_eq!(lab.tier(asked(host)), Tier::Asked, "{what}");
                    lab.expect(what, &answers(host, 53), Reason::UdpPass);
                    assert_eq!(lab.ask(&frame), [], "{what}: once is enough");
                } else {
                    assert_eq!(notes, [], "{what}");
                    lab.expect(what, &answers(host, 53), Reason::ReflectionLimit);
                }
            }
            // A question is forgotten, however many answers come.
            lab.set_tier(asked(1), Tier::Asked, 29);
            lab.expect("after 29 s", &answers(1, 53), Reason::UdpPass);
            lab.set_tier(asked(1), Tier::Asked, 33);
            lab.expect("after 33 s", &answers(1, 53), Reason::ReflectionLimit);
            lab.set_tier(asked(2), Tier::Steady, 0);
            lab.expect("who is steady", &answers(2, 53), Reason::UdpPass);
            lab.set_tier(asked(2), Tier::Proven, 0);
            lab.expect("who has proved itself", &answers(2, 53), Reason::UdpPass);
            lab.guards.set(|s| s.flags |= GuardSettings::STRAYS);
            drop(open);
        }
        let chain = Envelope::V6
            .with(Extension::DestOptions(8))
            .udp(53, 5000, &[]);
        lab.expect("behind extension headers", &chain, Reason::Reflection);
    });
}
