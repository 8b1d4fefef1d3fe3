//! Dropped packets over the control socket: the real server before a fake agent, the real binary, and tshark to read
//! what it captures.

use std::os::fd::{AsRawFd as _, RawFd};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use net_common::verdict::{Action, Reason};
use net_user::config::Mode;
use net_user::control::bind::BoundSocket;
use net_user::control::drops::{
    DropTotals, DroppedFrame, Drops, FrameExplained, ListedBy, hex, unhex,
};
use net_user::control::protocol::{Request, RequestError, VERSION};
use net_user::control::server::serve;
use net_user::drops::seen::Seen;
use nix::sys::signal::{Signal, kill};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

const AGENT: u64 = 77;

/// A server whose agent is `answer`.
struct Rig {
    socket: PathBuf,
    dir: tempfile::TempDir,
    _stop: watch::Sender<bool>,
}

impl Rig {
    fn start(mut answer: impl FnMut(Request) + Send + 'static) -> Self {
        let (requests, mut inbox) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Some(request) = inbox.recv().await {
                answer(request);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(
            BoundSocket::bind(&socket).unwrap(),
            requests,
            stopped,
        ));
        Self {
            socket,
            dir,
            _stop: stop,
        }
    }

    fn netmoat(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netmoat"));
        command
            .args(args)
            .env("NETMOAT_SOCKET", &self.socket)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> Output {
        self.netmoat(args).output().await.unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }
}

fn text(octets: &[u8]) -> &str {
    std::str::from_utf8(octets).unwrap()
}

/// A TCP segment with SYN and FIN, `len` octets in all.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 1], [198, 51, 100, 1], 64)
        .tcp(4000, 80, 1, 1000)
        .syn()
        .fin()
        .write(&mut frame, &vec![7; len - 54])
        .unwrap();
    frame
}

fn dropped(sequence: u64) -> DroppedFrame {
    // Every third is of another interface and reason.
    let third = sequence.is_multiple_of(3);
    let reason = if third {
        Reason::Blocked
    } else {
        Reason::TcpFlags
    };
    let frame = frame(400);
    DroppedFrame {
        sequence,
        at_s: 1_700_000_000 + sequence,
        at_ns: 123_456_789,
        ifindex: 2 + u32::from(third),
        interface: if third { "eth1" } else { "eth0" }.to_owned(),
        code: reason as u32,
        reason: reason.name().to_owned(),
        observed: third,
        share: None,
        length: 400,
        frame: hex(&frame[..256]),
    }
}

/// An agent that has `first` samples at the first look and one more at each.
fn agent(mut last: u64) -> impl FnMut(Request) + Send {
    move |request| {
        let Request::Drops { after, reply } = request else {
            panic!("{request:?}");
        };
        let drops = (after.saturating_add(1)..=last).map(dropped).collect();
        let _ = reply.send(Ok(Drops {
            version: VERSION,
            agent: AGENT,
            last,
            forgotten: false,
            totals: DropTotals {
                packets: last * 10,
                told: last,
                lost: 0,
                not_sampled: last * 9,
            },
            drops,
        }));
        last += 1;
    }
}

fn tool(name: &str, args: &[&str]) -> Output {
    std::process::Command::new(name)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{name}: {e}; `cargo xtask setup` installs tshark"))
}

/// Number, time, length, interface and comment of each packet, as tshark reads them.
fn read(path: &str) -> Vec<String> {
    let fields = [
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
        "frame.interface_name",
        "frame.comment",
        "tcp.dstport",
    ];
    let fields: Vec<_> = fields.iter().flat_map(|field| ["-e", field]).collect();
    let out = tool(
        "tshark",
        &[&["-r", path, "-T", "fields"], &fields[..]].concat(),
    );
    assert!(out.status.success(), "{out:?}");
    text(&out.stdout).lines().map(str::to_owned).collect()
}

fn line(sequence: u64) -> String {
    let (interface, comment) = if sequence.is_multiple_of(3) {
        ("eth1", "netmoat: drop blocked (51), observed")
    } else {
        ("eth0", "netmoat: drop tcp_flags (16), R-TCP-2")
    };
    format!(
        "{}.123456789\t400\t256\t{interface}\t{comment}\t80",
        1_700_000_000 + sequence
    )
}

