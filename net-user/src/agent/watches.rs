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
    abi::{DropEvent, MAX_WATCHED, WatchKey, Watched},
    units::addr_words,
    verdict::Reason,
};
use nix::time::{ClockId, clock_gettime};

use super::{Agent, now_ns, send};
use crate::{
    control::{
        protocol::{Reply, Request, RequestError, VERSION, action_name},
        watch::{
            KEPT_S, MAX_ADDRESSES, MAX_WATCHES, PASSES, SeenSegment, VERDICTS, WATCH_S,
            WATCHES_OF_ONE, WatchAsk, WatchBegun, WatchSeen,
        },
    },
    datapath::maps::watch::WatchMaps,
    drops::seen::Seen,
    keys::random_u64,
};

const OWN_NETNS: &str = "/proc/thread-self/ns/net";
/// Segments that one watch keeps: of each address in either role what the data path tells.
const KEPT: usize = 512;

const _: () = assert!(
    MAX_WATCHES * MAX_ADDRESSES <= MAX_WATCHED as usize,
    "whoever may watch finds room in the map"
);

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
    /// Who asked for it.
    uid: u32,
    /// With the segments and the losses that others who watch the same had seen before.
    keys: HashMap<WatchKey, (u64, u32)>,
    /// Of the fine monotonic clock.
    began: Duration,
    /// Of the coarse one.
    until_ns: u64,
    seen: Vec<SeenSegment>,
    /// What was spent before others had the budgets filled up again.
    spent: Spent,
}

/// What a watch has seen.
struct Ended {
    id: u64,
    /// Of the coarse monotonic clock.
    until_ns: u64,
    seen: Vec<SeenSegment>,
    segments: u64,
    lost: u64,
    spent: Spent,
}

/// Budgets that are used up, beyond which nothing is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spent {
    passes: bool,
    verdicts: bool,
}

impl Spent {
    fn add(&mut self, watched: &Watched) {
        self.passes |= watched.passes_left == 0;
        self.verdicts |= watched.verdicts_left == 0;
    }
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

    fn begin(&mut self, uid: u32, ask: &WatchAsk) -> Result<u64> {
        let until_ns = now_ns()? + Duration::from_secs(WATCH_S).as_nanos() as u64;
        let mut watch = Watch {
            // 53 bits, which every reader of JSON keeps.
            id: random_u64()? >> 11,
            uid,
            keys: HashMap::new(),
            // Before the data path is told: what it tells of is later.
            began: clock_gettime(ClockId::CLOCK_MONOTONIC)?.into(),
            until_ns,
            seen: Vec::new(),
            spent: Spent::default(),
        };
        if let Err(error) = self.follow(&mut watch, ask) {
            // What is left of it must not stay in the map; the first error is the one to tell.
            let _ = self.forget(&watch);
            return Err(error);
        }
        let id = watch.id;
        self.watches.push(watch);
        Ok(id)
    }

    /// Has the data path tell of what is asked for; also after an error `watch` has the keys that are in the map.
    fn follow(&mut self, watch: &mut Watch, ask: &WatchAsk) -> Result<()> {
        for &address in &ask.addresses {
            let key = key(address.to_canonical(), ask.port);
            if watch.keys.contains_key(&key) {
                continue;
            }
            let before = self.maps.get(&key)?;
            if let Some(before) = before {
                let others = self.watches.iter_mut();
                for other in others.filter(|other| other.keys.contains_key(&key)) {
                    other.spent.add(&before);
                }
            }
            let before = before.unwrap_or_default();
            let watched = Watched {
                until_ns: watch.until_ns,
                passes_left: PASSES,
                verdicts_left: VERDICTS,
                ..before
            };
            self.maps.set(&key, &watched)?;
            watch.keys.insert(key, (before.segments, before.lost));
        }
        // Last: from now on packets pay for it.
        self.maps.set_until(watch.until_ns)
    }

    /// Ends a watch; what it has seen. None for one that is not there.
    fn end(&mut self, id: u64) -> Result<Option<Ended>> {
        if let Some(at) = self.watches.iter().position(|watch| watch.id == id) {
            return self.close(at).map(Some);
        }
        let at = self.ended.iter().position(|ended| ended.id == id);
        Ok(at.and_then(|at| self.ended.remove(at)))
    }

    /// Ends one of those that go on; on an error too, which costs what it has seen.
    fn close(&mut self, at: usize) -> Result<Ended> {
        let watch = self.watches.swap_remove(at);
        let counted = self.count(&watch);
        self.forget(&watch)?;
        let (segments, lost, spent) = counted?;
        Ok(Ended {
            id: watch.id,
            until_ns: watch.until_ns,
            seen: watch.seen,
            segments,
            lost,
            spent,
        })
    }

    /// What the data path has counted since a watch began: segments, losses, budgets.
    fn count(&self, watch: &Watch) -> Result<(u64, u64, Spent)> {
        let (mut segments, mut lost, mut spent) = (0, 0, watch.spent);
        for (key, before) in &watch.keys {
            let Some(now) = self.maps.get(key)? else {
                continue;
            };
            segments += now.segments.saturating_sub(before.0);
            lost += u64::from(now.lost.saturating_sub(before.1));
            spent.add(&now);
        }
        Ok((segments, lost, spent))
    }

