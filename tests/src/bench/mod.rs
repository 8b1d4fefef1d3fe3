//! Benchmarks: `netmoat-lab bench …`.

use std::process::ExitCode;

use anyhow::Result;

mod contender;
mod cost;
mod filter;
mod lists;
mod neighbor;
mod report;
mod syn;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Bench {
    /// SYN-ACKs/s on one core and ns a packet: kernel, nftables synproxy, netmoat (root)
    Syn(syn::Args),
    /// ns a packet of ARP and neighbour discovery, by number of bindings (root)
    Neighbor(neighbor::Args),
    /// ns a packet of the block list, by number of entries, beside xdp-filter and nftables (root)
    Lists(lists::Args),
}

/// Measures and prints; the exit code tells whether the figures are good enough.
///
/// # Errors
/// Not root, something is missing, or Ctrl-C was pressed.
pub fn run(bench: &Bench) -> Result<ExitCode> {
    match bench {
        Bench::Syn(args) => syn::run(args),
        Bench::Neighbor(args) => neighbor::run(args),
        Bench::Lists(args) => lists::run(args),
    }
}
