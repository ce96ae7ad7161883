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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer, X509Certificate};
use zerkalo_core::identity::{BINDING_LABEL, Binding};
use zerkalo_core::words::UnixMillis;

use crate::authority::Papers;

/// Longest TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once: some tenths of a second of a core; who comes beyond them is closed at once and tries again.
const HANDSHAKES_MAX: usize = 1_024;
/// Sessions waiting to be served.
const SESSIONS_WAITING_MAX: usize = 64;
/// How long to wait where the system gives no socket: it has no descriptor left, and gets one back as others close.
const ACCEPT_FAILED_WAIT: Duration = Duration::from_millis(100);
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
}

impl Session {
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

/// Shakes hands with whoever connects, several at once; ends when the receiver is dropped.
pub fn accept(
    listener: TcpListener,
    config: Arc<ServerConfig>,
) -> ReceiverStream<io::Result<Secured<TlsStream<TcpStream>>>> {
    let (sessions, accepted) = mpsc::channel(SESSIONS_WAITING_MAX);
    let acceptor = TlsAcceptor::from(config);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "no connection can be accepted");
                        tokio::time::sleep(ACCEPT_FAILED_WAIT).await;
                        continue;
                    }
                },
                () = sessions.closed() => return,
            };
            // Beyond the limit it is closed by being dropped.
            let Ok(permit) = handshakes.clone().try_acquire_owned() else { continue };
            let (acceptor, sessions) = (acceptor.clone(), sessions.clone());
            tokio::spawn(async move {
                // Without it answers are late, not lost.
                let _ = stream.set_nodelay(true);
                let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
                drop(permit);
                match shaken {
                    // Nobody takes it while the collector stops.
                    Ok(Ok(stream)) => drop(sessions.send(Ok(Secured::over_tls(stream, peer))).await),
                    Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                    Err(_) => tracing::debug!("a handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(accepted)
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

impl Secured<TlsStream<TcpStream>> {
    fn over_tls(io: TlsStream<TcpStream>, peer: SocketAddr) -> Self {
        let (_, tls) = io.get_ref();
        let leaf =
            tls.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
        let binding = tls.export_keying_material([0; 32], BINDING_LABEL, None).ok().map(Binding);
        Self::new(io, Session { peer: Some(peer), leaf, binding })
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
