//! Which process has which socket: `/proc/PID/fd` (proc(5)).
//!
//! A process that goes away meanwhile is left out. Of several that share a socket the one with the lowest process id counts,
//! which is the one that opened it where the others were forked from it.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    fs,
    io::ErrorKind,
    path::Path,
};

use procfs::process::Process;

use super::walk::SocketState;
use crate::{
    control::queues::{Owner, ProcessStates, States},
    queues::looks::OwnersLook,
};

/// How many processes are told with their sockets.
const PROCESSES: usize = 16;

/// Looks for the processes that have the sockets with the inodes `wanted`; with `sockets`, such as
/// [`super::walk::Walker::sockets`], also which process has how many in which state. A connection that several processes have
/// counts for each.
///
/// Blocking: it reads a link for every descriptor of every process, about a microsecond each. Without `sockets` it ends when
/// all that are wanted are found.
pub fn look(wanted: &HashSet<u32>, sockets: Option<&HashMap<u32, SocketState>>) -> OwnersLook {
    let mut look = OwnersLook::default();
    if wanted.is_empty() && sockets.is_none() {
        return look;
    }
    let processes = match processes() {
        Ok(processes) => processes,
        Err(error) => {
            look.missing = Some(format!(
                "/proc cannot be listed, so that sockets have no process: {error}; mount it"
            ));
            return look;
        }
    };
    let mut refused = 0;
    for pid in processes {
        if sockets.is_none() && look.owners.len() == wanted.len() {
            break;
        }
        let directory = format!("/proc/{pid}/fd");
        let inodes = match inodes(Path::new(&directory)) {
            Ok(inodes) => inodes,
            // The links of a process that has just gone are denied, too (`proc_fd_access_allowed`).
            Err(ErrorKind::PermissionDenied) if Path::new(&directory).exists() => {
                refused += 1;
                continue;
            }
            Err(_) => continue,
        };
        let mut owner = None;
        let mut states = None;
        for inode in inodes {
            if wanted.contains(&inode) && !look.owners.contains_key(&inode) {
                let owner = owner.get_or_insert_with(|| owner_of(pid));
                look.owners.insert(inode, owner.clone());
            }
            if let Some(state) = sockets.and_then(|sockets| sockets.get(&inode)) {
                state.count(states.get_or_insert_with(States::default));
            }
        }
        if let Some(states) = states {
            let process = owner.unwrap_or_else(|| owner_of(pid));
            look.processes.push(ProcessStates { process, states });
        }
    }
    look.processes
        .sort_by_key(|of| (Reverse(total(&of.states)), of.process.pid));
    look.processes.truncate(PROCESSES);
    let lacking = sockets.is_some() || look.owners.len() < wanted.len();
    look.missing = (refused > 0 && lacking).then(|| {
        format!(
            "{} may not be looked into, so that the sockets there have no name; run netmoat as root, and let its unit's \
             `CapabilityBoundingSet=` have CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
            match refused {
                1 => "1 process".to_owned(),
                n => format!("{n} processes"),
            }
        )
    });
    look
}

/// The processes there are, the lowest number first. Numbers alone: `procfs` has a descriptor open for each of its processes,
/// and whoever may start processes would leave the agent none.
fn processes() -> std::io::Result<Vec<i32>> {
    let names = fs::read_dir("/proc")?.map_while(Result::ok);
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let mut all: Vec<i32> = names.filter_map(number).collect();
    all.sort_unstable();
    Ok(all)
}

/// The inodes of the sockets of a process. One call a descriptor, where `procfs` makes three: a process may have 50,000.
fn inodes(directory: &Path) -> Result<HashSet<u32>, ErrorKind> {
    let mut inodes = HashSet::new();
    for entry in fs::read_dir(directory).map_err(|error| error.kind())? {
        // It went away, and maybe all of the process.
        let Ok(entry) = entry else { break };
        match fs::read_link(entry.path()) {
            Ok(target) => inodes.extend(target.to_str().and_then(socket)),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error.kind()),
            Err(_) => {}
        }
    }
    Ok(inodes)
}

