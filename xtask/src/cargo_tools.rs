//! Tools of cargo that lint and packaging start, built once into the workspace's target directory.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{ebpf, process, toolchain::tools_dir};

/// A program from crates.io.
pub struct CargoTool {
    name: &'static str,
    version: &'static str,
    reason: &'static str,
}

/// Holds the dependencies to deny.toml.
pub const DENY: CargoTool = CargoTool {
    name: "cargo-deny",
    version: "0.20.2",
    reason: "licences and sources of dependencies; two minutes",
};

/// Puts the list of dependencies into the binary.
pub const AUDITABLE: CargoTool = CargoTool {
    name: "cargo-auditable",
    version: "0.7.7",
    reason: "the list of dependencies in the binary; half a minute",
};

impl CargoTool {
    /// Where the program is; builds it when it is not there in the wanted version.
    pub fn ensure(&self) -> Result<PathBuf> {
        let tools = tools_dir(&process::workspace_root());
        let program = tools.join("bin").join(self.name);
        // cargo's own record of what it installed there.
        let record = fs::read_to_string(tools.join(".crates.toml")).unwrap_or_default();
        let entry = format!("\"{} {} ", self.name, self.version);
        if program.is_file() && record.contains(&entry) {
            return Ok(program);
        }
        eprintln!(
            "setup: building {} {} ({})",
            self.name, self.version, self.reason
        );
        let mut cargo = process::host_cargo();
        cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        // Not optimised: a quarter of the time to compile, and each runs for two seconds.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
        cargo.args(["install", self.name, "--version", self.version]);
        cargo.args(["--locked", "--debug", "--force", "--root"]);
        cargo.arg(&tools);
        // Lest cargo advise the user to add the directory to PATH.
        cargo.env("PATH", ebpf::path_with(&[&tools.join("bin")]));
        process::run(&mut cargo)
            .with_context(|| format!("{} {} could not be built", self.name, self.version))?;
        Ok(program)
    }
}
