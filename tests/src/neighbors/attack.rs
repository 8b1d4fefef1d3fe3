//! The attackers' own tools, aimed at the victim of a [`Scene`] and at nobody else. Each runs until it is
//! dropped, and is then killed: it has no chance to clean up behind itself.

use std::{fs, io::Write as _, process::Command, thread};

use tempfile::NamedTempFile;

use crate::{
    neighbors::{Scene, link_local, mac},
    process::Process,
    topology::Host,
};

/// A tool at work. What it printed is shown when a test fails.
pub struct Attack {
    process: Process,
    name: String,
    _files: Vec<NamedTempFile>,
}

impl Attack {
    /// Starts a tool in a host's namespace.
    pub fn start(host: &Host, words: &[&str]) -> Self {
        Self::run(host, words, Vec::new())
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        self.process.printed()
    }

    fn run(host: &Host, words: &[&str], files: Vec<NamedTempFile>) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Self {
            process: Process::start(&host.ns, &mut command).unwrap(),
            name: words.join(" "),
            _files: files,
        }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("=== {}\n{}", self.name, self.printed());
        }
    }
}

/// Runs a tool to its end.
pub fn run(host: &Host, words: &[&str]) -> String {
    host.ns
        .succeed(Command::new(words[0]).args(&words[1..]))
        .unwrap()
}

/// Bounds whatever leaves a host to a rate as `tc` takes it: how floods of tools without a limit of their own are
/// kept from eating the machine. Lifted with None.
pub fn throttle(host: &Host, rate: Option<&str>) {
    let dev = &host.link.name;
    let words = match rate {
        Some(rate) => {
            format!("tc qdisc replace dev {dev} root tbf rate {rate} burst 16k latency 20ms")
        }
        None => format!("tc qdisc del dev {dev} root"),
    };
    run(host, &words.split(' ').collect::<Vec<_>>());
}

/// C-29: a false ARP reply to the victim every 2 s.
pub fn arpspoof(scene: &Scene) -> Attack {
    let (victim, gateway) = (scene.victim.v4.to_string(), scene.gateway.v4.to_string());
    Attack::start(
        &scene.attacker,
        &["arpspoof", "-i", "eth0", "-t", &victim, &gateway],
    )
}

/// As [`arpspoof`], but to all hosts at once.
pub fn arpspoof_all(scene: &Scene) -> Attack {
    let gateway = scene.gateway.v4.to_string();
    Attack::start(&scene.attacker, &["arpspoof", "-i", "eth0", &gateway])
}

/// C-30: false ARP requests to the victim and to the gateway.
pub fn ettercap_requests(scene: &Scene) -> Attack {
    ettercap(scene, &["arp_poison_reply = 0", "arp_poison_request = 1"])
}

/// False ARP replies and requests, and an echo request first that makes the victim look for the gateway.
pub fn ettercap_both(scene: &Scene) -> Attack {
    ettercap(scene, &["arp_poison_reply = 1", "arp_poison_request = 1"])
}

/// ettercap with other settings. It reads /etc/ettercap/etter.conf whatever `--config` says, so ours is mounted
/// there for it alone, and it stays root to read our files.
fn ettercap(scene: &Scene, settings: &[&str]) -> Attack {
    let settings = [settings, &["ec_uid = 0"]].concat();
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let changed: Vec<_> = settings.iter().map(|line| name(line)).collect();
    let mut config = NamedTempFile::new().unwrap();
    for line in fs::read_to_string("/etc/ettercap/etter.conf")
        .unwrap()
        .lines()
    {
        let line = changed
            .iter()
            .position(|other| *other == name(line))
            .map_or(line, |at| settings[at]);
        writeln!(config, "{line}").unwrap();
    }
    // Its own search for hosts misses answers on a busy machine.
    let mut hosts = NamedTempFile::new().unwrap();
    for host in [&scene.victim, &scene.gateway] {
        writeln!(hosts, "{} {} -", host.v4, mac(host).to_uppercase()).unwrap();
    }
    let [config_path, hosts_path] =
        [&config, &hosts].map(|file| file.path().to_str().unwrap().to_owned());
    let [victim, gateway] = [&scene.victim, &scene.gateway].map(|host| format!("/{}//", host.v4));
    let words = [
        &["unshare", "--mount", "sh", "-c"],
        &["mount --bind \"$0\" /etc/ettercap/etter.conf && exec \"$@\""][..],
        &[&config_path, "ettercap", "--text", "--quiet", "--only-mitm"],
        &["--iface", "eth0", "--load-hosts", &hosts_path],
        &["--mitm", "arp:remote", &victim, &gateway],
    ]
    .concat();
    Attack::run(&scene.attacker, &words, vec![config, hosts])
}

/// Gratuitous ARP, 20 a second, that puts an address at the attacker.
pub fn gratuitous(scene: &Scene, address: &str) -> Attack {
    let own = mac(&scene.attacker);
    Attack::start(
        &scene.attacker,
        &[
            "mausezahn",
            "eth0",
            "-q",
            "-c",
            "1000",
            "-d",
            "50m",
            "-b",
            "bcast",
            "-t",
            "arp",
            &format!("request, smac={own}, sip={address}, tip={address}"),
        ],
    )
}

/// `arping -U` of an address that a host has: three gratuitous requests, a second apart. No attack by itself.
pub fn announce(from: &Host, address: &str) -> Attack {
    let words = ["arping", "-U", "-c", "3", "-I", "eth0"];
    Attack::start(from, &[&words[..], &["-s", address, address]].concat())
}

