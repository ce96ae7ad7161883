//! HTTP steps: whole and broken answers, redirects, caps.

use std::sync::Arc;

use tokio::net::TcpListener;
use zerkalo_core::record::{BODY_LEN_MAX, HEADERS_MAX, HttpExchange, HttpOutcome, ProbeRecord};
use zerkalo_core::target::Sha256;

use crate::world::*;

/// Measures a mirror in the clear that answers with `pages`.
async fn measure(pages: Pages) -> ProbeRecord {
    let authority = Authority::new();
    let address = http_server(pages).await;
    let nobody = resolver(&[]).await;
    let mut settings = settings(&authority, nobody, None);
    settings.caps.http = std::time::Duration::from_secs(3);
    probe(&settings, &format!("http://{address}/")).await.record
}

async fn measure_one(bytes: Vec<u8>, after: After) -> HttpExchange {
    let record = measure(always(bytes, after)).await;
    assert_eq!(record.http.len(), 1, "{:?}", record.http);
    record.http.into_iter().next().unwrap()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn a_page_in_the_clear_is_read() {
    let step = measure_one(page(CANARY.as_bytes()), After::Continue).await;
    assert_eq!(
        (step.status, &step.outcome, step.canary_found),
        (Some(200), &HttpOutcome::Complete, Some(true))
    );
    assert_eq!((step.protocol.as_str(), step.body_len), ("h1", CANARY.len() as u64));
    assert!(step.last_byte_micros.is_some());
}

#[tokio::test]
async fn a_block_page_is_kept_as_text_whatever_its_letters() {
    let body = b"<title>\xc4\xee\xf1\xf2\xf3\xef \xee\xe3\xf0\xe0\xed\xe8\xf7\xe5\xed</title>";
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=windows-1251\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let step = measure_one([head.as_bytes(), body].concat(), After::Continue).await;
    assert_eq!((step.title.as_deref(), step.canary_found), (Some("Доступ ограничен"), Some(false)));
    assert!(step.excerpt.contains("Доступ"));
}

#[tokio::test]
async fn a_huge_body_is_read_up_to_the_cap_and_the_canary_found_across_chunks() {
    let mut bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let (left, right) = CANARY.split_at(5);
    for part in ["x".repeat(70_000), left.to_owned(), right.to_owned(), "y".repeat(400_000)] {
        bytes.extend_from_slice(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes());
    }
    let step = measure_one(bytes, After::Stall).await;
    assert_eq!((step.body_len, &step.outcome), (BODY_LEN_MAX, &HttpOutcome::Complete));
    assert_eq!(step.canary_found, Some(true));
}

#[tokio::test]
async fn a_stall_keeps_its_offset() {
    let bytes = [b"HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\n".as_slice(), &[b'x'; 20_000]].concat();
    let step = measure_one(bytes, After::Stall).await;
    assert_eq!((step.body_len, &step.outcome), (20_000, &HttpOutcome::Timeout));
    assert!(step.last_byte_micros < Some(step.span.duration_micros));
}

#[tokio::test]
async fn a_close_in_the_body_is_an_end_of_file() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\nxxxx".to_vec();
    let step = measure_one(bytes, After::Close).await;
    assert_eq!((step.body_len, &step.outcome), (4, &HttpOutcome::Eof));
}

#[tokio::test]
async fn a_reset_is_a_reset() {
    let step = measure_one(b"HTTP/1.1 200 OK\r\n".to_vec(), After::Reset).await;
    assert_eq!((step.status, &step.outcome), (None, &HttpOutcome::Reset));
}

#[tokio::test]
async fn garbage_is_no_http() {
    let step = measure_one(b"\x16\x03\x01 nothing of the kind\r\n\r\n".to_vec(), After::Close).await;
    assert!(matches!(step.outcome, HttpOutcome::Protocol(_)), "{step:?}");
    assert_eq!((step.status, step.canary_found), (None, None));
}

#[tokio::test]
async fn headers_without_end_are_cut_off() {
    let many: String = (0..90).map(|n| format!("via: {n} {}\r\n", "v".repeat(600))).collect();
    let step = measure_one(
        format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n").into_bytes(),
        After::Continue,
    )
    .await;
    assert_eq!(step.headers.len(), HEADERS_MAX);
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "v".repeat(300_000));
    let step = measure_one(endless.into_bytes(), After::Stall).await;
    assert!(matches!(step.outcome, HttpOutcome::Protocol(_)), "{:?}", step.outcome);
}

