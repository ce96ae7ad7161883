//! A spool that is full: what gives way, what the gaps say, how the chain goes on; and that a week fits.

use std::path::Path;

use tokio::net::TcpListener;
use zerkalo_agent::spool::{Limits, Resumed, Spool, SpoolError};
use zerkalo_agent::worth::Worth;
use zerkalo_core::admission::{ChainHead, Place, place, place_gap};
use zerkalo_core::evidence::{ChainLink, CheckedRecord, SecretKey, SignedRecord};
use zerkalo_core::gap::{Gap, Shape, Statement};
use zerkalo_core::record::{
    Cause, DnsExchange, HttpExchange, Ipv6Health, NetworkCheck, ProbeRecord, ReferenceCheck, TlsHandshake,
};
use zerkalo_core::target::{ReferenceSide, TargetUrl};
use zerkalo_core::words::{MirrorId, UnixMillis};
use zerkalo_proto::gap::decode_statement;

use crate::world::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// The list that a week must have room for, visited at the usual pace.
const MIRRORS: u64 = 6;
const VISITS_A_DAY: u64 = 24 * 60;
/// Headers as busy sites behind a CDN send them, beyond those of the lab's own page.
const HEADERS: usize = 24;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn open(dir: &Path, limits: Limits) -> Spool {
    crate::spool::open_patiently(dir, limits).0
}

/// A small record of a mirror, at a minute.
fn body(mirror: &str, minute: u64) -> Vec<u8> {
    let bytes = zerkalo_proto::record::encode(&ProbeRecord {
        clock: None,
        mirror: MirrorId::parse(mirror).ok(),
        url: TargetUrl::parse(&format!("https://{mirror}.example/")).unwrap(),
        list_version: 1,
        cause: Cause::Scheduled,
        started_at: NOW.plus_millis(minute * 60_000),
        duration_micros: 1,
        agent_version: "1".to_owned(),
        dns: vec![],
        tcp: vec![],
        tls: vec![],
        http: vec![],
        quic: vec![],
        references: vec![],
        network: None,
        hops: vec![],
        screenshot: None,
        uplink: None,
    });
    assert!(bytes.len() < 200);
    bytes
}

/// What a collector makes of statements: records' bodies and gaps, in order.
fn admit(head: &mut ChainHead, statements: &[SignedRecord]) -> (Vec<Vec<u8>>, Vec<Gap>) {
    let (mut bodies, mut gaps) = (Vec::new(), Vec::new());
    for signed in statements {
        let checked = CheckedRecord::new(signed.clone(), &key().public());
        match decode_statement(&signed.body) {
            Ok(Statement::Gap(gap)) => {
                assert_eq!(place_gap(&checked, &gap, head), Ok(Place::Next));
                head.advance(gap.link(signed));
                gaps.push(gap);
            }
            _ => {
                assert_eq!(place(&checked, head), Ok(Place::Next));
                head.advance(signed.link());
                bodies.push(signed.body.clone());
            }
        }
    }
    (bodies, gaps)
}

fn all(spool: &mut Spool) -> Vec<SignedRecord> {
    spool.after(0, usize::MAX, usize::MAX).unwrap()
}

