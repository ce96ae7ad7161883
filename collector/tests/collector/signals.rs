//! The pull side over real sockets: what redirectors are told, and what strangers, slow and greedy peers are not.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zerkalo_proto::code::code_of;
use zerkalo_proto::operator_v1::{
    ActiveMirrorRequest, CreateSignalTokenRequest, ListSignalTokensRequest, RevokeSignalTokenRequest,
    WatchActiveMirrorRequest,
};

use crate::world::{Collector, PATIENCE, Site};

fn site() -> Site {
    let site = Site::new();
    site.configure("[signal]\nlisten = \"127.0.0.1:0\"\n");
    site
}

pub async fn token(collector: &Collector, site: &Site, market: &str) -> String {
    let request = CreateSignalTokenRequest { markets: vec![market.to_owned()] };
    let made = collector.operator(site).await.create_signal_token(request).await.unwrap().into_inner();
    assert_eq!(made.listen, format!("127.0.0.1:{}", collector.signal));
    made.token
}

/// Sends bytes and reads to the end.
async fn send(collector: &Collector, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", collector.signal)).await.unwrap();
    // Whoever is refused early may find the line closed.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the line is closed in time");
    String::from_utf8(answer).unwrap()
}

pub async fn ask(collector: &Collector, target: &str, headers: &str) -> String {
    send(
        collector,
        format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").as_bytes(),
    )
    .await
}

