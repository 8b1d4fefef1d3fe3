//! What is due when, and what remains of it.

use serde_json::json;

use super::*;
use crate::probe::Report;

const WALL: Duration = Duration::from_secs(1_000_000);

fn policy(name: &str, interval_s: u64) -> ProbePolicy {
    let url = format!("http://192.0.2.1/{name}").parse().unwrap();
    ProbePolicy {
        interval: Duration::from_secs(interval_s),
        ..ProbePolicy::new(name.to_owned(), url)
    }
}

/// A report of a walk over two hosts, the second of which refused; begun at `WALL`.
fn redirected() -> Walked {
    let fetch = |remote: Option<&str>, host: &str, findings: serde_json::Value| {
        let outcome = if findings == json!([]) {
            "ok"
        } else {
            "failed"
        };
        let name = crate::probe::name::NameFacts {
            addresses: vec![host.parse().unwrap()],
            ..Default::default()
        };
        let tcp = crate::probe::tcp::TcpFacts {
            remote: remote.map(|remote| remote.parse().unwrap()),
            ..Default::default()
        };
        let stage = |layer: &str, facts, outcome, findings| {
            json!({ "layer": layer, "outcome": outcome, "start_us": 0, "duration_us": 1500, "summary": "",
                    "findings": findings, "facts": { layer: facts } })
        };
        let stages = [
            stage("name", json!(name), "ok", json!([])),
            stage("tcp", json!(tcp), outcome, findings),
        ];
        json!({ "url": format!("http://{host}/"), "stages": stages, "agent": null })
    };
    let refused = json!([{ "code": "tcp_refused", "outcome": "failed", "what": "192.0.2.2 refused", "next": null }]);
    let report = json!({
        "version": 1, "url": "http://192.0.2.1/", "started_ms": WALL.as_millis() as u64, "duration_us": 2345, "waited_us": 1234,
        "outcome": "failed", "layer": "tcp", "code": "tcp_refused", "verdict": "192.0.2.2 refused", "next": null,
        "fetches": [fetch(Some("192.0.2.1:80"), "192.0.2.1", json!([])), fetch(None, "192.0.2.2", refused)],
    });
    Walked::Report(Box::new(serde_json::from_value(report).unwrap()))
}

/// A report with an outcome, from a TCP connection that was tried.
fn report(outcome: &str, layer: Option<&str>) -> Walked {
    let report: Report = serde_json::from_value(json!({
        "version": 1, "url": "http://192.0.2.1/", "started_ms": WALL.as_millis() as u64, "duration_us": 2345, "waited_us": 1234,
        "outcome": outcome, "layer": layer, "code": layer.map(|_| "tcp_refused"),
        "verdict": "192.0.2.1 refused", "next": null,
        "fetches": [{ "url": "http://192.0.2.1/", "stages": [], "agent": null }],
    }))
    .unwrap();
    Walked::Report(Box::new(report))
}

fn ids(due: &[Due]) -> Vec<u64> {
    due.iter().map(|due| due.id).collect()
}

#[test]
fn walks_are_spread_bounded_and_never_twice_at_one_time() {
    let start = Instant::now();
    let mut canaries = Canaries::new(|| u32::MAX / 2);
    let policies: Vec<_> = (1..=6).map(|n| policy(&n.to_string(), 10)).collect();
    canaries.follow(&policies, start, WALL);
    assert!(canaries.due(start).is_empty(), "not all at the start");
    let begun = start + SOON;
    assert_eq!(ids(&canaries.due(begun)), [1, 2, 3, 4]);
    assert!(canaries.due(begun).is_empty(), "four are under way");
    canaries.ended(3, report("ok", None), WALL);
    assert_eq!(ids(&canaries.due(begun)), [5]);
    // The second round: those under way still do not begin again, and who waits longest is first.
    let later = begun + Duration::from_secs(11);
    assert!(canaries.due(later).is_empty());
    for id in [1, 2, 4] {
        canaries.ended(id, report("ok", None), WALL);
    }
    assert_eq!(ids(&canaries.due(later)), [6, 1, 2]);
    assert!(canaries.report().probes[0].walking);
}

