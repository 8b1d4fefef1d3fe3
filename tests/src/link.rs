//! Ends of veth pairs.

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use crate::netns::Namespace;

/// One end of a veth pair, in a namespace.
#[derive(Clone, Debug)]
pub struct Link {
    /// Its name there.
    pub name: String,
    /// Its index there.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Makes a veth pair between two namespaces, both ends up. `numbers` make the hardware addresses.
///
/// # Errors
/// A name is taken.
pub fn veth(
    (left, left_name): (&Namespace, &str),
    (right, right_name): (&Namespace, &str),
    numbers: (u8, u8),
) -> Result<(Link, Link)> {
    let macs = (mac(numbers.0), mac(numbers.1));
    left.ip(&format!(
        "link add name {left_name} address {} type veth peer name {right_name} address {} netns {}\n\
         link set {left_name} up",
        text(macs.0),
        text(macs.1),
        right.name()
    ))?;
    right.ip(&format!("link set {right_name} up"))?;
    Ok((
        find(left, left_name, macs.0)?,
        find(right, right_name, macs.1)?,
    ))
}

/// A hardware address as `ip` takes it.
pub fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Locally administered, unicast.
fn mac(number: u8) -> [u8; 6] {
    [0x02, 0x6e, 0x6d, 0, 0, number]
}

fn find(namespace: &Namespace, name: &str, mac: [u8; 6]) -> Result<Link> {
    let ifindex = namespace
        .run(|| if_nametoindex(name))
        .with_context(|| format!("{} has no interface {name}", namespace.name()))?;
    Ok(Link {
        name: name.to_owned(),
        ifindex,
        mac,
    })
}
