//! `netmoat block` and `netmoat allow`

use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use hyper::body::Bytes;
use serde::Serialize;

use super::output::{Output, Tone, age, plural, size, table, tone};
use super::{Code, Failure, block_on};
use crate::config::HumanDuration;
use crate::control::client::{Client, ClientError, Import};
use crate::control::lists::{
    AddEntries, DEFAULT_NAME, DeleteEntries, FindQuery, IMPORT_WAIT_S, ListChanged, ListEntry,
    ListFound, ListImported, ListNames, ListPage, ListQuery, ListVerdict, MAX_PAGE,
};
use crate::host::ssh;
use crate::lists::text::{Reader, check_reason, parse_prefix, parse_ttl, show};
use crate::lists::{List, Outcome, check_name};

const ADD_EXAMPLES: &str = "\
Examples:
  netmoat block add 192.0.2.7
  netmoat block add 192.0.2.0/24 2001:db8::/32 --for 1h --reason \"port scans\"
  netmoat allow add 198.51.100.7 --list office

All of them are listed, or none. What is listed already is no error, and gets the new end and reason.
Allow always wins over block. What would block a default gateway, an address of this host, who is
connected by SSH, or prefixes shorter than /8 (IPv6: /16) is refused unless --force is given.";

const DEL_EXAMPLES: &str = "\
Examples:
  netmoat block del 192.0.2.7
  netmoat block del 192.0.2.0/24 --list feed
  netmoat allow del 198.51.100.7 --ignore-missing
  netmoat block del --all --list feed

All of them are deleted, or none: exit code 1 when one is not on the list, unless --ignore-missing is
given. An entry is named as it was listed: a part of a prefix cannot be deleted, but allowed.";

const LIST_EXAMPLES: &str = "\
Examples:
  netmoat block list                  the first 1000 entries
  netmoat block list --list feed --limit 0
  netmoat block list 192.0.2.7        the entries that cover it, and what becomes of its packets
  netmoat block list --names          the named lists, and how long they are
  netmoat allow list --limit 0        every source that always passes

HITS are packets since the agent's start; under a flood they are estimated from a sample.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  netmoat block import feed.txt --list feed
  curl -fsS -o feed.txt https://feed.example/list.txt && netmoat block import feed.txt --list feed
  netmoat allow import office.txt --list office

The file has one entry a line, `address[/len] [ttl] [reason]`; # or ; begins a comment. It replaces the whole
list of that name at once: packets meet the old one or the new one. With a single bad line nothing is
changed. A prefix with bits behind its length is a bad line; one that stands twice is not, and the last
one counts. A file without any entry is refused when the list has some, unless --allow-empty is given.

What comes through a pipe may have been cut, which netmoat cannot always see: have the file first. On
standard input a last line without newline is an error.";

/// The list that an import replaces when none is named: never the one that single entries are added to.
const IMPORTED: &str = "imported";
/// The agent takes no more.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// When an import begins to say how far it is.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The subcommands of `netmoat block` and `netmoat allow`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List sources
    #[command(after_help = ADD_EXAMPLES)]
    Add {
        /// Addresses, or prefixes as in 192.0.2.0/24
        #[arg(value_name = "ADDRESS[/LEN]", required = true, value_parser = prefix)]
        prefixes: Vec<String>,
        /// For how long, as in 90s, 1h30m or 7d; for good without it
        #[arg(long = "for", value_name = "TTL", value_parser = ttl)]
        ttl: Option<HumanDuration>,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        change: Change,
    },
    /// Take sources off a list
    #[command(after_help = DEL_EXAMPLES)]
    Del {
        /// Addresses and prefixes, as they were listed
        #[arg(value_name = "ADDRESS[/LEN]", required_unless_present = "all", value_parser = prefix)]
        prefixes: Vec<String>,
        /// The whole list that --list names instead
        #[arg(long, conflicts_with = "prefixes", requires = "name")]
        all: bool,
        /// What is not on the list is no error
        #[arg(long)]
        ignore_missing: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Show what is listed, or what becomes of an address
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Only entries of both lists that cover it, and which of them wins
        #[arg(value_name = "ADDRESS[/LEN]", value_parser = prefix, conflicts_with = "names")]
        prefix: Option<String>,
        /// Only entries of this list
        #[arg(long = "list", value_name = "NAME", value_parser = name, conflicts_with = "names")]
        name: Option<String>,
        /// At most so many entries; 0 for all
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
        /// Only the names of lists, and how many entries each has
        #[arg(long)]
        names: bool,
    },
    /// Replace a whole list by what a file says, all or nothing
    #[command(after_help = IMPORT_EXAMPLES)]
    Import {
        /// The file, or - for standard input
        file: PathBuf,
        /// The list that it replaces
        #[arg(long = "list", value_name = "NAME", default_value = IMPORTED, value_parser = name)]
        name: String,
        /// Even if that locks someone out
        #[arg(long)]
        force: bool,
        /// Go back to the former list after so long, as in 60s, unless `netmoat confirm` comes before
        #[arg(long, value_name = "TIME", value_parser = super::within)]
        confirm_within: Option<HumanDuration>,
        /// Even if that empties the list
        #[arg(long)]
        allow_empty: bool,
        /// Say how far it is, also when standard error is no terminal
        #[arg(long)]
        progress: bool,
    },
}

