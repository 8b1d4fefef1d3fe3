//! What is done aside before a change is made: it is read, checked and kept on the disk.

use std::sync::mpsc::Sender;

use anyhow::Context as _;
use tokio::{sync::oneshot, task::spawn_blocking};
use tracing::warn;

use super::{
    super::lists::{Configure, Order},
    Ready, source,
};
use crate::{
    config::{Config, Mode, show},
    confirm::{self, Former, FormerConfig, Record},
    control::{changes::Change, protocol::RequestError},
    datapath::preflight::{self, Severity},
    lists::guard::Victim,
};

/// Keys, and tables, of which the agent makes something once, at its start.
const AT_THE_START: [&str; 6] = [
    "xdp_mode",
    "socket",
    "state_dir",
    "instance",
    "on_exit",
    "metrics",
];

/// What is done aside: nothing of it touches the data path but the lists, which have a thread of their own.
pub(super) struct Work {
    pub(super) old: Config,
    pub(super) mode_in_file: Mode,
    pub(super) victims: Vec<Victim>,
    /// Who is blocked by the lists there are, in plain words.
    pub(super) locked_out: Vec<String>,
    pub(super) orders: Option<Sender<Order>>,
    pub(super) confirm: bool,
    pub(super) force: bool,
}

impl Work {
    pub(super) async fn reload(
        self,
        dry_run: bool,
        peer: Option<std::net::IpAddr>,
    ) -> Result<Ready, RequestError> {
        let old = self.old.clone();
        let read = spawn_blocking(move || old.again()).await.map_err(failed)?;
        let mut new = read.map_err(|error| {
            RequestError::Refused(format!(
                "the config is not in order, and nothing was changed:\n{error}"
            ))
        })?;
        let (mode_in_file, mut warnings) = (new.mode, Vec::new());
        // What `netmoat mode` has set stays, unless the file says another mode than it said.
        if mode_in_file == self.mode_in_file {
            new.mode = self.old.mode;
        }
        if mode_in_file != new.mode {
            warnings.push(format!(
                "the mode stays {}, as `netmoat mode` has set it; the file says {}",
                new.mode.name(),
                mode_in_file.name()
            ));
        }
        let changes = show::changes(&self.old, &new);
        restart(&changes)?;
        let report = preflight::policy(&new).await;
        for finding in &report.findings {
            let text = || match &finding.remedy {
                Some(remedy) => format!("{}: {remedy}", finding.what),
                None => finding.what.clone(),
            };
            match finding.severity {
                Severity::Ok => {}
                Severity::Warning => warnings.push(text()),
                Severity::Error => {
                    return Err(RequestError::Refused(format!(
                        "{}; nothing was changed",
                        text()
                    )));
                }
            }
        }
        let dangers = self.dangers(&new, peer).await;
        if dry_run {
            warnings.extend(
                dangers
                    .into_iter()
                    .map(|danger| format!("without --force refused: {danger}")),
            );
        } else {
            self.weigh(dangers)?;
        }
        let mut ready = Ready {
            config: Box::new(new),
            mode_in_file,
            changes,
            warnings,
            lists: false,
        };
        if !dry_run && !ready.changes.is_empty() {
            let former = FormerConfig::new(
                (&self.old, self.mode_in_file),
                (&ready.config, mode_in_file),
            )
            .map_err(failed)?;
            let what = format!("the reload of {}", source(&ready.config).display());
            self.keep(Record::new(what, Former::Config(Box::new(former))))
                .await?;
            let listed = self.configure(&ready.config).await;
            if listed.is_err() && self.confirm {
                self.forget().await;
            }
            ready.lists = listed?;
        }
        Ok(ready)
    }

    pub(super) async fn mode(self, mode: Mode) -> Result<Ready, RequestError> {
        let new = Config {
            mode,
            ..self.old.clone()
        };
        if mode == Mode::Enforce && self.old.mode != mode {
            let dangers = self.dangers(&new, None).await;
            self.weigh(dangers)?;
        }
        self.keep(Record::new(
            format!("mode {}", mode.name()),
            Former::Mode(self.old.mode),
        ))
        .await?;
        Ok(Ready {
            config: Box::new(new),
            mode_in_file: self.mode_in_file,
            changes: Vec::new(),
            warnings: Vec::new(),
            lists: false,
        })
    }

