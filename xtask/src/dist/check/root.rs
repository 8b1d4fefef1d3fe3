//! A small Debian system below `target/`, in namespaces that end with this process.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::{packages, process};

/// Changes with every package, whatever the package does.
const BOOKS: [&str; 7] = [
    "var/lib/dpkg",
    "var/lib/rpm",
    "usr/lib/sysimage",
    "var/log",
    "var/cache",
    // Copies that tools make before they change a file.
    "etc/group-",
    "etc/gshadow-",
];

/// Its packages: systemd for sysusers, tmpfiles and units; what netmoat recommends.
const INCLUDED: &str = "systemd,nftables";

/// The system as a tar file, made at the first use.
pub fn tarball(directory: &Path) -> Result<PathBuf> {
    let suite = suite()?;
    let tarball = directory.join(format!("dist-root-{suite}.tar"));
    if tarball.exists() {
        return Ok(tarball);
    }
    eprintln!("dist: making a system to try the packages in ({suite}, 190 MB, some minutes)");
    let part = tarball.with_extension("part.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]);
    command
        .arg(format!("--include={INCLUDED}"))
        .arg(&suite)
        .arg(&part);
    process::run(&mut command)?;
    fs::rename(&part, &tarball).with_context(|| tarball.display().to_string())?;
    Ok(tarball)
}

/// The packages fit the C library that they were built with, or a later one.
fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let value = |key: &str| release.lines().find_map(|line| line.strip_prefix(key));
    ensure!(
        value("ID=") == Some("debian") && packages::has_apt(),
        "packages are tried on Debian only, as they are in a system like the host's"
    );
    let suite = value("VERSION_CODENAME=").context("/etc/os-release has no VERSION_CODENAME")?;
    Ok(suite.into())
}

/// From here on this process has mounts and network of its own: whatever happens, the host keeps none of them.
pub fn enter_namespaces() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("namespaces of our own")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("making mounts private")
}

/// The unpacked system, mounts included; gone when dropped.
pub struct Root(pub PathBuf);

/// Source, target and kind of what a program finds there; sysfs is of the network namespace.
const MOUNTS: [(&str, &str); 3] = [("proc", "proc"), ("sysfs", "sys"), ("bpf", "sys/fs/bpf")];

impl Root {
    pub fn unpack(tarball: &Path, path: &Path) -> Result<Self> {
        fs::create_dir(path).with_context(|| path.display().to_string())?;
        let root = Self(path.into());
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--file").arg(tarball);
        process::run(tar.arg("--directory").arg(path))?;
        for (kind, target) in MOUNTS {
            let target = path.join(target);
            let data = (kind == "bpf").then_some("mode=0700");
            mount(Some(kind), &target, Some(kind), MsFlags::empty(), data)
                .with_context(|| format!("mounting {kind} on {}", target.display()))?;
        }
        Ok(root)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.path(path)).with_context(|| path.to_owned())
    }

    /// A command of that system, with its own PATH.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.0).arg(program).args(arguments);
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        process::run(
            self.command(program, arguments)
                .stdout(std::process::Stdio::null()),
        )
    }

    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(program, arguments);
        process::output_of(&mut command)
            .with_context(|| format!("{} failed", process::display(&command)))
    }

    pub fn install_deb(&self, deb: &Path) -> Result<()> {
        let inside = self.path("netmoat.deb");
        fs::copy(deb, &inside).with_context(|| deb.display().to_string())?;
        // A downgrade is asked for, and told with a warning.
        self.run("dpkg", &["--install", "/netmoat.deb"])?;
        fs::remove_file(&inside)?;
        Ok(())
    }

    pub fn has_mode(&self, path: &str, wanted: u32) -> Result<()> {
        let metadata = fs::metadata(self.path(path)).with_context(|| path.to_owned())?;
        let found = metadata.permissions().mode() & 0o7777;
        ensure!(found == wanted, "{path} has mode {found:o}, not {wanted:o}");
        Ok(())
    }

    /// Every file and directory but those of mounts and of the package managers' books.
    pub fn files(&self) -> Result<BTreeSet<String>> {
        let mut files = BTreeSet::new();
        let mut open = vec![self.0.clone()];
        while let Some(directory) = open.pop() {
            for entry in
                fs::read_dir(&directory).with_context(|| directory.display().to_string())?
            {
                let entry = entry?;
                let path = entry.path();
                let name = path.strip_prefix(&self.0)?.display().to_string();
                let mounted = MOUNTS.iter().any(|(_, target)| name == *target);
                if mounted || BOOKS.contains(&name.as_str()) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    open.push(path);
                }
                files.insert(name);
            }
        }
        Ok(files)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for (_, target) in MOUNTS.iter().rev() {
            // What never was mounted cannot be taken off.
            let _ = umount2(&self.path(target), MntFlags::MNT_DETACH);
        }
        // Never into a mount that is still there.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        if !mounts.contains(&self.0.display().to_string()) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
