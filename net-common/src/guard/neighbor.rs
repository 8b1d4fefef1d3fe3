//! What ARP and neighbour discovery have in common: a claim that an address is at a link-layer address,
//! the binding that it is held to, and the share of frames that it draws from (R-ARP-5 to R-ARP-10, R-ND-5
//! to R-ND-7).
//!
//! Honest traffic that looks like an attack, and passes: gratuitous ARP and unsolicited advertisements of a
//! failover (from an address in the binding's set; another is asked about), many addresses at one
//! link-layer address (proxy ARP, bonds, macvlan, hosts of virtual machines), virtual router addresses
//! sent from a physical one (VRRP), probes without a sender.

use crate::{
    abi::{AddrWords, BINDING_MACS, Binding, Limit, NeighborEvent},
    units::{Mac, Version},
    verdict::Reason,
};

/// "`addr` is at `mac`".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The family of `addr`.
    pub version: Version,
    /// The address that is claimed.
    pub addr: AddrWords,
    /// Where it is said to be. [`Mac::NONE`] when the frame says so in a way that we cannot read; the kernel
    /// might, so it agrees with no binding.
    pub mac: Mac,
    /// Another link-layer address that the binding must hold as well, that which sent it; [`Mac::NONE`] when it does
    /// not matter.
    pub sender: Mac,
    /// `mac` stands in the frame; it was not taken from the Ethernet header for want of anything better.
    pub explicit: bool,
    /// What carries it.
    pub form: Form,
}

/// What carries a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Form {
    /// The sender of an ARP request or solicitation.
    Request = 0,
    /// An ARP reply or a neighbour advertisement that may answer a request of ours.
    Reply = 1,
    /// Nobody asked: gratuitous ARP, unsolicited neighbour advertisement, router advertisement, redirect.
    Announcement = 2,
}

impl Form {
    /// From its number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Reply,
            2 => Self::Announcement,
            _ => Self::Request,
        }
    }
}

/// What a claim is to the binding of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Standing {
    /// There is no binding, or one without a known link-layer address yet.
    Unbound = 0,
    /// An address of our own, and the claim is our own too (a looped frame, another interface of ours).
    OwnValid = 1,
    /// An address of our own, claimed by someone else.
    OwnForeign = 2,
    /// Agrees with a protected binding.
    Valid = 3,
    /// Agrees, but is an ARP reply that nobody here asked for (R-ARP-8).
    Unsolicited = 4,
    /// Contradicts a protected binding.
    Mismatch = 5,
}

impl Standing {
    /// From its number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::OwnValid,
            2 => Self::OwnForeign,
            3 => Self::Valid,
            4 => Self::Unsolicited,
            5 => Self::Mismatch,
            _ => Self::Unbound,
        }
    }

    /// The reason to drop a claim of this standing, if there is one.
    #[inline(always)]
    pub fn drop_reason(self) -> Option<Reason> {
        match self {
            Self::Mismatch => Some(Reason::NeighborMismatch),
            Self::Unsolicited => Some(Reason::ArpUnsolicited),
            _ => None,
        }
    }
}

/// Holds a claim to the binding of its address. `asked` is whether this host asked for the address in the last
/// 3 s.
#[inline(always)]
pub fn standing(claim: &Claim, binding: Option<&Binding>, asked: bool) -> Standing {
    let Some(binding) = binding else {
        return Standing::Unbound;
    };
    let agrees = holds(binding, claim.mac) && (claim.sender.0 == 0 || holds(binding, claim.sender));
    if binding.flags & Binding::OWN != 0 {
        return if agrees {
            Standing::OwnValid
        } else {
            Standing::OwnForeign
        };
    }
    if binding.flags & Binding::PROTECTED == 0 {
        return Standing::Unbound;
    }
    if !agrees {
        return Standing::Mismatch;
    }
    // A set of several addresses could be played off against itself with answers that nobody asked for. Neighbour
    // advertisements say themselves whether they answer, and failover depends on those that do not.
    if claim.version == Version::V4 && claim.form == Form::Reply && !asked {
        return Standing::Unsolicited;
    }
    Standing::Valid
}

/// Whether a binding's set has `mac`.
#[inline(always)]
pub fn holds(binding: &Binding, mac: Mac) -> bool {
    let mut found = false;
    let mut i = 0;
    while i < BINDING_MACS {
        found |= binding.macs[i] == mac.0;
        i += 1;
    }
    found & (mac.0 != 0)
}

