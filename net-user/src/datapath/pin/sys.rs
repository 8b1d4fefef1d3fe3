//! What aya has no call for.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::libc;

/// What the kernel calls the object of a pin, such as `anon_inode:bpf-map` or `anon_inode:bpf-link`.
///
/// # Errors
/// It cannot be opened.
pub(super) fn kind_of(path: &Path) -> io::Result<String> {
    let fd = open(path)?;
    let name = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(name.to_string_lossy().into_owned())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` for pins.
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    const BPF_OBJ_GET: libc::c_int = 7;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = Attr {
        path: path.as_ptr().addr() as u64,
        fd: 0,
        flags: 0,
    };
    // SAFETY: the attribute and the path that it names live until the call is over.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET,
            &raw const attr,
            size_of::<Attr>(),
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
