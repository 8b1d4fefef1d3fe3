//! The agent's side of [`crate::neighbor`]: events in, maps and the kernel's table out.

use std::{
    collections::BTreeSet,
    future::pending,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use aya::maps::{MapData, RingBuf};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Agent, send};
use crate::{
    cli::{Code, Failure},
    config::{Config, GuardMode, Mode},
    control::protocol::{
        AuditEntry, AuditVerdict, NeighborAudit, NeighborsChanged, Reply, Request, RequestError,
        VERSION,
    },
    host::{
        links::{Link, Links},
        neighbor_sysctl,
        neighbors::DefaultRoutes,
    },
    neighbor::{
        Follow, NeighborWatch, Now, Send as SendFrame,
        ask::Socket,
        audit::{self, Bound, Repair},
        state::Store,
    },
};

/// Least time between two looks at the routes, which may be a million.
const ROUTES_PAUSE: Duration = Duration::from_millis(500);

/// The default routes, as they were read last.
pub(super) struct Gateways {
    /// They may be others now.
    pub(super) changed: bool,
    known: DefaultRoutes,
    begun: Option<Instant>,
    reading: Option<JoinHandle<Result<DefaultRoutes>>>,
}

impl Default for Gateways {
    fn default() -> Self {
        Self {
            changed: true,
            known: DefaultRoutes::default(),
            begun: None,
            reading: None,
        }
    }
}

impl Gateways {
    /// Begins to read the default routes when they may have changed; the agent does not wait for it, and asks
    /// meanwhile for other lists: each netlink socket has one dump at a time, the next is refused with EBUSY
    /// (`__netlink_dump_start`, `net/netlink/af_netlink.c`), hence a socket of its own.
    pub(super) fn renew(&mut self) {
        let rests = self.begun.is_some_and(|at| at.elapsed() < ROUTES_PAUSE);
        if self.changed && !rests && self.reading.is_none() {
            self.changed = false;
            self.begun = Some(Instant::now());
            self.reading = Some(tokio::spawn(async {
                Links::open()?.default_routes().await
            }));
        }
    }

    /// With what was read before the agent's work began.
    pub(super) fn known(known: DefaultRoutes) -> Self {
        Self {
            known,
            ..Self::default()
        }
    }

    /// The addresses of their next hops.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.known.gateways.iter().map(|&(_, address)| address)
    }

    /// The interfaces that they lead to.
    pub(super) const fn interfaces(&self) -> &BTreeSet<u32> {
        &self.known.interfaces
    }

    /// Waits for what is being read. Cancel safe.
    pub(super) async fn read(&mut self) -> Result<DefaultRoutes> {
        let Some(reading) = &mut self.reading else {
            return pending().await;
        };
        let read = reading.await;
        self.reading = None;
        read?
    }
}

/// The neighbours as they were saved, and whether they will be saved again.
pub(super) fn start(
    config: &Config,
    wanted: &[(String, u32)],
) -> Result<(NeighborWatch, Result<()>)> {
    let policy = config.neighbors.clone();
    let send: SendFrame = if guards(config) {
        sender()?
    } else {
        Box::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()))
    };
    let (store, saved, kept) = Store::open(&config.state_dir);
    let mut watch = NeighborWatch::new(policy, wanted.to_vec(), store, saved, send, Now::read()?);
    watch.set_observe(config.mode == Mode::Observe);
    Ok((watch, kept))
}

/// Whether neighbours are asked at all.
fn guards(config: &Config) -> bool {
    [config.neighbors.arp, config.neighbors.ndp] != [GuardMode::Off; 2]
}

fn sender() -> Result<SendFrame> {
    let socket = Socket::open().map_err(|error| Failure::new(Code::Permission, error))?;
    Ok(Box::new(move |ifindex, frame| socket.send(ifindex, frame)))
}

/// What asks neighbours, if the config guards them and the one before did not.
pub(super) fn sender_for(before: &Config, config: &Config) -> Result<Option<SendFrame>> {
    (guards(config) && !guards(before)).then(sender).transpose()
}

