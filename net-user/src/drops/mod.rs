//! Dropped packets of which the data path told, and what there is to say of a frame.

pub mod pcapng;
pub mod rate;
pub mod seen;

use std::{collections::VecDeque, time::Duration};

use net_common::{
    abi::DropEvent,
    sources::Share,
    verdict::{Action, Reason},
};

use crate::{
    control::{
        drops::{DropDetails, DropTotals, DroppedFrame, hex},
        protocol::{Event, EventLevel},
    },
    neighbor::Now,
    reasons::share_name,
};
use seen::Seen;

/// Samples that are remembered: some 350 KB, and at the default rates all that comes in more than two seconds of an
/// attack that has every reason there is.
pub const SAMPLES: usize = 1024;
/// The stable name of the kind of these events.
pub const KIND: &str = "drop";

/// A packet that was dropped, or would have been.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its number among all events.
    pub sequence: u64,
    /// When, since 1970.
    pub wall: Duration,
    /// The interface's name.
    pub interface: String,
    /// What the data path told.
    pub event: DropEvent,
}

/// The event in the octets that the ring buffer holds; None for another length, which the programs never write.
pub fn read_event(octets: &[u8]) -> Option<DropEvent> {
    if octets.len() != size_of::<DropEvent>() {
        return None;
    }
    // SAFETY: the length was checked, every pattern of bits is a DropEvent (integers, no padding), and no alignment is
    // asked for.
    Some(unsafe { octets.as_ptr().cast::<DropEvent>().read_unaligned() })
}

/// When an event of the coarse monotonic clock was, since 1970.
pub fn wall_time(time_ns: u64, now: Now) -> Duration {
    let mono = Duration::from_nanos(time_ns);
    // The event may be younger than `now`.
    if mono > now.mono {
        now.wall + (mono - now.mono)
    } else {
        now.wall.saturating_sub(now.mono - mono)
    }
}

impl Sample {
    fn octets(&self) -> &[u8] {
        let event = &self.event;
        let captured = usize::from(event.captured).min(event.frame.len());
        &event.frame[..captured]
    }

    fn name(&self) -> &'static str {
        Reason::from_number(self.event.reason).map_or("unknown", Reason::name)
    }

    fn share(&self) -> Option<&'static str> {
        share_name(Share::from_number(self.event.share.into()))
    }

    /// What `netmoat events` tells of it.
    pub fn event(&self) -> Event {
        let seen = Seen::of(self.octets(), self.event.len as usize);
        let (name, code, observed) = (self.name(), self.event.reason, self.event.observed != 0);
        let done = if observed { "would drop" } else { "dropped" };
        // Short: it stands in every line of a flood.
        let share = self
            .share()
            .map_or(String::new(), |share| format!(" by {share}"));
        Event {
            sequence: self.sequence,
            at_ms: self.wall.as_millis() as u64,
            level: EventLevel::Info,
            kind: KIND.to_owned(),
            interface: self.interface.clone(),
            vlan: seen.vlan,
            address: seen.source.map_or(String::new(), |ip| ip.to_string()),
            macs: [&seen.source_mac]
                .into_iter()
                .filter(|mac| !mac.is_empty())
                .cloned()
                .collect(),
            text: format!("{done}, {name} ({code}){share}: {}", seen.line),
            drop: Some(DropDetails {
                code,
                reason: name.to_owned(),
                observed,
                share: self.share().map(str::to_owned),
                length: self.event.len,
                seen,
            }),
        }
    }

    /// What `netmoat capture` writes.
    pub fn frame(&self) -> DroppedFrame {
        DroppedFrame {
            sequence: self.sequence,
            at_s: self.wall.as_secs(),
            at_ns: self.wall.subsec_nanos(),
            ifindex: self.event.ifindex,
            interface: self.interface.clone(),
            code: self.event.reason,
            reason: self.name().to_owned(),
            observed: self.event.observed != 0,
            share: self.share().map(str::to_owned),
            length: self.event.len,
            frame: hex(self.octets()),
        }
    }
}

/// The last samples.
#[derive(Debug, Default)]
pub struct Samples {
    kept: VecDeque<Sample>,
    /// Number of the last one that was forgotten; 0 for none.
    pub forgotten: u64,
}

impl Samples {
    /// Keeps one more, and forgets the oldest when there is no room.
    pub fn push(&mut self, sample: Sample) {
        if self.kept.len() == SAMPLES
            && let Some(oldest) = self.kept.pop_front()
        {
            self.forgotten = oldest.sequence;
        }
        self.kept.push_back(sample);
    }

    /// Those after a number, oldest first.
    pub fn after(&self, sequence: u64) -> impl ExactSizeIterator<Item = &Sample> {
        let from = self.kept.partition_point(|s| s.sequence <= sequence);
        self.kept.range(from..)
    }
}

