//! Changes of the whole on the control socket.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Extension, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};

use super::{Agent, Answer, Peer, audit::Deed, read};
use crate::{
    config::HumanDuration,
    control::{
        changes::Reload,
        protocol::{Request, SetMode},
    },
};

/// How long a reload may take: lists of a million are built anew.
const TIME: std::time::Duration = std::time::Duration::from_secs(120);

pub(super) fn router() -> Router<Agent> {
    Router::new()
        .route("/v1/mode", post(mode))
        .route("/v1/reload", post(reload))
        .route("/v1/confirm", post(confirm))
        .route(
            "/v1/config",
            get(async |State(agent): State<Agent>| agent.ask(Request::Config).await),
        )
}

/// What was asked for beside the change itself, for the log.
pub(super) fn terms(force: bool, within: Option<HumanDuration>) -> String {
    let force = if force { ", forced," } else { "" };
    within.map_or(force.to_owned(), |within| {
        format!("{force}, to be confirmed within {within},")
    })
}

async fn mode(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    body: Bytes,
) -> Result<Response, Answer> {
    peer.require_write()?;
    let set: SetMode = read(&body)?;
    let terms = terms(set.force, set.confirm_within);
    deed.is(format!("mode {}{terms}", set.mode.name()));
    agent
        .ask_within(TIME, |reply| Request::SetMode(set, reply))
        .await
}

async fn reload(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    body: Bytes,
) -> Result<Response, Answer> {
    peer.require_write()?;
    let reload: Reload = if body.is_empty() {
        Reload::default()
    } else {
        read(&body)?
    };
    let what = if reload.dry_run {
        "dry run of a reload"
    } else {
        "reload"
    };
    let terms = terms(reload.force, reload.confirm_within);
    deed.is(format!("{what}{terms}"));
    agent
        .ask_within(TIME, |reply| Request::Reload(reload, reply))
        .await
}

async fn confirm(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
) -> Result<Response, Answer> {
    peer.require_write()?;
    // What waited, its answer alone says.
    let confirmed = agent.take_within(TIME, Request::Confirm).await?;
    deed.is(format!("confirm of {}", confirmed.what));
    Ok(Json(confirmed).into_response())
}
