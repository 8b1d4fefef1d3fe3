use std::io;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{
    client::server_name, failure::Circumstances, observe::Presented, roots::Roots, verdict::Held, *,
};
use crate::probe::meter::Marks;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str, authority: bool) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.not_before = date_time_ymd(2020, 1, 1);
    params
}

fn root() -> Issuer {
    authority("root.test")
}

fn authority(name: &str) -> Issuer {
    Issuer::self_signed(params(name, true), KeyPair::generate().unwrap()).unwrap()
}

fn issue(by: &Issuer, params: &CertificateParams) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, by).unwrap().der().clone()
}

/// What is said of a chain where these are trusted, for shop.test.
fn judge(chain: &[CertificateDer<'static>], trusted: &[&Issuer]) -> Vec<(String, Outcome)> {
    let provider = Arc::new(ring::default_provider());
    let file = tempfile::NamedTempFile::new().unwrap();
    let pem: String = trusted.iter().map(|one| one.pem()).collect();
    std::fs::write(&file, pem).unwrap();
    let Ok(roots) = Roots::load(Some(file.path()), &provider) else {
        panic!("the roots can be read");
    };
    let name = ServerName::try_from("shop.test").unwrap();
    let (leaf, rest) = chain.split_first().unwrap();
    let verdict = roots
        .verifier
        .verify_server_cert(leaf, rest, &name, &[], UnixTime::now())
        .map(|_| ());
    let presented = Presented {
        chain: chain.to_vec(),
        staple: Vec::new(),
        verdict,
    };
    let held = Held {
        presented: &presented,
        chain: &chain::read(chain),
        name: &name,
        roots: Some(&roots),
        bad: Outcome::Failed,
    };
    let findings = held.judge().into_iter();
    findings.map(|one| (one.code, one.outcome)).collect()
}

fn failed(codes: &[&str]) -> Vec<(String, Outcome)> {
    let codes = codes.iter();
    codes
        .map(|code| ((*code).to_owned(), Outcome::Failed))
        .collect()
}

#[test]
fn a_certificate_of_a_trusted_root_has_nothing_said_of_it() {
    let root = root();
    assert_eq!(
        judge(&[issue(&root, &params("shop.test", false))], &[&root]),
        []
    );
}

#[test]
fn all_that_is_wrong_is_told_not_only_what_the_verifier_met_first() {
    let (root, other) = (root(), authority("other.test"));
    let mut wrong = params("other.test", false);
    wrong.not_after = date_time_ymd(2021, 1, 1);
    assert_eq!(
        judge(&[issue(&root, &wrong)], &[&root]),
        failed(&["certificate_expired", "certificate_wrong_name"])
    );
    let wrong = params("other.test", false);
    assert_eq!(
        judge(&[issue(&root, &wrong), root.der().clone()], &[&other]),
        failed(&["certificate_unknown_issuer", "certificate_wrong_name"])
    );
    // Of the same name, but with another key: an authority made anew.
    let again = authority("root.test");
    assert_eq!(
        judge(&[issue(&root, &params("shop.test", false))], &[&again]),
        failed(&["certificate_bad_signature"])
    );
}

#[test]
fn an_authority_s_own_certificate_is_told_from_one_that_is_merely_self_signed() {
    let key = KeyPair::generate().unwrap();
    let own = Issuer::self_signed(params("shop.test", true), key).unwrap();
    let chain = [own.der().clone()];
    assert_eq!(
        judge(&chain, &[&root()]),
        failed(&["certificate_self_signed"])
    );
    assert_eq!(
        judge(&chain, &[&own]),
        failed(&["certificate_of_authority"])
    );
}

#[test]
fn few_days_are_few_only_for_what_lives_long() {
    let root = root();
    let in_days = |from: i64, to: i64| {
        let mut params = params("shop.test", false);
        let since = |days: i64| Duration::from_secs((chain::now_s() + days * chain::DAY) as u64);
        let at = |days| date_time_ymd(1970, 1, 1) + since(days);
        (params.not_before, params.not_after) = (at(from), at(to));
        judge(&[issue(&root, &params)], &[&root])
    };
    let soon = [("certificate_expires_soon".to_owned(), Outcome::Wrong)];
    assert_eq!(in_days(-80, 10), soon);
    assert_eq!(in_days(-75, 15), []);
    // Six days in all, as public authorities issue them, too: half of them left, and then one.
    assert_eq!(in_days(-3, 3), []);
    assert_eq!(in_days(-5, 1), soon);
}

#[test]
fn a_certificate_that_is_not_needed_fails_nobody_by_its_date() {
    // As Let's Encrypt's ISRG Root X1 was sent, signed by a root that had expired.
    let (root, old) = (root(), authority("old.test"));
    let leaf = issue(&root, &params("shop.test", false));
    let cross = |until| {
        let mut cross = params("root.test", true);
        cross.not_after = until;
        let signed = cross.signed_by(root.key(), &old).unwrap();
        judge(&[leaf.clone(), signed.der().clone()], &[&root])
    };
    let note = [("certificate_superfluous_expired".to_owned(), Outcome::Ok)];
    assert_eq!(cross(date_time_ymd(2021, 1, 1)), note);
    let soon = Duration::from_secs((chain::now_s() + 3 * chain::DAY) as u64);
    assert_eq!(cross(date_time_ymd(1970, 1, 1) + soon), []);
}

#[test]
fn an_authority_that_is_needed_and_expired_is_told() {
    let root = root();
    let mut between = params("between.test", true);
    between.not_after = date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate().unwrap();
    let between = Issuer::signed_by(between, key, &root).unwrap();
    let leaf = issue(&between, &params("shop.test", false));
    assert_eq!(
        judge(&[leaf, between.der().clone()], &[&root]),
        failed(&["certificate_expired"])
    );
}

#[test]
fn certificates_and_answers_cut_anywhere_or_changed_are_told_without_a_panic() {
    let root = root();
    let mut with = params("shop.test", false);
    let staple =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], vec![48, 3, 2, 1, 5]);
    with.custom_extensions.push(staple);
    let whole = issue(&root, &with);
    assert!(chain::read(std::slice::from_ref(&whole))[0].must_staple);
    for at in 0..whole.len() {
        let cut = CertificateDer::from(whole[..at].to_vec());
        assert_eq!(chain::read(&[cut]), [], "cut at {at}");
        let mut octets = whole.to_vec();
        octets[at] ^= 0xff;
        let changed = CertificateDer::from(octets.clone());
        assert!(chain::read(&[changed, whole.clone()]).len() <= 2);
        assert!(
            staple::read(&octets, std::slice::from_ref(&whole), &[])
                .problem
                .is_some()
        );
    }
}

