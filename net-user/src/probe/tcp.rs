//! TCP: the handshake, over IPv6 and IPv4 as browsers race them, and what it agreed on.

mod attempt;
mod info;
mod judge;
mod look_back;
mod race;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::Arc,
};

use nix::sys::socket::{Shutdown, getsockopt, shutdown, sockopt::TcpCongestion};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

pub use self::{
    attempt::{Attempt, End, Icmp},
    info::{Silence, TcpInfo, TcpState},
    look_back::{accept_queue_full, look_back},
};
use super::{Facts, Layer, Lines, Stage, Walk};

/// How many addresses are tried at most. A hostile name server may give hundreds.
pub const MOST_ADDRESSES: usize = 16;

/// The details of a handshake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpFacts {
    /// Our end.
    pub local: Option<SocketAddr>,
    /// Who answered.
    pub remote: Option<SocketAddr>,
    /// Every attempt, in the order of their beginning.
    pub attempts: Vec<Attempt>,
    /// The connection right after the handshake.
    pub info: Option<Box<TcpInfo>>,
    /// The same after a later stage has failed.
    pub afterwards: Option<Box<TcpInfo>>,
    /// The congestion control of our side.
    pub congestion_control: Option<String>,
}

impl TcpFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        let mut lines: Lines = self.attempts.iter().map(judge::line).collect();
        if let Some(info) = &self.info {
            lines.extend(agreed(info));
        }
        if let Some(name) = &self.congestion_control {
            lines.push(("congestion control".into(), name.escape_debug().to_string()));
        }
        if let Some(info) = &self.afterwards {
            let text = format!(
                "{}, {} segments without an acknowledgement, {} sent again, {} octets received",
                info.state.name(),
                info.unacked,
                info.total_retransmits,
                info.bytes_received
            );
            lines.push(("in the end".into(), text));
        }
        lines
    }
}

/// What the handshake agreed on.
fn agreed(info: &TcpInfo) -> Lines {
    let mut options = Vec::new();
    for (has, name) in [
        (info.timestamps, "timestamps".to_owned()),
        (info.sack, "SACK".to_owned()),
        (
            info.window_scaling,
            format!(
                "window scale {} there, {} here",
                info.send_window_scale, info.receive_window_scale
            ),
        ),
        (info.ecn, "ECN".to_owned()),
        (info.syn_data, "Fast Open".to_owned()),
    ] {
        if has {
            options.push(name);
        }
    }
    let options = match options.is_empty() {
        true => "none".to_owned(),
        false => options.join(", "),
    };
    vec![
        ("options".into(), options),
        (
            "segments".into(),
            format!(
                "{} octets sent, {} offered, path MTU {}",
                info.send_mss, info.advertised_mss, info.path_mtu
            ),
        ),
        (
            "round trip".into(),
            format!(
                "{} ± {}",
                judge::seconds(info.rtt_us.into()),
                judge::seconds(info.rtt_variation_us.into())
            ),
        ),
    ]
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

    /// Sends our FIN, if that has not been done.
    pub(super) fn shut(&self) {
        // A connection that is over already refuses, which is as good.
        let _ = shutdown(self.fd.as_raw_fd(), Shutdown::Write);
    }

    /// The congestion control of our side.
    fn congestion_control(&self) -> Option<String> {
        let name = getsockopt(&self.fd, TcpCongestion).ok()?;
        Some(name.to_string_lossy().trim_end_matches('\0').to_owned())
    }
}

impl Connection {
    /// From a connected stream.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        // As browsers do: otherwise a request behind the preface of HTTP/2 waits for an acknowledgment, which is delayed.
        stream.set_nodelay(true)?;
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
    (walk.progress)("connecting");
    let start = walk.now_us();
    let addresses = addresses.get(..MOST_ADDRESSES).unwrap_or(addresses);
    let race = race::race(walk, addresses, walk.plan.checks).await;
    let times = (start, race.decided_us.saturating_sub(start));
    let mut facts = TcpFacts {
        attempts: race.attempts,
        ..TcpFacts::default()
    };
    let connection = race
        .winner
        .and_then(|stream| match Connection::new(stream) {
            Ok(connection) => Some(connection),
            Err(error) => {
                // Reset before it could be looked at.
                for attempt in &mut facts.attempts {
                    if attempt.end == End::Connected {
                        attempt.end = attempt::end(&error, None);
                        attempt.error = Some(error.to_string());
                    }
                }
                None
            }
        });
    let mut full = None;
    let summary = match &connection {
        Some(connection) => {
            let socket = &connection.socket;
            facts.local = Some(socket.local);
            facts.remote = Some(socket.remote);
            facts.info = socket.info().ok().map(Box::new);
            facts.congestion_control = socket.congestion_control();
            format!("connected to {}", socket.remote)
        }
        None => {
            for attempt in &facts.attempts {
                if let (End::NoAnswer, Some(source)) = (attempt.end, attempt.source) {
                    let local = SocketAddr::new(source, 0);
                    full = full.or(look_back::full_here(local, attempt.remote).await);
                }
            }
            "no connection".to_owned()
        }
    };
    let findings = judge::findings(&facts.attempts, full.as_ref(), walk.plan.slow.tcp);
    let stage = Stage::new(Layer::Tcp, times, summary, findings, Facts::Tcp(facts));
    (stage, connection)
}
