//! Where a redirect leads, and what is wrong with that (RFC 9110 section 15.4).

use hyper::{HeaderMap, StatusCode, header};
use url::Url;

use super::text;
use crate::probe::{Fetch, Finding, Layer, Outcome, Plan};

/// The longest URL that is followed, in octets: what browsers and servers of today take. It stands in the report several times.
const LONGEST: usize = 8192;

/// What is to be said of an answer, and where it leads if that is to be followed.
pub(super) fn step(
    plan: &Plan,
    url: &Url,
    status: StatusCode,
    headers: &HeaderMap,
    depth: u32,
) -> (Option<Url>, Vec<Finding>) {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
        || plan.expect == Some(status.as_u16())
    {
        return (None, Vec::new());
    }
    let failed = |code, what: String, next: &str| {
        let finding = Finding::new(code, Outcome::Failed, what).next(next);
        (None, vec![finding])
    };
    let Some(location) = headers.get(header::LOCATION) else {
        return failed(
            "http_redirect_no_location",
            format!(
                "status {} without Location: browsers go no further",
                status.as_u16()
            ),
            "look at the rule of the server or the application that makes this redirect",
        );
    };
    let shown = text(location.as_bytes());
    let to = str::from_utf8(location.as_bytes()).ok();
    let mut to = to.and_then(|to| url.join(to).ok());
    // Never sent, and nobody's to see; a URL of the web can always be without.
    if let Some(to) = &mut to {
        let _ = to.set_username("");
        let _ = to.set_password(None);
    }
    let Some(to) = to.filter(|to| to.as_str().len() <= LONGEST) else {
        return failed(
            "http_redirect_bad_location",
            format!("the redirect leads to {shown}, which is no URL of at most {LONGEST} octets"),
            "look at the rule of the server or the application that makes this redirect",
        );
    };
    if !matches!(to.scheme(), "http" | "https") {
        return failed(
            "http_redirect_elsewhere",
            format!("the redirect leads to {shown}, which is not on the web"),
            "look at the rule of the server or the application that makes this redirect",
        );
    }
    let mut findings = Vec::new();
    let shown = text(to.as_str().as_bytes());
    match (url.scheme(), to.scheme()) {
        ("https", "http") => findings.push(
            Finding::new(
                "http_redirect_downgrade",
                Outcome::Wrong,
                format!("the redirect leads from https to http: {shown}"),
            )
            .next("let it lead to https; behind a proxy that does TLS, let the application know (X-Forwarded-Proto)"),
        ),
        ("http", "https") => findings.push(Finding::new(
            "http_redirect_to_https",
            Outcome::Ok,
            "http leads to https, as it should",
        )),
        _ => {}
    }
    if plan.redirects == 0 {
        findings.push(Finding::new(
            "http_redirect_not_followed",
            Outcome::Ok,
            format!("the redirect to {shown} is not followed (--redirects 0)"),
        ));
        return (None, findings);
    }
    if depth >= plan.redirects {
        findings.push(
            Finding::new(
                "http_redirect_too_many",
                Outcome::Failed,
                format!(
                    "{} redirects were followed, and the next one leads to {shown}",
                    plan.redirects
                ),
            )
            .next("look where each leads; browsers give up after 20 (--redirects N follows more)"),
        );
        return (None, findings);
    }
    (Some(to), findings)
}

