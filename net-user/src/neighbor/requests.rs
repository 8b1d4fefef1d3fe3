//! What the control socket asks of the neighbours.

use std::time::Duration;

use net_common::{
    abi::{DropEvent, MAX_BINDINGS, NeighborKey},
    units::Mac,
};

use super::{
    NeighborWatch, Now,
    audit::Bound,
    bindings::{Entry, settings},
    journal::{Kind, Place},
    ports::{self, Port, address},
    verify::Standing,
    words,
};
use crate::{
    canaries::Change,
    config::{GuardMode, NeighborConfig},
    control::{
        drops::{DropTotals, Drops},
        protocol::{
            ALERTS_OF_S, BindingOrigin, BindingState, Events, NeighborBinding, Neighbors,
            NeighborsAtAGlance, NeighborsChanged, PinNeighbor, RequestError, UnpinNeighbor,
            VERSION,
        },
    },
    host::links::Link,
    probe::Outcome,
};

/// Room in `BINDINGS` that pins leave to own addresses and gateways.
const RESERVED: usize = 2048;

impl NeighborWatch {
    /// The value of `NEIGHBOR_SETTINGS`.
    pub fn settings(&self) -> net_common::abi::NeighborSettings {
        settings(&self.policy)
    }

    /// What becomes of a guard's mode while the agent as a whole only observes.
    pub(super) fn in_force(&self, mode: GuardMode) -> GuardMode {
        match mode {
            GuardMode::Enforce if self.observe => GuardMode::Observe,
            mode => mode,
        }
    }

    /// Every binding but those of own addresses, with its `history` or without.
    pub fn list(&self, history: bool, now: Now) -> Neighbors {
        let tell = |(key, entry): (&NeighborKey, &Entry)| {
            let mut told = self.tell(key, entry, now);
            if history {
                told.history = entry.history.iter().cloned().collect();
            }
            told
        };
        Neighbors {
            version: VERSION,
            arp: self.in_force(self.policy.arp),
            ndp: self.in_force(self.policy.ndp),
            ra_guard: self.policy.ra_guard(),
            bindings: self.bindings.iter().map(tell).collect(),
        }
    }

    /// What `status` says of neighbours.
    pub fn glance(&self, now: Now) -> NeighborsAtAGlance {
        let mut glance = NeighborsAtAGlance {
            arp: self.in_force(self.policy.arp),
            ndp: self.in_force(self.policy.ndp),
            ra_guard: self.policy.ra_guard(),
            ..Default::default()
        };
        for (key, entry) in self.bindings.iter() {
            match self.state(key, entry) {
                BindingState::Learning => glance.learning += 1,
                BindingState::Contested => {
                    glance.contested += 1;
                    glance.protected += u32::from(!entry.macs.is_empty());
                    if self.gateways.contains(key) {
                        let gateway = words::at(&self.place(key));
                        glance.contested_gateways.push(gateway);
                    }
                }
                BindingState::Protected | BindingState::Asking => glance.protected += 1,
                BindingState::Unguarded | BindingState::Own => {}
            }
        }
        let since = now.wall.saturating_sub(Duration::from_secs(ALERTS_OF_S));
        for alert in self.journal.alerts_since(since) {
            glance.alerts += 1;
            glance.last_alert = Some(alert.text.clone());
        }
        glance
    }

    /// The events after a number.
    pub fn events(&self, after: u64) -> Events {
        self.journal.after(after)
    }

    /// The sampled drops after a number.
    pub fn drops(&self, after: u64, totals: DropTotals) -> Drops {
        self.journal.drops_after(after, totals)
    }

    /// Notes that a block list covers an address that must get through.
    pub fn locked_out(&mut self, address: std::net::IpAddr, text: String, now: Now) {
        let place = Place {
            address: address.to_string(),
            ..Place::default()
        };
        self.journal
            .note(Kind::LockedOut, place, Vec::new(), text, now);
    }

    /// Notes that somebody else had changed the maps or taken programs off.
    pub fn drifted(&mut self, text: String, now: Now) {
        // Each is told: what was changed may differ.
        self.journal
            .note_turn(Kind::Drift, String::new(), text, now);
    }

    /// Notes that what is going on at a listener, or at the host, has changed.
    pub fn verdict_turned(&mut self, recovered: bool, listener: String, text: String, now: Now) {
        let kind = if recovered {
            Kind::Recovered
        } else {
            Kind::Verdict
        };
        self.journal.note_turn(kind, listener, text, now);
    }

    /// Notes that a probe of the agent's own is in another state.
    pub fn probe_changed(&mut self, change: Change, now: Now) {
        let kind = match (change.from, change.to) {
            (Some(from), to) if to < from => Kind::ProbeRecovered,
            (_, Outcome::Failed) => Kind::ProbeFailed,
            _ => Kind::ProbeAiling,
        };
        self.journal
            .note_turn(kind, String::new(), change.text, now);
    }

    /// Notes that a probe which failed is no longer in the config.
    pub fn probe_dropped(&mut self, text: String, now: Now) {
        self.journal
            .note_turn(Kind::ProbeDropped, String::new(), text, now);
    }

