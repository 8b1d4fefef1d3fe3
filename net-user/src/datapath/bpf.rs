//! The calls of bpf(2) that aya has no function for, or one that wants more privileges.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use aya::Pod;
use nix::libc;

/// Entries that one call reads. A bucket of a hash map that has more of them does not fit, which no honest hash makes.
const BATCH: usize = 512;
/// Programs on one hook of one interface that are told of.
const PROGRAMS: usize = 64;

/// Where TCX programs run (`enum bpf_attach_type`, `linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Tcx {
    /// `BPF_TCX_INGRESS`
    Ingress = 46,
    /// `BPF_TCX_EGRESS`
    Egress = 47,
}

/// Ids of the TCX programs of an interface of the calling thread's network namespace, in the order in which they run.
/// Needs CAP_NET_ADMIN alone (`bpf_prog_query`, `kernel/bpf/syscall.c`); aya also wants each program's descriptor, for
/// which the kernel asks for CAP_SYS_ADMIN.
///
/// # Errors
/// There is no such interface; a kernel before 6.6.
pub fn tcx_programs(ifindex: u32, hook: Tcx) -> io::Result<Vec<u32>> {
    /// `query` of `union bpf_attr`.
    #[repr(C)]
    struct Query {
        ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
        attach_flags_each: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    const BPF_PROG_QUERY: libc::c_int = 16;
    let mut ids = [0_u32; PROGRAMS];
    let mut query = Query {
        ifindex,
        attach_type: hook as u32,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: PROGRAMS as u32,
        padding: 0,
        attach_flags_each: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: `ids` has room for `count` numbers and lives until the call is over, as does the attribute.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.iter().copied().take(query.count as usize).collect())
}

/// Hands every entry of a hash map to `each`, [`BATCH`] at a call instead of one: 65,536 entries take a few milliseconds.
/// What is inserted or removed meanwhile may be seen or not.
///
/// # Errors
/// The map is no hash map with keys and values of these sizes.
pub fn each_entry<K: Pod, V: Pod>(map: impl AsFd, mut each: impl FnMut(K, V)) -> io::Result<()> {
    /// `batch` of `union bpf_attr`.
    #[repr(C)]
    struct Batch {
        from: u64,
        to: u64,
        keys: u64,
        values: u64,
        count: u32,
        fd: u32,
        element_flags: u64,
        flags: u64,
    }
    const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
    let fd = map.as_fd().as_raw_fd() as u32;
    let mut keys: Vec<K> = Vec::with_capacity(BATCH);
    let mut values: Vec<V> = Vec::with_capacity(BATCH);
    // The place where the next call goes on; of a hash map the number of a bucket.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut first = true;
    loop {
        let from_place = if first {
            0
        } else {
            (&raw mut from).expose_provenance() as u64
        };
        let mut batch = Batch {
            from: from_place,
            to: (&raw mut to).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: BATCH as u32,
            fd,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: both vectors have room for `count` elements, and they, the two places and the attribute live until the
        // call is over.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut batch,
                size_of::<Batch>(),
            )
        };
        let error = (done != 0).then(io::Error::last_os_error);
        // At the end the kernel says ENOENT beside the last entries (`__htab_map_lookup_and_delete_batch`).
        let end = error
            .as_ref()
            .is_some_and(|e| e.raw_os_error() == Some(libc::ENOENT));
        if let Some(error) = error
            && !end
        {
            return Err(error);
        }
        let read = (batch.count as usize).min(BATCH);
        // SAFETY: the kernel has written `count` keys, and every pattern of bits is a key.
        unsafe { keys.set_len(read) };
        // SAFETY: as above, of values.
        unsafe { values.set_len(read) };
        for (key, value) in keys.drain(..).zip(values.drain(..)) {
            each(key, value);
        }
        if end {
            return Ok(());
        }
        from = to;
        first = false;
    }
}

/// The name of a loaded program, of which the kernel keeps 15 octets. None without CAP_SYS_ADMIN, which it asks for.
pub fn program_name(id: u32) -> Option<String> {
    let mut programs = aya::programs::loaded_programs().flatten();
    let program = programs.find(|info| info.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use aya::maps::{HashMap, IterableMap as _, MapData};

    use super::*;
    use crate::host::testing::{in_netns, run};

    #[test]
    fn every_entry_is_read_once_however_many_calls_it_takes() {
        for count in [0, 1, 511, 512, 513, 5000] {
            let mut map = HashMap::<MapData, u64, u64>::create(8192, 0).unwrap();
            for key in 0..count {
                map.insert(key, key * 3, 0).unwrap();
            }
            let mut read = BTreeMap::new();
            each_entry::<u64, u64>(map.map().fd(), |key, value| {
                assert_eq!(read.insert(key, value), None, "{key} twice");
            })
            .unwrap();
            assert_eq!(read.len() as u64, count);
            assert!(read.iter().all(|(key, value)| *value == key * 3));
        }
    }

    #[test]
    fn an_interface_without_tcx_programs_has_none_and_one_that_is_gone_is_an_error() {
        in_netns(|| {
            run("ip", "link add lab0 type veth peer name lab1");
            let index = nix::net::if_::if_nametoindex("lab0").unwrap();
            for hook in [Tcx::Ingress, Tcx::Egress] {
                assert_eq!(tcx_programs(index, hook).unwrap(), Vec::<u32>::new());
            }
            run("ip", "link del lab0");
            assert!(tcx_programs(index, Tcx::Ingress).is_err());
        });
    }
}
