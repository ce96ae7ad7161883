//! `zerkalo fingerprints`: rows of the public lists into the collector's fingerprint file, and which row matches what.
//!
//! Knows the lists' file format; what a match weighs is the core's.

mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;
use zerkalo_core::fingerprint::{BUILT_IN, Fingerprints, Match, ROWS_MAX, Row, RowText, Sighting, Weight};
use zerkalo_core::target::TargetUrl;
use zerkalo_core::words::Country;

use crate::table::{Format, draw, print, print_json};

/// Largest list, fingerprint file or page read, in bytes: ten times the public lists.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// What blocking looks like.
#[derive(Debug, Subcommand)]
pub enum FingerprintsCommand {
    /// Take rows of a public list (the CSV of ooni/blocking-fingerprints) over into a fingerprint file.
    Import(ImportArgs),
    /// Say which rows match, and why.
    Test(TestArgs),
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Lists, as CSV with the columns of the public ones.
    #[arg(required = true, value_name = "FILE.csv")]
    lists: Vec<PathBuf>,
    /// Rows about DNS answers only.
    #[arg(long, conflicts_with = "http")]
    dns: bool,
    /// Rows about pages and headers only.
    #[arg(long)]
    http: bool,
    /// Rows expected in these countries only, with those that name none (they raise suspicion or suppress).
    #[arg(long, value_name = "KZ,RU", value_delimiter = ',')]
    country: Vec<Country>,
    /// Let rows of scope nat, isp and prod that name no country confirm anywhere. Has confirmed falsely before.
    #[arg(long)]
    confirm_without_country: bool,
    /// The fingerprint file to add to [default: the built-in fingerprints].
    #[arg(long, value_name = "FILE.toml")]
    base: Option<PathBuf>,
    /// The file for `[data] fingerprints` of collector.toml.
    #[arg(long, value_name = "FILE.toml")]
    out: PathBuf,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("sighting").required(true).multiple(true)))]
pub struct TestArgs {
    /// The fingerprint file [default: the built-in fingerprints].
    #[arg(long, value_name = "FILE.toml")]
    fingerprints: Option<PathBuf>,
    /// A URL a visit led to.
    #[arg(long, group = "sighting", value_name = "URL")]
    url: Vec<String>,
    /// A page; `-` reads standard input.
    #[arg(long, group = "sighting", value_name = "FILE")]
    body: Vec<PathBuf>,
    /// An address in a DNS answer.
    #[arg(long, group = "sighting", value_name = "IP")]
    address: Vec<IpAddr>,
    /// A header of an answer.
    #[arg(long, group = "sighting", value_name = "NAME:VALUE")]
    header: Vec<String>,
    /// Where the probe stands; without it no row of a list confirms.
    #[arg(long, value_name = "KZ")]
    country: Option<Country>,
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Runs offline.
pub fn fingerprints(command: &FingerprintsCommand) -> Result<()> {
    match command {
        FingerprintsCommand::Import(args) => import(args),
        FingerprintsCommand::Test(args) => test(args),
    }
}

/// The fingerprints of a file, or the built-in ones.
pub fn read_fingerprints(path: Option<&Path>) -> Result<Fingerprints> {
    let Some(path) = path else { return Ok(Fingerprints::built_in()) };
    let text = read_text(path)?;
    Fingerprints::parse(&text).with_context(|| format!("{} cannot be used", path.display()))
}

#[derive(Debug, Default)]
struct Tally {
    read: usize,
    taken: usize,
    passed_over: usize,
    bad: usize,
}

fn import(args: &ImportArgs) -> Result<()> {
    let (mut base, mut rows) = read_base(args.base.as_deref())?;
    let mut fresh = Vec::new();
    let mut report = String::new();
    for path in &args.lists {
        let tally = import_list(path, args, &mut fresh)?;
        report += &format!(
            "{}: {} rows read, {} taken, {} passed over by --dns, --http or --country, {} bad ones skipped\n",
            path.display(),
            tally.read,
            tally.taken,
            tally.passed_over,
            tally.bad
        );
    }
    // A list imported again replaces its rows; names that stand twice in one list are two rows.
    let names: BTreeSet<&str> = fresh.iter().map(Row::name).collect();
    rows.retain(|row| !names.contains(row.name()));
    rows.extend(fresh);
    if rows.len() > ROWS_MAX {
        bail!("{} rows; the limit is {ROWS_MAX}: import fewer countries with --country", rows.len());
    }
    report += &format!("{} holds {} imported rows: {}\n", args.out.display(), rows.len(), weights(&rows));
    base.insert("imported".to_owned(), toml::Value::try_from(rows)?);
    let text = format!(
        "# Made by `zerkalo fingerprints import`; name it in collector.toml: [data] fingerprints = \"...\"\n{}",
        toml::to_string(&base)?
    );
    // What the collector would refuse is not written.
    Fingerprints::parse(&text).context("the rows do not make a fingerprint file")?;
    std::fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))?;
    print(&report)?;
    Ok(())
}

