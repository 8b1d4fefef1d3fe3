use core::net::Ipv6Addr;

use etherparse::{
    Icmpv6Type, IpNumber, Ipv6Header,
    icmpv6::{
        Icmpv6Payload, NdpOptionSlice, NdpOptionsIterator, NeighborAdvertisementHeader,
        NeighborAdvertisementPayload, NeighborSolicitationPayload, RedirectPayload,
        RouterAdvertisementHeader, RouterAdvertisementPayload, RouterSolicitationPayload,
    },
};
use proptest::{collection::vec, prelude::*, sample::Index, sample::select};

use super::*;
use crate::{
    parse::{self, Octets},
    units::addr_words,
};

const HOST: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0c];

const ANY: &str = "::";
const OURS: &str = "2001:db8::1";
const PEERS: &str = "2001:db8::2";
const LINK: &str = "fe80::2";
const SOLICITED_NODE: &str = "ff02::1:ff00:1";
const ALL_NODES: &str = "ff02::1";
const ALL_ROUTERS: &str = "ff02::2";

/// An extension header: its number and its octets, the first of which is put right.
type Extension = (u8, Vec<u8>);

/// What a frame is made of.
#[derive(Clone, Debug)]
struct Wire {
    source: [u8; 6],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hop_limit: u8,
    /// Extension headers.
    chain: Vec<Extension>,
    /// The message from its type on, without options.
    body: Vec<u8>,
    options: Vec<u8>,
}

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn words(text: &str) -> AddrWords {
    addr_words(ip(text).into())
}

/// A link-layer option of eight octets: 1 for the source's, 2 for the target's.
fn link_layer(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// An option of `units` times eight octets.
fn option(kind: u8, units: u8) -> Vec<u8> {
    let mut octets = vec![0x55; usize::from(units) * 8];
    octets[..2].copy_from_slice(&[kind, units]);
    octets
}

/// A message as etherparse writes it.
fn message(src: &str, dst: &str, header: Icmpv6Type, payload: Icmpv6Payload) -> Wire {
    let mut rest = Vec::new();
    payload.write(&mut rest).unwrap();
    let (src, dst) = (ip(src), ip(dst));
    let header = header
        .to_header(src.octets(), dst.octets(), &rest)
        .expect("a message's length");
    let mut body = header.to_bytes().to_vec();
    body.extend(rest);
    Wire {
        source: PEER,
        src,
        dst,
        hop_limit: 255,
        chain: vec![],
        body,
        options: vec![],
    }
}

fn rs(src: &str) -> Wire {
    let payload = Icmpv6Payload::RouterSolicitation(RouterSolicitationPayload);
    message(src, ALL_ROUTERS, Icmpv6Type::RouterSolicitation, payload)
}

fn ra(src: &str) -> Wire {
    let header = Icmpv6Type::RouterAdvertisement(RouterAdvertisementHeader {
        cur_hop_limit: 64,
        managed_address_config: false,
        other_config: true,
        router_lifetime: 1800,
    });
    let payload = RouterAdvertisementPayload {
        reachable_time: 0,
        retrans_timer: 0,
    };
    message(
        src,
        ALL_NODES,
        header,
        Icmpv6Payload::RouterAdvertisement(payload),
    )
}

fn ns(src: &str, dst: &str, target: &str) -> Wire {
    let target_address = ip(target);
    let payload = NeighborSolicitationPayload { target_address };
    message(
        src,
        dst,
        Icmpv6Type::NeighborSolicitation,
        Icmpv6Payload::NeighborSolicitation(payload),
    )
}

fn na(dst: &str, target: &str, solicited: bool) -> Wire {
    let header = Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader {
        router: true,
        solicited,
        r#override: true,
    });
    let target_address = ip(target);
    let payload = NeighborAdvertisementPayload { target_address };
    message(
        target,
        dst,
        header,
        Icmpv6Payload::NeighborAdvertisement(payload),
    )
}

fn redirect(src: &str, target: &str) -> Wire {
    let payload = RedirectPayload {
        target_address: ip(target),
        destination_address: ip("2001:db8:1::5"),
    };
    message(
        src,
        OURS,
        Icmpv6Type::Redirect,
        Icmpv6Payload::Redirect(payload),
    )
}

