//! Zones, their servers, and what a server's answer means for the way down from the roots.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType},
};

use super::roots::address_of;
use crate::probe::{
    Family,
    name::{
        answer::word,
        lookup::chain,
        query::{Asked, Patience, Question, Silence, ask},
    },
};

/// How many servers of a zone are asked, and how many addresses of each family of each: what is usual is 13 and 1.
const SERVERS: usize = 13;
const ADDRESSES: usize = 2;
/// How many zones deep a look-up beside the way goes, and how often for the name of a server that needs a server.
const DEPTH: u32 = 16;
const NESTED: u32 = 3;
/// How many servers are asked one after the other beside the way.
const TRIED: usize = 4;
/// How many questions are asked beside the way at most. A zone whose servers are named in ever more zones would else have
/// the walk ask thousands, of whomever it likes (NXNSAttack).
pub(super) const QUESTIONS: u32 = 200;
/// How many addresses of a name are taken.
const TAKEN: usize = 32;
/// How long a server has for an answer. They wait at once; resolvers wait less (unbound 376 ms, then twice that).
pub(super) const WAIT: Duration = Duration::from_millis(1500);

/// A name server at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub name: Name,
    pub address: IpAddr,
}

/// A zone and who serves it.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub zone: Name,
    pub servers: Vec<Server>,
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Records of the name, or an alias.
    Answer,
    /// Another zone, further down.
    Referral(Name),
    /// The name is there, but has nothing of that kind.
    NoData,
    /// There is no such name.
    NoName,
    /// This server does not serve the zone; how that shows.
    Lame(String),
    /// The server itself is in trouble (SERVFAIL).
    Failure,
    /// Another response code.
    Odd(String),
    /// No answer.
    Silent(Silence),
}

impl Meaning {
    /// Whether the server did what it is there for.
    pub const fn good(&self) -> bool {
        matches!(
            self,
            Self::Answer | Self::Referral(_) | Self::NoData | Self::NoName
        )
    }

    /// Of a server of `zone`, asked for `name`.
    pub fn of(zone: &Name, name: &Name, asked: &Asked) -> Self {
        let message = match &asked.answer {
            Ok(message) => message,
            Err(silence) => return Self::Silent(silence.clone()),
        };
        let own = message.metadata.authoritative;
        match message.metadata.response_code {
            ResponseCode::NoError => {}
            ResponseCode::NXDomain if own => return Self::NoName,
            ResponseCode::NXDomain => {
                return Self::Lame("says NXDOMAIN, but not as the zone's own server".into());
            }
            ResponseCode::ServFail => return Self::Failure,
            code @ (ResponseCode::Refused | ResponseCode::NotAuth) => {
                return Self::Lame(format!("answers {}", word(code)));
            }
            code => return Self::Odd(word(code)),
        }
        if message.answers.iter().any(|record| record.name == *name) {
            return if own {
                Self::Answer
            } else {
                Self::Lame("answers from a cache, not as the zone's own server".into())
            };
        }
        let below =
            |record: &&hickory_resolver::proto::rr::Record| record.record_type() == RecordType::NS;
        match message.authorities.iter().find(below).map(|r| &r.name) {
            Some(child) if child != zone && zone.zone_of(child) && child.zone_of(name) => {
                Self::Referral(child.to_lowercase())
            }
            Some(_) if !own => Self::Lame("refers to servers that are not further down".into()),
            _ if own => Self::NoData,
            _ => Self::Lame("has nothing to say".into()),
        }
    }
}

/// What leads on from a name: its aliases and addresses in an answer of a server of `zone`.
pub(super) fn follow(zone: &Name, name: &Name, message: &Message) -> (Vec<Name>, Vec<IpAddr>) {
    let mut aliases: Vec<Name> = Vec::new();
    let mut at = name.clone();
    for (to, _) in chain(message, name) {
        // A server speaks for its own zone only.
        if !zone.zone_of(&at) {
            break;
        }
        let again = to == *name || aliases.contains(&to);
        at.clone_from(&to);
        aliases.push(to);
        if again {
            return (aliases, Vec::new());
        }
    }
    let mut addresses: Vec<_> = message
        .answers
        .iter()
        .filter(|record| record.name == at && zone.zone_of(&at))
        .filter_map(|record| address_of(&record.data))
        .take(TAKEN)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    (aliases, addresses)
}

/// The zone that an answer about `name` is from, by its SOA record: another one than that whose servers were asked, where
/// these serve a zone below it, too (RFC 2308, section 2; with NXDOMAIN and NODATA it is in the authority section).
pub(super) fn apex(zone: &Name, name: &Name, message: &Message) -> Option<(Name, u32)> {
    let mut records = message.answers.iter().chain(&message.authorities);
    records.find_map(|record| match &record.data {
        RData::SOA(soa) if record.name.zone_of(name) && zone.zone_of(&record.name) => {
            Some((record.name.to_lowercase(), soa.serial))
        }
        _ => None,
    })
}

