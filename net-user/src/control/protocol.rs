//! What travels over the control socket, and the requests that the server hands to the agent's one task.
//!
//! The JSON is an interface: a field is added, never renamed or given another meaning. [`VERSION`] changes
//! only when that cannot be kept.

use net_common::verdict::{Action, COUNTERS, Reason};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use std::net::IpAddr;

use super::changes::{ConfigShown, Confirmed, PendingChange, Reload, Reloaded};
use super::drops::{DropDetails, DropTotals, Drops, ExplainFrame, FrameExplained};
use super::lists::{ListRequest, ListsAtAGlance};
use super::probes::{Probes, ProbesAtAGlance};
pub use super::queues::{ListenerQueues, Queues};
use super::queues::{Tune, Tuning};
use super::watch::{WatchAsk, WatchBegun, WatchSeen};
use crate::config::{GuardMode, HumanDuration, Mode, XdpMode, guards::ReversePath};
use crate::privileges::Privileges;

/// Version of the types below, in every answer.
pub const VERSION: u32 = 1;

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// A request to the task that owns the maps.
#[derive(Debug)]
pub enum Request {
    /// `GET /v1/status`
    Status(Reply<Status>),
    /// `GET /v1/counters`
    Counters(Reply<Counters>),
    /// `GET /v1/queues`
    Queues(Reply<Queues>),
    /// `GET /v1/tune?listener=SELECTOR`: what would be changed
    Tuning(Option<String>, Reply<Tuning>),
    /// `POST /v1/tune`
    Tune(Tune, Reply<Tuning>),
    /// `POST /v1/mode`
    SetMode(SetMode, Reply<ModeChanged>),
    /// `POST /v1/reload`
    Reload(Reload, Reply<Reloaded>),
    /// `POST /v1/confirm`
    Confirm(Reply<Confirmed>),
    /// `GET /v1/config`
    Config(Reply<ConfigShown>),
    /// `POST /v1/keys/rotate`
    RotateKeys {
        /// Rotate even if that breaks handshakes that are pending.
        force: bool,
        /// Where the answer goes.
        reply: Reply<KeysRotated>,
    },
    /// `GET /v1/neighbors?history=1`
    Neighbors {
        /// With what happened to each.
        history: bool,
        /// Where the answer goes.
        reply: Reply<Neighbors>,
    },
    /// `POST /v1/neighbors/pin`
    PinNeighbor(PinNeighbor, Reply<NeighborsChanged>),
    /// `POST /v1/neighbors/unpin`
    UnpinNeighbor(UnpinNeighbor, Reply<NeighborsChanged>),
    /// `GET /v1/neighbors/audit`, and with `repair` `POST /v1/neighbors/repair`
    AuditNeighbors {
        /// Mend what is poisoned.
        repair: bool,
        /// Where the answer goes.
        reply: Reply<NeighborAudit>,
    },
    /// `GET /v1/events?after=SEQUENCE`
    Events {
        /// Only events with a higher sequence number.
        after: u64,
        /// Where the answer goes.
        reply: Reply<Events>,
    },
    /// `/v1/lists` and what is below
    Lists(ListRequest),
    /// `GET /v1/drops?after=SEQUENCE`, for those who may write: frames are what others have sent
    Drops {
        /// Only samples with a higher sequence number.
        after: u64,
        /// Where the answer goes.
        reply: Reply<Drops>,
    },
    /// `POST /v1/detach`
    Detach(Reply<Detached>),
    /// `GET /v1/probes`
    Probes(Reply<Probes>),
    /// `POST /v1/explain`
    Explain(ExplainFrame, Reply<FrameExplained>),
    /// `POST /v1/watch`, of the user with this number
    Watch(u32, WatchAsk, Reply<WatchBegun>),
    /// `GET /v1/watch/ID`
    Watched(u64, Reply<WatchSeen>),
}

/// Why the agent did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It could, but will not now; says why and what to do. Status 409.
    #[error("{0}")]
    Refused(String),
    /// It failed. Status 500.
    #[error("{0}")]
    Failed(String),
}

/// Body of `POST /v1/mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetMode {
    /// The mode wanted.
    pub mode: Mode,
    /// Even if it locks someone out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// The former mode returns after so long without a confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<HumanDuration>,
}

