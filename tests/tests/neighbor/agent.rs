//! The agent's part: what it keeps over a restart, what holds while it is stopped or dead, what it finds in the
//! kernel's table and mends, and what the operator may tell it.

use std::net::IpAddr;

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    neighbors::{
        ENFORCE, OBSERVE, PATIENCE, Scene,
        attack::{self, Attack},
        entry, forget, mac,
        report::{assert_sound, audit, await_event, await_learned, binding, observed, succeed},
    },
    wait,
};
use net_user::control::protocol::{AuditEntry, AuditVerdict, BindingOrigin, BindingState};
use nix::sys::signal::{Signal, kill};

type Tool = fn(&Scene) -> Attack;

#[test]
fn in_observe_mode_a_spoof_passes_and_is_told_of() {
    let scene = Scene::new();
    let tools: [(u8, Tool); 2] = [(4, attack::arpspoof), (6, attack::fake_advertise6)];
    for (family, tool) in tools {
        let agent = scene.protect(family, OBSERVE);
        let address = scene.next_hop(family);
        scene.transfer(family);
        let watch = scene.watch();
        let attack = tool(&scene);
        let alert = await_event(&agent, "spoof", address);
        assert_eq!(alert.macs, [mac(&scene.attacker), mac(&scene.gateway)]);
        wait::until("the entry to be poisoned", PATIENCE, || {
            !watch.seen(address, &scene.attacker).is_empty()
        })
        .unwrap();
        assert!(observed(&agent, Reason::NeighborMismatch) > 0);
        assert_eq!(agent.packets(Reason::NeighborMismatch).unwrap(), 0);
        drop(attack);
    }
}

#[test]
fn in_the_global_observe_mode_nothing_is_enforced() {
    let scene = Scene::new();
    let config = format!("mode = \"observe\"\n{ENFORCE}");
    let agent = scene.protect(4, &config);
    scene.transfer(4);
    let attack = attack::arpspoof(&scene);
    scene.await_at(4, &scene.attacker);
    assert!(observed(&agent, Reason::NeighborMismatch) > 0);
    assert_eq!(agent.packets(Reason::NeighborMismatch).unwrap(), 0);

    // And when the operator changes it, the guard begins.
    succeed(&agent, &["mode", "enforce"]);
    wait::until("false claims to be dropped", PATIENCE, || {
        agent.packets(Reason::NeighborMismatch).unwrap() > 0
    })
    .unwrap();
    scene.forget(4);
    scene.transfer(4);
    assert!(scene.at(4, &scene.gateway));
    drop(attack);
}

#[test]
fn a_guard_that_is_off_neither_drops_nor_tells() {
    let scene = Scene::new();
    let agent = Agent::start(
        &scene.victim,
        "[arp]\nmode = \"off\"\n[ndp]\nmode = \"off\"",
    )
    .unwrap();
    scene.transfer(4);
    let attack = attack::arpspoof(&scene);
    scene.await_at(4, &scene.attacker);
    for reason in [Reason::NeighborMismatch, Reason::ArpPass] {
        assert_eq!(agent.packets(reason).unwrap(), 0, "{}", reason.name());
        assert_eq!(observed(&agent, reason), 0, "{}", reason.name());
    }
    drop(attack);
}

#[test]
fn bindings_and_their_history_outlive_the_agent() {
    let scene = Scene::new();
    let state = tempfile::tempdir().unwrap();
    let start = || Agent::start_in(state.path(), &scene.victim, ENFORCE).unwrap();
    let (learned, pinned): (_, IpAddr) = (scene.next_hop(4), "198.18.0.90".parse().unwrap());
    let mut agent = start();
    await_learned(&agent, learned, &scene.gateway);
    succeed(
        &agent,
        &["neighbor", "pin", "198.18.0.90", "02:00:00:00:00:5a"],
    );
    scene.transfer(4);
    let attack = attack::arpspoof(&scene);
    await_event(&agent, "spoof", learned);
    drop(attack);
    let before = [learned, pinned].map(|address| binding(&agent, address).unwrap());
    assert_eq!(before[0].spoofs, 1);
    assert!(before.iter().all(|binding| !binding.history.is_empty()));
    assert_eq!(before[1].origin, BindingOrigin::Pinned);

    // Nothing can be learned anew: the gateway is dark.
    scene.lan().bridge().ip("link set p2 down").unwrap();
    for how in [Agent::terminate, Agent::kill] {
        how(&mut agent).unwrap();
        agent = start();
        let after = [learned, pinned].map(|address| binding(&agent, address).unwrap());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.macs, before.macs);
            assert_eq!(after.origin, before.origin);
            assert!(
                after.history.starts_with(&before.history),
                "{before:#?} {after:#?}"
            );
        }
        assert_eq!(after[0].state, BindingState::Protected);
    }
    succeed(&agent, &["neighbor", "unpin", "198.18.0.90"]);
    agent.terminate().unwrap();
    let agent = start();
    assert_eq!(binding(&agent, pinned), None);
}