/// One of each.
fn each() -> [(&'static str, Wire); 5] {
    [
        ("router solicitation", rs(LINK)),
        ("router advertisement", ra(LINK)),
        ("solicitation", ns(PEERS, SOLICITED_NODE, OURS)),
        ("advertisement", na(OURS, PEERS, true)),
        ("redirect", redirect(LINK, "fe80::3")),
    ]
}

impl Wire {
    fn with(mut self, options: &[Vec<u8>]) -> Self {
        self.options = options.concat();
        self
    }

    fn frame(&self) -> Vec<u8> {
        let next = |i: usize| self.chain.get(i).map_or(58, |header| header.0);
        let len: usize = self.chain.iter().map(|header| header.1.len()).sum();
        let header = Ipv6Header {
            payload_length: (len + self.body.len() + self.options.len()) as u16,
            next_header: IpNumber(next(0)),
            hop_limit: self.hop_limit,
            source: self.src.octets(),
            destination: self.dst.octets(),
            ..Default::default()
        };
        let mut frame = [HOST, self.source].concat();
        frame.extend([0x86, 0xdd]);
        frame.extend(header.to_bytes());
        for (i, (_, octets)) in self.chain.iter().enumerate() {
            frame.push(next(i + 1));
            frame.extend(&octets[1..]);
        }
        frame.extend(&self.body);
        frame.extend(&self.options);
        frame
    }

    fn judge(&self) -> Judged {
        judge(&self.frame())
    }

    /// What it claims; a rule must not drop it.
    #[track_caller]
    fn claims(&self) -> Vec<(Ipv6Addr, Option<[u8; 6]>, Form)> {
        match self.judge() {
            Judged::Claims(claims) => claims,
            other => panic!("{other:?}: {self:?}"),
        }
    }

    #[track_caller]
    fn dropped_for(&self, what: &str, reason: Reason) {
        assert_eq!(self.judge(), Judged::Drop(reason), "{what}");
    }
}

/// What the guard does with a frame, as far as it needs no map.
#[derive(Debug, PartialEq)]
enum Judged {
    /// The parser finds nothing of ours.
    Parser(Reason),
    /// No neighbour discovery, or too short to tell.
    NoRule,
    Drop(Reason),
    /// The sender's or target's claim, then the better first hop's of a redirect. Without a link-layer address
    /// where it could not be read.
    Claims(Vec<(Ipv6Addr, Option<[u8; 6]>, Form)>),
}

/// Asks the rules as net-ebpf does.
fn judge(frame: &[u8]) -> Judged {
    let view = Octets(frame);
    let packet = match parse::parse(&view) {
        Ok(packet) => packet,
        Err(reason) => return Judged::Parser(reason),
    };
    if packet.version == Version::V4 {
        return Judged::NoRule;
    }
    let message = match read(&view, &packet, false) {
        Ok(message) => message,
        Err(Reason::NoRule) => return Judged::NoRule,
        Err(reason) => return Judged::Drop(reason),
    };
    if let Some(reason) = message.sanity() {
        return Judged::Drop(reason);
    }
    let octets = &frame[packet.l4..packet.l4 + packet.l4_len];
    let options = options(octets, message.kind);
    if let Some(reason) = message.option_sanity(&options) {
        return Judged::Drop(reason);
    }
    let plain = |claim: Claim| {
        assert_eq!(claim.version, Version::V6);
        let octets: Vec<u8> = claim.addr.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let addr = Ipv6Addr::from(<[u8; 16]>::try_from(octets).unwrap());
        let mac = (claim.mac != Mac::NONE).then_some(claim.mac.octets());
        (addr, mac, claim.form)
    };
    let claims = [message.claim(&options), message.redirect_claim(&options)];
    Judged::Claims(claims.into_iter().flatten().map(plain).collect())
}

/// The options of a message, with something else's octets behind it in the space, as in the kernel.
fn options(message: &[u8], kind: Kind) -> Options {
    let mut space = [0xa5; SPACE];
    let copied = message.len().min(SPACE);
    space[..copied].copy_from_slice(&message[..copied]);
    let mut out = Options {
        source: 1,
        flags: u32::MAX,
        reserved: 0,
        target: 2,
    };
    parse_options(&space, kind.body_len(), message.len(), &mut out);
    out
}

#[test]
fn honest_messages_pass_and_claim_what_they_say_r_nd_1_r_nd_8() {
    let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
    // SEND's CGA, timestamp, RSA signature (RFC 3971 section 5).
    let send = [option(11, 24), option(13, 2), option(14, 1), option(12, 19)].concat();
    let announced = [
        link_layer(1, PEER),
        vec![5, 1, 0, 0, 0, 0, 5, 220],
        option(3, 4),
        option(3, 4),
        option(25, 3),
        option(31, 4),
        option(24, 3),
    ];
    type Claimed = (&'static str, [u8; 6], Form);
    let table: &[(&str, Wire, &[Claimed])] = &[
        (
            "solicitation",
            ns(PEERS, SOLICITED_NODE, OURS).with(&[link_layer(1, PEER)]),
            &[(PEERS, PEER, Form::Request)],
        ),
        (
            "solicitation sent by another address than it names, as a bond may",
            Wire {
                source: OTHER,
                ..ns(PEERS, SOLICITED_NODE, OURS).with(&[link_layer(1, PEER)])
            },
            &[(PEERS, PEER, Form::Request)],
        ),
        (
            "unicast probe of a stale neighbour",
            ns(PEERS, OURS, OURS),
            &[],
        ),
        (
            "duplicate address detection",
            ns(ANY, SOLICITED_NODE, OURS),
            &[],
        ),
        (
            "the same with a nonce (RFC 7527)",
            ns(ANY, SOLICITED_NODE, OURS).with(std::slice::from_ref(&nonce)),
            &[],
        ),
        (
            "solicitation with SEND's options",
            ns(PEERS, SOLICITED_NODE, OURS).with(&[link_layer(1, PEER), send.clone()]),
            &[(PEERS, PEER, Form::Request)],
        ),
        (
            "solicited advertisement",
            na(OURS, PEERS, true).with(&[link_layer(2, PEER)]),
            &[(PEERS, PEER, Form::Reply)],
        ),
        (
            "answer to a unicast probe, without an option (RFC 4861 section 4.4)",
            na(OURS, PEERS, true),
            &[(PEERS, PEER, Form::Reply)],
        ),
        (
            "answer of a proxy, from another address (RFC 4861 section 7.2.8)",
            Wire {
                src: ip("fe80::77"),
                ..na(OURS, PEERS, true).with(&[link_layer(2, PEER)])
            },
            &[(PEERS, PEER, Form::Reply)],
        ),
        (
            "advertisement of a failover",
            na(ALL_NODES, PEERS, false).with(&[link_layer(2, OTHER)]),
            &[(PEERS, OTHER, Form::Announcement)],
        ),
        (
            "answer to duplicate address detection (RFC 4861 section 7.2.4)",
            na(ALL_NODES, OURS, false).with(&[link_layer(2, PEER)]),
            &[(OURS, PEER, Form::Announcement)],
        ),
        (
            "router solicitation of a host without address",
            rs(ANY),
            &[],
        ),
        (
            "router solicitation",
            rs(LINK).with(&[link_layer(1, PEER)]),
            &[(LINK, PEER, Form::Request)],
        ),
        (
            "router advertisement",
            ra(LINK).with(&announced),
            &[(LINK, PEER, Form::Announcement)],
        ),
        (
            "router advertisement without an option (RFC 4861 section 6.2.3)",
            ra(LINK),
            &[(LINK, PEER, Form::Announcement)],
        ),
        (
            "redirect to a better router",
            redirect(LINK, "fe80::3").with(&[link_layer(2, OTHER), option(4, 9)]),
            &[
                (LINK, PEER, Form::Announcement),
                ("fe80::3", OTHER, Form::Announcement),
            ],
        ),
        (
            "redirect without an option",
            redirect(LINK, "fe80::3"),
            &[(LINK, PEER, Form::Announcement)],
        ),
        (
            "options that nobody knows",
            na(OURS, PEERS, true).with(&[option(0, 1), option(253, 2), option(255, 1)]),
            &[(PEERS, PEER, Form::Reply)],
        ),
        (
            "a link-layer option of the other kind",
            na(OURS, PEERS, true).with(&[link_layer(1, OTHER)]),
            &[(PEERS, PEER, Form::Reply)],
        ),
    ];
    let chains: &[(&str, Vec<Extension>)] = &[
        ("alone", vec![]),
        ("hop-by-hop options", vec![(0, vec![0; 8])]),
        (
            "destination options and AH",
            vec![
                (60, vec![0; 8]),
                (51, [vec![0, 4], vec![0xaa; 22]].concat()),
            ],
        ),
    ];
    for (what, wire, claims) in table {
        for (behind, chain) in chains {
            let wire = Wire {
                chain: chain.clone(),
                ..wire.clone()
            };
            let want: Vec<_> = claims
                .iter()
                .map(|(addr, mac, form)| (ip(addr), Some(*mac), *form))
                .collect();
            assert_eq!(wire.claims(), want, "{what}, {behind}");
        }
    }
}

#[test]
fn other_messages_are_no_concern_whatever_their_hop_limit_r_nd_8_c_41() {
    let table = [
        ("destination unreachable", 1),
        ("packet too big", 2),
        ("time exceeded", 3),
        ("parameter problem", 4),
        ("echo request", 128),
        ("echo reply", 129),
        ("MLD query", 130),
        ("MLD report", 131),
        ("MLD done", 132),
        ("router renumbering", 138),
        ("node information query", 139),
        ("inverse solicitation", 141),
        ("MLDv2 report", 143),
        ("home agent discovery", 144),
        ("certification path solicitation (RFC 3971)", 148),
        ("multicast router advertisement", 151),
        ("RPL", 155),
        ("experiment", 200),
    ];
    for (what, number) in table {
        for hop_limit in [0, 1, 64, 254, 255] {
            let mut wire = ns(ANY, ALL_NODES, ALL_NODES);
            (wire.body[0], wire.body[1], wire.hop_limit) = (number, 3, hop_limit);
            wire.chain = vec![(44, vec![0; 8])];
            assert_eq!(wire.judge(), Judged::NoRule, "{what}");
        }
    }
    let kinds: Vec<u8> = (0..=255)
        .filter(|&n| Kind::from_type(n).is_some())
        .collect();
    assert_eq!(kinds, [133, 134, 135, 136, 137]);
}

#[test]
fn a_hop_limit_below_255_is_dropped_r_nd_1_c_41() {
    for (what, wire) in each() {
        for hop_limit in [0, 1, 64, 254] {
            Wire {
                hop_limit,
                ..wire.clone()
            }
            .dropped_for(what, Reason::NdHopLimit);
        }
        wire.claims();
    }
}

#[test]
fn a_code_is_dropped_r_nd_1() {
    for (what, mut wire) in each() {
        for code in [1, 2, 128, 255] {
            wire.body[1] = code;
            wire.dropped_for(what, Reason::NdMalformed);
        }
    }
}

#[test]
fn a_message_cut_anywhere_is_dropped_or_no_message_r_nd_1() {
    for (what, wire) in each() {
        let least = wire.body.len();
        assert_eq!(
            Kind::from_type(wire.body[0]).map(Kind::body_len),
            Some(least),
            "{what}"
        );
        for len in 1..least {
            let mut cut = wire.clone();
            cut.body.truncate(len);
            let mut frame = cut.frame();
            // Behind its end nothing, or padding that would complete it (R-GEN-4).
            let want = if len < 8 {
                Judged::NoRule
            } else {
                Judged::Drop(Reason::NdMalformed)
            };
            assert_eq!(judge(&frame), want, "{what}, {len}");
            frame.resize(frame.len() + 60, 0x20);
            assert_eq!(
                judge(&frame),
                Judged::Drop(Reason::NdMalformed),
                "{what}, {len}"
            );
        }
    }
}

#[test]
fn options_end_where_the_message_does_r_nd_1() {
    for (what, wire) in each() {
        let whole = [
            option(14, 1),
            link_layer(1, PEER),
            link_layer(2, PEER),
            option(3, 4),
        ]
        .concat();
        for len in 0..=whole.len() {
            let mut cut = wire.clone();
            cut.options = whole[..len].to_vec();
            let ends = [0, 8, 16, 24, 56].contains(&len);
            for padding in [0, 70] {
                let mut frame = cut.frame();
                frame.resize(frame.len() + padding, 1);
                let got = judge(&frame);
                if ends {
                    assert!(matches!(got, Judged::Claims(_)), "{what}, {len}: {got:?}");
                } else {
                    assert_eq!(got, Judged::Drop(Reason::NdMalformed), "{what}, {len}");
                }
            }
        }
    }
}

#[test]
fn an_option_without_length_is_dropped_wherever_it_stands_r_nd_1() {
    for (what, wire) in each() {
        for before in 0..MAX_OPTIONS {
            for kind in [0, 1, 2, 3, 14, 255] {
                let mut options = vec![option(14, 1); before];
                options.push(vec![kind, 0, 1, 2, 3, 4, 5, 6]);
                options.push(link_layer(1, PEER));
                let wire = wire.clone().with(&options);
                wire.dropped_for(&format!("{what} behind {before}"), Reason::NdMalformed);
            }
        }
    }
}

#[test]
fn the_first_link_layer_option_counts_wherever_it_stands_as_in_linux() {
    for before in 0..MAX_OPTIONS - 1 {
        let mut options = vec![option(14, 1); before];
        options.push(link_layer(2, PEER));
        options.push(link_layer(2, OTHER));
        let wire = na(OURS, PEERS, true).with(&options);
        let want = [(ip(PEERS), Some(PEER), Form::Reply)];
        assert_eq!(wire.claims(), want, "behind {before}");
    }
}

#[test]
fn what_could_not_be_read_claims_an_address_that_agrees_with_nothing() {
    let many = vec![option(14, 1); MAX_OPTIONS];
    let more = [many.clone(), vec![link_layer(2, PEER)]].concat();
    let long = [vec![option(14, 255)], vec![link_layer(2, PEER)]].concat();
    let wide = |units| {
        let mut octets = option(2, units);
        octets[2..8].copy_from_slice(&PEER);
        vec![octets]
    };
    let zero = link_layer(2, [0; 6]);
    let table: &[(&str, Vec<Vec<u8>>, bool)] = &[
        ("as many options as are read", many, true),
        ("one more", more, false),
        ("beyond the space", long, false),
        ("of 16 octets", wide(2), false),
        ("of 2040 octets", wide(255), false),
        (
            "of 16 octets behind a good one",
            [vec![link_layer(2, PEER)], wide(2)].concat(),
            false,
        ),
        ("zero", vec![zero.clone()], false),
        (
            "zero before a good one: Linux takes the first",
            vec![zero.clone(), link_layer(2, PEER)],
            false,
        ),
        (
            "zero behind a good one: Linux takes the first",
            vec![link_layer(2, PEER), zero],
            true,
        ),
    ];
    for (what, options, readable) in table {
        let mac = readable.then_some(PEER);
        let wire = na(OURS, PEERS, true).with(options);
        assert_eq!(wire.claims(), [(ip(PEERS), mac, Form::Reply)], "{what}");
        let mut mirrored = options.clone();
        for option in &mut mirrored {
            option[0] = if option[0] == 2 { 1 } else { option[0] };
        }
        let wire = ra(LINK).with(&mirrored);
        assert_eq!(
            wire.claims(),
            [(ip(LINK), mac, Form::Announcement)],
            "{what}"
        );
        // A solicitation makes a claim of it, where without the option it would make none.
        let wire = ns(PEERS, SOLICITED_NODE, OURS).with(&mirrored);
        let silent = *readable && mirrored.iter().all(|option| option[0] != 1);
        if !silent {
            assert_eq!(wire.claims(), [(ip(PEERS), mac, Form::Request)], "{what}");
        }
        if !readable {
            let wire = redirect(LINK, "fe80::3").with(options);
            let want = [
                (ip(LINK), None, Form::Announcement),
                (ip("fe80::3"), None, Form::Announcement),
            ];
            assert_eq!(wire.claims(), want, "{what}");
        }
    }
}

#[test]
fn a_message_behind_a_fragment_header_is_dropped_r_nd_2_c_25() {
    for (what, wire) in each() {
        for (kind, more) in [("atomic", 0), ("first of several", 1)] {
            let header = (44, vec![0, 0, 0, more, 0, 0, 0, 9]);
            for chain in [
                vec![header.clone()],
                vec![(0, vec![0; 8]), header.clone(), (60, vec![0; 8])],
            ] {
                let wire = Wire {
                    chain,
                    ..wire.clone()
                };
                wire.dropped_for(&format!("{what}, {kind}"), Reason::NdFragment);
            }
        }
    }
}

#[test]
fn what_routers_send_comes_from_a_link_local_address_r_nd_3() {
    for (src, local) in [
        (LINK, true),
        ("fe80::", true),
        ("febf:ffff::1", true),
        ("fec0::1", false),
        ("fe7f:ffff::1", false),
        (ANY, false),
        ("::1", false),
        (PEERS, false),
        ("fc00::1", false),
        ("ff02::1", false),
        ("::fe80:0:0:1", false),
    ] {
        for wire in [ra(src), redirect(src, "fe80::3")] {
            if local {
                wire.claims();
            } else {
                wire.dropped_for(src, Reason::NdRouterSource);
            }
        }
        assert_eq!(is_link_local(&words(src)), local, "{src}");
    }
}

#[test]
fn what_duplicate_address_detection_forbids_is_dropped_r_nd_4() {
    let impossible = Some(Reason::NdImpossible);
    let with = |wire: Wire| wire.with(&[link_layer(1, PEER)]);
    let table: &[(&str, Wire, Option<Reason>)] = &[
        (
            "NS to the solicited-node group",
            ns(ANY, SOLICITED_NODE, OURS),
            None,
        ),
        (
            "NS to another's solicited-node group",
            ns(ANY, "ff02::1:ffab:cdef", OURS),
            None,
        ),
        ("NS to all nodes", ns(ANY, ALL_NODES, OURS), impossible),
        ("NS to the target", ns(ANY, OURS, OURS), impossible),
        (
            "NS to a group of the organisation",
            ns(ANY, "ff08::1:ff00:1", OURS),
            impossible,
        ),
        (
            "NS to 104 bits less one",
            ns(ANY, "ff02::1:fe00:1", OURS),
            impossible,
        ),
        (
            "NS to 104 bits with another in the middle",
            ns(ANY, "ff02:0:1::1:ff00:1", OURS),
            impossible,
        ),
        (
            "NS to 104 bits with another beside it",
            ns(ANY, "ff02::3:ff00:1", OURS),
            impossible,
        ),
        (
            "NS with a source's address",
            with(ns(ANY, SOLICITED_NODE, OURS)),
            impossible,
        ),
        (
            "NS with a target's address, ignored",
            ns(ANY, SOLICITED_NODE, OURS).with(&[link_layer(2, PEER)]),
            None,
        ),
        (
            "NS of a host, to all nodes",
            ns(PEERS, ALL_NODES, OURS),
            None,
        ),
        (
            "NS for a group",
            ns(PEERS, SOLICITED_NODE, "ff02::5"),
            impossible,
        ),
        (
            "NS for a group by duplicate detection",
            ns(ANY, SOLICITED_NODE, "ff02::5"),
            impossible,
        ),
        ("NA for a group", na(OURS, "ff02::5", true), impossible),
        (
            "NA for a group of the widest scope",
            na(OURS, "ffff::5", false),
            impossible,
        ),
        (
            "solicited NA to all",
            na(ALL_NODES, PEERS, true),
            impossible,
        ),
        (
            "solicited NA to a solicited-node group",
            na(SOLICITED_NODE, PEERS, true),
            impossible,
        ),
        ("NA to all", na(ALL_NODES, PEERS, false), None),
        ("solicited NA to us", na(OURS, PEERS, true), None),
        ("RS of a host without address", with(rs(LINK)), None),
        ("RA to all", with(ra(LINK)), None),
        (
            "redirect to a group: no rule has it",
            redirect(LINK, "ff02::5"),
            None,
        ),
    ];
    for (what, wire, want) in table {
        let got = match wire.judge() {
            Judged::Claims(_) => None,
            Judged::Drop(reason) => Some(reason),
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(got, *want, "{what}");
    }
}

#[test]
fn what_only_looks_like_a_header_hides_from_the_ra_guard_r_nd_3() {
    let table = [
        ("UDP", 17, false),
        ("ESP", 50, false),
        ("ICMPv6", 58, false),
        ("no next header", 59, false),
        ("OSPF", 89, false),
        ("VRRP", 112, false),
        ("SCTP", 132, false),
        ("HIP", 139, false),
        ("Shim6", 140, false),
        ("the last that is assigned", 146, false),
        ("the first that is not", 147, true),
        ("for experiments", 253, true),
        ("for experiments", 254, true),
        ("reserved", 255, true),
    ];
    for (what, number, hides) in table {
        let hidden = |hop_limit, src| hides_from_ra_guard(IpProto(number), hop_limit, &words(src));
        assert_eq!(hidden(255, LINK), hides, "{what}");
        assert!(!hidden(254, LINK), "{what}: it may have crossed a router");
        assert!(
            !hidden(255, PEERS),
            "{what}: no router advertises from there"
        );
    }
}

/// What RFC 4861, 4862, 6980 and 7113 say of a frame, over plain slices: every fault it has, and its claims.
#[derive(Debug, Default)]
struct Model {
    concerned: bool,
    /// ICMPv6 of fewer octets than its header: padding may make it look like anything, and it is dropped or
    /// passes; the kernel discards it.
    short: bool,
    faults: Vec<Reason>,
    claims: Vec<(Ipv6Addr, Option<[u8; 6]>, Form)>,
}

fn address(octets: &[u8]) -> Ipv6Addr {
    <[u8; 16]>::try_from(octets).unwrap().into()
}

/// Options as (type, octets), and whether there are more.
type Walked<'a> = (Vec<(u8, &'a [u8])>, bool);

/// The first options as (type, octets), as many as are read of those that begin within the first `space` octets; true
/// when there are more. None when they do not add up.
fn walk(mut rest: &[u8], space: usize) -> Option<Walked<'_>> {
    let whole = rest.len();
    let mut options = Vec::new();
    while !rest.is_empty() {
        if options.len() == MAX_OPTIONS || whole - rest.len() >= space {
            return Some((options, true));
        }
        let [kind, units, ..] = *rest else {
            return None;
        };
        let (option, behind) = rest.split_at_checked(usize::from(units) * 8)?;
        if option.is_empty() {
            return None;
        }
        options.push((kind, option));
        rest = behind;
    }
    Some((options, false))
}

