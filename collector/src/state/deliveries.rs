//! The outbox: which executor still has what to carry out, and what it gave up.
//!
//! An older decision must never undo a newer one. Within a lane that is the outbox's order; across retries by hand it is
//! kept here, by the number of the newest decision that each executor carried out.

use serde::{Deserialize, Serialize};
use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};
use zerkalo_durable::store::{Batch, Store, StoreError, Table};

use super::log::{Topic, with_prefix};
use super::{State, StateError, json};
use crate::config::WEBHOOK_NAME;
use crate::executor::Notice;

/// Executor, market and subject to the number (u64, big-endian) of the newest decision carried out.
const CARRIED_OUT: Table = Table("carried-out");
/// Stands for the mirror where one takes another's place: the market's newest replacement undoes all before.
const REPLACEMENT: &str = "*";

/// Names a delivery.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeliveryKey {
    pub topic: Topic,
    /// Of the notice, in its log.
    pub number: u64,
    pub executor: String,
}

/// A notice on its way through an executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The notice's; with `-2` and so on behind it if others bore its number before.
    pub id: String,
    pub market: MarketId,
    /// Attempts made so far.
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorId>,
    /// Action, or what the alert is about; empty in old entries.
    #[serde(default)]
    pub word: String,
    /// Whether it puts a mirror in another's place.
    #[serde(default)]
    pub replaces: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_attempt_at: Option<UnixMillis>,
    /// Attempts among those made that were refused for good.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refusals: u32,
    /// When its turn comes again; a person's wish or a restart brings it forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<UnixMillis>,
    /// Unset while it waits, and in old entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up_because: Option<GivenUp>,
}

/// Why a delivery was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GivenUp {
    /// It was refused for good as often as its executor bears.
    Refused,
    /// It was tried as often as its executor bears.
    TooLong,
    /// A newer decision was carried out.
    Superseded,
    /// No attempt can succeed.
    Hopeless,
}

impl GivenUp {
    /// The word for it on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TooLong => "too_long",
            Self::Superseded => "superseded",
            Self::Hopeless => "hopeless",
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Waiting,
    Dead,
}

/// A delivery with its name.
pub type Waiting = (DeliveryKey, Delivery);

/// Why a delivery is not tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryRefusal {
    /// There is none of this name.
    Unknown,
    /// A newer decision was carried out since.
    Superseded { newer: u64 },
}

/// What became of dropping a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropOutcome {
    Dropped,
    Unknown,
}

impl Topic {
    /// What is to be carried out yet: number (u64, big-endian) and executor to [`Delivery`].
    fn outbox(self) -> Table {
        Table(if self == Self::Decision { "outbox" } else { "alert-outbox" })
    }

    /// The same for what was given up.
    fn dead(self) -> Table {
        Table(if self == Self::Decision { "outbox-dead" } else { "alert-outbox-dead" })
    }
}

impl DeliveryKey {
    /// The one webhook there was once had no name: it still has none in the store.
    fn bytes(&self) -> Vec<u8> {
        let name = if self.executor == WEBHOOK_NAME { "" } else { &self.executor };
        [&self.number.to_be_bytes(), name.as_bytes()].concat()
    }
}

impl Delivery {
    /// Before the first attempt.
    pub fn new(id: String, notice: &Notice) -> Self {
        let replaces = match notice {
            Notice::Decision(decision) => decision.replacement.is_some(),
            Notice::Alert(_) => false,
        };
        Self {
            id,
            market: notice.market().clone(),
            attempts: 0,
            mirror: notice.mirror().cloned(),
            word: notice.word().to_owned(),
            replaces,
            last_error: None,
            last_attempt_at: None,
            refusals: 0,
            next_attempt_at: None,
            given_up_because: None,
        }
    }

    /// As if it had never been tried; why it failed stays known.
    fn anew(self) -> Self {
        Self { attempts: 0, refusals: 0, next_attempt_at: None, given_up_because: None, ..self }
    }

    /// What it speaks of, as far as order matters.
    fn subjects(&self) -> impl Iterator<Item = &str> {
        let mirror = self.mirror.as_ref().map(MirrorId::as_str);
        mirror.into_iter().chain(self.replaces.then_some(REPLACEMENT))
    }
}

impl State {
    /// Everything to be carried out yet: decisions before alerts, each oldest first.
    pub fn outbox(&self) -> Result<Vec<Waiting>, StateError> {
        self.deliveries(Place::Waiting)
    }

    /// Everything given up, in the same order.
    pub fn dead(&self) -> Result<Vec<Waiting>, StateError> {
        self.deliveries(Place::Dead)
    }

    /// Notes another attempt at a delivery, unless it was dropped meanwhile.
    pub fn note_attempt(&self, key: &DeliveryKey, delivery: &Delivery) -> Result<(), StateError> {
        self.if_waiting(key, |batch| put(key, delivery, batch))
    }

    /// Takes what was carried out from the outbox, and remembers how far its executor is.
    pub fn note_done(&self, key: &DeliveryKey) -> Result<(), StateError> {
        self.change(|store| {
            let mut batch = Batch::default();
            if let Some(bytes) = store.read(key.topic.outbox(), &key.bytes())? {
                let delivery: Delivery = self.parse("an outbox entry", &bytes)?;
                batch.delete(key.topic.outbox(), &key.bytes());
                if key.topic == Topic::Decision {
                    for subject in delivery.subjects() {
                        let mark = mark_key(&key.executor, &delivery.market, subject);
                        batch.put(CARRIED_OUT, &mark, &key.number.to_be_bytes());
                    }
                }
            }
            Ok(((), batch))
        })
    }

