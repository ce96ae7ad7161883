//! The whole road on a clock: from the first packet a censor drops to the webhook at the operator's, again and again, as
//! a distribution, with where the time went. Real programs, real sockets; nothing here is a test.

pub mod journal;
pub mod parts;
pub mod round;
pub mod distribution;

use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zerkalo_core::market::Action;

use crate::fleet::Tempo;
use crate::interference::Interference;
use distribution::Distribution;
use parts::{PARTS, Parts};

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct LatencyPlan {
    pub rounds: u32,
    /// Fleets at work at once, each alone with its collector; they mostly wait.
    pub at_once: usize,
    pub tempo: Tempo,
    pub trick: Interference,
    /// The decision waited for: `prepare`, or a first word before it, where the carrier that leads blocks alone; else all of
    /// the market's do.
    pub awaited: Action,
}

/// All rounds.
#[derive(Debug, Clone, Serialize)]
pub struct LatencyReport {
    pub awaited: &'static str,
    pub censor: String,
    pub interval_secs: u64,
    pub timeout_secs: u64,
    /// In the order in which they ended.
    pub rounds: Vec<Parts>,
    /// Of the whole.
    pub total: Distribution,
    pub parts: Vec<PartReport>,
}

/// One part of the road, over all rounds.
#[derive(Debug, Clone, Serialize)]
pub struct PartReport {
    pub part: &'static str,
    #[serde(flatten)]
    pub secs: Distribution,
}

/// Plays all rounds; `tell` hears each as it ends.
pub async fn run(plan: LatencyPlan, tell: impl Fn(&Parts)) -> Result<LatencyReport> {
    let turns = Arc::new(Semaphore::new(plan.at_once.max(1)));
    let mut playing = JoinSet::new();
    for number in 0..plan.rounds {
        let turns = Arc::clone(&turns);
        playing.spawn(async move {
            let _turn = turns.acquire().await?;
            round::play(&plan, number).await.with_context(|| format!("round {}", number + 1))
        });
    }
    let mut rounds = Vec::new();
    while let Some(played) = playing.join_next().await {
        let parts = played??;
        tell(&parts);
        rounds.push(parts);
    }
    Ok(LatencyReport::of(&plan, rounds))
}

impl LatencyReport {
    fn of(plan: &LatencyPlan, rounds: Vec<Parts>) -> Self {
        let part = |(index, part): (usize, &&'static str)| PartReport {
            part,
            secs: Distribution::of(rounds.iter().map(|round| round.secs()[index])),
        };
        let parts = PARTS.iter().enumerate().map(part).collect();
        Self {
            awaited: plan.awaited.as_str(),
            censor: plan.trick.to_string(),
            interval_secs: plan.tempo.interval_secs,
            timeout_secs: plan.tempo.timeout_secs,
            total: Distribution::of(rounds.iter().map(Parts::total_secs)),
            parts,
            rounds,
        }
    }
}
