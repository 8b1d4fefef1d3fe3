//! Block and allow lists: a thread that owns them, since building a million entries takes seconds and a slow disk
//! longer, and the agent's side of it.

mod tentative;

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use aya::Ebpf;
use net_common::{
    abi::MAX_LIST_ENTRIES,
    lists::{EXPIRY_SHIFT, Prefix},
    verdict::Reason,
};
use tracing::{info, warn};

use super::Agent;
use crate::{
    config::{Config, ListPolicy, Mode},
    confirm::FormerList,
    control::{
        changes::Confirmed,
        lists::{
            AddEntries, DeleteEntries, EntryChanged, FindQuery, ImportEntries, ListChanged,
            ListEntry, ListFound, ListImported, ListNames, ListPage, ListQuery, ListRequest,
            ListVerdict, ListsAtAGlance, MAX_PAGE, NamedList,
        },
        protocol::{Reply, RequestError, VERSION},
    },
    host::ssh,
    lists::{
        CONFIG, List, Listed, Lists, MAX_NAMES, Outcome, check_name,
        guard::{self, Change, Gone, Victim},
        now_ns,
        store::Store,
        tables::TableError,
        text::{self, Entry, parse_prefix, show},
    },
    neighbor::Now,
};
pub(super) use tentative::{Configure, Waiting};

/// How often hits are counted and what is over is taken out.
const TICK: Duration = Duration::from_secs(1);
/// Least time between two sweeps, each of which may walk a million entries; the data path ignores what is over at once.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Time between two comparisons of which tables are read with what was written.
const MEND_EVERY: Duration = Duration::from_secs(5);
/// Lists up to this size are on the disk before a change is acknowledged; larger ones soon after, since all of the file
/// is written anew. Imports always are.
const SAVED_AT_ONCE: usize = 10_000;
/// Least time between two writes of a large list.
const SAVE_EVERY: Duration = Duration::from_secs(3);
/// What an operator is told when the thread is gone.
const GONE: &str = "netmoat's lists cannot be changed or read any more; restart netmoat";

/// A request, and who must not be locked out by it.
pub(super) struct Job {
    request: ListRequest,
    /// It is undone unless it is confirmed.
    waiting: Option<Waiting>,
    victims: Vec<Victim>,
    /// Whether blocked packets pass.
    observe: bool,
}

/// What the thread is told to do.
pub(super) enum Order {
    /// What someone asked for.
    Request(Job),
    /// The config's lists are others.
    Configure(Configure),
    /// The change that waits is for good.
    Confirm(Reply<Confirmed>),
}

/// What the agent and the thread have in common.
#[derive(Default)]
struct Shared {
    /// The change that waits for its confirmation.
    waiting: Option<Waiting>,
    glance: ListsAtAGlance,
    /// What is wrong at the moment, and what was when the lists were read at the start.
    now: Option<String>,
    start: Vec<String>,
    /// What was changed by somebody else and set right, in words, since it was asked for.
    drift: Vec<String>,
    /// Who must get through, and who of them is locked out, by which entry.
    watched: Vec<Victim>,
    locked_out: Vec<(Victim, Listed)>,
}

