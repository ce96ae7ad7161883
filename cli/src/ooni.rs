//! `zerkalo import ooni`: judges OONI's Web Connectivity measurements by our rules, and says what they do not carry.
//!
//! A file holds one JSON object, or one a line, plain or gzipped. A measurement that cannot be read is named with its
//! line; the others are judged.

mod file;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::ooni::{Judgement, Measurement, import, judge_import};

use crate::certificate::read_certificate;
use crate::fingerprints::read_fingerprints;
use crate::table::{Format, draw, or_dash, print, print_json};
use file::for_each_measurement;

/// Most measurements of one call: all are held until they are printed.
const MEASUREMENTS_MAX: usize = 100_000;

/// What others measured.
#[derive(Debug, Subcommand)]
pub enum Import {
    /// Judge OONI's Web Connectivity measurements by our rules.
    Ooni(OoniArgs),
}

#[derive(Debug, Args)]
pub struct OoniArgs {
    /// One JSON object, or one a line; plain or gzipped. `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The fingerprint file [default: the built-in fingerprints].
    #[arg(long, value_name = "FILE.toml")]
    fingerprints: Option<PathBuf>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Judges and prints.
pub fn import_ooni(args: &OoniArgs) -> Result<()> {
    let fingerprints = read_fingerprints(args.fingerprints.as_deref())?;
    let (mut judgements, mut unread) = (Vec::new(), 0);
    for path in &args.files {
        for_each_measurement(path, |line, text| {
            match judge_text(text, &fingerprints) {
                Ok(judgement) => judgements.push(judgement),
                Err(error) => {
                    unread += 1;
                    eprintln!("error: {} line {line}: {error:#}", path.display());
                }
            }
            if judgements.len() > MEASUREMENTS_MAX {
                bail!("more than {MEASUREMENTS_MAX} measurements; give fewer files at once");
            }
            Ok(())
        })?;
    }
    match args.format {
        Format::Json => print_json(&judgements)?,
        Format::Table => print(&draw_judgements(&judgements))?,
    }
    match unread {
        0 => Ok(()),
        count => bail!("{count} of {} measurements could not be judged", count + judgements.len()),
    }
}

fn judge_text(text: &str, fingerprints: &Fingerprints) -> Result<Judgement> {
    let measurement = Measurement::parse(text)?;
    Ok(judge_import(&import(&measurement, read_certificate)?, fingerprints))
}

fn draw_judgements(judgements: &[Judgement]) -> String {
    let dash = || "-".to_owned();
    let rows = judgements.iter().map(|judged| {
        [
            judged.input.clone(),
            judged.country.map_or_else(dash, |country| country.to_string()),
            or_dash(&judged.asn),
            judged.verdict.outcome.to_string(),
            judged.verdict.mechanism.map_or_else(dash, |mechanism| mechanism.to_string()),
            judged.verdict.rule.clone(),
            judged.ooni.clone(),
        ]
    });
    let mut text = draw(["input", "country", "ASN", "outcome", "mechanism", "rule", "OONI says"], rows);
    for judged in judgements {
        text += &format!("\n{} at {}\n", judged.input, judged.measured_at);
        for fact in &judged.verdict.basis {
            text += &format!("  - {fact}\n");
        }
        for what in &judged.missing {
            text += &format!("  ? {what}\n");
        }
    }
    text
}
