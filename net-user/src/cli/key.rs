//! `netmoat key`

use super::output::{Output, age};
use super::{Code, Failure, block_on};
use crate::control::client::Client;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat key rotate              a fresh key; the one before still counts
  netmoat key rotate --force      at once, even if pending cookies become void

Only root and the agent's own user may rotate keys.";

pub(super) fn rotate(client: &Client, out: &Output, force: bool) -> Result<Code, Failure> {
    let rotated = block_on(client.rotate_keys(force))?;
    out.print(&rotated, |rotated| {
        format!(
            "New cookies use a fresh key; the one before was in use for {} and is honoured until the next rotation.\n",
            age(rotated.previous_key_age_s)
        )
    })?;
    Ok(Code::Ok)
}
