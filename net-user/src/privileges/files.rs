//! Which files the agent may write and execute: Landlock (Linux 5.13).

use std::{
    env, fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    ptr,
};

use anyhow::{Context as _, Result, bail};
use landlock::{
    ABI, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, PathBeneath,
    PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus,
    Scope, make_bitflags,
};
use nix::libc;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// What is asked for; older kernels give less (CompatLevel::BestEffort).
const WANTED: ABI = ABI::V6;
/// Where pins are.
const BPFFS: &str = "/sys/fs/bpf";
/// The one program that the agent runs.
const NFT: &str = "nft";

/// What was confined.
pub(super) struct Confined {
    /// The version of Landlock that the kernel has.
    pub abi: u32,
    /// What was not, in plain words.
    pub shortcomings: Vec<String>,
}

/// Lets the calling thread, and those it makes, write only what the agent keeps and execute only nft. Reading is as free as
/// before: the agent reads much of /proc and /sys, and its config wherever that is. No TCP connections (ABI 4), no signals to
/// others (ABI 6): the agent has no use for either.
///
/// Rules are about directories as they are now: one that is replaced later can no longer be written.
///
/// # Errors
/// The kernel has no Landlock, or has it switched off.
pub(super) fn confine(state_dir: &Path, sockets: &[&Path]) -> Result<Confined> {
    let keep = make_bitflags!(AccessFs::{
        WriteFile | Truncate | MakeReg | RemoveFile | MakeDir | RemoveDir | Refer
    });
    let mut writable = vec![
        (state_dir.to_owned(), keep),
        // Words are kept in links there, as it has no files of its own.
        (Path::new(BPFFS).join("netmoat"), keep | AccessFs::MakeSym),
        // The directory of the pins itself, when it is empty.
        (BPFFS.into(), AccessFs::RemoveDir.into()),
        // `tune --apply`.
        (
            "/proc/sys/net".into(),
            make_bitflags!(AccessFs::{WriteFile | Truncate}),
        ),
        ("/dev/null".into(), AccessFs::WriteFile.into()),
    ];
    for socket in sockets {
        let directory = socket.parent().filter(|dir| !dir.as_os_str().is_empty());
        writable.push((
            directory.unwrap_or(Path::new(".")).to_owned(),
            make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | MakeSock | RemoveFile}),
        ));
    }
    let mut shortcomings = Vec::new();
    let mut handled = AccessFs::from_write(WANTED);
    match executable() {
        Ok(directories) => {
            handled |= AccessFs::Execute;
            let rules = directories.into_iter();
            writable.extend(rules.map(|directory| (directory, AccessFs::Execute.into())));
        }
        Err(error) => shortcomings.push(format!(
            "every program may be executed, as it is not known what {NFT} needs: {error:#}"
        )),
    }
    let status = restrict(handled, &writable)?;
    let LandlockStatus::Available {
        effective_abi,
        kernel_abi,
    } = status.landlock
    else {
        bail!("this kernel has none, or has it switched off (`lsm=` of its command line)");
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        bail!("the kernel enforces nothing of it");
    }
    let abi = kernel_abi.unwrap_or(effective_abi as i32);
    Ok(Confined {
        abi: abi.unsigned_abs(),
        shortcomings,
    })
}

/// Lets the calling thread, and those it makes, read and connect: no file is written, nothing is executed, no TCP port is
/// bound (ABI 4), nobody is signalled and no abstract Unix socket of others is connected to (ABI 6).
///
/// # Errors
/// The kernel has no Landlock, or has it switched off.
pub(super) fn confine_walker() -> Result<()> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(WANTED) | AccessFs::Execute)?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::Signal | Scope::AbstractUnixSocket)?
        .create()?
        .restrict_self()?;
    if status.ruleset == RulesetStatus::NotEnforced {
        bail!("the kernel enforces nothing of it");
    }
    Ok(())
}

/// Confines the calling thread to `rules` for what is `handled`; paths that do not exist are left out.
fn restrict(
    handled: BitFlags<AccessFs>,
    rules: &[(PathBuf, BitFlags<AccessFs>)],
) -> Result<RestrictionStatus> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .handle_access(AccessNet::ConnectTcp)?
        .scope(Scope::Signal)?
        .create()?;
    for (path, access) in rules {
        if let Ok(path) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(path, *access))?;
        }
    }
    Ok(ruleset.restrict_self()?)
}

/// The directories of nft and of the dynamic linker that it names; none without nft. Directories, since an update puts another
/// file into the place of each. (Libraries are mapped and not executed, in Landlock's terms.)
fn executable() -> Result<Vec<PathBuf>> {
    let Some(nft) = found(NFT) else {
        return Ok(Vec::new());
    };
    let files = [Some(nft.clone()), interpreter(&nft)?];
    let files = files.into_iter().flatten();
    files
        .map(|file| {
            let file = fs::canonicalize(&file).with_context(|| file.display().to_string())?;
            Ok(file.parent().unwrap_or(&file).to_owned())
        })
        .collect()
}

