//! The stapled answer of an OCSP responder (RFC 6960): what it says of the server's certificate, and until when.

use der::{Decode as _, Encode as _};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_ocsp::{BasicOcspResponse, CertStatus, OcspGeneralizedTime, OcspResponse};
use x509_parser::{
    asn1_rs::BitString,
    certificate::X509Certificate,
    prelude::FromDer as _,
    verify::verify_signature,
    x509::{AlgorithmIdentifier, SubjectPublicKeyInfo},
};

use super::chain::{date, now_s};
use crate::probe::{Finding, Outcome};

/// The most certificates of responders that are looked at; real answers have one.
const MOST_SIGNERS: usize = 3;

/// What a responder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not revoked.
    Good,
    /// Revoked.
    Revoked,
    /// The responder does not know it.
    Unknown,
}

impl Status {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Revoked => "REVOKED",
            Self::Unknown => "unknown to the responder",
        }
    }
}

/// A stapled answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StapleFacts {
    /// What it says; null when it cannot be read or is of another certificate.
    pub status: Option<Status>,
    /// True as of then (RFC 3339).
    pub this_update: Option<String>,
    /// A newer answer is there by then.
    pub next_update: Option<String>,
    /// Whether the issuer of the server's certificate signed it, or a responder that it authorized; null where the issuer's
    /// certificate is not at hand.
    pub signed: Option<bool>,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
    /// In seconds since 1970.
    #[serde(skip)]
    pub(super) next_update_s: Option<i64>,
}

fn seconds(time: OcspGeneralizedTime) -> i64 {
    i64::try_from(time.0.to_unix_duration().as_secs()).unwrap_or(i64::MAX)
}

/// Reads an answer about the first certificate of `chain`; its issuer is looked for in the rest and in `roots`.
pub(super) fn read(
    staple: &[u8],
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
) -> StapleFacts {
    let problem = |problem: &str| StapleFacts {
        problem: Some(problem.to_owned()),
        ..StapleFacts::default()
    };
    let Ok(response) = OcspResponse::from_der(staple) else {
        return problem("it is no OCSP response");
    };
    let Some(bytes) = &response.response_bytes else {
        return problem(&format!(
            "the responder answered {:?}",
            response.response_status
        ));
    };
    let Ok(basic) = BasicOcspResponse::from_der(bytes.response.as_bytes()) else {
        return problem("it is of an unknown kind");
    };
    let Some((_, leaf)) = chain
        .first()
        .and_then(|der| X509Certificate::from_der(der).ok())
    else {
        return problem("the server's certificate cannot be read");
    };
    let responses = &basic.tbs_response_data.responses;
    let Some(single) = responses
        .iter()
        .find(|one| one.cert_id.serial_number.as_bytes() == leaf.raw_serial())
    else {
        return problem("it is of another certificate");
    };
    let next = single.next_update.map(seconds);
    StapleFacts {
        status: Some(match single.cert_status {
            CertStatus::Good(_) => Status::Good,
            CertStatus::Revoked(_) => Status::Revoked,
            CertStatus::Unknown(_) => Status::Unknown,
        }),
        this_update: Some(date(seconds(single.this_update))),
        next_update: next.map(date),
        signed: signed(&basic, &leaf, chain.iter().skip(1).chain(roots)),
        problem: None,
        next_update_s: next,
    }
}

/// Whether the issuer of `leaf` signed, or a responder that it authorized (RFC 6960 section 4.2.2.2).
fn signed<'a>(
    basic: &BasicOcspResponse,
    leaf: &X509Certificate<'_>,
    mut others: impl Iterator<Item = &'a CertificateDer<'a>>,
) -> Option<bool> {
    let issuer = others.find_map(|der| {
        let (_, one) = X509Certificate::from_der(der).ok()?;
        let issued = leaf.verify_signature(Some(one.public_key())).is_ok();
        (one.subject().as_raw() == leaf.issuer().as_raw() && issued).then_some(one)
    })?;
    let algorithm = basic.signature_algorithm.to_der().ok()?;
    let (_, algorithm) = AlgorithmIdentifier::from_der(&algorithm).ok()?;
    let signature = BitString::new(0, basic.signature.raw_bytes());
    let told = basic.tbs_response_data.to_der().ok()?;
    let by = |key: &SubjectPublicKeyInfo<'_>| {
        verify_signature(key, &algorithm, &signature, &told).is_ok()
    };
    let sent = basic.certs.iter().flatten().take(MOST_SIGNERS);
    let mut sent = sent.filter_map(|one| one.to_der().ok());
    let by_responder = sent.any(|der| {
        let Ok((_, one)) = X509Certificate::from_der(&der) else {
            return false;
        };
        let usage = one.extended_key_usage().ok().flatten();
        usage.is_some_and(|usage| usage.value.ocsp_signing)
            && one.verify_signature(Some(issuer.public_key())).is_ok()
            && by(one.public_key())
    });
    Some(by_responder || by(issuer.public_key()))
}

/// What is to be said of it. `bad`: the outcome of what a browser refuses.
pub(super) fn judge(facts: &StapleFacts, bad: Outcome) -> Option<Finding> {
    if facts.signed == Some(false) {
        return Some(wrong("its signature is not the issuer's"));
    }
    if let Some(problem) = &facts.problem {
        return Some(wrong(problem));
    }
    match facts.status? {
        Status::Revoked => Some(
            Finding::new(
                "certificate_revoked",
                bad,
                "the certificate is revoked, as the OCSP answer says that the server itself staples",
            )
            .next("have a new certificate issued for a new key; find out why it was revoked"),
        ),
        Status::Unknown => Some(wrong("the responder does not know the certificate")),
        Status::Good if facts.next_update_s.is_some_and(|next| next < now_s()) => {
            Some(wrong(&format!(
                "it is out of date since {}",
                facts.next_update.as_deref().unwrap_or_default()
            )))
        }
        Status::Good => None,
    }
}

fn wrong(problem: &str) -> Finding {
    Finding::new(
        "staple_unusable",
        Outcome::Wrong,
        format!("the OCSP answer that the server staples is of no use: {problem}"),
    )
    .next("look whether the server reaches its responder (nginx: ssl_stapling, resolver), or update the stapled file")
}
