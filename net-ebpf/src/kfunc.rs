//! Calls of kernel functions. aya 0.14 has no support for them, so a call is compiled as a call of a
//! helper with a number that no helper has, and the agent's loader (`datapath/kfunc.rs`) makes it a
//! kfunc call before the load. A later aya with ksym support replaces both files.

use core::ffi::c_void;

use aya_ebpf::bindings::__sk_buff;
use net_common::kfunc::{BPF_SK_ASSIGN_TCP_REQSK, TcpReqAttrs};

/// `bpf_sk_assign_tcp_reqsk` (Linux 6.9, net/core/filter.c): makes a request socket of `attrs` for the
/// listener `sk` and attaches it to the packet, which must be at TC ingress. 0 or a negative errno.
///
/// # Safety
/// `skb` is the program's context and `sk` a trusted pointer to a listening TCP socket that
/// `bpf_skc_to_tcp_sock` returned.
#[inline(always)]
pub unsafe fn sk_assign_tcp_reqsk(
    skb: *mut __sk_buff,
    sk: *mut c_void,
    attrs: &TcpReqAttrs,
) -> i64 {
    type Call = unsafe extern "C" fn(*mut __sk_buff, *mut c_void, *const TcpReqAttrs, i32) -> i64;
    // SAFETY: on this target a constant function pointer is a call instruction with that number.
    let call: Call =
        unsafe { core::mem::transmute::<usize, Call>(BPF_SK_ASSIGN_TCP_REQSK as usize) };
    // SAFETY: the caller's promise; the loader has put the kernel function in place.
    unsafe { call(skb, sk, attrs, size_of::<TcpReqAttrs>() as i32) }
}
