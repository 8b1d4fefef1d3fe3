//! What a status means, and what an operator looks at next (RFC 9110 section 15; 52x are of large content networks).

use hyper::StatusCode;

use crate::probe::{
    Finding,
    Outcome::{self, Failed, Wrong},
};

/// A status that is not as it should be.
struct Known {
    status: u16,
    code: &'static str,
    outcome: Outcome,
    meaning: &'static str,
    next: &'static str,
}

const fn known(
    status: u16,
    code: &'static str,
    outcome: Outcome,
    meaning: &'static str,
    next: &'static str,
) -> Known {
    Known {
        status,
        code,
        outcome,
        meaning,
        next,
    }
}

const KNOWN: &[Known] = &[
    known(
        304,
        "http_not_modified_unasked",
        Failed,
        "not modified, though nobody has an older one",
        "look for a cache on the way that mixes clients up",
    ),
    known(
        400,
        "http_bad_request",
        Wrong,
        "the server does not understand the request",
        "a proxy on the way may damage it, or this port wants HTTPS",
    ),
    known(
        401,
        "http_unauthorized",
        Wrong,
        "who asks must prove who they are",
        "expected of a protected page (then --expect 401); else look at the access rules",
    ),
    known(
        403,
        "http_forbidden",
        Wrong,
        "the server refuses this page to this client",
        "look at the access rules, a web application firewall, file modes, a missing index page",
    ),
    known(
        404,
        "http_not_found",
        Wrong,
        "there is no such page",
        "correct the URL, or look whether this host name is served from the right directory or upstream",
    ),
    known(
        405,
        "http_method_not_allowed",
        Wrong,
        "this page cannot be fetched with GET",
        "probe a page that users fetch",
    ),
    known(
        406,
        "http_not_acceptable",
        Wrong,
        "the server has no form of the page that browsers take",
        "look at the negotiation of language and type of the server",
    ),
    known(
        407,
        "http_proxy_authentication",
        Wrong,
        "a proxy on the way wants to know who asks",
        "look for a proxy between here and the server",
    ),
    known(
        408,
        "http_request_timeout",
        Wrong,
        "the server did not get the whole request in its time",
        "packets to the server are lost, or its limits against slow clients are too tight",
    ),
    known(
        410,
        "http_gone",
        Wrong,
        "the page was removed for good",
        "correct the URL",
    ),
    known(
        421,
        "http_misdirected",
        Wrong,
        "this server does not answer for that host name on this connection",
        "compare the name in the certificate (SNI) with the host names that the server knows",
    ),
    known(
        425,
        "http_too_early",
        Wrong,
        "the server does not take this in early data of TLS",
        "browsers ask again; look at the 0-RTT settings",
    ),
    known(
        426,
        "http_upgrade_required",
        Wrong,
        "the server wants another protocol",
        "ask with --http 2, or look at what the server wants in its Upgrade header",
    ),
    known(
        429,
        "http_too_many_requests",
        Wrong,
        "the server limits this client's requests",
        "look at the rate limits of server, proxy and content network: honest users behind one address share them",
    ),
    known(
        431,
        "http_request_header_too_large",
        Wrong,
        "the request's header is too large for the server",
        "look at its limits: a browser with cookies sends more than the probe",
    ),
    known(
        451,
        "http_legal",
        Wrong,
        "the page is withheld for legal reasons",
        "ask who runs the service",
    ),
    known(
        500,
        "http_internal_error",
        Failed,
        "the application failed",
        "look at the application's error log at this time",
    ),
    known(
        501,
        "http_not_implemented",
        Failed,
        "the server cannot do what was asked",
        "look what listens there: a server knows GET",
    ),
    known(
        502,
        "http_bad_gateway",
        Failed,
        "the proxy had no valid answer from its upstream",
        "the web server works, what is behind it does not: look whether the upstream runs and listens where the proxy \
         asks, and at the proxy's error log (in nginx: \"connect() failed\", \"prematurely closed\", \"invalid header\")",
    ),
    known(
        503,
        "http_unavailable",
        Failed,
        "the service does not take requests now",
        "overload, maintenance, or no healthy upstream: look at the limits (workers, connections, rate) and the health \
         checks of whoever answered",
    ),
    known(
        504,
        "http_gateway_timeout",
        Failed,
        "the proxy's upstream did not answer in time",
        "the web server works, what is behind it hangs: look at the upstream's load, its database, packet loss between \
         the two, and the proxy's time-out (in nginx proxy_read_timeout)",
    ),
    known(
        505,
        "http_version_refused",
        Failed,
        "the server does not speak this version of HTTP",
        "ask with another --http",
    ),
    known(
        507,
        "http_storage_full",
        Failed,
        "the server has no room left",
        "look at the disks of the server",
    ),
    known(
        508,
        "http_server_loop",
        Failed,
        "the server goes round in a circle",
        "look at links and rewrites that lead to themselves",
    ),
    known(
        509,
        "http_bandwidth_exceeded",
        Failed,
        "the host's traffic is used up",
        "ask the hosting provider",
    ),
    known(
        511,
        "http_captive_portal",
        Failed,
        "the network wants a login before it lets requests out",
        "log in, or probe from another network",
    ),
    known(
        520,
        "http_origin_error",
        Failed,
        "the content network had an answer from the origin that it does not understand",
        "probe the origin itself with --resolve",
    ),
    known(
        521,
        "http_origin_down",
        Failed,
        "the origin refuses the content network's connections",
        "look whether the origin runs and lets the content network's addresses in; probe it with --resolve",
    ),
    known(
        522,
        "http_origin_timeout",
        Failed,
        "the content network's connection to the origin was not established in time",
        "look at the origin's firewall and queues; probe it with --resolve",
    ),
    known(
        523,
        "http_origin_unreachable",
        Failed,
        "the content network finds no way to the origin",
        "look at the origin's address in the content network's settings",
    ),
    known(
        524,
        "http_origin_slow",
        Failed,
        "the origin took the connection and did not answer in time",
        "look at the origin's load; probe it with --resolve",
    ),
    known(
        525,
        "http_origin_tls",
        Failed,
        "TLS between content network and origin failed",
        "probe the origin itself with --resolve",
    ),
    known(
        526,
        "http_origin_certificate",
        Failed,
        "the origin's certificate does not satisfy the content network",
        "probe the origin itself with --resolve",
    ),
];

