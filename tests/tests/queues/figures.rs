//! The figures of queues beside those of `ss` and `nstat`, and the rules about the kernel that they rest on, measured.

use std::{
    collections::HashMap,
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use net_tests::{
    prog_run::ack,
    queues::{
        OFF, OTHER,
        traffic::{Plan, Traffic, crowd},
        truth,
        watch::Watch,
    },
    rawtcp::RawPeer,
    scene::{PATIENCE, PORT, Scene, accept, dial, listener},
    wait,
};
use net_user::control::queues::{Bucket, ListenerQueues};

fn set(scene: &Scene, name: &str, value: &str) {
    scene.server.ns.sysctl(name, value).unwrap();
}

fn nstat(scene: &Scene) -> HashMap<String, u64> {
    truth::nstat(&scene.server)
}

/// SYNs from so many ports of a peer, and time for the last to be answered or not.
fn knock(peer: &RawPeer, first: u16, count: u16) {
    for port in first..first + count {
        peer.send(&peer.syn(port), &[]).unwrap();
    }
}

/// Waits until a counter has moved by so much.
fn await_moved(scene: &Scene, before: &HashMap<String, u64>, name: &str, by: u64) {
    wait::until(&format!("{name} to move by {by}"), PATIENCE, || {
        truth::moved(before, &nstat(scene)).get(name) == Some(&by)
    })
    .unwrap();
}

/// R-Q-1, R-Q-3, R-Q-6: the queue holds one more than min(backlog, somaxconn), and says so.
#[test]
fn the_accept_queue_and_its_limit_are_those_of_ss_and_it_holds_one_more() {
    let scene = Scene::new();
    for (family, backlog, somaxconn, limit) in [(4, 2, "4096", 2), (6, 128, "5", 5)] {
        set(&scene, "net.core.somaxconn", somaxconn);
        let at = scene.server.at(family, PORT);
        let listener = scene.server.ns.run(|| listener(at, backlog, false));
        let agent = scene.protect(OFF);
        let watch = Watch::new(&agent);
        watch.until("an empty queue", PORT, |l| {
            (l.accept_queue, l.accept_queue_limit) == (0, limit)
        });
        let before = nstat(&scene);
        let held: Vec<_> = (0..=limit).map(|_| dial(&scene.client, at)).collect();
        // A SYN at a full queue is not answered, and counted twice.
        let peer = scene.raw(family);
        knock(&peer, 3000, 1);
        await_moved(&scene, &before, "TcpExtListenOverflows", 1);
        assert_eq!(
            nstat(&scene)["TcpExtListenDrops"] - before["TcpExtListenDrops"],
            1
        );
        assert!(peer.received(3000).is_empty());
        let shown = truth::listener(&scene.server, PORT);
        assert_eq!(
            (shown.accept_queue, shown.limit, shown.drops),
            (limit + 1, limit, 1)
        );
        let told = watch.until("a full queue", PORT, |l| {
            l.accept_queue == limit + 1 && l.sockets[0].drops == 1
        });
        assert_eq!(
            (told.accept_queue_limit, told.syn_queue_limit),
            (limit, limit)
        );
        assert_eq!(
            (told.sockets[0].inode, told.sockets[0].drops),
            (shown.inode, 1)
        );
        let counter = |name: &str| {
            let host = watch.look().host;
            host.counters
                .iter()
                .find(|c| c.name == name)
                .cloned()
                .unwrap()
        };
        watch.until_some("the counter of overflows", |_| {
            (counter("TcpExtListenOverflows").total == nstat(&scene)["TcpExtListenOverflows"])
                .then_some(())
        });
        assert_eq!(counter("TcpExtListenOverflows").since, 1);
        drop((held, listener));
    }
}

/// R-Q-3: the last ACK at a full queue, and what tcp_abort_on_overflow makes of it.
#[test]
fn the_last_ack_at_a_full_accept_queue_keeps_the_request_or_is_reset() {
    let scene = Scene::new();
    let at = scene.server.at(4, PORT);
    let listener = scene.server.ns.run(|| listener(at, 8, false));
    for (abort, ports) in [("0", 3000..3004_u16), ("1", 3100..3104)] {
        set(&scene, "net.ipv4.tcp_abort_on_overflow", abort);
        let peer = scene.raw(4);
        let shakes: Vec<_> = ports
            .clone()
            .map(|port| {
                let syn = peer.syn(port);
                let syn_ack = peer.syn_ack(&syn).unwrap();
                ack(&syn, &syn_ack)
            })
            .collect();
        let held: Vec<_> = (0..9).map(|_| dial(&scene.client, at)).collect();
        let before = nstat(&scene);
        for ack in &shakes {
            peer.send(ack, &[]).unwrap();
        }
        await_moved(&scene, &before, "TcpExtListenOverflows", 4);
        assert_eq!(
            nstat(&scene)["TcpExtListenDrops"] - before["TcpExtListenDrops"],
            4
        );
        let left = if abort == "0" { 4 } else { 0 };
        assert_eq!(truth::half_open(&scene.server, PORT), left);
        for port in ports {
            if abort == "1" {
                peer.receive("a reset", port, |s| s.tcp.rst).unwrap();
            } else {
                assert!(!peer.received(port).iter().any(|s| s.tcp.rst));
            }
        }
        // Those that are kept take the room that comes, once their client repeats itself.
        drop(held);
        for _ in 0..9 {
            accept(&listener);
        }
        for ack in shakes.iter().take(left as usize) {
            peer.send(ack, &[]).unwrap();
            accept(&listener);
        }
    }
}

/// R-Q-2, R-Q-4, R-Q-6: what a SYN queue holds, and what becomes of the rest.
#[test]
fn the_syn_queue_holds_one_more_than_the_backlog_and_the_rest_get_cookies_or_nothing() {
    /// Backlog, tcp_max_syn_backlog, tcp_syncookies; requests kept; counters that move, and by how much.
    type Case = (
        i32,
        &'static str,
        &'static str,
        u32,
        &'static [(&'static str, u64)],
    );
    const SYNS: u16 = 12;
    // Above four requests and half the backlog the kernel gives the oldest up early
    // (reqsk_timer_handler, Linux 6.18): a backlog of 3 keeps all until the agent looks.
    let cases: [Case; 3] = [
        // tcp_max_syn_backlog does not count while there are cookies.
        (
            3,
            "2",
            "1",
            4,
            &[
                ("TcpExtTCPReqQFullDoCookies", 8),
                ("TcpExtSyncookiesSent", 8),
            ],
        ),
        (
            3,
            "2048",
            "0",
            4,
            &[("TcpExtTCPReqQFullDrop", 8), ("TcpExtListenDrops", 8)],
        ),
        // The last quarter is kept for proven peers.
        (64, "8", "0", 7, &[("TcpExtListenDrops", 5)]),
    ];
    for (family, (backlog, max_syn_backlog, cookies, kept, counted)) in
        [4, 6, 4].into_iter().zip(cases)
    {
        let scene = Scene::new();
        set(&scene, "net.ipv4.tcp_max_syn_backlog", max_syn_backlog);
        let at = scene.server.at(family, PORT);
        let _listener = scene.server.ns.run(|| listener(at, backlog, false));
        let agent = scene.protect(OFF);
        // Without them it does not start.
        set(&scene, "net.ipv4.tcp_syncookies", cookies);
        let watch = Watch::new(&agent);
        let before = nstat(&scene);
        let peer = scene.raw(family);
        knock(&peer, 3000, SYNS);
        let (name, by) = counted[0];
        await_moved(&scene, &before, name, by);
        let moved = truth::moved(&before, &nstat(&scene));
        for (name, by) in counted {
            assert_eq!(moved.get(*name), Some(by), "{moved:#?}");
        }
        assert_eq!(truth::half_open(&scene.server, PORT), kept);
        assert_eq!(truth::listener(&scene.server, PORT).accept_queue, 0);
        let told = watch.until("the half-open connections", PORT, |l| l.syn_queue == kept);
        assert_eq!(told.syn_queue_limit.cast_signed(), backlog);
        assert_eq!(told.syn_queue_acked, 0);
        let named = |name: &str| {
            told.settings
                .iter()
                .find(|s| s.name == name)
                .unwrap()
                .value
                .clone()
        };
        assert_eq!(named("net.ipv4.tcp_max_syn_backlog"), max_syn_backlog);
        assert_eq!(named("net.ipv4.tcp_syncookies"), cookies);
        assert!(
            told.settings.iter().all(|s| !s.effect.is_empty()),
            "{:#?}",
            told.settings
        );
    }
}

