//! Route, neighbour, TCP and close as `netmoat probe` tells them: what the operator is shown beside the verdict.

use std::{os::unix::process::CommandExt as _, process::Command};

use net_tests::{
    link,
    probe::{
        cases::{close, route, tcp},
        probe,
        site::{End, Site},
    },
    process::workspace_binary,
    scene::{PORT, Scene},
};
use serde_json::Value;

/// The facts of a layer in the last fetch.
fn facts<'a>(report: &'a Value, layer: &str) -> &'a Value {
    let stages = report["fetches"].as_array().and_then(|f| f.last());
    let stages = stages.and_then(|fetch| fetch["stages"].as_array());
    let stage = stages.and_then(|stages| stages.iter().find(|stage| stage["layer"] == layer));
    let stage = stage.unwrap_or_else(|| panic!("no stage {layer}: {report:#}"));
    &stage["facts"][layer]
}

fn ran(name: &str) -> Value {
    let mut cases = route::cases().into_iter().chain(tcp::cases());
    let case = cases.find(|case| case.name == name);
    (case.unwrap_or_else(|| panic!("no case {name}")).run)()
}

#[test]
fn a_handshake_is_told_with_what_it_agreed_on() {
    let scene = Scene::new();
    let _site = tcp::site(&scene, 4);
    let probed = probe(&scene.client, &["--no-checks", &tcp::url(&scene)]);
    probed.expect("ok", None, None);
    assert_eq!(probed.code, 0);
    let tcp = facts(&probed.report, "tcp");
    let attempt = &tcp["attempts"][0];
    assert_eq!(
        (&attempt["end"], &attempt["syns"]),
        (&"connected".into(), &1.into())
    );
    let info = &tcp["info"];
    for option in ["timestamps", "sack", "window_scaling"] {
        assert_eq!(info[option], true, "{info:#}");
    }
    assert_eq!(
        (&info["path_mtu"], &info["advertised_mss"]),
        (&1500.into(), &1448.into())
    );
    assert_eq!(info["send_mss"], 1448, "1460 less 12 of timestamps");
    assert!(
        info["rtt_us"].as_u64().is_some_and(|rtt| rtt > 0),
        "{info:#}"
    );
    assert!(tcp["congestion_control"].is_string());
    let way = &facts(&probed.report, "route")["ways"][0];
    assert_eq!(
        (&way["kind"], &way["interface"]),
        (&"on_link".into(), &"eth0".into())
    );
    assert_eq!(way["source"], scene.client.v4.to_string());
    assert_eq!(way["neighbor"]["mac"], link::text(scene.server.link.mac));
    assert_eq!(way["neighbor"]["state"], "REACHABLE");
}

#[test]
fn an_address_of_the_host_itself_is_told_as_such() {
    let scene = Scene::new();
    let _site = tcp::site(&scene, 4);
    let probed = probe(&scene.server, &["--no-checks", &tcp::url(&scene)]);
    probed.expect("ok", None, None);
    let way = &facts(&probed.report, "route")["ways"][0];
    assert_eq!(
        (&way["kind"], &way["interface"]),
        (&"local".into(), &"lo".into())
    );
    assert_eq!(way["neighbor"], Value::Null);
}

#[test]
fn a_router_on_the_way_is_told() {
    let scene = Scene::new();
    let (client, router, server) = (&scene.client, &scene.attacker, &scene.server);
    router.ns.sysctl("net.ipv4.ip_forward", "1").unwrap();
    server.ns.ip("addr add 203.0.113.7/32 dev lo").unwrap();
    let through = format!("route add {} via", route::ELSEWHERE);
    router.ns.ip(&format!("{through} {}", server.v4)).unwrap();
    client
        .ns
        .ip(&format!("{through} {} metric 42", router.v4))
        .unwrap();
    let at = "203.0.113.7:8080".parse().unwrap();
    let _site = Site::start(&server.ns, at, End::Client, 10);
    let probed = probe(client, &["--no-checks", route::THERE]);
    probed.expect("ok", None, None);
    let way = &facts(&probed.report, "route")["ways"][0];
    assert_eq!(
        (&way["kind"], &way["metric"]),
        (&"routed".into(), &42.into())
    );
    assert_eq!(way["next_hop"], router.v4.to_string());
    assert_eq!(way["neighbor"]["mac"], link::text(router.link.mac));
}

#[test]
fn who_sent_the_icmp_error_is_named() {
    let report = ran("router knows no way");
    let icmp = &facts(&report, "tcp")["attempts"][0]["icmp"];
    assert_eq!((&icmp["kind"], &icmp["code"]), (&3.into(), &0.into()));
    assert_eq!(icmp["from"], "198.18.0.3", "the third host is the router");
    assert_eq!(icmp["from_ourselves"], false);
    let report = ran("firewall rejects with ICMP");
    let icmp = &facts(&report, "tcp")["attempts"][0]["icmp"];
    assert_eq!((&icmp["kind"], &icmp["code"]), (&3.into(), &13.into()));
    assert_eq!(icmp["from"], "198.18.0.1");
}

