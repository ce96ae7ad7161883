//! What systemd hears of the collector: that it serves, that its writer still answers, that it stops. Where no service
//! manager asked for any of it, nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::engine::Engine;

/// Says that the writer lives, twice in the time the service manager allows, for as long as it does.
pub async fn watch(engine: Engine) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut turn = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        if engine.ping().await.is_err() {
            return;
        }
        say(NotifyState::Watchdog);
    }
}

/// It serves.
pub fn ready() {
    say(NotifyState::Ready);
}

/// It is about to end.
pub fn stopping() {
    say(NotifyState::Stopping);
}

fn say(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
