//! The uplink under attack: the real agent in a subscriber's network, the real collector abroad, a relay at home, and a
//! censor between them who begins in mid-life. How long until records arrive again, and whether one was lost.

mod log;
mod report;
mod scenarios;
mod trial;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::certificates::Certificates;
use super::namespace;
use super::topology::Topology;

pub use report::{Row, rows, table};
pub use scenarios::{ALL, Scenario};
pub use trial::Outcome;

/// Plays each scenario that `is_wanted` names `runs` times over `topologies` at once; `tell` hears each outcome as it comes.
pub async fn play(
    topologies: usize,
    runs: u32,
    is_wanted: impl Fn(&str) -> bool,
    tell: impl Fn(&Outcome) + Send + Sync + 'static,
) -> Result<Vec<Outcome>> {
    namespace::sweep()?;
    let certificates = Certificates::generate()?;
    let wanted: Vec<&Scenario> = ALL.iter().filter(|scenario| is_wanted(scenario.name)).collect();
    let jobs: VecDeque<&'static Scenario> = (0..runs).flat_map(|_| wanted.clone()).collect();
    let count = topologies.clamp(1, jobs.len().max(1));
    let (jobs, tell) = (Arc::new(Mutex::new(jobs)), Arc::new(tell));
    let mut workers = JoinSet::new();
    for number in 0..count {
        let (jobs, certificates, tell) = (jobs.clone(), certificates.clone(), tell.clone());
        workers.spawn(async move {
            let topology = Topology::build(number, &certificates).await?;
            let mut outcomes = Vec::new();
            while let Some(scenario) = take(&jobs) {
                let outcome = trial::play(&topology, scenario)
                    .await
                    .with_context(|| format!("scenario {}", scenario.name))?;
                tell(&outcome);
                outcomes.push(outcome);
            }
            anyhow::Ok(outcomes)
        });
    }
    let mut outcomes = Vec::new();
    while let Some(done) = workers.join_next().await {
        outcomes.extend(done??);
    }
    Ok(outcomes)
}

fn take(jobs: &Mutex<VecDeque<&'static Scenario>>) -> Option<&'static Scenario> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}
