//! The logs of decisions and alerts follow the fold: what the journal no longer says is moved aside, never lost.
//!
//! The journal can fall behind a log (segments moved away) or say other things (another version's rules). Numbers are
//! the fold's; what stood under one before is kept in a table of its own, which nothing lists.

use serde::{Deserialize, Serialize};
use zerkalo_durable::store::{Batch, Store, StoreError, Table};

use super::deliveries::{self, Delivery, DeliveryKey};
use super::{State, StateError, json};
use crate::executor::{Notice, Route};

/// Lines moved aside in one commit.
const CUT_CHUNK: usize = 256;

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Decision,
    Alert,
}

/// What became of writing a line to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    New,
    /// The same bytes stand there.
    Same,
    /// Other bytes stood there; they were moved aside.
    Replaced,
}

/// Whether a new line is to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    Yes,
    /// Unless an executor was given one of the same id and word already.
    IfNews,
    No,
}

/// A line that stood in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Superseded {
    /// The logged bytes.
    json: String,
    /// Whether it was still waiting for the one webhook there was: then nobody was told. Of old logs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pending: bool,
    /// The executors it was still waiting for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<String>,
}

/// What is known of one number of a log.
struct Known {
    topic: Topic,
    number: u64,
    current: Option<Superseded>,
    before: Vec<Superseded>,
}

impl Topic {
    /// Of a notice.
    pub fn of(notice: &Notice) -> Self {
        match notice {
            Notice::Decision(_) => Self::Decision,
            Notice::Alert(_) => Self::Alert,
        }
    }

    /// Number (u64, big-endian) to the exact JSON bytes.
    fn lines(self) -> Table {
        Table(if self == Self::Decision { "decision" } else { "alert" })
    }

    /// Id to number.
    fn ids(self) -> Table {
        Table(if self == Self::Decision { "decision-id" } else { "alert-id" })
    }

    /// Number, and which of that number it was (u64 each, big-endian), to its [`Superseded`].
    fn superseded(self) -> Table {
        Table(if self == Self::Decision { "decision-superseded" } else { "alert-superseded" })
    }
}

