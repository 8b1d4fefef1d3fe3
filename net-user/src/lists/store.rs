//! What of the lists outlives the agent: `lists/allow/NAME.list` and `lists/block/NAME.list` in the state directory, as
//! text, much as `netmoat block import` reads it.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufReader, BufWriter, ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    fcntl::{Flock, FlockArg},
    libc,
};

use super::{
    CONFIG, List, check_name,
    text::{BadLine, Entry, Reader},
};
use crate::neighbor::state::{is_ours, put_aside};

/// First words of a file; the number of its entries follows.
const HEADER: &str = "# netmoat list 1, entries:";
const EXTENSION: &str = "list";
/// The most entries there may be, with long reasons.
const MAX_BYTES: u64 = 1 << 30;
/// Octets in which a first line has its end, if it is one.
const MAX_HEAD: u64 = 128;

/// The files of one agent.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// No other agent writes here. Nothing is written without it.
    lock: Option<Flock<File>>,
}

/// A named list as it was saved.
#[derive(Debug, PartialEq, Eq)]
pub struct Saved {
    /// Which list.
    pub list: List,
    /// Its name.
    pub name: String,
    /// Its entries, without those that are over by now.
    pub entries: Vec<Entry>,
    /// Whether it is to be saved anew: its file was damaged, and is put aside.
    pub rescued: bool,
}

/// A file as it was read.
struct Read {
    entries: Vec<Entry>,
    /// How many there should be; None if the first line does not say so.
    promised: Option<usize>,
    /// How many there are, with those that are over.
    found: usize,
    spoilt: Option<BadLine>,
}

impl Read {
    /// What is wrong with it, and how much of it is lost.
    fn fault(&self) -> Option<String> {
        let lost = match self.promised {
            Some(promised) if promised > self.found => {
                format!("{} of {promised} entries are lost", promised - self.found)
            }
            Some(promised) if promised < self.found => {
                format!("it has {} entries, and should have {promised}", self.found)
            }
            Some(_) => "no entry is lost".to_owned(),
            None => format!(
                "its first line is not `{HEADER} NUMBER`, so that nobody knows how much is lost"
            ),
        };
        match &self.spoilt {
            Some(bad) => Some(format!(
                "the first bad line is {}, {}; {lost}",
                bad.line, bad.what
            )),
            None => (self.promised != Some(self.found)).then_some(lost),
        }
    }
}

impl Store {
    /// The files in a state directory, which is made if only it is missing: what was saved there, and what is wrong.
    /// A file that is damaged is put aside.
    pub fn open(state_dir: &Path) -> (Self, Vec<Saved>, Vec<String>) {
        let mut store = Self {
            directory: state_dir.join("lists"),
            lock: None,
        };
        let mut problems = Vec::new();
        match store.take(state_dir) {
            Ok(lock) => store.lock = Some(lock),
            Err(error) => problems.push(format!(
                "{} cannot be used, so that lists changed from now on do not outlive this agent: {error:#}",
                store.directory.display()
            )),
        }
        let mut saved = Vec::new();
        for list in List::ALL {
            for path in store.files(list) {
                match name(&path).and_then(|name| Ok((name, read(&path)?))) {
                    Ok((name, read)) => {
                        let mut rescued = false;
                        if let Some(fault) = read.fault() {
                            let (is_aside, kept) = store.keep(&path);
                            rescued = is_aside;
                            problems.push(spoilt(&path, &fault, read.found, &kept));
                        }
                        saved.push(Saved {
                            list,
                            name,
                            rescued,
                            entries: read.entries,
                        });
                    }
                    Err(error) => problems.push(store.damaged(&path, &error)),
                }
            }
        }
        (store, saved, problems)
    }

