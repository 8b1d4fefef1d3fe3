//! Sites that are sound, though not as a textbook has it: nothing may be said to be wrong with them.

use std::{io::Write as _, time::SystemTime};

use serde_json::Value;

use super::{
    Case,
    http::{OK, Way, honest, scripted, served, sound, tagged},
    tls::{NAME, Shop},
};
use crate::probe::{
    script::{answers, request},
    web::Site,
};

/// All of them.
pub fn cases() -> Vec<Case> {
    vec![
        sound("a site that limits requests", || {
            let way = Way::new();
            let _web = Site::new()
                .http("limit_req_zone $binary_remote_addr zone=visitors:1m rate=10r/m;")
                .server("listen 80; limit_req zone=visitors;")
                .start(&way.server.ns);
            let probed = way.probe("/", &[]);
            assert!(
                has(&probed.report, "http_checks_limited"),
                "{:#}",
                probed.report
            );
            probed.report
        }),
        sound("HEAD is not for this page", || {
            scripted(&[], |stream| {
                answers(stream, |header| match header.starts_with("HEAD") {
                    true => Some(
                        "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    ),
                    false => honest(header),
                })
            })
        }),
        sound("a body that ends with the connection", || {
            scripted(&["--http", "1.1"], |stream| {
                let header = request(stream)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
                match header.starts_with("HEAD") {
                    true => Ok(()),
                    false => stream.write_all(b"hello"),
                }
            })
        }),
        sound("a page made this second, whole each time", || {
            scripted(&[], |stream| {
                answers(stream, |header| {
                    let now = httpdate::fmt_http_date(SystemTime::now());
                    let ok = format!("HTTP/1.1 200 OK\r\nLast-Modified: {now}\r\n");
                    match header.starts_with("HEAD") {
                        true => Some(ok + "Content-Length: 5\r\n\r\n"),
                        false => Some(ok + OK),
                    }
                })
            })
        }),
        sound("older than caches are told", || {
            scripted(&["--no-checks"], |stream| {
                answers(stream, |_| {
                    let more = "Age: 12345\r\nCache-Control: private, s-maxage=0, max-age=0, must-revalidate\r\n";
                    tagged(OK, more)
                })
            })
        }),
        sound("no connection is kept", || {
            served("/", "listen 80; keepalive_timeout 0;", &[])
        }),
        sound("no connection is kept, TLS", || closing(&["--http", "1.1"])),
        sound("no connection is kept, HTTP/2", || closing(&[])),
    ]
}

/// A site with TLS that ends each connection after the page.
fn closing(args: &[&str]) -> Value {
    let shop = Shop::new();
    let _web = shop.serve(&shop.root.issue(&[NAME]), "keepalive_timeout 0;");
    shop.probe(args).report
}

/// Whether the last fetch has a finding.
fn has(report: &Value, code: &str) -> bool {
    let fetches = report["fetches"].as_array().unwrap();
    let stages = fetches.last().unwrap()["stages"].as_array().unwrap();
    let mut findings = stages
        .iter()
        .flat_map(|s| s["findings"].as_array().unwrap());
    findings.any(|finding| finding["code"] == code)
}
