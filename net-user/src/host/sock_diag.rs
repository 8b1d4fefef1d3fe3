//! TCP sockets as inet_diag tells them (`net/ipv4/inet_diag.c`, `net/ipv4/tcp_diag.c`).
//!
//! A dump is no snapshot: sockets that come or go while the kernel walks its tables may be missed or
//! seen twice. What inet_diag does not tell of a listener: TCP_MAXSEG (`tcp_get_info` returns early in
//! LISTEN), TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP, TCP_FASTOPEN, TCP-AO keys.

use anyhow::{Context, Result};
use netlink_bindings::inet_diag::{IterableReplyAttrs, Msg, ReqV2, Request, TcpState};
use netlink_bindings::utils::find_attr;
use netlink_socket2::NetlinkSocket;
use nix::libc;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `INET_DIAG_INFO` as a bit of `idiag_ext`. It brings `tcp_info` and, for CAP_NET_ADMIN, the
/// auxiliary attributes: the upper-layer protocol and the MD5 keys (`tcp_diag_get_aux`).
const EXT_INFO: u8 = 1 << (2 - 1);
/// `INET_DIAG_SKMEMINFO` as a bit of `idiag_ext`.
const EXT_SKMEMINFO: u8 = 1 << (7 - 1);
const INET_DIAG_SKV6ONLY: u16 = 11;
/// Places in the `u32` array of `INET_DIAG_SKMEMINFO` (`linux/sock_diag.h`).
const SK_MEMINFO_RCVBUF: usize = 1;
const SK_MEMINFO_DROPS: usize = 8;

const fn bit(state: TcpState) -> u32 {
    1 << state as u32
}

/// Every state of a socket that holds a full tuple. The kernel adds NEW_SYN_RECV to SYN_RECV by itself
/// (`inet_diag_dump_icsk`).
const CONNECTED: u32 = bit(TcpState::Established)
    | bit(TcpState::SynSent)
    | bit(TcpState::SynRecv)
    | bit(TcpState::FinWait1)
    | bit(TcpState::FinWait2)
    | bit(TcpState::TimeWait)
    | bit(TcpState::CloseWait)
    | bit(TcpState::LastAck)
    | bit(TcpState::Closing);

/// States from the end of the handshake to the end of the connection.
const OPEN: u32 = bit(TcpState::Established)
    | bit(TcpState::FinWait1)
    | bit(TcpState::FinWait2)
    | bit(TcpState::CloseWait)
    | bit(TcpState::LastAck)
    | bit(TcpState::Closing);
/// `idiag_timer` of a socket that only remembers a connection (`inet_twsk_diag_fill`, `net/ipv4/inet_diag.c`).
const TIMER_OF_TIME_WAIT: u8 = 3;

/// A TCP socket in LISTEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSocket {
    /// Family of the *socket*, 4 or 6. A socket of family 6 takes IPv4 too unless [`Self::v6only`].
    pub family: u8,
    /// Bound address; unspecified for a wildcard listener. A mapped address (`::ffff:a.b.c.d`) is told
    /// as IPv4.
    pub address: IpAddr,
    /// Bound port.
    pub port: u16,
    /// SO_BINDTODEVICE; 0 for any interface.
    pub ifindex: u32,
    /// Inode of the socket, as `/proc/PID/fd` shows it.
    pub inode: u32,
    /// Owner.
    pub uid: u32,
    /// SO_COOKIE: unique for the life of the host, so a reused port is told apart.
    pub cookie: u64,
    /// IPV6_V6ONLY; false for family 4.
    pub v6only: bool,
    /// Connections that wait for `accept()` (`sk_ack_backlog`).
    pub accept_queue: u32,
    /// `min(backlog, somaxconn)`; the queue holds one more (R-Q-1).
    pub accept_limit: u32,
    /// `sk_rcvbuf`, octets: twice what SO_RCVBUF asked for, else `tcp_rmem[1]`.
    pub rcvbuf: u32,
    /// `sk_drops`: segments dropped at this socket, ListenDrops among them.
    pub drops: u32,
    /// An MPTCP listener, which `bpf_sk_assign_tcp_reqsk` refuses (R-SYN-7): the upper-layer protocol
    /// is "mptcp". Told to CAP_NET_ADMIN only.
    pub mptcp: bool,
    /// Holds TCP-MD5 keys (RFC 2385). Told to CAP_NET_ADMIN only.
    pub md5: bool,
}

