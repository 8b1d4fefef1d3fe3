//! `netmoat-lab bench lists`: what the blocklist costs at XDP, by its length.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use net_common::lists::Prefix;
use net_user::{
    datapath::load::{self, XDP_PROGRAM},
    lists::{
        List, Lists, now_ns,
        text::{Entry, whole},
    },
};
use nix::{sys::utsname::uname, unistd::Uid};
use serde::Serialize;

use super::{
    cost::{Cost, timed},
    filter::{FILTER_MOST, Filter, nftables, own_bpffs},
    report::costs,
    syn::{Format, cpu_model},
};
use crate::{
    lab::{Pass, SourceGenerator, Sources, source_address},
    topology::Pair,
};

/// Lengths of mixed prefixes, in turn: half are addresses.
const MIXED_V4: [u8; 16] = [
    32, 24, 32, 28, 32, 24, 32, 20, 32, 24, 32, 30, 32, 22, 26, 16,
];
const MIXED_V6: [u8; 8] = [128, 64, 128, 48, 128, 64, 56, 32];
/// For each kind of packet and round.
const TIME: Duration = Duration::from_millis(800);
/// What a million entries may cost, in times of `xdp-filter` with its own ten.
const MUST: f64 = 1.5;
/// What a million entries may cost, in times of ten.
const GROWTH: f64 = 2.0;

const NOTES: [&str; 5] = [
    "hits go through all entries in turn, in an order that no cache foresees; misses through a million other sources",
    "each figure is the least of its rounds; ns/packet include the kernel's own timing, see the row that only passes",
    "mixed: half addresses, half prefixes of /16 to /30 (IPv6: /32 to /64); temporary: addresses with a time to live",
    "xdp-filter takes 10,000 addresses at most and no prefixes; \"as loaded\" is without --features, as in its manual",
    "whole path: generator, link and receiver on one CPU, all of the time by all packets",
];

/// Options of `bench lists`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The CPU that everything runs on [default: the last one]
    #[arg(long)]
    cpu: Option<usize>,
    /// Numbers of entries
    #[arg(long, value_delimiter = ',', default_values_t = [10, 10_000, 1_000_000], value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    entries: Vec<u32>,
    /// How often each figure is taken
    #[arg(long, default_value_t = 3)]
    rounds: u32,
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
    /// Nanoseconds a packet in the XDP program.
    costs: Vec<Cost>,
    /// Nanoseconds a packet on the whole path.
    paths: Vec<Cost>,
    /// How the lists were filled.
    imports: Vec<Import>,
    ratios: Vec<Ratio>,
    /// Whether every ratio is what it must be.
    passed: bool,
    /// What to know when reading the figures.
    notes: Vec<&'static str>,
}

/// Filling a list.
#[derive(Debug, Serialize)]
struct Import {
    what: String,
    entries: usize,
    /// Building the kernel's tables included.
    milliseconds: u128,
    kernel_memory: usize,
}

#[derive(Debug, Serialize)]
struct Ratio {
    what: String,
    ratio: f64,
    must: f64,
}

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Single,
    Mixed,
    Temporary,
    SingleV6,
    MixedV6,
}

impl Kind {
    const ALL: [(Self, &str, &str); 5] = [
        (Self::Single, "single", "addresses"),
        (Self::Mixed, "mixed", "mixed prefixes"),
        (Self::Temporary, "temporary", "temporary addresses"),
        (Self::SingleV6, "single_v6", "IPv6 addresses"),
        (Self::MixedV6, "mixed_v6", "mixed IPv6 prefixes"),
    ];

    fn ipv6(self) -> bool {
        matches!(self, Self::SingleV6 | Self::MixedV6)
    }

    fn prefix(self, n: u32) -> Prefix {
        let address = whole(source_address(n, self.ipv6()));
        let of = |lengths: &[u8]| lengths[n as usize % lengths.len()];
        match self {
            Self::Mixed => address.first(of(&MIXED_V4)),
            Self::MixedV6 => address.first(of(&MIXED_V6)),
            _ => address,
        }
    }

    fn entries(self, count: u32) -> Vec<Entry> {
        let mut seen = HashSet::new();
        let hour = Duration::from_secs(3600);
        (0..count)
            .map(|n| self.prefix(n))
            .filter(|&prefix| seen.insert(prefix))
            .map(|prefix| Entry {
                prefix,
                ttl: (self == Self::Temporary).then_some(hour),
                reason: String::new(),
                line: 0,
            })
            .collect()
    }
}

/// Everything that is measured is measured here.
struct Bench {
    cpu: usize,
    rounds: u32,
    costs: Vec<Cost>,
    paths: Vec<Cost>,
    imports: Vec<Import>,
}

