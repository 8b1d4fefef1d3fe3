//! One walk of the kernel's table of TCP connections: what is in it by state, by listener, by peer and by destination.
//!
//! The kernel walks all of its hash, once for each family, whose length peers control (R-Q-6): a walk ends at a bound of
//! sockets, and is done at most every [`crate::queues::WALK_EVERY`] and at the pace of [`crate::queues::pace`]. All that
//! is kept of it is bounded too.

mod finder;
mod memory;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    net::IpAddr,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use anyhow::Result;
use netlink_bindings::inet_diag::TcpState;

pub use self::socket::SocketState;
use self::{finder::Finder, memory::Memory, socket::Socket};
use super::sock_diag::{CONNECTED, Diag, EXT_INFO, ListenSocket};
use crate::{
    control::queues::{CLOSE_WAIT_OLD_S, Destination, States},
    listeners::Identity,
    queues::looks::{ListenerWalk, QueueSettings, Walk},
};

/// Most pairs of listener and peer that are told apart; those beyond are not counted as peers.
const MAX_PEERS: usize = 65_536;
/// Most pairs of own address and destination that are told apart.
const MAX_DESTINATIONS: usize = 65_536;
/// Most sockets whose state is kept for [`Walker::sockets`].
const MAX_SOCKETS: usize = 131_072;
/// How many destinations a walk tells of.
const DESTINATIONS: usize = 8;
/// How many forgotten connections of a listener it names.
const CLOSE_WAIT_INODES: usize = 64;

/// Walks the table, and remembers what needs two walks to be known.
#[derive(Debug, Default)]
pub struct Walker {
    requests: Memory,
    close_wait: Memory,
    sockets: HashMap<u32, SocketState>,
    walked: bool,
}

impl Walker {
    /// One that remembers nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Walks the table up to `bound` sockets. Blocking; tens of milliseconds for 50,000 connections.
    ///
    /// `listeners` are those of [`Diag::listeners`]; connections of others belong to none. A first walk asks for `tcp_info`
    /// too, which tells how long a connection is in CLOSE_WAIT at least; later ones remember when they met it.
    ///
    /// # Errors
    /// inet_diag does not answer.
    pub fn walk(
        &mut self,
        diag: &mut Diag,
        listeners: &[ListenSocket],
        settings: &QueueSettings,
        bound: usize,
    ) -> Result<Walk> {
        let begun = Instant::now();
        let mut tally = Tally {
            begun,
            settings,
            finder: Finder::new(listeners),
            listeners: HashMap::new(),
            states: States::default(),
            peers: HashMap::new(),
            destinations: HashMap::new(),
            walker: self,
        };
        tally.walker.requests.begin();
        tally.walker.close_wait.begin();
        tally.walker.sockets.clear();
        let first = !tally.walker.walked;
        let ext = if first { EXT_INFO } else { 0 };
        let mut left = bound;
        let complete = diag.dump_until(CONNECTED, ext, |message, attributes| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            if let Some(socket) = Socket::new(message) {
                let info = first.then(|| attributes.get_tcp_info().ok()).flatten();
                let silent_ms = info.map_or(0, |info| info.last_ack_recv);
                tally.count(socket, Duration::from_millis(silent_ms.into()));
            }
            ControlFlow::Continue(())
        })?;
        tally.walker.requests.end(begun, complete);
        tally.walker.close_wait.end(begun, complete);
        tally.walker.walked = true;
        Ok(tally.finish(complete))
    }

    /// The sockets of processes by inode, as the last walk found them, for [`super::owners::look`]; at most 131,072.
    pub fn sockets(&self) -> &HashMap<u32, SocketState> {
        &self.sockets
    }
}

/// A walk under way.
struct Tally<'a> {
    begun: Instant,
    settings: &'a QueueSettings,
    finder: Finder,
    /// By place in the finder.
    listeners: HashMap<usize, ListenerWalk>,
    states: States,
    /// Open connections by listener and peer.
    peers: HashMap<(usize, IpAddr), u32>,
    /// By own address, and address and port at the other end: each own address has all ports.
    destinations: HashMap<(IpAddr, IpAddr, u16), Ports>,
    walker: &'a mut Walker,
}

#[derive(Clone, Copy, Default)]
struct Ports {
    used: u32,
    time_wait: u32,
}

