//! A long TCP transfer from the victim over the gateway, that tells how it goes.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    neighbors::{FAR_V4, FAR_V6, PATIENCE, Scene},
    scene::accept,
    topology::Host,
    wait,
};

/// One portion of the data; its length is a prime, so that none that is lost goes unseen.
const PORTION: usize = 1009;
/// Between two portions: 200 kB/s leave a small machine time for others.
const PAUSE: Duration = Duration::from_millis(5);
/// Without a single octet for so long, a transfer stands still. Retransmissions begin after 200 ms.
const STILL: Duration = Duration::from_millis(900);

/// An open connection with data on its way from the victim to a router with the far addresses.
pub struct Transfer {
    arrived: Arc<AtomicU64>,
    ends: [TcpStream; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Transfer {
    /// Opens a connection to the scene's gateway; data is flowing when it returns.
    pub fn start(scene: &Scene, family: u8) -> Self {
        Self::to(scene, &scene.gateway, family)
    }

    /// As [`Self::start`], to another router with the far addresses.
    pub fn to(scene: &Scene, router: &Host, family: u8) -> Self {
        let far: IpAddr = if family == 4 {
            FAR_V4.into()
        } else {
            FAR_V6.into()
        };
        let listener = router.ns.run(|| TcpListener::bind((far, 0))).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let out = scene
            .victim
            .ns
            .run(|| TcpStream::connect_timeout(&address, PATIENCE))
            .unwrap();
        let taken = accept(&listener);
        // A transfer may stand still for long.
        taken.set_read_timeout(None).unwrap();
        let arrived = Arc::new(AtomicU64::new(0));
        let ends = [&out, &taken].map(|end| end.try_clone().unwrap());
        let threads = vec![
            thread::spawn(move || send(out)),
            thread::spawn({
                let arrived = Arc::clone(&arrived);
                move || receive(taken, &arrived)
            }),
        ];
        let transfer = Self {
            arrived,
            ends,
            threads,
        };
        transfer.await_progress();
        transfer
    }

    /// Octets that have arrived as they were sent.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Whether more arrives within [`STILL`].
    pub fn flows(&self) -> bool {
        let before = self.arrived();
        wait::until("data", STILL, || self.arrived() > before).is_ok()
    }

    /// Waits until more has arrived than can have been on its way.
    pub fn await_progress(&self) {
        let before = self.arrived();
        wait::until("the transfer to go on", PATIENCE, || {
            self.arrived() >= before + 20 * PORTION as u64
        })
        .unwrap();
    }

    /// Waits until nothing arrives.
    pub fn await_standstill(&self) {
        wait::until("the transfer to stand still", PATIENCE, || !self.flows()).unwrap();
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !thread::panicking() {
                panic!("what arrived is not what was sent");
            }
        }
    }
}

fn octet(at: u64) -> u8 {
    (at % PORTION as u64 % 251) as u8
}

fn send(mut to: TcpStream) {
    let portion: Vec<u8> = (0..PORTION as u64).map(octet).collect();
    while to.write_all(&portion).is_ok() {
        thread::sleep(PAUSE);
    }
}

fn receive(mut from: TcpStream, arrived: &AtomicU64) {
    let mut buffer = [0; 1 << 14];
    // Either end shuts the connection down when the transfer is dropped.
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        let at = arrived.load(Ordering::Relaxed);
        for (offset, &got) in (at..).zip(&buffer[..len]) {
            assert_eq!(got, octet(offset), "octet {offset}");
        }
        arrived.fetch_add(len as u64, Ordering::Relaxed);
    }
}
