//! What would help, as settings of the kernel and as advice. A setting that is in force is never proposed, and none for an
//! application that is stuck: a longer queue does not help it.

use std::collections::HashSet;

use super::{
    Selector,
    looks::QueueSettings,
    settings::life,
    verdict::longer,
    words::{advice, backlog, time},
};
use crate::control::queues::{Change, Fix, ListenerQueues, Queues, VerdictKind};

/// Retries of SYN-ACKs under a flood: 7 s in place of 63.
const RETRIES: u32 = 2;
/// The SYN backlog under a flood; distributions have 128 to 4096, by memory.
const SYN_BACKLOG: u32 = 8192;
/// The range of local ports, where it is to be wider: from above what services are registered for to the end.
const PORTS: (u16, u16) = (10_240, 65_535);

/// What to change for the verdicts of a report: settings of the kernel, and what only the operator can change. Only for
/// the listeners that `only` names, when it does; nothing of the host then.
pub fn propose(
    queues: &Queues,
    settings: &QueueSettings,
    only: Option<&Selector>,
) -> (Vec<Change>, Vec<Fix>) {
    let mut plan = Plan::default();
    for listener in &queues.listeners {
        if only.is_none_or(|only| only.matches(listener)) {
            for_listener(listener, settings, &mut plan);
        }
    }
    if only.is_none() {
        for_host(queues, settings, &mut plan);
    }
    if plan.changes.is_empty() && plan.advice.is_empty() {
        let mut met = queues
            .listeners
            .iter()
            .filter(|l| only.is_none_or(|only| only.matches(l)))
            .peekable();
        let none = met.peek().is_none();
        let wrong = met
            .flat_map(|listener| &listener.verdicts)
            .any(|verdict| verdict.kind != VerdictKind::Healthy);
        plan.advice.push(advice(match (none, wrong) {
            (true, _) if only.is_some() => {
                "No listener is of that name; `netmoat queues` shows them all"
            }
            (_, true) => "No further setting of the kernel helps against what was found; `netmoat queues` says what does",
            _ => "Nothing is wrong, so nothing is to be changed",
        }));
    }
    (plan.changes, plan.advice)
}

#[derive(Default)]
struct Plan {
    changes: Vec<Change>,
    advice: Vec<Fix>,
}

impl Plan {
    /// Proposes a greater number than the present one; of several proposals the greatest stands.
    fn raise(&mut self, name: &str, from: u32, to: u32, why: String) {
        if to <= from {
            return;
        }
        match self.changes.iter_mut().find(|change| change.name == name) {
            Some(change) if change.to.parse().is_ok_and(|set: u32| set >= to) => {}
            Some(change) => {
                change.to = to.to_string();
                change.why = why;
            }
            None => self.set(name, from.to_string(), to.to_string(), why),
        }
    }

    fn set(&mut self, name: &str, from: String, to: String, why: String) {
        if from != to && self.changes.iter().all(|change| change.name != name) {
            self.changes.push(Change {
                name: name.to_owned(),
                from,
                to,
                why,
                outcome: None,
            });
        }
    }

    fn advise(&mut self, fix: Fix) {
        if !self.advice.contains(&fix) {
            self.advice.push(fix);
        }
    }
}

fn for_listener(listener: &ListenerQueues, settings: &QueueSettings, plan: &mut Plan) {
    let name = match listener.address.contains(':') {
        true => format!("[{}]:{}", listener.address, listener.port),
        false => format!("{}:{}", listener.address, listener.port),
    };
    for verdict in &listener.verdicts {
        let because = |what: String| format!("{} at {name}: {what}", verdict.kind.name());
        match verdict.kind {
            VerdictKind::SynFlood => {
                // Where cookies answer, no queue fills.
                if listener.rates.cookies == 0 {
                    syn_flood(settings, plan, &because);
                }
                // Of its fixes those that are to be done, and are no settings.
                let other =
                    |fix: &&Fix| fix.command.as_deref().is_some_and(|text| !is_sysctl(text));
                for fix in verdict.fixes.iter().filter(other) {
                    plan.advise(Fix {
                        what: format!("{name}: {}", fix.what),
                        command: fix.command.clone(),
                    });
                }
            }
            VerdictKind::BacklogTooSmall => {
                let limits = listener
                    .sockets
                    .iter()
                    .map(|socket| socket.accept_queue_limit);
                let limit = limits.min().unwrap_or(listener.accept_queue_limit);
                let to = longer(limit);
                let owner = listener.sockets.iter().find_map(|s| s.process.as_ref());
                let why = match limit >= settings.somaxconn {
                    true => format!("its backlog of {limit} equals somaxconn, which limits it"),
                    false => format!(
                        "its backlog of {limit} is too short, and somaxconn bounds a longer one"
                    ),
                };
                plan.raise(
                    "net.core.somaxconn",
                    settings.somaxconn,
                    to,
                    because(format!(
                        "{why}; holds once the application calls listen() again"
                    )),
                );
                plan.advise(backlog(owner, listener.port, to));
            }
            // Of the application, or of the network: nothing in the kernel helps.
            VerdictKind::AcceptFull
            | VerdictKind::SlowApp
            | VerdictKind::ConnectionFlood
            | VerdictKind::SynAckLoss
            | VerdictKind::CloseWaitLeak => {
                for fix in &verdict.fixes {
                    plan.advise(Fix {
                        what: format!("{name}: {}", fix.what),
                        command: fix.command.clone(),
                    });
                }
            }
            VerdictKind::Healthy | VerdictKind::PortExhaustion | VerdictKind::TimeWaitPressure => {}
        }
    }
}

