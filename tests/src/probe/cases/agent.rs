//! What the agent of the server's host knows and nobody else: its own drops and cookies, and the listener's queues.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use net_common::verdict::Reason;
use net_user::control::queues::VerdictKind;
use serde_json::Value;

use super::Case;
use crate::{
    agent::Agent,
    flood::Flood,
    lab::{Flooding, Generator, Pace},
    lists::done,
    probe::{Probed, probe},
    queues::{OFF, app::Application},
    scene::{ALWAYS, PATIENCE, PORT, Scene, await_count, dial, listener},
    topology::Host,
    wait,
};

/// Backlog of a listener that is filled; it holds one more (R-Q-1).
const BACKLOG: i32 = 4;
/// Enough to fill the queue of half-open connections at once, and the machine is left to others.
const RATE: u32 = 5_000;
/// Longer than any case.
const FLOOD: Duration = Duration::from_secs(60);

/// All of this layer.
pub fn cases() -> Vec<Case> {
    let case = |name, layer, outcome, code, run| Case {
        name,
        layer,
        outcome,
        code,
        run,
    };
    vec![
        case(
            "source on the blocklist",
            Some("tcp"),
            "failed",
            Some("dropped_by_netmoat"),
            blocked,
        ),
        case(
            "accept queue full, SYN not answered",
            Some("tcp"),
            "failed",
            Some("accept_queue_full"),
            accept_queue_full,
        ),
        case(
            "accept queue full, connection never accepted",
            Some("tcp"),
            "failed",
            Some("accept_queue_full"),
            never_accepted,
        ),
        case(
            "firewall of the host, behind netmoat",
            Some("tcp"),
            "failed",
            Some("not_answered_by_host"),
            firewall,
        ),
        case(
            "SYN flood, no SYN cookies, no agent",
            Some("tcp"),
            "failed",
            Some("tcp_filtered"),
            flood_without_agent,
        ),
        case(
            "SYN flood, no SYN cookies, the agent only looks",
            Some("tcp"),
            "failed",
            Some("listener_overwhelmed"),
            flood_without_cookies,
        ),
        case(
            "SYN flood, with netmoat",
            None,
            "ok",
            None,
            flood_with_netmoat,
        ),
    ]
}

fn blocked() -> Value {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 4);
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let client = scene.client.v4;
    done(&agent, &format!("block add {client} --reason noisy"));
    ask(&scene.client, &agent, scene.server.at(4, PORT), &[]).report
}

fn accept_queue_full() -> Value {
    let scene = Scene::new();
    let agent = scene.protect(ALWAYS);
    let to = scene.server.at(4, PORT);
    let _listener = scene.server.ns.run(|| listener(to, BACKLOG, false));
    agent.await_listener(PORT, true).unwrap();
    let _waiting: Vec<_> = (0..=BACKLOG).map(|_| dial(&scene.client, to)).collect();
    wait::until("the accept queue to be full", PATIENCE, || {
        let found = agent.listener(PORT);
        found.is_ok_and(|l| l.is_some_and(|l| l.accept_full))
    })
    .unwrap();
    ask(&scene.client, &agent, to, &[]).report
}

fn never_accepted() -> Value {
    let scene = Scene::new();
    let agent = scene.protect("");
    let to = scene.server.at(4, PORT);
    let _listener = scene.server.ns.run(|| listener(to, BACKLOG, false));
    agent.await_listener(PORT, true).unwrap();
    // The probe's own connection is the last that fits.
    let _waiting: Vec<_> = (0..BACKLOG).map(|_| dial(&scene.client, to)).collect();
    ask(&scene.client, &agent, to, &[]).report
}

fn firewall() -> Value {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 4);
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let rules = format!(
        "table inet filter {{\nchain input {{ type filter hook input priority 0; tcp dport {PORT} drop; }}\n}}\n"
    );
    scene.server.ns.nft(&rules).unwrap();
    ask(&scene.client, &agent, scene.server.at(4, PORT), &[]).report
}

/// Takes the kernel's own SYN cookies away, with which it would get by for a while.
fn no_cookies(scene: &Scene) {
    let server = &scene.server.ns;
    server.sysctl("net.ipv4.tcp_syncookies", "0").unwrap();
}

