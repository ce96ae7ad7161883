//! The QUIC step: one handshake with ALPN h3, run only where the mirror advertised h3. No HTTP/3 request follows: what
//! a censor does to QUIC it does to the handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig};
use quinn::{ClientConfig, ConnectionError, Endpoint};
use tokio::time::{Instant, timeout_at};
use zerkalo_core::record::{Arm, QuicHandshake, QuicOutcome};

use super::chain::Trust;
use super::clock::StepClock;
use super::quic_socket::CountingSocket;

/// Shakes hands with `address`, showing `host`. A new source port each time: some blocks stick to the 4-tuple.
pub async fn handshake(
    address: SocketAddr,
    host: &str,
    trust: &Trust,
    cap: Duration,
    clock: StepClock,
) -> QuicHandshake {
    let (since, until) = (Instant::now(), clock.until(cap));
    let (counts, outcome) = match prepare(address, trust) {
        Err(error) => (None, QuicOutcome::Failed(error)),
        Ok((endpoint, socket)) => {
            let outcome = match endpoint.connect(address, host) {
                Err(error) => QuicOutcome::Failed(error.to_string()),
                Ok(connecting) => tokio::select! {
                    biased;
                    connected = timeout_at(until, connecting) => outcome_of(connected),
                    () = socket.refused() => QuicOutcome::Refused,
                },
            };
            endpoint.close(0u32.into(), b"");
            (Some(socket), outcome)
        }
    };
    QuicHandshake {
        arm: Arm::Main,
        chain: Vec::new(),
        chain_fault: None,
        datagrams_received: 0,
        first_received: Vec::new(),
        versions_offered: Vec::new(),
        address,
        sni: host.to_owned(),
        span: clock.span(since),
        bytes_sent: counts.as_ref().map_or(0, |socket| socket.sent()),
        bytes_received: counts.as_ref().map_or(0, |socket| socket.received()),
        outcome,
    }
}

/// The UDP port of h3 in an Alt-Svc header (RFC 7838), where it is offered at the same host.
pub fn advertised_port(alt_svc: &str) -> Option<u16> {
    alt_svc.split(',').find_map(|service| {
        let authority = service.trim().strip_prefix("h3=\":")?;
        authority.split('"').next()?.parse().ok().filter(|port| *port != 0)
    })
}

fn prepare(address: SocketAddr, trust: &Trust) -> Result<(Endpoint, Arc<CountingSocket>), String> {
    let mut tls = rustls::ClientConfig::builder_with_provider(trust.provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(trust.recorder())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket =
        CountingSocket::connect(SocketAddr::new(any, 0), address).map_err(|error| error.to_string())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut endpoint =
        Endpoint::new_with_abstract_socket(quinn::EndpointConfig::default(), None, socket.clone(), runtime)
            .map_err(|error| error.to_string())?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    Ok((endpoint, socket))
}

fn outcome_of(
    connected: Result<Result<quinn::Connection, ConnectionError>, tokio::time::error::Elapsed>,
) -> QuicOutcome {
    match connected {
        Err(_) | Ok(Err(ConnectionError::TimedOut)) => QuicOutcome::Timeout,
        Ok(Ok(connection)) => QuicOutcome::Completed { alpn: alpn_of(&connection) },
        Ok(Err(ConnectionError::LocallyClosed)) => QuicOutcome::Failed("closed on this side".to_owned()),
        Ok(Err(error)) => QuicOutcome::Closed(error.to_string()),
    }
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
