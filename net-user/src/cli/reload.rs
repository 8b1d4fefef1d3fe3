//! `netmoat reload` and `netmoat confirm`

use super::output::{Output, Tone, age, plural, tone};
use super::{Code, Failure, block_on};
use crate::config::HumanDuration;
use crate::control::changes::{Confirmed, Reload, Reloaded};
use crate::control::client::Client;
use crate::host::ssh;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat reload --dry-run              what would change
  netmoat reload --confirm-within 60s   back after a minute without a confirm
  netmoat reload                        as SIGHUP does

The agent reads its config again, with what is in conf.d beside it, and puts it
in force as a whole, or nothing of it. Programs stay where they are, and no
packet is unprotected. What needs a restart, such as `socket`, `state_dir` and
`xdp_mode`, is refused by name. What `netmoat mode` has set stays, unless the
file says another mode than it said before. Exit code 1 when the config is not
put in force.

What would lock out a gateway, an address of this host, a name server or who is
connected by SSH is refused unless --confirm-within or --force is given. A
reload that was not confirmed stays out of force when the agent is started
again, until the file is another one or is reloaded.";

pub(super) const CONFIRM_EXAMPLES: &str = "\
Examples:
  netmoat block add 192.0.2.0/24 --confirm-within 2m
  netmoat confirm                       if you still can, the change stays

`netmoat status` says what waits, and for how long.";

/// What `netmoat reload` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go back after so long, as in 60s, unless `netmoat confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = super::within, conflicts_with = "dry_run")]
    confirm_within: Option<HumanDuration>,
    /// Even if that locks someone out
    #[arg(long)]
    force: bool,
}

pub(super) fn reload(client: &Client, out: &Output, args: &Args) -> Result<Code, Failure> {
    let reload = Reload {
        dry_run: args.dry_run,
        force: args.force,
        confirm_within: args.confirm_within,
        ssh_peer: ssh::own_peer(),
    };
    let reloaded = block_on(client.reload(&reload))?;
    out.print(&reloaded, told)?;
    Ok(Code::Ok)
}

pub(super) fn told(reloaded: &Reloaded) -> String {
    let count = reloaded.changes.len() as u64;
    let mut text = match (count, reloaded.applied) {
        (0, _) => "Nothing has changed.\n".to_owned(),
        (n, true) => format!("In force, with {}:\n", plural(n, "change")),
        (n, false) => format!("Not in force; this would be {}:\n", plural(n, "change")),
    };
    for change in &reloaded.changes {
        text += &format!("  {change}\n");
    }
    for warning in &reloaded.warnings {
        text += &format!("{} {warning}\n", tone("warning:", Tone::Bad));
    }
    text + &waits(reloaded.confirm_within_s)
}

/// That a change waits for its confirmation.
pub(super) fn waits(confirm_within_s: Option<u64>) -> String {
    confirm_within_s.map_or(String::new(), |left| {
        let left = age(left);
        tone(
            &format!("Undone in {left} unless you run `netmoat confirm`.\n"),
            Tone::Bad,
        )
    })
}

pub(super) fn confirm(client: &Client, out: &Output) -> Result<Code, Failure> {
    let confirmed = block_on(client.confirm())?;
    out.print(&confirmed, |confirmed: &Confirmed| {
        let mut text = format!("Confirmed: {} stays.\n", confirmed.what);
        for warning in &confirmed.warnings {
            text += &format!("{} {warning}\n", tone("warning:", Tone::Bad));
        }
        text
    })?;
    Ok(if confirmed.warnings.is_empty() {
        Code::Ok
    } else {
        Code::Error
    })
}
