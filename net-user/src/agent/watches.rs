//! The agent's side of [`crate::control::watch`]: whom the data path tells of segment by segment, and for whom.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use anyhow::Result;
use aya::Ebpf;
use net_common::{
    abi::{DropEvent, WatchKey, Watched},
    units::addr_words,
    verdict::Reason,
};
use nix::time::{ClockId, clock_gettime};

use super::{Agent, now_ns, send};
use crate::{
    control::{
        protocol::{Reply, Request, RequestError, VERSION, action_name},
        watch::{
            KEPT_S, MAX_WATCHES, PASSES, SeenSegment, VERDICTS, WATCH_S, WatchAsk, WatchBegun,
            WatchSeen,
        },
    },
    datapath::maps::watch::WatchMaps,
    drops::seen::Seen,
    keys::random_u64,
};

const OWN_NETNS: &str = "/proc/thread-self/ns/net";
/// Segments that one watch keeps: of each address in either role what the data path tells.
const KEPT: usize = 512;

/// Everybody who is watched.
pub(super) struct Watches {
    maps: WatchMaps,
    namespace: Option<u64>,
    watches: Vec<Watch>,
    /// Those whose time was over before they were asked for, oldest first.
    ended: VecDeque<Ended>,
}

struct Watch {
    id: u64,
    /// With the segments and the losses that others who watch the same had seen before.
    keys: HashMap<WatchKey, (u64, u32)>,
    /// Of the fine monotonic clock.
    began: Duration,
    /// Of the coarse one.
    until_ns: u64,
    seen: Vec<SeenSegment>,
}

/// What a watch has seen.
struct Ended {
    id: u64,
    /// Of the coarse monotonic clock.
    until_ns: u64,
    seen: Vec<SeenSegment>,
    segments: u64,
    lost: u64,
}

impl Watches {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            maps: WatchMaps::take(ebpf)?,
            namespace: fs::metadata(OWN_NETNS).ok().map(|own| own.ino()),
            watches: Vec::new(),
            ended: VecDeque::new(),
        })
    }

    fn begin(&mut self, ask: &WatchAsk) -> Result<u64> {
        let until_ns = now_ns()? + Duration::from_secs(WATCH_S).as_nanos() as u64;
        // 53 bits, which every reader of JSON keeps.
        let id = random_u64()? >> 11;
        let mut keys = HashMap::new();
        for &address in &ask.addresses {
            let key = key(address.to_canonical(), ask.port);
            let before = self.maps.get(&key)?.unwrap_or_default();
            let watched = Watched {
                until_ns,
                passes_left: PASSES,
                verdicts_left: VERDICTS,
                ..before
            };
            self.maps.set(&key, &watched)?;
            keys.insert(key, (before.segments, before.lost));
        }
        self.watches.push(Watch {
            id,
            keys,
            began: clock_gettime(ClockId::CLOCK_MONOTONIC)?.into(),
            until_ns,
            seen: Vec::new(),
        });
        // Last: from now on packets pay for it.
        self.maps.set_until(until_ns)?;
        Ok(id)
    }

    /// Ends a watch; what it has seen. None for one that is not there.
    fn end(&mut self, id: u64) -> Result<Option<Ended>> {
        if let Some(at) = self.watches.iter().position(|watch| watch.id == id) {
            return self.close(at).map(Some);
        }
        let at = self.ended.iter().position(|ended| ended.id == id);
        Ok(at.and_then(|at| self.ended.remove(at)))
    }

    fn close(&mut self, at: usize) -> Result<Ended> {
        let watch = self.watches.swap_remove(at);
        let (mut segments, mut lost) = (0, 0);
        for (key, before) in &watch.keys {
            let now = self.maps.get(key)?.unwrap_or_default();
            segments += now.segments.saturating_sub(before.0);
            lost += u64::from(now.lost.saturating_sub(before.1));
        }
        self.forget(&watch)?;
        Ok(Ended {
            id: watch.id,
            until_ns: watch.until_ns,
            seen: watch.seen,
            segments,
            lost,
        })
    }

    /// Takes the entries of a watch that has ended out of the map, but for those that others need.
    fn forget(&mut self, watch: &Watch) -> Result<()> {
        for key in watch.keys.keys() {
            let shared = self.watches.iter().any(|w| w.keys.contains_key(key));
            if !shared {
                self.maps.remove(key)?;
            }
        }
        let last = self.watches.iter().map(|watch| watch.until_ns).max();
        self.maps.set_until(last.unwrap_or(0))
    }

    fn expire(&mut self) -> Result<()> {
        let now = now_ns()?;
        while let Some(at) = self.watches.iter().position(|w| w.until_ns <= now) {
            let ended = self.close(at)?;
            self.ended.push_back(ended);
        }
        let kept = Duration::from_secs(KEPT_S).as_nanos() as u64;
        while self.ended.len() > MAX_WATCHES
            || self.ended.front().is_some_and(|e| e.until_ns + kept <= now)
        {
            self.ended.pop_front();
        }
        Ok(())
    }

    /// Gives what the data path has told to those who wait for it.
    fn read(&mut self, interface: impl Fn(u32) -> String) {
        while let Some(event) = self.maps.take_event() {
            let Some((key, segment)) = segment(&event, &interface) else {
                continue;
            };
            let wanted = |watch: &&mut Watch| key.iter().any(|key| watch.keys.contains_key(key));
            for watch in self.watches.iter_mut().filter(wanted) {
                if watch.seen.len() < KEPT {
                    let after = Duration::from_nanos(event.time_ns).saturating_sub(watch.began);
                    watch.seen.push(SeenSegment {
                        after_us: after.as_micros() as u64,
                        ..segment.clone()
                    });
                }
            }
        }
    }
}

