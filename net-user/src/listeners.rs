//! Which listeners get cookies, and what the data path must know of each: from sock_diag, addresses,
//! links, sysctls and policy to the entries of `LISTENERS`. No system calls here.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use net_common::{
    abi::{FlowKey, Listener, ListenerKey, MAX_LISTENERS},
    units::addr_words,
};

use crate::{
    config::{ListenerPolicy, SynMode, SynPolicy},
    host::{
        links::{Address, Link},
        sock_diag::ListenSocket,
        sysctl::{TcpSettings, advertised},
    },
};

/// An attached interface as the compilation sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its MTU for IPv4, octets.
    pub mtu: u32,
    /// Its link-layer address; None where it is no Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Its MTU and hop limit for IPv6; None where IPv6 is off.
    pub ipv6: Option<(u32, u8)>,
}

/// Everything that the entries follow from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Interfaces with the program on them.
    pub interfaces: Vec<Interface>,
    /// Every link of the namespace, by index.
    pub links: HashMap<u32, Link>,
    /// Own unicast addresses.
    pub addresses: Vec<Address>,
    /// TCP sysctls.
    pub settings: TcpSettings,
}

/// A listening socket and what became of it.
#[derive(Clone, Debug)]
pub struct Classified {
    /// As sock_diag told it.
    pub socket: ListenSocket,
    /// Its port's policy.
    pub mode: SynMode,
    /// Index of its statistics; None when there is no room for another.
    pub slot: Option<u32>,
    /// Whether it gets cookies when it needs them.
    pub protected: bool,
    /// Why it gets no cookies.
    pub why_not: Option<String>,
}

/// What the compilation gives.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The entries of `LISTENERS`.
    pub entries: HashMap<ListenerKey, Listener>,
    /// Every listener of the namespace.
    pub listeners: Vec<Classified>,
    /// Slots that were given to a listener just now; their statistics are somebody else's.
    pub fresh_slots: Vec<u32>,
}

impl Compiled {
    /// Whether these sockets give the same entries: none came, went or changed but for what waits in its accept queue, and
    /// none of these became full or ceased to be.
    pub fn is_still_so(&self, sockets: &[ListenSocket]) -> bool {
        let same = |(known, socket): (&Classified, &ListenSocket)| {
            let known = &known.socket;
            let queue = ListenSocket {
                accept_queue: known.accept_queue,
                drops: known.drops,
                ..socket.clone()
            };
            *known == queue && known.accept_queue_is_full() == socket.accept_queue_is_full()
        };
        sockets.len() == self.listeners.len() && self.listeners.iter().zip(sockets).all(same)
    }

    /// Whether nothing waits for `accept()` anywhere.
    pub fn is_quiet(&self) -> bool {
        self.listeners.iter().all(|l| l.socket.accept_queue == 0)
    }

    /// Takes the sockets as they are now, which must be the same ones.
    pub fn renew(&mut self, sockets: Vec<ListenSocket>) {
        for (known, socket) in self.listeners.iter_mut().zip(sockets) {
            known.socket = socket;
        }
        self.fresh_slots.clear();
    }
}

/// Index of the loopback interface in every network namespace (`LOOPBACK_IFINDEX`, Linux).
pub const LOOPBACK: u32 = 1;

/// What makes a listener the same one across two dumps: a reuseport group is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Bound address; unspecified for all.
    pub address: IpAddr,
    /// Bound port.
    pub port: u16,
    /// Family of the socket, 4 or 6.
    pub family: u8,
    /// SO_BINDTODEVICE; 0 for any interface.
    pub ifindex: u32,
}

/// Statistics slots, kept by a listener as long as it lives.
#[derive(Debug, Default)]
pub struct Slots {
    of: HashMap<Identity, u32>,
    free: Vec<u32>,
    next: u32,
}

impl Slots {
    /// The slots that an agent before gave to listeners, so that their counters go on. A listener that is bound to a device
    /// has none of its own there, and gets another.
    pub fn adopt(found: &HashMap<FlowKey, u32>) -> Self {
        let of: HashMap<_, _> = found
            .iter()
            .filter(|&(_, &slot)| slot < MAX_LISTENERS)
            .filter_map(|(key, &slot)| Some((of_flow(key)?, slot)))
            .collect();
        let next = of.values().max().map_or(0, |slot| slot + 1);
        let used: HashSet<_> = of.values().copied().collect();
        let free = (0..next).filter(|slot| !used.contains(slot)).collect();
        Self { of, free, next }
    }