/// A status with its name, such as `404 Not Found`.
pub(super) fn named(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// What a status means to the user, if it is not simply good. `by`: who answered, for the sentence; already escaped.
pub(super) fn judge(status: StatusCode, expect: Option<u16>, by: &str) -> Option<Finding> {
    let number = status.as_u16();
    match expect {
        Some(wanted) if wanted == number => return None,
        Some(wanted) if number < 400 => {
            let what = format!("status {} where {wanted} is expected", named(status));
            return Some(
                Finding::new("http_unexpected_status", Wrong, what)
                    .next("look at what changed on the server, or correct --expect"),
            );
        }
        _ => {}
    }
    let found = KNOWN.iter().find(|known| known.status == number);
    let (code, outcome, meaning, next) = match (found, number) {
        (Some(known), _) => (known.code, known.outcome, known.meaning, known.next),
        (None, 200..400) => return None,
        (None, ..200) => (
            "http_informational",
            Failed,
            "an interim answer that nobody asked for, in place of the page",
            "look what answers there",
        ),
        (None, 400..500) => (
            "http_client_error",
            Wrong,
            "the server refuses the request",
            "look at the server's log",
        ),
        _ => (
            "http_server_error",
            Failed,
            "the server failed",
            "look at the server's error log at this time",
        ),
    };
    let what = format!("{}{by}: {meaning}", named(status));
    Some(Finding::new(code, outcome, what).next(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, expect: Option<u16>) -> Option<(String, Outcome)> {
        judge(StatusCode::from_u16(status).unwrap(), expect, "")
            .map(|finding| (finding.code, finding.outcome))
    }

    #[test]
    fn every_status_has_its_own_code() {
        let mut codes: Vec<_> = KNOWN.iter().map(|known| known.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KNOWN.len());
    }

    #[test]
    fn what_a_proxy_lacks_is_told_apart() {
        let code = |status| of(status, None).unwrap();
        assert_eq!(code(502), ("http_bad_gateway".to_owned(), Failed));
        assert_eq!(code(503), ("http_unavailable".to_owned(), Failed));
        assert_eq!(code(504), ("http_gateway_timeout".to_owned(), Failed));
        assert_eq!(code(599), ("http_server_error".to_owned(), Failed));
        assert_eq!(code(404), ("http_not_found".to_owned(), Wrong));
        assert_eq!(code(418), ("http_client_error".to_owned(), Wrong));
    }

    #[test]
    fn what_is_expected_is_right() {
        assert_eq!(of(200, None), None);
        assert_eq!(of(301, None), None);
        assert_eq!(of(404, Some(404)), None);
        assert_eq!(of(503, Some(503)), None);
        let unexpected = Some(("http_unexpected_status".to_owned(), Wrong));
        assert_eq!(of(200, Some(204)), unexpected);
        // Why it is not as expected is known better.
        assert_eq!(of(502, Some(200)).unwrap().0, "http_bad_gateway");
    }
}
