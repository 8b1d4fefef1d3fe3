//! SYNs to tuples that a socket holds already are the kernel's (R-SYN-8), and so is what the protected host
//! opens itself.

use std::{
    io::Read as _,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use etherparse::TcpOptionElement;
use net_common::verdict::Reason;
use net_tests::{
    flood::Flood,
    lab::{Generator, Pace},
    prog_run::{ack, connect_from, timestamps},
    scene::{
        ALWAYS, PORT, Scene, accept, assert_sound, await_count, dial, listener, patient, say, talk,
        tcp_socket,
    },
    wait,
};
use nix::{
    errno::Errno,
    sys::socket::{SockFlag, SockaddrStorage, bind, connect, setsockopt, sockopt},
};

/// How many sockets of a host are in TIME_WAIT.
fn time_waits(scene: &Scene) -> usize {
    let ss = scene
        .server
        .ns
        .succeed(std::process::Command::new("ss").args(["-Htan", "state", "time-wait"]));
    ss.unwrap().lines().count()
}

#[test]
fn a_syn_on_a_time_wait_tuple_is_answered_by_the_kernel_and_connects() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let from = scene.client.at(family, 40_000);
        let to = scene.server.at(family, PORT);
        let mut first = patient(scene.client.ns.run(|| connect_from(from, to)));
        let mut server = accept(listener);
        talk(&mut first, &mut server);
        // The server closes first, so that TIME_WAIT is its own.
        let before = time_waits(&scene);
        drop(server);
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        drop(first);
        let what = format!("TIME_WAIT of family {family}");
        wait::until(&what, Duration::from_secs(10), || {
            time_waits(&scene) > before
        })
        .unwrap();

        let cookies = agent.packets(Reason::CookieSent).unwrap();
        let on_socket = agent.packets(Reason::SynOnSocket).unwrap();
        let mut again = patient(scene.client.ns.run(|| connect_from(from, to)));
        talk(&mut again, &mut accept(listener));
        assert_eq!(agent.packets(Reason::CookieSent).unwrap(), cookies);
        assert_eq!(agent.packets(Reason::SynOnSocket).unwrap(), on_socket + 1);
    }
    assert_sound(&agent);
}

#[test]
fn c_8_a_repeated_syn_with_a_request_socket_gets_the_same_syn_ack_although_the_budget_is_gone() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    // Room for one SYN, and for the other family's a minute later.
    let agent = scene.protect("[syn]\nbudget = \"1/m\"\nburst = 1");
    agent.await_listener(PORT, true).unwrap();
    let generator = Generator::new(&scene.attacker).unwrap();
    let peers = [4, 6].map(|family| scene.raw(family));
    let pending = [&peers[0], &peers[1]].map(|peer| {
        let syn = peer.syn(1001);
        let syn_ack = peer.syn_ack(&syn).unwrap();
        (syn, syn_ack)
    });
    assert_eq!(agent.packets(Reason::SynInBudget).unwrap(), 2);
    generator.aim(&Flood::syn(&scene.server, 4, PORT)).unwrap();
    generator
        .run(Pace::PerSecond(5_000), 200, Duration::from_secs(5))
        .unwrap();
    await_count(&agent, Reason::CookieSent, 200);

    for ((peer, listener), (syn, syn_ack)) in peers.iter().zip(&listeners).zip(&pending) {
        let on_socket = agent.packets(Reason::SynOnSocket).unwrap();
        let again = peer.syn_ack(syn).unwrap();
        assert_eq!(agent.packets(Reason::SynOnSocket).unwrap(), on_socket + 1);
        assert_eq!(again.sequence_number, syn_ack.sequence_number);
        peer.send(&ack(syn, &again), &[]).unwrap();
        assert_eq!(accept(listener).peer_addr().unwrap(), peer.at(1001));
        // Another of the same source, beyond the budget: a cookie.
        peer.connect(1002).unwrap();
        assert_eq!(accept(listener).peer_addr().unwrap(), peer.at(1002));
    }
    assert_eq!(agent.packets(Reason::SynInBudget).unwrap(), 2);
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 2);
    assert_sound(&agent);
}

