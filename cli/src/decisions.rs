//! `zerkalo decisions`: the log of what each market should do, and what a decision rests on.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;
use zerkalo_core::market::Decision;
use zerkalo_core::verdict::Verdict;
use zerkalo_core::words::MarketId;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::table::{Format, LogFormat, draw, instant, print, print_json};

/// Most decisions asked for at once: the newest.
const DECISIONS_MAX: u32 = 10_000;

/// What can be done with decisions.
#[derive(Debug, Subcommand)]
pub enum Decisions {
    /// List the decisions, oldest first.
    Ls {
        /// Only of this market.
        #[arg(long, value_name = "MARKET")]
        market: Option<MarketId>,
        /// At most so many, the newest.
        #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=DECISIONS_MAX as i64))]
        limit: u32,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = LogFormat::Table)]
        format: LogFormat,
    },
    /// Show a decision with everything it rests on.
    Explain {
        /// As `zerkalo decisions ls` shows it.
        id: String,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// Carries out one question about decisions.
pub async fn decisions(service: &mut Service, command: Decisions) -> Result<()> {
    match command {
        Decisions::Ls { market, limit, format } => {
            let market = market.map(String::from).unwrap_or_default();
            let request = wire::ListDecisionsRequest { market, limit };
            let found = answer("list the decisions", service.list_decisions(request)).await?.decisions;
            print_log(&found.into_iter().map(|decision| decision.json).collect::<Vec<_>>(), format)
        }
        Decisions::Explain { id, format } => {
            let request = wire::ExplainDecisionRequest { id };
            let found = answer("explain the decision", service.explain_decision(request)).await?;
            explain(found, format)
        }
    }
}

/// Prints logged decisions: JSON exactly as logged, or a table.
pub fn print_log(logged: &[String], format: LogFormat) -> Result<()> {
    let text = match format {
        LogFormat::Jsonl => logged.iter().map(|line| format!("{line}\n")).collect(),
        LogFormat::Json if logged.is_empty() => "[]\n".to_owned(),
        LogFormat::Json => format!("[\n{}\n]\n", logged.join(",\n")),
        LogFormat::Table => {
            let decisions = logged.iter().map(|line| parse(line)).collect::<Result<Vec<_>>>()?;
            draw(["at", "market", "mirror", "action", "reasons", "decision"], decisions.iter().map(row))
        }
    };
    print(&text)?;
    Ok(())
}

fn parse(line: &str) -> Result<Decision> {
    serde_json::from_str(line).context(
        "the collector sent a decision this program cannot read; upgrade it, or use -o jsonl for the bytes as they are",
    )
}

fn row(decision: &Decision) -> [String; 6] {
    [
        decision.at.to_string(),
        decision.market.to_string(),
        decision.mirror.to_string(),
        decision.action.as_str().to_owned(),
        decision.reasons.join("\n"),
        decision.id.clone(),
    ]
}

fn explain(found: wire::ExplainDecisionResponse, format: Format) -> Result<()> {
    let Some(logged) = found.decision else {
        bail!("the collector explained no decision; upgrade it, it is older than this program");
    };
    let verdicts = found
        .evidence
        .iter()
        .map(|item| {
            serde_json::from_str(&item.verdict_json)
                .with_context(|| format!("the verdict on record {} cannot be read", item.record))
        })
        .collect::<Result<Vec<Verdict>>>()?;
    match format {
        Format::Json => {
            let decision: serde_json::Value = serde_json::from_str(&logged.json)
                .context("the collector sent a decision that is no JSON; its log says more")?;
            let evidence: Vec<_> = found.evidence.iter().zip(&verdicts).map(evidence_json).collect();
            print_json(&json!({ "decision": decision, "evidence": evidence }))?;
        }
        Format::Table => {
            let mut text = heading(&parse(&logged.json)?);
            for (item, verdict) in found.evidence.iter().zip(&verdicts) {
                text += &evidence_text(item, verdict);
            }
            print(&text)?;
        }
    }
    Ok(())
}

fn heading(decision: &Decision) -> String {
    let previous = decision.previous.map_or("none", |action| action.as_str());
    let mut text = format!(
        "decision {} of {}\nmarket {}, mirror {} ({}): {} (before: {previous})\nrules {}, policy {}\n\nreasons\n",
        decision.id,
        decision.at,
        decision.market,
        decision.mirror,
        decision.url,
        decision.action.as_str(),
        decision.rules_version,
        decision.policy_version,
    );
    for reason in &decision.reasons {
        text += &format!("  - {reason}\n");
    }
    text += "\ncarriers\n";
    for carrier in &decision.carriers {
        text += &format!("  {}: {}\n", carrier.name, carrier.state.as_str());
        for cell in &carrier.cells {
            text += &format!(
                "    {}: {}, {} of {} owners see it blocked",
                cell.access,
                cell.state.as_str(),
                cell.flagged,
                cell.owners
            );
            let mechanisms: Vec<_> = cell.mechanisms.iter().map(|mechanism| mechanism.as_str()).collect();
            if !mechanisms.is_empty() {
                text += &format!(" by {}", mechanisms.join(", "));
            }
            text += "\n";
        }
    }
    text + "\nevidence\n"
}

fn evidence_text(item: &wire::Evidence, verdict: &Verdict) -> String {
    let station = if item.carrier.is_empty() { "control" } else { &item.carrier };
    let mut text = format!(
        "  {} {} of {} at {station} {}: {}",
        instant(item.at_millis),
        item.agent,
        item.owner,
        item.access,
        verdict.outcome
    );
    if let Some(mechanism) = verdict.mechanism {
        text += &format!(", {mechanism}");
    }
    if let Some(trigger) = verdict.trigger {
        text += &format!(", triggered by {trigger}");
    }
    text += &format!(" (rule {}, rules {})\n", verdict.rule, verdict.rules_version);
    for fact in &verdict.basis {
        text += &format!("    - {fact}\n");
    }
    text + &format!("    record {}\n", item.record)
}

fn evidence_json((item, verdict): (&wire::Evidence, &Verdict)) -> serde_json::Value {
    json!({
        "record": item.record,
        "agent": item.agent,
        "owner": item.owner,
        "carrier": item.carrier,
        "access": item.access,
        "at": item.at_millis,
        "verdict": verdict,
    })
}
