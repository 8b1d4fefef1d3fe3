//! The agent's side of [`crate::guards`]: facts of the host in, maps out.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use anyhow::Result;
use net_common::abi::{AddressKey, AddressRole, GuardSettings};

use super::Agent;
use crate::{
    guards::{self, Facts, addresses, resolvers},
    host::{guard_sysctl::Ipv4Settings, links::Link},
    keys::random_u64,
    listeners::above,
};

/// What the guards' maps hold.
#[derive(Default)]
pub(super) struct Guards {
    facts: Facts,
    /// The name servers in `/etc/resolv.conf`, as they were read last.
    resolvers: Vec<IpAddr>,
    /// As it was written last; none before the first time.
    settings: Option<GuardSettings>,
}

impl Guards {
    /// Of a start.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub(super) fn new() -> Result<Self> {
        let trial = loop {
            // 0 would be no trial at all.
            match random_u64()? {
                0 => {}
                trial => break trial,
            }
        };
        Ok(Self {
            facts: Facts {
                trial,
                ..Facts::default()
            },
            ..Self::default()
        })
    }
}

impl Agent {
    /// Fills the guards' maps for the first time; nothing is attached yet.
    pub(super) fn start_guards(&mut self, links: &[Link]) -> Result<()> {
        self.maps
            .set_class_limits(&guards::limits(&self.config.guards))?;
        self.refresh_guards(links);
        // Without settings every guard would be off, and nobody would notice.
        self.write_guard_settings()
    }

    /// The facts are others.
    pub(super) fn refresh_guards(&mut self, links: &[Link]) {
        self.refresh_resolvers();
        let own = addresses::own(&self.facts.addresses, links);
        let sysctls = self.read_guard_sysctls();
        if let Some(all) = self.note("guards' sysctls", sysctls) {
            self.guards.facts.redirects = all.iter().any(|s| s.redirects);
            let accept_local = all.iter().any(|s| s.accept_local);
            let seed = self.settings.hash_seed;
            self.guards.facts.own = addresses::filter(&own, accept_local, seed);
        }
        let written = self.write_addresses(&own);
        self.note("own addresses", written);
    }

    /// New addresses come before the filter that leads to them, and those that are gone leave it first: in between
    /// nothing is taken for ours from outside that is not.
    fn write_addresses(&mut self, own: &BTreeSet<IpAddr>) -> Result<()> {
        let wanted = self.roles(own);
        let added = self.maps.add_addresses(&wanted);
        self.write_guard_settings()?;
        let dropped = self.maps.drop_addresses(&wanted)?;
        // What found no room may find it now.
        match added {
            Err(_) if dropped => self.maps.add_addresses(&wanted),
            added => added,
        }
    }

    fn roles(&self, own: &BTreeSet<IpAddr>) -> HashMap<AddressKey, AddressRole> {
        let broadcast = addresses::broadcast(&self.facts.addresses);
        let named = &self.config.guards.udp.servers;
        let servers = named.iter().chain(&self.guards.resolvers).copied();
        addresses::roles(own, broadcast, servers)
    }

    fn write_guard_settings(&mut self) -> Result<()> {
        let settings = guards::settings(&self.config.guards, &self.guards.facts);
        if self.guards.settings != Some(settings) {
            self.maps.set_guard_settings(&settings)?;
            self.guards.settings = Some(settings);
        }
        Ok(())
    }

    /// What cannot be read leaves those that were known.
    fn refresh_resolvers(&mut self) {
        if !self.config.guards.udp.resolv_conf {
            return;
        }
        let read = resolvers::read();
        if let Some(resolvers) = self.note("name servers", read) {
            self.guards.resolvers = resolvers;
        }
    }

    /// Those of every interface by which a packet may arrive that was on an attached one.
    fn read_guard_sysctls(&self) -> Result<Vec<Ipv4Settings>> {
        let mut carriers = BTreeSet::new();
        for interface in &self.facts.interfaces {
            carriers.insert(interface.ifindex);
            carriers.extend(above(interface.ifindex, &self.facts.links));
        }
        let links = &self.facts.links;
        let names = carriers.iter().filter_map(|index| links.get(index));
        names.map(|link| Ipv4Settings::read(&link.name)).collect()
    }
}