impl SetMode {
    /// For good, unless it locks someone out.
    pub const fn to(mode: Mode) -> Self {
        Self {
            mode,
            force: false,
            confirm_within: None,
        }
    }
}

/// Body of `POST /v1/keys/rotate`; an empty body means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// Rotate even if that breaks handshakes that are pending.
    #[serde(default)]
    pub force: bool,
}

/// Body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// [`VERSION`].
    pub version: u32,
    /// Plain words, with the remedy.
    pub error: String,
}

/// Health at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The agent's version.
    pub netmoat_version: String,
    /// The agent's process id.
    pub pid: u32,
    /// Since when the agent runs, seconds.
    pub uptime_s: u64,
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Whether all that is configured is in force.
    pub health: Health,
    /// What is wrong, in plain words with the remedy; empty when health is ok.
    pub problems: Vec<String>,
    /// The interfaces attached to.
    pub interfaces: Vec<InterfaceStatus>,
    /// Listeners that get cookies when they need them.
    pub listeners_protected: u32,
    /// Listeners that the kernel answers alone, by policy or because cookies do not fit them.
    pub listeners_left_to_kernel: u32,
    /// Whether a cookie was sent in this or the previous epoch.
    pub cookies_active: bool,
    /// Age of the cookie key in use, seconds.
    pub keys_age_s: u64,
    /// The guards of ARP and neighbour discovery.
    pub neighbors: NeighborsAtAGlance,
    /// The guards of IP, ICMP, UDP and TCP.
    #[serde(default)]
    pub guards: GuardsAtAGlance,
    /// Block and allow lists.
    #[serde(default)]
    pub lists: ListsAtAGlance,
    /// Dropped packets.
    #[serde(default)]
    pub drops: DropsAtAGlance,
    /// What waits for `netmoat confirm`; absent when nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingChange>,
    /// What the agent may do, and what it has given up.
    #[serde(default)]
    pub privileges: Privileges,
    /// Interfaces that the config means and that are not protected.
    #[serde(default)]
    pub interfaces_missing: Vec<MissingInterface>,
    /// What is as it may be, in plain words: patterns that match nothing, interfaces that are left out.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What was changed in the kernel by something else.
    #[serde(default)]
    pub drift: DriftAtAGlance,
    /// Whether the programs are where they were put, the heartbeat is written and the counters move with the traffic.
    #[serde(default)]
    pub data_path_alive: bool,
    /// How full the maps are that can be full.
    #[serde(default)]
    pub maps: Vec<MapFill>,
    /// The agent's own probes.
    #[serde(default)]
    pub probes: ProbesAtAGlance,
}

/// An interface that the config means and that is not protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingInterface {
    /// Its name.
    pub name: String,
    /// Why, in plain words with the remedy.
    pub why: String,
}

/// What `status` says of what others have changed in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftAtAGlance {
    /// Entries of maps and programs on interfaces that were set right since the agent's start.
    pub repaired: u64,
    /// What was set right last, in plain words.
    pub last: Option<String>,
    /// How long ago that was, seconds.
    pub last_s: Option<u64>,
}

/// How full a map is; `netmoat check -o json` says what happens when it is full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// Its name.
    pub name: String,
    /// Entries that it has.
    pub used: u64,
    /// Most entries.
    pub capacity: u64,
}

/// What `status` says of dropped packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsAtAGlance {
    /// Those that were dropped.
    pub enforced: DropRate,
    /// Those that passed, as the agent or the guard only observes.
    pub observed: DropRate,
}

/// How many packets were dropped, and how fast.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRate {
    /// Since the programs were loaded.
    pub packets: u64,
    /// A second, over the last seconds, rounded up.
    pub per_second: u64,
    /// The name of the reason that most of these have; null when there are none.
    pub mostly: Option<String>,
}

/// What `status` says of neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborsAtAGlance {
    /// Mode of the ARP guard, as it is in force: no more than observe while the agent only observes.
    pub arp: GuardMode,
    /// Mode of the NDP guard, likewise.
    pub ndp: GuardMode,
    /// Whether only listed routers may send router advertisements.
    pub ra_guard: bool,
    /// Bindings that claims are held to.
    pub protected: u32,
    /// Bindings that are still being learned.
    pub learning: u32,
    /// Bindings of which it is unclear who has them.
    pub contested: u32,
    /// Of these the next hops of default routes, with their interfaces, in plain words.
    #[serde(default)]
    pub contested_gateways: Vec<String>,
    /// Alerts of the last [`ALERTS_OF_S`] seconds.
    pub alerts: u32,
    /// The last of them, in plain words.
    pub last_alert: Option<String>,
}

