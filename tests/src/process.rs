//! Processes that end with their owner.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::NamedTempFile;

use crate::{netns::Namespace, wait};

/// A process in a namespace; killed when dropped. What it prints is kept.
pub struct Process {
    child: Child,
    printed: NamedTempFile,
}

impl Process {
    /// Starts it, without standard input.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(namespace: &Namespace, command: &mut Command) -> Result<Self> {
        let printed = NamedTempFile::new().context("no temporary file for what it prints")?;
        command
            .stdin(Stdio::null())
            .stdout(printed.reopen()?)
            .stderr(printed.reopen()?);
        Ok(Self {
            child: namespace.spawn(command)?,
            printed,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it has printed so far, on both outputs.
    pub fn printed(&self) -> String {
        fs::read(self.printed.path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // An error would mean that someone else has waited for our child.
        self.child
            .try_wait()
            .expect("our own child can be waited for")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal)
            .with_context(|| format!("{signal} reaches process {} no more", self.pid()))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("the end of process {}", self.pid());
        wait::until_some(&what, timeout, || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary `name` of this workspace, built in the profile of the running program.
///
/// # Errors
/// It was not built; the error has the command.
pub fn workspace_binary(name: &str) -> Result<PathBuf> {
    let own = env::current_exe().context("the running program has no path")?;
    // Tests lie in `deps`, programs one above.
    let directory = own
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps"))
        .unwrap_or(Path::new("."));
    let binary = directory.join(name);
    if !binary.is_file() {
        let release = if directory.ends_with("release") {
            " --release"
        } else {
            ""
        };
        bail!(
            "{} is missing: run `cargo build{release} --bin {name}`",
            binary.display()
        );
    }
    Ok(binary)
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => status.to_string(),
    }
}
