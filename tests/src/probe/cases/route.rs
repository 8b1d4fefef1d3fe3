//! Route and neighbour: no way out, a next hop that is not there, one that is somebody else.

use serde_json::Value;

use super::Case;
use crate::{
    agent::Agent,
    link,
    probe::{
        probe,
        site::{End, Site},
    },
    scene::{PORT, Scene},
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

/// The client's kernel sends what is for the server to the attacker, and an agent knows better.
fn poison(scene: &Scene) -> Agent {
    let (server, attacker) = (&scene.server, &scene.attacker);
    let config = format!(
        "mode = \"observe\"\n[[neighbor]]\naddress = \"{}\"\nmacs = [\"{}\"]",
        server.v4,
        link::text(server.link.mac)
    );
    let agent = Agent::start(&scene.client, &config).unwrap();
    point(scene, attacker.link.mac);
    agent
}

/// Gives the server's address a hardware address in the client's neighbour table.
pub fn point(scene: &Scene, mac: [u8; 6]) {
    let (address, mac) = (scene.server.v4, link::text(mac));
    let entry = format!("neigh replace {address} lladdr {mac} dev eth0 nud permanent");
    scene.client.ns.ip(&entry).unwrap();
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
    let agent = poison(&scene);
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
    let agent = poison(&scene);
    ask(&scene, &agent)
}
