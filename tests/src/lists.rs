//! What tests of lists ask of an agent. Made for tests: whatever fails panics.

use std::process::Output;

use net_user::control::lists::{ListFound, ListNames, ListPage};
use serde::de::DeserializeOwned;

use crate::agent::Agent;

/// Runs a command, given in words, which must succeed; what it printed.
pub fn done(agent: &Agent, command: &str) -> String {
    let output = run(agent, command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command which must fail with exit code 1; what it said.
pub fn refused(agent: &Agent, command: &str) -> String {
    let output = run(agent, command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{command}: {said}");
    said
}

fn run(agent: &Agent, command: &str) -> Output {
    let words: Vec<_> = command.split_whitespace().collect();
    agent.netmoat(&words).unwrap()
}

/// What a command prints as JSON; it must succeed.
pub fn json<T: DeserializeOwned>(agent: &Agent, command: &str) -> T {
    serde_json::from_str(&done(agent, &format!("-o json {command}"))).unwrap()
}

/// The entries of `netmoat block list` or `netmoat allow list`.
pub fn page(agent: &Agent, list: &str, options: &str) -> ListPage {
    json(agent, &format!("{list} list {options}"))
}

/// Every prefix on a list, in order.
pub fn prefixes(agent: &Agent, list: &str) -> Vec<String> {
    let page = page(agent, list, "--limit 0");
    page.entries.into_iter().map(|entry| entry.prefix).collect()
}

/// What `netmoat block list ADDRESS` tells.
pub fn found(agent: &Agent, address: &str) -> ListFound {
    json(agent, &format!("block list {address}"))
}

/// What `netmoat block list --names` tells.
pub fn names(agent: &Agent, list: &str) -> ListNames {
    json(agent, &format!("{list} list --names"))
}
