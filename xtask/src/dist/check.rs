//! `cargo xtask dist --check`: the packages installed, run, upgraded and purged in a Debian system of their own.

mod agent;
mod root;

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail, ensure};

use self::{agent::Agent, root::Root};
use super::{
    Release,
    stage::{CONFIG, PROGRAM, Tree},
};
use crate::process;

/// What is tried.
pub struct Packages<'a> {
    pub release: &'a Release,
    pub deb: &'a Path,
    /// The same with a higher version.
    pub newer: &'a Path,
    pub rpm: &'a Path,
    pub tarball: &'a Path,
    pub static_tree: &'a Tree,
    /// For the test root.
    pub work: &'a Path,
}

/// Tries one of them in a fresh system.
type Step = fn(&Packages, &Root) -> Result<()>;

/// The interface that the agent under test protects, and the other end of its cable.
const INTERFACE: &str = "moat0";
const PEER: &str = "moat1";

/// What a line added by the operator looks like.
const EDITED: &str = "# Edited by the operator.\n";

pub fn run(packages: &Packages) -> Result<()> {
    let tarball = root::tarball(&process::workspace_root().join("target/netmoat"))?;
    let steps: [(&str, Step); 3] = [
        (
            "Debian package: installed, run, upgraded, removed, purged",
            debian,
        ),
        ("RPM: installed, erased", rpm),
        ("tarball: runs where no library is", alone),
    ];
    root::enter_namespaces()?;
    process::run(
        Command::new("ip").args(["link", "add", INTERFACE, "type", "veth", "peer", PEER]),
    )?;
    for end in [INTERFACE, PEER, "lo"] {
        process::run(Command::new("ip").args(["link", "set", end, "up"]))?;
    }
    for (index, (title, step)) in steps.into_iter().enumerate() {
        let begun = Instant::now();
        let root = Root::unpack(&tarball, &packages.work.join(format!("root{index}")))?;
        step(packages, &root).with_context(|| title.to_owned())?;
        eprintln!("dist: {title}: passed in {} s", begun.elapsed().as_secs());
    }
    Ok(())
}

fn debian(packages: &Packages, root: &Root) -> Result<()> {
    let before = root.files()?;
    let groups = root.read("etc/group")?;

    root.install_deb(packages.deb)?;
    let version = &packages.release.version;
    let said = root.output("netmoat", &["-V"])?;
    ensure!(
        said.trim() == format!("netmoat {version}"),
        "netmoat -V says {said}"
    );
    ensure!(
        root.read("etc/group")?.contains("\nnetmoat:"),
        "no group netmoat was made"
    );
    root.has_mode("var/lib/netmoat", 0o700)?;
    root.has_mode("run/netmoat", 0o750)?;
    root.has_mode(PROGRAM, 0o755)?;
    root.run("dpkg", &["--verify", "netmoat"])?;
    units(root)?;
    completes(root)?;
    pages(root)?;

    // The operator's change outlives an upgrade; an agent that runs is not disturbed by it.
    let config = root.path(CONFIG);
    let text = fs::read_to_string(&config)?.replace("\"eth0\"", &format!("\"{INTERFACE}\""));
    ensure!(
        text.contains(INTERFACE),
        "the config that is shipped names no interface to replace"
    );
    fs::write(&config, text + EDITED)?;
    root.run("netmoat", &["check"])?;
    let agent = Agent::start(root, INTERFACE)?;
    let attached = agent::program_on(INTERFACE)?.context("the agent attached nothing")?;
    root.install_deb(packages.newer)?;
    ensure!(
        root.read(CONFIG)?.ends_with(EDITED),
        "the upgrade replaced the operator's config"
    );
    ensure!(
        agent::program_on(INTERFACE)? == Some(attached),
        "the upgrade took the programs off"
    );
    let found = root.output("dpkg-query", &["--show", "netmoat"])?;
    ensure!(
        found.trim() == format!("netmoat\t{version}.1-1"),
        "after the upgrade: {found}"
    );

    // The agent of before ends, that of the new package starts: what it left in force is there all the while.
    agent.stop()?;
    let kept = root.path("sys/fs/bpf/netmoat/default").is_dir();
    ensure!(
        agent::program_on(INTERFACE)?.is_some() == kept,
        "pinned: {kept}, but the programs are as if not"
    );
    let agent = Agent::start(root, INTERFACE)?;
    ensure!(
        agent::program_on(INTERFACE)?.is_some(),
        "the new agent attached nothing"
    );
    agent.stop()?;

    // Back again.
    root.install_deb(packages.deb)?;
    let agent = Agent::start(root, INTERFACE)?;
    agent.stop()?;

    root.run("dpkg", &["--remove", "netmoat"])?;
    ensure!(
        agent::program_on(INTERFACE)?.is_none(),
        "removal left a program on {INTERFACE}"
    );
    let pins = root.path("sys/fs/bpf/netmoat/default");
    ensure!(!pins.exists(), "removal left {}", pins.display());
    ensure!(!root.path(PROGRAM).exists(), "removal left {PROGRAM}");
    ensure!(
        root.read(CONFIG)?.ends_with(EDITED),
        "removal took the config away"
    );

    root.run("dpkg", &["--purge", "netmoat"])?;
    nothing_left(&before, &root.files()?)?;
    ensure!(
        root.read("etc/group")? == groups,
        "the purge left the group"
    );
    Ok(())
}