/// How much of what was dropped the agent was told; from the counter map's cells.
pub fn totals(cells: &[u64]) -> DropTotals {
    let count = |at: usize| cells.get(at).copied().unwrap_or(0);
    let drops = Reason::ALL
        .iter()
        .filter(|reason| reason.action() == Action::Drop)
        .map(|&reason| count(reason as usize) + count(Reason::ALL.len() + reason as usize))
        .sum::<u64>();
    let told = count(Reason::DropEventSent as usize);
    let lost = count(Reason::DropEventLost as usize);
    DropTotals {
        packets: drops,
        told,
        lost,
        // The counters are read one after the other, while packets come.
        not_sampled: drops.saturating_sub(told + lost),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event of a frame, as the data path writes it.
    pub(crate) fn event(reason: Reason, frame: &[u8], observed: bool) -> DropEvent {
        let mut event = DropEvent {
            time_ns: 5_000_000_007,
            reason: reason as u32,
            ifindex: 3,
            len: frame.len() as u32,
            captured: frame.len().min(net_common::abi::DROP_FRAME) as u16,
            observed: observed.into(),
            share: 0,
            frame: [0; net_common::abi::DROP_FRAME],
        };
        let captured = usize::from(event.captured);
        event.frame[..captured].copy_from_slice(&frame[..captured]);
        event
    }

    fn sample(sequence: u64) -> Sample {
        Sample {
            sequence,
            wall: Duration::from_nanos(1_700_000_000_123_456_789),
            interface: "eth0".to_owned(),
            event: event(Reason::TcpFlags, &[0x22; 300], true),
        }
    }

    #[test]
    fn an_event_is_read_from_its_octets_only() {
        let event = event(Reason::TcpFlags, &[7; 300], false);
        // SAFETY: a DropEvent is integers without padding, as its size assertion shows.
        let octets = unsafe {
            std::slice::from_raw_parts((&raw const event).cast::<u8>(), size_of::<DropEvent>())
        };
        assert_eq!(read_event(octets), Some(event));
        assert_eq!(read_event(&octets[1..]), None);
        assert_eq!(read_event(&[]), None);
    }

    #[test]
    fn the_times_of_events_are_turned_into_wall_time() {
        let now = Now::at(100);
        for (time_ns, wall_ns) in [
            (100_000_000_000, 1_700_000_100_000_000_000_u64),
            (99_999_999_999, 1_700_000_099_999_999_999),
            (100_000_000_001, 1_700_000_100_000_000_001),
        ] {
            assert_eq!(
                wall_time(time_ns, now),
                Duration::from_nanos(wall_ns),
                "{time_ns}"
            );
        }
    }

    #[test]
    fn what_is_captured_is_told_with_its_whole_length() {
        let frame = sample(9).frame();
        assert_eq!((frame.length, frame.frame.len()), (300, 512));
        assert_eq!(
            (frame.at_s, frame.at_ns, frame.observed),
            (1_700_000_000, 123_456_789, true)
        );
        let told = sample(9).event();
        assert!(
            told.text.starts_with("would drop, tcp_flags (16): "),
            "{}",
            told.text
        );
        assert_eq!(told.drop.unwrap().share, None);
        let mut sample = sample(9);
        sample.event.share = Share::Pool as u8;
        let told = sample.event();
        assert!(
            told.text
                .starts_with("would drop, tcp_flags (16) by pool: "),
            "{}",
            told.text
        );
        assert_eq!(told.drop.unwrap().share.as_deref(), Some("pool"));
        assert_eq!(sample.frame().share.as_deref(), Some("pool"));
    }

    #[test]
    fn the_last_samples_are_kept_and_the_others_forgotten() {
        let mut samples = Samples::default();
        for sequence in 1..=SAMPLES as u64 + 5 {
            samples.push(sample(sequence * 2));
        }
        assert_eq!((samples.after(0).len(), samples.forgotten), (SAMPLES, 10));
        assert_eq!(samples.after(12).next().map(|s| s.sequence), Some(14));
        assert_eq!(samples.after(13).next().map(|s| s.sequence), Some(14));
        assert_eq!(samples.after(u64::MAX).len(), 0);
    }

    #[test]
    fn what_was_not_sampled_is_what_is_left() {
        let mut cells = vec![0; net_common::verdict::COUNTERS as usize];
        cells[Reason::TcpPass as usize] = 1000;
        cells[Reason::TcpFlags as usize] = 50;
        cells[Reason::ALL.len() + Reason::Blocked as usize] = 7;
        cells[Reason::DropEventSent as usize] = 20;
        cells[Reason::DropEventLost as usize] = 3;
        let expected = DropTotals {
            packets: 57,
            told: 20,
            lost: 3,
            not_sampled: 34,
        };
        assert_eq!(totals(&cells), expected);
        assert_eq!(totals(&[]), DropTotals::default());
    }
}
