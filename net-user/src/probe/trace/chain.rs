//! The chain of signatures from the root's key to the name. hickory verifies it; its questions go down the way that the
//! walk has found.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{Stream, StreamExt as _, stream};
use hickory_resolver::{
    net::{DnsError, DnsHandle, NetError, dnssec::DnssecDnsHandle, runtime::TokioRuntimeProvider},
    proto::{
        dnssec::{
            Proof,
            rdata::{DNSSECRData, RRSIG},
        },
        op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, Query},
        rr::{Name, RData, Record, RecordType},
    },
};
use tokio::time::{Instant, timeout_at};

use super::{
    cuts::Cuts,
    facts::{TraceDnssec, ZoneKeys},
    roots::Anchors,
};
use crate::probe::name::{DnssecStatus, answer::shown};

/// How long all of it may take.
const CHAIN: Duration = Duration::from_secs(10);

/// How many keys of a zone are told; two to four are usual.
const KEYS: usize = 32;

/// Questions to the servers of the zones themselves.
#[derive(Clone)]
struct Down {
    cuts: Arc<Cuts>,
    /// The first question without an answer: hickory calls bogus what it could not complete.
    unanswered: Arc<OnceLock<String>>,
}

impl DnsHandle for Down {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let Self { cuts, unanswered } = self.clone();
        Box::pin(stream::once(async move {
            let Some(query) = request.queries.first() else {
                return Err(NetError::from("no question"));
            };
            match cuts.ask(query.name(), query.query_type(), 0).await {
                Some(message) => Ok(DnsResponse::from_message(message)?),
                None => {
                    unanswered.get_or_init(|| {
                        format!("{} of {}", query.query_type(), shown(query.name()))
                    });
                    Err(NetError::Timeout)
                }
            }
        }))
    }
}

/// Follows the chain through `zones` to each of `names` (a name and its aliases).
pub(super) async fn follow(
    cuts: &Arc<Cuts>,
    anchors: &Anchors,
    zones: &[Name],
    names: &[Name],
    kind: RecordType,
) -> TraceDnssec {
    let deadline = Instant::now() + CHAIN;
    let mut keys = anchors.keys.clone();
    let root = Name::root();
    let asked = timeout_at(deadline, cuts.ask(&root, RecordType::DNSKEY, 0)).await;
    if let Ok(Some(message)) = asked {
        for record in &message.answers {
            let RData::DNSSEC(DNSSECRData::DNSKEY(key)) = &record.data else {
                continue;
            };
            let vouched = |ds: &&_| {
                let ds: &hickory_resolver::proto::dnssec::rdata::DS = ds;
                ds.covers(&record.name, key).unwrap_or(false)
            };
            if anchors.digests.iter().any(|ds| vouched(&ds)) {
                keys.insert(key.public_key());
            }
        }
    }
    let unanswered = Arc::new(OnceLock::new());
    let down = Down {
        cuts: Arc::clone(cuts),
        unanswered: Arc::clone(&unanswered),
    };
    let handle = DnssecDnsHandle::with_trust_anchor(down, Arc::new(keys));
    let mut facts = TraceDnssec {
        status: DnssecStatus::Secure,
        why: None,
        zones: Vec::new(),
    };
    for zone in zones {
        facts
            .zones
            .push(zone_keys(&handle, cuts, zone, deadline).await);
    }
    for name in names {
        let (status, proven) = proof(&handle, name, kind, deadline).await;
        if rank(status) > rank(facts.status) {
            facts.status = status;
            facts.why = match status {
                DnssecStatus::Bogus => Some(why_bogus(&facts.zones, name, proven.as_ref())),
                DnssecStatus::Insecure => why_insecure(&facts.zones),
                DnssecStatus::Unknown => Some(match unanswered.get() {
                    Some(question) => format!("no server answered {question}"),
                    None => "the chain was not complete in time".into(),
                }),
                DnssecStatus::Secure => None,
            };
        }
    }
    facts
}

const fn rank(status: DnssecStatus) -> u8 {
    match status {
        DnssecStatus::Secure => 0,
        DnssecStatus::Unknown => 1,
        DnssecStatus::Insecure => 2,
        DnssecStatus::Bogus => 3,
    }
}

/// What an answer is worth, and the answer.
async fn proof(
    handle: &DnssecDnsHandle<Down>,
    name: &Name,
    kind: RecordType,
    deadline: Instant,
) -> (DnssecStatus, Option<Message>) {
    let (status, answer) = verified(handle, name, kind, deadline).await;
    match status {
        DnssecStatus::Bogus if handle.inner().unanswered.get().is_some() => {
            (DnssecStatus::Unknown, answer)
        }
        status => (status, answer),
    }
}

