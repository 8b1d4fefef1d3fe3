//! The waterfall of a walk as a web page that stands alone: a picture (SVG), and below it what the terminal tells.

use std::fmt::{self, Display, Formatter, Write as _};

use super::super::output::time;
use super::waterfall::{capital, milliseconds};
use crate::probe::{Fetch, Finding, Report, Stage};

const STYLE: &str = include_str!("page.css");
const WIDTH: u64 = 960;
/// Where the bars begin and end.
const LEFT: u64 = 170;
const RIGHT: u64 = WIDTH - 110;
/// Of a stage, and of a URL's line above its stages.
const ROW: u64 = 24;
/// Of the scale at the top.
const SCALE: u64 = 26;

/// Text of servers and users, harmless in HTML and its attributes.
struct Safe<T>(T);

impl<T: Display> Display for Safe<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() && c != '\n' => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The whole page.
pub(super) fn html(report: &Report) -> String {
    let url = Safe(&report.url);
    let word = report.outcome.word();
    let verdict = match report.layer {
        None => format!("Works: {}", report.verdict),
        Some(layer) => format!(
            "{}, layer {}: {}",
            capital(word),
            layer.word(),
            report.verdict
        ),
    };
    let next = report.next.as_ref().map_or(String::new(), |next| {
        format!("<br><span>Next: {}</span>", Safe(next))
    });
    let details: String = report.fetches.iter().map(fetch).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{word}: {url}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>{url}</h1>\n<p class=\"verdict {word}\">{}.{next}</p>\n<p>{}, {}</p>\n{}{details}</body>\n</html>\n",
        Safe(verdict),
        milliseconds(report.waited_us),
        time(report.started_ms / 1000),
        picture(report),
    )
}

fn picture(report: &Report) -> String {
    let several = report.fetches.len() > 1;
    let mut rows = String::new();
    let (mut y, mut before) = (SCALE, 0);
    for fetch in &report.fetches {
        if several {
            let _ = writeln!(
                rows,
                "<text x=\"0\" y=\"{}\" class=\"mute\">{}</text>",
                y + 17,
                Safe(&fetch.url)
            );
            y += ROW;
        }
        for stage in &fetch.stages {
            rows += &bar(stage, before, report.waited_us, y);
            before += stage.waited_us();
            y += ROW;
        }
    }
    let grid: String = (0..=4)
        .map(|quarter| {
            let x = LEFT + (RIGHT - LEFT) * quarter / 4;
            let at = milliseconds(report.waited_us / 4 * quarter);
            format!(
                "<line class=\"grid\" x1=\"{x}\" y1=\"{SCALE}\" x2=\"{x}\" y2=\"{y}\"/>\
                 <text class=\"mute\" x=\"{x}\" y=\"16\" text-anchor=\"middle\">{at}</text>\n"
            )
        })
        .collect();
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"waterfall\">\n{grid}{rows}</svg>\n",
        y + 4
    )
}

/// One stage; `before` microseconds of `whole` were over when it began.
fn bar(stage: &Stage, before: u64, whole: u64, y: u64) -> String {
    let place = |us: u64| {
        let room = u128::from(RIGHT - LEFT) * u128::from(us.min(whole));
        LEFT + u64::try_from(room.checked_div(u128::from(whole)).unwrap_or(0)).unwrap_or(0)
    };
    let (from, to) = (
        place(before),
        place(before.saturating_add(stage.waited_us())),
    );
    let word = stage.outcome.word();
    format!(
        "<g><title>{}</title><text x=\"12\" y=\"{text}\">{}</text><text x=\"80\" y=\"{text}\" class=\"{word}\">{word}</text>\
         <rect class=\"{word}\" x=\"{from}\" y=\"{}\" width=\"{}\" height=\"14\" rx=\"2\"/>\
         <text class=\"mute end\" x=\"{WIDTH}\" y=\"{text}\">{}</text></g>\n",
        Safe(&stage.summary),
        stage.layer.word().to_uppercase(),
        y + 5,
        (to - from).max(2),
        milliseconds(stage.duration_us),
        text = y + 17,
    )
}

fn fetch(fetch: &Fetch) -> String {
    let stages: String = fetch.stages.iter().map(details).collect();
    let seen = match &fetch.agent {
        Some(view) if !view.lines.is_empty() => {
            let lines: String = view
                .lines
                .iter()
                .map(|line| format!("<dd>{}</dd>", Safe(line)))
                .collect();
            format!(
                "<details open><summary>What netmoat saw of this connection</summary>{lines}</details>\n"
            )
        }
        _ => String::new(),
    };
    format!("<h2>{}</h2>\n{stages}{seen}", Safe(&fetch.url))
}

fn details(stage: &Stage) -> String {
    let word = stage.outcome.word();
    let open = if stage.findings.is_empty() {
        ""
    } else {
        " open"
    };
    let findings: String = stage.findings.iter().map(finding).collect();
    let facts: String = stage
        .facts
        .lines()
        .iter()
        .map(|(label, value)| format!("<dt>{}</dt><dd>{}</dd>", Safe(label), Safe(value)))
        .collect();
    format!(
        "<details{open}><summary><b>{}</b> <span class=\"{word}\">{word}</span> {}: {}</summary>\n{findings}<dl>{facts}</dl></details>\n",
        stage.layer.word().to_uppercase(),
        milliseconds(stage.duration_us),
        Safe(&stage.summary),
    )
}

fn finding(finding: &Finding) -> String {
    let next = finding.next.as_ref().map_or(String::new(), |next| {
        format!("<br><span class=\"next\">→ {}</span>", Safe(next))
    });
    format!(
        "<p class=\"verdict {}\">{} <code>{}</code>{next}</p>\n",
        finding.outcome.word(),
        Safe(&finding.what),
        Safe(&finding.code),
    )
}

#[cfg(test)]
mod tests {
    use super::Safe;

    #[test]
    fn nothing_that_a_server_says_becomes_markup() {
        let hostile = "<script a=\"b\">'&\u{1b}[2J\n";
        assert_eq!(
            Safe(hostile).to_string(),
            "&lt;script a=&quot;b&quot;&gt;&#39;&amp; [2J\n"
        );
    }
}
