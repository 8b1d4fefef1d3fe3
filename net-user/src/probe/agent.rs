//! What the agent saw of the walk's own connection, joined into the report.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Stage, Walk, tcp::Socket};
use crate::control::client::Client;

/// What the agent saw of one connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// In plain words, a sentence each.
    pub lines: Vec<String>,
}

/// The agent's attention to a pair of addresses, until it is asked what it saw.
pub struct Watch {
    agent: Client,
    connection: Option<(SocketAddr, SocketAddr)>,
}

impl Watch {
    /// Which connection it was in the end.
    pub fn connected(&mut self, socket: &Socket) {
        self.connection = Some((socket.local, socket.remote));
    }
}

/// Asks the agent to look out for what comes from and goes to these addresses. `None` where there is no agent.
pub async fn watch(agent: &Client, _addresses: &[IpAddr], _port: u16) -> Option<Watch> {
    Some(Watch {
        agent: agent.clone(),
        connection: None,
    })
}

/// What it saw; may add findings to the stages.
pub async fn seen(_walk: &Walk<'_>, watch: Watch, _stages: &mut [Stage]) -> Option<AgentView> {
    watch.agent.status().await.ok()?;
    Some(AgentView::default())
}
