//! A neighbour that really moves: its binding follows within about two seconds, even under attack, unless the
//! operator named its addresses (C-34, C-35; R-ARP-6, R-ARP-7, R-ND-6).

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use net_common::verdict::Reason;
use net_tests::{
    link,
    neighbors::{
        ENFORCE, PATIENCE, Scene, attack, mac,
        report::{assert_no_alert, assert_sound, await_event, await_learned, binding, events_of},
        transfer::Transfer,
    },
    topology::Host,
    wait,
};
use net_user::control::protocol::{BindingOrigin, Event};

/// What a new network card has.
const NEW_MAC: [u8; 6] = [0x02, 0x6e, 0x6d, 0, 1, 2];
/// A decision takes up to 1.2 s; the rest is for a busy machine.
const DECISION: Duration = Duration::from_millis(2500);

/// Milliseconds since 1970, as events have it.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn assert_prompt(event: &Event, since_ms: u64) {
    let taken = Duration::from_millis(event.at_ms.saturating_sub(since_ms));
    assert!(taken < DECISION, "{taken:?}: {event:#?}");
}

#[test]
fn c_35_a_gateway_with_a_new_card_that_announces_itself_is_followed_after_silence() {
    let mut scene = Scene::new();
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    let transfer = scene.transfer(4);
    let before = now_ms();
    // Linux announces it by itself with arp_notify.
    scene
        .gateway
        .ns
        .sysctl("net.ipv4.conf.eth0.arp_notify", "1")
        .unwrap();
    change_card(&mut scene);
    let moved = await_event(&agent, "moved", address);
    assert_prompt(&moved, before);
    assert!(moved.macs.contains(&link::text(NEW_MAC)), "{moved:#?}");
    await_learned(&agent, address, &scene.gateway);
    scene.await_at(4, &scene.gateway);
    transfer.await_progress();
    assert!(events_of(&agent, "spoof", address).is_empty());
    assert_sound(&agent);
}

#[test]
fn c_35_a_gateway_with_a_new_card_that_says_nothing_is_followed_when_asked() {
    let mut scene = Scene::new();
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    let transfer = scene.transfer(4);
    change_card(&mut scene);
    // The kernel would ask by itself in half a minute.
    scene.forget(4);
    let asked = now_ms();
    assert_prompt(&await_event(&agent, "moved", address), asked);
    await_learned(&agent, address, &scene.gateway);
    scene.await_at(4, &scene.gateway);
    transfer.await_progress();
    assert_sound(&agent);
}

/// The gateway's interface gets another link-layer address; its IPv6 address stays.
fn change_card(scene: &mut Scene) {
    let new = link::text(NEW_MAC);
    scene
        .gateway
        .ns
        .ip(&format!("link set eth0 address {new}"))
        .unwrap();
    scene.gateway.link.mac = NEW_MAC;
}

#[test]
fn c_34_a_failover_announced_by_gratuitous_arp_is_followed() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    scene.transfer(4);
    scene.fail_over(&spare);
    let before = now_ms();
    let announcing = attack::announce(&spare, &scene.gateway.v4.to_string());
    assert_prompt(&await_event(&agent, "moved", address), before);
    await_learned(&agent, address, &spare);
    scene.await_at(4, &spare);
    Transfer::to(&scene, &spare, 4);
    let history = binding(&agent, address).unwrap().history;
    assert!(
        history.iter().any(|line| line.what.contains(&mac(&spare))),
        "{history:#?}"
    );
    assert_sound(&agent);
    drop(announcing);
}

#[test]
fn r_nd_6_a_failover_announced_by_neighbour_advertisements_is_followed() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent = scene.protect(6, ENFORCE);
    let address = scene.next_hop(6);
    scene.transfer(6);
    scene.fail_over(&spare);
    let before = now_ms();
    let announcing = attack::advertise(&spare, &address.to_string());
    assert_prompt(&await_event(&agent, "moved", address), before);
    await_learned(&agent, address, &spare);
    scene.await_at(6, &spare);
    Transfer::to(&scene, &spare, 6);
    assert_sound(&agent);
    drop(announcing);
}

#[test]
fn a_failover_is_followed_while_a_spoofer_floods_claims() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    scene.transfer(4);
    let watch = scene.watch();
    let attack = attack::gratuitous(&scene, &address.to_string());
    await_event(&agent, "spoof", address);
    scene.fail_over(&spare);
    let announcing = attack::announce(&spare, &scene.gateway.v4.to_string());
    await_learned(&agent, address, &spare);
    scene.await_at(4, &spare);
    let transfer = Transfer::to(&scene, &spare, 4);
    // The attack is told from the new holder, too.
    let before = agent.packets(Reason::NeighborMismatch).unwrap();
    wait::until("more false claims", PATIENCE, || {
        agent.packets(Reason::NeighborMismatch).unwrap() > before + 10
    })
    .unwrap();
    transfer.await_progress();
    watch.assert_never(address, &scene.attacker);
    assert_sound(&agent);
    drop((attack, announcing));
}

/// A config that names the gateway with these hosts' addresses.
fn named(scene: &Scene, hosts: &[&Host]) -> String {
    let macs: Vec<_> = hosts.iter().map(|host| mac(host)).collect();
    format!(
        "{ENFORCE}\n[[neighbor]]\naddress = \"{}\"\nmacs = {macs:?}",
        scene.gateway.v4
    )
}

#[test]
fn a_failover_between_addresses_that_the_operator_named_passes_at_once() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent =
        net_tests::agent::Agent::start(&scene.victim, &named(&scene, &[&scene.gateway, &spare]))
            .unwrap();
    scene.transfer(4);
    assert!(scene.at(4, &scene.gateway));
    scene.fail_over(&spare);
    let announcing = attack::announce(&spare, &scene.gateway.v4.to_string());
    scene.await_at(4, &spare);
    Transfer::to(&scene, &spare, 4);
    assert_eq!(agent.packets(Reason::NeighborMismatch).unwrap(), 0);
    assert!(agent.packets(Reason::NeighborValid).unwrap() > 0);
    assert_no_alert(&agent);
    drop(announcing);
}

#[test]
fn a_binding_that_the_operator_named_never_moves_and_the_contest_is_told_of() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent =
        net_tests::agent::Agent::start(&scene.victim, &named(&scene, &[&scene.gateway])).unwrap();
    let address: IpAddr = scene.gateway.v4.into();
    await_learned(&agent, address, &scene.gateway);
    assert_eq!(
        binding(&agent, address).unwrap().origin,
        BindingOrigin::Config
    );
    scene.transfer(4);
    let watch = scene.watch();
    scene.fail_over(&spare);
    let announcing = attack::announce(&spare, &scene.gateway.v4.to_string());
    await_event(&agent, "contested", address);
    assert_eq!(
        binding(&agent, address).unwrap().macs,
        [mac(&scene.gateway)]
    );
    watch.assert_never(address, &spare);
    assert!(agent.packets(Reason::NeighborMismatch).unwrap() > 0);
    // Back again: the contest is over.
    drop(announcing);
    scene.lan().bridge().ip("link set p2 up").unwrap();
    spare
        .ns
        .ip(&format!("addr del {}/24 dev eth0", scene.gateway.v4))
        .unwrap();
    scene.forget(4);
    scene.transfer(4);
    await_event(&agent, "contest_over", address);
    assert_sound(&agent);
}
