//! The bindings: which neighbour is where, by whose word, and what the data path is told of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use net_common::{
    abi::{BINDING_MACS, Binding, Limit, NeighborKey, NeighborSettings},
    units::Mac,
};

use super::{
    Now,
    ports::{self, Port},
    state::Saved,
};
use crate::{
    config::{GuardMode, NeighborPolicy, RateLimit},
    control::protocol::{BindingHistory, BindingOrigin},
    listeners::tolerance_ns,
};

/// Lines of a binding's history.
const HISTORY: usize = 32;
/// Of these, lines about false claims, each by another. Whoever takes ever new link-layer addresses adds no more.
const FALSE: usize = 8;
/// After which a line about a false claim makes room for another.
const FALSE_KEPT: Duration = Duration::from_secs(3600);
/// What such a line begins with.
const FALSELY: &str = "falsely claimed by";
/// Link-layer addresses that a binding had before and that are remembered.
const PAST: usize = 16;
/// Learned bindings. Routes beyond are not followed: who sends router advertisements could make them up.
const LEARNED: usize = 64;
/// How long a learned binding stays after the last default route to it: routes come and go with leases and links.
const KEPT: Duration = Duration::from_secs(600);

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its link-layer addresses; none while it is learned.
    pub macs: Vec<Mac>,
    /// Those it had before, latest last.
    pub past: Vec<Mac>,
    /// By whose word.
    pub origin: BindingOrigin,
    /// May send router advertisements while the RA guard is on.
    pub router: bool,
    /// What happened to it.
    pub history: VecDeque<BindingHistory>,
    /// When it answered last, and as whom.
    pub answered: Option<(Duration, Mac)>,
    /// Claims of others that were found false.
    pub spoofs: u64,
    /// Since when no default route leads to it.
    unrouted: Option<Duration>,
}

impl Entry {
    /// A binding without a past.
    pub fn new(macs: Vec<Mac>, origin: BindingOrigin, router: bool) -> Self {
        Self {
            macs,
            past: Vec::new(),
            origin,
            router,
            history: VecDeque::new(),
            answered: None,
            spoofs: 0,
            unrouted: None,
        }
    }

    /// Adds a line to the history.
    pub fn note(&mut self, what: String, now: Now) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let at = now.wall.as_secs();
        self.history.push_back(BindingHistory { at, what });
    }

    /// Counts a false claim and, of each claimant, adds a line to the history; gives whether it did.
    pub fn spoofed(&mut self, by: &str, now: Now) -> bool {
        self.spoofs += 1;
        let what = format!("{FALSELY} {by}");
        if self.history.iter().any(|line| line.what == what) {
            return false;
        }
        let is_false = |line: &BindingHistory| line.what.starts_with(FALSELY);
        if self.history.iter().filter(|line| is_false(line)).count() >= FALSE {
            let old = now.wall.saturating_sub(FALSE_KEPT).as_secs();
            let oldest = self.history.iter().position(is_false);
            let Some(oldest) = oldest.filter(|&i| self.history[i].at <= old) else {
                return false;
            };
            self.history.remove(oldest);
        }
        self.note(what, now);
        true
    }

    /// Holds what was read to the bounds of what is remembered.
    pub(super) fn trim(&mut self) {
        self.history
            .drain(..self.history.len().saturating_sub(HISTORY));
        self.past.drain(..self.past.len().saturating_sub(PAST));
    }

    /// Gives it other link-layer addresses and remembers those it had.
    pub fn set(&mut self, macs: Vec<Mac>) {
        for old in std::mem::replace(&mut self.macs, macs) {
            self.past.retain(|mac| *mac != old);
            self.past.push(old);
        }
        let macs = &self.macs;
        self.past.retain(|mac| !macs.contains(mac));
        self.past.drain(..self.past.len().saturating_sub(PAST));
    }

    /// Whether the operator named it: it does not move then.
    pub fn is_fixed(&self) -> bool {
        self.origin != BindingOrigin::Learned
    }

    /// Which of its link-layer addresses to use: that which answered last, or else the first.
    pub fn mac(&self) -> Option<Mac> {
        let answered = self.answered.map(|(_, mac)| mac);
        answered
            .filter(|mac| self.macs.contains(mac))
            .or(self.macs.first().copied())
    }
}

/// Bindings whose place the config took.
pub type Displaced = Vec<(NeighborKey, Entry)>;