/// What stands among the changes.
fn is_sysctl(command: &str) -> bool {
    command.starts_with("sysctl ")
}

fn syn_flood(settings: &QueueSettings, plan: &mut Plan, because: &dyn Fn(String) -> String) {
    if settings.synack_retries > RETRIES {
        plan.set(
            "net.ipv4.tcp_synack_retries",
            settings.synack_retries.to_string(),
            RETRIES.to_string(),
            because(format!(
                "half-open connections hold their place for {} in place of {}",
                time(life(RETRIES)),
                time(life(settings.synack_retries))
            )),
        );
    }
    if settings.syncookies == 0 {
        // It bounds nothing else (`tcp_conn_request`).
        plan.raise(
            "net.ipv4.tcp_max_syn_backlog",
            settings.max_syn_backlog,
            SYN_BACKLOG,
            because("more half-open connections fit while the kernel's cookies are off".to_owned()),
        );
        plan.set(
            "net.ipv4.tcp_syncookies",
            "0".to_owned(),
            "1".to_owned(),
            because(
                "cookies in place of drops when the SYN queue is full; netmoat's need it too"
                    .to_owned(),
            ),
        );
    }
}

fn for_host(queues: &Queues, settings: &QueueSettings, plan: &mut Plan) {
    for verdict in &queues.host.verdicts {
        match verdict.kind {
            VerdictKind::TimeWaitPressure => plan.raise(
                "net.ipv4.tcp_max_tw_buckets",
                settings.max_tw_buckets,
                settings.max_tw_buckets.saturating_mul(2).max(4096),
                "time_wait_pressure: TIME_WAIT is skipped at the limit".to_owned(),
            ),
            VerdictKind::PortExhaustion => {
                let listening = queues.listeners.iter().map(|l| l.port).collect();
                if let Some((from, to)) = wider(settings, &listening) {
                    let (first, last) = settings.local_port_range;
                    plan.set(
                        "net.ipv4.ip_local_port_range",
                        format!("{first} {last}"),
                        format!("{from} {to}"),
                        "port_exhaustion: more local ports for each destination, none of them a listener's".to_owned(),
                    );
                }
                if settings.tw_reuse != 1 {
                    plan.set(
                        "net.ipv4.tcp_tw_reuse",
                        settings.tw_reuse.to_string(),
                        "1".to_owned(),
                        "port_exhaustion: new connections may take over ports in TIME_WAIT after a second (RFC 6191)".to_owned(),
                    );
                }
                for fix in verdict.fixes.iter().filter(|fix| fix.command.is_none()) {
                    plan.advise(fix.clone());
                }
            }
            _ => {}
        }
    }
}

/// A range of local ports that holds the present one and more, up to the nearest ports that somebody listens on: a connection
/// that takes such a port keeps its service from starting again. `None` where there is no such range.
pub(super) fn wider(settings: &QueueSettings, listening: &HashSet<u16>) -> Option<(u16, u16)> {
    let (first, last) = settings.local_port_range;
    let below = listening.iter().filter(|port| **port < first).max();
    let above = listening.iter().filter(|port| **port > last).min();
    let from = below
        .map_or(PORTS.0, |port| PORTS.0.max(port.saturating_add(1)))
        .min(first);
    let to = above.map_or(PORTS.1, |port| port - 1).max(last);
    ((from, to) != (first, last)).then_some((from, to))
}

#[cfg(test)]
mod tests;
