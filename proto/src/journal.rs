//! Journal entries across the wall.

use prost::Message;
use zerkalo_core::admission::RejectionCode;
use zerkalo_core::evidence::{PublicKey, SignedRecord};
use zerkalo_core::identity::{Certified, Standing, StandingChange};
use zerkalo_core::journal::{Enrolment, Event, JournalEntry, SettingsText, Whereabouts};
use zerkalo_core::operator_keys::OperatorKeys;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, OwnerId, Station, UnixMillis, Vicinity};

use crate::evidence::{list_from_wire, list_to_wire, record_from_wire, record_to_wire};
use crate::journal_v1 as wire;
use crate::order::{order_from_wire, order_to_wire};
use crate::record::DecodeError;

/// The payload of a frame.
pub fn encode(entry: &JournalEntry) -> Vec<u8> {
    use wire::journal_entry::Event as Wire;
    let event = match &entry.event {
        Event::Settings(text) => Wire::Settings(wire::Settings {
            catalogue: text.catalogue.clone(),
            policies: text.policies.clone(),
            fingerprints: text.fingerprints.clone(),
            networks: text.networks.clone(),
        }),
        Event::Enrolled(enrolment) => Wire::Enrolled(enrolled_to_wire(enrolment)),
        Event::Revoked(agent) => Wire::Revoked(wire::Revoked { agent: agent.to_string() }),
        Event::List { list, operator } => Wire::List(wire::MirrorListPut {
            list: Some(list_to_wire(list)),
            operator_key: operator.first().to_bytes().to_vec(),
            other_keys: operator.keys()[1..].iter().map(|key| key.to_bytes().to_vec()).collect(),
            // As it was before there could be more than one.
            threshold: if operator.keys().len() == 1 { 0 } else { operator.threshold() as u32 },
        }),
        Event::Record { signed, is_ahead: false, .. } => Wire::Record(record_to_wire(signed)),
        Event::Record { signed, is_ahead: true, .. } => Wire::Ahead(record_to_wire(signed)),
        Event::Refused { signed, code } => Wire::Refused(wire::Refused {
            record: Some(record_to_wire(signed)),
            code: code.as_str().to_owned(),
        }),
        Event::Gap { signed, .. } => Wire::Gap(record_to_wire(signed)),
        Event::Tick => Wire::Tick(wire::Tick {}),
        Event::Ordered(order) => Wire::Ordered(order_to_wire(order)),
        Event::Observed { agent, whereabouts } => Wire::Observed(wire::Observed {
            agent: agent.to_string(),
            asn: whereabouts.asn.unwrap_or_default(),
            vicinity: whereabouts.vicinity.map(|Vicinity(digest)| digest.to_vec()).unwrap_or_default(),
        }),
        Event::Standing(change) => Wire::Standing(wire::StandingChanged {
            agent: change.agent.to_string(),
            standing: change.standing.as_str().to_owned(),
            author: change.author.clone(),
            reason: change.reason.clone(),
        }),
        Event::Certified(certified) => Wire::Certified(wire::Certified {
            agent: certified.agent.to_string(),
            generation: certified.generation,
            key_sha256: certified.key.0.to_vec(),
        }),
        Event::Shown { agent, generation } => {
            Wire::Shown(wire::Shown { agent: agent.to_string(), generation: *generation })
        }
    };
    wire::JournalEntry { at_millis: entry.at.0, event: Some(event) }.encode_to_vec()
}

