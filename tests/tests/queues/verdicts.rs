//! What applications do to their queues: each verdict for real, and beside it an application that lives through the same
//! and is healthy.

use std::time::Duration;

use net_tests::{
    queues::{
        OFF, OTHER,
        app::Application,
        both,
        traffic::{Plan, Traffic, crowd},
        truth,
        watch::{Watch, words},
    },
    scene::{PATIENCE, PORT, Scene, dial},
    wait,
};
use net_user::control::queues::{Confidence, VerdictKind};

/// Nobody is in the queue of either application.
fn await_empty(scene: &Scene, port: u16) {
    wait::until("an empty accept queue", PATIENCE, || {
        truth::listening(&scene.server, port)
            .iter()
            .all(|socket| socket.accept_queue == 0)
    })
    .unwrap();
}

/// R-Q-1, R-Q-3, R-Q-7.
#[test]
fn an_application_that_does_not_accept_is_named_until_it_does() {
    const BACKLOG: u32 = 16;
    let scene = Scene::new();
    let [stuck_at, other_at] = both(&scene, 4);
    let ns = &scene.server.ns;
    let stuck = Application::start(ns, "shop", stuck_at, "--backlog 16 --stuck");
    let other = Application::start(ns, "till", other_at, "--backlog 128");
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let watch = Watch::new(&agent);
    let before = truth::nstat(&scene.server);
    let clients: Vec<_> = [stuck_at, other_at]
        .map(|to| crowd(&scene.client, to, 40))
        .into();

    // One more than the backlog, and those beyond it are counted.
    let full = || truth::listener(&scene.server, PORT).accept_queue == BACKLOG + 1;
    wait::until("a full accept queue", PATIENCE, full).unwrap();
    let (listener, verdict) = watch.verdict(PORT, VerdictKind::AcceptFull);
    let said = words(&verdict);
    assert!(
        said.contains("shop") && said.contains(&stuck.pid().to_string()),
        "{said}"
    );
    assert_eq!(verdict.confidence, Confidence::High);
    let socket = truth::listener(&scene.server, PORT);
    assert_eq!((socket.limit, socket.pid), (BACKLOG, stuck.pid()));
    assert!(listener.accept_full);
    assert_eq!(
        (listener.accept_queue, listener.accept_queue_limit),
        (BACKLOG + 1, BACKLOG)
    );
    assert_eq!(listener.sockets.len(), 1);
    assert_eq!(listener.sockets[0].inode, socket.inode);
    let owner = listener.sockets[0].process.clone().unwrap();
    assert_eq!((owner.pid, &owner.name[..]), (stuck.pid(), "shop"));
    let wait = listener.accept_wait.unwrap();
    assert!(wait.oldest_ms >= 2000, "{wait:?}");
    let moved = truth::moved(&before, &truth::nstat(&scene.server));
    assert!(moved["TcpExtListenOverflows"] > 0 && moved["TcpExtListenDrops"] > 0);
    assert!(socket.drops > 0);

    // A full accept queue is not called a flood, and the other application has the same clients.
    let listener = watch.listener(OTHER);
    let owner = listener.sockets[0].process.clone().unwrap();
    assert_eq!((owner.pid, &owner.name[..]), (other.pid(), other.name()));
    stuck.unstick();
    await_empty(&scene, PORT);
    watch.healthy(PORT);
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::AcceptFull]);
    watch.assert_healthy(OTHER);
    watch.assert_host_healthy();
    drop(clients);
}

#[test]
fn of_a_reuseport_group_the_member_that_does_not_accept_is_named() {
    let scene = Scene::new();
    let to = scene.server.at(6, PORT);
    let member = |name, options: &str| {
        let options = format!("--backlog 8 --reuse-port {options}");
        Application::start(&scene.server.ns, name, to, &options)
    };
    let members = [
        member("one", ""),
        member("two", "--stuck"),
        member("three", ""),
    ];
    let agent = scene.protect(OFF);
    agent.await_listener(PORT, false).unwrap();
    let watch = Watch::new(&agent);
    let clients = Traffic::start(&scene.client, Plan::steady(&[to], 10));
    wait::until("a full accept queue", PATIENCE, || {
        let sockets = truth::listening(&scene.server, PORT);
        sockets
            .iter()
            .any(|s| s.pid == members[1].pid() && s.accept_queue == 9)
    })
    .unwrap();
    let (listener, verdict) = watch.verdict(PORT, VerdictKind::AcceptFull);
    let said = words(&verdict);
    let [one, two, three] = members.each_ref().map(|member| member.pid().to_string());
    assert!(said.contains("two") && said.contains(&two), "{said}");
    assert!(!said.contains(&one) && !said.contains(&three), "{said}");
    assert_eq!(
        (listener.accept_queue_limit, listener.sockets.len()),
        (24, 3)
    );
    for socket in &listener.sockets {
        let owner = socket.process.as_ref().unwrap();
        let member = members.iter().find(|m| m.pid() == owner.pid).unwrap();
        assert_eq!(owner.name, member.name());
        assert_eq!(
            socket.accept_queue > socket.accept_queue_limit,
            member.name() == "two"
        );
    }
    // The same clients, once all accept.
    members[1].unstick();
    watch.healthy(PORT);
    assert!(clients.stop() > 20);
    // Until the queue was full, all there was to see was how long the first of it waited.
    watch.assert_only(
        PORT,
        &[
            VerdictKind::Healthy,
            VerdictKind::SlowApp,
            VerdictKind::AcceptFull,
        ],
    );
}

