//! What broke on the way of a question and its answer, told apart.

use std::{error::Error, io};

use super::text;
use crate::probe::{Finding, Outcome, meter::Marks};

/// How far the answer had come.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    /// What went over the connection.
    pub(super) marks: &'a Marks,
    /// Octets of the body that came, and how many were announced; none before the head was whole.
    pub(super) body: Option<(u64, Option<u64>)>,
}

impl At<'_> {
    /// For a sentence: "before any of the answer", "after 12 of the 100 octets of the body".
    fn place(&self) -> String {
        match self.body {
            None if self.marks.octets_in == 0 => "before any octet of the answer".to_owned(),
            None => format!(
                "after {} octets, in the middle of the header",
                self.marks.octets_in
            ),
            Some((came, Some(of))) => format!("after {came} of the {of} octets of the body"),
            Some((came, None)) => format!("after {came} octets of the body, before its end"),
        }
    }
}

/// What an error of hyper means.
pub(super) fn fault(error: &hyper::Error, at: At<'_>) -> Finding {
    if let Some(spoken) = not_http(error, at) {
        return spoken;
    }
    if let Some(error) = cause::<h2::Error>(error) {
        return http2(error, at);
    }
    if let Some(rustls::Error::AlertReceived(alert)) = tls(error) {
        return alerted(alert, at);
    }
    let kind = cause::<io::Error>(error).map(io::Error::kind);
    match kind {
        Some(
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted,
        ) => reset(at),
        Some(io::ErrorKind::UnexpectedEof) => cut(at),
        // hyper checks chunks itself and says so with these (hyper 1.12 proto/h1/decode.rs).
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) if at.body.is_some() => {
            failed(
                "http_bad_chunk",
                format!("the chunks of the body are damaged, {}: {}", at.place(), told(error)),
            )
            .next("compare the answer of the server itself with that of each proxy on the way: one of them damages the body")
        }
        Some(io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => failed(
            "http_connection_lost",
            format!("the connection was lost {}: {}", at.place(), told(error)),
        )
        .next("look at the way to the server: packets are lost, or a device on it is gone"),
        _ if error.is_parse_too_large() => failed(
            "http_headers_too_large",
            format!("the header of the answer is too large: {} octets came", at.marks.octets_in),
        )
        .next("look for a header that grows, such as Set-Cookie, in the answer of the server"),
        _ if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => cut(at),
        _ if kind.is_none() && at.body.is_none() => garbage(at, &told(error)),
        _ => failed("http_failed", format!("{}: {}", at.place(), told(error)))
            .next("try again; look at the log of the server"),
    }
}

fn failed(code: &str, what: String) -> Finding {
    Finding::new(code, Outcome::Failed, what)
}

/// What is spoken where HTTP was expected, by the first octets.
fn not_http(error: &hyper::Error, at: At<'_>) -> Option<Finding> {
    let head = &at.marks.head;
    if at.body.is_some() || head.is_empty() {
        return None;
    }
    // A record of type 21, alert (RFC 8446 section 5.1).
    if head.starts_with(&[0x15, 3]) {
        return Some(
            failed(
                "http_tls_spoken",
                "the server answered with a TLS alert: this port speaks HTTPS".to_owned(),
            )
            .next("ask with https:// in place of http://, or correct the port"),
        );
    }
    if cause::<h2::Error>(error).is_some() && head.starts_with(b"HTTP/1.") {
        return Some(
            failed(
                "http2_not_spoken",
                format!("the server answered HTTP/2 in HTTP/1: {}", shown(head)),
            )
            .next("ask with --http 1.1, or switch HTTP/2 on where this port is served"),
        );
    }
    (error.is_parse() && is_http2(head)).then(|| {
        failed(
            "http2_only",
            "the server speaks HTTP/2 alone on this port".to_owned(),
        )
        .next("ask with --http 2")
    })
}

/// Whether it begins with SETTINGS on stream 0, as every server of HTTP/2 does whatever it was asked (RFC 9113 section 3.4).
fn is_http2(head: &[u8]) -> bool {
    matches!(head, [0, _, _, 4, 0, 0, 0, 0, 0, ..])
}

