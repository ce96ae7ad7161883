//! The log of decisions follows the fold: what the journal no longer says is moved aside, never lost.
//!
//! The journal can fall behind the log (segments moved away) or say other things (another version's rules). Numbers are
//! the fold's; a decision that stood under one before is kept in a table of its own, which nothing lists.

use serde::{Deserialize, Serialize};
use zerkalo_core::market::{Action, Decision};
use zerkalo_durable::store::{Batch, Table};

use super::{DECISION_IDS, DECISIONS, Delivery, OUTBOX, State, StateError, json};

/// Number of the decision and which of that number it was (u64 each, big-endian) to its [`Superseded`].
const SUPERSEDED: Table = Table("decision-superseded");
/// Decisions moved aside in one commit.
const CUT_CHUNK: usize = 256;

/// What became of writing a decision to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    New,
    /// The same bytes stand there.
    Same,
    /// Other bytes stood there; they were moved aside.
    Replaced,
}

/// Whether new decisions are to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Send {
    Yes,
    /// Unless one of the same id and action was told already.
    IfNews,
    No,
}

/// A decision that stood in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Superseded {
    /// The logged bytes.
    json: String,
    /// Whether it was still waiting to be sent: then nobody was told.
    pending: bool,
}

/// What is known of one number of the log.
struct Known {
    current: Option<Superseded>,
    before: Vec<Superseded>,
}

impl State {
    /// Logs decisions in one commit. Where another stands under the number, that one is moved aside.
    pub fn log_decisions(&self, decisions: &[(Decision, Send)]) -> Result<Vec<Logged>, StateError> {
        let mut batch = Batch::default();
        let mut outcomes = Vec::with_capacity(decisions.len());
        for (decision, send) in decisions {
            let known = self.known(decision.number)?;
            let json = decision.to_json();
            let outcome = match &known.current {
                None => Logged::New,
                Some(current) if current.json == json => Logged::Same,
                Some(_) => Logged::Replaced,
            };
            outcomes.push(outcome);
            if outcome == Logged::Same {
                continue;
            }
            known.move_aside(decision.number, &mut batch);
            let key = decision.number.to_be_bytes();
            batch.put(DECISIONS, &key, json.as_bytes());
            batch.put(DECISION_IDS, decision.id.as_bytes(), &key);
            known.send(decision, *send, &mut batch);
        }
        if outcomes.iter().any(|outcome| *outcome != Logged::Same) {
            self.commit(batch)?;
        }
        Ok(outcomes)
    }

    /// Moves everything above `last` aside; gives how many that were.
    pub fn cut_log(&self, last: u64) -> Result<u64, StateError> {
        let start = last.saturating_add(1).to_be_bytes();
        let mut moved = 0;
        loop {
            let keys = self.with(|store| {
                let found = store.scan(DECISIONS, &start).take(CUT_CHUNK);
                found.map(|found| found.map(|(key, _)| key)).collect::<Result<Vec<_>, _>>()
            })?;
            if keys.is_empty() {
                return Ok(moved);
            }
            let mut batch = Batch::default();
            for key in &keys {
                let number = self.number(key)?;
                self.known(number)?.move_aside(number, &mut batch);
                batch.delete(DECISIONS, key);
            }
            self.commit(batch)?;
            moved += keys.len() as u64;
        }
    }

    fn known(&self, number: u64) -> Result<Known, StateError> {
        let key = number.to_be_bytes();
        let (current, pending, before) = self.with(|store| {
            let before = store.scan(SUPERSEDED, &key).take_while(|found| match found {
                Ok((found, _)) => found.starts_with(&key),
                Err(_) => true,
            });
            let before = before.collect::<Result<Vec<_>, _>>()?;
            Ok((store.read(DECISIONS, &key)?, store.read(OUTBOX, &key)?.is_some(), before))
        })?;
        let current = current
            .map(|bytes| String::from_utf8(bytes).map_err(|_| self.malformed("a decision")))
            .transpose()?
            .map(|json| Superseded { json, pending });
        let before = before.iter().map(|(_, value)| self.parse("a superseded decision", value));
        Ok(Known { current, before: before.collect::<Result<_, _>>()? })
    }
}