/// The inode in `socket:[123]`.
fn socket(target: &str) -> Option<u32> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// A process that has gone has its pid alone.
fn owner_of(pid: i32) -> Owner {
    let process = Process::new(pid).ok();
    let process = process.as_ref();
    let name = process
        .and_then(|process| process.stat().ok())
        .map_or_else(String::new, |stat| stat.comm);
    let groups = process.and_then(|process| process.cgroups().ok());
    let unit = groups.and_then(|groups| {
        // Of version 2 the one hierarchy is numbered 0; of version 1 systemd has its own.
        let of_systemd = |controllers: &[String]| controllers.iter().any(|c| c == "name=systemd");
        let mut paths: Vec<_> = groups
            .into_iter()
            .filter(|group| group.hierarchy == 0 || of_systemd(&group.controllers))
            .collect();
        paths.sort_by_key(|group| group.hierarchy);
        paths.iter().find_map(|group| unit(&group.pathname))
    });
    Owner {
        pid: u32::try_from(pid).unwrap_or_default(),
        // A process names itself: nothing of it may act on a terminal.
        name: printable(&name),
        unit,
    }
}

/// The unit that a control group belongs to: the innermost service or scope, else the last component; none for `/`.
fn unit(path: &str) -> Option<String> {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let components = || {
        path.split('/')
            .rev()
            .filter(|component| !component.is_empty() && *component != "..")
    };
    components()
        .find(|component| component.ends_with(".service") || component.ends_with(".scope"))
        .or_else(|| components().next())
        .map(printable)
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// All of its sockets; what is a part of another count left out.
fn total(states: &States) -> u64 {
    [
        states.syn_sent,
        states.syn_recv,
        states.established,
        states.fin_wait_1,
        states.fin_wait_2,
        states.closing,
        states.close_wait,
        states.last_ack,
        states.time_wait,
    ]
    .map(u64::from)
    .iter()
    .sum()
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
        process::{Command, Stdio},
    };

    use netlink_bindings::inet_diag::TcpState;
    use nix::libc;

    use super::*;
    use crate::{
        host::{sock_diag::Diag, testing::in_netns, walk::Walker},
        queues::looks::QueueSettings,
    };

    fn inode(socket: &impl std::os::fd::AsFd) -> u32 {
        nix::sys::stat::fstat(socket).unwrap().st_ino as u32
    }

    #[test]
    fn the_unit_of_a_control_group_is_its_innermost_service_or_scope() {
        for (path, expected) in [
            ("/", None),
            ("", None),
            ("/..", None),
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/nginx.service/workers", Some("nginx.service")),
            (
                "/system.slice/nginx.service (deleted)",
                Some("nginx.service"),
            ),
            ("/system.slice/docker-12ab.scope", Some("docker-12ab.scope")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope",
                Some("app-x.scope"),
            ),
            ("/user.slice/user-1000.slice", Some("user-1000.slice")),
            ("/docker/12ab", Some("12ab")),
            ("/../../lxc/web\u{1b}[2J", Some("web\u{fffd}[2J")),
        ] {
            assert_eq!(unit(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn only_sockets_are_taken_for_sockets() {
        assert_eq!(socket("socket:[123]"), Some(123));
        for target in [
            "pipe:[123]",
            "/tmp/socket:[123]",
            "socket:[]",
            "socket:[1",
            "socket:[-1]",
        ] {
            assert_eq!(socket(target), None, "{target}");
        }
    }

    #[test]
    fn a_listener_has_its_process_by_name_and_a_stranger_none() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = inode(&listener);
        // No file has it: an inode of a socket is never 0.
        let look = look(&HashSet::from([own, 0]), None);
        let owner = &look.owners[&own];
        assert_eq!(owner.pid, std::process::id());
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(owner.name, comm.trim_end());
        assert_eq!(look.owners.len(), 1);
        assert_eq!(look.processes, []);
    }

    #[test]
    fn a_child_that_alone_has_the_socket_is_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = inode(&listener);
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        let found = look(&HashSet::from([own]), None);
        child.kill().unwrap();
        child.wait().unwrap();
        let owner = &found.owners[&own];
        assert_eq!((owner.pid, owner.name.as_str()), (child.id(), "sleep"));
        assert_eq!(found.missing, None);
        assert!(look(&HashSet::from([own]), None).owners.is_empty());
    }

    #[test]
    fn the_sockets_of_a_process_are_counted_by_state() {
        in_netns(|| {
            let server = TcpListener::bind("127.0.0.1:1001").unwrap();
            let [one, _two] = [0; 2].map(|_| TcpStream::connect("127.0.0.1:1001").unwrap());
            let _accepted = [0; 2].map(|_| server.accept().unwrap());
            // A second descriptor is no second socket.
            let _again = one.try_clone().unwrap();
            one.shutdown(std::net::Shutdown::Write).unwrap();
            let mut diag = Diag::open().unwrap();
            let mut walker = Walker::new();
            let settings = QueueSettings::default();
            // The FIN is acknowledged with a delay.
            while {
                let walk = walker.walk(&mut diag, &[], &settings, usize::MAX).unwrap();
                walk.states.fin_wait_1 > 0
            } {
                std::thread::yield_now();
            }
            let look = look(&HashSet::new(), Some(walker.sockets()));
            let [process] = look.processes.as_slice() else {
                panic!("{look:?}")
            };
            assert_eq!(process.process.pid, std::process::id());
            let expected = States {
                established: 2,
                close_wait: 1,
                fin_wait_2: 1,
                ..States::default()
            };
            assert_eq!(process.states, expected);
        });
    }

    #[test]
    fn whoever_may_not_look_is_told_the_remedy() {
        // Of this thread alone, which glibc's wrapper would not be.
        std::thread::spawn(|| {
            let nobody: libc::uid_t = 65_534;
            // SAFETY: the call takes integers and touches no memory of ours.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
            assert_eq!(result, 0, "run as root");
            let state = SocketState {
                state: TcpState::Established,
                retransmitting: false,
                orphaned: false,
                old: false,
            };
            let sockets = HashMap::from([(0, state)]);
            for look in [
                look(&HashSet::from([0]), None),
                look(&HashSet::new(), Some(&sockets)),
            ] {
                let missing = look.missing.unwrap();
                assert!(missing.contains("CAP_SYS_PTRACE"), "{missing}");
                assert!(look.owners.is_empty() && look.processes.is_empty());
            }
        })
        .join()
        .unwrap();
    }

    /// A process on a host with more processes than it may open files; the limit is for a child, this very test again.
    #[test]
    fn more_processes_than_files_that_may_be_opened_are_all_looked_at() {
        const AGAIN: &str = "NETMOAT_TEST_FEW_FILES";
        if std::env::var_os(AGAIN).is_some() {
            let sleeping: Vec<_> = (0..80)
                .map(|_| Command::new("sleep").arg("60").spawn().unwrap())
                .collect();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let own = inode(&listener);
            let last = Command::new("sleep")
                .arg("60")
                .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
                .spawn()
                .unwrap();
            let found = look(&HashSet::from([own]), None);
            let owner = found.owners.get(&own).map(|owner| owner.pid);
            let expected = last.id();
            for mut child in sleeping.into_iter().chain([last]) {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            assert_eq!(owner, Some(expected), "{found:?}");
            return;
        }
        let name =
            "host::owners::tests::more_processes_than_files_that_may_be_opened_are_all_looked_at";
        let run = "ulimit -n 64 && exec \"$0\" --exact \"$1\" --test-threads=1";
        let again = Command::new("sh")
            .args(["-c", run])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(AGAIN, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&again.stdout);
        assert!(
            again.status.success() && told.contains("1 passed"),
            "{told}"
        );
    }

    #[test]
    fn a_process_with_many_descriptors_is_looked_through() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let copies: Vec<_> = (0..200).map(|_| listener.try_clone().unwrap()).collect();
        let last = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(last.as_raw_fd() >= copies.len() as i32);
        let wanted = HashSet::from([inode(&listener), inode(&last)]);
        assert_eq!(look(&wanted, None).owners.len(), 2);
    }
}
