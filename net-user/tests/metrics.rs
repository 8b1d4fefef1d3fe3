//! Metrics end to end: the real server before a fake agent, asked over a Unix socket and over loopback.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use net_common::verdict::COUNTERS;
use net_user::{
    config::metrics::Listen,
    control::protocol::{Counters, NeighborsAtAGlance, Queues, Request, VERSION},
    metrics::{Bound, serve},
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(5);
const GET: &str = "GET /metrics HTTP/1.1\r\nHost: netmoat\r\n\r\n";

/// A server of metrics and a fake agent.
struct Rig {
    listen: Listen,
    /// How often the agent was asked for its status.
    asked: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Rig {
    fn start(listen: Listen) -> Self {
        let (requests, mut inbox) = mpsc::channel(8);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(request) = inbox.recv().await {
                answer(request, &count);
            }
        });
        Self::with_agent(listen, requests, asked)
    }

    fn with_agent(
        listen: Listen,
        requests: mpsc::Sender<Request>,
        asked: Arc<AtomicUsize>,
    ) -> Self {
        let bound = Bound::bind(&listen).unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(bound, requests, stopped));
        Self {
            listen,
            asked,
            stop,
            server,
        }
    }

    /// What is answered to a request, whole.
    async fn ask(&self, request: &str) -> String {
        let talk = async {
            match &self.listen {
                Listen::Unix(path) => talk(UnixStream::connect(path).await.unwrap(), request).await,
                Listen::Tcp(address) => {
                    talk(TcpStream::connect(address).await.unwrap(), request).await
                }
            }
        };
        timeout(SOON, talk).await.unwrap()
    }
}

async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A connection that is closed before it was read ends in a reset.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

fn answer(request: Request, asked: &AtomicUsize) {
    match request {
        Request::Status(reply) => {
            asked.fetch_add(1, Ordering::Relaxed);
            let status = serde_json::from_value(json!({
                "version": VERSION, "netmoat_version": "0.1.0", "pid": 1, "uptime_s": 5, "mode": "enforce",
                "health": "ok", "problems": [], "interfaces": [], "listeners_protected": 0,
                "listeners_left_to_kernel": 0, "cookies_active": false, "keys_age_s": 5,
                "neighbors": NeighborsAtAGlance::default()
            }));
            let _ = reply.send(Ok(status.unwrap()));
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
            let _ = reply.send(Ok(net_user::control::probes::Probes {
                version: VERSION,
                ..Default::default()
            }));
        }
        other => panic!("metrics only read, and never ask {other:?}"),
    }
}

fn unix(directory: &Path) -> (Listen, PathBuf) {
    let path = directory.join("metrics.sock");
    (Listen::Unix(path.clone()), path)
}

/// A loopback address whose port is free, but for a race with others that look for one.
fn loopback() -> Listen {
    let free = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    Listen::Tcp(free.local_addr().unwrap())
}

fn split(answer: &str) -> (&str, &str) {
    answer.split_once("\r\n\r\n").unwrap()
}

#[tokio::test]
async fn metrics_are_read_over_a_unix_socket_and_over_loopback() {
    let directory = tempfile::tempdir().unwrap();
    for listen in [unix(directory.path()).0, loopback()] {
        let rig = Rig::start(listen.clone());
        let answer = rig.ask(GET).await;
        let (head, page) = split(&answer);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{listen}: {head}");
        assert!(
            head.contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        assert!(page.contains("\nnetmoat_healthy 1\n"), "{page}");

        let open = GET.replace(
            "\r\n\r\n",
            "\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
        );
        let answer = rig.ask(&open).await;
        let (head, page) = split(&answer);
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0"),
            "{head}"
        );
        assert!(page.ends_with("# EOF\n"), "{page}");
    }
}

#[tokio::test]
async fn nothing_can_be_changed_and_nothing_else_is_read() {
    let rig = Rig::start(loopback());
    for (request, status) in [
        (
            "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            "405",
        ),
        ("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
        (
            "POST /v1/mode HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\n{\"mode\":\"observe\"}",
            "404",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "404"),
    ] {
        let answer = rig.ask(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
    }
    assert_eq!(rig.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn asking_often_costs_the_agent_one_look_a_second() {
    let rig = Rig::start(loopback());
    let began = std::time::Instant::now();
    for _ in 0..50 {
        assert!(rig.ask(GET).await.contains("netmoat_healthy 1"));
    }
    let seconds = began.elapsed().as_secs() as usize;
    let asked = rig.asked.load(Ordering::Relaxed);
    assert!(asked >= 1 && asked <= seconds + 1, "{asked} in {seconds} s");
}

#[tokio::test]
async fn idle_connections_do_not_pile_up_and_those_beyond_eight_are_closed() {
    let rig = Rig::start(loopback());
    let Listen::Tcp(address) = rig.listen else {
        unreachable!("a loopback address was asked for")
    };
    // Each has a request under way that never ends.
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n")
            .await
            .unwrap();
        idle.push(stream);
    }
    // They were accepted in this order, before the one that comes now.
    assert_eq!(rig.ask(GET).await, "", "the ninth is closed at once");
    drop(idle.pop());
    let answered = async {
        while !rig.ask(GET).await.contains("netmoat_healthy 1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, answered)
        .await
        .expect("a place is free again");
}

#[tokio::test]
async fn an_agent_that_is_gone_is_no_success() {
    let (requests, inbox) = mpsc::channel(1);
    drop(inbox);
    let rig = Rig::with_agent(loopback(), requests, Arc::default());
    let answer = rig.ask(GET).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("the agent is stopping"), "{answer}");
}

#[tokio::test]
async fn the_socket_is_for_root_and_its_group_and_goes_with_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let (listen, path) = unix(directory.path());
    let rig = Rig::start(listen.clone());
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert_eq!(
        path.metadata().unwrap().uid(),
        nix::unistd::geteuid().as_raw()
    );
    let error = format!("{:#}", Bound::bind(&listen).unwrap_err());
    assert!(
        error.contains("another agent serves its metrics there"),
        "{error}"
    );
    assert!(error.contains("[metrics]"), "{error}");
    rig.stop.send(true).unwrap();
    timeout(SOON, rig.server).await.unwrap().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_the_remedy() {
    let taken = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = taken.local_addr().unwrap();
    let error = format!("{:#}", Bound::bind(&Listen::Tcp(address)).unwrap_err());
    assert!(
        error.contains(&address.to_string()) && error.contains("ss -tlnp"),
        "{error}"
    );
}
