//! Sampled drops: bounded under a flood, what was left out or lost is counted, and no alert is displaced.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    topology::{Host, Pair},
    wait,
};
use net_user::{
    control::protocol::Events,
    drops::{KIND, SAMPLES},
};
use nix::sys::signal::{Signal, kill};

const SOON: Duration = Duration::from_secs(5);

fn events(agent: &Agent, args: &[&str]) -> Events {
    let output = agent
        .netmoat(&[&["-o", "json", "events"], args].concat())
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// TCP segments without any flag (R-TCP-2), `count` of them, one each `micros`.
fn null_flood(from: &Host, to: &Host, count: u32, micros: u32) {
    let output = from
        .ns
        .run(|| {
            Command::new("hping3")
                .args(["--quiet", "--count", &count.to_string()])
                .args(["--interval", &format!("u{micros}"), "--destport", "80"])
                .arg(to.v4.to_string())
                .output()
        })
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("packets transmitted"), "{said}");
}

/// Processor time of the agent so far.
fn busy(agent: &Agent) -> Duration {
    let stat = procfs::process::Process::new(agent.pid().as_raw())
        .and_then(|process| process.stat())
        .unwrap();
    Duration::from_secs(stat.utime + stat.stime) / procfs::ticks_per_second() as u32
}

/// C-50.
#[test]
fn c_50_a_flood_of_malformed_segments_is_sampled_and_the_rest_counted() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let (begun, busy_before) = (Instant::now(), busy(&agent));
    null_flood(&pair.attacker, &pair.server, 40_000, 50);
    wait::until("the flood to be dropped", SOON, || {
        agent.packets(Reason::TcpFlags).unwrap() >= 30_000
    })
    .unwrap();
    let told = events(&agent, &["--reason", "tcp_flags"]);
    let elapsed = begun.elapsed();
    let spent = busy(&agent) - busy_before;
    // Ten a second and twenty at once.
    let most = 20 + 10 * (elapsed.as_secs() + 1);
    assert!(
        (20..=most).contains(&(told.events.len() as u64)),
        "{} events in {elapsed:?}",
        told.events.len()
    );
    assert!(spent < elapsed / 4, "{spent:?} of {elapsed:?}");
    let drops = told.drops;
    assert_eq!(drops.packets, drops.told + drops.lost + drops.not_sampled);
    assert_eq!(drops.lost, 0);
    assert!(
        drops.packets >= 30_000 && drops.not_sampled >= 29_000,
        "{drops:?}"
    );

    let event = &told.events[0];
    let drop = event.drop.as_ref().unwrap();
    assert_eq!(
        (event.kind.as_str(), event.interface.as_str()),
        (KIND, "eth0")
    );
    assert_eq!((drop.code, drop.observed), (Reason::TcpFlags as u32, false));
    assert_eq!(drop.seen.source, Some(pair.attacker.v4.into()));
    assert_eq!(drop.seen.destination, Some(pair.server.v4.into()));
    assert_eq!(drop.seen.destination_port, Some(80));
    assert_eq!(events(&agent, &["--reason", "blocked"]).events, []);
    let words = agent.netmoat(&["events", "--drops"]).unwrap();
    let words = String::from_utf8_lossy(&words.stdout);
    assert!(words.contains("dropped, tcp_flags (16): tcp "), "{words}");
    assert!(words.contains("dropped packets since"), "{words}");
}

#[test]
fn samples_that_an_agent_at_rest_cannot_take_are_counted_as_lost() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "[events]\nrate = \"1k/s\"\nburst = 1000").unwrap();
    kill(agent.pid(), Signal::SIGSTOP).unwrap();
    // Some 4,000 samples, and the ring buffer has room for fewer than 2,000.
    null_flood(&pair.attacker, &pair.server, 15_000, 200);
    kill(agent.pid(), Signal::SIGCONT).unwrap();
    let told = wait::until_some("losses to be told", SOON, || {
        Some(events(&agent, &["--drops"])).filter(|told| told.drops.lost > 0)
    })
    .unwrap();
    assert!(told.events.len() <= SAMPLES);
    let counted = agent.packets(Reason::DropEventLost).unwrap();
    assert_eq!(told.drops.lost, counted);
    assert_eq!(
        told.drops.packets,
        told.drops.told + told.drops.lost + told.drops.not_sampled
    );
    let words = agent.netmoat(&["events", "--alerts"]).unwrap();
    let words = String::from_utf8_lossy(&words.stdout);
    assert!(
        words.contains(" lost, as the agent did not keep up"),
        "{words}"
    );
}

#[test]
fn what_is_only_observed_is_told_as_such() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "mode = \"observe\"").unwrap();
    null_flood(&pair.attacker, &pair.server, 3, 1000);
    let event = wait::until_some("an event", SOON, || {
        events(&agent, &["--drops"]).events.pop()
    });
    let drop = event.unwrap().drop.unwrap();
    assert!(drop.observed, "{drop:?}");
}