    fn assign(&mut self, identity: Identity, fresh: &mut Vec<u32>) -> Option<u32> {
        if let Some(&slot) = self.of.get(&identity) {
            return Some(slot);
        }
        let slot = self.free.pop().or_else(|| {
            let slot = self.next;
            (slot < MAX_LISTENERS).then(|| {
                self.next += 1;
                slot
            })
        })?;
        self.of.insert(identity, slot);
        fresh.push(slot);
        Some(slot)
    }

    /// Gives the fit a slot before the others, from which it takes one when all are taken: what cannot be protected keeps
    /// nothing else from it.
    fn assign_all<'a>(
        &mut self,
        sockets: impl Iterator<Item = (&'a ListenSocket, bool)> + Clone,
        fresh: &mut Vec<u32>,
    ) {
        let of = |wanted| {
            let sockets = sockets.clone();
            let wanted = sockets.filter(move |(_, fit)| *fit == wanted);
            wanted.map(|(socket, _)| identity(socket))
        };
        let mut left = Vec::new();
        for fit in of(true) {
            if self.assign(fit, fresh).is_none() {
                left.push(fit);
            }
        }
        if !left.is_empty() {
            let fit: HashSet<_> = of(true).collect();
            let mut others = of(false).filter(|identity| !fit.contains(identity));
            for identity in left {
                // Several of a group are left together.
                if self.of.contains_key(&identity) {
                    continue;
                }
                let Some(slot) = others.find_map(|other| self.of.remove(&other)) else {
                    break;
                };
                self.of.insert(identity, slot);
                fresh.push(slot);
            }
        }
        for other in of(false) {
            self.assign(other, fresh);
        }
    }

    fn retain(&mut self, live: &[ListenSocket]) {
        let live: HashSet<_> = live.iter().map(identity).collect();
        let free = &mut self.free;
        self.of.retain(|id, slot| {
            let keep = live.contains(id);
            if !keep {
                free.push(*slot);
            }
            keep
        });
    }
}

/// The listener that a key of `FLOW_SLOTS` stands for.
fn of_flow(key: &FlowKey) -> Option<Identity> {
    let octets: Vec<u8> = key
        .addr
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let address = match key.family {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets.get(..4)?).ok()?),
        6 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    Some(Identity {
        address,
        port: key.port,
        family: u8::try_from(key.family).ok()?,
        ifindex: 0,
    })
}

/// Which listener a socket belongs to.
pub fn identity(socket: &ListenSocket) -> Identity {
    Identity {
        address: socket.address,
        port: socket.port,
        family: socket.family,
        ifindex: socket.ifindex,
    }
}

/// How often the budget of a listener is halved ([`crate::queues::budget`]); one that is not named has all of it.
pub type Levels = HashMap<Identity, u32>;

/// Compiles the entries. A listener is fit unless its [`Classified::why_not`] says otherwise.
pub fn compile(
    sockets: Vec<ListenSocket>,
    facts: &Facts,
    policy: &SynPolicy,
    slots: &mut Slots,
    levels: &Levels,
) -> Compiled {
    let mut out = Compiled::default();
    slots.retain(&sockets);
    let reasons: Vec<_> = sockets
        .iter()
        .map(|socket| unfit(socket, facts, policy.for_port(socket.port)))
        .collect();
    let fit = reasons.iter().map(Option::is_none);
    slots.assign_all(sockets.iter().zip(fit), &mut out.fresh_slots);
    out.listeners = sockets
        .into_iter()
        .zip(reasons)
        .map(|(socket, reason)| {
            let policy = policy.for_port(socket.port);
            let slot = slots.of.get(&identity(&socket)).copied();
            let why_not = reason.or_else(|| {
                slot.is_none()
                    .then(|| format!("more than {MAX_LISTENERS} listeners: no room for another"))
            });
            Classified {
                socket,
                mode: policy.mode,
                slot,
                protected: why_not.is_none(),
                why_not,
            }
        })
        .collect();
    let mut by_port: HashMap<u16, Vec<&Classified>> = HashMap::new();
    for listener in &out.listeners {
        by_port
            .entry(listener.socket.port)
            .or_default()
            .push(listener);
    }
    for interface in &facts.interfaces {
        let above = above(interface.ifindex, &facts.links);
        let addresses = answered(interface, &above, facts);
        for (&port, candidates) in &by_port {
            for address in &addresses {
                let policy = (policy.for_port(port), levels);
                if let Some(value) = entry(candidates, interface, &above, address, facts, policy) {
                    let key = ListenerKey {
                        addr: addr_words(address.ip),
                        ifindex: interface.ifindex,
                        port,
                        family: if address.ip.is_ipv4() { 4 } else { 6 },
                    };
                    out.entries.insert(key, value);
                }
            }
        }
    }
    let used: HashSet<u32> = out.entries.values().map(|entry| entry.slot).collect();
    for listener in &mut out.listeners {
        let used = listener.slot.is_some_and(|slot| used.contains(&slot));
        if listener.protected && !used {
            listener.protected = false;
            listener.why_not = Some(
                "no address of an attached interface leads to it alone (see ARCHITECTURE.md, \
                 \"Which listeners are fit\")"
                    .into(),
            );
        }
    }
    out
}

