//! The zones: what each is there for stands in [`World::write`].

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Server;
use crate::topology::Host;

/// How a zone is signed (ECDSA P-256).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    /// As it should.
    Well,
    /// As it should, with NSEC3 as large top-level domains have it.
    Hashed,
    /// `www` was changed afterwards.
    Changed,
    /// Until February 2020.
    Once,
    /// The parent's DS is of another key.
    Otherwise,
}

/// What one server process serves: its name, its addresses, zones and their files.
pub type Served = (&'static str, Vec<Server>, Vec<(&'static str, PathBuf)>);

/// The files of all zones.
pub struct World {
    /// The roots in the form of named.root.
    pub hints: PathBuf,
    /// The root's key as a DNSKEY record.
    pub anchor: PathBuf,
    /// The root's key as a DS record.
    pub anchor_ds: PathBuf,
    served: Vec<Served>,
}

/// A zone below `test.` and its servers.
struct Zone {
    origin: &'static str,
    servers: Vec<Server>,
    signed: Option<Signed>,
    body: String,
}

impl Zone {
    fn new(origin: &'static str, servers: &[Server], body: &str) -> Self {
        Self {
            origin,
            servers: servers.to_vec(),
            signed: None,
            body: body.to_owned(),
        }
    }

    fn signed(mut self, signed: Signed) -> Self {
        self.signed = Some(signed);
        self
    }

    /// `ns1`, `ns2`… in the zone itself, and their addresses.
    fn name_servers(&self) -> String {
        let numbered = self.servers.iter().zip(1..);
        numbered
            .map(|(server, n)| name_server(self.origin, &format!("ns{n}.{}", self.origin), *server))
            .collect()
    }
}

fn name_server(zone: &str, name: &str, server: Server) -> String {
    format!(
        "{zone} NS {name}\n{name} A {}\n{name} AAAA {}\n",
        server.v4(),
        server.v6()
    )
}

impl World {
    /// Writes and signs them. `web` is what `www` stands for: `www` of `shop.test.` and `plain.test.` by both families,
    /// all others by IPv4 alone.
    pub(super) fn write(directory: &Path, web: &Host) -> Self {
        use Server as S;
        let both = [S::FIRST, S::SECOND];
        let (v4, v6) = (web.v4, web.v6);
        let www = &format!("www A {v4}\n");
        let long = |n: usize| {
            // With `.big.test.`, `.stuck.test.`: almost 255 octets. knot follows five aliases in one answer.
            let label = n.to_string().repeat(63);
            format!("{label}.{label}.{label}.{}", &label[..48])
        };
        let mut chain = format!("www CNAME {}\n", long(1));
        for n in 1..5 {
            chain += &format!("{} CNAME {}\n", long(n), long(n + 1));
        }
        chain += &format!("{} A {v4}\n", long(5));
        let full = format!(
            "www A {v4}\nwww AAAA {v6}\nalias CNAME www\nfar CNAME www.plain.test.\nlost CNAME nothing\n\
             text TXT \"no address\"\n"
        );
        let zones = vec![
            // All is well; names that point elsewhere, inside and outside; a name without address.
            Zone::new("shop.test.", &both, &full).signed(Signed::Well),
            // Not signed, and the parent says so.
            Zone::new(
                "plain.test.",
                &both,
                &format!(
                    "www A {v4}\nwww AAAA {v6}\nwww HTTPS 1 . alpn=h2,http/1.1 ipv4hint={v4}\n"
                ),
            ),
            Zone::new("bogus.test.", &both, www).signed(Signed::Changed),
            Zone::new("expired.test.", &both, www).signed(Signed::Once),
            Zone::new("nokey.test.", &both, www).signed(Signed::Otherwise),
            // One of two servers does not know the zone; none does.
            Zone::new("lame.test.", &[S::FIRST, S::LAME], www),
            Zone::new("lost.test.", &[S::LAME], www),
            // One of two servers does not answer; none does.
            Zone::new("dead.test.", &[S::FIRST, S::DEAD], www),
            Zone::new("gone.test.", &[S::DEAD], www),
            // One of two servers is late; the only one is.
            Zone::new("slow.test.", &[S::FIRST, S::SLOW], www),
            Zone::new("late.test.", &[S::SLOW], www),
            // Its server has it in its configuration but could not load it.
            Zone::new("servfail.test.", &[S::LAME], www),
            // Longer than a datagram; and the same where TCP is filtered.
            Zone::new("big.test.", &both, &chain),
            Zone::new("stuck.test.", &[S::STUCK], &chain),
            // Names in a circle.
            Zone::new("loop.test.", &both, "www CNAME other\nother CNAME www\n"),
            // The second server has another version, without the name.
            Zone::new("differ.test.", &both, www),
            // Served by names of another tree, hence without glue.
            Zone::new(
                "away.test.",
                &[],
                &format!("{www}@ NS ns1.hosting.example.\n"),
            ),
            // Its servers are named inside it, and their addresses are missing from the parent.
            Zone::new("noglue.test.", &[], "@ NS ns1\nns1 A 192.0.2.1\n"),
        ];
        let home = directory.join("zones");
        fs::create_dir_all(&home).unwrap();
        let place = Place { home };
        let mut files = Vec::new();
        let mut test = tops("test.");
        for zone in &zones {
            let text = format!("{}{}", zone.name_servers(), zone.body);
            let (file, ds) = place.zone(zone.origin, 1, &text, zone.signed);
            files.push((zone.origin, file));
            test += &zone.name_servers();
            test += &ds;
        }
        test += "away.test. NS ns1.hosting.example.\nnoglue.test. NS ns1.noglue.test.\n";
        let (test, test_ds) = place.zone("test.", 1, &test, Some(Signed::Hashed));
        let hosting = name_server("hosting.example.", "ns1.hosting.example.", S::FIRST);
        let (example, _) = place.zone("example.", 1, &(tops("example.") + &hosting), None);
        files.push((
            "hosting.example.",
            place.zone("hosting.example.", 1, &hosting, None).0,
        ));
        let roots: String = S::ROOTS
            .iter()
            .zip(["a.roots.", "b.roots."])
            .map(|(server, name)| name_server(".", name, *server))
            .collect();
        let root = format!("{roots}{}{}{test_ds}", tops("test."), tops("example."));
        let (root, root_ds) = place.zone(".", 1, &root, Some(Signed::Well));
        let hints = place.write(
            "hints",
            &roots
                .replace(". NS", ". 3600000 NS")
                .replace(" A", " 3600000 A"),
        );
        let anchor_ds = place.write("anchor.ds", &root_ds);
        let anchor = place.write("anchor", &place.key("."));
        // The second server's own version of one zone.
        let other = "@ NS ns1\n@ NS ns2\nns1 A 198.18.0.135\nns2 A 198.18.0.136\n";
        let own = place.zone("differ.test.", 2, other, None).0;
        let second = files
            .iter()
            .map(|(origin, file)| match *origin {
                "differ.test." => (*origin, own.clone()),
                _ => (*origin, file.clone()),
            })
            .collect();
        let missing = place.home.join("was-never-written");
        Self {
            hints,
            anchor,
            anchor_ds,
            served: vec![
                ("root", S::ROOTS.to_vec(), vec![(".", root)]),
                (
                    "top",
                    S::TOP.to_vec(),
                    vec![("test.", test), ("example.", example)],
                ),
                ("first", vec![S::FIRST, S::STUCK], files),
                ("second", vec![S::SECOND], second),
                ("lame", vec![S::LAME], vec![("servfail.test.", missing)]),
            ],
        }
    }

