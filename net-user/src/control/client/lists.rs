//! Requests about lists.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Method;
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::lists::{
    AddEntries, DeleteEntries, FindQuery, ImportState, ListChanged, ListFound, ListImported,
    ListNames, ListPage, ListQuery,
};
use super::{Client, ClientError};
use crate::config::HumanDuration;
use crate::lists::List;

/// Longer than the agent gives itself, as with other requests.
const PATIENCE: Duration = Duration::from_secs(150);
/// The same for an import, which may wait for another one; the agent gives a connection no more than 300 s.
const IMPORT_PATIENCE: Duration = Duration::from_secs(290);
/// What is sent at once of an import.
const PIECE: usize = 1 << 16;

/// A whole list that is to replace the one of its name.
#[derive(Debug)]
pub struct Import {
    /// Which list.
    pub list: List,
    /// Its name.
    pub name: String,
    /// Even if it locks someone out.
    pub force: bool,
    /// Even if it empties the list.
    pub allow_empty: bool,
    /// From where the operator is connected by SSH.
    pub ssh_peer: Option<IpAddr>,
    /// The former list returns after so long without a confirmation.
    pub confirm_within: Option<HumanDuration>,
    /// The entries, one a line.
    pub text: Bytes,
}

impl Client {
    /// `POST /v1/lists/add`
    pub async fn add_entries(&self, add: &AddEntries) -> Result<ListChanged, ClientError> {
        self.change("/v1/lists/add", add).await
    }

    /// `POST /v1/lists/del`
    pub async fn delete_entries(&self, delete: &DeleteEntries) -> Result<ListChanged, ClientError> {
        self.change("/v1/lists/del", delete).await
    }

    /// `GET /v1/lists`
    pub async fn list_page(&self, query: &ListQuery) -> Result<ListPage, ClientError> {
        let mut path = format!("/v1/lists?list={}&limit={}", query.list.word(), query.limit);
        if let Some(name) = &query.name {
            path += &format!("&name={name}");
        }
        if let Some(after) = &query.after {
            path += &format!("&after={after}");
        }
        self.get(&path).await
    }

    /// `GET /v1/lists/find`
    pub async fn find_entries(&self, query: &FindQuery) -> Result<ListFound, ClientError> {
        let mut path = format!("/v1/lists/find?prefix={}", query.prefix);
        if let Some(name) = &query.name {
            path += &format!("&name={name}");
        }
        self.get(&path).await
    }

    /// `GET /v1/lists/names`
    pub async fn list_names(&self) -> Result<ListNames, ClientError> {
        self.get("/v1/lists/names").await
    }

    /// `POST /v1/lists/import`; `sent` tells how many octets have left.
    pub async fn import_list(
        &self,
        import: Import,
        sent: Arc<AtomicUsize>,
    ) -> Result<ListImported, ClientError> {
        let mut path = format!(
            "/v1/lists/import?list={}&name={}&force={}&allow_empty={}",
            import.list.word(),
            import.name,
            u8::from(import.force),
            u8::from(import.allow_empty)
        );
        if let Some(peer) = import.ssh_peer {
            path += &format!("&ssh_peer={peer}");
        }
        if let Some(within) = import.confirm_within {
            path += &format!("&confirm_within={within}");
        }
        let pieces = stream::unfold((import.text, sent), async |(mut text, sent)| {
            if text.is_empty() {
                return None;
            }
            let piece = text.split_to(PIECE.min(text.len()));
            sent.fetch_add(piece.len(), Ordering::Relaxed);
            Some((Ok(Frame::data(piece)), (text, sent)))
        });
        let body = BodyExt::boxed(StreamBody::new(Box::pin(pieces)));
        self.send(Method::POST, &path, body, IMPORT_PATIENCE).await
    }

    /// `GET /v1/lists/import`
    pub async fn import_state(&self) -> Result<ImportState, ClientError> {
        self.get("/v1/lists/import").await
    }

    /// Waits for the changes before it.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = Full::new(Bytes::new()).boxed();
        self.send(Method::GET, path, body, PATIENCE).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.unexpected(e.to_string()))?;
        let body = Full::new(Bytes::from(body)).boxed();
        self.send(Method::POST, path, body, PATIENCE).await
    }
}
