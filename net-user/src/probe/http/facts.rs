//! The details of an exchange, for programs and for people.

use hyper::{
    HeaderMap,
    header::{self, HeaderName},
};
use serde::{Deserialize, Serialize};

use super::{caching::Caching, raw, text};
use crate::probe::{Lines, Outcome};

/// The details of an exchange. Header fields are as the server sent them, cut at 300 characters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpFacts {
    /// The version of the answer, such as `HTTP/1.1`.
    pub version: Option<String>,
    /// The status.
    pub status: Option<u16>,
    /// From the request to the first octet of the answer, in microseconds. In HTTP/2 to the whole header of it.
    pub first_byte_us: Option<u64>,
    /// From there to the last octet of the body, in microseconds.
    pub body_us: Option<u64>,
    /// Octets of the body that came, as they were sent: compressed, without chunk headers.
    pub body_octets: u64,
    /// How many were announced (Content-Length).
    pub content_length: Option<u64>,
    /// All octets that came for the page, below HTTP and above TLS.
    pub octets_in: u64,
    /// All octets that went.
    pub octets_out: u64,
    /// Who answered (Server).
    pub server: Option<String>,
    /// Proxies on the way (Via).
    pub via: Option<String>,
    /// Content-Type.
    pub content_type: Option<String>,
    /// How the body is compressed (Content-Encoding).
    pub content_encoding: Option<String>,
    /// Where a redirect leads (Location).
    pub location: Option<String>,
    /// When to come again (Retry-After).
    pub retry_after: Option<String>,
    /// That browsers are to come by HTTPS alone (Strict-Transport-Security, RFC 6797).
    pub hsts: Option<String>,
    /// Where else the page is served, HTTP/3 for instance (Alt-Svc, RFC 7838).
    pub alt_svc: Option<String>,
    /// Whether a cookie was set. Probes keep none.
    pub sets_cookie: bool,
    /// Whether the server leaves the connection open for a next request.
    pub keep_alive: Option<bool>,
    /// What caches are told.
    pub caching: Caching,
    /// What was asked beside the page.
    pub checks: Vec<Check>,
}

/// One more request, beside the page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// `reuse`, `head`, `conditional`, `range`, `options`, `no_host` or `damaged`.
    pub name: String,
    /// Whether all was as it should be; a finding says what was not.
    pub outcome: Outcome,
    /// The status of its answer, if there was one.
    pub status: Option<u16>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// What came of it.
    pub what: String,
}

/// A header field as it was sent, cut.
pub(super) fn field(headers: &HeaderMap, name: impl Into<HeaderName>) -> Option<String> {
    headers.get(name.into()).map(|value| raw(value.as_bytes()))
}

impl HttpFacts {
    /// What a header says.
    pub(super) fn read(&mut self, headers: &HeaderMap) {
        self.content_length =
            field(headers, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        self.server = field(headers, header::SERVER);
        self.via = field(headers, header::VIA);
        self.content_type = field(headers, header::CONTENT_TYPE);
        self.content_encoding = field(headers, header::CONTENT_ENCODING);
        self.location = field(headers, header::LOCATION);
        self.retry_after = field(headers, header::RETRY_AFTER);
        self.hsts = field(headers, header::STRICT_TRANSPORT_SECURITY);
        self.alt_svc = field(headers, header::ALT_SVC);
        self.sets_cookie = headers.contains_key(header::SET_COOKIE);
        self.caching = Caching::of(headers);
    }

    /// For people.
    pub fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        let mut line = |label: &str, value: String| lines.push((label.to_owned(), value));
        if let Some(us) = self.first_byte_us {
            line("first octet after", milliseconds(us));
        }
        if let Some(us) = self.body_us {
            let announced = match self.content_length {
                Some(length) if length != self.body_octets => format!(" of {length}"),
                _ => String::new(),
            };
            let what = format!(
                "{}{announced} octets in {}",
                self.body_octets,
                milliseconds(us)
            );
            line("body", what);
        }
        for (label, value) in [
            ("server", &self.server),
            ("via", &self.via),
            ("type", &self.content_type),
            ("compressed", &self.content_encoding),
            ("location", &self.location),
            ("retry after", &self.retry_after),
            ("HSTS", &self.hsts),
            ("also at", &self.alt_svc),
        ] {
            if let Some(value) = value {
                line(label, text(value.as_bytes()));
            }
        }
        for (label, value) in self.caching.lines() {
            line(&label, value);
        }
        for check in &self.checks {
            line(&check.name.replace('_', " "), text(check.what.as_bytes()));
        }
        lines
    }
}

/// Microseconds as people read them.
pub(super) fn milliseconds(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us / 100 % 10)
}
