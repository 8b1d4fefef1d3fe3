//! What the parser sees in a frame, for people. The parser is the data path's own.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use net_common::{
    parse::{Frame, Header as _, Octets, Packet, network, payload},
    units::{EtherType, IpProto, Mac, tcp_flags},
};
use serde::{Deserialize, Serialize};

/// A frame's headers, as far as they could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Ethernet source; empty when the frame is too short for one.
    pub source_mac: String,
    /// Ethernet destination, likewise.
    pub destination_mac: String,
    /// VLAN id of the innermost tag, 0 for untagged.
    pub vlan: u16,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `arp`; `ip-N` for another IP protocol, `fragment` for a later fragment,
    /// `ethertype-0xNNNN` for what is no IP; empty when it could not be told.
    pub protocol: String,
    /// Source address of IP, or ARP's sender.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Destination address of IP, or ARP's target.
    #[serde(default)]
    pub destination: Option<IpAddr>,
    /// Port of TCP or UDP.
    #[serde(default)]
    pub source_port: Option<u16>,
    /// Port of TCP or UDP.
    #[serde(default)]
    pub destination_port: Option<u16>,
    /// Type of ICMP.
    #[serde(default)]
    pub icmp_type: Option<u8>,
    /// Code of ICMP.
    #[serde(default)]
    pub icmp_code: Option<u8>,
    /// Flags of TCP, as `SYN,ACK`; empty for a segment that has none.
    #[serde(default)]
    pub tcp_flags: Option<String>,
    /// All of it in one line.
    pub line: String,
}

/// A frame of which only the first octets are there.
#[derive(Clone, Copy)]
struct Cut<'a> {
    octets: &'a [u8],
    len: usize,
}

impl<'a> Frame for Cut<'a> {
    type Header<const N: usize> = Octets<'a>;

    fn header<const N: usize>(&self, offset: usize) -> Option<Octets<'a>> {
        Octets(self.octets).header::<N>(offset)
    }

    fn holds(&self, len: usize) -> bool {
        len <= self.len
    }

    fn total_len(&self) -> usize {
        self.len
    }
}

impl Seen {
    /// Reads the headers of a frame of `len` octets, of which `octets` are there.
    pub fn of(octets: &[u8], len: usize) -> Self {
        let frame = Cut {
            octets,
            len: len.max(octets.len()),
        };
        let mut seen = Self::default();
        let mut more = seen.read(&frame).unwrap_or_default();
        if seen.vlan != 0 {
            let _ = write!(more, ", VLAN {}", seen.vlan);
        }
        seen.line = format!("{}{more}, {} octets", seen.ends(), frame.len);
        seen
    }

    /// The fields; what else is worth a word.
    fn read(&mut self, frame: &Cut) -> Option<String> {
        let ethernet = frame.header::<14>(0)?;
        let mac = |at: usize| {
            let octets = frame.octets.get(at..at + 6)?;
            Some(Mac::new(octets.try_into().ok()?).to_string())
        };
        self.destination_mac = mac(0)?;
        self.source_mac = mac(6)?;
        let outer = EtherType(ethernet.be16::<12>());
        let Ok(payload) = payload(frame) else {
            self.protocol = ethertype(outer);
            return Some(", behind more VLAN tags than are looked behind".to_owned());
        };
        self.vlan = payload.vlan;
        let l3 = payload.l3;
        match payload.ether_type {
            EtherType::IPV4 => {
                self.source = v4(frame, l3 + 12);
                self.destination = v4(frame, l3 + 16);
            }
            EtherType::IPV6 => {
                self.source = v6(frame, l3 + 8);
                self.destination = v6(frame, l3 + 24);
            }
            EtherType::ARP => {
                self.protocol = "arp".to_owned();
                self.source = v4(frame, l3 + 14);
                self.destination = v4(frame, l3 + 24);
                let operation = frame.header::<8>(l3)?.be16::<6>();
                let sender = frame.octets.get(l3 + 8..l3 + 14)?;
                let sender = Mac::new(sender.try_into().ok()?);
                return Some(match operation {
                    1 => format!(", request of {sender}"),
                    2 => format!(", reply of {sender}"),
                    other => format!(", operation {other} of {sender}"),
                });
            }
            other => {
                self.protocol = ethertype(other);
                return None;
            }
        }
        match network(frame, payload) {
            // Ports stand in the first fragment alone.
            Ok(packet) if packet.fragment_offset != 0 => {
                self.protocol = "fragment".to_owned();
                let (IpProto(protocol), at) = (packet.protocol, packet.fragment_offset);
                Some(format!(" of ip-{protocol} at {}", u32::from(at) * 8))
            }
            Ok(packet) => Some(self.transport(frame, &packet)),
            Err(reason) => {
                self.protocol = ethertype(payload.ether_type);
                Some(format!(", not parsed further: {}", reason.name()))
            }
        }
    }

