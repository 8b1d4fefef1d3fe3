//! Changes of the whole: a reload, a mode. Each is read and checked aside, then made in one go, and goes back unless it
//! is confirmed if that was asked for.

mod work;

use std::{
    future::pending,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};
use tracing::{info, warn};

use work::Work;

use super::{
    Agent,
    lists::{Configure, Order, Waiting},
    neighbors, observe_flag,
};
use crate::{
    config::{Config, HumanDuration, Mode, show},
    confirm::{self, Recovery},
    control::{
        changes::{Change, ConfigShown, Confirmed, PendingChange, Reload, Reloaded},
        protocol::{ModeChanged, Reply, RequestError, SetMode, VERSION},
    },
    guards,
    listeners::tolerance_ns,
    neighbor::{Displaced, Now},
    service,
};

/// How long the data path waits beyond the deadline before it only observes: an agent that lives goes back before that.
const GRACE: Duration = Duration::from_secs(2);
/// After which going back is tried again when it failed.
const AGAIN: Duration = Duration::from_secs(1);

/// A change that is to be made, read and checked.
pub(super) struct Ready {
    config: Box<Config>,
    /// The mode that the file says.
    mode_in_file: Mode,
    changes: Vec<Change>,
    warnings: Vec<String>,
    /// The lists of the config are these already.
    lists: bool,
}

/// Who waits for it.
enum For {
    Reload(Reload, Reply<Reloaded>),
    Mode(SetMode, Reply<ModeChanged>),
    /// Nobody: the former state returns.
    Back(Pending),
}

/// A change that waits for its confirmation, and the way back.
struct Pending {
    waiting: Waiting,
    former: Box<Config>,
    mode_in_file: Mode,
    displaced: Displaced,
    /// It was a reload, so that a file says what was not confirmed.
    reload: bool,
}

/// Where a change leads.
#[derive(Clone, Copy)]
enum Way {
    /// To a config that has not been in force: all of it, or nothing.
    There,
    /// To one that was: an interface may be gone since, which keeps nothing else from returning.
    Back,
}

/// What is going on.
pub(super) struct Changes {
    preparing: Option<(JoinHandle<Result<Ready, RequestError>>, For)>,
    pending: Option<Pending>,
    mode_in_file: Mode,
}

impl Changes {
    /// Of an agent that starts with a config, in which `netmoat mode` may have had its say.
    pub(super) fn new(config: &Config, recovery: &Recovery) -> Self {
        Self {
            preparing: None,
            pending: None,
            mode_in_file: recovery.mode_in_file.unwrap_or(config.mode),
        }
    }

    /// Waits for what is being prepared. Cancel safe.
    pub(super) async fn prepared(&mut self) -> Result<Ready, RequestError> {
        let Some((task, _)) = &mut self.preparing else {
            return pending().await;
        };
        let ended = task.await;
        ended.unwrap_or_else(|error| Err(RequestError::Failed(error.to_string())))
    }
}

impl Agent {
    /// Whether a change may wait for its confirmation now.
    pub(super) fn may_wait(&self) -> Result<(), String> {
        let list = self.waiting_list();
        let config = self.changes.pending.as_ref().map(|p| &p.waiting);
        match list.as_ref().or(config) {
            Some(waiting) => Err(waits(waiting)),
            None if self.changes.preparing.is_some() => Err(BUSY.to_owned()),
            None => Ok(()),
        }
    }

    /// Whether a change of a list or of the mode may wait for its confirmation now. Not while a config that was not
    /// confirmed is kept out by its record: that of another change would take its place.
    pub(super) fn may_be_undone(&self) -> Result<(), String> {
        self.may_wait()?;
        match self.problems.get(UNCONFIRMED) {
            Some(why) => Err(format!(
                "{why}; until then no other change can wait for its confirmation"
            )),
            None => Ok(()),
        }
    }

    /// Whether a mode may be set for good: also while a list waits, which keeps its way back.
    fn may_set_mode(&self) -> Result<(), String> {
        match &self.changes.pending {
            Some(pending) => Err(waits(&pending.waiting)),
            None if self.changes.preparing.is_some() => Err(BUSY.to_owned()),
            None => Ok(()),
        }
    }

