//! The lists' contenders: Debian's `xdp-filter`, and a set at nftables' ingress hook.

use std::{fmt::Write as _, net::Ipv4Addr, process::Command};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::topology::Host;

/// Where `xdp-filter` pins its maps.
const BPFFS: &str = "/sys/fs/bpf";
/// As many addresses as `xdp-filter` takes.
pub const FILTER_MOST: u32 = 10_000;

/// Mounts bpffs, for this thread and those that it starts, if the machine has none.
///
/// # Errors
/// Not root.
pub fn own_bpffs() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace of our own")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    if statfs(BPFFS)?.filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none)?;
    }
    Ok(())
}

/// `xdp-filter` on a host's link; taken off when dropped.
pub struct Filter<'a> {
    host: &'a Host,
    /// Id of its program.
    pub program: u32,
}

impl<'a> Filter<'a> {
    /// Loads the variant of some features, and blocks sources.
    ///
    /// # Errors
    /// It is not installed, or there are more than [`FILTER_MOST`].
    pub fn new(
        host: &'a Host,
        features: &str,
        sources: impl Iterator<Item = Ipv4Addr>,
    ) -> Result<Self> {
        let link = &host.link.name;
        let mut load = Command::new("xdp-filter");
        load.args(["load", link, "--mode", "native", "--features", features]);
        host.ns
            .succeed(&mut load)
            .context("xdp-filter is Debian's package xdp-tools")?;
        let mut filter = Self { host, program: 0 };
        let mut show = Command::new("ip");
        let shown = host
            .ns
            .succeed(show.args(["-json", "-details", "link", "show", link]))?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let id = shown[0]["xdp"]["prog"]["id"].as_u64();
        filter.program = u32::try_from(id.context("xdp-filter is not attached")?)?;
        // One by one its command line would take an hour; it writes the same: a count above the flag for "source".
        let map = MapData::from_pin(format!("{BPFFS}/xdp-filter/filter_ipv4"))?;
        let mut map: PerCpuHashMap<_, u32, u64> = Map::from_map_data(map)?.try_into()?;
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        for source in sources {
            let flags = PerCpuValues::try_from(vec![1; cpus])?;
            map.insert(u32::from_ne_bytes(source.octets()), flags, 0)?;
        }
        Ok(filter)
    }
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        let mut unload = Command::new("xdp-filter");
        // On the way out nothing can be done about a failure.
        let _ = self
            .host
            .ns
            .succeed(unload.args(["unload", &self.host.link.name]));
    }
}

/// Drops sources by a set at the ingress hook of a host's link.
///
/// # Errors
/// nftables is not installed.
pub fn nftables(host: &Host, sources: impl Iterator<Item = Ipv4Addr>) -> Result<()> {
    let mut rules = format!(
        "table netdev lab {{
            set listed {{ type ipv4_addr; }}
            chain ingress {{
                type filter hook ingress device {} priority 0; policy accept;
                ip saddr @listed drop
            }}
        }}\n",
        host.link.name
    );
    let sources: Vec<_> = sources.collect();
    for some in sources.chunks(10_000) {
        rules += "add element netdev lab listed {";
        for source in some {
            let _ = write!(rules, "{source},");
        }
        rules += "}\n";
    }
    host.ns.nft(&rules)
}
