//! The cookie keys: made from the kernel's random source, rotated without breaking a handshake that is
//! pending (R-SYN-12).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use net_common::{abi::CookieKeys, cookie::EPOCH_SHIFT};

/// Two epochs: no cookie made before is good any longer.
pub const COOKIE_LIFE: Duration = Duration::from_nanos(2 << EPOCH_SHIFT);

/// The keys in force, and since when the current one is.
#[derive(Debug)]
pub struct Keys {
    /// As the data path has them.
    pub value: CookieKeys,
    /// When the current key came into use.
    pub since: Instant,
}

impl Keys {
    /// A first key.
    ///
    /// # Errors
    /// The kernel gives no random octets.
    pub fn new() -> Result<Self> {
        let value = CookieKeys {
            keys: [random()?, [0; 2]],
            current: 0,
            valid: 1,
        };
        Ok(Self {
            value,
            since: Instant::now(),
        })
    }

    /// Whether a rotation now would forget a key whose cookies are still good.
    pub fn rotation_breaks_handshakes(&self) -> bool {
        self.value.valid > 1 && self.since.elapsed() < COOKIE_LIFE
    }

    /// Puts a new key into the idle slot and returns the two values to write, in this order: with the new
    /// key idle, then with it in use. So no cookie is ever made with half a key.
    ///
    /// # Errors
    /// The kernel gives no random octets.
    pub fn rotate(&mut self) -> Result<[CookieKeys; 2]> {
        let idle = self.value.current ^ 1;
        let mut first = self.value;
        first.keys[idle as usize] = random()?;
        let second = CookieKeys {
            current: idle,
            valid: 2,
            ..first
        };
        self.value = second;
        self.since = Instant::now();
        Ok([first, second])
    }
}

fn random() -> Result<[u64; 2]> {
    Ok([random_u64()?, random_u64()?])
}

/// Eight octets from the kernel's random source.
///
/// # Errors
/// It gives none.
pub fn random_u64() -> Result<u64> {
    getrandom::u64().context("the kernel gives no random octets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_the_key_before_and_flips_last() {
        let mut keys = Keys::new().unwrap();
        let old = keys.value.keys[0];
        assert!(
            !keys.rotation_breaks_handshakes(),
            "there is no second key to forget"
        );
        let [idle, in_use] = keys.rotate().unwrap();
        assert_eq!((idle.current, idle.valid, idle.keys[0]), (0, 1, old));
        assert_eq!(
            (in_use.current, in_use.valid, in_use.keys),
            (1, 2, idle.keys)
        );
        assert_ne!(in_use.keys[1], old);
        assert!(keys.rotation_breaks_handshakes());
        let [_, third] = keys.rotate().unwrap();
        assert_eq!((third.current, third.keys[1]), (0, in_use.keys[1]));
    }
}