impl Agent {
    /// The config's neighbours are others.
    pub(super) fn follow_neighbor_policy(&mut self, links: &[Link]) -> Result<()> {
        self.refresh_neighbors(links)?;
        if self.write_neighbors() {
            Ok(())
        } else {
            Err(anyhow!(
                "the neighbours of the config do not fit beside the others"
            ))
        }
    }

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
        if self.neighbors.is_asking() {
            self.count_lost_events(now);
        }
        if let Some(outcome) = self.neighbors.tick(now) {
            self.note("neighbor state", outcome);
        }
        self.note_lost_pins();
        self.write_neighbors();
    }

    /// Between the last event and a tick that may take silence for an answer; else now and then.
    pub(super) fn count_lost_events(&mut self, now: Now) {
        let lost = self.maps.neighbor_events_lost();
        if let Some(total) = self.note("neighbor events", lost) {
            self.neighbors.events_lost(total, now);
        }
    }

    pub(super) fn note_lost_pins(&mut self) {
        let lost = self.neighbors.lost_pins();
        let lost = lost.map_or(Ok(()), |text| Err(anyhow!(text.to_owned())));
        self.note("neighbor pins", lost);
    }

    /// Writes what has changed into the maps, and then into the kernel's table: there the old binding would be
    /// learned again.
    fn write_neighbors(&mut self) -> bool {
        let (neighbors, maps) = (&mut self.neighbors, &mut self.maps);
        let written = neighbors.flush(|bindings| maps.set_bindings(bindings));
        let written = self.note("neighbor bindings", written).is_some();
        for follow in self.neighbors.followers() {
            let links = self.links.clone();
            tokio::spawn(async move {
                if let Err(error) = follow_move(&links, &follow).await {
                    warn!("{} has moved, but {error:#}", follow.ip);
                }
            });
        }
        written
    }

    /// Tells the data path that learned bindings are looked after.
    pub(super) fn beat(&mut self) {
        let now = Now::read();
        if let Ok(now) = now {
            self.count_lost_events(now);
        }
        let beaten = now.and_then(|now| self.maps.beat(now.mono));
        if self.note("heartbeat", beaten).is_some() {
            self.reconciler.has_beaten();
        }
    }

    /// The default routes were read, or are to be read again.
    pub(super) fn take_gateways(&mut self, read: Result<DefaultRoutes>) {
        match self.note("default routes", read) {
            Some(known) => self.gateways.known = known,
            None => self.gateways.changed = true,
        }
    }

    /// The facts, or the routes, are others.
    pub(super) fn refresh_neighbors(&mut self, links: &[Link]) -> Result<()> {
        let gateways: Vec<_> = self.gateways.known.gateways.iter().copied().collect();
        let addresses = &self.facts.addresses;
        let routed = self
            .neighbors
            .refresh(links, addresses, &gateways, Now::read()?);
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
            Request::Neighbors { history, reply } => {
                send(reply, Ok(self.neighbors.list(history, now)));
            }
            Request::PinNeighbor(pin, reply) => {
                let pinned = self.neighbors.pin(&pin, now);
                self.keep(pinned, reply);
            }
            Request::UnpinNeighbor(unpin, reply) => {
                let unpinned = self.neighbors.unpin(&unpin, now);
                self.keep(unpinned, reply);
            }
            Request::AuditNeighbors { repair, reply } => self.answer_audit(repair, reply),
            _ => {}
        }
        self.write_neighbors();
    }

    /// Answers when a change is in the maps and on the disk.
    fn keep(
        &mut self,
        changed: Result<NeighborsChanged, RequestError>,
        reply: Reply<NeighborsChanged>,
    ) {
        let written = changed.is_ok() && self.write_neighbors();
        let saved = changed.is_ok().then(|| self.neighbors.save());
        tokio::spawn(async move {
            let saved = match saved {
                Some(saved) => saved.await,
                None => Ok(Ok(())),
            };
            let failed = |text: &str| Err(RequestError::Failed(text.to_owned()));
            let answer = match (changed, saved) {
                (Err(refused), _) => Err(refused),
                (Ok(_), _) if !written => failed(
                    "the data path did not take the change, which is tried again; `netmoat status` tells of it",
                ),
                (Ok(changed), Ok(Ok(()))) => Ok(changed),
                (Ok(_), Ok(Err(why))) => failed(&format!(
                    "the change is in force, but lost when netmoat ends before it can be saved: {why}"
                )),
                (Ok(_), Err(_)) => failed("netmoat ended before it was saved"),
            };
            let _ = reply.send(answer);
        });
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

/// Notes what became of an entry: one that fails keeps no other from being mended.
fn mended_entry(entry: &mut AuditEntry, mend: &Repair, mended: Result<()>) {
    debug_assert_eq!(entry.verdict, AuditVerdict::Poisoned);
    let what = format!(
        "the kernel's entry for {} on {}, {}",
        mend.ip,
        entry.interface.escape_debug(),
        entry.mac.as_deref().unwrap_or("without link-layer address")
    );
    match mended {
        Ok(()) => {
            entry.repaired = true;
            info!("{what}, was mended to {}", mend.mac);
        }
        Err(error) => warn!("{what}, is not mended to {}: {error:#}", mend.mac),
    }
}

async fn audit(
    links: &Links,
    bound: Vec<Bound>,
    mut interfaces: Vec<String>,
    repair: bool,
) -> Result<NeighborAudit> {
    let (mut entries, repairs) = audit::compare(&bound, &links.neighbors().await?);
    for mend in repairs.iter().filter(|_| repair) {
        let mended = links.set_neighbor(mend.ifindex, mend.ip, mend.mac).await;
        if let Some(entry) = entries.get_mut(mend.line) {
            mended_entry(entry, mend, mended);
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

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use net_common::units::Mac;

    use super::*;
    use crate::host::testing::{block_on, in_netns};

    #[test]
    fn an_entry_that_cannot_be_mended_is_left_as_it_was() {
        let mend = Repair {
            line: 0,
            ifindex: 2,
            ip: IpAddr::from([192, 0, 2, 1]),
            mac: Mac::new([2, 0, 0, 0, 0, 1]),
        };
        for (result, repaired) in [(Err(anyhow!("no")), false), (Ok(()), true)] {
            let mut entry = AuditEntry {
                address: "192.0.2.1".to_owned(),
                interface: "eth0".to_owned(),
                mac: Some("02:00:00:00:00:66".to_owned()),
                state: Some("REACHABLE".to_owned()),
                bound: vec![mend.mac.to_string()],
                contested: false,
                verdict: AuditVerdict::Poisoned,
                repaired: false,
            };
            mended_entry(&mut entry, &mend, result);
            assert_eq!(entry.repaired, repaired);
        }
    }

    #[tokio::test]
    async fn routes_are_read_aside_and_again_after_a_failure() {
        let mut gateways = Gateways::default();
        let waited = tokio::time::timeout(Duration::from_millis(1), gateways.read());
        assert!(waited.await.is_err(), "nothing is being read");
        gateways.reading = Some(tokio::spawn(async { Err(anyhow!("no routes")) }));
        assert!(gateways.read().await.is_err());
        assert!(gateways.reading.is_none());
        gateways.renew();
        assert!(!gateways.changed && gateways.reading.is_some());
        gateways.read().await.expect("routes");
        // Many changes are one look.
        gateways.changed = true;
        gateways.renew();
        assert!(gateways.reading.is_none() && gateways.changed);
    }

    #[test]
    fn routes_are_read_while_another_long_list_is() {
        in_netns(|| {
            // More than one message of the kernel, so that the list is not told at once.
            let addresses: String = (0..1000)
                .map(|n| format!("addr add 10.0.{}.{}/32 dev lo\n", n / 250, n % 250))
                .collect();
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("ip");
            let mut stdin = ip.stdin.take().expect("its input");
            stdin.write_all(addresses.as_bytes()).expect("its input");
            drop(stdin);
            assert!(ip.wait().is_ok_and(|status| status.success()));
            block_on(async {
                let links = Links::open().expect("rtnetlink");
                let mut gateways = Gateways::default();
                gateways.renew();
                let (addresses, routes) = tokio::join!(links.addresses(), gateways.read());
                assert_eq!(addresses.expect("addresses").len(), 1000);
                routes.expect("routes");
            });
        });
    }
}
