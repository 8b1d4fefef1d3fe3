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
            since_ns: monotonic_ns()?,
        };
        Ok(Self {
            value,
            since: Instant::now(),
        })
    }

    /// The keys that an agent before left in the kernel, with their age; none when it left none.
    ///
    /// # Errors
    /// There is no clock.
    pub fn adopt(value: CookieKeys) -> Result<Option<Self>> {
        if value.valid == 0 || value.valid > 2 || value.current > 1 {
            return Ok(None);
        }
        let age = monotonic_ns()?.saturating_sub(value.since_ns);
        let since = Instant::now().checked_sub(Duration::from_nanos(age));
        Ok(since.map(|since| Self { value, since }))
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
            since_ns: monotonic_ns()?,
            ..first
        };
        self.value = second;
        self.since = Instant::now();
        Ok([first, second])
    }
}

fn monotonic_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_nanos() as u64)
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
    fn an_agent_that_follows_another_has_its_keys_and_their_age() {
        let old = Keys::new().unwrap();
        let value = CookieKeys {
            since_ns: old.value.since_ns - 5_000_000_000,
            ..old.value
        };
        let keys = Keys::adopt(value).unwrap().unwrap();
        assert_eq!(keys.value, value);
        assert!(keys.since.elapsed() >= Duration::from_secs(5));
        let mut rotated = Keys::adopt(keys.value).unwrap().unwrap();
        rotated.rotate().unwrap();
        let again = Keys::adopt(rotated.value).unwrap().unwrap();
        assert!(again.rotation_breaks_handshakes(), "the rule survives");
        assert!(Keys::adopt(CookieKeys::default()).unwrap().is_none());
    }

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
