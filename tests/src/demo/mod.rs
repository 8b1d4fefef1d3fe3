//! The demo: what a client sees of a server under a SYN flood, first with the kernel alone, then behind netmoat;
//! what a ping flood makes of a host, and what a neighbour that lies can do to it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::{
    acts::{ACTS, Act},
    cpus::Cpus,
    figures::{Played, Results},
    live::Live,
    machine::Machine,
    stage::Stage,
    watch::{Fates, Reading},
};
use crate::{interrupt, lab::Pace, wait};

mod acts;
mod chart;
mod client;
mod cpus;
mod echo;
mod figures;
mod live;
mod machine;
mod report;
mod spoof;
mod stage;
mod summary;
mod watch;
pub mod web;

/// How long a flood may outlast its act: the client's last attempts take up to twice 3 s.
const OUTLAST: Duration = Duration::from_secs(30);

/// Options of the demo.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  netmoat-lab demo                          seven acts, about three minutes
  netmoat-lab demo --seconds 5 --no-gate    a glance
  netmoat-lab demo --rate 100000 --json -   half the flood; figures as JSON on standard output

Exit code: 0 all criteria hold, 1 one does not or an error, 130 interrupted.")]
pub struct Args {
    /// SYNs a second of the flood
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=2_000_000))]
    rate: u32,
    /// Length of each act, seconds
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(3..=120))]
    seconds: u32,
    /// Where the report goes
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/netmoat/demo-report.html"
    )]
    report: PathBuf,
    /// Also write the figures as JSON; `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also write the report's plot as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Only show: a criterion that does not hold is no failure
    #[arg(long)]
    no_gate: bool,
}

/// Plays all acts, shows them, writes the report and judges.
///
/// # Errors
/// Not root, something is missing, or Ctrl-C was pressed; everything is cleaned up.
pub fn run(args: &Args) -> Result<ExitCode> {
    let cpus = Cpus::find()?;
    let machine = Machine::describe(&cpus)?;
    // Threads and processes for other CPUs are moved there; this one only watches.
    cpus.watch()?;
    let json_to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let mut live = Live::new(json_to_stdout);
    live.say(&summary::scene(&machine, args.rate));
    let mut stage = Stage::new(cpus)?;
    let mut acts = Vec::new();
    for (i, act) in ACTS.iter().enumerate() {
        live.announce(i + 1, ACTS.len() + 2, act);
        stage.prepare(act)?;
        acts.push(play(&mut stage, act, args, &mut live)?);
    }
    stage.close()?;
    let last = acts.len() + 2;
    live.say(&summary::echo_announcement(last - 1, last));
    let echo = echo::play()?;
    live.say(&summary::echo(&echo));
    live.say(&summary::spoof_announcement(last));
    let spoof = spoof::play()?;
    live.say(&summary::spoof(&spoof));
    let mut criteria = figures::judge(&acts, args.rate);
    criteria.extend(echo::judge(&echo));
    criteria.extend(spoof::judge(&spoof));
    let results = Results {
        version: figures::VERSION,
        machine,
        rate: args.rate,
        seconds: args.seconds,
        client_rate: f64::from(client::WORKERS) / client::INTERVAL.as_secs_f64(),
        acts,
        echo,
        spoof,
        criteria,
    };
    live.say(&summary::closing(&results));
    write(&args.report, &report::html(&results))?;
    if let Some(path) = &args.svg {
        write(path, &chart::picture(&results))?;
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&results)? + "\n";
        if json_to_stdout {
            print!("{json}");
        } else {
            write(path, &json)?;
        }
    }
    let report = args
        .report
        .canonicalize()
        .unwrap_or_else(|_| args.report.clone());
    live.say(&format!("Report: {}", report.display()));
    let passed = args.no_gate || results.criteria.iter().all(|criterion| criterion.passed);
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Plays an act: the flood begins half a second before the client and goes on until the client's last attempt
/// has ended.
fn play(stage: &mut Stage, act: &Act, args: &Args, live: &mut Live) -> Result<Played> {
    let length = Duration::from_secs(args.seconds.into());
    let fates = Fates::read(stage)?;
    let pace = Pace::PerSecond(args.rate);
    let flooding = act
        .flood
        .then(|| stage.generator.start(pace, length + OUTLAST));
    if act.flood {
        // Its first SYNs fill the SYN queue and expire together, seconds later; client's retransmissions,
        // whole seconds after its start, must not meet just that moment each time.
        let half = stage.generator.generated()? + u64::from(args.rate / 2);
        let generator = &stage.generator;
        wait::until("the flood", Duration::from_secs(10), || {
            generator.generated().is_ok_and(|sent| sent >= half)
        })?;
    }
    let start = Instant::now();
    let load = stage.load(start, length)?;
    let first = Reading::take(stage)?;
    let (mut last, mut shown, mut rows) = (first, 0, Vec::new());
    for second in 1..=args.seconds {
        let end = start + Duration::from_secs(second.into());
        thread::sleep(end.saturating_duration_since(Instant::now()));
        interrupt::check()?;
        let reading = Reading::take(stage)?;
        let row = (reading.since(&last), watch::queues(stage)?);
        let ended = load.ended(shown);
        shown += ended.len();
        live.second(second, &row, &ended);
        rows.push(row);
        last = reading;
    }
    // While the flood still comes.
    let said = watch::said(stage)?;
    let attempts = load.finish();
    if let Some(flooding) = flooding {
        flooding.stop()?;
    }
    let fates = Fates::read(stage)?.since(&fates);
    let mut played = Played::new(*act, &attempts, (last.since(&first), &rows), fates, length);
    played.said = said;
    live.done(&played);
    Ok(played)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("{} cannot be made", directory.display()))?;
    }
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
