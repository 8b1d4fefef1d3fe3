//! The control socket end to end: the real server before a fake agent, the real client and binary.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use net_common::verdict::COUNTERS;
use net_user::config::{GuardMode, Mode};
use net_user::control::bind::BoundSocket;
use net_user::control::changes::{ConfigShown, Confirmed, Reload, Reloaded};
use net_user::control::client::{Client, ClientError};
use net_user::control::drops::{DropTotals, ExplainFrame};
use net_user::control::probes::Probes;
use net_user::control::protocol::{
    AuditEntry, AuditVerdict, BindingHistory, BindingOrigin, BindingState, Counters, Event,
    EventLevel, Events, GuardsAtAGlance, Health, KeysRotated, ModeChanged, NeighborAudit,
    NeighborBinding, Neighbors, NeighborsAtAGlance, NeighborsChanged, PinNeighbor, Queues, Request,
    RequestError, SetMode, Status, UnpinNeighbor, VERSION,
};
use net_user::control::queues::{Change, Tune, TuneAction, Tuning};
use net_user::control::server::serve;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const NOBODY: u32 = 65534;

/// A server and a fake agent, in a directory of their own that any user may enter.
struct Rig {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn start(mode: u32) -> Self {
        let (requests, mut inbox) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Some(request) = inbox.recv().await {
                answer(request);
            }
        });
        Self::with_agent(mode, requests)
    }

    fn with_agent(mode: u32, requests: mpsc::Sender<Request>) -> Self {
        let dir = open_dir();
        let socket = dir.path().join("control.sock");
        let bound = BoundSocket::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(mode)).unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(bound, requests, stopped));
        Self {
            socket,
            stop,
            server,
            _dir: dir,
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    async fn netmoat(&self, args: &[&str]) -> Output {
        netmoat(&self.socket, args).await
    }
}

fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

