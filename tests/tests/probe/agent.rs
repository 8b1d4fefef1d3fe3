//! What a probe tells of its own connection with the help of the agent: of the server's host, or of its own.

use std::{
    fs,
    net::IpAddr,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    flood::Flood,
    lab::{Generator, Pace},
    lists::done,
    probe::{
        Probed,
        cases::agent::{Page, ask, await_verdict},
        probe,
    },
    process::workspace_binary,
    scene::{ALWAYS, PORT, Scene, assert_sound, await_count},
    wait,
};
use net_user::control::{
    client::{Client, ClientError},
    queues::VerdictKind,
    watch::{MAX_ADDRESSES, MAX_WATCHES, WATCH_S, WatchAsk},
};
use serde_json::Value;

/// What the agent saw of the last fetch.
fn view(probed: &Probed) -> &Value {
    &probed.report["fetches"][0]["agent"]
}

/// The findings of the TCP stage, by code.
fn codes(probed: &Probed) -> Vec<&str> {
    let findings = probed.stage("tcp")["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|f| f["code"].as_str().unwrap())
        .collect()
}

fn reasons(probed: &Probed) -> Vec<&str> {
    let segments = view(probed)["segments"].as_array().unwrap();
    segments
        .iter()
        .map(|s| s["reason"].as_str().unwrap())
        .collect()
}

#[test]
fn a_probe_tells_whether_its_syn_was_passed_or_answered_with_a_cookie() {
    for family in [4, 6] {
        let scene = Scene::new();
        let _page = Page::serve(&scene.server, family);
        let to = scene.server.at(family, PORT);
        for (config, syn, reason, proven) in [
            ("", "passed", "syn_in_budget", false),
            (ALWAYS, "cookie", "cookie_sent", true),
        ] {
            let agent = scene.protect(config);
            agent.await_listener(PORT, true).unwrap();
            let probed = ask(&scene.client, &agent, to, &[]);
            probed.expect("ok", None, None);
            let view = view(&probed);
            assert_eq!(
                (&view["syn"], &view["proven"]),
                (&syn.into(), &proven.into())
            );
            assert_eq!(
                (&view["server"], &view["loopback"]),
                (&true.into(), &false.into())
            );
            assert_eq!(view["interfaces"], serde_json::json!(["eth0"]));
            let seen = reasons(&probed);
            assert!(seen.contains(&reason), "{seen:?}");
            assert_eq!(seen.contains(&"cookie_proven"), proven, "{seen:?}");
            assert_eq!(codes(&probed).contains(&"answered_by_cookie"), proven);
            // Of this very connection: both ends are those of the TCP stage.
            let client = scene.client.ip(family).to_string();
            for segment in view["segments"].as_array().unwrap() {
                let ends = [&segment["from"], &segment["to"]].map(|end| end.as_str().unwrap());
                assert!(ends.contains(&to.to_string().as_str()), "{segment}");
                assert!(ends.iter().any(|end| end.contains(&client)), "{segment}");
            }
            let listener = &view["listener"];
            assert_eq!(
                (
                    &listener["port"],
                    &listener["accept_full"],
                    &listener["verdict"]
                ),
                (&PORT.into(), &false.into(), &"healthy".into()),
                "{listener}"
            );
            assert_sound(&agent);
        }
    }
}

/// The agent is the client's own: it sees what the server sends.
#[test]
fn an_agent_beside_the_probe_tells_what_became_of_the_servers_answers() {
    let scene = Scene::new();
    let _page = Page::serve(&scene.client, 4);
    let agent = scene.protect("");
    let to = scene.client.at(4, PORT);
    let probed = ask(&scene.server, &agent, to, &[]);
    probed.expect("ok", None, None);
    let view_ = view(&probed);
    assert_eq!(
        (&view_["syn"], &view_["server"]),
        (&"passed".into(), &false.into())
    );
    assert_eq!(view_["listener"], Value::Null);
    let first = &view_["segments"][0];
    assert_eq!(
        (&first["flags"], &first["from"]),
        (&"SYN,ACK".into(), &to.to_string().into())
    );

    // And when they are dropped.
    done(
        &agent,
        &format!("block add {} --reason test", scene.client.v4),
    );
    let probed = ask(&scene.server, &agent, to, &[]);
    probed.expect("failed", Some("tcp"), Some("dropped_by_netmoat"));
    assert_eq!(view(&probed)["syn"], "dropped");
}

#[test]
fn a_blocked_probe_is_told_the_entry_and_what_to_do() {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 6);
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let client = scene.client.v6;
    done(&agent, &format!("block add {client} --reason noisy"));
    let probed = ask(&scene.client, &agent, scene.server.at(6, PORT), &[]);
    probed.expect("failed", Some("tcp"), Some("dropped_by_netmoat"));
    assert_eq!(probed.code, 1);
    let verdict = probed.report["verdict"].as_str().unwrap();
    for word in ["blocked (51)", &client.to_string(), "manual", "noisy"] {
        assert!(verdict.contains(word), "{word}: {verdict}");
    }
    let next = probed.report["next"].as_str().unwrap();
    assert!(next.contains("netmoat block del"), "{next}");
    assert!(reasons(&probed).iter().all(|reason| *reason == "blocked"));

    // What is only observed stops nobody.
    done(&agent, "mode observe");
    let probed = ask(&scene.client, &agent, scene.server.at(6, PORT), &[]);
    probed.expect("ok", None, None);
    assert_eq!(view(&probed)["observes"], true);
    assert_eq!(view(&probed)["drops"], serde_json::json!([]));
    assert!(reasons(&probed).contains(&"blocked"));
}

