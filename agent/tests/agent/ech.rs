//! ECH: what servers make of a hello that offers it. No server here can decrypt one (rustls' server side knows no ECH), so
//! acceptance is not shown.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
use rustls::crypto::hpke::Hpke;
use tokio::net::TcpListener;
use zerkalo_agent::budget::HANDSHAKES_MAX;
use zerkalo_agent::probe::clock::StepClock;
use zerkalo_agent::probe::ech::{self, EchOffer};
use zerkalo_agent::probe::{Assignment, EchLook, tls};
use zerkalo_core::record::{
    Arm, ChainFault, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, Ech, HttpsService, ProbeRecord,
    QueryType, ResolverKind, Span, TcpOutcome, TlsHandshake, TlsOutcome,
};

use crate::world::*;

/// The name that the front's configuration shows.
const FRONT: &str = "front.example";

/// An ECHConfigList with one configuration (RFC 9849, 4).
pub fn config_list(public_name: &str) -> Vec<u8> {
    let with_len = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let (key, _) = DH_KEM_X25519_HKDF_SHA256_AES_128.generate_key_pair().unwrap();
    let contents = [
        &[7][..],
        &0x0020u16.to_be_bytes(),
        &with_len(&key.0),
        &with_len(&[0, 1, 0, 1]),
        &[0, public_name.len() as u8],
        public_name.as_bytes(),
        &[0, 0],
    ]
    .concat();
    with_len(&[&0xfe0du16.to_be_bytes()[..], &with_len(&contents)].concat())
}

