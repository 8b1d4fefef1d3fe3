//! What is read from the kernel and the agent while an act plays.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context as _, Result};
use net_common::verdict::Reason;
use net_user::{control::queues::Verdict, host::netstat};
use procfs::{CurrentSI as _, FromRead as _, KernelStats, net::InterfaceDeviceStatus};
use serde::Serialize;

use super::{figures::Said, stage::Stage, web};
use crate::lab::Sink;

/// Everything that only grows, at one moment.
#[derive(Clone, Copy)]
pub struct Reading {
    at: Instant,
    sent: u64,
    sink: Sink,
    cpu: Cpu,
    cpus: usize,
}

/// Seconds of all CPUs together.
#[derive(Clone, Copy)]
struct Cpu {
    idle: f64,
    softirq: f64,
}

/// Rates between two readings, and the queues at the second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rates {
    /// SYNs that left the attacker.
    pub syns_per_s: f64,
    /// SYN-ACKs that came back to the flood's sources.
    pub syn_acks_per_s: f64,
    /// Share of all CPUs' time that was not idle, 0 to 1.
    pub cpu: f64,
    /// Share of all CPUs' time in soft interrupts, where the kernel receives.
    pub softirq: f64,
}

/// The listener's queues.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Queues {
    /// Handshakes that wait for the client's ACK.
    pub syn: u32,
    /// Connections that wait for nginx.
    pub accept: u32,
    /// Limit of either.
    pub limit: u32,
}

impl Reading {
    /// Reads.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take(stage: &Stage) -> Result<Self> {
        let (cpu, cpus) = Cpu::read()?;
        Ok(Self {
            at: Instant::now(),
            sent: stage.generator.generated()?,
            sink: stage.generator.sink()?,
            cpu,
            cpus,
        })
    }

    /// What went on since another reading.
    pub fn since(&self, before: &Self) -> Rates {
        let seconds = (self.at - before.at).as_secs_f64();
        let share = |now: f64, then: f64| (now - then) / (seconds * self.cpus as f64);
        Rates {
            syns_per_s: (self.sent - before.sent) as f64 / seconds,
            syn_acks_per_s: (self.sink.syn_acks - before.sink.syn_acks) as f64 / seconds,
            cpu: (1.0 - share(self.cpu.idle, before.cpu.idle)).clamp(0.0, 1.0),
            softirq: share(self.cpu.softirq, before.cpu.softirq).clamp(0.0, 1.0),
        }
    }
}

impl Cpu {
    /// With how many CPUs these are. Idle time is exact (NO_HZ); all other time is counted by what a tick of
    /// the clock meets, and what a generator does in step with the clock can hide from it.
    fn read() -> Result<(Self, usize)> {
        let stat = KernelStats::current().context("/proc/stat cannot be read")?;
        let (time, second) = (stat.total, procfs::ticks_per_second() as f64);
        let cpu = Self {
            idle: (time.idle + time.iowait.unwrap_or(0)) as f64 / second,
            softirq: time.softirq.unwrap_or(0) as f64 / second,
        };
        Ok((cpu, stat.cpu_time.len()))
    }
}

/// The queues of nginx's listener.
///
/// # Errors
/// It is gone.
pub fn queues(stage: &mut Stage) -> Result<Queues> {
    let listeners = stage.diag.listeners()?;
    let listener = listeners
        .iter()
        .find(|l| l.port == web::PORT)
        .context("nginx listens no more")?;
    let half_open = stage.diag.syn_recv_by_port()?;
    Ok(Queues {
        syn: half_open.get(&web::PORT).copied().unwrap_or(0),
        accept: listener.accept_queue,
        limit: listener.accept_limit,
    })
}

/// What netmoat says of nginx's listener now, if it runs.
///
/// # Errors
/// It does not answer, or does not know the listener.
pub fn said(stage: &Stage) -> Result<Option<Said>> {
    let Some(agent) = &stage.agent else {
        return Ok(None);
    };
    let listener = agent.listener(web::PORT)?;
    let listener = listener.context("netmoat does not know nginx's listener")?;
    let said = |verdict: &Verdict| Said {
        verdict: verdict.kind.name().to_owned(),
        sentence: verdict.sentence.clone(),
    };
    Ok(listener.verdicts.first().map(said))
}

