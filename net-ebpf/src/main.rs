//! netmoat's programs: entries only. The order of the stages is in `pipeline.rs`, TC's in `handshake.rs`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod address;
mod asked;
mod connections;
mod flows;
mod handshake;
mod icmp;
mod ip;
mod kfunc;
mod limit;
mod listeners;
mod lists;
mod maps;
mod neighbor;
mod options;
mod packet;
mod pipeline;
mod policy;
mod recent;
mod socket;
mod sources;
mod stray;
mod syn_cookie;
mod syns;
mod trace;
mod udp;
mod verdict;
mod watch;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_action},
    macros::{btf_tracepoint, classifier, xdp},
    programs::{BtfTracePointContext, TcContext, XdpContext},
};

/// Every frame that enters the interface.
#[xdp(frags)]
fn netmoat_xdp(ctx: XdpContext) -> xdp_action::Type {
    policy::choose();
    pipeline::run(&ctx)
}

/// Every packet behind XDP: turns the ACK that proves a cookie into a request socket.
#[classifier]
fn netmoat_tc(ctx: TcContext) -> i32 {
    policy::choose();
    handshake::run(&ctx);
    // TCX_NEXT: whatever else is attached goes on.
    TC_ACT_UNSPEC
}

/// Every packet that leaves: notes what this host asks its neighbours for.
#[classifier]
fn netmoat_egress(ctx: TcContext) -> i32 {
    policy::choose();
    neighbor::on_egress(&ctx);
    asked::on_egress(&ctx);
    TC_ACT_UNSPEC
}

/// Every change of a TCP socket's state, in all network namespaces.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn netmoat_sock(ctx: BtfTracePointContext) -> i32 {
    policy::choose();
    listeners::on_state(&ctx);
    0
}

/// Every SYN-ACK that the kernel sends again, in all network namespaces. Optional.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
fn netmoat_retrans(ctx: BtfTracePointContext) -> i32 {
    policy::choose();
    flows::on_retransmit(&ctx);
    0
}

/// Every reset that a connection receives, in all network namespaces. Optional.
#[btf_tracepoint(function = "tcp_receive_reset")]
fn netmoat_reset(ctx: BtfTracePointContext) -> i32 {
    policy::choose();
    flows::on_reset(&ctx);
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Nothing here panics: no indexing, no unwrap, no unchecked arithmetic. The verifier would refuse
    // the endless loop if it were reachable.
    loop {}
}

// The kernel lends some helpers to GPL-compatible programs alone.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
