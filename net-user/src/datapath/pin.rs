//! What stays in the kernel without the agent: maps and links, pinned in a directory of the instance.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    pin::PinError,
    programs::links::{FdLink, PinnedLink},
};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::MsFlags,
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::info;

mod maps;
mod sys;

pub(crate) use maps::Definition;
pub use maps::{Anew, Plan};

use super::load::{OPTIONAL_PROGRAMS, SOCK_PROGRAM};

/// Where the kernel's pins are.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Of netmoat, every instance in a directory of its own.
pub const ROOT: &str = "/sys/fs/bpf/netmoat";
/// Directory of the pinned maps, by name and layout.
pub(super) const MAPS: &str = "maps";
/// Directory of the pinned links.
const LINKS: &str = "links";
/// Directory of the pinned programs of interfaces.
const PROGRAMS: &str = "programs";
/// Names the ABI of the agent that pinned last.
const ABI: &str = "abi";
/// Names the network namespace that is protected.
const NETNS: &str = "netns";
const NATIVE: &str = "native";

/// What a link connects a program to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An interface, by its index.
    Xdp(u32),
    /// What a driver hands on there.
    Ingress(u32),
    /// What leaves there.
    Egress(u32),
    /// A tracepoint, by the name of our program.
    Socket(&'static str),
}

impl Place {
    /// Its file below `links`. The file system takes no name with a dot (`bpf_lookup`, kernel/bpf/inode.c).
    fn file(self) -> String {
        match self {
            Self::Xdp(index) => format!("{index}-xdp"),
            Self::Ingress(index) => format!("{index}-ingress"),
            Self::Egress(index) => format!("{index}-egress"),
            Self::Socket(name) => name.trim_start_matches("netmoat_").to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "links/{}", self.file())
    }
}

/// The pins of one instance, which nobody else uses while this lives.
#[derive(Debug)]
pub struct Pins {
    dir: PathBuf,
    /// Of the directory: one agent an instance.
    _lock: Flock<fs::File>,
}

impl Pins {
    /// Where the pins of an instance are.
    pub fn dir(instance: &str) -> PathBuf {
        Path::new(ROOT).join(instance)
    }

