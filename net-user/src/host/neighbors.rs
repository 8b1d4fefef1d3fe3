//! The kernel's neighbour tables (ARP and NDP) and the next hops of default routes, over rtnetlink.

use super::links::Links;
use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt as _, TryStreamExt as _, future};
use net_common::units::Mac;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{
    self, NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{MulticastGroup, RouteMessageBuilder};
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An entry of the kernel's neighbour tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelNeighbor {
    /// The interface that routes lead to; of a VLAN the upper one.
    pub ifindex: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its link-layer address; `None` while unresolved and where it is not 6 octets long.
    pub mac: Option<Mac>,
    /// What the kernel makes of it.
    pub state: NeighborState,
    /// Set by the operator for good: neither the network nor we change it.
    pub permanent: bool,
    /// Whether packets are sent to `mac` (NUD_VALID).
    pub usable: bool,
}

/// The state of an entry (`NUD_*` in `linux/neighbour.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborState {
    /// Just made.
    None,
    /// Being resolved for the first time.
    Incomplete,
    /// Confirmed a short while ago.
    Reachable,
    /// To be confirmed when it is used next.
    Stale,
    /// Used since; confirmed by upper layers, or probed soon.
    Delay,
    /// Being probed.
    Probe,
    /// It did not answer.
    Failed,
    /// Needs no resolution: multicast, point-to-point.
    NoArp,
    /// Set by the operator for good.
    Permanent,
}

impl NeighborState {
    /// As `ip neigh` names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Incomplete => "INCOMPLETE",
            Self::Reachable => "REACHABLE",
            Self::Stale => "STALE",
            Self::Delay => "DELAY",
            Self::Probe => "PROBE",
            Self::Failed => "FAILED",
            Self::NoArp => "NOARP",
            Self::Permanent => "PERMANENT",
        }
    }

    /// NUD_VALID.
    const fn is_valid(self) -> bool {
        !matches!(self, Self::None | Self::Incomplete | Self::Failed)
    }
}

impl fmt::Display for NeighborState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<neighbour::NeighbourState> for NeighborState {
    fn from(state: neighbour::NeighbourState) -> Self {
        use neighbour::NeighbourState as S;
        match state {
            S::Incomplete => Self::Incomplete,
            S::Reachable => Self::Reachable,
            S::Stale => Self::Stale,
            S::Delay => Self::Delay,
            S::Probe => Self::Probe,
            S::Failed => Self::Failed,
            S::Noarp => Self::NoArp,
            S::Permanent => Self::Permanent,
            _ => Self::None,
        }
    }
}

/// Where the default routes lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultRoutes {
    /// Next hops: interface and address.
    pub gateways: BTreeSet<(u32, IpAddr)>,
    /// Interfaces, also those without a next hop (`default dev ppp0`).
    pub interfaces: BTreeSet<u32>,
}

impl Links {
    /// Every entry for IPv4 and IPv6, but for proxied addresses (`ip neigh show proxy`).
    pub async fn neighbors(&self) -> Result<Vec<KernelNeighbor>> {
        self.handle()
            .neighbours()
            .get()
            .execute()
            .try_filter_map(|message| future::ready(Ok(neighbor(&message))))
            .try_collect()
            .await
            .context("cannot list the kernel's neighbours")
    }

    /// The entry for one address, if there is one.
    ///
    /// # Errors
    /// rtnetlink does not answer.
    pub async fn neighbor(&self, ifindex: u32, ip: IpAddr) -> Result<Option<KernelNeighbor>> {
        let found = self.find_neighbor(ifindex, ip).await;
        let found = found.with_context(|| format!("cannot ask for the kernel's neighbour {ip}"))?;
        Ok(found.as_ref().and_then(neighbor))
    }

