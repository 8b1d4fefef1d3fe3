//! The command line's side of the control socket.

mod lists;

pub use lists::Import;

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::changes::{ConfigShown, Confirmed, Reload, Reloaded};
use super::drops::{Drops, ExplainFrame, FrameExplained};
use super::probes::Probes;
use super::protocol::{
    Counters, Detached, Events, Failed, KeysRotated, ModeChanged, NeighborAudit, Neighbors,
    NeighborsChanged, PinNeighbor, Queues, RotateKeys, SetMode, Status, UnpinNeighbor, VERSION,
};
use super::queues::{Tune, Tuning};
use super::watch::{WatchAsk, WatchBegun, WatchSeen};

/// Longer than the agent gives itself, so that its own words arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for a change of the whole, with which lists of a million may be built anew.
const CHANGE_PATIENCE: Duration = Duration::from_secs(150);
/// The queues of the most listeners the data path can hold take some 2 MB.
const MAX_ANSWER: usize = 16 << 20;

/// Why the agent did not answer as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody there.
    #[error(
        "cannot reach the agent on {}: {source}; is the agent running? start it with `netmoat run`, or name its \
         socket with --socket",
        socket.display()
    )]
    Absent {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket's mode keeps us out.
    #[error(
        "no permission to use the control socket {}; run it with sudo, or join group `{}` to read",
        socket.display(), super::bind::GROUP
    )]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent does not let us (403).
    #[error("{0}")]
    Forbidden(String),
    /// The agent refused or failed, in its own words.
    #[error("{0}")]
    Agent(String),
    /// What came was not what this version understands.
    #[error("unexpected answer from the agent on {}: {what}; are agent and command of one version?", socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with it.
        what: String,
    },
    /// It went away.
    #[error("the agent on {} ended before it answered; its log may say why", socket.display())]
    Ended {
        /// The socket.
        socket: PathBuf,
    },
    /// Nothing came.
    #[error("the agent on {} did not answer within {patience:?}; its log may say why", socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long it had.
        patience: Duration,
    },
}

