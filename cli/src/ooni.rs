//! `zerkalo import ooni`: judges OONI's Web Connectivity measurements by our rules, and says what they do not carry.
//!
//! A file holds one JSON object, or one a line, plain or gzipped. A measurement that cannot be read is named with its
//! line; the others are judged.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use flate2::read::MultiGzDecoder;
use zerkalo_core::fingerprint::Fingerprints;
use zerkalo_core::ooni::{Judgement, Measurement, import, judge_import};

use crate::certificate::read_certificate;
use crate::fingerprints::read_fingerprints;
use crate::table::{Format, draw, or_dash, print, print_json};

/// Largest measurement read, in bytes: pages of ten hops at the largest that OONI's probes keep (512 KiB), in base64.
const MEASUREMENT_LEN_MAX: u64 = 16 * 1024 * 1024;
/// Most measurements of one call: all are held until they are printed.
const MEASUREMENTS_MAX: usize = 100_000;
/// First bytes of a gzip file (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

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

/// Hands on each measurement of a file, with the line it begins on.
fn for_each_measurement(path: &Path, mut take: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let place = || format!("cannot read {}", path.display());
    let mut lines = Lines { reader: open(path)?, number: 0 };
    let Some(first) = lines.next_text().with_context(place)? else {
        bail!("{} is empty", path.display());
    };
    let begins_at = lines.number;
    if serde_json::from_str::<serde::de::IgnoredAny>(&first).is_ok() {
        take(begins_at, &first)?;
        while let Some(line) = lines.next_text().with_context(place)? {
            take(lines.number, &line)?;
        }
        return Ok(());
    }
    // No whole value on the first line: one object over many, or nothing of ours.
    let mut whole = first;
    while let Some(line) = lines.next_text().with_context(place)? {
        if whole.len() as u64 + line.len() as u64 > MEASUREMENT_LEN_MAX {
            return Err(too_long(begins_at)).with_context(place);
        }
        whole += &line;
    }
    take(begins_at, &whole)
}

fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let place = || format!("cannot read {}", path.display());
    let mut raw: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path).with_context(place)?))
    };
    let is_gzip = raw.fill_buf().with_context(place)?.starts_with(&GZIP_MAGIC);
    Ok(if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(raw))) } else { raw })
}

/// Lines of bounded length; a small file that unpacks without end fills no memory.
struct Lines {
    reader: Box<dyn BufRead>,
    /// Of the last line read, from 1.
    number: u64,
}

impl Lines {
    /// The next line that is not blank.
    fn next_text(&mut self) -> Result<Option<String>> {
        loop {
            let mut bytes = Vec::new();
            self.number += 1;
            self.reader
                .by_ref()
                .take(MEASUREMENT_LEN_MAX + 1)
                .read_until(b'\n', &mut bytes)
                .with_context(|| format!("line {}", self.number))?;
            if bytes.is_empty() {
                return Ok(None);
            }
            if bytes.len() as u64 > MEASUREMENT_LEN_MAX {
                return Err(too_long(self.number));
            }
            if !bytes.trim_ascii().is_empty() {
                let text = String::from_utf8(bytes);
                return text.map(Some).with_context(|| format!("line {} is not UTF-8", self.number));
            }
        }
    }
}

fn too_long(line: u64) -> anyhow::Error {
    anyhow!("the measurement at line {line} has more than {MEASUREMENT_LEN_MAX} bytes")
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
