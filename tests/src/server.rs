//! A small TCP server in a namespace: greets each connection and closes it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::Namespace;

/// What the server says.
const BANNER: &[u8] = b"netmoat laboratory\n";

/// Accepts at once and speaks first, until it is dropped.
pub struct Server {
    address: SocketAddr,
    namespace: crate::netns::Door,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on an address of the namespace (port 0 for any).
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace
            .run(|| TcpListener::bind(address))
            .with_context(|| format!("{address} cannot be bound"))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A client that is gone already is its own affair.
                let _ = connection.and_then(|mut c| c.write_all(BANNER));
            }
        });
        Ok(Self {
            address,
            namespace: namespace.door(),
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let address = self.address;
        // Wakes accept(); if even that fails, the thread ends with the test's process.
        let woken = self
            .namespace
            .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok());
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// One honest visit from a namespace: connects, and reads the banner to the end.
///
/// # Errors
/// No connection within `timeout`, or another banner.
pub fn visit(from: &Namespace, to: SocketAddr, timeout: Duration) -> Result<()> {
    from.run(|| visit_from_here(to, timeout))
}

/// As [`visit`], from the namespace of the calling thread.
///
/// # Errors
/// See there.
pub fn visit_from_here(to: SocketAddr, timeout: Duration) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    ensure!(text == BANNER, "the server said {text:?}");
    Ok(())
}
