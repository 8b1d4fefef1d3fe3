//! The act of the ping flood: `hping3` sends echo requests from random addresses, first to a host without netmoat, then to
//! one behind it, while a monitor that has always pinged that host goes on.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use net_common::verdict::Reason;
use net_user::host::netstat;
use nix::sys::signal::Signal;
use serde::Serialize;

use super::{figures::Criterion, summary::thousands};
use crate::{
    agent::Agent,
    interrupt,
    process::Process,
    topology::{Host, Lan},
};

/// How long each half is flooded.
const FLOOD: Duration = Duration::from_secs(6);
/// How long the monitor pings before, in each half: long enough to be known.
const BEFORE: Duration = Duration::from_secs(3);
/// Between two pings of the monitor, seconds.
const EVERY_S: f64 = 0.05;
/// What all sources never seen before may ask together (`[icmp] echo_request`, its default pool), each second.
const POOL_PER_S: f64 = 1_000.0;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// The columns of the table, in terminal and report.
pub const COLUMNS: [&str; 6] = [
    "host",
    "requests/s\nthat came",
    "replies/s\nthat left",
    "monitor's pings\nanswered",
    "of them in\nthe flood, ms",
    "dropped",
];

/// What the host did, and what the monitor saw.
#[derive(Debug, Serialize)]
pub struct Half {
    /// Whether netmoat protected it.
    pub netmoat: bool,
    /// Echo requests of the flood that reached its interface, a second.
    pub requests_per_s: f64,
    /// Echo replies that it sent, those to the monitor included, a second.
    pub replies_per_s: f64,
    /// Pings that the monitor sent.
    pub pings: u32,
    /// Those that were answered.
    pub answered: u32,
    /// What the slowest of them took, milliseconds.
    pub slowest_ms: Option<f64>,
    /// Echo requests that were dropped.
    pub dropped: u64,
}

/// Plays both halves.
///
/// # Errors
/// Something is missing, or Ctrl-C was pressed.
pub fn play() -> Result<[Half; 2]> {
    Ok([half(false)?, half(true)?])
}

fn half(netmoat: bool) -> Result<Half> {
    let lan = Lan::new()?;
    let (host, monitor, attacker) = (
        lan.host("server")?,
        lan.host("monitor")?,
        lan.host("attacker")?,
    );
    // The answers go somewhere, as they would to the Internet.
    host.pin_neighbour(&attacker)?;
    host.ns
        .ip(&format!("route add default via {}", attacker.v4))?;
    let agent = netmoat.then(|| Agent::start(&host, "")).transpose()?;
    let count = ((BEFORE + FLOOD).as_secs_f64() / EVERY_S) as u32;
    let mut pings = Process::start(
        &monitor.ns,
        Command::new("ping").args([
            "-n",
            "-i",
            &EVERY_S.to_string(),
            "-W",
            "1",
            "-c",
            &count.to_string(),
            &host.v4.to_string(),
        ]),
    )?;
    pause(BEFORE)?;
    let (start, before) = (Instant::now(), Reading::take(&host)?);
    let mut flood = Process::start(
        &attacker.ns,
        Command::new("hping3").args([
            "--icmp",
            "--flood",
            "--rand-source",
            "-I",
            &attacker.link.name,
            &host.v4.to_string(),
        ]),
    )?;
    pause(FLOOD)?;
    let (time, after) = (start.elapsed().as_secs_f64(), Reading::take(&host)?);
    flood.signal(Signal::SIGINT)?;
    flood.wait(Duration::from_secs(5))?;
    pings.wait(Duration::from_secs(10))?;
    let seen = Seen::read(&pings.printed()).context("ping's figures are not understood")?;
    Ok(Half {
        netmoat,
        requests_per_s: (after.received - before.received) / time,
        replies_per_s: (after.replies - before.replies) / time,
        pings: seen.sent,
        answered: seen.answered,
        slowest_ms: seen.slowest_ms,
        dropped: match &agent {
            Some(agent) => agent.packets(Reason::EchoRequestLimit)?,
            None => 0,
        },
    })
}

/// Waits, but not for longer than the operator does.
fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        interrupt::check()?;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Counters of a host.
struct Reading {
    received: f64,
    replies: f64,
}

impl Reading {
    fn take(host: &Host) -> Result<Self> {
        let kernel = host.ns.run(netstat::counters)?;
        let replies = kernel.get("IcmpOutEchoReps").copied().unwrap_or_default();
        Ok(Self {
            received: crate::neighbors::frames_received(host) as f64,
            replies: replies as f64,
        })
    }
}

/// What `ping` says at its end.
struct Seen {
    sent: u32,
    answered: u32,
    slowest_ms: Option<f64>,
}

impl Seen {
    fn read(printed: &str) -> Option<Self> {
        let totals = printed
            .lines()
            .find(|line| line.contains(" packets transmitted"))?;
        let mut words = totals.split_whitespace();
        let sent = words.next()?.parse().ok()?;
        let answered = words.nth(2)?.parse().ok()?;
        // rtt min/avg/max/mdev = 0.023/0.034/0.051/0.009 ms
        let slowest_ms = printed
            .lines()
            .find_map(|line| line.strip_prefix("rtt "))
            .and_then(|line| line.split('/').nth(5)?.parse().ok());
        Some(Self {
            sent,
            answered,
            slowest_ms,
        })
    }
}

/// The rows of the table.
pub fn rows(halves: &[Half]) -> Vec<Vec<String>> {
    let row = |half: &Half| {
        vec![
            if half.netmoat {
                "behind netmoat"
            } else {
                "without netmoat"
            }
            .to_owned(),
            thousands(half.requests_per_s),
            thousands(half.replies_per_s),
            format!("{} of {}", half.answered, half.pings),
            half.slowest_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("up to {ms:.1}")),
            half.dropped.to_string(),
        ]
    };
    halves.iter().map(row).collect()
}

/// What must hold.
pub fn judge(halves: &[Half; 2]) -> [Criterion; 2] {
    let [without, with] = halves;
    let found = |half: &Half| {
        format!(
            "{}/s came, {}/s left",
            thousands(half.requests_per_s),
            thousands(half.replies_per_s)
        )
    };
    // The pool's burst, and the monitor's own.
    let most = 1.5 * POOL_PER_S + 1.0 / EVERY_S;
    [
        Criterion {
            what: "without netmoat the host answers a ping flood from random addresses, to whomever they belong"
                .to_owned(),
            found: found(without),
            passed: without.replies_per_s > 4.0 * most,
        },
        Criterion {
            what: format!(
                "behind netmoat at most {most:.0} replies a second leave, and the monitor's pings are all answered"
            ),
            found: format!("{}; {} of {} answered", found(with), with.answered, with.pings),
            passed: with.requests_per_s > 4.0 * most
                && with.replies_per_s < most
                && with.answered == with.pings
                && with.pings > 0,
        },
    ]
}
