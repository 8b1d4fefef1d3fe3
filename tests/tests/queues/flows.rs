//! Connections of listeners, counted by the real programs from what the kernel's sockets do: how many were completed, how
//! fast, and how they ended.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use net_common::{abi::FlowStats, verdict::Reason};
use net_tests::{
    frames::{CLIENT_V4, Envelope, SERVER_V4, SERVER_V6, read},
    netns::Namespace,
    prog_run::{Lab, PORT, ack, in_namespace, linux_syn, never_send, send, sysctl, tcp_info},
    scene::{accept, listener, patient},
    wait,
};
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};

const PATIENCE: Duration = Duration::from_secs(10);
/// The first of the slots used here.
const SLOT: u32 = 100;

/// A connection: the client's end and the server's.
fn connect(listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let client = patient(TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    (client, accept(listener))
}

/// Reads to the end of what the peer sends.
fn read_end(mut stream: &TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the peer has closed");
}

/// Closes one direction and waits until the peer's kernel has acknowledged that: FIN_WAIT_2.
fn half_close(stream: &TcpStream) {
    const FIN_WAIT2: u8 = 5;
    stream.shutdown(Shutdown::Write).unwrap();
    let acknowledged = || tcp_info(stream).tcpi_state == FIN_WAIT2;
    wait::until("the FIN to be acknowledged", PATIENCE, acknowledged).unwrap();
}

/// Ends a connection with a reset.
fn reset(stream: TcpStream) {
    let now = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &now).unwrap();
    drop(stream);
}

/// Waits for these counters; handshakes by time are not compared.
#[track_caller]
fn expect(lab: &Lab, slot: u32, what: &str, wanted: FlowStats) {
    let found = || FlowStats {
        handshake: Default::default(),
        ..lab.flows(slot)
    };
    let waited = wait::until(what, PATIENCE, || found() == wanted);
    assert!(waited.is_ok(), "{what}: {:?}, not {wanted:?}", found());
}

fn timed(lab: &Lab, slot: u32) -> u64 {
    lab.flows(slot).handshake.iter().sum()
}

fn wildcard(family: u8, port: u16) -> SocketAddr {
    let ip: IpAddr = if family == 4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, port)
}

#[test]
fn connections_are_counted_by_how_they_end() {
    let mapped = SERVER_V4.to_ipv6_mapped();
    in_namespace(move |lab| {
        assert_eq!(lab.follow_sockets(), [], "this kernel has every tracepoint");
        let table: [(&str, SocketAddr, IpAddr); 6] = [
            ("IPv4", (SERVER_V4, 8101).into(), SERVER_V4.into()),
            ("IPv6", (SERVER_V6, 8102).into(), SERVER_V6.into()),
            ("IPv4 wildcard", wildcard(4, 8103), SERVER_V4.into()),
            ("IPv6 wildcard", wildcard(6, 8104), SERVER_V6.into()),
            (
                "dual-stack, IPv4 client",
                wildcard(6, 8105),
                SERVER_V4.into(),
            ),
            ("mapped address", (mapped, 8106).into(), SERVER_V4.into()),
        ];
        let slots: Vec<_> = table.iter().map(|row| row.1).zip(SLOT..).collect();
        lab.set_flow_slots(&slots);
        for ((what, bound, ip), slot) in table.into_iter().zip(SLOT..) {
            let listener = listener(bound, 16, false);
            let to = SocketAddr::new(ip, bound.port());
            let connect = || connect(&listener, to);
            let mut all = FlowStats::default();

            let (mut open, mut other) = connect();
            open.write_all(b"still open").unwrap();
            other.read_exact(&mut [0; 10]).unwrap();
            all.established += 1;
            expect(lab, slot, &format!("{what}: open"), all);

            for _ in 0..2 {
                let (client, server) = connect();
                drop(client);
                read_end(&server);
                drop(server);
            }
            all.established += 2;
            all.closed += 2;
            expect(lab, slot, &format!("{what}: the client closes"), all);

            for _ in 0..3 {
                let (client, server) = connect();
                drop(server);
                read_end(&client);
                drop(client);
            }
            all.established += 3;
            all.closed += 3;
            expect(lab, slot, &format!("{what}: the server closes"), all);

            let (client, server) = connect();
            half_close(&server);
            read_end(&client);
            drop(client);
            read_end(&server);
            drop(server);
            all.established += 1;
            all.closed += 1;
            expect(lab, slot, &format!("{what}: the server waits"), all);

            for _ in 0..2 {
                let (client, server) = connect();
                reset(client);
                assert!((&server).read(&mut [0]).is_err(), "a reset");
            }
            all.established += 2;
            all.reset += 2;
            all.resets_received += 2;
            expect(lab, slot, &format!("{what}: the client resets"), all);

            let (client, server) = connect();
            reset(server);
            assert!((&client).read(&mut [0]).is_err(), "a reset");
            all.established += 1;
            all.reset += 1;
            expect(lab, slot, &format!("{what}: the server resets"), all);

            let (mut client, server) = connect();
            client.write_all(b"unread").unwrap();
            server.peek(&mut [0]).unwrap();
            drop(server);
            assert!(client.read(&mut [0]).is_err(), "a reset");
            all.established += 1;
            all.reset += 1;
            expect(lab, slot, &format!("{what}: closed with data unread"), all);

            let (client, server) = connect();
            half_close(&server);
            read_end(&client);
            reset(client);
            all.established += 1;
            all.reset += 1;
            all.resets_received += 1;
            expect(lab, slot, &format!("{what}: reset half closed"), all);
            drop(server);

            // Whole milliseconds are left out; one of these may be one.
            let timed = timed(lab, slot);
            assert!((11..=12).contains(&timed), "{what}: {timed} were timed");
            drop((open, other));
        }
    });
}