/// The servers that a referral of `zone` to `child` names, and those addresses of theirs that came with it.
pub(super) fn delegation(zone: &Name, child: &Name, message: &Message) -> (Vec<Name>, Vec<Server>) {
    let mut names: Vec<Name> = Vec::new();
    for record in message.authorities.iter().filter(|r| r.name == *child) {
        if let RData::NS(name) = &record.data
            && names.len() < SERVERS
            && !names.contains(&name.0)
        {
            names.push(name.0.to_lowercase());
        }
    }
    // Glue is taken from whoever is above its owner.
    let glue = message.additionals.iter().filter(|r| zone.zone_of(&r.name));
    let mut servers = Vec::new();
    for record in glue {
        if let Some(address) = address_of(&record.data)
            && let Some(name) = names.iter().find(|name| **name == record.name)
        {
            let server = Server {
                name: name.clone(),
                address,
            };
            let same =
                |s: &&Server| s.name == server.name && s.address.is_ipv4() == address.is_ipv4();
            if servers.iter().filter(same).count() < ADDRESSES && !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    (names, servers)
}

/// Whether this machine knows a way there at all.
pub(super) fn has_route(address: IpAddr) -> bool {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => ([0; 4], 0).into(),
        IpAddr::V6(_) => ([0; 16], 0).into(),
    };
    // connect() of a UDP socket sends nothing, but wants a route.
    UdpSocket::bind(any)
        .and_then(|socket| socket.connect((address, 53)))
        .is_ok()
}

/// All zones that are known.
pub(super) struct Cuts {
    known: Mutex<HashMap<Name, Cut>>,
    answers: Mutex<HashMap<(Name, RecordType), Message>>,
    family: Option<Family>,
    /// Of all servers: 53.
    port: u16,
    /// How many questions may still be asked.
    left: AtomicU32,
}

type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Cuts {
    pub fn new(roots: Cut, family: Option<Family>, port: u16) -> Self {
        let cuts = Self {
            known: Mutex::default(),
            answers: Mutex::default(),
            family,
            port,
            left: AtomicU32::new(QUESTIONS),
        };
        cuts.learn(roots);
        cuts
    }

    /// Whether all questions have been asked.
    pub fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Keeps a zone with those servers that can be asked from here.
    pub fn learn(&self, mut cut: Cut) -> Cut {
        cut.servers
            .retain(|s| self.family.is_none_or(|f| f.has(&s.address)));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(cut.zone.clone(), cut.clone());
        cut
    }

    /// The zone nearest above a name, or the name's own; `strictly` above, where the DS record lives (RFC 4035, section 2.4).
    pub fn nearest(&self, name: &Name, strictly: bool) -> Option<Cut> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |cut: &&Cut| cut.zone.zone_of(name) && !(strictly && cut.zone == *name);
        let nearest = known.values().filter(fits);
        nearest.max_by_key(|cut| cut.zone.num_labels()).cloned()
    }

    /// One question beside the way, to whichever server answers; goes down by itself.
    pub fn ask<'a>(
        &'a self,
        name: &'a Name,
        kind: RecordType,
        nested: u32,
    ) -> Later<'a, Option<Message>> {
        Box::pin(async move {
            let key = (name.to_lowercase(), kind);
            let kept = {
                let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.get(&key).cloned()
            };
            if kept.is_some() {
                return kept;
            }
            let mut cut = self.nearest(name, kind == RecordType::DS && !name.is_root())?;
            for _ in 0..DEPTH {
                let (meaning, message) = self.first_good(&cut, name, kind).await?;
                let Meaning::Referral(child) = meaning else {
                    let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers.insert(key, message.clone());
                    return Some(message);
                };
                cut = self.refer(&cut.zone, &child, &message, nested).await.0;
            }
            None
        })
    }

    /// The zone that a referral leads to, and its servers for which no address was found.
    pub fn refer<'a>(
        &'a self,
        zone: &'a Name,
        child: &'a Name,
        message: &'a Message,
        nested: u32,
    ) -> Later<'a, (Cut, Vec<Name>)> {
        Box::pin(async move {
            let (names, mut servers) = delegation(zone, child, message);
            let with: HashSet<_> = servers.iter().map(|s| s.name.clone()).collect();
            let mut without = Vec::new();
            for name in names.into_iter().filter(|name| !with.contains(name)) {
                // Inside the zone nobody but the missing server itself could tell.
                let found = match nested < NESTED && !child.zone_of(&name) {
                    true => self.locate(&name, nested + 1).await,
                    false => Vec::new(),
                };
                if found.is_empty() {
                    without.push(name.clone());
                }
                servers.extend(found.into_iter().map(|address| Server {
                    name: name.clone(),
                    address,
                }));
            }
            let cut = Cut {
                zone: child.clone(),
                servers,
            };
            (self.learn(cut), without)
        })
    }

    async fn locate(&self, name: &Name, nested: u32) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            if let Some(message) = self.ask(name, kind, nested).await {
                let own = message.answers.iter().filter(|r| r.name == *name);
                addresses.extend(own.filter_map(|r| address_of(&r.data)).take(ADDRESSES));
            }
        }
        addresses
    }

    /// The first answer that is one, of a few servers in turn.
    async fn first_good(
        &self,
        cut: &Cut,
        name: &Name,
        kind: RecordType,
    ) -> Option<(Meaning, Message)> {
        let question = Question::iterative(name.clone(), kind);
        let reachable = cut.servers.iter().filter(|s| has_route(s.address));
        for server in reachable.take(TRIED) {
            let one_less = |left: u32| left.checked_sub(1);
            self.left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .ok()?;
            let at = (server.address, self.port).into();
            let asked = ask(at, &question, Patience::once(WAIT)).await;
            let meaning = Meaning::of(&cut.zone, name, &asked);
            if let (true, Ok(message)) = (meaning.good(), asked.answer) {
                return Some((meaning, message));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
