//! What happened, for `netmoat events` and the log.
//!
//! A flood fills neither: alerts of the same kind, address and link-layer addresses are joined for
//! [`WINDOW`], an address gets no more than [`ALERTS`] of a kind in that time, and a kind no more than its budget.
//! What was joined is told as a number when the time is over.
//!
//! Sampled drops are numbered with the events but kept apart, so that they displace none, and not logged.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use net_common::{abi::DropEvent, units::Mac};
use tracing::{info, warn};

use super::Now;
use crate::{
    control::{
        drops::{DropTotals, Drops},
        protocol::{Event, EventLevel, Events, VERSION},
    },
    drops::{Sample, Samples, wall_time},
};

/// Events that are remembered.
pub const EVENTS: usize = 4096;
/// For how long alerts are joined.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Alerts of one kind about one address in a [`WINDOW`], each with link-layer addresses of its own.
pub const ALERTS: usize = 8;
/// Addresses whose alerts are joined, all kinds together; those beyond are only counted.
const GROUPS: usize = 2048;
/// Events of one kind: so many at once, and one each second.
const BURST: u32 = 300;
const EVERY: Duration = Duration::from_secs(1);

/// What an event is about. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A pair of address and link-layer address that is new on the link.
    Station,
    /// A binding's link-layer address is known now.
    Learned,
    /// A holder was silent, and another has its address now.
    Moved,
    /// The operator named a binding.
    Pinned,
    /// The operator took a binding back.
    Unpinned,
    /// An address that this host probed is in use.
    ProbeAnswered,
    /// A contested address is clear again.
    ContestOver,
    /// A listener, or the host, is healthy again.
    Recovered,
    /// A probe of the agent's own is better than it was.
    ProbeRecovered,
    /// One that did not get through is no longer in the config.
    ProbeDropped,
    /// A claim that the recorded holder contradicts.
    Spoof,
    /// It is unclear who has an address.
    Contested,
    /// A known address is at another link-layer address.
    StationChanged,
    /// An address changes to and fro, or is at many link-layer addresses.
    FlipFlop,
    /// Someone claims an address of ours.
    OwnAddress,
    /// Someone answers for whatever address this host would take.
    DadDenial,
    /// A router that is not on the list.
    RogueRouter,
    /// The kernel could not tell of everything.
    EventsLost,
    /// A default gateway or an address of this host is blocked, by a list that was there before.
    LockedOut,
    /// What is going on at a listener, or at the host, has changed.
    Verdict,
    /// Somebody else has changed the maps, or taken programs off an interface.
    Drift,
    /// A probe of the agent's own does not get through.
    ProbeFailed,
    /// It gets through, but slowly, or to what is not as it should be.
    ProbeAiling,
}

impl Kind {
    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Station => "station",
            Self::Learned => "learned",
            Self::Moved => "moved",
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
            Self::ProbeAnswered => "probe_answered",
            Self::ContestOver => "contest_over",
            Self::Recovered => "recovered",
            Self::ProbeRecovered => "probe_recovered",
            Self::ProbeDropped => "probe_dropped",
            Self::Spoof => "spoof",
            Self::Contested => "contested",
            Self::StationChanged => "station_changed",
            Self::FlipFlop => "flip_flop",
            Self::OwnAddress => "own_address",
            Self::DadDenial => "dad_denial",
            Self::RogueRouter => "rogue_router",
            Self::EventsLost => "events_lost",
            Self::LockedOut => "locked_out",
            Self::Verdict => "verdict",
            Self::Drift => "drift",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeAiling => "probe_ailing",
        }
    }

    /// Whether someone should look.
    pub const fn level(self) -> EventLevel {
        if (self as u8) < (Self::Spoof as u8) {
            EventLevel::Info
        } else {
            EventLevel::Alert
        }
    }
}

/// Where it happened: interface, VLAN, address. Empty where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The interface's name.
    pub interface: String,
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// The IP address.
    pub address: String,
}

/// The events that are remembered.
#[derive(Debug, Default)]
pub struct Journal {
    /// Differs for each start of the agent.
    agent: u64,
    events: VecDeque<Event>,
    samples: Samples,
    last: u64,
    groups: HashMap<(Kind, Place), Group>,
    budgets: HashMap<Kind, Budget>,
}

