//! The TLS step: one handshake over one connection, with what the ClientHello met. Which name to show and what the
//! chain is worth are the caller's and the judge's business.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::EchStatus;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, Error as TlsError, PeerIncompatible};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zerkalo_core::record::{Arm, ChainFault, Ech, TlsHandshake, TlsOutcome};

use super::chain::{ChainRecorder, Trust};
use super::client_hello::{ClientHello, Over};
use super::clock::StepClock;
use super::ech::{self, EchOffer};
use super::tap::{Duplex, End, Tap, Tapped};

/// A connection on which a handshake was completed.
pub struct TlsConnection {
    pub stream: TlsStream<Box<dyn Duplex>>,
    pub tap: Arc<Tap>,
    pub is_h2: bool,
}

/// What the ClientHello offers. Boxes on the way have been seen to judge, and to choke on, its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloShape {
    /// As today's browsers: a post-quantum key share (1.2 KB) beside the classic one. Seldom fits one segment.
    PostQuantum,
    /// The classic key share alone, in a hello that fits one segment.
    Classic,
}

impl HelloShape {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PostQuantum => "pq",
            Self::Classic => "classic",
        }
    }

    /// Key shares go out for the first group, and for the classic half of a hybrid one.
    pub(super) fn groups(self) -> Vec<&'static dyn SupportedKxGroup> {
        match self {
            Self::PostQuantum => vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
            Self::Classic => vec![X25519, SECP256R1, SECP384R1],
        }
    }
}

/// Who is asked, by which name, and how.
#[derive(Debug, Clone)]
pub struct Hello<'a> {
    pub arm: Arm,
    pub address: SocketAddr,
    /// A host name, or an address as text: then no name is shown.
    pub host: &'a str,
    pub shape: HelloShape,
}

/// Shakes hands over `stream`.
pub async fn handshake(
    hello: Hello<'_>,
    stream: TcpStream,
    trust: &Trust,
    cap: Duration,
    clock: StepClock,
) -> (TlsHandshake, Option<TlsConnection>) {
    handshake_with(hello, None, stream, trust, cap, clock).await
}

/// The same, perhaps with ECH: then by TLS 1.3 alone, and with whatever name the offer shows.
pub async fn handshake_with(
    hello: Hello<'_>,
    offer: Option<&EchOffer>,
    stream: TcpStream,
    trust: &Trust,
    cap: Duration,
    clock: StepClock,
) -> (TlsHandshake, Option<TlsConnection>) {
    let (since, until) = (Instant::now(), clock.until(cap));
    let (stream, tap) = Tapped::new(stream);
    let stream: Box<dyn Duplex> = Box::new(stream);
    let recorder = trust.recorder();
    let server_name = ServerName::try_from(hello.host.to_owned());
    let sni = match (&server_name, offer) {
        (Ok(ServerName::DnsName(_)), Some(offer)) => shown_name(trust, offer, hello.host),
        (Ok(ServerName::DnsName(name)), None) => Some(name.as_ref().to_owned()),
        _ => None,
    };
    let config = client_config(trust, recorder.clone(), hello.shape, offer);
    let mut ech = offer.map_or(Ech::Absent, EchOffer::before_an_answer);
    let (outcome, connection) = match (server_name, config) {
        (Ok(name), Ok(config)) => {
            match timeout_at(until, TlsConnector::from(Arc::new(config)).connect(name, stream)).await {
                Ok(Ok(stream)) => {
                    ech = ech_of(stream.get_ref().1.ech_status());
                    (completed(&stream), Some(stream))
                }
                Ok(Err(error)) => {
                    if is_ech_rejection(&error) {
                        ech = Ech::Rejected;
                    }
                    (outcome_of(&error, &tap), None)
                }
                Err(_) => (TlsOutcome::Timeout, None),
            }
        }
        (Err(_), _) => (TlsOutcome::Failed(format!("{:?} is no name for TLS", hello.host)), None),
        (_, Err(error)) => (TlsOutcome::Failed(error.to_string()), None),
    };
    let transport = tap.transport();
    let (chain, chain_fault) =
        recorder.seen().map_or((Vec::new(), None), |(chain, fault)| (chain, Some(fault)));
    let step = TlsHandshake {
        ja4: ClientHello::read(&tap.take_first_flight()).map_or_else(String::new, |sent| sent.ja4(Over::Tcp)),
        ech,
        arm: hello.arm,
        address: hello.address,
        sni,
        span: clock.span(since),
        hello_shape: hello.shape.as_str().to_owned(),
        hello_len: tap.first_flight_len(),
        bytes_sent: tap.sent(),
        bytes_received: tap.received(),
        outcome,
        transport,
        chain,
        chain_fault,
    };
    let connection = connection.map(|stream| {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        TlsConnection { stream, tap, is_h2 }
    });
    (step, connection)
}

