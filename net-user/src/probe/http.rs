//! HTTP: the request, the answer, and what else a well-behaved server does.

use std::{io, pin::Pin, sync::Arc};

use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};
use url::Url;

use super::{
    Facts, Finding, Layer, Lines, Outcome, Stage, Walk,
    tcp::{Connection, Socket},
};

/// What octets go over: TCP, or TLS on it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One more connection on the way.
pub type Again =
    Pin<Box<dyn Future<Output = io::Result<(Box<dyn Io>, Arc<Socket>)>> + Send + 'static>>;

/// A connection that is ready for HTTP.
pub struct Stream {
    /// Its octets.
    pub io: Box<dyn Io>,
    /// Whether TLS agreed on HTTP/2.
    pub http2: bool,
    /// Makes another connection of the same kind, for checks that need their own.
    pub again: Arc<dyn Fn() -> Again + Send + Sync>,
}

impl Stream {
    /// Without TLS.
    pub fn plain(connection: Connection) -> Self {
        let remote = connection.socket.remote;
        Self {
            io: Box::new(connection.stream),
            http2: false,
            again: Arc::new(move || {
                Box::pin(async move {
                    let connection = Connection::again(remote).await?;
                    Ok((
                        Box::new(connection.stream) as Box<dyn Io>,
                        connection.socket,
                    ))
                })
            }),
        }
    }
}

/// The details of an exchange.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpFacts {
    /// The status.
    pub status: Option<u16>,
}

impl HttpFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        Vec::new()
    }
}

/// What [`fetch`] leaves.
pub struct Exchange {
    /// What was found.
    pub stage: Stage,
    /// Where a redirect leads that is to be followed.
    pub next: Option<Url>,
    /// The connection, if it is still there.
    pub open: Option<Open>,
}

/// A connection with HTTP on it.
pub struct Open {
    sender: http1::SendRequest<Empty<Bytes>>,
    task: JoinHandle<hyper::Result<()>>,
}

impl Open {
    /// Ends it from our side, as in order; resolves when all is written and shut down.
    pub async fn close(self) -> io::Result<()> {
        drop(self.sender);
        match self.task.await {
            Ok(ended) => ended.map_err(io::Error::other),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

/// Asks for `url`. `depth`: how many redirects led here.
pub async fn fetch(walk: &Walk<'_>, url: &Url, stream: Stream, _depth: u32) -> Exchange {
    let start = walk.now_us();
    let answer = ask(url, stream).await;
    let times = walk.since(start);
    let (facts, findings, open) = match answer {
        Ok((status, open)) => (
            HttpFacts {
                status: Some(status),
            },
            Vec::new(),
            Some(open),
        ),
        Err(error) => {
            let finding = Finding::new("http_failed", Outcome::Failed, format!("{error:#}"));
            (HttpFacts::default(), vec![finding], None)
        }
    };
    let summary = format!("status {:?}", facts.status);
    Exchange {
        stage: Stage::new(Layer::Http, times, summary, findings, Facts::Http(facts)),
        next: None,
        open,
    }
}

async fn ask(url: &Url, stream: Stream) -> anyhow::Result<(u16, Open)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream.io)).await?;
    let task = tokio::spawn(connection);
    let request = Request::get(url.path())
        .header("host", url.host_str().unwrap_or_default())
        .body(Empty::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await?;
    Ok((status, Open { sender, task }))
}
