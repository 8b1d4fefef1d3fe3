//! What the agent gives up once the programs are loaded and before any other thread exists: capabilities ([`caps`]), the
//! gain of new ones, system calls ([`calls`]), and files ([`files`]).
//!
//! Each is best effort. What the kernel or the surroundings do not allow is told in `status`, and the agent goes on: it
//! protects the host, and its own confinement is the second line.
//!
//! Threads have what the one that made them had, so all of this happens in the main thread. One thread keeps what the
//! others lose, see [`looker`], and one that makes connections has less than they, see [`walker`].

mod calls;
mod files;
pub mod looker;
pub mod walker;

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
};

use caps::{CapSet, Capability, errors::CapsError};
use nix::sys::prctl;
use serde::{Deserialize, Serialize};

/// What the agent's work needs after its start.
///
/// - `CAP_BPF`: new maps, for lists that grow (`map_create`, kernel/bpf/syscall.c).
/// - `CAP_NET_ADMIN`: programs on interfaces that appear, or that somebody has taken them off; neighbour entries; the
///   rules of netfilter, by nft; `/proc/sys/net` where root has no more rights than others.
/// - `CAP_NET_RAW`: packet sockets to ask neighbours with.
/// - `CAP_DAC_READ_SEARCH`: a config and the files of lists that root may not read by its user id alone, at a reload.
const KEPT: [Capability; 4] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_DAC_READ_SEARCH,
];

/// What [`looker`] needs: `/proc/PID/fd` of other users' processes is listed with the first (`proc_fd_permission`, Linux
/// 6.18), its links are read with the second (`ptrace_may_access`).
const LOOKING: [Capability; 2] = [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SYS_PTRACE];

/// What was given up, as `status` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// The capabilities that are left to the agent.
    pub capabilities: Vec<String>,
    /// Whether no program that the agent starts may have more than itself (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
    /// Whether system calls that the agent has no use for are refused (seccomp).
    pub seccomp: bool,
    /// By which version of Landlock files are out of reach that the agent does not write; null without.
    pub landlock_abi: Option<u32>,
    /// What could not be given up, in plain words with the reason.
    pub shortcomings: Vec<String>,
}

impl Privileges {
    /// Remembers why a step had no effect.
    fn note<T, E: std::fmt::Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.shortcomings.push(format!("{what}: {error}")))
            .ok()
    }
}

/// Gives up what only the start needs. To be called in the main thread while it is the only one: threads that exist already
/// keep what they have. `state_dir` and the directories of the sockets, which are removed at the end,
/// stay writable.
pub fn give_up(state_dir: &Path, sockets: &[&Path]) -> Privileges {
    let mut left = Privileges::default();
    let threads = fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        left.shortcomings.push(format!(
            "{} of {threads} threads were there already and keep their privileges; please report this",
            threads - 1
        ));
    }
    // Files are let through by directories that exist, and this one is made by whoever keeps something first.
    let _ = DirBuilder::new().mode(0o700).create(state_dir);
    // The keys of cookies are in our memory: no core dump, and nobody traces us without CAP_SYS_PTRACE.
    left.note("memory dumps are not off", prctl::set_dumpable(false));
    left.no_new_privs = left
        .note("no_new_privs is not set", prctl::set_no_new_privs())
        .is_some();
    // Before Landlock: who is confined by it may not look into processes that are not (`hook_ptrace_access_check`).
    let looker = looker::start(|| confine(&LOOKING));
    let looker = left.note("the thread that looks at processes", looker);
    for text in looker.into_iter().flatten() {
        left.shortcomings
            .push(format!("the thread that looks at processes: {text}"));
    }
    // Nor may who is confined by it connect to others.
    let walker = walker::start(|| {
        let landlock = files::confine_walker().map_err(|error| format!("no Landlock: {error:#}"));
        let mut shortcomings = confine(&[]);
        shortcomings.extend(landlock.err());
        shortcomings
    });
    let walker = left.note("the thread that probes", walker);
    for text in walker.into_iter().flatten() {
        left.shortcomings
            .push(format!("the thread that probes: {text}"));
    }
    let landlock = files::confine(state_dir, sockets);
    if let Some(confined) = left.note("files are not confined by Landlock", landlock) {
        left.landlock_abi = Some(confined.abi);
        left.shortcomings.extend(confined.shortcomings);
    }
    let shortcomings = confine(&KEPT);
    left.seccomp = is_filtered();
    left.shortcomings.extend(shortcomings);
    left.capabilities = caps::read(None, CapSet::Permitted)
        .map(|set| names(&set))
        .unwrap_or_default();
    left
}

