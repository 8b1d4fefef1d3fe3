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
  netmoat events --follow             and what comes, until Ctrl-C, whatever becomes of the agent
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
        let mut place = Place { agent: None, after };
        let mut unreachable = false;
        loop {
            ticks.tick().await;
            let events = match client.events(place.after).await {
                Ok(events) => events,
                // It was there: it may be on its way back.
                Err(error) if place.agent.is_some() => {
                    if !unreachable {
                        tracing::warn!("{error}; waiting for it to come back");
                    }
                    unreachable = true;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            unreachable = false;
            if place.is_past(&events) {
                tracing::warn!("the agent was started anew; its events begin with number 1 again");
                ticks.reset_immediately();
                continue;
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
        }
    })
}

/// How far the events were told.
struct Place {
    /// The start of the agent that they were of; none before the first.
    agent: Option<u64>,
    after: u64,
}

impl Place {
    /// Goes behind these events, which are to be told, unless the agent was started anew since: then it goes to
    /// the beginning, and they are to be asked for again.
    fn is_past(&mut self, events: &Events) -> bool {
        let past = self.agent.is_some_and(|agent| agent != events.agent);
        self.agent = Some(events.agent);
        // Who asks for what comes after a number that is yet to come waits for it.
        self.after = if past { 0 } else { self.after.max(events.last) };
        past
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_start_of_the_agent_is_told_by_its_number_alone() {
        let told = |agent, last| Events {
            version: VERSION,
            agent,
            last,
            forgotten: 0,
            events: vec![],
        };
        let mut place = Place {
            agent: None,
            after: 9,
        };
        for (agent, last, past, after) in [
            // Nothing new yet, though 9 is beyond the last.
            (7, 2, false, 9),
            (7, 11, false, 11),
            // As many events as before, of another start.
            (8, 11, true, 0),
            (8, 11, false, 11),
        ] {
            assert_eq!(place.is_past(&told(agent, last)), past, "{agent} {last}");
            assert_eq!(place.after, after, "{agent} {last}");
        }
    }
}