/// What became of packets, by its name in the kernel's or the agent's counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// Who counted.
    pub by: &'static str,
    /// The counter.
    pub name: String,
    /// In words.
    pub meaning: &'static str,
    /// How many, in the act.
    pub packets: u64,
}

/// Counters of fates at one moment.
#[derive(Default)]
pub struct Fates(BTreeMap<(usize, String), (&'static str, u64)>);

const KERNEL: &str = "kernel";
const AGENT: &str = "netmoat";
const LINKS: &str = "links";
const BY: [&str; 3] = [AGENT, KERNEL, LINKS];

/// The kernel's counters of TCP handshakes.
const HANDSHAKES: [(&str, &str); 8] = [
    (
        "TcpExtTCPReqQFullDrop",
        "SYN dropped: the SYN queue was full",
    ),
    (
        "TcpExtTCPReqQFullDoCookies",
        "SYN queue full: a cookie of the kernel's own instead",
    ),
    (
        "TcpExtSyncookiesSent",
        "SYN answered with a cookie of the kernel's own",
    ),
    (
        "TcpExtSyncookiesRecv",
        "ACK that proved a cookie of the kernel's own",
    ),
    (
        "TcpExtSyncookiesFailed",
        "ACK that proved no cookie of the kernel's own",
    ),
    ("TcpExtListenOverflows", "the accept queue was full"),
    (
        "TcpExtListenDrops",
        "SYN or ACK dropped at the listener, for any reason",
    ),
    (
        "TcpExtTCPTimeouts",
        "timer ran out, such as that of a half-open connection",
    ),
];

/// What is nothing to tell: packets that have little to do with handshakes.
const USUAL: [Reason; 4] = [
    Reason::NoRule,
    Reason::UnknownEtherType,
    Reason::TcpPass,
    Reason::AckOnSocket,
];

impl Fates {
    /// Reads all of them.
    ///
    /// # Errors
    /// The kernel refuses, or the agent does not answer.
    pub fn read(stage: &Stage) -> Result<Self> {
        let mut fates = Self::default();
        if let Some(agent) = &stage.agent {
            for counter in agent.counters()?.enforced {
                let reason = Reason::ALL
                    .iter()
                    .find(|&&reason| reason as u32 == counter.code);
                if let Some(reason) = reason.filter(|reason| !USUAL.contains(reason)) {
                    fates.add(AGENT, counter.name, reason.describe(), counter.packets);
                }
            }
        }
        let counters = stage.server.ns.run(netstat::counters)?;
        for (name, meaning) in HANDSHAKES {
            fates.add(
                KERNEL,
                name.to_owned(),
                meaning,
                counters.get(name).copied().unwrap_or(0),
            );
        }
        let hosts = [&stage.server, &stage.client, &stage.attacker];
        for ns in hosts
            .map(|host| &host.ns)
            .into_iter()
            .chain([stage.lan.bridge()])
        {
            // Not /proc/net: that is the namespace of the process's first thread.
            let links = ns.run(|| InterfaceDeviceStatus::from_file("/proc/thread-self/net/dev"))?;
            let dropped = links
                .0
                .values()
                .map(|link| link.recv_drop + link.sent_drop)
                .sum();
            let role = ns.name().rsplit('-').next().unwrap_or_default();
            fates.add(
                LINKS,
                format!("{role}_dropped"),
                "frame dropped at an interface, or its ring full",
                dropped,
            );
        }
        Ok(fates)
    }

    fn add(&mut self, by: &'static str, name: String, meaning: &'static str, packets: u64) {
        let rank = BY.iter().position(|&known| known == by).unwrap_or(BY.len());
        self.0.insert((rank, name), (meaning, packets));
    }

    /// What was counted since an earlier reading; nothing that was not.
    pub fn since(&self, before: &Self) -> Vec<Fate> {
        let grown = self.0.iter().map(|(key, &(meaning, packets))| {
            let then = before.0.get(key).map_or(0, |&(_, packets)| packets);
            Fate {
                by: BY.get(key.0).copied().unwrap_or_default(),
                name: key.1.clone(),
                meaning,
                packets: packets.saturating_sub(then),
            }
        });
        grown.filter(|fate| fate.packets > 0).collect()
    }
}
