//! `cargo xtask lint`: rustfmt, clippy for both worlds, and what no packet program may call.

use std::{fs, process::Command};

use anyhow::{Context, Result, anyhow, bail};

use crate::{cargo_tools, ebpf::Toolchain, mem_calls, process, setup};

/// rustfmt, licences, clippy with warnings denied (host and eBPF), no memset in packet programs
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask lint              as CI does; `cargo fmt --all` mends the first part")]
pub struct Args {}

/// The object whose programs see packets; the laboratory's may do as they like.
const PACKET_OBJECT: &str = "netmoat-bpf";

pub fn run(_: &Args) -> Result<()> {
    eprintln!("lint: rustfmt");
    process::run(process::host_cargo().args(["fmt", "--all", "--check"]))?;

    eprintln!("lint: licences, banned crates, sources (deny.toml)");
    process::run(&mut deny()?)?;

    setup::ensure(setup::Scope::Toolchain)?;
    let workspace = process::workspace_root();
    let toolchain = Toolchain::read(&workspace).map_err(|message| anyhow!(message))?;

    eprintln!("lint: clippy, eBPF crate");
    process::run(
        toolchain
            .cargo(&workspace, "clippy")
            .args(["--bins", "--", "-D", "warnings"]),
    )?;

    eprintln!("lint: calls to memset, memcpy and memmove in {PACKET_OBJECT}");
    let object = toolchain
        .build(&workspace, PACKET_OBJECT, &[])
        .map_err(|error| anyhow!(error))?;
    let elf = fs::read(&object).with_context(|| object.display().to_string())?;
    let calls = mem_calls::find(&elf).with_context(|| object.display().to_string())?;
    if !calls.is_empty() {
        bail!(
            "{PACKET_OBJECT}: packet programs must not loop byte by byte; write words, or keep \
             the value in a per-CPU array:\n  {}",
            calls.join("\n  ")
        );
    }

    eprintln!("lint: clippy, host crates");
    process::run(
        process::host_cargo()
            .args(["clippy", "--workspace", "--exclude", "net-ebpf"])
            .args(["--all-targets", "--", "-D", "warnings"]),
    )?;
    eprintln!("lint: passed");
    Ok(())
}

/// cargo-deny without advisories, whose database is fetched: two seconds.
fn deny() -> Result<Command> {
    let mut deny = Command::new(cargo_tools::DENY.ensure()?);
    deny.current_dir(process::workspace_root());
    deny.args(["--locked", "--log-level", "warn", "check"]);
    deny.args(["--hide-inclusion-graph", "licenses", "bans", "sources"]);
    Ok(deny)
}