/// What hickory makes of an answer, and the answer.
async fn verified(
    handle: &DnssecDnsHandle<Down>,
    name: &Name,
    kind: RecordType,
    deadline: Instant,
) -> (DnssecStatus, Option<Message>) {
    let query = Query::query(name.clone(), kind);
    let mut answers = handle.lookup(query, DnsRequestOptions::default());
    match timeout_at(deadline, answers.next()).await {
        Ok(Some(Ok(response))) => {
            // With no record asked for, what was proven is that there is none: hickory has judged that.
            let of_it =
                |r: &&Record| r.record_type() == kind || r.record_type() == RecordType::CNAME;
            let answered = response.answers.iter().filter(of_it);
            let answered: Vec<_> = answered.map(|r| status_of(r.proof)).collect();
            let denied = response.authorities.iter().map(|r| status_of(r.proof));
            let secure = |status| status == DnssecStatus::Secure;
            let worst = if !answered.is_empty() {
                answered.into_iter().max_by_key(|status| rank(*status))
            } else if denied.clone().any(secure) {
                Some(DnssecStatus::Secure)
            } else {
                denied.max_by_key(|status| rank(*status))
            };
            (
                worst.unwrap_or(DnssecStatus::Unknown),
                Some((*response).clone()),
            )
        }
        Ok(Some(Err(NetError::Dns(DnsError::Nsec {
            response, proof, ..
        })))) => (status_of(proof), Some((**response).clone())),
        _ => (DnssecStatus::Unknown, None),
    }
}

const fn status_of(proof: Proof) -> DnssecStatus {
    match proof {
        Proof::Secure => DnssecStatus::Secure,
        Proof::Insecure => DnssecStatus::Insecure,
        Proof::Bogus => DnssecStatus::Bogus,
        _ => DnssecStatus::Unknown,
    }
}

async fn zone_keys(
    handle: &DnssecDnsHandle<Down>,
    cuts: &Cuts,
    zone: &Name,
    deadline: Instant,
) -> ZoneKeys {
    let mut vouched = Vec::new();
    if !zone.is_root()
        && let Ok(Some(message)) = timeout_at(deadline, cuts.ask(zone, RecordType::DS, 0)).await
    {
        let tags = message
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::DNSSEC(DNSSECRData::DS(ds)) => Some(ds.key_tag()),
                _ => None,
            });
        vouched.extend(tags.take(KEYS));
    }
    let (mut status, answer) = proof(handle, zone, RecordType::DNSKEY, deadline).await;
    let records = answer.as_ref().map_or(&[][..], |message| &message.answers);
    let mut keys: Vec<u16> = records
        .iter()
        .filter_map(|record| match &record.data {
            RData::DNSSEC(DNSSECRData::DNSKEY(key)) => key.calculate_key_tag().ok(),
            _ => None,
        })
        .take(KEYS)
        .collect();
    vouched.sort_unstable();
    keys.sort_unstable();
    let mut why = None;
    if !vouched.is_empty() && keys.is_empty() && answer.is_some() {
        status = DnssecStatus::Bogus;
        why = Some("the parent vouches for keys (DS), but the zone has none (DNSKEY)".into());
    } else if status == DnssecStatus::Bogus {
        why = Some(
            if vouched.iter().any(|tag| keys.contains(tag)) || zone.is_root() && vouched.is_empty()
            {
                match unfit(records) {
                    Some(why) => why,
                    None if zone.is_root() => "the root's keys are not the trusted ones".into(),
                    None => "its keys are not signed by the key that the parent vouches for".into(),
                }
            } else if vouched.is_empty() {
                "the parent neither vouches for its keys nor proves that it does not".into()
            } else {
                "the parent vouches for another key (DS) than the zone has (DNSKEY)".into()
            },
        );
    }
    ZoneKeys {
        zone: shown(zone),
        vouched,
        keys,
        status,
        why,
    }
}

fn why_insecure(zones: &[ZoneKeys]) -> Option<String> {
    let first = zones.iter().find(|z| z.status == DnssecStatus::Insecure)?;
    Some(format!(
        "{} is not signed, and its parent says so",
        first.zone
    ))
}

fn why_bogus(zones: &[ZoneKeys], name: &Name, answer: Option<&Message>) -> String {
    if let Some(zone) = zones.iter().find(|z| z.status == DnssecStatus::Bogus) {
        let why = zone.why.as_deref().unwrap_or("its keys do not verify");
        return format!("{}: {why}", zone.zone);
    }
    let records = answer.map_or(&[][..], |message| &message.answers);
    let name = shown(name);
    match unfit(records) {
        Some(why) => format!("{name}: {why}"),
        None if signatures(records).next().is_none() => {
            format!("{name}: not signed or its absence not proven, though the zone is signed")
        }
        None => format!(
            "{name}: the signature does not fit the records, which were changed after signing"
        ),
    }
}

fn signatures(records: &[Record]) -> impl Iterator<Item = &RRSIG> {
    records.iter().filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature),
        _ => None,
    })
}

/// Signatures outside their time, as the cause most often found.
fn unfit(records: &[Record]) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let date =
        |seconds: u32| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.into()));
    for signature in signatures(records) {
        let (from, until) = (
            signature.input().sig_inception.get(),
            signature.input().sig_expiration.get(),
        );
        if u64::from(until) < now {
            return Some(format!("the signature was valid until {}", date(until)));
        }
        if u64::from(from) > now {
            return Some(format!(
                "the signature is valid from {} only; is the clock of this machine right?",
                date(from)
            ));
        }
    }
    None
}
