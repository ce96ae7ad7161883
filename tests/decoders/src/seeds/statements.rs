//! Records, gaps, entries, messages.

use prost::Message;
use zerkalo_agent::spool::stored::{Mark, Stored, key_of};
use zerkalo_agent::worth::Worth;
use zerkalo_core::admission::RejectionCode;
use zerkalo_core::evidence::{ChainLink, SignedList, SignedRecord};
use zerkalo_core::gap::{Gap, Shape};
use zerkalo_core::identity::{Certified, Standing, StandingChange};
use zerkalo_core::journal::{
    Enrolment, Event, JournalEntry, MAGIC, SettingsText, Whereabouts, frame, mark_group, mark_heir,
};
use zerkalo_core::market::{Action, Order, OrderKind, PoolState};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::target::{MirrorList, Sha256};
use zerkalo_core::words::{MarketId, MirrorId, OwnerId, Station, UnixMillis, Vicinity};
use zerkalo_proto::agent_v1::{
    self as wire, stream_request::Message as Up, stream_response::Message as Down,
};
use zerkalo_proto::evidence::{list_to_bytes, list_to_wire, record_to_bytes, record_to_wire};

use super::Seed;
use crate::statements::{agent, key};

/// A record that holds every variant once, as JSON.
pub const RECORD: &str = include_str!("../../data/record.json");
const AT: UnixMillis = UnixMillis(1_795_000_000_000);

pub fn record() -> ProbeRecord {
    zerkalo_proto::record::from_json(RECORD).expect("the sample is read")
}

/// The same, of a visit that went through: short.
fn small() -> ProbeRecord {
    let mut record = record();
    record.dns.truncate(1);
    record.tcp.truncate(1);
    record.tls.truncate(1);
    record.http.truncate(1);
    record.quic.truncate(1);
    record
}

fn signed(body: Vec<u8>) -> SignedRecord {
    SignedRecord::sign(&agent(), ChainLink::start(1), body, &key())
}

fn gap() -> Gap {
    let mirror = MirrorId::parse("m1").ok();
    let first = Gap::of((1, 3), Sha256([4; 32]), AT, mirror, Shape::Ok);
    first.joined(Gap::of((4, 2), Sha256([5; 32]), AT.plus_secs(60), None, Shape::Damaged))
}

fn signed_gap() -> SignedRecord {
    gap().sign(&agent(), ChainLink::start(1), zerkalo_proto::gap::encode, &key())
}

pub fn list() -> MirrorList {
    serde_json::from_str(include_str!("../../data/list.json")).expect("the sample is read")
}

fn signed_list() -> SignedList {
    SignedList::sign(&list(), &key())
}

pub fn seeds() -> Vec<Seed> {
    let full = zerkalo_proto::record::encode(&record());
    let short = zerkalo_proto::record::encode(&small());
    let mut seeds = vec![
        ("record", "full", full),
        ("record", "small", short.clone()),
        ("record_json", "full", RECORD.as_bytes().to_vec()),
        ("record_json", "small", zerkalo_proto::record::to_json(&small()).into_bytes()),
        ("statement", "record", record_to_bytes(&signed(short.clone()))),
        ("statement", "gap", record_to_bytes(&signed_gap())),
        ("list", "json", serde_json::to_vec(&list()).expect("a list is JSON")),
        ("list", "signed", list_to_bytes(&signed_list())),
    ];
    seeds.extend(spool(&short));
    seeds.extend(journal(&short));
    seeds.extend(messages(&short));
    seeds
}

fn spool(body: &[u8]) -> Vec<Seed> {
    let stored = |signed, worth, gap| Stored { signed, appended: AT, worth, gap };
    let record = stored(signed(body.to_vec()), Worth::Ok, None);
    let mark = Mark { version: 3, head: record.link(), acked: 1, vouched: 1, has_joined: true };
    let first = [
        &key_of(1, 1)[..],
        &[1],
        &AT.0.to_be_bytes(),
        &record.signed.previous.0,
        &record.signed.signature,
        &record.signed.body,
    ];
    vec![
        ("spool", "record", record.to_bytes()),
        ("spool", "gap", stored(signed_gap(), Worth::Gap, Some(gap())).to_bytes()),
        ("spool", "mark", mark.to_bytes()),
        ("spool", "first_version", first.concat()),
    ]
}

