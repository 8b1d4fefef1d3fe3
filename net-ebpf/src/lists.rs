//! Block and allow lists: finds the source in the tables of `net_common::lists`, and notes whose packets were listed.

use aya_ebpf::{bindings::xdp_md, btf_maps::Array, programs::XdpContext};
use net_common::{
    abi::{ALLOW, BLOCK, HITS, HitLog, LIST_TABLES},
    guard::ndp::Kind,
    lists::{
        Prefix, Words,
        compact::{self, Found},
        find_general,
        general::{MAX_PIECES, Place},
        has,
    },
    parse::{self, Frame, Header, Packet, Payload},
    units::{EtherType, IpProto, Version},
    verdict::{Reason, Verdict},
};

use crate::{
    address::{IPV6, version},
    limit,
    maps::{LIST_COMPACT, LIST_HITS, LIST_PIECES, LIST_TABLES as TABLES, LISTS},
    packet::{View, pack, unpack},
    verdict::{HANDED_ON, word},
};

/// An array as the lists' code sees it.
#[derive(Clone, Copy)]
struct Memory<'a, const N: usize>(&'a Array<u64, N, MMAPABLE>);

/// `BPF_F_MMAPABLE`: the agent writes without a system call.
pub const MMAPABLE: usize = 1 << 10;

impl<const N: usize> Words for Memory<'_, N> {
    #[inline(always)]
    fn word(&self, index: u32) -> Option<u64> {
        let word = self.0.get_ptr(index)?;
        // SAFETY: a live map value; volatile, since the agent writes meanwhile.
        Some(unsafe { word.read_volatile() })
    }
}

/// Whether any list has an entry: one load, all that empty lists cost.
#[inline(always)]
pub fn in_use() -> bool {
    active() != 0
}

/// The stage of both lists, for a packet that the parser placed.
#[inline(always)]
pub fn guard(ctx: &XdpContext, place: u32, l4: u32) -> u32 {
    list_guard(ctx.ctx, place, l4)
}

/// The stage of both lists, for an IP packet that the parser could not judge: fragments and malformed ones have a
/// source too.
#[inline(always)]
pub fn guard_unparsed(ctx: &XdpContext, payload: Payload) -> u32 {
    let version = match payload.ether_type {
        EtherType::IPV4 => Version::V4,
        EtherType::IPV6 => Version::V6,
        _ => return HANDED_ON,
    };
    let (place, l4, _) = pack(&Packet {
        version,
        protocol: IpProto(u8::MAX),
        traffic_class: 0,
        l3: payload.l3,
        l4: payload.l3,
        l4_len: 0,
        first_fragment: false,
        fragment_offset: 0,
        fragment_header: false,
    });
    list_guard(ctx.ctx, place, l4)
}

/// Neighbour discovery is left to its own guard: a source proves nothing on the link, so being listed as allowed must
/// not lead past it; and a router whose prefix is blocked stays reachable.
#[inline(always)]
fn is_discovery(ctx: &XdpContext, packet: &Packet) -> bool {
    packet.version == Version::V6
        && packet.protocol == IpProto::ICMPV6
        && packet.fragment_offset == 0
        && View(ctx)
            .header::<8>(packet.l4)
            .is_some_and(|icmp| Kind::from_type(icmp.octet::<0>()).is_some())
}

/// See [`net_common::abi::ListTable`].
#[inline(always)]
fn active() -> u32 {
    LISTS.get(0).copied().unwrap_or_default()
}

/// With global linkage, so that the verifier checks it once. See [`pack`] for the arguments.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn list_guard(ctx: *mut xdp_md, place: u32, l4: u32) -> u32 {
    let ctx = XdpContext::new(ctx);
    judge(&ctx, &unpack(place, l4, 0, 0)).map_or(HANDED_ON, word)
}

#[inline(always)]
fn judge(ctx: &XdpContext, packet: &Packet) -> Option<Verdict> {
    if is_discovery(ctx, packet) {
        return None;
    }
    let (src, _) = parse::addresses(&View(ctx), packet)?;
    let source = Prefix::address(packet.version, &src);
    // Allow wins over block, whatever the lengths.
    let active = active();
    if lists(active, ALLOW, source) {
        return Some(Reason::Allowed.into());
    }
    if lists(active, BLOCK, source) {
        return Some(Reason::Blocked.into());
    }
    None
}

/// Whether a list has a live entry that covers an address.
#[inline(always)]
fn lists(active: u32, list: u32, source: Prefix) -> bool {
    let generation = active >> (2 * list) & 3;
    // A word that the agent cannot have written fails open.
    if generation == 0 || generation > 2 {
        return false;
    }
    let generation = generation - 1;
    let number = list * 2 + generation;
    let Some(table) = TABLES.get(number) else {
        return false;
    };
    let mut displaced = false;
    if source.version == Version::V4 && table.compact != 0 && list == BLOCK {
        // Missing: fails open.
        let Some(memory) = LIST_COMPACT.get(generation) else {
            return false;
        };
        match compact::find(
            &Memory(memory),
            table.compact,
            table.seed,
            source.low as u32,
        ) {
            Found::Yes => {
                note(list, source);
                return true;
            }
            Found::No => {}
            Found::Displaced => displaced = true,
        }
    }
    if table.pieces == 0 {
        return false;
    }
    let kind = match source.version {
        Version::V6 => IPV6,
        Version::V4 if displaced => DISPLACED,
        Version::V4 => 0,
    };
    if list_general(number, kind, source.high, source.low) == 0 {
        return false;
    }
    note(list, source);
    true
}

/// Whether the general pieces of a table have a live entry that covers an address.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn list_general(number: u32, kind: u32, high: u64, low: u64) -> u32 {
    let Some(table) = TABLES.get(number) else {
        return 0;
    };
    let version = version(kind);
    let has = |len| list_prefix(number, kind | u32::from(len) << 8, high, low) != 0;
    find_general(table, version, kind & DISPLACED != 0, has).into()
}

/// Whether a prefix of an address is a live entry of a table. A function of its own, since the verifier would follow
/// what it does for every length.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn list_prefix(number: u32, kind: u32, high: u64, low: u64) -> u32 {
    let Some(table) = TABLES.get(number) else {
        return 0;
    };
    let version = version(kind);
    let address = Prefix {
        version,
        high,
        low,
        // Unused: `first` sets it.
        len: 0,
    };
    let prefix = address.first((kind >> 8) as u8);
    let place = Place::of(prefix, table.seed, table.pieces);
    let Some(piece) = LIST_PIECES.get(number * MAX_PIECES + place.piece) else {
        return 0;
    };
    has(&Memory(piece), place, prefix, limit::now).into()
}

/// Beside the family: displaced entries are looked for too.
const DISPLACED: u32 = 1 << 1;

const _: () = assert!(DISPLACED != IPV6);

/// Leaves the source for the agent, which counts its entry's hits. Nothing of the entry is touched: a flood from many
/// would meet a cold cache once more, and CPUs each other.
#[inline(always)]
fn note(list: u32, source: Prefix) {
    let Some(log) = LIST_HITS.get_ptr_mut(list) else {
        return;
    };
    // SAFETY: this CPU's own live map value.
    let HitLog { count, sources } = unsafe { &mut *log };
    let at = *count as usize & (HITS - 1);
    *count += 1;
    if let Some(place) = sources.get_mut(at) {
        let mapped = if source.version == Version::V4 {
            0xffff_0000_0000
        } else {
            0
        };
        *place = [source.high, source.low | mapped];
    }
}

const _: () = assert!(LIST_TABLES == 4 && MAX_PIECES.is_power_of_two() && HITS.is_power_of_two());