fn model(frame: &[u8]) -> Model {
    let mut out = Model::default();
    let payload = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
    let (src, dst) = (address(&frame[22..38]), address(&frame[38..54]));
    let mut rest = &frame[54..54 + payload];
    let mut next = frame[20];
    let mut fragment = false;
    loop {
        let len = match next {
            0 | 43 | 60 | 135 => usize::from(rest[1]) * 8 + 8,
            51 => usize::from(rest[1]) * 4 + 8,
            44 => 8,
            _ => break,
        };
        fragment |= next == 44;
        next = rest[0];
        rest = &rest[len..];
    }
    out.short = next == 58 && rest.len() < 8;
    if next != 58 || rest.len() < 8 || !(133..=137).contains(&rest[0]) {
        return out;
    }
    out.concerned = true;
    let mut fault = |is: bool, reason| {
        if is {
            out.faults.push(reason);
        }
    };
    let kind = rest[0];
    let fixed = [8, 16, 24, 24, 40][usize::from(kind - 133)];
    fault(fragment, Reason::NdFragment);
    fault(frame[21] != 255, Reason::NdHopLimit);
    fault(rest[1] != 0 || rest.len() < fixed, Reason::NdMalformed);
    let from_router = kind == 134 || kind == 137;
    let local = src.octets()[0] == 0xfe && src.octets()[1] & 0xc0 == 0x80;
    fault(from_router && !local, Reason::NdRouterSource);
    let target = if kind >= 135 {
        rest.get(8..24).map_or(Ipv6Addr::UNSPECIFIED, address)
    } else {
        Ipv6Addr::UNSPECIFIED
    };
    let dad = kind == 135 && src.is_unspecified();
    let solicited_node = dst.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
    let solicited = rest[4] & 0x40 != 0;
    fault(
        matches!(kind, 135 | 136) && target.is_multicast()
            || dad && !solicited_node
            || kind == 136 && solicited && dst.is_multicast(),
        Reason::NdImpossible,
    );
    let options = rest.get(fixed..);
    let Some((all, more)) = options.and_then(|octets| walk(octets, SPACE - fixed)) else {
        out.faults.push(Reason::NdMalformed);
        return out;
    };
    let first = |wanted: u8| {
        let option = all.iter().find(|(kind, _)| *kind == wanted)?;
        Some(<[u8; 6]>::try_from(&option.1[2..8]).unwrap())
    };
    // Of no length that Ethernet has; behind the many; zero where Linux would take it; beyond the space.
    let odd = |kind: &u8| *kind == 1 || *kind == 2;
    let unread = more
        || rest.len() > SPACE
        || all
            .iter()
            .any(|(kind, octets)| odd(kind) && octets.len() != 8)
        || first(1) == Some([0; 6])
        || first(2) == Some([0; 6]);
    let ethernet = <[u8; 6]>::try_from(&frame[6..12]).unwrap();
    let mac = |option: Option<[u8; 6]>| (!unread).then_some(option.unwrap_or(ethernet));
    // One of another length, or of zeros, is not seen as one here; Linux drops it too.
    let readable =
        |(kind, octets): &(u8, &[u8])| *kind == 1 && octets.len() == 8 && octets[2..] != [0; 6];
    fault(dad && all.iter().any(readable), Reason::NdImpossible);
    // A zero Ethernet source, too, is no address.
    let mac = |option| mac(option).filter(|mac| *mac != [0; 6]);
    match kind {
        133 | 135 if !src.is_unspecified() && (first(1).is_some() || unread) => {
            out.claims.push((src, mac(first(1)), Form::Request));
        }
        134 => out.claims.push((src, mac(first(1)), Form::Announcement)),
        136 if !target.is_unspecified() => {
            let form = if solicited {
                Form::Reply
            } else {
                Form::Announcement
            };
            out.claims.push((target, mac(first(2)), form));
        }
        137 => {
            out.claims.push((src, mac(None), Form::Announcement));
            if first(2).is_some() || unread {
                out.claims.push((target, mac(first(2)), Form::Announcement));
            }
        }
        _ => {}
    }
    out
}

