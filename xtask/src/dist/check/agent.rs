//! The agent of an installed package.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::root::Root;
use crate::process;

/// Longer than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Ended when dropped.
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts it as systemd would, which tells a service its invocation; returns when its status says that all is
    /// well.
    pub fn start(root: &Root, interface: &str) -> Result<Self> {
        let log = root.path("tmp/agent.log");
        let mut command = root.command("netmoat", &["run", "-i", interface]);
        command
            .env("INVOCATION_ID", "00000000000000000000000000000001")
            .stdin(Stdio::null())
            .stderr(File::create(&log).with_context(|| log.display().to_string())?);
        let child = command.spawn().context("the agent cannot be started")?;
        let mut agent = Self { child, log };
        let begun = Instant::now();
        loop {
            let mut status = root.command("netmoat", &["status"]);
            if process::output_of(&mut status).is_some() {
                return Ok(agent);
            }
            if let Some(code) = agent.child.try_wait()? {
                bail!("the agent ended ({code}):\n{}", agent.said());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the agent is not well:\n{}",
                agent.said()
            );
            thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Asks it to end, and waits until it did, in order.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("its process id")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("asking the agent to end")?;
        let code = self.child.wait()?;
        ensure!(
            code.success(),
            "the agent ended with {code}:\n{}",
            self.said()
        );
        fs::remove_file(&self.log).with_context(|| self.log.display().to_string())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The id of the XDP program on an interface.
pub fn program_on(interface: &str) -> Result<Option<u64>> {
    let mut ip = Command::new("ip");
    let text = process::output_of(ip.args(["-json", "link", "show", "dev", interface]));
    let text = text.with_context(|| format!("`ip link` knows no {interface}"))?;
    let links: Value = serde_json::from_str(&text).context("what `ip -json link` says")?;
    Ok(links[0]["xdp"]["prog"]["id"].as_u64())
}

/// Takes off what an agent left in force.
pub fn detach(root: &Root) -> Result<()> {
    if root.path("sys/fs/bpf/netmoat/default").exists() {
        root.run("netmoat", &["detach"])?;
    }
    Ok(())
}
