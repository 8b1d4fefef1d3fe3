//! The agent's side of [`crate::canaries`]: walks begin, and what they found goes to the journal and to the verdicts.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

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
        // There is none yet that could be gone.
        canaries.follow(&config.probes, Instant::now(), Duration::ZERO);
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
        let Ok(now) = Now::read() else { return };
        let probes = &self.config.probes;
        let gone = self.walks.canaries.follow(probes, Instant::now(), now.wall);
        for text in gone {
            self.neighbors.probe_dropped(text, now);
        }
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
        for (target, witness) in self.walks.canaries.witnesses() {
            let Some(witness) = witness else { continue };
            for of in self.listeners_at(target) {
                let said = heard.entry(of).or_default();
                if !said.contains(&witness) {
                    said.push(witness.clone());
                }
            }
        }
        heard
    }

    /// Brings forward the walks of probes that go to a listener of this host which is flooded.
    pub(super) fn hurry_walks(&mut self, flooded: &HashSet<Identity>) {
        if flooded.is_empty() {
            return;
        }
        let targets = self.walks.canaries.witnesses().map(|(target, _)| target);
        let there: HashSet<_> = targets
            .filter(|target| self.listeners_at(*target).any(|of| flooded.contains(&of)))
            .collect();
        let now = Instant::now();
        self.walks
            .canaries
            .hurry(|target| there.contains(&target), now);
    }

    /// The listeners of this host that take what comes to an address; none where it is another host's.
    fn listeners_at(&self, target: SocketAddr) -> impl Iterator<Item = Identity> {
        let ip = target.ip().to_canonical();
        let own = ip.is_loopback() || self.facts.addresses.iter().any(|own| own.ip == ip);
        let listeners = self.compiled.listeners.iter();
        listeners
            .filter(move |listener| own && takes(&listener.socket, target))
            .map(|listener| identity(&listener.socket))
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
