//! The first layer of `netmoat probe`: names, in a DNS of its own.

use net_tests::{
    probe::{
        Probed,
        names::{Names, Server},
        netns_files::NetnsFiles,
        probe,
    },
    scene::{PATIENCE, Scene},
    wait,
};
use serde_json::Value;

/// Probes only as far as the name: nobody listens behind it.
fn look_up(scene: &Scene, names: &Names, url: &str, words: &[&str]) -> Probed {
    let asked = names.asked();
    let mut args = vec![url];
    args.extend(words);
    if !words.contains(&"--dns") {
        args.extend(asked.iter().map(String::as_str));
    }
    probe(&scene.client, &args)
}

fn facts(probed: &Probed) -> &Value {
    &probed.stage("name")["facts"]["name"]
}

/// The outcome of the stage and the codes of its findings.
fn told(probed: &Probed) -> (String, Vec<String>) {
    let stage = probed.stage("name");
    let codes = stage["findings"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&stage["outcome"]),
        codes.map(|f| text(&f["code"])).collect(),
    )
}

#[test]
fn aliases_lifetimes_and_who_answered_are_shown() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let probed = look_up(&scene, &names, "http://far.shop.test/", &[]);
    let facts = facts(&probed);
    let v6 = scene.server.v6.to_string();
    let v4 = scene.server.v4.to_string();
    assert_eq!(facts["addresses"], serde_json::json!([v6, v4]), "{facts:#}");
    assert_eq!(facts["aliases"][0]["data"], "www.plain.test");
    assert!((1..=300).contains(&facts["aliases"][0]["ttl_s"].as_u64().unwrap()));
    let query = &facts["queries"][0];
    assert_eq!(query["server"], format!("{}:53", Server::RESOLVER.v4()));
    assert_eq!(query["code"], "NOERROR");
    assert!(query["duration_us"].as_u64().unwrap() > 0);
}

#[test]
fn a_long_answer_is_fetched_over_tcp_and_that_is_shown() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let probed = look_up(&scene, &names, "http://www.big.test/", &["--ipv4"]);
    let query = &facts(&probed)["queries"][0];
    assert_eq!(query["truncated"], true, "{query:#}");
    let ways: Vec<_> = query["tries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["transport"])
        .collect();
    assert_eq!(ways, ["udp", "tcp"]);
    assert!(told(&probed).1.contains(&"name_truncated".into()));
}

#[test]
fn the_cache_is_told_from_a_fresh_answer() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let state = |words: &[&str]| {
        let probed = look_up(&scene, &names, "http://www.plain.test/", words);
        facts(&probed)["cache"].clone()
    };
    // The server that owns the zone has no cache.
    let own = state(&["--dns", &Server::FIRST.v4().to_string()]);
    assert_eq!(own["state"], "authoritative", "{own:#}");
    let fresh = state(&[]);
    assert_eq!(fresh["state"], "fetched", "{fresh:#}");
    // TTLs are whole seconds: only after one has passed does the cache show.
    wait::until("the TTL to count down", PATIENCE, || {
        let cache = state(&[]);
        cache["state"] == "cached" && cache["age_s"].as_u64() > Some(0)
    })
    .unwrap();
}

#[test]
fn signatures_are_followed_from_the_roots_key() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let traced = names.traced();
    let anchored: Vec<&str> = traced.iter().map(String::as_str).collect();
    let status = |name: &str, words: &[&str]| {
        let url = format!("http://{name}/");
        let mut args = vec![url.as_str()];
        args.extend(words);
        let probed = probe(&scene.client, &args);
        facts(&probed)["dnssec"].clone()
    };
    let secure = status("www.shop.test", &anchored);
    assert_eq!(secure["status"], "secure", "{secure:#}");
    assert!(
        secure["how"].as_str().unwrap().starts_with("the chain"),
        "{secure:#}"
    );
    let insecure = status("www.plain.test", &anchored);
    assert_eq!(insecure["status"], "insecure", "{insecure:#}");
    // The resolver has it from nobody: no signature is wrong.
    let local = status("nas.shop.test", &anchored);
    assert_eq!(local["status"], "unknown", "{local:#}");
    assert!(
        local["how"].as_str().unwrap().contains("locally"),
        "{local:#}"
    );
    // Without this root's key only the resolver's word is left.
    let asked = names.asked();
    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
    let trusted = status("www.shop.test", &asked);
    assert_eq!(trusted["status"], "secure", "{trusted:#}");
    assert!(
        trusted["how"].as_str().unwrap().contains("(AD)"),
        "{trusted:#}"
    );
    let unknown = status("www.plain.test", &asked);
    assert_eq!(unknown["status"], "unknown", "{unknown:#}");
    let bogus = status("www.bogus.test", &asked);
    assert_eq!(bogus["status"], "bogus", "{bogus:#}");
}

#[test]
fn https_records_are_shown_as_a_browser_reads_them() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let probed = look_up(&scene, &names, "https://www.plain.test/", &[]);
    let service = &facts(&probed)["https"]["services"][0];
    assert_eq!(
        service["alpn"],
        serde_json::json!(["h2", "http/1.1"]),
        "{service:#}"
    );
    assert_eq!(service["hints"][0], scene.server.v4.to_string());
    let none = look_up(&scene, &names, "https://www.shop.test/", &[]);
    assert_eq!(facts(&none)["https"]["services"], serde_json::json!([]));
}

#[test]
fn the_files_of_a_namespace_say_how_its_names_are_looked_up() {
    let scene = Scene::new();
    let _names = Names::start(&scene);
    let ns = &scene.client.ns;
    let resolver = Server::RESOLVER.v4();
    let lame = Server::LAME.v4();
    let conf = format!("search nowhere.test shop.test\nnameserver {resolver}\nnameserver {lame}\n");
    let files = NetnsFiles::new(
        ns,
        &[
            ("resolv.conf", &conf),
            ("hosts", "192.0.2.80 pinned.test\n"),
        ],
    );
    let from = ["--from-netns", ns.name()];
    let pinned = probe(
        &scene.client,
        &["http://pinned.test/", from[0], from[1], "--timeout", "1s"],
    );
    assert_eq!(facts(&pinned)["source"], "hosts");
    let short = probe(&scene.client, &["http://www/", from[0], from[1]]);
    assert_eq!(facts(&short)["looked_up"], "www.shop.test");
    let (outcome, codes) = told(&short);
    assert!(codes.contains(&"name_search_list".into()), "{codes:?}");
    // The second server, which nobody had to ask, would be of no use.
    assert_eq!(
        (outcome.as_str(), codes[0].as_str()),
        ("wrong", "name_refused")
    );
    drop(files);
    let without = probe(
        &scene.client,
        &["http://pinned.test/", from[0], from[1], "--timeout", "1s"],
    );
    assert_ne!(facts(&without)["source"], "hosts");
}

#[test]
fn a_family_that_the_name_does_not_have_is_no_address() {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let probed = look_up(&scene, &names, "http://www.lame.test/", &["--ipv6"]);
    let (outcome, codes) = told(&probed);
    assert_eq!(
        (outcome.as_str(), codes[0].as_str()),
        ("failed", "name_no_address")
    );
    assert!(
        probed.report["verdict"]
            .as_str()
            .unwrap()
            .contains("no AAAA record")
    );
    assert_eq!(probed.code, 1);
}