#[test]
fn an_interval_is_kept_but_for_a_tenth() {
    for (chance, least, most) in [
        ((|| 0) as Chance, 9_000, 9_000),
        (|| u32::MAX, 10_999, 11_000),
        (|| u32::MAX / 2, 9_999, 10_001),
    ] {
        let start = Instant::now();
        let mut canaries = Canaries::new(chance);
        canaries.follow(&[policy("a", 10)], start, WALL);
        let begun = start + SOON;
        assert_eq!(canaries.due(begun).len(), 1);
        canaries.ended(1, report("ok", None), WALL);
        let at = |ms| begun + Duration::from_millis(ms);
        assert!(canaries.due(at(least - 1)).is_empty());
        assert_eq!(canaries.due(at(most)).len(), 1);
    }
}

#[test]
fn a_reload_keeps_what_was_found_of_probes_that_stay() {
    let start = Instant::now();
    let mut canaries = Canaries::new(|| 0);
    canaries.follow(
        &[
            policy("stays", 10),
            policy("changes", 10),
            policy("goes", 10),
        ],
        start,
        WALL,
    );
    for id in ids(&canaries.due(start)) {
        canaries.ended(id, report("ok", None), WALL);
    }
    let later = start + Duration::from_secs(20);
    assert_eq!(
        canaries.due(later).len(),
        3,
        "under way while the config is read"
    );
    let elsewhere = ProbePolicy {
        url: "http://192.0.2.2/changes".parse().unwrap(),
        ..policy("changes", 10)
    };
    let now = [policy("new", 10), policy("stays", 20), elsewhere];
    assert_eq!(canaries.follow(&now, later, WALL), [""; 0], "all were well");
    let walks: Vec<_> = canaries
        .report()
        .probes
        .into_iter()
        .map(|p| (p.name, p.walks, p.walking))
        .collect();
    let expected = [("new", 0, false), ("stays", 1, true), ("changes", 0, false)];
    assert_eq!(
        walks,
        expected.map(|(name, walks, walking)| (name.to_owned(), walks, walking))
    );
    // Those that are gone still take their place until they end, and then tell nothing.
    assert_eq!(canaries.due(later).len(), 1);
    for id in [2, 3] {
        assert_eq!(
            canaries.ended(id, report("failed", Some("tcp")), WALL),
            None
        );
    }
    assert_eq!(canaries.due(later).len(), 1);
}

#[test]
fn failing_and_recovery_are_told_once_with_layer_code_and_time() {
    let mut canaries = Canaries::new(|| 0);
    canaries.follow(&[policy("shop", 10)], Instant::now(), WALL);
    let mut told = Vec::new();
    let mut walk = |canaries: &mut Canaries, walked, at: u64| {
        let wall = WALL + Duration::from_secs(at);
        told.extend(
            canaries
                .ended(1, walked, wall)
                .map(|change| (at, change.to, change.text)),
        );
    };
    walk(&mut canaries, report("ok", None), 0);
    walk(&mut canaries, report("failed", Some("tcp")), 10);
    assert_eq!(canaries.problems().count(), 0, "once is chance");
    walk(&mut canaries, report("failed", Some("tcp")), 20);
    walk(&mut canaries, report("failed", Some("tcp")), 30);
    let problems: Vec<_> = canaries.problems().collect();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("probe shop fails at tcp: 192.0.2.1 refused (tcp_refused)"),
        "{problems:?}"
    );
    assert_eq!(canaries.glance().failed, 1);
    let status = &canaries.report().probes[0];
    assert_eq!(
        (status.walks, status.failures, status.failures_in_a_row),
        (4, 3, 3)
    );
    assert_eq!(
        (status.success_per_mille, status.since),
        (Some(250), Some(WALL.as_secs() + 10))
    );
    walk(&mut canaries, report("ok", None), 40);
    assert_eq!(canaries.problems().count(), 1);
    walk(&mut canaries, report("ok", None), 50);
    assert_eq!(canaries.problems().count(), 0);
    assert_eq!(
        told,
        [
            (
                20,
                Outcome::Failed,
                "shop fails at tcp: 192.0.2.1 refused (tcp_refused)".to_owned()
            ),
            (
                50,
                Outcome::Ok,
                "shop is well again, after 40s of failing: its page came in 1.2 ms".to_owned()
            ),
        ]
    );
}

