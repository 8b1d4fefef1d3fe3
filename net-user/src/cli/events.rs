//! `netmoat events`

use std::time::Duration;

use serde::Serialize;

use super::output::{Output, Tone, plural, table, time, tone};
use super::{Code, Failure, block_on, explain};
use crate::control::client::Client;
use crate::control::drops::DropTotals;
use crate::control::protocol::{Counters, Event, EventLevel, Events, VERSION};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat events                      what is remembered, the oldest first
  netmoat events --follow             and what comes, until Ctrl-C
  netmoat events --follow -o json     one JSON object an event, a line each
  netmoat events --after 120          those with a higher number
  netmoat events --last 20            the last twenty of them
  netmoat events --alerts             those that someone should look at
  netmoat events --follow --drops     what is dropped, as it happens
  netmoat events --reason tcp_flags --reason blocked

LEVEL `alert` means that someone should look. Times are UTC. The agent's log
has the same events, but for those of kind `drop`: these are samples,
`[events] rate` a second of each reason (10 unless configured), of which the
last 1,024 are remembered. `netmoat counters` has every packet, `netmoat
capture` the frames.";

/// Which events to show.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what comes too, until interrupted
    #[arg(long)]
    follow: bool,
    /// Only events with a higher number
    #[arg(long, value_name = "N", default_value_t = 0)]
    after: u64,
    /// Only so many of the last of those remembered
    #[arg(long, value_name = "N")]
    last: Option<usize>,
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
            .map(|text| Ok(explain::find_drop(text)? as u32))
            .collect();
        Ok(Self {
            alerts: args.alerts,
            drops: args.drops,
            codes: codes?,
        })
    }

    /// Whether nothing but drops is wanted.
    fn drops_only(&self) -> bool {
        self.drops || !self.codes.is_empty()
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

/// Of drops alone.
const DROP_COLUMNS: [&str; 4] = ["NUMBER", "TIME", "INTERFACE", "EVENT"];
const DROP_WIDTHS: [usize; 4] = [6, 20, 9, 0];
/// Router solicitation to redirect (RFC 4861).
const NDP_TYPES: std::ops::RangeInclusive<u8> = 133..=137;

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
        let behind = match filter.codes.as_slice() {
            [] => told_of(&events.drops),
            codes => behind(&block_on(client.counters())?, codes),
        };
        events.events.retain(|event| filter.wants(event));
        last(&mut events.events, args.last);
        out.print(&events, |events| human(events, &behind))?;
        return Ok(Code::Ok);
    }
    block_on::<_, Failure>(async {
        let mut ticks = tokio::time::interval(PERIOD);
        let mut place = Place { agent: None, after };
        let mut unreachable = false;
        let mut lost = None;
        // Of what comes from then on, nothing is left out.
        let mut remembered = args.last;
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
            let mut wanted = events.events;
            wanted.retain(|event| filter.wants(event));
            last(&mut wanted, remembered.take());
            for event in &wanted {
                let line = EventLine {
                    version: VERSION,
                    event,
                };
                out.print_line(&line, |line| follow_line(line.event, filter.drops_only()))?;
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

/// Leaves the last ones.
fn last(events: &mut Vec<Event>, count: Option<usize>) {
    let before = count.map_or(0, |count| events.len().saturating_sub(count));
    events.drain(..before);
}

/// `behind`: what stands behind the samples, in a line.
pub(super) fn human(events: &Events, behind: &str) -> String {
    let alerts = events
        .events
        .iter()
        .filter(|e| e.level == EventLevel::Alert);
    let mut text = match (events.events.len() as u64, alerts.count() as u64) {
        (0, _) => return "No events.\n".to_owned() + behind,
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
    text += behind;
    text.push('\n');
    // Of drops alone, most columns would say the same in every line, or what the packet's headers say anyway.
    if events.events.iter().all(|event| event.drop.is_some()) {
        return text + &table(&DROP_COLUMNS, &[0], events.events.iter().map(drop_row));
    }
    text + &table(&COLUMNS, &[0], events.events.iter().map(row))
}

fn forgotten(count: u64) -> String {
    format!(
        "{} before these can no longer be told; the agent's log has those that are no sampled drops",
        plural(count, "event")
    )
}

fn lost_drops(count: u64) -> String {
    format!(
        "{} lost, as the agent did not keep up",
        plural(count, "sampled drop")
    )
}

/// What stands behind the sampled drops.
pub(super) fn told_of(drops: &DropTotals) -> String {
    if drops.packets == 0 {
        return String::new();
    }
    let mut text = format!(
        "{} since the programs were loaded, observed ones too: {} told of, {} left out by the rate",
        plural(drops.packets, "dropped packet"),
        drops.told,
        drops.not_sampled
    );
    if drops.lost > 0 {
        text += &format!(", {} lost, as the agent did not keep up", drops.lost);
    }
    text + ".\n"
}

/// The same of some reasons; of how many of these the agent was told is not counted apart.
pub(super) fn behind(counters: &Counters, codes: &[u32]) -> String {
    let all = counters.enforced.iter().chain(&counters.observed);
    let packets = all
        .filter(|counter| codes.contains(&counter.code))
        .map(|counter| counter.packets)
        .sum();
    if packets == 0 {
        return String::new();
    }
    let these = if codes.len() == 1 {
        "this reason"
    } else {
        "these reasons"
    };
    format!(
        "{} for {these} since the programs were loaded, observed ones too; the events are samples.\n",
        plural(packets, "dropped packet")
    )
}

/// `drops_only`: whether every line is of a drop, so that it need not be said.
pub(super) fn follow_line(event: &Event, drops_only: bool) -> String {
    let (row, widths) = match (&event.drop, drops_only) {
        (Some(_), true) => (drop_row(event), &DROP_WIDTHS[..]),
        // The addresses stand in the text, in full.
        (Some(_), false) => (
            row(event)
                .into_iter()
                .take(5)
                .chain([event.text.clone()])
                .collect(),
            &WIDTHS[..],
        ),
        (None, _) => (row(event), &WIDTHS[..]),
    };
    let end = row.len() - 1;
    let cells = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(at, (cell, &width))| {
            // Colours take no room, and nothing stands behind the last.
            let plain = anstream::adapter::strip_str(cell).to_string();
            let room = match at {
                at if at == end => 0,
                _ => width.saturating_sub(plain.chars().count()),
            };
            format!("{cell}{:room$}", "")
        });
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
}

fn or_dash(text: String) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

fn interface(event: &Event) -> String {
    match event.vlan {
        0 => or_dash(event.interface.clone()),
        vlan => format!("{} VLAN {vlan}", event.interface),
    }
}

fn drop_row(event: &Event) -> Vec<String> {
    vec![
        event.sequence.to_string(),
        time(event.at_ms / 1000),
        interface(event),
        event.text.clone(),
    ]
}

/// Whether the link-layer addresses say more than by which router it came.
fn about_neighbors(event: &Event) -> bool {
    event.drop.as_ref().is_none_or(|drop| {
        let (protocol, kind) = (drop.seen.protocol.as_str(), drop.seen.icmp_type);
        protocol == "arp"
            || protocol == "icmpv6" && kind.is_some_and(|kind| NDP_TYPES.contains(&kind))
    })
}

fn row(event: &Event) -> Vec<String> {
    let macs = if about_neighbors(event) {
        event.macs.join(", ")
    } else {
        String::new()
    };
    vec![
        event.sequence.to_string(),
        time(event.at_ms / 1000),
        match event.level {
            EventLevel::Info => "info".to_owned(),
            EventLevel::Alert => tone("alert", Tone::Bad),
        },
        event.kind.clone(),
        interface(event),
        or_dash(event.address.clone()),
        or_dash(macs),
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

    #[test]
    fn the_last_are_left_and_no_more_than_there_are() {
        let event = |sequence| Event {
            sequence,
            at_ms: 0,
            level: EventLevel::Info,
            kind: "drop".to_owned(),
            interface: "eth0".to_owned(),
            vlan: 0,
            address: String::new(),
            macs: vec![],
            text: String::new(),
            drop: None,
        };
        for (count, left) in [
            (None, &[1, 2, 3][..]),
            (Some(0), &[]),
            (Some(2), &[2, 3]),
            (Some(9), &[1, 2, 3]),
        ] {
            let mut events: Vec<_> = (1..=3).map(event).collect();
            last(&mut events, count);
            let found: Vec<_> = events.iter().map(|event| event.sequence).collect();
            assert_eq!(found, left, "{count:?}");
        }
    }

    #[test]
    fn what_stands_behind_samples_of_some_reasons_is_of_these() {
        let mut cells = vec![0; net_common::verdict::COUNTERS as usize];
        cells[16] = 5;
        cells[17] = 100;
        cells[net_common::verdict::Reason::ALL.len() + 16] = 2;
        let counters = Counters::from_cells(&cells);
        assert!(behind(&counters, &[16]).starts_with("7 dropped packets for this reason since"));
        assert!(behind(&counters, &[16, 17]).starts_with("107 dropped packets for these reasons"));
        assert_eq!(behind(&counters, &[18]), "");
    }
}
