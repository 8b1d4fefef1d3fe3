//! How `netmoat probe` tells what it found: waterfall, web page, JSON, exit codes, errors.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Command, Output},
    thread,
};

use net_tests::{
    probe::probe,
    process::workspace_binary,
    scene::{PORT, Scene, listener},
};

/// Answers `times` connections with the same octets, each when its request is there.
fn answer(scene: &Scene, times: usize, octets: &'static [u8]) -> thread::JoinHandle<()> {
    let at = scene.server.at(4, PORT);
    let listener = scene.server.ns.run(|| listener(at, 64, false));
    thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(octets);
        }
    })
}

fn netmoat(scene: &Scene, args: &[&str]) -> Output {
    let mut command = Command::new(workspace_binary("netmoat").unwrap());
    command.arg("probe").args(args);
    scene.client.ns.run(|| command.output()).unwrap()
}

fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

const PAGE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nServer: <b>\r\n\r\npage\n";

#[test]
fn the_waterfall_has_a_line_a_layer_in_the_order_of_the_way_and_a_verdict() {
    let scene = Scene::new();
    let url = format!("http://{}/", scene.server.at(4, PORT));
    let server = answer(&scene, 1, PAGE);
    let output = netmoat(&scene, &[&url, "--no-checks"]);
    server.join().unwrap();
    let told = text(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{told}{}",
        text(&output.stderr)
    );
    let layers: Vec<_> = told
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(layers, ["NAME", "ROUTE", "TCP", "HTTP", "CLOSE"], "{told}");
    assert!(told.contains('█'), "{told}");
    assert!(
        told.lines().last().unwrap().starts_with("Works: "),
        "{told}"
    );
    // No terminal: nothing of progress, no colours.
    assert!(!told.contains('\x1b'), "{told}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_page_stands_alone_and_holds_what_the_waterfall_tells() {
    let scene = Scene::new();
    let url = format!("http://{}/?<script>", scene.server.at(4, PORT));
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("way.html");
    let server = answer(&scene, 1, PAGE);
    let output = netmoat(
        &scene,
        &[&url, "--no-checks", "--html", page.to_str().unwrap()],
    );
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>"));
    assert!(page.ends_with("</html>\n"));
    for layer in ["NAME", "ROUTE", "TCP", "HTTP", "CLOSE"] {
        assert!(
            page.contains(&format!(">{layer}</text>")),
            "{layer}: {page}"
        );
    }
    assert_eq!(page.matches("<rect ").count(), 5, "{page}");
    for foreign in ["<script", "src=", "href=", "url("] {
        assert!(!page.contains(foreign), "{foreign}: {page}");
    }
    let unwritable = netmoat(&scene, &[&url, "--html", "/nowhere/way.html"]);
    assert_eq!(unwritable.status.code(), Some(1));
    let errors = text(&unwritable.stderr);
    assert!(errors.contains("/nowhere/way.html"), "{errors}");
}

#[test]
fn the_exit_code_tells_a_page_that_came_from_one_that_is_not_right_and_one_that_did_not_come() {
    let scene = Scene::new();
    let url = format!("http://{}/", scene.server.at(4, PORT));
    let answers: [(&'static [u8], &str, i32); 3] = [
        (PAGE, "ok", 0),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "wrong",
            3,
        ),
        (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "failed",
            1,
        ),
    ];
    for (octets, outcome, code) in answers {
        let server = answer(&scene, 1, octets);
        let probed = probe(&scene.client, &[&url, "--no-checks"]);
        server.join().unwrap();
        assert_eq!(probed.report["outcome"], outcome, "{:#}", probed.report);
        assert_eq!(probed.code, code, "{:#}", probed.report);
    }
    // Nobody listens any more.
    let probed = probe(&scene.client, &[&url]);
    probed.expect("failed", Some("tcp"), Some("tcp_refused"));
    assert_eq!(probed.code, 1);
}

#[test]
fn what_cannot_be_probed_is_refused_before_anything_is_sent() {
    let scene = Scene::new();
    let cases: [(&[&str], &str); 8] = [
        (&["ftp://192.0.2.1/"], "ftp:// cannot be probed"),
        (&["https://"], "empty host"),
        (&[], "<URL>"),
        (&["http://192.0.2.1/", "--timeout", "soon"], "soon"),
        (
            &["http://192.0.2.1/", "--resolve", "a:b"],
            "HOST:PORT:ADDRESS",
        ),
        (&["http://192.0.2.1/", "--dns", "resolver"], "is no address"),
        (&["http://192.0.2.1/", "--root-hints", "x"], "--trace-dns"),
        (&["http://192.0.2.1/", "-4", "-6"], "cannot be used with"),
    ];
    for (args, words) in cases {
        let output = netmoat(&scene, args);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(words), "{args:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
    let absent = netmoat(&scene, &["http://192.0.2.1/", "--from-netns", "no-such"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(text(&absent.stderr).contains("no-such"));
}
