//! The agent's side of [`crate::guards`]: facts of the host in, maps out.

use std::{
    collections::{BTreeSet, HashMap},
    future::pending,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use net_common::{
    abi::{AddressKey, AddressRole, GuardSettings},
    sources::{seconds, state_index},
    verdict::Reason,
};
use tokio::task::JoinHandle;

use super::{Agent, now_ns};
use crate::{
    config::{Config, GuardMode},
    control::protocol::{GuardsAtAGlance, SourcesAtAGlance},
    guards::{
        self, Facts, addresses, resolvers,
        sources::{Fill, Open, PLACES},
    },
    host::{
        guard_sysctl::{Ipv4Settings, forwards_ipv6},
        links::Link,
        nat,
        sock_diag::Diag,
    },
    keys::random_u64,
    listeners::above,
};

/// How often netfilter is asked whether it translates.
const TRANSLATION_EVERY: Duration = Duration::from_secs(60);
/// How often open connections are counted, while they are limited.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(5);
/// Least time between two walks of the table of sources that `status` may cause.
const FILL_PAUSE: Duration = Duration::from_secs(1);

/// What is read aside from the agent's task.
pub(super) enum Read {
    /// What translates, in plain words.
    Translation(Result<Option<String>>),
    /// Open connections, remote and local address of each.
    Connections(Result<Vec<(IpAddr, IpAddr)>>),
}

/// What translates, in plain words; none when nothing depends on it.
pub(super) type Translation = Option<Result<Option<String>>>;

/// What the guards' maps hold.
#[derive(Default)]
pub(super) struct Guards {
    facts: Facts,
    own: BTreeSet<IpAddr>,
    /// The name servers in `/etc/resolv.conf`, as they were read last.
    resolvers: Vec<IpAddr>,
    /// As it was written last; none before the first time.
    settings: Option<GuardSettings>,
    /// Whether an attached interface, or what stands on it, forwards.
    forwards: bool,
    /// An interface that stands on an attached one, such as a bridge or a VLAN.
    above: Option<String>,
    /// What translates; an error while that is not known.
    translation: Option<Result<Option<String>, String>>,
    translation_read: Option<Instant>,
    connections_read: Option<Instant>,
    reading: Vec<JoinHandle<Read>>,
    fill: Option<(Instant, Fill)>,
}

impl Guards {
    /// Of a start.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub(super) fn new(config: &Config) -> Result<Self> {
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
                events: config.events.gcra(),
                translates: true,
                ..Facts::default()
            },
            ..Self::default()
        })
    }

    /// What translates, if it matters to the config.
    pub(super) async fn ask_for_translation(&self, config: &Config) -> Translation {
        if config.guards.asks_for_translation() {
            Some(nat::translates().await)
        } else {
            None
        }
    }

    /// What the metadata of a trial begin with.
    pub(super) fn trial(&self) -> u64 {
        self.facts.trial
    }

    /// Waits for what is being read. Cancel safe.
    pub(super) async fn read(&mut self) -> Result<Read> {
        if self.reading.is_empty() {
            return pending().await;
        }
        let reading = futures::future::select_all(&mut self.reading);
        let (read, done, _) = reading.await;
        drop(self.reading.swap_remove(done));
        Ok(read?)
    }

    /// Why segments without a socket are left alone, if they are.
    fn strays_left_alone(&self) -> Option<String> {
        match &self.translation {
            _ if self.forwards => Some("this host forwards".to_owned()),
            _ if let Some(name) = &self.above => Some(format!(
                "{name} stands on an attached interface, and sockets bound to it are not seen there"
            )),
            Some(Ok(None)) => None,
            Some(Ok(Some(what))) => Some(what.clone()),
            Some(Err(_)) | None => Some("it is not known whether this host translates".to_owned()),
        }
    }
}

/// Whether a time has come again.
fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

