//! Agents that end and start again, with programs that stay (`on_exit = "keep"`).

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::{
    maps::{Array, Map, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use net_common::{abi::CookieKeys, verdict::Reason};
use net_tests::{
    agent::{Agent, Instance},
    server::{Server, visit},
    topology::{Host, Lan},
    wait,
};
use net_user::control::protocol::Health;
use serde_json::Value;

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);
/// Too short for a connection whose first SYN is lost.
const AT_ONCE: Duration = Duration::from_millis(900);
const ALWAYS: &str = "[syn]\nmode = \"always\"";

/// A protected server and a client.
struct Scene {
    client: Host,
    server: Host,
    _service: Server,
    instance: Instance,
    _lan: Lan,
}

fn scene() -> Scene {
    let lan = Lan::new().unwrap();
    let [server, client] = ["server", "client"].map(|role| lan.host(role).unwrap());
    let wildcard = (std::net::Ipv6Addr::UNSPECIFIED, PORT).into();
    Scene {
        client,
        _service: Server::start(&server.ns, wildcard).unwrap(),
        server,
        instance: Instance::new().unwrap(),
        _lan: lan,
    }
}

impl Scene {
    fn visit(&self) -> anyhow::Result<()> {
        visit(&self.client.ns, self.server.at(4, PORT), AT_ONCE)
    }

    fn protecting(&self, config: &str) -> Agent {
        let agent = self.instance.start(&self.server, config).unwrap();
        agent.await_listener(PORT, true).unwrap();
        agent
    }
}

/// Ids of the XDP program and of the TCX programs of an interface.
fn programs(host: &Host, interface: &str) -> (Option<u64>, Vec<u32>) {
    let shown = host
        .ns
        .succeed(Command::new("ip").args(["-j", "link", "show", interface]))
        .unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let tcx = host.ns.run(|| {
        [TcAttachType::Ingress, TcAttachType::Egress]
            .map(|direction| SchedClassifier::query_tcx(interface, direction).unwrap().1)
    });
    let tcx = tcx.iter().flatten().map(|p| p.id()).collect();
    (shown[0]["xdp"]["prog"]["id"].as_u64(), tcx)
}

fn keys(instance: &Instance) -> CookieKeys {
    let map = MapData::from_pin(instance.pins().join("maps/COOKIE_KEYS-1")).unwrap();
    let keys: Array<_, CookieKeys> = Map::Array(map).try_into().unwrap();
    keys.get(&0, 0).unwrap()
}

#[test]
fn c_47_after_sigkill_protection_goes_on_and_blocks_end_on_time() {
    let scene = scene();
    let mut agent = scene.protecting(ALWAYS);
    let before = programs(&scene.server, "eth0");
    scene.visit().unwrap();
    let blocked = agent
        .netmoat(&[
            "block",
            "add",
            &scene.client.v4.to_string(),
            "--for",
            "8s",
            "--force",
        ])
        .unwrap();
    let since = Instant::now();
    assert!(blocked.status.success(), "{blocked:?}");
    agent.kill().unwrap();
    assert_eq!(
        programs(&scene.server, "eth0"),
        before,
        "nothing was taken off"
    );
    scene
        .visit()
        .expect_err("the block stands without the agent");
    let other = scene.server.at(6, PORT);
    visit(&scene.client.ns, other, AT_ONCE).expect("a cookie needs no agent");
    wait::until(
        "the block to end by itself",
        Duration::from_secs(15),
        || scene.visit().is_ok(),
    )
    .unwrap();
    assert!(
        since.elapsed() >= Duration::from_secs(8),
        "{:?}",
        since.elapsed()
    );
    let again = scene.protecting(ALWAYS);
    assert!(
        again.packets(Reason::Blocked).unwrap() > 0,
        "the counters go on"
    );
}

#[test]
fn c_48_a_restart_takes_over_keys_counters_and_links_without_a_lost_handshake() {
    let scene = scene();
    let mut agent = scene.protecting(ALWAYS);
    scene.visit().unwrap();
    let (sent, keys_before) = (
        agent.packets(Reason::CookieSent).unwrap(),
        keys(&scene.instance),
    );
    let before = programs(&scene.server, "eth0");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let visits = scope.spawn(|| {
            let mut visits = 0;
            while !done.load(Ordering::Relaxed) {
                scene
                    .visit()
                    .unwrap_or_else(|e| panic!("visit {visits}: {e:#}"));
                visits += 1;
                // Below the share of SYN-ACKs of one source.
                thread::sleep(Duration::from_millis(5));
            }
            visits
        });
        for end in 0..4 {
            if end % 2 == 0 {
                agent.kill().unwrap();
            } else {
                assert!(agent.terminate().unwrap().success());
            }
            agent = scene.instance.start(&scene.server, ALWAYS).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(visits.join().unwrap() > 20);
    });
    let after = programs(&scene.server, "eth0");
    assert_eq!(after.1.len(), before.1.len(), "nothing is attached twice");
    assert!(
        after.0.is_some() && after.0 != before.0,
        "the programs are the new agent's"
    );
    assert_eq!(
        keys(&scene.instance),
        keys_before,
        "pending cookies stay good"
    );
    assert!(agent.packets(Reason::CookieSent).unwrap() > sent);
    let status = agent.status().unwrap();
    assert_eq!(status.health, Health::Ok, "{:?}", status.problems);
    assert_eq!(
        agent.packets(Reason::SynUntended).unwrap(),
        0,
        "no listener changed"
    );
}

