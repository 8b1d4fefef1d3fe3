//! One attempt to connect: how it ended, and who said what.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
};

use nix::{
    cmsg_space,
    libc::{self, sock_extended_err, sockaddr_in6},
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use super::info::TcpInfo;

/// `ee_origin` of `linux/errqueue.h`.
const ORIGIN_ICMP: u8 = 2;
const ORIGIN_ICMP6: u8 = 3;

/// One attempt to connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Whom to.
    pub remote: SocketAddr,
    /// The address it came from; null where none could be chosen.
    pub source: Option<IpAddr>,
    /// When it began, in microseconds since the walk began.
    pub start_us: u64,
    /// How long it took until its end.
    pub duration_us: u64,
    /// How it ended.
    pub end: End,
    /// SYNs that were sent.
    pub syns: u32,
    /// What the system call said, if it failed.
    pub error: Option<String>,
    /// What ICMP said of it, if anything.
    pub icmp: Option<Icmp>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Established, and taken.
    Connected,
    /// Established after another one.
    Later,
    /// Given up when another one was established.
    GivenUp,
    /// A RST came.
    Refused,
    /// ICMP, or a route: nobody gets there.
    Unreachable,
    /// ICMP, a route or this host: it is not allowed.
    Prohibited,
    /// This host has no route, or no source address.
    NoRoute,
    /// Nothing came back.
    NoAnswer,
    /// This host has no local port left.
    NoLocalPort,
    /// Something else; the error says it.
    Failed,
}

/// An ICMP message about an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Icmp {
    /// Who sent it.
    pub from: Option<IpAddr>,
    /// Whether that is this host itself: it gave up on the next hop, or its own firewall refuses.
    pub from_ourselves: bool,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// What that means, in plain words.
    pub what: String,
    /// Somebody forbids it, rather than fails.
    pub forbids: bool,
}

/// A socket for an address's family, and a second descriptor of it that lives on when the socket is given up. ICMP errors are
/// kept for [`icmp`].
pub(super) fn open(remote: SocketAddr) -> io::Result<(TcpSocket, OwnedFd)> {
    let socket = match remote {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    let look = socket.as_fd().try_clone_to_owned()?;
    keep_errors(&look, remote.is_ipv4(), true);
    Ok((socket, look))
}

/// Whether ICMP errors are queued (IP_RECVERR). Without it only the error number is known: no reason to give up. To be
/// switched off when the connection is established, or every ICMP error ends it (ip(7)).
pub(super) fn keep_errors(socket: &OwnedFd, v4: bool, keep: bool) {
    let _ = match v4 {
        true => setsockopt(socket, sockopt::Ipv4RecvErr, &keep),
        false => setsockopt(socket, sockopt::Ipv6RecvErr, &keep),
    };
}

/// How many SYNs a socket has sent.
pub(super) fn syns(socket: impl AsFd) -> u32 {
    TcpInfo::of(socket).map_or(0, |info| match info.segments_out {
        0 => 0,
        _ => info.total_retransmits.saturating_add(1),
    })
}

/// What ICMP said of a socket; the last message, if there are several. `source`: the socket's own address.
pub(super) fn icmp(socket: &OwnedFd, source: Option<IpAddr>) -> Option<Icmp> {
    let mut found = None;
    // Each is told once; a peer cannot queue more than the socket's receive buffer takes.
    for _ in 0..16 {
        match next_icmp(socket, source) {
            Some(icmp) => found = Some(icmp),
            None => break,
        }
    }
    found
}

fn next_icmp(socket: &OwnedFd, source: Option<IpAddr>) -> Option<Icmp> {
    let mut room = cmsg_space!(sock_extended_err, sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut room), flags).ok()?;
    for part in message.cmsgs().ok()? {
        let (error, from) = match part {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                let from = from.map(|from| IpAddr::from(from.sin_addr.s_addr.to_ne_bytes()));
                (error, from)
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                (error, from.map(|from| from.sin6_addr.s6_addr.into()))
            }
            _ => continue,
        };
        if ![ORIGIN_ICMP, ORIGIN_ICMP6].contains(&error.ee_origin) {
            continue;
        }
        let (what, forbids) = meaning(
            error.ee_origin == ORIGIN_ICMP6,
            error.ee_type,
            error.ee_code,
        );
        let from = from.filter(|from: &IpAddr| !from.is_unspecified());
        return Some(Icmp {
            from,
            from_ourselves: from.is_some() && from == source,
            kind: error.ee_type,
            code: error.ee_code,
            what,
            forbids,
        });
    }
    None
}

