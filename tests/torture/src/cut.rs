//! What a disk holds after a power cut: all before the last flush, and of the writes after it what chance leaves.

use crate::dice::Dice;
use crate::disk::Step;

/// What a disk writes whole or not at all, in bytes.
const SECTOR_LEN: usize = 512;
/// What most disks of today write whole.
const PAGE_LEN: usize = 4_096;

/// What became of the writes that no flush had made safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    Kept,
    Lost,
    /// Each part of so many bytes survived or not, by chance: writes may overtake each other.
    Scattered {
        part_len: usize,
    },
    /// So many of them were written; of the one after them, only its beginning.
    Torn {
        whole: usize,
    },
}

/// The disk as it goes through its log; cuts come in the log's order.
pub struct Replay<'a> {
    steps: &'a [Step],
    /// Everything up to the last flush at or before `next`.
    safe: Vec<u8>,
    next: usize,
}

impl<'a> Replay<'a> {
    /// Begins with what the disk held before the first step.
    pub fn new(content: Vec<u8>, steps: &'a [Step]) -> Self {
        Self { steps, safe: content, next: 0 }
    }

    /// The disk after a cut before step `at`, and what became of its cache. `at` never falls.
    pub fn cut(&mut self, at: usize, dice: &mut Dice) -> (Vec<u8>, Cache) {
        let is_flush = |step: &Step| matches!(step, Step::Flush { .. });
        let flushed = self.steps[..at].iter().rposition(is_flush).map_or(self.next, |last| last + 1);
        for step in &self.steps[self.next..flushed.max(self.next)] {
            apply(&mut self.safe, step, |_| true);
        }
        self.next = flushed.max(self.next);
        let pending = &self.steps[self.next..at.max(self.next)];
        let cache = match dice.below(6) {
            0 => Cache::Kept,
            1 => Cache::Lost,
            2 | 3 => Cache::Scattered { part_len: PAGE_LEN },
            4 => Cache::Scattered { part_len: SECTOR_LEN },
            _ => Cache::Torn { whole: dice.below(pending.len() as u64 + 1) as usize },
        };
        let mut content = self.safe.clone();
        for (number, step) in pending.iter().enumerate() {
            match cache {
                Cache::Kept => apply(&mut content, step, |_| true),
                Cache::Lost => {}
                Cache::Scattered { part_len } => scatter(&mut content, step, part_len, dice),
                Cache::Torn { whole } if number < whole => apply(&mut content, step, |_| true),
                Cache::Torn { whole } if number == whole => {
                    let parts = dice.below(1_024);
                    apply(&mut content, step, |part| (part as u64) < parts);
                }
                Cache::Torn { .. } => {}
            }
        }
        (content, cache)
    }
}

/// Applies the sectors of a write that `survives` names.
fn apply(content: &mut [u8], step: &Step, survives: impl Fn(usize) -> bool) {
    let Step::Write { offset, data, .. } = step else { return };
    for (number, sector) in data.chunks(SECTOR_LEN).enumerate() {
        if survives(number) {
            let start = *offset as usize + number * SECTOR_LEN;
            content[start..start + sector.len()].copy_from_slice(sector);
        }
    }
}

fn scatter(content: &mut [u8], step: &Step, part_len: usize, dice: &mut Dice) {
    let Step::Write { offset, data, .. } = step else { return };
    for (number, part) in data.chunks(part_len).enumerate() {
        if dice.below(2) == 0 {
            let start = *offset as usize + number * part_len;
            content[start..start + part.len()].copy_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_survives_every_cut_and_nothing_comes_from_after_it() {
        let write =
            |value: u8| Step::Write { at_nanos: 0, offset: u64::from(value) * 512, data: vec![value; 512] };
        let steps = [write(1), write(2), Step::Flush { at_nanos: 0 }, write(3), write(4), write(5)];
        let mut dice = Dice(7);
        let mut lost = 0;
        for _ in 0..100 {
            let mut replay = Replay::new(vec![0; 4_096], &steps);
            let (content, _) = replay.cut(5, &mut dice);
            assert_eq!((content[512], content[1_024]), (1, 2));
            assert_eq!(content[5 * 512], 0, "a write of after the cut");
            lost += usize::from(content[3 * 512] == 0);
        }
        assert!((10..90).contains(&lost), "{lost} of 100 cuts lost what was not flushed");
    }
}
