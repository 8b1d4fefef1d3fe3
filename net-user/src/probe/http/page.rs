//! One question and its answer to the last octet, or to where it broke.

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::{
    Method,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    http::response::Parts,
};
use tokio::time::timeout_at;
use url::Url;

use super::open::{Open, Unanswered, question};
use crate::probe::{HttpVersion, meter::Marks};

/// The first octets of a body that are kept, to hold others to them.
const START: usize = 1024;
/// A body of which something came so shortly before the time was over was still under way.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// An answer.
pub(super) struct Page {
    /// Status, version, headers.
    pub(super) head: Parts,
    /// From the question to the first octet of its answer.
    pub(super) first_byte: Duration,
    /// The rest.
    pub(super) body: Body,
    /// What went over the connection for it.
    pub(super) marks: Marks,
}

/// A body, counted and thrown away.
pub(super) struct Body {
    /// Its length, as far as it came.
    pub(super) octets: u64,
    /// Its first octets.
    pub(super) start: Vec<u8>,
    /// How it ended.
    pub(super) end: End,
}

/// How a body ended.
pub(super) enum End {
    /// Whole.
    Whole,
    /// More than was wanted.
    Bounded,
    /// Time was over while it still came.
    UnderWay,
    /// Time was over, and nothing had come for this long.
    Stalled(Duration),
    /// The connection, or what came over it, broke.
    Broken(hyper::Error),
}

/// Why there is no answer at all.
pub(super) enum NoPage {
    /// Time was over.
    Late,
    /// Something broke.
    Broken(Unanswered),
}

/// What is asked.
pub(super) struct Question<'a> {
    pub(super) url: &'a Url,
    pub(super) method: Method,
    pub(super) version: HttpVersion,
    pub(super) extra: &'a [(HeaderName, HeaderValue)],
    /// So many octets of a body are read at most.
    pub(super) most: u64,
    /// Until when.
    pub(super) deadline: Instant,
}

/// Asks, and reads the answer. The connection is of use afterwards if the body came whole.
pub(super) async fn ask(open: &mut Open, asked: &Question<'_>) -> Result<Page, NoPage> {
    let http2 = open.is_http2();
    let question = question(
        asked.url,
        asked.method.clone(),
        asked.version,
        http2,
        asked.extra,
    )
    .map_err(|error| NoPage::Broken(error.into()))?;
    let deadline = asked.deadline.into();
    let start = Instant::now();
    let answer = timeout_at(deadline, open.send(question)).await;
    let answer = answer
        .map_err(|_| NoPage::Late)?
        .map_err(|error| NoPage::Broken(error.into()))?;
    let mut first_byte = start.elapsed();
    // Below HTTP/2 also comes what is no answer: settings, window updates.
    if let (false, Some(first)) = (http2, open.meter.marks().first_in) {
        first_byte = first.saturating_duration_since(start);
    }
    let (head, body) = answer.into_parts();
    let body = read(body, asked.most, asked.deadline).await;
    Ok(Page {
        head,
        first_byte,
        body,
        marks: open.meter.marks(),
    })
}

async fn read(mut body: Incoming, most: u64, deadline: Instant) -> Body {
    let mut read = Body {
        octets: 0,
        start: Vec::new(),
        end: End::Whole,
    };
    let mut last = Instant::now();
    loop {
        let data = match timeout_at(deadline.into(), body.frame()).await {
            Ok(None) => return read,
            Ok(Some(Ok(frame))) => frame.into_data(),
            Ok(Some(Err(error))) => {
                read.end = End::Broken(error);
                return read;
            }
            Err(_) => {
                let silent = last.elapsed();
                read.end = if silent < UNDER_WAY && read.octets > 0 {
                    End::UnderWay
                } else {
                    End::Stalled(silent)
                };
                return read;
            }
        };
        // Trailers are no part of the page.
        if let Ok(data) = data {
            last = Instant::now();
            read.octets += data.len() as u64;
            let room = START.saturating_sub(read.start.len()).min(data.len());
            read.start.extend_from_slice(&data[..room]);
            if read.octets > most {
                read.end = End::Bounded;
                return read;
            }
        }
    }
}
