//! Route and neighbour: which interface, source and next hop; who that is on the link.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Facts, Layer, Lines, Stage, Walk};
use crate::control::client::Client;

/// The details of the way out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteFacts {}

impl RouteFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        Vec::new()
    }
}

/// Looks at the way to each address. With `agent`, next hops are held to its bindings.
pub async fn look(walk: &Walk<'_>, _agent: Option<&Client>, _addresses: &[IpAddr]) -> Stage {
    let start = walk.now_us();
    Stage::new(
        Layer::Route,
        walk.since(start),
        "not looked at",
        Vec::new(),
        Facts::Route(RouteFacts::default()),
    )
}