fn answer(request: Request) {
    match request {
        Request::Status(reply) => {
            let _ = reply.send(Ok(Status {
                version: VERSION,
                netmoat_version: "0.1.0".to_owned(),
                pid: 1,
                uptime_s: 5,
                mode: Mode::Enforce,
                health: Health::Degraded,
                problems: vec!["eth1 is gone".to_owned()],
                interfaces: vec![],
                listeners_protected: 2,
                listeners_left_to_kernel: 0,
                cookies_active: false,
                keys_age_s: 5,
                neighbors: NeighborsAtAGlance::default(),
                guards: GuardsAtAGlance::default(),
                lists: Default::default(),
                drops: Default::default(),
                privileges: Default::default(),
                interfaces_missing: vec![],
                notes: vec![],
                drift: Default::default(),
                data_path_alive: true,
                maps: vec![],
                pending: None,
                probes: Default::default(),
            }));
        }
        Request::Counters(reply) => {
            let _ = reply.send(Ok(Counters::from_cells(&vec![1; COUNTERS as usize])));
        }
        Request::Queues(reply) => {
            let _ = reply.send(Ok(Queues {
                version: VERSION,
                ..Queues::default()
            }));
        }
        Request::Probes(reply) => {
            let _ = reply.send(Ok(Probes {
                version: VERSION,
                ..Probes::default()
            }));
        }
        Request::Tuning(listener, reply) => {
            let _ = reply.send(tuning(listener.as_deref(), None));
        }
        Request::Tune(tune, reply) => {
            let outcome = match tune.action {
                TuneAction::Apply => "set",
                TuneAction::Revert => "set back",
            };
            let _ = reply.send(tuning(tune.listener.as_deref(), Some(outcome)));
        }
        Request::SetMode(set, reply) => {
            let _ = reply.send(Ok(ModeChanged {
                version: VERSION,
                before: Mode::Enforce,
                mode: set.mode,
                confirm_within_s: set.confirm_within.map(|within| within.get().as_secs()),
            }));
        }
        Request::Reload(reload, reply) => {
            let error = "netmoat.toml:3:1\n 3 | x\u{1b}[31m".to_owned();
            let _ = reply.send(if reload.force {
                Ok(Reloaded {
                    version: VERSION,
                    applied: !reload.dry_run,
                    changes: vec![],
                    warnings: vec![],
                    confirm_within_s: reload.confirm_within.map(|within| within.get().as_secs()),
                })
            } else {
                Err(RequestError::Refused(error))
            });
        }
        Request::Detach(_) => unreachable!("see tests of the agent: pins"),
        Request::Confirm(reply) => {
            let _ = reply.send(Ok(Confirmed {
                version: VERSION,
                what: "the reload".to_owned(),
                left_s: 7,
                warnings: vec![],
            }));
        }
        Request::Config(reply) => {
            let _ = reply.send(Ok(ConfigShown {
                version: VERSION,
                source: Some("/etc/netmoat/netmoat.toml".into()),
                drop_ins: vec![],
                mode_in_file: Some(Mode::Observe),
                config: Default::default(),
                toml: "mode = \"enforce\"\n".to_owned(),
            }));
        }
        Request::RotateKeys { force: true, reply } => {
            let _ = reply.send(Ok(KeysRotated {
                version: VERSION,
                previous_key_age_s: 90,
            }));
        }
        Request::RotateKeys {
            force: false,
            reply,
        } => {
            let _ = reply.send(Err(RequestError::Refused(
                "the key is 90 s old; wait, or add --force".to_owned(),
            )));
        }
        Request::Neighbors { history, reply } => {
            let mut binding = binding("192.0.2.1", "eth0", 0);
            if history {
                binding.history.push(BindingHistory {
                    at: 1_700_000_000,
                    what: "learned".to_owned(),
                });
            }
            let _ = reply.send(Ok(Neighbors {
                version: VERSION,
                arp: GuardMode::Enforce,
                ndp: GuardMode::Observe,
                ra_guard: false,
                bindings: vec![binding],
            }));
        }
        Request::PinNeighbor(pin, reply) => {
            let interface = pin.interface.as_deref().unwrap_or("eth0");
            let _ = reply.send(Ok(NeighborsChanged {
                version: VERSION,
                bindings: vec![NeighborBinding {
                    macs: pin.macs,
                    origin: BindingOrigin::Pinned,
                    router: pin.router,
                    ..binding(&pin.address.to_string(), interface, pin.vlan)
                }],
                warnings: vec!["until now it was elsewhere".to_owned()],
            }));
        }
        Request::UnpinNeighbor(unpin, reply) => {
            let _ = reply.send(Err(RequestError::Refused(format!(
                "{} is not pinned; `netmoat neighbor list` shows what is",
                unpin.address
            ))));
        }
        Request::AuditNeighbors { repair, reply } => {
            let _ = reply.send(Ok(NeighborAudit {
                version: VERSION,
                entries: vec![AuditEntry {
                    address: "192.0.2.1".to_owned(),
                    interface: "eth0".to_owned(),
                    mac: Some("02:00:00:00:00:66".to_owned()),
                    state: Some("STALE".to_owned()),
                    bound: vec!["02:00:00:00:00:01".to_owned()],
                    contested: false,
                    verdict: AuditVerdict::Poisoned,
                    repaired: repair,
                }],
                settings: vec![],
            }));
        }
        Request::Events { after, reply } => {
            let _ = reply.send(Ok(events(1, 3, after)));
        }
        // In control_lists.rs.
        Request::Lists(_) => {}
        Request::Drops { .. } | Request::Explain(..) => unreachable!("see control_drops.rs"),
        Request::Watch(..) | Request::Watched(..) => {
            unreachable!("no command here asks for it")
        }
    }
}

fn binding(address: &str, interface: &str, vlan: u16) -> NeighborBinding {
    NeighborBinding {
        address: address.to_owned(),
        interface: interface.to_owned(),
        vlan,
        macs: vec!["02:00:00:00:00:01".to_owned()],
        origin: BindingOrigin::Learned,
        state: BindingState::Protected,
        router: false,
        answered_s: None,
        spoofs: 0,
        history: vec![],
    }
}

/// Of an agent that proposes one change, and says for which listener.
fn tuning(listener: Option<&str>, outcome: Option<&str>) -> Result<Tuning, RequestError> {
    if listener == Some("9") {
        return Err(RequestError::Refused(
            "there is no such listener".to_owned(),
        ));
    }
    Ok(Tuning {
        version: VERSION,
        changes: vec![Change {
            name: "net.core.somaxconn".to_owned(),
            from: "128".to_owned(),
            to: "4096".to_owned(),
            why: format!("for {}", listener.unwrap_or("all")),
            outcome: outcome.map(str::to_owned),
        }],
        advice: vec![],
        applied: vec![],
    })
}

