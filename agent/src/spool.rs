//! Where signed records wait for the collector. A record exists once `append` has returned: written and synced. What the
//! collector acknowledged is kept for a day more.
//!
//! Keys are epoch and sequence, big-endian. All that is unacknowledged is of the head's epoch; older epochs hold only
//! what was acknowledged. When the spool is full of unacknowledged records, what is missed least gives way to the newest,
//! and a signed gap tells so (room.rs). What goes up next: hand.rs; what went up ahead of its turn: held.rs. What the disk damaged is told the same way (mend.rs); of a store that cannot be
//! opened everything whole is read out (salvage.rs). What is on the disk, byte by byte: stored.rs.

mod anew;
mod hand;
mod held;
mod mend;
mod room;
mod salvage;
pub mod stored;

use std::path::{Path, PathBuf};

use zerkalo_core::admission::{RESEND_WINDOW, Run};
use zerkalo_core::evidence::{ChainLink, SecretKey, SignedRecord};
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_durable::store::{Batch, Store, StoreError, Table};

use crate::worth::Worth;
use held::Held;
use stored::{HEADER_LEN, Mark, Reader, Stored, key_of, place_of};

/// How much is kept at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Without gaps, of which there are never more than records.
    pub records: u64,
    pub bytes: u64,
}

impl Default for Limits {
    /// More than seven days of an uplink that is down, at the usual pace of a list of six mirrors; what a small box can
    /// spare. A test works it out from records of real shape.
    fn default() -> Self {
        Self { records: 100_000, bytes: 256 * 1024 * 1024 }
    }
}

/// How long an acknowledged record is kept.
const KEPT_AFTER_ACK_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// Records deleted or moved in one commit: bounds the memory of a batch.
const COMMIT_RECORDS_MAX: usize = 128;

/// How often opening may end the process before the store is called damaged: once may be a power cut.
const OPENING_TRIES_MAX: usize = 2;

/// Its place in the state directory.
pub const DIR: &str = "spool";

const RECORDS: Table = Table("records");
const META: Table = Table("meta");
/// Key of the mark.
const MARK: &[u8] = b"mark";
/// What the first version kept in its stead.
const HEAD: &[u8] = b"head";
/// See [`HEAD`].
const ACKED: &[u8] = b"acked";

/// Why the spool failed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("the spool failed")]
    Store(#[from] StoreError),
    #[error("the disk is full: free some space under {dir}")]
    DiskFull {
        dir: PathBuf,
        #[source]
        source: StoreError,
    },
    #[error(
        "the spool holds {records} unacknowledged records and takes no more until the collector acknowledges some"
    )]
    Full { records: u64 },
    #[error("the damaged spool {dir} cannot be moved aside")]
    MoveAside {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the damaged spool {dir} cannot be read")]
    Salvage {
        dir: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the disk damaged what follows record {sequence}; a gap will tell so on the next connection")]
    Hole { sequence: u64 },
}

/// How the chain goes on at the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// In the same epoch, after this sequence.
    After(u64),
    /// In a new epoch: the collector has lost what was acknowledged. All that is kept here and was not there is sent
    /// again.
    CollectorBehind,
    /// In a new epoch: the collector has records under this name which are not here. Once, that is a spool that lost
    /// its end; twice in one process, it is a second box.
    CollectorAhead,
}

/// What became of a store that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it was moved, for a person to look at.
    pub aside: PathBuf,
    /// Statements read out of it.
    pub saved: u64,
}

/// The spool of one agent.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    reader: Reader,
    key: SecretKey,
    limits: Limits,
    /// `None` after a failure: opened anew by the next use, for a failed store refuses everything after.
    store: Option<Store>,
    /// What the next use must see to first.
    fault: Option<Fault>,
    mark: Mark,
    /// Sequence up to which statements may be on their way: they are given up no more.
    handed: u64,
    /// Everything after what was acknowledged was looked at and is whole, or told by gaps.
    is_mended: bool,
    /// A collector refused the chain: the next epoch is at least this.
    must_begin: Option<u64>,
    /// Of each worth, the sequence up to which none is left to give up.
    none_up_to: [u64; Worth::TIERS.len()],
    records: u64,
    bytes: u64,
    /// It was said that records give way.
    has_told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The disk failed the store's file: what can be read of it goes into a new one.
    Disk,
    /// What is on the disk is not what was written.
    Damage,
}

