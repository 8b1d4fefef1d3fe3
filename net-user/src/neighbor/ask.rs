//! Requests of our own: ARP and neighbour solicitations, to one host or to all.
//!
//! They leave through a packet socket, pass TC egress like the kernel's own and are noted there, so that their
//! answers are known for what they are.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv6Type, PacketBuilder,
    SingleVlanHeader, VlanId, VlanPcp,
};
use net_common::{abi::NeighborKey, units::Mac};
use nix::libc;

use super::ports::{Port, address};

/// Option type of a solicitation's source link-layer address, and its length in units of 8 octets (RFC 4861
/// section 4.6.1).
const SOURCE_LINK_LAYER: [u8; 2] = [1, 1];
/// All of neighbour discovery has it (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const BROADCAST: [u8; 6] = [0xff; 6];

/// A packet socket that sends whole frames and receives none.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens it in the calling thread's network namespace.
    ///
    /// # Errors
    /// No CAP_NET_RAW.
    pub fn open() -> Result<Self> {
        // Protocol 0: nothing is received.
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: `socket` takes three integers and touches no memory of ours.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context(
                "no packet socket to ask neighbours with, so that no address can be learned or verified; \
                 run as root or with CAP_NET_RAW, or turn both guards off (`mode = \"off\"` in [arp] and [ndp])",
            );
        }
        // SAFETY: `fd` was just opened, is valid, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a frame through an interface.
    ///
    /// # Errors
    /// The interface is gone, down or has no room.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let mut to = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: ifindex.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        if let Some(ether_type) = frame.get(12..14) {
            to.sll_protocol = u16::from_ne_bytes([ether_type[0], ether_type[1]]);
        }
        let len = size_of_val(&to) as libc::socklen_t;
        let (data, octets) = (frame.as_ptr().cast(), frame.len());
        // SAFETY: the pointers and lengths describe `frame` and `to`, which outlive the call.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                data,
                octets,
                0,
                (&raw const to).cast(),
                len,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// The frame that asks for an address: the host at `to`, or all. None when it cannot be asked for there: more than
/// one VLAN tag, no link-layer address of our own, no IPv6 address.
pub fn frame(port: &Port, key: &NeighborKey, to: Option<Mac>) -> Option<Vec<u8>> {
    if port.tags(key.vlan) > 1 {
        return None;
    }
    let (source, destination, ether_type, body) = match address(key) {
        IpAddr::V4(target) => {
            let (sender_mac, sender) = sender_v4(port, key.vlan, target)?;
            let body = arp(sender_mac, sender, target)?;
            (sender_mac, BROADCAST, EtherType::ARP, body)
        }
        IpAddr::V6(target) => {
            let (source_mac, source) = source_v6(port, key.vlan, target)?;
            let group = solicited_node(target);
            // To one host goes the unicast form, which no switch floods (RFC 4861 section 7.3.3).
            let destination = if to.is_some() { target } else { group };
            let body = solicitation(source_mac, source, destination, target)?;
            (source_mac, group_mac(group), EtherType::IPV6, body)
        }
    };
    let ethernet = Ethernet2Header {
        source: source.octets(),
        destination: to.map_or(destination, Mac::octets),
        ether_type: if key.vlan == 0 {
            ether_type
        } else {
            EtherType::VLAN_TAGGED_FRAME
        },
    };
    let mut frame = ethernet.to_bytes().to_vec();
    if key.vlan != 0 {
        let tag = SingleVlanHeader {
            pcp: VlanPcp::ZERO,
            drop_eligible_indicator: false,
            vlan_id: VlanId::try_new(key.vlan).ok()?,
            ether_type,
        };
        frame.extend_from_slice(&tag.to_bytes());
    }
    frame.extend_from_slice(&body);
    Some(frame)
}