/// The events of a start of the agent that has had `last`, none forgotten.
fn events(agent: u64, last: u64, after: u64) -> Events {
    let event = |sequence| Event {
        sequence,
        at_ms: 1_000 * sequence,
        level: EventLevel::Alert,
        kind: "spoof".to_owned(),
        interface: "eth0".to_owned(),
        vlan: 0,
        address: "192.0.2.1".to_owned(),
        macs: vec!["02:00:00:00:00:66".to_owned()],
        text: format!("false claim {sequence}"),
        drop: None,
    };
    Events {
        version: VERSION,
        agent,
        last,
        forgotten: 0,
        drops: DropTotals::default(),
        events: (after.saturating_add(1)..=last).map(event).collect(),
    }
}

async fn netmoat(socket: &Path, args: &[&str]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_netmoat"))
        .args(args)
        .env("NETMOAT_SOCKET", socket)
        .env_remove("JOURNAL_STREAM")
        .output()
        .await
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Sends raw octets and returns all that comes back.
async fn raw(socket: &Path, request: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    // The server may have answered and closed before it read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: netmoat\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Runs `work` on a thread of another user and group. `None` unless we are root.
fn as_user<T: Send + 'static>(
    uid: u32,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<JoinHandle<T>> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    Some(tokio::task::spawn_blocking(move || {
        std::thread::spawn(move || {
            let nothing = std::ptr::null::<u32>();
            // SAFETY: a count of zero, so that the pointer is not followed. Unlike libc's functions, the
            // bare system calls here change the credentials of this thread alone, which ends with `work`.
            let groups = unsafe { nix::libc::syscall(nix::libc::SYS_setgroups, 0_usize, nothing) };
            // SAFETY: takes three integers.
            let group = unsafe { nix::libc::syscall(nix::libc::SYS_setresgid, uid, uid, uid) };
            // SAFETY: takes three integers.
            let user = unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!((groups, group, user), (0, 0, 0));
            work()
        })
        .join()
        .unwrap()
    }))
}

/// Runs a client's exchange in the calling thread, hence with its credentials.
fn exchange<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[tokio::test]
async fn read_verbs_answer_in_json_and_in_words() {
    let rig = Rig::start(0o660);
    for verb in [
        &["counters"][..],
        &["queues"],
        &["neighbor", "list"],
        &["events"],
    ] {
        let out = rig.netmoat(&[verb, &["-o", "json"]].concat()).await;
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["version"], 1);
    }
    let out = rig.netmoat(&["counters"]).await;
    assert!(text(&out.stdout).contains("tcp_flags"), "{out:?}");
    assert!(
        !text(&out.stdout).contains('\u{1b}'),
        "no colours into a pipe: {out:?}"
    );
    let out = rig.netmoat(&["queues"]).await;
    assert!(text(&out.stdout).contains("No TCP listener"), "{out:?}");
}

#[tokio::test]
async fn a_degraded_agent_makes_status_exit_with_3() {
    let rig = Rig::start(0o660);
    for args in [&["status"][..], &["-o", "json", "status"]] {
        let out = rig.netmoat(args).await;
        assert_eq!(out.status.code(), Some(3), "{out:?}");
        assert!(text(&out.stdout).contains("eth1 is gone"), "{out:?}");
    }
}

#[tokio::test]
async fn the_agents_own_user_may_change_it() {
    let rig = Rig::start(0o660);
    let out = rig.netmoat(&["mode", "observe"]).await;
    assert_eq!(
        (
            out.status.code(),
            text(&out.stdout).contains("Now in observe mode")
        ),
        (Some(0), true),
        "{out:?}"
    );
    let out = rig.netmoat(&["mode", "enforce"]).await;
    assert!(
        text(&out.stdout).contains("Already in enforce mode"),
        "{out:?}"
    );
    let out = rig.netmoat(&["key", "rotate"]).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(
        text(&out.stderr),
        "netmoat: the key is 90 s old; wait, or add --force\n"
    );
    let out = rig.netmoat(&["key", "rotate", "--force"]).await;
    assert_eq!(
        (
            out.status.code(),
            text(&out.stdout).contains("in use for 1m30s")
        ),
        (Some(0), true),
        "{out:?}"
    );
}

