//! The QUIC step: only where the mirror advertised h3, and told apart by how it ended.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};
use zerkalo_core::record::{ProbeRecord, QuicOutcome};

use crate::world::*;

/// Measures a mirror that advertises h3 at `port`.
async fn measure_advertising(authority: &Authority, port: u16) -> ProbeRecord {
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let https = listener.local_addr().unwrap().port();
    let bytes = format!(
        "HTTP/1.1 200 OK\r\nalt-svc: h3=\":{port}\"; ma=60\r\ncontent-length: {}\r\n\r\n{CANARY}",
        CANARY.len()
    );
    let pages = always(bytes.into_bytes(), After::Continue);
    tls_server(listener, vec![("", Front::Serve(authority.server(&[HOST]), pages))]).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(2)]))]).await;
    let mut settings = settings(authority, system, None);
    settings.caps.quic = std::time::Duration::from_secs(3);
    probe(&settings, &format!("https://{HOST}:{https}/")).await.record
}

#[tokio::test]
async fn a_handshake_that_completes_names_its_protocol() {
    let authority = Authority::new();
    let mut tls = (*authority.server(&[HOST])).clone();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let server = quinn::Endpoint::server(config, SocketAddr::new(loopback(2), 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            tokio::spawn(async move { drop(incoming.await) });
        }
    });
    let record = measure_advertising(&authority, port).await;
    let [step] = &record.quic[..] else { panic!("{record:?}") };
    assert_eq!(step.outcome, QuicOutcome::Completed { alpn: Some("h3".to_owned()) });
    assert!(step.bytes_sent >= 1_200 && step.bytes_received >= 1_200, "{step:?}");
}

#[tokio::test]
async fn silence_is_a_timeout_with_no_byte_received() {
    let silent = UdpSocket::bind((loopback(2), 0)).await.unwrap();
    let record = measure_advertising(&Authority::new(), silent.local_addr().unwrap().port()).await;
    let [step] = &record.quic[..] else { panic!("{record:?}") };
    assert_eq!((&step.outcome, step.bytes_received), (&QuicOutcome::Timeout, 0));
    assert!(step.bytes_sent >= 1_200);
}

#[tokio::test]
async fn a_closed_port_is_a_refusal() {
    let closed = UdpSocket::bind((loopback(2), 0)).await.unwrap().local_addr().unwrap().port();
    let record = measure_advertising(&Authority::new(), closed).await;
    let [step] = &record.quic[..] else { panic!("{record:?}") };
    assert_eq!(step.outcome, QuicOutcome::Refused);
}
