//! Builds the data path's eBPF object, which the agent embeds, and tells the crate what it is built from.

use std::{env, path::Path};

mod build_info;
#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

fn main() {
    let package = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let workspace = Path::new(&package)
        .parent()
        .expect("every package lies in the workspace");
    build_info::tell(workspace);
    let trace = env::var_os("CARGO_FEATURE_TRACE").is_some();
    ebpf::embed("netmoat-bpf", if trace { &["trace"] } else { &[] });
}