fn read_base(path: Option<&Path>) -> Result<(toml::Table, Vec<Row>)> {
    let text = path.map_or_else(|| Ok(BUILT_IN.to_owned()), read_text)?;
    let place = || match path {
        Some(path) => format!("{} is no fingerprint file", path.display()),
        None => "the built-in fingerprints".to_owned(),
    };
    let set = Fingerprints::parse(&text).with_context(place)?;
    let table = text.parse().with_context(place)?;
    Ok((table, set.imported().to_vec()))
}

fn import_list(path: &Path, args: &ImportArgs, rows: &mut Vec<Row>) -> Result<Tally> {
    let text = read_bytes(path)?;
    let mut tally = Tally::default();
    for entry in list::rows(&text, path)? {
        tally.read += 1;
        let row = entry.row.map(|text| RowText {
            anywhere: args.confirm_without_country && text.countries.is_empty(),
            ..text
        });
        match row.and_then(Row::new) {
            Err(error) => {
                tally.bad += 1;
                eprintln!("note: {} line {}: {error}; row skipped", path.display(), entry.line);
            }
            Ok(row) if is_wanted(&row, args) => {
                tally.taken += 1;
                rows.push(row);
            }
            Ok(_) => tally.passed_over += 1,
        }
    }
    Ok(tally)
}

fn is_wanted(row: &Row, args: &ImportArgs) -> bool {
    let place = if row.is_dns() { !args.http } else { !args.dns };
    let countries = row.countries();
    let country = args.country.is_empty()
        || countries.is_empty()
        || countries.iter().any(|country| args.country.contains(country));
    place && country
}

/// How many rows may do what, each in its own countries.
fn weights(rows: &[Row]) -> String {
    let mut counts: BTreeMap<Weight, usize> = BTreeMap::new();
    for row in rows {
        let (weight, _) = row.weight(row.countries().first().copied());
        *counts.entry(weight).or_default() += 1;
    }
    let count = |weight| counts.get(&weight).copied().unwrap_or_default();
    format!(
        "{} confirm in the countries they name, {} raise suspicion only, {} suppress",
        count(Weight::Confirms),
        count(Weight::Suspicion),
        count(Weight::Suppressed)
    )
}

#[derive(Debug, Serialize)]
struct Finding {
    sighting: String,
    weight: &'static str,
    row: String,
    what: String,
    reason: &'static str,
}

fn test(args: &TestArgs) -> Result<()> {
    let set = read_fingerprints(args.fingerprints.as_deref())?;
    let mut findings = Vec::new();
    let mut weigh = |sighting: String, seen: Sighting<'_>| {
        findings.extend(set.matches(seen, args.country).into_iter().map(|found| finding(&sighting, found)));
    };
    for text in &args.url {
        let url = TargetUrl::parse(text)?;
        weigh(format!("url {text}"), Sighting::Url(&url));
    }
    for path in &args.body {
        let page = String::from_utf8_lossy(&read_bytes(path)?).into_owned();
        weigh(format!("body {}", path.display()), Sighting::Body(&page));
    }
    for address in &args.address {
        weigh(format!("address {address}"), Sighting::Address(*address));
    }
    for header in &args.header {
        let Some((name, value)) = header.split_once(':') else {
            bail!("{header:?} is no header; write NAME:VALUE, such as \"Location: http://stub.example/\"");
        };
        let (name, value) = (name.trim(), value.trim());
        weigh(format!("header {name}"), Sighting::Header { name, value });
    }
    match args.format {
        Format::Json => print_json(&findings)?,
        Format::Table if findings.is_empty() => print("no row matches\n")?,
        Format::Table => print(&draw_findings(findings))?,
    }
    Ok(())
}

fn finding(sighting: &str, found: Match) -> Finding {
    let weight = match found.weight {
        Weight::Suppressed => "suppressed",
        Weight::Confirms => "confirms",
        Weight::Suspicion => "suspicion",
    };
    Finding { sighting: sighting.to_owned(), weight, row: found.row, what: found.what, reason: found.reason }
}

fn draw_findings(findings: Vec<Finding>) -> String {
    let cells = |found: Finding| {
        [found.sighting, found.weight.to_owned(), found.row, found.what, found.reason.to_owned()]
    };
    draw(["sighting", "weight", "row", "what", "why"], findings.into_iter().map(cells))
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_bytes(path)?).with_context(|| format!("{} is no text in UTF-8", path.display()))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let place = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).with_context(place)?;
    } else {
        let file = std::fs::File::open(path).with_context(place)?;
        file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).with_context(place)?;
    }
    if bytes.len() as u64 > FILE_LEN_MAX {
        bail!("{} has more than {FILE_LEN_MAX} bytes", path.display());
    }
    Ok(bytes)
}