    /// Gives a delivery up; it stays on record.
    pub fn note_dead(&self, key: &DeliveryKey, delivery: &Delivery) -> Result<(), StateError> {
        self.if_waiting(key, |batch| {
            withdraw(key, batch);
            batch.put(key.topic.dead(), &key.bytes(), &json(delivery));
        })
    }

    /// The number of a newer decision that the same executor carried out, of the same mirror or in the same place.
    pub fn newer_carried_out(
        &self,
        key: &DeliveryKey,
        delivery: &Delivery,
    ) -> Result<Option<u64>, StateError> {
        self.with(|store| newer(store, key, delivery))?
            .map_or(Ok(None), |bytes| self.number(&bytes).map(Some))
    }

    /// Puts a delivery that was given up back into the outbox, as if it had never been tried; one that waits is left
    /// as it is.
    pub fn retry(&self, key: &DeliveryKey) -> Result<Result<(), RetryRefusal>, StateError> {
        self.change(|store| {
            let (mut batch, bytes) = (Batch::default(), key.bytes());
            let Some(found) = store.read(key.topic.dead(), &bytes)? else {
                let waits = store.read(key.topic.outbox(), &bytes)?.is_some();
                return Ok((if waits { Ok(()) } else { Err(RetryRefusal::Unknown) }, batch));
            };
            let delivery: Delivery = self.parse("an outbox entry", &found)?;
            if let Some(newer) = newer(store, key, &delivery)? {
                return Ok((Err(RetryRefusal::Superseded { newer: self.number(&newer)? }), batch));
            }
            batch.delete(key.topic.dead(), &bytes);
            put(key, &delivery.anew(), &mut batch);
            Ok((Ok(()), batch))
        })
    }

    /// Removes a delivery for good, wherever it stands.
    pub fn drop_delivery(&self, key: &DeliveryKey) -> Result<DropOutcome, StateError> {
        self.change(|store| {
            let (mut batch, bytes) = (Batch::default(), key.bytes());
            let mut outcome = DropOutcome::Unknown;
            for table in [key.topic.outbox(), key.topic.dead()] {
                if store.read(table, &bytes)?.is_some() {
                    batch.delete(table, &bytes);
                    outcome = DropOutcome::Dropped;
                }
            }
            Ok((outcome, batch))
        })
    }

    /// Decisions from this number on are to be taken anew: what was carried out of theirs is no measure any more.
    pub(super) fn forget_carried_out(
        &self,
        topic: Topic,
        from: u64,
        batch: &mut Batch,
    ) -> Result<(), StateError> {
        if topic != Topic::Decision {
            return Ok(());
        }
        let marks = self.with(|store| store.scan(CARRIED_OUT, &[]).collect::<Result<Vec<_>, _>>())?;
        for (mark, number) in marks {
            if self.number(&number)? >= from {
                batch.delete(CARRIED_OUT, &mark);
            }
        }
        Ok(())
    }

    fn if_waiting(&self, key: &DeliveryKey, plan: impl FnOnce(&mut Batch)) -> Result<(), StateError> {
        self.change(|store| {
            let mut batch = Batch::default();
            if store.read(key.topic.outbox(), &key.bytes())?.is_some() {
                plan(&mut batch);
            }
            Ok(((), batch))
        })
    }

    fn deliveries(&self, place: Place) -> Result<Vec<Waiting>, StateError> {
        let mut all = Vec::new();
        for topic in [Topic::Decision, Topic::Alert] {
            let table = if place == Place::Waiting { topic.outbox() } else { topic.dead() };
            let found = self.with(|store| store.scan(table, &[]).collect::<Result<Vec<_>, _>>())?;
            for (key, value) in found {
                all.push((self.delivery_key(topic, &key)?, self.parse("an outbox entry", &value)?));
            }
        }
        Ok(all)
    }

    fn delivery_key(&self, topic: Topic, bytes: &[u8]) -> Result<DeliveryKey, StateError> {
        let (number, executor) =
            bytes.split_at_checked(8).ok_or_else(|| self.malformed("an outbox entry"))?;
        Ok(DeliveryKey { topic, number: self.number(number)?, executor: name_of(executor) })
    }
}

/// Puts a delivery into the outbox.
pub(super) fn put(key: &DeliveryKey, delivery: &Delivery, batch: &mut Batch) {
    batch.put(key.topic.outbox(), &key.bytes(), &json(delivery));
}

/// Takes one out of it.
pub(super) fn withdraw(key: &DeliveryKey, batch: &mut Batch) {
    batch.delete(key.topic.outbox(), &key.bytes());
}

/// The executors that a notice still waits for.
pub(super) fn waiting_for(store: &Store, topic: Topic, number: u64) -> Result<Vec<String>, StoreError> {
    let prefix = number.to_be_bytes();
    let found = with_prefix(store, topic.outbox(), &prefix);
    found.map(|found| found.map(|(key, _)| name_of(&key[prefix.len()..]))).collect()
}

fn name_of(bytes: &[u8]) -> String {
    match bytes {
        [] => WEBHOOK_NAME.to_owned(),
        name => String::from_utf8_lossy(name).into_owned(),
    }
}

fn mark_key(executor: &str, market: &MarketId, subject: &str) -> Vec<u8> {
    format!("{executor}/{market}/{subject}").into_bytes()
}

/// The number, as stored, of a newer decision carried out.
fn newer(store: &Store, key: &DeliveryKey, delivery: &Delivery) -> Result<Option<Vec<u8>>, StoreError> {
    if key.topic != Topic::Decision {
        return Ok(None);
    }
    for subject in delivery.subjects() {
        let mark = store.read(CARRIED_OUT, &mark_key(&key.executor, &delivery.market, subject))?;
        // Big-endian numbers compare as their bytes do.
        if let Some(mark) = mark.filter(|mark| mark.as_slice() > key.number.to_be_bytes().as_slice()) {
            return Ok(Some(mark));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
