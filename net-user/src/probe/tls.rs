//! TLS: the handshake, who the server proved to be, what it offers for the next time.

use std::sync::Arc;

use rustls::{ClientConfig, crypto::ring, pki_types::ServerName};
use rustls_platform_verifier::BuilderVerifierExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::Url;

use super::{Facts, Finding, Layer, Lines, Outcome, Stage, Walk, http::Stream, tcp::Connection};

/// The details of a TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// What ALPN agreed on.
    pub alpn: Option<String>,
}

impl TlsFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        Vec::new()
    }
}

/// Secures a connection to the host of `url`.
pub async fn handshake(
    walk: &Walk<'_>,
    url: &Url,
    connection: Connection,
) -> (Stage, Option<Stream>) {
    let start = walk.now_us();
    let secured = secure(walk, url, connection).await;
    let times = walk.since(start);
    let mut facts = TlsFacts::default();
    let (findings, stream) = match secured {
        Ok((alpn, stream)) => {
            facts.alpn = alpn;
            (Vec::new(), Some(stream))
        }
        Err(error) => {
            let what = format!("{error:#}");
            (
                vec![Finding::new("tls_failed", Outcome::Failed, what)],
                None,
            )
        }
    };
    let stage = Stage::new(Layer::Tls, times, "handshake", findings, Facts::Tls(facts));
    (stage, stream)
}

async fn secure(
    walk: &Walk<'_>,
    url: &Url,
    connection: Connection,
) -> anyhow::Result<(Option<String>, Stream)> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from(url.host_str().unwrap_or_default().to_owned())?;
    let remote = connection.socket.remote;
    let connector = TlsConnector::from(Arc::new(config));
    let connect = connector.connect(name.clone(), connection.stream);
    let stream = timeout(walk.plan.timeout, connect).await??;
    let alpn = stream
        .get_ref()
        .1
        .alpn_protocol()
        .map(|name| String::from_utf8_lossy(name).into_owned());
    let again = Arc::new(move || -> super::http::Again {
        let (connector, name) = (connector.clone(), name.clone());
        Box::pin(async move {
            let connection = Connection::again(remote).await?;
            let socket = connection.socket.clone();
            let stream = connector.connect(name, connection.stream).await?;
            Ok((Box::new(stream) as Box<dyn super::http::Io>, socket))
        })
    });
    let http2 = alpn.as_deref() == Some("h2");
    Ok((
        alpn,
        Stream {
            io: Box::new(stream),
            http2,
            again,
        },
    ))
}
