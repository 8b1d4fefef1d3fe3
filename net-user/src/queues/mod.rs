//! Queue health: from looks at the host to what is going on at every listener.
//!
//! [`looks`] has what is looked at, [`Health`] keeps what is needed of it and says what it means. No system calls here, and
//! no clock: whoever looks says when. The agent looks all the time, `netmoat queues --once` for a moment.

mod accept;
pub mod budget;
mod facts;
mod funnel;
mod histogram;
mod history;
mod host;
mod listener;
pub mod looks;
pub mod once;
pub mod pace;
mod selector;
mod settings;
mod sources;
pub mod talkers;
pub mod tune;
mod verdict;
mod words;

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    time::{Duration, Instant},
};

pub use selector::Selector;
pub use tune::propose;

use net_common::abi::{FlowStats, ListenerStats};

use crate::{
    control::{
        protocol::VERSION,
        queues::{Confidence, HostQueues, ListenerQueues, Queues, Source, Verdict, VerdictKind},
    },
    listeners::Identity,
    queues::{
        facts::{Facts, HostLately},
        host::Host,
        listener::Watched,
        looks::{
            BudgetsLook, DataPathLook, HostLook, ListenerLook, LossLook, OwnersLook, SourcesLook,
            Walk, WitnessesLook,
        },
    },
};

/// Least time between two walks of the kernel's connection table (R-Q-6).
pub const WALK_EVERY: Duration = Duration::from_secs(5);

/// A listener's address as people read it, such as `[::]:443`.
pub fn name_of(identity: &Identity) -> String {
    std::net::SocketAddr::new(identity.address, identity.port).to_string()
}

/// A change of what is going on at a listener, or at the host.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Which listener; `None` for the host.
    pub listener: Option<Identity>,
    /// Its name, such as `[::]:443`; `host` for the host.
    pub name: String,
    /// The gravest verdict before.
    pub from: VerdictKind,
    /// The gravest verdict now.
    pub to: Verdict,
    /// The change in one sentence, for the journal.
    pub text: String,
}

/// Everything that is known of the queues.
#[derive(Debug, Default)]
pub struct Health {
    once: bool,
    listeners: BTreeMap<Identity, Watched>,
    /// Looks since the last that were not worth taking.
    left_out: u32,
    /// Listeners that were closed while something was wrong, until the next judgement.
    gone: Vec<(Identity, VerdictKind)>,
    host: Host,
    owners: OwnersLook,
    sources: SourcesLook,
    budgets: BudgetsLook,
    witnesses: WitnessesLook,
    told: sources::Sources,
}

impl Health {
    /// Nothing is known yet.
    pub fn new(_now: Instant) -> Self {
        Self::default()
    }

    /// For one short look, of a second or two: a verdict holds at once, and none is of high confidence, since no trend is known.
    pub fn once(_now: Instant) -> Self {
        Self {
            once: true,
            ..Self::default()
        }
    }

    /// Takes the listeners as sock_diag tells them: every 50 ms, seldom while nothing waits. One that is missing is forgotten.
    pub fn listeners(&mut self, now: Instant, looks: Vec<ListenerLook>) {
        let live: HashSet<_> = looks.iter().map(|look| look.identity).collect();
        let gone = &mut self.gone;
        self.listeners.retain(|identity, listener| {
            let kept = live.contains(identity);
            if !kept && let Some(verdict) = listener.held.gravest() {
                gone.push((*identity, verdict.kind));
            }
            kept
        });
        let left_out = std::mem::take(&mut self.left_out);
        for look in looks {
            match self.listeners.entry(look.identity) {
                Entry::Occupied(known) => known.into_mut().look(now, look, left_out),
                Entry::Vacant(unknown) => {
                    unknown.insert(Watched::new(now, look, self.once));
                }
            }
        }
    }

    /// A look would have found what the last one did, all accept queues empty: it is counted and costs nothing.
    pub fn nothing_waits(&mut self) {
        self.left_out += 1;
    }

    /// How many looks in a row were counted so. What peers completed meanwhile is settled with the next that is taken.
    pub fn left_out(&self) -> u32 {
        self.left_out
    }