impl Agent {
    /// Fills the guards' maps for the first time.
    pub(super) fn start_guards(&mut self, links: &[Link], translation: Translation) -> Result<()> {
        self.maps
            .set_class_limits(&guards::limits(&self.config.guards))?;
        if let Some(read) = translation {
            self.guards.translation_read = Some(Instant::now());
            self.take_translation(read);
        }
        self.refresh_guards(links);
        // Without settings every guard would be off, and nobody would notice.
        self.write_guard_settings()
    }

    /// The facts are others.
    pub(super) fn refresh_guards(&mut self, links: &[Link]) {
        self.refresh_resolvers();
        let sysctls = self.read_guard_sysctls();
        self.note("guards' sysctls", sysctls);
        self.guards.own = addresses::own(&self.facts.addresses, links);
        self.guards.facts.own = addresses::filter(&self.guards.own, self.settings.hash_seed);
        self.guards.facts.translates = self.guards.strays_left_alone().is_some();
        let written = self.write_addresses();
        self.note("own addresses", written);
        self.begin_reading();
    }

    /// New addresses come before the filter that leads to them, and those that are gone leave it first: in between
    /// nothing is taken for ours that is not.
    fn write_addresses(&mut self) -> Result<()> {
        let wanted = self.roles();
        let added = self.maps.add_addresses(&wanted);
        self.write_guard_settings()?;
        let dropped = self.maps.drop_addresses(&wanted)?;
        // What found no room may find it now.
        match added {
            Err(_) if dropped => self.maps.add_addresses(&wanted),
            added => added,
        }
    }

    fn roles(&self) -> HashMap<AddressKey, AddressRole> {
        let broadcast = addresses::broadcast(&self.facts.addresses);
        addresses::roles(&self.guards.own, broadcast, self.servers())
    }

    /// Resolvers and time servers; one may be named twice.
    fn servers(&self) -> impl Iterator<Item = IpAddr> {
        let named = &self.config.guards.udp.servers;
        named.iter().chain(&self.guards.resolvers).copied()
    }

    /// Those of the host itself.
    pub(super) fn resolvers(&self) -> impl Iterator<Item = IpAddr> {
        self.guards.resolvers.iter().copied()
    }

    /// The config's guards are others.
    pub(super) fn follow_guard_policy(&mut self) -> Result<()> {
        if !self.config.guards.udp.resolv_conf {
            self.guards.resolvers.clear();
        }
        self.refresh_resolvers();
        self.guards.facts.events = self.config.events.gcra();
        // Whatever was staged before may not have come into force.
        self.guards.settings = None;
        self.begin_reading();
        self.write_addresses()
    }

    fn write_guard_settings(&mut self) -> Result<()> {
        let settings = guards::settings(&self.config.guards, &self.guards.facts);
        if self.guards.settings != Some(settings) {
            self.maps.set_guard_settings(&settings)?;
            self.guards.settings = Some(settings);
        }
        Ok(())
    }

