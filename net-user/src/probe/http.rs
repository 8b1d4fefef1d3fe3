//! HTTP: the request, the answer, and what else a well-behaved server does.

mod caching;
mod checks;
mod conformance;
mod facts;
mod fault;
mod head;
mod open;
mod page;
mod persistence;
mod range;
mod redirect;
mod status;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::Method;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout_at,
};
use url::Url;

use super::{
    Facts, Finding, HttpVersion, Layer, Outcome, Plan, Stage, Walk,
    meter::Marks,
    tcp::{Connection, Socket},
};
use checks::Checks;
use facts::milliseconds;
use fault::{At, fault, told};
use open::Unanswered;
use page::{End, NoPage, Page, Question};
use persistence::closes;

pub use caching::Caching;
pub use facts::{Check, HttpFacts};
pub use open::Open;
pub(super) use redirect::looped;

/// Longer pages are not read to their end.
const MOST: u64 = 64 << 20;

/// What octets go over: TCP, or TLS on it.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One more connection on the way.
pub type Again =
    Pin<Box<dyn Future<Output = io::Result<(Box<dyn Io>, Arc<Socket>)>> + Send + 'static>>;

/// A connection that is ready for HTTP.
pub struct Stream {
    /// Its octets.
    pub io: Box<dyn Io>,
    /// Whether TLS agreed on HTTP/2.
    pub http2: bool,
    /// Makes another connection of the same kind, for checks that need their own.
    pub again: Arc<dyn Fn() -> Again + Send + Sync>,
}

impl Stream {
    /// Without TLS.
    pub fn plain(connection: Connection) -> Self {
        let remote = connection.socket.remote;
        Self {
            io: Box::new(connection.stream),
            http2: false,
            again: Arc::new(move || {
                Box::pin(async move {
                    let connection = Connection::again(remote).await?;
                    Ok((
                        Box::new(connection.stream) as Box<dyn Io>,
                        connection.socket,
                    ))
                })
            }),
        }
    }
}

/// What [`fetch`] leaves.
pub struct Exchange {
    /// What was found.
    pub stage: Stage,
    /// Where a redirect leads that is to be followed.
    pub next: Option<Url>,
    /// The connection, if it is still there.
    pub open: Option<Open>,
}

/// Asks for `url`. `depth`: how many redirects led here.
pub async fn fetch(walk: &Walk<'_>, url: &Url, stream: Stream, depth: u32) -> Exchange {
    let plan = walk.plan;
    (walk.progress)(&format!("asking for {url}"));
    let http2 = stream.http2 || (plan.http == HttpVersion::Http2 && url.scheme() == "http");
    let again = stream.again;
    let start = walk.now_us();
    let (answer, mut open) = ask(plan, url, stream.io, http2).await;
    let times = walk.since(start);
    let mut facts = HttpFacts::default();
    let page = match answer {
        Ok(page) => page,
        Err((finding, marks)) => {
            facts.octets_in = marks.octets_in;
            facts.octets_out = marks.octets_out;
            let summary = "no answer";
            let stage = Stage::new(
                Layer::Http,
                times,
                summary,
                vec![finding],
                Facts::Http(Box::new(facts)),
            );
            return Exchange {
                stage,
                next: None,
                open,
            };
        }
    };
    note(&mut facts, &page, times.1);
    let (next, mut findings) =
        redirect::step(plan, url, page.head.status, &page.head.headers, depth);
    findings.extend(judged(plan, url, &page, &facts));
    let whole = matches!(page.body.end, End::Whole);
    if !whole {
        open = None;
    }
    let wanted = plan.checks && whole && next.is_none() && page.head.status.is_success();
    if wanted {
        (walk.progress)(&format!("asking more of {}", open::authority(url)));
        let kept = open.filter(|_| facts.keep_alive == Some(true));
        let mut checks = Checks::new(url, plan.http, http2, again, kept, plan.timeout);
        checks.run(&page).await;
        if plan.conformance {
            conformance::run(&mut checks, plan.timeout).await;
        }
        facts.checks.append(&mut checks.list);
        findings.append(&mut checks.findings);
        open = checks.into_open();
    }
    let summary = summary(&page, &facts, next.as_ref(), times.1);
    Exchange {
        stage: Stage::new(
            Layer::Http,
            times,
            summary,
            findings,
            Facts::Http(Box::new(facts)),
        ),
        next,
        open,
    }
}