impl Known {
    fn move_aside(&self, number: u64, batch: &mut Batch) {
        let Some(current) = &self.current else { return };
        let key = number.to_be_bytes();
        let aside = [key, (self.before.len() as u64).to_be_bytes()].concat();
        batch.put(SUPERSEDED, &aside, &json(current));
        batch.delete(OUTBOX, &key);
        if let Some((id, _)) = current.name() {
            batch.delete(DECISION_IDS, id.as_bytes());
        }
    }

    /// Puts a decision into the outbox if it is to be sent. Receivers drop what they have seen by its id, so one that
    /// bears the number of another gets a delivery id of its own.
    fn send(&self, decision: &Decision, send: Send, batch: &mut Batch) {
        let mut stood = self.before.iter().chain(&self.current);
        let name = Some((decision.id.clone(), decision.action));
        let wanted = match send {
            Send::Yes => true,
            Send::No => false,
            Send::IfNews => !stood.any(|one| !one.pending && one.name() == name),
        };
        if !wanted {
            return;
        }
        let id = match self.before.len() + usize::from(self.current.is_some()) {
            0 => decision.id.clone(),
            others => format!("{}-{}", decision.id, others + 1),
        };
        let delivery = Delivery { id, market: decision.market.clone(), attempts: 0 };
        batch.put(OUTBOX, &decision.number.to_be_bytes(), &json(&delivery));
    }
}

impl Superseded {
    /// Id and action, of a decision that this version can read.
    fn name(&self) -> Option<(String, Action)> {
        #[derive(Deserialize)]
        struct Name {
            id: String,
            action: Action,
        }
        serde_json::from_str(&self.json).ok().map(|Name { id, action }| (id, action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerkalo_core::target::TargetUrl;
    use zerkalo_core::words::{MarketId, MirrorId, UnixMillis};

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
            advice: None,
            carriers: vec![],
            evidence: vec![],
            rules_version: String::new(),
            policy_version: String::new(),
            journal_position: 1,
            input_sha256: Default::default(),
        }
    }

    #[test]
    fn a_number_taken_before_stops_no_decision_and_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let log = |action, send| state.log_decisions(&[(decision(1, action), send)]).unwrap()[0];
        let waiting = || state.outbox().unwrap().into_iter().map(|(_, one)| one.id).collect::<Vec<_>>();
        assert_eq!(log(Action::Keep, Send::Yes), Logged::New);
        assert_eq!(log(Action::Keep, Send::Yes), Logged::Same);
        assert_eq!(waiting(), ["kz-000001"]);
        // Nobody was told of it yet, so the one in its place is news.
        assert_eq!(log(Action::Pause, Send::IfNews), Logged::Replaced);
        assert_eq!(waiting(), ["kz-000001-2"]);
        state.note_delivered(1).unwrap();
        assert_eq!(log(Action::Keep, Send::Yes), Logged::Replaced);
        assert_eq!(waiting(), ["kz-000001-3"]);
        assert_eq!(log(Action::Pause, Send::IfNews), Logged::Replaced);
        assert_eq!(waiting(), [""; 0], "told before");
        assert_eq!(
            state.decision("kz-000001").unwrap().unwrap(),
            decision(1, Action::Pause).to_json().as_bytes()
        );
        assert_eq!(state.known(1).unwrap().before.len(), 3);
        assert_eq!(state.cut_log(0).unwrap(), 1);
        assert_eq!((state.last_decision().unwrap(), state.decision("kz-000001").unwrap()), (0, None));
        assert_eq!(state.known(1).unwrap().before.len(), 4);
    }
}
