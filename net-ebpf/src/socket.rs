//! What the kernel's own sockets say about a tuple, and the filter that spares asking.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
    },
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use net_common::{
    abi::{AddrWords, SOCKET_FILTER_BLOCKS, Settings},
    spread::filter_place,
    units::Version,
};

use crate::{limit::set_bits, maps::SOCKET_FILTER, pipeline::Tcp};

const TCP_LISTEN: u32 = 10;
const CURRENT_NETNS: u64 = u64::MAX;

/// What a look-up of the segment's tuple found.
pub enum Found {
    /// Nothing at all.
    Nothing,
    /// A listener; the reference must be released.
    Listener(*mut bpf_sock),
    /// A request, TIME_WAIT, connecting or established socket (already released).
    Connection,
}

/// Asks the kernel for the socket that this segment belongs to, in the namespace of its interface.
#[inline(always)]
pub fn look_up(ctx: *mut c_void, tcp: &Tcp) -> Found {
    let (sport, dport) = (tcp.ports as u16, (tcp.ports >> 16) as u16);
    let (tuple, size) = match tcp.packet.version {
        Version::V4 => (
            bpf_sock_tuple__bindgen_ty_1 {
                ipv4: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
                    saddr: tcp.src[0],
                    daddr: tcp.dst[0],
                    sport,
                    dport,
                },
            },
            12,
        ),
        Version::V6 => (
            bpf_sock_tuple__bindgen_ty_1 {
                ipv6: bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
                    saddr: tcp.src,
                    daddr: tcp.dst,
                    sport,
                    dport,
                },
            },
            36,
        ),
    };
    let mut tuple = bpf_sock_tuple {
        __bindgen_anon_1: tuple,
    };
    // SAFETY: the tuple's first `size` octets are initialized; the context is the program's own.
    let sk = unsafe { bpf_skc_lookup_tcp(ctx, &raw mut tuple, size, CURRENT_NETNS, 0) };
    if sk.is_null() {
        return Found::Nothing;
    }
    // SAFETY: a non-null result is a referenced sock_common, whose state may be read.
    if unsafe { (*sk).state } == TCP_LISTEN {
        return Found::Listener(sk);
    }
    release(sk);
    Found::Connection
}

/// Gives back what [`look_up`] returned.
#[inline(always)]
pub fn release(sk: *mut bpf_sock) {
    // SAFETY: `sk` is the referenced result of `bpf_skc_lookup_tcp`, released once.
    unsafe { bpf_sk_release(sk.cast()) };
}

/// Notes that a source may hold a socket from now on. Both halves: the one that is read, and the one
/// that the agent may be filling to replace it.
#[inline(always)]
pub fn remember(version: Version, addr: &AddrWords, settings: &Settings) {
    let (block, bits) = filter_place(version, addr, settings.hash_seed);
    for half in 0..2 {
        if let Some(word) = SOCKET_FILTER.get_ptr_mut(block + half * SOCKET_FILTER_BLOCKS) {
            set_bits(word, bits);
        }
    }
}

/// Whether a source may hold a socket. False is certain, true is not.
#[inline(always)]
pub fn may_hold(version: Version, addr: &AddrWords, settings: &Settings) -> bool {
    if settings.flags & Settings::FILTER_COMPLETE == 0 {
        return true;
    }
    let (block, bits) = filter_place(version, addr, settings.hash_seed);
    match SOCKET_FILTER.get(block + (settings.filter_half & 1) * SOCKET_FILTER_BLOCKS) {
        Some(word) => word & bits == bits,
        None => true,
    }
}
