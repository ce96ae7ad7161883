//! `zerkalo decisions`: the log of what each market should do, and what a decision rests on.

use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zerkalo_core::fold::Fold;
use zerkalo_core::market::Decision;
use zerkalo_core::verdict::Verdict;
use zerkalo_core::words::MarketId;
use zerkalo_proto::operator::{decision_to_wire, evidence_to_wire};
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::evidence::{self, Exhibit, Records};
use crate::journal::read_journal;
use crate::packets::steps;
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
    /// Show a decision with everything it rests on, down to the packets; each record's signature is checked.
    Explain(Explain),
}

/// The decision to explain.
#[derive(Debug, Args)]
pub struct Explain {
    /// As `zerkalo decisions ls` shows it.
    id: String,
    /// Ask no collector: fold a collector's DIR/journal again, and read the records there.
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
    /// Of the reasons.
    #[arg(long, value_enum, default_value_t = Language::En)]
    language: Language,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A language that reasons are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    En,
    Ru,
    Kk,
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
        Decisions::Explain(args) => {
            let request = wire::ExplainDecisionRequest { id: args.id.clone() };
            let found = answer("explain the decision", service.explain_decision(request)).await?;
            let records = evidence::fetch(service, &args.id).await;
            let (records, failure) = match records {
                Ok(records) => (records, None),
                // What is known is shown first.
                Err(error) => (Records::default(), Some(error)),
            };
            explain(found, &args, &records)?;
            failure.map_or(Ok(()), Err)
        }
    }
}

/// Folds a journal up to the decision, and reads the records it rests on from there too.
pub fn explain_offline(args: &Explain) -> Result<()> {
    let journal = args.journal.as_deref().context("no journal is named")?;
    let (mut fold, mut found) = (Fold::new(), None);
    read_journal(journal, |entry| {
        found = fold.apply(&entry).decisions.into_iter().find(|decision| decision.id == args.id);
        Ok(if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let Some(decision) = found else {
        bail!("the journal makes no decision {:?}; `zerkalo replay` prints those it makes", args.id);
    };
    let controls = decision.evidence.iter().filter_map(|item| item.verdict.control);
    let wanted = decision.evidence.iter().map(|item| item.record).chain(controls).collect();
    let records = evidence::read_from(journal, wanted)?;
    let evidence = decision.evidence.iter().map(evidence_to_wire).collect();
    let logged = Some(decision_to_wire(&decision, decision.to_json()));
    explain(wire::ExplainDecisionResponse { decision: logged, evidence }, args, &records)
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

fn explain(found: wire::ExplainDecisionResponse, args: &Explain, records: &Records) -> Result<()> {
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
    match args.format {
        Format::Json => {
            let decision: serde_json::Value = serde_json::from_str(&logged.json)
                .context("the collector sent a decision that is no JSON; its log says more")?;
            let evidence = found.evidence.iter().zip(&verdicts);
            let evidence: Vec<_> =
                evidence.map(|(item, verdict)| evidence_json(item, verdict, records)).collect();
            print_json(&json!({ "decision": decision, "evidence": evidence }))?;
        }
        Format::Table => {
            let mut text = heading(&parse(&logged.json)?, args.language);
            for (item, verdict) in found.evidence.iter().zip(&verdicts) {
                text += &evidence_text(item, verdict);
                text += &measured(item, verdict, records);
            }
            print(&text)?;
        }
    }
    match records.faults() {
        0 => Ok(()),
        faults => bail!(
            "{faults} of {} records are not what the decision names them for, as shown; run `zerkalo-collector verify` \
             on the collector's directory",
            records.found.len()
        ),
    }
}

/// What the record and its control measured, where they are at hand.
fn measured(item: &wire::Evidence, verdict: &Verdict, records: &Records) -> String {
    let control = verdict.control.map(|hash| hash.to_string());
    let named = [("measured", Some(&item.record)), ("the control measured", control.as_ref())];
    let mut text = String::new();
    for (what, hash) in named {
        let Some(hash) = hash else { continue };
        if records.missing.contains(hash) {
            text += &format!("    {what}: record {hash} is not in the journal any more\n");
        }
        let Some(exhibit) = records.found.get(hash) else { continue };
        match &exhibit.facts {
            Ok(facts) => {
                text += &format!("    {what} (record {hash}, signed by {})\n", exhibit.signer);
                text.extend(steps(facts).iter().map(|step| format!("      {step}\n")));
            }
            Err(fault) => {
                text += &format!(
                    "    {what}: NOTHING THAT COUNTS (record {hash}, by {}): {fault}\n",
                    exhibit.signer
                );
            }
        }
    }
    text
}

fn heading(decision: &Decision, language: Language) -> String {
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
    let reasons = match language {
        Language::En => &decision.reasons,
        Language::Ru => &decision.texts.ru,
        Language::Kk => &decision.texts.kk,
    };
    for reason in reasons {
        text += &format!("  - {reason}\n");
    }
    text += &standing(decision, language);
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

/// What is made of the decision, and what it was made of.
fn standing(decision: &Decision, language: Language) -> String {
    let mut text = String::new();
    if let Some(advice) = &decision.advice {
        let advice = match language {
            Language::En => &advice.en,
            Language::Ru => &advice.ru,
            Language::Kk => &advice.kk,
        };
        text += &format!("\nadvice\n  {advice}\n");
    }
    text += &format!("\neffect {}", decision.effect);
    if let Some(one) = &decision.replacement {
        text += &format!(", replaced by {} ({})", one.mirror, one.url);
    }
    if let Some(waited) = &decision.carries_out {
        text += &format!(", carries out {waited}");
    }
    let late_secs = decision.at.since_millis(decision.possible_at) / 1_000;
    text += &format!("\npossible at {}, taken {late_secs} s later\n", decision.possible_at);
    text + &format!("input sha256 {}, journal entry {}\n", decision.input_sha256, decision.journal_position)
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

fn evidence_json(item: &wire::Evidence, verdict: &Verdict, records: &Records) -> serde_json::Value {
    let of = |hash: &str| records.found.get(hash);
    let measured =
        |exhibit: Option<&Exhibit>| exhibit.and_then(|one| one.facts.as_ref().ok()).map(|facts| steps(facts));
    let fault = |exhibit: Option<&Exhibit>| exhibit.and_then(|one| one.facts.as_ref().err()).cloned();
    let (own, control) = (of(&item.record), verdict.control.and_then(|hash| of(&hash.to_string())));
    json!({
        "record": item.record,
        "agent": item.agent,
        "owner": item.owner,
        "carrier": item.carrier,
        "access": item.access,
        "at": item.at_millis,
        "verdict": verdict,
        "signed_by": own.map(|exhibit| &exhibit.signer),
        "measured": measured(own),
        "fault": fault(own),
        "control_signed_by": control.map(|exhibit| &exhibit.signer),
        "control_measured": measured(control),
        "control_fault": fault(control),
    })
}
