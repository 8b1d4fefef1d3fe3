//! A server that is far away: what it is asked, it asks another, and takes its time. (Not every kernel has netem.)

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::Server;
use crate::{netns::Namespace, scene::PATIENCE};

/// How long each answer takes at least.
pub const DELAY: Duration = Duration::from_millis(700);
/// The longest question or answer, octets.
const LONGEST: usize = 4096;

/// Relays UDP until it is dropped.
pub struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Stands at the addresses of `near` for `far`.
    pub fn start(ns: &Namespace, near: Server, far: Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = [4, 6].map(|family| {
            let socket = ns.run(|| UdpSocket::bind((near.ip(family), 53))).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let (stop, door) = (Arc::clone(&stop), ns.door());
            thread::spawn(move || {
                door.enter();
                let socket = Arc::new(socket);
                while !stop.load(Ordering::Relaxed) {
                    let mut question = vec![0; LONGEST];
                    let Ok((len, from)) = socket.recv_from(&mut question) else {
                        continue;
                    };
                    question.truncate(len);
                    let socket = Arc::clone(&socket);
                    thread::spawn(move || {
                        // The delay itself is what this is for.
                        thread::sleep(DELAY);
                        if let Some(answer) = ask(far, &question) {
                            let _ = socket.send_to(&answer, from);
                        }
                    });
                }
            })
        });
        Self {
            stop,
            threads: threads.into(),
        }
    }
}

fn ask(far: Server, question: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((far.v4(), 0)).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.send_to(question, (far.v4(), 53)).ok()?;
    let mut answer = vec![0; LONGEST];
    let len = socket.recv(&mut answer).ok()?;
    answer.truncate(len);
    Some(answer)
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