    fn take(&self, state_dir: &Path) -> Result<Flock<File>> {
        let of = |list: List| self.directory.join(list.word());
        let directories = [
            state_dir.to_owned(),
            self.directory.clone(),
            of(List::Allow),
            of(List::Block),
        ];
        for directory in &directories {
            match DirBuilder::new().mode(0o700).create(directory) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| directory.display().to_string());
                }
                _ => check(directory)?,
            }
        }
        let file = File::options()
            .read(true)
            .mode(0o600)
            .custom_flags(libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.directory.join(".lock"))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| anyhow!("another agent keeps its lists there; name another `state_dir`"))
    }

    /// The files of a list, in the order of their names.
    fn files(&self, list: List) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.directory.join(list.word())) else {
            // Not there: nothing was saved.
            return Vec::new();
        };
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == EXTENSION))
            .collect();
        files.sort();
        files
    }

    /// Puts a file aside; whether that was done, and in words.
    fn keep(&self, path: &Path) -> (bool, String) {
        match self.lock.as_ref().map(|_| put_aside(path)) {
            Some(Ok(aside)) => (true, format!("it is kept as {}", aside.display())),
            _ => (false, "it is left there".to_owned()),
        }
    }

    fn damaged(&self, path: &Path, error: &anyhow::Error) -> String {
        let (shown, (_, kept)) = (path.display(), self.keep(path));
        format!(
            "{shown} is damaged, and what it listed is listed no more ({error:#}); {kept}. Import it again with `netmoat \
             block import` or `netmoat allow import`"
        )
    }

    /// Whether anything can be saved.
    pub fn is_usable(&self) -> bool {
        self.lock.is_some()
    }

    /// Saves a named list of `count` entries, given as lines. Either the old file is there or the new one, whenever the
    /// power fails. A list without entries has no file.
    ///
    /// # Errors
    /// The directory takes no file; the list is in force all the same.
    pub fn save(
        &self,
        list: List,
        name: &str,
        count: usize,
        lines: impl Iterator<Item = String>,
    ) -> Result<()> {
        ensure!(
            self.is_usable(),
            "{} cannot be used; make it a directory that the agent alone can write to, or name another as `state_dir` in \
             the config, and restart netmoat",
            self.directory.display()
        );
        let directory = self.directory.join(list.word());
        let path = directory.join(format!("{name}.{EXTENSION}"));
        let saved = || -> Result<()> {
            let temporary = directory.join(format!(".{name}.new"));
            remove(&temporary)?;
            if count == 0 {
                remove(&path)?;
            } else {
                let file = File::options()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&temporary)?;
                let mut file = BufWriter::new(file);
                writeln!(file, "{HEADER} {count}")?;
                for line in lines {
                    file.write_all(line.as_bytes())?;
                }
                file.into_inner()?.sync_all()?;
                fs::rename(&temporary, &path)?;
            }
            File::open(&directory)?.sync_all()?;
            Ok(())
        };
        saved().with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// Of a damaged file whose good lines are listed.
