//! What travels over the control socket about the queues of listeners; see [`super::protocol`].
//!
//! Where a figure is an `Option`, null means that its source is missing; [`Queues::sources`] says why.

use serde::{Deserialize, Serialize};

use crate::config::SynMode;

/// The queues of every listener, and what they share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Every TCP listener of this network namespace; a reuseport group is one.
    pub listeners: Vec<ListenerQueues>,
    /// What belongs to no single listener.
    #[serde(default)]
    pub host: HostQueues,
    /// Where the figures come from, and what is missing.
    #[serde(default)]
    pub sources: Vec<Source>,
}

/// One listener: its queues, its connections to the end of their lives, and what the data path did for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerQueues {
    /// The local address as bound; `0.0.0.0` or `::` for all.
    pub address: String,
    /// The local port.
    pub port: u16,
    /// Family of the socket, 4 or 6.
    pub family: u8,
    /// Whether a socket of family 6 takes IPv4 too.
    #[serde(default)]
    pub dual_stack: bool,
    /// The interface it is bound to (SO_BINDTODEVICE), by name; null for any.
    #[serde(default)]
    pub interface: Option<String>,
    /// The policy for this port.
    pub mode: SynMode,
    /// Whether it gets cookies when it needs them.
    pub protected: bool,
    /// Why it does not.
    pub why_not: Option<String>,
    /// Whether SYNs to it are answered with cookies at present.
    pub cookies_now: bool,
    /// Handshakes that wait for the client's ACK (request sockets). Listeners that share a port and an address that was
    /// dialled share these (R-Q-6).
    pub syn_queue: u32,
    /// Their limit (R-Q-2): that of the accept queue.
    pub syn_queue_limit: u32,
    /// Of these, whose client has answered already: TCP_DEFER_ACCEPT waits for data (R-Q-7).
    #[serde(default)]
    pub syn_queue_acked: u32,
    /// Age of the oldest of those that wait for an ACK, milliseconds; null when there is none.
    #[serde(default)]
    pub syn_queue_oldest_ms: Option<u64>,
    /// Connections that wait for accept(), of all its sockets.
    pub accept_queue: u32,
    /// Their limit (the listen backlog), of all its sockets; each holds one more (R-Q-1).
    pub accept_queue_limit: u32,
    /// Whether the accept queue of any of its sockets is full: the application does not keep up.
    pub accept_full: bool,
    /// All SYNs to it that XDP saw.
    #[serde(default)]
    pub syns: u64,
    /// SYNs left to the kernel inside the budget.
    pub syns_passed: u64,
    /// SYN cookies sent.
    pub cookies_sent: u64,
    /// ACKs that proved a cookie.
    pub cookies_proven: u64,
    /// ACKs that proved none.
    pub cookies_failed: u64,
    /// Proven ACKs turned into connections.
    pub handshakes: u64,
    /// Proven ACKs for which the kernel refused one.
    pub handshakes_refused: u64,
    /// SYNs not answered because the accept queue was full.
    pub accept_full_drops: u64,
    /// SYNs not answered because their prefix had its share of SYN-ACKs.
    pub syn_ack_limited: u64,
    /// Its sockets; several in a reuseport group.
    #[serde(default)]
    pub sockets: Vec<ListenerSocket>,
    /// Over the last ten seconds.
    #[serde(default)]
    pub rates: Rates,
    /// From the first SYN to the end, since netmoat looks.
    #[serde(default)]
    pub funnel: Funnel,
    /// Its connections by TCP state, at the last walk of the kernel's table; null before the first.
    #[serde(default)]
    pub states: Option<States>,
    /// From the first SYN-ACK to the client's ACK, of the kernel's own handshakes; a cookie leaves no time to measure
    /// from.
    #[serde(default)]
    pub handshake: Option<Histogram>,
    /// From the completed handshake to `accept()`.
    #[serde(default)]
    pub accept_wait: Option<AcceptWait>,
    /// SYN-ACKs that were sent again.
    #[serde(default)]
    pub syn_ack_retransmits: Option<u64>,
    /// Connections whose SYN-ACK had been sent more than once.
    #[serde(default)]
    pub established_late: Option<u64>,
    /// Resets that its peers sent.
    #[serde(default)]
    pub resets_received: Option<u64>,
    /// Different sources of its SYNs in the last ten seconds, estimated by a sketch to within a tenth or so.
    #[serde(default)]
    pub distinct_sources: Option<u64>,
    /// Who sends most of its SYNs, from a sample; the busiest first, at most eight.
    #[serde(default)]
    pub top_sources: Vec<TopSource>,
    /// How many SYNs a second are left to the kernel, in mode `auto`.
    #[serde(default)]
    pub budget: Option<Budget>,
    /// Kernel settings, and what each means for this listener.
    #[serde(default)]
    pub settings: Vec<Setting>,
    /// When an unanswered SYN-ACK is sent again, milliseconds after the first.
    #[serde(default)]
    pub syn_ack_schedule_ms: Vec<u64>,
    /// How long a half-open connection lives, milliseconds.
    #[serde(default)]
    pub half_open_life_ms: u64,
    /// What is going on; the gravest first, never empty but from an agent of another version.
    #[serde(default)]
    pub verdicts: Vec<Verdict>,
}

