use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacket};
use proptest::{collection::vec, prelude::*, sample::Index, sample::select};

use super::*;
use crate::parse::{self, Octets};

const HOST: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
const PEER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
/// A virtual router's (RFC 5798 section 7.3).
const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 0x33];
/// What Microsoft's NLB answers with in multicast mode.
const GROUP: [u8; 6] = [0x03, 0xbf, 192, 0, 2, 10];
const BROADCAST: [u8; 6] = [0xff; 6];
const NOBODY: [u8; 6] = [0; 6];

const OUR_ADDR: [u8; 4] = [192, 0, 2, 1];
const PEER_ADDR: [u8; 4] = [192, 0, 2, 2];
const ANY: [u8; 4] = [0; 4];

/// Every check that can be chosen.
const CHECKS: u32 =
    NeighborSettings::ARP_SRC_MAC | NeighborSettings::ARP_DST_MAC | NeighborSettings::ARP_IP;

/// The fields of a packet in the order of RFC 826, and what is around it.
#[derive(Clone, Copy, Debug)]
struct Wire {
    destination: [u8; 6],
    source: [u8; 6],
    hardware: u16,
    protocol: u16,
    lengths: [u8; 2],
    operation: u16,
    sha: [u8; 6],
    spa: [u8; 4],
    tha: [u8; 6],
    tpa: [u8; 4],
}

const ASKS: Wire = Wire {
    destination: BROADCAST,
    source: PEER,
    hardware: 1,
    protocol: 0x0800,
    lengths: [6, 4],
    operation: 1,
    sha: PEER,
    spa: PEER_ADDR,
    tha: NOBODY,
    tpa: OUR_ADDR,
};
const ANSWERS: Wire = Wire {
    destination: HOST,
    operation: 2,
    tha: HOST,
    ..ASKS
};
const PROBES: Wire = Wire { spa: ANY, ..ASKS };
const ANNOUNCES: Wire = Wire {
    tpa: PEER_ADDR,
    ..ASKS
};

impl Wire {
    fn packet(&self) -> Vec<u8> {
        let mut octets = Vec::with_capacity(LEN);
        octets.extend(self.hardware.to_be_bytes());
        octets.extend(self.protocol.to_be_bytes());
        octets.extend(self.lengths);
        octets.extend(self.operation.to_be_bytes());
        octets.extend(self.sha);
        octets.extend(self.spa);
        octets.extend(self.tha);
        octets.extend(self.tpa);
        octets
    }

    /// The frame with these tags in front of the packet.
    fn tagged(&self, tags: &[u16]) -> Vec<u8> {
        let mut frame = [self.destination, self.source].concat();
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend([0x08, 0x06]);
        frame.extend(self.packet());
        frame
    }

    fn frame(&self) -> Vec<u8> {
        self.tagged(&[])
    }

    #[track_caller]
    fn read(&self) -> Arp {
        super::read(&Octets(&self.frame()), 14).expect("a packet of Ethernet and IPv4")
    }
}

fn addr(octets: [u8; 4]) -> u32 {
    u32::from_ne_bytes(octets)
}

/// What honest hosts send, with the sender's address that it claims, if any, and the form.
fn honest() -> Vec<(&'static str, Wire, Option<Form>)> {
    vec![
        ("request", ASKS, Some(Form::Request)),
        (
            "unicast request, as Linux sends it to a stale neighbour",
            Wire {
                destination: HOST,
                ..ASKS
            },
            Some(Form::Request),
        ),
        (
            "request whose unused target is all ones",
            Wire {
                tha: BROADCAST,
                ..ASKS
            },
            Some(Form::Request),
        ),
        ("reply", ANSWERS, Some(Form::Reply)),
        (
            "reply that is broadcast (RFC 5227 section 2.6)",
            Wire {
                destination: BROADCAST,
                ..ANSWERS
            },
            Some(Form::Reply),
        ),
        ("probe", PROBES, None),
        (
            "announcement in request form",
            ANNOUNCES,
            Some(Form::Announcement),
        ),
        (
            "announcement in reply form",
            Wire {
                operation: 2,
                tha: PEER,
                ..ANNOUNCES
            },
            Some(Form::Announcement),
        ),
        (
            "announcement in reply form to all, as keepalived's vmac sends it",
            Wire {
                operation: 2,
                tha: BROADCAST,
                ..ANNOUNCES
            },
            Some(Form::Announcement),
        ),
        (
            "VRRP's reply: virtual sender, physical source",
            Wire {
                sha: VIRTUAL,
                ..ANSWERS
            },
            Some(Form::Reply),
        ),
        (
            "hardware type 6",
            Wire {
                hardware: 6,
                ..ASKS
            },
            Some(Form::Request),
        ),
    ]
}

