//! The laboratory's programs: a generator, its counter, and one that only passes. Tests, bench and demo
//! load them; the product does not contain them.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod lab_abi;

use aya_ebpf::{
    bindings::{
        TC_ACT_SHOT, TC_ACT_UNSPEC,
        xdp_action::{self, XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    },
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray},
    programs::{TcContext, XdpContext},
};
use lab_abi::{
    ACK_V4, ACK_V6, CLAIM, Claims, Flood, SINK_ENTRIES, SINK_OTHERS, SINK_RSTS, SINK_SYN_ACKS,
    STRIDE, SYN_V4, SYN_V6, Sources, VARIED, spread_address,
};
use net_common::units::{EtherType, IpProto, tcp_flags};

/// One value, written by the harness.
#[map]
static FLOOD: Array<Flood> = Array::with_max_entries(1, 0);

/// One value, written by the harness.
#[map]
static CLAIMS: Array<Claims> = Array::with_max_entries(1, 0);

/// One value, written by the harness.
#[map]
static SOURCES: Array<Sources> = Array::with_max_entries(1, 0);

/// One value: frames generated. Also what the random sequence counts in.
#[map]
static GENERATED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What came back, by the numbers in `lab_abi`.
#[map]
static SINK: PerCpuArray<u64> = PerCpuArray::with_max_entries(SINK_ENTRIES, 0);

/// Passes. A veth hands over frames of `XDP_TX` and of redirects only to an end that has a program.
#[xdp(frags)]
fn lab_pass(_: XdpContext) -> xdp_action::Type {
    XDP_PASS
}

/// Turns a page into the next frame of the flood. The harness runs it with `BPF_PROG_TEST_RUN` on live
/// frames, whose pages come back as the receiver left them: so every octet is written.
#[xdp]
fn lab_flood(ctx: XdpContext) -> xdp_action::Type {
    let (Some(flood), Some(generated)) = (FLOOD.get(0), GENERATED.get_ptr_mut(0)) else {
        return XDP_ABORTED;
    };
    // SAFETY: this CPU's own live map value.
    let n = unsafe { *generated };
    let written = match flood.len as usize {
        SYN_V4 => write::<SYN_V4, 26, 34>(&ctx, flood, n),
        ACK_V4 => write::<ACK_V4, 26, 34>(&ctx, flood, n),
        SYN_V6 => write::<SYN_V6, 22, 54>(&ctx, flood, n),
        ACK_V6 => write::<ACK_V6, 22, 54>(&ctx, flood, n),
        _ => None,
    };
    if written.is_none() {
        return XDP_ABORTED;
    }
    // SAFETY: as above.
    unsafe { *generated = n + 1 };
    XDP_TX
}

/// Turns a page into the next claim, as `lab_flood` does into the next segment.
#[xdp]
fn lab_claims(ctx: XdpContext) -> xdp_action::Type {
    let (Some(claims), Some(generated)) = (CLAIMS.get(0), GENERATED.get_ptr_mut(0)) else {
        return XDP_ABORTED;
    };
    let Some(frame) = Octets::<CLAIM>::of((ctx.data(), ctx.data_end())) else {
        return XDP_ABORTED;
    };
    for i in 0..CLAIM / 8 {
        frame.put_long(i * 8, claims.frame[i]);
    }
    // SAFETY: this CPU's own live map value.
    let n = unsafe { *generated };
    let Some(turn) = (n as u32).checked_rem(claims.count) else {
        return XDP_ABORTED;
    };
    let word = claims.first.wrapping_add(turn).to_be();
    if claims.ndp != 0 {
        // The target of a neighbour advertisement.
        frame.put_word(14 + 40 + 8 + 12, word);
    } else {
        // The sender of an ARP packet.
        frame.put_word(14 + 14, word);
    }
    // SAFETY: as above.
    unsafe { *generated = n + 1 };
    XDP_TX
}

