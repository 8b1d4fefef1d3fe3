//! False routers and floods of them (C-36, C-37; R-ND-2, R-ND-3), and the true one beside them. Each attack is
//! first shown to succeed without netmoat.

use net_common::verdict::Reason;
use net_tests::{
    neighbors::{
        ENFORCE, PATIENCE, Scene,
        attack::{self, Attack},
        json, mac,
        report::{assert_no_alert, assert_sound, await_event, await_learned, observed},
        router_advertisements,
    },
    topology::Host,
    wait,
};
use serde_json::Value;

/// What the attacker advertises.
const FALSE: &str = "2001:db8:bad::/64";
/// What the gateway advertises.
const TRUE: &str = "2001:db8:600d::/64";

type Tool = fn(&Scene) -> Attack;

/// A victim that takes router advertisements.
fn scene() -> Scene {
    let scene = Scene::new();
    scene
        .victim
        .ns
        .sysctl("net.ipv6.conf.eth0.accept_ra", "1")
        .unwrap();
    scene
}

/// The victim's routes that routers have told it of: prefix and router.
fn routes(scene: &Scene) -> Vec<(String, String)> {
    let routes: Vec<Value> = json(&scene.victim, &["-6", "route", "show", "dev", "eth0"]);
    let text = |route: &Value, key: &str| route[key].as_str().unwrap_or_default().to_owned();
    routes
        .iter()
        .map(|route| (text(route, "dst"), text(route, "gateway")))
        .collect()
}

fn has_prefix(scene: &Scene, prefix: &str) -> bool {
    routes(scene).iter().any(|(dst, _)| dst == prefix)
}

fn has_router(scene: &Scene, router: &Host) -> bool {
    let address = net_tests::neighbors::link_local(router.link.mac).to_string();
    routes(scene)
        .iter()
        .any(|(dst, gateway)| dst == "default" && *gateway == address)
}

/// The gateway advertises itself and [`TRUE`].
fn advertise(scene: &Scene) {
    let own = scene.next_hop(6).to_string();
    let words = ["ra6", "-i", "eth0", "-s", &own, "-d", "ff02::1", "-e"];
    let more = ["-t", "1800", "-P", &format!("{TRUE}#LA#3600#1800")];
    attack::run(&scene.gateway, &[&words[..], &more].concat());
}

fn guarded(scene: &Scene) -> String {
    format!(
        "[ndp]\nmode = \"enforce\"\nrouters = [\"{}\"]",
        scene.next_hop(6)
    )
}

fn a_rogue_router_is_refused(tool: Tool) {
    let open = scene();
    let attack = tool(&open);
    wait::until("a rogue router to be believed", PATIENCE, || {
        has_router(&open, &open.attacker) && has_prefix(&open, FALSE)
    })
    .unwrap();
    drop((attack, open));

    let scene = scene();
    let agent = scene.protect(6, &guarded(&scene));
    let attack = tool(&scene);
    let alert = await_event(&agent, "rogue_router", attackers_address(&scene));
    assert_eq!(alert.macs, [mac(&scene.attacker)]);
    assert!(agent.packets(Reason::RaGuard).unwrap() > 0);
    // The true router is heard all the same.
    advertise(&scene);
    wait::until("the true router's prefix", PATIENCE, || {
        has_prefix(&scene, TRUE)
    })
    .unwrap();
    assert!(!has_router(&scene, &scene.attacker));
    assert!(!has_prefix(&scene, FALSE));
    assert_sound(&agent);
    drop(attack);
}

fn attackers_address(scene: &Scene) -> std::net::IpAddr {
    net_tests::neighbors::link_local(scene.attacker.link.mac).into()
}

#[test]
fn c_37_fake_router6_is_refused_and_the_true_router_heard() {
    a_rogue_router_is_refused(|scene| attack::fake_router6(scene, FALSE));
}

#[test]
fn c_37_a_rogue_router_behind_a_hop_by_hop_header_is_refused() {
    a_rogue_router_is_refused(|scene| attack::fake_router26(scene, FALSE, "H"));
}

/// A router advertisement in two fragments, once a second.
fn fragments(scene: &Scene) -> Attack {
    let own = attackers_address(scene).to_string();
    let words = ["ra6", "-i", "eth0", "-s", &own, "-d", "ff02::1", "-e"];
    let more = ["-t", "1800", "-P", &format!("{FALSE}#LA#3600#1800")];
    let often = ["-y", "48", "-l", "-z", "1"];
    Attack::start(&scene.attacker, &[&words[..], &more, &often].concat())
}

