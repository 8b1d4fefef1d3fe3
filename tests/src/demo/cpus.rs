//! Which CPU does what, and how urgently. The flood and whatever it causes in the kernel have one of their own,
//! as a network card's queue would give it; client and server have the rest. All of them come before what else
//! runs on the machine, which would be measured too.

use std::thread;

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Niceness of attacker, client and server.
const URGENT: libc::c_int = -10;

/// The CPUs that we may use.
#[derive(Clone, Copy)]
pub struct Cpus {
    /// The flood's, and what watches.
    pub flood: usize,
    /// Client's and server's: all others, or the same one where there is no other.
    pub rest: CpuSet,
    /// How many we may use.
    pub count: usize,
    all: CpuSet,
}

impl Cpus {
    /// Looks at what this process may use.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn find() -> Result<Self> {
        let all =
            sched_getaffinity(Pid::from_raw(0)).context("which CPUs may be used is unknown")?;
        let usable: Vec<_> = (0..CpuSet::count())
            .filter(|&cpu| all.is_set(cpu).unwrap_or(false))
            .collect();
        let flood = *usable.first().context("there is no CPU to use")?;
        let mut rest = all;
        if usable.len() > 1 {
            rest.unset(flood)?;
        }
        Ok(Self {
            flood,
            rest,
            count: usable.len(),
            all,
        })
    }

    /// Moves the calling thread to the flood's CPU, and before others. The threads that it starts follow.
    ///
    /// # Errors
    /// The CPU went offline.
    pub fn watch(&self) -> Result<()> {
        let mut cpus = CpuSet::new();
        cpus.set(self.flood)?;
        pin(&cpus)?;
        renice(URGENT)
    }

    /// Runs `work` on a thread that uses client's and server's CPUs; processes and threads that it starts do
    /// so too.
    ///
    /// # Errors
    /// Those of `work`, or the CPUs went offline.
    pub fn on_rest<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on(&self.rest, URGENT, work)
    }

    /// As [`Self::on_rest`], free to use any CPU, and no more urgent than others.
    ///
    /// # Errors
    /// See there.
    pub fn on_all<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on(&self.all, 0, work)
    }
}

fn on<T: Send>(
    cpus: &CpuSet,
    niceness: libc::c_int,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            pin(cpus)?;
            renice(niceness)?;
            work()
        });
        there
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread.
fn pin(cpus: &CpuSet) -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), cpus).context("a CPU that could be used is gone")
}

/// Sets the niceness of the calling thread.
fn renice(niceness: libc::c_int) -> Result<()> {
    // SAFETY: takes integers; 0 is the calling thread (setpriority(2), NOTES).
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    Errno::result(result).context("a thread's priority cannot be set")?;
    Ok(())
}
