//! The agent's spool under test: appends, acknowledgements, days that pass, new epochs.

use std::path::Path;

use anyhow::Result;
use zerkalo_agent::spool::{Limits, Spool, SpoolError};
use zerkalo_agent::worth::Worth;
use zerkalo_core::evidence::ChainLink;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::UnixMillis;

use super::{Fault, Say, What, agent, key, name_of};
use crate::dice::Dice;

const DIR: &str = "spool";
/// Longest body, in bytes: some records take several pages.
const BODY_LEN_MAX: u64 = 9_000;
/// A day passes after about so many records: then acknowledged ones are deleted.
const RECORDS_A_DAY: u64 = 40;
const DAY_MILLIS: u64 = 25 * 3_600 * 1_000;

/// Begins every body.
pub(super) const NEEDLE: &[u8] = b"zerkalo-torture";
/// Calls of one run that may fail: a disk that fails every time is no use to anybody.
const FAILURES_MAX: u64 = 100;

pub(super) fn keep(dir: &Path, records: u64, dice: &mut Dice, say: Say) -> Result<()> {
    let mut now = UnixMillis(1);
    let (mut spool, _) = Spool::open(&dir.join(DIR), &agent(1), key(), Limits::default(), now)?;
    let mut failures = 0;
    let mut may_fail = |result: Result<(), SpoolError>| {
        failures += u64::from(result.is_err());
        if failures > FAILURES_MAX { result } else { Ok(()) }
    };
    for number in 0..records {
        let mut body = [NEEDLE, &number.to_be_bytes()[..]].concat();
        body.resize(body.len() + dice.below(BODY_LEN_MAX) as usize, number as u8);
        let name = name_of(&body);
        match spool.append(body, Worth::Failed, now) {
            Ok(_) => say(What::Kept, &name)?,
            Err(error) => may_fail(Err(error))?,
        }
        if dice.below(RECORDS_A_DAY) == 0 {
            now = now.plus_millis(DAY_MILLIS);
        }
        match dice.below(24) {
            0..=3 => {
                let head = spool.head();
                let acked = head.sequence - spool.unacknowledged();
                let up_to = acked + dice.below(spool.unacknowledged() + 1);
                for record in spool.after(acked, (up_to - acked) as usize, usize::MAX)? {
                    say(What::MayGo, &name_of(&record.body))?;
                }
                may_fail(spool.ack(head.epoch, up_to, now))?;
            }
            4 => may_fail(spool.begin_epoch(spool.head().epoch + 1, now))?,
            _ => {}
        }
    }
    Ok(())
}

/// The names of all unacknowledged records; their chain must be whole.
pub(super) fn found(dir: &Path) -> Result<Vec<String>, Fault> {
    let refused = |error: &dyn std::fmt::Debug| Fault::Refused(format!("{error:?}"));
    let opened = Spool::open(&dir.join(DIR), &agent(1), key(), Limits::default(), UnixMillis(2));
    let (mut spool, damaged) = opened.map_err(|error| refused(&error))?;
    if let Some(damage) = damaged {
        return Err(Fault::Refused(format!("called damaged, moved to {}", damage.aside.display())));
    }
    let head = spool.head();
    let acked = head.sequence - spool.unacknowledged();
    let records = spool.after(acked, usize::MAX, usize::MAX).map_err(|error| refused(&error))?;
    let mut link = ChainLink { epoch: head.epoch, sequence: acked, hash: Sha256::default() };
    for record in &records {
        let follows = record.sequence == link.sequence + 1 && record.verify(&key().public()).is_ok();
        if !follows || (record.sequence > acked + 1 && record.previous != link.hash) {
            return Err(Fault::Malformed(format!("the chain breaks at {}", record.sequence)));
        }
        link = record.link();
    }
    if link.sequence != head.sequence {
        return Err(Fault::Malformed(format!("the chain ends at {}, not {}", link.sequence, head.sequence)));
    }
    // A new record must fit behind them.
    spool.append(b"after the cut".to_vec(), Worth::Failed, UnixMillis(3)).map_err(|error| refused(&error))?;
    Ok(records.iter().map(|record| name_of(&record.body)).collect())
}
