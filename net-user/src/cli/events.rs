//! `netmoat events`

use std::time::Duration;

use serde::Serialize;

use super::output::{Output, Tone, plural, table, time, tone};
use super::{Code, Failure, block_on, explain};
use crate::control::client::Client;
use crate::control::drops::DropTotals;
use crate::control::protocol::{Event, EventLevel, Events, VERSION};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat events                      what the agent remembers, the oldest first
  netmoat events --follow             and what comes, until Ctrl-C, whatever becomes of the agent
  netmoat events --follow -o json     one JSON object an event, each on a line of its own
  netmoat events --after 120          those with a higher number
  netmoat events --alerts             those that someone should look at
  netmoat events --follow --drops     what is dropped, as it happens
  netmoat events --reason tcp_flags --reason blocked

LEVEL `alert` means that someone should look. Times are UTC. The agent's log has the same events, but for those of kind
`drop`: these are samples, `[events] rate` a second of each reason (10 unless configured), of which the last 1,024 are
remembered. `netmoat counters` has every packet, `netmoat capture` the frames.";

/// Which events to show.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what comes too, until interrupted
    #[arg(long)]
    follow: bool,
    /// Only events with a higher number
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    /// Only alerts
    #[arg(long, conflicts_with_all = ["drops", "reason"])]
    alerts: bool,
    /// Only sampled drops
    #[arg(long)]
    drops: bool,
    /// Only packets dropped for this reason, by name or number; may be repeated
    #[arg(long, value_name = "NAME")]
    reason: Vec<String>,
}

/// Which events are wanted.
struct Filter {
    alerts: bool,
    drops: bool,
    codes: Vec<u32>,
}

impl Filter {
    fn new(args: &Args) -> Result<Self, Failure> {
        let codes: Result<_, Failure> = args
            .reason
            .iter()
            .map(|text| Ok(explain::find(text)? as u32))
            .collect();
        Ok(Self {
            alerts: args.alerts,
            drops: args.drops,
            codes: codes?,
        })
    }

    fn wants(&self, event: &Event) -> bool {
        let code = event.drop.as_ref().map(|drop| drop.code);
        (!self.alerts || event.level == EventLevel::Alert)
            && (!self.drops || code.is_some())
            && (self.codes.is_empty() || code.is_some_and(|code| self.codes.contains(&code)))
    }
}

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

pub(super) fn events(client: &Client, out: &Output, args: &Args) -> Result<Code, Failure> {
    let filter = Filter::new(args)?;
    let after = args.after;
    if !args.follow {
        let mut events = block_on(client.events(after))?;
        events.events.retain(|event| filter.wants(event));
        out.print(&events, human)?;
        return Ok(Code::Ok);
    }
    block_on::<_, Failure>(async {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut place = Place { agent: None, after };
        let mut unreachable = false;
        let mut lost = None;
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
            let before = lost.replace(events.drops.lost);
            let more = before.map_or(0, |before| events.drops.lost.saturating_sub(before));
            if more > 0 {
                tracing::warn!("{}", lost_drops(more));
            }
            for event in events.events.iter().filter(|event| filter.wants(event)) {
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
        (0, _) => return "No events.\n".to_owned() + &told_of(&events.drops),
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
    text += &told_of(&events.drops);
    text + "\n" + &table(&COLUMNS, &[0], events.events.iter().map(row))
}

fn forgotten(count: u64) -> String {
    format!(
        "{} before these can no longer be told; the agent's log has those that are no sampled drops",
        plural(count, "event")
    )
}

fn lost_drops(count: u64) -> String {
    format!(
        "{} could not be told: the agent did not keep up",
        plural(count, "sampled drop")
    )
}

/// What stands behind the sampled drops.
fn told_of(drops: &DropTotals) -> String {
    if drops.packets == 0 {
        return String::new();
    }
    let mut text = format!(
        "{} since the programs were loaded, observed ones too: {} sampled, {} not",
        plural(drops.packets, "dropped packet"),
        drops.told,
        drops.not_sampled
    );
    if drops.lost > 0 {
        text += &format!("; {}", lost_drops(drops.lost));
    }
    text + ".\n"
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
            drops: DropTotals::default(),
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
