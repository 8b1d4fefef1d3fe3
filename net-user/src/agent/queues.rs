//! The agent's side of [`crate::queues`]: looks at the host in, verdicts, budgets and answers out.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Result;
use net_common::abi::{FlowKey, FlowStats, ListenerStats, SKETCH_CELLS};
use net_common::units::addr_words;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use super::Agent;
use crate::{
    config::SynMode,
    control::queues::{Budget, Loss, Queues, Source, VerdictKind},
    host::{
        self, loss, owners,
        sock_diag::{Diag, ListenSocket},
        tuning::Tuner,
        walk::Walker,
    },
    listeners::{Classified, Compiled, Identity, Levels, budget_interval_ns, identity},
    neighbor::Now,
    privileges::looker,
    queues::{
        Health, WALK_EVERY,
        budget::{Counted, Follower},
        looks::{
            BudgetsLook, DataPathLook, ListenerLook, ListenerWalk, OwnersLook, QueueSettings, Walk,
        },
        pace::Pace,
        talkers::Talkers,
    },
};

/// Looks left out in a row at most: with one every 50 ms, one is taken at least every second.
const LEFT_OUT: u32 = 16;
/// So many looks are left out between two while nothing waits, and so many while nobody connects either.
const RESTS: u32 = 1;
const IDLE_RESTS: u32 = 3;
/// Sockets of a walk at most; what is beyond is told to be missing.
const WALK_BOUND: usize = 1_000_000;
/// Walks cost at most one part in so many of a core.
const WALK_SHARE: u32 = 500;
/// So do looks for the processes that hold sockets, and what was lost below.
const SHARE: u32 = 1000;
/// How often it is looked at what was lost below.
const LOSS_EVERY: Duration = Duration::from_secs(5);
/// How often the processes that hold sockets are looked for: a socket may have been handed on.
const OWNERS_EVERY: Duration = Duration::from_secs(10);
/// Least time between two looks for the owners of new sockets.
const FRESH_OWNERS_EVERY: Duration = Duration::from_secs(1);

/// What was looked at aside from the agent's task.
pub(super) enum Looked {
    Walk(
        Box<Walks>,
        (Result<Walk>, Duration),
        Option<(OwnersLook, Duration)>,
    ),
    Owners((OwnersLook, Duration)),
    Loss((Result<Loss>, Duration)),
}

/// What walks are made with.
#[derive(Default)]
pub(super) struct Walks {
    walker: Walker,
    /// Kept, since its buffers are megabytes; none before the first walk.
    diag: Option<Diag>,
}

impl Walks {
    fn walk(&mut self, sockets: &[ListenSocket], settings: &QueueSettings) -> Result<Walk> {
        let diag = match &mut self.diag {
            Some(diag) => diag,
            none => none.insert(Diag::open()?),
        };
        self.walker.walk(diag, sockets, settings, WALK_BOUND)
    }
}

/// What is known of the queues.
pub(super) struct QueueWatch {
    health: Health,
    /// Looks left out since the last.
    rested: u32,
    /// Connections of all listeners so far, and whether there was none in the second before.
    established: u64,
    idle: bool,
    /// Which compilation of the listeners the last look that was told of is of.
    told: u64,
    /// None while a walk is under way.
    walker: Option<Box<Walks>>,
    walks: Pace,
    owners: Pace,
    fresh_owners: Pace,
    owning: bool,
    losses: Pace,
    losing: bool,
    /// Owners that are known, so that only new sockets are looked for.
    known: HashSet<u32>,
    talkers: Talkers,
    followers: HashMap<Identity, Follower>,
    /// How often each budget is halved.
    pub(super) levels: Levels,
    /// SYNs at the last look, by slot: a sketch is read when there were more.
    syns: HashMap<u32, u64>,
    /// Used on threads of their own: each setting waits for the disk before it is changed.
    pub(super) tuner: Arc<Mutex<Tuner>>,
    sender: mpsc::Sender<Looked>,
    looked: mpsc::Receiver<Looked>,
}