/// One listening socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSocket {
    /// Its inode, as `ss -e` shows it.
    pub inode: u32,
    /// Who listens; null while it is not known. Of several processes that share the socket the first.
    pub process: Option<Owner>,
    /// Connections that wait for accept().
    pub accept_queue: u32,
    /// Their limit.
    pub accept_queue_limit: u32,
    /// Segments dropped at this socket since it listens (`sk_drops`, ListenDrops among them).
    pub drops: u32,
}

/// A process that holds a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub name: String,
    /// Its systemd unit, or the last part of its control group; null where there is none.
    pub unit: Option<String>,
}

/// Events a second, each rounded to the nearest; 0 is less than one in two seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// SYNs that XDP saw.
    pub syns: u64,
    /// Cookies sent.
    pub cookies: u64,
    /// Connections completed.
    pub connections: u64,
    /// Connections accepted by the application.
    pub accepted: u64,
    /// Connections that ended other than in order.
    pub resets: u64,
    /// Segments dropped at its sockets.
    pub drops: u64,
    /// SYN-ACKs sent again.
    pub syn_ack_retransmits: u64,
}

/// From the first SYN to the end. Each stage counts since netmoat knows the listener; what was there before is in none but
/// `open`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Funnel {
    /// Since when, seconds.
    pub since_s: u64,
    /// SYNs seen at XDP; null where XDP does not count them (not protected).
    pub syns: Option<u64>,
    /// Of these, answered with a cookie of netmoat.
    pub answered_cookie: Option<u64>,
    /// Of these, left to the kernel.
    pub left_to_kernel: Option<u64>,
    /// Not answered: accept queue full, or the prefix had its share.
    pub not_answered: Option<u64>,
    /// Connections completed, by a cookie of netmoat or of the kernel or by the kernel's own handshake.
    pub proven: Option<u64>,
    /// Of these, by a cookie of netmoat.
    pub proven_cookie: Option<u64>,
    /// Of those completed, accepted by the application.
    pub accepted: Option<u64>,
    /// Ended in order: both ends sent their FIN.
    pub closed: Option<u64>,
    /// Ended otherwise: reset by either end, or timed out.
    pub reset: Option<u64>,
    /// Still open, at the last walk of the kernel's table.
    pub open: Option<u64>,
}

