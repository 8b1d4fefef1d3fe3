//! A whole DNS in two hosts: root, two top-level domains, authoritative servers and a recursive one, each on an address
//! of its own of both families. They are Debian's: knot, unbound, ldns to sign. What is broken in it, is broken for
//! good: a zone of its own each (see [`zones`]). Made for tests: whatever fails panics.

mod relay;
pub mod zones;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use self::{relay::Relay, zones::World};
use crate::{
    netns::Namespace,
    process::Process,
    scene::{PATIENCE, Scene},
    topology::Host,
    wait,
};

/// A server: the last part of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server(u8);

impl Server {
    /// The roots.
    pub const ROOTS: [Self; 2] = [Self(131), Self(132)];
    /// Those of the top-level domains.
    pub const TOP: [Self; 2] = [Self(133), Self(134)];
    /// Has all zones.
    pub const FIRST: Self = Self(135);
    /// Has all zones; one of them in another version.
    pub const SECOND: Self = Self(136);
    /// Refuses what is asked of it, but for one zone that it should have and could not load: SERVFAIL.
    pub const LAME: Self = Self(137);
    /// Nothing comes back from there.
    pub const DEAD: Self = Self(138);
    /// [`Self::FIRST`], but each answer takes [`relay::DELAY`]. Over UDP only.
    pub const SLOW: Self = Self(139);
    /// [`Self::FIRST`], but a filter drops its TCP.
    pub const STUCK: Self = Self(140);
    /// Asks all the others for whoever asks it, and validates.
    pub const RESOLVER: Self = Self(141);

    const AUTHORITATIVE: [Self; 10] = [
        Self::ROOTS[0],
        Self::ROOTS[1],
        Self::TOP[0],
        Self::TOP[1],
        Self::FIRST,
        Self::SECOND,
        Self::LAME,
        Self::DEAD,
        Self::SLOW,
        Self::STUCK,
    ];

    /// Beside the addresses of [`crate::topology::Lan`]'s hosts.
    pub const fn v4(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 0, self.0)
    }

    /// Beside the addresses of [`crate::topology::Lan`]'s hosts.
    pub const fn v6(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, self.0 as u16)
    }

    /// Its address of family 4 or 6.
    pub fn ip(self, family: u8) -> IpAddr {
        if family == 4 {
            self.v4().into()
        } else {
            self.v6().into()
        }
    }

    fn settle(self, host: &Host) {
        let (v4, v6, dev) = (self.v4(), self.v6(), &host.link.name);
        host.ns
            .ip(&format!(
                "addr add {v4}/24 dev {dev}\naddr add {v6}/64 dev {dev} nodad"
            ))
            .unwrap();
    }
}

/// The servers; they end when it is dropped.
pub struct Names {
    files: World,
    _relay: Relay,
    _processes: Vec<Process>,
    directory: TempDir,
    /// The authoritative servers' host.
    pub servers: Host,
    /// The recursive server's host.
    pub recursive: Host,
}

impl Names {
    /// Starts them on two more hosts of the scene; `www` of every zone is the scene's server. All answer when it returns.
    pub fn start(scene: &Scene) -> Self {
        let (servers, recursive) = (scene.host("dns"), scene.host("resolver"));
        for server in Server::AUTHORITATIVE {
            server.settle(&servers);
        }
        Server::RESOLVER.settle(&recursive);
        let (dead, stuck) = (Server::DEAD, Server::STUCK);
        let rules = format!(
            "table inet names {{\nchain input {{\ntype filter hook input priority 0\n\
             ip daddr {} drop\nip6 daddr {} udp dport 53 drop\nip6 daddr {} tcp dport 53 drop\n\
             ip daddr {} tcp dport 53 drop\nip6 daddr {} tcp dport 53 drop\n}}\n}}",
            dead.v4(),
            dead.v6(),
            dead.v6(),
            stuck.v4(),
            stuck.v6(),
        );
        servers.ns.nft(&rules).unwrap();
        let directory = tempfile::Builder::new()
            .prefix("netmoat-names-")
            .tempdir()
            .unwrap();
        let files = World::write(directory.path(), &scene.server);
        let mut processes: Vec<_> = files
            .served()
            .iter()
            .map(|(name, at, zones)| {
                let home = directory.path().join(name);
                knot(&servers.ns, &home, at, zones)
            })
            .collect();
        for (server, zone) in [
            (Server::ROOTS[0], "."),
            (Server::TOP[0], "test."),
            (Server::FIRST, "shop.test."),
            (Server::SECOND, "shop.test."),
        ] {
            await_answer(&servers.ns, server, &["+norecurse", zone, "SOA"], "NOERROR");
        }
        await_answer(&servers.ns, Server::LAME, &["+norecurse", "."], "REFUSED");
        let relay = Relay::start(&servers.ns, Server::SLOW, Server::FIRST);
        processes.push(unbound(
            &recursive.ns,
            directory.path(),
            &files,
            scene.server.v4,
        ));
        await_answer(
            &recursive.ns,
            Server::RESOLVER,
            &["www.shop.test."],
            "NOERROR",
        );
        Self {
            files,
            _relay: relay,
            _processes: processes,
            directory,
            servers,
            recursive,
        }
    }