#[test]
fn a_probe_under_a_flood_gets_through_by_a_cookie_and_names_the_flood() {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 4);
    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    let generator = Generator::new(&scene.attacker).unwrap();
    generator.aim(&Flood::syn(&scene.server, 4, PORT)).unwrap();
    let flooding = generator.start(Pace::PerSecond(5_000), Duration::from_secs(60));
    await_count(&agent, Reason::CookieSent, 500);
    await_verdict(&agent, VerdictKind::SynFlood);
    let probed = ask(&scene.client, &agent, scene.server.at(4, PORT), &[]);
    probed.expect("ok", None, None);
    assert_eq!(view(&probed)["syn"], "cookie");
    assert_eq!(view(&probed)["listener"]["verdict"], "syn_flood");
    let codes = codes(&probed);
    for code in ["answered_by_cookie", "listener_flooded"] {
        assert!(codes.contains(&code), "{codes:?}");
    }
    // Nothing of the flood is taken for ours.
    let ours = scene.client.v4.to_string();
    for segment in view(&probed)["segments"].as_array().unwrap() {
        assert!(segment.to_string().contains(&ours), "{segment}");
    }
    flooding.stop().unwrap();
}

#[test]
fn without_an_agent_there_is_no_view_and_no_complaint() {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 4);
    let url = format!("http://{}/", scene.server.at(4, PORT));
    for more in [
        &["--socket", "/nonexistent/control.sock"][..],
        &["--no-agent"],
    ] {
        let probed = probe(&scene.client, &[more, &["--no-checks", &url]].concat());
        probed.expect("ok", None, None);
        assert_eq!(view(&probed), &Value::Null);
        assert_eq!(probed.errors, "");
    }
}

/// An agent that is elsewhere, on the way of nothing of this.
#[test]
fn an_agent_that_sees_nothing_says_so() {
    let scene = Scene::new();
    let _page = Page::serve(&scene.attacker, 4);
    let agent = scene.protect("");
    let probed = ask(&scene.client, &agent, scene.attacker.at(4, PORT), &[]);
    probed.expect("ok", None, None);
    let view = view(&probed);
    assert_eq!(
        (&view["syn"], &view["server"]),
        (&"not_seen".into(), &false.into())
    );
    assert!(view["lines"].to_string().contains("saw nothing"), "{view}");
    // To the agent's own address over lo.
    let _page = Page::serve(&scene.server, 4);
    let probed = ask(&scene.server, &agent, scene.server.at(4, PORT), &[]);
    probed.expect("ok", None, None);
    let view = &probed.report["fetches"][0]["agent"];
    assert_eq!(
        (&view["syn"], &view["loopback"]),
        (&"not_seen".into(), &true.into())
    );
}

