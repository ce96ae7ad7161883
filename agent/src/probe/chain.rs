//! Certificates: a verifier that records what a browser would say of a chain and lets the handshake go on, so that a
//! bad chain is kept whole as evidence. It vouches for nothing: who reads a record sees `chain_fault`.

use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use zerkalo_core::record::{Certificate, ChainFault};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

use super::text::cut;

/// Certificates kept of one chain; real ones have two to four.
const CHAIN_LEN_MAX: usize = 8;
/// Bytes kept of a subject or an issuer.
const NAME_LEN_MAX: usize = 512;
/// Bytes of whole certificates kept of one faulty chain: leaf and intermediates of any real one fit.
const CHAIN_DER_LEN_MAX: usize = 16 * 1024;

/// Why the trusted roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("no certificate can be read (expected PEM with at least one CERTIFICATE block): {0}")]
    Unreadable(String),
    #[error("a certificate cannot serve as a root")]
    Root(#[source] TlsError),
    #[error("the verifier cannot be built")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// The roots that chains are judged by.
#[derive(Debug, Clone)]
pub struct Trust {
    verifier: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// The public CAs that browsers trust.
    pub fn public() -> Result<Self, TrustError> {
        Self::of(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    /// The roots of a PEM file's text, instead of the public ones.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| TrustError::Unreadable(error.to_string()))?;
            roots.add(certificate).map_err(TrustError::Root)?;
        }
        if roots.is_empty() {
            return Err(TrustError::Unreadable("it holds none".to_owned()));
        }
        Self::of(roots)
    }

    fn of(roots: RootCertStore) -> Result<Self, TrustError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(TrustError::Verifier)?;
        Ok(Self { verifier, provider })
    }

    /// The cryptography in use.
    pub fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    /// A verifier for one handshake.
    pub fn recorder(&self) -> Arc<ChainRecorder> {
        Arc::new(ChainRecorder { verifier: self.verifier.clone(), seen: Mutex::default() })
    }
}

/// Sees one handshake's chain.
#[derive(Debug)]
pub struct ChainRecorder {
    verifier: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<(Vec<Certificate>, ChainFault)>>,
}

impl ChainRecorder {
    /// The chain and what is wrong with it, if one came.
    pub fn seen(&self) -> Option<(Vec<Certificate>, ChainFault)> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for ChainRecorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        // A box that boots in 1970 is not to find every certificate too young.
        let now = crate::clock::unix_time();
        let judged =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let fault = judged.map_or_else(|error| fault_of(&error), |_| ChainFault::Valid);
        let mut der_left = if fault == ChainFault::Valid { 0 } else { CHAIN_DER_LEN_MAX };
        let chain = std::iter::once(end_entity)
            .chain(intermediates)
            .take(CHAIN_LEN_MAX)
            .map(|der| read_certificate(der, &mut der_left))
            .collect();
        *self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((chain, fault));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn fault_of(error: &TlsError) -> ChainFault {
    use CertificateError as Fault;
    match error {
        TlsError::InvalidCertificate(fault) => match fault {
            Fault::Expired | Fault::ExpiredContext { .. } => ChainFault::Expired,
            Fault::NotValidYet | Fault::NotValidYetContext { .. } => ChainFault::NotYetValid,
            Fault::NotValidForName | Fault::NotValidForNameContext { .. } => ChainFault::WrongName,
            // What webpki says where a CA's certificate stands as the leaf: self-signed pages do that.
            Fault::UnknownIssuer => ChainFault::UnknownIssuer,
            Fault::Other(OtherError(other)) => ChainFault::Other(other.to_string()),
            other => ChainFault::Other(other.to_string()),
        },
        other => ChainFault::Other(other.to_string()),
    }
}

fn read_certificate(der: &CertificateDer<'_>, der_left: &mut usize) -> Certificate {
    let kept = if der.len() <= *der_left { der.to_vec() } else { Vec::new() };
    *der_left -= kept.len();
    let mut certificate = Certificate {
        sha256: Sha256::of(der),
        spki_sha256: Sha256::default(),
        subject: "(unreadable)".to_owned(),
        issuer: "(unreadable)".to_owned(),
        not_before: UnixMillis(0),
        not_after: UnixMillis(0),
        der: kept,
    };
    if let Ok((_, parsed)) = X509Certificate::from_der(der) {
        certificate.spki_sha256 = Sha256::of(parsed.public_key().raw);
        certificate.subject = bounded(parsed.subject().to_string());
        certificate.issuer = bounded(parsed.issuer().to_string());
        certificate.not_before = instant(parsed.validity().not_before.timestamp());
        certificate.not_after = instant(parsed.validity().not_after.timestamp());
    }
    certificate
}

fn bounded(mut text: String) -> String {
    cut(&mut text, NAME_LEN_MAX);
    text
}

/// Instants before 1970 count as 1970.
fn instant(unix_secs: i64) -> UnixMillis {
    UnixMillis(u64::try_from(unix_secs).unwrap_or(0).saturating_mul(1000))
}
