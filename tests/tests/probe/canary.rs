//! The agent's own probes ([[probe]]) with the real agent: whether a page comes is known, told, and named in the verdict of a
//! flood on this host.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use net_tests::{
    agent::Agent,
    demo::web::{self, Web},
    lab::Generator,
    lists::{done, json},
    queues::watch::{Watch, words},
    scene::{Scene, listener},
    topology::{Lan, Pair},
    wait,
};
use net_user::{
    config::HumanDuration,
    control::{
        changes::Reloaded,
        probes::{ProbeStatus, Probes},
        protocol::{Event, EventLevel, Events, Health},
        queues::VerdictKind,
    },
    probe::{Layer, Outcome},
};

/// Some walks, on a busy machine.
const SOON: Duration = Duration::from_secs(30);
const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:9123\"\n";

/// A probe that walks every second.
fn canary(name: &str, address: SocketAddr) -> String {
    format!(
        "[[probe]]\nname = \"{name}\"\nurl = \"http://{address}/\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n"
    )
}

/// What `netmoat probe list` prints, also while something fails.
fn probes(agent: &Agent) -> Probes {
    let output = agent.netmoat(&["-o", "json", "probe", "list"]).unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn find(agent: &Agent, name: &str) -> Option<ProbeStatus> {
    let all = probes(agent).probes;
    all.into_iter().find(|probe| probe.name == name)
}

fn await_state(agent: &Agent, name: &str, state: Outcome) -> ProbeStatus {
    let what = format!("{name} to be {}", state.word());
    let found = wait::until_some(&what, SOON, || {
        find(agent, name).filter(|probe| probe.state == Some(state))
    });
    found.unwrap_or_else(|error| panic!("{error}: {:#?}", probes(agent)))
}

/// The events about probes so far.
fn told(agent: &Agent) -> Vec<Event> {
    let events: Events = json(agent, "events");
    let about_probes = |event: &Event| event.kind.starts_with("probe_");
    events.events.into_iter().filter(about_probes).collect()
}

fn exit_code(agent: &Agent, verb: &[&str]) -> Option<i32> {
    agent.netmoat(verb).unwrap().status.code()
}

/// The value of a series as Prometheus reads it on the agent's host.
fn metric(pair: &Pair, series: &str) -> Option<f64> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "http://127.0.0.1:9123/metrics"]);
    let page = pair.server.ns.succeed(&mut curl).unwrap();
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_server_that_goes_and_returns_is_told_by_events_status_and_metrics() {
    let pair = Pair::new().unwrap();
    let web = Web::start(&pair.attacker).unwrap();
    let to = pair.attacker.at(4, web::PORT);
    let agent = Agent::start(&pair.server, &format!("{METRICS}{}", canary("shop", to))).unwrap();
    let good = await_state(&agent, "shop", Outcome::Ok);
    let last = good.last.unwrap();
    assert_eq!((last.outcome, last.layer), (Outcome::Ok, None));
    let layers: Vec<_> = last.report.unwrap().fetches[0]
        .stages
        .iter()
        .map(|stage| stage.layer)
        .collect();
    assert!(
        layers.contains(&Layer::Tcp) && layers.contains(&Layer::Http),
        "{layers:?}"
    );
    assert_eq!(told(&agent), [], "that all is well is no news");
    assert_eq!(exit_code(&agent, &["status"]), Some(0));
    let human = done(&agent, "status");
    assert!(human.contains("Probes           1 ok"), "{human}");
    wait::until("the metrics of a good walk", SOON, || {
        metric(&pair, "netmoat_probe_up{probe=\"shop\"}") == Some(1.0)
    })
    .unwrap();
    let tcp = "netmoat_probe_stage_seconds{probe=\"shop\",layer=\"tcp\"}";
    assert!(metric(&pair, tcp).is_some_and(|seconds| seconds < 1.0));

    drop(web);
    let bad = await_state(&agent, "shop", Outcome::Failed);
    let last = bad.last.unwrap();
    assert_eq!(
        (last.outcome, last.layer),
        (Outcome::Failed, Some(Layer::Tcp))
    );
    assert!(
        bad.failures_in_a_row >= 2 && bad.since.is_some(),
        "two in a row"
    );
    let status = agent.status().unwrap();
    assert_eq!((status.health, status.probes.failed), (Health::Degraded, 1));
    let problem = &status.problems[0];
    assert!(
        problem.starts_with("probe shop fails at tcp: "),
        "{problem}"
    );
    assert_eq!(exit_code(&agent, &["status"]), Some(3));
    assert_eq!(exit_code(&agent, &["probe", "list"]), Some(3));
    // What is configured is in force: this is the web server's trouble.
    assert_eq!(metric(&pair, "netmoat_healthy"), Some(1.0));
    let [event] = &told(&agent)[..] else {
        panic!("{:?}", told(&agent));
    };
    assert_eq!(
        (event.kind.as_str(), event.level),
        ("probe_failed", EventLevel::Alert)
    );
    let code = last.code.unwrap();
    for part in ["shop fails at tcp: ", &format!("({code})")] {
        assert!(event.text.contains(part), "{part}: {}", event.text);
    }
    wait::until("the metrics of walks that failed", SOON, || {
        metric(&pair, "netmoat_probe_up{probe=\"shop\"}") == Some(0.0)
    })
    .unwrap();
    assert_eq!(
        metric(&pair, "netmoat_probe_outcome{probe=\"shop\"}"),
        Some(3.0)
    );
    assert!(metric(&pair, "netmoat_probe_failures_total{probe=\"shop\"}") >= Some(2.0));
    let check = "curl --silent --fail http://127.0.0.1:9123/metrics | promtool check metrics";
    let mut promtool = Command::new("sh");
    promtool.args(["-c", check]);
    pair.server.ns.succeed(&mut promtool).unwrap();

    let _web = Web::start(&pair.attacker).unwrap();
    await_state(&agent, "shop", Outcome::Ok);
    let events = told(&agent);
    let last = events.last().unwrap();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(
        (last.kind.as_str(), last.level),
        ("probe_recovered", EventLevel::Info)
    );
    let lasted = last
        .text
        .strip_prefix("shop is well again, after ")
        .unwrap();
    let lasted: HumanDuration = lasted.split(' ').next().unwrap().parse().unwrap();
    assert!(lasted.get() < SOON * 2, "{}", last.text);
    assert_eq!(exit_code(&agent, &["status"]), Some(0));
    assert_eq!(agent.status().unwrap().problems, [""; 0]);
}