    pub(super) async fn back(self, former: Config) -> Result<Ready, RequestError> {
        let lists = self.configure(&former).await?;
        Ok(Ready {
            config: Box::new(former),
            mode_in_file: self.mode_in_file,
            changes: Vec::new(),
            warnings: Vec::new(),
            lists,
        })
    }

    /// What the new config would do to those who must get through, and the old one does not.
    async fn dangers(&self, new: &Config, peer: Option<std::net::IpAddr>) -> Vec<String> {
        let known = preflight::dangers(&self.old, peer).await;
        let mut dangers = preflight::dangers(new, peer).await;
        dangers.retain(|danger| !known.contains(danger));
        // What only was counted comes true.
        if self.old.mode == Mode::Observe && new.mode == Mode::Enforce {
            dangers.extend(self.locked_out.iter().cloned());
        }
        dangers
    }

    fn weigh(&self, dangers: Vec<String>) -> Result<(), RequestError> {
        if dangers.is_empty() || self.force || self.confirm {
            return Ok(());
        }
        Err(RequestError::Refused(format!(
            "this may lock out who must reach this host, and nothing was changed:\n  - {}\nmend it, or try it with \
             --confirm-within 60s, after which the former state returns, or use --force",
            dangers.join("\n  - ")
        )))
    }

    /// Writes the former state to the disk, if the change is to wait for its confirmation.
    async fn keep(&self, record: Record) -> Result<(), RequestError> {
        if !self.confirm {
            return Ok(());
        }
        let state_dir = self.old.state_dir.clone();
        let written = spawn_blocking(move || record.write(&state_dir)).await;
        written.map_err(failed)?.map_err(failed)
    }

    async fn forget(&self) {
        let state_dir = self.old.state_dir.clone();
        if let Ok(Err(error)) = spawn_blocking(move || confirm::forget(&state_dir)).await {
            warn!("{error:#}");
        }
    }

    /// Gives the lists their new entries; whether there were any.
    async fn configure(&self, new: &Config) -> Result<bool, RequestError> {
        let same = |config: &Config| {
            let keys = |entries: &[crate::lists::text::Entry]| {
                let entries = entries.iter();
                entries
                    .map(|e| (e.prefix, e.ttl, e.reason.clone()))
                    .collect::<Vec<_>>()
            };
            (keys(&config.lists.allow), keys(&config.lists.block))
        };
        if same(&self.old) == same(new) {
            return Ok(false);
        }
        let (reply, answer) = oneshot::channel();
        let order = Order::Configure(Configure {
            policy: new.lists.clone(),
            victims: self.victims.clone(),
            force: self.force || self.confirm,
            reply,
        });
        let sent = self
            .orders
            .as_ref()
            .and_then(|orders| orders.send(order).ok());
        sent.context("the lists are not served any more")
            .map_err(failed)?;
        answer.await.map_err(failed)?.map(|()| true)
    }
}

fn failed(error: impl std::fmt::Display) -> RequestError {
    RequestError::Failed(format!("{error:#}"))
}

/// Refuses what only a start can change.
fn restart(changes: &[Change]) -> Result<(), RequestError> {
    let at_the_start = |change: &&Change| {
        let first = change.key.split(['.', '[']).next().unwrap_or_default();
        AT_THE_START.contains(&first)
    };
    let fixed: Vec<_> = changes
        .iter()
        .filter(at_the_start)
        .map(ToString::to_string)
        .collect();
    if fixed.is_empty() {
        return Ok(());
    }
    Err(RequestError::Refused(format!(
        "this needs a restart, and nothing of the new config was put in force: {}; restart netmoat (`systemctl restart \
         netmoat`), or leave it as it was",
        fixed.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_start_can_change_is_refused_by_name() {
        let change = |key: &str| Change {
            key: key.to_owned(),
            before: "a".into(),
            after: "b".into(),
        };
        let refused = restart(&[
            change("syn.budget"),
            change("socket"),
            change("metrics.listen"),
        ]);
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("socket: a → b; metrics.listen: a → b"),
            "{text}"
        );
        assert!(!text.contains("syn.budget"), "{text}");
        restart(&[
            change("neighbor[192.0.2.1 on eth0].macs"),
            change("syn.burst"),
        ])
        .unwrap();
    }
}