impl QueueWatch {
    pub(super) fn new(tuner: Tuner, missing: &[(&'static str, String)]) -> Self {
        let now = Instant::now();
        let (sender, looked) = mpsc::channel(4);
        let mut health = Health::new(now);
        for (name, tells) in [
            ("retransmits", "SYN-ACKs that were sent again"),
            ("resets", "resets that peers sent"),
        ] {
            let why = missing.iter().find(|(source, _)| *source == name);
            health.source(Source {
                name: name.to_owned(),
                tells: tells.to_owned(),
                missing: why.map(|(_, why)| why.clone()),
                age_ms: None,
                cost_us: 0,
            });
        }
        Self {
            health,
            rested: 0,
            established: 0,
            idle: false,
            told: 0,
            walker: Some(Box::default()),
            walks: Pace::new(WALK_EVERY, WALK_SHARE),
            owners: Pace::new(OWNERS_EVERY, SHARE),
            fresh_owners: Pace::new(FRESH_OWNERS_EVERY, SHARE),
            owning: false,
            losses: Pace::new(LOSS_EVERY, SHARE),
            losing: false,
            known: HashSet::new(),
            talkers: Talkers::default(),
            followers: HashMap::new(),
            levels: Levels::new(),
            syns: HashMap::new(),
            tuner: Arc::new(Mutex::new(tuner)),
            sender,
            looked,
        }
    }

    /// Forgets a slot that was given to another listener.
    pub(super) fn forget(&mut self, slot: u32) {
        self.talkers.forget(slot);
        self.syns.remove(&slot);
    }

    /// Looks on a thread of its own.
    fn aside(&self, look: impl FnOnce() -> Looked + Send + 'static) {
        let sender = self.sender.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody is there at the end.
            let _ = sender.blocking_send(look());
        });
    }

    /// Waits for what is being looked at. Cancel safe.
    pub(super) async fn looked(&mut self) -> Option<Looked> {
        self.looked.recv().await
    }
}

impl Agent {
    /// Tells the data path whose connections to count. A slot that was handed on is emptied when nobody counts in it.
    pub(super) fn set_flow_slots(&mut self, compiled: &Compiled) -> Result<()> {
        let slots = compiled.listeners.iter().filter_map(|listener| {
            let socket = &listener.socket;
            Some((flow_key(socket), listener.slot?))
        });
        let slots: HashMap<_, _> = slots.collect();
        if !compiled.fresh_slots.is_empty() {
            let mut kept = slots.clone();
            kept.retain(|_, slot| !compiled.fresh_slots.contains(slot));
            self.maps.set_flow_slots(&kept)?;
        }
        for &slot in &compiled.fresh_slots {
            self.maps.clear_listener_stats(slot)?;
            self.cookies.remove(&slot);
            self.queues.forget(slot);
        }
        self.maps.set_flow_slots(&slots)
    }

    /// Looks at the listeners and their accept queues, and lets budgets follow.
    pub(super) fn look_at_accept_queues(&mut self) {
        self.look_unless_quiet();
        self.follow_busy_queues(Instant::now());
    }

    /// While nothing waits most looks are left out, and so is what would be told again.
    fn look_unless_quiet(&mut self) {
        let quiet = self.compiled.is_quiet();
        let rests = if self.queues.idle { IDLE_RESTS } else { RESTS };
        if quiet && self.queues.rested < rests {
            self.queues.rested += 1;
            return self.queues.health.nothing_waits();
        }
        self.queues.rested = 0;
        self.refresh_listeners();
        let now = Instant::now();
        let cost = now.saturating_duration_since(self.looked);
        self.queues.health.looked("sock_diag", now, cost, None);
        // They are compiled anew whenever one came or went. And a second without a look would be told as a second in which
        // nothing was accepted.
        let told = std::mem::replace(&mut self.queues.told, self.compilations);
        let due = self.queues.health.left_out() >= LEFT_OUT;
        if quiet && !due && self.compiled.is_quiet() && self.compilations == told {
            return self.queues.health.nothing_waits();
        }
        let mut looks: Vec<ListenerLook> = Vec::new();
        let mut places: HashMap<Identity, usize> = HashMap::new();
        for listener in &self.compiled.listeners {
            let identity = identity(&listener.socket);
            let place = *places.entry(identity).or_insert(looks.len());
            if place == looks.len() {
                let link = self.facts.links.get(&identity.ifindex);
                looks.push(ListenerLook {
                    identity,
                    sockets: Vec::new(),
                    interface: link.map(|link| link.name.clone()),
                    mode: listener.mode,
                    protected: listener.protected,
                    why_not: listener.why_not.clone(),
                });
            }
            looks[place].sockets.push(listener.socket.clone());
        }
        self.queues.health.listeners(now, looks);
    }