/// Runs it all.
///
/// # Errors
/// Not root, or a contender is missing.
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        Uid::effective().is_root(),
        "bench lists makes namespaces and loads eBPF programs: run it as root"
    );
    own_bpffs()?;
    let last = std::thread::available_parallelism()?.get() - 1;
    let mut bench = Bench {
        cpu: args.cpu.unwrap_or(last),
        rounds: args.rounds,
        costs: Vec::new(),
        paths: Vec::new(),
        imports: Vec::new(),
    };
    bench.pass()?;
    bench.xdp_filter()?;
    bench.netmoat(&args.entries)?;
    for &entries in &args.entries {
        bench.nftables(entries)?;
    }
    let ratios = bench.ratios();
    let report = Report {
        version: 1,
        kernel: uname()?.release().to_string_lossy().into_owned(),
        cpu_model: cpu_model(),
        cpu: bench.cpu,
        passed: ratios.iter().all(|r| r.ratio <= r.must),
        costs: bench.costs,
        paths: bench.paths,
        imports: bench.imports,
        ratios,
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
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Report {
    fn human(&self) -> String {
        let mut text = format!(
            "Blocklist on CPU {} ({}, Linux {})\n{}whole path\n{}",
            self.cpu,
            self.cpu_model,
            self.kernel,
            costs(&self.costs),
            costs(&self.paths)
        );
        for import in &self.imports {
            let _ = writeln!(
                text,
                "import: {} {} in {} ms, {} KiB of the kernel's memory",
                import.entries,
                import.what,
                import.milliseconds,
                import.kernel_memory / 1024
            );
        }
        for ratio in &self.ratios {
            let verdict = if ratio.ratio <= ratio.must {
                "ok"
            } else {
                "TOO HIGH"
            };
            let _ = writeln!(
                text,
                "{}: {:.2} (must: {}) {verdict}",
                ratio.what, ratio.ratio, ratio.must
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

/// A UDP datagram to another host's link-layer address, which the kernel drops soonest of all that passes.
fn frame(ipv6: bool) -> [u8; 96] {
    let mut frame = [0; 96];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0x77, 1, 2, 0, 0, 0, 0x77, 2]);
    if ipv6 {
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 42, 17, 64]);
        frame[38..42].copy_from_slice(&[0x20, 1, 0, 2]);
        frame[54..60].copy_from_slice(&[0x30, 0x39, 0x1f, 0x90, 0, 42]);
    } else {
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..24].copy_from_slice(&[0x45, 0, 0, 82, 0, 0, 0, 0, 64, 17]);
        frame[30..34].copy_from_slice(&[198, 18, 0, 200]);
        frame[34..40].copy_from_slice(&[0x30, 0x39, 0x1f, 0x90, 0, 62]);
    }
    frame
}

fn sources(ipv6: bool, first: u32, count: u32) -> Sources {
    Sources {
        frame: frame(ipv6),
        ipv6,
        first,
        count,
        checksum: false,
    }
}