#[test]
fn c_9_a_syn_on_an_established_connection_draws_a_challenge_ack_and_does_no_harm() {
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let peer = scene.raw(family);
        let ack = peer.connect(1001).unwrap();
        let mut server = accept(listener);
        let cookies = agent.packets(Reason::CookieSent).unwrap();
        let mut syn = peer.syn(1001);
        syn.sequence_number = ack.sequence_number.wrapping_add(100_000);
        peer.send(&syn, &[]).unwrap();
        let challenge = peer
            .receive("a challenge ACK", 1001, |s| s.tcp.ack)
            .unwrap()
            .tcp;
        // RFC 5961 section 4.2: as if nothing had been.
        assert!(!challenge.syn && !challenge.rst);
        assert_eq!(challenge.sequence_number, ack.acknowledgment_number);
        assert_eq!(challenge.acknowledgment_number, ack.sequence_number);
        assert_eq!(agent.packets(Reason::CookieSent).unwrap(), cookies);
        peer.send(&ack, b"still here").unwrap();
        let mut heard = [0; 10];
        server.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"still here");
    }
    assert_eq!(agent.packets(Reason::SynOnSocket).unwrap(), 2);
    assert_sound(&agent);
}

#[test]
fn c_10_a_simultaneous_open_from_the_listening_port_is_established() {
    let scene = Scene::new();
    let agent = scene.protect(ALWAYS);
    for family in [4, 6] {
        let local = scene.server.at(family, PORT);
        let _listener = scene.server.ns.run(|| listener(local, 16, true));
        agent.await_listener(PORT, true).unwrap();
        let peer = scene.raw(family);
        let remote = peer.at(1001);
        let on_socket = agent.packets(Reason::SynOnSocket).unwrap();
        let mut stream: TcpStream = scene.server.ns.run(|| {
            let socket = tcp_socket(local, SockFlag::SOCK_NONBLOCK);
            setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
            bind(socket.as_raw_fd(), &SockaddrStorage::from(local)).unwrap();
            let result = connect(socket.as_raw_fd(), &SockaddrStorage::from(remote));
            assert_eq!(result, Err(Errno::EINPROGRESS));
            socket.into()
        });
        let theirs = peer
            .receive("their SYN", 1001, |s| s.tcp.syn && !s.tcp.ack)
            .unwrap()
            .tcp;
        let ours = peer.syn(1001);
        let answer = peer.syn_ack(&ours).unwrap();
        assert_eq!(
            answer.sequence_number, theirs.sequence_number,
            "the connecting socket's own"
        );
        let mut syn_ack = peer.segment(1001, ours.sequence_number, "SA");
        syn_ack.acknowledgment_number = theirs.sequence_number.wrapping_add(1);
        let (theirs_ts, ours_ts) = (timestamps(&theirs).unwrap().0, timestamps(&ours).unwrap().0);
        syn_ack
            .set_options(&[
                TcpOptionElement::MaximumSegmentSize(1400),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                TcpOptionElement::Timestamp(ours_ts, theirs_ts),
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(7),
            ])
            .unwrap();
        peer.send(&syn_ack, &[]).unwrap();
        peer.send(&ack(&ours, &answer), b"at once").unwrap();
        stream.set_nonblocking(false).unwrap();
        stream = patient(stream);
        let mut heard = [0; 7];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"at once");
        assert_eq!(agent.packets(Reason::SynOnSocket).unwrap(), on_socket + 1);
    }
    assert_eq!(agent.packets(Reason::CookieSent).unwrap(), 0);
    assert_sound(&agent);
}

#[test]
fn what_the_protected_host_opens_itself_works_during_a_flood() {
    let scene = Scene::new();
    let _protected = [4, 6].map(|family| scene.listen(family));
    let elsewhere: [TcpListener; 2] = [4, 6].map(|family| {
        scene
            .client
            .ns
            .run(|| TcpListener::bind(scene.client.at(family, 0)))
            .unwrap()
    });
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let generator = Generator::new(&scene.attacker).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&elsewhere) {
        let cookies = agent.packets(Reason::CookieSent).unwrap();
        let flooding = scene.flood(&generator, family, PORT);
        await_count(&agent, Reason::CookieSent, cookies + 100);
        let to: SocketAddr = listener.local_addr().unwrap();
        for _ in 0..100 {
            let mut out = dial(&scene.server, to);
            let mut inward = accept(listener);
            talk(&mut out, &mut inward);
            // The data goes on when one direction is closed.
            out.shutdown(Shutdown::Write).unwrap();
            say(&mut inward, &mut out, b"and good-bye");
        }
        flooding.stop().unwrap();
    }
    assert_sound(&agent);
}