/// The program of this name that would be run, as execvp(3) looks for it.
fn found(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut files = env::split_paths(&path).map(|directory| directory.join(name));
    files.find(|file| {
        fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// The dynamic linker in a program's ELF header; none if it is linked statically.
fn interpreter(program: &Path) -> Result<Option<PathBuf>> {
    let wrong = || format!("{} is no program of this machine", program.display());
    let octets = fs::read(program).with_context(|| program.display().to_string())?;
    let data = octets.as_slice();
    let header =
        object::elf::FileHeader64::<object::Endianness>::parse(data).with_context(wrong)?;
    let endian = header.endian().with_context(wrong)?;
    for segment in header.program_headers(endian, data).with_context(wrong)? {
        if let Some(path) = segment.interpreter(endian, data).with_context(wrong)? {
            return Ok(Some(
                Path::new(std::ffi::OsStr::from_bytes(path)).to_owned(),
            ));
        }
    }
    Ok(None)
}

/// The version of Landlock that the kernel has; none without, or when it is switched off.
pub(super) fn abi() -> Option<u32> {
    const VERSION: libc::c_uint = 1;
    let none = ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel reads no attributes, and gives a number.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(abi).ok().filter(|&abi| abi > 0)
}

#[cfg(test)]
mod tests {
    use std::{io, os::unix::net::UnixListener, process::Command, thread};

    use super::*;
    use crate::host::testing::in_netns;

    fn denied<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Does it in a thread that is confined as the agent is, with its state in one directory and its socket in another.
    fn confined<T: Send>(state: &Path, run: &Path, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let confined = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().unwrap();
                let confined = confine(state, &[&run.join("control.sock")]).unwrap();
                assert_eq!(Some(confined.abi), abi());
                assert_eq!(confined.shortcomings, [""; 0]);
                work()
            });
            confined.join().unwrap()
        })
    }

    #[test]
    fn only_what_the_agent_keeps_can_be_written() {
        let [state, run, other] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        fs::write(other.path().join("file"), "precious").unwrap();
        confined(state.path(), run.path(), || {
            let kept = state.path().join("lists.json");
            fs::write(state.path().join("new"), "whole").unwrap();
            fs::rename(state.path().join("new"), &kept).unwrap();
            fs::write(&kept, "whole").unwrap();
            fs::remove_file(&kept).unwrap();
            let _socket = UnixListener::bind(run.path().join("metrics.sock")).unwrap();
            fs::remove_file(run.path().join("metrics.sock")).unwrap();

            let file = other.path().join("file");
            assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
            assert!(denied(fs::write(&file, "")));
            assert!(denied(fs::remove_file(&file)));
            assert!(denied(fs::write(other.path().join("new"), "")));
            assert!(denied(fs::create_dir(other.path().join("new"))));
            assert!(denied(UnixListener::bind(other.path().join("new"))));
            assert!(denied(fs::write("/proc/sys/kernel/panic", "0")));
        });
        let left = fs::read_to_string(other.path().join("file")).unwrap();
        assert_eq!(left, "precious");
    }

    #[test]
    fn nft_runs_and_nothing_else() {
        let [state, run] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        // Beside it in the directory of what may be executed would be too.
        let mine = state.path().join("nft");
        fs::copy(found(NFT).unwrap(), &mine).unwrap();
        confined(state.path(), run.path(), || {
            let output = Command::new(NFT).arg("--version").output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(denied(Command::new("sh").arg("-c").arg("true").output()));
            assert!(denied(Command::new(&mine).arg("--version").output()));
        });
    }

    #[test]
    fn settings_of_the_network_are_still_written_and_the_rules_of_netfilter_read() {
        let [state, run] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        in_netns(|| {
            confined(state.path(), run.path(), || {
                for name in ["ipv4/tcp_max_syn_backlog", "core/somaxconn"] {
                    let path = Path::new("/proc/sys/net").join(name);
                    fs::write(&path, "4321").unwrap();
                    assert_eq!(fs::read_to_string(&path).unwrap().trim(), "4321");
                }
                let output = Command::new(NFT).args(["-j", "list", "ruleset"]).output();
                assert!(output.unwrap().status.success());
            });
        });
    }

    #[test]
    fn no_connection_is_made_and_no_other_process_is_signalled() {
        let [state, run] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut sleeping = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(sleeping.id().cast_signed());
        confined(state.path(), run.path(), || {
            assert!(denied(std::net::TcpStream::connect(address)));
            let signalled = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            assert_eq!(signalled, Err(nix::errno::Errno::EPERM));
        });
        sleeping.kill().unwrap();
        sleeping.wait().unwrap();
    }

    #[test]
    fn who_probes_connects_and_neither_writes_nor_executes_nor_listens() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "precious").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::scope(|scope| {
            let walker = scope.spawn(|| {
                nix::sys::prctl::set_no_new_privs().unwrap();
                confine_walker().unwrap();
                std::net::TcpStream::connect(address).unwrap();
                assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
                assert!(denied(fs::write(&file, "")));
                assert!(denied(fs::write("/proc/sys/net/core/somaxconn", "1")));
                assert!(denied(std::net::TcpListener::bind("127.0.0.1:0")));
                assert!(denied(Command::new("true").output()));
            });
            walker.join().unwrap();
        });
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_program_that_is_a_script_leaves_execution_free_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("nft");
        fs::write(&script, "#!/bin/sh\nexec nft \"$@\"\n").unwrap();
        let error = interpreter(&script).unwrap_err();
        assert!(format!("{error:#}").contains("no program of this machine"));
        let linker = interpreter(Path::new("/proc/self/exe")).unwrap();
        assert!(linker.is_none_or(|linker| linker.is_file()));
    }
}
