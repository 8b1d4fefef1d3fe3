//! Whether the answer is signed and the signatures hold: looked at here, over the same resolver with checking disabled
//! (CD), so that it hands out what it would hide. hickory follows the chain from the trust anchor.

use std::{net::SocketAddr, path::Path, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use hickory_resolver::{
    net::{DnsError, DnsHandle, NetError, dnssec::DnssecDnsHandle, runtime::TokioRuntimeProvider},
    proto::{
        dnssec::{Proof, TrustAnchors},
        op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode},
        rr::{Name, RecordType},
    },
};
use tokio::time::timeout;
use tracing::{instrument::WithSubscriber as _, subscriber::NoSubscriber};

use super::{
    answer::{extended, shown, told},
    facts::{DnssecFacts, DnssecStatus, place},
    lookup::addresses,
    query::{Asked, Patience, Question, Silence, ask},
};
use crate::probe::{Finding, Outcome};

/// How long one question of the chain waits.
const WAIT: Duration = Duration::from_secs(2);

/// How long the whole chain may take.
const CHAIN: Duration = Duration::from_secs(6);

/// Questions to one resolver, with CD.
#[derive(Clone)]
struct Unchecked(SocketAddr);

impl DnsHandle for Unchecked {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let server = self.0;
        Box::pin(stream::once(async move {
            let Some(query) = request.queries.first() else {
                return Err(NetError::from("no question"));
            };
            let question = Question {
                unchecked: true,
                dnssec: true,
                ..Question::new(query.name().clone(), query.query_type())
            };
            let asked = ask(server, &question, Patience::once(WAIT)).await;
            match asked.answer {
                Ok(message) => Ok(DnsResponse::from_message(message)?),
                Err(Silence::Timeout) => Err(NetError::Timeout),
                Err(silence) => Err(NetError::from(silence.told())),
            }
        }))
    }
}

/// What signatures say of an answer with addresses; and a finding when they do not hold though the resolver let it pass.
pub async fn status(found: &Asked, anchor: Option<&Path>) -> (DnssecFacts, Option<Finding>) {
    // hickory logs what it makes of each record; here that is in the report.
    let quiet = validated(found, anchor).with_subscriber(NoSubscriber::default());
    let own = timeout(CHAIN, quiet).await;
    let authenticated = found
        .answer
        .as_ref()
        .is_ok_and(|m| m.metadata.authentic_data);
    let (status, mut how) = own.unwrap_or_else(|_| {
        let seconds = CHAIN.as_secs();
        (
            DnssecStatus::Unknown,
            format!("the chain was not complete after {seconds} s"),
        )
    });
    let status = match (status, authenticated) {
        (DnssecStatus::Unknown, true) => {
            how = format!(
                "{} validated it (AD); not followed here: {how}",
                place(&found.server)
            );
            DnssecStatus::Secure
        }
        (status, true) => {
            how.push_str("; the resolver says so, too (AD)");
            status
        }
        (status, false) => status,
    };
    let finding = (status == DnssecStatus::Bogus).then(|| {
        let name = shown(&found.question.name);
        let what = format!(
            "the signatures of {name} do not hold ({how}), though {} lets it pass: users of resolvers that validate get SERVFAIL",
            place(&found.server)
        );
        bogus(Outcome::Wrong, what)
    });
    (DnssecFacts { status, how }, finding)
}

/// After SERVFAIL: the same question with CD. When that brings an answer, the signatures are what is wrong.
pub async fn after_failure(failed: &Asked) -> Option<(DnssecFacts, Finding)> {
    let question = Question {
        unchecked: true,
        dnssec: true,
        ..failed.question.clone()
    };
    let asked = ask(failed.server, &question, Patience::once(WAIT)).await;
    if addresses(&asked).is_empty() {
        return None;
    }
    let says = failed.answer.as_ref().map(|m| told(&extended(m)));
    let says = says.ok().filter(|says| !says.is_empty());
    let name = shown(&failed.question.name);
    let mut how = format!(
        "{} answers SERVFAIL, and with checking disabled (CD) it has an answer",
        place(&failed.server)
    );
    if let Some(says) = says {
        how.push_str(&format!("; it says: {says}"));
    }
    let finding = bogus(
        Outcome::Failed,
        format!("the signatures of {name} do not hold: {how}"),
    );
    let facts = DnssecFacts {
        status: DnssecStatus::Bogus,
        how,
    };
    Some((facts, finding))
}

