//! What an operator, or anybody else with enough privileges, does to maps and links with bpftool.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;
use serde_json::Value;

/// Octets of an entry's key and value.
pub type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// A map that a process holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    id: u64,
}

impl Map {
    /// The map of a name among those that `pid` holds; the kernel keeps 15 octets of it.
    ///
    /// # Errors
    /// It holds none of that name.
    pub fn of(pid: Pid, name: &str) -> Result<Self> {
        let kept = name.get(..15).unwrap_or(name);
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let id = text.lines().find_map(|line| line.strip_prefix("map_id:"));
            if let Some(id) = id.and_then(|id| id.trim().parse().ok()) {
                let shown = bpftool(&["map", "show", "id", &format!("{id}")])?;
                if shown["name"] == kept {
                    return Ok(Self { id });
                }
            }
        }
        anyhow::bail!("process {pid} holds no map {name}")
    }

    /// Every entry of it.
    ///
    /// # Errors
    /// bpftool fails.
    pub fn dump(self) -> Result<Entries> {
        let dumped = bpftool(&["map", "dump", "id", &self.id.to_string()])?;
        let entries = dumped.as_array().context("no list of entries")?;
        let entry = |entry: &Value| Some((octets(&entry["key"])?, octets(&entry["value"])?));
        let entries: Option<_> = entries.iter().map(entry).collect();
        entries.with_context(|| format!("entries of another form: {dumped}"))
    }

    /// Writes an entry.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn update(self, key: &[u8], value: &[u8]) -> Result<()> {
        let id = self.id.to_string();
        let (key, value) = (hex(key), hex(value));
        let words = format!("map update id {id} key hex {key} value hex {value}");
        bpftool(&words.split_whitespace().collect::<Vec<_>>()).map(drop)
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// There is none.
    pub fn delete(self, key: &[u8]) -> Result<()> {
        let words = format!("map delete id {} key hex {}", self.id, hex(key));
        bpftool(&words.split_whitespace().collect::<Vec<_>>()).map(drop)
    }
}

/// Takes the program of this id off every interface that a link holds it on.
///
/// # Errors
/// It is on none.
pub fn detach(program: u32) -> Result<()> {
    let links = bpftool(&["link", "list"])?;
    let links = links.as_array().context("no list of links")?;
    let of = |link: &&Value| link["prog_id"] == program;
    let ids: Vec<_> = links
        .iter()
        .filter(of)
        .map(|link| link["id"].to_string())
        .collect();
    ensure!(!ids.is_empty(), "program {program} has no link");
    for id in ids {
        bpftool(&["link", "detach", "id", &id])?;
    }
    Ok(())
}

fn bpftool(arguments: &[&str]) -> Result<Value> {
    let output = Command::new("bpftool").arg("-j").args(arguments).output();
    let output = output.context("bpftool cannot be started")?;
    ensure!(
        output.status.success(),
        "bpftool {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // Changes print nothing.
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&output.stdout).context("bpftool printed no JSON")
}

/// `["0x01", …]` as octets.
fn octets(value: &Value) -> Option<Vec<u8>> {
    let octet =
        |value: &Value| u8::from_str_radix(value.as_str()?.trim_start_matches("0x"), 16).ok();
    value.as_array()?.iter().map(octet).collect()
}

fn hex(octets: &[u8]) -> String {
    let octets: Vec<_> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(" ")
}
