//! What the pure parts cost: verify, judge, fold, frame. Ends with ratios, which travel between machines; times do not.
#![allow(clippy::unwrap_used)] // A benchmark that cannot go on should stop.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput};
use zerkalo_core::evidence::{ChainLink, SecretKey, SignedList, SignedRecord};
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::fold::{Fold, default_settings};
use zerkalo_core::journal::{Enrolment, Event, Found, JournalEntry, MAGIC, frame, read_frame};
use zerkalo_core::judge::{Case, judge};
use zerkalo_core::record::{
    Arm, Cause, Certificate, ChainFault, DnsDetail, DnsExchange, DnsOutcome, DnsTransport, Ech, HttpExchange,
    HttpOutcome, ProbeRecord, QueryType, ResolverKind, Span, TcpConnect, TcpOutcome, TlsHandshake,
    TlsOutcome,
};
use zerkalo_core::target::{Mirror, MirrorList, Sha256, TargetUrl};
use zerkalo_core::words::{Access, AgentId, MirrorId, OwnerId, Station, UnixMillis};

const START: UnixMillis = UnixMillis(1_800_000_000_000);
const CARRIERS: [&str; 4] = ["kz-kazakhtelecom", "kz-beeline", "kz-kcell", "kz-tele2-altel"];
/// Records folded in one go.
const RECORDS: usize = 1_000;
/// A record's body as agents encode it, in bytes.
const BODY_LEN: usize = 1_024;
/// Repetitions behind each ratio; the median counts.
const RATIO_ROUNDS: usize = 15;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    statements(&mut criterion);
    verdicts(&mut criterion);
    folding(&mut criterion);
    frames(&mut criterion);
    criterion.final_summary();
    ratios();
}

fn statements(criterion: &mut Criterion) {
    let (record, public) = (signed(), key().public());
    criterion.bench_function("sign one record of 1 KiB", |b| {
        b.iter(|| SignedRecord::sign(&agent("a"), ChainLink::start(1), black_box(vec![7; BODY_LEN]), &key()));
    });
    criterion.bench_function("verify one record of 1 KiB", |b| b.iter(|| black_box(&record).verify(&public)));
    criterion.bench_function("hash one record of 1 KiB", |b| b.iter(|| black_box(&record).hash()));
}

fn verdicts(criterion: &mut Criterion) {
    let (fingerprints, mirror) = (Fingerprints::built_in(), mirror());
    let (good, bad) = (facts(START, true), facts(START, false));
    let case = |record| Case {
        record,
        control: Some((Sha256::default(), &good)),
        mirror: Some(&mirror),
        fingerprints: &fingerprints,
        country: None,
        home: None,
        others: &[],
    };
    criterion.bench_function("judge one record: ok", |b| b.iter(|| judge(black_box(&case(&good)))));
    criterion.bench_function("judge one record: blocked", |b| b.iter(|| judge(black_box(&case(&bad)))));
}

