//! `netmoat explain`

use anyhow::anyhow;
use net_common::verdict::Reason;
use serde::Serialize;

use super::output::{Output, table};
use super::{Code, Failure};
use crate::config::nearest;
use crate::control::protocol::{VERSION, action_name};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat explain 16             by number
  netmoat explain accept_full    by name
  netmoat explain                all reasons";

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
}

pub(super) fn explain(out: &Output, code: Option<&str>) -> Result<Code, Failure> {
    let reasons = match code {
        Some(text) => vec![find(text)?],
        None => Reason::ALL.to_vec(),
    };
    let reasons = reasons.into_iter().map(|reason| ReasonJson {
        code: reason as u32,
        name: reason.name(),
        action: action_name(reason.action()),
        meaning: reason.describe(),
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

fn find(text: &str) -> Result<Reason, Failure> {
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

fn human(reasons: &ReasonsJson) -> String {
    if let [reason] = reasons.reasons.as_slice() {
        let action = match reason.action {
            "pass" => "The packet goes on to the kernel.",
            "drop" => "The packet is dropped (in observe mode: counted, and passes).",
            "reply" => "The packet is answered in place (in observe mode: counted, and passes).",
            _ => "Counted beside the packet's own verdict; decides nothing.",
        };
        return format!(
            "{} {} ({})\n{}\n{action}\n",
            reason.code, reason.name, reason.action, reason.meaning
        );
    }
    let rows = reasons.reasons.iter().map(|reason| {
        vec![
            reason.code.to_string(),
            reason.name.to_owned(),
            reason.action.to_owned(),
            reason.meaning.to_owned(),
        ]
    });
    table(&["CODE", "REASON", "ACTION", "MEANING"], &[0], rows)
}
