//! C-11: data that comes with the SYN is delivered once. A cookie acknowledges the SYN alone (R-SYN-9), so
//! the client sends it again.

use std::{
    io::Read as _,
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd as _,
};

use net_common::verdict::Reason;
use net_tests::{
    prog_run::ack,
    scene::{ALWAYS, Info, PORT, Scene, accept, assert_sound, patient, tcp_socket},
};
use nix::{
    libc,
    sys::socket::{MsgFlags, SockFlag, SockaddrStorage, sendto},
};

#[test]
fn c_11_the_data_of_a_syn_is_not_acknowledged_and_delivered_once() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let peer = scene.raw(family);
        let syn = peer.syn(1001);
        peer.send(&syn, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let syn_ack = peer
            .receive("a SYN-ACK", 1001, |s| s.tcp.syn && s.tcp.ack)
            .unwrap();
        assert_eq!(
            syn_ack.tcp.acknowledgment_number,
            syn.sequence_number.wrapping_add(1)
        );
        assert!(syn_ack.data.is_empty());
        let mut data = ack(&syn, &syn_ack.tcp);
        data.psh = true;
        peer.send(&data, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut server = accept(listener);
        let mut fin = data.clone();
        fin.sequence_number = data.sequence_number.wrapping_add(18);
        (fin.fin, fin.psh) = (true, false);
        peer.send(&fin, &[]).unwrap();
        let mut heard = String::new();
        server.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "GET / HTTP/1.0\r\n\r\n");
    }
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 2);
    assert_sound(&agent);
}

#[test]
fn c_11_a_client_with_tcp_fast_open_is_served_once() {
    let scene = Scene::new();
    // Bit 1 and bit 10: every listener offers Fast Open.
    scene
        .server
        .ns
        .sysctl("net.ipv4.tcp_fastopen", "1026")
        .unwrap();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let mut connections = 0;
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        // The client asks for a Fast Open cookie; it sends data without one.
        for (fastopen, fail) in [("1", 1), ("5", 2)] {
            scene
                .client
                .ns
                .sysctl("net.ipv4.tcp_fastopen", fastopen)
                .unwrap();
            let to = scene.server.at(family, PORT);
            let mut client: TcpStream = scene.client.ns.run(|| {
                let socket = tcp_socket(to, SockFlag::empty());
                let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
                let sent = sendto(
                    socket.as_raw_fd(),
                    b"hello",
                    &SockaddrStorage::from(to),
                    flags,
                );
                assert_eq!(sent, Ok(5));
                patient(socket.into())
            });
            client.shutdown(Shutdown::Write).unwrap();
            let mut server = accept(listener);
            assert_eq!(
                Info::of(&client).fastopen_client_fail,
                fail,
                "tcp_fastopen={fastopen}"
            );
            let mut heard = String::new();
            server.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "hello", "tcp_fastopen={fastopen}");
            drop(server);
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            connections += 1;
        }
    }
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), connections);
    assert_sound(&agent);
}
