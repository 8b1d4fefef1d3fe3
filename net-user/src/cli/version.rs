//! `netmoat version`

use std::sync::LazyLock;

use super::output::Output;
use super::{Code, Failure};
use crate::build_info::BuildInfo;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat version            what was built, from which commit, with which ABI
  netmoat version -o json    the same for programs
  netmoat -V                 only the version

The agent that runs may be of another build: `netmoat status` tells its
version.";

/// `--version`; clap wants it to live as long as the program.
pub(super) fn long() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| BuildInfo::of_this_program().to_string());
    &TEXT
}

pub(super) fn version(out: &Output) -> Result<Code, Failure> {
    out.print(&BuildInfo::of_this_program(), |build| {
        format!("netmoat {build}\n")
    })?;
    Ok(Code::Ok)
}
