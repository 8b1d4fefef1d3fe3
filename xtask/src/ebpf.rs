//! Builds the eBPF objects with the toolchain that `cargo xtask setup` found.
//!
//! Shared by path with the build scripts of net-user and net-tests, hence std only.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const TARGET: &str = "bpfel-unknown-none";

/// BTF for the maps and kernel types, debug information for the verifier's messages.
const RUSTFLAGS: &str = "-C linker=bpf-linker -C target-cpu=v3 -C link-arg=--btf -C debuginfo=2";

/// What `cargo xtask setup` found, as it stands in the toolchain file.
#[derive(Debug, PartialEq)]
pub struct Toolchain {
    /// `debian` or `nightly`, for messages.
    pub road: String,
    pub cargo: PathBuf,
    pub rustc: PathBuf,
    /// The directory of bpf-linker.
    pub linker_dir: PathBuf,
    /// Further arguments of every cargo command, such as `-Zbuild-std=core`.
    pub cargo_args: Vec<String>,
}

impl Toolchain {
    /// The file that `cargo xtask setup` writes: KEY=VALUE lines.
    pub fn file(workspace: &Path) -> PathBuf {
        workspace.join("target/netmoat/toolchain")
    }

    /// The toolchain in use, or one line that says what to do.
    pub fn read(workspace: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(Self::file(workspace))
            .map_err(|_| "the eBPF toolchain is not set up: run `cargo xtask setup`")?;
        let toolchain = Self::parse(&text)?;
        let linker = toolchain.linker_dir.join("bpf-linker");
        for program in [&toolchain.cargo, &toolchain.rustc, &linker] {
            if !program.is_file() {
                let program = program.display();
                return Err(format!(
                    "the eBPF toolchain lost {program}: run `cargo xtask setup` again"
                ));
            }
        }
        Ok(toolchain)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value = |key: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let found = lines.find(|(name, _)| *name == key).map(|(_, value)| value);
            found.ok_or(format!(
                "the toolchain file names no {key}: run `cargo xtask setup` again"
            ))
        };
        Ok(Self {
            road: value("road")?.into(),
            cargo: value("cargo")?.into(),
            rustc: value("rustc")?.into(),
            linker_dir: value("linker_dir")?.into(),
            cargo_args: value("cargo_args")?
                .split_whitespace()
                .map(Into::into)
                .collect(),
        })
    }

    #[allow(dead_code, reason = "setup writes, the build scripts only read")]
    pub fn to_text(&self) -> String {
        let mut text = String::from("# Written by `cargo xtask setup`.\n");
        for (key, value) in [
            ("road", self.road.clone()),
            ("cargo", self.cargo.display().to_string()),
            ("rustc", self.rustc.display().to_string()),
            ("linker_dir", self.linker_dir.display().to_string()),
            ("cargo_args", self.cargo_args.join(" ")),
        ] {
            writeln!(text, "{key}={value}").expect("a String takes every write");
        }
        text
    }

    /// `cargo <subcommand>` on net-ebpf for the BPF target, free of the outer cargo's settings.
    pub fn cargo(&self, workspace: &Path, subcommand: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        for (name, _) in env::vars_os().filter(|(name, _)| belongs_to_outer_cargo(name)) {
            command.env_remove(name);
        }
        // cargo looks for `cargo-clippy` and rustc for `bpf-linker` along PATH; rustup's own
        // would otherwise stand first.
        let toolchain_bin = self.cargo.parent().unwrap_or(Path::new("/usr/bin"));
        command
            .env("PATH", path_with(&[&self.linker_dir, toolchain_bin]))
            .env("RUSTC", &self.rustc)
            // aya-ebpf uses `asm_experimental_arch`, which Debian's stable rustc refuses otherwise.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", RUSTFLAGS)
            .current_dir(workspace)
            .stdin(Stdio::null())
            .arg(subcommand)
            .args(["--package", "net-ebpf", "--release", "--target", TARGET])
            // Its own: the outer cargo holds the lock of the ordinary one while we run.
            .arg("--target-dir")
            .arg(workspace.join("target/netmoat/ebpf"))
            .args(&self.cargo_args);
        command
    }

    /// Builds one eBPF object and returns where it lies.
    pub fn build(&self, workspace: &Path, bin: &str, features: &[&str]) -> Result<PathBuf, String> {
        let mut cargo = self.cargo(workspace, "build");
        cargo.args(["--bin", bin]);
        if !features.is_empty() {
            cargo.arg("--features").arg(features.join(","));
        }
        let status = cargo
            .status()
            .map_err(|error| format!("cannot start {}: {error}", self.cargo.display()))?;
        if !status.success() {
            return Err(format!(
                "the eBPF build of {bin} failed ({status}); see above"
            ));
        }
        let release = Path::new("target/netmoat/ebpf")
            .join(TARGET)
            .join("release");
        Ok(workspace.join(release).join(bin))
    }
}

/// Variables that would steer the inner cargo: the outer one's flags, wrappers (clippy), target
/// directory and package facts, and the library path of its rustc. What a user configures about
/// the network and the registry stays, and so does the job server.
fn belongs_to_outer_cargo(name: &OsStr) -> bool {
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
    ];
    let Some(name) = name.to_str() else {
        return false;
    };
    match name {
        "LD_LIBRARY_PATH" | "CLIPPY_ARGS" | "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" => true,
        // aya's build scripts run again whenever it changes.
        "HOST" => true,
        _ if name.starts_with("RUSTC") || name.starts_with("RUSTDOC") => true,
        _ if name.starts_with("CARGO") => !KEPT.iter().any(|kept| name.starts_with(kept)),
        _ => false,
    }
}

/// PATH with these directories first.
pub fn path_with(first: &[&Path]) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = first
        .iter()
        .map(|&path| path.to_owned())
        .chain(env::split_paths(&path));
    // Only a directory with a colon in its name cannot be joined; then cargo names what it misses.
    env::join_paths(directories).unwrap_or(path)
}

/// A build script's whole work: the object `bin` of net-ebpf in `OUT_DIR`, under its own name.
#[allow(dead_code, reason = "only the build scripts call it")]
pub fn embed(bin: &str, features: &[&str]) {
    let variable = |name| env::var_os(name).map(PathBuf::from).expect("cargo sets it");
    let package = variable("CARGO_MANIFEST_DIR");
    let workspace = package
        .parent()
        .expect("every package lies in the workspace");
    let toolchain_file = Toolchain::file(workspace);
    for input in ["net-ebpf", "net-common", "Cargo.toml", "Cargo.lock"] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(input).display()
        );
    }
    println!("cargo::rerun-if-changed={}", toolchain_file.display());
    let toolchain = match Toolchain::read(workspace) {
        Ok(toolchain) => toolchain,
        Err(message) => {
            // cargo prints it as one line and fails the build.
            println!("cargo::error={message}");
            return;
        }
    };
    let copied = toolchain
        .build(workspace, bin, features)
        .and_then(|object| {
            let copy = variable("OUT_DIR").join(bin);
            fs::copy(&object, copy).map_err(|error| format!("{}: {error}", object.display()))
        });
    if let Err(message) = copied {
        // Exits, so that cargo shows what the eBPF build said on stderr.
        eprintln!("{message}");
        std::process::exit(1);
    }
}
