//! Block and allow lists on the control socket.

use std::{str::FromStr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, BodyDataStream, Bytes, to_bytes},
    extract::{Extension, State},
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use futures::StreamExt as _;
use net_common::abi::MAX_LIST_ENTRIES;
use serde::de::DeserializeOwned;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{ANSWER_TIME, Agent, Answer, Peer, audit::Deed, changes::terms, read};
use crate::{
    control::{
        lists::{
            AddEntries, DeleteEntries, FindQuery, IMPORT_WAIT_S, ImportEntries, ImportState,
            ListQuery, ListRequest, MAX_PAGE,
        },
        protocol::{Request, VERSION},
    },
    lists::{List, text::Reader},
};

/// The longest request that names single entries: more than a command line holds.
const MAX_CHANGE: usize = 4 << 20;
/// The longest import: as many lines as a list has entries, of 128 octets on average.
const MAX_IMPORT: usize = MAX_LIST_ENTRIES as usize * 128;
/// Imports at one time; each holds a list in memory.
const IMPORTS: usize = 1;
/// How long an answer may take: the changes before it may be large, and on a slow disk.
const CHANGE_TIME: Duration = Duration::from_secs(120);
/// Whoever imports may think no longer between two pieces.
const PIECE_TIME: Duration = Duration::from_secs(10);

pub(super) fn router() -> Router<Agent> {
    Router::new()
        .route("/v1/lists", get(page))
        .route("/v1/lists/find", get(find))
        .route(
            "/v1/lists/names",
            get(async |State(agent): State<Agent>| {
                agent
                    .ask_within(CHANGE_TIME, |reply| {
                        Request::Lists(ListRequest::Names(reply))
                    })
                    .await
            }),
        )
        .route("/v1/lists/add", post(add))
        .route("/v1/lists/del", post(delete))
        .route("/v1/lists/import", get(import_state).post(import))
        .layer(Extension(Arc::new(Semaphore::new(IMPORTS))))
}

/// The values of a query; nothing in them needs escapes.
struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    fn read(uri: &'a Uri, known: &[&str]) -> Result<Self, Answer> {
        let pairs = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        let pairs: Option<Vec<_>> = pairs.map(|pair| pair.split_once('=')).collect();
        let unknown = |pairs: &Vec<(&str, &str)>| pairs.iter().all(|(key, _)| known.contains(key));
        pairs.filter(unknown).map(Self).ok_or_else(|| misfit(known))
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|pair| pair.0 == key).map(|pair| pair.1)
    }

    fn parse<T: FromStr>(&self, key: &str) -> Result<Option<T>, Answer> {
        self.get(key)
            .map(|value| value.parse().map_err(|_| misfit(&[key])))
            .transpose()
    }

    fn list(&self) -> Result<List, Answer> {
        match self.get("list") {
            Some("allow") => Ok(List::Allow),
            Some("block") => Ok(List::Block),
            _ => Err(misfit(&["list=allow", "list=block"])),
        }
    }

    fn owned(&self, key: &str) -> Option<String> {
        self.get(key).map(str::to_owned)
    }
}

fn misfit(known: &[&str]) -> Answer {
    Answer(
        StatusCode::BAD_REQUEST,
        format!("the query does not fit; known here: {}", known.join(", ")),
    )
}

async fn page(State(agent): State<Agent>, uri: Uri) -> Result<Response, Answer> {
    let query = Query::read(&uri, &["list", "name", "limit", "after"])?;
    let query = ListQuery {
        list: query.list()?,
        name: query.owned("name"),
        limit: query.parse("limit")?.unwrap_or(MAX_PAGE),
        after: query.owned("after"),
    };
    agent
        .ask_within(CHANGE_TIME, |reply| {
            Request::Lists(ListRequest::Page(query, reply))
        })
        .await
}

async fn find(State(agent): State<Agent>, uri: Uri) -> Result<Response, Answer> {
    let query = Query::read(&uri, &["prefix", "name"])?;
    let query = FindQuery {
        prefix: query.owned("prefix").ok_or_else(|| misfit(&["prefix"]))?,
        name: query.owned("name"),
    };
    agent
        .ask_within(CHANGE_TIME, |reply| {
            Request::Lists(ListRequest::Find(query, reply))
        })
        .await
}

/// Reads a writer's body, which may be long; nobody else's is read at all.
async fn body<T: DeserializeOwned>(peer: &Peer, body: Body) -> Result<T, Answer> {
    peer.require_write()?;
    let body = timeout(PIECE_TIME, to_bytes(body, MAX_CHANGE)).await;
    let body = body.map_err(|_| cut("took too long"))?;
    read(&body.map_err(|error| cut(&error.to_string()))?)
}

fn cut(why: &str) -> Answer {
    Answer(
        StatusCode::BAD_REQUEST,
        format!("the request did not arrive whole, and nothing was changed: {why}"),
    )
}