    /// Reads the config again, and puts it in force.
    pub(super) fn reload(&mut self, ask: Reload, reply: Reply<Reloaded>) {
        // Not while anything waits: it would take its way back away.
        if let Err(why) = self.may_wait() {
            let _ = reply.send(Err(RequestError::Refused(why)));
            return;
        }
        let work = self.work(ask.confirm_within, ask.force);
        let peer = ask.ssh_peer;
        if !ask.dry_run {
            service::reloading();
        }
        let task = tokio::spawn(work.reload(ask.dry_run, peer));
        self.changes.preparing = Some((task, For::Reload(ask, reply)));
    }

    /// SIGHUP: the same, told to the log.
    pub(super) fn reload_on_signal(&mut self) {
        let (reply, answer) = oneshot::channel();
        self.reload(Reload::default(), reply);
        tokio::spawn(async move {
            let (outcome, text) = match answer.await {
                Ok(Ok(reloaded)) => ("done", told(&reloaded.changes)),
                Ok(Err(error)) => ("refused", error.to_string()),
                Err(_) => ("failed", "netmoat ended".to_owned()),
            };
            info!(target: "netmoat::audit", verb = "reload", by = "SIGHUP", outcome, "reload: {text}");
        });
    }

    /// Carries verdicts out, or only counts them.
    pub(super) fn change_mode(&mut self, ask: SetMode, reply: Reply<ModeChanged>) {
        let may = match ask.confirm_within {
            Some(_) => self.may_be_undone(),
            None => self.may_set_mode(),
        };
        if let Err(why) = may {
            let _ = reply.send(Err(RequestError::Refused(why)));
            return;
        }
        let work = self.work(ask.confirm_within, ask.force);
        let task = tokio::spawn(work.mode(ask.mode));
        self.changes.preparing = Some((task, For::Mode(ask, reply)));
    }

    fn work(&self, confirm_within: Option<HumanDuration>, force: bool) -> Work {
        Work {
            old: self.config.clone(),
            mode_in_file: self.changes.mode_in_file,
            victims: self.victims(),
            locked_out: self.locked_out(),
            orders: self.lists.orders(),
            confirm: confirm_within.is_some(),
            force,
        }
    }

    /// Makes what was prepared.
    pub(super) fn take_change(&mut self, prepared: Result<Ready, RequestError>) {
        let Some((_, wanted)) = self.changes.preparing.take() else {
            return;
        };
        match wanted {
            For::Reload(ask, reply) => {
                let reloaded = prepared.and_then(|ready| self.make_reload(ask, ready));
                if !ask.dry_run {
                    service::ready();
                }
                let _ = reply.send(reloaded);
            }
            For::Mode(ask, reply) => {
                let before = self.config.mode;
                let made = prepared.and_then(|ready| {
                    let what = format!("mode {}", ask.mode.name());
                    self.make(ready, ask.confirm_within, what, false)
                });
                let _ = reply.send(made.map(|()| ModeChanged {
                    version: VERSION,
                    before,
                    mode: ask.mode,
                    confirm_within_s: seconds(ask.confirm_within),
                }));
            }
            For::Back(pending) => self.make_back(prepared, pending),
        }
    }

    fn make_reload(&mut self, ask: Reload, ready: Ready) -> Result<Reloaded, RequestError> {
        let mut reloaded = Reloaded {
            version: VERSION,
            applied: !ask.dry_run,
            changes: ready.changes.clone(),
            warnings: ready.warnings.clone(),
            confirm_within_s: None,
        };
        if ask.dry_run {
            return Ok(reloaded);
        }
        let waits = ask.confirm_within.filter(|_| !ready.changes.is_empty());
        let what = format!("the reload of {}", source(&ready.config).display());
        self.make(ready, waits, what, true)?;
        reloaded.confirm_within_s = seconds(waits);
        if waits.is_none() {
            // The file is in force as it is.
            self.note::<()>(UNCONFIRMED, Ok(()));
            if let Err(error) = confirm::forget(&self.config.state_dir) {
                reloaded.warnings.push(format!("{error:#}"));
            }
        }
        info!("reload: {}", told(&reloaded.changes));
        Ok(reloaded)
    }

