//! Telling the agent of every segment of somebody whom it watches, whatever becomes of it: a probe's own connection.

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, xdp_md},
    helpers::bpf_ktime_get_ns,
    programs::XdpContext,
};
use net_common::{
    abi::{DropEvent, WatchKey, Watched},
    parse::{self, Frame as _, Header as _},
    units::{EtherType, IpProto, Version},
    verdict::Reason,
};

use crate::{
    limit,
    maps::{WATCH_EVENTS, WATCHED, WATCHING},
    packet::{View, offset},
    verdict::fill,
};

/// Whether anybody is watched.
#[inline(always)]
pub fn is_active() -> bool {
    WATCHING.get(0).is_some_and(|&until| until != 0)
}

/// Tells of a packet and its verdict, if it is of somebody who is watched.
#[inline(always)]
pub fn tell(ctx: *mut xdp_md, reason: u32, observed: u32, share: u32) {
    tell_watched(ctx, reason, observed, share);
}

/// With global linkage, so that the verifier checks it once and not for every way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_watched(ctx: *mut xdp_md, reason: u32, observed: u32, share: u32) -> i32 {
    let now = limit::now();
    let Some(until) = WATCHING.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a live map value; volatile, as the agent writes it too.
    let ends = unsafe { until.read_volatile() };
    if now >= ends {
        // Also when the agent is gone; what it wrote meanwhile stays.
        limit::compare_and_swap(until, ends, 0);
        return 0;
    }
    // An answer was written over what it answers: the other end is its destination.
    let answered = reason == Reason::CookieSent as u32 && observed == 0;
    let Some(watched) = watched(ctx, answered) else {
        return 0;
    };
    // SAFETY: a live map value; the agent alone writes the field.
    if now >= unsafe { (*watched).until_ns } {
        return 0;
    }
    let passes = reason == Reason::TcpPass as u32 || reason == Reason::AckOnSocket as u32;
    let left = if passes {
        // SAFETY: a live map value.
        unsafe { &raw mut (*watched).passes_left }
    } else {
        // SAFETY: a live map value.
        unsafe { &raw mut (*watched).verdicts_left }
    };
    // SAFETY: a live map value.
    let more = unsafe { left.read_volatile() };
    // Before anything is written: the CPUs that a flood of somebody watched comes in by would fight for one cache line.
    if more == 0 {
        return 0;
    }
    // SAFETY: a live map value; a race can at worst lose a count.
    unsafe { (*watched).segments += 1 };
    // SAFETY: a live map value; `more` is not 0.
    unsafe { left.write_volatile(more - 1) };
    let Some(mut entry) = WATCH_EVENTS.reserve::<DropEvent>(0) else {
        // SAFETY: a live map value.
        unsafe { (*watched).lost += 1 };
        return 0;
    };
    // SAFETY: no arguments, no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    fill(entry.as_mut_ptr(), ctx, time, (reason, observed, share));
    // The agent looks when it is asked.
    entry.submit(BPF_RB_NO_WAKEUP.into());
    0
}

/// The entry of who sent a segment, or is answered. A connection of ours is known by the other end's port, one of a client by
/// ours. Segments in fragments or behind extension headers are nobody's: no TCP that probes sends them.
#[inline(always)]
fn watched(ctx: *mut xdp_md, answered: bool) -> Option<*mut Watched> {
    let context = XdpContext::new(ctx);
    let frame = View(&context);
    let payload = parse::payload(&frame).ok()?;
    let l3 = offset(payload.l3 as u32);
    let (addr, family, l4) = match payload.ether_type {
        EtherType::IPV4 => {
            let header = frame.header::<20>(l3)?;
            // RFC 791: the offset of a fragment is in the lower 13 bits.
            if IpProto(header.octet::<9>()) != IpProto::TCP || header.be16::<6>() & 0x1fff != 0 {
                return None;
            }
            let addr = if answered {
                header.word::<16>()
            } else {
                header.word::<12>()
            };
            let len = u32::from(header.octet::<0>() & 15) * 4;
            ([addr, 0, 0, 0], Version::V4, l3 as u32 + len)
        }
        EtherType::IPV6 => {
            let header = frame.header::<40>(l3)?;
            if IpProto(header.octet::<6>()) != IpProto::TCP {
                return None;
            }
            let addr = if answered {
                [
                    header.word::<24>(),
                    header.word::<28>(),
                    header.word::<32>(),
                    header.word::<36>(),
                ]
            } else {
                [
                    header.word::<8>(),
                    header.word::<12>(),
                    header.word::<16>(),
                    header.word::<20>(),
                ]
            };
            (addr, Version::V6, l3 as u32 + 40)
        }
        _ => return None,
    };
    let ports = frame.header::<4>(offset(l4))?;
    let (source, destination) = (ports.be16::<0>(), ports.be16::<2>());
    let key = |port| WatchKey {
        addr,
        port,
        family: family.number(),
    };
    let (ours, theirs) = if answered {
        (source, destination)
    } else {
        (destination, source)
    };
    WATCHED
        .get_ptr_mut(key(ours))
        .or_else(|| WATCHED.get_ptr_mut(key(theirs)))
}
