use std::thread;

use super::*;

/// Does it in a thread of its own, whose privileges are nobody else's.
fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(work).join().unwrap()
}

fn set(set: CapSet) -> Vec<String> {
    names(&caps::read(None, set).unwrap())
}

#[test]
fn only_what_is_kept_is_left_in_any_set() {
    aside(|| {
        assert_eq!(limit(&KEPT).unwrap(), [""; 0]);
        let kept = [
            "CAP_DAC_READ_SEARCH",
            "CAP_NET_ADMIN",
            "CAP_NET_RAW",
            "CAP_BPF",
        ];
        for left in [CapSet::Permitted, CapSet::Effective, CapSet::Bounding] {
            assert_eq!(set(left), kept, "{left:?}");
        }
        assert_eq!(set(CapSet::Inheritable), [""; 0]);
        assert_eq!(set(CapSet::Ambient), [""; 0]);
    });
}

#[test]
fn what_was_not_there_is_not_missed() {
    aside(|| {
        let few = [Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];
        limit(&few).unwrap();
        // Without CAP_SETPCAP nothing leaves the bounding set.
        assert_eq!(limit(&KEPT).unwrap(), ["CAP_PERFMON"]);
        assert_eq!(set(CapSet::Permitted), ["CAP_NET_ADMIN"]);
    });
}

#[test]
fn nft_of_an_agent_that_is_not_root_keeps_what_reads_the_rules() {
    aside(|| {
        let ambient = [Capability::CAP_NET_ADMIN, Capability::CAP_BPF];
        let ambient = ambient.into_iter().collect();
        caps::set(None, CapSet::Inheritable, &ambient).unwrap();
        caps::set(None, CapSet::Ambient, &ambient).unwrap();
        limit(&KEPT).unwrap();
        assert_eq!(set(CapSet::Ambient), ["CAP_NET_ADMIN"]);
        assert_eq!(set(CapSet::Inheritable), ["CAP_NET_ADMIN"]);
    });
}

#[test]
fn a_thread_says_whether_it_is_filtered() {
    aside(|| {
        assert!(!is_filtered());
        calls::confine().unwrap();
        assert!(is_filtered());
    });
}

#[test]
fn this_kernel_offers_both() {
    let told = offered().unwrap();
    assert!(told.contains("Landlock (ABI "), "{told}");
}

/// Whoever was confined by Landlock reads the links of other processes only through the looker.
#[test]
fn the_looker_sees_the_sockets_of_others_when_the_agent_no_longer_does() {
    use std::{
        os::fd::OwnedFd,
        process::{Command, Stdio},
    };

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let inode = nix::sys::stat::fstat(&listener).unwrap().st_ino as u32;
    let mut child = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .unwrap();
    let pid = child.id();
    let directory = tempfile::tempdir().unwrap();
    let found = aside(move || {
        let state = directory.path().join("state");
        let left = give_up(&state, &[&directory.path().join("control.sock")]);
        assert!(state.is_dir());
        assert!(
            left.seccomp && left.no_new_privs && left.landlock_abi.is_some(),
            "{left:?}"
        );
        let wanted = std::collections::HashSet::from([inode]);
        let look = move || crate::host::owners::look(&wanted, None).owners;
        (look.clone()(), looker::look(look))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let (own, looker) = found;
    assert!(own.is_empty(), "{own:?}");
    assert_eq!(looker[&inode].pid, pid);
}
