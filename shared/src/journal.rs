//! The journal's content and its frames: the source of truth from which everything else is rebuilt.
//!
//! A segment is [`MAGIC`], then frames: payload length (u32), CRC-32C of the payload (u32), payload; integers
//! big-endian. Between frames stand marks: four letters, a number (u64), CRC-32C of both. `ZKJG` begins a group and bears
//! its own offset: everything before it in the segment was synced when it was written. `ZKJH` stands first in a segment
//! and says how many bytes of the segment before count. Segments of older versions have none. Payloads are encoded by the
//! wall (zerkalo-proto). Files are the collector's and the CLI's business.

use crate::admission::RejectionCode;
use crate::evidence::{PublicKey, SignedList, SignedRecord};
use crate::gap::Gap;
use crate::identity::{Certified, StandingChange};
use crate::market::Order;
use crate::operator_keys::OperatorKeys;
use crate::record::ProbeRecord;
use crate::words::{AgentId, OwnerId, Station, UnixMillis, Vicinity};

/// First bytes of a segment: name and version of the format.
pub const MAGIC: &[u8; 8] = b"ZKJRNL\x00\x01";
/// Bytes before each payload.
pub const FRAME_HEADER_LEN: usize = 8;
/// Largest payload, in bytes: a mirror list of 1,000 mirrors fits.
pub const PAYLOAD_LEN_MAX: usize = 4 * 1024 * 1024;
/// Bytes checksummed at most in the search for a whole frame behind a torn one: half a second. Random bytes need a
/// few kilobytes; only an end made up of forged lengths comes near.
const SEARCH_LEN_MAX: usize = 1024 * 1024 * 1024;

/// Bytes of a mark.
pub const MARK_LEN: usize = 16;
/// Begins a group; as a length it is beyond every payload's.
const GROUP: [u8; 4] = *b"ZKJG";
/// First in a segment: how much of the one before counts.
const HEIR: [u8; 4] = *b"ZKJH";

/// One thing that happened, and when the collector wrote it down. Instants never fall.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    pub at: UnixMillis,
    pub event: Event,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The rules of the house changed (or the journal begins).
    Settings(SettingsText),
    /// An agent joined, or joined anew.
    Enrolled(Enrolment),
    /// An agent's word no longer counts: as a [`Event::Standing`] without author and reason.
    Revoked(AgentId),
    /// The operator signed a new list, checked against these keys.
    List { list: SignedList, operator: OperatorKeys },
    /// A record was admitted: as the next of its agent's chain, or ahead of it.
    Record { signed: SignedRecord, facts: Box<ProbeRecord>, is_ahead: bool },
    /// A record was placed in its agent's chain, but its facts were refused.
    Refused { signed: SignedRecord, code: RejectionCode },
    /// An agent could not keep records it had signed; placed in its chain in their stead.
    Gap { signed: SignedRecord, gap: Gap },
    /// Time passed, and a decision may depend on it.
    Tick,
    /// Where an agent's stream comes from, where that has changed: never an address.
    Observed { agent: AgentId, whereabouts: Whereabouts },
    /// A person ordered something, checked by the fold.
    Ordered(Order),
    /// An agent was locked, unlocked or revoked.
    Standing(StandingChange),
    /// An agent gets a certificate.
    Certified(Certified),
    /// An agent's certificate was shown for the first time.
    Shown { agent: AgentId, generation: u64 },
}

/// What is kept of the address that a stream comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whereabouts {
    /// The network's number. `None`: none that the tables know.
    pub asn: Option<u32>,
    /// Which boxes are its neighbours. `None`: nothing follows from the address.
    pub vicinity: Option<Vicinity>,
}

/// The data files in force, as text: parsed by `settings`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettingsText {
    /// Carriers and markets.
    pub catalogue: String,
    /// One policy a market.
    pub policies: Vec<String>,
    pub fingerprints: String,
    /// Ranges of the catalogue's carriers; empty: those compiled in.
    pub networks: String,
}

/// An agent as the collector knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    pub agent: AgentId,
    pub owner: OwnerId,
    pub station: Station,
    pub key: PublicKey,
}

/// Puts a frame around a payload.
///
/// # Panics
/// If the payload is larger than [`PAYLOAD_LEN_MAX`]: callers admit nothing so large.
pub fn frame(payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= PAYLOAD_LEN_MAX, "a journal payload is bounded before it is framed");
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(payload).to_be_bytes());
    out.extend_from_slice(payload);
}

/// Begins a group at `offset` of its segment, where everything before is synced.
pub fn mark_group(offset: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&mark(GROUP, offset));
}

/// Follows [`MAGIC`] in a segment that goes on after `len` bytes of the one before.
pub fn mark_heir(len: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&mark(HEIR, len));
}

