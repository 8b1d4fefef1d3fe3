//! A victim, the gateway it reaches the world by, and an attacker on one bridge; what the victim's kernel
//! believes of its neighbours. Made for tests: whatever fails panics.

pub mod attack;
pub mod report;
pub mod transfer;

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    agent::Agent,
    link,
    process::Process,
    topology::{Host, Lan},
    wait,
};
use transfer::Transfer;

/// An address behind the gateway (RFC 5737).
pub const FAR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// As [`FAR_V4`] (RFC 3849).
pub const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// Both guards carry their drops out.
pub const ENFORCE: &str = "[arp]\nmode = \"enforce\"\n[ndp]\nmode = \"enforce\"";
/// Both guards only count and tell.
pub const OBSERVE: &str = "[arp]\nmode = \"observe\"\n[ndp]\nmode = \"observe\"";
/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Three hosts on a bridge, with room for more.
pub struct Scene {
    /// The host to protect. Its default routes lead to the gateway, for IPv6 by its link-local address.
    pub victim: Host,
    /// A router with [`FAR_V4`] and [`FAR_V6`]. It cannot be fooled: its entry of the victim is permanent.
    pub gateway: Host,
    /// The other one. It forwards nothing, so what it draws to itself is lost.
    pub attacker: Host,
    lan: Lan,
}

impl Scene {
    /// Hosts without an agent.
    #[expect(clippy::new_without_default, reason = "it makes namespaces")]
    pub fn new() -> Self {
        let lan = Lan::new().unwrap();
        let [victim, gateway, attacker] =
            ["victim", "gateway", "attacker"].map(|role| lan.host(role).unwrap());
        let scene = Self {
            victim,
            gateway,
            attacker,
            lan,
        };
        scene.make_router(&scene.gateway);
        let (v4, v6) = (scene.next_hop(4), scene.next_hop(6));
        scene
            .victim
            .ns
            .ip(&format!(
                "route add default via {v4} dev eth0\nroute add ::/0 via {v6} dev eth0 metric 100"
            ))
            .unwrap();
        scene
    }

    /// One more host on the bridge.
    pub fn host(&self, role: &str) -> Host {
        self.lan.host(role).unwrap()
    }

    /// The bridge, to switch links off at; the hosts' ports are `p1`, `p2`… in the order they were made.
    pub fn lan(&self) -> &Lan {
        &self.lan
    }

    /// Makes a host a router that has the far addresses and knows the victim for good.
    pub fn make_router(&self, host: &Host) {
        host.ns.sysctl("net.ipv4.ip_forward", "1").unwrap();
        host.ns.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
        host.pin_neighbour(&self.victim).unwrap();
        let (mac, own) = (self.victim.link.mac, link_local(self.victim.link.mac));
        host.ns
            .ip(&format!(
                "addr add {FAR_V4}/32 dev lo\naddr add {FAR_V6}/128 dev lo nodad\n\
                 neigh replace {own} lladdr {} dev eth0 nud permanent",
                link::text(mac)
            ))
            .unwrap();
    }

    /// The gateway goes dark; a router takes its addresses.
    pub fn fail_over(&self, spare: &Host) {
        self.lan.bridge().ip("link set p2 down").unwrap();
        let (v4, v6) = (self.next_hop(4), self.next_hop(6));
        spare
            .ns
            .ip(&format!(
                "addr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad"
            ))
            .unwrap();
    }

    /// The address of the victim's default route of family 4 or 6.
    pub fn next_hop(&self, family: u8) -> IpAddr {
        if family == 4 {
            self.gateway.v4.into()
        } else {
            link_local(self.gateway.link.mac).into()
        }
    }

    /// The victim's entry of its next hop.
    pub fn entry(&self, family: u8) -> Option<Entry> {
        entry(&self.victim, self.next_hop(family))
    }

    /// Whether the victim takes the attacker for its next hop.
    pub fn poisoned(&self, family: u8) -> bool {
        self.at(family, &self.attacker)
    }

    /// Whether the victim's entry of its next hop has this host's link-layer address.
    pub fn at(&self, family: u8, host: &Host) -> bool {
        self.entry(family)
            .is_some_and(|entry| entry.lladdr == Some(mac(host)))
    }

    /// Whether the victim reaches an address: a closed port answers, or an open one.
    pub fn reaches(&self, address: IpAddr) -> bool {
        reaches(&self.victim, address)
    }

    /// Waits until the victim takes `host` for its next hop.
    pub fn await_at(&self, family: u8, host: &Host) {
        let what = format!(
            "{} to be at {} for the victim",
            self.next_hop(family),
            mac(host)
        );
        wait::until(&what, PATIENCE, || self.at(family, host)).unwrap();
    }

