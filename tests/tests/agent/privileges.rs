//! What the running agent may still do: every verb, and nothing of what only its start needed.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::Path,
    process::{Command, Output},
};

use net_tests::{
    agent::{Agent, Instance},
    netns::Namespace,
    process::{Process, workspace_binary},
    scene::{PATIENCE, PORT},
    topology::Pair,
    wait,
};
use nix::unistd::Pid;

/// A user and a group without rights.
const NOBODY: u32 = 65534;
/// Bits of `CapEff` (linux/capability.h): BPF, NET_RAW, NET_ADMIN, DAC_READ_SEARCH.
const KEPT: u64 = 1 << 39 | 1 << 13 | 1 << 12 | 1 << 2;
/// DAC_READ_SEARCH and SYS_PTRACE, of the thread that looks at processes.
const LOOKING: u64 = 1 << 2 | 1 << 19;

/// What follows `name:` in a status file (proc_pid_status(5)).
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let found = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found
        .unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
}

fn caps(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).unwrap()
}

/// The status files of all threads.
fn threads(pid: Pid) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    tasks.flatten().filter_map(read).collect()
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn succeed(agent: &Agent, args: &[&str]) -> String {
    let output = agent.netmoat(args).unwrap();
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    said(&output)
}

#[test]
fn no_thread_of_the_agent_has_more_than_its_work_needs() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let threads = threads(agent.pid());
    // The main thread, two workers, lists, the one that looks, the one that probes.
    assert!(threads.len() >= 6, "{threads:#?}");
    let (mut looking, mut walking) = (0, 0);
    for status in &threads {
        let expected = match field(status, "Name") {
            "netmoat-look" => {
                looking += 1;
                LOOKING
            }
            "netmoat-walk" => {
                walking += 1;
                0
            }
            _ => KEPT,
        };
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(caps(status, set), expected, "{set} of {status}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(caps(status, set), 0, "{set} of {status}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1");
        assert_eq!(field(status, "Seccomp"), "2");
    }
    assert_eq!((looking, walking), (1, 1));

    let left = agent.status().unwrap().privileges;
    let names = [
        "CAP_DAC_READ_SEARCH",
        "CAP_NET_ADMIN",
        "CAP_NET_RAW",
        "CAP_BPF",
    ];
    assert_eq!(left.capabilities, names);
    assert!(left.no_new_privs && left.seccomp, "{left:?}");
    assert!(left.landlock_abi.is_some_and(|abi| abi > 0), "{left:?}");
    assert_eq!(left.shortcomings, [""; 0]);
    let human = succeed(&agent, &["status"]);
    assert!(
        human.contains("system calls filtered; files by Landlock"),
        "{human}"
    );
}

/// What else the verbs do is for their own tests, which use the same agent.
#[test]
fn every_verb_works_with_what_is_left() {
    let pair = Pair::new().unwrap();
    let mut agent = Agent::start(&pair.server, "").unwrap();
    let frame =
        "ffffffffffff02000000000108060001080006040001020000000001c6120001000000000000c6120002";
    for verb in [
        "status",
        "counters",
        "queues",
        "tune",
        "tune --apply",
        "tune --revert",
        "mode observe",
        "mode enforce",
        "key rotate --force",
        "neighbor list --history",
        "neighbor pin 198.18.0.90 02:00:00:00:00:5a",
        "neighbor audit",
        "neighbor audit --repair",
        "neighbor unpin 198.18.0.90",
        "block add 203.0.113.7 --for 1h",
        "block list",
        "block list 203.0.113.7",
        "block del 203.0.113.7",
        "allow add 203.0.113.8",
        "allow list",
        "events",
    ] {
        let words: Vec<_> = verb.split(' ').collect();
        let output = agent.netmoat(&words).unwrap();
        let code = output.status.code();
        // An audit that finds something says so by 3.
        let fine = code == Some(0) || code == Some(3) && verb.contains("audit");
        assert!(fine, "{verb}: {code:?} {}", said(&output));
    }
    let explained = succeed(&agent, &["explain", "--frame", frame]);
    assert!(explained.contains("eth0"), "{explained}");
    // More than the first maps of a list hold, so that new ones are made.
    let many: String = (0..70_000_u32)
        .map(|n| format!("10.{}.{}.{}\n", n >> 16 | 64, n >> 8 & 255, n & 255))
        .collect();
    let output = agent.netmoat_with(&["block", "import", "-", "--list", "feed"], &many, &[]);
    let output = output.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(agent.status().unwrap().lists.blocked, 70_000);
    assert_eq!(agent.status().unwrap().problems, [""; 0]);

    assert!(agent.terminate().unwrap().success(), "{}", agent.log());
    assert!(!agent.socket().exists());
    for word in ["denied", "not permitted"] {
        assert!(!agent.log().contains(word), "{}", agent.log());
    }
}