fn folding(criterion: &mut Criterion) {
    let (opening, records) = story();
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(RECORDS as u64)).sample_size(20);
    group.bench_function("1,000 records", |b| {
        b.iter_batched_ref(
            || opened(&opening),
            |fold| records.iter().map(|entry| fold.apply(entry).decisions.len()).sum::<usize>(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let payload = vec![7; BODY_LEN];
    let segment = segment(&payload);
    let mut group = criterion.benchmark_group("frames of 1 KiB");
    group.throughput(Throughput::Bytes((RECORDS * BODY_LEN) as u64));
    group.bench_function("write 1,000", |b| b.iter(|| self::segment(black_box(&payload)).len()));
    group.bench_function("scan 1,000", |b| b.iter(|| scan(black_box(&segment))));
    group.finish();
}

/// Prints how many times one thing costs another.
fn ratios() {
    let (record, public) = (signed(), key().public());
    let (opening, records) = story();
    let payload = vec![7; BODY_LEN];
    let segment = segment(&payload);
    let verify = median(|| (0..RECORDS).filter(|_| black_box(&record).verify(&public).is_ok()).count());
    let hash = median(|| (0..RECORDS).map(|_| usize::from(black_box(&record).hash().0[0])).sum());
    let fold = median_after(
        || opened(&opening),
        |mut fold| records.iter().map(|entry| fold.apply(entry).decisions.len()).sum(),
    );
    let scan = median(|| self::scan(black_box(&segment)));
    let times = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    println!("ratios, {RECORDS} records each:");
    println!("  verify / hash (a new record against a resent one)   {:8.2}", times(verify, hash));
    println!("  verify / fold                                       {:8.2}", times(verify, fold));
    println!("  verify / scan (checksums of the journal)            {:8.2}", times(verify, scan));
    println!("  fold / scan (what a replay costs beside reading)    {:8.2}", times(fold, scan));
}

fn median(mut work: impl FnMut() -> usize) -> Duration {
    median_after(|| (), |()| work())
}

fn median_after<T>(mut prepare: impl FnMut() -> T, mut work: impl FnMut(T) -> usize) -> Duration {
    let mut times: Vec<Duration> = (0..RATIO_ROUNDS)
        .map(|_| {
            let prepared = prepare();
            let began = Instant::now();
            black_box(work(prepared));
            began.elapsed()
        })
        .collect();
    times.sort();
    times[RATIO_ROUNDS / 2]
}

fn segment(payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    (0..RECORDS).for_each(|_| frame(payload, &mut bytes));
    bytes
}

fn scan(segment: &[u8]) -> usize {
    let (mut offset, mut frames) = (MAGIC.len(), 0);
    while let Found::Frame { next, .. } = read_frame(segment, offset) {
        (offset, frames) = (next, frames + 1);
    }
    assert_eq!(frames, RECORDS);
    frames
}

fn opened(opening: &[JournalEntry]) -> Fold {
    let mut fold = Fold::new();
    opening.iter().for_each(|entry| {
        fold.apply(entry);
    });
    fold
}

/// Four carriers of three owners and a control; then 1,000 records, every third a dropped ClientHello.
fn story() -> (Vec<JournalEntry>, Vec<JournalEntry>) {
    let list = MirrorList { mirrors: vec![mirror()], ..MirrorList::issued(1, START) };
    let mut events = vec![
        Event::Settings(default_settings()),
        Event::List { list: SignedList::sign(&list, &key()), operator: key().public().into() },
    ];
    let mut heads = Vec::new();
    let mut enrol = |name: &str, station| {
        heads.push((agent(name), ChainLink::start(1)));
        let owner = OwnerId::parse(name).unwrap();
        events.push(Event::Enrolled(Enrolment { agent: agent(name), owner, station, key: key().public() }));
    };
    enrol("control", Station::Control);
    for carrier in CARRIERS {
        for owner in 0..3 {
            let station = Station::Field { carrier: carrier.parse().unwrap(), access: Access::Mobile };
            enrol(&format!("{carrier}-{owner}"), station);
        }
    }
    let opening = events.into_iter().map(|event| JournalEntry { at: START, event }).collect();
    let records = (0..RECORDS)
        .map(|n| {
            let at = START.plus_secs(n as u64 * 5);
            let len = heads.len();
            let (agent, head) = &mut heads[n % len];
            let facts = facts(at, agent.as_str() == "control" || !n.is_multiple_of(3));
            let signed = SignedRecord::sign(agent, *head, vec![7; BODY_LEN], &key());
            *head = signed.link();
            JournalEntry { at, event: Event::Record { signed, facts: Box::new(facts), is_ahead: false } }
        })
        .collect();
    (opening, records)
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[5; 32])
}

fn agent(name: &str) -> AgentId {
    AgentId::parse(name).unwrap()
}

fn signed() -> SignedRecord {
    SignedRecord::sign(&agent("a"), ChainLink::start(1), vec![7; BODY_LEN], &key())
}

fn mirror() -> Mirror {
    Mirror {
        large_page: None,
        id: MirrorId::parse("m1").unwrap(),
        url: TargetUrl::parse("https://mirror.example/").unwrap(),
        markets: vec!["kz".parse().unwrap()],
        canary: Some("the real page".to_owned()),
        key_pins: vec![],
        expected_addresses: vec![],
        standby: false,
        category: None,
    }
}

/// One visit: it goes well, or its ClientHello meets silence.
fn facts(at: UnixMillis, goes_well: bool) -> ProbeRecord {
    let address = "93.184.216.34:443".parse().unwrap();
    let span = Span { start_micros: 1_000, duration_micros: 20_000 };
    let url = mirror().url;
    let completed = TlsOutcome::Completed {
        version: "TLSv1_3".to_owned(),
        cipher_suite: "TLS13_AES_128_GCM_SHA256".to_owned(),
        alpn: Some("h2".to_owned()),
    };
    let page = HttpExchange {
        first_byte_micros: None,
        transport: None,
        arm: Arm::Main,
        url: url.clone(),
        address,
        protocol: "h2".to_owned(),
        span,
        last_byte_micros: Some(9_000),
        status: Some(200),
        headers: vec![("content-type".to_owned(), "text/html".to_owned())],
        body_len: 5_000,
        body_sha256: Sha256([3; 32]),
        title: Some("Mirror".to_owned()),
        canary_found: Some(true),
        excerpt: String::new(),
        outcome: HttpOutcome::Complete,
    };
    ProbeRecord {
        clock: None,
        network: None,
        hops: Vec::new(),
        screenshot: None,
        uplink: None,
        mirror: Some(mirror().id),
        url: url.clone(),
        list_version: 1,
        cause: Cause::Scheduled,
        started_at: at.minus_millis(100),
        duration_micros: 100_000,
        agent_version: "0.1.0".to_owned(),
        dns: [ResolverKind::System, ResolverKind::Public].map(dns).to_vec(),
        tcp: vec![TcpConnect {
            transport: None,
            arm: Arm::Main,
            address,
            span,
            outcome: TcpOutcome::Connected,
        }],
        tls: vec![TlsHandshake {
            ja4: String::new(),
            ech: Ech::Absent,
            hello_shape: String::new(),
            hello_len: 0,
            transport: None,
            arm: Arm::Main,
            address,
            sni: Some(url.host()),
            span,
            bytes_sent: 517,
            bytes_received: if goes_well { 2_000 } else { 0 },
            outcome: if goes_well { completed } else { TlsOutcome::Timeout },
            chain: if goes_well { vec![certificate(at)] } else { vec![] },
            chain_fault: goes_well.then_some(ChainFault::Valid),
        }],
        http: if goes_well { vec![page] } else { vec![] },
        quic: vec![],
        references: vec![],
    }
}

fn dns(resolver: ResolverKind) -> DnsExchange {
    DnsExchange {
        detail: DnsDetail::default(),
        resolver,
        server: "9.9.9.9:53".parse().unwrap(),
        transport: DnsTransport::Udp,
        name: mirror().url.host(),
        query: QueryType::A,
        span: Span { start_micros: 1_000, duration_micros: 20_000 },
        outcome: DnsOutcome::Answer {
            rcode: 0,
            addresses: vec!["93.184.216.34".parse().unwrap()],
            cnames: vec![],
            ttl_min_secs: 60,
        },
        others: vec![],
    }
}

fn certificate(at: UnixMillis) -> Certificate {
    Certificate {
        sha256: Sha256([1; 32]),
        spki_sha256: Sha256([2; 32]),
        subject: "CN=mirror.example".to_owned(),
        issuer: "CN=A Public CA".to_owned(),
        not_before: at.minus_millis(86_400_000),
        not_after: at.plus_secs(86_400),
        der: vec![],
    }
}
