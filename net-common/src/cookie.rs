//! SYN cookies of netmoat's own (R-SYN-12): everything a SYN agreed, in the numbers that the client
//! echoes.
//!
//! ```text
//! ISN   = client ISN + ( epoch bit 31 | MSS index 30..29 | MAC 28..0 )
//! TSval =              ( MAC 31..6    | ECN 5 | SACK 4 | window scale 3..0 )
//! ```
//!
//! The MAC is SipHash-2-4 over the addresses, ports, client ISN, epoch and every option that the
//! handshake settled, ours included. One hash gives both MACs: 29 bits for the ISN, 26 for TSval. An
//! ACK without timestamps for a cookie with them fails, since their presence is hashed (RFC 7323
//! section 3.2). Odds of a forgery without timestamps: 2^-29 an ACK (R-SYN-13), so a valid ACK proves
//! a source for one connection and nothing more.

use crate::{
    abi::{AddrWords, CookieKeys},
    siphash::siphash24,
    tcp_options::{NO_WSCALE, Options},
    units::Version,
};

/// An epoch is 2^36 ns (68.7 s) of the kernel's monotonic clock; a cookie lives for the rest of its
/// own epoch and the whole of the next: 68.7 s to 137.4 s.
pub const EPOCH_SHIFT: u32 = 36;

/// MSS values that a cookie can carry, octets; the client's is rounded down to one of them. IPv4 as
/// `msstab` of Linux 6.12 (net/ipv4/syncookies.c), IPv6 likewise (net/ipv6/syncookies.c).
pub const MSS_V4: [u16; 4] = [536, 1300, 1440, 1460];
/// As [`MSS_V4`], for IPv6.
pub const MSS_V6: [u16; 4] = [1220, 1420, 1440, 8940];

const EPOCH_BIT: u32 = 1 << 31;
const MAC_BITS: u32 = 29;
const MAC_MASK: u32 = (1 << MAC_BITS) - 1;
const TS_OPTION_BITS: u32 = 6;
const TS_MAC_MASK: u32 = !((1 << TS_OPTION_BITS) - 1);

/// The epoch of a moment of the kernel's monotonic clock, nanoseconds.
#[inline(always)]
pub fn epoch(now_ns: u64) -> u32 {
    (now_ns >> EPOCH_SHIFT) as u32
}

/// Whose handshake: the client's view of the tuple, in packet words, and its initial sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP version; decides how many address words count.
    pub version: Version,
    /// Client address.
    pub src: AddrWords,
    /// Own address.
    pub dst: AddrWords,
    /// Both ports as the first word of the client's TCP header stands in the packet.
    pub ports: u32,
    /// Client's initial sequence number, host byte order.
    pub isn: u32,
}

/// What a handshake settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Index into [`MSS_V4`] or [`MSS_V6`].
    pub mss_index: u8,
    /// Timestamps are in use; without them none of the following survives.
    pub timestamps: bool,
    /// The client's window scale, or [`NO_WSCALE`].
    pub snd_wscale: u8,
    /// Our window scale as advertised; hashed, not carried, so that an agent which changes it between
    /// SYN and ACK makes the ACK fail instead of corrupting the window.
    pub rcv_wscale: u8,
    /// SACK permitted by both.
    pub sack: bool,
    /// ECN agreed.
    pub ecn: bool,
}

impl Terms {
    /// What we agree to of a SYN's options. `allow` are the listener's flags
    /// (`abi::Listener::{TIMESTAMPS, SACK, WINDOW_SCALING, ECN}`), `ecn` whether the SYN asked for ECN.
    #[inline(always)]
    pub fn agree(
        version: Version,
        options: &Options,
        allow: u32,
        rcv_wscale: u8,
        ecn: bool,
    ) -> Self {
        use crate::abi::Listener;
        let timestamps =
            options.flags & Options::TIMESTAMPS != 0 && allow & Listener::TIMESTAMPS != 0;
        let scaling =
            timestamps && options.wscale != NO_WSCALE && allow & Listener::WINDOW_SCALING != 0;
        Self {
            mss_index: mss_index(version, options.mss),
            timestamps,
            snd_wscale: if scaling { options.wscale } else { NO_WSCALE },
            rcv_wscale: if scaling { rcv_wscale } else { 0 },
            sack: timestamps && options.flags & Options::SACK != 0 && allow & Listener::SACK != 0,
            ecn: timestamps && ecn && allow & Listener::ECN != 0,
        }
    }