/// What a change of the default routes made of the learned bindings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// To be learned.
    pub new: Vec<NeighborKey>,
    /// Gone.
    pub gone: Vec<NeighborKey>,
    /// Not followed, as there are too many.
    pub left_out: usize,
    /// Saved ones of interfaces that are not attached were forgotten.
    pub forgotten: bool,
}

/// Every binding but those of own addresses.
#[derive(Debug, Default)]
pub struct Bindings {
    entries: BTreeMap<NeighborKey, Entry>,
    /// Restored ones of interfaces that are not attached now; kept for when they are.
    elsewhere: Vec<Saved>,
    /// When they were restored.
    restored: Duration,
}

impl Bindings {
    /// Those of the config, and those that were saved. The config wins over what was pinned.
    pub fn new(policy: &NeighborPolicy, saved: Vec<Saved>, ports: &[Port], now: Now) -> Self {
        let mut new = Self {
            restored: now.mono,
            ..Self::default()
        };
        for port in ports {
            new.add_named(policy, port);
        }
        for saved in saved {
            new.restore(saved, policy, ports, now);
        }
        new
    }

    /// Those of the config that are for an interface.
    fn add_named(&mut self, policy: &NeighborPolicy, port: &Port) {
        for named in &policy.bindings {
            let elsewhere = |name: &String| *name != port.name;
            if named.interface.as_ref().is_some_and(elsewhere) {
                continue;
            }
            let key = ports::key(named.address, port.ifindex, named.vlan);
            let entry = Entry::new(named.macs.clone(), BindingOrigin::Config, named.router);
            self.entries.insert(key, entry);
        }
    }

    /// Other interfaces are attached than `before`. What belongs to those that are gone is kept for when one of their name
    /// is back; gives its keys.
    pub(super) fn reattach(
        &mut self,
        policy: &NeighborPolicy,
        before: &[Port],
        ports: &[Port],
        now: Now,
    ) -> Vec<NeighborKey> {
        let among = |ports: &[Port], ifindex| ports.iter().any(|p| p.ifindex == ifindex);
        let gone = self.entries.keys().filter(|key| !among(ports, key.ifindex));
        let gone: Vec<_> = gone.copied().collect();
        for key in &gone {
            let port = before.iter().find(|port| port.ifindex == key.ifindex);
            if let Some((entry, port)) = self.entries.remove(key).zip(port)
                && !entry.macs.is_empty()
            {
                self.elsewhere.push(Saved::new(key, &entry, &port.name));
                // Learned ones are forgotten some time after this, if the interface does not come back.
                self.restored = now.mono;
            }
        }
        for port in ports.iter().filter(|port| !among(before, port.ifindex)) {
            self.add_named(policy, port);
            let here = |saved: &mut Saved| saved.interface == port.name;
            let back: Vec<_> = self.elsewhere.extract_if(.., here).collect();
            for saved in back {
                self.restore(saved, policy, ports, now);
            }
        }
        gone
    }

    /// Follows another config: what it names takes the place of what there is, and what it names no more is gone, unless
    /// it is `put_back`. Gives what was replaced, and every key that has changed.
    pub(super) fn follow(
        &mut self,
        policy: &NeighborPolicy,
        ports: &[Port],
        put_back: Displaced,
        now: Now,
    ) -> (Displaced, Vec<NeighborKey>) {
        let mut wanted = BTreeMap::new();
        for named in &policy.bindings {
            let here = |port: &&Port| {
                let interface = named.interface.as_ref();
                interface.is_none_or(|name| *name == port.name)
            };
            for port in ports.iter().filter(here) {
                wanted.insert(ports::key(named.address, port.ifindex, named.vlan), named);
            }
        }
        let (mut displaced, mut touched) = (Vec::new(), Vec::new());
        self.entries.retain(|key, entry| {
            let stays = match entry.origin {
                BindingOrigin::Config => wanted.contains_key(key),
                BindingOrigin::Learned => policy.learn_gateways,
                BindingOrigin::Pinned => true,
            };
            if !stays {
                touched.push(*key);
                if entry.origin == BindingOrigin::Learned {
                    displaced.push((*key, entry.clone()));
                }
            }
            stays
        });
        for (key, entry) in put_back {
            let learned = entry.origin == BindingOrigin::Learned;
            let fits = !wanted.contains_key(&key) && (policy.learn_gateways || !learned);
            if fits && !self.entries.contains_key(&key) {
                self.entries.insert(key, entry);
                touched.push(key);
            }
        }
        for (key, named) in wanted {
            match self.entries.get_mut(&key) {
                Some(there)
                    if there.origin == BindingOrigin::Config
                        && there.macs == named.macs
                        && there.router == named.router =>
                {
                    continue;
                }
                Some(there) => {
                    if there.origin != BindingOrigin::Config {
                        displaced.push((key, there.clone()));
                    }
                    there.set(named.macs.clone());
                    there.origin = BindingOrigin::Config;
                    there.router = named.router;
                    there.note("named in the config, which was reloaded".to_owned(), now);
                }
                None => {
                    let entry = Entry::new(named.macs.clone(), BindingOrigin::Config, named.router);
                    self.entries.insert(key, entry);
                }
            }
            touched.push(key);
        }
        (displaced, touched)
    }