/// What an ICMP error says (RFC 792, RFC 1812 section 5.2.7.1, RFC 4443 section 3.1), and whether it forbids.
fn meaning(v6: bool, kind: u8, code: u8) -> (String, bool) {
    let (what, forbids) = match (v6, kind, code) {
        (false, 3, 0) => ("network unreachable", false),
        (false, 3, 1) => ("host unreachable", false),
        (false, 3, 2) => ("protocol unreachable", true),
        (false, 3, 3) | (true, 1, 4) => ("port unreachable", true),
        (false, 3, 6) => ("network unknown", false),
        (false, 3, 7) => ("host unknown", false),
        (false, 3, 9) => ("network administratively prohibited", true),
        (false, 3, 10) => ("host administratively prohibited", true),
        (false, 3, 13) | (true, 1, 1) => ("administratively prohibited", true),
        (false, 11, 0) | (true, 3, 0) => ("time to live exceeded: packets go in circles", false),
        (true, 1, 0) => ("no route to destination", false),
        (true, 1, 2) => ("beyond scope of the source address", false),
        (true, 1, 3) => ("address unreachable", false),
        (true, 1, 5) => ("source address failed ingress policy", true),
        (true, 1, 6) => ("reject route to destination", true),
        _ => return (format!("type {kind} code {code}"), false),
    };
    (what.to_owned(), forbids)
}

/// How an attempt ended that did not connect.
pub(super) fn end(error: &io::Error, icmp: Option<&Icmp>) -> End {
    if let Some(icmp) = icmp {
        return match icmp.forbids {
            true => End::Prohibited,
            false => End::Unreachable,
        };
    }
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => End::Refused,
        Some(libc::ETIMEDOUT) => End::NoAnswer,
        Some(libc::EHOSTUNREACH | libc::EHOSTDOWN) => End::Unreachable,
        Some(libc::ENETUNREACH | libc::ENETDOWN | libc::EINVAL | libc::EAFNOSUPPORT) => {
            End::NoRoute
        }
        Some(libc::EACCES | libc::EPERM) => End::Prohibited,
        Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => End::NoLocalPort,
        _ if error.kind() == ErrorKind::TimedOut => End::NoAnswer,
        _ => End::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rst_and_a_firewalls_port_unreachable_are_told_apart() {
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(end(&refused, None), End::Refused);
        let (what, forbids) = meaning(false, 3, 3);
        let icmp = Icmp {
            from: Some([192, 0, 2, 1].into()),
            from_ourselves: false,
            kind: 3,
            code: 3,
            what,
            forbids,
        };
        assert_eq!(end(&refused, Some(&icmp)), End::Prohibited);
    }

    #[test]
    fn every_error_of_connect_has_its_end() {
        for (errno, expected) in [
            (libc::ETIMEDOUT, End::NoAnswer),
            (libc::EHOSTUNREACH, End::Unreachable),
            (libc::ENETUNREACH, End::NoRoute),
            (libc::EINVAL, End::NoRoute),
            (libc::EACCES, End::Prohibited),
            (libc::EPERM, End::Prohibited),
            (libc::EADDRNOTAVAIL, End::NoLocalPort),
            (libc::EMFILE, End::Failed),
        ] {
            assert_eq!(end(&io::Error::from_raw_os_error(errno), None), expected);
        }
        let ours: io::Error = ErrorKind::TimedOut.into();
        assert_eq!(end(&ours, None), End::NoAnswer);
    }

    #[test]
    fn icmp_codes_say_whether_somebody_forbids_or_fails() {
        for (v6, kind, code, forbids) in [
            (false, 3, 1, false),
            (false, 3, 13, true),
            (false, 11, 0, false),
            (true, 1, 0, false),
            (true, 1, 1, true),
            (true, 1, 3, false),
            (true, 200, 9, false),
        ] {
            let (what, told) = meaning(v6, kind, code);
            assert_eq!(told, forbids, "{what}");
            assert!(!what.is_empty());
        }
    }
}
