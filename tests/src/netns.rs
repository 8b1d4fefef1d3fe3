//! Network namespaces with names of their own, gone when dropped.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Where iproute2 keeps the names.
const NAMES: &str = "/run/netns";
/// What all names of ours begin with; the creator's process id follows.
const PREFIX: &str = "nmt-";

/// A network namespace. Its name tells the role, so that `ip netns` shows what a test was at.
pub struct Namespace {
    name: String,
    door: Door,
}

/// A way into a namespace, which it does not keep alive by name.
#[derive(Clone)]
pub struct Door(Arc<File>);

impl Door {
    /// Runs `work` on a thread of its own inside the namespace. Sockets that it opens stay there; so do
    /// processes that it starts. A panic in it goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) {
        setns(&*self.0, CloneFlags::CLONE_NEWNET)
            .expect("root may enter a namespace it holds open");
    }
}

impl Namespace {
    /// Makes a namespace with its loopback interface up and no address but the loopback ones.
    ///
    /// # Errors
    /// Not root, or iproute2 is missing.
    pub fn new(role: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        succeed(Command::new("ip").args(["netns", "add", &name]))
            .context("a network namespace cannot be made (are you root?)")?;
        let path = Path::new(NAMES).join(&name);
        let door = match File::open(&path) {
            Ok(file) => Door(Arc::new(file)),
            Err(error) => {
                delete(&name);
                return Err(error).context(format!("{} cannot be opened", path.display()));
            }
        };
        let namespace = Self { name, door };
        namespace.ip("link set lo up")?;
        // Addresses are usable at once, and nobody is asked for routers.
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv6.conf.{scope}.accept_dad"), "0")?;
            namespace.sysctl(&format!("net.ipv6.conf.{scope}.accept_ra"), "0")?;
            namespace.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), "0")?;
        }
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `nsenter --net=` takes.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// A way in that can be kept elsewhere.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// See [`Door::run`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.door.run(work)
    }

    /// Starts a process inside. Only the network differs: /sys and bpffs stay, unlike with `ip netns exec`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.run(|| command.spawn())
            .with_context(|| format!("{} cannot be started", command.get_program().display()))
    }

    /// Runs a program inside to its end and returns what it printed.
    ///
    /// # Errors
    /// The program cannot be started or fails; the error carries its standard error.
    pub fn succeed(&self, command: &mut Command) -> Result<String> {
        self.run(|| succeed(command))
    }

    /// Runs lines of `ip -batch`, such as `addr add 192.0.2.1/24 dev eth0`.
    ///
    /// # Errors
    /// A line fails.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.feed(Command::new("ip").args(["-batch", "-"]), lines)
    }

    /// Loads rules into nftables.
    ///
    /// # Errors
    /// A rule fails, or nftables is missing.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.feed(Command::new("nft").args(["-f", "-"]), rules)
    }

    /// Sets a sysctl of the namespace, such as `net.ipv4.tcp_syncookies`.
    ///
    /// # Errors
    /// There is none of that name, or it refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name);
        self.run(|| fs::write(path, value))
            .with_context(|| format!("sysctl {name} takes no {value}"))
    }

    /// Reads a sysctl of the namespace.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn read_sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name);
        let value = self
            .run(|| fs::read_to_string(path))
            .with_context(|| format!("sysctl {name} cannot be read"))?;
        Ok(value.trim().to_owned())
    }

    /// What a person would look at first: addresses, sockets, counters.
    pub fn describe(&self) -> String {
        let mut text = format!("=== namespace {} ===\n", self.name);
        for words in [
            &["ip", "-statistics", "address"][..],
            &["ip", "neighbour"],
            &["ss", "--summary"],
            &["ss", "--tcp", "--all", "--numeric", "--extended"],
            &["nstat", "--ignore", "--noupdate"],
        ] {
            let shown = self
                .succeed(Command::new(words[0]).args(&words[1..]))
                .unwrap_or_else(|error| format!("{error:#}\n"));
            text += &format!("--- {}\n{shown}", words.join(" "));
        }
        text
    }

    fn feed(&self, command: &mut Command, input: &str) -> Result<()> {
        let name = command.get_program().to_owned();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        let mut stdin = child.stdin.take().context("no pipe to the program")?;
        // A program that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{} in {}: {}\n{input}",
                name.display(),
                self.name,
                said.trim_end()
            );
        }
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.describe());
        }
        delete(&self.name);
    }
}

fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Runs a program to its end; what it printed, or what it said of its failure.
fn succeed(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be started", name.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}: {} ({})",
            name.display(),
            said.trim_end(),
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn delete(name: &str) {
    // On the way out nothing can be done about a failure; the next run sweeps.
    let _ = succeed(Command::new("ip").args(["netns", "delete", name]));
}

/// Removes namespaces whose makers were killed.
fn sweep() {
    let Ok(names) = fs::read_dir(NAMES) else {
        return;
    };
    for name in names
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let maker = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            delete(&name);
        }
    }
}
