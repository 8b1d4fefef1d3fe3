//! Debian packages: which are missing, and the commands that install them.

use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// A program that the demo, the tests or the benchmarks start.
pub struct HostTool {
    program: &'static str,
    package: &'static str,
    reason: &'static str,
}

const fn tool(program: &'static str, package: &'static str, reason: &'static str) -> HostTool {
    HostTool {
        program,
        package,
        reason,
    }
}

pub const HOST_TOOLS: [HostTool; 31] = [
    tool("ip", "iproute2", "namespaces, veth pairs, `ss`"),
    tool(
        "nginx",
        "nginx-light",
        "the real server of the demo and the handshake tests",
    ),
    tool(
        "openssl",
        "openssl",
        "answers of an OCSP responder, servers that want a client's certificate",
    ),
    tool(
        "nft",
        "nftables",
        "synproxy to compare with, rules that lose packets",
    ),
    tool("hping3", "hping3", "floods as attackers send them"),
    tool("nmap", "nmap", "scans with every flag combination"),
    tool(
        "mausezahn",
        "netsniff-ng",
        "mausezahn and trafgen: raw and tagged frames",
    ),
    tool(
        "scapy",
        "python3-scapy",
        "hand-made packets from a foreign implementation",
    ),
    tool("ethtool", "ethtool", "offloads of a veth pair"),
    // The package `arping` has another program of this name, with other options; the two conflict.
    tool(
        "arping",
        "iputils-arping",
        "ARP requests, probes and announcements",
    ),
    tool(
        "arpspoof",
        "dsniff",
        "ARP spoofing by replies, as attackers do it",
    ),
    tool(
        "ettercap",
        "ettercap-text-only",
        "ARP spoofing by requests and replies",
    ),
    tool(
        "atk6-fake_router6",
        "thc-ipv6",
        "false routers and neighbours, floods of them, denial of addresses",
    ),
    tool(
        "ns6",
        "ipv6toolkit",
        "IPv6 made to measure: ns6, na6, ra6, frag6, icmp6",
    ),
    tool("udhcpc", "udhcpc", "the honest DHCP client"),
    tool(
        "dnsmasq",
        "dnsmasq-base",
        "a DHCP server and a resolver; this package has no service",
    ),
    tool("ping", "iputils-ping", "echo requests, floods of them"),
    tool(
        "traceroute",
        "traceroute",
        "routes by UDP, ICMP and TCP, which must stay visible",
    ),
    tool("mtr", "mtr-tiny", "routes again and again"),
    tool("dig", "bind9-dnsutils", "the honest resolver's client"),
    tool("knotd", "knot", "authoritative name servers"),
    tool(
        "unbound",
        "unbound",
        "a recursive name server that validates",
    ),
    tool("ldns-signzone", "ldnsutils", "zones signed as DNSSEC wants"),
    tool("curl", "curl", "the real client"),
    tool("tcpdump", "tcpdump", "captures when a test fails"),
    tool(
        "tshark",
        "tshark",
        "Wireshark's reader, which netmoat's captures must satisfy",
    ),
    tool(
        "tmux",
        "tmux",
        "a real terminal for `netmoat top`, with a screen that can be read",
    ),
    tool(
        "bpftool",
        "bpftool",
        "foreign programs on an interface, state of maps",
    ),
    tool("xdp-loader", "xdp-tools", "another's XDP program"),
    tool(
        "systemd-analyze",
        "systemd",
        "what the units expose, and whether systemd understands them",
    ),
    tool(
        "promtool",
        "prometheus",
        "checks of metrics and alerts; its server is kept from starting",
    ),
];

/// What only `cargo xtask dist` starts.
pub const DIST_TOOLS: [HostTool; 5] = [
    tool("dpkg-deb", "dpkg", "the Debian package"),
    tool(
        "dpkg-shlibdeps",
        "dpkg-dev",
        "the libraries that it depends on",
    ),
    tool("rpmbuild", "rpm", "the RPM"),
    tool("strip", "binutils", "a smaller program"),
    tool(
        "mmdebstrap",
        "mmdebstrap",
        "a system in which the packages are tried",
    ),
];

/// Packages whose service is kept from starting, now and at boot: the tests only want a program of theirs.
const SERVICES: [(&str, &str); 4] = [
    ("knot", "knot"),
    ("nginx-light", "nginx"),
    ("prometheus", "prometheus"),
    ("unbound", "unbound"),
];

