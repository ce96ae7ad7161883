//! Large pages, the reference object, and how much of a page is read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;
use zerkalo_agent::probe::flow::{Flow, Pace, pace};
use zerkalo_agent::probe::http::{Reading, SPARING_LEN};
use zerkalo_agent::probe::{Assignment, Measured, ProbeSettings};
use zerkalo_core::record::{Arm, BODY_LEN_MAX, Cause, HttpExchange, HttpOutcome, ProbeRecord};
use zerkalo_core::target::TargetUrl;

use crate::world::*;

const LARGE_LEN: usize = 100_000;
/// What is not to stall comes in time even on a busy machine.
const FLOW_IMPATIENCE: std::time::Duration = std::time::Duration::from_secs(4);
const REFERENCE: &str = "reference.example";

/// A site under test: its page, its large page, and a reference host at another address.
struct Site {
    settings: ProbeSettings,
    assignment: Assignment,
}

impl Site {
    async fn new(pages: Pages) -> Self {
        let authority = Authority::new();
        let listeners = two_listeners().await;
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let [own, other] = listeners;
        tls_server(own, vec![(HOST, Front::Serve(authority.server(&[HOST]), pages))]).await;
        let object = always(page(&[b'r'; LARGE_LEN]), After::Continue);
        tls_server(other, vec![(REFERENCE, Front::Serve(authority.server(&[REFERENCE]), object))]).await;
        let system = resolver(&[
            (HOST, Reply::Addresses(vec![addresses[0].ip()])),
            (REFERENCE, Reply::Addresses(vec![addresses[1].ip()])),
        ])
        .await;
        let settings = settings(&authority, system, None);
        let url = |host: &str, path: &str| format!("https://{host}:{}{path}", addresses[0].port());
        let assignment = Assignment {
            cause: Cause::Scheduled,
            flow: Flow {
                large_page: Some(TargetUrl::parse(&url(HOST, "/large")).unwrap()),
                reference_object: Some(TargetUrl::parse(&url(REFERENCE, "/object")).unwrap()),
            },
            ..assignment(&url(HOST, "/"))
        };
        Self { settings, assignment }
    }

    /// Large pages and objects are given up soon.
    fn impatient(mut self) -> Self {
        self.settings.caps.flow = FLOW_IMPATIENCE;
        self
    }

    async fn probe(&self) -> Measured {
        probe_as(&self.settings, &self.assignment).await
    }
}

/// The page, and the large one as `large` answers it.
fn pages(large: impl Fn() -> (Vec<u8>, After) + Send + Sync + 'static) -> Pages {
    Arc::new(move |path| match path {
        "/large" => large(),
        _ => (page(format!("<title>The mirror</title>{CANARY}").as_bytes()), After::Continue),
    })
}

fn whole() -> (Vec<u8>, After) {
    (page(&[b'x'; LARGE_LEN]), After::Continue)
}

/// The beginning of the large page.
fn first(len: usize, after: After) -> (Vec<u8>, After) {
    let mut bytes = whole().0;
    bytes.truncate(bytes.len() - LARGE_LEN + len);
    (bytes, after)
}

fn of(record: &ProbeRecord, arm: Arm) -> Vec<&HttpExchange> {
    record.http.iter().filter(|step| step.arm == arm).collect()
}

#[tokio::test]
async fn a_large_page_comes_over_the_visit_s_own_connection() {
    let measured = Site::new(pages(whole)).await.probe().await;
    let record = &measured.record;
    assert!(measured.is_reached);
    assert_eq!((record.tcp.len(), record.tls.len(), record.http.len()), (1, 1, 2), "{record:?}");
    let [large] = of(record, Arm::LargePage)[..] else { panic!("{record:?}") };
    assert_eq!((&large.outcome, large.body_len), (&HttpOutcome::Complete, LARGE_LEN as u64));
    assert!(large.first_byte_micros.unwrap() <= large.last_byte_micros.unwrap());
    assert_eq!((large.excerpt.as_str(), large.canary_found), ("", None));
    assert_eq!(pace(&record.http), Some(Pace::Fast));
}

#[tokio::test]
async fn by_hand_the_reference_object_is_always_read() {
    let mut site = Site::new(pages(whole)).await;
    site.assignment.cause = Cause::Manual;
    let record = site.probe().await.record;
    let [object] = of(&record, Arm::ReferenceObject)[..] else { panic!("{record:?}") };
    assert_eq!((&object.outcome, object.body_len), (&HttpOutcome::Complete, LARGE_LEN as u64));
    let shown = record.tls.iter().filter(|step| step.sni.as_deref() == Some(REFERENCE)).count();
    assert_eq!((shown, record.tls.len()), (1, 2));
}

