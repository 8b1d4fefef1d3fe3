//! Watched connections on the control socket.

use axum::{
    Router,
    body::Bytes,
    extract::{Extension, Path, State},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};

use super::{Agent, Answer, Peer, read};
use crate::control::{
    protocol::Request,
    watch::{MAX_ADDRESSES, WatchAsk},
};

pub(super) fn router() -> Router<Agent> {
    Router::new()
        .route("/v1/watch", post(begin))
        .route("/v1/watch/{id}", get(end))
}

/// For readers too: what is told are headers of TCP between addresses that they name.
async fn begin(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Result<Response, Answer> {
    let ask: WatchAsk = read(&body)?;
    if ask.port == 0 || !(1..=MAX_ADDRESSES).contains(&ask.addresses.len()) {
        return Err(Answer(
            StatusCode::BAD_REQUEST,
            format!(
                "port {} and {} addresses cannot be watched; name a port other than 0 and 1 to {MAX_ADDRESSES} addresses",
                ask.port,
                ask.addresses.len()
            ),
        ));
    }
    tracing::debug!(
        target: "netmoat::audit", uid = peer.uid, port = ask.port, addresses = ?ask.addresses,
        "connections are to be watched for {}", peer.who()
    );
    let begun = agent.ask(|reply| Request::Watch(peer.uid, ask, reply));
    begun.await
}

async fn end(State(agent): State<Agent>, Path(id): Path<String>) -> Result<Response, Answer> {
    let id = id.parse().map_err(|_| {
        Answer(
            StatusCode::BAD_REQUEST,
            "the path does not fit; write /v1/watch/ID, with the id that POST /v1/watch gave"
                .to_owned(),
        )
    })?;
    agent.ask(|reply| Request::Watched(id, reply)).await
}
