//! The tree of files that every package holds, as it will lie on a host.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::process;

/// The one file that belongs to the operator once it is there.
pub const CONFIG: &str = "etc/netmoat/netmoat.toml";
/// Where the program lies.
pub const PROGRAM: &str = "usr/sbin/netmoat";
/// Documentation, with the examples of `contrib`.
pub const DOC: &str = "usr/share/doc/netmoat";

/// What comes from the sources as it is.
const FILES: [(&str, &str); 11] = [
    ("contrib/netmoat.toml", CONFIG),
    (
        "contrib/systemd/netmoat.service",
        "usr/lib/systemd/system/netmoat.service",
    ),
    (
        "contrib/systemd/netmoat@.service",
        "usr/lib/systemd/system/netmoat@.service",
    ),
    (
        "contrib/systemd/netmoat.socket",
        "usr/lib/systemd/system/netmoat.socket",
    ),
    (
        "contrib/systemd/sysusers.conf",
        "usr/lib/sysusers.d/netmoat.conf",
    ),
    (
        "contrib/systemd/tmpfiles.conf",
        "usr/lib/tmpfiles.d/netmoat.conf",
    ),
    ("packaging/copyright", "usr/share/doc/netmoat/copyright"),
    ("LICENSE-MIT", "usr/share/doc/netmoat/LICENSE-MIT"),
    ("LICENSE-APACHE", "usr/share/doc/netmoat/LICENSE-APACHE"),
    ("README.md", "usr/share/doc/netmoat/README.md"),
    ("CHANGELOG.md", "usr/share/doc/netmoat/CHANGELOG.md"),
];

/// What the program itself knows: arguments, and the file for what it prints.
const PRINTED: [([&str; 2], &str); 3] = [
    (
        ["completions", "bash"],
        "usr/share/bash-completion/completions/netmoat",
    ),
    (
        ["completions", "zsh"],
        "usr/share/zsh/vendor-completions/_netmoat",
    ),
    (
        ["completions", "fish"],
        "usr/share/fish/vendor_completions.d/netmoat.fish",
    ),
];

/// A tree below `root`, and its files by their paths there, sorted.
pub struct Tree {
    pub root: PathBuf,
    pub files: Vec<String>,
}

/// Fills the empty directory `root`.
pub fn stage(root: &Path, binary: &Path, sbom: &Path) -> Result<Tree> {
    let workspace = process::workspace_root();
    for (from, to) in FILES {
        copy(&workspace.join(from), &root.join(to))?;
    }
    copy(sbom, &root.join(DOC).join("netmoat.cdx.json"))?;
    examples(&workspace.join("contrib"), &root.join(DOC).join("examples"))?;

    let program = root.join(PROGRAM);
    copy(binary, &program)?;
    // What debuggers need goes; the names of functions stay, for backtraces in reports.
    process::run(Command::new("strip").arg("--strip-debug").arg(&program))?;

    for (arguments, to) in PRINTED {
        let text = process::output_of(Command::new(&program).args(arguments));
        let text = text.with_context(|| format!("netmoat {} failed", arguments.join(" ")))?;
        ensure!(!text.is_empty(), "netmoat {} is empty", arguments.join(" "));
        let to = root.join(to);
        parent(&to)?;
        fs::write(&to, text).with_context(|| to.display().to_string())?;
    }
    let man = root.join("usr/share/man/man8");
    process::run(Command::new(&program).arg("man").arg(&man))?;
    let pages = walk(&man)?;
    process::run(
        Command::new("gzip")
            .current_dir(&man)
            .arg("-9n")
            .args(&pages),
    )?;

    let files = walk(root)?;
    modes(root, &files)?;
    Ok(Tree {
        root: root.into(),
        files,
    })
}

/// All of `contrib` that has no place of its own: the dashboard, alert rules.
fn examples(contrib: &Path, to: &Path) -> Result<()> {
    for file in walk(contrib)? {
        if !file.starts_with("systemd/") && file != "netmoat.toml" {
            copy(&contrib.join(&file), &to.join(&file))?;
        }
    }
    Ok(())
}

fn parent(file: &Path) -> Result<()> {
    let directory = file.parent().context("a file lies in a directory")?;
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    parent(to)?;
    fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}

/// The paths of all files below `root`, sorted.
pub fn walk(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
                continue;
            }
            let path = entry.path();
            let path = path.strip_prefix(root)?;
            files.push(path.to_str().context("file names are UTF-8")?.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// The same modes whatever umask and checkout gave: directories and the program 0755, files 0644.
fn modes(root: &Path, files: &[String]) -> Result<()> {
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .with_context(|| path.display().to_string())
    };
    for file in files {
        let path = root.join(file);
        set(&path, if file == PROGRAM { 0o755 } else { 0o644 })?;
        for directory in path.ancestors().skip(1) {
            set(directory, 0o755)?;
            if directory == root {
                break;
            }
        }
    }
    Ok(())
}
