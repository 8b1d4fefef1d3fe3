//! The waterfall of a walk in the terminal.

use std::io::{self, IsTerminal as _};

use owo_colors::OwoColorize as _;

use super::super::output::{Tone, time, tone, wrap};
use crate::probe::{Fetch, Finding, Outcome, Report, Stage};

/// Columns without a terminal.
const WIDTH: usize = 100;
/// Where the bars begin.
const BARS: usize = 27;
/// Where text below a stage begins.
const INSET: usize = 9;
/// The longest line of text that is still read with ease.
const READABLE: usize = 120;

/// What is being done now, on standard error, while somebody waits at a terminal.
pub(super) struct Progress {
    shown: bool,
}

impl Progress {
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            shown: wanted && io::stderr().is_terminal(),
        }
    }

    pub(super) fn tell(&self, what: &str) {
        if self.shown {
            eprint!("\r\x1b[K{what} …");
        }
    }

    pub(super) fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// `brief`: without the details of each stage. `width`: columns of the terminal.
pub(super) fn human(report: &Report, brief: bool, width: Option<usize>) -> String {
    let width = width.unwrap_or(WIDTH).clamp(60, READABLE);
    let mut text = format!(
        "{}  {}  {}  {}\n",
        report.url.as_str().bold(),
        paint(report.outcome, report.outcome.word()),
        milliseconds(report.waited_us),
        time(report.started_ms / 1000).dimmed(),
    );
    let mut before = 0;
    for (i, fetch) in report.fetches.iter().enumerate() {
        if report.fetches.len() > 1 {
            text += &format!("\n{}. {}\n", i + 1, fetch.url);
        } else {
            text.push('\n');
        }
        for stage in &fetch.stages {
            text += &row(stage, before, report.waited_us, width);
            text += &below(stage, brief, width);
            before += stage.waited_us();
        }
        text += &seen(fetch, width);
    }
    text + &conclusion(report, width)
}

/// One stage; `before` microseconds of `whole` were over when it began.
fn row(stage: &Stage, before: u64, whole: u64, width: usize) -> String {
    let room = width - BARS;
    let (from, length) = span(before, stage.waited_us(), whole, room);
    let mut bar = String::new();
    if length > 0 {
        let shape = paint(stage.outcome, &"█".repeat(length));
        bar = format!("  {:from$}{shape}", "");
    }
    let word = format!("{:6}", stage.outcome.word());
    format!(
        "  {:5}  {} {:>9}{bar}\n",
        stage.layer.word().to_uppercase(),
        paint(stage.outcome, &word),
        milliseconds(stage.duration_us),
    )
}

/// The columns of a bar: its first, and how many. What takes any time has one column at least.
pub(super) fn span(before: u64, duration: u64, whole: u64, room: usize) -> (usize, usize) {
    let column = |us: u64| {
        let place = u128::from(us.min(whole)) * room as u128;
        usize::try_from(place.checked_div(u128::from(whole)).unwrap_or(0)).unwrap_or(room)
    };
    let from = column(before).min(room.saturating_sub(1));
    if duration == 0 {
        return (from, 0);
    }
    let to = column(before.saturating_add(duration)).min(room);
    (from, to.saturating_sub(from).max(1))
}

fn below(stage: &Stage, brief: bool, width: usize) -> String {
    let mut text = indented(&stage.summary, INSET, width);
    let findings = stage.findings.iter();
    for finding in findings.filter(|f| !brief || f.outcome != Outcome::Ok) {
        text += &told(finding, width);
    }
    if brief {
        return text;
    }
    let lines = stage.facts.lines();
    let labels = lines.iter().map(|(label, _)| label.chars().count());
    let labels = labels.max().unwrap_or(0);
    for (label, value) in &lines {
        for (i, line) in value.split('\n').enumerate() {
            let label = if i == 0 { label.as_str() } else { "" };
            let head = format!("{:INSET$}{label:labels$}  ", "");
            let inset = head.chars().count();
            // Trees bring their own indentation.
            let own = line.chars().take_while(|c| *c == ' ').count();
            let room = width.saturating_sub(inset + own).max(20);
            for (j, part) in wrap(line, room, usize::MAX).into_iter().enumerate() {
                let head = if j == 0 {
                    format!("{}", head.dimmed())
                } else {
                    " ".repeat(inset)
                };
                text += &format!("{head}{}{part}\n", " ".repeat(own));
            }
        }
    }
    text
}

