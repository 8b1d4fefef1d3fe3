//! What operators do to a running defence, in the middle of a flood: honest clients lose nothing that the deed does not
//! explain, and a blocked stranger never gets in.

use std::{process::Command, time::Duration};

use net_tests::{
    agent::{Agent, Instance},
    builds,
    flood::SOURCES_V4,
    lab::{Flooding, Generator},
    link,
    scene::{ALWAYS, PATIENCE, PORT, Scene, accept, dial},
    vigil::{self, Vigil, gets_in},
    wait,
};
use net_user::control::protocol::Health;
use nix::sys::signal::Signal;
use serde_json::Value;

/// How soon a datagram that nothing stops arrives.
const SOON: Duration = Duration::from_secs(5);
/// How long it is tried in vain; the vigil tries for much longer.
const IN_VAIN: Duration = Duration::from_millis(200);

/// A server under a flood, with protection that stays in the kernel.
struct Siege {
    flooding: Option<Flooding>,
    _generator: Generator,
    instance: Instance,
    scene: Scene,
    family: u8,
}

impl Siege {
    /// The flood rages and the agent protects; before, the stranger got in.
    fn begin(family: u8) -> (Self, Agent) {
        let scene = Scene::new();
        assert!(gets_in(&scene, &scene.attacker, family, SOON));
        let instance = Instance::new().unwrap();
        let agent = instance
            .start(&scene.server, &(vigil::block(&scene) + ALWAYS))
            .unwrap();
        assert!(!gets_in(&scene, &scene.attacker, family, IN_VAIN));
        let generator = Generator::new(&scene.attacker).unwrap();
        let flooding = scene.flood(&generator, family, PORT);
        let siege = Self {
            flooding: Some(flooding),
            _generator: generator,
            instance,
            scene,
            family,
        };
        (siege, agent)
    }

    fn config(&self) -> String {
        vigil::block(&self.scene) + ALWAYS
    }

    fn start(&self) -> Agent {
        self.instance
            .start(&self.scene.server, &self.config())
            .unwrap()
    }

    /// Does something while everybody watches, who see nothing of it.
    fn unseen<T>(&self, deed: impl FnOnce(&Vigil) -> T) -> T {
        let vigil = Vigil::begin(&self.scene, self.family);
        vigil.go_on();
        let done = deed(&vigil);
        vigil.go_on();
        vigil.end().assert_without_a_gap();
        done
    }

    /// Ends the flood, which must have gone on until now, and takes everything off: the stranger gets in again.
    fn end(mut self, agent: Agent) {
        self.flooding.take().unwrap().stop().unwrap();
        let detached = agent.netmoat(&["detach"]).unwrap();
        assert!(detached.status.success(), "{detached:?}");
        assert!(gets_in(
            &self.scene,
            &self.scene.attacker,
            self.family,
            SOON
        ));
    }
}

/// C-47, C-48: whichever way an agent goes, the next one takes over.
fn an_agent_that_goes_and_comes_back(family: u8) {
    let (siege, mut agent) = Siege::begin(family);
    let late = siege.scene.host("late");
    let block = ["block", "add", &late.ip(family).to_string(), "--for", "4s"];
    let blocked = agent.netmoat(&block).unwrap();
    assert!(blocked.status.success(), "{blocked:?}");
    siege.unseen(|vigil| {
        agent.kill().unwrap();
        vigil.go_on();
        agent = siege.start();
        vigil.go_on();
        agent.terminate().unwrap();
        vigil.go_on();
    });
    // It ended in time, whoever was there.
    assert!(gets_in(&siege.scene, &late, family, SOON));
    siege.unseen(|vigil| {
        agent = siege.start();
        vigil.go_on();
        // A flood that goes on meets the agent's cookies, and a client of before has its place.
        let status = agent.status().unwrap();
        assert_eq!((status.health, status.problems), (Health::Ok, vec![]));
        assert!(status.cookies_active);
    });
    siege.end(agent);
}

#[test]
fn c_47_c_48_nothing_is_lost_when_agents_are_killed_and_restarted_over_ipv4() {
    an_agent_that_goes_and_comes_back(4);
}

#[test]
fn c_47_c_48_nothing_is_lost_when_agents_are_killed_and_restarted_over_ipv6() {
    an_agent_that_goes_and_comes_back(6);
}

#[test]
fn c_48_nothing_is_lost_in_an_upgrade_to_another_abi_nor_in_a_downgrade() {
    let (siege, mut agent) = Siege::begin(4);
    let next = builds::next().unwrap();
    // A handshake whose cookie is of the build before.
    let listener = siege
        .scene
        .server
        .ns
        .run(|| net_tests::scene::listener(siege.scene.server.at(4, PORT + 2), 16, false));
    agent.await_listener(PORT + 2, true).unwrap();
    let peer =
        net_tests::rawtcp::RawPeer::new(&siege.scene.client, &siege.scene.server, 4, PORT + 2)
            .unwrap();
    let syn = peer.syn(3000);
    let syn_ack = peer.syn_ack(&syn).unwrap();
    siege.unseen(|vigil| {
        agent.terminate().unwrap();
        agent = siege
            .instance
            .start_build(&next, &siege.scene.server, &siege.config())
            .unwrap();
        vigil.go_on();
        assert!(
            agent
                .log()
                .contains("neighbours seen before are told of again"),
            "what is lost is told: {}",
            agent.log()
        );
        assert_eq!(agent.status().unwrap().netmoat_version, "0.2.0-next");
        peer.send(&net_tests::prog_run::ack(&syn, &syn_ack), &[])
            .unwrap();
        accept(&listener);
        // And back.
        agent.terminate().unwrap();
        agent = siege.start();
        vigil.go_on();
    });
    assert_eq!(agent.status().unwrap().health, Health::Ok);
    drop(dial(
        &siege.scene.client,
        siege.scene.server.at(4, PORT + 2),
    ));
    accept(&listener);
    siege.end(agent);
}

