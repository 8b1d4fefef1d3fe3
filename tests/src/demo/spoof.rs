//! The last act: a neighbour that lies. `arpspoof` takes the gateway's place for a victim with an open TCP transfer,
//! first without netmoat, then with its ARP guard in enforce mode.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use net_common::verdict::Reason;
use serde::Serialize;

use super::figures::Criterion;
use crate::{
    interrupt,
    neighbors::{ENFORCE, Scene, attack, report},
    wait,
};

/// How long each half is looked at; arpspoof sends every 2 s.
const HALF: Duration = Duration::from_secs(8);
/// Between two looks at the victim's neighbour table.
const LOOK: Duration = Duration::from_millis(100);
/// How long a transfer may stand still before it counts as stopped.
const STILL: Duration = Duration::from_secs(2);

/// The columns of the table, in terminal and report.
pub const COLUMNS: [&str; 6] = [
    "victim",
    "gateway's entry",
    "looks at it\npoisoned",
    "transfer",
    "false claims\ndropped",
    "alert after",
];

/// What the victim went through, and what it was told.
#[derive(Debug, Serialize)]
pub struct Half {
    /// Whether netmoat protected it.
    pub netmoat: bool,
    /// Looks at its entry of the gateway while it was attacked.
    pub looks: u32,
    /// Those in which it was the attacker's.
    pub poisoned: u32,
    /// Whether its transfer went on at the end.
    pub flows: bool,
    /// False claims that were dropped.
    pub dropped: u64,
    /// When the spoof was told of, seconds after its start.
    pub alert_s: Option<f64>,
    /// In which words.
    pub alert: Option<String>,
}

/// Plays both halves.
///
/// # Errors
/// Something is missing, or Ctrl-C was pressed.
pub fn play() -> Result<[Half; 2]> {
    // The scene is that of the tests, where whatever fails panics.
    let played = catch_unwind(AssertUnwindSafe(|| -> Result<_> {
        Ok([half(false)?, half(true)?])
    }));
    played.unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .map_or("a step of it panicked", String::as_str);
        Err(anyhow!("the act of the lying neighbour failed: {words}"))
    })
}

fn half(netmoat: bool) -> Result<Half> {
    let scene = Scene::new();
    let agent = netmoat.then(|| scene.protect(4, ENFORCE));
    let transfer = scene.transfer(4);
    let start = Instant::now();
    let attack = attack::arpspoof(&scene);
    let mut half = Half {
        netmoat,
        looks: 0,
        poisoned: 0,
        flows: false,
        dropped: 0,
        alert_s: None,
        alert: None,
    };
    while start.elapsed() < HALF {
        interrupt::check()?;
        half.looks += 1;
        half.poisoned += u32::from(scene.poisoned(4));
        if let Some(agent) = &agent
            && half.alert.is_none()
            && let Some(event) = report::events_of(agent, "spoof", scene.next_hop(4)).pop()
        {
            half.alert_s = Some(start.elapsed().as_secs_f64());
            half.alert = Some(event.text);
        }
        std::thread::sleep(LOOK);
    }
    let before = transfer.arrived();
    half.flows = wait::until("data", STILL, || transfer.arrived() > before).is_ok();
    if let Some(agent) = &agent {
        half.dropped = agent.packets(Reason::NeighborMismatch)?;
    }
    drop((attack, transfer));
    Ok(half)
}

/// The rows of the table.
pub fn rows(halves: &[Half]) -> Vec<Vec<String>> {
    halves
        .iter()
        .map(|half| {
            vec![
                if half.netmoat {
                    "behind netmoat"
                } else {
                    "without netmoat"
                }
                .to_owned(),
                if half.poisoned == 0 {
                    "the gateway's"
                } else {
                    "the attacker's"
                }
                .to_owned(),
                format!("{} of {}", half.poisoned, half.looks),
                if half.flows { "goes on" } else { "stopped" }.to_owned(),
                half.dropped.to_string(),
                half.alert_s
                    .map_or_else(|| "none".to_owned(), |seconds| format!("{seconds:.1} s")),
            ]
        })
        .collect()
}

/// What must hold.
pub fn judge(halves: &[Half; 2]) -> [Criterion; 2] {
    let [without, with] = halves;
    let found = |half: &Half| {
        format!(
            "entry poisoned in {} of {} looks, transfer {}",
            half.poisoned,
            half.looks,
            if half.flows { "goes on" } else { "stopped" }
        )
    };
    [
        Criterion {
            what: "without netmoat arpspoof takes the gateway's place and the transfer stops"
                .to_owned(),
            found: found(without),
            passed: without.poisoned > 0 && !without.flows,
        },
        Criterion {
            what: "behind netmoat the entry never changes, the transfer goes on, an alert tells"
                .to_owned(),
            found: format!(
                "{}, {}",
                found(with),
                with.alert.as_deref().unwrap_or("no alert")
            ),
            passed: with.poisoned == 0 && with.looks > 0 && with.flows && with.alert.is_some(),
        },
    ]
}
