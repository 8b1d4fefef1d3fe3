//! What outlives the agent: pinned and learned bindings with their history, in `neighbors.json` of the state
//! directory.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use net_common::{abi::NeighborKey, units::Mac};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    libc,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::warn;

use super::{bindings::Entry, ports};
use crate::{
    config::{NeighborConfig, neighbor::parse_mac},
    control::protocol::{BindingHistory, BindingOrigin, PinNeighbor},
};

/// Version of the file.
const VERSION: u32 = 1;
const FILE: &str = "neighbors.json";
/// 16,384 bindings with a full history stay below it.
const MAX_BYTES: u64 = 128 << 20;
/// Least time between two writes, and after one that failed.
const WRITE_EVERY: Duration = Duration::from_secs(3);
const RETRY_EVERY: Duration = Duration::from_secs(30);
/// Damaged files that are kept.
const MAX_ASIDE: u32 = 100;

#[derive(Debug, Serialize, Deserialize)]
struct Contents<T> {
    version: u32,
    bindings: Vec<T>,
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
    /// Claims of others that were found false.
    #[serde(default)]
    pub spoofs: u64,
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
            spoofs: entry.spoofs,
        }
    }

    /// As it was.
    pub fn into_entry(self) -> Entry {
        let mut entry = Entry::new(self.macs, self.origin, self.router);
        entry.past = self.past;
        entry.history = self.history.into();
        entry.spoofs = self.spoofs;
        entry.trim();
        entry
    }

    /// Holds it to what the config's bindings are held to.
    fn check(&self) -> Result<()> {
        ensure!(!self.macs.is_empty(), "it has no link-layer address");
        let pin = PinNeighbor {
            address: self.address,
            macs: self.macs.iter().map(ToString::to_string).collect(),
            interface: Some(self.interface.clone()),
            vlan: self.vlan,
            router: self.router,
        };
        NeighborConfig::from_pin(&pin).map_err(|error| anyhow!(error.what))?;
        Ok(())
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
    work: Option<JoinHandle<Result<Option<Taken>>>>,
    /// Nothing is written without it.
    lock: Option<Flock<File>>,
    /// What the file held is known: it may be replaced.
    read: bool,
    lost: Option<String>,
    /// Who waits for the write under way, and for the one after it.
    written: Vec<Waiter>,
    waiting: Vec<Waiter>,
}

type Waiter = oneshot::Sender<Result<(), String>>;

/// The directory is ours.
#[derive(Debug)]
struct Taken {
    lock: Flock<File>,
    /// What the file held, unless that was known.
    saved: Vec<Saved>,
    lost: Option<String>,
}

/// Another agent has the directory.
#[derive(Debug, thiserror::Error)]
#[error(
    "another agent keeps its state in {}; name another `state_dir` in the config of one of the two",
    .0.display()
)]
struct Shared(PathBuf);

/// Why a file was not read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is not what an agent wrote.
    Damaged(anyhow::Error),
    /// It may be good.
    Unreadable(io::Error),
}

impl Fault {
    fn opening(error: io::Error) -> Self {
        match error.raw_os_error() {
            // A symbolic link, and a socket.
            Some(libc::ELOOP | libc::ENXIO) => Self::Damaged(error.into()),
            _ => Self::Unreadable(error),
        }
    }
}

impl Store {
    /// The file in a directory, which is made if only it is missing. Gives what was saved there, and whether the
    /// directory can be used; if not, that is tried again. A file that does not fit is kept aside, see [`Self::lost`].
    pub fn open(directory: &Path) -> (Self, Vec<Saved>, Result<()>) {
        let mut store = Self {
            directory: directory.to_owned(),
            changed: false,
            next: Duration::ZERO,
            work: None,
            lock: None,
            read: false,
            lost: None,
            written: Vec::new(),
            waiting: Vec::new(),
        };
        let error = match take(directory, false) {
            Ok(taken) => {
                let saved = store.took(taken);
                return (store, saved, Ok(()));
            }
            Err(error) => error,
        };
        // What stands there is as good as before, though it cannot be replaced.
        let mut saved = Vec::new();
        if error.downcast_ref::<Shared>().is_none() {
            match read(&directory.join(FILE)) {
                Ok(there) => {
                    store.read = true;
                    saved = there;
                }
                Err(Fault::Damaged(error)) => {
                    store.lost = Some(lost(&directory.join(FILE), &error, "it is left there"));
                }
                Err(Fault::Unreadable(_)) => {}
            }
        }
        (store, saved, Err(error))
    }