/// Connections by TCP state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct States {
    /// SYN_SENT, of connections that this host opens.
    pub syn_sent: u32,
    /// Half-open.
    pub syn_recv: u32,
    /// ESTABLISHED.
    pub established: u32,
    /// FIN_WAIT_1: we closed, and our FIN is not acknowledged.
    pub fin_wait_1: u32,
    /// Of these, whose FIN is being sent again.
    pub fin_wait_1_retransmitting: u32,
    /// FIN_WAIT_2: the peer has not closed.
    pub fin_wait_2: u32,
    /// Of these, without a process; they end after `tcp_fin_timeout` (R-Q-8).
    pub fin_wait_2_orphaned: u32,
    /// CLOSING.
    pub closing: u32,
    /// CLOSE_WAIT: the peer closed, and the application does not.
    pub close_wait: u32,
    /// Of these, accepted and for longer than [`CLOSE_WAIT_OLD_S`] seconds.
    pub close_wait_old: u32,
    /// LAST_ACK: both closed, and our FIN is not acknowledged.
    pub last_ack: u32,
    /// Of these, whose FIN is being sent again.
    pub last_ack_retransmitting: u32,
    /// TIME_WAIT.
    pub time_wait: u32,
}

/// From when on a connection in CLOSE_WAIT counts as forgotten, seconds.
pub const CLOSE_WAIT_OLD_S: u64 = 10;

/// Times by buckets of powers of two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// How many were measured.
    pub count: u64,
    /// Half of them took no longer, microseconds: the upper end of the bucket; null when there are none.
    pub p50_us: Option<u64>,
    /// Nine of ten.
    pub p90_us: Option<u64>,
    /// 99 of 100.
    pub p99_us: Option<u64>,
    /// The buckets that are not empty, shortest first.
    pub buckets: Vec<Bucket>,
}

/// One bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its upper end, microseconds; its lower end is that of the one before.
    pub below_us: u64,
    /// How many.
    pub count: u64,
}

/// How long connections wait for `accept()`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptWait {
    /// Mean over the last ten seconds, microseconds: the mean length of the queue by the rate at which it is emptied (Little's
    /// law); null while nobody came, or none was accepted.
    pub mean_us: Option<u64>,
    /// Lower bound of how long the first in the queue has waited, milliseconds; 0 when it is empty.
    pub oldest_ms: u64,
    /// Of single connections, as far as they can be told apart: the queue is first in, first out, and is looked at every 50 ms.
    pub histogram: Histogram,
}

/// A source of SYNs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopSource {
    /// Its address.
    pub address: String,
    /// Its share of the sampled SYNs, per thousand.
    pub per_mille: u32,
}

/// The budget of plain handshakes of a listener in mode `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// In force, SYNs a second, in thousandths.
    pub milli_per_second: u64,
    /// As configured.
    pub configured_milli_per_second: u64,
    /// Half-open connections that were estimated when it was last set.
    pub estimated_syn_queue: u32,
}

/// A kernel setting, and its effect here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// As sysctl names it, such as `net.core.somaxconn`.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What it does to this listener, in plain words.
    pub effect: String,
}

/// What is going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its stable name.
    pub kind: VerdictKind,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// One sentence.
    pub sentence: String,
    /// What it follows from, with figures.
    pub evidence: Vec<String>,
    /// How sure it is.
    pub confidence: Confidence,
    /// What to do; empty when there is nothing to do.
    pub fixes: Vec<Fix>,
}

/// The kinds of verdict, healthy first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// Nothing is wrong.
    #[default]
    Healthy,
    /// TIME_WAIT is at its limit, so that connections skip it.
    TimeWaitPressure,
    /// Honest clients come in bursts that the accept queue cannot hold, though the application keeps up.
    BacklogTooSmall,
    /// SYN-ACKs, or what answers them, get lost.
    SynAckLoss,
    /// The application never closes what its peers have closed.
    CloseWaitLeak,
    /// No local port is left for another connection to a destination.
    PortExhaustion,
    /// The application accepts slower than connections come.
    SlowApp,
    /// More connections are completed than the listener ever had; their sources are real.
    ConnectionFlood,
    /// SYNs that nobody means to complete.
    SynFlood,
    /// The application does not accept.
    AcceptFull,
}

