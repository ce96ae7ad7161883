//! A collector killed and served again under many agents: how soon each delivers again, and whether anything acknowledged is
//! missing. Agents live in this process; they come back as the real ones do, spread and with doubling waits. They share the
//! machine with their collector: what each side took of it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use zerkalo_core::evidence::SignedRecord;
use zerkalo_core::words::AgentId;

use crate::crowd;
use crate::fleet::now;
use crate::internet::PLACES;
use crate::load::{Machine, machine, percentile_millis};
use crate::sample::body_about;
use crate::signer::{Reply, Signer, Uplink};
use crate::stored;
use crate::usage;

/// As the agent waits: spread before the first try, then about this and twice as much each time, up to a minute.
const SPREAD_MAX: Duration = Duration::from_millis(500);
/// See [`SPREAD_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// See [`SPREAD_MAX`].
const RETRY_MAX: Duration = Duration::from_secs(60);
/// As the agent: longest wait for a connection at first, and once it failed.
const PATIENCE_FIRST: Duration = Duration::from_secs(5);
/// See [`PATIENCE_FIRST`].
const PATIENCE_LATER: Duration = Duration::from_secs(15);
/// Between two records of one agent, at least.
const PACE_MIN: Duration = Duration::from_secs(1);
/// Records a second of all agents together, about: it is their coming back that is measured.
const RECORDS_PER_SEC_MAX: f64 = 500.0;
/// As the agent: silence for so long is a frozen line.
const FROZEN_AFTER: Duration = Duration::from_secs(10);
/// Longest run.
const RUN_MAX: Duration = Duration::from_secs(600);

/// What came of a restart.
#[derive(Debug, Clone, Serialize)]
pub struct RestartReport {
    pub agents: usize,
    /// From the kill to the collector's first answer.
    pub served_again_millis: f64,
    /// From the kill to an agent's first acknowledgement after it.
    pub back_p50_millis: f64,
    pub back_p95_millis: f64,
    pub back_max_millis: f64,
    /// Processor time from the kill until all were back: the collector's, its start included, and all agents'.
    pub collector_cpu_secs: f64,
    pub agents_cpu_secs: f64,
    /// Connections tried until all were back.
    pub tries: u64,
    pub records: usize,
    pub lost: usize,
    pub double: u64,
    pub machine: Machine,
}

/// When the collector was killed; `None` before, and whether all may stop.
#[derive(Debug, Clone, Copy, Default)]
struct Plot {
    killed: Option<Instant>,
    is_over: bool,
}

/// Each agent's progress, shared.
#[derive(Debug, Default)]
struct Seen {
    /// Agents with an acknowledgement before the kill.
    served: watch::Sender<usize>,
    /// Waits from the kill to the first acknowledgement after it.
    back: watch::Sender<Vec<Duration>>,
    /// Connections tried since the kill.
    tries: AtomicU64,
}

/// Starts a collector, kills it under `agents` agents, serves it again and reports.
pub async fn run(agents: usize) -> Result<RestartReport> {
    usage::allow_connections(agents)?;
    let (mut collector, signers) = crowd::enrolled(agents).await?;
    let (plot, plot_seen) = watch::channel(Plot::default());
    let seen = Arc::new(Seen::default());
    let mut streams = JoinSet::new();
    let pace = PACE_MIN.max(Duration::from_secs_f64(agents as f64 / RECORDS_PER_SEC_MAX));
    // Before the kill they come a few at a time.
    let turns = Arc::new(Semaphore::new(crowd::CONNECTING_AT_ONCE));
    for (number, signer) in signers.into_iter().enumerate() {
        let dice = Dice::new(number);
        let mirror = 1 + number / PLACES.len() % crowd::MIRRORS;
        streams.spawn(stream((signer, mirror), pace, dice, turns.clone(), plot_seen.clone(), seen.clone()));
    }
    let limit = tokio::time::Instant::now() + RUN_MAX;
    let mut served = seen.served.subscribe();
    tokio::time::timeout_at(limit, served.wait_for(|served| *served == agents))
        .await
        .context("not every agent was served before the kill")??;
    let (killed, own_before) = (Instant::now(), usage::own()?);
    collector.kill().await?;
    plot.send_modify(|plot| plot.killed = Some(killed));
    collector.serve_again().await?;
    let served_again_millis = killed.elapsed().as_secs_f64() * 1_000.0;
    let mut back = seen.back.subscribe();
    let waits = tokio::time::timeout_at(limit, back.wait_for(|back| back.len() == agents)).await;
    let mut waits = waits.context("not every agent came back")??.clone();
    let (own, tries) = (usage::own()?, seen.tries.load(Ordering::Relaxed));
    let collector_cpu = usage::of(collector.pid().context("the collector has ended")?)?.cpu;
    plot.send_modify(|plot| plot.is_over = true);
    let mut acknowledged = BTreeMap::new();
    while let Some(ended) = streams.join_next().await {
        let (agent, acked) = ended?;
        acknowledged.insert(agent, acked);
    }
    collector.kill().await?;
    let stored = stored::read(&collector.dir().join("journal"))?;
    let is_missing = |agent: &AgentId, sequence: u64| !stored.records.contains(&(agent.clone(), 1, sequence));
    let lost = acknowledged
        .iter()
        .map(|(agent, acked)| (1..=*acked).filter(|sequence| is_missing(agent, *sequence)).count());
    waits.sort_unstable();
    ensure!(waits.len() == agents, "an agent came back twice");
    Ok(RestartReport {
        agents,
        served_again_millis,
        back_p50_millis: percentile_millis(&waits, 50),
        back_p95_millis: percentile_millis(&waits, 95),
        back_max_millis: percentile_millis(&waits, 100),
        collector_cpu_secs: collector_cpu.as_secs_f64(),
        agents_cpu_secs: (own.cpu - own_before.cpu).as_secs_f64(),
        tries,
        records: stored.records.len(),
        lost: lost.sum(),
        double: stored.double,
        machine: machine(),
    })
}