/// What `status` says of the guards of IP, ICMP, UDP and TCP. Modes are as they are in force: no more than observe while
/// the agent only observes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardsAtAGlance {
    /// Mode of the guard of IP headers, fragments and sources.
    pub ip: GuardMode,
    /// Mode of the guard of ICMP.
    pub icmp: GuardMode,
    /// Mode of the guard of UDP.
    pub udp: GuardMode,
    /// Mode of the guard of TCP segments without a socket and of connections per source.
    pub tcp: GuardMode,
    /// Whether the way back to a source is asked for.
    pub reverse_path: ReversePath,
    /// What keeps segments without a socket from being judged, in plain words; null when they are, or the guard is off.
    pub strays_left_alone: Option<String>,
    /// Whether segments without a socket are an attack now.
    pub stray_attack: bool,
    /// Own addresses that the guards look after.
    pub own_addresses: u32,
    /// Resolvers and time servers whose answers are not limited.
    pub servers: u32,
    /// The table of known sources.
    pub sources: SourcesAtAGlance,
}

/// What `status` says of known sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcesAtAGlance {
    /// Places of the table.
    pub places: u32,
    /// Sources known by having been seen for a while.
    pub steady: u32,
    /// Sources that this host asked for something.
    pub asked: u32,
    /// Sources that completed a handshake.
    pub proven: u32,
    /// Sources that lost their place to one that proved more, since the programs were loaded.
    pub replaced: u64,
    /// Times that a source found no place, since the programs were loaded.
    pub refused: u64,
}

/// How far back `status` counts alerts, seconds.
pub const ALERTS_OF_S: u64 = 600;

impl Status {
    /// Whether all that is configured is in force. A probe that fails is a problem, but of whom it probes: each has one sentence
    /// among the problems.
    pub fn is_in_force(&self) -> bool {
        self.health == Health::Ok || self.problems.len() <= self.probes.failed as usize
    }
}

/// Whether all that is configured is in force, and no probe fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It is.
    Ok,
    /// Something is not, or one does; `problems` says what.
    Degraded,
}

/// One attached interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// How XDP is attached: native or generic.
    pub xdp_mode: XdpMode,
    /// Id of the XDP program, as bpftool shows it.
    pub xdp_program_id: u32,
    /// Id of the TC program.
    pub tc_program_id: u32,
    /// Id of the TC egress program.
    #[serde(default)]
    pub tc_egress_program_id: u32,
    /// Its MTU, octets.
    pub mtu: u32,
    /// Whether it is administratively up.
    #[serde(default)]
    pub up: bool,
    /// Whether the link below it works.
    #[serde(default)]
    pub carrier: bool,
    /// Packets received since it was made, as its driver counts them.
    #[serde(default)]
    pub rx_packets: u64,
    /// The entry of `interfaces` that means it.
    #[serde(default)]
    pub pattern: String,
    /// What is wrong with it, in plain words; null when all programs are on it.
    #[serde(default)]
    pub problem: Option<String>,
}

/// Packets by reason since the programs were loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// [`VERSION`].
    pub version: u32,
    /// Verdicts that were carried out.
    pub enforced: Vec<Counter>,
    /// Verdicts of observe mode: what would have been done; the packets passed.
    pub observed: Vec<Counter>,
}

/// Packets that met one fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The reason's number; `netmoat explain` knows it.
    pub code: u32,
    /// The reason's name.
    pub name: String,
    /// `pass`, `drop`, `reply` or `note`.
    pub action: String,
    /// How many.
    pub packets: u64,
}

