//! ARP (RFC 826, RFC 5227): rules R-ARP-1 to R-ARP-4, and what a packet claims.
//!
//! Honest traffic that looks like an attack, and passes: probes (sender 0.0.0.0, RFC 5227 section 1.1),
//! announcements in both forms, a sender that is not the Ethernet source (VRRP, RFC 5798 section 8.1.2),
//! padding behind the packet, hardware type 6 (IEEE 802).

use crate::{
    abi::NeighborSettings,
    guard::neighbor::{Claim, Form},
    parse::{Frame, Header},
    units::{Mac, Version},
    verdict::Reason,
};

/// Octets of an ARP packet for Ethernet and IPv4.
pub const LEN: usize = 28;
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// An ARP packet for Ethernet and IPv4, with the Ethernet addresses it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// A reply, or else a request.
    pub reply: bool,
    /// Sender's link-layer address.
    pub sender_mac: Mac,
    /// Sender's address, as it stands in the packet.
    pub sender: u32,
    /// Target's link-layer address.
    pub target_mac: Mac,
    /// Target's address, as it stands in the packet.
    pub target: u32,
    /// Ethernet source.
    pub source: Mac,
    /// Ethernet destination.
    pub destination: Mac,
}

/// Reads the packet at `l3`. None is R-ARP-1: what Linux discards too (6.12 `arp_rcv`, `arp_process`).
#[inline(always)]
pub fn read<F: Frame>(frame: &F, l3: usize) -> Option<Arp> {
    let ethernet = frame.header::<14>(0)?;
    let arp = frame.header::<LEN>(l3)?;
    let hardware = arp.be16::<0>();
    let operation = arp.be16::<6>();
    if (hardware != 1 && hardware != 6)
        || arp.be16::<2>() != 0x0800
        || arp.be16::<4>() != 0x0604
        || (operation != REQUEST && operation != REPLY)
    {
        return None;
    }
    Some(Arp {
        reply: operation == REPLY,
        sender_mac: mac(arp.word::<8>(), arp.be16::<12>()),
        sender: arp.word::<14>(),
        target_mac: mac(arp.word::<18>(), arp.be16::<22>()),
        target: arp.word::<24>(),
        source: mac(ethernet.word::<6>(), ethernet.be16::<10>()),
        destination: mac(ethernet.word::<0>(), ethernet.be16::<4>()),
    })
}

/// A link-layer address from its first four octets as they stand in memory and its last two.
#[inline(always)]
pub(super) fn mac(front: u32, back: u16) -> Mac {
    Mac(u64::from(front.to_le()) | u64::from(back.swap_bytes()) << 32)
}

impl Arp {
    /// A probe: its sender wants the target for itself (RFC 5227 section 1.1).
    #[inline(always)]
    pub fn is_probe(&self) -> bool {
        self.sender == 0
    }

    /// Gratuitous: tells about itself (RFC 5227 section 1.1, and the reply form of old).
    #[inline(always)]
    pub fn is_announcement(&self) -> bool {
        self.sender == self.target
    }

    /// What it claims of its sender; a probe claims nothing.
    #[inline(always)]
    pub fn claim(&self) -> Option<Claim> {
        if self.is_probe() {
            return None;
        }
        Some(Claim {
            version: Version::V4,
            addr: [self.sender, 0, 0, 0],
            mac: self.sender_mac,
            sender: Mac::NONE,
            explicit: true,
            form: if self.is_announcement() {
                Form::Announcement
            } else if self.reply {
                Form::Reply
            } else {
                Form::Request
            },
        })
    }

    /// The rules that need the packet and the chosen checks alone. Some(reason) to drop it. `named` is whether a
    /// binding of the sender names its link-layer address, which may then be a group (Microsoft's NLB).
    #[inline(always)]
    pub fn sanity(&self, flags: u32, named: bool) -> Option<Reason> {
        if impossible(self.sender)
            || u32::from_be(self.sender) >> 24 == 127
            || self.sender_mac.is_group() && !named
        {
            return Some(Reason::ArpSender);
        }
        let fails = |check: u32, fault: bool| flags & check != 0 && fault;
        // `ip` would have the unspecified sender too, but a request with it is a probe (R-ARP-4).
        if fails(
            NeighborSettings::ARP_SRC_MAC,
            self.source.0 != self.sender_mac.0,
        ) || fails(
            NeighborSettings::ARP_DST_MAC,
            self.reply && self.destination.0 != self.target_mac.0,
        ) || fails(
            NeighborSettings::ARP_IP,
            self.reply && (self.sender == 0 || self.target == 0 || impossible(self.target)),
        ) {
            return Some(Reason::ArpValidate);
        }
        None
    }
}

/// Multicast or the limited broadcast: nobody's address.
#[inline(always)]
fn impossible(addr: u32) -> bool {
    let addr = u32::from_be(addr);
    addr >> 28 == 0xe || addr == u32::MAX
}

#[cfg(test)]
mod tests;