#[test]
fn while_the_agent_is_stopped_named_bindings_hold_and_learned_ones_are_only_observed() {
    let scene = Scene::new();
    let peer = scene.host("peer");
    let config = format!(
        "{ENFORCE}\n[[neighbor]]\naddress = \"{}\"\nmacs = [\"{}\"]",
        peer.v4,
        mac(&peer)
    );
    let agent = scene.protect(4, &config);
    let (learned, named): (_, IpAddr) = (scene.next_hop(4), peer.v4.into());
    assert!(scene.reaches(learned) && scene.reaches(named));
    let watch = scene.watch();
    let attacks = [learned, named].map(|address| attack::gratuitous(&scene, &address.to_string()));
    await_event(&agent, "spoof", learned);
    await_event(&agent, "spoof", named);
    watch.assert_never(learned, &scene.attacker);

    kill(agent.pid(), Signal::SIGSTOP).unwrap();
    scene.await_at(4, &scene.attacker);
    watch.assert_never(named, &scene.attacker);

    kill(agent.pid(), Signal::SIGCONT).unwrap();
    wait::until("the learned binding to be enforced again", PATIENCE, || {
        let before = agent.packets(Reason::NeighborMismatch).unwrap();
        scene.forget(4);
        scene.reaches(learned)
            && scene.at(4, &scene.gateway)
            && agent.packets(Reason::NeighborMismatch).unwrap() > before
    })
    .unwrap();
    let watch = scene.watch();
    let before = agent.packets(Reason::NeighborMismatch).unwrap();
    wait::until("false claims to be dropped", PATIENCE, || {
        agent.packets(Reason::NeighborMismatch).unwrap() > before + 20
    })
    .unwrap();
    watch.assert_never(learned, &scene.attacker);
    drop(attacks);
}

#[test]
fn when_the_agent_is_killed_in_the_middle_of_an_attack_the_host_is_as_before() {
    let scene = Scene::new();
    let mut agent = scene.protect(4, ENFORCE);
    let transfer = scene.transfer(4);
    let attack = attack::gratuitous(&scene, &scene.next_hop(4).to_string());
    await_event(&agent, "spoof", scene.next_hop(4));
    transfer.await_progress();
    agent.kill().unwrap();
    // Unprotected again, which shows that nothing of netmoat is left in the way.
    scene.await_at(4, &scene.attacker);
    drop(attack);
    scene.forget(4);
    transfer.await_progress();
    assert!(scene.at(4, &scene.gateway));
    let agent = scene.protect(4, ENFORCE);
    transfer.await_progress();
    assert_sound(&agent);
}

/// The audit's line about an address.
fn line(agent: &Agent, repair: bool, address: IpAddr) -> (i32, AuditEntry) {
    let (code, found) = audit(agent, repair);
    let entry = found
        .entries
        .into_iter()
        .find(|entry| entry.address == address.to_string());
    (code, entry.unwrap())
}

#[test]
fn an_audit_finds_a_poisoned_entry_and_repairs_it() {
    for family in [4, 6] {
        let scene = Scene::new();
        let agent = scene.protect(family, ENFORCE);
        let address = scene.next_hop(family);
        scene.transfer(family);
        let (code, good) = line(&agent, false, address);
        assert_eq!((code, good.verdict), (0, AuditVerdict::Good));

        // As it may have been poisoned before the agent started.
        scene
            .victim
            .ns
            .ip(&format!(
                "neigh replace {address} lladdr {} dev eth0 nud stale",
                mac(&scene.attacker)
            ))
            .unwrap();
        let (code, bad) = line(&agent, false, address);
        assert_eq!((code, bad.verdict), (3, AuditVerdict::Poisoned));
        assert_eq!(bad.mac, Some(mac(&scene.attacker)));
        assert_eq!(bad.bound, [mac(&scene.gateway)]);
        assert!(!bad.repaired);
        assert!(scene.poisoned(family), "an audit changes nothing");

        let (code, mended) = line(&agent, true, address);
        assert_eq!((code, mended.verdict), (0, AuditVerdict::Poisoned));
        assert!(mended.repaired);
        assert!(!scene.poisoned(family));
        scene.transfer(family);
        assert!(scene.at(family, &scene.gateway));
        assert_eq!(line(&agent, false, address).0, 0);

        // What the operator has written into the table is theirs.
        scene
            .victim
            .ns
            .ip(&format!(
                "neigh replace {address} lladdr {} dev eth0 nud permanent",
                mac(&scene.attacker)
            ))
            .unwrap();
        let (_, permanent) = line(&agent, true, address);
        assert_eq!(permanent.verdict, AuditVerdict::Permanent);
        assert!(!permanent.repaired);
        assert!(scene.poisoned(family));
    }
}