impl Tally<'_> {
    /// Counts a socket whose peer has acknowledged nothing for `silent`, as far as that is known.
    fn count(&mut self, mut socket: Socket, silent: Duration) {
        let is_close_wait = matches!(socket.state.state, TcpState::CloseWait);
        if is_close_wait {
            // Its peer's FIN came no later than its last acknowledgement, which every segment carries.
            let since = self.begun.checked_sub(silent).unwrap_or(self.begun);
            let met = self.walker.close_wait.meet(socket.cookie, since);
            // Without an inode it waits for accept(): nobody could have closed it yet.
            socket.state.old = socket.inode != 0
                && self.begun.duration_since(met.first) > Duration::from_secs(CLOSE_WAIT_OLD_S);
        }
        socket.state.count(&mut self.states);
        let sockets = &mut self.walker.sockets;
        if socket.inode != 0 && sockets.len() < MAX_SOCKETS {
            sockets.insert(socket.inode, socket.state);
        }
        if !self.finder.has(socket.local.1) {
            self.count_destination(&socket);
            return;
        }
        if matches!(socket.state.state, TcpState::SynSent) {
            return;
        }
        let (address, port) = socket.local;
        let Some(index) = self.finder.find(address, port, socket.ifindex) else {
            return;
        };
        let listener = self.listeners.entry(index).or_default();
        socket.state.count(&mut listener.states);
        if is_close_wait && socket.state.old && listener.close_wait_inodes.len() < CLOSE_WAIT_INODES
        {
            listener.close_wait_inodes.push(socket.inode);
        }
        if socket.is_half_open() {
            count_request(
                listener,
                &socket,
                self.begun,
                &mut self.walker.requests,
                self.settings.synack_retries,
            );
        }
        if socket.is_open() {
            let peer = (index, socket.remote.0);
            if self.peers.len() < MAX_PEERS || self.peers.contains_key(&peer) {
                *self.peers.entry(peer).or_default() += 1;
            }
        }
    }

    /// Counts the port that a connection of this host takes. One in TIME_WAIT takes it too (`__inet_check_established`).
    fn count_destination(&mut self, socket: &Socket) {
        let (first, last) = self.settings.local_port_range;
        if !(first..=last).contains(&socket.local.1) || socket.is_half_open() {
            return;
        }
        let key = (socket.local.0, socket.remote.0, socket.remote.1);
        if self.destinations.len() < MAX_DESTINATIONS || self.destinations.contains_key(&key) {
            let ports = self.destinations.entry(key).or_default();
            ports.used += 1;
            let waits = socket.remembers && matches!(socket.state.state, TcpState::TimeWait);
            ports.time_wait += u32::from(waits);
        }
    }

    fn finish(mut self, complete: bool) -> Walk {
        for (&(index, peer), &open) in &self.peers {
            if let Some(listener) = self.listeners.get_mut(&index) {
                listener.peers += 1;
                // Of two with as many the lower address, so that it does not change from walk to walk.
                let order = |&(peer, open): &(IpAddr, u32)| (open, Reverse(peer));
                listener.busiest_peer = listener
                    .busiest_peer
                    .into_iter()
                    .chain([(peer, open)])
                    .max_by_key(order);
            }
        }
        let identities = &self.finder.identities;
        let listeners: HashMap<Identity, ListenerWalk> = self
            .listeners
            .into_iter()
            .filter_map(|(index, listener)| Some((*identities.get(index)?, listener)))
            .collect();
        let destinations = busiest(self.destinations);
        let at = Instant::now();
        Walk {
            at,
            cost: at - self.begun,
            complete,
            listeners,
            states: self.states,
            destinations,
        }
    }
}

/// Counts a request socket of a listener.
fn count_request(
    listener: &mut ListenerWalk,
    socket: &Socket,
    now: Instant,
    requests: &mut Memory,
    synack_retries: u32,
) {
    let last = listener.by_retransmits.len() - 1;
    let place = usize::from(socket.retransmits).min(last);
    if let Some(count) = listener.by_retransmits.get_mut(place) {
        *count += 1;
    }
    let met = requests.meet(socket.cookie, now);
    let known = now.duration_since(met.first);
    if socket.is_acked(known) {
        listener.acked += 1;
        return;
    }
    let most = met.absent.map_or(Duration::MAX, |absent| now - absent);
    let age = socket.request_age(synack_retries).min(most).max(known);
    listener.oldest = listener.oldest.max(Some(age));
}

/// The destinations with most ports; of several own addresses the one that has most there.
fn busiest(destinations: HashMap<(IpAddr, IpAddr, u16), Ports>) -> Vec<Destination> {
    let mut all: Vec<_> = destinations.into_iter().collect();
    all.sort_unstable_by_key(|&(key, ports)| (Reverse(ports.used), key));
    let mut told = HashSet::new();
    all.into_iter()
        .filter(|&((_, address, port), _)| told.insert((address, port)))
        .take(DESTINATIONS)
        .map(|((_, address, port), ports)| Destination {
            address: address.to_string(),
            port,
            ports_used: ports.used,
            time_wait: ports.time_wait,
        })
        .collect()
}