fn rpm(packages: &Packages, root: &Root) -> Result<()> {
    let before = root.files()?;
    let package = packages.rpm.to_str().context("its path is UTF-8")?;
    let path = root.0.to_str().context("its path is UTF-8")?;
    // That system's packages are dpkg's: rpm does not know its libraries.
    let rpm = |arguments: &[&str]| {
        process::run(
            Command::new("rpm")
                .args(["--root", path, "--nodeps"])
                .args(arguments),
        )
    };
    rpm(&["--install", package])?;
    let said = root.output("netmoat", &["-V"])?;
    ensure!(
        said.trim() == format!("netmoat {}", packages.release.version),
        "netmoat -V says {said}"
    );
    ensure!(
        root.read("etc/group")?.contains("\nnetmoat:"),
        "no group netmoat was made"
    );
    root.has_mode("var/lib/netmoat", 0o700)?;
    units(root)?;
    Agent::start(root, INTERFACE)?.stop()?;
    rpm(&["--erase", "netmoat"])?;
    ensure!(
        agent::program_on(INTERFACE)?.is_none(),
        "removal left a program on {INTERFACE}"
    );
    // RPM knows no purge: state and group stay, as its packages have it.
    for kept in ["var/lib/netmoat", "run/netmoat"] {
        fs::remove_dir_all(root.path(kept)).with_context(|| kept.to_owned())?;
    }
    nothing_left(&before, &root.files()?)
}

/// In an empty directory, with no loader, library or shell.
fn alone(packages: &Packages, root: &Root) -> Result<()> {
    process::run(
        Command::new("tar")
            .args(["--strip-components=1", "--extract", "--file"])
            .arg(packages.tarball)
            .arg("--directory")
            .arg(root.path("opt")),
    )?;
    for file in &packages.static_tree.files {
        ensure!(
            root.path("opt").join(file).exists(),
            "the tarball lacks {file}"
        );
    }
    let empty = root.path("empty");
    fs::create_dir(&empty)?;
    fs::copy(root.path("opt").join(PROGRAM), empty.join("netmoat"))?;
    let mut netmoat = Command::new("chroot");
    netmoat.arg(&empty).args(["/netmoat", "version"]);
    let said =
        process::output_of(&mut netmoat).context("the static program does not start alone")?;
    ensure!(
        said.contains(", static"),
        "the tarball's program was built otherwise: {said}"
    );

    // And as the instructions have it.
    for top in ["*/usr", "*/etc"] {
        process::run(
            Command::new("tar")
                .arg("-xzf")
                .arg(packages.tarball)
                .arg("-C")
                .arg(root.path(""))
                .args([
                    "--strip-components=1",
                    "--no-same-owner",
                    "--no-overwrite-dir",
                ])
                .args(["--keep-directory-symlink", "--wildcards", top]),
        )?;
    }
    root.run("systemd-sysusers", &["netmoat.conf"])?;
    root.run("systemd-tmpfiles", &["--create", "netmoat.conf"])?;
    Agent::start(root, INTERFACE)?.stop()?;
    agent::detach(root)
}

/// systemd finds no fault in the units.
fn units(root: &Root) -> Result<()> {
    let directory = "/usr/lib/systemd/system/";
    for unit in ["netmoat.service", "netmoat@blue.service", "netmoat.socket"] {
        root.run(
            "systemd-analyze",
            &["verify", "--man=no", &format!("{directory}{unit}")],
        )?;
    }
    Ok(())
}

/// Bash, asked as it asks when Tab is pressed.
fn completes(root: &Root) -> Result<()> {
    let script = "source /usr/share/bash-completion/completions/netmoat
        COMP_WORDS=(netmoat sta) COMP_CWORD=1
        _netmoat netmoat sta netmoat
        echo \"${COMPREPLY[@]}\"";
    let said = root.output("bash", &["-c", script])?;
    ensure!(
        said.trim() == "status",
        "bash completes `netmoat sta` to {said:?}"
    );
    Ok(())
}

/// Every verb of the help has a page that can be read.
fn pages(root: &Root) -> Result<()> {
    let man = root.path("usr/share/man/man8");
    let help = root.output("netmoat", &["help"])?;
    let verbs: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    ensure!(verbs.len() > 10, "the help lists only {verbs:?}");
    for verb in verbs {
        let page = man.join(format!("netmoat-{verb}.8.gz"));
        let mut zcat = Command::new("gzip");
        let text = process::output_of(zcat.arg("-dc").arg(&page));
        let text = text.with_context(|| format!("no page {}", page.display()))?;
        ensure!(text.contains(".SH NAME\n"), "{}:\n{text}", page.display());
    }
    Ok(())
}

/// What others keep for themselves: systemd which units it was asked about, rpm its database.
const OF_OTHERS: [&str; 2] = ["run/systemd", "root/.rpmdb"];

/// Compares a system with what it was; names what is new in it, and what it lost.
fn nothing_left(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let left = after.difference(before).cloned();
    let left: Vec<_> = left
        .filter(|path| !OF_OTHERS.iter().any(|others| path.starts_with(others)))
        .collect();
    let lost: Vec<_> = before.difference(after).cloned().collect();
    if !left.is_empty() || !lost.is_empty() {
        bail!("left behind: {left:?}; lost: {lost:?}");
    }
    Ok(())
}
