//! Whether the answer is signed and the signatures hold: looked at here, over the same resolver with checking disabled
//! (CD), so that it hands out what it would hide. hickory follows the chain from the trust anchor.

use std::{
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use hickory_resolver::{
    net::{DnsError, DnsHandle, NetError, dnssec::DnssecDnsHandle, runtime::TokioRuntimeProvider},
    proto::{
        dnssec::{Proof, TrustAnchors},
        op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, Query, ResponseCode},
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
struct Unchecked {
    server: SocketAddr,
    /// What the name server withheld first: hickory calls bogus what it could not complete, too.
    withheld: Arc<OnceLock<String>>,
}

impl Unchecked {
    /// Notes what leaves the chain without proof, though no signature in it is wrong.
    fn note(&self, question: &Question, answer: &Result<Message, Silence>) {
        let of = format!("{} of {}", question.kind, shown(&question.name));
        let why = match answer {
            Err(silence) => format!("asked for {of}, it {}", silence.told()),
            Ok(message) => match message.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain if is_signed(message) => return,
                ResponseCode::NoError | ResponseCode::NXDomain => {
                    format!("it answers {of} without signatures")
                }
                code => format!("asked for {of}, it answers {}", super::answer::word(code)),
            },
        };
        self.withheld.get_or_init(|| why);
    }
}

/// Whether any signature came with it.
fn is_signed(message: &Message) -> bool {
    let mut records = message.answers.iter().chain(&message.authorities);
    records.any(|record| record.record_type() == RecordType::RRSIG)
}

impl DnsHandle for Unchecked {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        let this = self.clone();
        Box::pin(stream::once(async move {
            let Some(query) = request.queries.first() else {
                return Err(NetError::from("no question"));
            };
            let question = Question {
                unchecked: true,
                dnssec: true,
                ..Question::new(query.name().clone(), query.query_type())
            };
            let patience = Patience {
                tries: 2,
                ..Patience::once(WAIT)
            };
            let asked = ask(this.server, &question, patience).await;
            this.note(&question, &asked.answer);
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
        (status @ DnssecStatus::Secure, true) => {
            how.push_str("; the resolver says so, too (AD)");
            status
        }
        (status, _) => status,
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
    let withheld = Arc::new(OnceLock::new());
    let unchecked = Unchecked {
        server: found.server,
        withheld: Arc::clone(&withheld),
    };
    let handle = DnssecDnsHandle::with_trust_anchor(unchecked, Arc::new(anchors));
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
        Proof::Bogus => broken(found, withheld.get()),
        Proof::Indeterminate => unknown("records of the chain are missing".into()),
    }
}

/// What a chain that breaks means. Names of home networks and split horizons are answered by the resolver itself, under
/// a root that is signed: nobody is deceived there, and nobody gets SERVFAIL.
fn broken(found: &Asked, withheld: Option<&String>) -> (DnssecStatus, String) {
    let server = place(&found.server);
    let own = found.answer.as_ref();
    if own.is_ok_and(|message| message.metadata.authoritative) {
        let how = format!(
            "{server} answers it locally, as the owner of the name (AA): a local name or split horizon, outside the chain from the root's keys"
        );
        return (DnssecStatus::Unknown, how);
    }
    match withheld {
        Some(why) => (
            DnssecStatus::Unknown,
            format!(
                "{server} leaves the chain from the root's keys incomplete: {why}; the name is answered locally, or signatures are cut out"
            ),
        ),
        None => (
            DnssecStatus::Bogus,
            "the chain from the root's keys breaks".into(),
        ),
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

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::{op::OpCode, rr::Record};

    use super::*;

    fn name() -> Name {
        Name::from_ascii("nas.shop.test.").unwrap()
    }

    fn found(authoritative: bool) -> Asked {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.authoritative = authoritative;
        Asked {
            server: ([192, 0, 2, 53], 53).into(),
            question: Question::new(name(), RecordType::A),
            took: Duration::ZERO,
            tries: Vec::new(),
            truncated: false,
            without_edns: false,
            octets: 0,
            answer: Ok(message),
        }
    }

    #[test]
    fn a_chain_is_bogus_only_when_the_signatures_are_there() {
        assert_eq!(broken(&found(false), None).0, DnssecStatus::Bogus);
        let (status, how) = broken(&found(true), None);
        assert_eq!(status, DnssecStatus::Unknown, "{how}");
        assert!(how.contains("locally"), "{how}");
        let question = Question::new(name(), RecordType::DS);
        let mut failed = Message::response(1, OpCode::Query);
        failed.metadata.response_code = ResponseCode::NotImp;
        let bare = Message::response(1, OpCode::Query);
        for (answer, why) in [
            (Err(Silence::Timeout), "does not answer"),
            (Ok(failed), "NOTIMP"),
            (Ok(bare.clone()), "without signatures"),
        ] {
            let unchecked = unchecked();
            unchecked.note(&question, &answer);
            let (status, how) = broken(&found(false), unchecked.withheld.get());
            assert_eq!(status, DnssecStatus::Unknown, "{how}");
            assert!(how.contains(why), "{how}");
        }
        let mut signed = bare;
        signed.add_answer(Record::update0(name(), 60, RecordType::RRSIG));
        let unchecked = unchecked();
        unchecked.note(&question, &Ok(signed));
        assert_eq!(unchecked.withheld.get(), None);
    }

    fn unchecked() -> Unchecked {
        Unchecked {
            server: ([192, 0, 2, 53], 53).into(),
            withheld: Arc::default(),
        }
    }
}
