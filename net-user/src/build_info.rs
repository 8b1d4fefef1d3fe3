//! What this program was built from.

use serde::Serialize;

use crate::control::protocol::VERSION;
use crate::datapath::load;

/// The build, as `netmoat version -o json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct BuildInfo {
    /// Of this JSON ([`VERSION`]).
    pub version: u32,
    /// Version of the program, as in its package.
    pub netmoat_version: &'static str,
    /// The commit it was built from, with `-modified` when the sources differed from it. None in a development
    /// build, and where neither git nor the source archive told it.
    pub commit: Option<&'static str>,
    /// Date of the commit, YYYY-MM-DD.
    pub commit_date: Option<&'static str>,
    /// ABI number that the embedded eBPF object carries ([`net_common::abi::ABI_VERSION`]).
    pub ebpf_abi: Option<u32>,
    /// What `rustc --version` said.
    pub rustc: &'static str,
    /// Target triple.
    pub target: &'static str,
    /// Whether the C library is part of the program (static) or the host's.
    pub linkage: &'static str,
}

impl BuildInfo {
    /// Of the program that runs.
    #[must_use]
    pub fn of_this_program() -> Self {
        let known = |text: &'static str| (!text.is_empty()).then_some(text);
        Self {
            version: VERSION,
            netmoat_version: env!("CARGO_PKG_VERSION"),
            commit: known(env!("NETMOAT_COMMIT")),
            commit_date: known(env!("NETMOAT_COMMIT_DATE")),
            ebpf_abi: load::embedded_abi().ok(),
            rustc: env!("NETMOAT_RUSTC"),
            target: env!("NETMOAT_TARGET"),
            linkage: if cfg!(target_feature = "crt-static") {
                "static"
            } else {
                "dynamic"
            },
        }
    }
}

/// As `netmoat --version` prints it, behind the program's name.
impl std::fmt::Display for BuildInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.netmoat_version)?;
        match (self.commit, self.commit_date) {
            (Some(commit), Some(date)) => writeln!(f, "commit    {commit} of {date}")?,
            (Some(commit), None) => writeln!(f, "commit    {commit}")?,
            (None, _) => writeln!(f, "commit    unknown")?,
        }
        match self.ebpf_abi {
            Some(abi) => writeln!(f, "eBPF ABI  {abi}")?,
            None => writeln!(f, "eBPF ABI  unknown")?,
        }
        writeln!(f, "rustc     {}", self.rustc)?;
        write!(f, "target    {}, {}", self.target, self.linkage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_tells_the_abi_of_its_ebpf_object() {
        let build = BuildInfo::of_this_program();
        assert_eq!(build.ebpf_abi, Some(net_common::abi::ABI_VERSION));
        assert!(build.rustc.starts_with("rustc "), "{}", build.rustc);
        assert!(build.target.contains("linux"), "{}", build.target);
    }

    #[test]
    fn what_is_not_known_of_the_build_is_said_to_be_unknown() {
        let mut build = BuildInfo::of_this_program();
        build.commit = None;
        assert!(build.to_string().contains("commit    unknown\n"));
        build.commit = Some("9cb91df");
        build.commit_date = Some("2026-11-22");
        assert!(
            build
                .to_string()
                .contains("commit    9cb91df of 2026-11-22\n")
        );
    }
}
