//! `netmoat tune`: what it would change, changes and takes back.

use std::{fs, path::Path};

use net_tests::{
    agent::Agent,
    flood::Flood,
    lab::{Flooding, Generator, Pace},
    queues::{OFF, app::Application, traffic::crowd, watch::Watch},
    scene::{PORT, Scene},
};
use net_user::control::queues::{Tuning, VerdictKind};

const RETRIES: &str = "net.ipv4.tcp_synack_retries";
const SOMAXCONN: &str = "net.core.somaxconn";

fn tune(agent: &Agent, options: &[&str]) -> Tuning {
    let output = agent
        .netmoat(&[&["-o", "json", "tune"], options].concat())
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn value(scene: &Scene, name: &str) -> String {
    scene.server.ns.read_sysctl(name).unwrap()
}

/// All settings of the kernel that netmoat might change.
fn settings(scene: &Scene) -> Vec<(String, String)> {
    scene.server.ns.run(|| {
        let mut all = Vec::new();
        for directory in ["net/ipv4", "net/core"] {
            let path = Path::new("/proc/sys").join(directory);
            for entry in fs::read_dir(path).unwrap().flatten() {
                if let Ok(value) = fs::read_to_string(entry.path()) {
                    all.push((entry.path().display().to_string(), value));
                }
            }
        }
        all.sort();
        all
    })
}

fn flood(scene: &Scene, generator: &Generator) -> Flooding {
    generator.aim(&Flood::syn(&scene.server, 4, PORT)).unwrap();
    generator.start(Pace::PerSecond(300), std::time::Duration::from_secs(60))
}

/// A change that a second agent takes back, one that somebody else made in between and that stays.
#[test]
fn tune_proposes_for_a_flood_applies_when_asked_and_reverts_exactly() {
    let scene = Scene::new();
    let at = scene.server.at(4, PORT);
    let _app = Application::start(&scene.server.ns, "app", at, "--backlog 64");
    let state = tempfile::tempdir().unwrap();
    let start = || Agent::start_in(state.path(), &scene.server, OFF).unwrap();
    let mut agent = start();
    // Nothing is wrong, and nothing is proposed.
    let quiet = tune(&agent, &[]);
    assert_eq!(
        (quiet.changes.len(), quiet.applied.len()),
        (0, 0),
        "{quiet:#?}"
    );
    let before = settings(&scene);

    let generator = Generator::new(&scene.attacker).unwrap();
    let flooding = flood(&scene, &generator);
    Watch::new(&agent).verdict(PORT, VerdictKind::SynFlood);
    let proposed = tune(&agent, &[]);
    let change = |tuning: &Tuning, name: &str| {
        let found = tuning.changes.iter().find(|c| c.name == name).cloned();
        found.unwrap_or_else(|| panic!("{tuning:#?}"))
    };
    let retries = change(&proposed, RETRIES);
    assert_eq!(retries.from, "5");
    assert!(retries.to.parse::<u32>().unwrap() < 5, "{retries:?}");
    assert!(
        retries.why.contains("syn_flood") && retries.why.contains("8080"),
        "{retries:?}"
    );
    assert!(proposed.changes.iter().all(|c| c.outcome.is_none()));
    // Nothing is changed without being asked, and for a listener that is not there nothing is proposed.
    assert_eq!(settings(&scene), before);
    let other = agent.netmoat(&["tune", "8099"]).unwrap();
    assert_eq!(other.status.code(), Some(1));

    let applied = tune(&agent, &["--apply"]);
    let done = change(&applied, RETRIES);
    assert!(done.outcome.is_some(), "{done:?}");
    assert_eq!((done.from.as_str(), &done.to), ("5", &retries.to));
    for change in &applied.changes {
        assert_eq!(value(&scene, &change.name), change.to, "{}", change.name);
        let kept = applied
            .applied
            .iter()
            .find(|a| a.name == change.name)
            .unwrap();
        assert_eq!((&kept.before, &kept.set), (&change.from, &change.to));
    }
    // What is in force is not proposed again.
    assert!(tune(&agent, &[]).changes.iter().all(|c| c.name != RETRIES));
    flooding.stop().unwrap();

    // The next agent knows.
    assert!(agent.terminate().unwrap().success());
    assert_eq!(value(&scene, RETRIES), retries.to);
    let agent = start();
    assert_eq!(tune(&agent, &[]).applied, applied.applied);
    let reverted = tune(&agent, &["--revert"]);
    assert_eq!(reverted.applied, []);
    assert_eq!(settings(&scene), before);
    // Nothing is left to be taken back.
    assert_eq!(tune(&agent, &["--revert"]).changes, []);
    assert_eq!(settings(&scene), before);
}

#[test]
fn a_value_that_somebody_else_changed_in_between_is_left_alone() {
    let scene = Scene::new();
    let at = scene.server.at(4, PORT);
    let _app = Application::start(&scene.server.ns, "app", at, "--backlog 64");
    let agent = scene.protect(OFF);
    let generator = Generator::new(&scene.attacker).unwrap();
    let flooding = flood(&scene, &generator);
    Watch::new(&agent).verdict(PORT, VerdictKind::SynFlood);
    let applied = tune(&agent, &["--apply"]);
    assert!(
        applied.applied.iter().any(|a| a.name == RETRIES),
        "{applied:#?}"
    );
    flooding.stop().unwrap();
    scene.server.ns.sysctl(RETRIES, "4").unwrap();
    let reverted = tune(&agent, &["--revert"]);
    assert_eq!(value(&scene, RETRIES), "4");
    let outcome = reverted.changes.iter().find(|c| c.name == RETRIES).unwrap();
    assert!(
        outcome.outcome.as_ref().is_some_and(|o| o.contains('4')),
        "{outcome:?}"
    );
    for change in reverted.changes.iter().filter(|c| c.name != RETRIES) {
        assert_eq!(value(&scene, &change.name), change.to);
    }
    assert!(
        reverted.applied.iter().all(|a| a.name != RETRIES),
        "{reverted:#?}"
    );
}

/// somaxconn cuts the backlog that the application asked for: that can be set, the application's own cannot.
#[test]
fn what_only_the_operator_can_change_is_advice() {
    let scene = Scene::new();
    scene.server.ns.sysctl(SOMAXCONN, "8").unwrap();
    let at = scene.server.at(4, PORT);
    let app = Application::start(&scene.server.ns, "shop", at, "--backlog 4 --stuck");
    let agent = scene.protect(OFF);
    let _clients = crowd(&scene.client, at, 20);
    Watch::new(&agent).verdict(PORT, VerdictKind::AcceptFull);
    let proposed = tune(&agent, &["shop"]);
    assert!(!proposed.advice.is_empty(), "{proposed:#?}");
    let words: Vec<_> = proposed
        .advice
        .iter()
        .map(|fix| fix.what.as_str())
        .collect();
    let words = words.join(" ");
    assert!(
        words.contains("shop") || words.contains(&app.pid().to_string()),
        "{words}"
    );
    // An application that does not accept is not helped by a longer SYN queue.
    assert!(
        proposed.changes.iter().all(|c| c.name != RETRIES),
        "{proposed:#?}"
    );
    assert_eq!(value(&scene, SOMAXCONN), "8");
}
