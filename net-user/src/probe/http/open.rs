//! A connection with HTTP on it, of either version, and questions over it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::Empty;
use hyper::{
    HeaderMap, Method, Request, Response, Uri, Version,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::task::{JoinHandle, JoinSet};
use url::{Position, Url};

use super::Io;
use crate::probe::{
    HttpVersion,
    meter::{Meter, Metered},
};

/// The headers of an HTTP/2 answer, octets; those of an HTTP/1 answer are bounded by hyper (some 400 KiB).
const HEADERS: u32 = 256 << 10;

/// A connection with HTTP on it.
pub struct Open {
    sender: Sender,
    driver: Driver,
    tasks: Tasks,
    pub(super) meter: Arc<Meter>,
}

enum Sender {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

/// The task that moves the octets; it ends with its owner.
struct Driver(JoinHandle<hyper::Result<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What HTTP/2 runs beside the driver; it ends with its owner.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are done need not be kept.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            task.await;
        });
    }
}

/// Why a question had no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// The connection, or what came over it.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The URL cannot be asked for over HTTP.
    #[error(transparent)]
    Question(#[from] hyper::http::Error),
}

impl Open {
    /// Begins HTTP on a connection.
    pub(super) async fn new(io: Box<dyn Io>, http2: bool) -> hyper::Result<Self> {
        let meter = Arc::new(Meter::default());
        let io = TokioIo::new(Metered::new(io, Arc::clone(&meter)));
        let tasks = Tasks::default();
        let (sender, driver) = if http2 {
            let (sender, connection) = http2::Builder::new(tasks.clone())
                .max_header_list_size(HEADERS)
                .handshake(io)
                .await?;
            (Sender::Two(sender), tokio::spawn(connection))
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            (Sender::One(sender), tokio::spawn(connection))
        };
        Ok(Self {
            sender,
            driver: Driver(driver),
            tasks,
            meter,
        })
    }

    /// Whether it is HTTP/2.
    pub(super) const fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Two(_))
    }

    /// Sends a question and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        question: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let answer = match &mut self.sender {
            Sender::One(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(question).await,
                Err(error) => Err(error),
            },
            Sender::Two(sender) => match sender.ready().await {
                Ok(()) => sender.send_request(question).await,
                Err(error) => Err(error),
            },
        };
        match answer {
            // That the connection is gone is not yet why: the driver knows.
            Err(error) if error.is_closed() || error.is_canceled() => {
                match (&mut self.driver.0).await {
                    Ok(Err(cause)) => Err(cause),
                    _ => Err(error),
                }
            }
            other => other,
        }
    }

    /// Ends it from our side, as in order; resolves when all is written and shut down. Dropped before, it ends at once.
    pub async fn close(self) -> io::Result<()> {
        let Self {
            sender,
            mut driver,
            tasks,
            ..
        } = self;
        drop(sender);
        let ended = if driver.0.is_finished() {
            Ok(())
        } else {
            match (&mut driver.0).await {
                Ok(ended) => ended.map_err(io::Error::other),
                Err(error) => Err(io::Error::other(error)),
            }
        };
        let mut rest = std::mem::take(&mut *tasks.0.lock().unwrap_or_else(PoisonError::into_inner));
        while rest.join_next().await.is_some() {}
        ended
    }
}

/// A question as a browser asks it.
pub(super) fn question(
    url: &Url,
    method: Method,
    version: HttpVersion,
    http2: bool,
    extra: &[(HeaderName, HeaderValue)],
) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let mut headers = HeaderMap::new();
    let authority = authority(url);
    let uri = if http2 {
        // Scheme and authority become pseudo-header fields (RFC 9113 section 8.3.1).
        Uri::builder()
            .scheme(url.scheme())
            .authority(authority)
            .path_and_query(path)
            .build()?
    } else {
        headers.insert(header::HOST, HeaderValue::try_from(authority)?);
        Uri::builder().path_and_query(path).build()?
    };
    let agent = concat!("netmoat-probe/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    // What is compressed is counted, not unpacked.
    let encodings = HeaderValue::from_static("gzip, deflate, br");
    headers.insert(header::ACCEPT_ENCODING, encodings);
    for (name, value) in extra {
        headers.insert(name, value.clone());
    }
    let version = match version {
        _ if http2 => Version::HTTP_2,
        HttpVersion::Http10 => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let mut question = Request::builder()
        .method(method)
        .uri(uri)
        .version(version)
        .body(Empty::new())?;
    *question.headers_mut() = headers;
    Ok(question)
}

/// Host, and the port where it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    url[Position::BeforeHost..Position::AfterPort].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(url: &str, http2: bool) -> Request<Empty<Bytes>> {
        let url = Url::parse(url).unwrap();
        question(&url, Method::GET, HttpVersion::Auto, http2, &[]).unwrap()
    }

    #[test]
    fn a_question_of_http_1_has_its_host_in_a_header() {
        let asked = asked("http://user:word@[2001:db8::1]:8080/a?b=c#d", false);
        assert_eq!(asked.headers()["host"], "[2001:db8::1]:8080");
        assert_eq!(asked.uri().to_string(), "/a?b=c");
    }

    #[test]
    fn a_question_of_http_2_has_its_host_in_its_uri() {
        let asked = asked("https://www.example.org:443/a?b", true);
        assert!(!asked.headers().contains_key("host"));
        assert_eq!(asked.uri().to_string(), "https://www.example.org/a?b");
        assert_eq!(asked.version(), Version::HTTP_2);
    }
}
