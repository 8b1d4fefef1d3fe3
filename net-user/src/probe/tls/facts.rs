//! What is told of a TLS handshake.

use serde::{Deserialize, Serialize};

use super::{chain::CertificateFacts, staple::StapleFacts};
use crate::probe::Lines;

/// The details of a TLS handshake.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TlsFacts {
    /// The name that was sent (SNI; RFC 6066 section 3); null for an address, which has none.
    pub sni: Option<String>,
    /// The version agreed on.
    pub version: Option<String>,
    /// The cipher suite, by its IANA name.
    pub cipher: Option<String>,
    /// The group of the key exchange.
    pub group: Option<String>,
    /// The protocols that were offered in ALPN (RFC 7301), the best first.
    pub alpn_offered: Vec<String>,
    /// What ALPN agreed on; null when the server does not know ALPN.
    pub alpn: Option<String>,
    /// The handshake: `full`, `full_after_retry` (the server wanted another group first) or `resumed`.
    pub handshake: Option<String>,
    /// How many round trips it took.
    pub round_trips: Option<u32>,
    /// From the ClientHello to the first octet of the answer, in microseconds.
    pub first_answer_us: Option<u64>,
    /// The roots that the chain was held to.
    pub roots: String,
    /// Whether the chain leads to one of the roots, is valid now and for this name; null when no certificate came.
    pub verified: Option<bool>,
    /// The certificates as they came, the server's own first; at most 10.
    pub chain: Vec<CertificateFacts>,
    /// The OCSP answer that the server sent along (RFC 6066 section 8).
    pub staple: Option<StapleFacts>,
    /// Whether the server asked for a certificate of ours.
    pub client_certificate_asked: bool,
    /// How a second handshake went; null when none was tried.
    pub resumption: Option<ResumptionFacts>,
}

/// A second handshake, with what the first one left.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResumptionFacts {
    /// How many tickets or sessions the first one left.
    pub tickets: u32,
    /// Whether the second one resumed the first; null when it did not come to its end.
    pub resumed: Option<bool>,
    /// How long it took, in microseconds, without the TCP connection.
    pub duration_us: Option<u64>,
    /// How many round trips it took.
    pub round_trips: Option<u32>,
    /// How many octets of 0-RTT data the server takes in a resumed session (RFC 8446 section 2.3); 0: none.
    pub early_data_octets: u32,
}

impl TlsFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        let mut lines = Lines::new();
        let mut add = |label: &str, text: String| lines.push((label.to_owned(), text));
        let agreed: Vec<_> = [&self.version, &self.cipher, &self.group]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        if !agreed.is_empty() {
            add("agreed", agreed.join(", "));
        }
        add(
            "name sent",
            self.sni
                .clone()
                .unwrap_or_else(|| "none: an address has none".to_owned()),
        );
        let alpn = match (&self.alpn, &self.version) {
            (Some(alpn), _) => alpn.escape_debug().to_string(),
            (None, Some(_)) => "nothing agreed".to_owned(),
            (None, None) => "no answer".to_owned(),
        };
        add(
            "alpn",
            format!("{alpn} (offered: {})", self.alpn_offered.join(", ")),
        );
        if let (Some(kind), Some(trips)) = (&self.handshake, self.round_trips) {
            let first = self
                .first_answer_us
                .map_or_else(String::new, |us| format!(", first answer after {}", ms(us)));
            let kind = kind.replace('_', " ");
            add(
                "handshake",
                format!("{kind}, {}{first}", round_trips(trips)),
            );
        }
        for (index, one) in self.chain.iter().enumerate() {
            let label = if index == 0 {
                "certificate"
            } else {
                "sent along"
            };
            add(label, certificate(one));
        }
        if let Some(verified) = self.verified {
            let word = if verified { "verified" } else { "NOT verified" };
            add(
                "trust",
                format!("{word} against {}", self.roots.escape_debug()),
            );
        }
        if self.client_certificate_asked {
            add("client certificate", "asked for; none shown".to_owned());
        }
        if !self.chain.is_empty() {
            let staple = self.staple.as_ref();
            add(
                "ocsp staple",
                staple.map_or_else(|| "none".to_owned(), stapled),
            );
        }
        if let Some(resumption) = &self.resumption {
            add("resumption", resumed(resumption));
        }
        lines
    }
}

fn ms(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1000.0)
}

fn round_trips(count: u32) -> String {
    format!("{count} round trip{}", if count == 1 { "" } else { "s" })
}

fn certificate(one: &CertificateFacts) -> String {
    let mut text = format!(
        "{}, by {}, until {} ({} days), {}, {}",
        one.subject.escape_debug(),
        one.issuer.escape_debug(),
        one.not_after,
        one.days_left,
        one.key,
        one.signature
    );
    if !one.names.is_empty() {
        const SHOWN: usize = 8;
        let shown: Vec<_> = one
            .names
            .iter()
            .take(SHOWN)
            .map(|n| n.escape_debug().to_string())
            .collect();
        text += &format!("; for {}", shown.join(", "));
        if let Some(more @ 1..) = one.names.len().checked_sub(SHOWN) {
            text += &format!(" and {more} more");
        }
    }
    text
}

fn stapled(staple: &StapleFacts) -> String {
    if let Some(problem) = &staple.problem {
        return problem.clone();
    }
    let status = staple.status.map_or("unknown", |status| status.word());
    let from = staple.this_update.as_deref().unwrap_or("?");
    let until = staple.next_update.as_deref().unwrap_or("no end told");
    let signed = match staple.signed {
        Some(true) => "signature right",
        Some(false) => "signature is WRONG",
        None => "signature not checked",
    };
    format!("{status}, of {from}, until {until}, {signed}")
}

fn resumed(one: &ResumptionFacts) -> String {
    let how = match one.resumed {
        Some(true) => "resumed",
        Some(false) => "not resumed: a full handshake again",
        None => "no second handshake",
    };
    let took = match (one.duration_us, one.round_trips) {
        (Some(us), Some(trips)) => format!(" in {}, {}", ms(us), round_trips(trips)),
        _ => String::new(),
    };
    let early = match one.early_data_octets {
        0 => "no 0-RTT".to_owned(),
        octets => format!("0-RTT up to {octets} octets"),
    };
    let tickets = one.tickets;
    let plural = if tickets == 1 { "" } else { "s" };
    format!("{how}{took}; {tickets} ticket{plural}, {early}")
}