#[tokio::test]
async fn neighbours_are_listed_pinned_and_unpinned() {
    let rig = Rig::start(0o660);
    let out = rig.netmoat(&["neighbor", "list"]).await;
    let words = text(&out.stdout);
    assert!(
        words.starts_with("1 neighbour protected; ARP guard enforcing, NDP guard observing"),
        "{out:?}"
    );
    assert!(words.contains("192.0.2.1"), "{out:?}");

    // Every option arrives.
    let mac = "02:00:00:00:00:aB";
    let more = ["--router", "--interface", "eth1", "--vlan", "7"];
    let out = rig
        .netmoat(&[&["neighbor", "pin", "fe80::1", mac][..], &more].concat())
        .await;
    assert_eq!(
        text(&out.stdout),
        "fe80::1 on eth1 VLAN 7 is held to 02:00:00:00:00:ab from now on, and may advertise itself as a router.\n\
         warning: until now it was elsewhere\n",
        "{out:?}"
    );
    let out = rig.netmoat(&["neighbor", "unpin", "192.0.2.9"]).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(
        text(&out.stderr),
        "netmoat: 192.0.2.9 is not pinned; `netmoat neighbor list` shows what is\n"
    );
}

#[tokio::test]
async fn an_audit_that_finds_poison_exits_with_3_unless_it_repairs() {
    let rig = Rig::start(0o660);
    for args in [
        &["neighbor", "audit"][..],
        &["neighbor", "audit", "-o", "json"],
    ] {
        let out = rig.netmoat(args).await;
        assert_eq!(out.status.code(), Some(3), "{out:?}");
        assert!(text(&out.stdout).contains("02:00:00:00:00:66"), "{out:?}");
    }
    let out = rig.netmoat(&["neighbor", "audit", "--repair"]).await;
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(text(&out.stdout).starts_with("Repaired 1"), "{out:?}");
}

#[tokio::test]
async fn events_are_those_after_the_one_named() {
    let rig = Rig::start(0o660);
    let out = rig.netmoat(&["events", "--after", "1"]).await;
    let words = text(&out.stdout);
    assert!(words.starts_with("2 events, 2 alerts.\n"), "{out:?}");
    assert!(!words.contains("false claim 1"), "{out:?}");
    let last = rig.client().events(2).await.unwrap();
    assert_eq!(last, events(1, 3, 2));
}

#[tokio::test]
async fn following_events_prints_each_once_and_outlives_the_agent() {
    /// Answers so many times, each with a journal of that length. What an answer had was printed when the next
    /// question comes.
    async fn live(inbox: &mut mpsc::Receiver<Request>, agent: u64, lasts: &[u64]) {
        for &last in lasts {
            let Some(Request::Events { after, reply }) = inbox.recv().await else {
                panic!("not events");
            };
            let _ = reply.send(Ok(events(agent, last, after)));
        }
    }
    let (requests, mut inbox) = mpsc::channel(8);
    let mut rig = Rig::with_agent(0o660, requests.clone());
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_netmoat"))
        .args(["events", "--follow", "-o", "json"])
        .env("NETMOAT_SOCKET", &rig.socket)
        .env_remove("JOURNAL_STREAM")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    live(&mut inbox, 1, &[2, 2, 4, 4]).await;
    rig.stop.send(true).unwrap();
    rig.server.await.unwrap();
    // Time to find nobody there, more than once.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let (stop, stopped) = watch::channel(false);
    let bound = BoundSocket::bind(&rig.socket).unwrap();
    rig.server = tokio::spawn(serve(bound, requests, stopped));
    // As many events as the last start had, and asked for again.
    live(&mut inbox, 2, &[4, 4, 4]).await;
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let out = child.wait_with_output().await.unwrap();
    drop(stop);
    let told = text(&out.stderr);
    assert_eq!(told.matches("waiting for it").count(), 1, "{out:?}");
    assert_eq!(told.matches("started anew").count(), 1, "{out:?}");
    let lines: Vec<serde_json::Value> = text(&out.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let sequences: Vec<_> = lines.iter().map(|line| line["sequence"].as_u64()).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 1, 2, 3, 4].map(Some), "{out:?}");
    assert!(lines.iter().all(|line| line["version"] == 1), "{out:?}");
}

