//! References: when one counts as reached.

use zerkalo_agent::probe::reference::look_at_all;
use zerkalo_core::target::{Reference, ReferenceSide, TargetUrl};
use zerkalo_core::words::{MarketId, UnixMillis};

use crate::world::*;

pub fn reference(url: &str) -> Reference {
    Reference {
        market: MarketId::parse("kz").unwrap(),
        side: ReferenceSide::Foreign,
        url: TargetUrl::parse(url).unwrap(),
    }
}

#[tokio::test]
async fn a_reference_must_answer_as_itself() {
    let authority = Authority::new();
    let [true_one, false_one] = two_listeners().await;
    let port = true_one.local_addr().unwrap().port();
    tls_server(true_one, vec![("", Front::Serve(authority.server(&["ref.example"]), real_page()))]).await;
    tls_server(false_one, vec![("", Front::Serve(self_signed(&["ref.example"]).0, real_page()))]).await;
    let plain =
        http_server(always(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(), After::Continue))
            .await;
    let garbage = http_server(always(b"no HTTP\r\n\r\n".to_vec(), After::Close)).await;
    let sent_to = |location: &str| {
        let head = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        always(head.into_bytes(), After::Continue)
    };
    let portal = http_server(sent_to("http://login.portal.example/")).await;
    let tidy = http_server(sent_to("/index.html")).await;
    let replies = [
        ("ref.example", Reply::Addresses(vec![loopback(2)])),
        ("false.example", Reply::Addresses(vec![loopback(3)])),
    ];
    let settings = settings(&authority, resolver(&replies).await, None);
    let (_guard, closed) = closed_port(loopback(1));
    let references = [
        reference(&format!("https://ref.example:{port}/")),
        reference(&format!("https://false.example:{port}/")),
        reference(&format!("http://{plain}/")),
        reference(&format!("http://{garbage}/")),
        reference("https://unknown.example/"),
        reference(&format!("https://{closed}/")),
        reference(&format!("http://{portal}/")),
        reference(&format!("http://{tidy}/")),
    ];
    let sightings = look_at_all(&settings, &references, UnixMillis(7)).await;
    let checks: Vec<_> = sightings.into_iter().map(|sighting| sighting.check).collect();
    let check = |index: usize, failure: Option<&str>| {
        let found = checks[index].failure.as_deref();
        assert_eq!(checks[index].reached, failure.is_none(), "{:?}", checks[index]);
        assert!(failure.is_none_or(|part| found.unwrap_or_default().contains(part)), "{found:?}");
    };
    check(0, None);
    check(1, Some("TLS: chain"));
    check(2, None);
    check(3, Some("HTTP"));
    check(4, Some("rcode 3"));
    check(5, Some("TCP: Refused"));
    check(6, Some("HTTP: sent to http://login.portal.example/"));
    check(7, None);
    assert!(checks.iter().all(|check| check.checked_at == UnixMillis(7)));
}