/// Reads the payload of a frame.
pub fn decode(payload: &[u8]) -> Result<JournalEntry, DecodeError> {
    use wire::journal_entry::Event as Wire;
    let entry = wire::JournalEntry::decode(payload).map_err(DecodeError::Protobuf)?;
    let event = match entry.event.ok_or(DecodeError::Missing { field: "event" })? {
        Wire::Settings(text) => Event::Settings(SettingsText {
            catalogue: text.catalogue,
            policies: text.policies,
            fingerprints: text.fingerprints,
            networks: text.networks,
        }),
        Wire::Enrolled(enrolled) => Event::Enrolled(enrolled_from_wire(&enrolled)?),
        Wire::Revoked(revoked) => Event::Revoked(agent(&revoked.agent)?),
        Wire::List(put) => Event::List {
            operator: operator_keys(&put)?,
            list: list_from_wire(put.list.ok_or(DecodeError::Missing { field: "list" })?)?,
        },
        Wire::Record(record) => admitted(record, false)?,
        Wire::Ahead(record) => admitted(record, true)?,
        Wire::Refused(refused) => Event::Refused {
            signed: record_from_wire(refused.record.ok_or(DecodeError::Missing { field: "record" })?)?,
            code: RejectionCode::parse(&refused.code)
                .ok_or_else(|| DecodeError::invalid("code", &refused.code))?,
        },
        Wire::Gap(gap) => {
            let signed = record_from_wire(gap)?;
            let gap = crate::gap::decode(&signed.body)?;
            Event::Gap { signed, gap }
        }
        Wire::Tick(_) => Event::Tick,
        Wire::Ordered(order) => Event::Ordered(order_from_wire(order)?),
        Wire::Observed(observed) => Event::Observed {
            agent: agent(&observed.agent)?,
            whereabouts: Whereabouts {
                asn: Some(observed.asn).filter(|asn| *asn != 0),
                vicinity: vicinity(&observed.vicinity)?,
            },
        },
        Wire::Standing(change) => Event::Standing(StandingChange {
            agent: agent(&change.agent)?,
            standing: Standing::parse(&change.standing)
                .ok_or_else(|| DecodeError::invalid("standing", &change.standing))?,
            author: change.author,
            reason: change.reason,
        }),
        Wire::Certified(certified) => Event::Certified(Certified {
            agent: agent(&certified.agent)?,
            generation: certified.generation,
            key: digest("key_sha256", &certified.key_sha256)?,
        }),
        Wire::Shown(shown) => Event::Shown { agent: agent(&shown.agent)?, generation: shown.generation },
    };
    Ok(JournalEntry { at: UnixMillis(entry.at_millis), event })
}

/// The admitted record in the payload of a frame, its body unread; `None` for every other entry.
pub fn decode_record(payload: &[u8]) -> Result<Option<SignedRecord>, DecodeError> {
    let entry = wire::JournalEntry::decode(payload).map_err(DecodeError::Protobuf)?;
    match entry.event {
        Some(wire::journal_entry::Event::Record(record) | wire::journal_entry::Event::Ahead(record)) => {
            record_from_wire(record).map(Some)
        }
        _ => Ok(None),
    }
}

/// When the entry in the payload of a frame was written.
pub fn decode_instant(payload: &[u8]) -> Result<UnixMillis, DecodeError> {
    let entry = wire::JournalEntry::decode(payload).map_err(DecodeError::Protobuf)?;
    Ok(UnixMillis(entry.at_millis))
}

fn admitted(record: crate::agent_v1::SignedRecord, is_ahead: bool) -> Result<Event, DecodeError> {
    let signed = record_from_wire(record)?;
    let facts = Box::new(crate::record::decode(&signed.body)?);
    Ok(Event::Record { signed, facts, is_ahead })
}

fn enrolled_to_wire(enrolment: &Enrolment) -> wire::Enrolled {
    let (carrier, access) = match &enrolment.station {
        Station::Field { carrier, access } => (carrier.to_string(), access.to_string()),
        Station::Control => (String::new(), String::new()),
    };
    wire::Enrolled {
        agent: enrolment.agent.to_string(),
        owner: enrolment.owner.to_string(),
        carrier,
        access,
        record_key: enrolment.key.to_bytes().to_vec(),
    }
}

fn enrolled_from_wire(enrolled: &wire::Enrolled) -> Result<Enrolment, DecodeError> {
    let station = if enrolled.carrier.is_empty() {
        Station::Control
    } else {
        Station::Field {
            carrier: enrolled
                .carrier
                .parse()
                .map_err(|_| DecodeError::invalid("carrier", &enrolled.carrier))?,
            access: enrolled.access.parse().map_err(|_| DecodeError::invalid("access", &enrolled.access))?,
        }
    };
    Ok(Enrolment {
        agent: agent(&enrolled.agent)?,
        owner: OwnerId::parse(&enrolled.owner).map_err(|_| DecodeError::invalid("owner", &enrolled.owner))?,
        station,
        key: key("record_key", &enrolled.record_key)?,
    })
}

fn operator_keys(put: &wire::MirrorListPut) -> Result<OperatorKeys, DecodeError> {
    let keys = std::iter::once(&put.operator_key).chain(&put.other_keys);
    let keys = keys.map(|bytes| key("operator_key", bytes)).collect::<Result<Vec<_>, _>>()?;
    OperatorKeys::new(keys, put.threshold.max(1) as usize)
        .map_err(|error| DecodeError::invalid("operator_key", error))
}

fn vicinity(bytes: &[u8]) -> Result<Option<Vicinity>, DecodeError> {
    match bytes {
        [] => Ok(None),
        bytes => {
            let digest = bytes
                .try_into()
                .map_err(|_| DecodeError::invalid("vicinity", format!("{} bytes", bytes.len())))?;
            Ok(Some(Vicinity(digest)))
        }
    }
}

