//! The collector's disk is lost: from an older backup and from what agents keep for a day, everything comes back.

use std::time::{Duration, Instant};

use tokio::process::Command;
use zerkalo_lab::fleet::{Fleet, crew};
use zerkalo_lab::internet::{Internet, PLACES};

use crate::ledger::{self, Ledger};
use crate::programs::{program, stage};

/// Records after the backup, at least: as many as a lost disk takes with it.
const RECORDS_LOST: usize = 40;
/// Parts in 10,000 that must come back.
const RETURNED_MIN: usize = 9_999;
const STUCK: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_disk_held_comes_back_from_a_backup_and_from_the_agents() {
    let _stage = stage().await;
    let internet = Internet::start().await.unwrap();
    let mut fleet = Fleet::start(&internet, None, &crew(&PLACES[..1])).await.unwrap();
    let dir = fleet.collector().dir();
    let journal = dir.join("journal");
    let known = || ledger::check(&journal, &Ledger::new()).unwrap_or_else(|fault| panic!("{fault}"));
    let grow = async |least: usize| {
        let began = Instant::now();
        while known().len() < least {
            assert!(began.elapsed() < STUCK, "{} records, not {least}", known().len());
            tokio::time::sleep(POLL).await;
        }
    };
    grow(4).await;
    let copy = dir.with_extension("backup");
    collector(&["backup"], &[&dir, &copy]).await;
    let kept = known().len();
    grow(kept + RECORDS_LOST).await;
    fleet.collector_mut().kill().await.unwrap();
    let before = known();
    std::fs::remove_dir_all(&dir).unwrap();
    collector(&["restore"], &[&copy, &dir]).await;
    let restored = known();
    assert!(restored.len() + RECORDS_LOST / 2 < before.len(), "the backup holds all: this proves nothing");
    fleet.collector_mut().serve_again().await.unwrap();
    let began = Instant::now();
    let mut returned = 0;
    while returned * 10_000 < before.len() * RETURNED_MIN {
        assert!(began.elapsed() < STUCK, "{returned} of {} records came back", before.len());
        tokio::time::sleep(POLL).await;
        let now = known();
        returned = before.iter().filter(|(key, hash)| now.get(key) == Some(hash)).count();
    }
    println!(
        "{} records, {} in the backup, {returned} after {:.1} s",
        before.len(),
        restored.len(),
        began.elapsed().as_secs_f64()
    );
    fleet.require_running().unwrap();
    collector(&["verify"], &[&dir]).await;
}

async fn collector(command: &[&str], paths: &[&std::path::Path]) {
    let ended = Command::new(program("zerkalo-collector")).args(command).args(paths).output().await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
