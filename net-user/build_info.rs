//! What `netmoat version` says of the build, handed to the compiler as environment variables.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// `git archive` writes commit and date into it; in a checkout it holds only the placeholders.
const ARCHIVED: &str = "net-user/commit.txt";

/// Sets `NETMOAT_COMMIT`, `NETMOAT_COMMIT_DATE` (both empty when unknown), `NETMOAT_RUSTC` and
/// `NETMOAT_TARGET` for the crate.
///
/// The commit comes from the environment (packagers), from a source archive, or from git. Git is asked for
/// release builds only: a development build would be compiled again after every commit.
pub fn tell(workspace: &Path) {
    let archived = workspace.join(ARCHIVED);
    println!("cargo::rerun-if-changed={}", archived.display());
    for name in ["NETMOAT_COMMIT", "NETMOAT_COMMIT_DATE"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let (commit, date) = from_environment()
        .or_else(|| from_archive(&archived))
        .or_else(|| release.then(|| from_git(workspace)).flatten())
        .unwrap_or_default();
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = output(Command::new(rustc).arg("--version")).unwrap_or_else(|| "unknown".into());
    let target = env::var("TARGET").expect("cargo sets it");
    for (name, value) in [
        ("NETMOAT_COMMIT", commit),
        ("NETMOAT_COMMIT_DATE", date),
        ("NETMOAT_RUSTC", rustc),
        ("NETMOAT_TARGET", target),
    ] {
        println!("cargo::rustc-env={name}={value}");
    }
}

fn from_environment() -> Option<(String, String)> {
    let commit = env::var("NETMOAT_COMMIT").ok()?;
    Some((commit, env::var("NETMOAT_COMMIT_DATE").unwrap_or_default()))
}

fn from_archive(file: &Path) -> Option<(String, String)> {
    let text = fs::read_to_string(file).ok()?;
    let (commit, date) = text.trim().split_once(' ')?;
    (!commit.starts_with('$')).then(|| (commit.into(), date.into()))
}

/// The commit that is checked out, with `-modified` when files differ from it.
fn from_git(workspace: &Path) -> Option<(String, String)> {
    let git =
        |arguments: &[&str]| output(Command::new("git").current_dir(workspace).args(arguments));
    // An unpacked source archive may lie in somebody else's repository.
    let root = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    if root.canonicalize().ok()? != workspace.canonicalize().ok()? {
        return None;
    }
    // The log of HEAD changes with every commit and checkout; the sources decide whether it is modified.
    let logs = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    for input in [workspace.join(logs), workspace.join("net-user")] {
        if input.exists() {
            println!("cargo::rerun-if-changed={}", input.display());
        }
    }
    let mut commit = git(&["rev-parse", "HEAD"])?;
    let date = git(&["show", "--no-patch", "--format=%cs", "HEAD"])?;
    if git(&["status", "--porcelain", "--untracked-files=no"])
        .is_none_or(|changed| !changed.is_empty())
    {
        commit.push_str("-modified");
    }
    Some((commit, date))
}

/// What a program prints, without the last newline; `None` when it is missing or fails.
fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim_end().into())
}