fn agent(text: &str) -> Result<AgentId, DecodeError> {
    AgentId::parse(text).map_err(|_| DecodeError::invalid("agent", text))
}

fn digest(field: &'static str, bytes: &[u8]) -> Result<Sha256, DecodeError> {
    bytes.try_into().map(Sha256).map_err(|_| DecodeError::invalid(field, format!("{} bytes", bytes.len())))
}

fn key(field: &'static str, bytes: &[u8]) -> Result<PublicKey, DecodeError> {
    PublicKey::from_bytes(bytes).map_err(|bad| DecodeError::invalid(field, bad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::evidence::{ChainLink, SecretKey, SignedList};
    use zerkalo_core::gap::{Gap, Shape};
    use zerkalo_core::target::Sha256;

    #[test]
    fn entries_survive_and_nonsense_does_not() {
        let key = SecretKey::from_bytes(&[9; 32]);
        let id = AgentId::parse("a1").unwrap();
        let signed = SignedRecord::sign(&id, ChainLink::start(1), b"x".to_vec(), &key);
        let station =
            Station::Field { carrier: "kz-kcell".parse().unwrap(), access: "mobile".parse().unwrap() };
        let enrol = |station| {
            Event::Enrolled(Enrolment {
                agent: id.clone(),
                owner: OwnerId::parse("anna").unwrap(),
                station,
                key: key.public(),
            })
        };
        let gap = Gap::of((1, 3), Sha256([4; 32]), UnixMillis(5), None, Shape::Ok);
        for event in [
            Event::Settings(SettingsText {
                catalogue: "c".into(),
                policies: vec!["p".into()],
                fingerprints: String::new(),
                networks: "n".into(),
            }),
            enrol(station),
            enrol(Station::Control),
            Event::Revoked(id.clone()),
            Event::List {
                list: SignedList { bytes: b"{}".to_vec(), signature: [3; 64], cosignatures: vec![] },
                operator: key.public().into(),
            },
            Event::List {
                list: SignedList { bytes: b"{}".to_vec(), signature: [3; 64], cosignatures: vec![[4; 64]] },
                operator: OperatorKeys::new(vec![key.public(), SecretKey::from_bytes(&[8; 32]).public()], 2)
                    .unwrap(),
            },
            Event::Refused { signed: signed.clone(), code: RejectionCode::FutureTime },
            Event::Gap {
                signed: gap.sign(&id, ChainLink::start(1), crate::gap::encode, &key),
                gap: gap.clone(),
            },
            Event::Tick,
            Event::Ordered(zerkalo_core::market::Order {
                author: "anna".into(),
                reason: "maintenance".into(),
                kind: zerkalo_core::market::OrderKind::Freeze { market: "kz".parse().unwrap() },
            }),
            Event::Observed {
                agent: id.clone(),
                whereabouts: Whereabouts { asn: Some(8_359), vicinity: Some(Vicinity([1; 8])) },
            },
            Event::Observed { agent: id.clone(), whereabouts: Whereabouts::default() },
            Event::Standing(StandingChange {
                agent: id.clone(),
                standing: Standing::Locked,
                author: String::new(),
                reason: "two boxes".into(),
            }),
            Event::Certified(Certified { agent: id.clone(), generation: 3, key: Sha256([4; 32]) }),
            Event::Shown { agent: id.clone(), generation: 3 },
        ] {
            let entry = JournalEntry { at: UnixMillis(7), event };
            assert_eq!(decode(&encode(&entry)).unwrap(), entry);
        }
        let tick = encode(&JournalEntry { at: UnixMillis(7), event: Event::Tick });
        assert_eq!((decode_record(&tick).unwrap(), decode_instant(&tick).unwrap()), (None, UnixMillis(7)));
        assert!(decode(b"").is_err());
        assert!(decode(b"\x08\x01").is_err());
    }

    #[test]
    fn a_record_survives_whether_it_came_ahead_or_in_its_turn() {
        let key = SecretKey::from_bytes(&[9; 32]);
        let id = AgentId::parse("a1").unwrap();
        let facts = crate::record::tests::full();
        let signed = SignedRecord::sign(&id, ChainLink::start(1), crate::record::encode(&facts), &key);
        for is_ahead in [false, true] {
            let event = Event::Record { signed: signed.clone(), facts: Box::new(facts.clone()), is_ahead };
            let entry = JournalEntry { at: UnixMillis(7), event };
            assert_eq!(decode(&encode(&entry)).unwrap(), entry);
            assert_eq!(decode_record(&encode(&entry)).unwrap().as_ref(), Some(&signed));
        }
    }
}
