//! What is kept of one listener.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use net_common::{
    abi::{FlowStats, ListenerStats, SKETCH_CELLS},
    sketch,
};

use super::{
    accept::{AcceptQueue, Length},
    facts::{Data, Flows, Lately, Stuck, Walked},
    funnel,
    histogram::histogram,
    history::{Baseline, History, WINDOW, rounded},
    looks::{DataPathLook, ListenerLook, ListenerWalk, OwnersLook},
    verdict::Held,
};
use crate::{
    control::queues::{ListenerQueues, ListenerSocket, Rates, VerdictKind},
    host::sock_diag::ListenSocket,
};

/// One of its sockets over time.
#[derive(Debug)]
struct Member {
    waiting: u32,
    /// Since when it was full at every look.
    full_since: Option<Instant>,
    /// Since when somebody waits and nobody was seen to leave.
    unmoved_since: Option<Instant>,
    drops: u32,
}

/// Places in the history of [`ListenerStats`].
mod at {
    pub const SYNS: usize = 0;
    pub const SENT: usize = 1;
    pub const PROVEN: usize = 2;
    pub const ACCEPT_FULL: usize = 3;
    pub const ESTABLISHED: usize = 0;
    pub const LATE: usize = 1;
    pub const RESET: usize = 2;
    pub const RETRANSMITS: usize = 3;
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Watched {
    pub since: Instant,
    pub look: ListenerLook,
    pub held: Held,
    /// By SO_COOKIE: a group may have thousands.
    members: BTreeMap<u64, Member>,
    queue: AcceptQueue,
    drops: History<1>,
    stats: Option<ListenerStats>,
    stats_history: History<4>,
    flows: Option<FlowStats>,
    flows_history: History<4>,
    usual: Baseline,
    sketches: VecDeque<(Instant, [u32; SKETCH_CELLS])>,
    walks: u32,
    walk: ListenerWalk,
    resent_twice_before: u32,
    /// At the last complete walk.
    close_wait_before: Option<u32>,
    close_wait_grew: u32,
}

impl Watched {
    pub fn new(now: Instant, look: ListenerLook, once: bool) -> Self {
        let queue = if once {
            AcceptQueue::uncounted()
        } else {
            AcceptQueue::default()
        };
        let mut watched = Self {
            since: now,
            look: look.clone(),
            held: Held::default(),
            members: BTreeMap::new(),
            queue,
            drops: History::default(),
            stats: None,
            stats_history: History::default(),
            flows: None,
            flows_history: History::default(),
            usual: Baseline::default(),
            sketches: VecDeque::new(),
            walks: 0,
            walk: ListenerWalk::default(),
            resent_twice_before: 0,
            close_wait_before: None,
            close_wait_grew: 0,
        };
        watched.look(now, look, 0);
        watched
    }

    /// Takes a look of sock_diag.
    pub fn look(&mut self, now: Instant, look: ListenerLook, left_out: u32) {
        let mut length = Length::default();
        let mut dropped = 0;
        for socket in &look.sockets {
            length.waiting = length.waiting.saturating_add(socket.accept_queue);
            length.full |= socket.accept_queue_is_full();
            length.half |= half_full(socket);
            dropped += self.member(now, socket);
        }
        if self.members.len() > look.sockets.len() {
            let live: HashSet<_> = look.sockets.iter().map(|socket| socket.cookie).collect();
            self.members.retain(|cookie, _| live.contains(cookie));
        }
        self.queue.look(now, length, left_out);
        let aged = self
            .drops
            .newest()
            .is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_millis(500));
        if dropped > 0 || aged {
            self.drops.push(now, [self.drops.last(0) + dropped]);
        }
        self.look = look;
    }

    /// Takes one socket; gives what it dropped since the last look.
    fn member(&mut self, now: Instant, socket: &ListenSocket) -> u64 {
        let known = self.members.contains_key(&socket.cookie);
        let member = self.members.entry(socket.cookie).or_insert(Member {
            waiting: 0,
            full_since: None,
            unmoved_since: None,
            drops: socket.drops,
        });
        let fell = known && socket.accept_queue < member.waiting;
        member.unmoved_since = match socket.accept_queue {
            0 => None,
            _ if fell => Some(now),
            _ => member.unmoved_since.or(Some(now)),
        };
        member.full_since = match socket.accept_queue_is_full() && !fell {
            true => member.full_since.or(Some(now)),
            false => None,
        };
        member.waiting = socket.accept_queue;
        // sk_drops is 32 bits wide and may wrap.
        u64::from(
            socket
                .drops
                .wrapping_sub(std::mem::replace(&mut member.drops, socket.drops)),
        )
    }

