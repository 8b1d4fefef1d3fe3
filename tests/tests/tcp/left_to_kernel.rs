//! C-12 and its like: listeners that cookies do not fit are the kernel's in every mode, and `queues` says
//! why.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    lab::Generator,
    scene::{
        ALWAYS, PATIENCE, PORT, Scene, accept, assert_sound, await_count, patient, talk, tcp_socket,
    },
    topology::Host,
    wait,
};
use nix::{
    libc,
    sys::socket::{Backlog, SockFlag, SockaddrStorage, bind, connect, listen, setsockopt, sockopt},
};

/// Where the listener waits that is left alone.
const OTHER: u16 = 179;

/// A TCP socket with a peculiarity.
trait Peculiar: Sync {
    fn socket(&self, family: u8, peer: IpAddr) -> OwnedFd;

    fn listen(&self, host: &Host, peer: &Host, family: u8) -> TcpListener {
        host.ns.run(|| {
            let socket = self.socket(family, peer.ip(family));
            setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
            bind(
                socket.as_raw_fd(),
                &SockaddrStorage::from(host.at(family, OTHER)),
            )
            .unwrap();
            listen(&socket, Backlog::new(256).unwrap()).unwrap();
            socket.into()
        })
    }

    fn connect(&self, host: &Host, peer: &Host, family: u8) -> TcpStream {
        host.ns.run(|| {
            let socket = self.socket(family, peer.ip(family));
            // Bounds connect() too.
            let time = nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
            setsockopt(&socket, sockopt::SendTimeout, &time).unwrap();
            connect(
                socket.as_raw_fd(),
                &SockaddrStorage::from(peer.at(family, OTHER)),
            )
            .unwrap();
            patient(socket.into())
        })
    }
}

/// Multipath TCP (RFC 8684).
struct Mptcp;

impl Peculiar for Mptcp {
    fn socket(&self, family: u8, _: IpAddr) -> OwnedFd {
        let family = if family == 4 {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: `socket` takes three integers and touches no memory of ours.
        let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_MPTCP) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: `fd` was just opened, is valid, and nothing else owns it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}

/// Whether a connection is Multipath TCP still and has not fallen back to plain TCP.
fn is_mptcp(stream: &TcpStream) -> bool {
    /// linux/tcp.h
    const TCP_IS_MPTCP: i32 = 43;
    let (mut is, mut len) = (0_i32, 4);
    // SAFETY: the pointers are to an int and to its size, which outlive the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_IS_MPTCP,
            (&raw mut is).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    is == 1
}

/// TCP with the MD5 signature option (RFC 2385), as BGP has it.
struct Md5;

impl Peculiar for Md5 {
    fn socket(&self, _: u8, peer: IpAddr) -> OwnedFd {
        let peer = SocketAddr::new(peer, 0);
        let socket = tcp_socket(peer, SockFlag::empty());
        // struct tcp_md5sig (linux/tcp.h): a sockaddr_storage of 128 octets, flags, prefix length, key
        // length, ifindex, key.
        let mut signature = [0_u8; 216];
        match peer.ip() {
            IpAddr::V4(ip) => {
                signature[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                signature[4..8].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                signature[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                signature[8..24].copy_from_slice(&ip.octets());
            }
        }
        signature[130..132].copy_from_slice(&6_u16.to_ne_bytes());
        signature[136..142].copy_from_slice(b"secret");
        // SAFETY: the pointer and the length describe `signature`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_MD5SIG,
                signature.as_ptr().cast(),
                signature.len() as u32,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        socket
    }
}

/// Connects in peace, during a flood of the protected port, and during one of its own.
fn the_kernel_alone_answers(what: &dyn Peculiar, why: &str, check: impl Fn(&TcpStream)) {
    let scene = Scene::new();
    let generator = Generator::new(&scene.attacker).unwrap();
    let agent = scene.protect(ALWAYS);
    for family in [4, 6] {
        let _protected = scene.listen(family);
        let other = what.listen(&scene.server, &scene.client, family);
        agent.await_listener(PORT, true).unwrap();
        agent.await_listener(OTHER, false).unwrap();
        assert_explained(&agent, why);
        let connects = || {
            let mut client = what.connect(&scene.client, &scene.server, family);
            let mut server = accept(&other);
            talk(&mut client, &mut server);
            check(&server);
        };
        let cookies = agent.packets(Reason::CookieSent).unwrap();
        connects();
        assert_eq!(agent.packets(Reason::CookieSent).unwrap(), cookies);
        let mut long_lived = what.connect(&scene.client, &scene.server, family);
        let mut served = accept(&other);

        let flooding = scene.flood(&generator, family, PORT);
        await_count(&agent, Reason::CookieSent, cookies + 500);
        for _ in 0..10 {
            connects();
            talk(&mut long_lived, &mut served);
        }
        flooding.stop().unwrap();

        let unprotected = agent.packets(Reason::SynUnprotected).unwrap();
        let flooding = scene.flood(&generator, family, OTHER);
        await_count(&agent, Reason::SynUnprotected, unprotected + 1000);
        connects();
        talk(&mut long_lived, &mut served);
        flooding.stop().unwrap();
        let listener = agent.listener(OTHER).unwrap().unwrap();
        assert_eq!((listener.cookies_sent, listener.cookies_now), (0, false));
        drop(other);
        wait::until("the listener's end", PATIENCE, || {
            agent.listener(OTHER).is_ok_and(|l| l.is_none())
        })
        .unwrap();
    }
    assert_sound(&agent);
}

/// In JSON and for people.
fn assert_explained(agent: &Agent, why: &str) {
    let listener = agent.listener(OTHER).unwrap().unwrap();
    let said = listener.why_not.unwrap_or_default();
    assert!(said.contains(why), "{said}");
    let table = String::from_utf8(agent.netmoat(&["queues"]).unwrap().stdout).unwrap();
    assert!(
        table.contains("left to the kernel") && table.contains(&said),
        "{table}"
    );
}

#[test]
fn c_12_md5_handshakes_succeed_in_mode_always_and_during_floods() {
    the_kernel_alone_answers(&Md5, "MD5", |_| ());
}

#[test]
fn mptcp_handshakes_succeed_in_mode_always_and_during_floods() {
    the_kernel_alone_answers(&Mptcp, "MPTCP", |server| {
        assert!(is_mptcp(server), "fell back to TCP");
    });
}
