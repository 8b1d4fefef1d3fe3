//! What a well-behaved server does beside giving the page: it keeps the connection, answers HEAD as it answers GET, knows
//! what has not changed, gives a part where it says that it can, and tells what it allows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    Method, StatusCode, Version,
    header::{self, HeaderName, HeaderValue},
};
use tokio::time::timeout_at;
use url::Url;

use super::{
    Again,
    facts::{Check, field, milliseconds},
    fault::{At, fault, told},
    head::differences,
    open::{Open, Unanswered},
    page::{End, NoPage, Page, Question, ask},
    persistence::{closes, ends_with_connection},
    range, text,
};
use crate::probe::{Finding, HttpVersion, Outcome};

/// Longer bodies are not read for a check.
const MOST: u64 = 1 << 20;

/// More connections of the same kind.
pub(super) type Connect = Arc<dyn Fn() -> Again + Send + Sync>;

/// Asks on, and takes down what came of it.
pub(super) struct Checks<'a> {
    pub(super) url: &'a Url,
    pub(super) version: HttpVersion,
    pub(super) http2: bool,
    pub(super) again: Connect,
    /// The connection of the page, or a later one.
    open: Option<Open>,
    /// Whether it is still that of the page.
    original: bool,
    /// Why the last connection that was to be used again could not be.
    lost: Option<Finding>,
    /// What it means when octets lie on the connection that belong to no answer.
    rest: Rest,
    deadline: Instant,
    /// The server limits requests, and did not when it gave the page.
    limited: bool,
    /// What was asked.
    pub(super) list: Vec<Check>,
    /// What is to be said of it.
    pub(super) findings: Vec<Finding>,
}

/// A code and a sentence.
type Rest = (&'static str, &'static str);

const AFTER_PAGE: Rest = (
    "http_body_too_long",
    "octets follow the page that are beyond its announced length",
);
const AFTER_HEAD: Rest = (
    "http_head_with_body",
    "the answer to HEAD has a body (RFC 9110 section 9.3.2 forbids it)",
);
const AFTER_304: Rest = (
    "http_304_with_body",
    "the answer 304 has a body (RFC 9110 section 15.4.5 forbids it)",
);

