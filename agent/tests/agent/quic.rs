//! The QUIC step: only where the mirror advertised h3, and told apart by how it ended; then the page by HTTP/3.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, UdpSocket};
use zerkalo_agent::probe::ProbeSettings;
use zerkalo_core::record::{
    Arm, BODY_LEN_MAX, ChainFault, HttpExchange, HttpOutcome, ProbeRecord, QuicHandshake, QuicOutcome,
};
use zerkalo_core::target::Sha256;

use crate::world::*;

/// Measures a mirror that advertises h3 at `port`.
async fn measure_advertising(authority: &Authority, port: u16) -> ProbeRecord {
    measure_with(authority, port, |_| {}).await
}

async fn measure_with(
    authority: &Authority,
    port: u16,
    change: impl FnOnce(&mut ProbeSettings),
) -> ProbeRecord {
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
    settings.caps.quic = Duration::from_secs(3);
    change(&mut settings);
    probe(&settings, &format!("https://{HOST}:{https}/page?x=1#part")).await.record
}

/// What an HTTP/3 server does with a connection.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Serves the page as it should.
    Serve,
    /// Takes the request, answers nothing.
    Silent,
    /// Answers a head without end.
    EndlessHead,
    /// Answers more than a head may have.
    LargeHead,
    /// Answers a body without end.
    EndlessBody,
    /// Begins a body and stops.
    Stall,
    /// Resets the answer's stream.
    ResetStream,
    /// Closes the connection on the request.
    Close,
    /// Answers with what is no HTTP/3.
    Garbage,
    /// Opens streams of its own, for ever.
    ManyStreams,
}

fn quic_server(authority: &Authority, names: &[&str], behaviour: Behaviour) -> u16 {
    let mut tls = (*authority.server(names)).clone();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let server = quinn::Endpoint::server(config, SocketAddr::new(loopback(2), 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            tokio::spawn(serve(incoming, behaviour));
        }
    });
    port
}

async fn serve(incoming: quinn::Incoming, behaviour: Behaviour) -> Option<()> {
    let connection = incoming.await.ok()?;
    if let Behaviour::Serve = behaviour {
        return serve_page(connection).await;
    }
    let mut control = connection.open_uni().await.ok()?;
    // The control stream with empty SETTINGS (RFC 9114, 6.2.1 and 7.2.4).
    control.write_all(&[0x00, 0x04, 0x00]).await.ok()?;
    let (mut send, _receive) = connection.accept_bi().await.ok()?;
    // A HEADERS frame with `:status 200` of QPACK's static table.
    let head: &[u8] = &[0x01, 0x03, 0x00, 0x00, 0xd9];
    match behaviour {
        Behaviour::Serve | Behaviour::Silent => {}
        Behaviour::EndlessHead => {
            // Its length: 2^30 - 1.
            send.write_all(&[0x01, 0xbf, 0xff, 0xff, 0xff]).await.ok()?;
            while send.write_all(&[b'x'; 10_000]).await.is_ok() {}
        }
        Behaviour::LargeHead => {
            let name = [&[0x00, 0x00, 0xd9, 0x23][..], b"via:"].concat();
            // A literal field line with a literal name of three letters, and a value of 127 + 100,000 bytes.
            let value = [&[0x7f, 0xa0, 0x8d, 0x06][..], &[b'v'; 100_127]].concat();
            let field = [&name[..name.len() - 1], &value].concat();
            let len = (field.len() as u32 | 0x8000_0000).to_be_bytes();
            send.write_all(&[&[0x01][..], &len, &field].concat()).await.ok()?;
        }
        Behaviour::EndlessBody => {
            send.write_all(head).await.ok()?;
            send.write_all(&[0x00, 0xbf, 0xff, 0xff, 0xff]).await.ok()?;
            while send.write_all(&[b'x'; 10_000]).await.is_ok() {}
        }
        Behaviour::Stall => {
            send.write_all(head).await.ok()?;
            send.write_all(&[&[0x00, 0x80, 0x01, 0x5f, 0x90][..], &[b'x'; 20_000]].concat()).await.ok()?;
        }
        Behaviour::ResetStream => send.reset(0x10cu32.into()).ok()?,
        Behaviour::Close => connection.close(0x100u32.into(), b"203.0.113.77 is not welcome"),
        Behaviour::Garbage => send.write_all(&[0x00, 0x05, 1, 2, 3, 4, 5]).await.ok()?,
        Behaviour::ManyStreams => {
            while let Ok(mut stream) = connection.open_uni().await {
                // A type that nobody knows.
                stream.write_all(&[0x21, 0, 0]).await.ok()?;
                stream.finish().ok()?;
            }
        }
    }
    connection.closed().await;
    Some(())
}

async fn serve_page(connection: quinn::Connection) -> Option<()> {
    let mut server =
        h3::server::Connection::<_, Bytes>::new(h3_quinn::Connection::new(connection)).await.ok()?;
    while let Ok(Some(resolver)) = server.accept().await {
        let (request, mut stream) = resolver.resolve_request().await.ok()?;
        let page = format!("<title>By h3</title>{} {CANARY}", request.uri());
        let answer = http::Response::builder().header("content-type", "text/html").body(()).unwrap();
        stream.send_response(answer).await.ok()?;
        stream.send_data(page.into()).await.ok()?;
        stream.finish().await.ok()?;
    }
    Some(())
}

