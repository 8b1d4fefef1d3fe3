//! Every metric family: name, unit, help, and what it is read from.

use std::fmt;

use net_common::{
    abi::ABI_VERSION,
    verdict::{Action, Reason},
};
use prometheus_client::{
    collector::Collector, encoding::DescriptorEncoder, encoding::text::encode, registry::Registry,
    registry::Unit,
};

use super::{
    exposition::{Labels, Page},
    own::Own,
};
use crate::{
    config::{GuardMode, Mode, XdpMode},
    control::{
        probes::Probes,
        protocol::{Counter, Counters, Queues, Status},
    },
};

/// What a page is written from, all of about the same moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// As `netmoat status` has it.
    pub status: Status,
    /// As `netmoat counters` has it.
    pub counters: Counters,
    /// As `netmoat queues` has it.
    pub queues: Queues,
    /// As `netmoat probe list` has it.
    pub probes: Probes,
    /// The agent's process; `None` while /proc does not tell.
    pub own: Option<Own>,
    /// What the maps take of the kernel's memory, without the tables of lists, octets.
    pub maps_octets: u64,
}

/// The page in the text of OpenMetrics 1.0.
///
/// # Errors
/// None, as nothing that is written to a string fails.
pub fn text(reading: Reading) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("netmoat");
    registry.register_collector(Box::new(reading));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let page = &mut Page(encoder);
        self.agent(page)?;
        self.packets(page)?;
        self.guards(page)?;
        self.fill(page)?;
        super::listeners::write(page, &self.queues)?;
        super::probes::write(page, &self.probes)?;
        self.host(page)
    }
}

impl Reading {
    fn agent(&self, page: &mut Page<'_>) -> fmt::Result {
        let status = &self.status;
        page.gauges(
            "build_info",
            None,
            "Always 1; the labels name the agent's version and the number of its data path's ABI",
            [(
                [
                    ("version", status.netmoat_version.clone()),
                    ("abi", ABI_VERSION.to_string()),
                ],
                1,
            )],
        )?;
        page.gauge(
            "uptime",
            Some(Unit::Seconds),
            "Time since the agent's start",
            status.uptime_s,
        )?;
        page.gauge(
            "healthy",
            None,
            "1 while all that is configured is in force; netmoat status says what is not",
            flag(status.is_in_force()),
        )?;
        page.gauge(
            "problems",
            None,
            "Things that are wrong now, as netmoat status names them",
            status.problems.len(),
        )?;
        page.gauge(
            "enforcing",
            None,
            "1 while verdicts are carried out, 0 in observe mode",
            flag(status.mode == Mode::Enforce),
        )?;
        page.gauges(
            "interface_info",
            None,
            "Always 1; an interface that netmoat protects, and how XDP runs there",
            status.interfaces.iter().map(|interface| {
                let mode = match interface.xdp_mode {
                    XdpMode::Generic => "generic",
                    XdpMode::Auto | XdpMode::Native => "native",
                };
                let labels = [
                    ("interface", interface.name.clone()),
                    ("xdp_mode", mode.to_owned()),
                ];
                (labels, 1)
            }),
        )?;
        let attached = status.interfaces.iter();
        let attached = attached.map(|of| (&of.name, flag(of.problem.is_none())));
        let missing = status.interfaces_missing.iter().map(|of| (&of.name, 0));
        page.gauges(
            "interface_attached",
            None,
            "1 while all programs are on an interface that the config means, 0 while it is not protected",
            attached
                .chain(missing)
                .map(|(name, attached)| ([("interface", name.clone())], attached)),
        )?;
        page.gauge(
            "data_path_alive",
            None,
            "1 while the programs are where they were put, the heartbeat is written and the counters move with the traffic",
            flag(status.data_path_alive),
        )?;
        page.counter(
            "drift_repairs",
            None,
            "Entries of maps and programs on interfaces that something else had changed and that were set right",
            status.drift.repaired,
        )?;
        page.gauge(
            "cookie_key_age",
            Some(Unit::Seconds),
            "Age of the cookie key in use",
            status.keys_age_s,
        )?;
        page.gauge(
            "cookies_active",
            None,
            "1 while SYN cookies are being sent, or were in the last minutes",
            flag(status.cookies_active),
        )?;
        let Some(own) = self.own else {
            return Ok(());
        };
        page.counter(
            "process_cpu",
            Some(Unit::Seconds),
            "CPU time of the agent since its start; what packets cost is not in it",
            own.cpu_s,
        )?;
        page.gauge(
            "process_resident_memory",
            Some(Unit::Bytes),
            "Memory that the agent has in use",
            own.resident,
        )?;
        page.gauge(
            "process_open_fds",
            None,
            "File descriptors that the agent has open",
            own.descriptors,
        )
    }

    fn packets(&self, page: &mut Page<'_>) -> fmt::Result {
        // Every reason from the start, so that the first packets of an attack are an increase.
        let of = |counters: &[Counter], enforced: bool| -> Vec<(Labels<3>, u64)> {
            counters
                .iter()
                .filter(|counter| enforced || may_be_observed(counter))
                .map(|counter| {
                    let labels = [
                        ("reason", counter.name.clone()),
                        ("action", counter.action.clone()),
                        ("enforced", enforced.to_string()),
                    ];
                    (labels, counter.packets)
                })
                .collect()
        };
        let enforced = of(&self.counters.enforced, true);
        let observed = of(&self.counters.observed, false);
        page.counters(
            "packets",
            None,
            "Packets by reason since the programs were loaded; enforced=false for what observe mode would have done; \
             notes stand beside a packet's verdict (netmoat explain REASON)",
            enforced.into_iter().chain(observed),
        )
    }