type Asked = Result<Page, (Finding, Marks)>;

/// The page, or why there is none.
async fn ask(plan: &Plan, url: &Url, io: Box<dyn Io>, http2: bool) -> (Asked, Option<Open>) {
    let deadline = Instant::now() + plan.timeout;
    let begun = timeout_at(deadline.into(), Open::new(io, http2)).await;
    let mut open = match begun {
        Ok(Ok(open)) => open,
        Ok(Err(error)) => {
            let marks = Marks::default();
            let at = At {
                marks: &marks,
                body: None,
            };
            return (Err((fault(&error, at), marks)), None);
        }
        Err(_) => {
            let marks = Marks::default();
            return (Err((late(&marks, plan.timeout), marks)), None);
        }
    };
    let question = Question {
        url,
        method: Method::GET,
        version: plan.http,
        extra: &[],
        most: MOST,
        deadline,
    };
    let asked = page::ask(&mut open, &question).await;
    let finding = match asked {
        Ok(page) => return (Ok(page), Some(open)),
        Err(NoPage::Late) => late(&open.meter.marks(), plan.timeout),
        Err(NoPage::Broken(Unanswered::Hyper(error))) => {
            let marks = open.meter.marks();
            fault(
                &error,
                At {
                    marks: &marks,
                    body: None,
                },
            )
        }
        Err(NoPage::Broken(Unanswered::Question(error))) => Finding::new(
            "http_bad_url",
            Outcome::Failed,
            format!("{url} cannot be asked for over HTTP: {}", told(&error)),
        )
        .next("write the URL as browsers show it"),
    };
    let marks = open.meter.marks();
    (Err((finding, marks)), None)
}

fn late(marks: &Marks, patience: Duration) -> Finding {
    let came = match marks.octets_in {
        0 => "nothing came".to_owned(),
        octets => format!("{octets} octets came, and no whole header"),
    };
    let what = format!(
        "no answer within {patience:?}: {} octets were sent, {came}",
        marks.octets_out
    );
    Finding::new("http_timeout", Outcome::Failed, what).next(
        "the connection stands, the server or what is behind it hangs: look at its load, its workers, its upstream; with a \
         --timeout above that of a proxy (60 s in nginx) the proxy says which",
    )
}

/// What is known of the page. `whole_us`: from the request to its last octet.
fn note(facts: &mut HttpFacts, page: &Page, whole_us: u64) {
    facts.read(&page.head.headers);
    let first = u64::try_from(page.first_byte.as_micros()).unwrap_or(u64::MAX);
    facts.version = Some(format!("{:?}", page.head.version));
    facts.status = Some(page.head.status.as_u16());
    facts.first_byte_us = Some(first);
    facts.body_us = Some(whole_us.saturating_sub(first));
    facts.body_octets = page.body.octets;
    facts.octets_in = page.marks.octets_in;
    facts.octets_out = page.marks.octets_out;
    facts.keep_alive = Some(!closes(page.head.version, &page.head.headers));
}

