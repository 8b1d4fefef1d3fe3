//! Bounded polling, in place of sleeps.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::interrupt;

/// Between two looks. What is waited for takes milliseconds, and a look costs about as much.
const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Errors
/// It does not within `timeout`; the error says `what` was waited for. Or Ctrl-C was pressed.
pub fn until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    until_some(what, timeout, || condition().then_some(()))
}

/// Waits until `find` finds something.
///
/// # Errors
/// As [`until`].
pub fn until_some<T>(
    what: &str,
    timeout: Duration,
    mut find: impl FnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + timeout;
    loop {
        // Looked at first, so that what came true during the last pause still counts.
        let over = Instant::now() >= end;
        if let Some(found) = find() {
            return Ok(found);
        }
        interrupt::check()?;
        if over {
            bail!("waited {timeout:?} in vain for {what}");
        }
        thread::sleep(INTERVAL);
    }
}
