//! The memory of an array map, shared with the kernel.

use std::{io, num::NonZeroUsize, ops::Deref, os::fd::AsFd, ptr::NonNull, sync::atomic::AtomicU64};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values of an array map of 64-bit words, made with `BPF_F_MMAPABLE`: written here without a system call, read by
/// the programs at once. Unmapped when dropped; the map lives on.
pub struct Words {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the memory belongs to the map, and is accessed as atomics only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `len` words.
    ///
    /// # Errors
    /// The map is no array, too small, or was not made to be mapped.
    pub fn map(map: impl AsFd, len: usize) -> io::Result<Self> {
        let octets = NonZeroUsize::new(len * size_of::<u64>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice concerns no other memory.
        let start = unsafe { mmap(None, octets, access, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `len` words are mapped at a page's start for as long as `self` lives, and every access to them, the
        // kernel's too, is of whole words.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` in this length, and no borrow outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), self.len * size_of::<u64>()) };
    }
}