fn flood_without_agent() -> Value {
    let scene = Scene::new();
    no_cookies(&scene);
    let to = scene.server.at(4, PORT);
    let _app = Application::start(&scene.server.ns, "app", to, "");
    let generator = Generator::new(&scene.attacker).unwrap();
    let _flooding = flood(&scene, &generator);
    wait::until(
        "the queue of half-open connections to be full",
        PATIENCE,
        || {
            let short = Duration::from_millis(300);
            let dial = || TcpStream::connect_timeout(&to, short);
            scene.client.ns.run(dial).is_err()
        },
    )
    .unwrap();
    let url = format!("http://{to}/");
    probe(
        &scene.client,
        &["--no-agent", "--no-checks", "--timeout", "4s", &url],
    )
    .report
}

fn flood_without_cookies() -> Value {
    let scene = Scene::new();
    let _app = Application::start(&scene.server.ns, "app", scene.server.at(4, PORT), "");
    let agent = scene.protect(OFF);
    agent.await_listener(PORT, false).unwrap();
    no_cookies(&scene);
    let generator = Generator::new(&scene.attacker).unwrap();
    let _flooding = flood(&scene, &generator);
    await_verdict(&agent, VerdictKind::SynFlood);
    ask(&scene.client, &agent, scene.server.at(4, PORT), &[]).report
}

fn flood_with_netmoat() -> Value {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 4);
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let generator = Generator::new(&scene.attacker).unwrap();
    let _flooding = flood(&scene, &generator);
    await_count(&agent, Reason::CookieSent, 500);
    await_verdict(&agent, VerdictKind::SynFlood);
    ask(&scene.client, &agent, scene.server.at(4, PORT), &[]).report
}

fn flood(scene: &Scene, generator: &Generator) -> Flooding {
    generator.aim(&Flood::syn(&scene.server, 4, PORT)).unwrap();
    generator.start(Pace::PerSecond(RATE), FLOOD)
}

/// Waits until the agent says this of the listener.
pub fn await_verdict(agent: &Agent, kind: VerdictKind) {
    wait::until(kind.name(), PATIENCE, || {
        let found = agent.listener(PORT).ok().flatten();
        found.is_some_and(|l| l.verdicts.first().is_some_and(|v| v.kind == kind))
    })
    .unwrap();
}

/// Probes a page, and asks an agent what it saw. Impatient: most of what is probed does not answer.
pub fn ask(from: &Host, agent: &Agent, to: SocketAddr, more: &[&str]) -> Probed {
    let (socket, url) = (agent.socket(), format!("http://{to}/"));
    let mut args = vec!["--socket", socket.to_str().unwrap(), "--no-checks"];
    args.extend(["--timeout", "4s"]);
    args.extend(more);
    args.push(&url);
    probe(from, &args)
}

/// A page on a host, at [`PORT`]; a connection each time.
pub struct Page {
    address: SocketAddr,
    namespace: crate::netns::Door,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Page {
    /// Serves it until it is dropped.
    pub fn serve(host: &Host, family: u8) -> Self {
        let address = host.at(family, PORT);
        let listener = host.ns.run(|| listener(address, 128, false));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self {
            address,
            namespace: host.ns.door(),
            stop,
            thread: Some(thread::spawn(move || answer(&listener, &stopped))),
        }
    }
}

fn answer(listener: &TcpListener, stopped: &AtomicBool) {
    for connection in listener.incoming() {
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        let Ok(mut connection) = connection else {
            continue;
        };
        // A client that is gone, or says nothing, is its own affair.
        let _ = connection.set_read_timeout(Some(Duration::from_secs(1)));
        let mut request = Vec::<u8>::new();
        let mut buffer = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match connection.read(&mut buffer) {
                Ok(read @ 1..) => request.extend(&buffer[..read]),
                _ => break,
            }
        }
        let _ = connection
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nmoat\n");
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let address = self.address;
        // Wakes accept(); if even that fails, the thread ends with the test's process.
        let woken = self
            .namespace
            .run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok());
        if let (true, Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}
