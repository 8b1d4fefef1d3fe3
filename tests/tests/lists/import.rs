//! Imports with the real agent: whole lists at once, all or nothing, while packets go on.

use std::{
    collections::HashSet,
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Shutdown, UdpSocket},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use net_common::lists::Prefix;
use net_tests::{
    agent::Agent,
    lab::source_address,
    lists::{done, names, prefixes, refused},
    scene::{PATIENCE, PORT, Scene, assert_sound},
    topology::Pair,
    wait,
};
use net_user::{
    control::lists::ListImported,
    lists::text::{show, whole},
};

const MILLION: usize = 1_000_000;
/// What an unoptimised agent reads in a few seconds.
const MANY: usize = 100_000;
/// Between two datagrams.
const PACE: Duration = Duration::from_millis(2);

/// Different prefixes of mixed lengths, three of four IPv4, none of which concerns the laboratory's hosts; one a line.
fn mixed(count: usize) -> String {
    let keep: [Prefix; 2] = ["198.18.0.1", "2001:2::1"].map(|ip: &str| whole(ip.parse().unwrap()));
    let lengths = [
        [32, 24, 32, 28, 32, 20, 30, 16],
        [128, 64, 128, 48, 128, 64, 56, 32],
    ];
    let mut seen = HashSet::new();
    let mut text = String::new();
    for n in 0.. {
        if seen.len() == count {
            break;
        }
        let ipv6 = n % 4 == 3;
        let address = whole(source_address(n, ipv6));
        let prefix = address.first(lengths[usize::from(ipv6)][n as usize / 4 % 8]);
        let spared = keep
            .iter()
            .any(|host| prefix.covers(*host) || prefix.covers(host.first(24)));
        if !spared && seen.insert(prefix) {
            writeln!(text, "{}", show(prefix)).unwrap();
        }
    }
    text
}

fn import(agent: &Agent, options: &[&str], text: &str) -> ListImported {
    let args = [&["-o", "json", "block", "import", "-", "--force"], options].concat();
    let output = agent.netmoat_with(&args, text, &[]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_import_replaces_the_list_of_its_name_as_a_whole_and_a_bad_line_changes_nothing() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    done(&agent, "block add 192.0.2.1");
    std::fs::write(
        path,
        "192.0.2.1 1h scan # seen\n\n192.0.2.2\n192.0.2.2\n2001:db8::/32 7d\n",
    )
    .unwrap();
    let said = done(&agent, &format!("block import {path} --list feed"));
    assert!(
        said.contains("3 entries now: 3 added, 0 updated, 0 removed"),
        "{said}"
    );
    let said = done(&agent, &format!("block import {path} --list feed"));
    assert!(
        said.contains("0 added, 2 updated, 0 removed"),
        "their ends are later: {said}"
    );
    let all = ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::/32"];
    assert_eq!(prefixes(&agent, "block"), all);

    for (bad, part) in [
        ("example.org", "no IP address"),
        ("192.0.2.9/24", "192.0.2.0/24"),
        ("192.0.2.9 5parsecs", "5parsecs"),
        ("::ffff:192.0.2.9", "write 192.0.2.9"),
    ] {
        std::fs::write(path, format!("192.0.2.7\n# x\n{bad}\n192.0.2.8\n")).unwrap();
        let said = refused(&agent, &format!("block import {path} --list feed"));
        for part in ["line 3", bad, part, "nothing was changed"] {
            assert!(said.contains(part), "no {part} in {said}");
        }
        assert_eq!(prefixes(&agent, "block"), all);
    }
    let answer = import(
        &agent,
        &["--list", "feed"],
        "192.0.2.2\n192.0.2.3 - 3 strikes\n",
    );
    assert_eq!((answer.entries, answer.added, answer.removed), (2, 1, 2));
    assert_eq!(
        prefixes(&agent, "block"),
        ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    );
    // Nothing is a list too; and the kernel's memory is given back with the last entry.
    let said = refused(&agent, "block import /dev/null --list feed --force");
    assert!(
        said.contains("keeps its 2") && said.contains("--allow-empty"),
        "{said}"
    );
    let torn = ["block", "import", "-", "--list", "feed"];
    let output = agent
        .netmoat_with(&torn, "192.0.2.7\n192.0.2.", &[])
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("line 2"),
        "{said}"
    );
    assert_eq!(prefixes(&agent, "block").len(), 3);
    import(&agent, &["--list", "feed", "--allow-empty"], "# nothing\n");
    assert_eq!(names(&agent, "block").lists.len(), 1);
    done(&agent, "block del 192.0.2.1");
    let lists = agent.status().unwrap().lists;
    assert_eq!((lists.blocked, lists.names, lists.kernel_memory), (0, 0, 0));
    assert_sound(&agent);
}