pub fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split_once("\r\n\r\n").unwrap().0;
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn the_live_mirror_is_told_in_json_text_and_status() {
    let site = site();
    let collector = site.serve().await;
    let token = token(&collector, &site, "kz").await;
    let of = |rest: &str| format!("/signal/{token}/kz.{rest}");
    let none = ask(&collector, &of("json"), "").await;
    assert_eq!(status(&none), 200);
    assert_eq!(body(&none).trim(), r#"{"market":"kz","carrier":null,"mirror":null,"url":null,"state":null}"#);
    assert_eq!(status(&ask(&collector, &of("json?http=1"), "").await), 503);
    assert_eq!(body(&ask(&collector, &of("txt"), "").await), "");
    collector.put_list(&site, 1, &["m1"]).await;
    let live = ask(&collector, &of("json?http=1"), "").await;
    assert_eq!(status(&live), 200);
    assert_eq!(
        body(&live).trim(),
        r#"{"market":"kz","carrier":null,"mirror":"m1","url":"http://m1.example/","state":"live"}"#
    );
    assert_eq!(header(&live, "content-type"), Some("application/json"));
    assert_eq!(header(&live, "cache-control"), Some("private, no-cache"));
    assert_eq!(header(&live, "access-control-allow-origin"), None);
    assert_eq!(body(&ask(&collector, &of("txt"), "").await), "http://m1.example/\n");
    let by_carrier = ask(&collector, &of("json?carrier=kz-kcell"), "").await;
    assert!(body(&by_carrier).contains(r#""carrier":"kz-kcell","mirror":"m1""#), "{by_carrier}");
    assert_eq!(status(&ask(&collector, &of("json?carrier=ru-mts"), "").await), 400);
    let etag = header(&live, "etag").unwrap();
    let known = ask(&collector, &of("json"), &format!("if-none-match: {etag}\r\n")).await;
    assert_eq!((status(&known), body(&known)), (304, ""));
    let other = ask(&collector, &of("json"), "if-none-match: \"other\"\r\n").await;
    assert_eq!(status(&other), 200);
    let head = format!("HEAD {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", of("json"));
    let head = send(&collector, head.as_bytes()).await;
    assert_eq!((status(&head), body(&head)), (200, ""));
    collector.stop().await;
}

#[tokio::test]
async fn a_wrong_token_is_as_wrong_as_a_wrong_path() {
    let site = site();
    let collector = site.serve().await;
    collector.put_list(&site, 1, &["m1"]).await;
    let token = token(&collector, &site, "kz").await;
    let missing = ask(&collector, "/", "").await;
    assert_eq!(status(&missing), 404);
    let bare = |answer: &str| answer.lines().filter(|line| !line.starts_with("date:")).collect::<String>();
    for target in [
        "/signal/guess/kz.json".to_owned(),
        "/signal/guess/xx.json".to_owned(),
        "/signal/guess/kz.json?carrier=nobody".to_owned(),
        // Of another market than the token's.
        format!("/signal/{token}/ru.json"),
        format!("/signal/{token}/kz.html"),
        format!("/signal/{token}x/kz.json"),
    ] {
        assert_eq!(bare(&ask(&collector, &target, "").await), bare(&missing), "{target}");
    }
    let post = send(&collector, format!("POST /signal/{token}/kz.json HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await;
    assert_eq!((status(&post), header(&post, "allow")), (405, Some("GET, HEAD")));
    let mut operator = collector.operator(&site).await;
    let tokens = operator.list_signal_tokens(ListSignalTokensRequest {}).await.unwrap().into_inner().tokens;
    assert_eq!((tokens.len(), tokens[0].made_by.as_str()), (1, "operator"));
    assert!(!format!("{tokens:?}").contains(&token), "the text is nowhere");
    let kz = format!("/signal/{token}/kz.json");
    assert_eq!(status(&ask(&collector, &kz, "").await), 200);
    collector.kill().await;
    let collector = site.serve().await;
    assert_eq!(status(&ask(&collector, &kz, "").await), 200, "tokens outlive the process");
    let mut operator = collector.operator(&site).await;
    let id = tokens[0].id.clone();
    operator.revoke_signal_token(RevokeSignalTokenRequest { id: id.clone() }).await.unwrap();
    assert_eq!(status(&ask(&collector, &kz, "").await), 404);
    let again = operator.revoke_signal_token(RevokeSignalTokenRequest { id }).await.unwrap_err();
    assert_eq!(code_of(&again), Some("unknown_token"));
    let request = CreateSignalTokenRequest { markets: vec!["xx".to_owned()] };
    let refused = operator.create_signal_token(request).await.unwrap_err();
    assert_eq!(code_of(&refused), Some("unknown_market"));
    let refused = operator.create_signal_token(CreateSignalTokenRequest::default()).await.unwrap_err();
    assert_eq!(code_of(&refused), Some("bad_request"));
    collector.stop().await;
}

#[tokio::test]
async fn slow_and_greedy_peers_are_cut_off_and_hold_nobody_up() {
    let site = site();
    let collector = site.serve().await;
    let token = token(&collector, &site, "kz").await;
    // Says half a request and waits.
    let mut slow = TcpStream::connect(("127.0.0.1", collector.signal)).await.unwrap();
    slow.write_all(b"GET /signal/").await.unwrap();
    assert_eq!(status(&ask(&collector, &format!("/signal/{token}/kz.json"), "").await), 200);
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await;
    assert!(cut.expect("it is cut off").is_ok_and(|len| len == 0 || rest.starts_with(b"HTTP/1.1 4")));
    let long = format!("x: {}\r\n", "y".repeat(100_000));
    let answer = ask(&collector, "/signal/x/kz.json", &long).await;
    assert!(answer.is_empty() || status(&answer) == 431, "{answer}");
    let many: String = (0..1_000).map(|n| format!("h{n}: x\r\n")).collect();
    let answer = ask(&collector, "/signal/x/kz.json", &many).await;
    assert!(answer.is_empty() || status(&answer) == 431, "{answer}");
    let answer = send(&collector, b"\x16\x03\x01\x02\x00\x01\x00 no HTTP at all\r\n\r\n").await;
    assert!(answer.is_empty() || status(&answer) == 400, "{answer}");
    let answer = ask(&collector, &format!("/signal/{}/kz.json", "t".repeat(5_000)), "").await;
    assert_eq!(status(&answer), 404);
    assert_eq!(status(&ask(&collector, &format!("/signal/{token}/kz.json"), "").await), 200);
    collector.stop().await;
}

/// As many places as there are.
const PLACES: usize = 256;

#[tokio::test]
async fn who_finds_no_place_is_told_so_and_finds_one_later() {
    let site = site();
    let collector = site.serve().await;
    let token = token(&collector, &site, "kz").await;
    let kz = format!("/signal/{token}/kz.json?http=1");
    let mut held = Vec::new();
    let full = async {
        loop {
            // On a slow machine the first are cut off before the last have come.
            for _ in 0..PLACES {
                let mut stream = TcpStream::connect(("127.0.0.1", collector.signal)).await.unwrap();
                let _ = stream.write_all(b"GET /signal/").await;
                held.push(stream);
            }
            let answer = ask(&collector, &kz, "").await;
            if status(&answer) == 429 {
                return answer;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, full).await.expect("all places are taken");
    // 503 would say that no mirror is live.
    assert_eq!((status(&refused), header(&refused, "retry-after")), (429, Some("5")), "{refused}");
    assert_eq!(body(&refused), "too many connections; try again soon\n");
    assert_eq!(body(&refused).len().to_string(), header(&refused, "content-length").unwrap());
    assert!(collector.metric("zerkalo_signals_total{code=\"busy\"}").await >= 1);
    // Operators have a listener of their own.
    assert!(collector.operator(&site).await.list_signal_tokens(ListSignalTokensRequest {}).await.is_ok());
    // Everybody who held a place and said no more is cut off, sooner or later, and the places are free again.
    for mut stream in held {
        let mut rest = Vec::new();
        let cut = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        let _ = cut.expect("who says half a request is cut off");
    }
    let free = async {
        while status(&ask(&collector, &kz, "").await) == 429 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.expect("places come free");
    assert_eq!(status(&ask(&collector, &kz, "").await), 503, "nothing is live yet");
    collector.stop().await;
}

#[tokio::test]
async fn a_peer_that_asks_and_never_reads_is_cut_off() {
    let site = site();
    let collector = site.serve().await;
    let token = token(&collector, &site, "kz").await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little room for answers, so that they soon wait at the other end.
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], collector.signal).into()).await.unwrap();
    let asking = format!("GET /signal/{token}/kz.json HTTP/1.1\r\nhost: x\r\n\r\n").repeat(100);
    let cut = async { while stream.write_all(asking.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, cut).await.expect("the line is closed");
    assert_eq!(status(&ask(&collector, &format!("/signal/{token}/kz.json"), "").await), 200);
    collector.stop().await;
}

#[tokio::test]
async fn the_live_mirror_can_be_asked_for_and_watched_over_grpc() {
    use futures::StreamExt;
    let site = Site::new();
    let collector = site.serve().await;
    let mut operator = collector.operator(&site).await;
    let request = |market: &str, carrier: &str| ActiveMirrorRequest {
        market: market.to_owned(),
        carrier: carrier.to_owned(),
    };
    let active = operator.active_mirror(request("kz", "")).await.unwrap().into_inner().active;
    assert_eq!(active, None);
    let watch = WatchActiveMirrorRequest { market: "kz".to_owned(), carrier: String::new() };
    let mut watch = operator.watch_active_mirror(watch).await.unwrap().into_inner();
    let mut next =
        async || tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().unwrap().active;
    assert_eq!(next().await, None);
    collector.put_list(&site, 1, &["m1"]).await;
    let active = next().await.unwrap();
    assert_eq!((active.mirror.as_str(), active.state.as_str()), ("m1", "live"));
    let by_carrier = operator.active_mirror(request("kz", "kz-kcell")).await.unwrap().into_inner().active;
    assert_eq!(by_carrier.unwrap().carrier, "kz-kcell");
    for (market, carrier, code) in [
        ("xx", "", "unknown_market"),
        ("", "", "unknown_market"),
        ("kz", "ru-mts", "unknown_carrier"),
        ("kz", "../", "unknown_carrier"),
    ] {
        let status = operator.active_mirror(request(market, carrier)).await.unwrap_err();
        assert_eq!(code_of(&status), Some(code), "{market} {carrier}");
    }
    collector.stop().await;
}
