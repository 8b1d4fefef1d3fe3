//! Our side of handshakes with one server: what is offered, whom is trusted, what is remembered for the next one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, client::Resumption, crypto::ring,
    pki_types::ServerName,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::{Host, Url};

use super::{
    ResumptionFacts, TlsFacts, chain,
    failure::Circumstances,
    micros,
    observe::{Asked, Observer, Sessions},
    roots::Roots,
    round_trips, staple,
    verdict::Held,
};
use crate::probe::{
    Finding, HttpVersion, Outcome, Walk,
    http::{Again, Io},
    meter::{Meter, Metered},
    tcp::Connection,
};

/// How long a second connection may take; one that a server does not take while the first is open is told sooner so.
const SECOND: Duration = Duration::from_secs(3);

type Secured = TlsStream<Metered<TcpStream>>;

/// All that a handshake with one server needs and shows.
pub(super) struct Client {
    pub connector: TlsConnector,
    pub name: ServerName<'static>,
    pub observer: Arc<Observer>,
    asked: Arc<Asked>,
    sessions: Arc<Sessions>,
    roots: Option<Roots>,
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
pub(super) fn server_name(url: &Url) -> Option<ServerName<'static>> {
    match url.host()? {
        Host::Domain(name) => ServerName::try_from(name.to_owned()).ok(),
        Host::Ipv4(address) => Some(ServerName::from(IpAddr::V4(address))),
        Host::Ipv6(address) => Some(ServerName::from(IpAddr::V6(address))),
    }
}

impl Client {
    /// None when there is nobody to ask for or nobody to trust; the finding says so.
    pub async fn new(
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
        let roots = match Roots::get(plan.ca.as_deref(), &provider).await {
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

    pub fn circumstances<'a>(&self, facts: &'a TlsFacts, meter: &Meter) -> Circumstances<'a> {
        Circumstances {
            came: meter.marks(),
            asked: self.asked.was(),
            sni: facts.sni.as_deref(),
            offered: &facts.alpn_offered,
        }
    }

    /// What the server showed, and what is to be said of it.
    pub fn tell_chain(&self, walk: &Walk<'_>, facts: &mut TlsFacts, findings: &mut Vec<Finding>) {
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
    pub async fn await_rest(
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
    pub async fn resume(
        &self,
        walk: &Walk<'_>,
        remote: SocketAddr,
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
    pub fn again(
        self,
        remote: SocketAddr,
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
