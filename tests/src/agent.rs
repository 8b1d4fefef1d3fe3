//! The real agent in a namespace, and its command line.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use net_common::verdict::Reason;
use net_user::{
    control::protocol::{Counters, ListenerQueues, Queues, Status},
    datapath::pin::Pins,
};
use nix::{sys::signal::Signal, unistd::Pid};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::{
    netns::Namespace,
    process::{self, Process, workspace_binary},
    topology::Host,
    wait,
};

/// Loading takes about a second optimised and several times that in a debug build on a busy machine.
const START: Duration = Duration::from_secs(30);
/// The agent may wait for the handshakes that are pending.
const STOP: Duration = Duration::from_secs(10);

/// `netmoat run` with a config and a control socket of its own; killed when dropped.
pub struct Agent {
    process: Process,
    files: Files,
}

/// What an agent needs on disk.
struct Files {
    binary: PathBuf,
    directory: TempDir,
}

/// The name of an instance that stays in the kernel without its agent. Dropped, it takes off whatever is left of it; so it
/// must outlive its agents, and the namespaces outlive it.
pub struct Instance {
    name: String,
    binary: PathBuf,
    state: TempDir,
}

impl Instance {
    /// A name that no other test has.
    ///
    /// # Errors
    /// The binary was not built, or there is no room on the disk.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            name: format!("test-{}-{number}", std::process::id()),
            binary: workspace_binary("netmoat")?,
            state: tempfile::Builder::new().prefix("netmoat-lab-").tempdir()?,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its pins.
    pub fn pins(&self) -> PathBuf {
        Pins::dir(&self.name)
    }

    /// Starts an agent of the instance on the host's interface and waits until it answers; see [`Agent::start`].
    /// Protection stays in the kernel when it ends, in whatever way, and the next start takes it over.
    ///
    /// # Errors
    /// The agent ends or stays silent; its log is in the error.
    pub fn start(&self, host: &Host, config: &str) -> Result<Agent> {
        self.launch(host, config)?.answering()
    }

    /// As [`Self::start`], with another build of the agent.
    ///
    /// # Errors
    /// See there.
    pub fn start_build(&self, binary: &Path, host: &Host, config: &str) -> Result<Agent> {
        let interfaces = [host.link.name.as_str()];
        let config = self.config(config);
        let state = Some(self.state.path());
        Agent::launch_build(binary, state, &host.ns, &interfaces, &config)?.answering()
    }

    /// Starts an agent of the instance and does not wait.
    ///
    /// # Errors
    /// See [`Agent::launch`].
    pub fn launch(&self, host: &Host, config: &str) -> Result<Agent> {
        self.launch_on(&host.ns, &[&host.link.name], config)
    }

    /// As [`Self::launch`], on interfaces of the caller's choice.
    ///
    /// # Errors
    /// See there.
    pub fn launch_on(
        &self,
        namespace: &Namespace,
        interfaces: &[&str],
        config: &str,
    ) -> Result<Agent> {
        let config = self.config(config);
        Agent::launch_in(Some(self.state.path()), namespace, interfaces, &config)
    }

    fn config(&self, config: &str) -> String {
        let keep = if config.contains("on_exit") {
            ""
        } else {
            "on_exit = \"keep\"\n"
        };
        format!("instance = {:?}\n{keep}{config}", self.name)
    }

    /// `netmoat detach`, for an instance without an agent.
    ///
    /// # Errors
    /// The binary is gone.
    pub fn detach(&self) -> Result<Output> {
        let socket = self.state.path().join("nobody.sock");
        netmoat(&self.binary, &socket, &["--instance", &self.name, "detach"])
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let done = self.detach();
        let done = done.is_ok_and(|output| output.status.success());
        if !done && !thread::panicking() {
            panic!("the instance {} cannot be taken off", self.name);
        }
    }
}

impl Files {
    fn config(&self) -> PathBuf {
        self.directory.path().join("netmoat.toml")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }
}

