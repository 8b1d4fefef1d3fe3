//! A small web site whose connections end as the test wants it.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{self, MsgFlags, setsockopt, sockopt},
};

use crate::{netns::Namespace, scene};

/// What it says.
const TEXT: &str = "it works\n";
/// Longest wait for a client.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// When the client closes; the server follows.
    Client,
    /// The server says `Connection: close` and closes after the first answer.
    Server,
    /// The server resets it after the first answer has arrived.
    Reset,
    /// When the client closes; the server keeps its side until it is dropped.
    Never,
}

/// Serves until it is dropped.
pub struct Site {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Listens on an address of a namespace; answers each request with a page of so many octets at least.
    pub fn start(ns: &Namespace, at: SocketAddr, end: End, size: usize) -> Self {
        let listener = ns.run(|| scene::listener(at, 64, false));
        let accepting = listener.try_clone().unwrap();
        let text = TEXT.repeat(size / TEXT.len() + 1);
        let thread = thread::spawn(move || {
            let mut kept = Vec::new();
            // Ends when the listener is shut down.
            while let Ok((stream, _)) = accepting.accept() {
                let kept_here = (end == End::Never).then(|| stream.try_clone().unwrap());
                kept.extend(kept_here);
                let text = text.clone();
                // A client that goes away ends its thread, and so does the patience with it.
                thread::spawn(move || drop(serve(stream, end, &text)));
            }
        });
        Self {
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // On a listener this makes accept() fail (`inet_csk_listen_stop`); an error would mean it has ended already.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, end: End, text: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    while let Some(request) = request(&mut stream)? {
        let close = match end {
            End::Server => "Connection: close\r\n",
            _ => "",
        };
        let (status, more, body) = match request.split(' ').next() {
            Some("GET") => ("200 OK", "", text),
            Some("HEAD") => ("200 OK", "", ""),
            Some("OPTIONS") => ("204 No Content", "Allow: GET, HEAD, OPTIONS\r\n", ""),
            _ => (
                "405 Method Not Allowed",
                "Allow: GET, HEAD, OPTIONS\r\n",
                "",
            ),
        };
        let length = match status {
            "204 No Content" => String::new(),
            "200 OK" => format!("Content-Length: {}\r\n", text.len()),
            _ => "Content-Length: 0\r\n".to_owned(),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n{more}{close}{length}\r\n{body}"
        );
        if end == End::Server {
            // The FIN goes with the answer: one that came after it would race the client's.
            let more = MsgFlags::from_bits_retain(libc::MSG_MORE);
            let sent = socket::send(stream.as_raw_fd(), answer.as_bytes(), more)?;
            assert_eq!(sent, answer.len(), "an empty send buffer takes it whole");
            stream.shutdown(Shutdown::Write)?;
        } else {
            stream.write_all(answer.as_bytes())?;
        }
        match end {
            End::Client | End::Never => {}
            End::Server => {
                // Until the client's FIN is there; closing before would reset.
                let _ = stream.read(&mut [0; 512])?;
                return Ok(());
            }
            End::Reset => {
                crate::wait::until("the answer to be acknowledged", PATIENCE, || {
                    scene::unacked(&stream) == 0
                })
                .map_err(std::io::Error::other)?;
                let at_once = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, sockopt::Linger, &at_once)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The next request without a body; `None` when the client has closed.
fn request(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut text = Vec::new();
    let mut octet = [0];
    while !text.ends_with(b"\r\n\r\n") && text.len() < 16 << 10 {
        if stream.read(&mut octet)? == 0 {
            return Ok(None);
        }
        text.push(octet[0]);
    }
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}