    /// Makes a change; with `within` it waits for its confirmation.
    fn make(
        &mut self,
        ready: Ready,
        within: Option<HumanDuration>,
        what: String,
        reload: bool,
    ) -> Result<(), RequestError> {
        let (former, lists) = (self.config.clone(), ready.lists);
        let mode_before = self.changes.mode_in_file;
        match self.apply(*ready.config, Displaced::new(), within, Way::There) {
            Ok(displaced) => {
                self.changes.mode_in_file = ready.mode_in_file;
                self.changes.pending = within.map(|within| Pending {
                    waiting: Waiting::new(what, within),
                    former: Box::new(former),
                    mode_in_file: mode_before,
                    displaced,
                    reload,
                });
                Ok(())
            }
            Err(error) => {
                if lists && former.lists != self.config.lists {
                    warn!("the lists of the config are set back");
                }
                self.set_lists_back(lists);
                if within.is_some()
                    && let Err(error) = confirm::forget(&self.config.state_dir)
                {
                    warn!("{error:#}");
                }
                Err(RequestError::Failed(format!("{error:#}")))
            }
        }
    }

    /// The data path did not take a change whose lists are in force already.
    fn set_lists_back(&self, changed: bool) {
        if !changed {
            return;
        }
        let (reply, answer) = oneshot::channel();
        if let Some(orders) = self.lists.orders() {
            let _ = orders.send(Order::Configure(Configure {
                policy: self.config.lists.clone(),
                victims: Vec::new(),
                force: true,
                reply,
            }));
        }
        tokio::spawn(async move {
            if let Ok(Err(error)) = answer.await {
                warn!("the lists of the config are not set back: {error}");
            }
        });
    }

    /// Puts a config in force in place of the one there is: packets meet the old policy or the new one. If the data path
    /// does not take all of it, the old one is in force again. Gives the bindings that the config took the place of.
    fn apply(
        &mut self,
        config: Config,
        put_back: Displaced,
        within: Option<HumanDuration>,
        way: Way,
    ) -> Result<Displaced> {
        let former = std::mem::replace(&mut self.config, config);
        let tentative = self.settings.tentative_until_ns;
        let until = match within {
            None if self.waiting_list().is_some() => tentative,
            within => deadline(within)?,
        };
        let (displaced, followed) = self.follow_config(&former, put_back, until, way);
        let Err(error) = followed else {
            self.note::<()>("config", Ok(()));
            self.follow_probes();
            return Ok(displaced);
        };
        let refused = std::mem::replace(&mut self.config, former);
        let (_, back) = self.follow_config(&refused, displaced, tentative, Way::Back);
        match back {
            Ok(()) => {
                Err(error.context("the data path did not take the change, and nothing was changed"))
            }
            Err(again) => {
                let text = format!(
                    "the data path took neither the change ({error:#}) nor the former state ({again:#}); restart netmoat"
                );
                self.note::<()>("config", Err(anyhow!(text.clone())));
                Err(anyhow!(text))
            }
        }
    }

    /// Makes everything follow the config; `before` is the one until now.
    fn follow_config(
        &mut self,
        before: &Config,
        put_back: Displaced,
        tentative_until_ns: u64,
        way: Way,
    ) -> (Displaced, Result<()>) {
        if before.interfaces != self.config.interfaces {
            let wanted = self.config.interfaces.clone();
            match way {
                Way::There => {
                    if let Err(error) = self.set_interfaces(&wanted) {
                        return (put_back, Err(error));
                    }
                }
                Way::Back => self.return_to_interfaces(&wanted),
            }
        }
        let opened = neighbors::sender_for(before, &self.config);
        let (send, now) = match opened.and_then(|send| Ok((send, Now::read()?))) {
            Ok(opened) => opened,
            Err(error) => return (put_back, Err(error)),
        };
        let policy = self.config.neighbors.clone();
        let displaced = self.neighbors.set_policy(policy, put_back, send, now);
        self.neighbors
            .set_observe(self.config.mode == Mode::Observe);
        (displaced, self.write_policy(tentative_until_ns))
    }

