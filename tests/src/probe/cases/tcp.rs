//! TCP: filtered, refused, rejected, slow, one family broken, queues that are full.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use serde_json::Value;

use super::{
    Case,
    route::{ELSEWHERE, THERE},
};
use crate::{
    probe::{
        probe,
        site::{End, Site},
    },
    scene::{PATIENCE, PORT, Scene, dial, listener},
    topology::Host,
    wait,
};

/// All of this layer.
pub fn cases() -> Vec<Case> {
    let case = |name, outcome, code, run| Case {
        name,
        layer: Some("tcp"),
        outcome,
        code: Some(code),
        run,
    };
    let failed = |name, code, run| case(name, "failed", code, run);
    let full = "accept_queue_full";
    let sound = Case {
        name: "page over IPv4",
        layer: None,
        outcome: "ok",
        code: None,
        run: sound,
    };
    vec![
        sound,
        failed("port filtered", "tcp_filtered", filtered),
        failed("port refused", "tcp_refused", refused),
        failed("firewall rejects with ICMP", "tcp_prohibited", rejected),
        failed("router knows no way", "tcp_unreachable", no_way_further),
        failed("no local port left", "tcp_local_ports", no_local_port),
        failed("wrong neighbour, no agent", "tcp_filtered", wrong_neighbor),
        failed("accept queue full, SYN dropped", full, full_at_syn),
        failed("accept queue full, ACK dropped", full, full_at_ack_here),
        failed("the same at another host", "tcp_silent", full_at_ack),
        failed("path MTU black hole", "tcp_mtu_black_hole", mtu_black_hole),
        case("first SYN lost", "slow", "tcp_syn_retransmitted", lost_syn),
        case("neighbour late", "slow", "tcp_slow", late),
        case("only IPv4 answers", "wrong", "tcp_filtered", v6_filtered),
        case("IPv6 refused", "wrong", "tcp_refused", v6_refused),
    ]
}

/// The server's page.
pub fn url(scene: &Scene) -> String {
    format!("http://{}/", scene.server.at(4, PORT))
}

/// A site on the server.
pub fn site(scene: &Scene, family: u8) -> Site {
    let at = scene.server.at(family, PORT);
    Site::start(&scene.server.ns, at, End::Client, 10)
}

/// A rule of a host's firewall.
fn firewall(host: &Host, hook: &str, rule: &str) {
    let hooked = format!("type filter hook {hook} priority 0; {rule};");
    let table = format!("table inet lab {{ chain {hook} {{ {hooked} }}\n}}");
    host.ns.nft(&table).unwrap();
}

/// A server with a site and such a rule for what comes in.
fn behind(rule: &str, args: &[&str]) -> Value {
    let scene = Scene::new();
    let _site = site(&scene, 4);
    firewall(&scene.server, "input", rule);
    let url = url(&scene);
    probe(&scene.client, &[args, &[url.as_str()]].concat()).report
}

fn sound() -> Value {
    let scene = Scene::new();
    let _site = site(&scene, 4);
    probe(&scene.client, &["--no-checks", &url(&scene)]).report
}

fn filtered() -> Value {
    behind("tcp dport 8080 drop", &["--timeout", "3s"])
}

fn refused() -> Value {
    let scene = Scene::new();
    probe(&scene.client, &[&url(&scene)]).report
}

fn rejected() -> Value {
    let rule = "ip protocol tcp tcp dport 8080 reject with icmp type admin-prohibited";
    behind(rule, &[])
}

fn no_way_further() -> Value {
    let scene = Scene::new();
    let router = &scene.attacker;
    router.ns.sysctl("net.ipv4.ip_forward", "1").unwrap();
    let route = format!("route add {ELSEWHERE} via {}", router.v4);
    scene.client.ns.ip(&route).unwrap();
    probe(&scene.client, &[THERE]).report
}

fn no_local_port() -> Value {
    let scene = Scene::new();
    let _site = site(&scene, 4);
    let range = "net.ipv4.ip_local_port_range";
    scene.client.ns.sysctl(range, "40000 40000").unwrap();
    let _taken = dial(&scene.client, scene.server.at(4, PORT));
    probe(&scene.client, &[&url(&scene)]).report
}

fn wrong_neighbor() -> Value {
    let scene = Scene::new();
    let _site = site(&scene, 4);
    let nobody = format!(
        "neigh replace {} lladdr 02:00:00:00:00:66 dev eth0 nud permanent",
        scene.server.v4
    );
    scene.client.ns.ip(&nobody).unwrap();
    probe(&scene.client, &["--timeout", "3s", &url(&scene)]).report
}