    /// Notes a dropped packet.
    pub fn sample(&mut self, event: DropEvent, interface: String, now: Now) {
        self.journal.sample(event, interface, now);
    }

    fn state(&self, key: &NeighborKey, entry: &Entry) -> BindingState {
        let ip = address(key);
        let own = |port: &Port| {
            port.own
                .iter()
                .any(|own| own.ip == ip && own.vlan == key.vlan)
        };
        if self.port(key).is_some_and(own) {
            return BindingState::Own;
        }
        if self.mode(ip) == GuardMode::Off {
            return BindingState::Unguarded;
        }
        match self.verifier.standing(key) {
            Standing::Contested => BindingState::Contested,
            _ if entry.macs.is_empty() => BindingState::Learning,
            Standing::Asking => BindingState::Asking,
            Standing::Calm => BindingState::Protected,
        }
    }

    fn tell(&self, key: &NeighborKey, entry: &Entry, now: Now) -> NeighborBinding {
        let answered = entry
            .answered
            .map(|(at, _)| now.mono.saturating_sub(at).as_secs());
        NeighborBinding {
            address: address(key).to_string(),
            interface: self.place(key).interface,
            vlan: key.vlan,
            macs: entry.macs.iter().map(ToString::to_string).collect(),
            origin: entry.origin,
            state: self.state(key, entry),
            router: entry.router,
            answered_s: answered,
            spoofs: entry.spoofs,
            history: Vec::new(),
        }
    }

    /// The ports that a request is for.
    fn ports_of(&self, interface: Option<&str>) -> Result<Vec<Port>, RequestError> {
        let named = |port: &&Port| interface.is_none_or(|name| name == port.name);
        let ports: Vec<_> = self.ports.iter().filter(named).cloned().collect();
        if ports.is_empty() {
            let all: Vec<_> = self.ports.iter().map(|port| port.name.as_str()).collect();
            return Err(RequestError::Refused(format!(
                "netmoat is not on {}; it is on {}",
                interface.unwrap_or_default().escape_debug(),
                all.join(", ")
            )));
        }
        Ok(ports)
    }

    /// Holds an address to the link-layer addresses that the operator names, or to what was learned.
    ///
    /// # Errors
    /// It is no neighbour's, the config has the say, or nothing was learned.
    pub fn pin(&mut self, pin: &PinNeighbor, now: Now) -> Result<NeighborsChanged, RequestError> {
        let named = NeighborConfig::from_pin(pin)
            .map_err(|error| RequestError::Refused(format!("{}; {}", error.what, error.remedy)))?;
        let refused = |why: String| Err(RequestError::Refused(why));
        let ports = self.ports_of(named.interface.as_deref())?;
        let ip = named.address;
        if self.is_own(ip) {
            return refused(format!(
                "{ip} is an address of this host, and guarded as such"
            ));
        }
        let mut pins = Vec::new();
        for port in ports {
            let key = ports::key(ip, port.ifindex, named.vlan);
            let before = self.bindings.get(&key);
            if before.is_some_and(|e| e.origin == BindingOrigin::Config) {
                return refused(format!(
                    "{ip} on {} is named in the config, which has the say; change its [[neighbor]] there and \
                     restart netmoat",
                    port.name
                ));
            }
            let macs = match (&named.macs, before) {
                (macs, Some(before)) if macs.is_empty() => before.macs.clone(),
                (macs, _) => macs.clone(),
            };
            if !macs.is_empty() {
                pins.push((key, port, macs));
            }
        }
        if pins.is_empty() {
            return refused(format!(
                "nothing was learned of {ip} that could be pinned; name its link-layer address: \
                 `netmoat neighbor pin {ip} MAC`"
            ));
        }
        if self.bindings.iter().count() + pins.len() > MAX_BINDINGS as usize - RESERVED {
            return refused("there is no room for more bindings; unpin some first".to_owned());
        }
        let (mut changed, mut warnings) = (Vec::new(), Vec::new());
        for (key, port, macs) in pins {
            warnings.extend(self.doubts(&key, &port, &macs, now));
            let new = || Entry::new(Vec::new(), BindingOrigin::Pinned, false);
            let mut entry = self.bindings.remove(&key).unwrap_or_else(new);
            entry.set(macs.clone());
            entry.origin = BindingOrigin::Pinned;
            // As with its history: what a pin does not say stays.
            entry.router |= named.router;
            entry.note(format!("pinned: {}", words::list(&macs)), now);
            if !port.reaches(ip, named.vlan) {
                entry.note(
                    format!("warning: {ip} is on no prefix of {}, so that no neighbour may be known by it", port.name),
                    now,
                );
            }
            // What was being asked was about other link-layer addresses.
            self.verifier.forget(&key);
            changed.push(self.tell(&key, &entry, now));
            self.bindings.insert(key, entry);
            let text = words::pinned(&self.place(&key), &macs);
            self.note(Kind::Pinned, &key, macs, text, now);
        }
        self.store.found();
        self.written_anew();
        Ok(NeighborsChanged {
            version: VERSION,
            bindings: changed,
            warnings,
        })
    }