    /// That pins were lost with a damaged file, and what to do; until something is pinned.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// The operator knows of what was lost.
    pub fn found(&mut self) {
        self.lost = None;
    }

    /// Something is to be saved.
    pub fn change(&mut self) {
        self.changed = true;
    }

    /// Something is to be saved at once: gives the outcome, in words.
    pub fn save(&mut self) -> oneshot::Receiver<Result<(), String>> {
        let (waiter, outcome) = oneshot::channel();
        self.waiting.push(waiter);
        self.changed = true;
        self.next = Duration::ZERO;
        outcome
    }

    /// Writes when it is time. Gives the outcome of work that ended: bindings that could not be read before.
    pub fn tick(
        &mut self,
        now: Duration,
        bindings: impl FnOnce() -> Vec<Saved>,
    ) -> Option<Result<Vec<Saved>>> {
        if let Some(work) = self.work.take_if(|work| work.is_finished()) {
            let ended = join(work);
            return Some(self.ended(ended, now));
        }
        if self.work.is_some() || now < self.next {
            return None;
        }
        let directory = self.directory.clone();
        if self.lock.is_none() {
            let known = self.read;
            self.next = now + RETRY_EVERY;
            self.work = Some(std::thread::spawn(move || {
                take(&directory, known).map(Some)
            }));
        } else if self.changed {
            self.changed = false;
            self.next = now + WRITE_EVERY;
            self.written = std::mem::take(&mut self.waiting);
            let bindings = bindings();
            self.work = Some(std::thread::spawn(move || {
                write(&directory, bindings).map(|()| None)
            }));
        }
        None
    }

    fn ended(&mut self, ended: Result<Option<Taken>>, now: Duration) -> Result<Vec<Saved>> {
        match ended {
            Ok(Some(taken)) => {
                self.next = Duration::ZERO;
                Ok(self.took(taken))
            }
            Ok(None) => {
                tell(&mut self.written, &Ok(()));
                Ok(Vec::new())
            }
            Err(error) => {
                self.changed = true;
                self.next = now + RETRY_EVERY;
                let outcome = Err(format!("{error:#}"));
                tell(&mut self.written, &outcome);
                tell(&mut self.waiting, &outcome);
                Err(error)
            }
        }
    }

    fn took(&mut self, taken: Taken) -> Vec<Saved> {
        self.lock = Some(taken.lock);
        if !self.read {
            self.read = true;
            self.lost = taken.lost;
        }
        taken.saved
    }

    /// Writes what was not written yet.
    ///
    /// # Errors
    /// The directory takes no file.
    pub fn close(&mut self, bindings: Vec<Saved>) -> Result<()> {
        let mut ended = self.work.take().map_or(Ok(()), |work| join(work).map(drop));
        if self.changed || ended.is_err() {
            ended = match &self.lock {
                Some(_) => write(&self.directory, bindings),
                None => Err(anyhow!(not_kept(&self.directory))),
            };
        }
        let outcome = match &ended {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        };
        tell(&mut self.written, &outcome);
        tell(&mut self.waiting, &outcome);
        ended
    }
}

fn tell(waiters: &mut Vec<Waiter>, outcome: &Result<(), String>) {
    for waiter in waiters.drain(..) {
        // Nobody waits any longer: then nobody is told.
        let _ = waiter.send(outcome.clone());
    }
}

fn join(work: JoinHandle<Result<Option<Taken>>>) -> Result<Option<Taken>> {
    work.join()
        .unwrap_or_else(|_| bail!("the write ended in a panic"))
}

fn not_kept(directory: &Path) -> String {
    format!(
        "{} cannot be used, so that bindings do not outlive this agent; make it a directory that the agent can \
         write to, or name another as `state_dir` in the config",
        directory.display()
    )
}

fn lost(path: &Path, error: &anyhow::Error, kept: &str) -> String {
    format!(
        "pinned neighbours are lost, as {} is damaged ({error:#}); {kept}. Pin them again with `netmoat neighbor \
         pin`, or stop netmoat, put the file back in order, and start netmoat",
        path.display()
    )
}

