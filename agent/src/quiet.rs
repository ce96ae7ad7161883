//! Who may speak when: while a probe runs the uplink keeps off QUIC and large uploads, so that what a censor does to the one
//! is not taken for what it does to the other. A probe that is to begin lets an uplink that waited have its turn first.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a probe that is to begin waits for an uplink that wants its turn: most probes under way end within it, and so
/// does a handshake on a bad line.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Probes and uplink of one agent, side by side.
#[derive(Debug, Clone)]
pub struct Quiet(watch::Sender<State>);

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Probes under way.
    probes: usize,
    /// Whether the uplink waits for a turn, or has it.
    is_turn_asked: bool,
    /// When the last probe ended.
    quiet_since: Option<Instant>,
}

impl Default for Quiet {
    fn default() -> Self {
        Self(watch::Sender::new(State::default()))
    }
}

/// A probe under way; ends when dropped.
#[derive(Debug)]
pub struct Probing(Quiet);

/// The uplink's turn; ends when dropped.
#[derive(Debug)]
pub struct Turn(Quiet);

impl Quiet {
    /// Begins a probe, once the uplink has had the turn it asked for; an overlong one is not waited out.
    pub async fn begin_probe(&self) -> Probing {
        let mut state = self.0.subscribe();
        let free = state.wait_for(|state| !state.is_turn_asked);
        // Neither a sender gone, which cannot be, nor an overlong turn keeps a box from measuring.
        let _ = tokio::time::timeout(TURN_WAIT_MAX, free).await;
        self.0.send_modify(|state| state.probes += 1);
        Probing(self.clone())
    }

    /// Whether no probe runs.
    pub fn is_quiet(&self) -> bool {
        self.0.borrow().probes == 0
    }

    /// Speaks where no probe runs, and lets none begin before that is done: `speak` must be quick. `None` where one runs.
    pub fn if_quiet<T>(&self, speak: impl FnOnce() -> T) -> Option<T> {
        let state = self.0.borrow();
        (state.probes == 0).then(speak)
    }

    /// Ends once no probe runs.
    pub async fn quiet(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|state| state.probes == 0).await;
    }

    /// Since when no probe runs; `None` while one does, or where none ever did.
    pub fn quiet_since(&self) -> Option<Instant> {
        let state = *self.0.borrow();
        state.quiet_since.filter(|_| state.probes == 0)
    }

    /// The uplink's turn, once no probe runs.
    pub async fn turn(&self) -> Turn {
        self.0.send_modify(|state| state.is_turn_asked = true);
        let turn = Turn(self.clone());
        self.quiet().await;
        turn
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| {
            state.probes -= 1;
            state.quiet_since = (state.probes == 0).then(Instant::now);
        });
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| state.is_turn_asked = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn uplink_and_probes_take_turns() {
        let quiet = Quiet::default();
        let first = quiet.begin_probe().await;
        assert!(!quiet.is_quiet() && quiet.quiet_since().is_none());
        let asking = quiet.turn();
        tokio::pin!(asking);
        assert!(futures::poll!(&mut asking).is_pending());
        // Asked for before: the next probe waits, though the turn has not come.
        let next = quiet.begin_probe();
        tokio::pin!(next);
        assert!(futures::poll!(&mut next).is_pending());
        drop(first);
        let turn = asking.await;
        assert!(quiet.is_quiet() && quiet.quiet_since().is_some());
        assert!(futures::poll!(&mut next).is_pending());
        drop(turn);
        let next = next.await;
        let beside = quiet.begin_probe().await;
        drop(next);
        assert!(!quiet.is_quiet() && quiet.if_quiet(|| ()).is_none());
        drop(beside);
        assert_eq!(quiet.if_quiet(|| 7), Some(7));
        quiet.quiet().await;
    }
}
