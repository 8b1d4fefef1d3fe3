//! The agent: one task that owns the maps, follows listeners, links and sysctls, and answers the control
//! socket.

mod canaries;
mod changes;
mod drops;
mod guards;
mod interfaces;
mod kept;
mod lists;
mod metrics;
mod neighbors;
mod queues;
mod reconcile;
mod service_manager;
mod tune;
mod watches;

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use futures::StreamExt as _;
use net_common::{abi::Settings, cookie};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use interfaces::ProgramIds;
use kept::Kept;

use crate::{
    cli::{Code, Failure},
    config::{Config, Mode, Pattern},
    confirm::{self, Recovery},
    control::{
        bind::BoundSocket,
        protocol::{
            Counters, Detached, Health, KeysRotated, Reply, Request, RequestError, Status, VERSION,
        },
        server,
    },
    datapath::{
        attach::{self, Attached, Sockets},
        load,
        maps::Maps,
        preflight::{self, Purpose, Severity},
    },
    drops::rate::Rates,
    filter::{self, Progress, Renewal},
    host::{
        links::{self, Link, Links},
        neighbors::gateway_changes,
        selection::select,
        sock_diag::Diag,
        sysctl::{Ipv6Settings, TcpSettings},
        tuning::Tuner,
    },
    keys::{COOKIE_LIFE, Keys},
    listeners::{Compiled, Facts, Identity, Interface, Slots, compile, identity},
    metrics::Bound,
    neighbor::NeighborWatch,
    privileges::Privileges,
    service::{self, Watchdog},
};

/// How often the accept queues are looked at, and half as often while all are empty; a full one must be noticed within
/// 100 ms (R-SYN-14).
const LISTENERS_EVERY: Duration = Duration::from_millis(48);
/// Least time between two looks that the kernel's events may cause.
const EVENT_PAUSE: Duration = Duration::from_millis(5);
/// How often the data path is told that the agent lives.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// How often sysctls, attachment and statistics are looked at.
const HOST_EVERY: Duration = Duration::from_secs(1);
/// How often the filter's fill is looked at.
const FILTER_EVERY: Duration = Duration::from_secs(30);
/// Where a problem with metrics is noted.
const METRICS: &str = "metrics";
/// How long cookies that were just sent are still honoured at the end: many round trips.
const DRAIN: Duration = Duration::from_secs(1);

/// What needs more privileges than the agent's work: the control socket in its place, the programs in the kernel.
pub struct Prepared {
    socket: BoundSocket,
    recovery: Recovery,
    kept: Kept,
    metrics: Option<Result<Bound>>,
    ebpf: Ebpf,
    /// What was given up since.
    pub privileges: Privileges,
}

