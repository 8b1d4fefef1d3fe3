//! Floods of ARP and of solicitations (C-31, C-40; R-ARP-9, R-ND-7): what draws from which share, and what goes
//! on beside them. Each is bounded in count, and first shown to reach the kernel without netmoat.

use std::time::Instant;

use net_common::verdict::Reason;
use net_tests::neighbors::{
    ENFORCE, Scene, attack, entries, frames_received,
    report::{assert_sound, observed},
};

/// Frames of each flood.
const MANY: usize = 3000;
/// Sources of the floods that fill the neighbour table, which all namespaces of a kernel share: below the 512 at
/// which Linux begins to remove entries of others.
const SOURCES: usize = 250;

/// Entries of the victim's table that a flood of strangers has made.
fn strangers(scene: &Scene) -> usize {
    let known = [&scene.gateway, &scene.attacker].map(|host| net_tests::link::text(host.link.mac));
    entries(&scene.victim)
        .into_iter()
        .filter(|entry| {
            entry
                .lladdr
                .as_ref()
                .is_some_and(|mac| !known.contains(mac))
        })
        .count()
}

#[test]
fn c_31_of_an_arp_flood_the_source_gets_its_share_and_the_gateways_answers_survive() {
    let scene = Scene::new();
    let before = frames_received(&scene.attacker);
    attack::arp_flood(&scene, MANY);
    let answered = frames_received(&scene.attacker) - before;
    assert!(answered >= MANY as u64 * 9 / 10, "{answered} answers");

    let agent = scene.protect(
        4,
        &format!("{ENFORCE}\n[neighbors]\nlimit = \"50/s\"\nburst = 100"),
    );
    let transfer = scene.transfer(4);
    let before = frames_received(&scene.attacker);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| attack::arp_flood(&scene, MANY));
        // The victim has to ask for its gateway again and again.
        while !flood.is_finished() {
            scene.forget(4);
            transfer.await_progress();
        }
    });
    let answered = frames_received(&scene.attacker) - before;
    // What the victim asks all hosts comes too.
    let most = 101 + (started.elapsed().as_secs() + 1) * (50 + 20);
    assert!(answered <= most, "{answered} answers, at most {most}");
    assert!(agent.packets(Reason::ArpLimit).unwrap() >= MANY as u64 / 2);
    assert!(scene.at(4, &scene.gateway));
    assert_sound(&agent);
}

#[test]
fn r_arp_9_strangers_share_one_limit_and_do_not_fill_the_table() {
    let scene = Scene::new();
    attack::arp_flood_of_strangers(&scene, SOURCES);
    assert_eq!(strangers(&scene), 64, "every sender has an entry");
    scene
        .victim
        .ns
        .ip("neigh flush to 198.18.0.64/26 dev eth0")
        .unwrap();
    assert_eq!(strangers(&scene), 0);

    let agent = scene.protect(
        4,
        &format!("{ENFORCE}\n[neighbors]\nunknown_limit = \"5/s\"\nunknown_burst = 10"),
    );
    let transfer = scene.transfer(4);
    attack::arp_flood_of_strangers(&scene, SOURCES);
    let made = strangers(&scene);
    assert!(made <= 30, "{made} entries");
    assert!(agent.packets(Reason::ArpLimit).unwrap() >= SOURCES as u64 - 40);
    scene.forget(4);
    transfer.await_progress();
    assert_sound(&agent);
}

#[test]
fn c_40_a_flood_of_solicitations_does_not_fill_the_table() {
    let scene = Scene::new();
    attack::ns_flood(&scene, SOURCES);
    let made = strangers(&scene);
    assert!(made >= SOURCES * 9 / 10, "{made} entries");
    scene
        .victim
        .ns
        .ip("neigh flush to 2001:2::/64 dev eth0")
        .unwrap();

    let agent = scene.protect(
        6,
        &format!("{ENFORCE}\n[neighbors]\nunknown_limit = \"5/s\"\nunknown_burst = 10"),
    );
    let transfer = scene.transfer(6);
    attack::ns_flood(&scene, SOURCES);
    let made = strangers(&scene);
    assert!(made <= 30, "{made} entries");
    assert!(agent.packets(Reason::NdLimit).unwrap() >= SOURCES as u64 - 40);
    scene.forget(6);
    transfer.await_progress();
    assert_sound(&agent);
}

#[test]
fn in_observe_mode_a_flood_passes_and_is_counted() {
    let scene = Scene::new();
    let agent = scene.protect(
        4,
        "[arp]\nmode = \"observe\"\n[neighbors]\nlimit = \"50/s\"\nburst = 100",
    );
    let before = frames_received(&scene.attacker);
    attack::arp_flood(&scene, MANY);
    let answered = frames_received(&scene.attacker) - before;
    assert!(answered >= MANY as u64 * 9 / 10, "{answered} answers");
    assert!(observed(&agent, Reason::ArpLimit) >= MANY as u64 / 2);
    assert_eq!(agent.packets(Reason::ArpLimit).unwrap(), 0);
}
