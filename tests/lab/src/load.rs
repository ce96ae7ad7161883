//! Load on a real collector: in-process agents stream signed records as fast as acknowledgements allow.
//!
//! Measures what was admitted, synced and acknowledged, nothing less. Signing is done before the clock starts.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::task::JoinSet;
use zerkalo_core::evidence::SignedRecord;
use zerkalo_core::words::{CarrierId, Station};

use crate::fleet::{Collector, now};
use crate::internet::PLACES;
use crate::operator::Operator;
use crate::sample::{body, one_mirror};
use crate::signer::{Reply, Signer, Uplink};

/// Statements an agent may have in flight: what admission compares resends with.
pub const WINDOW: usize = 256;
/// Records sent at once.
const BATCH: usize = 32;
/// Silence on the line after which the run is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct LoadPlan {
    pub agents: usize,
    pub records_per_agent: usize,
}

/// What was measured, and on what.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    pub agents: usize,
    pub records: usize,
    pub window: usize,
    pub secs: f64,
    /// Admitted, synced and acknowledged.
    pub records_per_sec: f64,
    pub ack_p50_millis: f64,
    pub ack_p99_millis: f64,
    /// A record's body as signed.
    pub body_bytes: usize,
    /// What it takes in the journal.
    pub journal_bytes_per_record: f64,
    pub machine: Machine,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub name: String,
    pub cpu: String,
    pub cores: usize,
    /// How the programs were built.
    pub build: &'static str,
}

/// Starts a collector, loads it and reports.
pub async fn run(plan: LoadPlan) -> Result<LoadReport> {
    let collector = Collector::start(None).await?;
    collector.operator().put_list(&one_mirror(now())?).await?;
    let mut senders = Vec::with_capacity(plan.agents);
    for number in 0..plan.agents {
        let mut signer = enrol(collector.operator(), number).await?;
        let records = (0..plan.records_per_agent).map(|_| signer.sign(body(now()))).collect::<Vec<_>>();
        senders.push((signer.connect().await?, records));
    }
    let body_bytes = senders.first().and_then(|(_, records)| records.first()).map_or(0, |r| r.body.len());
    let journal_before = dir_len(&collector.dir().join("journal"))?;
    let began = Instant::now();
    let mut streams = JoinSet::new();
    for (uplink, records) in senders {
        streams.spawn(stream(uplink, records));
    }
    let mut waits = Vec::with_capacity(plan.agents * plan.records_per_agent);
    while let Some(done) = streams.join_next().await {
        waits.extend(done??);
    }
    let secs = began.elapsed().as_secs_f64();
    waits.sort_unstable();
    let journal_len = dir_len(&collector.dir().join("journal"))? - journal_before;
    Ok(LoadReport {
        agents: plan.agents,
        records: waits.len(),
        window: WINDOW,
        secs,
        records_per_sec: waits.len() as f64 / secs,
        ack_p50_millis: percentile_millis(&waits, 50),
        ack_p99_millis: percentile_millis(&waits, 99),
        body_bytes,
        journal_bytes_per_record: journal_len as f64 / waits.len().max(1) as f64,
        machine: machine(),
    })
}

/// Enrols an in-process agent: number 0 as the control, the others through all carriers in turn.
pub async fn enrol(operator: &Operator, number: usize) -> Result<Signer> {
    let place = PLACES[number % PLACES.len()];
    let station = match number {
        0 => Station::Control,
        _ => Station::Field { carrier: CarrierId::parse(place.carrier)?, access: place.access },
    };
    let token = operator.create_token(&format!("signer-{number}"), &station).await?;
    Signer::enrol(&token, number as u64).await
}

/// Streams all records with at most [`WINDOW`] in flight; gives each one's wait for its acknowledgement.
async fn stream(mut uplink: Uplink, records: Vec<SignedRecord>) -> Result<Vec<Duration>> {
    let (mut waits, mut in_flight) = (Vec::with_capacity(records.len()), VecDeque::new());
    let mut rest = records.as_slice();
    while waits.len() < records.len() {
        while !rest.is_empty() && in_flight.len() + BATCH.min(rest.len()) <= WINDOW {
            let (batch, later) = rest.split_at(BATCH.min(rest.len()));
            uplink.records.send(batch).await?;
            in_flight.extend(batch.iter().map(|record| (record.sequence, Instant::now())));
            rest = later;
        }
        let reply = tokio::time::timeout(SILENCE_MAX, uplink.replies.next()).await;
        match reply.context("the collector fell silent")?? {
            Reply::Ack { sequence, .. } => {
                while let Some((sent, at)) = in_flight.front()
                    && *sent <= sequence
                {
                    waits.push(at.elapsed());
                    in_flight.pop_front();
                }
            }
            Reply::Rejected { sequence, code, detail } => {
                bail!("record {sequence} was refused: {code}: {detail}")
            }
        }
    }
    Ok(waits)
}

/// The value that so many of a hundred do not exceed, in ms.
pub fn percentile_millis(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(0.0, |wait| wait.as_secs_f64() * 1_000.0)
}

fn dir_len(dir: &Path) -> Result<u64> {
    let mut len = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        len += entry?.metadata()?.len();
    }
    Ok(len)
}

/// This one.
pub fn machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    Machine {
        name: read("/proc/sys/kernel/hostname").trim().to_owned(),
        cpu,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        build: if cfg!(debug_assertions) { "dev" } else { "release" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_waits_are_among_them() {
        let waits: Vec<_> = (1..=4).map(Duration::from_millis).collect();
        assert_eq!((percentile_millis(&waits, 50), percentile_millis(&waits, 99)), (3.0, 4.0));
        assert_eq!(percentile_millis(&[], 50), 0.0);
    }
}
