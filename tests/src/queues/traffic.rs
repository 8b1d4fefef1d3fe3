//! Clients, as many as a test wants and as fast.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{SockFlag, SockaddrStorage, bind, connect},
};

use crate::{scene::tcp_socket, topology::Host};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(5);

/// What clients do, again and again.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where they go, each of them to all.
    pub to: Vec<SocketAddr>,
    /// The addresses they come from, in turn; empty for the host's own choice.
    pub from: Vec<IpAddr>,
    /// How many come at once.
    pub burst: u32,
    /// Time from one burst to the next.
    pub every: Duration,
    /// How long after its start a client leaves.
    pub stay: Duration,
}

impl Plan {
    /// So many clients a second, evenly, each of which stays for a tenth of a second.
    pub fn steady(to: &[SocketAddr], per_second: u32) -> Self {
        Self {
            to: to.to_vec(),
            from: Vec::new(),
            burst: 1,
            every: Duration::from_secs(1) / per_second,
            stay: Duration::from_millis(100),
        }
    }
}

/// Clients under way on a thread of their own; dropping it sends them away.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    /// Starts them on a host.
    pub fn start(host: &Host, plan: Plan) -> Self {
        let (stop, made) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (door, stopped, count) = (host.ns.door(), Arc::clone(&stop), Arc::clone(&made));
        let thread = thread::spawn(move || {
            door.enter();
            run(&plan, &stopped, &count);
        });
        Self {
            stop,
            made,
            thread: Some(thread),
        }
    }

    /// Connections begun so far.
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Ends it; how many connections were begun.
    pub fn stop(mut self) -> u64 {
        self.end();
        self.made()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(plan: &Plan, stop: &AtomicBool, made: &AtomicU64) {
    let mut sources = plan.from.iter().copied().cycle();
    let mut clients: VecDeque<(Instant, OwnedFd)> = VecDeque::new();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        while clients
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) >= plan.stay)
        {
            clients.pop_front();
        }
        while due <= now {
            due += plan.every;
            for _ in 0..plan.burst {
                let source = sources.next();
                for &to in &plan.to {
                    clients.push_back((now, begin(source, to)));
                    made.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        thread::sleep(TICK.min(due.saturating_duration_since(Instant::now())));
    }
}

/// A connection in the making, from the namespace of the calling thread.
fn begin(from: Option<IpAddr>, to: SocketAddr) -> OwnedFd {
    let socket = tcp_socket(to, SockFlag::SOCK_NONBLOCK);
    if let Some(from) = from {
        bind(
            socket.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(from, 0)),
        )
        .unwrap();
    }
    let begun = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    assert!(
        matches!(begun, Ok(()) | Err(Errno::EINPROGRESS)),
        "{begun:?}"
    );
    socket
}

/// So many connections that a host begins at once; they may be in the making still.
pub fn crowd(host: &Host, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    host.ns
        .run(|| (0..count).map(|_| begin(None, to).into()).collect())
}

/// Gives a host so many more addresses of a family, and returns them.
pub fn addresses(host: &Host, family: u8, count: u8) -> Vec<IpAddr> {
    let address = |n: u8| -> IpAddr {
        if family == 4 {
            [198, 18, 0, 200 - n].into()
        } else {
            [0x2001, 2, 0, 0, 0, 0, 1, n.into()].into()
        }
    };
    let len = if family == 4 { 24 } else { 64 };
    let all: Vec<_> = (1..=count).map(address).collect();
    let lines: String = all
        .iter()
        .map(|a| format!("addr add {a}/{len} dev {}\n", host.link.name))
        .collect();
    host.ns.ip(&lines).unwrap();
    all
}