    /// Takes what the data path counted.
    pub fn data_path(&mut self, now: Instant, look: DataPathLook) {
        self.stats = look.stats;
        match look.stats {
            Some(s) => self.stats_history.push(
                now,
                [s.syns, s.cookies_sent, s.cookies_proven, s.accept_full],
            ),
            None => self.stats_history.clear(),
        }
        self.flows = look.flows;
        self.queue
            .count(now, look.flows.map(|flows| flows.established));
        match look.flows {
            Some(f) => self
                .flows_history
                .push(now, [f.established, f.late, f.reset, f.syn_ack_retransmits]),
            None => self.flows_history.clear(),
        }
        if let Some((grown, over)) = self.flows_history.step(at::ESTABLISHED) {
            let attack = self.held.has(VerdictKind::ConnectionFlood);
            self.usual
                .learn(super::history::per_second(grown, over), over, attack);
        }
        match look.sketch {
            Some(sketch) => self.sketches.push_back((now, sketch)),
            None => self.sketches.clear(),
        }
        while self.sketches.len() > 10
            || self
                .sketches
                .front()
                .is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.sketches.pop_front();
        }
    }

    /// Takes its part of a walk; a walk that ended early says nothing of trends.
    pub fn walk(&mut self, walk: ListenerWalk, complete: bool) {
        if complete {
            let old = walk.states.close_wait_old;
            match self
                .close_wait_before
                .replace(old)
                .map(|before| old.cmp(&before))
            {
                Some(Ordering::Less) => self.close_wait_grew = 0,
                Some(Ordering::Greater) => self.close_wait_grew += 1,
                Some(Ordering::Equal) | None => {}
            }
        }
        self.resent_twice_before = resent(&self.walk, 2);
        self.walk = walk;
        self.walks += 1;
    }

    /// Inodes of its sockets, and of those that it forgot.
    pub fn inodes(&self) -> impl Iterator<Item = u32> {
        let sockets = self.look.sockets.iter().map(|socket| socket.inode);
        sockets.chain(self.walk.close_wait_inodes.iter().copied())
    }

    /// What the last ten seconds add to the report.
    pub fn lately(&self, now: Instant, owners: &OwnersLook) -> Lately {
        let history = &self.stats_history;
        let flows = &self.flows_history;
        Lately {
            accept: self.queue.sums(),
            counted: self.queue.is_counted(),
            drops: self.drops.grown(0),
            stuck: self.stuck(now, owners),
            data: self.stats.is_some().then(|| Data {
                span: history.span(),
                syns: history.grown(at::SYNS),
                sent: history.grown(at::SENT),
                proven: history.grown(at::PROVEN),
                accept_full: history.grown(at::ACCEPT_FULL),
            }),
            flows: self.flows.is_some().then(|| Flows {
                span: flows.span(),
                established: flows.grown(at::ESTABLISHED),
                late: flows.grown(at::LATE),
            }),
            usual: self.usual.usual(),
            walk: (self.walks > 0).then(|| self.walked(owners)),
        }
    }

    fn walked(&self, owners: &OwnersLook) -> Walked {
        let resent_twice = resent(&self.walk, 2);
        let mut forgetful = HashMap::new();
        for inode in &self.walk.close_wait_inodes {
            if let Some(owner) = owners.owners.get(inode) {
                *forgetful.entry(owner).or_insert(0) += 1;
            }
        }
        let mut forgetful: Vec<_> = forgetful
            .into_iter()
            .map(|(owner, count)| (owner.clone(), count))
            .collect();
        forgetful.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Walked {
            walks: self.walks,
            resent: resent(&self.walk, 1),
            resent_twice,
            resent_twice_lasting: resent_twice.min(self.resent_twice_before),
            busiest: self.walk.busiest_peer,
            peers: self.walk.peers,
            close_wait_grew: self.close_wait_grew,
            forgetful,
        }
    }

    /// Drops at its sockets that are surely overflows, as its accept queue was full in a fifth of the looks or more.
    pub fn overflowed(&self) -> u64 {
        let sums = self.queue.sums();
        match sums.looks > 0 && sums.full * 5 >= sums.looks {
            true => self.drops.grown(0),
            false => 0,
        }
    }

    /// The socket that has been full longest while nothing was taken from it.
    fn stuck(&self, now: Instant, owners: &OwnersLook) -> Option<Stuck> {
        let full_for = |m: &Member| m.full_since.map(|at| now.saturating_duration_since(at));
        let long = |m: &&Member| full_for(m).is_some_and(|full| full >= STUCK_FOR);
        let stuck = self.members.values().filter(long).count();
        let (cookie, member) = self
            .members
            .iter()
            .filter(|(_, m)| long(m))
            .max_by_key(|(_, m)| full_for(m))?;
        // Of a group that works in part, what is accepted may be the others' doing.
        let all = stuck == self.members.len();
        let since = member.full_since? + Duration::from_secs(1);
        let taken = self.queue.accepted_since(since);
        if all && taken > u64::from(member.waiting / 100) {
            return None;
        }
        let socket = self.look.sockets.iter().find(|s| s.cookie == *cookie)?;
        let unmoved = member.unmoved_since.unwrap_or(now);
        let oldest = now.saturating_duration_since(unmoved);
        Some(Stuck {
            process: owners.owners.get(&socket.inode).cloned(),
            waiting: socket.accept_queue,
            limit: socket.accept_limit,
            full: full_for(member)?,
            oldest: match self.members.len() {
                1 => self.queue.oldest(now),
                _ => oldest,
            },
            others: self.members.len() - stuck,
        })
    }

    /// Its report, but for settings, verdicts and what others know of it.
    pub fn report(&self, now: Instant, owners: &OwnersLook) -> ListenerQueues {
        let stats = self.stats.unwrap_or_default();
        let sockets = &self.look.sockets;
        let sum = |of: fn(&ListenSocket) -> u32| -> u32 {
            sockets
                .iter()
                .fold(0, |sum: u32, s| sum.saturating_add(of(s)))
        };
        let limit = sum(|s| s.accept_limit);
        let id = &self.look.identity;
        let (flows, queue) = (&self.flows_history, self.queue.sums());
        let connections = match self.flows {
            Some(_) => flows.rate(at::ESTABLISHED),
            None => queue.came(),
        };
        ListenerQueues {
            address: id.address.to_string(),
            port: id.port,
            family: id.family,
            // Bound to an IPv6 address it takes no IPv4, whatever IPV6_V6ONLY says.
            dual_stack: id.family == 6
                && id.address.is_unspecified()
                && sockets.iter().any(|s| !s.v6only),
            interface: self.look.interface.clone(),
            mode: self.look.mode,
            protected: self.look.protected,
            why_not: self.look.why_not.clone(),
            cookies_now: self.look.protected
                && (self.look.mode == crate::config::SynMode::Always
                    || self
                        .stats_history
                        .step(at::SENT)
                        .is_some_and(|(sent, _)| sent > 0)),
            syn_queue: self.walk.states.syn_recv,
            syn_queue_limit: limit,
            syn_queue_acked: self.walk.acked,
            syn_queue_oldest_ms: self
                .walk
                .oldest
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            accept_queue: sum(|s| s.accept_queue),
            accept_queue_limit: limit,
            accept_full: sockets.iter().any(ListenSocket::accept_queue_is_full),
            syns: stats.syns,
            syns_passed: stats.syns_passed,
            cookies_sent: stats.cookies_sent,
            cookies_proven: stats.cookies_proven,
            cookies_failed: stats.cookies_failed,
            handshakes: stats.handshakes,
            handshakes_refused: stats.handshakes_refused,
            accept_full_drops: stats.accept_full,
            syn_ack_limited: stats.syn_ack_limited,
            sockets: sockets
                .iter()
                .map(|socket| ListenerSocket {
                    inode: socket.inode,
                    process: owners.owners.get(&socket.inode).cloned(),
                    accept_queue: socket.accept_queue,
                    accept_queue_limit: socket.accept_limit,
                    drops: socket.drops,
                })
                .collect(),
            rates: Rates {
                syns: rounded(self.stats_history.rate(at::SYNS)),
                cookies: rounded(self.stats_history.rate(at::SENT)),
                connections: rounded(connections),
                accepted: rounded(queue.accepted()),
                resets: rounded(flows.rate(at::RESET)),
                drops: rounded(self.drops.rate(0)),
                syn_ack_retransmits: rounded(flows.rate(at::RETRANSMITS)),
            },
            funnel: funnel::of(
                now.saturating_duration_since(self.since),
                self.stats.as_ref(),
                self.flows.as_ref(),
                self.queue.accepted(),
                (self.walks > 0).then_some(&self.walk.states),
            ),
            states: (self.walks > 0).then_some(self.walk.states),
            handshake: self.flows.map(|f| histogram(&f.handshake)),
            accept_wait: Some(self.queue.report(now)),
            syn_ack_retransmits: self.flows.map(|f| f.syn_ack_retransmits),
            established_late: self.flows.map(|f| f.late),
            resets_received: self.flows.map(|f| f.resets_received),
            distinct_sources: self.distinct_sources(),
            ..ListenerQueues::default()
        }
    }

    fn distinct_sources(&self) -> Option<u64> {
        let mut all = self.sketches.front()?.1;
        for (_, sketch) in self.sketches.iter().skip(1) {
            all.iter_mut()
                .zip(sketch)
                .for_each(|(all, one)| *all |= one);
        }
        Some(sketch::estimate(&all))
    }
}

/// For how long a queue has to be full, at every look, before its application is said not to accept.
const STUCK_FOR: Duration = Duration::from_secs(2);

/// Half full or more; a queue that holds one or two is so when one waits.
fn half_full(socket: &ListenSocket) -> bool {
    socket.accept_queue > 0 && u64::from(socket.accept_queue) * 2 > u64::from(socket.accept_limit)
}

/// Request sockets whose SYN-ACK was sent again `times` or more.
fn resent(walk: &ListenerWalk, times: usize) -> u32 {
    let of = walk.by_retransmits.iter().skip(times);
    of.fold(0, |sum, n| sum.saturating_add(*n))
}
