//! A real agent's uplink comes back to a real collector with a backlog, over mTLS on loopback: how many records a second the
//! backlog goes at, and how long what it measures meanwhile waits.
//!
//! What is told is read off the journal: the order of its entries and their instants. The collector is a process of its own,
//! the agent's spool and uplink run in this one; records are of no site's.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tokio::sync::{mpsc, watch};
use zerkalo_agent::enroll::{Application, Existing, enroll};
use zerkalo_agent::paths::{Failure, kept};
use zerkalo_agent::spool::{Limits, Spool};
use zerkalo_agent::state::StateDir;
use zerkalo_agent::token::Token;
use zerkalo_agent::uplink::{SharedSpool, SpoolWork, Uplink, wall_clock};
use zerkalo_agent::window::{BATCH_RECORDS_MAX, FRESH_RECORDS_MAX};
use zerkalo_agent::worth::Worth;
use zerkalo_core::journal::{Event, JournalEntry};
use zerkalo_core::words::{Station, UnixMillis};
use zerkalo_lab::fleet::{Collector, now};
use zerkalo_lab::sample;

/// Between looks at the collector.
const POLL: Duration = Duration::from_millis(20);
/// Longest run.
const RUN_MAX: Duration = Duration::from_secs(600);
/// A backlog goes at so many times the rate of what is measured, at least.
const TIMES_THE_PACE: f64 = 10.0;

/// Bytes up and down after which a connection froze, where the agent believes so.
const FROZEN_AT: (u64, u64) = (16_000, 4_000);

/// Fewer of these records fit a short connection: some eleven do.
const RECORDS_PER_SHORT_MAX: u64 = 20;

/// Over which connections it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// As long as they last.
    Long,
    /// Of less than 12 KB each, as on a path that freezes longer ones.
    Short,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub backlog: u64,
    pub connections: u64,
    /// Measured while the backlog went.
    pub fresh: u64,
    /// Of those and of the newest of the backlog, admitted before what they follow.
    pub ahead: u64,
    /// From the first entry of the backlog to its last.
    pub drained_secs: f64,
    pub pace: Duration,
    /// From being kept by the agent to the collector's journal.
    pub wait_p50_millis: u64,
    pub wait_max_millis: u64,
}

impl Report {
    /// Records of the backlog a second.
    pub fn drained_per_sec(&self) -> f64 {
        self.backlog as f64 / self.drained_secs
    }

    /// The same, by the rate of what is measured.
    pub fn times_the_pace(&self) -> f64 {
        self.drained_per_sec() * self.pace.as_secs_f64()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "backlog of {} records in {:.1} s over {} connections: {:.0} a second, {:.0} times the {:.1} a second \
             measured meanwhile\n\
             {} fresh records, {} records ahead of those they follow; a fresh one was in the journal after {} ms \
             (median), {} ms at most\n\
             none lost, none double",
            self.backlog,
            self.drained_secs,
            self.connections,
            self.drained_per_sec(),
            self.times_the_pace(),
            1.0 / self.pace.as_secs_f64(),
            self.fresh,
            self.ahead,
            self.wait_p50_millis,
            self.wait_max_millis
        )
    }
}

/// Lets an agent come back with `backlog` records that makes one more each `pace`.
pub async fn run(backlog: u64, pace: Duration, line: Line) -> Result<Report> {
    let mut collector = Collector::start(None).await?;
    collector.operator().put_list(&sample::one_mirror(now())?).await?;
    let home = tempfile::tempdir()?;
    let (uplink, spool) = agent(&collector, home.path(), backlog).await?;
    if line == Line::Short {
        expect_freezes(&uplink)?;
    }
    let sending = tokio::spawn(async move { uplink.run().await });
    let is_over = Arc::new(AtomicBool::new(false));
    let measuring = tokio::spawn(measure(spool, pace, is_over.clone()));
    let waited = tokio::time::timeout(RUN_MAX, async {
        until_admitted(&collector, backlog).await?;
        is_over.store(true, Ordering::Relaxed);
        let made = measuring.await??;
        until_admitted(&collector, backlog + made.len() as u64).await?;
        anyhow::Ok(made)
    });
    let made = waited.await.context("not everything arrived in time")??;
    ensure!(!sending.is_finished(), "the uplink gave up");
    sending.abort();
    collector.kill().await?;
    let log = std::fs::read_to_string(collector.home().join("collector.log"))?;
    let connections = log.lines().filter(|line| line.contains(" connected")).count() as u64;
    let is_short = connections > backlog / RECORDS_PER_SHORT_MAX;
    ensure!(is_short == (line == Line::Short), "{connections} connections, over a {line:?} line");
    let report = report(&collector.dir().join("journal"), backlog, pace, &made)?;
    Ok(Report { connections, ..report })
}

/// Makes the uplink believe that every address freezes connections at a length.
fn expect_freezes(uplink: &Uplink) -> Result<()> {
    let mut paths = kept::read(&uplink.state, &uplink.urls);
    for address in paths.addresses().to_vec() {
        paths.failed(&address, Failure::Frozen { carried: FROZEN_AT }, wall_clock());
    }
    Ok(kept::write(&uplink.state, &paths)?)
}

