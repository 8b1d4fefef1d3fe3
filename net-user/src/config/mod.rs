//! Configuration: the file as written ([`raw`]), then resolved into plain values with every default
//! applied ([`resolve`]). Unknown keys are refused, and errors name the place and the remedy.

pub mod error;
pub mod events;
pub mod guards;
pub mod interface;
pub mod lists;
pub mod metrics;
pub mod neighbor;
pub mod probe;
pub mod raw;
pub mod resolve;
pub mod show;
mod sources;
pub mod units;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use net_common::units::Mac;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use error::nearest;
pub use error::{ConfigError, Problem};
pub use events::EventsPolicy;
pub use guards::GuardPolicy;
pub use interface::Pattern;
pub use lists::ListPolicy;
pub use metrics::MetricsPolicy;
pub use neighbor::parse_mac;
pub use probe::ProbePolicy;
pub use units::{HumanDuration, Rate, UnitError};

/// Read when it exists and no `-c` is given.
pub const DEFAULT_PATH: &str = "/etc/netmoat/netmoat.toml";
/// The control socket unless the config or the command line names another.
pub const DEFAULT_SOCKET: &str = "/run/netmoat/control.sock";
/// What outlives the agent is kept here unless the config names another directory.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/netmoat";
/// No honest config comes near it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What the agent works by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Interfaces to attach to; never empty, none twice.
    pub interfaces: Vec<Pattern>,
    /// Whether drops and answers are carried out or only counted.
    pub mode: Mode,
    /// How to attach XDP.
    pub xdp_mode: XdpMode,
    /// Name of the instance: of its pins, and of its paths unless they are named.
    pub instance: String,
    /// What becomes of protection when the agent stops.
    pub on_exit: OnExit,
    /// Path of the control socket.
    pub socket: PathBuf,
    /// SYN cookies and limits.
    pub syn: SynPolicy,
    /// ARP and neighbour discovery.
    pub neighbors: NeighborPolicy,
    /// IP, ICMP, UDP and TCP without a listener.
    pub guards: GuardPolicy,
    /// Block and allow lists.
    pub lists: ListPolicy,
    /// Sampled drops.
    pub events: EventsPolicy,
    /// Where metrics are served.
    pub metrics: MetricsPolicy,
    /// What the agent probes by itself; no name twice.
    pub probes: Vec<ProbePolicy>,
    /// Directory of what outlives the agent: learned and pinned bindings, their history, lists.
    pub state_dir: PathBuf,
    /// The file that this came from, if any.
    pub source: Option<PathBuf>,
    /// The files beside it, of which later ones win.
    pub drop_ins: Vec<PathBuf>,
    /// How it is read again.
    #[serde(skip)]
    pub origin: Origin,
}

/// What [`Config::load`] was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file, as an absolute path; none for [`DEFAULT_PATH`], which need not be there.
    pub path: Option<PathBuf>,
    /// What the command line said.
    pub overrides: Overrides,
}

/// Whether verdicts are carried out.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What would be dropped or answered passes, and is counted as such
    Observe,
    /// Verdicts are carried out
    Enforce,
}

impl Mode {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

/// What becomes of protection when the agent stops, in whatever way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// Programs and maps stay in the kernel and go on; the next start takes them over.
    Keep,
    /// Everything goes with the process.
    Detach,
}

/// The instance when none is named.
pub const DEFAULT_INSTANCE: &str = "default";

/// Why this cannot be the name of an instance, if it cannot.
pub fn instance_name_fault(name: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ok = (1..=32).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('-');
    (!ok).then(|| {
        format!(
            "`{}` is no name of an instance: write 1 to 32 lower-case letters, digits or `-`, no `-` first",
            name.escape_debug()
        )
    })
}

/// The control socket of an instance that names no other.
pub fn socket_of(instance: &str) -> PathBuf {
    match instance {
        DEFAULT_INSTANCE => PathBuf::from(DEFAULT_SOCKET),
        name => PathBuf::from(format!("/run/netmoat/{name}/control.sock")),
    }
}

/// The state directory of an instance that names no other.
pub fn state_dir_of(instance: &str) -> PathBuf {
    match instance {
        DEFAULT_INSTANCE => PathBuf::from(DEFAULT_STATE_DIR),
        name => Path::new(DEFAULT_STATE_DIR).join(name),
    }
}

