//! Who is connected to this host by SSH.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::Result;
use procfs::process::{FDTarget, Process, all_processes};

use super::sock_diag::Diag;
use crate::privileges::looker;

/// Where sshd listens unless it is told otherwise.
const PORT: u16 = 22;

/// Its configuration, with what Debian and others include from it.
const CONFIG: &str = "/etc/ssh/sshd_config";
const CONFIG_DIRECTORY: &str = "/etc/ssh/sshd_config.d";

/// The peers of connections to port 22, to a port that sshd's configuration names or that an sshd listens on, and of
/// those that an sshd holds. Processes are found as far as the agent may look into them.
///
/// # Errors
/// The kernel does not tell its sockets.
pub fn peers() -> Result<Vec<IpAddr>> {
    let sockets = looker::look(sshd_sockets);
    let mut diag = Diag::open()?;
    let listening = diag.listeners()?;
    let ports: HashSet<u16> = listening
        .iter()
        .filter(|listener| sockets.contains(&u64::from(listener.inode)))
        .map(|listener| listener.port)
        .chain([PORT])
        .chain(configured_ports())
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

/// The ports in sshd's configuration; what cannot be read names none.
fn configured_ports() -> Vec<u16> {
    let included = fs::read_dir(CONFIG_DIRECTORY).into_iter().flatten();
    let included = included.flatten().map(|entry| entry.path());
    let files = included.chain([CONFIG.into()]);
    files
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| text.lines().filter_map(port).collect::<Vec<_>>())
        .collect()
}

/// The port of a line `Port 2222` or `ListenAddress 192.0.2.1:2222` (sshd_config(5)).
fn port(line: &str) -> Option<u16> {
    let (keyword, value) = line.trim().split_once([' ', '\t', '='])?;
    let value = value.trim_matches([' ', '\t', '=', '"']);
    if keyword.eq_ignore_ascii_case("port") {
        return value.parse().ok();
    }
    let address = value.split_whitespace().next()?;
    let listens = keyword.eq_ignore_ascii_case("listenaddress");
    listens
        .then(|| address.parse::<SocketAddr>().ok())
        .flatten()
        .map(|address| address.port())
}

/// What sshd tells the shells that it starts.
const SSH_CONNECTION: &str = "SSH_CONNECTION";
/// Shells, sudo and scripts between us and sshd.
const MAX_ANCESTORS: usize = 32;

/// From where this process was started by SSH. sudo drops what tells it, and the shell before it still has it.
pub fn own_peer() -> Option<IpAddr> {
    if let Ok(connection) = std::env::var(SSH_CONNECTION) {
        return peer_of(&connection);
    }
    let mut process = Process::myself().ok()?;
    for _ in 0..MAX_ANCESTORS {
        process = Process::new(process.stat().ok()?.ppid).ok()?;
        if let Ok(environment) = process.environ()
            && let Some(connection) = environment.get(std::ffi::OsStr::new(SSH_CONNECTION))
        {
            return peer_of(connection.to_str()?);
        }
    }
    None
}

/// The client's address is the first word; a link-local one may name its interface.
fn peer_of(connection: &str) -> Option<IpAddr> {
    let address = connection.split_whitespace().next()?;
    address.split('%').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{peer_of, port};

    #[test]
    fn the_ssh_peer_is_read_from_the_environment() {
        for (text, peer) in [
            ("192.0.2.7 50000 198.51.100.1 22", Some("192.0.2.7")),
            ("fe80::1%eth0 50000 fe80::2%eth0 22", Some("fe80::1")),
            ("", None),
            ("nobody 1", None),
        ] {
            assert_eq!(peer_of(text), peer.map(|peer| peer.parse().unwrap()));
        }
    }

    #[test]
    fn ports_are_read_from_sshds_configuration() {
        for (line, expected) in [
            ("Port 2222", Some(2222)),
            ("  port\t2222", Some(2222)),
            ("Port=2222", Some(2222)),
            ("ListenAddress 192.0.2.1:2200", Some(2200)),
            ("ListenAddress [2001:db8::1]:2200 rdomain x", Some(2200)),
            ("ListenAddress 192.0.2.1", None),
            ("#Port 22", None),
            ("PermitRootLogin no", None),
            ("Port", None),
        ] {
            assert_eq!(port(line), expected, "{line}");
        }
    }
}