/// R-Q-5: 1, 2, 4, 8 s: longer than the pause between two walks of an unoptimised agent on a busy machine.
#[test]
fn a_half_open_connection_is_answered_again_and_ends_when_netmoat_says_so() {
    let scene = Scene::new();
    set(&scene, "net.ipv4.tcp_synack_retries", "3");
    let _listener = scene.listen(4);
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);
    let told = watch.until("the listener", PORT, |l| l.half_open_life_ms > 0);
    assert_eq!(told.half_open_life_ms, 15_000);
    assert_eq!(told.syn_ack_schedule_ms, [1000, 3000, 7000]);
    let before = nstat(&scene);
    let start = Instant::now();
    let peer = scene.raw(4);
    knock(&peer, 3000, 5);
    let told = watch.until("five half-open connections", PORT, |l| l.syn_queue == 5);
    let age = told.syn_queue_oldest_ms.unwrap();
    assert!(age <= start.elapsed().as_millis() as u64 + 1000, "{age}");
    wait::until("the end of all", PATIENCE, || {
        truth::half_open(&scene.server, PORT) == 0
    })
    .unwrap();
    let life = start.elapsed();
    // Timers of the kernel are coarse, and the machine is busy.
    assert!((14_500..18_000).contains(&life.as_millis()), "{life:?}");
    let moved = truth::moved(&before, &nstat(&scene));
    assert_eq!(moved.get("TcpExtTCPTimeouts"), Some(&20), "{moved:#?}");
    assert_eq!(moved.get("TcpExtTCPSynRetrans"), Some(&15), "{moved:#?}");
    assert!(!moved.contains_key("TcpExtListenDrops"), "{moved:#?}");
    for port in 3000..3005 {
        assert_eq!(peer.received(port).len(), 4, "the SYN-ACK and three more");
    }
    watch.until("the SYN-ACKs that were sent again", PORT, |l| {
        l.syn_ack_retransmits == Some(15)
    });
    watch.until("an empty SYN queue", PORT, |l| {
        l.syn_queue == 0 && l.syn_queue_oldest_ms.is_none()
    });
    // With the default it is 63 s.
    set(&scene, "net.ipv4.tcp_synack_retries", "5");
    let told = watch.until("the default", PORT, |l| l.half_open_life_ms == 63_000);
    assert_eq!(told.syn_ack_schedule_ms, [1000, 3000, 7000, 15_000, 31_000]);
}

