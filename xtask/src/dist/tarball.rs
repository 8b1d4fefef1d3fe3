//! The tarball for hosts without dpkg or rpm: the program with its C library, and all the other files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{Release, stage::Tree};
use crate::process;

/// Packs the tree; `work` is an empty directory. Returns the tarball in `to`.
pub fn pack(tree: &Tree, release: &Release, work: &Path, to: &Path) -> Result<PathBuf> {
    let name = format!("netmoat-{}-{}-linux", release.version, release.arch.rust);
    let root = work.join(&name);
    process::run(Command::new("cp").arg("-a").arg(&tree.root).arg(&root))?;
    let install = process::workspace_root().join("packaging/INSTALL.md");
    fs::copy(&install, root.join("INSTALL.md")).with_context(|| install.display().to_string())?;
    let tarball = to.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    // The same bytes for the same commit.
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.arg(format!("--mtime=@{}", release.epoch));
    tar.args(["--use-compress-program", "gzip -9n", "--create", "--file"]);
    tar.arg(&tarball).arg("--directory").arg(work).arg(&name);
    process::run(&mut tar)?;
    Ok(tarball)
}