impl Agent {
    /// Starts the agent on the host's interface and waits until it answers. `config` is TOML without
    /// `interfaces`, `socket` and `state_dir`, such as `[syn]\nmode = "always"`. What it keeps over a restart is
    /// gone with it.
    ///
    /// # Errors
    /// The agent ends or stays silent; its log is in the error.
    pub fn start(host: &Host, config: &str) -> Result<Self> {
        Self::start_on(&host.ns, &[&host.link.name], config)
    }

    /// As [`Self::start`], on interfaces of the caller's choice.
    ///
    /// # Errors
    /// See there.
    pub fn start_on(namespace: &Namespace, interfaces: &[&str], config: &str) -> Result<Self> {
        Self::launch(namespace, interfaces, config)?.answering()
    }

    /// As [`Self::start`], with what an earlier agent has left in `state`.
    ///
    /// # Errors
    /// See there.
    pub fn start_in(state: &Path, host: &Host, config: &str) -> Result<Self> {
        Self::launch_in(Some(state), &host.ns, &[&host.link.name], config)?.answering()
    }

    fn answering(mut self) -> Result<Self> {
        let agent = &mut self;
        let answer = wait::until_some("the agent's first answer", START, || {
            if let Some(status) = agent.process.ended() {
                return Some(Err(status));
            }
            agent.status().ok().map(Ok)
        });
        match answer {
            Ok(Ok(_)) => Ok(self),
            Ok(Err(status)) => {
                let how = process::describe(status);
                bail!(
                    "the agent ended with {how} before it answered:\n{}",
                    agent.log()
                )
            }
            Err(error) => Err(error.context(format!("the agent's log:\n{}", agent.log()))),
        }
    }

    /// Starts the agent and does not wait: for agents that are to refuse. See [`Self::refusal`].
    ///
    /// # Errors
    /// The binary was not built.
    pub fn launch(namespace: &Namespace, interfaces: &[&str], config: &str) -> Result<Self> {
        Self::launch_in(None, namespace, interfaces, config)
    }

    fn launch_in(
        state: Option<&Path>,
        namespace: &Namespace,
        interfaces: &[&str],
        config: &str,
    ) -> Result<Self> {
        let binary = workspace_binary("netmoat")?;
        Self::launch_build(&binary, state, namespace, interfaces, config)
    }

    fn launch_build(
        binary: &Path,
        state: Option<&Path>,
        namespace: &Namespace,
        interfaces: &[&str],
        config: &str,
    ) -> Result<Self> {
        let files = Files {
            binary: binary.to_owned(),
            directory: tempfile::Builder::new().prefix("netmoat-lab-").tempdir()?,
        };
        // Also where the tests themselves run under a service manager.
        let on_exit = if config.contains("on_exit") {
            ""
        } else {
            "on_exit = \"detach\"\n"
        };
        let text = format!(
            "interfaces = {interfaces:?}\nsocket = {:?}\nstate_dir = {:?}\n{on_exit}{config}\n",
            files.socket(),
            state.unwrap_or(files.directory.path()),
        );
        fs::write(files.config(), text).context("the config cannot be written")?;
        let mut command = Command::new(&files.binary);
        command
            .args(["--log-level", "debug", "run", "--config"])
            .arg(files.config());
        let process = Process::start(namespace, &mut command)?;
        Ok(Self { process, files })
    }

    /// Waits for an agent that refuses to run; its exit code and log.
    ///
    /// # Errors
    /// It runs on, or was killed.
    pub fn refusal(mut self) -> Result<(i32, String)> {
        let status = self.process.wait(START).with_context(|| self.log())?;
        let code = status.code().with_context(|| process::describe(status))?;
        Ok((code, self.log()))
    }

