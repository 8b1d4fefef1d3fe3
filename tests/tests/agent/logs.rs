//! The forms in which the agent logs, as they arrive.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use net_tests::{
    process::{Process, workspace_binary},
    topology::{Host, Pair},
    wait,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use serde_json::Value;

const START: Duration = Duration::from_secs(30);
const STOP: Duration = Duration::from_secs(10);
/// What the agent logs when it is ready.
const READY: &str = "protecting 0 of 0 listeners on eth0";

/// `netmoat --log-format FORM run` on the host's interface, not started yet.
fn agent(directory: &Path, host: &Host, form: &str) -> Command {
    let config = directory.join("netmoat.toml");
    let socket = directory.join("control.sock");
    let text = format!(
        "interfaces = [{:?}]\nsocket = {socket:?}\nstate_dir = {directory:?}\n",
        host.link.name
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new(workspace_binary("netmoat").unwrap());
    command
        .args([
            "--log-level",
            "debug",
            "--log-format",
            form,
            "run",
            "--config",
        ])
        .arg(config);
    command
}

#[test]
fn json_logs_are_an_object_a_line_from_the_first_to_the_last() {
    let pair = Pair::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = agent(directory.path(), &pair.server, "json");
    let mut process = Process::start(&pair.server.ns, &mut command).unwrap();
    wait::until("the agent to be ready", START, || {
        process.printed().contains(READY)
    })
    .unwrap();
    process.signal(Signal::SIGTERM).unwrap();
    assert!(process.wait(STOP).unwrap().success());
    let printed = process.printed();
    for line in printed.lines() {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for name in ["time", "level", "target", "message"] {
            assert!(object[name].is_string(), "{name}: {line}");
        }
    }
    assert!(printed.lines().count() >= 2, "{printed}");
}

/// A journal of our own: in this thread's mount namespace, its socket is where the journal's is.
fn journal() -> (PathBuf, UnixDatagram) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let nowhere = None::<&OsStr>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(nowhere, "/", nowhere, private, nowhere).unwrap();
    mount(
        Some("none"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        nowhere,
    )
    .unwrap();
    let path = PathBuf::from("/run/systemd/journal/socket");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let socket = UnixDatagram::bind(&path).unwrap();
    (path, socket)
}

/// One record of the journal's native protocol: `NAME=value` lines, or a name, a line feed, the value's length as eight
/// octets, the value.
fn record(datagram: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut rest = datagram;
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    while let Some(line) = rest.iter().position(|&octet| octet == b'\n') {
        let (name, after) = (&rest[..line], &rest[line + 1..]);
        if let Some(sign) = name.iter().position(|&octet| octet == b'=') {
            fields.insert(text(&name[..sign]), text(&name[sign + 1..]));
            rest = after;
        } else {
            let length = u64::from_le_bytes(after[..8].try_into().unwrap()) as usize;
            fields.insert(text(name), text(&after[8..8 + length]));
            rest = &after[8 + length + 1..];
        }
    }
    fields
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_journal_gets_records_with_priority_name_and_origin() {
    let pair = Pair::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut command = agent(directory.path(), &pair.server, "journald");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let (records, printed) = pair.server.ns.run(|| {
        let (_, socket) = journal();
        let mut agent = Killed(command.spawn().unwrap());
        socket.set_read_timeout(Some(START)).unwrap();
        let (mut records, began) = (Vec::new(), Instant::now());
        let mut datagram = vec![0; 1 << 16];
        while began.elapsed() < START {
            let length = socket.recv(&mut datagram).unwrap();
            let fields = record(&datagram[..length]);
            let ready = fields
                .get("MESSAGE")
                .is_some_and(|text| text.contains(READY));
            records.push(fields);
            if ready {
                break;
            }
        }
        let _ = agent.0.kill();
        let mut printed = String::new();
        let mut stderr = agent.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut printed).unwrap();
        (records, printed)
    });
    let ready = records.last().unwrap();
    assert!(ready["MESSAGE"].contains(READY), "{records:?}");
    assert_eq!(ready["PRIORITY"], "6");
    assert_eq!(ready["SYSLOG_IDENTIFIER"], "netmoat");
    assert_eq!(ready["TARGET"], "net_user::agent");
    assert_eq!(printed, "", "nothing is logged twice");
}

#[test]
fn a_journal_that_is_asked_for_and_not_there_is_an_error_with_the_remedy() {
    let binary = workspace_binary("netmoat").unwrap();
    let script = "mount -t tmpfs none /run && exec \"$0\" --log-format journald explain tcp_flags";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(binary)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/run/systemd/journal/socket"), "{said}");
    assert!(said.contains("--log-format text"), "{said}");
}
