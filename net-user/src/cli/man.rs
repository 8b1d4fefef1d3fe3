//! `netmoat man`: the manual, a page for `netmoat` and one for each verb, made from the command line's own words.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{Cli, Code, EXIT_CODES, Failure};
use crate::build_info::BuildInfo;
use crate::config::DEFAULT_SOCKET;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat man /usr/local/share/man/man8    netmoat.8 and a page for each verb";

/// Daemons and commands of administrators.
const SECTION: &str = "8";

const FILES: [(&str, &str); 4] = [
    (
        "/etc/netmoat/netmoat.toml",
        "the configuration; each key is explained there",
    ),
    (DEFAULT_SOCKET, "the agent's control socket"),
    (
        "/var/lib/netmoat",
        "what outlives the agent: neighbours learned and pinned, lists",
    ),
    (
        "/sys/fs/bpf/netmoat",
        "programs and maps that stay in force without the agent",
    ),
];

pub(super) fn write(directory: &Path) -> Result<Code, Failure> {
    fs::create_dir_all(directory)?;
    // The page netmoat-run(8) serves better than netmoat-help-run(8).
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    for (name, text) in pages(&command)? {
        fs::write(directory.join(name), text)?;
    }
    Ok(Code::Ok)
}

/// The pages of a command and of those below it, as file names and texts.
fn pages(command: &Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    let man = Man::new(command.clone())
        .section(SECTION)
        .date(BuildInfo::of_this_program().commit_date.unwrap_or_default())
        .source(concat!("netmoat ", env!("CARGO_PKG_VERSION")))
        .manual("netmoat");
    let mut all = vec![(man.get_filename(), page(&man, command)?)];
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        all.extend(pages(sub)?);
    }
    Ok(all)
}

/// The sections in the order that man-pages(7) gives.
fn page(man: &Man, command: &Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    let top = command.get_name() == "netmoat";
    let (notes, examples) = match command.get_after_help() {
        Some(help) if !top => notes_and_examples(&help.to_string()),
        _ => Default::default(),
    };
    roff.control("SH", ["EXIT STATUS"]);
    roff.text([roman(EXIT_CODES.trim_start_matches("Exit codes: "))]);
    if top {
        roff.control("SH", ["FILES"]);
        for (file, meaning) in FILES {
            roff.control("TP", []);
            roff.text([bold(file)]);
            roff.text([roman(meaning)]);
        }
    }
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
        for paragraph in notes {
            roff.control("PP", []);
            roff.text([roman(paragraph)]);
        }
    }
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        // No filling: each line is a command, and a column of words behind it.
        roff.control("nf", []);
        for line in examples {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    if !top {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold("netmoat"), roman(format!("({SECTION})"))]);
    }
    roff.to_writer(&mut text)?;
    Ok(text)
}

/// Takes the text below a verb's help apart: the paragraphs, and the lines of those that begin with `Examples:`.
fn notes_and_examples(help: &str) -> (Vec<String>, Vec<String>) {
    let (examples, notes): (Vec<_>, Vec<_>) = help
        .split("\n\n")
        .partition(|paragraph| paragraph.starts_with("Examples:"));
    let examples = examples
        .iter()
        .flat_map(|paragraph| paragraph.lines().skip(1));
    (
        notes
            .iter()
            .map(|paragraph| paragraph.replace('\n', " "))
            .collect(),
        examples.map(|line| line.trim_start().to_owned()).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(String, String)> {
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        let text = |(name, text)| (name, String::from_utf8(text).unwrap());
        pages(&command).unwrap().into_iter().map(text).collect()
    }

    #[test]
    fn every_verb_has_a_page_with_its_examples() {
        let pages = all();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in [
            "netmoat.8",
            "netmoat-run.8",
            "netmoat-neighbor-pin.8",
            "netmoat-block-add.8",
        ] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
        assert!(
            !names.contains(&"netmoat-man.8"),
            "a hidden verb has a page"
        );
        for (name, text) in &pages {
            assert!(text.contains("\n.SH NAME\n"), "{name}:\n{text}");
            assert!(text.contains("\n.SH \"EXIT STATUS\"\n"), "{name}:\n{text}");
            let verb = name.trim_end_matches(".8").replace('-', " ");
            let has_verbs = text.contains("\n.SH SUBCOMMANDS\n");
            let shown = text.contains(&format!("\n{verb}")) || text.contains(&format!("| {verb}"));
            assert!(
                has_verbs || shown,
                "{name} has no example of {verb}:\n{text}"
            );
        }
    }

    #[test]
    fn help_below_the_options_becomes_notes_and_examples() {
        let (notes, examples) = notes_and_examples(
            "Examples:\n  netmoat a    one\n  netmoat b    two\n\nOnly root\nmay.",
        );
        assert_eq!(notes, ["Only root may."]);
        assert_eq!(examples, ["netmoat a    one", "netmoat b    two"]);
    }
}
