//! `netmoat counters`

use super::output::{Output, plural, table};
use super::{Code, Failure, block_on};
use crate::control::client::Client;
use crate::control::protocol::{Counter, Counters};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat counters                what happened to packets, and why
  netmoat counters --all          also reasons that no packet met
  netmoat explain cookie_false    what a reason means

OBSERVED counts what observe mode let pass: what would have been done in
enforce mode. A `note` is counted beside the packet's own verdict.";

pub(super) fn counters(client: &Client, out: &Output, all: bool) -> Result<Code, Failure> {
    let counters = block_on(client.counters())?;
    out.print(&counters, |counters| human(counters, all))?;
    Ok(Code::Ok)
}

pub(super) fn human(counters: &Counters, all: bool) -> String {
    let sum = |counters: &[Counter], action: &str| -> u64 {
        counters
            .iter()
            .filter(|counter| counter.action == action)
            .map(|counter| counter.packets)
            .sum()
    };
    let mut text = format!(
        "{} dropped, {} answered",
        plural(sum(&counters.enforced, "drop"), "packet"),
        sum(&counters.enforced, "reply"),
    );
    let would = sum(&counters.observed, "drop") + sum(&counters.observed, "reply");
    if would > 0 {
        text += &format!(
            "; {} would have been in enforce mode",
            plural(would, "more packet")
        );
    }
    text += ".\n";
    let observed = |code: u32| {
        counters
            .observed
            .iter()
            .find(|c| c.code == code)
            .map_or(0, |c| c.packets)
    };
    let rows: Vec<_> = counters
        .enforced
        .iter()
        .map(|counter| (counter, observed(counter.code)))
        .filter(|(counter, observed)| all || counter.packets > 0 || *observed > 0)
        .map(|(counter, observed)| {
            vec![
                counter.code.to_string(),
                counter.name.clone(),
                counter.action.clone(),
                counter.packets.to_string(),
                observed.to_string(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return text;
    }
    text + "\n"
        + &table(
            &["CODE", "REASON", "ACTION", "PACKETS", "OBSERVED"],
            &[0, 3, 4],
            rows,
        )
}
