//! `netmoat capture`

use std::{
    fs::OpenOptions,
    io::{self, BufWriter, IsTerminal as _, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use net_common::verdict::Action;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::output::plural;
use super::{Code, Failure, block_on, explain};
use crate::config::HumanDuration;
use crate::control::client::Client;
use crate::control::drops::{DropTotals, DroppedFrame, Drops};
use crate::drops::pcapng::Capture;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat capture -w drops.pcapng                           until Ctrl-C
  netmoat capture -w - | tshark -r - -T fields -e frame.comment
  netmoat capture -w - | wireshark -k -i -                  live
  netmoat capture -w drops.pcapng --recent --for 0s         what the agent remembers, and no more
  netmoat capture -w floods.pcapng --reason echo_request_limit --count 100 --for 10m

Frames are samples: of each reason the data path tells `[events] rate` a second (10 unless configured), and of each frame
its first 256 octets. What was left out is said at the end, and `netmoat counters` has every packet. As frames hold what
others have sent, only root and the agent's own user may capture; the file is made readable for its owner alone.";

/// How often the agent is asked: it remembers the last 1,024.
const PERIOD: Duration = Duration::from_millis(200);
/// How long the last packets may take to be written at the end.
const LAST_WRITE: Duration = Duration::from_secs(2);
/// Answers of the agent that may wait to be written. When they are full the agent is not asked, and forgets what it has
/// no room for.
const WAITING: usize = 4;

/// What to capture, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pcapng file, or `-` for standard output
    #[arg(short, long, value_name = "FILE|-")]
    write: PathBuf,
    /// Only packets dropped for this reason, by name or number; may be repeated
    #[arg(long, value_name = "NAME")]
    reason: Vec<String>,
    /// End after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, as in 30s or 10m
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<HumanDuration>,
    /// Begin with those that the agent remembers
    #[arg(long)]
    recent: bool,
}

/// What came of it.
#[derive(Debug, Default)]
struct Told {
    /// Packets handed to the writer.
    packets: u64,
    /// Times that the agent had forgotten samples before they were asked for.
    gaps: u64,
    first: Option<DropTotals>,
    last: DropTotals,
}

pub(super) fn capture(client: &Client, args: &Args) -> Result<Code, Failure> {
    let mut reasons = Vec::new();
    for text in &args.reason {
        let reason = explain::find(text)?;
        if reason.action() != Action::Drop {
            return Err(Failure::new(
                Code::Error,
                anyhow!(
                    "`{}` drops nothing, so there is nothing to capture; `netmoat explain` lists the reasons that do",
                    reason.name()
                ),
            ));
        }
        reasons.push(reason as u32);
    }
    block_on::<_, Failure>(async {
        // Before the file is touched: nothing is overwritten when nobody is there.
        let start = client.drops(u64::MAX).await?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, frames) = mpsc::channel(WAITING);
        let written = spawn_writer(open(&args.write)?, frames);
        let mut told = Told::default();
        let follow = follow(client, args, &reasons, start, sender, &mut told);
        let over = async {
            match args.duration {
                // What is remembered is asked for in any case.
                Some(duration) => sleep(duration.get().max(PERIOD)).await,
                None => std::future::pending().await,
            }
        };
        // Dropping the sender ends the writer, after what it was handed.
        tokio::select! {
            followed = follow => followed?,
            () = over => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        let written = timeout(LAST_WRITE, written).await.map_err(|_| {
            Failure::new(
                Code::Error,
                anyhow!(
                    "{} does not take what is written; the last packets are not in it",
                    args.write.display()
                ),
            )
        })?;
        let written =
            written.map_err(|_| Failure::new(Code::Error, anyhow!("the writer ended early")))??;
        tracing::info!("{}", told.summary(written));
        Ok(Code::Ok)
    })
}

/// Hands on what the agent tells until there is enough, or nobody takes it.
async fn follow(
    client: &Client,
    args: &Args,
    reasons: &[u32],
    start: Drops,
    sender: mpsc::Sender<Vec<DroppedFrame>>,
    told: &mut Told,
) -> Result<(), Failure> {
    let (mut agent, mut after) = (start.agent, if args.recent { 0 } else { start.last });
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unreachable = false;
    told.first = Some(start.totals);
    told.last = start.totals;
    loop {
        ticks.tick().await;
        let drops = match client.drops(after).await {
            Ok(drops) => drops,
            Err(error) => {
                // It was there: it may be on its way back.
                if !unreachable {
                    tracing::warn!("{error}; waiting for it to come back");
                }
                unreachable = true;
                continue;
            }
        };
        unreachable = false;
        if drops.agent != agent {
            tracing::warn!("the agent was started anew");
            (agent, after) = (drops.agent, 0);
            told.first = None;
            ticks.reset_immediately();
            continue;
        }
        // Those that were forgotten before the first look are none of ours.
        if drops.forgotten && after > 0 {
            told.gaps += 1;
        }
        after = after.max(drops.last);
        told.last = drops.totals;
        let left = args.count.map_or(u64::MAX, |count| count - told.packets);
        let wanted = drops
            .drops
            .into_iter()
            .filter(|drop| reasons.is_empty() || reasons.contains(&drop.code))
            .take(left.try_into().unwrap_or(usize::MAX));
        let wanted: Vec<_> = wanted.collect();
        let count = wanted.len() as u64;
        if count > 0 && sender.send(wanted).await.is_err() {
            // The writer has failed, and says why.
            return Ok(());
        }
        told.packets += count;
        if args.count.is_some_and(|count| told.packets >= count) {
            return Ok(());
        }
    }
}

/// Where the packets go.
fn open(path: &Path) -> Result<Box<dyn Write + Send>, Failure> {
    if path == Path::new("-") {
        if io::stdout().is_terminal() {
            return Err(Failure::new(
                Code::Error,
                anyhow!(
                    "a capture is no text for a terminal; name a file (-w drops.pcapng), or pipe it on"
                ),
            ));
        }
        return Ok(Box::new(BufWriter::new(io::stdout())));
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("{} cannot be written", path.display()))
        .map_err(|error| Failure::new(Code::Error, error))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Writes on a thread of its own, as whoever reads may be slow, and an interrupt must not wait for them.
fn spawn_writer(
    out: Box<dyn Write + Send>,
    mut frames: mpsc::Receiver<Vec<DroppedFrame>>,
) -> oneshot::Receiver<io::Result<u64>> {
    let (done, written) = oneshot::channel();
    std::thread::spawn(move || {
        let write = move || {
            let mut capture = Capture::new(out)?;
            let mut count = 0;
            while let Some(batch) = frames.blocking_recv() {
                for frame in &batch {
                    capture.write(frame)?;
                    count += 1;
                }
            }
            Ok(count)
        };
        let result = write();
        // Nobody waits any longer: then nobody is told.
        let _ = done.send(result);
    });
    written
}

impl Told {
    fn summary(&self, written: u64) -> String {
        let mut text = format!("{} written", plural(written, "packet"));
        if let Some(first) = self.first {
            let dropped = self.last.packets.saturating_sub(first.packets);
            text += &format!("; {} dropped meanwhile", plural(dropped, "packet"));
            let lost = self.last.lost.saturating_sub(first.lost);
            if lost > 0 {
                text += &format!(
                    ", of which {lost} were to be told and lost, as the agent did not keep up"
                );
            }
        }
        if self.gaps > 0 {
            text += &format!(
                "; {} the agent forgot samples before they were asked for",
                plural(self.gaps, "time")
            );
        }
        text
    }
}