impl Spool {
    /// Opens the spool in `dir`, made if absent. A damaged one is moved aside, and what is whole of it is here: then that
    /// is told too.
    pub fn open(
        dir: &Path,
        agent: &AgentId,
        key: SecretKey,
        limits: Limits,
        now: UnixMillis,
    ) -> Result<(Self, Option<Damage>), SpoolError> {
        let mut spool = Self {
            dir: dir.to_owned(),
            reader: Reader { agent: agent.clone(), key: key.public() },
            key,
            limits,
            store: None,
            fault: None,
            mark: Mark::START,
            handed: 0,
            is_mended: false,
            must_begin: None,
            none_up_to: Default::default(),
            records: 0,
            bytes: 0,
            has_told: false,
        };
        spool.finish_renewal()?;
        let tries = Tries::note(dir);
        spool.copy_before_opening();
        let damage = match tries.exceed_limit() {
            true => Some(spool.salvage(now)?),
            false => None,
        };
        let damage = match spool.load() {
            Err(SpoolError::Store(fault)) if fault.is_corrupt() => {
                let damage = spool.salvage(now)?;
                spool.load()?;
                Some(damage)
            }
            Err(error @ SpoolError::Store(StoreError::InUse { .. })) => {
                // That says nothing of the store.
                tries.succeeded();
                return Err(error);
            }
            other => other.map(|()| damage)?,
        };
        tries.succeeded();
        // A copy left behind takes room until the next start, and no more.
        let _ = remove_dir(&spool.before());
        Ok((spool, damage))
    }

    /// The last record's place in the chain.
    pub fn head(&self) -> ChainLink {
        self.mark.head
    }

    /// Records the collector has not acknowledged, those given up among them.
    pub fn unacknowledged(&self) -> u64 {
        self.mark.head.sequence - self.mark.acked
    }

    /// Signs a record's body as the next of the chain; on the disk when this returns.
    pub fn append(
        &mut self,
        body: Vec<u8>,
        worth: Worth,
        now: UnixMillis,
    ) -> Result<SignedRecord, SpoolError> {
        self.soundly(now, |spool| {
            spool.store()?;
            spool.make_room((HEADER_LEN + body.len()) as u64, now)?;
            let signed = SignedRecord::sign(&spool.reader.agent, spool.mark.head, body.clone(), &spool.key);
            let bytes = Stored { signed: signed.clone(), appended: now, worth, gap: None }.to_bytes();
            let mut batch = Batch::default();
            batch.put(RECORDS, &key_of(signed.epoch, signed.sequence), &bytes);
            spool.commit_marked(batch, Mark { head: signed.link(), ..spool.mark })?;
            spool.records += 1;
            spool.bytes += bytes.len() as u64;
            Ok(signed)
        })
    }

    /// Notes that the collector has everything up to `sequence` of `epoch`, and forgets what it has had for a day.
    pub fn ack(&mut self, epoch: u64, sequence: u64, now: UnixMillis) -> Result<(), SpoolError> {
        self.soundly(now, |spool| {
            let sequence = sequence.min(spool.mark.head.sequence);
            if epoch == spool.mark.head.epoch && sequence > spool.mark.acked {
                spool.store()?;
                spool.commit_marked(Batch::default(), Mark { acked: sequence, ..spool.mark })?;
            }
            spool.forget(COMMIT_RECORDS_MAX, now.minus_millis(KEPT_AFTER_ACK_MILLIS)).map(drop)
        })
    }

    /// The collector refuses the chain: what it lacks of it is signed anew once the next Welcome says what that is.
    pub fn begin_epoch_at_next_welcome(&mut self, refused_epoch: u64) {
        self.must_begin = Some(refused_epoch + 1);
    }

    /// Joins the chain to where it ends at the collector. Where the ends do not meet (a spool lost, a collector
    /// restored, a second box under the same name), what is unacknowledged is signed anew in the next epoch.
    pub fn resume(&mut self, collector: ChainLink, now: UnixMillis) -> Result<Resumed, SpoolError> {
        self.resume_beside(collector, &[], now)
    }