    /// What was saved. What was pinned meanwhile stays, and what was only learned gives way to a pin.
    pub(super) fn restore(
        &mut self,
        saved: Saved,
        policy: &NeighborPolicy,
        ports: &[Port],
        now: Now,
    ) {
        let learned = saved.origin == BindingOrigin::Learned;
        let named = saved.origin == BindingOrigin::Config;
        if learned && !policy.learn_gateways {
            return;
        }
        let port = ports.iter().find(|port| port.name == saved.interface);
        let Some(key) = port.map(|port| ports::key(saved.address, port.ifindex, saved.vlan)) else {
            if !named {
                self.elsewhere.push(saved);
            }
            return;
        };
        let mut entry = saved.into_entry();
        match self.entries.get_mut(&key) {
            Some(there) if there.origin == BindingOrigin::Config => {
                let before = match entry.origin {
                    BindingOrigin::Learned => "learned",
                    BindingOrigin::Pinned => "pinned",
                    BindingOrigin::Config => "before",
                };
                let differs = entry.macs != there.macs;
                entry.set(there.macs.clone());
                entry.origin = there.origin;
                entry.router = there.router;
                if differs {
                    entry.note(format!("named in the config, no longer as {before}"), now);
                }
                *there = entry;
            }
            // The config names it no more.
            _ if named => {}
            Some(there) if there.is_fixed() || learned && !there.macs.is_empty() => {}
            _ => {
                entry.unrouted = learned.then_some(now.mono);
                self.entries.insert(key, entry);
            }
        }
    }

    /// What is to be saved: nothing that the config says already but for its past.
    pub fn saved(&self, ports: &[Port]) -> Vec<Saved> {
        let named = self.entries.iter().filter_map(|(key, entry)| {
            let port = ports.iter().find(|port| port.ifindex == key.ifindex)?;
            let past = entry.spoofs > 0 || !entry.history.is_empty() || !entry.past.is_empty();
            let worth = entry.origin != BindingOrigin::Config || past;
            (worth && !entry.macs.is_empty()).then(|| Saved::new(key, entry, &port.name))
        });
        named.chain(self.elsewhere.iter().cloned()).collect()
    }

