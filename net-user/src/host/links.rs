//! Links and addresses over rtnetlink.

use anyhow::{Context, Result};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use netlink_bindings::ethtool;
use netlink_socket2::NetlinkSocket;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::{Handle, MulticastGroup};
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};

/// Number of the operation (`linux/ethtool_netlink.h`).
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MTU, octets.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// The link below it works (IFF_LOWER_UP).
    pub carrier: bool,
    /// Link-layer address; `None` where it is not 6 octets long.
    pub mac: Option<[u8; 6]>,
    /// Kind as `ip -details link` shows it ("veth", "vlan", "bridge"); `None` for hardware.
    pub kind: Option<String>,
    /// Index of the lower interface of a VLAN or macvlan. Of a veth it is the peer's index, which may
    /// belong to another namespace.
    pub lower: Option<u32>,
    /// VLAN id of a VLAN interface: the tag its frames carry on `lower`.
    pub vlan_id: Option<u16>,
    /// Index of the bridge, bond or VRF that this interface is a port of.
    pub controller: Option<u32>,
    /// The XDP program attached, if any.
    pub xdp: Option<XdpProgram>,
    /// Packets received since the interface was made, as the driver counts them.
    pub rx_packets: u64,
}

impl Link {
    /// Whether this is a VLAN interface on top of `link`.
    pub fn is_vlan_of(&self, link: &Self) -> bool {
        self.kind.as_deref() == Some("vlan") && self.lower == Some(link.index)
    }
}

/// An XDP program on an interface (`rtnl_xdp_fill`, `net/core/rtnetlink.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    /// Program id; with [`XdpMode::Multiple`] that of the native program.
    pub id: u32,
    /// Where it runs.
    pub mode: XdpMode,
}

/// Where an XDP program runs: `IFLA_XDP_ATTACHED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's generic path.
    Generic,
    /// In the device.
    Offload,
    /// In several of these at once.
    Multiple,
}

/// An address that this network namespace answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The interface that carries it. Linux accepts it on any interface (weak host model, RFC 1122
    /// section 3.3.4.2), also one of `lo`.
    pub ifindex: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of the on-link prefix, bits.
    pub prefix_len: u8,
    /// The broadcast address that was assigned with it, if any (`ip addr add … broadcast …`).
    pub broadcast: Option<Ipv4Addr>,
}

/// A handle on rtnetlink for the network namespace of the thread that opened it.
#[derive(Clone)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// The handle itself, for [`super::neighbors`].
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Opens the netlink socket and serves it on a task of the current tokio runtime.
    pub fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open rtnetlink")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Every interface.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let messages = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect::<Vec<_>>()
            .await;
        Ok(messages
            .context("cannot list the interfaces")?
            .into_iter()
            .map(link)
            .collect())
    }

    /// Every unicast address of this namespace outside 127.0.0.0/8 and ::1, except those on which
    /// duplicate address detection failed or has not ended yet: they are not ours to answer for (RFC
    /// 4862 sections 5.4 and 5.4.5). Its end is an event of [`changes`].
    pub async fn addresses(&self) -> Result<Vec<Address>> {
        let messages = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect::<Vec<_>>()
            .await;
        Ok(messages
            .context("cannot list the addresses")?
            .iter()
            .filter_map(address)
            .collect())
    }
}

/// Yields once for each change of a link or an address, and when the kernel had to drop such news
/// (ENOBUFS): read both lists again then. Opened in the calling thread's network namespace.
pub fn changes() -> Result<impl Stream<Item = ()> + Send + Unpin> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, _, messages) =
        rtnetlink::new_multicast_connection(&groups).context("cannot watch links and addresses")?;
    tokio::spawn(connection);
    // netlink-proto turns ENOBUFS into an NLMSG_OVERRUN message: news like any other here.
    Ok(messages.map(|_| ()))
}

/// Whether the device takes VLAN tags out of frames before XDP sees them (`rx-vlan-hw-parse`, what
/// `ethtool -k` calls rx-vlan-offload). Blocking; asks the calling thread's network namespace.
pub fn strips_vlan_tags(interface: &str) -> Result<bool> {
    let name = CString::new(interface)?;
    let mut request = ethtool::Request::new().op_features_get_do();
    // netlink-bindings 0.3.5 numbers the operation 15, which is RINGS_GET.
    request.header_mut().cmd = ETHTOOL_MSG_FEATURES_GET;
    request
        .encode()
        .nested_header()
        .push_dev_name(&name)
        .end_nested();
    let mut socket = NetlinkSocket::new();
    let mut reply = socket
        .request(&request)
        .context("cannot ask ethtool netlink")?;
    let features = reply
        .recv_one()
        .map_err(std::io::Error::from)
        .with_context(|| format!("cannot read the offload features of {interface}"))?;
    let active = features
        .get_active()
        .context("no active features told")?
        .get_bits()?;
    Ok(active
        .get_bit()
        .any(|bit| bit.get_name().is_ok_and(|name| name == c"rx-vlan-hw-parse")))
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mac: None,
        kind: None,
        lower: None,
        vlan_id: None,
        controller: None,
        xdp: None,
        rx_packets: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Stats64(stats) => link.rx_packets = stats.rx_packets,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::Link(lower) => link.lower = Some(lower),
            LinkAttribute::Controller(controller) => link.controller = Some(controller),
            LinkAttribute::LinkInfo(info) => {
                for info in info {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Vlan(data)) => link.vlan_id = vlan_id(&data),
                        _ => {}
                    }
                }
            }
            LinkAttribute::Xdp(attributes) => link.xdp = xdp(&attributes),
            _ => {}
        }
    }
    link
}

