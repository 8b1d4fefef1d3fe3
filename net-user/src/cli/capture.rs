//! `netmoat capture`

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufWriter, IsTerminal as _, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use nix::{libc::O_NOFOLLOW, unistd::geteuid};
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
  netmoat capture -w drops.pcapng --recent --for 0s   what is remembered only
  netmoat capture -w floods.pcapng --reason blocked --count 100 --for 10m

Frames are samples: of each reason the data path tells `[events] rate` a
second (10 unless configured), and of each frame its first 256 octets. What
was left out is said at the end, and `netmoat counters` has every packet. As
frames hold what others have sent, only root and the agent's own user may
capture; the file is made readable for its owner alone. One that exists is
left alone without --force, and a symbolic link is not followed.";

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
    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
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
    /// What the agent said last; none before the first.
    before: Option<DropTotals>,
    /// Of all that was dropped meanwhile.
    meanwhile: DropTotals,
}

pub(super) fn capture(client: &Client, args: &Args) -> Result<Code, Failure> {
    let reasons: Result<Vec<_>, Failure> = args
        .reason
        .iter()
        .map(|text| Ok(explain::find_drop(text)? as u32))
        .collect();
    let reasons = reasons?;
    block_on::<_, Failure>(async {
        // Before the file is touched: nothing is overwritten when nobody is there.
        let start = client.drops(u64::MAX).await?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, frames) = mpsc::channel(WAITING);
        let written = spawn_writer(open(&args.write, args.force)?, frames);
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
            written.map_err(|_| Failure::new(Code::Error, anyhow!("the writer ended early")))?;
        let written = written
            .with_context(|| format!("{} takes no more", args.write.display()))
            .map_err(|error| Failure::new(Code::Error, error))?;
        tracing::info!("{}", told.summary(written, !reasons.is_empty()));
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
    told.before = Some(start.totals);
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
            // Its programs, and so their counters, began anew too.
            told.before = Some(DropTotals::default());
            ticks.reset_immediately();
            continue;
        }
        // Those that were forgotten before the first look are none of ours.
        if drops.forgotten && after > 0 {
            told.gaps += 1;
        }
        after = after.max(drops.last);
        told.add(drops.totals);
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
fn open(path: &Path, force: bool) -> Result<Box<dyn Write + Send>, Failure> {
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
    let file = open_file(path, force)
        .with_context(|| format!("{} cannot be written", path.display()))
        .map_err(|error| Failure::new(Code::Error, error))?;
    Ok(Box::new(BufWriter::new(file)))
}

/// A file that nobody else may read, and that was not there unless it is to be overwritten; or a pipe or device as it
/// is.
fn open_file(path: &Path, force: bool) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    // Who may write to the directory must not choose where frames go, by a link put there meanwhile.
    options.write(true).mode(0o600).custom_flags(O_NOFOLLOW);
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(options.create_new(true).open(path)?);
        }
        found => found?,
    };
    if found.is_symlink() {
        bail!("it is a symbolic link, and those are not followed; name the file that it points to");
    }
    if found.is_file() && !force {
        bail!("it exists already; `--force` overwrites it, or name another");
    }
    let file = options.open(path)?;
    let opened = file.metadata()?;
    if opened.is_file() {
        let (owner, own) = (opened.uid(), geteuid().as_raw());
        if owner != own {
            bail!("it belongs to uid {owner}, who could read it; remove it, or name another");
        }
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.set_len(0)?;
    }
    Ok(file)
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
    fn add(&mut self, now: DropTotals) {
        let before = self.before.replace(now).unwrap_or(now);
        let meanwhile = &mut self.meanwhile;
        for (sum, now, before) in [
            (&mut meanwhile.packets, now.packets, before.packets),
            (&mut meanwhile.told, now.told, before.told),
            (&mut meanwhile.lost, now.lost, before.lost),
            (
                &mut meanwhile.not_sampled,
                now.not_sampled,
                before.not_sampled,
            ),
        ] {
            *sum = sum.saturating_add(now.saturating_sub(before));
        }
    }

    /// `some`: whether only packets of some reasons were written.
    fn summary(&self, written: u64, some: bool) -> String {
        let all = &self.meanwhile;
        let mut text = format!(
            "{} written; {} dropped meanwhile",
            plural(written, "packet"),
            plural(all.packets, "packet")
        );
        if some {
            text += ", for whatever reason";
        }
        if all.not_sampled > 0 {
            text += &format!(", {} left out by the rate", all.not_sampled);
        }
        if all.lost > 0 {
            text += &format!(", {} lost, as the agent did not keep up", all.lost);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_capture_is_its_owners_alone_and_overwrites_nothing_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old, link) = (
            dir.path().join("new"),
            dir.path().join("old"),
            dir.path().join("link"),
        );
        open_file(&new, false).unwrap();
        assert_eq!(mode(&new), 0o600);
        fs::write(&old, "precious").unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
        symlink(&old, &link).unwrap();
        for (path, force, words) in [
            (&old, false, "`--force` overwrites it"),
            (&link, false, "symbolic link"),
            (&link, true, "symbolic link"),
        ] {
            let error = open_file(path, force).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert_eq!(fs::read_to_string(&old).unwrap(), "precious");
            assert_eq!(mode(&old), 0o644);
        }
        open_file(&old, true).unwrap();
        assert_eq!(
            (mode(&old), fs::read_to_string(&old).unwrap().as_str()),
            (0o600, "")
        );
        // A device stays as it is.
        let before = mode(Path::new("/dev/full"));
        open_file(Path::new("/dev/full"), false).unwrap();
        assert_eq!(mode(Path::new("/dev/full")), before);
    }

    #[test]
    fn what_was_left_out_is_summed_up_over_a_new_start_of_the_agent() {
        let totals = |packets, lost| DropTotals {
            packets,
            told: 10,
            lost,
            not_sampled: packets - lost - 10,
        };
        let mut told = Told {
            before: Some(totals(1000, 5)),
            ..Told::default()
        };
        told.add(totals(1500, 7));
        told.before = Some(DropTotals::default());
        told.add(totals(200, 0));
        assert_eq!(
            told.summary(3, false),
            "3 packets written; 700 packets dropped meanwhile, 688 left out by the rate, 2 lost, as the agent did not keep up"
        );
        assert_eq!(
            Told::default().summary(1, true),
            "1 packet written; 0 packets dropped meanwhile, for whatever reason"
        );
    }
}
