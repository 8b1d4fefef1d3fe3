//! Serving `GET /metrics`: few connections, each of one request and not for long, and one look at the agent a second
//! whatever is asked.

use std::{
    io,
    net::TcpListener as StdTcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Mutex, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    exposition::classic,
    own::Own,
    page::{Reading, text},
};
use crate::{
    config::metrics::Listen,
    control::{
        bind::{BindError, BoundSocket},
        protocol::{Reply, Request, RequestError},
    },
    datapath::budget::Budget,
};

/// Connections at one time; those beyond it are closed at once.
const CONNECTIONS: usize = 8;
/// A connection carries one request and lives no longer than this.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long the agent may take to answer all three questions.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Who asks again within this time gets the same text.
const FRESH: Duration = Duration::from_secs(1);
/// How long connections may go on after the shutdown was asked for.
const SHUTDOWN_TIME: Duration = Duration::from_secs(1);

const OPEN_METRICS: &str = "application/openmetrics-text";

/// Where metrics will be served: bound, with nobody served yet.
#[derive(Debug)]
pub enum Bound {
    /// A socket in the file system, removed when it is dropped.
    Unix(BoundSocket),
    /// A loopback address.
    Tcp(StdTcpListener),
}

impl Bound {
    /// Takes the place.
    ///
    /// # Errors
    /// Another process has it, or the kernel refuses.
    pub fn bind(listen: &Listen) -> Result<Self> {
        let what = || format!("metrics cannot be served at {listen}");
        match listen {
            Listen::Unix(path) => BoundSocket::bind(path)
                .map(Self::Unix)
                .map_err(|error| match error {
                    BindError::AlreadyRunning { .. } => anyhow::anyhow!(
                        "another agent serves its metrics there; name another path as `listen` in [metrics]"
                    ),
                    error => error.into(),
                })
                .with_context(what),
            Listen::Tcp(address) => StdTcpListener::bind(address)
                .and_then(|listener| {
                    listener.set_nonblocking(true)?;
                    Ok(Self::Tcp(listener))
                })
                .with_context(|| {
                    format!(
                        "{}; `ss -tlnp` shows who listens there, and `listen` in [metrics] can name another port",
                        what()
                    )
                }),
        }
    }
}

/// A listener of either kind, on the runtime.
enum Door {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Door {
    fn open(bound: &Bound) -> io::Result<Self> {
        Ok(match bound {
            Bound::Unix(socket) => {
                Self::Unix(UnixListener::from_std(socket.listener.try_clone()?)?)
            }
            Bound::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener.try_clone()?)?),
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Serves metrics until `shutdown` becomes true (or its sender is gone).
pub async fn serve(
    bound: Bound,
    requests: mpsc::Sender<Request>,
    mut shutdown: watch::Receiver<bool>,
) {
    let door = match Door::open(&bound) {
        Ok(door) => door,
        Err(error) => return tracing::error!("metrics: cannot be served: {error}"),
    };
    let router = router(Source::new(requests));
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            // Its guard is dropped inside, as it is not Send.
            () = async { drop(shutdown.wait_for(|stop| *stop).await) } => break,
            Some(_) = connections.join_next() => continue,
            accepted = door.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of descriptors or memory: accept() would fail at once again and again.
                    tracing::warn!("metrics: cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::debug!("metrics: a connection beyond {CONNECTIONS} was closed");
            continue;
        };
        let router = router.clone();
        connections.spawn(async move {
            converse(stream, router).await;
            drop(permit);
        });
    }
    drop(door);
    drop(bound);
    let _ = timeout(SHUTDOWN_TIME, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// One connection, one request.
async fn converse(stream: Box<dyn Stream>, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("metrics: {error}"),
        Err(_) => tracing::debug!("metrics: a connection was cut after {CONNECTION_TIME:?}"),
    }
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(async || {
            (
                StatusCode::NOT_FOUND,
                "no such path; metrics are at /metrics\n",
            )
        })
        .method_not_allowed_fallback(async || {
            (
                StatusCode::METHOD_NOT_ALLOWED,
                "metrics are read with GET; nothing can be changed here\n",
            )
        })
        .layer(DefaultBodyLimit::max(0))
        .with_state(Arc::new(source))
}

async fn metrics(State(source): State<Arc<Source>>, headers: HeaderMap) -> Response {
    let pages = match source.pages().await {
        Ok(pages) => pages,
        Err(error) => {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")).into_response();
        }
    };
    let wants_open = headers.get_all(header::ACCEPT).iter().any(|accept| {
        accept
            .to_str()
            .is_ok_and(|text| text.contains(OPEN_METRICS))
    });
    let (kind, page) = if wants_open {
        (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            pages.open,
        )
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", pages.classic)
    };
    ([(header::CONTENT_TYPE, kind)], page).into_response()
}

/// The same figures in both formats.
#[derive(Clone)]
struct Pages {
    open: Bytes,
    classic: Bytes,
}

/// Where figures come from: the task that owns the maps.
struct Source {
    requests: mpsc::Sender<Request>,
    maps_octets: u64,
    /// What was told last, and when. Who asks meanwhile waits for it.
    last: Mutex<Option<(Instant, Pages)>>,
}

impl Source {
    fn new(requests: mpsc::Sender<Request>) -> Self {
        Self {
            requests,
            // Of the object that was loaded: it has been read before, and cannot fail now.
            maps_octets: Budget::read().map_or(0, |budget| budget.octets),
            last: Mutex::new(None),
        }
    }

    async fn pages(&self) -> Result<Pages> {
        let mut last = self.last.lock().await;
        if let Some((at, pages)) = &*last
            && at.elapsed() < FRESH
        {
            return Ok(pages.clone());
        }
        let reading = timeout(ANSWER_TIME, self.read())
            .await
            .with_context(|| format!("the agent did not answer within {ANSWER_TIME:?}"))??;
        let open = text(reading).context("the page cannot be written")?;
        let pages = Pages {
            classic: classic(&open).into(),
            open: open.into(),
        };
        *last = Some((Instant::now(), pages.clone()));
        Ok(pages)
    }

    async fn read(&self) -> Result<Reading> {
        Ok(Reading {
            status: self.ask(Request::Status).await?,
            counters: self.ask(Request::Counters).await?,
            queues: self.ask(Request::Queues).await?,
            probes: self.ask(Request::Probes).await?,
            own: Own::read().ok(),
            maps_octets: self.maps_octets,
        })
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel::<Result<T, RequestError>>();
        let stopping = "the agent is stopping";
        self.requests.send(request(reply)).await.context(stopping)?;
        Ok(answer.await.context(stopping)??)
    }
}
