//! `zerkalo judge`: the verdict of two records in files, offline.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::judge::{Case, judge};
use zerkalo_core::record::ProbeRecord;
use zerkalo_core::target::{Mirror, Sha256};
use zerkalo_core::verdict::Verdict;
use zerkalo_core::words::Country;
use zerkalo_proto::record;

use crate::table::{Format, draw, print, print_json};

/// Largest record read, as JSON: far beyond what a collector admits.
const RECORD_LEN_MAX: u64 = 4 * 1024 * 1024;

/// The records to judge, as `zerkalo-agent probe --json` prints them.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// The record measured in the carrier's network.
    #[arg(long, value_name = "FILE")]
    probe: PathBuf,
    /// The record measured outside any censored network; without it there is seldom enough evidence.
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
    /// What identifies the mirror (id, url, markets, canary, key_pins, expected_addresses), as TOML.
    #[arg(long, value_name = "FILE")]
    mirror: Option<PathBuf>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Judges and prints.
pub fn judge_files(args: &JudgeArgs) -> Result<()> {
    let probe = read_record(&args.probe)?;
    let control = args.control.as_deref().map(read_record).transpose()?;
    let mirror = args.mirror.as_deref().map(read_mirror).transpose()?;
    if let Some(control) = control.as_ref().filter(|control| control.url != probe.url) {
        bail!(
            "{} measured {}, but the control measured {}; judge records of one URL",
            args.probe.display(),
            probe.url,
            control.url
        );
    }
    if let Some(mirror) = mirror.as_ref().filter(|mirror| mirror.url != probe.url) {
        bail!(
            "{} measured {}, but the mirror described is {}; judge a record by its own mirror",
            args.probe.display(),
            probe.url,
            mirror.url
        );
    }
    let fingerprints = Fingerprints::built_in();
    // Files carry no signature: the digest of the facts stands for the record's hash.
    let digest = control.as_ref().map(|control| Sha256::of(&record::encode(control)));
    let case = Case {
        record: &probe,
        control: digest.zip(control.as_ref()),
        others: &[],
        mirror: mirror.as_ref(),
        fingerprints: &fingerprints,
        country: mirror.as_ref().and_then(country_of),
        home: None,
    };
    let verdict = judge(&case);
    match args.format {
        Format::Json => print_json(&verdict)?,
        Format::Table => print(&draw_verdict(&verdict))?,
    }
    Ok(())
}

/// Where a mirror of one market was measured; a mirror of several tells nothing.
fn country_of(mirror: &Mirror) -> Option<Country> {
    match mirror.markets.as_slice() {
        [market] => Country::of_market(market),
        _ => None,
    }
}

fn read_record(path: &Path) -> Result<ProbeRecord> {
    let text = read_bounded(path)?;
    record::from_json(&text).with_context(|| {
        format!("{} is no record; `zerkalo-agent probe URL --json > FILE` makes one", path.display())
    })
}

fn read_mirror(path: &Path) -> Result<Mirror> {
    let text = read_bounded(path)?;
    toml::from_str(&text).with_context(|| format!("{} does not describe a mirror", path.display()))
}

fn read_bounded(path: &Path) -> Result<String> {
    let place = || format!("cannot read {}", path.display());
    let len = std::fs::metadata(path).with_context(place)?.len();
    if len > RECORD_LEN_MAX {
        bail!("{} has {len} bytes; the limit is {RECORD_LEN_MAX}", path.display());
    }
    std::fs::read_to_string(path).with_context(place)
}

fn draw_verdict(verdict: &Verdict) -> String {
    let dash = "-".to_owned();
    let mut text = draw(
        ["outcome", "mechanism", "trigger", "rule", "rules version"],
        [[
            verdict.outcome.to_string(),
            verdict.mechanism.map_or(dash.clone(), |mechanism| mechanism.to_string()),
            verdict.trigger.map_or(dash, |trigger| trigger.to_string()),
            verdict.rule.clone(),
            verdict.rules_version.clone(),
        ]],
    );
    for fact in &verdict.basis {
        text += &format!("  - {fact}\n");
    }
    text
}
