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
        socket::setsockopt(&bound, sockopt::BindToDevice, &"lo".into()).expect("SO_BINDTODEVICE");
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
        for (family, address, port) in [
            (libc::AF_INET, "127.0.0.1:1001", 1001),
            (libc::AF_INET6, "[::]:1002", 1002),
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
            // The kernel lets go of the first one in its own time.
            assert!(only(&listeners, port).mptcp, "{listeners:?}");
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
                let address: SocketAddr = format!("{address}:{port}").parse().expect("an address");
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
