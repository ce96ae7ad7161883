//! The word that the collector is stopping, as every part hears it.

use tokio::sync::watch;

/// Says it.
#[derive(Debug)]
pub struct StopSender(watch::Sender<bool>);

/// Hears it; clones hear the same.
#[derive(Debug, Clone)]
pub struct StopSignal(watch::Receiver<bool>);

/// A pair.
pub fn channel() -> (StopSender, StopSignal) {
    let (sender, receiver) = watch::channel(false);
    (StopSender(sender), StopSignal(receiver))
}

impl StopSender {
    /// Says it to all.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl StopSignal {
    /// Waits for the word; returns too when nobody is left to say it.
    pub async fn stopped(&self) {
        let mut receiver = self.0.clone();
        let _ = receiver.wait_for(|stop| *stop).await;
    }
}