/// Alerts of one kind about one address.
#[derive(Debug)]
struct Group {
    /// When the window ends.
    until: Duration,
    /// Those that were told of in full.
    told: Vec<Vec<Mac>>,
    /// Since the window began, not told of.
    more: u64,
    /// Of these, the last.
    last: Vec<Mac>,
}

#[derive(Debug, Default)]
struct Budget {
    /// Theoretical arrival time (GCRA).
    paid: Duration,
    /// Not told of, and since when.
    more: u64,
    since: Duration,
}

impl Journal {
    /// That of an agent which starts now.
    pub fn new(wall: Duration) -> Self {
        Self {
            // Microseconds: a number that every reader of JSON keeps exact.
            agent: wall.as_micros() as u64,
            ..Self::default()
        }
    }

    /// Notes an event, unless it is joined to others.
    pub fn note(&mut self, kind: Kind, place: Place, macs: Vec<Mac>, text: String, now: Now) {
        if kind.level() == EventLevel::Alert {
            let group = (kind, place);
            let full = self.groups.len() >= GROUPS;
            match self.groups.get_mut(&group) {
                Some(g) if g.told.contains(&macs) || g.told.len() >= ALERTS => {
                    g.more += 1;
                    g.last = macs;
                    return;
                }
                Some(g) => g.told.push(macs.clone()),
                None if full => {
                    self.count(kind, now);
                    return;
                }
                None => {
                    let g = Group {
                        until: now.mono + WINDOW,
                        told: vec![macs.clone()],
                        more: 0,
                        last: Vec::new(),
                    };
                    self.groups.insert(group.clone(), g);
                }
            }
            return self.within_budget(kind, group.1, macs, text, now);
        }
        self.within_budget(kind, place, macs, text, now);
    }

    /// Notes a change of verdict. It is never joined to others: verdicts have a hysteresis of their own, and the next one
    /// may be another.
    pub fn note_turn(&mut self, kind: Kind, listener: String, text: String, now: Now) {
        let place = Place {
            address: listener,
            ..Place::default()
        };
        self.within_budget(kind, place, Vec::new(), text, now);
    }

    /// Tells what was joined, when its time is over.
    pub fn tick(&mut self, now: Now) {
        let mut over = Vec::new();
        self.groups.retain(|(kind, place), group| {
            if now.mono < group.until {
                return true;
            }
            if group.more == 0 {
                return false;
            }
            over.push((
                *kind,
                place.clone(),
                std::mem::take(&mut group.last),
                group.more,
            ));
            group.more = 0;
            group.until = now.mono + WINDOW;
            true
        });
        for (kind, place, macs, more) in over {
            let text = format!(
                "{more} more of the last {} s for {}, the last shown here",
                WINDOW.as_secs(),
                place.address
            );
            self.within_budget(kind, place, macs, text, now);
        }
        let mut over = Vec::new();
        for (kind, budget) in &mut self.budgets {
            if budget.more > 0 && now.mono >= budget.since + WINDOW {
                over.push((*kind, std::mem::take(&mut budget.more)));
            }
        }
        for (kind, more) in over {
            let text = format!("{more} more, too many to be told one by one");
            self.push(kind, Place::default(), &[], text, now);
        }
    }

    /// Notes a dropped packet. The kernel keeps the rate of these.
    pub fn sample(&mut self, event: DropEvent, interface: String, now: Now) {
        self.last += 1;
        self.samples.push(Sample {
            sequence: self.last,
            wall: wall_time(event.time_ns, now),
            interface,
            event,
        });
    }

    /// The events after a number, sampled drops among them; the totals are for the caller to fill in.
    pub fn after(&self, sequence: u64) -> Events {
        let from = self.events.partition_point(|e| e.sequence <= sequence);
        let mut events: Vec<_> = self.events.range(from..).cloned().collect();
        events.extend(self.samples.after(sequence).map(Sample::event));
        // Two runs that are in order already.
        events.sort_by_key(|event| event.sequence);
        Events {
            version: VERSION,
            agent: self.agent,
            last: self.last,
            forgotten: self.last.saturating_sub(sequence) - events.len() as u64,
            drops: DropTotals::default(),
            events,
        }
    }

