//! The route that the kernel takes to an address, over rtnetlink (`RTM_GETROUTE`; what `ip route get` shows).

use super::links::Links;
use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use nix::libc;
use rtnetlink::packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia,
    },
};
use std::net::IpAddr;

/// The number of the table of ordinary routes (`RT_TABLE_MAIN`).
pub const MAIN: u32 = 254;
/// The number of the table of own addresses (`RT_TABLE_LOCAL`).
pub const LOCAL: u32 = 255;

/// A way to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The address is one of this namespace: nothing leaves it.
    pub local: bool,
    /// The interface that packets leave by.
    pub ifindex: u32,
    /// The source address that the kernel chooses.
    pub source: Option<IpAddr>,
    /// The next hop; `None` where the address itself is on the link. It may be of the other family (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The routing table.
    pub table: u32,
    /// The metric of the route; 0 where it has none.
    pub metric: u32,
    /// Length of the prefix that matched, bits; `None` where the kernel does not tell.
    pub prefix_len: Option<u8>,
    /// The MTU of the route or of the path, octets, where it was set or learned (RFC 1191, RFC 8201).
    pub mtu: Option<u32>,
    /// Whether that MTU was learned from an ICMP message and will be forgotten again.
    pub mtu_is_learned: bool,
}

/// Why there is no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No route matches (ENETUNREACH).
    Missing,
    /// A route says so: `unreachable` (EHOSTUNREACH).
    Unreachable,
    /// A route drops what goes there: `blackhole` (EINVAL).
    Blackhole,
    /// A route forbids it: `prohibit` (EACCES).
    Prohibited,
}

impl NoRoute {
    /// The answers of `fib_props` (`net/ipv4/fib_semantics.c`) and `ip6_route_info_create` (`net/ipv6/route.c`).
    fn from_errno(errno: i32) -> Option<Self> {
        match errno {
            libc::ENETUNREACH => Some(Self::Missing),
            libc::EHOSTUNREACH => Some(Self::Unreachable),
            libc::EINVAL => Some(Self::Blackhole),
            libc::EACCES => Some(Self::Prohibited),
            _ => None,
        }
    }
}

impl Links {
    /// The way to an address as the calling user's packets would go, or why there is none.
    ///
    /// # Errors
    /// rtnetlink does not answer, or with what is no answer.
    pub async fn route_to(&self, address: IpAddr) -> Result<Result<Route, NoRoute>> {
        let what = || format!("cannot ask for the route to {address}");
        let chosen = match self.ask(address, RouteFlags::LookupTable).await {
            Ok(chosen) => chosen,
            Err(rtnetlink::Error::NetlinkError(error)) => {
                return match NoRoute::from_errno(error.raw_code().abs()) {
                    Some(none) => Ok(Err(none)),
                    None => Err(error.to_io()).with_context(what),
                };
            }
            Err(error) => return Err(error).with_context(what),
        };
        let mut route = route(&chosen.with_context(what)?);
        // The entry that matched has the metric and the prefix; its absence takes nothing from the route.
        let flags = RouteFlags::LookupTable | RouteFlags::FibMatch;
        if let Ok(Some(entry)) = self.ask(address, flags).await {
            route.prefix_len = Some(entry.header.destination_prefix_length);
            for attribute in entry.attributes {
                if let RouteAttribute::Priority(metric) = attribute {
                    route.metric = metric;
                }
            }
        }
        Ok(Ok(route))
    }

    async fn ask(
        &self,
        address: IpAddr,
        flags: RouteFlags,
    ) -> Result<Option<RouteMessage>, rtnetlink::Error> {
        let mut message = RouteMessage::default();
        (
            message.header.address_family,
            message.header.destination_prefix_length,
        ) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.flags = flags;
        message
            .attributes
            .push(RouteAttribute::Destination(address.into()));
        let mut answers = Box::pin(self.handle().route().get(message).execute());
        answers.try_next().await
    }
}

