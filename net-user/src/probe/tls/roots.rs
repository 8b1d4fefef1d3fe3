//! Whom to trust: the system's roots, or those of a file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

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
#[derive(Clone)]
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

/// How long roots are kept that were read: the system's are hundreds, and walks may come every second.
const KEPT: Duration = Duration::from_secs(60);

static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// Roots that were read: from where (the system's have no file), and when.
struct Known {
    file: Option<PathBuf>,
    read: Instant,
    roots: Roots,
}

fn known() -> MutexGuard<'static, Vec<Known>> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|known| known.read.elapsed() < KEPT);
    known
}

impl Roots {
    /// As [`Roots::load`] gives them, or gave them within a minute. Files are read on another thread: one that hangs holds up
    /// no other walk.
    pub async fn get(file: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Self, Finding> {
        let kept = known()
            .iter()
            .find(|known| known.file.as_deref() == file)
            .map(|known| known.roots.clone());
        if let Some(roots) = kept {
            return Ok(roots);
        }
        let file = file.map(Path::to_owned);
        let provider = provider.clone();
        let load = tokio::task::spawn_blocking(move || {
            let roots = Self::load(file.as_deref(), &provider)?;
            known().push(Known {
                file,
                read: Instant::now(),
                roots: roots.clone(),
            });
            Ok(roots)
        });
        load.await.unwrap_or_else(|error| {
            let what = format!("the roots could not be read: {error}");
            Err(Finding::new("tls_no_roots", Outcome::Failed, what)
                .next("this is a fault of netmoat: please report it"))
        })
    }

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