fn lost_syn() -> Value {
    // The quota is spent by the first SYN, which has 60 octets.
    let first = "tcp dport 8080 tcp flags & (syn | ack) == syn quota until 100 bytes drop";
    behind(first, &["--no-checks"])
}

fn late() -> Value {
    let scene = Scene::new();
    let _site = site(&scene, 4);
    // Every SYN waits until the second question for the server's hardware address, which is the first to be answered: too long
    // for the threshold, not long enough for a second SYN.
    let every = "net.ipv4.neigh.eth0.retrans_time_ms";
    scene.client.ns.sysctl(every, "650").unwrap();
    let first = "arp operation request quota until 50 bytes drop;";
    let hooked = format!("type filter hook input priority 0; {first}");
    let table = format!("table arp lab {{ chain input {{ {hooked} }}\n}}");
    scene.server.ns.nft(&table).unwrap();
    let args = ["--no-checks", "--timeout", "10s", &url(&scene)];
    probe(&scene.client, &args).report
}

/// The server by both its addresses.
fn by_both(scene: &Scene) -> Value {
    let given = format!("site.test:{PORT}:{},{}", scene.server.v6, scene.server.v4);
    let url = format!("http://site.test:{PORT}/");
    probe(&scene.client, &["--resolve", &given, &url]).report
}

fn v6_filtered() -> Value {
    let scene = Scene::new();
    let _sites = [site(&scene, 4), site(&scene, 6)];
    let rule = "meta nfproto ipv6 tcp dport 8080 drop";
    firewall(&scene.server, "input", rule);
    by_both(&scene)
}

fn v6_refused() -> Value {
    let scene = Scene::new();
    let _site = site(&scene, 4);
    by_both(&scene)
}

/// A connection that waits in the accept queue.
fn fill(server: &Host, from: &Host, at: SocketAddr) -> TcpStream {
    let filling = dial(from, at);
    let waits = || !sockets(server, "established").is_empty();
    wait::until("a connection in the accept queue", PATIENCE, waits).unwrap();
    filling
}

/// The server's sockets of the port in a state.
fn sockets(server: &Host, state: &str) -> String {
    let mut ss = Command::new("ss");
    ss.args(["-tnH", "state", state, "sport", "=", &format!(":{PORT}")]);
    server.ns.succeed(&mut ss).unwrap()
}

/// A listener that nobody accepts from, with room for one connection.
fn idle(scene: &Scene) -> TcpListener {
    let at = scene.server.at(4, PORT);
    scene.server.ns.run(|| listener(at, 0, false))
}

fn full_at_syn() -> Value {
    let scene = Scene::new();
    let _idle = idle(&scene);
    let _filling = fill(&scene.server, &scene.attacker, scene.server.at(4, PORT));
    probe(&scene.server, &["--timeout", "3s", &url(&scene)]).report
}

/// The queue of the server is filled between the SYN and the ACK of who probes.
fn fills_meanwhile(scene: &Scene, from: &Host) -> Value {
    let _idle = idle(scene);
    let of = from.v4;
    let rule = format!("ip saddr {of} tcp dport {PORT} tcp flags & syn == 0 drop");
    firewall(&scene.server, "input", &rule);
    let url = url(scene);
    thread::scope(|scope| {
        let probing = scope.spawn(|| probe(from, &["--timeout", "4s", &url]).report);
        let half_open = || !sockets(&scene.server, "syn-recv").is_empty();
        wait::until("the half-open connection", PATIENCE, half_open).unwrap();
        let _filling = fill(&scene.server, &scene.attacker, scene.server.at(4, PORT));
        let mut nft = Command::new("nft");
        nft.args(["delete", "table", "inet", "lab"]);
        scene.server.ns.succeed(&mut nft).unwrap();
        probing.join().unwrap()
    })
}

fn full_at_ack() -> Value {
    let scene = Scene::new();
    fills_meanwhile(&scene, &scene.client)
}

fn full_at_ack_here() -> Value {
    let scene = Scene::new();
    fills_meanwhile(&scene, &scene.server)
}

fn mtu_black_hole() -> Value {
    let scene = Scene::new();
    let at = scene.server.at(4, PORT);
    let _site = Site::start(&scene.server.ns, at, End::Client, 3000);
    // Segments are cut to what goes on the wire, and dropped where their sender does not learn of it.
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["-K", "eth0", "tso", "off", "gso", "off"]);
    scene.server.ns.succeed(&mut ethtool).unwrap();
    let rule = "tcp sport 8080 meta length > 1000 drop";
    firewall(&scene.client, "input", rule);
    probe(&scene.client, &["--timeout", "4s", &url(&scene)]).report
}
