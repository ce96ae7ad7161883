//! A few scenarios of the lab's second floor, with their healthy twins: the agent as built, in network namespaces. `make
//! lab` plays them all.

use zerkalo_lab::namespaces::run::Finding;
use zerkalo_lab::namespaces::{confusion, run};

use crate::programs;

/// One of each family.
const SAMPLE: [&str; 7] = [
    "nxdomain",
    "syn_answered_by_a_reset",
    "reset_after_the_hello",
    "state_authority",
    "origin_answers_451",
    "freeze_after_24_kb",
    "whitelist_mode",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_censors_is_told_apart_and_leaves_nothing_behind() {
    let missing = run::missing();
    if !missing.is_empty() {
        eprintln!("!!! SKIPPED: the lab's second floor needs {}", missing.join(", "));
        return;
    }
    let _stage = programs::stage().await;
    let findings = run::play(2, |name| SAMPLE.contains(&name), |_| {}).await.unwrap();
    assert_eq!(findings.len(), 2 * SAMPLE.len());
    let wrong = |findings: &[Finding]| -> Vec<Finding> {
        findings.iter().filter(|finding| finding.is_failure()).cloned().collect()
    };
    let lines = |wrong: &[Finding]| wrong.iter().map(confusion::line).collect::<Vec<_>>().join("\n");
    let suspects = wrong(&findings);
    if !suspects.is_empty() {
        // A busy machine eats deadlines: those again, one by one.
        println!("once more:\n{}", lines(&suspects));
        let is_suspect = |name: &str| suspects.iter().any(|finding| finding.name.starts_with(name));
        let guilty = wrong(&run::play(1, is_suspect, |_| {}).await.unwrap());
        assert!(guilty.is_empty(), "{}", lines(&guilty));
    }
    let own = format!("zkl-{}-", std::process::id());
    let left = std::fs::read_dir("/run/netns").unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).collect();
    assert!(left.is_empty(), "{left:?}");
}