fn ipv4_sources(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).filter_map(|n| match source_address(n, false) {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

impl Bench {
    /// The least cost of all rounds, of a program and of the whole path.
    fn take(
        &mut self,
        name: &str,
        what: &str,
        program: u32,
        generator: &mut SourceGenerator,
        sources: &Sources,
    ) -> Result<f64> {
        let mut least = (f64::MAX, 0);
        let mut path = (f64::MAX, 0);
        for _ in 0..self.rounds {
            let cost = timed(program, TIME, |time| {
                let sent = generator.run(sources, time)?;
                let ns = sent.elapsed.as_nanos() as f64 / sent.packets as f64;
                if ns < path.0 {
                    path = (ns, sent.packets);
                }
                Ok(())
            })?;
            if cost.0 < least.0 {
                least = cost;
            }
        }
        eprintln!("{what}: {:.1} ns", least.0);
        let cost = |(ns, packets)| Cost {
            name: name.to_owned(),
            what: what.to_owned(),
            ns,
            packets,
        };
        self.costs.push(cost(least));
        self.paths.push(cost(path));
        Ok(least.0)
    }

    fn pass(&mut self) -> Result<()> {
        let pair = Pair::new()?;
        let mut pass = Pass::load()?;
        pass.attach(&pair.server.ns, &pair.server.link)?;
        let mut generator = SourceGenerator::new(&pair.attacker, self.cpu)?;
        let sources = sources(false, 0, 1_000_000);
        let what = "a program that only passes";
        self.take("pass", what, pass.id()?, &mut generator, &sources)?;
        Ok(())
    }

    fn xdp_filter(&mut self) -> Result<()> {
        for (features, name, label) in [
            ("all", "xdp_filter", "xdp-filter as loaded"),
            ("ipv4", "xdp_filter_ipv4", "xdp-filter --features ipv4"),
        ] {
            for entries in [10, FILTER_MOST - 1] {
                let pair = Pair::new()?;
                let filter = Filter::new(&pair.server, features, ipv4_sources(entries))?;
                let mut generator = SourceGenerator::new(&pair.attacker, self.cpu)?;
                for (suffix, hit, first, count) in [
                    ("", "dropped", 0, entries),
                    ("_miss", "passed", 10_000_000, 1_000_000),
                ] {
                    self.take(
                        &format!("{name}_{entries}{suffix}"),
                        &format!("{label}: {hit}, {entries} addresses"),
                        filter.program,
                        &mut generator,
                        &sources(false, first, count),
                    )?;
                }
            }
        }
        Ok(())
    }

    fn netmoat(&mut self, numbers: &[u32]) -> Result<()> {
        let pair = Pair::new()?;
        let (mut ebpf, program) = attached(&pair)?;
        let mut lists = Lists::new(&mut ebpf)?;
        let mut generator = SourceGenerator::new(&pair.attacker, self.cpu)?;
        for (ipv6, name) in [(false, "empty"), (true, "empty_v6")] {
            let what = format!(
                "netmoat: {name}, no lists",
                name = if ipv6 { "IPv6" } else { "IPv4" }
            );
            let sources = sources(ipv6, 0, 1_000_000);
            self.take(name, &what, program, &mut generator, &sources)?;
        }
        for &number in numbers {
            for (kind, name, label) in Kind::ALL {
                let entries = kind.entries(number);
                let start = Instant::now();
                lists.replace(List::Block, "bench", &entries, now_ns()?)?;
                self.imports.push(Import {
                    what: label.to_owned(),
                    entries: entries.len(),
                    milliseconds: start.elapsed().as_millis(),
                    kernel_memory: lists.kernel_memory(),
                });
                for (suffix, hit, first, count) in [
                    ("", "dropped", 0, number),
                    ("_miss", "passed", 10_000_000, 1_000_000),
                ] {
                    // Prefixes cover some of the other sources too.
                    if suffix == "_miss" && kind == Kind::Mixed {
                        continue;
                    }
                    self.take(
                        &format!("{name}_{number}{suffix}"),
                        &format!("netmoat: {hit}, {number} {label}"),
                        program,
                        &mut generator,
                        &sources(kind.ipv6(), first, count),
                    )?;
                }
            }
        }
        Ok(())
    }

    /// No program to time: the whole path, less that of a program that passes.
    fn nftables(&mut self, entries: u32) -> Result<()> {
        let pair = Pair::new()?;
        let mut pass = Pass::load()?;
        pass.attach(&pair.server.ns, &pair.server.link)?;
        nftables(&pair.server, ipv4_sources(entries))?;
        let mut generator = SourceGenerator::new(&pair.attacker, self.cpu)?;
        let mut least = (f64::MAX, 0);
        for _ in 0..self.rounds {
            let sent = generator.run(&sources(false, 0, entries), TIME)?;
            let ns = sent.elapsed.as_nanos() as f64 / sent.packets as f64;
            if ns < least.0 {
                least = (ns, sent.packets);
            }
        }
        self.paths.push(Cost {
            name: format!("nftables_{entries}"),
            what: format!("nftables ingress set: dropped, {entries} addresses"),
            ns: least.0,
            packets: least.1,
        });
        Ok(())
    }

    fn ratios(&self) -> Vec<Ratio> {
        let ns = |name: &str| Some(self.costs.iter().find(|c| c.name == name)?.ns);
        let ratio = |what: &str, of: &str, to: &str, must| {
            Some(Ratio {
                what: what.to_owned(),
                ratio: ns(of)? / ns(to)?,
                must,
            })
        };
        [
            ratio(
                "a million addresses / xdp-filter as loaded with 10",
                "single_1000000",
                "xdp_filter_10",
                MUST,
            ),
            ratio(
                "a million mixed prefixes / xdp-filter as loaded with 10",
                "mixed_1000000",
                "xdp_filter_10",
                MUST,
            ),
            ratio(
                "a million addresses / xdp-filter --features ipv4 with 10",
                "single_1000000",
                "xdp_filter_ipv4_10",
                MUST,
            ),
            ratio(
                "a million addresses / ten",
                "single_1000000",
                "single_10",
                GROWTH,
            ),
            ratio(
                "a million mixed prefixes / ten",
                "mixed_1000000",
                "mixed_10",
                GROWTH,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The data path on the server's link, without an agent; and its program's id.
fn attached(pair: &Pair) -> Result<(Ebpf, u32)> {
    let mut ebpf = load::load()?;
    let xdp: &mut Xdp = load::program(&mut ebpf, XDP_PROGRAM)?;
    pair.server
        .ns
        .run(|| xdp.attach_to_if_index(pair.server.link.ifindex, XdpMode::Driver))?;
    let id = xdp.info()?.id();
    Ok((ebpf, id))
}
