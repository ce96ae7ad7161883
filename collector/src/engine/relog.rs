//! At the start: makes the logs of decisions and alerts what the journal says, and finds what was never carried out.

use zerkalo_core::fold::Outcome;

use crate::clock;
use crate::executor::{Notice, Route};
use crate::state::{Logged, Send, State, StateError, Topic};

/// A notice found missing from its log at the start is carried out only if it is younger: older news does harm.
const SEND_AGE_MAX_SECS: u64 = 24 * 3_600;
/// Notices logged in one commit.
const CHUNK: usize = 256;

/// Fills gaps of the logs, moves aside what does not follow from the journal.
pub struct Relog<'a> {
    state: &'a State,
    routes: &'a [Route],
    held: Vec<(Notice, Send)>,
    /// Numbers of the journal's last decision and alert.
    last_decision: u64,
    last_alert: u64,
    replaced: u64,
    failure: Option<StateError>,
}

impl<'a> Relog<'a> {
    /// Before the first entry.
    pub fn new(state: &'a State, routes: &'a [Route]) -> Self {
        let (held, failure) = (Vec::new(), None);
        Self { state, routes, held, last_decision: 0, last_alert: 0, replaced: 0, failure }
    }

    /// Takes what an entry made possible.
    pub fn hear(&mut self, outcome: Outcome) {
        for notice in notices(outcome) {
            let send_after = clock::now().minus_millis(SEND_AGE_MAX_SECS * 1000);
            let send = if notice.at() >= send_after { Send::IfNews } else { Send::No };
            match Topic::of(&notice) {
                Topic::Decision => self.last_decision = notice.number(),
                Topic::Alert => self.last_alert = notice.number(),
            }
            self.held.push((notice, send));
        }
        if self.held.len() >= CHUNK {
            self.flush();
        }
    }

    /// After the last entry.
    pub fn finish(mut self) -> Result<(), StateError> {
        self.flush();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let surplus = self.state.cut_log(Topic::Decision, self.last_decision)?
            + self.state.cut_log(Topic::Alert, self.last_alert)?;
        if self.replaced + surplus > 0 {
            tracing::warn!(
                decisions = self.replaced + surplus,
                other = self.replaced,
                beyond = surplus,
                "decisions or alerts of the log do not follow from the journal (segments were moved away, or this \
                 version's rules are others); they are superseded: kept in the state, listed no more"
            );
        }
        Ok(())
    }

    fn flush(&mut self) {
        match self.state.log(&self.held, self.routes) {
            Ok(outcomes) => {
                self.replaced +=
                    outcomes.iter().filter(|outcome| **outcome == Logged::Replaced).count() as u64;
            }
            Err(error) => self.failure = self.failure.take().or(Some(error)),
        }
        self.held.clear();
    }
}

/// What there is to tell of an outcome, decisions first.
pub fn notices(outcome: Outcome) -> impl Iterator<Item = Notice> {
    let decisions = outcome.decisions.into_iter().map(|decision| Notice::Decision(Box::new(decision)));
    decisions.chain(outcome.alerts.into_iter().map(|alert| Notice::Alert(Box::new(alert))))
}
