//! `netmoat tune`

use super::output::{Output, plural, table, time};
use super::queues::words::printable;
use super::queues::{LISTENER_HELP, selector};
use super::{Code, Failure, block_on};
use crate::control::client::Client;
use crate::control::queues::{Applied, Change, Fix, Tune, TuneAction, Tuning};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat tune                 what would be changed, and why
  netmoat tune 443             the same for one port only
  sudo netmoat tune --apply    change it, and remember what was
  sudo netmoat tune --revert   set what was before the first `--apply`

Without --apply or --revert nothing is changed. Both change settings of the
running kernel only; those in /etc/sysctl.d return with the next boot.";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(value_name = "LISTENER", help = LISTENER_HELP)]
    listener: Option<String>,
    /// Change the kernel's settings as proposed, and remember what they were
    #[arg(long, conflicts_with = "revert")]
    apply: bool,
    /// Set again what was before `--apply`
    #[arg(long, conflicts_with = "listener")]
    revert: bool,
}

impl Args {
    const fn action(&self) -> Option<TuneAction> {
        match (self.apply, self.revert) {
            (true, _) => Some(TuneAction::Apply),
            (_, true) => Some(TuneAction::Revert),
            _ => None,
        }
    }
}

pub(super) fn tune(client: &Client, out: &Output, args: &Args) -> Result<Code, Failure> {
    // Refused here, before anything is asked for.
    args.listener.as_deref().map(selector).transpose()?;
    let action = args.action();
    let tuning = match action {
        None => block_on(client.tuning(args.listener.as_deref()))?,
        Some(action) => block_on(client.tune(&Tune {
            action,
            listener: args.listener.clone(),
        }))?,
    };
    let tuning = printable(&tuning).map_err(|error| {
        Failure::new(Code::Error, anyhow::anyhow!("unexpected answer: {error}"))
    })?;
    out.print(&tuning, |tuning| {
        human(tuning, action, args.listener.as_deref())
    })?;
    Ok(Code::Ok)
}

/// `action`: what was asked for; `None` for a proposal only.
pub(super) fn human(tuning: &Tuning, action: Option<TuneAction>, listener: Option<&str>) -> String {
    let count = tuning.changes.len() as u64;
    let mut text = match (action, count) {
        (None, 0) => "No setting of the kernel needs a change for what was found.\n".to_owned(),
        (None, _) => format!(
            "{} of the kernel would be changed for what was found.\n",
            plural(count, "setting")
        ),
        (Some(TuneAction::Apply), 0) => {
            "Nothing was changed: no setting of the kernel needs it for what was found.\n"
                .to_owned()
        }
        (Some(TuneAction::Apply), _) => {
            format!(
                "{} of the kernel asked to change.\n",
                plural(count, "setting")
            )
        }
        (Some(TuneAction::Revert), 0) => "Nothing was changed: no setting is applied.\n".to_owned(),
        (Some(TuneAction::Revert), _) => {
            format!("{} of the kernel asked back.\n", plural(count, "setting"))
        }
    };
    text += &changes(&tuning.changes, action.is_some());
    text += &advice(&tuning.advice);
    text += &applied(&tuning.applied);
    if action.is_none() {
        text += "\nNothing was changed";
        if count > 0 {
            let only = listener.map_or(String::new(), |name| format!(" {}", quoted(name)));
            text += &format!("; `netmoat tune{only} --apply` does it");
        }
        text += ".\n";
    }
    text
}

/// As a shell needs it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '@');
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''").escape_debug())
}

fn changes(changes: &[Change], done: bool) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let rows = changes.iter().map(|change| {
        let mut row = vec![change.name.clone(), change.from.clone(), change.to.clone()];
        if done {
            let outcome = change.outcome.as_deref().unwrap_or("not told");
            row.push(outcome.to_owned());
        }
        row.push(change.why.clone());
        row
    });
    let heads: &[&str] = if done {
        &["SETTING", "BEFORE", "ASKED", "OUTCOME", "WHY"]
    } else {
        &["SETTING", "NOW", "PROPOSED", "WHY"]
    };
    format!("\n{}", table(heads, &[1, 2], rows))
}

fn advice(advice: &[Fix]) -> String {
    if advice.is_empty() {
        return String::new();
    }
    let mut text = "\nWhat only you can change:\n".to_owned();
    for fix in advice {
        text += &format!("  - {}\n", fix.what);
        if let Some(command) = &fix.command {
            for line in command.lines() {
                text += &format!("      {line}\n");
            }
        }
    }
    text
}

fn applied(applied: &[Applied]) -> String {
    if applied.is_empty() {
        return String::new();
    }
    let rows = applied.iter().map(|setting| {
        vec![
            setting.name.clone(),
            setting.before.clone(),
            setting.set.clone(),
            time(setting.at),
        ]
    });
    let heads = ["SETTING", "BEFORE", "SET", "WHEN"];
    format!(
        "\nApplied and not reverted (`netmoat tune --revert` does that):\n{}",
        table(&heads, &[1, 2], rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::VERSION;

    fn tuning(changes: Vec<Change>) -> Tuning {
        Tuning {
            version: VERSION,
            changes,
            advice: vec![],
            applied: vec![],
        }
    }

    fn change(outcome: Option<&str>) -> Change {
        Change {
            name: "net.core.somaxconn".to_owned(),
            from: "128".to_owned(),
            to: "4096".to_owned(),
            why: "backlog_too_small at 0.0.0.0:443".to_owned(),
            outcome: outcome.map(str::to_owned),
        }
    }

    fn lines(text: &str) -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    }

    #[test]
    fn a_proposal_says_that_nothing_was_changed_and_what_changes_it() {
        let mut proposed = tuning(vec![change(None)]);
        proposed.advice = vec![Fix {
            what: "give nginx a longer queue".to_owned(),
            command: Some("listen 443 backlog=4096;".to_owned()),
        }];
        assert_eq!(
            lines(&human(&proposed, None, Some("my app"))),
            [
                "1 setting of the kernel would be changed for what was found.",
                "",
                "SETTING NOW PROPOSED WHY",
                "net.core.somaxconn 128 4096 backlog_too_small at 0.0.0.0:443",
                "",
                "What only you can change:",
                "- give nginx a longer queue",
                "listen 443 backlog=4096;",
                "",
                "Nothing was changed; `netmoat tune 'my app' --apply` does it."
            ]
        );
        let none = human(&tuning(vec![]), None, None);
        assert!(none.starts_with("No setting of the kernel needs a change"));
        assert!(none.ends_with("\nNothing was changed.\n"));
    }

    #[test]
    fn what_was_done_is_told_with_its_outcome_and_what_was_before() {
        let mut done = tuning(vec![change(Some("set"))]);
        done.applied = vec![Applied {
            name: "net.core.somaxconn".to_owned(),
            before: "128".to_owned(),
            set: "4096".to_owned(),
            at: 951_782_400,
        }];
        assert_eq!(
            lines(&human(&done, Some(TuneAction::Apply), None)),
            [
                "1 setting of the kernel asked to change.",
                "",
                "SETTING BEFORE ASKED OUTCOME WHY",
                "net.core.somaxconn 128 4096 set backlog_too_small at 0.0.0.0:443",
                "",
                "Applied and not reverted (`netmoat tune --revert` does that):",
                "SETTING BEFORE SET WHEN",
                "net.core.somaxconn 128 4096 2000-02-29T00:00:00Z"
            ]
        );
        assert_eq!(
            human(&tuning(vec![]), Some(TuneAction::Revert), None),
            "Nothing was changed: no setting is applied.\n"
        );
    }
}
