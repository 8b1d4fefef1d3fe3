//! Other builds of the agent than the one in use.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _};

use crate::process::workspace_binary;

/// `r0 = r9`, while nothing was put into r9: "R9 !read_ok".
const REFUSED: [u8; 8] = [0xbf, 0x90, 0, 0, 0, 0, 0, 0];

/// The agent with another ABI, which `cargo xtask test` builds.
///
/// # Errors
/// It was not built.
pub fn next() -> Result<PathBuf> {
    workspace_binary("netmoat-next")
        .context("`cargo xtask test` builds it, with everything else that the tests need")
}

/// A copy of the agent in a directory, whose XDP program the verifier refuses.
///
/// # Errors
/// The agent was not built, or has no such program.
pub fn refused(directory: &Path) -> Result<PathBuf> {
    let mut binary = fs::read(workspace_binary("netmoat")?)?;
    let first = first_instruction(&binary).context("the agent's binary has no XDP program")?;
    binary
        .get_mut(first..first + REFUSED.len())
        .context("the XDP program is cut off")?
        .copy_from_slice(&REFUSED);
    let path = directory.join("netmoat-refused");
    fs::write(&path, binary)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Where the XDP program begins, in the eBPF object within the binary.
fn first_instruction(binary: &[u8]) -> Option<usize> {
    const MAGIC: &[u8] = b"\x7fELF\x02\x01\x01";
    let starts = binary
        .windows(MAGIC.len())
        .enumerate()
        .filter(|(_, window)| *window == MAGIC);
    starts.map(|(start, _)| start).find_map(|start| {
        let object = object::File::parse(&binary[start..]).ok()?;
        if object.architecture() != object::Architecture::Bpf {
            return None;
        }
        let xdp = object
            .sections()
            .find(|section| section.name().is_ok_and(|name| name.starts_with("xdp")))?;
        let (offset, _) = xdp.file_range()?;
        Some(start + usize::try_from(offset).ok()?)
    })
}