    /// What was written last is not in force.
    pub(super) fn forget_guard_settings(&mut self) {
        self.guards.settings = None;
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
    fn read_guard_sysctls(&mut self) -> Result<()> {
        let links = &self.facts.links;
        let mut carriers = BTreeSet::new();
        for interface in &self.facts.interfaces {
            carriers.insert(interface.ifindex);
            carriers.extend(above(interface.ifindex, links));
        }
        let (mut redirects, mut accept_local, mut forwards) = (false, false, false);
        for link in carriers.iter().filter_map(|index| links.get(index)) {
            let ipv4 = Ipv4Settings::read(&link.name)?;
            redirects |= ipv4.redirects;
            accept_local |= ipv4.accept_local;
            forwards |= ipv4.forwarding || forwards_ipv6(&link.name)? == Some(true);
        }
        self.guards.facts.redirects = redirects;
        self.guards.facts.accept_local = accept_local;
        self.guards.forwards = forwards;
        let attached = |link: &&Link| {
            let mut attached = self.facts.interfaces.iter();
            attached.any(|interface| interface.ifindex == link.index)
        };
        let carriers = carriers.iter().filter_map(|index| links.get(index));
        self.guards.above = carriers
            .filter(|link| !attached(link))
            .map(|link| link.name.clone())
            .next();
        Ok(())
    }

    /// Begins to read what takes long, when its time has come; the agent does not wait for it.
    fn begin_reading(&mut self) {
        if !self.config.guards.asks_for_translation() {
            return;
        }
        let (guards, tcp) = (&mut self.guards, &self.config.guards.tcp);
        if due(&mut guards.translation_read, TRANSLATION_EVERY) {
            let read = async { Read::Translation(nat::translates().await) };
            guards.reading.push(tokio::spawn(read));
        }
        if tcp.open_connections != 0 && due(&mut guards.connections_read, CONNECTIONS_EVERY) {
            let read =
                || Read::Connections(Diag::open().and_then(|mut diag| diag.open_connections()));
            guards.reading.push(tokio::task::spawn_blocking(read));
        }
    }

    /// Something was read.
    pub(super) fn take_guards(&mut self, read: Result<Read>) {
        match self.note("guards", read) {
            None => {}
            Some(Read::Translation(read)) => {
                self.take_translation(read);
                self.guards.facts.translates = self.guards.strays_left_alone().is_some();
                let written = self.write_guard_settings();
                self.note("guards' settings", written);
            }
            Some(Read::Connections(read)) => {
                let set = read.and_then(|open| self.set_open_connections(open));
                self.note("open connections", set);
            }
        }
    }

    fn take_translation(&mut self, read: Result<Option<String>>) {
        let read = read.map_err(|error| format!("{error:#}"));
        let outcome = read.as_ref().map_err(|error| {
            anyhow!("TCP segments without a socket are left alone, since it is not known whether this host translates: {error}")
        });
        let outcome = outcome.map(|_| ());
        self.note("translation", outcome);
        self.guards.translation = Some(read);
    }

    /// Sets right what the data path counts: connections from before the start, and of sources that had no place.
    fn set_open_connections(&mut self, connections: Vec<(IpAddr, IpAddr)>) -> Result<()> {
        let seed = self.settings.hash_seed;
        let open = Open::count(connections, &self.guards.own, seed);
        let mut places = Vec::new();
        for set in self.maps.source_sets() {
            let (index, set) = set?;
            places.extend(
                open.of_set(index, &set)
                    .map(|(way, n)| (state_index(index, way), n)),
            );
        }
        for (place, open) in places {
            self.maps.set_open_connections(place, open)?;
        }
        Ok(())
    }

    /// What `status` says of the guards.
    pub(super) fn guards_at_a_glance(&mut self) -> Result<GuardsAtAGlance> {
        let fill = match self.guards.fill {
            Some((at, fill)) if at.elapsed() < FILL_PAUSE => fill,
            _ => self.read_fill()?,
        };
        let policy = &self.config.guards;
        let in_force = |mode| guards::in_force(mode, self.config.mode);
        let left_alone = self.guards.strays_left_alone();
        let servers: BTreeSet<_> = self.servers().collect();
        Ok(GuardsAtAGlance {
            ip: in_force(policy.ip.mode),
            icmp: in_force(policy.icmp.mode),
            udp: in_force(policy.udp.mode),
            tcp: in_force(policy.tcp.mode),
            reverse_path: policy.ip.reverse_path,
            strays_left_alone: left_alone.filter(|_| policy.tcp.mode != GuardMode::Off),
            stray_attack: self.maps.stray_attack_until()? > now_ns()?,
            own_addresses: self.guards.own.len() as u32,
            servers: servers.len() as u32,
            sources: SourcesAtAGlance {
                places: PLACES,
                steady: fill.steady,
                asked: fill.asked,
                proven: fill.proven,
                replaced: self.maps.counter(Reason::SourceReplaced)?,
                refused: self.maps.counter(Reason::SourceTableFull)?,
            },
        })
    }

    fn read_fill(&mut self) -> Result<Fill> {
        let now_s = seconds(now_ns()?);
        let mut fill = Fill::default();
        for set in self.maps.source_sets() {
            fill.add(&set?.1, now_s);
        }
        self.guards.fill = Some((Instant::now(), fill));
        Ok(fill)
    }
}
