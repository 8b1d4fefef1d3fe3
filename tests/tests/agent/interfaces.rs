//! Interfaces that appear, vanish, flap, are renamed, change their MTU or their namespace; patterns that mean them.

use std::{net::SocketAddr, process::Command, time::Duration};

use aya::programs::{SchedClassifier, TcAttachType};
use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    lab::Pass,
    link::{self, Link},
    netns::Namespace,
    process::workspace_binary,
    server::{Server, visit},
    topology::{Host, Lan, Pair},
    wait,
};
use net_user::{config::XdpMode, control::protocol::Health};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(8);
const ALWAYS: &str = "[syn]\nmode = \"always\"";

fn wildcard() -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, PORT).into()
}

/// Whether all three programs are on an interface.
fn protected(namespace: &Namespace, name: &str) -> bool {
    has(namespace, name, true)
}

/// Whether it is there, and has none of them.
fn bare(namespace: &Namespace, name: &str) -> bool {
    has(namespace, name, false)
}

fn has(namespace: &Namespace, name: &str, programs: bool) -> bool {
    let mut show = Command::new("ip");
    let shown = namespace.succeed(show.args(["link", "show", "dev", name]));
    let tcx = |direction| {
        let attached = namespace.run(|| SchedClassifier::query_tcx(name, direction));
        attached.is_ok_and(|(_, attached)| attached.len() == usize::from(programs))
    };
    shown.is_ok_and(|text| text.contains("xdp") == programs)
        && tcx(TcAttachType::Ingress)
        && tcx(TcAttachType::Egress)
}

/// Names of the interfaces that the agent says it is on.
fn told(agent: &Agent) -> Vec<String> {
    let interfaces = agent.status().unwrap().interfaces;
    interfaces.into_iter().map(|i| i.name).collect()
}

fn until_told(agent: &Agent, names: &[&str]) {
    wait::until(&format!("the agent to be on {names:?}"), SOON, || {
        told(agent) == names
    })
    .unwrap_or_else(|error| panic!("{error:#}; it is on {:?}", told(agent)));
}

fn until_health(agent: &Agent, health: Health, words: &str) {
    let fits = || {
        let status = agent.status().unwrap();
        status.health == health
            && (words.is_empty() || status.problems.iter().any(|p| p.contains(words)))
    };
    wait::until(&format!("{health:?} {words}"), SOON, fits)
        .unwrap_or_else(|error| panic!("{error:#}: {:?}", agent.status().unwrap().problems));
}

/// A further interface of the host, with its other end in a namespace of its own.
fn further(host: &Namespace, name: &str, number: u8) -> (Namespace, Link) {
    let other = Namespace::new("other").unwrap();
    let (link, _) = link::veth((host, name), (&other, "peer"), (number, number | 0x40)).unwrap();
    (other, link)
}

fn lan() -> (Lan, Host, Host) {
    let lan = Lan::new().unwrap();
    let [server, client] = ["server", "client"].map(|role| lan.host(role).unwrap());
    (lan, server, client)
}

/// A visit gets its answer from a cookie.
fn answered_by_cookie(agent: &Agent, server: &Host, client: &Host) {
    wait::until("a cookie from XDP", SOON, || {
        let before = agent.packets(Reason::HandshakeMade).unwrap();
        visit(&client.ns, server.at(4, PORT), SOON).is_ok()
            && agent.packets(Reason::HandshakeMade).unwrap() > before
    })
    .unwrap();
}

#[test]
fn what_a_glob_matches_is_attached_as_it_appears_and_forgotten_as_it_goes() {
    let pair = Pair::new().unwrap();
    let ns = &pair.server.ns;
    let agent = Agent::start_on(ns, &["eth*", "ext*", "lo*"], "").unwrap();
    let status = agent.status().unwrap();
    assert_eq!(
        (status.health, told(&agent)),
        (Health::Ok, vec!["eth0".to_owned()])
    );
    assert!(
        status
            .notes
            .contains(&"ext* matches no interface now".to_owned()),
        "{:?}",
        status.notes
    );
    assert!(
        status.notes.iter().any(|n| n.starts_with("lo is left out")),
        "{:?}",
        status.notes
    );
    assert_eq!(status.interfaces[0].pattern, "eth*");

    let (_other, _) = further(ns, "ext0", 7);
    until_told(&agent, &["eth0", "ext0"]);
    assert!(protected(ns, "ext0"));
    ns.ip("link del ext0").unwrap();
    until_told(&agent, &["eth0"]);
    assert_eq!(agent.netmoat(&["status"]).unwrap().status.code(), Some(0));
    assert!(protected(ns, "eth0"));
}

