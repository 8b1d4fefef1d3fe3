//! Where the figures come from.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use nix::sys::utsname::uname;
use serde::Serialize;

use super::{cpus::Cpus, web};

/// Facts that a reader of the figures wants to know.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// UTC.
    pub time: String,
    /// `uname -r`.
    pub kernel: String,
    /// Of /proc/cpuinfo.
    pub cpu_model: String,
    /// CPUs that we could use.
    pub cpus: usize,
    /// The one that the flood had.
    pub flood_cpu: usize,
    /// Its version.
    pub nginx: String,
    /// netmoat's version.
    pub netmoat: String,
}

impl Machine {
    /// Looks around.
    ///
    /// # Errors
    /// nginx is gone.
    pub fn describe(cpus: &Cpus) -> Result<Self> {
        let kernel = uname().context("uname fails")?;
        let time = Command::new("date")
            .args(["--utc", "+%Y-%m-%d %H:%M UTC"])
            .output()?;
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        Ok(Self {
            time: String::from_utf8_lossy(&time.stdout).trim().to_owned(),
            kernel: kernel.release().to_string_lossy().into_owned(),
            cpu_model: model
                .map_or("unknown", |model| {
                    model.trim_start_matches([' ', '\t', ':'])
                })
                .to_owned(),
            cpus: cpus.count,
            flood_cpu: cpus.flood,
            nginx: web::version()?,
            netmoat: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