/// R-ND-2. Linux refuses them by itself (RFC 6980), unless it is told not to. A first fragment that does not reach
/// the advertisement it refuses always (RFC 8200 section 4.5).
#[test]
fn c_37_a_rogue_router_in_fragments_is_dropped() {
    let scene = scene();
    scene
        .victim
        .ns
        .sysctl("net.ipv6.conf.eth0.suppress_frag_ndisc", "0")
        .unwrap();
    let attack = fragments(&scene);
    wait::until("a rogue router to be believed", PATIENCE, || {
        has_router(&scene, &scene.attacker) && has_prefix(&scene, FALSE)
    })
    .unwrap();
    drop(attack);
    attack::run(
        &scene.victim,
        &["ip", "-6", "route", "flush", "proto", "ra"],
    );
    assert!(!has_router(&scene, &scene.attacker));

    let agent = scene.protect(6, &guarded(&scene));
    let attack = fragments(&scene);
    wait::until("fragments to be dropped", PATIENCE, || {
        agent.packets(Reason::NdFragment).unwrap() >= 3
    })
    .unwrap();
    assert!(!has_router(&scene, &scene.attacker));
    assert_sound(&agent);
    drop(attack);
}

#[test]
fn c_37_in_observe_mode_a_rogue_router_is_believed_and_told_of() {
    let scene = scene();
    let config = guarded(&scene).replace("enforce", "observe");
    let agent = scene.protect(6, &config);
    let attack = attack::fake_router6(&scene, FALSE);
    await_event(&agent, "rogue_router", attackers_address(&scene));
    wait::until("the rogue router to be believed", PATIENCE, || {
        has_router(&scene, &scene.attacker)
    })
    .unwrap();
    assert!(observed(&agent, Reason::RaGuard) > 0);
    assert_eq!(agent.packets(Reason::RaGuard).unwrap(), 0);
    drop(attack);
}

#[test]
fn without_a_list_of_routers_any_router_is_heard() {
    // R-ND-3: the allowlist is optional.
    let scene = scene();
    let agent = scene.protect(6, ENFORCE);
    advertise(&scene);
    let attack = attack::fake_router6(&scene, FALSE);
    wait::until("both routers' prefixes", PATIENCE, || {
        has_prefix(&scene, TRUE) && has_prefix(&scene, FALSE)
    })
    .unwrap();
    assert_eq!(agent.packets(Reason::RaGuard).unwrap(), 0);
    assert_no_alert(&agent);
    drop(attack);
}

#[test]
fn c_36_a_flood_of_router_advertisements_is_limited_and_the_protected_router_is_heard() {
    // Some 300 a second come.
    const MANY: u64 = 300;
    let open = scene();
    let before = router_advertisements(&open.victim);
    let attack = attack::flood_router26(&open);
    wait::until("the victim to take them all in", PATIENCE, || {
        router_advertisements(&open.victim) >= before + MANY
    })
    .unwrap();
    assert!(routes(&open).len() > 1000, "{}", routes(&open).len());
    drop((attack, open));

    let scene = scene();
    let config = format!("{ENFORCE}\n[neighbors]\nrouter_limit = \"10/s\"\nrouter_burst = 20");
    let agent = scene.protect(6, &config);
    let before = router_advertisements(&scene.victim);
    let started = std::time::Instant::now();
    let attack = attack::flood_router26(&scene);
    wait::until("the flood to be limited", PATIENCE, || {
        agent.packets(Reason::RaLimit).unwrap() >= MANY
    })
    .unwrap();
    // The gateway's entry is protected, which reserves it a share.
    await_learned(&agent, scene.next_hop(6), &scene.gateway);
    advertise(&scene);
    wait::until("the true router's prefix", PATIENCE, || {
        has_prefix(&scene, TRUE)
    })
    .unwrap();
    drop(attack);
    let taken = router_advertisements(&scene.victim) - before;
    // The burst conforms once more from rest (GCRA); one is the gateway's.
    let most = 20 + 1 + 1 + started.elapsed().as_secs() * 10 + 10;
    assert!(taken <= most, "{taken} advertisements, at most {most}");
    assert_sound(&agent);
}
