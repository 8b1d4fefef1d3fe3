//! What the kernel's own sockets say about a tuple, and the filter that spares asking.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
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

/// Who speaks with whom, as a packet that arrives has it.
pub struct Tuple {
    pub version: Version,
    pub src: AddrWords,
    pub dst: AddrWords,
    /// Both ports as they stand in the packet, the source's first.
    pub ports: u32,
}

impl Tuple {
    /// `struct bpf_sock_tuple`, and how many octets of it the look-ups read. All of it is initialized: the compiler
    /// would store whatever a register holds in the rest.
    #[inline(always)]
    fn encode(&self) -> ([u32; TUPLE_WORDS], u32) {
        let (s, d, ports) = (&self.src, &self.dst, self.ports);
        match self.version {
            Version::V4 => ([s[0], d[0], ports, 0, 0, 0, 0, 0, 0], 12),
            Version::V6 => ([s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], ports], 36),
        }
    }
}

const TUPLE_WORDS: usize = size_of::<bpf_sock_tuple>() / 4;

/// Asks the kernel for the socket that this segment belongs to, in the namespace of its interface.
#[inline(always)]
pub fn look_up(ctx: *mut c_void, tcp: &Tcp) -> Found {
    look_up_tuple(
        ctx,
        &Tuple {
            version: tcp.packet.version,
            src: tcp.src,
            dst: tcp.dst,
            ports: tcp.ports,
        },
    )
}

/// [`look_up`] by the tuple alone.
#[inline(always)]
pub fn look_up_tuple(ctx: *mut c_void, tuple: &Tuple) -> Found {
    let (mut tuple, size) = tuple.encode();
    // SAFETY: the tuple's first `size` octets are initialized; the context is the program's own.
    let sk = unsafe { bpf_skc_lookup_tcp(ctx, (&raw mut tuple).cast(), size, CURRENT_NETNS, 0) };
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

/// Whether a TCP connection has this tuple, be it half-open or in TIME_WAIT.
#[inline(always)]
pub fn has_connection(ctx: *mut c_void, tuple: &Tuple) -> bool {
    match look_up_tuple(ctx, tuple) {
        Found::Connection => true,
        Found::Listener(sk) => {
            release(sk);
            false
        }
        Found::Nothing => false,
    }
}

/// Which UDP socket would get a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Udp {
    /// None.
    Nothing,
    /// One that takes packets of all.
    Open,
    /// One that is connected to the source.
    Connected,
}

/// Asks the kernel for the UDP socket of a tuple.
#[inline(always)]
pub fn look_up_udp(ctx: *mut c_void, tuple: &Tuple) -> Udp {
    let (mut tuple, size) = tuple.encode();
    // SAFETY: as above.
    let sk = unsafe { bpf_sk_lookup_udp(ctx, (&raw mut tuple).cast(), size, CURRENT_NETNS, 0) };
    if sk.is_null() {
        return Udp::Nothing;
    }
    // SAFETY: a non-null result is a referenced socket, whose ports may be read.
    let connected = unsafe { (*sk).dst_port } != 0;
    release(sk);
    if connected { Udp::Connected } else { Udp::Open }
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
