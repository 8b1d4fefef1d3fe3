//! Connections of listeners, and who sends them SYNs.

use std::{collections::HashMap, net::SocketAddr};

use net_common::{
    abi::{FlowKey, FlowStats, SKETCH_CELLS, SynLog},
    units::addr_words,
};
use net_user::datapath::attach;

use super::Lab;

/// The key of a listener that is bound to this address.
pub fn flow_key(bound: SocketAddr) -> FlowKey {
    FlowKey {
        addr: addr_words(bound.ip()),
        port: bound.port(),
        family: if bound.is_ipv4() { 4 } else { 6 },
    }
}

impl Lab {
    /// Has the tracepoints follow sockets, for connections that are really made. Returns which are missing.
    pub fn follow_sockets(&mut self) -> Vec<(&'static str, String)> {
        let sockets = attach::attach_sockets(&mut self.ebpf, None);
        let sockets = sockets.expect("the tracepoint of sockets");
        let missing = sockets.missing.clone();
        self.sockets_followed = Some(sockets);
        missing
    }

    /// Makes these listeners the ones whose connections are counted, each in its slot.
    pub fn set_flow_slots(&mut self, listeners: &[(SocketAddr, u32)]) {
        let wanted: HashMap<_, _> = listeners
            .iter()
            .map(|&(bound, slot)| (flow_key(bound), slot))
            .collect();
        self.maps.set_flow_slots(&wanted).expect("FLOW_SLOTS");
    }

    /// Connections of the listener in a slot.
    pub fn flows(&self, slot: u32) -> FlowStats {
        self.maps.flows(slot).expect("FLOWS")
    }

    /// Who sent SYNs to the listener in a slot since the last time.
    pub fn take_sketch(&mut self, slot: u32) -> [u32; SKETCH_CELLS] {
        self.maps.take_sketch(slot).expect("SKETCHES")
    }

    /// The last SYNs, CPU by CPU.
    pub fn syn_log(&self) -> Vec<SynLog> {
        self.maps.syn_log().expect("SYN_LOG")
    }

    /// Zeroes a slot, as the agent does before another listener has it.
    pub fn clear_slot(&mut self, slot: u32) {
        self.maps.clear_listener_stats(slot).expect("a slot");
    }

    /// SYNs to the listener in a slot.
    pub fn syns(&self, slot: u32) -> u64 {
        self.maps.listener_stats(slot).expect("LISTENER_STATS").syns
    }
}
