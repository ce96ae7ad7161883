//! What goes on its way next: in the chain's order, or ahead of it.

use std::ops::ControlFlow;

use zerkalo_core::evidence::SignedRecord;

use super::stored::{Stored, key_of};
use super::{Fault, RECORDS, Spool, SpoolError};

impl Spool {
    /// The statements after `sequence` of the head's epoch: at most `count`, at most `bytes` of bodies (but at least one).
    pub fn after(
        &mut self,
        sequence: u64,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<SignedRecord>, SpoolError> {
        self.between(sequence, u64::MAX, count, bytes)
    }

    /// The same, of those that begin at or before `until`.
    pub fn between(
        &mut self,
        sequence: u64,
        until: u64,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<SignedRecord>, SpoolError> {
        let (mut found, mut len, mut next): (Vec<SignedRecord>, usize, u64) = (Vec::new(), 0, sequence + 1);
        let until = until.min(self.mark.head.sequence);
        if count == 0 || next > until {
            return Ok(found);
        }
        let acked = self.mark.acked;
        self.each_from(next, |stored| {
            // What was acknowledged may be forgotten; of the rest nothing may be missing.
            if stored.first() > next.max(acked + 1) {
                return ControlFlow::Break(());
            }
            len += stored.signed.body.len();
            if len > bytes && !found.is_empty() {
                return ControlFlow::Break(());
            }
            next = stored.signed.sequence + 1;
            found.push(stored.signed);
            if found.len() < count && next <= until {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        if found.is_empty() && next.max(acked + 1) <= until {
            self.is_mended = false;
            return Err(SpoolError::Hole { sequence });
        }
        self.handed = self.handed.max(next - 1);
        Ok(found)
    }

    /// The first records in a row after `sequence`, to go ahead of their chain: nothing that stands for others, and
    /// nothing where something is missing. They may be given up as before: a gap over them is taken all the same.
    pub fn ahead(
        &mut self,
        sequence: u64,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<SignedRecord>, SpoolError> {
        let (mut found, mut len): (Vec<SignedRecord>, usize) = (Vec::new(), 0);
        if count == 0 {
            return Ok(found);
        }
        self.each_from(sequence + 1, |stored| {
            let follows = found.last().is_none_or(|last| last.sequence + 1 == stored.signed.sequence);
            len += stored.signed.body.len();
            match (stored.gap.is_some(), found.is_empty()) {
                (true, true) => return ControlFlow::Continue(()),
                (false, false) if follows && len <= bytes => {}
                (false, true) => len = stored.signed.body.len(),
                _ => return ControlFlow::Break(()),
            }
            found.push(stored.signed);
            if found.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Hands what stands from `sequence` on in the head's epoch to `visit`, until that or damage breaks it off.
    fn each_from(
        &mut self,
        sequence: u64,
        mut visit: impl FnMut(Stored) -> ControlFlow<()>,
    ) -> Result<(), SpoolError> {
        let head = self.mark.head;
        self.store()?;
        let store = self.store.as_ref().expect("opened the line before");
        for entry in store.scan(RECORDS, &key_of(head.epoch, sequence)) {
            let (key, value) = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.fault = error.is_corrupt().then_some(Fault::Damage).or(self.fault);
                    return Err(error.into());
                }
            };
            let stored = self.reader.read(&key, &value);
            let Some(stored) = stored.filter(|stored| stored.signed.epoch == head.epoch) else { break };
            if stored.signed.sequence > head.sequence || visit(stored).is_break() {
                break;
            }
        }
        Ok(())
    }
}
