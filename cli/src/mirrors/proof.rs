//! Looks for the text that proves a host to be the operator's: over DNS, then over HTTP at the host's public addresses.
//!
//! Redirects prove nothing and are not followed. The address that was checked is the one connected to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use zerkalo_core::address::require_public;
use zerkalo_core::target::TargetUrl;

/// Before the host in the name of the TXT record.
const LABEL: &str = "_zerkalo";
/// Where the site serves the text.
const PATH: &str = "/.well-known/zerkalo.txt";
/// Largest file read, in bytes: some operators share a host.
const BODY_LEN_MAX: usize = 4_096;
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 4;
/// Longest wait for one way.
const TIMEOUT: Duration = Duration::from_secs(10);

/// By which means a host is looked at.
#[derive(Debug, Args)]
pub struct Means {
    /// Ask this resolver instead of the system's.
    #[arg(long, value_name = "IP:PORT", env = "ZERKALO_RESOLVER", hide_env_values = true)]
    resolver: Option<SocketAddr>,
    /// Trust the authorities in this PEM file instead of the public ones.
    #[arg(long, value_name = "FILE", env = "ZERKALO_VERIFY_CA", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// Connect to private and special addresses too: for tests alone.
    #[arg(long)]
    allow_private: bool,
}

/// Where the text was found.
#[derive(Debug, PartialEq, Eq)]
pub enum Looked {
    Txt,
    File,
    /// What was found instead, both ways.
    Nowhere(String),
}

/// Looks for `text` both ways. An error is of the means, not of the host.
pub async fn look(url: &TargetUrl, text: &str, means: &Means) -> Result<Looked> {
    let resolver = resolver_of(means)?;
    let trust = trust_of(means)?;
    let in_dns = match url.literal_address() {
        Some(_) => Err(anyhow!("an address has no TXT record")),
        None => within(txt(&resolver, &url.host(), text)).await,
    };
    let Err(no_txt) = in_dns else { return Ok(Looked::Txt) };
    match within(file(&resolver, url, text, means, trust)).await {
        Ok(()) => Ok(Looked::File),
        Err(no_file) => Ok(Looked::Nowhere(format!("{no_txt:#}; {no_file:#}"))),
    }
}

async fn within<T>(look: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(TIMEOUT, look).await {
        Ok(found) => found,
        Err(_) => bail!("no answer within {} s", TIMEOUT.as_secs()),
    }
}

async fn txt(resolver: &TokioResolver, host: &str, text: &str) -> Result<()> {
    let name = format!("{LABEL}.{}.", host.trim_end_matches('.'));
    let found =
        resolver.txt_lookup(name.as_str()).await.with_context(|| format!("no TXT record at {name}"))?;
    let records = found.answers().iter().filter_map(|record| match &record.data {
        hickory_resolver::proto::rr::RData::TXT(txt) => Some(txt.txt_data.concat()),
        _ => None,
    });
    let records: Vec<Vec<u8>> = records.collect();
    if records.iter().any(|record| record.trim_ascii() == text.as_bytes()) {
        return Ok(());
    }
    bail!("none of {} TXT records at {name} is the text", records.len())
}

async fn file(
    resolver: &TokioResolver,
    url: &TargetUrl,
    text: &str,
    means: &Means,
    trust: Arc<rustls::ClientConfig>,
) -> Result<()> {
    let scheme = if url.is_https() { "https" } else { "http" };
    let place = format!("{scheme}://{}{PATH}", url.authority());
    let addresses = match url.literal_address() {
        Some(address) => vec![address],
        None => {
            let found = resolver.lookup_ip(format!("{}.", url.host())).await;
            let found = found.with_context(|| format!("{} has no address", url.host()))?;
            found.iter().take(ADDRESSES_MAX).collect()
        }
    };
    let mut last = anyhow!("{} has no address", url.host());
    for address in addresses {
        let read = read_at(address, url, means, &trust).await;
        match read.with_context(|| format!("{place} at {address}")) {
            Ok(body)
                if body.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == text.as_bytes()) =>
            {
                return Ok(());
            }
            Ok(_) => last = anyhow!("{place} at {address} does not hold the text"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn read_at(
    address: IpAddr,
    url: &TargetUrl,
    means: &Means,
    trust: &Arc<rustls::ClientConfig>,
) -> Result<Bytes> {
    if !means.allow_private
        && let Err(range) = require_public(address)
    {
        bail!("the address lies in a private or special range ({range}) and is not connected to");
    }
    let stream = TcpStream::connect(SocketAddr::new(address, url.port())).await?;
    if !url.is_https() {
        return ask(stream, url).await;
    }
    let name = ServerName::try_from(url.host()).context("the host is no name for TLS")?;
    let stream = tokio_rustls::TlsConnector::from(trust.clone()).connect(name, stream).await?;
    ask(stream, url).await
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, url: &TargetUrl) -> Result<Bytes> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get(PATH)
        .header("host", url.authority())
        .header("user-agent", "zerkalo")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != hyper::StatusCode::OK {
            bail!("it answers {}", answer.status());
        }
        let body = Limited::new(answer.into_body(), BODY_LEN_MAX).collect().await;
        let body = body.map_err(|error| anyhow!("{error} (at most {BODY_LEN_MAX} bytes are read)"))?;
        Ok(body.to_bytes())
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

fn resolver_of(means: &Means) -> Result<TokioResolver> {
    let builder = match means.resolver {
        Some(address) => {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            server.connections.iter_mut().for_each(|connection| connection.port = address.port());
            let config = ResolverConfig::from_parts(None, vec![], vec![server]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        None => TokioResolver::builder_tokio()
            .context("this system names no resolver; give one with --resolver IP:PORT")?,
    };
    builder.build().context("no resolver can be made; give another with --resolver IP:PORT")
}

fn trust_of(means: &Means) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    match &means.ca {
        Some(path) => {
            let fail = || format!("cannot read certificates from {}", path.display());
            let pem = std::fs::read(path).with_context(fail)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.with_context(fail)?).with_context(fail)?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