    /// The six option bits of TSval.
    #[inline(always)]
    fn option_bits(self) -> u32 {
        u32::from(self.snd_wscale & 15) | u32::from(self.sack) << 4 | u32::from(self.ecn) << 5
    }

    /// All of it in one word, which is hashed.
    #[inline(always)]
    pub fn word(self) -> u32 {
        self.option_bits()
            | u32::from(self.mss_index & 3) << 6
            | u32::from(self.timestamps) << 8
            | u32::from(self.rcv_wscale & 15) << 9
    }

    /// The inverse of [`Self::word`].
    #[inline(always)]
    pub fn from_word(word: u32) -> Self {
        Self {
            mss_index: (word >> 6) as u8 & 3,
            timestamps: word & 1 << 8 != 0,
            snd_wscale: word as u8 & 15,
            rcv_wscale: (word >> 9) as u8 & 15,
            sack: word & 1 << 4 != 0,
            ecn: word & 1 << 5 != 0,
        }
    }

    /// The client's MSS as far as the cookie kept it, octets.
    #[inline(always)]
    pub fn mss(self, version: Version) -> u16 {
        let [a, b, c, d] = mss_table(version);
        match self.mss_index & 3 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        }
    }
}

#[inline(always)]
const fn mss_table(version: Version) -> [u16; 4] {
    match version {
        Version::V4 => MSS_V4,
        Version::V6 => MSS_V6,
    }
}

/// Largest table entry that the client's MSS allows; the smallest for a lower or absent one, as
/// Linux does.
#[inline(always)]
fn mss_index(version: Version, mss: u16) -> u8 {
    let [_, b, c, d] = mss_table(version);
    if mss >= d {
        3
    } else if mss >= c {
        2
    } else if mss >= b {
        1
    } else {
        0
    }
}

/// The numbers to put into the SYN-ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Our initial sequence number.
    pub isn: u32,
    /// Our timestamp; sent only when [`Terms::timestamps`].
    pub tsval: u32,
}

/// Makes the cookie that answers a SYN.
#[inline(always)]
pub fn make(key: &[u64; 2], flow: &Flow, epoch: u32, terms: Terms) -> Cookie {
    let mac = mac(key, flow, epoch, terms);
    let value =
        (epoch & 1) << 31 | u32::from(terms.mss_index & 3) << MAC_BITS | mac as u32 & MAC_MASK;
    Cookie {
        isn: flow.isn.wrapping_add(value),
        tsval: (mac >> MAC_BITS) as u32 & TS_MAC_MASK | terms.option_bits(),
    }
}

/// An ACK's claim to complete a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Tuple, with [`Flow::isn`] set to the sequence number less one.
    pub flow: Flow,
    /// Acknowledgment number less one: the ISN that we would have sent.
    pub isn: u32,
    /// Timestamp echo reply, when the ACK carries timestamps.
    pub tsecr: Option<u32>,
    /// The window scale that we advertise on this listener.
    pub rcv_wscale: u8,
}

/// Checks an ACK at `epoch` under the key in use and then, if there was one, the key before it.
/// Returns what the handshake settled, or None for a false ACK.
#[inline(always)]
pub fn check(keys: &CookieKeys, claim: &Claim, epoch: u32) -> Option<Terms> {
    let (current, other) = if keys.current == 0 {
        (&keys.keys[0], &keys.keys[1])
    } else {
        (&keys.keys[1], &keys.keys[0])
    };
    if let Some(terms) = check_key(current, claim, epoch) {
        return Some(terms);
    }
    if keys.valid > 1 {
        check_key(other, claim, epoch)
    } else {
        None
    }
}