fn spoilt(path: &Path, fault: &str, found: usize, kept: &str) -> String {
    format!(
        "{} is damaged: {fault}. The other {found} are listed; {kept}. Look there for what is missing, and add it with \
         `netmoat block add` or `netmoat allow add`",
        path.display()
    )
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whoever can write to the directory says who is blocked.
fn check(directory: &Path) -> Result<()> {
    let metadata = fs::metadata(directory)?;
    let shown = directory.display();
    ensure!(metadata.is_dir(), "{shown} is no directory");
    ensure!(
        is_ours(&metadata) && metadata.mode() & 0o022 == 0,
        "{shown} belongs to uid {} with mode {:04o}, so that others could replace what is kept there",
        metadata.uid(),
        metadata.mode() & 0o7777
    );
    Ok(())
}

/// The name of the list that a file holds.
fn name(path: &Path) -> Result<String> {
    let name = path
        .file_stem()
        .and_then(|name| name.to_str())
        .context("its name is no text")?;
    check_name(name).map_err(|what| anyhow!(what))?;
    ensure!(name != CONFIG, "its name is that of the config's own list");
    Ok(name.to_owned())
}

/// Reads a file; lines that are no entries are left out.
fn read(path: &Path) -> Result<Read> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is no regular file");
    ensure!(
        is_ours(&metadata) && metadata.mode() & 0o022 == 0,
        "it belongs to uid {} with mode {:04o}, so that others could have written it",
        metadata.uid(),
        metadata.mode() & 0o7777
    );
    ensure!(
        metadata.len() <= MAX_BYTES,
        "it has {} octets",
        metadata.len()
    );
    let mut file = BufReader::new(file.take(MAX_BYTES));
    let mut head = Vec::new();
    io::BufRead::read_until(&mut (&mut file).take(MAX_HEAD), b'\n', &mut head)?;
    let promised = std::str::from_utf8(&head)
        .ok()
        .and_then(|head| head.strip_prefix(HEADER)?.trim().parse().ok());
    let mut reader = Reader::of_own_files();
    reader.push(&head)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            len => reader.push(piece.get(..len).unwrap_or_default())?,
        }
    }
    let ended = reader.ended;
    let (entries, spoilt) = reader.finish_stream()?;
    Ok(Read {
        promised,
        found: entries.len() + ended,
        entries,
        spoilt,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::text::{line, parse};

    fn save(store: &Store, list: List, name: &str, text: &str) {
        let entries = parse(text).unwrap();
        let lines = entries
            .iter()
            .map(|entry| line(entry.prefix, None, &entry.reason));
        store.save(list, name, entries.len(), lines).unwrap();
    }

    #[test]
    fn what_was_saved_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("netmoat");
        let (store, saved, problems) = Store::open(&state_dir);
        assert_eq!((saved, problems), (vec![], vec![]));
        let text = "192.0.2.0/24 port scan\n2001:db8::1\n192.0.2.1 - 3 strikes";
        save(&store, List::Block, "manual", text);
        save(&store, List::Allow, "office", "198.51.100.7");
        save(&store, List::Block, "gone", "198.51.100.7");
        save(&store, List::Block, "gone", "");
        // Two agents do not write to one directory.
        let (second, saved, problems) = Store::open(&state_dir);
        assert_eq!(saved.len(), 2);
        assert!(problems[0].contains("another agent"), "{problems:?}");
        assert!(!second.is_usable());
        second
            .save(List::Block, "x", 0, [].into_iter())
            .unwrap_err();
        drop((store, second));
        let (_store, saved, problems) = Store::open(&state_dir);
        assert_eq!(problems, Vec::<String>::new());
        let of = |list, name: &str, text| Saved {
            list,
            name: name.to_owned(),
            // The first line is the file's head.
            entries: parse(&format!("\n{text}")).unwrap(),
            rescued: false,
        };
        assert_eq!(
            saved,
            [
                of(List::Allow, "office", "198.51.100.7"),
                of(List::Block, "manual", text)
            ]
        );
        let file = state_dir.join("lists/block/manual.list");
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_put_aside_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let (store, ..) = Store::open(directory.path());
        save(&store, List::Block, "good", "192.0.2.1");
        drop(store);
        let block = directory.path().join("lists/block");
        for (name, contents, kept, parts) in [
            (
                "cut",
                format!("{HEADER} 2\n192.0.2.1\n"),
                Some(1),
                &["1 of 2 entries are lost"][..],
            ),
            (
                "torn",
                format!("{HEADER} 2\n192.0.2.1\n192.0.2.2"),
                Some(1),
                &["line is 3", "1 of 2"],
            ),
            (
                "wrong",
                format!("{HEADER} 3\n192.0.2.1\nexample.org\n192.0.2.2 @4000000000 a;b\n"),
                Some(2),
                &[
                    "line is 3",
                    "no IP address",
                    "1 of 3 entries are lost",
                    "other 2 are listed",
                ],
            ),
            (
                "octets",
                format!("{HEADER} 1\n192.0.2.1\n\0\u{ff}\n"),
                Some(1),
                &["line is 3", "no entry is lost"],
            ),
            ("empty", String::new(), Some(0), &["first line"]),
            ("plain", "192.0.2.1\n".to_owned(), Some(1), &["first line"]),
            ("config", format!("{HEADER} 0\n"), None, &["listed no more"]),
        ] {
            let path = block.join(format!("{name}.list"));
            fs::write(&path, contents).unwrap();
            let (_, saved, problems) = Store::open(directory.path());
            let of = saved.iter().find(|saved| saved.name == name);
            assert_eq!(of.map(|saved| saved.entries.len()), kept, "{name}");
            assert!(of.is_none_or(|saved| saved.rescued), "{name}");
            assert_eq!(saved.len(), 1 + usize::from(kept.is_some()), "{name}");
            let [problem] = problems.as_slice() else {
                panic!("{name}: {problems:?}")
            };
            assert!(
                problem.contains("damaged") && problem.contains(name),
                "{problem}"
            );
            for part in parts {
                assert!(problem.contains(part), "no {part} in {problem}");
            }
            assert!(!path.exists());
            assert!(block.join(format!("{name}.list.damaged")).exists());
            assert_eq!(Store::open(directory.path()).2, Vec::<String>::new());
        }
    }
}