/// Makes the directory ours and reads the file, unless what it holds is known.
fn take(directory: &Path, known: bool) -> Result<Taken> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| not_kept(directory));
        }
        _ => {}
    }
    check(directory)?;
    nix::unistd::access(directory, nix::unistd::AccessFlags::W_OK)
        .map_err(io::Error::from)
        .with_context(|| not_kept(directory))?;
    let mut taken = Taken {
        lock: lock(directory)?,
        saved: Vec::new(),
        lost: None,
    };
    let path = directory.join(FILE);
    match if known { Ok(Vec::new()) } else { read(&path) } {
        Ok(saved) => taken.saved = saved,
        Err(Fault::Damaged(error)) => {
            let aside = put_aside(&path)
                .with_context(|| format!("{} is damaged ({error:#})", path.display()))?;
            let kept = format!("it is kept as {}", aside.display());
            taken.lost = Some(lost(&path, &error, &kept));
        }
        Err(Fault::Unreadable(error)) => {
            return Err(error).with_context(|| {
                format!(
                    "{} cannot be read, so that neighbours pinned there are not held to what they are; it is left \
                     as it is, tried again, and bindings do not outlive this agent until it can be read",
                    path.display()
                )
            });
        }
    }
    Ok(taken)
}

/// Whoever can write to the directory says who the gateway is.
pub(crate) fn check(directory: &Path) -> Result<()> {
    let metadata = fs::metadata(directory).with_context(|| not_kept(directory))?;
    ensure!(metadata.is_dir(), "{}", not_kept(directory));
    let (shown, uid, mode) = (
        directory.display(),
        metadata.uid(),
        metadata.mode() & 0o7777,
    );
    let or = "or name another directory as `state_dir` in the config";
    ensure!(
        is_ours(&metadata),
        "{shown} belongs to uid {uid}, who could replace what is kept there, so that bindings do not outlive this \
         agent; `chown {} {shown}`, {or}",
        nix::unistd::geteuid()
    );
    ensure!(
        mode & 0o022 == 0,
        "{shown} has mode {mode:04o}, so that others could replace what is kept there, and bindings do not outlive \
         this agent; `chmod go-w {shown}`, {or}"
    );
    Ok(())
}

/// Whether only root or we can have written it.
pub(crate) fn is_ours(metadata: &fs::Metadata) -> bool {
    [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid())
}

/// One agent a directory. The lock file stays behind: removing it would let two agents hold a lock each.
fn lock(directory: &Path) -> Result<Flock<File>> {
    // Open for writing it would keep its file system from being made read-only.
    let file = File::options()
        .read(true)
        .mode(0o600)
        .custom_flags(libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(directory.join(format!("{FILE}.lock")))
        .with_context(|| not_kept(directory))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Shared(directory.to_owned()).into(),
        errno => anyhow::Error::new(io::Error::from(errno)).context(not_kept(directory)),
    })
}

/// Renames a damaged file, never over another.
pub(crate) fn put_aside(path: &Path) -> Result<PathBuf> {
    let file = path.file_name().unwrap_or_default().display();
    let mut names = (1..=MAX_ASIDE).map(|n| match n {
        1 => path.with_file_name(format!("{file}.damaged")),
        n => path.with_file_name(format!("{file}.damaged.{n}")),
    });
    let free = |name: &PathBuf| {
        fs::symlink_metadata(name).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    let aside = names
        .find(free)
        .context("there are too many files that were kept aside; remove some")?;
    fs::rename(path, &aside).context("it cannot be kept aside; take it away")?;
    Ok(aside)
}

fn read(path: &Path) -> Result<Vec<Saved>, Fault> {
    match read_octets(path)? {
        Some(octets) => parse(&octets).map_err(Fault::Damaged),
        None => Ok(Vec::new()),
    }
}

/// What a file of ours holds; `None` if there is none.
pub(crate) fn read_octets(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    read_octets_up_to(path, MAX_BYTES)
}

/// The same, with a bound of its own.
pub(crate) fn read_octets_up_to(path: &Path, max: u64) -> Result<Option<Vec<u8>>, Fault> {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Fault::opening(error)),
    };
    let metadata = file.metadata().map_err(Fault::Unreadable)?;
    check_file(&metadata, max).map_err(Fault::Damaged)?;
    let mut octets = Vec::new();
    file.take(max)
        .read_to_end(&mut octets)
        .map_err(Fault::Unreadable)?;
    Ok(Some(octets))
}

fn check_file(metadata: &fs::Metadata, max: u64) -> Result<()> {
    ensure!(metadata.is_file(), "it is no regular file");
    // Whoever can write to it says who the gateway is.
    ensure!(
        is_ours(metadata) && metadata.mode() & 0o022 == 0,
        "it belongs to uid {} with mode {:04o}, so that others could have written it",
        metadata.uid(),
        metadata.mode() & 0o7777
    );
    ensure!(metadata.len() <= max, "it has {} octets", metadata.len());
    Ok(())
}

