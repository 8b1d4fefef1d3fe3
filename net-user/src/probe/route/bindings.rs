//! The agent's bindings of the next hops.

use super::facts::{Binding, Neighbor, Way};
use crate::{
    control::{
        client::Client,
        protocol::{BindingOrigin, BindingState, InterfaceStatus, NeighborBinding},
    },
    host::links::Link,
};

/// What the agent holds neighbours to.
pub(super) struct Bindings {
    bindings: Vec<NeighborBinding>,
    /// Indexes of the interfaces that it guards here.
    guarded: Vec<u32>,
}

/// Asks the agent. What keeps its bindings from being of use here, in plain words: it may guard another network namespace,
/// whose interfaces have the same names.
pub(super) async fn of(agent: &Client, links: &[Link]) -> Result<Bindings, String> {
    let status = agent
        .status()
        .await
        .map_err(|_| "no agent answers".to_owned())?;
    let guarded: Vec<_> = status
        .interfaces
        .iter()
        .filter(|guarded| links.iter().any(|link| is_guarded(link, guarded)))
        .map(|guarded| guarded.ifindex)
        .collect();
    if guarded.is_empty() {
        return Err("the agent guards no interface of this network namespace".to_owned());
    }
    match agent.neighbors(false).await {
        Ok(neighbors) => Ok(Bindings {
            bindings: neighbors.bindings,
            guarded,
        }),
        Err(error) => Err(format!("the agent does not tell its bindings: {error}")),
    }
}

/// Program ids are unique on a machine, whichever namespace their interface is in.
fn is_guarded(link: &Link, guarded: &InterfaceStatus) -> bool {
    link.index == guarded.ifindex && link.xdp.is_some_and(|xdp| xdp.id == guarded.xdp_program_id)
}

impl Bindings {
    /// In plain words.
    pub(super) fn what(&self) -> String {
        format!("the agent's, {} of them", self.bindings.len())
    }

    /// Sets the binding of the way's next hop, which the kernel may not have asked for yet.
    pub(super) fn join(&self, way: &mut Way, links: &[Link]) {
        let Some(link) = links.iter().find(|link| link.index == way.ifindex) else {
            return;
        };
        if !way.kind.leads() || way.kind == super::WayKind::Local {
            return;
        }
        let hop = way.hop();
        let found = self
            .bindings
            .iter()
            .find(|binding| binding.address.parse() == Ok(hop) && self.is_of(binding, link, links));
        let Some(found) = found.filter(|found| found.state != BindingState::Own) else {
            return;
        };
        let binding = Some(Binding {
            macs: found.macs.clone(),
            origin: match found.origin {
                BindingOrigin::Config => "named in the config",
                BindingOrigin::Pinned => "pinned",
                BindingOrigin::Learned => "learned",
            }
            .to_owned(),
        });
        match &mut way.neighbor {
            Some(neighbor) => neighbor.binding = binding,
            None => {
                way.neighbor = Some(Neighbor {
                    address: hop,
                    state: "not asked for yet".to_owned(),
                    mac: None,
                    mac_before: None,
                    usable: false,
                    permanent: false,
                    sharing: Vec::new(),
                    binding,
                });
            }
        }
    }

    /// Whether a binding is of what is at the other end of `link`: the guarded interface itself, or a VLAN on it.
    fn is_of(&self, binding: &NeighborBinding, link: &Link, links: &[Link]) -> bool {
        let named =
            |link: &Link| link.name == binding.interface && self.guarded.contains(&link.index);
        if named(link) {
            return binding.vlan == 0;
        }
        link.vlan_id == Some(binding.vlan)
            && links
                .iter()
                .any(|lower| named(lower) && link.is_vlan_of(lower))
    }
}
