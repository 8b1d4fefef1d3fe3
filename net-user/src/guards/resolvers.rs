//! The host's own name servers: their answers are not limited (R-UDP-3).

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved names those that it asks, while `/etc/resolv.conf` names itself.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// No honest file comes near it.
const MAX_BYTES: u64 = 65_536;

/// The name servers of the host, other than those that run on it; none without the file.
///
/// # Errors
/// The file cannot be read.
pub fn read() -> Result<Vec<IpAddr>> {
    read_files(Path::new(RESOLV_CONF), Path::new(BEHIND_STUB))
}

fn read_files(conf: &Path, behind_stub: &Path) -> Result<Vec<IpAddr>> {
    let mut servers = name_servers(&text(conf)?);
    if servers.iter().any(IpAddr::is_loopback) {
        servers.extend(name_servers(&text(behind_stub)?));
    }
    servers.retain(|server| !server.is_loopback() && !server.is_unspecified());
    servers.sort_unstable();
    servers.dedup();
    Ok(servers)
}

/// The contents of a file, empty if there is none.
fn text(path: &Path) -> Result<String> {
    let read = || -> Result<String> {
        // O_NONBLOCK: opening a FIFO must not hang.
        let file = match File::options()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
            .open(path)
        {
            Err(error) if is_absent(&error) => return Ok(String::new()),
            file => file?,
        };
        ensure!(file.metadata()?.is_file(), "it is no regular file");
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        // Comments may be in any encoding.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().with_context(|| {
        format!(
            "the name servers in {} are not known, and their answers are limited; make it readable, or name them in \
             `servers` of [udp]",
            path.display()
        )
    })
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Lines `nameserver ADDRESS` (resolv.conf(5)); a link-local address may name its interface.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        let address = address.split_once('%').map_or(address, |(ip, _)| ip);
        address.parse().ok()
    });
    servers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_resolv_conf_has_them_r_udp_3() {
        let servers = name_servers(
            "# nameserver 192.0.2.9\n; nameserver 192.0.2.8\nsearch example.net\nnameserver 192.0.2.53\n\
             nameserver\t2001:db8::53 # the second\nnameserver fe80::1%eth0\nnameserver\nnameserver dns.example\n\
             options edns0\nnameservers 192.0.2.7\n",
        );
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53", "2001:db8::53", "fe80::1"]);
    }

    #[test]
    fn behind_a_local_stub_are_those_that_it_asks() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, stub) = (dir.path().join("resolv.conf"), dir.path().join("stub"));
        let read = || read_files(&conf, &stub).unwrap();
        assert_eq!(read(), Vec::<IpAddr>::new(), "neither file is there");
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        write(&conf, "nameserver 127.0.0.53\nnameserver 192.0.2.53\n");
        let first: IpAddr = "192.0.2.53".parse().unwrap();
        let second: IpAddr = "2001:db8::53".parse().unwrap();
        assert_eq!(read(), [first]);
        write(&stub, "nameserver 2001:db8::53\nnameserver 192.0.2.53\n");
        assert_eq!(read(), [first, second]);
        write(&conf, "nameserver 192.0.2.53\n");
        assert_eq!(read(), [first], "no stub, so nobody behind it");
    }

    #[test]
    fn what_is_no_file_is_an_error_with_a_remedy_and_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [dir.path(), fifo.as_path()] {
            let error = format!("{:#}", read_files(path, path).unwrap_err());
            assert!(
                error.contains("`servers` of [udp]") && error.contains("no regular file"),
                "{error}"
            );
        }
    }
}
