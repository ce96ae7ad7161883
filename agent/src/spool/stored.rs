//! How statements and the spool's own marks look on the disk. Each says itself what and where it is, under a checksum: so a
//! flipped bit is found, and what is whole can be read out of a store that cannot be opened.

use zerkalo_core::evidence::{ChainLink, PublicKey, SignedRecord};
use zerkalo_core::gap::Gap;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis};

use crate::worth::Worth;

/// Begins a stored statement; the first byte is the format's number.
pub const STATEMENT: [u8; 4] = *b"\x02ZKS";
/// Begins a mark.
pub const MARK: [u8; 4] = *b"\x02ZKM";
/// Bytes of a stored statement before its body.
pub const HEADER_LEN: usize = 4 + 4 + 4 + 8 + 8 + 8 + 1 + 32 + 64;
/// Bytes of a mark.
pub const MARK_LEN: usize = 4 + 4 + 8 + 8 + 8 + 32 + 8 + 8 + 1;
/// Where the checksum's own bytes end.
const SUMMED_FROM: usize = 8;
/// First byte of a record stored by the first version, and its bytes before the body: time, hash, signature.
const FORMAT_1: u8 = 1;
/// See [`FORMAT_1`].
const HEADER_1_LEN: usize = 1 + 8 + 32 + 64;

/// A statement as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub signed: SignedRecord,
    /// When it was put here.
    pub appended: UnixMillis,
    pub worth: Worth,
    /// What it says, where it is a gap.
    pub gap: Option<Gap>,
}

impl Stored {
    /// The first sequence it stands for.
    pub fn first(&self) -> u64 {
        self.gap.as_ref().map_or(self.signed.sequence, |gap| gap.first)
    }

    /// Where it is kept.
    pub fn key(&self) -> [u8; 16] {
        key_of(self.signed.epoch, self.signed.sequence)
    }

    /// The place in the chain before it.
    pub fn before(&self) -> ChainLink {
        ChainLink { epoch: self.signed.epoch, sequence: self.first() - 1, hash: self.signed.previous }
    }

    /// The place in the chain after it.
    pub fn link(&self) -> ChainLink {
        self.gap.as_ref().map_or_else(|| self.signed.link(), |gap| gap.link(&self.signed))
    }

    /// Its bytes in the store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let len = HEADER_LEN + self.signed.body.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&STATEMENT);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(len as u32).to_be_bytes());
        bytes.extend_from_slice(&key_of(self.signed.epoch, self.signed.sequence));
        bytes.extend_from_slice(&self.appended.0.to_be_bytes());
        bytes.push(self.worth as u8);
        bytes.extend_from_slice(&self.signed.previous.0);
        bytes.extend_from_slice(&self.signed.signature);
        bytes.extend_from_slice(&self.signed.body);
        sum_up(&mut bytes);
        bytes
    }
}

/// Reads what one agent stored.
#[derive(Debug)]
pub struct Reader {
    pub agent: AgentId,
    /// Proves what the first version stored without a checksum.
    pub key: PublicKey,
}

impl Reader {
    /// The statement under `key`; `None` if it is damaged, or belongs elsewhere.
    pub fn read(&self, key: &[u8], value: &[u8]) -> Option<Stored> {
        if value.first() == Some(&FORMAT_1) {
            return self.read_first_version(key, value);
        }
        let stored = self.read_whole(value).filter(|(_, len)| *len == value.len())?.0;
        (key == key_of(stored.signed.epoch, stored.signed.sequence)).then_some(stored)
    }

