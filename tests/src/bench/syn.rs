//! `netmoat-lab bench syn`: SYN-ACKs/s of the kernel, nftables synproxy and netmoat on one core.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::utsname::uname, unistd::Uid};

use super::{
    contender::{Contender, PORT, Stage},
    cost,
    report::{Rate, Ratio, Report, median},
};
use crate::{flood::Flood, interrupt, lab::Pace};

/// Who is compared with whom: what must be reached and what we aim for.
const GOALS: [(Contender, f64, f64); 2] = [
    (Contender::Kernel, 2.5, 3.5),
    (Contender::Synproxy, 2.0, 3.0),
];
/// Before each measurement: the kernel's SYN queue is full and a budget used up after it.
const WARM_UP: Duration = Duration::from_millis(300);
/// SYN-ACKs/s below which a contender does not compete: something is wrong with it.
const WORKS: f64 = 10_000.0;
/// For each kind of packet.
const COST_TIME: Duration = Duration::from_secs(1);

const NOTES: [&str; 4] = [
    "kernel and synproxy run behind an XDP program that only passes: a veth takes injected frames no other way",
    "generator, receiver and the counting of answers share one core, as in all rows; compare rows, not machines",
    "synproxy is compared over IPv4 only: Linux's drops IPv6 SYNs whose checksum no NIC has verified",
    "ns/packet include the kernel's own timing; subtract the row of the program that only passes, less its few ns",
];

/// Options of `bench syn`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How often each contender has its turn; figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of a turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// IP version of the flood
    #[arg(long, default_value_t = 4, value_parser = family)]
    family: u8,
    /// The CPU that everything runs on [default: the last one]
    #[arg(long)]
    cpu: Option<usize>,
    /// What to print
    #[arg(short, long, value_enum, default_value_t = Format::Human)]
    output: Format,
    /// Also write the JSON to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Exit with 0 even if netmoat is too slow
    #[arg(long)]
    no_gate: bool,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table.
    Human,
    /// JSON.
    Json,
}

/// Runs it all.
///
/// # Errors
/// See [`Stage::new`].
pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(
        Uid::effective().is_root(),
        "bench syn makes namespaces and loads eBPF programs: run it as root"
    );
    let last = std::thread::available_parallelism()?.get() - 1;
    let cpu = args.cpu.unwrap_or(last);
    let contenders = Contender::of(args.family);
    let turns = (1..=args.rounds)
        .map(|round| {
            contenders
                .iter()
                .map(|&contender| {
                    let turn = turn(contender, args, cpu)?;
                    eprintln!(
                        "round {round}/{}: {:<25} {:>6.0}k SYN-ACKs/s",
                        args.rounds,
                        contender.label(),
                        turn.syn_acks_per_s / 1e3
                    );
                    Ok(turn)
                })
                .collect()
        })
        .collect::<Result<Vec<Vec<Turn>>>>()?;
    eprintln!("timing single packets…");
    let costs = cost::measure(args.family, cpu, COST_TIME)?;
    let report = report(&turns, costs, args, cpu)?;
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(path) = &args.out {
        fs::write(path, &json).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    match args.output {
        Format::Human => print!("{}", report.human()),
        Format::Json => println!("{json}"),
    }
    Ok(if report.passed || args.no_gate {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One contender in one round.
struct Turn {
    syn_acks_per_s: f64,
    syns_per_s: f64,
}

fn turn(contender: Contender, args: &Args, cpu: usize) -> Result<Turn> {
    let stage = Stage::new(contender, args.family, cpu)?;
    let generator = &stage.generator;
    generator.aim(&Flood::syn(stage.server(), args.family, PORT))?;
    generator.run(Pace::FlatOut, u64::MAX, WARM_UP)?;
    let before = generator.sink()?.syn_acks;
    let sent = generator.run(Pace::FlatOut, u64::MAX, Duration::from_secs(args.seconds))?;
    let syn_acks = generator.sink()?.syn_acks - before;
    interrupt::check()?;
    let seconds = sent.elapsed.as_secs_f64();
    ensure!(
        syn_acks as f64 >= seconds * WORKS,
        "{} answered only {syn_acks} SYNs in {seconds:.1} s: it is set up wrongly for this machine",
        contender.label()
    );
    Ok(Turn {
        syn_acks_per_s: syn_acks as f64 / seconds,
        syns_per_s: sent.packets as f64 / seconds,
    })
}

fn report(turns: &[Vec<Turn>], costs: Vec<cost::Cost>, args: &Args, cpu: usize) -> Result<Report> {
    let contenders = Contender::of(args.family);
    let column = |index: usize| turns.iter().map(move |round| &round[index]);
    let place = |contender| contenders.iter().position(|&c| c == contender);
    let rates = contenders
        .iter()
        .enumerate()
        .map(|(i, &contender)| Rate {
            contender,
            syn_acks_per_s: median(column(i).map(|turn| turn.syn_acks_per_s)),
            rounds: column(i).map(|turn| turn.syn_acks_per_s).collect(),
            syns_per_s: median(column(i).map(|turn| turn.syns_per_s)),
        })
        .collect();
    let mut ratios = Vec::new();
    for of in [Contender::NetmoatAlways, Contender::NetmoatAuto] {
        for (to, must, aim) in GOALS {
            let (Some(ours), Some(theirs)) = (place(of), place(to)) else {
                continue;
            };
            // Of turns that were neighbours in time: what else runs on the machine slows both.
            let pairs = column(ours).zip(column(theirs));
            let ratio = median(pairs.map(|(a, b)| a.syn_acks_per_s / b.syn_acks_per_s));
            ratios.push(Ratio {
                of,
                to,
                ratio,
                must,
                aim,
            });
        }
    }
    Ok(Report {
        version: 1,
        kernel: uname()?.release().to_string_lossy().into_owned(),
        cpu_model: cpu_model(),
        family: args.family,
        cpu,
        seconds: args.seconds,
        rates,
        // A ratio that could not be computed is none that was reached.
        passed: ratios.iter().all(|ratio| ratio.ratio >= ratio.must),
        ratios,
        costs,
        notes: NOTES.to_vec(),
    })
}

fn family(text: &str) -> Result<u8, &'static str> {
    match text {
        "4" => Ok(4),
        "6" => Ok(6),
        _ => Err("4 or 6"),
    }
}

pub(super) fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": "))
        .map_or("unknown CPU", |(_, model)| model)
        .to_owned()
}
