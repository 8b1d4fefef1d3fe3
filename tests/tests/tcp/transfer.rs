//! What a connection made by a cookie carries.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
};

use net_common::verdict::Reason;
use net_tests::scene::{
    ALWAYS, Info, PORT, Scene, accept, assert_sound, dial, listener, say, talk,
};

/// 100 MB, no multiple of anything.
const OCTETS: usize = 100_000_007;
/// What is sent again and again; a prime, so that no segment looks like the one before.
const PATTERN: usize = 999_983;

fn pattern() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..PATTERN).map(|_| next()).collect()
}

/// Sends [`OCTETS`] from one end to the other, which compares every one of them.
fn transfer(from: &TcpStream, to: &TcpStream) {
    let pattern = pattern();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut left) = (from, OCTETS);
            while left > 0 {
                let len = left.min(PATTERN);
                from.write_all(&pattern[..len]).unwrap();
                left -= len;
            }
        });
        let (mut to, mut got, mut buffer) = (to, 0, vec![0; 1 << 16]);
        while got < OCTETS {
            let at = got % PATTERN;
            let most = buffer.len().min(PATTERN - at).min(OCTETS - got);
            let len = to.read(&mut buffer[..most]).unwrap();
            assert!(len > 0, "the connection ended after {got} octets");
            assert!(
                buffer[..len] == pattern[at..at + len],
                "octets from {got} on are others"
            );
            got += len;
        }
    });
}

fn a_hundred_megabytes_arrive(family: u8) {
    let scene = Scene::new();
    let listener = scene.listen(family);
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let (client, server) = scene.connect(&listener, family);
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 1);
    for (what, from, to) in [
        ("to the server", &client, &server),
        ("to the client", &server, &client),
    ] {
        transfer(from, to);
        let (sent, received) = (Info::of(from), Info::of(to));
        assert_ne!(sent.options & Info::WSCALE, 0);
        assert!(
            sent.snd_wscale > 0 && sent.snd_wscale == received.rcv_wscale,
            "{what}: {sent:?} {received:?}"
        );
        // Without the scale the window could not be larger, and with a wrong one the ends would differ.
        assert!(sent.snd_wnd > 1 << 16, "{what}: {sent:?}");
        // A veth's ring overflows now and then, with or without netmoat.
        assert!(sent.repeated <= sent.segments / 20, "{what}: {sent:?}");
    }
    assert_eq!(agent.packets(Reason::CookieFalse).unwrap(), 0);
    assert_sound(&agent);
}

#[test]
fn a_hundred_megabytes_each_way_over_an_ipv4_cookie_connection_arrive_whole_and_scaled() {
    a_hundred_megabytes_arrive(4);
}

#[test]
fn a_hundred_megabytes_each_way_over_an_ipv6_cookie_connection_arrive_whole_and_scaled() {
    a_hundred_megabytes_arrive(6);
}

#[test]
fn a_server_that_speaks_first_is_heard_through_cookies() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        for _ in 0..50 {
            let (mut client, mut server) = scene.connect(listener, family);
            say(&mut server, &mut client, b"220 mail.example ESMTP\r\n");
            say(&mut client, &mut server, b"EHLO client.example\r\n");
        }
    }
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 100);
    assert_sound(&agent);
}

#[test]
fn both_listeners_of_a_reuseport_group_get_cookie_connections() {
    let scene = Scene::new();
    let address = scene.server.at(4, PORT);
    let group = scene
        .server
        .ns
        .run(|| [(); 2].map(|()| listener(address, 64, true)));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let listed = agent.listener(PORT).unwrap().unwrap();
    assert!(listed.protected);
    assert_eq!(listed.sockets.len(), 2, "the group is one listener");
    // The kernel spreads by tuple: that one of two gets none of 40 has odds of 2^-39.
    let mut clients: Vec<_> = (0..40).map(|_| dial(&scene.client, address)).collect();
    let mut taken = [0, 0];
    for (listener, taken) in group.iter().zip(&mut taken) {
        listener.set_nonblocking(true).unwrap();
        while let Ok((mut server, peer)) = listener.accept() {
            server.set_nonblocking(false).unwrap();
            let own = clients
                .iter_mut()
                .find(|c| c.local_addr().unwrap() == peer)
                .unwrap();
            talk(own, &mut server);
            *taken += 1;
        }
    }
    assert!(
        taken[0] > 0 && taken[1] > 0 && taken[0] + taken[1] == 40,
        "{taken:?}"
    );
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 40);
    drop(clients);
    // One that goes leaves the other to serve.
    let [first, second] = group;
    drop(first);
    let mut client = dial(&scene.client, address);
    talk(&mut client, &mut accept(&second));
    assert_sound(&agent);
}
