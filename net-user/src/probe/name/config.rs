//! What the host itself says about names: hosts file, nsswitch.conf, resolv.conf.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    path::Path,
    str::FromStr as _,
    time::Duration,
};

use hickory_resolver::{
    Hosts,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use resolv_conf::{ParseError, ScopedIp};
use serde::{Deserialize, Serialize};
use tracing::subscriber::{NoSubscriber, with_default};

use super::answer::short;
use crate::probe::{Finding, Names, Outcome};

/// How much of a file is read.
const LARGEST: u64 = 16 << 20;

/// How many search domains are followed.
const SEARCH: usize = 16;

/// How names are looked up here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResolverFacts {
    /// The `hosts:` line of nsswitch.conf, in its order; `files dns` where there is none.
    pub order: Vec<String>,
    /// The name servers, in the order in which they are asked.
    pub servers: Vec<SocketAddr>,
    /// `given` (`--dns`), `resolv_conf`, or `default` when that names none and the C library asks 127.0.0.1.
    pub servers_from: ServersFrom,
    /// Domains that are tried after a short name.
    pub search: Vec<String>,
    /// From this many dots on a name is tried as it is first.
    pub ndots: u32,
    /// How long each server is waited for, in milliseconds.
    pub timeout_ms: u64,
    /// How often the list of servers is gone through.
    pub attempts: u32,
    /// Other options of resolv.conf that matter: `rotate`, `use-vc`, `no-aaaa`, `single-request`, `edns0`, `trust-ad`.
    pub options: Vec<String>,
    /// What could not be read or understood.
    pub problems: Vec<String>,
}

/// Who named the name servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say it")]
pub enum ServersFrom {
    Given,
    ResolvConf,
    #[default]
    Default,
}

/// The same, with what is to be said of it.
pub struct Config {
    /// As the report has it.
    pub facts: ResolverFacts,
    /// The search list as names.
    pub search: Vec<Name>,
    /// What is not in order.
    pub findings: Vec<Finding>,
}

impl ResolverFacts {
    /// Whether an option of resolv.conf is set.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|has| has == option)
    }

    /// How long each server is waited for.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

impl Config {
    /// Reads nsswitch.conf and resolv.conf. What is missing takes the C library's defaults.
    pub fn read(names: &Names) -> Self {
        let mut facts = ResolverFacts::default();
        let mut findings = Vec::new();
        facts.order = match text(&names.nsswitch) {
            Ok(text) => order(&text),
            Err(_) => None,
        }
        // nss(5) of glibc from 2.34 on: without the line, "files dns".
        .unwrap_or_else(|| vec!["files".into(), "dns".into()]);
        let path = names.resolv_conf.display();
        let (mut conf, errors) = match bytes(&names.resolv_conf) {
            Ok(bytes) => resolv_conf::Config::parse_with_errors(&bytes),
            Err(error) => {
                facts.problems.push(format!("{path}: {error}"));
                (resolv_conf::Config::new(), Vec::new())
            }
        };
        for error in &errors {
            facts.problems.push(short(&format!("{path}: {error}")));
        }
        if let Some(error) = errors
            .iter()
            .find(|e| matches!(e, ParseError::InvalidIp(..)))
        {
            let what = short(&format!(
                "{path} names a server that is no address: {error}"
            ));
            let next = format!("correct that line of {path}; it is passed over now");
            findings.push(Finding::new("name_config", Outcome::Wrong, what).next(next));
        }
        let named = conf.nameservers.len();
        conf.glibc_normalize();
        if named > conf.nameservers.len() {
            let what = format!(
                "{path} names {named} servers, of which only the first {} are ever asked",
                conf.nameservers.len()
            );
            findings.push(Finding::new("name_servers_beyond_limit", Outcome::Ok, what));
        }
        facts.fill(&conf);
        if !names.servers.is_empty() {
            facts.servers.clone_from(&names.servers);
            facts.servers_from = ServersFrom::Given;
        }
        let search = facts.search.iter().filter_map(|s| Name::from_ascii(s).ok());
        Self {
            search: search.collect(),
            facts,
            findings,
        }
    }
}

impl ResolverFacts {
    fn fill(&mut self, conf: &resolv_conf::Config) {
        self.servers = conf.nameservers.iter().filter_map(address).collect();
        self.servers_from = ServersFrom::ResolvConf;
        if self.servers.is_empty() {
            // resolver(5): without a nameserver line, the one on this machine.
            self.servers.push((Ipv4Addr::LOCALHOST, 53).into());
            self.servers_from = ServersFrom::Default;
        }
        let listed: Vec<String> = conf.get_last_search_or_domain().cloned().collect();
        let own = || conf.get_system_domain().into_iter().collect();
        let search: Vec<String> = if listed.is_empty() { own() } else { listed };
        let real = search
            .iter()
            .filter(|domain| !matches!(domain.as_str(), "." | "--" | ""));
        self.search = real.take(SEARCH).map(|domain| short(domain)).collect();
        // resolver(5): RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY.
        self.ndots = conf.ndots.min(15);
        self.timeout_ms = u64::from(conf.timeout.clamp(1, 30)) * 1000;
        self.attempts = conf.attempts.clamp(1, 5);
        let options = [
            ("rotate", conf.rotate),
            ("use-vc", conf.use_vc),
            ("no-aaaa", conf.no_aaaa),
            ("single-request", conf.single_request),
            ("edns0", conf.edns0),
            ("trust-ad", conf.trust_ad),
        ];
        let set = options.into_iter().filter(|(_, set)| *set);
        self.options = set.map(|(name, _)| name.to_owned()).collect();
    }
}

