//! What the journal and the histories say.

use net_common::units::Mac;

use super::{bindings::Entry, journal::Place, stations::Change};
use crate::control::protocol::BindingOrigin;

/// What a line of history about a contest begins with.
pub(super) const CONTESTED: &str = "contested";

/// Link-layer addresses in a row.
pub(super) fn list(macs: &[Mac]) -> String {
    macs.iter()
        .map(|mac| name(*mac))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A link-layer address, if it could be read.
pub(super) fn name(mac: Mac) -> String {
    if mac == Mac::NONE {
        "an unreadable link-layer address".to_owned()
    } else {
        mac.to_string()
    }
}

/// An address and where it is.
pub(super) fn at(place: &Place) -> String {
    match place.vlan {
        0 => format!("{} on {}", place.address, place.interface),
        vlan => format!("{} on {}, VLAN {vlan}", place.address, place.interface),
    }
}

/// How to pin it.
pub(super) fn pin(place: &Place, macs: &str) -> String {
    let vlan = match place.vlan {
        0 => String::new(),
        vlan => format!(" --vlan {vlan}"),
    };
    format!(
        "`netmoat neighbor pin {} {macs} --interface {}{vlan}`",
        place.address, place.interface
    )
}

pub(super) fn spoof(
    place: &Place,
    claimed: Mac,
    holder: Mac,
    entry: &Entry,
    enforced: bool,
) -> String {
    let mut text = format!(
        "{} claims {}, and {holder} still answers for it: the claim is false",
        name(claimed),
        at(place)
    );
    if !enforced {
        text.push_str("; it was let through, as the guard only observes");
    }
    if entry.past.contains(&claimed) && !entry.is_fixed() {
        let pin = pin(place, &claimed.to_string());
        text.push_str(&format!(
            ". {claimed} had the address before; if it still should, {pin}"
        ));
    }
    text
}

pub(super) fn moved(place: &Place, from: &[Mac], to: Mac) -> String {
    format!(
        "{} moved from {}, which is silent, to {to}",
        at(place),
        list(from)
    )
}

pub(super) fn learned(place: &Place, mac: Mac) -> String {
    format!(
        "{} is at {mac}; claims of others are held to that from now on",
        at(place)
    )
}

pub(super) fn contested_briefly(macs: &[Mac]) -> String {
    if macs.is_empty() {
        format!("{CONTESTED}: the holder is silent, and nobody takes over")
    } else {
        format!("{CONTESTED} by {}", list(macs))
    }
}

pub(super) fn contested(place: &Place, macs: &[Mac], entry: &Entry) -> String {
    let (at, others) = (at(place), list(macs));
    let choose = match (entry.origin, macs) {
        (BindingOrigin::Config, _) => {
            "if that is right, change `macs` of its [[neighbor]] in the config and restart netmoat"
                .to_owned()
        }
        (_, [only]) => format!("if that is right, {}", pin(place, &only.to_string())),
        _ => format!("name the right one: {}", pin(place, "MAC")),
    };
    if entry.macs.is_empty() {
        return format!(
            "{others} answer for {at}: it is not protected until only one does; {choose}"
        );
    }
    let holder = list(&entry.macs);
    if macs.is_empty() {
        return format!("{at} was claimed by another; {holder} is silent, and nobody takes over");
    }
    let stays = "what is recorded stays until the holder answers or you decide";
    format!("{holder} is silent for {at}, and {others} would have it: {stays}; {choose}")
}

pub(super) fn contest_over(place: &Place, holder: Mac) -> String {
    format!("{} is at {holder}, and contested no longer", at(place))
}

pub(super) fn pinned(place: &Place, macs: &[Mac]) -> String {
    format!("{} is held to {}", at(place), list(macs))
}

pub(super) fn unpinned(place: &Place, macs: &[Mac]) -> String {
    format!("{} is held to {} no longer", at(place), list(macs))
}

pub(super) fn learned_again(place: &Place, macs: &[Mac]) -> String {
    format!(
        "{} is pinned no longer; it stays at {} as long as that answers",
        at(place),
        list(macs)
    )
}

pub(super) fn own_address(place: &Place, mac: Mac, source: Mac) -> String {
    format!(
        "{}{} claims {}, an address of this host; find it, or give one of the two another address",
        name(mac),
        sent_by(mac, source),
        at(place)
    )
}

pub(super) fn rogue_router(place: &Place, mac: Mac, source: Mac) -> String {
    format!(
        "{}{} advertises itself as a router, as {}, and is not on the list; if it should be, add the address to \
         `routers` of [ndp] in the config",
        name(mac),
        sent_by(mac, source),
        at(place)
    )
}

fn sent_by(mac: Mac, source: Mac) -> String {
    if mac == source {
        String::new()
    } else {
        format!(" (sent by {source})")
    }
}

pub(super) fn station(place: &Place, mac: Mac, change: &Change) -> String {
    let at = at(place);
    match change {
        Change::New => format!("{at} is at {mac}"),
        Change::Changed { before } => format!("{at} is at {mac} now, and was at {before}"),
        Change::FlipFlop { before } => format!("{at} is back at {mac}, and was at {before}"),
        Change::Many { macs } => {
            format!(
                "{at} is at {} link-layer addresses lately: {}",
                macs.len(),
                list(macs)
            )
        }
    }
}

pub(super) fn probe_answered(place: &Place, mac: Mac) -> String {
    format!(
        "{mac} answers for {}, which this host wanted for itself",
        at(place)
    )
}

pub(super) fn dad_denial(place: &Place, addresses: usize, macs: &[Mac]) -> String {
    let (at, who) = (at(place), list(macs));
    if macs.len() > 1 {
        return format!("{who} all answer for {at}, which this host wanted for itself");
    }
    format!(
        "{who} answers for {at}; of the addresses that this host wanted for itself in the last minute, {addresses} \
         were answered for: someone denies it every address"
    )
}