#[test]
fn the_sockets_of_other_users_have_their_process_still() {
    let pair = Pair::new().unwrap();
    let script =
        format!("import socket, time; s = socket.create_server(('', {PORT})); time.sleep(600)");
    let mut python = Command::new("python3");
    python.args(["-c", &script]).uid(NOBODY).gid(NOBODY);
    let other = Process::start(&pair.server.ns, &mut python).unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let owner = wait::until_some("the owner of the listener", PATIENCE, || {
        agent.listener(PORT).ok()??.sockets[0].process.clone()
    })
    .unwrap();
    assert_eq!(owner.pid, other.pid().as_raw().cast_unsigned());
    assert_eq!(owner.name, "python3");
    let queues = agent.queues().unwrap();
    let source = queues
        .sources
        .iter()
        .find(|s| s.name == "processes")
        .unwrap();
    assert_eq!(source.missing, None);
}

/// `nft` is a script here, which tells what it may do; it runs with what the agent has.
fn telling_nft(directory: &Path, forbidden: &Path, state: &Path) {
    let script = format!(
        "#!/bin/sh\n\
         if grep -q '^Seccomp:.2' /proc/self/status; then\n\
           {{ grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status\n\
             echo x > {forbidden}/new && echo wrote a file\n\
             rm -f {forbidden}/precious && echo removed a file\n\
             unshare --net true && echo entered a namespace\n\
             mount --bind /tmp /mnt && echo mounted\n\
             chown 1 {state}/report.new && echo gave a file away\n\
             echo 1 > /proc/sys/kernel/sysrq && echo changed the kernel\n\
             echo end\n\
           }} > {state}/report.new 2>&1\n\
           mv {state}/report.new {state}/report\n\
         fi\n\
         PATH=${{PATH#*:}} exec nft \"$@\"\n",
        forbidden = forbidden.display(),
        state = state.display(),
    );
    let path = directory.join("nft");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
}

/// The agent with another PATH; its socket and state are in `directory`.
fn start(namespace: &Namespace, directory: &Path, path: &str) -> Process {
    let config = directory.join("netmoat.toml");
    let text = format!(
        "instance = \"test-nft-{}\"\ninterfaces = [\"eth0\"]\nsocket = {:?}\nstate_dir = {:?}\n",
        std::process::id(),
        directory.join("control.sock"),
        directory.join("state")
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(workspace_binary("netmoat").unwrap());
    command
        .env("PATH", path)
        .args(["run", "--config"])
        .arg(&config);
    Process::start(namespace, &mut command).unwrap()
}

#[test]
fn what_the_agent_executes_can_neither_write_elsewhere_nor_leave_its_namespace() {
    let pair = Pair::new().unwrap();
    let [bin, mine, forbidden] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let state = mine.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    let precious = forbidden.path().join("precious");
    fs::write(&precious, "").unwrap();
    telling_nft(bin.path(), forbidden.path(), &state);
    let path = format!(
        "{}:{}",
        bin.path().display(),
        std::env::var("PATH").unwrap()
    );
    let mut process = start(&pair.server.ns, mine.path(), &path);
    let report = wait::until_some("the report of nft", PATIENCE, || {
        assert!(process.ended().is_none(), "{}", process.printed());
        fs::read_to_string(state.join("report")).ok()
    })
    .unwrap();
    assert!(report.ends_with("end\n"), "{report}");
    for done in ["wrote", "removed", "entered", "mounted", "gave", "changed"] {
        assert!(!report.contains(done), "{report}");
    }
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(caps(&report, set), KEPT, "{set} of {report}");
    }
    assert_eq!(field(&report, "NoNewPrivs"), "1");
    assert!(precious.exists() && !forbidden.path().join("new").exists());
    // That it is a script costs something, which is told.
    let binary = workspace_binary("netmoat").unwrap();
    let status = wait::until_some("the agent's answer", PATIENCE, || {
        let mut command = Command::new(&binary);
        command
            .arg("--socket")
            .arg(mine.path().join("control.sock"));
        let output = command.arg("status").output().unwrap();
        output.status.success().then(|| said(&output))
    })
    .unwrap();
    assert!(
        status.contains("but every program may be executed"),
        "{status}"
    );
}