/// The guard and the model on one frame.
fn agrees(frame: &[u8]) -> Result<(), TestCaseError> {
    let got = judge(frame);
    if matches!(got, Judged::Parser(_)) {
        // Its own tests are in parse/tests.rs.
        return Ok(());
    }
    let model = model(frame);
    match got {
        Judged::Parser(_) => {}
        Judged::NoRule => prop_assert!(!model.concerned, "{:?}", model),
        Judged::Drop(_) if model.short => {}
        Judged::Drop(reason) => {
            prop_assert!(model.faults.contains(&reason), "{:?}: {:?}", reason, model);
        }
        Judged::Claims(claims) => {
            prop_assert!(model.concerned && model.faults.is_empty(), "{:?}", model);
            prop_assert_eq!(claims, model.claims);
        }
    }
    Ok(())
}

prop_compose! {
    fn ips()(
        a in prop_oneof![
            4 => select(vec![
                ANY, OURS, PEERS, LINK, SOLICITED_NODE, ALL_NODES, "ff05::2", "febf::1", "fec0::1",
            ]).prop_map(ip),
            1 => any::<[u8; 16]>().prop_map(Ipv6Addr::from),
        ],
    ) -> Ipv6Addr { a }
}

fn options_of_any_kind() -> impl Strategy<Value = Vec<u8>> {
    let mac = prop_oneof![select(vec![[0; 6], HOST, PEER, OTHER]), any::<[u8; 6]>()];
    let one = prop_oneof![
        4 => (1u8..=2, mac).prop_map(|(kind, mac)| link_layer(kind, mac)),
        4 => (any::<u8>(), 1u8..6).prop_map(|(kind, units)| option(kind, units)),
        1 => (1u8..=2, 1u8..4).prop_map(|(kind, units)| option(kind, units)),
        1 => any::<u8>().prop_map(|kind| vec![kind, 0, 0, 0, 0, 0, 0, 0]),
        1 => any::<u8>().prop_map(|kind| option(kind, 255)),
        1 => vec(any::<u8>(), 1..20),
    ];
    let tail = prop_oneof![8 => 0usize..6, 1 => 28usize..36];
    (vec(one, 0..4), tail).prop_map(|(front, tail)| {
        // Many harmless ones in front of those.
        [[14, 1, 1, 2, 3, 4, 5, 6].repeat(tail), front.concat()].concat()
    })
}

