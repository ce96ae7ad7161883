//! Where signed records wait for the collector. A record exists once `append` has returned: written and synced. What the
//! collector acknowledged is kept for a day more.
//!
//! Keys are epoch and sequence, big-endian. All that is unacknowledged is of the head's epoch; older epochs hold only
//! what was acknowledged. When the spool is full of unacknowledged records it takes no more, and says so: a signed gap
//! that lets the newest in is work still to come.

use std::path::{Path, PathBuf};

use zerkalo_core::evidence::{ChainLink, SecretKey, SignedRecord};
use zerkalo_core::target::Sha256;
use zerkalo_core::words::{AgentId, UnixMillis};
use zerkalo_durable::store::{Batch, Store, StoreError, Table};

/// How much is kept at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub records: u64,
    pub bytes: u64,
}

impl Default for Limits {
    /// Weeks of an uplink that is down, for a few mirrors; what a small box can spare.
    fn default() -> Self {
        Self { records: 100_000, bytes: 256 * 1024 * 1024 }
    }
}

/// How long an acknowledged record is kept.
const KEPT_AFTER_ACK_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// Records deleted or moved in one commit: bounds the memory of a batch.
const COMMIT_RECORDS_MAX: usize = 128;

/// Its place in the state directory.
pub const DIR: &str = "spool";

const RECORDS: Table = Table("records");
const META: Table = Table("meta");
const HEAD: &[u8] = b"head";
const ACKED: &[u8] = b"acked";
/// First byte of a stored record; grows with the format.
const FORMAT: u8 = 1;
/// Bytes of a stored record before its body.
const HEADER_LEN: usize = 1 + 8 + 32 + 64;

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

/// The spool of one agent.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    agent: AgentId,
    key: SecretKey,
    limits: Limits,
    /// `None` after a failure: opened anew by the next use, for a failed store refuses everything after.
    store: Option<Store>,
    /// The disk failed the store's file: what can be read of it goes into a new one before anything else.
    is_dead: bool,
    head: ChainLink,
    /// Sequence of the head's epoch up to which the collector has everything.
    acked: u64,
    records: u64,
    bytes: u64,
}

impl Spool {
    /// Opens the spool in `dir`, made if absent. A damaged one is moved aside, where a person may look at it; its place
    /// is returned.
    pub fn open(
        dir: &Path,
        agent: &AgentId,
        key: SecretKey,
        limits: Limits,
        now: UnixMillis,
    ) -> Result<(Self, Option<PathBuf>), SpoolError> {
        let mut spool = Self {
            dir: dir.to_owned(),
            agent: agent.clone(),
            key,
            limits,
            store: None,
            is_dead: false,
            head: ChainLink::start(1),
            acked: 0,
            records: 0,
            bytes: 0,
        };
        spool.finish_renewal()?;
        match spool.load() {
            Err(SpoolError::Store(damage)) if damage.is_corrupt() => {
                let aside = dir.with_extension(format!("damaged-{}", now.0));
                std::fs::rename(dir, &aside)
                    .map_err(|source| SpoolError::MoveAside { dir: dir.to_owned(), source })?;
                // The chain begins anew at epoch 1; the collector's Welcome will lift it to an epoch never used.
                spool.load()?;
                Ok((spool, Some(aside)))
            }
            other => other.map(|()| (spool, None)),
        }
    }

    /// The last record's place in the chain.
    pub fn head(&self) -> ChainLink {
        self.head
    }