impl<'a> Checks<'a> {
    pub(super) fn new(
        url: &'a Url,
        version: HttpVersion,
        http2: bool,
        again: Connect,
        open: Option<Open>,
        patience: Duration,
    ) -> Self {
        Self {
            url,
            version,
            http2,
            again,
            original: open.is_some(),
            open,
            lost: None,
            rest: AFTER_PAGE,
            deadline: Instant::now() + patience,
            limited: false,
            list: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// The page's connection, if it is still there.
    pub(super) fn into_open(self) -> Option<Open> {
        self.open.filter(|_| self.original)
    }

    /// All of them. `page`: what came whole.
    pub(super) async fn run(&mut self, page: &Page) {
        self.head(page).await;
        if !self.limited {
            self.conditional(page).await;
        }
        if !self.limited {
            self.range(page).await;
        }
        if !self.limited {
            self.options(page).await;
        }
    }

    async fn head(&mut self, page: &Page) {
        let start = Instant::now();
        // GOAWAY of HTTP/2 is an announcement, and clients ask again elsewhere (RFC 9113 section 6.8).
        let announced = page.head.version == Version::HTTP_2
            || closes(page.head.version, &page.head.headers)
            || ends_with_connection(&page.head.headers);
        let asked = self.ask(Method::HEAD, &[]).await;
        if let Ok((_, reused)) = &asked {
            self.reuse(*reused, announced, start);
        }
        let Some(head) = self.answered("head", page, start, asked) else {
            return;
        };
        self.rest = AFTER_HEAD;
        let status = head.head.status;
        let before = self.findings.len();
        let differs = differences(page, &head);
        if matches!(status.as_u16(), 405 | 501) {
            self.note(
                "http_head_refused",
                format!(
                    "HEAD is answered {} (RFC 9110 section 9.1 asks every server for it)",
                    status.as_u16()
                ),
                "allow HEAD wherever GET is allowed: monitors and caches use it",
            );
        } else if status != page.head.status {
            self.note(
                "http_head_differs",
                format!(
                    "HEAD is answered {} where GET is answered {}",
                    status.as_u16(),
                    page.head.status.as_u16()
                ),
                "look whether a rule of the server or proxy is for GET alone",
            );
        } else if let Some((what, outcome)) = differs {
            self.findings.push(
                Finding::new(
                    "http_head_differs",
                    outcome,
                    format!("HEAD and GET disagree: {what}"),
                )
                .next("look whether the application makes the answer to HEAD in another way"),
            );
        }
        let what = match self.findings.get(before) {
            None => "agrees with GET".to_owned(),
            Some(finding) => finding.what.clone(),
        };
        self.push("head", before, start, Some(status), what);
    }

    fn reuse(&mut self, reused: bool, announced: bool, start: Instant) {
        let before = self.findings.len();
        let what = match (reused, self.lost.take()) {
            (true, _) => "a second request on the same connection was answered",
            (false, _) if announced => {
                self.findings.push(
                    Finding::new(
                        "http_no_keep_alive",
                        Outcome::Ok,
                        "the server ends the connection after each answer",
                    )
                    .next("keep-alive spares every further request a handshake: look at keepalive_timeout or the like"),
                );
                "no: the server ends the connection after each answer, and says so"
            }
            // That is said already.
            (false, Some(lost)) if lost.code == "http_garbage" => {
                "octets lay on the connection that belong to no answer"
            }
            (false, lost) => {
                let why = lost.map_or_else(|| "it was gone".to_owned(), |lost| lost.what);
                self.wrong(
                    "http_keep_alive_broken",
                    format!("a second request on the same connection failed though the server did not announce that: {why}"),
                    "let the server say Connection: close, or keep the connection; clients lose requests else",
                );
                "the connection could not be used again"
            }
        };
        self.push("reuse", before, start, None, what.to_owned());
    }

    async fn conditional(&mut self, page: &Page) {
        let headers = &page.head.headers;
        let (name, validator, value) = if let Some(value) = headers.get(header::ETAG) {
            (header::IF_NONE_MATCH, header::ETAG, value)
        } else if let Some(value) = headers.get(header::LAST_MODIFIED) {
            (header::IF_MODIFIED_SINCE, header::LAST_MODIFIED, value)
        } else {
            let none = "the page has neither ETag nor Last-Modified".to_owned();
            return self.push(
                "conditional",
                self.findings.len(),
                Instant::now(),
                None,
                none,
            );
        };
        let start = Instant::now();
        let asked = self
            .ask(Method::GET, &[(name.clone(), value.clone())])
            .await;
        let Some(answer) = self.answered("conditional", page, start, asked) else {
            return;
        };
        let status = answer.head.status;
        let before = self.findings.len();
        let what = match status {
            StatusCode::NOT_MODIFIED => {
                self.rest = AFTER_304;
                "304: not modified, empty"
            }
            _ if status == page.head.status => {
                if answer.head.headers.get(&validator) == Some(value) {
                    let code = if validator == header::ETAG {
                        "http_etag_ignored"
                    } else {
                        "http_last_modified_ignored"
                    };
                    // Servers may ignore If-Modified-Since (RFC 9110 section 13.1.3); Apache's mod_deflate changes the ETag
                    // of what it compresses so that it fits no question.
                    let compressed = headers.contains_key(header::CONTENT_ENCODING);
                    let outcome = match validator == header::ETAG && !compressed {
                        true => Outcome::Wrong,
                        false => Outcome::Ok,
                    };
                    self.say(
                        code,
                        outcome,
                        format!("{name}: {} is answered with the whole page though it has not changed", text(value.as_bytes())),
                        "let server, application or proxy compare it: visitors load again what they have",
                    );
                    "the whole page, though it has not changed"
                } else {
                    "the whole page: it has changed"
                }
            }
            _ => {
                self.wrong(
                    "http_conditional_failed",
                    format!("a conditional request is answered {}", status.as_u16()),
                    "look at the error log of the server at this time",
                );
                "neither the page nor 304"
            }
        };
        self.push("conditional", before, start, Some(status), what.to_owned());
    }

    async fn range(&mut self, page: &Page) {
        let start = Instant::now();
        let before = self.findings.len();
        let Some(last) = page.body.octets.checked_sub(1).map(|last| last.min(99)) else {
            let none = "the page is empty".to_owned();
            return self.push("range", before, start, None, none);
        };
        let Ok(value) = HeaderValue::try_from(format!("bytes=0-{last}")) else {
            return;
        };
        let asked = self.ask(Method::GET, &[(header::RANGE, value)]).await;
        let Some(answer) = self.answered("range", page, start, asked) else {
            return;
        };
        let status = answer.head.status;
        let what = match range::judge(page, &answer, last) {
            Ok(what) => what.to_owned(),
            Err(finding) => {
                let what = finding.what.clone();
                self.findings.push(finding);
                what
            }
        };
        self.push("range", before, start, Some(status), what);
    }

    async fn options(&mut self, page: &Page) {
        let start = Instant::now();
        let before = self.findings.len();
        let asked = self.ask(Method::OPTIONS, &[]).await;
        let Some(answer) = self.answered("options", page, start, asked) else {
            return;
        };
        let status = answer.head.status;
        let allow = field(&answer.head.headers, header::ALLOW);
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            self.note(
                "http_options_failed",
                format!("OPTIONS is answered {}", status.as_u16()),
                "look at the error log of the server at this time",
            );
        }
        let trace = |allow: &String| {
            let mut methods = allow.split(',');
            methods.any(|method| method.trim().eq_ignore_ascii_case("TRACE"))
        };
        if allow.as_ref().is_some_and(trace) {
            self.findings.push(
                Finding::new("http_trace_allowed", Outcome::Ok, "TRACE is allowed")
                    .next("switch it off: it gives the header of a request to whoever can make a browser send one"),
            );
        }
        let what = match allow {
            Some(allow) => format!("allowed: {allow}"),
            None => format!("{}, without saying what is allowed", status.as_u16()),
        };
        self.push("options", before, start, Some(status), what);
    }

    /// Asks on the connection there is, or on a new one. With whether it was the one there was.
    async fn ask(
        &mut self,
        method: Method,
        extra: &[(HeaderName, HeaderValue)],
    ) -> Result<(Page, bool), String> {
        let question = Question {
            url: self.url,
            method,
            version: self.version,
            extra,
            most: MOST,
            deadline: self.deadline,
        };
        if let Some(mut open) = self.open.take() {
            open.meter.mark();
            match ask(&mut open, &question).await {
                Ok(page) => {
                    self.keep(open, &page);
                    return Ok((page, true));
                }
                Err(NoPage::Late) => return Err("no answer in time".to_owned()),
                Err(NoPage::Broken(Unanswered::Question(error))) => return Err(error.to_string()),
                Err(NoPage::Broken(Unanswered::Hyper(error))) => {
                    let marks = open.meter.marks();
                    let lost = fault(
                        &error,
                        At {
                            marks: &marks,
                            body: None,
                        },
                    );
                    if lost.code == "http_garbage" {
                        let (code, what) = self.rest;
                        self.wrong(
                            code,
                            what.to_owned(),
                            "clients take these octets for the next answer: look at the application or proxy that makes the answer",
                        );
                    }
                    self.lost = Some(lost);
                }
            }
        }
        self.original = false;
        let mut open = timeout_at(self.deadline.into(), async {
            let (io, _) = (self.again)().await.map_err(|error| error.to_string())?;
            Open::new(io, self.http2)
                .await
                .map_err(|error| told(&error))
        })
        .await
        .map_err(|_| "no new connection in time".to_owned())??;
        match ask(&mut open, &question).await {
            Ok(page) => {
                self.keep(open, &page);
                Ok((page, false))
            }
            Err(NoPage::Late) => Err("no answer in time".to_owned()),
            Err(NoPage::Broken(error)) => Err(told(&error)),
        }
    }

    fn keep(&mut self, open: Open, page: &Page) {
        let ended = closes(page.head.version, &page.head.headers);
        self.rest = AFTER_PAGE;
        if matches!(page.body.end, End::Whole) && !ended {
            self.open = Some(open);
        }
    }

    /// The answer to a check; where there is none, that is said.
    fn answered(
        &mut self,
        name: &'static str,
        page: &Page,
        start: Instant,
        asked: Result<(Page, bool), String>,
    ) -> Option<Page> {
        let is_limit = |status: StatusCode| matches!(status.as_u16(), 429 | 503);
        let why = match asked {
            Ok((answer, _)) if is_limit(answer.head.status) && !is_limit(page.head.status) => {
                self.limited = true;
                let before = self.findings.len();
                let status = answer.head.status;
                let what = format!("the server limits requests ({})", status.as_u16());
                self.note(
                    "http_checks_limited",
                    format!("{what}: what else it does was not looked at"),
                    "a limit that browsers meet is too low: a page with its pictures is many requests",
                );
                self.push(name, before, start, Some(status), what);
                return None;
            }
            Ok((page, _)) => match &page.body.end {
                End::Whole | End::Bounded => return Some(page),
                End::UnderWay | End::Stalled(_) => "no whole answer in time".to_owned(),
                End::Broken(error) => told(error),
            },
            Err(why) => why,
        };
        let before = self.findings.len();
        let code = format!("http_{name}_failed");
        let request = match name {
            "head" => "HEAD",
            "options" => "OPTIONS",
            "range" => "a request for a part of the page",
            _ => "a conditional request",
        };
        // Browsers ask conditionally all the time, the others seldom.
        let outcome = match name {
            "conditional" => Outcome::Wrong,
            _ => Outcome::Ok,
        };
        self.say(
            &code,
            outcome,
            format!("{request} has no answer: {why}"),
            "look at the error log of the server at this time",
        );
        self.push(name, before, start, None, why);
        None
    }

    /// Something breaks honest clients.
    pub(super) fn wrong(&mut self, code: &str, what: String, next: &str) {
        self.say(code, Outcome::Wrong, what, next);
    }

    /// Something is not as it should be, and no visitor meets it.
    fn note(&mut self, code: &str, what: String, next: &str) {
        self.say(code, Outcome::Ok, what, next);
    }

    /// Something is said once.
    fn say(&mut self, code: &str, outcome: Outcome, what: String, next: &str) {
        if self.findings.iter().all(|finding| finding.code != code) {
            let finding = Finding::new(code, outcome, what).next(next);
            self.findings.push(finding);
        }
    }

    /// Takes a check down; its outcome is that of the findings since there were `before`.
    pub(super) fn push(
        &mut self,
        name: &str,
        before: usize,
        start: Instant,
        status: Option<StatusCode>,
        what: String,
    ) {
        let since = self.findings.get(before..).unwrap_or(&[]);
        let outcome = since.iter().map(|finding| finding.outcome).max();
        let duration_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let what = format!("{what} ({})", milliseconds(duration_us));
        self.list.push(Check {
            name: name.to_owned(),
            outcome: outcome.unwrap_or(Outcome::Ok),
            status: status.map(|status| status.as_u16()),
            duration_us,
            what,
        });
    }
}
