//! What a connected agent that says nothing costs its collector: memory, and time for the signs of life.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::crowd;
use crate::load::{Machine, machine};
use crate::usage;

/// How long the collector gets to put away what connecting took.
const SETTLE: Duration = Duration::from_secs(2);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct IdleReport {
    pub agents: usize,
    /// As the collector counts them, at the end.
    pub connected: usize,
    pub enrol_secs: f64,
    pub connect_secs: f64,
    /// Of both ends, for all handshakes.
    pub collector_connect_cpu_secs: f64,
    pub agents_connect_cpu_secs: f64,
    /// The collector's memory with everybody enrolled and nobody connected.
    pub rss_before_kib: u64,
    pub rss_after_kib: u64,
    pub rss_kib_each: f64,
    /// The collector's time for each agent and second: both sides ask whether the other lives.
    pub cpu_micros_each: f64,
    pub idle_secs: f64,
    pub machine: Machine,
}

/// Enrols and connects `agents`, and looks at the collector while they are idle for so long.
pub async fn run(agents: usize, idle: Duration) -> Result<IdleReport> {
    usage::allow_connections(agents)?;
    let began = Instant::now();
    let (collector, signers) = crowd::enrolled(agents).await?;
    let enrol_secs = began.elapsed().as_secs_f64();
    let pid = collector.pid().context("the collector has ended")?;
    let (before, own_before) = (usage::of(pid)?, usage::own()?);
    let began = Instant::now();
    let lines = crowd::connected(signers).await?;
    let connect_secs = began.elapsed().as_secs_f64();
    let (connecting, own_connecting) = (usage::of(pid)?, usage::own()?);
    tokio::time::sleep(SETTLE).await;
    let (quiet, began) = (usage::of(pid)?, Instant::now());
    tokio::time::sleep(idle).await;
    let (after, idle_secs) = (usage::of(pid)?, began.elapsed().as_secs_f64());
    let connected = collector.operator().agents().await?.iter().filter(|agent| agent.connected).count();
    drop(lines);
    let each = 1.0 / agents.max(1) as f64;
    Ok(IdleReport {
        agents,
        connected,
        enrol_secs,
        connect_secs,
        collector_connect_cpu_secs: (connecting.cpu - before.cpu).as_secs_f64(),
        agents_connect_cpu_secs: (own_connecting.cpu - own_before.cpu).as_secs_f64(),
        rss_before_kib: before.rss_kib,
        rss_after_kib: after.rss_kib,
        rss_kib_each: after.rss_kib.saturating_sub(before.rss_kib) as f64 * each,
        cpu_micros_each: (after.cpu - quiet.cpu).as_secs_f64() * 1e6 * each / idle_secs,
        idle_secs,
        machine: machine(),
    })
}