    /// Gives an entry, present or not, this link-layer address in state STALE: used at once, confirmed by
    /// unicast when it is (`ip neigh replace … nud stale`). A permanent entry is the operator's own, and
    /// refused.
    pub async fn set_neighbor(&self, ifindex: u32, ip: IpAddr, mac: Mac) -> Result<()> {
        let what = || format!("cannot set the kernel's neighbour {ip} to {mac}");
        // The flags that stand in no message are cleared (`neigh_add`, `net/core/neighbour.c`): keep those that
        // the entry has, such as NTF_ROUTER.
        let present = self.find_neighbor(ifindex, ip).await.with_context(what)?;
        let mut flags = NeighbourFlags::empty();
        let mut ext_flags = NeighbourExtFlags::empty();
        if let Some(present) = present {
            if present.header.state == neighbour::NeighbourState::Permanent {
                bail!("{}: the entry is permanent", what());
            }
            flags = present.header.flags;
            for attribute in present.attributes {
                if let NeighbourAttribute::ExtFlags(found) = attribute {
                    ext_flags = found;
                }
            }
        }
        let mut request = self
            .handle()
            .neighbours()
            .add(ifindex, ip)
            .replace()
            .state(neighbour::NeighbourState::Stale)
            .flags(flags)
            .link_layer_address(&mac.octets());
        if !ext_flags.is_empty() {
            request
                .message_mut()
                .attributes
                .push(NeighbourAttribute::ExtFlags(ext_flags));
        }
        request.execute().await.with_context(what)
    }

    /// One entry as the kernel tells it; rtnetlink's own request only knows dumps.
    async fn find_neighbor(&self, ifindex: u32, ip: IpAddr) -> Result<Option<NeighbourMessage>> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.family = match ip {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(ip.into()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
        request.header.flags = NLM_F_REQUEST;
        let mut replies = self.handle().clone().request(request)?;
        match replies.next().await.map(|reply| reply.payload) {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found))) => {
                Ok(Some(found))
            }
            Some(NetlinkPayload::Error(error)) if error.raw_code() == -nix::libc::ENOENT => {
                Ok(None)
            }
            Some(NetlinkPayload::Error(error)) => Err(error.to_io().into()),
            other => bail!("unexpected answer of the kernel: {other:?}"),
        }
    }

    /// The default routes of every table, IPv4 and IPv6. What a nexthop object says is seen while
    /// `net.ipv4.nexthop_compat_mode` is 1, its default.
    pub async fn default_routes(&self) -> Result<DefaultRoutes> {
        let mut found = DefaultRoutes::default();
        let families = [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ];
        for mut family in families {
            // The builder asks for the main table; 0 is all of them.
            family.header.table = RouteHeader::RT_TABLE_UNSPEC;
            let mut routes = Box::pin(self.handle().route().get(family).execute());
            // One at a time: a full routing table is a million routes.
            while let Some(route) = routes.try_next().await.context("cannot list the routes")? {
                if is_default(&route) {
                    next_hops(&route.attributes, None, &mut found);
                }
            }
        }
        Ok(found)
    }

    /// The next hops of the default routes: interface and address, none twice.
    pub async fn default_gateways(&self) -> Result<Vec<(u32, IpAddr)>> {
        Ok(self.default_routes().await?.gateways.into_iter().collect())
    }
}

/// Yields once for each change of a default route, and when the kernel had to drop such news: read
/// [`Links::default_routes`] again then, and at each item of [`super::links::changes`] too, since IPv4 routes
/// that go with their link or address are not told. Opened in the calling thread's network namespace.
pub fn gateway_changes() -> Result<impl Stream<Item = ()> + Send + Unpin> {
    let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let (connection, _, messages) =
        rtnetlink::new_multicast_connection(&groups).context("cannot watch the routes")?;
    tokio::spawn(connection);
    Ok(messages.filter_map(|(message, _)| {
        let other = matches!(
            &message.payload,
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
            ) if !is_default(route)
        );
        future::ready((!other).then_some(()))
    }))
}