fn only_handshake(record: &ProbeRecord) -> &QuicHandshake {
    let [step] = &record.quic[..] else { panic!("{record:?}") };
    step
}

/// The page asked for by HTTP/3 of a server that behaves so.
async fn exchange_with(behaviour: Behaviour) -> HttpExchange {
    let authority = Authority::new();
    let port = quic_server(&authority, &[HOST], behaviour);
    let record = measure_with(&authority, port, |settings| settings.caps.http = Duration::from_secs(5)).await;
    let completed = QuicOutcome::Completed { alpn: Some("h3".to_owned()) };
    assert_eq!(only_handshake(&record).outcome, completed);
    let [main, page] = &record.http[..] else { panic!("{record:?}") };
    assert_eq!((main.arm, main.canary_found), (Arm::Main, Some(true)));
    assert_eq!((page.arm, page.protocol.as_str(), page.url.as_str()), (Arm::Http3, "h3", main.url.as_str()));
    page.clone()
}

#[tokio::test]
async fn a_handshake_that_completes_names_its_protocol_and_its_chain() {
    let authority = Authority::new();
    let port = quic_server(&authority, &[HOST], Behaviour::Serve);
    let record = measure_advertising(&authority, port).await;
    let step = only_handshake(&record);
    assert_eq!(step.outcome, QuicOutcome::Completed { alpn: Some("h3".to_owned()) });
    assert!(step.bytes_sent >= 1_200 && step.bytes_received >= 1_200, "{step:?}");
    assert_eq!(
        (step.arm, step.chain_fault.clone(), step.chain.len()),
        (Arm::Main, Some(ChainFault::Valid), 1)
    );
    // A long header of version 1 (RFC 9000, 17.2), as much of it as is kept.
    assert!(step.datagrams_received >= 1 && step.first_received.len() == 32, "{step:?}");
    assert!(step.first_received[0] & 0x80 != 0 && step.first_received[1..5] == [0, 0, 0, 1]);
    assert!(step.versions_offered.is_empty());
    // TLS 1.3 with a name, three ciphers, h3.
    assert!(step.ja4.starts_with("q13d03") && step.ja4.contains("h3_"), "{}", step.ja4);
}

#[tokio::test]
async fn a_chain_for_another_name_is_told_apart() {
    let authority = Authority::new();
    let port = quic_server(&authority, &["other.example"], Behaviour::Serve);
    let record = measure_advertising(&authority, port).await;
    let step = only_handshake(&record);
    assert_eq!((&step.chain_fault, step.chain.len()), (&Some(ChainFault::WrongName), 1));
}

#[tokio::test]
async fn the_page_comes_by_http_3_once_the_handshake_is_done() {
    let page = exchange_with(Behaviour::Serve).await;
    assert_eq!(
        (page.status, &page.outcome, page.canary_found),
        (Some(200), &HttpOutcome::Complete, Some(true))
    );
    assert_eq!(page.title.as_deref(), Some("By h3"));
    let body = format!("<title>By h3</title>https://{HOST}:{}/page?x=1 {CANARY}", page.url.port());
    assert_eq!(
        (page.body_len, page.body_sha256),
        (body.len() as u64, Sha256::of(body.as_bytes())),
        "{page:?}"
    );
    assert!(page.last_byte_micros.is_some());
    assert!(page.headers.iter().any(|(name, value)| name == "content-type" && value == "text/html"));
}

#[tokio::test]
async fn silence_is_a_timeout_with_no_byte_received_whatever_the_name() {
    let silent = UdpSocket::bind((loopback(2), 0)).await.unwrap();
    let record = measure_advertising(&Authority::new(), silent.local_addr().unwrap().port()).await;
    let [own, neutral] = &record.quic[..] else { panic!("{record:?}") };
    for step in [own, neutral] {
        assert_eq!((&step.outcome, step.bytes_received), (&QuicOutcome::Timeout, 0));
        assert_eq!((step.datagrams_received, step.first_received.len(), step.chain.len()), (0, 0, 0));
        assert!(step.bytes_sent >= 1_200);
    }
    assert_eq!((own.arm, own.sni.as_str()), (Arm::Main, HOST));
    assert_eq!((neutral.arm, neutral.sni.as_str()), (Arm::NeutralSni, "neutral.example"));
    assert_eq!((own.address, record.http.len()), (neutral.address, 1));
}