    /// Records the collector has not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.head.sequence - self.acked
    }

    /// Signs a record's body as the next of the chain; on the disk when this returns.
    pub fn append(&mut self, body: Vec<u8>, now: UnixMillis) -> Result<SignedRecord, SpoolError> {
        self.store()?;
        let len = (HEADER_LEN + body.len()) as u64;
        while self.records >= self.limits.records || self.bytes + len > self.limits.bytes {
            if self.forget(COMMIT_RECORDS_MAX, UnixMillis(u64::MAX))? == 0 {
                return Err(SpoolError::Full { records: self.unacknowledged() });
            }
        }
        let record = SignedRecord::sign(&self.agent, self.head, body, &self.key);
        let mut batch = Batch::default();
        batch.put(RECORDS, &key_of(record.epoch, record.sequence), &to_stored(&record, now));
        batch.put(META, HEAD, &head_bytes(record.link()));
        self.commit(batch)?;
        self.head = record.link();
        self.records += 1;
        self.bytes += len;
        Ok(record)
    }

    /// The records after `sequence` of the head's epoch: at most `count`, at most `bytes` of bodies (but at least one).
    pub fn after(
        &mut self,
        sequence: u64,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<SignedRecord>, SpoolError> {
        let (epoch, agent) = (self.head.epoch, self.agent.clone());
        let (mut found, mut len): (Vec<SignedRecord>, usize) = (Vec::new(), 0);
        for entry in self.store()?.scan(RECORDS, &key_of(epoch, sequence + 1)).take(count) {
            let (key, value) = entry?;
            let Some((record, _)) = from_stored(&agent, &key, &value) else { break };
            if record.epoch != epoch {
                break;
            }
            len += record.body.len();
            if len > bytes && !found.is_empty() {
                break;
            }
            found.push(record);
        }
        Ok(found)
    }

    /// Notes that the collector has everything up to `sequence` of `epoch`, and forgets what it has had for a day.
    pub fn ack(&mut self, epoch: u64, sequence: u64, now: UnixMillis) -> Result<(), SpoolError> {
        let sequence = sequence.min(self.head.sequence);
        if epoch == self.head.epoch && sequence > self.acked {
            let mut batch = Batch::default();
            batch.put(META, ACKED, &sequence.to_be_bytes());
            self.store()?;
            self.commit(batch)?;
            self.acked = sequence;
        }
        self.forget(COMMIT_RECORDS_MAX, now.minus_millis(KEPT_AFTER_ACK_MILLIS)).map(drop)
    }

    /// Joins the chain to where it ends at the collector. Where the ends do not meet (a spool lost, a collector
    /// restored, a second box under the same name), what is unacknowledged is signed anew in the next epoch.
    pub fn resume(&mut self, collector: ChainLink, now: UnixMillis) -> Result<Resumed, SpoolError> {
        self.store()?;
        let follows = collector.epoch == self.head.epoch
            && collector.sequence <= self.head.sequence
            && self.joins(collector)?;
        if follows {
            self.take_back_acks_after(collector.sequence)?;
            self.ack(collector.epoch, collector.sequence, now)?;
            return Ok(Resumed::After(collector.sequence));
        }
        // Where older epochs are kept too, a collector that lost them gets them with the rest.
        let begins_here = collector.epoch < self.head.epoch && !self.keeps_between(collector)?;
        if begins_here && self.joins(ChainLink::start(self.head.epoch))? {
            self.take_back_acks_after(0)?;
            return Ok(Resumed::After(0));
        }
        let epoch = collector.epoch.max(self.head.epoch) + 1;
        let is_behind = (collector.epoch, collector.sequence) < (self.head.epoch, self.acked);
        if is_behind {
            self.sign_anew(epoch, key_of(collector.epoch, collector.sequence + 1), now)?;
            return Ok(Resumed::CollectorBehind);
        }
        self.begin_epoch(epoch, now)?;
        Ok(Resumed::CollectorAhead)
    }

    /// Whether acknowledged records of older epochs than the head's are kept here that came after `link`.
    fn keeps_between(&mut self, link: ChainLink) -> Result<bool, SpoolError> {
        let end = key_of(self.head.epoch, 0);
        let next = self.store()?.scan(RECORDS, &key_of(link.epoch, link.sequence + 1)).next().transpose()?;
        Ok(next.is_some_and(|(key, _)| key[..] < end[..]))
    }

    /// A collector set back to an older copy of its journal has lost what it acknowledged: that waits again, and is not
    /// forgotten meanwhile.
    fn take_back_acks_after(&mut self, sequence: u64) -> Result<(), SpoolError> {
        if sequence >= self.acked {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put(META, ACKED, &sequence.to_be_bytes());
        self.commit(batch)?;
        self.acked = sequence;
        Ok(())
    }

    /// Signs everything unacknowledged anew under `epoch`, which must be higher than any before.
    pub fn begin_epoch(&mut self, epoch: u64, now: UnixMillis) -> Result<(), SpoolError> {
        self.sign_anew(epoch, key_of(self.head.epoch, self.acked + 1), now)
    }

    /// Signs everything from the key `start` on anew under `epoch`.
    fn sign_anew(&mut self, epoch: u64, start: [u8; 16], now: UnixMillis) -> Result<(), SpoolError> {
        let (mut link, mut cursor) = (ChainLink::start(epoch), start.to_vec());
        loop {
            let records = self.records_between(&cursor, epoch)?;
            let Some((last, _)) = records.last() else { break };
            cursor = [last, &[0][..]].concat();
            let mut batch = Batch::default();
            for (_, record) in records {
                let record = SignedRecord::sign(&self.agent, link, record.body, &self.key);
                batch.put(RECORDS, &key_of(epoch, record.sequence), &to_stored(&record, now));
                link = record.link();
            }
            // Until the head moves these are drafts: `load` removes them after a crash.
            self.commit(batch)?;
        }
        let mut batch = Batch::default();
        batch.put(META, HEAD, &head_bytes(link));
        batch.put(META, ACKED, &0u64.to_be_bytes());
        self.commit(batch)?;
        (self.head, self.acked) = (link, 0);
        loop {
            let records = self.records_between(&start, epoch)?;
            if records.is_empty() {
                return Ok(());
            }
            let mut batch = Batch::default();
            records.iter().for_each(|(key, _)| batch.delete(RECORDS, key));
            self.commit(batch)?;
        }
    }

    /// Some records from `start` on, of epochs below `epoch`, with their keys.
    fn records_between(
        &mut self,
        start: &[u8],
        epoch: u64,
    ) -> Result<Vec<(Vec<u8>, SignedRecord)>, SpoolError> {
        let (agent, end) = (self.agent.clone(), key_of(epoch, 0));
        let mut found = Vec::new();
        for entry in self.store()?.scan(RECORDS, start).take(COMMIT_RECORDS_MAX) {
            let (key, value) = entry?;
            if key[..] >= end[..] {
                break;
            }
            if let Some((record, _)) = from_stored(&agent, &key, &value) {
                found.push((key, record));
            }
        }
        Ok(found)
    }

    /// Whether the chain here goes on from `link`, a place at or before the head of the head's epoch.
    fn joins(&mut self, link: ChainLink) -> Result<bool, SpoolError> {
        if link.sequence == self.head.sequence {
            return Ok(link.hash == self.head.hash);
        }
        let next = self.after(link.sequence, 1, 0)?;
        Ok(next.first().is_some_and(|next| next.sequence == link.sequence + 1 && next.previous == link.hash))
    }

    /// Deletes acknowledged records appended before `before`, the oldest first, at most `count`.
    fn forget(&mut self, count: usize, before: UnixMillis) -> Result<usize, SpoolError> {
        let (agent, kept_from) = (self.agent.clone(), key_of(self.head.epoch, self.acked + 1));
        let (mut batch, mut forgotten, mut bytes) = (Batch::default(), 0, 0);
        for entry in self.store()?.scan(RECORDS, &[]).take(count) {
            let (key, value) = entry?;
            let is_old = from_stored(&agent, &key, &value).is_none_or(|(_, appended)| appended < before);
            if key[..] >= kept_from[..] || !is_old {
                break;
            }
            batch.delete(RECORDS, &key);
            (forgotten, bytes) = (forgotten + 1, bytes + value.len() as u64);
        }
        if forgotten > 0 {
            self.commit(batch)?;
            self.records = self.records.saturating_sub(forgotten as u64);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        Ok(forgotten)
    }

    /// The store, opened anew if it failed before.
    fn store(&mut self) -> Result<&Store, SpoolError> {
        if self.is_dead {
            self.renew()?;
        }
        if self.store.is_none() {
            self.load()?;
        }
        Ok(self.store.as_ref().expect("load has opened the store"))
    }

    fn commit(&mut self, batch: Batch) -> Result<(), SpoolError> {
        let store = self.store.as_ref().expect("every caller has opened the store");
        store.commit(batch).map_err(|error| {
            self.store = None;
            if error.is_full() {
                return SpoolError::DiskFull { dir: self.dir.clone(), source: error };
            }
            // The kernel may have dropped the pages and forgotten the failure: this file proves nothing any more.
            self.is_dead = true;
            SpoolError::Store(error)
        })
    }

    /// Copies a store that its disk failed into a new file, and goes on with that one. The old one is kept aside until
    /// the next such failure.
    fn renew(&mut self) -> Result<(), SpoolError> {
        let [next, failed] = ["next", "failed"].map(|name| self.dir.with_extension(name));
        let move_failed = |dir: &Path| {
            let dir = dir.to_owned();
            move |source| SpoolError::MoveAside { dir, source }
        };
        remove_dir(&next).map_err(move_failed(&next))?;
        Store::reopen(&self.dir)?.copy_to(&next, &[RECORDS, META])?;
        remove_dir(&failed).map_err(move_failed(&failed))?;
        std::fs::rename(&self.dir, &failed).map_err(move_failed(&self.dir))?;
        self.finish_renewal()?;
        self.is_dead = false;
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
        let store = Store::reopen(&self.dir)?;
        store.check()?;
        let head = store.read(META, HEAD)?.and_then(|bytes| head_of(&bytes)).unwrap_or(ChainLink::start(1));
        let acked =
            store.read(META, ACKED)?.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        let (mut records, mut bytes, mut drafts) = (0, 0, Vec::new());
        for entry in store.scan(RECORDS, &[]) {
            let (key, value) = entry?;
            if key[..] > key_of(head.epoch, head.sequence)[..] {
                drafts.push(key);
            } else {
                (records, bytes) = (records + 1, bytes + value.len() as u64);
            }
        }
        for keys in drafts.chunks(COMMIT_RECORDS_MAX) {
            let mut batch = Batch::default();
            keys.iter().for_each(|key| batch.delete(RECORDS, key));
            store.commit(batch)?;
        }
        (self.head, self.acked) = (head, acked.unwrap_or(0).min(head.sequence));
        (self.records, self.bytes, self.store) = (records, bytes, Some(store));
        Ok(())
    }
}

fn remove_dir(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn key_of(epoch: u64, sequence: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&epoch.to_be_bytes());
    key[8..].copy_from_slice(&sequence.to_be_bytes());
    key
}

fn to_stored(record: &SignedRecord, appended: UnixMillis) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + record.body.len());
    bytes.push(FORMAT);
    bytes.extend_from_slice(&appended.0.to_be_bytes());
    bytes.extend_from_slice(&record.previous.0);
    bytes.extend_from_slice(&record.signature);
    bytes.extend_from_slice(&record.body);
    bytes
}

