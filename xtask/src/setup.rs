//! `cargo xtask setup`: what the build, the demo and the tests need on this machine.

use anyhow::{Result, anyhow, bail};
use nix::sys::statvfs::statvfs;

use crate::{
    packages::{self, HostTool},
    process,
    toolchain::{self, DEBIAN_PACKAGES, Linker, Road},
};

/// Find or install the eBPF toolchain and the tools of demo and tests
///
/// Takes the road that already works: Debian's rustc-web with its core for BPF, or rustup's nightly
/// with rust-src. If neither does, installs Debian's packages where apt has them (root), rustup's
/// nightly elsewhere. bpf-linker is built under target/, where the result is recorded too.
/// Without root it prints the commands that need it and changes nothing.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask setup                     everything, for `cargo xtask demo` and `test`
  cargo xtask setup --toolchain-only    only what `cargo build` needs")]
pub struct Args {
    /// Leave out the programs that only the demo and the tests start
    #[arg(long)]
    toolchain_only: bool,
}

/// How much has to be there.
#[derive(Clone, Copy, PartialEq)]
pub enum Scope {
    Toolchain,
    Everything,
}

pub fn run(args: &Args) -> Result<()> {
    ensure(if args.toolchain_only {
        Scope::Toolchain
    } else {
        Scope::Everything
    })
}

/// What a build of everything takes: 3.3 GiB in a fresh clone for lint and test, 1 more for the demo, and some room.
const BUILD_TAKES_GIB: u64 = 6;

/// Tells of a file system without room for the build: a linker that finds none dies of a signal and does not say why.
fn tell_of_little_room() {
    // Nobody has built here yet: the clone's own file system then.
    let room = [process::target_dir(), process::workspace_root()]
        .iter()
        .find_map(|directory| statvfs(directory).ok())
        .map(|found| (found.blocks_available() * found.fragment_size()) >> 30);
    if let Some(gib) = room.filter(|gib| *gib < BUILD_TAKES_GIB) {
        eprintln!(
            "setup: {gib} GiB are free where cargo builds ({}); a build of everything from nothing takes up to \
             {BUILD_TAKES_GIB}. Make room there or set CARGO_TARGET_DIR",
            process::target_dir().display()
        );
    }
}

/// Finds or installs all of it; quick and without effect when everything is there.
pub fn ensure(scope: Scope) -> Result<()> {
    tell_of_little_room();
    let workspace = process::workspace_root();
    let tools = match scope {
        Scope::Toolchain => Vec::new(),
        Scope::Everything => packages::missing(&packages::HOST_TOOLS),
    };
    let (road, linker) = match find_road() {
        Ok(found) if tools.is_empty() => found,
        Ok(found) => {
            install_missing(&[], &tools)?;
            found
        }
        Err(obstacle) => {
            let missing = missing_toolchain();
            // What can be installed is there and still no use: the obstacle says what is missing.
            let nothing_to_add = !packages::has_apt() && Road::nightly().is_some();
            if missing.is_empty() || nothing_to_add {
                return Err(obstacle);
            }
            install_missing(&missing, &tools)?;
            find_road()?
        }
    };
    let linker_dir = match linker {
        Linker::Ready(directory) => directory,
        Linker::Build { llvm_prefix } => road.build_linker(&workspace, &llvm_prefix)?,
    };
    eprintln!(
        "setup: eBPF toolchain: {}, {}/bpf-linker",
        road.describe(),
        linker_dir.display()
    );
    road.record(&workspace, linker_dir)
}

/// Finds or installs programs of Debian packages beyond those of [`Scope::Everything`].
pub fn ensure_tools(tools: &[HostTool]) -> Result<()> {
    let missing = packages::missing(tools);
    if missing.is_empty() {
        return Ok(());
    }
    install_missing(&[], &missing)
}

/// The first road that can be walked to its end, bpf-linker included.
fn find_road() -> Result<(Road, Linker)> {
    let workspace = process::workspace_root();
    let mut obstacles = Vec::new();
    for road in [Road::debian(&missing_toolchain()), Road::nightly()]
        .into_iter()
        .flatten()
    {
        match road.linker(&workspace) {
            Ok(linker) => return Ok((road, linker)),
            Err(obstacle) => obstacles.push(obstacle.to_string()),
        }
    }
    if obstacles.is_empty() {
        obstacles.push("neither Debian's rustc-web nor rustup's nightly with rust-src".into());
    }
    Err(anyhow!(
        "no Rust compiler for BPF: {}",
        obstacles.join("; ")
    ))
}

fn missing_toolchain() -> Vec<&'static str> {
    packages::missing_packages(DEBIAN_PACKAGES.iter().map(|(package, _)| *package))
}

/// Installs the packages of a road, if there is none yet, and those of the missing tools.
fn install_missing(road_packages: &[&str], tools: &[&HostTool]) -> Result<()> {
    let described: Vec<_> = tools.iter().map(|tool| tool.describe()).collect();
    if !packages::has_apt() {
        if !tools.is_empty() {
            bail!(
                "please install with your package manager:\n  {}",
                described.join("\n  ")
            );
        }
        return toolchain::install_nightly();
    }
    let tool_packages: Vec<_> = tools.iter().map(|tool| tool.package()).collect();
    let wanted = [road_packages, &tool_packages].concat();
    let missing = explain(road_packages, &described);
    if !process::is_root() {
        let update = packages::apt_update();
        let commands = std::iter::once(update).chain(packages::install_commands(&wanted));
        let commands: Vec<_> = commands.map(|command| process::display(&command)).collect();
        bail!(
            "missing:\n  {missing}\nThese commands need root; run them, then this again:\n  {}",
            commands.join("\n  ")
        );
    }
    eprintln!("setup: missing:\n  {missing}");
    process::run(&mut packages::apt_update())?;
    if road_packages.is_empty() || packages::apt_can_install(road_packages) {
        return packages::install(&wanted);
    }
    eprintln!("setup: apt cannot install {} here", road_packages.join(" "));
    toolchain::install_nightly()?;
    if tool_packages.is_empty() {
        return Ok(());
    }
    packages::install(&tool_packages)
}

/// One line a package: what it is for.
fn explain(road_packages: &[&str], tools: &[String]) -> String {
    let road = DEBIAN_PACKAGES
        .iter()
        .filter(|(package, _)| road_packages.contains(package));
    let road = road.map(|(package, reason)| format!("{package} ({reason})"));
    road.chain(tools.iter().cloned())
        .collect::<Vec<_>>()
        .join("\n  ")
}
