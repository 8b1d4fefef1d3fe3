//! IP sanity, fragments and sources (R-TCP-3, R-TCP-10, R-TCP-11).

use aya_ebpf::{
    bindings::{bpf_fib_lookup as FibLookup, xdp_md},
    helpers::generated::{bpf_fib_lookup, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use net_common::{
    abi::{AddrWords, Class, GuardSettings},
    guard::{
        icmp,
        ip::{self, OPTIONS_SPACE},
    },
    parse::{self, Packet},
    units::{IpProto, Version},
    verdict::Reason,
};

use crate::{
    address::{halves, is_link_local, is_own, kind, version, whole},
    packet::{Context, View, below, forget_in, offset, scratch, unpack},
    policy,
    sources::{self, As},
    verdict::{HANDED_ON, Word, count, refused, ruled, word},
};

const REVERSE_PATH: u32 = GuardSettings::REVERSE_PATH_LOOSE | GuardSettings::REVERSE_PATH_STRICT;

/// Whether a packet is the guard's business at all. Most TCP segments are not: they pay for a few comparisons.
#[inline(always)]
pub fn concerns(packet: &Packet) -> bool {
    packet.protocol != IpProto::TCP
        || ip::is_fragment(packet)
        || packet.version == Version::V4 && packet.l4 - packet.l3 != 20
        || policy::guards().is_some_and(|s| s.flags & REVERSE_PATH != 0)
}

/// The guard of IP.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ip_guard(ctx: *mut xdp_md, place: u32, l4: u32, l4_len: u32) -> Word {
    let ctx = XdpContext::new(ctx);
    judge(&ctx, &unpack(place, l4, l4_len, 0)).unwrap_or(HANDED_ON)
}

#[inline(always)]
fn judge(ctx: &XdpContext, packet: &Packet) -> Option<Word> {
    const ENFORCE: u32 = GuardSettings::IP_ENFORCE;
    let settings = policy::guards()?;
    if settings.flags & GuardSettings::IP == 0 {
        return packet_is_late(packet);
    }
    let rule = |reason| Some(ruled(settings, ENFORCE, reason));
    if packet.version == Version::V4
        && packet.l4 - packet.l3 > 20
        && ip_options(
            ctx.ctx,
            packet.l3 as u32,
            (packet.l4 - packet.l3) as u32 - 20,
        ) != 0
    {
        return rule(Reason::SourceRoute);
    }
    let (src, dst) = parse::addresses(&View(ctx), packet)?;
    if packet.protocol != IpProto::TCP && ip::source_martian(packet.version, &src, &dst) {
        return rule(Reason::SourceMartian);
    }
    if ip::is_fragment(packet) {
        if let Some(reason) = ip::fragment(packet) {
            return rule(reason);
        }
        // What is put together elsewhere is others' business (R-GEN-1).
        if is_own(packet.version, &dst) {
            let share = sources::admit(Class::Fragment, packet.version, &src, As::Itself);
            if share != 0 {
                return Some(refused(settings, ENFORCE, Reason::FragmentLimit, share));
            }
        }
    }
    let (high, low) = halves(&src);
    if settings.flags & REVERSE_PATH != 0
        && reverse_path(ctx.ctx, kind(packet.version), high, low) == 0
    {
        return rule(Reason::ReversePath);
    }
    if packet.protocol != IpProto::TCP
        && !is_discovery(ctx, packet)
        && comes_from_us(settings, packet.version, &src, &dst)
    {
        return rule(Reason::SourceOwn);
    }
    packet_is_late(packet)
}

/// A later fragment has no header for the guards behind.
#[inline(always)]
fn packet_is_late(packet: &Packet) -> Option<Word> {
    (packet.fragment_offset != 0).then(|| word(Reason::Fragment))
}

/// Neighbour discovery has a guard of its own, which raises an alert and lets a claim to an own address pass (R-ND-5).
#[inline(always)]
fn is_discovery(ctx: &XdpContext, packet: &Packet) -> bool {
    packet.protocol == IpProto::ICMPV6
        && packet.fragment_offset == 0
        && icmp::read(&View(ctx), packet.l4, packet.l4_len)
            .is_some_and(|message| message.judge(Version::V6) == icmp::Kind::Other)
}

/// Whether a packet to an own address has an own address as its source: it never left this host.
#[inline(always)]
pub fn comes_from_us(
    settings: &GuardSettings,
    version: Version,
    src: &AddrWords,
    dst: &AddrWords,
) -> bool {
    // On another link the same link-local address is a neighbour's.
    settings.flags & GuardSettings::ACCEPT_LOCAL == 0
        && !is_link_local(version, src)
        && is_own(version, src)
        && is_own(version, dst)
}

/// Not 0 when IPv4 options hold a source route.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ip_options(ctx: *mut xdp_md, l3: u32, len: u32) -> u32 {
    let Some(scratch) = scratch::<XdpContext>() else {
        return 0;
    };
    // SAFETY: a live map value, this CPU's and this hook's own.
    let space = unsafe { &mut (*scratch).ip_options };
    let len = forget_in(len) & (OPTIONS_SPACE as u32 - 1);
    if len == 0 {
        return 0;
    }
    // SAFETY: `space` has OPTIONS_SPACE octets, and `len` is less.
    let failed = unsafe { bpf_xdp_load_bytes(ctx, l3 + 20, space.as_mut_ptr().cast(), len) };
    if failed != 0 {
        return 0;
    }
    ip::has_source_route(space, len as usize, |at| below::<63>(forget_in(at as u32))).into()
}

