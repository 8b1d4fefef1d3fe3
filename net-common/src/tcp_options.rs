//! TCP options of a segment (RFC 9293 section 3.2), as far as a cookie must know them.

/// Octets of option space that [`parse`] takes; the header allows 40, the rest makes a power of two so
/// that a masked index is in bounds for the verifier.
pub const SPACE: usize = 64;
/// Octets of options that a TCP header can carry: data offset 15.
pub const MAX_LEN: usize = 40;
/// Options and paddings that are looked at; the longest list seen from any stack has 14.
pub const MAX_ELEMENTS: usize = 24;
/// [`Options::wscale`] when the option is absent.
pub const NO_WSCALE: u8 = 15;
/// Largest window scale (RFC 7323 section 2.3); larger ones are taken as this.
pub const MAX_WSCALE: u8 = 14;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WSCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;
const MD5: u8 = 19;
const AO: u8 = 29;

/// What was found. Kept in memory, not in registers, while options are read: the verifier then sees
/// one state a turn instead of one for every combination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Timestamp value; meaningful with [`Options::TIMESTAMPS`].
    pub tsval: u32,
    /// Timestamp echo reply; meaningful with [`Options::TIMESTAMPS`].
    pub tsecr: u32,
    /// Maximum segment size, octets; 0 when absent.
    pub mss: u16,
    /// Window scale shift, 0 to 14, or [`NO_WSCALE`].
    pub wscale: u8,
    /// The flags below.
    pub flags: u8,
}

impl Options {
    /// The timestamps option is there.
    pub const TIMESTAMPS: u8 = 1;
    /// SACK-permitted is there.
    pub const SACK: u8 = 1 << 1;
    /// An MD5 (RFC 2385) or AO (RFC 5925) signature is there.
    pub const SIGNED: u8 = 1 << 2;

    /// No option at all.
    pub const NONE: Self = Self {
        tsval: 0,
        tsecr: 0,
        mss: 0,
        wscale: NO_WSCALE,
        flags: 0,
    };
}

/// Reads `len` (at most [`MAX_LEN`]) octets of options into `out`.
///
/// Follows `tcp_parse_options` (Linux 6.12, net/ipv4/tcp_input.c): a length below 2 or beyond the
/// header ends the reading, what stood before it counts; of an option given twice the last counts. So does
/// the end of [`MAX_ELEMENTS`], where Linux reads on.
#[inline(always)]
pub fn parse(space: &[u8; SPACE], len: usize, out: &mut Options) {
    store(out, Options::NONE);
    let mut at = 0;
    for _ in 0..MAX_ELEMENTS {
        if at >= len {
            return;
        }
        let kind = octet(space, at);
        if kind == END {
            return;
        }
        // Every turn begins with the same range of `at`, so that the verifier's states of a turn merge.
        if kind == NOP {
            at = bound(at + 1);
            continue;
        }
        let size = octet(space, at + 1) as usize;
        if at + 1 >= len || size < 2 || at + size > len {
            return;
        }
        match (kind, size) {
            (MSS, 4) => store(&mut out.mss, be16(space, at + 2)),
            (WSCALE, 3) => {
                let shift = octet(space, at + 2);
                store(
                    &mut out.wscale,
                    if shift > MAX_WSCALE {
                        MAX_WSCALE
                    } else {
                        shift
                    },
                );
            }
            (SACK_PERMITTED, 2) => flag(&mut out.flags, Options::SACK),
            (TIMESTAMPS, 10) => {
                flag(&mut out.flags, Options::TIMESTAMPS);
                store(&mut out.tsval, be32(space, at + 2));
                store(&mut out.tsecr, be32(space, at + 6));
            }
            (MD5 | AO, _) => flag(&mut out.flags, Options::SIGNED),
            _ => {}
        }
        at = bound(at + size);
    }
}

/// Stores in memory now: the compiler would keep the value in a register until the loop ends.
#[inline(always)]
fn store<T>(to: &mut T, value: T) {
    // SAFETY: a reference is valid for a write.
    unsafe { core::ptr::from_mut(to).write_volatile(value) };
}

/// Sets a flag in memory, see [`store`].
#[inline(always)]
fn flag(flags: &mut u8, bit: u8) {
    // SAFETY: a reference is valid for a read.
    let now = unsafe { core::ptr::from_mut(flags).read_volatile() };
    store(flags, now | bit);
}

/// The layouts of Linux, read without a loop: a SYN's `MSS, SACK-permitted, timestamps, NOP, window
/// scale` and a later segment's `NOP, NOP, timestamps`. `words` are the first five words of the
/// options as they stand in the packet. False when the layout is another.
#[inline(always)]
pub fn parse_linux_syn(words: &[u32; 5], out: &mut Options) -> bool {
    if words[0] & u32::from_be(0xffff_0000) != u32::from_be(0x0204_0000)
        || words[1] != u32::from_be(0x0402_080a)
        || words[4] & u32::from_be(0xffff_ff00) != u32::from_be(0x0103_0300)
    {
        return false;
    }
    let shift = u32::from_be(words[4]) as u8;
    *out = Options {
        tsval: u32::from_be(words[2]),
        tsecr: u32::from_be(words[3]),
        mss: u32::from_be(words[0]) as u16,
        wscale: if shift > MAX_WSCALE {
            MAX_WSCALE
        } else {
            shift
        },
        flags: Options::TIMESTAMPS | Options::SACK,
    };
    true
}