#[inline(always)]
fn check_key(key: &[u64; 2], claim: &Claim, epoch: u32) -> Option<Terms> {
    let value = claim.isn.wrapping_sub(claim.flow.isn);
    let bits = match claim.tsecr {
        Some(tsecr) => tsecr & !TS_MAC_MASK,
        None => NO_WSCALE.into(),
    };
    let snd_wscale = (bits & 15) as u8;
    let terms = Terms {
        mss_index: (value >> MAC_BITS) as u8 & 3,
        timestamps: claim.tsecr.is_some(),
        snd_wscale,
        rcv_wscale: if snd_wscale == NO_WSCALE {
            0
        } else {
            claim.rcv_wscale
        },
        sack: bits & 1 << 4 != 0,
        ecn: bits & 1 << 5 != 0,
    };
    // The epoch bit names this epoch or the one before; an older cookie of the same parity has
    // another epoch in its MAC and fails.
    let made = if value & EPOCH_BIT == (epoch & 1) << 31 {
        epoch
    } else {
        epoch.wrapping_sub(1)
    };
    let mac = mac(key, &claim.flow, made, terms);
    let ts_ok = match claim.tsecr {
        Some(tsecr) => (tsecr ^ (mac >> MAC_BITS) as u32) & TS_MAC_MASK == 0,
        None => true,
    };
    if (value ^ mac as u32) & MAC_MASK == 0 && ts_ok {
        Some(terms)
    } else {
        None
    }
}

