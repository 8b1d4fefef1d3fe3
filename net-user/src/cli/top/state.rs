//! What is known and what is chosen.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::feed::Look;
use super::paint::Paint;
use crate::cli::queues::words::{gravest, name};
use crate::control::protocol::Counters;
use crate::control::queues::ListenerQueues;

/// Looks that a sparkline can show: five minutes of one each second.
const REMEMBERED: usize = 300;

/// What the listeners are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Verdict,
    Connections,
    Syns,
    AcceptQueue,
    Name,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Verdict => Self::Connections,
            Self::Connections => Self::Syns,
            Self::Syns => Self::AcceptQueue,
            Self::AcceptQueue => Self::Name,
            Self::Name => Self::Verdict,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Verdict => "verdict",
            Self::Connections => "connections/s",
            Self::Syns => "SYNs/s",
            Self::AcceptQueue => "accept queue",
            Self::Name => "name",
        }
    }
}

/// What sparklines show of a listener, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub syns: VecDeque<u64>,
    pub connections: VecDeque<u64>,
    pub accept_queue: VecDeque<u64>,
    pub half_open: VecDeque<u64>,
}

impl History {
    fn take(&mut self, listener: &ListenerQueues) {
        for (line, value) in [
            (&mut self.syns, listener.rates.syns),
            (&mut self.connections, listener.rates.connections),
            (&mut self.accept_queue, listener.accept_queue.into()),
            (&mut self.half_open, listener.syn_queue.into()),
        ] {
            if line.len() == REMEMBERED {
                line.pop_front();
            }
            line.push_back(value);
        }
    }
}

/// Packets of a reason that were dropped, or would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dropped {
    pub reason: String,
    pub per_second: u64,
}

pub(super) struct State {
    pub host: String,
    pub paint: Paint,
    /// Of the last look.
    pub look: Option<Look>,
    /// Most first; per second between the last two looks.
    pub dropped: Vec<Dropped>,
    /// Why the agent does not answer, and since when; `None` while it does.
    pub gone: Option<String>,
    pub sort: Sort,
    pub paused: bool,
    pub help: bool,
    /// By name, which stays when the order changes.
    chosen: Option<String>,
    histories: HashMap<String, History>,
}

impl State {
    pub(super) fn new(host: String, paint: Paint) -> Self {
        Self {
            host,
            paint,
            look: None,
            dropped: Vec::new(),
            gone: None,
            sort: Sort::Verdict,
            paused: false,
            help: false,
            chosen: None,
            histories: HashMap::new(),
        }
    }

    /// A look at the agent. While paused the picture stays, and what happens meanwhile is in no sparkline.
    pub(super) fn take(&mut self, look: Look) {
        self.gone = None;
        if self.paused {
            return;
        }
        let mut before = std::mem::take(&mut self.histories);
        for listener in &look.queues.listeners {
            let key = name(listener);
            let mut history = before.remove(&key).unwrap_or_default();
            history.take(listener);
            self.histories.insert(key, history);
        }
        if let Some(last) = &self.look {
            let seconds = look.at_ms.saturating_sub(last.at_ms);
            self.dropped = dropped(&last.counters, &look.counters, seconds);
        }
        self.look = Some(look);
    }

    /// The agent did not answer.
    pub(super) fn miss(&mut self, why: String) {
        self.gone = Some(why);
    }

    /// The listeners in the order asked for.
    pub(super) fn listeners(&self) -> Vec<&ListenerQueues> {
        let Some(look) = &self.look else {
            return Vec::new();
        };
        let mut listeners: Vec<_> = look.queues.listeners.iter().collect();
        // Stable: alike ones stand as the agent has them.
        match self.sort {
            Sort::Verdict => listeners.sort_by_key(|l| Reverse(gravest(l).map(|v| v.kind))),
            Sort::Connections => listeners.sort_by_key(|l| Reverse(l.rates.connections)),
            Sort::Syns => listeners.sort_by_key(|l| Reverse(l.rates.syns)),
            Sort::AcceptQueue => listeners.sort_by_key(|l| Reverse(l.accept_queue)),
            Sort::Name => listeners.sort_by_cached_key(|l| (l.port, name(l))),
        }
        listeners
    }

    /// Where the chosen one stands among [`Self::listeners`]: the first until another was chosen, or when it has gone.
    pub(super) fn chosen(&self, listeners: &[&ListenerQueues]) -> usize {
        let place = |chosen: &String| listeners.iter().position(|l| name(l) == *chosen);
        self.chosen.as_ref().and_then(place).unwrap_or(0)
    }

    pub(super) fn history(&self, listener: &ListenerQueues) -> Option<&History> {
        self.histories.get(&name(listener))
    }

    /// A key; true when it asks for the end.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            // Any key closes the help.
            _ if self.help => self.help = false,
            KeyCode::Char('q') => return true,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('p') => self.paused = !self.paused,
            KeyCode::Up | KeyCode::Char('k') => self.choose(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.choose(|at, last| (at + 1).min(last)),
            KeyCode::PageUp => self.choose(|at, _| at.saturating_sub(10)),
            KeyCode::PageDown => self.choose(|at, last| (at + 10).min(last)),
            KeyCode::Home | KeyCode::Char('g') => self.choose(|_, _| 0),
            KeyCode::End | KeyCode::Char('G') => self.choose(|_, last| last),
            _ => {}
        }
        false
    }

    /// `to` makes a place of the present and the last one.
    fn choose(&mut self, to: impl FnOnce(usize, usize) -> usize) {
        let listeners = self.listeners();
        let Some(last) = listeners.len().checked_sub(1) else {
            return;
        };
        let at = to(self.chosen(&listeners), last);
        self.chosen = listeners.get(at).map(|l| name(l));
    }
}

/// What was dropped between two looks, a second; counters that went back belong to another start of the agent.
fn dropped(before: &Counters, now: &Counters, elapsed_ms: u64) -> Vec<Dropped> {
    let tables = [
        (&before.enforced, &now.enforced, ""),
        (&before.observed, &now.observed, " (observed)"),
    ];
    let mut dropped = Vec::new();
    for (before, now, mark) in tables {
        for counter in now.iter().filter(|counter| counter.action == "drop") {
            let old = before.iter().find(|old| old.code == counter.code);
            let more = old.map_or(0, |old| counter.packets.saturating_sub(old.packets));
            let per_second = more.saturating_mul(1_000) / elapsed_ms.max(1);
            if per_second > 0 {
                dropped.push(Dropped {
                    reason: format!("{}{mark}", counter.name),
                    per_second,
                });
            }
        }
    }
    dropped.sort_by_key(|reason| Reverse(reason.per_second));
    dropped
}
