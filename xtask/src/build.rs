//! `cargo xtask build`: set up what the build needs, then build every host crate.

use anyhow::Result;

use crate::{process, setup};

/// Set up the eBPF toolchain and build everything, the eBPF objects included
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask build --release   target/release/netmoat, its eBPF object embedded")]
pub struct Args {
    /// Build optimised binaries
    #[arg(long)]
    release: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::Scope::Toolchain)?;
    // net-ebpf is built by the build scripts of net-user and net-tests.
    let mut cargo = process::host_cargo();
    cargo.args(["build", "--workspace", "--exclude", "net-ebpf"]);
    if args.release {
        cargo.arg("--release");
    }
    process::run(&mut cargo)
}