impl VerdictKind {
    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::TimeWaitPressure => "time_wait_pressure",
            Self::BacklogTooSmall => "backlog_too_small",
            Self::SynAckLoss => "syn_ack_loss",
            Self::CloseWaitLeak => "close_wait_leak",
            Self::PortExhaustion => "port_exhaustion",
            Self::SlowApp => "slow_app",
            Self::ConnectionFlood => "connection_flood",
            Self::SynFlood => "syn_flood",
            Self::AcceptFull => "accept_full",
        }
    }
}

/// How sure a verdict is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// It fits, and other causes do too.
    #[default]
    Low,
    /// It fits best.
    Medium,
    /// Nothing else looks like it.
    High,
}

impl Confidence {
    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fix {
    /// In plain words.
    pub what: String,
    /// A command, or a line of configuration; null where words are all there is.
    pub command: Option<String>,
}

/// What belongs to no single listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostQueues {
    /// The kernel's counters that concern queues, by the names of nstat, since the host's start; and since netmoat looks.
    pub counters: Vec<HostCounter>,
    /// All TCP sockets by state, at the last walk; null before the first.
    pub states: Option<States>,
    /// TIME_WAIT now (`/proc/net/sockstat`).
    pub time_wait: u32,
    /// Its limit, `net.ipv4.tcp_max_tw_buckets`.
    pub time_wait_limit: u32,
    /// How many there are to be at the present rate of closing: what enters it a second, by 60 s.
    pub time_wait_expected: Option<u64>,
    /// Connections without a process (`/proc/net/sockstat`), of all network namespaces.
    pub orphans: u32,
    /// Local ports for connections that this host opens.
    pub ephemeral_ports: u32,
    /// The destinations that most of them go to, at most eight.
    pub destinations: Vec<Destination>,
    /// Processes with most TCP sockets, at most sixteen; empty where they cannot be told.
    pub processes: Vec<ProcessStates>,
    /// What was lost before it came to the queues.
    pub loss: Loss,
    /// Of the host; healthy ones are left out.
    pub verdicts: Vec<Verdict>,
}

/// A counter of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCounter {
    /// As nstat names it, such as `TcpExtListenOverflows`.
    pub name: String,
    /// Since the network namespace was made.
    pub total: u64,
    /// Since netmoat looks.
    pub since: u64,
    /// A second, over the last ten, rounded.
    pub per_second: u64,
}

/// A destination that this host opens connections to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Ports of this host in use for it, TIME_WAIT among them.
    pub ports_used: u32,
    /// Of these in TIME_WAIT.
    pub time_wait: u32,
}

/// The TCP sockets of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStates {
    /// The process.
    pub process: Owner,
    /// Its sockets by state; those that were not accepted yet belong to nobody.
    pub states: States,
}

/// What was lost before it came to the queues, since netmoat looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Interfaces with the program on them; without an agent all but loopback.
    pub interfaces: Vec<InterfaceLoss>,
    /// `/proc/net/softnet_stat`, of all interfaces and namespaces, one a CPU.
    pub softnet: Vec<SoftnetLoss>,
}

/// What one interface lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceLoss {
    /// Its name.
    pub name: String,
    /// Packets received.
    pub packets: u64,
    /// Counters of lost packets that are not zero, by name: those of the kernel (`rx_dropped`, `rx_missed_errors`) and of the
    /// driver.
    pub lost: Vec<NamedCount>,
    /// Packets by receive queue, from the driver; empty where it does not tell.
    pub queues: Vec<u64>,
    /// Share of the busiest queue, per thousand; null for less than two queues or a hundred packets.
    pub busiest_queue_per_mille: Option<u32>,
}

/// A name with a count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCount {
    /// The name.
    pub name: String,
    /// The count.
    pub count: u64,
}