/// What changes of single entries have in common.
#[derive(Debug, Args)]
pub(super) struct Change {
    /// The named list
    #[arg(long = "list", value_name = "NAME", default_value = DEFAULT_NAME, value_parser = name)]
    name: String,
    /// Even if that locks someone out
    #[arg(long)]
    force: bool,
    /// Go back after so long, as in 60s, unless `netmoat confirm` comes before
    #[arg(long, value_name = "TIME", value_parser = super::within)]
    confirm_within: Option<HumanDuration>,
}

fn prefix(text: &str) -> Result<String, String> {
    parse_prefix(text).map(show)
}

fn ttl(text: &str) -> Result<HumanDuration, String> {
    let ttl = parse_ttl(text)?;
    HumanDuration::new(ttl).ok_or_else(|| "longer than 365 days".to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    check_reason(text).map(|()| text.to_owned())
}

fn name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

pub(super) fn run(
    client: &Client,
    out: &Output,
    list: List,
    command: Command,
) -> Result<Code, Failure> {
    match command {
        Command::Add {
            prefixes,
            ttl,
            reason,
            change,
        } => {
            let add = AddEntries {
                list,
                name: change.name,
                prefixes,
                ttl,
                reason,
                force: change.force,
                ssh_peer: ssh::own_peer(),
                confirm_within: change.confirm_within,
            };
            let answer = block_on(client.add_entries(&add))?;
            out.print(&answer, changed)?;
            return Ok(code(&answer.warnings));
        }
        Command::Del {
            prefixes,
            all,
            ignore_missing,
            change,
        } => {
            let delete = DeleteEntries {
                list,
                name: change.name,
                prefixes,
                all,
                ignore_missing,
                force: change.force,
                ssh_peer: ssh::own_peer(),
                confirm_within: change.confirm_within,
            };
            let answer = block_on(client.delete_entries(&delete))?;
            out.print(&answer, changed)?;
            return Ok(code(&answer.warnings));
        }
        Command::List { names: true, .. } => {
            let mut names = block_on(client.list_names())?;
            names.lists.retain(|named| named.list == list);
            out.print(&names, named)?;
        }
        Command::List {
            prefix: Some(prefix),
            name,
            ..
        } => {
            let query = FindQuery { prefix, name };
            out.print(&block_on(client.find_entries(&query))?, found)?;
        }
        Command::List { name, limit, .. } => list_all(client, out, list, name, limit)?,
        Command::Import {
            file,
            name,
            force,
            confirm_within,
            allow_empty,
            progress,
        } => {
            let replaced = Import {
                list,
                name,
                force,
                allow_empty,
                ssh_peer: ssh::own_peer(),
                confirm_within,
                text: Bytes::new(),
            };
            let imported = import(client, replaced, &file, progress)?;
            out.print(&imported, told_import)?;
            return Ok(code(&imported.answer.warnings));
        }
    }
    Ok(Code::Ok)
}

/// What was done but not saved is an error, as with `netmoat neighbor pin`.
fn code(warnings: &[String]) -> Code {
    if warnings.is_empty() {
        Code::Ok
    } else {
        Code::Error
    }
}

/// What is said of blocked packets where nothing is dropped.
const OBSERVED: &str = " (observe mode: they pass)";

/// Asks for one page after the other.
fn list_all(
    client: &Client,
    out: &Output,
    list: List,
    name: Option<String>,
    limit: usize,
) -> Result<(), Failure> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut all: Option<ListPage> = None;
    let mut after = None;
    loop {
        let have = all.as_ref().map_or(0, |page| page.entries.len());
        let query = ListQuery {
            list,
            name: name.clone(),
            limit: (limit - have).min(MAX_PAGE),
            after,
        };
        let page = block_on(client.list_page(&query))?;
        after = page.next.clone();
        match &mut all {
            None => all = Some(page),
            Some(all) => {
                all.entries.extend(page.entries);
                all.total = page.total;
                all.next = page.next;
            }
        }
        let have = all.as_ref().map_or(0, |page| page.entries.len());
        if after.is_none() || have >= limit {
            break;
        }
    }
    if let Some(all) = all {
        out.print(&all, |page| listed(list, page))?;
    }
    Ok(())
}

