//! `netmoat-lab app`: an application in a process of its own, which behaves as badly as a test wants.

use std::{
    ffi::CString,
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use nix::{
    libc,
    sys::{
        prctl,
        signal::{SigSet, Signal},
    },
};

use crate::{
    netns::Namespace,
    process::{Process, workspace_binary},
    scene::{PATIENCE, listener},
    wait,
};

/// What it prints once clients can connect, or have.
const READY: &str = "ready";
/// Threads that wait for their client's end need next to no stack.
const STACK: usize = 64 * 1024;

/// An application that listens, and what it does with its connections
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where it listens
    #[arg(long)]
    listen: SocketAddr,
    /// How many ports, from that one on
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// Its name, as `ps` shows it
    #[arg(long, default_value = "app")]
    name: String,
    /// The backlog it asks for
    #[arg(long, default_value_t = 128)]
    backlog: i32,
    /// One of a reuseport group
    #[arg(long)]
    reuse_port: bool,
    /// TCP_DEFER_ACCEPT, in seconds
    #[arg(long)]
    defer_accept: Option<i32>,
    /// Accept nothing before SIGUSR1
    #[arg(long)]
    stuck: bool,
    /// Rest so many milliseconds after each accept
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// Accept all there are, each so many milliseconds, as an event loop does
    #[arg(long, conflicts_with = "pace_ms")]
    round_ms: Option<u64>,
    /// What becomes of a connection
    #[arg(long, value_enum, default_value_t = Then::Follow)]
    then: Then,
    /// Close so many milliseconds after the client did
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
}

/// What becomes of a connection that was accepted.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Then {
    /// Closed at once, before the client does.
    Close,
    /// Closed after the client closed.
    Follow,
    /// Never closed.
    Keep,
}

/// Runs the application, until it is killed.
///
/// # Errors
/// The address cannot be bound, or the kernel refuses a connection.
pub fn run(args: &Args) -> Result<ExitCode> {
    prctl::set_name(&CString::new(args.name.as_str())?).context("the name cannot be set")?;
    let go: SigSet = [Signal::SIGUSR1].into_iter().collect();
    // Before clients can come: whoever sees them may send it.
    go.thread_block()?;
    let mut listeners = Vec::new();
    for port in args.listen.port()..args.listen.port() + args.ports {
        let at = SocketAddr::new(args.listen.ip(), port);
        let listener = listener(at, args.backlog, args.reuse_port);
        if let Some(seconds) = args.defer_accept {
            defer_accept(&listener, seconds)?;
        }
        listeners.push(listener);
    }
    println!("{READY}");
    if args.stuck {
        go.wait()?;
    }
    thread::scope(|scope| {
        let serving = listeners.iter().map(|l| scope.spawn(|| serve(l, args)));
        let serving: Vec<_> = serving.collect();
        for thread in serving {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Takes what comes, for good.
fn serve(listener: &TcpListener, args: &Args) -> Result<()> {
    let mut kept = Vec::new();
    listener.set_nonblocking(args.round_ms.is_some())?;
    loop {
        match listener.accept() {
            Ok((connection, _)) => {
                connection.set_nonblocking(false)?;
                args.take(connection, &mut kept)?;
                thread::sleep(Duration::from_millis(args.pace_ms));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(args.round_ms.unwrap_or(1)));
            }
            // The client was gone first.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error).context("nothing can be accepted"),
        }
    }
}

impl Args {
    fn take(&self, mut connection: TcpStream, kept: &mut Vec<TcpStream>) -> Result<()> {
        match self.then {
            Then::Close => drop(connection),
            Then::Keep => kept.push(connection),
            Then::Follow => {
                let linger = Duration::from_millis(self.linger_ms);
                let follow = move || {
                    let mut buffer = [0; 1024];
                    while matches!(connection.read(&mut buffer), Ok(1..)) {}
                    thread::sleep(linger);
                };
                let builder = thread::Builder::new().stack_size(STACK);
                builder.spawn(follow).context("no thread")?;
            }
        }
        Ok(())
    }
}

fn defer_accept(listener: &TcpListener, seconds: i32) -> Result<()> {
    // SAFETY: the pointer is to `seconds`, whose size is given and which outlives the call.
    let set = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    ensure!(
        set == 0,
        "TCP_DEFER_ACCEPT: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Clients that connect and stay
#[derive(Debug, clap::Args)]
pub struct ClientArgs {
    /// Where they connect to
    #[arg(long)]
    to: SocketAddr,
    /// How many ports, from that one on
    #[arg(long)]
    ports: u16,
    /// Connections to each port
    #[arg(long)]
    each: usize,
}

/// Connects, and stays until it is killed.
///
/// # Errors
/// A connection is refused.
pub fn stay(args: &ClientArgs) -> Result<ExitCode> {
    let mut held = Vec::new();
    for port in args.to.port()..args.to.port() + args.ports {
        for _ in 0..args.each {
            held.push(TcpStream::connect(SocketAddr::new(args.to.ip(), port))?);
        }
    }
    println!("{READY}");
    loop {
        thread::park();
    }
}

/// `netmoat-lab clients` in a namespace; they leave when this is dropped.
///
/// # Panics
/// They cannot all connect.
pub fn clients(namespace: &Namespace, to: SocketAddr, ports: u16, each: usize) -> Process {
    let mut command = Command::new(workspace_binary("netmoat-lab").unwrap());
    let [ports, each] = [usize::from(ports), each].map(|n| n.to_string());
    command.args([
        "clients",
        "--to",
        &to.to_string(),
        "--ports",
        &ports,
        "--each",
        &each,
    ]);
    let mut process = Process::start(namespace, &mut command).unwrap();
    wait::until("all clients to connect", PATIENCE, || {
        assert!(process.ended().is_none(), "{}", process.printed());
        process.printed().contains(READY)
    })
    .unwrap();
    process
}

/// `netmoat-lab app` in a namespace; killed when dropped. Made for tests: whatever fails panics.
pub struct Application {
    process: Process,
    name: String,
}

impl Application {
    /// Starts it under a name, with options in words such as `--backlog 4 --stuck`, and waits until it listens.
    pub fn start(namespace: &Namespace, name: &str, at: SocketAddr, options: &str) -> Self {
        let mut command = Command::new(workspace_binary("netmoat-lab").unwrap());
        command
            .args(["app", "--name", name, "--listen", &at.to_string()])
            .args(options.split_whitespace());
        let mut process = Process::start(namespace, &mut command).unwrap();
        wait::until("the application to listen", PATIENCE, || {
            assert!(process.ended().is_none(), "{}", process.printed());
            process.printed().contains(READY)
        })
        .unwrap();
        Self {
            process,
            name: name.to_owned(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid().as_raw().cast_unsigned()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on one that was `--stuck` accepts.
    pub fn unstick(&self) {
        self.process.signal(Signal::SIGUSR1).unwrap();
    }
}
