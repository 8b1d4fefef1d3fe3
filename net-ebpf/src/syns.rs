//! Who asks for connections: SYNs to listeners counted, their sources in a sketch and the last of them in a log.

use net_common::{
    abi::{SKETCH_CELLS, SYN_LOG as ENTRIES, SynLogEntry},
    sketch,
    spread::source_hash,
};

use crate::{
    limit::set_bits_32,
    maps::{SKETCHES, SYN_LOG},
    packet::below,
    pipeline::Tcp,
    policy,
    syn_cookie::stat,
};

const _: () = assert!(SKETCH_CELLS.is_power_of_two() && ENTRIES.is_power_of_two());

/// Notes a SYN to the listener in `slot`, whatever will become of it.
#[inline(always)]
pub fn count(tcp: &Tcp, slot: u32) {
    let pair = |a: u32, b: u32| u64::from(a) | u64::from(b) << 32;
    let [a, b, c, d] = tcp.src;
    let version = tcp.packet.version.number();
    syn_seen(pair(a, b), pair(c, d), slot, version.into());
}

/// With global linkage, so that the verifier checks it once; hence the source in two words.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn syn_seen(front: u64, back: u64, slot: u32, version: u32) -> i32 {
    let Some(settings) = policy::settings() else {
        return 0;
    };
    stat(slot, |s| s.syns += 1);
    let addr = [
        front as u32,
        (front >> 32) as u32,
        back as u32,
        (back >> 32) as u32,
    ];
    if let Some(sketch) = SKETCHES.get_ptr_mut(slot) {
        let (cell, bit) = sketch::place(source_hash(&addr, settings.hash_seed));
        let cell = below::<{ SKETCH_CELLS as i32 - 1 }>(cell as u32);
        // Read before it is written: in a flood every bit that is hit is set already, and CPUs leave the line to one another.
        set_bits_32(sketch.cast::<u32>().wrapping_add(cell), bit);
    }
    if let Some(log) = SYN_LOG.get_ptr_mut(0) {
        // SAFETY: this CPU's own live map value.
        let count = unsafe { &mut (*log).count };
        let at = below::<{ ENTRIES as i32 - 1 }>(*count as u32);
        *count += 1;
        // SAFETY: as above.
        let entries = unsafe { &raw mut (*log).entries };
        let entry = entries.cast::<SynLogEntry>().wrapping_add(at);
        // SAFETY: as above; `at` is below the number of entries.
        unsafe {
            *entry = SynLogEntry {
                addr,
                slot,
                version,
            };
        }
    }
    0
}