/// An import, with what this side did.
#[derive(Debug, Serialize)]
pub(super) struct Imported {
    #[serde(flatten)]
    answer: ListImported,
    /// From the first octet read to the agent's answer, milliseconds.
    total_ms: u64,
}

fn import(
    client: &Client,
    mut import: Import,
    file: &Path,
    progress: bool,
) -> Result<Imported, Failure> {
    let begun = Instant::now();
    let is_stdin = file == Path::new("-");
    let shown = if is_stdin {
        "standard input".to_owned()
    } else {
        file.display().to_string()
    };
    let unreadable =
        |error: io::Error| anyhow!("{shown} cannot be read: {error}; nothing was changed");
    let text = read(file).map_err(|error| Failure::new(Code::Error, unreadable(error)))?;
    if text.len() as u64 >= MAX_FILE_BYTES {
        let error = anyhow!("{shown} has more than {MAX_FILE_BYTES} octets; nothing was changed");
        return Err(Failure::new(Code::Error, error));
    }
    // Here too, so that the line is told with the file's name, and before the agent is troubled.
    let mut reader = Reader::default();
    let checked = reader.push(&text).and_then(|()| {
        // A pipe by another name may be cut as well.
        if is_stdin || !file.is_file() {
            reader.finish_stream().map(|(entries, _)| entries)
        } else {
            reader.finish()
        }
    });
    let count = checked
        .map_err(|bad| Failure::new(Code::Error, anyhow!("{shown}: {bad}\nnothing was changed")))?
        .len();
    let sent = Arc::new(AtomicUsize::new(0));
    let whole = text.len();
    import.text = text.into();
    let named = format!("`netmoat {} list --names`", import.list.word());
    let place = format!("{} list {}", import.list.word(), import.name);
    let exchange = async {
        if client.import_state().await?.under_way {
            say(&format!(
                "another import is under way: waiting up to {IMPORT_WAIT_S} s for its end"
            ));
        }
        let exchange = client.import_list(import, Arc::clone(&sent));
        let mut exchange = std::pin::pin!(exchange);
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        let tells = progress || io::stderr().is_terminal();
        let mut ticker = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                answer = &mut exchange => return answer.map_err(|error| match error {
                    ClientError::Ended { .. } => Failure::new(
                        Code::Error,
                        anyhow!("{error}; {place} is the old one unless {named} says otherwise"),
                    ),
                    error => error.into(),
                }),
                Ok(()) = &mut interrupt => {
                    let is_sent = sent.load(Ordering::Relaxed) >= whole;
                    let error = anyhow!("interrupted: {}", after_interrupt(is_sent, &place, &named));
                    return Err(Failure::new(Code::Error, error));
                }
                _ = ticker.tick(), if tells && begun.elapsed() > PROGRESS_AFTER => {
                    let sent = sent.load(Ordering::Relaxed);
                    say(&how_far(count, sent, whole, begun.elapsed()));
                }
            }
        }
    };
    Ok(Imported {
        answer: block_on(exchange)?,
        total_ms: begun.elapsed().as_millis() as u64,
    })
}

/// What becomes of an import that nobody waits for any more.
fn after_interrupt(is_sent: bool, place: &str, named: &str) -> String {
    if is_sent {
        format!(
            "the agent has all entries, and the import goes on if it builds already; {named} tells what {place} has"
        )
    } else {
        format!("the agent had not all entries, and {place} is as it was")
    }
}

fn say(text: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(anstream::stderr(), "{text}");
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    if file == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut text)?;
    } else {
        fs::File::open(file)?
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut text)?;
    }
    Ok(text)
}

fn how_far(count: usize, sent: usize, whole: usize, elapsed: Duration) -> String {
    let what = if sent < whole {
        format!("{} % sent to the agent", sent * 100 / whole.max(1))
    } else {
        "the agent builds its tables".to_owned()
    };
    format!("{count} entries, {} s: {what}", elapsed.as_secs())
}