#[test]
fn listeners_of_one_port_have_their_own_connections() {
    in_namespace(|lab| {
        lab.close();
        assert_eq!(lab.follow_sockets(), []);
        let bound = [
            (SERVER_V4, PORT).into(),
            (SERVER_V6, PORT).into(),
            wildcard(4, PORT),
            wildcard(6, PORT),
        ];
        let listeners = bound.map(|bound| listener(bound, 16, true));
        let slots: Vec<_> = bound.into_iter().zip(SLOT..).collect();
        lab.set_flow_slots(&slots);
        let table: [(IpAddr, usize); 5] = [
            (SERVER_V4.into(), 0),
            (SERVER_V6.into(), 1),
            (CLIENT_V4.into(), 2),
            (Ipv4Addr::LOCALHOST.into(), 2),
            (Ipv6Addr::LOCALHOST.into(), 3),
        ];
        let mut wanted = [FlowStats::default(); 4];
        for (ip, at) in table {
            let (client, server) = connect(&listeners[at], SocketAddr::new(ip, PORT));
            reset(client);
            wanted[at].established += 1;
            wanted[at].reset += 1;
            wanted[at].resets_received += 1;
            for (slot, wanted) in (SLOT..).zip(wanted) {
                expect(lab, slot, &format!("{ip}, slot {slot}"), wanted);
            }
            drop(server);
        }
        // Without an entry they count for nobody, and for the wildcard if only that has one.
        lab.set_flow_slots(&slots[2..]);
        let to = |ip: IpAddr| SocketAddr::new(ip, PORT);
        let _exact = connect(&listeners[0], to(SERVER_V4.into()));
        wanted[2].established += 1;
        expect(lab, SLOT + 2, "the wildcard's", wanted[2]);
        lab.set_flow_slots(&[]);
        let _none = connect(&listeners[2], to(CLIENT_V4.into()));
        lab.set_flow_slots(&slots);
        let _again = connect(&listeners[2], to(CLIENT_V4.into()));
        wanted[2].established += 1;
        expect(lab, SLOT + 2, "the next one", wanted[2]);
        lab.clear_slot(SLOT + 2);
        assert_eq!(lab.flows(SLOT + 2), FlowStats::default());
    });
}

#[test]
fn a_handshake_whose_syn_ack_was_lost_is_late() {
    in_namespace(|lab| {
        assert_eq!(lab.follow_sockets(), []);
        for (ip, slot) in [IpAddr::from(SERVER_V4), SERVER_V6.into()]
            .into_iter()
            .zip(SLOT..)
        {
            lab.set_flow_slots(&[(SocketAddr::new(ip, PORT), slot)]);
            // At input: what is dropped at output was not sent. `numgen` begins with 0.
            let rules = "flush ruleset; table inet loss { chain in { type filter hook input priority 0; \
                         tcp flags & (syn|ack) == syn|ack numgen inc mod 1000 == 0 drop; }; }";
            let status = std::process::Command::new("nft")
                .args(["--", rules])
                .status();
            assert!(status.unwrap().success(), "nft {rules}");
            let listener = &lab.sockets.as_ref().unwrap()[usize::from(ip.is_ipv6())];
            let late = connect(listener, SocketAddr::new(ip, PORT));
            let in_time = connect(listener, SocketAddr::new(ip, PORT));
            let flows = lab.flows(slot);
            assert_eq!((flows.established, flows.late), (2, 1), "{ip}");
            // By the server's timer, by the client's SYN that came again, or by both at once.
            assert!((1..=2).contains(&flows.syn_ack_retransmits), "{flows:?}");
            assert!(timed(lab, slot) <= 1, "{flows:?}");
            drop((late, in_time));
        }
    });
}