fn told(finding: &Finding, width: usize) -> String {
    let word = match finding.outcome {
        Outcome::Ok => "note",
        other => other.word(),
    };
    let what = format!("{word}: {} ({})", finding.what, finding.code);
    let mut text = String::new();
    for line in wrap(&what, width - INSET, usize::MAX) {
        text += &format!("{:INSET$}{}\n", "", paint(finding.outcome, &line));
    }
    if let Some(next) = &finding.next {
        text += &indented(&format!("→ {next}"), INSET + 2, width);
    }
    text
}

fn seen(fetch: &Fetch, width: usize) -> String {
    let Some(view) = &fetch.agent else {
        return String::new();
    };
    let lines = view.lines.iter();
    let lines: String = lines.map(|line| indented(line, INSET, width)).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "  {}  what netmoat saw of this connection\n{lines}",
        "AGENT"
    )
}

fn conclusion(report: &Report, width: usize) -> String {
    let mut text = String::from("\n");
    let verdict = match report.layer {
        None => format!("Works: {}.", report.verdict),
        Some(layer) => format!(
            "{}, layer {}: {}.",
            capital(report.outcome.word()),
            layer.word(),
            report.verdict
        ),
    };
    for line in wrap(&verdict, width, usize::MAX) {
        text += &format!("{}\n", paint(report.outcome, &line));
    }
    if let Some(next) = &report.next {
        text += &indented(&format!("Next: {next}."), 0, width);
    }
    text
}

fn indented(text: &str, inset: usize, width: usize) -> String {
    wrap(text, width - inset, usize::MAX)
        .into_iter()
        .map(|line| format!("{:inset$}{line}\n", ""))
        .collect()
}

fn paint(outcome: Outcome, text: &str) -> String {
    match outcome {
        Outcome::Ok => tone(text, Tone::Good),
        Outcome::Slow => text.yellow().to_string(),
        Outcome::Wrong => text.yellow().bold().to_string(),
        Outcome::Failed => tone(text, Tone::Bad),
    }
}

pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// Times as operators read them: three digits that count.
pub(super) fn milliseconds(us: u64) -> String {
    match us {
        0..10_000 => format!("{}.{:02} ms", us / 1000, us % 1000 / 10),
        10_000..100_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        100_000..10_000_000 => format!("{} ms", us / 1000),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_lie_within_the_room_one_after_another_and_are_seen_however_short() {
        assert_eq!(span(0, 50, 100, 40), (0, 20));
        assert_eq!(span(50, 50, 100, 40), (20, 20));
        assert_eq!(span(50, 1, 100, 40), (20, 1));
        assert_eq!(span(100, 0, 100, 40), (39, 0));
        assert_eq!(span(100, 7, 100, 40), (39, 1));
        assert_eq!(span(0, 0, 0, 40), (0, 0));
        assert_eq!(span(u64::MAX, u64::MAX, u64::MAX, 40), (39, 1));
    }

    #[test]
    fn times_have_three_digits_that_count() {
        for (us, text) in [
            (0, "0.00 ms"),
            (1_234, "1.23 ms"),
            (12_345, "12.3 ms"),
            (123_456, "123 ms"),
            (1_234_567, "1234 ms"),
            (12_345_678, "12.3 s"),
        ] {
            assert_eq!(milliseconds(us), text);
        }
    }
}
