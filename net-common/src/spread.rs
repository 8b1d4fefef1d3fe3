//! Seeded hashes that spread addresses over cells: the SYN-ACK limit's prefixes and the filter of
//! sources that may hold a socket. Not cryptographic: what matters is that an outsider who does not
//! know the seed cannot aim at a cell.

use crate::{
    abi::{AddrWords, SOCKET_FILTER_BLOCKS, SYN_ACK_CELLS},
    units::Version,
};

/// Murmur3's 64-bit finalizer: every input bit reaches every output bit.
#[inline(always)]
fn mix(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[inline(always)]
fn pair(a: u32, b: u32) -> u64 {
    u64::from(a) | u64::from(b) << 32
}

/// Cell of the SYN-ACK limit for an address: its /24 or /64 prefix, below [`SYN_ACK_CELLS`].
#[inline(always)]
pub fn syn_ack_cell(version: Version, addr: &AddrWords, seed: u64) -> u32 {
    let prefix = match version {
        Version::V4 => u64::from(addr[0] & u32::from_be(0xffff_ff00)),
        // The seed's turn keeps a /64 from meeting the /24 of the same bits.
        Version::V6 => pair(addr[0], addr[1]) ^ seed.rotate_left(32),
    };
    mix(prefix ^ seed) as u32 & (SYN_ACK_CELLS - 1)
}

/// Where a source stands in the filter: its block, below [`SOCKET_FILTER_BLOCKS`], and the three bits
/// in that block's word. One cache line a probe; a false positive costs one socket look-up.
#[inline(always)]
pub fn filter_place(version: Version, addr: &AddrWords, seed: u64) -> (u32, u64) {
    let h = match version {
        Version::V4 => mix(u64::from(addr[0]) ^ seed),
        Version::V6 => mix(mix(pair(addr[0], addr[1]) ^ seed) ^ pair(addr[2], addr[3])),
    };
    let bits = 1 << (h & 63) | 1 << (h >> 6 & 63) | 1 << (h >> 12 & 63);
    ((h >> 32) as u32 & (SOCKET_FILTER_BLOCKS - 1), bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::addr_words;

    fn v4(n: u32) -> AddrWords {
        addr_words(core::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn hosts_of_one_prefix_share_a_cell_and_prefixes_spread_evenly() {
        let seed = 0x1234_5678_9abc_def0;
        assert_eq!(
            syn_ack_cell(Version::V4, &v4(0x0a00_0001), seed),
            syn_ack_cell(Version::V4, &v4(0x0a00_00fe), seed)
        );
        let mut cells = vec![0u32; SYN_ACK_CELLS as usize];
        for prefix in 0..SYN_ACK_CELLS * 16 {
            cells[syn_ack_cell(Version::V4, &v4(prefix << 8), seed) as usize] += 1;
        }
        // Poisson with mean 16: 60 is over ten standard deviations away.
        assert!(
            cells.iter().all(|&n| n < 60),
            "fullest cell: {:?}",
            cells.iter().max()
        );
    }

    #[test]
    fn hosts_of_one_ipv6_64_share_a_cell() {
        let a = addr_words("2001:db8:1:2::1".parse().unwrap());
        let b = addr_words("2001:db8:1:2:ffff::9".parse().unwrap());
        assert_eq!(
            syn_ack_cell(Version::V6, &a, 7),
            syn_ack_cell(Version::V6, &b, 7)
        );
    }

    #[test]
    fn filter_of_20000_sources_has_few_false_positives() {
        let seed = 99;
        let mut filter = vec![0u64; SOCKET_FILTER_BLOCKS as usize];
        for n in 0..20_000 {
            let (block, bits) = filter_place(Version::V4, &v4(0xc000_0000 + n), seed);
            filter[block as usize] |= bits;
        }
        let hit = |n: u32| {
            let (block, bits) = filter_place(Version::V4, &v4(n), seed);
            filter[block as usize] & bits == bits
        };
        assert!(
            (0..20_000).all(|n| hit(0xc000_0000 + n)),
            "a member is always found"
        );
        let false_positives = (0..100_000).filter(|&n| hit(0x0b00_0000 + n)).count();
        assert!(false_positives < 1_500, "{false_positives} of 100000");
    }
}
