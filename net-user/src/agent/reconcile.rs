//! The reconciler: what stands in the kernel against what the agent has put there, every few seconds and after each change
//! that the kernel tells of. What differs is set right, counted, logged and told.
//!
//! A comparison costs about 0.1 µs for each entry of the maps and two calls for each interface: a few hundred
//! microseconds on a common host, some 10 ms with every map full.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tracing::warn;

use super::Agent;
use crate::{control::protocol::DriftAtAGlance, host::links::Link, neighbor::Now};

/// How often everything is compared.
const EVERY: Duration = Duration::from_secs(5);
/// Least time between two comparisons, however many changes there are.
const PAUSE: Duration = Duration::from_secs(1);
/// How long `status` is degraded after something was set right: whoever changed it may still be there.
const TOLD: Duration = Duration::from_secs(600);
/// Fewer packets than that say nothing about counters that stand still.
const LEAST_PACKETS: u64 = 16;
/// So many looks in a row.
const LOOKS: u32 = 2;
/// A heartbeat that was written before is late; it is written twice a second.
const LATE: Duration = Duration::from_secs(3);

/// When the last comparison was, and what came of all.
#[derive(Debug)]
pub(super) struct Reconciler {
    looked: Option<Instant>,
    /// Something has changed since.
    changed: bool,
    repaired: u64,
    last: Option<(Instant, String)>,
    pulse: Pulse,
    /// When the heartbeat was written last.
    beaten: Option<Instant>,
}

impl Reconciler {
    pub(super) fn new() -> Self {
        Self {
            looked: None,
            changed: false,
            repaired: 0,
            last: None,
            pulse: Pulse::default(),
            beaten: None,
        }
    }

    /// Something may be other than it was.
    pub(super) fn hurry(&mut self) {
        self.changed = true;
    }

    /// The data path was told that the agent lives.
    pub(super) fn has_beaten(&mut self) {
        self.beaten = Some(Instant::now());
    }

    fn is_due(&mut self) -> bool {
        let after = if self.changed { PAUSE } else { EVERY };
        let due = self.looked.is_none_or(|at| at.elapsed() >= after);
        if due {
            self.looked = Some(Instant::now());
            self.changed = false;
        }
        due
    }

    /// What `status` says: everything since the start.
    pub(super) fn glance(&self) -> DriftAtAGlance {
        DriftAtAGlance {
            repaired: self.repaired,
            last: self.last.as_ref().map(|(_, text)| text.clone()),
            last_s: self.last.as_ref().map(|(at, _)| at.elapsed().as_secs()),
        }
    }

    /// What `status` says for a while after something was set right.
    pub(super) fn problem(&self) -> Option<String> {
        let (at, text) = self.last.as_ref()?;
        let ago = at.elapsed();
        (ago < TOLD).then(|| {
            format!(
                "drift: something else had changed what netmoat put into the kernel, which was set right {} s ago ({text}); \
                 find out who did (`netmoat events`, other BPF tools); this stands here for {} s",
                ago.as_secs(),
                TOLD.as_secs()
            )
        })
    }
}

impl Agent {
    /// Compares and sets right, when it is time.
    pub(super) fn reconcile(&mut self, links: &[Link]) {
        if !self.reconciler.is_due() {
            return;
        }
        let mended = self.maps.mend();
        let (mut found, mut entries) = (Vec::new(), 0);
        if let Some(drifts) = self.note("drift", mended) {
            entries += drifts.iter().map(|d| d.entries() as u64).sum::<u64>();
            found.extend(drifts.iter().map(ToString::to_string));
        }
        for text in self.lists_that_drifted() {
            entries += 1;
            found.push(text);
        }
        for text in self.mend_interfaces(links) {
            entries += 1;
            found.push(text);
        }
        if !found.is_empty() {
            let text = found.join("; ");
            match Now::read() {
                Ok(now) => self.neighbors.drifted(
                    format!(
                        "something else had changed what netmoat put into the kernel, and it was set right: {text}"
                    ),
                    now,
                ),
                Err(_) => warn!("drift, set right: {text}"),
            }
            self.reconciler.repaired += entries;
            self.reconciler.last = Some((Instant::now(), text));
        }
        let felt = self.feel_pulse(links);
        self.note("counters", felt);
    }

    /// Counters that stand still while packets arrive: the programs do not see them.
    fn feel_pulse(&mut self, links: &[Link]) -> Result<()> {
        let counted = self.maps.counters()?.iter().sum();
        let rx = self.interfaces.iter().filter_map(|i| {
            let link = links.iter().find(|link| link.index == i.ifindex)?;
            Some((i.ifindex, link.rx_packets))
        });
        match self.reconciler.pulse.feel(rx.collect(), counted) {
            None => Ok(()),
            Some(packets) => Err(anyhow!(
                "{packets} packets have arrived and the programs have counted none; see `bpftool prog show` and \
                 `ip -details link`, and restart netmoat"
            )),
        }
    }

