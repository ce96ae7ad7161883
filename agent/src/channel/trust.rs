//! Whom the uplink believes: whoever holds a certificate of the collector's own CA, and nobody else. The names in the
//! certificate may be any the collector goes by, so that a relay or a bare address serves as well.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::state::Credentials;

/// Longest issuer told, in characters: what a stranger put into a certificate.
const ISSUER_LEN_MAX: usize = 200;
/// What both transports speak above TLS. Over QUIC it is the word that everybody else there says.
const ALPN_TCP: &[u8] = b"h2";
/// See [`ALPN_TCP`].
const ALPN_QUIC: &[u8] = b"h3";

/// Why no configuration comes of the certificates at hand.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("the CA's certificate cannot be read; enrol this box anew")]
    Ca(#[source] rustls::pki_types::pem::Error),
    #[error("this box's certificate or key cannot be read; enrol it anew")]
    Own(#[source] rustls::pki_types::pem::Error),
    #[error("TLS cannot be set up from them; enrol this box anew")]
    Tls(#[source] TlsError),
    #[error("the CA's certificate cannot be used; enrol this box anew")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
}

/// Somebody showed another certificate than the collector's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who vouches for what was shown.
    pub issuer: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the certificate shown is vouched for by {:?}, not by the collector's own CA, and is refused: either \
             somebody on the way breaks TLS open, or this address is not the collector's",
            self.issuer
        )
    }
}

/// TLS of the uplink, for both transports. Sessions are resumed: a handshake without certificates is small.
#[derive(Debug)]
pub struct Trust {
    tcp: Arc<ClientConfig>,
    quic: Arc<ClientConfig>,
    pinned: Arc<Pinned>,
}

impl Trust {
    /// Trusts the CA of `credentials` for `names`, and shows their certificate.
    pub fn new(credentials: &Credentials, names: &[String]) -> Result<Self, TrustError> {
        let certificates = CertificateDer::pem_slice_iter(credentials.certificate_pem.as_bytes());
        let chain = certificates.collect::<Result<Vec<_>, _>>().map_err(TrustError::Own)?;
        let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).map_err(TrustError::Own)?;
        Self::build(&credentials.ca_pem, names, Some((chain, key)))
    }

    /// Trusts the CA for `names`, and shows nothing.
    pub fn anonymous(ca_pem: &str, names: &[String]) -> Result<Self, TrustError> {
        Self::build(ca_pem, names, None)
    }

    /// For connections by TCP.
    pub fn tcp(&self) -> Arc<ClientConfig> {
        self.tcp.clone()
    }

    /// For connections by QUIC.
    pub fn quic(&self) -> Arc<ClientConfig> {
        self.quic.clone()
    }

    /// Whose certificate was refused since [`Trust::forget_refusal`].
    pub fn refusal(&self) -> Option<Refusal> {
        self.pinned.refusal().clone()
    }

    /// Call before a connection whose refusal is to be known.
    pub fn forget_refusal(&self) {
        *self.pinned.refusal() = None;
    }

    fn build(
        ca_pem: &str,
        names: &[String],
        own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(certificate.map_err(TrustError::Ca)?).map_err(TrustError::Tls)?;
        }
        let provider = Arc::new(default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(TrustError::Verifier)?;
        let names = names.iter().filter_map(|name| ServerName::try_from(name.clone()).ok()).collect();
        let pinned = Arc::new(Pinned { webpki, names, refusal: Mutex::default() });
        let verified = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TrustError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(pinned.clone());
        let mut tcp = match own {
            Some((chain, key)) => verified.with_client_auth_cert(chain, key).map_err(TrustError::Tls)?,
            None => verified.with_no_client_auth(),
        };
        let mut quic = tcp.clone();
        quic.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS_MAX);
        tcp.alpn_protocols = vec![ALPN_TCP.to_vec()];
        quic.alpn_protocols = vec![ALPN_QUIC.to_vec()];
        Ok(Self { tcp: Arc::new(tcp), quic: Arc::new(quic), pinned })
    }
}

/// Names with sessions that may be resumed: one an address.
const SESSIONS_MAX: usize = 32;

/// webpki's own verifier under one CA, for any name of the collector's.
#[derive(Debug)]
struct Pinned {
    webpki: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
    refusal: Mutex<Option<Refusal>>,
}

impl Pinned {
    fn refusal(&self) -> std::sync::MutexGuard<'_, Option<Refusal>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        // A box that boots in 1970 is not to find the collector's certificate too young.
        let now = crate::clock::time_for(end_entity);
        let verify =
            |name| self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        let first = match verify(server_name) {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        if is_wrong_name(&first)
            && let Some(verified) = self.names.iter().find_map(|name| verify(name).ok())
        {
            return Ok(verified);
        }
        if is_foreign(&first) {
            let shown = intermediates.last().unwrap_or(end_entity);
            *self.refusal() = Some(Refusal { issuer: issuer_of(shown) });
        }
        Err(first)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

fn is_wrong_name(error: &TlsError) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(error, TlsError::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
}

/// Whether another authority vouches for it. A clock that is off, or a certificate that ran out, is another matter.
fn is_foreign(error: &TlsError) -> bool {
    use CertificateError::{BadSignature, UnknownIssuer};
    matches!(error, TlsError::InvalidCertificate(UnknownIssuer | BadSignature))
}

fn issuer_of(certificate: &CertificateDer<'_>) -> String {
    let parsed = X509Certificate::from_der(certificate);
    let issuer = parsed.map_or_else(|_| "(unreadable)".to_owned(), |(_, read)| read.issuer().to_string());
    issuer.chars().filter(|letter| !letter.is_control()).take(ISSUER_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(issuer: &CertifiedIssuer<'static, KeyPair>, name: &str) -> CertificateDer<'static> {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    #[test]
    fn only_the_pinned_authority_counts_under_any_name_of_the_collector() {
        let (own, state) = (authority("Zerkalo collector CA"), authority("State CA"));
        let trust = Trust::anonymous(&own.pem(), &["collector.example".to_owned()]).unwrap();
        let shown = |leaf: &CertificateDer<'static>, name: &str| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            trust.pinned.verify_server_cert(leaf, &[], &name, &[], UnixTime::now())
        };
        let good = leaf(&own, "collector.example");
        shown(&good, "collector.example").unwrap();
        // By way of a relay, or by its bare address.
        shown(&good, "relay.example").unwrap();
        shown(&good, "192.0.2.1").unwrap();
        // An agent's own certificate, or another service under the same CA, is not the collector.
        assert!(shown(&leaf(&own, "kz-kcell-1.agent.zerkalo"), "relay.example").is_err());
        assert_eq!(trust.refusal(), None);
        assert!(shown(&leaf(&state, "collector.example"), "collector.example").is_err());
        let refusal = trust.refusal().unwrap();
        assert!(refusal.to_string().contains("State CA"), "{refusal}");
        trust.forget_refusal();
        assert_eq!(trust.refusal(), None);
    }
}
