//! HTTP as `netmoat probe` sees it: versions, checks, redirects, what breaks. The broken ways themselves are cases
//! (`cases.rs`); here is what is said beside their code.

use std::{
    io::{self, Write as _},
    process::Command,
    thread,
    time::Duration,
};

use net_tests::{
    probe::{
        Probed,
        cases::http::Way,
        certificates::Authority,
        probe,
        script::{answers, request, reset_at_end, until_end},
        web::Site,
    },
    process::workspace_binary,
    scene::PATIENCE,
    wait,
};
use serde_json::Value;

/// What curl and the probe may differ by, beside a fifth of the longer one: they are processes of their own on a machine
/// that has other work.
const TOLERANCE_MS: f64 = 25.0;
/// Fetches of each.
const ROUNDS: usize = 7;

fn facts(probed: &Probed) -> &Value {
    &probed.stage("http")["facts"]["http"]
}

fn check<'a>(probed: &'a Probed, name: &str) -> &'a Value {
    let checks = facts(probed)["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {:#}", probed.report))
}

fn codes(probed: &Probed) -> Vec<&str> {
    let findings = probed.stage("http")["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|f| f["code"].as_str().unwrap())
        .collect()
}

#[test]
fn a_sound_server_passes_every_check() {
    let way = Way::new();
    let page = "x".repeat(3000);
    let _web = Site::new()
        .file("www/index.html", &page)
        .server("listen 80;")
        .start(&way.server.ns);
    let probed = way.probe("/?a=b", &["--conformance"]);
    probed.expect("ok", None, None);
    assert_eq!(probed.code, 0);
    let facts = facts(&probed);
    assert_eq!(
        (&facts["status"], &facts["version"]),
        (&200.into(), &"HTTP/1.1".into())
    );
    assert_eq!(
        (&facts["body_octets"], &facts["content_length"]),
        (&3000.into(), &3000.into())
    );
    assert!(facts["octets_in"].as_u64().unwrap() > 3000, "{facts:#}");
    assert!(
        facts["server"].as_str().unwrap().starts_with("nginx"),
        "{facts:#}"
    );
    assert!(facts["caching"]["etag"].is_string(), "{facts:#}");
    for (name, status) in [
        ("reuse", Value::Null),
        ("head", 200.into()),
        ("conditional", 304.into()),
        ("range", 206.into()),
        // nginx knows no OPTIONS for files.
        ("options", 405.into()),
        ("no_host", 400.into()),
        ("damaged", 400.into()),
    ] {
        let check = check(&probed, name);
        assert_eq!(
            (&check["status"], &check["outcome"]),
            (&status, &"ok".into()),
            "{check:#}"
        );
    }
    assert!(
        check(&probed, "reuse")["what"]
            .as_str()
            .unwrap()
            .contains("was answered")
    );
}

#[test]
fn nothing_but_the_page_is_asked_for_without_checks() {
    let way = Way::new();
    let web = Site::new()
        .server("listen 80; access_log asked.log;")
        .start(&way.server.ns);
    let probed = way.probe("/", &["--no-checks"]);
    probed.expect("ok", None, None);
    assert_eq!(facts(&probed)["checks"], Value::Array(Vec::new()));
    // Written when a request is over, perhaps after the last octet came.
    let log = || std::fs::read_to_string(web.path("asked.log")).unwrap_or_default();
    wait::until("the request to be logged", PATIENCE, || {
        log().ends_with('\n')
    })
    .unwrap();
    let printed = log();
    assert_eq!(
        printed.matches("\"GET / HTTP/1.1\"").count(),
        1,
        "{printed}"
    );
    assert_eq!(printed.matches("HTTP/1.1\"").count(), 1, "{printed}");
}

#[test]
fn each_version_is_spoken_when_asked_for() {
    let way = Way::new();
    let _web = Site::new()
        .server("listen 80;")
        .server("listen 81 http2;")
        .start(&way.server.ns);
    for (path, args, version) in [
        ("/", &["--http", "1.0"], "HTTP/1.1"),
        ("/", &["--http", "1.1"], "HTTP/1.1"),
        (":81/", &["--http", "2"], "HTTP/2.0"),
    ] {
        let probed = way.probe(path, args);
        probed.expect("ok", None, None);
        let facts = facts(&probed);
        assert_eq!(facts["version"], version, "{args:?}");
        // A request of HTTP/1.0 ends the connection, unless it asks for more (RFC 9112 section 9.3).
        let kept = args[1] != "1.0";
        assert_eq!(facts["keep_alive"], kept, "{args:?}");
        assert_eq!(check(&probed, "conditional")["status"], 304);
        assert_eq!(check(&probed, "range")["status"], 206);
        assert_eq!(check(&probed, "head")["status"], 200);
        assert_eq!(
            codes(&probed).contains(&"http_no_keep_alive"),
            !kept,
            "{args:?}"
        );
    }
}

#[test]
fn every_step_of_a_chain_of_redirects_is_shown() {
    let way = Way::new();
    let _web = Site::new()
        .server(
            "listen 80; location = / { return 301 /a; } location = /a { return 302 /b#c; } \
             location = /b { return 308 /index.html; }",
        )
        .start(&way.server.ns);
    let probed = way.probe("/", &[]);
    probed.expect("ok", None, None);
    let fetches = probed.report["fetches"].as_array().unwrap();
    let steps: Vec<_> = fetches
        .iter()
        .map(|fetch| {
            let stages = fetch["stages"].as_array().unwrap();
            let http = stages
                .iter()
                .find(|stage| stage["layer"] == "http")
                .unwrap();
            let path = fetch["url"].as_str().unwrap().rsplit('/').next().unwrap();
            (path, http["facts"]["http"]["status"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(
        steps,
        [("", 301), ("a", 302), ("b#c", 308), ("index.html", 200)]
    );
    let followed = way.probe("/", &["--redirects", "0"]);
    followed.expect("ok", None, None);
    assert_eq!(codes(&followed), ["http_redirect_not_followed"]);
    assert_eq!(followed.report["fetches"].as_array().unwrap().len(), 1);
}

#[test]
fn a_broken_body_is_told_with_what_had_come() {
    let way = Way::new();
    for (reset, code) in [(true, "http_reset"), (false, "http_cut")] {
        let _server = way.script(move |stream| {
            request(stream)?;
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}",
                "x".repeat(1234)
            )?;
            if reset {
                reset_at_end(stream);
            }
            Ok(())
        });
        let probed = way.probe("/", &[]);
        probed.expect("failed", Some("http"), Some(code));
        assert_eq!(probed.code, 1);
        let verdict = probed.report["verdict"].as_str().unwrap();
        assert!(
            verdict.contains("after 1234 of the 5000 octets of the body"),
            "{verdict}"
        );
        assert_eq!(facts(&probed)["body_octets"], 1234);
        assert_eq!(facts(&probed)["status"], 200);
    }
}

#[test]
fn who_answered_and_when_to_come_again_are_named() {
    let way = Way::new();
    let _web = Site::new()
        .server("listen 80; location / { add_header Retry-After 120 always; return 503; }")
        .start(&way.server.ns);
    let probed = way.probe("/", &[]);
    probed.expect("failed", Some("http"), Some("http_unavailable"));
    let verdict = probed.report["verdict"].as_str().unwrap();
    assert!(
        verdict.contains("503 Service Unavailable from nginx"),
        "{verdict}"
    );
    assert!(verdict.contains("tried again after 120"), "{verdict}");
    assert!(probed.report["next"].as_str().unwrap().contains("overload"));
}

#[test]
fn what_a_server_sends_reaches_no_terminal_unescaped() {
    let way = Way::new();
    // U+009B is a terminal's "control sequence introducer"; a header field may hold it (obs-text).
    let answer =
        "HTTP/1.1 200 OK\r\nServer: \u{9b}31mred\r\nETag: \u{9b}2J\r\nContent-Length: 0\r\n\r\n";
    let _server = way.script(move |stream| answers(stream, |_| Some(answer.to_owned())));
    let url = format!("http://{}/", way.server.v4);
    let mut command = Command::new(workspace_binary("netmoat").unwrap());
    command.args(["probe", &url]);
    let shown = way.client.ns.run(|| command.output()).unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("31mred"), "{shown}");
    assert!(!shown.contains('\u{9b}'), "{shown:?}");
}

#[test]
fn a_page_without_end_is_left_after_64_mib() {
    let way = Way::new();
    let _server = way.script(|stream| {
        request(stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let chunk = vec![0; 1 << 20];
        loop {
            stream.write_all(&chunk)?;
        }
    });
    let probed = way.probe("/", &["--timeout", "1m"]);
    assert_eq!(probed.stage("http")["outcome"], "ok", "{:#}", probed.report);
    assert_eq!(codes(&probed), ["http_body_bounded"]);
    let octets = facts(&probed)["body_octets"].as_u64().unwrap();
    assert!((64 << 20..66 << 20).contains(&octets), "{octets}");
}

#[test]
fn a_server_that_answers_nothing_wrong_on_purpose_is_told() {
    let way = Way::new();
    let _server = way.script(|stream| {
        answers(stream, |header| {
            let good = header.contains("host: ");
            good.then(|| "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned())
        })?;
        until_end(stream)
    });
    let probed = way.probe("/", &["--conformance", "--timeout", "1s"]);
    probed.expect("wrong", Some("http"), Some("http_no_host_unanswered"));
    assert_eq!(
        codes(&probed),
        ["http_no_host_unanswered", "http_damaged_unanswered"]
    );
    assert_eq!(check(&probed, "no_host")["outcome"], "wrong");
}

/// Milliseconds from the beginning until connected, secured, first octet, last octet.
type Times = [f64; 4];

fn by_probe(way: &Way, url: &str, args: &[&str]) -> Times {
    let args = [&[url, "--no-checks"], args].concat();
    let probed = probe(&way.client, &args);
    probed.expect("ok", None, None);
    let fetch = &probed.report["fetches"][0];
    let ms = |value: &Value| value.as_f64().unwrap() / 1000.0;
    let of = |layer: &str| {
        let stages = fetch["stages"].as_array().unwrap();
        let stage = stages.iter().find(|stage| stage["layer"] == layer);
        stage.map_or(0.0, |stage| ms(&stage["duration_us"]))
    };
    let connected = of("name") + of("tcp");
    let secured = connected + of("tls");
    let first = secured + ms(&facts(&probed)["first_byte_us"]);
    [connected, secured, first, secured + of("http")]
}

fn by_curl(way: &Way, url: &str, args: &[&str]) -> Times {
    let form = "%{time_connect} %{time_appconnect} %{time_starttransfer} %{time_total}";
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-o", "/dev/null", "-w", form])
        .args(args)
        .arg(url);
    let printed = way.client.ns.succeed(&mut command).unwrap();
    let mut times = printed
        .split(' ')
        .map(|time| time.parse::<f64>().unwrap() * 1000.0);
    let mut times: Times = std::array::from_fn(|_| times.next().unwrap());
    // Without TLS curl says 0.
    times[1] = times[1].max(times[0]);
    times
}

/// Asks with both in turn; compares the medians.
fn agree(way: &Way, url: &str, probe: &[&str], curl: &[&str]) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(by_probe(way, url, probe));
        theirs.push(by_curl(way, url, curl));
    }
    for (i, what) in ["connected", "secured", "first octet", "last octet"]
        .iter()
        .enumerate()
    {
        let median = |times: &[Times]| {
            let mut times: Vec<_> = times.iter().map(|times| times[i]).collect();
            times.sort_by(f64::total_cmp);
            times[ROUNDS / 2]
        };
        let (ours, theirs) = (median(&ours), median(&theirs));
        println!("{url} {what}: probe {ours:.1} ms, curl {theirs:.1} ms");
        let allowed = TOLERANCE_MS + ours.max(theirs) / 5.0;
        assert!(
            (ours - theirs).abs() <= allowed,
            "{what}: probe {ours} ms, curl {theirs} ms"
        );
    }
}

/// An upstream that thinks for 150 ms before it answers, and for another 150 ms in the middle of the body.
fn thinking(stream: &mut std::net::TcpStream) -> io::Result<()> {
    request(stream)?;
    let think = || thread::sleep(Duration::from_millis(150));
    think();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")?;
    stream.write_all(&[b'x'; 100_000])?;
    think();
    stream.write_all(&[b'x'; 100_000])
}

#[test]
fn curl_measures_the_same_times() {
    let way = Way::new();
    let _upstream = way.upstream(thinking);
    let _web = Site::new()
        .server("listen 80; location / { proxy_pass http://127.0.0.1:9000; proxy_buffering off; }")
        .start(&way.server.ns);
    agree(&way, &format!("http://{}/", way.server.v4), &[], &[]);
}

/// nginx with a good certificate for `shop.test`; what makes probe and curl trust it and find it follows their names.
fn secured(way: &Way, directives: &str) -> (net_tests::probe::web::Web, [String; 3]) {
    let root = Authority::root("Laboratory root");
    let web = Site::new()
        .file("ca.pem", root.pem())
        .certificate("shop", &root.issue(&["shop.test"]))
        .server("listen 80; return 301 https://shop.test$request_uri;")
        .secure("shop", directives)
        .start(&way.server.ns);
    let ca = web.path("ca.pem").to_str().unwrap().to_owned();
    let [plain, tls] = [80, 443].map(|port| format!("shop.test:{port}:{}", way.server.v4));
    (web, [ca, plain, tls])
}

#[test]
fn http_leads_to_https_and_http_2() {
    let way = Way::new();
    let hsts = "add_header Strict-Transport-Security max-age=600;";
    let (_web, [ca, plain, tls]) = secured(&way, hsts);
    let args = [
        "http://shop.test/",
        "--ca",
        &ca,
        "--resolve",
        &plain,
        "--resolve",
        &tls,
    ];
    let probed = probe(&way.client, &args);
    probed.expect("ok", None, None);
    let first = probed.report["fetches"][0]["stages"].as_array().unwrap();
    let first = first.iter().find(|stage| stage["layer"] == "http").unwrap();
    assert_eq!(first["findings"][0]["code"], "http_redirect_to_https");
    let facts = facts(&probed);
    assert_eq!(
        (&facts["version"], &facts["hsts"]),
        (&"HTTP/2.0".into(), &"max-age=600".into())
    );
    assert_eq!(check(&probed, "conditional")["status"], 304);
    assert_eq!(check(&probed, "range")["status"], 206);
    assert!(
        check(&probed, "reuse")["what"]
            .as_str()
            .unwrap()
            .contains("was answered")
    );
    assert_eq!(codes(&probed), Vec::<&str>::new());
}

#[test]
fn conformance_is_asked_for_over_tls_in_http_1() {
    let way = Way::new();
    let (_web, [ca, _, tls]) = secured(&way, "");
    let args = [
        "https://shop.test/",
        "--ca",
        &ca,
        "--resolve",
        &tls,
        "--conformance",
    ];
    let probed = probe(&way.client, &[&args[..], &["--http", "1.1"]].concat());
    probed.expect("ok", None, None);
    assert_eq!(check(&probed, "no_host")["status"], 400);
    assert_eq!(check(&probed, "damaged")["status"], 400);
    assert_eq!(codes(&probed), ["http_no_hsts"]);
    let probed = probe(&way.client, &args);
    probed.expect("ok", None, None);
    let what = check(&probed, "no_host")["what"].as_str().unwrap();
    assert!(what.contains("not asked"), "{what}");
}

#[test]
fn curl_measures_the_same_times_over_tls() {
    let way = Way::new();
    let _upstream = way.upstream(thinking);
    let proxy = "location / { proxy_pass http://127.0.0.1:9000; proxy_buffering off; }";
    let (_web, [ca, _, tls]) = secured(&way, proxy);
    agree(
        &way,
        "https://shop.test/",
        &["--ca", &ca, "--resolve", &tls],
        &["--cacert", &ca, "--resolve", &tls],
    );
}