/// Turns a page into the next frame of many sources, as `lab_flood` does into the next segment.
#[xdp]
fn lab_sources(ctx: XdpContext) -> xdp_action::Type {
    let (Some(sources), Some(generated)) = (SOURCES.get(0), GENERATED.get_ptr_mut(0)) else {
        return XDP_ABORTED;
    };
    let Some(frame) = Octets::<CLAIM>::of((ctx.data(), ctx.data_end())) else {
        return XDP_ABORTED;
    };
    for i in 0..CLAIM / 8 {
        frame.put_long(i * 8, sources.frame[i]);
    }
    // SAFETY: this CPU's own live map value.
    let n = unsafe { *generated };
    let count = u64::from(sources.count);
    let Some(turn) = n
        .checked_rem(count)
        .and_then(|n| (n * STRIDE).checked_rem(count))
    else {
        return XDP_ABORTED;
    };
    let number = sources.first.wrapping_add(turn as u32);
    if sources.ipv6 != 0 {
        let [a, b, c, d] = spread_address(number, true);
        let [a, b, c, d] = [a.to_be(), b.to_be(), c.to_be(), d.to_be()];
        frame.put_word(22, a);
        frame.put_word(26, b);
        frame.put_word(30, c);
        frame.put_word(34, d);
        if sources.sum != 0 {
            let sum = u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d);
            // ICMPv6.
            frame.put_half(14 + 40 + 2, fold(u64::from(sources.sum) + sum));
        }
    } else {
        let source = spread_address(number, false)[0].to_be();
        frame.put_word(26, source);
        if sources.sum != 0 {
            frame.put_half(24, fold(u64::from(sources.sum) + u64::from(source)));
        }
    }
    // SAFETY: as above.
    unsafe { *generated = n + 1 };
    XDP_TX
}

/// Counts what comes back to the flood's sources and ends it here: nobody is there. All else passes.
#[xdp]
fn lab_sink(ctx: XdpContext) -> xdp_action::Type {
    if sink((ctx.data(), ctx.data_end())) {
        XDP_DROP
    } else {
        XDP_PASS
    }
}

/// As [`lab_sink`], for answers that the kernel made: as skbs they would have to be copied for XDP, at a
/// cost that no NIC's driver has.
#[classifier]
fn lab_sink_tc(ctx: TcContext) -> i32 {
    if sink((ctx.data(), ctx.data_end())) {
        TC_ACT_SHOT
    } else {
        TC_ACT_UNSPEC
    }
}

/// Counts a segment to the flood's sources; whether it ends here.
#[inline(always)]
fn sink(bounds: (usize, usize)) -> bool {
    let Some(entry) = FLOOD.get(0).and_then(|flood| comes_back(bounds, flood)) else {
        return false;
    };
    if let Some(count) = SINK.get_ptr_mut(entry) {
        // SAFETY: this CPU's own live map value.
        unsafe { *count += 1 };
    }
    entry != SINK_OTHERS
}

/// `N` octets of a frame, shown to be there.
struct Octets<const N: usize>(*mut u8);

/// Stores some octets at an offset that is a constant once inlined.
macro_rules! put {
    ($name:ident, $insn:literal, $len:literal) => {
        #[inline(always)]
        fn $name(&self, at: usize, value: impl Into<u64>) {
            if at + $len > N {
                return;
            }
            // SAFETY: the octets lie in the frame, by the comparison above.
            let to = unsafe { self.0.add(at) };
            // SAFETY: as above.
            unsafe {
                core::arch::asm!(
                    concat!("*(", $insn, " *)({p} + 0) = {v}"),
                    v = in(reg) value.into(), p = in(reg) to, options(nostack)
                );
            }
        }
    };
}

/// Accesses of the wire's width at any alignment, as in `packet.rs`.
impl<const N: usize> Octets<N> {
    #[inline(always)]
    fn of((start, end): (usize, usize)) -> Option<Self> {
        if start + N > end {
            return None;
        }
        Some(Self(start as *mut u8))
    }

    #[inline(always)]
    fn octet<const O: usize>(&self) -> u8 {
        const { assert!(O < N) };
        // SAFETY: O < N, and N octets lie in the packet.
        let at = unsafe { self.0.add(O) };
        // SAFETY: as above.
        unsafe { *at }
    }

    #[inline(always)]
    fn half<const O: usize>(&self) -> u16 {
        const { assert!(O + 2 <= N) };
        let value: u64;
        // SAFETY: O + 2 <= N, and N octets lie in the packet.
        unsafe {
            core::arch::asm!(
                "{v} = *(u16 *)({p} + {o})",
                v = out(reg) value, p = in(reg) self.0, o = const O, options(pure, readonly, nostack)
            );
        }
        value as u16
    }