/// Checks the host, takes the control socket and loads the programs. Threads that are made afterwards may have fewer
/// privileges. Nothing is attached yet.
///
/// # Errors
/// Whatever is in the way of the config.
pub fn prepare(config: &Config) -> Result<Prepared> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // What was not confirmed is undone before anything is made of it.
    let recovery = confirm::recover(config);
    let config = recovery.config.as_ref().unwrap_or(config);
    refuse(runtime.block_on(preflight::check(config, Purpose::Start)))?;
    drop(runtime);
    let socket = BoundSocket::take(&config.socket)?;
    // Whoever is quicker may have the port: that keeps metrics from being served, and not the moat from the host.
    let metrics = config.metrics.listen.as_ref().map(Bound::bind);
    let kept = Kept::open(config)?;
    let ebpf = load::load_with(&kept.plan)?;
    kept.pin_new_maps(&ebpf)?;
    Ok(Prepared {
        socket,
        metrics,
        recovery,
        kept,
        ebpf,
        privileges: Privileges::default(),
    })
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// Whatever keeps the agent from protecting what it was told to, before anything is attached; or the
/// loss of the control socket's or the maps' service later.
pub async fn run(config: Config, prepared: Prepared) -> Result<()> {
    // First, so that a signal during the start ends it in order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let Prepared {
        socket,
        metrics,
        recovery,
        kept,
        ebpf,
        privileges,
    } = prepared;
    for shortcoming in &privileges.shortcomings {
        warn!("{shortcoming}");
    }
    let mut agent = Agent::start(config, recovery, kept, ebpf).await?;
    agent.privileges = privileges;
    // SAFETY: the ring buffer keeps the one file descriptor it has until it is dropped, with `events`.
    let mut events = unsafe { AsyncFd::register(Maps::listener_events(&mut agent.ebpf)?)? };
    // SAFETY: as above, with `neighbor_events`.
    let mut neighbor_events =
        unsafe { AsyncFd::register(Maps::neighbor_events(&mut agent.ebpf)?)? };
    // SAFETY: as above, with `drop_events`.
    let mut drop_events = unsafe { AsyncFd::register(Maps::drop_events(&mut agent.ebpf)?)? };
    #[cfg(feature = "trace")]
    follow_trace(&mut agent.ebpf)?;
    let mut link_changes = links::changes()?;
    let mut gateway_changes = gateway_changes()?;
    let (requests, mut inbox) = mpsc::channel(64);
    let (stop, stopped) = watch::channel(false);
    let serve_metrics = {
        let (requests, stopped) = (requests.clone(), stopped.clone());
        move |bound| {
            let (requests, stopped) = (requests.clone(), stopped.clone());
            tokio::spawn(crate::metrics::serve(bound, requests, stopped))
        }
    };
    let mut place_of_metrics = None;
    let mut metrics = match metrics {
        Some(Err(error)) => {
            place_of_metrics = agent.config.metrics.listen.clone().map(metrics::wait_for);
            agent.note::<()>(METRICS, Err(error));
            None
        }
        metrics => metrics.and_then(Result::ok).map(&serve_metrics),
    };
    let server = tokio::spawn(server::serve(socket, requests, stopped));

    let mut watchdog = Watchdog::from_env();
    service::ready();
    info!("{}", agent.summary());

    let mut host_changed = false;
    let mut listeners = ticker(LISTENERS_EVERY);
    let mut host = ticker(HOST_EVERY);
    let mut beat = ticker(BEAT_EVERY);
    let mut filter = ticker(FILTER_EVERY);
    let mut rotation = ticker(agent.config.syn.key_rotation);
    rotation.reset_after(agent.next_rotation());
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => agent.reload_on_signal(),
            prepared = agent.changes.prepared() => {
                agent.take_change(prepared);
                // As an interval begins with a tick, and a key that is young is not to be changed.
                if rotation.period() != agent.config.syn.key_rotation {
                    rotation = ticker(agent.config.syn.key_rotation);
                    rotation.reset_after(agent.next_rotation());
                }
            }
            Some(request) = inbox.recv() => {
                agent.answer(request);
                if agent.detach.is_some() {
                    break;
                }
            }
            guard = events.readable_mut() => {
                let mut guard = guard?;
                drain_ring(guard.get_inner_mut());
                guard.clear_ready();
                // Whoever opens and closes listeners in a loop, in any namespace, gets the tick's pace.
                if agent.looked.elapsed() > EVENT_PAUSE {
                    agent.refresh_listeners();
                }
            }
            guard = neighbor_events.readable_mut() => {
                let mut guard = guard?;
                agent.take_neighbor_events(guard.get_inner_mut());
                guard.clear_ready();
            }
            guard = drop_events.readable_mut() => {
                let mut guard = guard?;
                agent.take_drop_events(guard.get_inner_mut());
                guard.clear_ready();
            }
            Some(()) = link_changes.next() => {
                host_changed = true;
                agent.reconciler.hurry();
                agent.gateways.changed = true;
            }
            Some(()) = gateway_changes.next() => {
                host_changed = true;
                agent.gateways.changed = true;
            }
            _ = listeners.tick() => {
                // Many changes, such as a flood of router advertisements makes, are one look.
                if std::mem::take(&mut host_changed) {
                    agent.refresh_host().await;
                }
                agent.look_at_accept_queues();
                // What happened comes before what did not.
                agent.take_neighbor_events(neighbor_events.get_mut());
                agent.tick_neighbors();
                agent.tick_changes();
                agent.tick_watches();
                agent.begin_walks();
            }
            _ = beat.tick() => {
                agent.beat();
                agent.tell_service_manager(&mut watchdog);
            }
            _ = host.tick() => {
                agent.refresh_host().await;
                agent.sample_drops();
                agent.look_at_queues();
            }
            _ = filter.tick() => agent.renew_filter_if_full(),
            dumped = next_dump(&mut agent.renewal) => agent.continue_renewal(dumped),
            read = agent.guards.read() => agent.take_guards(read),
            Some(looked) = agent.queues.looked() => agent.take_look(looked),
            Some((id, walked)) = agent.walks.ended() => agent.end_walk(id, walked),
            read = agent.gateways.read() => {
                agent.take_gateways(read);
                host_changed = true;
            }
            _ = rotation.tick() => agent.rotate_keys_in_time(),
            bound = metrics::bound(&mut place_of_metrics) => {
                agent.note(METRICS, Ok(()));
                metrics = Some(serve_metrics(bound));
            }
        }
    }

    service::stopping();
    if !agent.stays() {
        agent.drain().await;
    }
    agent.close_neighbors();
    agent.close_lists();
    let interfaces = agent.interfaces.iter().map(|i| i.name.clone()).collect();
    let left = agent.leave();
    if let Some(reply) = agent.detach.take() {
        Agent::detached(reply, interfaces, &left);
    }
    let _ = stop.send(true);
    server.await.context("the control server failed")?;
    if let Some(metrics) = metrics {
        metrics.await.context("the server of metrics failed")?;
    }
    left
}

