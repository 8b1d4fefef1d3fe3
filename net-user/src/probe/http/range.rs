//! Whether a part of the page is the part that was asked for (RFC 9110 section 14).

use hyper::{StatusCode, header};

use super::{facts::field, page::Page, text};
use crate::probe::{Finding, Outcome};

/// Holds an answer to `Range: bytes=0-last` to the whole page: what is to be said of a good one, or what is wrong.
pub(super) fn judge(page: &Page, part: &Page, last: u64) -> Result<&'static str, Finding> {
    let wrong = |code: &str, what: String, next: &str| {
        Err(Finding::new(code, Outcome::Wrong, what).next(next))
    };
    let headers = &part.head.headers;
    let offered = field(&page.head.headers, header::ACCEPT_RANGES);
    match part.head.status {
        StatusCode::PARTIAL_CONTENT => {}
        StatusCode::OK if offered.is_some_and(|units| units.eq_ignore_ascii_case("bytes")) => {
            return wrong(
                "http_range_ignored",
                "the page announces Accept-Ranges: bytes, and a part is answered with the whole"
                    .to_owned(),
                "look at the proxy or filter that drops Range, or let it drop Accept-Ranges too: downloads cannot be resumed",
            );
        }
        status if status == page.head.status => return Ok("not supported: the whole page came"),
        status => {
            let what = format!(
                "octets 0-{last} of a page of {} are answered {}",
                page.body.octets,
                status.as_u16()
            );
            return Err(Finding::new("http_range_refused", Outcome::Ok, what)
                .next("look at the server's settings for ranges: downloads cannot be resumed"));
        }
    }
    let next =
        "look which of server, proxy and cache makes the part: it gives others than asked for";
    let of = field(headers, header::CONTENT_RANGE).unwrap_or_default();
    let Some((from, to, whole)) = content_range(&of) else {
        let what = format!(
            "a part of the page comes with Content-Range {:?}",
            text(of.as_bytes())
        );
        return wrong("http_range_wrong", what, next);
    };
    let same = field(headers, header::ETAG) == field(&page.head.headers, header::ETAG);
    let changed = whole.is_some_and(|whole| whole != page.body.octets);
    if (from, to) != (0, last) || part.body.octets != last + 1 || (same && changed) {
        let what = format!(
            "octets 0-{last} of a page of {} were asked for; Content-Range is {}, and {} octets came",
            page.body.octets,
            text(of.as_bytes()),
            part.body.octets
        );
        return wrong("http_range_wrong", what, next);
    }
    // Only a strong validator says that the octets are the same (RFC 9110 section 8.8.1).
    let strong = field(headers, header::ETAG).is_some_and(|etag| !etag.starts_with("W/"));
    if same && strong && !page.body.start.starts_with(&part.body.start) {
        let what = format!("octets 0-{last} are others as a part than in the whole page");
        return wrong("http_range_wrong", what, next);
    }
    Ok("206: the part that was asked for")
}

/// `bytes FIRST-LAST/WHOLE`; the whole may be `*`.
fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, whole) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let whole = match whole {
        "*" => None,
        whole => Some(whole.parse().ok()?),
    };
    Some((first.parse().ok()?, last.parse().ok()?, whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_and_anything_else_refused() {
        assert_eq!(content_range("bytes 0-99/1234"), Some((0, 99, Some(1234))));
        assert_eq!(content_range("bytes 0-99/*"), Some((0, 99, None)));
        for bad in [
            "",
            "bytes",
            "bytes */12",
            "bytes 0-99",
            "octets 0-9/10",
            "bytes 0--1/3",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
