//! What an address is to this network namespace (R-GEN-1).

use net_common::{
    abi::{AddrWords, AddressKey, AddressRole},
    spread::own_place,
    units::Version,
};

use crate::{maps::ADDRESSES, policy};

/// Flag of functions with global linkage that take an address as two words: it is IPv6.
pub const IPV6: u32 = 1;

/// An address as two words, in the order of the packet.
#[inline(always)]
pub fn halves(addr: &AddrWords) -> (u64, u64) {
    let pair = |a: u32, b: u32| u64::from(a) | u64::from(b) << 32;
    (pair(addr[0], addr[1]), pair(addr[2], addr[3]))
}

/// The address that [`halves`] took apart.
#[inline(always)]
pub fn whole(high: u64, low: u64) -> AddrWords {
    [
        high as u32,
        (high >> 32) as u32,
        low as u32,
        (low >> 32) as u32,
    ]
}

/// [`IPV6`] or nothing.
#[inline(always)]
pub fn kind(version: Version) -> u32 {
    match version {
        Version::V4 => 0,
        Version::V6 => IPV6,
    }
}

/// The version that [`kind`] stands for.
#[inline(always)]
pub fn version(kind: u32) -> Version {
    if kind & IPV6 != 0 {
        Version::V6
    } else {
        Version::V4
    }
}

/// Whether an address is an IPv6 link-local one, which is another host's on another link.
#[inline(always)]
pub fn is_link_local(version: Version, addr: &AddrWords) -> bool {
    version == Version::V6 && u32::from_be(addr[0]) >> 22 == 0xfe80 >> 6
}

/// Whether an address is a unicast address of this namespace.
#[inline(always)]
pub fn is_own(version: Version, addr: &AddrWords) -> bool {
    let (Some(guards), Some(settings)) = (policy::guards(), policy::settings()) else {
        return false;
    };
    let (word, bits) = own_place(addr, settings.hash_seed);
    let Some(&filter) = guards.own.get(word) else {
        return false;
    };
    filter & bits == bits && roles(version, addr) & AddressRole::OWN != 0
}

/// The flags of [`AddressRole`] that an address has.
#[inline(always)]
pub fn roles(version: Version, addr: &AddrWords) -> u32 {
    let (high, low) = halves(addr);
    address_roles(kind(version), high, low)
}

/// With global linkage for the sake of its stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn address_roles(kind: u32, high: u64, low: u64) -> u32 {
    let key = AddressKey {
        addr: whole(high, low),
        family: version(kind).number().into(),
    };
    // SAFETY: a plain integer.
    unsafe { ADDRESSES.get(key) }.map_or(0, |role| role.flags)
}