#[test]
fn an_application_that_accepts_slower_than_clients_come_is_told_from_one_that_keeps_up() {
    let scene = Scene::new();
    let ports = both(&scene, 4);
    let ns = &scene.server.ns;
    let slow = Application::start(ns, "slow", ports[0], "--backlog 32 --pace-ms 300");
    let _fast = Application::start(ns, "fast", ports[1], "--backlog 32");
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let watch = Watch::new(&agent);
    let clients = Traffic::start(
        &scene.client,
        Plan {
            // They wait for their turn.
            stay: Duration::from_secs(60),
            ..Plan::steady(&ports, 12)
        },
    );
    let (listener, verdict) = watch.verdict(PORT, VerdictKind::SlowApp);
    let said = words(&verdict);
    assert!(
        said.contains("slow") && said.contains(&slow.pid().to_string()),
        "{said}"
    );
    // Three a second are accepted.
    assert!(
        (2..=4).contains(&listener.rates.accepted),
        "{:?}",
        listener.rates
    );
    assert!(truth::listener(&scene.server, PORT).accept_queue > 8);
    assert!(clients.stop() > 20);
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::SlowApp]);
    watch.assert_healthy(OTHER);
}

/// R-Q-3: both work in rounds of 20 ms; between two of them a burst needs a backlog.
#[test]
fn a_backlog_of_four_under_bursts_of_honest_clients_is_too_small_and_one_of_4096_is_not() {
    let scene = Scene::new();
    let ports = both(&scene, 6);
    let ns = &scene.server.ns;
    let _small = Application::start(ns, "small", ports[0], "--backlog 4 --round-ms 20");
    let _large = Application::start(ns, "large", ports[1], "--backlog 4096 --round-ms 20");
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let watch = Watch::new(&agent);
    let before = truth::nstat(&scene.server);
    let clients = Traffic::start(
        &scene.client,
        Plan {
            burst: 25,
            every: Duration::from_millis(900),
            stay: Duration::from_secs(5),
            ..Plan::steady(&ports, 1)
        },
    );
    let (_, verdict) = watch.verdict(PORT, VerdictKind::BacklogTooSmall);
    let said = words(&verdict);
    assert!(said.contains("TcpExtListenOverflows"), "{said}");
    assert!(said.to_lowercase().contains("backlog"), "{said}");
    clients.stop();
    let moved = truth::moved(&before, &truth::nstat(&scene.server));
    assert!(moved["TcpExtListenOverflows"] > 0);
    let small = || truth::listener(&scene.server, PORT);
    let told = watch.until("the drops of ss", PORT, |l| {
        l.sockets[0].drops == small().drops
    });
    assert!(told.sockets[0].drops > 0);
    assert_eq!(
        (small().limit, truth::listener(&scene.server, OTHER).limit),
        (4, 4096)
    );
    assert_eq!(truth::listener(&scene.server, OTHER).drops, 0);
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::BacklogTooSmall]);
    watch.assert_healthy(OTHER);
}

#[test]
fn syn_acks_that_are_lost_on_their_way_are_told_from_those_that_arrive() {
    let scene = Scene::new();
    let ports = both(&scene, 4);
    let ns = &scene.server.ns;
    let _apps = ports.map(|at| Application::start(ns, "app", at, ""));
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);
    scene
        .client
        .ns
        .nft(&format!(
            "table inet lossy {{\nchain in {{\ntype filter hook input priority 0\n\
             tcp sport {PORT} tcp flags & (syn|ack) == syn|ack numgen random mod 2 0 drop\n}}\n}}"
        ))
        .unwrap();
    let clients = Traffic::start(
        &scene.client,
        Plan {
            stay: Duration::from_secs(20),
            ..Plan::steady(&ports, 12)
        },
    );
    let (listener, _) = watch.verdict(PORT, VerdictKind::SynAckLoss);
    assert!(listener.syn_ack_retransmits.unwrap() > 5);
    assert!(listener.established_late.unwrap() > 5);
    let other = watch.listener(OTHER);
    assert_eq!(
        (other.syn_ack_retransmits, other.established_late),
        (Some(0), Some(0))
    );
    assert!(other.handshake.unwrap().count > 20);
    let nstat = truth::nstat(&scene.server);
    assert!(nstat["TcpExtTCPSynRetrans"] >= listener.syn_ack_retransmits.unwrap());
    clients.stop();
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::SynAckLoss]);
    watch.assert_healthy(OTHER);
}