/// How many bytes of the segment before count, if this segment says so.
pub fn heir_of(segment: &[u8]) -> Option<u64> {
    read_mark(segment, MAGIC.len(), HEIR)
}

fn mark(letters: [u8; 4], number: u64) -> [u8; MARK_LEN] {
    let mut bytes = [0; MARK_LEN];
    bytes[..4].copy_from_slice(&letters);
    bytes[4..12].copy_from_slice(&number.to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[..12]);
    bytes[12..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn read_mark(segment: &[u8], offset: usize, letters: [u8; 4]) -> Option<u64> {
    let bytes = segment.get(offset..offset + MARK_LEN)?;
    let number = u64::from_be_bytes(bytes[4..12].try_into().ok()?);
    (*bytes == mark(letters, number)).then_some(number)
}

/// Whether a group begins at `offset`: its mark stands where it says.
fn begins_group(segment: &[u8], offset: usize) -> bool {
    read_mark(segment, offset, GROUP) == Some(offset as u64)
}

/// Whether a group begins anywhere in the range.
fn holds_group(segment: &[u8], range: std::ops::Range<usize>) -> bool {
    range.into_iter().any(|offset| segment.get(offset) == Some(&GROUP[0]) && begins_group(segment, offset))
}

/// What stands at a place in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole frame; `next` is the offset behind it.
    Frame { payload: &'a [u8], next: usize },
    /// A mark; `next` is the offset behind it.
    Mark { next: usize },
    /// The end, exactly at a frame's border.
    End,
    /// A frame of the last group that is not whole: what a crash leaves, never acknowledged. In a segment without marks,
    /// a frame cut short by the end of the file, and no whole one behind it.
    Torn,
    /// A frame whose checksum or length is wrong, though it was synced: a later group follows, or may.
    Corrupt,
}

/// Reads the frame at `offset` of a whole segment.
pub fn read_frame(segment: &[u8], offset: usize) -> Found<'_> {
    let rest = segment.get(offset..).unwrap_or_default();
    if rest.is_empty() {
        return Found::End;
    }
    if begins_group(segment, offset) || (offset == MAGIC.len() && heir_of(segment).is_some()) {
        return Found::Mark { next: offset + MARK_LEN };
    }
    match read_unmarked(rest, offset) {
        // Early pages of the last group may be lost where later ones are whole: nothing of it was acknowledged. But
        // what another group was written behind was synced before.
        Found::Torn | Found::Corrupt if holds_group(segment, offset + 1..segment.len()) => Found::Corrupt,
        Found::Corrupt if heir_of(segment).is_some() || holds_group(segment, MAGIC.len()..offset) => {
            Found::Torn
        }
        found => found,
    }
}

/// Reads a frame by what it says itself.
fn read_unmarked(rest: &[u8], offset: usize) -> Found<'_> {
    let begun = rest.len() < MARK_LEN && [GROUP, HEIR].iter().any(|letters| rest.starts_with(letters));
    if begun {
        return Found::Torn;
    }
    let Some((len, checksum, body)) = split_header(rest) else { return Found::Torn };
    if len == 0 || len > PAYLOAD_LEN_MAX {
        // Zeros to the end are space the file system gave but the crash left unwritten.
        return if rest.iter().all(|byte| *byte == 0) { Found::Torn } else { Found::Corrupt };
    }
    match body.get(..len) {
        Some(payload) if crc32c::crc32c(payload) == checksum => {
            Found::Frame { payload, next: offset + FRAME_HEADER_LEN + len }
        }
        Some(_) if body.len() > len => Found::Corrupt,
        // It seems to end with the file or beyond it; yet a damaged length says the same of a frame among others.
        _ if may_hold_frame(body) => Found::Corrupt,
        _ => Found::Torn,
    }
}

/// The next place from `from` on at which a group begins or a whole frame stands: behind damage. `None` without one, or
/// where looking on would take too long.
pub fn next_whole(segment: &[u8], from: usize) -> Option<usize> {
    let mut searched = 0;
    (from..segment.len()).find(|start| {
        let Some((len, checksum, body)) = split_header(&segment[*start..]) else { return false };
        let payload = body.get(..len).filter(|payload| (1..=PAYLOAD_LEN_MAX).contains(&payload.len()));
        let is_frame = payload.is_some_and(|payload| {
            searched += len;
            searched <= SEARCH_LEN_MAX && crc32c::crc32c(payload) == checksum
        });
        is_frame || begins_group(segment, *start)
    })
}

/// Length, checksum, and everything behind the header.
fn split_header(rest: &[u8]) -> Option<(usize, u32, &[u8])> {
    let (len, rest) = rest.split_first_chunk()?;
    let (checksum, body) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*len) as usize, u32::from_be_bytes(*checksum), body))
}