/// The agent's side.
pub(super) struct ListWorker {
    /// None once it is to end.
    jobs: Option<Sender<Order>>,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
    /// Who was locked out at the last look.
    told: Vec<Victim>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ListWorker {
    /// Fills the maps with what the config names and what was saved, and starts the thread.
    ///
    /// A change that was not confirmed is undone before.
    pub(super) fn start(
        ebpf: &mut Ebpf,
        config: &Config,
        unconfirmed: Option<&FormerList>,
    ) -> Result<Self> {
        let mut lists = Lists::new(ebpf)?;
        // Of an agent before all of a list is in force until all of the new one is.
        lists.hold();
        configure(&mut lists, &config.lists)?;
        let (store, saved, mut problems) = Store::open(&config.state_dir);
        let mut rescued = Vec::new();
        for saved in saved {
            let restored = lists.replace(saved.list, &saved.name, &saved.entries, now_ns()?);
            if let Err(error) = restored {
                let (list, name) = (saved.list.word(), &saved.name);
                problems.push(format!("{list} list {name} is not in force: {error}"));
            } else if saved.rescued && store.is_usable() {
                rescued.push((saved.list, saved.name));
            }
        }
        if let Some(former) = unconfirmed {
            let (list, name) = (former.list, former.name.clone());
            match tentative::put_back(&mut lists, former) {
                Ok(()) => rescued.push((list, name)),
                Err(error) => problems.push(format!(
                    "a change of {} list {name} was not confirmed, and cannot be undone: {error:#}",
                    list.word()
                )),
            }
        }
        for (list, error) in lists.release() {
            problems.push(format!("the {} list is not in force: {error}", list.word()));
        }
        let shared = Arc::new(Mutex::new(Shared {
            start: problems,
            ..Shared::default()
        }));
        let (jobs, inbox) = channel();
        let mut worker = Worker {
            lists,
            store,
            unsaved: rescued,
            saved: Instant::now(),
            swept: Instant::now(),
            mended: Instant::now(),
            shared: Arc::clone(&shared),
            state_dir: config.state_dir.clone(),
            policy: config.lists.clone(),
            asked: None,
            held: None,
        };
        // Of what a damaged file had left, there is no other copy in order.
        let saved = worker.save_all();
        worker.note(saved);
        worker.publish();
        let thread = std::thread::Builder::new()
            .name("lists".to_owned())
            .spawn(move || worker.run(&inbox))
            .context("no thread for the lists")?;
        Ok(Self {
            jobs: Some(jobs),
            shared,
            thread: Some(thread),
            told: Vec::new(),
        })
    }

    fn order(&self, order: Order) {
        let Some(jobs) = &self.jobs else {
            return refuse(order);
        };
        if let Err(error) = jobs.send(order) {
            refuse(error.0);
        }
    }

    /// Where orders go, for what is done aside; none once the thread is to end.
    pub(super) fn orders(&self) -> Option<Sender<Order>> {
        self.jobs.clone()
    }

    /// Writes what was not written yet, and ends the thread.
    fn close(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was told when it happened.
            let _ = thread.join();
        }
    }
}

fn configure(lists: &mut Lists, policy: &ListPolicy) -> Result<()> {
    for (list, entries) in [(List::Allow, &policy.allow), (List::Block, &policy.block)] {
        if !entries.is_empty() {
            lists
                .replace(list, CONFIG, entries, now_ns()?)
                .with_context(|| format!("the config's {} list", list.word()))?;
        }
    }
    Ok(())
}

/// Tells whoever asked that nobody is there to answer.
fn refuse(order: Order) {
    fn gone<T>(reply: Reply<T>) {
        let _ = reply.send(Err(RequestError::Failed(GONE.to_owned())));
    }
    let request = match order {
        Order::Request(job) => job.request,
        Order::Configure(configure) => return gone(configure.reply),
        Order::Confirm(reply) => return gone(reply),
    };
    match request {
        ListRequest::Add(_, reply) | ListRequest::Delete(_, reply) => gone(reply),
        ListRequest::Import(_, reply) => gone(reply),
        ListRequest::Page(_, reply) => gone(reply),
        ListRequest::Find(_, reply) => gone(reply),
        ListRequest::Names(reply) => gone(reply),
    }
}

impl Agent {
    /// Hands a request to the thread, which answers it.
    pub(super) fn answer_of_lists(&mut self, request: ListRequest) {
        let mut waiting = None;
        if let Some((asked, within)) = tentative::asks(&request) {
            if let Err(why) = self.may_be_undone() {
                return request.refuse(why);
            }
            if asked.shuts_out
                && let Err(error) = self.observe_after(Some(within))
            {
                return request.refuse(format!("{error:#}"));
            }
            lock(&self.lists.shared).waiting = Some(asked.clone());
            waiting = Some(asked);
        }
        self.lists.order(Order::Request(Job {
            request,
            waiting,
            victims: self.victims(),
            observe: self.config.mode == Mode::Observe,
        }));
    }

    /// Who is locked out now, in plain words.
    pub(super) fn locked_out(&self) -> Vec<String> {
        let shared = lock(&self.lists.shared);
        let told = shared.locked_out.iter().map(|(victim, by)| {
            format!(
                "{} ({}) is blocked by {} on list {}",
                victim.address,
                victim.what,
                show(by.prefix),
                by.origin
            )
        });
        told.collect()
    }