fn ticker(every: Duration) -> tokio::time::Interval {
    let mut ticker = interval(every);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

/// Writes the programs' log lines into ours, in a debugging build.
#[cfg(feature = "trace")]
fn follow_trace(ebpf: &mut Ebpf) -> Result<()> {
    let logger = aya_log::EbpfLogger::init(ebpf)?;
    // SAFETY: the logger keeps the one file descriptor it has until it is dropped, with `logger`.
    let mut logger = unsafe { AsyncFd::register(logger)? };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}

/// The events only wake us: sock_diag tells what is so.
fn drain_ring(ring: &mut RingBuf<MapData>) {
    while ring.next().is_some() {}
}

async fn next_dump(renewal: &mut Option<Renewal>) -> Result<Vec<std::net::IpAddr>> {
    match renewal {
        Some(renewal) => renewal.dumped().await,
        None => pending().await,
    }
}

fn names(interfaces: &[Attached]) -> String {
    interfaces
        .iter()
        .map(|i| i.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Ends the start when preflight found an error; logs its warnings.
fn refuse(preflight: preflight::Preflight) -> Result<()> {
    let mut errors = Vec::new();
    let mut code = Code::Error;
    for finding in &preflight.findings {
        let text = match &finding.remedy {
            Some(remedy) => format!("{}: {remedy}", finding.what),
            None => finding.what.clone(),
        };
        match finding.severity {
            Severity::Ok => {}
            Severity::Warning => warn!("{text}"),
            Severity::Error => {
                if finding.permission {
                    code = Code::Permission;
                }
                errors.push(text);
            }
        }
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        code,
        anyhow!("nothing was attached:\n  {}", errors.join("\n  ")),
    )
    .into())
}

struct Agent {
    config: Config,
    started: Instant,
    ebpf: Ebpf,
    maps: Maps,
    settings: Settings,
    keys: Keys,
    interfaces: Vec<Attached>,
    sockets: Sockets,
    kept: Kept,
    /// Who asked for everything to be taken off.
    detach: Option<Reply<Detached>>,
    program_ids: ProgramIds,
    followed: interfaces::Followed,
    reconciler: reconcile::Reconciler,
    diag: Diag,
    links: Links,
    facts: Facts,
    gateways: neighbors::Gateways,
    guards: guards::Guards,
    neighbors: NeighborWatch,
    lists: lists::ListWorker,
    watches: watches::Watches,
    queues: queues::QueueWatch,
    changes: changes::Changes,
    walks: canaries::Walks,
    slots: Slots,
    compiled: Compiled,
    /// Whether something that the listeners' entries follow from may have changed, other than the sockets.
    recompile: bool,
    /// How often they were compiled.
    compilations: u64,
    renewal: Option<Renewal>,
    /// Cookies sent by slot at the last look, and those that were sent since the look before.
    cookies: HashMap<u32, (u64, u64)>,
    /// The counters of the last seconds.
    rates: Rates,
    /// When the listeners were looked at last.
    looked: Instant,
    /// What is wrong now, by where it was found.
    problems: HashMap<&'static str, String>,
    privileges: Privileges,
    /// The line that the service manager was told last.
    told: String,
}

impl Agent {
    /// Fills the maps, attaches. An error leaves nothing behind, or what an agent before has left.
    async fn start(
        config: Config,
        mut recovery: Recovery,
        kept: Kept,
        mut ebpf: Ebpf,
    ) -> Result<Self> {
        let changes = changes::Changes::new(&config, &recovery);
        let config = recovery.config.take().unwrap_or(config);
        let walks = canaries::Walks::new(&config);
        let links = Links::open()?;
        let program_id = |name| -> Result<u32> {
            Ok(ebpf
                .program(name)
                .with_context(|| format!("no program {name}"))?
                .info()?
                .id())
        };
        let program_ids = ProgramIds {
            xdp: program_id(load::XDP_PROGRAM)?,
            ingress: program_id(load::TC_PROGRAM)?,
            egress: program_id(load::EGRESS_PROGRAM)?,
        };
        let mut maps = Maps::take(&mut ebpf)?;
        maps.adopt(&kept.plan)?;
        maps.begin();
        let settings = kept.settings(&config, &mut maps)?;
        maps.set_settings(&settings)?;
        let keys = kept.keys(&mut maps)?;

        let all = links.links().await?;
        let routes = links.default_routes().await?;
        let selection = select(&config.interfaces, &all, &routes.interfaces);
        if let Some(name) = selection.unmatched.iter().find_map(Pattern::name) {
            bail!("there is no interface {name} any more");
        }
        let chosen = selection.chosen.iter();
        let wanted: Vec<_> = chosen.map(|c| (c.name.clone(), c.ifindex)).collect();
        let facts = read_facts(&links, &all, &wanted).await?;
        let (neighbors, stored) = neighbors::start(&config, &wanted)?;
        let lists = lists::ListWorker::start(&mut ebpf, &config, recovery.list.as_ref())?;
        let watches = watches::Watches::take(&mut ebpf)?;
        let guards = guards::Guards::new(&config)?;
        let tuner = Tuner::open(&config.state_dir);
        let tuned = tuner
            .problem()
            .map_or(Ok(()), |text| Err(anyhow!("{text}")));
        // It may take long, and what follows is to be short: until the start is settled, the tracepoints of an agent before
        // count what ours count.
        let mut translation = guards.ask_for_translation(&config).await;
        // From here on every new peer enters the filter.
        let sockets = attach::attach_sockets(&mut ebpf, kept.pins())?;
        for (_, reason) in &sockets.missing {
            warn!("{reason}");
        }
        let slots = Slots::adopt(maps.flow_slots());
        let mut agent = Self {
            config,
            started: Instant::now(),
            ebpf,
            maps,
            settings,
            keys,
            interfaces: Vec::new(),
            program_ids,
            followed: interfaces::Followed::default(),
            reconciler: reconcile::Reconciler::new(),
            diag: Diag::open()?,
            links,
            facts,
            gateways: neighbors::Gateways::known(routes),
            guards,
            neighbors,
            lists,
            watches,
            queues: queues::QueueWatch::new(tuner, &sockets.missing),
            changes,
            walks,
            sockets,
            kept,
            detach: None,
            slots,
            compiled: Compiled::default(),
            recompile: true,
            compilations: 0,
            renewal: None,
            cookies: HashMap::new(),
            rates: Rates::default(),
            looked: Instant::now(),
            problems: HashMap::new(),
            privileges: Privileges::default(),
            told: String::new(),
        };
        agent.note("neighbor state", stored);
        agent.note_lost_pins();
        agent.note("settings that were tuned", tuned);
        agent.note_lists();
        // What goes on whole is not touched before the new programs have taken their places.
        let late = agent.kept.goes_on_whole();
        if !late {
            agent.fill(&all, translation.take())?;
            agent.maps.write_new_policy()?;
        }
        for (name, ifindex) in &wanted {
            let mode = agent.config.xdp_mode;
            let pins = agent.kept.pins();
            let attached = attach::attach(&mut agent.ebpf, pins, name, *ifindex, mode);
            let link = all.iter().find(|link| link.index == *ifindex);
            let why = || link.map_or_else(String::new, |link| interfaces::jumbo(link, mode));
            agent.interfaces.push(attached.with_context(why)?);
        }
        if late {
            agent.fill(&all, translation.take())?;
        }
        agent.maps.commit()?;
        agent.beat();
        agent.hold(selection);
        // And every SYN that passes; those who were there before are found now.
        if agent.renewal.is_none() && agent.settings.flags & Settings::FILTER_COMPLETE == 0 {
            let half = agent.settings.filter_half ^ 1;
            agent.renewal = Some(Renewal::start(&mut agent.maps, half)?);
        }
        agent.settle()?;
        agent.note_recovery(&recovery);
        Ok(agent)
    }

    /// Fills the maps for the first time.
    fn fill(&mut self, all: &[Link], translation: guards::Translation) -> Result<()> {
        self.try_refresh_listeners()?;
        self.refresh_neighbors(all)?;
        self.maps
            .set_neighbor_settings(&self.neighbors.settings())?;
        self.start_guards(all, translation)
    }

    /// Until the cookie key is to change.
    fn next_rotation(&self) -> Duration {
        self.config
            .syn
            .key_rotation
            .saturating_sub(self.keys.since.elapsed())
    }

    fn summary(&self) -> String {
        let mode = |i: &Attached| if i.native { "native" } else { "generic" };
        let interfaces: Vec<_> = self
            .interfaces
            .iter()
            .map(|i| format!("{} ({} XDP)", i.name, mode(i)))
            .collect();
        let protected = self
            .compiled
            .listeners
            .iter()
            .filter(|l| l.protected)
            .count();
        format!(
            "protecting {protected} of {} listeners on {}, mode {}",
            self.compiled.listeners.len(),
            interfaces.join(", "),
            if self.config.mode == Mode::Observe {
                "observe"
            } else {
                "enforce"
            },
        )
    }

    /// Notes or clears a problem; says it once.
    fn note<T>(&mut self, place: &'static str, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => {
                if self.problems.remove(place).is_some() {
                    info!("{place}: in order again");
                }
                Some(value)
            }
            Err(error) => {
                let text = format!("{place}: {error:#}");
                if self.problems.get(place) != Some(&text) {
                    warn!("{text}");
                    self.problems.insert(place, text);
                }
                None
            }
        }
    }

    fn refresh_listeners(&mut self) {
        let result = self.try_refresh_listeners();
        self.note("listeners", result);
    }

    fn try_refresh_listeners(&mut self) -> Result<()> {
        self.looked = Instant::now();
        let sockets = self.diag.listeners()?;
        if !self.recompile && self.compiled.is_still_so(&sockets) {
            self.compiled.renew(sockets);
            return Ok(());
        }
        let compiled = compile(
            sockets,
            &self.facts,
            &self.config.syn,
            &mut self.slots,
            &self.queues.levels,
        );
        self.set_flow_slots(&compiled)?;
        let complete = self.settings.flags & Settings::FILTER_COMPLETE != 0;
        let before: HashSet<_> = protected(&self.compiled).collect();
        let newly = if self.compilations == 0 {
            // Those of an agent before went into the filter all the while.
            !self.maps.stand(&compiled.entries)
        } else {
            protected(&compiled).any(|listener| !before.contains(&listener))
        };
        if newly && (complete || self.renewal.is_some()) {
            // SYNs to a listener that was not protected did not enter the filter (a scan of closed ports
            // would fill it): look sockets up until a new half knows theirs.
            self.settings.flags &= !Settings::FILTER_COMPLETE;
            self.maps.set_settings(&self.settings)?;
            self.renewal = Some(Renewal::start(
                &mut self.maps,
                self.settings.filter_half ^ 1,
            )?);
        }
        self.maps.set_listeners(&compiled.entries)?;
        self.compiled = compiled;
        self.compilations += 1;
        self.recompile = false;
        Ok(())
    }

    async fn refresh_host(&mut self) {
        let result = self.try_refresh_host().await;
        self.note("interfaces", result);
        self.note_lists();
        self.refresh_listeners();
    }

    async fn try_refresh_host(&mut self) -> Result<()> {
        let mut all = self.links.links().await?;
        let before = self.attached();
        let followed = self.follow_interfaces(&all);
        if self.attached() != before {
            // With the programs that have just been put on.
            all = self.links.links().await?;
        }
        self.facts = read_facts(&self.links, &all, &self.attached()).await?;
        self.recompile = true;
        self.gateways.renew();
        self.refresh_neighbors(&all)?;
        self.refresh_guards(&all);
        self.reconcile(&all);
        followed
    }

    /// Reads how many cookies were sent.
    fn sample_cookies(&mut self) -> Result<()> {
        let listeners = self.compiled.listeners.iter();
        let slots: Vec<u32> = listeners.filter_map(|l| l.slot).collect();
        for slot in slots {
            let sent = self.maps.listener_stats(slot)?.cookies_sent;
            self.note_cookies(slot, sent);
        }
        Ok(())
    }

    fn note_cookies(&mut self, slot: u32, sent: u64) {
        let (before, _) = self.cookies.get(&slot).copied().unwrap_or((sent, 0));
        self.cookies
            .insert(slot, (sent, sent.saturating_sub(before)));
    }

    fn renew_filter_if_full(&mut self) {
        if self.renewal.is_some() {
            return;
        }
        let half = self.settings.filter_half;
        let started = self.maps.filter_fill(half).and_then(|fill| {
            (fill > filter::FULL)
                .then(|| Renewal::start(&mut self.maps, half ^ 1))
                .transpose()
        });
        self.renewal = self.note("socket filter", started).flatten();
    }

    fn continue_renewal(&mut self, dumped: Result<Vec<std::net::IpAddr>>) {
        let Some(mut renewal) = self.renewal.take() else {
            return;
        };
        let seed = self.settings.hash_seed;
        let progress = dumped.and_then(|peers| renewal.add(&mut self.maps, &peers, seed));
        match self.note("socket filter", progress) {
            Some(Progress::Going) => self.renewal = Some(renewal),
            Some(Progress::Complete) => {
                self.settings.filter_half = renewal.half;
                self.settings.flags |= Settings::FILTER_COMPLETE;
                let written = self.maps.set_settings(&self.settings);
                self.note("settings", written);
            }
            // The half in use goes on, or every SYN beyond the budget costs a look-up; the next tick tries again.
            Some(Progress::GivenUp) | None => {}
        }
        if self.renewal.is_none() && self.settings.flags & Settings::FILTER_COMPLETE == 0 {
            let started = Renewal::start(&mut self.maps, self.settings.filter_half ^ 1);
            self.renewal = self.note("socket filter", started);
        }
    }

    fn rotate_keys_in_time(&mut self) {
        if !self.keys.rotation_breaks_handshakes() {
            let rotated = self.rotate_keys();
            self.note("cookie keys", rotated);
        }
    }

    fn rotate_keys(&mut self) -> Result<()> {
        for value in self.keys.rotate()? {
            self.maps.set_keys(&value)?;
        }
        info!("cookie key rotated; the one before is honoured until the next rotation");
        Ok(())
    }

    /// No new cookie; those just sent may still be answered.
    async fn drain(&mut self) {
        self.settings.flags |= Settings::DRAIN;
        let written = self.maps.set_settings(&self.settings);
        let sampled = self.sample_cookies();
        if self.note("settings", written).is_some()
            && self.note("statistics", sampled).is_some()
            && self.cookies.values().any(|&(_, recent)| recent > 0)
        {
            info!(
                "waiting {} s for handshakes that are under way",
                DRAIN.as_secs()
            );
            tokio::time::sleep(DRAIN).await;
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => {
                let status = self.status();
                send(reply, status);
            }
            Request::Counters(reply) => {
                send(
                    reply,
                    self.maps
                        .counters()
                        .map(|cells| Counters::from_cells(&cells)),
                );
            }
            Request::Queues(reply) => send(reply, Ok(self.report_queues())),
            Request::Probes(reply) => send(reply, Ok(self.walks.known().report())),
            Request::Tuning(listener, reply) => self.answer_tuning(listener, reply),
            Request::Tune(tune, reply) => self.answer_tune(tune, reply),
            Request::SetMode(ask, reply) => self.change_mode(ask, reply),
            Request::Reload(ask, reply) => self.reload(ask, reply),
            Request::Confirm(reply) => self.confirm(reply),
            Request::Config(reply) => send(reply, self.show_config()),
            Request::RotateKeys { force, reply } => {
                if self.keys.rotation_breaks_handshakes() && !force {
                    let left = COOKIE_LIFE.saturating_sub(self.keys.since.elapsed());
                    let _ = reply.send(Err(RequestError::Refused(format!(
                        "the last rotation was so lately that another would break handshakes that are \
                         pending; wait {} s or use --force",
                        left.as_secs() + 1
                    ))));
                    return;
                }
                let previous_key_age_s = self.keys.since.elapsed().as_secs();
                send(
                    reply,
                    self.rotate_keys().map(|()| KeysRotated {
                        version: VERSION,
                        previous_key_age_s,
                    }),
                );
            }
            Request::Detach(reply) => self.detach = Some(reply),
            Request::Lists(request) => self.answer_of_lists(request),
            request @ (Request::Events { .. } | Request::Drops { .. } | Request::Explain(..)) => {
                self.answer_of_drops(request);
            }
            request @ (Request::Watch(..) | Request::Watched(..)) => {
                self.answer_of_watches(request);
            }
            request => self.answer_of_neighbors(request),
        }
    }

    fn status(&mut self) -> Result<Status> {
        let protected = self
            .compiled
            .listeners
            .iter()
            .filter(|l| l.protected)
            .count();
        let problems = self.problems.values().cloned();
        let problems = problems.chain(self.reconciler.problem());
        let problems: Vec<_> = problems.chain(self.walks.known().problems()).collect();
        let last = self.maps.last_epoch()?;
        let age = cookie::epoch(now_ns()?).wrapping_add(1).wrapping_sub(last);
        let guards = self.guards_at_a_glance()?;
        Ok(Status {
            version: VERSION,
            netmoat_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            mode: self.config.mode,
            health: if problems.is_empty() {
                Health::Ok
            } else {
                Health::Degraded
            },
            problems,
            interfaces: self.interface_status(),
            listeners_protected: protected as u32,
            listeners_left_to_kernel: (self.compiled.listeners.len() - protected) as u32,
            cookies_active: last != 0 && age <= 1,
            keys_age_s: self.keys.since.elapsed().as_secs(),
            neighbors: self.neighbors.glance(crate::neighbor::Now::read()?),
            maps: self.map_fill(&guards.sources),
            guards,
            lists: self.glance_at_lists()?,
            drops: self.rates.glance(),
            privileges: self.privileges.clone(),
            interfaces_missing: self.missing_interfaces(),
            notes: self.interface_notes(),
            drift: self.reconciler.glance(),
            data_path_alive: self.data_path_alive(),
            pending: self.pending_change(),
            probes: self.walks.known().glance(),
        })
    }
}

