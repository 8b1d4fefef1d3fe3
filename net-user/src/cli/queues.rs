//! `netmoat queues`

use std::time::Duration;

use super::output::{Output, plural, table};
use super::{Code, Failure, block_on};
use crate::config::SynMode;
use crate::control::client::Client;
use crate::control::protocol::{ListenerQueues, Queues};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat queues                      every TCP listener, one line each
  netmoat queues --watch              again every second, until Ctrl-C
  netmoat queues --watch -o json      one JSON document a line

SYN QUEUE: handshakes that wait for the client. ACCEPT QUEUE: connections that
wait for the application; full means that it does not keep up.";

const PERIOD: Duration = Duration::from_secs(1);

pub(super) fn queues(client: &Client, out: &Output, watch: bool) -> Result<Code, Failure> {
    if !watch {
        out.print(&block_on(client.queues())?, human)?;
        return Ok(Code::Ok);
    }
    block_on::<_, Failure>(async {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            out.print_again(&client.queues().await?, human)?;
        }
    })
}

pub(super) fn human(queues: &Queues) -> String {
    let listeners = &queues.listeners;
    if listeners.is_empty() {
        return "No TCP listener in this network namespace.\n".to_owned();
    }
    let count =
        |test: fn(&ListenerQueues) -> bool| listeners.iter().filter(|l| test(l)).count() as u64;
    let mut text = plural(listeners.len() as u64, "listener");
    let (with_cookies, full) = (count(|l| l.cookies_now), count(|l| l.accept_full));
    if with_cookies > 0 {
        text += &format!("; SYN cookies for {with_cookies}");
    }
    if full > 0 {
        text += &format!("; accept queue full at {full}: the application does not keep up");
    }
    if with_cookies + full == 0 {
        text += "; queues are in order";
    }
    text += ".\n\n";
    let header = [
        "LISTENER",
        "MODE",
        "SYN QUEUE",
        "ACCEPT QUEUE",
        "PLAIN SYNS",
        "COOKIES SENT",
        "PROVEN",
        "FALSE",
        "HANDSHAKES",
        "NOT ANSWERED",
        "STATE",
    ];
    text + &table(
        &header,
        &[2, 3, 4, 5, 6, 7, 8, 9],
        listeners.iter().map(row),
    )
}

fn row(listener: &ListenerQueues) -> Vec<String> {
    let address = if listener.family == 6 {
        format!("[{}]", listener.address)
    } else {
        listener.address.clone()
    };
    vec![
        format!("{address}:{}", listener.port),
        match listener.mode {
            SynMode::Off => "off",
            SynMode::Auto => "auto",
            SynMode::Always => "always",
        }
        .to_owned(),
        format!("{}/{}", listener.syn_queue, listener.syn_queue_limit),
        format!("{}/{}", listener.accept_queue, listener.accept_queue_limit),
        listener.syns_passed.to_string(),
        listener.cookies_sent.to_string(),
        listener.cookies_proven.to_string(),
        listener.cookies_failed.to_string(),
        listener.handshakes.to_string(),
        (listener.accept_full_drops + listener.syn_ack_limited).to_string(),
        state(listener),
    ]
}

fn state(listener: &ListenerQueues) -> String {
    let mut words = Vec::new();
    if listener.accept_full {
        words.push("accept queue full".to_owned());
    }
    if listener.cookies_now {
        words.push("SYN cookies".to_owned());
    }
    if listener.handshakes_refused > 0 {
        words.push(format!(
            "{} refused by the kernel",
            plural(listener.handshakes_refused, "handshake")
        ));
    }
    if !listener.protected {
        let why = listener.why_not.as_deref().unwrap_or("no reason known");
        words.push(format!("left to the kernel: {why}"));
    } else if words.is_empty() {
        words.push("ready".to_owned());
    }
    words.join(", ")
}