fn vlan_id(data: &[InfoVlan]) -> Option<u16> {
    data.iter().find_map(|data| match data {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn xdp(attributes: &[LinkXdp]) -> Option<XdpProgram> {
    let mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(XdpMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpMode::Offload),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(XdpMode::Multiple),
        _ => None,
    })?;
    let id = attributes
        .iter()
        .find_map(|attribute| match (mode, attribute) {
            (XdpMode::Multiple, LinkXdp::DrvProgId(id)) => Some(*id),
            (XdpMode::Multiple, _) => None,
            (_, LinkXdp::ProgId(id)) => Some(*id),
            _ => None,
        });
    // Multiple without a native one (generic beside offload) is named by its mode alone.
    Some(XdpProgram {
        id: id.unwrap_or(0),
        mode,
    })
}

fn address(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut prefix = None;
    let mut broadcast = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link IFA_ADDRESS is the peer's; IFA_LOCAL is ours (linux/if_addr.h).
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => prefix = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let ip = local.or(prefix)?;
    let unconfirmed =
        flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    if ip.is_loopback()
        || ip.is_multicast()
        || unconfirmed
        || flags.contains(AddressFlags::Dadfailed)
    {
        return None;
    }
    Some(Address {
        ifindex: message.header.index,
        ip,
        prefix_len: message.header.prefix_len,
        broadcast,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{block_on, in_netns, run};
    use rtnetlink::packet_route::link::InfoKind;
    use std::time::Duration;

    fn veth_pair() {
        run("ip", "link add lab0 type veth peer name lab1");
        run("ip", "link set lab0 address 02:00:00:00:00:01 mtu 1400 up");
    }

    #[test]
    fn links_are_told_with_kind_mtu_mac_and_state() {
        in_netns(|| {
            veth_pair();
            run("ip", "link add lab2 type bridge");
            run("ip", "link set lab1 master lab2");
            run("ip", "link add link lab0 name lab3 type macvlan");
            let links = block_on(async {
                Links::open()
                    .expect("rtnetlink")
                    .links()
                    .await
                    .expect("links")
            });
            let find = |name| {
                links
                    .iter()
                    .find(|link| link.name == name)
                    .expect("the link is listed")
            };
            let (lower, bridge) = (find("lab0"), find("lab2"));
            assert_eq!((lower.mtu, lower.up, lower.xdp), (1400, true, None));
            assert_eq!(lower.mac, Some([2, 0, 0, 0, 0, 1]));
            assert_eq!(lower.kind.as_deref(), Some("veth"));
            assert!(!find("lab1").up);
            assert_eq!(find("lab1").controller, Some(bridge.index));
            assert_eq!(find("lab3").lower, Some(lower.index));
            assert!(!find("lab3").is_vlan_of(lower));
            assert_eq!(find("lab3").vlan_id, None);
            assert_eq!((find("lo").index, find("lo").kind.as_deref()), (1, None));
        });
    }

    /// From a message: not every kernel that the tests run on has VLAN interfaces.
    #[test]
    fn a_vlan_is_told_with_its_id() {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::Link(7),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100)])),
            ]),
        ];
        let vlan = link(message);
        assert_eq!(
            (vlan.kind.as_deref(), vlan.lower, vlan.vlan_id),
            (Some("vlan"), Some(7), Some(100))
        );
    }

    #[test]
    fn vlan_tag_stripping_is_told() {
        in_netns(|| {
            veth_pair();
            for (state, strips) in [("on", true), ("off", false)] {
                run("ethtool", &format!("-K lab0 rxvlan {state}"));
                assert_eq!(strips_vlan_tags("lab0").expect("features"), strips);
            }
            assert!(strips_vlan_tags("absent").is_err());
        });
    }

    #[test]
    fn own_addresses_leave_out_loopback_peers_and_unconfirmed_ones() {
        in_netns(|| {
            veth_pair();
            run("ip", "addr add 192.0.2.1/24 dev lab0");
            run("ip", "addr add 198.51.100.1 peer 198.51.100.2/32 dev lab0");
            run("ip", "addr add 203.0.113.1/32 dev lo");
            run("ip", "addr add 2001:db8::1/64 dev lab0 nodad");
            // Without a carrier duplicate address detection cannot end.
            run("ip", "addr add 2001:db8::2/64 dev lab0");
            let addresses = block_on(async {
                Links::open()
                    .expect("rtnetlink")
                    .addresses()
                    .await
                    .expect("addresses")
            });
            let mut told: Vec<_> = addresses
                .iter()
                .map(|a| format!("{}/{}", a.ip, a.prefix_len))
                .collect();
            told.sort();
            assert_eq!(
                told,
                [
                    "192.0.2.1/24",
                    "198.51.100.1/32",
                    "2001:db8::1/64",
                    "203.0.113.1/32"
                ]
            );
        });
    }

    #[test]
    fn changes_of_links_and_addresses_are_told() {
        in_netns(|| {
            veth_pair();
            block_on(async {
                let mut changes = changes().expect("a monitor");
                for change in [
                    "addr add 192.0.2.1/24 dev lab0",
                    "addr del 192.0.2.1/24 dev lab0",
                    "link set lab0 mtu 1300",
                    "link del lab0",
                ] {
                    run("ip", change);
                    let news = tokio::time::timeout(Duration::from_secs(5), changes.next()).await;
                    assert_eq!(news.expect(change), Some(()));
                    while let Some(Some(())) = futures::FutureExt::now_or_never(changes.next()) {}
                }
            });
        });
    }
}