#[test]
fn what_is_missed_least_gives_way_and_signed_gaps_tell_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { records: 6, bytes: 1_000_000 };
    let mut spool = open(dir.path(), limits);
    let kinds = [Worth::Ok, Worth::Calm, Worth::Calm, Worth::Failed, Worth::Calm, Worth::Ok];
    for (worth, minute) in kinds.into_iter().zip(0..) {
        spool.append(body("m1", minute), worth, NOW).unwrap();
    }
    // Four more: the three of calm mirrors go, then the oldest other visit that went through.
    for minute in 6..10 {
        spool.append(body("m2", minute), Worth::Failed, NOW).unwrap();
    }
    drop(spool);
    let mut spool = open(dir.path(), limits);
    let mut head = ChainHead::default();
    let (bodies, gaps) = admit(&mut head, &all(&mut spool));
    let expected: Vec<_> = [(3, "m1"), (5, "m1"), (6, "m2"), (7, "m2"), (8, "m2"), (9, "m2")]
        .map(|(minute, mirror)| body(mirror, minute))
        .to_vec();
    assert_eq!(bodies, expected);
    let mirror = MirrorId::parse("m1").ok();
    let told: Vec<_> = gaps.iter().map(|gap| (gap.first, gap.len(), gap.since, gap.until)).collect();
    let at = |minute: u64| NOW.plus_millis(minute * 60_000);
    assert_eq!(told, [(1, 3, at(0), at(2)), (5, 1, at(4), at(4))]);
    assert!(gaps.iter().all(|gap| gap.counts.keys().eq([&(mirror.clone(), Shape::Ok)])));
    assert_eq!(head.last(), spool.head());
    // The collector has it; a gap is kept and forgotten as records are.
    assert_eq!(spool.resume(head.last(), NOW).unwrap(), Resumed::After(10));
    spool.ack(1, 10, NOW.plus_millis(DAY_MILLIS + 1)).unwrap();
    assert!(spool.after(0, 100, 1_000_000).unwrap().is_empty());
    spool.append(body("m1", 11), Worth::Ok, NOW).unwrap();
    admit(&mut head, &spool.after(10, 100, 1_000_000).unwrap());
}

#[test]
fn gaps_never_fill_the_spool_and_every_record_is_here_or_counted() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { records: 1_000, bytes: 20_000 };
    let mut spool = open(dir.path(), limits);
    let count = 400;
    for minute in 0..count {
        // Every second one failed: at first there is a gap for each that did not.
        let worth = if minute % 2 == 0 { Worth::Failed } else { Worth::Calm };
        spool.append(body("m1", minute), worth, NOW).unwrap();
    }
    let statements = all(&mut spool);
    let (bodies, gaps) = admit(&mut ChainHead::default(), &statements);
    assert_eq!(gaps.iter().map(Gap::len).sum::<u64>() + bodies.len() as u64, count);
    assert!(
        gaps.len() <= bodies.len() + 1 && bodies.len() > 20,
        "{} gaps, {} records",
        gaps.len(),
        bodies.len()
    );
    assert_eq!(bodies.last(), Some(&body("m1", count - 1)));
    // What is larger than all the room can never be kept.
    let refused = spool.append(vec![0; 20_001], Worth::Failed, NOW);
    assert!(matches!(refused, Err(SpoolError::Full { .. })));
}

#[test]
fn what_may_be_on_its_way_goes_last_and_is_bridged_where_it_had_arrived() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), Limits { records: 4, bytes: 1_000_000 });
    (0..4).for_each(|minute| drop(spool.append(body("m1", minute), Worth::Ok, NOW).unwrap()));
    let sent = spool.after(0, 3, 1_000_000).unwrap();
    spool.append(body("m1", 4), Worth::Ok, NOW).unwrap();
    // The fourth, which nobody has seen, went before the three that were sent.
    assert_eq!(spool.after(0, 3, 1_000_000).unwrap(), sent);
    let mut head = ChainHead::default();
    admit(&mut head, &sent[..2]);
    // No ack came. Now all is on its way, and the oldest goes; the collector has it.
    all(&mut spool);
    (5..7).for_each(|minute| drop(spool.append(body("m1", minute), Worth::Ok, NOW).unwrap()));
    let at = head.last();
    assert_eq!(spool.resume(at, NOW).unwrap(), Resumed::After(2));
    let rest = spool.after(2, 100, 1_000_000).unwrap();
    let (bodies, gaps) = admit(&mut head, &rest);
    // The fourth and, of those after it, the one that nobody had seen either.
    assert_eq!((head.last(), gaps.len()), (spool.head(), 2));
    assert_eq!(bodies.last(), Some(&body("m1", 6)));
    assert_eq!(gaps.iter().map(Gap::len).sum::<u64>() + bodies.len() as u64 + at.sequence, 7);
}

