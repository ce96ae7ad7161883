//! TLS steps: what becomes of the ClientHello, what chains are kept, what the neutral name shows.

use tokio::net::TcpListener;
use zerkalo_core::record::{Arm, ChainFault, HttpOutcome, ProbeRecord, TlsHandshake, TlsOutcome};
use zerkalo_core::target::Sha256;

use crate::world::*;

/// Measures a mirror that stands behind `front`; other names are served.
async fn measure_behind(front: impl FnOnce(&Authority) -> Front) -> ProbeRecord {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let neutral = Front::Serve(authority.server(&["neutral.example"]), real_page());
    tls_server(listener, vec![(HOST, front(&authority)), ("neutral.example", neutral)]).await;
    let system = resolver(&[(HOST, Reply::Addresses(vec![loopback(2)]))]).await;
    let mut settings = settings(&authority, system, None);
    settings.caps.tls = IMPATIENCE;
    probe(&settings, &format!("https://{HOST}:{port}/")).await.record
}

fn step(record: &ProbeRecord, arm: Arm) -> &TlsHandshake {
    record.tls.iter().find(|step| step.arm == arm).unwrap_or_else(|| panic!("no {arm:?} in {record:?}"))
}

#[tokio::test]
async fn a_healthy_mirror_shows_its_chain_and_its_canary() {
    let record = measure_behind(|authority| Front::Serve(authority.server(&[HOST]), real_page())).await;
    let tls = step(&record, Arm::Main);
    let expected = TlsOutcome::Completed {
        version: "TLSv1_3".to_owned(),
        cipher_suite: "TLS13_AES_256_GCM_SHA384".to_owned(),
        alpn: None,
    };
    assert_eq!((&tls.outcome, &tls.chain_fault), (&expected, &Some(ChainFault::Valid)));
    assert_eq!(tls.sni.as_deref(), Some(HOST));
    let [leaf] = &tls.chain[..] else { panic!("{tls:?}") };
    assert!(leaf.der.is_empty() && leaf.issuer.contains("Test Root") && leaf.not_after > leaf.not_before);
    assert!(tls.bytes_sent > 200 && tls.bytes_received > 200);
    assert!(tls.hello_len > 200 && tls.hello_len < tls.bytes_sent, "{tls:?}");
    let [connected, shaken, read] =
        [record.tcp[0].transport, tls.transport, record.http[0].transport].map(Option::unwrap);
    assert_eq!((connected.bytes_acked, connected.bytes_received), (0, 0));
    assert!(shaken.bytes_acked >= tls.hello_len && shaken.bytes_received >= tls.bytes_received, "{shaken:?}");
    assert!(read.bytes_received > 20_000 && read.bytes_acked > shaken.bytes_acked, "{read:?}");
    let [http] = &record.http[..] else { panic!("{record:?}") };
    assert_eq!(
        (http.status, &http.outcome, http.canary_found),
        (Some(200), &HttpOutcome::Complete, Some(true))
    );
    assert_eq!((http.title.as_deref(), http.excerpt.as_str()), (Some("The mirror"), ""));
    assert_eq!(record.tls.len(), 1, "no comparison where nothing failed");
}

#[tokio::test]
async fn a_swallowed_hello_is_a_timeout_with_no_byte_received_and_the_neutral_name_gets_through() {
    let record = measure_behind(|_| Front::Swallow).await;
    let main = step(&record, Arm::Main);
    assert_eq!((&main.outcome, main.bytes_received), (&TlsOutcome::Timeout, 0));
    assert!(main.bytes_sent > 200 && main.chain.is_empty() && main.chain_fault.is_none());
    let transport = main.transport.unwrap();
    assert_eq!((main.hello_len, transport.bytes_acked), (main.bytes_sent, main.bytes_sent));
    assert_eq!((transport.bytes_received, transport.unacked_segments), (0, 0), "{transport:?}");
    let other = step(&record, Arm::OtherHello);
    assert_eq!(
        (other.sni.as_deref(), other.address, &other.outcome),
        (Some(HOST), main.address, &main.outcome)
    );
    assert_eq!((main.hello_shape.as_str(), other.hello_shape.as_str()), ("pq", "classic"));
    assert!(main.hello_len > 1_300 && other.hello_len < 700, "{main:?} {other:?}");
    let neutral = step(&record, Arm::NeutralSni);
    assert_eq!(neutral.hello_shape, main.hello_shape);
    assert_eq!((neutral.sni.as_deref(), neutral.address), (Some("neutral.example"), main.address));
    assert!(matches!(neutral.outcome, TlsOutcome::Completed { .. }));
    assert!(record.http.is_empty());
}

