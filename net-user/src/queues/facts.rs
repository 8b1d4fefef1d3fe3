//! What the rules judge: a report's figures, and what the last ten seconds add to them.

use std::{net::IpAddr, time::Duration};

use super::{accept::Sums, looks::QueueSettings};
use crate::{
    canaries::Witness,
    control::queues::{ListenerQueues, Owner},
};

/// All that a rule may look at for one listener.
pub(super) struct Facts<'a> {
    /// Its report, as far as it goes without verdicts.
    pub queues: &'a ListenerQueues,
    /// The window.
    pub lately: &'a Lately,
    /// The kernel's settings; defaults of the kernel while they are not known.
    pub settings: &'a QueueSettings,
    /// The kernel's counters.
    pub host: &'a HostLately,
    /// What probes say that go there.
    pub witnesses: &'a [Witness],
    /// One short look: no trend is known.
    pub once: bool,
}

/// A listener over the last ten seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Lately {
    /// Its accept queue.
    pub accept: Sums,
    /// Whether arrivals are counted; else they are lower bounds.
    pub counted: bool,
    /// Segments dropped at its sockets.
    pub drops: u64,
    /// A socket whose queue is full and from which nothing is taken.
    pub stuck: Option<Stuck>,
    /// What the data path saw; `None` where it does not count.
    pub data: Option<Data>,
    /// What the tracepoint saw; `None` where it does not count.
    pub flows: Option<Flows>,
    /// Completed connections a second that are usual here; `None` until they are known.
    pub usual: Option<f64>,
    /// What the walks of the connection table add; `None` before the first.
    pub walk: Option<Walked>,
}

/// A socket whose application does not accept.
#[derive(Clone, Debug, Default)]
pub(super) struct Stuck {
    /// Who listens.
    pub process: Option<Owner>,
    /// How many wait.
    pub waiting: u32,
    /// The limit.
    pub limit: u32,
    /// For how long the queue has been full at every look.
    pub full: Duration,
    /// Lower bound of how long the first has waited.
    pub oldest: Duration,
    /// Other sockets of the group that work.
    pub others: usize,
}

/// Deltas of the data path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Data {
    /// Over this time.
    pub span: Duration,
    /// SYNs seen.
    pub syns: u64,
    /// Cookies sent.
    pub sent: u64,
    /// Cookies proven.
    pub proven: u64,
    /// SYNs not answered as the accept queue was full.
    pub accept_full: u64,
}

/// Deltas of the tracepoints.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flows {
    /// Over this time.
    pub span: Duration,
    /// Connections completed.
    pub established: u64,
    /// Of these, after a SYN-ACK had been sent again.
    pub late: u64,
}

/// What the walks found.
#[derive(Clone, Debug, Default)]
pub(super) struct Walked {
    /// How many walks there were of this listener.
    pub walks: u32,
    /// Request sockets whose SYN-ACK was sent again at least once.
    pub resent: u32,
    /// At least twice.
    pub resent_twice: u32,
    /// The least of these in this walk and the one before.
    pub resent_twice_lasting: u32,
    /// The peer with most open connections.
    pub busiest: Option<(IpAddr, u32)>,
    /// Different peers, as far as they were counted.
    pub peers: u32,
    /// How often in a row connections forgotten in CLOSE_WAIT grew from walk to walk without falling.
    pub close_wait_grew: u32,
    /// Who holds these, most first.
    pub forgetful: Vec<(Owner, u32)>,
}

/// The kernel's counters over the last ten seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostLately {
    /// Over this time; zero where they are not known.
    pub span: Duration,
    /// `TcpExtListenOverflows`.
    pub overflows: u64,
    /// Of these, what other listeners explain: drops at those whose accept queues are often full.
    pub overflows_elsewhere: u64,
    /// `TcpExtSyncookiesSent`.
    pub cookies_sent: u64,
    /// `TcpExtSyncookiesRecv`.
    pub cookies_proven: u64,
    /// `TcpExtTCPReqQFullDrop`.
    pub queue_full_drops: u64,
    /// `TcpPassiveOpens`: connections that came to any listener.
    pub passive_opens: u64,
    /// `TcpExtTCPTimeWaitOverflow`.
    pub time_wait_overflows: u64,
}

impl Facts<'_> {
    /// Connections that came while the queue was full: drops at its sockets that the kernel calls overflows (R-Q-3), and SYNs
    /// that netmoat left unanswered for it.
    pub fn overflows(&self) -> u64 {
        let sockets = if self.host.span.is_zero() {
            self.lately.drops
        } else {
            let here = self
                .host
                .overflows
                .saturating_sub(self.host.overflows_elsewhere);
            self.lately.drops.min(here)
        };
        sockets + self.lately.data.map_or(0, |data| data.accept_full)
    }

    /// Of the looks, how many found the queue half full or more, per cent.
    pub fn half_full(&self) -> u64 {
        super::words::per_cent(
            self.lately.accept.half.into(),
            self.lately.accept.looks.into(),
        )
    }

    /// Whether the accept queue was full in a fifth of the looks, or is: what it refuses waits among the half-open (R-Q-7).
    pub fn accept_queue_full(&self) -> bool {
        let sums = &self.lately.accept;
        self.queues.accept_full || sums.full * 5 >= sums.looks.max(1)
    }

    /// Half-open connections whose client has not answered.
    pub fn unanswered(&self) -> u32 {
        self.queues
            .syn_queue
            .saturating_sub(self.queues.syn_queue_acked)
    }

    /// How many half-open connections the kernel takes (R-Q-2): with cookies off it keeps the last quarter of
    /// tcp_max_syn_backlog for peers it knows.
    pub fn syn_limit(&self) -> u32 {
        let limit = self.queues.syn_queue_limit;
        match self.settings.syncookies {
            0 => limit.min(self.settings.max_syn_backlog - self.settings.max_syn_backlog / 4),
            _ => limit,
        }
    }

    /// Who listens; the first of several.
    pub fn owner(&self) -> Option<&Owner> {
        self.queues.sockets.iter().find_map(|s| s.process.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_listener_overflows_is_not_told_of_another_that_dropped_something() {
        let lately = Lately {
            drops: 14,
            ..Lately::default()
        };
        let queues = ListenerQueues::default();
        let settings = QueueSettings::default();
        for (overflows_elsewhere, overflows) in [(0, 14), (784, 8), (792, 0), (900, 0)] {
            let host = HostLately {
                span: Duration::from_secs(10),
                overflows: 792,
                overflows_elsewhere,
                ..HostLately::default()
            };
            let facts = Facts {
                queues: &queues,
                lately: &lately,
                settings: &settings,
                host: &host,
                witnesses: &[],
                once: false,
            };
            assert_eq!(facts.overflows(), overflows, "{overflows_elsewhere}");
        }
    }
}
