//! Attackers who take trouble: floods of claims, a host that answers as well, an attack that is on before the agent
//! is, a failover in the middle of it all (R-ARP-6, R-ND-6).

use std::{
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    neighbors::{
        ENFORCE, PATIENCE, Scene, attack, mac,
        report::{assert_sound, await_event, await_learned, binding, events_of},
        transfer::Transfer,
    },
    process::Process,
    wait,
};
use net_user::control::protocol::BindingState;

/// A failover is to be followed within this time, whatever goes on.
const FOLLOWED: Duration = Duration::from_secs(10);

#[test]
fn a_flood_of_claims_is_asked_about_within_bounds_and_hides_no_failover() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    let transfer = scene.transfer(4);
    let watch = scene.watch();
    let filter = format!("arp and arp[6:2] == 1 and arp src host {}", scene.victim.v4);
    let asked = Process::start(
        &scene.gateway.ns,
        Command::new("tcpdump").args(["-l", "-n", "-i", "eth0", &filter]),
    )
    .unwrap();
    wait::until("tcpdump to listen", PATIENCE, || {
        asked.printed().contains("listening on")
    })
    .unwrap();

    let started = Instant::now();
    let attack = attack::gratuitous_flood(&scene);
    await_event(&agent, "spoof", address);
    wait::until("the flood to be dropped", PATIENCE, || {
        agent.packets(Reason::NeighborMismatch).unwrap() >= 3000
    })
    .unwrap();
    transfer.await_progress();
    let asks = asked.printed().matches("Request who-has").count() as u64;
    // Four rounds at once and one a second, of up to five asks each; the kernel asks now and then, too.
    let rounds = 4 + started.elapsed().as_secs() + 1;
    assert!(asks > 0 && asks <= rounds * 5 + 5, "{asks} asks");
    // None of the claimed addresses is the holder's.
    scene.forget(4);
    transfer.await_progress();
    assert!(scene.at(4, &scene.gateway));

    scene.fail_over(&spare);
    let failed = Instant::now();
    let announcing = attack::announce(&spare, &address.to_string());
    await_learned(&agent, address, &spare);
    assert!(failed.elapsed() < FOLLOWED, "{:?}", failed.elapsed());
    scene.forget(4);
    Transfer::to(&scene, &spare, 4);
    watch.assert_never(address, &scene.attacker);
    assert_sound(&agent);
    drop((attack, announcing));
}

#[test]
fn an_ipv6_failover_is_followed_while_a_spoofer_advertises() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent = scene.protect(6, ENFORCE);
    let address = scene.next_hop(6);
    scene.transfer(6);
    let watch = scene.watch();
    let attack = attack::fake_advertise6(&scene);
    await_event(&agent, "spoof", address);
    scene.fail_over(&spare);
    let failed = Instant::now();
    let announcing = attack::advertise(&spare, &address.to_string());
    await_learned(&agent, address, &spare);
    assert!(failed.elapsed() < FOLLOWED, "{:?}", failed.elapsed());
    scene.await_at(6, &spare);
    let transfer = Transfer::to(&scene, &spare, 6);
    transfer.await_progress();
    watch.assert_never(address, &scene.attacker);
    assert_sound(&agent);
    drop((attack, announcing));
}

#[test]
fn a_host_that_also_answers_for_the_gateway_does_not_take_its_place() {
    let scene = Scene::new();
    let address = scene.next_hop(4);
    // The attacker has the very address, answers for it and announces it.
    scene
        .attacker
        .ns
        .ip(&format!("addr add {address}/32 dev eth0"))
        .unwrap();
    let open = attack::gratuitous(&scene, &address.to_string());
    wait::until("the victim to be deceived", PATIENCE, || {
        scene.reaches(address);
        scene.poisoned(4)
    })
    .unwrap();
    drop(open);
    scene
        .attacker
        .ns
        .ip(&format!("addr del {address}/32 dev eth0"))
        .unwrap();
    scene.forget(4);

    let agent = scene.protect(4, ENFORCE);
    scene
        .attacker
        .ns
        .ip(&format!("addr add {address}/32 dev eth0"))
        .unwrap();
    let watch = scene.watch();
    let transfer = scene.transfer(4);
    let attack = attack::gratuitous(&scene, &address.to_string());
    await_event(&agent, "spoof", address);
    for _ in 0..20 {
        scene.forget(4);
        transfer.await_progress();
        assert!(scene.at(4, &scene.gateway));
    }
    watch.assert_never(address, &scene.attacker);
    assert_eq!(
        binding(&agent, address).unwrap().macs,
        [mac(&scene.gateway)]
    );
    assert_sound(&agent);
    drop(attack);
}

#[test]
fn what_is_learned_in_the_middle_of_an_attack_is_never_the_attacker() {
    let scene = Scene::new();
    let address = scene.next_hop(4);
    scene.transfer(4);
    let attack = attack::arpspoof(&scene);
    scene.await_at(4, &scene.attacker);
    let agent = Agent::start(&scene.victim, ENFORCE).unwrap();
    // Its false answers come while the agent asks: that several answer is told of, or the true one is learned.
    wait::until("the binding to be learned or contested", PATIENCE, || {
        // The agent reads the routes a moment after its start.
        let Some(bound) = binding(&agent, address) else {
            return false;
        };
        assert!(!bound.macs.contains(&mac(&scene.attacker)), "{bound:#?}");
        bound.state == BindingState::Protected
            || !events_of(&agent, "contested", address).is_empty()
    })
    .unwrap();
    drop(attack);
    await_learned(&agent, address, &scene.gateway);
    scene.forget(4);
    scene.transfer(4);
    assert_sound(&agent);
}

#[test]
fn while_our_own_link_is_down_silence_proves_nothing() {
    let scene = Scene::new();
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    let transfer = scene.transfer(4);
    let watch = scene.watch();
    let attack = attack::gratuitous(&scene, &address.to_string());
    await_event(&agent, "spoof", address);
    // Carrier is lost at the victim, in the middle of claims that are being verified.
    scene.lan().bridge().ip("link set p1 down").unwrap();
    transfer.await_standstill();
    scene.lan().bridge().ip("link set p1 up").unwrap();
    transfer.await_progress();
    let before = agent.packets(Reason::NeighborMismatch).unwrap();
    wait::until("more false claims", PATIENCE, || {
        agent.packets(Reason::NeighborMismatch).unwrap() > before + 20
    })
    .unwrap();
    assert!(events_of(&agent, "moved", address).is_empty());
    watch.assert_never(address, &scene.attacker);
    transfer.await_progress();
    assert_sound(&agent);
    drop(attack);
}

#[test]
fn a_new_default_route_is_followed_and_its_next_hop_protected() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    scene.make_router(&spare);
    let agent = scene.protect(4, ENFORCE);
    let address: IpAddr = spare.v4.into();
    scene
        .victim
        .ns
        .ip(&format!("route replace default via {address} dev eth0"))
        .unwrap();
    await_learned(&agent, address, &spare);
    let transfer = Transfer::to(&scene, &spare, 4);
    let watch = scene.watch();
    let attack = attack::gratuitous(&scene, &address.to_string());
    await_event(&agent, "spoof", address);
    transfer.await_progress();
    watch.assert_never(address, &scene.attacker);
    assert_sound(&agent);
    drop(attack);
}
