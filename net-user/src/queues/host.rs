//! What is kept of the host.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    facts::HostLately,
    history::{History, rounded},
    looks::{HostLook, LossLook, QueueSettings, Walk},
    verdict::Held,
};
use crate::control::queues::{
    Destination, HostCounter, HostQueues, InterfaceLoss, Loss, NamedCount, SoftnetLoss, States,
};

/// The kernel's counters that concern queues, by the names of nstat.
const COUNTERS: [&str; 17] = [
    "TcpExtListenOverflows",
    "TcpExtListenDrops",
    "TcpExtSyncookiesSent",
    "TcpExtSyncookiesRecv",
    "TcpExtSyncookiesFailed",
    "TcpExtTCPReqQFullDoCookies",
    "TcpExtTCPReqQFullDrop",
    "TcpExtTCPTimeWaitOverflow",
    "TcpExtTCPSynRetrans",
    "TcpExtTCPTimeouts",
    "TcpExtTCPAbortOnMemory",
    "TcpPassiveOpens",
    "TcpAttemptFails",
    "TcpEstabResets",
    "TcpExtTW",
    "TcpExtTWRecycled",
    "TcpExtTWKilled",
];
const OVERFLOWS: usize = 0;
const COOKIES_SENT: usize = 2;
const COOKIES_PROVEN: usize = 3;
const QUEUE_FULL_DROPS: usize = 6;
const TIME_WAIT_OVERFLOWS: usize = 7;
const PASSIVE_OPENS: usize = 11;
/// Counts those that enter TIME_WAIT, when they do, whatever its name says (`__inet_twsk_schedule`, since Linux 4.1).
const TIME_WAITED: usize = 14;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub held: Held,
    look: Option<HostLook>,
    first: Option<[u64; COUNTERS.len()]>,
    history: History<{ COUNTERS.len() }>,
    states: Option<States>,
    destinations: Vec<Destination>,
    first_loss: Option<Loss>,
    loss: Loss,
}

impl Host {
    /// Takes the kernel's counters and settings.
    pub fn look(&mut self, now: Instant, look: HostLook) {
        let counts = COUNTERS.map(|name| look.counters.get(name).copied().unwrap_or_default());
        self.first.get_or_insert(counts);
        self.history.push(now, counts);
        self.look = Some(look);
    }

    /// Takes what a walk tells of all sockets.
    pub fn walk(&mut self, walk: &Walk) {
        self.states = Some(walk.states);
        self.destinations.clone_from(&walk.destinations);
    }

    /// Takes absolute counts of what was lost below.
    pub fn loss(&mut self, look: LossLook) {
        let first = self.first_loss.get_or_insert_with(|| look.clone());
        self.loss = since(first, look);
    }

    /// The kernel's settings; what a kernel starts with while they are not known.
    pub fn settings(&self) -> QueueSettings {
        self.look
            .as_ref()
            .map_or_else(usual, |look| look.settings.clone())
    }

    /// The last ten seconds.
    pub fn lately(&self) -> HostLately {
        let grown = |which| self.history.grown(which);
        HostLately {
            span: self.history.span(),
            overflows: grown(OVERFLOWS),
            overflows_elsewhere: 0,
            cookies_sent: grown(COOKIES_SENT),
            cookies_proven: grown(COOKIES_PROVEN),
            queue_full_drops: grown(QUEUE_FULL_DROPS),
            passive_opens: grown(PASSIVE_OPENS),
            time_wait_overflows: grown(TIME_WAIT_OVERFLOWS),
        }
    }

    /// What enters TIME_WAIT a second, by 60 s.
    fn time_wait_expected(&self) -> Option<u64> {
        let told = self.history.span() >= Duration::from_secs(1);
        told.then(|| rounded(self.history.rate(TIME_WAITED) * 60.0))
    }

    /// Its report, but for processes and verdicts.
    pub fn report(&self) -> HostQueues {
        let settings = self.settings();
        let look = self.look.as_ref();
        let (first, last) = settings.local_port_range;
        let ports = (u32::from(last) + 1).saturating_sub(first.into());
        let known = |name: &str| look.is_some_and(|look| look.counters.contains_key(name));
        HostQueues {
            counters: COUNTERS
                .iter()
                .enumerate()
                .filter(|(_, name)| known(name))
                .map(|(which, name)| {
                    let total = self.history.last(which);
                    HostCounter {
                        name: (*name).to_owned(),
                        total,
                        since: total.saturating_sub(self.first.map_or(0, |first| first[which])),
                        per_second: rounded(self.history.rate(which)),
                    }
                })
                .collect(),
            states: self.states,
            time_wait: look.map_or(0, |look| look.time_wait),
            time_wait_limit: settings.max_tw_buckets,
            time_wait_expected: self.time_wait_expected(),
            orphans: look.map_or(0, |look| look.orphans),
            ephemeral_ports: ports.saturating_sub(settings.reserved_ports),
            destinations: self.destinations.clone(),
            loss: self.loss.clone(),
            ..HostQueues::default()
        }
    }
}

/// What kernels since 5.4 start with.
fn usual() -> QueueSettings {
    QueueSettings {
        somaxconn: 4096,
        max_syn_backlog: 4096,
        synack_retries: 5,
        syncookies: 1,
        fin_timeout: 60,
        max_tw_buckets: 65_536,
        tw_reuse: 2,
        local_port_range: (32_768, 60_999),
        ..QueueSettings::default()
    }
}

/// What was lost since the first look; an interface or CPU that came later counts whole.
fn since(first: &Loss, now: Loss) -> Loss {
    let interface = |now: InterfaceLoss| {
        let Some(first) = first.interfaces.iter().find(|i| i.name == now.name) else {
            return now;
        };
        let before: HashMap<_, _> = first.lost.iter().map(|c| (&*c.name, c.count)).collect();
        let lost = now.lost.into_iter().filter_map(|c| {
            let count = c
                .count
                .saturating_sub(before.get(&*c.name).copied().unwrap_or(0));
            (count > 0).then_some(NamedCount { count, ..c })
        });
        let queues: Vec<u64> = now
            .queues
            .iter()
            .enumerate()
            .map(|(queue, n)| n.saturating_sub(first.queues.get(queue).copied().unwrap_or(0)))
            .collect();
        InterfaceLoss {
            packets: now.packets.saturating_sub(first.packets),
            lost: lost.collect(),
            busiest_queue_per_mille: busiest(&queues),
            queues,
            name: now.name,
        }
    };
    let softnet = |now: SoftnetLoss| {
        let first = first.softnet.iter().find(|cpu| cpu.cpu == now.cpu);
        let first = first.copied().unwrap_or_default();
        SoftnetLoss {
            cpu: now.cpu,
            processed: now.processed.saturating_sub(first.processed),
            dropped: now.dropped.saturating_sub(first.dropped),
            squeezed: now.squeezed.saturating_sub(first.squeezed),
        }
    };
    Loss {
        interfaces: now.interfaces.into_iter().map(interface).collect(),
        softnet: now.softnet.into_iter().map(softnet).collect(),
    }
}

/// Share of the busiest receive queue, per thousand; `None` for less than two queues or a hundred packets.
fn busiest(queues: &[u64]) -> Option<u32> {
    let all: u64 = queues.iter().sum();
    let most = queues.iter().max()?;
    let share = u128::from(*most) * 1000 / u128::from(all.max(1));
    (queues.len() >= 2 && all >= 100).then(|| u32::try_from(share).unwrap_or(1000))
}