    /// The budgets of listeners whose SYN queues are in use follow these at each look, the others once a second.
    fn follow_busy_queues(&mut self, now: Instant) {
        if !self.queues.followers.values().any(Follower::is_busy) {
            return;
        }
        let busy: Vec<_> = distinct(&self.compiled)
            .filter(|listener| {
                let follower = self.queues.followers.get(&identity(&listener.socket));
                follower.is_some_and(Follower::is_busy)
            })
            .filter_map(|listener| Some((identity(&listener.socket), listener.slot?)))
            .collect();
        let rooms = rooms(&self.compiled);
        let mut changed = false;
        for (identity, slot) in busy {
            let counted = self.maps.listener_stats(slot);
            let counted = counted.and_then(|stats| Ok((stats, self.maps.flows(slot)?)));
            if let Some((stats, flows)) = self.note("statistics", counted) {
                changed |= self.follow(now, identity, &rooms, &stats, &flows);
            }
        }
        if changed {
            self.recompile = true;
            self.refresh_listeners();
        }
    }

    fn follow(
        &mut self,
        now: Instant,
        identity: Identity,
        rooms: &HashMap<Identity, Room>,
        stats: &ListenerStats,
        flows: &FlowStats,
    ) -> bool {
        let Room { limit, dropped } = rooms.get(&identity).copied().unwrap_or_default();
        let counted = Counted {
            passed: stats.syns_passed,
            completed: flows.established.saturating_sub(stats.handshakes),
            dropped,
        };
        let followers = &mut self.queues.followers;
        let follower = followers
            .entry(identity)
            .or_insert_with(|| Follower::new(now, counted));
        let changed = follower.follow(now, counted, limit);
        if changed {
            self.queues.levels.insert(identity, follower.level());
        }
        changed
    }

    /// The budgets in force.
    fn budgets(&self) -> BudgetsLook {
        distinct(&self.compiled)
            .filter(|listener| listener.protected && listener.mode == SynMode::Auto)
            .map(|listener| {
                let identity = identity(&listener.socket);
                let policy = self.config.syn.for_port(identity.port);
                let level = self.queues.levels.get(&identity).copied().unwrap_or(0);
                let follower = self.queues.followers.get(&identity);
                let budget = Budget {
                    milli_per_second: milli_per_second(budget_interval_ns(policy, level)),
                    configured_milli_per_second: milli_per_second(budget_interval_ns(policy, 0)),
                    estimated_syn_queue: follower.map_or(0, Follower::estimate),
                };
                (identity, budget)
            })
            .collect()
    }

    /// Once a second: what the data path and the kernel counted, and what it all means.
    pub(super) fn look_at_queues(&mut self) {
        let now = Instant::now();
        let looked = self.look_at_data_path(now);
        let cost = now.elapsed();
        let why = looked.as_ref().err().map(|error| format!("{error:#}"));
        for source in ["tracepoint", "xdp"] {
            self.queues.health.looked(source, now, cost, why.clone());
        }
        self.note("statistics", looked);
        let (host, cost) = timed(host::look);
        let why = host.as_ref().err().map(|error| format!("{error:#}"));
        self.queues.health.looked("counters", now, cost, why);
        let settings = host.as_ref().map(|look| look.settings.clone()).ok();
        if let Some(look) = self.note("kernel counters", host) {
            self.queues.health.host(now, look);
        }
        self.start_looks(now, settings);
        let witnesses = self.witnesses();
        self.queues.health.witnesses(witnesses);
        let flooded = self.queues.health.flooded();
        self.hurry_walks(&flooded);
        let Ok(wall) = Now::read() else { return };
        for turn in self.queues.health.judge(now, wall.wall.as_secs()) {
            let recovered = turn.to.kind == VerdictKind::Healthy;
            self.neighbors
                .verdict_turned(recovered, turn.name, turn.text, wall);
        }
    }

