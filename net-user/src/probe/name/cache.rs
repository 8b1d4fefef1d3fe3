//! Whether the name server had the answer in its cache.
//!
//! Two ways to know it. A question without RD, put at the same moment as the real one, is answered from the cache or not
//! at all: a resolver does not begin to look for it (RFC 1035, section 4.1.1). Many resolvers refuse such questions
//! (unbound without `allow_snoop`), for who asks them learns what others looked up. Then the TTL tells: the zone's own
//! server says the whole, a cache what is left of it.

use std::{net::SocketAddr, time::Duration};

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::time::timeout;

use super::{
    answer::shown,
    facts::{CacheFacts, CacheState, place},
    lookup::addresses,
    query::{Asked, Patience, Question, ask},
};

/// How long each question waits.
const WAIT: Duration = Duration::from_secs(1);

/// How many name servers of the zone are asked, one after the other, until one answers.
const OWNERS: usize = 3;

/// Asks what the server knows already. To be put together with the real question, not after it.
pub async fn snoop(server: SocketAddr, name: &Name, kind: RecordType) -> Asked {
    let question = Question {
        recursion: false,
        ..Question::new(name.clone(), kind)
    };
    ask(server, &question, Patience::once(WAIT)).await
}

/// Where an answer with addresses had been.
pub async fn state(found: &Asked, snooped: &Asked) -> CacheFacts {
    let facts = |state, how: &str| CacheFacts {
        state,
        how: how.to_owned(),
        age_s: None,
    };
    let Ok(answer) = &found.answer else {
        return facts(CacheState::Unknown, "no answer");
    };
    if answer.metadata.authoritative {
        return facts(CacheState::Authoritative, "the answer has AA set");
    }
    let same = snooped.server == found.server && snooped.question.name == found.question.name;
    if same && snooped.code() == Some(ResponseCode::NoError) {
        return match addresses(snooped).is_empty() {
            false => facts(
                CacheState::Cached,
                "a question without RD was answered at the same moment",
            ),
            true => facts(
                CacheState::Fetched,
                "a question without RD had no answer at the same moment",
            ),
        };
    }
    match timeout(WAIT * 4, whole_ttl(found, answer)).await {
        Ok(Some((owner, whole, left))) => by_ttl(owner, whole, left),
        _ => facts(
            CacheState::Unknown,
            "questions without RD are not answered, and no name server of the zone told the whole TTL",
        ),
    }
}

fn by_ttl(owner: SocketAddr, whole: u32, left: u32) -> CacheFacts {
    let owner = place(&owner);
    let (state, age_s) = match whole.checked_sub(left) {
        Some(0) => (CacheState::Fetched, None),
        Some(age) => (CacheState::Cached, Some(age)),
        // The resolver lengthens TTLs (unbound: cache-min-ttl).
        None => (CacheState::Unknown, None),
    };
    CacheFacts {
        state,
        how: format!("{left} s of the TTL are left; {owner}, which owns the zone, says {whole} s"),
        age_s,
    }
}

/// The TTL as a server of the zone gives it, and what was left of it.
async fn whole_ttl(found: &Asked, answer: &Message) -> Option<(SocketAddr, u32, u32)> {
    let kind = found.question.kind;
    let record = answer.answers.iter().find(|r| r.record_type() == kind)?;
    let resolver = found.server;
    let asked = |name: &Name, kind| {
        let question = Question::new(name.clone(), kind);
        async move { ask(resolver, &question, Patience::once(WAIT)).await }
    };
    let soa = asked(&record.name, RecordType::SOA).await.answer.ok()?;
    let sections = soa.answers.iter().chain(&soa.authorities);
    let zone = sections
        .filter(|r| r.record_type() == RecordType::SOA && r.name.zone_of(&record.name))
        .map(|r| r.name.clone())
        .next()?;
    let servers = asked(&zone, RecordType::NS).await.answer.ok()?;
    let names = servers.answers.iter().filter_map(|r| match &r.data {
        RData::NS(name) => Some(name.0.clone()),
        _ => None,
    });
    for name in names.take(OWNERS) {
        let Some(address) = addresses(&asked(&name, RecordType::A).await)
            .first()
            .copied()
        else {
            continue;
        };
        let owner = SocketAddr::new(address, 53);
        let question = Question::iterative(record.name.clone(), kind);
        let Ok(told) = ask(owner, &question, Patience::once(WAIT)).await.answer else {
            tracing::debug!(server = %shown(&name), "no answer about the whole TTL");
            continue;
        };
        let whole = told.answers.iter().find(|r| {
            told.metadata.authoritative && r.record_type() == kind && r.name == record.name
        });
        if let Some(whole) = whole {
            return Some((owner, whole.ttl, record.ttl));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_tells_the_age() {
        let owner = "192.0.2.1:53".parse().unwrap();
        assert_eq!(by_ttl(owner, 300, 300).state, CacheState::Fetched);
        assert_eq!(by_ttl(owner, 300, 280).age_s, Some(20));
        assert_eq!(by_ttl(owner, 60, 300).state, CacheState::Unknown);
    }
}