/// `index` forced below [`SPACE`] in a way that the compiler cannot drop: it could prove the mask
/// needless where the verifier cannot.
#[inline(always)]
fn bound(index: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index;
        // SAFETY: one AND on a register.
        unsafe { core::arch::asm!("{0} &= 63", inout(reg) index, options(pure, nomem, nostack)) };
        index
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        index & (SPACE - 1)
    }
}

#[inline(always)]
fn octet(space: &[u8; SPACE], index: usize) -> u8 {
    // SAFETY: `bound` returns at most 63, and the array has 64 octets. An index would bring the
    // panic path in, which the verifier refuses.
    *unsafe { space.get_unchecked(bound(index)) }
}

#[inline(always)]
fn be16(space: &[u8; SPACE], at: usize) -> u16 {
    u16::from(octet(space, at)) << 8 | u16::from(octet(space, at + 1))
}

#[inline(always)]
fn be32(space: &[u8; SPACE], at: usize) -> u32 {
    u32::from(be16(space, at)) << 16 | u32::from(be16(space, at + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Options {
        let mut space = [0; SPACE];
        space[..bytes.len()].copy_from_slice(bytes);
        let mut out = Options::NONE;
        parse(&space, bytes.len(), &mut out);
        out
    }

    #[test]
    fn option_tables_read_as_the_kernel_reads_them() {
        let none = Options::NONE;
        let ts = Options {
            tsval: 1,
            tsecr: 2,
            flags: Options::TIMESTAMPS,
            ..none
        };
        let table: &[(&str, &[u8], Options)] = &[
            ("empty", &[], none),
            ("MSS alone", &[2, 4, 5, 0xb4], Options { mss: 1460, ..none }),
            (
                "Linux SYN",
                &[
                    2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7,
                ],
                Options {
                    mss: 1460,
                    wscale: 7,
                    flags: Options::TIMESTAMPS | Options::SACK,
                    ..ts
                },
            ),
            (
                "Windows SYN",
                &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2],
                Options {
                    mss: 1460,
                    wscale: 8,
                    flags: Options::SACK,
                    ..none
                },
            ),
            (
                "timestamps behind NOPs",
                &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
                ts,
            ),
            (
                "window scale 15 is taken as 14",
                &[3, 3, 15],
                Options { wscale: 14, ..none },
            ),
            (
                "MD5",
                &[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                Options {
                    flags: Options::SIGNED,
                    ..none
                },
            ),
            (
                "AO",
                &[29, 4, 1, 1],
                Options {
                    flags: Options::SIGNED,
                    ..none
                },
            ),
            ("end of list hides the rest", &[0, 4, 2], none),
            (
                "length 0 ends it",
                &[4, 2, 8, 0],
                Options {
                    flags: Options::SACK,
                    ..none
                },
            ),
            ("length 1 ends it", &[5, 1, 4, 2], none),
            ("length beyond the header ends it", &[2, 4, 5], none),
            ("kind without length", &[2], none),
            (
                "wrong length is skipped",
                &[2, 3, 9, 4, 2],
                Options {
                    flags: Options::SACK,
                    ..none
                },
            ),
            (
                "the last of two counts",
                &[2, 4, 1, 0, 2, 4, 2, 0],
                Options { mss: 512, ..none },
            ),
        ];
        for (what, bytes, want) in table {
            assert_eq!(read(bytes), *want, "{what}");
        }
    }

    #[test]
    fn the_short_way_of_linux_reads_the_same_as_the_long_one() {
        let bytes = [
            2, 4, 5, 0xb4, 4, 2, 8, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 3, 3, 200,
        ];
        let words = core::array::from_fn(|i| {
            u32::from_ne_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap())
        });
        let mut out = Options::NONE;
        assert!(parse_linux_syn(&words, &mut out));
        assert_eq!(out, read(&bytes));
        let mut other = words;
        other[1] = u32::from_be(0x0101_080a);
        assert!(!parse_linux_syn(&other, &mut out));
    }

    proptest! {
        #[test]
        fn any_octets_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..=40)) {
            let o = read(&bytes);
            prop_assert!(o.wscale <= MAX_WSCALE || o.wscale == NO_WSCALE);
        }

        /// A second, independent parser agrees on well-formed headers.
        #[test]
        fn agrees_with_etherparse(mss in any::<u16>(), ws in 0u8..=14, tsval: u32, tsecr: u32, sack: bool) {
            use etherparse::TcpOptionElement as E;
            let mut list = vec![E::MaximumSegmentSize(mss), E::Noop, E::WindowScale(ws), E::Timestamp(tsval, tsecr)];
            if sack { list.push(E::SelectiveAcknowledgementPermitted); }
            let mut tcp = etherparse::TcpHeader::new(1, 2, 3, 4);
            tcp.set_options(&list).unwrap();
            let got = read(tcp.options.as_slice());
            let flags = Options::TIMESTAMPS | if sack { Options::SACK } else { 0 };
            prop_assert_eq!(got, Options { tsval, tsecr, mss, wscale: ws, flags });
        }
    }
}
