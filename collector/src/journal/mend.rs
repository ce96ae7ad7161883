//! `mend`: a new journal out of what a damaged one still holds, so that only what was hit is lost, or fetched again.
//!
//! Behind a damaged place the next whole frame is looked for. Where a statement is gone, what its agent said after it is left
//! out too as long as the agent still keeps it (a day): it sends all of that again, the missing one with it. What is older
//! stays, with the hole. The damaged journal is kept beside the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use zerkalo_core::admission::{ChainHead, Place, place, place_ahead, place_gap};
use zerkalo_core::evidence::{CheckedRecord, PublicKey, SignedRecord};
use zerkalo_core::gap::Gap;
use zerkalo_core::journal::{Event, Found, JournalEntry, MAGIC, heir_of, next_whole, read_frame};
use zerkalo_core::words::{AgentId, UnixMillis};

use super::{Journal, JournalError, begin_of, io_error, segment_path, segments};
use crate::lock::{DirLock, LockError};

/// How long agents keep what was acknowledged, less an hour in which they are to come back.
const FETCHED_AGAIN_MILLIS: u64 = 23 * 60 * 60 * 1000;
/// Entries written in one group.
const GROUP_ENTRIES_MAX: usize = 64;

/// Why a journal could not be mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    #[error("the collector's directory cannot be had")]
    Lock(#[from] LockError),
    #[error("the journal cannot be mended")]
    Journal(#[from] JournalError),
    #[error("in_the_way: {path} is there already; move it elsewhere first")]
    InTheWay { path: PathBuf },
}

/// What was found and done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mended {
    /// Places at which something was not as it was written.
    pub damaged: u64,
    /// Entries of the new journal.
    pub entries: u64,
    /// Statements left out that their agents will send again.
    pub awaited: u64,
    /// Agents with a hole that nobody can fill any more.
    pub holes: BTreeSet<AgentId>,
    /// Where the damaged journal is now; `None` where nothing was to mend.
    pub aside: Option<PathBuf>,
}

/// Mends the journal of the collector in `dir`, which must not be serving. Gives what to tell the person.
pub fn mend(dir: &Path, now: UnixMillis) -> Result<String, MendError> {
    let _lock = DirLock::take(dir)?;
    let mended = mend_journal(&dir.join("journal"), now)?;
    let Some(aside) = &mended.aside else {
        return Ok(format!("{} entries, every one whole: nothing was changed", mended.entries));
    };
    let mut said = format!(
        "{} damaged places; {} entries are whole and in the new journal, the old one is {}. {} statements are left out \
         until their agents send them again: serve, and wait until they have connected",
        mended.damaged,
        mended.entries,
        aside.display(),
        mended.awaited
    );
    if !mended.holes.is_empty() {
        let agents: Vec<&str> = mended.holes.iter().map(AgentId::as_str).collect();
        said += &format!(
            ". Lost for good, for they are older than agents keep them: some statements of {}; `verify` will name them",
            agents.join(", ")
        );
    }
    Ok(said)
}

/// Mends the journal in `journal`.
pub fn mend_journal(journal: &Path, now: UnixMillis) -> Result<Mended, MendError> {
    let [next, aside] =
        [format!("mended-{}", now.0), format!("damaged-{}", now.0)].map(|name| journal.with_extension(name));
    for path in [&next, &aside] {
        if path.exists() {
            return Err(MendError::InTheWay { path: path.clone() });
        }
    }
    let (entries, damaged) = whole_entries(journal)?;
    let mut mended = Mended { damaged, ..Mended::default() };
    if damaged == 0 {
        mended.entries = entries.len() as u64;
        return Ok(mended);
    }
    let kept = Chains::new(now).keep(entries, &mut mended);
    let mut written = Journal::open(&next, |_| {})?;
    for group in kept.chunks(GROUP_ENTRIES_MAX) {
        written.append(group)?;
    }
    drop(written);
    mended.entries = kept.len() as u64;
    std::fs::rename(journal, &aside).map_err(io_error("move", journal))?;
    std::fs::rename(&next, journal).map_err(io_error("move", &next))?;
    let parent = journal.parent().unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error("sync", parent))?;
    mended.aside = Some(aside);
    Ok(mended)
}

