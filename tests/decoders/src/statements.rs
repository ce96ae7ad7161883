//! What agents sign: records, gaps, their places in a chain and in the spool; and what the operator signs, the list.

use std::sync::OnceLock;

use zerkalo_agent::spool::stored::{Mark, Reader, STATEMENT, key_of};
use zerkalo_core::admission::{ChainHead, RejectionCode, place, place_gap};
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::evidence::{CheckedRecord, SecretKey, SignedList};
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::gap::Statement;
use zerkalo_core::judge::{Case, Home, judge};
use zerkalo_core::networks::Networks;
use zerkalo_core::ooni::{Exported, Measurement, export};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::target::{MirrorList, Sha256};
use zerkalo_core::words::{AgentId, UnixMillis};

use crate::{Read, refused};

/// What everything here is signed with.
pub fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

/// Who says it.
pub fn agent() -> AgentId {
    AgentId::parse("a1").expect("a name")
}

/// Reads a body as the collector does, and does with it what the collector does.
pub fn record(bytes: &[u8]) -> Read {
    match zerkalo_proto::record::decode(bytes) {
        Ok(record) => {
            holds(&record);
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// The same from JSON.
pub fn record_json(bytes: &[u8]) -> Read {
    let Ok(text) = std::str::from_utf8(bytes) else { return Read::Refused };
    match zerkalo_proto::record::from_json(text) {
        Ok(record) => {
            holds(&record);
            Read::Whole
        }
        Err(error) => refused(&error, bytes),
    }
}

/// What must hold of any record: both encodings keep it whole, and every rule can be asked about it.
fn holds(record: &ProbeRecord) {
    survives(record);
    let json = zerkalo_proto::record::to_json(record);
    assert_eq!(zerkalo_proto::record::from_json(&json).expect("our own JSON"), *record);
    static KNOWN: OnceLock<(Fingerprints, Catalogue, Networks)> = OnceLock::new();
    let (fingerprints, catalogue, networks) =
        KNOWN.get_or_init(|| (Fingerprints::built_in(), Catalogue::built_in(), Networks::built_in()));
    let carrier = &catalogue.carriers()[0];
    let hash = Sha256([1; 32]);
    let others = [(hash, record)];
    let homes = [None, Some(Home { carrier, networks })];
    for (control, home) in [None, Some((hash, record))].into_iter().zip(homes) {
        let others = if control.is_some() { &others[..] } else { &[] };
        let verdict =
            judge(&Case { record, control, others, mirror: None, fingerprints, country: None, home });
        assert!(!verdict.rule.is_empty() && !verdict.basis.iter().any(String::is_empty), "{verdict:?}");
        let exported = export(&Exported {
            record,
            control: control.map(|(_, record)| record),
            asn: 9198,
            country: None,
        });
        Measurement::parse(&exported.to_json()).expect("what we export is a measurement");
    }
}

/// What must hold of any record that a program made: it passes the wire whole.
pub fn survives(record: &ProbeRecord) {
    let body = zerkalo_proto::record::encode(record);
    assert_eq!(zerkalo_proto::record::decode(&body).expect("our own body"), *record);
}

/// A signed statement as it stands on the wire, and where it belongs.
pub fn statement(bytes: &[u8]) -> Read {
    use zerkalo_proto::evidence::{record_from_bytes, record_from_wire, record_to_bytes};
    let signed = match record_from_bytes(bytes).and_then(record_from_wire) {
        Ok(signed) => signed,
        Err(error) => return refused(&error, bytes),
    };
    let again = record_from_bytes(&record_to_bytes(&signed)).and_then(record_from_wire);
    assert_eq!(again.expect("what was read is written"), signed);
    let said = zerkalo_proto::gap::decode_statement(&signed.body);
    let checked = CheckedRecord::new(signed.clone(), &key().public());
    let mut known = ChainHead::default();
    known.advance(signed.link());
    for head in [ChainHead::default(), known] {
        let placed = match &said {
            Ok(Statement::Gap(gap)) => {
                let body = zerkalo_proto::gap::encode(gap);
                assert_eq!(zerkalo_proto::gap::decode(&body).expect("our own body"), *gap);
                assert!(gap.len_after(head.last(), &signed) <= gap.len());
                let _ = (gap.covers(signed.sequence), gap.is_empty(), gap.clone().joined(gap.clone()));
                place_gap(&checked, gap, &head)
            }
            _ => place(&checked, &head),
        };
        match placed {
            Ok(_) => {}
            Err(rejection) => {
                assert_eq!(RejectionCode::parse(rejection.code.as_str()), Some(rejection.code));
                refused(&rejection, bytes);
            }
        }
    }
    match said {
        Ok(_) => Read::Whole,
        Err(error) => refused(&error, bytes),
    }
}

/// What the spool keeps: as it stands, and with its checksum put right, so that what lies behind it is met too.
pub fn spool(bytes: &[u8]) -> Read {
    let reader = Reader { agent: agent(), key: key().public() };
    let mut healed = bytes.to_vec();
    if let Some((begin, summed)) = healed.split_at_mut_checked(8) {
        begin[4..].copy_from_slice(&crc32c::crc32c(summed).to_be_bytes());
    }
    let mut read = Read::Refused;
    for bytes in [bytes, &healed] {
        if let Some((stored, len)) = reader.read_whole(bytes) {
            assert_eq!(stored.to_bytes(), bytes[..len], "a statement is what it was");
            let key = key_of(stored.signed.epoch, stored.signed.sequence);
            assert_eq!(reader.read(&key, &bytes[..len]), Some(stored.clone()));
            let elsewhere = key_of(stored.signed.epoch, stored.signed.sequence ^ 1);
            assert_eq!(reader.read(&elsewhere, &bytes[..len]), None);
            if stored.gap.is_some() || stored.signed.sequence > 0 {
                assert!(stored.before().sequence < stored.signed.sequence);
            }
            let _ = stored.link();
            assert!(bytes.starts_with(&STATEMENT));
            read = Read::Whole;
        }
        if let Some(mark) = Mark::read(bytes) {
            assert_eq!(Mark::read(&mark.to_bytes()), Some(mark));
            read = Read::Whole;
        }
        let (key, value) = bytes.split_at(bytes.len().min(16));
        if reader.read(key, value).is_some() {
            read = Read::Whole;
        }
        let (head, acked) = bytes.split_at(bytes.len().min(48));
        if let Some(mark) = Mark::of_first_version(head, Some(acked)) {
            assert!(mark.acked <= mark.head.sequence);
        }
    }
    read
}

/// The operator's list: what is in the signed bytes, and the signed bytes in their envelope.
pub fn list(bytes: &[u8]) -> Read {
    use zerkalo_proto::evidence::{list_from_bytes, list_to_bytes};
    if let Ok(signed) = list_from_bytes(bytes) {
        assert_eq!(list_from_bytes(&list_to_bytes(&signed)).expect("our own bytes"), signed);
        return match signed.open(key().public()) {
            Ok(_) => Read::Whole,
            Err(error) => refused(&error, bytes),
        };
    }
    let list: MirrorList = match serde_json::from_slice(bytes) {
        Ok(list) => list,
        Err(error) => return refused(&error, bytes),
    };
    let signed = SignedList::sign(&list, &key());
    match (list.validate(), signed.open(key().public())) {
        (Ok(()), opened) => {
            // Other keys must sign as well, whoever they are.
            match (&list.keys, opened) {
                (None, opened) => assert_eq!(opened.expect("valid, and signed"), list),
                (Some(_), Ok(opened)) => assert_eq!(opened, list),
                (Some(_), Err(error)) => drop(refused(&error, bytes)),
            }
            let held = UnixMillis(1_800_000_000_000);
            assert!(list.ends_at(held) >= held.min(list.ends_at(UnixMillis(0))));
            for mirror in &list.mirrors {
                let _ = (mirror.url.require_public(), list.mirror(&mirror.id).expect("it is on the list"));
            }
            Read::Whole
        }
        (Err(error), opened) => {
            assert!(opened.is_err(), "a list that is refused was opened");
            refused(&error, bytes)
        }
    }
}
