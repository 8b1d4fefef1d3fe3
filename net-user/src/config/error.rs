//! Config errors as an operator reads them: file, line, column, the line itself, a caret, a remedy.

use std::fmt::{self, Write as _};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why there is no config to work with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the config file {}: {source}\n  = help: {}", path.display(), read_remedy(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is not one that root should believe.
    #[error("refusing the config file {}: {what}\n  = help: {remedy}", path.display())]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// The command that repairs it.
        remedy: String,
    },
    /// The contents, or the command line's overrides, are wrong; all findings at once.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid {
        /// Each finding; never empty.
        problems: Vec<Problem>,
    },
}

fn read_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "check the path given with -c; without -c, /etc/netmoat/netmoat.toml is optional"
        }
        io::ErrorKind::PermissionDenied => "run as root, or give -c a file that you may read",
        _ => "give -c the path of a readable TOML file",
    }
}

/// One thing wrong with a config.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Where in the file; absent for the command line and for what is missing.
    pub place: Option<Place>,
}

/// A place in a config file.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The line's text.
    pub text: String,
    /// Characters to mark.
    pub width: usize,
}

impl Place {
    /// Finds byte range `span` of `source`.
    pub(super) fn new(path: &Path, source: &str, span: Range<usize>) -> Self {
        let start = floor_char_boundary(source, span.start);
        let line_start = source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let text = source[line_start..].lines().next().unwrap_or_default();
        let before = source[line_start..start].chars().count();
        let end = floor_char_boundary(source, span.end)
            .clamp(start, (line_start + text.len()).max(start));
        Self {
            path: path.to_owned(),
            line: source[..start].matches('\n').count() + 1,
            column: before + 1,
            text: text.to_owned(),
            width: source[start..end].chars().count().max(1),
        }
    }
}

fn floor_char_boundary(text: &str, index: usize) -> usize {
    let mut index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut gutter = 1;
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            gutter = number.len();
            // Control characters would reach the terminal; a tab becomes one space, which keeps the
            // caret under its character.
            let text: String = place
                .text
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            write!(
                f,
                "\n{:gutter$}--> {}:{}:{}",
                "",
                place.path.display(),
                place.line,
                place.column
            )?;
            write!(f, "\n{:gutter$} |", "")?;
            write!(f, "\n{number} | {}", text.trim_end())?;
            write!(
                f,
                "\n{:gutter$} | {:indent$}{:^<width$}",
                "",
                "",
                "",
                indent = place.column - 1,
                width = place.width
            )?;
        }
        f.write_char('\n')?;
        write!(f, "{:gutter$} = help: {}", "", self.remedy)
    }
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word.to_lowercase(), candidate),
                candidate,
            )
        })
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 3)
        .map(|(_, candidate)| candidate)
}
