//! The client: workers that connect, fetch the page and close, again and again.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::prctl::set_timerslack;
use serde::Serialize;

use super::web;
use crate::{interrupt, netns::Door};

/// At the same time.
pub const WORKERS: u32 = 8;
/// From one start of a worker to the next, unless it is still busy. All workers together stay below the 100
/// plain handshakes a second that netmoat's default leaves to the kernel.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// When a worker gives a connection up; the same for its answer.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The page came.
    Page,
    /// No connection in time.
    ConnectTimeout,
    /// The connection was refused or there was no way there.
    ConnectError,
    /// Connected, but something else than the page came, or nothing.
    NoPage,
}

/// One connection tried.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// When it began, since the act did.
    pub begun: Duration,
    /// When it ended.
    pub ended: Duration,
    /// How long the handshake took, if it was completed.
    pub connect: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
}

/// The workers of an act.
pub struct Load {
    workers: Vec<JoinHandle<()>>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Lets them begin attempts from `start` on, for `time`. They use the CPUs of the calling thread.
    pub fn start(door: &Door, server: SocketAddr, start: Instant, time: Duration) -> Self {
        let (attempts, stop) = (Arc::default(), Arc::default());
        let workers = (0..WORKERS).map(|number| {
            let worker = Worker {
                server,
                start,
                attempts: Arc::clone(&attempts),
                stop: Arc::clone(&stop),
            };
            let (door, first) = (door.clone(), INTERVAL * number / WORKERS);
            thread::spawn(move || {
                door.enter();
                worker.work(first, time);
            })
        });
        Self {
            workers: workers.collect(),
            attempts,
            stop,
        }
    }

    /// What ended so far, from the attempt `first` on.
    pub fn ended(&self, first: usize) -> Vec<Attempt> {
        let attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.get(first..).unwrap_or_default().to_vec()
    }

    /// Waits for the attempts under way and hands over all of them.
    pub fn finish(mut self) -> Vec<Attempt> {
        for worker in self.workers.drain(..) {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        self.ended(0)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

struct Worker {
    server: SocketAddr,
    start: Instant,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn work(&self, first: Duration, time: Duration) {
        // Sleeps end when asked, not up to 50 µs later.
        let _ = set_timerslack(1);
        let page = web::page();
        let mut due = first;
        while due < time && !self.stop.load(Ordering::Relaxed) && !interrupt::requested() {
            thread::sleep(due.saturating_sub(self.start.elapsed()));
            let attempt = self.attempt(page.as_bytes());
            let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
            attempts.push(attempt);
            // Turns that were missed are not made up for.
            due = (due + INTERVAL).max(attempt.ended);
        }
    }

    fn attempt(&self, page: &[u8]) -> Attempt {
        let begun = self.start.elapsed();
        let connected = TcpStream::connect_timeout(&self.server, TIMEOUT);
        let connect = connected.is_ok().then(|| self.start.elapsed() - begun);
        let outcome = match connected {
            Ok(stream) if fetch(&stream, page) => Outcome::Page,
            Ok(_) => Outcome::NoPage,
            Err(error) if error.kind() == ErrorKind::TimedOut => Outcome::ConnectTimeout,
            Err(_) => Outcome::ConnectError,
        };
        Attempt {
            begun,
            ended: self.start.elapsed(),
            connect,
            outcome,
        }
    }
}

/// Whether the page comes. We close first, so that TIME_WAIT is ours: at the server it would let a later SYN
/// past the limits of the SYN queue (R-SYN-8).
fn fetch(mut stream: &TcpStream, page: &[u8]) -> bool {
    let mut answer = Vec::with_capacity(2048);
    let mut exchange = || -> std::io::Result<bool> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: netmoat.example\r\n\r\n")?;
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer)?;
            answer.extend_from_slice(&buffer[..read]);
            if answer.ends_with(page) {
                return Ok(answer.starts_with(b"HTTP/1.1 200 "));
            }
            // An end of the stream, or more than was asked for.
            if read == 0 || answer.len() > page.len() + 4096 {
                return Ok(false);
            }
        }
    };
    exchange().unwrap_or(false)
}
