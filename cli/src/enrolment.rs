//! `zerkalo tokens`: who may join, and who may ask.

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
use crate::table::{Format, instant, print, print_json};

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
