//! What comes in: answers of the agent, keys, signals.

use std::io;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::cli::queues::words::printable;
use crate::cli::{Code, Failure};
use crate::control::client::Client;
use crate::control::protocol::{Counters, Queues, Status};

/// What the agent said at one time.
pub(super) struct Look {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub status: Status,
    pub queues: Queues,
    pub counters: Counters,
}

/// What the main thread hears.
pub(super) enum Message {
    /// The agent has answered.
    Look(Box<Look>),
    /// It has not; why.
    Failed(String),
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// A signal asks for the end.
    End,
    /// The terminal can no longer be read.
    Broken(io::Error),
}

/// Asks the agent for all that is shown.
pub(super) async fn look(client: &Client) -> Result<Look, Failure> {
    let (status, queues, counters) =
        tokio::try_join!(client.status(), client.queues(), client.counters())?;
    let odd = |error| Failure::new(Code::Error, anyhow::anyhow!("unexpected answer: {error}"));
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Look {
        at_ms: since.map_or(0, |time| {
            u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
        }),
        status: printable(&status).map_err(odd)?,
        queues: printable(&queues).map_err(odd)?,
        counters: printable(&counters).map_err(odd)?,
    })
}

/// Asks the agent every `interval`, and hears SIGTERM, SIGINT and SIGHUP, on a thread of its own.
pub(super) fn start(
    client: Client,
    interval: Duration,
    messages: Sender<Message>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let kinds = [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ];
    let [terminate, interrupt, hang_up] = {
        let _inside = runtime.enter();
        kinds.map(signal)
    };
    let (mut terminate, mut interrupt, mut hang_up) = (terminate?, interrupt?, hang_up?);
    std::thread::Builder::new()
        .name("feed".to_owned())
        .spawn(move || {
            let last = Last(messages);
            runtime.block_on(async {
                tokio::select! {
                    () = ask(&client, interval, &last.0) => {}
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                    _ = hang_up.recv() => {}
                }
            });
        })
}

/// Says that the end has come, also when a panic brings it.
struct Last(Sender<Message>);

impl Drop for Last {
    fn drop(&mut self) {
        // Nobody there: it has ended already.
        let _ = self.0.send(Message::End);
    }
}

/// Ends when nobody listens any more.
async fn ask(client: &Client, interval: Duration, messages: &Sender<Message>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is due at once, and there was a look before.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let message = match look(client).await {
            Ok(look) => Message::Look(Box::new(look)),
            Err(failure) => Message::Failed(failure.to_string()),
        };
        if messages.send(message).is_err() {
            return;
        }
    }
}

/// Reads keys and sizes on a thread of its own, which ends with the process.
pub(super) fn read_keys(messages: Sender<Message>) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("keys".to_owned());
    thread.spawn(move || {
        loop {
            let message = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Message::Key(key),
                Ok(Event::Resize(..)) => Message::Resized,
                Ok(_) => continue,
                Err(error) => Message::Broken(error),
            };
            let is_last = matches!(message, Message::Broken(_));
            if messages.send(message).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok(())
}
