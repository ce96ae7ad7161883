//! SIGKILL at random moments under load: nothing acknowledged is missing from the journal, nothing stands in it twice.
//!
//! Each round has a fresh collector and fresh real agents, so that restarts stay short; in-process signers stream as fast as
//! they are acknowledged and keep a ledger of every acknowledgement. ZERKALO_KILL_CYCLES and ZERKALO_KILL_SEED override.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use zerkalo_core::evidence::SignedRecord;
use zerkalo_lab::fleet::{Collector, Fleet, crew, now};
use zerkalo_lab::interference::Interference;
use zerkalo_lab::internet::{Internet, PLACES};
use zerkalo_lab::load::enrol;
use zerkalo_lab::sample;
use zerkalo_lab::signer::{Reply, Signer, Uplink};

use crate::ledger::{self, Fault, Ledger};
use crate::programs::stage;

/// Kills in all; `make torture` asks for 2,000.
const CYCLES: u64 = 100;
/// Kills of one collector's life: its journal grows with each.
const CYCLES_PER_ROUND: u64 = 25;
/// In-process signers that stream without pause.
const SIGNERS: usize = 4;
/// Records a signer has in flight.
const WINDOW: usize = 64;
/// Acknowledgements awaited before a kill, at most.
const ACKS_BEFORE_KILL_MAX: u64 = 200;
/// Further delay of a kill: a random place between two acknowledgements.
const DELAY_MAX_MICROS: u64 = 30_000;
/// One in so many restarts is killed again while it reads its journal.
const STARTS_SURVIVED: u64 = 4;
/// How long anything may take before the journey is called stuck.
const STUCK: Duration = Duration::from_secs(300);
/// Between attempts to reach a collector that is being restarted.
const RETRY_WAIT: Duration = Duration::from_millis(20);

/// What the signers saw.
#[derive(Default)]
struct Seen {
    acknowledged: Mutex<Ledger>,
    refusals: Mutex<Vec<String>>,
    acks: watch::Sender<u64>,
}

/// SplitMix64 (Steele, Lea, Flood 2014): a printed seed repeats a run's choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % limit
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_by_sigkill() {
    let _stage = stage().await;
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("ZERKALO_KILL_SEED").unwrap_or(now().0);
    let cycles = number("ZERKALO_KILL_CYCLES").unwrap_or(CYCLES);
    println!("{cycles} cycles; repeat with ZERKALO_KILL_SEED={seed}");
    let mut dice = Dice(seed);
    let (mut left, mut records, mut acknowledged) = (cycles, 0, 0);
    while left > 0 {
        let round = left.min(CYCLES_PER_ROUND);
        let began = Instant::now();
        let (found, acked) = play_round(round, &mut dice).await;
        (records, acknowledged, left) = (records + found, acknowledged + acked, left - round);
        println!(
            "{round} kills in {:.1} s: {found} records, {acked} acknowledged to signers",
            began.elapsed().as_secs_f64()
        );
    }
    println!(
        "{cycles} kills: {records} records in the journals, {acknowledged} acknowledged to signers, none lost, none double"
    );
}

/// Some kills on one collector; gives the records in its journal and those acknowledged to signers.
async fn play_round(kills: u64, dice: &mut Dice) -> (usize, usize) {
    let internet = Internet::start().await.unwrap();
    let mut fleet = Fleet::start(&internet, None, &crew(&PLACES[..1])).await.unwrap();
    // Something to decide about.
    internet.carrier(PLACES[0].carrier).unwrap().interfere(Interference::ResetOnClientHello);
    let seen = Arc::new(Seen::default());
    let mut signers = JoinSet::new();
    for number in 1..=SIGNERS {
        let signer = enrol(fleet.collector().operator(), number).await.unwrap();
        signers.spawn(keep_streaming(signer, Arc::clone(&seen)));
    }
    for _ in 0..kills {
        wait_for_acks(&seen, dice.below(ACKS_BEFORE_KILL_MAX)).await;
        // No wait for a state: the moment itself is what is tried.
        tokio::time::sleep(Duration::from_micros(dice.below(DELAY_MAX_MICROS))).await;
        let agents = fleet.agents_mut().len() as u64;
        // Two of three kills hit the collector: it serves all, an agent only itself.
        match dice.below(3) {
            0 => {
                let victim = &mut fleet.agents_mut()[dice.below(agents) as usize];
                victim.kill().await.unwrap();
                victim.start_again().unwrap();
            }
            _ => {
                let collector = fleet.collector_mut();
                collector.kill().await.unwrap();
                if dice.below(STARTS_SURVIVED) == 0 {
                    collector.start_again().unwrap();
                    tokio::time::sleep(Duration::from_micros(dice.below(DELAY_MAX_MICROS))).await;
                    collector.kill().await.unwrap();
                }
                collector.serve_again().await.unwrap();
            }
        }
        fleet.require_running().unwrap();
    }
    wait_for_agents(fleet.collector()).await;
    wait_for_acks(&seen, 1).await;
    let logged = wait_for_decisions(fleet.collector()).await;
    fleet.collector_mut().kill().await.unwrap();
    signers.shutdown().await;
    assert_eq!(*seen.refusals.lock().unwrap(), Vec::<String>::new(), "nothing the signers send is at fault");

    let journal = fleet.collector().dir().join("journal");
    let acknowledged = seen.acknowledged.lock().unwrap().clone();
    let found = ledger::check(&journal, &acknowledged).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(found.keys().all(|(_, epoch, _)| *epoch == 1), "an agent lost its spool and began anew");
    let folded = ledger::decisions(&journal).unwrap();
    assert!(logged.len() <= folded.len(), "the journal forgot a decision");
    assert_eq!(
        logged[..],
        folded[..logged.len()],
        "the collector logged other decisions than its journal holds"
    );
    the_check_can_fail(&journal, &acknowledged, dice);
    (found.len(), acknowledged.len())
}