    /// The sampled drops after a number, with their frames.
    pub fn drops_after(&self, sequence: u64, totals: DropTotals) -> Drops {
        Drops {
            version: VERSION,
            agent: self.agent,
            last: self.last,
            forgotten: self.samples.forgotten > sequence,
            totals,
            drops: self.samples.after(sequence).map(Sample::frame).collect(),
        }
    }

    /// Alerts since a time, oldest first.
    pub fn alerts_since(&self, wall: Duration) -> impl Iterator<Item = &Event> {
        let since = wall.as_millis() as u64;
        self.events
            .iter()
            .filter(move |event| event.level == EventLevel::Alert && event.at_ms >= since)
    }

    fn within_budget(&mut self, kind: Kind, place: Place, macs: Vec<Mac>, text: String, now: Now) {
        let budget = self.budgets.entry(kind).or_default();
        if budget.paid > now.mono + EVERY * (BURST - 1) {
            return self.count(kind, now);
        }
        budget.paid = budget.paid.max(now.mono) + EVERY;
        self.push(kind, place, &macs, text, now);
    }

    fn count(&mut self, kind: Kind, now: Now) {
        let budget = self.budgets.entry(kind).or_default();
        if budget.more == 0 {
            budget.since = now.mono;
        }
        budget.more += 1;
    }