#[test]
fn an_entry_poisoned_before_the_agent_started_is_not_what_it_learns() {
    let scene = Scene::new();
    scene.transfer(4);
    let attack = attack::arpspoof(&scene);
    scene.await_at(4, &scene.attacker);
    drop(attack);
    // The agent asks and hears the gateway's answer, whatever the kernel believes.
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    assert_eq!(
        binding(&agent, address).unwrap().macs,
        [mac(&scene.gateway)]
    );
    if scene.poisoned(4) {
        assert_eq!(audit(&agent, true).0, 0);
    }
    scene.transfer(4);
    assert!(scene.at(4, &scene.gateway));
}

#[test]
fn settings_of_the_kernel_are_reported_and_not_changed() {
    // R-ARP-11
    let scene = Scene::new();
    let (ours, ndp) = (
        [
            ("arp_accept", "1"),
            ("arp_ignore", "2"),
            ("arp_filter", "1"),
        ],
        [("accept_redirects", "1")],
    );
    for (name, value) in ours {
        let name = format!("net.ipv4.conf.eth0.{name}");
        scene.victim.ns.sysctl(&name, value).unwrap();
    }
    for (name, value) in ndp {
        let name = format!("net.ipv6.conf.eth0.{name}");
        scene.victim.ns.sysctl(&name, value).unwrap();
    }
    let agent = scene.protect(4, ENFORCE);
    let (_, found) = audit(&agent, true);
    for (name, value) in ours {
        let name = format!("net.ipv4.conf.eth0.{name}");
        let told = found.settings.iter().find(|setting| setting.name == name);
        assert_eq!(told.unwrap().value.to_string(), value, "{name}");
        assert_eq!(scene.victim.ns.read_sysctl(&name).unwrap(), value);
    }
    let weak = |name: &str| found.settings.iter().any(|s| s.name == name && s.weak);
    assert!(weak("net.ipv4.conf.eth0.arp_accept"), "{found:#?}");
    assert!(weak("net.ipv6.conf.eth0.accept_redirects"), "{found:#?}");
}

#[test]
fn what_the_operator_pins_is_protected_until_it_is_unpinned() {
    let scene = Scene::new();
    let peer = scene.host("peer");
    let agent = scene.protect(4, ENFORCE);
    let (text, address): (_, IpAddr) = (peer.v4.to_string(), peer.v4.into());
    let poisoned =
        || entry(&scene.victim, address).and_then(|e| e.lladdr) == Some(mac(&scene.attacker));
    assert!(scene.reaches(address));
    let attack = attack::gratuitous(&scene, &text);
    wait::until("an unprotected peer to be spoofed", PATIENCE, poisoned).unwrap();

    succeed(&agent, &["neighbor", "pin", &text, &mac(&peer)]);
    let pinned = binding(&agent, address).unwrap();
    assert_eq!(
        (pinned.origin, pinned.state),
        (BindingOrigin::Pinned, BindingState::Protected)
    );
    forget(&scene.victim, address);
    let watch = scene.watch();
    let before = agent.packets(Reason::NeighborMismatch).unwrap();
    assert!(scene.reaches(address));
    wait::until("false claims to be dropped", PATIENCE, || {
        agent.packets(Reason::NeighborMismatch).unwrap() > before + 20
    })
    .unwrap();
    watch.assert_never(address, &scene.attacker);

    succeed(&agent, &["neighbor", "unpin", &text]);
    assert_eq!(binding(&agent, address), None);
    wait::until("the peer to be spoofed again", PATIENCE, poisoned).unwrap();
    drop(attack);
}

#[test]
fn pinning_without_an_address_keeps_what_was_learned() {
    let scene = Scene::new();
    let agent = scene.protect(4, ENFORCE);
    let address = scene.next_hop(4);
    succeed(&agent, &["neighbor", "pin", &address.to_string()]);
    let pinned = binding(&agent, address).unwrap();
    assert_eq!(pinned.macs, [mac(&scene.gateway)]);
    assert_eq!(pinned.origin, BindingOrigin::Pinned);
    // An address that nothing is known of cannot be.
    let output = agent.netmoat(&["neighbor", "pin", "198.18.0.99"]).unwrap();
    assert!(!output.status.success());
}