/// Negative control: a journal robbed of one acknowledged record, and one with a record twice, are both found out.
fn the_check_can_fail(journal: &std::path::Path, acknowledged: &Ledger, dice: &mut Dice) {
    let victim = acknowledged.keys().nth(dice.below(acknowledged.len() as u64) as usize).unwrap();
    let forged = |times| {
        let copy = tempfile::tempdir().unwrap();
        ledger::forge(journal, copy.path(), victim, times);
        ledger::check(copy.path(), acknowledged)
    };
    assert_eq!(forged(0), Err(Fault::Missing(victim.clone())));
    assert_eq!(forged(2), Err(Fault::Double(victim.clone())));
    assert!(forged(1).is_ok(), "an honest copy passes");
}

/// Streams for ever: connects, sends what the collector lacks, then new records; notes every acknowledgement.
async fn keep_streaming(mut signer: Signer, seen: Arc<Seen>) {
    let mut unacknowledged: VecDeque<SignedRecord> = VecDeque::new();
    loop {
        match signer.connect().await {
            Ok(uplink) => {
                // Its end is a kill: connect again.
                let _cut = stream(&mut signer, uplink, &mut unacknowledged, &seen).await;
            }
            Err(_) => tokio::time::sleep(RETRY_WAIT).await,
        }
    }
}

async fn stream(
    signer: &mut Signer,
    mut uplink: Uplink,
    unacknowledged: &mut VecDeque<SignedRecord>,
    seen: &Seen,
) -> anyhow::Result<()> {
    // What the collector has was synced, even if the word of it never reached us.
    let known = uplink.head;
    while unacknowledged.front().is_some_and(|record| record.sequence < known.sequence) {
        unacknowledged.pop_front();
    }
    if let Some(at_head) = unacknowledged.front().filter(|record| record.sequence == known.sequence) {
        if at_head.hash() != known.hash {
            seen.refusals
                .lock()
                .unwrap()
                .push(format!("the chain ends in other bytes at {}", known.sequence));
        }
        unacknowledged.pop_front();
    }
    let resend: Vec<_> = unacknowledged.iter().cloned().collect();
    if !resend.is_empty() {
        uplink.records.send(&resend).await?;
    }
    loop {
        while unacknowledged.len() < WINDOW {
            let record = signer.sign(sample::body(now()));
            unacknowledged.push_back(record.clone());
            uplink.records.send(&[record]).await?;
        }
        match uplink.replies.next().await? {
            Reply::Ack { epoch, sequence } => note(seen, unacknowledged, epoch, sequence),
            Reply::Rejected { sequence, code, detail } => {
                seen.refusals.lock().unwrap().push(format!("{sequence}: {code}: {detail}"));
            }
        }
    }
}

/// Notes as acknowledged everything up to `sequence`.
fn note(seen: &Seen, unacknowledged: &mut VecDeque<SignedRecord>, epoch: u64, sequence: u64) {
    let mut ledger = seen.acknowledged.lock().unwrap();
    let mut count = 0;
    while unacknowledged.front().is_some_and(|record| record.epoch == epoch && record.sequence <= sequence) {
        let record = unacknowledged.pop_front().unwrap();
        ledger.insert(ledger::key(&record), record.hash());
        count += 1;
    }
    seen.acks.send_modify(|acks| *acks += count);
}

async fn wait_for_acks(seen: &Seen, more: u64) {
    let mut acks = seen.acks.subscribe();
    let target = *acks.borrow() + more;
    let wait = tokio::time::timeout(STUCK, acks.wait_for(|acks| *acks >= target)).await;
    wait.expect("acknowledgements go on after every kill").unwrap();
}

/// Every real agent delivers again: a lost acknowledgement would have broken its chain for good.
async fn wait_for_agents(collector: &Collector) {
    let counts = async || {
        let agents = collector.operator().agents().await.unwrap();
        let real = agents.into_iter().filter(|agent| !agent.owner.starts_with("signer-"));
        real.map(|agent| agent.records).collect::<Vec<_>>()
    };
    let (before, began) = (counts().await, Instant::now());
    while counts().await.iter().zip(&before).any(|(now, before)| now <= before) {
        assert!(began.elapsed() < STUCK, "a real agent delivers nothing any more");
        tokio::time::sleep(RETRY_WAIT * 5).await;
    }
}

/// The decisions as logged, once there are some.
async fn wait_for_decisions(collector: &Collector) -> Vec<String> {
    let began = Instant::now();
    loop {
        let decisions = collector.operator().decisions().await.unwrap();
        if !decisions.is_empty() {
            return decisions.into_iter().map(|(_, json)| json).collect();
        }
        assert!(began.elapsed() < STUCK, "a blocked carrier leads to no decision");
        tokio::time::sleep(RETRY_WAIT * 5).await;
    }
}
