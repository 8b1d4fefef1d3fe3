//! What an answer tells caches (RFC 9111), and where it contradicts itself.

use hyper::{HeaderMap, header};
use serde::{Deserialize, Serialize};

use super::{facts::field, text};
use crate::probe::{Finding, Lines, Outcome};

/// What an answer tells caches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Caching {
    /// Cache-Control; several fields joined by a comma.
    pub cache_control: Option<String>,
    /// Expires.
    pub expires: Option<String>,
    /// For how long it lay in caches on the way (Age), in seconds.
    pub age_s: Option<u64>,
    /// What a cache did (Cache-Status, RFC 9211; or X-Cache).
    pub cache_status: Option<String>,
    /// Which request headers change the answer (Vary).
    pub vary: Option<String>,
    /// ETag.
    pub etag: Option<String>,
    /// Last-Modified.
    pub last_modified: Option<String>,
}

impl Caching {
    /// From a header.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let joined = |name| {
            let values = headers
                .get_all(name)
                .iter()
                .map(|v| super::raw(v.as_bytes()));
            let values: Vec<_> = values.take(8).collect();
            (!values.is_empty()).then(|| values.join(", "))
        };
        Self {
            cache_control: joined(header::CACHE_CONTROL),
            expires: field(headers, header::EXPIRES),
            age_s: field(headers, header::AGE).and_then(|value| value.parse().ok()),
            cache_status: field(headers, header::HeaderName::from_static("cache-status"))
                .or_else(|| field(headers, header::HeaderName::from_static("x-cache"))),
            vary: joined(header::VARY),
            etag: field(headers, header::ETAG),
            last_modified: field(headers, header::LAST_MODIFIED),
        }
    }

    /// A directive's value; empty for one without. The last one of its name.
    fn directive(&self, name: &str) -> Option<String> {
        let directives = self.cache_control.as_deref().unwrap_or("").split(',');
        directives
            .filter_map(|directive| {
                let (key, value) = directive.split_once('=').unwrap_or((directive, ""));
                (key.trim().eq_ignore_ascii_case(name))
                    .then(|| value.trim().trim_matches('"').to_owned())
            })
            .next_back()
    }

    fn seconds(&self, name: &str) -> Option<u64> {
        self.directive(name)?.parse().ok()
    }

    /// What is worth saying. `compressed`: the body is.
    pub(super) fn findings(&self, compressed: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        let fresh = self.seconds("s-maxage").or_else(|| self.seconds("max-age"));
        let has = |name| self.directive(name).is_some();
        let contradiction = if has("no-store") && (fresh.is_some_and(|s| s > 0) || has("immutable"))
        {
            Some("no-store forbids what the rest of it allows")
        } else if has("public") && (has("private") || has("no-store")) {
            Some("it is public and not public at once")
        } else {
            None
        };
        if let (Some(why), Some(control)) = (contradiction, &self.cache_control) {
            findings.push(
                Finding::new(
                    "http_cache_control_contradicts",
                    Outcome::Wrong,
                    format!("Cache-Control {} contradicts itself: {why}", text(control.as_bytes())),
                )
                .next("look which of application, server and proxy adds which directive: caches take the strictest"),
            );
        }
        if let (Some(age), Some(fresh)) = (self.age_s, fresh) {
            let stale = self.seconds("stale-while-revalidate").unwrap_or(0);
            if age > fresh.saturating_add(stale) {
                findings.push(
                    Finding::new(
                        // Shared caches may go by times that they do not pass on (Surrogate-Control, CDN-Cache-Control).
                        "http_stale",
                        Outcome::Ok,
                        format!(
                            "a cache gave an answer of {age} s of age that is good for {fresh} s"
                        ),
                    )
                    .next("look whether the cache reaches the server behind it"),
                );
            }
        }
        let kept = !has("no-store") && !has("private");
        let varies = self.vary.as_deref().unwrap_or("").to_ascii_lowercase();
        if compressed && kept && !varies.contains("accept-encoding") && varies.trim() != "*" {
            findings.push(
                Finding::new(
                    "http_vary_missing",
                    Outcome::Ok,
                    "the body is compressed, and Vary does not name Accept-Encoding",
                )
                .next("add it (in nginx gzip_vary on): caches may give it to clients that cannot unpack it"),
            );
        }
        if let Some(etag) = self.etag.as_deref().filter(|etag| !is_etag(etag)) {
            findings.push(
                Finding::new(
                    "http_etag_malformed",
                    Outcome::Ok,
                    format!("ETag {} is not in quotes", text(etag.as_bytes())),
                )
                .next("RFC 9110 section 8.8.3 has its form; caches may not take it"),
            );
        }
        findings
    }

    /// For people.
    pub(super) fn lines(&self) -> Lines {
        let age = self.age_s.map(|age| format!("{age} s"));
        let fields = [
            ("cache-control", &self.cache_control),
            ("expires", &self.expires),
            ("age", &age),
            ("cache", &self.cache_status),
            ("vary", &self.vary),
            ("etag", &self.etag),
            ("last modified", &self.last_modified),
        ];
        let line = |(label, value): (&str, &Option<String>)| {
            let value = value.as_ref()?;
            Some((label.to_owned(), text(value.as_bytes())))
        };
        fields.into_iter().filter_map(line).collect()
    }
}

fn is_etag(etag: &str) -> bool {
    let opaque = etag.strip_prefix("W/").unwrap_or(etag);
    opaque.len() >= 2 && opaque.starts_with('"') && opaque.ends_with('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(fields: &[(&'static str, &'static str)], compressed: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for &(name, value) in fields {
            headers.append(name, header::HeaderValue::from_static(value));
        }
        let findings = Caching::of(&headers).findings(compressed);
        findings.into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn sound_directives_are_not_remarked_on() {
        let none = Vec::<String>::new();
        assert_eq!(
            codes(&[("cache-control", "public, max-age=60")], false),
            none
        );
        assert_eq!(
            codes(&[("cache-control", "no-store, max-age=0")], false),
            none
        );
        assert_eq!(
            codes(&[("cache-control", "max-age=60"), ("age", "59")], false),
            none
        );
        assert_eq!(codes(&[("vary", "Origin, Accept-Encoding")], true), none);
        assert_eq!(codes(&[("etag", "W/\"a\"")], false), none);
    }

    #[test]
    fn contradictions_are_found_over_several_fields() {
        let control = "http_cache_control_contradicts";
        let two = [("cache-control", "Public"), ("cache-control", "PRIVATE")];
        assert_eq!(codes(&two, false), [control]);
        assert_eq!(
            codes(&[("cache-control", "no-store, max-age=\"60\"")], false),
            [control]
        );
    }

    #[test]
    fn an_answer_older_than_it_may_be_is_stale() {
        assert_eq!(
            codes(&[("cache-control", "max-age=60"), ("age", "61")], false),
            ["http_stale"]
        );
        let allowed = [
            ("cache-control", "max-age=60, stale-while-revalidate=5"),
            ("age", "61"),
        ];
        assert_eq!(codes(&allowed, false), Vec::<String>::new());
        let shared = [("cache-control", "max-age=60, s-maxage=600"), ("age", "61")];
        assert_eq!(codes(&shared, false), Vec::<String>::new());
    }

    #[test]
    fn compression_without_vary_and_a_bare_etag_are_found() {
        assert_eq!(codes(&[], true), ["http_vary_missing"]);
        assert_eq!(codes(&[("etag", "abc")], false), ["http_etag_malformed"]);
    }
}
