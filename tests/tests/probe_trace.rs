//! `netmoat probe --trace-dns` through a DNS of its own.

use std::process::Command;

use net_tests::{
    probe::names::{Names, Server},
    scene::Scene,
};

fn dig(scene: &Scene, server: Server, words: &[&str]) -> String {
    let at = format!("@{}", server.v4());
    let mut dig = Command::new("dig");
    dig.args(["+time=15", "+tries=1", &at]).args(words);
    let said = scene.client.ns.succeed(&mut dig);
    said.unwrap_or_else(|error| panic!("{words:?}: {error:#}"))
}

#[test]
fn the_laboratorys_names_are_sound_and_broken_as_they_should_be() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    for (name, wanted) in [
        ("www.shop.test", "flags: qr rd ra ad"),
        ("far.shop.test", "www.plain.test.\t\t300\tIN\tA"),
        ("lost.shop.test", "NXDOMAIN"),
        ("text.shop.test", "ANSWER: 0"),
        ("www.plain.test", "flags: qr rd ra;"),
        ("www.bogus.test", "SERVFAIL"),
        ("www.expired.test", "SERVFAIL"),
        ("www.nokey.test", "SERVFAIL"),
        ("www.lame.test", "NOERROR"),
        ("www.lost.test", "SERVFAIL"),
        ("www.dead.test", "NOERROR"),
        ("www.slow.test", "NOERROR"),
        ("www.late.test", "NOERROR"),
        ("www.servfail.test", "SERVFAIL"),
        ("www.big.test", "Truncated, retrying in TCP"),
        ("www.away.test", "NOERROR"),
        ("nothing.test", "NXDOMAIN"),
    ] {
        let said = dig(&scene, Server::RESOLVER, &[name]);
        assert!(said.contains(wanted), "{name}: {wanted}: {said}");
    }
    let said = dig(&scene, Server::STUCK, &["+ignore", "www.stuck.test"]);
    assert!(said.contains("flags: qr aa tc"), "{said}");
    assert!(names.anchor().is_file() && names.anchor_ds().is_file());
}