impl Counters {
    /// From the counter map's cells, summed over the CPUs: one a reason as enforced, then one a reason as
    /// observed. Missing cells count as zero.
    pub fn from_cells(cells: &[u64]) -> Self {
        debug_assert_eq!(cells.len(), COUNTERS as usize);
        let section = |offset: usize| {
            Reason::ALL
                .iter()
                .enumerate()
                .map(|(i, &reason)| {
                    Counter::new(reason, cells.get(offset + i).copied().unwrap_or(0))
                })
                .collect()
        };
        Self {
            version: VERSION,
            enforced: section(0),
            observed: section(Reason::ALL.len()),
        }
    }
}

impl Counter {
    /// The count of one reason.
    pub fn new(reason: Reason, packets: u64) -> Self {
        Self {
            code: reason as u32,
            name: reason.name().to_owned(),
            action: action_name(reason.action()).to_owned(),
            packets,
        }
    }
}

/// An action's name in JSON and tables.
pub const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::Reply => "reply",
        Action::Note => "note",
    }
}

/// Answer to `POST /v1/mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeChanged {
    /// [`VERSION`].
    pub version: u32,
    /// The mode until now.
    pub before: Mode,
    /// The mode from now on.
    pub mode: Mode,
    /// How long the change waits for its confirmation, seconds; absent when it is for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_s: Option<u64>,
}

/// Answer to `POST /v1/detach`; the agent has ended then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// [`VERSION`].
    pub version: u32,
    /// Where the programs were.
    pub interfaces: Vec<String>,
}

/// Answer to `POST /v1/keys/rotate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRotated {
    /// [`VERSION`].
    pub version: u32,
    /// How long the key before was in use, seconds. It is honoured until the next rotation.
    pub previous_key_age_s: u64,
}

/// The bindings and the guards' modes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbors {
    /// [`VERSION`].
    pub version: u32,
    /// Mode of the ARP guard, as it is in force: no more than observe while the agent only observes.
    pub arp: GuardMode,
    /// Mode of the NDP guard, likewise.
    pub ndp: GuardMode,
    /// Whether only listed routers may send router advertisements.
    pub ra_guard: bool,
    /// Every binding but those of own addresses.
    pub bindings: Vec<NeighborBinding>,
}

/// A neighbour's address and where it may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborBinding {
    /// Its IP address.
    pub address: String,
    /// The attached interface.
    pub interface: String,
    /// VLAN id of its frames, 0 for untagged.
    pub vlan: u16,
    /// The link-layer addresses it may be at; empty while nothing is known.
    pub macs: Vec<String>,
    /// Where the binding is from.
    pub origin: BindingOrigin,
    /// What is known of it.
    pub state: BindingState,
    /// May send router advertisements while the RA guard is on.
    pub router: bool,
    /// Since it answered a request last, seconds; null for not since the agent's start.
    pub answered_s: Option<u64>,
    /// Claims of others to it that were found to be false.
    pub spoofs: u64,
    /// What happened to it, oldest first, the last 32 entries; empty unless it was asked for.
    pub history: Vec<BindingHistory>,
}

/// Where a binding is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingOrigin {
    /// `[[neighbor]]` in the config.
    Config,
    /// `netmoat neighbor pin`.
    Pinned,
    /// Learned, as the next hop of a default route.
    Learned,
}

/// What is known of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingState {
    /// Its link-layer address is not known yet; nothing is held to it.
    Learning,
    /// Claims are held to it.
    Protected,
    /// Protected, and the recorded holder is being asked about a contradicting claim.
    Asking,
    /// Several hosts answer for it, or the recorded holder is silent and nobody takes its place. Protected if
    /// link-layer addresses are recorded.
    Contested,
    /// The guard that would judge claims of it is off: nothing is held to it.
    Unguarded,
    /// It is an address of this host, and guarded as such: what is recorded has no effect.
    Own,
}

/// One line of a binding's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingHistory {
    /// When, seconds since 1970.
    pub at: u64,
    /// In plain words.
    pub what: String,
}

/// Body of `POST /v1/neighbors/pin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinNeighbor {
    /// Its IP address.
    pub address: IpAddr,
    /// The link-layer addresses it may be at, as `02:00:00:00:00:01`, 1 to 8. Empty pins what was learned.
    pub macs: Vec<String>,
    /// The attached interface; every one when absent.
    #[serde(default)]
    pub interface: Option<String>,
    /// VLAN id of its frames, 0 for untagged.
    #[serde(default)]
    pub vlan: u16,
    /// May send router advertisements while the RA guard is on.
    #[serde(default)]
    pub router: bool,
}

