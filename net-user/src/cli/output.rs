//! What a command prints: JSON, or text for people.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use owo_colors::OwoColorize as _;
use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people; may change
    Human,
    /// For programs; stable, and versioned
    Json,
}

/// Standard output in the format asked for. Colours only on a terminal and without NO_COLOR.
pub(super) struct Output {
    format: Format,
}

impl Output {
    pub(super) const fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether this format was asked for.
    pub(super) fn is(&self, format: Format) -> bool {
        self.format == format
    }

    /// Prints `value` as JSON, or what `human` makes of it.
    pub(super) fn print<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let text = match self.format {
            Format::Human => human(value),
            Format::Json => serde_json::to_string_pretty(value)? + "\n",
        };
        write(&text)
    }

    /// The same in a series: one line of JSON a time, or a screen of text that replaces the last one.
    pub(super) fn print_again<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let text = match self.format {
            // Home, and clear to the end; stripped unless this is a terminal.
            Format::Human => format!("\x1b[H\x1b[J{}\n", human(value)),
            Format::Json => serde_json::to_string(value)? + "\n",
        };
        write(&text)
    }

    /// One of a series that nothing replaces: a line, of JSON or for people.
    pub(super) fn print_line<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let text = match self.format {
            Format::Human => human(value),
            Format::Json => serde_json::to_string(value)? + "\n",
        };
        write(&text)
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// How a word is meant; only its colour.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Good,
    Bad,
    Plain,
}

pub(super) fn tone(text: &str, tone: Tone) -> String {
    match tone {
        Tone::Good => text.green().to_string(),
        Tone::Bad => text.red().bold().to_string(),
        Tone::Plain => text.to_owned(),
    }
}

/// A plain aligned table; `right` names the columns of figures.
pub(super) fn table(
    header: &[&str],
    right: &[usize],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// Columns of the terminal; `None` when standard output is none.
pub(super) fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let (columns, _) = ratatui::crossterm::terminal::size().ok()?;
    (columns > 0).then_some(columns.into())
}

/// Lines of at most `width` characters, at most `most`; what is cut ends in dots.
pub(super) fn wrap(text: &str, width: usize, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let length = |text: &str| text.chars().count();
    for word in text.split_whitespace() {
        let is_full = lines.len() == most;
        match lines.last_mut() {
            Some(line) if length(line) + 1 + length(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            None if is_full => break,
            Some(line) if is_full => {
                let kept: String = line.chars().take(width.saturating_sub(4)).collect();
                *line = kept + " ...";
                break;
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `1 packet`, `2 packets`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Octets as operators read them.
pub(super) fn size(octets: u64) -> String {
    match octets {
        0..10_240 => plural(octets, "octet"),
        10_240..10_485_760 => format!("{} KiB", octets >> 10),
        _ => format!("{} MiB", octets >> 20),
    }
}

/// Seconds as operators read them.
pub(super) fn age(seconds: u64) -> String {
    crate::config::HumanDuration::new(std::time::Duration::from_secs(seconds))
        .map_or_else(|| format!("{seconds}s"), |duration| duration.to_string())
}

/// Seconds since 1970 as UTC, by RFC 3339.
pub(super) fn time(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that a leap day is the last of its year; eras of 400 years, 146,097 days
    // each. The first begins 719,468 days before 1970.
    let day = days.saturating_add(719_468);
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March to July and August to December have 153 days each.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    format!(
        "{year}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(time(seconds), text);
        }
        // Whatever the agent says.
        assert!(time(u64::MAX).ends_with('Z'));
    }
}
