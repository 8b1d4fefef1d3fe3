//! TCP states to the end of life, and what the host runs out of.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use net_tests::{
    agent::Agent,
    queues::{
        OFF,
        app::Application,
        traffic::{Plan, Traffic},
        truth,
        watch::Watch,
    },
    scene::{PATIENCE, PORT, Scene, dial, listener},
    wait,
};
use net_user::control::queues::{States, VerdictKind};
use nix::errno::Errno;

/// Loses what the client sends to [`PORT`] from now on, or with `false` no more.
fn lose(scene: &Scene, lost: bool) {
    let rules = if lost {
        format!(
            "table inet lossy {{\nchain in {{\ntype filter hook input priority 0\n\
             tcp dport {PORT} drop\n}}\n}}"
        )
    } else {
        "delete table inet lossy".to_owned()
    };
    scene.server.ns.nft(&rules).unwrap();
}

/// Waits until `ss` shows so many sockets of [`PORT`] in a state.
fn await_state(scene: &Scene, state: &str, count: u32) {
    wait::until(&format!("{count} in {state}"), PATIENCE, || {
        truth::in_state(&scene.server, PORT, state) == count
    })
    .unwrap();
}

fn pairs(
    scene: &Scene,
    listener: &TcpListener,
    family: u8,
    count: usize,
) -> Vec<(TcpStream, TcpStream)> {
    (0..count)
        .map(|_| scene.connect(listener, family))
        .collect()
}

/// All states of a listener and of the host are those of `ss`, once nothing moves.
fn await_states_of_ss(scene: &Scene, watch: &Watch) -> States {
    let shown = truth::states(&scene.server, &format!("sport = :{PORT}"));
    let count = |state: &str| shown.get(state).copied().unwrap_or(0);
    watch
        .until("the states of ss", PORT, |l| {
            l.states.is_some_and(|s| {
                [
                    (s.established, "ESTAB"),
                    (s.fin_wait_1, "FIN-WAIT-1"),
                    (s.fin_wait_2, "FIN-WAIT-2"),
                    (s.close_wait, "CLOSE-WAIT"),
                    (s.last_ack, "LAST-ACK"),
                    (s.time_wait, "TIME-WAIT"),
                    (s.syn_recv, "SYN-RECV"),
                    (s.closing, "CLOSING"),
                ]
                .iter()
                .all(|(told, state)| *told == count(state))
            })
        })
        .states
        .unwrap()
}

#[test]
fn every_state_is_counted_as_ss_does_and_fins_that_are_sent_again_are_told() {
    let scene = Scene::new();
    let family = 6;
    let listener = scene.listen(family);
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);
    let open = pairs(&scene, &listener, family, 5);
    let mut half_closed = pairs(&scene, &listener, family, 4);
    let closing = pairs(&scene, &listener, family, 3);
    let ended = pairs(&scene, &listener, family, 6);
    let orphaned = pairs(&scene, &listener, family, 7);

    // TIME_WAIT: the server closes first, then the client.
    for (client, server) in ended {
        drop(server);
        assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0);
    }
    await_state(&scene, "TIME-WAIT", 6);
    // FIN_WAIT_2 without a process: the client does not close.
    let waiting: Vec<_> = orphaned.into_iter().map(|(client, _)| client).collect();
    await_state(&scene, "FIN-WAIT-2", 7);
    // CLOSE_WAIT: the client closed, the server does not.
    for (client, server) in &mut half_closed {
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
    }
    await_state(&scene, "CLOSE-WAIT", 4);
    // FIN_WAIT_1 and LAST_ACK: the FIN is not acknowledged.
    lose(&scene, true);
    let lost: Vec<_> = closing.into_iter().map(|(client, _)| client).collect();
    await_state(&scene, "FIN-WAIT-1", 3);
    let last: Vec<_> = half_closed.drain(..2).map(|(client, _)| client).collect();
    await_state(&scene, "LAST-ACK", 2);
    assert_eq!(truth::in_state(&scene.server, PORT, "CLOSE-WAIT"), 2);

    let states = await_states_of_ss(&scene, &watch);
    assert_eq!((states.established, states.time_wait), (5, 6), "{states:?}");
    assert_eq!((states.fin_wait_1, states.last_ack), (3, 2), "{states:?}");
    let states = watch
        .until("FINs to be sent again", PORT, |l| {
            l.states
                .is_some_and(|s| (s.fin_wait_1_retransmitting, s.last_ack_retransmitting) == (3, 2))
        })
        .states
        .unwrap();
    assert_eq!(
        (states.fin_wait_2, states.fin_wait_2_orphaned),
        (7, 7),
        "{states:?}"
    );
    lose(&scene, false);
    drop((open, waiting, lost, last, half_closed));
}