/// A spread that differs from agent to agent, and from try to try.
struct Dice(u64);

impl Dice {
    fn new(number: usize) -> Self {
        Self(number as u64)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1_u32 << 31)
    }
}

/// One agent: a record now and then, over whatever stream there is. Gives its name and its last acknowledged record.
async fn stream(
    (mut signer, mirror): (Signer, usize),
    pace: Duration,
    mut dice: Dice,
    turns: Arc<Semaphore>,
    mut plot: watch::Receiver<Plot>,
    seen: Arc<Seen>,
) -> (AgentId, u64) {
    let (mut spool, mut acked): (Vec<SignedRecord>, u64) = (Vec::new(), 0);
    let (mut wait, mut patience, mut is_served, mut is_back) = (RETRY_FIRST, PATIENCE_FIRST, false, false);
    let mut turn = turns.acquire_owned().await.ok();
    while !plot.borrow().is_over {
        if plot.borrow().killed.is_some() && !is_back {
            seen.tries.fetch_add(1, Ordering::Relaxed);
        }
        let Ok(mut uplink) = signer.connect_within(patience).await else {
            let pause = wait.mul_f64(0.5 + dice.fraction());
            (wait, patience) = ((wait * 2).min(RETRY_MAX), PATIENCE_LATER);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = plot.wait_for(|plot| plot.is_over) => {}
            }
            continue;
        };
        patience = PATIENCE_FIRST;
        wait = RETRY_FIRST;
        // What the collector has not.
        let waiting: Vec<_> =
            spool.iter().filter(|record| record.sequence > uplink.head.sequence).cloned().collect();
        if !waiting.is_empty() && uplink.records.send(&waiting).await.is_err() {
            continue;
        }
        loop {
            let record = signer.sign(body_about(mirror, now()));
            spool.push(record.clone());
            let Some(sequence) = deliver(&mut uplink, record).await else { break };
            acked = acked.max(sequence);
            if !is_served {
                is_served = true;
                seen.served.send_modify(|served| *served += 1);
                turn = None;
            }
            let Plot { killed, is_over } = *plot.borrow();
            if let Some(killed) = killed.filter(|_| !is_back) {
                is_back = true;
                seen.back.send_modify(|back| back.push(killed.elapsed()));
            }
            if is_over {
                break;
            }
            if idle(&mut uplink, pace, &mut plot).await.is_none() {
                break;
            }
        }
        tokio::time::sleep(SPREAD_MAX.mul_f64(dice.fraction())).await;
    }
    drop(turn);
    (signer.agent().clone(), acked)
}

/// Waits for the next record's time, or for the end; `None` where the line dies meanwhile, which an agent sees at once.
async fn idle(uplink: &mut Uplink, pace: Duration, plot: &mut watch::Receiver<Plot>) -> Option<()> {
    tokio::select! {
        () = tokio::time::sleep(pace) => Some(()),
        _ = plot.wait_for(|plot| plot.is_over) => Some(()),
        said = uplink.replies.next() => said.ok().map(drop),
    }
}

/// Sends a record and waits for its ack; `None` where the line is dead.
async fn deliver(uplink: &mut Uplink, record: SignedRecord) -> Option<u64> {
    let wanted = record.sequence;
    uplink.records.send(&[record]).await.ok()?;
    loop {
        match tokio::time::timeout(FROZEN_AFTER, uplink.replies.next()).await.ok()?.ok()? {
            Reply::Ack { sequence, .. } if sequence >= wanted => return Some(sequence),
            Reply::Ack { .. } => {}
            Reply::Rejected { .. } => return None,
        }
    }
}
