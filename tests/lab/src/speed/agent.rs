//! Memory and CPU of one enrolled agent that does its whole work: probes, signs, spools, streams to a collector.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::usage::{cpu_of, rss_bytes};
use crate::fleet::{Browser, Fleet, Host, Tempo};
use crate::internet::{Internet, PLACES};

/// How long the agent warms up, and how long it is watched: some turns of its list.
const WARM_UP: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(20);
/// Between looks at its memory.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What one agent used.
#[derive(Debug, Clone, Serialize)]
pub struct AgentCost {
    /// Smallest resident memory seen after the warm-up: between probes.
    pub idle_rss_bytes: u64,
    /// Largest resident memory seen: in the midst of them.
    pub busy_rss_bytes: u64,
    pub probes: u64,
    pub probes_per_cpu_sec: f64,
}

/// Watches an agent in a healthy carrier's network, with two mirrors and its references.
pub async fn measure(program: &Path) -> Result<AgentCost> {
    let internet = Internet::start().await?;
    let host = Host { owner: "watched".to_owned(), place: Some(PLACES[0]), browser: Browser::Absent };
    let mut fleet = Fleet::start_with(program, Tempo::HURRIED, &internet, None, &[host]).await?;
    tokio::time::sleep(WARM_UP).await;
    let pid = fleet.agents_mut()[0].pid().context("the agent has ended")?;
    let (records_before, cpu_before, began) = (records(&fleet).await?, cpu_of(pid)?, Instant::now());
    let (mut idle, mut busy) = (u64::MAX, 0);
    while began.elapsed() < WATCHED {
        let rss = rss_bytes(pid)?;
        (idle, busy) = (idle.min(rss), busy.max(rss));
        tokio::time::sleep(LOOK_EVERY).await;
    }
    fleet.require_running()?;
    let (probes, cpu) = (records(&fleet).await? - records_before, cpu_of(pid)? - cpu_before);
    if probes == 0 || cpu.is_zero() {
        bail!("the agent did nothing in {} s", WATCHED.as_secs());
    }
    let probes_per_cpu_sec = probes as f64 / cpu.as_secs_f64();
    Ok(AgentCost { idle_rss_bytes: idle, busy_rss_bytes: busy, probes, probes_per_cpu_sec })
}

/// Records of all agents that the collector holds.
async fn records(fleet: &Fleet) -> Result<u64> {
    let agents = fleet.collector().operator().agents().await?;
    Ok(agents.iter().map(|agent| agent.records).sum())
}
