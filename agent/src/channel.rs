//! Connections to the collector: the name by hickory (the system's resolvers and hosts file), then mTLS under the pinned
//! CA alone. What is said over them is the business of `enroll.rs` and `uplink.rs`.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use zerkalo_core::target::{TargetError, TargetUrl};

use crate::state::Credentials;

/// Longest wait for name, connection and handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often an idle stream is asked whether it still lives: mobile NATs forget it within minutes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// How long the answer may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the collector's URL cannot be used")]
    Url(#[source] TargetError),
    #[error("the collector's URL {url} is not https; agents speak to it over TLS only")]
    NotHttps { url: String },
    #[error("the uplink's certificates cannot be used")]
    Tls(#[source] tonic::transport::Error),
    #[error("no connection to {url}")]
    Connect {
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("no connection to {url} within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout { url: String },
}

/// Connects with the box's own certificate.
pub async fn connect(url: &str, credentials: &Credentials) -> Result<Channel, ChannelError> {
    let identity = Identity::from_pem(&credentials.certificate_pem, &credentials.key_pem);
    open(url, &credentials.ca_pem, Some(identity)).await
}

/// Connects without a certificate: to enrol.
pub async fn connect_anonymous(url: &str, ca_pem: &str) -> Result<Channel, ChannelError> {
    open(url, ca_pem, None).await
}

/// Checks a collector's URL without connecting.
pub fn check_url(url: &str) -> Result<TargetUrl, ChannelError> {
    let parsed = TargetUrl::parse(url).map_err(ChannelError::Url)?;
    if parsed.is_https() { Ok(parsed) } else { Err(ChannelError::NotHttps { url: url.to_owned() }) }
}

async fn open(url: &str, ca_pem: &str, identity: Option<Identity>) -> Result<Channel, ChannelError> {
    let target = check_url(url)?;
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca_pem))
        .domain_name(target.host())
        .assume_http2(true);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", target.authority()))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(ChannelError::Tls)?
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let dialer = Dialer { host: target.host(), port: target.port() };
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(dialer)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(source)) => Err(ChannelError::Connect { url: url.to_owned(), source }),
        Err(_) => Err(ChannelError::Timeout { url: url.to_owned() }),
    }
}

/// Makes the TCP connection under the channel.
#[derive(Debug, Clone)]
struct Dialer {
    host: String,
    port: u16,
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { host, port } = self.clone();
        Box::pin(async move { dial(&host, port).await.map(TokioIo::new) })
    }
}

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in resolve(host).await? {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The host's addresses; where the system names no resolver, from the one on this host, as resolv.conf(5) has it.
async fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
        let own = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        let config = ResolverConfig::from_parts(None, vec![], vec![own]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    });
    let resolver = builder.build().map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    Ok(found.iter().collect())
}
