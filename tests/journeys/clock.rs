//! A box without a battery boots in 1970: it enrols, joins and measures within a minute, and its records bear the right time.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Command;
use zerkalo_core::journal::{Event, Found, MAGIC, read_frame};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::words::Station;
use zerkalo_lab::fleet::{Collector, now, url_of};
use zerkalo_lab::sample;

use crate::programs::{program, stage};

/// What is asked of a box is a minute; this is for debug builds on a busy machine, and what it took is printed.
const JOINED_MAX: Duration = Duration::from_secs(300);
/// How far the time in a record may be off, beside the time it took to be read here.
const OFF_MAX_MILLIS: u64 = 60_000;

/// The library that sets a process's clock; `None`, loudly, without it.
async fn faketime() -> Option<String> {
    let mut look = Command::new("sh");
    look.args(["-c", "ls /usr/lib/*/faketime/libfaketime.so.1 2>/dev/null"]);
    let found = look.output().await.unwrap();
    let library = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    if library.is_empty() {
        eprintln!(
            "!!! SKIPPED: libfaketime is missing, so a clock of 1970 was NOT tested. Run tests/prepare as root."
        );
        return None;
    }
    Some(library)
}

/// The agent's program, in 1970.
fn agent(library: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program("zerkalo-agent"));
    command
        .args(args)
        .env("LD_PRELOAD", library)
        .env("FAKETIME", "@1970-01-01 00:00:10")
        .env("DONT_FAKE_MONOTONIC", "1")
        .kill_on_drop(true);
    command
}

/// The records in a journal that is being written.
pub fn records(dir: &Path) -> Vec<ProbeRecord> {
    let bytes = std::fs::read(dir.join("journal/00000001.zkj")).unwrap();
    let (mut offset, mut records) = (MAGIC.len(), Vec::new());
    loop {
        offset = match read_frame(&bytes, offset) {
            Found::Frame { payload, next } => {
                if let Event::Record { facts, .. } = zerkalo_proto::journal::decode(payload).unwrap().event {
                    records.push(*facts);
                }
                next
            }
            Found::Mark { next } => next,
            _ => return records,
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_boots_in_1970_joins_and_measures_in_the_right_time() {
    let _stage = stage().await;
    let Some(library) = faketime().await else { return };
    let collector = Collector::start(None).await.unwrap();
    collector.operator().put_list(&sample::one_mirror(now()).unwrap()).await.unwrap();
    let station = Station::Field { carrier: "kz-kcell".parse().unwrap(), access: "mobile".parse().unwrap() };
    let token = collector.operator().create_token("aigerim", &station).await.unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("token"), &token).unwrap();
    let settings = "interval_secs = 1\n[resolvers]\nsystem = [\"127.0.0.1:9\"]\npublic = \"127.0.0.1:9\"\n";
    std::fs::write(path("agent.toml"), settings).unwrap();
    let began = Instant::now();
    let joining = async {
        let url = url_of(&token).unwrap();
        let (dir, file) = (path("box"), path("token"));
        let enrolled =
            agent(&library, &["enroll", &url, "--token-file", &file, "--dir", &dir, "--accept", "1"])
                .output();
        let enrolled = enrolled.await.unwrap();
        assert!(enrolled.status.success(), "{}", String::from_utf8_lossy(&enrolled.stderr));
        let (dir, config) = (path("box"), path("agent.toml"));
        let running = agent(&library, &["run", "--dir", &dir, "--config", &config]).spawn().unwrap();
        while !collector.operator().agents().await.unwrap().iter().any(|agent| agent.records > 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        running
    };
    let _running = tokio::time::timeout(JOINED_MAX, joining).await.expect("it joins");
    println!("joined and measured after {:.1} s", began.elapsed().as_secs_f64());
    let records = records(&collector.dir());
    let record = records.first().unwrap();
    let off_max_millis = OFF_MAX_MILLIS + began.elapsed().as_millis() as u64;
    assert!(record.started_at.0.abs_diff(now().0) < off_max_millis, "{} is not now", record.started_at);
    let clock = record.clock.unwrap();
    assert!(clock.error_millis.is_some_and(|error| error < OFF_MAX_MILLIS), "{clock:?}");
    assert!(clock.monotonic_millis > 0);
}