impl ListenSocket {
    /// Whether the next connection finds the accept queue full (`sk_acceptq_is_full`; R-SYN-14).
    pub fn accept_queue_is_full(&self) -> bool {
        self.accept_queue > self.accept_limit
    }
}

/// An established TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The address at the other end.
    pub peer: IpAddr,
    /// The port here.
    pub local_port: u16,
    /// Inode of the socket; 0 while nobody has accepted it.
    pub inode: u32,
}

/// A blocking inet_diag handle: call it from a blocking thread.
///
/// Its socket belongs to the network namespace of the thread that opened it. After a failed dump a new
/// one is opened by the thread that asks next.
pub struct Diag {
    socket: NetlinkSocket,
}

impl Diag {
    /// Opens a handle in the calling thread's network namespace, by a first dump.
    pub fn open() -> Result<Self> {
        let mut diag = Self {
            socket: NetlinkSocket::new(),
        };
        diag.listeners()?;
        Ok(diag)
    }

    /// Every listener of both families. Walks the hash of listeners only, so the cost is bounded by
    /// their number.
    pub fn listeners(&mut self) -> Result<Vec<ListenSocket>> {
        let mut listeners = Vec::new();
        self.dump(
            bit(TcpState::Listen),
            EXT_INFO | EXT_SKMEMINFO,
            |message, attributes| {
                listeners.push(listener(message, &attributes));
            },
        )?;
        Ok(listeners)
    }

    /// Half-open connections (request sockets and SYN_RECV) per local port (R-Q-6). Walks the hash of
    /// all connections, whose length peers control: at most every 5 s.
    pub fn syn_recv_by_port(&mut self) -> Result<HashMap<u16, u32>> {
        let mut counts = HashMap::new();
        self.dump(
            bit(TcpState::SynRecv) | bit(TcpState::NewSynRecv),
            0,
            |message, _| {
                *counts.entry(message.sockid.sport()).or_default() += 1;
            },
        )?;
        Ok(counts)
    }

    /// Remote address and local port of every TCP socket that holds a full tuple, SYN_SENT, request
    /// sockets and TIME_WAIT included: the sources for which a SYN needs a socket look-up (R-SYN-8).
    pub fn peers(&mut self) -> Result<Vec<(IpAddr, u16)>> {
        let mut peers = Vec::new();
        self.dump(CONNECTED, 0, |message, _| {
            peers.push((
                address(message.family, &message.sockid.dst),
                message.sockid.sport(),
            ));
        })?;
        Ok(peers)
    }

    /// Remote and local address of every connection that is open; what is in TIME_WAIT, and a FIN_WAIT2 that nobody
    /// owns any more, is over. Walks the hash of all connections, whose length peers control: at most every 5 s.
    pub fn open_connections(&mut self) -> Result<Vec<(IpAddr, IpAddr)>> {
        let mut open = Vec::new();
        self.dump(OPEN, 0, |message, _| {
            if message.timer != TIMER_OF_TIME_WAIT {
                let (family, id) = (message.family, &message.sockid);
                open.push((address(family, &id.dst), address(family, &id.src)));
            }
        })?;
        Ok(open)
    }

    /// Every established connection. Walks the hash of all connections.
    pub fn established(&mut self) -> Result<Vec<Connection>> {
        let mut connections = Vec::new();
        self.dump(bit(TcpState::Established), 0, |message, _| {
            connections.push(Connection {
                peer: address(message.family, &message.sockid.dst),
                local_port: message.sockid.sport(),
                inode: message.inode,
            });
        })?;
        Ok(connections)
    }