#[tokio::test]
async fn what_is_captured_is_read_by_wireshark_with_reasons_and_times() {
    let rig = Rig::start(agent(2));
    let path = rig.path("drops.pcapng");
    let out = rig
        .run(&["capture", "-w", &path, "--recent", "--count", "7"])
        .await;
    assert!(out.status.success(), "{out:?}");
    let said = text(&out.stderr);
    assert!(said.contains("7 packets written"), "{said}");
    let expected: Vec<_> = (1..=7).map(line).collect();
    assert_eq!(read(&path), expected);
    let infos = tool("capinfos", &["-t", "-I", &path]);
    let infos = text(&infos.stdout);
    assert!(infos.contains("pcapng"), "{infos}");
    assert!(infos.contains("Number of interfaces in file: 2"), "{infos}");
    // Others' frames are not for everyone.
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn without_recent_a_capture_begins_with_what_comes() {
    let rig = Rig::start(agent(5));
    let path = rig.path("drops.pcapng");
    let out = rig
        .run(&[
            "capture", "-w", &path, "--reason", "blocked", "--count", "2",
        ])
        .await;
    assert!(out.status.success(), "{out:?}");
    assert_eq!(read(&path), [line(6), line(9)]);
}

async fn end(child: Child) -> Output {
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    child.wait_with_output().await.unwrap()
}

#[tokio::test]
async fn a_capture_can_be_read_while_it_grows_and_ends_in_order_when_interrupted() {
    let rig = Rig::start(agent(1));
    let path = rig.path("drops.pcapng");
    let child = rig.netmoat(&["capture", "-w", &path]).spawn().unwrap();
    // With nothing in it yet it is no capture.
    let begun = |path: &str| std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    while !begun(&path) || read(&path).len() < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let out = end(child).await;
    assert!(out.status.success(), "{out:?}");
    let found = read(&path);
    let expected: Vec<_> = (2..).take(found.len()).map(line).collect();
    assert_eq!(found, expected);
}

/// Octets in a pipe.
fn waiting(pipe: RawFd) -> i32 {
    let mut octets = 0;
    // SAFETY: FIONREAD writes one int.
    let done = unsafe { nix::libc::ioctl(pipe, nix::libc::FIONREAD, &raw mut octets) };
    assert_eq!(done, 0);
    octets
}

#[tokio::test]
async fn a_reader_that_takes_nothing_keeps_nobody_from_interrupting() {
    // More than a pipe holds.
    let rig = Rig::start(agent(2000));
    let child = rig
        .netmoat(&["capture", "-w", "-", "--recent"])
        .spawn()
        .unwrap();
    let pipe = child.stdout.as_ref().unwrap().as_raw_fd();
    while waiting(pipe) < 60_000 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pid = nix::unistd::Pid::from_raw(child.id().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let mut child = child;
    // Its pipe stays open and unread.
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait())
        .await
        .expect("it ends")
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_capture_ends_after_its_time_and_into_a_pipe() {
    let rig = Rig::start(agent(4));
    let out = rig
        .run(&["capture", "-w", "-", "--recent", "--for", "0s"])
        .await;
    assert!(out.status.success(), "{out:?}");
    let path = rig.path("piped.pcapng");
    std::fs::write(&path, &out.stdout).unwrap();
    assert!(read(&path).len() >= 4);
}

#[tokio::test]
async fn nothing_is_overwritten_when_nobody_is_there_or_nothing_would_come() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious");
    std::fs::write(&path, "precious").unwrap();
    let path = path.to_str().unwrap();
    for (args, words) in [
        (&["capture", "-w", path][..], "is the agent running?"),
        (
            &["capture", "-w", path, "--reason", "tcp_pass"],
            "drops nothing",
        ),
        (
            &["capture", "-w", path, "--reason", "tcp_flag"],
            "did you mean `tcp_flags`?",
        ),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_netmoat"))
            .args(args)
            .env("NETMOAT_SOCKET", dir.path().join("nobody.sock"))
            .output()
            .await
            .unwrap();
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(text(&out.stderr).contains(words), "{out:?}");
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "precious");
}

/// Drops what has SYN and FIN; what is empty behind its headers was listed.
fn judge(request: Request) {
    let Request::Explain(asked, reply) = request else {
        panic!("{request:?}");
    };
    let frame = unhex(&asked.frame).unwrap();
    let reason = if frame.len() == 54 {
        Reason::Blocked
    } else {
        Reason::TcpFlags
    };
    if asked.interface.as_deref() == Some("eth9") {
        let _ = reply.send(Err(RequestError::Refused(
            "netmoat is not attached to eth9; it is to eth0".to_owned(),
        )));
        return;
    }
    let listed = ListedBy {
        entry: "192.0.2.0/24".to_owned(),
        origin: "feed".to_owned(),
        reason: "it's \u{1b}because".to_owned(),
        left_s: Some(90),
    };
    let observed = reason == Reason::TcpFlags;
    let _ = reply.send(Ok(FrameExplained {
        version: VERSION,
        verdict: if observed { "pass" } else { "drop" }.to_owned(),
        code: reason as u32,
        reason: reason.name().to_owned(),
        action: "drop".to_owned(),
        observed,
        share: (!observed).then(|| "pool".to_owned()),
        mode: Mode::Observe,
        interface: "eth0".to_owned(),
        length: frame.len() as u32,
        seen: Seen::of(&frame, frame.len()),
        listed: Vec::from_iter((reason == Reason::Blocked).then_some(listed)),
    }));
    assert_eq!(reason.action(), Action::Drop);
}

#[tokio::test]
async fn a_frame_is_explained_in_words_and_in_json() {
    let rig = Rig::start(judge);
    let digits = hex(&frame(54));
    let out = rig.run(&["explain", "--frame", &digits]).await;
    assert!(out.status.success(), "{out:?}");
    let words = text(&out.stdout);
    for line in [
        "Frame      tcp 192.0.2.1:4000 → 198.51.100.1:80 FIN,SYN, 54 octets, on eth0\n",
        "Verdict    drop\n",
        "Reason     blocked (51)\n",
        "Refused by what all sources not seen before may send together (`pool`)\n",
        "Stage      blocklist\n",
        "Mode       observe\n",
        "Listed     192.0.2.0/24 in feed, 1m30s left: it's \\u{1b}because\n",
        "If honest  Take the entry off (`netmoat block del`)",
    ] {
        assert!(words.contains(line), "{line:?} in {words}");
    }
    let out = rig
        .run(&["explain", "--frame", &hex(&frame(60)), "-o", "json"])
        .await;
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let told = &json["frames"][0];
    assert_eq!(json["version"], 1);
    assert_eq!(told.get("version"), None, "it stands once");
    for (key, value) in [
        ("packet", serde_json::json!(1)),
        ("verdict", "pass".into()),
        ("reason", "tcp_flags".into()),
        ("code", 16.into()),
        ("observed", true.into()),
        ("stage", "TCP sanity".into()),
        ("rules", serde_json::json!(["R-TCP-2"])),
        ("interface", "eth0".into()),
    ] {
        assert_eq!(told[key], value, "{key} in {told}");
    }
    assert_eq!(told["seen"]["destination_port"], 80);
}

#[tokio::test]
async fn the_packets_of_a_capture_are_explained_one_by_one() {
    let rig = Rig::start(judge);
    let path = rig.path("in.pcap");
    let mut writer = pcap_file::pcap::PcapWriter::new(Vec::new()).unwrap();
    for len in [54, 60, 54] {
        let octets = frame(len);
        let packet = pcap_file::pcap::PcapPacket::new(Duration::ZERO, len as u32, &octets);
        writer.write_packet(&packet).unwrap();
    }
    let short = pcap_file::pcap::PcapPacket::new(Duration::ZERO, 9, &[0; 9]);
    writer.write_packet(&short).unwrap();
    std::fs::write(&path, writer.into_writer()).unwrap();

    let out = rig.run(&["explain", "--frame", &path]).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let words = text(&out.stdout);
    assert!(words.starts_with("4 packets.\n"), "{words}");
    assert_eq!(words.matches("blocked (51)").count(), 2, "{words}");
    assert!(words.contains("the frame has 9 octets"), "{words}");

    let out = rig
        .run(&["explain", "--frame", &path, "--packet", "2"])
        .await;
    assert!(text(&out.stdout).contains("tcp_flags (16)"), "{out:?}");

    let mut child = rig
        .netmoat(&["explain", "--frame", "-", "--packet", "3"])
        .stdin(Stdio::from(std::fs::File::open(&path).unwrap()))
        .spawn()
        .unwrap();
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn what_cannot_be_tried_is_refused_with_a_remedy() {
    let rig = Rig::start(judge);
    let empty = rig.path("empty");
    std::fs::write(&empty, "").unwrap();
    let long = rig.path("long");
    std::fs::write(&long, "02".repeat(9019)).unwrap();
    for (args, words) in [
        (&["02:00:zz"][..], "character 7 is `z`"),
        (&["nosuchfile"], "is no file"),
        (&["0200"], "fewer than an Ethernet header's 14"),
        (&[&empty], "is empty"),
        (&[&long], "9018 are the most"),
        (&[&hex(&frame(54)), "--interface", "eth9"], "it is to eth0"),
        (&[&hex(&frame(54)), "--packet", "2"], "the input has 1"),
    ] {
        let out = rig.run(&[&["explain", "--frame"], args].concat()).await;
        assert_eq!(out.status.code(), Some(1), "{out:?}");
        assert!(text(&out.stderr).contains(words), "{words}: {out:?}");
        assert!(out.stdout.is_empty(), "{out:?}");
    }
}