fn key(address: IpAddr, port: u16) -> WatchKey {
    WatchKey {
        addr: addr_words(address),
        port,
        family: if address.is_ipv4() { 4 } else { 6 },
    }
}

/// What an event tells, and the keys by which it may be watched.
fn segment(
    event: &DropEvent,
    interface: impl Fn(u32) -> String,
) -> Option<([WatchKey; 2], SeenSegment)> {
    let captured = usize::from(event.captured).min(event.frame.len());
    let seen = Seen::of(&event.frame[..captured], event.len as usize);
    let from = SocketAddr::new(seen.source?, seen.source_port?);
    let to = SocketAddr::new(seen.destination?, seen.destination_port?);
    let reason = Reason::from_number(event.reason)?;
    let segment = SeenSegment {
        after_us: 0,
        interface: interface(event.ifindex),
        from,
        to,
        flags: seen.tcp_flags?,
        code: event.reason,
        reason: reason.name().to_owned(),
        action: action_name(reason.action()).to_owned(),
        observed: event.observed != 0,
        length: event.len,
    };
    let other = if segment.answered() { to } else { from };
    let keys = [from.port(), to.port()].map(|port| key(other.ip(), port));
    Some((keys, segment))
}

impl Agent {
    fn read_watches(&mut self) {
        let interfaces = &self.interfaces;
        self.watches.read(|ifindex| {
            let attached = interfaces.iter().find(|i| i.ifindex == ifindex);
            attached.map_or_else(|| format!("#{ifindex}"), |i| i.name.clone())
        });
    }

    /// Ends the watches that nobody asked for in time.
    pub(super) fn tick_watches(&mut self) {
        if self.watches.watches.is_empty() && self.watches.ended.is_empty() {
            return;
        }
        self.read_watches();
        let expired = self.watches.expire();
        self.note("watched connections", expired);
    }

    /// Answers what is about watched connections.
    pub(super) fn answer_of_watches(&mut self, request: Request) {
        match request {
            Request::Watch(ask, reply) => self.begin_watch(&ask, reply),
            Request::Watched(id, reply) => self.end_watch(id, reply),
            _ => {}
        }
    }

    fn begin_watch(&mut self, ask: &WatchAsk, reply: Reply<WatchBegun>) {
        self.tick_watches();
        if self.watches.watches.len() >= MAX_WATCHES {
            let _ = reply.send(Err(RequestError::Refused(format!(
                "{MAX_WATCHES} connections are watched already; each ends after {WATCH_S} s at the latest, try again then"
            ))));
            return;
        }
        let own = self.facts.addresses.iter().map(|own| own.ip).collect();
        let begun = self.watches.begin(ask).map(|id| WatchBegun {
            version: VERSION,
            id,
            lasts_s: WATCH_S,
            own,
            namespace: self.watches.namespace,
        });
        send(reply, begun);
    }

    fn end_watch(&mut self, id: u64, reply: Reply<WatchSeen>) {
        self.read_watches();
        let ended = match self.watches.end(id) {
            Ok(Some(ended)) => ended,
            Ok(None) => {
                let _ = reply.send(Err(RequestError::Refused(format!(
                    "there is no such watch; one is forgotten when it was asked for, and {KEPT_S} s after its end"
                ))));
                return;
            }
            Err(error) => return send(reply, Err(error)),
        };
        let seen = WatchSeen {
            version: VERSION,
            mode: self.config.mode,
            interfaces: self.interfaces.iter().map(|i| i.name.clone()).collect(),
            segments: ended.segments,
            lost: ended.lost,
            seen: ended.seen,
        };
        send(reply, Ok(seen));
    }
}
