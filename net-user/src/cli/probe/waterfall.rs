//! The waterfall of a walk: in the terminal, and as a web page.

use crate::probe::Report;

/// What is being done now, on standard error while somebody waits at a terminal.
pub(super) struct Progress {
    shown: bool,
}

impl Progress {
    pub(super) fn new(wanted: bool) -> Self {
        use std::io::IsTerminal as _;
        Self {
            shown: wanted && std::io::stderr().is_terminal(),
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

pub(super) fn human(report: &Report) -> String {
    let mut text = format!("{}\n", report.url);
    for fetch in &report.fetches {
        for stage in &fetch.stages {
            text += &format!(
                "{:6} {:6} {:>8} us  {}\n",
                stage.layer.word(),
                stage.outcome.word(),
                stage.duration_us,
                stage.summary
            );
        }
    }
    text + &report.verdict + "\n"
}

pub(super) fn html(report: &Report) -> String {
    human(report)
}