/// Who asks by ARP: an address of ours on the target's prefix, or nobody, as a probe does. Many hosts answer no
/// others.
fn sender_v4(port: &Port, vlan: u16, target: Ipv4Addr) -> Option<(Mac, Ipv4Addr)> {
    let mut here = port.own.iter().filter(|own| own.vlan == vlan);
    let sender = here.clone().find_map(|own| match own.ip {
        IpAddr::V4(ip) if own.reaches(target.into()) => Some((own.mac, ip)),
        _ => None,
    });
    let (mac, ip) = sender.unwrap_or_else(|| {
        let mac = here.next().map_or(port.mac, |own| own.mac);
        (mac, Ipv4Addr::UNSPECIFIED)
    });
    (mac != Mac::NONE).then_some((mac, ip))
}

/// Who solicits: an address of ours on the target's prefix, or else a link-local one.
fn source_v6(port: &Port, vlan: u16, target: Ipv6Addr) -> Option<(Mac, Ipv6Addr)> {
    let ours = || {
        port.own.iter().filter_map(|own| match own.ip {
            IpAddr::V6(ip) if own.vlan == vlan && own.mac != Mac::NONE => Some((own, ip)),
            _ => None,
        })
    };
    ours()
        .find(|(own, _)| own.reaches(target.into()))
        .or_else(|| ours().find(|(_, ip)| ip.is_unicast_link_local()))
        .map(|(own, ip)| (own.mac, ip))
}

fn arp(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Option<Vec<u8>> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &sender_mac.octets(),
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    );
    Some(packet.ok()?.to_bytes().to_vec())
}

fn solicitation(
    source_mac: Mac,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    target: Ipv6Addr,
) -> Option<Vec<u8>> {
    let mut payload = target.octets().to_vec();
    payload.extend(SOURCE_LINK_LAYER);
    payload.extend(source_mac.octets());
    let mut packet = Vec::new();
    PacketBuilder::ipv6(source.octets(), destination.octets(), HOP_LIMIT)
        .icmpv6(Icmpv6Type::NeighborSolicitation)
        .write(&mut packet, &payload)
        .ok()?;
    Some(packet)
}

/// ff02::1:ffXX:XXXX (RFC 4291 section 2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b] = target.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | a & 0xff, b)
}