/// An enrolled agent whose spool holds `backlog` records, measured one a second until now.
async fn agent(collector: &Collector, home: &Path, backlog: u64) -> Result<(Uplink, SharedSpool)> {
    let dir = home.join("agent");
    let token = collector.operator().create_token("house", &Station::Control).await?;
    let application = Application {
        url: None,
        token: Token::parse(&token)?,
        carrier: None,
        access: None,
        existing: Existing::Keep,
    };
    let identity = enroll(&application, &dir).await?.identity;
    let state = StateDir::existing(&dir);
    let spool_dir = state.path("spool");
    let (mut spool, _) = Spool::open(
        &spool_dir,
        &identity.agent,
        state.record_key()?,
        Limits { records: u64::MAX, bytes: u64::MAX },
        wall_clock(),
    )?;
    let began = wall_clock().minus_millis(backlog * 1_000);
    let spool = tokio::task::spawn_blocking(move || {
        for number in 0..backlog {
            let measured = began.plus_millis(number * 1_000);
            spool.append(sample::body(measured), Worth::Ok, measured)?;
        }
        anyhow::Ok(spool)
    });
    let spool = SharedSpool::new(spool.await??, SpoolWork::Threads);
    let uplink = Uplink {
        credentials: state.credentials()?,
        urls: identity.collector_urls.clone(),
        state,
        operator_keys: application.token.operator_keys,
        spool: spool.clone(),
        list: watch::Sender::new(None),
        wishes: mpsc::channel(1).0,
        was_behind: AtomicBool::new(false),
        witness: watch::Sender::new(None),
        pictures: None,
        quiet: Default::default(),
        activity: Default::default(),
        inbox: Default::default(),
        papers: None,
    };
    Ok((uplink, spool))
}

/// Makes a record each `pace` until it is over; gives sequence and instant of each.
async fn measure(
    spool: SharedSpool,
    pace: Duration,
    is_over: Arc<AtomicBool>,
) -> Result<Vec<(u64, UnixMillis)>> {
    let mut made = Vec::new();
    let mut beat = tokio::time::interval(pace);
    while !is_over.load(Ordering::Relaxed) {
        beat.tick().await;
        let now = wall_clock();
        let link = spool.append(sample::body(now), Worth::Failed, now).await?;
        made.push((link.sequence, wall_clock()));
    }
    Ok(made)
}

async fn until_admitted(collector: &Collector, count: u64) -> Result<()> {
    loop {
        let agents = collector.operator().agents().await?;
        if agents.iter().map(|agent| agent.records).sum::<u64>() >= count {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the journal says. Each record stands there once, and what was newest when the agent came back was among the first.
fn report(journal: &Path, backlog: u64, pace: Duration, made: &[(u64, UnixMillis)]) -> Result<Report> {
    let mut entries: Vec<(u64, UnixMillis, bool)> = Vec::new();
    let visit = |entry: JournalEntry| {
        if let Event::Record { signed, is_ahead, .. } = entry.event {
            entries.push((signed.sequence, entry.at, is_ahead));
        }
    };
    zerkalo_collector::journal::read(journal, visit, |_| {})?;
    let once: BTreeSet<u64> = entries.iter().map(|(sequence, ..)| *sequence).collect();
    let count = backlog + made.len() as u64;
    ensure!(entries.len() as u64 == count, "{} records of {count} are there", entries.len());
    ensure!(once.len() as u64 == count, "{} records are there twice", count - once.len() as u64);
    let place = |sequence: u64| entries.iter().position(|(one, ..)| *one == sequence);
    let end = entries.iter().rposition(|(sequence, ..)| *sequence <= backlog).context("no backlog")?;
    let newest = place(backlog).context("the newest of the backlog is not there")?;
    let first_batches = 2 * BATCH_RECORDS_MAX + FRESH_RECORDS_MAX as usize;
    ensure!(newest < first_batches, "the newest of the backlog came as number {newest}");
    let in_backlog = |at: usize| entries.get(at).filter(|_| at <= end);
    let mut waits = Vec::new();
    for (sequence, kept) in made {
        let at = place(*sequence).ok_or_else(|| anyhow!("record {sequence} is not there"))?;
        if let Some((_, admitted, _)) = in_backlog(at) {
            waits.push(admitted.since_millis(*kept));
        }
    }
    ensure!(!waits.is_empty(), "no fresh record came before the backlog's end");
    waits.sort_unstable();
    let of_backlog = || entries.iter().filter(|(sequence, ..)| *sequence <= backlog).map(|(_, at, _)| *at);
    let (first, last) = of_backlog().min().zip(of_backlog().max()).context("no backlog")?;
    let report = Report {
        backlog,
        connections: 0,
        fresh: waits.len() as u64,
        ahead: entries.iter().filter(|(.., is_ahead)| *is_ahead).count() as u64,
        drained_secs: (last.since_millis(first).max(1)) as f64 / 1_000.0,
        pace,
        wait_p50_millis: waits[waits.len() / 2],
        wait_max_millis: waits[waits.len() - 1],
    };
    ensure!(report.times_the_pace() >= TIMES_THE_PACE, "the backlog took too long: {report}");
    Ok(report)
}
