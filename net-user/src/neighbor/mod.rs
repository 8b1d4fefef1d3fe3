//! Neighbours: who they are, by whose word, and how that is found out.
//!
//! [`bindings`] says what is held to, [`verify`] asks whether it still holds, [`stations`] watches who else is on
//! the link, [`journal`] remembers what happened, [`state`] keeps it all across restarts. [`NeighborWatch`] has
//! them all. It does no I/O of its own but the asking: time, facts and events come in as arguments, and what the
//! maps and the kernel's table are to hold goes out.

pub mod ask;
pub mod audit;
pub mod bindings;
mod events;
pub mod journal;
pub mod ports;
mod requests;
pub mod state;
pub mod stations;
pub mod verify;
mod words;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    time::Duration,
};

use anyhow::{Result, anyhow};
use net_common::{
    abi::{Binding, NeighborKey},
    units::Mac,
};

pub use self::bindings::Displaced;
use self::{
    bindings::Bindings,
    journal::{Journal, Kind, Place},
    ports::{Port, address},
    state::{Saved, Store},
    stations::{Probes, Stations},
    verify::{Decision, Known, Output, Verifier},
};
use crate::{
    config::{GuardMode, NeighborPolicy},
    host::links::{Address, Link},
};

/// The time of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Of the coarse monotonic clock, as in events and in the heartbeat.
    pub mono: Duration,
    /// Since 1970.
    pub wall: Duration,
}

impl Now {
    /// The time of this call.
    ///
    /// # Errors
    /// None on Linux.
    pub fn read() -> Result<Self> {
        use nix::time::{ClockId, clock_gettime};
        Ok(Self {
            mono: clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)?.into(),
            wall: clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?.into(),
        })
    }

    /// So many seconds after the start, for tests.
    #[cfg(test)]
    pub(crate) fn at(seconds: u64) -> Self {
        let mono = Duration::from_secs(seconds);
        let wall = mono + Duration::from_secs(1_700_000_000);
        Self { mono, wall }
    }
}

/// Sends a frame through an interface.
pub type Send = Box<dyn FnMut(u32, &[u8]) -> io::Result<()> + std::marker::Send>;

/// An address that moved: the kernel's entries for it are to follow, as its claim was held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// The address.
    pub ip: IpAddr,
    /// Where it is.
    pub mac: Mac,
    /// The interfaces whose entries are for it.
    pub carriers: Vec<u32>,
}

/// All that the agent knows of neighbours.
pub struct NeighborWatch {
    policy: NeighborPolicy,
    /// The agent as a whole only observes.
    observe: bool,
    wanted: Vec<(String, u32)>,
    ports: Vec<Port>,
    gateways: BTreeSet<NeighborKey>,
    left_out: usize,
    bindings: Bindings,
    verifier: Verifier,
    stations: Stations,
    probes: Probes,
    journal: Journal,
    store: Store,
    send: Send,
    /// Events that the kernel could not tell of, since it began to count.
    lost: u64,
    /// The maps do not hold what they should.
    changed: bool,
    follow: Vec<Follow>,
}

impl NeighborWatch {
    /// With the bindings of the config and those that were `saved`, for the interfaces in `wanted` (name and index).
    /// [`Self::refresh`] comes next.
    pub fn new(
        policy: NeighborPolicy,
        wanted: Vec<(String, u32)>,
        store: Store,
        saved: Vec<Saved>,
        send: Send,
        now: Now,
    ) -> Self {
        let ports = Port::all(&wanted, &[], &[]);
        let bindings = Bindings::new(&policy, saved, &ports, now);
        Self {
            policy,
            observe: false,
            wanted,
            ports,
            gateways: BTreeSet::new(),
            left_out: 0,
            bindings,
            verifier: Verifier::default(),
            stations: Stations::new(now.mono),
            probes: Probes::default(),
            journal: Journal::new(now.wall),
            store,
            send,
            lost: 0,
            changed: true,
            follow: Vec::new(),
        }
    }

    /// Whether the agent as a whole only observes; for what is said of claims.
    pub fn set_observe(&mut self, observe: bool) {
        self.observe = observe;
    }

    /// Other interfaces are attached (name and index); [`Self::refresh`] comes next.
    pub fn set_interfaces(&mut self, wanted: Vec<(String, u32)>) {
        self.wanted = wanted;
    }

    /// Another config is in force. `put_back` are bindings whose place a config took that is no more; given are those
    /// whose place this one takes. `send` comes with a config that guards what was not guarded before.
    /// [`Self::refresh`] and [`Self::flush`] come next.
    pub fn set_policy(
        &mut self,
        policy: NeighborPolicy,
        put_back: Displaced,
        send: Option<Send>,
        now: Now,
    ) -> Displaced {
        let (displaced, touched) = self.bindings.follow(&policy, &self.ports, put_back, now);
        for key in &touched {
            self.verifier.forget(key);
        }
        self.policy = policy;
        if let Some(send) = send {
            self.send = send;
        }
        self.changed = true;
        if !touched.is_empty() {
            self.store.change();
        }
        displaced
    }

