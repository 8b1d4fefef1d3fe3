//! Whether HEAD is answered as GET is.

use hyper::header;

use super::{page::Page, text};
use crate::probe::Outcome;

/// Where the answers to HEAD and GET disagree, if they do (RFC 9110 section 9.3.2), and how bad that is: a page without
/// validators may have changed between the two.
pub(super) fn differences(page: &Page, head: &Page) -> Option<(String, Outcome)> {
    let [get, head] = [page, head].map(|page| &page.head.headers);
    let validators = [header::ETAG, header::LAST_MODIFIED];
    let changed = validators.iter().any(|v| get.get(v) != head.get(v));
    let proven = validators.iter().any(|v| get.contains_key(v));
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        if let (Some(one), Some(other)) = (get.get(&name), head.get(&name))
            && one != other
            && !changed
        {
            let [one, other] = [one, other].map(|value| text(value.as_bytes()));
            let outcome = match proven || name == header::CONTENT_TYPE {
                true => Outcome::Wrong,
                false => Outcome::Ok,
            };
            return Some((format!("{name} is {other}, and {one} with GET"), outcome));
        }
    }
    None
}