/// The addresses of a name in the hosts file, IPv6 first; none when it is not there.
pub fn hosts(path: &Path, name: &Name) -> io::Result<Vec<IpAddr>> {
    let mut hosts = Hosts::default();
    let file = File::open(path)?.take(LARGEST);
    // hickory logs each line that it does not understand; the C library says nothing of them.
    with_default(NoSubscriber::default(), || hosts.read_hosts_conf(file))?;
    let name = name.to_lowercase();
    let mut found = Vec::new();
    for kind in [RecordType::AAAA, RecordType::A] {
        let Some(lookup) = hosts.lookup_static_host(&Query::query(name.clone(), kind)) else {
            continue;
        };
        for record in lookup.answers() {
            if let Some(address) = record.data.ip_addr()
                && !found.contains(&address)
            {
                found.push(address);
            }
        }
    }
    Ok(found)
}

/// The sources of the `hosts:` line, with their reactions (`[NOTFOUND=return]`) as words of their own.
fn order(nsswitch: &str) -> Option<Vec<String>> {
    let line = nsswitch.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        line.strip_prefix("hosts:")
    })?;
    let words: Vec<String> = line.split_whitespace().take(32).map(short).collect();
    (!words.is_empty()).then_some(words)
}

fn address(server: &ScopedIp) -> Option<SocketAddr> {
    match server {
        ScopedIp::V4(ip) => Some((*ip, 53).into()),
        ScopedIp::V6(ip, scope) => {
            let scope = match scope.as_deref() {
                None => 0,
                Some(scope) => u32::from_str(scope)
                    .or_else(|_| nix::net::if_::if_nametoindex(scope))
                    .ok()?,
            };
            Some(SocketAddrV6::new(*ip, 53, 0, scope).into())
        }
    }
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(path: &Path) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&bytes(path)?).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(resolv_conf: &str, nsswitch: &str) -> (tempfile::TempDir, Names) {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let names = Names {
            hosts: file(
                "hosts",
                "192.0.2.1 Shop.test shop # comment\n2001:db8::1 shop\n",
            ),
            resolv_conf: file("resolv.conf", resolv_conf),
            nsswitch: file("nsswitch.conf", nsswitch),
            servers: Vec::new(),
        };
        (dir, names)
    }

    #[test]
    fn servers_search_and_options_are_read() {
        let text = "search a.test b.test\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n\
                    options ndots:2 timeout:3 attempts:4 use-vc rotate\n";
        let (_dir, names) = names(
            text,
            "passwd: files\nhosts: files mdns4 [NOTFOUND=return] dns\n",
        );
        let config = Config::read(&names);
        let facts = &config.facts;
        assert_eq!(
            facts.servers,
            [
                "192.0.2.53:53".parse().unwrap(),
                "[2001:db8::53]:53".parse().unwrap()
            ]
        );
        assert_eq!(facts.servers_from, ServersFrom::ResolvConf);
        assert_eq!(facts.search, ["a.test", "b.test"]);
        assert_eq!(
            (facts.ndots, facts.timeout_ms, facts.attempts),
            (2, 3000, 4)
        );
        assert!(facts.has("use-vc") && facts.has("rotate") && !facts.has("no-aaaa"));
        assert_eq!(facts.order, ["files", "mdns4", "[NOTFOUND=return]", "dns"]);
        assert!(config.findings.is_empty());
    }

    #[test]
    fn without_a_server_the_machine_itself_is_asked() {
        let (_dir, names) = names("options edns0\n", "");
        let facts = Config::read(&names).facts;
        assert_eq!(facts.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(facts.servers_from, ServersFrom::Default);
        assert_eq!(facts.order, ["files", "dns"]);
    }

    #[test]
    fn missing_files_are_told_and_do_no_harm() {
        let (dir, mut names) = names("", "");
        names.resolv_conf = dir.path().join("none");
        names.nsswitch = dir.path().join("none");
        let config = Config::read(&names);
        assert_eq!(config.facts.servers_from, ServersFrom::Default);
        assert_eq!(config.facts.problems.len(), 1);
    }

    #[test]
    fn a_server_that_is_no_address_is_found() {
        let (_dir, names) = names("nameserver dns.test\nnameserver 192.0.2.53\n", "");
        let config = Config::read(&names);
        assert_eq!(config.findings[0].code, "name_config");
        assert_eq!(config.facts.servers.len(), 1);
    }

    #[test]
    fn a_fourth_server_is_never_asked() {
        let text = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let (_dir, names) = names(text, "");
        let config = Config::read(&names);
        assert_eq!(config.facts.servers.len(), 3);
        assert_eq!(config.findings[0].code, "name_servers_beyond_limit");
    }

    #[test]
    fn the_hosts_file_is_read_without_regard_to_case() {
        let (_dir, names) = names("", "");
        let found = |name| hosts(&names.hosts, &Name::from_ascii(name).unwrap()).unwrap();
        assert_eq!(
            found("shop.TEST."),
            ["192.0.2.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(
            found("shop"),
            [
                "2001:db8::1".parse::<IpAddr>().unwrap(),
                "192.0.2.1".parse().unwrap()
            ]
        );
        assert_eq!(found("comment"), Vec::<IpAddr>::new());
    }
}
