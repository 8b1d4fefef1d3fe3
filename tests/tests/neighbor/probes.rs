//! Probes, ours and those of others, and who answers them: duplicate address detection and DHCP go on, and an
//! attacker who denies us addresses is told of (C-33, C-39; R-ARP-4, R-ARP-5, R-ND-5).

use std::{fs, io::Write as _, os::unix::fs::PermissionsExt as _, process::Command};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    neighbors::{
        ENFORCE, PATIENCE, Scene,
        attack::{self, Attack},
        json, mac, reaches,
        report::{
            assert_no_alert, assert_sound, await_alert, await_event, await_learned, events_of,
        },
    },
    topology::Host,
    wait,
};
use net_user::control::protocol::EventLevel;
use serde_json::Value;

/// Nobody's address.
const FREE: &str = "198.18.0.250";

/// `arping -D`: whether someone answers the probe of an address, as a host does that wants it for itself.
fn in_use(host: &Host, address: &str) -> bool {
    let mut arping = Command::new("arping");
    arping.args(["-D", "-f", "-c", "1", "-w", "1", "-I", "eth0", address]);
    let output = host.ns.run(|| arping.output()).unwrap();
    match output.status.code() {
        Some(0) => false,
        Some(1) => true,
        _ => panic!("{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn c_33_a_probe_for_our_address_is_answered() {
    let scene = Scene::new();
    let own = scene.victim.v4.to_string();
    assert!(in_use(&scene.attacker, &own));
    // A probe has no sender, and so nothing that the checks of R-ARP-2 could find fault with.
    let checked = "[arp]\nmode = \"enforce\"\nvalidate = [\"src-mac\", \"dst-mac\", \"ip\"]";
    for config in [ENFORCE, checked] {
        let agent = scene.protect(4, config);
        assert!(in_use(&scene.attacker, &own));
        assert!(!in_use(&scene.attacker, FREE));
        assert_no_alert(&agent);
        assert_sound(&agent);
    }
}

#[test]
fn r_arp_4_our_own_probe_gets_its_answer_and_one_answer_is_no_alert() {
    let scene = Scene::new();
    let agent = scene.protect(4, ENFORCE);
    // That a protected neighbour has its own address is no news.
    assert!(in_use(&scene.victim, &scene.gateway.v4.to_string()));
    assert!(in_use(&scene.victim, &scene.attacker.v4.to_string()));
    let event = await_event(&agent, "probe_answered", scene.attacker.v4.into());
    assert_eq!(event.macs, [mac(&scene.attacker)]);
    assert_eq!(event.level, EventLevel::Info);
    assert!(!in_use(&scene.victim, FREE));
    assert!(events_of(&agent, "probe_answered", FREE.parse().unwrap()).is_empty());
    assert_no_alert(&agent);
    assert_sound(&agent);
}

#[test]
fn r_arp_4_whoever_answers_probes_of_many_addresses_is_told_of() {
    let scene = Scene::new();
    let taken = [201, 202, 203].map(|last| format!("198.18.0.{last}"));
    for address in &taken {
        assert!(!in_use(&scene.victim, address));
        scene
            .attacker
            .ns
            .ip(&format!("addr add {address}/32 dev eth0"))
            .unwrap();
    }
    let agent = scene.protect(4, ENFORCE);
    for address in &taken {
        assert!(in_use(&scene.victim, address), "answers are not withheld");
    }
    let alert = await_alert(&agent, "dad_denial");
    assert_eq!(alert.macs, [mac(&scene.attacker)]);
    assert_sound(&agent);
}

#[test]
fn c_39_dos_new_ip6_denies_addresses_and_is_told_of() {
    let scene = Scene::new();
    scene
        .victim
        .ns
        .sysctl("net.ipv6.conf.eth0.accept_dad", "1")
        .unwrap();
    let state = |address: &str| -> (bool, bool) {
        let links: Vec<Value> = json(&scene.victim, &["-6", "addr", "show", "dev", "eth0"]);
        let all = links[0]["addr_info"].as_array().unwrap();
        let one = all.iter().find(|a| a["local"] == address).unwrap();
        let flag = |name: &str| one[name].as_bool() == Some(true);
        (flag("tentative"), flag("dadfailed"))
    };
    let add = |address: &str| {
        let line = format!("addr add {address}/64 dev eth0");
        scene.victim.ns.ip(&line).unwrap();
    };
    let agent = scene.protect(6, ENFORCE);
    // An address that nobody denies.
    add("2001:2::fa");
    wait::until("an address of our own", PATIENCE, || {
        state("2001:2::fa") == (false, false)
    })
    .unwrap();
    assert_no_alert(&agent);

    let attack = attack::dos_new_ip6(&scene);
    // Its answers are passed: an address that is in use is not ours to take (R-ND-5).
    for (number, address) in ["2001:2::a1", "2001:2::a2", "2001:2::a3"]
        .iter()
        .enumerate()
    {
        // The tool says nothing when it is ready: the first may be let through.
        wait::until("an address to be denied", PATIENCE, || {
            let known = state_known(&scene, address);
            if !known {
                add(address);
                return false;
            }
            match state(address) {
                (_, true) => true,
                (false, false) if number == 0 => {
                    let line = format!("addr del {address}/64 dev eth0");
                    scene.victim.ns.ip(&line).unwrap();
                    false
                }
                _ => false,
            }
        })
        .unwrap();
    }
    let alert = await_alert(&agent, "dad_denial");
    assert!(!alert.macs.is_empty());
    assert_sound(&agent);
    drop(attack);
}

fn state_known(scene: &Scene, address: &str) -> bool {
    let links: Vec<Value> = json(&scene.victim, &["-6", "addr", "show", "dev", "eth0"]);
    links[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .any(|a| a["local"] == address)
}

#[test]
fn r_arp_5_and_r_nd_5_a_claim_to_our_own_address_is_told_of_and_passes() {
    let scene = Scene::new();
    let agent = scene.protect(4, ENFORCE);
    let attacks = [
        attack::gratuitous(&scene, &scene.victim.v4.to_string()),
        attack::advertise6(&scene, &scene.victim.v6.to_string(), "ff02::1"),
    ];
    for family in [4, 6] {
        let own = scene.victim.ip(family);
        let alert = await_event(&agent, "own_address", own);
        assert_eq!(alert.level, EventLevel::Alert);
        assert!(alert.macs.contains(&mac(&scene.attacker)), "{alert:#?}");
        scene.transfer(family);
    }
    assert!(agent.packets(Reason::OwnAddressClaimed).unwrap() >= 2);
    assert_sound(&agent);
    drop(attacks);
}

#[test]
fn a_host_without_an_address_gets_a_lease_and_then_protects_its_gateway() {
    let scene = Scene::new();
    let guest = scene.host("guest");
    guest.ns.ip("addr flush dev eth0 scope global").unwrap();
    let agent = Agent::start(&guest, ENFORCE).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [leases, script] = ["leases", "script"].map(|name| directory.path().join(name));
    let mut file = fs::File::create(&script).unwrap();
    file.write_all(
        b"#!/bin/sh\n\
          [ $1 = bound ] || exit 0\n\
          ip addr add $ip/$mask dev $interface && ip route add default via $router\n",
    )
    .unwrap();
    drop(file);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();

    let router = scene.gateway.v4.to_string();
    let server = Attack::start(
        &scene.gateway,
        &[
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--log-facility=-",
            "--pid-file=",
            "--user=root",
            "--port=0",
            "--interface=eth0",
            "--bind-interfaces",
            "--no-ping",
            "--dhcp-authoritative",
            "--dhcp-range=198.18.0.100,198.18.0.150,255.255.255.0,2m",
            &format!("--dhcp-option=option:router,{router}"),
            &format!("--dhcp-leasefile={}", leases.display()),
        ],
    );
    // -a probes the address that is offered (RFC 2131 section 4.4.1), -n and -q end it either way.
    let script = script.to_str().unwrap();
    let words = ["udhcpc", "-f", "-n", "-q", "-a", "-t", "5", "-T", "1"];
    attack::run(
        &guest,
        &[&words[..], &["-i", "eth0", "-s", script]].concat(),
    );
    await_learned(&agent, scene.gateway.v4.into(), &scene.gateway);
    assert!(reaches(&guest, net_tests::neighbors::FAR_V4.into()));
    assert_no_alert(&agent);
    assert_sound(&agent);
    drop(server);
}
