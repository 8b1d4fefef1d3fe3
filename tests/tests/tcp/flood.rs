//! Honest connections beside a flood: new ones, old ones, and those that hold a cookie of the kernel's own.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    lab::Generator,
    scene::{
        ALWAYS, PATIENCE, PORT, Scene, accept, assert_sound, await_count, patient, say, tcp_socket,
    },
    wait,
};
use nix::{
    errno::Errno,
    sys::socket::{SockFlag, SockaddrStorage, connect},
};

const BANNER: &[u8] = b"220 ready\r\n";

/// C-1: everyone is served although all come at once, from one /24, while a flood rages.
#[test]
fn c_1_five_hundred_clients_at_once_are_served_during_a_flood() {
    const CLIENTS: usize = 500;
    let scene = Scene::new();
    let listeners = [4, 6].map(|family| scene.listen(family));
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let generator = Generator::new(&scene.attacker).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let cookies = agent.packets(Reason::CookieSent).unwrap();
        let made = agent.packets(Reason::HandshakeMade).unwrap();
        let flooding = scene.flood(&generator, family, PORT);
        await_count(&agent, Reason::CookieSent, cookies + 500);
        let to = scene.server.at(family, PORT);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..CLIENTS {
                    // Closed at once: the client reads to the end.
                    accept(listener).write_all(BANNER).unwrap();
                }
            });
            let clients: Vec<TcpStream> = scene.client.ns.run(|| {
                let started = (0..CLIENTS).map(|_| {
                    let socket = tcp_socket(to, SockFlag::SOCK_NONBLOCK);
                    let result = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
                    assert_eq!(result, Err(Errno::EINPROGRESS));
                    socket.into()
                });
                started.collect()
            });
            for mut client in clients {
                client.set_nonblocking(false).unwrap();
                let mut heard = Vec::new();
                patient_read(&mut client, &mut heard);
                assert_eq!(heard, BANNER);
            }
        });
        flooding.stop().unwrap();
        assert_eq!(
            agent.packets(Reason::HandshakeMade).unwrap(),
            made + CLIENTS as u64
        );
    }
    assert_eq!(agent.packets(Reason::CookieFalse).unwrap(), 0);
    assert_sound(&agent);
}

/// To the end; the connection may be in the making still.
fn patient_read(stream: &mut TcpStream, heard: &mut Vec<u8>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_end(heard).unwrap();
}

/// With `tcp_syncookies=2` the kernel keeps no request socket for a SYN inside the budget, so
/// its ACK comes to a listener that knows nothing, while cookies of ours are out.
#[test]
fn the_kernels_own_cookies_complete_beside_ours() {
    const EACH: u64 = 20;
    let scene = Scene::new();
    scene
        .server
        .ns
        .sysctl("net.ipv4.tcp_syncookies", "2")
        .unwrap();
    let listeners = [4, 6].map(|family| scene.listen(family));
    // The client is one source; here it must never be too many.
    let agent = scene.protect("[syn]\nbudget = \"100/s\"\nburst = 4\nsyn_ack_limit = \"1M/s\"");
    agent.await_listener(PORT, true).unwrap();
    let count = |reason| agent.packets(reason).unwrap();
    for (family, listener) in [4, 6].into_iter().zip(&listeners) {
        let (kernels, ours) = (count(Reason::KernelCookie), count(Reason::HandshakeMade));
        wait::until("connections of both kinds", PATIENCE, || {
            for _ in 0..10 {
                let (mut client, mut server) = scene.connect(listener, family);
                say(&mut server, &mut client, BANNER);
                say(&mut client, &mut server, b"hello\r\n");
            }
            count(Reason::KernelCookie) >= kernels + EACH
                && count(Reason::HandshakeMade) >= ours + EACH
        })
        .unwrap();
    }
    assert_eq!(count(Reason::CookieFalse), 0);
    assert_sound(&agent);
}

/// Between two rounds of a chat.
const PAUSE: Duration = Duration::from_millis(1);

/// A connection on which data goes to and fro all the time.
struct Chat<'a> {
    rounds: &'a AtomicU64,
    client: ScopedJoinHandle<'a, ()>,
    server: ScopedJoinHandle<'a, ()>,
}

