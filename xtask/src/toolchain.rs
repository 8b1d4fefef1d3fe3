//! The two roads to a Rust compiler for BPF, and bpf-linker for either.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    ebpf::{self, Toolchain},
    process,
};

const LINKER_VERSION: &str = "0.13.0";

/// Debian's own road: its rustc comes with a `core` for BPF, already compiled. bpf-linker reads
/// what rustc writes, so the LLVM named here is that rustc's.
pub const DEBIAN_PACKAGES: [(&str, &str); 7] = [
    ("rustc-web", "the compiler"),
    ("cargo-web", "its cargo"),
    ("rust-web-clippy", "its clippy, for `cargo xtask lint`"),
    ("libstd-rust-web-dev-bpf", "core for bpfel-unknown-none"),
    ("llvm-22-dev", "bpf-linker links LLVM"),
    ("libpolly-22-dev", "named by llvm-config"),
    ("libzstd-dev", "named by llvm-config"),
];

/// A compiler that can build for BPF.
pub struct Road {
    pub name: &'static str,
    bin: PathBuf,
    llvm_major: String,
    cargo_args: &'static [&'static str],
}

/// Where bpf-linker is, or how it is made.
pub enum Linker {
    Ready(PathBuf),
    Build { llvm_prefix: PathBuf },
}

impl Road {
    /// Debian's packages: complete or not at all, since each is needed.
    pub fn debian(missing: &[&str]) -> Option<Self> {
        let core = Path::new("/usr/lib/rustlib/bpfel-unknown-none/lib");
        if !missing.is_empty() || !core.is_dir() {
            return None;
        }
        Self::new("debian", "/usr/bin".into(), &[])
    }

    /// rustup's nightly with rust-src, from which cargo builds `core` itself.
    pub fn nightly() -> Option<Self> {
        let mut rustup = Command::new("rustup");
        // Only a look: nothing is to be downloaded for it.
        rustup.env("RUSTUP_AUTO_INSTALL", "0");
        let sysroot =
            process::output_of(rustup.args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
        let sysroot = PathBuf::from(sysroot.trim());
        if !sysroot.join("lib/rustlib/src/rust/library").is_dir() {
            return None;
        }
        Self::new("nightly", sysroot.join("bin"), &["-Zbuild-std=core"])
    }

    fn new(name: &'static str, bin: PathBuf, cargo_args: &'static [&'static str]) -> Option<Self> {
        let version = process::output_of(Command::new(bin.join("rustc")).arg("-vV"))?;
        let llvm = version
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))?;
        let llvm_major = llvm.split('.').next()?.to_owned();
        Some(Self {
            name,
            bin,
            llvm_major,
            cargo_args,
        })
    }

    pub fn describe(&self) -> String {
        let bin = self.bin.display();
        match self.name {
            "debian" => format!("Debian's packages ({bin}/rustc, LLVM {})", self.llvm_major),
            _ => format!(
                "rustup's nightly with rust-src ({bin}, LLVM {})",
                self.llvm_major
            ),
        }
    }

    /// bpf-linker for this road's LLVM; the error says what is missing.
    pub fn linker(&self, workspace: &Path) -> Result<Linker> {
        let tools = tools_dir(workspace);
        let llvm = &self.llvm_major;
        // cargo's own record of the features that the installed one was built with.
        let record = fs::read_to_string(tools.join(".crates2.json")).unwrap_or_default();
        let same_llvm = record.is_empty() || record.contains(&format!("\"llvm-{llvm}\""));
        if same_llvm && is_wanted_linker(&tools.join("bin/bpf-linker")) {
            return Ok(Linker::Ready(tools.join("bin")));
        }
        if self.name == "nightly"
            && let Some(found) = process::find_program("bpf-linker")
            && is_wanted_linker(&found)
            && let Some(directory) = found.parent()
        {
            return Ok(Linker::Ready(directory.into()));
        }
        let llvm_prefix = llvm_prefixes(llvm)
            .into_iter()
            .find(|prefix| is_llvm(prefix, llvm));
        llvm_prefix.map(|llvm_prefix| Linker::Build { llvm_prefix }).ok_or_else(|| {
            anyhow!(
                "{} needs bpf-linker {LINKER_VERSION}, and LLVM {llvm} to build it with was not \
                 found: install LLVM {llvm}'s development files (LLVM_PREFIX names their place), \
                 or run `cargo binstall bpf-linker@{LINKER_VERSION}`",
                self.describe()
            )
        })
    }

