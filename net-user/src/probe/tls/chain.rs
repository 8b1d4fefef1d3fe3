//! Certificates as they are told, from what the server sent. Whatever is in them is hostile: lengths are bounded here,
//! and control characters escaped where it is shown.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    objects::{oid_registry, oid2sn},
    oid_registry::{
        OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS, Oid,
    },
    prelude::{FromDer as _, X509Name},
    public_key::PublicKey,
    time::ASN1Time,
    x509::SubjectPublicKeyInfo,
};

/// Seconds of a day.
pub(super) const DAY: i64 = 24 * 60 * 60;
/// The most certificates of a chain that are looked at; real ones have two to four.
const MOST: usize = 10;
/// The most names of a certificate that are told.
const MOST_NAMES: usize = 100;
/// The most characters of a text; a host name has at most 253.
const MOST_CHARACTERS: usize = 253;

/// One certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CertificateFacts {
    /// Whose it is, as a distinguished name.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The host names and addresses that it is for (subjectAltName; RFC 5280 section 4.2.1.6), at most 100.
    pub names: Vec<String>,
    /// The serial number in hex.
    pub serial: String,
    /// Valid from then on (RFC 3339).
    pub not_before: String,
    /// Valid until then.
    pub not_after: String,
    /// Whole days until then; negative after it.
    pub days_left: i64,
    /// The kind of key and its size.
    pub key: String,
    /// How its issuer signed it.
    pub signature: String,
    /// Whether it is an authority's (basicConstraints CA).
    pub authority: bool,
    /// Whether it may be a server's (extendedKeyUsage has serverAuth, or is not there; RFC 5280 section 4.2.1.12).
    pub for_servers: bool,
    /// Whether it is signed by its own key.
    pub self_signed: bool,
    /// Where its issuer's certificate can be had (authorityInfoAccess; RFC 5280 section 4.2.2.1).
    pub issuer_url: Option<String>,
    /// Whether the server is to staple an OCSP answer (TLS feature; RFC 7633).
    pub must_staple: bool,
    /// In seconds since 1970.
    #[serde(skip)]
    pub(super) valid: (i64, i64),
}

/// Seconds since 1970.
pub(super) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

/// As RFC 3339 has it, in UTC.
pub(super) fn date(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else {
        return "out of range".to_owned();
    };
    let time = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// At most [`MOST_CHARACTERS`].
fn bounded(text: &str) -> String {
    text.chars().take(MOST_CHARACTERS).collect()
}

/// The certificates that can be read, in the order in which they came.
pub(super) fn read(chain: &[CertificateDer<'_>]) -> Vec<CertificateFacts> {
    let now = now_s();
    chain
        .iter()
        .take(MOST)
        .filter_map(|der| Some(one(&X509Certificate::from_der(der).ok()?.1, now)))
        .collect()
}

fn one(certificate: &X509Certificate<'_>, now: i64) -> CertificateFacts {
    let validity = certificate.validity();
    let valid = (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    );
    let mut facts = CertificateFacts {
        subject: name(certificate.subject()),
        issuer: name(certificate.issuer()),
        serial: bounded(&certificate.raw_serial_as_string()),
        not_before: date(valid.0),
        not_after: date(valid.1),
        days_left: valid.1.saturating_sub(now).div_euclid(DAY),
        key: key(certificate.public_key()),
        signature: oid(&certificate.signature_algorithm.algorithm),
        authority: certificate.is_ca(),
        for_servers: true,
        self_signed: certificate.subject().as_raw() == certificate.issuer().as_raw()
            && certificate.verify_signature(None).is_ok(),
        valid,
        ..CertificateFacts::default()
    };
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                let names = names.general_names.iter().filter_map(host);
                facts.names = names.take(MOST_NAMES).collect();
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                facts.for_servers = usage.any || usage.server_auth;
            }
            ParsedExtension::AuthorityInfoAccess(access) => {
                let mut issuers = access
                    .iter()
                    .filter(|one| one.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS);
                facts.issuer_url = issuers.find_map(|one| match one.access_location {
                    GeneralName::URI(url) => Some(bounded(url)),
                    _ => None,
                });
            }
            _ => {}
        }
        // id-pe-tlsfeature with status_request (5): SEQUENCE of one INTEGER.
        facts.must_staple |= extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.24"
            && extension.value == [0x30, 3, 2, 1, 5];
    }
    facts
}

fn name(name: &X509Name<'_>) -> String {
    bounded(&name.to_string())
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(bounded(name)),
        GeneralName::IPAddress(octets) => {
            let v4 = <[u8; 4]>::try_from(*octets).map(|o| std::net::Ipv4Addr::from(o).to_string());
            let v6 = <[u8; 16]>::try_from(*octets).map(|o| std::net::Ipv6Addr::from(o).to_string());
            v4.or(v6).ok()
        }
        _ => None,
    }
}

fn oid(oid: &Oid<'_>) -> String {
    if let Ok(name) = oid2sn(oid, oid_registry()) {
        return name.to_owned();
    }
    match oid.to_id_string() {
        // The registry lacks it, and it is the one to be told (RFC 3279 section 2.2.3).
        id if id == "1.2.840.10045.4.1" => "ecdsa-with-SHA1".to_owned(),
        id => id,
    }
}

fn key(info: &SubjectPublicKeyInfo<'_>) -> String {
    let curve = || info.algorithm.parameters.as_ref()?.as_oid().ok();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(_)) => {
            let names = [
                (OID_EC_P256, "P-256"),
                (OID_NIST_EC_P384, "P-384"),
                (OID_NIST_EC_P521, "P-521"),
            ];
            let curve = curve().map(|curve| {
                let known = names.iter().find(|(oid, _)| *oid == curve);
                known.map_or_else(|| oid(&curve), |(_, name)| (*name).to_owned())
            });
            format!("EC {}", curve.as_deref().unwrap_or("unknown"))
        }
        _ => oid(&info.algorithm.algorithm),
    }
}