/// Own addresses whose SYNs on `interface` may be answered there, least related first: of one address on
/// two links the closest counts.
fn answered<'a>(interface: &Interface, above: &HashSet<u32>, facts: &'a Facts) -> Vec<&'a Address> {
    let related = |a: &Address| a.ifindex == interface.ifindex || above.contains(&a.ifindex);
    // In a VRF the look-up is one of its own, which XDP on the port does not make.
    let vrf = |index: &u32| {
        let link = facts.links.get(index);
        link.is_some_and(|l| l.kind.as_deref() == Some("vrf"))
    };
    if above.iter().any(vrf) {
        return Vec::new();
    }
    let mut addresses: Vec<_> = facts
        .addresses
        .iter()
        // An address of lo is a service's (anycast, LVS): its answers leave by the routes, not by
        // the neighbour that the SYN came from.
        .filter(|a| a.ifindex != LOOPBACK)
        // A link-local address is ours on its own link alone (RFC 4007 section 5).
        .filter(|a| match a.ip {
            IpAddr::V6(ip) => !ip.is_unicast_link_local() || related(a),
            IpAddr::V4(ip) => !ip.is_link_local() || related(a),
        })
        .collect();
    addresses.sort_by_key(|a| related(a));
    addresses
}

/// Why cookies do not fit this listener.
fn unfit(socket: &ListenSocket, facts: &Facts, policy: &ListenerPolicy) -> Option<String> {
    if policy.mode == SynMode::Off {
        return Some("off by configuration".into());
    }
    if facts.settings.syncookies == 0 {
        return Some(
            "net.ipv4.tcp_syncookies is 0, so the kernel takes no cookie; set it to 1".into(),
        );
    }
    if facts.settings.conntrack_loose == Some(false) {
        return Some(
            "net.netfilter.nf_conntrack_tcp_loose is 0, so conntrack drops what it saw no SYN of; \
             set it to 1"
                .into(),
        );
    }
    // R-SYN-7: bpf_sk_assign_tcp_reqsk refuses MPTCP listeners.
    if socket.mptcp {
        return Some(
            "MPTCP listener (Go's default since 1.24): the kernel takes no cookie for it; GODEBUG=multipathtcp=0 changes that".into(),
        );
    }
    // R-SYN-9: we cannot sign.
    if socket.md5 {
        return Some("has TCP-MD5 keys (BGP): only the kernel can sign the SYN-ACK".into());
    }
    if socket.address.is_loopback() {
        return Some("listens on loopback only".into());
    }
    if socket.ifindex != 0 && !facts.interfaces.iter().any(|i| i.ifindex == socket.ifindex) {
        return Some("bound to an interface where netmoat is not attached".into());
    }
    None
}

/// Whether the kernel could hand a SYN to `address` on `ifindex` to this socket; the rank tells how closely
/// it is bound (Linux 6.12 `inet_lookup_listener`: the exact address first, then the wildcard).
fn rank(socket: &ListenSocket, ifindex: u32, address: IpAddr) -> Option<u8> {
    if socket.ifindex != 0 && socket.ifindex != ifindex {
        return None;
    }
    if socket.address == address {
        return Some(1);
    }
    if !socket.address.is_unspecified() {
        return None;
    }
    let family = if address.is_ipv4() { 4 } else { 6 };
    (socket.family == family || family == 4 && !socket.v6only).then_some(0)
}

