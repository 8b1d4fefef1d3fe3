//! The binaries, and what cargo knows of the workspace.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Release;
use crate::{cargo_tools, process};

/// Of `cargo metadata`, what packaging needs.
#[derive(Deserialize)]
pub struct Metadata {
    pub packages: Vec<Package>,
    pub resolve: Resolve,
    pub target_directory: PathBuf,
}

#[derive(Deserialize)]
pub struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    pub license: Option<String>,
    /// None of a package of this workspace.
    pub source: Option<String>,
    pub targets: Vec<Target>,
}

#[derive(Deserialize)]
pub struct Target {
    pub kind: Vec<String>,
}

#[derive(Deserialize)]
pub struct Resolve {
    pub nodes: Vec<Node>,
}

/// A package with what it depends on, for the features in use.
#[derive(Deserialize)]
pub struct Node {
    pub id: String,
    pub deps: Vec<Dependency>,
}

#[derive(Deserialize)]
pub struct Dependency {
    pub pkg: String,
    pub dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
pub struct Kind {
    /// None of an ordinary one; `dev`, `build`.
    pub kind: Option<String>,
}

impl Metadata {
    pub fn package(&self, name: &str) -> Result<&Package> {
        let mut packages = self.packages.iter();
        packages
            .find(|package| package.name == name && package.source.is_none())
            .with_context(|| format!("this workspace has no package {name}"))
    }

    pub fn by_id(&self) -> BTreeMap<&str, &Package> {
        let packages = self.packages.iter();
        packages
            .map(|package| (package.id.as_str(), package))
            .collect()
    }
}

pub fn metadata() -> Result<Metadata> {
    let mut cargo = process::host_cargo();
    cargo.args(["metadata", "--format-version", "1", "--locked"]);
    cargo.args(["--filter-platform", &triple()]);
    let text = process::output_of(&mut cargo).context("cargo metadata failed")?;
    serde_json::from_str(&text).context("cargo metadata has another form")
}

/// The one binary, linked in two ways.
pub struct Binaries {
    /// With the host's C library, which its distribution keeps free of known holes: for packages.
    pub dynamic: PathBuf,
    /// With its own: for hosts of any distribution.
    pub fixed: PathBuf,
}

/// Where they lie when they are built.
pub fn binaries(metadata: &Metadata) -> Binaries {
    let built = "release/netmoat";
    Binaries {
        dynamic: metadata.target_directory.join(built),
        fixed: metadata.target_directory.join(triple()).join(built),
    }
}

/// Two release builds; minutes each.
pub fn build(release: &Release) -> Result<()> {
    let triple = triple();
    eprintln!("dist: building netmoat {}", release.version);
    cargo_build(&[], "")?;
    eprintln!("dist: building it again, for {triple} with the C library in it");
    cargo_build(&["--target", &triple], "-C target-feature=+crt-static")
}

/// The musl target would want a C library and linker of its own; glibc links statically with what is here.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn cargo_build(arguments: &[&str], rustflags: &str) -> Result<()> {
    let auditable = cargo_tools::AUDITABLE.ensure()?;
    let mut cargo = std::process::Command::new(auditable);
    cargo.current_dir(process::workspace_root());
    cargo.args(["auditable", "build", "--release", "--locked"]);
    cargo
        .args(["--package", "net-user", "--bin", "netmoat"])
        .args(arguments);
    cargo.env("RUSTFLAGS", rustflags);
    process::run(&mut cargo)
}
