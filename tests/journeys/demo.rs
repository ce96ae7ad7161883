//! Every scenario through the real `zerkalo-demo --once -o json`: what the censor does, and what is decided.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::programs::{program, stage};

/// How long a dead demo's children and files may take to go.
const GONE_MAX: Duration = Duration::from_secs(120);
/// Between two looks at what is to go.
const POLL: Duration = Duration::from_millis(50);

/// Plays a scenario and gives the JSON object it ends with.
async fn play(scenario: &str) -> Value {
    let _stage = stage().await;
    let output = tokio::process::Command::new(program("zerkalo-demo"))
        .args(["--scenario", scenario, "--once", "-o", "json"])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&stdout)
        .unwrap_or_else(|error| panic!("{scenario}: {error}\nstdout: {stdout}\nstderr: {stderr}"));
    let broken: Vec<&Value> =
        report["checks"].as_array().unwrap().iter().filter(|check| check["passed"] != true).collect();
    assert!(broken.is_empty(), "{scenario}: {broken:#?}\n{stderr}");
    assert_eq!((report["passed"].as_bool(), output.status.code()), (Some(true), Some(0)), "{stderr}");
    assert_eq!(report["scenario"], scenario);
    report
}

/// The actions of a market about the mirror under attack, in order.
fn actions(report: &Value, market: &str) -> Vec<String> {
    let decisions = report["decisions"].as_array().unwrap();
    let about = |decision: &&Value| decision["market"] == market && decision["mirror"] == "m1";
    decisions.iter().filter(about).map(|decision| decision["action"].as_str().unwrap().to_owned()).collect()
}

/// What took the place of the mirror under attack, by the market's last rotation.
fn replacement<'a>(report: &'a Value, market: &str) -> &'a str {
    let decisions = report["decisions"].as_array().unwrap().iter();
    let mut rotations = decisions.filter(|one| one["market"] == market && one["replacement"].is_object());
    let rotation = rotations.next_back().unwrap();
    assert_eq!((&rotation["mirror"], &rotation["effect"]), (&"m1".into(), &"act".into()), "{rotation}");
    rotation["replacement"]["mirror"].as_str().unwrap()
}

fn state<'a>(report: &'a Value, market: &str, carrier: &str) -> &'a str {
    report["matrix"][market]["m1"]["carriers"][carrier]["state"].as_str().unwrap()
}

#[tokio::test]
async fn early_warning_prepares_before_it_pauses_and_rotates() {
    let report = play("early-warning").await;
    let kz = actions(&report, "kz");
    // A rotation that waits for its standby is told before the one that names it.
    let mut steps = kz.clone();
    steps.dedup();
    assert_eq!(steps, ["keep", "prepare", "pause", "rotate"]);
    assert_eq!(actions(&report, "ru"), ["keep"]);
    let reasons: Vec<&Value> =
        report["decisions"].as_array().unwrap().iter().map(|d| &d["reasons"]).collect();
    assert!(reasons.iter().all(|reasons| !reasons.as_array().unwrap().is_empty()), "{reasons:?}");
    let webhooks = report["webhooks"].as_array().unwrap();
    let rotate = webhooks.iter().find(|hook| hook["body"]["data"]["action"] == "rotate").unwrap();
    assert_eq!(
        (&rotate["verified"], &rotate["body"]["type"], &rotate["body"]["data"]["market"]),
        (&Value::Bool(true), &"zerkalo.decision".into(), &"kz".into())
    );
    assert_eq!(replacement(&report, "kz"), "spare-kz");
    let told = webhooks.iter().any(|hook| hook["body"]["data"]["replacement"]["mirror"] == "spare-kz");
    assert!(told, "whoever switches is told to what");
    let mechanisms = &report["matrix"]["kz"]["m1"]["carriers"]["kz-kazakhtelecom"]["cells"][0]["mechanisms"];
    assert!(mechanisms[0].as_str().unwrap().starts_with("dns.injection"), "{mechanisms}");
}