/// Datagrams, numbered; how many arrived.
struct Stream {
    from: UdpSocket,
    to: UdpSocket,
}

impl Stream {
    fn new(scene: &Scene, family: u8, from: Option<IpAddr>) -> Self {
        let to = scene
            .server
            .ns
            .run(|| UdpSocket::bind(scene.server.at(family, 0)))
            .unwrap();
        let bound = from.unwrap_or(scene.client.ip(family));
        let from = scene.client.ns.run(|| UdpSocket::bind((bound, 0))).unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        to.set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        Self { from, to }
    }

    /// Sends until told to stop: how many were sent, and how many arrived.
    fn run(&self, stop: &AtomicBool) -> (u32, u32) {
        thread::scope(|scope| {
            let arriving = scope.spawn(|| {
                let mut arrived = 0;
                loop {
                    match self.to.recv(&mut [0; 8]) {
                        Ok(_) => arrived += 1,
                        Err(_) if stop.load(Ordering::Relaxed) => break,
                        Err(_) => {}
                    }
                }
                arrived
            });
            let mut sent = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                self.from.send(&sent.to_be_bytes()).unwrap();
                sent += 1;
                thread::sleep(PACE);
            }
            (sent, arriving.join().unwrap())
        })
    }
}

#[test]
fn a_million_prefixes_are_imported_while_every_packet_arrives() {
    let scene = Scene::new();
    let listener = scene.listen(4);
    let state = tempfile::tempdir().unwrap();
    let mut agent = Agent::start_in(state.path(), &scene.server, "").unwrap();
    agent.await_listener(PORT, true).unwrap();
    let (mut out, mut in_) = scene.connect(&listener, 4);
    let streams = [4, 6].map(|family| Stream::new(&scene, family, None));
    // Blocked before and after: never seen.
    let blocked: IpAddr = "198.18.0.99".parse().unwrap();
    scene
        .client
        .ns
        .ip("addr add 198.18.0.99/24 dev eth0")
        .unwrap();
    let never = Stream::new(&scene, 4, Some(blocked));
    import(&agent, &["--list", "feed"], &format!("{blocked}\n"));
    let text = mixed(MILLION - 1) + &format!("{blocked}\n");

    let stop = AtomicBool::new(false);
    let transferred = thread::scope(|scope| {
        let running: Vec<_> = streams
            .iter()
            .map(|stream| scope.spawn(|| stream.run(&stop)))
            .collect();
        let silent = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                never.from.send(b"never").unwrap();
                sent += 1;
                thread::sleep(PACE);
            }
            sent
        });
        let sending = scope.spawn(|| {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                out.write_all(&[7; 16_384]).unwrap();
                sent += 16_384;
                thread::sleep(PACE);
            }
            out.shutdown(Shutdown::Write).unwrap();
            sent
        });
        let receiving = scope.spawn(|| {
            let (mut got, mut longest, mut last) = (0_u64, Duration::ZERO, Instant::now());
            let mut buffer = vec![0; 1 << 16];
            loop {
                let len = in_.read(&mut buffer).unwrap();
                longest = longest.max(last.elapsed());
                last = Instant::now();
                got += len as u64;
                if len == 0 {
                    break (got, longest);
                }
            }
        });
        // Other requests are answered meanwhile, and the agent's loop goes on.
        let answering = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                agent.queues().unwrap();
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        let begun = Instant::now();
        let first = import(&agent, &["--list", "feed"], &text);
        let took = begun.elapsed();
        assert_eq!(
            (first.entries, first.added),
            (MILLION as u64, MILLION as u64 - 1)
        );
        let again = import(&agent, &["--list", "feed"], &text);
        assert_eq!((again.added, again.removed, again.updated), (0, 0, 0));
        stop.store(true, Ordering::Relaxed);
        for stream in running {
            let (sent, arrived) = stream.join().unwrap();
            println!("datagrams: {arrived} of {sent} arrived");
            assert_eq!(sent, arrived);
        }
        let (slowest, never_sent) = (answering.join().unwrap(), silent.join().unwrap());
        println!(
            "{never_sent} datagrams of a blocked source, the slowest other answer took {slowest:?}"
        );
        println!(
            "{MILLION} mixed prefixes took {took:?}, building {} ms and {} ms; kernel memory {} MiB, agent {} MiB",
            first.build_ms,
            again.build_ms,
            again.kernel_memory >> 20,
            again.agent_memory >> 20,
        );
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
        let sent = sending.join().unwrap();
        (sent, receiving.join().unwrap())
    });
    let (sent, (got, longest)) = transferred;
    println!("TCP: {got} of {sent} octets arrived, the longest pause {longest:?}");
    assert!(
        got == sent && longest < Duration::from_secs(3),
        "{longest:?}"
    );
    never.to.recv(&mut [0; 8]).unwrap_err();

    // All of a list is there again after a restart.
    import(
        &agent,
        &["--list", "feed"],
        &(mixed(MANY - 1) + &format!("{blocked}\n")),
    );
    assert!(agent.terminate().unwrap().success());
    let agent = Agent::start_in(state.path(), &scene.server, "").unwrap();
    assert_eq!(agent.status().unwrap().lists.blocked, MANY as u64);
    never.from.send(b"never").unwrap();
    never.to.recv(&mut [0; 8]).unwrap_err();
    done(
        &agent,
        &format!("block add {blocked} --for 1h --reason again"),
    );
    wait::until("the change to be saved", PATIENCE, || {
        state.path().join("lists/block/manual.list").exists()
    })
    .unwrap();
    assert_sound(&agent);
}

