//! SipHash-2-4 (Aumasson and Bernstein, 2012) over whole 64-bit words, which is all that a cookie needs.

/// Hashes `N` little-endian words (8·N octets) under a 128-bit key.
#[inline(always)]
pub fn siphash24<const N: usize>(key: &[u64; 2], words: &[u64; N]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    for &word in words {
        compress(&mut v, word);
    }
    // The last block carries the length in octets, modulo 256, in its top octet.
    compress(&mut v, ((N as u64 * 8) & 0xff) << 56);
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn compress(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows 0, 8, 16, … 56 of `vectors_sip64` in the reference implementation: key 00 01 … 0f, message
    /// 00 01 … of that many octets.
    #[test]
    fn official_vectors_of_whole_words_hold() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let word = |i: u64| u64::from_le_bytes(core::array::from_fn(|b| (i * 8) as u8 + b as u8));
        let [a, b, c, d, e, f, g] = core::array::from_fn(|i| word(i as u64));
        assert_eq!(siphash24(&key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash24(&key, &[a]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash24(&key, &[a, b]), 0x3f2a_cc7f_57c2_9bdb);
        assert_eq!(siphash24(&key, &[a, b, c]), 0xb8ad_50c6_f649_af94);
        assert_eq!(siphash24(&key, &[a, b, c, d]), 0x7127_512f_72f2_7cce);
        assert_eq!(siphash24(&key, &[a, b, c, d, e]), 0x0e3e_a96b_5304_a7d0);
        assert_eq!(siphash24(&key, &[a, b, c, d, e, f]), 0xe612_a3cb_9ecb_a951);
        assert_eq!(
            siphash24(&key, &[a, b, c, d, e, f, g]),
            0xb78d_bfaf_3a8d_83bd
        );
    }
}