#[test]
fn ipv6_that_hangs_costs_the_user_a_quarter_of_a_second_and_is_told() {
    let report = ran("only IPv4 answers");
    let tcp = facts(&report, "tcp");
    let attempts = tcp["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{tcp:#}");
    assert_eq!(
        (&attempts[0]["end"], &attempts[1]["end"]),
        (&"no_answer".into(), &"connected".into())
    );
    let start = |i: usize| attempts[i]["start_us"].as_u64().unwrap();
    let apart = start(1) - start(0);
    assert!(
        (240_000..600_000).contains(&apart),
        "RFC 8305: 250 ms, here {apart} us"
    );
    assert!(
        attempts[0]["syns"].as_u64().unwrap() >= 2,
        "looked at until the second SYN"
    );
    let stages = report["fetches"][0]["stages"].as_array().unwrap();
    let stage = stages.iter().find(|stage| stage["layer"] == "tcp").unwrap();
    let waited = stage["duration_us"].as_u64().unwrap();
    assert!(
        waited < 1_000_000,
        "nobody waits for the look at IPv6: {waited} us"
    );
}

#[test]
fn the_end_of_a_connection_is_told_from_either_side() {
    for (end, expected) in [
        (End::Client, ["client", "fin", "time_wait", "here"]),
        (End::Server, ["server", "fin", "closed", "there"]),
        (End::Reset, ["server", "reset", "closed", "nowhere"]),
        (
            End::Never,
            ["client", "half_closed", "fin_wait2", "nowhere"],
        ),
    ] {
        let report = close::ending(end);
        let facts = facts(&report, "close");
        let told = ["first", "how", "state", "time_wait"].map(|field| facts[field].as_str());
        assert_eq!(told, expected.map(Some), "{end:?}: {report:#}");
        assert_eq!(facts["info"]["total_retransmits"], 0, "{end:?}");
    }
}

#[test]
fn a_namespace_is_entered_by_name_and_by_path() {
    let scene = Scene::new();
    let _site = tcp::site(&scene, 4);
    let name = scene.client.ns.name();
    let path = format!("/run/netns/{name}");
    for namespace in [name, &path] {
        let mut command = Command::new(workspace_binary("netmoat").unwrap());
        command.args(["probe", "-o", "json", "--no-checks", "--no-agent"]);
        command.args(["--from-netns", namespace, &tcp::url(&scene)]);
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (output.status.code(), &report["outcome"]),
            (Some(0), &"ok".into()),
            "{report:#}"
        );
        let local = facts(&report, "tcp")["local"].as_str().unwrap().to_owned();
        assert!(
            local.starts_with(&scene.client.v4.to_string()),
            "{namespace}: {local}"
        );
    }
}

#[test]
fn whoever_may_do_nothing_sees_the_same() {
    let scene = Scene::new();
    let _site = tcp::site(&scene, 4);
    let mut command = Command::new(workspace_binary("netmoat").unwrap());
    command.args(["probe", "-o", "json", "--no-checks", &tcp::url(&scene)]);
    command.uid(65534).gid(65534);
    let output = scene.client.ns.run(|| command.output()).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "ok", "{report:#}");
    assert_eq!(facts(&report, "close")["time_wait"], "here");
    let way = &facts(&report, "route")["ways"][0];
    assert_eq!(way["neighbor"]["mac"], link::text(scene.server.link.mac));
    assert_eq!(facts(&report, "tcp")["info"]["timestamps"], true);
}

#[test]
fn a_binding_of_an_agent_elsewhere_is_not_held_against_the_neighbour() {
    let scene = Scene::new();
    let _site = tcp::site(&scene, 4);
    // Another namespace whose interface has the same name and index, and whose neighbour has the same address.
    let config = format!(
        "[[neighbor]]\naddress = \"{}\"\nmacs = [\"02:00:00:00:00:66\"]",
        scene.server.v4
    );
    let agent = net_tests::agent::Agent::start(&scene.attacker, &config).unwrap();
    let socket = agent.socket();
    let url = tcp::url(&scene);
    let args = ["--no-checks", "--socket", socket.to_str().unwrap(), &url];
    let probed = probe(&scene.client, &args);
    assert_eq!(probed.code, 0, "{:#}", probed.report);
    let facts = facts(&probed.report, "route");
    let bindings = facts["bindings"].as_str().unwrap();
    assert!(
        bindings.contains("no interface of this network namespace"),
        "{bindings}"
    );
}

#[test]
fn the_code_of_the_process_follows_the_outcome() {
    let scene = Scene::new();
    let url = format!("http://{}/", scene.server.at(4, PORT));
    let refused = probe(&scene.client, &[&url]);
    refused.expect("failed", Some("tcp"), Some("tcp_refused"));
    assert_eq!(refused.code, 1);
    assert!(refused.report["verdict"].as_str().unwrap().contains("RST"));
}