    /// Takes the entries of a watch that has ended out of the map, but for those that others need; every one that can be, and
    /// tells the last error.
    fn forget(&mut self, watch: &Watch) -> Result<()> {
        let mut done = Ok(());
        for key in watch.keys.keys() {
            let shared = self.watches.iter().any(|w| w.keys.contains_key(key));
            if !shared {
                done = self.maps.remove(key).and(done);
            }
        }
        let last = self.watches.iter().map(|watch| watch.until_ns).max();
        self.maps.set_until(last.unwrap_or(0)).and(done)
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
            for watch in &mut self.watches {
                watch.take(&key, event.time_ns, &segment);
            }
        }
    }
}

impl Watch {
    /// Takes a segment of one of these keys, if it is of this watch and not of one before it. `time_ns` is of the fine
    /// monotonic clock.
    fn take(&mut self, keys: &[WatchKey], time_ns: u64, segment: &SeenSegment) {
        let Some(after) = Duration::from_nanos(time_ns).checked_sub(self.began) else {
            return;
        };
        if self.seen.len() < KEPT && keys.iter().any(|key| self.keys.contains_key(key)) {
            self.seen.push(SeenSegment {
                after_us: after.as_micros() as u64,
                ..segment.clone()
            });
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

/// Why a user may not watch one more, beside the users of those that go on.
fn refusal(others: impl Iterator<Item = u32>, uid: u32) -> Option<String> {
    let (mut all, mut own) = (0, 0);
    for other in others {
        all += 1;
        own += usize::from(other == uid);
    }
    let (whose, most) = if all >= MAX_WATCHES {
        ("", MAX_WATCHES)
    } else if uid != 0 && own >= WATCHES_OF_ONE {
        (" for you", WATCHES_OF_ONE)
    } else {
        return None;
    };
    Some(format!(
        "{most} connections are watched already{whose}; each ends after {WATCH_S} s at the latest, try again then"
    ))
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
            Request::Watch(uid, ask, reply) => self.begin_watch(uid, &ask, reply),
            Request::Watched(id, reply) => self.end_watch(id, reply),
            _ => {}
        }
    }

    fn begin_watch(&mut self, uid: u32, ask: &WatchAsk, reply: Reply<WatchBegun>) {
        // Also when nobody watches: what is left in the ring buffer takes the room of what is to come.
        self.read_watches();
        self.tick_watches();
        if let Some(why) = refusal(self.watches.watches.iter().map(|watch| watch.uid), uid) {
            let _ = reply.send(Err(RequestError::Refused(why)));
            return;
        }
        let own = self.facts.addresses.iter().map(|own| own.ip).collect();
        let begun = self.watches.begin(uid, ask).map(|id| WatchBegun {
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
            passes_spent: ended.spent.passes,
            verdicts_spent: ended.spent.verdicts,
            seen: ended.seen,
        };
        send(reply, Ok(seen));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> SeenSegment {
        SeenSegment {
            after_us: 0,
            interface: "eth0".into(),
            from: "192.0.2.9:40000".parse().unwrap(),
            to: "192.0.2.1:443".parse().unwrap(),
            flags: "SYN".into(),
            code: 0,
            reason: "syn_in_budget".into(),
            action: "pass".into(),
            observed: false,
            length: 74,
        }
    }

    #[test]
    fn a_watch_takes_what_is_its_own_and_later_than_its_beginning() {
        let (own, other) = (
            key("192.0.2.9".parse().unwrap(), 443),
            key("192.0.2.8".parse().unwrap(), 443),
        );
        let mut watch = Watch {
            id: 1,
            uid: 0,
            keys: HashMap::from([(own, (0, 0))]),
            began: Duration::from_micros(100),
            until_ns: 0,
            seen: Vec::new(),
            spent: Spent::default(),
        };
        // Of one before, of an address that nobody asked for, and its own.
        watch.take(&[own], 99_999, &segment());
        watch.take(&[other], 105_000, &segment());
        assert_eq!(watch.seen, []);
        watch.take(&[other, own], 107_000, &segment());
        let after: Vec<_> = watch.seen.iter().map(|seen| seen.after_us).collect();
        assert_eq!(after, [7]);
    }

    #[test]
    fn one_user_cannot_keep_others_from_watching() {
        let of = |uids: &[u32], uid| refusal(uids.iter().copied(), uid);
        let mut watched = vec![1000; WATCHES_OF_ONE - 1];
        assert_eq!(of(&watched, 1000), None);
        watched.push(1000);
        let why = of(&watched, 1000).expect("too many of one");
        assert!(
            why.contains("4 connections are watched already for you"),
            "{why}"
        );
        assert_eq!(of(&watched, 1001), None);
        assert_eq!(of(&[0; MAX_WATCHES - 1], 0), None, "root may");
        let why = of(&[0; MAX_WATCHES], 1001).expect("too many of all");
        assert!(why.contains("8 connections are watched already;"), "{why}");
    }

    #[test]
    fn a_budget_that_is_spent_is_known() {
        let mut spent = Spent::default();
        let watched = |passes_left, verdicts_left| Watched {
            passes_left,
            verdicts_left,
            ..Watched::default()
        };
        spent.add(&watched(1, 1));
        assert_eq!(spent, Spent::default());
        spent.add(&watched(1, 0));
        spent.add(&watched(1, 1));
        assert_eq!((spent.passes, spent.verdicts), (false, true));
    }
}
