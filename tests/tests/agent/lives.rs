//! The agent's life: start, change, end.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use aya::programs::{SchedClassifier, TcAttachType};
use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    flood::Flood,
    lab::{Generator, Pace},
    server::{Server, visit},
    topology::{Host, Lan, Pair},
    wait,
};
use net_user::{config::Mode, control::protocol::Health};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(5);
const ALWAYS: &str = "[syn]\nmode = \"always\"";

fn lan() -> (Lan, Host, Host, Host) {
    let lan = Lan::new().unwrap();
    let [server, client, attacker] = ["server", "client", "attacker"].map(|r| lan.host(r).unwrap());
    server.route_sources_via(&attacker).unwrap();
    (lan, server, client, attacker)
}

fn wildcard() -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, PORT).into()
}

/// Programs on the interface: XDP (as `ip link` tells) and TCX.
fn attached(host: &Host) -> (bool, usize) {
    let shown = host
        .ns
        .succeed(Command::new("ip").args(["link", "show", &host.link.name]))
        .unwrap();
    let (_, tcx) = host
        .ns
        .run(|| SchedClassifier::query_tcx(&host.link.name, TcAttachType::Ingress))
        .unwrap();
    (shown.contains("xdp"), tcx.len())
}

fn observed(agent: &Agent, reason: Reason) -> u64 {
    let counters = agent.counters().unwrap();
    counters
        .observed
        .iter()
        .find(|c| c.code == reason as u32)
        .unwrap()
        .packets
}

#[test]
fn sigterm_takes_the_programs_and_the_socket_away_and_nothing_else() {
    let pair = Pair::new().unwrap();
    let mut agent = Agent::start(&pair.server, "").unwrap();
    assert_eq!(attached(&pair.server), (true, 1));
    assert!(agent.socket().exists());
    assert!(agent.terminate().unwrap().success());
    assert_eq!(attached(&pair.server), (false, 0));
    assert!(!agent.socket().exists());
}

#[test]
fn after_sigkill_the_host_is_as_before_and_the_agent_can_start_again() {
    let pair = Pair::new().unwrap();
    let mut agent = Agent::start(&pair.server, "").unwrap();
    agent.kill().unwrap();
    // The kernel drops the links once the last file descriptor is gone, a moment later.
    wait::until("the programs to go", SOON, || {
        attached(&pair.server) == (false, 0)
    })
    .unwrap();
    let again = Agent::start(&pair.server, "").unwrap();
    assert_eq!(again.status().unwrap().health, Health::Ok);
}

#[test]
fn a_listener_is_protected_when_it_appears_and_forgotten_when_it_closes() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, ALWAYS).unwrap();
    assert!(agent.listener(PORT).unwrap().is_none());
    let listener = pair
        .server
        .ns
        .run(|| TcpListener::bind(wildcard()))
        .unwrap();
    agent.await_listener(PORT, true).unwrap();
    drop(listener);
    wait::until("the listener to go", SOON, || {
        agent.listener(PORT).unwrap().is_none()
    })
    .unwrap();
}

#[test]
fn an_address_that_is_added_is_protected_and_one_that_is_removed_is_left_alone() {
    let (_lan, server, client, _) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    let extra: IpAddr = "198.18.0.77".parse().unwrap();
    server
        .ns
        .ip(&format!("addr add {extra}/24 dev eth0"))
        .unwrap();
    wait::until("a cookie from the new address", SOON, || {
        let before = agent.packets(Reason::CookieSent).unwrap();
        visit(&client.ns, (extra, PORT).into(), SOON).unwrap();
        agent.packets(Reason::CookieSent).unwrap() > before
    })
    .unwrap();
    server
        .ns
        .ip(&format!("addr del {extra}/24 dev eth0"))
        .unwrap();
    wait::until("the address to be no longer answered for", SOON, || {
        let before = agent.packets(Reason::CookieSent).unwrap();
        visit(&client.ns, (extra, PORT).into(), Duration::from_millis(50)).unwrap_err();
        agent.packets(Reason::CookieSent).unwrap() == before
    })
    .unwrap();
}

