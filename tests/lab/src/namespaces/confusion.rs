//! The report: expected against found, by leaf, with precision and recall; then each visit with its cost. Text only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use zerkalo_core::judge::RULES_VERSION;
use zerkalo_core::verdict::{Mechanism, Outcome, Trigger};

use super::run::Finding;

/// Hits and misses of one leaf.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    expected: u32,
    found: u32,
    both: u32,
}

/// The report as Markdown.
pub fn report(findings: &[Finding]) -> String {
    let told: Vec<&Finding> = findings.iter().filter(|finding| finding.planned.is_none()).collect();
    let right = told.iter().filter(|finding| finding.is_right()).count();
    let mut text = format!(
        "# Confusion\n\nRules {RULES_VERSION}. {right} of {} visits right; {} more are planned: not told apart today, \
         listed below, and left out of the counts.\n\n",
        told.len(),
        findings.len() - told.len(),
    );
    leaves(&mut text, &told);
    confusions(&mut text, &told);
    planned(&mut text, findings);
    visits(&mut text, findings);
    text
}

/// One line for who watches.
pub fn line(finding: &Finding) -> String {
    let mark = match (finding.is_right(), finding.planned) {
        (true, _) => "right",
        (false, None) => "WRONG",
        (false, Some(_)) => "planned",
    };
    let (expected, found) = (expected_text(finding), found_text(finding));
    let difference = if finding.is_right() { found } else { format!("{found}, expected {expected}") };
    format!("{mark:8} {:9} {}: {difference}", duration_text(finding), finding.name)
}

fn leaves(text: &mut String, told: &[&Finding]) {
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    for finding in told {
        let (expected, found) = (expected_leaf(finding), found_leaf(finding));
        counts.entry(expected).or_default().expected += 1;
        counts.entry(found).or_default().found += 1;
        if expected == found {
            counts.entry(expected).or_default().both += 1;
        }
    }
    text.push_str("## By leaf\n\n| leaf | expected | found | precision | recall |\n|---|--:|--:|--:|--:|\n");
    for (leaf, count) in counts {
        let (precision, recall) = (share(count.both, count.found), share(count.both, count.expected));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {leaf} | {} | {} | {precision} | {recall} |", count.expected, count.found);
    }
}

fn confusions(text: &mut String, told: &[&Finding]) {
    let pairs: BTreeSet<_> = told
        .iter()
        .filter(|finding| !finding.is_right())
        .map(|finding| (expected_text(finding), found_text(finding), finding.name.as_str()))
        .collect();
    text.push_str("\n## Wrong\n\n");
    if pairs.is_empty() {
        text.push_str("None.\n");
        return;
    }
    text.push_str("| expected | found | visit |\n|---|---|---|\n");
    for (expected, found, name) in pairs {
        let _ = writeln!(text, "| {expected} | {found} | {name} |");
    }
}

fn planned(text: &mut String, findings: &[Finding]) {
    text.push_str("\n## Planned\n\n| visit | wanted | found today | why |\n|---|---|---|---|\n");
    for finding in findings {
        if let Some(reason) = finding.planned {
            let (wanted, found) = (expected_text(finding), found_text(finding));
            let _ = writeln!(text, "| {} | {wanted} | {found} | {reason} |", finding.name);
        }
    }
}

fn visits(text: &mut String, findings: &[Finding]) {
    text.push_str("\n## Every visit\n\n| family | visit | expected | found | rule | | duration | bytes |\n");
    text.push_str("|---|---|---|---|---|---|--:|--:|\n");
    for finding in findings {
        let mark = match (finding.is_right(), finding.planned) {
            (true, _) => "",
            (false, None) => "**wrong**",
            (false, Some(_)) => "planned",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {mark} | {} | {} |",
            finding.family,
            finding.name,
            expected_text(finding),
            found_text(finding),
            finding.visited.verdict.rule,
            duration_text(finding),
            finding.visited.bytes,
        );
    }
}

fn leaf(outcome: Outcome, mechanism: Option<Mechanism>) -> &'static str {
    mechanism.map_or(outcome.as_str(), Mechanism::as_str)
}

fn expected_leaf(finding: &Finding) -> &'static str {
    leaf(finding.expected.outcome, finding.expected.mechanism)
}

fn found_leaf(finding: &Finding) -> &'static str {
    leaf(finding.visited.verdict.outcome, finding.visited.verdict.mechanism)
}

fn expected_text(finding: &Finding) -> String {
    let expected = finding.expected;
    words(expected.outcome, expected.mechanism, expected.trigger)
}

fn found_text(finding: &Finding) -> String {
    let verdict = &finding.visited.verdict;
    words(verdict.outcome, verdict.mechanism, verdict.trigger)
}

fn words(outcome: Outcome, mechanism: Option<Mechanism>, trigger: Option<Trigger>) -> String {
    let mechanism = mechanism.map(Mechanism::as_str);
    let words = [Some(outcome.as_str()), mechanism, trigger.map(Trigger::as_str)];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn share(part: u32, whole: u32) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.0} %", f64::from(part) * 100.0 / f64::from(whole)),
    }
}

fn duration_text(finding: &Finding) -> String {
    format!("{:.2} s", finding.visited.duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespaces::scenario::{Expected, OK, blocked};
    use crate::namespaces::visit::Visited;
    use zerkalo_core::verdict::Verdict;
    use zerkalo_core::words::UnixMillis;

    /// A visit that was found blocked by a reset.
    fn finding(expected: Expected, planned: Option<&'static str>) -> Finding {
        let verdict = Verdict {
            outcome: Outcome::Blocked,
            mechanism: Some(Mechanism::TlsReset),
            trigger: Some(Trigger::Unknown),
            rule: "tls.cut".to_owned(),
            rules_version: RULES_VERSION.to_owned(),
            basis: vec![],
            control: None,
            dissent: None,
        };
        let record = zerkalo_proto::record::decode(&crate::sample::body(UnixMillis(1))).unwrap();
        let visited = Visited { verdict, record, duration: std::time::Duration::from_secs(1), bytes: 9 };
        Finding { family: "TLS", name: "trick".to_owned(), expected, planned, visited }
    }

    #[test]
    fn a_wrong_verdict_fails_the_run_and_a_planned_one_does_not() {
        let check = |expected, planned, right, failure| {
            let finding = finding(expected, planned);
            assert_eq!((finding.is_right(), finding.is_failure()), (right, failure), "{expected:?}");
        };
        check(blocked(Mechanism::TlsReset, Trigger::Unknown), None, true, false);
        check(blocked(Mechanism::TlsReset, Trigger::Sni), None, false, true);
        check(blocked(Mechanism::TlsTimeout, Trigger::Unknown), None, false, true);
        check(OK, None, false, true);
        check(OK, Some("not yet"), false, false);
    }

    #[test]
    fn precision_and_recall_are_counted_by_leaf() {
        let right = blocked(Mechanism::TlsReset, Trigger::Unknown);
        let text =
            report(&[finding(right, None), finding(right, None), finding(OK, None), finding(OK, Some("y"))]);
        assert!(text.contains("| tls.reset | 2 | 3 | 67 % | 100 % |"), "{text}");
        assert!(text.contains("| ok | 1 | 0 | - | 0 % |"), "{text}");
        assert!(text.contains("2 of 3 visits right; 1 more are planned"), "{text}");
    }
}
