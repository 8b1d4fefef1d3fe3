//! Builds the data path's eBPF object, which the agent embeds.

use std::env;

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

fn main() {
    let trace = env::var_os("CARGO_FEATURE_TRACE").is_some();
    ebpf::embed("netmoat-bpf", if trace { &["trace"] } else { &[] });
}