/// How XDP is attached.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native if the driver has it, otherwise generic with a warning
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the kernel's generic path: slower, works with every driver
    Generic,
}

/// When SYNs to a listener are answered with cookies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SynMode {
    /// Never; the kernel answers.
    Off,
    /// Beyond the budget of plain handshakes.
    #[default]
    Auto,
    /// Always.
    Always,
}

/// SYN cookies and limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SynPolicy {
    /// For every listening port that is not in `overrides`.
    pub default: ListenerPolicy,
    /// By listening port; excluded ports stand here as [`SynMode::Off`].
    pub overrides: BTreeMap<u16, ListenerPolicy>,
    /// SYN-ACKs per destination prefix (/24, /64).
    pub syn_ack_limit: Rate,
    /// Burst of the same.
    pub syn_ack_burst: u32,
    /// Time between two changes of the cookie key.
    #[serde(serialize_with = "humane")]
    pub key_rotation: Duration,
}

impl SynPolicy {
    /// The policy of a listening port.
    pub fn for_port(&self, port: u16) -> &ListenerPolicy {
        self.overrides.get(&port).unwrap_or(&self.default)
    }
}

/// How SYNs to one listening port are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerPolicy {
    /// When cookies are sent.
    pub mode: SynMode,
    /// Plain handshakes in [`SynMode::Auto`].
    pub budget: Rate,
    /// Burst of the budget, 1 to 1,000,000.
    pub burst: u32,
}

/// Whether a guard judges, and whether its drops are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuardMode {
    /// It judges nothing.
    Off,
    /// What it would drop passes and is counted as such; alerts are raised.
    #[default]
    Observe,
    /// It drops.
    Enforce,
}

/// ARP and neighbour discovery: tables `[arp]`, `[ndp]` and `[neighbors]`, and every `[[neighbor]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NeighborPolicy {
    /// Mode of the ARP guard.
    pub arp: GuardMode,
    /// Mode of the NDP guard.
    pub ndp: GuardMode,
    /// Optional checks of ARP, none by default (R-ARP-2).
    pub validate: ArpValidate,
    /// RA guard: link-local addresses of the routers that may advertise themselves on any interface, beside
    /// the bindings with `router`. [`NeighborPolicy::ra_guard`] says whether it is on.
    pub routers: Vec<Ipv6Addr>,
    /// Whether the next hops of default routes are learned and then protected (`gateway = "auto"`).
    pub learn_gateways: bool,
    /// Frames of one source link-layer address, ARP and NDP apart.
    pub limit: RateLimit,
    /// ARP announcements of one source link-layer address.
    pub announce_limit: RateLimit,
    /// Frames of known neighbours and answers to requests of ours, an interface.
    pub known_limit: RateLimit,
    /// Frames of all others, an interface.
    pub unknown_limit: RateLimit,
    /// Router advertisements, an interface.
    pub router_limit: RateLimit,
    /// Share reserved for each protected neighbour.
    pub share: RateLimit,
    /// `[[neighbor]]`: bindings named by the operator, always protected.
    pub bindings: Vec<NeighborConfig>,
}

/// A rate with its burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// The rate.
    pub rate: Rate,
    /// The burst, 1 to 1,000,000.
    pub burst: u32,
}

/// The checks that Cisco's dynamic ARP inspection has as options (R-ARP-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ArpValidate {
    /// `"src-mac"`: the Ethernet source is the sender. Breaks VRRP.
    pub src_mac: bool,
    /// `"dst-mac"`: the Ethernet destination of a reply is its target.
    pub dst_mac: bool,
    /// `"ip"`: sender, and target of a reply, are no unspecified, broadcast or multicast address; probes pass.
    pub ip: bool,
}

/// One `[[neighbor]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NeighborConfig {
    /// Its address.
    pub address: IpAddr,
    /// The link-layer addresses that it may be at, 1 to 8, none twice.
    #[serde(serialize_with = "macs")]
    pub macs: Vec<Mac>,
    /// The attached interface where it is; every one when absent.
    pub interface: Option<String>,
    /// VLAN id of its frames, 0 for untagged.
    pub vlan: u16,
    /// May send router advertisements while the RA guard is on.
    pub router: bool,
}