fn neighbor(message: &NeighbourMessage) -> Option<KernelNeighbor> {
    let mut ip = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(octets) => {
                mac = octets.as_slice().try_into().ok().map(Mac::new);
            }
            _ => {}
        }
    }
    let state = NeighborState::from(message.header.state);
    Some(KernelNeighbor {
        ifindex: message.header.ifindex,
        ip: ip?,
        mac,
        state,
        permanent: state == NeighborState::Permanent,
        usable: state.is_valid() && mac.is_some(),
    })
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
}

/// Collects the next hops of a route, or of one hop of a multipath route, whose interface is `ifindex`.
fn next_hops(attributes: &[RouteAttribute], mut ifindex: Option<u32>, found: &mut DefaultRoutes) {
    let mut gateway: Option<IpAddr> = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some((*v4).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some((*v6).into()),
            RouteAttribute::MultiPath(hops) => {
                for hop in hops {
                    next_hops(&hop.attributes, Some(hop.interface_index), found);
                }
            }
            _ => {}
        }
    }
    let gateway = gateway.filter(|gateway| !gateway.is_unspecified());
    found.interfaces.extend(ifindex);
    found.gateways.extend(ifindex.zip(gateway));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{block_on, in_netns, run};
    use std::process::Command;
    use std::time::Duration;

    const MAC: Mac = Mac::new([2, 0, 0, 0, 0, 0x51]);

    /// lab0 (192.0.2.2, 2001:db8::2) and lab1, both up.
    fn veth_pair() {
        run("ip", "link add lab0 type veth peer name lab1");
        run("ip", "link set lab0 up");
        run("ip", "link set lab1 up");
        run("ip", "addr add 192.0.2.2/24 dev lab0");
        run("ip", "addr add 2001:db8::2/64 dev lab0 nodad");
    }

    fn index(name: &str) -> u32 {
        nix::net::if_::if_nametoindex(name).expect("the link")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn shown(address: &str) -> String {
        let out = Command::new("ip")
            .args(["neigh", "show", address])
            .output()
            .expect("ip");
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    #[test]
    fn neighbours_are_told_with_mac_and_state() {
        in_netns(|| {
            veth_pair();
            let mac = "lladdr 02:00:00:00:00:51 dev lab0";
            run("ip", &format!("neigh add 192.0.2.1 {mac} nud reachable"));
            run("ip", &format!("neigh add 192.0.2.9 {mac} nud permanent"));
            run("ip", "neigh add 192.0.2.8 dev lab0 nud failed");
            run("ip", &format!("neigh add 2001:db8::1 {mac} nud stale"));
            run("ip", "neigh add proxy 192.0.2.7 dev lab0");
            let all = block_on(async { Links::open().expect("rtnetlink").neighbors().await })
                .expect("neighbours");
            let told: Vec<_> = ["192.0.2.1", "192.0.2.9", "192.0.2.8", "2001:db8::1"]
                .iter()
                .map(|address| {
                    let entry = all
                        .iter()
                        .find(|n| n.ip == ip(address))
                        .unwrap_or_else(|| panic!("{address}: {all:?}"));
                    assert_eq!(entry.ifindex, index("lab0"));
                    (entry.state.name(), entry.mac, entry.permanent, entry.usable)
                })
                .collect();
            assert_eq!(
                told,
                [
                    ("REACHABLE", Some(MAC), false, true),
                    ("PERMANENT", Some(MAC), true, true),
                    ("FAILED", None, false, false),
                    ("STALE", Some(MAC), false, true),
                ]
            );
            assert!(all.iter().all(|n| n.ip != ip("192.0.2.7")), "{all:?}");
        });
    }

    #[test]
    fn an_entry_is_replaced_or_made_and_keeps_its_flags() {
        in_netns(|| {
            veth_pair();
            let lab0 = index("lab0");
            let bad = "lladdr 02:00:00:00:00:66 dev lab0";
            run("ip", &format!("neigh add 192.0.2.1 {bad} nud reachable"));
            run(
                "ip",
                &format!("neigh add 2001:db8::1 {bad} nud reachable router"),
            );
            run("ip", &format!("neigh add 192.0.2.9 {bad} nud permanent"));
            let refused = block_on(async {
                let links = Links::open().expect("rtnetlink");
                for address in ["192.0.2.1", "2001:db8::1", "192.0.2.3"] {
                    links
                        .set_neighbor(lab0, ip(address), MAC)
                        .await
                        .expect(address);
                }
                links.set_neighbor(lab0, ip("192.0.2.9"), MAC).await
            });
            for address in ["192.0.2.1", "2001:db8::1", "192.0.2.3"] {
                let line = shown(address);
                assert!(line.contains("02:00:00:00:00:51"), "{line}");
                assert!(line.contains("STALE"), "{line}");
                assert_eq!(line.contains("router"), address.contains(':'), "{line}");
            }
            let refused = format!("{:#}", refused.expect_err("a permanent entry"));
            assert!(refused.contains("192.0.2.9") && refused.contains("permanent"));
            assert!(shown("192.0.2.9").contains("02:00:00:00:00:66"));
        });
    }

    #[test]
    fn next_hops_of_all_default_routes_are_told_once() {
        in_netns(|| {
            veth_pair();
            run("ip", "addr add 198.51.100.2/24 dev lab1");
            let gateways = || {
                block_on(async { Links::open().expect("rtnetlink").default_gateways().await })
                    .expect("gateways")
            };
            assert_eq!(gateways(), []);
            for route in [
                "route add default via 192.0.2.1",
                "route add default via 192.0.2.1 metric 7",
                "route add 203.0.113.0/24 via 192.0.2.77",
                "route add default via 192.0.2.3 table 1000",
                "route add blackhole default table 1001",
                "route add default dev lab1 table 1002",
                "route add default metric 8 nexthop via 192.0.2.4 nexthop via 198.51.100.1",
                "route add default via inet6 fe80::4 dev lab0 metric 9",
                "-6 route add default via fe80::1 dev lab0",
                "-6 route add default metric 7 nexthop via fe80::2 dev lab1 nexthop via 2001:db8::1",
                "-6 route add 2001:db8:1::/48 via fe80::77 dev lab0",
                "nexthop add id 5 via 192.0.2.5 dev lab0",
                "route add default nhid 5 table 1003",
            ] {
                run("ip", route);
            }
            let (lab0, lab1) = (index("lab0"), index("lab1"));
            let mut expected = [
                (lab0, "192.0.2.1"),
                (lab0, "192.0.2.3"),
                (lab0, "192.0.2.4"),
                (lab0, "192.0.2.5"),
                (lab0, "2001:db8::1"),
                (lab0, "fe80::1"),
                (lab0, "fe80::4"),
                (lab1, "198.51.100.1"),
                (lab1, "fe80::2"),
            ]
            .map(|(link, address)| (link, ip(address)));
            expected.sort_unstable();
            assert_eq!(gateways(), expected);
        });
    }

    #[test]
    fn changes_of_default_routes_are_told_and_of_others_not() {
        in_netns(|| {
            veth_pair();
            block_on(async {
                let mut changes = gateway_changes().expect("a monitor");
                for change in [
                    "route add default via 192.0.2.1",
                    "route del default",
                    "-6 route add default via fe80::1 dev lab0",
                ] {
                    run("ip", "route replace 203.0.113.0/24 via 192.0.2.9");
                    run("ip", change);
                    let news = tokio::time::timeout(Duration::from_secs(5), changes.next()).await;
                    assert_eq!(news.expect(change), Some(()));
                    let more = tokio::time::timeout(Duration::from_millis(50), changes.next());
                    assert!(more.await.is_err(), "{change}: told twice");
                }
            });
        });
    }
}
