//! The details of the way out, as they are printed.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{
    host::routes::{LOCAL, MAIN},
    probe::Lines,
};

/// The details of the way out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteFacts {
    /// A way for each address, in the order in which they are tried.
    pub ways: Vec<Way>,
    /// Which bindings next hops were held to, in plain words.
    pub bindings: String,
    /// What could not be looked at, and why.
    pub note: Option<String>,
}

/// The way to one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The address.
    pub address: IpAddr,
    /// What kind of way.
    pub kind: WayKind,
    /// Index of the interface; 0 where there is none.
    pub ifindex: u32,
    /// Its name.
    pub interface: Option<String>,
    /// Its kind, as `ip -details link` shows it; null for hardware.
    pub interface_kind: Option<String>,
    /// It is up and has a carrier.
    pub link_works: bool,
    /// Its MTU, octets.
    pub interface_mtu: Option<u32>,
    /// The source address that the kernel chooses.
    pub source: Option<IpAddr>,
    /// The router, where there is one.
    pub next_hop: Option<IpAddr>,
    /// Length of the prefix of the route, bits.
    pub prefix_len: Option<u8>,
    /// The routing table; 254 is main, 255 local.
    pub table: Option<u32>,
    /// The metric of the route, where it has one.
    pub metric: Option<u32>,
    /// The MTU of the route or of the path where it differs from the interface's, octets.
    pub path_mtu: Option<u32>,
    /// It was learned from an ICMP message: a link on the way is narrower.
    pub path_mtu_learned: bool,
    /// The next hop on the link, as the kernel has it; null while it has not asked for it, and where nobody is to be asked for.
    pub neighbor: Option<Neighbor>,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::UNSPECIFIED.into(),
            kind: WayKind::Missing,
            ifindex: 0,
            interface: None,
            interface_kind: None,
            link_works: true,
            interface_mtu: None,
            source: None,
            next_hop: None,
            prefix_len: None,
            table: None,
            metric: None,
            path_mtu: None,
            path_mtu_learned: false,
            neighbor: None,
        }
    }
}

/// Where a way leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayKind {
    /// To this host itself.
    Local,
    /// To a host on the same link: frames go to it by switches alone.
    OnLink,
    /// To a router.
    Routed,
    /// Nowhere: no route.
    #[default]
    Missing,
    /// Nowhere: a route of type `unreachable`.
    Unreachable,
    /// Nowhere: a route of type `blackhole`.
    Blackhole,
    /// Nowhere: a route of type `prohibit`.
    Prohibited,
}

impl WayKind {
    /// Whether it leads somewhere.
    pub const fn leads(self) -> bool {
        matches!(self, Self::Local | Self::OnLink | Self::Routed)
    }
}

/// The next hop in the kernel's neighbour table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// The state of the entry, as `ip neigh` names it.
    pub state: String,
    /// Its hardware address.
    pub mac: Option<String>,
    /// The one that it had when the connection was begun, where that was another.
    pub mac_before: Option<String>,
    /// Whether frames are sent to it.
    pub usable: bool,
    /// The entry was set by hand for good.
    pub permanent: bool,
    /// Other addresses at the same hardware address, at most four: one host with several, or one that stands in for others.
    pub sharing: Vec<IpAddr>,
    /// What the agent holds it to; null without an agent, and where it has no binding for it.
    pub binding: Option<Binding>,
}

impl Neighbor {
    /// The hardware address that the kernel sends to, or sent to when the connection was begun, and that the binding does not
    /// have. Who answers falsely and who answers truly take turns in the kernel's table.
    pub fn poisoned(&self) -> Option<&str> {
        let macs = &self.binding.as_ref()?.macs;
        let now = self.mac.as_deref().filter(|_| self.usable);
        let mut both = now.into_iter().chain(self.mac_before.as_deref());
        both.find(|mac| !macs.is_empty() && !macs.iter().any(|bound| bound == mac))
    }
}

