//! `zerkalo policy check`: a market's policy in plain words, or everything that is wrong with it, each with its place.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use zerkalo_core::catalogue::Catalogue;
use zerkalo_core::policy::Policy;

use crate::table::{Format, print, print_json};

/// Largest file read, in bytes: a policy is a page, a catalogue a few.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy against itself and the catalogue, and say in plain words what it does.
    ///
    /// With -o json: {"market": ..., "version": ..., "says": [...]}.
    Check(Check),
}

/// The policy to check.
#[derive(Debug, Args)]
pub struct Check {
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The catalogue it is for [default: the built-in one]
    #[arg(long, value_name = "FILE")]
    catalogue: Option<PathBuf>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Carries out one command on policies.
pub fn policy(PolicyCommand::Check(args): &PolicyCommand) -> Result<()> {
    let catalogue = match &args.catalogue {
        Some(path) => Catalogue::parse(&read(path)?).with_context(|| path.display().to_string())?,
        None => Catalogue::built_in(),
    };
    let policy = match Policy::parse(&read(&args.file)?, &catalogue) {
        Ok(policy) => policy,
        Err(faults) => {
            let lines: String = faults.0.iter().map(|fault| format!("\n  {fault}")).collect();
            bail!("{} has {} fault(s):{lines}", args.file.display(), faults.0.len());
        }
    };
    let says = policy.explain(&catalogue);
    match args.format {
        Format::Json => {
            print_json(&json!({ "market": policy.market, "version": policy.version, "says": says }))?;
        }
        Format::Table => {
            let lines: String = says.iter().map(|sentence| format!("- {sentence}\n")).collect();
            print(&format!("policy {} of market {}\n{lines}", policy.version, policy.market))?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let place = || format!("cannot read {}", path.display());
    let len = std::fs::metadata(path).with_context(place)?.len();
    if len > FILE_LEN_MAX {
        bail!("{} has {len} bytes; the limit is {FILE_LEN_MAX}", path.display());
    }
    std::fs::read_to_string(path).with_context(place)
}
