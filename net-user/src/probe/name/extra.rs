//! What is asked beside the look-up, while no user waits: HTTPS records and the name servers that were not needed.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use futures::future::join_all;
use hickory_resolver::proto::rr::{
    Name, RData, RecordType,
    rdata::svcb::{SVCB, SvcParamValue},
};
use url::Url;

use super::{
    answer::{QueryFacts, short, shown},
    facts::{HttpsFacts, ServiceFacts, place},
    lookup::Looked,
    query::{Asked, Patience, Question, Silence, ask},
};
use crate::probe::{Finding, Outcome};

/// How long a server is waited for.
const WAIT: Duration = Duration::from_secs(2);

/// Asks each server of the list that the look-up did not come to.
pub async fn spare(servers: &[SocketAddr], looked: &Looked, kind: RecordType) -> Vec<Asked> {
    let known: BTreeSet<SocketAddr> = looked.asked.iter().map(|asked| asked.server).collect();
    let question = Question::new(looked.name.clone(), kind);
    let others: BTreeSet<_> = servers.iter().filter(|s| !known.contains(s)).collect();
    let asking = others
        .into_iter()
        .map(|server| ask(*server, &question, Patience::once(WAIT)));
    join_all(asking).await
}

/// Asks for the HTTPS records of a URL's host (RFC 9460, section 9: another port has a name of its own).
pub async fn https(
    server: SocketAddr,
    name: &Name,
    url: &Url,
    port: u16,
) -> (HttpsFacts, Option<Finding>) {
    let default = matches!((url.scheme(), port), ("https", 443) | ("http", 80));
    let owner = match default {
        true => name.clone(),
        false => prefixed(name, port).unwrap_or_else(|| name.clone()),
    };
    let question = Question::new(owner, RecordType::HTTPS);
    // One datagram may be lost.
    let patience = Patience {
        tries: 2,
        ..Patience::once(WAIT)
    };
    let asked = ask(server, &question, patience).await;
    let facts = HttpsFacts {
        query: QueryFacts::from(&asked),
        services: services(&asked),
    };
    let finding = matches!(asked.answer, Err(Silence::Timeout)).then(|| {
        let what = format!(
            "{} answers about addresses of {}, but not at all about its HTTPS records; browsers ask for them and wait",
            place(&server),
            shown(name)
        );
        Finding::new("name_https_unanswered", Outcome::Slow, what).next(
            "look at the resolver and the filters before it: questions of type 65 (HTTPS) must be answered, if only with \"none\"",
        )
    });
    (facts, finding)
}

fn prefixed(name: &Name, port: u16) -> Option<Name> {
    let name = name.prepend_label("_https").ok()?;
    name.prepend_label(format!("_{port}")).ok()
}

fn services(asked: &Asked) -> Vec<ServiceFacts> {
    let Ok(message) = &asked.answer else {
        return Vec::new();
    };
    let records = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::HTTPS(https) => Some(service(&https.0, record.ttl)),
            _ => None,
        });
    let mut services: Vec<_> = records.take(16).collect();
    services.sort_by_key(|service| service.priority);
    services
}

fn service(svcb: &SVCB, ttl_s: u32) -> ServiceFacts {
    let mut service = ServiceFacts {
        priority: svcb.svc_priority,
        target: shown(&svcb.target_name),
        ttl_s,
        alpn: Vec::new(),
        port: None,
        hints: Vec::new(),
        ech: false,
    };
    for (_, value) in svcb.svc_params.iter().take(16) {
        match value {
            SvcParamValue::Alpn(alpn) => {
                service.alpn = alpn.0.iter().take(16).map(|id| short(id)).collect();
            }
            SvcParamValue::Port(port) => service.port = Some(*port),
            SvcParamValue::Ipv4Hint(hint) => {
                service
                    .hints
                    .extend(hint.0.iter().take(16).map(|a| std::net::IpAddr::from(a.0)));
            }
            SvcParamValue::Ipv6Hint(hint) => {
                service
                    .hints
                    .extend(hint.0.iter().take(16).map(|a| std::net::IpAddr::from(a.0)));
            }
            SvcParamValue::EchConfigList(_) => service.ech = true,
            _ => {}
        }
    }
    service
}
