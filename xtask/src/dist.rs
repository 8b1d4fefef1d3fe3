//! `cargo xtask dist`: what netmoat is installed from.

mod build;
mod check;
mod deb;
mod rpm;
mod sbom;
mod stage;
mod tarball;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{packages, process, setup};

/// Build the .deb, the .rpm and the static tarball, with a list of what is in them
///
/// All three come from one tree of files, each packed by its distribution's own tool (dpkg-deb, rpmbuild, tar).
/// They lie in target/dist/ with netmoat.cdx.json, the list of dependencies (CycloneDX), and SHA256SUMS. The same
/// commit gives the same bytes on the same machine.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask dist              target/dist/
  cargo xtask dist --check      then install, run, upgrade and purge them in a test root (root)")]
pub struct Args {
    /// Then try the packages in a Debian system of their own below target/
    #[arg(long)]
    check: bool,
    /// Pack the binaries that the last run built, for work on the packages themselves
    #[arg(long)]
    no_build: bool,
}

/// What is packed, in words of every package format.
#[derive(Clone)]
struct Release {
    version: String,
    /// Time of the commit in seconds since 1970: that of every file.
    epoch: String,
    arch: Arch,
}

/// An architecture by its names.
#[derive(Clone, Copy)]
struct Arch {
    /// As in Rust's target triple and in RPM.
    rust: &'static str,
    debian: &'static str,
}

const ARCHES: [Arch; 2] = [
    Arch {
        rust: "x86_64",
        debian: "amd64",
    },
    Arch {
        rust: "aarch64",
        debian: "arm64",
    },
];

pub fn run(args: &Args) -> Result<()> {
    if args.check {
        process::require_root("dist --check", "it installs packages in a root of its own")?;
    }
    setup::ensure(setup::Scope::Toolchain)?;
    setup::ensure_tools(&packages::DIST_TOOLS)?;

    let metadata = build::metadata()?;
    let release = Release::of_workspace(&metadata)?;
    let dist = metadata.target_directory.join("dist");
    let _ = fs::remove_dir_all(&dist);
    fs::create_dir_all(&dist).with_context(|| dist.display().to_string())?;

    let sbom = dist.join("netmoat.cdx.json");
    sbom::write(&metadata, &sbom)?;
    let binaries = build::binaries(&metadata);
    if !args.no_build {
        build::build(&release)?;
    }
    let work = Work::new(metadata.target_directory.join("dist-work"))?;

    let tree = stage::stage(&work.folder("dynamic")?, &binaries.dynamic, &sbom)?;
    let deb = deb::pack(&tree, &release, &work.folder("deb")?, &dist)?;
    let rpm = rpm::pack(&tree, &release, &work.folder("rpm")?, &dist)?;
    let static_tree = stage::stage(&work.folder("static")?, &binaries.fixed, &sbom)?;
    let tarball = tarball::pack(&static_tree, &release, &work.folder("tarball")?, &dist)?;
    let products = [deb, rpm, tarball, sbom];
    sums(&dist, &products)?;
    for product in &products {
        let size = fs::metadata(product)?.len() >> 10;
        eprintln!("dist: {} ({size} KiB)", product.display());
    }
    if args.check {
        let [deb, rpm, tarball, _] = &products;
        let newer = Release {
            version: format!("{}.1", release.version),
            ..release.clone()
        };
        let newer = deb::pack(&tree, &newer, &work.folder("newer")?, &work.0)?;
        check::run(&check::Packages {
            release: &release,
            deb,
            newer: &newer,
            rpm,
            tarball,
            static_tree: &static_tree,
            work: &work.0,
        })?;
    }
    Ok(())
}

impl Release {
    fn of_workspace(metadata: &build::Metadata) -> Result<Self> {
        let machine = std::env::consts::ARCH;
        let Some(arch) = ARCHES.into_iter().find(|arch| arch.rust == machine) else {
            bail!("packages are made on x86_64 and aarch64; this machine is {machine}");
        };
        Ok(Self {
            version: metadata.package("net-user")?.version.clone(),
            epoch: epoch()?,
            arch,
        })
    }
}

/// Of the commit; of a source archive without git, SOURCE_DATE_EPOCH or the lock file's time.
fn epoch() -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let workspace = process::workspace_root();
    let mut git = Command::new("git");
    git.current_dir(&workspace)
        .args(["log", "-1", "--format=%ct"]);
    if workspace.join(".git").exists()
        && let Some(epoch) = process::output_of(&mut git)
    {
        return Ok(epoch.trim().into());
    }
    let lock = fs::metadata(workspace.join("Cargo.lock"))?;
    let age = lock.modified()?.duration_since(std::time::UNIX_EPOCH)?;
    Ok(age.as_secs().to_string())
}

/// Where packages are put together; anew each time.
struct Work(PathBuf);

impl Work {
    fn new(path: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

/// SHA256SUMS beside the products, as `sha256sum --check` reads it.
fn sums(dist: &Path, products: &[PathBuf]) -> Result<()> {
    let mut command = Command::new("sha256sum");
    command
        .current_dir(dist)
        .args(products.iter().filter_map(|product| product.file_name()));
    let sums = process::output_of(&mut command).context("sha256sum failed")?;
    let file = dist.join("SHA256SUMS");
    fs::write(&file, sums).with_context(|| file.display().to_string())
}
