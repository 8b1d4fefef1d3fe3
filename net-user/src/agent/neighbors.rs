//! The agent's side of [`crate::neighbor`]: events in, maps and the kernel's table out.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};

use super::{Agent, send};
use crate::{
    cli::{Code, Failure},
    config::{Config, GuardMode, Mode},
    control::protocol::{AuditVerdict, NeighborAudit, Reply, Request, VERSION},
    host::{
        links::{Link, Links},
        neighbor_sysctl,
    },
    neighbor::{
        Follow, NeighborWatch, Now, Send as SendFrame,
        ask::Socket,
        audit::{self, Bound},
        state::Store,
    },
};

/// Least time between two looks at the routes, which may be a million.
const ROUTES_PAUSE: Duration = Duration::from_millis(500);

/// The next hops of default routes, as they were read last.
pub(super) struct Gateways {
    /// They may be others now.
    pub(super) changed: bool,
    known: Vec<(u32, IpAddr)>,
    read: Option<Instant>,
}

impl Default for Gateways {
    fn default() -> Self {
        Self {
            changed: true,
            known: Vec::new(),
            read: None,
        }
    }
}

/// The neighbours as they were saved, and whether they will be saved again.
pub(super) fn start(
    config: &Config,
    wanted: &[(String, u32)],
) -> Result<(NeighborWatch, Result<()>)> {
    let policy = config.neighbors.clone();
    let send: SendFrame = if policy.arp == GuardMode::Off && policy.ndp == GuardMode::Off {
        Box::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()))
    } else {
        let socket = Socket::open().map_err(|error| Failure::new(Code::Permission, error))?;
        Box::new(move |ifindex, frame| socket.send(ifindex, frame))
    };
    let (store, saved, kept) = Store::open(&config.state_dir);
    let mut watch = NeighborWatch::new(policy, wanted.to_vec(), store, saved, send, Now::read()?);
    watch.set_observe(config.mode == Mode::Observe);
    Ok((watch, kept))
}

impl Agent {
    /// The events that the data path has told since the last call.
    pub(super) fn take_neighbor_events(&mut self, ring: &mut RingBuf<MapData>) {
        while let Some(event) = ring.next() {
            if let Ok(now) = Now::read() {
                self.neighbors.on_event(&event, now);
            }
        }
        self.write_neighbors();
    }

    /// Ends what is to end; all events have been taken.
    pub(super) fn tick_neighbors(&mut self) {
        let Ok(now) = Now::read() else { return };
        let lost = self.maps.neighbor_events_lost();
        if let Some(total) = self.note("neighbor events", lost) {
            self.neighbors.events_lost(total, now);
        }
        if let Some(outcome) = self.neighbors.tick(now) {
            self.note("neighbor state", outcome);
        }
        self.write_neighbors();
    }

    /// Writes what has changed into the maps, and then into the kernel's table: there the old binding would be
    /// learned again.
    fn write_neighbors(&mut self) {
        let (neighbors, maps) = (&mut self.neighbors, &mut self.maps);
        let written = neighbors.flush(|bindings| maps.set_bindings(bindings));
        self.note("neighbor bindings", written);
        for follow in self.neighbors.followers() {
            let links = self.links.clone();
            tokio::spawn(async move {
                if let Err(error) = follow_move(&links, &follow).await {
                    tracing::warn!("{} has moved, but {error:#}", follow.ip);
                }
            });
        }
    }

    /// Tells the data path that learned bindings are looked after.
    pub(super) fn beat(&mut self) {
        let beaten = Now::read().and_then(|now| self.maps.beat(now.mono));
        self.note("heartbeat", beaten);
    }

    /// Reads the default routes when they may have changed.
    pub(super) async fn read_gateways(&mut self) -> Result<()> {
        let rests = self
            .gateways
            .read
            .is_some_and(|at| at.elapsed() < ROUTES_PAUSE);
        if self.gateways.changed && !rests {
            self.gateways.known = self.links.default_gateways().await?;
            self.gateways.changed = false;
            self.gateways.read = Some(Instant::now());
        }
        Ok(())
    }

    /// The facts, or the routes, are others.
    pub(super) fn refresh_neighbors(&mut self, links: &[Link]) -> Result<()> {
        let (addresses, gateways) = (&self.facts.addresses, &self.gateways.known);
        let routed = self
            .neighbors
            .refresh(links, addresses, gateways, Now::read()?);
        self.note("neighbor routes", routed);
        self.write_neighbors();
        Ok(())
    }

    /// Saves what is not saved yet.
    pub(super) fn close_neighbors(&mut self) {
        let closed = self.neighbors.close();
        self.note("neighbor state", closed);
    }

    /// Answers what is about neighbours.
    pub(super) fn answer_of_neighbors(&mut self, request: Request) {
        let Ok(now) = Now::read() else { return };
        match request {
            Request::Neighbors(reply) => send(reply, Ok(self.neighbors.list(now))),
            Request::Events { after, reply } => send(reply, Ok(self.neighbors.events(after))),
            Request::PinNeighbor(pin, reply) => {
                let _ = reply.send(self.neighbors.pin(&pin, now));
            }
            Request::UnpinNeighbor(unpin, reply) => {
                let _ = reply.send(self.neighbors.unpin(&unpin, now));
            }
            Request::AuditNeighbors { repair, reply } => self.answer_audit(repair, reply),
            _ => {}
        }
        self.write_neighbors();
    }

    fn answer_audit(&mut self, repair: bool, reply: Reply<NeighborAudit>) {
        let bound = self.neighbors.bound(&self.facts.links);
        let attached: Vec<_> = self.interfaces.iter().map(|i| i.name.clone()).collect();
        let links = self.links.clone();
        tokio::spawn(async move {
            send(reply, audit(&links, bound, attached, repair).await);
        });
    }
}

/// Makes the kernel's entries follow an address that moved: its claim was held back. Permanent ones are the
/// operator's.
async fn follow_move(links: &Links, follow: &Follow) -> Result<()> {
    for entry in links.neighbors().await? {
        let named = entry.ip == follow.ip && follow.carriers.contains(&entry.ifindex);
        if named && !entry.permanent && entry.mac != Some(follow.mac) {
            links
                .set_neighbor(entry.ifindex, entry.ip, follow.mac)
                .await?;
        }
    }
    Ok(())
}

async fn audit(
    links: &Links,
    bound: Vec<Bound>,
    mut interfaces: Vec<String>,
    repair: bool,
) -> Result<NeighborAudit> {
    let (mut entries, repairs) = audit::compare(&bound, &links.neighbors().await?);
    for mend in repairs.iter().filter(|_| repair) {
        links
            .set_neighbor(mend.ifindex, mend.ip, mend.mac)
            .await
            .with_context(|| format!("{} is not mended", mend.ip))?;
        if let Some(entry) = entries.get_mut(mend.line) {
            debug_assert_eq!(entry.verdict, AuditVerdict::Poisoned);
            entry.repaired = true;
        }
    }
    // The settings that count are those of the interfaces that carry the addresses.
    interfaces.extend(
        bound
            .into_iter()
            .flat_map(|b| b.carriers)
            .map(|(_, name)| name),
    );
    interfaces.sort_unstable();
    interfaces.dedup();
    let mut settings = Vec::new();
    for interface in interfaces {
        settings.extend(neighbor_sysctl::settings(&interface)?);
    }
    settings.sort_by(|a, b| a.name.cmp(&b.name));
    settings.dedup_by(|a, b| a.name == b.name);
    Ok(NeighborAudit {
        version: VERSION,
        entries,
        settings,
    })
}
