//! The RPM, by rpmbuild from `packaging/rpm/netmoat.spec` and the tree that all packages share. Not by
//! cargo-generate-rpm, for the reasons in `deb`; rpmbuild finds the libraries it needs by itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    Release,
    stage::{CONFIG, DOC, Tree},
};
use crate::process;

/// Packs the tree; `work` is an empty directory. Returns the package in `to`.
pub fn pack(tree: &Tree, release: &Release, work: &Path, to: &Path) -> Result<PathBuf> {
    let list = work.join("files");
    fs::write(&list, file_list(&tree.files)).with_context(|| list.display().to_string())?;
    let mut rpm = Command::new("rpmbuild");
    rpm.env("SOURCE_DATE_EPOCH", &release.epoch);
    rpm.args(["--quiet", "-bb", "--target", release.arch.rust]);
    for (name, value) in [
        ("netmoat_version", release.version.as_str()),
        ("netmoat_tree", &tree.root.display().to_string()),
        ("netmoat_files", &list.display().to_string()),
        ("_topdir", &work.join("top").display().to_string()),
        ("_rpmdir", &to.display().to_string()),
        // Not in a folder of the architecture's name.
        ("_rpmfilename", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"),
    ] {
        rpm.arg("--define").arg(format!("{name} {value}"));
    }
    rpm.arg(process::workspace_root().join("packaging/rpm/netmoat.spec"));
    process::run(&mut rpm)?;
    let name = format!("netmoat-{}-1.{}.rpm", release.version, release.arch.rust);
    Ok(to.join(name))
}

/// Directories that a small system may not have, so that they are the package's too.
const SHARED: [&str; 3] = [
    "usr/share/fish",
    "usr/share/fish/vendor_completions.d",
    "usr/share/zsh/site-functions",
];

/// `%files` of the spec: which are the operator's, which documentation; and the directories that go with the package.
fn file_list(files: &[String]) -> String {
    let mut list = String::from("%dir /etc/netmoat\n");
    let of_documents = files.iter().flat_map(|file| Path::new(file).ancestors());
    let of_documents = of_documents.filter_map(Path::to_str);
    let mut directories: BTreeSet<_> = of_documents
        .filter(|path| path.starts_with(DOC) && !files.iter().any(|file| file == path))
        .collect();
    directories.extend(SHARED);
    for directory in directories {
        list.push_str(&format!("%dir /{directory}\n"));
    }
    for file in files {
        let kind = match file.as_str() {
            CONFIG => "%config(noreplace) ",
            _ if file.starts_with(DOC) => "%doc ",
            _ => "",
        };
        // zsh looks elsewhere there than in Debian.
        let file = file.replace("zsh/vendor-completions", "zsh/site-functions");
        list.push_str(&format!("{kind}/{file}\n"));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_stays_the_operators_and_documentation_is_marked() {
        let files = [
            CONFIG,
            "usr/sbin/netmoat",
            "usr/share/doc/netmoat/README.md",
            "usr/share/zsh/vendor-completions/_netmoat",
        ]
        .map(str::to_owned);
        assert_eq!(
            file_list(&files),
            "%dir /etc/netmoat\n\
             %dir /usr/share/doc/netmoat\n\
             %dir /usr/share/fish\n\
             %dir /usr/share/fish/vendor_completions.d\n\
             %dir /usr/share/zsh/site-functions\n\
             %config(noreplace) /etc/netmoat/netmoat.toml\n\
             /usr/sbin/netmoat\n\
             %doc /usr/share/doc/netmoat/README.md\n\
             /usr/share/zsh/site-functions/_netmoat\n"
        );
    }
}