/// The agent's record of a next hop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    /// The hardware addresses it may be at.
    pub macs: Vec<String>,
    /// Where that is from, in plain words.
    pub origin: String,
}

impl RouteFacts {
    /// In one line.
    pub(super) fn summary(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for way in &self.ways {
            let part = way.short();
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        match parts.is_empty() {
            true => "not looked at".to_owned(),
            false => parts.join("; "),
        }
    }

    /// For people.
    pub fn lines(&self) -> Lines {
        let mut lines: Lines = self
            .ways
            .iter()
            .flat_map(|way| {
                let hop = way.neighbor.as_ref().map(neighbor_line);
                [(format!("to {}", way.address), way.text())]
                    .into_iter()
                    .chain(hop)
            })
            .collect();
        lines.push(("bindings".into(), self.bindings.clone()));
        if let Some(note) = &self.note {
            lines.push(("not seen".into(), note.escape_debug().to_string()));
        }
        lines
    }
}

fn neighbor_line(neighbor: &Neighbor) -> (String, String) {
    let mut text = neighbor.state.clone();
    if let Some(mac) = &neighbor.mac {
        text += &format!(" at {mac}");
    }
    if let Some(before) = &neighbor.mac_before {
        text += &format!(", at {before} before");
    }
    if let Some(binding) = &neighbor.binding {
        let held = if neighbor.poisoned().is_some() {
            "against"
        } else {
            "as in"
        };
        text += &format!(", {held} its binding ({})", binding.origin);
    }
    if !neighbor.sharing.is_empty() {
        let others: Vec<_> = neighbor.sharing.iter().map(ToString::to_string).collect();
        text += &format!(", as {}", others.join(", "));
    }
    (format!("neighbour {}", neighbor.address), text)
}

impl Way {
    /// The interface's name as it may be shown.
    pub(super) fn on(&self) -> String {
        match &self.interface {
            Some(name) => name.escape_debug().to_string(),
            None => format!("interface {}", self.ifindex),
        }
    }

    /// Who is asked for on the link.
    pub(super) fn hop(&self) -> IpAddr {
        self.next_hop.unwrap_or(self.address)
    }

    fn short(&self) -> String {
        let family = if self.address.is_ipv4() {
            "IPv4"
        } else {
            "IPv6"
        };
        let (on, hop) = (self.on(), self.hop());
        match self.kind {
            WayKind::Local => "this host itself".to_owned(),
            WayKind::OnLink => format!("{family} on the link of {on}"),
            WayKind::Routed => format!("{family} by the router {hop} on {on}"),
            WayKind::Missing => format!("{family} without a route"),
            WayKind::Unreachable => format!("{family} unreachable by a route"),
            WayKind::Blackhole => format!("{family} into a blackhole route"),
            WayKind::Prohibited => format!("{family} prohibited by a route"),
        }
    }

    fn text(&self) -> String {
        let mut text = match self.kind {
            WayKind::OnLink => format!("on-link (switched) on {}", self.on()),
            WayKind::Routed => format!("routed by {} on {}", self.hop(), self.on()),
            _ => self.short(),
        };
        if !self.kind.leads() {
            return text;
        }
        if let Some(source) = self.source {
            text += &format!(", from {source}");
        }
        if let Some(table) = self.table.filter(|table| ![MAIN, LOCAL, 0].contains(table)) {
            text += &format!(", table {table}");
        }
        if let Some(metric) = self.metric {
            text += &format!(", metric {metric}");
        }
        match (self.path_mtu, self.interface_mtu) {
            (Some(mtu), _) if self.path_mtu_learned => text += &format!(", path MTU {mtu}"),
            (Some(mtu), _) => text += &format!(", MTU {mtu} by the route"),
            (None, Some(mtu)) => text += &format!(", MTU {mtu}"),
            (None, None) => {}
        }
        text
    }
}