    /// Every binding, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&NeighborKey, &Entry)> {
        self.entries.iter()
    }

    /// One of them.
    pub fn get(&self, key: &NeighborKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// One of them, to change it.
    pub fn get_mut(&mut self, key: &NeighborKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// Puts a binding in place of what there was.
    pub fn insert(&mut self, key: NeighborKey, entry: Entry) {
        self.entries.insert(key, entry);
    }

    /// Takes a binding away.
    pub fn remove(&mut self, key: &NeighborKey) -> Option<Entry> {
        self.entries.remove(key)
    }

    /// Takes away the pins of an address on interfaces that are not attached, or on one of them.
    pub fn unpin_elsewhere(
        &mut self,
        ip: IpAddr,
        vlan: u16,
        interface: Option<&str>,
    ) -> Vec<Saved> {
        let meant = |saved: &mut Saved| {
            saved.origin == BindingOrigin::Pinned
                && (saved.address, saved.vlan) == (ip, vlan)
                && interface.is_none_or(|name| name == saved.interface)
        };
        self.elsewhere.extract_if(.., meant).collect()
    }

    /// Follows the default routes: their next hops are `wanted`.
    pub fn route(&mut self, wanted: &BTreeSet<NeighborKey>, now: Now) -> Routed {
        let mut routed = Routed::default();
        if now.mono >= self.restored + KEPT {
            let before = self.elsewhere.len();
            self.elsewhere
                .retain(|saved| saved.origin != BindingOrigin::Learned);
            routed.forgotten = self.elsewhere.len() < before;
        }
        for (key, entry) in &mut self.entries {
            if entry.origin == BindingOrigin::Learned {
                if wanted.contains(key) {
                    entry.unrouted = None;
                } else if now.mono >= *entry.unrouted.get_or_insert(now.mono) + KEPT {
                    routed.gone.push(*key);
                }
            }
        }
        for key in &routed.gone {
            self.entries.remove(key);
        }
        let learned = |e: &&Entry| e.origin == BindingOrigin::Learned;
        let mut room = LEARNED.saturating_sub(self.entries.values().filter(learned).count());
        for key in wanted {
            if self.entries.contains_key(key) {
                continue;
            }
            if room == 0 {
                routed.left_out += 1;
                continue;
            }
            room -= 1;
            let entry = Entry::new(Vec::new(), BindingOrigin::Learned, false);
            self.entries.insert(*key, entry);
            routed.new.push(*key);
        }
        routed
    }

    /// The entries of `BINDINGS`. An own address is no neighbour's, whatever else is said of it.
    pub fn compile(&self, ports: &[Port], routers: &[Ipv6Addr]) -> HashMap<NeighborKey, Binding> {
        let mut compiled = HashMap::new();
        for port in ports {
            let vlans: BTreeSet<u16> = port.above.values().map(|tags| tags.vlan).collect();
            for (&vlan, &router) in vlans
                .iter()
                .flat_map(|v| routers.iter().map(move |r| (v, r)))
            {
                let key = ports::key(router.into(), port.ifindex, vlan);
                compiled.insert(key, binding(&[], Binding::ROUTER));
            }
        }
        for (key, entry) in &self.entries {
            let mut flags = 0;
            let mut set = |on, flag| flags |= if on { flag } else { 0 };
            set(!entry.macs.is_empty(), Binding::PROTECTED);
            set(entry.is_fixed(), Binding::PINNED);
            let listed = |ip| matches!(ip, IpAddr::V6(ip) if routers.contains(&ip));
            set(entry.router || listed(ports::address(key)), Binding::ROUTER);
            compiled.insert(*key, binding(&entry.macs, flags));
        }
        for port in ports {
            for own in &port.own {
                let key = ports::key(own.ip, port.ifindex, own.vlan);
                compiled.insert(key, binding(&own.macs, Binding::OWN));
            }
        }
        compiled
    }
}

fn binding(macs: &[Mac], flags: u32) -> Binding {
    let mut binding = Binding {
        flags,
        ..Binding::default()
    };
    for (place, mac) in binding.macs.iter_mut().zip(macs.iter().take(BINDING_MACS)) {
        *place = mac.0;
    }
    binding
}

/// The value of `NEIGHBOR_SETTINGS`.
pub fn settings(policy: &NeighborPolicy) -> NeighborSettings {
    let limit = |limit: RateLimit| {
        let interval_ns = limit.rate.interval_ns();
        Limit {
            interval_ns,
            tolerance_ns: tolerance_ns(interval_ns, limit.burst),
        }
    };
    let mut flags = 0;
    let mut set = |on: bool, flag: u32| flags |= if on { flag } else { 0 };
    set(policy.arp != GuardMode::Off, NeighborSettings::ARP);
    set(
        policy.arp == GuardMode::Enforce,
        NeighborSettings::ARP_ENFORCE,
    );
    set(policy.ndp != GuardMode::Off, NeighborSettings::NDP);
    set(
        policy.ndp == GuardMode::Enforce,
        NeighborSettings::NDP_ENFORCE,
    );
    set(policy.ra_guard(), NeighborSettings::RA_GUARD);
    set(policy.validate.src_mac, NeighborSettings::ARP_SRC_MAC);
    set(policy.validate.dst_mac, NeighborSettings::ARP_DST_MAC);
    set(policy.validate.ip, NeighborSettings::ARP_IP);
    NeighborSettings {
        mac: limit(policy.limit),
        announce: limit(policy.announce_limit),
        known: limit(policy.known_limit),
        unknown: limit(policy.unknown_limit),
        router: limit(policy.router_limit),
        share: limit(policy.share),
        flags,
        reserved: 0,
    }
}

#[cfg(test)]
mod tests;
