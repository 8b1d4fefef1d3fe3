//! What is to be said of a server's certificates.

use rustls::{
    CertificateError, Error,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName},
    server::ParsedCertificate,
};

use super::{
    chain::{CertificateFacts, DAY, now_s},
    observe::Presented,
    roots::Roots,
};
use crate::probe::{Finding, Outcome};

/// Fewer days than these are few: who renews 30 days ahead (as certbot does) has failed for two weeks by then.
const FEW_DAYS: i64 = 14;

/// Whose certificates, held to what.
pub(super) struct Held<'a> {
    /// What the server showed.
    pub presented: &'a Presented,
    /// The same to be told.
    pub chain: &'a [CertificateFacts],
    /// Whom it should be for.
    pub name: &'a ServerName<'static>,
    /// Whom we trust.
    pub roots: Option<&'a Roots>,
    /// The outcome of what a browser refuses.
    pub bad: Outcome,
}

impl Held<'_> {
    /// All that is to be said, what the verifier refused for first.
    pub fn judge(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(error) = &self.presented.verdict {
            findings.push(self.refused(error));
        }
        // The verifier stops at the first; there may be more.
        let also = [
            self.wrong_dates(1),
            self.wrong_name(),
            self.ends_soon(),
            self.superfluous(&findings),
        ];
        for finding in also.into_iter().flatten() {
            if findings.iter().all(|one| one.code != finding.code) {
                findings.push(finding);
            }
        }
        findings
    }

    fn finding(&self, code: &str, what: String, next: &str) -> Finding {
        Finding::new(code, self.bad, what).next(next)
    }

    fn leaf(&self) -> Option<&CertificateFacts> {
        self.chain.first()
    }

    fn refused(&self, error: &Error) -> Finding {
        use CertificateError as E;
        let Error::InvalidCertificate(error) = error else {
            return self.invalid(&error.to_string());
        };
        let found = match error {
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
                self.wrong_dates(self.chain.len())
            }
            E::NotValidForName | E::NotValidForNameContext { .. } => self.wrong_name(),
            E::UnknownIssuer => Some(self.unknown_issuer()),
            E::BadSignature => Some(self.finding(
                "certificate_bad_signature",
                "a certificate of the chain is not signed by the key of its issuer".to_owned(),
                "look whether the chain, or what is trusted, holds an older certificate of the same issuer",
            )),
            E::UnsupportedSignatureAlgorithmContext { .. }
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Some(self.finding(
                "certificate_weak_signature",
                format!(
                    "a certificate of the chain is signed in a way that is not taken: {}",
                    self.signatures()
                ),
                "have it issued with RSA and SHA-256 or better, or ECDSA",
            )),
            _ => None,
        };
        match (found, self.leaf()) {
            (Some(finding), _) => finding,
            // Authorities' certificates are refused as a server's before anybody asks who signed them.
            (None, Some(leaf)) if leaf.authority => self.authority(leaf),
            // The platform's verifier has an error of its own for it.
            (None, Some(leaf)) if !leaf.for_servers => self.finding(
                "certificate_wrong_purpose",
                "the certificate is not for servers (extendedKeyUsage has no serverAuth)"
                    .to_owned(),
                "have one issued for TLS servers",
            ),
            _ => self.invalid(&error.to_string()),
        }
    }

    fn invalid(&self, error: &str) -> Finding {
        self.finding(
            "certificate_invalid",
            format!("the certificate is refused: {}", error.escape_debug()),
            "look at it with openssl x509 -text; have it issued anew",
        )
    }

    fn signatures(&self) -> String {
        let all: Vec<_> = self
            .chain
            .iter()
            .map(|one| one.signature.as_str())
            .collect();
        all.join(", ")
    }

    /// A date that does not fit, of the first `depth` certificates. Of those above the leaf the verifier alone knows
    /// which it needed.
    fn wrong_dates(&self, depth: usize) -> Option<Finding> {
        let now = now_s();
        let days = |seconds: i64| match seconds / DAY {
            0 => "less than a day".to_owned(),
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        self.chain.iter().take(depth).enumerate().find_map(|(index, one)| {
            let whose = whose(index, one);
            let (from, to) = one.valid;
            if to < now {
                let what = format!("{whose} expired on {}, {} ago", day(&one.not_after), days(now - to));
                return Some(self.finding(
                    "certificate_expired",
                    what,
                    "renew it and reload the server; where it is renewed already, the server has not read it again",
                ));
            }
            (from > now).then(|| {
                let what = format!("{whose} is valid from {} on only, in {}", day(&one.not_before), days(from - now));
                self.finding(
                    "certificate_not_yet_valid",
                    what,
                    "look at this host's clock and the server's (timedatectl), then have it issued anew",
                )
            })
        })
    }

    /// A certificate that expired and was not needed: a cross-signature of an old root, mostly.
    fn superfluous(&self, refused: &[Finding]) -> Option<Finding> {
        if refused.iter().any(|one| one.code == "certificate_expired") {
            return None;
        }
        let now = now_s();
        let one = self.chain.iter().skip(1).find(|one| one.valid.1 < now)?;
        let what = format!(
            "the server also sends the certificate of {}, signed by {}, which expired on {}; nothing needs it",
            one.subject.escape_debug(),
            one.issuer.escape_debug(),
            day(&one.not_after)
        );
        let next = "take it out of the chain that the server sends: old clients stumble over it";
        Some(Finding::new("certificate_superfluous_expired", Outcome::Ok, what).next(next))
    }

    fn wrong_name(&self) -> Option<Finding> {
        let leaf = self.presented.chain.first()?;
        let parsed = ParsedCertificate::try_from(leaf).ok()?;
        verify_server_name(&parsed, self.name).err()?;
        let names = &self.leaf()?.names;
        let shown: Vec<_> = names
            .iter()
            .take(8)
            .map(|n| n.escape_debug().to_string())
            .collect();
        let has = match (names.len(), shown.join(", ")) {
            (0, _) => "it names no host (subjectAltName)".to_owned(),
            (1..=8, shown) => format!("it is for {shown}"),
            (all, shown) => format!("it is for {shown} and {} more", all - 8),
        };
        Some(self.finding(
            "certificate_wrong_name",
            format!("the certificate is not for {}: {has}", self.name.to_str()),
            "look whether the name leads to the right server, whether that has this site (server_name), and what names the certificate was ordered for",
        ))
    }

    fn unknown_issuer(&self) -> Finding {
        let Some(leaf) = self.leaf() else {
            return self.invalid("it cannot be read");
        };
        if leaf.self_signed {
            return self.self_signed();
        }
        let roots = self.roots.map_or("the roots", |roots| roots.name.as_str());
        let issuer = leaf.issuer.escape_debug();
        // Where to: up what was sent, as far as it leads. Never longer than the chain.
        let mut top = leaf;
        for _ in self.chain {
            match self
                .chain
                .iter()
                .skip(1)
                .find(|one| one.subject == top.issuer)
            {
                Some(next) if !next.self_signed && next != top => top = next,
                Some(next) => {
                    return self.finding(
                        "certificate_unknown_issuer",
                        format!(
                            "the chain ends at {}, which is not among {roots}",
                            next.subject.escape_debug()
                        ),
                        "trust that authority (--ca FILE, or the system's roots), or have the certificate issued by a public one",
                    );
                }
                None => break,
            }
        }
        // Only authorities below a root are worth fetching; above one of these that was sent there is a root.
        let url = leaf.issuer_url.as_deref().filter(|_| top == leaf);
        match url {
            Some(url) => self.finding(
                "certificate_chain_incomplete",
                format!(
                    "the server did not send the certificate of {issuer}, which signed its own; it lies at {}",
                    url.escape_debug()
                ),
                "let the server send it, too (nginx: ssl_certificate with the chain, fullchain.pem); browsers that have met it elsewhere hide this",
            ),
            None => self.finding(
                "certificate_unknown_issuer",
                format!(
                    "the certificate was issued by {issuer}, and neither is {} among {roots} nor did the server send its certificate",
                    top.issuer.escape_debug()
                ),
                "trust that authority (--ca FILE), or let the server send the chain up to a root that is known",
            ),
        }
    }

    fn self_signed(&self) -> Finding {
        self.finding(
            "certificate_self_signed",
            "the certificate is signed by its own key: nobody vouches for the server".to_owned(),
            "have a certificate issued by an authority (ACME), or trust this one (--ca FILE)",
        )
    }

    fn authority(&self, leaf: &CertificateFacts) -> Finding {
        let is_trusted = |der: &CertificateDer<'_>| {
            self.roots
                .is_some_and(|roots| roots.own.iter().any(|own| own == der))
        };
        if leaf.self_signed && !self.presented.chain.first().is_some_and(is_trusted) {
            return self.self_signed();
        }
        self.finding(
            "certificate_of_authority",
            "the server shows an authority's certificate (CA:TRUE), which is not taken from servers".to_owned(),
            "issue one for the server with that authority, or make it without CA (openssl: basicConstraints=CA:FALSE)",
        )
    }

    fn ends_soon(&self) -> Option<Finding> {
        // Of the others nobody knows here which are needed.
        let one = self.leaf()?;
        let (from, to) = one.valid;
        let left = to.saturating_sub(now_s());
        // What lives for days only is renewed late in its life, too.
        let is_soon = left < FEW_DAYS * DAY && left < to.saturating_sub(from) / 3;
        (left >= 0 && is_soon).then(|| {
            let what = format!(
                "the certificate expires in {} days, on {}",
                left / DAY,
                day(&one.not_after)
            );
            Finding::new("certificate_expires_soon", Outcome::Wrong, what)
                .next("renew it now, and find out why it is not renewed by itself")
        })
    }
}

fn whose(index: usize, one: &CertificateFacts) -> String {
    match index {
        0 => "the certificate".to_owned(),
        _ => format!("the certificate of {}", one.subject.escape_debug()),
    }
}

/// The day of a date.
fn day(date: &str) -> &str {
    date.split('T').next().unwrap_or(date)
}
