//! What the kernel's sockets do, seen at `inet_sock_set_state`: listeners that come and go wake the
//! agent, and every peer of a new connection, in whatever direction and by whatever interface, enters
//! the filter of sources that may hold a socket and has proved itself.
//!
//! The tracepoint fires for all network namespaces. Strangers' peers are false positives of the filter,
//! strangers' listeners a needless wake-up; neither does harm. Their connections count for nobody: another namespace may
//! have our addresses.

use aya_ebpf::{
    helpers::{bpf_probe_read_kernel, generated::bpf_ktime_get_ns},
    programs::BtfTracePointContext,
};
use net_common::{
    abi::{AddrWords, ListenerEvent, SockOffsets},
    sources::seconds,
    units::Version,
};

use crate::{
    connections::{self, Change},
    flows,
    maps::{LISTENER_EVENTS, PORTS},
    policy,
    socket::remember,
};

pub const TCP_ESTABLISHED: i32 = 1;
pub const TCP_SYN_SENT: i32 = 2;
pub const TCP_SYN_RECV: i32 = 3;
pub const TCP_CLOSE: i32 = 7;
pub const TCP_LISTEN: i32 = 10;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// Where sockets have their fields; the loader fills it in from the kernel's BTF.
#[unsafe(no_mangle)]
static SOCK_OFFSETS: SockOffsets = SockOffsets {
    daddr: 0,
    num: 0,
    family: 0,
    v6_daddr: 0,
    net: 0,
    net_inum: 0,
    own_inum: 0,
    state: 0,
    err: 0,
    sport: 0,
    total_retrans: 0,
    srtt: 0,
};

/// [`SOCK_OFFSETS`] as the loader left them.
#[inline(always)]
pub fn offsets() -> SockOffsets {
    // SAFETY: the volatile read keeps the compiler from assuming the zeros above.
    unsafe { (&raw const SOCK_OFFSETS).read_volatile() }
}

/// Whether a socket is of our own network namespace.
#[inline(always)]
pub fn is_ours(sk: *const u8, offsets: &SockOffsets) -> bool {
    let net: usize = field(sk, offsets.net);
    let inum: u32 = field(net as *const u8, offsets.net_inum);
    inum == offsets.own_inum
}

/// Remembers when a port's listeners changed, for the time when there is no agent to follow them.
#[inline(always)]
fn note_change(port: u16) {
    if let Some(state) = PORTS.get_ptr_mut(port.into()) {
        // SAFETY: no arguments, no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: a live map value.
        let changed = unsafe { &raw mut (*state).changed_s };
        // SAFETY: as above.
        unsafe { changed.write_volatile(seconds(now)) };
    }
}

#[inline(always)]
pub fn on_state(ctx: &BtfTracePointContext) {
    // TP_PROTO(const struct sock *sk, const int oldstate, const int newstate), Linux 4.16.
    let sk: *const u8 = ctx.arg(0);
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    let offsets = offsets();
    // A connection begins as a copy of its listener, in that one's state.
    if new == TCP_LISTEN || old == TCP_LISTEN && new == TCP_CLOSE {
        let port: u16 = field(sk, offsets.num);
        if is_ours(sk, &offsets) {
            note_change(port);
        }
        if let Some(mut entry) = LISTENER_EVENTS.reserve::<ListenerEvent>(0) {
            entry.write(ListenerEvent {
                port,
                listening: (new == TCP_LISTEN).into(),
            });
            entry.submit(0);
        }
    }
    let ends = new == TCP_CLOSE && old != TCP_LISTEN && old != TCP_SYN_SENT && old != TCP_SYN_RECV;
    if (new == TCP_SYN_SENT || new == TCP_ESTABLISHED || ends)
        && let Some(settings) = policy::settings()
    {
        let ours = is_ours(sk, &offsets);
        if ours && new != TCP_SYN_SENT {
            flows::changed(sk, &offsets, old, new);
        }
        let met = |version, peer: &AddrWords, own: &AddrWords| {
            if !ends {
                remember(version, peer, settings);
            }
            if ours && new != TCP_SYN_SENT {
                let change = match old {
                    _ if ends => Change::Ended,
                    TCP_SYN_SENT => Change::Connected,
                    _ => Change::Accepted,
                };
                connections::changed(version, peer, own, change);
            }
        };
        let family: u16 = field(sk, offsets.family);
        // An AF_INET6 socket with a mapped peer has the IPv4 address in the first field as well.
        if family == AF_INET || family == AF_INET6 {
            let daddr: u32 = field(sk, offsets.daddr);
            // `skc_rcv_saddr` stands behind it (6.12 `struct sock_common`).
            let own: u32 = field(sk, offsets.daddr + 4);
            met(Version::V4, &[daddr, 0, 0, 0], &[own, 0, 0, 0]);
        }
        if family == AF_INET6 {
            let addr = |at| -> AddrWords {
                [
                    field(sk, at),
                    field(sk, at + 4),
                    field(sk, at + 8),
                    field(sk, at + 12),
                ]
            };
            // `skc_v6_rcv_saddr` stands behind `skc_v6_daddr`.
            met(
                Version::V6,
                &addr(offsets.v6_daddr),
                &addr(offsets.v6_daddr + 16),
            );
        }
    }
}

/// A field of the socket; 0 if it cannot be read, which is no peer's address.
#[inline(always)]
pub fn field<T: Default>(sk: *const u8, offset: u32) -> T {
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(sk.wrapping_add(offset as usize).cast::<T>()) }
        .unwrap_or_default()
}