/// The entry for one address, interface and port; None leaves its SYNs to the kernel.
fn entry(
    candidates: &[&Classified],
    interface: &Interface,
    above: &HashSet<u32>,
    address: &Address,
    facts: &Facts,
    (policy, levels): (&ListenerPolicy, &Levels),
) -> Option<Listener> {
    // XDP looks sockets up as of the attached interface: one that is bound to a device above it, or to any
    // other, would not be found, and its connections taken for false ACKs.
    if candidates
        .iter()
        .any(|l| l.socket.ifindex != 0 && l.socket.ifindex != interface.ifindex)
    {
        return None;
    }
    let ranked = |l: &&&Classified| rank(&l.socket, interface.ifindex, address.ip);
    let best = candidates.iter().filter_map(|l| ranked(&l)).max()?;
    let group: Vec<_> = candidates
        .iter()
        .filter(|l| ranked(l) == Some(best))
        .collect();
    // Which of several the kernel picks (reuseport, a device) XDP cannot know: one that is unfit keeps
    // the others from cookies.
    if group.iter().any(|l| l.why_not.is_some()) {
        return None;
    }
    let first = group.first()?;
    let v4 = address.ip.is_ipv4();
    // A VLAN, macvlan or bridge on top of the interface has an MTU and a link-layer address of its own.
    let upper = facts
        .links
        .get(&address.ifindex)
        .filter(|link| above.contains(&link.index));
    let link_mtu = upper.map_or(interface.mtu, |l| l.mtu.min(interface.mtu));
    let (mac_front, mac_back) = Listener::split_mac(upper.and_then(|l| l.mac).or(interface.mac)?);
    let (mtu, headers, hop_limit) = if v4 {
        (link_mtu, 40, facts.settings.ttl)
    } else {
        let (mtu, hop_limit) = interface.ipv6?;
        (link_mtu.min(mtu), 60, hop_limit)
    };
    let mss = u16::try_from(mtu.saturating_sub(headers)).unwrap_or(u16::MAX);
    let rcvbuf = group.iter().map(|l| l.socket.rcvbuf).min()?;
    let (window, wscale) = advertised(&facts.settings, rcvbuf, mss);
    let limit = group.iter().map(|l| l.socket.accept_limit).min()?;
    let mut flags = 0;
    let mut set = |on: bool, flag: u32| flags |= if on { flag } else { 0 };
    set(policy.mode == SynMode::Always, Listener::ALWAYS);
    // Of a reuseport group some member may still take it. Which one the kernel will pick is not known here.
    set(
        group.iter().all(|l| l.socket.accept_queue_is_full()),
        Listener::ACCEPT_FULL,
    );
    set(facts.settings.timestamps != 0, Listener::TIMESTAMPS);
    set(facts.settings.sack, Listener::SACK);
    set(facts.settings.window_scaling, Listener::WINDOW_SCALING);
    set(facts.settings.accepts_ecn(), Listener::ECN);
    let level = levels.get(&identity(&first.socket)).copied().unwrap_or(0);
    let interval_ns = budget_interval_ns(policy, level);
    Some(Listener {
        interval_ns,
        // No more than half of the SYN queue (which has the accept queue's limit, R-Q-2), so that a
        // flood's first burst does not fill it.
        tolerance_ns: tolerance_ns(interval_ns, (policy.burst.min(limit / 2) >> level).max(1)),
        slot: first.slot?,
        flags,
        mac_front,
        mss,
        window,
        mac_back,
        wscale,
        hop_limit,
        reserved: 0,
    })
}

/// Time between two SYNs of a budget that was halved so often, nanoseconds.
///
/// No overflow: an interval is at most 3.6e12 ns, and is doubled seven times at most.
pub fn budget_interval_ns(policy: &ListenerPolicy, level: u32) -> u64 {
    policy.budget.interval_ns() << level
}

/// Links that stand on the interface, at whatever height: VLANs and macvlans on it, the bridge, bond or
/// VRF that it is a port of, and what stands on those.
pub(crate) fn above(ifindex: u32, links: &HashMap<u32, Link>) -> HashSet<u32> {
    let mut found = HashSet::from([ifindex]);
    loop {
        let before = found.len();
        for link in links.values() {
            let stacked = matches!(link.kind.as_deref(), Some("vlan" | "macvlan"))
                && link.lower.is_some_and(|lower| found.contains(&lower));
            if stacked {
                found.insert(link.index);
            }
            if let (true, Some(controller)) = (found.contains(&link.index), link.controller) {
                found.insert(controller);
            }
        }
        if found.len() == before {
            found.remove(&ifindex);
            return found;
        }
    }
}

/// Coarsest step of the kernel's coarse clock (CONFIG_HZ=100), nanoseconds: a burst below it would let
/// fewer events pass than the rate says.
const CLOCK_STEP_NS: u64 = 10_000_000;

/// GCRA tolerance for a burst, nanoseconds.
///
/// No overflow: the config allows bursts up to 10^6 and intervals up to 3.6e12 ns.
pub fn tolerance_ns(interval_ns: u64, burst: u32) -> u64 {
    (interval_ns * u64::from(burst)).max(CLOCK_STEP_NS)
}

#[cfg(test)]
mod tests;
