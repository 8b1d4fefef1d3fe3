//! Queue health: from looks at the host to what is going on at every listener.
//!
//! [`looks`] has what is looked at, [`Health`] keeps what is needed of it and says what it means. No system calls here, and
//! no clock: whoever looks says when. The agent looks all the time, `netmoat queues --once` for a moment.

pub mod looks;
mod selector;

use std::{net::IpAddr, time::Duration};

use crate::listeners::Identity;

/// Least time between two walks of the kernel's connection table (R-Q-6).
pub const WALK_EVERY: Duration = Duration::from_secs(5);

/// Which listeners an operator means: `443`, `:443`, `192.0.2.1:443`, `[2001:db8::1]:443`, `192.0.2.1`, or the name of a
/// process or unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A port, on whatever address.
    Port(u16),
    /// An address as it was bound, whatever the port.
    Address(IpAddr),
    /// Both.
    Socket(IpAddr, u16),
    /// A process or unit, by its whole name; a unit also without `.service`.
    Owner(String),
}

/// A listener's address as people read it, such as `[::]:443`.
pub fn name_of(identity: &Identity) -> String {
    std::net::SocketAddr::new(identity.address, identity.port).to_string()
}
