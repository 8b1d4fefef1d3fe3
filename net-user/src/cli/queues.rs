//! `netmoat queues`

mod detail;
pub(super) mod list;
pub(super) mod words;

use std::io::IsTerminal as _;
use std::time::Duration;

use super::output::{Output, width};
use super::{Code, Failure, block_on};
use crate::control::client::{Client, ClientError};
use crate::control::queues::Queues;
use crate::queues::{Selector, once};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat queues                      every TCP listener, one line each
  netmoat queues 443                  all there is to know of a listener
  netmoat queues '[::]:443'           likewise; or 192.0.2.1, or 192.0.2.1:443
  netmoat queues nginx                those of a process or systemd unit
  netmoat queues --watch              again every second, until Ctrl-C
  netmoat queues --watch -o json      one JSON document a line
  netmoat queues --once               without an agent, and without root

SYN QUEUE: handshakes that wait for the client. ACCEPT QUEUE: connections that
wait for the application; full means that it does not keep up. CONN/S, RESET/S:
connections completed, and ended other than in order, a second. HANDSHAKE: from
the SYN-ACK to the client's ACK, half of them and 99 of 100. WAIT: mean time to
accept(). COOKIES: sent/proven/false. DROPS: segments dropped at its sockets.
A dash: the source is missing, and a line below says why. Blank: none measured
yet.";

/// The name of the listeners that a command is about.
pub(super) const LISTENER_HELP: &str =
    "Only these: 443, 192.0.2.1, 192.0.2.1:443, [::]:443, or the name of a process or unit";

const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "LISTENER", help = LISTENER_HELP)]
    listener: Option<String>,
    /// Show them again every second until interrupted
    #[arg(long)]
    watch: bool,
    /// Look for two seconds without the agent, from what the kernel tells everybody
    #[arg(long, conflicts_with = "watch")]
    once: bool,
}

pub(super) fn queues(client: &Client, out: &Output, args: &Args) -> Result<Code, Failure> {
    let only = args.listener.as_deref().map(selector).transpose()?;
    let shown = |queues: &Queues| human(queues, only.is_some(), width());
    if !args.watch {
        let queues = if args.once {
            once()?
        } else {
            block_on(look(client))?
        };
        let queues = choose(queues, only.as_ref())?;
        out.print(&queues, shown)?;
        return Ok(Code::Ok);
    }
    block_on::<_, Failure>(async {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            let queues = choose(look(client).await?, only.as_ref())?;
            out.print_again(&queues, shown)?;
        }
    })
}

async fn look(client: &Client) -> Result<Queues, Failure> {
    let queues = client.queues().await.map_err(without_agent)?;
    words::printable(&queues)
        .map_err(|error| Failure::new(Code::Error, anyhow::anyhow!("unexpected answer: {error}")))
}

/// What the kernel tells of this network namespace, without an agent.
fn once() -> Result<Queues, Failure> {
    if std::io::stderr().is_terminal() {
        let seconds = once::LOOK.as_secs();
        eprintln!("Looking at this network namespace for {seconds} s ...");
    }
    let queues = once::look().map_err(|error| Failure::new(Code::Error, error))?;
    words::printable(&queues).map_err(|error| Failure::new(Code::Error, anyhow::Error::new(error)))
}

/// Reads LISTENER.
pub(super) fn selector(text: &str) -> Result<Selector, Failure> {
    text.parse::<Selector>()
        .map_err(|error| Failure::new(Code::Usage, anyhow::anyhow!("{error}")))
}

/// Keeps the listeners that were asked for.
fn choose(mut queues: Queues, only: Option<&Selector>) -> Result<Queues, Failure> {
    let Some(only) = only else {
        return Ok(queues);
    };
    let there: Vec<_> = queues.listeners.iter().map(list::name_and_owner).collect();
    queues.listeners.retain(|l| only.matches(l));
    if !queues.listeners.is_empty() {
        return Ok(queues);
    }
    let there = if there.is_empty() {
        "there is none".to_owned()
    } else {
        format!("there are {}", list::some(&there))
    };
    Err(Failure::new(
        Code::Error,
        anyhow::anyhow!("no such TCP listener in this network namespace; {there}"),
    ))
}

/// Whoever cannot reach an agent can look without one.
fn without_agent(error: ClientError) -> Failure {
    let is_unreachable = matches!(
        error,
        ClientError::Absent { .. } | ClientError::Denied { .. }
    );
    let mut failure = Failure::from(error);
    if is_unreachable {
        failure.source = anyhow::anyhow!(
            "{}; or look without an agent: `netmoat queues --once`",
            failure.source
        );
    }
    failure
}

/// `detailed`: all there is to know of each listener, in place of a line each.
pub(super) fn human(queues: &Queues, detailed: bool, width: Option<usize>) -> String {
    if detailed {
        let details = queues.listeners.iter().map(detail::human);
        return details.collect::<Vec<_>>().join("\n") + &list::missing_sources(queues);
    }
    list::human(queues, width)
}

#[cfg(test)]
pub(super) mod fixtures;
#[cfg(test)]
mod tests;