    fn write_policy(&mut self, tentative_until_ns: u64) -> Result<()> {
        let before = self.settings;
        self.maps.begin();
        let staged = self.stage_policy(tentative_until_ns);
        // What was staged is turned to as a whole or, if something was refused, not at all.
        let written = staged.and_then(|()| self.maps.commit());
        if written.is_err() {
            self.maps.abandon();
            self.settings = before;
            self.forget_guard_settings();
        }
        written
    }

    fn stage_policy(&mut self, tentative_until_ns: u64) -> Result<()> {
        let syn = &self.config.syn;
        let interval = syn.syn_ack_limit.interval_ns();
        self.settings.syn_ack_interval_ns = interval;
        self.settings.syn_ack_tolerance_ns = tolerance_ns(interval, syn.syn_ack_burst);
        self.settings.tentative_until_ns = tentative_until_ns;
        let observe = observe_flag(self.config.mode);
        self.settings.flags = self.settings.flags & !net_common::abi::Settings::OBSERVE | observe;
        self.maps.set_settings(&self.settings)?;
        self.maps
            .set_neighbor_settings(&self.neighbors.settings())?;
        self.maps
            .set_class_limits(&guards::limits(&self.config.guards))?;
        self.follow_guard_policy()?;
        self.recompile = true;
        self.try_refresh_listeners()?;
        self.follow_neighbor_policy(&self.known_links())
    }

    /// From a time on, everything is only observed: the agent may be dead then. `None` takes that back.
    pub(super) fn observe_after(&mut self, within: Option<HumanDuration>) -> Result<()> {
        let until = deadline(within)?;
        if self.settings.tentative_until_ns != until {
            self.settings.tentative_until_ns = until;
            self.maps.set_settings(&self.settings)?;
        }
        Ok(())
    }

    /// Goes back when nobody has confirmed in time.
    pub(super) fn tick_changes(&mut self) {
        if self.settings.tentative_until_ns != 0 && self.pending_change().is_none() {
            let written = match self.changes.preparing {
                None => self.observe_after(None),
                Some(_) => Ok(()),
            };
            self.note("settings", written);
        }
        if self.changes.preparing.is_some() {
            return;
        }
        let Some(pending) = self.changes.pending.take_if(|p| p.waiting.left().is_zero()) else {
            return;
        };
        let mut work = self.work(None, true);
        work.mode_in_file = pending.mode_in_file;
        let task = tokio::spawn(work.back((*pending.former).clone()));
        self.changes.preparing = Some((task, For::Back(pending)));
    }

    fn make_back(&mut self, prepared: Result<Ready, RequestError>, pending: Pending) {
        let what = pending.waiting.what.clone();
        let made = prepared.map_err(anyhow::Error::from).and_then(|ready| {
            let displaced = pending.displaced.clone();
            self.apply(*ready.config, displaced, None, Way::Back)
        });
        if let Err(error) = made {
            let text = format!("{what} was not confirmed, and is not undone yet: {error:#}");
            self.note::<()>(UNCONFIRMED, Err(anyhow!(text)));
            let mut pending = pending;
            pending.waiting.deadline = Instant::now() + AGAIN;
            self.changes.pending = Some(pending);
            return;
        }
        self.changes.mode_in_file = pending.mode_in_file;
        info!(
            target: "netmoat::audit", verb = "rollback", outcome = "done",
            "{what} was not confirmed, and is undone"
        );
        // Of a reload the record stays: the file says still what was not confirmed.
        let outcome = if pending.reload {
            Err(anyhow!(confirm::refused(&what)))
        } else {
            confirm::forget(&self.config.state_dir)
        };
        self.note(UNCONFIRMED, outcome);
    }

