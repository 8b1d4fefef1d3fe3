//! `netmoat capture` behind the real data path, read back by Wireshark's own reader.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    process::workspace_binary,
    topology::{Host, Pair},
    wait,
};

const SOON: Duration = Duration::from_secs(5);

fn capture(agent: &Agent, path: &str, args: &[&str]) -> Child {
    Command::new(workspace_binary("netmoat").unwrap())
        .arg("--socket")
        .arg(agent.socket())
        .args(["capture", "-w", path])
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// `count` segments with 600 octets of data; hping3 sets no flag unless it is told to.
fn malformed(from: &Host, to: &Host, what: &[&str], count: u32) {
    let output = from
        .ns
        .run(|| {
            Command::new("hping3")
                .args(["--quiet", "--count", &count.to_string()])
                .args(["--interval", "u2000", "--data", "600"])
                .args(what)
                .arg(to.v4.to_string())
                .output()
        })
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("packets transmitted"), "{said}");
}

/// What tshark reads: time, length, captured length, interface, comment, destination.
fn read(path: &str) -> Vec<Vec<String>> {
    let fields = [
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
        "frame.interface_name",
        "frame.comment",
        "ip.dst",
    ];
    let output = Command::new("tshark")
        .args(["-r", path, "-T", "fields"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .expect("tshark is installed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}

#[test]
fn dropped_frames_are_captured_with_their_reasons_and_times() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("drops.pcapng");
    let path = path.to_str().unwrap();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    let begun = now();
    let mut child = capture(&agent, path, &["--count", "10", "--for", "20s"]);
    // It writes its header when it knows where the events stand.
    wait::until("the capture to begin", SOON, || {
        std::fs::metadata(path).is_ok_and(|file| file.len() > 0)
    })
    .unwrap();
    malformed(&pair.attacker, &pair.server, &["--destport", "80"], 30);
    assert!(child.wait().unwrap().success());
    let ended = now();

    let packets = read(path);
    assert_eq!(packets.len(), 10, "{packets:?}");
    for packet in &packets {
        let [time, len, captured, interface, comment, target] = packet.as_slice() else {
            panic!("{packet:?}");
        };
        let time: f64 = time.parse().unwrap();
        // The clock of the data path has steps of a tick.
        assert!(
            (begun - 0.1..ended + 0.1).contains(&time),
            "{begun} {time} {ended}"
        );
        assert_eq!((len.as_str(), captured.as_str()), ("654", "256"));
        assert_eq!(interface, "eth0");
        assert_eq!(comment, "netmoat: drop tcp_flags (16), R-TCP-2");
        assert_eq!(*target, pair.server.v4.to_string());
    }

    // What was captured meets the same fate once more, though it was cut.
    let explained = agent
        .netmoat(&["-o", "json", "explain", "--frame", path])
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&explained.stdout).unwrap();
    let frames = json["frames"].as_array().unwrap();
    assert_eq!(frames.len(), 10);
    for frame in frames {
        assert_eq!(
            (&frame["reason"], &frame["cut"]),
            (&"tcp_flags".into(), &398.into()),
            "{frame}"
        );
    }
}

#[test]
fn a_capture_of_one_reason_leaves_the_others_out() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "mode = \"observe\"").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("drops.pcapng");
    let path = path.to_str().unwrap();
    malformed(&pair.attacker, &pair.server, &["--destport", "80"], 3);
    malformed(
        &pair.attacker,
        &pair.server,
        &["--syn", "--destport", "0"],
        3,
    );
    let observed = |reason: Reason| {
        let counters = agent.counters().unwrap();
        counters.observed[reason as usize].packets
    };
    wait::until("both reasons", SOON, || {
        observed(Reason::DropEventSent) + agent.packets(Reason::DropEventSent).unwrap() >= 6
    })
    .unwrap();
    let args = ["--recent", "--for", "0s", "--reason", "tcp_flags"];
    assert!(capture(&agent, path, &args).wait().unwrap().success());
    let packets = read(path);
    assert!(!packets.is_empty());
    for packet in packets {
        assert_eq!(packet[4], "netmoat: drop tcp_flags (16), R-TCP-2, observed");
    }
}