#[test]
fn c_54_an_interface_that_is_named_is_protected_again_when_it_is_back() {
    let (lan, server, client) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    answered_by_cookie(&agent, &server, &client);

    server.ns.ip("link del eth0").unwrap();
    until_health(&agent, Health::Degraded, "eth0 is gone");
    let status = agent.status().unwrap();
    assert_eq!(status.interfaces_missing[0].name, "eth0");
    assert!(!status.data_path_alive, "there is nothing that it protects");

    link::veth((&server.ns, "eth0"), (lan.bridge(), "p9"), (9, 0x89)).unwrap();
    lan.bridge().ip("link set p9 master br0").unwrap();
    server
        .ns
        .ip(&format!("addr add {}/24 dev eth0", server.v4))
        .unwrap();
    until_health(&agent, Health::Ok, "");
    assert!(protected(&server.ns, "eth0"));
}

#[test]
fn c_54_a_link_that_flaps_stays_protected() {
    let (_lan, server, client) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    for _ in 0..3 {
        server
            .ns
            .ip("link set eth0 down\nlink set eth0 up")
            .unwrap();
        assert!(protected(&server.ns, "eth0"));
    }
    answered_by_cookie(&agent, &server, &client);
    let status = agent.status().unwrap();
    assert_eq!(
        (status.health, status.drift.repaired),
        (Health::Ok, 0),
        "{:?}",
        status.problems
    );
}

#[test]
fn c_54_an_interface_that_is_renamed_stays_protected_and_is_told() {
    let (_lan, server, client) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    server
        .ns
        .ip("link set eth0 down\nlink set eth0 name wan0\nlink set wan0 up")
        .unwrap();
    until_health(
        &agent,
        Health::Degraded,
        "eth0 is called wan0 now and stays protected",
    );
    assert!(protected(&server.ns, "wan0"));
    answered_by_cookie(&agent, &server, &client);
    until_told(&agent, &["wan0"]);

    // Another that takes the name takes the protection, too.
    let (_other, _) = further(&server.ns, "eth0", 7);
    until_told(&agent, &["eth0"]);
    assert!(protected(&server.ns, "eth0") && bare(&server.ns, "wan0"));
    until_health(&agent, Health::Ok, "");
}

#[test]
fn c_54_an_interface_that_moves_to_another_namespace_takes_no_program_along() {
    let pair = Pair::new().unwrap();
    let ns = &pair.server.ns;
    let (_other, _) = further(ns, "ext0", 7);
    let agent = Agent::start_on(ns, &["eth0", "ext0"], "").unwrap();
    assert!(protected(ns, "ext0"));
    let away = Namespace::new("away").unwrap();
    ns.ip(&format!("link set ext0 netns {}", away.name()))
        .unwrap();
    until_health(&agent, Health::Degraded, "ext0 is gone");
    assert!(bare(&away, "ext0"));
    assert!(protected(ns, "eth0"));
    away.ip(&format!("link set ext0 netns {}", ns.name()))
        .unwrap();
    until_health(&agent, Health::Ok, "");
    assert!(protected(ns, "ext0"));
}

#[test]
fn c_54_jumbo_frames_pass_native_xdp_and_a_new_mtu_is_known() {
    let pair = Pair::new().unwrap();
    for host in [&pair.server, &pair.attacker] {
        host.ns.ip("link set eth0 mtu 9000").unwrap();
    }
    let agent = Agent::start(&pair.server, "xdp_mode = \"native\"").unwrap();
    let interface = || agent.status().unwrap().interfaces.remove(0);
    assert_eq!(
        (interface().xdp_mode, interface().mtu),
        (XdpMode::Native, 9000)
    );
    let ping = |size: u32| {
        let mut ping = Command::new("ping");
        ping.args(["-c", "1", "-W", "5", "-M", "do", "-s", &size.to_string()]);
        pair.attacker
            .ns
            .succeed(ping.arg(pair.server.v4.to_string()))
    };
    ping(8900).unwrap();
    pair.server.ns.ip("link set eth0 mtu 3000").unwrap();
    wait::until("the new MTU", SOON, || interface().mtu == 3000).unwrap();
    assert!(protected(&pair.server.ns, "eth0"));
    ping(2900).unwrap();
    assert_eq!(agent.status().unwrap().health, Health::Ok);
}

