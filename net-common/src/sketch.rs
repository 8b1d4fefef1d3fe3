//! How many sources there were, in 512 octets: a sketch of distinct sources (Flajolet and Martin, "Probabilistic counting
//! algorithms for data base applications", 1985: PCSA). A source has one cell and one bit of it, bit n with probability
//! 2^-(n+1), so a source that is seen again changes nothing, and two sketches of one seed are merged by OR.

use crate::abi::SKETCH_CELLS;

const _: () = assert!(SKETCH_CELLS.is_power_of_two());

/// Where a source stands: its cell, below [`SKETCH_CELLS`], and its bit, as a mask. `hash` must be good in all of its bits
/// ([`crate::spread::source_hash`]).
#[inline(always)]
pub fn place(hash: u64) -> (usize, u32) {
    let draw = (hash >> 32) as u32;
    // The lowest bit that is set. The machine in the kernel has no instruction that counts zeros.
    let bit = draw & draw.wrapping_neg();
    // One hash in 2^32 has none.
    let bit = if bit == 0 { 1 << 31 } else { bit };
    (hash as usize & (SKETCH_CELLS - 1), bit)
}

/// How many sources a sketch has seen: 0 for none, exact for one, and within a few per cent from there on.
///
/// This is the most likely number, given every bit. With n sources a bit that one of them hits with probability q is set
/// with probability 1 - e^(-nq) (the number is taken as Poisson's, as in section 3 of the paper), so the likelihood's
/// derivative is 0 where, over the bits, `Σ set q/(e^(nq) - 1) = Σ unset q`. Few sources seldom share a bit, so it is linear
/// counting of 4,096 bits then: the standard error is below 5 % up to 100 sources, and rises to 5.7 % beyond a few hundred:
/// the information about ln n in a cell is ∫ x/(e^x - 1) dx / ln 2 = π²/(6 ln 2), and there are 128 cells. The
/// estimator of the paper has 6.9 %, and is off by a multiple for fewer sources than cells.
#[cfg(any(test, feature = "user"))]
pub fn estimate(sketch: &[u32; SKETCH_CELLS]) -> u64 {
    extern crate std;
    // That of most listeners in peace, once a second each.
    if sketch.iter().all(|&cell| cell == 0) {
        return 0;
    }
    let cells = SKETCH_CELLS as f64;
    // For each bit: how many cells have it set, and with what probability a source sets it in one of them. The last bit is
    // that of no bit, too.
    let bits = core::array::from_fn::<_, 32, _>(|n| {
        let set = sketch.iter().filter(|&&cell| cell >> n & 1 != 0).count() as f64;
        let share = f64::from(1u32 << (n + 1).min(31)).recip() / cells;
        (set, share)
    });
    let ones: f64 = bits.iter().map(|(set, _)| set).sum();
    let unset: f64 = bits.iter().map(|(set, share)| (cells - set) * share).sum();
    // Newton's method from the left on a convex function that falls: it never passes the root. There is one right of `ones`,
    // as q/(e^(nq) - 1) >= 1/n - q/2; beyond the root's bound below lies only a sketch with every bit set.
    let mut number = ones;
    for _ in 0..TURNS {
        let (mut excess, mut slope) = (-unset, 0.0);
        for &(set, share) in bits.iter().filter(|(set, _)| *set != 0.0) {
            let odds = (number * share).exp_m1();
            excess += set * share / odds;
            slope += set * share * share * (1.0 + odds.recip()) / odds;
        }
        let step = excess / slope;
        number += step;
        if step < number * 1e-6 || number > MOST {
            break;
        }
    }
    number.min(MOST).round() as u64
}