#[tokio::test]
async fn following_nobody_ends_at_once() {
    let out = netmoat(Path::new("/nonexistent"), &["events", "--follow"]).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
}

#[tokio::test]
async fn tune_changes_nothing_unless_it_is_asked_to() {
    let rig = Rig::start(0o660);
    for (args, outcome, words) in [
        (&["tune"][..], None, "netmoat tune --apply` does it"),
        (&["tune", "--apply"], Some("set"), "1 setting"),
        (&["tune", "--revert"], Some("set back"), "1 setting"),
    ] {
        let out = rig.netmoat(args).await;
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        assert!(text(&out.stdout).contains(words), "{out:?}");
        let out = rig.netmoat(&[args, &["-o", "json"]].concat()).await;
        let tuning: Tuning = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(tuning.changes[0].outcome.as_deref(), outcome, "{out:?}");
    }
}

#[tokio::test]
async fn the_listener_to_tune_for_arrives_as_it_was_written() {
    let rig = Rig::start(0o660);
    for name in ["443", "[2001:db8::1]:443", "a b&listener=c%20+\u{e9}/?#"] {
        let tuning = rig.client().tuning(Some(name)).await.unwrap();
        assert_eq!(tuning.changes[0].why, format!("for {name}"));
        let tune = Tune {
            action: TuneAction::Apply,
            listener: Some(name.to_owned()),
        };
        let tuning = rig.client().tune(&tune).await.unwrap();
        assert_eq!(tuning.changes[0].why, format!("for {name}"));
    }
    assert_eq!(
        rig.client().tuning(None).await.unwrap().changes[0].why,
        "for all"
    );
    let out = rig.netmoat(&["tune", "9"]).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert_eq!(text(&out.stderr), "netmoat: there is no such listener\n");
    for (args, words) in [
        (&["tune", "--apply", "--revert"][..], "cannot be used with"),
        (&["tune", "443", "--revert"], "cannot be used with"),
        (&["tune", "[::1:80"], "[::1:80"),
    ] {
        let out = rig.netmoat(args).await;
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        assert!(text(&out.stderr).contains(words), "{out:?}");
    }
}

#[tokio::test]
async fn top_without_a_terminal_names_what_prints() {
    let rig = Rig::start(0o660);
    for (args, words) in [
        (&["top"][..], "`netmoat queues --watch` prints"),
        (&["top", "-o", "json"], "`netmoat queues --watch -o json`"),
    ] {
        let out = rig.netmoat(args).await;
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        assert!(text(&out.stderr).contains(words), "{out:?}");
        assert!(out.stdout.is_empty(), "{out:?}");
    }
}