/// R-Q-8.
#[test]
fn orphans_in_fin_wait_2_end_after_tcp_fin_timeout_and_those_of_a_process_do_not() {
    let scene = Scene::new();
    scene
        .server
        .ns
        .sysctl("net.ipv4.tcp_fin_timeout", "12")
        .unwrap();
    let family = 4;
    let listener = scene.listen(family);
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);
    let ours = pairs(&scene, &listener, family, 2);
    for (_, server) in &ours {
        server.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let orphans: Vec<_> = pairs(&scene, &listener, family, 5)
        .into_iter()
        .map(|(client, _)| client)
        .collect();
    await_state(&scene, "FIN-WAIT-2", 7);
    let told = watch.until("orphans in FIN_WAIT_2", PORT, |l| {
        l.states
            .is_some_and(|s| (s.fin_wait_2, s.fin_wait_2_orphaned) == (7, 5))
    });
    let timeout = told
        .settings
        .iter()
        .find(|s| s.name == "net.ipv4.tcp_fin_timeout");
    assert_eq!(
        timeout.map(|s| s.value.as_str()),
        Some("12"),
        "{:#?}",
        told.settings
    );
    let told = watch.until("the orphans to go", PORT, |l| {
        l.states.is_some_and(|s| s.fin_wait_2_orphaned == 0)
    });
    assert_eq!(told.states.unwrap().fin_wait_2, 2);
    assert_eq!(truth::in_state(&scene.server, PORT, "FIN-WAIT-2"), 2);
    drop((ours, orphans));
}

/// The kernel's own count (`/proc/net/sockstat`) is the limit's measure.
fn time_wait(scene: &Scene) -> u32 {
    truth::in_state(&scene.server, PORT, "TIME-WAIT")
}

/// R-Q-8: beyond the limit TIME_WAIT is skipped and counted.
#[test]
fn time_wait_at_its_limit_is_told_and_the_same_churn_below_it_is_not() {
    const RATE: u32 = 25;
    let scene = Scene::new();
    let to = scene.server.at(4, PORT);
    let _app = Application::start(&scene.server.ns, "app", to, "--then close");
    let agent = scene.protect(OFF);
    let watch = Watch::new(&agent);
    let clients = Traffic::start(&scene.client, Plan::steady(&[to], RATE));
    // What enters TIME_WAIT a second stays for 60 s.
    let expected = u64::from(RATE) * 60;
    let queues = watch.until_some("what is to be expected", |queues| {
        let told = queues.host.time_wait_expected?;
        (expected * 8 / 10..=expected * 12 / 10)
            .contains(&told)
            .then(|| queues.clone())
    });
    assert_eq!(
        queues.host.time_wait_limit.to_string(),
        sysctl(&scene, "tcp_max_tw_buckets")
    );
    let least = time_wait(&scene);
    let told = watch.look().host.time_wait;
    let most = time_wait(&scene);
    // A look of the agent may be a second old.
    assert!(
        (least.saturating_sub(RATE * 2)..=most + RATE).contains(&told),
        "{least} {told} {most}"
    );
    assert!(truth::nstat(&scene.server)["TcpExtTCPTimeWaitOverflow"] == 0);
    watch.assert_host_healthy();

    scene
        .server
        .ns
        .sysctl("net.ipv4.tcp_max_tw_buckets", "40")
        .unwrap();
    let (queues, verdict) = watch.host_verdict(VerdictKind::TimeWaitPressure);
    let said = net_tests::queues::watch::words(&verdict);
    assert!(said.contains("tcp_max_tw_buckets"), "{said}");
    assert_eq!(queues.host.time_wait_limit, 40);
    assert!(truth::nstat(&scene.server)["TcpExtTCPTimeWaitOverflow"] > 0);
    clients.stop();
}

fn sysctl(scene: &Scene, name: &str) -> String {
    scene
        .server
        .ns
        .read_sysctl(&format!("net.ipv4.{name}"))
        .unwrap()
}

/// Connections of the server to the client, until there are `count` or no port is left.
fn open(scene: &Scene, to: SocketAddr, count: usize) -> Vec<TcpStream> {
    scene.server.ns.run(|| {
        let mut made = Vec::new();
        while made.len() < count {
            match TcpStream::connect_timeout(&to, PATIENCE) {
                Ok(stream) => made.push(stream),
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(Errno::EADDRNOTAVAIL as i32));
                    break;
                }
            }
        }
        made
    })
}