    /// Who must get through, as far as the agent knows by itself.
    pub(super) fn victims(&self) -> Vec<Victim> {
        let gateways = self.gateways.addresses().map(|address| Victim {
            address,
            what: "the default gateway",
        });
        let own = self.facts.addresses.iter().map(|own| Victim {
            address: own.ip,
            what: "an address of this host",
        });
        let resolvers = self.resolvers().map(|address| Victim {
            address,
            what: "a name server of this host",
        });
        // What claims to be from a loopback address is dropped by the kernel anyway.
        gateways
            .chain(own)
            .chain(resolvers)
            .filter(|victim| !victim.address.is_loopback())
            .collect()
    }

    /// Looks for who is locked out by now: addresses and routes change after a list was made, and lists were forced.
    fn note_locked_out(&mut self) {
        let watched = self.victims();
        let mut locked = {
            let mut shared = lock(&self.lists.shared);
            shared.watched = watched;
            shared.locked_out.clone()
        };
        // A link-local address may be there on several interfaces.
        let mut seen = HashSet::new();
        locked.retain(|(victim, _)| seen.insert(victim.address));
        let now = Now::read();
        for (victim, by) in &locked {
            if let Ok(now) = &now
                && !self.lists.told.contains(victim)
            {
                let text = format!(
                    "{} ({}) is blocked by {} on list {}",
                    victim.address,
                    victim.what,
                    show(by.prefix),
                    by.origin
                );
                self.neighbors.locked_out(victim.address, text, *now);
            }
        }
        let problem = locked.first().map(|(victim, by)| {
            let observed = match self.config.mode {
                Mode::Observe => " (observe mode: they pass)",
                _ => "",
            };
            anyhow!(
                "packets from {} are blocked{observed}, the first by {} on list {}; `netmoat allow add {}` lets it in, \
                 or take that entry off with `netmoat block del`",
                guard::names(locked.iter().map(|(victim, _)| victim)),
                show(by.prefix),
                by.origin,
                victim.address
            )
        });
        self.lists.told = locked.into_iter().map(|(victim, _)| victim).collect();
        self.note("locked out", problem.map_or(Ok(()), Err));
    }

    /// What `status` says of lists.
    pub(super) fn glance_at_lists(&self) -> Result<ListsAtAGlance> {
        let cells = self.maps.counters()?;
        let count = |reason: Reason| -> u64 {
            [0, Reason::ALL.len()]
                .iter()
                .filter_map(|section| cells.get(section + reason as usize))
                .sum()
        };
        let glance = lock(&self.lists.shared).glance.clone();
        Ok(ListsAtAGlance {
            drops: count(Reason::Blocked),
            passes: count(Reason::Allowed),
            ..glance
        })
    }

    /// What of the lists was changed by somebody else and set right since the last call, in words.
    pub(super) fn lists_that_drifted(&mut self) -> Vec<String> {
        std::mem::take(&mut lock(&self.lists.shared).drift)
    }

    /// Notes what is wrong with the lists.
    pub(super) fn note_lists(&mut self) {
        let ended = self
            .lists
            .thread
            .as_ref()
            .is_none_or(JoinHandle::is_finished);
        let (start, mut now) = {
            let shared = lock(&self.lists.shared);
            (shared.start.join("; "), shared.now.clone())
        };
        if ended {
            now = Some(GONE.to_owned());
            // Nobody is there to go back, or to confirm it to.
            lock(&self.lists.shared).waiting = None;
        }
        let start = if start.is_empty() {
            Ok(())
        } else {
            Err(anyhow!(start))
        };
        self.note("saved lists", start);
        self.note_locked_out();
        self.note("lists", now.map_or(Ok(()), |text| Err(anyhow!(text))));
    }

    /// Saves what is not saved yet.
    pub(super) fn close_lists(&mut self) {
        self.lists.close();
        self.note_lists_at_the_end();
    }

    fn note_lists_at_the_end(&mut self) {
        let now = lock(&self.lists.shared).now.clone();
        self.note("lists", now.map_or(Ok(()), |text| Err(anyhow!(text))));
    }
}