fn events(body: &[u8]) -> Vec<(&'static str, Event)> {
    let (market, mirror) =
        (MarketId::parse("kz").expect("a market"), MirrorId::parse("m1").expect("a mirror"));
    let order = |kind| Event::Ordered(Order { author: "anna".into(), reason: "why".into(), kind });
    let text = |text: &str| text.to_owned();
    vec![
        (
            "settings",
            Event::Settings(SettingsText {
                catalogue: text("c"),
                policies: vec![text("p")],
                fingerprints: text("f"),
                networks: text("n"),
            }),
        ),
        (
            "enrolled",
            Event::Enrolled(Enrolment {
                agent: agent(),
                owner: OwnerId::parse("anna").expect("an owner"),
                station: Station::Field {
                    carrier: "kz-kcell".parse().expect("a carrier"),
                    access: "mobile".parse().expect("an access"),
                },
                key: key().public(),
            }),
        ),
        ("list", Event::List { list: signed_list(), operator: key().public().into() }),
        (
            "record",
            Event::Record { signed: signed(body.to_vec()), facts: Box::new(small()), is_ahead: false },
        ),
        ("refused", Event::Refused { signed: signed(body.to_vec()), code: RejectionCode::Malformed }),
        ("gap", Event::Gap { signed: signed_gap(), gap: gap() }),
        ("revoked", Event::Revoked(agent())),
        ("tick", Event::Tick),
        ("freeze", order(OrderKind::Freeze { market: market.clone() })),
        (
            "override",
            order(OrderKind::Override {
                market: market.clone(),
                mirror: mirror.clone(),
                action: Action::Pause,
                until: Some(AT),
            }),
        ),
        ("approve", order(OrderKind::Approve { decision: text("kz-000001") })),
        ("set_state", order(OrderKind::SetState { market, mirror, state: PoolState::Burned })),
        (
            "observed",
            Event::Observed {
                agent: agent(),
                whereabouts: Whereabouts { asn: Some(9_198), vicinity: Some(Vicinity([1; 8])) },
            },
        ),
        (
            "standing",
            Event::Standing(StandingChange {
                agent: agent(),
                standing: Standing::Locked,
                author: String::new(),
                reason: text("two boxes"),
            }),
        ),
        ("certified", Event::Certified(Certified { agent: agent(), generation: 3, key: Sha256([4; 32]) })),
        ("shown", Event::Shown { agent: agent(), generation: 3 }),
    ]
}

fn journal(body: &[u8]) -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut segment = MAGIC.to_vec();
    mark_heir(0, &mut segment);
    let mut last_group = segment.len();
    for (name, event) in events(body) {
        let payload = zerkalo_proto::journal::encode(&JournalEntry { at: AT, event });
        last_group = segment.len();
        mark_group(segment.len() as u64, &mut segment);
        frame(&payload, &mut segment);
        seeds.push(("entry", name, payload));
    }
    let old = {
        let mut segment = MAGIC.to_vec();
        let tick = zerkalo_proto::journal::encode(&JournalEntry { at: AT, event: Event::Tick });
        (0..3).for_each(|_| frame(&tick, &mut segment));
        segment
    };
    let mut damaged = segment.clone();
    damaged[last_group - 20] ^= 1;
    let torn = segment[..segment.len() - 1].to_vec();
    for target in ["frames", "journal"] {
        seeds.extend([
            (target, "groups", segment.clone()),
            (target, "torn", torn.clone()),
            (target, "damaged", damaged.clone()),
            (target, "unmarked", old.clone()),
        ]);
    }
    seeds
}

fn messages(body: &[u8]) -> Vec<Seed> {
    let up = |message| wire::StreamRequest { message: Some(message) }.encode_to_vec();
    let down = |message| wire::StreamResponse { message: Some(message) }.encode_to_vec();
    let statement = record_to_bytes(&signed(body.to_vec()));
    let list = list_to_bytes(&signed_list());
    let part = |offset: usize, content: &[u8]| wire::RecordPart {
        epoch: 1,
        sequence: 1,
        offset: offset as u32,
        total_len: statement.len() as u32,
        content: content.to_vec(),
    };
    let list_part = |offset: usize, content: &[u8]| wire::ListPart {
        version: 1,
        offset: offset as u32,
        total_len: list.len() as u32,
        content: content.to_vec(),
    };
    let half = statement.len() / 2;
    let parts = [part(0, &statement[..half]), part(half, &statement[half..])];
    let middle = list.len() / 2;
    let list_parts = [list_part(0, &list[..middle]), list_part(middle, &list[middle..])];
    let hello = wire::Hello {
        agent_version: "0.1.0".to_owned(),
        list_version: 1,
        passage: Some(wire::Passage {
            transport: "quic".to_owned(),
            after: "frozen".to_owned(),
            down_millis: 4_000,
            intercepted_by: vec!["C=KZ, O=ISCA".to_owned()],
            bytes_max: 12_000,
        }),
        ..wire::Hello::default()
    };
    let batch = wire::RecordBatch {
        records: vec![record_to_wire(&signed(body.to_vec())), record_to_wire(&signed_gap())],
    };
    let wish = wire::ProbeNow {
        mirror: "m1".to_owned(),
        addresses: vec!["192.0.2.1".to_owned(), "2001:db8::1".to_owned()],
        picture: true,
    };
    let welcome = wire::Welcome {
        epoch: 1,
        hash: vec![4; 32],
        collector_urls: vec!["https://relay.example:8443".to_owned(), "quic://192.0.2.7:8445".to_owned()],
        ..wire::Welcome::default()
    };
    let mut seeds = vec![
        ("requests", "hello", up(Up::Hello(hello))),
        ("requests", "records", up(Up::Records(batch))),
        ("requests", "part", up(Up::Part(parts[0].clone()))),
        ("responses", "welcome", down(Down::Welcome(welcome))),
        ("responses", "list", down(Down::List(list_to_wire(&signed_list())))),
        ("responses", "list_part", down(Down::ListPart(list_parts[0].clone()))),
        ("responses", "probe_now", down(Down::ProbeNow(wish))),
        ("record_parts", "two", parts.iter().flat_map(Message::encode_length_delimited_to_vec).collect()),
        ("list_parts", "two", list_parts.iter().flat_map(Message::encode_length_delimited_to_vec).collect()),
    ];
    let orders = events(body).into_iter().filter_map(|(name, event)| match event {
        Event::Ordered(order) => {
            Some(("orders", name, zerkalo_proto::order::order_to_wire(&order).encode_to_vec()))
        }
        _ => None,
    });
    seeds.extend(orders);
    seeds
}
