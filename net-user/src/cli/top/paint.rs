//! What the terminal can show: colours or none, Unicode or plain ASCII.

use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;

use crate::cli::queues::words::cells;
use crate::control::queues::VerdictKind;

/// Heights in ASCII, as far as its characters differ in it.
const ASCII_BARS: bar::Set<'static> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "*",
    five_eighths: "+",
    half: "=",
    three_eighths: "-",
    one_quarter: ".",
    one_eighth: "_",
    empty: " ",
};

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    pub unicode: bool,
    pub colour: bool,
}

impl Paint {
    /// By LC_ALL, LC_CTYPE and LANG, of which the first that is set and not empty counts (setlocale(3)), and by NO_COLOR
    /// (no-color.org).
    pub(super) fn from_environment() -> Self {
        Self::from(|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()))
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        Self {
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
            colour: set("NO_COLOR").is_none() && variable("TERM").as_deref() != Some("dumb"),
        }
    }

    pub(super) const fn bars(self) -> bar::Set<'static> {
        if self.unicode {
            bar::NINE_LEVELS
        } else {
            ASCII_BARS
        }
    }

    /// A horizontal line of `width` cells with words in it.
    pub(super) fn rule(self, words: &str, width: usize) -> String {
        let dash = if self.unicode { "─" } else { "-" };
        let words = match words {
            "" => String::new(),
            words => format!("{} {words} ", dash.repeat(2)),
        };
        let rest = width.saturating_sub(words.chars().count());
        words + &dash.repeat(rest)
    }

    /// A bar of `width` cells, filled to the part of the whole.
    pub(super) fn bar(self, part: u64, whole: u64, width: usize) -> String {
        let full = cells(part, whole, width);
        let (block, room) = if self.unicode {
            ("█", "░")
        } else {
            ("#", ".")
        };
        block.repeat(full) + &room.repeat(width - full)
    }

    fn colour(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    pub(super) fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn verdict(self, kind: Option<VerdictKind>) -> Style {
        match kind {
            None => Style::new(),
            Some(VerdictKind::Healthy) => self.colour(Color::Green),
            Some(_) => self.bad(),
        }
    }

    pub(super) fn figure(self) -> Style {
        self.colour(Color::Cyan)
    }

    /// Heads and the line of keys.
    pub(super) fn head(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> (bool, bool) {
        let paint = Paint::from(|name| {
            let pair = pairs.iter().find(|pair| pair.0 == name)?;
            Some(pair.1.to_owned())
        });
        (paint.unicode, paint.colour)
    }

    #[test]
    fn the_first_locale_that_is_set_decides_over_unicode() {
        assert_eq!(of(&[]), (false, true));
        assert_eq!(of(&[("LANG", "en_GB.UTF-8")]), (true, true));
        assert_eq!(of(&[("LANG", "C.utf8"), ("LC_ALL", "")]), (true, true));
        assert_eq!(of(&[("LANG", "C.utf8"), ("LC_ALL", "C")]), (false, true));
        assert_eq!(of(&[("LANG", "C"), ("LC_CTYPE", "C.UTF-8")]), (true, true));
    }

    #[test]
    fn no_color_means_none_unless_it_is_empty() {
        assert_eq!(of(&[("NO_COLOR", "1")]), (false, false));
        assert_eq!(of(&[("NO_COLOR", "")]), (false, true));
        assert_eq!(of(&[("TERM", "dumb")]), (false, false));
        let plain = Paint {
            unicode: true,
            colour: false,
        };
        assert_eq!(plain.bad().fg, None);
        assert_eq!(plain.verdict(Some(VerdictKind::Healthy)).fg, None);
    }

    #[test]
    fn bars_and_rules_fill_their_width() {
        for unicode in [true, false] {
            let paint = Paint {
                unicode,
                colour: true,
            };
            for part in 0..=12 {
                assert_eq!(paint.bar(part, 10, 8).chars().count(), 8);
            }
            assert_eq!(paint.rule("words", 20).chars().count(), 20);
            assert_eq!(paint.rule("", 20).chars().count(), 20);
        }
    }
}
