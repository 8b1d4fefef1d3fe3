//! What an operator may say of a neighbour, in the config and on the command line.

use std::net::{IpAddr, Ipv6Addr};

use net_common::abi::BINDING_MACS;
use net_common::units::Mac;

use super::units::UnitError;
use super::{NeighborConfig, NeighborPolicy};
use crate::control::protocol::PinNeighbor;

/// The greatest VLAN id; 4095 is reserved (IEEE 802.1Q).
pub(super) const MAX_VLAN: u16 = 4094;
const MAC_REMEDY: &str = "write six octets of two hexadecimal digits: \"02:00:00:00:00:01\"";

impl NeighborPolicy {
    /// Whether only listed routers may send router advertisements: those of `routers`, and bindings with
    /// `router = true`.
    pub fn ra_guard(&self) -> bool {
        !self.routers.is_empty() || self.bindings.iter().any(|binding| binding.router)
    }
}

impl NeighborConfig {
    /// The neighbour of a request to pin; its `macs` are empty when what was learned is to be pinned. Whether
    /// the interface is attached is for the agent to say.
    ///
    /// # Errors
    /// The first thing that the config would refuse as well.
    pub fn from_pin(pin: &PinNeighbor) -> Result<Self, UnitError> {
        let error = |(what, remedy): (String, &str)| UnitError {
            what,
            remedy: remedy.to_owned(),
        };
        address_fault(pin.address).map_err(error)?;
        if pin.router && !is_link_local(pin.address) {
            return Err(error(no_router(pin.address)));
        }
        if pin.vlan > MAX_VLAN {
            return Err(error(no_vlan(pin.vlan.into())));
        }
        let mut macs = Vec::new();
        for text in &pin.macs {
            let mac = parse_mac(text)?;
            if macs.contains(&mac) {
                return Err(error(named_twice(mac)));
            }
            macs.push(mac);
        }
        if macs.len() > BINDING_MACS {
            return Err(error(too_many(macs.len())));
        }
        Ok(Self {
            address: pin.address,
            macs,
            interface: pin.interface.clone(),
            vlan: pin.vlan,
            router: pin.router,
        })
    }
}

/// Reads a link-layer address as `ip link` writes it. Group addresses are allowed, as clusters (Microsoft NLB)
/// answer ARP with them; broadcast and zero are not.
pub fn parse_mac(text: &str) -> Result<Mac, UnitError> {
    let error = |what: String| UnitError {
        what,
        remedy: MAC_REMEDY.to_owned(),
    };
    let no_mac = || {
        error(format!(
            "`{}` is no link-layer address",
            text.escape_debug()
        ))
    };
    let mut octets = [0; 6];
    let mut parts = text.split(':');
    for octet in &mut octets {
        let part = parts.next().ok_or_else(no_mac)?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(no_mac());
        }
        *octet = u8::from_str_radix(part, 16).map_err(|_| no_mac())?;
    }
    if parts.next().is_some() {
        return Err(no_mac());
    }
    match octets {
        [0, 0, 0, 0, 0, 0] => Err(error(format!("`{text}` is zero, which no host has"))),
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => {
            Err(error(format!("`{text}` is broadcast, which no host has")))
        }
        octets => Ok(Mac::new(octets)),
    }
}

/// Why no neighbour can have an address, and what to write instead.
pub(super) fn address_fault(address: IpAddr) -> Result<(), (String, &'static str)> {
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "no address of a host",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6's notation",
        _ => return Ok(()),
    };
    Err((
        format!("{address} is {kind}; it has no neighbour's link-layer address"),
        "write the unicast address of a host on the link; `ip neigh` lists those in use",
    ))
}

/// fe80::/10.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

pub(super) fn no_router(address: IpAddr) -> (String, &'static str) {
    (
        format!(
            "{address} cannot be a router's: advertisements come from link-local addresses (RFC 4861 section 6.1.2)"
        ),
        "give the router's address of fe80::/10; `ip -6 route show default` shows it after `via`",
    )
}

pub(super) fn no_vlan(vlan: i64) -> (String, &'static str) {
    (
        format!("{vlan} is no VLAN id"),
        "write a number from 1 to 4094, or 0 for untagged frames",
    )
}

pub(super) fn named_twice(mac: Mac) -> (String, &'static str) {
    (
        format!("link-layer address {mac} is named twice"),
        "name it once",
    )
}

