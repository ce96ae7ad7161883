//! A collector that is away while an agent's small spool fills: afterwards signed gaps tell what is not there.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Command;
use zerkalo_lab::fleet::{Fleet, crew};
use zerkalo_lab::internet::{Internet, PLACES};

use crate::programs::{program, stage};

/// The least an agent takes: some thirty records.
const SPOOL: &str = "spool_bytes = 100_000\n";
const STUCK: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_spool_gave_up_is_told_by_signed_gaps() {
    let _stage = stage().await;
    let internet = Internet::start().await.unwrap();
    // The control alone.
    let mut fleet = Fleet::start(&internet, None, &crew(&PLACES[..1])[..1]).await.unwrap();
    let home = fleet.collector().home().join("agents");
    let seat = std::fs::read_dir(home).unwrap().next().unwrap().unwrap().path();
    fleet.collector_mut().kill().await.unwrap();
    fleet.agents_mut()[0].kill().await.unwrap();
    let settings = seat.join("agent.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, SPOOL.to_owned() + &text).unwrap();
    fleet.agents_mut()[0].start_again().unwrap();
    until("the agent gives nothing up", async || {
        std::fs::read_to_string(seat.join("log")).unwrap().contains("the spool is full")
    })
    .await;
    fleet.collector_mut().serve_again().await.unwrap();
    // Started anew it connects at once; what it gave up it knows from the disk.
    fleet.agents_mut()[0].kill().await.unwrap();
    fleet.agents_mut()[0].start_again().unwrap();
    let dir = fleet.collector().dir();
    until("no gap is in the journal", async || verify(&dir).await.contains("gaps, signed by agents")).await;
    println!("{}", verify(&dir).await);
    fleet.require_running().unwrap();
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < STUCK, "{what}");
        tokio::time::sleep(POLL).await;
    }
}

/// What `verify` says; it must find nothing wrong.
async fn verify(dir: &Path) -> String {
    let ended = Command::new(program("zerkalo-collector")).arg("verify").arg(dir).output().await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}