/// Limits the calling thread to some capabilities and to the system calls of use; gives what could not be done.
fn confine(keep: &[Capability]) -> Vec<String> {
    let mut shortcomings = Vec::new();
    match limit(keep) {
        Ok(still) if still.is_empty() => {}
        // As of systemd's `CapabilityBoundingSet=` without CAP_SETPCAP.
        Ok(still) => tracing::debug!(
            "{} stay in the bounding set, as CAP_SETPCAP is missing; with no_new_privs they cannot be gained",
            still.join(", ")
        ),
        Err(error) => shortcomings.push(format!("capabilities are not dropped: {error}")),
    }
    // Last, since it refuses what the steps before need.
    if let Err(error) = calls::confine() {
        shortcomings.push(format!("system calls are not filtered: {error}"));
    }
    shortcomings
}

/// Drops all capabilities but those of `keep` that the calling thread has. Gives those that stay in its bounding set: without
/// CAP_SETPCAP nothing can be taken out of it (`cap_prctl_drop`, security/commoncap.c).
fn limit(keep: &[Capability]) -> Result<Vec<String>, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep = keep.iter().copied().filter(|cap| permitted.contains(cap));
    let keep: caps::CapsHashSet = keep.collect();
    let mut still = caps::CapsHashSet::new();
    for cap in caps::runtime::thread_all_supported() {
        let bounded = keep.contains(&cap) || !caps::has_cap(None, CapSet::Bounding, cap)?;
        if !bounded && caps::drop(None, CapSet::Bounding, cap).is_err() {
            still.insert(cap);
        }
    }
    // Of an agent that is not root nft has what is ambient; of root's it has what root's has.
    let inherited = caps::read(None, CapSet::Ambient)?;
    let inherited = inherited
        .into_iter()
        .filter(|&cap| cap == Capability::CAP_NET_ADMIN && keep.contains(&cap));
    let inherited: caps::CapsHashSet = inherited.collect();
    caps::set(None, CapSet::Ambient, &inherited)?;
    caps::set(None, CapSet::Inheritable, &inherited)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    Ok(names(&still))
}

/// Their names, by number.
fn names(set: &caps::CapsHashSet) -> Vec<String> {
    let mut ordered: Vec<_> = set.iter().collect();
    ordered.sort_unstable_by_key(|cap| cap.index());
    ordered.iter().map(ToString::to_string).collect()
}

/// Whether the calling thread has a seccomp filter (`Seccomp:` in proc_pid_status(5)).
fn is_filtered() -> bool {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    text.lines().any(|line| {
        line.strip_prefix("Seccomp:")
            .is_some_and(|mode| mode.trim() == "2")
    })
}

/// What this kernel offers to confine the agent with, for `check`: what it has, and what it lacks with the remedy.
pub fn offered() -> Result<String, (String, &'static str)> {
    let seccomp = fs::exists("/proc/sys/kernel/seccomp/actions_avail").unwrap_or(false);
    match (files::abi(), seccomp) {
        (Some(abi), true) => Ok(format!(
            "confinement: Landlock (ABI {abi}) and seccomp; the running agent keeps what it needs after its start"
        )),
        (None, _) => Err((
            "this kernel has no Landlock, so the agent could write and execute whatever root may".to_owned(),
            "boot with `landlock` among the values of `lsm=`; CONFIG_SECURITY_LANDLOCK",
        )),
        (_, false) => Err((
            "this kernel has no seccomp filters, so the agent could use system calls it has no use for".to_owned(),
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        )),
    }
}

#[cfg(test)]
mod tests;
