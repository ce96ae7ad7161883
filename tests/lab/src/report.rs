//! What a play came to: its checks, and the one JSON object that tests read.

use serde::Serialize;
use serde_json::{Map, Value, json};
use zerkalo_core::market::Decision;
use zerkalo_proto::operator_v1::Matrix;

use crate::internet::{BYSTANDER, MIRROR};
use crate::observation::Observation;
use crate::scenario::Scenario;
use crate::webhook::Received;

/// One expectation and whether it held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub passed: bool,
    pub detail: String,
}

/// When an act's state was reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActTiming {
    /// What happened, in words.
    pub act: String,
    /// Seconds from the act's beginning to its state.
    pub reached_secs: f64,
}

/// How long things took.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Until every process ran.
    pub started_secs: f64,
    pub acts: Vec<ActTiming>,
    pub total_secs: f64,
}

/// What a play came to.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub scenario: String,
    pub story: String,
    pub passed: bool,
    pub checks: Vec<Check>,
    pub decisions: Vec<Value>,
    pub webhooks: Vec<Received>,
    pub matrix: Value,
    pub timings: Timings,
}

impl Report {
    /// Judges the last look against the scenario's expectations; `early` are checks made on the way.
    pub fn new(scenario: &Scenario, last: &Observation, early: Vec<Check>, timings: Timings) -> Self {
        let mut checks = early;
        checks.extend(check_decisions(scenario, last));
        checks.extend(check_carriers(scenario, last));
        checks.push(check_webhooks(last));
        Self {
            scenario: scenario.name.to_owned(),
            story: scenario.story.to_owned(),
            passed: checks.iter().all(|check| check.passed),
            checks,
            decisions: last.decisions.iter().map(decision_json).collect(),
            webhooks: last.webhooks.clone(),
            matrix: matrix_json(&last.matrix),
            timings,
        }
    }
}

fn check(name: impl Into<String>, passed: bool, detail: impl Into<String>) -> Check {
    Check { name: name.into(), passed, detail: detail.into() }
}

fn check_decisions(scenario: &Scenario, last: &Observation) -> Vec<Check> {
    let mut checks = Vec::new();
    for (market, expected) in &scenario.expect.decided {
        let actions = last.actions(market, MIRROR);
        let mut rest = actions.iter();
        let in_order = expected.iter().all(|action| rest.any(|taken| taken == action));
        let name = format!("{market} decides {}", expected.join(", then "));
        checks.push(check(name, in_order, format!("decided: {}", actions.join(", "))));
    }
    for (market, forbidden) in &scenario.expect.never {
        let actions = last.actions(market, MIRROR);
        let clean = !actions.iter().any(|action| forbidden.contains(action));
        let name = format!("{market} never decides {}", forbidden.join(" or "));
        checks.push(check(name, clean, format!("decided: {}", actions.join(", "))));
    }
    for market in ["ru", "kz"] {
        let actions = last.actions(market, BYSTANDER);
        let quiet = actions.iter().all(|action| scenario.expect.bystander.contains(action));
        let name = format!("{market} leaves the mirror nobody attacks alone");
        checks.push(check(name, quiet, format!("decided: {}", actions.join(", "))));
    }
    let found: Vec<_> =
        last.replacements().into_iter().map(|((market, mirror), by)| (market, mirror, by)).collect();
    let expected: Vec<_> =
        scenario.expect.replaced.iter().map(|(market, by)| (*market, MIRROR, *by)).collect();
    let name = match scenario.expect.replaced {
        Some((market, by)) => format!("{market} puts {by} in the place of the mirror under attack"),
        None => "no mirror is put in another's place".to_owned(),
    };
    checks.push(check(name, found == expected, format!("replaced: {found:?}")));
    let reasons = last.decisions.iter().all(|decision| !decision.reasons.is_empty());
    checks.push(check("every decision states its reasons", reasons, ""));
    checks
}

fn check_carriers(scenario: &Scenario, last: &Observation) -> Vec<Check> {
    let found = |(carrier, state, mechanism): &(&str, &str, &str)| {
        let name = format!("{carrier} ends {state} {mechanism}").trim_end().to_owned();
        let Some(column) = last.carrier(carrier, MIRROR) else {
            return check(name, false, "not in the matrix");
        };
        let mechanisms: Vec<&str> =
            column.cells.iter().flat_map(|cell| &cell.mechanisms).map(String::as_str).collect();
        let explained = mechanism.is_empty() || mechanisms.first().is_some_and(|m| m.starts_with(mechanism));
        let detail = format!("{} {}", column.state, mechanisms.join(" "));
        check(name, column.state == *state && explained, detail.trim_end())
    };
    scenario.expect.carriers.iter().map(found).collect()
}

fn check_webhooks(last: &Observation) -> Check {
    let told = |decision: &Decision| {
        last.webhooks.iter().any(|webhook| {
            webhook.id == decision.id
                && webhook.verified
                && webhook.body["data"]["id"] == decision.id.as_str()
        })
    };
    let missing: Vec<&str> =
        last.decisions.iter().filter(|decision| !told(decision)).map(|d| d.id.as_str()).collect();
    let forged = last.webhooks.iter().filter(|webhook| !webhook.verified).count();
    let detail = format!(
        "{} decisions, {} webhooks; missing: [{}]; signature at fault: {forged}",
        last.decisions.len(),
        last.webhooks.len(),
        missing.join(", ")
    );
    check(
        "every decision is announced by a webhook whose signature holds",
        missing.is_empty() && forged == 0,
        detail,
    )
}

fn decision_json(decision: &Decision) -> Value {
    json!({
        "id": decision.id,
        "at": decision.at.to_rfc3339(),
        "at_millis": decision.at.0,
        "market": decision.market,
        "mirror": decision.mirror,
        "action": decision.action,
        "previous": decision.previous,
        "effect": decision.effect,
        "replacement": decision.replacement,
        "reasons": decision.reasons,
    })
}

/// `{market: {mirror: {url, action, decision, carriers: {carrier: {name, state, cells: [...]}}}}}`.
fn matrix_json(matrix: &Matrix) -> Value {
    let mut markets: Map<String, Value> = Map::new();
    for row in &matrix.rows {
        let mut carriers = Map::new();
        for column in &row.carriers {
            let cells: Vec<Value> = column
                .cells
                .iter()
                .map(|cell| {
                    json!({
                        "access": cell.access,
                        "state": cell.state,
                        "owners": cell.owners,
                        "flagged": cell.flagged,
                        "mechanisms": cell.mechanisms,
                    })
                })
                .collect();
            let view = json!({ "name": column.name, "state": column.state, "cells": cells });
            carriers.insert(column.carrier.clone(), view);
        }
        let mirror = json!({
            "url": row.url, "action": row.action, "decision": row.decision_id, "carriers": carriers,
        });
        let market = markets.entry(&row.market).or_insert_with(|| json!({}));
        if let Value::Object(mirrors) = market {
            mirrors.insert(row.mirror.clone(), mirror);
        }
    }
    Value::Object(markets)
}
