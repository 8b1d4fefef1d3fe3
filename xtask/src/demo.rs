//! `cargo xtask demo`: a SYN flood against the kernel alone, then against netmoat.

use std::ffi::{OsStr, OsString};

use anyhow::Result;

use crate::{process, setup};

/// Watch a SYN flood kill a service, then netmoat hold it (root)
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo              the whole show, under three minutes after the build
  cargo xtask demo -- --help    its own options")]
pub struct Args {
    /// Options of the demo itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    lab: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<()> {
    run_lab("demo", &args.lab)
}

/// Builds the laboratory optimised and becomes it.
pub fn run_lab(command: &str, args: &[OsString]) -> Result<()> {
    process::require_root(
        command,
        "it makes network namespaces and loads eBPF programs",
    )?;
    setup::ensure(setup::Scope::Everything)?;
    // The laboratory starts the real agent, which `cargo run` alone would not build.
    process::run(process::host_cargo().args([
        "build",
        "--release",
        "--bin",
        "netmoat",
        "--bin",
        "netmoat-lab",
    ]))?;
    let mut cargo = process::host_cargo();
    cargo.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "net-tests",
        "--bin",
        "netmoat-lab",
        "--",
    ]);
    cargo.arg(OsStr::new(command)).args(args);
    // `cargo run` too becomes the program it runs.
    Err(process::become_program(&mut cargo))
}
