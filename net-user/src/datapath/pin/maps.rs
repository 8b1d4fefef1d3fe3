//! Which pinned maps fit this build, and which begin anew.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, maps::MapInfo};
use net_common::abi::{
    ABI_VERSION,
    layout::{KEPT, Kept},
};
use tracing::debug;

use super::{ABI, Kind, MAPS, NETNS, Pins, entries, expect, note, remove};

/// Ending of the pins of a start that is not over.
const NEW: &str = "-new";
/// Its inode number is the number of our network namespace.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// A map as the object defines it.
pub(crate) struct Definition {
    pub(crate) name: &'static str,
    pub(crate) kind: u32,
    pub(crate) key: u32,
    pub(crate) value: u32,
    pub(crate) entries: u32,
    pub(crate) flags: u32,
}

/// A map that an agent before had and that this one cannot take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anew {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub why: String,
    /// What that means, in a word; empty when the agent fills it in again and nothing is lost.
    pub lost: &'static str,
}

/// What a start does with the pinned maps.
#[derive(Debug, Default)]
pub struct Plan {
    /// Maps that go on, and their pins.
    pub adopted: Vec<(&'static str, PathBuf)>,
    /// Maps that were pinned but begin anew.
    pub anew: Vec<Anew>,
    /// ABI of the agent before, if there was one.
    pub abi: Option<u32>,
}

impl Plan {
    /// Whether a map goes on as it is.
    pub fn adopts(&self, name: &str) -> bool {
        self.adopted.iter().any(|&(adopted, _)| adopted == name)
    }

    /// What is lost, as one line each.
    pub fn losses(&self) -> Vec<String> {
        let abi = match self.abi {
            Some(abi) if abi != ABI_VERSION => format!(" (ABI {abi} before, {ABI_VERSION} now)"),
            _ => String::new(),
        };
        self.anew
            .iter()
            .filter(|anew| !anew.lost.is_empty())
            .map(|anew| format!("{}: {}, {}{abi}", anew.lost, anew.name, anew.why))
            .collect()
    }
}

impl Pins {
    /// Compares what is pinned with what the object defines.
    ///
    /// # Errors
    /// A pin is somebody else's, or of another network namespace.
    pub(crate) fn plan(&self, definitions: &[Definition]) -> Result<Plan> {
        plan(&self.dir, definitions)
    }

    /// Pins the maps that are not adopted under names of their own, which [`Self::settle_maps`] makes final. What a start
    /// that was killed left of these is removed.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn pin_new_maps(&self, ebpf: &Ebpf, plan: &Plan) -> Result<()> {
        for (name, path) in entries(&self.dir.join(MAPS))? {
            if name.ends_with(NEW) {
                debug!(
                    "removing {}, which a start that was cut off left",
                    path.display()
                );
                remove(&path)?;
            }
        }
        for kept in KEPT.iter().filter(|kept| !plan.adopts(kept.name)) {
            let map = ebpf
                .map(kept.name)
                .with_context(|| format!("the object has no map {}", kept.name))?;
            let path = new_path(&self.map_path(kept));
            map.pin(&path)
                .with_context(|| format!("{} cannot be pinned", path.display()))?;
        }
        Ok(())
    }

    /// Makes the new maps final, and removes those that nobody uses any more.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn settle_maps(&self) -> Result<()> {
        let mut used = Vec::new();
        for kept in KEPT {
            let path = self.map_path(kept);
            let new = new_path(&path);
            if new.exists() {
                fs::rename(&new, &path)
                    .with_context(|| format!("{} cannot be renamed", new.display()))?;
            }
            used.push(path);
        }
        for (_, path) in entries(&self.dir.join(MAPS))? {
            if !used.contains(&path) {
                remove(&path)?;
            }
        }
        note(&self.dir.join(ABI), &ABI_VERSION.to_string())?;
        note(&self.dir.join(NETNS), &own_netns()?)
    }

    fn map_path(&self, kept: &Kept) -> PathBuf {
        map_path(&self.dir, kept)
    }
}

fn map_path(dir: &Path, kept: &Kept) -> PathBuf {
    dir.join(MAPS)
        .join(format!("{}-{}", kept.name, kept.layout))
}

/// See [`Pins::plan`].
pub(super) fn plan(dir: &Path, definitions: &[Definition]) -> Result<Plan> {
    if let Ok(word) = fs::read_link(dir.join(NETNS)) {
        let own = own_netns()?;
        ensure!(
            word == Path::new(&own),
            "{} belongs to the network namespace {}, and this is {own}; give each namespace an instance of its own with \
             `--instance`, or, if that namespace is gone, take off what is left of it with `netmoat --instance {} detach`",
            dir.display(),
            word.display(),
            dir.file_name().unwrap_or_default().display()
        );
    }
    let abi = fs::read_link(dir.join(ABI)).ok();
    let mut plan = Plan {
        abi: abi.and_then(|word| word.to_str()?.parse().ok()),
        ..Plan::default()
    };
    let pinned = entries(&dir.join(MAPS))?;
    for kept in KEPT {
        let path = map_path(dir, kept);
        let definition = definitions
            .iter()
            .find(|d| d.name == kept.name)
            .with_context(|| format!("the object has no map {}", kept.name))?;
        let why = if expect(&path, Kind::Map)? {
            match difference(definition, &path)? {
                None => {
                    plan.adopted.push((kept.name, path));
                    continue;
                }
                Some(why) => why,
            }
        } else {
            let other = pinned
                .iter()
                .filter_map(|(name, _)| name.rsplit_once('-'))
                .find(|&(name, _)| name == kept.name);
            match other {
                Some((_, layout)) => {
                    format!("whose layout is {} and was {layout}", kept.layout)
                }
                // A map that no agent before had.
                None => continue,
            }
        };
        plan.anew.push(Anew {
            name: kept.name,
            why,
            lost: kept.lost,
        });
    }
    Ok(plan)
}

fn new_path(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW);
    new.into()
}

fn own_netns() -> Result<String> {
    let found = fs::metadata(OWN_NETNS)
        .with_context(|| format!("{OWN_NETNS} cannot be read: is /proc mounted?"))?;
    Ok(found.ino().to_string())
}

/// In what a pinned map differs from its definition.
fn difference(definition: &Definition, path: &Path) -> Result<Option<String>> {
    let info = MapInfo::from_pin(path)
        .with_context(|| format!("{} does not tell what it is", path.display()))?;
    let differs = [
        ("type", definition.kind, info.map_type()? as u32),
        ("octets of a key", definition.key, info.key_size()),
        ("octets of a value", definition.value, info.value_size()),
        ("number of entries", definition.entries, info.max_entries()),
        ("flags", definition.flags, info.map_flags()),
    ]
    .into_iter()
    .find(|(_, wanted, found)| wanted != found);
    Ok(differs.map(|(what, wanted, found)| format!("whose {what} is {wanted} and was {found}")))
}