#[test]
fn c_54_a_driver_without_native_xdp_is_refused_in_native_mode_and_generic_in_auto() {
    let pair = Pair::new().unwrap();
    let ns = &pair.server.ns;
    ns.ip("link add br0 type bridge\nlink set br0 mtu 9000 up")
        .unwrap();
    let native = Agent::launch(ns, &["br0"], "xdp_mode = \"native\"").unwrap();
    let (code, log) = native.refusal().unwrap();
    assert_eq!(code, 1, "{log}");
    for words in [
        "br0",
        "the MTU of 9000",
        "ip link set br0 mtu 3498",
        "xdp_mode = \"auto\"",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(bare(ns, "br0"));
    let agent = Agent::start_on(ns, &["br0"], "").unwrap();
    let status = agent.status().unwrap();
    assert_eq!(
        (status.health, status.interfaces[0].xdp_mode),
        (Health::Ok, XdpMode::Generic)
    );
    assert!(
        status.notes.iter().any(|n| n.contains("an MTU of 9000")),
        "{:?}",
        status.notes
    );
}

#[test]
fn c_53_an_interface_that_appears_with_a_foreign_program_is_left_alone_and_told() {
    let pair = Pair::new().unwrap();
    let ns = &pair.server.ns;
    let (_other, link) = further(ns, "tmp0", 7);
    let mut pass = Pass::load().unwrap();
    pass.attach(ns, &link).unwrap();
    let id = pass.id().unwrap();
    let agent = Agent::start_on(ns, &["eth0", "ext*"], "").unwrap();
    ns.ip("link set tmp0 down\nlink set tmp0 name ext0\nlink set ext0 up")
        .unwrap();
    until_health(
        &agent,
        Health::Degraded,
        &format!("another XDP program: id {id}, "),
    );
    assert_eq!(told(&agent), ["eth0"]);
    drop(pass);
    until_health(&agent, Health::Ok, "");
    assert!(protected(ns, "ext0"));
}

#[test]
fn default_route_follows_the_routes_and_lets_go_slowly() {
    let pair = Pair::new().unwrap();
    let ns = &pair.server.ns;
    ns.ip("route add default via 198.18.0.2 dev eth0").unwrap();
    let (_other, _) = further(ns, "ext0", 7);
    let agent = Agent::start_on(ns, &["default-route"], "").unwrap();
    assert_eq!(told(&agent), ["eth0"]);
    ns.ip("addr add 203.0.113.1/24 dev ext0\nroute replace default via 203.0.113.2 dev ext0")
        .unwrap();
    // Where the route was before stays protected for a minute.
    until_told(&agent, &["eth0", "ext0"]);
    assert!(protected(ns, "ext0") && protected(ns, "eth0"));
    ns.ip("route del default").unwrap();
    wait::until("the note", SOON, || {
        agent
            .status()
            .unwrap()
            .notes
            .contains(&"there is no default route now".to_owned())
    })
    .unwrap();
    assert!(protected(ns, "ext0") && protected(ns, "eth0"));
    assert_eq!(agent.status().unwrap().health, Health::Ok);
}

#[test]
fn an_agent_with_nothing_to_protect_yet_waits_for_it() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start_on(&pair.server.ns, &["ext*", "default-route"], "").unwrap();
    assert_eq!(told(&agent), Vec::<String>::new());
    assert_eq!(agent.status().unwrap().health, Health::Ok);
    pair.server
        .ns
        .ip("route add default via 198.18.0.2 dev eth0")
        .unwrap();
    until_told(&agent, &["eth0"]);
}

#[test]
fn a_namespace_that_is_not_there_is_refused_with_those_that_are() {
    let there = Namespace::new("there").unwrap();
    for verb in ["run", "check"] {
        let output = Command::new(workspace_binary("netmoat").unwrap())
            .args([verb, "-i", "eth0", "--netns", "no-such-namespace"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("no-such-namespace") && text.contains(there.name()),
            "{text}"
        );
    }
}