/// Every whole entry, and at how many places there is something else.
fn whole_entries(journal: &Path) -> Result<(Vec<JournalEntry>, u64), JournalError> {
    let (mut entries, mut damaged) = (Vec::new(), 0);
    let numbers = segments(journal)?;
    for number in &numbers {
        let path = segment_path(journal, *number);
        let mut bytes = std::fs::read(&path).map_err(io_error("read", &path))?;
        let is_last = numbers.last() == Some(number);
        let counts = if is_last { None } else { heir_of(&begin_of(&segment_path(journal, number + 1))?) };
        if let Some(counts) = counts.and_then(|counts| usize::try_from(counts).ok()) {
            damaged += u64::from(bytes.len() < counts);
            bytes.truncate(counts);
        }
        damaged += u64::from(!bytes.starts_with(MAGIC) && !bytes.is_empty());
        read_whole(&bytes, is_last, &mut entries, &mut damaged);
    }
    Ok((entries, damaged))
}

fn read_whole(bytes: &[u8], is_last: bool, entries: &mut Vec<JournalEntry>, damaged: &mut u64) {
    let mut offset = MAGIC.len().min(bytes.len());
    loop {
        match read_frame(bytes, offset) {
            Found::Frame { payload, next } => {
                match zerkalo_proto::journal::decode(payload) {
                    Ok(entry) => entries.push(entry),
                    Err(_) => *damaged += 1,
                }
                offset = next;
            }
            Found::Mark { next } => offset = next,
            Found::End => return,
            // A group in the writing, never acknowledged: what is not whole of it counts for nothing.
            Found::Torn if is_last => return,
            Found::Torn | Found::Corrupt => {
                *damaged += 1;
                match next_whole(bytes, offset + 1) {
                    Some(next) => offset = next,
                    None => return,
                }
            }
        }
    }
}

/// Every agent's chain as far as it is whole.
struct Chains {
    now: UnixMillis,
    agents: BTreeMap<AgentId, (PublicKey, ChainHead)>,
    /// Whose statements are left out from here on.
    awaited: BTreeSet<AgentId>,
}

impl Chains {
    fn new(now: UnixMillis) -> Self {
        Self { now, agents: BTreeMap::new(), awaited: BTreeSet::new() }
    }