impl<'a> Chat<'a> {
    fn start<'env>(
        scope: &'a thread::Scope<'a, 'env>,
        (mut client, mut server): (TcpStream, TcpStream),
        rounds: &'a AtomicU64,
        stop: &'a AtomicBool,
    ) -> Self {
        let client = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let word = rounds.load(Ordering::Relaxed).to_be_bytes().repeat(100);
                client.write_all(&word).unwrap();
                let mut echo = vec![0; word.len()];
                client.read_exact(&mut echo).unwrap();
                assert_eq!(echo, word);
                rounds.fetch_add(1, Ordering::Relaxed);
                // Leaves the machine to the others.
                thread::sleep(PAUSE);
            }
        });
        let server = scope.spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match server.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(len) => server.write_all(&buffer[..len]).unwrap(),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => panic!("the server's end: {error}"),
                }
            }
        });
        Self {
            rounds,
            client,
            server,
        }
    }

    /// Waits for some more rounds.
    fn goes_on(&self, when: &str) {
        let before = self.rounds.load(Ordering::Relaxed);
        wait::until(&format!("rounds {when}"), PATIENCE, || {
            let over = self.client.is_finished() || self.server.is_finished();
            over || self.rounds.load(Ordering::Relaxed) >= before + 100
        })
        .unwrap();
        assert!(
            !self.client.is_finished() && !self.server.is_finished(),
            "the connection broke {when}"
        );
    }
}

#[test]
fn established_connections_go_on_when_a_flood_starts_and_ends_and_the_agent_dies_in_it() {
    for family in [4, 6] {
        let scene = Scene::new();
        let listener = scene.listen(family);
        // One that is older than the agent, and one made by a cookie.
        let older = scene.connect(&listener, family);
        let mut agent = scene.protect("[syn]\nbudget = \"1/m\"\nburst = 1");
        agent.await_listener(PORT, true).unwrap();
        let generator = Generator::new(&scene.attacker).unwrap();
        let flood = || scene.flood(&generator, family, PORT);
        let flooding = flood();
        await_count(&agent, Reason::CookieSent, 500);
        let newer = scene.connect(&listener, family);
        assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 1);
        flooding.stop().unwrap();

        let (stop, rounds) = (
            AtomicBool::new(false),
            [AtomicU64::new(0), AtomicU64::new(0)],
        );
        let restart = || {
            let agent = scene.protect(ALWAYS);
            agent.await_listener(PORT, true).unwrap();
            agent
        };
        thread::scope(|scope| {
            // A panic must end the chats too, or the scope waits for them.
            let _stop = Raise(&stop);
            let chats = [(older, &rounds[0]), (newer, &rounds[1])]
                .map(|(ends, rounds)| Chat::start(scope, ends, rounds, &stop));
            let all_go_on = |when: &str| chats.iter().for_each(|chat| chat.goes_on(when));

            all_go_on("in peace");
            let sent = agent.packets(Reason::CookieSent).unwrap();
            let flooding = flood();
            await_count(&agent, Reason::CookieSent, sent + 1000);
            all_go_on("during the flood");
            assert!(agent.packets(Reason::AckOnSocket).unwrap() > 0);
            flooding.stop().unwrap();
            all_go_on("after the flood");
            assert_sound(&agent);

            let flooding = flood();
            await_count(&agent, Reason::CookieSent, sent + 2000);
            assert!(agent.terminate().unwrap().success());
            all_go_on("after SIGTERM in the flood");
            flooding.stop().unwrap();

            agent = restart();
            let flooding = flood();
            await_count(&agent, Reason::CookieSent, 1000);
            all_go_on("with the next agent in the flood");
            agent.kill().unwrap();
            all_go_on("after SIGKILL in the flood");
            flooding.stop().unwrap();

            agent = restart();
            all_go_on("with the agent after that");
            assert_eq!(agent.packets(Reason::CookieFalse).unwrap(), 0);
            assert_sound(&agent);
        });
    }
}

/// Raises a flag at the end of a scope.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A handshake whose SYN-ACK was under way when the agent was told to end.
#[test]
fn a_handshake_that_is_pending_at_sigterm_completes() {
    let scene = Scene::new();
    let listener = scene.listen(4);
    let mut agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let peer = scene.raw(4);
    let syn = peer.syn(1001);
    let ack = net_tests::prog_run::ack(&syn, &peer.syn_ack(&syn).unwrap());
    nix::sys::signal::kill(agent.pid(), nix::sys::signal::Signal::SIGTERM).unwrap();
    wait::until("the end to begin", PATIENCE, || {
        agent.log().contains("waiting")
    })
    .unwrap();
    peer.send(&ack, b"hello").unwrap();
    say_heard(&mut accept(&listener), b"hello");
    wait::until("the agent's end", PATIENCE, || agent.ended().is_some()).unwrap();
}

fn say_heard(stream: &mut TcpStream, want: &[u8]) {
    let mut heard = vec![0; want.len()];
    patient(stream.try_clone().unwrap())
        .read_exact(&mut heard)
        .unwrap();
    assert_eq!(heard, want);
}