    /// Lets the victim's kernel forget its next hop, so that it asks anew.
    pub fn forget(&self, family: u8) {
        forget(&self.victim, self.next_hop(family));
    }

    /// Starts the agent on the victim and waits until it protects the next hop of this family.
    pub fn protect(&self, family: u8, config: &str) -> Agent {
        let agent = Agent::start(&self.victim, config).unwrap();
        report::await_learned(&agent, self.next_hop(family), &self.gateway);
        agent
    }

    /// Opens a connection from the victim to the far address and keeps sending over it.
    pub fn transfer(&self, family: u8) -> Transfer {
        Transfer::start(self, family)
    }

    /// Looks over the victim's neighbour table from now on.
    pub fn watch(&self) -> Watch {
        Watch::start(&self.victim)
    }
}

/// One entry of a neighbour table, as `ip -json neigh` shows it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Entry {
    /// The neighbour's address.
    pub dst: IpAddr,
    /// Its link-layer address, when known.
    pub lladdr: Option<String>,
    /// `REACHABLE`, `STALE`… one of them, but for flags.
    #[serde(default)]
    pub state: Vec<String>,
}

/// A host's neighbour table.
pub fn entries(host: &Host) -> Vec<Entry> {
    json(host, &["neigh", "show", "dev", &host.link.name])
}

/// A host's entry of an address.
pub fn entry(host: &Host, address: IpAddr) -> Option<Entry> {
    entries(host).into_iter().find(|entry| entry.dst == address)
}

/// Whether a host reaches an address: port 9 is open, or closed.
pub fn reaches(host: &Host, address: IpAddr) -> bool {
    let tried = host
        .ns
        .run(|| TcpStream::connect_timeout(&(address, 9).into(), Duration::from_secs(3)));
    tried.map_or_else(
        |error| error.kind() == ErrorKind::ConnectionRefused,
        |_| true,
    )
}

/// Router advertisements that a host's kernel has taken in.
pub fn router_advertisements(host: &Host) -> u64 {
    let counters = host
        .ns
        .run(|| fs::read_to_string("/proc/thread-self/net/snmp6"))
        .unwrap();
    counters
        .lines()
        .find_map(|line| line.strip_prefix("Icmp6InRouterAdvertisements"))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// Frames that a host has received on its interface.
pub fn frames_received(host: &Host) -> u64 {
    let links: Vec<serde_json::Value> = json(host, &["-statistics", "link", "show", "eth0"]);
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

/// Lets a host's kernel forget a neighbour.
pub fn forget(host: &Host, address: IpAddr) {
    host.ns
        .ip(&format!("neigh flush to {address} dev {}", host.link.name))
        .unwrap();
}

/// What `ip -json` prints.
pub fn json<T: DeserializeOwned>(host: &Host, args: &[&str]) -> T {
    let printed = host
        .ns
        .succeed(Command::new("ip").arg("-json").args(args))
        .unwrap();
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// A host's link-layer address in words.
pub fn mac(host: &Host) -> String {
    link::text(host.link.mac)
}

/// The address that Linux makes of a link-layer address (RFC 4291 appendix A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.map(u16::from);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        (a ^ 2) << 8 | b,
        c << 8 | 0xff,
        0xfe00 | d,
        e << 8 | f,
    )
}

/// Every change of a host's neighbour table since it was started.
pub struct Watch {
    monitor: Process,
    host: String,
}

impl Watch {
    /// Starts, and returns when it sees changes.
    pub fn start(host: &Host) -> Self {
        let dev = &host.link.name;
        let monitor = Process::start(
            &host.ns,
            Command::new("ip").args(["monitor", "neigh", "dev", dev]),
        )
        .unwrap();
        // Made and unmade until the monitor tells of it.
        let probe = Ipv4Addr::new(198, 18, 0, 254);
        wait::until("`ip monitor` to see changes", PATIENCE, || {
            host.ns
                .ip(&format!(
                    "neigh replace {probe} lladdr 02:00:00:00:00:fe dev {dev} nud permanent\n\
                     neigh del {probe} dev {dev}"
                ))
                .unwrap();
            monitor.printed().contains("198.18.0.254 ")
        })
        .unwrap();
        Self {
            monitor,
            host: host.ns.name().to_owned(),
        }
    }

    /// The changes that put an address at a host.
    pub fn seen(&self, address: IpAddr, at: &Host) -> Vec<String> {
        let (address, mac) = (format!("{address} "), mac(at));
        self.monitor
            .printed()
            .lines()
            .filter(|line| line.starts_with(&address) && line.contains(&mac))
            .map(str::to_owned)
            .collect()
    }

    /// Panics if an address was ever put at a host, even for a moment.
    pub fn assert_never(&self, address: IpAddr, at: &Host) {
        let seen = self.seen(address, at);
        assert!(seen.is_empty(), "{}: {seen:#?}", self.host);
    }
}