/// Unsolicited neighbour advertisements from a router of an address that it has, once a second. No attack by itself.
pub fn advertise(from: &Host, address: &str) -> Attack {
    let words = ["na6", "-i", "eth0", "-s", address, "-d", "ff02::1"];
    let more = ["-t", address, "-E", &mac(from), "-o", "-r", "-l", "-z", "1"];
    Attack::start(from, &[&words[..], &more].concat())
}

/// C-38: a false neighbour advertisement to the victim with the override flag, once a second.
pub fn fake_advertise6(scene: &Scene) -> Attack {
    let [victim, gateway] =
        [&scene.victim, &scene.gateway].map(|host| link_local(host.link.mac).to_string());
    advertise6(scene, &gateway, &victim)
}

/// As [`fake_advertise6`], for an address and a destination of the caller's choice.
pub fn advertise6(scene: &Scene, address: &str, to: &str) -> Attack {
    let words = ["atk6-fake_advertise6", "-w", "1", "eth0"];
    Attack::start(
        &scene.attacker,
        &[&words[..], &[address, to, &mac(&scene.attacker)]].concat(),
    )
}

/// C-37: a router advertisement with a prefix, every few seconds.
pub fn fake_router6(scene: &Scene, prefix: &str) -> Attack {
    Attack::start(&scene.attacker, &["atk6-fake_router6", "eth0", prefix])
}

/// As [`fake_router6`], twice a second, with extension headers in front that are to deceive a guard.
pub fn fake_router26(scene: &Scene, prefix: &str, evasion: &str) -> Attack {
    let words = ["atk6-fake_router26", "-i", "1", "-A", prefix];
    Attack::start(
        &scene.attacker,
        &[&words[..], &["-E", evasion, "eth0"]].concat(),
    )
}

/// C-36: router advertisements of ever other routers with 17 prefixes each, some 300 a second.
pub fn flood_router26(scene: &Scene) -> Attack {
    throttle(&scene.attacker, Some("4mbit"));
    Attack::start(&scene.attacker, &["atk6-flood_router26", "eth0"])
}

/// C-39: claims every address that someone wants for itself, each from another link-layer address.
pub fn dos_new_ip6(scene: &Scene) -> Attack {
    Attack::start(&scene.attacker, &["atk6-dos-new-ip6", "eth0"])
}

/// C-40: solicitations from so many addresses, each with a link-layer address of its own, to the victim.
pub fn ns_flood(scene: &Scene, sources: usize) {
    let (address, mac) = (scene.victim.v6.to_string(), mac(&scene.victim));
    let words = ["ns6", "-i", "eth0", "-s", "2001:2::/64", "-d", &address];
    let more = ["-D", &mac, "-t", &address, "-e", "-F", &sources.to_string()];
    run(&scene.attacker, &[words, more].concat());
}

/// C-31: ARP requests to the victim, all from the attacker's own link-layer address.
pub fn arp_flood(scene: &Scene, count: usize) {
    let own = mac(&scene.attacker);
    let arp = format!(
        "request, smac={own}, sip={}, tip={}",
        scene.attacker.v4, scene.victim.v4
    );
    let count = count.to_string();
    let words = ["mausezahn", "eth0", "-q", "-c", &count, "-d", "100u"];
    run(
        &scene.attacker,
        &[&words[..], &["-b", "bcast", "-t", "arp", &arp]].concat(),
    );
}

/// ARP requests to the victim, each from another link-layer address; the senders are 198.18.0.64 to .127.
pub fn arp_flood_of_strangers(scene: &Scene, count: usize) {
    let target = words(scene.victim.v4.octets());
    let (config, more) = trafgen("198, 18, 0, dinc(64, 127)", &target, count, "200us");
    run(
        &scene.attacker,
        &more.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    drop(config);
}

/// Gratuitous ARP, 1000 a second, up to 30,000, that puts the gateway at ever other link-layer addresses.
pub fn gratuitous_flood(scene: &Scene) -> Attack {
    let gateway = words(scene.gateway.v4.octets());
    let (config, more) = trafgen(&gateway, &gateway, 30_000, "1ms");
    let more: Vec<_> = more.iter().map(String::as_str).collect();
    Attack::run(&scene.attacker, &more, vec![config])
}

fn words(octets: [u8; 4]) -> String {
    octets.map(|octet| octet.to_string()).join(", ")
}

/// ARP requests from random link-layer addresses to all hosts: the config and the command line. Ethernet source and
/// sender differ, which is no matter to anyone (R-ARP-3).
fn trafgen(sender: &str, target: &str, count: usize, gap: &str) -> (NamedTempFile, Vec<String>) {
    let mut config = NamedTempFile::new().unwrap();
    writeln!(
        config,
        "{{ fill(0xff, 6), 0x02, drnd(5), c16(0x0806), c16(1), c16(0x0800), 6, 4, c16(1),\n\
         0x02, drnd(5), {sender}, fill(0, 6), {target} }}"
    )
    .unwrap();
    let (path, count) = (config.path().to_str().unwrap(), count.to_string());
    let words = ["trafgen", "--dev", "eth0", "--conf", path, "--num", &count];
    let more = ["--cpus", "1", "--gap", gap];
    let all = [&words[..], &more].concat();
    let all = all.into_iter().map(str::to_owned).collect();
    (config, all)
}

/// False answers to every solicitation of the victim.
pub fn parasite6(scene: &Scene) -> Attack {
    Attack::start(
        &scene.attacker,
        &["atk6-parasite6", "eth0", &mac(&scene.attacker)],
    )
}
