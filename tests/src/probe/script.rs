//! A server that does with each connection what a test wants, however wrong.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    netns::{Door, Namespace},
    scene::patient,
};

/// A listener whose connections go to a script, each on a thread of its own, until it is dropped.
pub struct Scripted {
    address: SocketAddr,
    namespace: Door,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    /// Listens; `script` has each connection, with requests unread. A client that is gone ends it with an error.
    pub fn start(
        namespace: &Namespace,
        address: SocketAddr,
        script: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = namespace.run(|| TcpListener::bind(address)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let script = Arc::new(script);
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let script = Arc::clone(&script);
                thread::spawn(move || script(&mut patient(connection.unwrap())));
            }
        });
        Self {
            address,
            namespace: namespace.door(),
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Scripted {
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

/// The header of the next request.
///
/// # Errors
/// The client has none any more.
pub fn request(stream: &mut TcpStream) -> io::Result<String> {
    let mut header = Vec::new();
    let mut octet = [0];
    while !header.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet)?;
        header.push(octet[0]);
    }
    Ok(String::from_utf8_lossy(&header).into_owned())
}

/// Answers every request with `answer` of its header, until the client has no more or `answer` has none.
///
/// # Errors
/// The client is gone.
pub fn answers(stream: &mut TcpStream, answer: impl Fn(&str) -> Option<String>) -> io::Result<()> {
    while let Some(answer) = answer(&request(stream)?) {
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

/// Reads up to the header of the first HTTP/2 request, and says what is to be said before the answer to it.
///
/// # Errors
/// The client is gone.
pub fn http2_request(stream: &mut TcpStream) -> io::Result<()> {
    // An empty SETTINGS frame, the server's preface (RFC 9113 section 3.4).
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
    stream.read_exact(&mut [0; 24])?;
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame)?;
        let length = u64::from(u32::from_be_bytes([0, frame[0], frame[1], frame[2]]));
        io::copy(&mut stream.take(length), &mut io::sink())?;
        // HEADERS
        if frame[3] == 1 {
            return Ok(());
        }
    }
}

/// Reads until the client ends the connection.
///
/// # Errors
/// The client ends it with a reset.
pub fn until_end(stream: &mut TcpStream) -> io::Result<()> {
    io::copy(stream, &mut io::sink()).map(|_| ())
}

/// Makes the end of the connection a reset.
pub fn reset_at_end(stream: &TcpStream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(stream, sockopt::Linger, &at_once).unwrap();
}
