//! The agent's side of [`crate::canaries`]: walks begin, and what they found goes to the journal and to the verdicts.

use std::{collections::HashMap, net::SocketAddr, time::Instant};

use tokio::sync::mpsc;

use super::Agent;
use crate::{
    canaries::{AT_ONCE, Canaries, Due, Walked, Witness},
    host::sock_diag::ListenSocket,
    listeners::{Identity, identity},
    neighbor::Now,
    privileges::walker,
};

/// The probes, and what comes back from their walks.
pub(super) struct Walks {
    canaries: Canaries,
    sender: mpsc::Sender<(u64, Walked)>,
    ended: mpsc::Receiver<(u64, Walked)>,
}

impl Walks {
    /// Those of a config; their walks begin with the first tick.
    pub(super) fn new(config: &crate::config::Config) -> Self {
        let (sender, ended) = mpsc::channel(AT_ONCE);
        // Where the kernel gives no random number, all walk at the middle of their times.
        let mut canaries = Canaries::new(|| getrandom::u32().unwrap_or(u32::MAX / 2));
        canaries.follow(&config.probes, Instant::now());
        Self {
            canaries,
            sender,
            ended,
        }
    }

    /// Waits for the end of a walk. Cancel safe.
    pub(super) async fn ended(&mut self) -> Option<(u64, Walked)> {
        self.ended.recv().await
    }

    /// What is known.
    pub(super) const fn known(&self) -> &Canaries {
        &self.canaries
    }
}

impl Agent {
    /// The probes of the config are others.
    pub(super) fn follow_probes(&mut self) {
        let probes = &self.config.probes;
        self.walks.canaries.follow(probes, Instant::now());
    }

    /// Begins the walks that are due.
    pub(super) fn begin_walks(&mut self) {
        for due in self.walks.canaries.due(Instant::now()) {
            let Due { id, plan, patience } = due;
            let sender = self.walks.sender.clone();
            tokio::spawn(async move {
                let walked = walker::walk(plan, patience).await;
                // Nobody is there at the end.
                let _ = sender.send((id, walked)).await;
            });
        }
    }

    /// Takes how a walk ended.
    pub(super) fn end_walk(&mut self, id: u64, walked: Walked) {
        let Ok(now) = Now::read() else { return };
        if let Some(change) = self.walks.canaries.ended(id, walked, now.wall) {
            self.neighbors.probe_changed(change, now);
        }
    }

    /// What probes say of the listeners of this host that they go to.
    pub(super) fn witnesses(&self) -> HashMap<Identity, Vec<Witness>> {
        let mut heard: HashMap<Identity, Vec<Witness>> = HashMap::new();
        for (targets, witness) in self.walks.canaries.witnesses() {
            let is_own = |target: &&SocketAddr| {
                let ip = target.ip().to_canonical();
                ip.is_loopback() || self.facts.addresses.iter().any(|own| own.ip == ip)
            };
            let own: Vec<_> = targets.iter().filter(is_own).collect();
            for listener in &self.compiled.listeners {
                let goes_there = own.iter().any(|target| takes(&listener.socket, **target));
                let of = identity(&listener.socket);
                if goes_there && !heard.get(&of).is_some_and(|said| said.contains(&witness)) {
                    heard.entry(of).or_default().push(witness.clone());
                }
            }
        }
        heard
    }
}

/// Whether a listener takes what comes to an address of this host.
fn takes(listener: &ListenSocket, target: SocketAddr) -> bool {
    listener.takes(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queues::testing::socket;

    #[test]
    fn a_listener_takes_what_its_address_and_family_let_in() {
        let listener = |address: &str, v6only| ListenSocket {
            address: address.parse().unwrap(),
            family: if address.contains(':') { 6 } else { 4 },
            v6only,
            ..socket(1, 128)
        };
        for (address, v6only, target, expected) in [
            ("0.0.0.0", false, "192.0.2.1:80", true),
            ("0.0.0.0", false, "192.0.2.1:81", false),
            ("0.0.0.0", false, "[2001:db8::1]:80", false),
            ("192.0.2.1", false, "192.0.2.1:80", true),
            ("192.0.2.2", false, "192.0.2.1:80", false),
            ("::", false, "192.0.2.1:80", true),
            ("::", true, "192.0.2.1:80", false),
            ("::", true, "[2001:db8::1]:80", true),
            ("::ffff:192.0.2.1", false, "192.0.2.1:80", true),
        ] {
            let taken = takes(&listener(address, v6only), target.parse().unwrap());
            assert_eq!(taken, expected, "{address} {v6only} {target}");
        }
    }
}
