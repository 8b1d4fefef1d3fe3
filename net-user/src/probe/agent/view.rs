//! What there is to tell of what the agent saw.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::control::{
    client::ClientError,
    queues::{ListenerQueues, VerdictKind},
    watch::SeenSegment,
};

/// What the agent saw of one connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// The interfaces that it watches.
    pub interfaces: Vec<String>,
    /// Whether it only observes.
    pub observes: bool,
    /// Whether it is the agent of the server's host; otherwise it sees what the server sends, if anything.
    pub server: bool,
    /// Whether the connection goes over the loopback interface, past the data path.
    pub loopback: bool,
    /// Whether there may have been more than it told: others use the watched address, or it was too much at once. What is
    /// missing here proves nothing then.
    #[serde(default)]
    pub partial: bool,
    /// What became of the segment of the handshake that it saw: the SYN, and on the client's side the SYN-ACK.
    pub syn: Syn,
    /// Whether the ACK to a cookie of netmoat came and was right.
    pub proven: bool,
    /// What was dropped of this connection, in earnest.
    pub drops: Vec<SeenSegment>,
    /// The entry of the blocklist that this came from.
    pub blocked_by: Option<String>,
    /// What became of each segment of this connection, the first ones at least; of no connection, of each attempt.
    pub segments: Vec<SeenSegment>,
    /// The listener that it was for; null where that is not on the agent's host.
    pub listener: Option<ListenerView>,
    /// In plain words, a sentence each.
    pub lines: Vec<String>,
}

/// What became of a SYN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Syn {
    /// It did not come by.
    #[default]
    NotSeen,
    /// It went on to the kernel.
    Passed,
    /// It was answered with a cookie.
    Cookie,
    /// It was dropped, each time that it was sent.
    Dropped,
}

/// A listener at the end of the walk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    /// Where it listens, as bound.
    pub address: String,
    /// The port.
    pub port: u16,
    /// Whether it gets cookies when it needs them.
    pub protected: bool,
    /// Whether SYNs to it are answered with cookies at present.
    pub cookies_now: bool,
    /// Handshakes that wait for the client's ACK.
    pub syn_queue: u32,
    /// Connections that wait for accept().
    pub accept_queue: u32,
    /// Their limit; one more fits.
    pub accept_queue_limit: u32,
    /// Whether the accept queue is full.
    pub accept_full: bool,
    /// The gravest verdict's kind.
    pub verdict: VerdictKind,
    /// Its sentence.
    pub sentence: String,
}

impl ListenerView {
    /// What there is to tell of a listener.
    pub fn of(queues: &ListenerQueues) -> Self {
        let verdict = queues.verdicts.first();
        Self {
            address: queues.address.clone(),
            port: queues.port,
            protected: queues.protected,
            cookies_now: queues.cookies_now,
            syn_queue: queues.syn_queue,
            accept_queue: queues.accept_queue,
            accept_queue_limit: queues.accept_queue_limit,
            accept_full: queues.accept_full,
            verdict: verdict.map_or(VerdictKind::Healthy, |verdict| verdict.kind),
            sentence: verdict.map_or(String::new(), |verdict| verdict.sentence.clone()),
        }
    }

    /// Whether somebody floods it.
    pub fn flooded(&self) -> bool {
        matches!(
            self.verdict,
            VerdictKind::SynFlood | VerdictKind::ConnectionFlood
        )
    }

    /// Its queues in a few words.
    pub fn queues(&self) -> String {
        format!(
            "{} connections wait for accept(), of {} that may, and {} handshakes for their ACK",
            self.accept_queue, self.accept_queue_limit, self.syn_queue
        )
    }
}

/// Whether the agent told of everything.
#[derive(Clone, Copy)]
pub(super) struct Told {
    /// SYNs, cookies and drops, and nothing was lost.
    pub all: bool,
    /// What passed as part of a connection.
    pub passes: bool,
}

/// Where the agent stands.
pub(super) struct Place {
    pub interfaces: Vec<String>,
    pub observes: bool,
    pub server: bool,
    pub loopback: bool,
}

impl AgentView {
    /// Of an agent that did not answer.
    pub(super) fn unknown(error: &ClientError) -> Self {
        Self {
            lines: vec![format!("the agent does not say what it saw: {error}")],
            ..Self::default()
        }
    }

    /// From the segments of one connection, or of the attempts at one to `port`.
    pub(super) fn new(
        place: Place,
        told: Told,
        segments: Vec<SeenSegment>,
        port: u16,
        listener: Option<ListenerView>,
    ) -> Self {
        let Place {
            interfaces,
            observes,
            server,
            loopback,
        } = place;
        let syn = syn(&segments, port);
        let drops: Vec<_> = segments.iter().filter(|s| s.dropped()).cloned().collect();
        let mut view = Self {
            interfaces,
            observes,
            server,
            loopback,
            // A SYN-ACK passes as part of a connection.
            partial: !told.all || (!told.passes && syn == Syn::NotSeen),
            syn,
            proven: segments.iter().any(|s| s.reason == "cookie_proven"),
            drops,
            blocked_by: None,
            segments,
            listener,
            lines: Vec::new(),
        };
        view.lines = view.told();
        view
    }

    /// Who is on the blocklist, if something was dropped for that.
    pub(super) fn blocked(&self) -> Option<IpAddr> {
        let drop = self.drops.iter().find(|drop| drop.reason == "blocked")?;
        Some(drop.from.ip().to_canonical())
    }

    fn told(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let place = self.interfaces.join(", ");
        if self.loopback {
            lines.push(format!(
                "the connection stays on this host, past {place} where netmoat watches"
            ));
        } else if self.segments.is_empty() && !self.partial {
            lines.push(format!("netmoat saw nothing of it on {place}"));
        }
        if self.partial && !self.loopback {
            lines.push(format!(
                "netmoat on {place} could not tell of all segments, as there were too many for a watch (others come from the \
                 same address): what is missing here may have come"
            ));
        }
        for segment in &self.segments {
            let handshake = segment.flags.contains("SYN") || segment.reason == "cookie_proven";
            if !handshake && !segment.dropped() && !segment.observed {
                continue;
            }
            let done = match segment.action.as_str() {
                "drop" if segment.observed => "would be dropped",
                "drop" => "dropped",
                "reply" if segment.observed => "would be answered with a cookie",
                "reply" => "sent in answer, with a cookie",
                _ => "passed",
            };
            lines.push(format!(
                "{} {} → {} after {}: {done}, {} ({})",
                segment.flags,
                segment.from,
                segment.to,
                milliseconds(segment.after_us),
                segment.reason,
                segment.code
            ));
        }
        if let Some(listener) = &self.listener {
            lines.push(format!(
                "listener {} port {}: {}; {}",
                listener.address,
                listener.port,
                listener.queues(),
                listener.sentence
            ));
        }
        lines
    }
}

fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

/// What became of the handshake's first segment that came by.
fn syn(segments: &[SeenSegment], port: u16) -> Syn {
    let first = |s: &&SeenSegment| match s.flags.as_str() {
        flags if flags.contains("SYN") && flags.contains("ACK") => s.from.port() == port,
        flags => flags.contains("SYN") && s.to.port() == port,
    };
    let mut syns = segments.iter().filter(first).peekable();
    if syns.peek().is_none() {
        Syn::NotSeen
    } else if syns.clone().any(SeenSegment::answered) {
        Syn::Cookie
    } else if syns.all(SeenSegment::dropped) {
        Syn::Dropped
    } else {
        Syn::Passed
    }
}