    /// Writes another config, as [`Self::start`] takes it, which the agent reads when it is told to.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self, config: &str) -> Result<()> {
        let path = self.config();
        let written = fs::read_to_string(&path)?;
        const GIVEN: [&str; 5] = ["interfaces", "socket", "state_dir", "instance", "on_exit"];
        let given = |line: &&str| GIVEN.iter().any(|key| line.starts_with(key));
        let head: Vec<_> = written.lines().take_while(given).collect();
        fs::write(&path, format!("{}\n{config}\n", head.join("\n"))).context("no config")
    }

    /// Starts it again, with its own config file, socket and state, and waits until it answers.
    ///
    /// # Errors
    /// It ends, or stays silent.
    pub fn restart(&mut self, host: &Host) -> Result<()> {
        let mut command = Command::new(&self.files.binary);
        command
            .args(["--log-level", "debug", "run", "--config"])
            .arg(self.files.config());
        self.process = Process::start(&host.ns, &mut command)?;
        wait::until("the agent's first answer", START, || self.status().is_ok())
            .with_context(|| self.log())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Its config file.
    pub fn config(&self) -> PathBuf {
        self.files.config()
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.files.socket()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.printed()
    }

    /// `netmoat --socket … ARGS`.
    ///
    /// # Errors
    /// The binary is gone.
    pub fn netmoat(&self, args: &[&str]) -> Result<Output> {
        netmoat(&self.files.binary, &self.socket(), args)
    }

    /// `netmoat --socket … ARGS`, not started yet, with pipes.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.files.binary);
        command
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `netmoat --socket … ARGS` with something on its standard input and in its environment.
    ///
    /// # Errors
    /// The binary is gone, or does not read its input.
    pub fn netmoat_with(
        &self,
        args: &[&str],
        input: &str,
        environment: &[(&str, &str)],
    ) -> Result<Output> {
        let mut child = self
            .command(args)
            .envs(environment.iter().copied())
            .spawn()?;
        child
            .stdin
            .take()
            .context("no pipe to netmoat")?
            .write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// `netmoat status`.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn status(&self) -> Result<Status> {
        self.json("status")
    }

    /// `netmoat counters`.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn counters(&self) -> Result<Counters> {
        self.json("counters")
    }

    /// Packets that met `reason`, as enforced.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn packets(&self, reason: Reason) -> Result<u64> {
        let counters = self.counters()?;
        Ok(counters
            .enforced
            .iter()
            .find(|c| c.code == reason as u32)
            .map_or(0, |c| c.packets))
    }

    /// `netmoat queues`.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn queues(&self) -> Result<Queues> {
        self.json("queues")
    }

    /// The first listener on a port, if the agent knows one.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn listener(&self, port: u16) -> Result<Option<ListenerQueues>> {
        Ok(self
            .queues()?
            .listeners
            .into_iter()
            .find(|listener| listener.port == port))
    }

    /// Waits until the agent protects (or, with `false`, knows and leaves alone) every listener on a port.
    ///
    /// # Errors
    /// It does not in time.
    pub fn await_listener(&self, port: u16, protected: bool) -> Result<()> {
        let what = format!(
            "port {port} to be {}protected",
            if protected { "" } else { "un" }
        );
        wait::until(&what, Duration::from_secs(5), || {
            self.queues().is_ok_and(|queues| {
                let mut on_port = queues
                    .listeners
                    .iter()
                    .filter(|l| l.port == port)
                    .peekable();
                on_port.peek().is_some() && on_port.all(|l| l.protected == protected)
            })
        })
    }

    /// SIGTERM; waits for the orderly end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(STOP).with_context(|| self.log())
    }

    /// SIGKILL: the agent has no chance to clean up.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(STOP)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    fn json<T: DeserializeOwned>(&self, verb: &str) -> Result<T> {
        let output = self.netmoat(&["--output", "json", verb])?;
        // 3 is an answer too: degraded.
        ensure!(
            matches!(output.status.code(), Some(0 | 3)),
            "netmoat {verb}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("netmoat {verb} printed other JSON"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("=== agent {}\n{}", self.pid(), self.log());
            if let Ok(output) = self.netmoat(&["counters"]) {
                eprintln!("--- counters\n{}", String::from_utf8_lossy(&output.stdout));
            }
        }
    }
}

fn netmoat(binary: &Path, socket: &Path, args: &[&str]) -> Result<Output> {
    Command::new(binary)
        .arg("--socket")
        .arg(socket)
        .args(args)
        .output()
        .with_context(|| format!("{} cannot be started", binary.display()))
}
