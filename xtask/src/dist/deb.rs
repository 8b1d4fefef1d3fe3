//! The Debian package, by dpkg-deb.
//!
//! Not by cargo-deb: it compiles for minutes, and its list of files would be a second one beside the RPM's, where
//! dpkg-deb takes the tree that all packages share. The libraries it depends on come from dpkg-shlibdeps.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Release,
    stage::{CONFIG, PROGRAM, Tree},
};
use crate::process;

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// sysusers and tmpfiles make group and directories; hosts without systemd have them alone. nft tells of rules
/// that lose packets of cookies.
const CONTROL: &str = "\
Package: netmoat
Version: {version}-1
Architecture: {arch}
Maintainer: The netmoat developers <netmoat@localhost>
Installed-Size: {size}
Depends: {libraries}, systemd | systemd-standalone-sysusers | systemd-sysusers, systemd | systemd-standalone-tmpfiles | systemd-tmpfiles
Recommends: nftables
Section: net
Priority: optional
Description: host defence at XDP: SYN cookies, packet guards, queue health
 netmoat answers SYN floods with cookies at the network card, holds ARP and
 neighbour discovery to the truth, limits ICMP, fragments and reflected UDP,
 and tells of every listener what happens to its connections.
 .
 It needs Linux 6.9 or later with BTF. Nothing starts until it is configured:
 see /etc/netmoat/netmoat.toml, then `systemctl enable --now netmoat`.
";

/// Packs the tree; `work` is an empty directory. Returns the package in `to`.
pub fn pack(tree: &Tree, release: &Release, work: &Path, to: &Path) -> Result<PathBuf> {
    let root = work.join("root");
    process::run(Command::new("cp").arg("-a").arg(&tree.root).arg(&root))?;
    let control = root.join("DEBIAN");
    fs::create_dir(&control).with_context(|| control.display().to_string())?;
    let write = |name: &str, text: &str, mode: u32| -> Result<()> {
        let file = control.join(name);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        Ok(())
    };
    let fields = CONTROL
        .replace("{version}", &release.version)
        .replace("{arch}", release.arch.debian)
        .replace("{size}", &kibibytes(tree)?.to_string())
        .replace("{libraries}", &libraries(&tree.root, work)?);
    write("control", &fields, 0o644)?;
    write("conffiles", &format!("/{CONFIG}\n"), 0o644)?;
    write("md5sums", &sums(tree)?, 0o644)?;
    let scripts = process::workspace_root().join("packaging/deb");
    for name in SCRIPTS {
        let file = scripts.join(name);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        write(name, &text, 0o755)?;
    }
    let deb = to.join(format!(
        "netmoat_{}-1_{}.deb",
        release.version, release.arch.debian
    ));
    let mut dpkg = Command::new("dpkg-deb");
    // Files newer than the commit get its time, so that the same commit gives the same package.
    dpkg.env("SOURCE_DATE_EPOCH", &release.epoch);
    // xz, which every dpkg reads.
    dpkg.args(["--root-owner-group", "-Zxz", "--build"])
        .args([&root, &deb]);
    dpkg.stdout(std::process::Stdio::null());
    process::run(&mut dpkg)?;
    Ok(deb)
}

/// Each file takes whole blocks of 1 KiB (Debian policy 5.6.20).
fn kibibytes(tree: &Tree) -> Result<u64> {
    let mut sum = 0;
    for file in &tree.files {
        sum += fs::metadata(tree.root.join(file))?.len().div_ceil(1024);
    }
    Ok(sum)
}

/// What `dpkg --verify` compares with.
fn sums(tree: &Tree) -> Result<String> {
    let mut command = Command::new("md5sum");
    command.current_dir(&tree.root);
    command.args(tree.files.iter().filter(|file| *file != CONFIG));
    process::output_of(&mut command).context("md5sum failed")
}

/// The packages of the libraries that the program is linked with, in the versions it needs.
fn libraries(root: &Path, work: &Path) -> Result<String> {
    // It runs in a source package only.
    let debian = work.join("debian");
    fs::create_dir_all(&debian).with_context(|| debian.display().to_string())?;
    fs::write(
        debian.join("control"),
        "Source: netmoat\n\nPackage: netmoat\nArchitecture: any\n",
    )?;
    let mut command = Command::new("dpkg-shlibdeps");
    command.current_dir(work).arg("-O").arg(root.join(PROGRAM));
    let output = process::output_of(&mut command).context("dpkg-shlibdeps failed")?;
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("shlibs:Depends="));
    Ok(line
        .context("dpkg-shlibdeps names no library: is the program linked statically?")?
        .to_owned())
}
