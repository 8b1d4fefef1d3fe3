//! `cargo xtask bench`: what a packet costs.

use std::ffi::OsString;

use anyhow::Result;

use crate::demo::run_lab;

/// Measure the data path (root)
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench syn             SYN-ACKs/s and ns a packet: kernel, nftables synproxy, netmoat
  cargo xtask bench neighbor        ns a packet of ARP and neighbour discovery, by number of bindings
  cargo xtask bench lists           ns a packet of the blocklist, beside xdp-filter and nftables
  cargo xtask bench -- syn --help   its own options")]
pub struct Args {
    /// What to measure, and the bench's own options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    lab: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<()> {
    run_lab("bench", &args.lab)
}