    fn look_at_data_path(&mut self, now: Instant) -> Result<()> {
        let listeners: Vec<_> = distinct(&self.compiled)
            .map(|l| (identity(&l.socket), l.slot, l.protected, l.mode))
            .collect();
        let rooms = rooms(&self.compiled);
        let mut looks = HashMap::new();
        let mut established = 0;
        for &(identity, slot, protected, mode) in &listeners {
            let Some(slot) = slot else { continue };
            let stats = self.maps.listener_stats(slot)?;
            let flows = self.maps.flows(slot)?;
            established += flows.established;
            self.note_cookies(slot, stats.cookies_sent);
            let before = self.queues.syns.insert(slot, stats.syns);
            let sketch = if before == Some(stats.syns) {
                [0; SKETCH_CELLS]
            } else {
                self.maps.take_sketch(slot)?
            };
            let look = DataPathLook {
                stats: protected.then_some(stats),
                flows: Some(flows),
                sketch: protected.then_some(sketch),
            };
            looks.insert(identity, look);
            if protected && mode == SynMode::Auto {
                self.recompile |= self.follow(now, identity, &rooms, &stats, &flows);
            }
        }
        // Of a listener that got no slot nothing is known.
        let all_known = looks.len() == listeners.len();
        let before = std::mem::replace(&mut self.queues.established, established);
        self.queues.idle = all_known && established == before;
        self.queues.health.data_path(now, looks);
        let live: HashSet<_> = listeners.iter().map(|(identity, ..)| *identity).collect();
        self.queues
            .followers
            .retain(|identity, _| live.contains(identity));
        let followers = &self.queues.followers;
        self.queues
            .levels
            .retain(|identity, _| followers.contains_key(identity));
        let budgets = self.budgets();
        self.queues.health.budgets(budgets);
        self.queues.talkers.take(now, &self.maps.syn_log()?);
        let mut busiest = self.queues.talkers.busiest();
        let sources = listeners
            .iter()
            .filter_map(|(identity, slot, ..)| Some((*identity, busiest.remove(&(*slot)?)?)))
            .collect();
        self.queues.health.sources(sources);
        Ok(())
    }

    /// Starts what takes its time, each at its own pace.
    fn start_looks(&mut self, now: Instant, settings: Option<QueueSettings>) {
        let wanted = self.queues.health.wanted_owners();
        if let Some(settings) = settings {
            self.start_walk(now, settings, &wanted);
        }
        let queues = &mut self.queues;
        let fresh = !wanted.is_subset(&queues.known);
        if fresh && !queues.owning && queues.fresh_owners.due(now) {
            queues.owning = true;
            queues.known.clone_from(&wanted);
            queues.aside(move || {
                Looked::Owners(looker::look(move || timed(|| owners::look(&wanted, None))))
            });
        }
        if !queues.losing && queues.losses.due(now) {
            queues.losing = true;
            let names: Vec<_> = self.interfaces.iter().map(|i| i.name.clone()).collect();
            queues.aside(move || Looked::Loss(timed(|| loss::look(&names))));
        }
    }

    /// A walk, and while what it met is at hand the processes that hold these sockets.
    fn start_walk(&mut self, now: Instant, settings: QueueSettings, wanted: &HashSet<u32>) {
        let queues = &mut self.queues;
        if !queues.walks.due(now) {
            return;
        }
        let Some(mut walker) = queues.walker.take() else {
            return;
        };
        let listeners = self.compiled.listeners.iter();
        let sockets: Vec<ListenSocket> = listeners.map(|l| l.socket.clone()).collect();
        let wanted = queues.owners.due(now).then(|| wanted.clone());
        queues.aside(move || {
            let walk = timed(|| walker.walk(&sockets, &settings));
            let (walker, owners) = looker::look(move || {
                let look = |wanted| timed(|| owners::look(&wanted, Some(walker.walker.sockets())));
                let owners = wanted.map(look);
                (walker, owners)
            });
            Looked::Walk(walker, walk, owners)
        });
    }

