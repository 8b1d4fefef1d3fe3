//! Kernel settings that an operator had netmoat change, and what they were before: `tune.json` in the state directory.
//!
//! The file is written before a setting is changed, so that the old value is known whenever the agent is killed. The kernel
//! forgets settings at a reboot, and then so does this.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Error, Result, anyhow, bail, ensure};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc,
};
use serde::{Deserialize, Serialize};

use super::queue_sysctl::{get, set};
use crate::{
    control::queues::{Applied, Change},
    neighbor::state::{Fault, is_ours, put_aside, read_octets, replace},
};

/// Version of the file.
const VERSION: u32 = 1;
const FILE: &str = "tune.json";
/// Another value after every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// The boot in which they were set.
    boot: String,
    applied: Vec<Applied>,
}

/// Changes settings of the calling thread's network namespace, and sets them back. Blocking.
#[derive(Debug)]
pub struct Tuner {
    directory: PathBuf,
    boot: String,
    applied: Vec<Applied>,
    /// Nothing is changed without it: no other agent does so.
    lock: Option<Flock<File>>,
    problem: Option<String>,
}

impl Tuner {
    /// Reads what was set and not reverted. The directory is made if only it is missing; see [`Self::problem`] if it cannot be
    /// used, or if its file is damaged and was put aside.
    pub fn open(state_dir: &Path) -> Self {
        let mut tuner = Self {
            directory: state_dir.to_owned(),
            boot: String::new(),
            applied: Vec::new(),
            lock: None,
            problem: None,
        };
        if let Err(error) = tuner.take() {
            tuner.problem = Some(format!(
                "`netmoat tune` cannot change settings, as it could not remember what they were: {error:#}"
            ));
        }
        tuner
    }

    /// What is wrong, and what to do.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// What was set and not reverted, in the order in which it was first set.
    pub fn applied(&self) -> Vec<Applied> {
        self.applied.clone()
    }

    /// Sets each to its `to`. Gives them with their outcome, `from` being what was found.
    ///
    /// A setting that was set here before, and has not been changed by others since, keeps what it was at first for
    /// [`Self::revert`].
    ///
    /// # Errors
    /// One could not be set, or not remembered: those before it are set back, or else the message names them.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Vec<Change>> {
        self.ensure_usable()?;
        let before = self.applied.clone();
        let mut touched = Vec::new();
        let mut done = Vec::new();
        for change in changes {
            match self.apply_one(change, &mut touched) {
                Ok(change) => done.push(change),
                Err(error) => return Err(self.undo(before, touched, error)),
            }
        }
        // What was set to its first value needs no reverting.
        let count = self.applied.len();
        self.applied.retain(|entry| entry.before != entry.set);
        if self.applied.len() != count {
            self.save()?;
        }
        Ok(done)
    }

    /// Sets one, and adds what it was to `touched` before.
    fn apply_one(
        &mut self,
        change: &Change,
        touched: &mut Vec<(String, String)>,
    ) -> Result<Change> {
        let name = change.name.as_str();
        let from = get(name)?;
        let to = change.to.split_whitespace().collect::<Vec<_>>().join(" ");
        let told = |outcome: &str| Change {
            from: from.clone(),
            to: to.clone(),
            outcome: Some(outcome.to_owned()),
            ..change.clone()
        };
        if from == to {
            return Ok(told("it has this value already"));
        }
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let entry = Applied {
            name: name.to_owned(),
            before: from.clone(),
            set: to.clone(),
            at,
        };
        match self.applied.iter_mut().find(|entry| entry.name == name) {
            Some(known) if known.set == from => {
                known.set.clone_from(&to);
                known.at = at;
            }
            Some(known) => *known = entry,
            None => self.applied.push(entry),
        }
        touched.push((name.to_owned(), from.clone()));
        self.save()?;
        set(name, &to)?;
        Ok(told("set; `netmoat tune --revert` sets it back"))
    }

    /// Sets back what was touched, last first; gives `error` with what became of that.
    fn undo(
        &mut self,
        before: Vec<Applied>,
        touched: Vec<(String, String)>,
        error: Error,
    ) -> Error {
        let now = std::mem::replace(&mut self.applied, before);
        let mut failed = Vec::new();
        for (name, value) in touched.into_iter().rev() {
            let back = match get(&name) {
                Ok(now) if now == value => Ok(()),
                _ => set(&name, &value),
            };
            if let Err(error) = back {
                failed.push(format!(
                    "{name} could not be set back to {value} ({error:#})"
                ));
                self.applied.retain(|entry| entry.name != name);
                self.applied
                    .extend(now.iter().find(|entry| entry.name == name).cloned());
            }
        }
        if let Err(error) = self.save() {
            failed.push(format!("{error:#}"));
        }
        if failed.is_empty() {
            error.context("nothing was changed")
        } else {
            error.context(failed.join("; "))
        }
    }

    /// Sets everything back, last first, and forgets it. Gives what was done: `from` what was found, `to` what it is now. A
    /// setting that somebody else has changed since is left alone.
    ///
    /// # Errors
    /// Some could not be set back, and are still remembered; the others were.
    pub fn revert(&mut self) -> Result<Vec<Change>> {
        self.ensure_usable()?;
        let mut failed = Vec::new();
        let mut kept = Vec::new();
        let mut done = Vec::new();
        for entry in std::mem::take(&mut self.applied).into_iter().rev() {
            match revert_one(&entry) {
                Ok(change) => done.push(change),
                Err(error) => {
                    failed.push(format!("{error:#}"));
                    kept.insert(0, entry);
                }
            }
        }
        self.applied = kept;
        self.save()?;
        if !failed.is_empty() {
            bail!(
                "{} of {} settings could not be set back, and are still remembered: {}",
                failed.len(),
                failed.len() + done.len(),
                failed.join("; ")
            );
        }
        Ok(done)
    }

    fn ensure_usable(&self) -> Result<()> {
        ensure!(
            self.lock.is_some(),
            "{}",
            self.problem
                .as_deref()
                .unwrap_or("the state directory is not ours")
        );
        Ok(())
    }

    /// Makes the file ours, and reads it.
    fn take(&mut self) -> Result<()> {
        let shown = self.directory.display().to_string();
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).context(format!(
                    "{shown} cannot be made; make it, or name another as `state_dir` in the config"
                ));
            }
            _ => {}
        }
        check(&self.directory)?;
        self.boot = fs::read_to_string(BOOT_ID)
            .with_context(|| format!("cannot read {BOOT_ID}"))?
            .trim()
            .to_owned();
        let lock = lock(&self.directory)?;
        let path = self.directory.join(FILE);
        let read = read_octets(&path).and_then(|octets| match octets {
            Some(octets) => parse(&octets).map_err(Fault::Damaged),
            None => Ok(None),
        });
        match read {
            Ok(Some(contents)) if contents.boot == self.boot => self.applied = contents.applied,
            // The kernel has forgotten what was set before it was booted.
            Ok(_) => {}
            Err(Fault::Damaged(error)) => {
                let aside = put_aside(&path)
                    .with_context(|| format!("{} is damaged ({error:#})", path.display()))?;
                self.problem = Some(format!(
                    "{} is damaged ({error:#}), so that `netmoat tune --revert` does not know what was set before; it is kept as \
                     {}. Look there for the old values, and set them with `sysctl -w`",
                    path.display(),
                    aside.display()
                ));
            }
            Err(Fault::Unreadable(error)) => {
                return Err(error).context(format!(
                    "{} cannot be read; see why, and restart netmoat",
                    path.display()
                ));
            }
        }
        self.lock = Some(lock);
        Ok(())
    }

    fn save(&self) -> Result<()> {
        check(&self.directory)?;
        let contents = Contents {
            version: VERSION,
            boot: self.boot.clone(),
            applied: self.applied.clone(),
        };
        let text = serde_json::to_vec_pretty(&contents)?;
        replace(&self.directory, FILE, &text).with_context(|| {
            format!(
                "{} cannot be written, so that the old values could not be remembered",
                self.directory.join(FILE).display()
            )
        })
    }
}