#[tokio::test]
async fn a_page_too_long_to_be_read_out_costs_the_large_one_a_handshake() {
    let front = page(format!("{CANARY}{}", "y".repeat(2 * BODY_LEN_MAX as usize)).as_bytes());
    let site = Site::new(Arc::new(move |path| match path {
        "/large" => whole(),
        _ => (front.clone(), After::Continue),
    }))
    .await;
    let record = site.probe().await.record;
    assert_eq!(of(&record, Arm::LargePage)[0].body_len, LARGE_LEN as u64);
    let arms: Vec<Arm> = record.tls.iter().map(|step| step.arm).collect();
    assert_eq!(arms, [Arm::Main, Arm::LargePage]);
}

#[tokio::test]
async fn a_large_page_that_freezes_is_read_again_and_compared() {
    let record = Site::new(pages(|| first(24_000, After::Stall))).await.impatient().probe().await.record;
    let large = of(&record, Arm::LargePage);
    let seen: Vec<_> = large.iter().map(|step| (&step.outcome, step.body_len)).collect();
    assert_eq!(seen, [(&HttpOutcome::Timeout, 24_000); 2]);
    assert!(large.iter().all(|step| step.last_byte_micros < Some(step.span.duration_micros)));
    // The name was shown for the visit and for the second reading, never a third time.
    let arms: Vec<Arm> = record.tls.iter().map(|step| step.arm).collect();
    assert_eq!(arms, [Arm::Main, Arm::LargePage, Arm::ReferenceObject]);
    assert_eq!(of(&record, Arm::ReferenceObject)[0].body_len, LARGE_LEN as u64);
    assert_eq!(pace(&record.http), Some(Pace::Broken));
}

#[tokio::test]
async fn a_freeze_of_every_second_connection_shows_both_faces() {
    let readings = AtomicUsize::new(0);
    let large = move || match readings.fetch_add(1, Ordering::Relaxed) {
        0 => first(20_000, After::Stall),
        _ => whole(),
    };
    let record = Site::new(pages(large)).await.impatient().probe().await.record;
    let seen: Vec<_> = of(&record, Arm::LargePage).iter().map(|step| step.outcome.clone()).collect();
    assert_eq!(seen, [HttpOutcome::Timeout, HttpOutcome::Complete]);
    assert_eq!(pace(&record.http), Some(Pace::Broken));
}

#[tokio::test]
async fn after_a_visit_that_failed_no_large_page_is_read() {
    let stalled: Pages = Arc::new(|_| first(24_000, After::Stall));
    let mut site = Site::new(stalled).await;
    site.settings.caps.http = IMPATIENCE;
    let measured = site.probe().await;
    assert!(!measured.is_reached && of(&measured.record, Arm::LargePage).is_empty());
    // What broke off is compared all the same.
    assert_eq!(of(&measured.record, Arm::ReferenceObject).len(), 1, "{:?}", measured.record.http);
}

#[tokio::test]
async fn a_metered_line_reads_no_further_than_the_canary() {
    let check = |body: String, expected: std::ops::RangeInclusive<u64>, canary_found| async move {
        let listener = TcpListener::bind((loopback(1), 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let authority = Authority::new();
        let pages = always(page(body.as_bytes()), After::Continue);
        tls_server(listener, vec![("", Front::Serve(authority.server(&[HOST]), pages))]).await;
        let system = resolver(&[(HOST, Reply::Addresses(vec![address.ip()]))]).await;
        let mut settings = settings(&authority, system, None);
        settings.reading = Reading::Sparing;
        let measured = probe(&settings, &format!("https://{HOST}:{}/", address.port())).await;
        let step = &measured.record.http[0];
        assert!(expected.contains(&step.body_len), "{} is not within {expected:?}", step.body_len);
        assert_eq!((&step.outcome, step.canary_found), (&HttpOutcome::Complete, Some(canary_found)));
    };
    let pad = |len: usize| "z".repeat(len);
    // Bytes beyond come in one piece with the last that were wanted: up to the whole of hyper's buffer.
    let slack = 64 * 1024;
    check(format!("{CANARY}{}", pad(200_000)), SPARING_LEN..=SPARING_LEN + slack, true).await;
    check(format!("{}{CANARY}{}", pad(90_000), pad(110_000)), 90_000..=90_000 + slack, true).await;
    check(pad(200_000), 200_000..=200_000, false).await;
    check(format!("{CANARY}{}", pad(1_000)), 1_000..=1_100, true).await;
}