/// What is to be said of the page.
fn judged(plan: &Plan, url: &Url, page: &Page, facts: &HttpFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut by = facts.server.as_ref().map_or_else(String::new, |server| {
        format!(" from {}", text(server.as_bytes()))
    });
    if let Some(after) = &facts.retry_after {
        by = format!("{by}, to be tried again after {}", text(after.as_bytes()));
    }
    findings.extend(status::judge(page.head.status, plan.expect, &by));
    findings.extend(ended(page, facts, plan.timeout));
    if page.first_byte > plan.slow.first_byte {
        let what = format!(
            "the first octet of the answer came after {}, more than {} ms",
            milliseconds(facts.first_byte_us.unwrap_or(u64::MAX)),
            plan.slow.first_byte.as_millis()
        );
        findings.push(Finding::new("http_slow_first_byte", Outcome::Slow, what).next(
            "the way is good and the server thinks: look at the application, its database, its queue of requests; a busy \
             accept queue or proxy adds to it",
        ));
    }
    if plan.http == HttpVersion::Http2 && page.head.version != hyper::Version::HTTP_2 {
        let what = format!(
            "HTTP/2 was asked for, and {:?} is spoken",
            page.head.version
        );
        findings.push(
            Finding::new("http2_not_agreed", Outcome::Wrong, what)
                .next("switch HTTP/2 on in the server (ALPN h2)"),
        );
    }
    if page.head.status.is_success() {
        findings.extend(facts.caching.findings(facts.content_encoding.is_some()));
        let domain = matches!(url.host(), Some(url::Host::Domain(_)));
        if url.scheme() == "https" && facts.hsts.is_none() && domain {
            let what = "no Strict-Transport-Security: the first way of a browser may be http";
            findings.push(
                Finding::new("http_no_hsts", Outcome::Ok, what)
                    .next("add it when the whole site is served by https (RFC 6797)"),
            );
        }
        findings.extend(uncompressed(facts));
    }
    findings
}

/// How the body ended, where that was not at its end.
fn ended(page: &Page, facts: &HttpFacts, patience: Duration) -> Option<Finding> {
    let came = page.body.octets;
    let of = facts
        .content_length
        .map_or_else(String::new, |of| format!(" of {of}"));
    Some(match &page.body.end {
        End::Whole => return None,
        End::Bounded => Finding::new(
            "http_body_bounded",
            Outcome::Ok,
            format!("the page is longer than {} MiB; the rest was not fetched", MOST >> 20),
        ),
        End::UnderWay => Finding::new(
            "http_body_slow",
            Outcome::Slow,
            format!("the body was still coming when the {patience:?} were over: {came}{of} octets"),
        )
        .next("look at the way's bandwidth and losses (the retransmissions of TCP), or allow more with --timeout"),
        End::Stalled(silent) => Finding::new(
            "http_body_timeout",
            Outcome::Failed,
            format!("the body stopped after {came}{of} octets: nothing came for {} ms", silent.as_millis()),
        )
        .next("look at the upstream that makes the page, and for a black hole of large packets on the way (path MTU)"),
        End::Broken(error) => {
            let body = Some((came, facts.content_length));
            fault(error, At { marks: &page.marks, body })
        }
    })
}

fn uncompressed(facts: &HttpFacts) -> Option<Finding> {
    let kind = facts
        .content_type
        .as_deref()
        .unwrap_or("")
        .to_ascii_lowercase();
    let texts = [
        "text/",
        "application/json",
        "application/javascript",
        "application/xml",
        "image/svg",
    ];
    let long = facts.body_octets > 4096 && facts.content_encoding.is_none();
    (long && texts.iter().any(|text| kind.starts_with(text))).then(|| {
        let what = format!("{} octets of text are not compressed", facts.body_octets);
        Finding::new("http_uncompressed", Outcome::Ok, what)
            .next("compress text (in nginx gzip on with gzip_types): a third of the octets is less of everything on the way")
    })
}

fn summary(page: &Page, facts: &HttpFacts, next: Option<&Url>, whole_us: u64) -> String {
    let status = status::named(page.head.status);
    let version = facts.version.as_deref().unwrap_or("HTTP");
    match next {
        Some(next) => format!("{version} {status}, leads to {next}"),
        None => format!(
            "{version} {status}, {} octets in {}",
            facts.body_octets,
            milliseconds(whole_us)
        ),
    }
}

/// What a server sent, fit to be kept: 300 characters at most.
fn raw(octets: &[u8]) -> String {
    let octets = &octets[..octets.len().min(1200)];
    String::from_utf8_lossy(octets).chars().take(300).collect()
}

/// What a server sent, fit to be shown: escaped, 160 characters of it at most.
fn text(octets: &[u8]) -> String {
    let shown = raw(octets);
    let mut text: String = shown
        .chars()
        .take(160)
        .collect::<String>()
        .escape_debug()
        .collect();
    if shown.chars().nth(160).is_some() {
        text.push('…');
    }
    text.replace("\\\"", "\"").replace("\\'", "'")
}