#[tokio::test]
async fn the_neutral_name_gets_through_where_the_own_one_does_not() {
    let authority = Authority::new();
    let port = quic_server(&authority, &["neutral.example"], Behaviour::Serve);
    // In front of it a box that lets pass what the second socket sends: a real one would read the name.
    let box_on_the_way = UdpSocket::bind((loopback(2), 0)).await.unwrap();
    let advertised = box_on_the_way.local_addr().unwrap().port();
    tokio::spawn(pass_all_but_the_first(box_on_the_way, SocketAddr::new(loopback(2), port)));
    let record = measure_advertising(&authority, advertised).await;
    let [own, neutral] = &record.quic[..] else { panic!("{record:?}") };
    assert_eq!((&own.outcome, own.datagrams_received), (&QuicOutcome::Timeout, 0));
    assert!(matches!(neutral.outcome, QuicOutcome::Completed { .. }), "{neutral:?}");
    assert_eq!(record.http.len(), 1, "no page of another name is asked for");
}

/// Forwards both ways for every client but the first.
async fn pass_all_but_the_first(socket: UdpSocket, server: SocketAddr) {
    let upstream = UdpSocket::bind((loopback(2), 0)).await.unwrap();
    let (mut first, mut client) = (None, None);
    let (mut from_client, mut from_server) = ([0; 2048], [0; 2048]);
    loop {
        tokio::select! {
            received = socket.recv_from(&mut from_client) => {
                let (len, peer) = received.unwrap();
                if *first.get_or_insert(peer) != peer {
                    client = Some(peer);
                    upstream.send_to(&from_client[..len], server).await.unwrap();
                }
            }
            received = upstream.recv_from(&mut from_server) => {
                let (len, _) = received.unwrap();
                socket.send_to(&from_server[..len], client.unwrap()).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_closed_port_is_a_refusal() {
    let record = measure_advertising(&Authority::new(), SILENT_PORT).await;
    assert_eq!(only_handshake(&record).outcome, QuicOutcome::Refused);
}

#[tokio::test]
async fn the_versions_a_server_offers_instead_are_kept() {
    let server = UdpSocket::bind((loopback(2), 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut initial = [0; 2048];
        loop {
            let (_, peer) = server.recv_from(&mut initial).await.unwrap();
            // The client's ids swapped (RFC 9000, 17.2.1), and two versions it has never heard of.
            let to_len = usize::from(initial[5]);
            let to = &initial[6..6 + to_len];
            let from_len = usize::from(initial[6 + to_len]);
            let from = &initial[7 + to_len..7 + to_len + from_len];
            let head = [&[0x80, 0, 0, 0, 0, from_len as u8][..], from, &[to_len as u8], to].concat();
            let versions = [0x6b, 0x33, 0x43, 0xcf, 0xff, 0, 0, 0x1d];
            server.send_to(&[&head[..], &versions].concat(), peer).await.unwrap();
        }
    });
    let record = measure_advertising(&Authority::new(), port).await;
    let own = &record.quic[0];
    assert!(matches!(own.outcome, QuicOutcome::Closed(_)), "{own:?}");
    assert_eq!(own.versions_offered, [0x6b33_43cf, 0xff00_001d]);
    assert_eq!(own.first_received[..5], [0x80, 0, 0, 0, 0]);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_a_timeout() {
    let page = exchange_with(Behaviour::Silent).await;
    assert_eq!((page.status, &page.outcome, page.body_len), (None, &HttpOutcome::Timeout, 0));
}

#[tokio::test]
async fn a_stall_keeps_its_offset() {
    let page = exchange_with(Behaviour::Stall).await;
    assert_eq!((page.status, &page.outcome, page.body_len), (Some(200), &HttpOutcome::Timeout, 20_000));
    assert!(page.last_byte_micros < Some(page.span.duration_micros));
}

#[tokio::test]
async fn a_body_without_end_is_read_up_to_the_cap() {
    let page = exchange_with(Behaviour::EndlessBody).await;
    assert_eq!((&page.outcome, page.body_len), (&HttpOutcome::Complete, BODY_LEN_MAX));
}

#[tokio::test]
async fn a_head_without_end_is_cut_off() {
    let page = exchange_with(Behaviour::EndlessHead).await;
    assert!(matches!(&page.outcome, HttpOutcome::Protocol(text) if text.contains("any page")), "{page:?}");
    assert_eq!((page.status, page.body_len), (None, 0));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_no_http() {
    let page = exchange_with(Behaviour::LargeHead).await;
    assert!(matches!(&page.outcome, HttpOutcome::Protocol(text) if text.contains("size")), "{page:?}");
}

#[tokio::test]
async fn broken_answers_are_told_apart() {
    assert_eq!(exchange_with(Behaviour::ResetStream).await.outcome, HttpOutcome::Reset);
    assert_eq!(exchange_with(Behaviour::Close).await.outcome, HttpOutcome::Eof);
    let page = exchange_with(Behaviour::Garbage).await;
    assert!(matches!(page.outcome, HttpOutcome::Protocol(_)), "{page:?}");
}

#[tokio::test]
async fn streams_without_number_end_with_the_step() {
    let page = exchange_with(Behaviour::ManyStreams).await;
    // A fast machine meets the cap on bytes before the deadline.
    let is_capped = matches!(&page.outcome, HttpOutcome::Protocol(text) if text.contains("any page"));
    assert!(page.status.is_none() && (is_capped || page.outcome == HttpOutcome::Timeout), "{page:?}");
}
