//! Certificates made on the spot: authorities, what they issue, and what is wrong with it on purpose.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// One day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long what is issued is valid, in days.
const VALID: i64 = 90;

/// Issues certificates; a root or below one.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The authorities between the root and what this one issues, the nearest first.
    between: String,
}

/// A server's certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Alone, PEM.
    pub alone: String,
    /// With the authorities between it and the root after it, as a server sends it, PEM.
    pub chain: String,
    /// Its private key, PEM.
    pub key: String,
}

impl Authority {
    /// A root.
    pub fn root(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority(name), key()).unwrap();
        Self {
            issuer,
            between: String::new(),
        }
    }

    /// An authority below this one.
    pub fn below(&self, name: &str) -> Self {
        let issuer = CertifiedIssuer::signed_by(authority(name), key(), &self.issuer).unwrap();
        let between = issuer.pem() + &self.between;
        Self { issuer, between }
    }

    /// Its own certificate, PEM: what `--ca` takes.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Its private key, PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for names or addresses, valid since yesterday and for 90 days.
    pub fn issue(&self, names: &[&str]) -> Certificate {
        self.issue_with(names, |_| ())
    }

    /// As [`Self::issue`], with something else about it.
    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let mut params = server(names);
        change(&mut params);
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            alone: certificate.pem(),
            chain: certificate.pem() + &self.between,
            key: key.serialize_pem(),
        }
    }
}

/// A certificate that nobody vouches for but itself.
pub fn self_signed(names: &[&str]) -> Certificate {
    let key = key();
    let certificate = server(names).self_signed(&key).unwrap();
    Certificate {
        alone: certificate.pem(),
        chain: certificate.pem(),
        key: key.serialize_pem(),
    }
}

/// Makes it valid from so many days from now to so many days from now.
pub fn valid(params: &mut CertificateParams, from: i64, to: i64) {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = date_time_ymd(1970, 1, 1) + since_1970;
    let at = |days: i64| {
        let span = DAY * days.unsigned_abs() as u32;
        if days < 0 { now - span } else { now + span }
    };
    params.not_before = at(from);
    params.not_after = at(to);
}

/// Says where the issuer's certificate can be had (authority information access, RFC 5280 section 4.2.2.1).
pub fn issuer_at(params: &mut CertificateParams, url: &str) {
    let location = der(0x86, url.as_bytes());
    // id-ad-caIssuers: 1.3.6.1.5.5.7.48.2.
    let method = der(6, &[0x2b, 6, 1, 5, 5, 7, 48, 2]);
    let access = der(0x30, &der(0x30, &[method, location].concat()));
    let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access);
    params.custom_extensions.push(extension);
}

/// One value of DER in its short form.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128, "longer ones need another form");
    [&[tag, content.len() as u8], content].concat()
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    valid(&mut params, -365, 3650);
    params
}

fn server(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let name = names.first().cloned().unwrap_or_default();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, -1, VALID);
    params
}