/// Whether a whole frame stands anywhere in `bytes`, or the search would take too long: damage is assumed then, for
/// nothing is cut off a damaged segment.
fn may_hold_frame(bytes: &[u8]) -> bool {
    let mut searched = 0;
    for start in 0..bytes.len() {
        let Some((len, checksum, body)) = split_header(&bytes[start..]) else { return false };
        let Some(payload) = body.get(..len).filter(|payload| !payload.is_empty()) else { continue };
        searched += len;
        if searched > SEARCH_LEN_MAX || crc32c::crc32c(payload) == checksum {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        payloads.iter().for_each(|payload| frame(payload, &mut bytes));
        bytes
    }

    fn read_all(segment: &[u8]) -> (Vec<Vec<u8>>, Found<'_>) {
        let (mut offset, mut payloads) = (MAGIC.len(), Vec::new());
        loop {
            match read_frame(segment, offset) {
                Found::Frame { payload, next } => {
                    payloads.push(payload.to_vec());
                    offset = next;
                }
                Found::Mark { next } => offset = next,
                end => return (payloads, end),
            }
        }
    }

    #[test]
    fn a_search_that_would_take_forever_takes_the_end_for_damage() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(PAYLOAD_LEN_MAX as u32).to_be_bytes());
        // Every fourth offset claims one megabyte.
        bytes.extend(std::iter::repeat_n([0, 0x10, 0, 0], 1_000_000).flatten());
        assert_eq!(read_frame(&bytes, MAGIC.len()), Found::Corrupt);
    }

    /// Groups of frames behind their marks; where each begins.
    fn groups(sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut begins) = (MAGIC.to_vec(), Vec::new());
        mark_heir(77, &mut bytes);
        for size in sizes {
            begins.push(bytes.len());
            mark_group(bytes.len() as u64, &mut bytes);
            (0..*size).for_each(|n| frame(&vec![n as u8 + 1; 700], &mut bytes));
        }
        (bytes, begins)
    }

    #[test]
    fn a_lost_page_of_the_last_group_is_torn_and_of_any_other_damage() {
        let (bytes, begins) = groups(&[3, 2, 9]);
        assert_eq!((read_all(&bytes).0.len(), read_all(&bytes).1), (14, Found::End));
        assert_eq!(heir_of(&bytes), Some(77));
        let check = |from: usize, len: usize, whole: usize, expected: Found<'_>| {
            let mut damaged = bytes.clone();
            damaged[from..from + len].fill(0);
            let (read, end) = read_all(&damaged);
            assert_eq!((read.len(), end), (whole, expected), "{from}");
        };
        // An early page of the last group is lost and all after it is there.
        check(begins[2] + MARK_LEN, 512, 5, Found::Torn);
        check(begins[2] + MARK_LEN + 2 * 708 + 3, 1, 7, Found::Torn);
        // The mark itself never came, or the only one.
        let (first, _) = groups(&[3]);
        let mut damaged = first.clone();
        damaged[begins[0]..begins[0] + 200].fill(0);
        assert_eq!(read_all(&damaged), (vec![], Found::Torn));
        check(begins[2], MARK_LEN, 5, Found::Torn);
        // Before that everything was acknowledged.
        check(begins[1] + MARK_LEN + 100, 1, 3, Found::Corrupt);
        check(begins[0] + MARK_LEN + 708, 512, 1, Found::Corrupt);
        check(begins[1], MARK_LEN, 3, Found::Corrupt);
    }

    proptest! {
        #[test]
        fn a_cut_loses_only_the_frame_it_cuts(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 1..8),
            cut in 0usize..400,
        ) {
            let whole = frames(&payloads);
            let cut = MAGIC.len() + cut % (whole.len() - MAGIC.len() + 1);
            let (read, end) = read_all(&whole[..cut]);
            prop_assert!(read.len() <= payloads.len() && read[..] == payloads[..read.len()]);
            let border = frames(&payloads[..read.len()]).len();
            prop_assert_eq!(end, if border == cut { Found::End } else { Found::Torn });
        }

        #[test]
        fn a_flipped_bit_is_never_read_as_truth(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 2..6),
            at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut bytes = frames(&payloads);
            let at = MAGIC.len() + at.index(bytes.len() - MAGIC.len());
            bytes[at] ^= 1 << bit;
            let (read, end) = read_all(&bytes);
            prop_assert!(read.len() < payloads.len());
            prop_assert!(read[..] == payloads[..read.len()]);
            if read.len() + 1 < payloads.len() {
                prop_assert_eq!(end, Found::Corrupt);
            } else {
                prop_assert!(matches!(end, Found::Torn | Found::Corrupt));
            }
        }
    }
}
