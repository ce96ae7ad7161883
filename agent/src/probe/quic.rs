//! The QUIC step: one handshake with ALPN h3, with all that came back. Whether to run it, and what to ask over it, is the
//! business of others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{ClientConfig, ConnectionError, Endpoint, TransportConfig};
use rustls::crypto::CryptoProvider;
use tokio::time::{Instant, timeout_at};
use zerkalo_core::record::{Arm, BODY_LEN_MAX, QuicHandshake, QuicOutcome};

use super::chain::{ChainRecorder, Trust};
use super::client_hello::{ClientHello, Over};
use super::clock::StepClock;
use super::quic_socket::CountingSocket;
use super::tls::HelloShape;
use crate::datagrams;

/// Bytes of one answer, and of all streams, that may be unread.
const STREAM_WINDOW: u32 = BODY_LEN_MAX as u32;
/// See [`STREAM_WINDOW`].
const CONNECTION_WINDOW: u32 = 2 * STREAM_WINDOW;
/// Streams a server may open: control, two of QPACK, one that greases, and some to spare.
const UNI_STREAMS_MAX: u32 = 8;

/// Who is asked, and by which name.
#[derive(Debug, Clone)]
pub struct QuicHello<'a> {
    pub arm: Arm,
    pub address: SocketAddr,
    /// A host name, or an address as text: then no name is shown.
    pub host: &'a str,
}

/// A connection on which a handshake was completed. Closed when dropped.
#[derive(Debug)]
pub struct QuicConnection {
    pub connection: quinn::Connection,
    pub socket: Arc<CountingSocket>,
    pub address: SocketAddr,
    _endpoint: ClosingEndpoint,
}

/// An endpoint whose connections end with it, and say so.
#[derive(Debug)]
struct ClosingEndpoint(Endpoint);

impl Drop for ClosingEndpoint {
    fn drop(&mut self) {
        self.0.close(0u32.into(), b"");
    }
}

/// Shakes hands. A new source port each time: some blocks stick to the 4-tuple.
pub async fn handshake(
    hello: QuicHello<'_>,
    trust: &Trust,
    cap: Duration,
    clock: StepClock,
) -> (QuicHandshake, Option<QuicConnection>) {
    let (since, until) = (Instant::now(), clock.until(cap));
    let recorder = trust.recorder();
    let mut step = QuicHandshake {
        arm: hello.arm,
        address: hello.address,
        sni: hello.host.to_owned(),
        span: clock.span(since),
        bytes_sent: 0,
        bytes_received: 0,
        outcome: QuicOutcome::Timeout,
        chain: Vec::new(),
        chain_fault: None,
        datagrams_received: 0,
        first_received: Vec::new(),
        versions_offered: Vec::new(),
        ja4: String::new(),
    };
    let prepared = client_config(trust, recorder.clone()).and_then(|tls| {
        step.ja4 = ja4(&tls, hello.host).unwrap_or_default();
        prepare(hello.address, tls)
    });
    let (endpoint, socket) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return (QuicHandshake { outcome: QuicOutcome::Failed(error), ..step }, None),
    };
    let mut connection = None;
    step.outcome = match endpoint.0.connect(hello.address, hello.host) {
        Err(error) => QuicOutcome::Failed(error.to_string()),
        Ok(connecting) => tokio::select! {
            biased;
            () = socket.flooded() => QuicOutcome::Failed("more than any handshake needs".to_owned()),
            connected = timeout_at(until, connecting) => match connected {
                Ok(Ok(connected)) => {
                    let alpn = alpn_of(&connected);
                    connection = Some(connected);
                    QuicOutcome::Completed { alpn }
                }
                Err(_) | Ok(Err(ConnectionError::TimedOut)) => QuicOutcome::Timeout,
                Ok(Err(ConnectionError::LocallyClosed)) => QuicOutcome::Failed("closed on this side".to_owned()),
                Ok(Err(error)) => QuicOutcome::Closed(error.to_string()),
            },
            () = socket.refused() => QuicOutcome::Refused,
        },
    };
    (step.bytes_sent, step.bytes_received) = (socket.sent(), socket.received());
    step.datagrams_received = socket.datagrams();
    step.first_received = socket.first_received();
    step.versions_offered = socket.versions_offered();
    if let Some((chain, fault)) = recorder.seen() {
        (step.chain, step.chain_fault) = (chain, Some(fault));
    }
    step.span = clock.span(since);
    let connected = connection.map(|connection| QuicConnection {
        connection,
        socket,
        address: hello.address,
        _endpoint: endpoint,
    });
    (step, connected)
}

/// The UDP port of h3 in an Alt-Svc header (RFC 7838), where it is offered at the same host.
pub fn advertised_port(alt_svc: &str) -> Option<u16> {
    alt_svc.split(',').find_map(|service| {
        let authority = service.trim().strip_prefix("h3=\":")?;
        authority.split('"').next()?.parse().ok().filter(|port| *port != 0)
    })
}

/// What a box that opens our Initial packet sees: on the wire it lies under keys, so a twin of the hello is read instead,
/// made by the same configuration. What differs between two of them, JA4 leaves out.
fn ja4(tls: &Arc<rustls::ClientConfig>, host: &str) -> Option<String> {
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).ok()?;
    let version = rustls::quic::Version::V1;
    let mut twin = rustls::quic::ClientConnection::new(Arc::clone(tls), version, name, Vec::new()).ok()?;
    let mut message = Vec::new();
    twin.write_hs(&mut message);
    ClientHello::read_message(&message).map(|hello| hello.ja4(Over::Quic))
}

fn client_config(trust: &Trust, recorder: Arc<ChainRecorder>) -> Result<Arc<rustls::ClientConfig>, String> {
    let kx_groups = HelloShape::PostQuantum.groups();
    let provider = CryptoProvider { kx_groups, ..(*trust.provider()).clone() };
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(recorder)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    Ok(Arc::new(tls))
}

fn prepare(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
) -> Result<(ClosingEndpoint, Arc<CountingSocket>), String> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let socket = CountingSocket::connect(address).map_err(|error| error.to_string())?;
    let mut endpoint = datagrams::endpoint(socket.clone()).map_err(|error| error.to_string())?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(limits()));
    endpoint.set_default_client_config(config);
    Ok((ClosingEndpoint(endpoint), socket))
}

/// What a peer may have under way at once: one answer, and the streams HTTP/3 keeps for itself.
fn limits() -> TransportConfig {
    let mut limits = TransportConfig::default();
    limits.stream_receive_window(STREAM_WINDOW.into());
    limits.receive_window(CONNECTION_WINDOW.into());
    limits.max_concurrent_bidi_streams(0u32.into());
    limits.max_concurrent_uni_streams(UNI_STREAMS_MAX.into());
    limits.datagram_receive_buffer_size(None);
    limits
}

fn alpn_of(connection: &quinn::Connection) -> Option<String> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    data.protocol.map(|protocol| String::from_utf8_lossy(&protocol).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_h3_at_the_same_host_is_taken() {
        let check = |alt_svc: &str, expected| assert_eq!(advertised_port(alt_svc), expected, "{alt_svc}");
        check("h3=\":443\"; ma=86400", Some(443));
        check("h2=\":443\", h3=\":8443\"", Some(8443));
        check("h3-29=\":443\"", None);
        check("h3=\"other.example:443\"", None);
        check("h3=\":99999\"", None);
        check("clear", None);
    }
}