    /// Makes the change that waits one for good.
    pub(super) fn confirm(&mut self, reply: Reply<Confirmed>) {
        let Some(pending) = self.changes.pending.take() else {
            if self.waiting_list().is_some() {
                return self.confirm_list(reply);
            }
            let why = match &self.changes.preparing {
                Some((_, For::Back(pending))) => {
                    format!("it is too late: {} is being undone", pending.waiting.what)
                }
                _ => "nothing waits for a confirmation; `netmoat status` says whether something was undone"
                    .to_owned(),
            };
            let _ = reply.send(Err(RequestError::Refused(why)));
            return;
        };
        if let Err(error) = self.observe_after(None) {
            self.changes.pending = Some(pending);
            let _ = reply.send(Err(RequestError::Failed(format!("{error:#}"))));
            return;
        }
        self.note::<()>(UNCONFIRMED, Ok(()));
        let state_dir = self.config.state_dir.clone();
        tokio::spawn(async move {
            let left_s = pending.waiting.left().as_secs();
            let forgotten = spawn_blocking(move || confirm::forget(&state_dir)).await;
            let forgotten = forgotten.map_err(anyhow::Error::from).and_then(|f| f);
            let _ = reply.send(Ok(Confirmed {
                version: VERSION,
                what: pending.waiting.what,
                left_s,
                warnings: forgotten
                    .err()
                    .map(|error| format!("{error:#}"))
                    .into_iter()
                    .collect(),
            }));
        });
    }

    /// What waits, as `status` tells it.
    pub(super) fn pending_change(&self) -> Option<PendingChange> {
        let config = self.changes.pending.as_ref().map(|p| p.waiting.tell());
        config.or_else(|| self.waiting_list().map(|waiting| waiting.tell()))
    }

    /// The config in force.
    pub(super) fn show_config(&self) -> Result<ConfigShown> {
        let in_file = self.changes.mode_in_file;
        Ok(ConfigShown {
            version: VERSION,
            source: self.config.source.clone(),
            drop_ins: self.config.drop_ins.clone(),
            mode_in_file: (in_file != self.config.mode).then_some(in_file),
            config: show::tree(&self.config),
            toml: show::toml(&self.config)?,
        })
    }

    /// Tells of a change that was undone at the start, and forgets it where it is of no use any more.
    pub(super) fn note_recovery(&mut self, recovery: &Recovery) {
        if let Some(what) = &recovery.undone {
            info!(
                target: "netmoat::audit", verb = "rollback", outcome = "done",
                "{what} was not confirmed before the agent ended, and is undone"
            );
        }
        let problem = recovery.problem.clone();
        self.note(
            UNCONFIRMED,
            problem.map_or(Ok(()), |text| Err(anyhow!(text))),
        );
        if recovery.done
            && let Err(error) = confirm::forget(&self.config.state_dir)
        {
            self.note::<()>(UNCONFIRMED, Err(error));
        }
    }
}

/// Where the agent notes a change that was not confirmed.
const UNCONFIRMED: &str = "unconfirmed change";
const BUSY: &str = "another change is being made; try again in a moment";

fn waits(waiting: &Waiting) -> String {
    format!(
        "{} waits for its confirmation: `netmoat confirm`, or wait {} s for the former state",
        waiting.what,
        waiting.left().as_secs() + 1
    )
}

/// The end of what is tentative, of the coarse monotonic clock; 0 for none.
fn deadline(within: Option<HumanDuration>) -> Result<u64> {
    let Some(within) = within else { return Ok(0) };
    Ok(super::now_ns()? + (within.get() + GRACE).as_nanos() as u64)
}

fn seconds(within: Option<HumanDuration>) -> Option<u64> {
    within.map(|within| within.get().as_secs())
}

fn source(config: &Config) -> &Path {
    config.source.as_deref().unwrap_or(Path::new("the config"))
}

fn told(changes: &[Change]) -> String {
    match changes {
        [] => "nothing has changed".to_owned(),
        changes => changes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; "),
    }
}