#[test]
fn honest_packets_pass_and_claim_what_they_say_r_arp_4_r_arp_7() {
    for (what, wire, form) in honest() {
        let arp = wire.read();
        assert_eq!(arp.sanity(0, false), None, "{what}");
        let want = form.map(|form| Claim {
            version: Version::V4,
            addr: [addr(wire.spa), 0, 0, 0],
            mac: Mac::new(wire.sha),
            sender: Mac::NONE,
            explicit: true,
            form,
        });
        assert_eq!(arp.claim(), want, "{what}");
        assert_eq!(arp.source, Mac::new(wire.source), "{what}");
        assert_eq!(arp.destination, Mac::new(wire.destination), "{what}");
        assert_eq!(arp.target_mac, Mac::new(wire.tha), "{what}");
        assert_eq!(arp.target, addr(wire.tpa), "{what}");
        assert_eq!(arp.reply, wire.operation == 2, "{what}");
    }
}

#[test]
fn a_packet_is_the_same_behind_tags_and_before_padding_r_arp_1_c_28() {
    for (what, wire, _) in honest() {
        for tags in [&[][..], &[0x8100], &[0x88a8], &[0x88a8, 0x8100]] {
            for padding in [0, 1, 18, 1000] {
                let mut frame = wire.tagged(tags);
                frame.resize(frame.len() + padding, 0xee);
                let payload = parse::payload(&Octets(&frame)).expect("two tags at most");
                let read = super::read(&Octets(&frame), payload.l3);
                assert_eq!(read, Some(wire.read()), "{what}, {tags:x?}, {padding}");
            }
        }
    }
}

#[test]
fn only_ethernet_and_ipv4_and_two_operations_are_read_r_arp_1_c_32() {
    let table: &[(&str, Wire)] = &[
        (
            "hardware type 0",
            Wire {
                hardware: 0,
                ..ASKS
            },
        ),
        (
            "hardware type 2",
            Wire {
                hardware: 2,
                ..ASKS
            },
        ),
        (
            "hardware type 7",
            Wire {
                hardware: 7,
                ..ASKS
            },
        ),
        (
            "hardware type 256",
            Wire {
                hardware: 256,
                ..ASKS
            },
        ),
        (
            "hardware type of InfiniBand",
            Wire {
                hardware: 32,
                ..ASKS
            },
        ),
        (
            "protocol 0",
            Wire {
                protocol: 0,
                ..ASKS
            },
        ),
        (
            "protocol ARP",
            Wire {
                protocol: 0x0806,
                ..ASKS
            },
        ),
        (
            "protocol IPv6",
            Wire {
                protocol: 0x86dd,
                ..ASKS
            },
        ),
        (
            "protocol in the wrong order",
            Wire {
                protocol: 0x0008,
                ..ASKS
            },
        ),
        (
            "no link-layer address",
            Wire {
                lengths: [0, 4],
                ..ASKS
            },
        ),
        (
            "a link-layer address of 5",
            Wire {
                lengths: [5, 4],
                ..ASKS
            },
        ),
        (
            "a link-layer address of 8",
            Wire {
                lengths: [8, 4],
                ..ASKS
            },
        ),
        (
            "a link-layer address of 255",
            Wire {
                lengths: [255, 4],
                ..ASKS
            },
        ),
        (
            "no address",
            Wire {
                lengths: [6, 0],
                ..ASKS
            },
        ),
        (
            "an address of 16",
            Wire {
                lengths: [6, 16],
                ..ASKS
            },
        ),
        (
            "lengths the wrong way round",
            Wire {
                lengths: [4, 6],
                ..ASKS
            },
        ),
        (
            "operation 0",
            Wire {
                operation: 0,
                ..ASKS
            },
        ),
        (
            "RARP's request",
            Wire {
                operation: 3,
                ..ASKS
            },
        ),
        (
            "RARP's reply",
            Wire {
                operation: 4,
                ..ASKS
            },
        ),
        (
            "InARP's reply",
            Wire {
                operation: 9,
                ..ASKS
            },
        ),
        (
            "operation 256",
            Wire {
                operation: 256,
                ..ASKS
            },
        ),
        (
            "operation 65535",
            Wire {
                operation: 0xffff,
                ..ASKS
            },
        ),
    ];
    for (what, wire) in table {
        let mut frame = wire.frame();
        assert_eq!(super::read(&Octets(&frame), 14), None, "{what}");
        frame.resize(200, 0);
        assert_eq!(super::read(&Octets(&frame), 14), None, "{what}, padded");
    }
}