    /// The host may have changed: its links, own addresses, or the next hops of its default routes (interface and
    /// address).
    ///
    /// # Errors
    /// More default routes than are followed.
    pub fn refresh(
        &mut self,
        links: &[Link],
        addresses: &[Address],
        gateways: &[(u32, IpAddr)],
        now: Now,
    ) -> Result<()> {
        let ports = Port::all(&self.wanted, links, addresses);
        for port in ports.iter().filter(|port| !port.up) {
            let mut before = self.ports.iter();
            if before.any(|before| before.ifindex == port.ifindex && before.up) {
                self.verifier.link_lost(port.ifindex);
            }
        }
        let gone = self
            .bindings
            .reattach(&self.policy, &self.ports, &ports, now);
        for key in &gone {
            self.verifier.forget(key);
        }
        self.changed |= ports != self.ports;
        self.ports = ports;
        self.gateways = self.next_hops(gateways);
        self.route(now);
        match self.left_out {
            0 => Ok(()),
            more => Err(anyhow!(
                "{more} default routes are not protected, as there are too many; name the neighbours that matter \
                 as [[neighbor]] in the config"
            )),
        }
    }

    /// The keys of the next hops that are to be learned.
    fn next_hops(&self, gateways: &[(u32, IpAddr)]) -> BTreeSet<NeighborKey> {
        let mut keys = BTreeSet::new();
        for &(ifindex, ip) in gateways {
            let learn = self.policy.learn_gateways && self.mode(ip) != GuardMode::Off;
            if !learn || ip.is_unspecified() || self.is_own(ip) {
                continue;
            }
            for port in &self.ports {
                if let Some(tags) = port.above.get(&ifindex)
                    && tags.count <= 1
                {
                    keys.insert(ports::key(ip, port.ifindex, tags.vlan));
                }
            }
        }
        keys
    }

    /// Makes the learned bindings follow the gateways.
    fn route(&mut self, now: Now) {
        let routed = self.bindings.route(&self.gateways, now);
        self.left_out = routed.left_out;
        self.changed |= !routed.new.is_empty() || !routed.gone.is_empty();
        if routed.forgotten {
            self.store.change();
        }
        for key in &routed.gone {
            self.verifier.forget(key);
            self.store.change();
        }
        for key in routed.new {
            let mut out = Vec::new();
            if let Some(known) = known(&self.bindings, &self.ports, &key) {
                self.verifier.learn(key, known, now.mono, &mut out);
            }
            self.carry_out(out, now);
        }
    }

    /// The mode of the guard that judges an address.
    fn mode(&self, ip: IpAddr) -> GuardMode {
        if ip.is_ipv4() {
            self.policy.arp
        } else {
            self.policy.ndp
        }
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.ports
            .iter()
            .flat_map(|port| &port.own)
            .any(|own| own.ip == ip)
    }

    fn is_own_mac(&self, mac: Mac) -> bool {
        let own = |port: &Port| port.mac == mac || port.own.iter().any(|own| own.mac == mac);
        mac != Mac::NONE && self.ports.iter().any(own)
    }

    fn port(&self, key: &NeighborKey) -> Option<&Port> {
        self.ports.iter().find(|port| port.ifindex == key.ifindex)
    }

    fn place(&self, key: &NeighborKey) -> Place {
        let name = self.port(key).map_or("", |port| &port.name);
        Place {
            // Root may name an interface with whatever a terminal obeys.
            interface: name.escape_debug().to_string(),
            vlan: key.vlan,
            address: address(key).to_string(),
        }
    }

    fn note(&mut self, kind: Kind, key: &NeighborKey, macs: Vec<Mac>, text: String, now: Now) {
        let place = self.place(key);
        self.journal.note(kind, place, macs, text, now);
    }

    /// Time has passed. All events until `now` must have been told. Gives how a write of the state ended, when one
    /// did.
    pub fn tick(&mut self, now: Now) -> Option<Result<()>> {
        let mut out = Vec::new();
        let (bindings, ports) = (&self.bindings, &self.ports);
        self.verifier
            .tick(|key| known(bindings, ports, key), now.mono, &mut out);
        self.carry_out(out, now);
        self.journal.tick(now);
        let ended = self
            .store
            .tick(now.mono, || self.bindings.saved(&self.ports))?;
        Some(ended.map(|late| self.restore(late, now)))
    }

    /// What could not be read at the start.
    fn restore(&mut self, late: Vec<Saved>, now: Now) {
        for saved in late {
            if let Some(port) = self.ports.iter().find(|p| p.name == saved.interface) {
                let key = ports::key(saved.address, port.ifindex, saved.vlan);
                self.verifier.forget(&key);
            }
            self.bindings.restore(saved, &self.policy, &self.ports, now);
            self.changed = true;
        }
    }

    /// Saves at once what is not saved yet; gives the outcome, in words.
    pub fn save(&mut self) -> tokio::sync::oneshot::Receiver<Result<(), String>> {
        self.store.save()
    }

    /// That pinned neighbours were lost, until something is pinned.
    pub fn lost_pins(&self) -> Option<&str> {
        self.store.lost()
    }

