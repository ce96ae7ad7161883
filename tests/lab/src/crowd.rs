//! Agents by the thousand: enrolled by the collector's own enrolment, side by side, and connected a few at a time.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fleet::{Collector, now};
use crate::load::enrol;
use crate::sample::mirrors;
use crate::signer::{Signer, Uplink};

/// Mirrors that a crowd shares out: what the collector works out anew with a record grows with the owners in its cell.
pub const MIRRORS: usize = 100;
/// Enrolments at once.
const ENROLMENTS_AT_ONCE: usize = 64;
/// Connections coming about at once, where a storm is not what is measured.
pub const CONNECTING_AT_ONCE: usize = 128;

/// A collector with a list of [`MIRRORS`] in force and so many agents enrolled: in memory, for each enrolment is synced, and
/// served from the disk from then on.
pub async fn enrolled(agents: usize) -> Result<(Collector, Vec<Signer>)> {
    let collector = Collector::start_in_memory().await?;
    collector.operator().put_list(&mirrors(MIRRORS, now())?).await?;
    let turns = Arc::new(Semaphore::new(ENROLMENTS_AT_ONCE));
    let mut enrolling = JoinSet::new();
    for number in 0..agents {
        let (operator, turns) = (collector.operator().clone(), turns.clone());
        enrolling.spawn(async move {
            let _turn = turns.acquire().await?;
            enrol(&operator, number).await
        });
    }
    let mut signers = Vec::with_capacity(agents);
    while let Some(enrolled) = enrolling.join_next().await {
        signers.push(enrolled?.context("an agent was not enrolled")?);
    }
    Ok((collector.settle().await?, signers))
}

/// Connects them all; gives their lines.
pub async fn connected(signers: Vec<Signer>) -> Result<Vec<(Signer, Uplink)>> {
    let turns = Arc::new(Semaphore::new(CONNECTING_AT_ONCE));
    let mut connecting = JoinSet::new();
    let count = signers.len();
    for signer in signers {
        let turns = turns.clone();
        connecting.spawn(async move {
            let _turn = turns.acquire().await?;
            let uplink = signer.connect().await?;
            anyhow::Ok((signer, uplink))
        });
    }
    let mut lines = Vec::with_capacity(count);
    while let Some(line) = connecting.join_next().await {
        lines.push(line?.context("an agent did not get in")?);
    }
    Ok(lines)
}
