//! The journal is the truth: folding it again gives the decisions the live collector logged, byte for byte.

use std::path::Path;

use zerkalo_core::simulate::Noise;
use zerkalo_lab::internet::BYSTANDER;
use zerkalo_lab::play::{Pace, Play};
use zerkalo_lab::scenario;
use zerkalo_lab::screen::Audience;

use crate::programs::{program, stage};

/// Runs the operator's command line; gives what it printed.
async fn zerkalo(args: &[&str]) -> String {
    let output = tokio::process::Command::new(program("zerkalo"))
        .args(args)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "zerkalo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn replay(journal: &Path) -> String {
    zerkalo(&["replay", &journal.to_string_lossy()]).await
}

/// The chain from a decision down to the packets is one, whether the collector is asked or its journal is read.
async fn explains_the_same_live_and_from_the_journal(config: &str, journal: &Path, decisions: &str) {
    let of_rotation = |line: &&str| line.contains("\"action\":\"rotate\"");
    let rotation: serde_json::Value =
        serde_json::from_str(decisions.lines().find(of_rotation).unwrap()).unwrap();
    let id = rotation["id"].as_str().unwrap();
    let journal = journal.to_string_lossy();
    for format in ["table", "json"] {
        let live = zerkalo(&["--config", config, "decisions", "explain", id, "-o", format]).await;
        let read = zerkalo(&["decisions", "explain", id, "--journal", &journal, "-o", format]).await;
        assert_eq!(live, read, "{format}");
    }
    let text = zerkalo(&["--config", config, "decisions", "explain", id]).await;
    for part in ["measured (record ", "the control measured (record ", "signed by ", "  dns "] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let live = zerkalo(&["--config", config, "forecast", "--market", "kz"]).await;
    let seen = "market kz: 3 lives seen, 1 ended by a block; 2 serving, 0 standing by";
    assert!(live.contains(seen), "{live}");
    // Time has passed since the last entry for none of them: a forecast is of the journal's last instant.
    let shape = |text: &str| {
        text.lines().map(|line| line.split_whitespace().next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let read = zerkalo(&["forecast", "--journal", &journal, "--market", "kz"]).await;
    assert_eq!(shape(&live), shape(&read), "{live}\n{read}");
}

/// Nothing failed in the lab but what its censor did: for some seconds, on every Kazakh carrier, which for want of an hour
/// is an outage. So no visit is blocked by chance.
async fn fits_the_noise_that_there_was(journal: &Path) {
    let bystander = zerkalo_lab::latency::journal::lines(journal, BYSTANDER).unwrap();
    let failed = bystander.iter().filter(|visit| !visit.is_healthy).count();
    if failed > 0 {
        eprintln!(
            "!!! SKIPPED: this machine is too busy to measure its noise: {failed} of {} visits failed that no censor \
             disturbed",
            bystander.len()
        );
        return;
    }
    let fitted = zerkalo(&["simulate", "fit", "--journal", &journal.to_string_lossy()]).await;
    let noise = Noise::parse(&fitted).unwrap();
    assert!(noise.verdict.false_blocked <= 0.02, "{fitted}");
    for part in [
        "of 24 agents on 8 carriers",
        "left out as parts of a block: 0",
        "# No burst seen",
        "# market outages seen: 1",
    ] {
        assert!(fitted.contains(part), "{part:?} in\n{fitted}");
    }
    let sample = Noise::built_in().probe;
    assert_ne!(noise.probe.ok_millis, sample.ok_millis, "what visits took is measured, not assumed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_replayed_gives_the_decisions_of_the_live_collector() {
    let _stage = stage().await;
    let mut audience = Audience::Nobody;
    let scenario = scenario::named("kz-only").unwrap();
    let mut play = Play::start(scenario, Pace::AsSoonAsReached, &mut audience).await.unwrap();
    let report = play.run(&mut audience).await.unwrap();
    assert!(report.passed, "{:#?}", report.checks);

    let dir = play.fleet().collector().dir();
    let config = dir.join("operator/operator.toml").to_string_lossy().into_owned();
    let live = zerkalo(&["--config", &config, "decisions", "ls", "-o", "jsonl"]).await;
    let first = replay(&dir.join("journal")).await;
    // The agents go on: a standby that serves now may be decided about between two looks.
    assert!(first.starts_with(&live), "the journal tells another story than the collector:\n{first}\n{live}");
    assert!(live.lines().count() >= report.decisions.len());
    assert!(first.lines().any(|line| line.contains("\"action\":\"rotate\"")), "{first}");

    explains_the_same_live_and_from_the_journal(&config, &dir.join("journal"), &first).await;

    fits_the_noise_that_there_was(&dir.join("journal")).await;

    // The journal goes on growing while the agents run: the decisions in it do not change.
    assert!(replay(&dir.join("journal")).await.starts_with(&first));

    // A journal without its last decision's cause tells a shorter story: the comparison can fail.
    let copy = tempfile::tempdir().unwrap();
    let segment = std::fs::read(dir.join("journal/00000001.zkj")).unwrap();
    std::fs::write(copy.path().join("00000001.zkj"), &segment[..segment.len() / 4]).unwrap();
    assert_ne!(replay(copy.path()).await, first);
}