    fn keep(mut self, entries: Vec<JournalEntry>, mended: &mut Mended) -> Vec<JournalEntry> {
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let stays = match &entry.event {
                Event::Enrolled(enrolment) => {
                    self.agents.insert(enrolment.agent.clone(), (enrolment.key, ChainHead::default()));
                    self.awaited.remove(&enrolment.agent);
                    true
                }
                Event::Record { signed, is_ahead: true, .. } => self.stands_ahead(signed, entry.at, mended),
                Event::Record { signed, .. } | Event::Refused { signed, .. } => {
                    self.follows(signed, None, entry.at, mended)
                }
                Event::Gap { signed, gap } => self.follows(signed, Some(gap), entry.at, mended),
                _ => true,
            };
            if stays {
                kept.push(entry);
            }
        }
        kept
    }

    fn follows(
        &mut self,
        signed: &SignedRecord,
        gap: Option<&Gap>,
        at: UnixMillis,
        mended: &mut Mended,
    ) -> bool {
        // Its enrolment is gone: it must enrol again, and nothing of it can be checked.
        let Some((key, head)) = self.agents.get_mut(&signed.agent) else {
            mended.holes.insert(signed.agent.clone());
            return false;
        };
        if self.awaited.contains(&signed.agent) {
            mended.awaited += 1;
            return false;
        }
        let checked = CheckedRecord::new(signed.clone(), key);
        let (placed, link) = match gap {
            None => (place(&checked, head), checked.link()),
            Some(gap) => (place_gap(&checked, gap, head), gap.link(signed)),
        };
        match placed {
            Ok(Place::Next | Place::Ahead) => {}
            Ok(Place::Duplicate) => return false,
            Err(_) if self.now.since_millis(at) < FETCHED_AGAIN_MILLIS => {
                self.awaited.insert(signed.agent.clone());
                mended.awaited += 1;
                return false;
            }
            Err(_) => drop(mended.holes.insert(signed.agent.clone())),
        }
        head.advance(link);
        true
    }

    /// Whether a record that came ahead of its chain may stay. Nothing that is gone is missed by it alone.
    fn stands_ahead(&mut self, signed: &SignedRecord, at: UnixMillis, mended: &mut Mended) -> bool {
        let Some((key, head)) = self.agents.get_mut(&signed.agent) else {
            return self.follows(signed, None, at, mended);
        };
        let checked = CheckedRecord::new(signed.clone(), key);
        let placed = place_ahead(&checked, head);
        if placed == Ok(Some(Place::Ahead)) && !self.awaited.contains(&signed.agent) {
            head.advance_ahead(checked.link(), signed.previous);
            return true;
        }
        // Older than agents keep: it stays, whatever is gone of its chain.
        if placed != Ok(Some(Place::Duplicate)) && self.now.since_millis(at) >= FETCHED_AGAIN_MILLIS {
            mended.holes.insert(signed.agent.clone());
            return true;
        }
        mended.awaited += 1;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::evidence::{ChainLink, SecretKey};
    use zerkalo_core::journal::Enrolment;
    use zerkalo_core::words::{OwnerId, Station};

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
    const AGENTS: usize = 3;
    const RECORDS: usize = 60;
    const SEGMENT_LEN_MAX: u64 = 6_000;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn agent(number: usize) -> AgentId {
        AgentId::parse(&format!("a{number}")).unwrap()
    }

    /// Statements whose bodies nobody reads: as refused they are journaled all the same.
    fn statement(signed: &SignedRecord, at: UnixMillis) -> JournalEntry {
        let code = zerkalo_core::admission::RejectionCode::Malformed;
        JournalEntry { at, event: Event::Refused { signed: signed.clone(), code } }
    }

    /// A journal of several segments, closed, or left by a kill; every agent's statements.
    fn filled(dir: &Path, at: UnixMillis) -> Vec<Vec<SignedRecord>> {
        let mut journal = Journal::open_with(dir, SEGMENT_LEN_MAX, |_| {}).unwrap();
        let enrolled = (0..AGENTS).map(|number| JournalEntry {
            at,
            event: Event::Enrolled(Enrolment {
                agent: agent(number),
                owner: OwnerId::parse("anna").unwrap(),
                station: Station::Control,
                key: key().public(),
            }),
        });
        journal.append(&enrolled.collect::<Vec<_>>()).unwrap();
        let mut chains = vec![Vec::new(); AGENTS];
        for number in 0..RECORDS {
            let chain: &mut Vec<SignedRecord> = &mut chains[number % AGENTS];
            let link = chain.last().map_or(ChainLink::start(1), SignedRecord::link);
            let body = vec![number as u8; 150 + number * 7];
            chain.push(SignedRecord::sign(&agent(number % AGENTS), link, body, &key()));
            journal.append(&[statement(chain.last().unwrap(), at)]).unwrap();
        }
        chains
    }

    /// What the journal holds of each agent, in order.
    fn held(dir: &Path) -> Result<Vec<Vec<SignedRecord>>, JournalError> {
        let mut chains = vec![Vec::new(); AGENTS];
        super::super::read(
            dir,
            |entry| {
                if let Event::Refused { signed, .. } = entry.event {
                    let number = (0..AGENTS).find(|number| agent(*number) == signed.agent).unwrap();
                    chains[number].push(signed);
                }
            },
            |_| {},
        )?;
        Ok(chains)
    }

    fn dice(mut state: u64) -> impl FnMut(u64) -> usize {
        move |below| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % below) as usize
        }
    }

    #[test]
    fn a_flipped_bit_is_found_and_what_it_hit_is_fetched_again() {
        let seeds =
            std::env::var("ZERKALO_FLIP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60u64);
        let whole = tempfile::tempdir().unwrap();
        let chains = filled(&whole.path().join("journal"), NOW);
        let numbers = segments(&whole.path().join("journal")).unwrap();
        assert!(numbers.len() > 3);
        let (mut mended, mut awaited) = (0, 0);
        for seed in 0..seeds {
            let mut dice = dice(seed);
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("journal");
            std::fs::create_dir(&dir).unwrap();
            let hit = numbers[dice(numbers.len() as u64)];
            for number in &numbers {
                let mut bytes = std::fs::read(segment_path(&whole.path().join("journal"), *number)).unwrap();
                if *number == hit {
                    let at = dice(bytes.len() as u64);
                    bytes[at] ^= 1 << dice(8);
                }
                std::fs::write(segment_path(&dir, *number), bytes).unwrap();
            }
            let before = held(&dir);
            assert!(
                before.as_ref().is_ok_and(|held| *held == chains) || before.is_err() || {
                    // The mark behind the last group is all that was hit: then that group may be torn.
                    let held: usize = before.unwrap().iter().map(Vec::len).sum();
                    hit == *numbers.last().unwrap() && held + 1 >= RECORDS
                },
                "seed {seed}: damage went unnoticed"
            );
            let done = mend_journal(&dir, NOW).unwrap();
            mended += u64::from(done.aside.is_some());
            awaited += done.awaited;
            // Agents send again what comes after where they stand, as by a Welcome.
            let left = held(&dir).unwrap();
            for (whole, left) in chains.iter().zip(&left) {
                assert_eq!(whole[..left.len()], left[..], "seed {seed}");
            }
            let mut journal = Journal::open(&dir, |_| {}).unwrap();
            for (whole, left) in chains.iter().zip(&left) {
                for signed in &whole[left.len()..] {
                    journal.append(&[statement(signed, NOW)]).unwrap();
                }
            }
            drop(journal);
            assert_eq!(held(&dir).unwrap(), chains, "seed {seed}");
        }
        assert!(mended > seeds / 2, "{mended} of {seeds} had something to mend");
        println!(
            "{seeds} flipped bits in journals: {mended} mended, {awaited} statements fetched again, none lost"
        );
    }

    #[test]
    fn what_agents_no_longer_keep_stays_with_its_hole() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("journal");
        let chains = filled(&dir, NOW);
        let path = segment_path(&dir, 2);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[MAGIC.len() + 200] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let later = NOW.plus_millis(2 * FETCHED_AGAIN_MILLIS);
        let done = mend_journal(&dir, later).unwrap();
        assert_eq!((done.damaged, done.awaited, done.holes.len()), (1, 0, 1));
        let left: usize = held(&dir).unwrap().iter().map(Vec::len).sum();
        assert_eq!(left, chains.iter().map(Vec::len).sum::<usize>() - 1);
        assert_eq!(mend_journal(&dir, later.plus_millis(1)).unwrap().aside, None, "a mended one is whole");
        assert!(done.aside.unwrap().join("00000002.zkj").exists());
    }

    #[test]
    fn what_came_ahead_of_its_chain_stays_and_what_was_damaged_of_it_is_awaited() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("journal");
        let mut link = ChainLink::start(1);
        let body = zerkalo_proto::record::encode(&super::super::archive::tests::facts());
        let mut sign = |_| {
            let signed = SignedRecord::sign(&agent(0), link, body.clone(), &key());
            link = signed.link();
            signed
        };
        let chain: Vec<SignedRecord> = (0..11).map(&mut sign).collect();
        let facts = Box::new(super::super::archive::tests::facts());
        let record = |sequence: usize, is_ahead: bool| JournalEntry {
            at: NOW,
            event: Event::Record { signed: chain[sequence - 1].clone(), facts: facts.clone(), is_ahead },
        };
        let enrolment = Enrolment {
            agent: agent(0),
            owner: OwnerId::parse("anna").unwrap(),
            station: Station::Control,
            key: key().public(),
        };
        let mut journal = Journal::open(&dir, |_| {}).unwrap();
        journal
            .append(&[JournalEntry { at: NOW, event: Event::Enrolled(enrolment) }, record(1, false)])
            .unwrap();
        for ahead in 6..=9 {
            journal.append(&[record(ahead, true)]).unwrap();
        }
        for next in [2, 3, 4, 5, 10, 11] {
            journal.append(&[record(next, false)]).unwrap();
        }
        drop(journal);
        let path = segment_path(&dir, 1);
        let mut bytes = std::fs::read(&path).unwrap();
        let hit = chain[6].signature;
        let at = bytes.windows(64).position(|window| window == hit).unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let done = mend_journal(&dir, NOW).unwrap();
        assert_eq!((done.damaged, done.awaited, done.holes.len()), (1, 2, 0));
        let mut fold = zerkalo_core::fold::Fold::new();
        drop(Journal::open(&dir, |entry| drop(fold.apply(&entry))).unwrap());
        let head = fold.agents()[&agent(0)].head.clone();
        let runs: Vec<_> = head.runs().iter().map(|run| (run.first, run.last)).collect();
        assert_eq!((head.last().sequence, runs), (6, vec![(8, 9)]));
        // The agent sends what is missing, and the chain goes on over what stayed.
        let mut journal = Journal::open(&dir, |_| {}).unwrap();
        for next in [7, 10, 11] {
            journal.append(&[record(next, false)]).unwrap();
        }
        drop(journal);
        let mut again = Vec::new();
        super::super::read(&dir, |entry| again.push(entry), |_| {}).unwrap();
        let kept = Chains::new(NOW).keep(again.clone(), &mut Mended::default());
        assert_eq!((kept.len(), again.len()), (12, 12), "every chain holds");
    }
}