pub fn missing(tools: &[HostTool]) -> Vec<&HostTool> {
    tools
        .iter()
        .filter(|tool| process::find_program(tool.program).is_none())
        .collect()
}

impl HostTool {
    pub fn package(&self) -> &'static str {
        self.package
    }

    pub fn describe(&self) -> String {
        format!("{} ({})", self.package, self.reason)
    }
}

/// Those of `packages` that dpkg does not know as installed.
pub fn missing_packages<'a>(packages: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let packages: Vec<_> = packages.collect();
    let mut dpkg = Command::new("dpkg-query");
    dpkg.args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(&packages);
    // It fails when it has never heard of one, but lists the others.
    let Ok(output) = dpkg.output() else {
        return packages;
    };
    let listed = String::from_utf8_lossy(&output.stdout);
    let installed = |package: &&str| {
        listed
            .lines()
            .any(|line| line.strip_prefix("installed ") == Some(*package))
    };
    packages
        .into_iter()
        .filter(|package| !installed(package))
        .collect()
}

/// Whether this system installs packages with apt.
pub fn has_apt() -> bool {
    process::find_program("apt-get").is_some()
}

/// Whether apt could install all of them, nothing removed for it.
pub fn apt_can_install(packages: &[&str]) -> bool {
    process::output_of(apt_install(packages).arg("--simulate")).is_some()
}

fn apt_install(packages: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    // --no-remove: rustc-web conflicts with Debian's rustc and rustup; whoever has one decides.
    apt.args([
        "install",
        "--yes",
        "--quiet",
        "--no-install-recommends",
        "--no-remove",
    ])
    .args(packages);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

pub fn apt_update() -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("update");
    apt
}

/// The commands, to be run as root in this order, that install `packages`. nginx and promtool are to lie there for the
/// demo and the tests to start them in their namespaces; their services are kept from starting, now and at boot. A mask
/// under /run is gone with the next boot should we be interrupted.
pub fn install_commands(packages: &[&str]) -> Vec<Command> {
    let install = apt_install(packages);
    let services: Vec<_> = services(packages).collect();
    let command = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    let each = |words: &[&str]| -> Vec<Command> {
        let commands = services.iter().map(|service| {
            let words: Vec<_> = words
                .iter()
                .map(|word| word.replace("SERVICE", service))
                .collect();
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            command(&words)
        });
        commands.collect()
    };
    if std::path::Path::new("/run/systemd/system").is_dir() {
        [
            each(&["systemctl", "mask", "--runtime", "SERVICE.service"]),
            vec![install],
            each(&["systemctl", "unmask", "--runtime", "SERVICE.service"]),
            each(&["systemctl", "disable", "SERVICE.service"]),
        ]
    } else {
        [
            Vec::new(),
            vec![install],
            each(&["service", "SERVICE", "stop"]),
            each(&["update-rc.d", "SERVICE", "disable"]),
        ]
    }
    .into_iter()
    .flatten()
    .collect()
}

/// The services that come with `packages`.
fn services(packages: &[&str]) -> impl Iterator<Item = &'static str> {
    SERVICES
        .into_iter()
        .filter(|(package, _)| packages.contains(package))
        .map(|(_, service)| service)
}

/// Runs them all as root.
pub fn install(packages: &[&str]) -> Result<()> {
    eprintln!(
        "setup: installing {} (apt, may take minutes)",
        packages.join(" ")
    );
    for service in services(packages) {
        eprintln!("setup: the service {service} is kept from starting and disabled");
    }
    for mut command in install_commands(packages) {
        process::run(&mut command).context("packages could not be installed")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_come_with_packages_are_kept_from_running() {
        let lines = |packages: &[&str]| -> Vec<String> {
            let words = |command: &Command| {
                let words = std::iter::once(command.get_program()).chain(command.get_args());
                words
                    .map(|word| word.display().to_string())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            install_commands(packages).iter().map(words).collect()
        };
        assert_eq!(lines(&["curl"]).len(), 1);
        let lines = lines(&["nginx-light", "prometheus"]);
        for service in ["nginx", "prometheus"] {
            let disabled = |line: &&String| line.contains("disable") && line.contains(service);
            assert_eq!(lines.iter().filter(disabled).count(), 1, "{lines:?}");
        }
        assert_eq!(
            lines
                .iter()
                .filter(|line| line.starts_with("apt-get install"))
                .count(),
            1
        );
    }
}