#[test]
fn observe_mode_touches_nothing_and_counts_what_it_would_do() {
    let (_lan, server, client, attacker) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, &format!("mode = \"observe\"\n{ALWAYS}")).unwrap();
    agent.await_listener(PORT, true).unwrap();
    visit(&client.ns, server.at(4, PORT), SOON).unwrap();
    assert_eq!(agent.packets(Reason::CookieSent).unwrap(), 0);
    assert!(observed(&agent, Reason::CookieSent) > 0);

    // From observe to enforce and back, while it runs.
    assert!(
        agent
            .netmoat(&["mode", "enforce"])
            .unwrap()
            .status
            .success()
    );
    assert_eq!(agent.status().unwrap().mode, Mode::Enforce);
    visit(&client.ns, server.at(6, PORT), SOON).unwrap();
    assert!(agent.packets(Reason::CookieSent).unwrap() > 0);

    // With cookies outstanding, false ACKs are dropped; in observe mode the kernel resets them.
    let generator = Generator::new(&attacker).unwrap();
    generator.aim(&Flood::false_ack(&server, 4, PORT)).unwrap();
    let pace = Pace::PerSecond(2_000);
    generator.run(pace, 100, SOON).unwrap();
    wait::until("false ACKs to be dropped", SOON, || {
        agent.packets(Reason::CookieFalse).unwrap() >= 90
    })
    .unwrap();
    assert_eq!(generator.sink().unwrap().rsts, 0);
    assert!(
        agent
            .netmoat(&["mode", "observe"])
            .unwrap()
            .status
            .success()
    );
    generator.run(pace, 100, SOON).unwrap();
    wait::until("false ACKs to be reset", SOON, || {
        generator.sink().unwrap().rsts >= 90
    })
    .unwrap();
    assert!(observed(&agent, Reason::CookieFalse) >= 90);
}

#[test]
fn an_interface_that_vanishes_is_reported_with_exit_code_3() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    assert_eq!(agent.netmoat(&["status"]).unwrap().status.code(), Some(0));
    pair.server.ns.ip("link del eth0").unwrap();
    wait::until("the agent to notice", SOON, || {
        agent.netmoat(&["status"]).unwrap().status.code() == Some(3)
    })
    .unwrap();
    let status = agent.status().unwrap();
    assert_eq!(status.health, Health::Degraded);
    assert!(
        status.problems.iter().any(|p| p.contains("eth0 is gone")),
        "{:?}",
        status.problems
    );
}

#[test]
fn syncookies_switched_off_later_end_the_cookies_and_not_the_service() {
    let (_lan, server, client, _) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    server.ns.sysctl("net.ipv4.tcp_syncookies", "0").unwrap();
    agent.await_listener(PORT, false).unwrap();
    let before = agent.packets(Reason::CookieSent).unwrap();
    visit(&client.ns, server.at(4, PORT), SOON).unwrap();
    assert_eq!(agent.packets(Reason::CookieSent).unwrap(), before);
    assert!(
        agent
            .listener(PORT)
            .unwrap()
            .unwrap()
            .why_not
            .unwrap()
            .contains("tcp_syncookies")
    );
}

#[test]
fn generic_mode_answers_as_native_mode_does() {
    let (_lan, server, client, _) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, &format!("xdp_mode = \"generic\"\n{ALWAYS}")).unwrap();
    agent.await_listener(PORT, true).unwrap();
    for family in [4, 6] {
        visit(&client.ns, server.at(family, PORT), SOON).unwrap();
    }
    assert_eq!(agent.packets(Reason::HandshakeMade).unwrap(), 2);
}

#[test]
fn agents_in_two_namespaces_do_not_know_of_one_another() {
    let (_lan, server, client, _) = lan();
    let first = Agent::start(&server, ALWAYS).unwrap();
    let second = Agent::start(&client, ALWAYS).unwrap();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    first.await_listener(PORT, true).unwrap();
    visit(&client.ns, server.at(4, PORT), SOON).unwrap();
    assert_eq!(first.packets(Reason::HandshakeMade).unwrap(), 1);
    assert_eq!(second.packets(Reason::CookieSent).unwrap(), 0);
    assert!(second.listener(PORT).unwrap().is_none());
}