#[inline(always)]
fn mac(key: &[u64; 2], flow: &Flow, epoch: u32, terms: Terms) -> u64 {
    let pair = |a: u32, b: u32| u64::from(a) | u64::from(b) << 32;
    let (s, d) = (&flow.src, &flow.dst);
    let handshake = pair(flow.ports, flow.isn);
    let settled = pair(epoch, terms.word());
    // The two families hash different lengths, so neither can stand for the other.
    match flow.version {
        Version::V4 => siphash24(key, &[pair(s[0], d[0]), handshake, settled]),
        Version::V6 => siphash24(
            key,
            &[
                pair(s[0], s[1]),
                pair(s[2], s[3]),
                pair(d[0], d[1]),
                pair(d[2], d[3]),
                handshake,
                settled,
            ],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(a: [u64; 2], b: [u64; 2]) -> CookieKeys {
        CookieKeys {
            keys: [a, b],
            current: 0,
            valid: 2,
            since_ns: 0,
        }
    }

    prop_compose! {
        fn flows()(v6: bool, src: [u32; 4], dst: [u32; 4], ports: u32, isn: u32) -> Flow {
            let cut = |a: [u32; 4]| if v6 { a } else { [a[0], 0, 0, 0] };
            Flow { version: if v6 { Version::V6 } else { Version::V4 }, src: cut(src), dst: cut(dst), ports, isn }
        }
    }

    prop_compose! {
        fn terms()(mss_index in 0u8..4, timestamps: bool, ws in 0u8..=15, rcv in 0u8..=14, sack: bool, ecn: bool) -> Terms {
            let snd_wscale = if timestamps && ws <= 14 { ws } else { NO_WSCALE };
            Terms {
                mss_index,
                timestamps,
                snd_wscale,
                rcv_wscale: if snd_wscale == NO_WSCALE { 0 } else { rcv },
                sack: timestamps && sack,
                ecn: timestamps && ecn,
            }
        }
    }

    fn claim(flow: Flow, cookie: Cookie, terms: Terms) -> Claim {
        Claim {
            flow,
            isn: cookie.isn,
            tsecr: terms.timestamps.then_some(cookie.tsval),
            rcv_wscale: terms.rcv_wscale,
        }
    }

    proptest! {
        #[test]
        fn every_option_combination_round_trips(flow in flows(), terms in terms(), k: [u64; 2], epoch: u32) {
            let cookie = make(&k, &flow, epoch, terms);
            let claim = claim(flow, cookie, terms);
            prop_assert_eq!(Terms::from_word(terms.word()), terms);
            prop_assert_eq!(check(&keys(k, [!k[0], 1]), &claim, epoch), Some(terms));
            // C-6: still good in the next epoch, and under a key that has been rotated since.
            prop_assert_eq!(check(&keys(k, [3, 4]), &claim, epoch.wrapping_add(1)), Some(terms));
            let rotated = CookieKeys { keys: [k, [!k[0], 1]], current: 1, valid: 2, since_ns: 0 };
            prop_assert_eq!(check(&rotated, &claim, epoch), Some(terms));
        }

        /// C-4. Epochs of either parity; the chance of a false alarm is 2^-29 a case.
        #[test]
        fn an_expired_or_future_cookie_fails(flow in flows(), terms in terms(), k: [u64; 2], epoch: u32, age in 2u32..1000) {
            let claim = claim(flow, make(&k, &flow, epoch, terms), terms);
            let keys = CookieKeys { keys: [k, [0; 2]], current: 0, valid: 1, since_ns: 0 };
            prop_assert_eq!(check(&keys, &claim, epoch.wrapping_add(age)), None);
            prop_assert_eq!(check(&keys, &claim, epoch.wrapping_sub(1 + age)), None);
        }

        /// C-5 and the bits of every other thing that is hashed.
        #[test]
        fn any_flipped_bit_fails(flow in flows(), terms in terms(), k: [u64; 2], epoch: u32, bit in 0usize..480) {
            let cookie = make(&k, &flow, epoch, terms);
            let mut c = claim(flow, cookie, terms);
            let words = if flow.version == Version::V6 { 4 } else { 1 };
            let (word, mask) = (bit / 32, 1u32 << (bit % 32));
            match word {
                0..4 => c.flow.src[word % words] ^= mask,
                4..8 => c.flow.dst[word % words] ^= mask,
                8 => c.flow.ports ^= mask,
                9 => c.flow.isn ^= mask,
                10 => c.isn ^= mask,
                11 => match &mut c.tsecr {
                    Some(tsecr) => *tsecr ^= mask,
                    None => c.tsecr = Some(mask),
                },
                12 => c.tsecr = match c.tsecr { Some(_) => None, None => Some(cookie.tsval) },
                13 if terms.snd_wscale != NO_WSCALE => c.rcv_wscale ^= 1 << (bit % 4),
                _ => {
                    // The version alone.
                    c.flow.version = if words == 4 { Version::V4 } else { Version::V6 };
                }
            }
            let keys = CookieKeys { keys: [k, [0; 2]], current: 0, valid: 1, since_ns: 0 };
            prop_assert_eq!(check(&keys, &c, epoch), None);
        }

        #[test]
        fn the_mss_is_rounded_down_to_the_table(mss: u16, v6: bool) {
            let version = if v6 { Version::V6 } else { Version::V4 };
            let options = Options { mss, ..Options::NONE };
            let got = Terms::agree(version, &options, 0, 0, false).mss(version);
            let want = mss_table(version).into_iter().rev().find(|&m| m <= mss).unwrap_or(mss_table(version)[0]);
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn nothing_but_the_mss_is_agreed_without_timestamps() {
        let all = Options {
            mss: 1460,
            wscale: 7,
            flags: Options::SACK,
            ..Options::NONE
        };
        let t = Terms::agree(Version::V4, &all, u32::MAX, 9, true);
        assert_eq!(
            (t.timestamps, t.snd_wscale, t.rcv_wscale, t.sack, t.ecn),
            (false, NO_WSCALE, 0, false, false)
        );
        assert_eq!(t.mss(Version::V4), 1460);
    }

    #[test]
    fn what_the_host_forbids_is_not_agreed() {
        use crate::abi::Listener;
        let all = Options {
            mss: 1460,
            wscale: 7,
            flags: Options::SACK | Options::TIMESTAMPS,
            ..Options::NONE
        };
        for (forbidden, want) in [
            (Listener::SACK, (7, false, true)),
            (Listener::WINDOW_SCALING, (NO_WSCALE, true, true)),
            (Listener::ECN, (7, true, false)),
        ] {
            let t = Terms::agree(Version::V6, &all, !forbidden, 9, true);
            assert_eq!((t.snd_wscale, t.sack, t.ecn), want);
        }
    }

    #[test]
    fn an_epoch_is_longer_than_64_seconds() {
        assert_eq!(epoch(64_000_000_000), 0);
        assert_eq!(epoch(69_000_000_000), 1);
    }

    #[test]
    fn a_second_key_slot_that_was_never_filled_opens_nothing() {
        let flow = Flow {
            version: Version::V4,
            src: [1, 0, 0, 0],
            dst: [2, 0, 0, 0],
            ports: 3,
            isn: 4,
        };
        let terms = Terms::agree(Version::V4, &Options::NONE, 0, 0, false);
        let claim = claim(flow, make(&[0, 0], &flow, 9, terms), terms);
        let fresh = CookieKeys {
            keys: [[5, 6], [0, 0]],
            current: 0,
            valid: 1,
            since_ns: 0,
        };
        assert_eq!(check(&fresh, &claim, 9), None);
    }
}