/// Whoever may read may watch; who may not is a probe without an agent.
#[test]
fn a_reader_without_privileges_is_told_what_was_seen() {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 4);
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let socket = agent.socket();
    let probe = || {
        let mut command = std::process::Command::new(workspace_binary("netmoat").unwrap());
        command.args(["probe", "-o", "json", "--no-checks", "--socket"]);
        command
            .arg(&socket)
            .arg(format!("http://{}/", scene.server.at(4, PORT)));
        command.uid(65534).gid(65534);
        let output = scene.client.ns.run(|| command.output()).unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["outcome"], "ok", "{report:#}");
        report["fetches"][0]["agent"].clone()
    };
    assert_eq!(probe(), Value::Null);
    let directory = socket.parent().unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(probe()["syn"], "passed");
    // Reading is no change, and is not logged as one.
    assert!(!agent.log().contains("watch asked for"), "{}", agent.log());
}

#[test]
fn watches_are_few_and_end() {
    let scene = Scene::new();
    let agent = scene.protect("");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = Client::new(agent.socket());
    let ask = |addresses: usize, port| {
        let address = |n| IpAddr::from([192, 0, 2, n as u8]);
        let addresses = (1..=addresses).map(address).collect();
        runtime.block_on(client.watch(&WatchAsk { addresses, port }))
    };
    let refused = |result: Result<_, ClientError>, word: &str| match result {
        Err(ClientError::Agent(said)) => assert!(said.contains(word), "{said}"),
        other => panic!("{other:?}"),
    };
    refused(ask(0, 80).map(drop), "1 to 8 addresses");
    refused(ask(MAX_ADDRESSES + 1, 80).map(drop), "1 to 8 addresses");
    refused(ask(1, 0).map(drop), "port 0");
    refused(
        runtime.block_on(client.watched(7)).map(drop),
        "no such watch",
    );

    let begun: Vec<_> = (0..MAX_WATCHES)
        .map(|n| ask(MAX_ADDRESSES, 80 + n as u16).unwrap())
        .collect();
    assert!(begun[0].own.contains(&scene.server.v4.into()));
    assert_eq!(begun[0].lasts_s, WATCH_S);
    refused(ask(1, 80).map(drop), "watched already");
    // Asked for, it ends, and there is room for another.
    let seen = runtime.block_on(client.watched(begun[0].id)).unwrap();
    assert_eq!((seen.segments, seen.seen.len()), (0, 0));
    refused(
        runtime.block_on(client.watched(begun[0].id)).map(drop),
        "no such watch",
    );
    ask(MAX_ADDRESSES, 80).unwrap();
    refused(ask(1, 80).map(drop), "watched already");
    // Not asked for, they end by themselves, and what they saw is told still; once.
    wait::until(
        "the watches to end",
        Duration::from_secs(WATCH_S + 10),
        || ask(1, 80).is_ok(),
    )
    .unwrap();
    let seen = runtime.block_on(client.watched(begun[1].id)).unwrap();
    assert_eq!(seen.interfaces, ["eth0"]);
    refused(
        runtime.block_on(client.watched(begun[1].id)).map(drop),
        "no such watch",
    );
    assert_sound(&agent);
}

/// Two probes of the same server at one time.
#[test]
fn two_who_watch_the_same_are_both_told() {
    let scene = Scene::new();
    let _page = Page::serve(&scene.server, 4);
    let agent: Agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let client = Client::new(agent.socket());
    let asked = WatchAsk {
        addresses: vec![scene.client.v4.into()],
        port: PORT,
    };
    let first = runtime.block_on(client.watch(&asked)).unwrap();
    ask(&scene.client, &agent, scene.server.at(4, PORT), &[]).expect("ok", None, None);
    let seen = runtime.block_on(client.watched(first.id)).unwrap();
    assert!(
        seen.seen
            .iter()
            .any(|s| s.flags == "SYN" && s.reason == "syn_in_budget")
    );
    assert!(seen.seen.is_sorted_by_key(|segment| segment.after_us));
    assert!(seen.segments >= seen.seen.len() as u64 && seen.lost == 0);
}
