//! TLS: the handshake, who the server proved to be, what it offers for the next time.

mod chain;
mod client;
mod facts;
mod failure;
mod observe;
mod roots;
mod staple;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, HandshakeKind, ProtocolVersion};
use tokio::{io::AsyncWriteExt as _, time::timeout};
use url::Url;

use super::{
    Facts, Finding, HttpVersion, Layer, Outcome, Stage, Walk,
    http::Stream,
    meter::{Meter, Metered},
    tcp::Connection,
};
use client::Client;

pub use chain::CertificateFacts;
pub use facts::{ResumptionFacts, TlsFacts};
pub use roots::read as read_roots;
pub use staple::{StapleFacts, Status};

/// The longest wait for what a server sends after the handshake.
const AFTER: Duration = Duration::from_secs(1);

/// Secures a connection to the host of `url`. The second part is none when nobody may talk over it.
pub async fn handshake(
    walk: &Walk<'_>,
    url: &Url,
    connection: Connection,
) -> (Stage, Option<Stream>) {
    (walk.progress)("TLS handshake");
    let mut findings = Vec::new();
    let mut facts = TlsFacts::default();
    // Reading the roots is no part of what a user waits for: a browser has them.
    let client = Client::new(walk, url, &mut facts, &mut findings).await;
    let start = walk.now_us();
    let Some(client) = client else {
        let stage = stage((start, 0), "no handshake", findings, facts);
        return (stage, None);
    };
    let remote = connection.socket.remote;
    let began = Instant::now();
    let meter = Arc::new(Meter::default());
    let metered = Metered::new(connection.stream, Arc::clone(&meter));
    let connect = client.connector.connect(client.name.clone(), metered);
    let connected = timeout(walk.plan.timeout, connect).await;
    let times = walk.since(start);
    let answered = meter.marks().first_in;
    facts.first_answer_us = answered.map(|at| micros(at.saturating_duration_since(began)));
    client.tell_chain(walk, &mut facts, &mut findings);
    let failed = match &connected {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(failure::finding(
            error,
            &client.circumstances(&facts, &meter),
        )),
        Err(_) => Some(failure::timeout(
            walk.plan.timeout,
            &client.circumstances(&facts, &meter),
        )),
    };
    let (None, Ok(Ok(mut secured))) = (failed.as_ref(), connected) else {
        // What ended the handshake comes before what is wrong besides.
        findings.splice(0..0, failed);
        return (stage(times, "no handshake", findings, facts), None);
    };
    tell_agreed(secured.get_ref().1, &mut facts);
    let http2 = facts.alpn.as_deref() == Some("h2");
    if walk.plan.http == HttpVersion::Http2 && !http2 {
        findings.push(failure::alpn_refused(&facts.alpn_offered));
    }
    if Duration::from_micros(times.1) > walk.plan.slow.tls {
        findings.push(slow(walk, times.1, &facts));
    }
    let is_refused = |findings: &[Finding]| findings.iter().any(|f| f.outcome == Outcome::Failed);
    if is_refused(&findings) {
        // As in order: the server has done nothing wrong in the handshake.
        let _ = timeout(AFTER, secured.shutdown()).await;
    } else {
        client.observer.obey();
        let patience = Duration::from_micros(times.1.saturating_mul(3)) + Duration::from_millis(50);
        let late = client
            .await_rest(walk, &mut secured, patience.min(AFTER))
            .await;
        findings.extend(
            late.map(|error| failure::finding(&error, &client.circumstances(&facts, &meter))),
        );
    }
    if is_refused(&findings) {
        return (stage(times, "refused", findings, facts), None);
    }
    if walk.plan.checks {
        (walk.progress)("TLS resumption");
        let (resumption, finding) = client.resume(walk, remote).await;
        facts.resumption = Some(resumption);
        findings.extend(finding);
    }
    let summary = format!(
        "{}, {}",
        facts.version.as_deref().unwrap_or("TLS"),
        facts.cipher.as_deref().unwrap_or("unknown cipher")
    );
    let stream = Stream {
        io: Box::new(secured),
        http2,
        again: client.again(remote, walk.plan.timeout),
    };
    (stage(times, &summary, findings, facts), Some(stream))
}

fn stage(times: (u64, u64), summary: &str, findings: Vec<Finding>, facts: TlsFacts) -> Stage {
    let facts = Facts::Tls(Box::new(facts));
    Stage::new(Layer::Tls, times, summary, findings, facts)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn slow(walk: &Walk<'_>, us: u64, facts: &TlsFacts) -> Finding {
    let what = format!(
        "the handshake took {} ms, more than {} ms; the server's first answer came after {} ms",
        us / 1000,
        walk.plan.slow.tls.as_millis(),
        facts.first_answer_us.unwrap_or(us) / 1000
    );
    Finding::new("tls_slow", Outcome::Slow, what).next(
        "compare with the round trip time of TCP: a multiple of it is the way, the rest the server's load (keys of RSA 4096 cost most)",
    )
}

/// What both agreed on.
fn tell_agreed(session: &ClientConnection, facts: &mut TlsFacts) {
    facts.version = session.protocol_version().map(|version| match version {
        ProtocolVersion::TLSv1_3 => "TLS 1.3".to_owned(),
        ProtocolVersion::TLSv1_2 => "TLS 1.2".to_owned(),
        other => format!("{other:?}"),
    });
    // rustls tells suites of TLS 1.3 apart by a name of its own.
    let suite = session.negotiated_cipher_suite();
    facts.cipher = suite.map(|suite| format!("{:?}", suite.suite()).replacen("TLS13_", "TLS_", 1));
    let group = session.negotiated_key_exchange_group();
    facts.group = group.map(|group| format!("{:?}", group.name()));
    let alpn = session.alpn_protocol();
    facts.alpn = alpn.map(|name| String::from_utf8_lossy(name).into_owned());
    let kind = session.handshake_kind();
    facts.handshake = kind.map(|kind| {
        match kind {
            HandshakeKind::Full => "full",
            HandshakeKind::FullWithHelloRetryRequest => "full_after_retry",
            HandshakeKind::Resumed => "resumed",
        }
        .to_owned()
    });
    facts.round_trips = round_trips(session);
}

/// Until the client may send (RFC 8446 section 2, RFC 5246 section 7.3).
fn round_trips(session: &ClientConnection) -> Option<u32> {
    let is_13 = session.protocol_version()? == ProtocolVersion::TLSv1_3;
    Some(match session.handshake_kind()? {
        HandshakeKind::FullWithHelloRetryRequest => 2,
        HandshakeKind::Full if !is_13 => 2,
        HandshakeKind::Full | HandshakeKind::Resumed => 1,
    })
}