fn http2(error: &h2::Error, at: At<'_>) -> Finding {
    // Of what came, settings and the like are no part of the answer.
    let place = match at.body {
        None => "before the header of the answer".to_owned(),
        Some(_) => at.place(),
    };
    if let Some(error) = error.get_io() {
        return match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => reset(at),
            io::ErrorKind::UnexpectedEof => cut(at),
            _ => failed("http_failed", format!("{}: {}", at.place(), told(error))),
        };
    }
    let reason = error.reason().map_or_else(
        || "no reason".to_owned(),
        |reason| format!("{reason:?} ({})", reason.description()),
    );
    if error.is_remote() && error.is_reset() {
        let next = match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => {
                "the server did not begin with it: look at its limits of streams and requests"
            }
            Some(h2::Reason::HTTP_1_1_REQUIRED) => "ask with --http 1.1",
            Some(h2::Reason::ENHANCE_YOUR_CALM) => {
                "the server takes this client for a flood: look at its limits"
            }
            _ => "look at the error log of the server, and of the upstream behind it, at this time",
        };
        return failed(
            "http2_stream_reset",
            format!("the server ended the stream with RST_STREAM, {reason}, {place}"),
        )
        .next(next);
    }
    if error.is_remote() && error.is_go_away() {
        return failed(
            "http2_goaway",
            format!("the server ended the connection with GOAWAY, {reason}, {place}"),
        )
        .next("look at the error log of the server at this time; NO_ERROR means that it is being restarted or has limits of requests a connection");
    }
    if error.is_remote() || at.marks.octets_in == 0 {
        return cut(at);
    }
    failed(
        "http2_protocol_error",
        format!(
            "what came breaks the rules of HTTP/2, {reason}: {}",
            shown(&at.marks.head)
        ),
    )
    .next(
        "ask with --http 1.1; if that works, the server or a proxy before it is at fault in HTTP/2",
    )
}

fn alerted(alert: &rustls::AlertDescription, at: At<'_>) -> Finding {
    // In TLS 1.3 the server looks at the client's certificate when the client is through (RFC 8446 section 4.4.2.4).
    let (code, next) = match alert {
        rustls::AlertDescription::CertificateRequired => (
            "client_certificate_required",
            "the server wants a certificate of the client, which a probe does not have",
        ),
        _ => (
            "http_tls_alert",
            "look at the error log of the server at this time",
        ),
    };
    failed(
        code,
        format!(
            "the server broke TLS off with alert {alert:?}, {}",
            at.place()
        ),
    )
    .next(next)
}

fn reset(at: At<'_>) -> Finding {
    let what = format!("the connection was reset (RST) {}", at.place());
    if at.body.is_none() && at.marks.octets_in == 0 {
        return failed("http_reset_before_answer", what).next(
            "look whether the server (or its worker) ends on this request, and for a firewall or proxy that refuses it",
        );
    }
    failed("http_reset", what).next(
        "look at the error log of the server at this time: its worker ended, or it or a device on the way gave the connection up",
    )
}

fn cut(at: At<'_>) -> Finding {
    let what = format!("the server closed the connection {}", at.place());
    if at.body.is_none() && at.marks.octets_in == 0 {
        return failed("http_closed_before_answer", what).next(
            "look whether the server's worker ends on this request, and whether it closes such requests on purpose (444 in nginx)",
        );
    }
    failed("http_cut", what).next(
        "look at the error log of the server and of the upstream behind it: the one that makes the page ended early, or announced a wrong length",
    )
}

fn garbage(at: At<'_>, why: &str) -> Finding {
    let head = &at.marks.head;
    let by = if head.starts_with(b"HTTP/") {
        "the answer is damaged HTTP"
    } else {
        "the answer is no HTTP"
    };
    failed(
        "http_garbage",
        format!("{by}: it begins {} ({why})", shown(head)),
    )
    .next("look what listens on this port (`ss -ltnp`): it may be another service, or want TLS or the PROXY \
         protocol; nginx passes on what its upstream says when that begins with no status line")
}

/// The first octets, as they can be printed.
fn shown(head: &[u8]) -> String {
    format!("\"{}\"", head[..head.len().min(32)].escape_ascii())
}

/// An error of hyper with its causes.
pub(super) fn told(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !told.ends_with(&more) {
            told = format!("{told}: {more}");
        }
        source = error.source();
    }
    text(told.as_bytes())
}

/// The TLS error in an error, if it came from there: rustls wraps it in an `io::Error`.
fn tls(error: &hyper::Error) -> Option<&rustls::Error> {
    let mut found = None;
    let mut source = error.source();
    while let Some(error) = source {
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        found = found.or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        source = error.source();
    }
    found
}

/// The cause of this type.
fn cause<T: Error + 'static>(error: &hyper::Error) -> Option<&T> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        source = error.source();
    }
    None
}
