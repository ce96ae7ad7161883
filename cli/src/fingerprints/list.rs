//! The format of the public lists (ooni/blocking-fingerprints): CSV with named columns, in any order.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use csv::StringRecord;
use zerkalo_core::fingerprint::{RowError, RowText};
use zerkalo_core::words::Country;

/// The confidence of a row that states none: what the list's authors give where nobody looked closer.
const CONFIDENCE_UNSTATED: u8 = 5;

/// One row of a list, or why it is none.
pub struct Entry {
    /// Where it begins, from 1.
    pub line: u64,
    pub row: Result<RowText, RowError>,
}

/// Every row of a list. Fails where the columns are not the format's; a row that is none is an entry.
pub fn rows(text: &[u8], path: &Path) -> Result<Vec<Entry>> {
    // Rows may lack the last columns; what is missing reads as empty.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let headings =
        reader.headers().with_context(|| format!("{} line 1 is no heading", path.display()))?.clone();
    let columns = Columns::find(&headings).with_context(|| format!("{} line 1", path.display()))?;
    let mut entries = Vec::new();
    let mut record = csv::ByteRecord::new();
    loop {
        let line = reader.position().line();
        let more = reader
            .read_byte_record(&mut record)
            .with_context(|| format!("{} line {line} cannot be read", path.display()))?;
        if !more {
            return Ok(entries);
        }
        let line = record.position().map_or(line, csv::Position::line);
        // Some lists carry cut characters; a pattern that lost some is refused as a row.
        entries.push(Entry { line, row: columns.row(&StringRecord::from_byte_record_lossy(record.clone())) });
    }
}

/// Where each column stands.
struct Columns {
    name: usize,
    scope: usize,
    location: usize,
    pattern_type: usize,
    pattern: usize,
    confidence: usize,
    countries: usize,
    source: Option<usize>,
}

impl Columns {
    fn find(headings: &StringRecord) -> Result<Self> {
        let place = |wanted: &str| headings.iter().position(|heading| heading.trim() == wanted);
        let need = |wanted: &str| {
            place(wanted).ok_or_else(|| {
                let found: Vec<_> = headings.iter().collect();
                anyhow!("the column `{wanted}` is missing; found: {}", found.join(", "))
            })
        };
        Ok(Self {
            name: need("name")?,
            scope: need("scope")?,
            location: need("location_found")?,
            pattern_type: need("pattern_type")?,
            pattern: need("pattern")?,
            confidence: need("confidence_no_fp")?,
            countries: need("expected_countries")?,
            source: place("source"),
        })
    }

    fn row(&self, record: &StringRecord) -> Result<RowText, RowError> {
        let text = |column: usize| record.get(column).unwrap_or_default();
        Ok(RowText {
            name: text(self.name).trim().to_owned(),
            scope: text(self.scope).trim().to_owned(),
            location: text(self.location).trim().to_owned(),
            pattern_type: text(self.pattern_type).trim().to_owned(),
            // Blanks may be part of a pattern.
            pattern: text(self.pattern).to_owned(),
            confidence: confidence(text(self.confidence).trim())?,
            countries: countries(text(self.countries))?,
            anywhere: false,
            source: self.source.map_or_else(String::new, |column| text(column).trim().to_owned()),
        })
    }
}

fn confidence(text: &str) -> Result<u8, RowError> {
    if text.is_empty() {
        return Ok(CONFIDENCE_UNSTATED);
    }
    text.parse().map_err(|_| RowError::Confidence(text.to_owned()))
}

/// `ZZ` stands for "nobody knows" and is dropped; anything else must be a country.
fn countries(text: &str) -> Result<Vec<Country>, RowError> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty() && *word != "ZZ")
        .map(|word| Country::parse(word).map_err(|_| RowError::Country(word.to_owned())))
        .collect()
}
