//! A host under the real agent's protection, a client and an attacker, and the sockets between them. Made
//! for tests: whatever fails panics.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use net_common::verdict::Reason;
use nix::{
    libc,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt,
        socket, sockopt,
    },
};

use crate::{
    agent::Agent,
    flood::Flood,
    lab::{Flooding, Generator, Pace},
    netns::Namespace,
    rawtcp::RawPeer,
    topology::{Host, Lan},
    wait,
};

/// Where the protected server listens.
pub const PORT: u16 = 8080;
/// Every SYN is answered with a cookie.
pub const ALWAYS: &str = "[syn]\nmode = \"always\"";
/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The longest flood.
const FLOOD: Duration = Duration::from_secs(60);

/// Three hosts on a bridge.
pub struct Scene {
    /// The host to protect.
    pub server: Host,
    /// The honest one.
    pub client: Host,
    /// The other one.
    pub attacker: Host,
    lan: Lan,
}

impl Scene {
    /// Hosts without an agent. Answers to a flood find their way.
    #[expect(clippy::new_without_default, reason = "it makes namespaces")]
    pub fn new() -> Self {
        let lan = Lan::new().unwrap();
        let [server, client, attacker] =
            ["server", "client", "attacker"].map(|role| lan.host(role).unwrap());
        server.route_sources_via(&attacker).unwrap();
        Self {
            server,
            client,
            attacker,
            lan,
        }
    }

    /// One more host on the bridge.
    pub fn host(&self, role: &str) -> Host {
        self.lan.host(role).unwrap()
    }

    /// The bridge between the hosts; its ports are `p1` (the server's), `p2` (the client's) and `p3`.
    pub fn bridge(&self) -> &Namespace {
        self.lan.bridge()
    }

    /// Starts the agent on the server.
    pub fn protect(&self, config: &str) -> Agent {
        Agent::start(&self.server, config).unwrap()
    }

    /// A listener on [`PORT`] of the server.
    pub fn listen(&self, family: u8) -> TcpListener {
        self.server
            .ns
            .run(|| listener(self.server.at(family, PORT), 1024, false))
    }

    /// Connects the client to [`PORT`] of the server and takes the connection there: both ends, the client's
    /// first.
    pub fn connect(&self, listener: &TcpListener, family: u8) -> (TcpStream, TcpStream) {
        let out = dial(&self.client, self.server.at(family, PORT));
        (out, accept(listener))
    }

    /// A peer on the client's interface that talks to [`PORT`] of the server.
    pub fn raw(&self, family: u8) -> RawPeer {
        RawPeer::new(&self.client, &self.server, family, PORT).unwrap()
    }

    /// A flood of SYNs from anywhere to a port of the server, at a pace that leaves a small machine time
    /// for others.
    pub fn flood(&self, generator: &Generator, family: u8, port: u16) -> Flooding {
        generator
            .aim(&Flood::syn(&self.server, family, port))
            .unwrap();
        generator.start(Pace::PerSecond(5_000), FLOOD)
    }
}

/// A TCP socket of an address's family, in the namespace of the calling thread.
pub fn tcp_socket(address: SocketAddr, flags: SockFlag) -> OwnedFd {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    socket(
        family,
        SockType::Stream,
        flags | SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap()
}

/// A listener in the namespace of the calling thread.
pub fn listener(address: SocketAddr, backlog: i32, reuse_port: bool) -> TcpListener {
    let socket = tcp_socket(address, SockFlag::empty());
    setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
    setsockopt(&socket, sockopt::ReusePort, &reuse_port).unwrap();
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&socket, Backlog::new(backlog).unwrap()).unwrap();
    socket.into()
}

/// A connection from a host, patient but not endlessly.
pub fn dial(from: &Host, to: SocketAddr) -> TcpStream {
    patient(
        from.ns
            .run(|| TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap(),
    )
}

/// The next connection of a listener.
pub fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let accepted = wait::until_some("a connection to accept", PATIENCE, || {
        listener.accept().ok()
    });
    patient(accepted.unwrap().0)
}

/// Makes reads and writes end some time.
pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a word each way.
pub fn talk(one: &mut TcpStream, other: &mut TcpStream) {
    say(one, other, b"ping");
    say(other, one, b"pong");
}

/// Sends data, which must arrive as it was sent.
pub fn say(from: &mut TcpStream, to: &mut TcpStream, data: &[u8]) {
    from.write_all(data).unwrap();
    let mut heard = vec![0; data.len()];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(heard, data);
}

/// Waits until the agent has counted so many packets of a reason.
pub fn await_count(agent: &Agent, reason: Reason, at_least: u64) {
    let what = format!("{at_least} packets of {}", reason.name());
    wait::until(&what, PATIENCE, || {
        agent.packets(reason).is_ok_and(|n| n >= at_least)
    })
    .unwrap();
}

/// What must hold at the end of every test: nothing of netmoat's own went wrong, and no proven handshake was
/// refused by the kernel.
pub fn assert_sound(agent: &Agent) {
    let status = agent.status().unwrap();
    assert_eq!(status.problems, Vec::<String>::new());
    for reason in [
        Reason::Internal,
        Reason::HandshakeRefused,
        Reason::ReplyImpossible,
    ] {
        assert_eq!(agent.packets(reason).unwrap(), 0, "{}", reason.name());
    }
}

/// Octets that were sent and not acknowledged yet, a FIN among them (SIOCOUTQ, tcp(7)).
pub fn unacked(stream: &TcpStream) -> i32 {
    let mut left = 0;
    // SAFETY: the pointer is to `left`, which outlives the call.
    let result = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    left
}

/// What the kernel tells of a connection (`struct tcp_info`, linux/tcp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// [`Info::TIMESTAMPS`] and the other bits.
    pub options: u8,
    /// The peer's window scale.
    pub snd_wscale: u8,
    /// Our window scale.
    pub rcv_wscale: u8,
    /// Why TCP Fast Open gave nothing: 1 for want of a cookie, 2 when the SYN's data was not acknowledged.
    pub fastopen_client_fail: u8,
    /// The segments we send, octets without options.
    pub snd_mss: u32,
    /// The window that the peer advertised last, octets.
    pub snd_wnd: u32,
    /// Segments with data sent, repetitions among them.
    pub segments: u32,
    /// Segments sent again.
    pub repeated: u32,
}

impl Info {
    /// Bits of [`Info::options`].
    pub const TIMESTAMPS: u8 = 1;
    /// See [`Info::TIMESTAMPS`].
    pub const SACK: u8 = 2;
    /// See [`Info::TIMESTAMPS`].
    pub const WSCALE: u8 = 4;
    /// See [`Info::TIMESTAMPS`].
    pub const ECN: u8 = 8;

    /// Asks the kernel.
    pub fn of(stream: &TcpStream) -> Self {
        let mut info = [0; 232];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: the pointers are to `info` and to its length, which outlive the call.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        assert_eq!(
            len as usize,
            info.len(),
            "tcp_info up to tcpi_snd_wnd, Linux 5.4"
        );
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| info[at + i]));
        Self {
            options: info[5] & (Self::TIMESTAMPS | Self::SACK | Self::WSCALE | Self::ECN),
            snd_wscale: info[6] & 15,
            rcv_wscale: info[6] >> 4,
            fastopen_client_fail: info[7] >> 1 & 3,
            snd_mss: word(16),
            snd_wnd: word(228),
            segments: word(156),
            repeated: word(100),
        }
    }
}