#[tokio::test]
async fn every_hello_has_its_ja4() {
    let record = measure_behind(|_| Front::Swallow).await;
    let [main, other, neutral] =
        [Arm::Main, Arm::OtherHello, Arm::NeutralSni].map(|arm| step(&record, arm).ja4.as_str());
    // TLS 1.3, a name, ALPN h2; extensions are sent in another order each time, and JA4 is the same.
    assert!(main.starts_with("t13d") && main[..10].ends_with("h2") && main.len() == 36, "{main}");
    assert_eq!(main, neutral);
    // The key share is no part of it.
    assert_eq!(main, other);
}

#[tokio::test]
async fn a_box_that_chokes_on_a_large_hello_lets_the_other_one_pass() {
    let record = measure_behind(|authority| {
        Front::ResetLarge(authority.server(&[HOST, "neutral.example"]), real_page())
    })
    .await;
    assert_eq!(step(&record, Arm::Main).outcome, TlsOutcome::Reset);
    assert!(matches!(step(&record, Arm::OtherHello).outcome, TlsOutcome::Completed { .. }), "{record:?}");
    let own = record.tls.iter().filter(|step| step.sni.as_deref() == Some(HOST)).count();
    assert_eq!((own, record.http.len()), (3, 0));
    assert_eq!(step(&record, Arm::EchGrease).outcome, TlsOutcome::Reset);
}

#[tokio::test]
async fn a_reset_after_the_hello_is_a_reset() {
    let record = measure_behind(|_| Front::Reset).await;
    assert_eq!(step(&record, Arm::Main).outcome, TlsOutcome::Reset);
    assert!(matches!(step(&record, Arm::NeutralSni).outcome, TlsOutcome::Completed { .. }));
}

#[tokio::test]
async fn a_close_after_the_hello_is_an_end_of_file() {
    let record = measure_behind(|_| Front::Close).await;
    assert_eq!(step(&record, Arm::Main).outcome, TlsOutcome::Eof);
    assert!(matches!(step(&record, Arm::NeutralSni).outcome, TlsOutcome::Completed { .. }));
}

#[tokio::test]
async fn garbage_is_no_tls() {
    let record = measure_behind(|_| Front::Garbage).await;
    let main = step(&record, Arm::Main);
    assert!(matches!(main.outcome, TlsOutcome::Protocol(_)), "{main:?}");
    assert!(
        record.tls.iter().all(|step| step.arm == Arm::Main),
        "a broken server is no reason to compare names"
    );
}

