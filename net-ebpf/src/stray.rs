//! TCP segments that belong to no socket (R-TCP-6 to R-TCP-9).
//!
//! In peace they pass: the host's RST clears a peer's stale connection. To notice an attack one segment in 64 is asked
//! for its socket; when too many of those have none, each is, until the attack has been over for ten seconds.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use net_common::{
    abi::{Class, GuardSettings, STRAY_NS, STRAY_SAMPLE},
    units::tcp_flags::{ACK, RST, SYN},
    verdict::Reason,
};

use crate::{
    address::{is_link_local, is_own},
    limit,
    maps::STRAYS,
    packet::{View, scratch, unpack},
    pipeline::{Tcp, segment},
    policy,
    socket::{self, Found},
    sources::{self, As},
    syn_cookie::kernel_cookie,
    verdict::{Word, refused, word},
};

/// Whether a segment that no other rule concerns is to be looked at.
#[inline(always)]
pub fn concerns(syn_ack: bool) -> bool {
    const ON: u32 = GuardSettings::TCP | GuardSettings::STRAYS;
    if policy::guards().is_none_or(|s| s.flags & ON != ON) {
        return false;
    }
    let sampled = is_sampled(1);
    let attacked = STRAYS.get(1).is_some_and(|&until| until != 0);
    sampled || syn_ack || attacked
}

/// The guard of segments without a socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stray_guard(ctx: *mut xdp_md, place: u32, l4: u32, l4_len: u32) -> Word {
    let ctx = XdpContext::new(ctx);
    let pass = word(Reason::TcpPass);
    let Some(settings) = policy::guards() else {
        return pass;
    };
    let Ok(tcp) = segment(&View(&ctx), unpack(place, l4, l4_len, 0)) else {
        return pass;
    };
    match judge(&ctx, &tcp, settings) {
        Some((reason, share)) => refused(settings, GuardSettings::TCP_ENFORCE, reason, share),
        None => pass,
    }
}

#[inline(always)]
fn judge(ctx: &XdpContext, tcp: &Tcp, settings: &GuardSettings) -> Option<(Reason, u32)> {
    let version = tcp.packet.version;
    // A socket of a link-local address is bound to what may stand on this interface, and is not found by it.
    if is_link_local(version, &tcp.dst) || !is_own(version, &tcp.dst) || has_socket(ctx, tcp) {
        return None;
    }
    if tcp.segment.flags & SYN != 0 {
        let share = sources::admit(Class::StraySynAck, version, &tcp.src, As::Itself);
        return (share != 0).then_some((Reason::StraySynAckLimit, share));
    }
    let now = limit::now();
    let rate = &settings.strays;
    let until_at = STRAYS.get_ptr_mut(1)?;
    // SAFETY: a live map value.
    let until = unsafe { until_at.read_volatile() };
    if is_sampled(0)
        && rate.interval_ns != 0
        && !limit::take(
            STRAYS.get_ptr_mut(0)?,
            now,
            rate.interval_ns,
            rate.tolerance_ns,
        )
    {
        // SAFETY: a live map value.
        unsafe { until_at.write_volatile(now + STRAY_NS) };
    } else if until <= now {
        if until != 0 {
            // SAFETY: as above.
            unsafe { until_at.write_volatile(0) };
        }
        return None;
    }
    if tcp.segment.flags & RST != 0 {
        return Some((Reason::StrayRst, 0));
    }
    let share = sources::admit(Class::Stray, version, &tcp.src, As::Itself);
    (share != 0).then_some((Reason::StrayLimit, share))
}

/// Whether this is one segment in [`STRAY_SAMPLE`], counted on each CPU: nobody outside can tell which.
#[inline(always)]
fn is_sampled(more: u64) -> bool {
    let Some(scratch) = scratch::<XdpContext>() else {
        return false;
    };
    // SAFETY: a live map value, this CPU's and this hook's own.
    let segments = unsafe { &mut (*scratch).segments };
    *segments += more;
    *segments % STRAY_SAMPLE == 0
}

/// Whether a segment belongs to a connection, or is one that a listener waits for: the ACK of a cookie of the kernel's.
#[inline(always)]
fn has_socket(ctx: &XdpContext, tcp: &Tcp) -> bool {
    match socket::look_up(ctx.ctx.cast(), tcp) {
        Found::Connection => true,
        Found::Nothing => false,
        Found::Listener(sk) => {
            let expected =
                tcp.segment.flags & (SYN | ACK | RST) == ACK && kernel_cookie(ctx, tcp, sk.cast());
            socket::release(sk);
            expected
        }
    }
}
