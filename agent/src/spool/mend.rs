//! What the disk damaged: told by a gap, so that only what was hit is lost and the chain goes on.

use zerkalo_core::evidence::ChainLink;
use zerkalo_core::gap::{Gap, Shape};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::Batch;

use super::stored::{Stored, key_of, place_of};
use super::{COMMIT_RECORDS_MAX, RECORDS, Spool, SpoolError};

/// Statements that are gone, in a row, and what stands beside them.
struct Hole {
    last: ChainLink,
    count: u64,
    last_hash: Sha256,
    /// About when they were measured.
    at: UnixMillis,
}

impl Spool {
    /// Looks at everything after `link` once after each opening, and puts gaps where statements are damaged or missing.
    pub(super) fn mend(&mut self, link: ChainLink, now: UnixMillis) -> Result<(), SpoolError> {
        if self.is_mended {
            return Ok(());
        }
        let (holes, damaged) = self.holes(link)?;
        let lost: u64 = holes.iter().map(|hole| hole.count).sum();
        let bytes: u64 = damaged.iter().map(|(_, len)| *len as u64).sum();
        for keys in damaged.chunks(COMMIT_RECORDS_MAX) {
            let mut batch = Batch::default();
            keys.iter().for_each(|(key, _)| batch.delete(RECORDS, key));
            self.commit(batch)?;
        }
        self.records = self.records.saturating_sub(damaged.len() as u64);
        self.bytes = self.bytes.saturating_sub(bytes);
        for holes in holes.chunks(COMMIT_RECORDS_MAX) {
            let mut batch = Batch::default();
            let mut put = 0;
            for hole in holes {
                let first = hole.last.sequence + 1;
                let gap = Gap::of((first, hole.count), hole.last_hash, hole.at, None, Shape::Damaged);
                put += self.put_gap(gap, hole.last, now, &mut batch);
            }
            self.commit(batch)?;
            self.bytes += put;
        }
        if lost > 0 {
            tracing::error!(
                lost,
                dir = %self.dir.display(),
                "this box's disk damaged records that waited here; gaps tell of them: check the disk"
            );
        }
        self.is_mended = true;
        Ok(())
    }

    /// What is missing after `link`, and the keys and lengths of what is there and damaged.
    #[allow(clippy::type_complexity)]
    fn holes(&mut self, link: ChainLink) -> Result<(Vec<Hole>, Vec<(Vec<u8>, usize)>), SpoolError> {
        let head = self.mark.head;
        let (mut holes, mut damaged) = (Vec::new(), Vec::new());
        // The last whole statement seen; its hash is worked out only where it matters.
        let (mut last, mut seen, mut at) = (link.sequence, None::<Stored>, UnixMillis::default());
        let link_of = |seen: &Option<Stored>| seen.as_ref().map_or(link, Stored::link);
        self.store()?;
        let store = self.store.as_ref().expect("opened the line before");
        for entry in store.scan(RECORDS, &key_of(head.epoch, link.sequence + 1)) {
            let (key, value) = entry?;
            if place_of(&key).is_none_or(|(epoch, _)| epoch != head.epoch) {
                break;
            }
            let Some(stored) = self.reader.read(&key, &value) else {
                damaged.push((key, value.len()));
                continue;
            };
            at = stored.appended;
            if let Some(count) = (stored.first() - 1).checked_sub(last).filter(|count| *count > 0) {
                holes.push(Hole { last: link_of(&seen), count, last_hash: stored.signed.previous, at });
            }
            last = stored.signed.sequence;
            seen = Some(stored);
        }
        if let Some(count) = head.sequence.checked_sub(last).filter(|count| *count > 0) {
            holes.push(Hole { last: link_of(&seen), count, last_hash: head.hash, at });
        }
        Ok((holes, damaged))
    }
}
