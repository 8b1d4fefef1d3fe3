//! Ctrl-C: remembered, so that whatever runs ends soon and cleans up on its way out.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_: nix::libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// Remembers SIGINT and SIGTERM from now on instead of dying of them. A second one kills as usual.
///
/// # Errors
/// The kernel refuses the handler, which it never should.
pub fn install() -> Result<()> {
    // No SA_RESTART: a system call that blocks returns.
    let action = SigAction::new(
        SigHandler::Handler(remember),
        SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { sigaction(signal, &action) }.context("no signal handler can be set")?;
    }
    Ok(())
}

/// Whether someone wants an end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// An error once someone wants an end.
///
/// # Errors
/// See above.
pub fn check() -> Result<()> {
    ensure!(!requested(), "interrupted");
    Ok(())
}
