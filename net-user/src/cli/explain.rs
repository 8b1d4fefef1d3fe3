//! `netmoat explain`

pub(super) mod frame;
mod input;

use anyhow::anyhow;
use net_common::verdict::{Action, Reason};
use serde::Serialize;

use super::output::{Output, table};
use super::{Code, Failure};
use crate::config::nearest;
use crate::control::protocol::{VERSION, action_name};
use crate::reasons::{rules, stage_of};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat explain 16             by number
  netmoat explain accept_full    by name
  netmoat explain R-ICMP-4       the reasons of a rule
  netmoat explain                all reasons
  netmoat explain --frame dropped.pcapng           what becomes of each packet
  netmoat explain --frame trace.pcap --packet 7    of the seventh
  netmoat explain --frame '02 00 00 00 00 01 …'    of hexadecimal digits
  tcpdump -c 1 -w - | netmoat explain --frame -    of standard input

A frame is run through the loaded program (BPF_PROG_TEST_RUN) as if it had
come in on the interface now. It goes nowhere, its verdict is not counted and
no event, but the guards take it for a real one: it meets the limits as they
stand and takes its share of them, a SYN may begin an epoch of cookies, and a
neighbour's claim is looked into. So only root and the agent's own user may
try frames. What the program does with a packet at TC, behind XDP, is not
tried.";

#[derive(Serialize)]
struct ReasonsJson {
    version: u32,
    reasons: Vec<ReasonJson>,
}

#[derive(Serialize)]
struct ReasonJson {
    code: u32,
    name: &'static str,
    action: &'static str,
    meaning: &'static str,
    stage: &'static str,
    rules: Vec<&'static str>,
    remedy: &'static str,
}

pub(super) fn explain(out: &Output, code: Option<&str>) -> Result<Code, Failure> {
    let reasons = match code {
        Some(text) if is_rule(text) => of_rule(text)?,
        Some(text) => vec![find(text)?],
        None => Reason::ALL.to_vec(),
    };
    let reasons = reasons.into_iter().map(|reason| ReasonJson {
        code: reason as u32,
        name: reason.name(),
        action: action_name(reason.action()),
        meaning: reason.describe(),
        stage: stage_of(reason).name,
        rules: rules(reason),
        remedy: stage_of(reason).remedy,
    });
    out.print(
        &ReasonsJson {
            version: VERSION,
            reasons: reasons.collect(),
        },
        human,
    )?;
    Ok(Code::Ok)
}

fn is_rule(text: &str) -> bool {
    text.get(..2)
        .is_some_and(|begin| begin.eq_ignore_ascii_case("r-"))
}

/// The reasons of a rule, such as `R-ICMP-4`.
fn of_rule(text: &str) -> Result<Vec<Reason>, Failure> {
    let of = |reason: &Reason| {
        let rules = rules(*reason);
        rules.iter().any(|rule| rule.eq_ignore_ascii_case(text))
    };
    let found: Vec<_> = Reason::ALL.iter().copied().filter(of).collect();
    if found.is_empty() {
        return Err(Failure::new(
            Code::Error,
            anyhow!(
                "no reason is of a rule `{}`; `netmoat explain` lists the reasons, `netmoat explain NAME` the rules of one",
                text.escape_debug()
            ),
        ));
    }
    Ok(found)
}

/// The reason of a number or name.
pub(super) fn find(text: &str) -> Result<Reason, Failure> {
    let by_number = text
        .parse::<usize>()
        .ok()
        .and_then(|code| Reason::ALL.get(code));
    if let Some(reason) =
        by_number.or_else(|| Reason::ALL.iter().find(|reason| reason.name() == text))
    {
        return Ok(*reason);
    }
    let remedy = match nearest(text, Reason::ALL.iter().map(|reason| reason.name())) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`netmoat explain` lists them".to_owned(),
    };
    Err(Failure::new(
        Code::Error,
        anyhow!("unknown reason `{}`; {remedy}", text.escape_debug()),
    ))
}

/// The reason of a number or name, one that drops.
pub(super) fn find_drop(text: &str) -> Result<Reason, Failure> {
    let reason = find(text)?;
    if reason.action() == Action::Drop {
        return Ok(reason);
    }
    Err(Failure::new(
        Code::Error,
        anyhow!(
            "`{}` drops nothing, so no dropped packet has it; `netmoat explain` lists the reasons that do",
            reason.name()
        ),
    ))
}

fn human(reasons: &ReasonsJson) -> String {
    if let [reason] = reasons.reasons.as_slice() {
        let action = match reason.action {
            "pass" => "The packet goes on to the kernel.",
            "drop" => "The packet is dropped (in observe mode: counted, and passes).",
            "reply" => "The packet is answered in place (in observe mode: counted, and passes).",
            _ => "Counted beside the packet's own verdict; decides nothing.",
        };
        let mut text = format!(
            "{} {} ({})\n{}\n{action}\nStage: {}.",
            reason.code, reason.name, reason.action, reason.meaning, reason.stage
        );
        if !reason.rules.is_empty() {
            text += &format!(" Rules: {}.", reason.rules.join(", "));
        }
        text += "\n";
        if !reason.remedy.is_empty() {
            let when = match reason.action {
                "drop" => "If it hits honest traffic: ",
                _ => "",
            };
            text += &format!("{when}{}\n", reason.remedy);
        }
        return text;
    }
    let rows = reasons.reasons.iter().map(|reason| {
        vec![
            reason.code.to_string(),
            reason.name.to_owned(),
            reason.action.to_owned(),
            reason.stage.to_owned(),
            reason.meaning.to_owned(),
        ]
    });
    table(
        &["CODE", "REASON", "ACTION", "STAGE", "MEANING"],
        &[0],
        rows,
    )
}
