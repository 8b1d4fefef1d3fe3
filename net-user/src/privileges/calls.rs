//! Which system calls the agent may use: seccomp.
//!
//! A list of what is refused, not of what is allowed: what a C library does under a name is its own affair and changes with
//! its versions, while what the agent never wants is known. Around it the systemd unit has a list of what is allowed. Calls
//! that were not known when this was written are answered ENOSYS, as an older kernel would: C libraries go on with older ones.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use anyhow::{Context as _, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

/// The highest number of a call that was known: `file_setattr` of Linux 6.17. Numbers of calls since 5.1 are the same on
/// every architecture.
const LAST_KNOWN: u32 = 469;

/// What the agent has no use for after its start, by what it could be misused for.
const REFUSED: &[libc::c_long] = &[
    // Other namespaces, roots and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Another user.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    // The kernel and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_mknodat,
    libc::SYS_personality,
    // Large parts of the kernel that have had many faults.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_fanotify_init,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// `BPF_PROG_LOAD` (`enum bpf_cmd`, linux/bpf.h): the programs are loaded by now, and no others come.
const BPF_PROG_LOAD: u64 = 5;
/// Control sockets, neighbours, netlink, metrics and ioctls of interfaces.
const FAMILIES: [libc::c_int; 5] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_PACKET,
];
/// New namespaces by clone(2); of clone3 they are in memory, which no filter sees.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Refuses them to the calling thread, those it makes and what they execute.
///
/// # Errors
/// The kernel has no seccomp filters, or this architecture is not known here.
pub(super) fn confine() -> Result<()> {
    let arch: TargetArch = ARCH
        .try_into()
        .with_context(|| format!("no filter for {ARCH}"))?;
    let filter = SeccompFilter::new(
        rules()?,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        arch,
    )?;
    let mut program = unknown();
    program.extend(BpfProgram::try_from(filter)?);
    apply_filter(&program).context("the kernel takes no seccomp filter")
}

/// By number of the call: no rule, always refused; else when one of them matches.
fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    let condition = |argument, operator, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    };
    let load = condition(0, SeccompCmpOp::Eq, BPF_PROG_LOAD)?;
    rules.insert(libc::SYS_bpf, vec![SeccompRule::new(vec![load])?]);
    // Refused when it is none of them.
    let families = FAMILIES.map(|family| condition(0, SeccompCmpOp::Ne, family as u64));
    let families = families.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(families)?]);
    let namespaces = NAMESPACES.map(|flag| {
        let flag = u64::from(flag.cast_unsigned());
        SeccompRule::new(vec![condition(0, SeccompCmpOp::MaskedEq(flag), flag)?])
    });
    let namespaces = namespaces.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_clone, namespaces);
    // Characters for a terminal, as if its user had typed them.
    let typed = condition(1, SeccompCmpOp::Eq, libc::TIOCSTI)?;
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![typed])?]);
    Ok(rules)
}

/// The beginning of the filter, which the library has no words for: ENOSYS for clone3, after which C libraries use clone, and
/// for what has a higher number than is known; the x32 calls of x86-64, at 2^30 and above, are among these.
fn unknown() -> BpfProgram {
    let instruction = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let compare = libc::BPF_JMP | libc::BPF_K;
    vec![
        // The number stands at the begin of `struct seccomp_data`.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(compare | libc::BPF_JEQ, 1, 0, libc::SYS_clone3 as u32),
        instruction(compare | libc::BPF_JGT, 0, 1, LAST_KNOWN),
        instruction(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::{io, process::Command, thread};

    use super::*;

    /// What a call with these arguments answers in a thread that is confined: 0, or an errno.
    fn answer(call: libc::c_long, arguments: [libc::c_long; 3]) -> i32 {
        let [a, b, c] = arguments;
        // SAFETY: the calls of these tests get integers and null pointers, and touch no memory of ours.
        match unsafe { libc::syscall(call, a, b, c) } {
            -1 => io::Error::last_os_error().raw_os_error().unwrap(),
            _ => 0,
        }
    }

    fn confined<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = thread::spawn(|| {
            confine().unwrap();
            work()
        });
        thread.join().unwrap()
    }

    #[test]
    fn what_the_agent_has_no_use_for_is_refused() {
        let netns = libc::c_long::from(libc::CLONE_NEWNET);
        let calls = [
            ("a new namespace", libc::SYS_unshare, [netns, 0, 0]),
            ("the same by clone", libc::SYS_clone, [netns, 0, 0]),
            ("a root", libc::SYS_chroot, [0, 0, 0]),
            ("another user", libc::SYS_setresuid, [-1, -1, -1]),
            ("io_uring", libc::SYS_io_uring_setup, [0, 0, 0]),
            ("a program", libc::SYS_bpf, [5, 0, 0]),
            ("a socket to the hypervisor", libc::SYS_socket, [40, 1, 0]),
        ];
        let answers = confined(move || calls.map(|(what, call, args)| (what, answer(call, args))));
        for (what, answer) in answers {
            assert_eq!(answer, libc::EPERM, "{what}");
        }
        // Unconfined, root gets something else each time.
        assert_eq!(answer(libc::SYS_setresuid, [-1, -1, -1]), 0);
        assert_ne!(answer(libc::SYS_bpf, [5, 0, 0]), libc::EPERM);
        assert_ne!(answer(libc::SYS_chroot, [0, 0, 0]), libc::EPERM);
    }

    #[test]
    fn calls_that_nobody_knew_are_not_there() {
        let calls = [470, 1_000, 1 << 30, (1 << 30) + libc::SYS_getpid];
        for answer in confined(move || calls.map(|call| answer(call, [0; 3]))) {
            assert_eq!(answer, libc::ENOSYS);
        }
        assert_eq!(confined(|| answer(libc::SYS_clone3, [0; 3])), libc::ENOSYS);
    }

    #[test]
    fn threads_sockets_maps_and_programs_go_on() {
        confined(|| {
            assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
            for family in FAMILIES {
                let kind = if family == libc::AF_NETLINK {
                    libc::SOCK_RAW
                } else {
                    libc::SOCK_DGRAM
                };
                let socket = [family.into(), kind.into(), 0];
                assert_eq!(answer(libc::SYS_socket, socket), 0, "{family}");
            }
            // BPF_MAP_CREATE reaches the kernel, which misses the attributes.
            assert_ne!(answer(libc::SYS_bpf, [0, 0, 0]), libc::EPERM);
            let output = Command::new("true").output().unwrap();
            assert!(output.status.success());
            let status = Command::new("unshare").args(["--net", "true"]).output();
            assert!(!status.unwrap().status.success());
        });
    }
}