/// What the agent is told of a claim, if anything. `known` is whether this very pair was told of before, `probed`
/// whether this host wanted the address for itself in the last 3 s.
#[inline(always)]
pub fn event(
    standing: Standing,
    claim: &Claim,
    bound: bool,
    asked: bool,
    probed: bool,
    known: bool,
) -> Option<EventKind> {
    let answers = matches!(claim.form, Form::Reply) && asked;
    match standing {
        Standing::Mismatch => Some(EventKind::Claim),
        Standing::OwnForeign => Some(EventKind::OwnClaim),
        Standing::Valid if answers => Some(EventKind::Answer),
        // It is being learned.
        Standing::Unbound if bound && answers => Some(EventKind::Answer),
        Standing::Unbound if probed => Some(EventKind::ProbeAnswered),
        Standing::OwnValid | Standing::Unsolicited => None,
        _ if !known && claim.mac.0 != 0 => Some(EventKind::Station),
        _ => None,
    }
}

/// Whether a drop by a binding with these flags is carried out: only in enforce mode, and for a learned binding only
/// while the agent is there to find out that its neighbour has moved.
#[inline(always)]
pub fn enforced(flags: u32, enforce: bool, agent_alive: bool) -> bool {
    enforce && (agent_alive || flags & Binding::PINNED != 0)
}

/// What an event in `NEIGHBOR_EVENTS` is about; its numbers are part of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A claim that contradicts a protected binding. To be verified by asking the recorded holder.
    Claim = 0,
    /// The recorded holder answered a request of ours, or, for a binding that is still learned, anyone did.
    Answer = 1,
    /// Someone claims an address of our own.
    OwnClaim = 2,
    /// A pair of address and link-layer address that was not seen lately.
    Station = 3,
    /// Someone has the address that this host wants for itself: it sent an ARP probe, or a solicitation for
    /// duplicate address detection, in the last 3 s.
    ProbeAnswered = 4,
    /// A router advertisement that the RA guard refuses.
    RogueRouter = 5,
}

impl EventKind {
    /// From its number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Claim,
            1 => Self::Answer,
            2 => Self::OwnClaim,
            3 => Self::Station,
            4 => Self::ProbeAnswered,
            5 => Self::RogueRouter,
            _ => return None,
        })
    }
}

/// Events of one kind that the agent is told of: of one binding for the first two, else of one interface. The
/// agent's work and the journal stay bounded whatever floods.
#[inline(always)]
pub const fn event_limit(kind: EventKind) -> Limit {
    match kind {
        EventKind::Claim => per_second(20, 40),
        EventKind::Answer => per_second(10, 20),
        EventKind::Station => per_second(100, 200),
        EventKind::ProbeAnswered => per_second(50, 50),
        EventKind::OwnClaim | EventKind::RogueRouter => per_second(5, 10),
    }
}

/// Frames of one source link-layer address that are not for this host: a router that is scanned through asks for
/// hundreds of addresses a second.
pub const OTHERS: Limit = per_second(500, 1000);

/// Answers of one link-layer address for protected neighbours from outside their sets, that the agent is told of.
pub const CANDIDATE: Limit = per_second(4, 4);
/// Those that answered before, of one binding.
pub const STEADY: Limit = per_second(200, 200);

/// What a cell of `CANDIDATES` says of an answer at `now`, nanoseconds: whether the same link-layer address answered
/// before, in the last 3 s but not just now (one that sends everything twice is not steady), and what the cell is to
/// hold.
#[inline(always)]
pub fn steady(cell: u64, print: u32, now: u64) -> (bool, u64) {
    // In units of 2^28 ns (268 ms); the agent asks everybody twice, 300 ms apart.
    let unit = (now >> 28) as u32;
    let fresh = u64::from(print) << 32 | u64::from(unit);
    if (cell >> 32) as u32 != print {
        return (false, fresh);
    }
    match unit.wrapping_sub(cell as u32) {
        0 => (false, cell),
        1..=11 => (true, fresh),
        _ => (false, fresh),
    }
}

/// Claims that the agent is told of, of all bindings of an interface together, but for answers to requests of ours.
pub const ALL_CLAIMS: Limit = per_second(1000, 1000);

const fn per_second(rate: u64, burst: u64) -> Limit {
    let interval_ns = 1_000_000_000 / rate;
    Limit {
        interval_ns,
        tolerance_ns: interval_ns * (burst - 1),
    }
}

/// The event's flags that a claim brings with it.
#[inline(always)]
pub fn event_flags(form: Form, asked: bool) -> u32 {
    match form {
        Form::Request => 0,
        Form::Reply if asked => NeighborEvent::REPLY | NeighborEvent::SOLICITED,
        Form::Reply => NeighborEvent::REPLY,
        Form::Announcement => NeighborEvent::ANNOUNCEMENT,
    }
}

#[cfg(test)]
mod tests;