/// What one CPU did and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoftnetLoss {
    /// The CPU.
    pub cpu: u32,
    /// Packets processed.
    pub processed: u64,
    /// Dropped as the backlog (`net.core.netdev_max_backlog`) was full.
    pub dropped: u64,
    /// Times that polling ended with work left (`net.core.netdev_budget`).
    pub squeezed: u64,
}

/// Where figures come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its stable name: `sock_diag`, `walk`, `counters`, `tracepoint`, `retransmits`, `resets`, `xdp`, `processes`, `driver`.
    pub name: String,
    /// What it tells, in plain words.
    pub tells: String,
    /// Why it is missing, with the remedy; null when it works.
    pub missing: Option<String>,
    /// Age of its figures, milliseconds; null before the first.
    pub age_ms: Option<u64>,
    /// What the last look cost, microseconds.
    pub cost_us: u64,
}

/// What `tune` would change, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Settings of the kernel.
    pub changes: Vec<Change>,
    /// What only the operator can change: the application's backlog, the application.
    pub advice: Vec<Fix>,
    /// Settings that were changed by `--apply` and not reverted yet.
    pub applied: Vec<Applied>,
}

/// A setting of the kernel that would be changed, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// As sysctl names it.
    pub name: String,
    /// Its value now, or before the change.
    pub from: String,
    /// Its value after it.
    pub to: String,
    /// Why, with the verdict and the listener it follows from.
    pub why: String,
    /// What became of it; null where it was only proposed.
    #[serde(default)]
    pub outcome: Option<String>,
}

/// A setting that `tune --apply` changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// As sysctl names it.
    pub name: String,
    /// Its value before netmoat first changed it.
    pub before: String,
    /// The value that netmoat set.
    pub set: String,
    /// When, seconds since 1970.
    pub at: u64,
}

/// Body of `POST /v1/tune`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tune {
    /// Apply the proposals, or revert what was applied.
    pub action: TuneAction,
    /// Only for listeners that this names; see [`crate::queues::Selector`].
    #[serde(default)]
    pub listener: Option<String>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TuneAction {
    /// Set what is proposed, and remember what was.
    Apply,
    /// Set what was.
    Revert,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::control::protocol::VERSION;

    #[test]
    fn the_json_of_queues_grows_and_keeps_what_it_had() {
        let queues = Queues {
            version: VERSION,
            listeners: vec![ListenerQueues {
                address: "0.0.0.0".to_owned(),
                port: 443,
                family: 4,
                mode: SynMode::Auto,
                protected: true,
                why_not: None,
                cookies_now: true,
                syn_queue: 1,
                syn_queue_limit: 511,
                accept_queue: 2,
                accept_queue_limit: 511,
                accept_full: false,
                syns_passed: 3,
                cookies_sent: 4,
                cookies_proven: 5,
                cookies_failed: 6,
                handshakes: 7,
                handshakes_refused: 8,
                accept_full_drops: 9,
                syn_ack_limited: 10,
                ..ListenerQueues::default()
            }],
            ..Queues::default()
        };
        let expected = json!({
            "version": 1,
            "listeners": [{
                "address": "0.0.0.0", "port": 443, "family": 4, "mode": "auto", "protected": true,
                "why_not": null, "cookies_now": true, "syn_queue": 1, "syn_queue_limit": 511,
                "accept_queue": 2, "accept_queue_limit": 511, "accept_full": false, "syns_passed": 3,
                "cookies_sent": 4, "cookies_proven": 5, "cookies_failed": 6, "handshakes": 7,
                "handshakes_refused": 8, "accept_full_drops": 9, "syn_ack_limited": 10
            }]
        });
        let told = serde_json::to_value(&queues).unwrap();
        for (name, value) in expected["listeners"][0].as_object().unwrap() {
            assert_eq!(&told["listeners"][0][name], value, "{name}");
        }
        assert_eq!(serde_json::from_value::<Queues>(told).unwrap(), queues);
        // Of an agent that knows no more.
        assert_eq!(serde_json::from_value::<Queues>(expected).unwrap(), queues);
    }
}
