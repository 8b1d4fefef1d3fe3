//! Changes that go back unless they are confirmed: what is kept of them on the disk, so that they go back also when the
//! agent dies meanwhile.
//!
//! `unconfirmed.json` in the state directory has the former state. It is written before the change is made and removed
//! when the change is confirmed, so whoever finds it at a start finds a change that nobody has confirmed, and begins with
//! the former state at once: the change may be why the agent ended. A config that was not confirmed is remembered
//! beyond that, as the file still says it: it comes into force by a reload, or once the file says something else, and not
//! by a start.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, ListPolicy, Mode, Overrides, show},
    lists::{
        List,
        text::{self, Entry, Reader},
    },
    neighbor::state::{Fault, check, put_aside, read_octets_up_to, replace},
};

const FILE: &str = "unconfirmed.json";
const VERSION: u32 = 1;
/// Two lists of the most entries there may be, and as long as lines are at most, is more; nobody has it.
const MAX_BYTES: u64 = 512 << 20;

/// A change that waits for its confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// In plain words.
    pub what: String,
    /// What to go back to.
    pub former: Former,
}

/// The state before a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Former {
    /// Of the whole config.
    Config(Box<FormerConfig>),
    /// Of what `netmoat mode` sets.
    Mode(Mode),
    /// Of a named list.
    List(FormerList),
}

/// The config before a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerConfig {
    /// As a file, see [`show::toml`]; without lists.
    toml: String,
    /// Allowed sources, a line each.
    allow: String,
    /// Blocked ones.
    block: String,
    /// The mode that its file said, which `netmoat mode` may have set otherwise.
    #[serde(default)]
    mode_in_file: Option<Mode>,
    /// The config that was not confirmed, as [`Config::again`] has it.
    refused: Refused,
}

/// A config that is not to come into force by a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Refused {
    toml: String,
    allow: String,
    block: String,
}

/// A named list before a change of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerList {
    /// Which list.
    pub list: List,
    /// Its name.
    pub name: String,
    /// Prefixes that were changed; none when the whole list was.
    pub touched: Option<Vec<String>>,
    /// Entries that were listed, of those or of all; a line each, with their ends as times of day.
    pub entries: String,
}

impl FormerList {
    /// The entries, without those that are over by now.
    ///
    /// # Errors
    /// They were spoilt.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        own_lines(&self.entries)
    }
}

/// Reads what [`text::line`] has written.
fn own_lines(lines: &str) -> Result<Vec<Entry>> {
    let mut reader = Reader::of_own_files();
    reader.push(lines.as_bytes())?;
    let (entries, spoilt) = reader.finish_stream()?;
    match spoilt {
        None => Ok(entries),
        Some(bad) => Err(bad.into()),
    }
}

/// The lines of a config's entries. Ends are kept as times of day, as the kernel's clock begins anew with each boot.
fn lines(entries: &[Entry]) -> String {
    let wall = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let wall = wall.unwrap_or_default();
    let end = |entry: &Entry| entry.ttl.map(|ttl| (wall + ttl).as_secs() + 1);
    let lines = entries
        .iter()
        .map(|e| text::line(e.prefix, end(e), &e.reason));
    lines.collect()
}

/// As [`lines`], with how long and not until when: the same file gives the same lines at any time.
fn stable_lines(entries: &[Entry]) -> String {
    let lines = entries.iter().map(|e| {
        let ttl = e.ttl.map(|ttl| ttl.as_secs());
        text::line(e.prefix, ttl, &e.reason)
    });
    lines.collect()
}

impl FormerConfig {
    /// To go back from `new` to `old`; each with the mode that its file says.
    ///
    /// # Errors
    /// A path that is no text.
    pub fn new(old: (&Config, Mode), new: (&Config, Mode)) -> Result<Self> {
        let ((old, mode_in_file), (new, mode)) = (old, new);
        // A start compares it with what the files say, in which `netmoat mode` has no say.
        let refused = Config {
            mode,
            ..new.clone()
        };
        let (allow, block) = (lines(&old.lists.allow), lines(&old.lists.block));
        let old = Config {
            lists: ListPolicy::default(),
            ..old.clone()
        };
        Ok(Self {
            toml: show::toml(&old)?,
            allow,
            block,
            mode_in_file: Some(mode_in_file),
            refused: Refused::of(&refused)?,
        })
    }

