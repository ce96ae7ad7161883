//! An agent's connection by QUIC: gRPC inside one stream.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use zerkalo_core::identity::{BINDING_LABEL, Binding};

type QuicIo = TokioIo<tokio::io::Join<quinn::RecvStream, quinn::SendStream>>;

/// An open connection. The endpoint lives as long as it is wanted.
pub struct QuicLine {
    pub channel: Channel,
    pub binding: Binding,
    pub endpoint: quinn::Endpoint,
}

impl QuicLine {
    /// Connects, with a certificate and its key or without.
    pub async fn open(port: u16, ca_pem: &str, identity: Option<(&str, &str)>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match identity {
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                tls.with_client_auth_cert(chain, key).unwrap()
            }
            None => tls.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
        let mut binding = [0; 32];
        connection.export_keying_material(&mut binding, BINDING_LABEL, b"").unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        let wire = TokioIo::new(tokio::io::join(receive, send));
        let plain = Endpoint::from_static("http://localhost");
        let channel = plain.connect_with_connector(Ready(Some(wire))).await.unwrap();
        Self { channel, binding: Binding(binding), endpoint }
    }
}

/// Gives the one stream, once.
struct Ready(Option<QuicIo>);

impl Service<Uri> for Ready {
    type Response = QuicIo;
    type Error = std::io::Error;
    type Future = std::future::Ready<std::io::Result<QuicIo>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().ok_or_else(|| std::io::ErrorKind::NotConnected.into()))
    }
}
