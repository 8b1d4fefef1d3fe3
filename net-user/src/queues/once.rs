//! One short look without an agent: sock_diag, /proc, and nothing that needs root.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{Health, looks::ListenerLook};
use crate::{
    config::SynMode,
    control::queues::{Queues, Source},
    host::{self, loss, owners, sock_diag::Diag, walk::Walker},
    listeners::{Identity, identity},
    neighbor::Now,
};

/// How long it is looked.
pub const LOOK: Duration = Duration::from_secs(2);
/// How often the accept queues are looked at in that time.
const EVERY: Duration = Duration::from_millis(100);
/// Sockets of the walk at most.
const WALK_BOUND: usize = 1_000_000;

/// Looks at the calling thread's network namespace for [`LOOK`]. Blocks.
///
/// # Errors
/// The kernel tells its sockets, counters or settings not at all.
pub fn look() -> Result<Queues> {
    let mut diag = Diag::open()?;
    let began = Instant::now();
    let mut health = Health::once(began);
    for (name, tells) in [
        ("xdp", "SYNs, cookies and their sources"),
        (
            "tracepoint",
            "completed and ended connections, handshake times",
        ),
        ("retransmits", "SYN-ACKs that were sent again"),
        ("resets", "resets that peers sent"),
    ] {
        health.source(Source {
            name: name.to_owned(),
            tells: tells.to_owned(),
            missing: Some("told by a running agent only; start it with `netmoat run`".to_owned()),
            ..Source::default()
        });
    }
    let host = host::look()?;
    let settings = host.settings.clone();
    health.host(began, host);
    let mut sockets = diag.listeners()?;
    let walk = Walker::new().walk(&mut diag, &sockets, &settings, WALK_BOUND)?;
    let why = (!walk.complete)
        .then(|| format!("it ended at {WALK_BOUND} sockets, so that counts are lower bounds"));
    health.looked("walk", walk.at, walk.cost, why);
    health.walk(walk);
    let began_owners = Instant::now();
    health.listeners(began_owners, listeners(&sockets));
    let look = owners::look(&health.wanted_owners(), None);
    let now = Instant::now();
    health.looked("processes", now, now - began_owners, look.missing.clone());
    health.owners(look);
    while began.elapsed() < LOOK {
        // Nothing is awaited: this is the time between two samples.
        thread::sleep(EVERY);
        sockets = diag.listeners()?;
        health.listeners(Instant::now(), listeners(&sockets));
    }
    let names: Vec<_> = nix::net::if_::if_nameindex()?
        .iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .filter(|name| name != "lo")
        .collect();
    health.loss(loss::look(&names)?);
    let now = Instant::now();
    health.host(now, host::look()?);
    health.judge(now, Now::read()?.wall.as_secs());
    Ok(health.report(now))
}

/// The listeners as the engine takes them.
fn listeners(sockets: &[crate::host::sock_diag::ListenSocket]) -> Vec<ListenerLook> {
    let mut looks: Vec<ListenerLook> = Vec::new();
    for socket in sockets {
        let identity: Identity = identity(socket);
        match looks.iter_mut().find(|look| look.identity == identity) {
            Some(look) => look.sockets.push(socket.clone()),
            None => looks.push(ListenerLook {
                identity,
                sockets: vec![socket.clone()],
                interface: (identity.ifindex != 0)
                    .then(|| nix::net::if_::if_indextoname(identity.ifindex).ok())
                    .flatten()
                    .map(|name| name.to_string_lossy().into_owned()),
                mode: SynMode::Off,
                protected: false,
                why_not: Some("looked at without the agent".to_owned()),
            }),
        }
    }
    looks
}
