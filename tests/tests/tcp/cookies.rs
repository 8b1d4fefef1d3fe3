//! Cookies on the wire: which ACKs prove one, across rotations of the key and the change of the epoch.

use std::{process::Output, time::Duration};

use etherparse::TcpHeader;
use net_common::{cookie, verdict::Reason};
use net_tests::{
    agent::Agent,
    prog_run::{self, ack},
    rawtcp::RawPeer,
    scene::{ALWAYS, PORT, Scene, accept, assert_sound, await_count, talk},
    wait,
};

fn rotate(agent: &Agent, arguments: &[&str]) -> Output {
    let mut words = vec!["key", "rotate"];
    words.extend(arguments);
    agent.netmoat(&words).unwrap()
}

/// What was sent before to `port` had no answer: one to another port, sent behind it, has come already.
fn assert_silence(peer: &RawPeer, port: u16, fence: u16) {
    peer.syn_ack(&peer.syn(fence)).unwrap();
    assert!(peer.received(port).is_empty(), "{:?}", peer.received(port));
}

#[test]
fn c_6_a_key_rotation_between_syn_ack_and_ack_breaks_nothing() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let peers = [4, 6].map(|family| scene.raw(family));
    let syn_acks = |port: u16| {
        [&peers[0], &peers[1]].map(|peer| {
            let syn = peer.syn(port);
            let syn_ack = peer.syn_ack(&syn).unwrap();
            ack(&syn, &syn_ack)
        })
    };
    let connect = |acks: &[TcpHeader; 2]| {
        for ((peer, listener), ack) in peers.iter().zip(&listeners).zip(acks) {
            peer.send(ack, &[]).unwrap();
            assert_eq!(
                accept(listener).peer_addr().unwrap(),
                peer.at(ack.source_port)
            );
        }
    };

    let under_first_key = syn_acks(1001);
    assert!(rotate(&agent, &[]).status.success());
    let under_second_key = syn_acks(1002);
    connect(&under_first_key);

    // The slot of the first key holds cookies that are still good.
    let refused = rotate(&agent, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("--force"), "{said}");

    assert!(rotate(&agent, &["--force"]).status.success());
    connect(&under_second_key);

    // C-4 as far as a key goes: one that was rotated out twice opens nothing.
    let under_third_key = syn_acks(1003);
    for _ in 0..2 {
        assert!(rotate(&agent, &["--force"]).status.success());
    }
    for (peer, ack) in peers.iter().zip(&under_third_key) {
        peer.send(ack, &[]).unwrap();
    }
    await_count(&agent, Reason::CookieFalse, 2);
    for peer in &peers {
        assert_silence(peer, 1003, 1004);
    }
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 4);
    assert_sound(&agent);
}

/// Slow: an epoch is 68.7 s of the kernel's own clock.
#[test]
fn c_6_the_change_of_the_epoch_between_syn_ack_and_ack_breaks_nothing() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let before = prog_run::epoch();
    let pending = [4, 6].map(|family| {
        let peer = scene.raw(family);
        let syn = peer.syn(1001);
        let syn_ack = peer.syn_ack(&syn).unwrap();
        (peer, ack(&syn, &syn_ack))
    });
    let epoch = Duration::from_nanos(1 << cookie::EPOCH_SHIFT);
    wait::until("the next epoch", epoch, || prog_run::epoch() > before).unwrap();
    for ((peer, ack), listener) in pending.iter().zip(&listeners) {
        peer.send(ack, &[]).unwrap();
        assert_eq!(accept(listener).peer_addr().unwrap(), peer.at(1001));
    }
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 2);
    assert_sound(&agent);
}

#[test]
fn c_5_and_c_7_an_ack_that_differs_from_its_syn_is_dropped_and_the_right_one_connects() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let mut dropped = 0;
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let peer = scene.raw(family);
        let syn = peer.syn(1001);
        let right = ack(&syn, &peer.syn_ack(&syn).unwrap());
        let plain_syn = peer.segment(1002, 7, "S");
        let plain_right = ack(&plain_syn, &peer.syn_ack(&plain_syn).unwrap());
        let changed = |change: &dyn Fn(&mut TcpHeader)| {
            let mut tcp = right.clone();
            change(&mut tcp);
            tcp
        };
        let wrong = [
            ("C-5: another port", changed(&|t| t.source_port = 1003)),
            (
                "another sequence number",
                changed(&|t| t.sequence_number ^= 1),
            ),
            (
                "another acknowledgment number",
                changed(&|t| t.acknowledgment_number ^= 1 << 20),
            ),
            (
                "C-7: no timestamps for a cookie with them",
                changed(&|t| t.set_options(&[]).unwrap()),
            ),
            ("timestamps for a cookie without them", {
                let mut tcp = plain_right.clone();
                tcp.set_options_raw(right.options.as_slice()).unwrap();
                tcp
            }),
        ];
        for (what, tcp) in wrong {
            peer.send(&tcp, b"GET /").unwrap();
            dropped += 1;
            await_count(&agent, Reason::CookieFalse, dropped);
            assert_silence(&peer, tcp.source_port, 2000 + dropped as u16);
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "{what}");
        }
        for tcp in [right, plain_right] {
            peer.send(&tcp, &[]).unwrap();
            assert_eq!(
                accept(listener).peer_addr().unwrap(),
                peer.at(tcp.source_port)
            );
        }
    }
    assert_eq!(agent.packets(Reason::CookieFalse).unwrap(), dropped);
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 4);
    assert_sound(&agent);
}

#[test]
fn an_ack_that_comes_with_data_or_twice_makes_one_connection() {
    let scene = Scene::new();
    let listener = scene.listen(4);
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let peer = scene.raw(4);
    let syn = peer.syn(1001);
    let ack = ack(&syn, &peer.syn_ack(&syn).unwrap());
    for _ in 0..3 {
        peer.send(&ack, b"hello").unwrap();
    }
    let mut server = accept(&listener);
    let mut heard = [0; 5];
    std::io::Read::read_exact(&mut server, &mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    await_count(&agent, Reason::AckOnSocket, 2);
    server.set_nonblocking(true).unwrap();
    assert!(
        std::io::Read::read(&mut server, &mut heard).is_err(),
        "nothing is delivered twice"
    );
    assert!(listener.accept().is_err());
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 1);
    assert_sound(&agent);
}

#[test]
fn c_18_an_idle_ack_to_no_socket_is_reset_in_peace_and_during_cookies() {
    const CLOSED: u16 = PORT + 1;
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let peers = [4, 6].map(|family| scene.raw(family));
    let assert_reset = |port: u16, to: u16| {
        for peer in &peers {
            let mut idle = peer.segment(port, 1000, "A");
            idle.destination_port = to;
            idle.acknowledgment_number = 2000;
            peer.send(&idle, &[]).unwrap();
            let answer = peer.receive("a RST", port, |s| s.tcp.rst).unwrap();
            // RFC 9293 section 3.10.7.1.
            assert_eq!(answer.tcp.sequence_number, 2000);
        }
    };
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    assert_reset(1001, PORT);
    assert_reset(1002, CLOSED);
    assert_sound(&agent);
    drop(agent);

    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let (mut client, mut server) = scene.connect(listener, family);
        talk(&mut client, &mut server);
    }
    assert!(agent.status().unwrap().cookies_active);
    assert_reset(1003, CLOSED);
    assert_sound(&agent);
}