#[tokio::test]
async fn history_is_sent_when_it_is_asked_for() {
    let rig = Rig::start(0o660);
    for (args, lines) in [(&["--history"][..], 1), (&[], 0)] {
        let args = [&["neighbor", "list", "-o", "json"], args].concat();
        let out = rig.netmoat(&args).await;
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let history = json["bindings"][0]["history"].as_array().unwrap();
        assert_eq!(history.len(), lines, "{out:?}");
    }
    let answer = raw(
        &rig.socket,
        "GET /v1/neighbors?history=yes HTTP/1.1\r\nhost: netmoat\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn another_user_may_read_and_not_write() {
    let rig = Rig::start(0o666);
    let client = rig.client();
    let Some(thread) = as_user(NOBODY, move || {
        exchange(async {
            let address = "192.0.2.1".parse().unwrap();
            let pin = PinNeighbor {
                address,
                macs: vec![],
                interface: None,
                vlan: 0,
                router: false,
            };
            let unpin = UnpinNeighbor {
                address,
                interface: None,
                vlan: 0,
            };
            (
                [
                    client.status().await.map(drop),
                    client.neighbors(false).await.map(drop),
                    client.audit_neighbors().await.map(drop),
                    client.events(0).await.map(drop),
                    client.tuning(None).await.map(drop),
                ],
                [
                    client.set_mode(&SetMode::to(Mode::Observe)).await.map(drop),
                    client.rotate_keys(true).await.map(drop),
                    client.reload(&Reload::default()).await.map(drop),
                    client.confirm().await.map(drop),
                    client.pin_neighbor(&pin).await.map(drop),
                    client.unpin_neighbor(&unpin).await.map(drop),
                    client.repair_neighbors().await.map(drop),
                ],
                client
                    .tune(&Tune {
                        action: TuneAction::Revert,
                        listener: None,
                    })
                    .await
                    .map(drop),
                [
                    client.drops(0).await.map(drop),
                    client
                        .explain(&ExplainFrame {
                            frame: "00".to_owned(),
                            interface: None,
                        })
                        .await
                        .map(drop),
                ],
            )
        })
    }) else {
        return;
    };
    let (read, written, tuned, others) = thread.await.unwrap();
    assert!(read.iter().all(Result::is_ok), "{read:?}");
    for denied in written {
        match denied {
            Err(ClientError::Forbidden(words)) => {
                assert_eq!(
                    words,
                    "only root may change the agent, and you are uid 65534; run it with sudo"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(
        matches!(&tuned, Err(ClientError::Forbidden(words)) if words.starts_with("only root may change the kernel's settings")),
        "{tuned:?}"
    );
    for denied in others {
        assert!(
            matches!(&denied, Err(ClientError::Forbidden(words)) if words.contains("run it with sudo")),
            "{denied:?}"
        );
    }
}

#[tokio::test]
async fn a_reload_is_told_with_the_lines_of_a_mistake_and_no_escapes() {
    let rig = Rig::start(0o660);
    let refused = rig.netmoat(&["reload"]).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(said, "netmoat: netmoat.toml:3:1\n 3 | x [31m\n");
    let made = rig
        .netmoat(&["reload", "--force", "--confirm-within", "90s"])
        .await;
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(
        said.contains("Undone in") && said.contains("netmoat confirm"),
        "{said}"
    );
    let confirmed = rig.netmoat(&["confirm"]).await;
    assert_eq!(confirmed.stdout, b"Confirmed: the reload stays.\n");
    let shown = rig.netmoat(&["config", "show"]).await;
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        said.starts_with("# from /etc/netmoat/netmoat.toml\n# the file says"),
        "{said}"
    );
    for wrong in [
        &["reload", "--confirm-within", "60"][..],
        &["reload", "--confirm-within", "2d"],
    ] {
        assert_eq!(rig.netmoat(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_user_outside_the_group_is_told_what_to_do() {
    let rig = Rig::start(0o660);
    let client = rig.client();
    let Some(thread) = as_user(NOBODY, move || exchange(client.status())) else {
        return;
    };
    let error = thread.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Denied { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("run it with sudo, or join group `netmoat`"),
        "{error}"
    );
}

#[tokio::test]
async fn without_an_agent_the_command_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    for _ in ["absent", "stale"] {
        let out = netmoat(&socket, &["status"]).await;
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        let words = text(&out.stderr);
        assert!(words.contains(socket.to_str().unwrap()), "{words}");
        assert!(
            words.contains("is the agent running? start it with `netmoat run`"),
            "{words}"
        );
        drop(UnixListener::bind(&socket));
    }
}

#[tokio::test]
async fn queues_without_an_agent_names_the_way_to_look_without_one() {
    let out = netmoat(Path::new("/nonexistent"), &["queues", "443"]).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let words = text(&out.stderr);
    assert!(words.contains("is the agent running?"), "{words}");
    assert!(words.contains("`netmoat queues --once`"), "{words}");
}

#[tokio::test]
async fn wrong_requests_are_answered_in_plain_words() {
    let rig = Rig::start(0o660);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: netmoat\r\n\r\n");
    for (request, status, words) in [
        (get("/"), "404", "no such path"),
        (get("/v1/mode"), "405", "POST changes /v1/mode"),
        (post("/v1/status", ""), "405", "POST changes /v1/mode"),
        (
            post("/v1/mode", ""),
            "400",
            "the request's JSON does not fit",
        ),
        (
            post("/v1/mode", r#"{"mode":"off"}"#),
            "400",
            "unknown variant `off`",
        ),
        (
            post("/v1/mode", r#"{"mode":"observe","x":1}"#),
            "400",
            "unknown field `x`",
        ),
        (get("/v1/neighbors/repair"), "405", "GET reads"),
        (post("/v1/neighbors/audit", ""), "405", "POST changes"),
        (
            post("/v1/neighbors/pin", ""),
            "400",
            "the request's JSON does not fit",
        ),
        (
            post("/v1/neighbors/pin", r#"{"address":"gateway","macs":[]}"#),
            "400",
            "invalid IP address",
        ),
        (
            post(
                "/v1/neighbors/unpin",
                r#"{"address":"192.0.2.1","macs":[]}"#,
            ),
            "400",
            "unknown field `macs`",
        ),
        (get("/v1/tune?port=443"), "400", "write /v1/tune?listener="),
        (
            get("/v1/tune?listener=%ff"),
            "400",
            "write /v1/tune?listener=",
        ),
        (
            post("/v1/tune", r#"{"action":"set"}"#),
            "400",
            "unknown variant `set`",
        ),
        (
            post("/v1/tune", r#"{"action":"revert","x":1}"#),
            "400",
            "unknown field `x`",
        ),
        (get("/v1/events?after=x"), "400", "the query does not fit"),
        (get("/v1/events?since=1"), "400", "write /v1/events?after="),
        (get("/v1/events"), "200", "false claim 1"),
        (get("/v1/events?after=2"), "200", r#""last":3"#),
        (post("/v1/mode", &" ".repeat(5000)), "413", ""),
        ("nonsense\r\n\r\n".to_owned(), "400", ""),
    ] {
        let answer = raw(&rig.socket, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}\n{answer}"
        );
        assert!(answer.contains(words), "{request}\n{answer}");
    }
    let answer = raw(&rig.socket, &post("/v1/keys/rotate", "")).await;
    assert!(
        answer.starts_with("HTTP/1.1 409"),
        "an empty body is the default: {answer}"
    );
}

#[tokio::test]
async fn readers_cannot_lock_root_out() {
    let rig = Rig::start(0o666);
    let socket = rig.socket.clone();
    // 48 silent connections take all the places of readers; the next reader is turned away.
    let Some(thread) = as_user(NOBODY, move || {
        let held: Vec<_> = (0..48)
            .map(|_| UnixStream::connect(&socket).unwrap())
            .collect();
        let mut next = UnixStream::connect(&socket).unwrap();
        let _ = next.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut answer = Vec::new();
        let _ = next.read_to_end(&mut answer);
        (held, answer)
    }) else {
        return;
    };
    let (held, answer) = thread.await.unwrap();
    assert!(
        text(&answer).starts_with("HTTP/1.1 503"),
        "{}",
        text(&answer)
    );
    assert!(rig.client().counters().await.is_ok(), "root still gets in");
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_cut() {
    // On the paused clock, which runs ahead as soon as everybody waits.
    let rig = Rig::start(0o660);
    let mut silent = tokio::net::UnixStream::connect(&rig.socket).await.unwrap();
    let start = tokio::time::Instant::now();
    let mut answer = Vec::new();
    let _ = silent.read_to_end(&mut answer).await;
    let lived = start.elapsed();
    assert!(
        lived >= Duration::from_secs(10) && lived < Duration::from_secs(11),
        "{lived:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_reported() {
    let (requests, mut inbox) = mpsc::channel(8);
    let rig = Rig::with_agent(0o660, requests);
    let mut held = Vec::new();
    tokio::spawn(async move {
        while let Some(request) = inbox.recv().await {
            held.push(request);
        }
    });
    let answer = raw(&rig.socket, "GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 504") && answer.contains("did not answer within 5s"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_stopping_agent_says_so() {
    let (requests, inbox) = mpsc::channel(8);
    drop(inbox);
    let rig = Rig::with_agent(0o660, requests);
    let error = rig.client().queues().await.unwrap_err();
    assert_eq!(error.to_string(), "the agent is stopping");
}

#[tokio::test]
async fn shutdown_waits_for_no_silent_client() {
    let rig = Rig::start(0o660);
    let _silent = tokio::net::UnixStream::connect(&rig.socket).await.unwrap();
    assert!(rig.client().counters().await.is_ok());
    rig.stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(5), rig.server)
        .await
        .unwrap()
        .unwrap();
    assert!(!rig.socket.exists());
}