    /// Whether the data path does its work: every program is where it was put, there is something to protect unless
    /// nothing is wanted now, the heartbeat is written, and the counters move with the traffic.
    pub(super) fn data_path_alive(&self) -> bool {
        self.is_attached() && self.has_pulse()
    }

    /// Whether a new start might do better than this agent, for the watchdog: not over one of several interfaces, nor over
    /// one that is gone, which is attached to when it is back.
    pub(super) fn is_worth_keeping(&self) -> bool {
        !self.is_shut_out() && self.has_pulse()
    }

    fn has_pulse(&self) -> bool {
        let beaten = self.reconciler.beaten;
        self.reconciler.pulse.still < LOOKS && beaten.is_none_or(|at| at.elapsed() < LATE)
    }
}

/// Whether the programs see what the interfaces receive.
#[derive(Debug, Default)]
struct Pulse {
    /// Packets received, by interface.
    rx: HashMap<u32, u64>,
    counted: u64,
    /// Looks in a row at which packets had arrived and none was counted.
    still: u32,
    /// Packets since the first of these.
    unseen: u64,
}

impl Pulse {
    /// Gives how many packets were not seen, once there is no doubt. Interfaces that are new count from the next look on.
    fn feel(&mut self, rx: HashMap<u32, u64>, counted: u64) -> Option<u64> {
        let arrived = rx.iter().filter_map(|(index, now)| {
            let before = self.rx.get(index)?;
            Some(now.saturating_sub(*before))
        });
        let arrived: u64 = arrived.sum();
        if counted != self.counted {
            self.still = 0;
            self.unseen = 0;
        } else if arrived >= LEAST_PACKETS {
            self.still += 1;
            self.unseen += arrived;
        }
        self.rx = rx;
        self.counted = counted;
        (self.still >= LOOKS).then_some(self.unseen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_stand_still_under_traffic_are_told_after_two_looks() {
        let mut pulse = Pulse::default();
        let mut feel = |rx: u64, counted| pulse.feel(HashMap::from([(2, rx)]), counted);
        assert_eq!(
            feel(1000, 7),
            None,
            "the first look has nothing to compare with"
        );
        assert_eq!(feel(1100, 7), None, "one look may be chance");
        assert_eq!(feel(1200, 7), Some(200));
        assert_eq!(feel(1203, 7), Some(200), "a few packets change nothing");
        assert_eq!(feel(1300, 8), None, "they move again");
        assert_eq!(feel(1310, 8), None);
        assert_eq!(feel(1320, 8), None, "hardly any traffic proves nothing");
    }

    #[test]
    fn an_interface_that_is_new_or_begins_to_count_anew_is_no_traffic() {
        let mut pulse = Pulse::default();
        pulse.feel(HashMap::from([(2, 1000)]), 7);
        for rx in [[(3, 5000)], [(3, 10)], [(4, 9000)]] {
            assert_eq!(pulse.feel(HashMap::from(rx), 7), None);
        }
        assert_eq!(pulse.still, 0);
    }

    #[test]
    fn changes_bring_a_comparison_forward_but_not_two_within_a_second() {
        let mut reconciler = Reconciler::new();
        assert!(reconciler.is_due());
        assert!(!reconciler.is_due());
        reconciler.hurry();
        assert!(!reconciler.is_due(), "too early");
        let ago = |ago: Duration| Instant::now().checked_sub(ago);
        reconciler.looked = ago(PAUSE);
        assert!(reconciler.is_due());
        reconciler.looked = ago(PAUSE);
        assert!(!reconciler.is_due(), "nothing has changed");
        reconciler.looked = ago(EVERY);
        assert!(reconciler.is_due());
    }

    #[test]
    fn status_tells_of_drift_for_ten_minutes() {
        let mut reconciler = Reconciler::new();
        assert_eq!(reconciler.problem(), None);
        reconciler.last = Some((Instant::now(), "LISTENERS: 1 changed".to_owned()));
        let problem = reconciler.problem().unwrap();
        assert!(problem.starts_with("drift: ") && problem.contains("LISTENERS: 1 changed"));
        let long_ago = Instant::now().checked_sub(TOLD).unwrap();
        reconciler.last = Some((long_ago, String::new()));
        assert_eq!(reconciler.problem(), None);
    }
}