/// The part of `struct bpf_fib_lookup` that is written, as an array of words.
pub const FIB_WORDS: usize = size_of::<FibLookup>() / 4;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// The neighbour's link-layer address is not needed. Linux 6.3.
const SKIP_NEIGH: u32 = 8;
const SUCCESS: i64 = 0;
/// Forwarding is off on the interface: the helper answers nothing (6.12 `bpf_ipv4_fib_lookup`).
const FWD_DISABLED: i64 = 5;
const NO_NEIGH: i64 = 7;
const FRAG_NEEDED: i64 = 8;

/// 0 when the way back to a source does not lead by the interface where the packet arrived (strict), or nowhere.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reverse_path(ctx: *mut xdp_md, kind: u32, high: u64, low: u64) -> u32 {
    let source = whole(high, low);
    // Link-local addresses are on every link.
    let local = is_link_local(version(kind), &source);
    // Nobody answers them: DHCP, listener reports.
    let unspecified = high | low == 0;
    if local || unspecified {
        return 1;
    }
    let Some(settings) = policy::guards() else {
        return 1;
    };
    let Some(scratch) = scratch::<XdpContext>() else {
        return 1;
    };
    let ifindex = XdpContext::new(ctx).ifindex();
    // SAFETY: a live map value, this CPU's and this hook's own.
    let query: *mut u32 = unsafe { &raw mut (*scratch).fib }.cast();
    let put = |at: usize, word: u32| {
        // SAFETY: `at` is below FIB_WORDS; volatile, or the compiler would call memset.
        unsafe { query.wrapping_add(at).write_volatile(word) };
    };
    let family = match version(kind) {
        Version::V4 => AF_INET,
        Version::V6 => AF_INET6,
    };
    put(0, family);
    put(1, 0);
    put(2, ifindex);
    put(3, 0);
    // The source, which the answer to this packet would have, does not choose the route; the destination is at 8 to 11.
    for at in 4..8 {
        put(at, 0);
    }
    put(8, source[0]);
    put(9, source[1]);
    put(10, source[2]);
    put(11, source[3]);
    for at in 12..FIB_WORDS {
        put(at, 0);
    }
    // SAFETY: the query is as large as the helper is told, and initialized.
    let found = unsafe {
        bpf_fib_lookup(
            ctx.cast(),
            query.cast(),
            size_of::<FibLookup>() as i32,
            SKIP_NEIGH,
        )
    };
    if found == FWD_DISABLED || found < 0 {
        count(Reason::ReversePathUnknown);
        return 1;
    }
    if found != SUCCESS && found != NO_NEIGH && found != FRAG_NEEDED {
        return 0;
    }
    let strict = settings.flags & GuardSettings::REVERSE_PATH_STRICT != 0;
    // SAFETY: the helper wrote the interface of the route; volatile, since the compiler does not know.
    let back = unsafe { query.wrapping_add(2).read_volatile() };
    (!strict || back == ifindex).into()
}

/// The guard of an IPv6 packet with more headers than the parser looks behind, where the guards see nothing: it has the
/// shares of an unknown ICMP message.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn deep_guard(ctx: *mut xdp_md, l3: u32) -> Word {
    deep(&XdpContext::new(ctx), offset(l3)).unwrap_or(word(Reason::ParserLimit))
}

#[inline(always)]
fn deep(ctx: &XdpContext, l3: usize) -> Option<Word> {
    let settings = policy::guards()?;
    if settings.flags & GuardSettings::IP == 0 {
        return None;
    }
    let (src, dst) = parse::addresses_at(&View(ctx), Version::V6, l3)?;
    if !is_own(Version::V6, &dst) {
        return None;
    }
    let share = sources::admit(Class::Other, Version::V6, &src, As::Itself);
    let reason = Reason::ParserLimitShare;
    (share != 0).then(|| refused(settings, GuardSettings::IP_ENFORCE, reason, share))
}

/// The verdict of a first fragment whose headers the parser found cut short.
#[inline(always)]
pub fn cut_short(reason: Reason) -> Word {
    match policy::guards() {
        Some(settings) if settings.flags & GuardSettings::IP != 0 => {
            ruled(settings, GuardSettings::IP_ENFORCE, reason)
        }
        _ => word(Reason::IpMalformed),
    }
}

const _: () = assert!(core::mem::offset_of!(FibLookup, ifindex) == 8);
const _: () = assert!(FIB_WORDS == 16);
