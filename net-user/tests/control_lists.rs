//! Lists over the control socket: the real server before a fake agent, the real client and binary.

use std::{
    io::Write as _,
    net::Shutdown,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use net_user::{
    control::{
        bind::BoundSocket,
        client::{Client, ClientError, Import},
        lists::{ImportEntries, ListImported, ListRequest},
        protocol::{Request, RequestError, VERSION},
        server::serve,
    },
    lists::{List, text},
};
use tokio::sync::{mpsc, watch};

/// The server, and the imports that the agent was handed.
struct Rig {
    directory: tempfile::TempDir,
    imports: Arc<Mutex<Vec<ImportEntries>>>,
    _stop: watch::Sender<bool>,
}

impl Rig {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (requests, mut inbox) = mpsc::channel(8);
        let bound = BoundSocket::bind(&directory.path().join("control.sock")).unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(bound, requests, stopped));
        let imports = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&imports);
        tokio::spawn(async move {
            while let Some(request) = inbox.recv().await {
                let Request::Lists(ListRequest::Import(import, reply)) = request else {
                    panic!("{request:?}")
                };
                let answer = if import.force {
                    Ok(imported(&import))
                } else {
                    Err(RequestError::Refused("it would lock you out".to_owned()))
                };
                taken.lock().unwrap().push(import);
                let _ = reply.send(answer);
            }
        });
        Self {
            directory,
            imports,
            _stop: stop,
        }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    async fn import(&self, text: String, force: bool) -> Result<ListImported, ClientError> {
        let import = Import {
            list: List::Block,
            name: "feed".to_owned(),
            force,
            allow_empty: false,
            ssh_peer: Some("fe80::1".parse().unwrap()),
            confirm_within: Some("90s".parse().unwrap()),
            text: text.into(),
        };
        Client::new(self.socket())
            .import_list(import, Arc::default())
            .await
    }

    /// `netmoat ARGS`, with something on its standard input.
    async fn netmoat(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netmoat"));
        command.arg("--socket").arg(self.socket()).args(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap()
    }
}

fn imported(import: &ImportEntries) -> ListImported {
    ListImported {
        version: VERSION,
        list: import.list,
        name: import.name.clone(),
        entries: import.entries.len() as u64,
        added: 0,
        updated: 0,
        removed: 0,
        build_ms: 0,
        kernel_memory: 0,
        agent_memory: 0,
        confirm_within_s: import.confirm_within.map(|within| within.get().as_secs()),
        warnings: vec![],
    }
}

fn many(count: u32) -> String {
    (0..count)
        .map(|n| format!("{} 1h scan\n", std::net::Ipv4Addr::from(n)))
        .collect()
}

#[tokio::test]
async fn a_list_of_any_length_arrives_whole() {
    let rig = Rig::start();
    for count in [0, 1, 100_000] {
        let answer = rig.import(many(count), true).await.unwrap();
        assert_eq!(answer.entries, u64::from(count));
    }
    let imports = rig.imports.lock().unwrap();
    let last = imports.last().unwrap();
    assert_eq!(last.entries[4242].reason, "scan");
    assert_eq!(last.ssh_peer, Some("fe80::1".parse().unwrap()));
    assert_eq!(last.confirm_within, Some("90s".parse().unwrap()));
}

#[tokio::test]
async fn what_the_agent_refuses_is_told_in_its_words() {
    let rig = Rig::start();
    let error = rig.import(many(1), false).await.unwrap_err();
    assert_eq!(error.to_string(), "it would lock you out");
}

/// The answer comes while the rest is still being sent.
#[tokio::test]
async fn a_bad_line_far_before_the_end_is_told_and_nothing_is_handed_on() {
    let rig = Rig::start();
    let text = format!("192.0.2.1\nexample.org\n{}", many(500_000));
    for _ in 0..5 {
        let error = rig.import(text.clone(), true).await.unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("line 2") && error.contains("example.org"),
            "{error}"
        );
    }
    assert!(rig.imports.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_import_that_breaks_off_changes_nothing() {
    let rig = Rig::start();
    let socket = rig.socket();
    tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        let head = "POST /v1/lists/import?list=block&name=feed&force=1 HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"192.0.2.1\n").unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    })
    .await
    .unwrap();
    // The next import waits until the one that broke off is forgotten.
    rig.import(many(2), true).await.unwrap();
    let imports = rig.imports.lock().unwrap();
    assert_eq!(imports.len(), 1);
    assert_eq!(imports[0].entries.len(), 2);
}

#[tokio::test]
async fn one_import_at_a_time_is_held_in_memory() {
    let rig = Rig::start();
    let mut stream = tokio::net::UnixStream::connect(rig.socket()).await.unwrap();
    let head = "POST /v1/lists/import?list=block&name=feed&force=1 HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .unwrap();
    let client = Client::new(rig.socket());
    while !client.import_state().await.unwrap().under_way {
        tokio::task::yield_now().await;
    }
    let second = rig.import(many(1), true);
    let first = async {
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"192.0.2.1\n")
            .await
            .unwrap();
    };
    let (second, ()) = tokio::join!(second, first);
    second.unwrap();
    let imports = rig.imports.lock().unwrap();
    let first: Vec<_> = imports
        .iter()
        .map(|import| text::show(import.entries[0].prefix))
        .collect();
    assert_eq!(first, ["192.0.2.1", "0.0.0.0"]);
}

#[tokio::test]
async fn the_command_tells_the_first_bad_line_with_its_text() {
    let rig = Rig::start();
    let file = rig.directory.path().join("feed.txt");
    std::fs::write(&file, "# a feed\n192.0.2.1\n192.0.2.1/24 x\n").unwrap();
    let file = file.to_str().unwrap();
    let output = rig.netmoat(&["block", "import", file, "--force"], "").await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        file,
        "line 3",
        "192.0.2.1/24 x",
        "192.0.2.0/24",
        "nothing was changed",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert!(rig.imports.lock().unwrap().is_empty());
    let output = rig
        .netmoat(
            &[
                "-o", "json", "allow", "import", "-", "--list", "office", "--force",
            ],
            "192.0.2.7\n",
        )
        .await;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["entries"], &answer["name"]),
        (&1.into(), &"office".into())
    );
    assert!(answer["total_ms"].is_u64());
}

#[tokio::test]
async fn only_writers_may_change_lists() {
    let rig = Rig::start();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    open(rig.directory.path(), 0o755);
    open(&rig.socket(), 0o666);
    let binary = env!("CARGO_BIN_EXE_netmoat");
    // Where nobody may not go.
    let copy = rig.directory.path().join("netmoat");
    std::fs::copy(binary, &copy).unwrap();
    let feed = rig.directory.path().join("feed.txt");
    std::fs::write(&feed, many(300_000)).unwrap();
    for args in [
        &["block", "add", "192.0.2.1"][..],
        &["allow", "del", "192.0.2.1"],
        &["block", "import", feed.to_str().unwrap()],
    ] {
        let mut command = Command::new(&copy);
        command.arg("--socket").arg(rig.socket()).args(args);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        std::os::unix::process::CommandExt::gid(&mut command, 65534);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{args:?}: {said}");
        assert!(said.contains("only root may change the agent"), "{said}");
    }
    assert!(rig.imports.lock().unwrap().is_empty());
}
