//! Whether a connection is of use after an answer.

use hyper::{HeaderMap, Version, header};

/// Whether the server ends the connection after this answer (RFC 9112 section 9.3).
pub(super) fn closes(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &str| {
        let values = headers.get_all(header::CONNECTION).iter();
        let mut words = values.flat_map(|value| value.to_str().unwrap_or("").split(','));
        words.any(|option| option.trim().eq_ignore_ascii_case(word))
    };
    match version {
        Version::HTTP_2 => false,
        Version::HTTP_10 => !says("keep-alive"),
        _ => says("close"),
    }
}

/// Whether the end of the connection is the end of the body: nothing else tells its length (RFC 9112 section 6.3).
pub(super) fn ends_with_connection(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn the_end_of_a_connection_is_announced_as_each_version_does() {
        let with = |version, connection: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            closes(version, &headers)
        };
        assert!(with(Version::HTTP_11, "upgrade, Close"));
        assert!(!with(Version::HTTP_11, "keep-alive"));
        assert!(!closes(Version::HTTP_11, &HeaderMap::new()));
        assert!(closes(Version::HTTP_10, &HeaderMap::new()));
        assert!(!with(Version::HTTP_10, "Keep-Alive"));
        assert!(!closes(Version::HTTP_2, &HeaderMap::new()));
    }

    #[test]
    fn a_body_that_only_the_end_delimits_announces_it() {
        let mut headers = HeaderMap::new();
        assert!(ends_with_connection(&headers));
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
        assert!(!ends_with_connection(&headers));
    }
}