/// Whether `next` was asked for before. Says so in the last HTTP stage.
pub(in crate::probe) fn looped(fetches: &mut [Fetch], next: &Url) -> bool {
    let bare = |url: &Url| {
        let mut url = url.clone();
        url.set_fragment(None);
        url
    };
    let Some(first) = fetches.iter().position(|f| bare(&f.url) == bare(next)) else {
        return false;
    };
    let steps = fetches.len() - first;
    let stages = fetches.last_mut().into_iter().flat_map(|f| &mut f.stages);
    for stage in stages.filter(|stage| stage.layer == Layer::Http) {
        let cookie = match &stage.facts {
            crate::probe::Facts::Http(facts) => facts.sets_cookie,
            _ => false,
        };
        let what = format!(
            "the redirects go round in a circle: {next} was asked for {steps} step{} before",
            if steps == 1 { "" } else { "s" }
        );
        // A browser brings the cookie, and may get further.
        let finding = if cookie {
            Finding::new("http_redirect_wants_cookie", Outcome::Wrong, what + ", now with a cookie that probes do not keep")
                .next("probe a page that needs no cookie; clients without cookies (search engines, monitors) get nothing here")
        } else {
            Finding::new("http_redirect_loop", Outcome::Failed, what).next(
                "behind a proxy that does TLS, let the application know that https was used (X-Forwarded-Proto); else look \
                 at the rules that send www and the bare name to one another",
            )
        };
        stage.outcome = stage.outcome.max(finding.outcome);
        stage.findings.insert(0, finding);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(
        url: &str,
        location: Option<&'static str>,
        plan: &Plan,
        depth: u32,
    ) -> (Option<String>, Vec<String>) {
        let mut headers = HeaderMap::new();
        if let Some(location) = location {
            headers.insert(header::LOCATION, header::HeaderValue::from_static(location));
        }
        let url = Url::parse(url).unwrap();
        let (next, findings) = step(plan, &url, StatusCode::FOUND, &headers, depth);
        let codes = findings.into_iter().map(|finding| finding.code);
        (next.map(String::from), codes.collect())
    }

    fn plan() -> Plan {
        Plan::new(Url::parse("http://a.example/").unwrap())
    }

    #[test]
    fn relative_locations_are_followed() {
        let (next, codes) = at("http://a.example/x/y?z", Some("../w"), &plan(), 0);
        assert_eq!(next.as_deref(), Some("http://a.example/w"));
        assert_eq!(codes, Vec::<String>::new());
    }

    #[test]
    fn the_way_to_https_is_good_and_the_way_back_is_not() {
        let (next, codes) = at("http://a.example/", Some("https://a.example/"), &plan(), 0);
        assert_eq!(
            (next.is_some(), codes),
            (true, vec!["http_redirect_to_https".to_owned()])
        );
        let (next, codes) = at("https://a.example/", Some("http://a.example/"), &plan(), 0);
        assert_eq!(
            (next.is_some(), codes),
            (true, vec!["http_redirect_downgrade".to_owned()])
        );
    }

    #[test]
    fn redirects_that_lead_nowhere_are_told_apart() {
        let code = |location| {
            let (next, codes) = at("http://a.example/", location, &plan(), 0);
            assert_eq!(next, None);
            codes.concat()
        };
        assert_eq!(code(None), "http_redirect_no_location");
        assert_eq!(code(Some("http://[")), "http_redirect_bad_location");
        let long: &'static str = Box::leak(format!("/{}", "\"".repeat(LONGEST / 3)).into());
        assert_eq!(code(Some(long)), "http_redirect_bad_location");
        assert_eq!(code(Some("javascript:alert(1)")), "http_redirect_elsewhere");
    }

    #[test]
    fn only_so_many_are_followed() {
        let (next, codes) = at("http://a.example/", Some("/b"), &plan(), 10);
        assert_eq!(
            (next, codes),
            (None, vec!["http_redirect_too_many".to_owned()])
        );
        let none = Plan {
            redirects: 0,
            ..plan()
        };
        let (next, codes) = at("http://a.example/", Some("/b"), &none, 0);
        assert_eq!(
            (next, codes),
            (None, vec!["http_redirect_not_followed".to_owned()])
        );
        let expected = Plan {
            expect: Some(302),
            ..plan()
        };
        assert_eq!(
            at("http://a.example/", Some("/b"), &expected, 0),
            (None, vec![])
        );
    }
}