#[test]
fn a_destination_for_which_no_port_is_left_is_told_and_one_with_half_of_them_is_not() {
    const PORTS: u32 = 100;
    let scene = Scene::new();
    scene
        .server
        .ns
        .sysctl("net.ipv4.ip_local_port_range", "40000 40099")
        .unwrap();
    let [full, half] = [9000, 9001].map(|port| scene.client.at(6, port));
    let _listeners = [full, half].map(|at| scene.client.ns.run(|| listener(at, 1024, false)));
    let agent = scene.protect("");
    let watch = Watch::new(&agent);
    let mut connections = open(&scene, half, PORTS as usize / 2);
    connections.extend(open(&scene, full, PORTS as usize / 2));
    let used = |agent: &Watch, to: SocketAddr| {
        let host = agent.look().host;
        assert_eq!(host.ephemeral_ports, PORTS);
        let found = host
            .destinations
            .iter()
            .find(|d| (&d.address, d.port) == (&to.ip().to_string(), to.port()));
        found.map_or(0, |d| d.ports_used)
    };
    watch.until_some("half of the ports", |_| {
        [full, half]
            .iter()
            .all(|to| used(&watch, *to) == PORTS / 2)
            .then_some(())
    });
    watch.on(Duration::from_secs(6));
    watch.assert_host_healthy();

    connections.extend(open(&scene, full, usize::MAX));
    assert_eq!(connections.len() as u32, PORTS / 2 + PORTS);
    let shown = truth::states(&scene.server, &format!("dport = :{}", full.port()));
    assert_eq!(shown["ESTAB"], PORTS);
    let (queues, verdict) = watch.host_verdict(VerdictKind::PortExhaustion);
    let said = net_tests::queues::watch::words(&verdict);
    assert!(
        said.contains(&full.ip().to_string()) && said.contains("9000"),
        "{said}"
    );
    assert!(said.contains("ip_local_port_range"), "{said}");
    assert_eq!(queues.host.destinations[0].ports_used, PORTS);
    assert_eq!(used(&watch, half), PORTS / 2);
    drop(connections);
}

/// The stages of a listener's connections are exact, whoever answered its SYNs.
#[test]
fn the_funnel_counts_every_connection_to_its_end() {
    for (config, family) in [("[syn]\nmode = \"always\"", 6), (OFF, 4)] {
        let scene = Scene::new();
        let listener = scene.listen(family);
        let agent = scene.protect(config);
        agent.await_listener(PORT, config != OFF).unwrap();
        let watch = Watch::new(&agent);
        funnel(&scene, &listener, family, &agent, &watch, config != OFF);
    }
}

fn funnel(
    scene: &Scene,
    listener: &TcpListener,
    family: u8,
    agent: &Agent,
    watch: &Watch,
    cookies: bool,
) {
    let open = pairs(scene, listener, family, 5);
    // In order: by the client, and by the server.
    for (client, server) in pairs(scene, listener, family, 20) {
        drop(client);
        assert_eq!((&server).read(&mut [0; 1]).unwrap(), 0);
    }
    for (client, server) in pairs(scene, listener, family, 5) {
        drop(server);
        assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0);
    }
    // Reset by the client, and by the server: each had data to read when it closed.
    for (client, mut server) in pairs(scene, listener, family, 7) {
        server.write_all(b"unread").unwrap();
        client.peek(&mut [0; 1]).unwrap();
        drop(client);
        server.read(&mut [0; 1]).unwrap_err();
    }
    for (mut client, server) in pairs(scene, listener, family, 3) {
        client.write_all(b"unread").unwrap();
        server.peek(&mut [0; 1]).unwrap();
        drop(server);
        client.read(&mut [0; 1]).unwrap_err();
    }
    let all = 5 + 25 + 10;
    let told = watch.until("all connections", PORT, |l| {
        let funnel = &l.funnel;
        (funnel.proven, funnel.accepted) == (Some(all), Some(all))
            && (funnel.closed, funnel.reset, funnel.open) == (Some(25), Some(10), Some(5))
    });
    assert_eq!(told.resets_received, Some(7));
    let funnel = told.funnel;
    if cookies {
        assert_eq!(
            (funnel.syns, funnel.answered_cookie),
            (Some(all), Some(all))
        );
        assert_eq!(
            (funnel.left_to_kernel, funnel.not_answered),
            (Some(0), Some(0))
        );
        assert_eq!(funnel.proven_cookie, Some(all));
        // A cookie leaves no time to measure from.
        assert_eq!(told.handshake.unwrap().count, 0);
    } else {
        assert_eq!(
            (funnel.syns, funnel.answered_cookie, funnel.proven_cookie),
            (None, None, None)
        );
        assert_eq!(told.handshake.unwrap().count, all);
    }
    assert_eq!(told.syn_ack_retransmits, Some(0));
    assert_eq!(told.established_late, Some(0));
    assert_eq!(u64::from(truth::in_state(&scene.server, PORT, "ESTAB")), 5);
    net_tests::scene::assert_sound(agent);
    drop((open, dial(&scene.client, scene.server.at(family, PORT))));
}