    /// The same, where the collector holds these records ahead of the end of its chain: they need not be sent.
    pub fn resume_beside(
        &mut self,
        collector: ChainLink,
        ahead: &[Run],
        now: UnixMillis,
    ) -> Result<Resumed, SpoolError> {
        self.soundly(now, |spool| spool.join(collector, ahead, now))
    }

    fn join(&mut self, collector: ChainLink, ahead: &[Run], now: UnixMillis) -> Result<Resumed, SpoolError> {
        self.store()?;
        let head = self.mark.head;
        let held = self.ours_of(collector.epoch, ahead)?;
        let follows = collector.epoch == head.epoch
            && collector.sequence <= head.sequence
            && held.runs.len() == ahead.len()
            && self.joins(collector)?;
        if follows {
            return self.go_on(collector, &held, now);
        }
        // Where older epochs are kept too, a collector that lost them gets them with the rest.
        let begins_here = collector.epoch < head.epoch && !self.keeps_between(collector, &held)?;
        if begins_here && self.joins(ChainLink::start(head.epoch))? {
            return self.go_on(ChainLink::start(head.epoch), &held, now);
        }
        self.must_begin = None;
        let epoch = collector.epoch.max(head.epoch) + 1;
        let is_behind = (collector.epoch, collector.sequence) < (head.epoch, self.mark.acked);
        if is_behind {
            self.sign_anew(epoch, key_of(collector.epoch, collector.sequence + 1), &held, now)?;
            return Ok(Resumed::CollectorBehind);
        }
        if collector.epoch == head.epoch {
            // The end was lost here; what is left of the chain is what the collector has.
            let ours =
                if self.mark.has_joined { self.mark.vouched.max(self.handed) } else { self.mark.vouched };
            self.mark.acked = self.mark.acked.max(collector.sequence.min(ours)).min(head.sequence);
        }
        self.begin_epoch_beside(epoch, &held, now)?;
        Ok(Resumed::CollectorAhead)
    }

    /// Goes on after `link`, where the chain here and there is one.
    fn go_on(&mut self, link: ChainLink, held: &Held, now: UnixMillis) -> Result<Resumed, SpoolError> {
        // A collector set back to an older copy of its journal has lost what it acknowledged: that waits again, and is not
        // forgotten meanwhile.
        let joined = Mark { acked: link.sequence, has_joined: true, ..self.mark };
        if joined != self.mark {
            self.commit_marked(Batch::default(), joined)?;
        }
        self.none_up_to = Default::default();
        self.handed = link.sequence;
        self.mend(link, now)?;
        self.forget(COMMIT_RECORDS_MAX, now.minus_millis(KEPT_AFTER_ACK_MILLIS))?;
        let Some(epoch) = self.must_begin.take() else { return Ok(Resumed::After(link.sequence)) };
        self.begin_epoch_beside(epoch.max(self.mark.head.epoch + 1), held, now)?;
        Ok(Resumed::After(0))
    }

    /// Whether the chain here goes on from `link`, a place at or before the head of the head's epoch.
    fn joins(&mut self, link: ChainLink) -> Result<bool, SpoolError> {
        if link.sequence == self.mark.head.sequence {
            return Ok(link.hash == self.mark.head.hash);
        }
        match self.first_from(link.sequence + 1)? {
            Some(next) if next.first() == link.sequence + 1 => Ok(next.signed.previous == link.hash),
            // Given up while it was on its way; whether it is the same chain the collector can tell.
            Some(next) if next.first() <= link.sequence => Ok(true),
            // What follows is damaged: then what is before must tell.
            _ if link.sequence == 0 => Ok(link == ChainLink::start(link.epoch) && self.mark.acked == 0),
            _ => Ok(self.at(link.sequence)?.is_some_and(|known| known.link() == link)),
        }
    }

    /// The statement that stands under a sequence of the head's epoch.
    fn at(&mut self, sequence: u64) -> Result<Option<Stored>, SpoolError> {
        let key = key_of(self.mark.head.epoch, sequence);
        let value = self.store()?.read(RECORDS, &key)?;
        Ok(value.and_then(|value| self.reader.read(&key, &value)))
    }

