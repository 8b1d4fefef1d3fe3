//! Development commands of netmoat: `cargo xtask <command>`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod cargo_tools;
mod demo;
mod dist;
mod ebpf;
mod lint;
mod mem_calls;
mod next;
mod packages;
mod process;
mod setup;
mod test;
mod toolchain;

/// Development commands of netmoat.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo              watch a SYN flood kill a service, then netmoat hold it (root)
  cargo xtask test              all tests (root)
  cargo xtask setup             only find or install what the build, demo and tests need
  cargo xtask bench syn         SYN-ACKs/s: kernel, nftables synproxy, netmoat (root)
  cargo xtask bench neighbor    ns a packet of ARP and neighbour discovery (root)
  cargo xtask dist              packages: .deb, .rpm, a static tarball";

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Build(build::Args),
    Test(test::Args),
    Lint(lint::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Dist(dist::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Dist(args) => dist::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
