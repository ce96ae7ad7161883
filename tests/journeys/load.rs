//! The load generator loads a real collector and reports what was acknowledged.

use serde_json::Value;

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
