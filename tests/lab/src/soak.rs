//! A day's soak in miniature: agents that send, leave and come back, and how the collector's memory goes.
//!
//! The slope is that of the straight line through what was measured after the warm-up. Memory that the collector needs for
//! what it was told, a window's worth of evidence, is gathered before that; what still grows then grows for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::crowd;
use crate::fleet::now;
use crate::internet::PLACES;
use crate::load::{Machine, machine};
use crate::sample::body_about;
use crate::signer::{Reply, Signer, Uplink};
use crate::usage;

/// Between two records of one agent.
const PACE: Duration = Duration::from_secs(10);
/// Records after which an agent leaves and comes back.
const RECORDS_PER_STREAM: u64 = 12;
/// Longest wait for an acknowledgement.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Looks at the collector in all.
const SAMPLES: u32 = 120;
/// Of the whole time, what is warm-up: a divisor.
const WARM_UP_PART: u32 = 3;
/// How fast the collector's memory may grow under a thousand agents, in KiB an hour.
pub const SLOPE_MAX_KIB_PER_HOUR: f64 = 64.0 * 1024.0;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct SoakReport {
    pub agents: usize,
    pub secs: f64,
    pub records: u64,
    /// Streams opened, the first of each agent too.
    pub streams: u64,
    pub samples: usize,
    pub rss_warm_kib: u64,
    pub rss_last_kib: u64,
    pub slope_kib_per_hour: f64,
    pub slope_max_kib_per_hour: f64,
    /// Of the collector, of one core.
    pub cpu_share: f64,
    pub machine: Machine,
}

impl SoakReport {
    /// Whether its memory grows faster than it may.
    pub fn exceeds(&self) -> bool {
        self.slope_kib_per_hour > self.slope_max_kib_per_hour
    }
}

#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    streams: AtomicU64,
}

/// Has `agents` send for so long.
pub async fn run(agents: usize, duration: Duration) -> Result<SoakReport> {
    usage::allow_connections(agents)?;
    let (collector, signers) = crowd::enrolled(agents).await?;
    let pid = collector.pid().context("the collector has ended")?;
    let (counts, (over, is_over)) = (Arc::new(Counts::default()), watch::channel(false));
    let mut sending = JoinSet::new();
    // In a short run everybody sends, leaves and comes back all the same.
    let pace = PACE.min(duration / 40);
    for (number, signer) in signers.into_iter().enumerate() {
        let delay = pace.mul_f64(number as f64 / agents.max(1) as f64);
        let mirror = 1 + number / PLACES.len() % crowd::MIRRORS;
        sending.spawn(send((signer, mirror), pace, delay, counts.clone(), is_over.clone()));
    }
    let (began, first, mut samples) = (Instant::now(), usage::of(pid)?, Vec::new());
    for number in 1..=SAMPLES {
        tokio::time::sleep_until((began + duration * number / SAMPLES).into()).await;
        let seen = usage::of(pid).context("the collector ended while it was soaked")?;
        if number > SAMPLES / WARM_UP_PART {
            samples.push((began.elapsed().as_secs_f64() / 3_600.0, seen.rss_kib as f64));
        }
    }
    let (secs, last) = (began.elapsed().as_secs_f64(), usage::of(pid)?);
    over.send_replace(true);
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    ensure!(counts.records.load(Ordering::Relaxed) > 0, "nothing was acknowledged");
    Ok(SoakReport {
        agents,
        secs,
        records: counts.records.load(Ordering::Relaxed),
        streams: counts.streams.load(Ordering::Relaxed),
        samples: samples.len(),
        rss_warm_kib: samples.first().map_or(0, |(_, rss)| *rss as u64),
        rss_last_kib: last.rss_kib,
        slope_kib_per_hour: slope(&samples),
        slope_max_kib_per_hour: SLOPE_MAX_KIB_PER_HOUR,
        cpu_share: (last.cpu - first.cpu).as_secs_f64() / secs,
        machine: machine(),
    })
}

/// One agent: a record now and then, over streams that end; every one must be acknowledged.
async fn send(
    (mut signer, mirror): (Signer, usize),
    pace: Duration,
    delay: Duration,
    counts: Arc<Counts>,
    mut is_over: watch::Receiver<bool>,
) -> Result<()> {
    let mut line: Option<(Uplink, u64)> = None;
    let mut next = Instant::now() + delay;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            _ = is_over.wait_for(|is_over| *is_over) => return Ok(()),
        }
        next += pace;
        let (mut uplink, sent) = match line.take() {
            Some(open) => open,
            None => {
                counts.streams.fetch_add(1, Ordering::Relaxed);
                (signer.connect().await?, 0)
            }
        };
        let record = signer.sign(body_about(mirror, now()));
        let wanted = record.sequence;
        uplink.records.send(&[record]).await?;
        loop {
            let reply = tokio::time::timeout(SILENCE_MAX, uplink.replies.next()).await;
            match reply.context("the collector fell silent")?? {
                Reply::Ack { sequence, .. } if sequence >= wanted => break,
                Reply::Ack { .. } => {}
                Reply::Rejected { code, detail, .. } => {
                    anyhow::bail!("a record was refused: {code}: {detail}")
                }
            }
        }
        counts.records.fetch_add(1, Ordering::Relaxed);
        // Each leaves after another number, so that they do not come back as one.
        let stays = sent + 1 < RECORDS_PER_STREAM + wanted % RECORDS_PER_STREAM;
        line = stays.then_some((uplink, sent + 1));
    }
}

/// The slope of the straight line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|point| point.0), mean(|point| point.1));
    let over: f64 = points.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum();
    let under: f64 = points.iter().map(|(x, _)| (x - x_mean) * (x - x_mean)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(slope_kib_per_hour: f64) -> SoakReport {
        SoakReport {
            agents: 1,
            secs: 1.0,
            records: 1,
            streams: 1,
            samples: 2,
            rss_warm_kib: 1,
            rss_last_kib: 1,
            slope_kib_per_hour,
            slope_max_kib_per_hour: SLOPE_MAX_KIB_PER_HOUR,
            cpu_share: 0.0,
            machine: machine(),
        }
    }

    #[test]
    fn a_leak_is_the_slope_and_noise_is_none() {
        let line = |per_hour: f64, noise: f64| -> Vec<_> {
            (0..80)
                .map(|n| {
                    (
                        f64::from(n) / 160.0,
                        50_000.0 + per_hour * f64::from(n) / 160.0 + noise * f64::from(n % 2),
                    )
                })
                .collect()
        };
        assert!((slope(&line(1_000.0, 0.0)) - 1_000.0).abs() < 1e-6);
        assert!(slope(&line(0.0, 400.0)).abs() < 50.0);
        assert_eq!((slope(&[]), slope(&[(1.0, 5.0)])), (0.0, 0.0));
        // A hundred bytes lost with each of a hundred records a second is no leak too small to be found.
        assert!(report(slope(&line(100.0 * 1_000.0, 400.0))).exceeds());
        assert!(!report(slope(&line(100.0, 400.0))).exceeds());
    }
}