#[tokio::test]
async fn what_tells_the_visitor_his_address_stays_out_of_the_record() {
    let (seen, mut paths) = tokio::sync::mpsc::unbounded_channel();
    let pages: Pages = Arc::new(move |path| {
        let _ = seen.send(path.to_owned());
        let echo =
            "x-client-ip: 203.0.113.77\r\nset-cookie: ip=203.0.113.77\r\nserver: gate 203.0.113.77\r\n";
        let body = "<title>Hello 203.0.113.77</title>Your IP: 203.0.113.77";
        let answer = match path {
            "/" => format!(
                "HTTP/1.1 302 Found\r\n{echo}location: /stub?ip=203.0.113.77\r\ncontent-length: 0\r\n\r\n"
            ),
            _ => format!("HTTP/1.1 200 OK\r\n{echo}content-length: {}\r\n\r\n{body}", body.len()),
        };
        (answer.into_bytes(), After::Continue)
    });
    let record = measure(pages).await;
    let [first, second] = &record.http[..] else { panic!("{record:?}") };
    assert_eq!(
        (paths.recv().await.unwrap(), paths.recv().await.unwrap()),
        ("/".into(), "/stub?ip=203.0.113.77".into())
    );
    assert!(first.headers.contains(&("location".into(), "/stub?ip=0.0.0.0".into())), "{first:?}");
    assert!(second.url.as_str().ends_with("/stub?ip=0.0.0.0"), "{second:?}");
    assert!(second.headers.contains(&("server".into(), "gate [address]".into())), "{second:?}");
    let body = "<title>Hello 203.0.113.77</title>Your IP: 203.0.113.77";
    assert_eq!(second.body_sha256, Sha256::of(body.as_bytes()));
    let json = zerkalo_proto::record::to_json(&record);
    assert!(!json.contains("203.0.113.77") && !json.contains("cookie"), "{json}");
}

#[tokio::test]
async fn redirects_are_followed_over_the_same_connection_up_to_ten() {
    let pages: Pages = Arc::new(|path| match path {
        "/9" => (page(CANARY.as_bytes()), After::Continue),
        path => (redirect(&format!("/{}", path[1..].parse::<u32>().unwrap_or(0) + 1)), After::Continue),
    });
    let record = measure(pages).await;
    assert_eq!((record.http.len(), record.tcp.len()), (10, 1));
    assert_eq!(record.http[9].canary_found, Some(true));
}

#[tokio::test]
async fn an_endless_chain_of_redirects_is_refused() {
    for after in [After::Continue, After::Close] {
        let record = measure(always(redirect("/again"), after)).await;
        assert_eq!(record.http.len(), 11);
        let last = &record.http[10].outcome;
        assert!(
            matches!(last, HttpOutcome::RedirectRefused(why) if why.contains("more than 10")),
            "{last:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_that_is_no_address_is_refused() {
    let step = measure_one(redirect("ftp://mirror.example/"), After::Continue).await;
    assert!(matches!(&step.outcome, HttpOutcome::RedirectRefused(why) if why.contains("ftp")), "{step:?}");
}

#[tokio::test]
async fn a_redirect_to_another_host_asks_the_system_resolver_and_shakes_hands_anew() {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tls_server(listener, vec![("", Front::Serve(authority.server(&["www.mirror.example"]), real_page()))])
        .await;
    let target = format!("https://www.mirror.example:{port}/home");
    let address = http_server(always(redirect(&target), After::Continue)).await;
    let replies = [
        (HOST, Reply::Addresses(vec![address.ip()])),
        ("www.mirror.example", Reply::Addresses(vec![loopback(2)])),
    ];
    let system = resolver(&replies).await;
    let measured =
        probe(&settings(&authority, system, None), &format!("http://{HOST}:{}/", address.port())).await;
    assert!(measured.is_reached);
    let record = measured.record;
    let asked: Vec<_> = record.dns.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(asked, [HOST, HOST, HOST, "www.mirror.example", "www.mirror.example"]);
    assert_eq!(record.tls[0].sni.as_deref(), Some("www.mirror.example"));
    assert_eq!((record.http.len(), record.http[1].url.as_str()), (2, target.as_str()));
}

#[tokio::test]
async fn http_2_is_spoken_where_it_is_agreed_on() {
    let authority = Authority::new();
    let mut config = (*authority.server(&[HOST])).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (stream, _) = listener.accept().await.unwrap();
        let io = hyper_util::rt::TokioIo::new(acceptor.accept(stream).await.unwrap());
        let answer = |request: http::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().host(), Some(HOST));
            let body = http_body_util::Full::new(bytes::Bytes::from("x".repeat(30_000) + CANARY));
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        };
        let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        drop(builder.serve_connection(io, hyper::service::service_fn(answer)).await);
    });
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(2)]))]).await;
    let measured =
        probe(&settings(&authority, system, None), &format!("https://{HOST}:{port}/page?q=1#part")).await;
    let [step] = &measured.record.http[..] else { panic!("{:?}", measured.record) };
    assert_eq!(
        (step.protocol.as_str(), step.status, &step.outcome),
        ("h2", Some(200), &HttpOutcome::Complete)
    );
    assert!(measured.is_reached);
}