    /// The statement at the beginning of `bytes`, and its length, wherever they were found.
    pub fn read_whole(&self, bytes: &[u8]) -> Option<(Stored, usize)> {
        let len = u32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?) as usize;
        let bytes =
            bytes.get(..len).filter(|bytes| bytes.len() >= HEADER_LEN && bytes.starts_with(&STATEMENT))?;
        if !is_sound(bytes) {
            return None;
        }
        let (header, body) = bytes.split_at(HEADER_LEN);
        let (epoch, sequence) = place_of(&header[12..28])?;
        let signed = SignedRecord {
            agent: self.agent.clone(),
            epoch,
            sequence,
            previous: Sha256(header[37..69].try_into().ok()?),
            signature: header[69..].try_into().ok()?,
            body: body.to_vec(),
        };
        let appended = UnixMillis(u64::from_be_bytes(header[28..36].try_into().ok()?));
        let gap = match zerkalo_proto::gap::is_gap(body) {
            true => Some(zerkalo_proto::gap::decode(body).ok().filter(|gap| gap.covers(sequence))?),
            false => None,
        };
        Some((Stored { signed, appended, worth: Worth::of_byte(header[36])?, gap }, len))
    }

    fn read_first_version(&self, key: &[u8], value: &[u8]) -> Option<Stored> {
        let (epoch, sequence) = place_of(key)?;
        let (header, body) = value.split_at_checked(HEADER_1_LEN)?;
        let signed = SignedRecord {
            agent: self.agent.clone(),
            epoch,
            sequence,
            previous: Sha256(header[9..41].try_into().ok()?),
            body: body.to_vec(),
            signature: header[41..].try_into().ok()?,
        };
        signed.verify(&self.key).ok()?;
        let appended = UnixMillis(u64::from_be_bytes(header[1..9].try_into().ok()?));
        Some(Stored { signed, appended, worth: Worth::Unknown, gap: None })
    }
}

/// Where the chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Rises with each mark written.
    pub version: u64,
    pub head: ChainLink,
    /// Sequence of the head's epoch up to which the collector has everything.
    pub acked: u64,
    /// Up to here the chain is known to be what was sent under these keys, whatever else may have been lost of it.
    pub vouched: u64,
    /// A collector's chain was found to go on here since the store was opened.
    pub has_joined: bool,
}

impl Mark {
    /// Before the first statement.
    pub const START: Self = Self {
        version: 0,
        head: ChainLink { epoch: 1, sequence: 0, hash: Sha256([0; 32]) },
        acked: 0,
        vouched: 0,
        has_joined: false,
    };

    /// Its bytes in the store.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MARK_LEN);
        bytes.extend_from_slice(&MARK);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.version.to_be_bytes());
        bytes.extend_from_slice(&key_of(self.head.epoch, self.head.sequence));
        bytes.extend_from_slice(&self.head.hash.0);
        bytes.extend_from_slice(&self.acked.to_be_bytes());
        bytes.extend_from_slice(&self.vouched.to_be_bytes());
        bytes.push(u8::from(self.has_joined));
        sum_up(&mut bytes);
        bytes
    }

    /// The mark at the beginning of `bytes`.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..MARK_LEN).filter(|bytes| bytes.starts_with(&MARK) && is_sound(bytes))?;
        let number = |at: usize| Some(u64::from_be_bytes(bytes[at..at + 8].try_into().ok()?));
        let (epoch, sequence) = place_of(&bytes[16..32])?;
        let hash = Sha256(bytes[32..64].try_into().ok()?);
        Some(Self {
            version: number(8)?,
            head: ChainLink { epoch, sequence, hash },
            acked: number(64)?,
            vouched: number(72)?,
            has_joined: bytes[80] == 1,
        })
    }

    /// What the first version wrote in its place: the head and the acknowledged sequence.
    pub fn of_first_version(head: &[u8], acked: Option<&[u8]>) -> Option<Self> {
        let (place, hash) = head.split_at_checked(16)?;
        let (epoch, sequence) = place_of(place)?;
        let head = ChainLink { epoch, sequence, hash: Sha256(hash.try_into().ok()?) };
        let acked = acked.and_then(|acked| Some(u64::from_be_bytes(acked.try_into().ok()?))).unwrap_or(0);
        Some(Self { version: 0, head, acked: acked.min(sequence), vouched: 0, has_joined: acked > 0 })
    }
}

