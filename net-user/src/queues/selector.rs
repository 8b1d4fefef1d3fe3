//! Reading a [`Selector`].

use std::{net::SocketAddr, str::FromStr};

use super::Selector;
use crate::control::queues::ListenerQueues;

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
            return Ok(Self::Port(port));
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::Socket(socket.ip(), socket.port()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if text.is_empty() || text.contains(':') {
            return Err(format!("`{}` names no listener", text.escape_debug()));
        }
        Ok(Self::Owner(text.to_owned()))
    }
}

impl Selector {
    /// Whether it names a listener.
    pub fn matches(&self, listener: &ListenerQueues) -> bool {
        match self {
            Self::Port(port) => listener.port == *port,
            Self::Address(address) => listener.address.parse() == Ok(*address),
            Self::Socket(address, port) => {
                listener.port == *port && listener.address.parse() == Ok(*address)
            }
            Self::Owner(name) => listener.sockets.iter().any(|s| {
                s.process.as_ref().is_some_and(|p| {
                    p.name == *name
                        || p.unit.as_deref().is_some_and(|unit| {
                            unit == name || unit.strip_suffix(".service") == Some(name)
                        })
                })
            }),
        }
    }
}
