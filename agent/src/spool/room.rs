//! Room for the newest: what is missed least gives way, and a signed gap tells how many, of what, when.
//!
//! A gap takes the place of the records it tells of and becomes one with the gaps beside it, so that there are never more
//! gaps than records. What may be on its way to the collector is given up last; a collector that has some of it takes the
//! gap over that all the same.

use zerkalo_core::gap::Gap;
use zerkalo_core::words::UnixMillis;
use zerkalo_durable::store::Batch;

use super::stored::{Stored, key_of};
use super::{COMMIT_RECORDS_MAX, RECORDS, Spool, SpoolError};
use crate::worth::Worth;

impl Spool {
    /// Forgets what was acknowledged, then gives records up, until one of `len` bytes has room.
    pub(super) fn make_room(&mut self, len: u64, now: UnixMillis) -> Result<(), SpoolError> {
        let full = SpoolError::Full { records: self.unacknowledged() };
        if len > self.limits.bytes {
            return Err(full);
        }
        while self.records >= self.limits.records || self.bytes + len > self.limits.bytes {
            let has_forgotten = self.forget(COMMIT_RECORDS_MAX, UnixMillis(u64::MAX))? > 0;
            if !has_forgotten && !self.give_up_one(now)? {
                return Err(full);
            }
        }
        Ok(())
    }

    /// Gives the oldest of the least worth up; whether there was one.
    fn give_up_one(&mut self, now: UnixMillis) -> Result<bool, SpoolError> {
        let floor = self.handed.max(self.mark.acked);
        for (tier, worth) in Worth::TIERS.into_iter().enumerate() {
            let found = self.oldest(worth, self.none_up_to[tier].max(floor) + 1)?;
            let end = found.as_ref().map_or(self.mark.head.sequence, |stored| stored.signed.sequence);
            self.none_up_to[tier] = end.max(self.none_up_to[tier]);
            if let Some(stored) = found {
                return self.give_up(stored, floor, now).map(|()| true);
            }
        }
        for worth in Worth::TIERS {
            if let Some(stored) = self.oldest(worth, self.mark.acked + 1)? {
                return self.give_up(stored, self.mark.acked, now).map(|()| true);
            }
        }
        Ok(false)
    }

    fn oldest(&mut self, worth: Worth, start: u64) -> Result<Option<Stored>, SpoolError> {
        let epoch = self.mark.head.epoch;
        self.store()?;
        let store = self.store.as_ref().expect("opened the line before");
        for entry in store.scan(RECORDS, &key_of(epoch, start)) {
            let (key, value) = entry?;
            // What is damaged is for `mend` to tell.
            let Some(stored) = self.reader.read(&key, &value) else { continue };
            if stored.worth == worth {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// Puts a gap in a record's place, one with those beside it that end behind `floor`.
    fn give_up(&mut self, given: Stored, floor: u64, now: UnixMillis) -> Result<(), SpoolError> {
        if !self.has_told {
            tracing::warn!(
                records = self.records,
                bytes = self.bytes,
                "the spool is full: what is missed least gives way to the newest, and signed gaps tell of it"
            );
            self.has_told = true;
        }
        let signed = &given.signed;
        let facts = zerkalo_proto::record::decode(&signed.body).ok();
        let at = facts.as_ref().map_or(given.appended, |facts| facts.started_at);
        let mirror = facts.and_then(|facts| facts.mirror);
        let mut gap = Gap::of((signed.sequence, 1), signed.hash(), at, mirror, given.worth.shape());
        let (mut last, mut batch, mut freed) = (given.before(), Batch::default(), given.to_bytes().len());
        batch.delete(RECORDS, &key_of(signed.epoch, signed.sequence));
        let may_change = signed.sequence - 1 > floor;
        let before = if may_change { self.at(signed.sequence - 1)? } else { None };
        if let Some(Stored { gap: Some(earlier), .. }) = &before {
            let before = before.as_ref().expect("matched in this very line");
            (gap, last) = (earlier.clone().joined(gap), before.before());
            freed += before.to_bytes().len();
            batch.delete(RECORDS, &key_of(signed.epoch, before.signed.sequence));
        }
        let next = self.first_from(signed.sequence + 1)?;
        if let Some(next) = next.filter(|next| next.first() == signed.sequence + 1)
            && let Some(later) = &next.gap
        {
            freed += next.to_bytes().len();
            gap = gap.joined(later.clone());
        }
        let put = self.put_gap(gap, last, now, &mut batch);
        self.commit(batch)?;
        self.records -= 1;
        self.bytes = (self.bytes + put).saturating_sub(freed as u64);
        Ok(())
    }

    /// Signs a gap after `last` and puts it into a batch; gives its length there.
    pub(super) fn put_gap(
        &self,
        gap: Gap,
        last: zerkalo_core::evidence::ChainLink,
        now: UnixMillis,
        batch: &mut Batch,
    ) -> u64 {
        let signed = gap.sign(&self.reader.agent, last, zerkalo_proto::gap::encode, &self.key);
        let key = key_of(signed.epoch, signed.sequence);
        let bytes = Stored { signed, appended: now, worth: Worth::Gap, gap: Some(gap) }.to_bytes();
        batch.put(RECORDS, &key, &bytes);
        bytes.len() as u64
    }
}
