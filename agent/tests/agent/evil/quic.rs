//! Mirrors that advertise h3, and what may wait at the UDP port. Packets by hand are those of RFC 9000, 17.2.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::ConnectionId;
use quinn::crypto::ServerConfig as _;
use quinn::crypto::rustls::QuicServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;

use super::child::Scene;
use super::ground::{linger, over_tls, read_head, with_config};
use super::{Behaviour, evil};
use crate::world::{Authority, HOST, SILENT_PORT, loopback};

/// Datagrams a flood answers with, each as long as a flight may be.
const FLOOD_DATAGRAMS: usize = 2_000;

pub fn behaviours() -> Vec<Behaviour> {
    vec![
        evil("silence by UDP", "quic: timeout", || replying(|_| vec![])),
        evil("a closed UDP port", "quic: refused", || async {
            advertising(&format!("h3=\":{SILENT_PORT}\"")).await
        }),
        evil("garbage by UDP", "quic: timeout", || replying(|_| vec![vec![0x5a; 1_200]; 20])),
        evil("empty datagrams", "quic: timeout", || replying(|_| vec![vec![]; 20])),
        evil("the Initial sent back", "quic: timeout", || replying(|datagram| vec![datagram.to_vec()])),
        evil("the Initial with one bit turned", "quic: timeout", || {
            replying(|datagram| {
                let mut turned = datagram.to_vec();
                turned[40] ^= 1;
                vec![turned]
            })
        }),
        evil("a flood by UDP", "quic: failed: more than any handshake needs", || {
            replying(|datagram| vec![datagram.to_vec(); FLOOD_DATAGRAMS])
        }),
        evil("no version in common", "quic: closed, *", || replying(|datagram| vec![versions(datagram, 1)])),
        evil("300 versions, again and again", "quic: closed, *", || {
            replying(|datagram| vec![versions(datagram, 300); 200])
        }),
        evil("a version that was offered", "quic: timeout", || {
            replying(|datagram| {
                let mut packet = versions(datagram, 0);
                packet.extend_from_slice(&1u32.to_be_bytes());
                vec![packet]
            })
        }),
        evil("retry for ever", "quic: timeout", retry_for_ever),
        evil("retry with a false tag", "quic: timeout", || {
            replying(|datagram| vec![retry(datagram, &[0; 16])])
        }),
        evil("stateless resets", "quic: timeout", || replying(|_| vec![vec![0x40; 43]; 50])),
        evil("a long header and no more", "quic: timeout", || replying(|_| vec![vec![0xc0], vec![0xc0; 6]])),
        evil("an id of 255 bytes", "quic: timeout", || {
            replying(|_| vec![[&[0xc0, 0, 0, 0, 1, 0xff][..], &[7; 600]].concat()])
        }),
        evil("closed at once", "quic: closed, *", || server(|incoming| async move { incoming.refuse() })),
        evil("a chain of 100 under another's key", "quic: closed, *", chain_of_100),
        evil("h3 at port 0", "h1: 200, 5 bytes, complete", || advertising("h3=\":0\"")),
        evil("h3 at ten thousand places", "h1: 200, 5 bytes, complete", || async {
            advertising(&"h3=\"other.example:443\", ".repeat(2_000)).await
        }),
    ]
}

/// A mirror whose h3 is answered datagram by datagram.
async fn replying(reply: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Scene {
    let udp = UdpSocket::bind((loopback(1), 0)).await.unwrap();
    let port = udp.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 65_536];
        while let Ok((len, peer)) = udp.recv_from(&mut buffer).await {
            for datagram in reply(&buffer[..len]) {
                // A visitor that has gone says so.
                let _ = udp.send_to(&datagram, peer).await;
            }
        }
    });
    advertising(&format!("h3=\":{port}\"")).await
}

/// A mirror with this Alt-Svc header.
async fn advertising(alt_svc: &str) -> Scene {
    let answer = format!("HTTP/1.1 200 OK\r\nalt-svc: {alt_svc}\r\ncontent-length: 5\r\n\r\nhello");
    over_tls("http/1.1", move |mut stream| {
        let answer = answer.clone();
        async move {
            read_head(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
            linger(stream).await
        }
    })
    .await
}

/// A real QUIC server with a good certificate.
async fn server<F>(serve: impl Fn(quinn::Incoming) -> F + Send + Sync + 'static) -> Scene
where
    F: Future<Output = ()> + Send + 'static,
{
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto()));
    let endpoint = quinn::Endpoint::server(config, SocketAddr::new(loopback(1), 0)).unwrap();
    let port = endpoint.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(serve(incoming));
        }
    });
    advertising(&format!("h3=\":{port}\"")).await
}

async fn chain_of_100() -> Scene {
    let authority = Authority::new();
    let (mut config, leaf) = crate::world::self_signed(&[HOST]);
    let key = rcgen::KeyPair::generate().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = Arc::new(rustls::sign::CertifiedKey::new(vec![leaf; 100], key));
    let tls = Arc::make_mut(&mut config);
    tls.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicServerConfig::try_from(tls.clone()).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, SocketAddr::new(loopback(1), 0)).unwrap();
    let port = endpoint.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move { drop(incoming.await) });
        }
    });
    let answer = format!("HTTP/1.1 200 OK\r\nalt-svc: h3=\":{port}\"\r\ncontent-length: 5\r\n\r\nhello");
    let https = authority.server(&[HOST]);
    with_config(&authority, https, move |mut stream| {
        let answer = answer.clone();
        async move {
            read_head(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
            linger(stream).await
        }
    })
    .await
}

fn crypto() -> QuicServerConfig {
    let mut tls = (*Authority::new().server(&[HOST])).clone();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    QuicServerConfig::try_from(tls).unwrap()
}

/// Both connection ids of a long header: the destination's and the source's.
fn ids(datagram: &[u8]) -> (&[u8], &[u8]) {
    let destination_end = 6 + usize::from(datagram[5]);
    let source_end = destination_end + 1 + usize::from(datagram[destination_end]);
    (&datagram[6..destination_end], &datagram[destination_end + 1..source_end])
}

/// A Version Negotiation packet that offers `count` versions nobody speaks.
fn versions(datagram: &[u8], count: u32) -> Vec<u8> {
    let (theirs, ours) = ids(datagram);
    let mut packet =
        [&[0x80, 0, 0, 0, 0][..], &[ours.len() as u8], ours, &[theirs.len() as u8], theirs].concat();
    for n in 0..count {
        packet.extend_from_slice(&(0x1a2a_3a4a + n).to_be_bytes());
    }
    packet
}

fn retry(datagram: &[u8], tag: &[u8]) -> Vec<u8> {
    let (_, ours) = ids(datagram);
    let new_id = [0x77; 8];
    let head = [&[0xf0, 0, 0, 0, 1][..], &[ours.len() as u8], ours, &[8], &new_id].concat();
    [&head, &b"a token"[..], tag].concat()
}

async fn retry_for_ever() -> Scene {
    let crypto = crypto();
    replying(move |datagram| {
        let untagged = retry(datagram, &[]);
        let tag = crypto.retry_tag(1, &ConnectionId::new(ids(datagram).0), &untagged);
        vec![retry(datagram, &tag)]
    })
    .await
}
