//! Segments that are received in one go. Of a whole batch the kernel runs XDP, and then TC, before the first
//! segment reaches TCP (`netif_receive_skb_list`): what follows an ACK that proves a cookie comes by here while
//! the socket that the ACK will make does not exist yet. So what was proven lately is remembered, on the CPU that
//! receives the batch.
//!
//! Should the kernel refuse what the ACK asked for (its accept queue has just filled), the segments behind it in
//! the batch meet the listener and draw a RST, where alone they would be dropped.

use crate::{limit, maps::RECENT, pipeline::Tcp};

/// Handshakes remembered on a CPU: more than a batch holds.
pub const RECENT_ENTRIES: u32 = 1024;
/// Longer than a batch takes, a tick of the coarse clock included; shorter than any retransmission timer, whose
/// segment must make the connection if the kernel refused it at first.
const BATCH_NS: u64 = 20_000_000;
/// What a client may send at once: an initial window of 10 segments (RFC 6928), or more with jumbo frames.
const FLIGHT: u32 = 128 * 1024;

/// A cookie proven lately. Its acknowledgment number is made of the cookie, which depends on the whole tuple.
#[repr(C)]
pub struct Recent {
    at_ns: u64,
    ports: u32,
    seq: u32,
    ack: u32,
    /// Not 0 once TC has made a request socket.
    made: u32,
}

/// The entry for a segment's acknowledgment number, and whether it is that of the segment's connection, and how
/// far behind the ACK the segment stands.
#[inline(always)]
fn find(tcp: &Tcp) -> Option<(*mut Recent, Option<u32>)> {
    let entry = RECENT.get_ptr_mut(tcp.ack % RECENT_ENTRIES)?;
    // SAFETY: this CPU's own live map value.
    let recent = unsafe { &*entry };
    let same = recent.ack == tcp.ack
        && recent.ports == tcp.ports
        && limit::now().wrapping_sub(recent.at_ns) < BATCH_NS;
    let behind = if same {
        Some(tcp.seq.wrapping_sub(recent.seq))
    } else {
        None
    };
    Some((entry, behind))
}

/// Remembers a segment that proved a cookie, at XDP.
#[inline(always)]
pub fn note_proven(tcp: &Tcp) {
    if let Some((entry, None)) = find(tcp) {
        write(entry, tcp, 0);
    }
}

/// Whether a segment stands behind one that proved a cookie, in the same batch.
#[inline(always)]
pub fn follows(tcp: &Tcp) -> bool {
    matches!(find(tcp), Some((_, Some(1..FLIGHT))))
}

/// Remembers that the kernel takes a proven segment, at TC.
#[inline(always)]
pub fn note_made(tcp: &Tcp) {
    if let Some((entry, _)) = find(tcp) {
        write(entry, tcp, 1);
    }
}

/// Whether the kernel has taken a segment of this batch that proved the same cookie.
#[inline(always)]
pub fn made(tcp: &Tcp) -> bool {
    match find(tcp) {
        // SAFETY: this CPU's own live map value.
        Some((entry, Some(_))) => unsafe { (*entry).made != 0 },
        _ => false,
    }
}

#[inline(always)]
fn write(entry: *mut Recent, tcp: &Tcp, made: u32) {
    // SAFETY: this CPU's own live map value.
    let recent = unsafe { &mut *entry };
    recent.at_ns = limit::now();
    recent.ports = tcp.ports;
    recent.seq = tcp.seq;
    recent.ack = tcp.ack;
    recent.made = made;
}