#[test]
fn an_import_waits_for_the_one_before_it_and_says_so() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    // One that has begun and is not whole yet.
    let mut first = UnixStream::connect(agent.socket()).unwrap();
    let head = "POST /v1/lists/import?list=block&name=first HTTP/1.1\r\nhost: netmoat\r\nconnection: close\r\n\
                transfer-encoding: chunked\r\n\r\na\r\n192.0.2.1\n\r\n";
    first.write_all(head.as_bytes()).unwrap();
    wait::until("the first import to be under way", PATIENCE, || {
        let mut asked = UnixStream::connect(agent.socket()).unwrap();
        let request = "GET /v1/lists/import HTTP/1.1\r\nhost: netmoat\r\nconnection: close\r\n\r\n";
        asked.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        asked.read_to_string(&mut answer).unwrap();
        answer.contains("\"under_way\":true")
    })
    .unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "192.0.2.2\n").unwrap();
    let args = ["block", "import", file.path().to_str().unwrap()];
    let mut second = agent.command(&args).spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(second.stderr.take().unwrap());
    lines.read_line(&mut said).unwrap();
    assert!(said.contains("another import is under way"), "{said}");
    assert_eq!(prefixes(&agent, "block"), Vec::<String>::new());
    first.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
    assert!(second.wait().unwrap().success());
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1", "192.0.2.2"]);
}
