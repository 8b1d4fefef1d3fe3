//! Who changed what, and what became of it: one line of the log for every request that changes something.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    extract::{Extension, Request},
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::Peer;

/// What a request is about, for the log; its handler says it.
#[derive(Clone, Debug, Default)]
pub(super) struct Deed(Arc<Mutex<String>>);

impl Deed {
    /// Says what it is about, once that is known.
    pub(super) fn is(&self, what: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a request came to nothing, for the log.
#[derive(Clone, Debug)]
pub(super) struct Why(pub(super) String);

/// Tells the log of a request that changes something, whatever became of it.
pub(super) async fn audit(
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(verb) = verb(&request) else {
        return next.run(request).await;
    };
    let deed = Deed::default();
    request.extensions_mut().insert(deed.clone());
    // In a task of its own: when the client goes, hyper drops this future, and the change is made all the same.
    let work = tokio::spawn(work(peer, verb, deed, request, next));
    work.await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn work(peer: Peer, verb: String, deed: Deed, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let outcome = if response.status().is_success() {
        "done"
    } else if response.status().is_client_error() {
        "refused"
    } else {
        "failed"
    };
    let why = response.extensions().get::<Why>();
    let why = why.map_or(String::new(), |why| format!(": {}", why.0.escape_debug()));
    let deed = match deed.take() {
        what if what.is_empty() => verb.clone(),
        what => what,
    };
    let (uid, pid) = (peer.uid, peer.credentials.pid().unwrap_or(0));
    tracing::info!(
        target: "netmoat::audit", uid, pid, verb, outcome,
        "{deed} asked for by {}: {outcome}{why}", peer.who()
    );
    response
}

/// What a request changes, in a word; None for one that only reads, as a frame sent through the programs and a watch do.
fn verb(request: &Request) -> Option<String> {
    let path = request.uri().path();
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    if reads || matches!(path, "/v1/explain" | "/v1/watch") {
        return None;
    }
    let verb = path.strip_prefix("/v1/").unwrap_or(path);
    Some(verb.replace('/', " ").escape_debug().to_string())
}
