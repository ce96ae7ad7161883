//! The collector's journal and state under test: groups of records, tokens beside them.

use std::path::Path;

use anyhow::Result;
use zerkalo_collector::journal::Journal;
use zerkalo_collector::state::State;
use zerkalo_collector::token::Token;
use zerkalo_core::evidence::{ChainLink, SignedRecord};
use zerkalo_core::journal::{Event, JournalEntry};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{OwnerId, Station, UnixMillis};

use super::{Fault, Say, What, agent, key};
use crate::dice::Dice;

/// So that a run goes through several segments.
const SEGMENT_LEN_MAX: u64 = 400_000;
const AGENTS: u64 = 3;
/// Largest group, in records: about 80 KiB, many pages.
const GROUP_MAX: u64 = 50;
/// Calls for one group.
const TRIES_MAX: u32 = 10;
/// Puts tokens apart from records in a promise.
const TOKEN: &str = "token-";

pub(super) fn keep(dir: &Path, records: u64, dice: &mut Dice, say: Say) -> Result<()> {
    let mut journal = Journal::open_with(&dir.join("journal"), SEGMENT_LEN_MAX, |_| {})?;
    let state = State::open(&dir.join("state"))?;
    let mut links = [ChainLink::start(1); AGENTS as usize];
    let mut written = 0;
    while written < records {
        let size = if dice.below(3) == 0 { 1 + dice.below(GROUP_MAX) } else { 1 + dice.below(4) };
        let mut group = Vec::new();
        for _ in 0..size {
            let number = dice.below(AGENTS);
            let link = &mut links[number as usize];
            written += 1;
            let body = zerkalo_lab::sample::body(UnixMillis(written));
            let facts = Box::new(zerkalo_proto::record::decode(&body)?);
            let signed = SignedRecord::sign(&agent(number), *link, body, &key());
            *link = signed.link();
            group.push(JournalEntry {
                at: UnixMillis(written),
                event: Event::Record { signed, facts, is_ahead: false },
            });
        }
        // The journal tries one new segment by itself; a disk that fails that too is tried again here.
        let mut tries = 0;
        while let Err(error) = journal.append(&group) {
            tries += 1;
            anyhow::ensure!(tries < TRIES_MAX, error);
        }
        for entry in &group {
            if let Event::Record { signed, .. } = &entry.event {
                say(What::Kept, &signed.hash().to_string())?;
            }
        }
        if dice.below(8) == 0 {
            let digest = Sha256::of(&written.to_be_bytes());
            let token = Token {
                owner: OwnerId::parse("anna")?,
                station: Station::Control,
                expires_at: UnixMillis(written),
                market: None,
                mac_key: Some(digest),
                prover: None,
                used_by: None,
            };
            state.put_token(&digest, &token)?;
            say(What::Kept, &format!("{TOKEN}{written}"))?;
        }
    }
    Ok(())
}

/// The hashes of all records and the numbers of all tokens; every chain must be whole.
pub(super) fn found(dir: &Path) -> Result<Vec<String>, Fault> {
    let refused = |error: &dyn std::fmt::Debug| Fault::Refused(format!("{error:?}"));
    let (mut found, mut broken, mut last) = (Vec::new(), None, UnixMillis(0));
    let mut links = [ChainLink::start(1); AGENTS as usize];
    let visit = |entry: JournalEntry| {
        let Event::Record { signed, .. } = entry.event else { return };
        last = entry.at;
        let link = links.iter_mut().zip(0..).find(|(_, number)| agent(*number) == signed.agent);
        match link {
            Some((link, _)) if signed.sequence == link.sequence + 1 && signed.previous == link.hash => {
                *link = signed.link();
            }
            _ => broken = broken.take().or(Some(format!("{} {}", signed.agent, signed.sequence))),
        }
        found.push(signed.hash().to_string());
    };
    let opened = Journal::open_with(&dir.join("journal"), SEGMENT_LEN_MAX, visit);
    let mut journal = opened.map_err(|error| refused(&error))?;
    if let Some(place) = broken {
        return Err(Fault::Malformed(format!("the chain breaks at {place}")));
    }
    let state = State::open(&dir.join("state")).map_err(|error| refused(&error))?;
    for number in 1..=last.0 + GROUP_MAX {
        let known = state.token(&Sha256::of(&number.to_be_bytes())).map_err(|error| refused(&error))?;
        found.extend(known.map(|_| format!("{TOKEN}{number}")));
    }
    // A new entry must fit behind them.
    let tick = JournalEntry { at: last, event: Event::Tick };
    journal.append(&[tick]).map_err(|error| refused(&error))?;
    Ok(found)
}
