//! `cargo xtask test`: everything that can be tested on this machine.

use std::{env, ffi::OsString, num::NonZero, process::Command, thread::available_parallelism};

use anyhow::Result;

use crate::{next, process, setup};

/// Set up, build and run all tests (root: network namespaces and BPF)
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                          everything
  cargo xtask test syn_cookie               only tests whose name contains syn_cookie
  cargo xtask test -- -p net-common         further options of `cargo nextest run` or `cargo test`")]
pub struct Args {
    /// Filters and options for the test runner
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    runner: Vec<OsString>,
}

/// Tests at one time at least: most of what those of the laboratory do is to wait for timers of kernels and tools.
const AT_LEAST: usize = 3;
/// What nextest reads their number from.
const THREADS: &str = "NEXTEST_TEST_THREADS";

const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "net-ebpf"];

pub fn run(args: &Args) -> Result<()> {
    process::require_root(
        "test",
        "its tests make network namespaces and load eBPF programs",
    )?;
    setup::ensure(setup::Scope::Everything)?;
    // The binaries first: tests start the real agent.
    process::run(process::host_cargo().arg("build").args(WORKSPACE))?;
    next::build()?;
    // Before the tests proper, so that the runner's closing line comes last.
    if args.runner.is_empty() {
        process::run(
            process::host_cargo()
                .args(["test", "--quiet", "--doc"])
                .args(WORKSPACE),
        )?;
    }
    let mut runner = process::host_cargo();
    if process::find_program("cargo-nextest").is_some() {
        // A process a test: a namespace left behind by one cannot reach another.
        runner.args(["nextest", "run"]);
        if env::var_os(THREADS).is_none() {
            let cores = available_parallelism().map_or(1, NonZero::get);
            runner.env(THREADS, cores.max(AT_LEAST).to_string());
        }
    } else {
        runner.args(["test", "--tests"]);
    }
    end_with(runner.args(selection(&args.runner)).args(&args.runner))
}

/// The whole workspace, unless the caller chose packages.
fn selection(args: &[OsString]) -> &'static [&'static str] {
    let chosen = args.iter().any(|arg| arg == "-p" || arg == "--package");
    if chosen { &[] } else { &WORKSPACE }
}

/// The runner's last line stays the last: no error of ours after its own.
fn end_with(runner: &mut Command) -> Result<()> {
    Err(process::become_program(runner))
}
