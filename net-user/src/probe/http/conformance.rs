//! What is wrong on purpose, and what a server is to say to it. Sent only where it was asked for.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout_at,
};
use url::{Position, Url};

use super::{checks::Checks, open::authority};
use crate::probe::HttpVersion;

/// The longest answer of which the status is looked for.
const MOST: u64 = 16 << 10;

/// How a server took it.
enum Taken {
    /// With this status.
    Status(u16),
    /// It closed or reset the connection without a word.
    Closed,
    /// Not at all.
    Silent,
    /// With something that is no HTTP.
    Garbage,
    /// There was no connection to send it on.
    NoConnection(String),
}

/// Sends both, each on a connection of its own.
pub(super) async fn run(checks: &mut Checks<'_>, patience: Duration) {
    if checks.http2 || checks.version == HttpVersion::Http10 {
        let not = "not asked: this is of HTTP/1.1 (--http 1.1)";
        for name in ["no_host", "damaged"] {
            let before = checks.findings.len();
            checks.push(name, before, Instant::now(), None, not.to_owned());
        }
        return;
    }
    no_host(checks, patience).await;
    damaged(checks, patience).await;
}

/// RFC 9112 section 3.2: a server must answer 400 to a request of HTTP/1.1 without Host.
async fn no_host(checks: &mut Checks<'_>, patience: Duration) {
    let path = path(checks.url);
    let request = format!("GET {path} HTTP/1.1\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    let (start, before) = (Instant::now(), checks.findings.len());
    let taken = send(checks, &request, patience).await;
    let next = "look at the server's default host; whatever stands before it in the way may add a Host of its own";
    let what = match &taken {
        Taken::Status(400) => "400, as it should be".to_owned(),
        Taken::Status(status) if *status < 400 => {
            checks.wrong(
                "http_no_host_accepted",
                format!("a request without Host is answered {status}, where RFC 9112 section 3.2 asks for 400"),
                next,
            );
            format!("accepted with {status}")
        }
        Taken::Status(status) => format!("refused, with {status} in place of 400"),
        Taken::Closed => {
            checks.wrong(
                "http_no_host_unanswered",
                "a request without Host is not answered, where RFC 9112 section 3.2 asks for 400"
                    .to_owned(),
                next,
            );
            "the connection was closed without an answer".to_owned()
        }
        other => unlike(
            checks,
            "http_no_host_unanswered",
            "a request without Host",
            other,
        ),
    };
    checks.push("no_host", before, start, status(&taken), what);
}

/// RFC 9112 section 3: a request line that cannot be read is to be answered 400; to close on it is common and safe.
async fn damaged(checks: &mut Checks<'_>, patience: Duration) {
    let host = authority(checks.url);
    let request = format!(
        "GE\tT {}\tHTTP/1.x\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        path(checks.url)
    );
    let (start, before) = (Instant::now(), checks.findings.len());
    let taken = send(checks, &request, patience).await;
    let what = match &taken {
        Taken::Status(status) if *status < 400 => {
            checks.wrong(
                "http_damaged_accepted",
                format!("a damaged request line is answered {status}, where RFC 9112 section 3 asks for 400"),
                "what one server on the way reads otherwise than the next lets requests be smuggled past it: look for \
                 settings that make the parser lenient",
            );
            format!("accepted with {status}")
        }
        Taken::Status(status) => format!("refused with {status}"),
        Taken::Closed => "refused: the connection was closed".to_owned(),
        other => unlike(
            checks,
            "http_damaged_unanswered",
            "a damaged request line",
            other,
        ),
    };
    checks.push("damaged", before, start, status(&taken), what);
}

fn unlike(checks: &mut Checks<'_>, code: &str, request: &str, taken: &Taken) -> String {
    let what = match taken {
        Taken::Garbage => "is answered with something that is no HTTP",
        Taken::NoConnection(why) => return format!("not asked: {why}"),
        _ => "is neither answered nor refused in time",
    };
    checks.wrong(
        code,
        format!("{request} {what}"),
        "look at the time-outs of the server: clients that send such things keep its connections",
    );
    format!("it {what}")
}

fn status(taken: &Taken) -> Option<StatusCode> {
    match taken {
        Taken::Status(status) => StatusCode::from_u16(*status).ok(),
        _ => None,
    }
}

fn path(url: &Url) -> &str {
    &url[Position::BeforePath..Position::AfterQuery]
}

async fn send(checks: &Checks<'_>, request: &str, patience: Duration) -> Taken {
    let deadline = (Instant::now() + patience).into();
    let mut io = match timeout_at(deadline, (checks.again)()).await {
        Ok(Ok((io, _))) => io,
        Ok(Err(error)) => return Taken::NoConnection(error.to_string()),
        Err(_) => return Taken::NoConnection("no new connection in time".to_owned()),
    };
    let exchange = async {
        io.write_all(request.as_bytes()).await?;
        io.flush().await?;
        let mut heard = Vec::new();
        let mut io = io.take(MOST);
        while io.read_buf(&mut heard).await? > 0 {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let mut answer = httparse::Response::new(&mut headers);
            if answer.parse(&heard).is_err() {
                return Ok(Taken::Garbage);
            }
            if let Some(status) = answer.code {
                return Ok(Taken::Status(status));
            }
        }
        Ok::<_, std::io::Error>(if heard.is_empty() {
            Taken::Closed
        } else {
            Taken::Garbage
        })
    };
    match timeout_at(deadline, exchange).await {
        Ok(Ok(taken)) => taken,
        // A reset, or the end of TLS without a word.
        Ok(Err(_)) => Taken::Closed,
        Err(_) => Taken::Silent,
    }
}
