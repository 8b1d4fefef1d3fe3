//! Which listeners netmoat tells of.

use std::{net::TcpListener, time::Duration};

use net_tests::{scene::Scene, wait};

/// Whatever made the agent look at sockets, an event, a look or the second's round: nothing waits at any of them, and nothing else
/// tells of them.
#[test]
fn listeners_that_come_and_go_while_nothing_waits_are_told_and_forgotten() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let told = |what: &str, port: u16, expected: bool| {
        wait::until(what, Duration::from_secs(5), || {
            let queues = agent.queues().unwrap();
            queues.listeners.iter().any(|l| l.port == port) == expected
        })
        .unwrap();
    };
    for round in 0..40 {
        // At another moment of the second each time.
        std::thread::sleep(Duration::from_millis(round * 7 % 50));
        let port = 9000 + u16::try_from(round).unwrap();
        let at = scene.server.at(4, port);
        let listener = scene.server.ns.run(|| TcpListener::bind(at).unwrap());
        told("a listener that came", port, true);
        drop(listener);
        told("a listener that went", port, false);
    }
}