    /// Dumps the TCP sockets in `states` of both families; the kernel wants a request for each.
    fn dump(
        &mut self,
        states: u32,
        ext: u8,
        mut each: impl FnMut(&Msg, IterableReplyAttrs<'_>),
    ) -> Result<()> {
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let header = ReqV2 {
                family,
                protocol: libc::IPPROTO_TCP as u8,
                ext,
                states,
                ..ReqV2::default()
            };
            let request = Request::new().op_tcp_diag_dump(&header);
            let result = self.socket.request(&request).and_then(|mut reply| {
                while let Some(entry) = reply.recv() {
                    let (message, attributes) = entry?;
                    each(&message, attributes);
                }
                Ok(())
            });
            match result {
                // A kernel without IPv6 has no handler for its sockets (`sock_diag_rcv_msg`).
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => {
                    // A dump cut short would leave the socket busy.
                    self.socket = NetlinkSocket::new();
                    return Err(error).context("cannot list the TCP sockets through inet_diag");
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

fn listener(message: &Msg, attributes: &IterableReplyAttrs<'_>) -> ListenSocket {
    let memory = attributes.get_skmeminfo().unwrap_or_default();
    ListenSocket {
        family: if i32::from(message.family) == libc::AF_INET6 {
            6
        } else {
            4
        },
        address: address(message.family, &message.sockid.src),
        port: message.sockid.sport(),
        ifindex: message.sockid.r#if,
        inode: message.inode,
        uid: message.uid,
        cookie: u64::from_ne_bytes(message.sockid.cookie),
        // The kernel sends an octet, 0 or 1; `get_skv6only` of the binding takes it for a bare flag.
        v6only: find_attr(attributes.get_buf(), INET_DIAG_SKV6ONLY) == Some(&[1]),
        accept_queue: message.rqueue,
        accept_limit: message.wqueue,
        rcvbuf: word(memory, SK_MEMINFO_RCVBUF),
        drops: word(memory, SK_MEMINFO_DROPS),
        mptcp: attributes
            .get_ulp_info()
            .and_then(|info| info.get_name())
            .is_ok_and(|name| name == c"mptcp"),
        md5: attributes.get_md5sig().is_ok(),
    }
}

fn address(family: u8, words: &[u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = *words;
    if i32::from(family) == libc::AF_INET6 {
        Ipv6Addr::from(*words).to_canonical()
    } else {
        Ipv4Addr::new(a, b, c, d).into()
    }
}

/// The `index`th `u32` of an attribute; 0 where the kernel is too old to send it.
fn word(attribute: &[u8], index: usize) -> u32 {
    attribute
        .as_chunks()
        .0
        .get(index)
        .copied()
        .map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sysctl::{TcpSettings, advertised};
    use crate::host::testing::{in_netns, run};
    use nix::errno::Errno;
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, sockopt};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    fn only(listeners: &[ListenSocket], port: u16) -> &ListenSocket {
        let mut found = listeners.iter().filter(|listener| listener.port == port);
        let listener = found.next().expect("the listener is listed");
        assert!(found.next().is_none(), "listed once");
        listener
    }

    fn listen(fd: OwnedFd, address: &str, backlog: i32) -> TcpListener {
        let address: SocketAddr = address.parse().expect("an address");
        socket::bind(fd.as_raw_fd(), &socket::SockaddrStorage::from(address)).expect("bind");
        socket::listen(&fd, socket::Backlog::new(backlog).expect("a backlog")).expect("listen");
        TcpListener::from(fd)
    }

    fn tcp(family: AddressFamily) -> OwnedFd {
        socket::socket(family, SockType::Stream, SockFlag::empty(), None).expect("socket")
    }

    #[test]
    fn listeners_are_told_with_address_queue_buffer_and_family() {
        in_netns(|| {
            let small = tcp(AddressFamily::Inet);
            socket::setsockopt(&small, sockopt::RcvBuf, &8192).expect("SO_RCVBUF");
            let _small = listen(small, "127.0.0.1:1001", 7);
            let _dual = listen(tcp(AddressFamily::Inet6), "[::]:1002", 1);
            let v6only = tcp(AddressFamily::Inet6);
            socket::setsockopt(&v6only, sockopt::Ipv6V6Only, &true).expect("IPV6_V6ONLY");
            let _v6only = listen(v6only, "[::1]:1003", 1);
            let bound = tcp(AddressFamily::Inet);
            socket::setsockopt(&bound, sockopt::BindToDevice, &"lo".into())
                .expect("SO_BINDTODEVICE");
            let _bound = listen(bound, "0.0.0.0:1004", 1);
            let _mapped = listen(tcp(AddressFamily::Inet6), "[::ffff:127.0.0.1]:1005", 1);

            let listeners = Diag::open()
                .and_then(|mut diag| diag.listeners())
                .expect("a dump");
            assert_eq!(listeners.len(), 5);
            let small = only(&listeners, 1001);
            assert_eq!(
                (small.family, small.address),
                (4, Ipv4Addr::LOCALHOST.into())
            );
            assert_eq!(
                (small.accept_queue, small.accept_limit, small.rcvbuf),
                (0, 7, 16384)
            );
            assert!(small.inode != 0 && small.cookie != 0 && !small.mptcp && !small.md5);
            let dual = only(&listeners, 1002);
            assert_eq!(
                (dual.family, dual.address, dual.v6only),
                (6, Ipv6Addr::UNSPECIFIED.into(), false)
            );
            let v6only = only(&listeners, 1003);
            assert_eq!(
                (v6only.address, v6only.v6only),
                (Ipv6Addr::LOCALHOST.into(), true)
            );
            assert_eq!(only(&listeners, 1004).ifindex, 1);
            assert_eq!(
                only(&listeners, 1005).address,
                IpAddr::from(Ipv4Addr::LOCALHOST)
            );
        });
    }

    #[test]
    fn a_full_accept_queue_is_seen() {
        in_netns(|| {
            let server = listen(tcp(AddressFamily::Inet), "127.0.0.1:1001", 2);
            let mut diag = Diag::open().expect("a handle");
            let mut clients = Vec::new();
            for waiting in 1..=3 {
                clients.push(TcpStream::connect("127.0.0.1:1001").expect("connect"));
                let listener = only(&diag.listeners().expect("a dump"), 1001).clone();
                assert_eq!((listener.accept_queue, listener.accept_limit), (waiting, 2));
                assert_eq!(
                    listener.accept_queue_is_full(),
                    waiting == 3,
                    "R-Q-1: backlog 2 holds 3"
                );
            }
            drop(server.accept().expect("accept"));
            assert!(!only(&diag.listeners().expect("a dump"), 1001).accept_queue_is_full());
        });
    }

    #[test]
    fn open_connections_are_told_until_they_are_over() {
        in_netns(|| {
            let server = TcpListener::bind("127.0.0.1:1001").expect("bind");
            let mut diag = Diag::open().expect("a handle");
            assert_eq!(diag.open_connections().expect("a dump"), []);
            let client = TcpStream::connect("127.0.0.1:1001").expect("connect");
            let accepted = server.accept().expect("accept");
            let own = IpAddr::from(Ipv4Addr::LOCALHOST);
            // Both ends are this host's.
            assert_eq!(diag.open_connections().expect("a dump"), [(own, own); 2]);
            // Half closed is open.
            drop(client);
            assert_eq!(diag.open_connections().expect("a dump").len(), 2);
            drop(accepted);
            assert_eq!(diag.open_connections().expect("a dump"), []);
        });
    }

    #[test]
    fn mptcp_listeners_are_told_apart() {
        in_netns(|| {
            for (family, address) in [
                (libc::AF_INET, "127.0.0.1:1001"),
                (libc::AF_INET6, "[::]:1002"),
            ] {
                // SAFETY: `socket` takes three integers and touches no memory of ours.
                let fd = unsafe { libc::socket(family, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) };
                assert!(fd >= 0, "a kernel with MPTCP");
                // SAFETY: `fd` was just opened, is valid, and nothing else owns it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                let _listener = listen(fd, address, 1);
                let listeners = Diag::open()
                    .and_then(|mut diag| diag.listeners())
                    .expect("a dump");
                assert_eq!(listeners.len(), 1);
                assert!(listeners[0].mptcp, "{listeners:?}");
            }
        });
    }

    #[test]
    fn md5_keys_set_before_or_after_listen_are_seen() {
        in_netns(|| {
            let listener = listen(tcp(AddressFamily::Inet), "127.0.0.1:1001", 1);
            let mut diag = Diag::open().expect("a handle");
            assert!(!only(&diag.listeners().expect("a dump"), 1001).md5);
            set_md5_key(&listener);
            assert!(only(&diag.listeners().expect("a dump"), 1001).md5);
        });
    }

    fn set_md5_key(listener: &TcpListener) {
        // struct tcp_md5sig (linux/tcp.h): a sockaddr_storage of 128 octets, flags, prefix length,
        // key length, ifindex, key.
        let mut signature = [0u8; 216];
        signature[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        signature[4..8].copy_from_slice(&[192, 0, 2, 1]);
        signature[130..132].copy_from_slice(&3u16.to_ne_bytes());
        signature[136..139].copy_from_slice(b"key");
        // SAFETY: the pointer and the length describe `signature`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_MD5SIG,
                signature.as_ptr().cast(),
                signature.len() as u32,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    #[test]
    fn peers_cover_syn_sent_half_open_established_mapped_and_time_wait() {
        in_netns(|| {
            run("ip", "addr add 192.0.2.1/24 dev lo");
            let dual = listen(tcp(AddressFamily::Inet6), "[::]:1001", 8);
            let client = TcpStream::connect("192.0.2.1:1001").expect("connect");
            let accepted = dual.accept().expect("accept").0;
            let local = client.local_addr().expect("an address");
            let mut diag = Diag::open().expect("a handle");
            let own: IpAddr = "192.0.2.1".parse().expect("an address");
            let both = vec![(own, 1001), (own, local.port())];
            let mut established = diag.peers().expect("a dump");
            established.sort_by_key(|peer| peer.1);
            assert_eq!(established, both, "the mapped server side is told as IPv4");
            drop(client);
            drop(accepted);
            assert_eq!(
                diag.peers().expect("a dump"),
                [(own, local.port())],
                "TIME_WAIT"
            );
        });
    }

    #[test]
    fn half_open_connections_are_counted_by_port_and_told_as_peers() {
        in_netns(|| {
            // SYN-ACKs are lost on their way out, so that connections stay half-open.
            run("nft", "add table inet lab");
            run(
                "nft",
                "add chain inet lab out { type filter hook output priority 0 ; }",
            );
            run(
                "nft",
                "add rule inet lab out tcp flags & (syn|ack) == (syn|ack) drop",
            );
            let _server = listen(tcp(AddressFamily::Inet6), "[::]:1001", 8);
            let clients = [
                ("127.0.0.1:1001", AddressFamily::Inet),
                ("[::1]:1001", AddressFamily::Inet6),
            ];
            let _clients = clients.map(|(address, family)| {
                let flags = SockFlag::SOCK_NONBLOCK;
                let client = socket::socket(family, SockType::Stream, flags, None).expect("socket");
                let address: SocketAddr = address.parse().expect("an address");
                let address = socket::SockaddrStorage::from(address);
                assert_eq!(
                    socket::connect(client.as_raw_fd(), &address),
                    Err(Errno::EINPROGRESS)
                );
                client
            });
            let mut diag = Diag::open().expect("a handle");
            assert_eq!(
                diag.syn_recv_by_port().expect("a dump"),
                HashMap::from([(1001, 2)])
            );
            let peers = diag.peers().expect("a dump");
            assert_eq!(peers.len(), 4, "SYN_SENT and half-open of each: {peers:?}");
            for own in [
                IpAddr::from(Ipv4Addr::LOCALHOST),
                IpAddr::from(Ipv6Addr::LOCALHOST),
            ] {
                assert!(peers.contains(&(own, 1001)), "{peers:?}");
            }
        });
    }

    /// What a client was told in the SYN-ACK: `tcp_info` keeps the last window and the scale.
    #[test]
    fn the_kernel_advertises_what_sysctl_advertised_computes() {
        in_netns(|| {
            let settings = TcpSettings::read().expect("settings");
            let mut diag = Diag::open().expect("a handle");
            let mut port = 1000;
            for (mtu, address, headers) in [
                (1500, "127.0.0.1", 40),
                (1500, "[::1]", 60),
                (9000, "127.0.0.1", 40),
                (9000, "[::1]", 60),
            ] {
                run("ip", &format!("link set lo mtu {mtu}"));
                for buffer in [None, Some(1024), Some(8192), Some(40_000), Some(1 << 20)] {
                    port += 1;
                    let address: SocketAddr =
                        format!("{address}:{port}").parse().expect("an address");
                    let family = if address.is_ipv4() {
                        AddressFamily::Inet
                    } else {
                        AddressFamily::Inet6
                    };
                    let server = tcp(family);
                    if let Some(buffer) = buffer {
                        socket::setsockopt(&server, sockopt::RcvBuf, &buffer).expect("SO_RCVBUF");
                    }
                    let _server = listen(server, &address.to_string(), 1);
                    let _client = TcpStream::connect(address).expect("connect");
                    let rcvbuf = only(&diag.listeners().expect("a dump"), port).rcvbuf;
                    let mut told = None;
                    diag.dump(
                        bit(TcpState::Established),
                        EXT_INFO,
                        |message, attributes| {
                            if message.sockid.dport() == port {
                                let info = attributes.get_tcp_info().expect("tcp_info");
                                told = Some((info.snd_wnd, info.snd_wscale()));
                            }
                        },
                    )
                    .expect("a dump");
                    let (window, scale) = advertised(&settings, rcvbuf, mtu - headers);
                    assert_eq!(
                        told,
                        Some((u32::from(window), scale)),
                        "MTU {mtu}, SO_RCVBUF {buffer:?}"
                    );
                }
            }
        });
    }
}
