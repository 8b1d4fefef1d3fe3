//! What others change in the kernel is found, set right and told.

use std::{net::SocketAddr, time::Duration};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    bpftool::{self, Entries, Map},
    server::{Server, visit},
    topology::{Host, Lan},
    wait,
};
use net_user::control::protocol::{Health, Status};

const PORT: u16 = 8080;
/// Everything is compared every 5 s.
const SOON: Duration = Duration::from_secs(12);
const ALWAYS: &str = "[syn]\nmode = \"always\"";

fn wildcard() -> SocketAddr {
    (std::net::Ipv6Addr::UNSPECIFIED, PORT).into()
}

fn lan() -> (Lan, Host, Host) {
    let lan = Lan::new().unwrap();
    let [server, client] = ["server", "client"].map(|role| lan.host(role).unwrap());
    (lan, server, client)
}

/// Waits until the last thing that was set right is told with all of `words`.
fn told(agent: &Agent, words: &[&str]) -> Status {
    let status = || agent.status().unwrap();
    let fits = |status: &Status| {
        let last = status.drift.last.as_deref().unwrap_or_default();
        words.iter().all(|word| last.contains(word))
    };
    wait::until_some(&format!("drift to be told: {words:?}"), SOON, || {
        Some(status()).filter(fits)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:?}", status().drift))
}

/// What an operator sees: the exit code, the problem, the event.
fn is_degraded_by_drift(agent: &Agent, map: &str) {
    let output = agent.netmoat(&["status"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("drift: something else had changed") && text.contains(map),
        "{text}"
    );
    let events = agent.netmoat(&["events"]).unwrap();
    let events = String::from_utf8_lossy(&events.stdout);
    assert!(events.contains("drift") && events.contains(map), "{events}");
}

/// Everything in a binding but the data path's times: eight link-layer addresses and the flags.
fn without_times(entries: Entries) -> Entries {
    let cut = |(key, mut value): (Vec<u8>, Vec<u8>)| {
        value.truncate(68);
        (key, value)
    };
    entries.into_iter().map(cut).collect()
}

#[test]
fn entries_that_others_remove_change_or_add_are_set_right_in_every_map() {
    let (_lan, server, client) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    assert_eq!(agent.status().unwrap().drift.repaired, 0);
    for name in ["LISTENERS", "FLOW_SLOTS", "ADDRESSES", "BINDINGS"] {
        let map = Map::of(agent.pid(), name).unwrap();
        let dump = || without_times(map.dump().unwrap());
        let before = dump();
        let (key, value) = before.iter().next().unwrap();

        map.delete(key).unwrap();
        told(&agent, &[&format!("{name}: 1 removed")]);
        assert_eq!(dump(), before, "{name}");
        is_degraded_by_drift(&agent, name);

        let full = map.dump().unwrap()[key].clone();
        let mut other = full.clone();
        other[0] ^= 0x55;
        map.update(key, &other).unwrap();
        // An address, a port or an interface that is none of this host's.
        let mut foreign = key.clone();
        foreign[0] ^= 0x55;
        map.update(&foreign, &full).unwrap();
        told(&agent, &[&format!("{name}: 1 changed, 1 added")]);
        assert_eq!(dump(), before, "{name}");
        assert!(!value.is_empty());
    }
    let before = agent.packets(Reason::HandshakeMade).unwrap();
    visit(&client.ns, server.at(4, PORT), SOON).unwrap();
    assert!(agent.packets(Reason::HandshakeMade).unwrap() > before);
}

/// What of an array is read: of the policy one generation in two, else what is not empty.
fn in_force(agent: &Agent, name: &str) -> Vec<Vec<u8>> {
    let values: Vec<_> = dump(agent, name).into_values().collect();
    if !matches!(
        name,
        "SETTINGS" | "NEIGHBOR_SETTINGS" | "GUARD_SETTINGS" | "CLASS_LIMITS"
    ) {
        let written = |value: &Vec<u8>| value.iter().any(|&octet| octet != 0);
        return values.into_iter().filter(written).collect();
    }
    let word = dump(agent, "GENERATION").into_values().next().unwrap();
    let each = values.len() / 2;
    values.chunks(each).nth(word[0].into()).unwrap().to_vec()
}

fn dump(agent: &Agent, name: &str) -> Entries {
    Map::of(agent.pid(), name).unwrap().dump().unwrap()
}

#[test]
fn a_policy_that_others_switch_off_is_in_force_again() {
    let (_lan, server, client) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let config = format!(
        "{ALWAYS}\n[arp]\nmode = \"enforce\"\n[lists]\nblock = [\"203.0.113.0/24\", \"2001:db8::/32\"]"
    );
    let agent = Agent::start(&server, &config).unwrap();
    agent.await_listener(PORT, true).unwrap();
    for name in [
        "SETTINGS",
        "NEIGHBOR_SETTINGS",
        "GUARD_SETTINGS",
        "CLASS_LIMITS",
        "COOKIE_KEYS",
        "LISTS",
        "LIST_TABLES",
    ] {
        // The filter of sockets is renewed after the start, and for a new listener, which changes SETTINGS.
        wait::until("the policy to rest", SOON, || {
            let before = in_force(&agent, name);
            visit(&client.ns, server.at(4, PORT), SOON).unwrap();
            before == in_force(&agent, name)
        })
        .unwrap();
        let before = in_force(&agent, name);
        assert!(!before.is_empty(), "{name}");
        let map = Map::of(agent.pid(), name).unwrap();
        for (key, value) in &map.dump().unwrap() {
            map.update(key, &vec![0; value.len()]).unwrap();
        }
        told(&agent, &[&format!("{name}: ")]);
        assert_eq!(in_force(&agent, name), before, "{name}");
    }
    is_degraded_by_drift(&agent, "LIST_TABLES");
    let before = agent.packets(Reason::HandshakeMade).unwrap();
    visit(&client.ns, server.at(4, PORT), SOON).unwrap();
    assert!(agent.packets(Reason::HandshakeMade).unwrap() > before);
}

#[test]
fn programs_that_others_take_off_are_put_back_one_by_one() {
    let (_lan, server, client) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    let interface = agent.status().unwrap().interfaces.remove(0);
    for (program, words) in [
        (interface.xdp_program_id, "eth0: XDP had been taken off"),
        (
            interface.tc_program_id,
            "eth0: TC ingress had been taken off",
        ),
        (
            interface.tc_egress_program_id,
            "eth0: TC egress had been taken off",
        ),
    ] {
        bpftool::detach(program).unwrap();
        let status = told(&agent, &[words]);
        assert_eq!(status.health, Health::Degraded);
        assert!(status.data_path_alive && status.interfaces[0].problem.is_none());
        let before = agent.packets(Reason::HandshakeMade).unwrap();
        visit(&client.ns, server.at(4, PORT), SOON).unwrap();
        assert!(
            agent.packets(Reason::HandshakeMade).unwrap() > before,
            "{words}"
        );
    }
    assert_eq!(agent.status().unwrap().drift.repaired, 3);
}

#[test]
fn an_agent_that_nobody_interferes_with_finds_no_drift() {
    let (_lan, server, client) = lan();
    let _server = Server::start(&server.ns, wildcard()).unwrap();
    let agent = Agent::start(&server, ALWAYS).unwrap();
    agent.await_listener(PORT, true).unwrap();
    let start = agent.status().unwrap().uptime_s;
    // Two comparisons, under changes that the agent itself makes.
    wait::until("two comparisons", SOON + SOON, || {
        visit(&client.ns, server.at(4, PORT), SOON).unwrap();
        server
            .ns
            .ip("addr add 198.18.0.99/24 dev eth0\naddr del 198.18.0.99/24 dev eth0")
            .unwrap();
        agent.status().unwrap().uptime_s >= start + 11
    })
    .unwrap();
    let status = agent.status().unwrap();
    assert_eq!(
        (status.health, status.drift.repaired),
        (Health::Ok, 0),
        "{:?}",
        status.problems
    );
    assert!(status.data_path_alive);
}
