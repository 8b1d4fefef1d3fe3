//! Taking the control socket's path: one agent a path, nothing foreign replaced, nothing left behind.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use net_user::control::bind::{BindError, BoundSocket};
use net_user::control::server::serve;
use tokio::sync::{mpsc, watch};

#[tokio::test]
async fn the_socket_appears_with_its_directory_and_goes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("run/control.sock");
    let bound = BoundSocket::bind(&socket).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(socket.parent().unwrap()), 0o750);
    assert_eq!(mode(&socket), 0o660);
    let (requests, _inbox) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(bound, requests, stopped));
    stop.send(true).unwrap();
    server.await.unwrap();
    assert!(!socket.exists());
    // And the path can be taken again.
    drop(BoundSocket::bind(&socket).unwrap());
}

#[tokio::test]
async fn a_live_socket_without_a_lock_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let _foreign = UnixListener::bind(&socket).unwrap();
    let error = BoundSocket::bind(&socket).unwrap_err();
    assert!(
        matches!(error, BindError::AlreadyRunning { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    drop(UnixListener::bind(&socket).unwrap());
    assert!(UnixStream::connect(&socket).is_err());
    let bound = BoundSocket::bind(&socket).unwrap();
    assert!(UnixStream::connect(bound.path()).is_ok());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    std::fs::write(&file, "precious").unwrap();
    symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let error = BoundSocket::bind(path).unwrap_err();
        assert!(matches!(error, BindError::NoSocket { .. }), "{error:?}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_directory_in_which_anyone_may_replace_files_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let error = BoundSocket::bind(&dir.path().join("control.sock")).unwrap_err();
    assert!(
        matches!(error, BindError::UnsafeDirectory { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_successors_socket_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let bound = BoundSocket::bind(&socket).unwrap();
    std::fs::rename(&socket, dir.path().join("moved")).unwrap();
    let _successor = UnixListener::bind(&socket).unwrap();
    drop(bound);
    assert!(std::fs::metadata(&socket).unwrap().file_type().is_socket());
}

#[tokio::test]
async fn a_second_agent_on_the_same_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let _first = BoundSocket::bind(&socket).unwrap();
    let error = BoundSocket::bind(&socket).unwrap_err();
    assert!(
        matches!(error, BindError::AlreadyRunning { .. }),
        "{error:?}"
    );
    let expected = format!("an agent is already running (socket {})", socket.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(
        UnixStream::connect(&socket).is_ok(),
        "the first one goes on"
    );
}

#[tokio::test]
async fn a_socket_that_was_handed_over_is_served_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let handed = UnixListener::bind(&socket).unwrap();
    // Who connects before the agent is there waits.
    let early = UnixStream::connect(&socket).unwrap();
    let bound = BoundSocket::from_activation(handed.try_clone().unwrap().into(), &socket).unwrap();
    let second = BoundSocket::from_activation(handed.try_clone().unwrap().into(), &socket);
    assert!(
        matches!(second, Err(BindError::AlreadyRunning { .. })),
        "one agent a path: {second:?}"
    );
    let (requests, _inbox) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(bound, requests, stopped));
    let mut early = tokio::net::UnixStream::from_std({
        early.set_nonblocking(true).unwrap();
        early
    })
    .unwrap();
    let answer = {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        early
            .write_all(b"GET /nothing HTTP/1.0\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        early.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
    stop.send(true).unwrap();
    server.await.unwrap();
    assert!(
        UnixStream::connect(&socket).is_ok(),
        "it is not the agent's to remove"
    );
}

#[test]
fn what_was_handed_over_and_is_not_the_control_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, other) = (
        dir.path().join("control.sock"),
        dir.path().join("other.sock"),
    );
    let (connected, _peer) = UnixStream::pair().unwrap();
    let datagrams = std::os::unix::net::UnixDatagram::bind(dir.path().join("datagrams")).unwrap();
    let handed = [
        (connected.into(), "no stream socket that listens"),
        (datagrams.into(), "no stream socket that listens"),
        (UnixListener::bind(&other).unwrap().into(), "other.sock"),
    ];
    for (handed, why) in handed {
        let error = BoundSocket::from_activation(handed, &socket).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.to_string().contains("socket unit"), "{error}");
    }
}