/// Where most of what was measured lies.
fn mode(buckets: &[Bucket]) -> Bucket {
    *buckets.iter().max_by_key(|b| b.count).unwrap()
}

/// A client that takes 150 ms for its ACK; the next bucket's end is 262 ms.
#[test]
fn handshakes_are_measured_from_the_syn_ack_to_the_ack() {
    const LATENCY: Duration = Duration::from_millis(150);
    const SHAKES: u64 = 20;
    let scene = Scene::new();
    let _listener = scene.listen(6);
    let agent = scene.protect(OFF);
    agent.await_listener(PORT, false).unwrap();
    let watch = Watch::new(&agent);
    let peer = scene.raw(6);
    for port in 3000..3000 + SHAKES as u16 {
        let syn = peer.syn(port);
        let answer = ack(&syn, &peer.syn_ack(&syn).unwrap());
        thread::sleep(LATENCY);
        peer.send(&answer, &[]).unwrap();
    }
    let told = watch.until("all handshakes", PORT, |l| l.funnel.proven == Some(SHAKES));
    let measured = told.handshake.unwrap();
    assert_eq!(measured.count, SHAKES);
    assert_eq!(
        measured.buckets.iter().map(|b| b.count).sum::<u64>(),
        SHAKES
    );
    assert_eq!(mode(&measured.buckets).below_us, 1 << 18, "{measured:?}");
    assert_eq!(measured.p50_us, Some(1 << 18), "{measured:?}");
    // None was faster than the client.
    assert!(measured.buckets[0].below_us >= 1 << 18, "{measured:?}");
    // One that is.
    let _fast = dial(&scene.client, scene.server.at(6, PORT));
    let told = watch.until("a fast one", PORT, |l| l.funnel.proven == Some(SHAKES + 1));
    assert!(told.handshake.unwrap().buckets[0].below_us <= 1 << 16);
}