    #[inline(always)]
    fn word<const O: usize>(&self) -> u32 {
        const { assert!(O + 4 <= N) };
        let value: u64;
        // SAFETY: O + 4 <= N, and N octets lie in the packet.
        unsafe {
            core::arch::asm!(
                "{v} = *(u32 *)({p} + {o})",
                v = out(reg) value, p = in(reg) self.0, o = const O, options(pure, readonly, nostack)
            );
        }
        value as u32
    }

    put!(put_half, "u16", 2);
    put!(put_word, "u32", 4);
    put!(put_long, "u64", 8);
}

/// Writes frame number `n`; `SOURCE` and `TCP` are the offsets of the source address and the TCP header.
#[inline(always)]
fn write<const N: usize, const SOURCE: usize, const TCP: usize>(
    ctx: &XdpContext,
    flood: &Flood,
    n: u64,
) -> Option<()> {
    let frame = Octets::<N>::of((ctx.data(), ctx.data_end()))?;
    for i in 0..N / 8 {
        frame.put_long(i * 8, flood.frame[i]);
    }
    // None of the lengths is a multiple of eight.
    frame.put_long(N - 8, flood.tail);

    let [a, b, c] = [
        random(flood.seed, n, 0),
        random(flood.seed, n, 1),
        random(flood.seed, n, 2),
    ];
    let source = flood.source_random;
    let source = [
        a as u32 & source[0],
        (a >> 32) as u32 & source[1],
        b as u32 & source[2],
        (b >> 32) as u32 & source[3],
    ];
    let varied = flood.varied_random;
    // A source of IPv4 takes nothing of `b`.
    let varied = [
        c as u32 & varied[0],
        (c >> 32) as u32 & varied[1],
        b as u32 & varied[2],
        (b >> 32) as u32 & varied[3],
    ];

    let (from, with) = (&flood.source, &flood.varied);
    let mut sum = u64::from(flood.l4_sum);
    for i in 0..4 {
        sum += u64::from(source[i]) + u64::from(varied[i]);
    }
    frame.put_word(SOURCE, from[0] | source[0]);
    if SOURCE == 26 {
        frame.put_half(24, fold(u64::from(flood.ip_sum) + u64::from(source[0])));
    } else {
        frame.put_word(SOURCE + 4, from[1] | source[1]);
        frame.put_word(SOURCE + 8, from[2] | source[2]);
        frame.put_word(SOURCE + 12, from[3] | source[3]);
    }
    for i in 0..4 {
        frame.put_word(TCP + VARIED[i], with[i] | varied[i]);
    }
    frame.put_half(TCP + 16, fold(sum));
    Some(())
}

/// The `n`-th number of the `stream`-th random sequence: SplitMix64 (Steele, Lea and Flood 2014), which
/// counts, so that a CPU's only state is the number of frames.
#[inline(always)]
fn random(seed: u64, n: u64, stream: u64) -> u64 {
    let z = seed.wrapping_add((n * 3 + stream).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The Internet checksum of what was summed in words or halves. Twelve words at most: no overflow.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Under which entry of `SINK` a TCP segment to the flood's sources counts.
#[inline(always)]
fn comes_back(bounds: (usize, usize), flood: &Flood) -> Option<u32> {
    let ethernet = Octets::<14>::of(bounds)?;
    let (flags, ours) = match EtherType(u16::from_be(ethernet.half::<12>())) {
        EtherType::IPV4 => {
            let frame = Octets::<54>::of(bounds)?;
            if frame.octet::<14>() != 0x45 || IpProto(frame.octet::<23>()) != IpProto::TCP {
                return None;
            }
            (frame.octet::<47>(), flood.sends_from(0, frame.word::<30>()))
        }
        EtherType::IPV6 => {
            let frame = Octets::<74>::of(bounds)?;
            if IpProto(frame.octet::<20>()) != IpProto::TCP {
                return None;
            }
            let ours = flood.sends_from(0, frame.word::<38>())
                && flood.sends_from(1, frame.word::<42>())
                && flood.sends_from(2, frame.word::<46>())
                && flood.sends_from(3, frame.word::<50>());
            (frame.octet::<67>(), ours)
        }
        _ => return None,
    };
    if !ours {
        return None;
    }
    Some(match flags {
        f if f & tcp_flags::RST != 0 => SINK_RSTS,
        f if f & tcp_flags::SYN != 0 => SINK_SYN_ACKS,
        _ => SINK_OTHERS,
    })
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Nothing here panics, as in main.rs.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
