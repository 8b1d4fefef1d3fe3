//! `netmoat-lab bench neighbor`: what ARP and neighbour discovery cost at XDP.

use std::{fmt::Write as _, fs, net::Ipv6Addr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use net_common::verdict::Reason;
use nix::{sys::utsname::uname, unistd::Uid};
use serde::Serialize;

use super::{
    cost::{Cost, timed, xdp_program},
    report::costs,
    syn::{Format, cpu_model},
};
use crate::{
    agent::Agent,
    lab::{ClaimGenerator, Claims, Pass},
    link,
    topology::{Host, Pair},
};

/// First of the neighbours' addresses: 198.19.0.1 and 2001:2:1::1 (RFC 2544, RFC 5180).
const FIRST_V4: u32 = 0xc613_0001;
const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 1, 0, 0, 0, 0, 1);
/// Where they are said to be, truly and falsely.
const TRUE_MAC: [u8; 6] = [2, 0, 0, 0, 0x10, 1];
const FALSE_MAC: [u8; 6] = [2, 0, 0, 0, 0x66, 6];
/// For each kind of packet.
const TIME: Duration = Duration::from_secs(1);

const NOTES: [&str; 3] = [
    "claims go through all bindings in turn, so that with 10,000 their entries meet a cold cache",
    "ns/packet include the kernel's own timing; subtract the row of the program that only passes, less its few ns",
    "the shares are set beyond the flood's rate: every frame is judged, none is limited",
];

/// Options of `bench neighbor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The CPU that everything runs on [default: the last one]
    #[arg(long)]
    cpu: Option<usize>,
    /// Numbers of bindings
    #[arg(long, value_delimiter = ',', default_values_t = [10, 10_000], value_parser = clap::value_parser!(u32).range(1..=16_000))]
    bindings: Vec<u32>,
    /// What to print
    #[arg(short, long, value_enum, default_value_t = Format::Human)]
    output: Format,
    /// Also write the JSON to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Version of this format.
    version: u32,
    kernel: String,
    cpu_model: String,
    cpu: usize,
    /// Nanoseconds a packet.
    costs: Vec<Cost>,
    /// What to know when reading the figures.
    notes: Vec<&'static str>,
}

/// Runs it all.
///
/// # Errors
/// Not root, or the agent refuses.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        Uid::effective().is_root(),
        "bench neighbor makes namespaces and loads eBPF programs: run it as root"
    );
    let last = std::thread::available_parallelism()?.get() - 1;
    let cpu = args.cpu.unwrap_or(last);
    let mut costs = vec![passing(cpu)?];
    for &bindings in &args.bindings {
        eprintln!("{bindings} bindings…");
        costs.extend(guarding(cpu, bindings)?);
    }
    let report = Report {
        version: 1,
        kernel: uname()?.release().to_string_lossy().into_owned(),
        cpu_model: cpu_model(),
        cpu,
        costs,
        notes: NOTES.to_vec(),
    };
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(path) = &args.out {
        fs::write(path, &json).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    match args.output {
        Format::Human => print!("{}", report.human()),
        Format::Json => println!("{json}"),
    }
    Ok(ExitCode::SUCCESS)
}