fn from_stored(agent: &AgentId, key: &[u8], value: &[u8]) -> Option<(SignedRecord, UnixMillis)> {
    let (epoch, sequence) = key.split_at_checked(8)?;
    let (header, body) = value.split_at_checked(HEADER_LEN)?;
    let record = SignedRecord {
        agent: agent.clone(),
        epoch: u64::from_be_bytes(epoch.try_into().ok()?),
        sequence: u64::from_be_bytes(sequence.try_into().ok()?),
        previous: Sha256(header[9..41].try_into().ok()?),
        body: body.to_vec(),
        signature: header[41..].try_into().ok()?,
    };
    let appended = UnixMillis(u64::from_be_bytes(header[1..9].try_into().ok()?));
    (header[0] == FORMAT).then_some((record, appended))
}

fn head_bytes(link: ChainLink) -> Vec<u8> {
    [&key_of(link.epoch, link.sequence)[..], &link.hash.0].concat()
}

fn head_of(bytes: &[u8]) -> Option<ChainLink> {
    let bytes: &[u8; 48] = bytes.try_into().ok()?;
    Some(ChainLink {
        epoch: u64::from_be_bytes(bytes[..8].try_into().ok()?),
        sequence: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
        hash: Sha256(bytes[16..].try_into().ok()?),
    })
}
