//! `netmoat detach`

use anyhow::Context as _;
use serde::Serialize;

use super::{Code, Failure, block_on, output::Output};
use crate::{
    control::{
        client::{Client, ClientError},
        protocol::VERSION,
    },
    datapath::pin::{self, Pins},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat detach                    programs, maps and pins go
  netmoat detach --instance edge    those of another instance

An agent that runs is asked, and ends. Without one, what it left is removed.
Config, lists and learned neighbours stay on the disk. Only root may do that.";

/// What was taken off.
#[derive(Serialize)]
struct Report {
    version: u32,
    instance: String,
    /// Whether an agent was running.
    agent: bool,
    /// Whether anything was there at all.
    found: bool,
}

pub(super) fn detach(client: &Client, out: &Output, instance: &str) -> Result<Code, Failure> {
    let agent = match block_on(async { Ok::<_, ClientError>(client.detach().await) })? {
        Ok(_) => true,
        Err(ClientError::Absent { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    let pins = Pins::open(instance, false).map_err(Failure::from_agent)?;
    let found = pins.is_some();
    if let Some(pins) = pins {
        pins.remove()
            .context("not everything could be taken off")
            .map_err(Failure::from_agent)?;
    }
    pin::tidy_up();
    let report = Report {
        version: VERSION,
        instance: instance.to_owned(),
        agent,
        found: found || agent,
    };
    out.print(&report, |report| match (report.agent, report.found) {
        (true, _) => "The agent has ended; its programs are off.\n".to_owned(),
        (false, true) => {
            "No agent was running; what it left in the kernel is removed.\n".to_owned()
        }
        (false, false) => format!("There is nothing of the instance {instance}.\n"),
    })?;
    Ok(Code::Ok)
}