#[test]
fn every_syn_ack_that_is_sent_again_is_counted() {
    in_namespace(|lab| {
        assert_eq!(lab.follow_sockets(), []);
        sysctl("net.ipv4.tcp_synack_retries", "1");
        // The client's host knows nothing of the client.
        never_send("tcp flags & rst == rst");
        for (envelope, slot) in Envelope::PLAIN.into_iter().zip(SLOT..) {
            lab.set_flow_slots(&[(SocketAddr::new(envelope.dst, PORT), slot)]);
            for port in 40_000..40_003 {
                send(&envelope, &linux_syn(port, 5), &[]);
            }
            let wanted = FlowStats {
                syn_ack_retransmits: 3,
                ..FlowStats::default()
            };
            expect(lab, slot, envelope.name, wanted);
        }
    });
}

#[test]
fn a_handshake_by_cookie_is_counted_and_not_timed() {
    in_namespace(|lab| {
        assert_eq!(lab.follow_sockets(), []);
        lab.set_listeners(|l| (l.mac_front, l.mac_back) = (0, 0));
        lab.attach_tc();
        never_send("tcp flags & rst == rst");
        for (envelope, slot) in Envelope::PLAIN.into_iter().zip(SLOT..) {
            let envelope = Envelope {
                server_mac: [0; 6],
                ..envelope
            };
            let to = SocketAddr::new(envelope.dst, PORT);
            lab.set_flow_slots(&[(to, slot)]);
            let mut wanted = FlowStats::default();
            let mut held = Vec::new();
            for port in 40_000..40_010 {
                let syn = linux_syn(port, 5);
                let ran = lab.expect("netmoat's", &envelope.tcp(&syn, &[]), Reason::CookieSent);
                send(&envelope, &ack(&syn, &read(&ran.frame).tcp), &[]);
                let listener = &lab.sockets.as_ref().unwrap()[usize::from(envelope.is_v6())];
                held.push(accept(listener));
                wanted.established += 1;
            }
            expect(lab, slot, "netmoat's cookies", wanted);
            assert_eq!(
                timed(lab, slot),
                0,
                "netmoat's cookies: {:?}",
                lab.flows(slot)
            );

            sysctl("net.ipv4.tcp_syncookies", "2");
            let listener = &lab.sockets.as_ref().unwrap()[usize::from(envelope.is_v6())];
            let kernels: Vec<_> = (0..10).map(|_| connect(listener, to)).collect();
            wanted.established += 10;
            expect(lab, slot, "the kernel's cookies", wanted);
            assert_eq!(
                timed(lab, slot),
                0,
                "the kernel's cookies: {:?}",
                lab.flows(slot)
            );
            drop(kernels);
            sysctl("net.ipv4.tcp_syncookies", "1");
        }
    });
}

#[test]
fn connections_of_another_namespace_count_for_nobody_here() {
    in_namespace(|lab| {
        assert_eq!(lab.follow_sockets(), []);
        let to = SocketAddr::from((SERVER_V4, PORT));
        lab.set_flow_slots(&[(to, SLOT), (wildcard(6, 8107), SLOT + 1)]);
        let other = Namespace::new("other").expect("a network namespace");
        other
            .ip(&format!("addr add {SERVER_V4}/32 dev lo\n"))
            .unwrap();
        other.run(|| {
            let same = listener(to, 16, false);
            for _ in 0..5 {
                let (client, server) = connect(&same, to);
                reset(client);
                assert!((&server).read(&mut [0]).is_err(), "a reset");
            }
            let wild = listener(wildcard(6, 8107), 16, false);
            connect(&wild, (Ipv6Addr::LOCALHOST, 8107).into());
        });
        let listener = &lab.sockets.as_ref().unwrap()[0];
        let _here = connect(listener, to);
        let wanted = FlowStats {
            established: 1,
            ..FlowStats::default()
        };
        expect(lab, SLOT, "ours", wanted);
        assert_eq!(lab.flows(SLOT + 1), FlowStats::default());
    });
}