impl Default for NeighborPolicy {
    fn default() -> Self {
        const fn limit(rate: u64, burst: u32) -> RateLimit {
            RateLimit {
                rate: Rate::per_second(rate).unwrap(),
                burst,
            }
        }
        Self {
            arp: GuardMode::Observe,
            ndp: GuardMode::Observe,
            validate: ArpValidate::default(),
            routers: Vec::new(),
            learn_gateways: true,
            limit: limit(100, 200),
            announce_limit: limit(30, 300),
            known_limit: limit(2000, 2000),
            unknown_limit: limit(500, 500),
            router_limit: limit(20, 40),
            share: limit(50, 100),
            bindings: Vec::new(),
        }
    }
}

/// What the command line says in place of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Replaces `interfaces` unless empty.
    pub interfaces: Vec<String>,
    /// Replaces `mode`.
    pub mode: Option<Mode>,
    /// Replaces `xdp_mode`.
    pub xdp_mode: Option<XdpMode>,
    /// Replaces `socket`.
    pub socket: Option<PathBuf>,
    /// Replaces `instance`.
    pub instance: Option<String>,
}

impl Config {
    /// Reads the config at `path`, which must exist; without one the file at [`DEFAULT_PATH`], which need
    /// not. Files in `conf.d` beside it (`blue.d` beside `blue.toml`) win over it, and `overrides` over all.
    ///
    /// # Errors
    /// A file cannot be read, or is not to be believed, or what they say is wrong.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        // An agent may read it again, from another directory.
        let path = path.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let file = path.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        let sources = sources::Sources::read(file, path.is_some())?;
        let config = resolve::resolve(&sources, sources.merge()?, overrides)?;
        Ok(Self {
            origin: Origin {
                path,
                overrides: overrides.clone(),
            },
            ..config
        })
    }

    /// Reads a config from text; `path` is named in errors.
    ///
    /// # Errors
    /// What the text says is wrong.
    pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Self, ConfigError> {
        let sources = sources::Sources::of(path, text);
        resolve::resolve(&sources, sources.merge()?, overrides)
    }

    /// Reads it again, as it was read.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn again(&self) -> Result<Self, ConfigError> {
        Self::load(self.origin.path.as_deref(), &self.origin.overrides)
    }
}

/// Reads a file of less than `max` octets that, if we are root, nobody else can have written.
fn read_trusted(path: &Path, max: u64) -> Result<String, ConfigError> {
    let read_error = |source| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    // O_NONBLOCK: opening a FIFO must not hang. All checks are made on the open file, so that it cannot
    // be exchanged in between.
    let file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
        .open(path)
        .map_err(read_error)?;
    let metadata = file.metadata().map_err(read_error)?;
    if let Some((what, remedy)) = distrust(path, &metadata, max) {
        return Err(ConfigError::Unsafe {
            path: path.to_owned(),
            what,
            remedy,
        });
    }
    let mut text = String::new();
    file.take(max)
        .read_to_string(&mut text)
        .map_err(read_error)?;
    Ok(text)
}

/// Why a file is not to be believed, and the remedy.
fn distrust(path: &Path, metadata: &std::fs::Metadata, max: u64) -> Option<(String, String)> {
    if !metadata.is_file() {
        return Some((
            "it is not a regular file".to_owned(),
            "give -c the path of a TOML file".to_owned(),
        ));
    }
    if metadata.len() >= max {
        return Some((
            format!("it has {} octets, and the limit is {max}", metadata.len()),
            "give -c the path of a netmoat config".to_owned(),
        ));
    }
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let path = path.display();
    if metadata.uid() != 0 {
        return Some((
            format!(
                "it belongs to uid {}, who could rewrite it for an agent that runs as root",
                metadata.uid()
            ),
            format!("chown root {path}"),
        ));
    }
    if metadata.mode() & 0o002 != 0 {
        return Some((
            format!(
                "anyone may write to it (mode {:04o})",
                metadata.mode() & 0o7777
            ),
            format!("chmod o-w {path}"),
        ));
    }
    None
}

fn humane<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    match HumanDuration::new(*duration) {
        Some(duration) => duration.serialize(serializer),
        None => Err(serde::ser::Error::custom("duration beyond 365 days")),
    }
}

fn macs<S: serde::Serializer>(macs: &[Mac], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(macs.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests;