#[test]
fn a_packet_cut_anywhere_is_none_r_arp_1() {
    for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
        let frame = ANSWERS.tagged(tags);
        let l3 = 14 + 4 * tags.len();
        for len in 0..frame.len() {
            assert_eq!(super::read(&Octets(&frame[..len]), l3), None, "{len}");
        }
        assert!(super::read(&Octets(&frame), l3).is_some());
        assert_eq!(super::read(&Octets(&frame), usize::MAX), None);
    }
}

#[test]
fn impossible_senders_are_dropped_r_arp_2() {
    let table: &[([u8; 4], bool)] = &[
        ([224, 0, 0, 1], true),
        ([239, 255, 255, 255], true),
        ([255, 255, 255, 255], true),
        ([127, 0, 0, 1], true),
        ([127, 255, 255, 255], true),
        ([126, 255, 255, 255], false),
        ([128, 0, 0, 1], false),
        ([223, 255, 255, 255], false),
        ([240, 0, 0, 1], false),
        ([255, 255, 255, 254], false),
        ([0, 0, 0, 0], false),
        ([0, 0, 0, 1], false),
        ([1, 0, 0, 224], false),
        ([192, 0, 2, 127], false),
    ];
    for (spa, impossible) in table {
        for wire in [ASKS, ANSWERS, ANNOUNCES] {
            let got = Wire { spa: *spa, ..wire }.read().sanity(0, false);
            let want = impossible.then_some(Reason::ArpSender);
            assert_eq!(got, want, "{spa:?}, operation {}", wire.operation);
        }
    }
}

#[test]
fn a_group_as_sender_is_dropped_but_where_a_binding_names_it_r_arp_2() {
    for sha in [
        GROUP,
        BROADCAST,
        [1, 0, 0x5e, 0, 0, 1],
        [0x33, 0x33, 0, 0, 0, 1],
    ] {
        for wire in [ASKS, ANSWERS, ANNOUNCES, PROBES] {
            let arp = Wire { sha, ..wire }.read();
            assert_eq!(arp.sanity(0, false), Some(Reason::ArpSender), "{sha:x?}");
            assert_eq!(arp.sanity(0, true), None, "{sha:x?} is named");
        }
    }
    // The name makes no address possible that is not.
    let arp = Wire {
        sha: GROUP,
        spa: [224, 0, 0, 1],
        ..ASKS
    };
    assert_eq!(arp.read().sanity(0, true), Some(Reason::ArpSender));
}

#[test]
fn each_check_drops_its_fault_and_nothing_else_r_arp_2_r_arp_3() {
    use NeighborSettings as S;
    let other = [0x02, 0, 0, 0, 0, 0x0c];
    let table: &[(&str, Wire, u32)] = &[
        ("request", ASKS, 0),
        ("reply", ANSWERS, 0),
        ("probe (R-ARP-4)", PROBES, 0),
        ("announcement", ANNOUNCES, 0),
        (
            "request from another source",
            Wire {
                source: other,
                ..ASKS
            },
            S::ARP_SRC_MAC,
        ),
        (
            "VRRP's reply (R-ARP-3)",
            Wire {
                sha: VIRTUAL,
                ..ANSWERS
            },
            S::ARP_SRC_MAC,
        ),
        (
            "probe from another source",
            Wire {
                source: other,
                ..PROBES
            },
            S::ARP_SRC_MAC,
        ),
        (
            "request to another destination: its target is unused",
            Wire {
                destination: HOST,
                tha: other,
                ..ASKS
            },
            0,
        ),
        (
            "reply to another destination",
            Wire {
                destination: BROADCAST,
                ..ANSWERS
            },
            S::ARP_DST_MAC,
        ),
        (
            "reply from nobody",
            Wire {
                spa: ANY,
                ..ANSWERS
            },
            S::ARP_IP,
        ),
        (
            "reply to nobody",
            Wire {
                tpa: ANY,
                ..ANSWERS
            },
            S::ARP_IP,
        ),
        (
            "reply to a group",
            Wire {
                tpa: [224, 0, 0, 5],
                ..ANSWERS
            },
            S::ARP_IP,
        ),
        (
            "reply to all",
            Wire {
                tpa: [255; 4],
                ..ANSWERS
            },
            S::ARP_IP,
        ),
        (
            "request for a group: the rule has the target in replies",
            Wire {
                tpa: [224, 0, 0, 5],
                ..ASKS
            },
            0,
        ),
        (
            "reply wrong in all of it",
            Wire {
                source: other,
                destination: BROADCAST,
                tpa: ANY,
                ..ANSWERS
            },
            CHECKS,
        ),
    ];
    for (what, wire, faults) in table {
        for chosen in 0..8 {
            let flags = chosen * S::ARP_SRC_MAC;
            let want = (flags & faults != 0).then_some(Reason::ArpValidate);
            // What else is in the flags has no part in it.
            for flags in [flags, flags | !CHECKS] {
                assert_eq!(wire.read().sanity(flags, false), want, "{what}: {flags:#x}");
            }
        }
    }
}