/// An application that takes each client 400 ms after it came, and one that takes it at once.
#[test]
fn the_wait_for_accept_is_that_of_an_application_with_a_known_delay() {
    const DELAY: Duration = Duration::from_millis(400);
    const CLIENTS: u32 = 120;
    let scene = Scene::new();
    let [late, prompt] = [PORT, OTHER].map(|port| {
        let at = scene.server.at(4, port);
        scene.server.ns.run(|| listener(at, 128, false))
    });
    let agent = scene.protect(OFF);
    agent.await_listener(OTHER, false).unwrap();
    let watch = Watch::new(&agent);
    let told = thread::scope(|scope| {
        let (came, comes) = mpsc::channel::<(Instant, TcpStream)>();
        let (late, prompt) = (&late, &prompt);
        scope.spawn(move || {
            for (at, client) in comes {
                thread::sleep((at + DELAY).saturating_duration_since(Instant::now()));
                drop((accept(late), client));
            }
        });
        scope.spawn(move || {
            for _ in 0..CLIENTS {
                accept(prompt);
            }
        });
        let scene = &scene;
        scope.spawn(move || {
            let mut due = Instant::now();
            for _ in 0..CLIENTS {
                due += Duration::from_millis(110);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let client = dial(&scene.client, scene.server.at(4, PORT));
                came.send((Instant::now(), client)).unwrap();
                dial(&scene.client, scene.server.at(4, OTHER));
            }
        });
        watch.until("connections to come and go", PORT, |l| {
            l.funnel
                .accepted
                .is_some_and(|n| n >= u64::from(CLIENTS) * 9 / 10)
        })
    });
    let measured = told.accept_wait.unwrap();
    let mean = measured.mean_us.unwrap();
    assert!((300_000..500_000).contains(&mean), "{measured:?}");
    assert!(
        measured.histogram.count > u64::from(CLIENTS) / 2,
        "{measured:?}"
    );
    assert_eq!(measured.histogram.p50_us, Some(1 << 19), "{measured:?}");
    assert!(measured.oldest_ms <= 600, "{measured:?}");
    let prompt = watch.listener(OTHER).accept_wait.unwrap();
    assert!(
        prompt.mean_us.is_none_or(|mean| mean < 50_000),
        "{prompt:?}"
    );
    // A wait is no verdict while the queue is far from full.
    watch.assert_healthy(PORT);
    watch.assert_healthy(OTHER);
}

/// Every counter that netmoat shows, once nothing moves.
#[test]
fn the_hosts_counters_are_those_of_nstat_and_rates_those_of_the_clients() {
    const RATE: u32 = 20;
    let scene = Scene::new();
    let listener = scene.listen(6);
    listener.set_nonblocking(true).unwrap();
    let agent = scene.protect(OFF);
    agent.await_listener(PORT, false).unwrap();
    let watch = Watch::new(&agent);
    let at = scene.server.at(6, PORT);
    let clients = Traffic::start(&scene.client, Plan::steady(&[at], RATE));
    let near = |rate: u64| (u64::from(RATE) - 2..=u64::from(RATE) + 2).contains(&rate);
    let rated = |l: &ListenerQueues| near(l.rates.connections) && near(l.rates.accepted);
    watch.until_some("the clients' rate", |queues| {
        while listener.accept().is_ok() {}
        rated(net_tests::queues::watch::listener(queues, PORT)).then_some(())
    });
    clients.stop();
    // Some of each that is shown: overflows, resets, cookies.
    set(&scene, "net.ipv4.tcp_syncookies", "2");
    drop(crowd(&scene.client, at, 10));
    let counters = watch.until_some("counters as nstat has them", |queues| {
        let shown = nstat(&scene);
        let counters = &queues.host.counters;
        counters
            .iter()
            .all(|c| shown.get(&c.name) == Some(&c.total))
            .then(|| counters.clone())
    });
    for name in [
        "TcpExtListenOverflows",
        "TcpExtListenDrops",
        "TcpExtSyncookiesSent",
        "TcpExtSyncookiesRecv",
        "TcpExtSyncookiesFailed",
        "TcpExtTCPReqQFullDoCookies",
        "TcpExtTCPReqQFullDrop",
        "TcpExtTCPTimeWaitOverflow",
    ] {
        let counter = counters.iter().find(|c| c.name == name);
        assert!(
            counter.is_some_and(|c| c.total >= c.since),
            "{name}: {counters:#?}"
        );
    }
    let sent = counters
        .iter()
        .find(|c| c.name == "TcpExtSyncookiesSent")
        .unwrap();
    assert_eq!((sent.total, sent.since), (10, 10));
}

/// R-Q-6: request sockets belong to a port; of listeners on several addresses each has its own.
#[test]
fn half_open_connections_are_of_the_address_that_was_dialled() {
    let scene = Scene::new();
    let _four = scene.listen(4);
    let _six = scene.listen(6);
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);
    let [four, six] = [4, 6].map(|family| scene.raw(family));
    knock(&four, 3000, 3);
    knock(&six, 3000, 8);
    watch.until_some("three and eight half-open connections", |queues| {
        let of = |family| {
            let found = queues.listeners.iter().find(|l| l.family == family);
            found.map(|l| l.syn_queue)
        };
        (of(4) == Some(3) && of(6) == Some(8)).then_some(())
    });
    assert_eq!(truth::half_open(&scene.server, PORT), 11);
}