/// The thread's side.
struct Worker {
    lists: Lists,
    store: Store,
    /// Large lists that are to be saved.
    unsaved: Vec<(List, String)>,
    /// When such a list was saved last.
    saved: Instant,
    swept: Instant,
    mended: Instant,
    shared: Arc<Mutex<Shared>>,
    state_dir: PathBuf,
    /// What the config lists.
    policy: ListPolicy,
    /// The change that is made now is to wait for its confirmation.
    asked: Option<Waiting>,
    /// The change that waits.
    held: Option<tentative::Held>,
}

fn refused<T>(why: impl Into<String>) -> Result<T, RequestError> {
    Err(RequestError::Refused(why.into()))
}

fn failed(error: impl std::fmt::Display) -> RequestError {
    RequestError::Failed(format!("{error:#}"))
}

impl Worker {
    fn run(&mut self, inbox: &Receiver<Order>) {
        let mut ticked = Instant::now();
        loop {
            let patience = TICK.saturating_sub(ticked.elapsed()).min(self.patience());
            match inbox.recv_timeout(patience) {
                Ok(Order::Request(job)) => self.answer(job),
                Ok(Order::Configure(order)) => {
                    let configured = self.configure(&order);
                    self.publish();
                    let _ = order.reply.send(configured);
                }
                Ok(Order::Confirm(reply)) => {
                    let _ = reply.send(self.confirm());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
            self.go_back_in_time();
        }
        let saved = self.save_all();
        self.note(saved);
    }

    fn tick(&mut self) {
        let mut ticked = self.mend().and(self.maintain());
        if !self.unsaved.is_empty() && self.saved.elapsed() >= SAVE_EVERY {
            ticked = ticked.and(self.save_all());
        }
        self.note(ticked);
        self.publish();
    }

    /// Sets right what somebody else has changed.
    fn mend(&mut self) -> Result<()> {
        if self.mended.elapsed() >= MEND_EVERY {
            self.mended = Instant::now();
            let found = self.lists.mend().context("the lists cannot be compared")?;
            lock(&self.shared).drift.extend(found);
        }
        Ok(())
    }

    /// Counts hits, and takes out what is over.
    fn maintain(&mut self) -> Result<()> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let now = now_ns()?;
        self.lists.count_hits(now)?;
        if self.swept.elapsed() >= SWEEP_EVERY {
            self.swept = Instant::now();
            let swept = self.lists.sweep(now)?;
            if swept > 0 {
                info!("lists: {swept} entries are over");
            }
        }
        Ok(())
    }

    fn note(&self, result: Result<()>) {
        // What is not saved stays a problem until it is.
        if result.is_err() || self.unsaved.is_empty() {
            lock(&self.shared).now = result.err().map(|error| format!("{error:#}"));
        }
    }

    fn publish(&self) {
        let count = |list| self.lists.len(list) as u64;
        let names: usize = List::ALL
            .iter()
            .map(|&list| self.lists.names(list).count())
            .sum();
        let watched = lock(&self.shared).watched.clone();
        // Without a clock, which there always is, all is as it was.
        if let Ok(now) = now_ns() {
            let locked_out = self.lists.locked_out(&watched, now);
            lock(&self.shared).locked_out = locked_out;
        }
        lock(&self.shared).glance = ListsAtAGlance {
            allowed: count(List::Allow),
            blocked: count(List::Block),
            names: names as u64,
            capacity: MAX_LIST_ENTRIES.into(),
            kernel_memory: self.lists.kernel_memory() as u64,
            ..ListsAtAGlance::default()
        };
    }

    fn answer(&mut self, job: Job) {
        let Job {
            request,
            victims,
            observe,
            waiting,
        } = job;
        let confirm_within_s = waiting.as_ref().map(|waiting| waiting.left().as_secs());
        let asked = waiting.is_some();
        self.asked = waiting;
        // Nobody waits any longer: then nobody is told.
        match request {
            ListRequest::Add(add, reply) => {
                let added = self.add(&add, victims);
                self.release_unless(added.is_ok() || !asked);
                let _ = reply.send(added.map(|changed| ListChanged {
                    observe,
                    confirm_within_s,
                    ..changed
                }));
            }
            ListRequest::Delete(delete, reply) => {
                let deleted = if delete.all {
                    self.delete_all(&delete, victims)
                } else {
                    self.delete(&delete, victims)
                };
                self.release_unless(deleted.is_ok() || !asked);
                let _ = reply.send(deleted.map(|changed| ListChanged {
                    observe,
                    confirm_within_s,
                    ..changed
                }));
            }
            ListRequest::Import(import, reply) => {
                lock(&self.shared).glance.building = true;
                let imported = self.import(&import, victims);
                self.release_unless(imported.is_ok() || !asked);
                self.publish();
                let _ = reply.send(imported.map(|imported| ListImported {
                    confirm_within_s,
                    ..imported
                }));
            }
            ListRequest::Page(query, reply) => {
                let _ = reply.send(self.page(&query));
            }
            ListRequest::Find(query, reply) => {
                let found = self.find(&query);
                let _ = reply.send(found.map(|found| ListFound { observe, ..found }));
            }
            ListRequest::Names(reply) => {
                let _ = reply.send(Ok(self.names()));
            }
        }
        self.publish();
    }

    fn release_unless(&mut self, made: bool) {
        if !made {
            self.release();
        }
    }

    /// Whether a name may be written to.
    fn check_name(&self, list: List, name: &str) -> Result<(), RequestError> {
        check_name(name).or_else(refused)?;
        self.check_held(list, name)?;
        if name == CONFIG {
            return refused(
                "the list `config` is what [lists] in the config says; change it there and `netmoat reload`",
            );
        }
        let names = self.lists.names(list).count();
        if self.lists.count(list, name) == 0 && names >= MAX_NAMES {
            return refused(format!(
                "there are {MAX_NAMES} {} lists already",
                list.word()
            ));
        }
        Ok(())
    }

    /// Refuses what would lock someone out.
    fn guard(
        &self,
        change: &Change<'_>,
        mut victims: Vec<Victim>,
        ssh_peer: Option<std::net::IpAddr>,
        force: bool,
        now: u64,
    ) -> Result<(), RequestError> {
        // What goes back by itself may be tried.
        if force || self.asked.is_some() {
            return Ok(());
        }
        let peers = ssh::peers().unwrap_or_else(|error| {
            warn!(
                "connections by SSH cannot be found, and are not kept from being blocked: {error:#}"
            );
            Vec::new()
        });
        let peers = ssh_peer
            .map(|peer| peer.to_canonical())
            .into_iter()
            .chain(peers);
        victims.extend(peers.map(|address| Victim {
            address,
            what: "from where someone is connected by SSH",
        }));
        self.lists
            .refusal(change, &victims, now)
            .map_or(Ok(()), |refusal| refused(refusal.to_string()))
    }

    fn add(&mut self, add: &AddEntries, victims: Vec<Victim>) -> Result<ListChanged, RequestError> {
        let now = now_ns().map_err(failed)?;
        let (list, name) = (add.list, add.name.as_str());
        self.check_name(list, name)?;
        text::check_reason(&add.reason).or_else(refused)?;
        if add.ttl.is_some_and(|ttl| ttl.get().is_zero()) {
            return refused("a time to live of 0 lists nothing");
        }
        let wanted = prefixes(&add.prefixes)?.into_iter().map(|prefix| Entry {
            prefix,
            ttl: add.ttl.map(|ttl| ttl.get()),
            reason: add.reason.clone(),
            line: 0,
        });
        let wanted: Vec<_> = wanted.collect();
        let change = Change {
            list,
            name,
            wanted: &wanted,
            gone: Gone::These(&[]),
        };
        self.guard(&change, victims, add.ssh_peer, add.force, now)?;
        let entries: Vec<_> = wanted
            .iter()
            .map(|entry| EntryChanged {
                prefix: show(entry.prefix),
                outcome: self.lists.outcome(list, name, entry, now),
                now_for_good: entry.ttl.is_none()
                    && self.lists.is_temporary(list, name, entry.prefix),
            })
            .collect();
        let touched: Vec<_> = wanted.iter().map(|entry| entry.prefix).collect();
        let left = self.hold(list, name, Some(&touched), &wanted)?;
        let wanted = self.bounded(list, name, &wanted, left);
        let added = self.lists.add(list, name, &wanted, now);
        added.map_err(|error| self.no_room(list, name, &wanted, 0, error))?;
        Ok(self.changed(list, name, entries))
    }

    fn delete(
        &mut self,
        delete: &DeleteEntries,
        victims: Vec<Victim>,
    ) -> Result<ListChanged, RequestError> {
        let now = now_ns().map_err(failed)?;
        let (list, name) = (delete.list, delete.name.as_str());
        self.check_name(list, name)?;
        let gone = prefixes(&delete.prefixes)?;
        let mut entries = Vec::new();
        for &prefix in &gone {
            let names = self.lists.names_of(list, prefix);
            let there = names.contains(&name);
            if !there && !delete.ignore_missing {
                let elsewhere = match names.as_slice() {
                    [] => String::new(),
                    names => format!("; it is on {}: name that with --list", names.join(", ")),
                };
                return refused(format!(
                    "{} is not on the {} list `{name}`, and nothing was changed{elsewhere}; --ignore-missing leaves out \
                     what is not there",
                    show(prefix),
                    list.word()
                ));
            }
            entries.push(EntryChanged {
                prefix: show(prefix),
                outcome: if there {
                    Outcome::Removed
                } else {
                    Outcome::Missing
                },
                now_for_good: false,
            });
        }
        let change = Change {
            list,
            name,
            wanted: &[],
            gone: Gone::These(&gone),
        };
        if list == List::Allow {
            self.guard(&change, victims, delete.ssh_peer, delete.force, now)?;
        }
        self.hold(list, name, Some(&gone), &[])?;
        self.lists.remove(list, name, &gone).map_err(failed)?;
        Ok(self.changed(list, name, entries))
    }

    fn delete_all(
        &mut self,
        delete: &DeleteEntries,
        victims: Vec<Victim>,
    ) -> Result<ListChanged, RequestError> {
        let now = now_ns().map_err(failed)?;
        let (list, name) = (delete.list, delete.name.as_str());
        self.check_name(list, name)?;
        if !delete.prefixes.is_empty() {
            return refused("either the whole list is to be deleted, or single entries of it");
        }
        let had = self.lists.count(list, name);
        if had == 0 && !delete.ignore_missing {
            self.check_there(list, name)?;
        }
        if list == List::Allow {
            let change = Change {
                list,
                name,
                wanted: &[],
                gone: Gone::All,
            };
            self.guard(&change, victims, delete.ssh_peer, delete.force, now)?;
        }
        self.hold(list, name, None, &[])?;
        self.lists.replace(list, name, &[], now).map_err(failed)?;
        info!(
            "{} list {name:?} is deleted with its {had} entries",
            list.word()
        );
        let changed = self.changed(list, name, Vec::new());
        Ok(ListChanged {
            deleted: had as u64,
            ..changed
        })
    }

    /// Says of too many entries how many there are; `replaced` ones make room.
    fn no_room(
        &self,
        list: List,
        name: &str,
        wanted: &[Entry],
        replaced: usize,
        error: TableError,
    ) -> RequestError {
        if !matches!(error, TableError::TooMany) {
            return failed(error);
        }
        let now = now_ns().unwrap_or_default();
        let fresh: HashSet<Prefix> = wanted
            .iter()
            .filter(|entry| {
                replaced > 0 || self.lists.outcome(list, name, entry, now) == Outcome::Added
            })
            .map(|entry| entry.prefix)
            .collect();
        let (word, have) = (list.word(), self.lists.len(list));
        let room = (MAX_LIST_ENTRIES as usize).saturating_sub(have - replaced);
        RequestError::Refused(format!(
            "all {word} lists together hold {MAX_LIST_ENTRIES} entries at most, and have {have}: {} of these {} do not \
             fit, and nothing was changed; `netmoat {word} list --names` shows the lists, and `netmoat {word} del --all \
             --list NAME` deletes one",
            fresh.len().saturating_sub(room),
            fresh.len()
        ))
    }

    fn changed(&mut self, list: List, name: &str, entries: Vec<EntryChanged>) -> ListChanged {
        let saved = if self.lists.count(list, name) <= SAVED_AT_ONCE {
            self.save(list, name)
        } else {
            self.save_later(list, name);
            Ok(())
        };
        ListChanged {
            version: VERSION,
            list,
            name: name.to_owned(),
            entries,
            deleted: 0,
            observe: false,
            confirm_within_s: None,
            warnings: self.warnings(list, name, saved),
        }
    }

    fn import(
        &mut self,
        import: &ImportEntries,
        victims: Vec<Victim>,
    ) -> Result<ListImported, RequestError> {
        let now = now_ns().map_err(failed)?;
        let (list, name) = (import.list, import.name.as_str());
        self.check_name(list, name)?;
        let had = self.lists.count(list, name);
        if import.entries.is_empty() && had > 0 && !import.allow_empty {
            return refused(format!(
                "there is no entry to import, and nothing was changed: {} list `{name}` keeps its {had}. Is the feed \
                 dead? --allow-empty empties the list",
                list.word()
            ));
        }
        let change = Change {
            list,
            name,
            wanted: &import.entries,
            gone: Gone::All,
        };
        self.guard(&change, victims, import.ssh_peer, import.force, now)?;
        let left = self.hold(list, name, None, &import.entries)?;
        let entries = self.bounded(list, name, &import.entries, left);
        let begun = Instant::now();
        let changed = self
            .lists
            .replace(list, name, &entries, now)
            .map_err(|error| self.no_room(list, name, &import.entries, had, error))?;
        let build_ms = begun.elapsed().as_millis() as u64;
        let entries = self.lists.count(list, name) as u64;
        info!(
            "{} list {name:?} has {entries} entries now, built in {build_ms} ms",
            list.word()
        );
        let saved = self.save(list, name);
        Ok(ListImported {
            version: VERSION,
            list,
            name: name.to_owned(),
            entries,
            added: changed.added as u64,
            updated: changed.updated as u64,
            removed: changed.removed as u64,
            build_ms,
            kernel_memory: self.lists.kernel_memory() as u64,
            agent_memory: resident_memory(),
            confirm_within_s: None,
            warnings: self.warnings(list, name, saved),
        })
    }

    fn warnings(&mut self, list: List, name: &str, saved: Result<()>) -> Vec<String> {
        match saved {
            Ok(()) => Vec::new(),
            Err(error) => {
                // Tried again; `status` tells of it meanwhile.
                if self.store.is_usable() {
                    self.save_later(list, name);
                }
                let why = format!("{error:#}");
                lock(&self.shared).now = Some(format!("lists are not saved: {why}"));
                vec![format!(
                    "the change is in force, but lost when netmoat ends before it can be saved: {why}"
                )]
            }
        }
    }

    fn save_later(&mut self, list: List, name: &str) {
        let named = (list, name.to_owned());
        if !self.unsaved.contains(&named) {
            self.unsaved.push(named);
        }
    }

    fn save_all(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for (list, name) in std::mem::take(&mut self.unsaved) {
            if let Err(error) = self.save(list, &name) {
                outcome = Err(error);
                self.unsaved.push((list, name));
            }
        }
        self.saved = Instant::now();
        outcome
    }

    /// Writes a list's file. Ends are kept as times of day, as the kernel's clock begins anew with each boot.
    fn save(&self, list: List, name: &str) -> Result<()> {
        let now = now_ns()?;
        let wall = wall()?;
        let lines = || {
            self.lists.page(list, Some(name), None, now).map(|entry| {
                // Rounded up, so that it lives no shorter.
                let end = entry.left.map(|left| (wall + left).as_secs() + 1);
                text::line(entry.prefix, end, &entry.reason)
            })
        };
        self.store.save(list, name, lines().count(), lines())
    }

    /// Whether anything stands under a name.
    fn check_there(&self, list: List, name: &str) -> Result<(), RequestError> {
        if self.lists.count(list, name) > 0 {
            return Ok(());
        }
        let names = self.lists.names(list).map(|(name, _)| name).collect();
        refused(no_such_list(list, name, names))
    }

    fn page(&self, query: &ListQuery) -> Result<ListPage, RequestError> {
        let now = now_ns().map_err(failed)?;
        let after = query.after.as_deref().map(cursor).transpose()?;
        let name = query.name.as_deref();
        if let Some(name) = name {
            self.check_there(query.list, name)?;
        }
        let limit = query.limit.clamp(1, MAX_PAGE);
        let mut entries = self.lists.page(query.list, name, after, now);
        let page: Vec<_> = entries.by_ref().take(limit).collect();
        let next = match (entries.next(), page.last()) {
            (Some(_), Some(last)) => Some(format!("{},{}", show(last.prefix), last.origin)),
            _ => None,
        };
        let total = name.map_or(self.lists.len(query.list), |name| {
            self.lists.count(query.list, name)
        });
        Ok(ListPage {
            version: VERSION,
            entries: page
                .into_iter()
                .map(|entry| tell(query.list, entry))
                .collect(),
            total: total as u64,
            next,
        })
    }

    fn find(&self, query: &FindQuery) -> Result<ListFound, RequestError> {
        let now = now_ns().map_err(failed)?;
        let prefix = parse_prefix(&query.prefix).or_else(refused)?;
        if let Some(name) = &query.name
            && List::ALL
                .iter()
                .all(|&list| self.lists.count(list, name) == 0)
        {
            self.check_there(List::Block, name)?;
        }
        let of = |list| self.lists.find(list, prefix, now);
        let (allow, block) = (of(List::Allow), of(List::Block));
        let verdict = match (allow.is_empty(), block.is_empty()) {
            (false, _) => ListVerdict::Allowed,
            (true, false) => ListVerdict::Blocked,
            (true, true) => ListVerdict::Unlisted,
        };
        let named = |entry: &Listed| query.name.as_ref().is_none_or(|name| *name == entry.origin);
        let told = |list, entries: Vec<Listed>| {
            let named = entries.into_iter().filter(named);
            named
                .map(move |entry| tell(list, entry))
                .collect::<Vec<_>>()
        };
        let mut entries = told(List::Allow, allow);
        entries.extend(told(List::Block, block));
        Ok(ListFound {
            version: VERSION,
            prefix: show(prefix),
            verdict,
            observe: false,
            entries,
        })
    }

    fn names(&self) -> ListNames {
        let of = |list| {
            let mut named: Vec<_> = self
                .lists
                .names(list)
                .map(|(name, count)| NamedList {
                    list,
                    name: name.to_owned(),
                    entries: count as u64,
                })
                .collect();
            named.sort_by(|a, b| a.name.cmp(&b.name));
            named
        };
        ListNames {
            version: VERSION,
            lists: List::ALL.map(of).concat(),
            capacity: MAX_LIST_ENTRIES.into(),
        }
    }
}

/// The time of day, since 1970.
fn wall() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?)
}

