//! `netmoat mode`

use super::output::Output;
use super::{Code, Failure, block_on};
use crate::config::Mode;
use crate::control::client::Client;
use crate::control::protocol::SetMode;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat mode observe      let everything pass, count what would be done
  netmoat mode enforce      drop and answer again
  netmoat mode enforce --confirm-within 60s

It outlasts `netmoat reload`, unless the file says another mode than it said
before, and ends with the agent. What would lock out a gateway, an address of
this host, a name server or who is connected by SSH is refused unless
--confirm-within or --force is given.

Only root and the agent's own user may change the mode.";

pub(super) fn mode(client: &Client, out: &Output, set: &SetMode) -> Result<Code, Failure> {
    let changed = block_on(client.set_mode(set))?;
    out.print(&changed, |changed| {
        let now = match changed.mode {
            Mode::Observe => "observe mode: nothing is dropped or answered, only counted",
            Mode::Enforce => "enforce mode: verdicts are carried out",
        };
        let text = if changed.before == changed.mode {
            format!("Already in {now}.\n")
        } else {
            format!("Now in {now}.\n")
        };
        text + &super::reload::waits(changed.confirm_within_s)
    })?;
    Ok(Code::Ok)
}
