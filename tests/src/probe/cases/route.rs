//! Route and neighbour: no way out, a next hop that is not there, one that is somebody else.

use serde_json::Value;

use super::Case;
use crate::{
    agent::Agent,
    link,
    neighbors::attack::{Attack, run},
    probe::{
        probe,
        site::{End, Site},
    },
    scene::{PATIENCE, PORT, Scene},
    wait,
};

/// A network that nobody is in (RFC 5737).
pub const ELSEWHERE: &str = "203.0.113.0/24";
/// An address there.
pub const THERE: &str = "http://203.0.113.7:8080/";

/// All of this layer.
pub fn cases() -> Vec<Case> {
    let failed = |name, code, run| Case {
        name,
        layer: Some("route"),
        outcome: "failed",
        code: Some(code),
        run,
    };
    vec![
        failed("no route", "route_missing", missing),
        failed("blackhole route", "route_blackhole", blackhole),
        failed("prohibit route", "route_prohibited", prohibited),
        failed("unreachable route", "route_unreachable", unreachable),
        failed("dead host on the link", "neighbor_unreachable", dead_host),
        failed("dead router", "neighbor_unreachable", dead_router),
        failed("no carrier", "link_down", no_carrier),
        failed("poisoned neighbour", "neighbor_poisoned", poisoned),
        Case {
            name: "poisoned neighbour that passes everything on",
            layer: Some("route"),
            outcome: "wrong",
            code: Some("neighbor_poisoned"),
            run: poisoned_and_passed_on,
        },
    ]
}

/// Probes an address behind a route of the client's.
fn with_route(route: &str) -> Value {
    let scene = Scene::new();
    if !route.is_empty() {
        scene.client.ns.ip(route).unwrap();
    }
    probe(&scene.client, &["--timeout", "6s", THERE]).report
}

fn missing() -> Value {
    with_route("")
}

fn blackhole() -> Value {
    with_route(&format!("route add blackhole {ELSEWHERE}"))
}

fn prohibited() -> Value {
    with_route(&format!("route add prohibit {ELSEWHERE}"))
}

fn unreachable() -> Value {
    with_route(&format!("route add unreachable {ELSEWHERE}"))
}

fn dead_router() -> Value {
    with_route(&format!("route add {ELSEWHERE} via 198.18.0.98"))
}

fn dead_host() -> Value {
    let scene = Scene::new();
    let url = format!("http://198.18.0.99:{PORT}/");
    probe(&scene.client, &["--timeout", "6s", &url]).report
}

fn no_carrier() -> Value {
    let scene = Scene::new();
    scene.bridge().ip("link set p2 down").unwrap();
    let url = format!("http://{}/", scene.server.at(4, PORT));
    probe(&scene.client, &["--timeout", "6s", &url]).report
}

/// The attacker tells the client that it is the server, with a tool as `words` make it, and an agent that only looks knows
/// better. Linux believes what nobody asked for where it has an entry already (`arp_process`, `net/ipv4/arp.c`).
fn poison(scene: &Scene, words: &[&str]) -> (Agent, Attack) {
    let (client, server, attacker) = (&scene.client, &scene.server, &scene.attacker);
    let config = format!(
        "mode = \"observe\"\n[[neighbor]]\naddress = \"{}\"\nmacs = [\"{}\"]",
        server.v4,
        link::text(server.link.mac)
    );
    let agent = Agent::start(client, &config).unwrap();
    let claimed = server.v4.to_string();
    run(client, &["ping", "-c", "1", &claimed]);
    let attack = Attack::start(attacker, words);
    let claim = link::text(attacker.link.mac);
    wait::until("the client to believe the attacker", PATIENCE, || {
        run(client, &["ip", "neigh", "show", &claimed]).contains(&claim)
    })
    .unwrap();
    (agent, attack)
}

fn ask(scene: &Scene, agent: &Agent) -> Value {
    let socket = agent.socket();
    let socket = socket.to_str().unwrap();
    let url = format!("http://{}/", scene.server.at(4, PORT));
    let args = ["--no-checks", "--timeout", "3s", "--socket", socket, &url];
    probe(&scene.client, &args).report
}

fn poisoned() -> Value {
    let scene = Scene::new();
    let at = scene.server.at(4, PORT);
    let _site = Site::start(&scene.server.ns, at, End::Client, 10);
    // So often that a true answer in between is overwritten before anything is sent there.
    let (own, server) = (link::text(scene.attacker.link.mac), scene.server.v4);
    let claim = format!("request, smac={own}, sip={server}, tip={server}");
    let words = ["mausezahn", "eth0", "-q", "-c", "4000", "-d", "5m"];
    let words = [&words[..], &["-b", "bcast", "-t", "arp", &claim]].concat();
    let (agent, _attack) = poison(&scene, &words);
    ask(&scene, &agent)
}

fn poisoned_and_passed_on() -> Value {
    let scene = Scene::new();
    let at = scene.server.at(4, PORT);
    let _site = Site::start(&scene.server.ns, at, End::Client, 10);
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.eth0.send_redirects", "0"),
    ] {
        scene.attacker.ns.sysctl(name, value).unwrap();
    }
    let (victim, server) = (scene.client.v4.to_string(), scene.server.v4.to_string());
    let words = ["arpspoof", "-i", "eth0", "-t", &victim, &server];
    let (agent, _attack) = poison(&scene, &words);
    ask(&scene, &agent)
}