    pub(super) fn served(&self) -> &[Served] {
        &self.served
    }
}

/// The servers of a top-level domain.
fn tops(zone: &str) -> String {
    let [a, b] = Server::TOP;
    name_server(zone, &format!("a.nic.{zone}"), a) + &name_server(zone, &format!("b.nic.{zone}"), b)
}

/// Where the files lie.
struct Place {
    home: PathBuf,
}

impl Place {
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a zone, signed or not: its file, and what its parent is to have of its key.
    fn zone(
        &self,
        origin: &str,
        serial: u32,
        body: &str,
        signed: Option<Signed>,
    ) -> (PathBuf, String) {
        let text = format!(
            "$ORIGIN {origin}\n$TTL 300\n@ SOA primary.{dot}{origin} host.{dot}{origin} {serial} 3600 900 604800 60\n{body}",
            dot = if origin == "." { "invalid" } else { "" },
        );
        let file = self.write(&format!("{origin}{serial}.zone"), &text);
        let Some(signed) = signed else {
            return (file, String::new());
        };
        let key = self.run("ldns-keygen", &["-a", "ECDSAP256SHA256", "-k", origin]);
        let done = self.home.join(format!("{origin}signed"));
        let mut words = vec!["-o", origin];
        match signed {
            Signed::Hashed => words.push("-n"),
            Signed::Once => words.extend(["-i", "20200101", "-e", "20200201"]),
            _ => {}
        }
        let out = done.display().to_string();
        let input = file.display().to_string();
        words.extend(["-f", &out, &input, &key]);
        self.run("ldns-signzone", &words);
        if signed == Signed::Changed {
            let text = fs::read_to_string(&done).unwrap();
            let changed: Vec<_> = text
                .lines()
                .map(
                    |line| match line.starts_with("www.") && line.contains("\tA\t") {
                        true => format!("www.{origin}\t300\tIN\tA\t192.0.2.66"),
                        false => line.to_owned(),
                    },
                )
                .collect();
            fs::write(&done, changed.join("\n") + "\n").unwrap();
        }
        let key = if signed == Signed::Otherwise {
            self.run("ldns-keygen", &["-a", "ECDSAP256SHA256", "-k", origin])
        } else {
            key
        };
        self.write(&format!("{origin}key"), &self.read(&key, "key"));
        (done, self.read(&key, "ds"))
    }

    /// The DNSKEY record of a zone.
    fn key(&self, origin: &str) -> String {
        fs::read_to_string(self.home.join(format!("{origin}key"))).unwrap()
    }

    fn read(&self, key: &str, kind: &str) -> String {
        fs::read_to_string(self.home.join(format!("{key}.{kind}"))).unwrap()
    }

    /// What a program of ldns prints.
    fn run(&self, program: &str, words: &[&str]) -> String {
        let output = Command::new(program)
            .current_dir(&self.home)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("apt-get install ldnsutils");
        assert!(
            output.status.success(),
            "{program} {words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
