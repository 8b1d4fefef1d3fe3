//! The look-up as the C library does it for a browser: search list, server after server, A and AAAA at once.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::future::join_all;
use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::time::Instant;

use super::{
    config::Config,
    query::{Asked, Patience, Question, Silence, ask},
};

/// How many steps of an alias chain are followed.
const ALIASES: usize = 16;

/// All that was asked for a name, and for the names of the search list.
#[derive(Debug, Default)]
pub struct Looked {
    /// In the order in which it was asked.
    pub asked: Vec<Asked>,
    /// The name that had addresses, or else the one that was asked for.
    pub name: Name,
    /// Which names were tried.
    pub tried: Vec<Name>,
    /// The addresses, IPv6 first.
    pub addresses: Vec<IpAddr>,
    /// The time ran out before each server was asked.
    pub cut: bool,
}

/// What an answer means to the C library's stub resolver (resolv/res_send.c and resolv/nss_dns of glibc 2.41).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Addresses.
    Addresses,
    /// The name exists, without a record of the kind.
    NoData,
    /// The name does not exist.
    NotFound,
    /// This server could not help: the next is asked.
    Useless,
}

/// Which kinds of records are asked for.
pub fn kinds(family: Option<crate::probe::Family>, no_aaaa: bool) -> Vec<RecordType> {
    use crate::probe::Family;
    match family {
        Some(Family::V4) => vec![RecordType::A],
        Some(Family::V6) => vec![RecordType::AAAA],
        None if no_aaaa => vec![RecordType::A],
        None => vec![RecordType::AAAA, RecordType::A],
    }
}

/// The names to try, in their order (resolver(5): `search` and `ndots`).
pub fn candidates(name: &Name, search: &[Name], ndots: u32) -> Vec<Name> {
    let mut whole = name.clone();
    whole.set_fqdn(true);
    if name.is_fqdn() {
        return vec![whole];
    }
    let appended = search
        .iter()
        .filter_map(|domain| name.clone().append_domain(domain).ok());
    let mut names: Vec<Name> = appended.collect();
    let dots = u32::from(name.num_labels()).saturating_sub(1);
    let at = if dots >= ndots { 0 } else { names.len() };
    names.insert(at, whole);
    names
}

/// Looks up.
pub async fn look_up(
    config: &Config,
    name: &Name,
    kinds: &[RecordType],
    deadline: Instant,
) -> Looked {
    let mut looked = Looked::default();
    looked.name.clone_from(name);
    looked.name.set_fqdn(true);
    for candidate in candidates(name, &config.search, config.facts.ndots) {
        looked.tried.push(candidate.clone());
        let reached = looked.candidate(config, &candidate, kinds, deadline).await;
        if !looked.addresses.is_empty() {
            looked.name = candidate;
            break;
        }
        // No server answered: it makes no sense to ask them for more (res_search() stops so, too).
        if !reached {
            break;
        }
    }
    looked
}

impl Looked {
    /// Asks the servers for one name. Whether any answered.
    async fn candidate(
        &mut self,
        config: &Config,
        name: &Name,
        kinds: &[RecordType],
        deadline: Instant,
    ) -> bool {
        let mut pending = kinds.to_vec();
        let mut reached = false;
        for server in servers(config) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.cut = true;
                break;
            }
            let patience = Patience {
                tcp_only: config.facts.has("use-vc"),
                ..Patience::once(left.min(config.facts.timeout()))
            };
            let asked = ask_all(server, name, &pending, patience).await;
            reached |= asked.iter().any(|asked| asked.answer.is_ok());
            for asked in asked {
                if meaning(&asked) != Meaning::Useless {
                    pending.retain(|kind| *kind != asked.question.kind);
                }
                self.addresses.extend(addresses(&asked));
                self.asked.push(asked);
            }
            if pending.is_empty() {
                break;
            }
        }
        self.addresses.sort_by_key(IpAddr::is_ipv4);
        reached
    }

    /// The last question for each kind of record of a name: the one that counts.
    pub fn last_of<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a Asked> {
        let of = move |asked: &&Asked| asked.question.name == *name;
        let last = [RecordType::AAAA, RecordType::A].into_iter();
        last.filter_map(move |kind| {
            let mut asked = self.asked.iter().rev().filter(of);
            asked.find(|asked| asked.question.kind == kind)
        })
    }

    /// The question whose answer brought addresses.
    pub fn found(&self) -> Option<&Asked> {
        let mut with = self
            .asked
            .iter()
            .filter(|asked| !addresses(asked).is_empty());
        with.next_back()
    }
}

/// The list, as often as `attempts` says.
fn servers(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let facts = &config.facts;
    let rounds = std::iter::repeat_n(&facts.servers, facts.attempts as usize);
    rounds.flatten().copied()
}

