//! The network gate: what the references and the collector tell of the agent's own line.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::{TcpListener, UdpSocket};
use zerkalo_agent::probe::network::{Checked, Told, check};
use zerkalo_agent::show::{Colours, tree};
use zerkalo_core::record::Ipv6Health;
use zerkalo_core::words::UnixMillis;

use crate::reference::reference;
use crate::world::*;

/// More than a second's grain and a busy machine make of a clock that is right.
const CLOCK_TOLERANCE_MILLIS: u64 = 30_000;

/// Checks the network by these references, with what others told.
async fn checked(urls: &[String], told: &Told) -> Checked {
    let nobody: SocketAddr = (loopback(1), 9).into();
    checked_by(&Authority::new(), nobody, urls, told).await
}

async fn checked_by(authority: &Authority, resolver: SocketAddr, urls: &[String], told: &Told) -> Checked {
    let references: Vec<_> = urls.iter().map(|url| reference(url)).collect();
    check(&settings(authority, resolver, None), &references, told, now()).await
}

fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    UnixMillis(since.as_millis() as u64)
}

/// A plain server's head, dated `off` from this machine's clock.
fn dated(off_secs: i64, more: &str) -> Vec<u8> {
    let off = Duration::from_secs(off_secs.unsigned_abs());
    let at = if off_secs < 0 { SystemTime::now() - off } else { SystemTime::now() + off };
    let date = httpdate::fmt_http_date(at);
    format!("HTTP/1.1 {more}\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

async fn server(answer: Vec<u8>) -> String {
    format!("http://{}/", http_server(always(answer, After::Continue)).await)
}

#[tokio::test]
async fn a_portal_is_named_and_believed_in_nothing() {
    let honest = server(dated(0, "200 OK")).await;
    let portal = server(dated(86_400, "302 Found\r\nlocation: http://login.portal.example/?mac=1")).await;
    let found = checked(&[honest.clone(), portal.clone()], &Told::default()).await;
    assert_eq!(found.network.captive_host.as_deref(), Some("login.portal.example"));
    assert_eq!(found.references.iter().map(|check| check.reached).collect::<Vec<_>>(), [true, false]);
    // Its clock is not asked.
    assert!(found.network.clock_ahead_millis.unwrap().unsigned_abs() < CLOCK_TOLERANCE_MILLIS, "{found:?}");
    let healthy = checked(&[honest], &Told::default()).await;
    assert_eq!(healthy.network.captive_host, None);
    let in_place = server(dated(0, "511 Network Authentication Required")).await;
    let replaced = checked(&[in_place], &Told::default()).await;
    assert_eq!(replaced.network.captive_host.as_deref(), Some("127.0.0.1"));
    assert!(replaced.references[0].failure.as_deref().unwrap().contains("another page"), "{replaced:?}");
}

#[tokio::test]
async fn the_clock_is_held_against_the_middle_of_all_others() {
    let (right, fast) = (server(dated(0, "200 OK")).await, server(dated(7_200, "200 OK")).await);
    let told = |clock_ahead_millis| Told { clock_ahead_millis, ..Told::default() };
    let off = async |urls: &[String], told: &Told| checked(urls, told).await.network.clock_ahead_millis;
    let is_near = |found: Option<i64>, expected: i64| {
        assert!(found.unwrap().abs_diff(expected) < CLOCK_TOLERANCE_MILLIS, "{found:?}, not {expected}");
    };
    is_near(off(std::slice::from_ref(&fast), &Told::default()).await, -7_200_000);
    is_near(off(&[right.clone(), fast.clone()], &told(Some(0))).await, 0);
    is_near(off(&[], &told(Some(-90_000))).await, -90_000);
    assert_eq!(off(&[], &Told::default()).await, None);
}

#[tokio::test]
async fn an_https_reference_tells_its_date_too() {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let slow = dated(-7_200, "200 OK");
    tls_server(
        listener,
        vec![("", Front::Serve(authority.server(&["ref.example"]), always(slow, After::Continue)))],
    )
    .await;
    let resolver = resolver(&[("ref.example", Reply::Addresses(vec![loopback(2)]))]).await;
    let urls = [format!("https://ref.example:{port}/")];
    let found = checked_by(&authority, resolver, &urls, &Told::default()).await;
    assert!(found.references[0].reached, "{found:?}");
    let ahead = found.network.clock_ahead_millis.unwrap();
    assert!(ahead.abs_diff(7_200_000) < CLOCK_TOLERANCE_MILLIS, "{ahead}");
    // A reference that never speaks of it is reached all the same.
    let silent = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mute = always(Vec::new(), After::Close);
    tls_server(silent, vec![("", Front::Serve(authority.server(&["ref.example"]), mute))]).await;
    let urls = [format!("https://ref.example:{port}/")];
    let found = checked_by(&authority, resolver, &urls, &Told::default()).await;
    assert!(found.references[0].reached && found.network.clock_ahead_millis.is_none(), "{found:?}");
}

/// A certificate for `name` by a CA no browser knows, as software on the host makes them.
fn intercepted(shield: &Issuer<'static, KeyPair>, name: &str) -> std::sync::Arc<rustls::ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, shield).unwrap();
    server_config(leaf.der().clone(), &key)
}

#[tokio::test]
async fn who_signs_for_every_reference_sits_on_the_host() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "Shield Root");
    params.distinguished_name.push(DnType::OrganizationName, "Shield");
    let shield = Issuer::new(params, KeyPair::generate().unwrap());
    let authority = Authority::new();
    let mut urls = Vec::new();
    let mut replies = Vec::new();
    for (name, address, config) in [
        ("one.example", loopback(2), intercepted(&shield, "one.example")),
        ("two.example", loopback(3), intercepted(&shield, "two.example")),
        ("free.example", loopback(4), authority.server(&["free.example"])),
    ] {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        urls.push(format!("https://{name}:{}/", listener.local_addr().unwrap().port()));
        tls_server(listener, vec![("", Front::Serve(config, real_page()))]).await;
        replies.push((name, Reply::Addresses(vec![address])));
    }
    let resolver = resolver(&replies).await;
    let signer = async |urls: &[String]| {
        checked_by(&authority, resolver, urls, &Told::default()).await.network.host_interference
    };
    let name = signer(&urls[..2]).await.unwrap();
    assert!(name.contains("CN=Shield Root") && name.contains("O=Shield"), "{name}");
    // One reference under its own key: whoever signs for the others chooses.
    assert_eq!(signer(&urls).await, None);
}