/// Of a name that nothing stands under.
fn no_such_list(list: List, name: &str, mut names: Vec<&str>) -> String {
    names.sort_unstable();
    let word = list.word();
    match names.as_slice() {
        [] => format!("there is no {word} list `{name}`, nor any other"),
        names => format!(
            "there is no {word} list `{name}`; there are {}",
            names.join(", ")
        ),
    }
}

/// Reads what [`Worker::page`] has written.
fn cursor(text: &str) -> Result<(Prefix, &str), RequestError> {
    let (prefix, name) = text.split_once(',').unwrap_or((text, ""));
    Ok((parse_prefix(prefix).or_else(refused)?, name))
}

fn prefixes(texts: &[String]) -> Result<Vec<Prefix>, RequestError> {
    if texts.is_empty() {
        return refused("no address is named");
    }
    let mut prefixes: Vec<Prefix> = Vec::new();
    for text in texts {
        prefixes.push(parse_prefix(text).or_else(refused)?);
    }
    Ok(prefixes)
}

fn tell(list: List, entry: Listed) -> ListEntry {
    // An expiry is a millisecond's step at most beyond what is left.
    const _: () = assert!(EXPIRY_SHIFT == 20);
    ListEntry {
        prefix: show(entry.prefix),
        list,
        name: entry.origin,
        reason: entry.reason,
        left_s: entry.left.map(|left| left.as_secs()),
        hits: entry.hits,
    }
}

/// Octets that this process has in memory; 0 if the kernel does not tell.
fn resident_memory() -> u64 {
    let pages = procfs::process::Process::myself().and_then(|own| own.statm());
    pages.map_or(0, |pages| pages.resident * procfs::page_size())
}
