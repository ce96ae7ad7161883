//! What gets into the ledger, what leaves it, and what it says of issuers.

use super::*;
use crate::judge::tests::{healthy, mirror};
use crate::record::TlsHandshake;

const STATE: &str = "C=KZ,O=ISCA,CN=Information Security Certification Authority";
const DAY_SECS: u64 = 86_400;

fn day(n: u64) -> UnixMillis {
    UnixMillis(0).plus_secs(n * DAY_SECS)
}

/// A certificate whose digests are made of `mark`, valid from one day to another.
fn certificate(mark: u16, subject: &str, issuer: &str, (from, until): (u64, u64)) -> Certificate {
    let digest = Sha256::of(&mark.to_be_bytes());
    Certificate {
        sha256: digest,
        spki_sha256: digest,
        subject: subject.to_owned(),
        issuer: issuer.to_owned(),
        not_before: day(from),
        not_after: day(until),
        der: vec![],
    }
}

fn leaf(mark: u16, issuer: &str) -> Certificate {
    certificate(mark, "CN=mirror.example", issuer, (0, 90))
}

fn showing(chain: Vec<Certificate>, fault: ChainFault) -> ProbeRecord {
    let mut record = healthy();
    record.tls[0].chain = chain;
    record.tls[0].chain_fault = Some(fault);
    record
}

/// A ledger, and who writes into it.
struct Clerk {
    ledger: Ledger,
    mirror: Mirror,
    fingerprints: Fingerprints,
}

impl Clerk {
    fn new() -> Self {
        Self { ledger: Ledger::default(), mirror: mirror(), fingerprints: Fingerprints::built_in() }
    }

    fn note_at(&mut self, carrier: &str, at: UnixMillis, record: &ProbeRecord) {
        let carrier = CarrierId::parse(carrier).unwrap();
        let scene = Scene { mirror: &self.mirror, carrier: &carrier, access: Access::Mobile, at };
        self.ledger.note(record, scene, &self.fingerprints);
    }

    fn note(&mut self, record: &ProbeRecord) {
        self.note_at("kz-kcell", day(1), record);
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.ledger.sightings().map(|sighting| sighting.interceptor.as_str()).collect()
    }
}

#[test]
fn chains_that_are_not_the_mirror_s_get_in_and_no_others() {
    let check = |chain: Vec<Certificate>, fault, expected: &[&str]| {
        let mut clerk = Clerk::new();
        clerk.note(&showing(chain.clone(), fault));
        assert_eq!(clerk.kinds(), expected, "{chain:?}");
    };
    check(vec![leaf(1, "CN=Public CA")], ChainFault::Valid, &[]);
    check(vec![leaf(1, STATE)], ChainFault::UnknownIssuer, &["state_ca"]);
    check(vec![leaf(1, STATE)], ChainFault::Expired, &["state_ca"]);
    check(vec![leaf(1, "CN=Kaspersky Anti-Virus Root")], ChainFault::UnknownIssuer, &["host_interceptor"]);
    check(vec![leaf(1, "CN=Nobody")], ChainFault::UnknownIssuer, &["unknown"]);
    check(vec![], ChainFault::UnknownIssuer, &[]);
    let authority = certificate(2, STATE, "CN=root", (0, 75));
    check(vec![leaf(1, STATE), authority], ChainFault::UnknownIssuer, &["state_ca", "state_ca"]);
}

#[test]
fn the_mirror_s_own_key_is_no_interception_whatever_its_chain() {
    let mut clerk = Clerk::new();
    let own = leaf(1, STATE);
    clerk.mirror.key_pins = vec![own.spki_sha256];
    clerk.note(&showing(vec![own], ChainFault::UnknownIssuer));
    assert_eq!(clerk.kinds(), Vec::<&str>::new());
    // Another key under a chain that browsers accept: no interceptor is known to have one.
    clerk.note(&showing(vec![leaf(2, "CN=Public CA")], ChainFault::Valid));
    assert_eq!(clerk.kinds(), Vec::<&str>::new());
}

#[test]
fn a_certificate_the_control_is_shown_too_is_the_site_s_own_fault() {
    let mut clerk = Clerk::new();
    let own = showing(vec![leaf(1, "CN=mirror.example")], ChainFault::UnknownIssuer);
    clerk.note(&own);
    assert_eq!(clerk.kinds(), ["unknown"]);
    let id = clerk.mirror.id.clone();
    clerk.ledger.note_control(&own, &id);
    assert_eq!(clerk.kinds(), Vec::<&str>::new(), "it leaves again");
    clerk.note(&own);
    assert_eq!(clerk.kinds(), Vec::<&str>::new());
    clerk.note(&showing(vec![leaf(2, "CN=Nobody")], ChainFault::UnknownIssuer));
    assert_eq!(clerk.kinds(), ["unknown"]);
    // What a control meets at an address it was sent to is not the site's.
    let mut sent = healthy();
    sent.tls.push(TlsHandshake {
        arm: Arm::FieldAddress,
        chain: vec![leaf(2, "CN=Nobody")],
        ..sent.tls[0].clone()
    });
    clerk.ledger.note_control(&sent, &id);
    assert_eq!(clerk.kinds(), ["unknown"]);
}