    /// Builds bpf-linker into the workspace's target directory.
    pub fn build_linker(&self, workspace: &Path, llvm_prefix: &Path) -> Result<PathBuf> {
        let tools = tools_dir(workspace);
        eprintln!("setup: building bpf-linker {LINKER_VERSION}, one to two minutes");
        let feature = format!("llvm-{}", self.llvm_major);
        let mut cargo = process::host_cargo();
        cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        cargo.env("LLVM_PREFIX", llvm_prefix).args([
            "install",
            "bpf-linker",
            "--locked",
            "--force",
        ]);
        cargo.args([
            "--version",
            LINKER_VERSION,
            "--no-default-features",
            "--features",
            &feature,
        ]);
        cargo.arg("--root").arg(&tools);
        // Lest cargo advise the user to add the directory to PATH.
        cargo.env("PATH", ebpf::path_with(&[&tools.join("bin")]));
        process::run(&mut cargo).context("bpf-linker could not be built")?;
        Ok(tools.join("bin"))
    }

    /// Records the road for the build scripts; leaves an unchanged file alone, since they run
    /// again when it is newer.
    pub fn record(&self, workspace: &Path, linker_dir: PathBuf) -> Result<()> {
        let toolchain = Toolchain {
            road: self.name.into(),
            cargo: self.bin.join("cargo"),
            rustc: self.bin.join("rustc"),
            linker_dir,
            cargo_args: self.cargo_args.iter().map(|&arg| arg.into()).collect(),
        };
        if Toolchain::read(workspace).is_ok_and(|recorded| recorded == toolchain) {
            return Ok(());
        }
        let file = Toolchain::file(workspace);
        let directory = file
            .parent()
            .context("the toolchain file lies in a directory")?;
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        fs::write(&file, toolchain.to_text()).with_context(|| file.display().to_string())
    }
}

/// Installs the nightly road, which needs no root.
pub fn install_nightly() -> Result<()> {
    eprintln!("setup: installing rustup's nightly with rust-src");
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
    process::run(rustup.args(["--component", "rust-src", "--component", "clippy"]))
}

/// Where programs that we build for ourselves lie.
pub fn tools_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/netmoat/tools")
}

fn is_wanted_linker(program: &Path) -> bool {
    process::output_of(Command::new(program).arg("--version"))
        .is_some_and(|version| version.trim() == format!("bpf-linker {LINKER_VERSION}"))
}

/// Debian and Ubuntu, Fedora, Arch, and what the user names.
fn llvm_prefixes(major: &str) -> Vec<PathBuf> {
    let named = env::var_os("LLVM_PREFIX").map(PathBuf::from);
    let usual = ["/usr/lib/llvm-", "/usr/lib64/llvm", "/usr/lib/llvm"];
    named
        .into_iter()
        .chain(usual.map(|usual| format!("{usual}{major}").into()))
        .collect()
}

fn is_llvm(prefix: &Path, major: &str) -> bool {
    process::output_of(Command::new(prefix.join("bin/llvm-config")).arg("--version"))
        .is_some_and(|version| version.split('.').next() == Some(major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolchain_file_reads_back_as_written() {
        let workspace = env::temp_dir().join(format!("netmoat-xtask-{}", std::process::id()));
        let tools = workspace.join("bin");
        fs::create_dir_all(&tools).unwrap();
        for program in ["cargo", "rustc", "bpf-linker"] {
            fs::write(tools.join(program), "").unwrap();
        }
        let road = Road {
            name: "nightly",
            bin: tools.clone(),
            llvm_major: "22".into(),
            cargo_args: &["-Zbuild-std=core"],
        };
        let before = Toolchain::read(&workspace).unwrap_err();
        assert!(before.contains("cargo xtask setup"), "{before}");
        road.record(&workspace, tools.clone()).unwrap();
        let read = Toolchain::read(&workspace).unwrap();
        fs::remove_file(tools.join("bpf-linker")).unwrap();
        let lost = Toolchain::read(&workspace).unwrap_err();
        fs::remove_dir_all(&workspace).unwrap();
        assert_eq!(read.cargo_args, ["-Zbuild-std=core"]);
        assert_eq!(read.rustc, tools.join("rustc"));
        assert!(lost.contains("lost"), "{lost}");
    }
}