    fn guards(&self, page: &mut Page<'_>) -> fmt::Result {
        let (guards, neighbors) = (&self.status.guards, &self.status.neighbors);
        page.gauges(
            "guard_mode",
            None,
            "Mode of a guard as it is in force: 0 off, 1 observing, 2 enforcing",
            [
                ("arp", neighbors.arp),
                ("ndp", neighbors.ndp),
                ("ip", guards.ip),
                ("icmp", guards.icmp),
                ("udp", guards.udp),
                ("tcp", guards.tcp),
            ]
            .map(|(guard, mode)| {
                let mode = match mode {
                    GuardMode::Off => 0,
                    GuardMode::Observe => 1,
                    GuardMode::Enforce => 2,
                };
                ([("guard", guard.to_owned())], mode)
            }),
        )?;
        page.gauges(
            "neighbor_bindings",
            None,
            "Neighbours that are held to their link-layer addresses, by what is known of them",
            [
                ("protected", neighbors.protected),
                ("learning", neighbors.learning),
                ("contested", neighbors.contested),
            ]
            .map(|(state, count)| ([("state", state.to_owned())], count)),
        )?;
        page.gauge(
            "gateways_contested",
            None,
            "Default gateways of which it is unclear who has them",
            neighbors.contested_gateways.len(),
        )?;
        page.gauge(
            "neighbor_alerts",
            None,
            "Alerts about neighbours in the last ten minutes",
            neighbors.alerts,
        )?;
        page.gauge(
            "stray_attack",
            None,
            "1 while TCP segments without a socket are an attack",
            flag(guards.stray_attack),
        )?;
        let sources = &guards.sources;
        page.gauges(
            "sources",
            None,
            "Known sources, by what they have proved",
            [
                ("steady", sources.steady),
                ("asked", sources.asked),
                ("proven", sources.proven),
            ]
            .map(|(tier, count)| ([("tier", tier.to_owned())], count)),
        )
    }

    fn fill(&self, page: &mut Page<'_>) -> fmt::Result {
        let (maps, lists) = (&self.status.maps, &self.status.lists);
        let named = |name: &str| [("map", name.to_owned())];
        page.gauges(
            "map_entries",
            None,
            "Entries of a map that can be full; netmoat check -o json says what happens then",
            maps.iter().map(|map| (named(&map.name), map.used)),
        )?;
        page.gauges(
            "map_entries_limit",
            None,
            "Most entries of the map",
            maps.iter().map(|map| (named(&map.name), map.capacity)),
        )?;
        let listed = [("allow", lists.allowed), ("block", lists.blocked)];
        let list = |name: &str| [("list", name.to_owned())];
        page.gauges(
            "list_entries",
            None,
            "Entries of the allow list and of the block list",
            listed.map(|(name, entries)| (list(name), entries)),
        )?;
        page.gauges(
            "list_entries_limit",
            None,
            "Most entries of the list",
            listed.map(|(name, _)| (list(name), lists.capacity)),
        )?;
        page.gauge(
            "list_memory",
            Some(Unit::Bytes),
            "Memory of the kernel that the tables of both lists take",
            lists.kernel_memory,
        )?;
        page.gauge(
            "map_memory",
            Some(Unit::Bytes),
            "Memory of the kernel that all other maps take, whatever is in them",
            self.maps_octets,
        )
    }

    fn host(&self, page: &mut Page<'_>) -> fmt::Result {
        let host = &self.queues.host;
        page.gauges(
            "host_verdict",
            None,
            "1 for each verdict about the queues of the host that holds; none while all is well",
            host.verdicts
                .iter()
                .map(|verdict| ([("verdict", verdict.kind.name().to_owned())], 1)),
        )?;
        page.gauge(
            "time_wait_sockets",
            None,
            "TCP sockets in TIME_WAIT",
            host.time_wait,
        )?;
        page.gauge(
            "time_wait_sockets_limit",
            None,
            "Most of them (net.ipv4.tcp_max_tw_buckets)",
            host.time_wait_limit,
        )?;
        page.counters(
            "kernel_events",
            None,
            "Counters of the kernel that concern queues, as nstat names them, since the network namespace was made",
            host.counters
                .iter()
                .map(|counter| ([("name", counter.name.clone())], counter.total)),
        )?;
        let interfaces = &host.loss.interfaces;
        page.counters(
            "interface_received_packets",
            None,
            "Packets that an interface received, since netmoat looks",
            interfaces
                .iter()
                .map(|of| ([("interface", of.name.clone())], of.packets)),
        )?;
        page.counters(
            "interface_lost_packets",
            None,
            "Packets lost before netmoat saw them, by counter of the kernel or the driver, since netmoat looks",
            interfaces.iter().flat_map(|of| {
                of.lost.iter().map(|lost| {
                    let labels = [
                        ("interface", of.name.clone()),
                        ("counter", lost.name.clone()),
                    ];
                    (labels, lost.count)
                })
            }),
        )
    }
}

/// Whether observe mode counts this reason apart: what passes anyway, and notes, are counted as enforced.
fn may_be_observed(counter: &Counter) -> bool {
    Reason::from_number(counter.code)
        .is_some_and(|reason| matches!(reason.action(), Action::Drop | Action::Reply))
}

pub(super) fn flag(holds: bool) -> u32 {
    u32::from(holds)
}