#[test]
fn a_new_epoch_takes_gaps_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), Limits { records: 3, bytes: 1_000_000 });
    (0..8).for_each(|minute| drop(spool.append(body("m1", minute), Worth::Ok, NOW).unwrap()));
    spool.begin_epoch(4, NOW).unwrap();
    spool.append(body("m1", 8), Worth::Ok, NOW).unwrap();
    let mut head = ChainHead::default();
    head.advance(ChainLink { epoch: 3, ..ChainLink::default() });
    let (bodies, gaps) = admit(&mut head, &all(&mut spool));
    assert_eq!(bodies, [6, 7, 8].map(|minute| body("m1", minute)));
    assert_eq!(gaps.iter().map(Gap::len).sum::<u64>(), 6);
    assert_eq!(head.last(), spool.head());
}

/// A visit of a page that works, made over real sockets, with what busy sites add to it.
async fn real_shaped() -> ProbeRecord {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let site = Front::Serve(authority.server(&["mirror.test"]), real_page());
    tls_server(listener, vec![("mirror.test", site)]).await;
    let names = resolver(&[("mirror.test", Reply::Addresses(vec![address.ip()]))]).await;
    let settings = settings(&authority, names, Some(names));
    let url = format!("https://mirror.test:{}/", address.port());
    let mut record = probe(&settings, &url).await.record;
    assert!(record.http.iter().any(|step| step.status == Some(200)), "{:?}", record.http);
    record.mirror = MirrorId::parse("mirror-with-a-name").ok();
    record
}

/// The same with a whole browser-like visit's other steps.
fn with_all_steps(mut record: ProbeRecord) -> ProbeRecord {
    let more_dns: Vec<DnsExchange> = record.dns.iter().take(4).cloned().collect();
    record.dns.extend(more_dns);
    let hello: TlsHandshake = record.tls[0].clone();
    record.tls.push(hello);
    let step: &mut HttpExchange = &mut record.http[0];
    for n in 0..HEADERS {
        step.headers.push((
            format!("x-header-number-{n}"),
            "max-age=31536000; includeSubDomains; preload=1".to_owned(),
        ));
    }
    step.excerpt = String::new();
    let reference = |side, n: u64| ReferenceCheck {
        side,
        url: TargetUrl::parse(&format!("https://reference-{n}.example/")).unwrap(),
        checked_at: NOW,
        reached: true,
        failure: None,
    };
    record.references = (0..3)
        .flat_map(|n| [reference(ReferenceSide::Domestic, n), reference(ReferenceSide::Foreign, n)])
        .collect();
    record.network = Some(NetworkCheck {
        clock_ahead_millis: Some(-120),
        ipv6: Ipv6Health::Works,
        resolver_identity: (1..=8).map(|n| format!("203.0.113.{n}")).collect(),
        ..NetworkCheck::default()
    });
    record
}

#[tokio::test]
async fn seven_days_offline_at_the_usual_pace_fit() {
    let plain = real_shaped().await;
    let whole = zerkalo_proto::record::encode(&with_all_steps(plain.clone()));
    let plain = zerkalo_proto::record::encode(&plain);
    let dir = tempfile::tempdir().unwrap();
    // What one costs in the store is measured, not worked out: the spool's own count of a full one.
    let room = 400_000;
    let mut spool = open(dir.path(), Limits { records: 1_000_000, bytes: room });
    let mut kept = 0;
    while all(&mut spool).iter().all(|statement| !zerkalo_proto::gap::is_gap(&statement.body)) {
        spool.append(whole.clone(), Worth::Calm, NOW).unwrap();
        kept += 1;
    }
    let (limits, week) = (Limits::default(), 7 * MIRRORS * VISITS_A_DAY);
    let fit = limits.records.min(limits.bytes * (kept - 1) / room);
    println!(
        "a record: {} bytes as measured here, {} with all a busy site adds, {} of the spool's room; {week} records in \
         seven days of {MIRRORS} mirrors once a minute, room for {fit}",
        plain.len(),
        whole.len(),
        room / (kept - 1)
    );
    assert!(fit >= week, "{fit} records fit, a week has {week}");
}