/// Several kinds at once, as a browser wants them.
pub async fn ask_all(
    server: SocketAddr,
    name: &Name,
    kinds: &[RecordType],
    patience: Patience,
) -> Vec<Asked> {
    let questions: Vec<Question> = kinds
        .iter()
        .map(|kind| Question::new(name.clone(), *kind))
        .collect();
    join_all(questions.iter().map(|q| ask(server, q, patience))).await
}

/// What an answer means.
pub fn meaning(asked: &Asked) -> Meaning {
    let Ok(message) = &asked.answer else {
        return Meaning::Useless;
    };
    match message.metadata.response_code {
        ResponseCode::NXDomain => Meaning::NotFound,
        ResponseCode::NoError if !addresses(asked).is_empty() => Meaning::Addresses,
        ResponseCode::NoError if is_lame(message, &asked.question.name) => Meaning::Useless,
        ResponseCode::NoError => Meaning::NoData,
        _ => Meaning::Useless,
    }
}

/// Neither addresses nor the word of one who would know that there are none: a referral, or the begin of a chain of
/// aliases, by a server that does not look up for others.
pub fn is_lame(message: &Message, name: &Name) -> bool {
    let head = &message.metadata;
    if head.recursion_available {
        return false;
    }
    match message.answers.is_empty() {
        true => !head.authoritative,
        // RFC 2308, section 2.2: that there is none is told with the SOA record of the zone where it is missing.
        false => {
            let soa = message.authorities.iter();
            let mut soa = soa.filter(|r| r.record_type() == RecordType::SOA);
            !chain(message, name).is_empty() && soa.next().is_none()
        }
    }
}

/// The addresses of an answer, each at the end of its chain of aliases only.
pub fn addresses(asked: &Asked) -> Vec<IpAddr> {
    let Ok(message) = &asked.answer else {
        return Vec::new();
    };
    let end = chain(message, &asked.question.name).pop();
    let owner = end.map_or_else(|| asked.question.name.clone(), |(name, _)| name);
    let mut found = Vec::new();
    for record in &message.answers {
        if record.name == owner
            && record.record_type() == asked.question.kind
            && let Some(address) = record.data.ip_addr()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The aliases from `name` on: each target with the TTL of its record, in seconds. Bounded, for loops.
pub fn chain(message: &Message, name: &Name) -> Vec<(Name, u32)> {
    let mut steps: Vec<(Name, u32)> = Vec::new();
    let mut at = name.clone();
    while steps.len() < ALIASES {
        let step = message
            .answers
            .iter()
            .find_map(|record| match &record.data {
                RData::CNAME(to) if record.name == at => Some((to.0.clone(), record.ttl)),
                _ => None,
            });
        let Some(step) = step else { break };
        at.clone_from(&step.0);
        let again = steps.iter().any(|(name, _)| *name == at) || at == *name;
        steps.push(step);
        if again {
            break;
        }
    }
    steps
}

/// Whether a server was waited for in vain.
pub fn timed_out(asked: &Asked) -> bool {
    matches!(asked.answer, Err(Silence::Timeout)) && asked.took > Duration::ZERO
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn shown(names: &[Name]) -> Vec<String> {
        names.iter().map(Name::to_ascii).collect()
    }

    #[test]
    fn the_search_list_comes_first_for_short_names_and_last_for_others() {
        let search = [name("a.test"), name("b.test")];
        assert_eq!(
            shown(&candidates(&name("shop"), &search, 1)),
            ["shop.a.test.", "shop.b.test.", "shop."]
        );
        assert_eq!(
            shown(&candidates(&name("www.shop"), &search, 1)),
            ["www.shop.", "www.shop.a.test.", "www.shop.b.test."]
        );
        assert_eq!(
            shown(&candidates(&name("www.shop"), &search, 5)),
            ["www.shop.a.test.", "www.shop.b.test.", "www.shop."]
        );
        assert_eq!(shown(&candidates(&name("shop."), &search, 1)), ["shop."]);
    }

    #[test]
    fn a_loop_of_aliases_ends() {
        use hickory_resolver::proto::rr::{Record, rdata::CNAME};
        let alias = |from: &str, to: &str| {
            Record::from_rdata(name(from), 60, RData::CNAME(CNAME(name(to))))
        };
        let mut message = Message::query();
        message.add_answer(alias("a.test.", "b.test."));
        message.add_answer(alias("b.test.", "a.test."));
        let steps = chain(&message, &name("a.test."));
        assert_eq!(steps.len(), 2);
        let mut long = Message::query();
        for step in 0..40 {
            long.add_answer(alias(
                &format!("n{step}.test."),
                &format!("n{}.test.", step + 1),
            ));
        }
        assert_eq!(chain(&long, &name("n0.test.")).len(), ALIASES);
    }
}
