//! IP sanity, fragments and sources (R-TCP-3, R-TCP-10, R-TCP-11), through the loaded XDP program.

use std::{net::IpAddr, process::Command};

use etherparse::IpNumber;
use net_common::{
    abi::{AddressRole, Class, GuardSettings},
    verdict::Reason,
};
use net_tests::{
    frames::{
        CLIENT_V4, ENVELOPES, Envelope, Extension, SERVER_MAC, SERVER_V4, SERVER_V6,
        datagram::stranger, neighbor::Discovery, segment,
    },
    prog_run::{Lab, PORT, guards::Guard, in_namespace, neighbors::only, sysctl},
};

const TAGGED: Envelope = Envelope {
    tags: &[(0x88a8, 5), (0x8100, 7)],
    ..Envelope::V4
};
const IGMP: IpNumber = IpNumber(2);

/// A drop of the IP guard.
#[track_caller]
fn dropped(lab: &mut Lab, what: &str, frame: &[u8], reason: Reason, off: Reason) {
    lab.expect_guarded(Guard::Ip, what, frame, reason, off);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The plain envelope of an address's family, from it.
fn from(src: &str) -> Envelope {
    let plain = Envelope::PLAIN[usize::from(ip(src).is_ipv6())];
    plain.from(ip(src))
}

fn shell(line: &str) {
    let mut words = line.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status();
    assert!(status.unwrap().success(), "{line}");
}

#[test]
fn source_routes_are_dropped_at_every_offset_and_other_options_pass_r_tcp_11_c_26() {
    in_namespace(|lab| {
        lab.enforce_guards();
        let ack = segment(9, PORT + 1, 3, "A");
        for plain in [Envelope::V4, TAGGED] {
            for kind in [131, 137] {
                for at in 0..=33 {
                    let options = [&vec![1; at], &[kind, 7, 4, 192, 0, 2, 7][..]].concat();
                    let envelope = plain.with_options(&options);
                    let what = format!("option {kind} at {at}");
                    let frame = envelope.udp(9, 9, &[]);
                    if at % 11 == 0 {
                        dropped(lab, &what, &frame, Reason::SourceRoute, Reason::UdpPass);
                        let frame = envelope.tcp(&ack, &[]);
                        dropped(lab, &what, &frame, Reason::SourceRoute, Reason::TcpPass);
                        let frame = envelope.icmp(8, 0, 0, &[]);
                        dropped(lab, &what, &frame, Reason::SourceRoute, Reason::IcmpPass);
                    } else {
                        lab.expect(&what, &frame, Reason::SourceRoute);
                    }
                }
            }
            for (what, options) in [
                ("router alert", &[0x94, 4, 0, 0][..]),
                ("a timestamp", &[68, 8, 5, 0, 0, 0, 0, 0]),
                ("a recorded route", &[7, 7, 4, 0, 0, 0, 0]),
                ("40 of padding", &[1; 40]),
                ("a route behind the end", &[0, 131, 7, 4, 192, 0, 2, 7]),
                ("131 in an option's data", &[68, 8, 131, 7, 131, 7, 131, 7]),
                ("an option too long", &[68, 255, 131, 7]),
                ("an option of length 0", &[68, 0, 131, 7]),
            ] {
                let envelope = plain.with_options(options);
                lab.expect(what, &envelope.udp(9, 9, &[]), Reason::UdpPass);
                lab.expect(what, &envelope.tcp(&ack, &[]), Reason::TcpPass);
            }
            // What was read of a packet before is no option of the next one.
            let long = plain.with_options(&[&[1; 33][..], &[131, 7, 4, 0, 0, 0, 0]].concat());
            lab.expect("a route", &long.udp(9, 9, &[]), Reason::SourceRoute);
            let short = plain.with_options(&[1, 1, 1, 1]);
            lab.expect("none after it", &short.udp(9, 9, &[]), Reason::UdpPass);
        }
        for envelope in ENVELOPES {
            lab.expect(envelope.name, &envelope.udp(9, 9, &[]), Reason::UdpPass);
            lab.expect(envelope.name, &envelope.tcp(&ack, &[]), Reason::TcpPass);
        }
    });
}

#[test]
fn fragments_no_honest_host_makes_are_dropped_r_tcp_10_c_21_c_22_c_25() {
    use Reason::{Fragment, FragmentChain, FragmentOverlong, FragmentTiny, TcpHeader, UdpPass};
    const TCP: IpNumber = IpNumber::TCP;
    const UDP: IpNumber = IpNumber::UDP;
    in_namespace(|lab| {
        lab.enforce_guards();
        let tcp = segment(9, PORT + 1, 3, "A").to_bytes();
        let udp = [0, 9, 0, 9, 15, 0xa8, 0, 0];
        for plain in [Envelope::V4, TAGGED, Envelope::V6] {
            let v6 = plain.is_v6();
            let tiny = if v6 { FragmentChain } else { FragmentTiny };
            let first = plain.fragment(0, true);
            for len in [1, 8, 16, 19] {
                let frame = first.wrap(TCP, &tcp[..len]);
                dropped(lab, "a first fragment of TCP", &frame, tiny, TcpHeader);
            }
            // The whole header is there, and nobody can say more of it.
            lab.expect(
                "24 octets",
                &first.wrap(TCP, &[&tcp[..], &[7; 4]].concat()),
                Fragment,
            );
            for more in [false, true] {
                let frame = plain.fragment(1, more).wrap(TCP, &[0x10; 16]);
                dropped(lab, "offset 1 of TCP", &frame, FragmentTiny, Fragment);
                let frame = plain.fragment(1, more).wrap(UDP, &[7; 16]);
                lab.expect("offset 1 of UDP", &frame, Fragment);
                let frame = plain.fragment(2, more).wrap(TCP, &[7; 16]);
                lab.expect("offset 2 of TCP", &frame, Fragment);
            }
            // C-22: by octets of the datagram, of which IPv4 counts the header.
            let (offset, room) = if v6 { (8191, 7) } else { (8189, 3) };
            let last = plain.fragment(offset, false);
            for protocol in [UDP, plain.icmp_number(), TCP] {
                lab.expect(
                    "the last octet",
                    &last.wrap(protocol, &vec![7; room]),
                    Fragment,
                );
                let frame = last.wrap(protocol, &vec![7; room + 1]);
                dropped(lab, "one too many", &frame, FragmentOverlong, Fragment);
                let frame = last.wrap(protocol, &[7; 1000]);
                dropped(lab, "the ping of death", &frame, FragmentOverlong, Fragment);
            }
            // C-24: 4 kB in three pieces.
            lab.expect(
                "the first",
                &first.wrap(UDP, &[&udp[..], &[7; 1440]].concat()),
                UdpPass,
            );
            lab.expect(
                "the second",
                &plain.fragment(181, true).wrap(UDP, &[7; 1448]),
                Fragment,
            );
            lab.expect(
                "the last",
                &plain.fragment(362, false).wrap(UDP, &[7; 1112]),
                Fragment,
            );
        }
        // RFC 7112: a first fragment ends within the chain of headers.
        let v6 = Envelope::V6;
        let chain = v6.fragment(0, true).with(Extension::DestOptions(24));
        let mut cut = chain.wrap(UDP, &[]);
        cut.truncate(cut.len() - 8);
        let at = v6.l3() + 5;
        cut[at] -= 8;
        dropped(
            lab,
            "a chain that is cut",
            &cut,
            FragmentChain,
            Reason::IpMalformed,
        );
        let mut empty = v6.fragment(0, true).wrap(UDP, &[]);
        dropped(
            lab,
            "UDP without a header",
            &empty,
            FragmentChain,
            Reason::UdpMalformed,
        );
        empty[v6.l3() + 40 + 3] = 0;
        lab.expect("UDP without a header, atomic", &empty, Reason::UdpMalformed);
        // RFC 6946: an atomic fragment is a whole packet.
        let atomic = v6.fragment(0, false);
        lab.expect("atomic UDP", &atomic.udp(9, 9, &[]), UdpPass);
        lab.expect("atomic TCP", &atomic.wrap(TCP, &tcp), Reason::TcpPass);
        lab.expect(
            "atomic echo",
            &atomic.icmp(128, 0, 0, &[]),
            Reason::IcmpPass,
        );
    });
}

#[test]
fn fragments_have_a_share_by_prefix_and_others_fragments_have_none_r_udp_4() {
    in_namespace(|lab| {
        lab.enforce_guards();
        lab.guards.limit(Class::Fragment, |l| l.prefix = only(3));
        for plain in [Envelope::V4, Envelope::V6] {
            let piece = |src: IpAddr, offset, more| {
                plain.from(src).fragment(offset, more).wrap(
                    IpNumber::UDP,
                    &[0, 9, 0, 9, 15, 0xa8, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
                )
            };
            let [a, b, c] = [1, 2, 3].map(|host| stranger(plain.src, 1, host));
            lab.expect("the first", &piece(a, 0, true), Reason::UdpPass);
            lab.expect("the second", &piece(a, 2, true), Reason::Fragment);
            lab.expect("a neighbour's", &piece(b, 4, false), Reason::Fragment);
            let refused = piece(c, 185, false);
            let notes = lab
                .expect("the prefix's fourth", &refused, Reason::FragmentLimit)
                .notes;
            assert_eq!(notes, [Reason::LimitPrefix]);
            dropped(
                lab,
                "limit",
                &refused,
                Reason::FragmentLimit,
                Reason::Fragment,
            );
            dropped(
                lab,
                "limit",
                &piece(c, 0, true),
                Reason::FragmentLimit,
                Reason::UdpPass,
            );
            let other = stranger(plain.src, 2, 1);
            lab.expect(
                "another prefix",
                &piece(other, 185, false),
                Reason::Fragment,
            );
            // R-GEN-1: what is put together elsewhere.
            let elsewhere = plain
                .from(c)
                .to(stranger(plain.src, 9, 9))
                .fragment(9, true);
            for _ in 0..5 {
                lab.expect(
                    "for another host",
                    &elsewhere.wrap(IpNumber::UDP, &[7; 8]),
                    Reason::Fragment,
                );
            }
            // A whole packet draws on no share.
            lab.expect("whole", &plain.from(c).udp(9, 9, &[]), Reason::UdpPass);
        }
        let atomic = Envelope::V6
            .from(stranger(SERVER_V6.into(), 1, 3))
            .fragment(0, false);
        lab.expect("atomic", &atomic.udp(9, 9, &[]), Reason::UdpPass);
    });
}

#[test]
fn sources_of_no_link_are_dropped_and_who_has_no_address_yet_passes_r_tcp_3_c_16() {
    in_namespace(|lab| {
        lab.enforce_guards();
        for src in [
            "192.0.2.1",
            "224.0.0.1",
            "239.1.2.3",
            "255.255.255.255",
            "127.0.0.1",
            "2001:db8::1",
            "ff02::1",
            "::1",
            "::ffff:192.0.2.9",
        ] {
            let envelope = from(src);
            let (udp, echo) = (
                envelope.udp(9, 9, &[]),
                if envelope.is_v6() { 128 } else { 8 },
            );
            dropped(lab, src, &udp, Reason::SourceMartian, Reason::UdpPass);
            let echo = envelope.icmp(echo, 0, 0, &[]);
            dropped(lab, src, &echo, Reason::SourceMartian, Reason::IcmpPass);
            let other = envelope.wrap(IpNumber::GRE, &[0; 8]);
            dropped(lab, src, &other, Reason::SourceMartian, Reason::NoRule);
        }
        for src in [
            "192.0.2.2",
            "240.0.0.1",
            "223.255.255.255",
            "2001:db8::2",
            "fe80::1",
            "64:ff9b::1",
        ] {
            lab.expect(src, &from(src).udp(9, 9, &[]), Reason::UdpPass);
        }
        let nobody = from("0.0.0.0");
        let dhcp = nobody.to(ip("255.255.255.255")).udp(68, 67, &[0; 240]);
        lab.expect("DHCP (RFC 2131)", &dhcp, Reason::NoRule);
        lab.expect(
            "DHCP to us",
            &nobody.udp(68, 67, &[0; 240]),
            Reason::UdpPass,
        );
        let igmp = nobody.to(ip("224.0.0.22")).with_options(&[0x94, 4, 0, 0]);
        lab.expect(
            "IGMPv3 (RFC 3376)",
            &igmp.wrap(IGMP, &[0x22; 16]),
            Reason::NoRule,
        );
        let nobody = from("::");
        let mld = nobody.to(ip("ff02::16")).with(Extension::HopByHop(8));
        lab.expect(
            "MLDv2 (RFC 3810)",
            &mld.icmp(143, 0, 0, &[0; 20]),
            Reason::NoRule,
        );
        let dhcp = from("fe80::5").to(ip("ff02::1:2")).udp(546, 547, &[0; 40]);
        lab.expect("DHCPv6", &dhcp, Reason::NoRule);
    });
}

#[test]
fn own_addresses_do_not_come_from_outside_unless_the_kernel_takes_them() {
    in_namespace(|lab| {
        lab.enforce_guards();
        let others = [ip("192.0.2.77"), ip("2001:db8::77")];
        for (plain, other) in Envelope::PLAIN.into_iter().zip(others) {
            let envelope = plain.from(other);
            let echo = envelope.icmp(if plain.is_v6() { 128 } else { 8 }, 0, 0, &[]);
            let syn = envelope.tcp(&segment(9, PORT + 1, 3, "S"), &[]);
            let frames = [
                (envelope.udp(9, 9, &[]), Reason::UdpPass),
                (echo, Reason::IcmpPass),
                (envelope.wrap(IpNumber::GRE, &[0; 8]), Reason::NoRule),
                (syn, Reason::SynUnprotected),
            ];
            for (frame, passes) in &frames {
                lab.expect("not ours", frame, *passes);
            }
            lab.set_role(other, AddressRole::OWN);
            for (frame, off) in &frames {
                dropped(lab, "ours", frame, Reason::SourceOwn, *off);
                lab.guards.set_flag(GuardSettings::ACCEPT_LOCAL, true);
                lab.expect("accept_local", frame, *off);
                lab.guards.set_flag(GuardSettings::ACCEPT_LOCAL, false);
                lab.expect("ours again", frame, Reason::SourceOwn);
            }
            // A connection has been judged by its SYN.
            let ack = envelope.tcp(&segment(9, PORT + 1, 3, "A"), &[]);
            lab.expect("an ACK", &ack, Reason::TcpPass);
            // What we send to others comes back by a bridge or a mirror port.
            let elsewhere = envelope.to(stranger(other, 9, 9));
            lab.expect(
                "for another host",
                &elsewhere.udp(9, 9, &[]),
                Reason::NoRule,
            );
            lab.set_role(other, AddressRole::BROADCAST | AddressRole::SERVER);
            for (frame, passes) in &frames {
                lab.expect("no unicast address of ours", frame, *passes);
            }
        }
        // On another link the same link-local address is a neighbour's.
        lab.set_role(ip("fe80::77"), AddressRole::OWN);
        lab.expect(
            "link-local",
            &from("fe80::77").udp(9, 9, &[]),
            Reason::UdpPass,
        );
        // R-ND-5: its own guard tells of a claim, and lets it pass.
        let claim = Discovery::advertisement(SERVER_V6, false).with_target(SERVER_MAC);
        lab.expect("a claim", &claim.frame(), Reason::NoRule);
        // Every address looks like an own one in the filter: the map decides.
        lab.fill_own_filter();
        lab.expect(
            "a full filter",
            &Envelope::V4.udp(9, 9, &[]),
            Reason::UdpPass,
        );
    });
}

#[test]
fn the_way_back_to_a_source_is_asked_for_when_the_operator_says_so() {
    const LOOSE: u32 = GuardSettings::REVERSE_PATH_LOOSE;
    const STRICT: u32 = GuardSettings::REVERSE_PATH_STRICT;
    in_namespace(|lab| {
        // What the kernel sends there of its own accord would be counted too.
        sysctl("net.ipv6.conf.idle2.disable_ipv6", "1");
        for line in [
            "ip link set idle2 up",
            "ip link set idle up",
            "ip route add 198.51.1.0/24 dev idle",
            "ip route add 198.51.2.0/24 dev lo",
            "ip route add blackhole 198.51.3.0/24",
            "ip -6 route add 2001:db8:77:1::/64 dev idle",
            "ip -6 route add blackhole 2001:db8:77:3::/64",
        ] {
            shell(line);
        }
        lab.enforce_guards();
        // Frames arrive on lo.
        let far = |net| stranger(CLIENT_V4.into(), net, 1);
        let far6 = |net| stranger(SERVER_V6.into(), net, 1);
        let cases = [
            (far(1), true, false),
            (far(2), true, true),
            (far(3), false, false),
            (far(4), false, false),
            (far6(1), true, false),
            (far6(3), false, false),
            (far6(4), false, false),
            (ip("fe80::5"), true, true),
        ];
        let sends = |src: IpAddr| Envelope::PLAIN[usize::from(src.is_ipv6())].from(src);
        for (src, ..) in cases {
            lab.expect("nobody asks", &sends(src).udp(9, 9, &[]), Reason::UdpPass);
        }
        lab.guards.set_flag(LOOSE, true);
        for src in [far(4), far6(4)] {
            let ran = lab.expect(
                "forwarding is off",
                &sends(src).udp(9, 9, &[]),
                Reason::UdpPass,
            );
            assert_eq!(ran.notes, [Reason::ReversePathUnknown]);
        }
        sysctl("net.ipv4.conf.lo.forwarding", "1");
        sysctl("net.ipv6.conf.lo.forwarding", "1");
        for (flag, strict) in [(LOOSE, false), (STRICT, true)] {
            lab.guards.set_flag(LOOSE | STRICT, false);
            lab.guards.set_flag(flag, true);
            for (src, loose_passes, strict_passes) in cases {
                let passes = if strict { strict_passes } else { loose_passes };
                let what = format!("{src}, strict: {strict}");
                let udp = sends(src).udp(9, 9, &[]);
                let ack = sends(src).tcp(&segment(9, PORT + 1, 3, "A"), &[]);
                if passes {
                    assert_eq!(lab.expect(&what, &udp, Reason::UdpPass).notes, [], "{what}");
                    lab.expect(&what, &ack, Reason::TcpPass);
                } else {
                    dropped(lab, &what, &udp, Reason::ReversePath, Reason::UdpPass);
                    dropped(lab, &what, &ack, Reason::ReversePath, Reason::TcpPass);
                }
            }
            let dhcp = from("0.0.0.0").to(SERVER_V4).udp(68, 67, &[0; 240]);
            lab.expect("nobody answers it", &dhcp, Reason::UdpPass);
        }
    });
}