#[test]
fn a_walk_that_is_ended_or_breaks_off_is_a_failure_without_a_layer() {
    let mut canaries = Canaries::new(|| 0);
    canaries.follow(&[policy("shop", 10)], Instant::now(), WALL);
    let patience = Duration::from_secs(15);
    let ended = Walked::Ended {
        patience,
        doing: "waiting for the answer".to_owned(),
    };
    assert_eq!(canaries.ended(1, ended, WALL), None);
    let last = canaries.report().probes[0].last.clone().unwrap();
    assert_eq!(
        (last.outcome, last.layer, last.duration_us),
        (Outcome::Failed, None, 15_000_000)
    );
    assert_eq!(last.code.as_deref(), Some("walk_timeout"));
    assert!(
        last.verdict.contains("waiting for the answer"),
        "{}",
        last.verdict
    );
    let change = canaries
        .ended(1, Walked::Lost("panic".to_owned()), WALL)
        .unwrap();
    assert_eq!(
        change.text,
        "shop fails: the walk broke off: panic (walk_lost)"
    );
}

#[test]
fn each_place_on_the_way_has_its_own_say_and_only_of_the_last_walk() {
    let mut canaries = Canaries::new(|| 0);
    canaries.follow(&[policy("shop", 10)], Instant::now(), WALL);
    canaries.ended(1, redirected(), WALL);
    let heard = |canaries: &Canaries| -> Vec<_> {
        canaries
            .witnesses()
            .map(|(address, witness)| (address.to_string(), witness.map(|of| of.heard)))
            .collect()
    };
    let expected = [
        (
            "192.0.2.1:80".to_owned(),
            Some(Heard::Answers("its answer came in 3.0 ms".to_owned())),
        ),
        (
            "192.0.2.2:80".to_owned(),
            Some(Heard::Fails(
                "fails at tcp: 192.0.2.2 refused (tcp_refused)".to_owned(),
            )),
        ),
    ];
    assert_eq!(heard(&canaries), expected);
    let began = canaries.witnesses().filter_map(|(_, witness)| witness);
    assert!(began.map(|of| of.began_s).eq([WALL.as_secs(); 2]));
    // A walk that did not come so far leaves only where it would have gone.
    canaries.ended(1, report("failed", Some("name")), WALL);
    let silent = expected.map(|(address, _)| (address, None));
    assert_eq!(heard(&canaries), silent);
}

#[test]
fn a_flood_brings_the_walks_forward_that_go_there_but_not_at_will() {
    let start = Instant::now();
    let mut canaries = Canaries::new(|| 0);
    canaries.follow(&[policy("shop", 600), policy("desk", 600)], start, WALL);
    assert_eq!(canaries.due(start).len(), 2);
    canaries.ended(1, redirected(), WALL);
    canaries.ended(2, report("ok", None), WALL);
    let there = |target: SocketAddr| target == "192.0.2.2:80".parse().unwrap();
    let at = |seconds| start + Duration::from_secs(seconds);
    canaries.hurry(there, at(59));
    assert_eq!(ids(&canaries.due(at(59))), [0; 0]);
    canaries.hurry(there, at(60));
    assert_eq!(ids(&canaries.due(at(60))), [1]);
    canaries.ended(1, redirected(), WALL);
    canaries.hurry(there, at(70));
    assert_eq!(ids(&canaries.due(at(119))), [0; 0]);
    assert_eq!(ids(&canaries.due(at(120))), [1]);
}

#[test]
fn a_reload_makes_nothing_well_that_fails_and_tells_of_what_it_drops() {
    let start = Instant::now();
    let mut canaries = Canaries::new(|| 0);
    canaries.follow(&[policy("shop", 600)], start, WALL);
    for _ in 0..2 {
        canaries.ended(1, report("failed", Some("tcp")), WALL);
    }
    let failing = |canaries: &Canaries| canaries.glance().failed == 1;
    let mut slow = policy("shop", 10);
    slow.slow.tcp = Duration::from_secs(3);
    assert_eq!(canaries.follow(&[slow.clone()], start, WALL), [""; 0]);
    assert!(failing(&canaries));
    canaries.ended(1, report("failed", Some("tcp")), WALL);
    assert_eq!(canaries.report().probes[0].failures, 3, "the same walk");
    let other = ProbePolicy {
        expect: Some(204),
        ..slow
    };
    assert_eq!(canaries.follow(&[other], start, WALL), [""; 0]);
    assert!(failing(&canaries));
    canaries.ended(1, report("ok", None), WALL);
    assert_eq!(
        canaries.report().probes[0].walks,
        3,
        "a walk of the old kind"
    );
    let later = WALL + Duration::from_secs(60);
    assert_eq!(
        canaries.follow(&[], start, later),
        [
            "shop is no longer in the config; it had failed for 1m: it fails at tcp: 192.0.2.1 refused (tcp_refused)"
        ]
    );
}
