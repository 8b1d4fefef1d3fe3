//! The agent's side of the control socket.

mod audit;
mod changes;
mod lists;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use audit::{Deed, Why, audit};

pub use super::bind::{BindError, BoundSocket};
use super::drops::{ExplainFrame, MAX_FRAME};
use super::protocol::{
    Failed, PinNeighbor, Reply, Request, RequestError, RotateKeys, UnpinNeighbor, VERSION,
};
use super::queues::{Tune, TuneAction};

/// Connections at one time, of which [`RESERVED`] are for those who may write: readers cannot lock root
/// out of its own agent.
const CONNECTIONS: usize = 64;
const RESERVED: usize = 16;
/// A connection carries one request and lives no longer than this.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// The same for those who may write, since what they write may be a list of a million.
const WRITER_TIME: Duration = Duration::from_secs(300);
/// How long the agent may take to answer; shorter, so that the client is told.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// How long connections may go on after the shutdown was asked for.
const SHUTDOWN_TIME: Duration = Duration::from_secs(1);
/// The longest request, a pin with eight link-layer addresses, is some 300 octets.
const MAX_BODY: usize = 4096;
/// A frame has two digits an octet.
const MAX_EXPLAIN: usize = MAX_FRAME * 2 + MAX_BODY;

/// What GET reads.
const READ: &str = "/v1/status, /v1/config, /v1/counters, /v1/queues, /v1/tune, /v1/neighbors, /v1/neighbors/audit, /v1/events, /v1/lists, \
     /v1/lists/find, /v1/lists/names, /v1/drops, /v1/probes, /v1/watch/ID";
/// What POST changes.
const WRITE: &str = "/v1/mode, /v1/reload, /v1/confirm, /v1/detach, /v1/tune, /v1/keys/rotate, /v1/neighbors/pin, /v1/neighbors/unpin, /v1/neighbors/repair, /v1/lists/add, \
     /v1/lists/del, /v1/lists/import, /v1/explain, /v1/watch";

/// Serves the control socket until `shutdown` becomes true (or its sender is gone), then removes it.
pub async fn serve(
    socket: BoundSocket,
    requests: mpsc::Sender<Request>,
    mut shutdown: tokio::sync::watch::Receiver<bool>,
) {
    let listener = socket.listener.try_clone();
    let listener = match listener.and_then(UnixListener::from_std) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("control socket: cannot be served: {error}"),
    };
    let own_uid = nix::unistd::geteuid().as_raw();
    let router = router(requests);
    let readers = Arc::new(Semaphore::new(CONNECTIONS - RESERVED));
    let writers = Arc::new(Semaphore::new(RESERVED));
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            // Its guard is dropped inside, as it is not Send.
            () = async { drop(shutdown.wait_for(|stop| *stop).await) } => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors or memory: accept() would fail at once again and again.
                    tracing::warn!("control socket: cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(peer) = stream.peer_cred() else {
            continue;
        };
        let peer = Peer {
            uid: peer.uid(),
            own_uid,
            credentials: peer,
        };
        let mut permit = Arc::clone(&readers).try_acquire_owned();
        if permit.is_err() && peer.may_write() {
            permit = Arc::clone(&writers).try_acquire_owned();
        }
        match permit {
            Ok(permit) => {
                let router = router.clone();
                connections.spawn(async move {
                    converse(stream, router, peer).await;
                    drop(permit);
                });
            }
            Err(_) => turn_away(&stream),
        }
    }
    // No new connections, and the file is gone before the last ones end.
    drop(socket);
    drop(listener);
    let _ = timeout(SHUTDOWN_TIME, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// Who is at the other end (SO_PEERCRED).
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: u32,
    own_uid: u32,
    credentials: UCred,
}

impl Peer {
    /// Who asks, for the log: `uid 0 (pid 4711)`.
    fn who(&self) -> String {
        match self.credentials.pid() {
            Some(pid) => format!("uid {} (pid {pid})", self.uid),
            None => format!("uid {}", self.uid),
        }
    }

    /// Whoever could connect may read: the file's mode decides. Writing is for root and the agent's user.
    fn may_write(&self) -> bool {
        self.uid == 0 || self.uid == self.own_uid
    }

    fn require_write(&self) -> Result<(), Answer> {
        self.require("change the agent")
    }

    /// Refuses those who may only read.
    fn require(&self, what: &str) -> Result<(), Answer> {
        if self.may_write() {
            return Ok(());
        }
        let own = self.own_uid;
        let allowed = if own == 0 {
            "root".to_owned()
        } else {
            format!("root or uid {own}")
        };
        Err(Answer(
            StatusCode::FORBIDDEN,
            format!(
                "only {allowed} may {what}, and you are uid {}; run it with sudo",
                self.uid
            ),
        ))
    }
}

