//! HTTP: answers on a socket, pages, headers, requests to the signal endpoints.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use zerkalo_agent::probe::clock::StepClock;
use zerkalo_agent::probe::http::{Ask, HttpConnection, Reading};
use zerkalo_agent::probe::portal;
use zerkalo_agent::probe::quic::advertised_port;
use zerkalo_core::page;
use zerkalo_core::record::{
    Arm, BODY_LEN_MAX, EXCERPT_LEN_MAX, HEADER_VALUE_LEN_MAX, HEADERS_MAX, HttpExchange, HttpOutcome,
    ProbeRecord, Span,
};
use zerkalo_core::target::{Sha256, TargetUrl};

use crate::Read;
use crate::names::nothing;
use crate::statements::survives;

const CANARY: &str = "canary-6d1f";

/// A content type on the first line, a page behind it.
pub fn page(bytes: &[u8]) -> Read {
    let split = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (kind, body) = bytes.split_at(split);
    let kind = String::from_utf8_lossy(kind);
    let kind = Some(kind.trim()).filter(|kind| !kind.is_empty());
    if let Some(title) = page::title(body, kind) {
        assert!(title.len() <= 256 && !title.chars().any(char::is_control), "{title:?}");
    }
    let excerpt = page::excerpt(body, kind);
    assert!(excerpt.len() <= EXCERPT_LEN_MAX);
    assert!(!excerpt.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{excerpt:?}");
    let is_there = String::from_utf8_lossy(body).contains(CANARY);
    assert_eq!(page::holds(body, CANARY), is_there);
    let url = TargetUrl::parse("http://reference.example/").expect("a URL");
    let headers = kind.into_iter().flat_map(|kind| {
        [("location", kind), ("refresh", kind), ("content-type", kind)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
    });
    let mut step = HttpExchange {
        arm: Arm::Main,
        url: url.clone(),
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 80)),
        protocol: "h1".to_owned(),
        span: Span::default(),
        first_byte_micros: None,
        last_byte_micros: None,
        status: Some(302),
        headers: headers.collect(),
        body_len: body.len() as u64,
        body_sha256: Sha256::of(body),
        title: None,
        canary_found: None,
        excerpt,
        outcome: HttpOutcome::Complete,
        transport: None,
    };
    let mut found = false;
    for status in [200, 302, 511] {
        step.status = Some(status);
        if let Some(host) = portal::host_of(&url, &step) {
            assert!(!host.is_empty() && host.len() <= 253, "{host}");
            // Whoever stands in between says so by 511, whatever the page.
            found |= status != 511;
        }
    }
    if let Some(port) = kind.and_then(advertised_port) {
        assert!(port != 0);
        found = true;
    }
    if found || page::title(body, kind).is_some() || is_there { Read::Whole } else { Read::Refused }
}

/// A server that sends these bytes, whatever it is asked, and is gone.
pub fn answer(bytes: &[u8]) -> Read {
    thread_local! {
        /// The runtime, a server's socket, and how many visits there were.
        static PLACE: RefCell<Option<(Runtime, TcpListener, u32)>> = const { RefCell::new(None) };
    }
    PLACE.with_borrow_mut(|place| {
        let (runtime, listener, count) = place.get_or_insert_with(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a port");
            (runtime, listener, 0)
        });
        // Another address each time: ports of closed connections rest for a minute.
        *count += 1;
        let [_, a, b, c] = (*count % 0xff_fffe + 1).to_be_bytes();
        let address = SocketAddr::from(([127, a, b, c], listener.local_addr().expect("it is bound").port()));
        runtime.block_on(visit(listener, address, bytes))
    })
}

async fn visit(listener: &TcpListener, address: SocketAddr, bytes: &[u8]) -> Read {
    let url = TargetUrl::parse("http://mirror.example/").expect("a URL");
    let ask = || Ask { arm: Arm::Main, url: &url, canary: Some(CANARY), reading: Reading::Whole };
    let cap = Duration::from_secs(20);
    let clock = StepClock::start(cap);
    let stream = TcpStream::connect(address).await.expect("our own port");
    let (mut peer, _) = listener.accept().await.expect("our own connection");
    let serve = async {
        let mut asked = [0; 4_096];
        // The visitor may be gone before all is sent: that is its right.
        let _ = peer.read(&mut asked).await;
        let _ = peer.write_all(bytes).await;
        let _ = peer.shutdown().await;
        while peer.read(&mut asked).await.is_ok_and(|len| len > 0) {}
    };
    let look = async {
        let mut connection = match HttpConnection::over_tcp(stream, address, ask(), clock).await {
            Ok(connection) => connection,
            Err(exchange) => return *exchange,
        };
        connection.exchange(ask(), cap, clock).await
    };
    let (exchange, ()) = tokio::join!(look, serve);
    assert!(exchange.outcome != HttpOutcome::Timeout, "a server that is gone is waited for");
    assert!(exchange.headers.len() <= HEADERS_MAX);
    assert!(exchange.headers.iter().all(|(_, value)| value.len() <= HEADER_VALUE_LEN_MAX));
    assert!(exchange.body_len <= BODY_LEN_MAX && exchange.excerpt.len() <= EXCERPT_LEN_MAX);
    assert!(exchange.body_len == 0 || exchange.canary_found.is_some());
    let is_whole = exchange.outcome == HttpOutcome::Complete;
    survives(&ProbeRecord { http: vec![exchange], ..nothing() });
    if is_whole { Read::Whole } else { Read::Refused }
}

/// A request's target.
pub fn signal(bytes: &[u8]) -> Read {
    let Ok(uri) = ::http::Uri::try_from(bytes) else { return Read::Refused };
    match zerkalo_collector::signal::question(&uri) {
        Some(asked) => {
            assert!(!asked.market.as_str().is_empty() && uri.path().starts_with("/signal/"));
            assert!(
                asked.carrier.is_none_or(|carrier| uri.query().is_some_and(|query| query.contains(carrier)))
            );
            Read::Whole
        }
        None => Read::Refused,
    }
}
