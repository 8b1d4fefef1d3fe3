//! What the agent says of neighbours.

use std::net::IpAddr;

use net_common::verdict::Reason;
use net_user::control::protocol::{
    BindingState, Event, EventLevel, Events, NeighborAudit, NeighborBinding, Neighbors,
};
use serde::de::DeserializeOwned;

use crate::{
    agent::Agent,
    neighbors::{PATIENCE, mac},
    topology::Host,
    wait,
};

/// `netmoat neighbor list`.
pub fn neighbors(agent: &Agent) -> Neighbors {
    json(agent, &["neighbor", "list", "--history"], &[0]).1
}

/// The binding of an address, if there is one.
pub fn binding(agent: &Agent, address: IpAddr) -> Option<NeighborBinding> {
    neighbors(agent)
        .bindings
        .into_iter()
        .find(|binding| binding.address == address.to_string())
}

/// Waits until an address is protected at exactly this host.
pub fn await_learned(agent: &Agent, address: IpAddr, at: &Host) {
    let what = format!("{address} to be protected at {}", mac(at));
    wait::until(&what, PATIENCE, || {
        binding(agent, address)
            .is_some_and(|b| b.state == BindingState::Protected && b.macs == [mac(at)])
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#?}", neighbors(agent)));
}

/// `netmoat events`.
pub fn events(agent: &Agent) -> Vec<Event> {
    let events: Events = json(agent, &["events"], &[0]).1;
    events.events
}

/// The events of a kind about an address, oldest first.
pub fn events_of(agent: &Agent, kind: &str, address: IpAddr) -> Vec<Event> {
    events(agent)
        .into_iter()
        .filter(|event| event.kind == kind && event.address == address.to_string())
        .collect()
}

/// Waits for an event of a kind about an address.
pub fn await_event(agent: &Agent, kind: &str, address: IpAddr) -> Event {
    let what = format!("an event `{kind}` about {address}");
    wait::until_some(&what, PATIENCE, || {
        events_of(agent, kind, address).into_iter().next()
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#?}", events(agent)))
}

/// Waits for an alert of a kind, whatever it is about.
pub fn await_alert(agent: &Agent, kind: &str) -> Event {
    let what = format!("an alert `{kind}`");
    wait::until_some(&what, PATIENCE, || {
        events(agent)
            .into_iter()
            .find(|event| event.kind == kind && event.level == EventLevel::Alert)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {:#?}", events(agent)))
}

/// Panics when anything was found that someone should look at.
pub fn assert_no_alert(agent: &Agent) {
    let alerts: Vec<_> = events(agent)
        .into_iter()
        .filter(|event| event.level == EventLevel::Alert)
        .collect();
    assert!(alerts.is_empty(), "{alerts:#?}");
}

/// `netmoat neighbor audit`: the exit code and what it found.
pub fn audit(agent: &Agent, repair: bool) -> (i32, NeighborAudit) {
    let args: &[&str] = if repair {
        &["neighbor", "audit", "--repair"]
    } else {
        &["neighbor", "audit"]
    };
    json(agent, args, &[0, 3])
}

/// Packets that met a reason in observe mode, and passed.
pub fn observed(agent: &Agent, reason: Reason) -> u64 {
    let counters = agent.counters().unwrap();
    counters
        .observed
        .iter()
        .find(|counter| counter.code == reason as u32)
        .map_or(0, |counter| counter.packets)
}

/// What must hold at the end of every test: nothing of netmoat's own went wrong.
pub fn assert_sound(agent: &Agent) {
    let status = agent.status().unwrap();
    assert_eq!(status.problems, Vec::<String>::new());
    assert_eq!(agent.packets(Reason::Internal).unwrap(), 0);
}

/// Runs a command of the agent that must succeed.
pub fn succeed(agent: &Agent, args: &[&str]) {
    let output = agent.netmoat(args).unwrap();
    assert!(
        output.status.success(),
        "netmoat {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn json<T: DeserializeOwned>(agent: &Agent, args: &[&str], codes: &[i32]) -> (i32, T) {
    let args = [&["--output", "json"], args].concat();
    let output = agent.netmoat(&args).unwrap();
    let code = output.status.code().unwrap_or(-1);
    assert!(
        codes.contains(&code),
        "netmoat {}: {code} {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let printed = String::from_utf8_lossy(&output.stdout);
        panic!("netmoat {}: {error}: {printed}", args.join(" "))
    });
    (code, value)
}
