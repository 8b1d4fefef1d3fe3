//! Close: who ended the connection, how, and what is left of it.

use serde::{Deserialize, Serialize};

use super::{Facts, Layer, Lines, Stage, Walk, http::Open, tcp::Socket};

/// The details of an end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CloseFacts {}

impl CloseFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        Vec::new()
    }
}

/// Ends the connection if the server has not, and looks at what is left. `open`: none when it ended already.
pub async fn end(walk: &Walk<'_>, _socket: &Socket, open: Option<Open>) -> Stage {
    let start = walk.now_us();
    if let Some(open) = open {
        let _ = open.close().await;
    }
    Stage::new(
        Layer::Close,
        walk.since(start),
        "closed",
        Vec::new(),
        Facts::Close(CloseFacts::default()),
    )
}