/// Turns of Newton's method; far from the root each doubles the number, near it each doubles the digits.
#[cfg(any(test, feature = "user"))]
const TURNS: u32 = 64;
/// More sources than this are not told apart: the rarest bits are set in most cells.
#[cfg(any(test, feature = "user"))]
const MOST: f64 = (SKETCH_CELLS as u64 * (1 << 32)) as f64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{spread::source_hash, units::addr_words};

    const EMPTY: [u32; SKETCH_CELLS] = [0; SKETCH_CELLS];

    fn mark(sketch: &mut [u32; SKETCH_CELLS], address: u32, seed: u64) {
        let address = addr_words(core::net::Ipv4Addr::from_bits(address).into());
        let (cell, bit) = place(source_hash(&address, seed));
        sketch[cell] |= bit;
    }

    fn sketch(sources: impl Iterator<Item = u32>, seed: u64) -> [u32; SKETCH_CELLS] {
        let mut sketch = EMPTY;
        sources.for_each(|source| mark(&mut sketch, source, seed));
        sketch
    }

    /// Mean and root mean square of the relative error, and the largest one, over sketches of consecutive addresses.
    fn errors(sources: u32, sketches: u32) -> (f64, f64, f64) {
        let (mut sum, mut squares, mut largest) = (0.0, 0.0, 0f64);
        for n in 0..sketches {
            let first = 0x0a00_0000 + n.wrapping_mul(sources);
            let sketch = sketch((0..sources).map(|s| first.wrapping_add(s)), n.into());
            let error = estimate(&sketch) as f64 / f64::from(sources) - 1.0;
            sum += error;
            squares += error * error;
            largest = largest.max(error.abs());
        }
        let sketches = f64::from(sketches);
        (sum / sketches, (squares / sketches).sqrt(), largest)
    }

    #[test]
    fn the_number_of_sources_is_told_with_a_known_error() {
        // sources, sketches, bounds of the mean, of the standard error, of the largest
        for (sources, sketches, mean, deviation, largest) in [
            (1, 1000, 0.0, 0.0, 0.0),
            (4, 1000, 0.01, 0.05, 0.5),
            (16, 1000, 0.025, 0.05, 0.2),
            (100, 1000, 0.01, 0.05, 0.2),
            (1_000, 1000, 0.01, 0.065, 0.25),
            (10_000, 300, 0.015, 0.07, 0.25),
            (1_000_000, 10, 0.06, 0.1, 0.25),
        ] {
            let found = errors(sources, sketches);
            println!("{sources}: mean, deviation, largest {found:?}");
            assert!(found.0.abs() <= mean, "{sources}: mean {found:?}");
            assert!(found.1 <= deviation, "{sources}: deviation {found:?}");
            assert!(found.2 <= largest, "{sources}: largest {found:?}");
        }
    }

    #[test]
    fn no_source_is_told_for_an_empty_sketch_and_an_end_for_a_full_one() {
        assert_eq!(estimate(&EMPTY), 0);
        assert_eq!(estimate(&[u32::MAX; SKETCH_CELLS]), MOST as u64);
        let mut all_but_one = [u32::MAX; SKETCH_CELLS];
        all_but_one[7] &= !(1 << 31);
        assert!(estimate(&all_but_one) > 1 << 36);
    }

    #[test]
    fn every_hash_has_one_bit_of_one_cell() {
        for (hash, place_of_it) in [
            (0, (0, 1 << 31)),
            (u64::MAX, (SKETCH_CELLS - 1, 1)),
            (1 << 32 | 5, (5, 1)),
            (1 << 63 | 0xff83, (3, 1 << 31)),
            (0x0000_0600_0000_0080, (0, 1 << 9)),
        ] {
            assert_eq!(place(hash), place_of_it, "{hash:#x}");
        }
    }

    #[test]
    fn addresses_of_ipv6_count_as_a_whole() {
        let mut sketch = EMPTY;
        for n in 0..1000u32 {
            // One /64, and one host in many of them.
            for address in [[1, 2, 3, n], [n, 2, 3, 4]] {
                let (cell, bit) = place(source_hash(&address, 7));
                sketch[cell] |= bit;
            }
        }
        let found = estimate(&sketch);
        assert!((1700..2300).contains(&found), "{found}");
    }

    proptest! {
        #[test]
        fn duplicates_change_nothing_and_or_merges(
            one in prop::collection::vec(any::<u32>(), 0..200),
            two in prop::collection::vec(any::<u32>(), 0..200),
            seed: u64,
        ) {
            let both = || one.iter().chain(&two).copied();
            let at_once = sketch(both(), seed);
            prop_assert_eq!(at_once, sketch(both().chain(both()), seed));
            let (left, right) = (sketch(one.iter().copied(), seed), sketch(two.iter().copied(), seed));
            let merged: [u32; SKETCH_CELLS] = core::array::from_fn(|n| left[n] | right[n]);
            prop_assert_eq!(at_once, merged);
            prop_assert!(estimate(&merged) >= estimate(&left).max(estimate(&right)));
        }
    }
}
