//! `netmoat probe --trace-dns` through a DNS of its own.

use std::{fs, path::Path, process::Command};

use net_tests::{
    probe::{
        Probed,
        names::{Names, Server},
        probe,
    },
    scene::Scene,
};
use serde_json::Value;

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

/// Probes as far as the name, with a resolver, these roots and this anchor.
fn trace(scene: &Scene, name: &str, hints: &Path, anchor: &Path) -> Probed {
    let url = format!("http://{name}/");
    let resolver = Server::RESOLVER.v4().to_string();
    let (hints, anchor) = (hints.display().to_string(), anchor.display().to_string());
    let args = [
        &url,
        "--no-checks",
        "--no-agent",
        "--dns",
        &resolver,
        "--trace-dns",
        "--root-hints",
        &hints,
        "--trust-anchor",
        &anchor,
    ];
    probe(&scene.client, &args)
}

fn facts(probed: &Probed) -> &Value {
    &probed.stage("name")["facts"]["name"]["trace"]
}

fn finding(probed: &Probed, code: &str) -> Value {
    let findings = probed.stage("name")["findings"].as_array().unwrap();
    let found = findings.iter().find(|f| f["code"] == code);
    found
        .cloned()
        .unwrap_or_else(|| panic!("no {code}: {findings:#?}"))
}

#[test]
fn each_referral_and_each_server_on_the_way_is_shown() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let probed = trace(&scene, "far.shop.test", names.hints(), names.anchor());
    let trace = facts(&probed);
    assert_eq!(trace["end"], "found", "{trace:#}");
    assert_eq!(trace["aliases"], serde_json::json!(["www.plain.test"]));
    let both = [scene.server.v4.to_string(), scene.server.v6.to_string()];
    assert_eq!(trace["addresses"], serde_json::json!(both));
    let steps = trace["steps"].as_array().unwrap();
    let way: Vec<_> = steps
        .iter()
        .map(|step| (step["zone"].as_str().unwrap(), step["leads"].clone()))
        .collect();
    let referral = |zone: &str| serde_json::json!({ "referral": zone });
    let wanted = [
        (".", referral("test")),
        ("test", referral("shop.test")),
        (
            "shop.test",
            serde_json::json!({ "alias": "www.plain.test" }),
        ),
        ("test", referral("plain.test")),
        ("plain.test", "addresses".into()),
    ];
    assert_eq!(way, wanted);
    for step in steps {
        let servers = step["servers"].as_array().unwrap();
        assert_eq!(servers.len(), 4, "two servers of two families: {step:#}");
        for server in servers {
            assert_eq!(server["status"], "good", "{server:#}");
            assert!(server["duration_us"].as_u64().unwrap() > 0);
        }
    }
    // The name is signed, what it is an alias of is not.
    let dnssec = &trace["dnssec"];
    assert_eq!(dnssec["status"], "insecure");
    let zones: Vec<_> = dnssec["zones"]
        .as_array()
        .unwrap()
        .iter()
        .map(|z| (z["zone"].as_str().unwrap(), z["status"].as_str().unwrap()))
        .collect();
    let wanted = [
        (".", "secure"),
        ("test", "secure"),
        ("shop.test", "secure"),
        ("plain.test", "insecure"),
    ];
    assert_eq!(zones, wanted);
}

#[test]
fn a_digest_of_the_roots_key_will_do_and_another_key_will_not() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let by_digest = trace(&scene, "www.shop.test", names.hints(), names.anchor_ds());
    let dnssec = &facts(&by_digest)["dnssec"];
    assert_eq!(dnssec["status"], "secure", "{dnssec:#}");
    // That of the zone in place of the root's.
    let digest = fs::read_to_string(names.anchor_ds()).unwrap();
    let (head, _) = digest.trim_end().rsplit_once(char::is_whitespace).unwrap();
    let other = names.directory().join("other.ds");
    fs::write(&other, format!("{head} {}\n", "0".repeat(64))).unwrap();
    let probed = trace(&scene, "www.shop.test", names.hints(), &other);
    let dnssec = &facts(&probed)["dnssec"];
    assert_eq!(dnssec["status"], "bogus", "{dnssec:#}");
    assert_eq!(dnssec["why"], ".: the root's keys are not the trusted ones");
    // The resolver has an address all the same.
    assert_eq!(finding(&probed, "dns_bogus")["outcome"], "wrong");
}

#[test]
fn an_answer_beyond_a_datagram_is_followed_over_tcp() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let probed = trace(&scene, "www.big.test", names.hints(), names.anchor());
    let trace = facts(&probed);
    assert_eq!(trace["end"], "found", "{trace:#}");
    let steps = trace["steps"].as_array().unwrap();
    let step = steps.iter().find(|s| s["zone"] == "big.test").unwrap();
    for server in step["servers"].as_array().unwrap() {
        assert_eq!(
            (&server["truncated"], &server["status"]),
            (&true.into(), &"good".into())
        );
    }
    assert_eq!(finding(&probed, "dns_truncated")["outcome"], "ok");
}

#[test]
fn roots_out_of_reach_say_nothing_about_a_name_that_resolves() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let hints = names.directory().join("dead");
    let dead = Server::DEAD.v4();
    fs::write(&hints, format!(". 60 NS dead.\ndead. 60 A {dead}\n")).unwrap();
    let probed = trace(&scene, "www.shop.test", &hints, names.anchor());
    assert_eq!(facts(&probed)["end"], "nowhere");
    assert_eq!(finding(&probed, "dns_roots_unreachable")["outcome"], "ok");
    let nothing = names.directory().join("nothing");
    fs::write(&nothing, "hello\n").unwrap();
    let probed = trace(&scene, "www.shop.test", &nothing, names.anchor());
    assert_eq!(facts(&probed)["end"], "not_begun");
    assert_eq!(finding(&probed, "dns_trace_files")["outcome"], "wrong");
}
