use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, sockopt};

use super::*;
use crate::host::testing::{in_netns, run};

const PATIENCE: Duration = Duration::from_secs(10);

fn settings() -> QueueSettings {
    QueueSettings {
        synack_retries: 5,
        local_port_range: (32_768, 60_999),
        ..QueueSettings::default()
    }
}

/// A walker with its handle.
struct Lab {
    walker: Walker,
    diag: Diag,
}

impl Lab {
    fn new() -> Self {
        Self {
            walker: Walker::new(),
            diag: Diag::open().unwrap(),
        }
    }

    fn walk_to(&mut self, bound: usize) -> Walk {
        let listeners = self.diag.listeners().unwrap();
        self.walker
            .walk(&mut self.diag, &listeners, &settings(), bound)
            .unwrap()
    }

    fn walk(&mut self) -> Walk {
        let walk = self.walk_to(usize::MAX);
        assert!(walk.complete);
        walk
    }

    /// Walks until it is so.
    fn until(&mut self, what: &str, is_so: impl Fn(&Walk) -> bool) -> Walk {
        let begun = Instant::now();
        loop {
            let walk = self.walk();
            if is_so(&walk) {
                return walk;
            }
            assert!(begun.elapsed() < PATIENCE, "not {what}: {walk:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn only(walk: &Walk) -> ListenerWalk {
    let mut all = walk.listeners.values();
    let listener = all.next().expect("a listener with connections").clone();
    assert!(all.next().is_none(), "{walk:?}");
    listener
}

fn rules(chain: &str) {
    run("nft", "add table inet lab");
    run(
        "nft",
        &format!("add chain inet lab {chain} {{ type filter hook {chain} priority 0 ; }}"),
    );
}

fn drop_packets(chain: &str, what: &str) {
    run("nft", &format!("add rule inet lab {chain} {what} drop"));
}

/// Begins to connect.
fn dial(address: &str) -> OwnedFd {
    let address: SocketAddr = address.parse().unwrap();
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let client = socket::socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let begun = socket::connect(client.as_raw_fd(), &socket::SockaddrStorage::from(address));
    assert_eq!(begun, Err(nix::errno::Errno::EINPROGRESS));
    client
}

fn defer_accept(listener: &TcpListener) {
    let seconds: libc::c_int = 30;
    // SAFETY: the pointer and the length describe `seconds`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as u32,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn connections_are_counted_by_state_and_listener() {
    in_netns(|| {
        let server = TcpListener::bind("127.0.0.1:1001").unwrap();
        let _idle = TcpListener::bind("127.0.0.1:1002").unwrap();
        let mut lab = Lab::new();
        assert_eq!(lab.walk().states, States::default());
        assert!(lab.walk().listeners.is_empty());

        let connect = || {
            let client = TcpStream::connect("127.0.0.1:1001").unwrap();
            (client, server.accept().unwrap().0)
        };
        let (_client, _accepted) = connect();
        // The peer closes half, and the application does not.
        let (half_closed, _forgetful) = connect();
        half_closed.shutdown(std::net::Shutdown::Write).unwrap();
        // The peer has gone altogether.
        let (gone, _forgetful_too) = connect();
        drop(gone);
        // The application closes first.
        let (client, accepted) = connect();
        drop(accepted);
        drop(client);

        // FINs are acknowledged with a delay.
        let walk = lab.until("acknowledged", |walk| walk.states.fin_wait_1 == 0);
        let listener = only(&walk);
        assert_eq!(
            listener.states,
            States {
                established: 1,
                close_wait: 2,
                time_wait: 1,
                ..States::default()
            }
        );
        assert_eq!(
            walk.states,
            States {
                established: 2,
                close_wait: 2,
                fin_wait_2: 2,
                fin_wait_2_orphaned: 1,
                time_wait: 1,
                ..States::default()
            }
        );
        assert_eq!(listener.peers, 1);
        let own = "127.0.0.1".parse().unwrap();
        assert_eq!(listener.busiest_peer, Some((own, 3)));
        assert!(walk.cost > Duration::ZERO && walk.at.elapsed() < PATIENCE);
        // Two clients and three connections of the server's have a process.
        assert_eq!(lab.walker.sockets().len(), 5);
    });
}

#[test]
fn the_busiest_peer_is_told_and_all_are_counted() {
    in_netns(|| {
        let server = TcpListener::bind("[::]:1001").unwrap();
        let from = |source: &str, target: &str| {
            let source: SocketAddr = format!("{source}:0").parse().unwrap();
            let fd = socket::socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::empty(),
                None,
            )
            .unwrap();
            socket::bind(fd.as_raw_fd(), &socket::SockaddrStorage::from(source)).unwrap();
            let target: SocketAddr = target.parse().unwrap();
            socket::connect(fd.as_raw_fd(), &socket::SockaddrStorage::from(target)).unwrap();
            (fd, server.accept().unwrap())
        };
        let _connections = [
            from("127.0.0.2", "127.0.0.1:1001"),
            from("127.0.0.3", "127.0.0.1:1001"),
            from("127.0.0.3", "127.0.0.1:1001"),
        ];
        let _v6 = TcpStream::connect("[::1]:1001").unwrap();
        let listener = only(&Lab::new().walk());
        assert_eq!(listener.peers, 3);
        let busiest = "127.0.0.3".parse().unwrap();
        assert_eq!(listener.busiest_peer, Some((busiest, 2)));
        assert_eq!(listener.states.established, 4);
    });
}

#[test]
fn clients_that_defer_accept_keeps_waiting_are_acked_r_q_7() {
    in_netns(|| {
        let server = TcpListener::bind("127.0.0.1:1001").unwrap();
        defer_accept(&server);
        let begun = Instant::now();
        let _clients = [0; 3].map(|_| TcpStream::connect("127.0.0.1:1001").unwrap());
        let mut lab = Lab::new();
        let first = only(&lab.walk());
        if begun.elapsed() < Duration::from_millis(900) {
            assert_eq!((first.states.syn_recv, first.acked), (3, 0), "{first:?}");
        }
        let cookies = |lab: &Lab| -> HashSet<u64> { lab.walker.requests.cookies().collect() };
        let met = cookies(&lab);
        assert_eq!(met.len(), 3);
        let walk = lab.until("acked", |walk| only(walk).acked == 3);
        assert!(begun.elapsed() >= Duration::from_secs(1));
        let listener = only(&walk);
        assert_eq!(listener.oldest, None, "none waits for its client");
        assert_eq!(listener.by_retransmits, [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(cookies(&lab), met, "request sockets keep their cookies");
        // Whoever looks later for the first time sees it at the timer, unless it has just run down.
        let late = only(&Lab::new().walk());
        assert_eq!(late.acked, 3, "{late:?}");
    });
}

#[test]
fn requests_whose_syn_acks_are_lost_grow_old_by_the_schedule_and_are_never_acked_r_q_5() {
    in_netns(|| {
        // Lost after they were sent: what the output hook drops counts as not sent, and ends the request.
        rules("input");
        drop_packets("input", "tcp flags & (syn|ack) == (syn|ack)");
        let _server = TcpListener::bind("127.0.0.1:1001").unwrap();
        let begun = Instant::now();
        let _clients = [0; 2].map(|_| dial("127.0.0.1:1001"));
        // Repeated SYNs are answered out of turn: these clients repeat none.
        drop_packets("input", "tcp flags & (syn|ack) == syn");
        let mut lab = Lab::new();
        let first = only(&lab.walk());
        assert_eq!((first.states.syn_recv, first.acked), (2, 0));
        for sent_again in 1..=2 {
            let walk = lab.until("sent again", |walk| {
                only(walk).by_retransmits[sent_again] == 2
            });
            let truth = begun.elapsed();
            let listener = only(&walk);
            assert_eq!(listener.acked, 0);
            for (who, oldest) in [
                ("who met them", listener.oldest.unwrap()),
                ("who did not", only(&Lab::new().walk()).oldest.unwrap()),
            ] {
                let off = oldest.abs_diff(truth);
                assert!(
                    off < Duration::from_millis(400),
                    "{who}: {oldest:?} is not {truth:?}"
                );
            }
        }
    });
}

#[test]
fn a_client_that_repeats_its_syn_makes_the_schedule_run_fast_and_earlier_walks_correct_it() {
    in_netns(|| {
        rules("input");
        drop_packets("input", "tcp flags & (syn|ack) == (syn|ack)");
        let _server = TcpListener::bind("127.0.0.1:1001").unwrap();
        let mut lab = Lab::new();
        lab.walk();
        let begun = Instant::now();
        let _client = dial("127.0.0.1:1001");
        lab.until("answered three times more", |walk| {
            only(walk).by_retransmits[3..] != [0; 5]
        });
        let met = only(&lab.walk()).oldest.unwrap();
        let truth = begun.elapsed();
        let off = met.abs_diff(truth);
        assert!(off < Duration::from_millis(400), "{met:?} is not {truth:?}");
        assert!(truth < Duration::from_secs(7), "the third is due after 7 s");
        let schedule = only(&Lab::new().walk()).oldest.unwrap();
        assert!(schedule > truth + Duration::from_secs(1), "{schedule:?}");
    });
}

#[test]
fn a_request_whose_syn_ack_cannot_be_sent_again_ends_at_its_first_timer() {
    in_netns(|| {
        rules("output");
        drop_packets("output", "tcp flags & (syn|ack) == (syn|ack)");
        let _server = TcpListener::bind("127.0.0.1:1001").unwrap();
        let _client = dial("127.0.0.1:1001");
        drop_packets("output", "tcp flags & (syn|ack) == syn");
        let mut lab = Lab::new();
        assert_eq!(only(&lab.walk()).states.syn_recv, 1);
        let walk = lab.until("gone", |walk| walk.listeners.is_empty());
        assert_eq!(walk.states.syn_recv, 0);
    });
}

#[test]
fn fins_that_are_sent_again_are_told_apart() {
    in_netns(|| {
        let server = TcpListener::bind("127.0.0.1:1001").unwrap();
        let connect = || {
            let client = TcpStream::connect("127.0.0.1:1001").unwrap();
            (client, server.accept().unwrap().0)
        };
        let (_client, closes_first) = connect();
        let (closed, closes_last) = connect();
        closed.shutdown(std::net::Shutdown::Write).unwrap();
        let mut lab = Lab::new();
        lab.until("half closed", |walk| only(walk).states.close_wait == 1);
        rules("input");
        drop_packets("input", "tcp flags & fin == fin");
        drop(closes_first);
        drop(closes_last);
        let walk = lab.until("sent again", |walk| {
            let states = only(walk).states;
            states.fin_wait_1_retransmitting == 1 && states.last_ack_retransmitting == 1
        });
        let states = only(&walk).states;
        assert_eq!((states.fin_wait_1, states.last_ack), (1, 1));
    });
}

#[test]
fn connections_that_stay_in_close_wait_are_named_by_inode() {
    in_netns(|| {
        let server = TcpListener::bind("127.0.0.1:1001").unwrap();
        let client = TcpStream::connect("127.0.0.1:1001").unwrap();
        let accepted = server.accept().unwrap().0;
        let not_accepted = TcpStream::connect("127.0.0.1:1001").unwrap();
        drop((client, not_accepted));
        let mut lab = Lab::new();
        let closed = Instant::now();
        lab.until("in CLOSE_WAIT for a while", |walk| {
            walk.states.close_wait == 2 && closed.elapsed() > Duration::from_millis(100)
        });
        let states = only(&lab.walk()).states;
        assert_eq!((states.close_wait, states.close_wait_old), (2, 0));
        // A walker that comes now knows by tcp_info.
        let mut late = Lab::new();
        let begun = Instant::now();
        late.walk();
        let since = late.walker.close_wait.oldest().unwrap();
        assert!(
            begun - since >= Duration::from_millis(90),
            "{:?}",
            begun - since
        );
        for lab in [&mut lab, &mut late] {
            lab.walker
                .close_wait
                .grow_older(Duration::from_secs(CLOSE_WAIT_OLD_S));
            let listener = only(&lab.walk());
            assert_eq!(
                (listener.states.close_wait, listener.states.close_wait_old),
                (2, 1),
                "one waits for accept(), and nobody could close it"
            );
            let stat = nix::sys::stat::fstat(&accepted).unwrap();
            assert_eq!(
                listener.close_wait_inodes,
                [stat.st_ino as u32],
                "nobody has the other yet"
            );
        }
    });
}

#[test]
fn ports_are_counted_by_destination_with_those_in_time_wait() {
    in_netns(|| {
        let busy = TcpListener::bind("127.0.0.1:1001").unwrap();
        let other = TcpListener::bind("[::1]:1002").unwrap();
        let open: Vec<_> = (0..3)
            .map(|_| {
                (
                    TcpStream::connect("127.0.0.1:1001").unwrap(),
                    busy.accept().unwrap(),
                )
            })
            .collect();
        let _other = TcpStream::connect("[::1]:1002").unwrap();
        let _other_accepted = other.accept().unwrap();
        // The client closes first: the port waits with it.
        let (client, accepted) = (
            TcpStream::connect("127.0.0.1:1001").unwrap(),
            busy.accept().unwrap(),
        );
        drop(client);
        drop(accepted);
        let walk = Lab::new().walk();
        let destination = |address: &str, port, ports_used, time_wait| Destination {
            address: address.to_owned(),
            port,
            ports_used,
            time_wait,
        };
        assert_eq!(
            walk.destinations,
            [
                destination("127.0.0.1", 1001, 4, 1),
                destination("::1", 1002, 1, 0)
            ]
        );
        drop(open);
    });
}

#[test]
fn a_walk_ends_at_its_bound_and_the_next_one_is_whole() {
    in_netns(|| {
        let server = TcpListener::bind("127.0.0.1:1001").unwrap();
        // More than one message of the kernel's holds, so that it still has some to send.
        let _connections: Vec<_> = (0..150)
            .map(|_| {
                (
                    TcpStream::connect("127.0.0.1:1001").unwrap(),
                    server.accept().unwrap(),
                )
            })
            .collect();
        let mut lab = Lab::new();
        let part = lab.walk_to(10);
        assert!(!part.complete);
        assert_eq!(part.states.established, 10);
        assert_eq!(lab.walk().states.established, 300);
        assert!(lab.walk_to(300).complete);
        assert!(!lab.walk_to(299).complete);
        assert_eq!(lab.walk_to(0).states, States::default());
    });
}

#[test]
fn a_listener_of_an_interface_has_its_own_connections() {
    in_netns(|| {
        let listen = |device: Option<&str>, address: &str| {
            let fd = socket::socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::empty(),
                None,
            )
            .unwrap();
            if let Some(device) = device {
                socket::setsockopt(&fd, sockopt::BindToDevice, &device.into()).unwrap();
            }
            let address: SocketAddr = address.parse().unwrap();
            socket::bind(fd.as_raw_fd(), &socket::SockaddrStorage::from(address)).unwrap();
            socket::listen(&fd, socket::Backlog::new(8).unwrap()).unwrap();
            TcpListener::from(fd)
        };
        run("ip", "link add lab0 type veth peer name lab1");
        let bound = listen(Some("lo"), "0.0.0.0:1001");
        let _elsewhere = listen(Some("lab0"), "0.0.0.0:1001");
        let _client = TcpStream::connect("127.0.0.1:1001").unwrap();
        let walk = Lab::new().walk();
        assert_eq!(only(&walk).states.established, 1);
        let identity = walk.listeners.keys().next().unwrap();
        assert_eq!(identity.ifindex, 1, "{walk:?}");
        assert!(bound.accept().is_ok());
    });
}
