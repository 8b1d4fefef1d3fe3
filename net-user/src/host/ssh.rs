//! Who is connected to this host by SSH.

use std::{collections::HashSet, net::IpAddr};

use anyhow::Result;
use procfs::process::{FDTarget, Process, all_processes};

use super::sock_diag::Diag;

/// Where sshd listens unless it is told otherwise.
const PORT: u16 = 22;

/// The peers of connections to port 22, to a port that an sshd listens on, and of those that an sshd holds. The
/// processes are found as far as the agent may look into them.
///
/// # Errors
/// The kernel does not tell its sockets.
pub fn peers() -> Result<Vec<IpAddr>> {
    let sockets = sshd_sockets();
    let mut diag = Diag::open()?;
    let listening = diag.listeners()?;
    let ports: HashSet<u16> = listening
        .iter()
        .filter(|listener| sockets.contains(&u64::from(listener.inode)))
        .map(|listener| listener.port)
        .chain([PORT])
        .collect();
    let mut peers: Vec<_> = diag
        .established()?
        .into_iter()
        .filter(|c| ports.contains(&c.local_port) || sockets.contains(&u64::from(c.inode)))
        .map(|connection| connection.peer)
        .collect();
    peers.sort_unstable();
    peers.dedup();
    Ok(peers)
}

/// The inodes of sockets of processes that are called sshd, or sshd-session as since OpenSSH 9.8.
fn sshd_sockets() -> HashSet<u64> {
    let Ok(processes) = all_processes() else {
        return HashSet::new();
    };
    let is_sshd = |process: &Process| {
        process
            .stat()
            .is_ok_and(|stat| stat.comm == "sshd" || stat.comm == "sshd-session")
    };
    processes
        .flatten()
        .filter(is_sshd)
        .filter_map(|process| process.fd().ok())
        .flat_map(|descriptors| descriptors.flatten())
        .filter_map(|descriptor| match descriptor.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect()
}