async fn add(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    content: Body,
) -> Result<Response, Answer> {
    let add: AddEntries = body(&peer, content).await?;
    deed.is(format!(
        "{} {:?}{}{}{} on list {:?}",
        add.list.word(),
        Few(&add.prefixes),
        add.ttl.map_or(String::new(), |ttl| format!(" for {ttl}")),
        match add.reason.as_str() {
            "" => String::new(),
            reason => format!(", reason {reason:?}"),
        },
        terms(add.force, add.confirm_within),
        add.name,
    ));
    agent
        .ask_within(CHANGE_TIME, |reply| {
            Request::Lists(ListRequest::Add(add, reply))
        })
        .await
}

async fn delete(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    content: Body,
) -> Result<Response, Answer> {
    let delete: DeleteEntries = body(&peer, content).await?;
    deed.is(format!(
        "deletion of {:?} from {} list {:?}{}",
        Few(&delete.prefixes),
        delete.list.word(),
        delete.name,
        terms(delete.force, delete.confirm_within),
    ));
    agent
        .ask_within(CHANGE_TIME, |reply| {
            Request::Lists(ListRequest::Delete(delete, reply))
        })
        .await
}

/// The first of many, for the log.
struct Few<'a>(&'a [String]);

impl std::fmt::Debug for Few<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 5;
        f.debug_list().entries(self.0.iter().take(SHOWN)).finish()?;
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

async fn import_state(Extension(imports): Extension<Arc<Semaphore>>) -> Response {
    let state = ImportState {
        version: VERSION,
        under_way: imports.available_permits() == 0,
    };
    axum::Json(state).into_response()
}

/// Nothing is done before the last entry is there: who goes away in between changes nothing.
async fn import(
    State(agent): State<Agent>,
    Extension(peer): Extension<Peer>,
    Extension(deed): Extension<Deed>,
    Extension(imports): Extension<Arc<Semaphore>>,
    uri: Uri,
    content: Body,
) -> Result<Response, Answer> {
    let mut pieces = content.into_data_stream();
    let received = receive(&peer, &deed, &imports, &uri, &mut pieces).await;
    let (import, _one) = match received {
        Ok(import) => import,
        Err(refused) => {
            // Whoever still sends reads the answer only then.
            discard(&mut pieces).await;
            return Err(refused);
        }
    };
    agent
        .ask_within(CHANGE_TIME, |reply| {
            Request::Lists(ListRequest::Import(import, reply))
        })
        .await
}

/// Reads the entries as they come, and holds no more of their text than a line.
async fn receive<'a>(
    peer: &Peer,
    deed: &Deed,
    imports: &'a Semaphore,
    uri: &Uri,
    pieces: &mut BodyDataStream,
) -> Result<(ImportEntries, SemaphorePermit<'a>), Answer> {
    peer.require_write()?;
    let known = [
        "list",
        "name",
        "force",
        "allow_empty",
        "ssh_peer",
        "confirm_within",
    ];
    let query = Query::read(uri, &known)?;
    let confirm_within = query.parse("confirm_within")?;
    let (list, force) = (query.list()?, query.get("force") == Some("1"));
    let allow_empty = query.get("allow_empty") == Some("1");
    let name = query.owned("name").ok_or_else(|| misfit(&["name"]))?;
    let ssh_peer = query.parse("ssh_peer")?;
    let refused = |why: String| Answer(StatusCode::CONFLICT, why);
    let wait = Duration::from_secs(IMPORT_WAIT_S);
    let Ok(Ok(one)) = timeout(wait, imports.acquire()).await else {
        return Err(refused(format!(
            "another import is still under way after {IMPORT_WAIT_S} s, and nothing was changed; try again when it has \
             ended"
        )));
    };
    deed.is(format!(
        "import into {} list {name:?}{}",
        list.word(),
        terms(force, confirm_within),
    ));
    let mut reader = Reader::default();
    let mut octets = 0;
    while let Some(piece) = next(pieces).await? {
        octets += piece.len();
        if octets > MAX_IMPORT {
            return Err(refused(format!(
                "an import has {MAX_IMPORT} octets at most"
            )));
        }
        reader
            .push(&piece)
            .map_err(|bad| refused(bad.to_string()))?;
        // With repeats, which are one entry each in the end, a list may be a bit longer.
        if reader.len() > 2 * MAX_LIST_ENTRIES as usize {
            let word = list.word();
            return Err(refused(format!(
                "all {word} lists together hold {MAX_LIST_ENTRIES} entries at most, this import alone has more than twice \
                 as many, and nothing was changed; `netmoat {word} list --names` shows the lists"
            )));
        }
    }
    let entries = reader.finish().map_err(|bad| refused(bad.to_string()))?;
    let import = ImportEntries {
        list,
        name,
        force,
        allow_empty,
        ssh_peer,
        confirm_within,
        entries,
    };
    Ok((import, one))
}

/// The next piece of a body; None at its end.
async fn next(pieces: &mut BodyDataStream) -> Result<Option<Bytes>, Answer> {
    timeout(PIECE_TIME, pieces.next())
        .await
        .map_err(|_| cut("took too long"))?
        .transpose()
        .map_err(|error| cut(&error.to_string()))
}

async fn discard(pieces: &mut BodyDataStream) {
    let mut octets = 0;
    while octets < MAX_IMPORT
        && let Ok(Some(piece)) = next(pieces).await
    {
        octets += piece.len();
    }
}

const _: () = assert!(ANSWER_TIME.as_secs() < CHANGE_TIME.as_secs());
