//! Gaps across the wall. A gap's body stands where a record's would; its schema, the first field of both, tells them apart.

use std::collections::BTreeMap;

use prost::Message;
use zerkalo_core::gap::{GAP_COUNTS_MAX, Gap, Shape, Statement};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{MirrorId, UnixMillis};

use crate::evidence::fixed;
use crate::record::DecodeError;
use crate::record_v1 as wire;

/// The schema every gap names.
pub const SCHEMA: &str = "zerkalo.gap.v1";
/// Tag of the first field: a text.
const SCHEMA_TAG: u8 = 0x0a;

/// The body of a signed gap.
pub fn encode(gap: &Gap) -> Vec<u8> {
    let counts = gap.counts.iter().map(|((mirror, shape), count)| wire::GapCount {
        mirror: mirror.as_ref().map(ToString::to_string).unwrap_or_default(),
        shape: shape.as_str().to_owned(),
        count: *count,
    });
    wire::Gap {
        schema: SCHEMA.to_owned(),
        first: gap.first,
        last_hash: gap.last_hash.0.to_vec(),
        since_millis: gap.since.0,
        until_millis: gap.until.0,
        counts: counts.collect(),
    }
    .encode_to_vec()
}

/// Whether a statement's body is a gap's.
pub fn is_gap(body: &[u8]) -> bool {
    body.strip_prefix(&[SCHEMA_TAG, SCHEMA.len() as u8])
        .is_some_and(|rest| rest.starts_with(SCHEMA.as_bytes()))
}

/// Reads the body of a signed gap.
pub fn decode(body: &[u8]) -> Result<Gap, DecodeError> {
    let gap = wire::Gap::decode(body).map_err(DecodeError::Protobuf)?;
    if gap.counts.len() > GAP_COUNTS_MAX + Shape::ALL.len() {
        return Err(DecodeError::invalid("counts", gap.counts.len()));
    }
    let mut counts = BTreeMap::new();
    for count in gap.counts {
        let mirror = match count.mirror.as_str() {
            "" => None,
            text => Some(MirrorId::parse(text).map_err(|_| DecodeError::invalid("mirror", text))?),
        };
        // A newer agent may know more.
        let shape = Shape::parse(&count.shape).unwrap_or(Shape::Unknown);
        let known: &mut u64 = counts.entry((mirror, shape)).or_default();
        *known = known.saturating_add(count.count);
    }
    Ok(Gap {
        first: gap.first,
        last_hash: Sha256(fixed("last_hash", &gap.last_hash)?),
        since: UnixMillis(gap.since_millis),
        until: UnixMillis(gap.until_millis),
        counts,
    })
}

/// Reads the body of a signed statement.
pub fn decode_statement(body: &[u8]) -> Result<Statement, DecodeError> {
    match is_gap(body) {
        true => decode(body).map(Statement::Gap),
        false => crate::record::decode(body).map(Box::new).map(Statement::Record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_survives_is_told_from_a_record_and_nonsense_does_not() {
        let mirror = MirrorId::parse("m1").ok();
        let gap = Gap::of((4, 2), Sha256([5; 32]), UnixMillis(8), mirror, Shape::Ok).joined(Gap::of(
            (6, 1),
            Sha256([6; 32]),
            UnixMillis(9),
            None,
            Shape::Damaged,
        ));
        let body = encode(&gap);
        assert!(is_gap(&body) && gap.covers(6));
        assert_eq!(decode_statement(&body).unwrap(), Statement::Gap(gap));
        assert!(!is_gap(b"") && !is_gap(b"\x0a\x11zerkalo.record.v1") && !is_gap(&body[..10]));
        let bad = |change: fn(&mut wire::Gap)| {
            let mut gap = wire::Gap::decode(&body[..]).unwrap();
            change(&mut gap);
            assert!(decode(&gap.encode_to_vec()).is_err());
        };
        bad(|gap| gap.last_hash.truncate(31));
        bad(|gap| gap.counts[1].mirror = "no mirror".to_owned());
        bad(|gap| gap.counts = vec![gap.counts[0].clone(); 1_000]);
    }
}