/// One connection, one request.
async fn converse(stream: UnixStream, router: Router, peer: Peer) {
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIME)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let time = if peer.may_write() {
        WRITER_TIME
    } else {
        CONNECTION_TIME
    };
    match timeout(time, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("control connection of uid {}: {error}", peer.uid),
        Err(_) => tracing::debug!("control connection of uid {} cut after {time:?}", peer.uid),
    }
}

/// Best effort: the answer fits any socket buffer.
fn turn_away(stream: &UnixStream) {
    let body =
        format!(r#"{{"version":{VERSION},"error":"too many control connections; try again"}}"#);
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.try_write(answer.as_bytes());
}

fn router(requests: mpsc::Sender<Request>) -> Router {
    Router::new()
        .route(
            "/v1/status",
            get(async |State(agent): State<Agent>| agent.ask(Request::Status).await),
        )
        .route(
            "/v1/counters",
            get(async |State(agent): State<Agent>| agent.ask(Request::Counters).await),
        )
        .route(
            "/v1/queues",
            get(async |State(agent): State<Agent>| agent.ask(Request::Queues).await),
        )
        .route(
            "/v1/probes",
            get(async |State(agent): State<Agent>| agent.ask(Request::Probes).await),
        )
        .route("/v1/tune", get(tuning).post(tune))
        .route("/v1/keys/rotate", post(rotate_keys))
        .route("/v1/detach", post(detach))
        .route("/v1/neighbors", get(neighbors))
        .route("/v1/neighbors/pin", post(pin_neighbor))
        .route("/v1/neighbors/unpin", post(unpin_neighbor))
        .route(
            "/v1/neighbors/audit",
            get(async |State(agent): State<Agent>| agent.audit(false).await),
        )
        .route("/v1/neighbors/repair", post(repair_neighbors))
        .route("/v1/events", get(events))
        .merge(changes::router())
        .merge(lists::router())
        .merge(watch::router())
        .route("/v1/drops", get(drops))
        .route(
            "/v1/explain",
            post(explain).layer(DefaultBodyLimit::max(MAX_EXPLAIN)),
        )
        .fallback(async || {
            Answer(
                StatusCode::NOT_FOUND,
                format!("no such path; netmoat knows {READ} and {WRITE}"),
            )
        })
        .method_not_allowed_fallback(async || {
            Answer(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("GET reads {READ}; POST changes {WRITE}"),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(audit))
        .with_state(Agent(requests))
}

/// Where a neighbour is said to be, as ` on eth0, VLAN 7`; what is free text is escaped.
fn place(interface: Option<&str>, vlan: u16) -> String {
    let mut text = interface.map_or(String::new(), |name| format!(" on {}", name.escape_debug()));
    if vlan != 0 {
        text += &format!(", VLAN {vlan}");
    }
    text
}

async fn tuning(State(agent): State<Agent>, uri: Uri) -> Result<Response, Answer> {
    let misfit = || {
        Answer(
            StatusCode::BAD_REQUEST,
            "the query does not fit; write /v1/tune?listener=NAME, percent-encoded".to_owned(),
        )
    };
    let listener = match uri.query() {
        None => None,
        Some(query) => {
            let name = query.strip_prefix("listener=").ok_or_else(misfit)?;
            let name = percent_decode_str(name).decode_utf8();
            Some(name.map_err(|_| misfit())?.into_owned())
        }
    };
    agent.ask(|reply| Request::Tuning(listener, reply)).await
}

async fn tune(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    body: Bytes,
) -> Result<Response, Answer> {
    peer.require("change the kernel's settings")?;
    let tune: Tune = read(&body)?;
    deed.is(format!(
        "tune: {}{}",
        match tune.action {
            TuneAction::Apply => "apply",
            TuneAction::Revert => "revert",
        },
        tune.listener
            .as_deref()
            .map_or(String::new(), |name| format!(
                " for {}",
                name.escape_debug()
            )),
    ));
    agent.ask(|reply| Request::Tune(tune, reply)).await
}

async fn rotate_keys(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    body: Bytes,
) -> Result<Response, Answer> {
    peer.require_write()?;
    let RotateKeys { force } = if body.is_empty() {
        RotateKeys::default()
    } else {
        read(&body)?
    };
    deed.is(format!("key rotation{}", changes::terms(force, None)));
    agent
        .ask(|reply| Request::RotateKeys { force, reply })
        .await
}

async fn detach(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
) -> Result<Response, Answer> {
    peer.require_write()?;
    deed.is("detach".to_owned());
    agent.ask(Request::Detach).await
}

async fn pin_neighbor(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    body: Bytes,
) -> Result<Response, Answer> {
    peer.require_write()?;
    let pin: PinNeighbor = read(&body)?;
    deed.is(format!(
        "pin of neighbour {} to {}{}",
        pin.address,
        match pin.macs.as_slice() {
            [] => "what was learned".to_owned(),
            macs => macs.join(", ").escape_debug().to_string(),
        },
        place(pin.interface.as_deref(), pin.vlan),
    ));
    agent.ask(|reply| Request::PinNeighbor(pin, reply)).await
}

async fn unpin_neighbor(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    body: Bytes,
) -> Result<Response, Answer> {
    peer.require_write()?;
    let unpin: UnpinNeighbor = read(&body)?;
    deed.is(format!(
        "unpin of neighbour {}{}",
        unpin.address,
        place(unpin.interface.as_deref(), unpin.vlan),
    ));
    agent
        .ask(|reply| Request::UnpinNeighbor(unpin, reply))
        .await
}

async fn repair_neighbors(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
) -> Result<Response, Answer> {
    peer.require_write()?;
    deed.is("repair of the neighbour table".to_owned());
    agent.audit(true).await
}

async fn neighbors(State(agent): State<Agent>, uri: Uri) -> Result<Response, Answer> {
    let history = match uri.query() {
        None | Some("history=0") => false,
        Some("history=1") => true,
        Some(_) => {
            return Err(Answer(
                StatusCode::BAD_REQUEST,
                "the query does not fit; write /v1/neighbors?history=1".to_owned(),
            ));
        }
    };
    agent
        .ask(|reply| Request::Neighbors { history, reply })
        .await
}

async fn events(State(agent): State<Agent>, uri: Uri) -> Result<Response, Answer> {
    let after = after(&uri)?;
    agent.ask(|reply| Request::Events { after, reply }).await
}

async fn drops(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Result<Response, Answer> {
    peer.require("read what others have sent")?;
    let after = after(&uri)?;
    agent.ask(|reply| Request::Drops { after, reply }).await
}

async fn explain(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Result<Response, Answer> {
    peer.require("send frames through the programs, which takes its share of their limits")?;
    let frame: ExplainFrame = read(&body)?;
    agent.ask(|reply| Request::Explain(frame, reply)).await
}

/// The number in `?after=NUMBER`; 0 without one.
fn after(uri: &Uri) -> Result<u64, Answer> {
    let Some(query) = uri.query() else {
        return Ok(0);
    };
    query
        .strip_prefix("after=")
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| {
            Answer(
                StatusCode::BAD_REQUEST,
                format!("the query does not fit; write {}?after=NUMBER", uri.path()),
            )
        })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Answer> {
    serde_json::from_slice(body).map_err(|error| {
        Answer(
            StatusCode::BAD_REQUEST,
            format!("the request's JSON does not fit: {error}"),
        )
    })
}

/// The task that owns the maps, as the handlers see it.
#[derive(Clone)]
struct Agent(mpsc::Sender<Request>);

impl Agent {
    async fn audit(&self, repair: bool) -> Result<Response, Answer> {
        self.ask(|reply| Request::AuditNeighbors { repair, reply })
            .await
    }

    async fn ask<T: Serialize>(
        &self,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<Response, Answer> {
        self.ask_within(ANSWER_TIME, request).await
    }

    async fn ask_within<T: Serialize>(
        &self,
        time: Duration,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<Response, Answer> {
        let value = self.take_within(time, request).await?;
        Ok(axum::Json(value).into_response())
    }

    async fn take_within<T>(
        &self,
        time: Duration,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, Answer> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.0.send(request(reply)).await.ok()?;
            answer.await.ok()
        };
        match timeout(time, exchange).await {
            Ok(Some(Ok(value))) => Ok(value),
            Ok(Some(Err(RequestError::Refused(why)))) => Err(Answer(StatusCode::CONFLICT, why)),
            Ok(Some(Err(RequestError::Failed(why)))) => {
                Err(Answer(StatusCode::INTERNAL_SERVER_ERROR, why))
            }
            Ok(None) => Err(Answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "the agent is stopping".to_owned(),
            )),
            Err(_) => Err(Answer(
                StatusCode::GATEWAY_TIMEOUT,
                format!("the agent did not answer within {time:?}; its log may say why"),
            )),
        }
    }
}

/// An answer that is no success.
struct Answer(StatusCode, String);

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (
            self.0,
            Extension(Why(self.1.clone())),
            axum::Json(Failed {
                version: VERSION,
                error: self.1,
            }),
        )
            .into_response()
    }
}
