//! `netmoat events`

use std::time::Duration;

use serde::Serialize;

use super::output::{Output, Tone, plural, table, time, tone};
use super::{Code, Failure, block_on};
use crate::control::client::Client;
use crate::control::protocol::{Event, EventLevel, Events, VERSION};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat events                      what the agent remembers, the oldest first
  netmoat events --follow             and what comes, until Ctrl-C
  netmoat events --follow -o json     one JSON object an event, each on a line of its own
  netmoat events --after 120          those with a higher number

LEVEL `alert` means that someone should look. Times are UTC. The agent's log has the same events.";

const PERIOD: Duration = Duration::from_millis(500);
const COLUMNS: [&str; 8] = [
    "NUMBER",
    "TIME",
    "LEVEL",
    "KIND",
    "INTERFACE",
    "ADDRESS",
    "MACS",
    "EVENT",
];
/// Widths in follow mode, where no table knows what is still to come.
const WIDTHS: [usize; 8] = [6, 20, 5, 15, 9, 15, 17, 0];

/// One event where it stands alone.
#[derive(Serialize)]
struct EventLine<'a> {
    version: u32,
    #[serde(flatten)]
    event: &'a Event,
}

pub(super) fn events(
    client: &Client,
    out: &Output,
    follow: bool,
    after: u64,
) -> Result<Code, Failure> {
    if !follow {
        out.print(&block_on(client.events(after))?, human)?;
        return Ok(Code::Ok);
    }
    block_on::<_, Failure>(async {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut after = after;
        loop {
            ticks.tick().await;
            let mut events = client.events(after).await?;
            // The numbers begin anew with the agent.
            if events.last < after {
                tracing::warn!("the agent was started anew; its events begin with number 1 again");
                events = client.events(0).await?;
            }
            if events.forgotten > 0 {
                tracing::warn!("{}", forgotten(events.forgotten));
            }
            for event in &events.events {
                let line = EventLine {
                    version: VERSION,
                    event,
                };
                out.print_line(&line, |line| follow_line(line.event))?;
            }
            after = events.last;
        }
    })
}

pub(super) fn human(events: &Events) -> String {
    let alerts = events
        .events
        .iter()
        .filter(|e| e.level == EventLevel::Alert);
    let mut text = match (events.events.len() as u64, alerts.count() as u64) {
        (0, _) => return "No events.\n".to_owned(),
        (n, 0) => format!("{}, no alert.\n", plural(n, "event")),
        (n, alerts) => format!(
            "{}, {}.\n",
            plural(n, "event"),
            tone(&plural(alerts, "alert"), Tone::Bad)
        ),
    };
    if events.forgotten > 0 {
        text += &format!("{}.\n", forgotten(events.forgotten));
    }
    text + "\n" + &table(&COLUMNS, &[0], events.events.iter().map(row))
}

fn forgotten(count: u64) -> String {
    format!(
        "{} before these can no longer be told; the agent's log has them",
        plural(count, "event")
    )
}

pub(super) fn follow_line(event: &Event) -> String {
    let row = row(event);
    let cells = row.iter().zip(WIDTHS).map(|(cell, width)| {
        // Colours take no room.
        let plain = anstream::adapter::strip_str(cell).to_string();
        let room = width.saturating_sub(plain.chars().count());
        format!("{cell}{:room$}", "")
    });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
}

fn row(event: &Event) -> Vec<String> {
    let or_dash = |text: String| {
        if text.is_empty() {
            "-".to_owned()
        } else {
            text
        }
    };
    vec![
        event.sequence.to_string(),
        time(event.at_ms / 1000),
        match event.level {
            EventLevel::Info => "info".to_owned(),
            EventLevel::Alert => tone("alert", Tone::Bad),
        },
        event.kind.clone(),
        match event.vlan {
            0 => or_dash(event.interface.clone()),
            vlan => format!("{} VLAN {vlan}", event.interface),
        },
        or_dash(event.address.clone()),
        or_dash(event.macs.join(", ")),
        event.text.clone(),
    ]
}
