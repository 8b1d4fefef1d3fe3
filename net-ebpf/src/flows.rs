//! What becomes of the connections of listeners, by what the kernel's sockets do: completed, how fast, and how they ended.
//! Only those of our own network namespace, and only those that belong to a listener in `FLOW_SLOTS`. A connection that this
//! host opened itself counts among them if its local port is a listener's; the kernel does not choose such a port.
//!
//! The kernel functions named here are those of Linux 6.18.

use aya_ebpf::programs::BtfTracePointContext;
use net_common::abi::{AddrWords, FlowKey, FlowStats, HANDSHAKE_BUCKETS, SockOffsets};

use crate::{
    listeners::{
        AF_INET, AF_INET6, TCP_CLOSE, TCP_ESTABLISHED, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
        field, is_ours, offsets,
    },
    maps::{FLOW_SLOTS, FLOWS},
};

const TCP_FIN_WAIT2: i32 = 5;
const TCP_TIME_WAIT: i32 = 6;
const TCP_LAST_ACK: i32 = 9;
const TCP_CLOSING: i32 = 11;

/// Counts a change of a socket of ours, from inet_sock_set_state.
#[inline(always)]
pub fn changed(sk: *const u8, offsets: &SockOffsets, old: i32, new: i32) {
    // What reached ESTABLISHED from SYN_SENT was opened by this host.
    let established = new == TCP_ESTABLISHED && old == TCP_SYN_RECV;
    if !established && new != TCP_CLOSE {
        return;
    }
    let Some(flows) = flows(sk, offsets) else {
        return;
    };
    if established {
        // SAFETY: a live map value.
        add(unsafe { &raw mut (*flows).established });
        handshake(sk, offsets, flows);
        return;
    }
    // tcp_time_wait ends the socket from FIN_WAIT2 or CLOSING and leaves a smaller one in its place; that of a socket
    // which the application has closed it does so as soon as its FIN is acknowledged, and what becomes of it then is not
    // told. tcp_reset and tcp_write_err leave their error first.
    let last = matches!(
        old,
        TCP_FIN_WAIT2 | TCP_TIME_WAIT | TCP_LAST_ACK | TCP_CLOSING
    );
    let error: i32 = field(sk, offsets.err);
    if last && error == 0 {
        // SAFETY: a live map value.
        add(unsafe { &raw mut (*flows).closed });
    } else {
        // SAFETY: a live map value.
        add(unsafe { &raw mut (*flows).reset });
    }
}

/// Counts how long the handshake of a connection took.
#[inline(always)]
fn handshake(sk: *const u8, offsets: &SockOffsets, flows: *mut FlowStats) {
    // Those of the request socket, by tcp_create_openreq_child.
    let retransmits: u32 = field(sk, offsets.total_retrans);
    if retransmits != 0 {
        // SAFETY: a live map value.
        add(unsafe { &raw mut (*flows).late });
        return;
    }
    // By tcp_synack_rtt_meas, called by tcp_check_req before this; eight times the time, and never 0 then.
    let srtt: u32 = field(sk, offsets.srtt);
    let us = srtt >> 3;
    // When it was sent is not known of a SYN-ACK with a cookie, so the kernel takes its timestamp for that, which is the
    // cookie too. What comes of it is whole milliseconds (tcp_rtt_tsopt_us); one in a thousand of the others is lost here.
    if srtt == 0 || us != 0 && us.is_multiple_of(1000) {
        return;
    }
    let bucket = FlowStats::bucket(us) as usize;
    if bucket < HANDSHAKE_BUCKETS {
        // SAFETY: a live map value.
        let buckets = unsafe { &raw mut (*flows).handshake };
        add(buckets.cast::<u64>().wrapping_add(bucket));
    }
}

/// A SYN-ACK was sent again: to tcp_retransmit_synack.
#[inline(always)]
pub fn on_retransmit(ctx: &BtfTracePointContext) {
    // TP_PROTO(const struct sock *sk, const struct request_sock *req): `sk` is the listener.
    let sk: *const u8 = ctx.arg(0);
    let offsets = offsets();
    if is_ours(sk, &offsets)
        && let Some(flows) = flows(sk, &offsets)
    {
        // SAFETY: a live map value.
        add(unsafe { &raw mut (*flows).syn_ack_retransmits });
    }
}

/// A reset was received, and taken: to tcp_receive_reset.
#[inline(always)]
pub fn on_reset(ctx: &BtfTracePointContext) {
    // TP_PROTO(struct sock *sk), called before the socket's state changes.
    let sk: *const u8 = ctx.arg(0);
    let offsets = offsets();
    let state: u8 = field(sk, offsets.state);
    let complete = !matches!(
        i32::from(state),
        TCP_SYN_SENT | TCP_SYN_RECV | TCP_CLOSE | TCP_LISTEN
    );
    if complete
        && is_ours(sk, &offsets)
        && let Some(flows) = flows(sk, &offsets)
    {
        // SAFETY: a live map value.
        add(unsafe { &raw mut (*flows).resets_received });
    }
}

/// The counters of the listener that a socket belongs to, or is: one at its own address goes before one at all of them.
#[inline(always)]
fn flows(sk: *const u8, offsets: &SockOffsets) -> Option<*mut FlowStats> {
    let family: u16 = field(sk, offsets.family);
    let (addr, family): (AddrWords, u16) = if family == AF_INET {
        // `skc_rcv_saddr` stands behind `skc_daddr`.
        ([field(sk, offsets.daddr + 4), 0, 0, 0], 4)
    } else if family == AF_INET6 {
        // `skc_v6_rcv_saddr` behind `skc_v6_daddr`; IPv4-mapped for a peer of IPv4 (sk_rcv_saddr_set).
        (field(sk, offsets.v6_daddr + 16), 6)
    } else {
        return None;
    };
    // Not `skc_num`, which is 0 by the time that an accepted socket is closed (tcp_set_state, inet_put_port).
    let sport: u16 = field(sk, offsets.sport);
    let mut key = FlowKey {
        addr,
        port: u16::from_be(sport),
        family,
    };
    let mut slot = slot_of(&key);
    if slot.is_none() {
        let words = (&raw mut key.addr).cast::<u32>();
        for n in 0..4 {
            // Volatile, or it becomes a call of memset.
            // SAFETY: an address has four words.
            unsafe { words.wrapping_add(n).write_volatile(0) };
        }
        slot = slot_of(&key);
    }
    FLOWS.get_ptr_mut(*slot?)
}

/// By reference, since a key that is passed by value is copied, and the zeros become a call again.
#[inline(always)]
fn slot_of(key: &FlowKey) -> Option<&'static u32> {
    // SAFETY: the value is one word.
    unsafe { FLOW_SLOTS.get(key) }
}

/// One more, on whatever CPU.
#[inline(always)]
fn add(count: *mut u64) {
    // SAFETY: callers pass a live map value; the instruction is atomic.
    unsafe {
        core::arch::asm!("lock *(u64 *)({p} + 0) += {c}", p = in(reg) count, c = in(reg) 1u64, options(nostack));
    }
}
