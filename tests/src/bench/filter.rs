//! Debian's `xdp-filter` on a link.

use std::process::Command;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
use std::net::Ipv4Addr;

use crate::topology::Host;

/// It on a host's link; taken off when dropped.
pub struct Filter<'a> {
    host: &'a Host,
    /// Id of the program that the kernel times.
    pub program: u32,
}

impl<'a> Filter<'a> {
    /// Loads it with what only concerns addresses, and blocks them as sources.
    pub fn new(host: &'a Host, features: &str, addresses: impl Iterator<Item = Ipv4Addr>) -> Result<Self> {
        let name = &host.link.name;
        host.ns.succeed(Command::new("xdp-filter").args(["load", name, "-m", "native", "-f", features]))?;
        let shown = host.ns.succeed(Command::new("ip").args(["-j", "-d", "link", "show", name]))?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let program = shown[0]["xdp"]["prog"]["id"].as_u64().context("no XDP program")? as u32;
        eprintln!("{}", shown[0]["xdp"]);
        // Value: a packet count above the flags; 1 is "source".
        let map = MapData::from_pin("/sys/fs/bpf/xdp-filter/filter_ipv4")?;
        let mut map: PerCpuHashMap<_, u32, u64> = Map::from_map_data(map)?.try_into()?;
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| e)?;
        for address in addresses {
            let values = PerCpuValues::try_from(vec![1u64; cpus])?;
            map.insert(u32::from_ne_bytes(address.octets()), values, 0)?;
        }
        Ok(Self { host, program })
    }
}

impl Drop for Filter<'_> {
    fn drop(&mut self) {
        let _ = self.host.ns.succeed(Command::new("xdp-filter").args(["unload", &self.host.link.name]));
    }
}