/// Body of `POST /v1/neighbors/unpin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpinNeighbor {
    /// Its IP address.
    pub address: IpAddr,
    /// The attached interface; every one when absent.
    #[serde(default)]
    pub interface: Option<String>,
    /// VLAN id of its frames, 0 for untagged.
    #[serde(default)]
    pub vlan: u16,
}

/// Answer to a pin or unpin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborsChanged {
    /// [`VERSION`].
    pub version: u32,
    /// The bindings that were made, changed or removed (as they were), without their history.
    pub bindings: Vec<NeighborBinding>,
    /// What the operator should think over, in plain words.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The kernel's neighbour table against the bindings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborAudit {
    /// [`VERSION`].
    pub version: u32,
    /// Every binding, and every kernel entry that is for one.
    pub entries: Vec<AuditEntry>,
    /// Settings of the kernel that bear on neighbours, and what they mean here. Never changed.
    pub settings: Vec<KernelSetting>,
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The IP address.
    pub address: String,
    /// The interface.
    pub interface: String,
    /// Link-layer address in the kernel's neighbour table; null without an entry.
    pub mac: Option<String>,
    /// The entry's state, as `ip neigh` names it; null without an entry.
    pub state: Option<String>,
    /// The link-layer addresses of the binding.
    pub bound: Vec<String>,
    /// Whether the binding is contested: it is unclear who has the address.
    #[serde(default)]
    pub contested: bool,
    /// What of it.
    pub verdict: AuditVerdict,
    /// Whether `--repair` mended it.
    pub repaired: bool,
}

/// What the audit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditVerdict {
    /// The kernel's entry agrees with the binding.
    Good,
    /// The kernel has no usable entry.
    Absent,
    /// The kernel's entry contradicts the binding.
    Poisoned,
    /// As poisoned, but the entry is permanent: the operator's own, which is never touched.
    Permanent,
    /// The binding is still being learned.
    Learning,
}

/// One sysctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSetting {
    /// Its name, as `net.ipv4.conf.eth0.arp_ignore`.
    pub name: String,
    /// Its value.
    pub value: i64,
    /// What that means for neighbours, in plain words.
    pub meaning: String,
    /// Whether it weakens the host: the operator may want to change it.
    pub weak: bool,
}

/// What happened, as the agent's journal has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// [`VERSION`].
    pub version: u32,
    /// A number that differs for each start of the agent: with another one the sequence begins anew.
    #[serde(default)]
    pub agent: u64,
    /// Sequence number of the last event there is; ask for those after it next time.
    pub last: u64,
    /// Events after the one asked for that were already forgotten, sampled drops among them.
    pub forgotten: u64,
    /// Dropped packets since the programs were loaded.
    #[serde(default)]
    pub drops: DropTotals,
    /// Oldest first.
    pub events: Vec<Event>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number, from 1 at the agent's start.
    pub sequence: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Whether someone should look.
    pub level: EventLevel,
    /// The stable name of what it is about, such as `spoof`.
    pub kind: String,
    /// The interface.
    pub interface: String,
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// The IP address it is about.
    pub address: String,
    /// The link-layer addresses it is about.
    pub macs: Vec<String>,
    /// In plain words.
    pub text: String,
    /// What was dropped, for those of kind `drop`; else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<DropDetails>,
}

