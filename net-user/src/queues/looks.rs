//! What is looked at, and how often.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use net_common::abi::{FlowStats, ListenerStats, SKETCH_CELLS};

use crate::{
    config::SynMode,
    control::queues::{Budget, Destination, Loss, Owner, ProcessStates, States, TopSource},
    host::sock_diag::ListenSocket,
    listeners::Identity,
};

/// A listener at one time; a reuseport group is one. Counts are since the data path knows it.
#[derive(Clone, Debug)]
pub struct ListenerLook {
    /// Which one.
    pub identity: Identity,
    /// Its sockets.
    pub sockets: Vec<ListenSocket>,
    /// The name of the interface it is bound to.
    pub interface: Option<String>,
    /// The policy for its port.
    pub mode: SynMode,
    /// Whether it gets cookies when it needs them.
    pub protected: bool,
    /// Why it does not.
    pub why_not: Option<String>,
}

/// What the data path counted for a listener; `None` in a look means that it is not counted.
#[derive(Clone, Copy, Debug)]
pub struct DataPathLook {
    /// At XDP and TC; only of protected listeners.
    pub stats: Option<ListenerStats>,
    /// By the tracepoint of state changes.
    pub flows: Option<FlowStats>,
    /// The sources of its SYNs since the last look of this kind; only of protected listeners.
    pub sketch: Option<[u32; SKETCH_CELLS]>,
}

/// What the kernel counts for the whole network namespace.
#[derive(Clone, Debug, Default)]
pub struct HostLook {
    /// By the names of nstat.
    pub counters: HashMap<String, u64>,
    /// `TCP: tw` of `/proc/net/sockstat`.
    pub time_wait: u32,
    /// `TCP: orphan` of the same, of all namespaces.
    pub orphans: u32,
    /// The kernel's settings.
    pub settings: QueueSettings,
}

/// Sysctls that decide over queues (`Documentation/networking/ip-sysctl.rst`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSettings {
    /// `net.core.somaxconn`.
    pub somaxconn: u32,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub max_syn_backlog: u32,
    /// `net.ipv4.tcp_synack_retries`.
    pub synack_retries: u32,
    /// `net.ipv4.tcp_syncookies`.
    pub syncookies: u8,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub abort_on_overflow: bool,
    /// `net.ipv4.tcp_fin_timeout`, seconds.
    pub fin_timeout: u32,
    /// `net.ipv4.tcp_max_tw_buckets`.
    pub max_tw_buckets: u32,
    /// `net.ipv4.tcp_tw_reuse`: 0 off, 1 on, 2 for loopback.
    pub tw_reuse: u8,
    /// `net.ipv4.tcp_orphan_retries`, 0 meaning 8.
    pub orphan_retries: u32,
    /// `net.ipv4.ip_local_port_range`, first and last.
    pub local_port_range: (u16, u16),
    /// Ports in that range which are reserved (`net.ipv4.ip_local_reserved_ports`).
    pub reserved_ports: u32,
    /// `net.core.netdev_max_backlog`; `None` where the kernel hides it from a namespace.
    pub netdev_max_backlog: Option<u32>,
}

/// The whole table of connections, walked at most every [`super::WALK_EVERY`] and at a bounded cost.
#[derive(Clone, Debug)]
pub struct Walk {
    /// When it ended.
    pub at: Instant,
    /// How long it took.
    pub cost: Duration,
    /// False when it was ended at its bound of sockets: counts are lower bounds.
    pub complete: bool,
    /// By listener, those without connections left out.
    pub listeners: HashMap<Identity, ListenerWalk>,
    /// All sockets.
    pub states: States,
    /// Destinations of connections that this host opened, most ports first, at most eight.
    pub destinations: Vec<Destination>,
}

/// The connections of one listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerWalk {
    /// By state; `syn_recv` counts request sockets.
    pub states: States,
    /// Of the request sockets, whose client has answered (TCP_DEFER_ACCEPT): they have outlived their first timer, and their
    /// SYN-ACK was sent only once.
    pub acked: u32,
    /// Age of the oldest request socket that was not acknowledged.
    pub oldest: Option<Duration>,
    /// Request sockets by how often their SYN-ACK was sent again; the last place is for that often or more.
    pub by_retransmits: [u32; 8],
    /// The peer with most open connections, and their number.
    pub busiest_peer: Option<(IpAddr, u32)>,
    /// Different peers with open connections, as far as they were counted.
    pub peers: u32,
    /// Inodes of sockets in CLOSE_WAIT for longer than `CLOSE_WAIT_OLD_S`, at most 64.
    pub close_wait_inodes: Vec<u32>,
}

/// Who holds which sockets, and what a look into /proc found of every process.
#[derive(Clone, Debug, Default)]
pub struct OwnersLook {
    /// By inode, of listeners and of the sockets in CLOSE_WAIT that were asked for.
    pub owners: HashMap<u32, Owner>,
    /// Processes with most TCP sockets, by state.
    pub processes: Vec<ProcessStates>,
    /// Why some could not be looked into.
    pub missing: Option<String>,
}

/// What probes say of the listeners that they go to.
pub type WitnessesLook = HashMap<Identity, Vec<crate::canaries::Witness>>;

/// What was lost below, as absolute counts.
pub type LossLook = Loss;

/// Sources of SYNs of a listener, from the sampled log.
pub type SourcesLook = HashMap<Identity, Vec<TopSource>>;

/// Budgets in force.
pub type BudgetsLook = HashMap<Identity, Budget>;
