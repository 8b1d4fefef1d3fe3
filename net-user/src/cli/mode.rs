//! `netmoat mode`

use super::output::Output;
use super::{Code, Failure, block_on};
use crate::config::Mode;
use crate::control::client::Client;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat mode observe      let everything pass, count what would be done
  netmoat mode enforce      drop and answer again

Only root and the agent's own user may change the mode.";

pub(super) fn mode(client: &Client, out: &Output, mode: Mode) -> Result<Code, Failure> {
    let changed = block_on(client.set_mode(mode))?;
    out.print(&changed, |changed| {
        let now = match changed.mode {
            Mode::Observe => "observe mode: nothing is dropped or answered, only counted",
            Mode::Enforce => "enforce mode: verdicts are carried out",
        };
        if changed.before == changed.mode {
            format!("Already in {now}.\n")
        } else {
            format!("Now in {now}.\n")
        }
    })?;
    Ok(Code::Ok)
}
