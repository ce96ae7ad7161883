//! Servers that break the connection or the handshake.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, DnValue, IsCa, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::child::Scene;
use super::ground::{drip, flood, https, linger, with_config};
use super::{Behaviour, evil};
use crate::world::{Authority, HOST};

/// A TLS record's types.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// A random that makes a ServerHello a HelloRetryRequest (RFC 8446, 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
/// supported_versions of a ServerHello that says TLS 1.3.
const TLS13: &[u8] = &[0, 43, 0, 2, 3, 4];

pub fn behaviours() -> Vec<Behaviour> {
    let mut all = vec![
        evil("accept, then silence", "tls: timeout", || https(linger)),
        evil("accept, then close", "tls: *", || https(|_| async { Ok(()) })),
        evil("accept, then reset", "t*: *eset", || https(|stream| async move { stream.set_zero_linger() })),
        evil("the banner of SSH", "tls: no TLS, *", || after_hello(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())),
        evil("the banner of SMTP", "tls: no TLS, *", || after_hello(b"220 mail ESMTP\r\n".to_vec())),
        evil("HTTP where TLS was spoken", "tls: no TLS, *", || {
            after_hello(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())
        }),
        evil("random bytes without end", "tls: no TLS, *", || {
            hello_then(|mut stream, _| async move { flood(&mut stream, b"\x9d\x5f\xf0\x11\xe7").await })
        }),
        evil("NULs without end", "tls: no TLS, *", || {
            hello_then(|mut stream, _| async move { flood(&mut stream, &[0]).await })
        }),
        evil("the hello sent back", "tls: no TLS, *", || {
            hello_then(|mut stream, hello| async move {
                stream.write_all(&hello).await?;
                linger(stream).await
            })
        }),
        evil("a record, one byte each 100 ms", "tls: timeout", || {
            hello_then(|mut stream, _| async move {
                stream.write_all(&[HANDSHAKE, 3, 3, 0x40, 0]).await?;
                drip(&mut stream, &[0]).await
            })
        }),
        evil("a record longer than any may be", "tls: no TLS, *", || {
            after_hello([&[HANDSHAKE, 3, 3, 0xff, 0xff][..], &[2; 65_535]].concat())
        }),
        evil("a message of 16 MB", "tls: no TLS, *", || {
            hello_then(|mut stream, _| async move {
                stream.write_all(&record(HANDSHAKE, &[11, 0xff, 0xff, 0xff])).await?;
                flood(&mut stream, &record(HANDSHAKE, &[0; 16_000])).await
            })
        }),
        evil("empty records for ever", "tls: no TLS, *", || {
            hello_then(|mut stream, _| async move { flood(&mut stream, &record(HANDSHAKE, &[])).await })
        }),
        evil("application data before any key", "tls: no TLS, *", || {
            after_hello(record(APPLICATION_DATA, &[7; 900]))
        }),
        evil("warnings for ever", "tls: *", || {
            // no_renegotiation, which is no fatal one.
            hello_then(|mut stream, _| async move { flood(&mut stream, &record(ALERT, &[1, 100])).await })
        }),
        evil("the end at once", "tls: timeout", || after_hello(record(ALERT, &[1, 0]))),
        evil("an alert nobody knows", "tls: alert alert_213", || after_hello(record(ALERT, &[2, 213]))),
        evil("half an alert", "tls: timeout", || after_hello(vec![ALERT, 3, 3, 0, 2, 2])),
        evil("change-cipher-spec for ever", "tls: *", || {
            hello_then(|mut stream, _| async move { flood(&mut stream, &record(20, &[1])).await })
        }),
        evil("requests to begin anew, for ever", "tls: *", || {
            hello_then(
                |mut stream, _| async move { flood(&mut stream, &record(HANDSHAKE, &[0, 0, 0, 0])).await },
            )
        }),
    ];
    all.extend(hellos());
    all.extend(certificates());
    all
}

fn hellos() -> Vec<Behaviour> {
    vec![
        evil("TLS 1.0 and no other", "tls: no TLS, *", || hello([3, 1], [7; 32], 0xc02f, vec![])),
        evil("a version of the future", "tls: no TLS, *", || hello([9, 9], [7; 32], 0xc02f, vec![])),
        evil("a cipher that was not offered", "tls: no TLS, *", || hello([3, 3], [7; 32], 0x0005, vec![])),
        evil("an extension that was not offered", "tls: no TLS, *", || {
            hello([3, 3], [7; 32], 0x1301, [TLS13, &[0xfe, 0x77, 0, 0]].concat())
        }),
        evil("a protocol that was not offered", "tls: no TLS, *", || {
            let alpn = [&[0, 16, 0, 7, 0, 5, 4][..], b"evil"].concat();
            hello([3, 3], [7; 32], 0xc02f, alpn)
        }),
        evil("a key share of zeroes", "tls: no TLS, *", || {
            let share = [&[0, 51, 0, 36, 0, 29, 0, 32][..], &[0; 32]].concat();
            hello([3, 3], [7; 32], 0x1301, [TLS13, &share].concat())
        }),
        evil("retry, for a group that was not offered", "tls: no TLS, *", || {
            hello([3, 3], RETRY_RANDOM, 0x1301, [TLS13, &[0, 51, 0, 2, 0xfe, 0xfe]].concat())
        }),
        evil("retry, and retry again", "tls: no TLS, *", || {
            hello_then(|mut stream, first| async move {
                let again = [TLS13, &[0, 51, 0, 2, 0, 24]].concat();
                let retry = server_hello([3, 3], RETRY_RANDOM, 0x1301, &again, &first);
                let mut sink = [0; 4_096];
                for _ in 0..1_000 {
                    stream.write_all(&retry).await?;
                    if stream.read(&mut sink).await? == 0 {
                        break;
                    }
                }
                Ok(())
            })
        }),
        evil("a hello of extensions alone", "tls: no TLS, *", || {
            hello([3, 3], [7; 32], 0x1301, [0xfe, 0x77, 0, 0].repeat(4_000))
        }),
    ]
}

