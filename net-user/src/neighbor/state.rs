//! What outlives the agent: pinned and learned bindings with their history, in `neighbors.json` of the state
//! directory.

use std::{
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use net_common::{abi::NeighborKey, units::Mac};
use nix::libc;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{bindings::Entry, ports};
use crate::{
    config::neighbor::parse_mac,
    control::protocol::{BindingHistory, BindingOrigin},
};

/// Version of the file.
const VERSION: u32 = 1;
const FILE: &str = "neighbors.json";
/// 16,384 bindings with a full history stay below it.
const MAX_BYTES: u64 = 128 << 20;
/// Least time between two writes, and after one that failed.
const WRITE_EVERY: Duration = Duration::from_secs(3);
const RETRY_EVERY: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    bindings: Vec<Saved>,
}

/// Only the version, of a file whose other contents may mean something else.
#[derive(Debug, Deserialize)]
struct Versioned {
    version: u32,
}

/// A binding as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Its address.
    pub address: IpAddr,
    /// Name of the attached interface; its index may change.
    pub interface: String,
    /// VLAN id, 0 for untagged.
    pub vlan: u16,
    /// Its link-layer addresses.
    #[serde(with = "macs")]
    pub macs: Vec<Mac>,
    /// Those it had before.
    #[serde(with = "macs")]
    pub past: Vec<Mac>,
    /// By whose word.
    pub origin: BindingOrigin,
    /// May send router advertisements.
    pub router: bool,
    /// What happened to it.
    pub history: Vec<BindingHistory>,
}

impl Saved {
    /// As it is to be saved.
    pub fn new(key: &NeighborKey, entry: &Entry, interface: &str) -> Self {
        Self {
            address: ports::address(key),
            interface: interface.to_owned(),
            vlan: key.vlan,
            macs: entry.macs.clone(),
            past: entry.past.clone(),
            origin: entry.origin,
            router: entry.router,
            history: entry.history.iter().cloned().collect(),
        }
    }

    /// As it was.
    pub fn into_entry(self) -> Entry {
        let mut entry = Entry::new(self.macs, self.origin, self.router);
        entry.past = self.past;
        entry.history = self.history.into();
        entry
    }
}

mod macs {
    use serde::{Deserializer, Serializer, de::Error as _};

    use super::{Deserialize as _, Mac, parse_mac};

    pub(super) fn serialize<S: Serializer>(macs: &[Mac], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(macs.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Mac>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts
            .iter()
            .map(|text| parse_mac(text).map_err(D::Error::custom))
            .collect()
    }
}

/// The file, written in the background: a slow disk stops nobody.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    changed: bool,
    /// Not before then.
    next: Duration,
    writer: Option<JoinHandle<Result<()>>>,
}

impl Store {
    /// The file in a directory, which is made if only it is missing. Gives what was saved there; a file that does not
    /// fit is kept aside and said.
    pub fn open(directory: &Path) -> (Self, Vec<Saved>, Result<()>) {
        let store = Self {
            directory: directory.to_owned(),
            changed: false,
            next: Duration::ZERO,
            writer: None,
        };
        let made = DirBuilder::new().mode(0o700).create(directory);
        let usable = match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(error).with_context(|| not_kept(directory))
            }
            _ => writable(directory),
        };
        let path = directory.join(FILE);
        let saved = read(&path).unwrap_or_else(|error| {
            let aside = directory.join(format!("{FILE}.damaged"));
            let kept = match fs::rename(&path, &aside) {
                Ok(()) => format!("kept as {}", aside.display()),
                Err(error) => format!("and it cannot be kept aside: {error}"),
            };
            warn!(
                "{}: {error:#}; {kept}. Bindings are learned anew",
                path.display()
            );
            Vec::new()
        });
        (store, saved, usable)
    }

    /// Something is to be saved.
    pub fn change(&mut self) {
        self.changed = true;
    }

    /// Writes when it is time; gives the outcome of a write that ended.
    pub fn tick(
        &mut self,
        now: Duration,
        bindings: impl FnOnce() -> Vec<Saved>,
    ) -> Option<Result<()>> {
        if self
            .writer
            .as_ref()
            .is_some_and(|writer| !writer.is_finished())
        {
            return None;
        }
        let ended = self.writer.take().map(join);
        if let Some(Err(_)) = ended {
            self.changed = true;
            self.next = now + RETRY_EVERY;
        }
        if self.changed && self.next <= now {
            self.changed = false;
            self.next = now + WRITE_EVERY;
            let (directory, bindings) = (self.directory.clone(), bindings());
            self.writer = Some(std::thread::spawn(move || write(&directory, bindings)));
        }
        ended
    }

    /// Writes what was not written yet.
    ///
    /// # Errors
    /// The directory takes no file.
    pub fn close(&mut self, bindings: Vec<Saved>) -> Result<()> {
        let ended = self.writer.take().map_or(Ok(()), join);
        if self.changed || ended.is_err() {
            return write(&self.directory, bindings);
        }
        ended
    }
}

fn join(writer: JoinHandle<Result<()>>) -> Result<()> {
    writer
        .join()
        .unwrap_or_else(|_| bail!("the write ended in a panic"))
}

