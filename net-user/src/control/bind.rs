//! Taking the control socket's path: one agent a path, never readable by more than was meant.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _,
};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, listen,
    socket, sockopt,
};

use crate::service;

/// Members may read through the socket.
pub const GROUP: &str = "netmoat";

/// Why the socket could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent answers on it.
    #[error(
        "an agent is already running (socket {}); stop it first, or give this one another socket with --socket",
        path.display()
    )]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands at its path.
    #[error("{} exists and is no socket; remove it, or name another path with --socket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// Others could put a socket of their own in its place.
    #[error(
        "anyone may replace files in {dir}, so clients could not trust the control socket there; \
         chmod o-w {dir}, or name another path with --socket",
        dir = dir.display()
    )]
    UnsafeDirectory {
        /// The directory.
        dir: PathBuf,
    },
    /// The service manager has handed over something else.
    #[error(
        "the socket that the service manager has handed over cannot be used: {why}; mend the socket unit or disable it"
    )]
    Unfit {
        /// What is wrong with it.
        why: String,
    },
    /// The kernel refused a step.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The control socket, listening; its file is removed on drop.
#[derive(Debug)]
pub struct BoundSocket {
    /// Non-blocking.
    pub(crate) listener: StdListener,
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed; none when the service manager has made it.
    inode: Option<(u64, u64)>,
    /// Held as long as the agent lives: makes "is anybody there? no: replace it" one step.
    _lock: Flock<File>,
}

impl BoundSocket {
    /// The socket that the service manager has handed over, if it has; else [`Self::bind`].
    pub fn take(path: &Path) -> Result<Self, BindError> {
        let unfit = |error: io::Error| BindError::Unfit {
            why: error.to_string(),
        };
        match service::listen_fd().map_err(unfit)? {
            // SAFETY: the service manager has opened it for this process, and nothing else here owns it.
            Some(fd) => Self::from_activation(unsafe { OwnedFd::from_raw_fd(fd) }, path),
            None => Self::bind(path),
        }
    }

    /// Takes a socket that listens already, and stays when the agent ends: who connects meanwhile waits for the next one.
    /// Owner, group and mode of its file are the service manager's.
    pub fn from_activation(socket: OwnedFd, path: &Path) -> Result<Self, BindError> {
        let unfit = |why: &str| BindError::Unfit {
            why: why.to_owned(),
        };
        if getsockopt(&socket, sockopt::SockType) != Ok(SockType::Stream)
            || getsockopt(&socket, sockopt::AcceptConn) != Ok(true)
        {
            return Err(unfit("it is no stream socket that listens"));
        }
        let listener = StdListener::from(socket);
        let address = listener.local_addr().map_err(io_error("look at", path))?;
        if address.as_pathname() != Some(path) {
            return Err(unfit(&format!(
                "it is {address:?}, and the control socket is {} (`ListenStream=` of the unit, `socket` of the config)",
                path.display()
            )));
        }
        let lock = lock(path)?;
        listener
            .set_nonblocking(true)
            .map_err(io_error("set the flags of", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode: None,
            _lock: lock,
        })
    }

    /// Takes `path`: creates its directory (0750) when absent, replaces a socket that nobody answers,
    /// refuses when an agent is running. Who connects waits until it is served.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let group = nix::unistd::Group::from_name(GROUP)
            .ok()
            .flatten()
            .map(|group| group.gid.as_raw());
        prepare_directory(path, group)?;
        let lock = lock(path)?;
        clear_stale(path)?;

        // Nobody can connect before listen(), so the file has its group and mode in time.
        let step = |step| move |errno: Errno| io_error(step, path)(errno.into());
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(step("make a socket for"))?;
        let address = UnixAddr::new(path).map_err(step("use the path"))?;
        bind(listener.as_raw_fd(), &address).map_err(step("bind the control socket"))?;
        give_to_group(path, group)?;
        fs::set_permissions(path, Permissions::from_mode(0o660))
            .map_err(io_error("set the mode of", path))?;
        listen(&listener, Backlog::MAXCONN).map_err(step("listen on"))?;
        let metadata = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
        Ok(Self {
            listener: StdListener::from(listener),
            path: path.to_owned(),
            inode: Some((metadata.dev(), metadata.ino())),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let Some(inode) = self.inode else { return };
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(
                "cannot remove the control socket {}: {error}",
                self.path.display()
            );
        }
    }
}

fn io_error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BindError {
    let path = path.to_owned();
    move |source| BindError::Io { step, path, source }
}

fn prepare_directory(path: &Path, group: Option<u32>) -> Result<(), BindError> {
    let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) else {
        return Ok(());
    };
    match fs::metadata(dir) {
        Ok(metadata) => {
            // World-writable without the sticky bit.
            if metadata.mode() & 0o1002 == 0o002 {
                return Err(BindError::UnsafeDirectory {
                    dir: dir.to_owned(),
                });
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new()
                .recursive(true)
                .mode(0o750)
                .create(dir)
                .map_err(io_error("create the directory", dir))?;
            give_to_group(dir, group)
        }
        Err(source) => Err(io_error("look at the directory", dir)(source)),
    }
}

/// Without the right to do so (an agent that does not run as root) the group stays as it is.
fn give_to_group(path: &Path, group: Option<u32>) -> Result<(), BindError> {
    let Some(gid) = group else { return Ok(()) };
    match std::os::unix::fs::lchown(path, None, Some(gid)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!("{} stays without group {GROUP}: {error}", path.display());
            Ok(())
        }
        result => result.map_err(io_error("give the group to", path)),
    }
}

/// One agent a path. The lock file stays behind: removing it would let two agents hold a lock each.
fn lock(socket: &Path) -> Result<Flock<File>, BindError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(&path)
        .map_err(io_error("open the lock file", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => BindError::AlreadyRunning {
            path: socket.to_owned(),
        },
        errno => io_error("lock", &path)(errno.into()),
    })
}

/// Removes a socket that nobody answers.
fn clear_stale(path: &Path) -> Result<(), BindError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error("look at", path)(source)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NoSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    if answers(path)? {
        return Err(BindError::AlreadyRunning {
            path: path.to_owned(),
        });
    }
    fs::remove_file(path).map_err(io_error("remove the stale socket", path))
}

/// Whether somebody listens on the socket. Non-blocking, as connect() waits while a backlog is full.
fn answers(path: &Path) -> Result<bool, BindError> {
    let probe = || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
    };
    match probe() {
        Ok(()) | Err(Errno::EAGAIN) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(io_error("probe", path)(errno.into())),
    }
}
