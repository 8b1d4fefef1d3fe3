//! Real spoofing tools against the gateway's entry of a victim with an open TCP transfer. Each attack is first
//! shown to succeed without netmoat, then to fail with it (C-29, C-30, C-38; R-ARP-6, R-ND-6).

use std::time::Duration;

use net_common::verdict::Reason;
use net_tests::{
    neighbors::{
        ENFORCE, PATIENCE, Scene,
        attack::{self, Attack},
        mac,
        report::{assert_sound, binding, events_of},
    },
    wait,
};
use net_user::control::protocol::EventLevel;

/// After so long without success the victim asks anew.
const ASKS: Duration = Duration::from_secs(3);

type Tool = fn(&Scene) -> Attack;

/// The victim's entry becomes the attacker's, and its transfer goes nowhere. The victim asks for its gateway
/// now and then, as some tools wait for.
fn succeeds(scene: &Scene, family: u8, tool: Tool) {
    let transfer = scene.transfer(family);
    assert!(!scene.poisoned(family), "not yet");
    let attack = tool(scene);
    wait::until("the victim to be deceived", PATIENCE, || {
        let deceived = || scene.poisoned(family);
        wait::until("", ASKS, deceived).is_ok() || {
            scene.forget(family);
            false
        }
    })
    .unwrap();
    transfer.await_standstill();
    drop((attack, transfer));
    scene.forget(family);
}

/// The victim's entry is never the attacker's, its transfer goes on, and the operator is told.
fn fails(scene: &Scene, family: u8, tool: Tool) {
    let agent = scene.protect(family, ENFORCE);
    let (address, attacker) = (scene.next_hop(family), mac(&scene.attacker));
    let transfer = scene.transfer(family);
    let watch = scene.watch();
    let attack = tool(scene);
    let alert = wait::until_some("a spoof to be told of", PATIENCE, || {
        scene.forget(family);
        transfer.await_progress();
        events_of(&agent, "spoof", address).pop()
    })
    .unwrap();
    assert_eq!(alert.level, EventLevel::Alert);
    assert_eq!(alert.macs, [attacker, mac(&scene.gateway)]);
    assert!(agent.packets(Reason::NeighborMismatch).unwrap() > 0);
    // The attack goes on after the first decision.
    let before = agent.packets(Reason::NeighborMismatch).unwrap();
    wait::until("more false claims", PATIENCE, || {
        scene.forget(family);
        transfer.await_progress();
        agent.packets(Reason::NeighborMismatch).unwrap() > before
    })
    .unwrap();
    assert!(transfer.flows());
    watch.assert_never(address, &scene.attacker);
    assert!(scene.at(family, &scene.gateway));
    assert!(binding(&agent, address).unwrap().spoofs > 0);
    assert_sound(&agent);
    drop((attack, transfer));
}

fn succeeds_without_and_fails_with_netmoat(family: u8, tool: Tool) {
    let scene = Scene::new();
    succeeds(&scene, family, tool);
    fails(&scene, family, tool);
}

#[test]
fn c_29_arpspoof_with_replies_cannot_take_the_gateways_place() {
    succeeds_without_and_fails_with_netmoat(4, attack::arpspoof);
}

#[test]
fn c_29_arpspoof_with_replies_to_all_hosts_cannot_take_the_gateways_place() {
    succeeds_without_and_fails_with_netmoat(4, attack::arpspoof_all);
}

#[test]
fn c_30_ettercap_with_requests_cannot_take_the_gateways_place() {
    succeeds_without_and_fails_with_netmoat(4, attack::ettercap_requests);
}

#[test]
fn c_30_ettercap_with_requests_and_replies_cannot_take_the_gateways_place() {
    succeeds_without_and_fails_with_netmoat(4, attack::ettercap_both);
}

#[test]
fn gratuitous_arp_cannot_take_the_gateways_place() {
    fn tool(scene: &Scene) -> Attack {
        attack::gratuitous(scene, &scene.gateway.v4.to_string())
    }
    succeeds_without_and_fails_with_netmoat(4, tool);
}

#[test]
fn c_38_fake_advertise6_cannot_take_the_gateways_place() {
    succeeds_without_and_fails_with_netmoat(6, attack::fake_advertise6);
}

#[test]
fn c_38_parasite6_that_answers_the_victims_solicitations_cannot_take_the_gateways_place() {
    succeeds_without_and_fails_with_netmoat(6, attack::parasite6);
}
