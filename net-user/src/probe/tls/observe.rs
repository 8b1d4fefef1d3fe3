//! What rustls asks in the course of a handshake, answered so that all of it is known afterwards: the chain is kept though
//! it does not verify, a request for a client's certificate is noticed, tickets are counted.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rustls::{
    DigitallySignedStruct, Error, NamedGroup, SignatureScheme,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

/// What the server showed.
#[derive(Clone, Debug)]
pub(super) struct Presented {
    /// Its certificate, then the others in the order in which they came.
    pub chain: Vec<CertificateDer<'static>>,
    /// The answer of an OCSP responder (DER); empty without.
    pub staple: Vec<u8>,
    /// What the verifier says of it.
    pub verdict: Result<(), Error>,
}

/// Keeps what the server shows. The first handshake goes on whatever the verifier says, so that all can be told; after
/// [`Observer::obey`] its word is law.
#[derive(Debug)]
pub(super) struct Observer {
    /// None where there are no roots, and nobody wants any.
    verifier: Option<Arc<dyn ServerCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    obeys: AtomicBool,
    presented: Mutex<Option<Presented>>,
}

impl Observer {
    /// Over a verifier; without one everything verifies but signatures of the handshake.
    pub fn new(verifier: Option<Arc<dyn ServerCertVerifier>>, provider: &CryptoProvider) -> Self {
        Self {
            verifier,
            algorithms: provider.signature_verification_algorithms,
            obeys: AtomicBool::new(false),
            presented: Mutex::new(None),
        }
    }

    /// What the server showed, if it came to that.
    pub fn presented(&self) -> Option<Presented> {
        let presented = self.presented.lock();
        presented.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on a handshake ends when the chain does not verify.
    pub fn obey(&self) {
        self.obeys.store(true, Ordering::Relaxed);
    }
}

impl ServerCertVerifier for Observer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        staple: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = match &self.verifier {
            Some(verifier) => verifier
                .verify_server_cert(end_entity, intermediates, name, staple, now)
                .map(|_| ()),
            None => Ok(()),
        };
        if self.obeys.load(Ordering::Relaxed) {
            verdict?;
            return Ok(ServerCertVerified::assertion());
        }
        let chain = std::iter::once(end_entity).chain(intermediates);
        let presented = Presented {
            chain: chain.map(|one| one.clone().into_owned()).collect(),
            staple: staple.to_vec(),
            verdict,
        };
        let kept = self.presented.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = Some(presented);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Has no certificate for the server, and notices when it asks for one.
#[derive(Debug, Default)]
pub(super) struct Asked(AtomicBool);

impl Asked {
    /// Whether the server asked.
    pub fn was(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    /// rustls asks for one only where there may be one.
    fn has_certs(&self) -> bool {
        true
    }
}

/// The sessions that can be resumed, and what was offered for them.
pub(super) struct Sessions {
    cache: ClientSessionMemoryCache,
    count: AtomicU32,
    early_data: AtomicU32,
}

impl Sessions {
    /// None yet.
    pub fn new() -> Self {
        Self {
            // The smallest that holds one server's.
            cache: ClientSessionMemoryCache::new(8),
            count: AtomicU32::new(0),
            early_data: AtomicU32::new(0),
        }
    }

    /// How many tickets or sessions the server has given.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many octets of 0-RTT data it takes (RFC 8446 section 4.2.10); 0: none.
    pub fn early_data(&self) -> u32 {
        self.early_data.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is in the cache is secret.
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.cache.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.cache.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.cache.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.cache.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let octets = value.max_early_data_size();
        self.early_data.fetch_max(octets, Ordering::Relaxed);
        self.cache.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.cache.take_tls13_ticket(name)
    }
}
