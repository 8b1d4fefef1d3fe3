//! What the agent saw of the walk's own connection, joined into the report: what became of its segments in the data path,
//! and the listener that they were for.

mod judge;
#[cfg(test)]
mod tests;
mod view;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::MetadataExt as _,
};

pub use view::{AgentView, ListenerView, Syn};

use super::{Layer, Outcome, Stage, tcp::Socket};
use crate::{
    config::Mode,
    control::{
        client::{Client, ClientError},
        lists::FindQuery,
        queues::{ListenerQueues, Queues},
        watch::{MAX_ADDRESSES, WatchAsk, WatchBegun, WatchSeen},
    },
    host::sock_diag::takes,
};

const OWN_NETNS: &str = "/proc/self/ns/net";

/// The agent's attention to a pair of addresses, until it is asked what it saw.
pub struct Watch {
    agent: Client,
    begun: Result<WatchBegun, ClientError>,
    remotes: Vec<IpAddr>,
    /// Our own addresses towards them.
    locals: Vec<IpAddr>,
    port: u16,
    connection: Option<(SocketAddr, SocketAddr)>,
}

impl Watch {
    /// Which connection it was in the end.
    pub fn connected(&mut self, socket: &Socket) {
        self.connection = Some((socket.local, socket.remote));
    }
}

/// Asks the agent to look out for what comes from these addresses, and from our own on the way to them: it may be the agent
/// of either end. `None` where there is no agent, or none that lets us ask.
pub async fn watch(agent: &Client, addresses: &[IpAddr], port: u16) -> Option<Watch> {
    let remotes = addresses.iter().map(IpAddr::to_canonical);
    let remotes: Vec<_> = remotes.take(MAX_ADDRESSES / 2).collect();
    let mut locals: Vec<_> = remotes.iter().filter_map(|ip| source(*ip, port)).collect();
    locals.sort();
    locals.dedup();
    let mut addresses: Vec<_> = remotes.iter().chain(&locals).copied().collect();
    addresses.sort();
    addresses.dedup();
    let begun = agent.watch(&WatchAsk { addresses, port }).await;
    if let Err(ClientError::Absent { .. } | ClientError::Denied { .. }) = begun {
        return None;
    }
    Some(Watch {
        agent: agent.clone(),
        begun,
        remotes,
        locals,
        port,
        connection: None,
    })
}

/// The address that the kernel would connect from. A datagram socket that is connected sends nothing.
fn source(remote: IpAddr, port: u16) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((remote, port)).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}

/// What it saw; may add findings to the stages.
pub async fn seen(watch: Watch, stages: &mut [Stage]) -> Option<AgentView> {
    let begun = match &watch.begun {
        Ok(begun) => begun,
        Err(error) => return Some(AgentView::unknown(error)),
    };
    let seen = match watch.agent.watched(begun.id).await {
        Ok(seen) => seen,
        Err(error) => return Some(AgentView::unknown(&error)),
    };
    let listener = match watch.local_end(begun) {
        // Without them the segments are worth telling still.
        Some(end) => watch.agent.queues().await.ok().and_then(|queues| {
            let listener = listener(&queues, end);
            listener.map(ListenerView::of)
        }),
        None => None,
    };
    let mut view = watch.view(begun, seen, listener);
    if let Some(source) = view.blocked() {
        view.blocked_by = watch.blocked_by(source).await;
    }
    judge::judge(&mut view, stages, watch.connection.is_some());
    Some(view)
}

impl Watch {
    /// The end that is the agent's, if it is the server's: where we connected, or would have.
    fn local_end(&self, begun: &WatchBegun) -> Option<SocketAddr> {
        let is_own = |ip: &IpAddr| begun.own.contains(ip) && (!ip.is_loopback() || same(begun));
        let ip = match self.connection {
            Some((_, remote)) => Some(remote.ip().to_canonical()).filter(is_own),
            None => self.remotes.iter().copied().find(is_own),
        };
        Some(SocketAddr::new(ip?, self.port))
    }

    fn view(
        &self,
        begun: &WatchBegun,
        seen: WatchSeen,
        listener: Option<ListenerView>,
    ) -> AgentView {
        let of_us = |from: SocketAddr, to: SocketAddr| match self.connection {
            Some((local, remote)) => (from, to) == (canonical(local), canonical(remote)),
            None => {
                to.port() == self.port
                    && self.remotes.contains(&to.ip())
                    && self.locals.contains(&from.ip())
            }
        };
        let told = view::Told {
            all: seen.lost == 0 && !seen.verdicts_spent && seen.segments <= seen.seen.len() as u64,
            passes: !seen.passes_spent,
        };
        let (segments, interfaces) = (seen.seen, seen.interfaces);
        let ours = segments.into_iter();
        let ours = ours.filter(|s| of_us(s.from, s.to) || of_us(s.to, s.from));
        let server = self.local_end(begun).is_some();
        AgentView::new(
            view::Place {
                interfaces,
                observes: seen.mode == Mode::Observe,
                server,
                loopback: server && same(begun),
            },
            told,
            ours.collect(),
            self.port,
            listener,
        )
    }

    /// The entry of the blocklist that decides about a source.
    async fn blocked_by(&self, source: IpAddr) -> Option<String> {
        let query = FindQuery {
            prefix: source.to_string(),
            name: None,
        };
        let found = self.agent.find_entries(&query).await.ok()?;
        let entry = found.entries.into_iter().next()?;
        let why = if entry.reason.is_empty() {
            String::new()
        } else {
            format!(" ({})", entry.reason.escape_debug())
        };
        Some(format!(
            "entry {} of the list {}{why}",
            entry.prefix.escape_debug(),
            entry.name.escape_debug()
        ))
    }
}

/// Whether the agent is in our network namespace.
fn same(begun: &WatchBegun) -> bool {
    let own = fs::metadata(OWN_NETNS).ok().map(|own| own.ino());
    own.is_some() && own == begun.namespace
}

fn canonical(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

/// The listener that takes connections to an address: the one bound to it before the ones for all.
fn listener(queues: &Queues, end: SocketAddr) -> Option<&ListenerQueues> {
    let fits = |listener: &&ListenerQueues| {
        listener.address.parse().is_ok_and(|bound| {
            takes(
                SocketAddr::new(bound, listener.port),
                listener.dual_stack,
                end,
            )
        })
    };
    let score = |listener: &&ListenerQueues| {
        let bound = listener.address.parse::<IpAddr>();
        bound.is_ok_and(|bound| !bound.is_unspecified())
    };
    queues.listeners.iter().filter(fits).max_by_key(score)
}

fn stage_mut(stages: &mut [Stage], layer: Layer) -> Option<&mut Stage> {
    stages.iter_mut().find(|stage| stage.layer == layer)
}

fn outcome(stages: &[Stage], layer: Layer) -> Outcome {
    let stage = stages.iter().find(|stage| stage.layer == layer);
    stage.map_or(Outcome::Ok, |stage| stage.outcome)
}