fn certificates() -> Vec<Behaviour> {
    vec![
        evil("a chain of several megabytes", "tls: no TLS, *", || with_chain(2_500, usual())),
        evil("a chain of a hundred", "tls: completed, *; chain of 8, *", || with_chain(100, usual())),
        evil("100,000 names in a certificate", "tls: no TLS, *", || with_chain(0, with_names(100_000))),
        evil("2,000 names in a certificate", "tls: completed, *; chain of 1, Valid", || {
            with_chain(0, with_names(2_000))
        }),
        evil("a name of 16 KB that drives terminals", "tls: completed, *; chain of 1, *", || {
            let mut params = usual();
            let name = "\u{1b}]0;x\u{7}\u{202e}\u{9b}2J\0".repeat(1_400);
            params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name));
            with_chain(0, params)
        }),
        evil("a certificate of garbage", "tls: *", || {
            let leaf = CertificateDer::from(vec![0x30; 3_000]);
            serve_chain(Authority::new(), vec![leaf], KeyPair::generate().unwrap())
        }),
        evil("keys changed for ever", "*: no status, 0 bytes, *", || {
            let authority = Authority::new();
            let config = authority.server(&[HOST]);
            async move {
                with_config(&authority, config, |mut stream| async move {
                    for _ in 0..100_000 {
                        let (_, connection) = stream.get_mut();
                        connection.refresh_traffic_keys().map_err(std::io::Error::other)?;
                        stream.flush().await?;
                    }
                    linger(stream).await
                })
                .await
            }
        }),
        evil("a banner right after the handshake", "h1: no status, 0 bytes, no HTTP, *", || {
            let authority = Authority::new();
            let config = authority.server(&[HOST]);
            async move {
                with_config(&authority, config, |mut stream| async move {
                    stream.write_all(b"220 mail ESMTP\r\n").await?;
                    stream.flush().await?;
                    linger(stream).await
                })
                .await
            }
        }),
        evil("the end right after the handshake", "*: no status, 0 bytes, closed", || {
            let authority = Authority::new();
            let config = authority.server(&[HOST]);
            async move {
                with_config(&authority, config, |mut stream| async move { stream.shutdown().await }).await
            }
        }),
    ]
}

/// Reads the ClientHello, then does as told.
async fn hello_then<F>(serve: impl Fn(TcpStream, Vec<u8>) -> F + Send + Sync + 'static) -> Scene
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let serve = Arc::new(serve);
    https(move |mut stream| {
        let serve = serve.clone();
        async move {
            let mut hello = vec![0; 5];
            stream.read_exact(&mut hello).await?;
            hello.resize(5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])), 0);
            stream.read_exact(&mut hello[5..]).await?;
            serve(stream, hello).await
        }
    })
    .await
}

async fn after_hello(bytes: Vec<u8>) -> Scene {
    hello_then(move |mut stream, _| {
        let bytes = bytes.clone();
        async move {
            stream.write_all(&bytes).await?;
            linger(stream).await
        }
    })
    .await
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &(payload.len() as u16).to_be_bytes(), payload].concat()
}

/// Answers with this ServerHello.
async fn hello(version: [u8; 2], random: [u8; 32], cipher: u16, extensions: Vec<u8>) -> Scene {
    hello_then(move |mut stream, first| {
        let answer = server_hello(version, random, cipher, &extensions, &first);
        async move {
            stream.write_all(&answer).await?;
            linger(stream).await
        }
    })
    .await
}

fn server_hello(
    version: [u8; 2],
    random: [u8; 32],
    cipher: u16,
    extensions: &[u8],
    client: &[u8],
) -> Vec<u8> {
    // After the record's and the message's header, the version and the random.
    let session = &client[43..44 + usize::from(client[43])];
    let mut body = [&version[..], &random, session, &cipher.to_be_bytes(), &[0]].concat();
    if !extensions.is_empty() {
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(extensions);
    }
    let len = (body.len() as u32).to_be_bytes();
    record(HANDSHAKE, &[&[2, len[1], len[2], len[3]][..], &body].concat())
}

fn usual() -> CertificateParams {
    CertificateParams::new(vec![HOST.to_owned()]).unwrap()
}

fn with_names(count: usize) -> CertificateParams {
    let mut params = usual();
    let names = (0..count).map(|n| SanType::DnsName(format!("{n:06}.a-mirror.example").try_into().unwrap()));
    params.subject_alt_names.extend(names);
    params
}

/// A leaf the probe trusts, and others after it that nobody needs.
async fn with_chain(others: usize, params: CertificateParams) -> Scene {
    let authority = Authority::new();
    let key = KeyPair::generate().unwrap();
    let leaf = authority.sign(params, &key);
    let mut other = CertificateParams::default();
    other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let other = other.self_signed(&key).unwrap().der().clone();
    let chain = std::iter::once(leaf).chain(std::iter::repeat_n(other, others)).collect();
    serve_chain(authority, chain, key).await
}

async fn serve_chain(authority: Authority, chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Scene {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(key).unwrap();
    // Unchecked: the server need not understand what it shows.
    let shown = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    with_config(&authority, Arc::new(config), linger).await
}