fn bogus(outcome: Outcome, what: String) -> Finding {
    Finding::new("name_bogus", outcome, what).next(
        "sign the zone again, or bring its DS record at the parent in line with its keys (--trace-dns shows where the chain breaks); an expired signature means that the signer stands still",
    )
}

async fn validated(found: &Asked, anchor: Option<&Path>) -> (DnssecStatus, String) {
    let unknown = |how: String| (DnssecStatus::Unknown, how);
    let (anchors, whose) = match anchor {
        None => (TrustAnchors::default(), "the IANA's".to_owned()),
        Some(path) => match TrustAnchors::from_file(path) {
            Ok(anchors) if !anchors.is_empty() => (anchors, format!("those of {}", path.display())),
            Ok(_) => return unknown(format!("{} has no DNSKEY record", path.display())),
            Err(error) => return unknown(format!("{}: {error}", path.display())),
        },
    };
    let handle = DnssecDnsHandle::with_trust_anchor(Unchecked(found.server), Arc::new(anchors));
    let root = asked(&handle, Name::root(), RecordType::DNSKEY).await;
    match root {
        Ok(Proof::Secure) => {}
        Ok(_) | Err(Failed::Proof(_)) => {
            return unknown(format!(
                "the root's keys as {} gives them are not {whose}: a root of its own, or signatures are cut out",
                place(&found.server)
            ));
        }
        Err(Failed::Silence(why)) => return unknown(format!("no keys of the root: {why}")),
    }
    let proof = match asked(&handle, found.question.name.clone(), found.question.kind).await {
        Ok(proof) | Err(Failed::Proof(proof)) => proof,
        Err(Failed::Silence(why)) => return unknown(why),
    };
    match proof {
        Proof::Secure => (
            DnssecStatus::Secure,
            format!("the chain of signatures holds from the root's keys, {whose}, on"),
        ),
        Proof::Insecure => (
            DnssecStatus::Insecure,
            "the zone is not signed, which its parent proves".into(),
        ),
        Proof::Bogus => (
            DnssecStatus::Bogus,
            "the chain from the root's keys breaks".into(),
        ),
        Proof::Indeterminate => unknown("records of the chain are missing".into()),
    }
}

enum Failed {
    Proof(Proof),
    Silence(String),
}

/// The worst proof of all records of the answer.
async fn asked(
    handle: &DnssecDnsHandle<Unchecked>,
    name: Name,
    kind: RecordType,
) -> Result<Proof, Failed> {
    let mut options = DnsRequestOptions::default();
    options.use_edns = true;
    options.edns_set_dnssec_ok = true;
    let answer = handle
        .lookup(Query::query(name, kind), options)
        .next()
        .await;
    match answer {
        Some(Ok(message)) if message.metadata.response_code == ResponseCode::NoError => {
            let data = message.answers.iter();
            let data = data.filter(|r| r.record_type() != RecordType::RRSIG);
            data.map(|r| r.proof)
                .min_by_key(|proof| severity(*proof))
                .ok_or_else(|| Failed::Silence("an empty answer".into()))
        }
        Some(Ok(message)) => Err(Failed::Silence(super::answer::word(
            message.metadata.response_code,
        ))),
        Some(Err(NetError::Dns(DnsError::Nsec { proof, .. }))) => Err(Failed::Proof(proof)),
        Some(Err(NetError::Dns(DnsError::DnssecBogus))) => Err(Failed::Proof(Proof::Bogus)),
        Some(Err(error)) => Err(Failed::Silence(super::answer::short(&error.to_string()))),
        None => Err(Failed::Silence("no answer".into())),
    }
}

/// The worse, the lower.
const fn severity(proof: Proof) -> u8 {
    match proof {
        Proof::Bogus => 0,
        Proof::Indeterminate => 1,
        Proof::Insecure => 2,
        Proof::Secure => 3,
    }
}
