//! The policy in two generations: one is in force, the other written, and one store turns from one to the other.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use net_common::abi::{
    CLASSES, ClassLimits, GENERATIONS, GuardSettings, NeighborSettings, Settings,
};
use nix::libc;

use super::{Drift, Maps, Plan, drift::differs, take};

/// Longer than any program runs.
const PROGRAMS_END: Duration = Duration::from_secs(1);

/// What a packet is judged by, whole.
#[derive(Clone, Default)]
struct Values {
    /// Each is none until it is set for the first time.
    settings: Option<Settings>,
    guards: Option<GuardSettings>,
    neighbors: Option<NeighborSettings>,
    limits: Vec<ClassLimits>,
}

/// These maps, in a struct of their own.
pub(super) struct Policy {
    generation: Array<MapData, u32>,
    settings: Array<MapData, Settings>,
    guards: Array<MapData, GuardSettings>,
    neighbors: Array<MapData, NeighborSettings>,
    limits: Array<MapData, ClassLimits>,
    /// As they were set last.
    values: Values,
    /// What is to return if a change that was begun is given up.
    before: Option<Values>,
    /// When the other generation was in force last.
    turned: Option<Instant>,
    /// Maps that an agent before left, which a program may read before the first turn.
    adopted: Vec<&'static str>,
    /// What should stand in `GENERATION`; none before it is known.
    word: Option<u32>,
}

impl Policy {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            generation: take(ebpf, "GENERATION")?,
            settings: take(ebpf, "SETTINGS")?,
            guards: take(ebpf, "GUARD_SETTINGS")?,
            neighbors: take(ebpf, "NEIGHBOR_SETTINGS")?,
            limits: take(ebpf, "CLASS_LIMITS")?,
            values: Values::default(),
            before: None,
            turned: None,
            adopted: Vec::new(),
            word: None,
        })
    }

    /// What an agent before left in force; all zero when there was none.
    pub(super) fn in_force(&self) -> Result<Settings> {
        let generation = self.generation()?;
        let settings = self.settings.get(&generation, 0);
        settings.context("SETTINGS cannot be read")
    }

    fn generation(&self) -> Result<u32> {
        let generation = self.generation.get(&0, 0);
        Ok(generation.context("GENERATION cannot be read")? % GENERATIONS)
    }

    pub(super) fn adopt(&mut self, plan: &Plan) {
        let names = [
            "SETTINGS",
            "GUARD_SETTINGS",
            "NEIGHBOR_SETTINGS",
            "CLASS_LIMITS",
        ];
        self.adopted = names.into_iter().filter(|name| plan.adopts(name)).collect();
    }

    /// Writes the values into the generation that is not in force, then puts it in force.
    fn turn(&mut self) -> Result<()> {
        let idle = self.generation()? ^ 1;
        if self.turned.is_some_and(|at| at.elapsed() < PROGRAMS_END) {
            wait_for_programs();
        }
        self.write(idle, &[])?;
        let turned = self.generation.set(0, idle, 0);
        turned.context("GENERATION cannot be written")?;
        self.turned = Some(Instant::now());
        self.word = Some(idle);
        Ok(())
    }

    /// Writes the values into a generation, but for some maps.
    fn write(&mut self, idle: u32, but: &[&str]) -> Result<()> {
        let values = &self.values;
        let written = |name| !but.contains(&name);
        if let Some(settings) = values.settings.as_ref().filter(|_| written("SETTINGS")) {
            let written = self.settings.set(idle, settings, 0);
            written.context("SETTINGS cannot be written")?;
        }
        if let Some(guards) = values.guards.as_ref().filter(|_| written("GUARD_SETTINGS")) {
            let written = self.guards.set(idle, guards, 0);
            written.context("GUARD_SETTINGS cannot be written")?;
        }
        if let Some(neighbors) = values
            .neighbors
            .as_ref()
            .filter(|_| written("NEIGHBOR_SETTINGS"))
        {
            let written = self.neighbors.set(idle, neighbors, 0);
            written.context("NEIGHBOR_SETTINGS cannot be written")?;
        }
        for (class, limits) in (0..CLASSES).zip(&values.limits) {
            if !written("CLASS_LIMITS") {
                break;
            }
            let written = self.limits.set(idle * CLASSES + class, limits, 0);
            written.context("CLASS_LIMITS cannot be written")?;
        }
        Ok(())
    }

    /// Compares what is in force with what was set. If anything differs, all is put in force anew, at once as ever.
    ///
    /// # Errors
    /// The kernel refuses a read or a write.
    pub(super) fn mend(&mut self) -> Result<Vec<Drift>> {
        if self.before.is_some() {
            return Ok(Vec::new());
        }
        let (at, values) = (self.generation()?, &self.values);
        self.word.get_or_insert(at);
        let mut found = vec![
            differs("GENERATION", &self.generation, 0, self.word.as_ref())?,
            differs("SETTINGS", &self.settings, at, values.settings.as_ref())?,
            differs("GUARD_SETTINGS", &self.guards, at, values.guards.as_ref())?,
            differs(
                "NEIGHBOR_SETTINGS",
                &self.neighbors,
                at,
                values.neighbors.as_ref(),
            )?,
        ];
        let mut limited: Option<Drift> = None;
        for (class, limits) in (0..CLASSES).zip(&values.limits) {
            let index = at * CLASSES + class;
            let differs = differs("CLASS_LIMITS", &self.limits, index, Some(limits))?;
            limited = match (limited, differs) {
                (Some(so_far), Some(_)) => Some(Drift {
                    changed: so_far.changed + 1,
                    ..so_far
                }),
                (so_far, differs) => so_far.or(differs),
            };
        }
        found.push(limited);
        let found: Vec<_> = found.into_iter().flatten().collect();
        if !found.is_empty() {
            self.turn()?;
        }
        Ok(found)
    }

    /// Sets a value, at once unless a change was begun. What cannot be written is as if it had not been set.
    fn set(&mut self, change: impl FnOnce(&mut Values)) -> Result<()> {
        if self.before.is_some() {
            change(&mut self.values);
            return Ok(());
        }
        let before = self.values.clone();
        change(&mut self.values);
        let turned = self.turn();
        if turned.is_err() {
            self.values = before;
        }
        turned
    }
}