prop_compose! {
    fn wires()(
        kind in prop_oneof![12 => 133u8..=137, 1 => any::<u8>()],
        code in prop_oneof![9 => Just(0u8), 1 => any::<u8>()],
        flags: u8, target in ips(), src in ips(), dst in ips(), local: bool,
        source in prop_oneof![select(vec![PEER, OTHER, [0; 6]]), any::<[u8; 6]>()],
        hop_limit in prop_oneof![9 => Just(255u8), 1 => any::<u8>()],
        options in options_of_any_kind(),
        short in prop_oneof![12 => Just(0usize), 1 => 1usize..40],
        chain in vec(select(vec![0u8, 60, 51, 44, 135, 43]), 0..2),
    ) -> Wire {
        let src = if local && (kind == 134 || kind == 137) { ip(LINK) } else { src };
        let fixed = Kind::from_type(kind).map_or(24, Kind::body_len);
        let mut body = vec![0x11; fixed.max(24)];
        body[..8].copy_from_slice(&[kind, code, 0, 0, flags, 0, 0, 0]);
        body[8..24].copy_from_slice(&target.octets());
        body.truncate(fixed);
        let mut options = options;
        if short > 0 {
            body.truncate(fixed.saturating_sub(short).max(1));
            options.clear();
        }
        // A length of 0 in all of them is eight octets, AH's is of twelve and made sixteen.
        let chain = chain.into_iter().map(|number| match number {
            51 => (51, [vec![0, 2], vec![0; 14]].concat()),
            number => (number, vec![0; 8]),
        }).collect();
        Wire { source, src, dst, hop_limit, chain, body, options }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn random_octets_never_panic_and_agree_with_the_model(
        mut frame in vec(any::<u8>(), 54..160), icmp: bool, fits: bool,
    ) {
        frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        if fits {
            let len = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
        }
        if icmp && frame.len() > 54 {
            frame[20] = 58;
            frame[54] = 133 + frame[54] % 5;
        }
        agrees(&frame)?;
    }

    #[test]
    fn mutated_messages_agree_with_the_model(
        wire in wires(), padding in prop_oneof![4 => Just(0usize), 1 => 1usize..60],
        changes in vec((any::<Index>(), any::<u8>()), 0..3), mutate in prop::bool::weighted(0.4),
    ) {
        let mut frame = wire.frame();
        frame.resize(frame.len() + padding, 0x11);
        if mutate {
            for (at, octet) in changes {
                let at = at.index(frame.len());
                frame[at] = octet;
            }
        }
        agrees(&frame)?;
    }

    /// Options of every kind, against the walker above and against etherparse's.
    #[test]
    fn options_are_read_as_etherparse_reads_them(octets in options_of_any_kind(), kind in 133u8..=137) {
        let kind = Kind::from_type(kind).unwrap();
        let mut message = vec![0; kind.body_len()];
        message.extend(&octets);
        let ours = options(&message, kind);
        prop_assert_eq!(ours, options(&message, kind), "once more");
        prop_assert_eq!(ours.flags & !(Options::MALFORMED | Options::UNREAD), 0);
        let malformed = walk(&octets, SPACE).is_none();
        if ours.flags & Options::UNREAD == 0 {
            prop_assert_eq!(ours.flags & Options::MALFORMED != 0, malformed);
        }
        if malformed || ours.flags != 0 {
            return Ok(());
        }
        let (mut source, mut target) = (None, None);
        for option in NdpOptionsIterator::from_slice(&octets) {
            match option {
                Ok(NdpOptionSlice::SourceLinkLayerAddress(o)) => {
                    source = source.or(Some(o.link_layer_address().to_vec()));
                }
                Ok(NdpOptionSlice::TargetLinkLayerAddress(o)) => {
                    target = target.or(Some(o.link_layer_address().to_vec()));
                }
                // It refuses more than the RFC does, and reads no further.
                Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
        let plain = |mac: u64| (mac != 0).then(|| Mac(mac).octets().to_vec());
        prop_assert_eq!(plain(ours.source), source);
        prop_assert_eq!(plain(ours.target), target);
    }

    /// Every honest message, whoever sends it, with the options that it may bear.
    #[test]
    fn honest_messages_of_etherparse_pass(
        kind in 0usize..7, mut mac: [u8; 6], host: [u8; 8], other: [u8; 8], named: bool, extras in 0u8..4,
    ) {
        mac[0] = mac[0] & !1 | 2;
        let local = |id: [u8; 8]| Ipv6Addr::from(<[u8; 16]>::try_from([&[0xfe, 0x80, 0, 0, 0, 0, 0, 0][..], &id].concat()).unwrap()).to_string();
        let (host, other) = (local(host), local(other));
        let (wire, option_kind) = match kind {
            0 => (rs(&host), 1),
            1 => (ra(&host), 1),
            2 => (ns(&host, SOLICITED_NODE, &other), 1),
            3 => (na(&other, &host, true), 2),
            4 => (na(ALL_NODES, &host, false), 2),
            5 => (redirect(&host, &other), 2),
            _ => (ns(ANY, SOLICITED_NODE, &host), 14),
        };
        let mut options = vec![option(14, 1); usize::from(extras)];
        if named {
            options.push(link_layer(option_kind, mac));
        }
        let judged = Wire { source: mac, ..wire }.with(&options).judge();
        let Judged::Claims(claims) = judged else {
            return Err(TestCaseError::fail(format!("{judged:?}")));
        };
        prop_assert!(claims.iter().all(|claim| claim.1 == Some(mac)));
        let silent = kind == 6 || (!named && (kind == 0 || kind == 2));
        prop_assert_eq!(claims.is_empty(), silent);
    }
}