/// A script in the agent's place that starts it with what the systemd unit leaves to root.
fn with_the_units_capabilities(script: &Path) {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd/netmoat.service");
    let unit = fs::read_to_string(unit).unwrap();
    let set = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let set: String = set
        .unwrap()
        .split(' ')
        .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-all{set} --inh-caps=-all {} \"$@\"\n",
        workspace_binary("netmoat").unwrap().display()
    );
    fs::write(script, text).unwrap();
    fs::set_permissions(script, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn under_the_unit_a_restart_takes_over_what_is_pinned() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("netmoat");
    with_the_units_capabilities(&unit);
    let start = || instance.start_build(&unit, &pair.server, "").unwrap();
    let mut first = start();
    let before = first.status().unwrap();
    succeed(&first, &["block", "add", "203.0.113.7"]);
    first.kill().unwrap();

    let mut second = start();
    assert!(
        second.log().contains("taking over from an agent"),
        "{}",
        second.log()
    );
    let after = second.status().unwrap();
    assert_ne!(
        after.interfaces[0].xdp_program_id,
        before.interfaces[0].xdp_program_id
    );
    assert_eq!(after.problems, [""; 0]);
    assert_eq!(after.lists.blocked, 1);
    for status in [&before, &after] {
        let names = [
            "CAP_DAC_READ_SEARCH",
            "CAP_NET_ADMIN",
            "CAP_NET_RAW",
            "CAP_BPF",
        ];
        assert_eq!(status.privileges.capabilities, names);
        assert_eq!(status.privileges.shortcomings, [""; 0]);
    }
    assert!(second.terminate().unwrap().success(), "{}", second.log());
    // And protection is ended by an agent with no more than that.
    let last = start();
    succeed(&last, &["detach"]);
    wait::until("the pins to go", PATIENCE, || !instance.pins().exists()).unwrap();
}

/// C-52: the mode of the socket decides who reads, and who asks decides who writes.
#[test]
fn c_52_members_of_the_group_read_and_others_do_nothing() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("netmoat");
    fs::copy(workspace_binary("netmoat").unwrap(), &binary).unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let socket = agent.socket();
    // As a package has it: root's, with a group of its own.
    fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o750)).unwrap();
    let group = 54_321;
    chown(socket.parent().unwrap(), None, Some(group)).unwrap();
    chown(&socket, None, Some(group)).unwrap();
    let ask = |groups: &str, verb: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", groups])
            .arg(&binary)
            .arg("--socket")
            .arg(&socket)
            .args(verb.split(' '))
            .output()
            .unwrap();
        (output.status.code(), said(&output))
    };
    let member = format!("--groups={group}");
    for verb in [
        "status",
        "counters",
        "queues",
        "neighbor list",
        "block list",
        "tune",
    ] {
        let (code, text) = ask(&member, verb);
        assert_eq!(code, Some(0), "{verb}: {text}");
        let (code, text) = ask("--clear-groups", verb);
        assert_eq!(code, Some(4), "{verb}: {text}");
        assert!(text.contains("join group `netmoat` to read"), "{text}");
    }
    for verb in [
        "mode observe",
        "key rotate",
        "block add 203.0.113.7",
        "neighbor pin 198.18.0.90 02:00:00:00:00:5a",
        "tune --apply",
        "explain --frame ffffffffffff0200000000010806",
    ] {
        let (code, text) = ask(&member, verb);
        assert_eq!(code, Some(4), "{verb}: {text}");
        assert!(text.contains("only root may"), "{verb}: {text}");
        let (code, text) = ask("--clear-groups", verb);
        assert_eq!(code, Some(4), "{verb}: {text}");
    }
    let status = agent.status().unwrap();
    assert_eq!(status.mode, net_user::config::Mode::Enforce);
    assert_eq!(status.lists.blocked, 0);
}