#[test]
fn a_server_that_is_stopped_and_says_nothing_fails_within_bounded_time() {
    let pair = Pair::new().unwrap();
    // The kernel takes connections, and nobody reads what comes.
    let to = pair.attacker.at(4, 80);
    let _silent: TcpListener = pair.attacker.ns.run(|| listener(to, 64, false));
    let agent = Agent::start(&pair.server, &canary("shop", to)).unwrap();
    let bad = await_state(&agent, "shop", Outcome::Failed);
    let last = bad.last.unwrap();
    assert!(
        last.duration_us < 2_000_000,
        "500 ms a stage, 1500 ms in all: {last:?}"
    );
    assert!(last.code.is_some(), "{last:?}");
    assert_eq!(agent.status().unwrap().health, Health::Degraded);
}

#[test]
fn a_reload_adds_and_removes_probes_and_keeps_what_was_found_of_the_others() {
    let pair = Pair::new().unwrap();
    let web = Web::start(&pair.attacker).unwrap();
    let to = pair.attacker.at(4, web::PORT);
    let [stays, goes] = ["stays", "goes"].map(|name| canary(name, to));
    let agent = Agent::start(&pair.server, &format!("{stays}{goes}")).unwrap();
    await_state(&agent, "stays", Outcome::Ok);
    await_state(&agent, "goes", Outcome::Ok);
    let walks = find(&agent, "stays").unwrap().walks;
    agent
        .write_config(&format!("{}{stays}", canary("comes", to)))
        .unwrap();
    let reloaded: Reloaded = json(&agent, "reload");
    let keys: BTreeSet<_> = reloaded
        .changes
        .iter()
        .map(|change| change.key.split('.').next().unwrap())
        .collect();
    assert_eq!(keys, BTreeSet::from(["probe[comes]", "probe[goes]"]));
    let names: Vec<_> = probes(&agent).probes.into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["comes", "stays"]);
    let stayed = find(&agent, "stays").unwrap();
    assert!(
        stayed.walks >= walks && stayed.state == Some(Outcome::Ok),
        "{stayed:?}"
    );
    await_state(&agent, "comes", Outcome::Ok);
    // One that fails goes on failing, whatever becomes of its interval; one that is gone while it fails is told.
    drop(web);
    await_state(&agent, "stays", Outcome::Failed);
    let slower = stays.replace("interval = \"1s\"", "interval = \"2s\"");
    agent
        .write_config(&format!("{}{slower}", canary("comes", to)))
        .unwrap();
    let _: Reloaded = json(&agent, "reload");
    assert_eq!(find(&agent, "stays").unwrap().state, Some(Outcome::Failed));
    agent.write_config(&canary("comes", to)).unwrap();
    let _: Reloaded = json(&agent, "reload");
    let dropped = told(&agent)
        .into_iter()
        .find(|event| event.kind == "probe_dropped");
    let text = dropped.unwrap().text;
    assert!(
        text.starts_with("stays is no longer in the config; it had failed for "),
        "{text}"
    );
    // What is refused changes nothing.
    agent
        .write_config("[[probe]]\nurl = \"gopher://x/\"")
        .unwrap();
    assert_eq!(exit_code(&agent, &["reload"]), Some(1));
    assert_eq!(probes(&agent).probes.len(), 1);
}