#[test]
fn text_of_a_certificate_is_bounded_and_escaped_where_it_is_shown() {
    let name = format!("\x1b[2J{}", "x".repeat(1000));
    let mut with = params("shop.test", false);
    with.distinguished_name
        .push(DnType::CommonName, name.as_str());
    let told = chain::read(&[issue(&root(), &with)]);
    assert!(told[0].subject.chars().count() <= 253, "{told:?}");
    let facts = TlsFacts {
        chain: told,
        ..TlsFacts::default()
    };
    let lines = facts.lines();
    assert!(
        lines.iter().all(|(_, text)| !text.contains('\x1b')),
        "{lines:?}"
    );
    assert!(
        lines.iter().any(|(_, text)| text.contains("\\u{1b}[2J")),
        "{lines:?}"
    );
}

#[test]
fn what_is_no_tls_is_told_by_its_first_octets() {
    let of = |first: &[u8]| {
        let known = Circumstances {
            came: Marks {
                head: first.to_vec(),
                octets_in: first.len() as u64,
                ..Marks::default()
            },
            asked: false,
            sni: None,
            offered: &[],
        };
        failure::finding(&io::ErrorKind::UnexpectedEof.into(), &known)
    };
    for (first, word) in [
        (&b"HTTP/1.1 400 Bad Request\r\n"[..], "plain HTTP"),
        (b"<html>", "plain HTTP"),
        (b"SSH-2.0-OpenSSH_9.2", "SSH"),
        (b"220 mail.test ESMTP", "SMTP"),
        (b"\x1b]0;evil\x07", "something else"),
    ] {
        let finding = of(first);
        assert_eq!(finding.code, "tls_not_spoken", "{first:?}");
        assert!(finding.what.contains(word), "{}", finding.what);
        assert!(!finding.what.contains(char::is_control), "{}", finding.what);
    }
    for first in [&b""[..], b"\x16", b"\x16\x03\x03\x00\x31"] {
        assert_eq!(of(first).code, "tls_closed", "{first:?}");
    }
}

#[test]
fn the_name_of_a_url_is_asked_for_as_certificates_have_it() {
    let of =
        |url: &str| server_name(&Url::parse(url).unwrap()).map(|name| name.to_str().into_owned());
    assert_eq!(of("https://Shop.Test/").as_deref(), Some("shop.test"));
    assert_eq!(
        of("https://bücher.test/").as_deref(),
        Some("xn--bcher-kva.test")
    );
    assert_eq!(of("https://192.0.2.7:8443/").as_deref(), Some("192.0.2.7"));
    assert_eq!(of("https://[2001:db8::7]/").as_deref(), Some("2001:db8::7"));
    assert_eq!(of("https://a..b/"), None);
}