pub(super) fn too_many(count: usize) -> (String, &'static str) {
    (
        format!("{count} link-layer addresses, and a neighbour may be at {BINDING_MACS} at most"),
        "leave out those that are not in use",
    )
}

/// Reads the address of a router that may advertise itself.
pub(super) fn parse_router(text: &str) -> Result<Ipv6Addr, (String, &'static str)> {
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<Ipv6Addr>().is_ok()
    {
        return Err((
            format!("`{}` names an interface", text.escape_debug()),
            "leave out `%` and what follows; a [[neighbor]] with `router = true` holds a router to one interface",
        ));
    }
    let address: Ipv6Addr = text.parse().map_err(|_| {
        (
            format!("`{}` is no IPv6 address", text.escape_debug()),
            "write a router's link-local address, as in \"fe80::1\"",
        )
    })?;
    if !is_link_local(address.into()) {
        return Err(no_router(address.into()));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_layer_addresses_are_read() {
        assert_eq!(
            parse_mac("02:00:5e:Ab:CD:0f").unwrap(),
            Mac::new([2, 0, 0x5e, 0xab, 0xcd, 0x0f])
        );
        let cluster = parse_mac("03:bf:c0:00:02:01").unwrap();
        assert!(cluster.is_group());
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "0200.0000.0001",
            "+2:00:00:00:00:01",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:é",
            "02:00:00:00:00:01 ",
        ] {
            let error = parse_mac(text).unwrap_err();
            assert!(error.what.contains("is no link-layer address"), "{error}");
            assert!(error.remedy.contains("02:00:00:00:00:01"));
        }
        for (text, what) in [
            ("00:00:00:00:00:00", "is zero"),
            ("FF:ff:ff:ff:ff:ff", "is broadcast"),
        ] {
            assert!(parse_mac(text).unwrap_err().what.contains(what), "{text}");
        }
    }

    #[test]
    fn a_request_to_pin_is_held_to_what_the_config_is() {
        let pin = |address: &str, macs: &[&str], vlan, router| {
            NeighborConfig::from_pin(&PinNeighbor {
                address: address.parse().unwrap(),
                macs: macs.iter().map(|mac| (*mac).to_owned()).collect(),
                interface: Some("eth0".to_owned()),
                vlan,
                router,
            })
        };
        let mac = "02:00:00:00:00:01";
        let neighbor = pin("fe80::1", &[mac], 4094, true).unwrap();
        assert_eq!(neighbor.macs, [Mac::new([2, 0, 0, 0, 0, 1])]);
        assert_eq!(neighbor.interface.as_deref(), Some("eth0"));
        assert!(neighbor.router);
        // What was learned.
        assert_eq!(pin("192.0.2.1", &[], 0, false).unwrap().macs, []);
        let nine: Vec<_> = (1..10).map(|i| format!("02:00:00:00:00:{i:02x}")).collect();
        let nine: Vec<_> = nine.iter().map(String::as_str).collect();
        assert_eq!(
            pin("192.0.2.1", &nine[..8], 0, false).unwrap().macs.len(),
            8
        );
        for (result, what) in [
            (pin("224.0.0.1", &[mac], 0, false), "multicast"),
            (pin("ff02::1", &[mac], 0, false), "multicast"),
            (pin("0.0.0.0", &[mac], 0, false), "unspecified"),
            (pin("::", &[mac], 0, false), "unspecified"),
            (pin("127.0.0.1", &[mac], 0, false), "loopback"),
            (pin("::1", &[mac], 0, false), "loopback"),
            (pin("255.255.255.255", &[mac], 0, false), "broadcast"),
            (pin("0.1.2.3", &[mac], 0, false), "no address of a host"),
            (pin("::ffff:192.0.2.1", &[mac], 0, false), "IPv4 address"),
            (pin("192.0.2.1", &[mac], 0, true), "cannot be a router's"),
            (pin("2001:db8::1", &[mac], 0, true), "cannot be a router's"),
            (pin("192.0.2.1", &[mac], 4095, false), "no VLAN id"),
            (pin("192.0.2.1", &[mac, mac], 0, false), "named twice"),
            (pin("192.0.2.1", &nine, 0, false), "9 link-layer addresses"),
            (pin("192.0.2.1", &["x"], 0, false), "no link-layer address"),
        ] {
            let error = result.unwrap_err();
            assert!(error.what.contains(what), "{error}");
        }
    }
}