#[test]
fn a_probe_claims_nothing_whatever_its_form_r_arp_4() {
    for wire in [
        PROBES,
        Wire {
            operation: 2,
            ..PROBES
        },
        Wire { tpa: ANY, ..PROBES },
    ] {
        let arp = wire.read();
        assert!(arp.is_probe());
        assert_eq!((arp.claim(), arp.sanity(0, false)), (None, None));
    }
    assert!(!ANNOUNCES.read().is_probe());
    assert!(ANNOUNCES.read().is_announcement());
    assert!(!ASKS.read().is_announcement());
}

/// The packet read by hand from RFC 826, over plain slices.
struct Model<'a> {
    frame: &'a [u8],
    arp: &'a [u8],
}

impl<'a> Model<'a> {
    fn new(frame: &'a [u8], l3: usize) -> Option<Self> {
        let arp = frame.get(l3..l3 + 28)?;
        let fixed = [&[0, 1, 8, 0, 6, 4, 0][..], &[0, 6, 8, 0, 6, 4, 0]];
        let known = fixed.contains(&&arp[..7]) && (arp[7] == 1 || arp[7] == 2);
        known.then_some(Self { frame, arp })
    }

    fn sender(&self) -> core::net::Ipv4Addr {
        <[u8; 4]>::try_from(&self.arp[14..18]).unwrap().into()
    }

    fn target(&self) -> core::net::Ipv4Addr {
        <[u8; 4]>::try_from(&self.arp[24..28]).unwrap().into()
    }

    fn is_reply(&self) -> bool {
        self.arp[7] == 2
    }

    fn faults(&self, flags: u32, named: bool) -> Vec<Reason> {
        let mut faults = Vec::new();
        let (spa, tpa) = (self.sender(), self.target());
        let nobody = |a: core::net::Ipv4Addr| a.is_multicast() || a.is_broadcast();
        if nobody(spa) || spa.is_loopback() || (self.arp[8] % 2 == 1 && !named) {
            faults.push(Reason::ArpSender);
        }
        let src = self.frame[6..12] != self.arp[8..14];
        let dst = self.is_reply() && self.frame[..6] != self.arp[18..24];
        let ip = self.is_reply() && (spa.is_unspecified() || tpa.is_unspecified() || nobody(tpa));
        if (flags & NeighborSettings::ARP_SRC_MAC != 0 && src)
            || (flags & NeighborSettings::ARP_DST_MAC != 0 && dst)
            || (flags & NeighborSettings::ARP_IP != 0 && ip)
        {
            faults.push(Reason::ArpValidate);
        }
        faults
    }

    fn claim(&self) -> Option<([u8; 4], [u8; 6], Form)> {
        if self.sender().is_unspecified() {
            return None;
        }
        let form = match (self.sender() == self.target(), self.is_reply()) {
            (true, _) => Form::Announcement,
            (false, true) => Form::Reply,
            (false, false) => Form::Request,
        };
        let mac = self.arp[8..14].try_into().unwrap();
        Some((self.sender().octets(), mac, form))
    }
}

