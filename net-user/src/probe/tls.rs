//! TLS: the handshake, who the server proved to be, what it offers for the next time.

mod chain;
mod facts;
mod failure;
mod observe;
mod roots;
mod staple;
mod tap;
#[cfg(test)]
mod tests;
mod verdict;

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, client::Resumption,
    crypto::ring, pki_types::ServerName,
};
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::{Host, Url};

use super::{
    Facts, Finding, HttpVersion, Layer, Outcome, Stage, Walk,
    http::{Again, Io, Stream},
    tcp::Connection,
};
use failure::Circumstances;
use observe::{Asked, Observer, Sessions};
use roots::Roots;
use tap::{Tap, View};
use verdict::Held;

pub use chain::CertificateFacts;
pub use facts::{ResumptionFacts, TlsFacts};
pub use roots::read as read_roots;
pub use staple::{StapleFacts, Status};

/// How long a second connection may take; one that a server does not take while the first is open is told sooner so.
const SECOND: Duration = Duration::from_secs(3);
/// The longest wait for what a server sends after the handshake.
const AFTER: Duration = Duration::from_secs(1);

type Secured = TlsStream<Tap<TcpStream>>;

/// All that a handshake with one server needs and shows.
struct Client {
    connector: TlsConnector,
    name: ServerName<'static>,
    observer: Arc<Observer>,
    asked: Arc<Asked>,
    sessions: Arc<Sessions>,
    roots: Option<Roots>,
}

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
    let client = Client::new(walk, url, &mut facts, &mut findings);
    let start = walk.now_us();
    let Some(client) = client else {
        let stage = stage((start, 0), "no handshake", findings, facts);
        return (stage, None);
    };
    let remote = connection.socket.remote;
    let began = Instant::now();
    let (tapped, view) = Tap::new(connection.stream);
    let connect = client.connector.connect(client.name.clone(), tapped);
    let connected = timeout(walk.plan.timeout, connect).await;
    let times = walk.since(start);
    let answered = view.seen().at;
    facts.first_answer_us = answered.map(|at| micros(at.saturating_duration_since(began)));
    client.tell_chain(walk, &mut facts, &mut findings);
    let failed = match &connected {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(failure::finding(
            error,
            &client.circumstances(&facts, &view),
        )),
        Err(_) => Some(failure::timeout(
            walk.plan.timeout,
            &client.circumstances(&facts, &view),
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
            late.map(|error| failure::finding(&error, &client.circumstances(&facts, &view))),
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
    Stage::new(
        Layer::Tls,
        times,
        summary,
        findings,
        Facts::Tls(Box::new(facts)),
    )
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

/// What is offered in ALPN for a version of HTTP.
fn offered(http: HttpVersion) -> Vec<String> {
    let names: &[&str] = match http {
        HttpVersion::Auto => &["h2", "http/1.1"],
        // Servers that know the one know the other, but few know its name.
        HttpVersion::Http10 => &["http/1.0", "http/1.1"],
        HttpVersion::Http11 => &["http/1.1"],
        HttpVersion::Http2 => &["h2"],
    };
    names.iter().map(ToString::to_string).collect()
}

/// Whom to ask for: the host of a URL.
fn server_name(url: &Url) -> Option<ServerName<'static>> {
    match url.host()? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
        Host::Ipv4(address) => Some(ServerName::from(IpAddr::V4(address))),
        Host::Ipv6(address) => Some(ServerName::from(IpAddr::V6(address))),
    }
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

impl Client {
    /// None when there is nobody to ask for or nobody to trust; the finding says so.
    fn new(
        walk: &Walk<'_>,
        url: &Url,
        facts: &mut TlsFacts,
        findings: &mut Vec<Finding>,
    ) -> Option<Self> {
        let plan = walk.plan;
        let Some(name) = server_name(url) else {
            let host = url.host_str().unwrap_or_default();
            let what = format!(
                "{} is no name that a certificate can be for",
                host.escape_debug()
            );
            let finding = Finding::new("tls_name_invalid", Outcome::Failed, what);
            findings.push(finding.next("write the host's name as in DNS, or its address"));
            return None;
        };
        if let ServerName::DnsName(name) = &name {
            facts.sni = Some(name.as_ref().to_owned());
        }
        facts.alpn_offered = offered(plan.http);
        let provider = Arc::new(ring::default_provider());
        let roots = match Roots::load(plan.ca.as_deref(), &provider) {
            Ok(roots) => Some(roots),
            Err(mut finding) => {
                if plan.insecure {
                    finding.outcome = Outcome::Wrong;
                }
                findings.push(finding);
                None
            }
        };
        if roots.is_none() && !plan.insecure {
            return None;
        }
        facts.roots = roots
            .as_ref()
            .map_or("no roots", |roots| &roots.name)
            .to_owned();
        let verifier = roots.as_ref().map(|roots| roots.verifier.clone());
        let observer = Arc::new(Observer::new(verifier, &provider));
        let asked = Arc::<Asked>::default();
        let sessions = Arc::new(Sessions::new());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                findings.push(Finding::new(
                    "tls_failed",
                    Outcome::Failed,
                    error.to_string(),
                ));
            })
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(observer.clone())
            .with_client_cert_resolver(asked.clone());
        config.alpn_protocols = facts
            .alpn_offered
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect();
        config.resumption = Resumption::store(sessions.clone());
        Some(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            observer,
            asked,
            sessions,
            roots,
        })
    }

    fn circumstances<'a>(&self, facts: &'a TlsFacts, view: &View) -> Circumstances<'a> {
        Circumstances {
            seen: view.seen(),
            asked: self.asked.was(),
            sni: facts.sni.as_deref(),
            offered: &facts.alpn_offered,
        }
    }

    /// What the server showed, and what is to be said of it.
    fn tell_chain(&self, walk: &Walk<'_>, facts: &mut TlsFacts, findings: &mut Vec<Finding>) {
        facts.client_certificate_asked = self.asked.was();
        let Some(presented) = self.observer.presented() else {
            return;
        };
        let bad = if walk.plan.insecure {
            Outcome::Wrong
        } else {
            Outcome::Failed
        };
        facts.verified = self.roots.as_ref().map(|_| presented.verdict.is_ok());
        facts.chain = chain::read(&presented.chain);
        let held = Held {
            presented: &presented,
            chain: &facts.chain,
            name: &self.name,
            roots: self.roots.as_ref(),
            bad,
        };
        findings.extend(held.judge());
        if !presented.staple.is_empty() {
            let own = self.roots.as_ref().map_or(&[][..], |roots| &roots.own);
            let staple = staple::read(&presented.staple, &presented.chain, own);
            findings.extend(staple::judge(&staple, bad));
            facts.staple = Some(staple);
        } else if facts.chain.first().is_some_and(|leaf| leaf.must_staple) {
            let what = "the certificate demands a stapled OCSP answer, and the server sends none";
            findings.push(
                Finding::new("staple_missing", Outcome::Wrong, what)
                    .next("switch stapling on (nginx: ssl_stapling); some browsers refuse the certificate without"),
            );
        }
    }

    /// Waits for what comes after a handshake of TLS 1.3: tickets for the next one, or that the server misses a certificate
    /// of ours, which it says only then (RFC 8446 section 4.4.2.4).
    async fn await_rest(
        &self,
        walk: &Walk<'_>,
        secured: &mut Secured,
        patience: Duration,
    ) -> Option<io::Error> {
        let (io, session) = secured.get_mut();
        let is_13 = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        if !is_13 || !(walk.plan.checks || self.asked.was()) {
            return None;
        }
        let take = async {
            let mut octets = [0; 4096];
            while self.sessions.count() == 0 {
                let n = io.read(&mut octets).await?;
                let mut rest = octets.get(..n).unwrap_or_default();
                // An end is not ours to judge: HTTP will meet it, too.
                let ended = n == 0;
                while ended || !rest.is_empty() {
                    session.read_tls(&mut rest)?;
                    let state = session.process_new_packets().map_err(io::Error::other)?;
                    if ended || state.plaintext_bytes_to_read() > 0 && rest.is_empty() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        };
        timeout(patience, take).await.ok()?.err()
    }

    /// Connects once more with what the first handshake left.
    async fn resume(
        &self,
        walk: &Walk<'_>,
        remote: std::net::SocketAddr,
    ) -> (ResumptionFacts, Option<Finding>) {
        let mut facts = ResumptionFacts {
            tickets: self.sessions.count(),
            early_data_octets: self.sessions.early_data(),
            ..ResumptionFacts::default()
        };
        let second = async {
            let connection = Connection::again(remote).await?;
            let began = Instant::now();
            let connect = self.connector.connect(self.name.clone(), connection.stream);
            let mut secured = connect.await?;
            facts.duration_us = Some(micros(began.elapsed()));
            let session = secured.get_ref().1;
            facts.resumed = session
                .handshake_kind()
                .map(|kind| kind == HandshakeKind::Resumed);
            facts.round_trips = round_trips(session);
            // That it is over is said, not heard: the answer does not matter.
            secured.shutdown().await
        };
        let patience = SECOND.min(walk.plan.timeout);
        let problem = match timeout(patience, second).await {
            Ok(ended) => ended.err().map(|error| error.to_string()),
            Err(_) => Some(format!("no end within {} s", patience.as_secs_f64())),
        };
        let finding = match (problem, facts.resumed) {
            (Some(problem), None) => Some(
                Finding::new(
                    "tls_again_failed",
                    Outcome::Wrong,
                    format!("a second connection beside the first could not be secured: {}", problem.escape_debug()),
                )
                .next("look whether the server takes more than one connection of a client, and whether all servers behind the address have the same tickets' key"),
            ),
            (_, Some(false)) => Some(
                Finding::new(
                    "tls_not_resumed",
                    Outcome::Ok,
                    "the second handshake was a full one: each visit costs the server a signature",
                )
                .next("switch on tickets or a session cache (nginx: ssl_session_tickets, ssl_session_cache)"),
            ),
            _ => None,
        };
        (facts, finding)
    }

    /// Makes more connections like the first; they do verify.
    fn again(
        self,
        remote: std::net::SocketAddr,
        patience: Duration,
    ) -> Arc<dyn Fn() -> Again + Send + Sync> {
        let (connector, name) = (self.connector, self.name);
        Arc::new(move || -> Again {
            let (connector, name) = (connector.clone(), name.clone());
            Box::pin(async move {
                let connect = async {
                    let connection = Connection::again(remote).await?;
                    let socket = connection.socket.clone();
                    let stream = connector.connect(name, connection.stream).await?;
                    Ok((Box::new(stream) as Box<dyn Io>, socket))
                };
                timeout(patience, connect).await?
            })
        })
    }
}