/// The agent behind a control socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The agent behind `socket`; connects at each request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.request(Method::GET, "/v1/status", &()).await
    }

    /// `GET /v1/counters`
    pub async fn counters(&self) -> Result<Counters, ClientError> {
        self.request(Method::GET, "/v1/counters", &()).await
    }

    /// `GET /v1/queues`
    pub async fn queues(&self) -> Result<Queues, ClientError> {
        self.request(Method::GET, "/v1/queues", &()).await
    }

    /// `GET /v1/tune?listener=SELECTOR`, of all listeners without one
    pub async fn tuning(&self, listener: Option<&str>) -> Result<Tuning, ClientError> {
        let query = listener.map_or(String::new(), |name| {
            format!("?listener={}", utf8_percent_encode(name, NON_ALPHANUMERIC))
        });
        self.request(Method::GET, &format!("/v1/tune{query}"), &())
            .await
    }

    /// `POST /v1/tune`
    pub async fn tune(&self, tune: &Tune) -> Result<Tuning, ClientError> {
        self.request(Method::POST, "/v1/tune", tune).await
    }

    /// `POST /v1/mode`
    pub async fn set_mode(&self, set: &SetMode) -> Result<ModeChanged, ClientError> {
        self.request_within(CHANGE_PATIENCE, Method::POST, "/v1/mode", set)
            .await
    }

    /// `POST /v1/detach`
    pub async fn detach(&self) -> Result<Detached, ClientError> {
        self.request(Method::POST, "/v1/detach", &()).await
    }

    /// `POST /v1/reload`
    pub async fn reload(&self, reload: &Reload) -> Result<Reloaded, ClientError> {
        self.request_within(CHANGE_PATIENCE, Method::POST, "/v1/reload", reload)
            .await
    }

    /// `POST /v1/confirm`
    pub async fn confirm(&self) -> Result<Confirmed, ClientError> {
        self.request_within(CHANGE_PATIENCE, Method::POST, "/v1/confirm", &())
            .await
    }

    /// `GET /v1/config`
    pub async fn config(&self) -> Result<ConfigShown, ClientError> {
        self.request(Method::GET, "/v1/config", &()).await
    }

    /// `POST /v1/keys/rotate`
    pub async fn rotate_keys(&self, force: bool) -> Result<KeysRotated, ClientError> {
        self.request(Method::POST, "/v1/keys/rotate", &RotateKeys { force })
            .await
    }

    /// `GET /v1/neighbors`, with `history` what happened to each too
    pub async fn neighbors(&self, history: bool) -> Result<Neighbors, ClientError> {
        let path = format!("/v1/neighbors?history={}", u8::from(history));
        self.request(Method::GET, &path, &()).await
    }

    /// `POST /v1/neighbors/pin`
    pub async fn pin_neighbor(&self, pin: &PinNeighbor) -> Result<NeighborsChanged, ClientError> {
        self.request(Method::POST, "/v1/neighbors/pin", pin).await
    }

    /// `POST /v1/neighbors/unpin`
    pub async fn unpin_neighbor(
        &self,
        unpin: &UnpinNeighbor,
    ) -> Result<NeighborsChanged, ClientError> {
        self.request(Method::POST, "/v1/neighbors/unpin", unpin)
            .await
    }

    /// `GET /v1/neighbors/audit`
    pub async fn audit_neighbors(&self) -> Result<NeighborAudit, ClientError> {
        self.request(Method::GET, "/v1/neighbors/audit", &()).await
    }

    /// `POST /v1/neighbors/repair`
    pub async fn repair_neighbors(&self) -> Result<NeighborAudit, ClientError> {
        self.request(Method::POST, "/v1/neighbors/repair", &())
            .await
    }

    /// `GET /v1/events?after=SEQUENCE`
    pub async fn events(&self, after: u64) -> Result<Events, ClientError> {
        self.request(Method::GET, &format!("/v1/events?after={after}"), &())
            .await
    }

    /// `GET /v1/drops?after=SEQUENCE`
    pub async fn drops(&self, after: u64) -> Result<Drops, ClientError> {
        self.request(Method::GET, &format!("/v1/drops?after={after}"), &())
            .await
    }

    /// `GET /v1/probes`
    pub async fn probes(&self) -> Result<Probes, ClientError> {
        self.request(Method::GET, "/v1/probes", &()).await
    }

    /// `POST /v1/explain`
    pub async fn explain(&self, frame: &ExplainFrame) -> Result<FrameExplained, ClientError> {
        self.request(Method::POST, "/v1/explain", frame).await
    }

    /// `POST /v1/watch`
    pub async fn watch(&self, ask: &WatchAsk) -> Result<WatchBegun, ClientError> {
        self.request(Method::POST, "/v1/watch", ask).await
    }

    /// `GET /v1/watch/ID`
    pub async fn watched(&self, id: u64) -> Result<WatchSeen, ClientError> {
        self.request(Method::GET, &format!("/v1/watch/{id}"), &())
            .await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.request_within(PATIENCE, method, path, body).await
    }

    async fn request_within<T: DeserializeOwned>(
        &self,
        patience: Duration,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = if method == Method::GET {
            Bytes::new()
        } else {
            serde_json::to_vec(body)
                .map_err(|e| self.unexpected(e.to_string()))?
                .into()
        };
        let body = Full::new(body).boxed();
        self.send(method, path, body, patience).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: BoxBody<Bytes, Infallible>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let (status, bytes) = timeout(patience, self.exchange(method, path, body))
            .await
            .map_err(|_| ClientError::Silent {
                socket: self.socket.clone(),
                patience,
            })??;
        if status != StatusCode::OK {
            let words = match serde_json::from_slice::<Failed>(&bytes) {
                Ok(failed) => printable(&failed.error),
                Err(_) => return Err(self.unexpected(format!("HTTP status {status}"))),
            };
            return Err(if status == StatusCode::FORBIDDEN {
                ClientError::Forbidden(words)
            } else {
                ClientError::Agent(words)
            });
        }
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| self.unexpected(e.to_string()))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            version => {
                let spoken = version.map_or("no version".to_owned(), |v| format!("version {v}"));
                return Err(self.unexpected(format!(
                    "it speaks {spoken} of the protocol, and this command {VERSION}"
                )));
            }
        }
        serde_json::from_value(value).map_err(|e| self.unexpected(e.to_string()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: BoxBody<Bytes, Infallible>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| match source.kind() {
                    io::ErrorKind::PermissionDenied => ClientError::Denied {
                        socket: self.socket.clone(),
                    },
                    _ => ClientError::Absent {
                        socket: self.socket.clone(),
                        source,
                    },
                })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.ended_or_odd(&e))?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "netmoat")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| self.unexpected(e.to_string()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.ended_or_odd(&e))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| match e.downcast_ref::<hyper::Error>() {
                Some(e) => self.ended_or_odd(e),
                None => self.unexpected(e.to_string()),
            })?
            .to_bytes();
        connection.abort();
        Ok((status, bytes))
    }

    /// An agent that is killed closes the connection, whole answer or not.
    fn ended_or_odd(&self, error: &hyper::Error) -> ClientError {
        let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<io::Error>());
        let is_cut = cause.is_some_and(|e| {
            matches!(
                e.kind(),
                io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::NotConnected
                    | io::ErrorKind::UnexpectedEof
            )
        });
        if is_cut || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return ClientError::Ended {
                socket: self.socket.clone(),
            };
        }
        self.unexpected(error.to_string())
    }

    fn unexpected(&self, what: String) -> ClientError {
        ClientError::Protocol {
            socket: self.socket.clone(),
            what: printable(&what),
        }
    }
}

/// Whoever holds the socket must not write to the operator's terminal. What is wrong with a config takes several lines.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use super::*;

    #[tokio::test]
    async fn an_agent_that_ends_meanwhile_is_not_taken_for_another_version() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let client = Client::new(&socket);
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{";
        for (answer, ended) in [("", true), (cut, true), ("nonsense\r\n\r\n", false)] {
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (said, ()) = tokio::join!(client.status(), serve);
            let error = said.unwrap_err();
            assert_eq!(
                matches!(error, ClientError::Ended { .. }),
                ended,
                "{answer:?}: {error}"
            );
        }
    }
}
