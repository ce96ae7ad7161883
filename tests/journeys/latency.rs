//! The end-to-end measurement takes every part of the road apart. How long each takes is no test's business.

use serde_json::Value;

use crate::programs::{program, stage};

#[tokio::test]
async fn a_round_is_timed_from_the_first_dropped_packet_to_the_webhook() {
    let _stage = stage().await;
    let output = tokio::process::Command::new(program("zerkalo-latency"))
        .args(["--rounds", "1", "--hurried", "-o", "json"])
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["awaited"], report["rounds"].as_array().unwrap().len()), (&"prepare".into(), 1));
    let round = &report["rounds"][0];
    // One owner alone moves no carrier.
    assert!(round["evidence"].as_u64().unwrap() >= 2, "{round}");
    let parts = report["parts"].as_array().unwrap();
    let sum: f64 = parts.iter().map(|part| part["max"].as_f64().unwrap()).sum();
    let total = report["total"]["max"].as_f64().unwrap();
    assert!((sum - total).abs() < 0.001, "{report}");
}
