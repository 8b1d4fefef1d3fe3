//! TCP sockets as inet_diag tells them (`net/ipv4/inet_diag.c`, `net/ipv4/tcp_diag.c`).
//!
//! A dump is no snapshot: sockets that come or go while the kernel walks its tables may be missed or
//! seen twice. What inet_diag does not tell of a listener: TCP_MAXSEG (`tcp_get_info` returns early in
//! LISTEN), TCP_DEFER_ACCEPT, TCP_WINDOW_CLAMP, TCP_FASTOPEN, TCP-AO keys.

use anyhow::{Context, Result};
use netlink_bindings::inet_diag::{IterableReplyAttrs, Msg, ReqV2, Request, Sockid, TcpState};
use netlink_bindings::utils::find_attr;
use netlink_socket2::NetlinkSocket;
use nix::libc;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;

/// `INET_DIAG_INFO` as a bit of `idiag_ext`. It brings `tcp_info` and, for CAP_NET_ADMIN, the
/// auxiliary attributes: the upper-layer protocol and the MD5 keys (`tcp_diag_get_aux`).
pub(super) const EXT_INFO: u8 = 1 << (2 - 1);
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
pub(super) const CONNECTED: u32 = bit(TcpState::Established)
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
pub(super) const TIMER_OF_TIME_WAIT: u8 = 3;

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

    /// Whether it takes what comes to an address of this host.
    pub fn takes(&self, target: SocketAddr) -> bool {
        let bound = SocketAddr::new(self.address, self.port);
        takes(bound, self.family == 6 && !self.v6only, target)
    }
}

/// Whether a listener bound to an address takes what comes to `target`, an address of its host, on any interface (`compute_score`,
/// Linux 6.12 net/ipv4/inet_hashtables.c). `dual_stack`: if it is bound to all of IPv6, IPv4 too.
pub fn takes(bound: SocketAddr, dual_stack: bool, target: SocketAddr) -> bool {
    let (own, ip) = (bound.ip().to_canonical(), target.ip().to_canonical());
    let family = own.is_ipv4() == ip.is_ipv4() || (own.is_ipv6() && dual_stack);
    bound.port() == target.port() && (own == ip || (own.is_unspecified() && family))
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
/// Its socket belongs to the network namespace of the thread that opened it. After a dump that failed or was cut short a new
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

    /// Whether a connection is remembered in TIME_WAIT, by an entry that takes no full socket. The kernel walks the hash of
    /// all connections for it, but tells only those of the two ports.
    pub fn is_in_time_wait(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<bool> {
        let mut ports = Sockid::new();
        ports.set_sport(local.port());
        ports.set_dport(remote.port());
        let mut found = false;
        let time_wait = bit(TcpState::TimeWait);
        self.dump_matching(time_wait, 0, &ports, |message, _| {
            let (family, id) = (message.family, &message.sockid);
            // A FIN_WAIT2 of that kind is told in its own state (`inet_twsk_diag_fill`).
            found = message.timer == TIMER_OF_TIME_WAIT
                && message.state == TcpState::TimeWait as u8
                && address(family, &id.src) == local.ip().to_canonical()
                && address(family, &id.dst) == remote.ip().to_canonical();
            if found {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        Ok(found)
    }

    /// Dumps the TCP sockets in `states` of both families.
    fn dump(
        &mut self,
        states: u32,
        ext: u8,
        mut each: impl FnMut(&Msg, IterableReplyAttrs<'_>),
    ) -> Result<()> {
        self.dump_until(states, ext, |message, attributes| {
            each(message, attributes);
            ControlFlow::Continue(())
        })
        .map(drop)
    }

    /// The same until `each` has had enough; gives whether it came to the end.
    pub(super) fn dump_until(
        &mut self,
        states: u32,
        ext: u8,
        each: impl FnMut(&Msg, IterableReplyAttrs<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        self.dump_matching(states, ext, &Sockid::new(), each)
    }

    /// The same of those with the ports of `id`, 0 for any. The kernel wants a request for each family.
    fn dump_matching(
        &mut self,
        states: u32,
        ext: u8,
        id: &Sockid,
        mut each: impl FnMut(&Msg, IterableReplyAttrs<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let header = ReqV2 {
                family,
                protocol: libc::IPPROTO_TCP as u8,
                ext,
                states,
                sockid: id.clone(),
                ..ReqV2::default()
            };
            let request = Request::new().op_tcp_diag_dump(&header);
            let result = self.socket.request(&request).and_then(|mut reply| {
                while let Some(entry) = reply.recv() {
                    let (message, attributes) = entry?;
                    if each(&message, attributes).is_break() {
                        return Ok(false);
                    }
                }
                Ok(true)
            });
            match result {
                // A kernel without IPv6 has no handler for its sockets (`sock_diag_rcv_msg`).
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => {
                    // A dump cut short would leave the socket busy.
                    self.socket = NetlinkSocket::new();
                    return Err(error).context("cannot list the TCP sockets through inet_diag");
                }
                Ok(true) => {}
                Ok(false) => {
                    self.socket = NetlinkSocket::new();
                    return Ok(false);
                }
            }
        }
        Ok(true)
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

pub(super) fn address(family: u8, words: &[u8; 16]) -> IpAddr {
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
mod tests;