/// The listeners that get cookies when they need them.
fn protected(compiled: &Compiled) -> impl Iterator<Item = Identity> {
    let listeners = compiled.listeners.iter();
    listeners
        .filter(|l| l.protected)
        .map(|l| identity(&l.socket))
}

fn observe_flag(mode: Mode) -> u32 {
    if mode == Mode::Observe {
        Settings::OBSERVE
    } else {
        0
    }
}

fn send<T>(reply: Reply<T>, result: Result<T>) {
    // Nobody waits any longer: then nobody is told.
    let _ = reply.send(result.map_err(|e| RequestError::Failed(format!("{e:#}"))));
}

/// The clock of the data path's epochs, nanoseconds.
fn now_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)?;
    Ok(Duration::from(now).as_nanos() as u64)
}

async fn read_facts(links: &Links, all: &[Link], wanted: &[(String, u32)]) -> Result<Facts> {
    let mut interfaces = Vec::new();
    for (_, ifindex) in wanted {
        // The name may have changed since; an interface that is gone has no entries.
        if let Some(link) = all.iter().find(|l| l.index == *ifindex) {
            let ipv6 = Ipv6Settings::read(&link.name)?.map(|s| (s.mtu, s.hop_limit));
            interfaces.push(Interface {
                ifindex: *ifindex,
                mtu: link.mtu,
                mac: link.mac,
                ipv6,
            });
        }
    }
    Ok(Facts {
        interfaces,
        links: all.iter().map(|l| (l.index, l.clone())).collect(),
        addresses: links.addresses().await?,
        settings: TcpSettings::read()?,
    })
}