/// Waits until no program runs that began before: a packet under judgment may still read what is to be overwritten.
pub(crate) fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: no memory is passed.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Not to be had with nohz_full: then longer than any program runs.
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Maps {
    /// Begins a change of several parts of the policy, which [`Self::commit`] puts in force at once. Listeners, bindings
    /// and addresses that an agent before left in the maps stay as they are until then, too.
    pub fn begin(&mut self) {
        let policy = &mut self.policy;
        if policy.before.is_none() {
            policy.before = Some(policy.values.clone());
        }
    }

    /// Puts in force what was set since [`Self::begin`]: packets meet the old policy or the new, never a mixture.
    ///
    /// # Errors
    /// The kernel refuses, which it never should; then the old policy stays in force.
    pub fn commit(&mut self) -> Result<()> {
        let Some(before) = self.policy.before.take() else {
            return Ok(());
        };
        let turned = self.policy.turn();
        if turned.is_err() {
            self.policy.values = before;
        }
        turned
    }

    /// Writes what was set into both generations of the maps that are new: a program that is attached before the commit
    /// finds no empty policy in them.
    ///
    /// # Errors
    /// The kernel refuses, which it never should.
    pub fn write_new_policy(&mut self) -> Result<()> {
        let adopted = self.policy.adopted.clone();
        for generation in 0..GENERATIONS {
            self.policy.write(generation, &adopted)?;
        }
        Ok(())
    }

    /// Gives up what was set since [`Self::begin`].
    pub fn abandon(&mut self) {
        if let Some(before) = self.policy.before.take() {
            self.policy.values = before;
        }
    }

    /// The settings that are in force in the kernel; those of an agent before until others are set.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn settings_in_force(&self) -> Result<Settings> {
        self.policy.in_force()
    }

    /// Sets the settings.
    ///
    /// # Errors
    /// The kernel refuses, which it never should for an array.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<()> {
        self.policy.set(|values| values.settings = Some(*settings))
    }

    /// Sets those of the neighbour guards.
    ///
    /// # Errors
    /// As [`Self::set_settings`].
    pub fn set_neighbor_settings(&mut self, settings: &NeighborSettings) -> Result<()> {
        self.policy.set(|values| values.neighbors = Some(*settings))
    }

    /// Sets those of the guards of IP, ICMP, UDP and TCP.
    ///
    /// # Errors
    /// As [`Self::set_settings`].
    pub fn set_guard_settings(&mut self, settings: &GuardSettings) -> Result<()> {
        self.policy.set(|values| values.guards = Some(*settings))
    }

    /// Sets the limits of each class, by number.
    ///
    /// # Errors
    /// As [`Self::set_settings`].
    pub fn set_class_limits(&mut self, limits: &[ClassLimits]) -> Result<()> {
        self.policy.set(|values| values.limits = limits.to_vec())
    }
}