fn route(message: &RouteMessage) -> Route {
    let mut route = Route {
        local: message.header.kind == RouteType::Local,
        ifindex: 0,
        source: None,
        gateway: None,
        table: message.header.table.into(),
        metric: 0,
        prefix_len: None,
        mtu: None,
        mtu_is_learned: false,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(v4)) => route.gateway = Some((*v4).into()),
            RouteAttribute::Via(RouteVia::Inet6(v6)) => route.gateway = Some((*v6).into()),
            RouteAttribute::CacheInfo(info) => route.mtu_is_learned = info.expires != 0,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = Some(*mtu);
                    }
                }
            }
            _ => {}
        }
    }
    route.gateway = route.gateway.filter(|gateway| !gateway.is_unspecified());
    route.mtu_is_learned &= route.mtu.is_some();
    route
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{block_on, in_netns, run};

    fn ask(address: &str) -> Result<Route, NoRoute> {
        let address = address.parse().expect("an address");
        block_on(async { Links::open().expect("rtnetlink").route_to(address).await })
            .expect("an answer")
    }

    #[test]
    fn the_way_is_told_with_interface_source_next_hop_table_and_metric() {
        in_netns(|| {
            run("ip", "link add lab0 type veth peer name lab1");
            run("ip", "link set lab0 up");
            run("ip", "link set lab1 up");
            run("ip", "addr add 192.0.2.2/24 dev lab0");
            run("ip", "addr add 2001:db8::2/64 dev lab0 nodad");
            for route in [
                "route add 198.51.100.0/24 via 192.0.2.1 metric 50 mtu 1400",
                "route add 203.0.113.0/24 via inet6 2001:db8::1 dev lab0 table 77",
                "rule add to 203.0.113.0/24 lookup 77",
                "-6 route add 2001:db8:1::/48 via 2001:db8::1 metric 7",
                "route add blackhole 198.18.1.0/24",
                "route add unreachable 198.18.2.0/24",
                "route add prohibit 198.18.3.0/24",
                "-6 route add blackhole 2001:2:1::/48",
                "-6 route add unreachable 2001:2:2::/48",
                "-6 route add prohibit 2001:2:3::/48",
            ] {
                run("ip", route);
            }
            let lab0 = nix::net::if_::if_nametoindex("lab0").expect("the link");
            let on_link = ask("192.0.2.9").expect("a route");
            assert_eq!((on_link.ifindex, on_link.gateway), (lab0, None));
            assert_eq!(on_link.source, "192.0.2.2".parse().ok());
            assert_eq!((on_link.table, on_link.prefix_len), (MAIN, Some(24)));
            let routed = ask("198.51.100.7").expect("a route");
            assert_eq!(routed.gateway, "192.0.2.1".parse().ok());
            assert_eq!((routed.metric, routed.mtu), (50, Some(1400)));
            assert!(!routed.mtu_is_learned && !routed.local);
            let by_rule = ask("203.0.113.7").expect("a route");
            assert_eq!(by_rule.gateway, "2001:db8::1".parse().ok());
            assert_eq!(by_rule.table, 77);
            let v6 = ask("2001:db8:1::7").expect("a route");
            assert_eq!(v6.gateway, "2001:db8::1".parse().ok());
            assert_eq!((v6.metric, v6.prefix_len), (7, Some(48)));
            for own in ["192.0.2.2", "127.0.0.1", "::1", "2001:db8::2"] {
                assert!(ask(own).expect("a route").local, "{own}");
            }
            for (address, why) in [
                ("198.18.1.1", NoRoute::Blackhole),
                ("198.18.2.1", NoRoute::Unreachable),
                ("198.18.3.1", NoRoute::Prohibited),
                ("198.18.4.1", NoRoute::Missing),
                ("2001:2:1::1", NoRoute::Blackhole),
                ("2001:2:2::1", NoRoute::Unreachable),
                ("2001:2:3::1", NoRoute::Prohibited),
                ("2001:2:4::1", NoRoute::Missing),
            ] {
                assert_eq!(ask(address), Err(why), "{address}");
            }
        });
    }
}
