//! The laboratory's command line: benchmarks, and later the demo.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use net_tests::{bench, interrupt};

/// Floods against the kernel and netmoat, in network namespaces of their own
#[derive(Debug, Parser)]
#[command(name = "netmoat-lab", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the data path
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netmoat-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    interrupt::install()?;
    match command {
        Command::Bench(bench) => bench::run(bench),
    }
}