    /// Saves what is not saved yet.
    ///
    /// # Errors
    /// The state directory takes no file.
    pub fn close(&mut self) -> Result<()> {
        self.store.close(self.bindings.saved(&self.ports))
    }

    /// Hands the entries of `BINDINGS` to `write` when they have changed, and again as long as it fails.
    ///
    /// # Errors
    /// Those of `write`.
    pub fn flush(
        &mut self,
        write: impl FnOnce(&HashMap<NeighborKey, Binding>) -> Result<()>,
    ) -> Result<()> {
        if self.changed {
            write(&self.bindings.compile(&self.ports, &self.policy.routers))?;
            self.changed = false;
        }
        Ok(())
    }

    /// Addresses that moved since the last call. The maps are to be written first.
    pub fn followers(&mut self) -> Vec<Follow> {
        std::mem::take(&mut self.follow)
    }

    fn carry_out(&mut self, out: Vec<Output>, now: Now) {
        for output in out {
            match output {
                Output::Ask { key, to } => self.ask(&key, to),
                Output::Decided { key, decision } => self.apply(&key, decision, now),
            }
        }
    }

    fn ask(&mut self, key: &NeighborKey, to: Option<Mac>) {
        let port = self.ports.iter().find(|port| port.ifindex == key.ifindex);
        let frame = port.and_then(|port| Some((port.via, ask::frame(port, key, to)?)));
        let sent = frame.is_some_and(|(via, frame)| match (self.send)(via, &frame) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{} was not asked for: {error}", address(key));
                false
            }
        });
        if !sent {
            self.verifier.ask_failed(key);
        }
    }

    fn apply(&mut self, key: &NeighborKey, decision: Decision, now: Now) {
        let place = self.place(key);
        let enforced = self.in_force(self.mode(address(key))) == GuardMode::Enforce;
        let Some(entry) = self.bindings.get_mut(key) else {
            return;
        };
        match decision {
            Decision::Spoof { claimed, holder } => {
                if entry.spoofed(&words::name(claimed), now) {
                    self.store.change();
                }
                let text = words::spoof(&place, claimed, holder, entry, enforced);
                self.note(Kind::Spoof, key, vec![claimed, holder], text, now);
            }
            Decision::Contested { macs } => {
                let text = words::contested(&place, &macs, entry);
                let last = entry.history.back();
                if last.is_none_or(|last| !last.what.starts_with(words::CONTESTED)) {
                    entry.note(words::contested_briefly(&macs), now);
                    self.store.change();
                }
                self.note(Kind::Contested, key, macs, text, now);
            }
            Decision::ContestOver { holder } => {
                let text = words::contest_over(&place, holder);
                entry.note(format!("contested no longer: {holder}"), now);
                self.store.change();
                self.note(Kind::ContestOver, key, vec![holder], text, now);
            }
            Decision::Learned { mac } => {
                let text = words::learned(&place, mac);
                self.note(Kind::Learned, key, vec![mac], text, now);
                self.settle(key, mac, &format!("learned: {mac}"), now);
            }
            Decision::Moved { to } => {
                let from = entry.macs.clone();
                let text = words::moved(&place, &from, to);
                let macs = from.iter().copied().chain([to]).collect();
                self.note(Kind::Moved, key, macs, text, now);
                let what = format!(
                    "moved from {}, which was silent, to {to}",
                    words::list(&from)
                );
                self.settle(key, to, &what, now);
                if let Some(port) = self.port(key) {
                    let carriers = port.carriers(key.vlan).collect();
                    let ip = address(key);
                    self.follow.push(Follow {
                        ip,
                        mac: to,
                        carriers,
                    });
                }
            }
        }
    }

    /// A learned binding is at `mac` now, also on the other ports of its bond: only one of them is in use.
    fn settle(&mut self, key: &NeighborKey, mac: Mac, what: &str, now: Now) {
        let via = self.port(key).map(|port| port.via);
        let siblings = self
            .ports
            .iter()
            .filter(|port| Some(port.via) == via)
            .map(|port| port.ifindex);
        for ifindex in siblings {
            let sibling = NeighborKey { ifindex, ..*key };
            let Some(entry) = self.bindings.get_mut(&sibling).filter(|e| !e.is_fixed()) else {
                continue;
            };
            entry.set(vec![mac]);
            entry.note(what.to_owned(), now);
            if sibling == *key {
                entry.answered = Some((now.mono, mac));
            } else {
                self.verifier.forget(&sibling);
            }
        }
        self.changed = true;
        self.store.change();
    }
}

/// What the verifier must know of a binding.
fn known<'a>(bindings: &'a Bindings, ports: &[Port], key: &NeighborKey) -> Option<Known<'a>> {
    let entry = bindings.get(key)?;
    Some(Known {
        macs: &entry.macs,
        past: &entry.past,
        fixed: entry.is_fixed(),
        up: ports
            .iter()
            .any(|port| port.ifindex == key.ifindex && port.up),
    })
}

#[cfg(test)]
mod tests;