/// 33:33 and the group's last four octets (RFC 2464 section 7).
fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;
    use crate::host::testing::link;
    use crate::neighbor::ports::{key, tests::own};

    fn port() -> Port {
        let mut vlan = link(3, "eth0.100");
        vlan.kind = Some("vlan".to_owned());
        (vlan.lower, vlan.vlan_id) = (Some(2), Some(100));
        let mut inner = vlan.clone();
        (inner.index, inner.lower, inner.vlan_id) = (4, Some(3), Some(5));
        let addresses = [
            own(2, "192.0.2.7", 24),
            own(2, "fe80::7", 64),
            own(2, "2001:db8::7", 64),
            own(3, "198.51.100.7", 24),
            own(4, "203.0.113.7", 24),
        ];
        let links = [link(2, "eth0"), vlan, inner];
        Port::all(&[("eth0".into(), 2)], &links, &addresses).remove(0)
    }

    const HOLDER: Mac = Mac::new([2, 0, 0, 0, 0, 99]);

    /// Destination, VLAN, sender of the ARP request for `target`, read by etherparse.
    fn arp_of(
        target: &str,
        vlan: u16,
        to: Option<Mac>,
    ) -> ([u8; 6], Option<u16>, [u8; 6], Ipv4Addr) {
        let key = key(target.parse().unwrap(), 2, vlan);
        let frame = frame(&port(), &key, to).unwrap();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(NetSlice::Arp(arp)) = &packet.net else {
            panic!("{packet:?}")
        };
        assert_eq!(arp.operation(), ArpOperation::REQUEST);
        assert_eq!(arp.target_protocol_addr(), key.addr[0].to_ne_bytes());
        let link = Ethernet2Header::from_slice(&frame).unwrap().0;
        assert_eq!(link.source, arp.sender_hw_addr());
        let sender: [u8; 4] = arp.sender_protocol_addr().try_into().unwrap();
        let tag = packet
            .vlan()
            .map(|_| u16::from_be_bytes([frame[14], frame[15]]));
        (link.destination, tag, link.source, sender.into())
    }

    #[test]
    fn arp_asks_as_an_address_on_the_prefix_or_as_nobody() {
        let (eth0, upper) = ([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]);
        for (target, vlan, to, expected) in [
            ("192.0.2.1", 0, None, (BROADCAST, None, eth0, "192.0.2.7")),
            (
                "192.0.2.1",
                0,
                Some(HOLDER),
                (HOLDER.octets(), None, eth0, "192.0.2.7"),
            ),
            ("10.0.0.1", 0, None, (BROADCAST, None, eth0, "0.0.0.0")),
            (
                "198.51.100.1",
                100,
                None,
                (BROADCAST, Some(100), upper, "198.51.100.7"),
            ),
            (
                "192.0.2.1",
                77,
                None,
                (BROADCAST, Some(77), eth0, "0.0.0.0"),
            ),
        ] {
            let (destination, tag, mac, sender) = expected;
            let sender: Ipv4Addr = sender.parse().unwrap();
            assert_eq!(
                arp_of(target, vlan, to),
                (destination, tag, mac, sender),
                "{target} {vlan}"
            );
        }
    }

    #[test]
    fn solicitations_are_complete() {
        for (target, to, source, destination, mac) in [
            (
                "2001:db8::1",
                None,
                "2001:db8::7",
                "ff02::1:ff00:1",
                [0x33, 0x33, 0xff, 0, 0, 1],
            ),
            (
                "2001:db8::1",
                Some(HOLDER),
                "2001:db8::7",
                "2001:db8::1",
                HOLDER.octets(),
            ),
            (
                "fe80::ab:cdef",
                None,
                "fe80::7",
                "ff02::1:ffab:cdef",
                [0x33, 0x33, 0xff, 0xab, 0xcd, 0xef],
            ),
            (
                "2001:db9::1",
                Some(HOLDER),
                "fe80::7",
                "2001:db9::1",
                HOLDER.octets(),
            ),
        ] {
            let target: Ipv6Addr = target.parse().unwrap();
            let frame = frame(&port(), &key(target.into(), 2, 0), to).unwrap();
            assert_eq!(frame[..6], mac);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(NetSlice::Ipv6(ip)) = &packet.net else {
                panic!("{packet:?}")
            };
            let ip = ip.header();
            assert_eq!(ip.hop_limit(), 255);
            assert_eq!(ip.source_addr(), source.parse::<Ipv6Addr>().unwrap());
            assert_eq!(
                ip.destination_addr(),
                destination.parse::<Ipv6Addr>().unwrap()
            );
            let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else {
                panic!("{packet:?}")
            };
            assert!(icmp.is_checksum_valid(ip.source(), ip.destination()));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (135, 0));
            let (asked, option) = icmp.payload().split_at(16);
            assert_eq!(asked, target.octets());
            assert_eq!(option, [1, 1, 2, 0, 0, 0, 0, 2]);
        }
    }

    #[test]
    fn what_cannot_be_asked_for_is_not() {
        let ask =
            |port: &Port, ip: &str, vlan| frame(port, &key(ip.parse().unwrap(), 2, vlan), None);
        assert_eq!(ask(&port(), "203.0.113.1", 5), None, "two tags");
        assert_eq!(
            ask(&port(), "2001:db8::1", 100),
            None,
            "no IPv6 address there"
        );
        let mut bare = port();
        (bare.own, bare.mac) = (Vec::new(), Mac::NONE);
        assert_eq!(ask(&bare, "192.0.2.1", 0), None, "no Ethernet");
    }
}
