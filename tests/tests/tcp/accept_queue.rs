//! C-14 and R-SYN-14: a full accept queue gets no cookies.

use std::{
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    rawtcp::RawPeer,
    scene::{
        ALWAYS, PATIENCE, PORT, Scene, accept, assert_sound, await_count, dial, listener, talk,
    },
    wait,
};

const BACKLOG: i32 = 4;
/// It holds one more (R-Q-1).
const CAPACITY: usize = BACKLOG as usize + 1;
/// SYNs in a row without an answer after which none is expected.
const SILENT: usize = 8;

fn await_full(agent: &Agent, full: bool) {
    let what = format!("accept_full to be {full}");
    wait::until(&what, PATIENCE, || {
        agent
            .listener(PORT)
            .is_ok_and(|l| l.is_some_and(|l| l.accept_full == full))
    })
    .unwrap();
}

fn fill(scene: &Scene, family: u8) -> Vec<TcpStream> {
    (0..CAPACITY)
        .map(|_| dial(&scene.client, scene.server.at(family, PORT)))
        .collect()
}

/// For how long after the queue's filling SYNs are answered still: one is sent every 10 ms or so until
/// several in a row have no answer.
fn noticed_after(peer: &RawPeer, ports: &mut std::ops::RangeFrom<u16>) -> Duration {
    let filled = Instant::now();
    let mut sent = Vec::new();
    loop {
        let port = ports.next().unwrap();
        sent.push((port, filled.elapsed()));
        peer.send(&peer.syn(port), &[]).unwrap();
        let _ = peer.receive_within(Duration::from_millis(10), "a SYN-ACK", port, |_| false);
        let answered = sent
            .iter()
            .rposition(|&(port, _)| !peer.received(port).is_empty());
        if answered.map_or(sent.len(), |last| sent.len() - 1 - last) >= SILENT {
            return answered.map_or(Duration::ZERO, |last| sent[last].1);
        }
        assert!(
            filled.elapsed() < PATIENCE,
            "SYNs are answered although the accept queue is full"
        );
    }
}

fn assert_served(scene: &Scene, listener: &TcpListener, family: u8) {
    let (mut client, mut server) = scene.connect(listener, family);
    talk(&mut client, &mut server);
}

#[test]
fn c_14_a_full_accept_queue_gets_no_cookies_within_100_ms_until_there_is_room_again() {
    let scene = Scene::new();
    let agent = scene.protect(ALWAYS);
    for family in [4, 6] {
        let listener = scene
            .server
            .ns
            .run(|| listener(scene.server.at(family, PORT), BACKLOG, false));
        agent.await_listener(PORT, true).unwrap();
        let peer = scene.raw(family);
        let mut ports = 2000..;
        assert_served(&scene, &listener, family);

        // The machine may be busy at any one time; what counts is that the agent does not take longer.
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let clients = fill(&scene, family);
            best = best.min(noticed_after(&peer, &mut ports));
            await_full(&agent, true);
            let listed = agent.listener(PORT).unwrap().unwrap();
            assert_eq!(listed.accept_queue as usize, CAPACITY);
            assert_eq!(listed.accept_queue_limit, BACKLOG.cast_unsigned());
            let table = agent.netmoat(&["queues"]).unwrap().stdout;
            assert!(String::from_utf8_lossy(&table).contains("accept queue full"));

            let dropped = agent.packets(Reason::AcceptFull).unwrap();
            let cookies = agent.packets(Reason::CookieSent).unwrap();
            let listed_before = listed.accept_full_drops;
            for _ in 0..20 {
                peer.send(&peer.syn(ports.next().unwrap()), &[]).unwrap();
            }
            await_count(&agent, Reason::AcceptFull, dropped + 20);
            wait::until("the listener's own count", PATIENCE, || {
                let listed = agent.listener(PORT);
                listed.is_ok_and(|l| l.is_some_and(|l| l.accept_full_drops >= listed_before + 20))
            })
            .unwrap();
            assert_eq!(agent.packets(Reason::CookieSent).unwrap(), cookies);

            for mut client in clients {
                talk(&mut client, &mut accept(&listener));
            }
            await_full(&agent, false);
            assert_served(&scene, &listener, family);
        }
        assert!(best <= Duration::from_millis(100), "{best:?}");
    }
    assert_sound(&agent);
}
