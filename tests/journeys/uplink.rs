//! Attacks on an agent's own line: the real programs in network namespaces, and a collector restarted under many agents.
//! `make uplink` plays every attack twenty times.

use zerkalo_lab::namespaces::{run, uplink};
use zerkalo_lab::restart;

use crate::programs;

/// Side by side: the longest lasts half a minute.
const SAMPLE: [&str; 3] = ["freeze_after_16_kb_and_no_udp", "reset_on_sni", "state_ca"];
/// Agents under the restart; `zerkalo-load --restart --agents 1000` is the large one.
const AGENTS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_attacks_on_the_uplink_costs_no_record() {
    let missing = run::missing();
    if !missing.is_empty() {
        eprintln!("!!! SKIPPED: attacks on the uplink need {}", missing.join(", "));
        return;
    }
    let _stage = programs::stage().await;
    let is_wanted = |name: &str| SAMPLE.contains(&name);
    let outcomes = uplink::play(SAMPLE.len(), 1, is_wanted, |_| {}).await.unwrap();
    let rows = uplink::rows(&outcomes);
    println!("{}", uplink::table(&rows));
    assert_eq!(rows.len(), SAMPLE.len());
    for row in rows {
        let told = uplink::table(std::slice::from_ref(&row));
        assert!(row.lost == 0 && row.double == 0 && row.faults.is_empty(), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_agent_is_back_after_a_restart_and_nothing_acknowledged_is_missing() {
    let _stage = programs::stage().await;
    let report = restart::run(AGENTS).await.unwrap();
    println!("{report:?}");
    assert_eq!((report.agents, report.lost, report.double), (AGENTS, 0, 0));
    assert!(report.records >= 2 * AGENTS, "{report:?}");
}
