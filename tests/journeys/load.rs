//! The load generator loads a real collector and reports what was acknowledged, what idle agents cost and how memory goes.

use std::time::Duration;

use serde_json::Value;
use zerkalo_lab::soak;

use crate::programs::{program, stage};

#[tokio::test]
async fn a_small_load_is_acknowledged_whole_and_measured() {
    let _stage = stage().await;
    let output = tokio::process::Command::new(program("zerkalo-load"))
        .args(["--agents", "3", "--records", "300", "-o", "json"])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["agents"], &report["records"]), (&3.into(), &900.into()));
    for measured in ["records_per_sec", "ack_p50_millis", "ack_p99_millis", "journal_bytes_per_record"] {
        assert!(report[measured].as_f64().unwrap() > 0.0, "{measured}: {report}");
    }
    assert!(report["journal_bytes_per_record"].as_f64() > report["body_bytes"].as_f64(), "{report}");
    assert!(!report["machine"]["cpu"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn idle_agents_are_all_connected_and_their_cost_is_measured() {
    let _stage = stage().await;
    let output = tokio::process::Command::new(program("zerkalo-load"))
        .args(["--idle", "--agents", "20", "--secs", "1", "-o", "json"])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["agents"], &report["connected"]), (&20.into(), &20.into()));
    assert!(report["rss_after_kib"].as_u64() > report["rss_before_kib"].as_u64(), "{report}");
    assert!(report["collector_connect_cpu_secs"].as_f64().unwrap() > 0.0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_soak_has_every_record_acknowledged_and_a_slope() {
    let _stage = stage().await;
    let report = soak::run(10, Duration::from_secs(4)).await.unwrap();
    println!("{report:?}");
    assert!(report.records >= 10 && report.streams >= 10, "{report:?}");
    assert!(report.samples > 50 && report.rss_warm_kib > 0 && report.slope_kib_per_hour.is_finite());
}
