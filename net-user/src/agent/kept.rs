//! What stays in the kernel without the agent: taken over at the start, left or taken off at the end.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use net_common::abi::{ABI_VERSION, Settings, layout::KEPT};
use tracing::{info, warn};

use super::{Agent, names};
use crate::{
    config::{Config, Mode, OnExit},
    control::protocol::{Detached, Reply, VERSION},
    datapath::{
        attach, load,
        maps::Maps,
        pin::{Pins, Plan},
    },
    keys::{Keys, random_u64},
    listeners::tolerance_ns,
};

/// The pins of this instance, if it has any, and what the start does with them.
pub(super) struct Kept {
    pins: Option<Pins>,
    pub(super) plan: Plan,
    on_exit: OnExit,
}

impl Kept {
    /// Takes the instance, and says what of an agent before cannot be taken over. Nothing is changed yet.
    ///
    /// # Errors
    /// Another agent has the instance; what is pinned is not netmoat's or open to others; no file system to pin in.
    pub(super) fn open(config: &Config) -> Result<Self> {
        let pins = Pins::open(&config.instance, config.on_exit == OnExit::Keep)?;
        let plan = match &pins {
            Some(pins) => pins.plan(&load::definitions()?)?,
            None => Plan::default(),
        };
        if let Some(abi) = plan.abi {
            info!(
                "taking over from an agent of ABI {abi} (this one has {ABI_VERSION}): {} of {} maps go on",
                plan.adopted.len(),
                plan.adopted.len() + plan.anew.len()
            );
        }
        for loss in plan.losses() {
            warn!("{loss}");
        }
        Ok(Self {
            pins,
            plan,
            on_exit: config.on_exit,
        })
    }

    /// Pins what the load made anew, not finally yet.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn pin_new_maps(&self, ebpf: &Ebpf) -> Result<()> {
        self.settling()
            .map_or(Ok(()), |pins| pins.pin_new_maps(ebpf, &self.plan))
    }

    /// Where links of an agent before may be.
    pub(super) fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }

    /// Where links are to stay; none when all goes with the process.
    pub(super) fn settling(&self) -> Option<&Pins> {
        self.pins.as_ref().filter(|_| self.on_exit == OnExit::Keep)
    }

    /// Whether everything that an agent before had goes on, so that nothing need be filled in before the programs take
    /// the place of the old ones.
    pub(super) fn goes_on_whole(&self) -> bool {
        self.plan.adopted.len() == KEPT.len()
    }

    /// The settings of the start: what an agent before left, as far as it still means something, and the config.
    ///
    /// # Errors
    /// The kernel refuses a read, or has no random numbers.
    pub(super) fn settings(&self, config: &Config, maps: &mut Maps) -> Result<Settings> {
        let mut settings = Settings {
            syn_ack_interval_ns: config.syn.syn_ack_limit.interval_ns(),
            syn_ack_tolerance_ns: tolerance_ns(
                config.syn.syn_ack_limit.interval_ns(),
                config.syn.syn_ack_burst,
            ),
            hash_seed: 0,
            flags: 0,
            filter_half: 1,
            tentative_until_ns: 0,
        };
        if config.mode == Mode::Observe {
            settings.flags |= Settings::OBSERVE;
        }
        let needed = ["SETTINGS", "GENERATION", "SEED", "SOCKET_FILTER"];
        if needed.iter().all(|name| self.plan.adopts(name)) {
            let before = maps.settings_in_force()?;
            settings.filter_half = before.filter_half & 1;
            settings.flags |= before.flags & Settings::FILTER_COMPLETE;
        }
        // Everything that was counted by hashes goes on only with their seed.
        settings.hash_seed = match maps.seed()? {
            0 => random_u64()?,
            seed => seed,
        };
        maps.set_seed(settings.hash_seed)?;
        Ok(settings)
    }

    /// The cookie keys: those of an agent before, or the first.
    ///
    /// # Errors
    /// The kernel refuses, or has no random numbers.
    pub(super) fn keys(&self, maps: &mut Maps) -> Result<Keys> {
        if let Some(keys) = Keys::adopt(maps.keys()?)? {
            maps.keep_keys(keys.value);
            return Ok(keys);
        }
        let keys = Keys::new()?;
        maps.set_keys(&keys.value)?;
        Ok(keys)
    }
}

impl Agent {
    /// Makes the start final: programs and maps stay if they are to, and what an agent before left beside them goes.
    pub(super) fn settle(&mut self) -> Result<()> {
        let settling = self.kept.settling();
        for attached in &mut self.interfaces {
            attached.settle(settling)?;
        }
        self.sockets.settle(settling)?;
        let indices: Vec<_> = self.interfaces.iter().map(|i| i.ifindex).collect();
        if let Some(pins) = settling {
            attach::keep_programs(&mut self.ebpf, pins)?;
            pins.forget_interfaces(&indices)?;
            pins.settle_maps()?;
        } else if let Some(pins) = self.kept.pins.take() {
            pins.remove()?;
            info!(
                "what an agent before had pinned is taken over and pinned no more: protection ends with this process \
                 (on_exit = \"detach\")"
            );
        }
        Ok(())
    }

    /// Whether protection goes on when the agent is gone.
    pub(super) fn stays(&self) -> bool {
        self.kept.settling().is_some() && self.detach.is_none()
    }

    /// Leaves the programs where they are, or takes them off with everything that netmoat made.
    pub(super) fn leave(&mut self) -> Result<()> {
        let on = names(&self.interfaces);
        if self.stays() {
            info!(
                "stopped: programs stay on {on} and go on without an agent; `netmoat detach` takes them off"
            );
            return Ok(());
        }
        let mut first = Ok(());
        for attached in self.interfaces.drain(..) {
            first = first.and(attached.take_off());
        }
        first = first.and(self.sockets.take_off());
        if let Some(pins) = self.kept.pins.take() {
            first = first.and(pins.remove());
        }
        first.context("not everything could be taken off")?;
        info!("stopped: programs detached from {on}");
        Ok(())
    }

    /// Answers `netmoat detach` when everything is gone.
    pub(super) fn detached(reply: Reply<Detached>, interfaces: Vec<String>, outcome: &Result<()>) {
        let answer = match outcome {
            Ok(()) => Ok(Detached {
                version: VERSION,
                interfaces,
            }),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        super::send(reply, answer);
    }
}
