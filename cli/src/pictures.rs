//! `zerkalo pictures` and `zerkalo probe-now`: fresh looks at a mirror, and what they looked like.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use serde_json::json;
use zerkalo_core::target::Sha256;
use zerkalo_core::words::MirrorId;
use zerkalo_proto::operator_v1 as wire;

use crate::client::{Service, answer};
use crate::table::{Format, draw, instant, or_dash, print, print_json};

/// Most pictures asked for at once: the newest.
const PICTURES_MAX: u32 = 1_000;
/// Digits of a hash that people need.
const SHORT_HASH_LEN: usize = 12;

/// What can be done with pictures.
#[derive(Debug, Subcommand)]
pub enum Pictures {
    /// List the pictures that records of late name, newest first; failures too.
    Ls {
        /// Only of this mirror.
        #[arg(long, value_name = "MIRROR")]
        mirror: Option<MirrorId>,
        /// At most so many, the newest.
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=PICTURES_MAX as i64))]
        limit: u32,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Write one picture to a file.
    Get {
        /// Of the picture or of the record that names it, whole or its first digits, as `zerkalo pictures ls` shows it.
        hash: String,
        /// Where to; nothing there is overwritten.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
        format: Format,
    },
}

/// A wish for a fresh look.
#[derive(Debug, Args)]
pub struct ProbeNowArgs {
    /// As on the list.
    mirror: MirrorId,
    /// Take a picture of the page too, where the agent has a browser and an unmetered line.
    #[arg(long)]
    picture: bool,
    /// Ask only this agent; may be given several times. Without it: every agent that measures the mirror.
    #[arg(long = "agent", value_name = "AGENT")]
    agents: Vec<String>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Carries out one command about pictures.
pub async fn pictures(service: &mut Service, command: Pictures) -> Result<()> {
    match command {
        Pictures::Ls { mirror, limit, format } => {
            let mirror = mirror.map(String::from).unwrap_or_default();
            let found = list(service, mirror, limit).await?;
            match format {
                Format::Json => print_json(&found.iter().map(to_json).collect::<Vec<_>>())?,
                Format::Table => print(&draw(
                    ["at", "mirror", "agent", "carrier", "access", "cause", "bytes", "picture"],
                    found.iter().map(row),
                ))?,
            }
            Ok(())
        }
        Pictures::Get { hash, out, format } => get(service, &hash, &out, format).await,
    }
}

/// Asks for a fresh look.
pub async fn probe_now(service: &mut Service, args: ProbeNowArgs) -> Result<()> {
    let ProbeNowArgs { mirror, picture, agents, format } = args;
    let request = wire::RequestProbeRequest { mirror: mirror.to_string(), agents, picture };
    let asked = answer("ask for a probe", service.request_probe(request)).await?.agents;
    match format {
        Format::Json => print_json(&json!({ "agents": asked }))?,
        Format::Table if asked.is_empty() => {
            print("nobody was asked: none of the agents meant is on the uplink\n")?;
        }
        Format::Table => {
            let found =
                if picture { "`zerkalo pictures ls` shows what they see" } else { "see `zerkalo matrix`" };
            print(&format!("asked, each within its own budget; {found}:\n  {}\n", asked.join("\n  ")))?;
        }
    }
    Ok(())
}

async fn list(service: &mut Service, mirror: String, limit: u32) -> Result<Vec<wire::Picture>> {
    let request = wire::ListPicturesRequest { mirror, limit };
    Ok(answer("list the pictures", service.list_pictures(request)).await?.pictures)
}

async fn get(service: &mut Service, hash: &str, out: &Path, format: Format) -> Result<()> {
    let sha256 = whole(service, hash).await?;
    let found =
        answer("fetch the picture", service.fetch_picture(wire::FetchPictureRequest { sha256 })).await?;
    let picture = found.picture.context("the collector sent no picture; upgrade it")?;
    let digest = Sha256::of(&found.content).to_string();
    ensure!(digest == picture.sha256, "the collector sent bytes of digest {digest}, not {}", picture.sha256);
    let write = || File::create_new(out).and_then(|mut file| file.write_all(&found.content));
    write().with_context(|| format!("{} cannot be written", out.display()))?;
    match format {
        Format::Json => print_json(&to_json(&picture))?,
        Format::Table => print(&format!(
            "{}: {} of {}, {} bytes, taken by {} from {}, named by record {}\n",
            out.display(),
            picture.media_type,
            picture.url,
            picture.len,
            picture.agent,
            picture.address,
            picture.record
        ))?,
    }
    Ok(())
}

/// A hash of which a person may have given the first digits alone.
async fn whole(service: &mut Service, hash: &str) -> Result<String> {
    if hash.len() >= Sha256::default().to_string().len() {
        return Ok(hash.to_owned());
    }
    let pictures = list(service, String::new(), PICTURES_MAX).await?;
    let hashes = pictures.into_iter().flat_map(|picture| [picture.sha256, picture.record]);
    let mut found: Vec<_> = hashes.filter(|known| !hash.is_empty() && known.starts_with(hash)).collect();
    found.sort();
    found.dedup();
    ensure!(found.len() < 2, "{hash} is the beginning of {} hashes; give more digits", found.len());
    found.pop().with_context(|| format!("no picture's hash begins with {hash:?}; see `zerkalo pictures ls`"))
}

fn row(picture: &wire::Picture) -> [String; 8] {
    let shown = match (picture.failure.as_str(), picture.stored) {
        ("", true) => picture.sha256[..SHORT_HASH_LEN.min(picture.sha256.len())].to_owned(),
        ("", false) => "not here".to_owned(),
        (failure, _) => format!("none: {failure}"),
    };
    [
        instant(picture.at_millis),
        picture.mirror.clone(),
        picture.agent.clone(),
        if picture.carrier.is_empty() { "control".to_owned() } else { picture.carrier.clone() },
        or_dash(&picture.access),
        picture.cause.clone(),
        if picture.failure.is_empty() { picture.len.to_string() } else { "-".to_owned() },
        shown,
    ]
}

fn to_json(picture: &wire::Picture) -> serde_json::Value {
    json!({
        "sha256": picture.sha256,
        "record": picture.record,
        "agent": picture.agent,
        "owner": picture.owner,
        "carrier": picture.carrier,
        "access": picture.access,
        "mirror": picture.mirror,
        "url": picture.url,
        "at": picture.at_millis,
        "address": picture.address,
        "media_type": picture.media_type,
        "len": picture.len,
        "cause": picture.cause,
        "failure": picture.failure,
        "stored": picture.stored,
    })
}
