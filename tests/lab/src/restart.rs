//! A collector killed and served again under many agents: how soon each delivers again, and whether anything acknowledged is
//! missing. Agents live in this process; they come back as the real ones do, spread and with doubling waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use zerkalo_core::evidence::SignedRecord;
use zerkalo_core::words::AgentId;

use crate::fleet::{Collector, now};
use crate::load::{enrol, percentile_millis};
use crate::sample::{body, one_mirror};
use crate::signer::{Reply, Signer, Uplink};
use crate::stored;

/// As the agent waits: spread before the first try, then about this and twice as much each time, up to a minute.
const SPREAD_MAX: Duration = Duration::from_millis(500);
/// See [`SPREAD_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// See [`SPREAD_MAX`].
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Between two records of one agent.
const PACE: Duration = Duration::from_secs(1);
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
    pub records: usize,
    pub lost: usize,
    pub double: u64,
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
}

/// Starts a collector, kills it under `agents` agents, serves it again and reports.
pub async fn run(agents: usize) -> Result<RestartReport> {
    let mut collector = Collector::start(None).await?;
    collector.operator().put_list(&one_mirror(now())?).await?;
    let (plot, plot_seen) = watch::channel(Plot::default());
    let seen = Arc::new(Seen::default());
    let mut streams = JoinSet::new();
    for number in 0..agents {
        let signer = enrol(collector.operator(), number).await?;
        streams.spawn(stream(signer, number, plot_seen.clone(), seen.clone()));
    }
    let limit = tokio::time::Instant::now() + RUN_MAX;
    let mut served = seen.served.subscribe();
    tokio::time::timeout_at(limit, served.wait_for(|served| *served == agents))
        .await
        .context("not every agent was served before the kill")??;
    let killed = Instant::now();
    collector.kill().await?;
    plot.send_modify(|plot| plot.killed = Some(killed));
    collector.serve_again().await?;
    let served_again_millis = killed.elapsed().as_secs_f64() * 1_000.0;
    let mut back = seen.back.subscribe();
    let waits = tokio::time::timeout_at(limit, back.wait_for(|back| back.len() == agents)).await;
    let mut waits = waits.context("not every agent came back")??.clone();
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
        records: stored.records.len(),
        lost: lost.sum(),
        double: stored.double,
    })
}

/// One agent: a record a second, over whatever stream there is. Gives its name and its last acknowledged record.
async fn stream(
    mut signer: Signer,
    number: usize,
    mut plot: watch::Receiver<Plot>,
    seen: Arc<Seen>,
) -> (AgentId, u64) {
    let (mut spool, mut acked): (Vec<SignedRecord>, u64) = (Vec::new(), 0);
    let (mut wait, mut is_served, mut is_back) = (RETRY_FIRST, false, false);
    // A spread that differs from agent to agent, and from try to try.
    let mut dice = number as u64;
    let mut fraction = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as f64 / f64::from(1_u32 << 31)
    };
    while !plot.borrow().is_over {
        let Ok(mut uplink) = signer.connect().await else {
            let pause = wait.mul_f64(0.5 + fraction());
            wait = (wait * 2).min(RETRY_MAX);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = plot.wait_for(|plot| plot.is_over) => {}
            }
            continue;
        };
        wait = RETRY_FIRST;
        // What the collector has not.
        let waiting: Vec<_> =
            spool.iter().filter(|record| record.sequence > uplink.head.sequence).cloned().collect();
        if !waiting.is_empty() && uplink.records.send(&waiting).await.is_err() {
            continue;
        }
        loop {
            let record = signer.sign(body(now()));
            spool.push(record.clone());
            let Some(sequence) = deliver(&mut uplink, record).await else { break };
            acked = acked.max(sequence);
            if !is_served {
                is_served = true;
                seen.served.send_modify(|served| *served += 1);
            }
            let Plot { killed, is_over } = *plot.borrow();
            if let Some(killed) = killed.filter(|_| !is_back) {
                is_back = true;
                seen.back.send_modify(|back| back.push(killed.elapsed()));
            }
            if is_over {
                break;
            }
            tokio::time::sleep(PACE).await;
        }
        tokio::time::sleep(SPREAD_MAX.mul_f64(fraction())).await;
    }
    (signer.agent().clone(), acked)
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
