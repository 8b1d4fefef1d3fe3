//! The maps of queue health: connections of listeners, and who sends them SYNs.

use std::collections::HashMap as StdHashMap;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray},
};
use net_common::abi::{FlowKey, FlowStats, SKETCH_CELLS, SynLog};

use super::{Drift, Maps, contents, drift, replace, take};

/// These maps, in a struct of their own.
pub(super) struct Flows {
    slots: HashMap<MapData, FlowKey, u32>,
    flows: Array<MapData, FlowStats>,
    sketches: Array<MapData, [u32; SKETCH_CELLS]>,
    syn_log: PerCpuArray<MapData, SynLog>,
    /// What stands in `FLOW_SLOTS`.
    written: StdHashMap<FlowKey, u32>,
}

impl Flows {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            slots: take(ebpf, "FLOW_SLOTS")?,
            flows: take(ebpf, "FLOWS")?,
            sketches: take(ebpf, "SKETCHES")?,
            syn_log: take(ebpf, "SYN_LOG")?,
            written: StdHashMap::new(),
        })
    }

    /// Learns what stands in the map.
    pub(super) fn adopt(&mut self) -> Result<()> {
        self.written = contents(&self.slots, "FLOW_SLOTS")?;
        Ok(())
    }

    /// Zeroes a slot.
    pub(super) fn clear(&mut self, slot: u32) -> Result<()> {
        self.flows
            .set(slot, FlowStats::default(), 0)
            .context("FLOWS cannot be written")?;
        self.clear_sketch(slot)
    }

    fn clear_sketch(&mut self, slot: u32) -> Result<()> {
        self.sketches
            .set(slot, [0; SKETCH_CELLS], 0)
            .context("SKETCHES cannot be written")
    }
}

impl Flows {
    /// Sets `FLOW_SLOTS` right, see [`Maps::mend`].
    pub(super) fn mend(&mut self) -> Result<Option<Drift>> {
        drift::mend("FLOW_SLOTS", &mut self.slots, &self.written, PartialEq::eq)
    }

    /// Entries of `FLOW_SLOTS`.
    pub(super) fn used(&self) -> usize {
        self.written.len()
    }
}

impl Maps {
    /// Makes `FLOW_SLOTS` hold exactly `wanted`: which slot counts the connections of which listener.
    ///
    /// # Errors
    /// As [`Maps::set_listeners`].
    pub fn set_flow_slots(&mut self, wanted: &StdHashMap<FlowKey, u32>) -> Result<()> {
        let name = |key: &FlowKey| format!("FLOW_SLOTS: port {} of IPv{}", key.port, key.family);
        let flows = &mut self.flows;
        replace(&mut flows.slots, &mut flows.written, wanted, name)
    }

    /// What stands in `FLOW_SLOTS`.
    pub fn flow_slots(&self) -> &StdHashMap<FlowKey, u32> {
        &self.flows.written
    }

    /// Connections of the listener in a slot. Counted one by one meanwhile: two counters of it may be of different moments.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn flows(&self, slot: u32) -> Result<FlowStats> {
        let flows = self.flows.flows.get(&slot, 0);
        flows.context("FLOWS cannot be read")
    }

    /// Which sources have sent SYNs to the listener in a slot since the last time; for [`net_common::sketch::estimate`].
    /// Who comes first between the read and the write is lost unless it comes again.
    ///
    /// # Errors
    /// The kernel refuses the read or the write.
    pub fn take_sketch(&mut self, slot: u32) -> Result<[u32; SKETCH_CELLS]> {
        let sketch = self.flows.sketches.get(&slot, 0);
        let sketch = sketch.context("SKETCHES cannot be read")?;
        if sketch.iter().any(|&cell| cell != 0) {
            self.flows.clear_sketch(slot)?;
        }
        Ok(sketch)
    }

    /// Who sent SYNs to listeners last, CPU by CPU. An entry that is written meanwhile may be of two sources.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn syn_log(&self) -> Result<Vec<SynLog>> {
        let logs = self.flows.syn_log.get(&0, 0);
        Ok(logs.context("SYN_LOG cannot be read")?.to_vec())
    }
}
