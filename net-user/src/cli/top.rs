//! `netmoat top`
//!
//! What the agent says and what is typed become a [`State`]; what stands on the screen is a function of it alone.

mod feed;
mod paint;
mod selected;
mod state;
mod view;

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use ratatui::DefaultTerminal;

use super::output::{Format, Output};
use super::{Code, Failure};
use crate::config::HumanDuration;
use crate::control::client::Client;
use feed::Message;
use paint::Paint;
use state::State;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat top                      every second, until q
  netmoat top --interval 5s        less often

Keys: up and down or j and k select a listener, s sorts by another column,
p holds the picture, ? says more, q ends. All is to be seen from 80 columns and
24 lines on; no mouse is needed. NO_COLOR is kept, and plain ASCII is drawn
unless LC_ALL, LC_CTYPE or LANG says UTF-8.";

/// The agent is asked no more often.
const SHORTEST: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How often to ask the agent, from 100ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = text
        .parse::<HumanDuration>()
        .map_err(|error| format!("{}; {}", error.what, error.remedy))?
        .get();
    if interval < SHORTEST {
        return Err("write 100ms or more".to_owned());
    }
    Ok(interval)
}

pub(super) fn top(client: &Client, out: &Output, args: &Args) -> Result<Code, Failure> {
    if out.is(Format::Json) {
        return Err(Failure::new(
            Code::Usage,
            anyhow!(
                "`top` draws on a terminal; `netmoat queues --watch -o json` has the same as JSON"
            ),
        ));
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Failure::new(
            Code::Usage,
            anyhow!(
                "`top` draws on a terminal and reads keys from it, and standard input or output is none; \
                 `netmoat queues --watch` prints"
            ),
        ));
    }
    // Whoever cannot reach the agent at all is told so at the prompt; later the view says it and waits.
    let first = super::block_on(feed::look(client))?;
    let mut state = State::new(host(), Paint::from_environment());
    state.take(first);
    let (messages, inbox) = mpsc::channel();
    let asking = feed::start(client.clone(), args.interval, messages.clone())?;
    let end = on_terminal(|terminal| {
        feed::read_keys(messages)?;
        run(terminal, &mut state, &inbox)
    });
    end?;
    if asking.is_finished() && asking.join().is_err() {
        return Err(ended());
    }
    Ok(Code::Ok)
}

/// Takes the terminal over for as long as `work` takes, and gives it back whatever becomes of that: ratatui's
/// panic hook does so before the panic is told, on whichever thread it is.
fn on_terminal(
    work: impl FnOnce(&mut DefaultTerminal) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let taken = ratatui::try_init().context("the terminal cannot be taken over");
    let end = match taken {
        Ok(mut terminal) => work(&mut terminal),
        Err(error) => Err(Failure::new(Code::Error, error)),
    };
    // Raw mode may be on even if the rest of taking over failed.
    let restored = ratatui::try_restore();
    end?;
    Ok(restored?)
}

/// Until someone ends it.
fn run(
    terminal: &mut DefaultTerminal,
    state: &mut State,
    inbox: &Receiver<Message>,
) -> Result<(), Failure> {
    loop {
        terminal.draw(|frame| view::draw(frame, state))?;
        // One picture for all that has come meanwhile.
        let first = inbox.recv().map_err(|_| ended())?;
        for message in std::iter::once(first).chain(inbox.try_iter()) {
            match message {
                Message::Look(look) => state.take(*look),
                Message::Failed(why) => state.miss(why),
                Message::Key(key) if state.press(key) => return Ok(()),
                Message::Key(_) | Message::Resized => {}
                Message::End => return Ok(()),
                Message::Broken(error) => return Err(error.into()),
            }
        }
    }
}

fn ended() -> Failure {
    Failure::new(Code::Error, anyhow!("what asks the agent has ended"))
}

/// This host's name, of this UTS namespace.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.as_deref().map_or("this host", str::trim);
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