    fn transport(&mut self, frame: &Cut, packet: &Packet) -> String {
        let mut more = String::new();
        let (name, ports) = match packet.protocol {
            IpProto::TCP => ("tcp", true),
            IpProto::UDP => ("udp", true),
            IpProto::ICMP => ("icmp", false),
            IpProto::ICMPV6 => ("icmpv6", false),
            IpProto(other) => {
                self.protocol = format!("ip-{other}");
                ("", false)
            }
        };
        if !name.is_empty() {
            self.protocol = name.to_owned();
        }
        // By the IP length, never by the frame's, which may be padded (R-GEN-4).
        if let Some(head) = frame.header::<4>(packet.l4).filter(|_| packet.l4_len >= 4) {
            if ports {
                self.source_port = Some(head.be16::<0>());
                self.destination_port = Some(head.be16::<2>());
            } else if !name.is_empty() {
                let (kind, code) = (head.octet::<0>(), head.octet::<1>());
                (self.icmp_type, self.icmp_code) = (Some(kind), Some(code));
                let _ = write!(more, " type {kind} code {code}");
            }
        }
        let tcp = frame
            .header::<14>(packet.l4)
            .filter(|_| packet.protocol == IpProto::TCP && packet.l4_len >= 14);
        if let Some(tcp) = tcp {
            let flags = flags(tcp.octet::<13>());
            let words = match flags.as_str() {
                "" => "without flags",
                flags => flags,
            };
            let _ = write!(more, " {words}");
            self.tcp_flags = Some(flags);
        }
        if packet.first_fragment {
            more += ", first fragment";
        }
        more
    }