    /// The roots in the form of named.root.
    pub fn hints(&self) -> &Path {
        &self.files.hints
    }

    /// The root's key as a DNSKEY record.
    pub fn anchor(&self) -> &Path {
        &self.files.anchor
    }

    /// The root's key as a DS record.
    pub fn anchor_ds(&self) -> &Path {
        &self.files.anchor_ds
    }

    /// A directory that goes with them, for files of the test's own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// What makes `netmoat probe` ask the recursive server.
    pub fn asked(&self) -> Vec<String> {
        ["--dns".into(), Server::RESOLVER.v4().to_string()].into()
    }

    /// What makes `netmoat probe` ask the recursive server, and trace from these roots, too.
    pub fn traced(&self) -> Vec<String> {
        let mut words = self.asked();
        let path = |path: &Path| path.display().to_string();
        words.extend([
            "--trace-dns".into(),
            "--root-hints".into(),
            path(self.hints()),
            "--trust-anchor".into(),
            path(self.anchor()),
        ]);
        words
    }
}

/// Waits until a server answers with that status.
fn await_answer(ns: &Namespace, server: Server, question: &[&str], status: &str) {
    let at = format!("@{}", server.v4());
    let wanted = format!("status: {status}");
    wait::until(&format!("{question:?} {at}: {status}"), PATIENCE, || {
        let mut dig = Command::new("dig");
        dig.args(["+time=1", "+tries=1", &at]).args(question);
        ns.succeed(&mut dig)
            .is_ok_and(|said| said.contains(&wanted))
    })
    .unwrap();
}

/// An authoritative server: knot, in one process, with files in `home`.
fn knot(ns: &Namespace, home: &Path, at: &[Server], zones: &[(&str, PathBuf)]) -> Process {
    fs::create_dir_all(home).unwrap();
    let listen: Vec<_> = at
        .iter()
        .flat_map(|server| [format!("{}@53", server.v4()), format!("{}@53", server.v6())])
        .collect();
    let mut config = format!(
        "server:\n    rundir: {home}\n    listen: [{listen}]\n    udp-workers: 1\n    tcp-workers: 1\n    \
         background-workers: 1\ncontrol:\n    listen: {home}/control\nlog:\n  - target: stderr\n    any: warning\n\
         database:\n    storage: {home}\nzone:\n",
        home = home.display(),
        listen = listen.join(", "),
    );
    for (origin, file) in zones {
        config += &format!(
            "  - domain: {origin}\n    file: {}\n    zonefile-sync: -1\n    journal-content: none\n",
            file.display()
        );
    }
    let file = home.join("knot.conf");
    fs::write(&file, config).unwrap();
    Process::start(ns, Command::new("knotd").arg("--config").arg(file))
        .expect("apt-get install knot")
}

/// The recursive server: unbound.
fn unbound(ns: &Namespace, directory: &Path, files: &World, web: Ipv4Addr) -> Process {
    // `test.` is one of the names that unbound answers itself by default (RFC 6761, section 6.2). It would not send
    // an answer that took it 1.9 s, since most have asked again by then. It has a name of its own in a signed zone, as
    // home routers have.
    let config = format!(
        "server:\n  interface: {v4}\n  interface: {v6}\n  outgoing-interface: {v4}\n  outgoing-interface: {v6}\n  \
         access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n  do-daemonize: no\n  username: \"\"\n  \
         chroot: \"\"\n  directory: \"{home}\"\n  pidfile: \"\"\n  use-syslog: no\n  logfile: \"\"\n  \
         root-hints: \"{hints}\"\n  trust-anchor-file: \"{anchor}\"\n  local-zone: \"test.\" nodefault\n  ede: yes\n  \
         local-data: \"nas.shop.test. 300 A {web}\"\n  \
         discard-timeout: 0\n  \
         num-threads: 1\nremote-control:\n  control-enable: no\n",
        v4 = Server::RESOLVER.v4(),
        v6 = Server::RESOLVER.v6(),
        home = directory.display(),
        hints = files.hints.display(),
        anchor = files.anchor.display(),
    );
    let file = directory.join("unbound.conf");
    fs::write(&file, config).unwrap();
    Process::start(ns, Command::new("unbound").args(["-d", "-c"]).arg(file))
        .expect("apt-get install unbound")
}
