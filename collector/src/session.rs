//! TLS sessions of agents: who shook hands, under which certificate, and the value that only the two ends of this very
//! session know (RFC 5705), over which enrolment is proved. Transports other than TCP put the same [`Session`] beside
//! their requests.
//!
//! A certificate whose time is over is let through here and told apart by who needs it in force: so that an agent hears a
//! code and a remedy, and can come back by its record key. Everything else about it is checked as ever.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer, X509Certificate};
use zerkalo_core::identity::{BINDING_LABEL, Binding};
use zerkalo_core::words::UnixMillis;

use crate::authority::Papers;

/// What agents speak.
const ALPN_H2: &[u8] = b"h2";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the PEM cannot be read")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("the CA cannot vouch for agents")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("certificate and key cannot be used")]
    Tls(#[source] rustls::Error),
}

/// One agent's session, as its requests carry it.
#[derive(Debug, Clone, Default)]
pub struct Session {
    pub peer: Option<SocketAddr>,
    /// The client's certificate, if it showed one: of our CA, but its time may be over.
    pub leaf: Option<CertificateDer<'static>>,
    /// What binds a proof to this session.
    pub binding: Option<Binding>,
    /// Whether there was no place for it: it hears so, and nothing else.
    pub is_refused: bool,
}

impl Session {
    /// What a TLS stream tells.
    pub fn over_tls<IO>(stream: &TlsStream<IO>, peer: SocketAddr) -> Self {
        let (_, tls) = stream.get_ref();
        let leaf =
            tls.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
        let binding = tls.export_keying_material([0; 32], BINDING_LABEL, None).ok().map(Binding);
        Self { peer: Some(peer), leaf, binding, is_refused: false }
    }

    /// The agent's certificate, where it shows one that is in force; else a stable code and what to do.
    pub fn papers(&self, now: UnixMillis) -> Result<Papers, (&'static str, String)> {
        let leaf = self.leaf.as_ref();
        let leaf =
            leaf.ok_or(("certificate_missing", "enrol first, then connect with the certificate".to_owned()))?;
        let papers = Papers::read(leaf)
            .ok_or(("certificate_foreign", "the client certificate names no agent".to_owned()))?;
        if papers.is_over(now) {
            return Err(expired(papers.until));
        }
        Ok(papers)
    }
}

/// What an agent is told whose certificate was good until then: agents follow the code, people read the rest.
pub fn expired(until: UnixMillis) -> (&'static str, String) {
    let detail = format!(
        "the certificate's time was over at {until}; agents get the next by their record key, by themselves: one that \
         does not is older than this collector, update it"
    );
    ("certificate_expired", detail)
}

/// How agents are listened to: with our certificate, and with theirs if they have one.
pub fn server_config(
    ca_pem: &str,
    certificate_pem: &str,
    key_pem: &str,
) -> Result<Arc<ServerConfig>, SessionError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.map_err(SessionError::Pem)?).map_err(SessionError::Tls)?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect();
    let chain = chain.map_err(SessionError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(SessionError::Pem)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let strict = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        // Enrolment comes without a certificate; the uplink demands one itself.
        .allow_unauthenticated()
        .build()
        .map_err(SessionError::Verifier)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(SessionError::Tls)?
        .with_client_cert_verifier(Arc::new(AnyTime(strict)))
        .with_single_cert(chain, key)
        .map_err(SessionError::Tls)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// A connection and its session.
#[derive(Debug)]
pub struct Secured<IO> {
    io: IO,
    session: Session,
}

impl<IO> Secured<IO> {
    /// A connection whose session is known.
    pub fn new(io: IO, session: Session) -> Self {
        Self { io, session }
    }
}

impl<IO> Connected for Secured<IO> {
    type ConnectInfo = Session;

    fn connect_info(&self) -> Session {
        self.session.clone()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Secured<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Secured<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Checks a client's certificate as ever, but for its time.
#[derive(Debug)]
struct AnyTime(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyTime {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        use CertificateError as Fault;
        let error = match self.0.verify_client_cert(end_entity, intermediates, now) {
            Err(rustls::Error::InvalidCertificate(
                fault @ (Fault::Expired
                | Fault::ExpiredContext { .. }
                | Fault::NotValidYet
                | Fault::NotValidYetContext { .. }),
            )) => rustls::Error::InvalidCertificate(fault),
            verified => return verified,
        };
        let last = X509Certificate::from_der(end_entity)
            .ok()
            .and_then(|(_, leaf)| u64::try_from(leaf.validity().not_after.timestamp()).ok());
        let Some(last) = last.map(Duration::from_secs) else { return Err(error) };
        self.0
            .verify_client_cert(end_entity, intermediates, UnixTime::since_unix_epoch(last))
            .map_err(|_| error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
