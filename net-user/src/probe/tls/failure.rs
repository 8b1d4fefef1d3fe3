//! Why a handshake did not come to its end: one cause a code.

use std::{io, time::Duration};

use rustls::{AlertDescription as Alert, Error, PeerIncompatible};

use crate::probe::{Finding, Outcome, meter::Marks};

/// What is known besides the error.
pub(super) struct Circumstances<'a> {
    /// What the server had sent.
    pub came: Marks,
    /// Whether it had asked for a client's certificate.
    pub asked: bool,
    /// The name that was sent (SNI); none for an address.
    pub sni: Option<&'a str>,
    /// The protocols that were offered (ALPN).
    pub offered: &'a [String],
}

fn failed(code: &str, what: impl Into<String>, next: &str) -> Finding {
    Finding::new(code, Outcome::Failed, what).next(next)
}

/// No end in time.
pub(super) fn timeout(after: Duration, known: &Circumstances<'_>) -> Finding {
    let seconds = after.as_secs_f64();
    let octets = known.came.octets_in;
    if octets == 0 {
        return failed(
            "tls_timeout",
            format!(
                "the server took the connection, but did not answer the ClientHello within {seconds} s"
            ),
            "look whether its process still runs and accepts (ss -ltn: Recv-Q), and whether this port is one for TLS",
        );
    }
    failed(
        "tls_timeout",
        format!("the handshake did not end within {seconds} s; {octets} octets had come"),
        "look for a path that loses large packets (path MTU), and at the server's load",
    )
}

/// From the error that ended the handshake.
pub(super) fn finding(error: &io::Error, known: &Circumstances<'_>) -> Finding {
    let octets = known.came.octets_in;
    if octets > 0 && !is_tls(&known.came.head) {
        return not_spoken(&known.came.head);
    }
    if let Some(error) = of_rustls(error) {
        return spoken(error, known);
    }
    let when = match octets {
        0 => "before it answered the ClientHello".to_owned(),
        octets => format!("in the handshake, after {octets} octets"),
    };
    match error.kind() {
        io::ErrorKind::UnexpectedEof => failed(
            "tls_closed",
            format!("the server closed the connection {when}"),
            "look at the server's error log, and whether something before it (proxy, filter by name) closes connections",
        ),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => failed(
            "tls_reset",
            format!("the server reset the connection {when}"),
            "look at the server's error log, and for a filter on the way that ends connections by the name in them",
        ),
        _ => failed(
            "tls_failed",
            format!("the handshake ended: {}", error.to_string().escape_debug()),
            "look at the server's error log",
        ),
    }
}

/// The error of rustls in one of tokio-rustls.
fn of_rustls(error: &io::Error) -> Option<&Error> {
    let inner = error.get_ref()?;
    inner
        .downcast_ref()
        .or_else(|| inner.source()?.downcast_ref())
}

/// Whether a record of TLS begins so (RFC 8446 section 5.1): its type, then version 3.x.
fn is_tls(first: &[u8]) -> bool {
    match first {
        [kind] => (20..=24).contains(kind),
        [kind, 3, ..] => (20..=24).contains(kind),
        _ => false,
    }
}

fn not_spoken(first: &[u8]) -> Finding {
    let text: String = String::from_utf8_lossy(first).chars().take(32).collect();
    let begins = |word: &str| first.starts_with(word.as_bytes());
    let other = if begins("HTTP/") || begins("<") {
        "plain HTTP"
    } else if begins("SSH-") {
        "SSH"
    } else if begins("220") {
        "SMTP or FTP"
    } else {
        "something else"
    };
    failed(
        "tls_not_spoken",
        format!(
            "the server speaks {other} on this port, not TLS: its answer begins \"{}\"",
            text.escape_debug()
        ),
        "write http:// if that is meant; otherwise make the server speak TLS on this port (nginx: listen … ssl)",
    )
}

/// The server speaks TLS, but.
fn spoken(error: &Error, known: &Circumstances<'_>) -> Finding {
    match error {
        Error::AlertReceived(alert) => told(*alert, known),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => mismatch("the server chose a version older than TLS 1.2"),
        Error::PeerIncompatible(what) => {
            mismatch(&format!("the server's TLS lacks what is needed: {what:?}"))
        }
        Error::NoApplicationProtocol => alpn_refused(known.offered),
        other => failed(
            "tls_garbled",
            format!(
                "the server's answer is not as TLS wants it: {}",
                other.to_string().escape_debug()
            ),
            "look for something on the way that changes octets, and at the version of the server's TLS library",
        ),
    }
}

/// By an alert (RFC 8446 section 6.2).
fn told(alert: Alert, known: &Circumstances<'_>) -> Finding {
    let asked = known.asked;
    match alert {
        Alert::CertificateRequired => client_certificate(),
        // Before TLS 1.3 there was no alert of its own for it (RFC 5246 section 7.4.6).
        Alert::HandshakeFailure | Alert::BadCertificate | Alert::NoCertificate if asked => {
            client_certificate()
        }
        Alert::ProtocolVersion => {
            mismatch("the server refuses TLS 1.2 and 1.3 (alert protocol_version)")
        }
        Alert::HandshakeFailure | Alert::InsufficientSecurity => mismatch(
            "the server found no cipher, group or signature that both know (alert handshake_failure)",
        ),
        Alert::NoApplicationProtocol => alpn_refused(known.offered),
        Alert::UnrecognisedName => {
            let name = known.sni.unwrap_or("no name");
            failed(
                "tls_name_unknown",
                format!(
                    "the server knows no site of that name (alert unrecognized_name; asked for {})",
                    name.escape_debug()
                ),
                "look whether the site's configuration is loaded on this server, and whether the name leads to the right one",
            )
        }
        other => failed(
            "tls_alert",
            format!("the server ended the handshake with alert {other:?}"),
            "look at the server's error log",
        ),
    }
}

fn mismatch(what: &str) -> Finding {
    failed(
        "tls_protocol_mismatch",
        what,
        "let the server speak TLS 1.2 or 1.3 with current ciphers (nginx: ssl_protocols, ssl_ciphers; RFC 9325)",
    )
}

fn client_certificate() -> Finding {
    failed(
        "tls_client_certificate_required",
        "the server lets in only clients that show a certificate of their own",
        "probe a site that does not ask for one, or make it optional there (nginx: ssl_verify_client optional)",
    )
}

/// None of the protocols suits the server, or not the one that was wanted.
pub(super) fn alpn_refused(offered: &[String]) -> Finding {
    failed(
        "tls_alpn_refused",
        format!(
            "the server speaks none of what was offered in ALPN ({})",
            offered.join(", ")
        ),
        "offer what it speaks (--http 1.1), or switch it on there (nginx: http2)",
    )
}