/// Offers it to a server behind these fronts.
async fn look(
    fronts: impl FnOnce(&Authority) -> Vec<(&'static str, Front)>,
    offer: &EchOffer,
) -> TlsHandshake {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tls_server(listener, fronts(&authority)).await;
    let mut settings = settings(&authority, SocketAddr::new(loopback(1), 9), None);
    settings.caps.tls = Duration::from_secs(3);
    let clock = StepClock::start(Duration::from_secs(60));
    let (tcp, tls) = ech::look(&settings, clock, address, HOST, offer).await;
    let tls = tls.unwrap();
    assert_eq!((tcp.outcome, tcp.arm, tcp.address), (TcpOutcome::Connected, tls.arm, address));
    tls
}

fn own_front(authority: &Authority) -> Vec<(&'static str, Front)> {
    vec![(HOST, Front::Serve(authority.server(&[HOST]), real_page()))]
}

#[tokio::test]
async fn any_server_takes_grease_and_the_name_is_seen() {
    let step = look(own_front, &EchOffer::grease().unwrap()).await;
    assert!(
        matches!(&step.outcome, TlsOutcome::Completed { version, .. } if version == "TLSv1_3"),
        "{step:?}"
    );
    assert_eq!((step.arm, step.ech, step.sni.as_deref()), (Arm::EchGrease, Ech::Grease, Some(HOST)));
    assert_eq!((step.chain_fault, step.chain.len()), (Some(ChainFault::Valid), 1));
}

#[tokio::test]
async fn a_front_that_does_not_know_the_configuration_rejects_it_under_its_own_name() {
    let front = |authority: &Authority| {
        vec![(HOST, Front::Reset), (FRONT, Front::Serve(authority.server(&[FRONT]), real_page()))]
    };
    let step = look(front, &EchOffer::real(&config_list(FRONT)).unwrap()).await;
    assert_eq!((step.arm, step.ech, step.sni.as_deref()), (Arm::EchReal, Ech::Rejected, Some(FRONT)));
    assert!(matches!(step.outcome, TlsOutcome::Protocol(_)) && step.bytes_received > 0, "{step:?}");
    assert_eq!((step.chain_fault, step.chain.len()), (Some(ChainFault::Valid), 1), "the front's chain");
}

#[tokio::test]
async fn a_swallowed_offer_is_a_timeout_with_no_byte_received() {
    let front = |_: &Authority| vec![(HOST, Front::Reset), (FRONT, Front::Swallow)];
    let step = look(front, &EchOffer::real(&config_list(FRONT)).unwrap()).await;
    assert_eq!((&step.outcome, step.ech, step.bytes_received), (&TlsOutcome::Timeout, Ech::Offered, 0));
    assert_eq!((step.hello_len, step.sni.as_deref()), (step.bytes_sent, Some(FRONT)));
    assert!(step.ja4.starts_with("t13d"), "{step:?}");
}

/// Measures a mirror that publishes ECH with this public name, behind these fronts.
async fn measure_publishing(
    public_name: &str,
    look: EchLook,
    fronts: impl FnOnce(&Authority) -> Vec<(&'static str, Front)>,
) -> ProbeRecord {
    let authority = Authority::new();
    let listener = TcpListener::bind((loopback(2), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tls_server(listener, fronts(&authority)).await;
    let reply = Reply::Ech(vec![loopback(2)], config_list(public_name));
    let system = resolver(&[(HOST, reply)]).await;
    let mut settings = settings(&authority, system, None);
    settings.caps.tls = Duration::from_secs(3);
    let assignment = Assignment { ech: look, ..assignment(&format!("https://{HOST}:{port}/")) };
    probe_as(&settings, &assignment).await.record
}

fn arms(record: &ProbeRecord) -> Vec<(Arm, Ech, bool)> {
    record.tls.iter().map(|step| (step.arm, step.ech, step.bytes_received > 0)).collect()
}

#[tokio::test]
async fn after_a_visit_that_went_well_the_mirrors_ech_is_tried_once() {
    let fronts = |authority: &Authority| {
        let front = Front::Serve(authority.server(&[FRONT]), real_page());
        [own_front(authority), vec![(FRONT, front)]].concat()
    };
    let record = measure_publishing(FRONT, EchLook::Allowed, fronts).await;
    assert_eq!(arms(&record), [(Arm::Main, Ech::Absent, true), (Arm::EchReal, Ech::Rejected, true)]);
    let page = record.http[0].span;
    let look = record.tls[1].span;
    assert!(look.start_micros >= page.start_micros + page.duration_micros, "no visit waits for it");
    let kept = measure_publishing(FRONT, EchLook::Kept, fronts).await;
    assert_eq!(arms(&kept), [(Arm::Main, Ech::Absent, true)]);
}

#[tokio::test]
async fn where_the_mirrors_ech_meets_silence_grease_is_tried_too() {
    let fronts = |authority: &Authority| [own_front(authority), vec![(FRONT, Front::Swallow)]].concat();
    let record = measure_publishing(FRONT, EchLook::Allowed, fronts).await;
    let expected = [
        (Arm::Main, Ech::Absent, true),
        (Arm::EchReal, Ech::Offered, false),
        (Arm::EchGrease, Ech::Grease, true),
    ];
    assert_eq!(arms(&record), expected);
    let shown: Vec<_> = record.tls.iter().filter_map(|step| step.sni.as_deref()).collect();
    assert_eq!(shown, [HOST, FRONT, HOST]);
}

#[tokio::test]
async fn where_the_own_name_meets_silence_it_is_tried_encrypted() {
    let fronts = |authority: &Authority| {
        vec![(HOST, Front::Swallow), (FRONT, Front::Serve(authority.server(&[FRONT]), real_page()))]
    };
    let record = measure_publishing(FRONT, EchLook::Allowed, fronts).await;
    let real = record.tls.iter().find(|step| step.arm == Arm::EchReal).unwrap();
    assert_eq!((real.ech, real.address), (Ech::Rejected, record.tls[0].address));
    assert_eq!(record.tls[0].outcome, TlsOutcome::Timeout);
}

#[tokio::test]
async fn a_configuration_that_shows_the_own_name_is_counted_as_one_that_hides_nothing() {
    let record = measure_publishing(HOST, EchLook::Allowed, |_| vec![(HOST, Front::Reset)]).await;
    let own = record.tls.iter().filter(|step| step.sni.as_deref() == Some(HOST)).count();
    assert!(own <= HANDSHAKES_MAX, "{:?}", arms(&record));
}

#[tokio::test]
async fn the_name_shown_is_the_configurations() {
    let trust = settings(&Authority::new(), SocketAddr::new(loopback(1), 9), None).trust;
    let shown = |offer: EchOffer| tls::shown_name(&trust, &offer, HOST);
    assert_eq!(shown(EchOffer::real(&config_list(FRONT)).unwrap()).as_deref(), Some(FRONT));
    assert_eq!(shown(EchOffer::grease().unwrap()).as_deref(), Some(HOST));
}

#[test]
fn what_is_no_configuration_is_not_offered() {
    let whole = config_list(FRONT);
    assert!((0..whole.len()).all(|len| EchOffer::real(&whole[..len]).is_err()));
    let mut unknown = whole.clone();
    unknown[3] ^= 0xff;
    assert!(EchOffer::real(&unknown).is_err(), "of a version nobody knows");
}

#[test]
fn the_first_answer_about_the_host_with_a_configuration_counts() {
    let service = |priority, config: &[u8]| HttpsService {
        priority,
        ech_config: config.to_vec(),
        ..HttpsService::default()
    };
    let exchange = |name: &str, services| DnsExchange {
        resolver: ResolverKind::System,
        server: SocketAddr::new(loopback(1), 53),
        transport: DnsTransport::Udp,
        name: name.to_owned(),
        query: QueryType::Https,
        span: Span::default(),
        outcome: DnsOutcome::Timeout,
        others: vec![],
        detail: DnsDetail { services, ..DnsDetail::default() },
    };
    let dns = [
        exchange("other.example", vec![service(1, b"of another")]),
        exchange(HOST, vec![service(0, b"of an alias"), service(1, b"")]),
        exchange(HOST, vec![service(2, b"the one"), service(1, b"too late")]),
    ];
    assert_eq!(ech::published(&dns, HOST), Some(&b"the one"[..]));
    assert_eq!(ech::published(&dns[..2], HOST), None);
}
