//! Connections of one source, per second and at a time: a source that proved itself is refused beyond its limit, others
//! go on, and whoever forges its SYNs uses up nothing of it.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    flood::{Flood, Sources},
    lab::{Generator, Pace},
    neighbors::report::observed,
    scene::{PATIENCE, PORT, Scene, assert_sound, dial},
    topology::Host,
    wait,
};

/// A connection, if it comes about at once: a SYN that is dropped is sent again after a second.
fn attempt(from: &Host, to: SocketAddr) -> Option<TcpStream> {
    let dial = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
    from.ns.run(dial).ok()
}

/// Connects from a host until the limit is met; the connections that came about.
fn connect_until_refused(
    agent: &Agent,
    from: &Host,
    to: SocketAddr,
    why: Reason,
) -> Vec<TcpStream> {
    let before = agent.packets(why).unwrap();
    let mut made = Vec::new();
    wait::until("the limit to be met", PATIENCE, || {
        made.extend(attempt(from, to));
        agent.packets(why).unwrap() > before
    })
    .unwrap();
    made
}

fn take_all(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    while let Ok(connection) = listener.accept() {
        drop(connection);
    }
}

/// SYNs in the client's name, as many as would use up any limit if they counted.
fn forge_syns(scene: &Scene, generator: &Generator, family: u8) {
    generator
        .aim(&Flood::syn(&scene.server, family, PORT).from(Sources::One(scene.client.ip(family))))
        .unwrap();
    let sent = generator
        .run(Pace::PerSecond(2000), 1000, PATIENCE)
        .unwrap();
    assert_eq!(sent.packets, 1000);
}

#[test]
fn new_connections_of_a_source_are_limited_another_goes_on_and_the_limit_recovers() {
    let scene = Scene::new();
    let config = "[tcp]\nnew_connections = \"2/s burst 10\"";
    for family in [4, 6] {
        let listener = scene.listen(family);
        let to = scene.server.at(family, PORT);
        let agent = scene.protect(config);
        let made = connect_until_refused(&agent, &scene.client, to, Reason::NewConnectionLimit);
        // Two a second while they were made.
        assert!((10..60).contains(&made.len()), "{} connections", made.len());
        if family == 4 {
            // Another of its /64 shares its limit.
            drop(dial(&scene.attacker, to));
        }
        wait::until("the client's next connection", PATIENCE, || {
            take_all(&listener);
            attempt(&scene.client, to).is_some()
        })
        .unwrap();
        assert_sound(&agent);
    }
}

#[test]
fn forged_syns_use_up_nobodys_new_connections() {
    let scene = Scene::new();
    let generator = Generator::new(&scene.attacker).unwrap();
    for (family, syn) in [(4, "auto"), (6, "auto"), (4, "always")] {
        let listener = scene.listen(family);
        let agent = scene.protect(&format!(
            "[syn]\nmode = \"{syn}\"\n[tcp]\nnew_connections = \"1/s burst 5\"\nopen_connections = 20"
        ));
        agent.await_listener(PORT, true).unwrap();
        // It has a place of its own.
        let first = dial(&scene.client, scene.server.at(family, PORT));
        forge_syns(&scene, &generator, family);
        for reason in [Reason::NewConnectionLimit, Reason::OpenConnectionLimit] {
            assert_eq!(agent.packets(reason).unwrap(), 0, "{}", reason.name());
        }
        let second = dial(&scene.client, scene.server.at(family, PORT));
        drop((first, second));
        drop(listener);
        assert_sound(&agent);
    }
}

#[test]
fn open_connections_of_a_source_are_limited_another_goes_on_and_the_limit_recovers() {
    let scene = Scene::new();
    let config = "[tcp]\nopen_connections = 8";
    let listener = scene.listen(4);
    let to = scene.server.at(4, PORT);
    let agent = scene.protect(config);
    let made = connect_until_refused(&agent, &scene.client, to, Reason::OpenConnectionLimit);
    assert_eq!(made.len(), 8);
    drop(dial(&scene.attacker, to));
    drop(made);
    wait::until("the client's next connection", PATIENCE, || {
        take_all(&listener);
        attempt(&scene.client, to).is_some()
    })
    .unwrap();
    assert_sound(&agent);
}

#[test]
fn modes_observe_and_off_refuse_nobody_and_count_or_not() {
    let scene = Scene::new();
    let to = scene.server.at(4, PORT);
    let _listener = scene.listen(4);
    let config = |mode: &str| {
        format!("[tcp]\nmode = \"{mode}\"\nnew_connections = \"1/h burst 1\"\nopen_connections = 3")
    };
    let agent = scene.protect(&config("observe"));
    let open: Vec<_> = (0..10).map(|_| dial(&scene.client, to)).collect();
    assert!(observed(&agent, Reason::NewConnectionLimit) >= 5);
    assert_eq!(agent.packets(Reason::NewConnectionLimit).unwrap(), 0);
    assert_sound(&agent);
    drop((agent, open));
    let agent = scene.protect(&config("off"));
    let open: Vec<_> = (0..10).map(|_| dial(&scene.client, to)).collect();
    for reason in [Reason::NewConnectionLimit, Reason::OpenConnectionLimit] {
        assert_eq!(observed(&agent, reason), 0);
        assert_eq!(agent.packets(reason).unwrap(), 0);
    }
    drop(open);
    assert_sound(&agent);
}
