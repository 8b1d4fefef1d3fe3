//! The agent's side of `netmoat tune`: what would be changed, applied and set back on threads of their own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Agent;
use crate::{
    control::{
        protocol::{Reply, RequestError, VERSION},
        queues::{Queues, Tune, TuneAction, Tuning},
    },
    host::{queue_sysctl, tuning::Tuner},
    queues::{Selector, tune::propose},
};

impl Agent {
    /// What would be changed for what is going on.
    pub(super) fn answer_tuning(&mut self, listener: Option<String>, reply: Reply<Tuning>) {
        let queues = self.report_queues();
        let tuner = Arc::clone(&self.queues.tuner);
        tokio::task::spawn_blocking(move || {
            let _ = reply.send(tuning(&queues, listener.as_deref(), &locked(&tuner)));
        });
    }

    /// Applies or reverts; the outcome of each change is in the answer.
    pub(super) fn answer_tune(&mut self, tune: Tune, reply: Reply<Tuning>) {
        let queues = self.report_queues();
        let tuner = Arc::clone(&self.queues.tuner);
        tokio::task::spawn_blocking(move || {
            let _ = reply.send(tuned(&queues, &tune, &mut locked(&tuner)));
        });
    }
}

/// One that panicked left the tuner as it was before a change or after it.
fn locked(tuner: &Mutex<Tuner>) -> MutexGuard<'_, Tuner> {
    tuner.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tuning(queues: &Queues, listener: Option<&str>, tuner: &Tuner) -> Result<Tuning, RequestError> {
    let only = selector(listener)?;
    let settings = queue_sysctl::read().map_err(failed)?;
    if let Some(selector) = &only
        && !queues.listeners.iter().any(|l| selector.matches(l))
    {
        let text = format!(
            "no listener is meant by {:?}; `netmoat queues` lists them",
            listener.unwrap_or_default()
        );
        return Err(RequestError::Refused(text));
    }
    let (changes, advice) = propose(queues, &settings, only.as_ref());
    Ok(Tuning {
        version: VERSION,
        changes,
        advice,
        applied: tuner.applied(),
    })
}

fn tuned(queues: &Queues, tune: &Tune, tuner: &mut Tuner) -> Result<Tuning, RequestError> {
    let proposed = match tune.action {
        TuneAction::Apply => tuning(queues, tune.listener.as_deref(), tuner)?,
        TuneAction::Revert => Tuning::default(),
    };
    let changes = match tune.action {
        TuneAction::Apply => tuner.apply(&proposed.changes),
        TuneAction::Revert => tuner.revert(),
    };
    Ok(Tuning {
        version: VERSION,
        changes: changes.map_err(failed)?,
        advice: proposed.advice,
        applied: tuner.applied(),
    })
}

fn selector(listener: Option<&str>) -> Result<Option<Selector>, RequestError> {
    let parse = |text: &str| {
        text.parse::<Selector>()
            .map_err(|error| RequestError::Refused(format!("{error:#}")))
    };
    listener.map(parse).transpose()
}

fn failed(error: anyhow::Error) -> RequestError {
    RequestError::Failed(format!("{error:#}"))
}
