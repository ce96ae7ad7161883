//! A connection to the collector whose session both ends can name: what a box proves on it is worth nothing on any other
//! (RFC 5705). For enrolment and certificates; records go by `channel.rs`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use zerkalo_core::identity::{BINDING_LABEL, Binding};

use crate::channel::{self, Address, CONNECT_TIMEOUT, ChannelError};
use crate::clock;
use crate::state::Credentials;

/// What the collector speaks.
const ALPN_H2: &[u8] = b"h2";

/// A connection, and what binds a proof to it. It is not opened anew when it breaks.
pub struct Bound {
    pub channel: Channel,
    pub binding: Binding,
}

/// Connects without a certificate.
pub async fn connect_anonymous(url: &str, ca_pem: &str) -> Result<Bound, ChannelError> {
    open(url, ca_pem, None).await
}

/// Connects with the box's own certificate.
pub async fn connect(url: &str, credentials: &Credentials) -> Result<Bound, ChannelError> {
    open(url, &credentials.ca_pem, Some(credentials)).await
}

async fn open(url: &str, ca_pem: &str, own: Option<&Credentials>) -> Result<Bound, ChannelError> {
    let config = config(ca_pem, own)?;
    let opened = async {
        let stream = shake_hands(url, config).await?;
        let binding = stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None);
        let binding = binding.map(Binding).map_err(|source| ChannelError::Session(source.to_string()))?;
        // TLS stands already: to HTTP/2 it is a plain connection, whose name nobody looks at.
        let endpoint = Endpoint::from_static("http://collector");
        let made = Made(Arc::new(Mutex::new(Some(stream))));
        let channel = endpoint.connect_with_connector(made).await;
        let channel = channel.map_err(|source| ChannelError::Speak { url: url.to_owned(), source })?;
        Ok(Bound { channel, binding })
    };
    tokio::time::timeout(CONNECT_TIMEOUT, opened)
        .await
        .map_err(|_| ChannelError::Timeout { url: url.to_owned(), waited: CONNECT_TIMEOUT })?
}

async fn shake_hands(url: &str, config: ClientConfig) -> Result<TlsStream<TcpStream>, ChannelError> {
    let fail = |source| ChannelError::Connect { url: url.to_owned(), source };
    let target = Address::parse(url)?;
    let name = ServerName::try_from(target.host.clone()).map_err(|error| fail(io::Error::other(error)))?;
    let stream = channel::dial(&target.host, target.port).await.map_err(fail)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(fail)
}

fn config(ca_pem: &str, own: Option<&Credentials>) -> Result<ClientConfig, ChannelError> {
    let fail = |error: &dyn std::fmt::Display| ChannelError::Session(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| fail(&error))?;
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
    let webpki = webpki.build().map_err(|error| fail(&error))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OwnTime(webpki)));
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_slice_iter(own.certificate_pem.as_bytes()).collect();
            let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).map_err(|error| fail(&error))?;
            let chain = chain.map_err(|error| fail(&error))?;
            config.with_client_auth_cert(chain, key).map_err(|error| fail(&error))?
        }
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(config)
}

/// webpki's own verifier, by a time that a box without a battery can know: see [`clock::time_for`].
#[derive(Debug)]
struct OwnTime(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for OwnTime {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let now = clock::time_for(end_entity);
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Gives the one connection there is.
#[derive(Debug, Clone)]
struct Made(Arc<Mutex<Option<TlsStream<TcpStream>>>>);

impl Service<Uri> for Made {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take().map(TokioIo::new);
        Box::pin(async move { stream.ok_or_else(|| io::Error::other("the connection is gone")) })
    }
}