#[test]
fn c_49_a_build_that_the_verifier_refuses_and_a_broken_config_leave_the_old_in_force() {
    let (siege, mut agent) = Siege::begin(4);
    let directory = tempfile::tempdir().unwrap();
    let refused = builds::refused(directory.path()).unwrap();
    siege.unseen(|vigil| {
        agent.terminate().unwrap();
        let error = siege
            .instance
            .start_build(&refused, &siege.scene.server, &siege.config());
        let told = format!("{:#}", error.err().unwrap());
        assert!(
            told.contains("verifier refuses netmoat_xdp") && told.contains("!read_ok"),
            "{told}"
        );
        vigil.go_on();
        let broken = siege
            .instance
            .start(&siege.scene.server, "[syn]\nmode = \"allways\"");
        let told = format!("{:#}", broken.err().unwrap());
        assert!(told.contains("allways"), "{told}");
        vigil.go_on();
        agent = siege.start();
    });
    siege.end(agent);
}

#[test]
fn c_48_nothing_is_lost_in_a_hundred_reloads() {
    let (siege, agent) = Siege::begin(4);
    let programs = || {
        let shown = siege
            .scene
            .server
            .ns
            .succeed(Command::new("ip").args(["-j", "link", "show", "eth0"]))
            .unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown[0]["xdp"]["prog"]["id"].as_u64().unwrap()
    };
    let before = programs();
    siege.unseen(|_| {
        for round in 1..=100 {
            let text = format!("{}\nsyn_ack_burst = {}", siege.config(), 1000 + round);
            agent.write_config(&text).unwrap();
            let reloaded = agent.netmoat(&["reload"]).unwrap();
            let printed = String::from_utf8_lossy(&reloaded.stdout).into_owned();
            assert!(reloaded.status.success(), "{reloaded:?}");
            assert!(
                printed.contains(&format!("→ {}", 1000 + round)),
                "{printed}"
            );
        }
        agent.write_config("[syn]\nmode = 7").unwrap();
        agent.signal(Signal::SIGHUP).unwrap();
        wait::until("the refusal", PATIENCE, || {
            agent.log().contains("outcome=\"refused\"")
        })
        .unwrap();
    });
    assert_eq!(programs(), before, "nothing was attached anew");
    siege.end(agent);
}

/// C-54. The flap itself loses packets; that protection is there with the first one afterwards is what counts.
#[test]
fn c_54_a_link_that_flaps_lets_nobody_in() {
    let (siege, agent) = Siege::begin(4);
    let (sink, mac) = (&siege.scene.attacker, siege.scene.attacker.link.mac);
    let back = format!(
        "neigh replace {via} lladdr {mac} dev eth0 nud permanent\nroute replace {net}/{len} via {via} dev eth0",
        via = sink.v4,
        mac = link::text(mac),
        net = SOURCES_V4.0,
        len = SOURCES_V4.1,
    );
    let vigil = Vigil::begin(&siege.scene, 4);
    vigil.go_on();
    for _ in 0..5 {
        siege.scene.server.ns.ip("link set eth0 down").unwrap();
        siege.scene.server.ns.ip("link set eth0 up").unwrap();
        // Route and neighbour went with the link.
        siege.scene.server.ns.ip(&back).unwrap();
        vigil.go_on();
    }
    let seen = vigil.end();
    assert!(seen.probes.sent > 0 && seen.leaked.is_empty(), "{seen:#?}");
    assert_eq!(seen.visits.failures, Vec::<String>::new(), "{seen:#?}");
    wait::until("all to be well", PATIENCE, || {
        agent.status().unwrap().health == Health::Ok
    })
    .unwrap();
    siege.unseen(|_| ());
    siege.end(agent);
}

/// That a vigil sees a gap when there is one.
#[test]
fn without_pins_the_end_of_an_agent_is_seen() {
    let scene = Scene::new();
    let mut agent = scene.protect(&(vigil::block(&scene) + ALWAYS));
    let vigil = Vigil::begin(&scene, 4);
    vigil.go_on();
    agent.kill().unwrap();
    vigil.go_on();
    let seen = vigil.end();
    assert!(!seen.leaked.is_empty(), "{seen:#?}");
    let visits = seen.visits;
    assert!(
        visits.served > 0 && visits.failures.is_empty(),
        "{visits:#?}"
    );
}
