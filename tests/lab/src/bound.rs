//! A connection to the collector, and the value that only its two ends know: enrolment is proved over that.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use zerkalo_core::identity::{BINDING_LABEL, Binding};
use zerkalo_core::target::TargetUrl;

/// Connects without a certificate, trusting `ca_pem` alone.
pub async fn connect(url: &str, ca_pem: &str) -> Result<(Channel, Binding)> {
    let target = TargetUrl::parse(url)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp =
        TcpStream::connect((target.host(), target.port())).await.context("the collector is not there")?;
    let name = ServerName::try_from(target.host())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let binding = Binding(stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None)?);
    let made = Made(Arc::new(Mutex::new(Some(stream))));
    let channel = Endpoint::from_static("http://collector").connect_with_connector(made).await?;
    Ok((channel, binding))
}

/// Gives the one connection there is.
#[derive(Clone)]
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
