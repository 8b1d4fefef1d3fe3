//! TCP: the handshake, over IPv6 and IPv4 as browsers race them, and what it agreed on.

mod info;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, time::timeout};

pub use self::info::{Silence, TcpInfo, TcpState};
use super::{Facts, Finding, Layer, Lines, Outcome, Stage, Walk};

/// The details of a handshake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpFacts {
    /// Our end.
    pub local: Option<SocketAddr>,
    /// Who answered.
    pub remote: Option<SocketAddr>,
}

impl TcpFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        Vec::new()
    }
}

/// An established connection.
pub struct Connection {
    /// Its octets.
    pub stream: TcpStream,
    /// Its state, which can be looked at whoever owns the octets by then.
    pub socket: Arc<Socket>,
}

/// A second descriptor of a connection's socket. It keeps the socket from being closed, not from being shut down.
pub struct Socket {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    fd: OwnedFd,
}

impl Socket {
    /// What the kernel tells of it now. To be asked before the connection is given up for good: afterwards it is CLOSED.
    ///
    /// # Errors
    /// The kernel refuses; it does so for no TCP socket.
    pub fn info(&self) -> io::Result<TcpInfo> {
        TcpInfo::of(&self.fd)
    }

    /// Whether the other end acknowledges nothing any more of what was sent, and sent again. `None` while it answers: if no data
    /// comes then, the host is alive and what listens there says nothing.
    pub fn silence(&self) -> Option<Silence> {
        Silence::of(&self.info().ok()?)
    }
}

impl Connection {
    /// From a connected stream.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let socket = Arc::new(Socket {
            local: stream.local_addr()?,
            remote: stream.peer_addr()?,
            fd: stream.as_fd().try_clone_to_owned()?,
        });
        Ok(Self { stream, socket })
    }

    /// One more connection to the same end, for what a second one shows.
    pub async fn again(remote: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect(remote).await?)
    }
}

/// Connects to the first of the addresses that answers.
pub async fn connect(walk: &Walk<'_>, addresses: &[SocketAddr]) -> (Stage, Option<Connection>) {
    let start = walk.now_us();
    let tried = timeout(walk.plan.timeout, TcpStream::connect(addresses)).await;
    let connection = tried
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .and_then(Connection::new);
    let times = walk.since(start);
    let stage = |summary: String, findings, facts| {
        Stage::new(Layer::Tcp, times, summary, findings, Facts::Tcp(facts))
    };
    match connection {
        Ok(connection) => {
            let facts = TcpFacts {
                local: Some(connection.socket.local),
                remote: Some(connection.socket.remote),
            };
            let summary = format!("connected to {}", connection.socket.remote);
            (stage(summary, Vec::new(), facts), Some(connection))
        }
        Err(error) => {
            let finding = Finding::new("tcp_failed", Outcome::Failed, error.to_string());
            let stage = stage("no connection".into(), vec![finding], TcpFacts::default());
            (stage, None)
        }
    }
}
