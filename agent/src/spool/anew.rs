//! A new epoch: everything that waits is signed again in a chain of its own, gaps among it.

use zerkalo_core::evidence::{ChainLink, SignedRecord};
use zerkalo_core::gap::{Gap, Shape};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::Batch;

use super::held::Held;
use super::stored::{Mark, Stored, key_of, place_of};
use super::{COMMIT_RECORDS_MAX, RECORDS, Spool, SpoolError};
use crate::worth::Worth;

/// An entry of an older epoch: its key, and what stands there if it is whole.
type Entry = (Vec<u8>, Option<Stored>);

impl Spool {
    /// Signs everything unacknowledged anew under `epoch`, which must be higher than any before.
    pub fn begin_epoch(&mut self, epoch: u64, now: UnixMillis) -> Result<(), SpoolError> {
        self.begin_epoch_beside(epoch, &Held::default(), now)
    }

    /// The same, without what the collector holds ahead of the chain that ends: that stays as it was signed, and is kept
    /// for its day.
    pub(super) fn begin_epoch_beside(
        &mut self,
        epoch: u64,
        held: &Held,
        now: UnixMillis,
    ) -> Result<(), SpoolError> {
        self.sign_anew(epoch, key_of(self.mark.head.epoch, self.mark.acked + 1), held, now)
    }

    /// Signs everything from the key `start` on anew under `epoch`, but for what is held.
    pub(super) fn sign_anew(
        &mut self,
        epoch: u64,
        start: [u8; 16],
        held: &Held,
        now: UnixMillis,
    ) -> Result<(), SpoolError> {
        let (mut link, mut cursor) = (ChainLink::start(epoch), start.to_vec());
        // Up to here nothing that waits is missing.
        let (mut known, mut lost) = (self.mark.acked, 0);
        loop {
            let entries = self.entries_between(&cursor, epoch)?;
            let Some((last, _)) = entries.last() else { break };
            cursor = [last, &[0][..]].concat();
            let mut batch = Batch::default();
            for (key, stored) in entries {
                let missing = self.missing_before(&key, stored.as_ref(), held, &mut known);
                if missing > 0 {
                    lost += missing;
                    link = self.put_lost(link, missing, now, &mut batch);
                }
                if let Some(stored) = stored.filter(|stored| stored.gap.is_some() || !held.contains(&key)) {
                    link = self.put_again(link, stored, held, now, &mut batch);
                }
            }
            // Until the head moves these are drafts: `load` removes them after a crash.
            self.commit(batch)?;
        }
        let mut batch = Batch::default();
        let ahead = held.between(self.mark.head.epoch, known + 1, self.mark.head.sequence);
        let missing = self.mark.head.sequence.saturating_sub(known).saturating_sub(ahead);
        if missing > 0 {
            lost += missing;
            link = self.put_lost(link, missing, now, &mut batch);
        }
        let vouched = Mark { head: link, acked: 0, vouched: 0, has_joined: true, ..self.mark };
        self.commit_marked(batch, vouched)?;
        self.handed = 0;
        self.none_up_to = Default::default();
        if lost > 0 {
            tracing::error!(
                lost,
                "this box's disk damaged records that waited here; gaps tell of them: check the disk"
            );
        }
        self.delete_between(start, epoch, held)?;
        self.count()
    }

    /// How many statements the disk lost right before this entry, itself among them if it is damaged.
    fn missing_before(&self, key: &[u8], stored: Option<&Stored>, held: &Held, known: &mut u64) -> u64 {
        let is_waiting = place_of(key)
            .is_some_and(|(epoch, sequence)| epoch == self.mark.head.epoch && sequence > self.mark.acked);
        match stored {
            // What follows it shows how many.
            None if is_waiting => 0,
            None => 1,
            Some(stored) if is_waiting => {
                let before = stored.first() - 1;
                let ahead = held.between(stored.signed.epoch, *known + 1, before);
                let missing = before.saturating_sub(*known).saturating_sub(ahead);
                *known = stored.signed.sequence;
                missing
            }
            Some(_) => 0,
        }
    }

    fn put_lost(&self, last: ChainLink, count: u64, now: UnixMillis, batch: &mut Batch) -> ChainLink {
        // Nobody has signed anything after it yet: any hash will do.
        let gap = Gap::of((last.sequence + 1, count), Sha256::default(), now, None, Shape::Damaged);
        self.put_gap(gap, last, now, batch);
        ChainLink { epoch: last.epoch, sequence: last.sequence + count, hash: Sha256::default() }
    }

    fn put_again(
        &self,
        last: ChainLink,
        stored: Stored,
        held: &Held,
        now: UnixMillis,
        batch: &mut Batch,
    ) -> ChainLink {
        let ahead = self.held_within(&stored, held);
        if let Some(gap) = stored.gap {
            // Some of it may have come before it was given up.
            let is_current = stored.signed.epoch == self.mark.head.epoch;
            let known = if is_current { (self.mark.acked + 1).saturating_sub(gap.first) } else { 0 };
            let gap = Gap { first: last.sequence + 1, ..gap.without_first(known + ahead) };
            if gap.is_empty() {
                return last;
            }
            let (count, hash) = (gap.len(), gap.last_hash);
            self.put_gap(gap, last, now, batch);
            return ChainLink { epoch: last.epoch, sequence: last.sequence + count, hash };
        }
        let signed = SignedRecord::sign(&self.reader.agent, last, stored.signed.body, &self.key);
        let (key, link) = (key_of(signed.epoch, signed.sequence), signed.link());
        let worth = if stored.worth == Worth::Gap { Worth::Unknown } else { stored.worth };
        batch.put(RECORDS, &key, &Stored { signed, appended: now, worth, gap: None }.to_bytes());
        link
    }

    fn delete_between(&mut self, start: [u8; 16], epoch: u64, held: &Held) -> Result<(), SpoolError> {
        let mut cursor = start.to_vec();
        loop {
            let entries = self.entries_between(&cursor, epoch)?;
            let Some((last, _)) = entries.last() else { return Ok(()) };
            cursor = [last, &[0][..]].concat();
            let mut batch = Batch::default();
            let is_held = |stored: &Stored| stored.gap.is_none() && held.contains(&stored.key());
            let gone = entries.iter().filter(|(_, stored)| !stored.as_ref().is_some_and(is_held));
            gone.for_each(|(key, _)| batch.delete(RECORDS, key));
            self.commit(batch)?;
        }
    }

    /// Some entries from `start` on, of epochs below `epoch`.
    fn entries_between(&mut self, start: &[u8], epoch: u64) -> Result<Vec<Entry>, SpoolError> {
        let end = key_of(epoch, 0);
        self.store()?;
        let store = self.store.as_ref().expect("opened the line before");
        let mut found = Vec::new();
        for entry in store.scan(RECORDS, start).take(COMMIT_RECORDS_MAX) {
            let (key, value) = entry?;
            if key[..] >= end[..] {
                break;
            }
            let stored = self.reader.read(&key, &value);
            found.push((key, stored));
        }
        Ok(found)
    }

    /// Counts anew what is kept.
    fn count(&mut self) -> Result<(), SpoolError> {
        self.store()?;
        let store = self.store.as_ref().expect("opened the line before");
        let (mut records, mut bytes) = (0, 0);
        for entry in store.scan(RECORDS, &[]) {
            let (key, value) = entry?;
            let is_gap = self.reader.read(&key, &value).is_some_and(|stored| stored.gap.is_some());
            (records, bytes) = (records + u64::from(!is_gap), bytes + value.len() as u64);
        }
        (self.records, self.bytes) = (records, bytes);
        Ok(())
    }
}