    /// What speaks against a pin: it is made all the same.
    fn doubts(&self, key: &NeighborKey, port: &Port, macs: &[Mac], now: Now) -> Vec<String> {
        let place = self.place(key);
        let (at, mut doubts) = (words::at(&place), Vec::new());
        let before = self.bindings.get(key);
        let mac = before
            .and_then(Entry::mac)
            .filter(|mac| !macs.contains(mac));
        if let Some((before, mac)) = before.zip(mac) {
            let answered = match before.answered {
                Some((when, by)) if by == mac => format!(
                    ", which answered {} s ago",
                    now.mono.saturating_sub(when).as_secs()
                ),
                _ => String::new(),
            };
            doubts.push(format!(
                "until now {at} was at {mac}{answered}; if that is still right, {}",
                words::pin(&place, &mac.to_string())
            ));
        }
        if !port.reaches(address(key), key.vlan) {
            doubts.push(format!(
                "{at} is on no prefix of this host there, so that no neighbour may be known by it"
            ));
        }
        doubts
    }

    /// Takes a pin back. The next hop of a default route is as if it had been learned.
    ///
    /// # Errors
    /// There is none, it is learned, or the config has the say.
    pub fn unpin(
        &mut self,
        unpin: &UnpinNeighbor,
        now: Now,
    ) -> Result<NeighborsChanged, RequestError> {
        let (ip, interface) = (unpin.address, unpin.interface.as_deref());
        let ports = self.ports_of(interface);
        let mut keys: Vec<_> = ports
            .iter()
            .flatten()
            .map(|port| ports::key(ip, port.ifindex, unpin.vlan))
            .filter(|key| self.bindings.get(key).is_some())
            .collect();
        let named = |key: &NeighborKey| {
            self.bindings
                .get(key)
                .is_some_and(|e| e.origin == BindingOrigin::Config)
        };
        if keys.iter().any(named) {
            return Err(RequestError::Refused(format!(
                "{ip} is named in the config; take its [[neighbor]] out there and restart netmoat"
            )));
        }
        let elsewhere = self.bindings.unpin_elsewhere(ip, unpin.vlan, interface);
        if keys.is_empty() && elsewhere.is_empty() {
            ports?;
            return Err(RequestError::Refused(format!(
                "there is no binding of {ip}; `netmoat neighbor list` shows those that are"
            )));
        }
        keys.retain(|key| self.bindings.get(key).is_some_and(Entry::is_fixed));
        if keys.is_empty() && elsewhere.is_empty() {
            return Err(RequestError::Refused(format!(
                "{ip} is learned, not pinned; it is forgotten when no default route has led to it for a while, and \
                 nothing is learned with `gateway = \"off\"` in [neighbors] of the config"
            )));
        }
        let mut changed = Vec::new();
        for key in keys {
            let Some(mut entry) = self.bindings.remove(&key) else {
                continue;
            };
            changed.push(self.tell(&key, &entry, now));
            self.verifier.forget(&key);
            let (place, macs) = (self.place(&key), entry.macs.clone());
            let text = if self.gateways.contains(&key) {
                entry.origin = BindingOrigin::Learned;
                entry.router = false;
                entry.note("unpinned".to_owned(), now);
                self.bindings.insert(key, entry);
                words::learned_again(&place, &macs)
            } else {
                words::unpinned(&place, &macs)
            };
            self.note(Kind::Unpinned, &key, macs, text, now);
        }
        for saved in elsewhere {
            let place = Place {
                interface: saved.interface.escape_debug().to_string(),
                vlan: saved.vlan,
                address: ip.to_string(),
            };
            let text = words::unpinned(&place, &saved.macs);
            changed.push(NeighborBinding {
                address: place.address.clone(),
                interface: place.interface.clone(),
                vlan: saved.vlan,
                macs: saved.macs.iter().map(ToString::to_string).collect(),
                origin: saved.origin,
                // netmoat is not on its interface.
                state: BindingState::Unguarded,
                router: saved.router,
                answered_s: None,
                spoofs: saved.spoofs,
                history: Vec::new(),
            });
            self.journal
                .note(Kind::Unpinned, place, saved.macs, text, now);
        }
        self.route(now);
        self.written_anew();
        Ok(NeighborsChanged {
            version: VERSION,
            bindings: changed,
            warnings: Vec::new(),
        })
    }

    fn written_anew(&mut self) {
        self.changed = true;
        self.store.change();
    }

    /// The bindings as the audit wants them; `links` name the interfaces.
    pub fn bound(&self, links: &std::collections::HashMap<u32, Link>) -> Vec<Bound> {
        let bound = self.bindings.iter().filter_map(|(key, entry)| {
            let port = self.port(key)?;
            let name = |index| Some((index, links.get(&index)?.name.clone()));
            Some(Bound {
                ip: address(key),
                interface: port.name.clone(),
                carriers: port.carriers(key.vlan).filter_map(name).collect(),
                macs: entry.macs.clone(),
                mac: entry.mac(),
                contested: self.verifier.standing(key) == Standing::Contested,
            })
        });
        bound.collect()
    }
}