    /// The former config, in place of what the files say now.
    ///
    /// # Errors
    /// It was spoilt, or written by a netmoat with other keys.
    fn config(&self, now: &Config) -> Result<Config> {
        let path = Path::new("the former config");
        let former = Config::parse(path, &self.toml, &Overrides::default())?;
        let (allow, block) = (own_lines(&self.allow)?, own_lines(&self.block)?);
        Ok(Config {
            lists: ListPolicy {
                written: [allow.len(), block.len()],
                allow,
                block,
                ..ListPolicy::default()
            },
            source: now.source.clone(),
            drop_ins: now.drop_ins.clone(),
            origin: now.origin.clone(),
            ..former
        })
    }
}

impl Refused {
    fn of(config: &Config) -> Result<Self> {
        Ok(Self {
            allow: stable_lines(&config.lists.allow),
            block: stable_lines(&config.lists.block),
            toml: show::toml(&Config {
                lists: ListPolicy::default(),
                ..config.clone()
            })?,
        })
    }
}

impl Record {
    /// Of a change that is going to be made.
    pub const fn new(what: String, former: Former) -> Self {
        Self {
            version: VERSION,
            what,
            former,
        }
    }

    /// Writes it, whole or not at all. The change is made after that.
    ///
    /// # Errors
    /// The state directory takes no file: then the change would not go back when the agent dies.
    pub fn write(&self, state_dir: &Path) -> Result<()> {
        let write = || {
            check(state_dir)?;
            let octets = serde_json::to_vec(self)?;
            ensure!(
                octets.len() as u64 <= MAX_BYTES,
                "the former state is too large"
            );
            Ok(replace(state_dir, FILE, &octets)?)
        };
        write().with_context(|| {
            format!(
                "the change could not go back if the agent died, and is not made: {} cannot be written; mend that, or \
                 leave --confirm-within out",
                state_dir.join(FILE).display()
            )
        })
    }

    /// Reads what there is.
    fn read(state_dir: &Path) -> Result<Option<Self>> {
        let path = state_dir.join(FILE);
        let octets = read_octets_up_to(&path, MAX_BYTES).map_err(|fault| match fault {
            Fault::Damaged(error) => error,
            Fault::Unreadable(error) => error.into(),
        })?;
        let Some(octets) = octets else {
            return Ok(None);
        };
        let record: Self = serde_json::from_slice(&octets)?;
        ensure!(
            record.version == VERSION,
            "it has version {}, and this netmoat reads {VERSION}",
            record.version
        );
        Ok(Some(record))
    }
}

/// Forgets the former state; that it is not there is no error.
///
/// # Errors
/// It is still there, so that the next start would go back to it.
pub fn forget(state_dir: &Path) -> Result<()> {
    let path = state_dir.join(FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| {
            format!(
                "{} cannot be removed, and the next start would go back to what it holds; remove it",
                path.display()
            )
        }),
        Err(_) => Ok(()),
        // That it is gone is to last.
        Ok(()) => Ok(std::fs::File::open(state_dir)?.sync_all()?),
    }
}

/// What a start finds of changes that nobody has confirmed.
#[derive(Debug, Default)]
pub struct Recovery {
    /// The config to start with in place of the one that the files say.
    pub config: Option<Config>,
    /// The mode that the file of that config said.
    pub mode_in_file: Option<Mode>,
    /// The list to set right before it is in force.
    pub list: Option<FormerList>,
    /// What was undone, in plain words.
    pub undone: Option<String>,
    /// What stays wrong until the files are mended, in plain words.
    pub problem: Option<String>,
    /// The record is of no use once the agent has started.
    pub done: bool,
}

/// Looks for a change that was not confirmed. `config` is what the files say.
pub fn recover(config: &Config) -> Recovery {
    let state_dir = &config.state_dir;
    match Record::read(state_dir)
        .and_then(|record| record.map_or(Ok(None), |r| undo(r, config).map(Some)))
    {
        Ok(recovery) => recovery.unwrap_or_default(),
        Err(error) => {
            let path: PathBuf = state_dir.join(FILE);
            let kept = match put_aside(&path) {
                Ok(aside) => format!("it is kept as {}", aside.display()),
                Err(_) => "it is left there".to_owned(),
            };
            Recovery {
                problem: Some(format!(
                    "a change was not confirmed, and cannot be undone, as {} is damaged ({error:#}); {kept}. See that the \
                     config and the lists are as they should be",
                    path.display()
                )),
                ..Recovery::default()
            }
        }
    }
}