    /// Takes the directory of an instance. With `make` it is made when it is missing, and the file system mounted;
    /// otherwise there may be none.
    ///
    /// # Errors
    /// It belongs to somebody else, or others may write to it; another agent has it; there is no such file system.
    pub fn open(instance: &str, make: bool) -> Result<Option<Self>> {
        if make {
            mount()?;
        }
        let dir = Self::dir(instance);
        for (path, below) in [(Path::new(ROOT), false), (&dir, true)] {
            if make {
                make_dir(path)?;
            }
            match fs::symlink_metadata(path) {
                Err(error) if error.kind() == ErrorKind::NotFound && !make => return Ok(None),
                found => trust(path, &found?)?,
            }
            if below {
                let magic = statfs(path)?.filesystem_type();
                ensure!(
                    magic == BPF_FS_MAGIC,
                    "{} is on no BPF file system; remove it, then `mount -t bpf bpffs {BPFFS}`",
                    path.display()
                );
            }
        }
        let file = fs::File::open(&dir)?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            match errno {
                nix::errno::Errno::EWOULDBLOCK => anyhow::anyhow!(
                    "an agent of the instance {instance} is running; stop it, or give this one another name with \
                     `--instance`"
                ),
                other => anyhow::anyhow!("{}: {other}", dir.display()),
            }
        })?;
        let pins = Self { dir, _lock: lock };
        for name in [MAPS, LINKS, PROGRAMS] {
            let sub = pins.dir.join(name);
            if make {
                make_dir(&sub)?;
            }
            match fs::symlink_metadata(&sub) {
                Ok(found) => trust(&sub, &found)?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).context(sub.display().to_string()),
            }
        }
        Ok(Some(pins))
    }

    /// What a start of the instance would do with its maps; none when nothing is pinned. Nothing is taken or changed.
    ///
    /// # Errors
    /// As [`Self::open`]; the object cannot be read.
    pub fn look(instance: &str) -> Result<Option<Plan>> {
        let dir = Self::dir(instance);
        match fs::symlink_metadata(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => trust(&dir, &found?)?,
        }
        Ok(Some(maps::plan(&dir, &super::load::definitions()?)?))
    }

    /// The link that is pinned for a place.
    ///
    /// # Errors
    /// What is pinned there is no link, or cannot be opened.
    pub fn link(&self, place: Place) -> Result<Option<PinnedLink>> {
        let path = self.path(place);
        if !expect(&path, Kind::Link)? {
            return Ok(None);
        }
        let link = PinnedLink::from_pin(&path);
        Ok(Some(link.with_context(|| {
            format!("{} cannot be opened", path.display())
        })?))
    }

    /// Every pinned link of a tracepoint.
    ///
    /// # Errors
    /// As [`Self::link`].
    pub fn socket_links(&self) -> Result<Vec<PinnedLink>> {
        let optional = OPTIONAL_PROGRAMS.map(|(name, _)| name);
        let names = [SOCK_PROGRAM].into_iter().chain(optional);
        let mut links = Vec::new();
        for name in names {
            links.extend(self.link(Place::Socket(name))?);
        }
        Ok(links)
    }

    /// Pins a link.
    ///
    /// # Errors
    /// The kernel refuses, as when there is a pin already.
    pub fn pin_link(&self, place: Place, link: FdLink) -> Result<PinnedLink> {
        let path = self.path(place);
        link.pin(&path)
            .with_context(|| format!("{} cannot be pinned", path.display()))
    }

    /// Where the program of a place is pinned, if it is: the same for all interfaces.
    ///
    /// # Errors
    /// What is pinned there is no program, or somebody else's.
    pub fn program(&self, place: Place) -> Result<Option<PathBuf>> {
        let path = self.program_path(place);
        Ok(expect(&path, Kind::Program)?.then_some(path))
    }

    /// Pins the program of a place by `pin`, in the place of the one before.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pin_program(
        &self,
        place: Place,
        pin: impl FnOnce(&Path) -> Result<(), PinError>,
    ) -> Result<()> {
        let path = self.program_path(place);
        let new = self.dir.join(PROGRAMS).join("new");
        // Of an agent that was killed in between.
        remove(&new)?;
        pin(&new)
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(fs::rename(&new, &path)?))
            .with_context(|| format!("{} cannot be pinned", path.display()))
    }

    fn program_path(&self, place: Place) -> PathBuf {
        let name = match place {
            Place::Xdp(_) => "xdp",
            Place::Ingress(_) => "ingress",
            Place::Egress(_) => "egress",
            Place::Socket(name) => name,
        };
        self.dir.join(PROGRAMS).join(name)
    }

    /// Removes the pin of a link that leads nowhere any more.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn forget(&self, place: Place) -> Result<()> {
        let path = self.path(place);
        fs::remove_file(&path).with_context(|| format!("{} cannot be removed", path.display()))
    }

    /// Removes the pins of interfaces that are not in `kept`, which takes the programs off these.
    ///
    /// # Errors
    /// One cannot be removed.
    pub fn forget_interfaces(&self, kept: &[u32]) -> Result<()> {
        for (name, path) in entries(&self.dir.join(LINKS))? {
            let index = name
                .split_once('-')
                .and_then(|(index, _)| index.parse().ok());
            if index.is_some_and(|index| !kept.contains(&index)) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Remembers how XDP was attached to an interface, which its link does not tell.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn note_mode(&self, ifindex: u32, native: bool) -> Result<()> {
        let word = if native { NATIVE } else { "generic" };
        note(&self.mode_path(ifindex), word)
    }

    /// Whether XDP was attached in the driver.
    pub fn was_native(&self, ifindex: u32) -> bool {
        fs::read_link(self.mode_path(ifindex)).is_ok_and(|word| word == Path::new(NATIVE))
    }

    fn mode_path(&self, ifindex: u32) -> PathBuf {
        self.dir.join(LINKS).join(format!("{ifindex}-mode"))
    }

    fn path(&self, place: Place) -> PathBuf {
        self.dir.join(LINKS).join(place.file())
    }

    /// Removes every pin: programs go as soon as nobody holds them, and maps with them. Works when half of it is missing.
    ///
    /// # Errors
    /// Something cannot be removed, or is not netmoat's; the rest is.
    pub fn remove(self) -> Result<()> {
        // XDP first, so that nothing is answered that TC would have to finish.
        let mut links = entries(&self.dir.join(LINKS))?;
        links.sort_by_key(|(name, _)| !name.ends_with("-xdp"));
        let mut first = Ok(());
        for (_, path) in links {
            first = first.and(remove(&path));
        }
        for name in [PROGRAMS, MAPS] {
            for (_, path) in entries(&self.dir.join(name))? {
                first = first.and(remove(&path));
            }
        }
        for name in [ABI, NETNS] {
            first = first.and(remove(&self.dir.join(name)));
        }
        for name in [MAPS, LINKS, PROGRAMS] {
            first = first.and(remove_dir(&self.dir.join(name)));
        }
        first = first.and(remove_dir(&self.dir));
        tidy_up();
        first
    }
}

/// Entries of a directory by name; none when it is missing.
fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let found = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.with_context(|| format!("{} cannot be read", dir.display()))?,
    };
    let mut entries = Vec::new();
    for entry in found {
        let entry = entry?;
        entries.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    Ok(entries)
}

