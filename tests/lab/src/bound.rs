//! A connection to the collector, and the value that only its two ends know: enrolment is proved over that.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use zerkalo_core::identity::{BINDING_LABEL, Binding};
use zerkalo_core::target::TargetUrl;

/// How often an idle line is asked whether it lives, and how long the answer may take: as the agent does.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// See [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS that trusts `ca_pem` alone, and shows a certificate if there is one.
pub fn tls(ca_pem: &str, own: Option<(&str, &str)>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = match own {
        Some((certificate_pem, key_pem)) => {
            let chain =
                CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect::<Result<_, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Connects, within so long; gives what only both ends know, too.
pub async fn connect(url: &str, tls: Arc<ClientConfig>, patience: Duration) -> Result<(Channel, Binding)> {
    let target = TargetUrl::parse(url)?;
    let name = ServerName::try_from(target.host())?;
    let connecting = async {
        let tcp = TcpStream::connect((target.host(), target.port()));
        let tcp = tcp.await.context("the collector is not there")?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let binding = Binding(stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None)?);
        let made = Made(Arc::new(Mutex::new(Some(stream))));
        let endpoint = Endpoint::from_static("http://collector")
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        anyhow::Ok((endpoint.connect_with_connector(made).await?, binding))
    };
    tokio::time::timeout(patience, connecting).await.context("no connection in time")?
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
