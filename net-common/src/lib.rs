//! What netmoat decides, free of any kernel: the packet parser, the guards' rules, SYN cookies, rate
//! limits and the types that the programs and the agent share. The eBPF programs run this very code;
//! so do the unit tests, property tests and fuzzers on the host.
#![cfg_attr(not(test), no_std)]
// Bounds the verifier must see are set in assembly; see tcp_options.rs.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod cookie;
pub mod gcra;
pub mod guard;
pub mod kfunc;
pub mod lists;
pub mod parse;
pub mod siphash;
pub mod sketch;
pub mod sources;
pub mod spread;
pub mod synack;
pub mod tcp_options;
pub mod units;
pub mod verdict;