    fn push(&mut self, kind: Kind, place: Place, macs: &[Mac], text: String, now: Now) {
        let name = kind.name();
        match kind.level() {
            EventLevel::Info => info!("{name}: {text}"),
            EventLevel::Alert => warn!("{name}: {text}"),
        }
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.last += 1;
        self.events.push_back(Event {
            sequence: self.last,
            at_ms: now.wall.as_millis() as u64,
            level: kind.level(),
            kind: name.to_owned(),
            interface: place.interface,
            vlan: place.vlan,
            address: place.address,
            macs: macs.iter().map(ToString::to_string).collect(),
            text,
            drop: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use net_common::verdict::Reason;

    use super::*;
    use crate::drops::SAMPLES;

    fn place(address: &str) -> Place {
        Place {
            interface: "eth0".into(),
            vlan: 0,
            address: address.into(),
        }
    }

    fn note(journal: &mut Journal, kind: Kind, address: &str, mac: u64, s: u64) {
        journal.note(
            kind,
            place(address),
            vec![Mac(mac)],
            "words".into(),
            Now::at(s),
        );
    }

    #[test]
    fn events_are_numbered_from_1_and_what_was_forgotten_is_told() {
        let mut journal = Journal::new(Duration::from_secs(7));
        assert_eq!(
            journal.after(0),
            Events {
                version: VERSION,
                agent: 7_000_000,
                last: 0,
                forgotten: 0,
                drops: DropTotals::default(),
                events: vec![]
            }
        );
        for i in 0..5000 {
            note(&mut journal, Kind::Station, "192.0.2.1", i, 1000 + 2 * i);
        }
        for (after, forgotten, first, count) in [
            (0, 904, Some(905), 4096),
            (900, 4, Some(905), 4096),
            (904, 0, Some(905), 4096),
            (905, 0, Some(906), 4095),
            (4999, 0, Some(5000), 1),
            (5000, 0, None, 0),
            (9000, 0, None, 0),
            (u64::MAX, 0, None, 0),
        ] {
            let events = journal.after(after);
            assert_eq!(
                (events.last, events.forgotten),
                (5000, forgotten),
                "after {after}"
            );
            assert_eq!(
                events.events.first().map(|e| e.sequence),
                first,
                "after {after}"
            );
            assert_eq!(events.events.len(), count, "after {after}");
        }
    }

    #[test]
    fn the_same_alert_is_told_once_a_minute_with_a_count() {
        let mut journal = Journal::default();
        for s in 0..59 {
            note(&mut journal, Kind::Spoof, "192.0.2.1", 1, s);
            journal.tick(Now::at(s));
        }
        assert_eq!(journal.last, 1);
        note(&mut journal, Kind::Spoof, "192.0.2.1", 2, 59);
        note(&mut journal, Kind::Spoof, "192.0.2.2", 1, 59);
        note(&mut journal, Kind::Contested, "192.0.2.1", 1, 59);
        assert_eq!(
            journal.last, 4,
            "other link-layer addresses, addresses and kinds are others"
        );
        journal.tick(Now::at(60));
        let told = &journal.after(4).events;
        assert_eq!((told.len(), told[0].kind.as_str()), (1, "spoof"));
        assert!(
            told[0]
                .text
                .starts_with("58 more of the last 60 s for 192.0.2.1"),
            "{told:?}"
        );
        journal.tick(Now::at(119));
        journal.tick(Now::at(121));
        assert!(journal.groups.is_empty());
        assert_eq!(journal.last, 5);
    }

    #[test]
    fn a_flood_of_claims_from_ever_new_addresses_does_not_fill_the_journal() {
        let mut journal = Journal::default();
        for i in 0..100_000_u64 {
            note(&mut journal, Kind::Spoof, "192.0.2.1", i, i / 1000);
            note(
                &mut journal,
                Kind::StationChanged,
                &format!("10.0.{}.{}", i >> 8, i & 255),
                i,
                i / 1000,
            );
            note(&mut journal, Kind::Station, "192.0.2.1", i, i / 1000);
            if i % 1000 == 0 {
                journal.tick(Now::at(i / 1000));
            }
        }
        let of = |kind: &str| journal.events.iter().filter(|e| e.kind == kind).count();
        assert!(of("spoof") <= ALERTS + 1, "{}", of("spoof"));
        assert!(of("station") <= 402, "{}", of("station"));
        assert!(of("station_changed") <= 402, "{}", of("station_changed"));
        assert!(journal.groups.len() <= GROUPS);
        let counted = |kind: &str| {
            journal
                .events
                .iter()
                .any(|e| e.kind == kind && e.text.contains("too many"))
        };
        assert!(counted("station") && counted("station_changed"));
    }

    #[test]
    fn a_flood_of_drops_displaces_no_alert() {
        let mut journal = Journal::default();
        note(&mut journal, Kind::Spoof, "192.0.2.1", 1, 0);
        let drop = crate::drops::tests::event(Reason::TcpFlags, &[2; 60], false);
        for _ in 0..100_000 {
            journal.sample(drop, "eth0".to_owned(), Now::at(1));
        }
        note(&mut journal, Kind::Spoof, "192.0.2.2", 1, 2);
        let totals = DropTotals::default();
        let events = journal.after(0);
        assert_eq!(events.events.len(), 2 + SAMPLES);
        assert_eq!(events.forgotten, 100_000 - SAMPLES as u64);
        assert_eq!((events.last, events.events[0].sequence), (100_002, 1));
        assert!(events.events.is_sorted_by_key(|e| e.sequence));
        assert_eq!(journal.after(100_001).events[0].kind, "spoof");
        assert_eq!(journal.after(100_001).forgotten, 0);
        assert_eq!(journal.after(u64::MAX).forgotten, 0);

        let first = 100_002 - SAMPLES as u64;
        for (after, forgotten, count) in [
            (0, true, SAMPLES),
            (first - 1, false, SAMPLES),
            (100_000, false, 1),
            (100_001, false, 0),
        ] {
            let drops = journal.drops_after(after, totals);
            assert_eq!(
                (drops.forgotten, drops.drops.len()),
                (forgotten, count),
                "{after}"
            );
        }
    }

    #[test]
    fn levels_are_as_promised() {
        use Kind::*;
        for kind in [
            Station,
            Learned,
            Moved,
            Pinned,
            Unpinned,
            ProbeAnswered,
            ContestOver,
        ] {
            assert_eq!(kind.level(), EventLevel::Info, "{kind:?}");
        }
        for kind in [
            Spoof,
            Contested,
            StationChanged,
            FlipFlop,
            OwnAddress,
            DadDenial,
            RogueRouter,
            EventsLost,
            LockedOut,
        ] {
            assert_eq!(kind.level(), EventLevel::Alert, "{kind:?}");
        }
    }
}
