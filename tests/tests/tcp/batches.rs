//! Segments that the server's link receives in one go: the ACK that proves a cookie and the data behind it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    flood::Flood,
    lab::{Generator, Pace},
    scene::{ALWAYS, Info, PATIENCE, PORT, Scene, accept, assert_sound, tcp_socket},
};
use nix::{
    libc,
    sys::socket::{SockFlag, SockaddrStorage, connect},
};

/// While a flood keeps the link busy, ACK and request are mostly received in one go. A second request socket for
/// the same tuple would be refused by the kernel as a duplicate and the request with it, to be sent again 200 ms
/// later.
#[test]
fn a_request_right_behind_its_ack_makes_no_second_request_socket() {
    const CLIENTS: u64 = 400;
    let scene = Scene::new();
    let listener = scene.listen(4);
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let generator = Generator::new(&scene.attacker).unwrap();
    generator.aim(&Flood::syn(&scene.server, 4, PORT)).unwrap();
    let flooding = generator.start(Pace::PerSecond(100_000), Duration::from_secs(60));
    let to = scene.server.at(4, PORT);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..CLIENTS {
                let mut server = accept(&listener);
                let mut request = [0; 4];
                server.read_exact(&mut request).unwrap();
                server.write_all(&request).unwrap();
            }
        });
        scene.client.ns.run(|| {
            for _ in 0..CLIENTS {
                let mut client = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                client.write_all(b"ping").unwrap();
                let mut answer = [0; 4];
                client.read_exact(&mut answer).unwrap();
            }
        });
    });
    flooding.stop().unwrap();
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), CLIENTS);
    assert_eq!(agent.packets(Reason::CookieFalse).unwrap(), 0);
    assert_sound(&agent);
}

/// A client that holds its ACK back sends it with its first data, and the rest of that in the same breath: ten
/// segments reach XDP before the first has made a socket.
#[test]
fn a_first_flight_of_many_segments_is_received_whole() {
    const FLIGHT: usize = 10 * 1400;
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let to = scene.server.at(family, PORT);
        let mut client: TcpStream = scene.client.ns.run(|| {
            let socket = tcp_socket(to, SockFlag::empty());
            hold_ack(&socket);
            connect(socket.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
            socket.into()
        });
        let flight: Vec<u8> = (0..FLIGHT).map(|i| i as u8).collect();
        client.write_all(&flight).unwrap();
        let mut server = accept(listener);
        let mut heard = vec![0; FLIGHT];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(heard, flight);
        assert_eq!(Info::of(&client).repeated, 0);
    }
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 2);
    assert_eq!(agent.packets(Reason::CookieFalse).unwrap(), 0);
    assert_sound(&agent);
}

/// Linux sends the last ACK of a handshake with the first data if this is set on the client's side
/// (`tcp_rcv_synsent_state_process`).
fn hold_ack(socket: &OwnedFd) {
    let seconds: libc::c_int = 1;
    // SAFETY: the pointer and the length describe `seconds`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