/// A resolver that answers one name with a text.
async fn whoami_resolver(text: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((loopback(1), 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..len]).unwrap();
            let query = question.queries[0].clone();
            let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
            if query.query_type == RecordType::TXT && query.name.to_ascii() == "whoami.example." {
                let words = text.split(' ').map(str::to_owned).collect();
                answer.add_answer(Record::from_rdata(query.name.clone(), 0, RData::TXT(TXT::new(words))));
            }
            answer.add_query(query);
            socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn the_resolver_is_known_by_who_asks_and_the_host_is_not() {
    let resolver = whoami_resolver("ns 192.0.2.53 203.0.113.77 ecs 203.0.113.0/24").await;
    let asked = async |seen_as: Option<&str>| {
        let seen_as = seen_as.map(|text| text.parse().unwrap());
        let told = Told { whoami_name: Some("whoami.example".to_owned()), seen_as, ..Told::default() };
        checked_by(&Authority::new(), resolver, &[], &told).await.network.resolver_identity
    };
    assert_eq!(asked(Some("203.0.113.77")).await, ["192.0.2.53", "[address]"]);
    // Nobody has told which one is the host: neither is.
    assert_eq!(asked(None).await, ["[address]"]);
    let unasked = checked_by(&Authority::new(), resolver, &[], &Told::default()).await;
    assert_eq!(unasked.network.resolver_identity, Vec::<String>::new());
}

#[tokio::test]
async fn ipv6_works_where_a_reference_answers_by_it_and_whoever_refuses_answers() {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let url = [format!("http://{address}/")];
    tls_server(listener, vec![("", Front::Close)]).await;
    let found = checked(&url, &Told::default()).await;
    assert_eq!((found.references[0].reached, found.network.ipv6), (false, Ipv6Health::Works));
    let (_guard, closed) = closed_port(std::net::Ipv6Addr::LOCALHOST.into());
    let refused = checked(&[format!("http://{closed}/")], &Told::default()).await;
    assert_eq!(refused.network.ipv6, Ipv6Health::Works, "{refused:?}");
    assert!(!refused.references[0].reached);
}

#[tokio::test]
async fn the_network_is_shown_to_who_probes_by_hand() {
    let host = http_server(always(page(CANARY.as_bytes()), After::Continue)).await;
    let authority = Authority::new();
    let settings = settings(&authority, (loopback(1), 9).into(), None);
    let mut record = probe(&settings, &format!("http://{host}/")).await.record;
    let portal = server(dated(0, "302 Found\r\nlocation: http://login.portal.example/")).await;
    let fast = server(dated(7_200, "200 OK")).await;
    let found = checked(&[portal, fast], &Told::default()).await;
    (record.references, record.network) = (found.references, Some(found.network));
    let shown = tree(&record, Colours::Off);
    assert!(shown.contains("captive portal  login.portal.example"), "{shown}");
    let clock = shown.split("clock  ").nth(1).and_then(|rest| rest.split('.').next()).unwrap();
    let ahead_secs: i64 = clock.parse().unwrap();
    assert!(ahead_secs.abs_diff(-7_200) * 1_000 < CLOCK_TOLERANCE_MILLIS, "{shown}");
}
