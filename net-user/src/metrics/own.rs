//! What the agent itself takes.

use procfs::{ProcResult, WithCurrentSystemInfo as _, process::Process};

/// The agent's process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// CPU time since its start, seconds.
    pub cpu_s: f64,
    /// Memory that it has in use (resident), octets.
    pub resident: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

impl Own {
    /// As it is now.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn read() -> ProcResult<Self> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        Ok(Self {
            cpu_s: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            resident: stat.rss_bytes().get(),
            descriptors: process.fd_count()? as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_descriptors() {
        let own = Own::read().unwrap();
        assert!(own.resident > 1 << 20, "{own:?}");
        assert!(own.descriptors >= 3, "{own:?}");
    }
}