impl Report {
    fn human(&self) -> String {
        let mut text = format!(
            "ARP and neighbour discovery on CPU {} ({}, Linux {})\n{}",
            self.cpu,
            self.cpu_model,
            self.kernel,
            costs(&self.costs)
        );
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

/// The peer: a program that does nothing.
fn passing(cpu: usize) -> Result<Cost> {
    let pair = Pair::new()?;
    let mut pass = Pass::load()?;
    pass.attach(&pair.server.ns, &pair.server.link)?;
    let mut generator = ClaimGenerator::new(&pair.attacker, cpu)?;
    let claims = arp(&pair.server, TRUE_MAC, 10)?;
    let (ns, packets) = timed(pass.id()?, TIME, |time| generator.run(&claims, time))?;
    Ok(Cost {
        name: "pass".to_owned(),
        what: "a program that only passes".to_owned(),
        ns,
        packets,
    })
}

fn guarding(cpu: usize, bindings: u32) -> Result<Vec<Cost>> {
    let pair = Pair::new()?;
    let agent = Agent::start(&pair.server, &config(bindings))?;
    let program = xdp_program(&agent)?;
    let mut generator = ClaimGenerator::new(&pair.attacker, cpu)?;
    let server = &pair.server;
    let kinds = [
        (
            "arp_valid",
            "valid ARP",
            arp(server, TRUE_MAC, bindings)?,
            Reason::NeighborValid,
        ),
        (
            "arp_spoof",
            "ARP spoof dropped",
            arp(server, FALSE_MAC, bindings)?,
            Reason::NeighborMismatch,
        ),
        (
            "nd_valid",
            "valid neighbour advertisement",
            advertisement(server, TRUE_MAC, bindings)?,
            Reason::NeighborValid,
        ),
        (
            "nd_spoof",
            "advertised spoof dropped",
            advertisement(server, FALSE_MAC, bindings)?,
            Reason::NeighborMismatch,
        ),
    ];
    let mut costs = Vec::new();
    for (name, what, claims, reason) in kinds {
        let before = agent.packets(reason)?;
        let (ns, packets) = timed(program, TIME, |time| generator.run(&claims, time))?;
        let judged = agent.packets(reason)? - before;
        ensure!(
            judged >= packets,
            "of {packets} frames of {what} only {judged} were counted as {}",
            reason.name()
        );
        costs.push(Cost {
            name: format!("{name}_{bindings}"),
            what: format!("netmoat: {what}, {bindings} bindings"),
            ns,
            packets,
        });
    }
    Ok(costs)
}

/// Half of the bindings for each family would halve what a family's claims meet: each has all of them.
fn config(bindings: u32) -> String {
    let mut text = "[arp]\nmode = \"enforce\"\n[ndp]\nmode = \"enforce\"\n[neighbors]\ngateway = \"off\"\n\
                    share = \"1M/s\"\nshare_burst = 1000000\nknown_limit = \"1M/s\"\nknown_burst = 1000000\n"
        .to_owned();
    let mac = link::text(TRUE_MAC);
    for n in 0..bindings.div_ceil(2) {
        let v4 = std::net::Ipv4Addr::from(FIRST_V4 + n);
        let v6 = Ipv6Addr::from_bits(FIRST_V6.to_bits() + u128::from(n));
        for address in [v4.to_string(), v6.to_string()] {
            let _ = write!(
                text,
                "[[neighbor]]\naddress = {address:?}\nmacs = [{mac:?}]\n"
            );
        }
    }
    text
}

fn frame(parts: &[&[u8]]) -> Result<[u8; 96]> {
    let mut octets = parts.concat();
    octets.resize(96, 0);
    octets.try_into().ok().context("a frame of 96 octets")
}

/// Requests for the host's address.
fn arp(host: &Host, mac: [u8; 6], bindings: u32) -> Result<Claims> {
    Ok(Claims {
        frame: frame(&[
            &[0xff; 6],
            &mac,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &mac,
            &[0; 4],
            &[0; 6],
            &host.v4.octets(),
        ])?,
        ndp: false,
        first: FIRST_V4,
        count: bindings.div_ceil(2),
    })
}

/// Unsolicited advertisements, which the host takes if it knows the neighbour.
fn advertisement(host: &Host, mac: [u8; 6], bindings: u32) -> Result<Claims> {
    let source = FIRST_V6.octets();
    Ok(Claims {
        frame: frame(&[
            &host.link.mac,
            &mac,
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255],
            &source,
            &host.v6.octets(),
            // Override, from no router; the checksum is the kernel's business.
            &[136, 0, 0, 0, 0x20, 0, 0, 0],
            &source,
            &[2, 1],
            &mac,
        ])?,
        ndp: true,
        first: FIRST_V6.to_bits() as u32,
        count: bindings.div_ceil(2),
    })
}