    /// The first statement under this sequence of the head's epoch or a later one, if it is whole.
    fn first_from(&mut self, sequence: u64) -> Result<Option<Stored>, SpoolError> {
        let epoch = self.mark.head.epoch;
        let next = self.store()?.scan(RECORDS, &key_of(epoch, sequence)).next().transpose()?;
        let next = next.and_then(|(key, value)| self.reader.read(&key, &value));
        Ok(next.filter(|next| next.signed.epoch == epoch))
    }

    /// Deletes acknowledged records appended before `before`, the oldest first, at most `count`.
    fn forget(&mut self, count: usize, before: UnixMillis) -> Result<usize, SpoolError> {
        let kept_from = key_of(self.mark.head.epoch, self.mark.acked + 1);
        self.store()?;
        let store = self.store.as_ref().expect("opened the line before");
        let (mut batch, mut forgotten, mut records, mut bytes) = (Batch::default(), 0, 0, 0);
        for entry in store.scan(RECORDS, &[]).take(count) {
            let (key, value) = entry?;
            let stored = self.reader.read(&key, &value);
            let is_old = stored.as_ref().is_none_or(|stored| stored.appended < before);
            if key[..] >= kept_from[..] || !is_old {
                break;
            }
            batch.delete(RECORDS, &key);
            records += u64::from(stored.is_none_or(|stored| stored.gap.is_none()));
            (forgotten, bytes) = (forgotten + 1, bytes + value.len() as u64);
        }
        if forgotten > 0 {
            self.commit(batch)?;
            self.records = self.records.saturating_sub(records);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        Ok(forgotten)
    }

    /// Does `work`, and once more where it met a store that is damaged, in what is left of that.
    fn soundly<T>(
        &mut self,
        now: UnixMillis,
        work: impl Fn(&mut Self) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        if self.fault == Some(Fault::Damage) {
            self.salvage_in_passing(now)?;
        }
        match work(self) {
            Err(SpoolError::Store(damage)) if damage.is_corrupt() => {
                self.salvage_in_passing(now)?;
                work(self)
            }
            done => done,
        }
    }

    /// The store, opened anew if it failed before.
    fn store(&mut self) -> Result<&Store, SpoolError> {
        if self.fault == Some(Fault::Disk) {
            self.renew()?;
        }
        if self.store.is_none() {
            self.load()?;
        }
        Ok(self.store.as_ref().expect("load has opened the store"))
    }

    /// Commits a batch with a new mark, which holds from then on.
    fn commit_marked(&mut self, mut batch: Batch, mark: Mark) -> Result<(), SpoolError> {
        let mark = Mark { version: self.mark.version + 1, ..mark };
        batch.put(META, MARK, &mark.to_bytes());
        self.commit(batch)?;
        self.mark = mark;
        Ok(())
    }

    fn commit(&mut self, batch: Batch) -> Result<(), SpoolError> {
        let store = self.store.as_ref().expect("every caller has opened the store");
        store.commit(batch).map_err(|error| {
            self.store = None;
            if error.is_full() {
                return SpoolError::DiskFull { dir: self.dir.clone(), source: error };
            }
            // The kernel may have dropped the pages and forgotten the failure: this file proves nothing any more.
            self.fault = Some(Fault::Disk);
            SpoolError::Store(error)
        })
    }

    /// Copies a store that its disk failed into a new file, and goes on with that one. The old one is kept aside until
    /// the next such failure.
    fn renew(&mut self) -> Result<(), SpoolError> {
        let [next, failed] = ["next", "failed"].map(|name| self.dir.with_extension(name));
        remove_dir(&next)?;
        Store::reopen(&self.dir)?.copy_to(&next, &[RECORDS, META])?;
        remove_dir(&failed)?;
        move_dir(&self.dir, &failed)?;
        self.finish_renewal()?;
        self.fault = None;
        Ok(())
    }

    /// Puts a finished copy in place: the old store is out of the way already.
    fn finish_renewal(&self) -> Result<(), SpoolError> {
        let next = self.dir.with_extension("next");
        if self.dir.exists() || !next.exists() {
            return Ok(());
        }
        let parent = self.dir.parent().unwrap_or(Path::new("."));
        std::fs::rename(&next, &self.dir)
            .and_then(|()| std::fs::File::open(parent)?.sync_all())
            .map_err(|source| SpoolError::MoveAside { dir: next, source })
    }

    /// Opens the store and reads where the chain stands; removes drafts of an epoch that never began.
    fn load(&mut self) -> Result<(), SpoolError> {
        // Before sled looks: it cuts off what it takes for torn.
        let newest = salvage::newest_version(&self.dir)
            .map_err(|source| SpoolError::Salvage { dir: self.dir.clone(), source })?;
        let store = Store::reopen(&self.dir)?;
        store.check()?;
        let damaged = |detail: &str| {
            SpoolError::Store(StoreError::Damaged { dir: self.dir.clone(), detail: detail.to_owned() })
        };
        let mark = match store.read(META, MARK)? {
            Some(bytes) => Some(Mark::read(&bytes).ok_or_else(|| damaged("its mark is not whole"))?),
            None => store
                .read(META, HEAD)?
                .and_then(|head| Some((head, store.read(META, ACKED).ok()?)))
                .and_then(|(head, acked)| Mark::of_first_version(&head, acked.as_deref())),
        };
        // sled takes some damage for a torn end and goes on with less. A power cut costs one commit that nobody was told
        // of; what lacks more is damaged.
        if newest > mark.map_or(0, |mark| mark.version) + 1 {
            return Err(damaged("its end is gone"));
        }
        let (mut records, mut bytes, mut drafts) = (0, 0, Vec::new());
        for entry in store.scan(RECORDS, &[]) {
            let (key, value) = entry?;
            let mark = mark.ok_or_else(|| damaged("its mark is gone"))?;
            let place = place_of(&key).ok_or_else(|| damaged("a key is too short"))?;
            if place.0 > mark.head.epoch {
                drafts.push(key);
            } else if place > (mark.head.epoch, mark.head.sequence) {
                return Err(damaged("its mark is older than its records"));
            } else {
                let is_gap = self.reader.read(&key, &value).is_some_and(|stored| stored.gap.is_some());
                (records, bytes) = (records + u64::from(!is_gap), bytes + value.len() as u64);
            }
        }
        for keys in drafts.chunks(COMMIT_RECORDS_MAX) {
            let mut batch = Batch::default();
            keys.iter().for_each(|key| batch.delete(RECORDS, key));
            store.commit(batch)?;
        }
        let mark = mark.unwrap_or(Mark::START);
        (self.mark, self.store) = (mark, Some(store));
        (self.records, self.bytes, self.is_mended) = (records, bytes, false);
        self.none_up_to = Default::default();
        self.handed = self.handed.max(mark.acked);
        if mark.has_joined {
            // Some may be on their way since the last life.
            self.handed = self.handed.max(mark.acked + RESEND_WINDOW as u64);
            let vouched = Mark { vouched: mark.head.sequence, has_joined: false, ..mark };
            self.commit_marked(Batch::default(), vouched)?;
        }
        Ok(())
    }
}

/// How often opening the store ended the whole process: sled panics on some damage, and a small build of this program
/// survives no panic.
struct Tries {
    path: PathBuf,
    count: usize,
}

impl Tries {
    fn note(dir: &Path) -> Self {
        let path = dir.with_extension("opening");
        let count = std::fs::read(&path).map_or(0, |tries| tries.len()) + 1;
        // Where it cannot be written, opening is merely tried once more.
        let _ = std::fs::write(&path, vec![b'+'; count]);
        Self { path, count }
    }

    fn exceed_limit(&self) -> bool {
        self.count > OPENING_TRIES_MAX
    }

    fn succeeded(self) {
        let _ = std::fs::remove_file(self.path);
    }
}

fn remove_dir(dir: &Path) -> Result<(), SpoolError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(SpoolError::MoveAside { dir: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn move_dir(dir: &Path, to: &Path) -> Result<(), SpoolError> {
    std::fs::rename(dir, to).map_err(|source| SpoolError::MoveAside { dir: dir.to_owned(), source })
}
