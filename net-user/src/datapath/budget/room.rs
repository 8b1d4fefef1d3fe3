//! How much memory is left: of the machine, and of the control group.

use std::{
    fs,
    path::{Path, PathBuf},
};

use procfs::{Current as _, Meminfo, ProcessCGroups, process::Process};
use serde::Serialize;

/// Memory that is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Room {
    /// Octets of `MemAvailable` in `/proc/meminfo`; null where it cannot be read.
    pub available: Option<u64>,
    /// Octets until the tightest `memory.max` of the control group and those above it, pages of files not counted since
    /// the kernel can take them back; null without a limit, or where control groups of version 2 are not mounted.
    pub group: Option<u64>,
}

impl Room {
    /// As it is now.
    pub fn read() -> Self {
        Self {
            available: Meminfo::current().ok().and_then(|info| info.mem_available),
            group: group_path().and_then(|(root, path)| of_group(&root, &path)),
        }
    }

    /// The lesser of both, octets, and where it is from.
    pub fn least(&self) -> Option<(u64, &'static str)> {
        let available = self.available.map(|octets| (octets, "MemAvailable"));
        let group = self
            .group
            .map(|octets| (octets, "memory.max of the control group"));
        available.into_iter().chain(group).min()
    }
}

/// Where control groups of version 2 are mounted, and this process's group below.
fn group_path() -> Option<(PathBuf, PathBuf)> {
    let process = Process::myself().ok()?;
    let ProcessCGroups(groups) = process.cgroups().ok()?;
    let own = groups.into_iter().find(|group| group.hierarchy == 0)?;
    let mounts = process.mountinfo().ok()?;
    let mount = mounts
        .into_iter()
        .find(|mount| mount.fs_type == "cgroup2")?;
    // A container may see the part below its own group, under a path that begins there.
    let below = own
        .pathname
        .strip_prefix(&mount.root)
        .unwrap_or(&own.pathname);
    let path = mount.mount_point.join(below.trim_start_matches('/'));
    Some((mount.mount_point, path))
}

/// The least that is left in a group and those above it, up to `root`; `None` where none has a limit.
fn of_group(root: &Path, group: &Path) -> Option<u64> {
    group
        .ancestors()
        .take_while(|path| path.starts_with(root))
        .filter_map(left)
        .min()
}

fn left(group: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    // "max" for no limit.
    let most: u64 = read("memory.max")?.trim().parse().ok()?;
    let current: u64 = read("memory.current")?.trim().parse().ok()?;
    let files = read("memory.stat").map_or(0, |text| of_files(&text));
    Some(most.saturating_sub(current.saturating_sub(files)))
}

/// Octets of pages of files in `memory.stat`.
fn of_files(text: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter(|(name, _)| matches!(*name, "active_file" | "inactive_file"))
        .filter_map(|(_, octets)| octets.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(path: &Path, max: &str, current: &str, stat: &str) {
        fs::create_dir_all(path).unwrap();
        for (name, text) in [
            ("memory.max", max),
            ("memory.current", current),
            ("memory.stat", stat),
        ] {
            fs::write(path.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_on_the_way_up_decides() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let unit = root.join("system.slice/netmoat.service");
        group(&unit, "max\n", "1000\n", "anon 1000\n");
        assert_eq!(of_group(root, &unit), None);
        let stat = "anon 300\nactive_file 150\ninactive_file 50\n";
        group(&root.join("system.slice"), "5000\n", "500\n", stat);
        assert_eq!(of_group(root, &unit), Some(4700));
        group(&unit, "2000\n", "1500\n", "anon 1500\n");
        assert_eq!(of_group(root, &unit), Some(500));
        group(&unit, "1000\n", "1500\n", "anon 1500\n");
        assert_eq!(of_group(root, &unit), Some(0));
    }

    #[test]
    fn the_lesser_of_machine_and_group_counts() {
        let room = |available, group| Room { available, group };
        assert_eq!(room(None, None).least(), None);
        assert_eq!(room(Some(5), None).least().unwrap().0, 5);
        assert_eq!(room(Some(5), Some(9)).least().unwrap(), (5, "MemAvailable"));
        assert_eq!(room(Some(5), Some(4)).least().unwrap().0, 4);
    }

    #[test]
    fn this_machine_tells_what_is_available() {
        assert!(Room::read().available.is_some_and(|octets| octets > 0));
    }
}