pub(super) fn changed(changed: &ListChanged) -> String {
    let place = format!("{} list {}", changed.list.word(), changed.name);
    let mut text = String::new();
    for entry in &changed.entries {
        let what = match entry.outcome {
            Outcome::Added => "added to",
            Outcome::Updated => "updated on",
            Outcome::Unchanged => "already there, on",
            Outcome::Removed => "deleted from",
            Outcome::Missing => "not there, on",
        };
        let good = if entry.now_for_good {
            ", now for good"
        } else {
            ""
        };
        let is_listed = !matches!(entry.outcome, Outcome::Removed | Outcome::Missing);
        let observed = if changed.observe && changed.list == List::Block && is_listed {
            OBSERVED
        } else {
            ""
        };
        text += &format!("{}: {what} {place}{good}{observed}\n", entry.prefix);
    }
    if changed.entries.is_empty() {
        text += &format!("{place} is deleted, with {}\n", entries(changed.deleted));
    }
    text + &super::reload::waits(changed.confirm_within_s) + &warned(&changed.warnings)
}

fn warned(warnings: &[String]) -> String {
    warnings
        .iter()
        .map(|warning| format!("{} {warning}\n", tone("warning:", Tone::Bad)))
        .collect()
}

pub(super) fn told_import(imported: &Imported) -> String {
    let answer = &imported.answer;
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    let text = format!(
        "{} list {} has {} now: {} added, {} updated, {} removed.\n\
         It took {}, of which {} to build; all lists take {} of the kernel's memory, and the agent {}.\n",
        answer.list.word(),
        answer.name,
        entries(answer.entries),
        answer.added,
        answer.updated,
        answer.removed,
        seconds(imported.total_ms),
        seconds(answer.build_ms),
        size(answer.kernel_memory),
        size(answer.agent_memory),
    );
    text + &warned(&answer.warnings)
}

fn entries(count: u64) -> String {
    if count == 1 {
        "1 entry".to_owned()
    } else {
        format!("{count} entries")
    }
}

pub(super) fn listed(list: List, page: &ListPage) -> String {
    let word = match list {
        List::Allow => "allowed",
        List::Block => "blocked",
    };
    let shown = page.entries.len() as u64;
    if shown == 0 {
        return format!("Nothing is {word}.\n");
    }
    let mut text = format!("{} {word}", entries(page.total));
    if page.next.is_some() {
        text += &format!("; the first {shown} of them (--limit 0 shows all)");
    }
    text + ":\n\n" + &rows(&page.entries, None)
}

pub(super) fn found(found: &ListFound) -> String {
    let prefix = &found.prefix;
    let mut text = match found.verdict {
        ListVerdict::Allowed => tone(
            &format!("{prefix} is allowed: its packets pass."),
            Tone::Good,
        ),
        ListVerdict::Blocked => tone(
            &if found.observe {
                format!("{prefix} is blocked{OBSERVED}.")
            } else {
                format!("{prefix} is blocked: its packets are dropped.")
            },
            Tone::Bad,
        ),
        ListVerdict::Unlisted => format!("{prefix} is on no list."),
    };
    text.push('\n');
    if found.entries.is_empty() {
        return text;
    }
    text + "\n" + &rows(&found.entries, Some(found))
}

/// A table of entries; of those that were found, also which decides.
fn rows(entries: &[ListEntry], found: Option<&ListFound>) -> String {
    let mut header = vec!["PREFIX", "LIST", "LEFT", "HITS", "REASON"];
    let mut right = vec![3];
    if found.is_some() {
        header.insert(1, "KIND");
        header.push("WINS");
        right = vec![4];
    }
    let mut winner = entries
        .first()
        .map(|entry| (entry.prefix.as_str(), entry.list));
    if found.is_none() {
        winner = None;
    }
    let rows = entries.iter().map(|entry| {
        let mut row = vec![
            entry.prefix.clone(),
            entry.name.clone(),
            entry.left_s.map_or("-".to_owned(), age),
            entry.hits.to_string(),
            if entry.reason.is_empty() {
                "-".to_owned()
            } else {
                entry.reason.clone()
            },
        ];
        if found.is_some() {
            let wins = winner == Some((entry.prefix.as_str(), entry.list));
            row.insert(1, entry.list.word().to_owned());
            row.push(if wins { "yes" } else { "-" }.to_owned());
        }
        row
    });
    table(&header, &right, rows)
}