#[tokio::test]
async fn a_kz_only_block_leaves_russia_alone() {
    let report = play("kz-only").await;
    assert_eq!(actions(&report, "ru"), ["keep"]);
    assert_eq!(actions(&report, "kz").last().unwrap(), "rotate");
    assert_eq!(replacement(&report, "kz"), "spare-kz");
    assert_eq!(state(&report, "kz", "kz-tele2-altel"), "red");
}

#[tokio::test]
async fn two_of_four_russian_carriers_are_enough() {
    let report = play("ru-2-of-4").await;
    assert_eq!(actions(&report, "kz"), ["keep"]);
    assert_eq!(actions(&report, "ru").last().unwrap(), "rotate");
    assert_eq!(replacement(&report, "ru"), "spare-ru");
    assert_eq!(state(&report, "ru", "ru-megafon"), "green");
}

#[tokio::test]
async fn whitelist_mode_burns_nothing() {
    let report = play("whitelist-mode").await;
    let all = report["decisions"].as_array().unwrap();
    assert!(all.iter().all(|d| d["action"] == "keep" || d["action"] == "hold"), "{all:#?}");
    assert_eq!(state(&report, "ru", "ru-mts"), "restricted");
}

#[tokio::test]
async fn an_origin_that_is_down_is_no_block() {
    let report = play("origin-down").await;
    for market in ["ru", "kz"] {
        assert_eq!(actions(&report, market), ["keep", "fix_origin"]);
    }
}

#[tokio::test]
async fn a_carrier_that_flaps_never_rotates_a_mirror() {
    let report = play("flap").await;
    let kz = actions(&report, "kz");
    assert!(!kz.iter().any(|action| action == "pause" || action == "rotate"), "{kz:?}");
}

#[tokio::test]
async fn nothing_is_said_where_nothing_is_blocked() {
    let report = play("all-clear").await;
    let all = report["decisions"].as_array().unwrap();
    let served =
        all.iter().filter(|decision| ["m1", "m2"].iter().any(|mirror| decision["mirror"] == *mirror));
    assert_eq!(served.count(), 4, "{all:#?}");
    assert!(all.iter().all(|decision| decision["action"] == "keep"), "{all:#?}");
}

#[tokio::test]
async fn an_unknown_scenario_is_refused_with_the_names_known() {
    let output = tokio::process::Command::new(program("zerkalo-demo"))
        .args(["--scenario", "nonesuch", "--once"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("early-warning") && message.contains("whitelist-mode"), "{message}");
}

/// Processes whose command line names something below `dir`.
fn processes_below(dir: &Path) -> usize {
    let named = |entry: std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&*dir.to_string_lossy())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(named).filter(|named| *named).count()
}

#[tokio::test]
async fn a_demo_that_is_interrupted_or_killed_leaves_nothing_behind() {
    let _stage = stage().await;
    for signal in ["INT", "TERM", "KILL"] {
        let dir = tempfile::tempdir().unwrap();
        let mut demo = tokio::process::Command::new(program("zerkalo-demo"))
            .args(["--scenario", "all-clear"])
            .env("TMPDIR", dir.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
        while !lines.next_line().await.unwrap().unwrap().starts_with("everything runs") {}
        assert!(
            processes_below(dir.path()) > zerkalo_lab::fleet::AGENTS,
            "the look for processes finds none"
        );
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_some());

        let kill = format!("kill -{signal} {}", demo.id().unwrap());
        assert!(tokio::process::Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
        let status = demo.wait().await.unwrap();
        assert!(!status.success(), "{signal}: {status}");
        let began = Instant::now();
        while processes_below(dir.path()) > 0 || std::fs::read_dir(dir.path()).unwrap().next().is_some() {
            assert!(
                began.elapsed() < GONE_MAX,
                "SIG{signal} left something behind in {}",
                dir.path().display()
            );
            tokio::time::sleep(POLL).await;
        }
    }
}