fn remove(path: &Path) -> Result<()> {
    missing_is_fine(fs::remove_file(path))
        .with_context(|| format!("{} cannot be removed", path.display()))
}

fn remove_dir(path: &Path) -> Result<()> {
    missing_is_fine(fs::remove_dir(path))
        .with_context(|| format!("{} cannot be removed", path.display()))
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Leaves a word in a symbolic link, since the file system has no files of its own.
fn note(path: &Path, word: &str) -> Result<()> {
    if fs::read_link(path).is_ok_and(|found| found == Path::new(word)) {
        return Ok(());
    }
    remove(path)?;
    symlink(word, path).with_context(|| format!("{} cannot be made", path.display()))
}

fn make_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("{} cannot be made", path.display()))
        }
        _ => Ok(()),
    }
}

/// Refuses what somebody else may have put there.
fn trust(path: &Path, found: &fs::Metadata) -> Result<()> {
    let path = path.display();
    ensure!(
        found.is_dir(),
        "{path} is no directory; remove it if it is not needed"
    );
    ensure!(
        found.uid() == 0,
        "{path} belongs to uid {}, not to root, and what is pinned there cannot be trusted; find out whose it is, \
         then remove it with `rm -r {path}`",
        found.uid()
    );
    ensure!(
        found.mode() & 0o077 == 0,
        "{path} is open to others (mode {:04o}, wanted 0700), and what is pinned there cannot be trusted; look at it, \
         then `chmod 0700 {path}`",
        found.mode() & 0o7777
    );
    Ok(())
}

/// Makes sure of the file system, as init systems do.
fn mount() -> Result<()> {
    let is_there = || statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    if is_there() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mounted = nix::mount::mount(Some("bpffs"), BPFFS, Some("bpf"), flags, Some("mode=0700"));
    if let Err(error) = mounted {
        bail!(
            "no BPF file system is mounted at {BPFFS}, which protection without the agent needs ({error}); \
             `mount -t bpf bpffs {BPFFS}` as root on the host and hand it into the container, or set on_exit = \"detach\""
        );
    }
    info!("mounted a BPF file system at {BPFFS}");
    Ok(())
}

/// What a pin holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Map,
    Link,
    Program,
}

/// Whether there is a pin.
///
/// # Errors
/// It is of another kind, or somebody else's.
fn expect(path: &Path, kind: Kind) -> Result<bool> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        found => found.with_context(|| path.display().to_string())?,
    };
    let strange = |what: String| {
        anyhow::anyhow!(
            "{} is not netmoat's ({what}); look at it with `bpftool`, then remove it, or everything with `netmoat detach`",
            path.display()
        )
    };
    if found.uid() != 0 {
        return Err(strange(format!("it belongs to uid {}", found.uid())));
    }
    if !found.is_file() {
        return Err(strange("it is no pin".to_owned()));
    }
    let name =
        sys::kind_of(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    let wanted = match kind {
        Kind::Map => "bpf-map",
        Kind::Link => "bpf-link",
        Kind::Program => "bpf-prog",
    };
    // Links were called so and so.
    let name = name.replace('_', "-");
    if !name.contains(wanted) {
        return Err(strange(format!("it holds {name}, wanted {wanted}")));
    }
    Ok(true)
}

/// Removes netmoat's directory when the last instance is gone.
pub fn tidy_up() {
    // Other instances may be below it.
    let _ = fs::remove_dir(ROOT);
}

/// Which instance holds an XDP program by a pin, and whether its agent is running.
pub fn holder_of(program: u32) -> Option<(String, bool)> {
    let instances = entries(Path::new(ROOT)).ok()?;
    instances.into_iter().find_map(|(instance, dir)| {
        let links = entries(&dir.join(LINKS)).ok()?;
        links
            .iter()
            .filter(|(name, _)| name.ends_with("-xdp"))
            .filter(|(_, path)| expect(path, Kind::Link).is_ok_and(|found| found))
            .filter_map(|(_, path)| FdLink::from(PinnedLink::from_pin(path).ok()?).info().ok())
            .find(|info| info.program_id() == program)?;
        let free = fs::File::open(&dir)
            .is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok());
        Some((instance, !free))
    })
}