impl State {
    /// Calls `visit` with the bytes of each line from number `start` on, in order, until it says `false`.
    pub fn lines(
        &self,
        topic: Topic,
        start: u64,
        mut visit: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), StateError> {
        self.with(|store| {
            for found in store.scan(topic.lines(), &start.to_be_bytes()) {
                if !visit(&found?.1) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Number of the newest line; 0 without any.
    pub fn last_line(&self, topic: Topic) -> Result<u64, StateError> {
        let last = self.with(|store| store.last(topic.lines()))?;
        last.map_or(Ok(0), |(key, _)| self.number(&key))
    }

    /// The logged bytes of a decision.
    pub fn decision(&self, id: &str) -> Result<Option<Vec<u8>>, StateError> {
        self.with(|store| match store.read(Topic::Decision.ids(), id.as_bytes())? {
            Some(key) => store.read(Topic::Decision.lines(), &key),
            None => Ok(None),
        })
    }

    /// The logged bytes of the line with this number.
    pub fn line_numbered(&self, topic: Topic, number: u64) -> Result<Option<Vec<u8>>, StateError> {
        self.with(|store| store.read(topic.lines(), &number.to_be_bytes()))
    }

    /// Logs notices in one commit, and with them what is to be carried out by whom. Where another stands under the
    /// number, that one is moved aside.
    pub fn log(&self, notices: &[(Notice, Send)], routes: &[Route]) -> Result<Vec<Logged>, StateError> {
        let mut batch = Batch::default();
        let mut outcomes = Vec::with_capacity(notices.len());
        for (notice, send) in notices {
            let (topic, number) = (Topic::of(notice), notice.number());
            let known = self.known(topic, number)?;
            let json = notice.to_json();
            let outcome = match &known.current {
                None => Logged::New,
                Some(current) if current.json == json => Logged::Same,
                Some(_) => Logged::Replaced,
            };
            outcomes.push(outcome);
            if outcome == Logged::Same {
                continue;
            }
            known.move_aside(&mut batch);
            if outcome == Logged::Replaced {
                self.forget_carried_out(topic, number, &mut batch)?;
            }
            let key = number.to_be_bytes();
            batch.put(topic.lines(), &key, json.as_bytes());
            batch.put(topic.ids(), notice.id().as_bytes(), &key);
            known.send(notice, *send, routes, &mut batch);
        }
        if outcomes.iter().any(|outcome| *outcome != Logged::Same) {
            self.commit(batch)?;
        }
        Ok(outcomes)
    }

    /// Moves everything above `last` aside; gives how many that were.
    pub fn cut_log(&self, topic: Topic, last: u64) -> Result<u64, StateError> {
        let start = last.saturating_add(1).to_be_bytes();
        let mut moved = 0;
        loop {
            let keys = self.with(|store| {
                let found = store.scan(topic.lines(), &start).take(CUT_CHUNK);
                found.map(|found| found.map(|(key, _)| key)).collect::<Result<Vec<_>, _>>()
            })?;
            let mut batch = Batch::default();
            if keys.is_empty() {
                return Ok(moved);
            }
            for key in &keys {
                let number = self.number(key)?;
                self.known(topic, number)?.move_aside(&mut batch);
                batch.delete(topic.lines(), key);
            }
            self.forget_carried_out(topic, last.saturating_add(1), &mut batch)?;
            self.commit(batch)?;
            moved += keys.len() as u64;
        }
    }

    fn known(&self, topic: Topic, number: u64) -> Result<Known, StateError> {
        let key = number.to_be_bytes();
        let (current, waiting, before) = self.with(|store| {
            let before = with_prefix(store, topic.superseded(), &key);
            let before = before.collect::<Result<Vec<_>, _>>()?;
            Ok((store.read(topic.lines(), &key)?, deliveries::waiting_for(store, topic, number)?, before))
        })?;
        let current = current
            .map(|bytes| String::from_utf8(bytes).map_err(|_| self.malformed("a line of a log")))
            .transpose()?
            .map(|json| Superseded { json, pending: false, waiting });
        let before = before.iter().map(|(_, value)| self.parse("a superseded line", value));
        Ok(Known { topic, number, current, before: before.collect::<Result<_, _>>()? })
    }
}

/// Everything in a table whose key begins so.
pub(super) fn with_prefix<'a>(
    store: &'a Store,
    table: Table,
    prefix: &'a [u8],
) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + 'a {
    store.scan(table, prefix).take_while(move |found| match found {
        Ok((found, _)) => found.starts_with(prefix),
        Err(_) => true,
    })
}

impl Known {
    fn move_aside(&self, batch: &mut Batch) {
        let Some(current) = &self.current else { return };
        let aside = [self.number.to_be_bytes(), (self.before.len() as u64).to_be_bytes()].concat();
        batch.put(self.topic.superseded(), &aside, &json(current));
        for executor in &current.waiting {
            deliveries::withdraw(&self.key(executor), batch);
        }
        if let Some(name) = current.name() {
            batch.delete(self.topic.ids(), name.id.as_bytes());
        }
    }

    /// Puts a notice into the outbox for each executor that is to have it. Receivers drop what they have seen by its
    /// id, so one that bears the number of another gets a delivery id of its own.
    fn send(&self, notice: &Notice, send: Send, routes: &[Route], batch: &mut Batch) {
        let id = match self.before.len() + usize::from(self.current.is_some()) {
            0 => notice.id().to_owned(),
            others => format!("{}-{}", notice.id(), others + 1),
        };
        for route in routes.iter().filter(|route| route.takes(notice)) {
            let wanted = match send {
                Send::Yes => true,
                Send::No => false,
                Send::IfNews => !self.was_given(notice, &route.executor),
            };
            if wanted {
                let delivery = Delivery::new(id.clone(), notice);
                deliveries::put(&self.key(&route.executor), &delivery, batch);
            }
        }
    }

    fn was_given(&self, notice: &Notice, executor: &str) -> bool {
        let is_waiting = |one: &Superseded| {
            one.waiting.iter().any(|name| name == executor)
                || (one.pending && executor == crate::config::WEBHOOK_NAME)
        };
        let is_same = |one: &Superseded| {
            one.name().is_some_and(|name| name.id == notice.id() && name.word() == notice.word())
        };
        self.before.iter().chain(&self.current).any(|one| !is_waiting(one) && is_same(one))
    }

    fn key(&self, executor: &str) -> DeliveryKey {
        DeliveryKey { topic: self.topic, number: self.number, executor: executor.to_owned() }
    }
}

/// What a line is recognised by.
#[derive(Deserialize)]
struct Name {
    id: String,
    /// A decision's.
    #[serde(default)]
    action: String,
    /// An alert's.
    #[serde(default)]
    kind: String,
}

impl Name {
    fn word(&self) -> &str {
        if self.action.is_empty() { &self.kind } else { &self.action }
    }
}

impl Superseded {
    fn name(&self) -> Option<Name> {
        serde_json::from_str(&self.json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::market::{Action, Alert, AlertKind, Decision};
    use zerkalo_core::target::TargetUrl;
    use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};

    use crate::executor::Carries;

    fn decision(number: u64, action: Action) -> Decision {
        Decision {
            id: format!("kz-{number:06}"),
            number,
            at: UnixMillis(1),
            market: MarketId::parse("kz").unwrap(),
            mirror: MirrorId::parse("m1").unwrap(),
            url: TargetUrl::parse("https://mirror.example/").unwrap(),
            action,
            previous: None,
            effect: zerkalo_core::market::Effect::Act,
            replacement: None,
            carries_out: None,
            possible_at: UnixMillis(1),
            reasons: vec![],
            texts: Default::default(),
            cause: None,
            advice: None,
            carriers: vec![],
            evidence: vec![],
            rules_version: String::new(),
            policy_version: String::new(),
            journal_position: 1,
            input_sha256: Default::default(),
        }
    }

    fn alert(number: u64, kind: AlertKind) -> Alert {
        Alert {
            evidence: Vec::new(),
            id: format!("kz-alert-{number:06}"),
            number,
            at: UnixMillis(1),
            market: MarketId::parse("kz").unwrap(),
            kind,
            mirror: None,
            carriers: vec![],
            texts: Default::default(),
            journal_position: 1,
        }
    }

    fn routes(executors: &[&str]) -> Vec<Route> {
        let route = |executor: &&str| Route {
            executor: (*executor).to_owned(),
            markets: vec![],
            actions: vec![],
            carries: Carries::Everything,
        };
        executors.iter().map(route).collect()
    }

    #[test]
    fn a_number_taken_before_stops_no_decision_and_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let routes = routes(&["webhook"]);
        let log = |action, send| {
            state.log(&[(Notice::Decision(Box::new(decision(1, action))), send)], &routes).unwrap()[0]
        };
        let waiting = || state.outbox().unwrap().into_iter().map(|(_, one)| one.id).collect::<Vec<_>>();
        let key = DeliveryKey { topic: Topic::Decision, number: 1, executor: "webhook".to_owned() };
        assert_eq!(log(Action::Keep, Send::Yes), Logged::New);
        assert_eq!(log(Action::Keep, Send::Yes), Logged::Same);
        assert_eq!(waiting(), ["kz-000001"]);
        // Nobody was told of it yet, so the one in its place is news.
        assert_eq!(log(Action::Pause, Send::IfNews), Logged::Replaced);
        assert_eq!(waiting(), ["kz-000001-2"]);
        state.note_done(&key).unwrap();
        assert_eq!(log(Action::Keep, Send::Yes), Logged::Replaced);
        assert_eq!(waiting(), ["kz-000001-3"]);
        assert_eq!(log(Action::Pause, Send::IfNews), Logged::Replaced);
        assert_eq!(waiting(), [""; 0], "told before");
        assert_eq!(
            state.decision("kz-000001").unwrap().unwrap(),
            decision(1, Action::Pause).to_json().as_bytes()
        );
        let known = || state.known(Topic::Decision, 1).unwrap().before.len();
        assert_eq!(known(), 3);
        assert_eq!(state.cut_log(Topic::Decision, 0).unwrap(), 1);
        let last = state.last_line(Topic::Decision).unwrap();
        assert_eq!((last, state.decision("kz-000001").unwrap()), (0, None));
        assert_eq!(known(), 4);
    }

    #[test]
    fn alerts_are_logged_beside_decisions_and_each_executor_is_given_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let told = Notice::Alert(Box::new(alert(1, AlertKind::PoolLow)));
        let decided = Notice::Decision(Box::new(decision(1, Action::Keep)));
        let both = [(told.clone(), Send::Yes), (decided, Send::Yes)];
        assert_eq!(state.log(&both, &routes(&["webhook", "pager"])).unwrap(), [Logged::New, Logged::New]);
        let waiting = || {
            let waiting = state.outbox().unwrap().into_iter();
            waiting.map(|(key, one)| format!("{}/{}", key.executor, one.id)).collect::<Vec<_>>()
        };
        assert_eq!(
            waiting(),
            ["webhook/kz-000001", "pager/kz-000001", "webhook/kz-alert-000001", "pager/kz-alert-000001"]
        );
        // One was told, the other was not, when the journal came to say something else.
        let key = DeliveryKey { topic: Topic::Alert, number: 1, executor: "pager".to_owned() };
        state.note_done(&key).unwrap();
        let other = Alert { journal_position: 2, ..alert(1, AlertKind::PoolLow) };
        let other = [(Notice::Alert(Box::new(other)), Send::IfNews)];
        assert_eq!(state.log(&other, &routes(&["webhook", "pager"])).unwrap(), [Logged::Replaced]);
        assert_eq!(waiting(), ["webhook/kz-000001", "pager/kz-000001", "webhook/kz-alert-000001-2"]);
        assert_eq!(state.cut_log(Topic::Alert, 0).unwrap(), 1);
        assert_eq!(waiting(), ["webhook/kz-000001", "pager/kz-000001"]);
    }
}