/// Sets one back, if it is as netmoat left it.
fn revert_one(entry: &Applied) -> Result<Change> {
    let Applied {
        name,
        before,
        set: ours,
        ..
    } = entry;
    let now = get(name)?;
    let told = |to: &str, outcome: String| Change {
        name: name.clone(),
        from: now.clone(),
        to: to.to_owned(),
        why: format!("netmoat had changed it from {before} to {ours}"),
        outcome: Some(outcome),
    };
    if now == *before {
        return Ok(told(before, "it has its old value already".to_owned()));
    }
    if now != *ours {
        let outcome = format!(
            "left alone, since somebody else has set it to {now}; it was {before} before netmoat"
        );
        return Ok(told(&now, outcome));
    }
    set(name, before)?;
    Ok(told(before, "set back".to_owned()))
}

fn parse(octets: &[u8]) -> Result<Option<Contents>> {
    /// Only the version, of a file whose other contents may mean something else.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(octets)?;
    ensure!(
        version == VERSION,
        "it has version {version}, and this netmoat reads {VERSION}"
    );
    Ok(Some(serde_json::from_slice(octets)?))
}

/// Whoever can write to the directory says what settings are set back to.
fn check(directory: &Path) -> Result<()> {
    let shown = directory.display();
    let metadata = fs::metadata(directory).with_context(|| shown.to_string())?;
    ensure!(
        metadata.is_dir() && is_ours(&metadata) && metadata.mode() & 0o022 == 0,
        "{shown} is no directory that the agent alone can write to; make it one (`chown {} {shown}`, `chmod go-w {shown}`), or \
         name another as `state_dir` in the config",
        nix::unistd::geteuid()
    );
    Ok(())
}

/// One agent a file. The lock file stays behind: removing it would let two agents hold a lock each.
fn lock(directory: &Path) -> Result<Flock<File>> {
    let path = directory.join(format!("{FILE}.lock"));
    let file = File::options()
        .read(true)
        .mode(0o600)
        .custom_flags(libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .with_context(|| format!("{} cannot be made", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => anyhow!(
            "another agent keeps its state in {}; name another `state_dir` in the config of one of the two",
            directory.display()
        ),
        errno => Error::new(io::Error::from(errno)).context(path.display().to_string()),
    })
}

#[cfg(test)]
mod tests;