fn parse(octets: &[u8]) -> Result<Vec<Saved>> {
    let Versioned { version } = serde_json::from_slice(octets)?;
    ensure!(
        version == VERSION,
        "it has version {version}, and this netmoat reads {VERSION}"
    );
    let contents: Contents<serde_json::Value> = serde_json::from_slice(octets)?;
    let mut bindings = Vec::new();
    for (number, value) in contents.bindings.into_iter().enumerate() {
        let saved = Saved::deserialize(value).map_err(anyhow::Error::from);
        match saved.and_then(|saved| saved.check().map(|()| saved)) {
            Ok(saved) => bindings.push(saved),
            Err(error) => {
                let number = number + 1;
                warn!("{FILE}: binding {number} is left out: {error:#}");
            }
        }
    }
    Ok(bindings)
}

fn write(directory: &Path, bindings: Vec<Saved>) -> Result<()> {
    check(directory)?;
    let contents = Contents {
        version: VERSION,
        bindings,
    };
    let text = serde_json::to_vec_pretty(&contents)?;
    replace(directory, FILE, &text).with_context(|| not_kept(directory))
}

/// Writes a file. Either the old one is there or the new one, whenever the power fails.
pub(crate) fn replace(directory: &Path, name: &str, octets: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(octets)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
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
            spoofs: 3,
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
        drop(store);
        assert_eq!(open(&directory).1, [saved()]);
        let mode = fs::metadata(directory.join(FILE)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(
            fs::read_dir(&directory).unwrap().count(),
            2,
            "no temporary file is left, only the lock"
        );
    }

    /// Ticks until work has ended.
    fn outcome(store: &mut Store, now: Duration) -> Result<Vec<Saved>> {
        loop {
            if let Some(outcome) = store.tick(now, || vec![saved()]) {
                return outcome;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_to_be_saved_at_once_is_told_when_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(directory.path());
        store.change();
        outcome(&mut store, Duration::ZERO).unwrap();
        fs::remove_file(directory.path().join(FILE)).unwrap();
        let mut told = store.save();
        assert!(told.try_recv().is_err(), "not yet");
        outcome(&mut store, Duration::from_millis(1)).unwrap();
        assert_eq!(told.try_recv().unwrap(), Ok(()));
        assert!(directory.path().join(FILE).exists());

        // What cannot be saved is told too, and tried at once when asked for again.
        let blocked = directory.path().join(format!(".{FILE}.new"));
        fs::create_dir(&blocked).unwrap();
        for ms in [2, 3] {
            let mut told = store.save();
            outcome(&mut store, Duration::from_millis(ms)).unwrap_err();
            let why = told.try_recv().unwrap().unwrap_err();
            assert!(why.contains("state_dir"), "{why}");
        }
        fs::remove_dir(&blocked).unwrap();
        let mut told = store.save();
        store.close(vec![saved()]).unwrap();
        assert_eq!(told.try_recv().unwrap(), Ok(()));
    }

    #[test]
    fn two_agents_do_not_share_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (mut first, _) = open(directory.path());
        first.change();
        first.close(vec![saved()]).unwrap();
        let (mut second, nothing, usable) = Store::open(directory.path());
        let error = format!("{:#}", usable.unwrap_err());
        assert!(
            error.contains("another agent") && error.contains("state_dir"),
            "{error}"
        );
        assert_eq!(nothing, [], "it is the other's");
        let mut told = second.save();
        outcome(&mut second, Duration::ZERO).unwrap_err();
        assert!(told.try_recv().unwrap().is_err());
        drop(first);
        let later = RETRY_EVERY + Duration::from_secs(1);
        assert_eq!(outcome(&mut second, later).unwrap(), [saved()]);
        assert_eq!(
            outcome(&mut second, later).unwrap(),
            [],
            "and then it is written"
        );
    }

    #[test]
    fn a_directory_of_others_is_not_written_to() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("state");
        let (mut store, _) = open(&directory);
        store.change();
        store.close(vec![saved()]).unwrap();
        drop(store);
        let shared = fs::Permissions::from_mode(0o770);
        fs::set_permissions(&directory, shared).unwrap();
        let before = fs::read(directory.join(FILE)).unwrap();
        let (mut store, there, usable) = Store::open(&directory);
        let error = format!("{:#}", usable.unwrap_err());
        assert!(error.contains("chmod go-w"), "{error}");
        assert_eq!(
            there,
            [saved()],
            "the file has an owner and a mode of its own"
        );
        store.change();
        outcome(&mut store, Duration::ZERO).unwrap_err();
        store.close(Vec::new()).unwrap_err();
        assert_eq!(fs::read(directory.join(FILE)).unwrap(), before);

        // It is mended: nothing is read twice, as a pin may have been taken back since.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(outcome(&mut store, RETRY_EVERY).unwrap(), []);
        outcome(&mut store, RETRY_EVERY).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        store.change();
        assert!(
            store.close(Vec::new()).is_err(),
            "it is looked at each time"
        );

        if nix::unistd::geteuid().is_root() {
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&directory, Some(4321), None).unwrap();
            drop(store);
            let error = format!("{:#}", Store::open(&directory).2.unwrap_err());
            assert!(
                error.contains("uid 4321") && error.contains("chown 0"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, text()).unwrap();
        for (errno, damaged) in [
            (libc::EIO, false),
            (libc::EACCES, false),
            (libc::EMFILE, false),
            (libc::ELOOP, true),
            (libc::ENXIO, true),
        ] {
            let fault = Fault::opening(io::Error::from_raw_os_error(errno));
            assert_eq!(matches!(fault, Fault::Damaged(_)), damaged, "{errno}");
        }
        // Root reads everything, unless it gives up that right, which counts for this thread and those it starts.
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        fs::write(directory.path().join("neighbors.json.lock"), "").unwrap();
        mode(&directory.path().join("neighbors.json.lock"), 0o666).unwrap();
        mode(directory.path(), 0o755).unwrap();
        mode(&path, 0o000).unwrap();
        let before = nix::unistd::setfsuid(4321.into());
        let (mut store, nothing, usable) = Store::open(directory.path());
        assert_eq!(nothing, []);
        let error = format!("{:#}", usable.unwrap_err());
        assert!(error.contains("cannot be read"), "{error}");
        store.change();
        outcome(&mut store, Duration::ZERO).unwrap_err();
        store.close(Vec::new()).unwrap_err();
        nix::unistd::setfsuid(before);
        mode(&path, 0o600).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text());
        assert_eq!(outcome(&mut store, RETRY_EVERY).unwrap(), [saved()]);
        assert_eq!(store.lost(), None);
    }

    #[test]
    fn bindings_that_the_config_would_refuse_are_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let with = |change: &dyn Fn(&mut Saved)| {
            let mut changed = saved();
            change(&mut changed);
            serde_json::to_value(changed).unwrap()
        };
        let mut unreadable = with(&|_| {});
        unreadable["macs"] = serde_json::json!(["x"]);
        let mut old = with(&|_| {});
        old.as_object_mut().unwrap().remove("spoofs");
        let bindings = vec![
            with(&|s| s.address = "224.0.0.1".parse().unwrap()),
            with(&|s| s.vlan = 4095),
            with(&|s| s.macs.clear()),
            with(&|s| s.macs = (1..10).map(Mac).collect()),
            with(&|s| s.router = true),
            unreadable,
            old,
        ];
        let contents = Contents {
            version: VERSION,
            bindings,
        };
        let path = directory.path().join(FILE);
        fs::write(&path, serde_json::to_string(&contents).unwrap()).unwrap();
        let expected = Saved {
            spoofs: 0,
            ..saved()
        };
        let (store, there) = open(directory.path());
        assert_eq!((there, store.lost()), (vec![expected], None));
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
            while store.work.as_ref().is_some_and(|w| !w.is_finished()) {
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
            ("bindings that are none", &text().replace('[', "{"), 0o600),
            ("writable by others", &text(), 0o622),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(FILE);
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let (mut store, saved_before) = open(directory.path());
            assert_eq!(saved_before, [], "{description}");
            let lost = store.lost().unwrap();
            assert!(
                lost.contains("pinned neighbours are lost") && lost.contains(".damaged."),
                "{lost}"
            );
            let aside = fs::read_to_string(directory.path().join("neighbors.json.damaged"));
            assert_eq!(aside.unwrap(), contents, "{description}");
            store.change();
            store.close(vec![saved()]).unwrap();
            drop(store);
            let (store, there) = open(directory.path());
            assert_eq!(
                (there, store.lost()),
                (vec![saved()], None),
                "{description}"
            );
            drop(store);

            // The next is kept beside it.
            fs::write(&path, "again").unwrap();
            drop(open(directory.path()));
            for (name, holds) in [("damaged", contents), ("damaged.2", "again")] {
                let kept = directory.path().join(format!("{FILE}.{name}"));
                assert_eq!(fs::read_to_string(kept).unwrap(), holds, "{description}");
            }
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