    /// Takes what the data path counted, since it knows each listener: every second. A listener that is missing is not counted.
    pub fn data_path(&mut self, now: Instant, mut looks: HashMap<Identity, DataPathLook>) {
        for (identity, listener) in &mut self.listeners {
            let nothing = DataPathLook {
                stats: None,
                flows: None,
                sketch: None,
            };
            listener.data_path(now, looks.remove(identity).unwrap_or(nothing));
        }
    }

    /// Takes counts of the data path for a report alone, which is to tell of what just happened; of a listener that is not
    /// protected no `stats`.
    pub fn renew(&mut self, identity: &Identity, stats: Option<ListenerStats>, flows: FlowStats) {
        if let Some(listener) = self.listeners.get_mut(identity) {
            listener.renew(stats, flows);
        }
    }

    /// Takes the kernel's counters and settings: every second.
    pub fn host(&mut self, now: Instant, look: HostLook) {
        self.host.look(now, look);
    }

    /// Takes a walk of the kernel's connection table.
    pub fn walk(&mut self, mut walk: Walk) {
        self.host.walk(&walk);
        for (identity, listener) in &mut self.listeners {
            let of = walk.listeners.remove(identity).unwrap_or_default();
            listener.walk(of, walk.complete);
        }
    }

    /// Takes who holds which sockets.
    pub fn owners(&mut self, look: OwnersLook) {
        self.owners = look;
    }

    /// Takes a look for the owners of new sockets, which counted no process's connections: the counts of the last that did
    /// stand.
    pub fn new_owners(&mut self, look: OwnersLook) {
        let processes = std::mem::take(&mut self.owners.processes);
        self.owners = OwnersLook { processes, ..look };
    }

    /// Takes what was lost below, as absolute counts.
    pub fn loss(&mut self, look: LossLook) {
        self.host.loss(look);
    }

    /// Takes the sources of SYNs.
    pub fn sources(&mut self, look: SourcesLook) {
        self.sources = look;
    }

    /// Takes the budgets in force.
    pub fn budgets(&mut self, look: BudgetsLook) {
        self.budgets = look;
    }

    /// Takes what the agent's own probes found.
    pub fn witnesses(&mut self, look: WitnessesLook) {
        self.witnesses = look;
    }

    /// The listeners of which a verdict holds that probes are asked about.
    pub fn flooded(&self) -> HashSet<Identity> {
        let listeners = self.listeners.iter();
        listeners
            .filter(|(_, listener)| verdict::FLOODS.iter().any(|kind| listener.held.has(*kind)))
            .map(|(identity, _)| *identity)
            .collect()
    }

    /// Takes the state of a source of figures, in place of the one of that name.
    pub fn source(&mut self, source: Source) {
        self.told.set(source, None);
    }

    /// A look at `sock_diag`, `walk`, `counters`, `tracepoint`, `xdp`, `processes` or `driver` ended: reports tell its age.
    pub fn looked(&mut self, name: &str, at: Instant, cost: Duration, missing: Option<String>) {
        self.told.looked(name, at, cost, missing);
    }

    /// Judges, after the looks of a second; `wall` is seconds since 1970. Gives what changed.
    pub fn judge(&mut self, now: Instant, wall: u64) -> Vec<Turn> {
        let settings = self.host.settings();
        let lately = self.host.lately();
        let closed = |(identity, from): (Identity, VerdictKind)| closed(identity, from, wall);
        let mut turns: Vec<_> = std::mem::take(&mut self.gone)
            .into_iter()
            .map(closed)
            .collect();
        let identities: Vec<_> = self.listeners.keys().copied().collect();
        let all: u64 = self.listeners.values().map(Watched::overflowed).sum();
        for identity in identities {
            let Some(queues) = self.figures(now, &identity) else {
                continue;
            };
            let Some(listener) = self.listeners.get_mut(&identity) else {
                continue;
            };
            let host = HostLately {
                overflows_elsewhere: all.saturating_sub(listener.overflowed()),
                ..lately
            };
            let facts = Facts {
                queues: &queues,
                lately: &listener.lately(now, &self.owners),
                settings: &settings,
                host: &host,
                witnesses: self.witnesses.get(&identity).map_or(&[], Vec::as_slice),
                once: self.once,
            };
            let found = verdict::of_listener(&facts, &listener.held);
            if let Some(before) = listener.held.judge(found, wall, self.once) {
                let to = listener.held.gravest().cloned();
                let to = to.unwrap_or_else(|| verdict::healthy(&queues, wall));
                turns.push(turn(Some(identity), name_of(&identity), before, to, wall));
            }
        }
        let report = self.host.report();
        let listening = self
            .listeners
            .keys()
            .map(|identity| identity.port)
            .collect();
        let found = verdict::host::judge(&report, &lately, &settings, &listening);
        if let Some(before) = self.host.held.judge(found, wall, self.once) {
            let to = self.host.held.gravest().cloned();
            let to = to.unwrap_or_else(|| Verdict {
                kind: VerdictKind::Healthy,
                since: wall,
                sentence: "Nothing is wrong".to_owned(),
                evidence: Vec::new(),
                confidence: Confidence::High,
                fixes: Vec::new(),
            });
            turns.push(turn(None, "host".to_owned(), before, to, wall));
        }
        turns
    }