fn not_kept(directory: &Path) -> String {
    format!(
        "{} cannot be used, so that bindings do not outlive this agent; make it a directory that the agent can \
         write to, or name another as `state_dir` in the config",
        directory.display()
    )
}

fn writable(directory: &Path) -> Result<()> {
    nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK)
        .with_context(|| not_kept(directory))
}

fn read(path: &Path) -> Result<Vec<Saved>> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is no regular file");
    // Whoever can write to it says who the gateway is.
    ensure!(
        metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0,
        "it belongs to uid {} with mode {:04o}, so that others could have written it",
        metadata.uid(),
        metadata.mode() & 0o7777
    );
    ensure!(
        metadata.len() <= MAX_BYTES,
        "it has {} octets",
        metadata.len()
    );
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    let Versioned { version } = serde_json::from_str(&text)?;
    ensure!(
        version == VERSION,
        "it has version {version}, and this netmoat reads {VERSION}"
    );
    let contents: Contents = serde_json::from_str(&text)?;
    Ok(contents.bindings)
}

/// Either the old file is there or the new one, whenever the power fails.
fn write(directory: &Path, bindings: Vec<Saved>) -> Result<()> {
    let written = || -> Result<()> {
        let contents = Contents {
            version: VERSION,
            bindings,
        };
        let text = serde_json::to_vec_pretty(&contents)?;
        let temporary = directory.join(format!(".{FILE}.new"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, directory.join(FILE))?;
        File::open(directory)?.sync_all()?;
        Ok(())
    };
    written().with_context(|| not_kept(directory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn saved() -> Saved {
        Saved {
            address: "192.0.2.1".parse().unwrap(),
            interface: "eth0".into(),
            vlan: 5,
            macs: vec![Mac::new([2, 0, 0, 0, 0, 1])],
            past: vec![Mac::new([2, 0, 0, 0, 0, 9])],
            origin: BindingOrigin::Learned,
            router: false,
            history: vec![BindingHistory {
                at: 7,
                what: "learned".into(),
            }],
        }
    }

    fn open(directory: &Path) -> (Store, Vec<Saved>) {
        let (store, saved, usable) = Store::open(directory);
        usable.unwrap();
        (store, saved)
    }

    #[test]
    fn what_was_saved_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("netmoat");
        let (mut store, none) = open(&directory);
        assert_eq!(none, []);
        store.close(vec![saved()]).unwrap();
        assert!(!directory.join(FILE).exists(), "nothing changed");
        store.change();
        store.close(vec![saved()]).unwrap();
        assert_eq!(open(&directory).1, [saved()]);
        let mode = fs::metadata(directory.join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(
            fs::read_dir(&directory).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn changes_are_written_at_once_and_then_every_few_seconds() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(directory.path());
        let mut writes = 0;
        for ms in (0..10_000).step_by(50) {
            store.change();
            let outcome = store.tick(Duration::from_millis(ms), || {
                writes += 1;
                vec![saved()]
            });
            assert!(!matches!(outcome, Some(Err(_))), "{outcome:?}");
            // As if disks were as fast as this loop.
            while store.writer.as_ref().is_some_and(|w| !w.is_finished()) {
                std::thread::yield_now();
            }
        }
        assert_eq!(writes, 4);
    }

    #[test]
    fn a_file_that_does_not_fit_is_kept_aside() {
        for (description, contents, mode) in [
            ("cut off", "{\"version\": 1, \"bindings\": [", 0o600),
            (
                "another version",
                "{\"version\": 2, \"bindings\": {}}",
                0o600,
            ),
            ("empty", "", 0o600),
            (
                "a link-layer address that is none",
                &text().replace("02:00:00:00:00:01", "x"),
                0o600,
            ),
            ("writable by others", &text(), 0o622),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(FILE);
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let (mut store, saved_before) = open(directory.path());
            assert_eq!(saved_before, [], "{description}");
            let aside = fs::read_to_string(directory.path().join("neighbors.json.damaged"));
            assert_eq!(aside.unwrap(), contents, "{description}");
            store.change();
            store.close(vec![saved()]).unwrap();
            assert_eq!(open(directory.path()).1, [saved()], "{description}");
        }
    }

    fn text() -> String {
        let bindings = vec![saved()];
        serde_json::to_string(&Contents {
            version: VERSION,
            bindings,
        })
        .unwrap()
    }

    #[test]
    fn a_link_in_place_of_the_file_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::write(&target, text()).unwrap();
        std::os::unix::fs::symlink(&target, directory.path().join(FILE)).unwrap();
        assert_eq!(open(directory.path()).1, []);
    }

    #[test]
    fn a_directory_that_is_none_is_said_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("not/there");
        let (mut store, saved_before, usable) = Store::open(&missing);
        assert_eq!(saved_before, []);
        let error = format!("{:#}", usable.unwrap_err());
        assert!(
            error.contains("not/there") && error.contains("state_dir"),
            "{error}"
        );
        store.change();
        assert!(store.close(vec![saved()]).is_err());
    }
}
