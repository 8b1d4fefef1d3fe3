//! The laboratory's command line: benchmarks and the demo.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use net_tests::{bench, demo, interrupt, queues::app};

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
    /// Watch a SYN flood kill a service, then netmoat hold it (root)
    Demo(demo::Args),
    #[command(hide = true)]
    App(app::Args),
    #[command(hide = true)]
    Clients(app::ClientArgs),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(code) => code,
        Err(_) if interrupt::requested() => {
            eprintln!("netmoat-lab: interrupted; everything is cleaned up");
            // What a shell says of a program that SIGINT ended.
            ExitCode::from(130)
        }
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
        Command::Demo(args) => demo::run(args),
        Command::App(args) => app::run(args),
        Command::Clients(args) => app::stay(args),
    }
}