pub(super) fn named(names: &ListNames) -> String {
    if names.lists.is_empty() {
        return "There is no list.\n".to_owned();
    }
    let total: u64 = names.lists.iter().map(|named| named.entries).sum();
    let rows = names
        .lists
        .iter()
        .map(|named| vec![named.name.clone(), named.entries.to_string()]);
    format!(
        "{}, {} of {}.\n\n{}",
        plural(names.lists.len() as u64, "list"),
        total,
        entries(names.capacity),
        table(&["LIST", "ENTRIES"], &[1], rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_says_how_far_it_is() {
        let at = |sent| how_far(10, sent, 200, Duration::from_secs(3));
        assert_eq!(at(50), "10 entries, 3 s: 25 % sent to the agent");
        assert_eq!(at(200), "10 entries, 3 s: the agent builds its tables");
        assert!(after_interrupt(true, "block list feed", "x").contains("goes on"));
        assert!(after_interrupt(false, "block list feed", "x").contains("as it was"));
    }

    fn entry(prefix: &str, list: List, left_s: Option<u64>) -> ListEntry {
        ListEntry {
            prefix: prefix.to_owned(),
            list,
            name: "manual".to_owned(),
            reason: "scan".to_owned(),
            left_s,
            hits: 7,
        }
    }

    #[test]
    fn what_wins_is_shown() {
        let shown = found(&ListFound {
            version: 1,
            prefix: "192.0.2.1".to_owned(),
            verdict: ListVerdict::Allowed,
            observe: false,
            entries: vec![
                entry("192.0.0.0/16", List::Allow, None),
                entry("192.0.2.1", List::Block, Some(90)),
            ],
        });
        let shown = anstream::adapter::strip_str(&shown).to_string();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "192.0.2.1 is allowed: its packets pass.");
        assert!(
            lines[3].contains("allow") && lines[3].ends_with("yes"),
            "{shown}"
        );
        assert!(
            lines[4].contains("1m30s") && lines[4].ends_with('-'),
            "{shown}"
        );
    }

    #[test]
    fn a_cut_list_says_so() {
        let mut page = ListPage {
            version: 1,
            entries: vec![entry("192.0.2.1", List::Block, None)],
            total: 3,
            next: Some("192.0.2.1,manual".to_owned()),
        };
        assert!(listed(List::Block, &page).contains("3 entries blocked; the first 1 of them"));
        page.entries.clear();
        assert_eq!(listed(List::Block, &page), "Nothing is blocked.\n");
    }

    #[test]
    fn changes_are_told_by_entry() {
        let mut all = ListChanged {
            version: 1,
            list: List::Block,
            name: "feed".to_owned(),
            entries: [Outcome::Updated, Outcome::Unchanged, Outcome::Missing]
                .map(|outcome| crate::control::lists::EntryChanged {
                    prefix: "192.0.2.1".to_owned(),
                    outcome,
                    now_for_good: outcome == Outcome::Updated,
                })
                .into(),
            deleted: 0,
            observe: false,
            warnings: vec!["lost".to_owned()],
            confirm_within_s: None,
        };
        let told = |all: &ListChanged| anstream::adapter::strip_str(&changed(all)).to_string();
        assert_eq!(
            told(&all),
            "192.0.2.1: updated on block list feed, now for good\n\
             192.0.2.1: already there, on block list feed\n\
             192.0.2.1: not there, on block list feed\nwarning: lost\n"
        );
        all.observe = true;
        let text = told(&all);
        assert!(
            text.contains("now for good (observe mode: they pass)\n"),
            "{text}"
        );
        assert!(text.contains("not there, on block list feed\n"), "{text}");
        (all.entries, all.deleted) = (vec![], 2);
        assert!(told(&all).starts_with("block list feed is deleted, with 2 entries\n"));
    }

    #[test]
    fn an_import_is_told_with_time_and_memory() {
        let told = told_import(&Imported {
            answer: ListImported {
                version: 1,
                list: List::Block,
                name: "feed".to_owned(),
                entries: 1_000_000,
                added: 999_999,
                updated: 1,
                removed: 2,
                build_ms: 1_234,
                kernel_memory: 6 << 20,
                agent_memory: 300 << 20,
                confirm_within_s: None,
                warnings: vec![],
            },
            total_ms: 2_345,
        });
        assert_eq!(
            told,
            "block list feed has 1000000 entries now: 999999 added, 1 updated, 2 removed.\n\
             It took 2.3 s, of which 1.2 s to build; all lists take 6144 KiB of the kernel's memory, and the agent 300 MiB.\n"
        );
    }
}