    /// Takes what was looked at aside.
    pub(super) fn take_look(&mut self, looked: Looked) {
        let now = Instant::now();
        match looked {
            Looked::Walk(walker, (walk, cost), owners) => {
                self.queues.walker = Some(walker);
                let why = match &walk {
                    Ok(walk) if walk.complete => None,
                    Ok(_) => Some(format!(
                        "it ended at {WALK_BOUND} sockets, so that counts are lower bounds"
                    )),
                    Err(error) => Some(format!("{error:#}")),
                };
                let taken = walk.as_ref().map_or(Duration::ZERO, |walk| walk.cost);
                self.queues.health.looked("walk", now, taken, why);
                let walk = self.note("walk of the connections", walk);
                self.queues.walks.done(now, cost);
                if let Some((look, cost)) = owners {
                    self.queues.owners.done(now, cost);
                    self.queues
                        .health
                        .looked("processes", now, cost, look.missing.clone());
                    self.queues.health.owners(look);
                }
                let Some(walk) = walk else { return };
                for (identity, follower) in &mut self.queues.followers {
                    let found = walk.listeners.get(identity);
                    // Who has answered waits for data or for room, and no flood.
                    let waiting = |l: &ListenerWalk| l.states.syn_recv.saturating_sub(l.acked);
                    follower.walked(found.map_or(0, waiting));
                }
                self.queues.health.walk(walk);
            }
            Looked::Owners((look, cost)) => {
                self.queues.owning = false;
                self.queues.fresh_owners.done(now, cost);
                self.queues
                    .health
                    .looked("processes", now, cost, look.missing.clone());
                self.queues.health.new_owners(look);
            }
            Looked::Loss((look, cost)) => {
                self.queues.losing = false;
                self.queues.losses.done(now, cost);
                let why = look.as_ref().err().map(|error| format!("{error:#}"));
                self.queues.health.looked("driver", now, cost, why);
                if let Some(look) = self.note("losses", look) {
                    self.queues.health.loss(look);
                }
            }
        }
    }

    /// The report of now, with counts of now.
    pub(super) fn report_queues(&mut self) -> Queues {
        for listener in distinct(&self.compiled) {
            let Some(slot) = listener.slot else { continue };
            let stats = self.maps.listener_stats(slot);
            // Those of the last second will do; it is noted then what is wrong.
            if let (Ok(stats), Ok(flows)) = (stats, self.maps.flows(slot)) {
                let identity = identity(&listener.socket);
                let stats = listener.protected.then_some(stats);
                self.queues.health.renew(&identity, stats, flows);
            }
        }
        self.queues.health.report(Instant::now())
    }
}

/// What a look gives, and the CPU time it costs: on a busy machine it takes longer, and costs no more.
fn timed<T>(look: impl FnOnce() -> T) -> (T, Duration) {
    let began = thread_time();
    let seen = look();
    (seen, thread_time().saturating_sub(began))
}

/// CPU time of the calling thread.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// One classified socket of each listener.
fn distinct(compiled: &Compiled) -> impl Iterator<Item = &Classified> {
    let mut seen = HashSet::new();
    compiled
        .listeners
        .iter()
        .filter(move |listener| seen.insert(identity(&listener.socket)))
}

/// What the sockets of a listener hold together: the SYN queues of a reuseport group fill together.
#[derive(Clone, Copy, Default)]
struct Room {
    /// Their limits.
    limit: u32,
    /// Segments that were dropped at them.
    dropped: u64,
}

/// That of every listener, in one go: there may be thousands.
fn rooms(compiled: &Compiled) -> HashMap<Identity, Room> {
    let mut rooms: HashMap<Identity, Room> = HashMap::new();
    for listener in &compiled.listeners {
        let socket = &listener.socket;
        let room = rooms.entry(identity(socket)).or_default();
        room.limit = room.limit.saturating_add(socket.accept_limit);
        room.dropped += u64::from(socket.drops);
    }
    rooms
}

fn flow_key(socket: &ListenSocket) -> FlowKey {
    FlowKey {
        addr: addr_words(socket.address),
        port: socket.port,
        family: socket.family.into(),
    }
}

fn milli_per_second(interval_ns: u64) -> u64 {
    1_000_000_000_000 / interval_ns.max(1)
}