    /// Protocol and both ends, as `tcp 192.0.2.1:4000 → [2001:db8::1]:80`.
    pub fn ends(&self) -> String {
        let end = |address: Option<IpAddr>, port: Option<u16>, mac: &str| match (address, port) {
            (Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
            (Some(address), None) => address.to_string(),
            (None, _) if mac.is_empty() => "?".to_owned(),
            (None, _) => mac.to_owned(),
        };
        let name = if self.protocol.is_empty() {
            "unknown"
        } else {
            &self.protocol
        };
        format!(
            "{name} {} → {}",
            end(self.source, self.source_port, &self.source_mac),
            end(
                self.destination,
                self.destination_port,
                &self.destination_mac
            )
        )
    }
}

fn ethertype(ether_type: EtherType) -> String {
    match ether_type {
        EtherType::IPV4 => "ipv4".to_owned(),
        EtherType::IPV6 => "ipv6".to_owned(),
        EtherType(number) => format!("ethertype-{number:#06x}"),
    }
}

fn v4(frame: &Cut, at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = frame.octets.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(frame: &Cut, at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = frame.octets.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

/// The flags of a TCP segment, as `SYN,ACK`.
fn flags(octet: u8) -> String {
    let names = [
        (tcp_flags::FIN, "FIN"),
        (tcp_flags::SYN, "SYN"),
        (tcp_flags::RST, "RST"),
        (tcp_flags::PSH, "PSH"),
        (tcp_flags::ACK, "ACK"),
        (tcp_flags::URG, "URG"),
        (tcp_flags::ECE, "ECE"),
        (tcp_flags::CWR, "CWR"),
    ];
    let set: Vec<_> = names
        .iter()
        .filter(|(bit, _)| octet & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    set.join(",")
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
    }

    #[test]
    fn the_line_names_both_ends_and_what_matters() {
        let mut tcp = Vec::new();
        ethernet()
            .ipv4([192, 0, 2, 1], [198, 51, 100, 1], 64)
            .tcp(4000, 80, 1, 1000)
            .syn()
            .fin()
            .write(&mut tcp, &[])
            .unwrap();
        let mut tagged = Vec::new();
        ethernet()
            .single_vlan(etherparse::VlanId::try_new(7).unwrap())
            .ipv6([0x20; 16], [0x30; 16], 64)
            .udp(53, 4000)
            .write(&mut tagged, &[0; 300])
            .unwrap();
        let mut echo = Vec::new();
        ethernet()
            .ipv4([192, 0, 2, 1], [198, 51, 100, 1], 64)
            .icmpv4_echo_request(1, 2)
            .write(&mut echo, &[0; 8])
            .unwrap();
        let mut later = tcp.clone();
        later[20] = 1;
        let mut arp = vec![0xff; 6];
        arp.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend([
            2, 0, 0, 0, 0, 1, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 192, 0, 2, 9,
        ]);
        let mut stacked = vec![0; 12];
        stacked.extend([0x81, 0, 0, 1].repeat(4));
        for (frame, line) in [
            (
                &tcp[..],
                "tcp 192.0.2.1:4000 → 198.51.100.1:80 FIN,SYN, 54 octets",
            ),
            (
                &tagged,
                "udp [2020:2020:2020:2020:2020:2020:2020:2020]:53 → \
                 [3030:3030:3030:3030:3030:3030:3030:3030]:4000, VLAN 7, 366 octets",
            ),
            (
                &echo,
                "icmp 192.0.2.1 → 198.51.100.1 type 8 code 0, 50 octets",
            ),
            (
                &later,
                "fragment 192.0.2.1 → 198.51.100.1 of ip-6 at 2048, 54 octets",
            ),
            (
                &arp,
                "arp 192.0.2.1 → 192.0.2.9, request of 02:00:00:00:00:01, 42 octets",
            ),
            (
                &tcp[..20],
                "ipv4 02:00:00:00:00:01 → 02:00:00:00:00:02, not parsed further: ip_malformed, 20 octets",
            ),
            (&tcp[..9], "unknown ? → ?, 9 octets"),
            (
                &stacked,
                "ethertype-0x8100 00:00:00:00:00:00 → 00:00:00:00:00:00, behind more VLAN tags than are looked \
                 behind, 28 octets",
            ),
        ] {
            assert_eq!(Seen::of(frame, frame.len()).line, line);
        }
        let seen = Seen::of(&tcp, tcp.len());
        assert_eq!(
            (seen.tcp_flags.as_deref(), seen.icmp_type),
            (Some("FIN,SYN"), None)
        );
        let mut null = tcp.clone();
        null[47] = 0;
        let seen = Seen::of(&null, null.len());
        assert_eq!(seen.tcp_flags.as_deref(), Some(""));
        assert!(seen.line.contains(":80 without flags, "), "{}", seen.line);
        let seen = Seen::of(&echo, echo.len());
        assert_eq!((seen.icmp_type, seen.icmp_code), (Some(8), Some(0)));
        assert_eq!(seen.tcp_flags, None);
        // A sample holds the first octets only.
        let cut = Seen::of(&tagged[..256], tagged.len());
        assert_eq!(cut, Seen::of(&tagged, tagged.len()));
    }

    #[test]
    fn no_frame_is_too_strange_to_be_told_of() {
        proptest::proptest!(|(octets: Vec<u8>, len: u16)| {
            let seen = Seen::of(&octets, len.into());
            assert!(!seen.line.contains(char::is_control));
        });
    }
}