/// R-Q-7: both park clients that have answered as request sockets.
#[test]
fn neither_tcp_defer_accept_with_idle_clients_nor_a_full_accept_queue_is_called_a_flood() {
    const IDLE: usize = 14;
    let scene = Scene::new();
    let [full_at, deferring_at] = both(&scene, 4);
    let ns = &scene.server.ns;
    let _full = Application::start(ns, "full", full_at, "--backlog 16 --stuck");
    let _deferring = Application::start(
        ns,
        "deferring",
        deferring_at,
        "--backlog 16 --defer-accept 30",
    );
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);

    let idle: Vec<_> = (0..IDLE)
        .map(|_| dial(&scene.client, deferring_at))
        .collect();
    // These have their SYN-ACK before the queue fills, and answer it after.
    let peer = scene.raw(4);
    let ports = 2000..2000 + IDLE as u16;
    let handshakes: Vec<_> = ports
        .map(|port| {
            let syn = peer.syn(port);
            let syn_ack = peer.syn_ack(&syn).unwrap();
            (syn, syn_ack)
        })
        .collect();
    let clients: Vec<_> = (0..17).map(|_| dial(&scene.client, full_at)).collect();
    for (syn, syn_ack) in &handshakes {
        peer.send(&net_tests::prog_run::ack(syn, syn_ack), &[])
            .unwrap();
    }
    assert_eq!(truth::listener(&scene.server, PORT).accept_queue, 17);
    for port in [PORT, OTHER] {
        assert_eq!(
            truth::half_open(&scene.server, port),
            IDLE as u32,
            "port {port}"
        );
    }
    watch.verdict(PORT, VerdictKind::AcceptFull);
    let parked = watch.until("clients known as acknowledged", OTHER, |l| {
        l.syn_queue_acked == IDLE as u32
    });
    assert_eq!(
        (parked.syn_queue, parked.syn_queue_limit),
        (IDLE as u32, 16)
    );
    assert_eq!(truth::half_open(&scene.server, OTHER), IDLE as u32);
    watch.on(Duration::from_secs(5));
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::AcceptFull]);
    watch.assert_healthy(OTHER);
    drop((idle, clients));
}

#[test]
fn an_application_that_never_closes_what_its_clients_closed_is_named_and_one_that_does_late_is_not()
{
    let scene = Scene::new();
    let ports = both(&scene, 6);
    let ns = &scene.server.ns;
    let leaky = Application::start(ns, "leaky", ports[0], "--then keep");
    let late = Application::start(ns, "late", ports[1], "--then follow --linger-ms 1000");
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);
    let clients = Traffic::start(&scene.client, Plan::steady(&ports, 4));
    let (listener, verdict) = watch.verdict(PORT, VerdictKind::CloseWaitLeak);
    let said = words(&verdict);
    assert!(
        said.contains("leaky") && said.contains(&leaky.pid().to_string()),
        "{said}"
    );
    assert!(!said.contains(&late.pid().to_string()), "{said}");
    let states = listener.states.unwrap();
    assert!(states.close_wait_old >= 8, "{states:?}");
    let now = truth::in_state(&scene.server, PORT, "CLOSE-WAIT");
    assert!(
        states.close_wait <= now && states.close_wait + 40 > now,
        "{states:?}, {now}"
    );
    // The near miss is one: it has connections in CLOSE_WAIT all the time.
    let queues = watch.until_some("connections that the late one closes", |queues| {
        let states = net_tests::queues::watch::listener(queues, OTHER).states?;
        (states.close_wait > 0 && states.close_wait_old == 0).then(|| queues.clone())
    });
    let process = |pid| {
        let found = queues.host.processes.iter().find(|p| p.process.pid == pid);
        found.unwrap_or_else(|| panic!("{:#?}", queues.host.processes))
    };
    let leaky = process(leaky.pid());
    assert_eq!(leaky.process.name, "leaky");
    assert!(leaky.states.close_wait >= 8, "{leaky:?}");
    clients.stop();
    watch.assert_only(PORT, &[VerdictKind::Healthy, VerdictKind::CloseWaitLeak]);
    watch.assert_healthy(OTHER);
}
