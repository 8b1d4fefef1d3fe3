//! A netmoat of another ABI, for the tests of upgrade and downgrade: this one's sources with a few words changed.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{ebpf::Toolchain, process};

/// What is copied.
const SOURCES: [&str; 7] = [
    "Cargo.lock",
    "Cargo.toml",
    "contrib",
    "net-common",
    "net-ebpf",
    "net-user",
    "xtask/src/ebpf.rs",
];

/// A file, what stands in it, and what stands there in the copy.
const CHANGES: [(&str, &str, &str); 7] = [
    (
        "Cargo.toml",
        "\"net-ebpf\", \"net-user\", \"tests\", \"xtask\"]",
        "\"net-ebpf\", \"net-user\"]",
    ),
    (
        "Cargo.toml",
        "default-members = [\"net-common\", \"net-user\", \"tests\", \"xtask\"]",
        "default-members = [\"net-common\", \"net-user\"]",
    ),
    (
        "Cargo.toml",
        "\nversion = \"0.1.0\"",
        "\nversion = \"0.2.0-next\"",
    ),
    (
        "net-user/Cargo.toml",
        "name = \"netmoat\"",
        "name = \"netmoat-next\"",
    ),
    (
        "net-common/src/abi.rs",
        "ABI_VERSION: u32 = 6;",
        "ABI_VERSION: u32 = 7;",
    ),
    (
        "net-common/src/abi/layout.rs",
        "kept(\"SEEN\", 1,",
        "kept(\"SEEN\", 2,",
    ),
    (
        "net-common/src/abi.rs",
        "SEEN_CELLS: u32 = 32_768;",
        "SEEN_CELLS: u32 = 16_384;",
    ),
];

/// Builds `netmoat-next` beside `netmoat`. Third-party crates are shared with it.
///
/// # Errors
/// A change no longer fits the sources, or the build fails.
pub fn build() -> Result<()> {
    eprintln!("test: a netmoat of another ABI, for upgrades and downgrades");
    let workspace = process::workspace_root();
    let copy = workspace.join("target/netmoat/next");
    let mut files = Vec::new();
    for source in SOURCES {
        list(&workspace.join(source), &mut files)?;
    }
    let mut kept = HashSet::new();
    for file in files {
        let name = file.strip_prefix(&workspace)?;
        write(&copy.join(name), &changed(name, fs::read(&file)?)?)?;
        kept.insert(copy.join(name));
    }
    let toolchain = Toolchain::file(&copy);
    write(&toolchain, &fs::read(Toolchain::file(&workspace))?)?;
    // What was renamed would be built on.
    let mut found = Vec::new();
    for source in SOURCES {
        list(&copy.join(source), &mut found)?;
    }
    for file in found.iter().filter(|file| !kept.contains(*file)) {
        fs::remove_file(file).with_context(|| file.display().to_string())?;
    }
    process::run(
        process::host_cargo()
            .args(["build", "--bin", "netmoat-next", "--manifest-path"])
            .arg(copy.join("Cargo.toml"))
            .arg("--target-dir")
            .arg(process::target_dir()),
    )
}

/// A file's text as the copy has it.
fn changed(name: &Path, octets: Vec<u8>) -> Result<Vec<u8>> {
    let changes = CHANGES.iter().filter(|(file, ..)| Path::new(file) == name);
    let mut changes = changes.peekable();
    if changes.peek().is_none() {
        return Ok(octets);
    }
    let mut text = String::from_utf8(octets).with_context(|| name.display().to_string())?;
    for (file, old, new) in changes {
        let found = text.matches(old).count();
        ensure!(
            found == 1,
            "{file} has {old:?} {found} times and not once: bring the changes in xtask/src/next.rs up to date"
        );
        text = text.replace(old, new);
    }
    Ok(text.into_bytes())
}

/// Every file at or below a path; none where there is nothing.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            list(&entry?.path(), files)?;
        }
    } else if path.exists() {
        files.push(path.to_owned());
    }
    Ok(())
}

/// What is the same keeps its time, or it would be built again.
fn write(path: &Path, octets: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == octets) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, octets).with_context(|| path.display().to_string())
}