#[test]
fn other_names_and_the_operator_s_own_control_address_are_no_interception() {
    let mut clerk = Clerk::new();
    let mut record = showing(vec![leaf(1, "CN=Nobody")], ChainFault::UnknownIssuer);
    for change in [
        |tls: &mut TlsHandshake| tls.sni = Some("neutral.example".into()),
        |tls: &mut TlsHandshake| tls.arm = Arm::ControlAddress,
    ] {
        let before = record.tls[0].clone();
        change(&mut record.tls[0]);
        clerk.note(&record);
        record.tls[0] = before;
    }
    assert_eq!(clerk.kinds(), Vec::<&str>::new());
    clerk.note(&record);
    assert_eq!(clerk.kinds(), ["unknown"]);
}

#[test]
fn a_sighting_gathers_networks_mirrors_and_times() {
    let mut clerk = Clerk::new();
    let record = showing(vec![leaf(1, STATE)], ChainFault::UnknownIssuer);
    clerk.note_at("kz-kcell", day(5), &record);
    clerk.note_at("kz-beeline", day(9), &record);
    // Spooled: it is older than what is known.
    clerk.note_at("kz-kcell", day(2), &record);
    clerk.mirror.id = "m2".parse().unwrap();
    clerk.note_at("kz-kcell", day(7), &record);
    let [seen] = &clerk.ledger.sightings().collect::<Vec<_>>()[..] else { panic!() };
    let networks: Vec<&str> = seen.networks.iter().map(|(carrier, _)| carrier.as_str()).collect();
    assert_eq!(networks, ["kz-beeline", "kz-kcell"]);
    assert_eq!(seen.mirrors.len(), 2);
    assert_eq!((seen.first_seen, seen.last_seen, seen.records), (day(2), day(9), 4));
    assert_eq!((seen.issuer.as_str(), seen.place), (STATE, Place::Leaf));
    assert_eq!(seen.validity, Period { from: day(0), until: day(90) });
}

#[test]
fn an_issuer_s_gaps_lie_between_the_generations_seen() {
    let mut clerk = Clerk::new();
    let generations = [(0, 75), (75, 150), (160, 235)];
    for (mark, span) in (0u16..).zip(generations) {
        let authority = certificate(100 + mark, STATE, "CN=State Root", span);
        // The second generation's leaves outlive it.
        let until = if mark == 1 { 170 } else { span.1 };
        let leaf = certificate(mark, "CN=mirror.example", STATE, (span.0, until));
        clerk.note(&showing(vec![leaf, authority], ChainFault::Expired));
    }
    let issuers = clerk.ledger.issuers();
    let names: Vec<&str> = issuers.iter().map(|issuer| issuer.issuer.as_str()).collect();
    assert_eq!(names, [STATE, "CN=State Root"]);
    let gap = vec![Period { from: day(150), until: day(160) }];
    assert_eq!((issuers[0].gaps.clone(), &issuers[0].own_gaps), (vec![], &gap));
    assert_eq!((&issuers[1].gaps, issuers[1].own_gaps.clone()), (&gap, vec![]));
    assert_eq!((issuers[0].certificates, issuers[0].interceptor), (3, Interceptor::StateCa));
}

#[test]
fn the_ledger_is_bounded_and_says_what_it_dropped() {
    let mut clerk = Clerk::new();
    let over = 10;
    for n in 0..CERTIFICATES_MAX + over {
        let record = showing(vec![leaf(n as u16, "CN=Nobody")], ChainFault::UnknownIssuer);
        clerk.note_at("kz-kcell", UnixMillis(1_000 + n as u64), &record);
        if n == over {
            // Seen again, the first is no longer the oldest.
            let first = showing(vec![leaf(0, "CN=Nobody")], ChainFault::UnknownIssuer);
            clerk.note_at("kz-kcell", UnixMillis(10_000_000), &first);
        }
    }
    assert_eq!((clerk.ledger.sightings().count(), clerk.ledger.evicted()), (CERTIFICATES_MAX, over as u64));
    assert_eq!(clerk.ledger.order.len(), CERTIFICATES_MAX);
    let has = |mark: u16| clerk.ledger.sightings.contains_key(&Sha256::of(&mark.to_be_bytes()));
    assert!(has(0) && !has(1) && !has(over as u16) && has(over as u16 + 1));
    // A name fit to fill the memory is cut, on a character's border.
    let long = "ж".repeat(NAME_LEN_MAX);
    clerk.note(&showing(vec![leaf(9_999, &long)], ChainFault::UnknownIssuer));
    assert!(clerk.ledger.sightings().all(|seen| seen.issuer.len() <= NAME_LEN_MAX));
}