/// Whether someone should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLevel {
    /// For the record.
    Info,
    /// Someone should look.
    Alert,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_json_of_status_is_stable() {
        let status = Status {
            version: VERSION,
            netmoat_version: "0.1.0".to_owned(),
            pid: 7,
            uptime_s: 61,
            mode: Mode::Enforce,
            health: Health::Degraded,
            problems: vec!["eth0 is gone".to_owned()],
            interfaces: vec![InterfaceStatus {
                name: "eth0".to_owned(),
                ifindex: 2,
                xdp_mode: XdpMode::Native,
                xdp_program_id: 31,
                tc_program_id: 32,
                tc_egress_program_id: 33,
                mtu: 1500,
                up: true,
                carrier: true,
                rx_packets: 9,
                pattern: "eth*".to_owned(),
                problem: None,
            }],
            listeners_protected: 3,
            listeners_left_to_kernel: 1,
            cookies_active: false,
            keys_age_s: 60,
            neighbors: NeighborsAtAGlance {
                arp: GuardMode::Enforce,
                protected: 2,
                alerts: 1,
                last_alert: Some("a spoof".to_owned()),
                ..Default::default()
            },
            guards: GuardsAtAGlance {
                icmp: GuardMode::Enforce,
                reverse_path: ReversePath::Loose,
                strays_left_alone: Some("this host forwards".to_owned()),
                sources: SourcesAtAGlance {
                    places: 65_536,
                    proven: 3,
                    ..Default::default()
                },
                ..Default::default()
            },
            lists: ListsAtAGlance::default(),
            drops: DropsAtAGlance {
                enforced: DropRate {
                    packets: 9,
                    per_second: 3,
                    mostly: Some("tcp_flags".to_owned()),
                },
                ..Default::default()
            },
            privileges: Privileges {
                capabilities: vec!["CAP_BPF".to_owned()],
                no_new_privs: true,
                seccomp: true,
                landlock_abi: Some(7),
                shortcomings: Vec::new(),
            },
            interfaces_missing: vec![MissingInterface {
                name: "eth1".to_owned(),
                why: "eth1 is gone".to_owned(),
            }],
            notes: vec!["ens* matches no interface now".to_owned()],
            drift: DriftAtAGlance {
                repaired: 2,
                last: Some("LISTENERS: 2 removed".to_owned()),
                last_s: Some(5),
            },
            data_path_alive: true,
            maps: vec![MapFill {
                name: "LISTENERS".to_owned(),
                used: 2,
                capacity: 65_536,
            }],
            pending: None,
            probes: ProbesAtAGlance {
                all: 3,
                ok: 1,
                slow: 0,
                wrong: 0,
                failed: 1,
            },
        };
        let expected = json!({
            "version": 1, "netmoat_version": "0.1.0", "pid": 7, "uptime_s": 61, "mode": "enforce",
            "health": "degraded", "problems": ["eth0 is gone"],
            "interfaces": [{ "name": "eth0", "ifindex": 2, "xdp_mode": "native", "xdp_program_id": 31,
                             "tc_program_id": 32, "tc_egress_program_id": 33, "mtu": 1500, "up": true,
                             "carrier": true, "rx_packets": 9, "pattern": "eth*", "problem": null }],
            "listeners_protected": 3, "listeners_left_to_kernel": 1, "cookies_active": false,
            "keys_age_s": 60,
            "neighbors": { "arp": "enforce", "ndp": "observe", "ra_guard": false, "protected": 2, "learning": 0,
                           "contested": 0, "contested_gateways": [], "alerts": 1, "last_alert": "a spoof" },
            "guards": { "ip": "observe", "icmp": "enforce", "udp": "observe", "tcp": "observe", "reverse_path": "loose",
                        "strays_left_alone": "this host forwards", "stray_attack": false, "own_addresses": 0,
                        "servers": 0,
                        "sources": { "places": 65536, "steady": 0, "asked": 0, "proven": 3, "replaced": 0,
                                     "refused": 0 } },
            "lists": { "allowed": 0, "blocked": 0, "names": 0, "capacity": 0, "kernel_memory": 0, "drops": 0,
                       "passes": 0, "building": false },
            "drops": { "enforced": { "packets": 9, "per_second": 3, "mostly": "tcp_flags" },
                       "observed": { "packets": 0, "per_second": 0, "mostly": null } },
            "privileges": { "capabilities": ["CAP_BPF"], "no_new_privs": true, "seccomp": true, "landlock_abi": 7,
                            "shortcomings": [] },
            "interfaces_missing": [{ "name": "eth1", "why": "eth1 is gone" }],
            "notes": ["ens* matches no interface now"],
            "drift": { "repaired": 2, "last": "LISTENERS: 2 removed", "last_s": 5 },
            "data_path_alive": true,
            "maps": [{ "name": "LISTENERS", "used": 2, "capacity": 65536 }],
            "probes": { "all": 3, "ok": 1, "slow": 0, "wrong": 0, "failed": 1 }
        });
        assert_eq!(serde_json::to_value(&status).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Status>(expected).unwrap(), status);
    }

    #[test]
    fn the_json_of_requests_and_short_answers_is_stable() {
        let text = |value: serde_json::Value| value.to_string();
        assert_eq!(
            text(json!(SetMode::to(Mode::Observe))),
            r#"{"mode":"observe"}"#
        );
        assert_eq!(text(json!(RotateKeys { force: true })), r#"{"force":true}"#);
        assert_eq!(
            serde_json::from_str::<RotateKeys>("{}").unwrap(),
            RotateKeys { force: false }
        );
        assert!(serde_json::from_str::<RotateKeys>(r#"{"forc":true}"#).is_err());
        assert_eq!(
            json!(ModeChanged {
                version: VERSION,
                before: Mode::Enforce,
                mode: Mode::Observe,
                confirm_within_s: None,
            }),
            json!({ "version": 1, "before": "enforce", "mode": "observe" })
        );
        assert_eq!(
            json!(KeysRotated {
                version: VERSION,
                previous_key_age_s: 5
            }),
            json!({ "version": 1, "previous_key_age_s": 5 })
        );
    }

    #[test]
    fn the_json_of_neighbours_is_stable() {
        let neighbors = Neighbors {
            version: VERSION,
            arp: GuardMode::Enforce,
            ndp: GuardMode::Off,
            ra_guard: true,
            bindings: vec![NeighborBinding {
                address: "192.0.2.1".to_owned(),
                interface: "eth0".to_owned(),
                vlan: 100,
                macs: vec!["02:00:00:00:00:01".to_owned()],
                origin: BindingOrigin::Learned,
                state: BindingState::Protected,
                router: false,
                answered_s: None,
                spoofs: 3,
                history: vec![BindingHistory {
                    at: 1_700_000_000,
                    what: "learned".to_owned(),
                }],
            }],
        };
        let binding = json!({
            "address": "192.0.2.1", "interface": "eth0", "vlan": 100, "macs": ["02:00:00:00:00:01"],
            "origin": "learned", "state": "protected", "router": false, "answered_s": null, "spoofs": 3,
            "history": [{ "at": 1_700_000_000, "what": "learned" }]
        });
        let expected = json!({
            "version": 1, "arp": "enforce", "ndp": "off", "ra_guard": true, "bindings": [binding]
        });
        assert_eq!(serde_json::to_value(&neighbors).unwrap(), expected);
        assert_eq!(
            serde_json::from_value::<Neighbors>(expected).unwrap(),
            neighbors
        );
        let changed = NeighborsChanged {
            version: VERSION,
            bindings: neighbors.bindings,
            warnings: vec!["wrong?".to_owned()],
        };
        assert_eq!(
            json!(changed),
            json!({ "version": 1, "bindings": [binding], "warnings": ["wrong?"] })
        );
        assert_eq!(
            json!([BindingOrigin::Config, BindingOrigin::Pinned]),
            json!(["config", "pinned"])
        );
        assert_eq!(
            json!([
                BindingState::Learning,
                BindingState::Asking,
                BindingState::Contested,
                BindingState::Unguarded,
                BindingState::Own
            ]),
            json!(["learning", "asking", "contested", "unguarded", "own"])
        );
    }

    #[test]
    fn the_json_of_pins_is_stable_and_strict() {
        let pin = PinNeighbor {
            address: "fe80::1".parse().unwrap(),
            macs: vec!["02:00:00:00:00:01".to_owned()],
            interface: Some("eth0".to_owned()),
            vlan: 7,
            router: true,
        };
        let expected = json!({
            "address": "fe80::1", "macs": ["02:00:00:00:00:01"], "interface": "eth0", "vlan": 7, "router": true
        });
        assert_eq!(json!(pin), expected);
        let short = json!({ "address": "192.0.2.1", "macs": [] });
        let short: PinNeighbor = serde_json::from_value(short).unwrap();
        assert_eq!(
            (short.interface, short.vlan, short.router),
            (None, 0, false)
        );
        let unpin: UnpinNeighbor =
            serde_json::from_value(json!({ "address": "192.0.2.1" })).unwrap();
        assert_eq!(
            json!(unpin),
            json!({ "address": "192.0.2.1", "interface": null, "vlan": 0 })
        );
        for wrong in [
            json!({ "address": "192.0.2.1" }),
            json!({ "address": "192.0.2", "macs": [] }),
            json!({ "address": "192.0.2.1", "macs": [], "mac": "" }),
            json!({ "address": "192.0.2.1", "macs": [], "vlan": -1 }),
        ] {
            assert!(serde_json::from_value::<PinNeighbor>(wrong).is_err());
        }
    }

    #[test]
    fn the_json_of_the_audit_is_stable() {
        let audit = NeighborAudit {
            version: VERSION,
            entries: vec![AuditEntry {
                address: "192.0.2.1".to_owned(),
                interface: "eth0".to_owned(),
                mac: Some("02:00:00:00:00:66".to_owned()),
                state: Some("REACHABLE".to_owned()),
                bound: vec!["02:00:00:00:00:01".to_owned()],
                contested: true,
                verdict: AuditVerdict::Poisoned,
                repaired: true,
            }],
            settings: vec![KernelSetting {
                name: "net.ipv4.conf.eth0.arp_accept".to_owned(),
                value: 1,
                meaning: "unsolicited ARP is believed".to_owned(),
                weak: true,
            }],
        };
        let expected = json!({
            "version": 1,
            "entries": [{
                "address": "192.0.2.1", "interface": "eth0", "mac": "02:00:00:00:00:66", "state": "REACHABLE",
                "bound": ["02:00:00:00:00:01"], "contested": true, "verdict": "poisoned", "repaired": true
            }],
            "settings": [{
                "name": "net.ipv4.conf.eth0.arp_accept", "value": 1,
                "meaning": "unsolicited ARP is believed", "weak": true
            }]
        });
        assert_eq!(serde_json::to_value(&audit).unwrap(), expected);
        assert_eq!(
            serde_json::from_value::<NeighborAudit>(expected).unwrap(),
            audit
        );
        assert_eq!(
            json!([
                AuditVerdict::Good,
                AuditVerdict::Absent,
                AuditVerdict::Permanent,
                AuditVerdict::Learning
            ]),
            json!(["good", "absent", "permanent", "learning"])
        );
    }

    #[test]
    fn the_json_of_events_is_stable() {
        let events = Events {
            version: VERSION,
            agent: 77,
            last: 9,
            forgotten: 2,
            drops: DropTotals {
                packets: 9,
                told: 2,
                lost: 1,
                not_sampled: 6,
            },
            events: vec![Event {
                sequence: 9,
                at_ms: 1_700_000_000_123,
                level: EventLevel::Alert,
                kind: "spoof".to_owned(),
                interface: "eth0".to_owned(),
                vlan: 0,
                address: "192.0.2.1".to_owned(),
                macs: vec!["02:00:00:00:00:66".to_owned()],
                text: "a false claim".to_owned(),
                drop: None,
            }],
        };
        let expected = json!({
            "version": 1, "agent": 77, "last": 9, "forgotten": 2,
            "drops": { "packets": 9, "told": 2, "lost": 1, "not_sampled": 6 },
            "events": [{
                "sequence": 9, "at_ms": 1_700_000_000_123_u64, "level": "alert", "kind": "spoof",
                "interface": "eth0", "vlan": 0, "address": "192.0.2.1", "macs": ["02:00:00:00:00:66"],
                "text": "a false claim"
            }]
        });
        assert_eq!(serde_json::to_value(&events).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Events>(expected).unwrap(), events);
        assert_eq!(json!(EventLevel::Info), json!("info"));
    }

    #[test]
    fn counters_stand_by_reason_first_enforced_then_observed() {
        let cells: Vec<u64> = (0..u64::from(COUNTERS)).collect();
        let counters = Counters::from_cells(&cells);
        assert_eq!(counters.enforced.len(), Reason::ALL.len());
        assert_eq!(counters.observed.len(), Reason::ALL.len());
        let drop = &counters.enforced[Reason::TcpFlags as usize];
        assert_eq!(
            serde_json::to_value(drop).unwrap(),
            json!({ "code": 16, "name": "tcp_flags", "action": "drop", "packets": 16 })
        );
        let observed = &counters.observed[Reason::CookieSent as usize];
        assert_eq!(observed.packets, u64::from(Reason::COUNT) + 14);
        assert_eq!((observed.code, observed.action.as_str()), (14, "reply"));
    }
}