#[test]
fn at_most_four_walk_at_one_time_and_each_gets_its_turn() {
    let lan = Lan::new().unwrap();
    let (host, other) = (lan.host("server").unwrap(), lan.host("web").unwrap());
    let to = other.at(4, 80);
    let _silent: TcpListener = other.ns.run(|| listener(to, 64, false));
    let all: String = (0..9).map(|n| canary(&format!("c{n}"), to)).collect();
    let agent = Agent::start(&host, &all).unwrap();
    let mut most = 0;
    wait::until("every probe to have walked", SOON, || {
        let probes = probes(&agent).probes;
        let walking = probes.iter().filter(|probe| probe.walking).count();
        assert!(walking <= 4, "{walking} walk at one time");
        most = most.max(walking);
        probes.iter().all(|probe| probe.walks > 0)
    })
    .unwrap();
    assert_eq!(most, 4, "they wait for no answer, so four are under way");
}

/// Floods the listener that a canary goes to until the verdict says of it what is waited for: sentence and evidence. A walk from
/// when the SYN queue was filling may have been told of before.
fn flood(config: &str, fails: bool) -> (String, String) {
    let scene = Scene::new();
    let _web = Web::start(&scene.server).unwrap();
    let to = scene.server.at(4, web::PORT);
    let agent = scene.protect(&format!("{config}\n{}", canary("shop", to)));
    await_state(&agent, "shop", Outcome::Ok);
    // Without cookies of the kernel a full SYN queue is full for everybody whom netmoat does not answer.
    if fails {
        let ns = &scene.server.ns;
        ns.sysctl("net.ipv4.tcp_syncookies", "0").unwrap();
    }
    let watch = Watch::new(&agent);
    let generator = Generator::new(&scene.attacker).unwrap();
    let flooding = scene.flood(&generator, 4, web::PORT);
    let words_awaited = if fails {
        "canary shop fails at "
    } else {
        "canary shop: "
    };
    let named =
        |verdict: &net_user::control::queues::Verdict| words(verdict).contains(words_awaited);
    let listener = watch.until("a flood that names the canary", web::PORT, |listener| {
        let mut verdicts = listener.verdicts.iter();
        verdicts.any(|verdict| verdict.kind == VerdictKind::SynFlood && named(verdict))
    });
    let verdict = listener.verdicts.iter().find(|verdict| named(verdict));
    let verdict = verdict.unwrap();
    let told = (verdict.sentence.clone(), verdict.evidence.join("\n"));
    flooding.stop().unwrap();
    told
}

#[test]
fn the_verdict_of_a_flood_names_the_canary_that_fails_even_on_this_host() {
    let (sentence, evidence) = flood("[syn]\nmode = \"off\"", true);
    assert!(
        sentence.ends_with("; meanwhile canary shop fails even on this host itself"),
        "{sentence}"
    );
    assert!(
        evidence.contains("canary shop fails at tcp: "),
        "{evidence}"
    );
}

#[test]
fn the_verdict_of_a_flood_says_of_a_canary_that_passes_over_lo_no_more_than_that() {
    let (sentence, evidence) = flood("[syn]\nmode = \"always\"", false);
    assert!(!sentence.contains("canary"), "{sentence}");
    assert!(
        evidence.contains(
            "canary shop: the service answers on this host (over lo, past netmoat), its answer came in "
        ),
        "{evidence}"
    );
    assert!(!evidence.contains("users"), "{evidence}");
}