#[tokio::test]
async fn an_alert_keeps_its_name() {
    let record = measure_behind(|_| {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(std::sync::Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        config.alpn_protocols = vec![b"h2".to_vec()];
        Front::Serve(std::sync::Arc::new(config), real_page())
    })
    .await;
    let main = step(&record, Arm::Main);
    assert_eq!(main.outcome, TlsOutcome::Alert("access_denied".to_owned()));
}

#[tokio::test]
async fn a_self_signed_chain_is_kept_whole_and_the_page_behind_it_read() {
    let (config, certificate) = self_signed(&[HOST]);
    let block_page = always(page(b"<title>Blocked</title>by order"), After::Continue);
    let record = measure_behind(|_| Front::Serve(config, block_page)).await;
    let main = step(&record, Arm::Main);
    assert_eq!(main.chain_fault, Some(ChainFault::UnknownIssuer));
    assert_eq!(main.chain[0].der, certificate.as_ref());
    assert_eq!(main.chain[0].sha256, Sha256::of(&certificate));
    assert_ne!(main.chain[0].spki_sha256, Sha256::default());
    assert_eq!(record.http[0].title.as_deref(), Some("Blocked"));
    assert!(record.http[0].excerpt.contains("by order"));
}

#[tokio::test]
async fn silence_amid_the_servers_flight_keeps_the_byte_at_which_it_fell() {
    let record = measure_behind(|authority| Front::Cut(authority.server(&[HOST]), 100)).await;
    let main = step(&record, Arm::Main);
    assert_eq!((&main.outcome, main.bytes_received), (&TlsOutcome::Timeout, 100));
    assert_eq!((main.chain.len(), &main.chain_fault), (0, &None));
    assert_eq!(main.transport.unwrap().bytes_received, 100);
}

#[tokio::test]
async fn a_chain_that_came_before_the_silence_is_kept() {
    // By TLS 1.2 the server's first flight brings the chain, and it waits for the client then.
    let record = measure_behind(|authority| {
        let config = authority.server_of(&[HOST], &[&rustls::version::TLS12]);
        Front::Cut(config, usize::MAX)
    })
    .await;
    let main = step(&record, Arm::Main);
    assert_eq!((&main.outcome, &main.chain_fault), (&TlsOutcome::Timeout, &Some(ChainFault::Valid)));
    assert!(
        main.chain.len() == 1 && main.bytes_sent > main.hello_len && main.bytes_received > 100,
        "{main:?}"
    );
}

#[tokio::test]
async fn the_version_and_the_protocol_agreed_on_are_kept() {
    let record = measure_behind(|authority| {
        let mut config = (*authority.server_of(&[HOST], &[&rustls::version::TLS12])).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Front::Serve(std::sync::Arc::new(config), real_page())
    })
    .await;
    let TlsOutcome::Completed { version, alpn, .. } = &step(&record, Arm::Main).outcome else {
        panic!("{record:?}")
    };
    assert_eq!((version.as_str(), alpn.as_deref()), ("TLSv1_2", Some("http/1.1")));
    assert_eq!(record.http[0].canary_found, Some(true));
}

#[tokio::test]
async fn a_chain_for_another_name_is_told_apart() {
    let record =
        measure_behind(|authority| Front::Serve(authority.server(&["other.example"]), real_page())).await;
    assert_eq!(step(&record, Arm::Main).chain_fault, Some(ChainFault::WrongName));
    assert!(!step(&record, Arm::Main).chain[0].der.is_empty());
}

#[tokio::test]
async fn the_own_name_is_shown_three_times_at_most() {
    let authority = Authority::new();
    let ([first, second], third) = loop {
        let two = two_listeners().await;
        let port = two[0].local_addr().unwrap().port();
        if let Ok(third) = TcpListener::bind((loopback(4), port)).await {
            break (two, third);
        }
    };
    let port = first.local_addr().unwrap().port();
    for listener in [first, second, third] {
        tls_server(listener, vec![("", Front::Reset)]).await;
    }
    let all = (2..=4).map(loopback).collect();
    let system = resolver(&[(HOST, Reply::Addresses(all))]).await;
    let record = probe(&settings(&authority, system, None), &format!("https://{HOST}:{port}/")).await.record;
    let own = record.tls.iter().filter(|step| step.sni.as_deref() == Some(HOST)).count();
    assert_eq!(own, 3);
    let of_visits = record.tls.iter().filter(|step| step.arm == Arm::Main).count();
    assert_eq!((of_visits, step(&record, Arm::OtherHello).sni.as_deref()), (2, Some(HOST)), "{record:?}");
    assert!(record.tls.iter().all(|step| step.arm != Arm::FreshTuple), "no room for it: {record:?}");
}
