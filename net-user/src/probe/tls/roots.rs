//! Whom to trust: the system's roots, or those of a file.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, ensure};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use rustls_platform_verifier::Verifier;

use crate::probe::{Finding, Outcome};

/// Roots, and what holds certificates to them.
pub(super) struct Roots {
    /// The system's, or the file's name.
    pub name: String,
    /// The file's certificates; the system's are the verifier's own affair.
    pub own: Vec<CertificateDer<'static>>,
    /// Holds a server's chain to them.
    pub verifier: Arc<dyn ServerCertVerifier>,
}

/// Reads the certificates of a PEM file, for `--ca`.
///
/// # Errors
/// It cannot be read, has no certificate, or one that cannot be a root.
pub fn read(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let wanted = || format!("{shown} is to hold the certificates (PEM) that are trusted");
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(wanted)?;
    ensure!(
        !certificates.is_empty(),
        "{}, and holds none: one begins with -----BEGIN CERTIFICATE-----",
        wanted()
    );
    store(&certificates).with_context(wanted)?;
    Ok(certificates)
}

fn store(certificates: &[CertificateDer<'static>]) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store
            .add(certificate.clone())
            .context("one of its certificates cannot be a root")?;
    }
    Ok(store)
}

impl Roots {
    /// Those of `file`, or the system's (of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or else of the distribution).
    ///
    /// # Errors
    /// There are none: the finding says why and what to do.
    pub fn load(file: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Self, Finding> {
        let Some(path) = file else {
            let verifier = Verifier::new(provider.clone()).map_err(|error| {
                let what =
                    format!("this host has no root certificates to hold the server to: {error}");
                Finding::new("tls_no_roots", Outcome::Failed, what).next(
                    "install them (Debian: apt-get install ca-certificates), or give --ca FILE",
                )
            })?;
            return Ok(Self {
                name: "the system's roots".to_owned(),
                own: Vec::new(),
                verifier: Arc::new(verifier),
            });
        };
        let load = || -> anyhow::Result<Self> {
            let own = read(path)?;
            let roots = Arc::new(store(&own)?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
            Ok(Self {
                name: path.display().to_string(),
                own,
                verifier,
            })
        };
        load().map_err(|error| {
            Finding::new("tls_no_roots", Outcome::Failed, format!("{error:#}"))
                .next("give --ca a readable file of PEM certificates")
        })
    }
}
