//! What breaks in HTTP.

use std::{
    io::{self, Write as _},
    net::TcpStream,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::Case;
use crate::{
    probe::{
        Probed, probe,
        script::{Scripted, answers, http2_request, request, reset_at_end, until_end},
        web::Site,
    },
    topology::{Host, Lan},
};

/// A server and a client.
pub struct Way {
    /// Serves.
    pub server: Host,
    /// Probes.
    pub client: Host,
    _lan: Lan,
}

impl Way {
    /// With nothing on it.
    #[expect(clippy::new_without_default, reason = "it makes namespaces")]
    pub fn new() -> Self {
        let lan = Lan::new().unwrap();
        let [server, client] = ["server", "client"].map(|role| lan.host(role).unwrap());
        Self {
            server,
            client,
            _lan: lan,
        }
    }

    /// What there is at `path` of the server's port 80.
    pub fn probe(&self, path: &str, args: &[&str]) -> Probed {
        let url = format!("http://{}{path}", self.server.v4);
        probe(&self.client, &[&[url.as_str()], args].concat())
    }

    /// A script on port 80.
    pub fn script(
        &self,
        script: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Scripted {
        Scripted::start(&self.server.ns, self.server.at(4, 80), script)
    }

    /// A script where [`PROXY`] looks for its upstream.
    pub fn upstream(
        &self,
        script: impl Fn(&mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Scripted {
        Scripted::start(&self.server.ns, UPSTREAM.parse().unwrap(), script)
    }
}

const UPSTREAM: &str = "127.0.0.1:9000";
/// Asks [`UPSTREAM`], and does not wait for long.
const PROXY: &str =
    "listen 80; location / { proxy_pass http://127.0.0.1:9000; proxy_read_timeout 1s; }";

/// The report of a page that a script serves.
pub(super) fn scripted(args: &[&str], script: fn(&mut TcpStream) -> io::Result<()>) -> Value {
    let way = Way::new();
    let _server = way.script(script);
    way.probe("/", args).report
}

/// The report of a page that nginx serves.
pub(super) fn served(path: &str, directives: &str, args: &[&str]) -> Value {
    let way = Way::new();
    let _web = Site::new().server(directives).start(&way.server.ns);
    way.probe(path, args).report
}

/// The report of a page that nginx has from a script.
fn proxied(args: &[&str], script: fn(&mut TcpStream) -> io::Result<()>) -> Value {
    let way = Way::new();
    let _upstream = way.upstream(script);
    let _web = Site::new().server(PROXY).start(&way.server.ns);
    way.probe("/", args).report
}

/// A header and so many octets of the body that it announces, then whatever `script` does.
fn begun(stream: &mut TcpStream, announced: usize, sent: usize) -> io::Result<()> {
    request(stream)?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n"
    )?;
    stream.write_all(&vec![b'x'; sent])
}

const fn failed(name: &'static str, code: &'static str, run: fn() -> Value) -> Case {
    Case {
        name,
        layer: Some("http"),
        outcome: "failed",
        code: Some(code),
        run,
    }
}

const fn wrong(name: &'static str, code: &'static str, run: fn() -> Value) -> Case {
    Case {
        outcome: "wrong",
        ..failed(name, code, run)
    }
}

const fn slow(name: &'static str, code: &'static str, run: fn() -> Value) -> Case {
    Case {
        outcome: "slow",
        ..failed(name, code, run)
    }
}

pub(super) const fn sound(name: &'static str, run: fn() -> Value) -> Case {
    Case {
        name,
        layer: None,
        outcome: "ok",
        code: None,
        run,
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![sound("a page as it should be", || {
        served("/", "listen 80;", &[])
    })];
    cases.extend(of_status());
    cases.extend(of_redirects());
    cases.extend(of_connections());
    cases.extend(of_time());
    cases.extend(of_checks());
    cases
}

fn of_status() -> Vec<Case> {
    vec![
        failed(
            "the upstream's header is garbage: 502",
            "http_bad_gateway",
            || {
                proxied(&[], |stream| {
                    request(stream)?;
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\x00\x01\x02\r\n\r\n")
                })
            },
        ),
        // nginx takes what has no status line for HTTP/0.9 and passes it on (ngx_http_proxy_process_status_line, 1.22).
        failed(
            "the upstream is no HTTP, which nginx passes on",
            "http_garbage",
            || {
                proxied(&[], |stream| {
                    request(stream)?;
                    stream.write_all(b"\x00\x01\x02 no HTTP\r\n\r\n")
                })
            },
        ),
        failed(
            "the upstream refuses connections: 502",
            "http_bad_gateway",
            || served("/", PROXY, &[]),
        ),
        failed(
            "the upstream does not answer: 504",
            "http_gateway_timeout",
            || proxied(&[], until_end),
        ),
        failed(
            "the service is unavailable: 503",
            "http_unavailable",
            || served("/", "listen 80; return 503;", &[]),
        ),
        failed("the application fails: 500", "http_internal_error", || {
            served("/", "listen 80; return 500;", &[])
        }),
        wrong("no such page: 404", "http_not_found", || {
            served("/none", "listen 80;", &[])
        }),
        wrong("too many requests: 429", "http_too_many_requests", || {
            served("/", "listen 80; return 429;", &[])
        }),
        sound("a 404 that is expected", || {
            served("/none", "listen 80;", &["--expect", "404"])
        }),
        wrong(
            "a 200 where 204 is expected",
            "http_unexpected_status",
            || served("/", "listen 80;", &["--expect", "204"]),
        ),
    ]
}

fn of_redirects() -> Vec<Case> {
    vec![
        sound("a chain of redirects", || {
            let chain = "listen 80; location = / { return 301 /a; } location = /a { return 302 /b; } \
                         location = /b { return 307 /index.html; }";
            served("/", chain, &[])
        }),
        failed("redirects in a circle", "http_redirect_loop", || {
            let circle =
                "listen 80; location = / { return 302 /a; } location = /a { return 302 /; }";
            served("/", circle, &[])
        }),
        failed(
            "more redirects than are followed",
            "http_redirect_too_many",
            || {
                let growing = "listen 80; location / { return 302 $request_uri/x; }";
                served("/", growing, &["--redirects", "3"])
            },
        ),
        failed(
            "a redirect without Location",
            "http_redirect_no_location",
            || {
                scripted(&[], |stream| {
                    answers(stream, |_| {
                        Some("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n".to_owned())
                    })
                })
            },
        ),
        wrong(
            "a redirect that wants a cookie",
            "http_redirect_wants_cookie",
            || {
                let cookie =
                    "listen 80; location / { add_header Set-Cookie seen=1; return 302 /; }";
                served("/", cookie, &[])
            },
        ),
    ]
}

fn of_connections() -> Vec<Case> {
    vec![
        failed("RST in mid-body", "http_reset", || {
            scripted(&[], |stream| {
                begun(stream, 100_000, 1000)?;
                reset_at_end(stream);
                Ok(())
            })
        }),
        failed("RST before the answer", "http_reset_before_answer", || {
            scripted(&[], |stream| {
                request(stream)?;
                reset_at_end(stream);
                Ok(())
            })
        }),
        failed("the body is cut", "http_cut", || {
            scripted(&[], |stream| begun(stream, 1000, 10))
        }),
        failed("a header that grows", "http_headers_too_large", || {
            scripted(&[], |stream| {
                request(stream)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
                loop {
                    stream.write_all(b"Set-Cookie: seen=1\r\n")?;
                }
            })
        }),
        failed("the header is cut", "http_cut", || {
            scripted(&[], |stream| {
                request(stream)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le")
            })
        }),
        failed(
            "closed before the answer",
            "http_closed_before_answer",
            || scripted(&[], |stream| request(stream).map(|_| ())),
        ),
        failed("damaged chunks", "http_bad_chunk", || {
            scripted(&[], |stream| {
                request(stream)?;
                stream.write_all(
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n",
                )?;
                until_end(stream)
            })
        }),
        failed("no HTTP on that port", "http_garbage", || {
            scripted(&[], |stream| {
                stream.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")?;
                until_end(stream)
            })
        }),
        failed("HTTPS on that port", "http_tls_spoken", || {
            scripted(&[], |stream| {
                request(stream)?;
                // What OpenSSL says to this: fatal, unexpected_message (RFC 8446 section 6).
                stream.write_all(&[0x15, 3, 1, 0, 2, 2, 10])
            })
        }),
        failed("HTTP/2 asked of HTTP/1.1", "http2_not_spoken", || {
            served("/", "listen 80;", &["--http", "2"])
        }),
        failed("HTTP/2 alone on that port", "http2_only", || {
            served("/", "listen 80 http2;", &["--http", "1.1"])
        }),
        failed("HTTP/2: DATA on no stream", "http2_protocol_error", || {
            scripted(&["--http", "2"], |stream| {
                http2_request(stream)?;
                stream.write_all(&[0, 0, 1, 0, 0, 0, 0, 0, 0, b'x'])?;
                until_end(stream)
            })
        }),
        failed("HTTP/2: RST_STREAM", "http2_stream_reset", || {
            scripted(&["--http", "2"], |stream| {
                http2_request(stream)?;
                stream.write_all(&[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7])?;
                until_end(stream)
            })
        }),
        failed("HTTP/2: GOAWAY", "http2_goaway", || {
            scripted(&["--http", "2"], |stream| {
                http2_request(stream)?;
                stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11])?;
                until_end(stream)
            })
        }),
    ]
}

fn of_time() -> Vec<Case> {
    vec![
        slow("a slow first byte", "http_slow_first_byte", || {
            scripted(&["--no-checks"], |stream| {
                answers(stream, |_| {
                    // What is tested is this.
                    thread::sleep(Duration::from_millis(1200));
                    Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_owned())
                })
            })
        }),
        failed("no answer", "http_timeout", || {
            scripted(&["--timeout", "1s"], until_end)
        }),
        failed("a header without end", "http_timeout", || {
            scripted(&["--timeout", "1s"], |stream| {
                request(stream)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
                until_end(stream)
            })
        }),
        failed("a body that stops", "http_body_timeout", || {
            scripted(&["--timeout", "2s"], |stream| {
                begun(stream, 1000, 10)?;
                until_end(stream)
            })
        }),
        slow("a body that takes too long", "http_body_slow", || {
            scripted(&["--timeout", "2s"], |stream| {
                begun(stream, 1_000_000, 1)?;
                loop {
                    // What is tested is this.
                    thread::sleep(Duration::from_millis(20));
                    stream.write_all(b"x")?;
                }
            })
        }),
    ]
}

fn of_checks() -> Vec<Case> {
    vec![
        wrong("ETag not heeded", "http_etag_ignored", || {
            scripted(&[], |stream| {
                answers(stream, |header| match header.contains("if-none-match") {
                    true => tagged(OK, ""),
                    false => honest(header),
                })
            })
        }),
        wrong("a 304 with a body", "http_304_with_body", || {
            scripted(&[], |stream| {
                answers(stream, |header| match header.contains("if-none-match") {
                    true => {
                        Some("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\nhello".to_owned())
                    }
                    false => honest(header),
                })
            })
        }),
        wrong("HEAD with a body", "http_head_with_body", || {
            scripted(&[], |stream| {
                answers(stream, |_| Some(format!("HTTP/1.1 200 OK\r\n{OK}")))
            })
        }),
        wrong("HEAD other than GET", "http_head_differs", || {
            scripted(&[], |stream| {
                answers(stream, |header| match header.starts_with("HEAD") {
                    true => tagged("Content-Length: 7\r\n\r\n", ""),
                    false => honest(header),
                })
            })
        }),
        wrong("another part than asked for", "http_range_wrong", || {
            scripted(&[], |stream| {
                answers(stream, |header| {
                    match header.contains("range: ") {
                    true => Some(
                        "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nContent-Range: bytes 0-4/5\r\n\
                         Content-Length: 5\r\n\r\nHELLO"
                            .to_owned(),
                    ),
                    false => honest(header),
                }
                })
            })
        }),
        wrong(
            "a part announced and not given",
            "http_range_ignored",
            || {
                scripted(&[], |stream| {
                    answers(stream, |header| match header.contains("range: ") {
                        true => tagged(OK, "Accept-Ranges: bytes\r\n"),
                        false => honest(header),
                    })
                })
            },
        ),
        wrong(
            "the connection is not kept, unannounced",
            "http_keep_alive_broken",
            || {
                scripted(&[], |stream| {
                    let answer = honest(&request(stream)?).unwrap_or_default();
                    stream.write_all(answer.as_bytes())
                })
            },
        ),
        wrong("more octets than announced", "http_body_too_long", || {
            scripted(&[], |stream| {
                answers(stream, |header| Some(honest(header)? + "more"))
            })
        }),
        wrong(
            "contradictory Cache-Control",
            "http_cache_control_contradicts",
            || {
                let control = "listen 80; add_header Cache-Control 'no-store, max-age=600';";
                served("/", control, &[])
            },
        ),
        wrong(
            "a request without Host is served",
            "http_no_host_accepted",
            || {
                scripted(&["--conformance"], |stream| {
                    answers(stream, |header| match header.contains("HTTP/1.x") {
                        true => {
                            Some("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_owned())
                        }
                        false => honest(header),
                    })
                })
            },
        ),
    ]
}

/// A length and a body.
pub(super) const OK: &str = "Content-Length: 5\r\n\r\nhello";

/// A 200 with a strong validator.
pub(super) fn tagged(rest: &str, more: &str) -> Option<String> {
    Some(format!("HTTP/1.1 200 OK\r\nETag: \"1\"\r\n{more}{rest}"))
}

/// A server without fault: HEAD without a body, 304, 206.
pub(super) fn honest(header: &str) -> Option<String> {
    if header.contains("if-none-match") {
        return Some("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n".to_owned());
    }
    if header.contains("range: ") {
        return Some(
            "HTTP/1.1 206 Partial Content\r\nETag: \"1\"\r\nContent-Range: bytes 0-4/5\r\n\
             Content-Length: 5\r\n\r\nhello"
                .to_owned(),
        );
    }
    let ranges = "Accept-Ranges: bytes\r\n";
    match header.starts_with("HEAD") {
        true => tagged("Content-Length: 5\r\n\r\n", ranges),
        false => tagged(OK, ranges),
    }
}