#[test]
fn c_49_an_attach_that_fails_on_the_second_interface_leaves_the_old_state_in_force() {
    let scene = scene();
    let mut agent = scene.protecting(ALWAYS);
    agent.kill().unwrap();
    let before = programs(&scene.server, "eth0");
    // The driver takes no native program while the other end may send on more queues than this end has
    // (`veth_xdp_set`, drivers/net/veth.c).
    let lines = "link add wide numtxqueues 4 type veth peer name narrow numrxqueues 1\n\
                 link set narrow up\nlink set wide up";
    scene.server.ns.ip(lines).unwrap();
    let config = format!("xdp_mode = \"native\"\n{ALWAYS}");
    let both = scene
        .instance
        .launch_on(&scene.server.ns, &["eth0", "narrow"], &config)
        .unwrap();
    let (code, log) = both.refusal().unwrap();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("narrow: XDP cannot be attached"), "{log}");
    assert_eq!(programs(&scene.server, "eth0"), before);
    assert_eq!(programs(&scene.server, "narrow"), (None, vec![]));
    scene.visit().expect("the old programs go on");
    let again = scene.protecting(ALWAYS);
    assert_eq!(again.status().unwrap().health, Health::Ok);
}

#[test]
fn c_49_a_start_that_is_killed_at_any_point_leaves_protection_in_force() {
    let scene = scene();
    let mut agent = scene.protecting(ALWAYS);
    agent.kill().unwrap();
    // In a debug build a start takes a second or two.
    for delay in [50, 300, 700, 1000, 1200, 1400, 1600, 2000] {
        let mut cut_off = scene.instance.launch(&scene.server, ALWAYS).unwrap();
        // The point of the start is what is to be chosen here.
        thread::sleep(Duration::from_millis(delay));
        cut_off.kill().unwrap();
        let (xdp, tcx) = programs(&scene.server, "eth0");
        assert!(
            xdp.is_some() && tcx.len() == 2,
            "after {delay} ms: {xdp:?} {tcx:?}"
        );
        scene
            .visit()
            .unwrap_or_else(|e| panic!("after {delay} ms: {e:#}"));
    }
    let agent = scene.protecting(ALWAYS);
    assert_eq!(agent.status().unwrap().health, Health::Ok);
    assert!(agent.packets(Reason::CookieSent).unwrap() >= 8);
    let left: Vec<_> = fs::read_dir(scene.instance.pins().join("maps"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with("-new"))
        .collect();
    assert_eq!(left, [""; 0], "half-made pins are gone");
}

#[test]
fn a_listener_that_opens_without_an_agent_is_left_to_the_kernel_until_there_is_one() {
    let scene = scene();
    let mut agent = scene.protecting(ALWAYS);
    let address = scene.server.at(4, 9090);
    let open = || Server::start(&scene.server.ns, address).unwrap();
    let service = open();
    agent.await_listener(9090, true).unwrap();
    agent.kill().unwrap();
    drop(service);
    let _service = open();
    // Cookies go on until the agent's last sign is 5 s old.
    wait::until(
        "the port to be left to the kernel",
        Duration::from_secs(10),
        || {
            visit(&scene.client.ns, address, AT_ONCE).unwrap();
            counter(&scene.instance, Reason::SynUntended) > 0
        },
    )
    .unwrap();
    let cookies = counter(&scene.instance, Reason::CookieSent);
    scene.visit().unwrap();
    assert!(
        counter(&scene.instance, Reason::CookieSent) > cookies,
        "the other port is protected as before"
    );
    let agent = scene.protecting(ALWAYS);
    agent.await_listener(9090, true).unwrap();
    let untended = agent.packets(Reason::SynUntended).unwrap();
    visit(&scene.client.ns, address, SOON).unwrap();
    assert_eq!(agent.packets(Reason::SynUntended).unwrap(), untended);
}

fn counter(instance: &Instance, reason: Reason) -> u64 {
    let map = MapData::from_pin(instance.pins().join("maps/COUNTERS-1")).unwrap();
    let cells: aya::maps::PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into().unwrap();
    cells.get(&(reason as u32), 0).unwrap().iter().sum()
}