/// Whether a browser would have gone on without a warning.
pub fn is_trusted(step: &TlsHandshake) -> bool {
    matches!(step.outcome, TlsOutcome::Completed { .. }) && step.chain_fault == Some(ChainFault::Valid)
}

/// The name that a hello with this offer shows to boxes on the way.
pub fn shown_name(trust: &Trust, offer: &EchOffer, host: &str) -> Option<String> {
    let config = client_config(trust, trust.recorder(), HelloShape::PostQuantum, Some(offer)).ok()?;
    ech::shown_name(config, ServerName::try_from(host.to_owned()).ok()?)
}

fn client_config(
    trust: &Trust,
    recorder: Arc<ChainRecorder>,
    shape: HelloShape,
    offer: Option<&EchOffer>,
) -> Result<ClientConfig, TlsError> {
    let provider = CryptoProvider { kx_groups: shape.groups(), ..(*trust.provider()).clone() };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = match offer {
        None => builder.with_safe_default_protocol_versions()?,
        Some(offer) => builder.with_ech(offer.mode())?,
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(recorder).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session shows no chain.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn completed(stream: &TlsStream<Box<dyn Duplex>>) -> TlsOutcome {
    let connection = stream.get_ref().1;
    TlsOutcome::Completed {
        version: connection.protocol_version().map_or_else(String::new, |version| format!("{version:?}")),
        cipher_suite: connection
            .negotiated_cipher_suite()
            .map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        alpn: connection.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
    }
}

fn ech_of(status: EchStatus) -> Ech {
    match status {
        EchStatus::NotOffered => Ech::Absent,
        EchStatus::Grease => Ech::Grease,
        EchStatus::Offered => Ech::Offered,
        EchStatus::Accepted => Ech::Accepted,
        EchStatus::Rejected => Ech::Rejected,
    }
}

/// Whether the server shook hands as the front it is, and knew nothing of the configuration.
fn is_ech_rejection(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    matches!(error, Some(TlsError::PeerIncompatible(PeerIncompatible::ServerRejectedEncryptedClientHello(_))))
}

fn outcome_of(error: &io::Error, tap: &Tap) -> TlsOutcome {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        Some(TlsError::AlertReceived(alert)) => TlsOutcome::Alert(alert_name(*alert)),
        Some(protocol) => TlsOutcome::Protocol(protocol.to_string()),
        None => match (error.kind(), tap.end()) {
            (_, Some(End::Reset)) | (io::ErrorKind::ConnectionReset, _) => TlsOutcome::Reset,
            (_, Some(End::Eof)) | (io::ErrorKind::UnexpectedEof, _) => TlsOutcome::Eof,
            _ => TlsOutcome::Failed(error.to_string()),
        },
    }
}

/// The alert as RFC 8446 writes it: rustls has `HandshakeFailure`, the RFC `handshake_failure`.
fn alert_name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnrecognisedName => "unrecognized_name".to_owned(),
        AlertDescription::UnknownPSKIdentity => "unknown_psk_identity".to_owned(),
        AlertDescription::Unknown(code) => format!("alert_{code}"),
        known => {
            let (mut name, mut after_lower) = (String::new(), false);
            for letter in format!("{known:?}").chars() {
                if letter.is_ascii_uppercase() && after_lower {
                    name.push('_');
                }
                after_lower = letter.is_ascii_lowercase();
                name.push(letter.to_ascii_lowercase());
            }
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_named_as_the_rfc_names_them() {
        let check = |alert, name| assert_eq!(alert_name(alert), name);
        check(AlertDescription::HandshakeFailure, "handshake_failure");
        check(AlertDescription::UnknownCA, "unknown_ca");
        check(AlertDescription::UnrecognisedName, "unrecognized_name");
        check(AlertDescription::BadRecordMac, "bad_record_mac");
        check(AlertDescription::Unknown(200), "alert_200");
    }
}
