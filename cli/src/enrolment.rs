//! `zerkalo tokens` and `zerkalo agents`: who may join, and who did.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::json;
use zerkalo_core::words::{Access, CarrierId, OwnerId};
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::operator::Operator;
use crate::people;
use crate::table::{Format, draw, instant, or_dash, print, print_json};

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum Tokens {
    /// Make a token: for a box to enrol with once (--owner), or for a person to ask with (--name, --scope).
    Create(Create),
    /// List who may ask: people's tokens, never their text.
    Ls {
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Take a person's token away.
    Revoke {
        /// As `zerkalo tokens ls` shows it.
        name: String,
    },
}

/// A token for one box, or for one person.
#[derive(Debug, Args)]
pub struct Create {
    /// The person who hosts the box: one vote, however many boxes.
    #[arg(long, value_name = "OWNER", required_unless_present = "scope")]
    owner: Option<OwnerId>,
    /// The carrier the box sits behind, such as kz-kcell.
    #[arg(long, value_name = "CARRIER", requires = "access", required_unless_present_any = ["control", "scope"])]
    carrier: Option<CarrierId>,
    /// How the box reaches it: fixed or mobile.
    #[arg(long, value_name = "ACCESS", requires = "carrier", value_parser = access)]
    access: Option<Access>,
    /// The box stands outside any censored network.
    #[arg(long, conflicts_with_all = ["carrier", "access"])]
    control: bool,
    /// How long the token can be used.
    #[arg(long, value_name = "SECS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(60..=2_592_000))]
    valid_secs: u32,
    /// A person's name, under which their orders are journaled, such as anna.
    #[arg(long, value_name = "NAME", requires = "scope")]
    name: Option<String>,
    /// How far the person's token reaches.
    #[arg(long, value_enum, value_name = "SCOPE", requires = "name",
          conflicts_with_all = ["owner", "carrier", "access", "control"])]
    scope: Option<people::Scope>,
    /// How long a person's token is good.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=365))]
    days: u32,
    /// Write to this new file, readable by you alone, instead of printing: the box's token, or the person's operator.toml.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What can be done with agents.
#[derive(Debug, Subcommand)]
pub enum Agents {
    /// List the boxes enrolled.
    Ls {
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// Carries out one command about tokens.
pub async fn tokens(service: &mut Service, operator: &Operator, command: Tokens) -> Result<()> {
    match command {
        Tokens::Create(create) => match (&create.name, create.scope) {
            (Some(name), Some(scope)) => {
                let Create { days, out, format, .. } = &create;
                let (days, format, out) = (*days, *format, out.as_deref());
                people::create(service, operator, &people::Asked { name, scope, days, out, format }).await
            }
            _ => box_token(service, create).await,
        },
        Tokens::Ls { format } => people::list(service, format).await,
        Tokens::Revoke { name } => people::revoke(service, &name).await,
    }
}

/// Makes a box's token and hands it over.
async fn box_token(service: &mut Service, create: Create) -> Result<()> {
    // The file comes first: a token that cannot be written down would be lost.
    let file = create.out.as_deref().map(new_secret_file).transpose()?;
    let request = wire::CreateTokenRequest {
        owner: create.owner.as_ref().map(OwnerId::to_string).unwrap_or_default(),
        carrier: create.carrier.as_ref().map(CarrierId::to_string).unwrap_or_default(),
        access: create.access.map(|access| access.to_string()).unwrap_or_default(),
        control: create.control,
        valid_secs: create.valid_secs,
    };
    let made = answer("create the token", service.create_token(request)).await;
    let Some((path, file)) = create.out.as_deref().zip(file) else {
        return show_token(&made?, create.format);
    };
    let written = made.and_then(|made| {
        writeln!(&file, "{}", made.token)
            .and_then(|()| file.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(made)
    });
    if written.is_err() {
        // Best effort: an empty file left behind would only be in the way of the next try.
        let _ = std::fs::remove_file(path);
    }
    let expires_at_millis = written?.expires_at_millis;
    match create.format {
        Format::Json => print_json(&json!({ "file": path, "expires_at_millis": expires_at_millis }))?,
        Format::Table => print(&format!(
            "token written to {}; good for one enrolment until {}\n",
            path.display(),
            instant(expires_at_millis)
        ))?,
    }
    Ok(())
}

/// Lists the agents.
pub async fn agents(service: &mut Service, Agents::Ls { format }: Agents) -> Result<()> {
    let agents = answer("list the agents", service.list_agents(wire::ListAgentsRequest {})).await?.agents;
    match format {
        Format::Json => print_json(&agents.iter().map(agent_json).collect::<Vec<_>>())?,
        Format::Table => print(&draw(
            [
                "agent",
                "owner",
                "market",
                "carrier",
                "access",
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

fn access(text: &str) -> Result<Access, String> {
    text.parse().map_err(|error: zerkalo_core::words::WordError| error.to_string())
}

/// A file that must be new, for its owner's eyes.
pub fn new_secret_file(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(|| {
        format!("cannot create {}; the file must be new, in a directory you may write", path.display())
    })
}

fn show_token(made: &wire::CreateTokenResponse, format: Format) -> Result<()> {
    let expires_at_millis = made.expires_at_millis;
    match format {
        Format::Json => print_json(&json!({ "token": made.token, "expires_at_millis": expires_at_millis }))?,
        Format::Table => {
            print(&format!("{}\n", made.token))?;
            eprintln!("good for one enrolment until {}; it is not shown again", instant(expires_at_millis));
        }
    }
    Ok(())
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
    }
}
