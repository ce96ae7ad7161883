//! What goes up when: the newest ahead of a backlog, the backlog in its chain's order, by turns, as much as window, line and
//! probes have room for.

use zerkalo_core::evidence::SignedRecord;
use zerkalo_proto::agent_v1::stream_request::Message as Up;
use zerkalo_proto::agent_v1::{RecordBatch, RecordPart, StreamRequest};
use zerkalo_proto::evidence::{record_to_bytes, record_to_wire};
use zerkalo_proto::gap::is_gap;

use super::super::end::End;
use super::super::short::Fit;
use super::{Session, steady_clock};
use crate::spool::{Spool, SpoolError};

/// Bytes of bodies on their way while a probe runs, over TCP: what a probe's own page is many times.
const PROBE_BYTES_MAX: usize = 16 * 1024;

/// Statements that go as one message.
struct Batch {
    lane: Lane,
    records: Vec<SignedRecord>,
}

/// How they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// In their chain's order.
    Chain,
    /// Before those they follow.
    Ahead,
}

impl Session<'_> {
    /// Sends what window, line and probes have room for. Whether something waits for the end of a probe.
    pub(super) async fn send(&mut self, is_quiet: bool) -> Result<bool, End> {
        if !is_quiet && self.is_quic() {
            let after = self.window.room().after;
            return Ok(!self.is_idle() || self.uplink.spool.has_after(after).await);
        }
        if self.short.is_some() {
            return self.send_short().await.map(|()| false);
        }
        // While a probe runs a little at a time, so that the line is the probe's.
        let bytes_max = if is_quiet { usize::MAX } else { PROBE_BYTES_MAX };
        while is_quiet || self.is_idle() {
            // A full queue empties before the acks for it come, and acks bring us back here. One place in it is kept for
            // what goes ahead.
            let places = self.up.capacity();
            if places == 0 {
                break;
            }
            let Some(batch) = self.next_batch(bytes_max, places > 1).await? else { break };
            self.give(&batch.records, batch.lane);
        }
        Ok(false)
    }

    /// What goes next: ahead and in order by turns, where both wait.
    async fn next_batch(&self, bytes_max: usize, may_follow: bool) -> Result<Option<Batch>, End> {
        let (window, turns) = (self.window.clone(), self.uplink.spool.turns.clone());
        let work = move |spool: &mut Spool| -> Result<Batch, SpoolError> {
            let room = window.room();
            let (count, bytes) = (if may_follow { room.records } else { 0 }, room.bytes.min(bytes_max));
            let ahead = window.room_ahead(spool.head().sequence);
            if let Some((after, most)) = ahead.filter(|_| !turns.is_backlog_s() || count == 0) {
                let records = spool.ahead(after, most, bytes)?;
                if !records.is_empty() {
                    turns.note(true);
                    return Ok(Batch { lane: Lane::Ahead, records });
                }
            }
            turns.note(false);
            let records = spool.between(room.after, room.until, count, bytes)?;
            Ok(Batch { lane: Lane::Chain, records })
        };
        let batch = self.uplink.spool.run(work).await?;
        self.check_gaps(&batch.records)?;
        Ok((!batch.records.is_empty()).then_some(batch))
    }

    /// Hands statements to the stream, which has room for a message.
    fn give(&mut self, records: &[SignedRecord], lane: Lane) {
        let batch = RecordBatch { records: records.iter().map(record_to_wire).collect() };
        let message = if lane == Lane::Ahead { Up::Ahead(batch) } else { Up::Records(batch) };
        let _ = self.up.try_send(StreamRequest { message: Some(message) });
        self.note_sent(records, lane);
    }

    fn note_sent(&mut self, records: &[SignedRecord], lane: Lane) {
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return };
        let bytes = records.iter().map(|record| record.body.len()).sum();
        match lane {
            Lane::Chain => self.window.sent(last.sequence, bytes, steady_clock()),
            Lane::Ahead => self.window.sent_ahead(first.sequence, last.sequence, steady_clock()),
        }
    }

    /// A collector that knows no gaps would end the stream at one.
    fn check_gaps(&self, batch: &[SignedRecord]) -> Result<(), End> {
        let has_gap = batch.iter().any(|statement| is_gap(&statement.body));
        if has_gap && !self.takes_gaps { Err(End::TakesNoGaps) } else { Ok(()) }
    }

    /// The same on a connection that must stay short: one batch, or a part of one record, at a time.
    async fn send_short(&mut self) -> Result<(), End> {
        let (Some(short), Some(meter)) = (self.short.filter(|_| self.is_idle()), &self.meter) else {
            return Ok(());
        };
        let room = short.room(meter.sent());
        let next = match self.begun(room).await? {
            Some(batch) => Some(batch),
            None => self.next_batch(room, true).await?,
        };
        let Some(Batch { lane, records }) = next else { return Ok(()) };
        let first = &records[0];
        let encoded = record_to_bytes(first);
        let key = (first.epoch, first.sequence);
        let held = self.held.as_ref().filter(|held| (held.epoch, held.sequence) == key);
        let begun = held.map_or(0, |held| (held.held_len as usize).min(encoded.len()));
        match short.fit(encoded.len(), begun, room, self.takes_parts) {
            Fit::Recycle => return Err(End::Recycled),
            Fit::Whole => {
                let count = short.count(records.iter().map(|record| record.body.len()), room);
                // The queue is empty: all before it was answered.
                self.give(&records[..count.max(1)], lane);
            }
            Fit::Part(len) => {
                let end = (begun + len).min(encoded.len());
                let part = RecordPart {
                    epoch: key.0,
                    sequence: key.1,
                    offset: u32::try_from(begun).unwrap_or(u32::MAX),
                    total_len: u32::try_from(encoded.len()).unwrap_or(u32::MAX),
                    content: encoded[begun..end].to_vec(),
                };
                let message = if lane == Lane::Ahead { Up::PartAhead(part) } else { Up::Part(part) };
                let _ = self.up.try_send(StreamRequest { message: Some(message) });
                self.part_since = Some(steady_clock());
                if end == encoded.len() {
                    self.note_sent(&records[..1], lane);
                }
            }
        }
        Ok(())
    }

    /// The record of which the collector holds a part: it is finished before another is begun, which would undo it.
    async fn begun(&self, bytes: usize) -> Result<Option<Batch>, End> {
        let room = self.window.room();
        let Some(held) = self.held.as_ref().filter(|held| held.held_len > 0) else { return Ok(None) };
        let (epoch, sequence, after) = (held.epoch, held.sequence, held.sequence.saturating_sub(1));
        let lane = if after == room.after { Lane::Chain } else { Lane::Ahead };
        let is_due = lane == Lane::Chain
            || (after > room.after && self.window.takes_ahead(epoch) && !self.window.is_ahead(sequence));
        if !is_due {
            return Ok(None);
        }
        let work = move |spool: &mut Spool| match lane {
            Lane::Chain => spool.between(after, room.until, room.records, bytes),
            Lane::Ahead => spool.ahead(after, 1, bytes),
        };
        let records = self.uplink.spool.run(work).await?;
        self.check_gaps(&records)?;
        let is_it = records.first().is_some_and(|first| (first.epoch, first.sequence) == (epoch, sequence));
        Ok(is_it.then_some(Batch { lane, records }))
    }
}
