//! Connections to the collector: gRPC over TLS, over TCP or inside one stream of QUIC. The name by hickory (the system's
//! resolvers and hosts file), then mTLS under the pinned CA alone. What is said over them is the business of `enroll.rs`
//! and `uplink.rs`, which of them is tried when that of `paths.rs`.

mod address;
mod calls;
mod meter;
mod quic;
mod trust;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zerkalo_core::identity::{BINDING_LABEL, Binding};

use crate::probe::gauge::Gauge;
use crate::probe::tap::Duplex;
use crate::quiet::Quiet;
use crate::state::Credentials;

pub use address::{Address, AddressError, Transport};
pub use calls::Channel;
pub use meter::{Meter, Traffic};
pub use trust::{Refusal, Trust, TrustError};

/// Longest wait for name, connection and handshake together, where nobody knows better.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// So long at least nothing came where the last question whether it lives was not answered; timers are a little early.
const SILENCE_MIN: Duration =
    calls::KEEPALIVE_INTERVAL.saturating_add(calls::KEEPALIVE_TIMEOUT).saturating_sub(Duration::from_secs(1));
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("the uplink's certificates cannot be used")]
    Trust(#[from] TrustError),
    #[error("no connection to {url}")]
    Connect {
        url: String,
        #[source]
        source: io::Error,
    },
    #[error("no connection to {url}: {refusal}")]
    Intercepted { url: String, refusal: Refusal },
    #[error("no connection to {url}")]
    Speak {
        url: String,
        #[source]
        source: hyper::Error,
    },
    #[error("no connection to {url} within {} s", waited.as_secs())]
    Timeout { url: String, waited: Duration },
}

/// A connection, and what passed over it.
#[derive(Debug)]
pub struct Line {
    pub channel: Channel,
    pub meter: Arc<Meter>,
    /// What a proof is bound to: the value that only the two ends of this very session know (RFC 5705).
    pub binding: Binding,
    /// The kernel's own count, over TCP.
    gauge: Option<Gauge>,
}

impl Line {
    /// Whether the other end left the last question whether it lives unanswered. By QUIC a probe may have kept the answer.
    pub fn is_dead(&self) -> bool {
        self.gauge.is_some() && self.meter.silence() >= SILENCE_MIN
    }

    /// Bytes that reached the other end, and that came from there. Where nobody knows what reached it, what was sent.
    pub fn carried(&self) -> (u64, u64) {
        match self.gauge.as_ref().and_then(Gauge::read) {
            Some(seen) => (seen.bytes_acked, seen.bytes_received),
            None => (self.meter.sent(), self.meter.received()),
        }
    }
}

/// Connects with the box's own certificate, or with what `trust` was made of. Bytes count towards `traffic` too. QUIC waits
/// for the `quiet` between probes.
pub async fn connect(
    address: &Address,
    trust: &Trust,
    patience: Duration,
    traffic: &Arc<Traffic>,
    quiet: &Quiet,
) -> Result<Line, ChannelError> {
    let url = || address.to_string();
    let meter = Meter::new(traffic.clone());
    trust.forget_refusal();
    let wiring = async {
        match address.transport {
            Transport::Tcp => tcp(address, trust, &meter).await,
            Transport::Quic => quic::open(address, trust, &meter, quiet).await,
        }
    };
    let Wired { wire, gauge, binding } = match tokio::time::timeout(patience, wiring).await {
        Ok(Ok(wired)) => wired,
        Ok(Err(source)) => {
            return Err(match trust.refusal() {
                Some(refusal) => ChannelError::Intercepted { url: url(), refusal },
                None => ChannelError::Connect { url: url(), source },
            });
        }
        Err(_) => return Err(ChannelError::Timeout { url: url(), waited: patience }),
    };
    match tokio::time::timeout(patience, Channel::open(wire, answer_wait(address.transport))).await {
        Ok(Ok(channel)) => Ok(Line { channel, meter, binding, gauge }),
        Ok(Err(source)) => Err(ChannelError::Speak { url: url(), source }),
        Err(_) => Err(ChannelError::Timeout { url: url(), waited: patience }),
    }
}

/// How long the answer may take whether the other end lives.
fn answer_wait(transport: Transport) -> Duration {
    match transport {
        Transport::Tcp => calls::KEEPALIVE_TIMEOUT,
        // A probe may keep the question, or the answer, for as long as it runs.
        Transport::Quic => quic::IDLE_MAX,
    }
}

/// What an enrolled box trusts and shows, for a collector that goes by the names of `addresses`.
pub fn trust(credentials: &Credentials, addresses: &[Address]) -> Result<Trust, TrustError> {
    let names: Vec<String> = addresses.iter().map(|address| address.host.clone()).collect();
    Trust::new(credentials, &names)
}

/// Checks a collector's URL without connecting.
pub fn check_url(url: &str) -> Result<(), ChannelError> {
    Address::parse(url).map(drop).map_err(ChannelError::Address)
}

/// A connection whose hands are shaken.
struct Wired {
    wire: Box<dyn Duplex>,
    binding: Binding,
    gauge: Option<Gauge>,
}

async fn tcp(address: &Address, trust: &Trust, meter: &Arc<Meter>) -> io::Result<Wired> {
    let stream = dial(&address.host, address.port).await?;
    let gauge = Gauge::on(&stream);
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    let metered: Box<dyn Duplex> = Box::new(meter.on(stream));
    let stream = TlsConnector::from(trust.tcp()).connect(name, metered).await?;
    let binding = stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None);
    let binding = binding.map(Binding).map_err(io::Error::other)?;
    Ok(Wired { wire: Box::new(stream), binding, gauge })
}

/// Connects to the host, whichever of its addresses answers.
pub async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in resolve(host).await?.into_iter().take(ADDRESSES_MAX) {
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