fn undo(record: Record, config: &Config) -> Result<Recovery> {
    let mut recovery = Recovery {
        undone: Some(record.what.clone()),
        done: true,
        ..Recovery::default()
    };
    match record.former {
        Former::List(list) => recovery.list = Some(list),
        Former::Mode(mode) => {
            recovery.config = Some(Config {
                mode,
                ..config.clone()
            });
        }
        Former::Config(former) if former.refused == Refused::of(config)? => {
            recovery.config = Some(former.config(config)?);
            recovery.mode_in_file = former.mode_in_file;
            recovery.problem = Some(refused(&record.what));
            recovery.done = false;
        }
        // The operator has mended the file: it is what he wants.
        Former::Config(_) => recovery.undone = None,
    }
    Ok(recovery)
}

/// What stays wrong after a config went back.
pub fn refused(what: &str) -> String {
    format!(
        "{what} was not confirmed, and the config before it is in force, also after a restart: the file says something \
         else. Mend it and `netmoat reload`, or `netmoat reload` to put it in force as it is"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn config(directory: &Path, rest: &str) -> Config {
        let text = format!("interfaces = [\"eth0\"]\nstate_dir = {directory:?}\n{rest}");
        Config::parse("netmoat.toml".as_ref(), &text, &Overrides::default()).unwrap()
    }

    #[test]
    fn a_config_that_was_not_confirmed_does_not_come_back_until_its_file_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let feed = directory.path().join("feed");
        fs::write(&feed, "192.0.2.1 1h x\n192.0.2.2\n").unwrap();
        let listed = format!("[lists]\nallow = [\"198.51.100.1 me\"]\nblock_files = [{feed:?}]\n");
        let old = config(directory.path(), &listed);
        let new = config(directory.path(), "mode = \"observe\"\n");
        assert!(recover(&new).undone.is_none());
        let former = Former::Config(Box::new(
            FormerConfig::new((&old, old.mode), (&new, new.mode)).unwrap(),
        ));
        Record::new("the reload".to_owned(), former)
            .write(directory.path())
            .unwrap();
        // Twice: nothing is forgotten by looking.
        for _ in 0..2 {
            let recovery = recover(&new);
            assert_eq!(recovery.undone.as_deref(), Some("the reload"));
            assert!(!recovery.done && recovery.problem.unwrap().contains("reload"));
            let back = recovery.config.unwrap();
            assert_eq!(back.mode, old.mode);
            let prefixes = |entries: &[Entry]| entries.iter().map(|e| e.prefix).collect::<Vec<_>>();
            assert_eq!(prefixes(&back.lists.allow), prefixes(&old.lists.allow));
            assert_eq!(prefixes(&back.lists.block), prefixes(&old.lists.block));
            assert!(back.lists.block[0].ttl.unwrap().as_secs() <= 3601);
            assert_eq!(back.guards, old.guards);
        }
        let mended = config(directory.path(), "mode = \"observe\"\n[syn]\nburst = 7\n");
        let recovery = recover(&mended);
        assert!(recovery.config.is_none() && recovery.undone.is_none() && recovery.done);
        forget(directory.path()).unwrap();
        forget(directory.path()).unwrap();
        assert!(recover(&new).config.is_none());
    }

    #[test]
    fn a_mode_and_a_list_go_back_once() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), "");
        let record = Record::new("mode enforce".to_owned(), Former::Mode(Mode::Observe));
        record.write(directory.path()).unwrap();
        let recovery = recover(&config);
        assert_eq!(recovery.config.unwrap().mode, Mode::Observe);
        assert!(recovery.done && recovery.problem.is_none());
        let list = FormerList {
            list: List::Block,
            name: "manual".to_owned(),
            touched: Some(vec!["192.0.2.1".to_owned()]),
            entries: "192.0.2.1 why\n192.0.2.2 @7 over\n".to_owned(),
        };
        let record = Record::new("block".to_owned(), Former::List(list.clone()));
        record.write(directory.path()).unwrap();
        let found = recover(&config).list.unwrap();
        assert_eq!(found, list);
        assert_eq!(found.entries().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_record_is_kept_and_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), "");
        replace(directory.path(), FILE, b"{").unwrap();
        let problem = recover(&config).problem.unwrap();
        assert!(problem.contains("damaged"), "{problem}");
        assert!(directory.path().join("unconfirmed.json.damaged").exists());
        assert!(recover(&config).problem.is_none());
        fs::remove_dir_all(directory.path()).unwrap();
        let record = Record::new("x".to_owned(), Former::Mode(Mode::Observe));
        let error = format!("{:#}", record.write(directory.path()).unwrap_err());
        assert!(error.contains("is not made"), "{error}");
    }
}
