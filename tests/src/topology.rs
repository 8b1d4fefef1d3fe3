//! Hosts and how they are joined.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Mutex,
};

use anyhow::{Result, ensure};

use crate::{
    flood::{SOURCES_V4, SOURCES_V6},
    lab::Pass,
    link::{self, Link},
    netns::Namespace,
};

/// A host: a namespace with one interface and an address of each family.
pub struct Host {
    /// Its namespace.
    pub ns: Namespace,
    /// Its interface, `eth0`.
    pub link: Link,
    /// Its address in 198.18.0.0/24 (RFC 2544).
    pub v4: Ipv4Addr,
    /// Its address in 2001:2::/64 (RFC 5180).
    pub v6: Ipv6Addr,
}

impl Host {
    /// Its address of family 4 or 6, with a port.
    pub fn at(&self, family: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// Its address of family 4 or 6.
    pub fn ip(&self, family: u8) -> IpAddr {
        if family == 4 {
            self.v4.into()
        } else {
            self.v6.into()
        }
    }

    /// Sends what goes to the sources of floods ([`SOURCES_V4`], [`SOURCES_V6`]) to `via`, as a router would
    /// be there; no neighbour is asked for.
    ///
    /// # Errors
    /// A route exists already.
    pub fn route_sources_via(&self, via: &Self) -> Result<()> {
        let dev = &self.link.name;
        self.ns.ip(&format!(
            "{}\nroute add {}/{} via {} dev {dev}\nroute add {}/{} via {} dev {dev}",
            self.neighbour_lines(via),
            SOURCES_V4.0,
            SOURCES_V4.1,
            via.v4,
            SOURCES_V6.0,
            SOURCES_V6.1,
            via.v6,
        ))
    }

    /// Pins the neighbour entries of `other`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pin_neighbour(&self, other: &Self) -> Result<()> {
        self.ns.ip(&self.neighbour_lines(other))
    }

    fn neighbour_lines(&self, other: &Self) -> String {
        let (mac, dev) = (link::text(other.link.mac), &self.link.name);
        format!(
            "neigh replace {} lladdr {mac} dev {dev} nud permanent\n\
             neigh replace {} lladdr {mac} dev {dev} nud permanent",
            other.v4, other.v6
        )
    }

    /// Gives the interface its addresses.
    fn with_link(ns: Namespace, link: Link, number: u8) -> Result<Self> {
        let v4 = Ipv4Addr::new(198, 18, 0, number);
        let v6 = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, number.into());
        ns.ip(&format!(
            "addr add {v4}/24 dev {dev}\naddr add {v6}/64 dev {dev} nodad",
            dev = link.name
        ))?;
        Ok(Self { ns, link, v4, v6 })
    }
}

/// Two hosts on one wire: nothing between them costs anything.
pub struct Pair {
    /// The host to protect.
    pub server: Host,
    /// The other one.
    pub attacker: Host,
}

impl Pair {
    /// Joins two new hosts; each knows the other's hardware address.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        let (server, attacker) = (Namespace::new("server")?, Namespace::new("attacker")?);
        let (left, right) = link::veth((&server, "eth0"), (&attacker, "eth0"), (1, 2))?;
        let server = Host::with_link(server, left, 1)?;
        let attacker = Host::with_link(attacker, right, 2)?;
        attacker.pin_neighbour(&server)?;
        server.route_sources_via(&attacker)?;
        Ok(Self { server, attacker })
    }
}

/// Hosts on one bridge. Drop it after them, or not at all: they do not need it to be dropped.
pub struct Lan {
    bridge: Namespace,
    ports: Mutex<Ports>,
}

struct Ports {
    count: u8,
    /// Bridge ports take `XDP_TX` and redirected frames only with a program of their own.
    pass: Pass,
}

impl Lan {
    /// A bridge without hosts.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        let bridge = Namespace::new("bridge")?;
        bridge.ip(
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up",
        )?;
        let ports = Ports {
            count: 0,
            pass: Pass::load()?,
        };
        Ok(Self {
            bridge,
            ports: Mutex::new(ports),
        })
    }

    /// A new host on the bridge. Hosts find one another by ARP and neighbour discovery.
    ///
    /// # Errors
    /// There are 126 already.
    pub fn host(&self, role: &str) -> Result<Host> {
        let mut ports = self
            .ports
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        ensure!(ports.count < 126, "a bridge takes 126 hosts");
        ports.count += 1;
        let (number, port) = (ports.count, format!("p{}", ports.count));
        let ns = Namespace::new(role)?;
        let (link, end) = link::veth(
            (&ns, "eth0"),
            (&self.bridge, &port),
            (number, number | 0x80),
        )?;
        ports.pass.attach(&self.bridge, &end)?;
        self.bridge.ip(&format!("link set {port} master br0"))?;
        Host::with_link(ns, link, number)
    }

    /// The bridge's own namespace; its interfaces are `br0` and `p1`, `p2`… in the hosts' order.
    pub fn bridge(&self) -> &Namespace {
        &self.bridge
    }
}