/// The key of a statement.
pub fn key_of(epoch: u64, sequence: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&epoch.to_be_bytes());
    key[8..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Epoch and sequence of a key.
pub fn place_of(key: &[u8]) -> Option<(u64, u64)> {
    let (epoch, sequence) = key.split_at_checked(8)?;
    Some((u64::from_be_bytes(epoch.try_into().ok()?), u64::from_be_bytes(sequence.try_into().ok()?)))
}

fn sum_up(bytes: &mut [u8]) {
    let sum = crc32c::crc32c(&bytes[SUMMED_FROM..]);
    bytes[4..SUMMED_FROM].copy_from_slice(&sum.to_be_bytes());
}

fn is_sound(bytes: &[u8]) -> bool {
    bytes[4..SUMMED_FROM] == crc32c::crc32c(&bytes[SUMMED_FROM..]).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerkalo_core::evidence::SecretKey;
    use zerkalo_core::gap::Shape;

    fn reader() -> Reader {
        let key = SecretKey::from_bytes(&[7; 32]);
        Reader { agent: AgentId::parse("a1").unwrap(), key: key.public() }
    }

    fn stored(body: &[u8]) -> Stored {
        let key = SecretKey::from_bytes(&[7; 32]);
        let last = ChainLink { epoch: 3, sequence: 8, hash: Sha256([4; 32]) };
        let signed = SignedRecord::sign(&reader().agent, last, body.to_vec(), &key);
        Stored { signed, appended: UnixMillis(77), worth: Worth::Ok, gap: None }
    }

    #[test]
    fn what_is_stored_is_read_back_and_what_the_first_version_stored_too() {
        let plain = stored(b"facts");
        let key = key_of(3, 9);
        assert_eq!(reader().read(&key, &plain.to_bytes()), Some(plain.clone()));
        assert_eq!(reader().read(&key_of(3, 8), &plain.to_bytes()), None);
        let gap = Gap::of((9, 4), Sha256([6; 32]), UnixMillis(5), None, Shape::Ok);
        let last = ChainLink { epoch: 3, sequence: 8, hash: Sha256([4; 32]) };
        let secret = SecretKey::from_bytes(&[7; 32]);
        let signed = gap.sign(&reader().agent, last, zerkalo_proto::gap::encode, &secret);
        let gap = Stored { signed, appended: UnixMillis(1), worth: Worth::Gap, gap: Some(gap) };
        assert_eq!(reader().read(&key_of(3, 12), &gap.to_bytes()), Some(gap.clone()));
        assert_eq!((gap.first(), gap.link().sequence, gap.before()), (9, 12, last));
        let mut first = vec![FORMAT_1];
        first.extend_from_slice(&77u64.to_be_bytes());
        first.extend_from_slice(&plain.signed.previous.0);
        first.extend_from_slice(&plain.signed.signature);
        first.extend_from_slice(&plain.signed.body);
        assert_eq!(reader().read(&key, &first), Some(Stored { worth: Worth::Unknown, ..plain }));
        *first.last_mut().unwrap() ^= 1;
        assert_eq!(reader().read(&key, &first), None);
        let mark = Mark { version: 9, head: last, acked: 5, vouched: 6, has_joined: true };
        assert_eq!(Mark::read(&mark.to_bytes()), Some(mark));
        let old = [&key_of(3, 8)[..], &[4; 32]].concat();
        let read = Mark::of_first_version(&old, Some(&5u64.to_be_bytes())).unwrap();
        assert_eq!((read.head, read.acked, read.has_joined), (last, 5, true));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_goes_unnoticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let flip = |mut bytes: Vec<u8>| {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
                bytes
            };
            prop_assert_eq!(reader().read(&key_of(3, 9), &flip(stored(&[5; 90]).to_bytes())), None);
            let mark = Mark { version: 1, ..Mark::START };
            prop_assert_eq!(Mark::read(&flip(mark.to_bytes())), None);
        }
    }
}