/// The guard, the model and etherparse on one frame.
fn agrees(frame: &[u8], l3: usize, flags: u32, named: bool) -> Result<(), TestCaseError> {
    let ours = super::read(&Octets(frame), l3);
    let model = Model::new(frame, l3);
    prop_assert_eq!(ours.is_some(), model.is_some());
    // It knows hardware type 1 alone, and every operation.
    let theirs = frame
        .get(l3..)
        .and_then(|octets| ArpPacket::from_slice(octets).ok())
        .and_then(|packet| packet.try_eth_ipv4().ok())
        .filter(|packet| matches!(packet.operation.0, 1 | 2));
    let (Some(arp), Some(model)) = (ours, model) else {
        prop_assert_eq!(theirs, None);
        return Ok(());
    };
    if frame[l3 + 1] == 1 {
        let want = ArpEthIpv4Packet {
            operation: ArpOperation(if arp.reply { 2 } else { 1 }),
            sender_mac: arp.sender_mac.octets(),
            sender_ipv4: arp.sender.to_ne_bytes(),
            target_mac: arp.target_mac.octets(),
            target_ipv4: arp.target.to_ne_bytes(),
        };
        prop_assert_eq!(theirs, Some(want));
    }
    let faults = model.faults(flags, named);
    match arp.sanity(flags, named) {
        Some(reason) => prop_assert!(faults.contains(&reason), "{:?}, not {:?}", faults, reason),
        None => prop_assert_eq!(faults, vec![]),
    }
    let claim = arp
        .claim()
        .map(|c| (c.addr[0].to_ne_bytes(), c.mac.octets(), c.form));
    prop_assert_eq!(claim, model.claim());
    Ok(())
}

prop_compose! {
    fn addrs()(
        a in prop_oneof![
            select(vec![ANY, OUR_ADDR, PEER_ADDR, [224, 0, 0, 1], [255; 4], [127, 0, 0, 1]]),
            any::<[u8; 4]>(),
        ],
    ) -> [u8; 4] { a }
}

prop_compose! {
    fn macs()(
        a in prop_oneof![
            select(vec![HOST, PEER, VIRTUAL, GROUP, BROADCAST, NOBODY]),
            any::<[u8; 6]>(),
        ],
    ) -> [u8; 6] { a }
}

prop_compose! {
    fn wires()(
        destination in macs(), source in macs(), sha in macs(), tha in macs(),
        spa in addrs(), tpa in addrs(),
        hardware in prop_oneof![8 => Just(1u16), 2 => Just(6), 1 => any::<u16>()],
        protocol in prop_oneof![9 => Just(0x0800u16), 1 => any::<u16>()],
        lengths in prop_oneof![9 => Just([6u8, 4]), 1 => any::<[u8; 2]>()],
        operation in prop_oneof![9 => 1u16..=2, 1 => any::<u16>()],
        announces: bool,
    ) -> Wire {
        let tpa = if announces { spa } else { tpa };
        Wire { destination, source, hardware, protocol, lengths, operation, sha, spa, tha, tpa }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn random_octets_never_panic_and_are_read_as_the_model_reads_them(
        frame in vec(any::<u8>(), 0..90), l3 in 0usize..60, flags: u32, named: bool,
    ) {
        agrees(&frame, l3, flags, named)?;
    }

    #[test]
    fn mutated_packets_are_read_as_the_model_reads_them(
        wire in wires(), tags in 0usize..3, changes in vec((any::<Index>(), any::<u8>()), 0..3),
        cut: Index, whole in prop::bool::weighted(0.9), flags: u32, named: bool,
    ) {
        let mut frame = wire.tagged(&[0x88a8, 0x8100][..tags]);
        for (at, octet) in changes {
            let at = at.index(frame.len());
            frame[at] = octet;
        }
        if !whole {
            frame.truncate(cut.index(frame.len()));
        }
        agrees(&frame, 14 + 4 * tags, flags, named)?;
    }

    /// Whoever asks, answers, announces or probes for itself, with an address that a host can have.
    #[test]
    fn honest_packets_of_etherparse_pass_every_check(
        mut sha: [u8; 6], mut tha: [u8; 6], spa in 1u32..0x7f00_0000, tpa in 1u32..0x7f00_0000,
        reply: bool, kind in 0..3, padding in 0usize..50, chosen in 0u32..8,
    ) {
        (sha[0], tha[0]) = (sha[0] & !1, tha[0] & !1);
        let (spa, tpa) = match kind {
            0 => (spa, tpa),
            1 => (spa, spa),
            _ => (if reply { spa } else { 0 }, tpa),
        };
        let packet = ArpEthIpv4Packet {
            operation: if reply { ArpOperation::REPLY } else { ArpOperation::REQUEST },
            sender_mac: sha,
            sender_ipv4: spa.to_be_bytes(),
            target_mac: tha,
            target_ipv4: tpa.to_be_bytes(),
        };
        let destination = if reply { tha } else { BROADCAST };
        let mut frame = [destination, sha].concat();
        frame.extend([8, 6]);
        frame.extend(packet.to_bytes());
        frame.resize(frame.len() + padding, 0);
        let arp = super::read(&Octets(&frame), 14);
        prop_assert_eq!(arp.map(|arp| arp.sanity(chosen * NeighborSettings::ARP_SRC_MAC, false)), Some(None));
    }
}