    /// Inodes whose owners a report or a verdict needs: of listeners, and of sockets forgotten in CLOSE_WAIT.
    pub fn wanted_owners(&self) -> HashSet<u32> {
        self.listeners.values().flat_map(Watched::inodes).collect()
    }

    /// What there is to say. A listener that was not judged yet is said to be healthy, at low confidence.
    pub fn report(&self, now: Instant) -> Queues {
        let settings = self.host.settings();
        let schedule: Vec<u64> = settings::schedule(settings.synack_retries)
            .iter()
            .map(|at| at.as_secs() * 1000)
            .collect();
        let listeners = self.listeners.iter().filter_map(|(identity, listener)| {
            let mut queues = self.figures(now, identity)?;
            queues.settings = settings::effects(&settings, &queues);
            queues.syn_ack_schedule_ms.clone_from(&schedule);
            queues.half_open_life_ms = settings::life(settings.synack_retries).as_secs() * 1000;
            queues.verdicts = listener.held.verdicts();
            if queues.verdicts.is_empty() {
                let mut healthy = verdict::healthy(&queues, listener.held.healthy_since());
                if !listener.held.is_judged() {
                    healthy.confidence = Confidence::Low;
                }
                queues.verdicts.push(healthy);
            }
            Some(queues)
        });
        Queues {
            version: VERSION,
            listeners: listeners.collect(),
            host: HostQueues {
                processes: self.owners.processes.clone(),
                verdicts: self.host.held.verdicts(),
                ..self.host.report()
            },
            sources: self.told.report(now),
        }
    }

    /// The report of a listener, without settings and verdicts.
    fn figures(&self, now: Instant, identity: &Identity) -> Option<ListenerQueues> {
        let mut queues = self.listeners.get(identity)?.report(now, &self.owners);
        if let Some(sources) = self.sources.get(identity) {
            queues.top_sources.clone_from(sources);
        }
        queues.budget = self.budgets.get(identity).copied();
        Some(queues)
    }
}

/// A change of the gravest verdict, from the one of this kind that began at `before.1`.
fn turn(
    listener: Option<Identity>,
    name: String,
    before: (VerdictKind, u64),
    to: Verdict,
    wall: u64,
) -> Turn {
    let (from, since) = before;
    let text = match to.kind {
        VerdictKind::Healthy => format!(
            "{name}: {} is over after {}",
            from.name(),
            words::time(Duration::from_secs(wall.saturating_sub(since)))
        ),
        kind => format!("{name}: {}: {}", kind.name(), to.sentence),
    };
    Turn {
        listener,
        name,
        from,
        to,
        text,
    }
}

/// The change of a listener that was closed: nothing is wrong with it any more.
fn closed(identity: Identity, from: VerdictKind, wall: u64) -> Turn {
    let name = name_of(&identity);
    let text = format!(
        "{name}: {} is over: nothing listens there any more",
        from.name()
    );
    Turn {
        listener: Some(identity),
        name,
        from,
        to: Verdict {
            kind: VerdictKind::Healthy,
            since: wall,
            sentence: "Nothing listens there any more".to_owned(),
            evidence: Vec::new(),
            confidence: Confidence::High,
            fixes: Vec::new(),
        },
        text,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
