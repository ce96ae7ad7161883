//! `zerkalo agents`: who joined, where they stand, and who has no say any more.

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;
use zerkalo_core::words::AgentId;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::table::{Format, draw, instant, or_dash, print, print_json};

/// What can be done with agents.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// List the boxes enrolled.
    Ls {
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Take a box's say for ever: its stream is cut, and what it said counts no more.
    Revoke {
        #[arg(value_name = "AGENT")]
        agent: AgentId,
        /// Why; the box's host is told, and it is written down.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Give a box its say back that was locked because two boxes used its name. Stop one of them first.
    Unlock {
        #[arg(value_name = "AGENT")]
        agent: AgentId,
        /// Why; it is written down.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// Carries out one command about agents.
pub async fn agents(service: &mut Service, command: Agents) -> Result<()> {
    match command {
        Agents::Ls { format } => list(service, format).await,
        Agents::Revoke { agent, reason } => {
            let request = wire::RevokeAgentRequest { agent: agent.to_string(), reason };
            answer("revoke the agent", service.revoke_agent(request)).await?;
            print(&format!("{agent} is revoked: its stream is cut and what it said counts no more\n"))?;
            Ok(())
        }
        Agents::Unlock { agent, reason } => {
            let request = wire::UnlockAgentRequest { agent: agent.to_string(), reason };
            answer("unlock the agent", service.unlock_agent(request)).await?;
            print(&format!("{agent} has its say back: what it sends from now on counts\n"))?;
            Ok(())
        }
    }
}

/// Lists the agents.
async fn list(service: &mut Service, format: Format) -> Result<()> {
    let answered = answer("list the agents", service.list_agents(wire::ListAgentsRequest {})).await?;
    let agents = answered.agents;
    match format {
        Format::Json => print_json(&agents.iter().map(agent_json).collect::<Vec<_>>())?,
        Format::Table => print(&draw(
            [
                "agent",
                "owner",
                "market",
                "carrier",
                "access",
                "standing",
                "connected",
                "network",
                "clock",
                "last record",
                "records",
                "dropped",
            ],
            agents.iter().map(|agent| {
                let control = agent.carrier.is_empty();
                [
                    agent.agent.clone(),
                    agent.owner.clone(),
                    or_dash(&agent.market),
                    if control { "control".to_owned() } else { agent.carrier.clone() },
                    or_dash(&agent.access),
                    standing_text(agent),
                    if agent.connected { "yes" } else { "no" }.to_owned(),
                    network_text(agent),
                    agent.clock_ahead_millis.map_or("-".to_owned(), clock_text),
                    instant(agent.last_record_at_millis),
                    agent.records.to_string(),
                    agent.dropped.to_string(),
                ]
            }),
        ))?,
    }
    // What is in no column: who looks for a network must know how old the tables are.
    if format == Format::Table
        && agents.iter().any(|agent| agent.asn > 0)
        && !answered.networks_date.is_empty()
    {
        eprintln!("networks by tables of {}", answered.networks_date);
    }
    // A word in the table has no room for what to do.
    for agent in agents.iter().filter(|agent| format == Format::Table && agent.standing == "locked") {
        eprintln!(
            "{} is locked: {}. Stop one of the two boxes, then `zerkalo agents unlock {} --reason ...`, or revoke it",
            agent.agent, agent.standing_reason, agent.agent
        );
    }
    Ok(())
}

/// The network an agent's stream comes from, and whether that is where it should be.
fn network_text(agent: &wire::Agent) -> String {
    match agent.asn {
        0 => "-".to_owned(),
        asn if agent.elsewhere => format!("ELSEWHERE: AS{asn}"),
        asn => format!("AS{asn}"),
    }
}

/// How far a clock is off, to the second: the references' dates tell no more.
fn clock_text(ahead_millis: i64) -> String {
    let off_secs = ahead_millis.unsigned_abs().saturating_add(500) / 1000;
    match off_secs {
        0 | 1 => "right".to_owned(),
        secs if ahead_millis < 0 => format!("{secs} s slow"),
        secs => format!("{secs} s fast"),
    }
}

/// What its word is worth; collectors that say nothing of it know no other.
fn standing(agent: &wire::Agent) -> &str {
    if agent.standing.is_empty() { "good" } else { &agent.standing }
}

/// The same; what wants a person stands out.
fn standing_text(agent: &wire::Agent) -> String {
    match standing(agent) {
        "locked" => "LOCKED".to_owned(),
        standing => standing.to_owned(),
    }
}

fn agent_json(agent: &wire::Agent) -> serde_json::Value {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "agent": agent.agent,
        "owner": agent.owner,
        "control": agent.carrier.is_empty(),
        "market": some(&agent.market),
        "carrier": some(&agent.carrier),
        "access": some(&agent.access),
        "connected": agent.connected,
        "last_record_at_millis": (agent.last_record_at_millis > 0).then_some(agent.last_record_at_millis),
        "records": agent.records,
        "dropped": agent.dropped,
        "asn": (agent.asn > 0).then_some(agent.asn),
        "elsewhere": agent.elsewhere,
        "clock_ahead_millis": agent.clock_ahead_millis,
        "standing": standing(agent),
        "standing_since_millis": (agent.standing_since_millis > 0).then_some(agent.standing_since_millis),
        "standing_reason": some(&agent.standing_reason),
        "generation": agent.generation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_agent_stands_and_how_its_clock_goes_is_read_at_a_glance() {
        let agent = |asn, elsewhere| wire::Agent { asn, elsewhere, ..wire::Agent::default() };
        let check = |asn, elsewhere, text| assert_eq!(network_text(&agent(asn, elsewhere)), text);
        check(0, false, "-");
        check(29_355, false, "AS29355");
        check(9_198, true, "ELSEWHERE: AS9198");
        let check = |millis, text| assert_eq!(clock_text(millis), text);
        check(0, "right");
        check(-1_400, "right");
        check(1_500, "2 s fast");
        check(-300_000, "300 s slow");
        check(i64::MIN, "9223372036854776 s slow");
        let check = |standing: &str, text| {
            let agent = wire::Agent { standing: standing.to_owned(), ..wire::Agent::default() };
            assert_eq!(standing_text(&agent), text);
        };
        check("good", "good");
        // Of a collector that knows no standings.
        check("", "good");
        check("locked", "LOCKED");
        check("revoked", "revoked");
    }
}
